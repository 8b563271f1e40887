package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// pattern is n bytes that do not repeat in a way that would hide a mistake.
func pattern(n int) string {
	var b strings.Builder
	b.Grow(n + 8)
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%07x\n", i*2654435761&0xfffffff)
	}
	return b.String()[:n]
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return fmt.Sprintf("%d bytes, sha256 %s", len(s), hex.EncodeToString(h[:8]))
}

func chunks(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
	}
	return b.String()
}

const plainText = "Content-Type: text/plain"

// proxyCases are about a request that is only passed on.
func proxyCases() []*Case {
	cs := []*Case{
		{
			ID: "proxy-get", Title: "a GET and its answer pass through", Source: "RFC 9110",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Content-Type: text/plain\nX-Mixed-CASE: a\nx-lower: b\nSet-Cookie: a=1\nSet-Cookie: b=2", "hello\n"))
				r := t.Get("/a/b%20c;d?x=1&y=%2F&z")
				t.Is(r, "HTTP/1.1 200 OK", "Content-Type: text/plain\nX-Mixed-CASE: a\nx-lower: b\nSet-Cookie: a=1\nSet-Cookie: b=2", "hello\n")
				q := t.Request()
				t.Equal("request line", q.Line, "GET /a/b%20c;d?x=1&y=%2F&z HTTP/1.1")
				t.Equal("body at the origin", q.Body, "")
			},
		},
		{
			ID: "proxy-request-header", Title: "request header names, values and order reach the origin", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Get("/", "X-Mixed-CASE: a", "x-lower: b", "Cookie: c=1", "Authorization: Bearer d", "X-Mixed-CASE: e")
				t.Equal("header", t.Request().Lines("x-mixed-case", "x-lower", "cookie", "authorization"),
					"X-Mixed-CASE: a\nx-lower: b\nCookie: c=1\nAuthorization: Bearer d\nX-Mixed-CASE: e")
			},
		},
		{
			ID: "proxy-head", Title: "HEAD has the length of the GET and no body", Source: "RFC 9110 section 9.3.2",
			Run: func(t *T) {
				t.Always(head("200 OK", "Content-Type: text/plain\nContent-Length: 1234") + "\r\n")
				c := t.Dial()
				c.Send(t.request("HEAD /"))
				r := c.Read("HEAD")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("Content-Length", r.Get("Content-Length"), "1234")
				t.Equal("request line", t.Request().Line, "HEAD / HTTP/1.1")
				c.Send(t.request("HEAD /again"))
				t.Equal("second status line", c.Read("HEAD").Line, "HTTP/1.1 200 OK")
			},
		},
		{
			ID: "proxy-post", Title: "a POST with a Content-Length reaches the origin whole", Source: "RFC 9110",
			Run: func(t *T) {
				t.Always(reply("201 Created", plainText, "made\n"))
				r := t.Post("POST /new", "some=thing", "Content-Type: application/x-www-form-urlencoded")
				t.Is(r, "HTTP/1.1 201 Created", plainText, "made\n")
				q := t.Request()
				t.Equal("body", q.Body, "some=thing")
				t.Equal("Content-Length", q.Get("Content-Length"), "10")
				t.Equal("Content-Type", q.Get("Content-Type"), "application/x-www-form-urlencoded")
			},
		},
		{
			ID: "proxy-post-empty", Title: "a POST with Content-Length 0 keeps it", Source: "RFC 9110 section 8.6",
			Run: func(t *T) {
				t.Get("POST /", "Content-Length: 0")
				t.Equal("Content-Length", t.Request().Get("Content-Length"), "0")
			},
		},
		{
			ID: "proxy-chunked-request", Title: "a chunked request body reaches the origin whole", Source: "RFC 9112 section 7.1",
			Run: func(t *T) {
				c := t.Dial()
				c.Send(t.request("POST /", "Transfer-Encoding: chunked") + "5;ext=1\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n")
				t.Equal("status line", c.Read("POST").Line, "HTTP/1.1 200 OK")
				q := t.Request()
				t.Equal("body", q.Body, "hello world")
				c.Send(t.request("GET /next"))
				t.Equal("next status line", c.Read("GET").Line, "HTTP/1.1 200 OK")
				t.Equal("next request", t.Request().Line, "GET /next HTTP/1.1")
			},
		},
		{
			ID: "proxy-request-trailer", Title: "a trailer after a chunked request body is read over", Source: "RFC 9112 section 7.1.2",
			Run: func(t *T) {
				c := t.Dial()
				c.Send(t.request("POST /", "Transfer-Encoding: chunked", "Trailer: X-T") + "2\r\nab\r\n0\r\nX-T: 1\r\n\r\n" + t.request("GET /next"))
				t.Equal("status line", c.Read("POST").Line, "HTTP/1.1 200 OK")
				t.Equal("body", t.Request().Body, "ab")
				t.Equal("next status line", c.Read("GET").Line, "HTTP/1.1 200 OK")
				t.Equal("next request", t.Request().Line, "GET /next HTTP/1.1")
			},
		},
		{
			ID: "proxy-chunked-response", Title: "a chunked answer reaches the client whole", Source: "RFC 9112 section 7.1",
			Run: func(t *T) {
				t.Always(head("200 OK", plainText+"\nTransfer-Encoding: chunked") + "\r\n" + chunks("one ", "two ", "three") + "0\r\n\r\n")
				c := t.Dial()
				c.Send(t.request("GET /"))
				r := c.Read("GET")
				t.Is(r, "HTTP/1.1 200 OK", plainText, "one two three")
				c.Send(t.request("GET /"))
				t.Equal("second body", c.Read("GET").Body, "one two three")
			},
		},
		{
			ID: "proxy-response-trailer", Title: "a trailer after a chunked answer does no harm", Source: "RFC 9112 section 7.1.2",
			Run: func(t *T) {
				t.Always(head("200 OK", plainText+"\nTrailer: X-T\nTransfer-Encoding: chunked") + "\r\n" + chunks("body") + "0\r\nX-T: 1\r\n\r\n")
				c := t.Dial()
				for range 2 {
					c.Send(t.request("GET /"))
					r := c.Read("GET")
					t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
					t.Equal("body", r.Body, "body")
				}
			},
		},
		{
			ID: "proxy-streaming", Title: "parts of an answer are passed on as they come", Source: "GRIP section 2",
			Run: func(t *T) {
				more := make(chan struct{})
				t.Origin(func(x *Exchange) {
					x.Send(head("200 OK", plainText+"\nTransfer-Encoding: chunked") + "\r\n" + chunks("first"))
					<-more
					x.Send(chunks("second") + "0\r\n\r\n")
				})
				c, r := t.Open("/")
				c.Next(r, "first")
				close(more)
				c.Next(r, "second")
				c.End(r)
			},
		},
		{
			ID: "proxy-until-close", Title: "an answer that ends with the connection reaches the client whole", Source: "RFC 9112 section 6.3",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					x.Send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
					x.Close()
				})
				r := t.Get("/")
				t.Is(r, "HTTP/1.1 200 OK", plainText, "all of it")
			},
		},
		{
			ID: "proxy-download", Title: "5 MB from the origin arrive byte for byte", Source: "RFC 9110", Limit: 60 * time.Second,
			Run: func(t *T) {
				t.Within(40 * time.Second)
				data := pattern(5 << 20)
				t.Always(reply("200 OK", "Content-Type: application/octet-stream", data))
				t.Equal("body", sum(t.Get("/").Body), sum(data))
			},
		},
		{
			ID: "proxy-download-chunked", Title: "5 MB in chunks arrive byte for byte", Source: "RFC 9112 section 7.1", Limit: 60 * time.Second,
			Run: func(t *T) {
				t.Within(40 * time.Second)
				data := pattern(5 << 20)
				t.Origin(func(x *Exchange) {
					x.Send(head("200 OK", "Transfer-Encoding: chunked") + "\r\n")
					for i, n := 0, 1; i < len(data); i, n = i+n, n%70000+4999 {
						x.Send(chunks(data[i:min(i+n, len(data))]))
					}
					x.Send("0\r\n\r\n")
				})
				t.Equal("body", sum(t.Get("/").Body), sum(data))
			},
		},
		{
			ID: "proxy-upload", Title: "5 MB to the origin arrive byte for byte", Source: "RFC 9110", Limit: 60 * time.Second,
			Run: func(t *T) {
				t.Within(40 * time.Second)
				data := pattern(5 << 20)
				r := t.Post("PUT /", data)
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("body", sum(t.Request().Body), sum(data))
			},
		},
		{
			ID: "proxy-upload-chunked", Title: "2 MB in chunks to the origin arrive byte for byte", Source: "RFC 9112 section 7.1", Limit: 60 * time.Second,
			Run: func(t *T) {
				t.Within(40 * time.Second)
				data := pattern(2 << 20)
				c := t.Dial()
				c.Send(t.request("POST /", "Transfer-Encoding: chunked"))
				for i := 0; i < len(data); i += 10000 {
					c.Send(chunks(data[i:min(i+10000, len(data))]))
				}
				c.Send("0\r\n\r\n")
				t.Equal("status line", c.Read("POST").Line, "HTTP/1.1 200 OK")
				t.Equal("body", sum(t.Request().Body), sum(data))
			},
		},
		{
			ID: "proxy-continue", Title: "Expect: 100-continue is answered and not passed on", Source: "RFC 9110 section 10.1.1",
			Run: func(t *T) {
				c := t.Dial()
				c.Send(t.request("POST /", "Content-Length: 4", "Expect: 100-continue"))
				r := c.Head("POST")
				t.Equal("interim status line", r.Line, "HTTP/1.1 100 Continue")
				c.Send("body")
				t.Equal("status line", c.Read("POST").Line, "HTTP/1.1 200 OK")
				q := t.Request()
				t.Equal("body", q.Body, "body")
				t.Equal("Expect", q.Get("Expect"), "")
			},
		},
		{
			ID: "proxy-pipelining", Title: "pipelined requests are answered in order", Source: "RFC 9112 section 9.3.2",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) { x.Send(reply("200 OK", plainText, x.Target()+x.Body)) })
				c := t.Dial()
				c.Send(t.request("GET /1") + t.request("POST /2", "Content-Length: 3") + "abc" + t.request("GET /3"))
				for _, want := range []string{"/1", "/2abc", "/3"} {
					t.Equal("body", c.Read("GET").Body, want)
				}
			},
		},
		{
			ID: "proxy-keepalive", Title: "a client connection serves many requests", Source: "RFC 9112 section 9.3",
			Run: func(t *T) {
				c := t.Dial()
				for range 20 {
					c.Send(t.request("GET /"))
					t.Equal("body", c.Read("GET").Body, "origin\n")
				}
			},
		},
		{
			ID: "proxy-connection-close", Title: "Connection: close is obeyed", Source: "RFC 9112 section 9.6",
			Run: func(t *T) {
				c := t.Dial()
				c.Send(t.request("GET /", "Connection: close"))
				r := c.Read("GET")
				t.Equal("body", r.Body, "origin\n")
				c.Closed()
			},
		},
		{
			ID: "proxy-http10", Title: "an HTTP/1.0 client gets no chunks and a closed connection", Source: "RFC 9112 section 7.1",
			Run: func(t *T) {
				t.Always(head("200 OK", plainText+"\nTransfer-Encoding: chunked") + "\r\n" + chunks("a", "b") + "0\r\n\r\n")
				c := t.Dial()
				c.Send("GET /x HTTP/1.0\r\nHost: " + t.host() + "\r\n\r\n")
				r := c.Read("GET")
				t.Is(r, "HTTP/1.0 200 OK", plainText, "ab")
				t.Equal("Transfer-Encoding", r.Get("Transfer-Encoding"), "")
				c.Closed()
				t.Equal("request line", t.Request().Line, "GET /x HTTP/1.1")
			},
		},
		{
			ID: "proxy-reason", Title: "an unusual code and reason phrase are passed on", Source: "RFC 9112 section 4",
			Run: func(t *T) {
				t.Always(reply("299 Quite all right", plainText, "x"))
				t.Equal("status line", t.Get("/").Line, "HTTP/1.1 299 Quite all right")
			},
		},
		{
			ID: "proxy-204", Title: "204 has no body and the connection goes on", Source: "RFC 9110 section 15.3.5",
			Run: func(t *T) {
				t.Always(head("204 No Content", "X-A: 1") + "\r\n")
				c := t.Dial()
				for range 2 {
					c.Send(t.request("DELETE /"))
					r := c.Read("DELETE")
					t.Is(r, "HTTP/1.1 204 No Content", "X-A: 1", "")
				}
			},
		},
		{
			ID: "proxy-304", Title: "304 keeps its header, has no body and the connection goes on", Source: "RFC 9110 section 15.4.5",
			Run: func(t *T) {
				t.Always(head("304 Not Modified", `ETag: "v1"`) + "\r\n")
				c := t.Dial()
				for range 2 {
					c.Send(t.request("GET /", `If-None-Match: "v1"`))
					r := c.Read("GET")
					t.Is(r, "HTTP/1.1 304 Not Modified", `ETag: "v1"`, "")
					t.Equal("If-None-Match", t.Request().Get("If-None-Match"), `"v1"`)
				}
			},
		},
		{
			ID: "proxy-redirect", Title: "a redirect is passed on, not followed", Source: "GRIP section 1.1",
			Run: func(t *T) {
				t.Always(reply("302 Found", "Location: /elsewhere", ""))
				r := t.Get("/")
				t.Is(r, "HTTP/1.1 302 Found", "Location: /elsewhere", "")
			},
		},
		{
			ID: "proxy-interim", Title: "interim answers of the origin are not taken for the answer", Source: "RFC 9110 section 15.2",
			Run: func(t *T) {
				t.Always("HTTP/1.1 102 Processing\r\n\r\n" + reply("200 OK", plainText, "real"))
				c := t.Dial()
				c.Send(t.request("GET /"))
				r := c.Read("GET")
				for r.Code() == 102 { // passing it on is allowed
					r = c.Read("GET")
				}
				t.Is(r, "HTTP/1.1 200 OK", plainText, "real")
			},
		},
		{
			ID: "proxy-early-answer", Title: "an answer given before the body was sent is passed on", Source: "RFC 9112 section 9.5",
			Run: func(t *T) {
				t.origins[0].handleHead(func(x *Exchange) {
					x.Send(reply("413 Too Big", plainText+"\nConnection: close", "no\n"))
					x.over = true
				})
				c := t.Dial()
				c.Send(t.request("POST /big", "Content-Length: 30000") + pattern(20000))
				t.Is(c.Read("POST"), "HTTP/1.1 413 Too Big", plainText, "no\n")
			},
		},
		{
			ID: "proxy-upload-streams", Title: "a request body is passed on as it comes", Source: "RFC 9110 section 9.3.3",
			Pushpin: "wrong: collects 10,000 bytes first",
			Run: func(t *T) {
				t.Within(4 * time.Second)
				t.origins[0].handleHead(func(x *Exchange) {
					b := &body{br: x.br, kind: chunked}
					if x.Get("Content-Length") != "" {
						b = &body{br: x.br, kind: sized, left: 10}
					}
					buf := make([]byte, 5)
					if _, err := io.ReadFull(b, buf); err != nil {
						x.Close()
						return
					}
					x.Send(head("200 OK", "Content-Length: 10") + "\r\n" + string(buf))
					if _, err := io.ReadFull(b, buf); err != nil {
						x.Close()
						return
					}
					x.Send(string(buf))
					x.Close()
				})
				c := t.Dial()
				c.Send(t.request("POST /", "Content-Length: 10") + "first")
				r := c.Head("POST")
				c.Next(r, "first")
				c.Send("again")
				c.Next(r, "again")
				c.End(r)
			},
		},
		{
			ID: "proxy-many-connections", Title: "50 clients at once are all answered", Source: "RFC 9110",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) { x.Send(reply("200 OK", plainText, x.Target())) })
				var cs []*Client
				for i := range 50 {
					c := t.Dial()
					c.Send(t.request(fmt.Sprintf("GET /%d", i)))
					cs = append(cs, c)
				}
				for i, c := range cs {
					t.Equal("body", c.Read("GET").Body, fmt.Sprintf("/%d", i))
				}
			},
		},
		{
			ID: "proxy-client-leaves", Title: "when the client leaves, the request to the origin ends", Source: "GRIP section 1",
			Run: func(t *T) {
				ended := make(chan bool, 1)
				t.Origin(func(x *Exchange) {
					x.Send(head("200 OK", "Transfer-Encoding: chunked") + "\r\n" + chunks("first"))
					ended <- x.Gone()
				})
				c, r := t.Open("/")
				c.Next(r, "first")
				c.Close()
				select {
				case gone := <-ended:
					if !gone {
						t.Fatalf("the connection to the origin stayed open")
					}
				case <-t.ctx.Done():
					t.Fatalf("the connection to the origin stayed open")
				}
			},
		},
		{
			ID: "proxy-half-close", Title: "a client that ends its sending side still gets the answer", Source: "RFC 9112 section 9.6",
			Pushpin: "wrong: a half-close counts as leaving",
			Run: func(t *T) {
				c := t.Dial()
				c.Send(t.request("GET /"))
				c.CloseWrite()
				t.Equal("body", c.Read("GET").Body, "origin\n")
			},
		},
		{
			ID: "proxy-header-empty", Title: "an origin header without a value is passed on", Source: "RFC 9110 section 5.5",
			Pushpin: "wrong: answers 502",
			Run: func(t *T) {
				t.Always(head("200 OK", "X-Empty:\nX-A: 1\nContent-Length: 1") + "\r\nx")
				r := t.Get("/")
				t.Is(r, "HTTP/1.1 200 OK", "X-Empty: \nX-A: 1", "x")
			},
		},
		{
			ID: "proxy-header-tight", Title: "an origin header without a space after the colon is passed on", Source: "RFC 9112 section 5",
			Pushpin: "wrong: answers 502",
			Run: func(t *T) {
				t.Always(head("200 OK", "X-A:1\nContent-Length:1") + "\r\nx")
				r := t.Get("/")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("X-A", r.Get("X-A"), "1")
				t.Equal("body", r.Body, "x")
			},
		},
		{
			ID: "proxy-no-reason", Title: "an origin answer without a reason phrase is passed on", Source: "RFC 9112 section 4",
			Pushpin: "wrong: answers 502",
			Run: func(t *T) {
				t.Always("HTTP/1.1 200\r\nX-A: 1\r\nContent-Length: 1\r\n\r\nx")
				r := t.Get("/")
				t.Equal("code", fmt.Sprint(r.Code()), "200")
				t.Equal("header", r.Own(), "X-A: 1")
				t.Equal("body", r.Body, "x")
			},
		},
	}
	for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
		cs = append(cs, &Case{
			ID: "proxy-method-" + strings.ToLower(method), Title: method + " passes through with its body", Source: "RFC 9110 section 9",
			Run: func(t *T) {
				r := t.Post(method+" /m", "data")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				q := t.Request()
				t.Equal("request line", q.Line, method+" /m HTTP/1.1")
				t.Equal("body", q.Body, "data")
			},
		})
	}
	return append(cs, failureCases()...)
}

