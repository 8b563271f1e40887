package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/pkg/wsoverhttp"
	"github.com/holdfast/holdfast/test/poll"
)

// wsClient is connmgr's side of a WebSocket.
type wsClient struct{ *client }

func (r *rig) upgrade(req frame.Request) wsClient {
	req.Upgrade, req.ConnID = true, "conn-id"
	if req.URI == "" {
		req.URI = "/chat?x=1"
	}
	req.Header = append(req.Header, lines("Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Extensions: permessage-deflate")...)
	return wsClient{r.conn.open(req)}
}

func (x wsClient) text(s string) { x.send(&frame.Message{Kind: frame.MessageText, Data: []byte(s)}) }

// wants returns the next frame of a type; session records are skipped unless
// they are wanted.
func wants[T frame.Frame](x wsClient) T {
	x.c.r.t.Helper()
	for {
		f := x.get()
		if v, ok := f.(T); ok {
			return v
		}
		if _, ok := f.(*frame.Session); !ok {
			x.c.r.t.Fatalf("got %s %+v", f.Type(), f)
		}
	}
}

func (x wsClient) message(kind uint8, data string) {
	x.c.r.t.Helper()
	if m := wants[*frame.Message](x); m.Kind != kind || string(m.Data) != data || m.More {
		x.c.r.t.Fatalf("client got kind %d %.100q more=%v, want kind %d %.100q", m.Kind, m.Data, m.More, kind, data)
	}
}

func (x wsClient) closed(code uint16, reason string) {
	x.c.r.t.Helper()
	if m := wants[*frame.Message](x); m.Kind != frame.MessageClose || m.Code != code || string(m.Data) != reason {
		x.c.r.t.Fatalf("client got %+v, want close %d %q", m, code, reason)
	}
}

// wsOrigin is an origin that speaks WebSocket.
type wsOrigin struct {
	t    *testing.T
	addr string
	got  chan *originConn
}

type originConn struct {
	*websocket.Conn
	t    *testing.T
	head http.Header
	path string
}

func newWSOrigin(t *testing.T, header http.Header) *wsOrigin {
	o := &wsOrigin{t: t, got: make(chan *originConn, 10)}
	if ext := header.Get("Sec-Websocket-Extensions"); ext != "" {
		// The library refuses to say what is its own matter, in this spelling.
		header = http.Header{"Sec-WebSocket-Extensions": {ext}}
	}
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, header)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = ws.Close() })
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		ws.SetCloseHandler(func(int, string) error { return nil })
		o.got <- &originConn{ws, t, r.Header, r.URL.String()}
	}))
	t.Cleanup(srv.Close)
	o.addr = srv.Listener.Addr().String()
	return o
}

func (c *originConn) say(s string) {
	c.t.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
		c.t.Error(err)
	}
}

func (c *originConn) hears(want string) {
	c.t.Helper()
	if _, b, err := c.ReadMessage(); err != nil || string(b) != want {
		c.t.Fatalf("origin got %q, %v, want %q", b, err, want)
	}
}

func gripHeader(s string) http.Header { return http.Header{"Sec-Websocket-Extensions": {s}} }

