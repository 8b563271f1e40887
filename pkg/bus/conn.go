package bus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
)

const (
	greetingBytes     = 64      // ZMTP 3.0, "Greeting"
	maxHandshakeFrame = 4 << 10 // READY with a long identity has 300 bytes
	partOverhead      = 64      // what a part counts beside its bytes
	readBuffer        = 16 << 10
	writeBuffer       = 64 << 10
	largeWrite        = 8 << 10 // parts from here on are not copied into the buffer
)

// Flags of a ZMTP frame.
const (
	flagMore    = 0x01
	flagLong    = 0x02
	flagCommand = 0x04
)

// errPeerFault is wrapped by what ends a connection because its peer does not
// keep to the protocol or to our limits.
var errPeerFault = errors.New("peer broke the protocol")

// conn is one ZMTP connection: zmq4 for greeting, READY and framing, and under
// it a stream that is buffered in both directions and lets nothing pass that
// zmq4 would trip over. One goroutine may receive and one may send.
type conn struct {
	z      *zmq4.Conn
	s      *stream
	remote net.Addr

	// sending is held for a whole message, because the receiver answers PINGs.
	sending sync.Mutex
}

// connLimits is what a connection allows its peer.
type connLimits struct {
	maxMessage int           // bytes in one message, with partOverhead for each part
	handshake  time.Duration // from connected to ready
	stall      time.Duration // longest pause within a message, either way
	// reserve, if set, waits for room for n more bytes of the message that is being
	// received, and release gives back the room of a message.
	reserve func(n int) error
	release func(n int)
}

// openConn does the handshake and returns the connection, or closes nc.
func openConn(nc net.Conn, typ zmq4.SocketType, identity string, server bool, lim connLimits) (c *conn, err error) {
	defer func() {
		// zmq4 panics on a READY whose property lengths lie and on a socket
		// type that it does not know.
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("handshake: %w: %v", errPeerFault, p)
		}
		if err != nil {
			_ = nc.Close()
		}
	}()
	if err := nc.SetDeadline(time.Now().Add(lim.handshake)); err != nil {
		return nil, err
	}
	s := &stream{
		Conn: nc, stall: lim.stall,
		in: guard{br: bufio.NewReaderSize(nc, readBuffer), pass: greetingBytes, limit: maxHandshakeFrame, handshake: true},
	}
	z, err := zmq4.Open(s, null.Security(), typ, zmq4.SocketIdentity(identity), server, nil)
	if err != nil {
		if s.in.fault != nil {
			err = s.in.fault
		}
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c = &conn{z: z, s: s, remote: nc.RemoteAddr()}
	s.in.limit, s.in.handshake, s.in.ping, s.ready = lim.maxMessage, false, c.pong, true
	s.in.reserve, s.in.release = lim.reserve, lim.release
	return c, nil
}

// identity is what the peer calls itself; most say nothing.
func (c *conn) identity() string { return c.z.Peer.Meta["Identity"] }

// recv returns the parts of the next message.
func (c *conn) recv() ([][]byte, error) {
	m, err := c.z.RecvMsg()
	if err != nil {
		if c.s.in.fault != nil {
			return nil, c.s.in.fault
		}
		return nil, err
	}
	return m.Frames, nil
}

// received gives back the room of what recv returned last, or of what it could not
// receive. It belongs to the receiver.
func (c *conn) received() { c.s.in.received() }

// send writes a message into the buffer, from which flush sends it.
func (c *conn) send(parts ...[]byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.z.SendMsg(zmq4.NewMsgFrom(parts...))
}

func (c *conn) flush() error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.s.flush()
}

// pong answers a PING with its context (ZMTP 3.1). libzmq sends PINGs, if its
// user asked for heartbeats, even to a peer that speaks 3.0, and hangs up when
// there is no answer. zmq4 would answer in the middle of a message and without
// the context, so it does not see them.
func (c *conn) pong(context []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if err := c.z.SendCmd(zmq4.CmdPong, context); err != nil {
		return err
	}
	return c.s.flush()
}

// close ends the connection and with it a recv or send that is under way. It may
// be called from any goroutine, more than once.
func (c *conn) close() { _ = c.s.Close() }

// stream is what zmq4 reads from and writes to.
type stream struct {
	net.Conn
	stall time.Duration
	ready bool // the handshake is done; set before there are two goroutines

	// Owned by the reader.
	in      guard
	limited bool // a read deadline is set

	// Owned by the writer.
	out      []byte
	deadline time.Time // that is set for writing
}

// Read implements net.Conn.
func (s *stream) Read(p []byte) (int, error) {
	if s.ready && s.in.waiting() {
		// Within a message the peer may not pause for ever; between two it may.
		if err := s.limitRead(s.in.within()); err != nil {
			return 0, err
		}
	}
	return s.in.Read(p)
}

func (s *stream) limitRead(on bool) error {
	if !on && !s.limited {
		return nil
	}
	s.limited = on
	var d time.Time
	if on {
		d = time.Now().Add(s.stall)
	}
	return s.SetReadDeadline(d)
}

// limitWrite sees to it that a write that begins now ends after about stall. The
// deadline is moved only now and then, because that costs as much as a write.
func (s *stream) limitWrite() error {
	d := time.Now().Add(s.stall)
	if d.Sub(s.deadline) < s.stall/4 {
		return nil
	}
	s.deadline = d
	return s.SetWriteDeadline(d)
}

