package main

import (
	"fmt"
	"strings"
	"time"
)

const (
	generic502 = "Error while proxying to origin.\n"
	badGateway = "HTTP/1.1 502 Bad Gateway"
)

// badInstruct is a case for an instruction that cannot be read: with debug the
// client is told why, without it is not.
func badInstruct(id, header, content, message string) *Case {
	return &Case{
		ID: id, Title: fmt.Sprintf("refused: %s", strings.ReplaceAll(header+" "+content, "\n", " | ")), Source: "GRIP sections 4 and 5",
		Routes: []string{"{host},debug {origin}", "{host},path_beg=/quiet {origin}"},
		Run: func(t *T) {
			t.Always(reply("200 OK", header, content))
			t.Error(t.Get("/"), badGateway, instructFailed+message+"\n")
			t.Error(t.Get("/quiet"), badGateway, generic502)
		},
	}
}

// channelCase checks to which channels, with which prev-ids, a Grip-Channel
// header subscribes. The channels show on the SUB interface, the prev-ids in
// the request that a hint causes. A "*" in the header and in the wanted names
// stands for what makes names unique.
func channelCase(id, header string, names []string, last string) *Case {
	return &Case{
		ID: id, Title: "channels of " + strings.ReplaceAll(header, "\n", " | "), Source: "GRIP sections 3 and 4.2",
		Run: func(t *T) {
			u := t.Ch("")
			fill := func(s string) string { return strings.ReplaceAll(s, "*", u) }
			t.Answers(
				reply("200 OK", plainText+"\nGrip-Hold: response\n"+fill(header)+"\nGrip-Channel: "+t.Ch("hint"), "held\n"),
				reply("200 OK", plainText, "second\n"),
			)
			c := t.Dial()
			c.Send(t.request("GET /"))
			t.Request()
			t.Subscribed(t.Ch("hint"))
			for _, n := range names {
				t.Subscribed(fill(n))
			}
			t.Publish(item(t.Ch("hint"), `"http-response":{"action":"hint"}`))
			t.Equal("body", c.Read("GET").Body, "second\n")
			t.Equal("Grip-Last", strings.Join(sorted(t.Request().Values("Grip-Last")), "\n"), fill(last))
		},
	}
}

