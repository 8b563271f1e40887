package connmgr

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/sockjs"
	"github.com/holdfast/holdfast/test/poll"
)

// sockJSRig is a server whose proxy says that everything under /s is SockJS.
func sockJSRig(t *testing.T) *wsRig {
	r := newRig(t)
	return &wsRig{r, r.far("proxy.0", func(f *far, got frame.Frame) bool {
		req, ok := got.(*frame.Request)
		if !ok || req.SockJS != 0 {
			return false
		}
		f.send(&frame.Response{ID: req.ID, Code: 200, SockJS: "/s", SockJSURL: "http://x/sockjs.js", Route: req.Host})
		return true
	}), nil}
}

// origin takes the inner WebSocket up.
func (r *wsRig) origin(kind uint8, uri string) *wsClient {
	r.t.Helper()
	req := next[*frame.Request](r.p)
	if !req.Upgrade || req.SockJS != kind || req.URI != uri || req.Scheme != "http" || req.Peer == "" {
		r.t.Fatalf("got %+v", req)
	}
	c := &wsClient{client: &client{t: r.t}, id: req.ID, p: r.p}
	c.far(&frame.Response{Code: 101, Header: []frame.Field{{Name: "X-A", Value: "1"}}})
	return c
}

func (c *client) post(path, body string) {
	c.t.Helper()
	c.send("POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: " + lengthOf(body) + "\r\n\r\n" + body)
}

func lengthOf(s string) string {
	const digits = "0123456789"
	if len(s) < 10 {
		return digits[len(s) : len(s)+1]
	}
	return lengthOf(strings.Repeat("x", len(s)/10)) + digits[len(s)%10:len(s)%10+1]
}

// answered reads an answer and compares status and body.
func (c *client) answered(status, body string) {
	c.t.Helper()
	head := c.head()
	if !strings.HasPrefix(head, "HTTP/1.1 "+status) || !strings.Contains(head, "Content-Length: "+lengthOf(body)+"\r\n") ||
		!strings.Contains(head, "Access-Control-Allow-Origin: *\r\n") {
		c.t.Fatalf("want %s and %d bytes, got\n%s", status, len(body), head)
	}
	c.expect(body)
}

func TestSockJSPolling(t *testing.T) {
	r := sockJSRig(t)
	c := r.dial()
	c.post("/s/0/i/xhr?a=b", "")
	o := r.origin(frame.SockJSPolling, "/s/0/i/xhr?a=b")
	c.answered("200", "o\n")
	c.post("/s/0/i/xhr_send", `["x","y"]`)
	for _, want := range []string{"x", "y"} {
		if m := next[*frame.Message](r.p); string(m.Data) != want || m.Kind != frame.MessageText || m.ID != o.id {
			t.Fatalf("origin got %+v", m)
		}
	}
	c.answered("200", "ok")
	c.post("/s/0/i/xhr", "")
	o.far(&frame.Message{Kind: frame.MessagePing, Data: []byte("p")}, &frame.Message{Kind: frame.MessageText, Data: []byte("one")})
	c.answered("200", `a["one"]`+"\n")
	c.post("/s/0/i/xhr_send", `[5]`)
	c.answered("400", "Payload expected\n")
	c.post("/s/0/none/xhr_send", `["x"]`)
	c.answered("404", "Not Found\n")
	c.post("/s/0/i/xhr", "")
	o.far(&frame.Message{Kind: frame.MessageClose})
	c.answered("200", `c[0,"Connection closed"]`+"\n")
	if m := next[*frame.Message](r.p); m.Kind != frame.MessageClose || m.ID != o.id {
		t.Errorf("origin got %+v, want a close", m)
	}
}

func TestSockJSPollAborted(t *testing.T) {
	r := sockJSRig(t)
	c := r.dial()
	c.post("/s/0/i/xhr", "")
	o := r.origin(frame.SockJSPolling, "/s/0/i/xhr")
	c.answered("200", "o\n")
	c.post("/s/0/i/xhr", "")
	_ = c.Close()
	if f := next[*frame.Cancel](r.p); f.ID != o.id || f.Reason != frame.ReasonClientGone {
		t.Errorf("got %+v", f)
	}
}

// A client that leaves while the origin makes up its mind takes the session with
// it.
func TestSockJSOpenAborted(t *testing.T) {
	r := sockJSRig(t)
	c := r.dial()
	c.post("/s/0/i/xhr", "")
	id := next[*frame.Request](r.p).ID
	d := r.dial()
	d.post("/s/0/i/xhr", "")
	d.answered("200", sockjs.FrameBusy+"\n")
	_ = c.Close()
	if f := next[*frame.Cancel](r.p); f.ID != id {
		t.Errorf("got %+v", f)
	}
	poll.Until(t, "the name is free", func() bool {
		r.s.sockJS.mu.Lock()
		defer r.s.sockJS.mu.Unlock()
		return len(r.s.sockJS.byName) == 0
	})
}

func TestSockJSRefused(t *testing.T) {
	r := sockJSRig(t)
	c := r.dial()
	c.post("/s/0/i/xhr", "")
	f := next[*frame.Request](r.p)
	r.p.send(&frame.Response{ID: f.ID, Code: 403, Reason: "Nope", Header: []frame.Field{{Name: "Content-Length", Value: "6"}}, BodyLen: 6, Body: []byte("denied"), Close: true})
	c.answered("403 Nope", "denied")
	// Bodies that are too large, with a length and without.
	c.post("/s/0/i/xhr_send", strings.Repeat("x", sockjs.MaxRequest+1))
	c.answered("400", "Request too large.\n")
}

