package connmgr

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/wheel"
)

// hold is one held connection. The bus's goroutine makes it; from then on it
// belongs to its writer loop.
//
//	starting ──park──► parked ──end──► ending ──backlog empty──► over
//	    │                 │               │
//	    └───────cut───────┴──────cut──────┴────────────────────► over
//
// While it is starting, the connection's own goroutine writes the head and the
// initial body; publications wait in the backlog.
type hold struct {
	// What the fan-out looks at for each member comes first, so that it is one or
	// two cache lines: with ten thousand members each further one costs as much
	// as the rest of what we do around the system call.
	fd       int32 // of the socket, while the writer may write to it directly; else -1
	mode     frame.Mode
	policy   frame.Policy
	chunked  bool // a stream's body is in chunks
	noBody   bool // the response cannot have a body
	parked   bool // the socket is the writer's
	stuck    bool // a goroutine waits for room in the socket, which nobody may write to
	ending   bool // no more publications; over when the backlog is empty
	cutting  bool // it was cut while starting
	close    bool // the connection ends with this hold
	over     bool
	reason   frame.Reason // why it ends
	backlog  *backlog     // nil if empty
	ws       *wsHold      // nil if it is no WebSocket
	sent     uint64       // bytes that went to the client
	lastSend time.Time    // last publication sent, or keep-alive armed

	x *exch
	c *conn
	w *writer

	members []membership
	timer   wheel.Timer[*hold]
	credit  uint64 // body bytes consumed and not yet told

	// The end that waits for the connection to be parked; see end.
	last *delivery
	tail func() []byte

	keep      frame.KeepAlive
	keepDelay time.Duration // from the last sign of life to the next keep-alive
	endAt     time.Time     // when a stopping server ends this hold; zero if it does not

	record []byte
	tell   bool           // see frame.Hold
	sse    bool           // the client is an EventSource, most likely
	placed []frame.LastID // positions that are newer than record
	answer *frame.Hold    // ModeResponse: what to send when the time is over
	retry  *frame.Retry   // ask the origin anew as soon as parked
}

// newHold makes the hold that f asks for.
func newHold(x *exch, w *writer, f *frame.Hold, policy frame.Policy) *hold {
	h := &hold{fd: -1, x: x, c: x.c, w: w, mode: f.Mode, policy: policy, keep: f.KeepAlive, tell: f.Tell}
	if f.Mode == frame.ModeResponse {
		h.answer = f
		h.record = f.Record
	} else {
		h.mode = frame.ModeStream // ModeNone takes no publications but is a stream to the client
		h.chunked = x.c.minor > 0
		h.noBody = x.c.isHead || !f.HeadSent && bodyless(int(f.Code))
		contentType, _ := http1.Get(f.Header, "Content-Type")
		h.sse = strings.HasPrefix(strings.ToLower(contentType), "text/event-stream")
		// Copies, so that the frame with its body can go.
		h.record = bytes.Clone(f.Record)
		h.keep.Data = bytes.Clone(f.KeepAlive.Data)
	}
	if p := frame.Policy(f.Policy); p != frame.PolicyDefault && p <= frame.PolicyLatest {
		h.policy = p
	}
	h.timer.Owner = h
	return h
}

// passed notes that h gets a publication in which its handler sees a position.
func (h *hold) passed(d *delivery) {
	if d.f.Channel == "" {
		return
	}
	for i := range h.placed {
		if h.placed[i].Channel == d.f.Channel {
			h.placed[i].ID = d.f.ItemID
			return
		}
	}
	h.placed = append(h.placed, frame.LastID{Channel: d.f.Channel, ID: d.f.ItemID})
}

// sseRetry is when an EventSource that is let go because we stop should come back
// at the earliest, in milliseconds; the latest is twice that. Without it, browsers
// wait for three to five seconds, all of them.
const sseRetry = 500

// ready reports whether h's socket can be written to directly.
func (h *hold) ready() bool {
	return h.parked && !h.stuck && h.backlog == nil && !h.ending && (h.ws == nil || !h.ws.inside)
}

func (h *hold) framing() framing {
	switch {
	case h.ws != nil && h.ws.deflate:
		return framingDeflate
	case h.ws != nil:
		return framingWS
	case h.chunked:
		return framingChunk
	}
	return framingRaw
}

// backlog is what waits for one client.
type backlog struct {
	items []item
	off   int // bytes of items[0] that are written
	bytes int // not yet written
}

