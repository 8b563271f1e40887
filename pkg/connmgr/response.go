package connmgr

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// outMax is how many bytes of a response are put together for one write.
const outMax = 64 << 10

// relay brings the frames of one exchange to the client.
type relay struct {
	c   *conn
	st  *session
	x   *exch
	req *request
	up  *upload

	began   bool
	noBody  bool
	chunked bool
	known   bool  // the length is known
	left    int64 // of it, bytes to come
	written int   // bytes that went to the client
	unread  int   // body bytes in st.out, not credited yet
	credit  int   // body bytes written, not credited yet
}

// run relays until the exchange is over. On return the exchange is not in the
// table any more, unless it is held.
func (r *relay) run() outcome {
	c := r.c
	var (
		w      *watcher
		events <-chan hangup
		upDone <-chan struct{}
		heard  time.Time // when the last frame came, if it takes long
		half   bool      // a client that uploads has been probed
	)
	if r.up != nil {
		upDone = r.up.done
	}
	// Once the connection is held, the session with its timer may serve another.
	timer := r.st.timer
	timer.Reset(watchAfter)
	stop := func() {
		if timer != nil {
			timer.Stop()
			timer = nil
		}
		if w != nil {
			c.stopWatcher(w)
			w, events = nil, nil
		}
	}
	defer stop()
	for {
		f, err := r.x.box.Take()
		switch {
		case f != nil:
			if w != nil || upDone != nil {
				heard = time.Now()
			}
			// The watcher leaves a deadline behind, so it ends before the
			// connection gets another reader.
			switch f := f.(type) {
			case *frame.Hold:
				stop()
				return r.hold(f)
			case *frame.Response:
				if f.SockJS != "" && !r.began {
					stop()
					return r.sockJS(f)
				}
				if f.Code == http.StatusSwitchingProtocols && r.x.ws != nil && !r.began {
					stop()
					return r.upgrade(f)
				}
			}
			if o, over := r.take(f); over {
				return o
			}
			if len(r.st.out) >= outMax && r.flush() != nil {
				return r.clientGone()
			}
			continue
		case r.flush() != nil:
			return r.clientGone()
		case err != nil:
			return r.lost(err)
		}
		select {
		case <-r.x.box.Ready():
		case <-timer.C:
			switch {
			case upDone != nil: // there can be no watcher while the body is read
				switch ev := c.sock.hangup(); {
				case ev == hangupGone, ev == hangupHalf && !half && r.probe() != nil:
					return r.clientGone()
				case r.up.stuck(heard) >= c.s.opt.ResponseTimeout:
					return r.timedOut()
				default:
					half = half || ev == hangupHalf
				}
				timer.Reset(watchAfter)
			case w == nil:
				w = c.startWatcher()
				events = w.events
				heard = time.Now()
				timer.Reset(c.s.opt.ResponseTimeout)
			case time.Since(heard) < c.s.opt.ResponseTimeout:
				timer.Reset(c.s.opt.ResponseTimeout - time.Since(heard))
			default:
				return r.timedOut()
			}
		case ev := <-events:
			if ev == hangupGone {
				return r.clientGone()
			}
			if r.probe() != nil {
				return r.clientGone()
			}
		case <-upDone:
			upDone = nil
			if err := r.up.err; err != nil && !errors.Is(err, errStopped) {
				return r.uploadFailed(err)
			}
		case <-c.s.kill:
			c.leaveExch(frame.ReasonShutdown)
			return outcomeClose
		}
	}
}

