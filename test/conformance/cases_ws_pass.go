package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// wsCases are about WebSockets.
func wsCases() []*Case {
	return slices.Concat(
		wsSlowCases(),
		wsHandshakeCases(),
		wsRefusalCases(),
		wsNegotiationCases(),
		wsFrameCases(),
		wsCloseCases(),
		wohEncodingCases(),
		wohDecodingCases(),
		wohKeepBackCases(),
		wohExchangeCases(),
		wsControlCases(),
		wsPublishCases(),
		wsDeliveryCases(),
		wsChainCases(),
		sockJSCases(),
		rfc6455Cases(),
		rfc7692Cases(),
	)
}

const wsSource = "GRIP over WebSocket section "

const noUpgrade = `Request contained an Upgrade header with value "websocket" but the request was not a valid WebSocket request.` + "\n"

func wsHandshakeCases() []*Case {
	bad := func(id, title, start string, header ...string) *Case {
		return &Case{
			ID: "ws-G2-" + id, Title: "a handshake " + title, Source: wsSource + "1.1", Pushpin: "newest: 1.36 closes the connection without an answer",
			Run: func(t *T) {
				t.WSEcho()
				c := t.Dial()
				c.Send(t.request(start, append([]string{"Upgrade: websocket", "Connection: Upgrade"}, header...)...))
				t.Error(c.Read("GET"), "HTTP/1.1 400 Bad Request", noUpgrade)
				c.Closed()
			},
		}
	}
	const version, key = "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + wsKey
	return []*Case{
		{
			ID: "ws-G1", Title: "a handshake", Source: "RFC 6455 section 1.3",
			Run: func(t *T) {
				t.WSOrigin()
				c := t.WebSocket("/a?b=c", "Origin: http://x.test", "Cookie: k=v", "User-Agent: ua", "Authorization: Basic eDp5", "Meta-User: bob", "X-A: 1")
				t.Equal("Sec-WebSocket-Accept", c.head.Get("Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
				t.Equal("status line", c.head.Line, "HTTP/1.1 101 Switching Protocols")
				r := t.Request()
				t.Equal("request line", r.Line, "GET /a?b=c HTTP/1.1")
				t.Equal("Host", r.Lines("Host"), "Host: "+t.host())
				t.Equal("header", r.Lines("Origin", "Cookie", "User-Agent", "Authorization", "Meta-User", "X-A"),
					"Origin: http://x.test\nCookie: k=v\nUser-Agent: ua\nAuthorization: Basic eDp5\nMeta-User: bob\nX-A: 1")
				t.Equal("Upgrade", r.Lines("Upgrade", "Sec-WebSocket-Version"), sortedLines(r, "Upgrade: websocket", "Sec-WebSocket-Version: 13"))
				if k := r.Values("Sec-WebSocket-Key"); len(k) != 1 || k[0] == wsKey {
					t.Fatalf("the keys for the origin are %q, want one that is fresh", k)
				}
			},
		},
		{
			ID: "ws-G1-case", Title: "names of the upgrade in any case", Source: "RFC 6455 section 4.2.1", Pushpin: "wrong: taken as a plain GET",
			Run: func(t *T) {
				t.WSEcho()
				c := t.Dial()
				c.Send(t.request("GET /", "upgrade: WebSocket", "connection: keep-alive, UPGRADE", "sec-websocket-version: 13", "sec-websocket-key: "+wsKey))
				ws := c.Upgraded()
				ws.Send(wsText("hi"))
				ws.Expect(wsText("hi"))
			},
		},
		bad("version", "of version 8", "GET /", "Sec-WebSocket-Version: 8", key),
		bad("no-key", "without a key", "GET /", version),
		bad("post", "with POST", "POST /", version, key, "Content-Length: 0"),
		bad("body", "with a body", "GET /", version, key, "Content-Length: 5"),
		{
			ID: "ws-G3", Title: "what the origin sees of the client's headers", Source: wsSource + "1.3",
			Run: func(t *T) {
				t.WSOrigin()
				t.WebSocket("/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Grip-Foo: x", "Grip-Sig: y", "Accept-Encoding: gzip",
					"Sec-WebSocket-Protocol: a, b", "X-Forwarded-For: 1.2.3.4", "Keep-Alive: 5")
				r := t.Request()
				t.Equal("extensions", r.Lines("Sec-WebSocket-Extensions"), "Sec-WebSocket-Extensions: grip")
				t.Equal("removed", r.Lines("Grip-Foo", "Accept-Encoding", "Keep-Alive"), "")
				t.Equal("kept", r.Lines("Sec-WebSocket-Protocol", "X-Forwarded-For"), "Sec-WebSocket-Protocol: a, b\nX-Forwarded-For: 1.2.3.4")
				checkToken(t, r.Get("Grip-Sig"), "pushpin", "changeme")
				if n := len(r.Values("Grip-Sig")) + len(r.Values("Grip-Feature")); n != 2 {
					t.Fatalf("%d Grip headers, want 2", n)
				}
				t.Contains("Grip-Feature", r.Get("Grip-Feature"), "filter:skip-self, filter:skip-users")
			},
		},
		{
			ID: "ws-G5", Title: "a route without GRIP", Source: wsSource + "1.3, 1.7", Routes: []string{"{host},no_grip {origin}"},
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				t.Equal("GRIP headers", o.req.Lines("Grip-Sig", "Grip-Feature", "Sec-WebSocket-Extensions"), "")
				o.control(`"type":"detach"`)
				o.Send(wsText("m:x"))
				c.Expect(wsText(`c:{"type":"detach"}`), wsText("m:x"))
			},
		},
		{
			ID: "ws-G-101", Title: "the origin's 101", Source: wsSource + "1.5",
			Run: func(t *T) {
				t.WSOrigin("Sec-WebSocket-Protocol: other", "X-A: 1", "Set-Cookie: a=1", "Set-Cookie: b=2", "Sec-WebSocket-Extensions: grip", "Keep-Alive: 5")
				c := t.WebSocket("/", "Sec-WebSocket-Protocol: a, b")
				t.Equal("own header", c.own(), "Sec-WebSocket-Protocol: other\nX-A: 1\nSet-Cookie: a=1\nSet-Cookie: b=2")
			},
		},
		{
			ID: "ws-G-grip", Title: "Grip headers of a 101 stay here", Source: wsSource + "8, Q26", Pushpin: "wrong: they reach the client",
			Run: func(t *T) {
				t.WSOrigin("Grip-Status: 5", "X-A: 1", "Sec-WebSocket-Extensions: grip")
				t.Equal("own header", t.WebSocket("/").own(), "X-A: 1")
			},
		},
		{
			ID: "ws-G-early", Title: "frames that come before the origin's answer", Source: wsSource + "1.1",
			Run: func(t *T) {
				held := t.heldOrigin()
				c := t.Dial()
				c.Send(t.wsHandshake("/") + string(wsText("early").encode(true)) + string(wsPing("p").encode(true)))
				x := <-held
				t.pause()
				x.Send(switching(x.Request))
				o := &wsConn{t: t, conn: x.conn, br: x.br, server: true}
				o.Expect(wsText("early"))
				c.Upgraded()
			},
		},
		{
			ID: "ws-G-slow", Title: "an origin that takes its time to answer", Source: wsSource + "1.1",
			Run: func(t *T) {
				held := t.heldOrigin()
				p := t.wsStart("/")
				x := <-held
				t.waitUntil(time.Now().Add(2500 * time.Millisecond))
				x.Send(switching(x.Request))
				o := &wsConn{t: t, conn: x.conn, br: x.br, server: true}
				c := p.Upgraded()
				c.Send(wsText("hi"))
				o.Expect(wsText("hi"))
				t.pause()
				o.Send(wsText("ho"))
				c.Expect(wsText("ho"))
			},
		},
		{
			ID: "ws-G-path", Title: "rewriting of the path", Source: wsSource + "1.3", Routes: []string{"{host},path_beg=/chat,replace_beg=/x,header=X-R:1 {origin},host=other.test"},
			Run: func(t *T) {
				t.WSOrigin()
				t.WebSocket("/chat/a?b", "X-R: 0")
				r := t.Request()
				t.Equal("target", r.Target(), "/x/a?b")
				t.Equal("header", r.Lines("X-R"), "X-R: 1")
				t.Contains("Host", r.Get("Host"), "other.test")
			},
		},
		{
			ID: "ws-G-proto", Title: "routes for WebSockets alone", Source: wsSource + "6.1", Routes: []string{"{host},proto=ws {origin}", "{host} {origin2}"},
			Run: func(t *T) {
				t.WSOrigin()
				t.WebSocket("/")
				t.Get("/")
				t.Request2()
			},
		},
		{
			ID: "ws-G-failover", Title: "the next target if one cannot be reached", Source: wsSource + "1.4", Routes: []string{"{host} {dead} {origin}"},
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.Send(wsText("m:hi"))
				c.Expect(wsText("hi"))
			},
		},
		{
			ID: "ws-G-xff", Title: "X-Forwarded-For and -Proto of a WebSocket", Source: wsSource + "1.3", Profile: "edge",
			Run: func(t *T) {
				t.WSOrigin()
				t.WebSocket("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2")
				r := t.Request()
				t.Equal("X-Forwarded-For", r.Lines("X-Forwarded-For"), "X-Forwarded-For: 2.2.2.2, 127.0.0.1")
				t.Equal("X-Forwarded-Proto", r.Lines("X-Forwarded-Proto"), "")
			},
		},
		{
			ID: "ws-test", Title: "the built-in test target", Source: wsSource + "1.14", Routes: []string{"{host} test"},
			Run: func(t *T) {
				a, b := t.Ch("a"), t.Ch("b")
				c := t.WebSocket("/ws/?channel=" + a + "&channel=" + b)
				t.Subscribed(a, b)
				c.Send(wsText("hi"), wsBinary("\x00\xff"), wsText(""))
				c.Expect(wsText("hi"), wsBinary("\x00\xff"), wsText(""))
				t.Publish(wsItem(a, "1"), wsItem(b, "2"))
				c.Expect(wsText("1"), wsText("2"))
				c.Send(wsClose(4001, "bye"))
				c.ClosedWith(4001, "bye")
			},
		},
		{
			ID: "ws-test-404", Title: "the test target elsewhere", Source: wsSource + "1.14", Routes: []string{"{host} test"},
			Run: func(t *T) {
				r := t.wsTry("/other")
				t.Equal("code", fmt.Sprint(r.Code()), "404")
				t.Equal("body", r.Body, "no such test resource\n")
			},
		},
	}
}

