package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast/holdfast/pkg/loglimit"
)

// Limits bounds what a socket takes from its peers and keeps for them. A zero
// field has the default.
type Limits struct {
	MaxMessage   int           // bytes of one message, all parts together; 1 MiB
	MaxConns     int           // connections at a time; 1024
	RecvMessages int           // messages received and not yet taken by Recv; 1024
	RecvBytes    int           // their bytes, and again those of large messages being received; 32 MiB
	SendBytes    int           // bytes waiting to be sent to one peer; 8 MiB. A ROUTER keeps four times that for all
	Subscribed   int           // bytes of the topics that a PUB remembers for one peer; 64 KiB
	Handshake    time.Duration // from connected to ready; 5 s
	Stall        time.Duration // longest pause within a message, either way; 30 s
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.MaxMessage, 1<<20)
	def(&l.MaxConns, 1024)
	def(&l.RecvMessages, 1024)
	def(&l.RecvBytes, 32<<20)
	def(&l.SendBytes, 8<<20)
	def(&l.Subscribed, 64<<10)
	if l.Handshake <= 0 {
		l.Handshake = 5 * time.Second
	}
	if l.Stall <= 0 {
		l.Stall = 30 * time.Second
	}
	return l
}

// SocketOptions says what a socket binds and connects to. Specs are those of
// ZeroMQ: ipc://PATH, tcp://HOST:PORT, tcp://*:PORT.
type SocketOptions struct {
	Name       string      // for logs and metrics: "publish-pull"
	Bind       []string    // one listener each
	Connect    []string    // one connection each, made again for ever when it breaks
	Identity   string      // what peers see, if they care
	FileMode   fs.FileMode // of bound ipc sockets; 0 leaves it to the umask
	Limits     Limits
	Logger     *slog.Logger          // nil is silent
	Registerer prometheus.Registerer // nil registers nothing

	ends bool // a message without parts follows the last one of a connection
}

// socket is what all kinds of socket have in common: connections that come and
// go, each with a reader and, if the kind sends, a writer of its own, so that no
// peer can hold up another. It lives from its constructor to Close, which waits
// for all of its goroutines.
type socket struct {
	// Set once.
	typ    zmq4.SocketType
	opt    SocketOptions
	log    *slog.Logger
	warned loglimit.Limit
	m      *socketMetrics
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	in     chan message        // sent to by readers, never closed; its size is Limits.RecvMessages
	room   *semaphore.Weighted // Limits.RecvBytes, of messages that were received
	large  *semaphore.Weighted // the same, of those that are being received
	out    chan [][]byte       // PUSH, DEALER: taken by whichever writer is free; sent to by Send, never closed
	unsent atomic.Int64        // messages that went into out and are not yet written
	// waiting is the bytes in the queues of all connections, and being written.
	waiting atomic.Int64
	sends   bool
	// opened, if set, is called with mu held when a connection is added.
	opened func(*peerConn)
	// closed, if set, is called with mu held when a connection is removed.
	closed func(*peerConn)
	// arrived, if set, takes a message that is not for Recv.
	arrived func(*peerConn, [][]byte) bool

	wg sync.WaitGroup

	mu        sync.Mutex
	shut      bool
	listeners []net.Listener
	opening   map[net.Conn]bool // in their handshake
	conns     map[*peerConn]bool
}

type message struct {
	parts [][]byte
	size  int
	from  *peerConn
}

// peerConn is one connection of a socket.
type peerConn struct {
	*conn
	id    string   // ROUTER
	subs  prefixes // PUB: what the peer subscribed to; guarded by mu
	queue sendQueue
	done  chan struct{} // closed when the reader has ended
}

