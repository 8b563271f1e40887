package connmgr

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sock is a client's socket. It is written to in two ways: Write waits, with a
// deadline for each step forward, and tryWrite never does. Only one goroutine at
// a time writes: the connection's own while it serves, a writer loop while the
// connection is held.
type sock struct {
	net.Conn                 // *net.TCPConn or *net.UnixConn
	rc       syscall.RawConn // of Conn
	timeout  time.Duration   // how long Write may make no progress
	// noWait makes Read return errWouldBlock if nothing is there. It belongs to
	// whoever reads.
	noWait bool

	// While TLS is held, nothing but a writer loop writes to the socket. But
	// crypto/tls writes where it reads, too: alerts, and the answer to a KeyUpdate.
	// These records must not overtake what the loop has had sealed, nor wait for
	// the client, for the loop would wait for them. So they are kept, to go out
	// with what the loop has sealed next (RFC 8446, section 4.6.3, asks for an
	// answer before that and no earlier). The lock in crypto/tls around each Write
	// makes the order that of the records.
	mu      sync.Mutex // guards what follows
	held    bool
	gather  *[]byte // takes what Write is given while a writer loop seals; else nil
	records []byte  // kept, at most maxRecords
}

// maxRecords bounds what is kept for a client that is sent nothing. It is several
// hundred answers to KeyUpdates; those of an honest client are hours apart.
const maxRecords = 16 << 10

var errRecords = errors.New("too many TLS records for a client to which nothing is sent")

// errWouldBlock is what Read returns with noWait. To crypto/tls it is a fault that
// passes, after which the connection can be read from again.
var errWouldBlock net.Error = wouldBlockError{}

type wouldBlockError struct{}

func (wouldBlockError) Error() string   { return "nothing to read" }
func (wouldBlockError) Timeout() bool   { return false }
func (wouldBlockError) Temporary() bool { return true }

func newSock(nc net.Conn, timeout time.Duration) (*sock, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, errors.New("connection without a descriptor")
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &sock{Conn: nc, rc: rc, timeout: timeout}, nil
}

// fd returns the descriptor, for calls that are made while nobody closes the
// socket.
func (s *sock) fd() int32 {
	fd := int32(-1)
	_ = s.rc.Control(func(n uintptr) { fd = int32(n) }) // fails on a closed socket only
	return fd
}

// tryWriter makes write(2) calls without an allocation: the function that
// RawConn.Write wants is made once.
type tryWriter struct {
	p    []byte
	n    int
	err  error
	wait bool // wait for room if there is none
	fn   func(fd uintptr) bool
}

func newTryWriter() *tryWriter {
	w := new(tryWriter)
	w.fn = w.step
	return w
}

func (w *tryWriter) step(fd uintptr) bool {
	for {
		n, err := unix.Write(int(fd), w.p)
		switch {
		case err == nil:
			w.n = n
			return true
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return !w.wait
		default:
			w.err = err
			return true
		}
	}
}

// write makes one write call on rc and returns what the socket took: nothing,
// without an error, if it is full and wait is false.
func (w *tryWriter) write(rc syscall.RawConn, p []byte, wait bool) (int, error) {
	w.p, w.n, w.err, w.wait = p, 0, nil, wait
	err := rc.Write(w.fn)
	w.p = nil
	if w.err != nil {
		err = w.err
	}
	return w.n, err
}

// tryReader makes read(2) calls that do not wait.
type tryReader struct {
	p   []byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func newTryReader() *tryReader {
	r := new(tryReader)
	r.fn = r.step
	return r
}

func (r *tryReader) step(fd uintptr) bool {
	for {
		n, err := unix.Read(int(fd), r.p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			r.err = errWouldBlock
		case err != nil:
			r.err = err
		case n == 0 && len(r.p) > 0:
			r.err = io.EOF
		default:
			r.n = n
		}
		return true
	}
}

var tryReaders = sync.Pool{New: func() any { return newTryReader() }}

// Read implements net.Conn.
func (s *sock) Read(p []byte) (int, error) {
	if !s.noWait {
		return s.Conn.Read(p)
	}
	r := tryReaders.Get().(*tryReader)
	defer tryReaders.Put(r)
	r.p, r.n, r.err = p, 0, nil
	err := s.rc.Read(r.fn)
	r.p = nil
	if r.err != nil {
		err = r.err
	}
	return r.n, err
}

var tryWriters = sync.Pool{New: func() any { return newTryWriter() }}

// Write implements net.Conn.
func (s *sock) Write(p []byte) (int, error) {
	s.mu.Lock()
	switch {
	case s.gather != nil:
		*s.gather = append(*s.gather, p...)
		s.mu.Unlock()
		return len(p), nil
	case s.held && len(s.records)+len(p) > maxRecords:
		s.mu.Unlock()
		s.reset()
		_ = s.Close() // whoever reads finds out
		return 0, errRecords
	case s.held:
		s.records = append(s.records, p...)
		s.mu.Unlock()
		return len(p), nil
	}
	kept := s.records
	s.records = nil
	s.mu.Unlock()
	if len(kept) > 0 {
		if _, err := s.write(kept); err != nil {
			return 0, err
		}
	}
	return s.write(p)
}

// hold says whether the socket is a writer loop's.
func (s *sock) hold(held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = held
}

// startGather has what is written from now on appended to dst, after what was
// kept.
func (s *sock) startGather(dst *[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*dst = append(*dst, s.records...)
	s.records, s.gather = nil, dst
}

func (s *sock) stopGather() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gather = nil
}

// write waits for the client. Nearly always the socket takes all of p at once;
// only otherwise is there a reason to set a deadline.
func (s *sock) write(p []byte) (int, error) {
	w := tryWriters.Get().(*tryWriter)
	defer tryWriters.Put(w)
	n, err := w.write(s.rc, p, false)
	if err != nil || n == len(p) {
		return n, err
	}
	defer s.SetWriteDeadline(time.Time{}) //nolint:errcheck // the next write would fail too
	for err == nil && n < len(p) {
		if err = s.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
			break
		}
		var m int
		m, err = w.write(s.rc, p[n:], true)
		n += m
	}
	return n, err
}

// waitWritable waits until the socket takes bytes again or is closed.
func (s *sock) waitWritable() error {
	return s.rc.Write(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// reset makes closing the socket visible to the client as a fault.
func (s *sock) reset() {
	if tc, ok := s.Conn.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
}

func (s *sock) closeWrite() {
	switch nc := s.Conn.(type) {
	case *net.TCPConn:
		_ = nc.CloseWrite()
	case *net.UnixConn:
		_ = nc.CloseWrite()
	}
}

// hangup is what the kernel knows of the client's end of a socket.
type hangup uint8

const (
	hangupNone hangup = iota // nothing, or the wait was ended by a read deadline
	hangupHalf               // the client will send nothing more (FIN)
	hangupGone               // the client is gone (RST)
)

// hangup returns what is known at present.
func (s *sock) hangup() hangup {
	h := hangupGone
	_ = s.rc.Control(func(fd uintptr) { h = pollHangup(int(fd)) }) // fails on a closed socket only
	return h
}

// waitHangup waits until the client has shut its sending side down, unless half
// says that this is known, or is gone. It reads nothing. It ends early, with
// hangupNone, when a read deadline passes.
//
// A goroutine that waits here needs no more than the smallest stack.
func (s *sock) waitHangup(half bool) (hangup, error) {
	got := hangupNone
	err := s.rc.Read(func(fd uintptr) bool {
		got = pollHangup(int(fd))
		return got == hangupGone || got == hangupHalf && !half
	})
	return got, err
}
