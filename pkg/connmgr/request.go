package connmgr

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

const (
	// keepBody is how much of a request body is kept so that the request can be
	// sent again. What is longer can be proxied but not retried.
	keepBody = 100_000
	// creditEvery is how many consumed body bytes make a Credit frame.
	creditEvery = frame.InitialWindow / 4
	// watchAfter is how long an exchange may take before a goroutine watches
	// whether its client is still there.
	watchAfter = 100 * time.Millisecond
	// busyPause is the time between attempts to hand a request to a proxy whose
	// queue is full.
	busyPause = 20 * time.Millisecond
)

// outcome says what becomes of a connection after a request.
type outcome uint8

const (
	outcomeNext   outcome = iota // it takes the next request
	outcomeLinger                // it is closed when the client has read everything
	outcomeClose                 // it is closed
	outcomeHeld                  // it is held, and no longer ours
	outcomeLost                  // the proxy went away before it had answered
)

// request is a client's request with what it takes to send it again.
type request struct {
	f    frame.Request
	body []byte // the body as far as it was read
	lost bool   // part of the body was not kept
	// refused says that the proxy to which it was sent last did nothing with it.
	refused bool
}

// safe reports whether a request may be sent twice without asking.
func (r *request) safe() bool {
	switch r.f.Method {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

func (r *request) keep(p []byte) {
	if r.lost || len(r.body)+len(p) > keepBody {
		r.lost, r.body = true, nil
		return
	}
	r.body = append(r.body, p...)
}

// requests is the loop of serve.
func (c *conn) requests(st *session) outcome {
	for {
		var o outcome
		if r := c.retry; r != nil {
			c.retry = nil
			o = c.askAnew(st, r)
		} else {
			head, ok, end := c.readHead(st)
			if !ok {
				return end
			}
			o = c.handle(st, head)
		}
		if o != outcomeNext {
			return o
		}
		c.req = nil
	}
}

// readHead waits for the next request.
func (c *conn) readHead(st *session) (head *http1.RequestHead, ok bool, end outcome) {
	s := c.s
	if st.br.Buffered() == 0 {
		now := time.Now()
		c.idle.Store(monotonic(now))
		err := c.sock.SetReadDeadline(now.Add(s.opt.IdleTimeout))
		// Drain sets its mark before it looks for idle connections. One that becomes
		// idle after that is new, or was answered just before, so its client was not
		// told that the connection ends.
		switch {
		case err == nil && s.draining.Load() && s.opt.DrainTime > 0:
			err = c.sock.SetReadDeadline(time.Now().Add(min(s.idleGrace, s.opt.DrainTime)))
		case s.draining.Load():
			return nil, false, outcomeLinger
		}
		if err != nil {
			return nil, false, outcomeLinger
		}
		_, err = st.br.Peek(1)
		c.idle.Store(0)
		if err != nil {
			return nil, false, outcomeClose
		}
		c.served.Store(true)
	}
	// Most heads arrive in one piece. Only the others need a deadline. Empty lines
	// before a head are not the end of one.
	if buf, _ := st.br.Peek(st.br.Buffered()); !bytes.Contains(bytes.TrimLeft(buf, "\r\n"), []byte("\r\n\r\n")) {
		if c.sock.SetReadDeadline(time.Now().Add(s.opt.HeaderTimeout)) != nil {
			return nil, false, outcomeClose
		}
	}
	head, err := http1.ReadRequestHead(st.br, s.limits)
	if err == nil {
		return head, true, outcomeNext
	}
	var bad *http1.Error
	c.minor, c.isHead = 1, false
	switch {
	case errors.As(err, &bad):
		return nil, false, c.refuse(st, bad.Status, bad.Text)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, false, c.refuse(st, 408, "Request header did not arrive in time.")
	}
	return nil, false, outcomeClose
}

// refuse answers a request that cannot be understood or accepted, after which
// the connection must end.
func (c *conn) refuse(st *session, code int, text string) outcome {
	c.s.metrics.refused(code)
	if skipped, ok := c.s.badLog.Allow(time.Now()); ok {
		c.s.log.Debug("request refused", "client", c.peer, "status", code, "text", text, "not_logged", skipped)
	}
	c.closeAfter = true
	return c.answer(st, code, text+"\n")
}

// answer sends a response of our own.
func (c *conn) answer(st *session, code int, text string) outcome {
	st.out = c.appendAnswer(st.out[:0], answer{
		code: code, header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}}, body: []byte(text),
		close: c.decideEnd(),
	})
	return c.afterAnswer(c.flush(st))
}

// decideEnd decides whether the connection ends after this response, which says
// so to the client. With no room for new connections, one that could idle ends.
func (c *conn) decideEnd() bool {
	if !c.closeAfter && (c.s.draining.Load() || c.s.full()) {
		c.closeAfter = true
	}
	return c.closeAfter
}

