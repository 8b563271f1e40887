package connmgr

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

const streamHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

func publish(pub uint64, group, body string) *frame.Deliver {
	return &frame.Deliver{Pub: pub, Mode: frame.ModeStream, Group: group, Body: []byte(body)}
}

func TestStreamHold(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	id := r.hold(p, h, c, h.stream("i\n", "g"))
	h.send(publish(1, "g", "x"), publish(2, "other", "y"), publish(3, "g", ""), publish(4, "g", "longer than it was"))
	c.expect(streamHead + chunk("i\n") + chunk("x") + chunk("longer than it was"))
	for _, pub := range []uint64{1, 3, 4} {
		if n, dropped := h.outcome(pub, 1); n != 1 {
			t.Errorf("publication %d: delivered %d, dropped %v", pub, n, dropped)
		}
	}
	h.send(&frame.Deliver{Pub: 5, Mode: frame.ModeStream, Action: frame.ActionClose, Group: "g"})
	c.expect("0\r\n\r\n")
	closed := next[*frame.Closed](h)
	if closed.ID != id || closed.Reason != frame.ReasonFinished || closed.Sent != uint64(len(streamHead)+len(chunk("i\n")+chunk("x")+chunk("longer than it was"))+5) {
		t.Errorf("closed: %+v", closed)
	}
	if n := r.s.groups.len(); n != 0 {
		t.Errorf("%d groups left", n)
	}
	// The connection goes on.
	c.get("/2")
	req := next[*frame.Request](p)
	p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", Body: []byte("ok")})
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

func TestStreamHold10(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	c.send("GET / HTTP/1.0\r\n\r\n")
	f := h.stream("i\n", "g")
	f.ID = next[*frame.Request](p).ID
	h.send(&f, publish(1, "g", "x"), &frame.Finish{ID: f.ID, Seq: 1, Body: []byte("bye")})
	c.expect("HTTP/1.0 200 OK\r\nConnection: close\r\n\r\ni\nxbye")
	if rest := c.rest(); rest != "" {
		t.Errorf("then %q", rest)
	}
}

// What cannot have a body is complete with its head.
func TestStreamHoldWithoutBody(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	c.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
	f := h.stream("i\n", "g")
	f.ID = next[*frame.Request](p).ID
	h.send(&f)
	c.expect("HTTP/1.1 200 OK\r\n\r\n")
	if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonFinished {
		t.Errorf("closed: %+v", closed)
	}
	f = r2hold(r, p, h, c, func(f *frame.Hold) { f.Code, f.Reason = 204, "No Content" })
	c.expect("HTTP/1.1 204 No Content\r\n\r\n")
	next[*frame.Closed](h)
}

func r2hold(r *rig, p, h *far, c *client, change func(f *frame.Hold)) frame.Hold {
	f := h.stream("", "g")
	change(&f)
	f.ID = r.hold(p, h, c, f)
	return f
}

// The head may have been sent by the proxy, and the initial body may go on after
// the hold; publications wait for its end.
func TestStreamHoldLargeInitialBody(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	c.get("/")
	id := next[*frame.Request](p).ID
	h.send(&frame.Hold{ID: id, Seq: 2, Mode: frame.ModeStream, HeadSent: true, Groups: []string{"g"}, More: true}, publish(1, "g", "late"))
	p.send(&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("a"), More: true},
		&frame.Body{ID: id, Seq: 1, Data: []byte("b"), More: true})
	h.send(&frame.Body{ID: id, Seq: 3, Data: []byte("c"), More: true}, &frame.Body{ID: id, Seq: 4, Data: []byte("d")},
		&frame.Body{ID: id, Seq: 5, Data: []byte("next")})
	c.expect(streamHead)
	var got string
	for len(got) < len("abcdlatenext") {
		size, err := c.br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var n int
		fmt.Sscanf(size, "%x", &n)
		data := make([]byte, n+2)
		if _, err := io.ReadFull(c.br, data); err != nil {
			t.Fatal(err)
		}
		got += string(data[:n])
	}
	if got != "abcdlatenext" {
		t.Errorf("got %q", got)
	}
}

// Body frames of a held stream are paced by credits.
func TestStreamHoldCredits(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	id := r.hold(p, h, c, h.stream("", "g"))
	c.expect(streamHead)
	const size = 4 << 20
	part := repeat("x", frame.MaxBodyPart)
	go func() {
		window, seq := frame.InitialWindow, uint64(0)
		for sent := 0; sent < size; sent += len(part) {
			for window < len(part) {
				window += int(next[*frame.Credit](h).N)
			}
			window -= len(part)
			seq++
			h.send(&frame.Body{ID: id, Seq: seq, Data: part})
		}
	}()
	want := size / len(part) * len(chunk(string(part)))
	if n, err := io.CopyN(io.Discard, c.br, int64(want)); err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
}

func (f *far) response(groups ...string) frame.Hold {
	return frame.Hold{
		Mode: frame.ModeResponse, Millis: 3_600_000, Code: 200, Reason: "OK", Body: []byte("timeout\n"), Groups: groups,
		Header: []frame.Field{{Name: "X-A", Value: "1"}, {Name: "X-B", Value: "o"}, {Name: "Content-Type", Value: "text/plain"}}, Record: []byte("rec"),
	}
}

