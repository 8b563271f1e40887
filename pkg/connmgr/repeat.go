package connmgr

import (
	"hash/maphash"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

// A publisher that gets no answer because the handler was killed publishes its
// item again. The next boot of the handler does not know that the item went out,
// but connmgr does.

// maxRepeats is how many items are remembered, for each group, and for each hold
// that got one of its own.
const maxRepeats = 1 << 15

// repeats knows the items that came in the last while. It is owned by the bus's
// goroutine.
type repeats struct {
	keep time.Duration // 0: remember nothing
	seed maphash.Seed
	by   map[uint64]sighting
	ring []uint64 // keys of by, in the order in which they came, from head on
	head int
}

type sighting struct {
	src *peer
	at  time.Time
}

func newRepeats(keep time.Duration) repeats {
	return repeats{keep: keep, seed: maphash.MakeSeed(), by: make(map[uint64]sighting)}
}

// repeated notes that an item of src is for a group, or for one hold, and reports
// whether an earlier boot of src had sent it there.
func (r *repeats) repeated(src *peer, f *frame.Deliver, hold uint64, now time.Time) bool {
	if r.keep == 0 || f.ItemID == "" {
		return false
	}
	var h maphash.Hash
	h.SetSeed(r.seed)
	// Writes to a Hash never fail. Neither a group nor a channel ends with the
	// zero that parts them from what follows.
	_, _ = h.WriteString(f.Group)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(f.Channel)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(f.ItemID)
	maphash.WriteComparable(&h, hold)
	key := h.Sum64()
	old, known := r.by[key]
	if known && old.src != src && old.src.Name == src.Name && now.Sub(old.at) < r.keep {
		return true
	}
	r.by[key] = sighting{src, now}
	if known {
		return false
	}
	if len(r.ring) < maxRepeats {
		r.ring = append(r.ring, key)
		return false
	}
	delete(r.by, r.ring[r.head])
	r.ring[r.head] = key
	r.head = (r.head + 1) % maxRepeats
	return false
}