// instructCases are about instructions in the header of an answer.
func instructCases() []*Case {
	cs := []*Case{
		badInstruct("I5-text", "Grip-Status: abc", "", "Grip-Status contains invalid status code"),
		badInstruct("I5-large", "Grip-Status: 1000", "", "Grip-Status contains invalid status code"),
		badInstruct("I5-negative", "Grip-Status: -1", "", "Grip-Status contains invalid status code"),
		badInstruct("I8-text", "Grip-Hold: response\nGrip-Channel: t\nGrip-Timeout: x", "", "failed to parse Grip-Timeout"),
		badInstruct("I8-negative", "Grip-Hold: response\nGrip-Channel: t\nGrip-Timeout: -1", "", "Grip-Timeout has invalid value"),
		badInstruct("I9-case", "Grip-Hold: Stream\nGrip-Channel: t", "", "Grip-Hold must be set to either 'response' or 'stream'"),
		badInstruct("I9-params", "Grip-Hold: stream; x=1\nGrip-Channel: t", "", "Grip-Hold must be set to either 'response' or 'stream'"),
		badInstruct("I16", "Grip-Keep-Alive: ; timeout=5", "", "Grip-Keep-Alive cannot be empty"),
		badInstruct("I17-mode", "Grip-Keep-Alive: a; mode=foo", "", "no such Grip-Keep-Alive mode 'foo'"),
		badInstruct("I17-format", "Grip-Keep-Alive: a; format=foo", "", "no such Grip-Keep-Alive format 'foo'"),
		badInstruct("I17-timeout", "Grip-Keep-Alive: a; timeout=x", "", "failed to parse Grip-Keep-Alive timeout value"),
		badInstruct("I17-negative", "Grip-Keep-Alive: a; timeout=-1", "", "Grip-Keep-Alive timeout has invalid value"),
		badInstruct("I17-order", "Grip-Keep-Alive: a; format=x; timeout=y; mode=z", "", "no such Grip-Keep-Alive mode 'z'"),
		{
			ID: "I18", Title: "more than five filters", Source: "GRIP section 4.2", Debug: true, Pushpin: "newest: 1.36 has no limit",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Grip-Channel: t; filter=a; filter=b; filter=c; filter=d; filter=e; filter=f", "x"))
				t.Error(t.Get("/"), badGateway, "Failed to parse accept instructions: too many filters for channel 't'\n")
			},
		},
		badInstruct("I20-plain", "Grip-Link: foo; rel=next", "", "failed to parse Grip-Link value"),
		badInstruct("I20-empty", "Grip-Link: <>; rel=next", "", "failed to parse Grip-Link value"),
		badInstruct("I23-text", "Grip-Link: </x>; rel=next; timeout=zz", "", "failed to parse Grip-Link timeout value"),
		badInstruct("I23-negative", "Grip-Link: </x>; rel=next; timeout=-1", "", "Grip-Link timeout has invalid value"),
		badInstruct("I24", "Grip-Link: <http://[bad>; rel=next", "", "Grip-Link contains invalid link"),
		badInstruct("G19", "Grip-Set-Meta: a=b,,c=d", "", "Grip-Set-Meta cannot be empty"),
		badInstruct("G22", `Grip-Keep-Alive: \q; format=cstring`, "", "failed to parse Grip-Keep-Alive cstring format"),
		badInstruct("G23-end", `Grip-Keep-Alive: ab\; format=cstring`, "", "failed to parse Grip-Keep-Alive cstring format"),
		badInstruct("G23-short", `Grip-Keep-Alive: \x4; format=cstring`, "", "failed to parse Grip-Keep-Alive cstring format"),
		badInstruct("G23-hex", `Grip-Keep-Alive: \xzz; format=cstring`, "", "failed to parse Grip-Keep-Alive cstring format"),

		channelCase("G1", "Grip-Channel: red*\nGrip-Channel: green*, blue*", []string{"red*", "green*", "blue*"}, ""),
		channelCase("G2", "Grip-Channel: a*; prev-id=7; filter=x, b*; filter=x; filter=y", []string{"a*", "b*"}, "a*; last-id=7"),
		channelCase("G3", "Grip-Channel: a*; PREV-ID=7", []string{"a*"}, "a*; last-id=7"),
		channelCase("G5", "Grip-Channel: a*; prev-id=1; prev-id=2", []string{"a*"}, "a*; last-id=1"),
		channelCase("G6", `Grip-Channel: a*; prev-id="x\y z" ; filter=q`, []string{"a*"}, `a*; last-id=xy z`),
		channelCase("G7", `Grip-Channel: "a*,b"; prev-id=1`, []string{`"a*,b"`}, `"a*,b"; last-id=1`),
		channelCase("G8", "Grip-Channel:   a* b ; prev-id = 7", []string{"a* b"}, "a* b; last-id=7"),
		channelCase("G9", "Grip-Channel: a*=b; prev-id=1", []string{"a*=b"}, "a*=b; last-id=1"),
		channelCase("G10", "Grip-Channel: b*, a*; prev-id=\"1", []string{"b*"}, ""),
		channelCase("G11", `Grip-Channel: a*; prev-id="1"junk; filter=z`, []string{"a*"}, "a*; last-id=1"),
		channelCase("G14", "Grip-Channel: a*; prev-id", []string{"a*"}, ""),
		channelCase("G14-two", "Grip-Channel: b*; prev-id=2, a*; other=x; prev-id=3", []string{"a*", "b*"}, "a*; last-id=3\nb*; last-id=2"),
		channelCase("G-same", "Grip-Channel: a*; prev-id=1, a*; prev-id=2", []string{"a*"}, "a*; last-id=2"),

		{
			ID: "G6-quote", Title: "a last-id that would not survive is quoted", Source: "GRIP section 11, Q22",
			Pushpin: "wrong: ids are never quoted",
			Run: func(t *T) {
				ch := t.Ch("a")
				t.Answers(hold("response", ch+`; prev-id="x\"y;z, w"`, "held\n"), reply("200 OK", plainText, "second\n"))
				c := t.poll("/", ch)
				t.Request()
				t.Publish(item(ch, `"http-response":{"action":"hint"}`))
				t.Equal("body", c.Read("GET").Body, "second\n")
				t.Equal("Grip-Last", t.Request().Get("Grip-Last"), ch+`; last-id="x\"y;z, w"`)
			},
		},
		{
			ID: "G14-empty", Title: "prev-id= is there and empty", Source: "GRIP section 3.2", Debug: true,
			Run: func(t *T) {
				ch := t.Ch("a")
				t.Always(hold("stream", ch+"; prev-id=", "hi\n"))
				t.Equal("body", t.Get("/").Body, "hi\n\n\nchannel '"+ch+"' specifies prev-id, but no next link found\n")
			},
		},
		{
			ID: "G13", Title: "a Grip-Channel without a value gives no channel and no error", Source: "GRIP section 3.1", Debug: true,
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Hold: stream\nGrip-Channel:  \nGrip-Channel: "+t.Ch("a"), "hi\n"))
				c, r := t.Open("/")
				c.Next(r, "hi\n")
				t.Subscribed(t.Ch("a"))
			},
		},
		{
			ID: "I1", Title: "Grip-Channel alone holds nothing", Source: "GRIP section 2.5",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Channel: t", "hi"))
				r := t.Get("/")
				t.Is(r, "HTTP/1.1 200 OK", plainText, "hi")
				t.Equal("Content-Length", r.Get("Content-Length"), "2")
			},
		},
		{
			ID: "I1-unknown", Title: "an unknown Grip header makes it a GRIP response and is removed", Source: "GRIP section 2.1",
			Run: func(t *T) {
				t.Always(head("200 OK", plainText+"\ngrip-Whatever: t\nTransfer-Encoding: chunked") + "\r\n" + chunks("a", "b") + "0\r\n\r\n")
				r := t.Get("/")
				t.Is(r, "HTTP/1.1 200 OK", plainText, "ab")
				t.Equal("Content-Length", r.Get("Content-Length"), "2")
			},
		},
		{
			ID: "I6", Title: "a long-poll lasts longer than the minimum without a Grip-Timeout", Source: "GRIP section 4.3", Limit: 30 * time.Second,
			Run: func(t *T) {
				t.Within(9 * time.Second)
				ch := t.Ch("t")
				t.Always(hold("response", ch, "timed out\n"))
				c := t.Dial()
				c.Send(t.request("GET /"))
				t.Subscribed(ch)
				// Another long-poll with the shortest time is the clock.
				t.Origin(func(x *Exchange) {
					if x.Target() == "/clock" {
						x.Send(hold("response", t.Ch("clock"), "clock\n", "Grip-Timeout: 1"))
						return
					}
					x.Send(hold("response", ch, "timed out\n"))
				})
				t.Equal("clock", t.Get("/clock").Body, "clock\n")
				t.Publish(responseItem(ch, "in time\n"))
				t.Equal("body", c.Read("GET").Body, "in time\n")
			},
			Pushpin: "sometimes: a long-poll is dropped at its re-check",
		},
		{
			ID: "I7", Title: "Grip-Timeout is at least 5 seconds, then the instruct response is sent", Source: "GRIP section 4.3",
			Pushpin: "sometimes: a long-poll is dropped at its re-check",
			Run: func(t *T) {
				t.Within(12 * time.Second)
				t.Always(hold("response", t.Ch("t"), "nothing\n", "Grip-Timeout: 1", "X-A: 1", "Grip-Status: 404 None yet"))
				began := time.Now()
				r := t.Get("/")
				took := time.Since(began)
				t.Is(r, "HTTP/1.1 404 None yet", plainText+"\nX-A: 1", "nothing\n")
				t.Equal("Content-Length", r.Get("Content-Length"), "8")
				// The first long-poll of a channel is asked for again after a
				// second, which starts its time anew.
				if took < 4900*time.Millisecond || took > 40*time.Second {
					t.Fatalf("answered after %v, want 5 s, and not the default of 55 s", took)
				}
			},
		},
		{
			ID: "I10", Title: "of several Grip-Hold lines the first counts", Source: "GRIP section 4",
			Run: func(t *T) {
				t.Always(hold("stream", t.Ch("t"), "hi\n", "Grip-Hold: bad"))
				c, r := t.Open("/")
				c.Next(r, "hi\n")
				t.Subscribed(t.Ch("t"))
			},
		},
		{
			ID: "I11", Title: "Grip header names have no case", Source: "GRIP section 4",
			Run: func(t *T) {
				ch := t.Ch("t")
				t.Always(reply("200 OK", plainText+"\ngrip-hold: stream\nGRIP-CHANNEL: "+ch, "hi\n"))
				c, r := t.Open("/")
				t.Equal("header", r.Own(), plainText)
				c.Next(r, "hi\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "I19", Title: "a relative next link resolves against the request", Source: "GRIP section 4.8",
			Run: func(t *T) {
				t.Origin(func(x *Exchange) {
					if x.Target() == "/n?p=2" {
						x.Send(reply("200 OK", plainText, "next\n"))
						return
					}
					x.Send(reply("200 OK", plainText+"\nGrip-Link: </n?p=2>; rel=next", "first\n"))
				})
				t.Equal("body", t.Get("/a/b?q=1").Body, "first\nnext\n")
				t.Request()
				t.Equal("request line", t.Request().Line, "GET /n?p=2 HTTP/1.1")
			},
		},
		{
			ID: "I21", Title: "a Grip-Link without parameters is ignored", Source: "GRIP section 4.8",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Link: </x>", "hi"))
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", plainText, "hi")
			},
		},
		{
			ID: "I22", Title: "a Grip-Link of another relation is ignored", Source: "GRIP section 4.8",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Link: </x>; rel=other; timeout=zz", "hi"))
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", plainText, "hi")
			},
		},
		{
			ID: "I25", Title: "a gone link is called when the client leaves", Source: "GRIP section 6.9", Pushpin: "newest: rel=gone came with 1.41",
			Run: func(t *T) {
				t.Within(4 * time.Second)
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n", "Grip-Link: </g?x=1>; rel=gone"))
				c, r := t.Open("/")
				c.Next(r, "hi\n")
				t.Request()
				t.Subscribed(ch)
				c.Close()
				q := t.Request()
				t.Equal("request line", q.Line, "POST /g?x=1 HTTP/1.1")
				t.Equal("body", q.Body, "")
				checkToken(t, q.Get("Grip-Sig"), "pushpin", "changeme")
			},
		},
		{
			ID: "I26", Title: "Grip-Expose-Headers keeps only what it names", Source: "GRIP section 4.7",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nX-A: 1\nX-B: 2\nGrip-Foo: 3\nGrip-Expose-Headers: x-a, Grip-Foo", "hi"))
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", "X-A: 1", "hi")
			},
		},
		{
			ID: "I27", Title: "an empty Grip-Expose-Headers keeps all", Source: "GRIP section 4.7", Pushpin: "newest: 1.36 refuses headers without a value",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nX-A: 1\nGrip-Foo: 3\nGrip-Expose-Headers:", "hi"))
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", plainText+"\nX-A: 1", "hi")
			},
		},
		{
			ID: "I26-stream", Title: "Grip-Expose-Headers applies to a stream", Source: "GRIP section 4.7",
			Run: func(t *T) {
				t.Always(hold("stream", t.Ch("a"), "hi\n", "X-A: 1", "X-B: 2", "Grip-Expose-Headers: X-A", "Grip-Expose-Headers: X-C"))
				c, r := t.Open("/")
				t.Equal("header", r.Own(), "X-A: 1")
				c.Next(r, "hi\n")
			},
		},
		{
			ID: "I28", Title: "Connection and Content-Encoding of a GRIP response are removed", Source: "GRIP section 2.4",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Connection: keep-alive\nGrip-Foo: 1\nX-A: 1", "hi"))
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", "X-A: 1", "hi")
			},
		},
		{
			ID: "I-gzip", Title: "an encoded answer reaches the client with its label or decoded", Source: "RFC 9110 section 8.4",
			Run: func(t *T) {
				const packed = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\xc8\xe4\x02\x00\x7a\x7a\x6f\xed\x03\x00\x00\x00" // "hi\n"
				t.Always(reply("200 OK", plainText+"\nContent-Encoding: gzip", packed))
				r := t.Get("/", "Accept-Encoding: gzip")
				if r.Body != "hi\n" && !(r.Body == packed && r.Get("Content-Encoding") == "gzip") {
					t.Fatalf("Content-Encoding %q with the body %q", r.Get("Content-Encoding"), r.Body)
				}
			},
		},
		{
			ID: "I-error-closes-nothing", Title: "after a bad instruction the connection goes on", Source: "GRIP section 2.6",
			Run: func(t *T) {
				t.Answers(reply("200 OK", "Grip-Hold: x", ""), reply("200 OK", plainText, "ok\n"))
				c := t.Dial()
				c.Send(t.request("GET /"))
				t.Error(c.Read("GET"), badGateway, generic502)
				c.Send(t.request("GET /"))
				t.Equal("body", c.Read("GET").Body, "ok\n")
			},
		},
		{
			ID: "I-status-hold", Title: "Grip-Status applies to a stream", Source: "GRIP section 6.3",
			Run: func(t *T) {
				t.Always(hold("stream", t.Ch("a"), "hi\n", "Grip-Status: 404"))
				c, r := t.Open("/")
				t.Equal("status line", r.Line, "HTTP/1.1 404 Not Found")
				c.Next(r, "hi\n")
			},
		},
	}
	for _, v := range []struct{ id, value, line string }{
		{"I2", "404", "404 Not Found"},
		{"I3", "404 Nope here", "404 Nope here"},
		{"I4", "299", "299 Undefined Reason"},
		{"I4-418", "418", "418 Undefined Reason"},
		{"I4-429", "429", "429 Too Many Requests"},
		{"I4-413", "413", "413 Request Entity Too Large"},
	} {
		cs = append(cs, &Case{
			ID: v.id, Title: "Grip-Status: " + v.value, Source: "GRIP sections 4.6 and 4.12",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Status: "+v.value, "hi"))
				t.Is(t.Get("/"), "HTTP/1.1 "+v.line, plainText, "hi")
			},
		})
	}
	return cs
}

