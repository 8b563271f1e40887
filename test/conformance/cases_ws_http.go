package main

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"
)

var overHTTP = []string{"{host} {origin},over_http"}

// over makes a case of WebSocket-over-HTTP; run gets an open connection.
func over(id, title, section, mark string, run func(t *T, c *wsConn, w *wohOrigin), header ...string) *Case {
	return &Case{
		ID: "ws-" + id, Title: title, Source: wsSource + section, Pushpin: mark, Routes: overHTTP,
		Run: func(t *T) {
			c, w := t.woh(header...)
			run(t, c, w)
		},
	}
}

// wohEncodingCases are about the events that the proxy sends.
func wohEncodingCases() []*Case {
	encoded := func(id, want string, frames ...wsFrame) *Case {
		return over(id, "events for "+clip(fmt.Sprint(frames), ""), "2.3", "", func(t *T, c *wsConn, w *wohOrigin) {
			w2 := w // each message may come in a request of its own
			c.Send(frames...)
			for want := want; want != ""; {
				r := w2.Next()
				rest, ok := strings.CutPrefix(want, r.Body)
				if !ok || r.Body == "" {
					t.Fatalf("events: got %q, want %q", r.Body, want)
				}
				r.Answer("")
				want = rest
			}
		})
	}
	// queued sends the frames while a request is under way.
	queued := func(id, title string, routes []string, wants []string, frames ...wsFrame) *Case {
		return &Case{
			ID: "ws-" + id, Title: title, Source: wsSource + "2.6", Routes: routes,
			Run: func(t *T) {
				c, w := t.woh()
				c.Send(wsText("x"))
				r := w.Expect(event("TEXT", "x"))
				c.Send(frames...)
				t.pause()
				for _, want := range wants {
					r.Answer("")
					r = w.Expect(want)
				}
				r.Answer(r.Body[strings.LastIndex(r.Body, "CLOSE"):])
				c.ClosedWith(1000, "")
			},
		}
	}
	last := []wsFrame{wsText("a"), wsText("b"), wsClose(1000, "")}
	return []*Case{
		encoded("A1", "TEXT 2\r\nhi\r\n", wsText("hi")),
		encoded("A2", "TEXT 6\r\nabcdef\r\n", wsText("abc").more(), wsCont("def")),
		encoded("A3", "TEXT\r\n", wsText("")),
		encoded("A4", "PING\r\nPING 2\r\nxx\r\n", wsPing(""), wsPing("xx")),
		encoded("A4-pong", "PONG\r\nPONG 2\r\nxx\r\n", wsPong(""), wsPong("xx")),
		encoded("A5", "BINARY 1\r\n\x00\r\n", wsBinary("\x00")),
		encoded("A5-empty", "BINARY\r\n", wsBinary("")),
		encoded("A6", "TEXT 1b\r\n"+pattern(27)+"\r\n", wsText(pattern(27))),
		encoded("A6-large", "TEXT 30d40\r\n"+pattern(200000)+"\r\n", wsText(pattern(200000))),
		encoded("A6-crlf", "TEXT 6\r\nTEXT\r\n\r\nBINARY 2\r\n\r\n\r\n", wsText("TEXT\r\n"), wsBinary("\r\n")),
		encoded("A7", "CLOSE 5\r\n\x0f\xa1bye\r\n", wsClose(4001, "bye")),
		encoded("A8", "CLOSE\r\n", wsCloseRaw("")),
		over("A9", "a message that is not complete waits", "2.6", "", func(t *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("a"), wsText("par").more())
			w.Expect("TEXT 1\r\na\r\n").Answer("")
			w.Quiet(300 * time.Millisecond)
			c.Send(wsCont("tial"))
			w.Expect("TEXT 7\r\npartial\r\n").Answer("")
		}),
		queued("A10", "messages and a Close go in one request", overHTTP, []string{"TEXT 1\r\na\r\nTEXT 1\r\nb\r\nCLOSE 2\r\n\x03\xe8\r\n"}, last...),
		queued("A11", "one event in each request", []string{"{host} {origin},over_http,one_event"},
			[]string{"TEXT 1\r\na\r\n", "TEXT 1\r\nb\r\n", "CLOSE 2\r\n\x03\xe8\r\n"}, last...),
		over("A12", "a client that is lost within a message", "2.11", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("par").more())
			_ = c.conn.Close()
			w.Expect("DISCONNECT\r\n").Answer("")
		}),
	}
}

