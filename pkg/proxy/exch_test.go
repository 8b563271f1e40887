package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/route"
	"github.com/holdfast/holdfast/test/poll"
)

func TestUpload(t *testing.T) {
	o := newOrigin(t, answering(ok("", "done")))
	r := newRig(t, "* "+o.addr, nil)

	x := r.conn.open(frame.Request{Method: "POST", URI: "/", Body: []byte("hello"), BodyLen: 5, Header: lines("Content-Length: 5")})
	if got := x.finish(); got.status() != "200 OK" {
		t.Errorf("got %s", got.status())
	}
	if req := within(t, o.reqs); string(req.body) != "hello" || !strings.Contains(text(req.Header), "Content-Length: 5\n") || req.BodyLen != 5 {
		t.Errorf("origin got %q, header %q", req.body, text(req.Header))
	}

	x = r.conn.open(frame.Request{Method: "POST", URI: "/", Body: []byte("hel"), BodyLen: -1, More: true, Header: lines("Transfer-Encoding: chunked")})
	x.send(&frame.Body{Data: []byte("lo"), Trailer: lines("X-T: 1")})
	if got := x.finish(); got.status() != "200 OK" {
		t.Errorf("got %s", got.status())
	}
	if req := within(t, o.reqs); string(req.body) != "hello" || req.BodyLen != -1 || text(req.trailer) != "X-T: 1\n" {
		t.Errorf("origin got %q, length %d, trailer %q", req.body, req.BodyLen, text(req.trailer))
	}
}

// Bodies are streamed: what the origin has answered so far reaches the client
// while the client is still sending, and neither side's bytes pile up.
func TestStreamingBothWays(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var echo sync.WaitGroup
	defer echo.Wait()
	echo.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		br := bufio.NewReader(c)
		if _, err := http1.ReadRequestHead(br, http1.Limits{}); err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n")
		if _, err := io.Copy(c, http1.NewBodyReader(br, -1, http1.Limits{})); err != nil {
			t.Error(err)
		}
	})
	r := newRig(t, "* "+ln.Addr().String(), nil)
	x := r.conn.open(frame.Request{Method: "POST", URI: "/", BodyLen: -1, More: true})
	if f, ok := x.get().(*frame.Response); !ok || f.Code != 200 || !f.More {
		t.Fatalf("got %+v", f)
	}
	for _, word := range []string{"one", "two"} {
		x.send(&frame.Body{Data: []byte(word), More: true})
		if f, ok := x.get().(*frame.Body); !ok || string(f.Data) != word {
			t.Fatalf("got %+v", f)
		}
	}
	x.send(&frame.Body{})
	if got := x.finish(); got.body != "" || got.cut != nil {
		t.Errorf("got %q, %v", got.body, got.cut)
	}
}

