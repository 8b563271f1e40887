// Package bus moves frames between process instances over ZeroMQ. It knows
// nothing of their content.
//
// Every instance has a name such as "proxy.0" (kind, dot, number) and a random
// boot id. It binds one PULL inbox, to which every peer dials a PUSH socket of
// its own, and one PUB, to which every peer subscribes. Directed frames go
// through the inbox and are never lost between two living boots: each link
// numbers its frames, keeps them until the peer has acknowledged them, sends
// them again after a reconnect or a silence, and drops repeats. Who misses frames
// makes the sender reconnect. What goes over PUB may be
// missed and is repeated by its sender: heartbeats above all.
//
// The goroutines of a node:
//
//	Run      1             the dispatcher: owns what is known of the peers, calls the Receiver
//	inbox    1 + 1 each    accepts; reads one connection of a peer, for the dispatcher
//	sender   2 per peer    dials, writes what is queued; notices the end of the connection
//	PUB      1 + 2 each    accepts; writes to and reads subscriptions of one subscriber
//	SUB      4 per peer    dials, reads, writes subscriptions; hands on to the dispatcher
//
// The sockets under it ([Pull], [Push], [Sub], [Pub], [Router], [Dealer])
// also serve the public interfaces. This is the only package that sees a ZeroMQ
// type. docs/adr/0002-socket-patterns.md says why it is built like this.
package bus

import (
	"context"
	"errors"
	"strings"
)

// Peer is one boot of another instance.
type Peer struct {
	Name string // "handler.0"
	Boot uint64 // random, never 0
}

// Kind returns the part of the name before the dot: "connmgr", "proxy",
// "handler" or "zurl".
func (p Peer) Kind() string { return Kind(p.Name) }

// Kind returns the part of an instance name before the dot.
func Kind(name string) string {
	kind, _, _ := strings.Cut(name, ".")
	return kind
}

// Bus is one instance's end of the bus. [Node] is the real one, bustest has one
// in memory. All methods may be called from any goroutine, and none blocks on a
// peer.
type Bus interface {
	// Name and Boot say who we are.
	Name() string
	Boot() uint64
	// Send queues a frame for a peer that is up, in order with all other frames
	// for that peer. The bus owns b from then on. It returns ErrNoPeer if no
	// such instance is up, and ErrQueueFull (counted) if its queue is at its
	// bound. A nil error means: it arrives, unless this boot of the peer goes
	// down, which Receiver.PeerDown tells.
	Send(to string, b []byte) error
	// Written returns a channel that is closed when all frames sent to a peer
	// before are in the hands of the system, so that they arrive even if this
	// process dies at once, or when the peer has gone down. It is nil if there is
	// nothing to wait for.
	Written(to string) <-chan struct{}
	// Publish sends b to every peer over PUB. It may be lost.
	Publish(topic string, b []byte)
	// Peers returns the peers of a kind that are up, sorted by name.
	Peers(kind string) []Peer
	// Expected returns the names of the instances of a kind that are not up but
	// should be soon, sorted: they are in the run directory or the configuration,
	// and their inbox was not found closed. None is expected for longer than a
	// silent peer is believed to live.
	Expected(kind string) []string
	// Ended reports whether the process that was this boot of a peer is known to
	// have ended: it said goodbye, a later boot has taken its name, or nobody
	// listens at its inbox. It may live if none of that is seen: false only says
	// that it is not known to have ended.
	Ended(p Peer) bool
	// Run starts the loops and blocks until ctx ends or the inbox cannot be
	// served. r gets everything that arrives.
	Run(ctx context.Context, r Receiver) error
}

// Receiver is what a process does with what arrives. The bus calls all methods
// from one goroutine, so they must not block; what they are handed in b is
// theirs to keep and must not be written to.
type Receiver interface {
	// Receive is called for each directed frame, in order for each peer.
	Receive(from Peer, b []byte)
	// PeerUp is called before the first Receive from p, and before Send to it
	// succeeds.
	PeerUp(p Peer)
	// PeerDown says that this boot of the peer is gone, or was out of reach for
	// so long that it was given up. What it had written before it died was received
	// before this. Frames sent to it that it had not
	// acknowledged may or may not have arrived. Nothing is received from it any
	// more until another PeerUp.
	PeerDown(p Peer)
	// Broadcast is called for what a peer sent by Publish.
	Broadcast(from Peer, topic string, b []byte)
}

// Errors of Send.
var (
	ErrNoPeer    = errors.New("bus: no such peer is up")
	ErrQueueFull = errors.New("bus: queue to peer is full")
	// ErrTooLarge says that the frame is over the limit of a message, and would
	// be over it at any time.
	ErrTooLarge = errors.New("bus: frame is too large")
)

// ErrClosed is returned by what is used after its Close.
var ErrClosed = errors.New("bus: closed")
