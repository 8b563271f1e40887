package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Pool makes requests and keeps the connections between them. All methods may be
// called from any goroutine.
type Pool struct {
	opt Options

	reused, dialled, dialErrors, retried atomic.Uint64

	mu      sync.Mutex // guards what follows and all buckets
	closed  bool
	buckets map[Target]*bucket
	open    int         // connections made or being made, of all buckets
	idle    int         // of them, those that wait for a request
	waiters []*waiter   // in the order of asking
	sweeper *time.Timer // runs sweep while there are buckets
}

// bucket holds the connections to one target.
type bucket struct {
	target  Target
	tls     *tls.Config // nil without TLS
	idle    []*conn     // the most recently used one last
	open    int
	dialing int // of open, those not connected yet
	waiting int // waiters for this bucket
}

// waiter is a request that found no connection and may not make one.
type waiter struct {
	b     *bucket
	fresh bool // wants a new connection
	// ready gets one value: a connection, or nil for leave to make one. It is sent
	// by whoever took the waiter off the list, with mu held; hence the room for
	// one. Never closed.
	ready chan *conn
}

// New returns a pool. Close ends it.
func New(opt Options) (*Pool, error) {
	p := &Pool{opt: opt.withDefaults(), buckets: make(map[Target]*bucket)}
	if opt.Registerer != nil {
		if err := opt.Registerer.Register(newCollector(p)); err != nil {
			return nil, fmt.Errorf("register origin metrics: %w", err)
		}
	}
	return p, nil
}

// Close closes idle connections and refuses further requests. Those under way
// end with their own contexts. Closing again does nothing.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	if p.sweeper != nil {
		p.sweeper.Stop()
	}
	var idle []*conn
	for _, b := range p.buckets {
		idle = append(idle, b.idle...)
		p.idle -= len(b.idle)
		b.idle = nil
	}
	p.mu.Unlock()
	for _, c := range idle {
		p.drop(c)
	}
	return nil
}

// Stats counts connections.
type Stats struct {
	Open, Idle, Waiting                  int    // now
	Reused, Dialled, DialErrors, Retried uint64 // since New
}

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	s := Stats{Open: p.open, Idle: p.idle, Waiting: len(p.waiters)}
	p.mu.Unlock()
	s.Reused, s.Dialled, s.DialErrors, s.Retried = p.reused.Load(), p.dialled.Load(), p.dialErrors.Load(), p.retried.Load()
	return s
}

// get returns a connection that is idle or new; new for certain if fresh is set.
func (p *Pool) get(ctx context.Context, t Target, fresh bool) (*conn, error) {
	p.mu.Lock()
	for {
		if p.closed {
			p.mu.Unlock()
			return nil, &Error{Kind: ErrClosed, Addr: t.Addr}
		}
		b := p.bucket(t)
		n := len(b.idle)
		if fresh || n == 0 {
			return p.getNew(ctx, b, fresh)
		}
		c := b.idle[n-1]
		b.idle[n-1] = nil
		b.idle = b.idle[:n-1]
		p.idle--
		p.mu.Unlock()
		if c.usable() {
			c.reused = true
			p.reused.Add(1)
			return c, nil
		}
		p.drop(c)
		p.mu.Lock()
	}
}

// getNew makes a connection, after waiting for leave if need be. It is called
// with mu held and returns without it.
func (p *Pool) getNew(ctx context.Context, b *bucket, fresh bool) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opt.ConnectTimeout)
	defer cancel()
	if len(p.waiters) == 0 && p.mayDial(b) {
		p.take(b)
		p.mu.Unlock()
		return p.dial(ctx, b)
	}

	w := &waiter{b: b, fresh: fresh, ready: make(chan *conn, 1)}
	p.waiters = append(p.waiters, w)
	b.waiting++
	victim := p.unneeded(b)
	p.grant()
	p.mu.Unlock()
	if victim != nil {
		p.drop(victim)
	}
	select {
	case c := <-w.ready:
		return p.granted(ctx, w, c)
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.waiters, w)
	if i >= 0 {
		p.forget(i)
	}
	p.mu.Unlock()
	if i < 0 { // granted meanwhile; dial will see the context
		return p.granted(ctx, w, <-w.ready)
	}
	return nil, connectError(ctx, b, errors.New("too many connections"))
}

func (p *Pool) granted(ctx context.Context, w *waiter, c *conn) (*conn, error) {
	if c == nil {
		return p.dial(ctx, w.b)
	}
	if !c.usable() {
		p.drop(c)
		return p.get(ctx, w.b.target, w.fresh)
	}
	c.reused = true
	p.reused.Add(1)
	return c, nil
}