// take handles one frame. over says that the exchange is.
func (r *relay) take(f frame.Frame) (o outcome, over bool) {
	c := r.c
	switch f := f.(type) {
	case *frame.Response:
		if r.began {
			return r.cut(frame.ReasonProtocolError), true
		}
		if f.Code < 200 {
			return r.fail(frame.ReasonProtocolError), true
		}
		r.begin(f)
		return r.body(f.Body, f.More, nil)
	case *frame.Body:
		if !r.began {
			return r.fail(frame.ReasonProtocolError), true
		}
		return r.body(f.Data, f.More, f.Trailer)
	case *frame.Cancel:
		far := r.x.letGo()
		switch {
		case r.began:
			return r.cut(f.Reason), true
		case f.Reason == frame.ReasonRefused || f.Reason == frame.ReasonShutdown:
			// It stops. Another one is to do what it did not, or not to the end.
			if far != nil {
				far.leaving.Store(true)
			}
			r.req.refused = f.Reason == frame.ReasonRefused
			r.c.leaveExch(f.Reason)
			return outcomeLost, true
		}
		return r.fail(f.Reason), true
	}
	c.s.log.Warn("frame that does not belong here", "exchange", r.x.id, "frame", f.Type().String())
	return 0, false
}

// begin writes the head of a response into the session's buffer and decides how
// its body is framed.
func (r *relay) begin(f *frame.Response) {
	c, st := r.c, r.st
	r.began = true
	length := f.BodyLen
	if !f.More {
		length = int64(len(f.Body)) // all of it is here
	}
	if r.noteUnread(); f.Close {
		c.closeAfter = true
	}
	r.noBody = c.isHead || bodyless(int(f.Code))
	switch {
	case r.noBody:
	case length >= 0:
		r.known, r.left = true, length
	case c.minor == 0:
		c.closeAfter = true
	default:
		r.chunked = true
	}
	st.header = c.framingFields(st.header[:0], f.Header, int(f.Code), r.chunked, r.known, length, c.decideEnd())
	start := len(st.out)
	st.out = http1.AppendResponseHead(st.out, int(f.Code), f.Reason, c.minor, st.header)
	if c.probed {
		st.out = append(st.out[:start], c.unprobed(st.out[start:])...)
	}
}

// body takes a part of the response's body.
func (r *relay) body(p []byte, more bool, trailer []frame.Field) (o outcome, over bool) {
	r.unread += len(p)
	switch {
	case r.noBody:
	case r.known && int64(len(p)) > r.left:
		return r.cut(frame.ReasonProtocolError), true
	case r.chunked:
		r.st.out = http1.AppendChunk(r.st.out, p)
	default:
		r.st.out = append(r.st.out, p...)
		if r.known {
			r.left -= int64(len(p))
		}
	}
	if more {
		return 0, false
	}
	if r.known && r.left > 0 {
		return r.cut(frame.ReasonOriginFailed), true
	}
	if r.chunked {
		r.st.out = http1.AppendLastChunk(r.st.out, trailer)
	}
	r.unread = 0 // nobody waits for credits any more
	if r.c.s.closeExch(r.x) != nil {
		r.c.leaveExch(frame.ReasonProtocolError) // held after its end
		return outcomeClose, true
	}
	r.c.inExch = nil
	return r.c.afterAnswer(r.flush()), true
}

// flush writes what was put together, and returns credits for it.
func (r *relay) flush() error {
	n := len(r.st.out)
	if n > 0 {
		if err := r.c.flush(r.st); err != nil {
			return err
		}
		r.written += n
	}
	r.credit, r.unread = r.credit+r.unread, 0
	if r.credit >= creditEvery {
		f := &frame.Credit{ID: r.x.id, N: uint64(r.credit)}
		r.c.s.send(r.x, f, &f.Seq)
		r.credit = 0
	}
	return nil
}

// sockJS answers in the proxy's stead.
func (r *relay) sockJS(f *frame.Response) outcome {
	if r.c.s.closeExch(r.x) != nil {
		r.c.leaveExch(frame.ReasonProtocolError) // held after its end
		return outcomeClose
	}
	r.c.inExch = nil
	return r.c.sockJS(r, f)
}

func (r *relay) clientGone() outcome {
	r.c.leaveExch(frame.ReasonClientGone)
	return outcomeClose
}