type item struct {
	data   []byte
	d      *delivery // the publication that this is, or nil
	credit int       // body bytes of the far end in data
	sealed bool      // data is TLS records: must go out, in this order
}

// itemCost is what an item of a backlog counts beside its bytes, which is about
// what it takes in memory: a backlog of the smallest messages would otherwise take
// ten times of what is allowed, and keep as many publications.
const itemCost = 64

// load is what counts of a backlog.
func (b *backlog) load() int {
	if b == nil {
		return 0
	}
	return b.bytes + itemCost*len(b.items)
}

// enqueue puts something into the backlog, of which off bytes are written
// already, and keeps to the bound.
func (w *writer) enqueue(h *hold, it item, off int) {
	if h.over || h.ending {
		if it.d != nil {
			reason := frame.ReasonNotReady
			if h.reason == frame.ReasonBacklogFull {
				reason = h.reason
			}
			w.tally.dropped(it.d, reason, 1, w.now)
		}
		return
	}
	if it.d != nil && h.backlog != nil && h.backlog.bytes > 0 {
		if need := len(it.data) - off + itemCost; h.backlog.load()+need > w.s.opt.MaxBacklog && !w.makeRoom(h, need) {
			w.tally.dropped(it.d, frame.ReasonBacklogFull, 1, w.now)
			return
		}
	}
	w.append(h, it, off)
}

func (w *writer) append(h *hold, it item, off int) {
	if h.backlog == nil {
		h.backlog = new(backlog)
	}
	if len(h.backlog.items) == 0 {
		h.backlog.off = off
	}
	h.backlog.items = append(h.backlog.items, it)
	w.backlogged(h, len(it.data)-off)
}

func (w *writer) backlogged(h *hold, n int) {
	h.backlog.bytes += n
	w.s.metrics.backlog.Add(float64(n))
}

// makeRoom does what the policy says about a full backlog, and reports whether
// an item that counts n may wait.
func (w *writer) makeRoom(h *hold, n int) bool {
	b := h.backlog
	switch h.policy {
	case frame.PolicyDropOldest, frame.PolicyLatest:
		kept := b.items[:0]
		load := b.load()
		for i, it := range b.items {
			started := i == 0 && b.off > 0
			enough := h.policy == frame.PolicyDropOldest && load+n <= w.s.opt.MaxBacklog
			if started || enough || it.sealed || it.d == nil {
				kept = append(kept, it)
				continue
			}
			load -= len(it.data) + itemCost
			w.backlogged(h, -len(it.data))
			w.tally.dropped(it.d, frame.ReasonBacklogFull, 1, w.now)
		}
		clear(b.items[len(kept):])
		b.items = kept
		return b.bytes == 0 || load+n <= w.s.opt.MaxBacklog
	default:
		w.cutSlow(h)
		return false
	}
}

// cutSlow ends a hold whose backlog is full.
func (w *writer) cutSlow(h *hold) {
	w.s.metrics.slow.Inc()
	if skipped, ok := w.s.slowLog.Allow(w.now); ok {
		w.s.log.Warn("client reads too slowly, its hold ends", "exchange", h.x.id, "client", h.c.peer, "not_logged", skipped)
	}
	w.cut(h, frame.ReasonBacklogFull)
}

// settle brings a parked hold as far as it can get without waiting.
func (w *writer) settle(h *hold) {
	if !h.parked || h.over || h.stuck {
		return
	}
	if err := w.flush(h); err != nil {
		w.cut(h, frame.ReasonClientGone)
		return
	}
	switch {
	case h.backlog != nil:
	case h.retry != nil:
		h.c.retry = h.retry
		w.finish(h, frame.ReasonReplaced)
		h.c.release(afterServe)
	case h.ending:
		w.finish(h, h.reason)
		if h.close {
			h.c.release(afterLinger)
		} else {
			h.c.release(afterServe)
		}
	}
}

// What flush puts into one write.
const (
	gatherMax   = 64 << 10
	gatherAlone = 16 << 10 // larger items are not copied
)

// flush writes the backlog until it is empty or the socket is full.
func (w *writer) flush(h *hold) error {
	b := h.backlog
	if b == nil {
		return nil
	}
	for len(b.items) > 0 {
		if h.c.tls != nil {
			if err := w.sealItems(h); err != nil {
				return err
			}
		}
		p := b.items[0].data[b.off:]
		if len(b.items) > 1 && len(p) < gatherAlone {
			w.scratch = append(w.scratch[:0], p...)
			for _, it := range b.items[1:] {
				if len(w.scratch)+len(it.data) > gatherMax || h.c.tls != nil && !it.sealed {
					break
				}
				w.scratch = append(w.scratch, it.data...)
			}
			p = w.scratch
		}
		n := 0
		if len(p) > 0 {
			var err error
			if n, err = w.try.write(h.c.sock.rc, p, false); err != nil {
				return err
			}
		}
		w.wrote(h, n)
		if n < len(p) {
			w.waitRoom(h)
			return nil
		}
	}
	h.backlog = nil
	return nil
}