// wohDecodingCases are about the events that the origin answers with.
func wohDecodingCases() []*Case {
	// decoded answers a request with events; then all has to go on.
	decoded := func(id, events, mark string, want ...wsFrame) *Case {
		return over(id, fmt.Sprintf("an answer with %q", clip(events, "")), "2.3", mark, func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Expect("TEXT 2\r\ngo\r\n").Answer(events)
			c.Expect(want...)
			c.Send(wsText("x"))
			w.Expect("TEXT 1\r\nx\r\n").Answer(event("TEXT", "m:end"))
			c.Expect(wsText("end"))
		})
	}
	// invalid answers a request with what ends the connection.
	invalid := func(id, events, mark string) *Case {
		return over(id, fmt.Sprintf("an answer with %q", clip(events, "")), "2.3", mark, func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Expect("TEXT 2\r\ngo\r\n").Answer(events)
			c.Dropped()
			w.Quiet(200 * time.Millisecond)
		})
	}
	pp := pattern(26)
	cs := []*Case{
		decoded("B1", "", ""),
		{
			ID: "ws-B2", Title: "OPEN and nothing else", Source: wsSource + "2.3", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				p := t.wsStart("/")
				w.Expect(openEvent).Answer("OPEN\r\n")
				c := p.Upgraded()
				c.Send(wsText("go"))
				w.Expect("TEXT 2\r\ngo\r\n").Answer("TEXT 2\r\nzz\r\n")
				c.Expect(wsText("zz")) // and nothing before it
			},
		},
		{
			ID: "ws-B3", Title: "the content of OPEN is passed over", Source: wsSource + "2.3", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				c := t.wsStart("/")
				w.Expect(openEvent).Answer("OPEN 3\r\nabc\r\nTEXT 2\r\nzz\r\n")
				c.Upgraded().Expect(wsText("zz"))
			},
		},
		decoded("B4", "PING 0\r\n\r\nPONG 2\r\nab\r\nBINARY 4\r\nm:zz\r\n", "", wsPing(""), wsPong("ab"), wsBinary("zz")),
		decoded("B5", "TEXT 1C\r\nm:"+pp+"\r\n", "", wsText(pp)),
		decoded("B6", "TEXT 1c\r\nm:"+pp+"\r\n", "", wsText(pp)),
		decoded("B7", "text 4\r\nm:zz\r\n", ""),
		decoded("B8", "FOO 3\r\nabc\r\nTEXT 4\r\nm:zz\r\n", "", wsText("zz")),
		decoded("B8-empty", "FOO\r\nTEXT 4\r\nm:zz\r\n", "", wsText("zz")),
		invalid("B9", "TEXT zz\r\nhello\r\n", ""),
		invalid("B10", "TEXT 5", ""),
		invalid("B11", "TEXT 4\nm:zz\n", ""),
		decoded("B12", "TEXT 5\r\nm:abc", "", wsText("abc")),
		invalid("B13", "TEXT ff\r\nm:abc", "wrong: what there is gets delivered"),
		invalid("B14", "TEXT -9\r\nm:zz\r\n", "fatal: it decodes for ever and takes all memory"),
		invalid("B14-huge", "TEXT ffffffffffffffff\r\nm:zz\r\n", ""),
		decoded("B15", "TEXT\r\n", ""),
		{
			ID: "ws-B15-plain", Title: "without GRIP nothing is looked at", Source: wsSource + "2.5", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				p := t.wsStart("/")
				w.Expect(openEvent).Answer(openEvent)
				c := p.Upgraded()
				c.Send(wsText("go"))
				w.Next().Answer("TEXT\r\nBINARY\r\n" + event("TEXT", "c:{}") + event("TEXT", "m:x"))
				c.Expect(wsText(""), wsBinary(""), wsText("c:{}"), wsText("m:x"))
			},
		},
		over("B16", "a Close whose content is too short", "2.3", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Answer("CLOSE 1\r\n\x03\r\n")
			c.ClosedWith(1000, "")
		}),
		over("B17", "what follows a Close is passed over", "2.3", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Answer("TEXT 6\r\nm:last\r\n" + closeEvent(4005, "srv") + "TEXT 3\r\nm:z\r\n")
			c.Expect(wsText("last"))
			c.Expect(wsClose(4005, "srv"))
			c.Send(wsClose(4005, "srv"))
			w.Expect(closeEvent(4005, "srv")).Answer("")
			c.Ended()
		}),
		invalid("B18", "OPEN\r\n", ""),
		invalid("B19", "DISCONNECT\r\n", ""),
		over("B19-first", "messages before a DISCONNECT are delivered", "8, Q12", "wrong: they are lost", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", "m:last") + "DISCONNECT\r\n")
			c.Expect(wsText("last"))
			c.Dropped()
			w.Quiet(200 * time.Millisecond)
		}),
		over("B20", "a ping of 200 bytes", "2.3", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Answer(event("PING", strings.Repeat("x", 200)))
			c.Dropped()
		}),
		decoded("B-large", event("TEXT", "m:"+pattern(100000)), "wrong: answers of more than 16,384 bytes stall", wsText(pattern(100000))),
		decoded("B-many", strings.Repeat(event("TEXT", "m:a")+event("BINARY", "m:b"), 50), "", func() (out []wsFrame) {
			for range 50 {
				out = append(out, wsText("a"), wsBinary("b"))
			}
			return out
		}()...),
		over("B-large-control", "a control message of 20,000 bytes", "8, Q4", "wrong: it is discarded", func(t *T, c *wsConn, w *wohOrigin) {
			ch := t.Ch("c")
			t.Within(3 * time.Second)
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`,"x":"`+strings.Repeat("x", 20000)+`"}`))
			t.Subscribed(ch)
		}),
		over("B-chunked", "a chunked answer", "2.4", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Raw(head("200 OK", eventsType+"\nTransfer-Encoding: chunked") + "\r\n" + chunks("TEXT 4\r\nm", ":zz\r\nTE", "XT 3\r\nm:y\r\n") + "0\r\n\r\n")
			c.Expect(wsText("zz"), wsText("y"))
		}),
	}
	// later answers that are no answer to events
	for id, raw := range map[string]string{
		"500":  reply("500 No", eventsType, ""),
		"204":  head("204 No Content", eventsType) + "\r\n",
		"type": reply("200 OK", "Content-Type: text/plain", ""),
		"none": reply("200 OK", "", ""),
		"case": reply("200 OK", "Content-Type: Application/websocket-events", ""),
	} {
		cs = append(cs, over("D14-"+id, "a later answer that is not about events: "+id, "2.4", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Raw(raw)
			c.Dropped()
			w.Quiet(300 * time.Millisecond)
		}))
	}
	return cs
}

