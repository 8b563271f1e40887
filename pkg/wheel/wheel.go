// Package wheel keeps many timers cheaply: setting, stopping and firing one are
// each a few pointer writes and no allocation, whatever the number of timers.
// It has no goroutine and no clock; its owner calls Advance.
//
// The price is precision: a timer fires at the first Advance after the end of
// the tick in which it is due, never early.
package wheel

import "time"

// Timer is one timer of a wheel. Embed it in what it belongs to. The zero value
// is a timer that is not set.
type Timer[T any] struct {
	next, prev *Timer[T] // ring through the slot's head; nil if not set
	due        int64     // tick at which it fires
	Owner      T
}

// Active reports whether the timer is set.
func (t *Timer[T]) Active() bool { return t.next != nil }

// Wheel is a set of timers. It is not safe for concurrent use.
type Wheel[T any] struct {
	tick  time.Duration
	start time.Time
	now   int64 // last tick that was advanced to
	n     int
	slots []Timer[T] // heads of rings
	due   Timer[T]   // ring of the timers that Advance is about to fire
}

// New returns a wheel with the given precision. Timers further away than tick
// times slots are looked at once per turn of the wheel.
func New[T any](tick time.Duration, slots int, now time.Time) *Wheel[T] {
	w := &Wheel[T]{tick: tick, start: now, slots: make([]Timer[T], slots)}
	for i := range w.slots {
		h := &w.slots[i]
		h.next, h.prev = h, h
	}
	w.due.next, w.due.prev = &w.due, &w.due
	return w
}

// Len returns the number of timers that are set.
func (w *Wheel[T]) Len() int { return w.n }

// Next returns how long the owner may sleep after now, but no longer than limit,
// without a timer firing late. Timers that are further away than one turn of the
// wheel may make it shorter than it could be.
func (w *Wheel[T]) Next(now time.Time, limit time.Duration) time.Duration {
	if w.n == 0 {
		return limit
	}
	for tick := w.now + 1; tick <= w.now+int64(len(w.slots)); tick++ {
		wait := w.start.Add(time.Duration(tick) * w.tick).Sub(now)
		if wait >= limit {
			return limit
		}
		if head := &w.slots[tick%int64(len(w.slots))]; head.next != head {
			return max(wait, 0)
		}
	}
	return limit
}

// Set makes t fire once, at the time at or soon after. If it is set already, it
// is moved.
func (w *Wheel[T]) Set(t *Timer[T], at time.Time) {
	w.Stop(t)
	t.due = max(w.tickOf(at), w.now+1)
	insert(&w.slots[t.due%int64(len(w.slots))], t)
	w.n++
}

// SetSooner is Set, unless t is set and due sooner already.
func (w *Wheel[T]) SetSooner(t *Timer[T], at time.Time) {
	if !t.Active() || t.due > w.tickOf(at) {
		w.Set(t, at)
	}
}

// tickOf returns the tick at the time at, or the first one after it.
func (w *Wheel[T]) tickOf(at time.Time) int64 {
	return int64((at.Sub(w.start) + w.tick - 1) / w.tick)
}

// Stop unsets t, if it is set.
func (w *Wheel[T]) Stop(t *Timer[T]) {
	if t.next == nil {
		return
	}
	remove(t)
	w.n--
}

// Advance fires every timer that is due. fire may set and stop timers of w.
func (w *Wheel[T]) Advance(now time.Time, fire func(*Timer[T])) {
	target := int64(now.Sub(w.start) / w.tick)
	if target <= w.now {
		return
	}
	// After a pause longer than a turn each slot is looked at once.
	first := max(w.now+1, target-int64(len(w.slots))+1)
	for tick := first; tick <= target; tick++ {
		head := &w.slots[tick%int64(len(w.slots))]
		for t := head.next; t != head; {
			next := t.next
			if t.due <= target {
				remove(t)
				insert(&w.due, t)
			}
			t = next
		}
	}
	w.now = target
	for t := w.due.next; t != &w.due; t = w.due.next {
		remove(t)
		w.n--
		fire(t)
	}
}

func insert[T any](head, t *Timer[T]) {
	t.prev, t.next = head.prev, head
	head.prev.next = t
	head.prev = t
}

func remove[T any](t *Timer[T]) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
}
