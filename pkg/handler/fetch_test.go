package handler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
)

// origin lets the proxy answer fetches: a list for each URI, in turn, the last
// for ever.
func (r *rig) origin(answers map[string][]*frame.Fetched) {
	r.proxy.mu.Lock()
	defer r.proxy.mu.Unlock()
	r.proxy.answer = func(f *frame.Fetch) *frame.Fetched {
		list := answers[f.URI]
		if len(list) == 0 {
			return &frame.Fetched{Code: 404}
		}
		if len(list) > 1 {
			answers[f.URI] = list[1:]
		}
		c := *list[0]
		return &c
	}
}

func answer(code uint16, body string, header ...string) *frame.Fetched {
	f := &frame.Fetched{Code: code, Body: []byte(body)}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		f.Header = append(f.Header, frame.Field{Name: name, Value: value})
	}
	return f
}

// fetches returns what was asked so far: method, URI, Grip-Last.
func (r *rig) fetched() []string {
	r.proxy.mu.Lock()
	defer r.proxy.mu.Unlock()
	var all []string
	for _, f := range r.proxy.fetches {
		s := f.Method + " " + f.URI
		for _, h := range f.Header {
			s += " [" + h.Name + ": " + h.Value + "]"
		}
		all = append(all, s)
	}
	return all
}

func (r *rig) expectFetches(want ...string) {
	r.t.Helper()
	r.wait(fmt.Sprintf("requests %q", want), func() bool { return len(r.fetched()) >= len(want) })
	if got := r.fetched(); !slices.Equal(got, want) {
		r.t.Errorf("requests:\ngot  %q\nwant %q", got, want)
	}
}

func (r *rig) expectFinish(h *fakeHold, body string) {
	r.t.Helper()
	r.wait("the stream ends", func() (ok bool) {
		r.conn.get(func() { ok = h.finish != nil })
		return ok
	})
	if got := string(h.finish.Body); got != body {
		r.t.Errorf("the stream ended with %q, want %q", got, body)
	}
}

// nextTimer waits until the only hold waits for the time of its next link: only
// then the clock may go on.
func (r *rig) nextTimer() {
	r.t.Helper()
	r.wait("its timer runs", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		for _, h := range r.s.peers["connmgr.0"].holds {
			return h.more.timer.Active()
		}
		return false
	})
}

func next(uri string) func(*frame.Accept) {
	return func(a *frame.Accept) {
		a.Next = frame.Link{URI: "http://example.com" + uri, Millis: 120000}
		a.Debug = true
	}
}

func TestNextLinkChain(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{
		"http://example.com/2": {answer(200, "two\n", "Grip-Link: </3>; rel=next")},
		"http://example.com/3": {answer(200, "three\n")},
	})
	h := r.holdWith(frame.ModeNone, next("/2"))
	r.expectFinish(h, "three\n")
	r.expect(h, "two\n")
	r.expectFetches("GET http://example.com/2", "GET http://example.com/3")
	if d, _ := r.balanced(); d != 0 {
		t.Errorf("%d deliveries counted, bodies of next links are none", d)
	}
}

// What a hold waits for is forgotten when its client leaves meanwhile.
func TestNextLinkUnreported(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{
		"http://example.com/2": {answer(200, "two\n", "Grip-Link: </3>; rel=next")},
	})
	r.conn.get(func() { r.conn.mute = true })
	h := r.holdWith(frame.ModeNone, next("/2"))
	r.expect(h, "two\n")
	paced := func() int {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.paced)
	}
	if n := paced(); n != 1 {
		t.Fatalf("waits for %d reports, want 1", n)
	}
	r.conn.leave(h)
	r.wait("nothing is waited for", func() bool { return paced() == 0 })
}

func TestNextLinkRetries(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{
		"http://example.com/2": {answer(404, ""), answer(500, ""), answer(200, "ok\n")},
	})
	h := r.holdWith(frame.ModeNone, next("/2"))
	for i := range 2 {
		r.expectFetches(slices.Repeat([]string{"GET http://example.com/2"}, i+1)...)
		r.nextTimer()
		r.clock.advance(5 * time.Second)
	}
	r.expectFinish(h, "ok\n")

	dead := r.holdWith(frame.ModeNone, next("/dead"))
	r.wait("it gives up", func() (ok bool) {
		r.clock.advance(time.Second)
		r.conn.get(func() { ok = dead.finish != nil })
		return ok
	})
	r.expectFinish(dead, "\n\nFailed to retrieve next link.\n")
	if n := len(r.fetched()) - 3; n != 6 {
		t.Errorf("%d requests, want one and 5 retries", n)
	}
}