func TestSockJSFramed(t *testing.T) {
	r := sockJSRig(t)
	c := &wsClient{client: r.dial(), p: r.p}
	c.client.send(strings.Replace(wsRequest, "/ws", "/s/0/k/websocket?a=b", 1) + "\r\n" + masked(0x81, `["early"]`))
	o := r.origin(frame.SockJSFramed, "/s/0/k/websocket?a=b")
	if head := c.head(); !strings.Contains(head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") || !strings.Contains(head, "X-A: 1\r\n") {
		t.Fatalf("head %q", head)
	}
	c.want(0x81, "o")
	if m := next[*frame.Message](r.p); string(m.Data) != "early" {
		t.Fatalf("origin got %+v", m)
	}
	o.far(&frame.Message{Kind: frame.MessageText, Data: []byte("ab"), More: true}, &frame.Message{Kind: frame.MessageText, Data: []byte("cd")})
	c.want(0x81, `a["abcd"]`)
	c.frame(0x88, "\x0f\xa1bye")
	if m := next[*frame.Message](r.p); m.Kind != frame.MessageClose || m.Code != 4001 || string(m.Data) != "bye" {
		t.Fatalf("origin got %+v, want a close", m)
	}
	o.far(&frame.Message{Kind: frame.MessageClose, Code: 4002, Data: []byte("ok")})
	c.want(0x88, "\x0f\xa2ok")
	if err := c.end(); err != nil {
		t.Error(err)
	}
}

func TestSockJSFramedFaults(t *testing.T) {
	r := sockJSRig(t)
	open := func() (*wsClient, *wsClient) {
		c := &wsClient{client: r.dial(), p: r.p}
		c.client.send(strings.Replace(wsRequest, "/ws", "/s/0/k/websocket", 1) + "\r\n")
		o := r.origin(frame.SockJSFramed, "/s/0/k/websocket")
		c.head()
		c.want(0x81, "o")
		return c, o
	}
	c, o := open()
	c.frame(0x81, "no array")
	if f := next[*frame.Cancel](r.p); f.ID != o.id {
		t.Errorf("got %+v", f)
	}
	_ = c.end()
	c, o = open()
	o.far(&frame.Cancel{Reason: frame.ReasonOriginFailed})
	_ = c.end() // without a close frame
	c, o = open()
	o.far(&frame.Message{Kind: frame.MessageClose, Code: 4005, Data: []byte("srv")})
	c.want(0x88, "\x0f\xa5srv")
	c.frame(0x88, "\x0f\xa5")
	if err := c.end(); err != nil {
		t.Error(err)
	}
}

// An origin cannot make us put a message of any size together.
func TestSockJSLargeMessage(t *testing.T) {
	r := sockJSRig(t)
	large := func(o *wsClient) {
		o.client.t.Helper()
		part := &frame.Message{Kind: frame.MessageBinary, Data: repeat("x", frame.MaxBodyPart), More: true}
		for range maxInner/frame.MaxBodyPart + 1 {
			o.far(part)
		}
		if m := next[*frame.Message](r.p); m.ID != o.id || m.Kind != frame.MessageClose || m.Code != wsTooBig {
			t.Errorf("origin got %+v", m)
		}
	}
	c := &wsClient{client: r.dial(), p: r.p}
	c.client.send(strings.Replace(wsRequest, "/ws", "/s/0/k/websocket", 1) + "\r\n")
	o := r.origin(frame.SockJSFramed, "/s/0/k/websocket")
	c.head()
	c.want(0x81, "o")
	large(o)
	_ = c.end()

	p := r.dial()
	p.post("/s/0/i/xhr", "")
	o = r.origin(frame.SockJSPolling, "/s/0/i/xhr")
	p.answered("200", "o\n")
	large(o)
}

func TestSockJSOther(t *testing.T) {
	r := sockJSRig(t)
	c := r.dial()
	c.get("/s/info")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Error(head)
	}
	if _, err := c.br.ReadString('\n'); err != nil {
		t.Error(err)
	}
	c.get("/s/iframe.html")
	head := c.head()
	if !strings.Contains(head, "Cache-Control: public, max-age=31536000\r\n") {
		t.Error(head)
	}
	page, etag := sockjs.Page("http://x/sockjs.js")
	c.expect(page)
	c.send("GET /s/iframe.html HTTP/1.1\r\nHost: h\r\nIf-None-Match: " + etag + "\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 304") {
		t.Error(head)
	}
	c.get("/s/0/i/jsonp?c=alert(1)")
	c.answered("400", "Bad Request\n")
	c.send("OPTIONS /s/x HTTP/1.1\r\nHost: h\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 204") {
		t.Error(head)
	}
	c.post("/s/0/i/xhr_streaming", "")
	c.answered("404", "Not Found\n")
	c.get("/s/0/j/jsonp?c=cb&a=b")
	o := r.origin(frame.SockJSPolling, "/s/0/j/jsonp?a=b")
	c.answered("200", "/**/cb(\"o\");\n")
	c.post("/s/0/j/jsonp_send", "d=%5B%22q%22%5D")
	if m := next[*frame.Message](r.p); string(m.Data) != "q" || m.ID != o.id {
		t.Fatalf("origin got %+v", m)
	}
	c.answered("200", "ok")
}

// TestSockJSHeartbeatEnds has a heartbeat be due just when its connection ends. It
// must not set the timer again, or it would go on for ever.
func TestSockJSHeartbeatEnds(t *testing.T) {
	b := &sockJSBridge{heartbeat: time.NewTimer(time.Hour)}
	b.end()
	if err := b.toClient(sockjs.FrameHeartbeat); err == nil {
		t.Error("sent")
	}
	if b.heartbeat.Stop() {
		t.Error("the timer is set")
	}
}
