package main

import (
	"fmt"
	"strings"
)

// badItem is a case for an item that the control API refuses.
func badItem(id, content, message string) *Case {
	return &Case{
		ID: id, Title: "refused: " + content, Source: "GRIP section 7",
		Run: func(t *T) {
			r := t.PostControl("/publish/", `{"items":[`+content+`]}`)
			t.controlError(r, "HTTP/1.1 400 Bad Request", "Invalid format: "+message+"\n")
		},
	}
}

// controlError compares an answer of the control API, with all of its header.
func (t *T) controlError(r *Response, line, text string, header ...string) {
	t.Equal("status line", r.Line, line)
	h := append(header, plainText, "Connection: close", fmt.Sprintf("Content-Length: %d", len(text)))
	t.Equal("header", strings.Join(r.Header, "\n"), strings.Join(h, "\n"))
	t.Equal("body", r.Body, text)
}

// goodResponse publishes formats to a long-poll and compares its answer.
func goodResponse(id, formats, line, header, content string) *Case {
	return &Case{
		ID: id, Title: "published: " + formats, Source: "GRIP section 7",
		Run: func(t *T) {
			ch := t.Ch("c")
			t.Always(reply("200 OK", "Grip-Hold: response\nGrip-Channel: "+ch, "to\n"))
			c := t.poll("/", ch)
			t.Publish(`{"channel":"` + ch + `",` + formats + `}`)
			t.Is(c.Read("GET"), "HTTP/1.1 "+line, header, content)
		},
	}
}

