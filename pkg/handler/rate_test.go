package handler

import (
	"testing"
	"time"

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