func TestWebSocketPassThrough(t *testing.T) {
	o := newWSOrigin(t, http.Header{"X-Origin": {"yes"}, "Sec-Websocket-Protocol": {"chat"}})
	r := newRig(t, "* "+o.addr+"\n", nil)
	x := r.upgrade(frame.Request{Header: lines("Sec-WebSocket-Protocol: chat\nX-Client: 1")})
	resp := wants[*frame.Response](x)
	if got := text(resp.Header); resp.Code != 101 || !strings.Contains(got, "X-Origin: yes\n") || !strings.Contains(got, "Protocol: chat\n") || strings.Contains(got, "Sec-WebSocket-Accept") {
		t.Errorf("answer %d\n%s", resp.Code, got)
	}
	c := within(t, o.got)
	if c.path != "/chat?x=1" || c.head.Get("Sec-Websocket-Extensions") != "grip" || c.head.Get("X-Client") != "1" || c.head.Get("Grip-Sig") == "" ||
		c.head.Get("Sec-Websocket-Key") == "dGhlIHNhbXBsZSBub25jZQ==" {
		t.Errorf("origin got %s %v", c.path, c.head)
	}
	// Nothing is interpreted.
	c.say("m:as it is")
	x.message(frame.MessageText, "m:as it is")
	c.say(`c:{"type":"subscribe","channel":"x"}`)
	x.message(frame.MessageText, `c:{"type":"subscribe","channel":"x"}`)
	x.text("up")
	c.hears("up")
	// In parts, empty and large ones.
	x.send(&frame.Message{Kind: frame.MessageText, Data: []byte("a"), More: true})
	x.send(&frame.Message{Kind: frame.MessageText, Data: []byte("b")})
	c.hears("ab")
	x.text("")
	c.hears("")
	big := strings.Repeat("y", 3*frame.InitialWindow)
	said := make(chan bool, 1)
	go func() { c.say(big); said <- true }()
	for got := 0; ; {
		m := wants[*frame.Message](x)
		got += len(m.Data)
		x.send(&frame.Credit{N: uint64(m.Cost())})
		if !m.More {
			if got != len(big) {
				t.Fatalf("%d bytes, want %d", got, len(big))
			}
			break
		}
	}
	within(t, said)
	// Ping and pong, end to end.
	var pings []string
	c.SetPingHandler(func(s string) error { pings = append(pings, s); return nil })
	x.send(&frame.Message{Kind: frame.MessagePing, Data: []byte("p1")})
	x.text("after ping")
	c.hears("after ping")
	if !slices.Equal(pings, []string{"p1"}) {
		t.Errorf("pings %q", pings)
	}
	if err := c.WriteControl(websocket.PongMessage, []byte("p1"), time.Time{}); err != nil {
		t.Error(err)
	}
	x.message(frame.MessagePong, "p1")
	// The client closes, the origin has last words.
	x.send(&frame.Message{Kind: frame.MessageClose, Code: 4001, Data: []byte("bye")})
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4001) {
		t.Errorf("origin got %v", err)
	}
	c.say("last")
	x.message(frame.MessageText, "last")
	_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4002, "indeed"), time.Time{})
	x.closed(4002, "indeed")
	if len(r.handler.accepts) > 0 {
		t.Error("a handler was asked for nothing")
	}
}

func TestWebSocketOriginEnds(t *testing.T) {
	o := newWSOrigin(t, nil)
	r := newRig(t, "* "+o.addr+"\n", nil)
	x := r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	c := within(t, o.got)
	_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4003, "mine"), time.Time{})
	x.closed(4003, "mine")
	x.send(&frame.Message{Kind: frame.MessageClose, Code: 4003})
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4003) {
		t.Errorf("origin got %v", err)
	}
	// Without a close frame.
	x = r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	_ = within(t, o.got).Close()
	if f := wants[*frame.Cancel](x); f.Reason != frame.ReasonOriginFailed {
		t.Errorf("ended for %v", f.Reason)
	}
	// The client goes.
	x = r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	c = within(t, o.got)
	x.send(&frame.Cancel{Reason: frame.ReasonClientGone})
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseAbnormalClosure) && err == nil {
		t.Errorf("origin got %v", err)
	}
	// A publication closes it.
	x = r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	c = within(t, o.got)
	x.send(&frame.Tune{Op: frame.TuneShut})
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
		t.Errorf("origin got %v", err)
	}
}

// acks makes the handler answer control messages, and returns them.
// An origin that does not read keeps nothing of a client that has gone.
func TestWebSocketStuckOrigin(t *testing.T) {
	o := newWSOrigin(t, nil)
	r := newRig(t, "* "+o.addr+"\n", nil)
	x := r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	within(t, o.got)
	part := make([]byte, frame.MaxBodyPart)
	for range 1500 { // more than sockets take, whatever the credits say
		x.send(&frame.Message{Kind: frame.MessageBinary, Data: part, More: true})
	}
	x.send(&frame.Cancel{Reason: frame.ReasonClientGone})
	waitIdle(t, r.srv)
}