// Write implements net.Conn. Once the handshake is done it only collects, so
// that many messages go out in one system call.
func (s *stream) Write(p []byte) (int, error) {
	if !s.ready {
		return s.Conn.Write(p)
	}
	if len(p) < largeWrite {
		s.out = append(s.out, p...)
		if len(s.out) < writeBuffer {
			return len(p), nil
		}
		return len(p), s.flush()
	}
	if err := s.limitWrite(); err != nil {
		return 0, err
	}
	bufs := net.Buffers{s.out, p}
	_, err := bufs.WriteTo(s.Conn)
	s.out = s.out[:0]
	return len(p), err
}

func (s *stream) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	if err := s.limitWrite(); err != nil {
		return err
	}
	_, err := s.Conn.Write(s.out)
	s.out = s.out[:0]
	return err
}

// guard reads the frame headers of a ZMTP stream before zmq4 does, because zmq4
// allocates whatever a header announces. A header is passed on only when it is
// complete and within the limits.
type guard struct {
	br        *bufio.Reader
	handshake bool
	limit     int // bytes in one message
	ping      func(context []byte) error

	hdr   [9]byte
	out   []byte // of hdr, not yet passed on
	pass  uint64 // bytes of greeting or body that may pass
	total uint64 // bytes of the message so far
	more  bool   // the message has further parts
	fault error  // why the stream is refused

	reserve func(n int) error // nil if nothing has to be reserved
	release func(n int)
	held    uint64 // bytes reserved
}

// unreserved is how many bytes of a message a connection may receive without
// having reserved room for them. Nearly all messages are smaller.
const unreserved = 64 << 10

// room reserves what the message has beyond unreserved, before zmq4 allocates it.
func (g *guard) room() error {
	if g.reserve == nil || g.total <= g.held+unreserved {
		return nil
	}
	n := g.total - unreserved - g.held
	if err := g.reserve(int(n)); err != nil { //nolint:gosec // at most limit
		g.fault = err
		return err
	}
	g.held += n
	return nil
}

func (g *guard) received() {
	if g.held > 0 {
		g.release(int(g.held)) //nolint:gosec // at most limit
		g.held = 0
	}
}

// waiting reports whether the next read has to wait for the network.
func (g *guard) waiting() bool { return len(g.out) == 0 && g.br.Buffered() == 0 }

// within reports whether the next read is in the middle of a message.
func (g *guard) within() bool { return g.pass > 0 || g.more }

func (g *guard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if len(g.out) > 0 {
			n := copy(p, g.out)
			g.out = g.out[n:]
			return n, nil
		}
		if g.pass > 0 {
			if uint64(len(p)) > g.pass {
				p = p[:g.pass]
			}
			n, err := g.br.Read(p)
			g.pass -= uint64(n)
			return n, err
		}
		if err := g.header(); err != nil {
			return 0, err
		}
	}
}

// header reads the next frame header into out.
func (g *guard) header() error {
	if g.fault != nil {
		return g.fault
	}
	flags, err := g.br.ReadByte()
	if err != nil {
		return err
	}
	g.hdr[0] = flags
	n := 2
	if flags&flagLong != 0 {
		n = 9
	}
	if _, err := io.ReadFull(g.br, g.hdr[1:n]); err != nil {
		return err
	}
	size := uint64(g.hdr[1])
	if n == 9 {
		size = binary.BigEndian.Uint64(g.hdr[1:])
	}
	command := flags&flagCommand != 0
	switch {
	case flags&^(flagMore|flagLong|flagCommand) != 0:
		return g.refuse("frame with reserved flags %#02x", flags)
	case g.handshake && !command:
		return g.refuse("message before READY")
	case command && flags&flagMore != 0:
		return g.refuse("command in parts")
	case size > uint64(g.limit):
		return g.refuse("announced a frame of %d bytes, allowed are %d", size, g.limit)
	}
	if command && !g.handshake {
		return g.command(int(size)) //nolint:gosec // at most limit
	}
	if g.total += size + partOverhead; g.total > uint64(g.limit)+partOverhead {
		return g.refuse("sent a message of more than %d bytes", g.limit)
	}
	if err := g.room(); err != nil {
		return err
	}
	if g.more = flags&flagMore != 0; !g.more {
		g.total = 0
	}
	g.out, g.pass = g.hdr[:n], size
	return nil
}

// maxCommand is longer than any command that we understand.
const maxCommand = 64

// command deals with a command after READY. There are none in ZMTP 3.0; of those
// of later versions PING is answered and the others are passed over.
func (g *guard) command(size int) error {
	if size > maxCommand {
		_, err := g.br.Discard(size)
		return err
	}
	var buf [maxCommand]byte
	if _, err := io.ReadFull(g.br, buf[:size]); err != nil {
		return err
	}
	// PING: its name, two bytes of time to live, the context.
	if rest, ok := bytes.CutPrefix(buf[:size], []byte("\x04PING")); ok && len(rest) >= 2 {
		return g.ping(rest[2:])
	}
	return nil
}

func (g *guard) refuse(format string, args ...any) error {
	g.fault = fmt.Errorf("%w: %s", errPeerFault, fmt.Sprintf(format, args...))
	return g.fault
}