func TestResponseHold(t *testing.T) {
	for _, tc := range []struct {
		name, method, want string
		deliver            frame.Deliver
		change             func(*frame.Hold)
	}{
		{
			name: "merge", want: "HTTP/1.1 201 Created\r\nX-A: 1\r\nx-b: 2\r\nContent-Type: text/html\r\ncontent-length: 4\r\n\r\nhey\n",
			deliver: frame.Deliver{Code: 201, Body: []byte("hey\n"), Header: []frame.Field{{Name: "x-b", Value: "2"}, {Name: "Content-Type", Value: "text/html"}, {Name: "Grip-Foo", Value: "x"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Connection", Value: "close"}, {Name: "content-length", Value: "99"}}},
		},
		{
			name: "expose", want: "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-C: 3\r\nContent-Length: 0\r\n\r\n",
			deliver: frame.Deliver{Expose: []string{"x-a", "x-c"}, Header: []frame.Field{{Name: "X-C", Value: "3"}}},
		},
		{name: "204", want: "HTTP/1.1 204 No Content\r\nX-A: 1\r\nX-B: o\r\nContent-Type: text/plain\r\n\r\n", deliver: frame.Deliver{Code: 204, Body: []byte("hey\n")}},
		{
			name: "head", method: "HEAD", want: "HTTP/1.1 299 Words\r\nX-A: 1\r\nX-B: o\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n",
			deliver: frame.Deliver{Code: 299, Reason: "Words", Body: []byte("hey\n")},
		},
		{
			name: "jsonp", want: "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: o\r\nContent-Type: application/javascript\r\nContent-Length: 118\r\n\r\n" +
				`/**/cb({"body":"<hey>\n","code":201,"headers":{"Content-Type":"text/plain","X-A":"1","X-B":"o"},"reason":"Created"});` + "\n",
			deliver: frame.Deliver{Code: 201, Body: []byte("<hey>\n")}, change: func(f *frame.Hold) { f.JSONP, f.JSONPMode = "cb", 1 },
		},
		{
			name: "jsonp basic", want: "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: o\r\nContent-Type: application/javascript\r\nContent-Length: 17\r\n\r\n/**/cb({\"a\":1});\n",
			deliver: frame.Deliver{Code: 201, Body: []byte("{\"a\":1}\r\n")}, change: func(f *frame.Hold) { f.JSONP, f.JSONPMode = "cb", 2 },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
			c := r.dial()
			method := tc.method
			if method == "" {
				method = "GET"
			}
			// The next request is sent ahead.
			c.send(method + " /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
			f := h.response("g")
			if tc.change != nil {
				tc.change(&f)
			}
			f.ID = next[*frame.Request](p).ID
			tc.deliver.Pub, tc.deliver.Mode, tc.deliver.Group = 7, frame.ModeResponse, "g"
			h.send(&f, &tc.deliver)
			c.expect(tc.want)
			if closed := next[*frame.Closed](h); closed.ID != f.ID || closed.Reason != frame.ReasonFinished || closed.Sent != uint64(len(tc.want)) {
				t.Errorf("closed: %+v", closed)
			}
			if n, dropped := h.outcome(7, 1); n != 1 {
				t.Errorf("delivered %d, dropped %v", n, dropped)
			}
			req := next[*frame.Request](p)
			if req.URI != "/2" {
				t.Errorf("then %q", req.URI)
			}
			p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK"})
			c.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		})
	}
}

func TestResponseHoldTimeout(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	for range 3 {
		f := h.response("g")
		f.ID = r.hold(p, h, c, f)
		poll.Until(t, "held", func() bool { return r.holds(frame.ModeResponse) == 1 })
		r.clock.add(3599 * time.Second)
		h.send(&frame.Deliver{Pub: f.ID, Mode: frame.ModeStream, Only: []uint64{f.ID}}) // not for this mode
		if n, dropped := h.outcome(f.ID, 1); n != 0 || dropped[frame.ReasonNotReady] != 1 {
			t.Errorf("delivered %d, dropped %v", n, dropped)
		}
		r.clock.add(2 * time.Second)
		c.expect("HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: o\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\ntimeout\n")
		if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonTimeout {
			t.Errorf("closed: %+v", closed)
		}
	}
}

func (r *rig) holds(mode frame.Mode) int { return int(counterValue(r.s.metrics.holds(mode))) }

func TestRetry(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	body := string(repeat("b", 70_000))
	c.send("POST /x HTTP/1.1\r\nHost: h\r\nX-H: 1\r\nContent-Length: 70000\r\n\r\n" + body)
	collect := func(req *frame.Request) (got string) {
		got = string(req.Body)
		for more := req.More; more; {
			b := next[*frame.Body](p)
			got, more = got+string(b.Data), b.More
		}
		return got
	}
	first := next[*frame.Request](p)
	if got := collect(first); got != body {
		t.Fatalf("body of %d bytes", len(got))
	}
	f := h.response("g")
	f.ID = first.ID
	h.send(&f, &frame.Retry{ID: f.ID, Seq: 1, Route: "r1", Last: []frame.LastID{{Channel: "c", ID: "5"}}})
	if closed := next[*frame.Closed](h); closed.ID != f.ID || closed.Reason != frame.ReasonReplaced {
		t.Errorf("closed: %+v", closed)
	}
	again := next[*frame.Request](p)
	if again.ID == first.ID || !again.Retry || again.Route != "r1" || len(again.Last) != 1 || again.URI != "/x" || again.ConnID != first.ConnID {
		t.Errorf("again: %+v", again)
	}
	if got := collect(again); got != body {
		t.Errorf("body of %d bytes again", len(got))
	}
	// Held once more, and asked once more.
	f = h.response("g")
	f.ID = again.ID
	h.send(&f, &frame.Retry{ID: f.ID, Seq: 1})
	third := next[*frame.Request](p)
	collect(third)
	p.send(&frame.Response{ID: third.ID, Code: 200, Reason: "OK", Body: []byte("plain")})
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
	if n := r.s.groups.len(); n != 0 {
		t.Errorf("%d groups left", n)
	}
}

func TestFinishAndCancel(t *testing.T) {
	for _, tc := range []struct {
		name   string
		stream bool
		f      func(id uint64) frame.Frame
		want   string
		open   bool
		reason frame.Reason
	}{
		{"finish response", false, func(id uint64) frame.Frame {
			return &frame.Finish{ID: id, Seq: 1, Code: 502, Reason: "Bad", Body: []byte("x")}
		}, "HTTP/1.1 502 Bad\r\nContent-Length: 1\r\n\r\nx", true, frame.ReasonFinished},
		{
			"cancel response", false, func(id uint64) frame.Frame { return &frame.Cancel{ID: id, Seq: 1, Reason: frame.ReasonInternal} },
			"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\r\nError while proxying to origin.\n", true, 0,
		},
		{
			"finish stream", true, func(id uint64) frame.Frame { return &frame.Finish{ID: id, Seq: 1, Body: []byte("x")} },
			streamHead + chunk("x") + "0\r\n\r\n", true, frame.ReasonFinished,
		},
		{
			"abort stream", true, func(id uint64) frame.Frame { return &frame.Finish{ID: id, Seq: 1, Body: []byte("x"), Abort: true} },
			streamHead + chunk("x"), false, frame.ReasonOriginFailed,
		},
		{
			"cancel stream", true, func(id uint64) frame.Frame { return &frame.Cancel{ID: id, Seq: 1, Reason: frame.ReasonInternal} },
			streamHead, false, 0,
		},
		{"gap", true, func(id uint64) frame.Frame { return &frame.Finish{ID: id, Seq: 1000} }, streamHead, false, frame.ReasonGap},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
			c := r.dial()
			f := h.response("g")
			if tc.stream {
				f = h.stream("", "g")
			}
			id := r.hold(p, h, c, f)
			want := tc.want
			if tc.stream {
				c.expect(streamHead)
				want = want[len(streamHead):]
			}
			h.send(tc.f(id))
			c.expect(want)
			if tc.reason != 0 {
				if closed := next[*frame.Closed](h); closed.Reason != tc.reason {
					t.Errorf("closed: %+v", closed)
				}
			}
			if !tc.open {
				_ = c.end()
				return
			}
			c.get("/2")
			next[*frame.Request](p)
			h.send(&frame.Finish{ID: id, Seq: 9})
			if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonUnknown {
				t.Errorf("frame for a hold that is over: %+v", closed)
			}
		})
	}
}

func TestUpdate(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	id := r.hold(p, h, c, h.stream("", "a", "b", "a"))
	h.send(
		publish(1, "a", "a1"), publish(2, "b", "b1"),
		&frame.Update{ID: id, Seq: 1, Groups: []string{"b", "c"}, Record: []byte("new")},
		publish(3, "a", "a2"), publish(4, "b", "b2"), publish(5, "c", "c2"),
	)
	c.expect(streamHead + chunk("a1") + chunk("b1") + chunk("b2") + chunk("c2"))
	if n := r.s.groups.len(); n != 2 {
		t.Errorf("%d groups, want 2", n)
	}
	r.net.Kill("handler.0")
	h = r.far("handler.0", nil)
	if rec := next[*frame.Records](h); len(rec.Holds) != 1 || string(rec.Holds[0].Record) != "new" || rec.Holds[0].SendSeq != 2 || rec.Holds[0].RecvSeq != 1 {
		t.Errorf("records: %+v", rec)
	}
	_ = c.Close()
}

// A new handler is told the positions that follow from what its predecessor had
// delivered since it wrote the record, and what came with an Update came with its
// record.
func TestPositions(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	id := r.hold(p, h, c, h.stream("", "g"))
	at := func(pub uint64, channel, item string) *frame.Deliver {
		d := publish(pub, "g", channel+item)
		d.Channel, d.ItemID = channel, item
		return d
	}
	h.send(at(1, "a", "1"),
		&frame.Update{ID: id, Seq: 1, Groups: []string{"g"}, Record: []byte("new"), Body: []byte("body"), Pub: 9},
		at(2, "b", "1"), at(3, "a", "2"), at(4, "a", "3"))
	c.expect(streamHead + chunk("a1") + chunk("body") + chunk("b1") + chunk("a2") + chunk("a3"))
	r.net.Kill("handler.0")
	h = r.far("handler.0", nil)
	want := []frame.LastID{{Channel: "b", ID: "1"}, {Channel: "a", ID: "3"}}
	if rec := next[*frame.Records](h); len(rec.Holds) != 1 || string(rec.Holds[0].Record) != "new" || !slices.Equal(rec.Holds[0].Last, want) {
		t.Errorf("records: %+v", rec)
	}
	_ = c.Close()
}

// What a handler sent before it was killed is not delivered again when its
// publisher, who had no answer, repeats it.
func TestRepeatAcrossHandlers(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	id := r.hold(p, h, c, h.stream("", "g"))
	item := func(pub uint64, text, itemID string) *frame.Deliver {
		d := publish(pub, "g", text)
		d.ItemID = itemID
		return d
	}
	own := func(pub uint64, text, channel, itemID string) *frame.Deliver {
		d := item(pub, text, itemID)
		d.Group, d.Only, d.Channel = "", []uint64{id}, channel
		return d
	}
	h.send(item(1, "one", "1"), item(2, "again", "1"), // one boot knows what it does
		own(3, "own", "a", "7"))
	c.expect(streamHead + chunk("one") + chunk("again") + chunk("own"))
	r.net.Kill("handler.0")
	h = r.far("handler.0", nil)
	next[*frame.Records](h)
	h.send(item(11, "one", "1"), item(12, "two", "2"),
		own(13, "own", "a", "7"), own(14, "other channel", "b", "7"), own(15, "other item", "a", "8"))
	c.expect(chunk("two") + chunk("other channel") + chunk("other item"))
	sum := map[uint64]string{}
	for len(sum) < 5 {
		for _, o := range next[*frame.Report](h).Outcomes {
			sum[o.Pub] += fmt.Sprint(o.Delivered, o.Dropped)
		}
	}
	repeat := fmt.Sprint(0, []frame.Drop{{Reason: frame.ReasonRepeat, N: 1}})
	want := map[uint64]string{11: repeat, 12: "1[]", 13: repeat, 14: "1[]", 15: "1[]"}
	for pub, text := range want {
		if strings.ReplaceAll(sum[pub], " ", "") != strings.ReplaceAll(text, " ", "") {
			t.Errorf("publication %d came to %q, want %q", pub, sum[pub], text)
		}
	}
	_ = c.Close()
}

// A handler that is not there hears of ended holds when it comes, and again if it
// died before it could hear.
func TestEndedWithoutHandler(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	hold := func() *client {
		c := r.dial()
		f := h.stream("", "g")
		f.Tell, f.Record = true, []byte("rec")
		r.hold(p, h, c, f)
		c.expect(streamHead)
		return c
	}
	long, told, untold := hold(), hold(), hold()
	// A hold is remembered after the frame that says it is over, and counted out
	// after that.
	left := func(n int) {
		poll.Until(t, "a hold has ended", func() bool { return r.holds(frame.ModeStream) == n })
	}
	_ = long.Close()
	next[*frame.Closed](h)
	left(2)
	poll.Until(t, "it is forgotten", func() bool {
		r.clock.add(2 * endedTime)
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.ended) == 0
	})
	_ = told.Close()
	next[*frame.Closed](h)
	left(1)
	r.net.Kill("handler.0")
	poll.Until(t, "the handler is gone", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.peers["handler.0"] == nil
	})
	_ = untold.Close()
	left(0)
	for _, want := range []int{2, 0} { // once is enough
		h = r.far("handler.0", nil)
		n := 0
		for done := false; !done; {
			rec := next[*frame.Records](h)
			for _, held := range rec.Holds {
				if held.Ended != frame.ReasonClientGone || string(held.Record) != "rec" {
					t.Errorf("record %+v", held)
				}
				n++
			}
			done = rec.Done
		}
		if n != want {
			t.Errorf("%d ended, want %d", n, want)
		}
	}
}

