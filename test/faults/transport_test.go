//go:build faults

package faults

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// traffic is a mixed load: streams, WebSockets over HTTP, streams and long polls
// with positions, requests that are only proxied; published to over all intakes.
type traffic struct {
	t       *testing.T
	s       *stack.Stack
	origin  *backend
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	all     []*reader
	intakes []*intake
	twice   atomic.Int64 // echoes that came again
	visits  atomic.Int64
}

// newTraffic returns when all clients are there.
func newTraffic(t *testing.T, s *stack.Stack, origin *backend) *traffic {
	t.Helper()
	l := &traffic{t: t, s: s, origin: origin}
	l.ctx, l.cancel = context.WithCancel(t.Context())
	t.Cleanup(func() {
		l.cancel()
		l.wg.Wait()
	})
	push, pub := publishers(t, s)
	l.intakes = []*intake{
		{channel: "http", send: func(ctx context.Context, n int, text string) error {
			return poster(ctx, s, "http", n, text)
		}},
		{channel: "push", send: func(ctx context.Context, n int, text string) error {
			return push.Send(ctx, []byte("J"+item("push", n, text)))
		}},
		{channel: "pub", send: func(_ context.Context, n int, text string) error {
			return pub.Send([]byte("pub"), []byte("J"+item("pub", n, text)))
		}},
	}
	took := new(delays)
	var ready sync.WaitGroup
	add := func(name, channel string, run func(*reader, func())) {
		r := &reader{name: name + " " + channel, channel: channel, strict: true, delays: took}
		l.all = append(l.all, r)
		ready.Add(1)
		once := sync.OnceFunc(ready.Done)
		l.wg.Go(func() {
			defer once() // it has failed, and says so in the end
			run(r, once)
		})
	}
	for _, in := range l.intakes {
		for range 3 {
			add("stream", in.channel, func(r *reader, ready func()) {
				r.stream(l.ctx, s, "/stream?channel="+r.channel, ready)
			})
			add("socket", in.channel, func(r *reader, ready func()) {
				l.twice.Add(int64(r.socket(l.ctx, s, ready)))
			})
		}
		add("follower", in.channel, func(r *reader, ready func()) {
			ready() // there is nothing to be seen yet, and it misses nothing
			r.stream(l.ctx, s, "/follow?after=0&channel="+r.channel, nil)
		})
		add("poller", in.channel, func(r *reader, ready func()) {
			ready()
			r.poll(l.ctx, s)
		})
	}
	ready.Wait()
	for _, in := range l.intakes { // what the origin has tells followers and pollers where to begin
		l.introduce(in)
	}
	r := &reader{name: "requests", delays: took, strict: true}
	l.all = append(l.all, r)
	l.wg.Go(func() {
		for l.ctx.Err() == nil {
			visit(l.ctx, s, r)
			post(l.ctx, s, r)
			l.visits.Add(1)
		}
	})
	return l
}

// introduce publishes to a channel until all of its clients have something: a
// subscription over WebSocket takes effect after the handshake, and a PUB socket
// drops what nobody has asked for yet.
func (l *traffic) introduce(in *intake) {
	l.t.Helper()
	poll.Works(l.t, "all to get something", func() error {
		for _, r := range l.of(in.channel) {
			if r.position() == 0 {
				l.publish(in)
				return fmt.Errorf("%s gets nothing: %v", r.name, l.complaints())
			}
		}
		return nil
	})
}

func (l *traffic) of(channel string) (out []*reader) {
	for _, r := range l.all {
		if r.channel == channel {
			out = append(out, r)
		}
	}
	return out
}

func (l *traffic) publish(in *intake) {
	n, text := l.origin.add(in.channel)
	if err := in.send(l.ctx, n, text); err != nil && l.ctx.Err() == nil {
		l.t.Errorf("%s: %v", in.channel, err)
	}
}

// run publishes n messages to each channel.
func (l *traffic) run(n int) {
	var publishers sync.WaitGroup
	for _, in := range l.intakes {
		publishers.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for range n {
				l.publish(in)
				<-tick.C
			}
		})
	}
	publishers.Wait()
}

