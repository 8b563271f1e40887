package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/exchange"
	"github.com/holdfast/holdfast/pkg/frame"
)

// exch is one exchange while this proxy is its far end. One goroutine at a time
// serves it; the bus's goroutine hands it what arrives. A WebSocket-over-HTTP
// session that waits has no goroutine, and as little memory as it can do with.
type exch struct {
	// Set once.
	s       *Server
	x       frame.XID
	upgrade bool            // a WebSocket
	window  exchange.Window // of the response body
	conn    connection      // in the statistics
	body    clientBody

	// Owned by the serving goroutine.
	ctx   context.Context //nolint:containedctx // of the exchange; ends when connmgr does not want it any more
	req   *frame.Request  // nil once a session has been accepted
	log   accessLine
	jsonp *jsonp // nil if the response is not to be a script

	sendMu sync.Mutex // held while a frame is sent, which may have to wait for room

	mu      sync.Mutex
	cancel  context.CancelCauseFunc // of ctx; nil while nobody serves
	ended   error                   // why ctx has ended, or would have
	answer  chan handlerAnswer      // buffer 1; never closed; nil if none is waited for
	acks    chan *frame.Control     // buffer 4: late answers to earlier questions are no use; never closed; nil if none is waited for
	session *overSession            // who is told that something came; nil if it is none
	inbox   exchange.Inbox          // expects the next frame from connmgr
	sendSeq uint64
	lost    bool // this boot of connmgr is gone, or the exchange is over: nothing may be sent
	told    bool // connmgr said that it is over, and waits to hear that we know
}

type handlerAnswer struct {
	from bus.Peer
	*frame.Accepted
}

// Reasons that end an exchange without anybody to tell.
var (
	errConnmgrLost = &endError{frame.ReasonPeerLost, "connmgr is gone"}
	errGap         = &endError{frame.ReasonGap, "a frame of the exchange is missing"}
	// errTooLarge: the other end would not read the frame. What makes one so large
	// is the origin's.
	errTooLarge = &endError{frame.ReasonOriginFailed, fmt.Sprintf("frame is larger than %d bytes", frame.MaxFrame)}
)

func newExch(s *Server, x frame.XID, r *frame.Request) *exch {
	e := &exch{s: s, x: x, upgrade: r.Upgrade, req: r, inbox: exchange.NewInbox(1)}
	e.conn.id = r.ConnID
	e.window.Add(frame.InitialWindow)
	e.ctx, e.cancel = context.WithCancelCause(s.ctx)
	e.body.init(e)
	return e
}

// end ends the exchange's context, now or as soon as it is served again. Only the
// first cause counts.
func (e *exch) end(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endLocked(cause)
}

func (e *exch) endLocked(cause error) {
	if e.ended == nil {
		e.ended = cause
		if e.cancel != nil {
			e.cancel(cause)
		}
	}
	e.session.rouse()
}

// receive takes a frame from connmgr. It is called by the bus's goroutine.
func (e *exch) receive(seq uint64, f frame.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.inbox.Push(seq, f, func(f frame.Frame) {
		switch f := f.(type) {
		case *frame.Credit:
			e.window.Add(f.N)
		case *frame.Cancel:
			e.lost, e.told = true, true
			e.endLocked(&endError{f.Reason, "canceled by connmgr: " + f.Reason.String()})
		default:
			if _, ok := f.(*frame.Tune); ok {
				e.told = true
			}
			e.conn.fromClient(f)
			e.body.parts.Put(f)
			e.session.wake()
		}
	})
	if err != nil {
		e.endLocked(errGap)
	}
}

// lose deals with the loss of connmgr. A session that has begun stands still if
// connmgr may live, and lose returns true; everything else ends.
func (e *exch) lose(ended bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost = true
	if !ended && e.ended == nil && e.session.rest() {
		return true
	}
	e.endLocked(errConnmgrLost)
	return false
}

// settle ends the exchange if it stands still.
func (e *exch) settle(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.session.resting() {
		e.endLocked(cause)
	}
}

// confirm tells connmgr that the exchange is over for us, too, if it is a session
// and connmgr was first.
func (e *exch) confirm() {
	e.mu.Lock()
	told := e.told && e.session != nil
	e.mu.Unlock()
	if told {
		e.s.confirm(e.x)
	}
}

// accepted takes a handler's answer. It is called by the bus's goroutine.
func (e *exch) accepted(from bus.Peer, f *frame.Accepted) {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case e.answer <- handlerAnswer{from, f}:
	default:
	}
}

// close releases what the exchange has. Nothing is sent after it.
func (e *exch) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost = true
	e.session = nil
	e.cancel(nil)
}

// trySend numbers a frame and sends it to connmgr, without waiting.
func (e *exch) trySend(f frame.Frame) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lost {
		return errConnmgrLost
	}
	setSeq(f, e.sendSeq)
	b := frame.Encode(f)
	if len(b) > frame.MaxFrame {
		return errTooLarge
	}
	err := e.s.opts.Bus.Send(e.x.Conn, b)
	if err == nil {
		e.sendSeq++
		e.conn.toClient(f)
	}
	return err
}

// send numbers a frame and sends it to connmgr. If the queue to it is full, send
// waits for room, and with it whatever fills the queue.
func (e *exch) send(f frame.Frame) error {
	e.sendMu.Lock()
	defer e.sendMu.Unlock()
	err := e.trySend(f)
	if !errors.Is(err, bus.ErrQueueFull) {
		return err
	}
	e.s.metrics.blocked.Inc()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		select {
		case <-e.s.opts.After(wait):
		case <-e.ctx.Done():
			return context.Cause(e.ctx)
		}
		if err := e.trySend(f); !errors.Is(err, bus.ErrQueueFull) {
			return err
		}
	}
}

// abort ends the exchange because of err, so that the client can tell.
func (e *exch) abort(err error) {
	if cause := context.Cause(e.ctx); cause != nil {
		err = cause
	}
	reason := reasonOf(err)
	e.s.metrics.end(reason)
	// Not send: the exchange's context may have ended already.
	_ = e.trySend(&frame.Cancel{ID: e.x.ID, Reason: reason, Text: err.Error()})
}

func setSeq(f frame.Frame, seq uint64) {
	switch f := f.(type) {
	case *frame.Response:
		f.Seq = seq
	case *frame.Body:
		f.Seq = seq
	case *frame.Credit:
		f.Seq = seq
	case *frame.Cancel:
		f.Seq = seq
	case *frame.Message:
		f.Seq = seq
	case *frame.Session:
		f.Seq = seq
	case *frame.Tune:
		f.Seq = seq
	}
}
