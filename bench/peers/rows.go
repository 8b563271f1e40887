//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/bench/internal/result"
)

// measurement is one run of the load client.
type measurement struct {
	name    string
	proxied bool // plain proxying, which floor has its origin do
	grip    bool // only GRIP systems
	ws      bool // WebSockets
	streams bool // held HTTP connections
	only    string
	flags   []string
	small   []string // instead, with -quick
	format  string   // of publishes
	path    string
	zmq     bool
	// connmgrs is how many of Holdfast there are; 0 means one.
	connmgrs int
	// webhooks is how many endpoints there are, one for each channel.
	webhooks int
	// idle says that nothing is published.
	idle bool
	// manyChannels says that many small publishes are measured, not a wide one.
	manyChannels bool
}

// measurements in the order in which they are made.
func measurements() []measurement {
	return []measurement{
		{
			name: "fanout", streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "fanout", "-n", "10000", "-memory", "1000,2500,5000,7500", "-count", "20", "-burst", "50", "-deadline", "90s"},
			small: []string{"-n", "1000", "-memory", "500", "-count", "6"},
		},
		{
			name: "herd", streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "herd", "-n", "10000", "-deadline", "30s"},
			small: []string{"-n", "1000", "-deadline", "10s"},
		},
		{
			name: "herd2000", only: "pushpin", streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "herd", "-n", "2000", "-deadline", "30s"},
			small: []string{"-n", "200", "-deadline", "10s"},
		},
		{
			name: "websocket", ws: true, format: "ws-message", path: "/ws?channel={c}",
			flags: []string{"-scenario", "fanout", "-ws", "-n", "5000", "-count", "20", "-burst", "50", "-deadline", "90s"},
			small: []string{"-n", "500", "-count", "6"},
		},
		{
			name: "channels", manyChannels: true, streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "channels", "-n", "5000", "-channels", "5000", "-publishers", "8", "-deadline", "90s"},
			small: []string{"-n", "500", "-channels", "500", "-duration", "2s"},
		},
		{name: "proxy50", proxied: true, path: "/small", flags: []string{"-scenario", "proxy", "-n", "50"}},
		{name: "proxy1", proxied: true, path: "/small", flags: []string{"-scenario", "proxy", "-n", "1"}},
		// From here on rows without a goal, which come last if time is short.
		{
			name: "fanout-1k", streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "fanout", "-n", "10000", "-size", "1024", "-count", "8", "-burst", "20", "-settle", "1s", "-deadline", "90s"},
			small: []string{"-n", "1000", "-count", "4"},
		},
		{
			name: "fanout-16k", streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "fanout", "-n", "10000", "-size", "16384", "-count", "8", "-burst", "20", "-settle", "1s", "-deadline", "90s"},
			small: []string{"-n", "1000", "-count", "4"},
		},
		{
			name: "channels-zmq", manyChannels: true, grip: true, format: "http-stream", path: "/stream?channel={c}", zmq: true,
			flags: []string{"-scenario", "channels", "-n", "5000", "-channels", "5000", "-publishers", "8", "-deadline", "90s"},
			small: []string{"-n", "500", "-channels", "500", "-duration", "2s"},
		},
		{
			name: "channels10", manyChannels: true, streams: true, format: "http-stream", path: "/stream?channel={c}",
			flags: []string{"-scenario", "channels", "-n", "10000", "-channels", "1000", "-publishers", "8", "-deadline", "90s"},
			small: []string{"-n", "1000", "-channels", "100", "-duration", "2s"},
		},
		{
			name: "fanout-zmq", grip: true, format: "http-stream", path: "/stream?channel={c}", zmq: true,
			flags: []string{"-scenario", "fanout", "-n", "10000", "-count", "10", "-burst", "50", "-deadline", "90s"},
			small: []string{"-n", "1000", "-count", "6"},
		},
		{
			name: "polls", streams: true, format: "http-response", path: "/poll?channel={c}",
			flags: []string{"-scenario", "polls", "-n", "2000", "-window", "50", "-count", "5", "-settle", "5s"},
			small: []string{"-n", "300", "-count", "3", "-settle", "2s"},
		},
		{name: "proxy-big50", proxied: true, path: "/big", flags: []string{"-scenario", "proxy", "-n", "50"}},
		{name: "proxy-big1", proxied: true, path: "/big", flags: []string{"-scenario", "proxy", "-n", "1"}},
		{name: "echo", proxied: true, path: "/echo", flags: []string{"-scenario", "echo", "-n", "50"}},
		{name: "echo-http", proxied: true, grip: true, path: "/ws", flags: []string{"-scenario", "echo", "-n", "50"}},
		{
			name: "webhooks", only: "holdfast", webhooks: 100, format: "http-stream",
			flags: []string{"-scenario", "hooks", "-channels", "100", "-publishers", "32", "-rate", "100", "-count", "400"},
			small: []string{"-publishers", "4", "-count", "50", "-duration", "1s"},
		},
	}
}