func (l *traffic) complaints() (out []string) {
	for _, r := range l.all {
		r.mu.Lock()
		for _, text := range r.wrong {
			out = append(out, r.name+": "+text)
		}
		r.mu.Unlock()
	}
	return out
}

// finish waits until every client has everything, in order and once, and nobody
// has a complaint; then the clients leave.
func (l *traffic) finish() {
	l.t.Helper()
	end := time.Now().Add(time.Minute)
	for _, r := range l.all {
		_, want := l.origin.after(r.channel, 0)
		if !poll.For(time.Until(end), func() bool { return r.position() >= want || len(l.complaints()) > 0 }) {
			l.t.Errorf("%s has %d of %d", r.name, r.position(), want)
		}
	}
	l.cancel()
	l.wg.Wait()
	for _, text := range l.complaints() {
		l.t.Error(text)
	}
	if l.visits.Load() == 0 {
		l.t.Error("no request was answered")
	}
}

// sum adds up a metric over all programs.
func sum(t *testing.T, s *stack.Stack, name string) float64 {
	t.Helper()
	var all float64
	for _, p := range []string{"connmgr.0", "proxy.0", "handler.0", "zurl.0"} {
		m, err := s.Metrics(p)
		if err != nil {
			t.Fatal(err)
		}
		all += stack.Total(m, name)
	}
	return all
}

