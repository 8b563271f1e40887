package connmgr

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/test/poll"
)

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"defaults", func(*Options) {}, ""},
		{"no bus", func(o *Options) { o.Bus = nil }, "Bus is not set"},
		{"network", func(o *Options) { o.Listen = []Listen{{Network: "udp", Addr: "x"}} }, `network "udp" is neither tcp nor unix`},
		{"no certificates", func(o *Options) { o.Listen = []Listen{{Network: "tcp", Addr: "x", TLS: true}} }, "TLS needs CertDir"},
		{"no writers", func(o *Options) { o.Writers = 0 }, "Writers is 0, not within 1 to 256"},
		{"no idle timeout", func(o *Options) { o.IdleTimeout = 0 }, "IdleTimeout is 0s, not above zero"},
		{"two faults", func(o *Options) { o.DrainTime, o.Policy = -1, 9 }, "DrainTime is -1ns, below zero\nPolicy is 9, unknown"},
		{"address in use", func(o *Options) { o.Listen = []Listen{{Network: "tcp", Addr: "nowhere.invalid:1"}} }, "listen on nowhere.invalid:1"},
		{"not a socket", func(o *Options) { o.Listen = []Listen{{Network: "unix", Addr: "options.go"}} }, "options.go exists and is not a socket"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := DefaultOptions()
			o.Bus = bustest.NewNetwork().Node("connmgr.0")
			tc.change(&o)
			s, err := New(o)
			if err == nil {
				_ = s.Close()
			}
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestMetricsRegister(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	r := newRig(t, func(o *Options) { o.Registerer = reg })
	r.far("proxy.0", echo)
	c := r.dial()
	c.get("/")
	c.expect(echoed("GET / "))
	poll.Until(t, "what was sent is counted", func() bool { return r.s.metrics.bytesOut.n.Load() > 0 })
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"holdfast_connmgr_requests_total":       1,
		"holdfast_connmgr_connections":          1,
		"holdfast_connmgr_received_bytes_total": float64(len("GET / HTTP/1.1\r\nHost: h\r\n\r\n")),
		"holdfast_connmgr_sent_bytes_total":     float64(len(echoed("GET / "))),
		"holdfast_connmgr_drops_total":          0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
}
