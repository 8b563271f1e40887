//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/bench/internal/result"
)

// scale is a table of how Holdfast's cost grows with something.
type scale struct {
	title   string
	columns []string
	points  []scalePoint
}

// scalePoint is a line of such a table.
type scalePoint struct {
	label string
	m     measurement // of Holdfast, unless it says otherwise
	cells func(c cell, row string) []string
}

// idleKinds are the kinds of connections that are held while nothing happens.
var idleKinds = []struct{ label, row, path, flags, n string }{
	{"streams", "idle-stream", "/stream?channel={c}", "", "19000"},
	{"long polls", "idle-poll", "/poll?channel={c}", "-poll", "19000"},
	{"WebSockets over HTTP", "idle-ws", "/ws?channel={c}", "-ws", "19000"},
	// These have a connection to the origin each, of which there are no more than
	// 8,192 to one origin.
	{"WebSockets to a WebSocket origin", "idle-ws-direct", "/echo", "-ws -ready-head", "5000"},
}

// scales in the order in which they are made. Together they take about eight
// minutes.
func scales() []scale {
	const stream = "/stream?channel={c}"
	streams := func(name string, flags ...string) measurement {
		return measurement{name: name, format: "http-stream", path: stream, flags: append([]string{"-deadline", "60s", "-window", "200"}, flags...)}
	}
	connections := scale{title: "Streams on one channel", columns: []string{"p50 / p99", "CPU per delivery", "back to back, a second", "memory each"}}
	for _, n := range []string{"1000", "5000", "10000", "19000"} {
		m := streams("conns-"+n, "-scenario", "fanout", "-n", n, "-count", "10", "-burst", "30")
		connections.points = append(connections.points, scalePoint{grouped(n), m, fanoutCells})
	}
	three := streams("conns-19000x3", "-scenario", "fanout", "-n", "19000", "-count", "10", "-burst", "30")
	three.connmgrs = 3
	connections.points = append(connections.points, scalePoint{"19,000 on three connmgrs", three, fanoutCells})

	channels := scale{title: "10,000 streams on more and more channels", columns: []string{"publishes a second", "deliveries a second", "p99", "CPU per publish", "memory each"}}
	for _, c := range []struct{ label, n, extra string }{
		{"16 channels, 625 streams each", "16", "0"},
		{"100, 100 each", "100", "0"},
		{"1,000, 10 each", "1000", "0"},
		{"10,000, one each", "10000", "0"},
		{"100,000: each stream on ten of its own", "10000", "9"},
	} {
		m := streams("channels-"+c.n+"-"+c.extra, "-scenario", "channels", "-n", "10000", "-channels", c.n, "-extra", c.extra, "-publishers", "8", "-duration", "4s")
		channels.points = append(channels.points, scalePoint{c.label, m, channelCells})
	}

	size := scale{title: "Size of messages, 10,000 streams on one channel", columns: []string{"p50 / p99", "CPU per delivery", "back to back, a second", "MB a second"}}
	for _, s := range []struct {
		label, n string
		bytes    float64
	}{{"100 bytes", "100", 100}, {"1 KiB", "1024", 1024}, {"16 KiB", "16384", 16384}} {
		m := streams("size-10000-"+s.n, "-scenario", "fanout", "-n", "10000", "-size", s.n, "-count", "10", "-burst", "20")
		size.points = append(size.points, scalePoint{s.label, m, func(c cell, row string) []string {
			cells := fanoutCells(c, row)
			return append(cells[:3], about(c.get(row, burstRate)*s.bytes/1e6))
		}})
	}

	memory := scale{title: "Memory of idle connections, each", columns: []string{"1,000", "5,000", "10,000", "19,000"}}
	for _, t := range idleKinds {
		m := measurement{name: t.row, path: t.path, idle: true}
		m.flags = append(strings.Fields(t.flags), "-scenario", "hold", "-n", t.n, "-memory", "1000,5000,10000", "-window", "200", "-settle", "4s", "-deadline", "60s")
		memory.points = append(memory.points, scalePoint{t.label, m, memoryCells})
	}

	rate := scale{
		title:   "Publishes a second to 1,000 streams on one channel, growing by half until something is a second late or lost",
		columns: []string{"last rate that was kept", "p50 / p99 there", "CPU per delivery there", "then, at the next rate"},
	}
	latency := scale{title: "Latency of a publish to one stream, 100 a second", columns: []string{"p50", "p99", "longest", "CPU per publish"}}
	latencyCells := func(c cell, row string) []string {
		longest := func(l *result.Load) float64 { return l.Paced.Latency.Max }
		ms := func(figure func(*result.Load) float64) string { return fmt.Sprintf("%.2f ms", c.get(row, figure)) }
		return []string{ms(pacedP50), ms(pacedP99), ms(longest), about(c.get(row, pacedCPU)) + " µs"}
	}
	for _, z := range []struct {
		label, name string
		zmq         bool
	}{{"HTTP", "http", false}, {"ZeroMQ", "zmq", true}} {
		m := streams("ramp-"+z.name, "-scenario", "ramp", "-n", "1000", "-rate", "50", "-publishers", "8")
		m.zmq = z.zmq
		rate.points = append(rate.points, scalePoint{z.label, m, rampCells})
		m = streams("latency-"+z.name, "-scenario", "fanout", "-n", "1", "-rate", "100", "-count", "1000", "-burst", "0")
		m.zmq = z.zmq
		latency.points = append(latency.points, scalePoint{z.label, m, latencyCells})
	}
	least := streams("latency-floor", "-scenario", "fanout", "-n", "1", "-rate", "100", "-count", "1000", "-burst", "0")
	least.only = "floor"
	latency.points = append(latency.points, scalePoint{"HTTP, the floor", least, latencyCells})
	stuck := scale{title: "10,000 streams on one channel, 100 of which do not read now and then", columns: []string{"p50 / p99 of the others, median of the rounds", "p99, round by round", "lost"}}
	m := streams("stuck", "-scenario", "stuck", "-n", "10000", "-stuck", "100", "-rounds", "5", "-rate", "4", "-count", "12")
	m.small = []string{"-n", "1000", "-stuck", "50", "-rounds", "2", "-count", "4"}
	for _, l := range []struct {
		label string
		of    func(*result.Stuck) []result.Delivery
	}{
		{"everybody reads", func(s *result.Stuck) []result.Delivery { return s.Without }},
		{"the 100 do not read, and their sockets are full", func(s *result.Stuck) []result.Delivery { return s.With }},
	} {
		stuck.points = append(stuck.points, scalePoint{l.label, m, func(c cell, row string) []string { return stuckCells(l.of(c.stuck(row))) }})
	}
	stuck.points = append(stuck.points, scalePoint{"they are sent more until they are cut off", m, func(c cell, row string) []string {
		s := c.stuck(row)
		cells := stuckCells([]result.Delivery{*s.Cutting})
		cells[1] = fmt.Sprintf("%d of %d were cut off", s.CutOff, s.Connections)
		return cells
	}})
	return []scale{connections, channels, size, memory, rate, latency, stuck}
}

