package handler

import (
	"time"
	"unique"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
)

// maxRateBytes bounds what the jobs that wait for the rate limit keep in memory,
// whether or not there is a mark. Jobs that share an item each count all of it.
const maxRateBytes = 64 << 20

// limiter spreads deliveries over time. A job is one item for one group, and
// weighs what all its deliveries weigh; a heavy one leaves a debt that its
// bucket pays off before its next job. Buckets, one per route with an id and one
// for all others, are served in turn. Guarded by Server.mu.
type limiter struct {
	rate, hwm, blockSize int
	interval             time.Duration
	perTurn              int // units that each interval brings
	units                int // left of this interval
	next                 time.Time
	buckets              map[unique.Handle[string]]*bucket
	order                []*bucket // those with jobs or debt, the next one first
	waiting              int       // deliveries
	bytes                int
}

type bucket struct {
	route  unique.Handle[string]
	jobs   []job
	weight int // of jobs
	debt   int
}

type job struct {
	it     *publish.Item
	f      *publish.Format
	key    groupKey
	n      int // members when the item came
	weight int
	size   int    // of the item in memory
	joined uint64 // subscriptions made later do not get it
}

func newLimiter(rate, hwm, blockSize int) limiter {
	l := limiter{rate: rate, hwm: hwm, blockSize: blockSize, buckets: make(map[unique.Handle[string]]*bucket)}
	if rate >= 40 {
		l.interval = 25 * time.Millisecond
		l.perTurn = (rate*25 + 999) / 1000
	} else if rate > 0 {
		l.interval = time.Second / time.Duration(rate)
		l.perTurn = 1
	}
	return l
}

func (l *limiter) on() bool { return l.rate > 0 }

// blocks is the weight of one delivery.
func (l *limiter) blocks(it *publish.Item, f *publish.Format) int {
	if l.blockSize <= 0 {
		return 1
	}
	size := int64(len(f.Body))
	if it.Size >= 0 {
		size = it.Size
	}
	return int(max(1, min((size+int64(l.blockSize)-1)/int64(l.blockSize), 1<<20)))
}

// enqueue queues an item for a group, or drops it. Caller holds mu.
func (s *Server) enqueue(it *publish.Item, f *publish.Format, g *group) {
	l := &s.limiter
	b := l.buckets[g.Key.route]
	waiting := 0 // in the bucket
	if b != nil {
		waiting = b.weight
	}
	j := job{it: it, f: f, key: g.Key, n: len(g.Subs), size: it.Memory(), joined: s.joined}
	j.weight = j.n * l.blocks(it, f)
	// One fan-out may be heavier than the whole mark, so what counts is whether
	// the mark is reached already.
	if l.hwm > 0 && waiting >= l.hwm || l.bytes+j.size > maxRateBytes {
		if isDelivery(f, g.Key.mode) {
			s.dropped(it, frame.ReasonRate, j.n)
		}
		if skipped, ok := s.rateLog.Allow(s.now()); ok {
			s.log.Warn("exceeded publish hwm, dropping message", "hwm", l.hwm, "route", g.Key.route.Value(), "channel", it.Channel, "not_logged", skipped)
		}
		return
	}
	if b == nil {
		b = &bucket{route: g.Key.route}
		l.buckets[b.route] = b
		l.order = append(l.order, b)
	}
	b.jobs = append(b.jobs, j)
	b.weight += j.weight
	l.waiting += j.n
	l.bytes += j.size
	s.runJobs()
}

// runJobs runs the jobs that may go now.
func (s *Server) runJobs() {
	l := &s.limiter
	if now := s.now(); !now.Before(l.next) {
		l.units, l.next = l.perTurn, now.Add(l.interval)
	}
	for l.units > 0 && len(l.order) > 0 {
		b := l.order[0]
		l.order = l.order[1:]
		switch {
		case b.debt > 0:
			pay := 1
			if len(l.order) == 0 {
				pay = min(l.units, b.debt)
			}
			b.debt -= pay
			l.units -= pay
		default:
			j := b.jobs[0]
			b.jobs[0] = job{}
			b.jobs = b.jobs[1:]
			b.weight -= j.weight
			l.waiting -= j.n
			l.bytes -= j.size
			pay := min(l.units, j.weight)
			l.units -= pay
			b.debt = j.weight - pay
			s.runJob(&j)
		}
		if len(b.jobs) > 0 || b.debt > 0 {
			l.order = append(l.order, b)
		} else {
			delete(l.buckets, b.route)
		}
	}
}

// runJob delivers to the members of the job's group that are still there.
func (s *Server) runJob(j *job) {
	missing := j.n
	if c := s.index.Get(j.it.Channel); c != nil {
		for _, g := range c.Groups {
			if g.Key != j.key {
				continue
			}
			var late map[*sub]bool
			for _, sb := range g.Subs {
				if sb.Owner.joined > j.joined {
					if late == nil {
						late = make(map[*sub]bool)
					}
					late[sb.Owner] = true
				}
			}
			missing -= len(g.Subs) - len(late)
			s.deliver(j.it, j.f, g, late)
			break
		}
	}
	if isDelivery(j.f, j.key.mode) && missing > 0 {
		s.dropped(j.it, frame.ReasonClientGone, missing)
	}
}