// TestTransport lets the messages between the programs arrive late or more than
// once, loses some, and breaks connections in the middle of others, under a mixed
// load. Every client gets every message once and in order, every request is
// answered once, no program gives up another, and the books of handler and
// connmgr agree.
func TestTransport(t *testing.T) {
	for _, c := range []struct {
		name string
		// fate is what happens to the message that is the n-th of all. It is the
		// first that has a frame of some type, if first.
		fate   func(n int, first bool, p *passing) fate
		atWork string // metric that shows that the programs noticed
	}{
		{name: "delayed", fate: func(n int, _ bool, p *passing) fate {
			f := fate{delay: time.Duration(n%4) * 2 * time.Millisecond}
			if p.n == 100 {
				f.delay = time.Second
			}
			return f
		}},
		{name: "repeated", atWork: "holdfast_bus_frames_repeated_total", fate: func(n int, first bool, _ *passing) fate {
			return fate{again: n%2 == 0 || first, late: n%3 == 0}
		}},
		{name: "cut", atWork: "holdfast_bus_frames_resent_total", fate: func(n int, first bool, _ *passing) fate {
			return fate{cut: n%40 == 0 || first}
		}},
		{name: "dropped", atWork: "holdfast_bus_frames_resent_total", fate: func(n int, first bool, _ *passing) fate {
			return fate{drop: n%40 == 0 || first}
		}},
		{name: "everything", atWork: "holdfast_bus_frames_repeated_total", fate: func(n int, _ bool, _ *passing) fate {
			return fate{
				delay: time.Duration(n%3) * 3 * time.Millisecond, again: n%5 == 0, late: n%7 == 0,
				drop: n%61 == 0, cut: n%67 == 0,
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			origin := newBackend(t)
			s, r := relayed(t, []string{"bus/heartbeat=0.3", "bus/give_up=30"}, "* "+origin.addr+",over_http")
			l := newTraffic(t, s, origin)
			n, touched := 0, 0 // guarded by the relay
			seen := map[frame.Type]bool{}
			r.set(func(p *passing) fate {
				n++
				first := false
				for _, typ := range p.frames {
					first = first || !seen[typ]
					seen[typ] = true
				}
				f := c.fate(n, first, p)
				if f != (fate{}) {
					touched++
				}
				return f
			})
			l.run(300)
			l.finish()
			r.set(nil)
			if touched < 20 || len(seen) < 10 {
				t.Errorf("of %d messages only %d were touched, types %v", n, touched, seen)
			}
			if n := l.twice.Load(); n > 0 {
				t.Errorf("%d echoes came twice", n)
			}
			if c.atWork != "" && sum(t, s, c.atWork) == 0 {
				t.Errorf("%s is 0", c.atWork)
			}
			if n := sum(t, s, "holdfast_bus_peer_down_total"); n > 0 {
				t.Errorf("programs gave up each other %v times", n)
			}
			t.Logf("%d of %d messages touched; %v frames repeated, %v sent again; %d requests", touched, n,
				sum(t, s, "holdfast_bus_frames_repeated_total"), sum(t, s, "holdfast_bus_frames_resent_total"), 2*l.visits.Load())
		})
	}
}

// TestLinkLost loses everything between the programs for longer than they wait for
// each other, while all of them live. What WebSocket-over-HTTP clients say
// meanwhile reaches their origin, which hears nothing else of it; of those that
// leave meanwhile it hears, once.
func TestLinkLost(t *testing.T) {
	var mu sync.Mutex
	heard := map[string][]string{} // by path
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		events, err := wsevents.Decode(body)
		if err != nil {
			t.Errorf("%q: %v", body, err)
		}
		var out []byte
		mu.Lock()
		for _, e := range events {
			text := string(e.Type) + " " + string(e.Content)
			if e.Type != wsevents.Text || !slices.Contains(heard[r.URL.Path], text) { // which may be repeated
				heard[r.URL.Path] = append(heard[r.URL.Path], text)
			}
			switch e.Type {
			case wsevents.Open:
				out = wsevents.Append(out, e)
			case wsevents.Text:
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: append([]byte("got "), e.Content...)})
			}
		}
		mu.Unlock()
		w.Header().Set("Content-Type", wsevents.ContentType)
		_, _ = w.Write(out)
	}))
	defer srv.Close()
	s, r := relayed(t, []string{"bus/heartbeat=0.2", "bus/give_up=2"}, "* "+srv.Listener.Addr().String()+",over_http")
	connect := func(path string) (say func(string), hear func(string), leave func()) {
		ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+s.HTTP+path, nil)
		if err != nil {
			t.Fatalf("%v: %+v", err, resp)
		}
		t.Cleanup(func() { _ = ws.Close() })
		_ = ws.SetReadDeadline(time.Now().Add(2 * time.Minute))
		say = func(text string) {
			if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		last := ""
		hear = func(want string) {
			for {
				_, got, err := ws.ReadMessage()
				if err == nil && string(got) == last {
					continue // its request was repeated
				}
				if last = want; err != nil || string(got) != want {
					t.Fatalf("%s: got %q, %v; want %q", path, got, err, want)
				}
				return
			}
		}
		say("1")
		hear("got 1")
		return say, hear, func() { _ = ws.NetConn().Close() }
	}
	saySilent, hearSilent, _ := connect("/silent")
	saySpeaks, hearSpeaks, _ := connect("/speaks")
	_, _, leaveEarly := connect("/early")
	_, _, leaveLate := connect("/late")

	r.set(func(*passing) fate { return fate{drop: true} })
	saySpeaks("2")
	leaveEarly() // before anybody knows of the loss
	for _, kind := range []string{"connmgr", "proxy"} {
		poll.Until(t, kind+" to be given up", func() bool { return len(knowing(t, s, kind)) == 0 })
	}
	leaveLate()
	saySpeaks("3")
	poll.Until(t, "connmgr to notice who has left", func() bool {
		m, err := s.Metrics("connmgr.0")
		return err == nil && stack.Total(m, "holdfast_connmgr_connections") == 2
	})
	r.set(nil)

	hearSpeaks("got 2")
	hearSpeaks("got 3")
	saySilent("2")
	hearSilent("got 2")
	want := map[string]string{
		"/silent": "OPEN  TEXT 1 TEXT 2", "/speaks": "OPEN  TEXT 1 TEXT 2 TEXT 3",
		"/early": "OPEN  TEXT 1 DISCONNECT ", "/late": "OPEN  TEXT 1 DISCONNECT ",
	}
	poll.Works(t, "the origin to hear everything", func() error {
		mu.Lock()
		defer mu.Unlock()
		for path, events := range want {
			if got := strings.Join(heard[path], " "); got != events {
				return fmt.Errorf("%s: %q, want %q", path, got, events)
			}
		}
		return nil
	})
}
