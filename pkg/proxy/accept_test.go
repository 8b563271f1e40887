package proxy

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

func TestAccept(t *testing.T) {
	o := newOrigin(t, answering(ok(`Content-Type: text/plain
X-A: 1
X-B: 2
Connection: X-Hop
X-Hop: 1
Grip-Hold: stream
Grip-Channel: a; prev-id=1; filter=var-subst, b
Grip-Keep-Alive: k; timeout=9
Grip-Set-Meta: u=1
Grip-Link: </next?x>; rel=next; timeout=7, <gone>; rel=gone
Grip-Status: 404 Nope
Grip-Expose-Headers: X-A, X-Hop, Content-Length`, "init\n")))
	r := newRig(t, "h,id=r1,prefix=p-,path_beg=/a,replace_beg=/z,as_host=w:81,sig_iss=i,debug,aco "+o.addr+",sub=impl", func(o *Options) {
		o.XForwardedFor = ForwardedFor{Truncate: true, Keep: 1}
	})
	r.conn.open(frame.Request{
		Method: "POST", URI: "/a/b/c?q", Host: "h", ConnID: "cid", Body: []byte("x"), BodyLen: 1, Retry: true, Route: "r1",
		Last:   []frame.LastID{{Channel: "a", ID: "0"}},
		Header: lines("Origin: http://o\nAccess-Control-Request-Method: PUT\nX-Forwarded-For: 5.5.5.5\nCookie: c"),
	})
	got := within(t, r.handler.accepts)
	want := &frame.Accept{
		X: frame.XID{Conn: "connmgr.0", Boot: r.conn.node.Boot(), ID: 1}, RecvSeq: 1, ConnID: "cid",
		Mode: frame.ModeStream, Millis: 55000, KeepAlive: frame.KeepAlive{Data: []byte("k"), Millis: 9000},
		Channels: []frame.Channel{{Name: "p-a", PrevID: "1", HasPrevID: true, Filters: []string{"var-subst"}}, {Name: "p-b"}, {Name: "impl", Implicit: true}},
		Meta:     []frame.Field{{Name: "u", Value: "1"}},
		Next:     frame.Link{URI: "http://w:81/next?x", Millis: 7000}, Gone: "http://w:81/z/b/gone",
		Code: 404, Reason: "Nope", Header: lines("X-A: 1"), Body: []byte("init\n"), Expose: []string{"X-A", "X-Hop", "Content-Length"},
		Method: "POST", URI: "http://w:81/z/b/c?q", Peer: "5.5.5.5", Route: "r1", RouteNamed: true, Prefix: "p-", SigIss: "i", SigKey: "changeme",
		Debug: true, CORS: true, Retry: true, Minor: 1, Request: lines("Origin: http://o\nAccess-Control-Request-Method: PUT"), Base: "http://w:81",
		Last: []frame.LastID{{Channel: "a", ID: "0"}},
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	req := within(t, o.reqs)
	if h := text(req.Header); !strings.Contains(h, "Grip-Last: a; last-id=0\n") || !strings.Contains(h, "Cookie: c\n") || !strings.Contains(h, "Host: w:81\n") || string(req.body) != "x" || req.Target != "/z/b/c?q" {
		t.Errorf("origin got %s %q\n%s", req.Target, req.body, h)
	}
	r.log.wait(t, "INFO POST http://h/a/b/c?q -> "+o.addr+" route=r1 accept retry #a=0")
}

func TestRetryRoutes(t *testing.T) {
	o := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, "h,id=one,path_beg=/a "+o.addr+"\nh,id=two "+o.addr+"\nh2,id=two,path_beg=/b "+o.addr, nil)
	for _, tt := range []struct{ host, route, path, want string }{
		{"h", "one", "/a", "200 OK"},
		{"elsewhere", "one", "/a", "200 OK"},
		{"h", "one", "/b", "502 Bad Gateway"},  // its path_beg still has to match
		{"h", "gone", "/a", "502 Bad Gateway"}, // not in the file any more
		{"h", "two", "/x", "200 OK"},           // shared: by host
		{"h2", "two", "/x", "502 Bad Gateway"},
	} {
		got := r.conn.open(frame.Request{URI: tt.path, Host: tt.host, Retry: true, Route: tt.route}).finish()
		if got.status() != tt.want {
			t.Errorf("%+v: got %s", tt, got.status())
		}
	}
}