func TestLargeBodies(t *testing.T) {
	const size = 20 << 20
	part := bytes.Repeat([]byte("x"), 1<<20)
	down := newOrigin(t, func(q *originRequest) (string, bool) {
		if q.Method == "GET" {
			fmt.Fprintf(q.conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			for range size / len(part) {
				if _, err := q.conn.Write(part); err != nil {
					return "", false
				}
			}
			return "", true
		}
		return ok("", fmt.Sprint(len(q.body))), true
	})
	r := newRig(t, "* "+down.addr, nil)

	t.Run("up", func(t *testing.T) {
		for _, length := range []int64{size, -1} {
			x := r.conn.open(frame.Request{Method: "POST", URI: "/", BodyLen: length, More: true})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := x.sendBody(ctx, size, true); err != nil {
				t.Fatal(err)
			}
			if got := x.finish(); got.body != fmt.Sprint(size) {
				t.Errorf("got %s %q", got.status(), got.body)
			}
		}
	})
	t.Run("down", func(t *testing.T) {
		x := r.conn.open(frame.Request{URI: "/"})
		n := 0
		for more := true; more; {
			switch f := x.get().(type) {
			case *frame.Response:
				n += len(f.Body)
				x.send(&frame.Credit{N: uint64(len(f.Body))})
			case *frame.Body:
				if len(f.Data) > frame.MaxBodyPart {
					t.Fatalf("part of %d bytes", len(f.Data))
				}
				n += len(f.Data)
				more = f.More
				x.send(&frame.Credit{N: uint64(len(f.Data))})
			default:
				t.Fatalf("got %s", f.Type())
			}
		}
		if n != size {
			t.Errorf("got %d bytes", n)
		}
	})
	// A client that does not read holds up its origin, not our memory.
	t.Run("slow client", func(t *testing.T) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		const clients = 20
		var xs []*client
		for range clients {
			x := r.conn.open(frame.Request{URI: "/"})
			xs = append(xs, x)
			for n := 0; n < frame.InitialWindow; {
				switch f := x.get().(type) {
				case *frame.Response:
					n += len(f.Body)
				case *frame.Body:
					n += len(f.Data)
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > clients*(1<<20) {
			t.Errorf("%d bytes for each client that does not read", grown/clients)
		}
		for _, x := range xs {
			if f, _ := x.box.Take(); f != nil {
				t.Errorf("got %s without credit", f.Type())
			}
			x.send(&frame.Cancel{Reason: frame.ReasonClientGone})
		}
		waitIdle(t, r.srv)
	})
}

func TestFailOver(t *testing.T) {
	o := newOrigin(t, answering(ok("", "from the second")))
	dead := unusedAddr(t)
	r := newRig(t, strings.Join([]string{
		"* " + dead + " " + o.addr,
		"tls " + o.addr + ",ssl " + o.addr,
		"none,debug " + dead + " zhttp/tcp://127.0.0.1:1 " + dead,
		"quiet " + dead,
		"cut,debug CUT " + o.addr,
		"policy,debug " + o.addr + ",untrusted " + o.addr,
	}, "\n"), nil)
	x := r.conn.open(frame.Request{Method: "POST", URI: "/", Body: []byte("hel"), BodyLen: 5, More: true})
	x.send(&frame.Body{Data: []byte("lo")})
	if got := x.finish(); got.body != "from the second" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
	if req := within(t, o.reqs); string(req.body) != "hello" {
		t.Errorf("second target got %q", req.body)
	}
	for _, tt := range []struct{ host, body string }{
		{"tls", "from the second"},
		{"none", "Unable to connect to any targets. Tried: " + dead + ", zhttp/tcp://127.0.0.1:1, " + dead + "\n\n" +
			dead + ": connection refused: nothing listens there, or a firewall is in the way\n" +
			"zhttp/tcp://127.0.0.1:1: targets of this kind are not supported\n"},
		{"quiet", "Error while proxying to origin.\n"},
		{"policy", "Error: Origin host/IP blocked.\n"},
	} {
		got := r.conn.open(frame.Request{URI: "/", Host: tt.host}).finish()
		if got.body != tt.body {
			t.Errorf("%s: got %s %q, want %q", tt.host, got.status(), got.body, tt.body)
		}
	}
	if n := testutil.ToFloat64(r.srv.metrics.attempts.WithLabelValues(dead, resultConnect)); n != 4 {
		t.Errorf("%v attempts counted at the dead target, want 4", n)
	}
}

// A target that took the request and failed is not followed by another: it may
// have acted on it.
func TestNoFailOverAfterSending(t *testing.T) {
	first := newOrigin(t, func(*originRequest) (string, bool) { return "", false })
	second := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, "* "+first.addr+" "+second.addr, nil)
	if got := r.conn.open(frame.Request{Method: "POST", URI: "/"}).finish(); got.status() != "502 Bad Gateway" {
		t.Errorf("got %s", got.status())
	}
	if len(second.reqs) != 0 {
		t.Error("second target was asked")
	}
}

// Origins close connections that were idle; the next request must not fail.
func TestStaleConnection(t *testing.T) {
	o := newOrigin(t, func(q *originRequest) (string, bool) { return ok("", "x"), q.n < 2 })
	r := newRig(t, "* "+o.addr, nil)
	for i := range 10 {
		if got := r.get("/"); got.status() != "200 OK" {
			t.Errorf("request %d: got %s", i, got.status())
		}
	}
}

func unusedAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// hung is an origin that takes requests and never answers.
func hung(t *testing.T) *testOrigin {
	release := make(chan struct{})
	o := newOrigin(t, func(*originRequest) (string, bool) { <-release; return "", false })
	t.Cleanup(func() { close(release) })
	return o
}

func TestCancel(t *testing.T) {
	gone := make(chan struct{})
	o := newOrigin(t, func(q *originRequest) (string, bool) {
		_, _ = io.Copy(io.Discard, q.conn) // ends when the proxy closes the connection
		close(gone)
		return "", false
	})
	r := newRig(t, "* "+o.addr, nil)
	x := r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	x.send(&frame.Cancel{Reason: frame.ReasonClientGone})
	within(t, gone)
	waitIdle(t, r.srv)
	r.log.wait(t, " error")
	if f, _ := x.box.Take(); f != nil {
		t.Errorf("got %s after the cancel", f.Type())
	}
	if n := testutil.ToFloat64(r.srv.metrics.ended.WithLabelValues("client-gone")); n != 1 {
		t.Errorf("%v exchanges ended as client-gone", n)
	}
}

func TestConnmgrLost(t *testing.T) {
	o := hung(t)
	r := newRig(t, "* "+o.addr+"\nok test", nil)
	r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	next := newConnmgr(r, "connmgr.0") // another boot
	waitIdle(t, r.srv)
	if got := next.open(frame.Request{URI: "/", Host: "ok"}).finish(); got.status() != "200 OK" {
		t.Errorf("next boot: got %s", got.status())
	}
}

func TestTooManyExchanges(t *testing.T) {
	o := hung(t)
	r := newRig(t, "* "+o.addr, func(o *Options) { o.MaxExchanges = 1 })
	r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	if got := r.get("/"); got.status() != "503 Service Unavailable" || !strings.Contains(got.head(), "Retry-After: 1\n") {
		t.Errorf("got %s", got.status())
	}
}

// Requests that are refused leave nothing behind, however many there are.
func TestTooManyExchangesMemory(t *testing.T) {
	o := hung(t)
	r := newRig(t, "* "+o.addr, func(o *Options) { o.MaxExchanges = 1 })
	r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	objects := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapObjects
	}
	const n = 20000
	before := objects()
	for i := range uint64(n) {
		r.srv.open(bus.Peer{Name: "connmgr.9", Boot: 1}, &frame.Request{ID: i, Method: "GET", URI: "/"})
	}
	if after := objects(); after > before+n/4 {
		t.Errorf("%d requests left %d objects", n, after-before)
	}
}

func TestShutdown(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin(t, func(*originRequest) (string, bool) { <-release; return ok("", "late"), true })
	r := newRig(t, "* "+o.addr, func(o *Options) { o.DrainTime = patience })
	x := r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	r.stop()
	poll.Until(t, "the proxy to drain", r.srv.draining.Load)
	if got := r.conn.open(frame.Request{URI: "/"}).finish(); got.cut == nil || got.cut.Reason != frame.ReasonRefused {
		t.Errorf("a request after that: %s, cut %+v", got.status(), got.cut)
	}
	close(release)
	if got := x.finish(); got.body != "late" {
		t.Errorf("got %s %q, cut %v", got.status(), got.body, got.cut)
	}
	waitPeer(t, r.conn.node, "proxy", 0)
}

func TestShutdownEndsWhatIsOpen(t *testing.T) {
	o := hung(t)
	r := newRig(t, "* "+o.addr, nil)
	x := r.conn.open(frame.Request{URI: "/"})
	within(t, o.reqs)
	r.stop()
	if got := x.finish(); got.cut == nil || got.cut.Reason != frame.ReasonShutdown {
		t.Errorf("got %s, cut %+v", got.status(), got.cut)
	}
}

func TestTrustedClients(t *testing.T) {
	const token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6ImVkZ2UifQ.ZpPuj2fmLA7kwbqcvROYy32XyVd_SLuEDSyAOGLAna8"
	o := newOrigin(t, answering(ok("Grip-Hold: bad", "x")))
	for _, tt := range []struct {
		name, key, token string
		trusted          bool
	}{
		{"R4", "upkey", token, true},
		{"wrong key", "other", token, false},
		{"no key", "", token, false},
		{"no token", "upkey", "nonsense", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, "* "+o.addr, func(o *Options) {
				o.UpstreamKey = tt.key
				o.XForwardedForTrusted = ForwardedFor{Append: true}
			})
			got := r.get("/", "Grip-Sig: "+tt.token, "Grip-Feature: zz")
			h := text(within(t, o.reqs).Header)
			if tt.trusted {
				if !strings.Contains(got.head(), "Grip-Hold: bad\n") || got.status() != "200 OK" {
					t.Errorf("got %s %q", got.status(), got.head())
				}
				if !strings.Contains(h, "Grip-Sig: "+tt.token+"\nGrip-Feature: zz\n") || !strings.Contains(h, "X-Forwarded-For: 127.0.0.1\n") {
					t.Errorf("origin got\n%s", h)
				}
				return
			}
			if got.status() != "502 Bad Gateway" || strings.Contains(h, "Feature: zz\n") || strings.Contains(h, "Sig: "+tt.token+"\n") || strings.Contains(h, "X-Forwarded-For") {
				t.Errorf("got %s, origin got\n%s", got.status(), h)
			}
		})
	}
}

