// Package wsconn makes connections of the WebSocket library on sockets whose
// handshake is done. The library insists on making or answering a handshake
// itself, which would neither keep header fields as they are nor let a proxy look
// at the other side's answer first; so it is given one that nobody sees.
package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // RFC 6455 has it so; nothing secret hangs on it
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// writeBuffers are shared by all connections: a connection that writes nothing
// has none.
var writeBuffers sync.Pool

const writeBuffer = 4096

// AcceptKey returns the value of Sec-WebSocket-Accept for that of
// Sec-WebSocket-Key (RFC 6455 section 4.2.2).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Client returns the client's end of a WebSocket on nc. What br holds already is
// read first. The library reads readBuffer bytes at once.
func Client(nc net.Conn, br *bufio.Reader, readBuffer int) (*websocket.Conn, error) {
	shim := &clientShim{Conn: nc, br: br}
	d := websocket.Dialer{
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return shim, nil },
	}
	ws, resp, err := d.Dial("ws://origin/", nil)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	return ws, err
}

// clientShim is a connection behind a handshake that it plays itself.
type clientShim struct {
	net.Conn
	br      *bufio.Reader // what came with the real handshake
	request []byte
	answer  []byte
	over    bool
}

func (h *clientShim) Write(p []byte) (int, error) {
	if h.over {
		return h.Conn.Write(p)
	}
	h.request = append(h.request, p...)
	if !bytes.HasSuffix(h.request, []byte("\r\n\r\n")) {
		return len(p), nil
	}
	head, err := http1.ReadRequestHead(bufio.NewReader(bytes.NewReader(h.request)), http1.Limits{})
	if err != nil {
		return 0, err
	}
	key, _ := http1.Get(head.Header, "Sec-WebSocket-Key")
	h.answer = http1.AppendResponseHead(nil, http.StatusSwitchingProtocols, "", 1, []frame.Field{
		{Name: "Upgrade", Value: "websocket"},
		{Name: "Connection", Value: "Upgrade"},
		{Name: "Sec-WebSocket-Accept", Value: AcceptKey(key)},
	})
	h.over, h.request = true, nil
	return len(p), nil
}

func (h *clientShim) Read(p []byte) (int, error) {
	if len(h.answer) > 0 {
		n := copy(p, h.answer)
		h.answer = h.answer[n:]
		return n, nil
	}
	if h.br != nil {
		if n := h.br.Buffered(); n > 0 {
			return h.br.Read(p[:min(len(p), n)])
		}
		h.br = nil
	}
	return h.Conn.Read(p)
}

// Server returns the server's end of a WebSocket on nc. The library reads
// readBuffer bytes at once, and takes compressed messages if deflate is set.
func Server(nc net.Conn, readBuffer int, deflate bool) (*websocket.Conn, error) {
	up := websocket.Upgrader{
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers, EnableCompression: deflate,
		CheckOrigin: func(*http.Request) bool { return true }, // that was for origins to judge
		Error:       func(http.ResponseWriter, *http.Request, int, error) {},
	}
	r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/"}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
	}}
	if deflate {
		r.Header["Sec-Websocket-Extensions"] = []string{"permessage-deflate"}
	}
	shim := &serverShim{Conn: nc}
	ws, err := up.Upgrade(&hijack{shim}, r, nil)
	shim.over.Store(true)
	return ws, err
}

// serverShim is a connection that says nothing until a handshake is over.
type serverShim struct {
	net.Conn
	over atomic.Bool
}

func (h *serverShim) Write(p []byte) (int, error) {
	if !h.over.Load() {
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// hijack is the ResponseWriter that the library wants to take a connection from.
type hijack struct{ nc net.Conn }

var errNoResponse = errors.New("wsconn: the library answered the handshake")

func (*hijack) Header() http.Header       { return http.Header{} }
func (*hijack) Write([]byte) (int, error) { return 0, errNoResponse }
func (*hijack) WriteHeader(int)           {}

// Hijack implements http.Hijacker.
func (h *hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.nc, bufio.NewReadWriter(bufio.NewReaderSize(h.nc, 16), bufio.NewWriterSize(h.nc, 16)), nil
}
