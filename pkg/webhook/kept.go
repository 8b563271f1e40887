package webhook

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A message that was delivered to an endpoint with Keep goes from its queue to
// what is kept, in the same commit; a resend moves it back. So at any time it is
// in one of three places of an endpoint: its queue, its dead letters, or here.
// Memory decides, the file follows.

const (
	// keptOverhead is what a kept message counts beside its own bytes: what the
	// file and the memory need for it, however short it is.
	keptOverhead = 256
	// maxResend is how many messages one request resends.
	maxResend = 10000
	// maxSweep is how many kept messages one commit forgets, so that publishes do
	// not wait for a long one; a delivery forgets maxSweepEach.
	maxSweep     = 5000
	maxSweepEach = 16
)

// Why messages are not kept any more.
const (
	forgotAge    = "age"     // Keep is over
	forgotRoom   = "room"    // Options.MaxKept
	forgotPurged = "purged"  // somebody said so
	forgotGone   = "deleted" // with their endpoint
)

// Places from which messages are queued again.
const (
	fromDead = "dead"
	fromKept = "kept"
)

// Kept is a message that was delivered and can be sent again.
type Kept struct {
	Number    uint64    `json:"number"` // in the order in which messages were stored
	Message   string    `json:"message"`
	Kind      string    `json:"type"`
	Channel   string    `json:"channel,omitempty"`
	At        time.Time `json:"at"` // when it was published
	Delivered time.Time `json:"delivered_at"`
	Attempts  uint32    `json:"attempts"`
	Size      uint32    `json:"size"`
}

// Resent is what came of a resend.
type Resent struct {
	Messages int `json:"resent"`
	// Last is the number of the last of them, and More says that others after it
	// were meant too, for which there was no room.
	Last uint64 `json:"last,omitempty"`
	More bool   `json:"more"`
}

// keepers is a heap of the endpoints that keep something; the one that keeps the
// most bytes, and so has to give up some first, is at the top.
type keepers []*endpoint

func (k keepers) Len() int           { return len(k) }
func (k keepers) Less(i, j int) bool { return k[i].keptBytes > k[j].keptBytes }
func (k keepers) Swap(i, j int) {
	k[i], k[j] = k[j], k[i]
	k[i].keeper, k[j].keeper = i+1, j+1
}

// Push implements heap.Interface.
func (k *keepers) Push(x any) {
	ep := x.(*endpoint)
	*k = append(*k, ep)
	ep.keeper = len(*k)
}

// Pop implements heap.Interface.
func (k *keepers) Pop() any {
	old := *k
	ep := old[len(old)-1]
	*k = old[:len(old)-1]
	ep.keeper = 0
	return ep
}

func keptCost(e entry) int64 { return keptOverhead + int64(e.size) }

// keep notes that a delivered entry is kept from now on. It reports false if it
// is not. Caller holds mu, and still counts the entry's message.
func (s *Service) keep(ep *endpoint, e entry, now time.Time) (entry, bool) {
	if ep.Keep <= 0 || keptCost(e) > s.o.MaxKept {
		return e, false
	}
	e.at, e.next = s.clock.millis(now), 0
	if n := len(ep.kept); n > 0 {
		e.at = max(e.at, ep.kept[n-1].at) // attempts end at a time, and come here one by one
	}
	ep.kept = append(ep.kept, e)
	s.countKept(ep, e, 1)
	return e, true
}

// countKept adds an entry to the totals, or with -1 removes it. Caller holds mu.
func (s *Service) countKept(ep *endpoint, e entry, n int32) {
	bytes := int64(n) * keptCost(e)
	ep.keptBytes += bytes
	s.keptBytes += bytes
	r := s.refs[e.seq]
	r.kept += n
	s.refs[e.seq] = r
	switch {
	case ep.keeper == 0:
		heap.Push(&s.keepers, ep)
	case ep.keptBytes == 0:
		heap.Remove(&s.keepers, ep.keeper-1)
	default:
		heap.Fix(&s.keepers, ep.keeper-1)
	}
}

