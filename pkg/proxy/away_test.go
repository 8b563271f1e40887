package proxy

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

// next waits for the next request, which must have that body, and answers it.
func (e *events) next(t *testing.T, body, answer string) {
	t.Helper()
	if req := within(t, e.reqs); req.body != body {
		t.Fatalf("request %q, want %q", req.body, body)
	}
	e.answer(answer)
}

// A connmgr that was out of reach for a while gives its sessions to the same proxy
// again, under the same numbers. The origin hears nothing of it, whatever the
// session was doing, and the end of the old exchange leaves the new one alone.
func TestWebSocketOverHTTPComesBack(t *testing.T) {
	for name, asking := range map[string]bool{"it waits": false, "a request is under way": true} {
		t.Run(name, func(t *testing.T) {
			e := newEvents(t)
			r := newRig(t, e.route(), nil)
			x := e.open(t, r)
			x.text("one")
			e.next(t, event("TEXT", "one"), event("TEXT", "m:1"))
			x.message(frame.MessageText, "1")
			if asking {
				x.text("two")
				if req := within(t, e.reqs); req.body != event("TEXT", "two") {
					t.Fatalf("request %q", req.body)
				}
			}
			last := wants[*frame.Session](x)
			ups := r.conn.ups.Load()
			r.net.Cut("connmgr.0", "proxy.0")
			waitPeer(t, r.srv.opts.Bus, "connmgr", 0)
			r.log.wait(t, "its sessions stand still")
			if asking {
				e.answer(event("TEXT", "m:for nobody"))
			}
			r.net.Join("connmgr.0", "proxy.0")
			waitPeer(t, r.srv.opts.Bus, "connmgr", 1)
			poll.Until(t, "connmgr to be done with what came before", func() bool { return r.conn.ups.Load() > ups })
			r.conn.mu.Lock()
			r.conn.next = x.id - 1
			r.conn.mu.Unlock()
			y := r.upgrade(frame.Request{Session: last.Record, Resend: true})
			y.text("two")
			e.next(t, event("TEXT", "two"), event("TEXT", "m:2"))
			y.message(frame.MessageText, "2")
			poll.Until(t, "the exchange is the only open one", func() bool { return testutil.ToFloat64(r.srv.metrics.open) == 1 })
			y.text("three")
			e.next(t, event("TEXT", "three"), "")
			y.send(&frame.Cancel{Reason: frame.ReasonClientGone})
			e.next(t, "DISCONNECT\r\n", "")
			if f := wants[*frame.Cancel](y); f.Reason != frame.ReasonFinished {
				t.Errorf("the end was answered with %+v", f)
			}
			if len(e.reqs) > 0 {
				t.Errorf("another request: %q", (<-e.reqs).body)
			}
		})
	}
}

// When connmgr is known to be dead, or nothing is heard of it for very long, the
// origin is told that the client is gone: once.
func TestWebSocketOverHTTPStaysAway(t *testing.T) {
	for _, test := range []struct {
		name string
		lose func(r *rig, later func())
	}{
		{"killed", func(r *rig, _ func()) { r.net.Kill("connmgr.0") }},
		{"another boot", func(r *rig, _ func()) {
			r.net.Cut("connmgr.0", "proxy.0")
			r.log.wait(r.t, "its sessions stand still")
			r.net.Kill("connmgr.0")
			n := r.net.Node("connmgr.0")
			r.runNode(n, &fakeConnmgr{r: r, node: n})
			r.net.Join("connmgr.0", "proxy.0")
		}},
		{"killed while it was out of reach", func(r *rig, _ func()) {
			r.net.Cut("connmgr.0", "proxy.0")
			r.log.wait(r.t, "its sessions stand still")
			r.net.Kill("connmgr.0")
			r.net.Join("connmgr.0", "proxy.0")
		}},
		{"out of reach for too long", func(r *rig, later func()) {
			r.net.Cut("connmgr.0", "proxy.0")
			r.log.wait(r.t, "its sessions stand still")
			later()
			r.log.wait(r.t, "its sessions are given up")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEvents(t)
			var later atomic.Int64
			r := newRig(t, e.route(), func(o *Options) {
				o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
				o.AfterFunc = func(d time.Duration, f func()) func() bool { return time.AfterFunc(min(d, time.Millisecond), f).Stop }
			})
			x := e.open(t, r)
			x.text("one")
			if req := within(t, e.reqs); req.body != event("TEXT", "one") {
				t.Fatalf("request %q", req.body)
			}
			test.lose(r, func() { later.Store(int64(awayTime)) })
			e.answer("") // whatever it is now, it is for nobody
			e.next(t, "DISCONNECT\r\n", "")
			poll.Until(t, "no exchange is open", func() bool { return testutil.ToFloat64(r.srv.metrics.open) == 0 })
			if len(e.reqs) > 0 {
				t.Errorf("another request: %q", (<-e.reqs).body)
			}
		})
	}
}

// A proxy that stops while connmgr is out of reach tells no origin anything: the
// next proxy will know better.
func TestStopWhileConnmgrIsAway(t *testing.T) {
	e := newEvents(t)
	r := newRig(t, e.route(), nil)
	x := e.open(t, r)
	x.text("one")
	e.next(t, event("TEXT", "one"), event("TEXT", "m:1"))
	x.message(frame.MessageText, "1")
	r.net.Cut("connmgr.0", "proxy.0")
	r.log.wait(t, "its sessions stand still")
	r.stop()
	if err := within(t, r.stopped); err != nil {
		t.Error(err)
	}
	r.stopped <- nil // for the end of the test
	if len(e.reqs) > 0 {
		t.Errorf("request %q", (<-e.reqs).body)
	}
}

// An end that comes for an exchange that is over is confirmed, too.
func TestLateEndIsConfirmed(t *testing.T) {
	e := newEvents(t)
	r := newRig(t, e.route(), nil)
	x := e.open(t, r)
	x.text("one")
	e.next(t, event("TEXT", "one"), event("CLOSE", "\x0f\xa2")) // 4002
	x.closed(4002, "")
	x.send(&frame.Message{Kind: frame.MessageClose, Code: 4002})
	e.next(t, event("CLOSE", "\x0f\xa2"), "")
	poll.Until(t, "no exchange is open", func() bool { return testutil.ToFloat64(r.srv.metrics.open) == 0 })
	x.send(&frame.Cancel{Reason: frame.ReasonClientGone})
	if f := wants[*frame.Cancel](x); f.Reason != frame.ReasonFinished {
		t.Errorf("the end was answered with %+v", f)
	}
}