func (c *conn) flush(st *session) error {
	if len(st.out) == 0 {
		return nil
	}
	err := c.write(st.out)
	st.out = st.out[:0]
	if cap(st.out) > maxKeptOut {
		st.out = nil
	}
	return err
}

func (c *conn) afterAnswer(err error) outcome {
	switch {
	case err != nil:
		return outcomeClose
	case c.closeAfter:
		return outcomeLinger
	}
	return outcomeNext
}

// handle answers one request.
func (c *conn) handle(st *session, head *http1.RequestHead) outcome {
	s := c.s
	s.metrics.requests.Inc()
	c.minor, c.isHead, c.closeAfter = head.Minor, head.Method == "HEAD", head.Close
	c.probed = false
	if head.WantsUpgrade {
		return c.refuse(st, 400, `Request contained an Upgrade header with value "websocket" but the request was not a valid WebSocket request.`)
	}
	req := &request{f: frame.Request{
		Method: head.Method, URI: head.Path, Scheme: c.scheme(), Host: head.Host, Minor: head.Minor, Header: head.Header,
		BodyLen: head.BodyLen, Peer: c.peer, ConnID: newConnID(), Upgrade: head.Upgrade, Expect: head.Expect,
	}}
	if c.inner != nil {
		req.f.Scheme, req.f.SockJS = c.inner.scheme, c.inner.kind
	}
	c.req = req
	var up *upload
	if head.BodyLen != 0 {
		var err error
		if up, err = c.firstPart(st, req); err != nil {
			return c.uploadFailed(st, err)
		}
	}
	o := c.exchange(st, req, up)
	if up != nil && o == outcomeNext && !up.complete.Load() {
		return outcomeLinger
	}
	return o
}

func (c *conn) scheme() string {
	if c.tls != nil {
		return "https"
	}
	return "http"
}

// firstPart takes what has arrived of a request's body into its first frame. It
// returns an upload for the rest, if there is one.
func (c *conn) firstPart(st *session, req *request) (*upload, error) {
	st.body.Reset(st.br, req.f.BodyLen, c.s.limits)
	if n := min(int64(st.br.Buffered()), req.f.BodyLen, frame.MaxBodyPart); n > 0 {
		part := make([]byte, n)
		n, err := st.body.Read(part)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		req.f.Body = part[:n]
		req.keep(part[:n])
	}
	if st.body.Done() {
		return nil, nil
	}
	req.f.More = true
	return &upload{c: c, body: &st.body, req: req, done: make(chan struct{})}, nil
}

// exchange carries a request to a proxy, and to another if that one is lost,
// until it is answered or held.
func (c *conn) exchange(st *session, req *request, up *upload) outcome {
	for {
		x, code := c.dispatch(st, req, up)
		if x == nil {
			if up != nil {
				c.closeAfter = true
			}
			return c.answer(st, code, "No proxy is available.\n")
		}
		if up != nil {
			if req.f.Expect && len(req.f.Body) == 0 && c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) != nil {
				c.leaveExch(frame.ReasonClientGone)
				return outcomeClose
			}
			up.x = x
			go up.run()
		}
		r := relay{c: c, st: st, x: x, req: req, up: up}
		o := r.run()
		if up != nil && o != outcomeHeld { // a held connection has stopped it
			up.stop()
		}
		if o != outcomeLost {
			return o
		}
		if !req.safe() && !req.refused || req.lost || up != nil && !up.complete.Load() {
			c.closeAfter = c.closeAfter || up != nil && !up.complete.Load()
			return c.answer(st, 502, "Error while proxying to origin.\n")
		}
		c.s.metrics.resent.Inc()
		req.f.Resend = true
		req.refused = false
		up = nil
	}
}

// dispatch opens an exchange for req and hands it to a proxy. Without one the
// request waits: it was never sent, was refused unread, or may be sent twice. If
// that takes too long the status to answer is returned.
func (c *conn) dispatch(st *session, req *request, up *upload) (*exch, int) {
	s := c.s
	var deadline <-chan time.Time
	for {
		x, p, proxyUp := s.openExch(c, up != nil)
		pause := time.Duration(0)
		if x != nil {
			if req.f.Upgrade {
				x.mu.Lock()
				x.ws = newWSExch()
				x.mu.Unlock()
			}
			err := c.sendRequest(x, p, req)
			if err == nil {
				c.inExch = x
				return x, 0
			}
			s.closeExch(x)
			pause = busyPause // for PeerDown to be told, or the queue to shrink
			if !errors.Is(err, bus.ErrQueueFull) && !errors.Is(err, bus.ErrNoPeer) {
				s.log.Error("send to proxy", "err", err)
				return nil, 503
			}
		}
		if deadline == nil {
			t := time.NewTimer(s.opt.PeerWait)
			defer t.Stop()
			deadline = t.C
		}
		var soon <-chan time.Time
		if pause > 0 {
			soon = time.After(pause)
		}
		select {
		case <-proxyUp:
		case <-soon:
		case <-deadline:
			return nil, 503
		case <-s.kill:
			return nil, 503
		}
	}
}

