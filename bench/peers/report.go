//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/bench/internal/hist"
	"github.com/holdfast/holdfast/bench/internal/result"
)

// line is one row of a table: its name, how a cell is written, and what
// Holdfast is meant to reach.
type line struct {
	name string
	cell func(c cell) string
	goal string
}

// cell finds figures of one system.
type cell struct {
	f      *file
	system string
}

// median is the median of a figure over all runs of a row; ok is false if there
// is none.
func (c cell) median(row string, figure func(*result.Load) float64) (float64, bool) {
	var all []float64
	for _, r := range c.f.Runs {
		if r.System == c.system && r.Row == row && r.Load != nil {
			all = append(all, figure(r.Load))
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return median(all), true
}

// median is that of at least one figure, which it sorts.
func median(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// get is median, 0 if there is none.
func (c cell) get(row string, figure func(*result.Load) float64) float64 {
	v, _ := c.median(row, figure)
	return v
}

// has tells whether a row was measured; failure is the error if it never worked.
func (c cell) has(row string) (ok bool, failure string) {
	for _, r := range c.f.Runs {
		if r.System == c.system && r.Row == row {
			if r.Load != nil {
				return true, ""
			}
			failure = "failed"
		}
	}
	return false, failure
}

// about writes a figure with as many digits as mean something.
func about(v float64) string {
	switch {
	case v >= 10000:
		return thousands(int(v/1000+0.5) * 1000)
	case v >= 1000:
		return thousands(int(v/100+0.5) * 100)
	case v >= 20:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func pair(a, b float64) string { return about(a) + " / " + about(b) + " ms" }

func pacedP50(l *result.Load) float64  { return l.Paced.Latency.P50 }
func pacedP99(l *result.Load) float64  { return l.Paced.Latency.P99 }
func pacedCPU(l *result.Load) float64  { return l.Paced.CPUPerDelivery }
func burstRate(l *result.Load) float64 { return l.Burst.PerSecond }
func burstP99(l *result.Load) float64  { return l.Burst.Latency.P99 }
func burstCPU(l *result.Load) float64  { return l.Burst.CPUPerDelivery }
func publishes(l *result.Load) float64 { return l.Burst.PublishesPerSecond }
func lostShare(l *result.Load) float64 {
	return 100 * (1 - float64(l.Burst.Delivered)/float64(max(l.Burst.Expected, 1)))
}

func readyShare(l *result.Load) float64 {
	return 100 * float64(l.Setup.Ready) / float64(l.Setup.Asked)
}
func setupSeconds(l *result.Load) float64 { return l.Setup.Seconds }
func setupRate(l *result.Load) float64    { return l.Setup.PerSecond }
func requestRate(l *result.Load) float64  { return l.Requests.PerSecond }
func requestP50(l *result.Load) float64   { return l.Requests.Latency.P50 }
func requestP99(l *result.Load) float64   { return l.Requests.Latency.P99 }
func requestCPU(l *result.Load) float64   { return l.Requests.CPUPerRequest }
func megabytes(l *result.Load) float64    { return l.Requests.MBPerSecond }

// arrived says how much of a burst did not arrive, if any.
func (c cell) arrived(row string) string {
	if v := c.get(row, lostShare); v > 0.005 {
		return fmt.Sprintf(" (%.2f %% lost)", v)
	}
	return ""
}

// on writes a cell if its row was measured.
func on(row string, f func(cell) string) func(cell) string {
	return func(c cell) string {
		ok, failure := c.has(row)
		if !ok {
			return failure
		}
		return f(c)
	}
}

var mainLines = []line{
	{"delivery p50 / p99", on("fanout", func(c cell) string { return pair(c.get("fanout", pacedP50), c.get("fanout", pacedP99)) }), "≤ 37 / ≤ 80 ms"},
	{"server CPU per delivery", on("fanout", func(c cell) string { return about(c.get("fanout", pacedCPU)) + " µs" }), "≤ 8 µs"},
	{"back to back, deliveries a second", on("fanout", func(c cell) string { return about(c.get("fanout", burstRate)) + c.arrived("fanout") }), "≥ 170,000"},
	{"memory per held connection", on("fanout", func(c cell) string { return about(c.get("fanout", perConnection)) + " KiB" }), "≤ 6 KiB"},
	{"holds set up, 100 at a time", on("fanout", func(c cell) string { return about(c.get("fanout", setupRate)) + " /s" }), "≥ 3,000 /s"},
	{"10,000 at once", on("herd", func(c cell) string { return herd(c, "herd") }), "all held"},
	{"5,000 WebSockets: p50 / p99, CPU, memory, burst", on("websocket", func(c cell) string {
		return pair(c.get("websocket", pacedP50), c.get("websocket", pacedP99)) + ", " + about(c.get("websocket", pacedCPU)) + " µs, " +
			about(c.get("websocket", perConnection)) + " KiB; " + about(c.get("websocket", burstRate)) + " /s" + c.arrived("websocket")
	}), "≤ 20 / ≤ 50 ms, ≤ 8 µs, ≤ 10 KiB; whole"},
	{"5,000 channels, one listener each: HTTP publishes a second, p99", on("channels", func(c cell) string {
		return about(c.get("channels", publishes)) + ", " + about(c.get("channels", burstP99)) + " ms" + c.arrived("channels")
	}), "≥ 8,000, ≤ 2 ms"},
	{"plain proxying, 50 connections", on("proxy50", func(c cell) string {
		return about(c.get("proxy50", requestRate)) + " req/s, p50 " + about(c.get("proxy50", requestP50)) + " ms"
	}), "≥ 14,000 req/s"},
	{"plain proxying, 1 connection, p50", on("proxy1", func(c cell) string { return fmt.Sprintf("%.2f ms", c.get("proxy1", requestP50)) }), "≤ 0.32 ms"},
}

var moreLines = []line{
	{"2,000 at once", on("herd2000", func(c cell) string { return herd(c, "herd2000") }), ""},
	{"fan-out, published over ZeroMQ: p50 / p99, CPU, back to back", on("fanout-zmq", func(c cell) string {
		return pair(c.get("fanout-zmq", pacedP50), c.get("fanout-zmq", pacedP99)) + ", " + about(c.get("fanout-zmq", pacedCPU)) + " µs; " + about(c.get("fanout-zmq", burstRate)) + " /s" + c.arrived("fanout-zmq")
	}), ""},
	{"fan-out of 1 KiB: p50 / p99, CPU, back to back", on("fanout-1k", wide("fanout-1k", 1024)), ""},
	{"fan-out of 16 KiB: p50 / p99, CPU, back to back", on("fanout-16k", wide("fanout-16k", 16384)), ""},
	{"5,000 channels, published over ZeroMQ: publishes a second, p99", on("channels-zmq", func(c cell) string {
		return about(c.get("channels-zmq", burstRate)) + ", " + about(c.get("channels-zmq", burstP99)) + " ms" + c.arrived("channels-zmq")
	}), ""},
	{"1,000 channels, ten listeners each: publishes a second, p99", on("channels10", func(c cell) string {
		return about(c.get("channels10", publishes)) + ", " + about(c.get("channels10", burstP99)) + " ms" + c.arrived("channels10")
	}), ""},
	{"2,000 long polls answered: p50 / p99, CPU", on("polls", func(c cell) string {
		p50 := func(l *result.Load) float64 { return l.Burst.Latency.P50 }
		return pair(c.get("polls", p50), c.get("polls", burstP99)) + ", " + about(c.get("polls", burstCPU)) + " µs" + c.arrived("polls")
	}), ""},
	{"plain proxying, 50 connections: p99, CPU", on("proxy50", func(c cell) string {
		return about(c.get("proxy50", requestP99)) + " ms, " + about(c.get("proxy50", requestCPU)) + " µs"
	}), ""},
	{"1 MB bodies, 50 connections", on("proxy-big50", bodies("proxy-big50", requestP99, "p99")), ""},
	{"1 MB bodies, 1 connection", on("proxy-big1", bodies("proxy-big1", requestP50, "p50")), ""},
	{"WebSocket echo over HTTP, 50 connections", on("echo-http", func(c cell) string {
		return about(c.get("echo-http", requestRate)) + " /s, p50 / p99 " + pair(c.get("echo-http", requestP50), c.get("echo-http", requestP99)) + ", " + about(c.get("echo-http", requestCPU)) + " µs"
	}), ""},
	{"100 webhooks: p50 / p99 at 100 a second; deliveries a second with 32 publishers, p99, CPU", on("webhooks", func(c cell) string {
		return pair(c.get("webhooks", pacedP50), c.get("webhooks", pacedP99)) + "; " + about(c.get("webhooks", burstRate)) + " /s, " +
			about(c.get("webhooks", burstP99)) + " ms, " + about(c.get("webhooks", burstCPU)) + " µs" + c.arrived("webhooks")
	}), ""},
	{"WebSocket echo through to the origin, 50 connections", on("echo", func(c cell) string {
		return about(c.get("echo", requestRate)) + " /s, p50 / p99 " + pair(c.get("echo", requestP50), c.get("echo", requestP99))
	}), ""},
}

// wide is a cell of a fan-out of messages of size bytes.
func wide(row string, size float64) func(cell) string {
	return func(c cell) string {
		rate := c.get(row, burstRate)
		return pair(c.get(row, pacedP50), c.get(row, pacedP99)) + ", " + about(c.get(row, pacedCPU)) + " µs; " +
			about(rate) + " /s, " + about(rate*size/1e6) + " MB/s" + c.arrived(row)
	}
}

func bodies(row string, latency func(*result.Load) float64, name string) func(cell) string {
	perMB := func(l *result.Load) float64 {
		return l.Requests.CPU * 1e3 / (l.Requests.MBPerSecond * l.Requests.Seconds)
	}
	return func(c cell) string {
		return about(c.get(row, megabytes)) + " MB/s, " + name + " " + about(c.get(row, latency)) + " ms, " + about(c.get(row, perMB)) + " ms of CPU per MB"
	}
}

func herd(c cell, row string) string {
	if share := c.get(row, readyShare); share < 100 {
		return fmt.Sprintf("%.0f %% held after %.0f s", share, c.get(row, setupSeconds))
	}
	return fmt.Sprintf("all held in %s s", about(c.get(row, setupSeconds)))
}

// table writes the results as Markdown.
func table(f *file) string {
	var b strings.Builder
	present := measured(f)
	if len(present) == 0 {
		return "no results\n"
	}
	write := func(lines []line, goals bool) {
		b.WriteString("| |")
		for _, s := range present {
			b.WriteString(" " + s.title + " |")
		}
		if goals {
			b.WriteString(" goal |")
		}
		b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(present)))
		if goals {
			b.WriteString(" --- |")
		}
		b.WriteString("\n")
		for _, l := range lines {
			row := ""
			for _, s := range present {
				row += " " + l.cell(cell{f, s.name}) + " |"
			}
			if strings.Trim(row, " |") == "" {
				continue
			}
			b.WriteString("| " + l.name + " |" + row)
			if goals {
				b.WriteString(" " + l.goal + " |")
			}
			b.WriteString("\n")
		}
	}
	write(mainLines, true)
	b.WriteString("\n")
	write(moreLines, false)
	for _, r := range f.Runs {
		if r.Error != "" {
			fmt.Fprintf(&b, "\n%s, %s, run %d failed: %.300s\n", r.System, r.Row, r.Run, r.Error)
		}
	}
	return b.String()
}

// Marks between which a document has the table.
const (
	tableBegins = "<!-- bench/peers: table -->\n"
	scalesBegin = "<!-- bench/peers: scaling -->\n"
	sizingBegin = "<!-- bench/peers: sizing -->\n"
	tableEnds   = "<!-- bench/peers: end -->"
)

// intoDocument puts the table, or those of -scaling, between the marks of a
// document.
func intoDocument(name string, f *file, scaling bool) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	text := string(b)
	if scaling {
		text, err = between(text, scalesBegin, scaleTables(f)+machineLine(f))
		if err == nil {
			text, err = between(text, sizingBegin, sizing(f))
		}
	} else {
		text, err = between(text, tableBegins, table(f)+"\n"+machineLine(f))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, []byte(text), 0o644)
}

// between replaces what is between a mark and the next end.
func between(text, begin, new string) (string, error) {
	before, rest, ok1 := strings.Cut(text, begin)
	_, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok1 || !ok2 {
		return "", fmt.Errorf("the lines %q and %q are missing", strings.TrimSpace(begin), tableEnds)
	}
	return before + begin + "\n" + new + "\n" + tableEnds + after, nil
}

// machineLine says where and when, and how quiet it was.
func machineLine(f *file) string {
	m, worst := f.Machine, 0.0
	var first, last string
	for _, r := range f.Runs {
		day := r.Time.Format("2006-01-02")
		if first == "" || day < first {
			first = day
		}
		last = max(last, day)
		worst = max(worst, r.Foreign)
	}
	if first != last {
		first += " to " + last
	}
	return fmt.Sprintf("Measured %s on %d processors (%s), %s memory, Linux %s, %s. Others, the hypervisor included, used at most %.2f of a processor during any of these measurements.\n",
		first, m.CPUs, m.CPU, m.Memory, m.Kernel, m.Go, worst)
}

func measured(f *file) []system {
	var present []system
	for _, s := range systems() {
		if slices.ContainsFunc(f.Runs, func(r record) bool { return r.System == s.name }) {
			present = append(present, s)
		}
	}
	return present
}

// drawings writes latency.svg and memory.svg.
func drawings(dir string, f *file) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	latency := chart{
		title: "10,000 streams, 100 bytes, 2 messages a second: share of deliveries by time",
		x:     axis{label: "milliseconds from publish to read", log: true, unit: " ms"}, y: axis{label: "percent", unit: " %", max: 100},
	}
	memory := chart{
		title: "Memory of all processes (PSS) against held streams",
		x:     axis{label: "held streams"}, y: axis{label: "MiB", unit: " MiB"},
	}
	for _, s := range measured(f) {
		c := cell{f, s.name}
		if ok, _ := c.has("fanout"); !ok {
			continue
		}
		var curve, grow []point
		for i, p := range c.points() {
			v := c.get("fanout", func(l *result.Load) float64 { return l.Paced.Latency.Points[i].Ms })
			curve = append(curve, point{max(v, 0.1), p.Q * 100})
		}
		for i := range c.steps() {
			grow = append(grow, point{
				c.get("fanout", func(l *result.Load) float64 { return float64(l.Memory[i].Connections) }),
				c.get("fanout", func(l *result.Load) float64 { return float64(l.Memory[i].Bytes) / (1 << 20) }),
			})
		}
		latency.curves = append(latency.curves, curveOf{s.title, s.colour, curve})
		memory.curves = append(memory.curves, curveOf{s.title, s.colour, grow})
	}
	if len(latency.curves) == 0 {
		return nil
	}
	for name, ch := range map[string]chart{"latency.svg": latency, "memory.svg": memory} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(ch.svg()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// points are those of the runs' latency curves; all runs have the same shares.
func (c cell) points() []hist.Point {
	for _, r := range c.f.Runs {
		if r.System == c.system && r.Row == "fanout" && r.Load != nil {
			return r.Paced.Latency.Points
		}
	}
	return nil
}

func (c cell) steps() []result.Memory {
	for _, r := range c.f.Runs {
		if r.System == c.system && r.Row == "fanout" && r.Load != nil {
			return r.Memory
		}
	}
	return nil
}