// fits tells whether a system can do this.
func (m measurement) fits(s system) bool {
	switch {
	case m.only != "" && m.only != s.name, m.grip && !s.grip, m.ws && !s.ws, m.proxied && !s.proxy:
		return false
	case s.name == "floor":
		return m.proxied || m.only == "floor" || strings.HasPrefix(m.name, "fanout") || m.name == "herd"
	}
	return true
}

// args are the flags of the load client, but those that all have.
func (m measurement) args(s system, in *instance, quick bool) []string {
	args := slices.Clone(m.flags)
	if m.path != "" {
		args = append(args, "-path", m.path)
	}
	if quick {
		args = append(args, m.small...)
	}
	if m.proxied || m.idle {
		return args
	}
	format := m.format
	if in.raw {
		format = "raw"
	}
	args = append(args, "-format", format, "-publish", in.publish.String(), "-publish-path", in.publishPath)
	if in.readyHead {
		args = append(args, "-ready-head")
	}
	if in.receive.IsValid() {
		args = append(args, "-receive", in.receive.String())
	}
	if m.zmq && in.zmq.IsValid() {
		args = append(args, "-zmq", in.zmq.String())
	}
	return args
}

// brief is one line about a record, for whoever waits.
func brief(r *record) string {
	if r.Error != "" {
		return "error: " + r.Error
	}
	var b strings.Builder
	if s := r.Setup; s != nil {
		fmt.Fprintf(&b, "%d of %d held in %.1f s; ", s.Ready, s.Asked, s.Seconds)
		if s.Failed+s.Dropped > 0 {
			fmt.Fprintf(&b, "%d failed, %d dropped, the first: %s; ", s.Failed, s.Dropped, s.Why)
		}
	}
	if k := perConnection(r.Load); k > 0 {
		fmt.Fprintf(&b, "%.1f KiB each; ", k)
	}
	delivery := func(name string, d *result.Delivery) {
		if d != nil {
			fmt.Fprintf(&b, "%s: %d of %d, p50 %.2f p99 %.2f ms, %.0f/s, %.0f publishes/s, %.1f µs; ", name, d.Delivered, d.Expected, d.Latency.P50, d.Latency.P99, d.PerSecond, d.PublishesPerSecond, d.CPUPerDelivery)
		}
	}
	delivery("paced", r.Paced)
	delivery("burst", r.Burst)
	if s := r.Stuck; s != nil {
		fmt.Fprintf(&b, "without: %s; with: %s; ", strings.Join(stuckCells(s.Without), ", "), strings.Join(stuckCells(s.With), ", "))
		fmt.Fprintf(&b, "%d caught up, %d missed; ", s.CaughtUp, s.Missed)
		delivery("while cut off", s.Cutting)
		fmt.Fprintf(&b, "%d of %d cut off; ", s.CutOff, s.Connections)
	}
	if q := r.Requests; q != nil {
		fmt.Fprintf(&b, "%.0f/s, p50 %.3f p99 %.3f ms, %.0f MB/s, %.0f µs, %d failed; ", q.PerSecond, q.Latency.P50, q.Latency.P99, q.MBPerSecond, q.CPUPerRequest, q.Failed)
	}
	fmt.Fprintf(&b, "client %.1f s, others %.2f processors", r.ClientCPU, r.Foreign)
	return b.String()
}

// perConnection is the memory of one held connection in KiB: what the processes
// grew by, over the number of connections.
func perConnection(l *result.Load) float64 {
	if l == nil || len(l.Memory) < 2 {
		return 0
	}
	first, last := l.Memory[0], l.Memory[len(l.Memory)-1]
	if last.Connections <= first.Connections {
		return 0
	}
	return float64(last.Bytes-first.Bytes) / 1024 / float64(last.Connections-first.Connections)
}