// sendRequest sends the request, and the part of its body that was read before,
// to p as the exchange x.
func (c *conn) sendRequest(x *exch, p *peer, req *request) error {
	f := req.f
	f.ID = x.id
	var rest []byte
	if req.f.Resend || req.f.Retry { // the whole body is at hand
		f.Body, rest = part(req.body)
		f.More = len(rest) > 0
	}
	if err := c.s.out.try(p, frame.Encode(&f)); err != nil {
		return err
	}
	// The kept body is smaller than the window, so no credit is needed.
	for len(rest) > 0 {
		b := &frame.Body{ID: x.id}
		b.Data, rest = part(rest)
		b.More = len(rest) > 0
		c.s.send(x, b, &b.Seq)
	}
	return nil
}

func part(p []byte) (first, rest []byte) {
	n := min(len(p), frame.MaxBodyPart)
	return p[:n], p[n:]
}

// askAnew sends the request of a hold again, as the handler asked.
func (c *conn) askAnew(st *session, r *frame.Retry) outcome {
	req := c.req
	if req == nil || req.lost {
		return c.answer(st, 502, "Error while proxying to origin.\n")
	}
	c.s.metrics.retries.Inc()
	req.f.Retry, req.f.Resend = true, false
	req.f.Route, req.f.Last = r.Route, r.Last
	return c.exchange(st, req, nil)
}

// upload reads the rest of a request's body and sends it on, while the response
// may come back already.
type upload struct {
	c    *conn
	x    *exch
	body *http1.BodyReader
	req  *request
	done chan struct{} // closed when run returns
	err  error         // valid when done is closed

	// complete is set before the last part is sent, so that it is known when the
	// response to it comes.
	complete atomic.Bool
	// waits is since when it has waited for credit, as monotonic says; 0: it does
	// not.
	waits atomic.Int64

	mu      sync.Mutex
	stopped bool
}

var errStopped = errors.New("upload stopped")

var bodyParts = sync.Pool{New: func() any { return new([frame.MaxBodyPart]byte) }}

func (u *upload) run() {
	defer close(u.done)
	buf := bodyParts.Get().(*[frame.MaxBodyPart]byte)
	defer bodyParts.Put(buf)
	for {
		u.waits.Store(monotonic(time.Now()))
		n, err := u.x.window.Take(u.c.s.ctx, len(buf))
		u.waits.Store(0)
		if err != nil {
			u.err = errStopped
			return
		}
		if u.err = u.setDeadline(); u.err != nil {
			return
		}
		m, err := u.body.Read(buf[:n])
		u.x.window.Return(n - m)
		end := errors.Is(err, io.EOF)
		if m > 0 || end {
			u.req.keep(buf[:m])
			f := &frame.Body{ID: u.x.id, Data: buf[:m], More: !end}
			if end {
				f.Trailer = u.body.Trailer()
				u.complete.Store(true)
			}
			u.c.s.send(u.x, f, &f.Seq)
		}
		switch {
		case end:
			return
		case err != nil:
			u.err = err
			return
		}
	}
}

// stuck returns for how long the far end has neither taken anything of the body
// nor said anything, which it did last at heard.
func (u *upload) stuck(heard time.Time) time.Duration {
	since := u.waits.Load()
	if since == 0 {
		return 0
	}
	now := time.Now()
	return min(time.Duration(monotonic(now)-since), now.Sub(heard))
}

func (u *upload) setDeadline() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return errStopped
	}
	return u.c.sock.SetReadDeadline(time.Now().Add(u.c.s.opt.BodyTimeout))
}

// stop ends the upload if it has not come to its end, and waits for it.
func (u *upload) stop() {
	select {
	case <-u.done:
		return
	default:
	}
	u.mu.Lock()
	u.stopped = true
	_ = u.c.sock.SetReadDeadline(past)
	u.mu.Unlock()
	u.x.window.Close(errStopped)
	<-u.done
}

// uploadFailed answers a request whose body did not arrive as it should.
func (c *conn) uploadFailed(st *session, err error) outcome {
	var bad *http1.Error
	switch {
	case errors.As(err, &bad):
		return c.refuse(st, bad.Status, bad.Text)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.refuse(st, 408, "Request body did not arrive in time.")
	}
	return outcomeClose
}
