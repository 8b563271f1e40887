package handler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/filter"
	"github.com/holdfast/holdfast/pkg/frame"
)

func TestStreamPublish(t *testing.T) {
	r := newRig(t)
	a1, a2, b := r.hold(frame.ModeStream, ch("a")), r.hold(frame.ModeStream, ch("a"), ch("x")), r.hold(frame.ModeStream, ch("b"))
	poll := r.hold(frame.ModeResponse, ch("a"))
	r.publish(stream("a", "1"), stream("nobody", "-"), stream("x", "2"), stream("b", "3"))
	r.expect(a1, "1")
	r.expect(a2, "1", "2")
	r.expect(b, "3")
	r.conn.get(func() {
		if a1.deliver[0].Group == "" || a1.deliver[0] != a2.deliver[0] {
			t.Error("two members of a channel did not share one frame")
		}
	})
	r.expect(poll) // http-stream is not for it
	if delivered, dropped := r.balanced(); delivered != 4 || dropped != 0 {
		t.Errorf("delivered %d, dropped %d; want 4 and 0", delivered, dropped)
	}
	r.conn.leave(a1)
	r.wait("the hold is forgotten", func() bool { return r.metric("holdfast_handler_holds", "http-stream") == 2 })
	r.publish(stream("a", "4"))
	r.expect(a2, "1", "2", "4")
	r.expect(a1, "1")
}

func TestResponsePublish(t *testing.T) {
	r := newRig(t)
	h1, h2 := r.hold(frame.ModeResponse, ch("a"), ch("b")), r.hold(frame.ModeResponse, ch("a"))
	r.publish(
		`{"channel":"a","http-response":{"code":201,"reason":"Yes","headers":{"X-B":"2","Grip-Foo":"x"},"body":"hey\n"}}`,
		`{"channel":"a","http-response":{"body":"second"}}`,
		`{"channel":"b","http-response":{"body":"third"}}`)
	r.expect(h1, "hey\n")
	r.expect(h2, "hey\n")
	r.conn.get(func() {
		d := h1.deliver[0]
		if d.Code != 201 || d.Reason != "Yes" || len(d.Header) != 1 || d.Header[0] != (frame.Field{Name: "X-B", Value: "2"}) {
			t.Errorf("got %+v", d)
		}
	})
	// Each poll counts once: the later items met nobody.
	if delivered, dropped := r.balanced(); delivered != 2 || dropped != 0 {
		t.Errorf("delivered %d, dropped %d; want 2 and 0", delivered, dropped)
	}
	r.wait("the holds are forgotten", func() bool { return r.metric("holdfast_handler_holds", "") == 0 })
	if n := r.metric("holdfast_handler_channels", ""); n != 2 {
		t.Errorf("%v channels linger, want 2", n)
	}
	r.clock.advance(61 * time.Second)
	r.wait("lingering ends", func() bool { return r.metric("holdfast_handler_channels", "") == 0 })
}

func TestCloseAction(t *testing.T) {
	r := newRig(t)
	h, poll := r.hold(frame.ModeStream, ch("a")), r.hold(frame.ModeResponse, ch("a"))
	r.publish(`{"channel":"a","http-stream":{"action":"close"},"http-response":{"action":"close"}}`, stream("a", "late"))
	r.expect(h, "")
	r.conn.get(func() {
		if h.deliver[0].Action != frame.ActionClose {
			t.Errorf("got action %v", h.deliver[0].Action)
		}
	})
	r.flush()
	r.expect(h, "")
	r.expect(poll)
}

func TestChannelLimitAndImplicit(t *testing.T) {
	r := newRig(t)
	var channels []frame.Channel
	for i := range 25 {
		channels = append(channels, ch(fmt.Sprint("pre-", i)))
	}
	channels = append(channels, frame.Channel{Name: "impl", Implicit: true})
	h := r.holdWith(frame.ModeStream, func(a *frame.Accept) { a.Prefix = "pre-" }, channels...)
	for i := range 25 {
		r.publish(stream(fmt.Sprint("pre-", i), fmt.Sprint(i)))
	}
	r.publish(stream("impl", "i"))
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
	}
	r.expect(h, append(want, "i")...)
}