// stuck is the result of the last run of a row.
func (c cell) stuck(row string) (s *result.Stuck) {
	for _, r := range c.f.Runs {
		if r.System == c.system && r.Row == row && r.Load != nil && r.Stuck != nil {
			s = r.Stuck
		}
	}
	return s
}

func stuckCells(rounds []result.Delivery) []string {
	var p50, p99 []float64
	var each []string
	lost := uint64(0)
	for _, d := range rounds {
		p50, p99 = append(p50, d.Latency.P50), append(p99, d.Latency.P99)
		each = append(each, about(d.Latency.P99))
		lost += d.Lost
	}
	return []string{pair(median(p50), median(p99)), strings.Join(each, ", ") + " ms", fmt.Sprint(lost)}
}

func scaleMeasurements() []measurement {
	var all []measurement
	for _, s := range scales() {
		for _, p := range s.points {
			if p.m.only == "" {
				p.m.only = "holdfast"
			}
			// Lines next to each other may share a measurement.
			if n := len(all); n == 0 || all[n-1].name != p.m.name {
				all = append(all, p.m)
			}
		}
	}
	return all
}

func grouped(n string) string { return n[:len(n)-3] + "," + n[len(n)-3:] }

func fanoutCells(c cell, row string) []string {
	return []string{
		pair(c.get(row, pacedP50), c.get(row, pacedP99)), about(c.get(row, pacedCPU)) + " µs",
		about(c.get(row, burstRate)) + c.arrived(row), about(c.get(row, perConnection)) + " KiB",
	}
}

func channelCells(c cell, row string) []string {
	perPublish := func(l *result.Load) float64 { return l.Burst.CPU * 1e6 / float64(max(l.Burst.Published, 1)) }
	return []string{
		about(c.get(row, publishes)), about(c.get(row, burstRate)) + c.arrived(row), about(c.get(row, burstP99)) + " ms",
		about(c.get(row, perPublish)) + " µs", about(c.get(row, perConnection)) + " KiB",
	}
}

