package connmgr

import (
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

// leftOver waits until n sessions are over and not confirmed.
func (r *wsRig) leftOver(n int) {
	r.t.Helper()
	poll.Until(r.t, "ends to be confirmed", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.left) == n && (n > 0 || r.s.leftBytes == 0)
	})
}

// orphaned waits until it is noticed that the session of c has no proxy.
func (r *wsRig) orphaned(c *wsClient) {
	r.t.Helper()
	poll.Until(r.t, "the session is an orphan", func() bool {
		x := r.s.exchange(c.id)
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.ws.orphan
	})
}

// toldEnd wants a session that is over: its request, and then the end of it.
func toldEnd(t *testing.T, p *far, id uint64, session string, reason frame.Reason) {
	t.Helper()
	req := next[*frame.Request](p)
	if req.ID != id || string(req.Session) != session || !req.Resend {
		t.Errorf("handed on: %+v", req)
	}
	if f := next[*frame.Cancel](p); f.ID != id || f.Seq != 1 || f.Reason != reason {
		t.Errorf("the end of it: %+v", f)
	}
}

// A client that leaves while no proxy is up: the next one tells the origin.
func TestSessionEndsWithoutProxy(t *testing.T) {
	r := newWSRig(t)
	c := r.open("first")
	r.settled(c)
	r.p.stop()
	r.orphaned(c)
	_ = c.Close()
	r.leftOver(1)
	p := r.far("proxy.0", nil)
	toldEnd(t, p, c.id, "first", frame.ReasonClientGone)
	p.send(&frame.Cancel{ID: c.id, Reason: frame.ReasonFinished})
	r.leftOver(0)
}

// The end is told again until a proxy has confirmed it, and not after that.
func TestSessionEndIsConfirmed(t *testing.T) {
	for name, again := range map[string]func(r *wsRig) *far{
		"out of reach": func(r *wsRig) *far {
			r.net.Cut("connmgr.0", "proxy.0")
			r.net.Join("connmgr.0", "proxy.0")
			return r.p
		},
		"killed": func(r *wsRig) *far {
			r.p.stop()
			return r.far("proxy.0", nil)
		},
		"killed, and there is another": func(r *wsRig) *far {
			p := r.far("proxy.1", nil)
			r.p.stop()
			return p
		},
		"about to stop": func(r *wsRig) *far {
			p := r.far("proxy.1", nil)
			r.s.mu.Lock()
			for id := range r.s.left {
				r.p.send(&frame.Cancel{ID: id, Reason: frame.ReasonRefused}, &frame.Cancel{ID: id, Reason: frame.ReasonFinished})
			}
			r.s.mu.Unlock()
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newWSRig(t)
			c := r.open("first")
			r.settled(c)
			_ = c.Close()
			if f := next[*frame.Cancel](r.p); f.ID != c.id || f.Reason != frame.ReasonClientGone {
				t.Fatalf("the end: %+v", f)
			}
			r.leftOver(1)
			p := again(r)
			toldEnd(t, p, c.id, "first", frame.ReasonClientGone)
			r.leftOver(1)
			p.send(&frame.Cancel{ID: c.id, Reason: frame.ReasonFinished})
			r.leftOver(0)
		})
	}
}

// A publication closes a client whose proxy is gone: the origin still gets what
// the client had said, and then hears that it is over.
func TestSessionIsShutWithoutProxy(t *testing.T) {
	r := newWSRig(t)
	c := r.open("first", "g")
	r.p.stop()
	r.orphaned(c)
	c.frame(0x81, "last words")
	poll.Until(t, "it is there", func() bool {
		x := r.s.exchange(c.id)
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.ws.parts) == 1
	})
	r.h.send(&frame.Deliver{Pub: 1, Group: "g", Mode: frame.ModeWebSocket, Action: frame.ActionClose, Code: 4000})
	c.want(0x88, status(4000, ""))
	c.frame(0x88, status(4000, ""))
	_ = c.end()
	p := r.far("proxy.0", nil)
	if req := next[*frame.Request](p); req.ID != c.id || string(req.Session) != "first" {
		t.Errorf("handed on: %+v", req)
	}
	if f := next[*frame.Message](p); f.Seq != 1 || string(f.Data) != "last words" {
		t.Errorf("message %+v", f)
	}
	if f := next[*frame.Tune](p); f.Seq != 2 || f.Op != frame.TuneShut {
		t.Errorf("the end of it: %+v", f)
	}
	r.leftOver(1)
	p.send(&frame.Cancel{ID: c.id, Reason: frame.ReasonFinished})
	r.leftOver(0)
}

// What is kept of ended sessions is bounded, and what is not kept is counted.
func TestLeftSessionsAreBounded(t *testing.T) {
	for name, fill := range map[string]func(s *Server){
		"sessions": func(s *Server) {
			for id := range uint64(maxLeft) {
				s.left[1<<40+id] = &left{}
			}
		},
		"bytes": func(s *Server) { s.leftBytes = maxLeftBytes },
	} {
		t.Run(name, func(t *testing.T) {
			r := newWSRig(t)
			c := r.open("first")
			r.settled(c)
			r.s.mu.Lock()
			fill(r.s)
			r.s.mu.Unlock()
			_ = c.Close()
			next[*frame.Cancel](r.p)
			poll.Until(t, "it is counted", func() bool { return counterValue(r.s.metrics.endedDropped) == 1 })
			r.s.mu.Lock()
			defer r.s.mu.Unlock()
			if r.s.left[c.id] != nil {
				t.Error("it is kept all the same")
			}
		})
	}
}
