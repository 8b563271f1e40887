package main

import (
	"fmt"
	"strings"
)

// rawRequest sends raw bytes as a client and reads one answer.
func rawRequest(t *T, raw string) *Response {
	c := t.Dial()
	c.Send(raw)
	return c.Read("GET")
}

// corsCases are about automatic CORS headers and JSON-P.
func corsCases() []*Case {
	aco := []string{"{host},aco {origin}"}
	const script = "Content-Type: application/javascript"
	return []*Case{
		{
			ID: "C1", Title: "CORS headers are added", Source: "GRIP section 6.11", Routes: aco,
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nX-A: 1\nX-A: 2\nEtag: e\nCache-Control: no-store", "hi"))
				t.Is(t.Get("/", "Origin: http://o"), "HTTP/1.1 200 OK", plainText+"\nX-A: 1\nX-A: 2\nEtag: e\nCache-Control: no-store\n"+
					"Access-Control-Allow-Methods: OPTIONS, HEAD, GET, POST, PUT, DELETE\nAccess-Control-Expose-Headers: X-A, Etag\n"+
					"Access-Control-Allow-Credentials: true\nAccess-Control-Allow-Origin: http://o\nAccess-Control-Max-Age: 3600", "hi")
			},
		},
		{
			ID: "C2", Title: "CORS headers mirror what is asked for", Source: "GRIP section 6.11", Routes: aco,
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText, ""))
				r := t.Get("OPTIONS /", "Access-Control-Request-Method: PATCH", "Access-Control-Request-Headers: X-Q, , X-Z")
				t.Equal("Allow-Methods", r.Get("Access-Control-Allow-Methods"), "PATCH")
				t.Equal("Allow-Headers", r.Get("Access-Control-Allow-Headers"), "X-Q, X-Z")
				t.Equal("Allow-Origin", r.Get("Access-Control-Allow-Origin"), "*")
				t.Equal("Expose-Headers", r.Get("Access-Control-Expose-Headers"), "")
				t.Equal("request line", t.Request().Line, "OPTIONS / HTTP/1.1")
			},
		},
		{
			ID: "C3", Title: "CORS headers of the origin stay", Source: "GRIP section 6.11", Routes: aco,
			Run: func(t *T) {
				t.Always(reply("200 OK", "access-control-allow-origin: z\nAccess-Control-Max-Age: 5", ""))
				r := t.Get("/")
				t.Equal("Allow-Origin", strings.Join(values(r.Header, "Access-Control-Allow-Origin"), "|"), "z")
				t.Equal("Max-Age", strings.Join(values(r.Header, "Access-Control-Max-Age"), "|"), "5")
			},
		},
		{
			ID: "C3-off", Title: "no CORS headers by default", Source: "GRIP section 6.11",
			Run: func(t *T) { t.Equal("header", t.Get("/", "Origin: http://o").Own(), plainText) },
		},
		{
			ID: "C3-hold", Title: "CORS headers on a stream and on a published answer", Source: "GRIP section 6.11", Routes: aco,
			Run: func(t *T) {
				a, b := t.Ch("a"), t.Ch("b")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/poll" {
						x.Send(hold("response", b, "to\n"))
					} else {
						x.Send(hold("stream", a, "hi\n"))
					}
				})
				_, r := t.stream("/", a)
				t.Equal("Allow-Origin of the stream", r.Get("Access-Control-Allow-Origin"), "*")
				c := t.poll("/poll", b)
				t.Publish(responseItem(b, "x"))
				t.Equal("Allow-Origin of the answer", c.Read("GET").Get("Access-Control-Allow-Origin"), "*")
			},
		},
		{
			ID: "C3-error", Title: "CORS headers on an error", Source: "GRIP section 6.11", Routes: []string{"{host},aco {dead}"},
			Run: func(t *T) {
				r := t.Get("/")
				t.Equal("status line", r.Line, badGateway)
				t.Equal("Allow-Origin", r.Get("Access-Control-Allow-Origin"), "*")
			},
		},
		{
			ID: "C4", Title: "JSON-P, extended", Source: "GRIP section 6.12", Routes: aco,
			Run: func(t *T) {
				t.Always(head("200 OK", plainText+"\nCache-Control: no-store\nX-A: 1\nX-A: 2\nContent-Length: 8") + "\r\n" + "hi \"q\"\n\x21")
				r := t.Get("/x?a=1&callback=cb&b=2")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("header", strings.Join(sorted(strings.Split(r.Own(), "\n")), "\n"), "Cache-Control: no-store\n"+script)
				t.Equal("body", r.Body, `/**/cb({"code": 200, "reason": "OK", "headers": {"Cache-Control":"no-store","Content-Length":"8","Content-Type":"text/plain","X-A":"1"}, "body": "hi \"q\"\n!"});`+"\n")
				q := t.Request()
				t.Equal("request line", q.Line, "GET /x?a=1&b=2 HTTP/1.1")
			},
		},
		{
			ID: "C5", Title: "JSON-P of a published answer", Source: "GRIP section 6.12", Routes: aco,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n", "X-A: 1", "X-A: 2"))
				c := t.poll("/?callback=cb", ch)
				t.Publish(item(ch, `"http-response":{"code":404,"headers":{"X-P":"1"},"body":"x\n"}`))
				r := c.Read("GET")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("header", strings.Join(sorted(strings.Split(r.Own(), "\n")), "\n"), script+"\nX-A: 1\nX-A: 2\nX-P: 1")
				t.Equal("body", r.Body, `/**/cb({"body":"x\n","code":404,"headers":{"Content-Type":"text/plain","X-A":"1, 2","X-P":"1"},"reason":"Not Found"});`+"\n")
			},
		},
		{
			ID: "C6", Title: "JSON-P, basic", Source: "GRIP section 6.12", Routes: []string{"{host},aco,jsonp_mode=basic,jsonp_body=bparam,jsonp_defcb=jpcb {origin}"},
			Run: func(t *T) {
				t.Always(reply("200 OK", "Content-Type: application/json", "{\"a\":1}\r\n"))
				t.Is(t.Get("/?bparam=%7B%7D"), "HTTP/1.1 200 OK", script, "/**/jpcb({\"a\":1});\n")
				q := t.Request()
				t.Equal("request line", q.Line, "POST / HTTP/1.1")
				t.Equal("body", q.Body, "{}")
				t.Equal("Content-Type", q.Get("Content-Type"), "application/json")
			},
		},
		{
			ID: "C7", Title: "bad JSON-P parameters", Source: "GRIP section 6.12", Routes: aco,
			Run: func(t *T) {
				t.Equal("no callback", t.Get("/?callback=").Body, "Invalid callback parameter.\n")
				for query, text := range map[string]string{"_method=": "_method", "_headers=5": "_headers"} {
					r := t.Get("/?callback=cb&" + query)
					t.Contains("body", r.Body, "Invalid "+text+" parameter.")
				}
			},
		},
		{
			ID: "C8", Title: "JSON-P with method, headers and body", Source: "GRIP section 6.12", Routes: aco,
			Run: func(t *T) {
				t.Get("/?callback=cb&_method=POST&_headers=%7B%22X-J%22%3A%221%22%2C%22Host%22%3A%22e%22%7D&_body=he%20llo%2B")
				q := t.Request()
				t.Equal("request line", q.Line, "POST / HTTP/1.1")
				t.Equal("X-J", q.Get("X-J"), "1")
				t.Equal("Host", strings.Join(q.Values("Host"), "|"), t.host())
				t.Equal("body", q.Body, "he llo+")
			},
		},
	}
}

