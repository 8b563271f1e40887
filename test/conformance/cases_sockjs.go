package main

import (
	"fmt"
	"strings"
	"time"
)

const sockJSSource = wsSource + "6"

// sockJSRoute is a route with SockJS under /s.
var sockJSRoute = []string{"{host},sockjs=/s {origin}"}

// Times of SockJS sessions.
const (
	sockJSPollTime  = 25 * time.Second
	sockJSLeaveTime = 5 * time.Second
)

const sockJSCORS = "Cache-Control: no-store, no-cache, must-revalidate, max-age=0\nAccess-Control-Allow-Origin: *\nAccess-Control-Allow-Credentials: true"

// sockJS asks for something of a session, as a poll does, and compares the answer.
func (t *T) sockJS(start, content, status, want string) *Response {
	r := t.Post(start, content)
	t.Equal("status line of "+start, r.Line, "HTTP/1.1 "+status)
	t.Equal("answer to "+start, r.Body, want)
	return r
}

// sockJSSession opens a session that polls, with an origin that speaks GRIP, and
// returns the path of the session.
func (t *T) sockJSSession() (string, *wsConn) {
	o := t.WSOrigin("Sec-WebSocket-Extensions: grip")
	path := fmt.Sprintf("/s/0/%s-%d", strings.ToLower(t.ID), t.run)
	t.sockJS("POST "+path+"/xhr", "", "200 OK", "o\n")
	return path, o.Next()
}

// sockJSPoll starts a poll whose answer is read later.
func (t *T) sockJSPoll(path string) *Client {
	c := t.Dial()
	c.Send(t.request("POST "+path+"/xhr", "Content-Length: 0"))
	return c
}

// answered compares the answer to a poll.
func (c *Client) answered(want string) {
	r := c.Read("POST")
	c.t.Equal("status line of the poll", r.Line, "HTTP/1.1 200 OK")
	c.t.Equal("answer to the poll", r.Body, want)
}

