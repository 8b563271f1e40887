package connmgr

import "sync"

// group is all holds that the handler addresses with one key. Each writer loop
// has a list of its own members, which only it touches, so that a publication
// is written to them without a lock.
type group struct {
	key     string
	refs    []int32  // per writer: its members, and those on their way to it; guarded by groups.mu
	total   int      // sum of refs; guarded by groups.mu
	members [][]seat // per writer: owned by that writer
}

// seat is a place in a group's list of members. slot says which of the hold's
// memberships it is.
type seat struct {
	h    *hold
	slot int32
}

// membership is the other direction: a group of a hold, and its place there.
type membership struct {
	g  *group
	at int32
}

// groups is the table of all groups. A group exists while it has members.
type groups struct {
	writers int
	mu      sync.Mutex
	byKey   map[string]*group
}

// acquire counts a member of writer w before the writer knows of it. Whoever
// acquires sees to it that release follows.
func (t *groups) acquire(key string, w int) *group {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.byKey[key]
	if g == nil {
		if t.byKey == nil {
			t.byKey = make(map[string]*group)
		}
		g = &group{key: key, refs: make([]int32, t.writers), members: make([][]seat, t.writers)}
		t.byKey[key] = g
	}
	g.refs[w]++
	g.total++
	return g
}

func (t *groups) release(g *group, w int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g.refs[w]--
	if g.total--; g.total == 0 {
		delete(t.byKey, g.key)
	}
}

// each calls do for each writer that has members of the group called key, with
// their number.
func (t *groups) each(key string, do func(g *group, w int, members int32)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.byKey[key]
	if g == nil {
		return
	}
	for w, n := range g.refs {
		if n > 0 {
			do(g, w, n)
		}
	}
}

func (t *groups) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// join makes h a member of gs, and of no other groups. The references that were
// acquired for gs pass to it.
func (w *writer) join(h *hold, gs []*group) {
	old := h.members
	h.members = make([]membership, 0, len(gs))
	for _, m := range old {
		w.unseat(m)
	}
	for _, g := range gs {
		if h.in(g) {
			w.s.groups.release(g, w.i) // named twice
			continue
		}
		list := g.members[w.i]
		h.members = append(h.members, membership{g: g, at: int32(len(list))})
		g.members[w.i] = append(list, seat{h: h, slot: int32(len(h.members) - 1)})
	}
	for _, m := range old {
		w.s.groups.release(m.g, w.i)
	}
}

func (h *hold) in(g *group) bool {
	for _, m := range h.members {
		if m.g == g {
			return true
		}
	}
	return false
}

// leave takes h out of all groups. It moves members that fanOut has seen
// already, and no others: fanOut goes from the end of the list to its start.
func (w *writer) leave(h *hold) {
	for _, m := range h.members {
		w.unseat(m)
		w.s.groups.release(m.g, w.i)
	}
	h.members = nil
}

func (w *writer) unseat(m membership) {
	list := m.g.members[w.i]
	last := len(list) - 1
	if moved := list[last]; int(m.at) != last {
		list[m.at] = moved
		moved.h.members[moved.slot].at = m.at
	}
	list[last] = seat{}
	m.g.members[w.i] = list[:last]
}
