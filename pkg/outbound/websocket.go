package outbound

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 has it so; nothing secret hangs on it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/wsevents"
)

// Opcodes of WebSocket frames (RFC 6455, section 5.2).
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xA
)

// maxRejected bounds the body of a response that is not 101.
const maxRejected = 100_000

// Frame is one WebSocket frame. The interface of Zurl is made of frames, not of
// messages, and so is this: what is fragmented stays it.
type Frame struct {
	Opcode byte
	Fin    bool
	Data   []byte
}

// WebSocket is the client's end of a connection. One goroutine may read while
// another writes.
type WebSocket struct {
	Code   int
	Reason string
	Header []frame.Field // all that came

	nc       net.Conn
	br       *bufio.Reader
	maxFrame int
	timeout  time.Duration // of a write

	// Owned by the reader.
	opcode byte   // of the message under way; Continuation if there is none
	tail   []byte // see wsevents.CheckUTF8
}

// WebSocket makes a connection to a URI of the scheme ws or wss. Of the request
// it takes neither Method nor body, and MaxBody is not for frames: maxFrame is, in
// bytes. ctx and Timeout are for the handshake. Extensions are not offered, since
// a Frame has no room for what they change.
func (c *Client) WebSocket(ctx context.Context, r *Request, maxFrame int) (*WebSocket, error) {
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	w, err := c.webSocket(ctx, r, maxFrame)
	if err != nil {
		e := classify(ctx, err)
		if e.Condition == TooManyRedirects {
			e = &Error{Condition: Undefined, Err: e}
		}
		return nil, e
	}
	return w, nil
}

func (c *Client) webSocket(ctx context.Context, r *Request, maxFrame int) (*WebSocket, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	shake := *r
	shake.Method, shake.Body, shake.More = "GET", nil, nil
	shake.Header = http1.Del(slices.Clone(r.Header), "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions")
	resp, err := c.do(ctx, &shake, "ws",
		frame.Field{Name: "Upgrade", Value: "websocket"}, frame.Field{Name: "Connection", Value: "Upgrade"},
		frame.Field{Name: "Sec-WebSocket-Version", Value: "13"}, frame.Field{Name: "Sec-WebSocket-Key", Value: key})
	if err != nil {
		return nil, err
	}
	if resp.Code != 101 {
		return nil, rejected(resp)
	}
	if err := checkHandshake(r.Header, resp.resp.Head.Header, key); err != nil {
		_ = resp.Close()
		return nil, err
	}
	nc, br, err := resp.resp.Hijack()
	if err != nil {
		return nil, err
	}
	return &WebSocket{
		Code: resp.Code, Reason: resp.Reason, Header: resp.resp.Head.Header,
		nc: nc, br: br, maxFrame: maxFrame, timeout: c.opt.IdleTimeout,
	}, nil
}

// rejected makes an error of a response, with as much of its body as is allowed.
func rejected(resp *Response) error {
	defer resp.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(io.LimitReader(resp, maxRejected))
	if err != nil {
		return err
	}
	resp.Body = body
	resp.Header = append(http1.Del(resp.Header, "Content-Length"), frame.Field{Name: "Content-Length", Value: strconv.Itoa(len(body))})
	return &Error{Condition: Rejected, Err: fmt.Errorf("the answer to the handshake is %d", resp.Code), Response: resp}
}

// checkHandshake does what RFC 6455, section 4.1, asks of a client.
func checkHandshake(asked, got []frame.Field, key string) error {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see above
	accept, _ := http1.Get(got, "Sec-WebSocket-Accept")
	protocol, chosen := http1.Get(got, "Sec-WebSocket-Protocol")
	switch {
	case !http1.HasToken(got, "Upgrade", "websocket") || !http1.HasToken(got, "Connection", "upgrade"):
		return fail(Undefined, "the answer to the handshake upgrades to something else")
	case accept != base64.StdEncoding.EncodeToString(sum[:]):
		return fail(Undefined, "the server's Sec-WebSocket-Accept is wrong")
	case http1.Has(got, "Sec-WebSocket-Extensions"):
		return fail(Undefined, "the server uses an extension that was not offered")
	case chosen && !slices.Contains(slices.Collect(http1.Tokens(asked, "Sec-WebSocket-Protocol")), protocol):
		return fail(Undefined, "the server chose a subprotocol that was not offered")
	}
	return nil
}