func (p *Pool) bucket(t Target) *bucket {
	b := p.buckets[t]
	if b == nil {
		b = &bucket{target: t}
		if t.TLS {
			b.tls = t.tlsConfig(p.opt.RootCAs)
		}
		p.buckets[t] = b
		if p.sweeper == nil {
			p.sweeper = time.AfterFunc(p.sweepInterval(), p.sweep)
		} else if len(p.buckets) == 1 {
			p.sweeper.Reset(p.sweepInterval())
		}
	}
	return b
}

// mayDial, take, leave, grant and forget are called with mu held.

func (p *Pool) mayDial(b *bucket) bool {
	return p.open < p.opt.MaxOpen && b.open < p.opt.MaxOpenPerTarget && b.dialing < p.opt.MaxDialing
}

func (p *Pool) take(b *bucket) {
	p.open++
	b.open++
	b.dialing++
}

func (p *Pool) leave(b *bucket) {
	p.open--
	b.open--
	p.grant()
}

// grant gives leave to dial to those waiters that may, in their order. One whose
// target is at its own bound holds up nobody else.
func (p *Pool) grant() {
	for i := 0; i < len(p.waiters) && p.open < p.opt.MaxOpen; {
		w := p.waiters[i]
		if !p.mayDial(w.b) {
			i++
			continue
		}
		p.take(w.b)
		p.forget(i)
		w.ready <- nil
	}
}

func (p *Pool) forget(i int) {
	p.waiters[i].b.waiting--
	p.waiters = slices.Delete(p.waiters, i, i+1)
}

// unneeded takes an idle connection out that stands in the way of a new one for
// b: one of its own if b is at its bound, else the one unused for longest.
func (p *Pool) unneeded(b *bucket) *conn {
	from := b
	switch {
	case p.mayDial(b) || b.dialing >= p.opt.MaxDialing:
		return nil
	case b.open < p.opt.MaxOpenPerTarget:
		for _, other := range p.buckets {
			if len(other.idle) > 0 && (len(from.idle) == 0 || other.idle[0].idleSince.Before(from.idle[0].idleSince)) {
				from = other
			}
		}
	}
	return p.oldest(from)
}

// oldest takes the connection out of b that is unused for longest, if any.
func (p *Pool) oldest(b *bucket) *conn {
	if len(b.idle) == 0 {
		return nil
	}
	c := b.idle[0]
	b.idle = slices.Delete(b.idle, 0, 1)
	p.idle--
	return c
}

// put takes back a connection whose exchange is over and that is fit for
// another.
func (p *Pool) put(c *conn) {
	c.release()
	c.idleSince = time.Now()
	b := c.b
	drop := c
	p.mu.Lock()
	switch {
	case p.closed:
	case b.waiting > 0 && p.handOver(c):
		drop = nil
	case len(p.waiters) > 0 && p.open >= p.opt.MaxOpen:
		// Somebody waits for a connection to another target.
	default:
		b.idle = append(b.idle, c)
		p.idle++
		drop = nil
		if len(b.idle) > p.opt.MaxIdlePerTarget {
			drop = p.oldest(b)
		}
	}
	p.mu.Unlock()
	if drop != nil {
		p.drop(drop)
	}
}

// handOver gives c to the first that waits for one like it.
func (p *Pool) handOver(c *conn) bool {
	for i, w := range p.waiters {
		if w.b == c.b && !w.fresh {
			p.forget(i)
			w.ready <- c
			return true
		}
	}
	return false
}

// drop closes a connection that is in no list.
func (p *Pool) drop(c *conn) {
	_ = c.nc.Close()
	c.release()
	p.mu.Lock()
	p.leave(c.b)
	p.mu.Unlock()
}

func (p *Pool) sweepInterval() time.Duration { return max(p.opt.KeepAlive/8, time.Millisecond) }

// sweep closes the connections that were idle for long enough, and forgets
// targets that have none.
func (p *Pool) sweep() {
	var old []*conn
	now := time.Now()
	p.mu.Lock()
	for t, b := range p.buckets {
		b.idle = slices.DeleteFunc(b.idle, func(c *conn) bool {
			if c.expired(now) {
				old = append(old, c)
				return true
			}
			return false
		})
		if b.open == 0 && b.waiting == 0 {
			delete(p.buckets, t)
		}
	}
	p.idle -= len(old)
	if !p.closed && len(p.buckets) > 0 {
		p.sweeper.Reset(p.sweepInterval())
	}
	p.mu.Unlock()
	for _, c := range old {
		p.drop(c)
	}
}
