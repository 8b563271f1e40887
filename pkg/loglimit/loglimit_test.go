package loglimit

import (
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	var l Limit
	now := time.Unix(1e9, 0)
	for i, c := range []struct {
		after   time.Duration
		skipped int
		ok      bool
	}{{0, 0, true}, {0, 0, false}, {999 * time.Millisecond, 0, false}, {time.Millisecond, 2, true}, {time.Hour, 0, true}} {
		now = now.Add(c.after)
		if skipped, ok := l.Allow(now); skipped != c.skipped || ok != c.ok {
			t.Errorf("%d: got %d, %v; want %d, %v", i, skipped, ok, c.skipped, c.ok)
		}
	}
}