// The holds of a handler that does not come back go to another one.
func TestHoldsMoveToAnotherHandler(t *testing.T) {
	r := newRig(t)
	p, h, other := r.far("proxy.0", nil), r.far("handler.0", nil), r.far("handler.1", nil)
	if rec := next[*frame.Records](other); len(rec.Holds) != 0 || !rec.Done {
		t.Errorf("records: %+v", rec)
	}
	c := r.dial()
	r.hold(p, h, c, h.stream("", "g"))
	c.expect(streamHead)
	r.net.Kill("handler.0")
	poll.Until(t, "the handler is gone", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.peers["handler.0"] == nil
	})
	r.clock.add(orphanTime)
	if rec := next[*frame.Records](other); len(rec.Holds) != 1 {
		t.Errorf("records: %+v", rec)
	}
	other.send(publish(1, "g", "x"))
	c.expect(chunk("x"))
	_ = c.Close()
	next[*frame.Closed](other)
}

func TestOnlyAndExcept(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	var cs []*client
	var ids []uint64
	for range 4 {
		c := r.dial()
		cs = append(cs, c)
		ids = append(ids, r.hold(p, h, c, h.stream("", "g")))
		c.expect(streamHead)
	}
	except := publish(1, "g", "not 1")
	except.Except = []uint64{ids[1]}
	only := publish(2, "", "only 1 and 2")
	only.Only = []uint64{ids[1], ids[2], 1 << 40}
	h.send(except, only)
	cs[0].expect(chunk("not 1"))
	cs[1].expect(chunk("only 1 and 2"))
	cs[2].expect(chunk("not 1") + chunk("only 1 and 2"))
	cs[3].expect(chunk("not 1"))
	if n, dropped := h.outcome(1, 3); n != 3 {
		t.Errorf("except: delivered %d, dropped %v", n, dropped)
	}
	if n, dropped := h.outcome(2, 3); n != 2 || dropped[frame.ReasonUnknown] != 1 {
		t.Errorf("only: delivered %d, dropped %v", n, dropped)
	}
}

