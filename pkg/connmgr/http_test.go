package connmgr

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

const echoHead = "HTTP/1.1 200 OK\r\nX-Host: h\r\n"

func echoed(s string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", echoHead, len(s), s)
}

func echoedClose(s string) string {
	return fmt.Sprintf("%sContent-Length: %d\r\nConnection: close\r\n\r\n%s", echoHead, len(s), s)
}

func TestRequests(t *testing.T) {
	text := func(status, text string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", status, len(text)+1, text)
	}
	for _, tc := range []struct {
		name, send, want string
		open             bool // the connection stays open
	}{
		{"get", "GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", echoed("GET /a?b "), true},
		{"close", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", echoedClose("GET / "), false},
		{"body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", echoed("POST / hello"), true},
		{
			"pipelined", "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxyGET /3 HTTP/1.1\r\nHost: h\r\n\r\n",
			echoed("GET /1 ") + echoed("POST /2 xy") + echoed("GET /3 "), true,
		},
		{"head", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n", echoHead + "\r\n" + echoed("GET /2 "), true},
		{
			"1.0", "GET / HTTP/1.0\r\nHost: h\r\n\r\n",
			"HTTP/1.0 200 OK\r\nX-Host: h\r\nContent-Length: 6\r\nConnection: close\r\n\r\nGET / ", false,
		},
		{
			"1.0 keep-alive", "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
			"HTTP/1.0 200 OK\r\nX-Host: h\r\nContent-Length: 6\r\nConnection: keep-alive\r\n\r\nGET / ", true,
		},
		{"absolute form", "GET http://h/x HTTP/1.1\r\nHost: other\r\n\r\n", echoed("GET /x "), true},
		{"not http", "\x16\x03\x01\x02\x00\x01\x00", text("400 Bad Request", "not an HTTP request"), false},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n", false},
		{"two lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.1 400 Bad Request\r\n", false},
		{"head too large", "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n", "HTTP/1.1 431 ", false},
		{
			"bad handshake", "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
			text("400 Bad Request", `Request contained an Upgrade header with value "websocket" but the request was not a valid WebSocket request.`), false,
		},
		{"bad chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400 Bad Request\r\n", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			// A proxy that waits for the whole body.
			bodies := make(map[uint64]*frame.Request)
			r.far("proxy.0", func(f *far, got frame.Frame) bool {
				switch got := got.(type) {
				case *frame.Request:
					if got.More {
						bodies[got.ID] = got
						return true
					}
				case *frame.Body:
					req := bodies[got.ID]
					req.Body = append(req.Body, got.Data...)
					if got.More {
						return true
					}
					return echo(f, req)
				}
				return echo(f, got)
			})
			c := r.dial()
			c.send(tc.send)
			c.expect(tc.want)
			if tc.open {
				c.get("/again")
				c.expect(tc.want[:strings.Index(tc.want, " ")-1][:7] + "1 200 OK\r\n")
			} else if strings.HasSuffix(tc.want, "\n") && strings.Contains(tc.want, "\r\n\r\n") || strings.Contains(tc.want, "GET /") {
				if rest := c.rest(); rest != "" {
					t.Errorf("then %q, want the end", rest)
				}
			} else if !strings.Contains(c.rest(), "Connection: close\r\n") {
				t.Error("no Connection: close")
			}
		})
	}
}

func TestResponses(t *testing.T) {
	x := []frame.Field{{Name: "x-CASE", Value: "1"}, {Name: "Connection", Value: "x"}, {Name: "content-length", Value: "77"}, {Name: "X-After", Value: "2"}}
	for _, tc := range []struct {
		name, method, version, want string
		frames                      func(id uint64) []frame.Frame
		end                         bool
		reset                       bool
	}{
		{
			"known length in parts", "GET", "1.1", "HTTP/1.1 201 Custom Words\r\nx-CASE: 1\r\ncontent-length: 5\r\nX-After: 2\r\n\r\nhello",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 201, Reason: "Custom Words", Header: x, BodyLen: 5, Body: []byte("he"), More: true},
					&frame.Body{ID: id, Seq: 1, Data: []byte("llo")},
				}
			}, false, false,
		},
		{
			"chunked with trailer", "GET", "1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("he"), More: true},
					&frame.Body{ID: id, Seq: 1, Data: []byte("llo"), More: true},
					&frame.Body{ID: id, Seq: 2, Trailer: []frame.Field{{Name: "T", Value: "v"}}},
				}
			}, false, false,
		},
		{
			"out of order", "GET", "1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Body{ID: id, Seq: 2, Data: []byte("b")},
					&frame.Body{ID: id, Seq: 1, Data: []byte("a"), More: true},
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: -1, More: true},
				}
			}, false, false,
		},
		{
			"unknown length, 1.0", "GET", "1.0", "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("he"), More: true},
					&frame.Body{ID: id, Seq: 1, Data: []byte("llo")},
				}
			}, true, false,
		},
		{
			"head keeps the length", "HEAD", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{&frame.Response{ID: id, Code: 200, Reason: "OK", Header: []frame.Field{{Name: "Content-Length", Value: "1234"}}}}
			}, false, false,
		},
		{
			"204", "GET", "1.1", "HTTP/1.1 204 No Content\r\n\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{&frame.Response{ID: id, Code: 204, Reason: "No Content", Header: []frame.Field{{Name: "Content-Length", Value: "0"}}}}
			}, false, false,
		},
		{
			"304", "GET", "1.1", "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{&frame.Response{ID: id, Code: 304, Reason: "Not Modified", Header: []frame.Field{{Name: "ETag", Value: "x"}}}}
			}, false, false,
		},
		{
			"empty", "GET", "1.1", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
			func(id uint64) []frame.Frame { return []frame.Frame{&frame.Response{ID: id, Code: 200}} }, false, false,
		},
		{
			"asked to close", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{&frame.Response{ID: id, Code: 200, Reason: "OK", Close: true}}
			}, true, false,
		},
		{
			"cancelled", "GET", "1.1", "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\r\nError while proxying to origin.\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{&frame.Cancel{ID: id, Reason: frame.ReasonOriginFailed}}
			}, false, false,
		},
		{
			"cut, chunked", "GET", "1.1", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("he"), More: true},
					&frame.Cancel{ID: id, Seq: 1, Reason: frame.ReasonOriginFailed},
				}
			}, true, false,
		},
		{
			"cut, length", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: 9, Body: []byte("he"), More: true},
					&frame.Cancel{ID: id, Seq: 1, Reason: frame.ReasonOriginFailed},
				}
			}, true, false,
		},
		{
			"short of its length", "GET", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: 9, More: true},
					&frame.Body{ID: id, Seq: 1, Data: []byte("he")},
				}
			}, true, false,
		},
		{
			"cut, until close", "GET", "1.0", "",
			func(id uint64) []frame.Frame {
				return []frame.Frame{
					&frame.Response{ID: id, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("he"), More: true},
					&frame.Cancel{ID: id, Seq: 1, Reason: frame.ReasonOriginFailed},
				}
			}, true, true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			r.far("proxy.0", func(f *far, got frame.Frame) bool {
				req, ok := got.(*frame.Request)
				if ok && req.URI == "/again" {
					return echo(f, got)
				}
				if ok {
					f.send(tc.frames(req.ID)...)
				}
				return ok
			})
			c := r.dial()
			c.send(tc.method + " / HTTP/" + tc.version + "\r\nHost: h\r\n\r\n")
			if tc.reset {
				if _, err := io.ReadAll(c.br); err == nil {
					t.Error("the connection ended properly, want a reset")
				}
				return
			}
			c.expect(tc.want)
			if tc.end {
				if rest := c.rest(); rest != "" {
					t.Errorf("then %q, want the end", rest)
				}
				return
			}
			c.get("/again")
			c.expect(echoed("GET /again "))
			poll.Until(t, "no exchange left", func() bool { r.s.mu.Lock(); defer r.s.mu.Unlock(); return len(r.s.exchanges) == 0 })
		})
	}
}