func memoryCells(c cell, row string) []string {
	var cells []string
	for _, n := range []int{1000, 5000, 10000, 19000} {
		each := c.get(row, func(l *result.Load) float64 {
			i := slices.IndexFunc(l.Memory, func(m result.Memory) bool { return m.Connections == n })
			if i < 0 {
				return 0
			}
			return float64(l.Memory[i].Bytes-l.Memory[0].Bytes) / 1024 / float64(n)
		})
		if each == 0 { // not tried
			cells = append(cells, "")
			continue
		}
		cells = append(cells, about(each)+" KiB")
	}
	return cells
}

// rampCells shows the last rate that was kept, and how the next one ended.
func rampCells(c cell, row string) []string {
	var kept, over result.Step
	for _, r := range c.f.Runs {
		if r.System != c.system || r.Row != row || r.Load == nil {
			continue
		}
		for _, s := range r.Ramp {
			if s.End == "" {
				kept = s
			} else {
				over = s
			}
		}
	}
	end := "the client's limit"
	switch over.End {
	case "behind":
		end = fmt.Sprintf("%s /s: %s /s were taken", about(over.Rate), about(over.PublishesPerSecond))
	case "late":
		end = fmt.Sprintf("%s /s: %s late", about(over.Rate), about(over.Latency.Max/1000)+" s")
	case "lost":
		end = fmt.Sprintf("%s /s: %d of %d deliveries lost", about(over.Rate), over.Expected-over.Delivered, over.Expected)
	case "refused":
		end = fmt.Sprintf("%s /s: %d publishes refused", about(over.Rate), over.Refused)
	}
	return []string{about(kept.Rate) + " /s", pair(kept.Latency.P50, kept.Latency.P99), about(kept.CPUPerDelivery) + " µs", end}
}

// scaleTables writes the tables as Markdown, those of which there are results.
func scaleTables(f *file) string {
	var b strings.Builder
	for _, s := range scales() {
		var lines strings.Builder
		for _, p := range s.points {
			c := cell{f, "holdfast"}
			if p.m.only != "" {
				c.system = p.m.only
			}
			ok, failure := c.has(p.m.name)
			switch {
			case ok:
				fmt.Fprintf(&lines, "| %s | %s |\n", p.label, strings.Join(p.cells(c, p.m.name), " | "))
			case failure != "":
				fmt.Fprintf(&lines, "| %s | %s |%s\n", p.label, failure, strings.Repeat(" |", len(s.columns)-1))
			}
		}
		if lines.Len() == 0 {
			continue
		}
		fmt.Fprintf(&b, "**%s**\n\n| | %s |\n| --- |%s\n%s\n", s.title, strings.Join(s.columns, " | "), strings.Repeat(" --- |", len(s.columns)), lines.String())
	}
	return b.String()
}

// sizing writes what a million connections take, calculated from what was measured
// with fewer; "" if it was not.
func sizing(f *file) string {
	c := cell{f, "holdfast"}
	var b strings.Builder
	line := func(what, measured, million string) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", what, measured, million)
	}
	memory := func(what, row string, of func(result.Memory) int64) {
		each := func(l *result.Load) float64 {
			first, last := l.Memory[0], l.Memory[len(l.Memory)-1]
			return float64(of(last)-of(first)) / float64(max(last.Connections-first.Connections, 1))
		}
		n := func(l *result.Load) float64 { return float64(l.Memory[len(l.Memory)-1].Connections) }
		if v, ok := c.median(row, each); ok && v > 0 {
			line(what, fmt.Sprintf("%s KiB each, of %s", about(v/1024), thousands(int(c.get(row, n)))), about(v*1e6/1e9)+" GB")
		}
	}
	bytes := func(m result.Memory) int64 { return m.Bytes }
	for _, t := range idleKinds {
		memory(t.label+": memory of all processes", t.row, bytes)
	}
	// Clients are on the same machine.
	memory("a TCP connection: memory of the kernel, half of what both ends take", "idle-stream", func(m result.Memory) int64 { return m.Kernel / 2 })
	setup := func(l *result.Load) float64 { return l.Setup.CPU * 1e6 / float64(max(l.Setup.Ready, 1)) }
	for _, t := range idleKinds {
		if v, ok := c.median(t.row, setup); ok && v > 0 {
			line(t.label+": to set one up", about(v)+" µs of CPU", about(v/60)+" processors, if all come within a minute")
		}
	}
	if v, ok := c.median("conns-19000", pacedCPU); ok && v > 0 {
		line("a message to a stream, one at a time", about(v)+" µs of CPU", about(v/10)+" processors, if each gets one every ten seconds")
	}
	if v, ok := c.median("conns-19000", burstCPU); ok && v > 0 {
		line("…, many at once", about(v)+" µs of CPU", about(v)+" processors, if each gets one a second")
	}
	if b.Len() == 0 {
		return ""
	}
	return "| | measured | calculated, for a million |\n| --- | --- | --- |\n" + b.String()
}
