package main

import (
	"strings"
	"time"
)

// sequence publishes items to a stream one call after the other and compares
// what it receives. Each item is content, id and prev-id; "-" leaves one out.
func sequence(id, title, want string, late time.Duration, items ...[3]string) *Case {
	return &Case{
		ID: id, Title: title, Source: "GRIP section 7.5",
		Run: func(t *T) {
			t.Within(10 * time.Second)
			ch := t.Ch("c")
			t.Always(hold("stream", ch, "hi\n"))
			c, r := t.stream("/", ch)
			began := time.Now()
			for _, it := range items {
				var more []string
				if it[1] != "-" {
					more = append(more, `"id":`+quote(it[1]))
				}
				if prev, ok := strings.CutSuffix(it[2], "!"); ok {
					it[2] = prev
					more = append(more, `"no-seq":true`)
				}
				if it[2] != "-" {
					more = append(more, `"prev-id":`+quote(it[2]))
				}
				t.Publish(streamItem(ch, it[0], more...))
			}
			c.Next(r, want)
			if d := since(began); late > 0 && (d < late || d > late+3*time.Second) || late == 0 && d > 4*time.Second {
				t.Fatalf("arrived after %v, want %v", d, late)
			}
			if late == 0 { // nothing else may be on the way
				t.Publish(streamItem(ch, "."))
				c.Next(r, ".")
			}
		},
	}
}

