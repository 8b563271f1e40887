package bus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/go-zeromq/zmq4"
)

var testLimits = connLimits{maxMessage: 1 << 20, handshake: time.Minute, stall: time.Minute}

// counting counts the writes that reach the network.
type counting struct {
	net.Conn
	writes int
}

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// connPair is a PUSH and a PULL that are connected.
func connPair(t *testing.T, lim connLimits) (push, pull *conn, writes *counting) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x, err1 := net.Dial("tcp", l.Addr().String())
	y, err2 := l.Accept()
	if err := errors.Join(err1, err2, l.Close()); err != nil {
		t.Fatal(err)
	}
	writes = &counting{Conn: x}
	var wg sync.WaitGroup
	wg.Go(func() { push, err1 = openConn(writes, zmq4.Push, "", false, lim) })
	wg.Go(func() { pull, err2 = openConn(y, zmq4.Pull, "", true, lim) })
	wg.Wait()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(push.close)
	t.Cleanup(pull.close)
	return push, pull, writes
}

func TestManyMessagesInOneWrite(t *testing.T) {
	push, pull, w := connPair(t, testLimits)
	const n = 500
	done := make(chan error, 1)
	before := w.writes
	go func() {
		for range n {
			if err := push.send([]byte("topic"), bytes.Repeat([]byte("x"), 50)); err != nil {
				done <- err
				return
			}
		}
		done <- push.flush()
	}()
	for range n {
		m, err := pull.recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(m) != 2 || len(m[1]) != 50 {
			t.Fatalf("got %q", m)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := w.writes - before; got != 1 {
		t.Errorf("%d messages took %d writes, want 1", n, got)
	}
}

func TestMessageThatStopsHalfWay(t *testing.T) {
	lim := testLimits
	lim.stall = 50 * time.Millisecond
	push, pull, w := connPair(t, lim)
	go func() { _, _ = w.Conn.Write([]byte{0, 10, 'x'}) }()
	if _, err := pull.recv(); !isTimeout(err) {
		t.Errorf("got %v, want a timeout", err)
	}
	// Nor may a peer keep us writing for ever.
	if err := push.send(make([]byte, 64<<20)); !isTimeout(err) {
		t.Errorf("write to a peer that does not read: %v, want a timeout", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// Between messages a peer may be silent for as long as it likes.
func TestSilenceBetweenMessages(t *testing.T) {
	lim := testLimits
	lim.stall = 30 * time.Millisecond
	push, pull, _ := connPair(t, lim)
	go func() {
		for range 2 {
			<-time.After(3 * lim.stall) // what is tested is the passing of this time
			_ = push.send([]byte("x"))
			_ = push.flush()
		}
	}()
	for range 2 {
		if _, err := pull.recv(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPingIsAnsweredBetweenMessages(t *testing.T) {
	push, pull, w := connPair(t, testLimits)
	go func() {
		_, _ = w.Conn.Write(append([]byte{0x04, 10, 4}, "PING\x00\x05ctx"...))
		_, _ = w.Conn.Write(append([]byte{0x04, 6, 5}, "OTHER"...))
		_ = push.send([]byte("x"))
		_ = push.flush()
	}()
	pong := make(chan []byte, 1)
	go func() {
		b := make([]byte, 10)
		_, _ = io.ReadFull(w.Conn, b)
		pong <- b
	}()
	m, err := pull.recv()
	if err != nil || len(m) != 1 || string(m[0]) != "x" {
		t.Errorf("got %q, %v", m, err)
	}
	if got, want := string(<-pong), "\x04\x08\x04PONGctx"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzGuard: what the guard lets through is the input, up to where it refuses,
// with no message over the limit, however the input arrives.
func FuzzGuard(f *testing.F) {
	long := func(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{2}, n) }
	f.Add([]byte{0, 1, 'x', 1, 0, 0, 3, 'a', 'b', 'c'}, uint8(1))
	f.Add(append(long(300), make([]byte, 300)...), uint8(7))
	f.Add(long(1<<40), uint8(3))
	f.Add([]byte{4, 5, 4, 'P', 'I', 'N', 'G', 0, 1, 'x'}, uint8(2))
	f.Add(bytes.Repeat([]byte{1, 0}, 100), uint8(64))
	f.Fuzz(func(t *testing.T, b []byte, chunk uint8) {
		const limit = 1000
		g := &guard{
			br:    bufio.NewReaderSize(iotest.OneByteReader(bytes.NewReader(b)), 16),
			limit: limit, ping: func([]byte) error { return nil },
		}
		var out []byte
		p := make([]byte, int(chunk)+1)
		for {
			n, err := g.Read(p)
			out = append(out, p[:n]...)
			if err != nil {
				break
			}
		}
		// Read it as zmq4 does.
		total := 0
		for len(out) > 0 {
			flags, head := out[0], 2
			if flags&^(flagMore|flagLong) != 0 {
				t.Fatalf("flags %#x got through", flags)
			}
			if flags&flagLong != 0 {
				head = 9
			}
			if len(out) < head {
				t.Fatal("a part of a header got through")
			}
			size := uint64(out[1])
			if head == 9 {
				size = binary.BigEndian.Uint64(out[1:])
			}
			if size > limit {
				t.Fatalf("a frame of %d bytes got through", size)
			}
			if total += int(size); total > limit {
				t.Fatalf("a message of %d bytes got through", total)
			}
			if flags&flagMore == 0 {
				total = 0
			}
			out = out[min(len(out), head+int(size)):]
		}
	})
}
