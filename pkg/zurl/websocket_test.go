package zurl

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455 has it so
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/zhttp"
	"github.com/holdfast/holdfast/test/poll"
)

// wsServe runs f for each WebSocket.
func wsServe(t *testing.T, f func(ws *websocket.Conn)) string {
	t.Helper()
	up := websocket.Upgrader{Subprotocols: []string{"chat"}}
	s := serve(t, func(w http.ResponseWriter, req *http.Request) {
		h := http.Header{"X-Seen": {req.Header.Get("X-A") + req.Header.Get("Sec-WebSocket-Extensions")}}
		ws, err := up.Upgrade(w, req, h)
		if err != nil {
			return
		}
		defer ws.Close()
		_ = ws.SetReadDeadline(time.Now().Add(30 * time.Second))
		f(ws)
	})
	return "ws" + strings.TrimPrefix(s.URL, "http")
}

// wsEcho sends back what it gets, pings as pongs by itself.
func wsEcho(ws *websocket.Conn) {
	for {
		kind, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		if err := ws.WriteMessage(kind, b); err != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	uri := wsServe(t, wsEcho)
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{
			"uri": uri, "credits": 10, "user-data": "u", "ext": dict{"multi": true},
			"headers": []any{
				[]any{"X-A", "a"},
				[]any{"Sec-WebSocket-Protocol", "chat"},
				[]any{"Sec-WebSocket-Key", "mine"},
				[]any{"Sec-WebSocket-Extensions", "permessage-deflate"},
			},
		})
		first := c.want(dict{"type": nil, "code": 101, "reason": "Switching Protocols", "credits": 200_000, "seq": 0, "from": "instance", "user-data": "u", "ext": dict{"multi": true}})
		h := fmt.Sprint(first["headers"])
		for _, want := range []string{"[Upgrade websocket]", "[Connection Upgrade]", "[X-Seen a]", "[Sec-WebSocket-Protocol chat]"} {
			if !strings.Contains(h, want) {
				t.Errorf("got header fields %v, want %s", h, want)
			}
		}
		c.more("1", dict{"body": "hé"})
		c.wantBoth(dict{"type": "credit", "credits": 3}, dict{"type": nil, "body": "hé", "content-type": nil, "more": nil})
		c.more("1", dict{"body": "bin", "content-type": "binary"})
		c.wantBoth(dict{"type": "credit", "credits": 3}, dict{"type": nil, "body": "bin", "content-type": "binary"})
		// Fragments, with a ping between them.
		c.more("1", dict{"body": "ab", "more": true})
		c.want(dict{"type": "credit", "credits": 2})
		c.more("1", dict{"type": "ping", "body": "p"})
		c.wantBoth(dict{"type": "credit", "credits": 1}, dict{"type": "pong", "body": "p"})
		c.more("1", dict{"body": "cdef"})
		c.want(dict{"type": "credit", "credits": 4})
		// 4 credits are left; the message needs 6.
		c.stream(dict{"from": c.from, "id": "unknown", "seq": 0})
		c.want(dict{"type": "cancel", "id": "unknown"})
		c.more("1", dict{"type": "credit", "credits": 2})
		c.want(dict{"type": nil, "body": "abcdef"})
		c.more("1", dict{"type": "close", "code": 4000, "body": "bye"})
		c.want(dict{"type": "close", "code": 4000})
		poll.Until(t, "the end", func() bool { return len(c.server.front.all()) == 0 })
	})
}

func TestWebSocketServerCloses(t *testing.T) {
	closed := make(chan int, 1)
	uri := wsServe(t, func(ws *websocket.Conn) {
		ws.SetCloseHandler(func(code int, text string) error { closed <- code; return nil })
		_ = ws.WriteControl(websocket.PingMessage, []byte("hi"), time.Now().Add(10*time.Second))
		_ = ws.WriteMessage(websocket.TextMessage, []byte("last"))
		_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1001, "away"), time.Now().Add(10*time.Second))
		_, _, _ = ws.ReadMessage()
	})
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{"uri": uri})
		c.want(dict{"code": 101})
		c.want(dict{"type": "ping", "body": "hi"})
		c.more("1", dict{"type": "credit", "credits": 4})
		c.want(dict{"type": nil, "body": "last"})
		c.want(dict{"type": "close", "code": 1001, "body": "away"})
		c.more("1", dict{"type": "close", "code": 1001})
		if code := <-closed; code != 1001 {
			t.Errorf("the server got the code %d", code)
		}
		poll.Until(t, "the end", func() bool { return len(c.server.front.all()) == 0 })
	})
}

func TestWebSocketAfterClose(t *testing.T) {
	release := make(chan struct{})
	uri := wsServe(t, func(ws *websocket.Conn) { <-release })
	c := newFrontRig(t, zhttp.Tnet, nil)
	c.start("1", dict{"uri": uri})
	c.want(dict{"code": 101})
	c.more("1", dict{"type": "close"})
	c.more("1", dict{"body": "x"})
	c.want(dict{"type": "error", "condition": "bad-request"})
	close(release)
}