// edgeCases are about clients that are unusual or mean no good. Pushpin leaves
// much of this open; the rules are those of HTTP.
func edgeCases() []*Case {
	refused := func(id, title, raw, code, mark string) *Case {
		return &Case{
			ID: id, Title: title, Source: "RFC 9112", Pushpin: mark,
			Run: func(t *T) {
				t.Within(t.wait / 2)
				c := t.Dial()
				c.Send(strings.ReplaceAll(raw, "{host}", t.host()))
				r := c.Head("GET")
				t.Equal("code", fmt.Sprint(r.Code()), code)
				c.Rest(r)
				c.Closed()
				for len(t.origins[0].reqs) > 0 {
					t.Fatalf("the origin got %q", (<-t.origins[0].reqs).Line)
				}
			},
		}
	}
	const closes = "newest: 1.36 closes the connection instead"
	const head = "POST / HTTP/1.1\r\nHost: {host}\r\n"
	return []*Case{
		refused("edge-garbage", "a request line that is none", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "400", closes),
		refused("edge-space-name", "a space before the colon of a header", head+"Content-Length : 5\r\n\r\nhello", "400", closes),
		refused("edge-two-lengths", "two different Content-Lengths", head+"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "400", "wrong: takes the first"),
		refused("edge-length-list", "a Content-Length that is a list", head+"Content-Length: 5, 6\r\n\r\nhello!", "400", closes),
		refused("edge-length-sign", "a Content-Length with a sign", head+"Content-Length: +5\r\n\r\nhello", "400", closes),
		refused("edge-length-chunked", "Content-Length and chunked together", head+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", "wrong: relays the wrong length"),
		refused("edge-chunked-twice", "chunked that is not the last encoding", head+"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "400", "wrong: treats it as no encoding"),
		refused("edge-nul", "a NUL in a header", head+"X-A: a\x00b\r\n\r\n", "400", closes),
		refused("edge-no-host", "HTTP/1.1 without Host", "GET / HTTP/1.1\r\nX-A: 1\r\n\r\n", "400", "wrong: takes localhost for the host"),
		refused("edge-two-hosts", "two Hosts", "GET / HTTP/1.1\r\nHost: {host}\r\nHost: other.test\r\n\r\n", "400", "wrong: takes one of them"),
		refused("edge-version", "HTTP/2.0 in the request line", "GET / HTTP/2.0\r\nHost: {host}\r\n\r\n", "505", closes),
		{
			ID: "edge-header-size", Title: "a header over the limit is refused", Source: "operations, limits", Pushpin: closes,
			Run: func(t *T) {
				r := t.Get("/", "X-A: "+strings.Repeat("a", 9000))
				if r.Code() != 400 && r.Code() != 431 {
					t.Fatalf("the answer is %q", r.Line)
				}
			},
		},
		{
			ID: "edge-header-fits", Title: "a header just below the limit passes", Source: "operations, limits",
			Run: func(t *T) {
				t.Equal("status line", t.Get("/", "X-A: "+strings.Repeat("a", 8000)).Line, "HTTP/1.1 200 OK")
				t.Equal("length at the origin", fmt.Sprint(len(t.Request().Get("X-A"))), "8000")
			},
		},
		{
			ID: "edge-60-headers", Title: "60 headers each way", Source: "operations, limits",
			Run: func(t *T) {
				var own []string
				for i := range 58 {
					own = append(own, fmt.Sprintf("X-%d: %d", i, i))
				}
				t.Always(reply("200 OK", strings.Join(own, "\n"), "x"))
				r := t.Get("/", own...)
				t.Equal("header of the answer", r.Own(), strings.Join(own, "\n"))
				var got []string
				for _, h := range t.Request().Header {
					if strings.HasPrefix(h, "X-") {
						got = append(got, h)
					}
				}
				t.Equal("header of the request", strings.Join(got, "\n"), strings.Join(own, "\n"))
			},
		},
		{
			ID: "edge-absolute", Title: "an absolute-form target names the host", Source: "RFC 9112 section 3.2.2", Pushpin: "wrong: goes to a wrong host",
			Run: func(t *T) {
				r := rawRequest(t, "GET http://"+t.host()+"/p?q HTTP/1.1\r\nHost: other.test\r\n\r\n")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				q := t.Request()
				t.Equal("request line", q.Line, "GET /p?q HTTP/1.1")
				t.Equal("Host", q.Get("Host"), t.host())
			},
		},
		{
			ID: "edge-empty-lines", Title: "an empty line before a request is passed over", Source: "RFC 9112 section 2.2",
			Run: func(t *T) {
				c := t.Dial()
				c.Send("\r\n" + t.request("GET /"))
				t.Equal("status line", c.Read("GET").Line, "HTTP/1.1 200 OK")
			},
		},
		{
			ID: "edge-bytewise", Title: "a request that comes byte by byte", Source: "RFC 9112 section 2.2",
			Run: func(t *T) {
				c := t.Dial()
				for _, b := range []byte(t.request("POST /slow", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n") {
					c.Send(string(b))
				}
				t.Equal("status line", c.Read("POST").Line, "HTTP/1.1 200 OK")
				t.Equal("body", t.Request().Body, "abc")
			},
		},
		{
			ID: "edge-10-keepalive", Title: "an HTTP/1.0 client that asks for keep-alive is answered", Source: "RFC 9112 section 9.3",
			Run: func(t *T) {
				c := t.Dial()
				c.Send("GET / HTTP/1.0\r\nHost: " + t.host() + "\r\nConnection: keep-alive\r\n\r\n")
				t.Equal("body", c.Read("GET").Body, "origin\n")
			},
		},
		{
			ID: "edge-asterisk", Title: "OPTIONS *", Source: "RFC 9112 section 3.2.4", Pushpin: "wrong: answers 502",
			Run: func(t *T) {
				r := t.Get("OPTIONS *")
				if r.Code() != 200 {
					t.Fatalf("the answer is %q", r.Line)
				}
				t.Contains("request line", t.Request().Line, "*")
			},
		},
		{
			ID: "edge-connect", Title: "CONNECT is refused", Source: "RFC 9110 section 9.3.6", Pushpin: "sometimes: relays it",
			Run: func(t *T) {
				c := t.Dial()
				c.Send("CONNECT " + t.host() + ":443 HTTP/1.1\r\nHost: " + t.host() + "\r\n\r\n")
				if r := c.Head("GET"); r.Code()/100 == 2 {
					t.Fatalf("the answer is %q", r.Line)
				}
			},
		},
		{
			ID: "edge-bad-upgrade", Title: "a WebSocket handshake that is none", Source: "operations, limits", Pushpin: closes,
			Run: func(t *T) {
				r := t.Get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
				t.Equal("status line", r.Line, "HTTP/1.1 400 Bad Request")
			},
		},
		{
			ID: "edge-header-injection", Title: "line ends in a published header do not split the answer", Source: "RFC 9110 section 5.5", Pushpin: "wrong: writes them",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n"))
				c := t.poll("/", ch)
				t.PostControl("/publish/", `{"items":[`+item(ch, `"http-response":{"reason":"A\r\nX-Bad: 0","headers":{"X-A":"1\r\nX-Bad: 1","X-B\r\nX-Bad: 2":"2"},"body":"x"}`)+`]}`)
				t.Publish(responseItem(ch, "good"))
				r := c.Read("GET")
				t.Equal("X-Bad", r.Get("X-Bad"), "")
			},
		},
	}
}