func (h *fakeHandler) acks(fault string) <-chan *frame.Control {
	got := make(chan *frame.Control, 100)
	h.control = func(from string, c *frame.Control) {
		got <- c
		_ = h.node.Send(from, frame.Encode(&frame.Control{X: c.X, Op: frame.ControlAck, N: c.N, Text: fault}))
	}
	return got
}

func TestWebSocketControlMessages(t *testing.T) {
	o := newWSOrigin(t, gripHeader(`grip; message-prefix="x-"`))
	r := newRig(t, "*,prefix=p- "+o.addr+",sub=implicit\n", nil)
	asked := r.handler.acks("")
	x := r.upgrade(frame.Request{})
	if resp := wants[*frame.Response](x); strings.Contains(text(resp.Header), "grip") {
		t.Errorf("client is told of grip:\n%s", text(resp.Header))
	}
	a := within(t, r.handler.accepts)
	if a.Mode != frame.ModeWebSocket || a.ConnID != "conn-id" || len(a.Channels) != 1 || a.Channels[0].Name != "implicit" {
		t.Errorf("handler got %+v", a)
	}
	c := within(t, o.got)
	c.say("for nobody")
	c.say(`c:{"type":"subscribe","channel":"room","filters":["skip-self"]}`)
	c.say("x-for the client")
	c.say("x-")
	x.message(frame.MessageText, "for the client")
	if f := within(t, asked); f.Op != frame.ControlSubscribe || f.Channel != "p-room" || !slices.Equal(f.List, []string{"skip-self"}) {
		t.Errorf("handler got %+v", f)
	}
	x.message(frame.MessageText, "")
	for _, test := range []struct {
		json string
		want frame.Control
	}{
		{`{"type":"unsubscribe","channel":"room"}`, frame.Control{Op: frame.ControlUnsubscribe, Channel: "p-room"}},
		{`{"type":"set-meta","name":"user","value":"alice"}`, frame.Control{Op: frame.ControlMeta, Fields: []frame.Field{{Name: "user", Value: "alice"}}}},
		{`{"type":"set-meta","name":"user"}`, frame.Control{Op: frame.ControlMeta, List: []string{"user"}}},
	} {
		c.say("c:" + test.json)
		f := within(t, asked)
		if f.Op != test.want.Op || f.Channel != test.want.Channel || !slices.Equal(f.List, test.want.List) || !slices.Equal(f.Fields, test.want.Fields) {
			t.Errorf("%s: handler got %+v", test.json, f)
		}
	}
	for _, test := range []struct {
		json string
		want frame.Tune
	}{
		{`{"type":"keep-alive","content":"ka","timeout":30}`, frame.Tune{Op: frame.TuneKeepAlive, Data: []byte("ka"), Kind: frame.MessageText, Millis: 30000}},
		{`{"type":"keep-alive"}`, frame.Tune{Op: frame.TuneKeepAlive}},
		{`{"type":"send-delayed","content":"later","timeout":2}`, frame.Tune{Op: frame.TuneDelay, Data: []byte("later"), Kind: frame.MessageText, Millis: 2000}},
		{`{"type":"flush-delayed"}`, frame.Tune{Op: frame.TuneFlush}},
	} {
		c.say("c:" + test.json)
		f := wants[*frame.Tune](x)
		if f.Op != test.want.Op || string(f.Data) != string(test.want.Data) || f.Millis != test.want.Millis || len(f.Data) > 0 && f.Kind != test.want.Kind {
			t.Errorf("%s: connmgr got %+v", test.json, f)
		}
	}
	// What is wrong is ignored.
	for _, s := range []string{"c:", "c:{", `c:{"type":"subscribe"}`, `c:{"type":"who knows"}`, "c:[]"} {
		c.say(s)
	}
	c.say("x-" + strings.Repeat("z", frame.MaxBodyPart+1))
	if m := wants[*frame.Message](x); !m.More || len(m.Data) != frame.MaxBodyPart-2 {
		t.Errorf("%d bytes, more=%v", len(m.Data), m.More)
	}
	if m := wants[*frame.Message](x); m.More || string(m.Data) != "zzz" {
		t.Errorf("%q, more=%v", m.Data, m.More)
	}
	c.say(`c:{"type":"detach"}`)
	if f := wants[*frame.Tune](x); f.Op != frame.TuneDetach {
		t.Errorf("connmgr got %+v", f)
	}
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
		t.Errorf("origin got %v", err)
	}
}