func newSocket(typ zmq4.SocketType, o SocketOptions, sends bool) (*socket, error) {
	o.Limits = o.Limits.withDefaults()
	m, err := newSocketMetrics(o.Registerer, o.Name)
	if err != nil {
		return nil, err
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &socket{
		typ: typ, opt: o, m: m, sends: sends,
		log:     log.With("socket", o.Name),
		in:      make(chan message, o.Limits.RecvMessages),
		room:    semaphore.NewWeighted(int64(o.Limits.RecvBytes)),
		large:   semaphore.NewWeighted(int64(max(o.Limits.RecvBytes, o.Limits.MaxMessage))),
		opening: make(map[net.Conn]bool),
		conns:   make(map[*peerConn]bool),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// start binds and connects. If a bind fails, nothing is left open.
func (s *socket) start() error {
	for _, spec := range s.opt.Bind {
		l, err := listen(spec, s.opt.FileMode)
		if err != nil {
			_ = s.Close()
			return err
		}
		s.listeners = append(s.listeners, l)
		s.wg.Go(func() { s.accept(l) })
	}
	for _, spec := range s.opt.Connect {
		if _, _, err := parseSpec(spec); err != nil {
			_ = s.Close()
			return err
		}
		s.wg.Go(func() { s.connect(spec) })
	}
	return nil
}

// Endpoints returns what the socket is bound to, as specs, with the real port
// where 0 or * was asked for.
func (s *socket) Endpoints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, l := range s.listeners {
		out = append(out, specOf(l.Addr()))
	}
	return out
}

// Conns returns the number of connections that are open and ready.
func (s *socket) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Close closes the listeners and all connections and waits until every goroutine
// of the socket has ended. It is safe to call twice.
func (s *socket) Close() error {
	s.cancel()
	s.mu.Lock()
	s.shut = true
	var errs []error
	if s.listeners != nil {
		for _, l := range s.listeners {
			errs = append(errs, l.Close())
		}
		s.listeners = nil
	}
	for nc := range s.opening {
		_ = nc.Close()
	}
	for c := range s.conns {
		c.close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return errors.Join(errs...)
}

func (s *socket) accept(l net.Listener) {
	delay := backoff{min: 5 * time.Millisecond, max: time.Second}
	for {
		nc, err := l.Accept()
		if s.ctx.Err() != nil {
			if err == nil {
				_ = nc.Close()
			}
			return
		}
		if err != nil {
			// Out of file descriptors, most likely; others may be closing theirs.
			s.log.Warn("accept", "err", err)
			if !delay.sleep(s.ctx, nil) {
				return
			}
			continue
		}
		delay.reset()
		if !s.admit(nc, true) {
			continue
		}
		s.wg.Go(func() { s.handshake(nc, true) })
	}
}

// connect keeps one connection to spec.
func (s *socket) connect(spec string) {
	delay := backoff{min: 50 * time.Millisecond, max: 2 * time.Second}
	for {
		nc, err := dial(s.ctx, spec, s.opt.Limits.Handshake)
		if err == nil && s.admit(nc, false) && s.handshake(nc, false) {
			delay.reset()
		}
		if !delay.sleep(s.ctx, nil) {
			return
		}
	}
}

// admit enters nc among the connections in their handshake.
func (s *socket) admit(nc net.Conn, bound bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := bound && len(s.opening)+len(s.conns) >= s.opt.Limits.MaxConns
	if s.shut || full {
		_ = nc.Close()
		if full {
			s.m.refused.WithLabelValues(refuseTooMany).Inc()
		}
		return false
	}
	s.opening[nc] = true
	return true
}

// limits are those of a connection.
func (s *socket) limits() connLimits {
	l := s.opt.Limits
	return connLimits{maxMessage: l.MaxMessage, handshake: l.Handshake, stall: l.Stall, reserve: s.reserve, release: s.release}
}

var errNoRoom = fmt.Errorf("%w: no room for its message beside those that others are sending", errPeerFault)

// reserve waits until n bytes may be received. Whoever has announced a large
// message and does not send it keeps other large ones waiting, but not for longer
// than a peer may pause.
func (s *socket) reserve(n int) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.Limits.Stall)
	defer cancel()
	if s.large.Acquire(ctx, int64(n)) != nil {
		return errNoRoom
	}
	return nil
}

func (s *socket) release(n int) { s.large.Release(int64(n)) }

// handshake makes nc a connection of the socket and serves it to its end. It
// reports whether it ever was one.
func (s *socket) handshake(nc net.Conn, server bool) bool {
	zc, err := openConn(nc, s.typ, s.opt.Identity, server, s.limits())
	s.mu.Lock()
	delete(s.opening, nc)
	if err != nil || s.shut {
		shut := s.shut
		s.mu.Unlock()
		if err == nil {
			zc.close()
		} else if !shut {
			s.m.refused.WithLabelValues(refuseHandshake).Inc()
			s.log.Debug("handshake", "remote", nc.RemoteAddr().String(), "err", err)
		}
		return false
	}
	c := &peerConn{conn: zc, done: make(chan struct{})}
	c.queue.init(s.opt.Limits.SendBytes, &s.waiting)
	s.conns[c] = true
	s.m.conns.Inc()
	if s.opened != nil {
		s.opened(c)
	}
	s.mu.Unlock()
	s.serve(c)
	return true
}

// serve reads from c until it ends, beside its writer, and removes it.
func (s *socket) serve(c *peerConn) {
	var writer sync.WaitGroup
	if s.sends {
		writer.Go(func() { s.write(c) })
	}
	err := s.read(c)
	if s.opt.ends {
		select {
		case s.in <- message{from: c}:
		case <-s.ctx.Done():
		}
	}
	close(c.done)
	c.close()
	writer.Wait()

	s.mu.Lock()
	delete(s.conns, c)
	if s.closed != nil {
		s.closed(c)
	}
	s.mu.Unlock()
	s.m.conns.Dec()
	if errors.Is(err, errPeerFault) {
		s.m.refused.WithLabelValues(refuseProtocol).Inc()
		s.warn("connection closed", "remote", c.remote.String(), "err", err)
	}
}

// warn logs what strangers may cause as often as they like: once a second, with
// the number of lines that were left out.
func (s *socket) warn(text string, args ...any) {
	if skipped, ok := s.warned.Allow(time.Now()); ok {
		s.log.Warn(text, append(args, "not_logged", skipped)...)
	}
}

func (s *socket) read(c *peerConn) error {
	messages, bytes := s.m.messages.WithLabelValues("in"), s.m.bytes.WithLabelValues("in")
	defer c.received()
	for {
		c.received()
		parts, err := c.recv()
		if err != nil {
			return err
		}
		m := message{parts: parts, size: sizeOf(parts), from: c}
		messages.Inc()
		bytes.Add(float64(m.size))
		if s.arrived != nil && s.arrived(c, parts) {
			continue
		}
		// Nobody takes them as fast as they come: stop reading this peer.
		m.size = min(m.size, s.opt.Limits.RecvBytes)
		if err := s.room.Acquire(s.ctx, int64(m.size)); err != nil {
			return err
		}
		select {
		case s.in <- m:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

func sizeOf(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p) + partOverhead
	}
	return n
}

// recv takes the next message of any peer.
func (s *socket) recv(ctx context.Context) (message, error) {
	select {
	case m := <-s.in:
		s.took(m)
		return m, nil
	case <-ctx.Done():
		return message{}, ctx.Err()
	case <-s.ctx.Done():
		return message{}, ErrClosed
	}
}

// took gives back the room of a message that was taken from in.
func (s *socket) took(m message) { s.room.Release(int64(m.size)) }

// write sends what is queued for c, and what is queued for any peer, until c
// ends.
func (s *socket) write(c *peerConn) {
	defer c.close() // so that the reader ends too
	messages, bytes := s.m.messages.WithLabelValues("out"), s.m.bytes.WithLabelValues("out")
	for {
		c.queue.wrote()
		batch := c.queue.take()
		if len(batch) == 0 {
			select {
			case <-c.queue.wake:
				continue
			case m := <-s.out:
				batch = s.more([][][]byte{m})
			case <-c.done:
				s.m.dropped.WithLabelValues(dropBroken).Add(float64(c.queue.shut()))
				return
			}
		}
		size, err := 0, error(nil)
		for _, m := range batch {
			if err = c.send(m...); err != nil {
				break
			}
			size += sizeOf(m)
		}
		if err == nil {
			err = c.flush()
		}
		if s.out != nil {
			s.unsent.Add(-int64(len(batch)))
		}
		if err != nil {
			s.m.dropped.WithLabelValues(dropBroken).Add(float64(len(batch) + c.queue.shut()))
			return
		}
		messages.Add(float64(len(batch)))
		bytes.Add(float64(size))
	}
}

// more adds to batch what is waiting in out, as much as goes in one write.
func (s *socket) more(batch [][][]byte) [][][]byte {
	for len(batch) < 64 {
		select {
		case m := <-s.out:
			batch = append(batch, m)
		default:
			return batch
		}
	}
	return batch
}

// sendQueue holds what waits for one peer, bounded in bytes.
type sendQueue struct {
	wake chan struct{} // sent to by push, never closed; one pending signal is enough
	all  *atomic.Int64 // bytes of all queues of the socket

	mu      sync.Mutex
	msgs    [][][]byte
	bytes   int
	writing int // bytes that were taken and are not yet written
	limit   int
	over    bool // the connection has ended
}

func (q *sendQueue) init(limit int, all *atomic.Int64) {
	q.wake, q.limit, q.all = make(chan struct{}, 1), limit, all
}

// push queues a message, or returns ErrQueueFull. A message for a connection
// that has ended is gone, as it would be a moment before its end.
func (q *sendQueue) push(parts [][]byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	size := sizeOf(parts)
	if q.bytes+size > q.limit {
		return ErrQueueFull
	}
	q.add(parts, size)
	return nil
}

// force queues a message whatever the bound.
func (q *sendQueue) force(parts [][]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(parts, sizeOf(parts))
}

func (q *sendQueue) add(parts [][]byte, size int) {
	if q.over {
		return
	}
	q.msgs = append(q.msgs, parts)
	q.bytes += size
	q.all.Add(int64(size))
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes all messages.
func (q *sendQueue) take() [][][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.msgs
	q.msgs, q.bytes, q.writing = nil, 0, q.writing+q.bytes
	return m
}

// wrote notes that what was taken is written.
func (q *sendQueue) wrote() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all.Add(-int64(q.writing))
	q.writing = 0
}

// waits returns how many bytes are not yet written.
func (q *sendQueue) waits() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes + q.writing
}

// shut ends the queue and returns how many messages were in it.
func (q *sendQueue) shut() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.msgs)
	q.all.Add(-int64(q.bytes + q.writing))
	q.msgs, q.bytes, q.writing, q.over = nil, 0, 0, true
	return n
}