// Keep-alives come after timeout minus at most a second; in idle mode that long
// after the last publication.
func TestKeepAlive(t *testing.T) {
	for _, interval := range []bool{false, true} {
		t.Run(fmt.Sprintf("interval=%v", interval), func(t *testing.T) {
			r := newRig(t)
			p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
			c := r.dial()
			f := h.stream("", "g")
			f.KeepAlive = frame.KeepAlive{Data: []byte("\n"), Millis: 100_000, Interval: interval}
			id := r.hold(p, h, c, f)
			c.expect(streamHead)
			poll.Until(t, "held", func() bool { return r.holds(frame.ModeStream) == 1 })
			r.sync(h, id)
			// The handler may be gone all the while.
			r.clock.add(98 * time.Second)
			h.send(publish(1, "g", "x"))
			c.expect(chunk("x"))
			r.net.Kill("handler.0")
			r.clock.add(3 * time.Second)
			if interval {
				c.expect(chunk("\n"))
			}
			r.clock.add(95 * time.Second)
			h = r.far("handler.0", nil)
			h.send(publish(2, "g", "y"))
			c.expect(chunk("y")) // no keep-alive before
			r.clock.add(101 * time.Second)
			c.expect(chunk("\n"))
			h.alive(id)
		})
	}
}

// sync waits until the writer of a hold has done what came before.
func (r *rig) sync(h *far, id uint64) {
	pub := rand.Uint64()
	h.send(&frame.Deliver{Pub: pub, Mode: frame.ModeWebSocket, Only: []uint64{id}})
	h.outcome(pub, 1)
}

