package handler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
)

// A new handler knows all holds before it takes its first publish.
func TestRestart(t *testing.T) {
	const n = 10000
	r := newRig(t)
	holds := make([]*fakeHold, n)
	r.wait("the proxy knows the handler", func() bool { return len(r.proxy.node.Peers("handler")) == 1 })
	for i := range holds {
		mode := frame.ModeStream
		if i%2 == 0 {
			mode = frame.ModeResponse
		}
		h, a := r.offer(mode, ch(fmt.Sprint("own-", i)), ch("all"))
		if i%10 == 0 {
			a.Channels[1].Filters = []string{"skip-self"}
			a.Meta = []frame.Field{{Name: "user", Value: fmt.Sprint("u", i)}}
		}
		a.RouteNamed = i%3 == 0
		if err := r.proxy.node.Send("handler.0", frame.Encode(a)); err != nil {
			t.Fatal(err)
		}
		holds[i] = h
	}
	r.wait("all are held", func() bool { return r.metric("holdfast_handler_holds", "") == n })

	r.stop()
	r.run()
	r.wait("the handler answers", func() bool { return strings.Contains(r.post("/publish/", `{"items":[]}`), "HTTP/1.1 ") })
	r.wait("the handler is ready", r.s.Ready)
	if got := r.metric("holdfast_handler_holds", ""); got != n {
		t.Fatalf("%v holds rebuilt, want %d", got, n)
	}
	if got := r.metric("holdfast_handler_subscriptions", ""); got != 2*n {
		t.Errorf("%v subscriptions rebuilt, want %d", got, 2*n)
	}
	r.publish(
		`{"channel":"all","meta":{"sender":"u10"},"http-stream":{"content":"s"},"http-response":{"body":"r"}}`,
		stream("own-7", "mine"))
	r.expect(holds[7], "s", "mine")
	r.expect(holds[0], "r")
	r.expect(holds[10]) // sent by itself
	delivered, dropped := r.balanced()
	if delivered != n || dropped != 1 {
		t.Errorf("delivered %d, dropped %d; want %d and 1", delivered, dropped, n)
	}
	// Numbers go on: the new boot can end a hold of the old one.
	r.publish(`{"channel":"own-10","http-response":{"action":"hint"}}`)
	r.wait("the poll is retried", func() (ok bool) {
		r.conn.get(func() { ok = holds[10].retry != nil })
		return ok
	})
}

// Until a connmgr that is up has sent all records, publishes are refused.
func TestNotReady(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.net.Pause("connmgr.0")
	r.run()
	r.wait("connmgr is known", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.peers) == 1
	})
	got := r.post("/publish/", `{"items":[]}`)
	if !strings.HasPrefix(got, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n") {
		t.Errorf("got %q", got)
	}
	if got := r.raw("GET / HTTP/1.1\r\n\r\n"); !strings.HasSuffix(got, "Pushpin API\n") {
		t.Errorf("got %q", got)
	}
	// One that goes away instead, however late, keeps nobody waiting.
	r.wait("the first second is over", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.waited
	})
	if r.s.Ready() {
		t.Fatal("ready without the records")
	}
	r.net.Kill("connmgr.0")
	r.net.Resume("connmgr.0")
	r.wait("the handler is ready", r.s.Ready)
}

// A connmgr that is there and was not heard of is waited for, too: it may hold
// subscribers.
func TestNotReadyBeforeAll(t *testing.T) {
	r := newRig(t)
	r.stop()
	other := r.net.Node("connmgr.1")
	r.run()
	r.wait("connmgr.0 has sent its records", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		p := r.s.peers["connmgr.0"]
		return p != nil && p.done && r.s.waited
	})
	if r.s.Ready() {
		t.Fatal("ready without connmgr.1")
	}
	if got := r.post("/publish/", `{"items":[]}`); !strings.HasPrefix(got, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n") {
		t.Errorf("got %q", got)
	}
	r.net.Kill(other.Name())
	r.wait("the handler is ready", r.s.Ready)
}

// With no connmgr at all the handler waits a second for one.
func TestReadyAlone(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.conn.stop()
	r.run()
	r.wait("the handler is ready", r.s.Ready)
}

// An Accept for a connmgr that the handler does not know yet waits for it.
func TestParkedAccept(t *testing.T) {
	r := newRig(t)
	r.net.Cut("connmgr.0", "handler.0")
	r.wait("connmgr is out of reach", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.peers) == 0
	})
	h, a := r.offer(frame.ModeStream, ch("a"))
	if err := r.proxy.node.Send("handler.0", frame.Encode(a)); err != nil {
		t.Fatal(err)
	}
	r.wait("the Accept waits", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.parked) == 1
	})
	r.net.Join("connmgr.0", "handler.0")
	if got := r.hand(a); !got.OK {
		t.Fatalf("got %+v", got)
	}
	r.publish(stream("a", "x"))
	r.expect(h, "x")
}

// A hold whose record cannot be read would get nothing any more, and nobody would
// notice. It is ended; the others stand.
func TestBadRecord(t *testing.T) {
	r := newRig(t)
	bad, good := r.hold(frame.ModeStream, ch("a")), r.hold(frame.ModeStream, ch("a"))
	r.conn.get(func() { bad.record, r.conn.gaps = []byte("\xc1"), true })
	r.stop()
	r.start()
	r.wait("the hold is ended", func() (over bool) {
		r.conn.get(func() { over = bad.over })
		return over
	})
	r.publish(stream("a", "x"))
	r.expect(good, "x")
	if n := r.metric("holdfast_handler_holds", ""); n != 1 {
		t.Errorf("%v holds, want 1", n)
	}
	r.clock.advance(31 * time.Second)
	r.balanced()
}

// A frame that does not fit into the queue to connmgr ends its hold, and that
// only, as soon as there is room again: connmgr has to see that it is missing.
func TestFrameLost(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{"http://example.com/gone": {answer(200, "")}})
	r.conn.get(func() { r.conn.gaps = true })
	lost := r.holdWith(frame.ModeStream, func(a *frame.Accept) { a.Gone = "http://example.com/gone" }, ch("a"))
	other := r.hold(frame.ModeStream, ch("a"))

	r.net.SetQueueBytes(1)
	_, a := r.offer(frame.ModeStream, ch("a"))
	r.s.mu.Lock()
	p := r.s.peers[r.conn.name]
	if r.s.hold(r.proxy.name, p, a) {
		t.Error("a hold that connmgr does not know of stands")
	}
	r.s.endStream(p.holds[lost.id], "")
	r.s.mu.Unlock()
	r.net.SetQueueBytes(bustest.DefaultQueueBytes)

	r.expectFetches("POST http://example.com/gone")
	r.publish(stream("a", "x"))
	r.expect(other, "x")
	r.expect(lost)
	if n := r.metric("holdfast_handler_holds", ""); n != 1 {
		t.Errorf("%v holds, want 1", n)
	}
	if delivered, dropped := r.balanced(); delivered != 1 || dropped != 0 {
		t.Errorf("delivered %d, dropped %d; want 1 and 0", delivered, dropped)
	}
}