func TestSigningKeys(t *testing.T) {
	o := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, strings.Join([]string{"* " + o.addr, "iss,sig_iss=other " + o.addr, "key,sig_key=base64:a2V5 " + o.addr, "bad,sig_key=base64: " + o.addr, "off,sig_iss= " + o.addr, "file,sig_key=file:k " + o.addr}, "\n"), func(o *Options) {
		if err := os.WriteFile(filepath.Join(filepath.Dir(o.RoutesFile), "k"), []byte("6b6579"), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Now = func() time.Time { return time.Unix(1700000000, 0) }
	})
	r.log.wait(t, "requests on this route are not signed")
	sig := func(host string) string {
		r.conn.open(frame.Request{URI: "/", Host: host}).finish()
		v, _ := http1.Get(within(t, o.reqs).Header, "Grip-Sig")
		return v
	}
	const r3 = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDAwMDM2MDAsImlzcyI6InB1c2hwaW4ifQ.kLqQZD5BP5GyM4rxs4s7hNTebsh6irVi0yu8Uk7hRKo"
	if got := sig("h"); got != r3 {
		t.Errorf("got %s", got)
	}
	if a, b := sig("key"), sig("file"); a == "" || a == r3 || a != b {
		t.Errorf("key of a route: got %q, from a file %q", a, b)
	}
	if got := sig("iss"); got == "" || got == r3 {
		t.Errorf("issuer of a route: got %q", got)
	}
	if a, b := sig("bad"), sig("off"); a != "" || b != "" {
		t.Errorf("signed nevertheless: %q, %q", a, b)
	}
}

