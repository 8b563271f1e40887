//go:build linux

package netloop

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// User is told what happens on a Conn.
type User interface {
	// Data hands over bytes that were read. They are valid during the call.
	Data(p []byte)
	// Closed is called once when the peer has closed the connection (nil) or it
	// has failed. It is not called after a Close of our own.
	Closed(err error)
}

// Conn is a TCP connection on a loop.
type Conn struct {
	loop   *Loop
	fd     int
	user   User
	out    []byte // what the socket has not taken yet
	armed  bool   // Out is being waited for
	ending bool   // close when out is empty
	paused bool   // not registered with the loop
	closed bool
}

// Open begins a connection. What is written before it stands is sent then.
func Open(l *Loop, from, to netip.AddrPort, user User) (*Conn, error) {
	return open(l, from, to, user, false)
}

// OpenNarrow is Open for a connection that takes little when it is not read:
// some 100 KB, the buffers of both ends together.
func OpenNarrow(l *Loop, from, to netip.AddrPort, user User) (*Conn, error) {
	return open(l, from, to, user, true)
}

func open(l *Loop, from, to netip.AddrPort, user User, narrow bool) (*Conn, error) {
	fd, err := dialWith(from, to, narrow)
	if err != nil {
		return nil, err
	}
	c := &Conn{loop: l, fd: fd, user: user, armed: true}
	if err := l.Add(fd, In|Out, c); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return c, nil
}

// Attach makes a Conn of an accepted socket.
func Attach(l *Loop, fd int, user User) (*Conn, error) {
	c := &Conn{loop: l, fd: fd, user: user}
	if err := l.Add(fd, In, c); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return c, nil
}

// Ready implements Handler.
func (c *Conn) Ready(events uint32) {
	if c.closed || c.paused { // it was among the events of this turn already
		return
	}
	if events&(In|Hangup) != 0 {
		n, err := unix.Read(c.fd, c.loop.buf[:])
		switch {
		case n > 0:
			c.user.Data(c.loop.buf[:n])
		case n == 0 && err == nil:
			c.fail(nil)
		case err != unix.EAGAIN && err != unix.EINTR:
			c.fail(err)
		}
	}
	if events&Out != 0 && !c.closed {
		c.flush()
	}
}

// Write sends p, at once as far as the socket takes it. It keeps no reference
// to p.
func (c *Conn) Write(p []byte) {
	if c.closed {
		return
	}
	if c.armed || c.paused {
		c.out, c.armed = append(c.out, p...), true
		return
	}
	n, err := unix.Write(c.fd, p)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		c.fail(err)
		return
	}
	if n = max(n, 0); n == len(p) {
		return
	}
	c.out = append(c.out, p[n:]...)
	c.armed = true
	if err := c.loop.Modify(c.fd, In|Out); err != nil {
		c.fail(err)
	}
}

// Pause leaves the connection alone until Resume: nothing is read, nothing more
// is sent, and its end is not noticed.
func (c *Conn) Pause() {
	if c.closed || c.paused {
		return
	}
	c.paused = true
	if err := c.loop.Remove(c.fd); err != nil {
		c.fail(err)
	}
}

// Resume ends a pause.
func (c *Conn) Resume() {
	if c.closed || !c.paused {
		return
	}
	c.paused = false
	events := uint32(In)
	if c.armed {
		events |= Out
	}
	if err := c.loop.Add(c.fd, events, c); err != nil {
		c.fail(err)
	}
}

// Finish closes the connection once everything is written.
func (c *Conn) Finish() {
	if c.ending = true; !c.armed {
		c.Close(false)
	}
}

func (c *Conn) flush() {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		if err == unix.EAGAIN || err == unix.EINTR {
			return
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.out = c.out[n:]
	}
	c.out, c.armed = nil, false
	if c.ending {
		c.Close(false)
		return
	}
	if err := c.loop.Modify(c.fd, In); err != nil {
		c.fail(err)
	}
}

func (c *Conn) fail(err error) {
	if c.closed {
		return
	}
	c.Close(err != nil)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		err = nil // the peer left, only less politely
	}
	c.user.Closed(err)
}

// Close closes the connection; with abort it is reset.
func (c *Conn) Close(abort bool) {
	if c.closed {
		return
	}
	c.closed = true
	c.loop.Close(c.fd, abort)
}

// Serve accepts connections and attaches each to what user makes for it.
func Serve(l *Loop, fd int, user func(*Loop) Server) error {
	return l.Add(fd, In, &acceptor{loop: l, fd: fd, user: user})
}

// Server is the user of an accepted connection.
type Server interface {
	User
	// Start hands over the connection, before any other call.
	Start(*Conn)
}

type acceptor struct {
	loop *Loop
	fd   int
	user func(*Loop) Server
}

// Ready implements Handler. It takes a few connections at a time, so that a herd
// does not keep the loop from those it has.
func (a *acceptor) Ready(uint32) {
	for range 64 {
		fd, err := Accept(a.fd)
		if fd < 0 || err != nil {
			return // out of descriptors: tried again at the next turn
		}
		u := a.user(a.loop)
		if c, err := Attach(a.loop, fd, u); err == nil {
			u.Start(c)
		}
	}
}
