package handler

import (
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

// ledger follows each Deliver frame until connmgr has said what it came to for
// every member that was counted when it was sent. Everything in it is guarded
// by Server.mu.
//
// connmgr is right about who was there: a member that left before the frame
// arrived is never reported, and one that the handler had not counted is counted
// then.
type ledger struct {
	m       *metrics
	settled func(*tally) // called when an account of a followed item has changed
	open    map[uint64]account
	oldest  uint64 // no open account has a lower number
	next    uint64
	pending int // deliveries in open
}

// account is one Deliver frame.
type account struct {
	peer *peer
	mode frame.Mode
	left int
	sent time.Time
	last time.Time // of the last report
	t    *tally    // of an item that somebody listens to, else nil
}

const (
	// reportRest is how long an account may rest before what is missing counts
	// as members that had left.
	reportRest = 30 * time.Second
	// maxAccounts bounds the ledger; beyond it the oldest are closed early.
	maxAccounts = 1 << 20
)

func newLedger(m *metrics, settled func(*tally)) ledger {
	return ledger{m: m, settled: settled, open: make(map[uint64]account), oldest: 1, next: 1}
}

// begin opens an account for n deliveries and returns its number.
func (l *ledger) begin(p *peer, mode frame.Mode, n int, now time.Time, t *tally) uint64 {
	id := l.next
	l.next++
	l.open[id] = account{peer: p, mode: mode, left: n, sent: now, last: now, t: t}
	l.pending += n
	for len(l.open) > maxAccounts {
		l.closeOldest(frame.ReasonOverload)
	}
	return id
}

// cancel closes an account whose frame was not sent.
func (l *ledger) cancel(id uint64, reason frame.Reason) {
	l.settle(id, l.open[id], reason)
}

// settle closes an account; what is left of it was dropped.
func (l *ledger) settle(id uint64, a account, reason frame.Reason) {
	delete(l.open, id)
	l.pending -= a.left
	if a.left > 0 {
		l.m.droppedFor(reason, a.left)
		a.t.drop(reason, a.left)
		l.settled(a.t)
	}
}

func (l *ledger) closeOldest(reason frame.Reason) {
	for ; l.oldest < l.next; l.oldest++ {
		if a, ok := l.open[l.oldest]; ok {
			l.settle(l.oldest, a, reason)
			return
		}
	}
}

// report takes what connmgr says.
func (l *ledger) report(p *peer, r *frame.Report, now time.Time) {
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		if o.Pub == 0 {
			continue // bytes that are not a publication
		}
		a, ok := l.open[o.Pub]
		if ok = ok && a.peer == p; !ok {
			a.t = nil
		}
		n := int(o.Delivered)
		l.m.deliveredFor(o.Mode, n)
		a.t.deliver(n)
		for _, d := range o.Dropped {
			l.m.droppedFor(d.Reason, int(d.N))
			a.t.drop(d.Reason, int(d.N))
			n += int(d.N)
		}
		if !ok {
			l.match(nil, o.Mode, n)
			continue
		}
		if n > a.left {
			l.match(a.t, a.mode, n-a.left)
			n = a.left
		}
		l.settled(a.t)
		a.left -= n
		a.last = now
		l.pending -= n
		if a.left > 0 {
			l.open[o.Pub] = a
			continue
		}
		delete(l.open, o.Pub)
		l.m.reportTime.Observe(now.Sub(a.sent).Seconds())
	}
}

// match counts pairs of item and subscriber. t is nil unless somebody listens.
func (l *ledger) match(t *tally, mode frame.Mode, n int) {
	t.match(n)
	c := l.m.matched[mode]
	if c == nil {
		c = l.m.matched[frame.ModeNone]
	}
	c.Add(float64(n))
}

// expire closes accounts that rest. They are in the order in which they were
// opened; one that is still moving holds up the look at later ones, no more.
func (l *ledger) expire(now time.Time) {
	for ; l.oldest < l.next; l.oldest++ {
		a, ok := l.open[l.oldest]
		if !ok {
			continue
		}
		if now.Sub(a.last) < reportRest {
			return
		}
		l.settle(l.oldest, a, frame.ReasonClientGone)
	}
}

// lost closes all accounts of a connmgr that is gone.
func (l *ledger) lost(p *peer) {
	for id, a := range l.open {
		if a.peer == p {
			l.settle(id, a, frame.ReasonPeerLost)
		}
	}
}
