package bus

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// peer is what a node knows about another instance, through all its boots, with
// the session that joins the two.
//
// A session is named by boot and epoch of both ends. Each side sends hello until
// a message comes back that names its own boot and epoch: from then on it knows
// that both mean the same session, and the peer is up. An end that goes down
// takes its next epoch, so the other end, which hears of it in the next hello,
// goes down too and nothing of the old session is taken for the new one.
type peer struct {
	// Set once.
	name   string
	m      *linkMetrics
	wake   chan struct{}  // to the sender: there is something to send; one pending signal is enough
	kick   chan struct{}  // to the sender: dial now; likewise
	stop   func()         // ends the sender
	epochs *atomic.Uint64 // of the node: a number is used for one session only
	since  time.Time      // when it became known

	// Owned by the dispatcher.
	static     bool // from the configuration
	listed     bool // has a socket in the run directory
	lastSeen   time.Time
	lastHello  time.Time // asked for
	gapCounted bool
	pub        string // endpoint
	sub        *Sub
	lastPub    uint64    // number of the last broadcast
	ackWait    bool      // is among those that the acknowledgement timer is for
	heir       *message  // hello of a later boot, which waits for the end of this one
	heirSince  time.Time // when the first of them came

	// Guarded by mu.
	mu           sync.Mutex
	inbox        string // endpoint
	boot, epoch  uint64 // of the peer, as last heard; 0 is never
	started      uint64 // when that boot was, by its clock
	own          uint64 // our epoch towards it; never the same for two boots of it
	up           bool
	out          outbox
	written      uint64    // frames of the session below were written, on some connection
	waiters      []waiter  // for written, in the order of at
	expect       uint64    // number of the frame that comes next
	unacked      int       // bytes received that were not acknowledged
	progress     time.Time // when it last acknowledged something or had nothing to; as exact as tick
	remind       time.Time // when everything was sent again, if that is later
	helloDue     bool
	ackDue       bool
	byeDue       bool
	idle         bool // the sender waits for a signal
	connected    bool
	refusedSince time.Time // dialling has been refused since then; zero if it is not
}

func (p *peer) id() Peer { return Peer{Name: p.name, Boot: p.boot} }

// send queues a frame if the peer is up.
func (p *peer) send(b []byte, maxBytes int) error {
	p.mu.Lock()
	if !p.up || p.byeDue {
		p.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrNoPeer, p.name)
	}
	if p.out.bytes+len(b)+queueOverhead > maxBytes {
		p.mu.Unlock()
		p.m.refused.Inc()
		return fmt.Errorf("%w: %s", ErrQueueFull, p.name)
	}
	p.out.push(b)
	p.signal()
	p.mu.Unlock()
	return nil
}

// waiter waits until the frames below at are written.
type waiter struct {
	at   uint64
	done chan struct{}
}

// awaitWritten returns a channel that is closed when what is in the outbox was
// written or the session is over, nil if that is so.
func (p *peer) awaitWritten() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := p.out.end()
	if !p.up || p.written >= end {
		return nil
	}
	w := waiter{end, make(chan struct{})}
	p.waiters = append(p.waiters, w)
	return w.done
}

// wrote notes that frames of the session with our epoch own were written.
func (p *peer) wrote(own, end uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own == p.own && end > p.written {
		p.written = end
		p.release(end)
	}
}

// release lets those go who wait for the frames below end. Called with mu held.
func (p *peer) release(end uint64) {
	n := 0
	for ; n < len(p.waiters) && p.waiters[n].at <= end; n++ {
		close(p.waiters[n].done)
		p.waiters[n] = waiter{}
	}
	if p.waiters = p.waiters[n:]; len(p.waiters) == 0 {
		p.waiters = nil
	}
}

// signal wakes the sender if it sleeps. Called with mu held.
func (p *peer) signal() {
	if !p.idle {
		return
	}
	p.idle = false
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *peer) dialNow() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// compose fills e with the next message to send, using frames as room, and
// returns false and notes that the sender is idle if there is none.
func (p *peer) compose(e *envelope, frames [][]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.FromEpoch, e.ToBoot, e.ToEpoch = p.own, p.boot, p.epoch
	e.Ack, e.Seq, e.Up, e.Frames = p.expect, 0, p.up, nil
	switch {
	case p.helloDue:
		e.Kind = kindHello
		p.helloDue = false
	case p.up && p.out.pending():
		e.Kind = kindData
		var again int
		e.Frames, e.Seq, again = p.out.batch(frames)
		p.countOut(e.Frames, again)
	case p.up && p.ackDue:
		e.Kind = kindAck
	case p.byeDue:
		e.Kind = kindBye
	default:
		p.idle = true
		return false
	}
	p.ackDue, p.unacked = false, 0
	return true
}

func (p *peer) countOut(frames [][]byte, again int) {
	p.m.resent.Add(float64(again))
	p.m.framesOut.Add(float64(len(frames) - again))
	n := 0
	for _, f := range frames[again:] {
		n += len(f)
	}
	p.m.bytesOut.Add(float64(n))
}

