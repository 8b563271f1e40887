package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The opcodes of RFC 6455.
const (
	opCont   = 0
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// wsFrame is one WebSocket frame. It can be wrong in every way.
type wsFrame struct {
	op   byte
	rsv  byte // 4, 2 and 1 are RSV1, RSV2 and RSV3
	open bool // the message goes on after it: FIN is not set
	odd  bool // masked by an origin, or not masked by a client
	data string
}

func wsText(s string) wsFrame   { return wsFrame{op: opText, data: s} }
func wsBinary(s string) wsFrame { return wsFrame{op: opBinary, data: s} }
func wsCont(s string) wsFrame   { return wsFrame{op: opCont, data: s} }
func wsPing(s string) wsFrame   { return wsFrame{op: opPing, data: s} }
func wsPong(s string) wsFrame   { return wsFrame{op: opPong, data: s} }

// wsClose is a Close frame with a code.
func wsClose(code uint16, reason string) wsFrame {
	return wsFrame{op: opClose, data: string(binary.BigEndian.AppendUint16(nil, code)) + reason}
}

// wsCloseRaw is a Close frame with any payload.
func wsCloseRaw(data string) wsFrame { return wsFrame{op: opClose, data: data} }

// more says that the message goes on after this frame.
func (f wsFrame) more() wsFrame {
	f.open = true
	return f
}

// String shows the frame as the cases name it.
func (f wsFrame) String() string {
	name, ok := map[byte]string{opCont: "continuation", opText: "text", opBinary: "binary", opClose: "close", opPing: "ping", opPong: "pong"}[f.op]
	if !ok {
		name = fmt.Sprintf("opcode %d", f.op)
	}
	if f.rsv != 0 {
		name += fmt.Sprintf(" with RSV %03b", f.rsv)
	}
	if f.open {
		name += " (more follows)"
	}
	if f.op == opClose && len(f.data) >= 2 {
		return fmt.Sprintf("%s %d %q", name, binary.BigEndian.Uint16([]byte(f.data)), f.data[2:])
	}
	return fmt.Sprintf("%s %q", name, clip(f.data, ""))
}

// encode writes the frame with the shortest length, masked or not.
func (f wsFrame) encode(masked bool) []byte {
	b := []byte{f.op | f.rsv<<4}
	if !f.open {
		b[0] |= 0x80
	}
	switch n := len(f.data); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	if masked == f.odd {
		return append(b, f.data...)
	}
	b[1] |= 0x80
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, mask[:]...)
	at := len(b)
	b = append(b, f.data...)
	xor(b[at:], mask)
	return b
}

// xor masks and unmasks.
func xor(b []byte, mask [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(mask[:]))
	word |= word << 32
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^word)
	}
	for i := range b {
		b[i] ^= mask[i%4]
	}
}

// wsConn is one end of a WebSocket, client or origin, that a case plays.
type wsConn struct {
	t      *T
	conn   net.Conn
	br     *bufio.Reader
	server bool
	head   *Response // the client's: answer to the handshake
	req    *Request  // the origin's: handshake

	pending *wsFrame // message of which more frames are to come, and what
	parts   []byte   // there is of it
	closing bool     // a Close frame was sent
	lax     bool     // the content of Close frames is not looked at
	broken  error    // of a write
	unpack  *inflater
}

// maxMessage bounds what the suite takes for one message.
const maxMessage = 64 << 20

// Send writes frames as they are. A connection that has ended is noticed by
// what is read afterwards.
func (c *wsConn) Send(frames ...wsFrame) {
	var b []byte
	for _, f := range frames {
		b = append(b, f.encode(!c.server)...)
		c.closing = c.closing || f.op == opClose
	}
	c.Raw(b)
}