// probe finds out whether a client that has shut its sending side down still
// reads; see writer.probe.
func (r *relay) probe() error {
	switch {
	case !r.began:
		if p := r.c.probeHead(); p != nil {
			return r.c.write(p)
		}
	case r.chunked:
		return r.c.write([]byte("0"))
	}
	return nil
}

// lost ends the exchange because its far end is.
func (r *relay) lost(err error) outcome {
	switch {
	case errors.Is(err, errGap):
		if r.began {
			return r.cut(frame.ReasonGap)
		}
		return r.fail(frame.ReasonGap)
	case errors.Is(err, errSlow):
		return r.clientGone()
	case r.began:
		return r.cut(frame.ReasonPeerLost)
	}
	r.c.leaveExch(frame.ReasonPeerLost)
	return outcomeLost
}

// fail answers for a far end that did not.
func (r *relay) fail(reason frame.Reason) outcome {
	r.c.s.metrics.ended(reason)
	r.c.leaveExch(reason)
	r.noteUnread()
	return r.c.answer(r.st, 502, "Error while proxying to origin.\n")
}

// noteUnread has the connection end after this response if not all of the
// request's body was read.
func (r *relay) noteUnread() {
	if r.up != nil && !r.up.complete.Load() {
		r.c.closeAfter = true
	}
}

func (r *relay) timedOut() outcome {
	if r.began {
		return r.cut(frame.ReasonTimeout)
	}
	r.c.leaveExch(frame.ReasonTimeout)
	r.noteUnread()
	return r.c.answer(r.st, 504, "No response in time.\n")
}

func (r *relay) uploadFailed(err error) outcome {
	var bad *http1.Error
	reason := frame.ReasonClientGone
	if errors.As(err, &bad) {
		reason = frame.ReasonProtocolError
	}
	r.c.leaveExch(reason)
	if r.began {
		r.c.cutOff()
		return outcomeClose
	}
	return r.c.uploadFailed(r.st, err)
}

// cut ends a response that has begun so that the client can tell: without its
// last chunk, short of its length, or, if its end is that of the connection, with
// a reset.
func (r *relay) cut(reason frame.Reason) outcome {
	r.c.s.metrics.ended(reason)
	r.c.leaveExch(reason)
	_ = r.flush() // what came before is the client's
	if !r.chunked && !r.known && !r.noBody {
		r.c.sock.reset()
	}
	return outcomeClose
}

// hold makes the connection a held one.
func (r *relay) hold(f *frame.Hold) outcome {
	c := r.c
	r.x.mu.Lock()
	h := r.x.hold
	r.x.mu.Unlock()
	if r.up != nil {
		r.up.stop()
		r.noteUnread()
	}
	switch {
	case f.Mode == frame.ModeWebSocket, f.Mode == frame.ModeResponse && r.began:
		return r.cut(frame.ReasonProtocolError)
	case f.Mode == frame.ModeResponse:
		c.park(r.st, h, 0)
		return outcomeHeld
	}
	c.req = nil
	if r.began != f.HeadSent || r.began && r.known {
		return r.cut(frame.ReasonProtocolError)
	}
	if !r.began {
		r.beginStream(f)
	}
	if !r.streamBody(f.Body, f.More) {
		return r.clientGone()
	}
	if !h.chunked {
		c.closeAfter = true
	}
	c.park(r.st, h, r.written)
	return outcomeHeld
}

func (r *relay) beginStream(f *frame.Hold) {
	c, st := r.c, r.st
	r.began = true
	r.noBody = c.isHead || bodyless(int(f.Code))
	r.chunked = c.minor > 0 && !r.noBody
	if c.minor == 0 && !r.noBody {
		c.closeAfter = true
	}
	st.header = c.framingFields(st.header[:0], f.Header, int(f.Code), r.chunked, false, 0, c.decideEnd())
	start := len(st.out)
	st.out = http1.AppendResponseHead(st.out, int(f.Code), reasonOr(f.Reason, int(f.Code)), c.minor, st.header)
	if c.probed {
		st.out = append(st.out[:start], c.unprobed(st.out[start:])...)
	}
}

