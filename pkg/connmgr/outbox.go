package connmgr

import (
	"errors"
	"sync"

	"github.com/holdfast/holdfast/pkg/bus"
)

// maxOutbox is how many frames may wait because the bus's queue to a peer is
// full. Bodies are bounded by credits, so it takes a peer that stands still
// while tens of thousands of exchanges end.
const maxOutbox = 1 << 17

// outbox sends frames without waiting. What the bus cannot take now is kept and
// sent later, in order.
type outbox struct {
	bus     bus.Bus
	onDrop  func(p *peer)
	onWait  func(n int)
	mu      sync.Mutex
	live    map[string]*peer // the boots that are up
	waiting map[*peer][][]byte
	n       int
}

// up and down say which boots may be sent to. What waits for one that went down
// is forgotten.
func (o *outbox) up(p *peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.live[p.Name] = p
}

func (o *outbox) down(p *peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.live[p.Name] == p {
		delete(o.live, p.Name)
	}
	o.n -= len(o.waiting[p])
	delete(o.waiting, p)
	o.onWait(o.n)
}

// try sends b to p, or says why that is not possible now.
func (o *outbox) try(p *peer, b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tryLocked(p, b)
}

func (o *outbox) tryLocked(p *peer, b []byte) error {
	if o.live[p.Name] != p {
		return bus.ErrNoPeer
	}
	if len(o.waiting[p]) > 0 {
		return bus.ErrQueueFull
	}
	return o.bus.Send(p.Name, b)
}

// post sends b to p. If that boot is not up any more, b is dropped: whoever
// waits for an answer is told by PeerDown.
func (o *outbox) post(p *peer, b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.tryLocked(p, b); !errors.Is(err, bus.ErrQueueFull) {
		return
	}
	if o.n >= maxOutbox {
		o.onDrop(p)
		return
	}
	o.waiting[p] = append(o.waiting[p], b)
	o.n++
	o.onWait(o.n)
}

// waits returns how many frames wait.
func (o *outbox) waits() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

// flush tries again to send what waits.
func (o *outbox) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n == 0 {
		return
	}
	for p, list := range o.waiting {
		for len(list) > 0 {
			if err := o.bus.Send(p.Name, list[0]); errors.Is(err, bus.ErrQueueFull) {
				break
			}
			list[0] = nil
			list = list[1:]
			o.n--
		}
		if len(list) == 0 {
			delete(o.waiting, p)
			continue
		}
		o.waiting[p] = list
	}
	o.onWait(o.n)
}
