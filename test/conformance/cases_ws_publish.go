package main

import (
	"fmt"
	"strings"
	"time"
)

// wsMessage is an item for WebSockets with the members of its format.
func wsMessage(channel, members string, more ...string) string {
	return item(channel, `"ws-message":{`+members+`}`, more...)
}

// wsItem is an item that sends text.
func wsItem(channel, content string, more ...string) string {
	return wsMessage(channel, `"content":`+quote(content), more...)
}

// gripCase is a case with a client, an origin that has taken GRIP up, and a
// channel that no one is subscribed to yet.
func gripCase(id, title, section, mark string, run func(t *T, c, o *wsConn, ch string)) *Case {
	return &Case{
		ID: "ws-" + id, Title: title, Source: wsSource + section, Pushpin: mark,
		Run: func(t *T) {
			c, o := t.wsPair("grip")
			run(t, c, o, t.Ch("c"))
		},
	}
}

// wsControlCases are about control messages.
func wsControlCases() []*Case {
	ignored := func(id string, messages ...string) *Case {
		return gripCase(id, fmt.Sprintf("control messages that are none: %q", messages), "3", "", func(t *T, c, o *wsConn, ch string) {
			for _, m := range messages {
				o.Send(wsText("c:" + m))
			}
			settle(c, o)
			o.subscribe(ch)
			t.Publish(wsItem("", "no"), wsItem("5", "no"), wsItem(ch, "x"))
			c.Expect(wsText("x"))
		})
	}
	// unsubscribed has a subscription refused.
	unsubscribed := func(id, members string) *Case {
		return gripCase(id, "a subscription that is ignored: "+members, "3", "", func(t *T, c, o *wsConn, ch string) {
			o.control(strings.ReplaceAll(members, "CH", ch))
			settle(c, o)
			end := ch + "-end"
			o.subscribe(end)
			t.Publish(wsItem(ch, "no"), wsItem(end, "end"))
			c.Expect(wsText("end"))
		})
	}
	// timed sends control messages and says what the client gets, and when the
	// last of it.
	timed := func(id, title, mark string, from, to time.Duration, control []string, want ...wsFrame) *Case {
		return gripCase(id, title, "3, 5.1", mark, func(t *T, c, o *wsConn, _ string) {
			began := time.Now()
			for _, m := range control {
				o.control(m)
			}
			c.Expect(want...)
			// Pushpin counts from when its loop last looked at the clock.
			if d := since(began); d < from-500*time.Millisecond || d > to+time.Second {
				t.Fatalf("came after %v, want %v to %v", d, from, to)
			}
		})
	}
	const second = time.Second
	return []*Case{
		gripCase("I9", "keep-alives at intervals", "5.1", "", func(t *T, c, o *wsConn, _ string) {
			o.control(`"type":"keep-alive","content":"k","timeout":1,"mode":"interval"`)
			var got strings.Builder
			for range 8 {
				t.waitUntil(time.Now().Add(400 * time.Millisecond))
				o.Send(wsText("m:x"))
				for {
					m := c.next("a message")
					got.WriteString(m.data)
					if m.data == "x" {
						break
					}
				}
			}
			// 3.2 s at 0 to 1 s each
			if n := strings.Count(got.String(), "k"); n < 2 {
				t.Fatalf("got %q, want a k about each half second", got.String())
			}
		}),
		gripCase("I10", "no keep-alive while there is traffic", "5.1", "", func(t *T, c, o *wsConn, _ string) {
			o.control(`"type":"keep-alive","content":"k","timeout":2`)
			for range 8 {
				t.waitUntil(time.Now().Add(400 * time.Millisecond))
				o.Send(wsText("m:x"))
				c.Expect(wsText("x"))
			}
			c.Expect(wsText("k"))
		}),
		gripCase("I10-up", "traffic of the client does not hold a keep-alive back", "5.1", "", func(t *T, c, o *wsConn, _ string) {
			o.control(`"type":"keep-alive","content":"k","timeout":2`)
			for range 8 {
				t.waitUntil(time.Now().Add(300 * time.Millisecond))
				c.Send(wsText("x"))
				o.Expect(wsText("x"))
			}
			c.Expect(wsText("k"))
		}),
		timed("I8", "keep-alives", "", 0, 3*second, []string{`"type":"keep-alive","content":"k","timeout":1`}, wsText("k"), wsText("k"), wsText("k")),
		timed("I11", "keep-alives are turned off", "", 4*second, 4*second, []string{
			`"type":"keep-alive","content":"k","timeout":3`, `"type":"keep-alive"`,
			`"type":"send-delayed","content":"end","timeout":4`,
		}, wsText("end")),
		timed("I12", "a keep-alive with content in Base64 is text", "", 0, 2*second, []string{`"type":"keep-alive","content-bin":"AAE=","timeout":1`}, wsText("\x00\x01"), wsText("\x00\x01")),
		timed("I12-binary", "a binary keep-alive", "", 0, second, []string{`"type":"keep-alive","content-bin":"AP8=","message-type":"binary","timeout":1`}, wsBinary("\x00\xff")),
		timed("I12-empty", "an empty keep-alive", "", 0, second, []string{`"type":"keep-alive","content":"","timeout":1`}, wsText("")),
		timed("I13", "a keep-alive is a ping", "", 0, second, []string{`"type":"keep-alive","content-bin":"AAE=","message-type":"ping","timeout":1`}, wsPing("\x00\x01")),
		timed("I13-pong", "a keep-alive is a pong", "", 0, second, []string{`"type":"keep-alive","content":"","message-type":"pong","timeout":1`}, wsPong("")),
		timed("I14", "a timeout as a string", "", 0, second, []string{`"type":"keep-alive","content":"k","timeout":"1"`}, wsText("k")),
		timed("I14-zero", "a timeout of 0 is the usual one", "", 2*second, 2*second, []string{
			`"type":"keep-alive","content":"k","timeout":0`,
			`"type":"send-delayed","content":"end","timeout":2`,
		}, wsText("end")),
		timed("I14-negative", "a negative timeout", "", 0, second, []string{
			`"type":"keep-alive","content":"a","timeout":1`,
			`"type":"keep-alive","content":"b","timeout":-1`,
		}, wsText("a")),
		timed("I15", "a delayed message gives way to the next", "", second, second, []string{
			`"type":"send-delayed","content":"d3","timeout":5`,
			`"type":"send-delayed","content":"d4","timeout":1`,
		}, wsText("d3"), wsText("d4")),
		timed("I16", "a delayed message is flushed once", "", 0, second, []string{
			`"type":"send-delayed","content":"d5","timeout":5`, `"type":"flush-delayed"`,
			`"type":"flush-delayed"`, `"type":"send-delayed","content":"end","timeout":1`,
		}, wsText("d5"), wsText("end")),
		timed("I17", "a delayed message without content", "", second, second, []string{`"type":"send-delayed"`}, wsText("")),
		timed("I17-ping", "a delayed ping", "", 0, second, []string{`"type":"send-delayed","content":"","message-type":"ping","timeout":1`}, wsPing("")),

		ignored("I1", "notjson", "[]", "5", "{}", `{"type":"zz"}`, `{"type":5}`, "", `{"type":null}`, `{"type":"subscribe"`),
		ignored("I2", `{"type":"subscribe"}`, `{"type":"subscribe","channel":""}`, `{"type":"subscribe","channel":5}`, `{"type":"subscribe","channel":null}`,
			`{"type":"unsubscribe"}`, `{"type":"unsubscribe","channel":"never"}`, `{"type":"set-meta"}`, `{"type":"set-meta","name":""}`, `{"type":"set-meta","name":"a","value":5}`,
			`{"type":"keep-alive","content":"k","message-type":"zz","timeout":1}`),
		unsubscribed("I2-filters", `"type":"subscribe","channel":"CH","filters":"x"`),
		unsubscribed("I2-element", `"type":"subscribe","channel":"CH","filters":[5]`),
		unsubscribed("I2-case", `"type":"Subscribe","channel":"CH"`),
		gripCase("I3", "blanks around and members that are not known", "3", "", func(t *T, c, o *wsConn, ch string) {
			o.Send(wsText("c: \t" + `{"foo":1,"type":"subscribe","channel":` + quote(ch) + `,"bar":{"type":"detach"}}` + "\r\n "))
			t.Subscribed(ch)
			t.Publish(wsItem(ch, "x"))
			c.Expect(wsText("x"))
		}),
		gripCase("I3-null", "an optional member that is null", "3", "newest: 1.36 wants a list", func(t *T, c, o *wsConn, ch string) {
			t.Within(3 * time.Second)
			o.subscribe(ch, `"filters":null`)
			t.Publish(wsItem(ch, "x"))
			c.Expect(wsText("x"))
		}),
		gripCase("I3-names", "channel names of all kinds", "3", "", func(t *T, c, o *wsConn, ch string) {
			for _, name := range []string{ch + " a b", ch + "/é☃", ch + `"\`, ch + strings.Repeat("x", 500)} {
				o.subscribe(name)
				t.Publish(wsItem(name, "x"))
				c.Expect(wsText("x"))
			}
		}),
		gripCase("I4", "the limit of 20 channels", "3", "", func(t *T, c, o *wsConn, ch string) {
			name := func(i int) string { return fmt.Sprint(ch, "-L", i) }
			for i := range 22 {
				o.control(subscription(name(i)))
			}
			settle(c, o)
			for i := range 22 {
				t.Publish(wsItem(name(i), fmt.Sprint(i)))
			}
			t.Publish(wsItem(name(0), "end"))
			for i := range 20 {
				c.Expect(wsText(fmt.Sprint(i)))
			}
			c.Expect(wsText("end"))
			o.control(`"type":"unsubscribe","channel":` + quote(name(0)))
			o.subscribe(name(21))
			settle(c, o)
			t.Publish(wsItem(name(0), "no"), wsItem(name(21), "yes"))
			c.Expect(wsText("yes"))
		}),
		gripCase("I4-again", "filters can be changed at the limit", "8, Q22", "wrong: the message is ignored", func(t *T, c, o *wsConn, ch string) {
			for i := range 19 {
				o.control(subscription(fmt.Sprint(ch, "-L", i)))
			}
			o.subscribe(ch)
			o.control(`"type":"set-meta","name":"user","value":"al"`)
			o.control(subscription(ch, `"filters":["skip-self"]`))
			settle(c, o)
			t.Publish(wsItem(ch, "no", `"meta":{"sender":"al"}`), wsItem(ch, "yes"))
			c.Expect(wsText("yes"))
		}),
		{
			ID: "ws-I6", Title: "the prefix of the route", Source: wsSource + "3", Routes: []string{"{host},prefix=px- {origin},sub=ip-{id}"},
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				pp, ip := t.Ch("pp"), "ip-"+strings.ToLower(t.ID)
				o.control(subscription(pp))
				t.Subscribed("px-"+pp, ip)
				// An implicit channel cannot be removed.
				o.control(`"type":"unsubscribe","channel":` + quote(ip))
				settle(c, o)
				t.Publish(wsItem(pp, "no"), wsItem("px-"+ip, "no"), wsItem("px-"+pp, "1"), wsItem(ip, "2"))
				c.Expect(wsText("1"), wsText("2"))
				o.control(`"type":"unsubscribe","channel":` + quote(pp))
				settle(c, o)
				t.Publish(wsItem("px-"+pp, "no"), wsItem(ip, "3"))
				c.Expect(wsText("3"))
			},
		},
		{
			ID: "ws-I6-two", Title: "two channels of the target", Source: wsSource + "3", Routes: []string{"{host} {origin},sub=a-{id},sub=b-{id}"},
			Run: func(t *T) {
				c, _ := t.wsPair("grip")
				id := strings.ToLower(t.ID)
				t.Subscribed("a-"+id, "b-"+id)
				t.Publish(wsItem("a-"+id, "1"), wsItem("b-"+id, "2"))
				c.Expect(wsText("1"), wsText("2"))
			},
		},
		gripCase("I5", "unsubscribing", "3", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(wsItem(ch, "1"))
			c.Expect(wsText("1"))
			o.control(`"type":"unsubscribe","channel":` + quote(ch))
			settle(c, o)
			t.Publish(wsItem(ch, "no"))
			o.control(subscription(ch))
			settle(c, o)
			t.Publish(wsItem(ch, "2"))
			c.Expect(wsText("2"))
		}),
		gripCase("I5-twice", "subscribing twice counts once", "4.3", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			o.control(subscription(ch))
			settle(c, o)
			t.Publish(wsItem(ch, "1"), wsItem(ch, "2"))
			c.Expect(wsText("1"), wsText("2"))
		}),
		{
			ID: "ws-I18", Title: "a delayed message within a relayed one", Source: wsSource + "8, Q21", Pushpin: "fatal: it is sent again and again, then the proxy aborts",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				o.control(`"type":"send-delayed","content":"d","timeout":1`)
				o.Send(wsText("m:" + pattern(20000)).more())
				t.waitUntil(time.Now().Add(1500 * time.Millisecond))
				o.Send(wsCont("f2"))
				c.ExpectAny(wsText(pattern(20000)+"f2"), wsText("d"))
				o.Send(wsText("m:n"))
				c.Expect(wsText("n"))
				settle(c, o)
			},
		},
		gripCase("I19", "metadata", "3, 4.5", "", func(t *T, c, o *wsConn, ch string) {
			o.control(`"type":"set-meta","name":"user","value":"alice"`)
			o.subscribe(ch, `"filters":["skip-self"]`)
			t.Publish(wsItem(ch, "no", `"meta":{"sender":"alice"}`), wsItem(ch, "1", `"meta":{"sender":"bob"}`))
			c.Expect(wsText("1"))
			o.control(`"type":"set-meta","name":"user"`)
			settle(c, o)
			t.Publish(wsItem(ch, "2", `"meta":{"sender":"alice"}`))
			c.Expect(wsText("2"))
		}),
		gripCase("I20", "more than five filters", "3", "newest: since 1.41", func(_ *T, c, o *wsConn, ch string) {
			o.control(subscription(ch, `"filters":["a","b","c","d","e","f"]`))
			c.ClosedWith(1011, "")
		}),
		{
			ID: "ws-I20-debug", Title: "more than five filters, debug", Source: wsSource + "3", Debug: true, Pushpin: "newest: since 1.41",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.control(subscription(ch, `"filters":["a","b","c","d","e","f"]`))
				c.ClosedWith(1011, "too many filters for channel '"+ch+"'")
			},
		},
		gripCase("I-order", "a subscription comes before the message after it", "1.8", "sometimes: it crosses to another process", func(t *T, c, o *wsConn, ch string) {
			o.control(subscription(ch))
			o.Send(wsText("m:ready"))
			c.Expect(wsText("ready"))
			t.Publish(wsItem(ch, "x"))
			c.Expect(wsText("x"))
		}),
	}
}

// wsPublishCases are about the format "ws-message".
func wsPublishCases() []*Case {
	good := func(id, members, mark string, want wsFrame) *Case {
		return gripCase(id, "ws-message {"+clip(members, "")+"}", "4.2", mark, func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(wsMessage(ch, members), wsItem(ch, "end"))
			c.Expect(want, wsText("end"))
		})
	}
	bad := func(id, format, text string) *Case {
		return badItem("ws-"+id, `{"channel":"c","formats":{`+format+`}}`, text)
	}
	cs := []*Case{
		good("J1", `"content":"hello"`, "", wsText("hello")),
		good("J1-empty", `"content":""`, "", wsText("")),
		good("J2", `"type":"binary","content":"hello"`, "", wsBinary("hello")),
		good("J3", `"content-bin":"AAEC"`, "", wsBinary("\x00\x01\x02")),
		good("J3-both", `"content-bin":"AAEC","content":"x"`, "", wsBinary("\x00\x01\x02")),
		good("J4", `"type":"text","content-bin":"aGk="`, "", wsText("hi")),
		good("J5", `"type":"ping"`, "wrong: it is lost", wsPing("")),
		good("J5-content", `"type":"ping","content":"x"`, "", wsPing("x")),
		good("J5-pong", `"type":"pong","content-bin":"AP8="`, "", wsPong("\x00\xff")),
		good("J-send", `"action":"send","content":"x"`, "", wsText("x")),
		good("J-utf8", `"content":"\u00e9\u2603\ud83d\ude00"`, "", wsText("é☃😀")),
		good("J-65535", `"content":`+quote(pattern(65535)), "wrong: what follows is discarded", wsText(pattern(65535))),
		gripCase("J-hint", "a hint does nothing", "4.2", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(wsMessage(ch, `"action":"hint"`), wsItem(ch, "x"))
			c.Expect(wsText("x"))
		}),
		bad("J6", `"ws-message":{"type":"text"}`, "'ws-message' does not contain 'content' or 'content-bin'"),
		bad("J6-none", `"ws-message":{}`, "'ws-message' does not contain 'content' or 'content-bin'"),
		bad("J7", `"ws-message":{"type":"foo","content":"x"}`, "'ws-message' contains 'type' with unknown value"),
		bad("J8", `"ws-message":{"content":5}`, "'ws-message' contains 'content' with wrong type"),
		bad("J8-bin", `"ws-message":{"content-bin":5}`, "'ws-message' contains 'content-bin' with wrong type"),
		bad("J9", `"ws-message":"x"`, "'ws-message' is not an object"),
		bad("J12", `"ws-message":{"action":"close","code":-1}`, "'ws-message' contains 'code' with invalid value"),
		bad("J12-type", `"ws-message":{"action":"close","code":[]}`, "'ws-message' contains 'code' with wrong type"),
		bad("J12-reason", `"ws-message":{"action":"close","code":1001,"reason":5}`, "'ws-message' contains 'reason' with wrong type"),
		bad("J13", `"ws-message":{"content":"x","content-filters":"a"}`, "'ws-message' contains 'content-filters' with wrong type"),
		gripCase("J10", "a close without a code", "4.2", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(wsItem(ch, "x"), wsMessage(ch, `"action":"close"`))
			c.Expect(wsText("x"))
			c.ClosedWith(1000, "")
			o.closedBy(wsClose(1000, ""), wsCloseRaw(""))
		}),
		gripCase("J11", "a close with a code", "4.2", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(wsMessage(ch, `"action":"close","code":1001`))
			c.ClosedWith(1001, "")
		}),
		gripCase("J16", "a format beside the channel", "4.1", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(`{"channel":` + quote(ch) + `,"ws-message":{"content":"s"}}`)
			c.Expect(wsText("s"))
		}),
		gripCase("J17", "one bad item of two", "4.1", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			r := t.PostControl("/publish/", `{"items":[`+wsItem(ch, "no")+`,`+wsMessage(ch, "")+`]}`)
			t.Equal("status line", r.Line, "HTTP/1.1 400 Bad Request")
			t.Publish(wsItem(ch, "x"))
			c.Expect(wsText("x"))
		}),
		gripCase("J-formats", "an item for streams, responses and WebSockets", "4.1", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(item(ch, `"http-stream":{"content":"no"},"ws-message":{"content":"w"},"http-response":{"body":"no"}`), streamItem(ch, "no"), wsItem(ch, "end"))
			c.Expect(wsText("w"), wsText("end"))
		}),
		gripCase("J-push", "items by ZeroMQ", "4.1", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Push(tnet(tmap{{"channel", ch}, {"formats", tmap{{"ws-message", tmap{{"content-bin", "\x00\xff"}}}}}}))
			c.Expect(wsBinary("\x00\xff"))
			t.Push("J" + wsItem(ch, "json"))
			c.Expect(wsText("json"))
			t.PublishSub(ch, "J"+`{"formats":{"ws-message":{"content":"sub"}}}`)
			c.Expect(wsText("sub"))
		}),
	}
	for code, text := range map[string]string{"0": "invalid", "1005": "invalid", "1006": "invalid", "99999": "invalid"} {
		cs = append(cs, &Case{
			ID: "ws-J12-" + code, Title: "a close with the code " + code, Source: wsSource + "8, Q8", Pushpin: "wrong: it is sent",
			Run: func(t *T) {
				r := t.PostControl("/publish/", `{"items":[`+wsMessage("c", `"action":"close","code":`+code)+`]}`)
				t.Equal("status line", r.Line, "HTTP/1.1 400 Bad Request")
				t.Contains("body", r.Body, "'code' with "+text+" value")
			},
		})
	}
	return cs
}

// wsDeliveryCases are about the way of an item to a WebSocket.
func wsDeliveryCases() []*Case {
	type i = [2]string
	// filtered publishes items, each content and meta, to a subscription with
	// filters and metadata.
	filtered := func(id, title, mark, filters string, meta []string, items []i, want ...string) *Case {
		return gripCase(id, title, "4.5", mark, func(t *T, c, o *wsConn, ch string) {
			t.Within(4 * time.Second)
			for _, m := range meta {
				name, value, _ := strings.Cut(m, "=")
				o.control(`"type":"set-meta","name":` + quote(name) + `,"value":` + quote(value))
			}
			o.subscribe(ch, `"filters":`+filters)
			for _, it := range items {
				more := `"meta":{` + it[1] + `}`
				if strings.HasPrefix(it[1], "[") {
					t.Publish(wsMessage(ch, `"content":`+quote(it[0])+`,"content-filters":`+it[1]))
					continue
				}
				t.Publish(wsItem(ch, it[0], more))
			}
			for _, w := range want {
				c.Expect(wsText(w))
			}
			o.Send(wsPing(""))
			c.Expect(wsPing(""))
		})
	}
	// ordered publishes items, each content, id and prev-id, "!" for no-seq.
	ordered := func(id, title string, late time.Duration, items [][3]string, want string) *Case {
		return gripCase(id, title, "4.3", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			began := time.Now()
			for _, it := range items {
				prev, noSeq := strings.CutSuffix(it[2], "!")
				var more []string
				if members := ids(it[1], prev); members != "" {
					more = append(more, members)
				}
				if noSeq {
					more = append(more, `"no-seq":true`)
				}
				t.Publish(wsItem(ch, it[0], more...))
			}
			for _, w := range strings.Split(want, " ") {
				c.Expect(wsText(w))
			}
			if d := since(began); d < late || d > late+3*time.Second {
				t.Fatalf("arrived after %v, want %v", d, late)
			}
		})
	}
	// network filters ask the second origin.
	network := func(id, title, filter, answer, want string) *Case {
		return gripCase(id, title, "4.5", "newest: since 2.0", func(t *T, c, o *wsConn, ch string) {
			t.origins[1].handle(func(x *Exchange) {
				select { // what is published next has to wait for this
				case <-time.After(200 * time.Millisecond):
				case <-t.ctx.Done():
				}
				x.Send(answer)
			})
			o.control(`"type":"set-meta","name":"url","value":` + quote("http://"+t.origins[1].addr()+"/check"))
			o.subscribe(ch, `"filters":["`+filter+`"]`)
			o.subscribe(ch + "-end")
			t.Publish(wsItem(ch, "orig", `"meta":{"k":"v"}`))
			r := t.Request2()
			t.Equal("request line", r.Line, "POST /check HTTP/1.1")
			t.Contains("Pub-Meta", r.Get("Pub-Meta"), `"k"`)
			t.Contains("Sub-Meta", r.Get("Sub-Meta"), `"url"`)
			wantBody := ""
			if filter == "http-modify" {
				wantBody = "orig"
			}
			t.Equal("body", r.Body, wantBody)
			// Items of one connection stay in order.
			t.Publish(wsItem(ch+"-end", "end"))
			if want != "" {
				c.Expect(wsText(want))
			}
			c.Expect(wsText("end"))
		})
	}
	subst := []string{"user=bob"}
	cs := []*Case{
		ordered("K14", "an item whose predecessor never comes is late", 4900*time.Millisecond, [][3]string{{"b7", "b7", ""}, {"b9", "b9", "b8"}}, "b7 b9"),
		ordered("K15", "no-seq does not wait and does not count", 4900*time.Millisecond, [][3]string{{"b9", "b9", ""}, {"c9", "c9", "zz!"}, {"d1", "d1", "c9"}}, "b9 c9 d1"),
		ordered("K13", "order and repetition", 0, [][3]string{{"a1", "a1", ""}, {"again", "a1", ""}, {"a3", "a3", "a2"}, {"a2", "a2", "a1"}, {"a4", "a4", "a3"}}, "a1 a2 a3 a4"),
		gripCase("K16", "the same id on two channels", "4.3", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			o.subscribe(ch + "2")
			t.Publish(wsItem(ch, "1", ids("x", "")), wsItem(ch+"2", "2", ids("x", "")))
			c.Expect(wsText("1"), wsText("2"))
		}),
		gripCase("K1", "large publications", "4.4", "sometimes: dropped when the window is used up", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			t.Publish(wsItem(ch, pattern(50000)))
			c.Expect(wsText(pattern(50000)))
			t.Publish(wsItem(ch, pattern(800000)))
			c.Expect(wsText(pattern(800000)))
		}),
		gripCase("K2", "a publication within a relayed message", "8, Q2", "wrong: it is discarded", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			o.Send(wsText("m:" + pattern(20000)).more())
			t.pause()
			t.Publish(wsItem(ch, "pub"))
			t.pause()
			o.Send(wsCont("end"))
			// Whoever collects the message first may send the other before it.
			c.ExpectAny(wsText(pattern(20000)+"end"), wsText("pub"))
		}),
		gripCase("K3", "300 items at once", "8, Q2", "wrong: most are discarded", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			var items []string
			for n := range 300 {
				items = append(items, wsItem(ch, fmt.Sprintf("%03d", n)+pattern(1000)))
			}
			t.Publish(items...)
			for n := range 300 {
				c.Expect(wsText(fmt.Sprintf("%03d", n) + pattern(1000)))
			}
		}),
		gripCase("K3-large", "10 items of 20,000 bytes at once", "8, Q2", "wrong: most are discarded", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			var items []string
			for n := range 10 {
				items = append(items, wsItem(ch, fmt.Sprintf("%03d", n)+pattern(20000)))
			}
			t.Publish(items...)
			for n := range 10 {
				c.Expect(wsText(fmt.Sprintf("%03d", n) + pattern(20000)))
			}
		}),
		gripCase("K3-push", "300 items by ZeroMQ, one after the other", "4.3", "wrong: some are discarded", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			var items []string
			for n := range 300 {
				items = append(items, "J"+wsItem(ch, fmt.Sprintf("%03d", n)+pattern(500)))
			}
			t.Push(items...)
			for n := range 300 {
				c.Expect(wsText(fmt.Sprintf("%03d", n) + pattern(500)))
			}
		}),
		gripCase("K3-two", "two channels in the order of publishing", "4.3", "", func(t *T, c, o *wsConn, ch string) {
			o.subscribe(ch)
			o.subscribe(ch + "2")
			for n := range 20 {
				t.Publish(wsItem(ch, fmt.Sprint("a", n)), wsItem(ch+"2", fmt.Sprint("b", n)))
			}
			for n := range 20 {
				c.Expect(wsText(fmt.Sprint("a", n)), wsText(fmt.Sprint("b", n)))
			}
		}),
		{
			ID: "ws-K-many", Title: "50 clients on one channel", Source: wsSource + "4.3", Routes: []string{"{host} test"},
			Run: func(t *T) {
				ch := t.Ch("c")
				var cs []*wsConn
				for range 50 {
					c := t.WebSocket("/ws?channel=" + ch)
					c.Send(wsText("ready"))
					c.Expect(wsText("ready"))
					cs = append(cs, c)
				}
				t.Subscribed(ch)
				t.pause() // a subscription of the last may be on its way
				for n := range 5 {
					t.Publish(wsItem(ch, fmt.Sprint(n)))
				}
				for _, c := range cs {
					for n := range 5 {
						c.Expect(wsText(fmt.Sprint(n)))
					}
				}
			},
		},
		{
			ID: "ws-K-rate", Title: "a limit of the rate", Source: wsSource + "4.3", Alone: true, Set: []string{"handler/message_rate=20"},
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch)
				var items []string
				for n := range 20 {
					items = append(items, wsItem(ch, fmt.Sprint(n)))
				}
				began := time.Now()
				t.Publish(items...)
				for n := range 20 {
					c.Expect(wsText(fmt.Sprint(n)))
				}
				if d := since(began); d < 900*time.Millisecond || d > 4*time.Second {
					t.Fatalf("20 items at 20 per second took %v", d)
				}
			},
		},
		filtered("K4", "var-subst and skip-self", "", `["skip-self","var-subst"]`, subst, []i{{"hi %(user)s, 100%%", ""}, {"no", `"sender":"bob"`}}, "hi bob, 100%"),
		filtered("K6", "var-subst without the variable", "", `["var-subst"]`, subst, []i{{"a %(zzz)s", ""}, {"%", ""}, {"%d", ""}, {"b", ""}}, "b"),
		filtered("K7", "skip-users", "", `["skip-users"]`, []string{"user=al"}, []i{{"no", `"skip_users":"x, al"`}, {"yes", `"skip_users":"x, all"`}}, "yes"),
		filtered("K-unknown", "an unknown filter", "", `["nope"]`, nil, []i{{"x%(a)s", ""}}, "x%(a)s"),
		filtered("K-build-id", "build-id", "newest: 1.36 has no ids on WebSockets", `["build-id"]`, []string{"id_format=A-B"}, []i{{"x%Iy%%", ""}}, "xA-By%"),
		filtered("K9", "content-filters", "", `["var-subst","skip-users"]`, subst,
			[]i{{"1%%", `["var-subst"]`}, {"no", `[]`}, {"no", `["var-subst","build-id"]`}, {"2%%", ""}, {"no", `["skip-users"]`}}, "1%", "2%"),
		filtered("K9-none", "content-filters of a subscription without filters", "", `[]`, subst, []i{{"1", `[]`}, {"no", `["var-subst"]`}, {"2", ""}}, "1", "2"),
		gripCase("K8", "require-sub", "4.5", "newest: it always dropped on WebSockets", func(t *T, c, o *wsConn, ch string) {
			other := ch + "-other"
			o.subscribe(ch, `"filters":["require-sub"]`)
			t.Publish(wsItem(ch, "no", `"meta":{"require_sub":`+quote(other)+`}`), wsItem(ch, "1"))
			c.Expect(wsText("1"))
			o.subscribe(other)
			t.Publish(wsItem(ch, "2", `"meta":{"require_sub":`+quote(other)+`}`))
			c.Expect(wsText("2"))
		}),
		gripCase("K-close", "a close is filtered", "4.5", "", func(t *T, c, o *wsConn, ch string) {
			o.control(`"type":"set-meta","name":"user","value":"al"`)
			o.subscribe(ch, `"filters":["skip-self"]`)
			t.Publish(wsMessage(ch, `"action":"close","code":4000`, `"meta":{"sender":"al"}`), wsItem(ch, "still here"))
			c.Expect(wsText("still here"))
			t.Publish(wsMessage(ch, `"action":"close","code":4000`, `"meta":{"sender":"bob"}`))
			c.ClosedWith(4000, "")
		}),
		{
			ID: "ws-K10", Title: "content-filters that differ, debug", Source: wsSource + "4.5", Debug: true, Pushpin: "newest: since 1.41",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch, `"filters":["var-subst"]`)
				t.Publish(wsMessage(ch, `"content":"x","content-filters":[]`))
				c.ClosedWith(1011, "content filter mismatch: subscription=var-subst message=")
			},
		},
		{
			ID: "ws-K6-debug", Title: "var-subst without the variable, debug", Source: wsSource + "4.5", Debug: true, Pushpin: "newest: since 1.41",
			Run: func(t *T) {
				c, o := t.wsPair("grip")
				ch := t.Ch("c")
				o.subscribe(ch, `"filters":["var-subst"]`)
				t.Publish(wsItem(ch, "a %(zzz)s"))
				m := c.next("a Close")
				if m.op != opClose || !strings.HasPrefix(m.data, wsClose(1011, "filter error: ").data) {
					t.Fatalf("the client got %s, want a Close 1011 with a filter error", m)
				}
			},
		},
		network("K11", "http-check lets an item through", "http-check", reply("200 OK", "", "x"), "orig"),
		network("K11-drop", "http-check drops an item", "http-check", reply("200 OK", "Action: drop", ""), ""),
		network("K11-error", "http-check gets an error", "http-check", reply("400 No", "", ""), ""),
		network("K12-204", "http-modify leaves an item", "http-modify", reply("204 No", "", ""), "orig"),
		network("K12-200", "http-modify changes an item", "http-modify", reply("200 OK", "", "new"), "new"),
		network("K12-drop", "http-modify drops an item", "http-modify", reply("200 OK", "Action: drop", "new"), ""),
	}
	return cs
}