func TestWebSocketControlFault(t *testing.T) {
	o := newWSOrigin(t, gripHeader("grip"))
	r := newRig(t, "* "+o.addr+"\n", nil)
	r.handler.acks("too many filters")
	x := r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	within(t, o.got).say(`c:{"type":"subscribe","channel":"room"}`)
	x.closed(1011, "")
}

// A handler that has just come up does not know the connection at first.
func TestWebSocketControlIsAskedAgain(t *testing.T) {
	o := newWSOrigin(t, gripHeader("grip"))
	r := newRig(t, "* "+o.addr+"\n", nil)
	n := 0
	r.handler.control = func(from string, c *frame.Control) {
		if n++; n == 3 {
			_ = r.handler.node.Send(from, frame.Encode(&frame.Control{X: c.X, Op: frame.ControlAck, N: c.N}))
		}
	}
	x := r.upgrade(frame.Request{})
	wants[*frame.Response](x)
	c := within(t, o.got)
	c.say(`c:{"type":"subscribe","channel":"room"}`)
	c.say("m:done")
	x.message(frame.MessageText, "done")
}

func TestWebSocketTargets(t *testing.T) {
	o := newWSOrigin(t, nil)
	no := newOrigin(t, always("HTTP/1.1 403 Keep Out\nX-Why: no\nGrip-Status: 1\nContent-Length: 2\n\nno"))
	r := newRig(t, "a 127.0.0.1:1 "+o.addr+"\nb "+no.addr+"\nc 127.0.0.1:1\nd test\n", nil)
	x := r.upgrade(frame.Request{Host: "a"})
	if resp := wants[*frame.Response](x); resp.Code != 101 {
		t.Errorf("failover: %d", resp.Code)
	}
	res := r.upgrade(frame.Request{Host: "b"}).finish()
	if res.status() != "403 Keep Out" || res.body != "no" || !strings.Contains(res.head(), "X-Why: no") || strings.Contains(res.head(), "Grip-Status") {
		t.Errorf("refusal: %s %q\n%s", res.status(), res.body, res.head())
	}
	if res := r.upgrade(frame.Request{Host: "c"}).finish(); res.Code != 502 {
		t.Errorf("no target: %s", res.status())
	}
	if res := r.upgrade(frame.Request{Host: "d", URI: "/other"}).finish(); res.Code != 404 {
		t.Errorf("test target: %s", res.status())
	}
	asked := r.handler.acks("")
	x = r.upgrade(frame.Request{Host: "d", URI: "/ws?channel=one&channel=two"})
	wants[*frame.Response](x)
	for _, want := range []string{"one", "two"} {
		if f := within(t, asked); f.Channel != want {
			t.Errorf("test target subscribes to %q, want %q", f.Channel, want)
		}
	}
	x.text("echo")
	x.message(frame.MessageText, "echo")
	x.send(&frame.Message{Kind: frame.MessageClose, Code: 4000, Data: []byte("r")})
	x.closed(4000, "r")
}

// events answers requests of WebSocket-over-HTTP sessions.
type events struct {
	*httptest.Server
	reqs    chan *eventRequest
	answers chan func(http.ResponseWriter)
}

type eventRequest struct {
	http.Header
	uri  string
	body string
}

