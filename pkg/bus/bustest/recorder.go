package bustest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
)

// Event is one call of a receiver's method.
type Event struct {
	Kind  string // "frame", "up", "down" or "broadcast"
	Peer  bus.Peer
	Topic string
	Data  string
}

// String returns the event in short form, for failure texts.
func (e Event) String() string {
	return fmt.Sprintf("%s %s(%x) %s%q", e.Kind, e.Peer.Name, e.Peer.Boot, e.Topic, e.Data)
}

// Recorder is a [bus.Receiver] that keeps what it is told. The zero value is
// ready for use.
type Recorder struct {
	mu     sync.Mutex
	events []Event
	frames map[string]int // by the name of the peer
	change chan struct{}  // closed and replaced at each event; nil if nobody waits
}

var _ bus.Receiver = (*Recorder)(nil)

// Receive implements bus.Receiver.
func (r *Recorder) Receive(from bus.Peer, b []byte) {
	r.add(Event{Kind: "frame", Peer: from, Data: string(b)})
}

// PeerUp implements bus.Receiver.
func (r *Recorder) PeerUp(p bus.Peer) { r.add(Event{Kind: "up", Peer: p}) }

// PeerDown implements bus.Receiver.
func (r *Recorder) PeerDown(p bus.Peer) { r.add(Event{Kind: "down", Peer: p}) }

// Broadcast implements bus.Receiver.
func (r *Recorder) Broadcast(from bus.Peer, topic string, b []byte) {
	r.add(Event{Kind: "broadcast", Peer: from, Topic: topic, Data: string(b)})
}

func (r *Recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	if e.Kind == "frame" {
		if r.frames == nil {
			r.frames = make(map[string]int)
		}
		r.frames[e.Peer.Name]++
	}
	if r.change != nil {
		close(r.change)
		r.change = nil
	}
}

// Events returns what was recorded so far.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Wait blocks until ok says yes to the events so far, and fails the test if it
// has not after a minute.
func (r *Recorder) Wait(t testing.TB, what string, ok func([]Event) bool) []Event {
	t.Helper()
	var events []Event
	r.await(t, what, func() bool {
		events = slices.Clone(r.events)
		return ok(events)
	})
	return events
}

// await is Wait with r.mu held in ok.
func (r *Recorder) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		done := ok()
		if r.change == nil {
			r.change = make(chan struct{})
		}
		change := r.change
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-change:
		case <-deadline.C:
			events := r.Events()
			t.Fatalf("waited in vain for %s; %d events, the last: %v", what, len(events), events[max(0, len(events)-10):])
		}
	}
}

// WaitUp waits until the last word on an instance is that it is up, and returns
// which boot.
func (r *Recorder) WaitUp(t testing.TB, name string) bus.Peer {
	t.Helper()
	var p bus.Peer
	r.Wait(t, "PeerUp of "+name, func(events []Event) bool {
		up := false
		for _, e := range events {
			if e.Peer.Name == name && (e.Kind == "up" || e.Kind == "down") {
				up, p = e.Kind == "up", e.Peer
			}
		}
		return up
	})
	return p
}

// WaitDown waits until that boot was reported down.
func (r *Recorder) WaitDown(t testing.TB, p bus.Peer) {
	t.Helper()
	r.Wait(t, "PeerDown of "+p.Name, func(events []Event) bool {
		return slices.Contains(events, Event{Kind: "down", Peer: p})
	})
}

// WaitFrames waits for n frames from an instance, any boot, and returns their
// contents in order.
func (r *Recorder) WaitFrames(t testing.TB, from string, n int) []string {
	t.Helper()
	r.await(t, fmt.Sprintf("%d frames from %s", n, from), func() bool { return r.frames[from] >= n })
	var out []string
	for _, e := range r.Events() {
		if e.Kind == "frame" && e.Peer.Name == from {
			out = append(out, e.Data)
		}
	}
	return out
}

// Frames returns how many frames have come from an instance, any boot.
func (r *Recorder) Frames(from string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.frames[from]
}
