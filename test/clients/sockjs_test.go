//go:build e2e

package clients

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/test/stack"
)

const sockJSPage = `<!DOCTYPE html>
<title>SockJS</title>
<pre id="log"></pre>
<script src="/lib.js"></script>
<script>
const log = (line) => { document.getElementById('log').textContent += line + '\n'; };
const [transports, where] = location.hash.slice(1).split('@');
const sock = new SockJS((where ? 'http://' + where : '') + '/s', null, { transports: transports.split(',') });
sock.onopen = () => { log('open ' + sock.transport); sock.send('hi'); };
sock.onmessage = (e) => log(e.data);
sock.onclose = (e) => log('close ' + e.code + ' ' + e.reason);
</script>
`

// sockJSOrigin is a proxy in front of a backend with WebSockets that subscribes
// each client to "news", says what it gets, and closes on "bye".
func sockJSOrigin(t *testing.T) *stack.Stack {
	t.Helper()
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html")
			_, _ = fmt.Fprint(w, sockJSPage)
			return
		case "/lib.js":
			http.ServeFile(w, r, filepath.Join(root, "test/clients/node_modules/sockjs-client/dist/sockjs.js"))
			return
		}
		ws, err := up.Upgrade(w, r, http.Header{"Sec-WebSocket-Extensions": {"grip"}})
		if err != nil {
			return
		}
		defer ws.Close()
		_ = ws.WriteMessage(websocket.TextMessage, []byte(`c:{"type":"subscribe","channel":"news"}`))
		for {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			if string(b) == "bye" {
				_ = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "see you"))
				continue
			}
			_ = ws.WriteMessage(websocket.TextMessage, append([]byte("m:you said "), b...))
		}
	}))
	t.Cleanup(backend.Close)
	return proxyWith(t, []string{"proxy/sockjs_url=/lib.js"}, "*,sockjs=/s "+strings.TrimPrefix(backend.URL, "http://"))
}

func TestSockJSClient(t *testing.T) {
	s := sockJSOrigin(t)
	for _, transport := range []string{"websocket", "xhr-polling"} {
		t.Run(transport, func(t *testing.T) {
			c := startChatter(t, "sockjs.mjs", "http://"+s.HTTP+"/s", transport)
			c.hears("open " + transport)
			c.say("héllo <\"&>")
			c.hears("you said héllo <\"&>")
			resp, err := http.Post("http://"+s.Control+"/publish/", "application/json",
				strings.NewReader(`{"items":[{"channel":"news","ws-message":{"content":"extra"}}]}`))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			c.hears("extra")
			c.say("bye")
			c.hears("close 4001 see you")
		})
	}
}

// The transports in a browser, where there are more.
func TestSockJSBrowser(t *testing.T) {
	s := sockJSOrigin(t)
	for _, transport := range []string{"websocket", "xhr-polling", "jsonp-polling"} {
		t.Run(transport, func(t *testing.T) {
			b := browse(t, "http://"+s.HTTP+"/page#"+transport)
			const text = `document.getElementById('log').textContent`
			b.shows(text, "open "+transport+"\nyou said hi\n")
			b.eval(`sock.send('more'); ''`)
			b.shows(text, "open "+transport+"\nyou said hi\nyou said more\n")
			b.eval(`sock.send('bye'); ''`)
			b.shows(text, "open "+transport+"\nyou said hi\nyou said more\nclose 4001 see you\n")
		})
	}
}

// From a page of another origin, in the frame that the proxy serves, and after
// the transports that neither Holdfast nor Pushpin has.
func TestSockJSBrowserElsewhere(t *testing.T) {
	s := sockJSOrigin(t)
	_, port, err := net.SplitHostPort(s.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ transports, opens string }{
		{"iframe-xhr-polling", "iframe-xhr-polling"},
		{"xhr-streaming,eventsource,htmlfile,xhr-polling", "xhr-polling"},
		{"iframe-eventsource,iframe-htmlfile,iframe-xhr-polling", "iframe-xhr-polling"},
	} {
		t.Run(c.transports, func(t *testing.T) {
			b := browse(t, "http://"+s.HTTP+"/page#"+c.transports+"@localhost:"+port)
			const text = `document.getElementById('log').textContent`
			b.shows(text, "open "+c.opens+"\nyou said hi\n")
			b.eval(`sock.send('bye'); ''`)
			b.shows(text, "open "+c.opens+"\nyou said hi\nclose 4001 see you\n")
		})
	}
}