// wohKeepBackCases are about what the origin leaves in the proxy's buffer.
func wohKeepBackCases() []*Case {
	const newest = "newest: since 1.41"
	kept := func(id, title, mark string, run func(t *T, c *wsConn, w *wohOrigin)) *Case {
		return over(id, title, "2.7", mark, run)
	}
	// keep offers a message of which the origin takes n bytes.
	keep := func(c *wsConn, w *wohOrigin, text string, n int) {
		c.Send(wsText(text))
		r := w.Expect(event("TEXT", text))
		w.t.Equal("Content-Bytes-Replayed", r.Lines("Content-Bytes-Replayed"), "")
		r.Answer("", fmt.Sprint("Content-Bytes-Accepted: ", n))
	}
	again := func(w *wohOrigin, events string, replayed int) *wohRequest {
		r := w.Expect(events)
		w.t.Equal("Content-Bytes-Replayed", r.Get("Content-Bytes-Replayed"), fmt.Sprint(replayed))
		return r
	}
	// closing offers "abc" and a Close in one request.
	closing := func(c *wsConn, w *wohOrigin) *wohRequest {
		c.Send(wsText("go"))
		r := w.Next()
		c.Send(wsText("abc"), wsClose(1000, ""))
		w.t.pause()
		r.Answer("")
		return w.Expect("TEXT 3\r\nabc\r\nCLOSE 2\r\n\x03\xe8\r\n")
	}
	cs := []*Case{
		kept("C1", "bytes of several messages are kept and taken one after the other", newest, func(t *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			r := w.Next()
			c.Send(wsText("abcde").more(), wsCont(" fghij"), wsText(""), wsText("xyz"))
			t.pause()
			r.Answer("")
			r = w.Expect("TEXT b\r\nabcde fghij\r\nTEXT\r\nTEXT 3\r\nxyz\r\n")
			r.Answer("", "Content-Bytes-Accepted: 3")
			c.Send(wsText("1"))
			r = again(w, "TEXT 8\r\nde fghij\r\nTEXT\r\nTEXT 3\r\nxyz\r\nTEXT 1\r\n1\r\n", 11)
			r.Answer("", "Content-Bytes-Accepted: 2")
			c.Send(wsText("2"))
			r = again(w, "TEXT 6\r\n fghij\r\nTEXT\r\nTEXT 3\r\nxyz\r\nTEXT 1\r\n1\r\nTEXT 1\r\n2\r\n", 10)
			r.Answer("", "Content-Bytes-Accepted: 6")
			c.Send(wsText("3"))
			again(w, "TEXT 3\r\nxyz\r\nTEXT 1\r\n1\r\nTEXT 1\r\n2\r\nTEXT 1\r\n3\r\n", 5).Answer("")
			c.Send(wsText("4"))
			w.t.Equal("Content-Bytes-Replayed", w.Expect("TEXT 1\r\n4\r\n").Get("Content-Bytes-Replayed"), "")
		}),
		kept("C5", "what is kept triggers no request, and goes with the next", newest, func(_ *T, c *wsConn, w *wohOrigin) {
			keep(c, w, "{a}{bcd", 3)
			w.Quiet(300 * time.Millisecond)
			c.Send(wsText("e}"))
			again(w, "TEXT 4\r\n{bcd\r\nTEXT 2\r\ne}\r\n", 4).Answer("")
			c.Send(wsText("x"))
			w.t.Equal("Content-Bytes-Replayed", w.Expect("TEXT 1\r\nx\r\n").Lines("Content-Bytes-Replayed"), "")
		}),
		kept("C8", "more is accepted than was offered", newest, func(_ *T, c *wsConn, w *wohOrigin) {
			keep(c, w, "{a}{bcd", 8)
			c.Dropped()
		}),
		{
			ID: "ws-C10", Title: "content is accepted where none was offered", Source: wsSource + "2.7", Routes: overHTTP, Pushpin: newest,
			Run: func(t *T) {
				w := t.OverHTTP()
				c := t.wsStart("/")
				w.Expect(openEvent).Answer(openEvent, "Content-Bytes-Accepted: 1")
				r := c.Read("GET")
				t.Equal("status line", r.Line, badGateway)
				t.Equal("body", r.Body, generic502)
			},
		},
		kept("C11", "a message is cut", newest, func(t *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			r := w.Next()
			c.Send(wsText("abc"), wsBinary("def"))
			t.pause()
			r.Answer("")
			w.Expect("TEXT 3\r\nabc\r\nBINARY 3\r\ndef\r\n").Answer("", "Content-Bytes-Accepted: 4")
			c.Send(wsText("x"))
			again(w, "BINARY 2\r\nef\r\nTEXT 1\r\nx\r\n", 2)
		}),
		kept("C-refresh", "what is kept goes with a refresh", newest, func(t *T, c *wsConn, w *wohOrigin) {
			keep(c, w, "abcd", 2)
			t.pause()
			t.Equal("answer", fmt.Sprint(t.Command("refresh", tmap{{"cid", cid(t)}})["success"]), "true")
			again(w, "TEXT 2\r\ncd\r\n", 2).Answer("")
		}),
		kept("C13", "a Close and all before it is accepted", "", func(_ *T, c *wsConn, w *wohOrigin) {
			closing(c, w).Answer(closeEvent(1000, ""), "Content-Bytes-Accepted: 5")
			c.ClosedWith(1000, "")
		}),
		kept("C-close", "what is kept goes with a Close", newest, func(_ *T, c *wsConn, w *wohOrigin) {
			keep(c, w, "abc", 1)
			c.Send(wsClose(1000, ""))
			again(w, "TEXT 2\r\nbc\r\nCLOSE 2\r\n\x03\xe8\r\n", 2).Answer(closeEvent(1000, ""))
			c.ClosedWith(1000, "")
		}),
		kept("C15", "a part of what is before a Close is accepted", newest, func(_ *T, c *wsConn, w *wohOrigin) {
			closing(c, w).Answer("", "Content-Bytes-Accepted: 2")
			r := w.Expect("TEXT 1\r\nc\r\nCLOSE 2\r\n\x03\xe8\r\n")
			r.Answer(closeEvent(1000, ""))
			c.ClosedWith(1000, "")
		}),
		{
			ID: "ws-C16", Title: "one event at a time and none accepted", Source: wsSource + "2.7", Routes: []string{"{host} {origin},over_http,one_event"}, Pushpin: newest,
			Run: func(t *T) {
				c, w := t.woh()
				c.Send(wsText("go"))
				r := w.Next()
				c.Send(wsText("a"), wsText("b"))
				t.pause()
				r.Answer("")
				w.Expect("TEXT 1\r\na\r\n").Answer("", "Content-Bytes-Accepted: 0")
				c.Dropped()
			},
		},
	}
	for id, n := range map[string]int{"3": 3, "4": 4} {
		cs = append(cs, kept("C14-"+id, "a Close is accepted in part: "+id, "", func(_ *T, c *wsConn, w *wohOrigin) {
			closing(c, w).Answer("", fmt.Sprint("Content-Bytes-Accepted: ", n))
			c.Dropped()
		}))
	}
	for id, v := range map[string]string{"x": "x", "negative": "-1"} {
		cs = append(cs, kept("C9-"+id, "Content-Bytes-Accepted is "+v, "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("abc"))
			w.Expect("TEXT 3\r\nabc\r\n").Answer("", "Content-Bytes-Accepted: "+v)
			c.Send(wsText("x"))
			w.Expect("TEXT 1\r\nx\r\n")
		}))
	}
	return cs
}