func newEvents(t *testing.T) *events {
	e := &events{reqs: make(chan *eventRequest, 100), answers: make(chan func(http.ResponseWriter), 100)}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Method != "POST" {
			t.Errorf("%s: %v", r.Method, err)
		}
		e.reqs <- &eventRequest{r.Header, r.RequestURI, string(b)}
		select {
		case f := <-e.answers:
			f(w)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { e.CloseClientConnections(); e.Close() })
	return e
}

func (e *events) answer(body string, header ...string) {
	e.answers <- func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", wsevents.ContentType)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = io.WriteString(w, body)
	}
}

func (e *events) route() string { return "* " + e.Listener.Addr().String() + ",over_http\n" }

func event(kind, content string) string {
	return fmt.Sprintf("%s %x\r\n%s\r\n", kind, len(content), content)
}

// open opens a session whose origin speaks GRIP.
func (e *events) open(t *testing.T, r *rig) wsClient {
	t.Helper()
	x := r.upgrade(frame.Request{})
	e.answer("OPEN\r\n", "Sec-WebSocket-Extensions", "grip", "Set-Meta-User", "alice")
	req := within(t, e.reqs)
	if req.body != "OPEN\r\n" || req.Get("Connection-Id") != "conn-id" || req.Get("Accept") != wsevents.ContentType || req.Get("Content-Type") != wsevents.ContentType || req.Get("Grip-Sig") == "" {
		t.Fatalf("first request %q %v", req.body, req.Header)
	}
	if resp := wants[*frame.Response](x); resp.Code != 101 || strings.Contains(text(resp.Header), "Set-Meta") {
		t.Fatalf("answer %d\n%s", resp.Code, text(resp.Header))
	}
	return x
}

func TestWebSocketOverHTTP(t *testing.T) {
	e := newEvents(t)
	r := newRig(t, e.route(), nil)
	asked := r.handler.acks("")
	x := e.open(t, r)
	x.text("hello")
	e.answer(event("TEXT", `c:{"type":"subscribe","channel":"room"}`)+event("TEXT", "m:world")+event("BINARY", "m:\xff")+"PING\r\n", "Set-Meta-User", "bob")
	if req := within(t, e.reqs); req.body != event("TEXT", "hello") || req.Get("Meta-User") != "alice" || req.Get("Content-Bytes-Replayed") != "" {
		t.Errorf("request %q %v", req.body, req.Header)
	}
	if f := within(t, asked); f.Channel != "room" {
		t.Errorf("handler got %+v", f)
	}
	x.message(frame.MessageText, "world")
	x.message(frame.MessageBinary, "\xff")
	x.message(frame.MessagePing, "")
	// What comes while a request is under way goes into the next one.
	x.text("1")
	if req := within(t, e.reqs); req.Get("Meta-User") != "bob" {
		t.Errorf("meta %v", req.Header)
	}
	x.text("2")
	x.send(&frame.Message{Kind: frame.MessagePong, Data: []byte("p")})
	e.answer("")
	e.answer("")
	e.answer("")
	got := ""
	for want := event("TEXT", "2") + event("PONG", "p"); got != want; {
		if got += within(t, e.reqs).body; !strings.HasPrefix(want, got) {
			t.Fatalf("requests %q, want %q", got, want)
		}
	}
	for len(e.answers) > 0 {
		<-e.answers
	}
	// The client closes, the origin answers.
	x.send(&frame.Message{Kind: frame.MessageClose, Code: 4001, Data: []byte("bye")})
	e.answer(event("CLOSE", "\x0f\xa2so long"))
	if req := within(t, e.reqs); req.body != event("CLOSE", "\x0f\xa1bye") {
		t.Errorf("request %q", req.body)
	}
	x.closed(4002, "so long")
}

