package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
)

// fetch asks the proxy as a handler.
func (h *fakeHandler) fetch(t *testing.T, f *frame.Fetch) {
	t.Helper()
	if err := h.node.Send("proxy.0", frame.Encode(f)); err != nil {
		t.Fatal(err)
	}
}

func TestFetch(t *testing.T) {
	answer := ok("Grip-Hold: stream\nConnection: X-Hop\nX-Hop: 1\nX-A: 1", "next")
	inner, outer := newOrigin(t, answering(answer)), newOrigin(t, answering(answer))
	dead := unusedAddr(t)
	r := newRig(t, strings.Join([]string{
		"*,id=r,path_beg=/in,header=X-Set:1 " + dead + " " + inner.addr,
		"*,id=plain test", // where a request for any host would end
		"*,id=untrusted,path_beg=/u " + inner.addr + ",untrusted",
		"*,id=dead,path_beg=/d " + dead,
		"*,id=test,path_beg=/t test",
		"127.0.0.1,id=one,path_beg=/y test",
		"127.0.0.1,path_beg=/out test",
	}, "\n"), func(o *Options) { o.XForwardedFor = ForwardedFor{Append: true}; o.CDNLoop = "me" })

	r.handler.fetch(t, &frame.Fetch{Token: 1, Method: "GET", URI: "http://h/in?q", Route: "r", Base: "http://h:80", Header: lines("Grip-Last: c; last-id=1")})
	got := within(t, r.handler.fetched)
	want := &frame.Fetched{Token: 1, Code: 200, Reason: "OK", Header: lines("Grip-Hold: stream\nX-A: 1"), Body: []byte("next")}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	req := within(t, inner.reqs)
	h, _, _ := strings.Cut(text(req.Header), "Grip-Sig: ey")
	if want := "Host: h\nGrip-Last: c; last-id=1\nX-Set: 1\nCDN-Loop: me\n"; req.Target != "/in?q" || h != want || !strings.Contains(text(req.Header), "Grip-Feature: ") {
		t.Errorf("origin got %s %q, want %q", req.Target, text(req.Header), want)
	}
	r.log.wait(t, "INFO GET http://h/in?q -> "+inner.addr+" route=r code=200 4 #c=1")

	for i, tt := range []struct {
		name      string
		ask       frame.Fetch
		code      uint16
		condition string
		body      string
		at        *testOrigin
	}{
		{"other host", frame.Fetch{Method: "GET", URI: "http://" + outer.addr + "/in", Route: "r", Base: "http://h"}, 200, "", "next", outer},
		{"other path", frame.Fetch{Method: "GET", URI: "http://" + outer.addr + "/out", Route: "r", Base: "http://" + outer.addr}, 200, "", "Hello from the Holdfast test handler!\n", nil},
		{"other path, no route", frame.Fetch{Method: "GET", URI: "http://" + outer.addr + "/x", Route: "one", Base: "http://" + outer.addr}, 200, "", "next", outer},
		{"filter", frame.Fetch{Method: "POST", URI: "http://h/in", Route: "r", Base: "http://h", Body: []byte("message"), Header: lines("Sub-Meta: {}")}, 200, "", "next", inner},
		{"WebSocket base", frame.Fetch{Method: "GET", URI: "http://h/in", Route: "r", Base: "ws://H"}, 200, "", "next", inner},
		{"test origin", frame.Fetch{Method: "GET", URI: "http://h/t", Route: "test", Base: "http://h"}, 200, "", "Hello from the Holdfast test handler!\n", nil},
		{"route gone", frame.Fetch{Method: "GET", URI: "http://h/in", Route: "gone", Base: "http://h"}, 0, conditionOther, "", nil},
		{"not a URI", frame.Fetch{Method: "GET", URI: "/in", Route: "r"}, 0, conditionOther, "", nil},
		{"refused", frame.Fetch{Method: "GET", URI: "http://h/d", Route: "dead", Base: "http://h"}, 0, conditionRefused, "", nil},
		{"policy is inherited", frame.Fetch{Method: "GET", URI: "http://" + outer.addr + "/", Route: "untrusted", Base: "http://h"}, 0, conditionOther, "", nil},
		{"too large", frame.Fetch{Method: "GET", URI: "http://h/in", Route: "r", Base: "http://h", MaxBody: 3}, 0, conditionTooLarge, "", inner},
		{"just fits", frame.Fetch{Method: "GET", URI: "http://h/in", Route: "r", Base: "http://h", MaxBody: 4}, 200, "", "next", inner},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.ask.Token = uint64(100 + i)
			r.handler.fetch(t, &tt.ask)
			got := within(t, r.handler.fetched)
			if got.Token != tt.ask.Token || got.Code != tt.code || got.Condition != tt.condition || string(got.Body) != tt.body {
				t.Errorf("got %+v, body %q", got, got.Body)
			}
			if tt.at == nil {
				return
			}
			req := within(t, tt.at.reqs)
			if string(req.body) != string(tt.ask.Body) || !strings.Contains(text(req.Header), "Grip-Sig: ey") {
				t.Errorf("origin got %q %q", req.body, text(req.Header))
			}
		})
	}
}