func TestNextLinkAnswersWithResponseHold(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{"http://example.com/2": {answer(200, "", "Grip-Hold: response", "Grip-Channel: a")}})
	h := r.holdWith(frame.ModeNone, next("/2"))
	r.expectFinish(h, "\n\nNext link returned non-stream hold.\n")
}

// A gap makes a stream fetch its next link; what was published meanwhile follows
// where the link's position ends.
func TestNextLinkAfterGap(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{"http://example.com/n": {
		answer(200, "2;3;", "Grip-Hold: stream", "Grip-Channel: c; prev-id=3", "Grip-Link: </n>; rel=next; timeout=30"),
	}})
	h := r.holdWith(frame.ModeStream, func(a *frame.Accept) { next("/n")(a); a.Prefix = "p-" }, frame.Channel{Name: "p-c", HasPrevID: true, PrevID: "0"})
	item := func(id, prev string) string {
		return fmt.Sprintf(`{"channel":"p-c","id":%q,"prev-id":%q,"http-stream":{"content":"%s;"}}`, id, prev, id)
	}
	r.publish(item("1", "0"))
	r.expect(h, "1;")
	r.publish(item("3", "2")) // 2 was lost: it waits in vain
	r.flush()
	r.clock.advance(6 * time.Second)
	r.expectFetches("GET http://example.com/n [Grip-Last: c; last-id=1]")
	r.expect(h, "1;", "2;3;")
	r.publish(item("4", "3"))
	r.expect(h, "1;", "2;3;", "4;")
	// The record follows the position.
	r.wait("the record is brought up to date", func() bool {
		var rec []byte
		r.conn.get(func() { rec = h.record })
		f, err := frame.Decode(rec)
		return err == nil && f.(*frame.Accept).Channels[0].PrevID == "4"
	})
	// Before it does, connmgr knows better.
	r.conn.get(func() {
		f, err := frame.Decode(h.record)
		a, ok := f.(*frame.Accept)
		if err != nil || !ok {
			t.Fatalf("record: %v", err)
		}
		a.Channels[0].PrevID = "2"
		h.record = frame.Encode(a)
		h.placed = []frame.LastID{{Channel: "p-c", ID: "3"}, {Channel: "p-c", ID: "4"}}
	})
	r.stop()
	r.start()
	r.publish(item("5", "4"))
	r.expect(h, "1;", "2;3;", "4;", "5;")
	r.balanced()
}

// While a stream waits for its next link, items wait for the stream.
func TestNextLinkQueue(t *testing.T) {
	r := newRig(t)
	h := r.holdWith(frame.ModeStream, next("/n"), frame.Channel{Name: "c", HasPrevID: true, PrevID: "0"})
	item := func(id, prev string) string {
		return fmt.Sprintf(`{"channel":"c","id":%q,"prev-id":%q,"http-stream":{"content":"%s;"}}`, id, prev, id)
	}
	r.publish(`{"channel":"c","http-stream":{"action":"hint"},"no-seq":true,"prev-id":"0","id":"0"}`)
	r.expectFetches("GET http://example.com/n [Grip-Last: c; last-id=0]")
	r.publish(item("1", "0"), item("2", "1"), item("3", "2"))
	r.flush()
	r.expect(h)
	var token uint64
	r.proxy.mu.Lock()
	token = r.proxy.fetches[0].Token
	r.proxy.mu.Unlock()
	a := answer(200, "caught up;", "Grip-Hold: stream", "Grip-Channel: c; prev-id=2", "Grip-Link: </n>; rel=next")
	a.Token = token
	if err := r.proxy.node.Send("handler.0", frame.Encode(a)); err != nil {
		t.Fatal(err)
	}
	r.expect(h, "caught up;", "3;")
	if _, dropped := r.balanced(); dropped != 2 {
		t.Errorf("%d dropped, want the two that the link had", dropped)
	}
}

