package connmgr

import (
	"bytes"
	"compress/flate"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/wheel"
)

// What the writer does for WebSockets.

// wsWait says for how long a WebSocket that closes may still take.
func (w *writer) wsWait(h *hold, d time.Duration) {
	w.wheel.Set(&h.ws.closeTimer, w.now.Add(d))
}

// upgraded makes the socket of h the writer's.
func (w *writer) upgraded(h *hold, deflate bool) {
	w.own(h)
	h.ws.deflate = deflate
	if h.cutting {
		w.cut(h, h.reason)
		return
	}
	if w.s.draining.Load() {
		w.endFor(h, frame.ReasonShutdown)
		return
	}
	w.settle(h)
}

// wsFrame handles what proxy or handler sent for the WebSocket h.
func (w *writer) wsFrame(h *hold, j *job) {
	ws := h.ws
	switch f := j.f.(type) {
	case *frame.Hold:
		w.wsJoin(h, j.groups, f.Record)
		if policy := frame.Policy(f.Policy); policy != frame.PolicyDefault && policy <= frame.PolicyLatest {
			h.policy = policy
		}
	case *frame.Update:
		w.wsJoin(h, j.groups, f.Record)
	case *frame.Finish: // of the handler: a filter failed, or the like
		w.wsPublishedClose(h, f.Code, f.Reason)
	case *frame.Message:
		if f.Kind == frame.MessageClose {
			w.wsClose(h, f.Code, f.Data)
			return
		}
		if !ws.sentClose && !h.ending {
			w.wsMessage(h, f)
		}
	case *frame.Tune:
		w.tune(h, f)
	case *frame.Cancel:
		w.cut(h, f.Reason)
	}
}

// wsJoin makes h a member of gs, unless it closes.
func (w *writer) wsJoin(h *hold, gs []*group, record []byte) {
	h.record = bytes.Clone(record)
	w.join(h, gs)
	if h.ending || h.ws.sentClose || h.ws.gotClose {
		w.leave(h)
	}
}

// wsMessage sends a message of the origin, or a part of one.
func (w *writer) wsMessage(h *hold, f *frame.Message) {
	ws := h.ws
	if f.Kind == frame.MessagePing || f.Kind == frame.MessagePong {
		w.append(h, item{data: appendWSFrame(nil, f.Kind|wsFin, f.Data), credit: f.Cost()}, 0)
	} else {
		var p []byte
		if ws.deflate && !ws.inside && !f.More {
			p = wsDeflated(f.Kind, f.Data)
		} else {
			p = wsEncode(f.Kind, f.Data, !ws.inside, !f.More)
		}
		ws.inside = f.More
		w.append(h, item{data: p, credit: f.Cost()}, 0)
		if !ws.inside {
			w.wsRelease(h)
		}
	}
	h.lastSend = w.now
	w.settle(h)
}

// wsRelease lets those publications go that waited for the end of a message.
func (w *writer) wsRelease(h *hold) {
	for _, it := range h.ws.later {
		w.append(h, it, 0)
	}
	w.wsForget(h, h.ws.laterSize)
	h.ws.later = nil
}

// wsPostpone keeps something until the message that is sent in part is whole. It
// keeps to the bound of the backlog, and to the policy of the hold.
func (w *writer) wsPostpone(h *hold, it item) {
	ws, limit := h.ws, w.s.opt.MaxBacklog-h.backlog.load()
	over := func() bool { return ws.laterSize+len(it.data)+itemCost*(len(ws.later)+1) > limit }
	switch {
	case len(ws.later) == 0 || !over():
	case h.policy == frame.PolicyDropOldest || h.policy == frame.PolicyLatest:
		for len(ws.later) > 0 && (over() || h.policy == frame.PolicyLatest) {
			old := ws.later[0]
			ws.later[0] = item{}
			ws.later = ws.later[1:]
			w.wsForget(h, len(old.data))
			w.wsDropped(old, frame.ReasonBacklogFull)
		}
	default:
		w.wsDropped(it, frame.ReasonBacklogFull)
		w.cutSlow(h)
		return
	}
	ws.later = append(ws.later, it)
	w.wsForget(h, -len(it.data))
}