// sortedLines puts the two lines in the order in which the request has them.
func sortedLines(r *Request, a, b string) string {
	name, _, _ := strings.Cut(b, ":")
	for _, h := range r.Header {
		if h == a {
			return a + "\n" + b
		}
		if strings.HasPrefix(h, name) {
			return b + "\n" + a
		}
	}
	return ""
}

// wsRefusalCases are about handshakes that come to nothing.
func wsRefusalCases() []*Case {
	failed := func(id, title string, raw func(*Request) string) *Case {
		return &Case{
			ID: id, Title: title, Source: wsSource + "1.2",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					x.Send(raw(x.Request))
					x.Close()
				})
				r := t.wsTry("/")
				t.Equal("status line", r.Line, badGateway)
				t.Equal("body", r.Body, generic502)
			},
		}
	}
	refused := func(id, title, mark, status, header, content string) *Case {
		return &Case{
			ID: id, Title: title, Source: wsSource + "1.6", Pushpin: mark,
			Run: func(t *T) {
				t.Always(reply(status, header+"\nUpgrade: websocket\nConnection: keep-alive, X-Hop\nX-Hop: 1", content))
				r := t.wsTry("/")
				t.Is(r, "HTTP/1.1 "+status, header, content)
				t.Equal("Upgrade", r.Get("Upgrade"), "")
			},
		}
	}
	const lost = "wrong: 1.36 loses the reason and the header"
	cs := []*Case{
		refused("ws-G6", "a refusal", lost, "403 Nope", "X-Foo: a\nX-Foo: b\nContent-Type: text/plain", "denied"),
		refused("ws-G7", "a redirect", lost, "302 Found", "Location: /elsewhere", ""),
		refused("ws-G-200", "an ordinary answer", lost, "200 OK", "Content-Type: text/html\nX-A: 1", "<p>"),
		refused("ws-G-401", "a challenge", lost, "401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"", "who?\n"),
		refused("ws-G-large", "a refusal with a large body", "wrong: the body is lost", "403 Nope", "X-A: 1", pattern(90000)),
		{
			ID: "ws-G6-chunked", Title: "a chunked refusal", Source: wsSource + "1.6", Pushpin: lost,
			Run: func(t *T) {
				t.Always(head("503 Busy", "Transfer-Encoding: chunked\nRetry-After: 5") + "\r\n" + chunks("come ", "again") + "0\r\n\r\n")
				r := t.wsTry("/")
				t.Is(r, "HTTP/1.1 503 Busy", "Retry-After: 5", "come again")
			},
		},
		{
			ID: "ws-G6-closed", Title: "a refusal ends the connection", Source: wsSource + "1.6",
			Run: func(t *T) {
				t.Always(reply("403 Nope", "", "denied"))
				c := t.wsStart("/")
				c.Read("GET")
				c.Closed()
			},
		},
		{
			ID: "ws-G6-sse", Title: "a client that was refused can ask for something else", Source: wsSource + "1.6",
			Run: func(t *T) {
				t.Always(reply("403 Nope", "", "denied"))
				t.Equal("body", t.wsTry("/").Body, "denied")
				t.Always(reply("200 OK", "", "page"))
				t.Equal("body", t.Get("/").Body, "page")
			},
		},
		failed("ws-G-cut", "an origin that closes instead of answering", func(*Request) string { return "" }),
		failed("ws-G-garbage", "an origin that does not speak HTTP", func(*Request) string { return "nonsense\r\n\r\n" }),
		failed("ws-G-halfhead", "an origin that closes within its answer", func(*Request) string { return "HTTP/1.1 101 Swi" }),
		failed("ws-G8", "a wrong Sec-WebSocket-Accept", func(r *Request) string {
			return strings.Replace(switching(r), wsAccept(r.Get("Sec-WebSocket-Key")), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 1)
		}),
		failed("ws-G8-none", "no Sec-WebSocket-Accept", func(*Request) string {
			return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
		}),
		{
			ID: "ws-G10", Title: "no target can be reached", Source: wsSource + "1.2", Routes: []string{"{host} {dead} {dead}"},
			Run: func(t *T) {
				r := t.wsTry("/")
				t.Equal("status line", r.Line, badGateway)
				t.Equal("body", r.Body, generic502)
			},
		},
		{
			ID: "ws-G10-debug", Title: "no target can be reached, debug", Source: wsSource + "1.2", Routes: []string{"{host},debug {dead} {dead}"},
			Run: func(t *T) {
				r := t.wsTry("/")
				t.Equal("status line", r.Line, badGateway)
				first, _, _ := strings.Cut(r.Body, "\n") // more may be said after it
				t.Equal("first line", first, t.expand("Unable to connect to any targets. Tried: {dead}, {dead}"))
			},
		},
		{
			ID: "ws-G11", Title: "no route", Source: wsSource + "1.2",
			Run: func(t *T) {
				c := t.Dial()
				c.Send(strings.Replace(t.wsHandshake("/"), t.host(), "nowhere.test", 1))
				r := c.Read("GET")
				t.Equal("status line", r.Line, badGateway)
				if t.OnPushpin() {
					t.Equal("body", r.Body, "No route for host: nowhere.test\n")
				} else {
					t.Equal("body", r.Body, "Route not found\n")
				}
			},
		},
		{
			ID: "ws-G-abort", Title: "a client that leaves before the origin has answered", Source: wsSource + "1.12", Pushpin: "wrong: the origin's connection stays",
			Run: func(t *T) {
				gone := make(chan bool, 1)
				t.Origin(func(x *Exchange) { gone <- x.Gone() })
				c := t.wsStart("/")
				t.Request()
				c.Close()
				if !<-gone {
					t.Fatalf("the origin's connection stays")
				}
			},
		},
	}
	for _, c := range cs {
		switch c.ID {
		case "ws-G8", "ws-G8-none":
			c.Pushpin = "wrong: the accept value is not looked at"
		}
	}
	return cs
}