// connection notes that the sender has a connection or has lost it.
func (p *peer) connection(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connected = on
	if on {
		p.refusedSince = time.Time{}
		p.helloDue = true
		p.out.rewind()
	}
}

// refused notes that nobody listens at the peer's endpoint.
func (p *peer) refused() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusedSince.IsZero() {
		p.refusedSince = time.Now()
	}
}

// sendAgain sends everything anew that the peer has not acknowledged although it
// was written long ago: the last frames before a silence may have been lost with
// nothing behind them by which the peer could tell, or only their acknowledgement
// was. It waits for twice as long each time, as it may also be that the peer is
// slow. Called with mu held.
func (p *peer) sendAgain(now time.Time, after time.Duration) {
	if p.progress.After(p.remind) {
		p.remind = p.progress
	}
	after = max(after, p.remind.Sub(p.progress))
	if !p.connected || p.out.kept() == 0 || p.out.pending() || now.Sub(p.remind) < after {
		return
	}
	p.remind = now
	p.out.rewind()
	p.signal()
}

// change is what a message did to a session: what the receiver has to be told,
// in this order.
type change struct {
	down   Peer // if Boot is not 0
	why    string
	up     Peer     // if Boot is not 0
	from   Peer     // of frames
	frames [][]byte // new ones
	gap    bool     // frames before those of the message are missing: the connection has lost them
	dial   bool     // the peer said hello: it can be dialled now
	ackNow bool     // an acknowledgement is wanted within ackDelay
}

// handle takes a message of the peer. self is our boot.
func (p *peer) handle(e *envelope, self uint64, now time.Time) (c change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case e.FromBoot == p.boot && e.FromEpoch == p.epoch:
	case e.FromBoot == p.boot && e.FromEpoch < p.epoch:
		return c // overtaken by the hello of a later session
	case e.Kind != kindHello:
		// It speaks in a session that we never heard of. Make it tell.
		p.sayHello(now, false)
		return c
	case e.FromBoot != p.boot && p.up && e.Started < p.started:
		return c // left over from a process that has ended
	default:
		if p.up {
			c.why = "reset"
			if e.FromBoot != p.boot {
				c.why = "restart"
			}
			c.down = p.goDown()
		} else if p.boot != 0 && p.boot != e.FromBoot {
			p.own = p.epochs.Add(1)
		}
		p.boot, p.epoch, p.started = e.FromBoot, e.FromEpoch, e.Started
	}
	p.lastSeen, p.gapCounted = now, false
	if e.Kind == kindHello {
		c.dial = !p.connected
	}
	if e.ToBoot != self || e.ToEpoch != p.own {
		p.sayHello(now, e.Kind == kindHello)
		return c
	}
	// Both ends mean the same session.
	if e.Kind == kindBye {
		if p.up {
			c.why = "stopped"
			c.down = p.goDown()
		} else {
			p.own = p.epochs.Add(1)
		}
		p.boot, p.epoch = 0, 0
		return c
	}
	if !p.up {
		p.up = true
		p.progress = now
		c.up = p.id()
	}
	if e.Kind == kindHello && !e.Up {
		p.sayHello(now, true) // this is how it learns
	}
	c.from = p.id()
	if moved, err := p.out.ack(e.Ack); err != nil {
		c.why = "protocol"
		c.down = p.goDown()
		return c
	} else if moved {
		p.progress = now
	}
	if len(e.Frames) > 0 && e.Seq > p.expect {
		c.gap = true
		return c
	}
	c.frames = p.accept(e)
	if len(e.Frames) > 0 {
		for _, f := range e.Frames {
			p.unacked += len(f) + queueOverhead
		}
		if p.unacked >= ackBytes {
			p.ackDue = true
			p.signal()
		} else {
			c.ackNow = true
		}
	}
	return c
}

// accept returns those frames of a message that are new. None before it are
// missing.
func (p *peer) accept(e *envelope) [][]byte {
	end := e.Seq + uint64(len(e.Frames))
	if end <= p.expect {
		p.m.repeats.Add(float64(len(e.Frames)))
		return nil
	}
	repeats := p.expect - e.Seq
	p.m.repeats.Add(float64(repeats))
	p.expect = end
	return e.Frames[repeats:]
}

// sayHello lets the sender say hello, at once if it is an answer to a hello, and
// otherwise not more often than every helloGap.
func (p *peer) sayHello(now time.Time, answer bool) {
	if !answer && now.Sub(p.lastHello) < helloGap {
		return
	}
	p.lastHello = now
	p.helloDue = true
	p.signal()
}

// goDown ends the session and returns whose it was.
func (p *peer) goDown() Peer {
	id := p.id()
	p.up, p.out, p.expect, p.unacked, p.ackDue = false, outbox{}, 0, 0, false
	p.release(math.MaxUint64)
	p.written = 0
	p.own = p.epochs.Add(1)
	p.helloDue = true
	p.signal()
	return id
}
