package webhook

import "time"

// clock is what queues go by: Unix milliseconds that go on evenly when the
// system's clock is set, so that nothing is tried or given up an hour early, and
// nothing waits an hour longer. They begin with the wall clock, and are translated
// to it where they leave the process: signatures, what the API shows, and the
// file, which has to make sense to the next process.
type clock struct{ began time.Time }

// millis returns the time of now, which has to come from time.Now.
func (c clock) millis(now time.Time) int64 {
	return c.began.UnixMilli() + now.Sub(c.began).Milliseconds()
}

// at returns the time at which the clock shows ms. It can be compared with, and
// waited for by, what comes from time.Now.
func (c clock) at(ms int64) time.Time {
	return c.began.Add(time.Duration(ms-c.began.UnixMilli()) * time.Millisecond)
}

// age is how long ago ms was.
func (c clock) age(ms int64, now time.Time) time.Duration {
	return max(0, time.Duration(c.millis(now)-ms)*time.Millisecond)
}

// wall translates to what the wall clock would have shown if it had always been
// as it is now.
func (c clock) wall(ms int64, now time.Time) time.Time {
	return time.UnixMilli(now.UnixMilli() + ms - c.millis(now))
}

// save returns an entry as the file has it.
func (c clock) save(e entry, now time.Time) entry {
	e.at = c.wall(e.at, now).UnixMilli()
	if e.next != 0 {
		e.next = c.wall(e.next, now).UnixMilli()
	}
	return e
}

// restore makes sense of an entry of the file, whose times may be of a clock that
// was ahead of ours: nothing was queued after now, and nothing waits longer than
// it might have to if it had been tried right now.
func (c clock) restore(e entry, ep *endpoint) entry {
	now := c.began.UnixMilli()
	if ahead := e.at - now; ahead > 0 {
		e.at, e.next = now, max(0, e.next-ahead)
	}
	longest := maxRetryAfter
	for _, d := range ep.Retries {
		longest = max(longest, time.Duration(d)*11/10) // with jitter
	}
	e.next = min(e.next, now+longest.Milliseconds())
	return e
}