// wrote takes n written bytes off the backlog.
func (w *writer) wrote(h *hold, n int) {
	b := h.backlog
	h.sent += uint64(n)
	w.s.metrics.bytesOut.add(n)
	w.backlogged(h, -n)
	if n > 0 && h.ending {
		w.wheel.Set(&h.timer, w.now.Add(w.s.opt.WriteTimeout))
	}
	for len(b.items) > 0 {
		rest := len(b.items[0].data) - b.off
		if n < rest {
			b.off += n
			return
		}
		n -= rest
		it := b.items[0]
		b.items[0] = item{}
		b.items, b.off = b.items[1:], 0
		if it.d != nil {
			w.tally.delivered(it.d, 1, w.now)
		}
		if h.credit += uint64(it.credit); h.credit >= creditEvery {
			f := &frame.Credit{ID: h.x.id, N: h.credit}
			w.s.send(h.x, f, &f.Seq)
			h.credit = 0
		}
	}
}

// sealItems makes TLS records of what can go out next.
func (w *writer) sealItems(h *hold) error {
	b, total := h.backlog, 0
	for i := range b.items {
		it := &b.items[i]
		if total += len(it.data); i > 0 && total > gatherMax {
			break
		}
		if it.sealed {
			continue
		}
		var records []byte
		if err := h.c.seal(&records, it.data); err != nil {
			return err
		}
		w.backlogged(h, len(records)-len(it.data))
		it.data, it.sealed = records, true
	}
	return nil
}

// waitRoom has a goroutine wait until the socket of h takes bytes again. That
// costs a stack, but only for clients that do not keep up.
func (w *writer) waitRoom(h *hold) {
	if h.stuck {
		return
	}
	h.stuck = true
	w.s.conns.Go(func() {
		_ = h.c.sock.waitWritable() // an error will be that of the next write, too
		w.push(job{kind: jobWritable, h: h})
	})
}

// begin is the first thing that the writer hears of a hold.
func (w *writer) begin(h *hold, gs []*group) {
	w.join(h, gs)
	w.s.metrics.holds(h.mode).Inc()
	if h.mode == frame.ModeResponse && h.answer.Millis > 0 {
		w.wheel.Set(&h.timer, w.now.Add(time.Duration(h.answer.Millis)*time.Millisecond))
	}
}

// park makes the socket of h the writer's. The connection's goroutine has sent n
// bytes for the hold.
func (w *writer) park(h *hold, n int) {
	w.own(h)
	h.sent += uint64(n)
	switch {
	case h.cutting:
		_ = w.flush(h) // what came before the end is the client's
		w.cut(h, h.reason)
		return
	case h.tail != nil:
		w.sendTail(h)
		return
	case h.mode == frame.ModeStream && h.noBody:
		w.end(h, frame.ReasonFinished, nil, nothing)
		return
	case h.mode == frame.ModeStream && !h.ending:
		w.armKeepAlive(h)
	}
	if h.endAt.IsZero() && w.s.draining.Load() { // it came too late for Drain to see it
		w.endFor(h, frame.ReasonShutdown)
	}
	w.settle(h)
}

// own notes that the socket of h is the writer's.
func (w *writer) own(h *hold) {
	h.parked = true
	if h.c.tls == nil {
		h.fd = h.c.sock.fd()
	}
}