func sockJSCases() []*Case {
	all := []*Case{
		{
			ID: "ws-L1", Title: "what SockJS can do", Run: func(t *T) {
				r := t.Get("/s/info")
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("Content-Type", r.Get("Content-Type"), "text/plain")
				for _, part := range []string{`"websocket":true`, `"origins":["*:*"]`, `"cookie_needed":false`, `"entropy":`} {
					t.Contains("info", strings.ReplaceAll(r.Body, " ", ""), part)
				}
				t.Equal("Access-Control-Allow-Origin", t.Get("/s/info", "Origin: http://x.test").Get("Access-Control-Allow-Origin"), "http://x.test")
			},
		},
		{
			ID: "ws-L1-options", Title: "OPTIONS under a SockJS prefix", Run: func(t *T) {
				for _, path := range []string{"/s/0/x/xhr", "/s/info", "/s/whatever"} {
					r := t.Get("OPTIONS " + path)
					t.Equal("status", fmt.Sprint(r.Code()), "204")
					for line := range strings.Lines(sockJSCORS) {
						t.Contains("header", r.Own()+"\n", strings.TrimSuffix(line, "\n")+"\n")
					}
				}
			},
		},
		{
			ID: "ws-L1-iframe", Title: "the page for frames of other origins", Run: func(t *T) {
				for _, path := range []string{"/s/iframe.html", "/s/iframe-0.3.4.html?t=1"} {
					r := t.Get(path)
					t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
					t.Equal("Content-Type", strings.ToLower(r.Get("Content-Type")), "text/html; charset=utf-8")
					t.Contains("page", r.Body, "SockJS.bootstrap_iframe();")
					if !t.OnPushpin() { // which takes no default for sockjs_url
						t.Contains("page", r.Body, "cdn.jsdelivr.net/sockjs/")
					}
					t.Equal("length of the tag", fmt.Sprint(len(r.Get("ETag"))), "34")
					again := t.Get(path, "If-None-Match: "+r.Get("ETag"))
					t.Equal("status", fmt.Sprint(again.Code()), "304")
					t.Equal("body", again.Body, "")
				}
			},
		},
		{
			ID: "ws-L1-cache", Title: "the page has one Cache-Control", Pushpin: "wrong: there are two", Run: func(t *T) {
				t.Equal("Cache-Control", strings.Join(values(t.Get("/s/iframe.html").Header, "Cache-Control"), " | "), "public, max-age=31536000")
			},
		},
		{
			ID: "ws-L2", Title: "polling opens a session", Run: func(t *T) {
				o := t.WSOrigin()
				path := fmt.Sprintf("/s/0/l2-%d", t.run)
				r := t.Post("POST "+path+"/xhr?a=b", "", "X-A: 1", "Origin: http://x.test")
				t.Equal("answer", r.Line+" "+r.Body, "HTTP/1.1 200 OK o\n")
				t.Equal("Content-Type", r.Get("Content-Type"), "text/plain")
				t.Equal("Access-Control-Allow-Origin", r.Get("Access-Control-Allow-Origin"), "http://x.test")
				t.Equal("Access-Control-Allow-Credentials", r.Get("Access-Control-Allow-Credentials"), "true")
				t.Equal("Cache-Control", r.Get("Cache-Control"), "no-store, no-cache, must-revalidate, max-age=0")
				req := o.Next().req
				t.Equal("request line", req.Line, "GET /s?a=b HTTP/1.1")
				t.Equal("X-A", req.Lines("X-A"), "X-A: 1")
				t.Equal("Content-Length", req.Lines("Content-Length"), "")
			},
		},
		{
			ID: "ws-L2-refused", Title: "an origin that refuses a session", Run: func(t *T) {
				t.Always(reply("403 Nope", "X-A: 1\n"+plainText, "denied"))
				r := t.Post("POST /s/0/refused/xhr", "")
				t.Equal("answer", fmt.Sprint(r.Code())+" "+r.Body, "403 denied")
				t.Equal("Access-Control-Allow-Origin", r.Get("Access-Control-Allow-Origin"), "*")
				o := t.WSOrigin() // the name can be used again
				t.sockJS("POST /s/0/refused/xhr", "", "200 OK", "o\n")
				o.Next()
			},
		},
		{
			ID: "ws-L3", Title: "messages of a client that polls", Run: func(t *T) {
				path, o := t.sockJSSession()
				t.sockJS("POST "+path+"/xhr_send", `["x","y"]`, "200 OK", "ok")
				o.Expect(wsText("x"), wsText("y"))
				t.sockJS("POST "+path+"/xhr_send", `[]`, "200 OK", "ok")
				t.sockJS("POST "+path+"/xhr_send", `["é\u0000"]`, "200 OK", "ok")
				o.Expect(wsText("é\x00"))
			},
		},
		{
			ID: "ws-L4", Title: "what is no array of strings", Run: func(t *T) {
				path, _ := t.sockJSSession()
				for _, bad := range []string{"nope", "[5]", `"x"`, ""} {
					r := t.Post("POST "+path+"/xhr_send", bad)
					t.Equal("answer to "+bad, fmt.Sprint(r.Code())+" "+strings.TrimSpace(r.Body), "400 Payload expected")
				}
			},
		},
		{
			ID: "ws-L4-large", Title: "a request of more than 100,000 bytes", Pushpin: "fatal: the proxy ends", Run: func(t *T) {
				path, _ := t.sockJSSession()
				r := t.Post("POST "+path+"/xhr_send", `["`+strings.Repeat("x", 110_000)+`"]`)
				t.Equal("answer", fmt.Sprint(r.Code())+" "+strings.TrimSpace(r.Body), "400 Request too large.")
			},
		},
		{
			ID: "ws-L5", Title: "publications and messages of the origin wait for a poll", Run: func(t *T) {
				path, o := t.sockJSSession()
				ch := t.Ch("a")
				o.subscribe(ch)
				c := t.sockJSPoll(path)
				t.Publish(wsItem(ch, "p0"))
				c.answered(`a["p0"]` + "\n")
				t.Publish(wsItem(ch, "p1"), wsItem(ch, "p2"))
				got := ""
				for got != `a["p1"]a["p2"]` && got != `a["p1","p2"]` { // whatever has come by then
					r := t.Post("POST "+path+"/xhr", "")
					if got += strings.TrimSuffix(r.Body, "\n"); len(got) > 20 {
						t.Fatalf("polls brought %s", got)
					}
				}
				o.Send(wsText("m:\"\\ü\u2028"), wsPing("x"))
				c = t.sockJSPoll(path)
				c.answered("a[\"\\\"\\\\ü" + map[bool]string{true: "\u2028", false: `\u2028`}[t.OnPushpin()] + "\"]\n")
			},
		},
		{
			ID: "ws-L5-parts", Title: "a message in frames reaches a client that polls whole", Pushpin: "fatal: the proxy ends", Run: func(t *T) {
				path, o := t.sockJSSession()
				o.Send(wsText("m:ab").more(), wsCont("cd"), wsText("m:"+strings.Repeat("x", 20_000)))
				got := ""
				for len(got) < 20_000 {
					got += t.Post("POST "+path+"/xhr", "").Body
				}
				got = strings.ReplaceAll(got, "\"]\na[\"", `","`)
				t.Equal("polled", got, `a["abcd","`+strings.Repeat("x", 20_000)+"\"]\n")
			},
		},
		{
			ID: "ws-L6", Title: "a poll with nothing to say", Limit: time.Minute, Run: func(t *T) {
				path, _ := t.sockJSSession()
				t.Within(sockJSPollTime + 10*time.Second)
				begin := time.Now()
				t.sockJS("POST "+path+"/xhr", "", "200 OK", "h\n")
				if d := time.Since(begin); d < sockJSPollTime-time.Second {
					t.Fatalf("the heartbeat came after %v", d)
				}
			},
		},
		{
			ID: "ws-L7", Title: "a second poll", Run: func(t *T) {
				path, o := t.sockJSSession()
				c := t.sockJSPoll(path)
				t.pause()
				t.sockJS("POST "+path+"/xhr", "", "200 OK", `c[2010,"Another connection still open"]`+"\n")
				o.Send(wsText("m:x"))
				c.answered(`a["x"]` + "\n")
			},
		},
		{
			ID: "ws-L8", Title: "an origin that closes", Run: func(t *T) {
				path, o := t.sockJSSession()
				c := t.sockJSPoll(path)
				o.Send(wsClose(4321, "rr"))
				for range 2 { // late polls hear it again
					c.answered(`c[4321,"rr"]` + "\n")
					c = t.sockJSPoll(path)
				}
			},
		},
		{
			ID: "ws-L8-none", Title: "an origin that closes without a status", Run: func(t *T) {
				path, o := t.sockJSSession()
				c := t.sockJSPoll(path)
				o.Send(wsCloseRaw(""))
				c.answered(`c[0,"Connection closed"]` + "\n")
			},
		},
		{
			ID: "ws-L8-publish", Title: "a published close", Run: func(t *T) {
				path, o := t.sockJSSession()
				ch := t.Ch("a")
				o.subscribe(ch)
				c := t.sockJSPoll(path)
				t.pause()
				t.Publish(item(ch, `"ws-message":{"action":"close","code":4100,"reason":"why"}`))
				c.answered(`c[4100,"why"]` + "\n")
			},
		},
		{
			ID: "ws-L8-cut", Title: "an origin that is cut off", Run: func(t *T) {
				path, o := t.sockJSSession()
				c := t.sockJSPoll(path)
				t.pause()
				_ = o.conn.Close()
				r := c.Read("POST")
				t.Equal("answer", fmt.Sprint(r.Code())+" "+strings.TrimSpace(r.Body), "410 Session terminated")
			},
		},
		{
			ID: "ws-L9", Title: "a client that polls no more", Run: func(t *T) {
				_, o := t.sockJSSession()
				begin := time.Now()
				o.Ended()
				if d := time.Since(begin); d < sockJSLeaveTime-2*time.Second {
					t.Fatalf("the origin was dropped after %v", d)
				}
			},
		},
		{
			ID: "ws-L9-abort", Title: "a client that leaves a poll", Pushpin: "wrong: the origin is not told within the time of a poll", Run: func(t *T) {
				path, o := t.sockJSSession()
				c := t.sockJSPoll(path)
				t.pause()
				c.Close()
				o.Ended()
			},
		},
		{
			ID: "ws-L10", Title: "JSON-P", Run: func(t *T) {
				o := t.WSOrigin("Sec-WebSocket-Extensions: grip")
				path := fmt.Sprintf("/s/0/l10-%d", t.run)
				r := t.Get(path + "/jsonp?c=cb")
				t.Equal("answer", r.Line+" "+r.Body, "HTTP/1.1 200 OK /**/cb(\"o\");\n")
				t.Equal("Content-Type", r.Get("Content-Type"), "application/javascript")
				ws := o.Next()
				ws.Send(wsText(`m:a"b`))
				t.Equal("poll", t.Get(path+"/jsonp?callback=x.y").Body, `/**/x.y("a[\"a\\\"b\"]");`+"\n")
				t.Equal("status without callback", fmt.Sprint(t.Get("/s/0/none/jsonp").Code()), "400")
			},
		},
		{
			ID: "ws-L10-origin", Title: "the origin sees nothing of the callback", Pushpin: "wrong: the callback is in the URI", Run: func(t *T) {
				o := t.WSOrigin()
				t.Get(fmt.Sprintf("/s/0/l10o-%d/jsonp?c=cb&a=b", t.run))
				t.Equal("request line", o.Next().req.Line, "GET /s?a=b HTTP/1.1")
			},
		},
		{
			ID: "ws-L10-script", Title: "a callback that is more than a name", Pushpin: "wrong: it is sent back as a script", Run: func(t *T) {
				t.WSOrigin()
				t.Equal("status", fmt.Sprint(t.Get("/s/0/bad/jsonp?c=alert(1)//").Code()), "400")
			},
		},
		{
			ID: "ws-L11", Title: "messages by JSON-P", Run: func(t *T) {
				o := t.WSOrigin()
				path := fmt.Sprintf("/s/0/l11-%d", t.run)
				t.Get(path + "/jsonp?c=cb")
				ws := o.Next()
				r := t.Post("POST "+path+"/jsonp_send", "d=%5B%22q%22%5D", "Content-Type: application/x-www-form-urlencoded")
				t.Equal("answer", r.Line+" "+r.Body, "HTTP/1.1 200 OK ok")
				ws.Expect(wsText("q"))
			},
		},
		{
			ID: "ws-L11-get", Title: "messages by JSON-P in a query", Pushpin: "newest: 1.36 finds no payload", Run: func(t *T) {
				path, ws := t.sockJSSession()
				t.Equal("answer", t.Get(path+"/jsonp_send?d=%5B%22r%22%5D").Body, "ok")
				ws.Expect(wsText("r"))
			},
		},
		{
			ID: "ws-L12", Title: "a WebSocket with SockJS frames", Run: func(t *T) {
				o := t.WSOrigin("Sec-WebSocket-Extensions: grip")
				c := t.WebSocket("/s/0/k/websocket?a=b")
				c.Expect(wsText("o"))
				ws := o.Next()
				t.Equal("request line", ws.req.Line, "GET /s/websocket?a=b HTTP/1.1")
				c.Send(wsText(`["a","b"]`))
				ws.Expect(wsText("a"), wsText("b"))
				ws.Send(wsText("m:x"), wsPing("p"), wsBinary("m:y"))
				c.Expect(wsText(`a["x"]`), wsText(`a["y"]`))
				ch := t.Ch("a")
				ws.subscribe(ch)
				t.Publish(wsItem(ch, "p"))
				c.Expect(wsText(`a["p"]`))
				ws.Send(wsClose(4321, "rr"))
				c.ClosedWith(4321, "rr")
			},
		},
		{
			ID: "ws-L12-parts", Title: "a message in frames reaches a client with SockJS frames whole", Pushpin: "wrong: it gets the first piece", Run: func(t *T) {
				o := t.WSOrigin("Sec-WebSocket-Extensions: grip")
				c := t.WebSocket("/s/0/k/websocket")
				c.Expect(wsText("o"))
				ws := o.Next()
				ws.Send(wsText("m:ab").more(), wsCont("cd"), wsText("m:"+strings.Repeat("x", 20_000)))
				c.Expect(wsText(`a["abcd"]`), wsText(`a["`+strings.Repeat("x", 20_000)+`"]`))
			},
		},
		{
			ID: "ws-L12-client", Title: "a client with SockJS frames that closes", Run: func(t *T) {
				o := t.WSOrigin()
				c := t.WebSocket("/s/any/three/segments")
				c.Expect(wsText("o"))
				ws := o.Next()
				c.Send(wsText(`["last"]`), wsClose(4001, "bye"))
				ws.Expect(wsText("last"))
				ws.Expect(wsClose(4001, "bye"))
				ws.Send(wsClose(4002, "ok"))
				c.ClosedWith(4002, "ok")
			},
		},
		{
			ID: "ws-L12-bad", Title: "a client that sends no SockJS frames", Run: func(t *T) {
				o := t.WSOrigin()
				c := t.WebSocket("/s/0/k/websocket")
				c.Expect(wsText("o"))
				ws := o.Next()
				c.Send(wsText("nope"))
				c.Dropped()
				ws.Ended()
			},
		},
		{
			ID: "ws-L12-refused", Title: "an origin that refuses a WebSocket with SockJS frames", Run: func(t *T) {
				t.Always(reply("403 Nope", "X-A: 1\n"+plainText, "denied"))
				r := t.wsTry("/s/0/k/websocket")
				t.Equal("answer", fmt.Sprint(r.Code())+" "+r.Body, "403 denied")
			},
		},
		{
			ID: "ws-L13", Title: "a WebSocket as it is", Run: func(t *T) {
				o := t.WSOrigin()
				c := t.WebSocket("/s/websocket?a=b")
				ws := o.Next()
				t.Equal("request line", ws.req.Line, "GET /s/websocket?a=b HTTP/1.1")
				c.Send(wsText("x"), wsPing("p"))
				ws.ExpectAny(wsText("x"))
				ws.Send(wsText("y"))
				c.Expect(wsText("y"))
			},
		},
		{
			ID: "ws-L14", Title: "a path of its own at the origin", Routes: []string{"{host},sockjs=/s,sockjs_as_path=/ws {origin}"}, Run: func(t *T) {
				o := t.WSOrigin()
				t.WebSocket("/s/0/k/websocket?z=1")
				t.Equal("request line, with frames", o.Next().req.Line, "GET /ws?z=1 HTTP/1.1")
				t.WebSocket("/s/websocket")
				t.Equal("request line, as it is", o.Next().req.Line, "GET /ws HTTP/1.1")
				t.sockJS(fmt.Sprintf("POST /s/0/l14-%d/xhr?z=2", t.run), "", "200 OK", "o\n")
				t.Equal("request line, polling", o.Next().req.Line, "GET /ws?z=2 HTTP/1.1")
			},
		},
		{
			ID: "ws-L15", Title: "what is not there", Run: func(t *T) {
				for _, start := range []string{
					"POST /s/0/i/xhr_streaming", "GET /s/0/i/eventsource", "GET /s/0/i/htmlfile?c=cb", "GET /s", "GET /sockfoo",
					"POST /s/0/none/xhr_send", "POST /s/0/none/jsonp_send", "GET /s/0/i/xhr",
				} {
					r := t.Post(start, "")
					t.Equal("answer to "+start, fmt.Sprint(r.Code())+" "+strings.TrimSpace(r.Body), "404 Not Found")
				}
			},
		},
		{
			ID: "ws-L16", Title: "SockJS over HTTP", Routes: []string{"{host},sockjs=/s {origin},over_http"}, Run: func(t *T) {
				w := t.OverHTTP()
				path := fmt.Sprintf("/s/0/l16-%d", t.run)
				c := t.sockJSPoll(path)
				r := w.Expect(openEvent)
				t.Equal("request line", r.Request.Line, "POST /s HTTP/1.1")
				ch := t.Ch("a")
				r.Answer(openEvent+event("TEXT", "m:hi")+event("TEXT", "c:{"+subscription(ch)+"}"), "Sec-WebSocket-Extensions: grip", "Set-Meta-User: u")
				c.answered("o\n")
				t.Subscribed(ch)
				t.sockJSPoll(path).answered(`a["hi"]` + "\n")
				c = t.sockJSPoll(path)
				t.Publish(wsItem(ch, "p"))
				c.answered(`a["p"]` + "\n")
				sent := t.Dial()
				sent.Send(t.request("POST "+path+"/xhr_send", "Content-Length: 5") + `["x"]`)
				t.Equal("answer", sent.Read("POST").Body, "ok")
				r = w.Expect(event("TEXT", "x"))
				t.Equal("Meta-User", r.Request.Lines("Meta-User"), "Meta-User: u")
				r.Answer("")
				w.Expect("DISCONNECT\r\n").Answer("") // it polls no more
			},
		},
		{
			ID: "ws-L17", Title: "a session of another route cannot be had by its name", Pushpin: "wrong: names are shared by all routes",
			Routes: []string{"{host},path_beg=/s/1,sockjs=/s {origin}", "{host},sockjs=/s {origin}"}, Run: func(t *T) {
				o := t.WSOrigin()
				name := fmt.Sprintf("l17-%d", t.run)
				t.sockJS("POST /s/1/"+name+"/xhr", "", "200 OK", "o\n")
				ws := o.Next()
				t.Equal("status of sending by another route", fmt.Sprint(t.Post("POST /s/2/"+name+"/xhr_send", `["stolen"]`).Code()), "404")
				t.sockJS("POST /s/1/"+name+"/xhr_send", `["mine"]`, "200 OK", "ok")
				ws.Expect(wsText("mine"))
			},
		},
	}
	for _, c := range all {
		c.Source = sockJSSource
		if c.Routes == nil {
			c.Routes = sockJSRoute
		}
	}
	return all
}
