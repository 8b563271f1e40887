//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/bench/internal/hist"
	"github.com/holdfast/holdfast/bench/internal/result"
)

func sample() *file {
	fanout := func(system string, run int, p50 float64) record {
		return record{System: system, Row: "fanout", Run: run, Load: &result.Load{
			Setup:  &result.Setup{Asked: 10, Ready: 10, PerSecond: 3456},
			Memory: []result.Memory{{Connections: 0, Bytes: 1 << 20}, {Connections: 1024, Bytes: 5 << 20}},
			Paced:  &result.Delivery{CPUPerDelivery: 7.25, Latency: hist.Summary{P50: p50, P99: 2 * p50, Points: []hist.Point{{Q: 0.5, Ms: p50}, {Q: 1, Ms: 3 * p50}}}},
			Burst:  &result.Delivery{PerSecond: 171234, Expected: 1000, Delivered: 990},
		}}
	}
	return &file{Runs: []record{
		fanout("holdfast", 1, 30), fanout("holdfast", 2, 40), fanout("floor", 1, 25),
		{System: "pushpin", Row: "fanout", Run: 1, Error: "did not start"},
	}}
}

func TestTable(t *testing.T) {
	got := table(sample())
	for _, want := range []string{
		"| | Holdfast | Pushpin | floor | goal |",
		"| delivery p50 / p99 | 35 / 70 ms | failed | 25 / 50 ms | ≤ 37 / ≤ 80 ms |",
		"| server CPU per delivery | 7.2 µs | failed |",
		"| 171,000 (1.00 % lost) |",
		"| 4.0 KiB |",
		"| 3,500 /s |",
		"pushpin, fanout, run 1 failed: did not start",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "WebSockets") {
		t.Error("a row that was not measured is in the table")
	}
}

// p99s makes deliveries with these p99s, and half of that as p50.
func p99s(all ...float64) (d []result.Delivery) {
	for _, v := range all {
		d = append(d, result.Delivery{Latency: hist.Summary{P50: v / 2, P99: v}})
	}
	return d
}

func TestScaleTables(t *testing.T) {
	f := &file{Runs: []record{
		{System: "holdfast", Row: "conns-1000", Load: sample().Runs[0].Load},
		{System: "holdfast", Row: "conns-19000x3", Error: "did not start"},
		{System: "holdfast", Row: "idle-poll", Load: &result.Load{Memory: []result.Memory{{Connections: 0, Bytes: 1 << 20}, {Connections: 1000, Bytes: 1<<20 + 3000<<10}}}},
		{System: "holdfast", Row: "ramp-http", Load: &result.Load{Ramp: []result.Step{
			{Rate: 50, Delivery: result.Delivery{CPUPerDelivery: 3}}, {Rate: 75, End: "late", Delivery: result.Delivery{Latency: hist.Summary{Max: 1500}}},
		}}},
		{System: "holdfast", Row: "stuck", Load: &result.Load{Stuck: &result.Stuck{
			Connections: 100, CutOff: 99, Without: p99s(10, 30, 20), With: p99s(25, 24), Cutting: &p99s(40)[0],
		}}},
	}}
	got := scaleTables(f)
	for _, want := range []string{
		"| 1,000 | 30 / 60 ms | 7.2 µs | 171,000 (1.00 % lost) | 4.0 KiB |",
		"| 19,000 on three connmgrs | failed | | | |",
		"| long polls | 3.0 KiB |  |  |  |",
		"| HTTP | 50 /s | 0.00 / 0.00 ms | 3.0 µs | 75 /s: 1.5 s late |",
		"| everybody reads | 10.0 / 20 ms | 10.0, 30, 20 ms | 0 |",
		"| the 100 do not read, and their sockets are full | 12.2 / 24 ms | 25, 24 ms | 0 |",
		"| they are sent more until they are cut off | 20 / 40 ms | 99 of 100 were cut off | 0 |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the tables lack %q:\n%s", want, got)
		}
	}
	names := map[string]bool{}
	for _, m := range scaleMeasurements() {
		if names[m.name] {
			t.Errorf("two measurements are called %s", m.name)
		}
		names[m.name] = true
	}
}

func TestSizing(t *testing.T) {
	if got := sizing(&file{}); got != "" {
		t.Errorf("without results: %q", got)
	}
	got := sizing(&file{Runs: []record{
		{System: "holdfast", Row: "idle-stream", Load: &result.Load{
			Setup:  &result.Setup{Ready: 19000, CPU: 5.7},
			Memory: []result.Memory{{Connections: 0, Bytes: 1 << 20, Kernel: 5 << 20}, {Connections: 19000, Bytes: 1<<20 + 19000*3072, Kernel: 5<<20 + 19000*10240}},
		}},
		{System: "holdfast", Row: "conns-19000", Load: &result.Load{Paced: &result.Delivery{CPUPerDelivery: 6}, Burst: &result.Delivery{CPUPerDelivery: 0.5}}},
	}})
	for _, want := range []string{
		"| streams: memory of all processes | 3.0 KiB each, of 19,000 | 3.1 GB |",
		"| a TCP connection: memory of the kernel, half of what both ends take | 5.0 KiB each, of 19,000 | 5.1 GB |",
		"| streams: to set one up | 300 µs of CPU | 5.0 processors, if all come within a minute |",
		"| a message to a stream, one at a time | 6.0 µs of CPU | 0.60 processors, if each gets one every ten seconds |",
		"| …, many at once | 0.50 µs of CPU | 0.50 processors, if each gets one a second |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

func TestBetween(t *testing.T) {
	got, err := between("a\n"+scalesBegin+"old"+tableEnds+"\nb", scalesBegin, "new\n")
	if want := "a\n" + scalesBegin + "\nnew\n\n" + tableEnds + "\nb"; err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := between("a", scalesBegin, "new"); err == nil {
		t.Error("no mark, and no error")
	}
}

func TestDrawingsAreWellFormed(t *testing.T) {
	dir := t.TempDir()
	if err := drawings(dir, sample()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"latency.svg", "memory.svg"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(strings.NewReader(string(b)))
		for {
			if _, err = d.Token(); err != nil {
				break
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(string(b), "NaN") || !strings.Contains(string(b), "Holdfast") {
			t.Errorf("%s:\n%s", name, b)
		}
	}
}

func TestEveryMeasurementHasItsFlags(t *testing.T) {
	in := &instance{publishPath: "/publish/"}
	for _, m := range measurements() {
		args := strings.Join(m.args(systems()[0], in, false), " ")
		if !strings.Contains(args, "-scenario ") || !strings.Contains(args, "-path /") && m.webhooks == 0 {
			t.Errorf("%s: %s", m.name, args)
		}
	}
}
