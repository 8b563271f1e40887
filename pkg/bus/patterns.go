package bus

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/go-zeromq/zmq4"
)

// The sockets below are for the public interfaces: they speak to libzmq and its
// relatives. Each lives from its constructor to Close. A peer that comes, goes,
// is silent or sends garbage concerns its own connection only: Recv fails only
// when its ctx ends or the socket is closed (ErrClosed).

func started[T any](v *T, s *socket) (*T, error) {
	if err := s.start(); err != nil {
		return nil, err
	}
	return v, nil
}

// Pull receives from PUSH peers.
type Pull struct{ *socket }

// NewPull binds and connects a PULL socket.
func NewPull(o SocketOptions) (*Pull, error) {
	s, err := newSocket(zmq4.Pull, o, false)
	if err != nil {
		return nil, err
	}
	return started(&Pull{s}, s)
}

// Recv returns the parts of the next message. While nobody calls it, peers are
// not read once Limits.RecvMessages or RecvBytes are reached.
func (p *Pull) Recv(ctx context.Context) ([][]byte, error) {
	m, err := p.recv(ctx)
	return m.parts, err
}

// Push sends to PULL peers, each message to one that has room.
type Push struct{ *sharedSender }

// NewPush binds and connects a PUSH socket.
func NewPush(o SocketOptions) (*Push, error) {
	s, err := newSocket(zmq4.Push, o, true)
	if err != nil {
		return nil, err
	}
	return started(&Push{share(s)}, s)
}

// Dealer sends to and receives from ROUTER, REP and DEALER peers.
type Dealer struct{ *sharedSender }

// NewDealer binds and connects a DEALER socket.
func NewDealer(o SocketOptions) (*Dealer, error) {
	s, err := newSocket(zmq4.Dealer, o, true)
	if err != nil {
		return nil, err
	}
	return started(&Dealer{share(s)}, s)
}

// Recv returns the parts of the next message.
func (d *Dealer) Recv(ctx context.Context) ([][]byte, error) {
	m, err := d.recv(ctx)
	return m.parts, err
}

// sharedSender is a socket whose peers share one queue: whichever is free takes
// the next message.
type sharedSender struct {
	*socket
}

func share(s *socket) *sharedSender {
	s.out = make(chan [][]byte)
	return &sharedSender{s}
}

// Send hands the message to the writer of a peer; it waits until there is a peer
// with room, ctx ends or the socket is closed. The parts belong to the socket
// from then on. A message that was handed over is lost if that connection breaks
// before it is written.
func (p *sharedSender) Send(ctx context.Context, parts ...[]byte) error {
	if err := p.check(parts); err != nil {
		return err
	}
	p.unsent.Add(1)
	select {
	case p.out <- parts:
		return nil
	case <-ctx.Done():
		p.unsent.Add(-1)
		return ctx.Err()
	case <-p.ctx.Done():
		p.unsent.Add(-1)
		return ErrClosed
	}
}

// Flush waits until what was handed over by Send is written or lost. Close does
// not wait for that.
func (p *sharedSender) Flush(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.unsent.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Sub receives what PUB and XPUB peers publish on the topics that it subscribed
// to. Peers filter; what a peer sends unasked is not filtered again.
type Sub struct {
	*socket
	topics prefixes // guarded by mu
}

// NewSub binds and connects a SUB socket.
func NewSub(o SocketOptions) (*Sub, error) {
	s, err := newSocket(zmq4.Sub, o, true)
	if err != nil {
		return nil, err
	}
	sub := &Sub{socket: s}
	// A publisher that connects, now or later, is told all topics. Their number
	// is ours, so the bound of the queue is not for them.
	s.opened = func(c *peerConn) {
		for _, topic := range sub.topics.sorted() {
			c.queue.force(subscription(1, topic))
		}
	}
	return started(sub, s)
}

// Recv returns the parts of the next message, the topic first.
func (s *Sub) Recv(ctx context.Context) ([][]byte, error) {
	m, err := s.recv(ctx)
	return m.parts, err
}

// Subscribe asks all publishers, those that connect later included, for the
// messages whose topic begins with topic. A second time changes nothing.
func (s *Sub) Subscribe(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics.add(topic) {
		s.tell(1, topic)
	}
}

// Unsubscribe takes a Subscribe back. Messages that are under way still arrive.
func (s *Sub) Unsubscribe(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics.remove(topic) {
		s.tell(0, topic)
	}
}

func (s *Sub) tell(op byte, topic string) {
	for c := range s.conns {
		if c.queue.push(subscription(op, topic)) != nil {
			// It does not read. When it comes back it gets the whole list.
			c.close()
		}
	}
}

// subscription is the message of ZMTP 3.0 for it: 1 or 0, then the topic.
func subscription(op byte, topic string) [][]byte {
	return [][]byte{append([]byte{op}, topic...)}
}

// Pub publishes to SUB and XSUB peers.
type Pub struct{ *socket }

// NewPub binds and connects a PUB socket.
func NewPub(o SocketOptions) (*Pub, error) {
	s, err := newSocket(zmq4.Pub, o, true)
	if err != nil {
		return nil, err
	}
	s.arrived = func(c *peerConn, parts [][]byte) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(parts) == 1 && len(parts[0]) > 0 {
			topic := string(parts[0][1:])
			switch parts[0][0] {
			case 0:
				c.subs.remove(topic)
			case 1:
				if c.subs.add(topic); c.subs.bytes > s.opt.Limits.Subscribed {
					s.warn("connection closed", "remote", c.remote.String(), "reason", "too many subscriptions")
					c.close()
				}
			}
		}
		return true
	}
	return started(&Pub{s}, s)
}

