// Package bustest is the bus in memory, for tests. It keeps the contract of
// [bus.Bus] and [bus.Receiver] (the same conformance tests run against both) and
// adds what a test wants to do to an instance: kill it, start its next boot,
// pause it, and cut two instances off from each other.
package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/pkg/bus"
)

// DefaultQueueBytes bounds what waits for one instance from one sender.
const DefaultQueueBytes = 64 << 20

// frameOverhead is what a queued frame counts beside its bytes, so that empty
// frames cannot fill the memory.
const frameOverhead = 64

// ErrKilled is returned by Run of an instance that was killed.
var ErrKilled = errors.New("bustest: instance was killed")

// Network joins the nodes made from it. All its methods may be called from any
// goroutine, callbacks of a receiver included.
type Network struct {
	mu         sync.Mutex
	nodes      map[string]*Node // made and not yet stopped
	cut        map[[2]string]bool
	boots      uint64
	sessions   uint64
	queueBytes int
}

// NewNetwork returns an empty network.
func NewNetwork() *Network {
	return &Network{
		nodes:      make(map[string]*Node),
		cut:        make(map[[2]string]bool),
		queueBytes: DefaultQueueBytes,
	}
}

// SetQueueBytes changes the bound of every queue between two instances, to
// provoke bus.ErrQueueFull.
func (net *Network) SetQueueBytes(n int) {
	net.mu.Lock()
	defer net.mu.Unlock()
	net.queueBytes = n
}

// Node makes an instance. It joins the others when it is run. If the network has
// one of that name already, that one is killed first: this is a restart.
func (net *Network) Node(name string) *Node {
	net.mu.Lock()
	defer net.mu.Unlock()
	if old := net.nodes[name]; old != nil {
		old.stop(ErrKilled)
	}
	net.boots++
	n := &Node{
		net:     net,
		name:    name,
		boot:    net.boots,
		wake:    make(chan struct{}, 1),
		links:   make(map[string]*link),
		up:      make(map[string]*link),
		pending: make(map[uint64]int),
	}
	net.nodes[name] = n
	return n
}

// Kill ends an instance as SIGKILL would: its Run returns ErrKilled, what waited
// in its queue is lost, and its peers are told. Node makes the next boot.
func (net *Network) Kill(name string) {
	net.mu.Lock()
	defer net.mu.Unlock()
	if n := net.nodes[name]; n != nil {
		n.stop(ErrKilled)
	}
}

// Pause stops the delivery to an instance, as SIGSTOP would; a callback that is
// running goes on to its end. Nothing is lost.
func (net *Network) Pause(name string) { net.setPaused(name, true) }

// Resume ends a pause.
func (net *Network) Resume(name string) { net.setPaused(name, false) }

func (net *Network) setPaused(name string, paused bool) {
	net.mu.Lock()
	defer net.mu.Unlock()
	if n := net.nodes[name]; n != nil {
		n.paused = paused
		n.signal()
	}
}

// Cut takes two instances out of each other's reach for so long that each gives
// the other up: both get PeerDown.
func (net *Network) Cut(a, b string) {
	net.mu.Lock()
	defer net.mu.Unlock()
	net.cut[pair(a, b)] = true
	if n := net.nodes[a]; n != nil {
		n.unlink(b)
	}
}

// Join ends a cut: both get PeerUp again, with the same boots.
func (net *Network) Join(a, b string) {
	net.mu.Lock()
	defer net.mu.Unlock()
	delete(net.cut, pair(a, b))
	if x, y := net.nodes[a], net.nodes[b]; x != nil && y != nil && x.running && y.running && x.links[b] == nil {
		x.link(y)
	}
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// Node is one boot of an instance; it implements [bus.Bus].
type Node struct {
	net  *Network
	name string
	boot uint64
	wake chan struct{} // sent to by signal, never closed; one pending signal is enough

	// Guarded by net.mu.
	started bool
	running bool
	paused  bool
	stopped error            // why Run has to return
	events  []event          // not yet delivered, in order
	links   map[string]*link // to the instances that are in reach
	up      map[string]*link // of those, the ones whose PeerUp was delivered
	pending map[uint64]int   // bytes in events, by link session
}

var _ bus.Bus = (*Node)(nil)

// link is one end of what joins two boots until one of them goes.
type link struct {
	session uint64 // the same at both ends, never used again
	to      *Node
}

type event struct {
	kind  eventKind
	from  bus.Peer
	link  *link // of peerUp: the receiving node's end
	topic string
	b     []byte
	sess  uint64 // of frame: whose share of the queue it takes
}

type eventKind int

const (
	frameEvent eventKind = iota
	peerUp
	peerDown
	broadcast
)

// Name implements bus.Bus.
func (n *Node) Name() string { return n.name }

// Boot implements bus.Bus.
func (n *Node) Boot() uint64 { return n.boot }

func (n *Node) peer() bus.Peer { return bus.Peer{Name: n.name, Boot: n.boot} }

// Send implements bus.Bus.
func (n *Node) Send(to string, b []byte) error {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	l := n.up[to]
	if l == nil || n.stopped != nil {
		return fmt.Errorf("%w: %s", bus.ErrNoPeer, to)
	}
	if n.links[to] != l {
		return nil // gone, and PeerDown is on its way to our receiver
	}
	size := len(b) + frameOverhead
	if l.to.pending[l.session]+size > n.net.queueBytes {
		return fmt.Errorf("%w: %s", bus.ErrQueueFull, to)
	}
	l.to.pending[l.session] += size
	l.to.push(event{kind: frameEvent, from: n.peer(), b: b, sess: l.session})
	return nil
}

// Written implements bus.Bus. What was sent survives its sender here.
func (n *Node) Written(string) <-chan struct{} { return nil }

// Publish implements bus.Bus.
func (n *Node) Publish(topic string, b []byte) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	if n.stopped != nil {
		return
	}
	for _, l := range n.links {
		l.to.push(event{kind: broadcast, from: n.peer(), topic: topic, b: slices.Clone(b)})
	}
}