// Responses that GRIP changes but that hold nothing.
func TestInstructRelay(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	for _, tt := range []struct {
		name, response string
		status         string
		head, body     string
	}{
		{"I1", ok("Grip-Channel: t\nContent-Type: text/plain", "hi"), "200 OK", "Content-Type: text/plain\nContent-Length: 2\n", "hi"},
		{"I2", ok("Grip-Status: 404", "hi"), "404 Not Found", "Content-Length: 2\n", "hi"},
		{"I3", ok("Grip-Status: 404 Nope here", ""), "404 Nope here", "Content-Length: 0\n", ""},
		{"I4", ok("Grip-Status: 299", ""), "299 Undefined Reason", "Content-Length: 0\n", ""},
		{"I28", ok("Connection: x\nContent-Encoding: gzip\nGrip-Foo: 1\nX-A: 1", "b"), "200 OK", "X-A: 1\nContent-Length: 1\n", "b"},
		{"J1", ok("Content-Type: application/grip-instruct\nX-O: 1", `{"response":{"code":202,"headers":{"X-A":"1","Connection":"close","Content-Length":"99"},"body":"b\n"}}`), "202 Accepted", "X-A: 1\nContent-Length: 2\n", "b\n"},
		{"no body", ok("Content-Type: application/grip-instruct", `{}`), "200 OK", "Content-Length: 0\n", ""},
		{"filter", ok("Grip-Channel: a; filter=build-id\nGrip-Set-Meta: id_format=q", "a%(x)I%%"), "200 OK", "Content-Length: 3\n", "ax%"},
		{"largest", ok("Grip-Foo: 1", big), "200 OK", "Content-Length: 100000\n", big},
		{"until close", "HTTP/1.1 200 OK\r\nGrip-Foo: 1\r\n\r\nabc", "200 OK", "Content-Length: 3\n", "abc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, func(*originRequest) (string, bool) { return tt.response, false })
			r := newRig(t, "* "+o.addr, nil)
			got := r.get("/")
			if got.status() != tt.status || got.head() != tt.head || got.body != tt.body {
				t.Errorf("got %s %q %.100q", got.status(), got.head(), got.body)
			}
		})
	}
}

func TestInstructErrors(t *testing.T) {
	for _, tt := range []struct{ name, response, debug string }{
		{"header", ok("Grip-Hold: x", "hi"), "Failed to parse accept instructions: Grip-Hold must be set to either 'response' or 'stream'"},
		{"JSON", ok("Content-Type: application/grip-instruct", "{"), "Failed to parse accept instructions: failed to parse application/grip-instruct content as JSON"},
		{"filter", ok("Grip-Channel: a; filter=build-id\nGrip-Set-Meta: id_format=x", "init %I"), "Failed to parse accept instructions: filter error: build-id: No ID specified and no default ID in context at position 6"},
		{"too large, H21", ok("Grip-Hold: response\nGrip-Channel: a", strings.Repeat("x", 100_001)), "GRIP instruct response too large from ADDR"},
		{"too large, build-id", ok("Grip-Hold: stream\nGrip-Channel: a; filter=build-id", strings.Repeat("x", 100_001)), "GRIP instruct response too large from ADDR"},
		{"cut", "HTTP/1.1 200 OK\r\nGrip-Hold: stream\r\nContent-Length: 10\r\n\r\nabc", "Error while proxying to origin."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, func(*originRequest) (string, bool) { return tt.response, false })
			r := newRig(t, "* "+o.addr+"\ndebug,debug "+o.addr, nil)
			if got := r.get("/"); got.status() != "502 Bad Gateway" || got.body != "Error while proxying to origin.\n" {
				t.Errorf("got %s %q", got.status(), got.body)
			}
			want := strings.ReplaceAll(tt.debug, "ADDR", o.addr) + "\n"
			if got := r.conn.open(frame.Request{URI: "/", Host: "debug"}).finish(); got.status() != "502 Bad Gateway" || got.body != want {
				t.Errorf("debug: got %s %q, want %q", got.status(), got.body, want)
			}
		})
	}
}

func TestRequestTooLargeForInstruct(t *testing.T) {
	o := newOrigin(t, answering(ok("Grip-Hold: stream\nGrip-Channel: a", "x")))
	r := newRig(t, "* "+o.addr+"\nplain,no_grip "+o.addr, nil)
	for _, length := range []int64{100_001, -1} {
		x := r.conn.open(frame.Request{Method: "POST", URI: "/", BodyLen: length, More: true})
		if err := x.sendBody(t.Context(), 100_001, true); err != nil {
			t.Fatal(err)
		}
		if got := x.finish(); got.status() != "400 Bad Request" || got.body != "Request too large to accept GRIP instruct.\n" {
			t.Errorf("length %d: got %s %q", length, got.status(), got.body)
		}
		x = r.conn.open(frame.Request{Method: "POST", URI: "/", BodyLen: 100_000, More: true})
		if err := x.sendBody(t.Context(), 100_000, true); err != nil {
			t.Fatal(err)
		}
		if a := within(t, r.handler.accepts); a.X.ID != x.id {
			t.Errorf("got %+v", a)
		}
		x = r.conn.open(frame.Request{Method: "POST", URI: "/", Host: "plain", BodyLen: length, More: true})
		if err := x.sendBody(t.Context(), 100_001, true); err != nil {
			t.Fatal(err)
		}
		if got := x.finish(); got.status() != "200 OK" || !strings.Contains(got.head(), "Grip-Hold: stream\n") {
			t.Errorf("no_grip: got %s %q", got.status(), got.head())
		}
	}
}