// cid is the Connection-Id of the first request that the origin saw.
func cid(t *T) string {
	id := t.Request().Get("Connection-Id")
	if id == "" {
		t.Fatalf("the request has no Connection-Id")
	}
	return id
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// wohExchangeCases are about the chain of requests.
func wohExchangeCases() []*Case {
	// opening answers the first request with raw bytes; the client gets an answer.
	opening := func(id, title, mark, raw string, check func(t *T, r *Response)) *Case {
		return &Case{
			ID: "ws-" + id, Title: title, Source: wsSource + "2.5", Routes: overHTTP, Pushpin: mark,
			Run: func(t *T) {
				w := t.OverHTTP()
				c := t.wsStart("/")
				w.Expect(openEvent).Raw(raw)
				check(t, c.Read("GET"))
				w.Quiet(100 * time.Millisecond)
			},
		}
	}
	is502 := func(t *T, r *Response) {
		t.Equal("status line", r.Line, badGateway)
		t.Equal("body", r.Body, generic502)
	}
	relays := func(line, own, content string) func(*T, *Response) {
		return func(t *T, r *Response) { t.Is(r, line, own, content) }
	}
	cs := []*Case{
		{
			ID: "ws-D1", Title: "the first request", Source: wsSource + "2.2", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				c := t.wsStart("/p?q=1", "Cookie: k=v", "Meta-User: bob", "Connection-Id: evil", "Accept: */*", "Sec-WebSocket-Protocol: a, b", "Origin: http://o.test")
				r := w.Expect(openEvent)
				t.Equal("request line", r.Line, "POST /p?q=1 HTTP/1.1")
				t.Equal("header", r.Lines("Cookie", "Accept", "Content-Type", "Content-Length", "Meta-User", "Upgrade", "Sec-WebSocket-Protocol", "Origin", "Content-Bytes-Replayed"),
					"Cookie: k=v\nSec-WebSocket-Protocol: a, b\nOrigin: http://o.test\nAccept: application/websocket-events\nContent-Type: application/websocket-events\nContent-Length: 6")
				t.Equal("extensions", r.Lines("Sec-WebSocket-Extensions"), "Sec-WebSocket-Extensions: grip")
				if ids := r.Values("Connection-Id"); len(ids) != 1 || !uuid.MatchString(ids[0]) {
					t.Fatalf("Connection-Id: %q", ids)
				}
				checkToken(t, r.Get("Grip-Sig"), "pushpin", "changeme")
				r.Answer(openEvent)
				c.Upgraded()
			},
		},
		{
			ID: "ws-D2", Title: "the headers of the 101, and the next request", Source: wsSource + "2.5, 2.8", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				p := t.wsStart("/p?q=1", "Cookie: k=v", "Sec-WebSocket-Protocol: a")
				r := w.Expect(openEvent)
				id := r.Get("Connection-Id")
				r.Answer(openEvent, "Set-Meta-User: alice", "X-R: 1", "Sec-WebSocket-Protocol: a", "Keep-Alive-Interval: 30", "Sec-WebSocket-Extensions: grip")
				c := p.Upgraded()
				t.Equal("header of the 101", c.own(), "X-R: 1\nSec-WebSocket-Protocol: a")
				c.Send(wsText("hello"))
				r = w.Expect("TEXT 5\r\nhello\r\n")
				t.Equal("request line", r.Line, "POST /p?q=1 HTTP/1.1")
				t.Equal("header", r.Lines("Cookie", "Meta-User", "Connection-Id"), "Cookie: k=v\nConnection-Id: "+id+"\nMeta-User: alice")
				checkToken(t, r.Get("Grip-Sig"), "pushpin", "changeme")
			},
		},
		over("D4", "metadata of the connection", "2.8", "", func(t *T, c *wsConn, w *wohOrigin) {
			step := func(want string, header ...string) {
				c.Send(wsText("x"))
				r := w.Expect("TEXT 1\r\nx\r\n")
				var metas []string
				for _, h := range r.Header {
					if strings.HasPrefix(strings.ToLower(h), "meta-") {
						metas = append(metas, h)
					}
				}
				t.Equal("metadata", strings.Join(metas, "\n"), want)
				r.Answer("", header...)
			}
			step("", "Set-Meta-A: 1", "Set-Meta-b: 2")
			step("Meta-A: 1\nMeta-b: 2", "set-meta-a: 3")
			step("Meta-b: 2\nMeta-a: 3", "Set-Meta-c: 1", "Set-Meta-c: 2")
			step("Meta-b: 2\nMeta-a: 3\nMeta-c: 2")
		}),
		over("D5", "metadata is removed by an empty value", "2.8", "wrong: a header without a value is an error", func(t *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("1"))
			w.Next().Answer("", "Set-Meta-A: 1", "Set-Meta-B: 2")
			c.Send(wsText("2"))
			w.Expect("TEXT 1\r\n2\r\n").Answer("", "Set-Meta-b:")
			c.Send(wsText("3"))
			t.Equal("metadata", w.Expect("TEXT 1\r\n3\r\n").Lines("Meta-A", "Meta-B"), "Meta-A: 1")
		}),
		opening("D6", "a refusal", "", reply("403 Nope", "Content-Type: text/plain\nX-A: 1", "no"), relays("HTTP/1.1 403 Nope", "Content-Type: text/plain\nX-A: 1", "no")),
		opening("D7", "a page", "", reply("200 OK", "Content-Type: text/html", "<p>"), relays("HTTP/1.1 200 OK", "Content-Type: text/html", "<p>")),
		opening("D8", "a type with a parameter", "", reply("200 OK", eventsType+"; charset=utf-8", openEvent),
			relays("HTTP/1.1 200 OK", eventsType+"; charset=utf-8", openEvent)),
		opening("D9", "events with another status", "", reply("201 Created", eventsType, openEvent), relays("HTTP/1.1 201 Created", eventsType, openEvent)),
		opening("D6-meta", "metadata of a refusal stays here", "wrong: it reaches the client", reply("403 Nope", "Set-Meta-A: 1\nX-A: 1", "no"), relays("HTTP/1.1 403 Nope", "X-A: 1", "no")),
		opening("G9", "a refusal with a body of 9,000 bytes", "wrong: the client gets nothing", reply("403 Nope", "X-A: 1", pattern(9000)), relays("HTTP/1.1 403 Nope", "X-A: 1", pattern(9000))),
		opening("D10", "no events", "", reply("200 OK", eventsType, ""), is502),
		opening("D12", "OPEN is not the first event", "", reply("200 OK", eventsType, "TEXT 3\r\nm:x\r\nOPEN\r\n"), is502),
		opening("D12-broken", "events that cannot be decoded", "", reply("200 OK", eventsType, "OPEN"), is502),
		{
			ID: "ws-D13", Title: "OPEN and CLOSE in one answer", Source: wsSource + "2.5", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				p := t.wsStart("/")
				w.Expect(openEvent).Answer(openEvent + closeEvent(4003, ""))
				c := p.Upgraded()
				c.Expect(wsClose(4003, ""))
				c.Send(wsClose(4003, ""))
				w.Expect(closeEvent(4003, "")).Answer("")
				c.Ended()
			},
		},
		{
			ID: "ws-D13-more", Title: "OPEN and messages in one answer", Source: wsSource + "2.5", Routes: overHTTP,
			Run: func(t *T) {
				ch := t.Ch("c")
				w := t.OverHTTP()
				p := t.wsStart("/")
				w.Expect(openEvent).Answer(openEvent+event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`}`)+event("TEXT", "m:hi"), "Sec-WebSocket-Extensions: grip; message-prefix=\"m:\"")
				c := p.Upgraded()
				c.Expect(wsText("hi"))
				t.Subscribed(ch)
				t.Publish(wsItem(ch, "pub"))
				c.Expect(wsText("pub"))
			},
		},
		{
			ID: "ws-D13-drop", Title: "OPEN and DISCONNECT in one answer", Source: wsSource + "2.5", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				p := t.wsStart("/")
				w.Expect(openEvent).Answer(openEvent + "DISCONNECT\r\n")
				p.Upgraded().Dropped()
			},
		},
		over("D15", "messages wait for an answer and go together", "2.6", "", func(t *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("first"))
			r := w.Expect("TEXT 5\r\nfirst\r\n")
			c.Send(wsText("m0"), wsText("m1"), wsPing(""), wsBinary("zz"), wsText("par").more())
			t.pause()
			r.Answer("")
			w.Expect("TEXT 2\r\nm0\r\nTEXT 2\r\nm1\r\nPING\r\nBINARY 2\r\nzz\r\n").Answer("")
			c.Send(wsCont("tial"))
			w.Expect("TEXT 7\r\npartial\r\n").Answer("")
		}),
		over("D16", "a client is lost while a request is under way", "2.11", "", func(t *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("x"))
			r := w.Expect("TEXT 1\r\nx\r\n")
			c.Send(wsText("y"))
			_ = c.conn.Close()
			t.pause()
			r.Answer("")
			w.Expect("DISCONNECT\r\n").Answer("")
		}),
		{
			ID: "ws-D17", Title: "a client is lost during the first request", Source: wsSource + "2.11", Routes: overHTTP,
			Run: func(t *T) {
				w := t.OverHTTP()
				c := t.wsStart("/")
				r := w.Expect(openEvent)
				c.Close()
				t.pause()
				r.Answer(openEvent)
				w.Expect("DISCONNECT\r\n").Answer("")
			},
		},
		over("D18", "the client closes, the origin as well", "2.10", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsClose(4001, "bye"))
			w.Expect(closeEvent(4001, "bye")).Answer(closeEvent(4001, "bye"))
			c.ClosedWith(4001, "bye")
			w.Quiet(100 * time.Millisecond)
		}),
		over("D18-other", "the client closes, the origin with another code and a message before it", "2.10", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsClose(4001, "bye"))
			w.Next().Answer(event("TEXT", "m:last") + closeEvent(4002, "ok"))
			c.Expect(wsText("last"))
			c.ClosedWith(4002, "ok")
		}),
		over("D19", "the client closes, the origin says nothing", "8, Q9", "wrong: the client is dropped", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsClose(4001, "bye"))
			w.Expect(closeEvent(4001, "bye")).Answer("")
			c.Expect(wsClose(4001, "bye"))
			c.Ended()
		}),
		over("D21", "the origin closes, the client answers", "2.10", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Answer(closeEvent(4005, "srv"))
			c.Expect(wsClose(4005, "srv"))
			c.Send(wsClose(4006, "cli"))
			w.Expect(closeEvent(4006, "cli")).Answer("")
			c.Ended()
		}),
		over("D22", "the origin closes, the client is lost", "2.10", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("go"))
			w.Next().Answer(closeEvent(4005, "srv"))
			c.Expect(wsClose(4005, "srv"))
			_ = c.conn.Close()
			w.Expect("DISCONNECT\r\n").Answer("")
		}),
		{
			ID: "ws-D23", Title: "the next target if one cannot be reached", Source: wsSource + "2.5", Routes: []string{"{host} {dead},over_http {origin},over_http"},
			Run: func(t *T) {
				c, w := t.woh()
				for range 3 {
					c.Send(wsText("x"))
					w.Expect("TEXT 1\r\nx\r\n").Answer(event("TEXT", "m:y"))
					c.Expect(wsText("y"))
				}
			},
		},
		over("D24-cut", "the origin cuts the connection instead of an answer", "2.12", "chance: it may not notice the second time", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("x"))
			w.Expect("TEXT 1\r\nx\r\n").Cut()
			// A connection may be closed in the moment in which it is used
			// again, or its origin restarts, so some tries on new ones are right.
			over := make(chan struct{})
			repeated := make(chan []string)
			go func() {
				var bodies []string
				for {
					select {
					case r := <-w.reqs:
						bodies = append(bodies, r.Body)
						r.Cut()
					case <-over:
						repeated <- bodies
						return
					}
				}
			}()
			c.Dropped()
			close(over)
			for _, body := range <-repeated {
				w.t.Equal("events", body, "TEXT 1\r\nx\r\n")
			}
			w.Quiet(200 * time.Millisecond)
		}),
		over("D24-part", "the origin cuts the connection within an answer", "2.12", "chance: it may wait for the rest", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("x"))
			r := w.Expect("TEXT 1\r\nx\r\n")
			r.Send(head("200 OK", eventsType+"\nContent-Length: 100") + "\r\nTEXT 3\r\nm:a\r\n")
			r.Cut()
			c.Dropped()
			w.Quiet(200 * time.Millisecond)
		}),
		over("D27", "a message that is too large", "2.13", "", func(_ *T, c *wsConn, _ *wohOrigin) {
			go c.Send(wsText(pattern(300000)))
			c.Dropped()
		}),
		over("D28", "an answer that is too large", "2.4", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsText("x"))
			w.Next().Answer(event("TEXT", "m:"+pattern(1000001)))
			c.Dropped()
		}),
		over("D29", "refresh by the command socket", "2.14", "", func(t *T, c *wsConn, w *wohOrigin) {
			id := cid(t)
			t.Equal("answer", fmt.Sprint(t.Command("refresh", tmap{{"cid", id}})["success"]), "true")
			r := w.Expect("")
			t.Equal("Connection-Id", r.Get("Connection-Id"), id)
			t.Command("refresh", tmap{{"cid", id}})
			t.Command("refresh", tmap{{"cid", id}})
			t.pause() // the answers to the commands do not say that they were carried out
			r.Answer(event("TEXT", "m:a"))
			c.Expect(wsText("a"))
			w.Expect("").Answer(event("TEXT", "m:b")) // both in one
			c.Expect(wsText("b"))
			w.Quiet(300 * time.Millisecond)
			c.Send(wsText("x"))
			w.Expect("TEXT 1\r\nx\r\n")
		}),
		over("D29-unknown", "refresh of what is not there", "2.14", "", func(t *T, _ *wsConn, _ *wohOrigin) {
			r := t.Command("refresh", tmap{{"cid", "nobody"}})
			t.Equal("answer", fmt.Sprint(r["success"], r["condition"]), "falseitem-not-found")
			r = t.Command("refresh", tmap{})
			t.Equal("answer", fmt.Sprint(r["success"], r["condition"]), "falsebad-request")
		}),
		over("D29-channel", "refresh of a channel by the command socket", "2.14", "", func(t *T, c *wsConn, w *wohOrigin) {
			ch := t.Ch("c")
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`}`))
			t.Subscribed(ch)
			t.Equal("answer", fmt.Sprint(t.Command("refresh", tmap{{"channel", ch}})["success"]), "true")
			w.Expect("").Answer(event("TEXT", "m:a"))
			c.Expect(wsText("a"))
		}),
		over("D29-publish", "refresh by a publication", "2.14", "newest: since 1.38", func(t *T, c *wsConn, w *wohOrigin) {
			ch := t.Ch("c")
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`}`))
			t.Subscribed(ch)
			t.Publish(wsMessage(ch, `"action":"refresh"`))
			w.Expect("").Answer(event("TEXT", "m:a"))
			c.Expect(wsText("a"))
		}),
		over("D-ping", "a ping gets the pong of the origin alone", "1.10", "", func(_ *T, c *wsConn, w *wohOrigin) {
			c.Send(wsPing("p"))
			w.Expect("PING 1\r\np\r\n").Answer("PONG 1\r\nq\r\n")
			c.Expect(wsPong("q"))
			c.Send(wsPing(""))
			w.Expect("PING\r\n").Answer(event("TEXT", "m:no pong"))
			c.Expect(wsText("no pong"))
		}),
		over("D-close-publish", "a publication closes the connection", "2.10", "", func(t *T, c *wsConn, w *wohOrigin) {
			ch := t.Ch("c")
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`}`))
			t.Subscribed(ch)
			t.Publish(wsMessage(ch, `"action":"close","code":4100,"reason":"why"`))
			c.Expect(wsClose(4100, "why"))
			w.Expect("CLOSE\r\n").Answer("CLOSE\r\n")
			c.Send(wsClose(4100, "why"))
			c.Ended()
		}),
		over("D-detach", "detach", "1.13", "", func(t *T, c *wsConn, w *wohOrigin) {
			ch := t.Ch("c")
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`}`) + event("TEXT", `c:{"type":"detach"}`))
			t.Subscribed(ch)
			w.Expect("CLOSE\r\n").Answer("")
			c.Send(wsText("nobody"))
			t.Publish(wsItem(ch, "p"))
			c.Expect(wsText("p"))
			c.Send(wsClose(4001, ""))
			c.ClosedWith(1000, "")
			w.Quiet(200 * time.Millisecond)
		}),
		over("D-slow", "an answer that takes its time, and publications meanwhile", "2.12", "", func(t *T, c *wsConn, w *wohOrigin) {
			ch := t.Ch("c")
			c.Send(wsText("go"))
			w.Next().Answer(event("TEXT", `c:{"type":"subscribe","channel":`+quote(ch)+`}`))
			t.Subscribed(ch)
			c.Send(wsText("x"))
			r := w.Expect("TEXT 1\r\nx\r\n")
			t.Publish(wsItem(ch, "p"))
			c.Expect(wsText("p"))
			r.Answer(event("TEXT", "m:y"))
			c.Expect(wsText("y"))
		}),
		over("D-volume", "200 messages one after the other", "2.1", "", func(_ *T, c *wsConn, w *wohOrigin) {
			go func() {
				for i := range 200 {
					c.Send(wsText(fmt.Sprint(i)))
				}
			}()
			var want strings.Builder
			for i := range 200 {
				want.WriteString(event("TEXT", fmt.Sprint(i)))
			}
			for rest := want.String(); rest != ""; {
				r := w.Next()
				left, ok := strings.CutPrefix(rest, r.Body)
				if !ok || r.Body == "" {
					w.t.Fatalf("events: got %q, want %q", clip(r.Body, rest), clip(rest, r.Body))
				}
				r.Answer("")
				rest = left
			}
		}),
		{
			ID: "ws-D30", Title: "events from outside are not let in", Source: wsSource + "2.16", Routes: overHTTP,
			Run: func(t *T) {
				for _, kind := range []string{eventsType, eventsType + "; x=y"} {
					r := t.Post("POST /", openEvent, kind)
					t.Equal("status line", r.Line, "HTTP/1.1 403 Forbidden")
					t.Equal("body", r.Body, "Client not allowed to send WebSocket events directly.\n")
				}
				if n := len(t.origins[0].reqs); n != 0 {
					t.Fatalf("%d requests reached the origin", n)
				}
			},
		},
		{
			ID: "ws-D30-plain", Title: "events from outside reach a target that does not speak them", Source: wsSource + "2.16",
			Run: func(t *T) {
				t.Equal("body", t.Post("POST /", openEvent, eventsType).Body, "origin\n")
			},
		},
		{
			ID: "ws-D30-trusted", Title: "events from a trusted GRIP proxy are let in", Source: wsSource + "7", Profile: "edge", Routes: overHTTP,
			Run: func(t *T) {
				t.Always(reply("200 OK", eventsType+"\nSet-Meta-A: 1\nKeep-Alive-Interval: 30\nSec-WebSocket-Extensions: grip", openEvent))
				r := t.Post("POST /", openEvent, eventsType, "Grip-Sig: "+upToken, "Connection-Id: abc", "Meta-A: 2")
				t.Is(r, "HTTP/1.1 200 OK", eventsType+"\nSet-Meta-A: 1\nKeep-Alive-Interval: 30\nSec-WebSocket-Extensions: grip", openEvent)
				q := t.Request()
				t.Equal("header", q.Lines("Grip-Sig", "Connection-Id", "Meta-A"), "Grip-Sig: "+upToken+"\nConnection-Id: abc\nMeta-A: 2")
			},
		},
		{
			ID: "ws-D-type", Title: "a client's Content-Type stays here", Source: wsSource + "8, Q10", Routes: overHTTP, Pushpin: "wrong: there are two",
			Run: func(t *T) {
				w := t.OverHTTP()
				t.wsStart("/", "Content-Type: text/evil", "Content-Bytes-Replayed: 5")
				r := w.Expect(openEvent)
				t.Equal("header", r.Lines("Content-Type", "Content-Bytes-Replayed"), eventsType)
			},
		},
		{
			ID: "ws-D-implicit", Title: "channels of the target", Source: wsSource + "3", Routes: []string{"{host} {origin},over_http,sub=implicit-{id}"},
			Run: func(t *T) {
				c, _ := t.woh()
				ch := "implicit-" + strings.ToLower(t.ID)
				t.Subscribed(ch)
				t.Publish(wsItem(ch, "p"))
				c.Expect(wsText("p"))
			},
		},
		{
			ID: "ws-D24", Title: "an origin that is away for a moment", Source: wsSource + "2.12", Routes: []string{"{host} {dead},over_http"},
			Run: func(t *T) {
				c, w, o := t.mortal()
				o.close()
				c.Send(wsText("x"))
				t.waitUntil(time.Now().Add(500 * time.Millisecond))
				w.revive()
				w.Expect("TEXT 1\r\nx\r\n").Answer(event("TEXT", "m:y"))
				c.Expect(wsText("y"))
			},
		},
	}
	return cs
}