func TestPrevIDWithoutNextLink(t *testing.T) {
	for _, debug := range []bool{false, true} {
		r := newRig(t)
		h := r.holdWith(frame.ModeStream, func(a *frame.Accept) {
			a.Debug, a.Body, a.Prefix = debug, []byte("body"), "p-"
		}, frame.Channel{Name: "p-a", HasPrevID: true, PrevID: "1"})
		want := ""
		if debug {
			want = "\n\nchannel 'a' specifies prev-id, but no next link found\n"
		}
		r.wait("the stream ends", func() (ok bool) {
			r.conn.get(func() { ok = h.finish != nil })
			return ok
		})
		if got := string(h.finish.Body); got != want || string(h.hold.Body) != "body" {
			t.Errorf("debug %v: got %q after %q, want %q", debug, got, h.hold.Body, want)
		}
	}
}

func TestHint(t *testing.T) {
	r := newRig(t)
	poll := r.hold(frame.ModeResponse, ch("a"))
	h := r.hold(frame.ModeStream, ch("a")) // no next link: nothing happens
	r.publish(`{"channel":"a","formats":{"http-response":{"action":"hint"},"http-stream":{"action":"hint"},"ws-message":{"action":"hint"}}}`)
	r.wait("the poll is retried", func() (ok bool) {
		r.conn.get(func() { ok = poll.retry != nil })
		return ok
	})
	if poll.retry.Route != "r1" || len(poll.retry.Last) != 0 {
		t.Errorf("got %+v", poll.retry)
	}
	r.publish(stream("a", "x"))
	r.expect(h, "x")
	if delivered, dropped := r.balanced(); delivered != 1 || dropped != 0 {
		t.Errorf("delivered %d, dropped %d; a hint is no delivery", delivered, dropped)
	}
}

// A poll whose origin knows an older position than we do is sent back at once,
// and one whose message does not follow when its turn comes.
func TestPollPositions(t *testing.T) {
	r := newRig(t)
	at := func(id string) frame.Channel { return frame.Channel{Name: "pre-c", HasPrevID: true, PrevID: id} }
	prefix := func(a *frame.Accept) { a.Prefix = "pre-" }
	first := r.holdWith(frame.ModeResponse, prefix, at("1"))
	r.publish(`{"channel":"pre-c","id":"2","prev-id":"1","http-response":{"body":"two"}}`)
	r.expect(first, "two")

	retried := func(h *fakeHold) *frame.Retry {
		t.Helper()
		r.wait("the poll is retried", func() (ok bool) {
			r.conn.get(func() { ok = h.retry != nil })
			return ok
		})
		return h.retry
	}
	old := r.holdWith(frame.ModeResponse, prefix, at("1"))
	if got := retried(old); len(got.Last) != 1 || got.Last[0] != (frame.LastID{Channel: "c", ID: "1"}) {
		t.Errorf("got %+v, want position 1 of c", got.Last)
	}
	// The conflict made us forget our own position.
	same := r.holdWith(frame.ModeResponse, prefix, at("1"))
	r.publish(`{"channel":"pre-c","id":"4","prev-id":"3","http-response":{"body":"four"}}`)
	r.flush()
	r.expect(same)
	if got := retried(same); len(got.Last) != 1 || got.Last[0].ID != "1" {
		t.Errorf("got %+v, want position 1", got.Last)
	}
	r.balanced()
}

func TestFirstSubscription(t *testing.T) {
	r := newRig(t, func(o *Options) { o.UpdateOnFirstSubscription = true })
	h := r.hold(frame.ModeResponse, ch("cold"))
	r.flush()
	if h.retry != nil {
		t.Fatal("retried too early")
	}
	r.clock.advance(time.Second)
	r.wait("the poll is retried", func() (ok bool) {
		r.conn.get(func() { ok = h.retry != nil })
		return ok
	})
	again := r.hold(frame.ModeResponse, ch("cold")) // it lingered
	r.clock.advance(2 * time.Second)
	r.flush()
	r.publish(`{"channel":"cold","http-response":{"body":"x"}}`)
	r.expect(again, "x")
}