// Every publication reaches each member once and in order, whoever else joins,
// leaves or stands still meanwhile.
func TestDeliveriesInOrder(t *testing.T) {
	const members, pubs = 20, 2000
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	var wg sync.WaitGroup
	var sent atomic.Int64
	for i := range members {
		c := r.dial()
		r.hold(p, h, c, h.stream("", "g", fmt.Sprintf("own%d", i)))
		c.expect(streamHead)
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for n := range pubs {
				want := chunk(fmt.Sprintf("message %d ", n))
				got := make([]byte, len(want))
				if _, err := io.ReadFull(c.br, got); err != nil || string(got) != want {
					t.Errorf("member %d: got %q (%v), want %q", i, got, err, want)
					return
				}
				if rnd.IntN(200) == 0 { // read at a pace of its own
					poll.For(patience, func() bool { return sent.Load() >= int64(min(n+100, pubs)) })
				}
			}
		})
	}
	// Others come and go.
	for range 10 {
		c := r.dial()
		r.hold(p, h, c, h.stream("", "g"))
		c.expect(streamHead)
		wg.Go(func() {
			_, _ = io.CopyN(io.Discard, c.br, int64(rand.IntN(10000)))
			_ = c.Close()
		})
	}
	for n := range pubs {
		h.send(publish(uint64(n+1), "g", fmt.Sprintf("message %d ", n)))
		sent.Add(1)
	}
	wg.Wait()
	total := 0
	for total < members*pubs {
		for _, o := range next[*frame.Report](h).Outcomes {
			total += int(o.Delivered)
		}
	}
}

// A client that does not read costs nobody else anything, and is dealt with as
// the policy says.
func TestStuckClient(t *testing.T) {
	for _, tc := range []struct {
		policy frame.Policy
		ends   bool
	}{{frame.PolicyDefault, true}, {frame.PolicyClose, true}, {frame.PolicyDropOldest, false}, {frame.PolicyLatest, false}} {
		t.Run(fmt.Sprint(tc.policy), func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.MaxBacklog = 100_000 })
			p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
			stuck, good := r.dial(), r.dial()
			f := h.stream("", "g")
			f.Policy = uint8(tc.policy)
			id := r.hold(p, h, stuck, f)
			r.hold(p, h, good, h.stream("", "g"))
			stuck.expect(streamHead)
			good.expect(streamHead)
			const pubs = 300
			for n := range pubs {
				body := fmt.Sprintf("%06d", n) + string(repeat("x", 40_000))
				h.send(publish(uint64(n+1), "g", body))
				good.expect(chunk(body))
			}
			var delivered, dropped int
			count := func(atLeast int) {
				for delivered+dropped < atLeast {
					for _, o := range next[*frame.Report](h).Outcomes {
						delivered += int(o.Delivered)
						for _, d := range o.Dropped {
							if d.Reason != frame.ReasonBacklogFull {
								t.Errorf("dropped for %v", d.Reason)
							}
							dropped += int(d.N)
						}
					}
				}
			}
			if tc.ends {
				if closed := next[*frame.Closed](h); closed.ID != id || closed.Reason != frame.ReasonBacklogFull {
					t.Errorf("closed: %+v", closed)
				}
				if n := counterValue(r.s.metrics.slow); n != 1 {
					t.Errorf("%v slow clients counted", n)
				}
				poll.Until(t, "empty backlog", func() bool { return counterValue(r.s.metrics.backlog) == 0 })
				return
			}
			h.send(publish(pubs+1, "g", "last"))
			// What the client gets in the end is whole chunks in order, up to the last.
			previous := -1
			for {
				line, err := stuck.br.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				var size int
				fmt.Sscanf(line, "%x", &size)
				data := make([]byte, size+2)
				if _, err := io.ReadFull(stuck.br, data); err != nil {
					t.Fatal(err)
				}
				if string(data) == "last\r\n" {
					break
				}
				var n int
				fmt.Sscanf(string(data[:6]), "%d", &n)
				if n <= previous || size != 40_006 {
					t.Fatalf("%d of %d bytes after %d", n, size, previous)
				}
				previous = n
			}
			if previous != pubs-1 {
				t.Errorf("the last but one was %d, want %d", previous, pubs-1)
			}
			count(2 * (pubs + 1))
			if dropped == 0 || delivered+dropped != 2*(pubs+1) {
				t.Errorf("delivered %d, dropped %d", delivered, dropped)
			}
		})
	}
}

func TestHeldClientLeaves(t *testing.T) {
	for _, mode := range []frame.Mode{frame.ModeResponse, frame.ModeStream} {
		for _, how := range []string{"close", "reset"} {
			t.Run(fmt.Sprint(mode, " ", how), func(t *testing.T) {
				r := newRig(t)
				p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
				c := r.dial()
				f := h.response("g")
				if mode == frame.ModeStream {
					f = h.stream("x", "g")
				}
				r.hold(p, h, c, f)
				if mode == frame.ModeStream {
					c.expect(streamHead + chunk("x"))
				}
				if how == "reset" {
					_ = c.Conn.(*net.TCPConn).SetLinger(0)
				}
				_ = c.Close()
				if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonClientGone {
					t.Errorf("closed: %+v", closed)
				}
				poll.Until(t, "nothing left", func() bool { return r.s.open() == 0 && r.s.groups.len() == 0 && r.holds(mode) == 0 })
			})
		}
	}
}