// A response is bounded in memory by credits, and arrives whole.
func TestLargeResponse(t *testing.T) {
	const size = 20 << 20
	r := newRig(t)
	p := r.far("proxy.0", nil)
	c := r.dial()
	c.get("/")
	req := next[*frame.Request](p)
	part := repeat("0123456789abcdef", frame.MaxBodyPart/16)
	p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", BodyLen: size, More: true})
	go func() {
		window, seq := frame.InitialWindow, uint64(0)
		for sent := 0; sent < size; {
			for window < len(part) {
				window += int(next[*frame.Credit](p).N)
			}
			window -= len(part)
			sent += len(part)
			seq++
			p.send(&frame.Body{ID: req.ID, Seq: seq, Data: part, More: sent < size})
		}
	}()
	c.head()
	if n, err := io.CopyN(io.Discard, c.br, size); err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
}

// A request body arrives whole, by credits, whatever its framing.
func TestLargeUpload(t *testing.T) {
	const size = 5 << 20
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked=%v", chunked), func(t *testing.T) {
			r := newRig(t)
			p := r.far("proxy.0", nil)
			c := r.dial()
			go func() {
				part := string(repeat("x", 10000))
				if chunked {
					_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
				} else {
					_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size)
				}
				for left := size; left > 0; {
					n := min(left, len(part))
					left -= n
					if chunked {
						_, _ = fmt.Fprintf(c, "%x\r\n%s\r\n", n, part[:n])
					} else {
						_, _ = io.WriteString(c, part[:n])
					}
				}
				if chunked {
					_, _ = io.WriteString(c, "0\r\nT: v\r\n\r\n")
				}
			}()
			req := next[*frame.Request](p)
			got, window, seq := len(req.Body), frame.InitialWindow-len(req.Body), uint64(0)
			for more := req.More; more; {
				b := next[*frame.Body](p)
				if len(b.Data) > frame.MaxBodyPart {
					t.Fatalf("part of %d bytes", len(b.Data))
				}
				got += len(b.Data)
				window -= len(b.Data)
				if window < -frame.MaxBodyPart { // the first part does not count against it
					t.Fatal("more than the window was sent")
				}
				if window < frame.InitialWindow/2 {
					p.send(&frame.Credit{ID: req.ID, Seq: seq, N: uint64(frame.InitialWindow / 2)})
					seq++
					window += frame.InitialWindow / 2
				}
				if more = b.More; !more && chunked && (len(b.Trailer) != 1 || b.Trailer[0].Name != "T") {
					t.Errorf("trailer %v", b.Trailer)
				}
			}
			if got != size {
				t.Errorf("got %d bytes, want %d", got, size)
			}
			p.send(&frame.Response{ID: req.ID, Seq: seq, Code: 200, Reason: "OK"})
			c.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		})
	}
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t)
	p := r.far("proxy.0", nil)
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	req := next[*frame.Request](p)
	if !req.Expect || !req.More {
		t.Errorf("request %+v, want Expect and More", req)
	}
	c.expect("HTTP/1.1 100 Continue\r\n\r\n")
	c.send("ok")
	if b := next[*frame.Body](p); string(b.Data) != "ok" || b.More || b.Seq != 1 {
		t.Errorf("body %+v", b)
	}
	p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK"})
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
}

