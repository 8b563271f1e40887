package connmgr

import (
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/wheel"
)

// With nothing to do but far timers, a writer sleeps; what it has to report
// wakes it in time.
func TestWriterSleeps(t *testing.T) {
	s := &Server{now: time.Now}
	w := newWriter(s, 0)
	var far, near wheel.Timer[*hold]
	w.wheel.Set(&far, w.now.Add(20*time.Second))
	if d := w.sleep(); d != maxSleep {
		t.Errorf("sleeps %v with a far timer, want %v", d, maxSleep)
	}
	w.wheel.Set(&near, w.now.Add(300*time.Millisecond))
	if d := w.sleep(); d < 300*time.Millisecond || d > 300*time.Millisecond+wheelTick {
		t.Errorf("sleeps %v before a timer in 300 ms", d)
	}
	w.tally.n, w.tally.since = 1, w.now.Add(-10*time.Millisecond)
	if d := w.sleep(); d != reportEvery-10*time.Millisecond {
		t.Errorf("sleeps %v with a report to make, want %v", d, reportEvery-10*time.Millisecond)
	}
}
