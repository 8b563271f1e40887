//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/test/pki"
	"github.com/holdfast/holdfast/test/stack"
)

// certificate puts a certificate for name into the folder in which connmgr looks
// for some, and returns those that trust it.
func certificate(t *testing.T, s *stack.Stack, name string) *x509.CertPool {
	t.Helper()
	template := pki.For(name)
	template.IsCA, template.BasicConstraintsValid = true, true
	var none *pki.Authority
	cert := none.Issue(t, template)
	dir := filepath.Join(filepath.Dir(s.Config), "runner", "certs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pki.Write(t, cert, filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	return pki.Pool(cert)
}

// echoOrigin speaks WebSocket, and WebSocket over HTTP: it subscribes its clients
// to a channel and sends back what it gets.
func echoOrigin(t *testing.T) http.HandlerFunc {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	const subscribe = `c:{"type":"subscribe","channel":"news"}`
	return func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("X-Forwarded-Proto"); got != "wss" {
			t.Errorf("X-Forwarded-Proto is %q", got)
		}
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Type", "application/websocket-events")
			switch kind, rest, _ := bytes.Cut(body, []byte("\r\n")); {
			case string(body) == "OPEN\r\n":
				w.Header().Set("Sec-WebSocket-Extensions", "grip")
				fmt.Fprintf(w, "OPEN\r\nTEXT %x\r\n%s\r\n", len(subscribe), subscribe)
			case bytes.HasPrefix(kind, []byte("TEXT ")):
				content := strings.TrimSuffix(string(rest), "\r\n")
				fmt.Fprintf(w, "TEXT %x\r\nm:%s\r\n", len(content)+2, content)
			default:
				_, _ = w.Write(body)
			}
			return
		}
		ws, err := up.Upgrade(w, r, http.Header{"Sec-WebSocket-Extensions": {"grip"}})
		if err != nil {
			return
		}
		defer ws.Close()
		_ = ws.WriteMessage(websocket.TextMessage, []byte(subscribe))
		for {
			kind, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			_ = ws.WriteMessage(kind, append([]byte("m:"), b...))
		}
	}
}

// WebSockets with TLS on both sides: to the client with a certificate of its own,
// to the origin with one that the route does not ask about.
func TestWebSocketTLS(t *testing.T) {
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(echoOrigin(t))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	addr := srv.Listener.Addr().String()
	s := start(t, []string{fmt.Sprintf("runner/https_ports=127.0.0.1:%d", port)},
		"wss.test "+addr+",ssl,insecure", "over.test "+addr+",ssl,insecure,over_http")
	for _, host := range []string{"wss.test", "over.test"} {
		t.Run(host, func(t *testing.T) {
			d := websocket.Dialer{
				TLSClientConfig:  &tls.Config{RootCAs: certificate(t, s, host), ServerName: host, MinVersion: tls.VersionTLS12},
				HandshakeTimeout: 30 * time.Second,
			}
			ws, resp, err := d.Dial(fmt.Sprintf("wss://127.0.0.1:%d/chat", port), http.Header{"Host": {host}})
			if err != nil {
				t.Fatalf("%v %+v", err, resp)
			}
			defer ws.Close()
			_ = ws.SetReadDeadline(time.Now().Add(time.Minute))
			expect := func(want string) {
				t.Helper()
				_, b, err := ws.ReadMessage()
				if err != nil || string(b) != want {
					t.Fatalf("got %.100q (%d bytes) %v, want %.100q", b, len(b), err, want)
				}
			}
			for _, text := range []string{"hello", strings.Repeat("x", 150_000)} {
				if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
					t.Fatal(err)
				}
				expect(text)
			}
			resp, err = http.Post("http://"+s.Control+"/publish/", "application/json",
				strings.NewReader(`{"items":[{"channel":"news","ws-message":{"content":"extra"}}]}`))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			expect("extra")
			if err := ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(30*time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 4001) {
				t.Errorf("closed with %v", err)
			}
		})
	}
}
