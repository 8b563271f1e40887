package connmgr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/wsconn"
)

// wsLibBuffer is how much is read from a WebSocket at once.
const wsLibBuffer = 4096

// wsLib is a connection of the WebSocket library, which is lent to a socket for
// as long as there is something to read from it: between two messages it has
// nothing of the client, and most clients are silent most of the time.
//
// It is also the socket that the library sees. The library is given the bytes of
// one frame at a time, so that it never has those of the next message. What it
// writes, which is close frames at faults of the client, goes to the writer.
type wsLib struct {
	ws   *websocket.Conn
	in   *wsReader // whom it is lent to
	buf  []byte    // read from the socket; array of wsLibBuffer bytes
	next int       // start of what the library has not been given
	scan wsScanner
}

// Errors of reading.
var (
	errWSIdle  = errors.New("nothing more is here")
	errWSFrame = errors.New("frame that RFC 6455 or 7692 forbids")
)

// wsLibs are those that nobody needs, without compression and with it.
type wsLibs [2]sync.Pool

func (s *Server) getWSLib(in *wsReader) (*wsLib, error) {
	l, _ := s.wsLibs[boolInt(in.deflate)].Get().(*wsLib)
	if l == nil {
		var err error
		if l, err = newWSLib(in.deflate); err != nil {
			return nil, err
		}
	}
	l.in = in
	return l, nil
}

// lend reads with a connection of the library.
func (in *wsReader) lend() error {
	l, err := in.c.s.getWSLib(in)
	if err != nil { // cannot be: the handshake is our own
		in.c.s.log.Error("WebSocket library", "client", in.c.peer, "err", err)
		return err
	}
	err = in.read(l)
	// After an error inside a read of its own the library cannot be used again.
	if errors.Is(err, errWSIdle) && !l.scan.asked {
		l.in = nil
		in.c.s.wsLibs[boolInt(in.deflate)].Put(l)
	}
	return err
}

func newWSLib(deflate bool) (*wsLib, error) {
	l := &wsLib{buf: make([]byte, 0, wsLibBuffer)}
	ws, err := wsconn.Server(l, wsLibBuffer, deflate)
	if err != nil {
		return nil, err
	}
	l.ws = ws
	ws.SetCloseHandler(func(int, string) error { return nil }) // the far end answers
	ws.SetPingHandler(func(data string) error { return l.in.control(frame.MessagePing, data) })
	ws.SetPongHandler(func(data string) error { return l.in.control(frame.MessagePong, data) })
	return l, nil
}

// more returns nil if something of a new message is here, or if the reader waits
// for it; otherwise errWSIdle, or why nothing will come.
//
// It also waits for the rest of the last frame: compressed data may say that it is
// over before its frame is. The library passes that over when it looks for the
// next message, so until it has, it can be lent to nobody else.
func (l *wsLib) more() error {
	l.scan.asked = false
	if l.next < len(l.buf) || l.in.wait || !l.scan.between() {
		return nil
	}
	return l.fill(true)
}

// fill reads from the socket. With now it waits for nothing.
func (l *wsLib) fill(now bool) error {
	c := l.in.c
	c.sock.noWait = now
	n, err := c.Read(l.buf[:cap(l.buf)])
	c.sock.noWait = false
	l.buf, l.next = l.buf[:n], 0
	switch {
	case n > 0:
		return nil
	case errors.Is(err, errWouldBlock):
		return errWSIdle
	}
	return err
}

// Read gives the library what is left of the current frame, as far as it is here.
// Between messages, which it is when the library looks for one after it has dealt
// with a control frame, it does not wait.
func (l *wsLib) Read(p []byte) (int, error) {
	for l.next == len(l.buf) {
		if l.scan.fault {
			return 0, errWSFrame
		}
		now := l.scan.between() && !l.in.wait
		l.scan.asked = now
		if err := l.fill(now); err != nil {
			return 0, err
		}
		l.scan.asked = false
	}
	if l.scan.fault {
		return 0, errWSFrame
	}
	n := l.scan.pass(l.buf[l.next:min(len(l.buf), l.next+len(p))])
	copy(p, l.buf[l.next:l.next+n])
	l.next += n
	if n == 0 {
		return 0, errWSFrame
	}
	return n, nil
}

// Write takes what the library wants to say to the client.
func (l *wsLib) Write(p []byte) (int, error) {
	in := l.in
	in.spoke = true
	// RFC 6455, section 8.1, has a code of its own for what the library calls a
	// protocol error.
	raw := bytes.Clone(p)
	if bytes.HasSuffix(p, []byte("invalid utf8 payload in close frame")) {
		raw = wsCloseFrame(wsBadData, nil)
	}
	in.h.w.push(job{kind: jobWSRaw, h: in.h, raw: raw})
	return len(p), nil
}

// What else there is to a net.Conn is for us alone.

// Close implements net.Conn.
func (*wsLib) Close() error { return nil }

// LocalAddr implements net.Conn.
func (l *wsLib) LocalAddr() net.Addr { return nil }

// RemoteAddr implements net.Conn.
func (l *wsLib) RemoteAddr() net.Addr { return nil }

// SetDeadline implements net.Conn.
func (*wsLib) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (*wsLib) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (*wsLib) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*wsLib)(nil)

// wsScanner follows the frames of a client, to tell where one ends, and for what
// the library lets through: a close frame with one byte of content, and the bit
// of compressed messages (RSV1) where it has no business.
type wsScanner struct {
	head   [14]byte
	n      int    // bytes of head that are here
	skip   uint64 // bytes of content to come
	inside bool   // a message in several frames has begun and not ended
	fault  bool
	asked  bool // the library waits for more inside a read of its own
}

// between reports whether the last frame is over, and a message with it.
func (s *wsScanner) between() bool { return s.n == 0 && s.skip == 0 && !s.inside }

// pass returns how many bytes of p belong to the current frame, or come before
// the end of a head that is forbidden.
func (s *wsScanner) pass(p []byte) int {
	i := 0
	for i < len(p) {
		if s.skip > 0 {
			k := min(s.skip, uint64(len(p)-i))
			s.skip -= k
			return i + int(k) // the frame's end, or that of p
		}
		s.head[s.n] = p[i]
		s.n++
		i++
		if s.n < 2 || s.n < s.headLen() {
			continue
		}
		opcode := s.head[0] & 0x0f
		size := uint64(s.head[1] & 0x7f)
		switch size {
		case 126:
			size = uint64(binary.BigEndian.Uint16(s.head[2:]))
		case 127:
			size = binary.BigEndian.Uint64(s.head[2:])
		}
		rsv1 := s.head[0]&wsRSV1 != 0
		if opcode == frame.MessageClose && size == 1 || rsv1 && (opcode == 0 || opcode >= frame.MessageClose) {
			s.fault = true
			return i - 1 // the library must not see a whole head
		}
		if opcode < frame.MessageClose {
			s.inside = s.head[0]&wsFin == 0
		}
		if s.n, s.skip = 0, size; size == 0 {
			return i
		}
	}
	return i
}

func (s *wsScanner) headLen() int {
	n := 2
	switch s.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if s.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}