// A response that comes before the request body has ended is delivered, and the
// connection is not used again.
func TestEarlyResponse(t *testing.T) {
	r := newRig(t)
	p := r.far("proxy.0", nil)
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nfirst")
	req := next[*frame.Request](p)
	p.send(&frame.Response{ID: req.ID, Code: 413, Reason: "No", Body: []byte("too much")})
	c.expect("HTTP/1.1 413 No\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much")
	if rest := c.rest(); rest != "" {
		t.Errorf("then %q", rest)
	}
}

func TestClientGone(t *testing.T) {
	gone := func(c *client) {
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	t.Run("waiting", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.get("/")
		req := next[*frame.Request](p)
		gone(c)
		if f := next[*frame.Cancel](p); f.ID != req.ID || f.Reason != frame.ReasonClientGone || f.Seq != 1 {
			t.Errorf("got %+v", f)
		}
	})
	// A socket that was closed looks like a half-closed one until it is probed.
	t.Run("closed", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.get("/")
		req := next[*frame.Request](p)
		_ = c.Close()
		if f := next[*frame.Cancel](p); f.ID != req.ID || f.Reason != frame.ReasonClientGone {
			t.Errorf("got %+v", f)
		}
	})
	t.Run("upload", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhe")
		next[*frame.Request](p)
		_ = c.Close()
		if f := next[*frame.Cancel](p); f.Reason != frame.ReasonClientGone {
			t.Errorf("got %+v", f)
		}
	})
	// The far end takes no more of the body, so nobody reads from the client.
	for how, leave := range map[string]func(*client){"reset": gone, "closed": func(c *client) { _ = c.Close() }} {
		t.Run("upload without credit, "+how, func(t *testing.T) {
			r := newRig(t)
			p := r.far("proxy.0", nil)
			c := r.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", frame.InitialWindow+10_000))
			next[*frame.Request](p)
			for sent := 0; sent < frame.InitialWindow; {
				sent += len(next[*frame.Body](p).Data)
			}
			leave(c)
			if f := next[*frame.Cancel](p); f.Reason != frame.ReasonClientGone {
				t.Errorf("got %+v", f)
			}
		})
	}
	t.Run("reading", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.get("/")
		req := next[*frame.Request](p)
		p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("x"), More: true})
		c.head()
		gone(c)
		if f := next[*frame.Cancel](p); f.Reason != frame.ReasonClientGone {
			t.Errorf("got %+v", f)
		}
	})
}

