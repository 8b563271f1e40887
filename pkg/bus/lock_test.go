package bus

import (
	"testing"
	"time"
)

// A boot comes after those before it though the clock was put back, and a day's
// clock that was right again is followed.
func TestStartTimes(t *testing.T) {
	dir := t.TempDir()
	began := time.Unix(1_800_000_000, 0)
	last := uint64(0)
	for _, step := range []struct{ at, want time.Duration }{
		{0, 0}, {time.Second, time.Second}, {-time.Hour, time.Second + 1}, {-time.Hour, time.Second + 2}, {time.Hour, time.Hour},
	} {
		f, err := lockInstance(dir, "x.lock", "x.0")
		if err != nil {
			t.Fatal(err)
		}
		got := startTime(f, began.Add(step.at))
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if want := uint64(began.Add(step.want).UnixNano()); got != want || got <= last {
			t.Errorf("at %v: %d, want %d, after %d", step.at, got, want, last)
		}
		last = got
	}
}