func TestAcceptRepeatedAndRefused(t *testing.T) {
	r := newRig(t)
	h, a := r.offer(frame.ModeStream, ch("a"))
	for range 2 {
		if got := r.hand(a); !got.OK {
			t.Fatalf("got %+v", got)
		}
		r.proxy.mu.Lock()
		delete(r.proxy.accepted, a.X.ID)
		r.proxy.mu.Unlock()
	}
	r.publish(stream("a", "x"))
	r.expect(h, "x") // held once

	_, bad := r.offer(frame.ModeNone)
	if got := r.hand(bad); got.OK || got.Code != "bad-request" {
		t.Errorf("neither hold nor link: got %+v", got)
	}
	_, stranger := r.offer(frame.ModeStream, ch("a"))
	stranger.X.Boot = 4711
	if err := r.proxy.node.Send("handler.0", frame.Encode(stranger)); err != nil {
		t.Fatal(err)
	}
	r.wait("it waits for its connmgr", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.parked) == 1
	})
	r.clock.advance(time.Minute)
	if got := r.hand(stranger); got.OK || got.Code != "service-unavailable" {
		t.Errorf("unknown connmgr: got %+v", got)
	}
}

// A client that is gone before its Hold arrives is forgotten.
func TestHoldForGoneClient(t *testing.T) {
	r := newRig(t)
	h, a := r.offer(frame.ModeStream, ch("a"))
	r.conn.get(func() { h.over = true })
	r.hand(a)
	r.wait("the hold is forgotten", func() bool {
		return r.metric("holdfast_handler_holds", "") == 0 && r.metric("holdfast_handler_channels", "") == 0
	})
}

func TestLostReports(t *testing.T) {
	r := newRig(t)
	h1, h2 := r.hold(frame.ModeStream, ch("a")), r.hold(frame.ModeStream, ch("a"))
	// One client leaves, and a publication is sent before the handler knows.
	r.conn.get(func() { h2.unclosed = true })
	r.publish(stream("a", "x"))
	r.expect(h1, "x")
	r.wait("one of two is reported", func() bool { return r.metric("holdfast_handler_pending_deliveries", "") == 1 })
	r.clock.advance(31 * time.Second)
	r.balanced()
	if n := r.metric("holdfast_handler_dropped_total", "client-gone"); n != 1 {
		t.Errorf("%v dropped because the client was gone, want 1", n)
	}

	// connmgr dies with reports outstanding.
	r.conn.get(func() { r.conn.mute = true })
	r.publish(stream("a", "y"))
	r.expect(h1, "x", "y")
	r.net.Kill("connmgr.0")
	r.wait("the holds are forgotten", func() bool { return r.metric("holdfast_handler_holds", "") == 0 })
	r.balanced()
	if n := r.metric("holdfast_handler_dropped_total", "peer-lost"); n != 2 {
		t.Errorf("%v dropped because connmgr was lost, want 2", n)
	}
}

// What waits for an item that never comes is delivered after a while.
func TestMessageWait(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, ch("a"))
	item := func(id, prev string) string {
		return fmt.Sprintf(`{"channel":"a","id":%q,"prev-id":%q,"http-stream":{"content":%q}}`, id, prev, id)
	}
	r.publish(item("1", "0"), item("3", "2"), item("3", "2"))
	r.flush()
	r.expect(h, "1")
	r.clock.advance(6 * time.Second)
	r.expect(h, "1", "3")
	if n := r.metric("holdfast_handler_sequenced_total", "duplicate"); n != 1 {
		t.Errorf("%v duplicates, want 1", n)
	}
}