// Nothing can be sent to an HTTP/1.0 stream without keep-alives that its body
// would not contain, so a half-close has to count as leaving.
func TestHalfClosedStream10(t *testing.T) {
	for _, millis := range []uint32{0, 50_000} {
		r := newRig(t)
		p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
		c := r.dial()
		c.send("GET / HTTP/1.0\r\n\r\n")
		f := h.stream("i\n", "g")
		f.KeepAlive = frame.KeepAlive{Data: []byte("k\n"), Millis: millis}
		f.ID = next[*frame.Request](p).ID
		h.send(&f)
		c.head()
		c.expect("i\n")
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if millis > 0 {
			c.expect("k\n")
			_ = c.Close()
			h.send(publish(1, "g", "to nobody")) // finds out
		}
		if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonClientGone {
			t.Errorf("closed: %+v", closed)
		}
	}
}

// A held client that shuts its sending side down still gets everything, in valid
// HTTP.
func TestHalfClosedHold(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	half := func(c *client) { _ = c.Conn.(*net.TCPConn).CloseWrite() }

	c := r.dial()
	r.hold(p, h, c, h.response("r"))
	half(c)
	c.expect("HTTP/1.1 ")
	h.send(&frame.Deliver{Pub: 1, Mode: frame.ModeResponse, Group: "r", Body: []byte("hi")})
	c.expect("200 OK\r\n")
	if rest := c.rest(); !strings.HasSuffix(rest, "Content-Length: 2\r\n\r\nhi") {
		t.Errorf("then %q", rest)
	}

	c = r.dial()
	r.hold(p, h, c, h.stream("x", "s"))
	c.expect(streamHead + chunk("x"))
	half(c)
	c.expect("0")
	h.send(publish(2, "s", "y"), publish(3, "s", "z"), &frame.Deliver{Pub: 4, Mode: frame.ModeStream, Action: frame.ActionClose, Group: "s"})
	c.expect(chunk("y") + chunk("z"))
	if rest := c.rest(); rest != "0\r\n\r\n" {
		t.Errorf("then %q", rest)
	}
}

// Records travel in frames that a handler can read, whatever makes them large:
// positions, or bodies of those that are over.
func TestRecordsFitIntoFrames(t *testing.T) {
	const n, large = 30, 100_000
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	var leave []*client
	for i := range n {
		c := r.dial()
		f := h.stream("", "g")
		r.hold(p, h, c, f)
		c.expect(streamHead)
		if i < n/2 {
			continue
		}
		c = r.dial()
		f = h.stream("", "other")
		f.Tell, f.Record = true, repeat("r", large)
		r.hold(p, h, c, f)
		c.expect(streamHead)
		leave = append(leave, c)
	}
	at := publish(1, "g", "x")
	at.Channel, at.ItemID = "a", string(repeat("i", large))
	h.send(at)
	if delivered, dropped := h.outcome(1, n); delivered != n {
		t.Errorf("%d have the position, dropped %v", delivered, dropped)
	}
	r.net.Kill("handler.0")
	poll.Until(t, "the handler is gone", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.peers["handler.0"] == nil
	})
	for _, c := range leave { // nobody is told
		_ = c.Close()
	}
	poll.Until(t, "their holds have ended", func() bool { return r.holds(frame.ModeStream) == n })
	h = r.far("handler.0", nil)
	held, over := 0, 0
	for done := false; !done; {
		rec := next[*frame.Records](h)
		if size := len(frame.Encode(rec)); size > maxRecordBatch {
			t.Errorf("%d records in %d bytes", len(rec.Holds), size)
		}
		for _, f := range rec.Holds {
			if f.Ended == frame.ReasonNone {
				held++
			} else {
				over++
			}
		}
		done = rec.Done
	}
	if held != n || over != n/2 {
		t.Errorf("%d records and %d of what is over, want %d and %d", held, over, n, n/2)
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if r.s.endedBytes != 0 {
		t.Errorf("%d bytes are kept", r.s.endedBytes)
	}
}

// A new boot of the handler gets the records of all holds and is their far end.
func TestHandlerRestart(t *testing.T) {
	const n = 300
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	if rec := next[*frame.Records](h); len(rec.Holds) != 0 || !rec.Done {
		t.Errorf("first records: %+v", rec)
	}
	cs := make(map[uint64]*client)
	for i := range n {
		c := r.dial()
		f := h.stream("", "g")
		f.Record = append([]byte(fmt.Sprintf("record %d ", i)), repeat("r", 2000)...)
		cs[r.hold(p, h, c, f)] = c
		c.expect(streamHead)
	}
	r.net.Kill("handler.0")
	h = r.far("handler.0", nil)
	got := make(map[uint64]string)
	for {
		rec := next[*frame.Records](h)
		size := 0
		for _, held := range rec.Holds {
			got[held.ID] = string(held.Record)
			size += len(held.Record)
			if held.SendSeq != 1 || held.RecvSeq != 1 {
				t.Fatalf("numbers %d, %d", held.SendSeq, held.RecvSeq)
			}
		}
		if size > 256<<10 {
			t.Errorf("batch of %d bytes", size)
		}
		if rec.Done {
			break
		}
	}
	if len(got) != n {
		t.Fatalf("%d records, want %d", len(got), n)
	}
	h.send(publish(1, "g", "hello"))
	for id, c := range cs {
		if !strings.HasPrefix(got[id], "record ") {
			t.Fatalf("record of %d: %.20q", id, got[id])
		}
		c.expect(chunk("hello"))
		h.send(&frame.Finish{ID: id, Seq: 1})
		c.expect("0\r\n\r\n")
	}
	for range n {
		if f := next[*frame.Closed](h); f.Seq != 1 {
			t.Errorf("closed with number %d, want 1", f.Seq)
		}
	}
}