// Peers implements bus.Bus.
func (n *Node) Peers(kind string) []bus.Peer {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	var out []bus.Peer
	for _, l := range n.up {
		if p := l.to.peer(); p.Kind() == kind {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b bus.Peer) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Expected implements bus.Bus: instances that were made and not yet run, and are
// not cut off, are
// expected.
func (n *Node) Expected(kind string) []string {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	var out []string
	for name, other := range n.net.nodes {
		if bus.Kind(name) == kind && other != n && n.up[name] == nil && !n.net.cut[pair(n.name, name)] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Ended implements bus.Bus. That an instance has ended is not seen while it is
// cut off.
func (n *Node) Ended(p bus.Peer) bool {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	now := n.net.nodes[p.Name]
	return (now == nil || now.boot != p.Boot) && !n.net.cut[pair(n.name, p.Name)]
}

// Run implements bus.Bus. When ctx ends the peers are told, as by an orderly
// stop of the real one.
func (n *Node) Run(ctx context.Context, r bus.Receiver) error {
	if err := n.join(); err != nil {
		return err
	}
	for {
		ev, ok, err := n.next()
		if err != nil {
			return err
		}
		if !ok {
			select {
			case <-n.wake:
			case <-ctx.Done():
				n.net.mu.Lock()
				n.stop(ctx.Err())
				n.net.mu.Unlock()
				return nil
			}
			continue
		}
		switch ev.kind {
		case frameEvent:
			r.Receive(ev.from, ev.b)
		case peerUp:
			r.PeerUp(ev.from)
		case peerDown:
			r.PeerDown(ev.from)
		case broadcast:
			r.Broadcast(ev.from, ev.topic, ev.b)
		}
	}
}

func (n *Node) join() error {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	if n.stopped != nil {
		return n.stopped
	}
	if n.started {
		return errors.New("bustest: Run called twice")
	}
	n.started, n.running = true, true
	for _, other := range n.net.nodes {
		if other != n && other.running && !n.net.cut[pair(n.name, other.name)] {
			n.link(other)
		}
	}
	return nil
}

// next takes the first event, unless the node is paused or has none.
func (n *Node) next() (event, bool, error) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	switch {
	case n.stopped != nil:
		return event{}, false, n.stopped
	case n.paused || len(n.events) == 0:
		return event{}, false, nil
	}
	ev := n.events[0]
	n.events[0] = event{}
	n.events = n.events[1:]
	switch ev.kind {
	case frameEvent:
		if n.pending[ev.sess] -= len(ev.b) + frameOverhead; n.pending[ev.sess] == 0 {
			delete(n.pending, ev.sess)
		}
	case peerUp:
		n.up[ev.from.Name] = ev.link // from here on Send succeeds
	case peerDown:
		delete(n.up, ev.from.Name)
	}
	return ev, true, nil
}

// The methods below are called with net.mu held.

func (n *Node) push(ev event) {
	n.events = append(n.events, ev)
	n.signal()
}

func (n *Node) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Node) link(other *Node) {
	n.net.sessions++
	mine := &link{session: n.net.sessions, to: other}
	theirs := &link{session: n.net.sessions, to: n}
	n.links[other.name], other.links[n.name] = mine, theirs
	n.push(event{kind: peerUp, from: other.peer(), link: mine})
	other.push(event{kind: peerUp, from: n.peer(), link: theirs})
}

func (n *Node) unlink(name string) {
	l := n.links[name]
	if l == nil {
		return
	}
	delete(n.links, name)
	delete(l.to.links, n.name)
	n.push(event{kind: peerDown, from: l.to.peer()})
	l.to.push(event{kind: peerDown, from: n.peer()})
}

// stop takes the node out of the network. Its events are lost with it.
func (n *Node) stop(why error) {
	if n.stopped != nil {
		return
	}
	for name := range n.links {
		n.unlink(name)
	}
	n.stopped, n.running = why, false
	n.events, n.pending = nil, nil
	clear(n.up)
	if n.net.nodes[n.name] == n {
		delete(n.net.nodes, n.name)
	}
	n.signal()
}
