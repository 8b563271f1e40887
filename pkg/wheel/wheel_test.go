package wheel

import (
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Unix(1000, 0)

func TestFiresOnceNeverEarly(t *testing.T) {
	const tick = 10 * time.Millisecond
	rnd := rand.New(rand.NewPCG(1, 2))
	w := New[int](tick, 16, epoch)
	due := make([]time.Duration, 500)
	fired := make([]int, len(due))
	timers := make([]Timer[int], len(due))
	for i := range timers {
		timers[i].Owner = i
		due[i] = time.Duration(rnd.Int64N(int64(2 * time.Second))) // many turns of the wheel
		w.Set(&timers[i], epoch.Add(due[i]))
	}
	for i := range timers {
		if i%5 == 0 {
			w.Stop(&timers[i])
			w.Stop(&timers[i])
		}
	}
	for now := time.Duration(0); now < 3*time.Second; now += time.Duration(rnd.Int64N(int64(50 * time.Millisecond))) {
		w.Advance(epoch.Add(now), func(tm *Timer[int]) {
			fired[tm.Owner]++
			if now < due[tm.Owner] {
				t.Errorf("timer %d fired at %v, due at %v", tm.Owner, now, due[tm.Owner])
			}
			if late := now - due[tm.Owner]; late > 50*time.Millisecond+2*tick {
				t.Errorf("timer %d fired %v late", tm.Owner, late)
			}
			if tm.Active() {
				t.Errorf("timer %d is set while it fires", tm.Owner)
			}
		})
	}
	for i, n := range fired {
		want := 1
		if i%5 == 0 {
			want = 0
		}
		if n != want {
			t.Errorf("timer %d fired %d times, want %d", i, n, want)
		}
	}
	if w.Len() != 0 {
		t.Errorf("%d timers left", w.Len())
	}
}

// What fire does to other timers that are due in the same Advance must hold.
func TestFireChangesTimers(t *testing.T) {
	w := New[string](time.Millisecond, 8, epoch)
	var a, b, c Timer[string]
	a.Owner, b.Owner, c.Owner = "a", "b", "c"
	for _, tm := range []*Timer[string]{&a, &b, &c} {
		w.Set(tm, epoch.Add(time.Millisecond))
	}
	var got string
	now := epoch.Add(5 * time.Millisecond)
	fire := func(tm *Timer[string]) {
		got += tm.Owner
		if tm == &a {
			w.Stop(&b)
			w.Set(&c, now.Add(time.Millisecond))
			w.Set(&a, now) // in the past: next tick, not this Advance
		}
	}
	w.Advance(now, fire)
	if got != "a" || w.Len() != 2 {
		t.Fatalf("fired %q with %d left, want a and 2", got, w.Len())
	}
	now = now.Add(time.Millisecond)
	a.Owner = "A"
	w.Advance(now, func(tm *Timer[string]) { got += tm.Owner })
	if got != "aAc" && got != "acA" || w.Len() != 0 {
		t.Errorf("fired %q with %d left, want a, then A and c, and 0", got, w.Len())
	}
}

func TestSetSooner(t *testing.T) {
	w := New[string](time.Second, 16, epoch)
	tm := Timer[string]{Owner: "x"}
	var fired time.Duration
	for _, tc := range []struct{ set, sooner, want time.Duration }{{0, 5, 5}, {3, 5, 3}, {5, 3, 3}, {40, 41, 40}} {
		start := w.start.Add(time.Duration(w.now) * time.Second)
		if tc.set > 0 {
			w.Set(&tm, start.Add(tc.set*time.Second))
		}
		w.SetSooner(&tm, start.Add(tc.sooner*time.Second))
		for d := time.Duration(1); tm.Active() && d < 100; d++ {
			w.Advance(start.Add(d*time.Second), func(*Timer[string]) { fired = d })
		}
		if fired != tc.want {
			t.Errorf("set for %d and for %d: fired at %d", tc.set, tc.sooner, fired)
		}
	}
}

func TestLongPause(t *testing.T) {
	w := New[int](time.Millisecond, 4, epoch)
	var a, b Timer[int]
	w.Set(&a, epoch.Add(3*time.Millisecond))
	w.Set(&b, epoch.Add(time.Hour))
	n := 0
	w.Advance(epoch.Add(time.Minute), func(*Timer[int]) { n++ })
	if n != 1 || !b.Active() {
		t.Errorf("fired %d, b set %v; want 1, true", n, b.Active())
	}
}

// An owner that sleeps for as long as Next says is woken seldom, and in time.
func TestNext(t *testing.T) {
	const tick, limit = 10 * time.Millisecond, time.Second
	w := New[int](tick, 64, epoch)
	if d := w.Next(epoch, limit); d != limit {
		t.Errorf("without a timer: %v, want %v", d, limit)
	}
	var near, far, turns Timer[int]
	at := map[*Timer[int]]time.Duration{&near: 123 * time.Millisecond, &far: 411 * time.Millisecond, &turns: 5*time.Second + 1}
	for tm, d := range at {
		w.Set(tm, epoch.Add(d))
	}
	looks := 0
	for now := time.Duration(0); w.Len() > 0; looks++ {
		d := w.Next(epoch.Add(now), limit)
		if d <= 0 || d > limit {
			t.Fatalf("at %v: %v", now, d)
		}
		now += d
		w.Advance(epoch.Add(now), func(tm *Timer[int]) {
			if late := now - at[tm]; late < 0 || late >= tick {
				t.Errorf("the timer for %v fired at %v", at[tm], now)
			}
		})
	}
	if looks > 16 { // twice, five times a limit, and once per turn that a timer is in
		t.Errorf("woken %d times", looks)
	}
	if d := w.Next(epoch.Add(time.Minute), limit); d != limit {
		t.Errorf("without a timer: %v, want %v", d, limit)
	}
	w.Set(&near, epoch)
	if d := w.Next(epoch.Add(time.Minute), limit); d != 0 {
		t.Errorf("overdue: %v, want 0", d)
	}
}

func TestNoAllocations(t *testing.T) {
	w := New[int](time.Millisecond, 64, epoch)
	timers := make([]Timer[int], 100)
	now := epoch
	if n := testing.AllocsPerRun(100, func() {
		for i := range timers {
			w.Set(&timers[i], now.Add(time.Duration(i)*time.Millisecond))
		}
		now = now.Add(50 * time.Millisecond)
		w.Advance(now, func(*Timer[int]) {})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