// takeKept removes the entries with some numbers and returns them by number; those
// that are kept no longer are left out.
func (ep *endpoint) takeKept(seqs []uint64) []entry {
	wanted := make(map[uint64]bool, len(seqs))
	for _, seq := range seqs {
		wanted[seq] = true
	}
	taken := make([]entry, 0, len(wanted))
	ep.kept = slices.DeleteFunc(ep.kept, func(e entry) bool {
		if len(taken) == len(wanted) || !wanted[e.seq] {
			return false
		}
		taken = append(taken, e)
		return true
	})
	slices.SortFunc(taken, func(a, b entry) int { return cmp.Compare(a.seq, b.seq) })
	return taken
}

// putKept puts back what takeKept took.
func (ep *endpoint) putKept(all []entry) {
	ep.kept = append(ep.kept, all...)
	slices.SortStableFunc(ep.kept, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
}

// forgotten is a kept message that is about to be deleted.
type forgotten struct {
	ep *endpoint
	e  entry
}

// overdue removes up to limit entries that are over the bound of all, or over the
// time of one of some endpoints, and returns them. Caller holds mu.
func (s *Service) overdue(some []*endpoint, limit int, now time.Time) []forgotten {
	var all []forgotten
	shift := func(ep *endpoint, reason string) {
		e := ep.kept[0]
		if ep.kept = ep.kept[1:]; len(ep.kept) == 0 {
			ep.kept = nil // let go of the memory
		}
		s.metrics.forgotten[reason].Inc()
		all = append(all, forgotten{ep, e})
		s.countKept(ep, e, -1)
	}
	for len(all) < limit && s.keptBytes > s.o.MaxKept {
		shift(s.keepers[0], forgotRoom)
	}
	for _, ep := range some {
		for len(all) < limit && len(ep.kept) > 0 && s.clock.age(ep.kept[0].at, now) >= time.Duration(ep.Keep) {
			shift(ep, forgotAge)
		}
	}
	return all
}

// forget deletes messages that are neither in ep.kept nor counted any more. then
// may be nil. Caller holds mu.
func (s *Service) forget(all []forgotten, then func(error)) {
	if len(all) == 0 {
		return
	}
	var unused []uint64
	for _, f := range all {
		if s.unused(f.e.seq) {
			unused = append(unused, f.e.seq)
		}
	}
	s.submit(op{keep: true, then: then, apply: func(tx *bolt.Tx) error {
		for _, f := range all {
			if err := del(tx, bucketKept, key(f.ep.Num, f.e.seq)); err != nil {
				return err
			}
		}
		for _, seq := range unused {
			if err := del(tx, bucketMessages, seqKey(seq)); err != nil {
				return err
			}
		}
		return nil
	}})
}

// sweep forgets all that is kept for too long, a part at a time. Caller holds mu.
func (s *Service) sweep() {
	if s.sweeping {
		return
	}
	all := s.overdue(slices.Clone(s.keepers), maxSweep, time.Now())
	s.sweeping = len(all) == maxSweep
	s.forget(all, func(error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.sweeping {
			s.sweeping = false
			s.sweep()
		}
	})
}

// findKept calls f with the kept messages of an endpoint that are chosen, by
// number, from the one after a number on, until f says no.
func (s *Service) findKept(ep *endpoint, c Choice, after uint64, f func(k Kept) bool) error {
	s.mu.Lock()
	keep := time.Duration(ep.Keep)
	s.mu.Unlock()
	now := time.Now()
	chosen := c.matcher()
	return s.db.View(func(tx *bolt.Tx) error {
		messages := tx.Bucket(bucketMessages)
		eachOf(tx, bucketKept, ep.Num, after+1, func(seq uint64, v []byte) bool {
			e, err := parseEntry(seq, v)
			if err != nil || now.Sub(time.UnixMilli(e.at)) >= keep {
				return true // nobody can read it, or it is about to be forgotten
			}
			m, _, err := parseHead(messages.Get(seqKey(seq)))
			if err != nil || !chosen(m.ID, m.At) {
				return true
			}
			return f(Kept{
				Number: seq, Message: m.ID, Kind: m.Kind, Channel: m.Channel, At: m.At, Delivered: time.UnixMilli(e.at),
				Attempts: e.attempts, Size: e.size,
			})
		})
		return nil
	})
}

// Kept returns messages that are kept for an endpoint, by number, from the one
// after a number on.
func (s *Service) Kept(id string, c Choice, after uint64, limit int) ([]Kept, error) {
	ep, err := s.find(id)
	if err != nil {
		return nil, err
	}
	all := []Kept{}
	err = s.findKept(ep, c, after, func(k Kept) bool {
		all = append(all, k)
		return len(all) < limit
	})
	return all, err
}

// Resend puts kept messages back into the queue, by number, from the one after a
// number on, as far as there is room and not more than 10,000. They have the ids
// that they had.
func (s *Service) Resend(id string, c Choice, after uint64) (Resent, error) {
	ep, err := s.find(id)
	if err != nil {
		return Resent{}, err
	}
	s.mu.Lock()
	room := min(maxResend, ep.MaxQueue-ep.depth, s.o.MaxPending-s.pending)
	bytes := min(ep.MaxBytes-ep.bytes, s.o.MaxBytes-s.bytes)
	s.mu.Unlock()
	var res Resent
	var seqs []uint64
	err = s.findKept(ep, c, after, func(k Kept) bool {
		bytes -= int64(k.Size)
		if res.More = len(seqs) >= room || bytes < 0; res.More {
			return false
		}
		seqs = append(seqs, k.Number)
		return true
	})
	if err != nil || len(seqs) == 0 {
		return res, err
	}
	res.Last = seqs[len(seqs)-1]
	res.Messages, err = s.requeue(ep, seqs)
	return res, err
}

// requeue moves kept messages to the queue, and returns how many were still kept.
func (s *Service) requeue(ep *endpoint, seqs []uint64) (int, error) {
	done := make(chan error, 1)
	now := time.Now()
	s.mu.Lock()
	if err := s.usable(ep); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	taken := ep.takeKept(seqs)
	queued := make([]entry, len(taken))
	for i, e := range taken {
		queued[i] = entry{seq: e.seq, at: s.clock.millis(now), size: e.size}
		s.retain(e.seq)
		s.countKept(ep, e, -1)
		s.count(ep, queued[i], 1)
	}
	s.submit(op{apply: func(tx *bolt.Tx) error {
		for _, e := range queued {
			k := key(ep.Num, e.seq)
			if err := del(tx, bucketKept, k); err != nil {
				return err
			}
			if err := put(tx, bucketQueue, k, appendEntry(nil, s.clock.save(e, now))); err != nil {
				return err
			}
		}
		return nil
	}, then: func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err == nil {
			s.metrics.replayed[fromKept].Add(float64(len(queued)))
			for _, e := range queued {
				ep.push(e)
			}
			s.kick(ep)
		} else {
			for i, e := range queued {
				s.count(ep, e, -1)
				s.countKept(ep, taken[i], 1)
				s.release(e.seq)
			}
			ep.putKept(taken)
		}
		done <- err
	}})
	s.mu.Unlock()
	if err := <-done; err != nil {
		return 0, err
	}
	return len(taken), nil
}