// Send sends the parts, the topic first, to each subscriber of it. It never
// blocks: the message is dropped, and counted, for a subscriber whose queue is
// full. The parts belong to the socket from then on.
func (p *Pub) Send(parts ...[]byte) error {
	if err := p.check(parts); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		return ErrClosed
	}
	for c := range p.conns {
		if c.subs.match(parts[0]) && c.queue.push(parts) != nil {
			p.m.dropped.WithLabelValues(dropQueueFull).Inc()
		}
	}
	return nil
}

// Wanted reports whether anybody is subscribed to the topic, so that a message
// that is costly to make need not be made in vain.
func (p *Pub) Wanted(topic []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if c.subs.match(topic) {
			return true
		}
	}
	return false
}

// Router receives from REQ, DEALER and ROUTER peers and answers them by identity.
type Router struct {
	*socket
	byID map[string]*peerConn // guarded by mu
}

var routerIDs atomic.Uint32

// NewRouter binds and connects a ROUTER socket.
func NewRouter(o SocketOptions) (*Router, error) {
	s, err := newSocket(zmq4.Router, o, true)
	if err != nil {
		return nil, err
	}
	r := &Router{socket: s, byID: make(map[string]*peerConn)}
	s.opened = func(c *peerConn) {
		if c.id = c.identity(); c.id == "" {
			// As libzmq does: 0 and four bytes of our own.
			c.id = string(binary.BigEndian.AppendUint32([]byte{0}, routerIDs.Add(1)))
		}
		if old := r.byID[c.id]; old != nil {
			// A peer that came back before we saw it go.
			old.close()
		}
		r.byID[c.id] = c
	}
	s.closed = func(c *peerConn) {
		if r.byID[c.id] == c {
			delete(r.byID, c.id)
		}
	}
	return started(r, s)
}

// Recv returns the next message: the identity of its peer, then its parts.
func (r *Router) Recv(ctx context.Context) ([][]byte, error) {
	m, err := r.recv(ctx)
	if err != nil {
		return nil, err
	}
	return append([][]byte{[]byte(m.from.id)}, m.parts...), nil
}

// Send queues the parts after the first for the peer of which the first is the
// identity. It never blocks: it returns ErrNoPeer if there is no such peer, and
// ErrQueueFull if too much waits for it. The parts belong to the socket from
// then on.
func (r *Router) Send(parts ...[]byte) error {
	if len(parts) == 0 {
		return errNoParts
	}
	id, parts := parts[0], parts[1:]
	if err := r.check(parts); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.byID[string(id)]
	if c == nil {
		r.m.dropped.WithLabelValues(dropNoPeer).Inc()
		return ErrNoPeer
	}
	if err := c.queue.push(parts); err != nil {
		r.m.dropped.WithLabelValues(dropQueueFull).Inc()
		return err
	}
	if r.waiting.Load() > 4*int64(r.opt.Limits.SendBytes) {
		r.endHog()
	}
	return nil
}

// endHog closes the connection whose peer has the most waiting for it: one that
// asks and does not read the answers. mu is held.
func (r *Router) endHog() {
	var hog *peerConn
	most := 0
	for c := range r.conns {
		if n := c.queue.waits(); n > most {
			hog, most = c, n
		}
	}
	if hog != nil {
		r.m.refused.WithLabelValues(refuseHog).Inc()
		r.warn("connection closed", "remote", hog.remote.String(), "reason", "it does not take its answers", "bytes", most)
		hog.close()
	}
}
