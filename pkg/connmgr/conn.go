package connmgr

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// conn is one client connection. It has one goroutine while requests are
// answered, and none while it is held: then the poller watches it. Held
// connections are many, so everything that only serving needs is in session,
// which goes back to a pool.
type conn struct {
	// Set once.
	s     *Server
	sock  *sock
	tls   *tls.Conn // nil if the connection is plain
	peer  string    // "ip:port", or "" for a unix socket
	inner *inner    // nil unless the connection is one of this process to itself

	// Owned by the connection's goroutine, and by the writer loop of its hold
	// from park to release.
	minor      uint8        // HTTP version of the current request
	isHead     bool         // its method is HEAD
	closeAfter bool         // no further request on this connection
	probed     bool         // the first probeLen bytes of the response were sent
	pending    []byte       // read from the socket and not consumed
	req        *request     // current request, for as long as it may be sent again
	retry      *frame.Retry // set by the writer: send req again
	inExch     *exch        // current ordinary exchange, for cleaning up
	idle       atomic.Int64 // since when it waits for a request, as monotonic says; 0 if it does not
	served     atomic.Bool  // it had one; likewise
	mu         sync.Mutex   // guards what follows
	after      afterHold    // what the watching goroutine shall do
	unwatched  bool         // there is no watching goroutine, or it has ended
	closed     bool         // close was called
	polled     bool         // the poller knows the socket
	held       *hold        // the hold for which the poller watches it; nil if it does not
}

// afterHold says how a connection goes on after a hold.
type afterHold uint8

const (
	afterUndecided afterHold = iota // it is held
	afterServe                      // it serves its next request
	afterLinger                     // it is closed once the client has read everything
	afterNothing                    // it was closed
)

// past is a deadline that ends any read at once.
var past = time.Unix(1, 0)

// session is what a connection needs while it serves.
type session struct {
	br     *bufio.Reader
	out    []byte        // bytes of the response not yet written
	header []frame.Field // scratch for the response header
	timer  *time.Timer   // stopped between uses
	body   http1.BodyReader
}

// maxKeptOut is the largest output buffer that goes back to the pool.
const maxKeptOut = 128 << 10

func (s *Server) getSession(c *conn) *session {
	st := s.sessions.Get().(*session)
	st.br.Reset(c)
	return st
}

func (s *Server) putSession(st *session) {
	st.br.Reset(nil)
	st.timer.Stop()
	if cap(st.out) > maxKeptOut {
		st.out = nil
	}
	st.out = st.out[:0]
	clear(st.header[:cap(st.header)])
	st.header = st.header[:0]
	st.body = http1.BodyReader{}
	s.sessions.Put(st)
}

// Read implements io.Reader for the buffered reader of serve.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.pending) > 0 {
		n := copy(p, c.pending)
		if c.pending = c.pending[n:]; len(c.pending) == 0 {
			c.pending = nil
		}
		return n, nil
	}
	n, err := c.stream().Read(p)
	c.s.metrics.bytesIn.add(n)
	return n, err
}

// stream is where the connection's HTTP bytes are read and written.
func (c *conn) stream() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c.sock
}

// start is the connection's first goroutine.
func (c *conn) start() {
	if c.tls != nil && !c.handshake() {
		c.close()
		return
	}
	c.serve()
}

// serve answers requests until the connection is held or closed.
func (c *conn) serve() {
	defer c.recoverPanic()
	st := c.s.getSession(c)
	switch c.requests(st) {
	case outcomeHeld: // park has given the session back
		return
	case outcomeLinger:
		c.s.putSession(st)
		c.linger()
	default:
		c.s.putSession(st)
		c.close()
	}
}

// recoverPanic ends a connection on which we made a mistake, and no other.
func (c *conn) recoverPanic() {
	p := recover()
	if p == nil {
		return
	}
	c.s.metrics.panics.Inc()
	c.s.log.Error("panic on a connection", "client", c.peer, "panic", p, "stack", string(debug.Stack()))
	if c.inExch != nil {
		c.leaveExch(frame.ReasonInternal)
	}
	c.close()
}

// close closes the socket and takes the connection off the books. It is safe to
// call twice.
func (c *conn) close() {
	c.mu.Lock()
	done, h := c.closed, c.held
	c.closed, c.held = true, nil
	c.mu.Unlock()
	if h != nil { // it was not the writer that closed it
		h.w.push(job{kind: jobGone, h: h})
	}
	if !done {
		_ = c.sock.Close()
		c.s.forget(c)
	}
}

// cutOff closes the socket in a way that the client notices. The connection's
// goroutine finds out and does the rest.
func (c *conn) cutOff() {
	c.sock.reset()
	_ = c.sock.Close()
}

// Limits of linger.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 256 << 10
)

// linger closes the connection so that the client can read what was sent to it:
// closing a socket with unread input would make the kernel send a reset, which
// can take the end of the response with it (RFC 9112, section 9.6).
func (c *conn) linger() {
	defer c.close()
	if c.tls != nil {
		_ = c.tls.CloseWrite()
	}
	c.sock.closeWrite()
	if c.sock.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.sock.Conn, lingerBytes)
	}
}

