package webhook

import (
	"container/heap"
	"math"
	"slices"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

// endpoint is an endpoint with its queue. Guarded by Service.mu.
type endpoint struct {
	stored
	gone bool // deleted

	fifo  []entry // waiting, by seq; in order, the first may have been tried
	retry retries // tried and waiting to be tried again; unused in order
	// How many messages wait or are under way, and their bytes; those that are on
	// their way to the disk are counted too.
	depth    int
	bytes    int64
	inflight int
	dead     int
	tries    uint64 // number of the last attempt

	kept      []entry // delivered and kept, in that order; at is when that was
	keptBytes int64
	keeper    int // place among Service.keepers, from 1; 0 is none

	failures  int // in a row
	lastError string
	notBefore time.Time // of the whole endpoint: it asked for patience
	tokens    float64   // of the rate limit
	refilled  time.Time
	wakeAt    time.Time // when the scheduler looks at it; zero: it does not
	starved   bool      // waits for one of the extra attempts
	lapsed    bool      // the lease was over when the house was kept last

	verifying   bool
	verifyTries int
	verifyAt    time.Time
}

// retries is a heap by the time of the next try.
type retries []entry

func (r retries) Len() int           { return len(r) }
func (r retries) Less(i, j int) bool { return r[i].next < r[j].next }
func (r retries) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }

// Push implements heap.Interface.
func (r *retries) Push(x any) { *r = append(*r, x.(entry)) }

// Pop implements heap.Interface.
func (r *retries) Pop() any {
	old := *r
	e := old[len(old)-1]
	*r = old[:len(old)-1]
	return e
}

func (ep *endpoint) inOrder() bool { return ep.Order == InOrder }

// push puts an entry where it waits. Entries mostly come by seq.
func (ep *endpoint) push(e entry) {
	if !ep.inOrder() && e.attempts > 0 {
		heap.Push(&ep.retry, e)
		return
	}
	if n := len(ep.fifo); n == 0 || ep.fifo[n-1].seq < e.seq {
		ep.fifo = append(ep.fifo, e)
		return
	}
	i, _ := slices.BinarySearchFunc(ep.fifo, e.seq, func(e entry, seq uint64) int {
		if e.seq < seq {
			return -1
		}
		return 1
	})
	ep.fifo = slices.Insert(ep.fifo, i, e)
}

// reorder is called when the order of delivery was changed.
func (ep *endpoint) reorder() {
	all := slices.Concat(ep.fifo, ep.retry)
	slices.SortFunc(all, func(a, b entry) int { return int(int64(a.seq) - int64(b.seq)) })
	ep.fifo, ep.retry = nil, nil
	for _, e := range all {
		ep.push(e)
	}
}

func (ep *endpoint) shift() entry {
	e := ep.fifo[0]
	if ep.fifo = ep.fifo[1:]; len(ep.fifo) == 0 {
		ep.fifo = nil // let go of the memory
	}
	return e
}

// due returns when the next entry may be tried, as far as the entry is
// concerned. ok is false if none waits.
func (ep *endpoint) due() (at int64, ok bool) {
	at = math.MaxInt64
	if len(ep.fifo) > 0 {
		at, ok = ep.fifo[0].next, true
	}
	if len(ep.retry) > 0 {
		at, ok = min(at, ep.retry[0].next), true
	}
	return at, ok
}

// take removes the entry that is due first.
func (ep *endpoint) take() entry {
	if len(ep.retry) > 0 && (len(ep.fifo) == 0 || ep.retry[0].next <= ep.fifo[0].next) {
		return heap.Pop(&ep.retry).(entry)
	}
	return ep.shift()
}

// takeOldest removes the entry that waited longest. ok is false if none waits.
func (ep *endpoint) takeOldest() (e entry, ok bool) {
	oldest := -1
	for i := range ep.retry {
		if oldest < 0 || ep.retry[i].seq < ep.retry[oldest].seq {
			oldest = i
		}
	}
	switch {
	case oldest >= 0 && (len(ep.fifo) == 0 || ep.retry[oldest].seq < ep.fifo[0].seq):
		return heap.Remove(&ep.retry, oldest).(entry), true
	case len(ep.fifo) > 0:
		return ep.shift(), true
	}
	return entry{}, false
}