// mortal connects a client over HTTP to an origin at the dead address, which
// can be taken away and brought back.
func (t *T) mortal() (*wsConn, *wohOrigin, *Origin) {
	w := &wohOrigin{t: t, reqs: make(chan *wohRequest, 100)}
	o := w.revive()
	p := t.wsStart("/")
	w.Expect(openEvent).Answer(openEvent, "Sec-WebSocket-Extensions: grip")
	return p.Upgraded(), w, o
}

// revive listens at the dead address until the case is over.
func (w *wohOrigin) revive() *Origin {
	ln, err := net.Listen("tcp", w.t.dead)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	o := serveOrigin(ln)
	o.handle(w.handle)
	go func() {
		<-w.t.ctx.Done()
		o.close()
	}()
	return o
}

// wsSlowCases wait for the times that the protocol names.
func wsSlowCases() []*Case {
	slow := func(id, title, section, mark string, limit time.Duration, run func(t *T)) *Case {
		return &Case{
			ID: "ws-" + id, Title: title, Source: wsSource + section, Pushpin: mark, Routes: overHTTP, Limit: limit,
			Run: func(t *T) {
				t.Within(limit)
				run(t)
			},
		}
	}
	// after checks that 20 s have gone by, give or take.
	after := func(t *T, from time.Time) {
		if d := since(from); d < 19500*time.Millisecond || d > 24*time.Second {
			t.Fatalf("came after %v, want 20 s", d)
		}
	}
	cs := []*Case{
		slow("D11", "OPEN is repeated while the origin has not decided", "2.5", "", 30*time.Second, func(t *T) {
			w := t.OverHTTP()
			p := t.wsStart("/")
			w.Expect(openEvent).Answer("", "Keep-Alive-Interval: 20", "X-A: first")
			began := time.Now()
			r := w.Expect(openEvent)
			after(t, began)
			r.Answer(openEvent, "X-A: second")
			t.Equal("header", p.Upgraded().own(), "X-A: second")
		}),
		slow("D20", "CLOSE is repeated while the origin has not decided", "2.10", "", 30*time.Second, func(t *T) {
			c, w := t.woh("Keep-Alive-Interval: 20")
			c.Send(wsClose(4001, "bye"))
			w.Expect(closeEvent(4001, "bye")).Answer("")
			began := time.Now()
			r := w.Expect(closeEvent(4001, "bye"))
			after(t, began)
			r.Answer(closeEvent(4009, ""))
			c.ClosedWith(4009, "")
		}),
		slow("D25", "an interval below 20 s", "2.9", "", 30*time.Second, func(t *T) {
			c, w := t.woh("Keep-Alive-Interval: 5")
			began := time.Now()
			r := w.Expect("")
			after(t, began)
			r.Answer(event("TEXT", "m:k"), "Keep-Alive-Interval: 0")
			c.Expect(wsText("k"))
		}),
		slow("C12", "what is kept goes with a keep-alive", "2.7", "newest: since 1.41", 30*time.Second, func(t *T) {
			c, w := t.woh("Keep-Alive-Interval: 20")
			c.Send(wsText("{a}{bcd"))
			w.Expect("TEXT 7\r\n{a}{bcd\r\n").Answer("", "Content-Bytes-Accepted: 3")
			r := w.Expect("TEXT 4\r\n{bcd\r\n")
			t.Equal("Content-Bytes-Replayed", r.Get("Content-Bytes-Replayed"), "4")
			r.Answer("")
		}),
		slow("D26", "intervals that are none", "2.9", "", 40*time.Second, func(t *T) {
			c, w := t.woh("Keep-Alive-Interval: 20")
			for _, header := range []string{"Keep-Alive-Interval: 120", "Keep-Alive-Interval: abc"} {
				c.Send(wsText("x"))
				w.Expect("TEXT 1\r\nx\r\n").Answer("", header)
			}
			w.Quiet(22 * time.Second)
		}),
		slow("D24-gone", "an origin that stays away", "2.12", "", 60*time.Second, func(t *T) {
			c, _, o := t.mortal()
			o.close()
			began := time.Now()
			c.Send(wsText("x"))
			c.Dropped()
			if d := since(began); d < 30*time.Second || d > 40*time.Second {
				t.Fatalf("given up after %v, want 31 to 36 s", d)
			}
		}),
	}
	cs[len(cs)-1].Routes = []string{"{host} {dead},over_http"}
	return cs
}