// streamBody sends the initial body of a stream hold.
func (r *relay) streamBody(p []byte, more bool) bool {
	for {
		r.unread += len(p)
		switch {
		case r.noBody:
		case r.chunked:
			r.st.out = http1.AppendChunk(r.st.out, p)
		default:
			r.st.out = append(r.st.out, p...)
		}
		if r.flush() != nil {
			return false
		}
		if !more {
			return true
		}
		ctx, cancel := context.WithTimeout(r.c.s.ctx, r.c.s.opt.ResponseTimeout)
		f, err := r.x.box.Get(ctx)
		cancel()
		b, ok := f.(*frame.Body)
		if err != nil || !ok {
			r.c.cutOff()
			return false
		}
		p, more = b.Data, b.More
	}
}

// framingFields appends the fields of a response but those that concern its
// framing and its connection, and then those as they have to be.
func (c *conn) framingFields(dst, header []frame.Field, code int, chunked, known bool, length int64, end bool) []frame.Field {
	for _, f := range header {
		switch len(f.Name) {
		case len("Connection"): // and Keep-Alive
			if strings.EqualFold(f.Name, "Connection") || strings.EqualFold(f.Name, "Keep-Alive") {
				continue
			}
		case len("Content-Length"):
			if strings.EqualFold(f.Name, "Content-Length") {
				switch {
				case known:
					dst = append(dst, frame.Field{Name: f.Name, Value: strconv.FormatInt(length, 10)})
					known = false
				case code >= 200 && code != 204 && (c.isHead || code == 304):
					dst = append(dst, f) // what a GET would get
				}
				continue
			}
		case len("Transfer-Encoding"):
			if strings.EqualFold(f.Name, "Transfer-Encoding") {
				continue
			}
		case len("Proxy-Connection"):
			if strings.EqualFold(f.Name, "Proxy-Connection") {
				continue
			}
		}
		dst = append(dst, f)
	}
	switch {
	case chunked:
		dst = append(dst, frame.Field{Name: "Transfer-Encoding", Value: "chunked"})
	case known:
		dst = append(dst, frame.Field{Name: "Content-Length", Value: strconv.FormatInt(length, 10)})
	}
	switch {
	case end:
		dst = append(dst, frame.Field{Name: "Connection", Value: "close"})
	case c.minor == 0:
		dst = append(dst, frame.Field{Name: "Connection", Value: "keep-alive"})
	}
	return dst
}

// bodyless reports whether responses with this status have no body.
func bodyless(code int) bool { return code >= 100 && code < 200 || code == 204 || code == 304 }

func reasonOr(reason string, code int) string {
	if reason == "" {
		return http1.StatusText(code)
	}
	return reason
}

// answer is a response whose body is at hand.
type answer struct {
	code   int
	reason string
	header []frame.Field
	body   []byte
	close  bool
}

// appendAnswer appends a response as the client is to see it.
func (c *conn) appendAnswer(dst []byte, a answer) []byte {
	noBody := c.isHead || bodyless(a.code)
	known := !bodyless(a.code)
	header := a.header
	if c.isHead && known { // the length that a GET would get
		header = http1.Del(append([]frame.Field(nil), header...), "Content-Length")
	}
	header = c.framingFields(make([]frame.Field, 0, len(header)+2), header, a.code, false, known, int64(len(a.body)), a.close)
	start := len(dst)
	dst = http1.AppendResponseHead(dst, a.code, reasonOr(a.reason, a.code), c.minor, header)
	if c.probed {
		dst = append(dst[:start], c.unprobed(dst[start:])...)
	}
	if !noBody {
		dst = append(dst, a.body...)
	}
	return dst
}