func TestRefusals(t *testing.T) {
	o := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, "* "+o.addr+",over_http", nil)
	if got := r.get("/", "Content-Type: application/websocket-events; a=b"); got.status() != "403 Forbidden" || got.body != "Client not allowed to send WebSocket events directly.\n" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
	if got := r.get("/", "Content-Type: text/plain"); got.status() != "200 OK" {
		t.Errorf("got %s", got.status())
	}
	if got := r.get("/", "Pushpin-Check: 1"); got.status() != "200 OK" || got.body != "Holdfast\n" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
}

func TestAccessLog(t *testing.T) {
	o := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, "* "+o.addr+"\nquiet,id=q,log_level=1 "+o.addr+"\nnamed,id=n "+o.addr, func(o *Options) {
		o.LogFrom, o.LogUserAgent = true, true
	})
	r.conn.open(frame.Request{URI: "/a", Host: "quiet"}).finish()
	r.conn.open(frame.Request{URI: "/b?c", Scheme: "https", Host: "named:8443", Header: lines("User-Agent: me/1\nGrip-Last: x; last-id=3")}).finish()
	const want = "INFO GET https://named:8443/b?c -> %s from=127.0.0.1 route=n code=200 1 ua=me/1 #x=3"
	if got := r.log.wait(t, "GET"); got != fmt.Sprintf(want, o.addr) {
		t.Errorf("got %s", got)
	}
}

func TestRouteChoice(t *testing.T) {
	r := newRig(t, "*,ssl=yes,path_beg=/response test\n* test\nother,id=o,path_beg=/x test", func(o *Options) {
		o.AcceptXForwardedProtocol, o.AcceptPushpinRoute = true, true
	})
	for _, tt := range []struct{ uri, header, route string }{
		{"/", "", "*,*,*,*"},
		{"/response", "X-Forwarded-Proto: https", "*,*,ssl,/response"},
		{"/response", "X-Forwarded-Protocol: wss", "*,*,ssl,/response"},
		{"/x", "Pushpin-Route: o", "o"},
		{"/y", "Pushpin-Route: o", ""},
		{"/", "Pushpin-Route: nope", ""},
		{"/", "Pushpin-Route: *,*,*,*", ""},
	} {
		req := &frame.Request{URI: tt.uri, Host: "h", Scheme: "http", Header: lines(tt.header)}
		got := r.srv.choose(req, tt.uri, clientTLS("http", req.Header, true))
		id := ""
		if got != nil {
			id = got.ID
		}
		if id != tt.route {
			t.Errorf("%+v: got route %q", tt, id)
		}
	}
	if e := r.srv.Explain(route.Request{Host: "h", Path: "/"}); e.Route == nil || e.Route.ID != "*,*,*,*" {
		t.Errorf("Explain: %s", e)
	}
}