func TestFilters(t *testing.T) {
	r := newRig(t)
	user := func(name string, debug bool) func(*frame.Accept) {
		return func(a *frame.Accept) {
			a.Meta = []frame.Field{{Name: "user", Value: name}}
			a.Debug = debug
		}
	}
	f := func(names ...string) frame.Channel { return frame.Channel{Name: "a", Filters: names} }
	al := r.holdWith(frame.ModeStream, user("al", false), f("skip-self", "var-subst"))
	bob := r.holdWith(frame.ModeStream, user("bob", false), f("skip-self", "var-subst"))
	plain := r.hold(frame.ModeStream, ch("a"))
	unknown := r.hold(frame.ModeStream, f("no-such-filter"))
	r.publish(`{"channel":"a","meta":{"sender":"al"},"http-stream":{"content":"hi %(user)s"}}`)
	r.expect(bob, "hi bob")
	r.expect(plain, "hi %(user)s")
	r.expect(unknown, "hi %(user)s")
	r.expect(al)
	// A filter that fails skips the message, unless the route is for debugging.
	debug := r.holdWith(frame.ModeStream, user("d", true), f("var-subst"))
	poll := r.holdWith(frame.ModeResponse, user("d", true), f("var-subst"))
	r.publish(`{"channel":"a","http-stream":{"content":"%(nope)s"},"http-response":{"body":"%d"}}`)
	r.wait("the holds end", func() (ok bool) {
		r.conn.get(func() { ok = debug.finish != nil && poll.finish != nil })
		return ok
	})
	if got, want := string(debug.finish.Body), "\n\nfilter error: No such variable 'nope' at position 7\n"; got != want {
		t.Errorf("stream: got %q, want %q", got, want)
	}
	if got, want := string(poll.finish.Body), "filter error: Unknown directive 'd' at position 1\n"; got != want || poll.finish.Code != 502 {
		t.Errorf("poll: got %d %q, want 502 %q", poll.finish.Code, got, want)
	}
	// A mismatch of content filters skips too.
	r.publish(
		`{"channel":"a","http-stream":{"content":"c1","content-filters":["var-subst"]}}`,
		`{"channel":"a","http-stream":{"content":"c2","content-filters":[]}}`)
	r.expect(al, "c1")
	r.expect(bob, "hi bob", "c1")
	r.expect(plain, "hi %(user)s", "%(nope)s", "c2")
	r.balanced()
}

// What filters make of a small message is bounded, for each receiver and for all
// together, and so is what goes to connmgr: what is too large is dropped and
// counted.
func TestLargeContent(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPMaxBody = 64 << 20 })
	const long = 4000
	hold := func(v string) *fakeHold {
		return r.holdWith(frame.ModeStream, func(a *frame.Accept) {
			a.Meta = []frame.Field{{Name: "v", Value: v}}
		}, frame.Channel{Name: "a", Filters: []string{"var-subst"}})
	}
	a, b, c, a2 := strings.Repeat("a", long), strings.Repeat("b", long), strings.Repeat("c", long), strings.Repeat("a", long)
	holds := map[*fakeHold]string{hold(a): a, hold(b): b, hold(c): c, hold(a2): a2}
	short := hold("")
	const most = filter.MaxText / long
	r.publish(stream("a", strings.Repeat("%(v)s", most)))
	frames := map[*frame.Deliver]bool{}
	for h, v := range holds {
		r.expect(h, strings.Repeat(v, most))
		r.conn.get(func() { frames[h.deliver[0]] = true })
	}
	// Two of them get the same, at the two ends of the group. It was made twice: the
	// first was sent, and forgotten, before the last one's turn.
	if len(frames) != 4 {
		t.Errorf("%d frames, want 4", len(frames))
	}

	r.publish(stream("a", strings.Repeat("%(v)s", most+1)))
	r.expect(short, "", "")
	r.wait("too much is dropped", func() bool { return r.metric("holdfast_handler_dropped_total", "overload") == 4 })
	if n := r.metric("holdfast_handler_filter_errors_total", ""); n != 4 {
		t.Errorf("%v failures of filters, want 4", n)
	}

	plain := r.hold(frame.ModeStream, ch("plain"))
	r.publish(stream("plain", strings.Repeat("x", frame.MaxFrame)), stream("plain", "small"))
	r.expect(plain, "small")
	r.wait("a large one is dropped", func() bool { return r.metric("holdfast_handler_dropped_total", "overload") == 5 })
	r.balanced()
}

func TestBodyPatch(t *testing.T) {
	r := newRig(t)
	base := func(body string, debug bool) func(*frame.Accept) {
		return func(a *frame.Accept) { a.Body, a.Debug = []byte(body), debug }
	}
	h1 := r.holdWith(frame.ModeResponse, base("{\"a\":[1]}\n", false), ch("a"))
	h2 := r.holdWith(frame.ModeResponse, base("{\"a\":[]}", false), ch("a"))
	bad := r.holdWith(frame.ModeResponse, base("hello", true), ch("a"))
	r.publish(`{"channel":"a","http-response":{"body-patch":[{"op":"add","path":"/a/-","value":2}]}}`)
	r.expect(h1, "{\"a\":[1,2]}\n")
	r.expect(h2, "{\"a\":[2]}")
	r.wait("the failed patch is answered", func() (ok bool) {
		r.conn.get(func() { ok = bad.finish != nil })
		return ok
	})
	if bad.finish.Code != 502 || !strings.Contains(string(bad.finish.Body), "body-patch") {
		t.Errorf("got %d %q", bad.finish.Code, bad.finish.Body)
	}
	r.balanced()
}