// A head and a body, neither of them too large, come to more than a frame.
func TestFetchedLargerThanFrame(t *testing.T) {
	o := newOrigin(t, answering(ok("X-A: "+strings.Repeat("a", frame.MaxFrame/2), strings.Repeat("b", maxFetchBody))))
	r := newRig(t, "*,id=r "+o.addr, func(o *Options) { o.Origin.Limits.MaxHead = frame.MaxFrame })
	r.handler.fetch(t, &frame.Fetch{Token: 1, Method: "GET", URI: "http://h/", Route: "r", Base: "http://h", MaxBody: maxFetchBody})
	want := &frame.Fetched{Token: 1, Condition: conditionTooLarge}
	if got := within(t, r.handler.fetched); got.Condition != want.Condition || got.Token != want.Token || len(got.Body) > 0 {
		t.Errorf("got condition %q, token %d, %d bytes", got.Condition, got.Token, len(got.Body))
	}
}

func TestFetchTimeout(t *testing.T) {
	o := hung(t)
	r := newRig(t, "*,id=r "+o.addr, nil)
	r.handler.fetch(t, &frame.Fetch{Token: 1, Method: "GET", URI: "http://h/", Route: "r", Base: "http://h", Millis: 20})
	if got := within(t, r.handler.fetched); got.Condition != conditionTooLong {
		t.Errorf("got %+v", got)
	}
}

// Requests that an origin cannot tell apart are made once.
func TestFetchShared(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin(t, func(*originRequest) (string, bool) { <-release; return ok("", "x"), true })
	r := newRig(t, "*,id=r "+o.addr, nil)
	ask := frame.Fetch{Method: "GET", URI: "http://h/", Route: "r", Base: "http://h", Header: lines("Grip-Last: a; last-id=1\nGrip-Last: b; last-id=2")}
	const n = 50
	for i := range n {
		ask.Token = uint64(i + 1)
		if i == n/2 {
			ask.Header = lines("Grip-Last: b; last-id=2\nGrip-Last: a; last-id=1")
		}
		r.handler.fetch(t, &ask)
	}
	other := ask
	other.Token, other.Header = n+1, lines("Grip-Last: a; last-id=2")
	r.handler.fetch(t, &other)
	within(t, o.reqs)
	within(t, o.reqs)
	close(release)
	seen := map[uint64]bool{}
	for range n + 1 {
		got := within(t, r.handler.fetched)
		if got.Code != 200 || seen[got.Token] {
			t.Fatalf("got %+v", got)
		}
		seen[got.Token] = true
	}
	if len(o.reqs) > 0 {
		t.Errorf("%d more requests than 2", len(o.reqs))
	}
}

// The next boot of a handler numbers its requests anew and must not get answers
// that are not its own.
func TestFetchHandlerLost(t *testing.T) {
	gone := make(chan struct{})
	o := newOrigin(t, func(q *originRequest) (string, bool) {
		if q.Path == "/1" {
			_, _ = q.conn.Read(make([]byte, 1)) // ends when the proxy closes the connection
			close(gone)
		}
		return ok("", "x"), true
	})
	r := newRig(t, "*,id=r "+o.addr, nil)
	r.handler.fetch(t, &frame.Fetch{Token: 1, Method: "POST", URI: "http://h/1", Route: "r", Base: "http://h"})
	within(t, o.reqs)
	next := newHandler(r, "handler.0")
	within(t, gone)
	next.fetch(t, &frame.Fetch{Token: 1, Method: "POST", URI: "http://h/2", Route: "r", Base: "http://h"})
	if got := within(t, next.fetched); got.Code != 200 {
		t.Errorf("got %+v", got)
	}
	if len(next.fetched) > 0 {
		t.Error("another answer")
	}
}

// A request that was given up, because the handler that waited for it is gone, is
// nothing for its next boot to join.
func TestFetchAfterHandlerLost(t *testing.T) {
	o := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, "*,id=r "+o.addr, nil)
	ask := &frame.Fetch{Token: 1, Method: "GET", URI: "http://h/", Route: "r", Base: "http://h"}
	gone := bus.Peer{Name: "handler.0", Boot: 1}
	canceled := false
	r.srv.mu.Lock()
	r.srv.fetches[shareKey(ask)] = &fetch{key: shareKey(ask), ask: ask, waiting: []asker{{gone, 7}}, cancel: func() { canceled = true }}
	r.srv.leaveFetches(gone)
	r.srv.mu.Unlock()
	r.handler.fetch(t, ask)
	if got := within(t, r.handler.fetched); got.Code != 200 || got.Token != 1 || !canceled {
		t.Errorf("got %+v, the first one canceled: %v", got, canceled)
	}
}