// RFC 9112: a client that has sent its request and shut its sending side down
// still gets the answer, byte for byte.
func TestHalfClosedClient(t *testing.T) {
	for _, version := range []string{"1.0", "1.1"} {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.send("GET / HTTP/" + version + "\r\nHost: h\r\n\r\n")
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		req := next[*frame.Request](p)
		c.expect("HTTP/" + version + " ") // the probe
		p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", Body: []byte("hello")})
		c.expect("200 OK\r\nContent-Length: 5\r\n")
		if rest := c.rest(); !strings.HasSuffix(rest, "\r\nhello") {
			t.Errorf("then %q", rest)
		}
	}
}

func TestProxyDies(t *testing.T) {
	t.Run("safe request is sent again", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.get("/x")
		first := next[*frame.Request](p)
		r.net.Kill("proxy.0")
		p = r.far("proxy.0", nil)
		again := next[*frame.Request](p)
		if again.ID == first.ID || !again.Resend || again.URI != "/x" || again.ConnID != first.ConnID {
			t.Errorf("sent again as %+v", again)
		}
		p.send(&frame.Response{ID: first.ID, Code: 500}) // too late
		if f := next[*frame.Cancel](p); f.ID != first.ID || f.Reason != frame.ReasonUnknown {
			t.Errorf("answer to a late frame: %+v", f)
		}
		p.send(&frame.Response{ID: again.ID, Code: 200, Reason: "OK", Body: []byte("hi")})
		c.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	})
	t.Run("other requests are not", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		next[*frame.Request](p)
		r.net.Kill("proxy.0")
		c.expect("HTTP/1.1 502 Bad Gateway\r\n")
		c.head()
		c.expect("Error while proxying to origin.\n")
		r.far("proxy.0", echo)
		c.get("/2")
		c.expect(echoed("GET /2 "))
	})
	t.Run("begun response is cut", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.get("/")
		req := next[*frame.Request](p)
		p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", BodyLen: -1, Body: []byte("x"), More: true})
		c.head()
		c.expect("1\r\nx\r\n")
		r.net.Kill("proxy.0")
		_ = c.end()
	})
	t.Run("none up", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.PeerWait = 50 * time.Millisecond })
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		c.expect("HTTP/1.1 503 Service Unavailable\r\n")
		c.head()
		c.expect("No proxy is available.\n")
		c.get("/")
		c.expect("HTTP/1.1 503 Service Unavailable\r\n")
	})
	t.Run("comes up", func(t *testing.T) {
		r := newRig(t)
		c := r.dial()
		c.get("/late")
		poll.Until(t, "request read", func() bool { return counterValue(r.s.metrics.requests) == 1 })
		r.far("proxy.0", echo)
		c.expect(echoed("GET /late "))
	})
	t.Run("the only one leaves and another comes up", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.send("POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		req := next[*frame.Request](p)
		p.send(&frame.Cancel{ID: req.ID, Reason: frame.ReasonRefused, Text: "proxy is stopping"})
		poll.Until(t, "request to be sent again", func() bool { return counterValue(r.s.metrics.resent) == 1 })
		r.far("proxy.1", echo)
		c.expect(echoed("POST /late "))
	})
	t.Run("full queue", func(t *testing.T) {
		r := newRig(t)
		p := r.far("proxy.0", echo)
		r.net.Pause("proxy.0")
		r.net.SetQueueBytes(1)
		c := r.dial()
		c.send("POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
		poll.Until(t, "request read", func() bool { return counterValue(r.s.metrics.requests) == 1 })
		r.net.SetQueueBytes(1 << 20)
		r.net.Resume("proxy.0")
		c.expect(echoed("POST /late "))
		_ = p
	})
}