// wsForget notes that n bytes wait no more for the end of a message.
func (w *writer) wsForget(h *hold, n int) {
	h.ws.laterSize -= n
	w.s.metrics.backlog.Add(float64(-n))
}

func (w *writer) wsDropped(it item, reason frame.Reason) {
	if it.d != nil {
		w.tally.dropped(it.d, reason, 1, w.now)
	}
}

// wsDeliver brings a publication to one WebSocket.
func (w *writer) wsDeliver(h *hold, d *delivery) {
	switch d.f.Action {
	case frame.ActionSend:
		h.lastSend = w.now
		it := item{data: d.bytes(h.framing()), d: d}
		if h.ws.inside {
			w.wsPostpone(h, it)
			return
		}
		w.enqueue(h, it, 0)
		if !h.over {
			w.settle(h)
		}
	case frame.ActionClose:
		w.wsPublishedClose(h, d.f.Code, d.f.Reason)
		w.tally.delivered(d, 1, w.now)
	default:
		w.tally.dropped(d, frame.ReasonNotReady, 1, w.now)
	}
}

// wsPublishedClose closes the client's side, and has the proxy close the
// origin's.
func (w *writer) wsPublishedClose(h *hold, code uint16, reason string) {
	if h.ws.sentClose {
		return
	}
	w.s.wsLeave(h.x, &frame.Tune{Op: frame.TuneShut})
	w.wsClose(h, code, []byte(reason))
}

// wsClose sends a close frame, also inside a message that was sent in part, whose
// rest, and what waits for it, will never come. If the client has sent its own
// close frame, the connection ends, otherwise it has some time to answer.
func (w *writer) wsClose(h *hold, code uint16, reason []byte) {
	if h.ws.sentClose {
		return
	}
	h.ws.sentClose = true
	w.leave(h)
	w.wheel.Stop(&h.timer)
	w.wheel.Stop(&h.ws.delayTimer)
	data := wsCloseFrame(code, reason)
	if code == 0 && h.c.inner != nil { // SockJS tells no status from 1000
		data = appendWSFrame(nil, frame.MessageClose|wsFin, nil)
	}
	w.append(h, item{data: data}, 0)
	if h.ws.gotClose {
		w.wsEnd(h, frame.ReasonFinished)
		return
	}
	w.wsWait(h, wsCloseTime)
	w.settle(h)
}

// wsEnd ends the connection as soon as the client has everything.
func (w *writer) wsEnd(h *hold, reason frame.Reason) {
	w.leave(h)
	w.wheel.Stop(&h.ws.closeTimer)
	h.ending, h.reason, h.close = true, reason, true
	w.wheel.Set(&h.timer, w.now.Add(w.s.opt.WriteTimeout))
	w.settle(h)
}

// wsClosed notes that the client has sent a close frame. The far end is to
// answer it.
func (w *writer) wsClosed(h *hold, code uint16) {
	ws := h.ws
	ws.gotClose, ws.code = true, code
	switch {
	case ws.sentClose:
		w.wsEnd(h, frame.ReasonFinished)
	case ws.detached:
		w.wsClose(h, 1000, nil)
	default:
		w.leave(h) // nothing may be sent to it but the origin's last words and the answer
		w.wsWait(h, wsCloseAnswer)
	}
}

// wsFault ends a connection whose client broke the protocol. With code 0 the
// client was told by the library.
func (w *writer) wsFault(h *hold, code uint16) {
	if code != 0 && !h.ws.sentClose {
		w.append(h, item{data: wsCloseFrame(code, nil)}, 0)
	}
	h.ws.sentClose = true
	w.s.wsLeave(h.x, &frame.Cancel{Reason: frame.ReasonProtocolError})
	w.wsEnd(h, frame.ReasonProtocolError)
}

