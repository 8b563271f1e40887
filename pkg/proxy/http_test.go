package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestRelay(t *testing.T) {
	o := newOrigin(t, answering("HTTP/1.1 299 What ever\r\nb: 1\r\nServer: x\r\nB: 2\r\nContent-Encoding: gzip\r\nconnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\nhello"))
	r := newRig(t, "* "+o.addr, nil)
	got := r.get("/a%20b?c=d&e", "X-Q: 1", "Accept-Encoding: br", "User-Agent: ua", "Referer: http://r/x y")
	if got.status() != "299 What ever" || got.body != "hello" || got.BodyLen != 5 {
		t.Errorf("got %s, %q, length %d", got.status(), got.body, got.BodyLen)
	}
	const want = "b: 1\nServer: x\nB: 2\nContent-Encoding: gzip\nContent-Length: 5\n"
	if d := cmp.Diff(want, got.head()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	req := within(t, o.reqs)
	if req.Method != "GET" || req.Target != "/a%20b?c=d&e" || req.Host != "example.com" {
		t.Errorf("origin got %s %s for %s", req.Method, req.Target, req.Host)
	}
	h := text(req.Header)
	if !strings.Contains(h, "X-Q: 1\n") || strings.Contains(h, "Accept-Encoding") || !strings.Contains(h, "Grip-Sig: ey") || !strings.Contains(h, "Grip-Feature: status") {
		t.Errorf("origin got header\n%s", h)
	}
	r.log.wait(t, "INFO GET http://example.com/a%20b?c=d&e -> "+o.addr+" ref=http://r/x%20y code=299 5")
}

func TestRelayFraming(t *testing.T) {
	for _, tt := range []struct {
		name, method, response string
		status, head, body     string
		length                 int64
		trailer                string
	}{
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n", "200 OK", "Trailer: X-T\n", "abcde", -1, "X-T: 1\n"},
		{"until close", "GET", "HTTP/1.0 200 OK\r\n\r\nabc", "200 OK", "", "abc", -1, ""},
		{"no body", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "200 OK", "Content-Length: 0\n", "", 0, ""},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", "200 OK", "Content-Length: 1234\n", "", 1234, ""},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 No Content", "", "", -1, ""},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "304 Not Modified", "Content-Length: 7\n", "", 7, ""},
		{"100 first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "200 OK", "Content-Length: 1\n", "x", 1, ""},
		{"no reason phrase", "GET", "HTTP/1.1 200\r\nX-E:\r\nX-N:v\r\nContent-Length: 1\r\n\r\nx", "200 OK", "X-E: \nX-N: v\nContent-Length: 1\n", "x", 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, func(*originRequest) (string, bool) { return tt.response, false })
			r := newRig(t, "* "+o.addr, nil)
			got := r.conn.open(frame.Request{Method: tt.method, URI: "/"}).finish()
			if got.cut != nil || got.status() != tt.status || got.head() != tt.head || got.body != tt.body || got.BodyLen != tt.length || text(got.trailer) != tt.trailer {
				t.Errorf("got %s, header %q, body %q, length %d, trailer %q, cut %v", got.status(), got.head(), got.body, got.BodyLen, text(got.trailer), got.cut)
			}
		})
	}
}

func TestOriginFaults(t *testing.T) {
	for _, tt := range []struct{ name, response string }{
		{"nothing", ""},
		{"cut head", "HTTP/1.1 200 OK\r\nContent-Le"},
		{"not HTTP", "hello\r\n\r\n"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, func(*originRequest) (string, bool) { return tt.response, false })
			r := newRig(t, "* "+o.addr+"\ndebug,debug "+o.addr, nil)
			if got := r.get("/"); got.status() != "502 Bad Gateway" || got.body != "Error while proxying to origin.\n" || got.head() != "Content-Type: text/plain\nContent-Length: 32\n" {
				t.Errorf("got %s %q %q", got.status(), got.head(), got.body)
			}
			r.log.wait(t, "code=502 32")
		})
	}
	for _, tt := range []struct{ name, response, body string }{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "hello"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "hello"},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX", ""},
	} {
		t.Run("cut body, "+tt.name, func(t *testing.T) {
			o := newOrigin(t, func(*originRequest) (string, bool) { return tt.response, false })
			r := newRig(t, "* "+o.addr, nil)
			got := r.get("/")
			if got.cut == nil || got.cut.Reason != frame.ReasonOriginFailed || got.status() != "200 OK" && got.Response != nil || tt.body != "" && got.body != tt.body {
				t.Errorf("got %s %q, cut %+v", got.status(), got.body, got.cut)
			}
			r.log.wait(t, " error")
		})
	}
}

func TestRouteNotFound(t *testing.T) {
	r := newRig(t, "h,path_beg=/a test", nil)
	for range 2 {
		if got := r.get("/"); got.status() != "502 Bad Gateway" || got.body != "Route not found\n" {
			t.Errorf("got %s %q", got.status(), got.body)
		}
	}
	r.log.wait(t, "INFO GET http://example.com/ code=502 16")
}

func TestTestOrigin(t *testing.T) {
	r := newRig(t, "* test\nplain,no_grip,path_beg=/p/ test", nil)
	if got := r.get("/"); got.status() != "200 OK" || got.body != "Hello from the Holdfast test handler!\n" || got.head() != "Content-Type: text/plain\nContent-Length: 38\n" {
		t.Errorf("got %s %q %q", got.status(), got.head(), got.body)
	}
	if got := r.get("/x"); got.status() != "404 Not Found" || got.body != "no such test resource\n" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
	r.log.wait(t, "-> test code=404 22")
	got := r.conn.open(frame.Request{URI: "/p/response/?channel=a&channel=b&channel=a", Host: "plain"}).finish()
	if got.head() != "Content-Type: text/plain\nContent-Length: 16\nGrip-Hold: response\nGrip-Channel: a, b\n" || got.body != "nothing for now\n" {
		t.Errorf("got %q %q", got.head(), got.body)
	}
	x := r.conn.open(frame.Request{Method: "POST", URI: "/", BodyLen: 100_001, More: true})
	if err := x.sendBody(t.Context(), 100_001, true); err != nil {
		t.Fatal(err)
	}
	if got := x.finish(); got.status() != "400 Bad Request" || got.body != "request too large\n" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
}

func TestHeldTestOrigin(t *testing.T) {
	r := newRig(t, "* test", nil)
	r.conn.open(frame.Request{URI: "/stream"})
	a := within(t, r.handler.accepts)
	if a.Mode != frame.ModeStream || len(a.Channels) != 1 || a.Channels[0].Name != "test" || string(a.Body) != "[stream opened]\n" || a.Code != 200 || a.Reason != "OK" || text(a.Header) != "Content-Type: text/plain\n" {
		t.Errorf("got %+v", a)
	}
	r.log.wait(t, "INFO GET http://example.com/stream -> test accept")
}

// A response with more header fields than a frame may have must not get lost on
// the bus.
func TestTooManyHeaderFields(t *testing.T) {
	o := newOrigin(t, answering(ok(strings.Repeat("A: 1\n", frame.MaxHeaders-2), "x")))
	r := newRig(t, "*,aco "+o.addr, nil)
	if got := r.get("/"); got.cut == nil || got.Response != nil {
		t.Errorf("got %s", got.status())
	}
}