// failureCases are about origins that are away or break off.
func failureCases() []*Case {
	const generic = "Error while proxying to origin.\n"
	return []*Case{
		{
			ID: "fail-refused", Title: "no origin: 502", Source: "GRIP section 1.7", Routes: []string{"{host} {dead}"},
			Run: func(t *T) { t.Error(t.Get("/"), "HTTP/1.1 502 Bad Gateway", generic) },
		},
		{
			ID: "fail-refused-debug", Title: "no origin, debug: 502 names the targets", Source: "GRIP section 1.7",
			Routes: []string{"{host},debug {dead} localhost:1"},
			Run: func(t *T) {
				r := t.Get("/")
				t.Equal("status line", r.Line, "HTTP/1.1 502 Bad Gateway")
				first, _, _ := strings.Cut(r.Body, "\n") // more may be said after it
				t.Equal("first line", first, "Unable to connect to any targets. Tried: "+t.dead+", localhost:1")
			},
		},
		{
			ID: "fail-no-route", Title: "no route: 502", Source: "GRIP section 1.7",
			Run: func(t *T) {
				c := t.Dial()
				c.Send("GET / HTTP/1.1\r\nHost: nobody." + t.host() + "\r\n\r\n")
				want := "Route not found\n"
				if t.OnPushpin() {
					want = "No route for host: nobody." + t.host() + "\n"
				}
				t.Error(c.Read("GET"), "HTTP/1.1 502 Bad Gateway", want)
			},
		},
		{
			ID: "fail-over", Title: "a target that refuses is passed over", Source: "GRIP section 1.1", Routes: []string{"{host} {dead} {origin} {origin2}"},
			Run: func(t *T) {
				r := t.Post("POST /x", "body")
				t.Equal("body", r.Body, "origin\n")
				q := t.Request()
				t.Equal("body at the origin", q.Body, "body")
				t.Equal("Host", q.Get("Host"), t.host())
			},
		},
		{
			ID: "fail-first-target", Title: "the first target is tried first each time", Source: "operations, target fail-over", Routes: []string{"{host} {origin} {origin2}"},
			Run: func(t *T) {
				t.Always(reply("503 Down", plainText, "one\n"))
				for range 3 {
					t.Equal("body", t.Get("/").Body, "one\n")
				}
			},
		},
		{
			ID: "fail-stale-connection", Title: "an idle origin connection that was closed costs no error", Source: "RFC 9112 section 9.3.1",
			Run: func(t *T) {
				t.Equal("body", t.Get("/1").Body, "origin\n")
				for i := range 5 {
					t.origins[0].closeIdle()
					t.Equal("body", t.Get(fmt.Sprintf("/%d", i+2)).Body, "origin\n")
				}
			},
		},
		{
			ID: "fail-close-after-answer", Title: "an origin that closes after each answer without saying so", Source: "RFC 9112 section 9.6",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					x.Send(reply("200 OK", plainText, x.Target()))
					x.Close()
				})
				c := t.Dial()
				for i := range 5 {
					path := fmt.Sprintf("/%d", i)
					c.Send(t.request("GET " + path))
					t.Equal("body", c.Read("GET").Body, path)
				}
			},
		},
		{
			ID: "fail-no-answer", Title: "an origin that closes without an answer: 502", Source: "GRIP section 1.7",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) { x.Close() })
				t.Error(t.Get("/"), "HTTP/1.1 502 Bad Gateway", generic)
			},
		},
		{
			ID: "fail-reset", Title: "an origin that resets without an answer: 502", Source: "GRIP section 1.7",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) { x.Reset() })
				t.Error(t.Get("/"), "HTTP/1.1 502 Bad Gateway", generic)
			},
		},
		{
			ID: "fail-cut-head", Title: "an answer cut within its header: 502", Source: "RFC 9112 section 8",
			Pushpin: "wrong: no answer, or one with status 0",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					x.Send("HTTP/1.1 200 OK\r\nContent-Type: text/pl")
					x.Close()
				})
				t.Error(t.Get("/"), "HTTP/1.1 502 Bad Gateway", generic)
			},
		},
		{
			ID: "fail-garbage", Title: "an answer that is not HTTP: 502", Source: "RFC 9112 section 4",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					x.Send("SSH-2.0-OpenSSH_9.2\r\n\r\n")
					x.Close()
				})
				t.Error(t.Get("/"), "HTTP/1.1 502 Bad Gateway", generic)
			},
		},
		{
			ID: "fail-cut-chunked", Title: "a chunked answer that is cut is cut for the client too", Source: "RFC 9112 section 8",
			Pushpin: "wrong: the client is told that the answer is complete",
			Run:     func(t *T) { cutAnswer(t, "Transfer-Encoding: chunked", chunks("some"), (*Exchange).Close) },
		},
		{
			ID: "fail-cut-sized", Title: "an answer shorter than its Content-Length is cut for the client", Source: "RFC 9112 section 8",
			Pushpin: "wrong: the client waits without end",
			Run:     func(t *T) { cutAnswer(t, "Content-Length: 100", "some", (*Exchange).Close) },
		},
		{
			ID: "fail-reset-chunked", Title: "a chunked answer that is reset is cut for the client", Source: "RFC 9112 section 8",
			Pushpin: "wrong: the client is told that the answer is complete",
			Run:     func(t *T) { cutAnswer(t, "Transfer-Encoding: chunked", chunks("some"), (*Exchange).Reset) },
		},
	}
}

// cutAnswer has the origin break off an answer once the client has its begin.
func cutAnswer(t *T, framing, begin string, how func(*Exchange)) {
	t.Within(4 * time.Second)
	now := make(chan struct{})
	t.Origin(func(x *Exchange) {
		x.Send(head("200 OK", plainText+"\n"+framing) + "\r\n" + begin)
		<-now
		how(x)
	})
	c, r := t.Open("/")
	c.Next(r, "some")
	close(now)
	text, err := c.TryRest(r)
	if text != "" || plain(err) != "a cut" {
		t.Fatalf("the client saw %q and then %s, want a cut", text, plain(err))
	}
}
