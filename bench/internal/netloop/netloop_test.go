//go:build linux

package netloop

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

type echo struct{ c *Conn }

func (e *echo) Start(c *Conn) { e.c = c }
func (e *echo) Data(p []byte) { e.c.Write(p) }
func (e *echo) Closed(error)  {}

type collect struct {
	got    bytes.Buffer
	closed bool
	err    error
}

func (c *collect) Data(p []byte)    { c.got.Write(p) }
func (c *collect) Closed(err error) { c.closed, c.err = true, err }

func newLoop(t *testing.T) *Loop {
	t.Helper()
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEchoOfMoreThanTheSocketsHold(t *testing.T) {
	l := newLoop(t)
	fd, addr, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	if err := Serve(l, fd, func(*Loop) Server { return &echo{} }); err != nil {
		t.Fatal(err)
	}
	var got collect
	c, err := Open(l, netip.MustParseAddrPort("127.0.0.7:0"), addr, &got)
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	c.Write(sent)
	ok, err := l.Wait(poll.Patience, func() bool { return got.got.Len() >= len(sent) })
	if err != nil || !ok {
		t.Fatalf("%d of %d bytes came back, %v", got.got.Len(), len(sent), err)
	}
	if !bytes.Equal(got.got.Bytes(), sent) {
		t.Error("other bytes came back than were sent")
	}
	c.Close(true)
}

func TestRefusedConnectionIsReported(t *testing.T) {
	l := newLoop(t)
	fd, addr, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	l.Close(fd, false)
	var got collect
	if _, err := Open(l, netip.AddrPort{}, addr, &got); err != nil {
		return // refused at once
	}
	ok, err := l.Wait(poll.Patience, func() bool { return got.closed })
	if err != nil || !ok || got.err == nil {
		t.Errorf("closed %v, error %v, loop %v: want the refusal", got.closed, got.err, err)
	}
}

// Timers fire in the order in which they are due, however late that is.
func TestTimers(t *testing.T) {
	l := newLoop(t)
	var order []int
	add := func(n int) func() { return func() { order = append(order, n) } }
	l.After(3*time.Hour, add(3))
	l.After(2*time.Hour, add(2))
	l.After(4*time.Hour, add(4))
	l.After(time.Hour, func() {
		add(1)()
		l.After(time.Millisecond, add(5))
	})
	l.start = l.start.Add(-5 * time.Hour)
	ok, err := l.Wait(poll.Patience, func() bool { return len(order) == 5 })
	if err != nil || !ok || !slices.Equal(order, []int{1, 2, 3, 4, 5}) {
		t.Errorf("got %v, %v, %v", order, ok, err)
	}
}

// flood sends as soon as it has a connection.
type flood struct{ bytes int }

func (f *flood) Start(c *Conn) { c.Write(make([]byte, f.bytes)) }
func (f *flood) Data([]byte)   {}
func (f *flood) Closed(error)  {}

func TestPause(t *testing.T) {
	l := newLoop(t)
	fd, addr, err := Listen(loopback)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20
	var far *Conn
	if err := Serve(l, fd, func(*Loop) Server { return &keep{flood{size}, &far} }); err != nil {
		t.Fatal(err)
	}
	var got collect
	c, err := OpenNarrow(l, netip.AddrPort{}, addr, &got)
	if err != nil {
		t.Fatal(err)
	}
	c.Pause()
	c.Write([]byte("x")) // it is not sent
	ok, err := l.Wait(poll.Patience, func() bool { return far != nil })
	if err != nil || !ok {
		t.Fatal("no connection", err)
	}
	// Several turns of the loop, in which the far end sends what it can.
	turns := 0
	if _, err := l.Wait(poll.Patience, func() bool { turns++; l.Soon(func() {}); return turns > 100 }); err != nil {
		t.Fatal(err)
	}
	if left := len(far.out); got.got.Len() > 0 || left < size/2 {
		t.Errorf("%d bytes came, and %d of %d wait at the far end", got.got.Len(), left, size)
	}
	c.Resume()
	ok, err = l.Wait(poll.Patience, func() bool { return got.got.Len() == size })
	if err != nil || !ok {
		t.Errorf("%d of %d bytes came, %v", got.got.Len(), size, err)
	}
	c.Close(true)
}

// keep is a flood that tells its connection.
type keep struct {
	flood
	conn **Conn
}

func (k *keep) Start(c *Conn) {
	*k.conn = c
	k.flood.Start(c)
}