// wsNegotiationCases are about the extension "grip" and its parameter.
func wsNegotiationCases() []*Case {
	sent := []wsFrame{wsText("m:1"), wsText("x2"), wsText("q:4"), wsText("c:{}")}
	one := func(id, mark string, header []string, want ...string) *Case {
		return &Case{
			ID: "ws-" + id, Title: fmt.Sprintf("extension %q", header), Source: wsSource + "1.7", Pushpin: mark,
			Run: func(t *T) {
				o := t.WSOrigin(header...)
				c := t.WebSocket("/")
				t.Equal("extensions for the client", c.head.Get("Sec-WebSocket-Extensions"), "")
				x := o.Next()
				x.Send(sent...)
				for _, w := range want {
					c.Expect(wsText(w))
				}
				// Nothing else is on the way.
				x.Send(wsPing(""))
				c.Expect(wsPing(""))
			},
		}
	}
	const ext = "Sec-WebSocket-Extensions: "
	all := []string{"m:1", "x2", "q:4", "c:{}"}
	return []*Case{
		one("E1", "", nil, all...),
		one("E2", "", []string{ext + "grip"}, "1"),
		one("E3", "", []string{ext + "grip;"}, "1"),
		one("E4", "", []string{ext + "foo, grip; message-prefix=x"}, "2"),
		one("E5", "", []string{ext + `grip; message-prefix=""`}, all[:3]...),
		one("E6", "", []string{ext + "grip; message-prefix"}, all[:3]...),
		one("E7", "", []string{ext + "grip; Message-Prefix=q:"}, "1"),
		one("E8", "", []string{ext + "GRIP"}, all...),
		one("E9", "", []string{ext + "foo", ext + "grip; message-prefix=q:"}, "4"),
		one("E10", "wrong: GRIP is off, control messages reach the client", []string{ext + "grip; message-prefix="}, all[:3]...),
		one("E11", "", []string{ext + "grip; message-prefix=c:"}),
		one("E5-quoted", "", []string{ext + `grip; message-prefix="q\:"; x=y`}, "4"),
		one("E-semicolon", "", []string{ext + "grip; message-prefix=;"}, all[:3]...),
		one("E-first", "", []string{ext + "grip; message-prefix=x, grip; message-prefix=q:"}, "2"),
		one("E-unknown", "", []string{ext + "grip; foo=bar; message-prefix=x"}, "2"),
		one("E-quote", "", []string{ext + `grip; message-prefix="x`}, all...),
		{
			ID: "ws-E12", Title: "channels of the target without the extension", Source: wsSource + "1.7", Routes: []string{"{host} {origin},sub=implicit-{id}"},
			Run: func(t *T) {
				c, o := t.wsPair("")
				t.Subscribed("implicit-" + strings.ToLower(t.ID))
				o.Send(sent...)
				for _, w := range all {
					c.Expect(wsText(w))
				}
				t.Publish(wsItem("implicit-"+strings.ToLower(t.ID), "pub"))
				c.Expect(wsText("pub"))
			},
		},
		{
			ID: "ws-E-once", Title: "the prefix is removed once", Source: wsSource + "1.8",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.Send(wsText("m:m:a"), wsText("m:c:{}"), wsText("m"), wsText(""), wsBinary("m:"))
				c.Expect(wsText("m:a"), wsText("c:{}"), wsBinary(""))
			},
		},
		{
			ID: "ws-E-client", Title: "messages of the client are not interpreted", Source: wsSource + "1.9",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				sent := []wsFrame{wsText("c:{}"), wsText("m:x"), wsText(`c:{"type":"detach"}`), wsText("x"), wsBinary("c:"), wsText("")}
				c.Send(sent...)
				o.Expect(sent...)
			},
		},
	}
}