// frame handles what the handler sent for h.
func (w *writer) frame(h *hold, j *job) {
	if h.ws != nil {
		w.wsFrame(h, j)
		return
	}
	switch f := j.f.(type) {
	case *frame.Update:
		if h.ending || h.retry != nil {
			for _, g := range j.groups {
				w.s.groups.release(g, w.i)
			}
			return
		}
		w.join(h, j.groups)
		h.record, h.placed = bytes.Clone(f.Record), nil
		h.keep = f.KeepAlive
		h.keep.Data = bytes.Clone(f.KeepAlive.Data)
		if h.mode == frame.ModeStream && h.parked {
			w.armKeepAlive(h)
		}
		if j.d != nil {
			w.deliverTo(h, j.d)
		}
	case *frame.Body:
		if h.mode == frame.ModeStream && !h.noBody && len(f.Data) > 0 && !h.ending {
			w.append(h, item{data: h.framed(f.Data), credit: len(f.Data)}, 0)
			w.settle(h)
		}
	case *frame.Finish:
		if h.retry != nil {
			return
		}
		switch {
		case h.mode == frame.ModeResponse:
			w.end(h, frame.ReasonFinished, nil, func() []byte { return h.finished(f) })
		case f.Abort:
			if len(f.Body) > 0 && !h.noBody && !h.ending {
				w.append(h, item{data: h.framed(f.Body)}, 0)
				w.settle(h)
			}
			w.cut(h, frame.ReasonOriginFailed)
		case h.noBody:
			w.end(h, frame.ReasonFinished, nil, nothing)
		default:
			w.end(h, frame.ReasonFinished, nil, func() []byte { return append(h.framed(f.Body), h.lastChunk()...) })
		}
	case *frame.Retry:
		if h.mode != frame.ModeResponse || h.ending || h.retry != nil {
			w.s.log.Debug("retry of a hold that cannot be retried", "exchange", h.x.id, "mode", h.mode)
			return
		}
		h.retry = f
		w.leave(h)
		w.wheel.Stop(&h.timer)
		w.settle(h)
	case *frame.Cancel:
		h.x.letGo()
		w.endFor(h, f.Reason)
	}
}

// framed returns p as it goes to the client of a stream, in a slice of its own.
func (h *hold) framed(p []byte) []byte {
	if h.chunked {
		return http1.AppendChunk(nil, p)
	}
	return bytes.Clone(p)
}

// endFor ends a hold for a reason that is not a publication or a wish of the
// handler.
func (w *writer) endFor(h *hold, reason frame.Reason) {
	switch {
	case h.over || h.ending || h.retry != nil:
	case h.ws != nil && reason == frame.ReasonShutdown:
		w.wsPublishedClose(h, wsGoingAway, "")
	case h.mode == frame.ModeResponse && (reason == frame.ReasonTimeout || reason == frame.ReasonShutdown):
		w.end(h, reason, nil, h.timedOut)
	case h.mode == frame.ModeResponse:
		w.end(h, reason, nil, h.failed)
	case reason == frame.ReasonShutdown && h.sse && !h.noBody:
		w.end(h, reason, nil, func() []byte {
			retry := fmt.Appendf(nil, "retry: %d\n\n", sseRetry+rand.Int64N(sseRetry))
			return append(h.framed(retry), h.lastChunk()...)
		})
	case reason == frame.ReasonShutdown || reason == frame.ReasonFinished:
		w.end(h, reason, nil, h.lastChunk)
	default:
		w.cut(h, reason)
	}
}

// end sends what tail returns as the last thing of h, which is the publication
// d if that is not nil. When the client has it, the hold is over and the
// connection serves its next request, if it can.
func (w *writer) end(h *hold, reason frame.Reason, d *delivery, tail func() []byte) {
	if h.over || h.ending {
		return
	}
	w.leave(h)
	w.wheel.Stop(&h.timer)
	h.ending, h.reason = true, reason
	h.last, h.tail = d, tail
	if h.parked {
		w.sendTail(h)
	}
}

// sendTail does the part of end for which the connection must be parked: what
// its goroutine has sent or decided by then goes into the tail.
func (w *writer) sendTail(h *hold) {
	h.close = h.closes()
	w.append(h, item{data: h.tail(), d: h.last}, 0)
	h.last, h.tail = nil, nil
	w.wheel.Set(&h.timer, w.now.Add(w.s.opt.WriteTimeout))
	w.settle(h)
}

func nothing() []byte { return nil }

// closes reports whether the connection can serve no request after h.
func (h *hold) closes() bool {
	return h.ws != nil || h.c.closeAfter || h.mode == frame.ModeStream && !h.chunked || h.c.s.draining.Load()
}

