package connmgr

import (
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// delivery is one publication on its way. It is shared by writer loops and
// backlogs and not changed.
type delivery struct {
	src    *peer
	f      *frame.Deliver
	chunk  []byte // of a stream: f.Body as an HTTP chunk; nil if it is empty
	except map[uint64]struct{}

	ws       []byte // of a WebSocket: f.Body as frames
	deflate  sync.Once
	deflated []byte // the same, compressed; made when first wanted
}

func newDelivery(src *peer, f *frame.Deliver) *delivery {
	d := &delivery{src: src, f: f}
	if f.Mode == frame.ModeStream && f.Action == frame.ActionSend && len(f.Body) > 0 {
		d.chunk = http1.AppendChunk(make([]byte, 0, len(f.Body)+12), f.Body)
	}
	if f.Mode == frame.ModeWebSocket && f.Action == frame.ActionSend {
		d.ws = wsEncode(f.Kind, f.Body, true, true)
	}
	if len(f.Except) > 0 {
		d.except = make(map[uint64]struct{}, len(f.Except))
		for _, id := range f.Except {
			d.except[id] = struct{}{}
		}
	}
	return d
}

// framing is the form in which a connection takes publications.
type framing uint8

const (
	framingRaw framing = iota
	framingChunk
	framingWS
	framingDeflate // WebSocket, compressed
	framings
)

// bytes returns what a stream's client is to see of a publication.
func (d *delivery) bytes(f framing) []byte {
	switch f {
	case framingChunk:
		return d.chunk
	case framingWS:
		return d.ws
	case framingDeflate:
		d.deflate.Do(func() {
			if d.deflated = d.ws; d.f.Kind < frame.MessageClose {
				d.deflated = wsDeflated(d.f.Kind, d.f.Body)
			}
		})
		return d.deflated
	}
	return d.f.Body
}

// size is what the delivery counts in a writer's queue.
func (d *delivery) size() int { return len(d.f.Body) + len(d.chunk) + len(d.ws) + 512 }

// counts reports whether the delivery is a publication.
func (d *delivery) counts() bool { return d.f.Pub != 0 && d.f.Pub&frame.PubOther == 0 }

// plain reports whether the delivery may share a write with its neighbours.
func (d *delivery) plain() bool {
	return d.f.Mode != frame.ModeResponse && d.f.Action == frame.ActionSend && d.except == nil && len(d.f.Only) == 0
}

// Outcomes are reported in batches: at most this often, and whenever so many
// are there.
const (
	reportEvery = 25 * time.Millisecond
	reportMax   = 256
)

// tally counts what publications came to, for one writer loop. A publication
// whose bytes wait in a backlog is counted when they have left, so there may be
// several outcomes for one publication; the handler adds them up.
type tally struct {
	s     *Server
	bySrc map[*peer]*frame.Report
	index map[tallyKey]int
	n     int       // of outcomes and keep-alives
	since time.Time // when the oldest of them was added
}

type tallyKey struct {
	src *peer
	pub uint64
}

func (t *tally) outcome(d *delivery, now time.Time) *frame.Outcome {
	r := t.report(d.src)
	key := tallyKey{d.src, d.f.Pub}
	i, ok := t.index[key]
	if !ok {
		i = len(r.Outcomes)
		t.index[key] = i
		r.Outcomes = append(r.Outcomes, frame.Outcome{Pub: d.f.Pub, Mode: d.f.Mode})
		t.add(now)
	}
	return &r.Outcomes[i]
}

// report returns what the next flush tells a handler.
func (t *tally) report(src *peer) *frame.Report {
	r := t.bySrc[src]
	if r == nil {
		r = new(frame.Report)
		t.bySrc[src] = r
	}
	return r
}

// add counts one more thing to tell.
func (t *tally) add(now time.Time) {
	if t.n == 0 {
		t.since = now
	}
	t.n++
}

// alive counts a keep-alive of a hold: its handler tells how busy routes are.
func (t *tally) alive(h *hold, now time.Time) {
	t.s.metrics.keepAlives.Inc()
	x := h.x
	x.mu.Lock()
	src := x.far
	if x.ws != nil {
		src = x.ws.handler
	}
	x.mu.Unlock()
	if src == nil {
		return
	}
	r := t.report(src)
	r.Alive = append(r.Alive, x.id)
	t.add(now)
}

func (t *tally) delivered(d *delivery, n int, now time.Time) {
	if n == 0 {
		return
	}
	t.outcome(d, now).Delivered += uint32(n)
	if d.counts() {
		t.s.metrics.delivered(d.f.Mode, n)
	}
}

func (t *tally) dropped(d *delivery, reason frame.Reason, n int, now time.Time) {
	if n == 0 {
		return
	}
	if d.counts() {
		t.s.metrics.dropped(reason, n)
	}
	o := t.outcome(d, now)
	for i := range o.Dropped {
		if o.Dropped[i].Reason == reason {
			o.Dropped[i].N += uint32(n)
			return
		}
	}
	o.Dropped = append(o.Dropped, frame.Drop{Reason: reason, N: uint32(n)})
}

// due reports whether it is time to flush.
func (t *tally) due(now time.Time) bool {
	return t.n >= reportMax || t.n > 0 && now.Sub(t.since) >= reportEvery
}

func (t *tally) flush() {
	if t.n == 0 {
		return
	}
	for src, r := range t.bySrc {
		t.s.out.post(src, frame.Encode(r))
	}
	clear(t.bySrc)
	clear(t.index)
	t.n = 0
}