func TestCORS(t *testing.T) {
	r := newRig(t)
	h := r.holdWith(frame.ModeResponse, func(a *frame.Accept) {
		a.CORS = true
		a.Header = []frame.Field{{Name: "X-A", Value: "1"}, {Name: "Content-Type", Value: "text/plain"}}
		a.Request = []frame.Field{{Name: "Origin", Value: "http://o"}}
	}, ch("a"))
	find := func(header []frame.Field, name string) string {
		for _, f := range header {
			if f.Name == name {
				return f.Value
			}
		}
		return ""
	}
	if got := find(h.hold.Header, "Access-Control-Allow-Origin"); got != "http://o" {
		t.Errorf("allowed origin %q", got)
	}
	r.publish(`{"channel":"a","http-response":{"headers":{"X-B":"2","X-A":"3"},"body":"x"}}`)
	r.expect(h, "x")
	if got := find(h.deliver[0].Header, exposeHeaders); got != "X-A, X-B" {
		t.Errorf("exposed %q, want X-A, X-B", got)
	}
}

func TestRateLimit(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MessageRate, o.MessageHWM = 100, 4 })
	h1, h2 := r.hold(frame.ModeStream, ch("a")), r.hold(frame.ModeStream, ch("a"))
	items := make([]string, 20)
	for i := range items {
		items[i] = stream("a", fmt.Sprint(i))
	}
	// 3 units each 25 ms of a clock that stands: the first fan-out of 2 goes at
	// once, the second overdraws, two more reach the mark, the rest is dropped.
	r.publish(items...)
	r.expect(h1, "0", "1")
	r.wait("the rest is dropped", func() bool { return r.metric("holdfast_handler_dropped_total", "rate-limit") == 32 })
	late := r.hold(frame.ModeStream, ch("a"))
	r.wait("what waited is delivered", func() bool {
		r.clock.advance(25 * time.Millisecond)
		return r.metric("holdfast_handler_rate_queue", "") == 0
	})
	r.expect(h1, "0", "1", "2", "3")
	r.expect(h2, "0", "1", "2", "3")
	r.expect(late) // it came after the items
	if delivered, dropped := r.balanced(); delivered != 8 || dropped != 32 {
		t.Errorf("delivered %d, dropped %d; want 8 and 32", delivered, dropped)
	}
}

func TestOverfullBus(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, ch("a"))
	r.net.Pause("connmgr.0")
	r.net.SetQueueBytes(4096)
	for i := range 50 {
		r.publish(stream("a", fmt.Sprint(i, strings.Repeat("x", 500))))
	}
	r.wait("deliveries are dropped", func() bool { return r.metric("holdfast_handler_dropped_total", "overload") > 30 })
	r.net.SetQueueBytes(1 << 20)
	r.net.Resume("connmgr.0")
	r.publish(stream("a", "last"))
	r.wait("the last item arrives", func() (ok bool) {
		r.conn.get(func() { ok = len(h.got) > 0 && h.got[len(h.got)-1] == "last" })
		return ok
	})
	r.balanced()
}

func TestTwoConnmgrs(t *testing.T) {
	r := newRig(t)
	other := &fakeConn{r: r, name: "connmgr.1", holds: map[uint64]*fakeHold{}}
	other.start()
	defer other.stop()
	h1 := r.hold(frame.ModeStream, ch("a"))
	first := r.conn
	r.conn = other
	h2 := r.hold(frame.ModeStream, ch("a")) // the same number, but of another connmgr
	r.publish(stream("a", "x"))
	r.expect(h2, "x")
	r.conn = first
	r.expect(h1, "x")
	if delivered, _ := r.balanced(); delivered != 2 {
		t.Errorf("delivered %d, want 2", delivered)
	}
}