// publishCases are about items, and the ways in.
func publishCases() []*Case {
	cs := []*Case{
		badItem("P3", `5`, "publish item object is not an object"),
		badItem("P3-channel", `{"http-stream":{"content":"x"}}`, "publish item object does not contain 'channel'"),
		badItem("P3-channel-type", `{"channel":5,"http-stream":{"content":"x"}}`, "publish item object contains 'channel' with wrong type"),
		badItem("P4-null", `{"channel":"a","id":null,"http-stream":{"content":"x"}}`, "publish item object contains 'id' with wrong type"),
		badItem("P4-number", `{"channel":"a","id":5,"http-stream":{"content":"x"}}`, "publish item object contains 'id' with wrong type"),
		badItem("P4-prev", `{"channel":"a","prev-id":5,"http-stream":{"content":"x"}}`, "publish item object contains 'prev-id' with wrong type"),
		badItem("P5", `{"channel":"a"}`, "no formats specified"),
		badItem("P5-empty", `{"channel":"a","formats":{}}`, "no formats specified"),
		badItem("P7", `{"channel":"a","formats":null}`, "publish item object contains 'formats' with wrong type"),
		badItem("P7-format", `{"channel":"a","formats":{"http-stream":5}}`, "'http-stream' is not an object"),
		badItem("P8", `{"channel":"a","http-stream":{}}`, "'http-stream' does not contain 'content' or 'content-bin'"),
		badItem("P9", `{"channel":"a","http-stream":{"content":5}}`, "'http-stream' contains 'content' with wrong type"),
		badItem("P9-bin", `{"channel":"a","http-stream":{"content-bin":5}}`, "'http-stream' contains 'content-bin' with wrong type"),
		badItem("P10-type", `{"channel":"a","http-stream":{"action":5}}`, "'http-stream' contains 'action' with wrong type"),
		badItem("P12", `{"channel":"a","http-response":{}}`, "'http-response' does not contain 'body', 'body-bin', or 'body-patch'"),
		badItem("P12-body", `{"channel":"a","http-response":{"body":5}}`, "'http-response' contains 'body' with wrong type"),
		badItem("P13-large", `{"channel":"a","http-response":{"code":999.6,"body":"x"}}`, "'http-response' contains 'code' with invalid value"),
		badItem("P13-negative", `{"channel":"a","http-response":{"code":-1,"body":"x"}}`, "'http-response' contains 'code' with invalid value"),
		badItem("P13-list", `{"channel":"a","http-response":{"code":[],"body":"x"}}`, "'http-response' contains 'code' with wrong type"),
		badItem("P13-reason", `{"channel":"a","http-response":{"reason":5,"body":"x"}}`, "'http-response' contains 'reason' with wrong type"),
		badItem("P14-element", `{"channel":"a","http-response":{"headers":["A"],"body":"x"}}`, "headers contains element with wrong type"),
		badItem("P14-three", `{"channel":"a","http-response":{"headers":[["A","b","c"]],"body":"x"}}`, "headers contains list with wrong number of elements"),
		badItem("P14-name", `{"channel":"a","http-response":{"headers":[[5,"b"]],"body":"x"}}`, "header contains name element with wrong type"),
		badItem("P14-value", `{"channel":"a","http-response":{"headers":[["A",5]],"body":"x"}}`, "header contains value element with wrong type"),
		badItem("P14-map", `{"channel":"a","http-response":{"headers":{"A":5},"body":"x"}}`, "headers contains 'A' with wrong type"),
		badItem("P14-text", `{"channel":"a","http-response":{"headers":"x","body":"x"}}`, "'http-response' contains 'headers' with wrong type"),
		badItem("P16", `{"channel":"a","ws-message":{}}`, "'ws-message' does not contain 'content' or 'content-bin'"),
		badItem("P16-type", `{"channel":"a","ws-message":{"type":"foo","content":"x"}}`, "'ws-message' contains 'type' with unknown value"),
		badItem("P17", `{"channel":"a","ws-message":{"action":"close","code":-1}}`, "'ws-message' contains 'code' with invalid value"),
		badItem("P18", `{"channel":"a","meta":[],"http-stream":{"content":"x"}}`, "publish item object contains 'meta' with wrong type"),
		badItem("P18-value", `{"channel":"a","meta":{"u":5},"http-stream":{"content":"x"}}`, "'meta' contains 'u' with wrong type"),
		badItem("P19-size", `{"channel":"a","size":-1,"http-stream":{"content":"x"}}`, "publish item object contains 'size' with invalid value"),
		badItem("P19-no-seq", `{"channel":"a","no-seq":1,"http-stream":{"content":"x"}}`, "publish item object contains 'no-seq' with wrong type"),
		badItem("P-filters", `{"channel":"a","http-stream":{"content":"x","content-filters":"f"}}`, "'http-stream' contains 'content-filters' with wrong type"),
		badItem("P-filters-element", `{"channel":"a","http-stream":{"content":"x","content-filters":[5]}}`, "content-filters contains element with wrong type"),

		goodResponse("P13-string", `"http-response":{"code":"404","body":"x"}`, "404 Not Found", "", "x"),
		goodResponse("P13-round", `"http-response":{"code":201.6,"body":"x"}`, "202 Accepted", "", "x"),
		goodResponse("P13-unknown", `"http-response":{"code":299,"body":"x"}`, "299 Undefined Reason", "", "x"),
		goodResponse("P13-empty-reason", `"http-response":{"reason":"","body":"x"}`, "200 OK", "", "x"),
		goodResponse("P15", `"http-response":{"body-bin":"aGV5YQ==","body":"no"}`, "200 OK", "", "heya"),
		goodResponse("P15-lenient", `"http-response":{"body-bin":"!!aG V5YQ"}`, "200 OK", "", "heya"),
		goodResponse("P-headers", `"http-response":{"headers":{"X-B":"b","X-A":"a","Grip-Foo":"x","Content-Encoding":"br"},"body":"x"}`, "200 OK", "Content-Encoding: br\nX-A: a\nX-B: b", "x"),
		goodResponse("P-unicode", `"http-response":{"body":"\u00e9\ud83d\ude00"}`, "200 OK", "", "é😀"),
		goodResponse("P-last-key", `"http-response":{"body":"first"},"http-response":{"body":"second"}`, "200 OK", "", "second"),
		goodResponse("P2-legacy", `"formats":{"http-response":{"body":"new"}},"http-response":{"body":"old"}`, "200 OK", "", "new"),

		{
			ID: "P1", Title: "formats at the top level of an item", Source: "GRIP section 7.1",
			Run: func(t *T) {
				ch := t.Ch("a")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(`{"channel":"` + ch + `","http-stream":{"content":"x"}}`)
				c.Next(r, "x")
			},
		},
		{
			ID: "P2", Title: "items that are fine although they look odd", Source: "GRIP section 7",
			Run: func(t *T) {
				t.Publish(
					`{"channel":"a","formats":{"http-stream":{"content":"x"}},"http-response":5}`,
					`{"channel":"a","formats":{"foo":{}}}`,
					`{"channel":"a","http-stream":{"action":"hint","content":5}}`,
					`{"channel":"a","ws-message":{"type":"ping"}}`,
					`{"channel":"a","ws-message":{"content-bin":"AAE="}}`,
					`{"channel":"a","ws-message":{"action":"close"}}`,
					`{"channel":"a","ws-message":{"action":"close","code":1001,"reason":"x"}}`,
					`{"channel":"","http-stream":{"content":"x"}}`,
					`{"channel":"a","size":"abc","http-stream":{"content":"x"},"whatever":[1,{}]}`,
				)
			},
		},
		{
			ID: "P13-zero", Title: "a code that would not be a status code is refused", Source: "GRIP section 11, Q25",
			Pushpin: "wrong: sends the code 0",
			Run: func(t *T) {
				for _, code := range []string{`"abc"`, "true", "0", "99", "100", "199"} {
					r := t.PostControl("/publish/", `{"items":[{"channel":"a","http-response":{"code":`+code+`,"body":"x"}}]}`)
					t.controlError(r, "HTTP/1.1 400 Bad Request", "Invalid format: 'http-response' contains 'code' with invalid value\n")
				}
			},
		},
		{
			ID: "P10", Title: "an unknown action is refused", Source: "GRIP section 7.1",
			Run: func(t *T) {
				r := t.PostControl("/publish/", `{"items":[{"channel":"a","http-stream":{"action":"foo"}}]}`)
				t.Equal("status line", r.Line, "HTTP/1.1 400 Bad Request")
				t.Contains("body", r.Body, "Invalid format: ")
			},
		},
		{
			ID: "P20", Title: "one bad item refuses the whole call", Source: "GRIP section 9.3",
			Run: func(t *T) {
				ch := t.Ch("a")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				res := t.PostControl("/publish/", `{"items":[`+streamItem(ch, "first")+`,{"channel":"a"}]}`)
				t.controlError(res, "HTTP/1.1 400 Bad Request", "Invalid format: no formats specified\n")
				t.Publish(streamItem(ch, "second"))
				c.Next(r, "second")
			},
		},
		{
			ID: "P-order", Title: "what one publisher sends in calls of their own arrives in that order", Source: "GRIP section 7.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				var want strings.Builder
				for i := range 300 {
					text := fmt.Sprintf("%d\n", i)
					t.Publish(streamItem(ch, text))
					want.WriteString(text)
					if i%50 == 49 { // a hold queues at most 100
						c.Next(r, want.String())
						want.Reset()
					}
				}
			},
		},
		{
			ID: "P-expose", Title: "Grip-Expose-Headers in a publish does not remove what it names", Source: "GRIP section 11, Q6",
			Pushpin: "wrong: does the opposite of its name",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(reply("200 OK", "Grip-Hold: response\nX-A: 1\nGrip-Channel: "+ch, "to\n"))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"headers":{"Grip-Expose-Headers":"X-A"},"body":"x"}`))
				t.Equal("X-A", c.Read("GET").Get("X-A"), "1")
			},
		},
		{
			ID: "P-duplicate", Title: "an id that was seen on the channel is dropped", Source: "GRIP section 7.5",
			Run: func(t *T) {
				a, b := t.Ch("a"), t.Ch("b")
				t.Always(hold("stream", a+", "+b, "hi\n"))
				c, r := t.stream("/", a, b)
				t.Publish(streamItem(a, "1", `"id":"x"`), streamItem(a, "2", `"id":"x"`), streamItem(a, "3", `"id":"x","no-seq":true`), streamItem(b, "4", `"id":"x"`), streamItem(a, "5", `"id":""`), streamItem(a, "6", `"id":""`), streamItem(a, "7"))
				c.Next(r, "1457")
			},
		},
		{
			ID: "P-duplicate-off", Title: "id_cache_ttl=0 turns that off", Source: "operations, handler", Profile: "strict",
			Run: func(t *T) {
				a := t.Ch("a")
				t.Always(hold("stream", a, "hi\n"))
				c, r := t.stream("/", a)
				t.Publish(streamItem(a, "1", `"id":"x"`), streamItem(a, "2", `"id":"x"`))
				c.Next(r, "12")
			},
		},

		{
			ID: "Z-pull-json", Title: "PULL: J and a JSON item", Source: "operations, PULL",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Push("J"+streamItem(ch, "one"), "J"+item(ch, `"http-stream":{"content-bin":"AP8="}`))
				c.Next(r, "one\x00\xff")
			},
		},
		{
			ID: "Z-pull-tnet", Title: "PULL: T and a tnetstring", Source: "operations, PULL",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Push("T" + tnet(tmap{{"channel", ch}, {"formats", tmap{{"http-stream", tmap{{"content", "a\x00\xffb"}}}}}}))
				c.Next(r, "a\x00\xffb")
				t.Push("T"+tnet(tmap{{"channel", ch}, {"id", "1"}, {"http-stream", tmap{{"content", "c"}}}}),
					"T"+tnet(tmap{{"channel", ch}, {"http-stream", tmap{{"action", "close"}}}}))
				c.Next(r, "c")
				c.End(r)
			},
		},
		{
			ID: "Z-pull-bare", Title: "PULL: a bare tnetstring", Source: "operations, PULL",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch, "to\n"))
				c := t.poll("/", ch)
				response := tmap{{"code", 202}, {"reason", "Why not"}, {"headers", []any{[]any{"X-A", "1"}}}, {"body", "b\xff"}}
				t.Push(tnet(tmap{{"channel", ch}, {"formats", tmap{{"http-response", response}}}}))
				t.Is(c.Read("GET"), "HTTP/1.1 202 Why not", plainText+"\nX-A: 1", "b\xff")
			},
		},
		{
			ID: "Z-pull-order", Title: "PULL: 500 items in order", Source: "operations, PULL",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				for i := range 10 {
					var messages []string
					var want strings.Builder
					for j := range 50 {
						text := fmt.Sprintf("%d\n", i*50+j)
						messages = append(messages, "J"+streamItem(ch, text))
						want.WriteString(text)
					}
					t.Push(messages...)
					c.Next(r, want.String())
				}
			},
		},
		{
			ID: "Z-pull-bad", Title: "PULL: what cannot be read is passed over", Source: "operations, PULL",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Push("Jnot json", "J[]", "J{}", `J{"channel":"`+ch+`"}`, "J5", "x", "5:hello,", "J"+streamItem(ch, "good"))
				c.Next(r, "good")
			},
		},
		{
			ID: "Z-pull-fatal", Title: "PULL: broken tnetstrings do no harm", Source: "operations, PULL", Alone: true,
			Pushpin: "wrong: ends the handler and with it everything",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Push("T5:abc", "T", "", "5:abc", "T999999999999:x,", "T99999999999999999999999:x,", "T-1:,", "J"+streamItem(ch, "good"))
				c.Next(r, "good")
			},
		},
		{
			ID: "Z-sub", Title: "SUB: the topic is the channel", Source: "operations, SUB",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.PublishSub(ch, "J"+streamItem("other", "one"))
				t.PublishSub(ch, `J{"formats":{"http-stream":{"content":"two"}}}`)
				t.PublishSub(ch, "T"+tnet(tmap{{"http-stream", tmap{{"content", "three"}}}}))
				t.PublishSub(ch, tnet(tmap{{"http-stream", tmap{{"content", "four"}}}}))
				c.Next(r, "onetwothreefour")
			},
		},
		{
			ID: "Z-sub-exact", Title: "SUB: a topic that only begins with a channel's name reaches nobody", Source: "operations, SUB",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.PublishSub(ch+"-2", "J"+streamItem("x", "no"))
				t.PublishSub(ch, "J"+streamItem("x", "yes"))
				c.Next(r, "yes")
			},
		},
		{
			ID: "Z-sub-bad", Title: "SUB: what cannot be read is passed over", Source: "operations, SUB",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.PublishSub(ch, "Jnot json")
				t.PublishSub(ch, "J5")
				t.PublishSub(ch, "x")
				t.PublishSub(ch, "J"+streamItem("x", "good"))
				c.Next(r, "good")
			},
		},
		{
			ID: "Z-connect", Title: "SUB: a publisher that connects later learns the subscriptions", Source: "operations, SUB",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				late, err := newMonitor(t.ctx, t.Proxy.Sub)
				if err != nil {
					t.Fatalf("connecting: %v", err)
				}
				defer late.close()
				if !late.wait(ch, t.deadline()) {
					t.Fatalf("the subscription did not reach the new publisher")
				}
				if err := late.publish(ch, "J"+streamItem("x", "late")); err != nil {
					t.Fatalf("publishing: %v", err)
				}
				c.Next(r, "late")
			},
		},
	}
	return append(cs, commandCases()...)
}

// commandCases are about the ZeroMQ command socket.
func commandCases() []*Case {
	expect := func(t *T, got map[string]any, want string) {
		var out []string
		for _, k := range []string{"success", "condition", "value"} {
			if v, ok := got[k]; ok {
				out = append(out, fmt.Sprintf("%s=%v", k, v))
			}
		}
		t.Equal("answer", strings.Join(out, " "), want)
	}
	return []*Case{
		{
			ID: "Z-command-publish", Title: "command publish", Source: "operations, command socket",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				it := tmap{{"channel", ch}, {"formats", tmap{{"http-stream", tmap{{"content", "x"}}}}}}
				expect(t, t.Command("publish", tmap{{"items", []any{it}}}), "success=true value=<nil>")
				c.Next(r, "x")
			},
		},
		{
			ID: "Z-command-bad", Title: "command publish with a bad item", Source: "operations, command socket",
			Run: func(t *T) {
				expect(t, t.Command("publish", tmap{{"items", []any{tmap{{"channel", "a"}}}}}), "success=false condition=bad-request value=Invalid format: no formats specified")
			},
		},
		{
			ID: "Z-command-unknown", Title: "an unknown command", Source: "operations, command socket",
			Run: func(t *T) { expect(t, t.Command("sing", nil), "success=false condition=method-not-found") },
		},
		{
			ID: "Z-command-recover", Title: "command recover", Source: "operations, command socket", Alone: true,
			Run: func(t *T) { expect(t, t.Command("recover", nil), "success=true value=<nil>") },
		},
		{
			ID: "Z-command-uris", Title: "command get-zmq-uris", Source: "operations, command socket",
			Run: func(t *T) {
				m := t.Command("get-zmq-uris", nil)
				v, ok := m["value"].(map[string]any)
				if !ok {
					t.Fatalf("the value is %v", m["value"])
				}
				t.Equal("publish-pull", fmt.Sprint(v["publish-pull"]), "tcp://"+t.Proxy.Push)
				t.Equal("publish-sub", fmt.Sprint(v["publish-sub"]), "tcp://"+t.Proxy.Sub)
				t.Equal("command", fmt.Sprint(v["command"]), "tcp://"+t.Proxy.Command)
			},
		},
		{
			ID: "Z-command-conncheck", Title: "command conncheck with an unknown id", Source: "operations, command socket",
			Run: func(t *T) {
				expect(t, t.Command("conncheck", tmap{{"ids", []any{"nobody:0"}}}), "success=true value=[]")
			},
		},
		{
			ID: "Z-command-refresh", Title: "command refresh of an unknown connection", Source: "operations, command socket",
			Run: func(t *T) {
				expect(t, t.Command("refresh", tmap{{"cid", "nobody"}}), "success=false condition=item-not-found")
			},
		},
		{
			ID: "Z-command-args", Title: "command refresh without arguments", Source: "operations, command socket",
			Run: func(t *T) {
				m := t.Command("refresh", tmap{})
				t.Equal("condition", fmt.Sprint(m["condition"]), "bad-request")
			},
		},
	}
}

// controlCases are about the HTTP control API.
func controlCases() []*Case {
	const host = "Host: control\r\n"
	accept := func(id, value, contentType, want string) *Case {
		return &Case{
			ID: id, Title: "Accept: " + value, Source: "GRIP section 9.2",
			Run: func(t *T) {
				r := t.PostControl("/publish/", `{"items":[]}`, "Accept: "+value)
				if contentType == "" {
					t.controlError(r, "HTTP/1.1 406 Not Acceptable", "Not Acceptable. Supported formats are text/plain and application/json.\n")
					return
				}
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("header", strings.Join(r.Header, "\n"), fmt.Sprintf("Content-Type: %s\nConnection: close\nContent-Length: %d", contentType, len(want)))
				t.Equal("body", r.Body, want)
			},
		}
	}
	refuse := func(id, title, raw, line, text string) *Case {
		return &Case{ID: id, Title: title, Source: "GRIP section 9", Run: func(t *T) { t.controlError(t.Control(raw), line, text) }}
	}
	body := func(id, content, text string) *Case {
		return &Case{ID: id, Title: "refused: " + content, Source: "GRIP section 9.3", Run: func(t *T) {
			t.controlError(t.PostControl("/publish", content), "HTTP/1.1 400 Bad Request", text)
		}}
	}
	const jsonOK, textOK = `{"message":"Published"}` + "\n", "Published\n"
	const badRequest = "HTTP/1.1 400 Bad Request"
	return []*Case{
		refuse("A1", "GET /", "GET / HTTP/1.1\r\n"+host+"\r\n", "HTTP/1.1 200 OK", "Pushpin API\n"),
		refuse("A1-post", "POST / with a body", "POST / HTTP/1.1\r\n"+host+"Content-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK", "Pushpin API\n"),
		refuse("A2", "POST without Content-Length", "POST / HTTP/1.1\r\n"+host+"\r\n", "HTTP/1.1 411 Length Required", "Request requires Content-Length.\n"),
		refuse("A2-chunked", "POST in chunks", "POST /publish HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 411 Length Required", "Request requires Content-Length.\n"),
		accept("A4", "text/plain, application/json;q=0.1", "application/json", jsonOK),
		accept("A5", "application/json, text/plain", "text/plain", textOK),
		accept("A5-any", "*/*", "text/plain", textOK),
		accept("A5-app", "application/*", "application/json", jsonOK),
		accept("A6", "text/html", "", ""),
		accept("A6-fallback", "text/html, */*;q=0.1", "text/plain", textOK),
		{
			ID: "A3", Title: "an empty list of items", Source: "GRIP section 9.3",
			Run: func(t *T) {
				for _, path := range []string{"/publish", "/publish/"} {
					t.controlError(t.PostControl(path, `{"items":[]}`), "HTTP/1.1 200 OK", "Published\n")
				}
			},
		},
		{
			ID: "A7", Title: "GET /publish", Source: "GRIP section 9.3",
			Run: func(t *T) {
				t.controlError(t.Control("GET /publish HTTP/1.1\r\n"+host+"\r\n"), "HTTP/1.1 405 Method Not Allowed", "Method not allowed: GET.\n", "Allow: POST")
				t.controlError(t.Control("DELETE /recover/ HTTP/1.1\r\n"+host+"\r\n"), "HTTP/1.1 405 Method Not Allowed", "Method not allowed: DELETE.\n", "Allow: POST")
			},
		},
		{
			ID: "A8", Title: "unknown paths", Source: "GRIP section 9.3",
			Run: func(t *T) {
				for _, path := range []string{"/publish//", "/foo", "/publishx"} {
					t.controlError(t.PostControl(path, `{"items":[]}`, "Accept: application/json"), "HTTP/1.1 404 Not Found", "Not Found\n")
				}
			},
		},
		body("A9", `{`, "Body is not valid JSON.\n"),
		body("A9-empty", ``, "Body is not valid JSON.\n"),
		body("A9-number", `5`, "Body is not valid JSON.\n"),
		body("A9-null", `null`, "Body is not valid JSON.\n"),
		body("A9-junk", `{"items":[]}x`, "Body is not valid JSON.\n"),
		body("A9-utf8", "{\"items\":[],\"x\":\"\xff\"}", "Body is not valid JSON.\n"),
		body("A9-list", `[]`, "Invalid format.\n"),
		body("A9-items", `{}`, "Invalid format: object does not contain 'items'\n"),
		body("A9-type", `{"items":{}}`, "Invalid format: object contains 'items' with wrong type\n"),
		{
			ID: "A10", Title: "POST /recover", Source: "GRIP section 9.3", Alone: true,
			Run: func(t *T) {
				t.controlError(t.PostControl("/recover", ""), "HTTP/1.1 200 OK", "Updated\n")
				t.Equal("body as JSON", t.PostControl("/recover/", "", "Accept: application/json").Body, `{"message":"Updated"}`+"\n")
			},
		},
		refuse("A11", "a body over the limit", "POST /publish HTTP/1.1\r\n"+host+"Content-Length: 1000001\r\n\r\n", badRequest, "Request body too large.\n"),
		refuse("A11-number", "a Content-Length that is no number", "POST /publish HTTP/1.1\r\n"+host+"Content-Length: abc\r\n\r\n", badRequest, "Bad Content-Length.\n"),
		refuse("A11-longer", "more body than was announced", "POST /publish HTTP/1.1\r\n"+host+"Content-Length: 2\r\n\r\n{}x", badRequest, "Request body exceeded Content-Length.\n"),
		refuse("A11-header", "a header over the limit", "GET / HTTP/1.1\r\n"+host+"X-A: "+strings.Repeat("a", 10000)+"\r\n\r\n", badRequest, "Request header too large.\n"),
		refuse("A11-line", "a request line that is none", "GET\r\n\r\n", badRequest, "Failed to parse request header.\n"),
		{
			ID: "A11-obeyed", Title: "the limits can be set", Source: "operations, handler", Alone: true, Set: []string{"handler/push_in_http_max_body_size=2000"},
			Pushpin: "newest: 1.36 ignores them",
			Run: func(t *T) {
				t.controlError(t.Control("POST /publish HTTP/1.1\r\n"+host+"Content-Length: 2001\r\n\r\n"), badRequest, "Request body too large.\n")
			},
		},
		{
			ID: "A12", Title: "an HTTP/1.0 client", Source: "GRIP section 9.1",
			Run: func(t *T) {
				c := t.dial(t.Proxy.Control)
				c.Send("POST /publish/ HTTP/1.0\r\nContent-Length: 12\r\n\r\n{\"items\":[]}")
				r := c.Read("POST")
				t.Equal("status line", r.Line, "HTTP/1.0 200 OK")
				t.Equal("body", r.Body, "Published\n")
				c.Closed()
			},
		},
		{
			ID: "A12-close", Title: "one request for a connection", Source: "GRIP section 9.1",
			Run: func(t *T) {
				c := t.dial(t.Proxy.Control)
				c.Send("GET / HTTP/1.1\r\n" + host + "\r\n")
				c.Read("GET")
				c.Closed()
			},
		},
		{
			ID: "A12-lf", Title: "line ends without CR", Source: "GRIP section 9.1",
			Run: func(t *T) {
				t.Equal("body", t.Control("POST /publish HTTP/1.1\nHost: x\nContent-Length: 12\n\n{\"items\":[]}").Body, "Published\n")
			},
		},
		{
			ID: "A13", Title: "Expect: 100-continue", Source: "GRIP section 9.1",
			Run: func(t *T) {
				c := t.dial(t.Proxy.Control)
				c.Send("POST /publish HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nContent-Length: 12\r\n\r\n")
				t.Equal("interim status line", c.Head("POST").Line, "HTTP/1.1 100 Continue")
				c.Send(`{"items":[]}`)
				t.Equal("status line", c.Read("POST").Line, "HTTP/1.1 200 OK")
			},
		},
		{
			ID: "A14", Title: "a publish of 900,000 bytes", Source: "GRIP section 9.1",
			Run: func(t *T) {
				ch, data := t.Ch("c"), pattern(800000)
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, data))
				c.Next(r, data)
			},
		},
		{
			ID: "A15", Title: "an empty Authorization does no harm", Source: "operations, what client libraries send",
			Run: func(t *T) {
				t.Equal("body", t.PostControl("/publish/", `{"items":[]}`, "Authorization: ", "Content-Type: application/json").Body, "Published\n")
			},
		},
	}
}
