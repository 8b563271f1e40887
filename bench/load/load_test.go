//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/wire"
	"github.com/holdfast/holdfast/test/poll"
)

// fakeServer is a small server with streams, long polls, WebSocket echo and a publish
// intake; spoil may change what a subscriber gets of a message.
type fakeServer struct {
	mu      sync.Mutex
	held    map[string][]chan []byte
	changed *sync.Cond
	n       int
	spoil   func(subscriber, message int) int // how often it is sent
	close   bool                              // end the publisher's connection each time
	asked   []string                          // channels of subscribers
	polls   int                               // a publish waits until so many polls are held
	hooks   string                            // address to which all that is published is sent as a webhook
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ch := r.URL.Query().Get("channel")
	switch r.URL.Path {
	case "/pub":
		body, _ := io.ReadAll(r.Body)
		if s.close {
			w.Header().Set("Connection", "close")
		}
		if s.hooks != "" {
			hook(s.hooks, strings.TrimPrefix(ch, "c"), body)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for len(s.held[ch]) < s.polls {
			if r.Context().Err() != nil {
				return
			}
			s.changed.Wait()
		}
		for i, c := range s.held[ch] {
			times := 1
			if s.spoil != nil {
				times = s.spoil(i, s.n)
			}
			for range times {
				c <- body
			}
		}
		if s.polls > 0 { // each is answered by one publish
			s.held[ch] = nil
		}
		s.n++
	case "/stream", "/poll":
		c := make(chan []byte, 1000)
		s.mu.Lock()
		for one := range strings.SplitSeq(ch, ",") {
			s.held[one] = append(s.held[one], c)
		}
		s.asked = append(s.asked, ch)
		s.changed.Broadcast()
		s.mu.Unlock()
		if r.URL.Path == "/stream" {
			fmt.Fprint(w, "ready\n")
			w.(http.Flusher).Flush()
		}
		for {
			select {
			case m := <-c:
				_, _ = w.Write(m)
				w.(http.Flusher).Flush()
				if r.URL.Path == "/poll" {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	case "/echo":
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n\r\n", wire.AcceptKey([]byte(r.Header.Get("Sec-WebSocket-Key"))))
		buf := make([]byte, 4096)
		for {
			n, err := rw.Read(buf)
			if err != nil {
				return
			}
			// One message is under way at a time, so a read is a frame.
			if op, payload, used, _ := wire.ReadFrame(buf[:n]); used == n {
				_, _ = conn.Write(wire.AppendFrame(nil, op, payload, false))
			}
		}
	default:
		fmt.Fprint(w, "hello")
	}
}

// hook sends a message in the form of Holdfast's webhooks.
func hook(to, path string, message []byte) {
	body, err := json.Marshal(map[string]any{"data": map[string]any{"formats": map[string]any{"http-stream": map[string]any{"content": string(message)}}}})
	if err != nil {
		return
	}
	resp, err := http.Post("http://"+to+"/hook/"+path, "application/json", bytes.NewReader(body))
	if err == nil {
		resp.Body.Close()
	}
}

func serve(t *testing.T, s *fakeServer) netip.AddrPort {
	t.Helper()
	s.held = map[string][]chan []byte{}
	s.changed = sync.NewCond(&s.mu)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return netip.MustParseAddrPort(strings.TrimPrefix(srv.URL, "http://"))
}

func parsed(t *testing.T, addr netip.AddrPort, args ...string) *options {
	t.Helper()
	o, err := parse(append([]string{
		"-target", addr.String(), "-publish", addr.String(), "-publish-path", "/pub?channel={c}", "-format", "raw",
		"-settle", "10ms", "-rate", "100", "-deadline", "10s",
	}, args...))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// What is lost ends the ramp.
func TestRamp(t *testing.T) {
	addr := serve(t, &fakeServer{spoil: func(int, int) int { return 0 }})
	res, err := run(parsed(t, addr, "-scenario", "ramp", "-n", "4", "-rate", "10"))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Ramp) != 1 || res.Ramp[0].End == "" || res.Ramp[0].Rate != 10 {
		t.Errorf("ramp: %+v", res.Ramp)
	}
}

// Each subscriber asks for channels of its own beside the one that is published
// to.
func TestHold(t *testing.T) {
	fake := &fakeServer{}
	res, err := run(parsed(t, serve(t, fake), "-scenario", "hold", "-n", "3", "-extra", "2"))
	if err != nil {
		t.Fatal(err)
	}
	if res.Setup.Ready != 3 {
		t.Errorf("set-up: %+v", res.Setup)
	}
	fake.mu.Lock()
	defer fake.mu.Unlock()
	slices.Sort(fake.asked)
	if want := []string{"c0,x0-0,x0-1", "c0,x1-0,x1-1", "c0,x2-0,x2-1"}; !slices.Equal(fake.asked, want) {
		t.Errorf("asked for %q", fake.asked)
	}
}

func TestFanout(t *testing.T) {
	for _, closing := range []bool{false, true} {
		addr := serve(t, &fakeServer{close: closing})
		res, err := run(parsed(t, addr, "-n", "20", "-window", "5", "-count", "10", "-burst", "30"))
		if err != nil {
			t.Fatal(err)
		}
		if res.Setup.Ready != 20 || res.Setup.Failed != 0 {
			t.Errorf("set-up: %+v", res.Setup)
		}
		for _, d := range []struct {
			name      string
			got, want uint64
		}{
			{"paced publishes", res.Paced.Published, 10},
			{"paced deliveries", res.Paced.Delivered, 200},
			{"burst deliveries", res.Burst.Delivered, 600},
			{"burst latencies", res.Burst.Latency.Count, 600},
			{"lost", res.Burst.Lost + res.Paced.Lost, 0},
			{"duplicates", res.Burst.Duplicates + res.Paced.Duplicates, 0},
		} {
			if d.got != d.want {
				t.Errorf("closing %v: %s: got %d, want %d", closing, d.name, d.got, d.want)
			}
		}
	}
}

func TestLossAndDuplicatesAreSeen(t *testing.T) {
	addr := serve(t, &fakeServer{spoil: func(subscriber, message int) int {
		switch {
		case subscriber == 3 && message == 5:
			return 0
		case subscriber == 4 && message == 6:
			return 2
		}
		return 1
	}})
	o := parsed(t, addr, "-n", "10", "-count", "8", "-burst", "0", "-rate", "1000")
	l, err := netloop.New()
	if err != nil {
		t.Fatal(err)
	}
	// deliver waits for what is lost as long as it is told to.
	src := &source{loop: l, size: 100, format: "raw", seq: make([]uint32, 1)}
	b := &bench{options: o, loop: l, src: src, pub: newHTTPPublisher(src, addr, o.publishPath, 1)}
	p := b.newPool(kindStream)
	defer p.close()
	p.grow(10)
	if ok, err := l.Wait(poll.Patience, p.settled); !ok || err != nil {
		t.Fatal("not held", err)
	}
	d, err := b.deliver(p, 10, 500*time.Millisecond, func(f func()) { b.paced(8, f) })
	if err != nil {
		t.Fatal(err)
	}
	if d.Expected != 80 || d.Delivered != 79 || d.Lost != 1 || d.Duplicates != 1 {
		t.Errorf("got %d of %d, %d lost, %d duplicates; want 79 of 80, 1, 1", d.Delivered, d.Expected, d.Lost, d.Duplicates)
	}
}

func TestOtherScenarios(t *testing.T) {
	addr := serve(t, &fakeServer{})
	res, err := run(parsed(t, addr, "-scenario", "channels", "-n", "40", "-channels", "20", "-publishers", "4", "-duration", "200ms"))
	if err != nil {
		t.Fatal(err)
	}
	if d := res.Burst; d.Published == 0 || d.Delivered != 2*d.Published || d.Lost != 0 {
		t.Errorf("channels: %+v", d)
	}
	if res, err = run(parsed(t, serve(t, &fakeServer{polls: 10}), "-scenario", "polls", "-path", "/poll?channel={c}", "-n", "10", "-count", "3")); err != nil {
		t.Fatal(err)
	}
	if d := res.Burst; d.Published != 3 || d.Delivered != 30 {
		t.Errorf("polls: %d publishes, %d deliveries, want 3 and 30", d.Published, d.Delivered)
	}
	for _, s := range []string{"proxy", "echo"} {
		if res, err = run(parsed(t, addr, "-scenario", s, "-path", map[string]string{"proxy": "/", "echo": "/echo"}[s], "-n", "3", "-duration", "100ms")); err != nil {
			t.Fatal(err)
		}
		if q := res.Requests; q.Done == 0 || q.Failed != 0 || q.Latency.Count != q.Done {
			t.Errorf("%s: %d done, %d failed, %d latencies", s, q.Done, q.Failed, q.Latency.Count)
		}
	}
	if res, err = run(parsed(t, addr, "-scenario", "herd", "-n", "30")); err != nil || res.Setup.Ready != 30 {
		t.Errorf("herd: %v, %+v", err, res)
	}
}

// Those who stop reading get everything once they read again, and the others
// are measured without them.
func TestStuckClients(t *testing.T) {
	addr := serve(t, &fakeServer{})
	res, err := run(parsed(t, addr, "-scenario", "stuck", "-n", "12", "-stuck", "4", "-rounds", "2", "-count", "3", "-rate", "50"))
	if err != nil {
		t.Fatal(err)
	}
	s := res.Stuck
	if s.Others != 8 || s.Connections != 4 || len(s.With) != 2 || len(s.Without) != 2 {
		t.Fatalf("%+v", s)
	}
	for _, d := range append(append(s.With, s.Without...), *s.Cutting) {
		if d.Delivered == 0 || d.Delivered != 8*d.Published || d.Lost > 0 {
			t.Errorf("%d of %d, %d lost, want 8 for each of %d", d.Delivered, d.Expected, d.Lost, d.Published)
		}
	}
	// Two messages for warming up, and twelve.
	if s.CaughtUp != 4*14 || s.Missed != 0 || s.CutOff != 0 {
		t.Errorf("caught up with %d, missed %d, cut off %d; want 56, 0, 0", s.CaughtUp, s.Missed, s.CutOff)
	}
}

func TestHooks(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := free.Addr().String()
	free.Close()
	addr := serve(t, &fakeServer{hooks: to})
	res, err := run(parsed(t, addr, "-scenario", "hooks", "-receive", to, "-channels", "8", "-publishers", "2", "-count", "5", "-rate", "50", "-duration", "100ms"))
	if err != nil {
		t.Fatal(err)
	}
	if res.Paced.Delivered != 5 || res.Paced.Lost != 0 || res.Burst.Published == 0 || res.Burst.Delivered != res.Burst.Published {
		t.Errorf("paced %+v, burst %+v", res.Paced, res.Burst)
	}
}

func TestReorderedIsNotLost(t *testing.T) {
	l, err := netloop.New()
	if err != nil {
		t.Fatal(err)
	}
	tr := &tracker{m: newMeter(l, 100)}
	for _, seq := range []uint32{0, 2, 3, 1, 3} {
		tr.Body(wire.AppendMessage(nil, seq, 0, 100))
	}
	if m := tr.m; m.delivered != 4 || m.reordered != 1 || m.duplicates != 1 || len(tr.missing) != 0 || tr.next != 4 {
		t.Errorf("delivered %d, reordered %d, duplicates %d, missing %d, next %d", m.delivered, m.reordered, m.duplicates, len(tr.missing), tr.next)
	}
}

// TestZMQ plays the PULL side of ZMTP 3.0.
func TestZMQ(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		greeting := make([]byte, 64)
		if _, err := io.ReadFull(c, greeting); err != nil {
			got <- err.Error()
			return
		}
		_, _ = c.Write(greeting)
		ready := make([]byte, 28)
		_, _ = io.ReadFull(c, ready)
		_, _ = c.Write([]byte("\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PULL"))
		head := make([]byte, 2)
		_, _ = io.ReadFull(c, head)
		body := make([]byte, head[1])
		_, _ = io.ReadFull(c, body)
		got <- string(ready) + string(body)
	}()
	l, err := netloop.New()
	if err != nil {
		t.Fatal(err)
	}
	src := &source{loop: l, size: 40, format: "http-stream", seq: make([]uint32, 1)}
	p, err := newZMQPublisher(src, netip.MustParseAddrPort(ln.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	p.publish(0, nil)
	var have string
	ok, err := l.Wait(poll.Patience, func() bool {
		select {
		case have = <-got:
			return true
		default:
			return p.err != nil
		}
	})
	if !ok || err != nil {
		t.Fatal("no message", err)
	}
	if !strings.Contains(have, "PUSH") || !strings.Contains(have, `J{"channel":"c0","formats":{"http-stream":{"content":"m 00000000 `) {
		t.Errorf("got %q", have)
	}
}