func TestProxiesShare(t *testing.T) {
	r := newRig(t)
	a, b := r.far("proxy.0", nil), r.far("proxy.1", nil)
	for range 4 {
		r.dial().get("/")
	}
	for range 2 {
		next[*frame.Request](a)
		next[*frame.Request](b)
	}
}

func TestTimeouts(t *testing.T) {
	short := func(o *Options) {
		o.HeaderTimeout, o.IdleTimeout, o.BodyTimeout = 80*time.Millisecond, 80*time.Millisecond, 80*time.Millisecond
	}
	t.Run("idle", func(t *testing.T) {
		c := newRig(t, short).dial()
		if err := c.end(); err != nil {
			t.Error(err)
		}
	})
	t.Run("head", func(t *testing.T) {
		r := newRig(t, short, func(o *Options) { o.IdleTimeout = time.Hour })
		c := r.dial()
		c.send("GET / HTTP/1.1\r\n")
		c.expect("HTTP/1.1 408 Request Timeout\r\n")
		c.rest()
	})
	t.Run("head after empty lines that came with the request before", func(t *testing.T) {
		r := newRig(t, short, func(o *Options) { o.IdleTimeout = time.Hour })
		r.far("proxy.0", echo)
		c := r.dial()
		c.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n\r\n\r\nGET")
		c.head()
		c.expect("GET /a ")
		c.expect("HTTP/1.1 408 Request Timeout\r\n")
	})
	t.Run("body", func(t *testing.T) {
		r := newRig(t, short, func(o *Options) { o.IdleTimeout = time.Hour })
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhe")
		next[*frame.Request](p)
		c.expect("HTTP/1.1 408 Request Timeout\r\n")
		c.rest()
		next[*frame.Cancel](p)
	})
	t.Run("response", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.ResponseTimeout = 50 * time.Millisecond })
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.get("/")
		next[*frame.Request](p)
		c.expect("HTTP/1.1 504 Gateway Timeout\r\n")
		if f := next[*frame.Cancel](p); f.Reason != frame.ReasonTimeout {
			t.Errorf("got %+v", f)
		}
	})
	t.Run("response to a body that nobody takes", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.ResponseTimeout = 50 * time.Millisecond })
		p := r.far("proxy.0", nil)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", frame.InitialWindow+10_000))
		c.expect("HTTP/1.1 504 Gateway Timeout\r\n")
		if head := c.head(); !strings.Contains(head, "Connection: close\r\n") {
			t.Errorf("head %q", head)
		}
		if f := next[*frame.Cancel](p); f.Reason != frame.ReasonTimeout {
			t.Errorf("got %+v", f)
		}
	})
}

