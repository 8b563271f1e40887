package bus

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// PeerSpec names an instance that cannot be found in the run directory.
type PeerSpec struct {
	Name  string
	Inbox string // spec
	Pub   string // spec; without it nothing that the peer publishes is received
}

// Options says how a node is reached and how it finds others.
type Options struct {
	Name string // "proxy.0": kind, dot, number
	// Dir is the run directory. The node binds <Dir>/<Prefix><Name>.in and .pub
	// there, and takes every such socket of another name for a peer.
	Dir    string
	Prefix string
	// ListenInbox and ListenPub are specs that take the place of those sockets.
	ListenInbox, ListenPub string
	Peers                  []PeerSpec // beside those in Dir

	MaxMessage int           // bytes of one frame with its envelope; 16 MiB
	QueueBytes int           // bytes queued or not yet acknowledged, for each peer; 64 MiB
	Heartbeat  time.Duration // 1 s
	GiveUp     time.Duration // a peer is down after this long without a sign of life; 10 s
	FileMode   fs.FileMode   // of the ipc sockets; 0 leaves it to the umask

	Logger     *slog.Logger          // nil is silent
	Registerer prometheus.Registerer // nil registers nothing
}

const (
	tick        = 100 * time.Millisecond // how often the node looks around
	ackDelay    = 20 * time.Millisecond  // longest time that a frame goes unacknowledged
	ackBytes    = 256 << 10              // or this many bytes of frames
	helloGap    = 100 * time.Millisecond // between hellos that are not answers
	refusedDown = 500 * time.Millisecond // a peer is down when dialling is refused for this long
	farewell    = 500 * time.Millisecond // for queues to be written when Run ends
	maxPeers    = 1024
	scanAgain   = time.Second // a directory that changed this recently may change within the same mtime
)

// largeFrame is the size from which on frames are handed on as parts of their
// message. Copying bodies would cost more than it saves: a message has 32 such
// frames at most, of the same kind as a rule, so that they are kept or forgotten
// together.
const largeFrame = 8 << 10

// Topics on PUB.
const (
	topicHeartbeat = "h"
	topicUser      = "u" // followed by the topic of Publish
)

// Node is one instance's end of the bus.
type Node struct {
	// Set once.
	opt    Options
	boot   uint64
	since  uint64 // when that was, in nanoseconds
	log    *slog.Logger
	m      *nodeMetrics
	lock   *os.File // nil without a run directory
	inbox  *Pull
	pub    *Pub
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	events chan broadcastEvent // sent to by the pumps of the SUB sockets, never closed

	peers   atomic.Pointer[map[string]*peer] // the map is replaced, never changed
	started atomic.Bool
	ended   atomic.Bool
	epochs  atomic.Uint64
	pubSeq  atomic.Uint64
	wg      sync.WaitGroup // senders and pumps
	done    chan struct{}  // closed when Run has returned
	closing sync.Once

	// Owned by the dispatcher, which is the goroutine of Run.
	r         Receiver
	dec       *decoder
	scanned   time.Time // mtime of Dir at the last scan
	blind     bool      // the last scan failed
	lastTick  time.Time
	lastBeat  time.Time
	speakers  map[*peerConn]speaker // connections at the inbox over which a peer spoke
	ackTimer  *time.Timer
	ackSoon   []*peer         // for which the timer runs
	stopping  chan struct{}   // closed when Run has begun to end
	senderCtx context.Context // ends when senders must
	endSender context.CancelFunc
}

var _ Bus = (*Node)(nil)

type broadcastEvent struct {
	p     *peer
	parts [][]byte
}