// A hold that comes for an exchange whose proxy has died in the meantime is
// refused, since the request was sent again.
func TestHoldAfterProxyDied(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	c.get("/")
	old := next[*frame.Request](p).ID
	r.net.Kill("proxy.0")
	p = r.far("proxy.0", nil)
	again := next[*frame.Request](p).ID
	f := h.stream("", "g")
	f.ID = old
	h.send(&f)
	if closed := next[*frame.Closed](h); closed.ID != old || closed.Reason != frame.ReasonUnknown {
		t.Errorf("closed: %+v", closed)
	}
	f.ID = again
	h.send(&f)
	c.expect(streamHead)
}

// While a server drains, a client that has just connected is served, one whose
// connection has been idle too, and an EventSource is told when to come back.
func TestDrainIsPolite(t *testing.T) {
	const long = time.Hour // it ends when nobody is left
	r := newRig(t, func(o *Options) { o.DrainTime = long })
	r.s.idleGrace = long
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	answer := func() {
		p.send(&frame.Response{ID: next[*frame.Request](p).ID, Code: 200, Reason: "OK"})
	}
	fresh, idle, sse := r.dial(), r.dial(), r.dial()
	idle.get("/")
	answer()
	idle.head()
	f := h.stream("", "g")
	f.Header = []frame.Field{{Name: "Content-Type", Value: "text/event-stream; charset=utf-8"}}
	r.hold(p, h, sse, f)
	sse.head()
	poll.Until(t, "the new connection is known", func() bool { return r.s.open() == 3 })
	r.stop()
	poll.Until(t, "it drains", r.s.draining.Load)
	for _, c := range []*client{fresh, idle} {
		c.get("/last")
		answer()
		if head := c.head(); !strings.Contains(head, "Connection: close") {
			t.Errorf("got %q", head)
		}
	}
	rest := sse.rest()
	if !regexp.MustCompile("^[0-9a-f]+\r\nretry: [0-9]{3,4}\n\n\r\n0\r\n\r\n$").MatchString(rest) {
		t.Errorf("EventSource: %q", rest)
	}
	_, _, _ = fresh.Close(), idle.Close(), sse.Close()
}

// What a proxy that stops did not begin is done by another one, though it must not
// be done twice; that proxy is asked no more.
func TestRefusedByAProxyThatStops(t *testing.T) {
	r := newRig(t)
	refused := make(chan string, 10)
	r.far("proxy.0", func(f *far, got frame.Frame) bool {
		if req, ok := got.(*frame.Request); ok {
			refused <- req.Method
			f.send(&frame.Cancel{ID: req.ID, Reason: frame.ReasonRefused})
		}
		return true
	})
	other := r.far("proxy.1", nil)
	c := r.dial()
	for range 4 { // either may be asked first
		c.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
		req := next[*frame.Request](other)
		if req.Method != "POST" || string(req.Body) != "body" {
			t.Errorf("the other one got %s %q", req.Method, req.Body)
		}
		other.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK"})
		c.head()
	}
	if n := len(refused); n != 1 {
		t.Errorf("the one that stops was asked %d times", n)
	}
	if err := r.s.Ready(); err != nil {
		t.Error(err)
	}
	other.node.Publish("leaving", nil) // one may say so itself, too
	poll.Until(t, "nobody is left to ask", func() bool { return r.s.Ready() != nil })
	_ = c.Close()
}

