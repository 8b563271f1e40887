package metrics

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// pushpinNames are the metrics of Pushpin, in the order in which it shows them.
var pushpinNames = []string{
	"request_received", "connection_connected", "connection_minute", "message_received", "message_sent",
}

// Pushpin serves the metrics that Pushpin has, in the form that Pushpin gives
// them: any path and any method, no labels, always the same order.
type Pushpin struct {
	ln  net.Listener
	srv *http.Server
}

// NewPushpin opens a listener on PORT (all addresses), ADDR:PORT or ipc://PATH.
// It shows what g has under the names of Pushpin, with prefix before them.
func NewPushpin(spec, prefix string, g prometheus.Gatherer, log *slog.Logger) (*Pushpin, error) {
	ln, err := Listen(spec, "")
	if err != nil {
		return nil, fmt.Errorf("unable to bind to prometheus port: %s: %w", spec, err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text, err := pushpinText(prefix, g)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(text) // the caller may have gone
	})
	return &Pushpin{ln: ln, srv: newServer(handler, log)}, nil
}

// Addr returns where the listener is.
func (p *Pushpin) Addr() net.Addr { return p.ln.Addr() }

// Run serves until ctx ends.
func (p *Pushpin) Run(ctx context.Context) error { return serve(ctx, p.srv, p.ln) }

// Close closes a listener that Run was not called for.
func (p *Pushpin) Close() error { return p.ln.Close() }

func pushpinText(prefix string, g prometheus.Gatherer) ([]byte, error) {
	families, err := g.Gather()
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*dto.MetricFamily, len(families))
	for _, f := range families {
		byName[f.GetName()] = f
	}
	var b bytes.Buffer
	for _, name := range pushpinNames {
		f := byName[prefix+name]
		if f == nil || len(f.GetMetric()) != 1 {
			continue
		}
		kind, value := "counter", f.GetMetric()[0].GetCounter().GetValue()
		if f.GetType() == dto.MetricType_GAUGE {
			kind, value = "gauge", f.GetMetric()[0].GetGauge().GetValue()
		}
		fmt.Fprintf(&b, "# HELP %s%s %s\n# TYPE %s%s %s\n%s%s %s\n", prefix, name, f.GetHelp(), prefix, name, kind,
			prefix, name, strconv.FormatFloat(value, 'f', -1, 64))
	}
	return b.Bytes(), nil
}