// The timer of a next link is started anew by messages.
func TestNextLinkTimer(t *testing.T) {
	r := newRig(t)
	h := r.holdWith(frame.ModeStream, next("/n"), ch("a"), ch("b"))
	r.clock.advance(100 * time.Second)
	r.publish(stream("a", "1"))
	r.expect(h, "1") // not yet all channels
	r.flush()
	r.publish(stream("b", "2"))
	r.expect(h, "1", "2")
	r.clock.advance(100 * time.Second)
	r.flush()
	if got := r.fetched(); len(got) != 0 {
		t.Fatalf("fetched too early: %q", got)
	}
	r.clock.advance(25 * time.Second)
	r.expectFetches("GET http://example.com/n")
}

func TestGoneLink(t *testing.T) {
	r := newRig(t)
	gone := func(a *frame.Accept) { a.Gone = "http://example.com/gone" }
	h := r.holdWith(frame.ModeStream, gone, ch("a"))
	poll := r.holdWith(frame.ModeResponse, gone, ch("a"))
	r.publish(`{"channel":"a","http-response":{"action":"hint"}}`)
	r.wait("the poll is retried", func() (ok bool) {
		r.conn.get(func() { ok = poll.retry != nil })
		return ok
	})
	r.conn.leave(h)
	r.expectFetches("POST http://example.com/gone") // not for the retry
}

// A proxy that dies does not keep an origin from hearing that a client is gone,
// nor does a handler that was dead when it went.
func TestGoneLinkIsNotLost(t *testing.T) {
	r := newRig(t)
	gone := func(a *frame.Accept) { a.Gone = "http://example.com/gone" }
	h := r.holdWith(frame.ModeStream, gone, ch("a"))
	r.origin(map[string][]*frame.Fetched{"http://example.com/gone": {{Condition: "disconnected"}, answer(200, "")}})
	r.conn.leave(h)
	r.expectFetches("POST http://example.com/gone")
	r.flush()
	r.wait("the next try", func() bool {
		r.clock.advance(time.Second)
		return len(r.fetched()) == 2
	})
	late := r.holdWith(frame.ModeStream, gone, ch("a"))
	r.stop()
	r.conn.get(func() { late.over = true })
	r.run()
	r.wait("the handler is ready", r.s.Ready)
	r.conn.send("handler.0", &frame.Records{Holds: []frame.Held{{ID: late.id, Record: late.record, Ended: frame.ReasonClientGone}}})
	r.wait("the link of the one that went meanwhile", func() bool { return len(r.fetched()) == 3 })
	if n := r.metric("holdfast_handler_holds", ""); n != 0 {
		t.Errorf("%v holds", n)
	}
}

func TestHTTPFilters(t *testing.T) {
	r := newRig(t)
	url := "http://example.com/check"
	r.origin(map[string][]*frame.Fetched{url: {
		answer(200, "one"), answer(200, "", "Action: drop"), answer(204, "ignored"), answer(500, ""), answer(200, "five"),
	}})
	h := r.holdWith(frame.ModeStream, func(a *frame.Accept) {
		a.Meta = []frame.Field{{Name: "url", Value: "/check"}}
	}, frame.Channel{Name: "a", Filters: []string{"http-modify"}})
	var items []string
	for i := range 5 {
		items = append(items, fmt.Sprintf(`{"channel":"a","meta":{"n":"<%d>"},"http-stream":{"content":"%d"}}`, i, i))
	}
	r.publish(items...)
	r.expect(h, "one", "2", "five")
	if _, dropped := r.balanced(); dropped != 2 {
		t.Errorf("%d dropped, want 2", dropped)
	}
	if got, want := r.fetched()[0], `POST http://example.com/check [Sub-Meta: {"url":"/check"}] [Pub-Meta: {"n":"<0>"}]`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A lost proxy is no reason to wait.
func TestFetchWithoutProxy(t *testing.T) {
	r := newRig(t)
	h := r.holdWith(frame.ModeStream, func(a *frame.Accept) {
		a.Meta = []frame.Field{{Name: "url", Value: "/check"}}
		a.Debug = true
	}, frame.Channel{Name: "a", Filters: []string{"http-check"}})
	r.publish(stream("a", "x"))
	r.wait("the filter asks", func() bool { return len(r.fetched()) == 1 })
	r.net.Kill("proxy.0")
	r.expectFinish(h, "\n\nfilter error: network request failed: disconnected\n")
	r.balanced()
}

// A link that leads to itself is followed once a second, not as fast as the
// origin answers.
func TestNextLinkToItself(t *testing.T) {
	for name, body := range map[string]string{"self": "again\n", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			again := "</self>; rel=next"
			if name == "empty" {
				again = "</other>; rel=next"
			}
			r.origin(map[string][]*frame.Fetched{
				"http://example.com/self":  {answer(200, body, "Grip-Link: "+again), answer(200, "end\n")},
				"http://example.com/other": {answer(200, "end\n")},
			})
			h := r.holdWith(frame.ModeNone, next("/self"))
			r.nextTimer()
			r.flush()
			if n := len(r.fetched()); n != 1 {
				t.Fatalf("%d requests without a pause", n)
			}
			r.clock.advance(1200 * time.Millisecond)
			r.expectFinish(h, "end\n")
		})
	}
}

