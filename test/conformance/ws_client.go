package main

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 has it so; nothing secret hangs on it
	"encoding/base64"
	"strings"
)

// wsKey is the Sec-WebSocket-Key of every client; it is that of RFC 6455.
const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// wsAccept is the answer to a key.
func wsAccept(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(h[:])
}

// wsHandshake builds the request for a WebSocket.
func (t *T) wsHandshake(path string, header ...string) string {
	return t.request("GET "+path, append([]string{
		"Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + wsKey,
	}, header...)...)
}

// wsStart sends a handshake and leaves its answer for later.
func (t *T) wsStart(path string, header ...string) *Client {
	c := t.Dial()
	c.Send(t.wsHandshake(path, header...))
	return c
}

// wsTry makes a handshake that is refused and reads the whole answer.
func (t *T) wsTry(path string, header ...string) *Response {
	return t.wsStart(path, header...).Read("GET")
}

// WebSocket connects a client.
func (t *T) WebSocket(path string, header ...string) *wsConn {
	return t.wsStart(path, header...).Upgraded()
}

// Upgraded reads the answer to a handshake, which has to be good.
func (c *Client) Upgraded() *wsConn {
	r := c.Head("GET")
	if r.Code() != 101 {
		c.t.Fatalf("the handshake was answered %q with the body %q", r.Line, clip(c.Rest(r), ""))
	}
	c.t.Equal("Upgrade", strings.ToLower(r.Get("Upgrade")), "websocket")
	c.t.Contains("Connection", strings.ToLower(r.Get("Connection")), "upgrade")
	c.t.Equal("Sec-WebSocket-Accept", strings.Join(values(r.Header, "Sec-WebSocket-Accept"), ", "), wsAccept(wsKey))
	return &wsConn{t: c.t, conn: c.conn, br: c.br, head: r}
}

// own is the header of the 101 without what a handshake has anyway.
func (c *wsConn) own() string {
	var out []string
	for line := range strings.Lines(c.head.Own()) {
		name, _, _ := strings.Cut(line, ":")
		switch strings.ToLower(name) {
		case "upgrade", "sec-websocket-accept":
			continue
		}
		out = append(out, strings.TrimSuffix(line, "\n"))
	}
	return strings.Join(out, "\n")
}
