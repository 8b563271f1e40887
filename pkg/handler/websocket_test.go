package handler

import (
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

// control sends a Control and waits for its answer.
func (r *rig) control(h *fakeHold, c *frame.Control) *frame.Control {
	r.t.Helper()
	r.proxy.mu.Lock()
	seen := len(r.proxy.controls)
	r.proxy.mu.Unlock()
	c.X = frame.XID{Conn: r.conn.name, Boot: r.conn.node.Boot(), ID: h.id}
	c.N = 42
	if err := r.proxy.node.Send("handler.0", frame.Encode(c)); err != nil {
		r.t.Fatal(err)
	}
	var got *frame.Control
	r.wait("the handler answers", func() bool {
		r.proxy.mu.Lock()
		defer r.proxy.mu.Unlock()
		if len(r.proxy.controls) > seen {
			got = r.proxy.controls[seen]
		}
		return got != nil
	})
	if got.Op != frame.ControlAck || got.N != 42 {
		r.t.Errorf("got %+v, want an answer to 42", got)
	}
	return got
}

func text(channel, content string) string {
	return fmt.Sprintf(`{"channel":%q,"ws-message":{"content":%q}}`, channel, content)
}

func TestWebSocket(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeWebSocket, frame.Channel{Name: "impl", Implicit: true})
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "a"})
	r.publish(text("a", "1"), text("impl", "2"), stream("a", "-"))
	r.expect(h, "1", "2")
	r.conn.get(func() {
		if d := h.deliver[0]; d.Kind != frame.MessageText || d.Mode != frame.ModeWebSocket {
			t.Errorf("got %+v", d)
		}
	})

	// Filters come with the subscription, their variables at any time.
	r.control(h, &frame.Control{Op: frame.ControlMeta, Fields: []frame.Field{{Name: "user", Value: "al"}}})
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "a", List: []string{"var-subst"}})
	r.publish(text("a", "hi %(user)s"))
	r.expect(h, "1", "2", "hi al")
	r.control(h, &frame.Control{Op: frame.ControlMeta, List: []string{"user"}})
	r.publish(text("a", "hi %(user)s")) // fails, is skipped
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "a"})

	r.control(h, &frame.Control{Op: frame.ControlUnsubscribe, Channel: "impl"})
	r.control(h, &frame.Control{Op: frame.ControlUnsubscribe, Channel: "nope"})
	r.publish(text("impl", "3"))
	r.expect(h, "1", "2", "hi al", "3")

	if got := r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "b", List: make([]string, 6)}); got.Text != "too many filters for channel 'b'" {
		t.Errorf("got %q", got.Text)
	}

	// All of it survives a restart of the handler.
	r.stop()
	r.start()
	r.publish(text("a", "4"), text("impl", "5"))
	r.expect(h, "1", "2", "hi al", "3", "4", "5")
	r.control(h, &frame.Control{Op: frame.ControlUnsubscribe, Channel: "a"})
	r.publish(text("a", "-"), `{"channel":"impl","ws-message":{"action":"close","code":4100,"reason":"why"}}`, text("impl", "late"))
	r.expect(h, "1", "2", "hi al", "3", "4", "5", "")
	r.conn.get(func() {
		if d := h.deliver[len(h.deliver)-1]; d.Action != frame.ActionClose || d.Code != 4100 || d.Reason != "why" {
			t.Errorf("got %+v", d)
		}
	})
	r.wait("the hold is forgotten", func() bool { return r.metric("holdfast_handler_holds", "") == 0 })
	r.flush()
	r.balanced()
}

func TestWebSocketLimit(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeWebSocket)
	for i := range 22 {
		r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: fmt.Sprint("L", i)})
	}
	r.publish(text("L19", "19"), text("L20", "20"))
	r.control(h, &frame.Control{Op: frame.ControlUnsubscribe, Channel: "L0"})
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "L21"})
	r.publish(text("L0", "0"), text("L21", "21"))
	r.expect(h, "19", "21")
}

// What an origin may have remembered for a connection is bounded: connmgr gets all
// of it with every change, and the next handler has to be able to read it.
func TestWebSocketMetaLimit(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeWebSocket)
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "a", List: []string{"var-subst"}})
	set := func(name, value string) string {
		return r.control(h, &frame.Control{Op: frame.ControlMeta, Fields: []frame.Field{{Name: name, Value: value}}}).Text
	}
	for i := range frame.MaxGiven {
		if fault := set(fmt.Sprint("m", i), "v"); fault != "" {
			t.Fatalf("variable %d: %s", i, fault)
		}
	}
	if got, want := set("more", "v"), "too many meta variables"; got != want {
		t.Errorf("one more: got %q, want %q", got, want)
	}
	if fault := set("m5", "w"); fault != "" {
		t.Errorf("another value: %s", fault)
	}
	if got, want := set("m5", strings.Repeat("v", maxMeta)), "too many meta variables"; got != want {
		t.Errorf("a long one: got %q, want %q", got, want)
	}
	r.stop()
	r.start()
	r.publish(text("a", "%(m5)s"))
	r.expect(h, "w")
}

// A filter that fails closes the connection on a debug route.
func TestWebSocketFault(t *testing.T) {
	r := newRig(t)
	h := r.holdWith(frame.ModeWebSocket, func(a *frame.Accept) { a.Debug = true }, frame.Channel{Name: "a", Filters: []string{"var-subst"}})
	r.publish(`{"channel":"a","ws-message":{"content":"x","content-filters":[]}}`)
	r.wait("the connection is closed", func() (ok bool) {
		r.conn.get(func() { ok = h.finish != nil })
		return ok
	})
	if h.finish.Code != 1011 || h.finish.Reason != "content filter mismatch: subscription=var-subst message=" {
		t.Errorf("got %+v", h.finish)
	}
}

func TestRefresh(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeWebSocket, ch("a"))
	r.publish(`{"channel":"a","ws-message":{"action":"refresh"}}`)
	r.wait("the proxy is told", func() bool {
		r.proxy.mu.Lock()
		defer r.proxy.mu.Unlock()
		return len(r.proxy.controls) == 1 && r.proxy.controls[0].Op == frame.ControlRefresh && r.proxy.controls[0].X.ID == h.id
	})
}