func TestUnaskedCoding(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte("plain")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, body string }{{"coded", b.String()}, {"only labelled", "plain"}} {
		o := newOrigin(t, answering(ok("Grip-Hold: response\nContent-Encoding: gzip", tt.body)))
		r := newRig(t, "* "+o.addr, nil)
		r.conn.open(frame.Request{URI: "/"})
		if a := within(t, r.handler.accepts); string(a.Body) != "plain" || len(a.Header) > 0 {
			t.Errorf("%s: got %q, header %v", tt.name, a.Body, a.Header)
		}
	}
}

// H20 and H22: initial bodies that are too large to be kept.
func TestLargeStream(t *testing.T) {
	body := strings.Repeat("0123456789", 11_001)
	for _, tt := range []struct{ name, header, status, head, tail, cut string }{
		{"hold", "Grip-Hold: stream\nGrip-Channel: a\nGrip-Status: 404 X\nX-A: 1\nX-B: 2\nGrip-Expose-Headers: X-A", "404 X", "X-A: 1\n", "", ""},
		{"next link", "Grip-Link: </n>; rel=next", "200 OK", "", "", ""},
		{"bad instruct", "Grip-Hold: stream\nGrip-Keep-Alive: a; mode=x", "200 OK", "", "\n\nFailed to parse accept instructions: no such Grip-Keep-Alive mode 'x'\n", ""},
		{"bad status", "Grip-Hold: stream\nGrip-Status: x", "500 Internal Server Error", "Content-Type: text/plain\nContent-Length: 28\n", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, answering(ok(tt.header, body)))
			r := newRig(t, "* "+o.addr+"\ndebug,debug "+o.addr, nil)
			for _, host := range []string{"h", "debug"} {
				x := r.conn.open(frame.Request{URI: "/", Host: host})
				var got strings.Builder
				head, isHead := x.get().(*frame.Response)
				if !isHead || fmt.Sprintf("%d %s", head.Code, head.Reason) != tt.status || text(head.Header) != tt.head {
					t.Fatalf("got %+v", head)
				}
				if head.Code == 500 {
					continue
				}
				if head.BodyLen != -1 || !head.More {
					t.Errorf("got length %d, more %v", head.BodyLen, head.More)
				}
				want := body
				if host == "debug" {
					want += tt.tail
				}
				frames := uint64(1)
				for more := true; more && (got.Len() < len(want) || tt.tail != ""); frames++ {
					f := x.get().(*frame.Body)
					got.Write(f.Data)
					x.send(&frame.Credit{N: uint64(len(f.Data))})
					more = f.More
				}
				if got.String() != want {
					t.Errorf("body of %d bytes, want %d", got.Len(), len(want))
				}
				if tt.tail != "" {
					continue
				}
				if a := within(t, r.handler.accepts); !a.HeadSent || len(a.Body) > 0 || a.SendSeq != frames || a.X.ID != x.id {
					t.Errorf("got %+v after %d frames", a, frames)
				}
			}
		})
	}
}

func TestLargeStreamCut(t *testing.T) {
	o := newOrigin(t, func(*originRequest) (string, bool) {
		return "HTTP/1.1 200 OK\r\nGrip-Hold: stream\r\nContent-Length: 200000\r\n\r\n" + strings.Repeat("x", 150_000), false
	})
	r := newRig(t, "* "+o.addr, nil)
	if got := r.get("/"); got.status() != "200 OK" || got.cut == nil || got.cut.Reason != frame.ReasonOriginFailed {
		t.Errorf("got %s, cut %+v", got.status(), got.cut)
	}
}

