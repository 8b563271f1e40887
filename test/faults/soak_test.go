//go:build faults

package faults

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

var soakTime = flag.Duration("faults.soak", 0, "how long TestSoak goes on; 0 leaves it out")

// sample is what one process has at the end of a round, when no client is there.
type sample struct{ rss, heap, goroutines, files float64 }

// TestSoak connects, proxies, publishes and disconnects in rounds, and compares
// what the processes have between rounds in the first and in the last quarter of
// the time, after a tenth to warm up.
func TestSoak(t *testing.T) {
	if *soakTime == 0 {
		t.Skip("a soak takes as long as -faults.soak says, and that was not said: use make soak")
	}
	origin := newBackend(t)
	s := start(t, nil, "* "+origin.addr+",over_http")
	samples := map[string][]sample{}
	began := time.Now()
	warm := began.Add(*soakTime / 10)
	rounds := 0
	for ; time.Since(began) < *soakTime && !t.Failed(); rounds++ {
		soakRound(t, s, origin, rounds)
		if time.Now().Before(warm) {
			continue
		}
		for _, p := range s.Processes() {
			m, err := s.Metrics(p.Name + ".0")
			if err != nil {
				t.Fatal(err)
			}
			samples[p.Name] = append(samples[p.Name], sample{
				rss: m["process_resident_memory_bytes"] / (1 << 20), heap: m["go_memstats_heap_inuse_bytes"] / (1 << 20),
				goroutines: m["go_goroutines"], files: m["process_open_fds"],
			})
		}
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
	t.Logf("%d rounds in %v", rounds, time.Since(began).Round(time.Second))
	for name, all := range samples {
		quarter := len(all) / 4
		if quarter == 0 {
			t.Fatalf("%d samples of %s are too few", len(all), name)
		}
		for _, m := range []struct {
			what        string
			of          func(sample) float64
			part, fixed float64 // that it may grow by
		}{
			{"memory (MB)", func(v sample) float64 { return v.rss }, 0.2, 8},
			{"heap (MB)", func(v sample) float64 { return v.heap }, 0.3, 8},
			{"goroutines", func(v sample) float64 { return v.goroutines }, 0.1, 20},
			{"open files", func(v sample) float64 { return v.files }, 0.1, 100}, // the proxy keeps connections to origins,
		} {
			early, late := median(all[:quarter], m.of), median(all[len(all)-quarter:], m.of)
			t.Logf("%-8s %-12s %7.1f at first, %7.1f at last", name, m.what, early, late)
			if late > early*(1+m.part)+m.fixed {
				t.Errorf("%s: %s grew from %.1f to %.1f", name, m.what, early, late)
			}
		}
	}
}

func median(all []sample, of func(sample) float64) float64 {
	v := make([]float64, len(all))
	for i := range all {
		v[i] = of(all[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}

const (
	soakStreams = 200
	soakSockets = 50
	soakPolls   = 50
	soakGets    = 300
	soakItems   = 50
)

// soakRound is one round: everybody gets everything, then leaves.
func soakRound(t *testing.T, s *stack.Stack, origin *backend, round int) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	channel := fmt.Sprint("soak-", round)
	var streams []net.Conn
	var sockets []*websocket.Conn
	defer func() {
		for _, c := range streams {
			_ = c.Close()
		}
		for _, ws := range sockets {
			_ = ws.Close()
		}
	}()
	readers := map[net.Conn]*bufio.Reader{}
	open := func(path string) {
		c, err := net.Dial("tcp", s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		streams = append(streams, c)
		readers[c] = bufio.NewReader(c)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	}
	for range soakStreams {
		open("/stream?channel=" + channel)
	}
	for _, c := range streams {
		until(t, readers[c], "open")
	}
	for range soakSockets {
		ws, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+s.HTTP+"/ws?channel="+channel, nil)
		if err != nil {
			t.Fatalf("%v %+v", err, resp)
		}
		_ = ws.SetReadDeadline(time.Now().Add(2 * time.Minute))
		sockets = append(sockets, ws)
		// The echo comes when the subscription is in force.
		if err := ws.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.ReadMessage(); err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	for range soakPolls { // they leave without an answer
		open("/poll?channel=" + channel + "-other&after=0")
	}
	var others sync.WaitGroup
	r := &reader{delays: new(delays)}
	others.Go(func() {
		for range soakGets {
			visit(ctx, s, r)
		}
	})
	for range soakItems {
		n, text := origin.add(channel)
		if err := poster(ctx, s, channel, n, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range streams[:soakStreams] {
		for n := 1; n <= soakItems; n++ {
			until(t, readers[c], fmt.Sprint(channel, " ", n))
		}
	}
	for _, ws := range sockets {
		for n := 1; n <= soakItems; n++ {
			if _, b, err := ws.ReadMessage(); err != nil || !strings.HasPrefix(string(b), fmt.Sprint(channel, " ", n, " ")) {
				t.Fatalf("message %d is %q, %v", n, b, err)
			}
		}
	}
	others.Wait()
	for _, text := range r.wrong {
		t.Error(text)
	}
	for _, c := range streams {
		_ = c.Close()
	}
	for _, ws := range sockets {
		_ = ws.Close()
	}
	streams, sockets = nil, nil
	origin.forget(channel)
	poll.Works(t, "the end of all holds", func() error {
		m, err := s.Metrics("connmgr.0")
		if n := stack.Total(m, "holdfast_connmgr_holds"); err == nil && n > 0 {
			err = fmt.Errorf("%v remain", n)
		}
		return err
	})
	if round%10 == 0 {
		runtime.GC() // ours, so that it does not grow beside them
	}
}

// find reads lines up to one that begins with want.
func find(br *bufio.Reader, want string) error {
	for {
		line, err := br.ReadString('\n')
		if strings.HasPrefix(line, want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %q, %w; want %q", line, err, want)
		}
	}
}

// until is find for what must be there.
func until(t *testing.T, br *bufio.Reader, want string) {
	t.Helper()
	if err := find(br, want); err != nil {
		t.Fatal(err)
	}
}