// wsFrameCases are about frames on their way through.
func wsFrameCases() []*Case {
	// relayed sends frames from the origin and says what the client gets.
	relayed := func(id, title, mark string, sent, want []wsFrame) *Case {
		return &Case{
			ID: id, Title: title, Source: wsSource + "1.8", Pushpin: mark,
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.Send(sent...)
				c.Expect(want...)
				o.Send(wsText("m:end"))
				c.Expect(wsText("end"))
			},
		}
	}
	type fs = []wsFrame
	const noContent = "wrong: the content of pings and pongs is lost"
	cs := []*Case{
		relayed("ws-F1", "a message in three frames", "", fs{wsText("m:ab").more(), wsCont("cd").more(), wsCont("ef")}, fs{wsText("abcdef")}),
		relayed("ws-F2", "a binary message", "", fs{wsBinary("m:\x01")}, fs{wsBinary("\x01")}),
		relayed("ws-F3", "a binary message is never a control message", "", fs{wsBinary("c:{}")}, nil),
		relayed("ws-F4", "nothing but the prefix", "", fs{wsText("m:")}, fs{wsText("")}),
		relayed("ws-F5", "a message in two frames without the prefix", "wrong: the second frame is passed on", fs{wsText("xx").more(), wsCont("TAIL")}, nil),
		relayed("ws-F7", "a ping is not looked at", noContent, fs{wsPing("m:zz"), wsPong("c:{}")}, fs{wsPing("m:zz"), wsPong("c:{}")}),
		relayed("ws-F7-empty", "a ping and a pong without content", "", fs{wsPing(""), wsPong("")}, fs{wsPing(""), wsPong("")}),
		relayed("ws-F8", "a ping within a message", "wrong: the connection is dropped", fs{wsText("m:a").more(), wsPing(""), wsCont("b")}, fs{wsPing(""), wsText("ab")}),
		relayed("ws-F-prefix", "a prefix that is cut in two", "wrong: not recognised", fs{wsText("m").more(), wsCont(":ab")}, fs{wsText("ab")}),
		relayed("ws-F-order", "many messages of both kinds", "", func() (out fs) {
			for i := range 100 {
				out = append(out, wsText(fmt.Sprint("m:", i)), wsBinary(fmt.Sprint("m:", i)), wsText("no"))
			}
			return out
		}(), func() (out fs) {
			for i := range 100 {
				out = append(out, wsText(fmt.Sprint(i)), wsBinary(fmt.Sprint(i)))
			}
			return out
		}()),
		{
			ID: "ws-F6", Title: "a control message in two frames", Source: wsSource + "8, Q4", Pushpin: "wrong: it is discarded",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("a")
				o.Send(wsText(`c:{"type":"subscribe",`).more(), wsCont(`"channel":`+quote(ch)+`}`))
				t.Within(3 * time.Second)
				t.Subscribed(ch)
				t.Publish(wsItem(ch, "x"))
				c.Expect(wsText("x"))
			},
		},
		{
			ID: "ws-F6-large", Title: "a control message of 20,000 bytes", Source: wsSource + "8, Q4",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("a")
				t.Within(3 * time.Second)
				o.subscribe(ch, `"x":"`+strings.Repeat("x", 20000)+`"`)
				t.Publish(wsItem(ch, "x"))
				c.Expect(wsText("x"))
			},
		},
		{
			ID: "ws-F9", Title: "a client's message in frames", Source: wsSource + "1.9",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				c.Send(wsText("a").more(), wsCont("").more(), wsCont("b"), wsBinary("").more(), wsCont("x"))
				o.Expect(wsText("ab"), wsBinary("x"))
			},
		},
		{
			ID: "ws-F7-client", Title: "pings and pongs of the client", Source: wsSource + "1.10", Pushpin: noContent,
			Run: func(t *T) {
				c, o := t.wsPair("")
				c.Send(wsPing("zz"), wsPong("y"), wsPing(strings.Repeat("x", 125)))
				o.Expect(wsPing("zz"), wsPong("y"), wsPing(strings.Repeat("x", 125)))
				o.Send(wsPong("zz"))
				c.Expect(wsPong("zz"))
			},
		},
		{
			ID: "ws-F10-two", Title: "both sides send a lot at once", Source: wsSource + "5.3", Pushpin: "chance: the last message can stall",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				var up, down []wsFrame
				fill := pattern(1000)
				for i := range 200 {
					up = append(up, wsText(fmt.Sprint(i, fill)))
					down = append(down, wsText(fmt.Sprint("m:", i, fill)))
				}
				go c.Send(up...)
				go o.Send(down...)
				for i := range 200 {
					c.Expect(wsText(fmt.Sprint(i, fill)))
					o.Expect(up[i])
				}
			},
		},
		{
			ID: "ws-F-slow", Title: "a client that reads late loses nothing of what is relayed", Source: wsSource + "5.3", Limit: 40 * time.Second,
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				const total = 1000
				fill := pattern(10000)
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					for i := range total {
						o.Send(wsText(fmt.Sprintf("m:%06d", i) + fill))
					}
				}()
				// 10 MB do not fit into the buffers in between.
				select {
				case <-sent:
				case <-time.After(500 * time.Millisecond):
				}
				for i := range total {
					c.Expect(wsText(fmt.Sprintf("%06d", i) + fill))
				}
			},
		},
	}
	for _, n := range []int{125, 126, 8191, 8192, 8193, 20000, 65535, 65536, 300000, 2000000} {
		mark := "chance: large messages can break the connection"
		if n < 8000 {
			mark = ""
		}
		cs = append(cs, &Case{
			ID: fmt.Sprintf("ws-F10-%d", n), Title: fmt.Sprintf("messages of %d bytes both ways", n), Source: wsSource + "1.9", Pushpin: mark,
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				go c.Send(wsText(pattern(n)), wsBinary(pattern(n)))
				o.Expect(wsText(pattern(n)), wsBinary(pattern(n)))
				go o.Send(wsText("m:"+pattern(n)), wsBinary("m:"+pattern(n)))
				c.Expect(wsText(pattern(n)), wsBinary(pattern(n)))
			},
		})
	}
	// broken is what one side must not send.
	broken := func(id, title, mark string, code uint16, server bool, sent ...wsFrame) *Case {
		return &Case{
			ID: id, Title: title, Source: wsSource + "1.9", Pushpin: mark,
			Run: func(t *T) {
				c, o := t.wsPair("")
				if !server {
					c.Send(sent...)
					c.Fails(code)
					o.Dropped()
					return
				}
				o.Send(sent...)
				o.Fails(code)
				c.Dropped()
			},
		}
	}
	odd := func(f wsFrame) wsFrame {
		f.odd = true
		return f
	}
	rsv := func(n byte, f wsFrame) wsFrame {
		f.rsv = n
		return f
	}
	const taken = "wrong: it is taken"
	for _, v := range []struct {
		id, title, mark string
		code            uint16
		f               []wsFrame
	}{
		{"F11", "RSV1 without compression", "", 1002, fs{rsv(4, wsText("a"))}},
		{"F11-rsv2", "RSV2", taken, 1002, fs{rsv(2, wsText("a"))}},
		{"F11-rsv3", "RSV3", taken, 1002, fs{rsv(1, wsText("a"))}},
		{"F12", "a ping of 126 bytes", "", 1002, fs{wsPing(strings.Repeat("x", 126))}},
		{"F12-open", "a ping that goes on", "", 1002, fs{wsPing("x").more()}},
		{"F-mask", "a frame masked the wrong way", taken, 1002, fs{odd(wsText("a"))}},
		{"F-cont", "a continuation of nothing", "", 1002, fs{wsCont("a")}},
		{"F-start", "a message within a message", "", 1002, fs{wsText("a").more(), wsText("b")}},
		{"F-op3", "opcode 3", "", 1002, fs{{op: 3, data: "a"}}},
		{"F-op11", "opcode 11", "", 1002, fs{{op: 11, data: "a"}}},
		{"F-utf8", "text that is not UTF-8", taken, 1007, fs{wsText("a\xff")}},
		{"F-utf8-frames", "text that is not UTF-8, in frames", taken, 1007, fs{wsText("a\xce").more(), wsCont("a")}},
		{"F-close-utf8", "a reason that is not UTF-8", "", badReason, fs{wsClose(1000, "\xff")}},
		{"F-close-1005", "close code 1005", taken, 1002, fs{wsClose(1005, "")}},
	} {
		cs = append(cs, broken("ws-"+v.id, "client: "+v.title, v.mark, v.code, false, v.f...))
		if v.mark == "" {
			v.mark = "wrong: the origin's connection stays"
		}
		cs = append(cs, broken("ws-"+v.id+"-origin", "origin: "+v.title, v.mark, v.code, true, v.f...))
	}
	return cs
}

