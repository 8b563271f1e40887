package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// dropped is the mark of cases that hold a long-poll past its first second.
const dropped = "sometimes: a long-poll is dropped at its re-check"

// stream opens a stream hold on new channels, each named after its key, and
// returns when publishes reach it.
func (t *T) stream(path string, channels ...string) (*Client, *Response) {
	c, r := t.Open(path)
	c.Next(r, "hi\n")
	t.Subscribed(channels...)
	return c, r
}

// poll sends a long-poll and returns when publishes reach it.
func (t *T) poll(path string, channels ...string) *Client {
	c := t.Dial()
	c.Send(t.request("GET " + path))
	t.Subscribed(channels...)
	return c
}

// holdCases are about holds and what ends them.
func holdCases() []*Case {
	return []*Case{
		{
			ID: "H1", Title: "a long-poll is answered by a publish, headers merged", Source: "GRIP section 6.2",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n", "X-A: 1", "X-B: o"))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"code":201,"headers":{"X-B":"2","Content-Type":"text/html","Grip-Foo":"x","Content-Length":"99"},"body":"hey\n"}`))
				r := c.Read("GET")
				t.Equal("status line", r.Line, "HTTP/1.1 201 Created")
				t.Equal("header", strings.Join(sorted(strings.Split(r.Own(), "\n")), "\n"), "Content-Type: text/html\nX-A: 1\nX-B: 2")
				t.Equal("Content-Length", r.Get("Content-Length"), "4")
				t.Equal("body", r.Body, "hey\n")
				c.Send("GET / HTTP/1.1\r\nHost: ready.stack.test\r\n\r\n")
				t.Contains("body of the next answer", c.Read("GET").Body, "Hello")
			},
		},
		{
			ID: "H1-list", Title: "published headers as a list keep order and repeat", Source: "GRIP section 7.2",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n", "X-B: old", "x-b: older", "X-A: 1"))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"reason":"Fine","headers":[["X-B","2"],["X-Z","z"],["X-B","1"]],"body":""}`))
				t.Is(c.Read("GET"), "HTTP/1.1 200 Fine", plainText+"\nX-A: 1\nX-B: 2\nX-Z: z\nX-B: 1", "")
			},
		},
		{
			ID: "H2", Title: "a long-poll does not take stream items, and the other way round", Source: "GRIP section 6.2",
			Run: func(t *T) {
				ch, ch2 := t.Ch("c"), t.Ch("d")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/poll" {
						x.Send(hold("response", ch+", "+ch2, "to\n"))
					} else {
						x.Send(hold("stream", ch, "hi\n"))
					}
				})
				s, r := t.stream("/", ch)
				c := t.poll("/poll", ch2)
				t.Publish(streamItem(ch, "stream\n"), item(ch, `"ws-message":{"content":"ws"}`), responseItem(ch, "response\n"), streamItem(ch, "more\n"))
				t.Equal("long-poll", c.Read("GET").Body, "response\n")
				s.Next(r, "stream\nmore\n")
			},
		},
		{
			ID: "H3", Title: "a stream is published to, closed, and the connection goes on", Source: "GRIP section 6.3",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n", "X-A: 1"))
				c, r := t.stream("/", ch)
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("header", r.Own(), plainText+"\nX-A: 1")
				t.Equal("Transfer-Encoding", r.Get("Transfer-Encoding"), "chunked")
				t.Publish(streamItem(ch, "x"))
				c.Next(r, "x")
				t.Publish(closeItem(ch))
				c.End(r)
				c.Send("GET / HTTP/1.1\r\nHost: ready.stack.test\r\n\r\n")
				t.Contains("body of the next answer", c.Read("GET").Body, "Hello")
			},
		},
		{
			ID: "H3-order", Title: "200 publishes arrive whole and in order", Source: "GRIP section 7.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				// A hold queues at most 100; give it ten at a time.
				for i := range 20 {
					var items []string
					var want strings.Builder
					for j := range 10 {
						line := fmt.Sprintf("message %d\n", i*10+j)
						items = append(items, streamItem(ch, line))
						want.WriteString(line)
					}
					t.Publish(items...)
					c.Next(r, want.String())
				}
			},
		},
		{
			ID: "H3-empty", Title: "publishing nothing sends no chunk", Source: "GRIP section 6.14",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, ""), streamItem(ch, "x\n"))
				c.Next(r, "x\n")
				t.Publish(streamItem(ch, ""), closeItem(ch))
				c.End(r)
			},
		},
		{
			ID: "H3-binary", Title: "content-bin is sent as the bytes that it stands for", Source: "GRIP section 7.3",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(item(ch, `"http-stream":{"content-bin":"AAH/gA0K","content":"no"}`))
				c.Next(r, "\x00\x01\xff\x80\r\n")
			},
		},
		{
			ID: "H3-large", Title: "a publish of 300,000 bytes arrives whole", Source: "GRIP section 7",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				data := pattern(300000)
				t.Publish(streamItem(ch, data))
				c.Next(r, data)
			},
		},
		{
			ID: "H3-many", Title: "30 streams on one channel all receive", Source: "GRIP section 7.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					x.Send(hold("stream", ch+", "+ch+strings.TrimPrefix(x.Target(), "/"), "hi\n"))
				})
				var cs []*Client
				var rs []*Response
				for i := range 30 {
					c, r := t.stream(fmt.Sprintf("/%d", i), fmt.Sprintf("%s%d", ch, i))
					cs, rs = append(cs, c), append(rs, r)
				}
				t.Publish(streamItem(ch, "all\n"), closeItem(ch))
				for i := range cs {
					cs[i].Next(rs[i], "all\n")
					cs[i].End(rs[i])
				}
			},
		},
		{
			ID: "H4", Title: "a stream for HTTP/1.0 has no chunks and ends by closing", Source: "GRIP section 6.3",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c := t.Dial()
				c.Send("GET / HTTP/1.0\r\nHost: " + t.host() + "\r\n\r\n")
				r := c.Head("GET")
				t.Equal("status line", r.Line, "HTTP/1.0 200 OK")
				t.Equal("Transfer-Encoding", r.Get("Transfer-Encoding"), "")
				t.Equal("Content-Length", r.Get("Content-Length"), "")
				c.Next(r, "hi\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"), closeItem(ch))
				c.Next(r, "x\n")
				c.Closed()
			},
		},
		{
			ID: "H4-poll", Title: "a long-poll for HTTP/1.0", Source: "GRIP section 6.2",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n"))
				c := t.Dial()
				c.Send("GET / HTTP/1.0\r\nHost: " + t.host() + "\r\n\r\n")
				t.Subscribed(ch)
				t.Publish(responseItem(ch, "x\n"))
				t.Is(c.Read("GET"), "HTTP/1.0 200 OK", plainText, "x\n")
				c.Closed()
			},
		},
		{
			ID: "H5", Title: "prev-id without a next link ends a stream", Source: "GRIP section 6.3", Routes: []string{"{host},debug {origin}", "{host},path_beg=/quiet {origin}"},
			Run: func(t *T) {
				ch := t.Ch("a")
				t.Always(hold("stream", ch+"; prev-id=1", "hi\n"))
				t.Equal("body", t.Get("/").Body, "hi\n\n\nchannel '"+ch+"' specifies prev-id, but no next link found\n")
				t.Equal("body without debug", t.Get("/quiet").Body, "hi\n")
			},
		},
		{
			ID: "H14", Title: "a hint makes a long-poll ask again, with its cookie, body and method", Source: "GRIP section 6.8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Answers(hold("response", ch, "to\n"), reply("200 OK", plainText+"\nX-Second: 1", "fresh\n"))
				c := t.Dial()
				c.Send(t.request("PUT /p?q=1", "Cookie: a=b", "Content-Length: 4") + "data")
				t.Subscribed(ch)
				t.Request()
				t.Publish(item(ch, `"http-response":{"action":"hint"}`))
				t.Is(c.Read("PUT"), "HTTP/1.1 200 OK", plainText+"\nX-Second: 1", "fresh\n")
				q := t.Request()
				t.Equal("request line", q.Line, "PUT /p?q=1 HTTP/1.1")
				t.Equal("header", q.Lines("cookie", "grip-last"), "Cookie: a=b")
				t.Equal("body", q.Body, "data")
			},
		},
		{
			ID: "H15", Title: "a hint to a stream without a next link does nothing", Source: "GRIP section 6.7",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(item(ch, `"http-stream":{"action":"hint"}`))
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H-close-poll", Title: "a close does not end a long-poll", Source: "GRIP section 7.1",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n"))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"action":"close"},"http-stream":{"action":"close"}`), responseItem(ch, "x\n"))
				t.Equal("body", c.Read("GET").Body, "x\n")
			},
		},
		{
			ID: "H16", Title: "the first long-poll of a channel is asked for again after a second", Source: "GRIP section 6.10", Pushpin: dropped,
			Run: func(t *T) {
				ch, m := t.Ch("c"), t.Ch("m")
				t.Answers(hold("response", ch, "to\n"), hold("response", ch+", "+m, "to\n"), reply("200 OK", plainText, "third\n"))
				c := t.poll("/x", ch)
				t.Request()
				began := time.Now()
				t.Equal("request line", t.Request().Line, "GET /x HTTP/1.1")
				if d := since(began); d < 700*time.Millisecond || d > 4*time.Second {
					t.Fatalf("asked again after %v", d)
				}
				t.Subscribed(m)
				t.Publish(responseItem(ch, "held\n"))
				t.Equal("body", c.Read("GET").Body, "held\n")
			},
		},
		{
			ID: "H16-answer", Title: "the second answer may differ: the hold ends", Source: "GRIP section 6.8", Pushpin: dropped,
			Run: func(t *T) {
				t.Answers(hold("response", t.Ch("c"), "to\n"), reply("202 Accepted", plainText, "now\n"))
				t.Is(t.Get("/"), "HTTP/1.1 202 Accepted", plainText, "now\n")
			},
		},
		{
			ID: "H16-stream", Title: "a long-poll that is asked for again may become a stream", Source: "GRIP section 6.8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Answers(hold("response", ch, "to\n"), hold("stream", t.Ch("s"), "hi\n"))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"action":"hint"}`))
				r := c.Head("GET")
				c.Next(r, "hi\n")
				t.Subscribed(t.Ch("s"))
				t.Publish(streamItem(t.Ch("s"), "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H17", Title: "only the first 20 channels of a hold count", Source: "GRIP section 6.10",
			Run: func(t *T) {
				var names []string
				for i := range 25 {
					names = append(names, t.Ch(fmt.Sprintf("c%02d", i)))
				}
				t.Always(hold("stream", strings.Join(names, ", "), "hi\n"))
				c, r := t.stream("/", names[:20]...)
				var items []string
				var want string
				for i := 24; i >= 0; i-- {
					items = append(items, streamItem(names[i], fmt.Sprintf("%d\n", i)))
					if i < 20 {
						want += fmt.Sprintf("%d\n", i)
					}
				}
				t.Publish(items...)
				c.Next(r, want)
			},
		},
		{
			ID: "H17-three", Title: "connection_subscription_max", Source: "operations, handler", Profile: "strict",
			Run: func(t *T) {
				a, b, d, e := t.Ch("a"), t.Ch("b"), t.Ch("d"), t.Ch("e")
				t.Always(hold("stream", a+", "+b+", "+d+", "+e, "hi\n"))
				c, r := t.stream("/", a, b, d)
				t.Publish(streamItem(e, "e"), streamItem(d, "d"))
				c.Next(r, "d")
			},
		},
		{
			ID: "H18", Title: "sub= of a target subscribes every hold", Source: "GRIP section 6.10", Routes: []string{"{host},prefix=pre- {origin},sub=impl-{id},sub=second-{id}"},
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Hold: stream", "hi\n"))
				c, r := t.stream("/", "impl-h18", "second-h18")
				t.Publish(streamItem("impl-h18", "x\n"), streamItem("second-h18", "y\n"))
				c.Next(r, "x\ny\n")
			},
		},
		{
			ID: "H20", Title: "an initial body of 110,001 bytes of a stream", Source: "GRIP section 2.3",
			Run: func(t *T) {
				ch, data := t.Ch("c"), pattern(110001)
				t.Always(hold("stream", ch, data, "Grip-Status: 404 X", "X-A: 1"))
				c, r := t.Open("/")
				t.Equal("status line", r.Line, "HTTP/1.1 404 X")
				t.Equal("header", r.Own(), plainText+"\nX-A: 1")
				c.Next(r, data)
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H20-early", Title: "a large initial body streams before its end", Source: "GRIP section 2.3",
			Run: func(t *T) {
				ch, data, more := t.Ch("c"), pattern(150000), make(chan struct{})
				t.Origin(func(x *Exchange) {
					x.Send(head("200 OK", plainText+"\nGrip-Hold: stream\nGrip-Channel: "+ch+"\nTransfer-Encoding: chunked") + "\r\n" + chunks(data))
					<-more
					x.Send(chunks("end\n") + "0\r\n\r\n")
				})
				c, r := t.Open("/")
				c.Next(r, data)
				close(more)
				c.Next(r, "end\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H21", Title: "110,001 bytes with a long-poll or no hold: 502", Source: "GRIP section 2.2", Routes: []string{"{host},debug {origin}", "{host},path_beg=/quiet {origin}"},
			Run: func(t *T) {
				data := pattern(110001)
				for _, h := range []string{"Grip-Hold: response\nGrip-Channel: c", "Grip-Foo: 1", instruct} {
					t.Always(reply("200 OK", h, data))
					t.Error(t.Get("/"), badGateway, "GRIP instruct response too large from "+t.origins[0].addr()+"\n")
					t.Error(t.Get("/quiet"), badGateway, generic502)
				}
			},
		},
		{
			ID: "H21-fits", Title: "100,000 bytes with a GRIP header are relayed", Source: "GRIP section 2.2",
			Run: func(t *T) {
				data := pattern(100000)
				t.Always(reply("200 OK", "Grip-Foo: 1", data))
				t.Equal("body", sum(t.Get("/").Body), sum(data))
			},
		},
		{
			ID: "H22", Title: "a bad instruction after a large body was begun", Source: "GRIP section 2.3", Routes: []string{"{host},debug {origin}", "{host},path_beg=/quiet {origin}"},
			Run: func(t *T) {
				data := pattern(110001)
				t.Always(hold("stream", "c", data, "Grip-Keep-Alive: a; mode=foo"))
				t.Equal("body", t.Get("/").Body, data+"\n\n"+instructFailed+"no such Grip-Keep-Alive mode 'foo'\n")
				t.Equal("body without debug", sum(t.Get("/quiet").Body), sum(data))
			},
		},
		{
			ID: "H-head-only", Title: "a stream without an initial body sends its head at once", Source: "GRIP section 6.3",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, ""))
				c, r := t.Open("/")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H-204", Title: "a published 204 has no body", Source: "GRIP section 6.14",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n"))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"code":204,"body":"not sent"}`))
				r := c.Read("GET")
				t.Equal("status line", r.Line, "HTTP/1.1 204 No Content")
				c.Send("GET / HTTP/1.1\r\nHost: ready.stack.test\r\n\r\n")
				t.Equal("status line of the next answer", c.Read("GET").Line, "HTTP/1.1 200 OK")
			},
		},
		{
			ID: "H-unsubscribe", Title: "the subscription of a stream ends with it", Source: "operations, SUB",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, _ := t.stream("/", ch)
				c.Close()
				if !t.mon.waitGone(ch, t.deadline()) {
					t.Fatalf("the subscription to %q stays", ch)
				}
			},
		},
		{
			ID: "H-post", Title: "a POST can become a stream", Source: "GRIP section 6.3",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c := t.Dial()
				c.Send(t.request("POST /", "Content-Length: 3") + "abc")
				r := c.Head("POST")
				c.Next(r, "hi\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H-no-channel", Title: "a hold without channels is legal", Source: "GRIP section 4.2",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Hold: stream\nGrip-Keep-Alive: k; timeout=1", "hi\n"))
				c, r := t.Open("/")
				c.Next(r, "hi\nk")
			},
		},
		{
			ID: "H-pipelined", Title: "a request sent behind a held one waits for it", Source: "RFC 9112 section 9.3.2",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/after" {
						x.Send(reply("200 OK", plainText, "after\n"))
						return
					}
					x.Send(hold("response", ch, "to\n"))
				})
				c := t.Dial()
				c.Send(t.request("GET /") + t.request("GET /after"))
				t.Subscribed(ch)
				t.Publish(responseItem(ch, "held\n"))
				t.Equal("first body", c.Read("GET").Body, "held\n")
				t.Equal("second body", c.Read("GET").Body, "after\n")
			},
		},
	}
}

// keepAliveCases are about Grip-Keep-Alive.
func keepAliveCases() []*Case {
	cs := []*Case{
		{
			ID: "H19-idle", Title: "an idle keep-alive waits for silence", Source: "GRIP section 6.4",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n", "Grip-Keep-Alive: k; timeout=3"))
				c, r := t.stream("/", ch)
				began := time.Now()
				// The publishes come at 1.5 s and 3 s, kept apart by the
				// keep-alives of a second stream, about one a second.
				for _, at := range []time.Duration{1500 * time.Millisecond, 3 * time.Second} {
					t.waitUntil(began.Add(at))
					t.Publish(streamItem(ch, "x"))
				}
				c.Next(r, "xxk")
				if d := since(began); d < 4900*time.Millisecond || d > 8*time.Second {
					t.Fatalf("the keep-alive came after %v, want 5 s to 6 s", d)
				}
			},
		},
		{
			ID: "H19-interval", Title: "a keep-alive by interval does not care about publishes", Source: "GRIP section 6.4",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n", "Grip-Keep-Alive: k; timeout=3; mode=interval"))
				c, r := t.stream("/", ch)
				began := time.Now()
				t.waitUntil(began.Add(1500 * time.Millisecond))
				t.Publish(streamItem(ch, "x"))
				c.Next(r, "xk")
				if d := since(began); d < 1500*time.Millisecond || d > 4*time.Second {
					t.Fatalf("the keep-alive came after %v, want 2 s to 3 s", d)
				}
				c.Next(r, "k")
				if d := since(began); d < 3800*time.Millisecond || d > 7500*time.Millisecond {
					t.Fatalf("the second keep-alive came after %v, want 4 s to 6 s", d)
				}
			},
		},
		{
			ID: "H19-close", Title: "a close ends a stream with a keep-alive", Source: "GRIP section 6.4",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n", "Grip-Keep-Alive: k; timeout=1"))
				c, r := t.stream("/", ch)
				c.Next(r, "k")
				t.Publish(closeItem(ch))
				if rest := c.Rest(r); strings.Trim(rest, "k") != "" {
					t.Fatalf("after the close: %q", rest)
				}
			},
		},
	}
	for _, v := range []struct{ id, value, want string }{
		{"I12", `ping\n; timeout=1`, `ping\n`},
		{"I13", `ping\n; format=cstring; timeout=1`, "ping\n"},
		{"I14", `cGluZwo=; format=base64; mode=interval; timeout=0`, "ping\n"},
		{"I15", `a,b; timeout=1`, "a,b"},
		{"I-defaults", `a; format=; mode=; timeout=1`, "a"},
		{"I-unknown", `a; what=ever; timeout=1`, "a"},
		{"I-quoted", `a; timeout="1"; mode="interval"`, "a"},
		{"G20", `\x41\x0a\\\r; format=cstring; timeout=1`, "A\n\\\r"},
		{"G21", `a\tb; format=cstring; timeout=1`, "ab"},
		{"G24", `!!aG V5YQ; format=base64; timeout=1`, "heya"},
	} {
		cs = append(cs, &Case{
			ID: v.id, Title: "Grip-Keep-Alive: " + v.value, Source: "GRIP section 4.4",
			Run: func(t *T) {
				t.Always(hold("stream", t.Ch("c"), "hi\n", "Grip-Keep-Alive: "+v.value))
				c, r := t.Open("/")
				c.Next(r, "hi\n"+v.want+v.want)
			},
		})
	}
	return cs
}

// nextCases are about next links, reliability and recovery.
func nextCases() []*Case {
	next := func(ch, body, link string, header ...string) string {
		return hold("stream", ch, body, append(header, "Grip-Link: <"+link+">; rel=next")...)
	}
	return []*Case{
		{
			ID: "H6", Title: "without a hold a next link is followed at once", Source: "GRIP section 6.5",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					if x.Target() == "/2" {
						x.Send(reply("201 Other", "Content-Type: text/html\nX-B: 2", "second\n"))
						return
					}
					x.Send(reply("200 OK", plainText+"\nX-A: 1\nGrip-Link: </2>; rel=next", "first\n"))
				})
				r := t.Get("/", "Cookie: c=1")
				t.Is(r, "HTTP/1.1 200 OK", plainText+"\nX-A: 1", "first\nsecond\n")
				t.Request()
				q := t.Request()
				t.Equal("request line", q.Line, "GET /2 HTTP/1.1")
				t.Equal("Host", q.Get("Host"), t.host())
				t.Equal("header", q.Lines("cookie", "grip-last"), "")
				checkToken(t, q.Get("Grip-Sig"), "pushpin", "changeme")
			},
		},
		{
			ID: "H6-chain", Title: "three next links in a row, then a hold", Source: "GRIP section 6.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					switch x.Target() {
					case "/dir/3":
						x.Send(hold("stream", ch, "3\n"))
					case "/dir/2":
						x.Send(reply("200 OK", "Grip-Link: <3>; rel=next", "2\n"))
					default:
						x.Send(reply("200 OK", plainText+"\nGrip-Link: <dir/2>; rel=next", "1\n"))
					}
				})
				c, r := t.Open("/")
				c.Next(r, "1\n2\n3\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "H6-large", Title: "next link bodies of 300,000 bytes", Source: "GRIP section 6.5",
			Run: func(t *T) {
				data := pattern(300000)
				t.Origin(func(x *Exchange) {
					if x.Target() == "/2" {
						x.Send(reply("200 OK", "", data))
						return
					}
					x.Send(reply("200 OK", plainText+"\nGrip-Link: </2>; rel=next", "first\n"))
				})
				t.Equal("body", sum(t.Get("/").Body), sum("first\n"+data))
			},
		},
		{
			ID: "H7", Title: "a failing next link is tried again with a growing delay", Source: "GRIP section 6.5",
			Run: func(t *T) {
				n := 0
				t.Origin(func(x *Exchange) {
					switch {
					case x.Target() != "/2":
						x.Send(reply("200 OK", plainText+"\nGrip-Link: </2>; rel=next", "first\n"))
					case n < 2:
						n++
						x.Send(reply("404 Not Found", plainText, "not here\n"))
					default:
						x.Send(reply("200 OK", plainText, "ok\n"))
					}
				})
				c, r := t.Open("/")
				c.Next(r, "first\n")
				began := time.Now()
				c.Next(r, "ok\n")
				c.End(r)
				if d := since(began); d < 2800*time.Millisecond || d > 7*time.Second {
					t.Fatalf("took %v, want 3 s to 5 s", d)
				}
			},
		},
		{
			ID: "H8", Title: "a next link that answers with a long-poll hold", Source: "GRIP section 6.5", Routes: []string{"{host},debug {origin}", "{host},path_beg=/quiet {origin}"},
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					if strings.HasSuffix(x.Target(), "/2") {
						x.Send(reply("200 OK", "Grip-Hold: response\nGrip-Channel: c", ""))
						return
					}
					x.Send(reply("200 OK", plainText+"\nGrip-Link: <2>; rel=next", "first\n"))
				})
				t.Equal("body", t.Get("/").Body, "first\n\n\nNext link returned non-stream hold.\n")
				t.Equal("body without debug", t.Get("/quiet/").Body, "first\n")
			},
		},
		{
			ID: "H9", Title: "a publish that follows the prev-id is delivered and moves it", Source: "GRIP section 6.6",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/next" {
						x.Send(next(ch+"; prev-id=3", "caught up\n", "/next"))
						return
					}
					x.Send(next(ch+"; prev-id=1", "hi\n", "/next"))
				})
				c, r := t.stream("/", ch)
				t.Request()
				t.Publish(streamItem(ch, "two\n", ids("2", "1")))
				c.Next(r, "two\n")
				t.Publish(item(ch, `"http-stream":{"action":"hint"}`))
				c.Next(r, "caught up\n")
				t.Equal("Grip-Last", t.Request().Lines("grip-last"), "Grip-Last: "+ch+"; last-id=2")
			},
			Pushpin: "sometimes: the re-check after a second may come first",
		},
		{
			ID: "H10", Title: "a publish that does not follow makes a stream fetch its next link", Source: "GRIP section 6.6",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/next" {
						x.Send(next(ch+"; prev-id=3", "two and three\n", "/next"))
						return
					}
					x.Send(next(ch+"; prev-id=1", "hi\n", "/next"))
				})
				c, r := t.stream("/", ch)
				t.Request()
				t.Publish(streamItem(ch, "three\n", ids("3", "2")))
				c.Next(r, "two and three\n")
				q := t.Request()
				t.Equal("request line", q.Line, "GET /next HTTP/1.1")
				t.Equal("Grip-Last", q.Lines("grip-last"), "Grip-Last: "+ch+"; last-id=1")
				t.Publish(streamItem(ch, "four\n", ids("4", "3")))
				c.Next(r, "four\n")
			},
		},
		{
			ID: "H11", Title: "a publish that does not follow makes a long-poll ask again", Source: "GRIP section 6.6",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Answers(hold("response", ch+"; prev-id=1", "to\n"), reply("200 OK", plainText, "missed\n"))
				c := t.Dial()
				c.Send(t.request("POST /x", "X-A: 1", "Content-Length: 4") + "data")
				t.Subscribed(ch)
				t.Request()
				t.Publish(responseItem(ch, "three\n", ids("3", "2")))
				t.Equal("body", c.Read("POST").Body, "missed\n")
				q := t.Request()
				t.Equal("request line", q.Line, "POST /x HTTP/1.1")
				t.Equal("header", q.Lines("x-a", "grip-last"), "X-A: 1\nGrip-Last: "+ch+"; last-id=1")
				t.Equal("body", q.Body, "data")
			},
		},
		{
			ID: "H12", Title: "a long-poll that is behind the last publish asks again at once", Source: "GRIP section 6.6",
			Run: func(t *T) {
				ch, m := t.Ch("c"), t.Ch("m")
				t.Origin(func(x *Exchange) {
					switch {
					case x.Target() == "/first":
						x.Send(hold("response", ch, "to\n"))
					case x.Get("Grip-Last") != "":
						x.Send(reply("200 OK", plainText, "five\n"))
					default:
						x.Send(hold("response", ch+"; prev-id=4, "+m, "to\n"))
					}
				})
				c := t.poll("/first", ch)
				t.Publish(responseItem(ch, "x\n", ids("5", "")))
				t.Equal("body", c.Read("GET").Body, "x\n")
				t.Request()
				t.Equal("body of the second", t.Get("/second").Body, "five\n")
				t.Request()
				t.Equal("Grip-Last", t.Request().Lines("grip-last"), "Grip-Last: "+ch+"; last-id=4")
			},
		},
		{
			ID: "H12-all", Title: "all long-polls that are behind the last publish ask again, not just the first", Source: "GRIP section 6.6",
			Pushpin: "wrong: forgets the last id at the first of them, so the others wait for nothing",
			Run: func(t *T) {
				t.Within(4 * time.Second)
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					switch {
					case x.Target() == "/first":
						x.Send(hold("response", ch, "to\n"))
					case x.Get("Grip-Last") != "":
						x.Send(reply("200 OK", plainText, "five\n"))
					default:
						x.Send(hold("response", ch+"; prev-id=4", "to\n"))
					}
				})
				began := time.Now()
				c := t.poll("/first", ch)
				t.Publish(responseItem(ch, "x\n", ids("5", "")))
				t.Equal("body", c.Read("GET").Body, "x\n")
				// Let the re-check of a fresh channel pass, which would help.
				t.waitUntil(began.Add(1800 * time.Millisecond))
				var cs []*Client
				for range 5 {
					c := t.Dial()
					c.Send(t.request("GET /second"))
					cs = append(cs, c)
				}
				for _, c := range cs {
					t.Equal("body", c.Read("GET").Body, "five\n")
				}
			},
		},
		{
			ID: "H12-same", Title: "a long-poll that comes back with the same prev-id is held", Source: "GRIP section 14.5, H12",
			Run: func(t *T) {
				ch, m := t.Ch("c"), t.Ch("m")
				t.Origin(func(x *Exchange) {
					switch {
					case x.Target() == "/first":
						x.Send(hold("response", ch, "to\n"))
					case x.Get("Grip-Last") != "":
						x.Send(hold("response", ch+"; prev-id=4, "+m, "to\n"))
					default:
						x.Send(hold("response", ch+"; prev-id=4", "to\n"))
					}
				})
				c := t.poll("/first", ch)
				t.Publish(responseItem(ch, "x\n", ids("5", "")))
				t.Equal("body", c.Read("GET").Body, "x\n")
				c = t.poll("/second", m)
				t.Publish(responseItem(m, "held\n"))
				t.Equal("body of the second", c.Read("GET").Body, "held\n")
			},
		},
		{
			ID: "H13", Title: "Grip-Last names channels without the prefix of the route", Source: "GRIP section 6.10", Routes: []string{"{host},prefix=pre- {origin}"},
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Answers(hold("response", ch+"; prev-id=9", "to\n"), reply("200 OK", plainText, "again\n"))
				c := t.poll("/", "pre-"+ch)
				t.Request()
				t.Publish(responseItem("pre-"+ch, "x\n", ids("b", "a")))
				t.Equal("body", c.Read("GET").Body, "again\n")
				t.Equal("Grip-Last", t.Request().Lines("grip-last"), "Grip-Last: "+ch+"; last-id=9")
			},
		},
		{
			ID: "H-next-timeout", Title: "a next link is fetched when its timeout passes", Source: "GRIP section 6.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/next" {
						x.Send(reply("200 OK", "", "end\n"))
						return
					}
					x.Send(hold("stream", ch, "hi\n", "Grip-Link: </next>; rel=next; timeout=3"))
				})
				c, r := t.Open("/")
				c.Next(r, "hi\nend\n")
				c.End(r)
			},
		},
		{
			ID: "H-next-recheck", Title: "the first stream of a channel fetches its next link after a second", Source: "GRIP section 6.10",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/next" {
						x.Send(reply("200 OK", "", "end\n"))
						return
					}
					x.Send(next(ch, "hi\n", "/next"))
				})
				c, r := t.Open("/")
				c.Next(r, "hi\n")
				began := time.Now()
				c.Next(r, "end\n")
				c.End(r)
				if d := since(began); d < 700*time.Millisecond || d > 4*time.Second {
					t.Fatalf("fetched after %v", d)
				}
			},
		},
		{
			ID: "H-next-channels", Title: "a next link changes the channels", Source: "GRIP section 6.5",
			Run: func(t *T) {
				a, b := t.Ch("a"), t.Ch("b")
				t.Origin(func(x *Exchange) {
					if x.Target() == "/next" {
						x.Send(hold("stream", b, "moved\n"))
						return
					}
					x.Send(next(a, "hi\n", "/next"))
				})
				c, r := t.stream("/", a)
				t.Publish(item(a, `"http-stream":{"action":"hint"}`))
				c.Next(r, "moved\n")
				t.Subscribed(b)
				if !t.mon.waitGone(a, t.deadline()) {
					t.Fatalf("the subscription to %q stays", a)
				}
				t.Publish(streamItem(a, "a\n"), streamItem(b, "b\n"))
				c.Next(r, "b\n")
			},
		},
		{
			ID: "H23", Title: "a next link to another host goes there directly", Source: "GRIP section 1.6",
			Run: func(t *T) {
				t.Origin2(func(x *Exchange) { x.Send(reply("200 OK", "", "elsewhere\n")) })
				t.Always(reply("200 OK", plainText+"\nGrip-Link: <http://"+t.origins[1].addr()+"/other>; rel=next", "here\n"))
				t.Equal("body", t.Get("/").Body, "here\nelsewhere\n")
				q := t.Request2()
				t.Equal("request line", q.Line, "GET /other HTTP/1.1")
				t.Equal("Host", q.Get("Host"), t.origins[1].addr())
				checkToken(t, q.Get("Grip-Sig"), "pushpin", "changeme")
			},
		},
		{
			ID: "H24", Title: "a next link does not carry the client's cookie, a retry does", Source: "GRIP sections 1.6 and 6.8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					switch {
					case x.Target() == "/next":
						x.Send(reply("200 OK", "", "second\n"))
					default:
						x.Send(reply("200 OK", plainText+"\nGrip-Link: </next>; rel=next", "first\n"))
					}
				})
				t.Get("/", "Cookie: a=1", "X-Forwarded-For: 1.2.3.4", "Authorization: x")
				t.Request()
				t.Equal("header of the next link", t.Request().Lines("cookie", "x-forwarded-for", "authorization"), "")
				t.Answers(hold("response", ch, "to\n"), reply("200 OK", plainText, "again\n"))
				c := t.Dial()
				c.Send(t.request("GET /", "Cookie: a=1", "Authorization: x"))
				t.Subscribed(ch)
				t.Request()
				t.Publish(item(ch, `"http-response":{"action":"hint"}`))
				t.Equal("body", c.Read("GET").Body, "again\n")
				t.Equal("header of the retry", t.Request().Lines("cookie", "authorization"), "Cookie: a=1\nAuthorization: x")
			},
		},
		{
			ID: "H-recover", Title: "recover makes every hold ask again", Source: "GRIP section 6.7", Alone: true,
			Run: func(t *T) {
				ch, s, m := t.Ch("c"), t.Ch("s"), t.Ch("m")
				var polls atomic.Int32
				t.Origin(func(x *Exchange) {
					switch x.Target() {
					case "/stream":
						x.Send(next(s, "hi\n", "/next"))
					case "/next":
						x.Send(next(s, "more\n", "/next"))
					default:
						if polls.Add(1) == 1 {
							x.Send(hold("response", ch, "to\n"))
							return
						}
						x.Send(hold("response", ch+", "+m, "to\n"))
					}
				})
				c, r := t.stream("/stream", s)
				p := t.poll("/poll", ch)
				// Both are asked for again after a second.
				c.Next(r, "more\n")
				t.Subscribed(m)
				t.Answers(reply("200 OK", plainText, "recovered\n"))
				res := t.PostControl("/recover", "")
				t.Equal("body of /recover", res.Body, "Updated\n")
				t.Equal("long-poll", p.Read("GET").Body, "recovered\n")
				c.Next(r, "recovered\n")
				c.End(r)
			},
			Pushpin: dropped,
		},
	}
}