func TestWebSocketOverHTTPRejected(t *testing.T) {
	e := newEvents(t)
	r := newRig(t, e.route(), nil)
	e.answers <- func(w http.ResponseWriter) {
		w.Header().Set("Set-Meta-Secret", "x")
		w.WriteHeader(401)
		_, _ = io.WriteString(w, "who are you?")
	}
	res := r.upgrade(frame.Request{}).finish()
	if res.Code != 401 || res.body != "who are you?" || strings.Contains(res.head(), "Secret") {
		t.Errorf("got %s %q\n%s", res.status(), res.body, res.head())
	}
	for _, body := range []string{"TEXT\r\n", "OPEN\n", "", "OPEN\r\nTEXT zz\r\n"} {
		e.answer(body)
		if res := r.upgrade(frame.Request{}).finish(); res.Code != 502 {
			t.Errorf("%q: got %s", body, res.status())
		}
	}
}

// A request whose connection breaks is sent again: at once, as the connection may
// only have been too old, and then with growing pauses, as its origin may be
// restarting. There is an end to that.
func TestWebSocketOverHTTPRetries(t *testing.T) {
	e := newEvents(t)
	pauses := make(chan time.Duration, 100)
	r := newRig(t, e.route(), func(o *Options) {
		o.AfterFunc = func(d time.Duration, f func()) func() bool {
			pauses <- d
			return time.AfterFunc(min(d, time.Millisecond), f).Stop
		}
	})
	x := e.open(t, r)
	for _, broken := range []int{1, wsoverhttp.MaxCuts, wsoverhttp.MaxCuts} { // each message has all its attempts
		for range broken {
			e.answers <- func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
		}
		e.answer(event("TEXT", "m:got it"))
		x.text("hello")
		if req := within(t, e.reqs); req.Get("Content-Bytes-Replayed") != "" {
			t.Errorf("first attempt %v", req.Header)
		}
		for n := range broken {
			least, most := time.Duration(0), time.Duration(0)
			if n > 0 {
				least = time.Second << (n - 1)
				most = least + time.Second
			}
			if d := within(t, pauses); d < least || d > most {
				t.Errorf("pause %d: %v, want %v to %v", n, d, least, most)
			}
			if req := within(t, e.reqs); req.body != event("TEXT", "hello") || req.Get("Content-Bytes-Replayed") != "5" {
				t.Errorf("attempt again %q %v", req.body, req.Header)
			}
		}
		x.message(frame.MessageText, "got it")
	}
	for range wsoverhttp.MaxCuts + 1 {
		e.answers <- func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	}
	x.text("too much")
	if f := wants[*frame.Cancel](x); f.Reason != frame.ReasonOriginFailed {
		t.Errorf("ended for %v", f.Reason)
	}
	for len(e.reqs) > 0 {
		<-e.reqs
	}
	// A status that is not 200 ends it.
	x = e.open(t, r)
	e.answers <- func(w http.ResponseWriter) { w.WriteHeader(500) }
	x.text("again")
	if f := wants[*frame.Cancel](x); f.Reason != frame.ReasonOriginFailed {
		t.Errorf("ended for %v", f.Reason)
	}
}

func TestWebSocketOverHTTPKeepAliveAndRefresh(t *testing.T) {
	e := newEvents(t)
	asked := make(chan func(), 100)
	r := newRig(t, e.route(), func(o *Options) {
		o.AfterFunc = func(d time.Duration, f func()) func() bool {
			if d != 30*time.Second {
				return time.AfterFunc(d, f).Stop
			}
			asked <- f
			return func() bool { return true }
		}
	})
	x := e.open(t, r)
	x.text("hello")
	e.answer("", "Keep-Alive-Interval", "30")
	within(t, e.reqs)
	alarm := within(t, asked)
	e.answer(event("TEXT", "m:alive"))
	alarm()
	if req := within(t, e.reqs); req.body != "" {
		t.Errorf("keep-alive %q", req.body)
	}
	x.message(frame.MessageText, "alive")
	e.answer(event("TEXT", "m:fresh"))
	if err := r.handler.node.Send("proxy.0", frame.Encode(&frame.Control{X: frame.XID{Conn: "connmgr.0", Boot: r.conn.node.Boot(), ID: x.id}, Op: frame.ControlRefresh})); err != nil {
		t.Fatal(err)
	}
	if req := within(t, e.reqs); req.body != "" {
		t.Errorf("refresh %q", req.body)
	}
	x.message(frame.MessageText, "fresh")
	e.answer(event("TEXT", "m:and again"))
	if err := r.handler.node.Send("proxy.0", frame.Encode(&frame.Check{Token: 7, IDs: []string{"conn-id"}, Refresh: true})); err != nil {
		t.Fatal(err)
	}
	if f := within(t, r.handler.checked); f.Token != 7 || len(f.Found) != 1 || f.Found[0].ID != "conn-id" {
		t.Errorf("proxy answered %+v", f)
	}
	if req := within(t, e.reqs); req.body != "" {
		t.Errorf("refresh %q", req.body)
	}
	x.message(frame.MessageText, "and again")
	// The client goes without a word.
	e.answer("")
	x.send(&frame.Cancel{Reason: frame.ReasonClientGone})
	if req := within(t, e.reqs); req.body != "DISCONNECT\r\n" {
		t.Errorf("last request %q", req.body)
	}
}