// engineCases are about ordering, patches and filters.
func engineCases() []*Case {
	type i = [3]string
	cs := []*Case{
		sequence("S1", "a repeated id is dropped", "ac", 0, i{"a", "1", "-"}, i{"b", "1", "-"}, i{"c", "2", "-"}),
		sequence("S2", "an empty id is an id", "ac", 0, i{"a", "", "-"}, i{"b", "", "-"}, i{"c", "-", "-"}),
		sequence("S3", "items out of order are put in order", "abcd", 0, i{"a", "1", "-"}, i{"c", "3", "2"}, i{"b", "2", "1"}, i{"d", "4", "3"}),
		sequence("S4", "the first item of a channel is delivered whatever it follows", "bc", 0, i{"b", "2", "1"}, i{"c", "3", "2"}),
		sequence("S5", "an item whose predecessor never comes is late", "ac", 4900*time.Millisecond, i{"a", "1", "-"}, i{"c", "3", "2"}),
		sequence("S6", "no-seq does not wait", "ac", 0, i{"a", "1", "-"}, i{"c", "3", "2!"}),
		sequence("S7", "an item without id makes the order be forgotten", "axc", 0, i{"a", "1", "-"}, i{"x", "-", "-"}, i{"c", "3", "2"}),
		sequence("S8", "an item without prev-id does not wait", "ac", 0, i{"a", "1", "-"}, i{"c", "3", "-"}),
		sequence("S9", "of two that wait for the same item the second is dropped", "abc", 0, i{"a", "1", "-"}, i{"c", "3", "2"}, i{"C", "3b", "2"}, i{"b", "2", "1"}),
		{
			ID: "S10", Title: "the last id is forgotten when the last stream leaves", Source: "GRIP section 7.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, "a", ids("1", "")))
				c.Next(r, "a")
				c.Close()
				if !t.mon.waitGone(ch, t.deadline()) {
					t.Fatalf("the subscription stays")
				}
				t.Within(3 * time.Second)
				c, r = t.stream("/", ch)
				t.Publish(streamItem(ch, "c", ids("3", "2")))
				c.Next(r, "c")
			},
		},
		{
			ID: "S11", Title: "an id published when nobody listened counts as seen", Source: "GRIP section 7.5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				t.Publish(streamItem(ch, "a", ids("1", "")))
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, "a", ids("1", "")), streamItem(ch, "b", ids("2", "")))
				c.Next(r, "b")
			},
		},
	}
	for _, v := range []struct{ id, base, ops, want, mark string }{
		{"B1", `{"a":[1,2],"b":1}` + "\n", `[{"op":"replace","path":"/a/0","value":9},{"op":"add","path":"/c","value":null}]`, `{"a":[9,2],"b":1,"c":null}` + "\n", ""},
		{"B1-insert", `{"a":[1,2]}`, `[{"op":"add","path":"/a/0","value":9}]`, `{"a":[9,1,2]}`, "wrong: add into an array replaces"},
		{"B2", `{"a":[1,2]}` + "\r\n", `[{"op":"add","path":"/a/-","value":{"z":1.5}}]`, `{"a":[1,2,{"z":1.5}]}` + "\r\n", ""},
		{"B3", `{"a/b":1,"c~d":2}`, `[{"op":"replace","path":"/a~1b","value":10},{"op":"replace","path":"/c~0d","value":20}]`, `{"a/b":10,"c~d":20}`, ""},
		{"B4", `{"a":{"b":1},"l":[2,3]}`, `[{"op":"move","from":"/a/b","path":"/l/-"}]`, `{"a":{},"l":[2,3,1]}`, ""},
		{"B5", `{"z":1}`, `[{"op":"replace","path":"/","value":[1]}]`, `[1]`, ""},
		{"B6", `{"b":1,"a":{"d":1,"c":2}}`, `[]`, `{"a":{"c":2,"d":1},"b":1}`, ""},
		{"B8", `{"f":"x"}`, `[{"op":"test","path":"/f","value":"x"},{"op":"add","path":"/g","value":["p"]},{"op":"copy","from":"/f","path":"/g/-"},{"op":"remove","path":"/f"}]`, `{"g":["p","x"]}`, ""},
		{"B9", `[1,2,3]`, `[{"op":"remove","path":"/1"}]`, `[1,3]`, ""},
	} {
		cs = append(cs, &Case{
			ID: v.id, Title: "body-patch " + v.ops, Source: "GRIP section 7.6", Pushpin: v.mark,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(reply("200 OK", "Content-Type: application/json\nGrip-Hold: response\nGrip-Channel: "+ch, v.base))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"code":202,"body-patch":`+v.ops+`}`))
				t.Is(c.Read("GET"), "HTTP/1.1 202 Accepted", "Content-Type: application/json", v.want)
			},
		})
	}
	for _, v := range []struct{ id, base, ops string }{
		{"B7-remove", `{"a":1}`, `[{"op":"remove","path":"/zz"}]`},
		{"B7-range", `{"a":[1]}`, `[{"op":"add","path":"/a/2","value":1}]`},
		{"B7-into-itself", `{"a":{"b":1}}`, `[{"op":"move","from":"/a","path":"/a/c"}]`},
		{"B7-text", `hello`, `[]`},
		{"B7-test", `{"a":1}`, `[{"op":"test","path":"/a","value":"no"}]`},
		{"B7-op", `{"a":1}`, `[{"op":"dance","path":"/a"}]`},
	} {
		cs = append(cs, &Case{
			ID: v.id, Title: "body-patch that fails: " + v.ops + " on " + v.base, Source: "GRIP section 11, Q5",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(reply("200 OK", "Grip-Hold: response\nGrip-Channel: "+ch, v.base))
				c := t.poll("/", ch)
				t.Publish(item(ch, `"http-response":{"body-patch":`+v.ops+`}`))
				t.Error(c.Read("GET"), badGateway, generic502)
			},
		})
	}
	return append(cs, filterCases()...)
}

// filtered publishes items, each content and meta, to a stream with filters
// and metadata, and compares what it receives.
func filtered(id, title, filters, meta, want, mark string, items ...[2]string) *Case {
	return &Case{
		ID: id, Title: title, Source: "GRIP section 8", Pushpin: mark,
		Run: func(t *T) {
			t.Within(4 * time.Second)
			ch := t.Ch("c")
			header := []string{}
			if meta != "" {
				header = append(header, "Grip-Set-Meta: "+meta)
			}
			t.Always(hold("stream", ch+filters, "hi\n", header...))
			c, r := t.stream("/", ch)
			for _, it := range items {
				more := []string{}
				if it[1] != "" {
					more = append(more, `"meta":{`+it[1]+`}`)
				}
				t.Publish(streamItem(ch, it[0], more...))
			}
			c.Next(r, want)
		},
	}
}

func filterCases() []*Case {
	type i = [2]string
	const ends = "newest: in 1.36 a filter error ends the stream"
	skip, users, sub, subst, build := "; filter=skip-self", "; filter=skip-users", "; filter=require-sub", "; filter=var-subst", "; filter=build-id"
	cs := []*Case{
		filtered("F1", "skip-self", skip, "user=al", "bc", "", i{"a", `"sender":"al"`}, i{"b", `"sender":"bob"`}, i{"c", ""}),
		filtered("F2", "skip-self without a user", skip, "", "ab", "", i{"a", `"sender":"al"`}, i{"b", ""}),
		filtered("F3", "skip-users", users, "user=al", "bc", "", i{"a", `"skip_users":"bob, al ,c"`}, i{"b", `"skip_users":"bob"`}, i{"c", ""}),
		filtered("F5", "var-subst", subst, "user=al", "hi al 100%", "", i{"hi %(user)s 100%%", ""}),
		filtered("F5-two", "var-subst with several variables", subst, `a=1, b="x, y"`, "1-x, y-1", "", i{"%(a)s-%(b)s-%(a)s", ""}),
		filtered("F6", "var-subst that fails skips the message", subst, "user=al", "good", ends, i{"%(nope)s", ""}, i{"%d", ""}, i{"abc%", ""}, i{"good", ""}),
		filtered("G4", "the parameter filter has case", "; FILTER=var-subst", "a=1", "%(a)s", "", i{"%(a)s", ""}),
		filtered("G16", "Grip-Set-Meta: further parameters of a variable", subst, "a=1; b=2", "1", ends, i{"%(b)s", ""}, i{"%(a)s", ""}),
		filtered("G17", "Grip-Set-Meta: the value goes on after an equals sign", subst, "a=b=c", "b=c", "", i{"%(a)s", ""}),
		filtered("G18", "Grip-Set-Meta: later lines overwrite", subst, "a=1\nGrip-Set-Meta: a=2", "2", "", i{"%(a)s", ""}),
		filtered("F8", "build-id", build, "id_format=A-%%-B", "xA-%-By%z lit", "", i{"x%Iy%%z %(lit)I", ""}),
		filtered("F9", "build-id in hex", build, "id_format=zz, id_encoding=hex", "x7a7ay 5232", "", i{"x%Iy %(R2)I", ""}),
		filtered("F13", "filters in the order of the channel", subst+"; filter=build-id", "user=%I, id_format=q", "q", "", i{"%(user)s", ""}),
		filtered("F19", "an unknown filter does nothing", "; filter=foo", "", "a%Ib", "", i{"a%Ib", ""}),
		filtered("F-two", "two delivery filters", skip+"; filter=skip-users", "user=al", "d", "", i{"a", `"sender":"al"`}, i{"b", `"skip_users":"al"`}, i{"d", `"sender":"b","skip_users":"c"`}),
		{
			ID: "F4", Title: "require-sub", Source: "GRIP section 8",
			Run: func(t *T) {
				ch, other := t.Ch("c"), t.Ch("other")
				t.Always(hold("stream", ch+sub+", "+other, "hi\n"))
				c, r := t.stream("/", ch, other)
				t.Publish(streamItem(ch, "a", `"meta":{"require_sub":"`+other+`"}`), streamItem(ch, "b", `"meta":{"require_sub":"nowhere"}`), streamItem(ch, "d"))
				c.Next(r, "ad")
			},
		},
		{
			ID: "F1-poll", Title: "skip-self on a long-poll", Source: "GRIP section 8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("response", ch+skip, "to\n", "Grip-Set-Meta: user=al"))
				c := t.poll("/", ch)
				t.Publish(responseItem(ch, "own", `"meta":{"sender":"al"}`), responseItem(ch, "other", `"meta":{"sender":"bob"}`))
				t.Equal("body", c.Read("GET").Body, "other")
			},
		},
		{
			ID: "F1-mixed", Title: "two streams on a channel, one with a filter", Source: "GRIP section 8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					user := strings.TrimPrefix(x.Target(), "/")
					x.Send(hold("stream", ch+skip+", "+t.Ch(user), "hi\n", "Grip-Set-Meta: user="+user))
				})
				a, ra := t.stream("/al", ch, t.Ch("al"))
				b, rb := t.stream("/bob", ch, t.Ch("bob"))
				t.Publish(streamItem(ch, "1", `"meta":{"sender":"al"}`), streamItem(ch, "2", `"meta":{"sender":"bob"}`), streamItem(ch, "3"))
				a.Next(ra, "23")
				b.Next(rb, "13")
			},
		},
		{
			ID: "F5-initial", Title: "var-subst does not apply to the initial body", Source: "GRIP section 8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+subst, "hi %(user)s\n", "Grip-Set-Meta: user=al"))
				c, r := t.Open("/")
				c.Next(r, "hi %(user)s\n")
				t.Subscribed(ch)
			},
		},
		{
			ID: "F11", Title: "build-id applies to the initial body", Source: "GRIP section 8.3", Debug: true,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+build, "init %(lit)I 100%%\n", "Grip-Set-Meta: id_format=zz, id_encoding=hex"))
				c, r := t.Open("/")
				c.Next(r, "init 6c6974 100%\n")
				t.Subscribed(ch)
				t.Publish(streamItem(ch, "%I"))
				c.Next(r, "7a7a")
			},
		},
		{
			ID: "F11-error", Title: "build-id that fails on the initial body", Source: "GRIP section 8.3", Routes: []string{"{host},debug {origin}", "{host},path_beg=/quiet {origin}"},
			Run: func(t *T) {
				t.Always(hold("stream", "c"+build, "init %I\n", "Grip-Set-Meta: id_format=zz"))
				t.Equal("body", t.Get("/").Body, "\n\nfilter error: build-id: No ID specified and no default ID in context at position 6\n")
				t.Equal("body without debug", t.Get("/quiet").Body, "")
			},
		},
		{
			ID: "F11-relay", Title: "build-id applies to an answer without a hold", Source: "GRIP section 2.5", Debug: true,
			Run: func(t *T) {
				t.Answers(
					reply("200 OK", plainText+"\nGrip-Channel: c"+build+"\nGrip-Set-Meta: id_format=zz", "lit %(x)I\n"),
					reply("200 OK", plainText+"\nGrip-Channel: c"+build+"\nGrip-Set-Meta: id_format=zz", "bad %I\n"),
				)
				t.Is(t.Get("/"), "HTTP/1.1 200 OK", plainText, "lit x\n")
				t.Error(t.Get("/"), badGateway, instructFailed+"filter error: build-id: No ID specified and no default ID in context at position 5\n")
			},
		},
		{
			ID: "F14", Title: "content-filters must name the content filters of the receiver", Source: "GRIP section 7.5", Pushpin: "newest: in 1.36 a mismatch ends the stream",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+skip+subst, "hi\n", "Grip-Set-Meta: user=al"))
				c, r := t.stream("/", ch)
				it := func(content, filters string) string {
					return item(ch, `"http-stream":{"content":"`+content+`","content-filters":`+filters+`}`)
				}
				t.Publish(it("a", `[]`), it("b", `["skip-self"]`), it("d", `["var-subst"]`), it("e", `["var-subst","x"]`), streamItem(ch, "f"))
				c.Next(r, "df")
			},
		},
		{
			ID: "F15", Title: "a content-filters mismatch in debug mode", Source: "GRIP section 7.5", Debug: true,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+subst, "hi\n"))
				c, r := t.stream("/", ch)
				t.Publish(item(ch, `"http-stream":{"content":"x","content-filters":["x","y"]}`))
				c.Next(r, "\n\ncontent filter mismatch: subscription=var-subst message=x,y\n")
				c.End(r)
			},
		},
		{
			ID: "F16", Title: "skip-self keeps a stream open at a close", Source: "GRIP section 8",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+skip, "hi\n", "Grip-Set-Meta: user=al"))
				c, r := t.stream("/", ch)
				t.Publish(item(ch, `"http-stream":{"action":"close"}`, `"meta":{"sender":"al"}`), streamItem(ch, "x"))
				c.Next(r, "x")
			},
		},
		{
			ID: "F10", Title: "build-id without a format, in debug mode", Source: "GRIP section 8.3", Debug: true,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+build, "hi\n"))
				c, r := t.Open("/")
				c.Next(r, "\n\nfilter error: build-id: no sub meta 'id_format'\n")
				c.End(r)
			},
		},
		{
			ID: "F12", Title: "build-id of an initial body", Source: "GRIP section 8.3",
			Run: func(t *T) {
				t.Always(hold("stream", t.Ch("c")+build, "a %(R2)I.\n", "Grip-Set-Meta: id_format=zz, id_encoding=hex"))
				c, r := t.Open("/")
				c.Next(r, "a 5232.\n")
			},
		},
		{
			ID: "F17", Title: "http-check asks whether to deliver", Source: "GRIP section 8.6", Pushpin: "newest: http filters came with 2.0",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if !strings.HasPrefix(x.Line, "POST /check ") {
						x.Send(hold("stream", ch+"; filter=http-check", "hi\n", "Grip-Set-Meta: url=/check, user=al"))
						return
					}
					t.Equal("Sub-Meta", x.Get("Sub-Meta"), `{"url":"/check","user":"al"}`)
					switch x.Get("Pub-Meta") {
					case `{"n":"drop"}`:
						x.Send(reply("200 OK", "Action: drop", ""))
					case `{"n":"fail"}`:
						x.Send(reply("400 Bad Request", "", ""))
					default:
						x.Send(reply("200 OK", "", "not this"))
					}
				})
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, "a", `"meta":{"n":"drop"}`), streamItem(ch, "b", `"meta":{"n":"fail"}`), streamItem(ch, "d", `"meta":{"n":"pass"}`), streamItem(ch, "e"))
				c.Next(r, "de")
			},
		},
		{
			ID: "F18", Title: "http-modify replaces the content", Source: "GRIP section 8.6", Pushpin: "newest: http filters came with 2.0",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Origin(func(x *Exchange) {
					if !strings.HasPrefix(x.Line, "POST /mod ") {
						x.Send(hold("stream", ch+"; filter=http-modify", "hi\n", "Grip-Set-Meta: url=/mod"))
						return
					}
					switch x.Body {
					case "a":
						x.Send(reply("200 OK", "", "A"))
					case "b":
						x.Send("HTTP/1.1 204 No Content\r\n\r\n")
					case "c":
						x.Send(reply("200 OK", "", strings.Repeat("x", 100_001)))
					default:
						x.Send(reply("200 OK", "", "Z"))
					}
				})
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, "a"), streamItem(ch, "b"), streamItem(ch, "c"), streamItem(ch, "d"))
				c.Next(r, "AbZ")
			},
		},
		{
			ID: "F-meta-json", Title: "hold.meta of a JSON instruct", Source: "GRIP section 5.1",
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(reply("200 OK", instruct+"\nGrip-Set-Meta: a=1, b=2", `{"hold":{"mode":"stream","channels":[{"name":"`+ch+`","filters":["var-subst"]}],"meta":{"b":"3"}},"response":{"body":"hi\n"}}`))
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, "%(a)s %(b)s"))
				c.Next(r, "1 3")
			},
		},
	}
	for _, v := range []struct{ id, content, message string }{
		{"F6-var", "%(nope)s", "No such variable 'nope' at position 7"},
		{"F6-arg", "%s", "Directive 's' requires argument at position 1"},
		{"F6-unknown", "%d", "Unknown directive 'd' at position 1"},
		{"F6-end", "abc%", "Expected directive after '%' at position 3"},
		{"F6-five", "abc%5", "Unknown directive '5' at position 4"},
		{"F6-field", "abc%(x", "Unterminated field starting at position 4"},
		{"F6-empty", "%()s", "Directive 's' requires argument at position 3"},
	} {
		cs = append(cs, &Case{
			ID: v.id, Title: "var-subst of " + v.content + " in debug mode", Source: "GRIP section 8.2", Debug: true,
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch+subst, "hi\n", "Grip-Set-Meta: user=al"))
				c, r := t.stream("/", ch)
				t.Publish(streamItem(ch, v.content))
				name := ""
				if t.OnPushpin() {
					name = "var-subst: "
				}
				c.Next(r, "\n\nfilter error: "+name+v.message+"\n")
				c.End(r)
			},
		})
	}
	return cs
}