// prefixes is a set of subscriptions.
type prefixes struct {
	set   map[string]struct{}
	lens  map[int]int // how many of each length
	bytes int
}

// add returns false if it is there already.
func (p *prefixes) add(s string) bool {
	if _, ok := p.set[s]; ok {
		return false
	}
	if p.set == nil {
		p.set, p.lens = make(map[string]struct{}), make(map[int]int)
	}
	p.set[s] = struct{}{}
	p.lens[len(s)]++
	p.bytes += len(s) + partOverhead
	return true
}

// remove returns false if it is not there.
func (p *prefixes) remove(s string) bool {
	if _, ok := p.set[s]; !ok {
		return false
	}
	delete(p.set, s)
	if p.lens[len(s)]--; p.lens[len(s)] == 0 {
		delete(p.lens, len(s))
	}
	p.bytes -= len(s) + partOverhead
	return true
}

// match reports whether topic begins with one of the set.
func (p *prefixes) match(topic []byte) bool {
	for n := range p.lens {
		if n <= len(topic) {
			if _, ok := p.set[string(topic[:n])]; ok {
				return true
			}
		}
	}
	return false
}

// sorted returns the set in order, so that runs are alike.
func (p *prefixes) sorted() []string {
	out := make([]string, 0, len(p.set))
	for s := range p.set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// backoff is a delay that doubles, with jitter so that instances do not move in
// step.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// sleep waits for the delay, for a signal on kick, or for the end of ctx, of
// which it returns false.
func (b *backoff) sleep(ctx context.Context, kick <-chan struct{}) bool {
	b.next = min(max(2*b.next, b.min), b.max)
	t := time.NewTimer(b.next/2 + rand.N(b.next/2+1)) //nolint:gosec // jitter, no secret
	defer t.Stop()
	select {
	case <-t.C:
	case <-kick:
	case <-ctx.Done():
		return false
	}
	return true
}

var errNoParts = errors.New("bus: a message has at least one part")

// check refuses what a peer with our limits would refuse.
func (s *socket) check(parts [][]byte) error {
	if len(parts) == 0 {
		return errNoParts
	}
	if n := sizeOf(parts); n > s.opt.Limits.MaxMessage+partOverhead {
		return fmt.Errorf("%w: %d bytes, allowed are %d", ErrTooLarge, n, s.opt.Limits.MaxMessage)
	}
	return nil
}