func TestHandOverFails(t *testing.T) {
	o := newOrigin(t, answering(ok("Grip-Hold: stream\nGrip-Channel: a", "x")))
	const unavailable = "Accept service unavailable.\n"
	t.Run("no handler", func(t *testing.T) {
		r := newRig(t, "* "+o.addr, func(o *Options) { o.HandOverTimeout = 50 * time.Millisecond })
		r.net.Kill("handler.0")
		waitPeer(t, r.srv.opts.Bus, "handler", 0)
		if got := r.get("/"); got.status() != "500 Internal Server Error" || got.body != unavailable {
			t.Errorf("got %s %q", got.status(), got.body)
		}
	})
	t.Run("silent handler", func(t *testing.T) {
		r := newRig(t, "* "+o.addr, func(o *Options) { o.HandOverTimeout = 50 * time.Millisecond })
		r.net.Pause("handler.0")
		if got := r.get("/"); got.body != unavailable {
			t.Errorf("got %s %q", got.status(), got.body)
		}
	})
	t.Run("refused", func(t *testing.T) {
		r := newRig(t, "* "+o.addr, nil)
		r.handler.answer = func(a *frame.Accept) *frame.Accepted {
			return &frame.Accepted{X: a.X, Code: "no-route", Text: "because"}
		}
		if got := r.get("/"); got.body != unavailable {
			t.Errorf("got %s %q", got.status(), got.body)
		}
		r.log.wait(t, "exchange not handed over")
	})
	t.Run("larger than a frame", func(t *testing.T) {
		const prefix, channels = 20_000, 500
		h := "Grip-Hold: stream"
		for i := range channels {
			h += fmt.Sprintf("\nGrip-Channel: %d", i)
		}
		many := newOrigin(t, answering(ok(h, "x")))
		r := newRig(t, "*,prefix="+strings.Repeat("p", prefix)+" "+many.addr, nil)
		r.handler.answer = func(a *frame.Accept) *frame.Accepted {
			t.Errorf("it was offered with %d channels", len(a.Channels))
			return nil
		}
		if got := r.get("/"); got.status() != "500 Internal Server Error" || got.body != unavailable {
			t.Errorf("got %s %q", got.status(), got.body)
		}
		r.log.wait(t, errTooLarge.text)
	})
	t.Run("refused after the head", func(t *testing.T) {
		big := newOrigin(t, answering(ok("Grip-Hold: stream\nGrip-Channel: a", strings.Repeat("x", 100_001))))
		r := newRig(t, "* "+big.addr, nil)
		r.handler.answer = func(a *frame.Accept) *frame.Accepted { return &frame.Accepted{X: a.X} }
		if got := r.get("/"); got.cut == nil || got.cut.Reason != frame.ReasonPeerLost || len(got.body) != 100_001 {
			t.Errorf("got %s, %d bytes, cut %+v", got.status(), len(got.body), got.cut)
		}
	})
}

// A head that does not fit into a frame ends the exchange, with a reason that
// connmgr can answer.
func TestResponseLargerThanFrame(t *testing.T) {
	o := newOrigin(t, answering(ok("X-A: "+strings.Repeat("a", frame.MaxFrame), "x")))
	r := newRig(t, "* "+o.addr, func(o *Options) { o.Origin.Limits.MaxHead = 2 * frame.MaxFrame })
	if got := r.get("/"); got.Response != nil || got.cut == nil || got.cut.Reason != frame.ReasonOriginFailed {
		t.Errorf("got %s, cut %+v", got.status(), got.cut)
	}
}

// A handler that dies before it answers has lost the exchange; its next boot, or
// another handler, gets it.
func TestHandOverMovesOn(t *testing.T) {
	o := newOrigin(t, answering(ok("Grip-Hold: stream\nGrip-Channel: a", "x")))
	r := newRig(t, "* "+o.addr, nil)
	r.handler.answer = func(*frame.Accept) *frame.Accepted { return nil }
	r.conn.open(frame.Request{URI: "/"})
	first := within(t, r.handler.accepts)
	second := newHandler(r, "handler.0")
	again := within(t, second.accepts)
	if d := cmp.Diff(first, again); d != "" {
		t.Errorf("first and second differ:\n%s", d)
	}
	r.log.wait(t, " accept")
	waitIdle(t, r.srv)
}

// With nobody left to answer to, the exchange waits for a handler to come up.
func TestHandOverWaitsForHandler(t *testing.T) {
	o := newOrigin(t, answering(ok("Grip-Hold: stream\nGrip-Channel: a", "x")))
	r := newRig(t, "* "+o.addr, nil)
	r.net.Kill("handler.0")
	waitPeer(t, r.srv.opts.Bus, "handler", 0)
	x := r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	h := newHandler(r, "handler.1")
	if a := within(t, h.accepts); a.X.ID != x.id {
		t.Errorf("got %+v", a)
	}
}

// waitIdle waits until no exchange is open.
func waitIdle(t *testing.T, s *Server) {
	t.Helper()
	poll.Works(t, "the end of all exchanges", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.exchanges); n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}