func TestLinkPace(t *testing.T) {
	var p linkPace
	now := time.Unix(1e9, 0)
	for i := range linkBurst {
		if d := p.wait(now, false); d != 0 {
			t.Fatalf("link %d has to wait for %v", i, d)
		}
	}
	if d := p.wait(now, false); d != linkEvery {
		t.Errorf("after the burst: got %v", d)
	}
	if d := p.wait(now, true); d != idleLink {
		t.Errorf("idle: got %v", d)
	}
	now = now.Add(2 * linkEvery)
	for _, want := range []time.Duration{0, 0, linkEvery} {
		if d := p.wait(now, false); d != want {
			t.Errorf("two ticks later: got %v, want %v", d, want)
		}
	}
}

// What filters made of messages and have yet to ask about is bounded in bytes;
// beyond that it is dropped, and all of it is given back in the end.
func TestAsksAreBounded(t *testing.T) {
	r := newRig(t)
	kept := func() int {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.askBytes
	}
	overloads := func() int { return int(r.metric("holdfast_handler_dropped_total", "overload")) }
	nothingKept := func() {
		t.Helper()
		r.wait("nothing is kept any more", func() bool {
			r.s.mu.Lock()
			defer r.s.mu.Unlock()
			return r.s.askBytes == 0 && r.s.waiting.bytes == 0 && len(r.s.waiting.items) == 0
		})
		r.balanced()
	}
	const value, times = 100_000, 40
	const holds = maxAskBytes/(value*times) + 4
	var all []*fakeHold
	for range holds {
		all = append(all, r.holdWith(frame.ModeStream, func(a *frame.Accept) {
			a.Meta = []frame.Field{{Name: "url", Value: "/check"}, {Name: "v", Value: strings.Repeat("v", value)}}
		}, frame.Channel{Name: "a", Filters: []string{"var-subst", "http-check"}}))
	}
	text := strings.Repeat("%(v)s", times)
	got := func() (n int) {
		r.conn.get(func() {
			for _, h := range all {
				n += len(h.got)
			}
		})
		return n
	}

	r.publish(stream("a", text))
	r.wait("all ask or are dropped", func() bool { return len(r.fetched())+overloads() == holds })
	asked := len(r.fetched())
	if n := kept(); n > maxAskBytes || n < asked*value*times {
		t.Errorf("%d bytes are kept for %d that ask", n, asked)
	}
	if asked < holds/2 || asked == holds {
		t.Errorf("%d of %d ask", asked, holds)
	}
	// Some of them are answered, some have left meanwhile.
	full := kept()
	var gone int
	r.s.mu.Lock()
	for token, ft := range r.s.fetches {
		if gone++; gone == 1 {
			r.s.endStream(ft.h, "")
			r.s.fetched(&frame.Fetched{Token: token, Code: 200})
		}
	}
	r.s.mu.Unlock()
	if gone != asked {
		t.Fatalf("%d requests under way, want %d", gone, asked)
	}
	if n := kept(); n >= full {
		t.Errorf("%d bytes are kept after one was answered, %d before", n, full)
	}
	answers := []*frame.Fetched{answer(200, "", "Action: drop"), {Condition: "disconnected"}, answer(500, ""), answer(200, "")}
	r.proxy.mu.Lock()
	for i, f := range r.proxy.fetches {
		a := answers[min(i, len(answers)-1)]
		a.Token = f.Token
		if err := r.proxy.node.Send("handler.0", frame.Encode(a)); err != nil {
			t.Error(err)
		}
	}
	r.proxy.mu.Unlock()
	nothingKept()
	if n := got(); n < asked-4 || n > asked-3 {
		t.Errorf("%d of %d that asked got the message", n, asked)
	}

	// It goes on, for those that were left out before, too.
	before, dropped := got(), overloads()
	r.origin(map[string][]*frame.Fetched{"http://example.com/check": {answer(200, "")}})
	r.publish(stream("a", "%(v)s"))
	r.wait("all but the one that left get it", func() bool { return got() == before+holds-1 })
	nothingKept()
	if n := overloads(); n != dropped {
		t.Errorf("%d more dropped", n-dropped)
	}

	// Holds that end before their turn, with no tick in between.
	batch, err := publish.ParseBatch([]byte(`{"items":[` + stream("a", "%(v)s") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.s.mu.Lock()
	r.s.index.Publish(batch.Items[0], r.s.fanOut)
	waiting := r.s.askBytes
	for _, a := range r.s.asks {
		r.s.endStream(a.h, "")
	}
	for range holds {
		r.s.runAsks()
	}
	left := r.s.askBytes
	r.s.mu.Unlock()
	if waiting < (holds-1)*value || left != 0 {
		t.Errorf("%d bytes wait, %d after their holds are over", waiting, left)
	}
	nothingKept()

	// No proxy: there is nobody to ask.
	h := r.holdWith(frame.ModeStream, func(a *frame.Accept) {
		a.Meta = []frame.Field{{Name: "url", Value: "/check"}, {Name: "v", Value: "x"}}
	}, frame.Channel{Name: "b", Filters: []string{"var-subst", "http-modify"}})
	r.net.Kill("proxy.0")
	r.publish(stream("b", "%(v)s"))
	nothingKept()
	r.expect(h)
}

// A message that no filter changed is shared by those that ask about it, and does
// not count for each.
func TestAsksShareTheMessage(t *testing.T) {
	r := newRig(t)
	r.origin(map[string][]*frame.Fetched{"http://example.com/check": {answer(204, "")}})
	text := strings.Repeat("x", 900_000)
	const holds = maxAskBytes/900_000 + 5
	for range holds {
		r.holdWith(frame.ModeStream, func(a *frame.Accept) {
			a.Meta = []frame.Field{{Name: "url", Value: "/check"}}
		}, frame.Channel{Name: "a", Filters: []string{"http-modify"}})
	}
	r.publish(stream("a", text))
	r.wait("all get it", func() bool { return r.metric("holdfast_handler_delivered_total", "") == holds })
}

// Messages that wait for holds whose filters ask count once each, whether they are
// asked about or queue up behind that, and are dropped when there is no room.
func TestWaitingItemsAreBounded(t *testing.T) {
	r := newRig(t)
	const holds, size = 2, 900_000
	for range holds {
		r.holdWith(frame.ModeStream, func(a *frame.Accept) {
			a.Meta = []frame.Field{{Name: "url", Value: "/check"}}
		}, frame.Channel{Name: "a", Filters: []string{"http-modify"}})
	}
	text := strings.Repeat("x", size)
	const fit, more = maxWaitingBytes / size, 5 // each has some hundred bytes beside its text, fewer than are left of the room
	for range fit + more {
		r.publish(stream("a", text))
	}
	r.wait("the first is asked about", func() bool { return len(r.fetched()) == holds })
	if n := r.metric("holdfast_handler_dropped_total", "overload"); n != holds*more {
		t.Errorf("%v dropped, want %d", n, holds*more)
	}
	r.s.mu.Lock()
	items, bytes := len(r.s.waiting.items), r.s.waiting.bytes
	r.s.mu.Unlock()
	if items != fit || bytes < fit*size || bytes > maxWaitingBytes {
		t.Errorf("%d messages of %d bytes wait, want %d", items, bytes, fit)
	}
	r.origin(map[string][]*frame.Fetched{"http://example.com/check": {answer(204, "")}})
	r.proxy.mu.Lock()
	for _, f := range r.proxy.fetches {
		if err := r.proxy.node.Send("handler.0", frame.Encode(&frame.Fetched{Token: f.Token, Code: 204})); err != nil {
			t.Error(err)
		}
	}
	r.proxy.mu.Unlock()
	r.wait("all that fit are delivered", func() bool { return r.metric("holdfast_handler_delivered_total", "") == holds*fit })
	r.s.mu.Lock()
	items, bytes = len(r.s.waiting.items), r.s.waiting.bytes
	r.s.mu.Unlock()
	if items != 0 || bytes != 0 {
		t.Errorf("%d messages of %d bytes wait for nobody", items, bytes)
	}
	r.balanced()
}
