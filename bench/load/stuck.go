//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/result"
)

// Messages that fill the sockets of clients that do not read. They go to a
// channel of these clients' own, so that the others have nothing to do with them.
const (
	jamChannel = 1
	jamSize    = 16 << 10
	jamFill    = 20 // so many fill a narrow connection, and leave some of the server's backlog free
	jamEvery   = 30 * time.Millisecond
	jamMost    = 3 << 20 // bytes for each client by which a server should have cut it off; Holdfast does at 1 MB
)

// stuckClients: all connections are on one channel, and some of them stop reading
// now and then. What the others get is measured in turn while these read, and
// while they do not and their sockets are full. In the end they are sent more
// until the server cuts them off, which the others are measured during as well.
func (b *bench) stuckClients() error {
	if b.channels != 1 || b.stuck < 1 || b.stuck >= b.n || !b.publish.IsValid() {
		return errors.New("-channels must be 1, -stuck between 1 and -n, and -publish given")
	}
	jam := newJam(b)
	others := b.newPool(kindStream)
	defer others.close()
	b.n -= b.stuck
	if err := b.hold(others); err != nil {
		return err
	}
	stuck := b.newPool(kindStream)
	defer stuck.close()
	stuck.narrow = true
	stuck.path = strings.ReplaceAll(b.path, "{c}", "{c},"+channelName(jamChannel))
	stuck.grow(b.stuck)
	if _, err := b.loop.Wait(b.deadline, stuck.settled); err != nil {
		return err
	}
	if others.ready < b.n || stuck.ready < b.stuck {
		return fmt.Errorf("%d of %d connections are ready", others.ready+stuck.ready, b.n+b.stuck)
	}
	r := &result.Stuck{Connections: b.stuck, Others: b.n}
	b.res.Stuck = r
	measure := func(n int) (*result.Delivery, error) {
		length := time.Duration(float64(n) / b.rate * float64(time.Second))
		return b.deliver(others, float64(b.n), length+10*time.Second, func(f func()) { b.paced(n, f) })
	}
	if _, err := measure(2); err != nil { // for warming up
		return err
	}
	for range b.rounds {
		d, err := measure(b.count)
		if err != nil {
			return err
		}
		r.Without = append(r.Without, *d)
		if err := b.catchUp(stuck); err != nil {
			return err
		}
		stuck.each((*subscriber).pause)
		if err := jam.fill(jamFill); err != nil {
			return err
		}
		if d, err = measure(b.count); err != nil {
			return err
		}
		r.With = append(r.With, *d)
		stuck.each((*subscriber).resume)
		if err := b.catchUp(stuck); err != nil {
			return err
		}
	}
	r.CaughtUp, r.Missed = stuck.meter.delivered, stuck.lost(b.src.seq)
	return b.cutOff(stuck, jam, r, measure)
}

// catchUp waits until clients that read again have read everything, but not for
// ever: what they miss is counted.
func (b *bench) catchUp(p *pool) error {
	_, err := b.loop.Wait(10*time.Second, func() bool { return p.lost(b.src.seq) == 0 })
	return err
}

// cutOff goes on filling until the server has no more room for these clients,
// while the others are measured.
func (b *bench) cutOff(stuck *pool, jam *jam, r *result.Stuck, measure func(int) (*result.Delivery, error)) error {
	stuck.each((*subscriber).pause)
	before := jam.src.taken
	enough := func() bool { return (jam.src.taken-before)*jamSize >= jamMost }
	var more func()
	more = func() {
		if !enough() {
			jam.publish(func() { b.loop.After(jamEvery, more) })
		}
	}
	more()
	var err error
	if r.Cutting, err = measure(max(b.count, int(b.rate*5))); err != nil {
		return err
	}
	if _, err := b.loop.Wait(30*time.Second, enough); err != nil {
		return err
	}
	stuck.each((*subscriber).resume)
	// They read what is left in their sockets, and then that it is over.
	if _, err := b.loop.Wait(10*time.Second, func() bool { return stuck.dropped == b.stuck || stuck.lost(b.src.seq) == 0 }); err != nil {
		return err
	}
	r.CutOff = stuck.dropped
	return nil
}

// jam publishes to the clients that get stuck. It has a source of its own, since
// what it publishes is not measured.
type jam struct {
	loop *netloop.Loop
	src  *source
	pub  publisher
}

func newJam(b *bench) *jam {
	src := &source{loop: b.loop, size: jamSize, format: b.format, seq: make([]uint32, jamChannel+1)}
	return &jam{loop: b.loop, src: src, pub: newHTTPPublisher(src, b.publish, b.publishPath, 1)}
}

func (j *jam) publish(done func()) { j.pub.publish(jamChannel, func(bool) { done() }) }

// fill publishes n messages, one after the other.
func (j *jam) fill(n int) error {
	left := n
	var next func()
	next = func() {
		if left--; left > 0 {
			j.publish(next)
		}
	}
	j.publish(next)
	ok, err := j.loop.Wait(20*time.Second, func() bool { return left == 0 })
	if err == nil && !ok {
		err = fmt.Errorf("%d of %d messages that fill sockets were not taken in 20 s", left, n)
	}
	return err
}

func (p *pool) each(f func(*subscriber)) {
	for _, s := range p.subs {
		f(s)
	}
}

func (s *subscriber) pause()  { s.conn.Pause() }
func (s *subscriber) resume() { s.conn.Resume() }