// PurgeKept forgets kept messages and returns how many.
func (s *Service) PurgeKept(id string, c Choice) (int, error) {
	ep, err := s.find(id)
	if err != nil {
		return 0, err
	}
	n := 0
	for after := uint64(0); ; {
		var seqs []uint64
		err := s.findKept(ep, c, after, func(k Kept) bool {
			seqs = append(seqs, k.Number)
			return len(seqs) < maxSweep
		})
		if err != nil || len(seqs) == 0 {
			return n, err
		}
		after = seqs[len(seqs)-1]
		s.mu.Lock()
		if err := s.usable(ep); err != nil {
			s.mu.Unlock()
			return n, err
		}
		var all []forgotten
		for _, e := range ep.takeKept(seqs) {
			s.countKept(ep, e, -1)
			all = append(all, forgotten{ep, e})
		}
		s.metrics.forgotten[forgotPurged].Add(float64(len(all)))
		s.forget(all, nil)
		s.mu.Unlock()
		if err := s.do(func(*bolt.Tx) error { return nil }); err != nil { // waits for the disk
			return n, err
		}
		n += len(all)
	}
}

// usable reports why nothing can be done with an endpoint. Caller holds mu.
func (s *Service) usable(ep *endpoint) error {
	switch {
	case s.stopping:
		return ErrStopping
	case ep.gone:
		return fmt.Errorf("%w: %.64q", ErrNotFound, ep.ID)
	}
	return nil
}