func TestGap(t *testing.T) {
	r := newRig(t)
	p := r.far("proxy.0", nil)
	c := r.dial()
	c.get("/")
	req := next[*frame.Request](p)
	p.send(&frame.Body{ID: req.ID, Seq: 1, Data: []byte("x")})
	poll.Until(t, "gap seen", func() bool { r.s.mu.Lock(); defer r.s.mu.Unlock(); return len(r.s.gaps) == 1 })
	r.clock.add(11 * time.Second)
	c.expect("HTTP/1.1 502 Bad Gateway\r\n")
	if f := next[*frame.Cancel](p); f.Reason != frame.ReasonGap {
		t.Errorf("got %+v", f)
	}
}

func TestMaxConns(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxConns, o.FullWait = 1, time.Hour })
	r.far("proxy.0", echo)
	a, b := r.dial(), r.dial()
	b.get("/b")
	a.get("/a")
	a.expect(echoedClose("GET /a ")) // so that another gets its turn
	if rest := a.rest(); rest != "" {
		t.Errorf("then %q", rest)
	}
	_ = a.Close()
	b.expect(echoedClose("GET /b "))
}

// With no room left, clients are told so and go. As soon as there is room again
// they are served.
func TestMaxConnsRefusesPolitely(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxConns, o.FullWait = 1, time.Millisecond })
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	held := r.dial()
	r.hold(p, h, held, p.stream("open\n", "g"))
	for range 3 {
		c := r.dial()
		c.get("/")
		head := c.head()
		if !strings.HasPrefix(head, "HTTP/1.1 503 ") || !strings.Contains(head, "Retry-After: 1\r\n") || !strings.Contains(head, "Connection: close\r\n") {
			t.Fatalf("got %q", head)
		}
		if rest := c.rest(); rest != "Too many connections\n" {
			t.Fatalf("got %q", rest)
		}
	}
	_ = held.Close()
	poll.Until(t, "the end of the hold", func() bool { return len(r.s.slots) == 0 })
	c := r.dial()
	c.get("/")
	req := next[*frame.Request](p)
	p.send(&frame.Response{ID: req.ID, Code: 200})
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		t.Errorf("got %q", head)
	}
}

// Connections on which nothing is asked make room for others.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxConns, o.FullWait = 3, time.Millisecond })
	r.far("proxy.0", echo)
	for range 3 {
		r.dial()
	}
	poll.Until(t, "three connections", func() bool { return len(r.s.slots) == 3 })
	poll.Until(t, "an answer", func() bool {
		c := r.dial()
		defer c.Close()
		c.get("/")
		return strings.HasPrefix(c.head(), "HTTP/1.1 200 ")
	})
}

// Empty lines before a request are not its head: the rest has to come in time.
func TestEmptyLinesAreNoHead(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HeaderTimeout, o.IdleTimeout = 80*time.Millisecond, time.Hour })
	r.far("proxy.0", echo)
	c := r.dial()
	c.send("\r\n\r\nGET / HTTP/1.1\r\n")
	c.expect("HTTP/1.1 408 Request Timeout\r\n")
	c.rest()
}

func TestUnixSocket(t *testing.T) {
	path := t.TempDir() + "/s"
	for range 2 { // the second finds the file of the first, if it was left
		r := newRig(t, func(o *Options) { o.Listen = append(o.Listen, Listen{Network: "unix", Addr: path, Mode: 0o600}) })
		p := r.far("proxy.0", nil)
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c := r.client(nc)
		c.get("/")
		req := next[*frame.Request](p)
		if req.Peer != "" || req.Scheme != "http" {
			t.Errorf("peer %q, scheme %q", req.Peer, req.Scheme)
		}
		p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK"})
		c.head()
		_ = r.s.Close()
	}
}