// Raw writes bytes.
func (c *wsConn) Raw(b []byte) {
	if c.broken != nil {
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, c.broken = c.conn.Write(b)
}

// read reads one frame and refuses what the other side must not send.
func (c *wsConn) read() (wsFrame, error) {
	var h [2]byte
	if _, err := io.ReadFull(c.br, h[:]); err != nil {
		return wsFrame{}, err
	}
	f := wsFrame{op: h[0] & 15, rsv: h[0] >> 4 & 7, open: h[0]&0x80 == 0}
	n, least := uint64(h[1]&0x7f), uint64(0)
	switch n {
	case 126:
		var b [2]byte
		if _, err := io.ReadFull(c.br, b[:]); err != nil {
			return f, cut(err)
		}
		n, least = uint64(binary.BigEndian.Uint16(b[:])), 126
	case 127:
		var b [8]byte
		if _, err := io.ReadFull(c.br, b[:]); err != nil {
			return f, cut(err)
		}
		n, least = binary.BigEndian.Uint64(b[:]), 1<<16
	}
	var mask [4]byte
	masked := h[1]&0x80 != 0
	if masked {
		if _, err := io.ReadFull(c.br, mask[:]); err != nil {
			return f, cut(err)
		}
	}
	switch {
	case masked != c.server:
		return f, fmt.Errorf("a frame whose mask bit is %v", masked)
	case n < least:
		return f, fmt.Errorf("length %d in a form that is too long", n)
	case n > maxMessage:
		return f, fmt.Errorf("a frame of %d bytes", n)
	case f.op >= 8 && (n > 125 || f.open):
		return f, fmt.Errorf("a control frame of %d bytes, more to follow: %v", n, f.open)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(c.br, data); err != nil {
		return f, cut(err)
	}
	if masked {
		xor(data, mask)
	}
	f.data = string(data)
	return f, c.checkFrame(f)
}

func (c *wsConn) checkFrame(f wsFrame) error {
	switch {
	case f.op > opBinary && f.op < opClose || f.op > opPong:
		return fmt.Errorf("%s", f)
	case f.rsv != 0 && (f.rsv != 4 || c.unpack == nil || f.op != opText && f.op != opBinary):
		return fmt.Errorf("%s", f)
	case f.op == opCont && c.pending == nil:
		return errors.New("a continuation without a beginning")
	case (f.op == opText || f.op == opBinary) && c.pending != nil:
		return errors.New("a new message within a message")
	case f.op != opClose || f.data == "" || c.lax:
		return nil
	case len(f.data) == 1 || !utf8.ValidString(f.data[2:]):
		return fmt.Errorf("a Close frame with the payload %q", f.data)
	}
	switch code := binary.BigEndian.Uint16([]byte(f.data)); {
	case code < 1000, code >= 1004 && code <= 1006, code >= 1015 && code < 3000, code >= 5000:
		return fmt.Errorf("a Close frame with the code %d", code)
	}
	return nil
}

// message reads the next whole message or control frame.
func (c *wsConn) message() (wsFrame, error) {
	_ = c.conn.SetReadDeadline(c.t.deadline())
	for {
		f, err := c.read()
		if err != nil || f.op >= 8 {
			return f, err
		}
		if c.pending == nil {
			c.pending = &wsFrame{op: f.op, rsv: f.rsv}
		}
		if c.parts = append(c.parts, f.data...); len(c.parts) > maxMessage {
			return f, errors.New("an endless message")
		}
		if f.open {
			continue
		}
		m := *c.pending
		m.data = string(c.parts)
		c.pending, c.parts = nil, c.parts[:0]
		if m.rsv != 0 {
			m.rsv = 0
			if m.data, err = c.unpack.text(m.data); err != nil {
				return m, fmt.Errorf("a message that is not compressed well: %w", err)
			}
		}
		return m, nil
	}
}

// ExpectAny expects these messages in any order.
func (c *wsConn) ExpectAny(want ...wsFrame) {
	for len(want) > 0 {
		got := c.next(want[0].String())
		i := slices.Index(want, got)
		if i < 0 {
			c.t.Fatalf("%s got %s, want %s", c.side(), got, want[0])
		}
		want = slices.Delete(want, i, i+1)
	}
}

func (c *wsConn) side() string {
	if c.server {
		return "the origin"
	}
	return "the client"
}

// next reads the next message or control frame; there has to be one.
func (c *wsConn) next(want string) wsFrame {
	m, err := c.message()
	if err != nil {
		c.t.Fatalf("%s got %s, want %s", c.side(), plain(err), want)
	}
	return m
}

// Expect compares what is received next. Messages may come in any number of
// frames.
func (c *wsConn) Expect(want ...wsFrame) {
	for i, w := range want {
		got := c.next(w.String())
		if got != w {
			w.data, got.data = clip(w.data, got.data), clip(got.data, w.data)
			c.t.Fatalf("%s got as number %d %s, want %s", c.side(), i+1, got, w)
		}
	}
}

// ClosedWith expects a Close frame, answers it if that was not done yet, and
// expects a client's connection to end then.
func (c *wsConn) ClosedWith(code uint16, reason string) {
	c.closedBy(wsClose(code, reason))
}

func (c *wsConn) closedBy(want ...wsFrame) {
	got := c.next(want[0].String())
	ok := false
	for _, w := range want {
		ok = ok || got == w
	}
	if !ok {
		c.t.Fatalf("%s got %s, want %s", c.side(), got, want[0])
	}
	if !c.closing {
		c.Send(got)
	}
	if c.server {
		_ = c.conn.Close()
		return
	}
	c.Ended()
}

// Ended expects the end of the connection with nothing before it.
func (c *wsConn) Ended() {
	if m, err := c.message(); err == nil || !ended(err) {
		c.t.Fatalf("%s got %s, want the connection to end", c.side(), outcome(m, err))
	}
}

// ended reports whether the error is the end of a connection, between two
// frames or by a reset.
func ended(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &op) && !op.Timeout()
}

func outcome(m wsFrame, err error) string {
	if err != nil {
		return plain(err)
	}
	return m.String()
}

// Dropped expects the connection to end, but not as if all were well: without
// a Close frame, or with one whose code tells of an error.
func (c *wsConn) Dropped() {
	m, err := c.message()
	if err == nil && m.op == opClose && len(m.data) >= 2 {
		switch binary.BigEndian.Uint16([]byte(m.data)) {
		case 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014:
			c.Send(m)
			c.Ended()
			return
		}
	}
	if err == nil || !ended(err) {
		c.t.Fatalf("%s got %s, want the connection to be dropped", c.side(), outcome(m, err))
	}
}

// badReason is a code for Fails: that the reason in a Close frame is not UTF-8
// may be called a fault of the protocol or of the content.
const badReason uint16 = 1

// Fails expects that the other side fails the connection (RFC 6455 section
// 7.1.7) for that reason. The given messages may still come before, in this
// order. Pushpin never says the reason.
func (c *wsConn) Fails(code uint16, before ...wsFrame) {
	for {
		m, err := c.message()
		if err == nil && m.op != opClose {
			for len(before) > 0 && before[0] != m {
				before = before[1:]
			}
			if len(before) > 0 {
				before = before[1:]
				continue
			}
		}
		if c.t.OnPushpin() && ended(err) {
			return
		}
		if code == badReason && strings.HasPrefix(m.data, wsClose(1002, "").data) {
			code = 1002
		} else if code == badReason {
			code = 1007
		}
		if err != nil || m.op != opClose || !strings.HasPrefix(m.data, wsClose(code, "").data) {
			c.t.Fatalf("%s got %s, want the connection to fail with %d", c.side(), outcome(m, err), code)
		}
		c.Ended()
		return
	}
}

// deflater compresses messages as RFC 7692 says.
type deflater struct {
	keep  bool // context takeover
	level int
	buf   bytes.Buffer
	w     *flate.Writer
}

// text compresses the payload of one message.
func (d *deflater) text(s string) string {
	d.buf.Reset()
	if d.w == nil || !d.keep {
		w, err := flate.NewWriter(&d.buf, d.level)
		if err != nil {
			panic(err) // the level is a constant of the case
		}
		d.w = w
	}
	// Writing to a buffer does not fail.
	_, _ = io.WriteString(d.w, s)
	_ = d.w.Flush()
	return strings.TrimSuffix(d.buf.String(), "\x00\x00\xff\xff")
}

// inflater is the other direction.
type inflater struct {
	keep bool
	dict []byte
}

func (d *inflater) text(s string) (string, error) {
	if !d.keep {
		d.dict = nil
	}
	out, err := io.ReadAll(io.LimitReader(flate.NewReaderDict(strings.NewReader(s+"\x00\x00\xff\xff\x01\x00\x00\xff\xff"), d.dict), maxMessage))
	if err != nil {
		return "", err
	}
	d.dict = append(d.dict, out...)
	if n := len(d.dict) - 1<<15; n > 0 {
		d.dict = bytes.Clone(d.dict[n:])
	}
	return string(out), nil
}