// New takes the name and binds the sockets. The node talks to nobody before Run.
// Close must be called in the end.
func New(o Options) (*Node, error) {
	if !validName(o.Name) {
		return nil, fmt.Errorf("bus: name %q: want a kind and a number, such as proxy.0", o.Name)
	}
	if o.Dir == "" && (o.ListenInbox == "" || o.ListenPub == "") {
		return nil, errors.New("bus: without a run directory, inbox and pub specs are needed")
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.Heartbeat, time.Second)
	def(&o.GiveUp, 10*time.Second)
	if o.MaxMessage <= 0 {
		o.MaxMessage = 16 << 20
	}
	if o.QueueBytes <= 0 {
		o.QueueBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		opt: o, boot: newBoot(), since: uint64(time.Now().UnixNano()), log: o.Logger.With("bus", o.Name), dec: newDecoder(),
		events: make(chan broadcastEvent, 256), speakers: make(map[*peerConn]speaker),
		stopping: make(chan struct{}), done: make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.senderCtx, n.endSender = context.WithCancel(n.ctx)
	n.peers.Store(&map[string]*peer{})
	if err := n.bind(); err != nil {
		_ = n.Close()
		return nil, err
	}
	return n, nil
}

func newBoot() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if boot := binary.LittleEndian.Uint64(b[:]); boot != 0 {
			return boot
		}
	}
}

func (n *Node) bind() (err error) {
	if n.m, err = newNodeMetrics(n.opt.Registerer); err != nil {
		return err
	}
	inbox, pub := n.opt.ListenInbox, n.opt.ListenPub
	if n.opt.Dir != "" {
		if err := os.MkdirAll(n.opt.Dir, 0o700); err != nil {
			return fmt.Errorf("bus: run directory: %w", err)
		}
		if n.lock, err = lockInstance(n.opt.Dir, n.opt.Prefix+n.opt.Name+".lock", n.opt.Name); err != nil {
			return err
		}
		n.since = startTime(n.lock, time.Now())
		if inbox == "" {
			inbox = n.socketIn(n.opt.Name)
		}
		if pub == "" {
			pub = n.socketPub(n.opt.Name)
		}
	}
	limits := Limits{
		MaxMessage:   n.opt.MaxMessage,
		RecvMessages: 128,
		RecvBytes:    max(2*n.opt.MaxMessage, 32<<20),
		Stall:        3 * n.opt.GiveUp,
	}
	// The peers look for the inbox first, so it is bound last.
	n.pub, err = NewPub(SocketOptions{
		Name: "bus-pub", Bind: []string{pub}, FileMode: n.opt.FileMode, Limits: limits,
		Logger: n.log, Registerer: n.opt.Registerer,
	})
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	n.inbox, err = NewPull(SocketOptions{
		Name: "bus-inbox", Bind: []string{inbox}, FileMode: n.opt.FileMode, Limits: limits,
		Logger: n.log, Registerer: n.opt.Registerer, ends: true,
	})
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	for _, s := range n.opt.Peers {
		if !validName(s.Name) {
			return fmt.Errorf("bus: peer name %q: want a kind and a number, such as proxy.0", s.Name)
		}
		for _, spec := range []string{s.Inbox, s.Pub} {
			if _, _, err := parseSpec(spec); err != nil && (spec == s.Inbox || spec != "") {
				return fmt.Errorf("bus: peer %s: %w", s.Name, err)
			}
		}
	}
	return nil
}

func (n *Node) socketIn(name string) string {
	return "ipc://" + filepath.Join(n.opt.Dir, n.opt.Prefix+name+inSuffix)
}

func (n *Node) socketPub(name string) string {
	return "ipc://" + filepath.Join(n.opt.Dir, n.opt.Prefix+name+".pub")
}

const inSuffix = ".in"

// Name implements Bus.
func (n *Node) Name() string { return n.opt.Name }

// Boot implements Bus.
func (n *Node) Boot() uint64 { return n.boot }

// Endpoints returns the specs of the inbox and of the PUB socket, with the real
// port where 0 was asked for.
func (n *Node) Endpoints() (inbox, pub string) {
	for _, e := range n.inbox.Endpoints() {
		inbox = e
	}
	for _, e := range n.pub.Endpoints() {
		pub = e
	}
	return inbox, pub
}