// park hands the socket to the writer loop of h and leaves a small goroutine to
// watch it. sent is what was written for the hold so far.
func (c *conn) park(st *session, h *hold, sent int) {
	if n := st.br.Buffered(); n > 0 {
		b, _ := st.br.Peek(n)
		c.pending = append(append([]byte(nil), b...), c.pending...)
	}
	c.s.putSession(st)
	c.inExch = nil
	h.x.unbox()
	_ = c.sock.SetReadDeadline(time.Time{})
	c.mu.Lock() // so that the hold is not over before the socket is watched
	defer c.mu.Unlock()
	c.after, c.unwatched = afterUndecided, true
	c.sock.hold(c.tls != nil)
	// Before anything that there is to say about the client.
	h.w.push(job{kind: jobPark, h: h, n: sent})
	if c.s.poller != nil && c.s.poller.watch(c.sock, h.x.id, interestEnd, c.polled) {
		c.polled, c.held = true, h
		return
	}
	c.unwatched = false
	c.s.conns.Go(func() { c.watch(h) })
}

// ended is called by the poller when the client of a held connection has shut
// its sending side down, or is gone.
func (c *conn) ended(h *hold, gone bool) {
	if gone {
		h.w.push(job{kind: jobGone, h: h})
		return
	}
	h.w.push(job{kind: jobHalf, h: h})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != h {
		return
	}
	if !c.s.poller.watch(c.sock, h.x.id, interestGone, true) { // cannot be
		h.w.push(job{kind: jobGone, h: h})
	}
}

// ready is called by the poller when there is something to know about the client
// of the exchange id. It may be over already.
func (s *Server) ready(id uint64, gone bool) {
	s.mu.Lock()
	x := s.exchanges[id]
	s.mu.Unlock()
	if x == nil {
		return
	}
	x.mu.Lock()
	h, ws := x.hold, x.ws
	x.mu.Unlock()
	switch {
	case ws != nil:
		ws.in.readable()
	case h != nil:
		x.c.ended(h, gone)
	}
}

// watch does without a poller: it waits until the client of a held connection
// leaves or the hold is over. It reads nothing: what a client sends ahead stays
// in the kernel's buffer, which is bounded. It does with the smallest stack; serve
// runs on it only when the hold is over.
func (c *conn) watch(h *hold) {
	for half := false; ; {
		event, err := c.sock.waitHangup(half)
		c.mu.Lock()
		switch c.after {
		case afterServe:
			c.mu.Unlock()
			c.serve()
			return
		case afterLinger:
			c.mu.Unlock()
			c.linger()
			return
		case afterNothing:
			c.mu.Unlock()
			return
		}
		if event == hangupHalf && err == nil {
			c.mu.Unlock()
			half = true
			h.w.push(job{kind: jobHalf, h: h})
			continue
		}
		c.unwatched = true
		c.mu.Unlock()
		h.w.push(job{kind: jobGone, h: h})
		return
	}
}

// release is called by the writer loop when a hold is over: the connection goes
// to a new goroutine, or back to the one that watches it.
func (c *conn) release(to afterHold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after, c.held = to, nil
	c.sock.hold(false)
	if !c.unwatched {
		_ = c.sock.SetReadDeadline(past)
		return
	}
	switch to {
	case afterServe:
		c.s.conns.Go(c.serve)
	case afterLinger:
		c.s.conns.Go(c.linger)
	}
}

// seal appends p to dst as TLS records.
func (c *conn) seal(dst *[]byte, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	c.sock.startGather(dst)
	defer c.sock.stopGather()
	_, err := c.tls.Write(p)
	return err
}

// write sends p, waiting for the client for as long as it makes progress.
func (c *conn) write(p []byte) error {
	n, err := c.stream().Write(p)
	c.s.metrics.bytesOut.add(n)
	return err
}

// probeLen is the length of the part of a status line that is known before the
// response is: "HTTP/1.1 ".
const probeLen = 9

// probeHead returns the first bytes of the response, whatever it will be, to be
// sent now; nil if they were sent already. See writer.probe.
func (c *conn) probeHead() []byte {
	if c.probed {
		return nil
	}
	c.probed = true
	return http1.AppendResponseHead(nil, 200, "", c.minor, nil)[:probeLen]
}

// unprobed returns what of a response is still to be sent.
func (c *conn) unprobed(response []byte) []byte {
	if c.probed {
		c.probed = false
		return response[probeLen:]
	}
	return response
}

// leaveExch ends the current exchange for a reason on the client's side, whoever
// its far end is by now.
func (c *conn) leaveExch(reason frame.Reason) {
	x := c.inExch
	c.inExch = nil
	if h := c.s.closeExch(x); h != nil {
		h.w.push(job{kind: jobFail, h: h, reason: reason})
		return
	}
	c.s.sendCancel(x, reason, "")
}

// A watcher tells the goroutine of an ordinary exchange that takes long whether
// its client is still there.
type watcher struct {
	events chan hangup // buffer 2: each kind at most once; never closed
	done   chan struct{}
}

func (c *conn) startWatcher() *watcher {
	w := &watcher{events: make(chan hangup, 2), done: make(chan struct{})}
	_ = c.sock.SetReadDeadline(time.Time{})
	go func() {
		defer close(w.done)
		for half := false; ; half = true {
			event, err := c.sock.waitHangup(half)
			switch {
			case event == hangupHalf && err == nil:
				w.events <- event
			case err == nil || !errors.Is(err, os.ErrDeadlineExceeded):
				w.events <- hangupGone
				return
			default:
				return
			}
		}
	}()
	return w
}

// stopWatcher ends the watcher, which nobody can wait for without a deadline: it
// leaves one in the past behind.
func (c *conn) stopWatcher(w *watcher) {
	_ = c.sock.SetReadDeadline(past)
	<-w.done
}
