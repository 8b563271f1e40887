package channel

import (
	"hash/maphash"
	"time"

	"github.com/holdfast/holdfast/pkg/publish"
	"github.com/holdfast/holdfast/pkg/wheel"
)

// Bounds of what the index keeps for items.
const (
	// MaxEarly is how many items of one channel may wait for their predecessor.
	MaxEarly = 100
	// MaxEarlyBytes is how many bytes may wait in all channels together.
	MaxEarlyBytes = 64 << 20
	// MaxIDs is how many ids are remembered; beyond it the oldest are forgotten.
	MaxIDs = 1 << 20
)

// Result says what became of an item.
type Result uint8

// Results.
const (
	Sent      Result = iota // given to the deliver function
	Duplicate               // its id was seen a short while ago
	Waiting                 // it waits for the one before it
	Overflow                // too much waits already, or another item waits for the same one
)

func (r Result) String() string {
	return [...]string{"sent", "duplicate", "waiting", "overflow"}[r]
}

// Deliver takes an item whose turn has come. c is nil if nobody is subscribed.
// It may add and remove subscriptions.
type Deliver[K comparable, O any] func(it *publish.Item, c *Channel[K, O])

// pending is an item that waits.
type pending struct {
	it    *publish.Item // nil once it is on its way or dropped
	since time.Time
	size  int
}

// Publish decides about an item and calls deliver for it, and for those that
// waited for it, in order. The item belongs to the index from then on.
func (x *Index[K, O]) Publish(it *publish.Item, deliver Deliver[K, O]) Result {
	now := x.cfg.Now()
	if it.HasID && !x.seen.add(it.Channel, it.ID, now) {
		return Duplicate
	}
	c := x.channels[it.Channel]
	if c == nil || it.NoSeq {
		deliver(it, c)
		return Sent
	}
	if !c.hasLast || !it.HasPrevID || c.last == it.PrevID {
		x.send(c, it, deliver)
		return Sent
	}
	size := it.Memory()
	if _, taken := c.early[it.PrevID]; taken || len(c.early) >= MaxEarly || x.bytes+size > MaxEarlyBytes {
		if it.HasID {
			x.seen.forget(it.Channel, it.ID) // it may be sent again
		}
		return Overflow
	}
	p := &pending{it: it, since: now, size: size}
	if c.early == nil {
		c.early = make(map[string]*pending)
	}
	c.early[it.PrevID] = p
	x.waiting = append(x.waiting, p)
	x.bytes += size
	return Waiting
}

// send delivers an item and then the ones that waited for it.
func (x *Index[K, O]) send(c *Channel[K, O], it *publish.Item, deliver Deliver[K, O]) {
	for {
		c.last, c.hasLast = it.ID, it.HasID
		deliver(it, c)
		if c.ended || !it.HasID {
			return
		}
		p := c.early[it.ID]
		if p == nil {
			return
		}
		delete(c.early, it.ID)
		it = p.it
		x.drop(p)
	}
}

// drop takes p out of the accounts. Its place in waiting goes when it gets to
// the front.
func (x *Index[K, O]) drop(p *pending) {
	p.it = nil
	x.bytes -= p.size
	p.size = 0
}

// Early returns the number of items that wait, and their bytes.
func (x *Index[K, O]) Early() (items, bytes int) {
	for _, p := range x.waiting {
		if p.it != nil {
			items++
		}
	}
	return items, x.bytes
}

// Tick does what is due: items that waited too long are delivered, the oldest
// first, and channels that lingered long enough end. It is meant to be called
// once a second.
func (x *Index[K, O]) Tick(deliver Deliver[K, O]) {
	now := x.cfg.Now()
	for len(x.waiting) > 0 {
		p := x.waiting[0]
		if p.it != nil && now.Sub(p.since) < x.cfg.Wait {
			break
		}
		x.waiting[0] = nil
		x.waiting = x.waiting[1:]
		if it := p.it; it != nil {
			c := x.channels[it.Channel]
			delete(c.early, it.PrevID)
			x.drop(p)
			x.send(c, it, deliver)
		}
	}
	if len(x.waiting) == 0 {
		x.waiting = nil
	}
	x.seen.expire(now)
	x.linger.Advance(now, func(t *wheel.Timer[*Channel[K, O]]) {
		if c := t.Owner; c.subs == 0 {
			x.end(c)
		}
	})
}

// ids remembers which ids were seen, as 64-bit hashes: with a million of them
// the chance to take a new id for an old one is below 10⁻¹³.
type ids struct {
	ttl   time.Duration
	seed  maphash.Seed
	until map[uint64]time.Time
	order []seenID // by age
}

type seenID struct {
	hash  uint64
	until time.Time
}

func newIDs(ttl time.Duration) ids {
	return ids{ttl: ttl, seed: maphash.MakeSeed(), until: make(map[uint64]time.Time)}
}

func (s *ids) hash(channel, id string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	_, _ = h.WriteString(channel)
	_ = h.WriteByte(0xff) // not in UTF-8, so two pairs cannot be written alike
	_, _ = h.WriteString(id)
	return h.Sum64()
}

// add remembers the id and reports whether it is new.
func (s *ids) add(channel, id string, now time.Time) bool {
	if s.ttl <= 0 {
		return true
	}
	s.expire(now)
	h := s.hash(channel, id)
	if _, ok := s.until[h]; ok {
		return false
	}
	if len(s.order) >= MaxIDs {
		s.pop()
	}
	until := now.Add(s.ttl)
	s.until[h] = until
	s.order = append(s.order, seenID{h, until})
	return true
}

func (s *ids) forget(channel, id string) { delete(s.until, s.hash(channel, id)) }

func (s *ids) pop() {
	if e := s.order[0]; s.until[e.hash].Equal(e.until) {
		delete(s.until, e.hash)
	}
	s.order = s.order[1:]
}

func (s *ids) expire(now time.Time) {
	for len(s.order) > 0 && !now.Before(s.order[0].until) {
		s.pop()
	}
}