// Send implements Bus.
func (n *Node) Send(to string, b []byte) error {
	if len(b) > n.opt.MaxMessage-envelopeRoom {
		return fmt.Errorf("%w: %d bytes, allowed are %d", ErrTooLarge, len(b), n.opt.MaxMessage-envelopeRoom)
	}
	p := (*n.peers.Load())[to]
	if p == nil {
		return fmt.Errorf("%w: %s", ErrNoPeer, to)
	}
	return p.send(b, n.opt.QueueBytes)
}

// Written implements Bus.
func (n *Node) Written(to string) <-chan struct{} {
	p := (*n.peers.Load())[to]
	if p == nil {
		return nil
	}
	return p.awaitWritten()
}

// Publish implements Bus.
func (n *Node) Publish(topic string, b []byte) {
	if n.ended.Load() {
		return
	}
	// What does not fit or finds the queue full is lost, as it may be.
	_ = n.pub.Send([]byte(topicUser+topic), encodeBroadcast(n.opt.Name, n.boot, n.pubSeq.Add(1), b))
}

// Peers implements Bus.
func (n *Node) Peers(kind string) []Peer {
	var out []Peer
	for _, p := range *n.peers.Load() {
		if Kind(p.name) != kind {
			continue
		}
		p.mu.Lock()
		if p.up {
			out = append(out, p.id())
		}
		p.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Expected implements Bus.
func (n *Node) Expected(kind string) []string {
	var out []string
	for name, p := range *n.peers.Load() {
		if Kind(name) != kind || time.Since(p.since) >= n.opt.GiveUp {
			continue
		}
		p.mu.Lock()
		if !p.up && p.refusedSince.IsZero() {
			out = append(out, name)
		}
		p.mu.Unlock()
	}
	slices.Sort(out)
	return out
}

// Ended implements Bus.
func (n *Node) Ended(id Peer) bool {
	p := (*n.peers.Load())[id.Name]
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.boot != id.Boot || !p.up && !p.refusedSince.IsZero() && time.Since(p.refusedSince) >= refusedDown
}

// Close ends the node at once: what is queued is lost, as if the process had
// died. It releases the name and waits for all goroutines. After an orderly end
// of Run it only tidies up. It waits for Run, so it must not be called by the
// receiver. It is safe to call twice.
func (n *Node) Close() (err error) {
	n.closing.Do(func() {
		n.ended.Store(true)
		n.cancel()
		if n.started.Swap(true) {
			<-n.done
		}
		var errs []error
		if n.inbox != nil {
			errs = append(errs, n.inbox.Close())
		}
		if n.pub != nil {
			errs = append(errs, n.pub.Close())
		}
		if n.lock != nil {
			errs = append(errs, n.lock.Close())
		}
		err = errors.Join(errs...)
	})
	return err
}

// Run implements Bus. When ctx ends it refuses further frames, takes up to half
// a second to write those that are queued, says goodbye to its peers and returns
// nil. It can be called once.
func (n *Node) Run(ctx context.Context, r Receiver) error {
	if n.started.Swap(true) {
		if n.ended.Load() {
			return ErrClosed
		}
		return errors.New("bus: Run called twice")
	}
	defer close(n.done)
	n.r = r
	n.ackTimer = time.NewTimer(ackDelay)
	n.ackTimer.Stop()
	defer n.ackTimer.Stop()
	defer n.stop()

	now := time.Now()
	n.lastTick = now
	for _, s := range n.opt.Peers {
		n.add(s.Name, s.Inbox, s.Pub, now).static = true
	}
	n.lookAround(now)
	clock := time.NewTicker(tick)
	defer clock.Stop()
	for {
		select {
		case m := <-n.inbox.in:
			n.inbox.took(m)
			n.receive(m)
		case ev := <-n.events:
			n.broadcast(ev)
		case now := <-clock.C:
			n.lookAround(now)
		case <-n.ackTimer.C:
			n.acknowledge()
		case <-ctx.Done():
			return nil
		case <-n.ctx.Done():
			return ErrClosed
		}
	}
}

// stop ends the senders: first in order, then by force.
func (n *Node) stop() {
	n.ended.Store(true)
	close(n.stopping)
	for _, p := range *n.peers.Load() {
		p.mu.Lock()
		p.byeDue = true
		if p.up {
			p.m.up.Dec()
		}
		p.signal()
		p.mu.Unlock()
		p.dialNow() // if it waits to dial, to see that it need not
	}
	force := time.AfterFunc(farewell, n.endSender)
	defer force.Stop()
	for _, p := range *n.peers.Load() {
		if p.sub != nil {
			_ = p.sub.Close()
		}
	}
	n.wg.Wait()
	n.endSender()
	for _, p := range *n.peers.Load() {
		p.mu.Lock()
		p.release(math.MaxUint64) // it will not be
		p.mu.Unlock()
	}
}

// receive handles one message of the inbox.
func (n *Node) receive(m message) {
	if len(m.parts) == 0 {
		n.hungUp(m.from)
		return
	}
	if len(m.parts) != 1 {
		n.malformed(m, fmt.Errorf("%w: %d parts", errMalformed, len(m.parts)))
		return
	}
	e, err := n.dec.decode(m.parts[0])
	if err != nil {
		n.malformed(m, err)
		return
	}
	now := n.lastTick // exact enough, and free
	p := (*n.peers.Load())[e.From]
	if p == nil {
		if p = n.stranger(&e, now); p == nil {
			return
		}
	}
	if e.FromBoot != p.boot && n.speaks(p) {
		if e.Kind == kindHello {
			if p.heir == nil {
				p.heirSince = now
			}
			p.heir = &m
		}
		return
	}
	if s := (speaker{p, e.FromBoot}); n.speakers[m.from] != s {
		n.speakers[m.from] = s
	}
	if e.Kind == kindHello {
		n.learn(p, &e, m.from.remote)
	}
	c := p.handle(&e, n.boot, now)
	if c.gap {
		// On its next connection it will begin with what we have not acknowledged.
		p.m.missing.Inc()
		m.from.close()
	}
	if c.dial {
		p.dialNow()
	}
	n.tell(p, &c, len(m.parts[0]))
}

// speaker is whose words came over a connection.
type speaker struct {
	p    *peer
	boot uint64
}

// speaks reports whether the boot of p that we know may still have something to
// say: one that was killed has written frames that we have yet to read, perhaps.
// Its successor has to wait until then, or they would count as left over. A
// process that dies closes its connections, so that does not take long.
func (n *Node) speaks(p *peer) bool {
	for _, s := range n.speakers {
		if s.p == p && s.boot == p.boot && p.boot != 0 {
			return true
		}
	}
	return false
}

// hungUp is called when all of a connection has been received.
func (n *Node) hungUp(c *peerConn) {
	s, ok := n.speakers[c]
	delete(n.speakers, c)
	if ok {
		n.succeed(s.p)
		return
	}
	for _, p := range *n.peers.Load() {
		if p.heir != nil && p.heir.from == c {
			p.heir = nil // it will say hello again, if it lives
		}
	}
}

// succeed lets the successor of a boot speak, if that one is silent.
func (n *Node) succeed(p *peer) {
	if p.heir == nil || n.speaks(p) {
		return
	}
	m := *p.heir
	p.heir = nil
	n.receive(m)
}

func (n *Node) malformed(m message, err error) {
	n.m.malformed.Inc()
	n.log.Warn("message at the inbox", "remote", m.from.remote.String(), "err", err)
	m.from.close()
}

// tell passes a change on to the receiver.
func (n *Node) tell(p *peer, c *change, size int) {
	if c.down.Boot != 0 {
		n.down(p, c.down, c.why)
	}
	if c.up.Boot != 0 {
		n.log.Info("peer up", "peer", p.name, "boot", c.up.Boot)
		p.m.up.Inc()
		n.r.PeerUp(c.up)
	}
	if c.ackNow && !p.ackWait {
		p.ackWait = true
		if len(n.ackSoon) == 0 {
			n.ackTimer.Reset(ackDelay)
		}
		n.ackSoon = append(n.ackSoon, p)
	}
	bytes := 0
	for _, f := range c.frames {
		bytes += len(f)
	}
	p.m.framesIn.Add(float64(len(c.frames)))
	p.m.bytesIn.Add(float64(bytes))
	for _, f := range c.frames {
		if len(f) < largeFrame && 2*len(f) < size {
			// The receiver may keep it, and must not keep the whole message.
			f = slices.Clone(f)
		}
		n.r.Receive(c.from, f)
	}
}

func (n *Node) down(p *peer, id Peer, why string) {
	n.log.Info("peer down", "peer", p.name, "boot", id.Boot, "reason", why)
	p.m.up.Dec()
	p.m.downs.WithLabelValues(why).Inc()
	n.r.PeerDown(id)
}

// acknowledge makes the senders acknowledge what they could not do in passing.
func (n *Node) acknowledge() {
	for i, p := range n.ackSoon {
		p.ackWait = false
		p.mu.Lock()
		if p.up && p.unacked > 0 {
			p.ackDue = true
			p.signal()
		}
		p.mu.Unlock()
		n.ackSoon[i] = nil
	}
	n.ackSoon = n.ackSoon[:0]
}

// broadcast handles what a peer published.
func (n *Node) broadcast(ev broadcastEvent) {
	if len(ev.parts) != 2 {
		return
	}
	b, err := n.dec.broadcast(ev.parts[1])
	p := ev.p
	if err != nil || b.from != p.name {
		return
	}
	now := n.lastTick
	p.mu.Lock()
	up := p.up
	if b.boot != p.boot || !p.up {
		// A boot that we have not talked to.
		p.sayHello(now, false)
		p.mu.Unlock()
		return
	}
	id := p.id()
	p.mu.Unlock()
	p.lastSeen, p.gapCounted = now, false
	if p.lastPub != 0 && b.seq > p.lastPub+1 {
		p.m.lost.Add(float64(b.seq - p.lastPub - 1))
	}
	p.lastPub = b.seq
	if topic, ok := strings.CutPrefix(string(ev.parts[0]), topicUser); ok && up {
		n.r.Broadcast(id, topic, b.payload)
	}
}

// lookAround does what is done once in a while: heartbeat, discovery, giving up.
func (n *Node) lookAround(now time.Time) {
	if late := now.Sub(n.lastTick) - tick; late > 2*tick {
		// We did not run for a while. That is no reason to give up others.
		for _, p := range *n.peers.Load() {
			p.lastSeen = p.lastSeen.Add(late)
			p.mu.Lock()
			p.progress = p.progress.Add(late)
			p.mu.Unlock()
		}
	}
	n.lastTick = now
	if now.Sub(n.lastBeat) >= n.opt.Heartbeat {
		n.lastBeat = now
		_ = n.pub.Send([]byte(topicHeartbeat), encodeBroadcast(n.opt.Name, n.boot, n.pubSeq.Add(1), nil))
	}
	n.scan(now)
	for _, p := range *n.peers.Load() {
		n.check(p, now)
	}
	n.gauge()
}

// gauge sets the queue lengths, summed by kind.
func (n *Node) gauge() {
	type sum struct {
		m             *linkMetrics
		frames, bytes int
	}
	kinds := make(map[string]sum)
	for _, p := range *n.peers.Load() {
		s := kinds[Kind(p.name)]
		p.mu.Lock()
		s.m, s.frames, s.bytes = p.m, s.frames+p.out.kept(), s.bytes+p.out.bytes
		p.mu.Unlock()
		kinds[Kind(p.name)] = s
	}
	for _, s := range kinds {
		s.m.queueFrames.Set(float64(s.frames))
		s.m.queueBytes.Set(float64(s.bytes))
	}
}