// cut ends a hold and its connection at once, in a way that the client can tell
// from a proper end.
func (w *writer) cut(h *hold, reason frame.Reason) {
	if h.over {
		return
	}
	if !h.parked {
		if h.cutting {
			return
		}
		// The connection's goroutine may be writing. It says jobPark or jobFail
		// when it has done what it can; a client that does not read is not worth
		// waiting for.
		w.leave(h)
		w.wheel.Stop(&h.timer)
		h.ending, h.cutting, h.reason = true, true, reason
		if reason == frame.ReasonBacklogFull {
			h.c.cutOff()
			h.x.mu.Lock()
			h.x.fail(errSlow) // if it waits for more of the initial body
			h.x.mu.Unlock()
		}
		return
	}
	if h.c.tls != nil && h.backlog == nil {
		w.lastRecords(h)
	}
	w.finish(h, reason)
	if !h.chunked && h.ws == nil && reason != frame.ReasonClientGone {
		h.c.sock.reset()
	}
	h.c.release(afterNothing)
	h.c.close()
}

// lastRecords sends what crypto/tls has to say to a client whose connection is
// cut, such as which fault of it was the reason.
func (w *writer) lastRecords(h *hold) {
	var p []byte
	h.c.sock.startGather(&p)
	h.c.sock.stopGather()
	if len(p) > 0 {
		n, _ := w.try.write(h.c.sock.rc, p, false) // it is over in any case
		w.s.metrics.bytesOut.add(n)
	}
}

// finish does the accounts of a hold that is over. What becomes of its
// connection is up to the caller.
func (w *writer) finish(h *hold, reason frame.Reason) {
	if h.cutting {
		reason = h.reason
	}
	h.over = true
	w.leave(h)
	w.wheel.Stop(&h.timer)
	if h.last != nil {
		w.tally.dropped(h.last, reason, 1, w.now)
		h.last = nil
	}
	if b := h.backlog; b != nil {
		for _, it := range b.items {
			if it.d != nil {
				w.tally.dropped(it.d, reason, 1, w.now)
			}
		}
		w.backlogged(h, -b.bytes)
		h.backlog = nil
	}
	w.s.closeHeld(h.x)
	if h.ws != nil {
		w.wsFinish(h, reason)
	} else {
		f := &frame.Closed{ID: h.x.id, Reason: reason, Sent: h.sent}
		far := w.s.send(h.x, f, &f.Seq)
		w.s.rememberEnded(h, far, reason)
	}
	w.s.metrics.holds(h.mode).Dec()
	w.s.metrics.ended(reason)
}

// armKeepAlive starts the time to the next keep-alive, with the jitter that GRIP
// asks for, so that connections made together do not stay together.
func (w *writer) armKeepAlive(h *hold) {
	if !h.endAt.IsZero() { // which is what the timer is for by now
		return
	}
	w.wheel.Stop(&h.timer)
	if h.keep.Millis == 0 || len(h.keep.Data) == 0 && h.ws == nil {
		return
	}
	jitter := rand.Int64N(1000)
	h.keepDelay = time.Duration(max(0, int64(h.keep.Millis)-jitter)) * time.Millisecond
	h.lastSend = w.now
	w.wheel.Set(&h.timer, w.now.Add(h.keepDelay))
}

// keepAlive is called when a stream's timer fires. Publications do not touch the
// timer, which would be costly for many members; it is only now that they are
// found to have reset it.
func (w *writer) keepAlive(h *hold) {
	if due := h.lastSend.Add(h.keepDelay); !h.keep.Interval && due.After(w.now) {
		w.wheel.Set(&h.timer, due)
		return
	}
	if h.ready() && !h.noBody {
		w.tally.alive(h, w.now)
		w.append(h, item{data: h.framed(h.keep.Data)}, 0)
		w.settle(h)
	}
	if !h.over {
		w.armKeepAlive(h)
	}
}

// probe is called when the client of h has shut its sending side down. It may
// still read (RFC 9112 does not forbid it), or it has closed its socket, which
// looks the same. The way to find out is to send something: a closed socket
// answers with a reset. So send what the response will contain next whatever
// happens: the first bytes of its status line, or a leading zero of the size of
// its next chunk (chunk-size = 1*HEXDIG, last-chunk = 1*"0"). A stream without
// chunks and without keep-alives has nothing of the kind; its client counts as
// gone.
func (w *writer) probe(h *hold) {
	if !h.ready() || h.noBody || h.retry != nil {
		return // something is being written, or will be soon
	}
	switch {
	case h.mode == frame.ModeResponse:
		if p := h.c.probeHead(); p != nil {
			w.append(h, item{data: p}, 0)
		}
	case h.chunked:
		w.append(h, item{data: []byte("0")}, 0)
	case h.keep.Millis > 0 && len(h.keep.Data) > 0:
		w.append(h, item{data: h.keep.Data}, 0)
	default:
		w.cut(h, frame.ReasonClientGone)
		return
	}
	w.settle(h)
}