// wsCloseCases are about the end of a connection.
func wsCloseCases() []*Case {
	return []*Case{
		{
			ID: "ws-H1", Title: "the client closes, the origin answers otherwise", Source: wsSource + "1.11",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				c.Send(wsClose(4001, "bye"))
				o.Expect(wsClose(4001, "bye"))
				o.Send(wsClose(4002, "ok"))
				c.ClosedWith(4002, "ok")
			},
		},
		{
			ID: "ws-H2", Title: "the origin goes on until it answers the Close", Source: wsSource + "1.11", Pushpin: "chance: what comes right before a Close can be lost",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				c.Send(wsClose(4001, "bye"))
				o.Expect(wsClose(4001, "bye"))
				o.Send(wsText("m:late"))
				c.Expect(wsText("late"))
				o.Send(wsText("m:"+pattern(3000)), wsClose(4002, "ok"))
				c.Expect(wsText(pattern(3000)))
				c.ClosedWith(4002, "ok")
			},
		},
		{
			ID: "ws-H3", Title: "the origin closes without a code", Source: wsSource + "1.11",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.Send(wsCloseRaw(""))
				c.ClosedWith(1000, "")
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
			},
		},
		{
			ID: "ws-H3-client", Title: "the client closes without a code", Source: wsSource + "1.11",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				c.Send(wsCloseRaw(""))
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
				c.ClosedWith(1000, "")
			},
		},
		{
			ID: "ws-H-origin", Title: "the origin closes", Source: wsSource + "1.11", Pushpin: "chance: what comes right before a Close can be lost",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.Send(wsText("m:last"), wsClose(4005, "srv"))
				c.Expect(wsText("last"), wsClose(4005, "srv"))
				c.Send(wsClose(4006, "cli"))
				o.Expect(wsClose(4006, "cli"))
				_ = o.conn.Close()
				c.Ended()
			},
		},
		{
			ID: "ws-H-last", Title: "a large message right before the Close", Source: wsSource + "1.11", Pushpin: "chance: what comes right before a Close can be lost",
			Run: func(t *T) {
				c, o := t.wsPair("")
				go o.Send(wsText(pattern(200000)), wsClose(1001, "away"))
				c.Expect(wsText(pattern(200000)))
				c.ClosedWith(1001, "away")
			},
		},
		{
			ID: "ws-H-last-client", Title: "a large message of the client right before its Close", Source: wsSource + "1.11", Pushpin: "chance: what comes right before a Close can be lost",
			Run: func(t *T) {
				c, o := t.wsPair("")
				go c.Send(wsText(pattern(200000)), wsClose(1001, "away"))
				o.Expect(wsText(pattern(200000)), wsClose(1001, "away"))
			},
		},
		{
			ID: "ws-H-reason", Title: "a reason of 123 bytes", Source: "RFC 6455 section 5.5",
			Run: func(t *T) {
				c, o := t.wsPair("")
				reason := strings.Repeat("é", 61) + "x"
				o.Send(wsClose(3000, reason))
				c.Expect(wsClose(3000, reason))
				c.Send(wsClose(4999, reason))
				o.Expect(wsClose(4999, reason))
			},
		},
		{
			ID: "ws-H4", Title: "the client is lost", Source: wsSource + "1.12",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				_ = c.conn.Close()
				o.Dropped()
			},
		},
		{
			ID: "ws-H5", Title: "the origin is lost", Source: wsSource + "1.12",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.Send(wsText("m:x"))
				c.Expect(wsText("x"))
				_ = o.conn.Close()
				c.Dropped()
			},
		},
		{
			ID: "ws-H6", Title: "a publication closes the connection", Source: wsSource + "4.2",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch)
				t.Publish(wsItem(ch, "x"), wsMessage(ch, `"action":"close","code":4100,"reason":"why"`), wsItem(ch, "y"))
				c.Expect(wsText("x"), wsClose(4100, "why"))
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
				c.Send(wsClose(4100, "why"))
				c.Ended()
			},
		},
		{
			ID: "ws-H7", Title: "a publication closes without a code", Source: wsSource + "4.2",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch)
				t.Publish(wsMessage(ch, `"action":"close","reason":"why"`))
				c.ClosedWith(1000, "")
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
			},
		},
		{
			ID: "ws-H8", Title: "detach", Source: wsSource + "1.13",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch)
				o.control(`"type":"detach"`)
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
				c.Send(wsText("nobody"), wsPing("p"), wsPong("q"))
				t.Publish(wsItem(ch, "p"))
				c.Expect(wsText("p"))
				c.Send(wsClose(1001, ""))
				c.ClosedWith(1000, "")
			},
		},
		{
			ID: "ws-H8-close", Title: "a publication closes after detach", Source: wsSource + "1.13",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch)
				o.control(`"type":"detach"`)
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
				t.Publish(wsMessage(ch, `"action":"close","code":4009,"reason":"done"`))
				c.ClosedWith(4009, "done")
			},
		},
		{
			ID: "ws-H8-keep", Title: "a keep-alive goes on after detach", Source: wsSource + "1.13",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.control(`"type":"keep-alive","content":"k","timeout":1`)
				o.control(`"type":"detach"`)
				o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
				c.Expect(wsText("k"), wsText("k"))
			},
		},
		{
			ID: "ws-H-lost-sub", Title: "a client that left is no longer subscribed", Source: wsSource + "1.12",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch)
				_ = c.conn.Close()
				if !t.mon.waitGone(ch, t.deadline()) {
					t.Fatalf("the subscription stays")
				}
			},
		},
	}
}