// ReadFrame returns the next frame. After an error, which is an *Error, there is
// none. A close frame is returned like the others; its answer is the caller's.
func (w *WebSocket) ReadFrame() (Frame, error) {
	f, err := w.readFrame()
	if err == nil {
		err = w.judge(&f)
	}
	if err != nil {
		return Frame{}, classify(context.Background(), err)
	}
	return f, nil
}

func broken(text string) error { return fail(Undefined, "WebSocket: "+text) }

func (w *WebSocket) readFrame() (f Frame, err error) {
	var head [8]byte
	if _, err := io.ReadFull(w.br, head[:2]); err != nil {
		return f, err
	}
	f = Frame{Opcode: head[0] & 0x0f, Fin: head[0]&0x80 != 0}
	if head[0]&0x70 != 0 {
		return f, broken("reserved bits are set")
	}
	if head[1]&0x80 != 0 {
		return f, broken("a frame of a server is masked")
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(w.br, head[:2])
		n = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		_, err = io.ReadFull(w.br, head[:8])
		n = binary.BigEndian.Uint64(head[:8])
	}
	switch {
	case err != nil:
		return f, err
	case f.Opcode >= Close && (n > 125 || !f.Fin):
		return f, broken("a control frame is too long or fragmented")
	case n > uint64(w.maxFrame): //nolint:gosec // positive
		return f, fail(FrameTooLarge, fmt.Sprintf("a frame has %d bytes", n))
	}
	f.Data = make([]byte, n)
	_, err = io.ReadFull(w.br, f.Data)
	return f, err
}

// judge checks what a frame means after those before it.
func (w *WebSocket) judge(f *Frame) error {
	switch f.Opcode {
	case Continuation:
		if w.opcode == Continuation {
			return broken("a continuation of nothing")
		}
	case Text, Binary:
		if w.opcode != Continuation {
			return broken("a message within a message")
		}
		w.opcode = f.Opcode
	case Ping, Pong:
		return nil
	case Close:
		if len(f.Data) == 1 {
			return broken("a close frame of one byte")
		}
		return nil
	default:
		return broken("unknown opcode")
	}
	if w.opcode == Text {
		var ok bool
		if w.tail, ok = wsevents.CheckUTF8(w.tail, f.Data, f.Fin); !ok {
			return broken("text that is not UTF-8")
		}
	}
	if f.Fin {
		w.opcode, w.tail = Continuation, nil
	}
	return nil
}

// WriteFrame sends a frame. Control frames must be short and final.
func (w *WebSocket) WriteFrame(f Frame) error {
	if f.Opcode >= Close && (len(f.Data) > 125 || !f.Fin) {
		return fail(BadRequest, "a control frame is too long or fragmented")
	}
	b := make([]byte, 0, len(f.Data)+14)
	first := f.Opcode
	if f.Fin {
		first |= 0x80
	}
	switch n := len(f.Data); {
	case n < 126:
		b = append(b, first, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, first, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, 0x80|127), uint64(n))
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:]) // never fails
	b = append(b, mask[:]...)
	from := len(b)
	b = append(b, f.Data...)
	for i := range b[from:] {
		b[from+i] ^= mask[i&3]
	}
	_ = w.nc.SetWriteDeadline(time.Now().Add(w.timeout)) // fails on a closed connection only, and so will the write
	if _, err := w.nc.Write(b); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return &Error{Condition: SessionTimeout, Err: err}
		}
		return &Error{Condition: Undefined, Err: err}
	}
	return nil
}

// Close closes the connection without more. It ends a ReadFrame and a WriteFrame.
// Closing again does nothing.
func (w *WebSocket) Close() error { return w.nc.Close() }