func TestWebSocketRefused(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/loop":
			http.Redirect(w, req, "/loop", http.StatusFound)
		case "/large":
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, strings.Repeat("x", 200_000))
		default:
			w.Header().Set("X-Why", "no")
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, "nothing")
			_ = http.NewResponseController(w).Flush()
		}
	})
	uri := "ws" + strings.TrimPrefix(origin.URL, "http")
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{"uri": uri})
		got := c.want(dict{"type": "error", "condition": "rejected", "code": 404, "reason": "Not Found", "body": "nothing"})
		if h := fmt.Sprint(got["headers"]); !strings.Contains(h, "[X-Why no]") || !strings.Contains(h, "[Content-Length 7]") || strings.Contains(h, "chunked") {
			t.Errorf("got header fields %v", h)
		}
		c.start("1", dict{"uri": uri + "/large"})
		if got := c.want(dict{"condition": "rejected", "code": 403}); len(got["body"].(string)) != 100_000 {
			t.Errorf("got a body of %d bytes", len(got["body"].(string)))
		}
		c.start("1", dict{"uri": uri + "/loop", "follow-redirects": true})
		c.want(dict{"type": "error", "condition": "undefined-condition"})
		c.start("1", dict{"uri": uri + "/loop"})
		c.want(dict{"condition": "rejected", "code": 302})
		c.start("1", dict{"uri": "ws://name.invalid/"})
		c.want(dict{"condition": "remote-connection-failed"})
		c.raw(dict{"from": c.from, "id": "2", "seq": 1, "uri": uri})
		c.want(dict{"condition": "bad-request", "id": "2"})
	})
}

// raw is a server that says what it likes after the handshake.
func rawServe(t *testing.T, accept func(key string) string, after ...[]byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			br := bufio.NewReader(nc)
			req, err := http.ReadRequest(br)
			if err == nil {
				_, _ = io.WriteString(nc, accept(req.Header.Get("Sec-WebSocket-Key")))
				for _, b := range after {
					_, _ = nc.Write(b)
				}
				_, _ = io.Copy(io.Discard, br) // until the other side has had enough
			}
			_ = nc.Close()
		}
	}()
	return "ws://" + ln.Addr().String()
}

func accepted(key string) string {
	return "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: " + acceptOf(key) + "\r\n\r\n"
}

// What RFC 6455 forbids a server ends the session.
func TestWebSocketViolations(t *testing.T) {
	long := binary.BigEndian.AppendUint64([]byte{0x82, 127}, 1<<40)
	tests := []struct {
		name      string
		accept    func(string) string
		frames    []byte
		condition string
	}{
		{"accept is wrong", func(string) string { return accepted("x") }, nil, "undefined-condition"},
		{"no accept", func(string) string { return "HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" }, nil, "undefined-condition"},
		{"other upgrade", func(k string) string { return strings.Replace(accepted(k), "websocket", "h2c", 1) }, nil, "undefined-condition"},
		{"extension", func(k string) string {
			return accepted(k)[:17] + "Sec-WebSocket-Extensions: permessage-deflate\r\n" + accepted(k)[17:]
		}, nil, "undefined-condition"},
		{"subprotocol", func(k string) string { return accepted(k)[:17] + "Sec-WebSocket-Protocol: x\r\n" + accepted(k)[17:] }, nil, "undefined-condition"},
		{"masked", accepted, []byte{0x81, 0x81, 0, 0, 0, 0, 'x'}, "undefined-condition"},
		{"reserved bit", accepted, []byte{0xc1, 1, 'x'}, "undefined-condition"},
		{"unknown opcode", accepted, []byte{0x83, 1, 'x'}, "undefined-condition"},
		{"fragmented ping", accepted, []byte{0x09, 0}, "undefined-condition"},
		{"long ping", accepted, append([]byte{0x89, 126, 0, 126}, make([]byte, 126)...), "undefined-condition"},
		{"continuation of nothing", accepted, []byte{0x80, 0}, "undefined-condition"},
		{"message in a message", accepted, []byte{0x01, 0, 0x81, 0}, "undefined-condition"},
		{"close of one byte", accepted, []byte{0x88, 1, 3}, "undefined-condition"},
		{"not UTF-8", accepted, []byte{0x81, 1, 0xff}, "undefined-condition"},
		{"too large", accepted, long, "frame-too-large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newFrontRig(t, zhttp.Tnet, nil)
			c.start("1", dict{"uri": rawServe(t, tt.accept, tt.frames), "credits": 1000})
			got := c.get()
			for got["type"] == nil {
				got = c.get()
			}
			match(t, got, dict{"type": "error", "condition": tt.condition})
		})
	}
}

func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // RFC 6455 has it so
	return base64.StdEncoding.EncodeToString(sum[:])
}
