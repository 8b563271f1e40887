package proxy

import (
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestSockJS(t *testing.T) {
	e := newEvents(t)
	target := e.route()[len("* "):]
	r := newRig(t, "*,id=r,sockjs=/s "+target+"\nas.path,sockjs=/s,sockjs_as_path=/ws "+target, func(o *Options) { o.SockJSURL = "http://x/sockjs.js" })
	for _, uri := range []string{"/s", "/s/info", "/s/0/i/xhr?a=b", "/sockfoo"} {
		res := wants[*frame.Response](wsClient{r.conn.open(frame.Request{URI: uri})})
		if res.SockJS != "/s" || res.SockJSURL != "http://x/sockjs.js" || res.Route != "r" {
			t.Errorf("%s: got %+v", uri, res)
		}
	}
	if res := wants[*frame.Response](r.upgrade(frame.Request{URI: "/s/0/k/websocket"})); res.SockJS != "/s" {
		t.Errorf("with frames: got %+v", res)
	}
	for _, c := range []struct {
		req  frame.Request
		path string
	}{
		{frame.Request{URI: "/s/websocket?a=b"}, "/s/websocket?a=b"},
		{frame.Request{URI: "/s/0/k/websocket?a=b", SockJS: frame.SockJSFramed}, "/s/websocket?a=b"},
		{frame.Request{URI: "/s/0/i/xhr?a=b", SockJS: frame.SockJSPolling}, "/s?a=b"},
		{frame.Request{URI: "/s/0/i/xhr", SockJS: frame.SockJSPolling, Host: "as.path"}, "/ws"},
		{frame.Request{URI: "/s/websocket", Host: "as.path"}, "/ws"},
		{frame.Request{URI: "/chat"}, "/chat"},
	} {
		e.answer("OPEN\r\n")
		x := r.upgrade(c.req)
		if req := within(t, e.reqs); req.uri != c.path {
			t.Errorf("%s: origin was asked for %s, want %s", c.req.URI, req.uri, c.path)
		}
		if res := wants[*frame.Response](x); res.Code != 101 || res.SockJS != "" {
			t.Errorf("%s: got %+v", c.req.URI, res)
		}
	}
}

// A route for HTTP alone has the sessions of clients that poll: their WebSockets
// are ours, not theirs.
func TestSockJSPollingRoute(t *testing.T) {
	e := newEvents(t)
	target := e.route()[len("* "):]
	r := newRig(t, "*,proto=http,sockjs=/s "+target, nil)
	e.answer("OPEN\r\n")
	r.upgrade(frame.Request{URI: "/s/0/i/xhr", SockJS: frame.SockJSPolling})
	if req := within(t, e.reqs); req.uri != "/s" {
		t.Errorf("origin was asked for %s", req.uri)
	}
}
