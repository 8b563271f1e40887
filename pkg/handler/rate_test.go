package handler

import (
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
)

func TestBlocks(t *testing.T) {
	for _, c := range []struct {
		blockSize, content int
		size               int64 // of the item; -1: it says nothing
		want               int
	}{
		{1000, 2500, -1, 3},
		{1000, 2500, 10, 1},
		{1000, 10, 2001, 3},
		{1000, 1000, -1, 1},
		{1000, 0, -1, 1},
		{0, 2500, -1, 1},
		{1, 1, 1 << 40, 1 << 20},
	} {
		l := newLimiter(2500, 0, c.blockSize)
		it, f := &publish.Item{Size: c.size}, &publish.Format{Body: make([]byte, c.content)}
		if got := l.blocks(it, f); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

// The turns are those of Pushpin: a batch each 25 ms, rounded up, or one at a
// time if the rate is low.
func TestTurns(t *testing.T) {
	for _, c := range []struct {
		rate, perTurn int
		interval      time.Duration
	}{
		{2500, 63, 25 * time.Millisecond},
		{40, 1, 25 * time.Millisecond},
		{20, 1, 50 * time.Millisecond},
		{1, 1, time.Second},
	} {
		if l := newLimiter(c.rate, 0, 0); l.perTurn != c.perTurn || l.interval != c.interval || !l.on() {
			t.Errorf("rate %d: %d each %v", c.rate, l.perTurn, l.interval)
		}
	}
	if l := newLimiter(0, 0, 0); l.on() {
		t.Error("no rate is a limit")
	}
}

// An item that is dropped because too many bytes wait leaves nothing behind,
// also if it is the first one of its route.
func TestRateBytes(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MessageRate = 40 })
	h := r.hold(frame.ModeStream, ch("a"))
	waiting := func(n int) {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		r.s.limiter.bytes = n
		r.s.runJobs()
	}
	waiting(maxRateBytes)
	r.publish(stream("a", "dropped"))
	waiting(0)
	r.publish(stream("a", "sent"))
	r.expect(h, "sent")
	if delivered, dropped := r.balanced(); delivered != 1 || dropped != 1 {
		t.Errorf("delivered %d, dropped %d; want 1 and 1", delivered, dropped)
	}
}

// A WebSocket that subscribes to one more channel still gets what waits for it on
// another.
func TestRateWhileSubscribing(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MessageRate = 40 })
	h := r.hold(frame.ModeWebSocket)
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "a"})
	r.publish(text("a", "at once"), text("a", "waits"))
	r.control(h, &frame.Control{Op: frame.ControlSubscribe, Channel: "b"})
	r.clock.advance(time.Second)
	r.expect(h, "at once", "waits")
	if delivered, dropped := r.balanced(); delivered != 2 || dropped != 0 {
		t.Errorf("delivered %d, dropped %d; want 2 and 0", delivered, dropped)
	}
}