// wsChainCases are about a GRIP proxy in front, and about compression.
func wsChainCases() []*Case {
	compressed := func(id, offer, want string) *Case {
		return &Case{
			ID: "ws-" + id, Title: "compression is offered as " + offer, Source: wsSource + "5.6", Profile: "compression", Pushpin: "newest: 1.36 cannot compress",
			Run: func(t *T) {
				t.WSOrigin()
				c := t.WebSocket("/", "Sec-WebSocket-Extensions: "+offer)
				got := c.head.Get("Sec-WebSocket-Extensions")
				if want != "" { // a server may add that contexts are not kept
					c.agree(offer, got)
					if strings.Contains(got, "bits") {
						t.Fatalf("extensions: got %q, want %q", got, want)
					}
					return
				}
				t.Equal("extensions", got, "")
			},
		}
	}
	cs := []*Case{
		{
			ID: "ws-M1", Title: "a trusted GRIP proxy gets the extension and what belongs to it", Source: wsSource + "7", Profile: "edge", Pushpin: "wrong: the extension is lost",
			Run: func(t *T) {
				t.WSOrigin("Sec-WebSocket-Extensions: foo, grip; message-prefix=zz")
				c := t.WebSocket("/", "Grip-Sig: "+upToken, "Sec-WebSocket-Extensions: grip")
				r := t.Request()
				t.Equal("Grip-Sig", r.Lines("Grip-Sig"), "Grip-Sig: "+upToken)
				t.Equal("extensions", c.head.Get("Sec-WebSocket-Extensions"), "grip; message-prefix=zz")
			},
		},
		{
			ID: "ws-M1-raw", Title: "messages for a trusted GRIP proxy are left alone", Source: wsSource + "7", Profile: "edge",
			Run: func(t *T) {
				c, o := t.wsPair("grip; message-prefix=zz", "Grip-Sig: "+upToken)
				o.Send(wsText("zzhi"), wsText("x"))
				o.control(`"type":"subscribe","channel":"c"`)
				c.Expect(wsText("zzhi"), wsText("x"), wsText(`c:{"type":"subscribe","channel":"c"}`))
			},
		},
		{
			ID: "ws-M4", Title: "compression is off", Source: wsSource + "5.6",
			Run: func(t *T) {
				t.WSOrigin()
				c := t.WebSocket("/", "Sec-WebSocket-Extensions: permessage-deflate")
				t.Equal("extensions", c.head.Get("Sec-WebSocket-Extensions"), "")
			},
		},
		compressed("M5", "permessage-deflate; client_max_window_bits; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
		compressed("M6", "permessage-deflate; server_max_window_bits=10, permessage-deflate", "permessage-deflate"),
		compressed("M7", "permessage-deflate; foo=1", ""),
	}
	cs[len(cs)-1].Pushpin = ""
	for id, sig := range map[string]string{
		"key": token(`{"iss":"edge","exp":2147483647}`, "wrong"),
		"exp": token(`{"iss":"edge","exp":1000000000}`, "upkey"),
	} {
		cs = append(cs, &Case{
			ID: "ws-M3-" + id, Title: "a Grip-Sig that is not good", Source: wsSource + "7", Profile: "edge",
			Run: func(t *T) {
				c, o := t.wsPair("grip", "Grip-Sig: "+sig)
				t.Equal("extensions", c.head.Get("Sec-WebSocket-Extensions"), "")
				checkToken(t, strings.Join(o.req.Values("Grip-Sig"), ", "), "pushpin", "changeme")
				o.Send(wsText("m:hi"))
				c.Expect(wsText("hi"))
			},
		})
	}
	return cs
}