// takeOlder removes the entries that were queued before at.
func (ep *endpoint) takeOlder(at int64) []entry {
	var old []entry
	keep := func(all []entry) []entry {
		return slices.DeleteFunc(all, func(e entry) bool {
			if e.at < at {
				old = append(old, e)
				return true
			}
			return false
		})
	}
	if len(ep.fifo) > 0 && (ep.fifo[0].at < at || ep.fifo[len(ep.fifo)-1].at < at) {
		ep.fifo = keep(ep.fifo)
	}
	if n := len(old); len(ep.retry) > 0 {
		if ep.retry = keep(ep.retry); len(old) > n {
			heap.Init(&ep.retry)
		}
	}
	return old
}

// oldest returns when the message that waits longest was queued.
func (ep *endpoint) oldest() (at int64, ok bool) {
	at = math.MaxInt64
	if len(ep.fifo) > 0 {
		at = ep.fifo[0].at
	}
	for i := range ep.retry {
		at = min(at, ep.retry[i].at)
	}
	return at, at != math.MaxInt64
}

// status is the status as it shows.
func (ep *endpoint) status(now time.Time) string {
	switch {
	case ep.Status != StatusActive:
		return ep.Status
	case ep.ExpiresAt != nil && !now.Before(*ep.ExpiresAt):
		return StatusExpired
	case ep.Paused:
		return StatusPaused
	}
	return StatusActive
}

// takes reports whether messages are queued for the endpoint.
func (ep *endpoint) takes(now time.Time) bool {
	s := ep.status(now)
	return s == StatusActive || s == StatusPaused
}

// sends reports whether messages are sent to it.
func (ep *endpoint) sends(now time.Time) bool {
	s := ep.status(now)
	return s == StatusActive || s == StatusExpired && !ep.Paused
}

// allow takes a token of the rate limit, or says when there will be one.
func (ep *endpoint) allow(now time.Time) (ok bool, at time.Time) {
	if ep.RateLimit <= 0 {
		return true, now
	}
	burst := max(1, ep.RateLimit/10)
	if ep.refilled.IsZero() {
		ep.tokens = burst
	} else {
		ep.tokens = min(burst, ep.tokens+now.Sub(ep.refilled).Seconds()*ep.RateLimit)
	}
	ep.refilled = now
	// A little less than one is one: times are rounded.
	if ep.tokens >= 1-1e-6 {
		ep.tokens--
		return true, now
	}
	return false, now.Add(max(time.Millisecond, time.Duration((1-ep.tokens)/ep.RateLimit*float64(time.Second))))
}

// keys are the secrets that sign now.
func (ep *endpoint) keys(now time.Time) []string {
	var keys []string
	for _, s := range ep.Secrets {
		if s.Until == nil || now.Before(*s.Until) {
			keys = append(keys, s.Key)
		}
	}
	return keys
}

// header returns the endpoint's own header fields.
func (ep *endpoint) header() []frame.Field {
	var h []frame.Field
	for k, v := range ep.Headers {
		h = append(h, frame.Field{Name: k, Value: v})
	}
	return h
}

func (ep *endpoint) view(c clock, now time.Time) View {
	v := View{
		Endpoint: ep.Endpoint, Status: ep.status(now), Reason: ep.Reason, Declared: ep.Declared,
		Created: ep.Created, Updated: ep.Updated, Failing: ep.Failing, LastError: ep.lastError, DeadLetters: ep.dead,
		Queue: QueueView{Messages: ep.depth, Bytes: ep.bytes},
		Kept:  KeptView{Messages: len(ep.kept), Bytes: ep.keptBytes},
	}
	v.Secret, v.Lease = "", 0
	if at, ok := ep.oldest(); ok {
		v.Queue.OldestAge = c.age(at, now).Seconds()
	}
	return v
}