// tune does what the origin wants done besides messages.
func (w *writer) tune(h *hold, f *frame.Tune) {
	ws := h.ws
	switch f.Op {
	case frame.TuneKeepAlive:
		h.keep = frame.KeepAlive{Data: bytes.Clone(f.Data), Millis: f.Millis, Interval: f.Interval, Kind: f.Kind}
		w.armKeepAlive(h)
	case frame.TuneDelay:
		w.flushDelayed(h)
		f.Data = bytes.Clone(f.Data)
		ws.delayed = f
		w.wheel.Set(&ws.delayTimer, w.now.Add(time.Duration(f.Millis)*time.Millisecond))
	case frame.TuneFlush:
		w.flushDelayed(h)
	case frame.TuneDetach:
		ws.detached = true
		if ws.gotClose {
			w.wsClose(h, 1000, nil)
		}
	}
}

func (w *writer) flushDelayed(h *hold) {
	f := h.ws.delayed
	if f == nil {
		return
	}
	h.ws.delayed = nil
	w.wheel.Stop(&h.ws.delayTimer)
	w.wsOwn(h, f.Kind, f.Data)
}

// wsOwn sends a message that connmgr sends of itself.
func (w *writer) wsOwn(h *hold, kind uint8, data []byte) {
	if h.ws.sentClose || h.ending {
		return
	}
	var p []byte
	if h.ws.deflate && kind < frame.MessageClose {
		p = wsDeflated(kind, data)
	} else {
		p = wsEncode(kind, data, true, true)
	}
	h.lastSend = w.now
	if h.ws.inside {
		w.wsPostpone(h, item{data: p})
		return
	}
	w.append(h, item{data: p}, 0)
	w.settle(h)
}

// wsFire is called when a timer of a WebSocket fires.
func (w *writer) wsFire(h *hold, t *wheel.Timer[*hold]) {
	switch {
	case h.over:
	case t == &h.ws.delayTimer:
		w.flushDelayed(h)
	case t == &h.ws.closeTimer && !h.ws.sentClose: // the far end has not answered the client
		w.wsClose(h, h.ws.code, nil)
	case t == &h.ws.closeTimer:
		w.wsEnd(h, frame.ReasonTimeout)
	case h.ending:
		w.cut(h, frame.ReasonWriteFailed)
	case !h.endAt.IsZero() && !h.endAt.After(w.now):
		w.endFor(h, frame.ReasonShutdown)
	default:
		w.wsKeepAlive(h)
	}
}

func (w *writer) wsKeepAlive(h *hold) {
	if due := h.lastSend.Add(h.keepDelay); !h.keep.Interval && due.After(w.now) {
		w.wheel.Set(&h.timer, due)
		return
	}
	if h.backlog == nil && !h.ws.inside {
		w.tally.alive(h, w.now)
		w.wsOwn(h, h.keep.Kind, h.keep.Data)
	}
	if !h.over && !h.ending && !h.ws.sentClose {
		w.armKeepAlive(h)
	}
}

// wsFinish tells proxy and handler that a WebSocket is over.
func (w *writer) wsFinish(h *hold, reason frame.Reason) {
	w.wheel.Stop(&h.ws.delayTimer)
	w.wheel.Stop(&h.ws.closeTimer)
	for _, it := range h.ws.later {
		w.wsDropped(it, reason)
	}
	w.wsForget(h, h.ws.laterSize)
	h.ws.later = nil
	x := h.x
	x.mu.Lock()
	orphan := x.ws.orphan
	x.mu.Unlock()
	if h.parked && (orphan || reason != frame.ReasonFinished) {
		w.s.wsLeave(x, &frame.Cancel{Reason: reason})
	}
	x.mu.Lock()
	x.ws.over = true
	x.ws.parts, x.ws.sent, x.ws.unsent = nil, 0, 0
	x.ws.wake()
	x.mu.Unlock()
	closed := &frame.Closed{ID: x.id, Reason: reason, Sent: h.sent}
	w.s.sendHandler(x, closed, &closed.Seq)
}

var deflaters = sync.Pool{New: func() any {
	z, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is a good one
	return z
}}

// deflate compresses a message without regard to others (RFC 7692, section
// 7.2.1).
func deflate(p []byte) []byte {
	z := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(z)
	var b bytes.Buffer
	z.Reset(&b)
	// A bytes.Buffer takes everything.
	_, _ = z.Write(p)
	_ = z.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}