// jsonCases are about instructions in a JSON body.
func jsonCases() []*Case {
	bad := func(id, content, message string) *Case { return badInstruct(id, instruct, content, message) }
	cs := []*Case{
		bad("J6", `{`, "failed to parse application/grip-instruct content as JSON"),
		bad("J6-list", `[]`, "instruct must be an object"),
		bad("J7", `{"hold":{}}`, "hold does not contain 'channels'"),
		bad("J7-type", `{"hold":5}`, "instruct contains 'hold' with wrong type"),
		bad("J8", `{"hold":{"mode":"x","channels":[]}}`, "hold 'mode' must be set to either 'response' or 'stream'"),
		bad("J9", `{"hold":{"mode":null,"channels":[]}}`, "hold contains 'mode' with wrong type"),
		bad("J10", `{"hold":{"channels":["a"]}}`, "channel is not an object"),
		bad("J10-name", `{"hold":{"channels":[{}]}}`, "channel does not contain 'name'"),
		bad("J10-name-type", `{"hold":{"channels":[{"name":5}]}}`, "channel contains 'name' with wrong type"),
		bad("J10-prev-id", `{"hold":{"channels":[{"name":"a","prev-id":5}]}}`, "channel contains 'prev-id' with wrong type"),
		bad("J10-filters", `{"hold":{"channels":[{"name":"a","filters":"x"}]}}`, "channel contains 'filters' with wrong type"),
		bad("J10-filter", `{"hold":{"channels":[{"name":"a","filters":[5]}]}}`, "filters contains value with wrong type"),
		bad("J11", `{"hold":{"channels":[],"timeout":-1}}`, "hold contains 'timeout' with invalid value"),
		bad("J11-type", `{"hold":{"channels":[],"timeout":[]}}`, "hold contains 'timeout' with wrong type"),
		bad("J11-keep-alive", `{"hold":{"channels":[],"keep-alive":5}}`, "hold contains 'keep-alive' with wrong type"),
		bad("J11-keep-alive-timeout", `{"hold":{"channels":[],"keep-alive":{"content":"x","timeout":null}}}`, "keep-alive contains 'timeout' with wrong type"),
		bad("J12", `{"hold":{"channels":[],"meta":{"a":5}}}`, "'meta' contains 'a' with wrong type"),
		bad("J12-type", `{"hold":{"channels":[],"meta":[]}}`, "hold contains 'meta' with wrong type"),
		bad("J13", `{"response":{"code":1000}}`, "response contains 'code' with invalid value"),
		bad("J13-type", `{"response":{"code":null}}`, "response contains 'code' with wrong type"),
		bad("J13-reason", `{"response":{"reason":5}}`, "response contains 'reason' with wrong type"),
		bad("J13-headers", `{"response":{"headers":"x"}}`, "response contains 'headers' with wrong type"),
		bad("J13-header", `{"response":{"headers":{"A":5}}}`, "headers contains 'A' with wrong type"),
		bad("J13-pair", `{"response":{"headers":[["A"]]}}`, "headers contains list with wrong number of elements"),
		bad("J13-body", `{"response":{"body":5}}`, "response contains 'body' with wrong type"),
		{
			ID: "J5", Title: "a JSON instruct with another status than 200", Source: "GRIP section 5", Debug: true,
			Run: func(t *T) {
				t.Always(reply("201 Created", instruct, `{"response":{"code":202}}`))
				t.Error(t.Get("/"), badGateway, instructFailed+"response code for application/grip-instruct content must be 200\n")
			},
		},
		{
			ID: "J2", Title: "a JSON hold is a long-poll by default", Source: "GRIP section 5.1",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(reply("200 OK", instruct, `{"hold":{"channels":[{"name":"`+ch+`"}]},"response":{"body":"to\n"}}`))
				c := t.Dial()
				c.Send(t.request("GET /"))
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "no\n"), responseItem(ch, "yes\n"))
				t.Equal("body", c.Read("GET").Body, "yes\n")
			},
		},
		{
			ID: "J3", Title: "a JSON stream hold with a string for a number", Source: "GRIP section 5.2", Debug: true,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(reply("200 OK", instruct, `{"hold":{"mode":"stream","channels":[{"name":"`+ch+`","prev-id":"1","filters":["f"]}],"timeout":"7"},"response":{"body":"b\n"}}`))
				t.Equal("body", t.Get("/").Body, "b\n\n\nchannel '"+ch+"' specifies prev-id, but no next link found\n")
			},
		},
		{
			ID: "J16", Title: "a header hold with a JSON response", Source: "GRIP section 5",
			Run: func(t *T) {
				ch := t.Ch("z")
				t.Always(reply("200 OK", instruct+"\nGrip-Hold: stream\nGrip-Channel: "+ch, `{"response":{"body":"i\n"}}`))
				c, r := t.Open("/")
				t.Equal("header", r.Own(), "")
				c.Next(r, "i\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "x\n"))
				c.Next(r, "x\n")
			},
		},
		{
			ID: "J17", Title: "channels of header and JSON add up", Source: "GRIP section 5.1",
			Run: func(t *T) {
				y, z := t.Ch("y"), t.Ch("z")
				t.Always(reply("200 OK", instruct+"\nGrip-Channel: "+z, `{"hold":{"mode":"stream","channels":[{"name":"`+y+`"}]},"response":{"body":"i\n"}}`))
				c, r := t.Open("/")
				c.Next(r, "i\n")
				t.Subscribed(y, z)
				t.Publish(streamItem(y, "y\n"), streamItem(z, "z\n"))
				c.Next(r, "y\nz\n")
			},
		},
		{
			ID: "J-keep-alive", Title: "a JSON keep-alive", Source: "GRIP section 5.1",
			Run: func(t *T) {
				t.Always(reply("200 OK", instruct, `{"hold":{"mode":"stream","channels":[{"name":"`+t.Ch("c")+`"}],"keep-alive":{"content-bin":"awA=","content":"no","timeout":1}},"response":{"body":"i\n"}}`))
				c, r := t.Open("/")
				c.Next(r, "i\nk\x00k\x00")
			},
		},
		{
			ID: "J-no-body", Title: "a JSON instruct without a body relays an empty one", Source: "GRIP section 5.1", Pushpin: "wrong: answers 502",
			Run: func(t *T) {
				t.Always(reply("200 OK", instruct, `{"response":{"code":202}}`))
				t.Is(t.Get("/"), "HTTP/1.1 202 Accepted", "", "")
			},
		},
	}
	for _, v := range []struct{ id, header, content, line, own, want string }{
		{"J1", "X-Origin: 1", `{"response":{"code":202,"headers":{"X-A":"1"},"body":"b\n"}}`, "202 Accepted", "X-A: 1", "b\n"},
		{"J1-reason", "", `{"response":{"code":202,"reason":"Sure","body":"b"}}`, "202 Sure", "", "b"},
		{"J1-round", "", `{"response":{"code":201.6,"body":"b"}}`, "202 Accepted", "", "b"},
		{"J4", "", `{"response":{"headers":[["A","1"],["A","2"]],"body-bin":"aGk=","body":"no"}}`, "200 OK", "A: 1\nA: 2", "hi"},
		{"J4-order", "", `{"response":{"headers":{"X-B":"2","X-A":"1"},"body":"x"}}`, "200 OK", "X-A: 1\nX-B: 2", "x"},
		{"J4-strip", "", `{"response":{"headers":{"Keep-Alive":"x","Connection":"y","X-A":"1"},"body":"x"}}`, "200 OK", "X-A: 1", "x"},
		{"J14", "Grip-Status: 404 Foo", `{"response":{"body":"x"}}`, "404 Foo", "", "x"},
		{"J15", "Grip-Status: 404 Foo", `{"response":{"code":201,"body":"x"}}`, "201 Created", "", "x"},
		{"J18", "", `{"response":{"code":202,"body":"x"}}`, "202 Accepted", "", "x"},
	} {
		ct := instruct
		if v.id == "J18" {
			ct += "; charset=utf-8"
		}
		cs = append(cs, &Case{
			ID: v.id, Title: "instruct " + v.content + " " + v.header, Source: "GRIP section 5.1",
			Run: func(t *T) {
				t.Always(reply("200 OK", ct+"\n"+v.header, v.content))
				t.Is(t.Get("/"), "HTTP/1.1 "+v.line, v.own, v.want)
			},
		})
	}
	for id, ct := range map[string]string{"J19": "Application/Grip-Instruct", "J19-space": "application/grip-instruct ; x=y"} {
		cs = append(cs, &Case{
			ID: id, Title: "Content-Type " + ct + " is not an instruct", Source: "GRIP section 2.1",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Content-Type: "+ct, `{"hold":5}`))
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", "Content-Type: "+ct, `{"hold":5}`)
			},
		})
	}
	return cs
}