func TestDrain(t *testing.T) {
	const long = time.Hour // for the holds, on their clock; the others need none of it
	r := newRig(t, func(o *Options) { o.DrainTime = long })
	r.s.idleGrace = time.Millisecond
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	idle, busy, stream, held := r.dial(), r.dial(), r.dial(), r.dial()
	idle.get("/")
	p.send(&frame.Response{ID: next[*frame.Request](p).ID, Code: 200, Reason: "OK"})
	idle.head()
	r.hold(p, h, stream, h.stream("", "g"))
	stream.expect(streamHead)
	f := h.response("g")
	f.Millis = 0
	r.hold(p, h, held, f)
	poll.Until(t, "held", func() bool { return r.holds(frame.ModeStream)+r.holds(frame.ModeResponse) == 2 })
	busy.get("/busy")
	req := next[*frame.Request](p)
	r.stop()
	if err := idle.end(); err != nil {
		t.Errorf("idle: %v", err)
	}
	poll.Until(t, "the holds end", func() bool {
		r.clock.add(long / 10)
		return r.holds(frame.ModeStream)+r.holds(frame.ModeResponse) == 0
	})
	if rest := stream.rest(); rest != "0\r\n\r\n" {
		t.Errorf("stream: %q", rest)
	}
	if rest := held.rest(); !strings.Contains(rest, "Connection: close\r\n") || !strings.HasSuffix(rest, "timeout\n") {
		t.Errorf("long poll: %q", rest)
	}
	_, _, _ = idle.Close(), stream.Close(), held.Close()
	for range 2 {
		if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonShutdown {
			t.Errorf("closed: %+v", closed)
		}
	}
	p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", Body: []byte("x")})
	busy.expect("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
	_ = busy.Close()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	r.done <- nil
	if nc, err := net.Dial("tcp", r.addr); err == nil {
		_ = nc.Close()
		t.Error("still listening")
	}
}

// drainAt does to a hold what Drain does.
func (r *rig) drainAt(mode frame.Mode, id uint64, at time.Time) {
	r.t.Helper()
	poll.Until(r.t, "the writer has the hold", func() bool { return r.holds(mode) == 1 })
	r.s.mu.Lock()
	x := r.s.exchanges[id]
	r.s.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hold.w.push(job{kind: jobEnd, h: x.hold, reason: frame.ReasonShutdown, at: at})
}

// A server that takes its time to drain lets no long poll wait for longer than its
// timeout.
func TestDrainKeepsTimeout(t *testing.T) {
	r := newRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := r.dial()
	f := h.response("g")
	f.Millis = 60_000
	id := r.hold(p, h, c, f)
	r.drainAt(frame.ModeResponse, id, r.clock.now().Add(time.Hour))
	r.clock.add(2 * time.Minute)
	if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonTimeout {
		t.Errorf("closed: %+v", closed)
	}
	c.head()
	c.expect("timeout\n")

	id = r.hold(p, h, c, h.response("g")) // for an hour
	r.drainAt(frame.ModeResponse, id, r.clock.now().Add(time.Minute))
	r.clock.add(2 * time.Minute)
	if closed := next[*frame.Closed](h); closed.Reason != frame.ReasonShutdown {
		t.Errorf("closed: %+v", closed)
	}
	c.head()
	c.expect("timeout\n")
}

// Nor does it forget a WebSocket whose keep-alives are ended meanwhile.
func TestDrainAfterTune(t *testing.T) {
	r := newWSRig(t)
	c := r.open("", "g")
	r.drainAt(frame.ModeWebSocket, c.id, r.clock.now().Add(time.Minute))
	c.far(&frame.Tune{Op: frame.TuneKeepAlive})
	r.settled(c)
	r.clock.add(2 * time.Minute)
	c.want(0x88, status(wsGoingAway, ""))
}

// members makes a group of n parked streams of a writer that does not run, with
// clients that drain what they get.
func members(t testing.TB, n int) (*writer, *group) {
	t.Helper()
	opt := DefaultOptions()
	opt.Bus = bustest.NewNetwork().Node("connmgr.0")
	opt.Writers = 1
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	w := s.writers[0]
	var drains sync.WaitGroup
	t.Cleanup(func() { _ = s.Close(); drains.Wait() })
	for i := range n {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		drains.Go(func() { _, _ = io.Copy(io.Discard, nc); _ = nc.Close() })
		accepted, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		sk, err := newSock(accepted, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c := &conn{s: s, sock: sk, minor: 1}
		s.slots <- struct{}{}
		s.remember(c)
		x := &exch{id: uint64(i + 1), c: c}
		h := newHold(x, w, &frame.Hold{Mode: frame.ModeStream, Code: 200}, frame.PolicyClose)
		w.own(h)
		w.begin(h, s.acquire([]string{"g"}, w))
	}
	return w, s.groups.byKey["g"]
}

// Fan-out allocates nothing for a member that keeps up.
func TestFanOutAllocations(t *testing.T) {
	w, g := members(t, 50)
	d := newDelivery(&peer{}, publish(1, "g", "hello"))
	run := []job{{kind: jobDeliver, d: d, g: g}, {kind: jobDeliver, d: d, g: g}}
	w.fanOut(g, run)
	if n := testing.AllocsPerRun(20, func() { w.fanOut(g, run) }); n > 1 { // the bytes of the run
		t.Errorf("%v allocations for 50 members", n)
	}
}

// BenchmarkFanOut writes to sockets on the loopback interface, whose readers run
// on the same processors.
func BenchmarkFanOut(b *testing.B) {
	for _, burst := range []int{1, 50} {
		b.Run(fmt.Sprintf("burst=%d", burst), func(b *testing.B) {
			const n = 2000
			w, g := members(b, n)
			d := newDelivery(&peer{}, publish(1, "g", string(repeat("x", 100))))
			run := make([]job, burst)
			for i := range run {
				run[i] = job{kind: jobDeliver, d: d, g: g}
			}
			b.ReportAllocs()
			for b.Loop() {
				w.fanOut(g, run)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n*burst), "ns/delivery")
		})
	}
}

func TestRunLength(t *testing.T) {
	a, b := &group{}, &group{}
	src := &peer{}
	plain := newDelivery(src, publish(1, "a", "x"))
	big := newDelivery(src, publish(1, "a", string(bytes.Repeat([]byte("x"), 60<<10))))
	except := publish(1, "a", "x")
	except.Except = []uint64{1}
	for _, tc := range []struct {
		name string
		jobs []job
		want int
	}{
		{"one", []job{{g: a, d: plain}}, 1},
		{"three", []job{{g: a, d: plain}, {g: a, d: plain}, {g: a, d: plain}}, 3},
		{"other group", []job{{g: a, d: plain}, {g: b, d: plain}}, 1},
		{"exception", []job{{g: a, d: plain}, {g: a, d: newDelivery(src, except)}}, 1},
		{"bytes", []job{{g: a, d: big}, {g: a, d: big}}, 1},
		{"other job", []job{{g: a, d: plain}, {kind: jobGone}}, 1},
	} {
		if got := runLength(tc.jobs); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestBacklogCountsItems has many messages of one byte wait: the bound is for what
// they take in memory, which is far more.
func TestBacklogCountsItems(t *testing.T) {
	const n, limit = 200, 10_000 // they have 6 bytes each with their framing, or 3
	t.Run("stream", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.MaxBacklog = limit })
		p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
		f := h.stream("", "g")
		f.More = true // so that it is not parked, and everything waits
		r.hold(p, h, r.dial(), f)
		for pub := range uint64(n) {
			h.send(publish(pub+1, "g", "x"))
		}
		// Though nobody has anything to write to the client, who is cut off.
		if f := next[*frame.Closed](h); f.Reason != frame.ReasonBacklogFull {
			t.Errorf("ended for %v", f.Reason)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		r := newWSRig(t, func(o *Options) { o.MaxBacklog = limit })
		c := r.open("", "g")
		c.far(&frame.Message{Kind: frame.MessageText, Data: []byte("a"), More: true})
		c.want(0x01, "a")
		for pub := range uint64(n) {
			r.h.send(wsPublish(pub+1, "g", "x"))
		}
		if f := next[*frame.Closed](r.h); f.Reason != frame.ReasonBacklogFull {
			t.Errorf("ended for %v", f.Reason)
		}
	})
}