func TestWebSocketOverHTTPResumes(t *testing.T) {
	e := newEvents(t)
	r := newRig(t, e.route(), nil)
	x := e.open(t, r)
	x.text("hello")
	within(t, e.reqs) // it was asked, and does not answer
	var last *frame.Session
	for offered := 0; offered == 0; {
		last = wants[*frame.Session](x)
		var rec sessionRecord
		if err := json.Unmarshal(last.Record, &rec); err != nil {
			t.Fatal(err)
		}
		offered = rec.Session.Offered
	}
	x.text("world")
	r.stop()
	if err := within(t, r.stopped); err != nil {
		t.Error(err)
	}
	r.stopped <- nil // for the end of the test
	r2 := newRig(t, e.route(), nil)
	asked := r2.handler.acks("")
	y := r2.upgrade(frame.Request{Session: last.Record, Resend: true})
	y.text("hello")
	y.text("world")
	req := within(t, e.reqs)
	if !strings.HasPrefix(req.body, event("TEXT", "hello")) || req.Get("Content-Bytes-Replayed") != "5" || req.Get("Meta-User") != "alice" || req.Get("Connection-Id") != "conn-id" {
		t.Errorf("request %q %v", req.body, req.Header)
	}
	e.answer(event("TEXT", "m:here you are") + event("TEXT", `c:{"type":"subscribe","channel":"x"}`))
	if req.body == event("TEXT", "hello") {
		if req := within(t, e.reqs); req.body != event("TEXT", "world") || req.Get("Content-Bytes-Replayed") != "" {
			t.Errorf("request %q %v", req.body, req.Header)
		}
		e.answer("")
	}
	y.message(frame.MessageText, "here you are")
	within(t, asked)
	// A record that is no record.
	if f := wants[*frame.Cancel](r2.upgrade(frame.Request{Session: []byte("{"), Resend: true})); f.Reason != frame.ReasonInternal {
		t.Errorf("ended for %v", f.Reason)
	}
}

// A session that waits costs no stack. Each of a stack of 8 KiB would be what
// most of its memory is.
func TestWaitingSessionHasNoGoroutine(t *testing.T) {
	const n = 50
	e := newEvents(t)
	r := newRig(t, e.route(), nil)
	before := runtime.NumGoroutine()
	all := make([]wsClient, n)
	for i := range all {
		all[i] = e.open(t, r)
	}
	poll.Works(t, "the goroutines to end", func() error {
		if now := runtime.NumGoroutine(); now > before+n/2 {
			return fmt.Errorf("%d for %d sessions", now-before, n)
		}
		return nil
	})
	for _, x := range all { // and it still works
		e.answer(event("TEXT", "m:back"))
		x.text("there")
		if req := within(t, e.reqs); req.body != event("TEXT", "there") || req.Get("Meta-User") != "alice" {
			t.Fatalf("request %q %v", req.body, req.Header)
		}
		x.message(frame.MessageText, "back")
	}
}
