package handler

import (
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
	"github.com/holdfast/holdfast/pkg/wheel"
)

// An update makes a hold ask its origin again: a held response by having its
// request sent again, a stream by fetching its next link. Updates of high
// priority go at once, others through updateQueue, so that a thousand holds
// that find a gap do not fall upon their origin together.

type updateState uint8

const (
	updateNone updateState = iota
	updateWaiting
)

const (
	updateEvery = 100 * time.Millisecond // one batch each
	updateBatch = 100
	firstDelay  = time.Second
	maxQueued   = 100 // items that wait for one hold
)

// responseKey is the batch key of all held responses; no URI is empty.
const responseKey = ""

// updateQueue holds the updates of low priority, in batches by next link, served
// in turn. Guarded by Server.mu.
type updateQueue struct {
	byKey   map[string][]*hold
	order   []string
	waiting int
}

func (q *updateQueue) push(key string, h *hold) {
	if q.byKey == nil {
		q.byKey = make(map[string][]*hold)
	}
	if q.byKey[key] == nil {
		q.order = append(q.order, key)
	}
	q.byKey[key] = append(q.byKey[key], h)
	q.waiting++
}

// pop returns the holds of the next batch.
func (q *updateQueue) pop() []*hold {
	if len(q.order) == 0 {
		return nil
	}
	key := q.order[0]
	q.order = q.order[1:]
	all := q.byKey[key]
	batch := all[:min(len(all), updateBatch)]
	if rest := all[len(batch):]; len(rest) > 0 {
		q.byKey[key] = rest
		q.order = append(q.order, key)
	} else {
		delete(q.byKey, key)
	}
	q.waiting -= len(batch)
	return batch
}

// follow is the part of a hold that follows next links or asks filters over
// HTTP. While it waits for an answer, items queue up.
type follow struct {
	timer    wheel.Timer[*hold]
	fetching bool
	asking   bool
	asked    *publish.Item // what asks, if it is a delivery, to be accounted for if it comes to nothing
	failures int           // of the fetch at hand
	links    linkPace
	paced    uint64 // number of the last body in Server.paced
	again    bool   // an update came while fetching
	queue    []queued
}

// queued is an item that waits for a hold. The subscription is looked up again
// when its turn comes.
type queued struct {
	it *publish.Item
	f  *publish.Format
}

// busy reports whether items for the hold have to wait.
func (h *hold) busy() bool {
	return h.more != nil && (h.more.fetching || h.more.asking || h.update == updateWaiting && h.mode == frame.ModeStream)
}

// queue keeps an item for a busy hold.
func (s *Server) queue(h *hold, it *publish.Item, f *publish.Format) {
	if len(h.more.queue) >= maxQueued || !s.waiting.keep(it) {
		if isDelivery(f, h.mode) {
			s.dropped(it, frame.ReasonOverload, 1)
		}
		return
	}
	h.more.queue = append(h.more.queue, queued{it, f})
}

// clearQueue drops what waits for a hold.
func (s *Server) clearQueue(h *hold) {
	for _, q := range h.more.queue {
		s.waiting.release(q.it)
		if isDelivery(q.f, h.mode) {
			s.dropped(q.it, frame.ReasonNotReady, 1)
		}
	}
	h.more.queue = nil
}

// drain brings a hold what waited for it. resync drops what the new position
// makes obsolete, up to the first item that fits.
func (s *Server) drain(h *hold, resync bool) {
	waiting := h.more.queue
	h.more.queue = nil
	for i, q := range waiting {
		sb := h.find(q.it.Channel)
		switch {
		case h.over || sb == nil || resync && sb.hasLast && sb.lastID != q.it.PrevID:
			s.waiting.release(q.it)
			if isDelivery(q.f, h.mode) {
				s.dropped(q.it, frame.ReasonNotReady, 1)
			}
			continue
		case h.busy():
			h.more.queue = append(h.more.queue, waiting[i:]...)
			return
		}
		resync = false
		r := round{s: s, it: q.it, f: q.f}
		key := sb.Group().Key // the item may end the hold
		r.member(sb)
		r.flush(key)
		s.waiting.release(q.it)
	}
}

// find returns the subscription of a hold to a channel.
func (h *hold) find(channel string) *sub {
	for i := range h.subs {
		if c := h.subs[i].Channel(); c != nil && c.Name == channel {
			return &h.subs[i]
		}
	}
	return nil
}

// requestUpdate makes a hold ask its origin again, at once or when its turn
// comes.
func (s *Server) requestUpdate(h *hold, high bool) {
	if h.over {
		return
	}
	if h.mode == frame.ModeResponse {
		switch {
		case high:
			s.retry(h)
		case h.update == updateNone:
			h.update = updateWaiting
			s.updates.push(responseKey, h)
		}
		return
	}
	if !h.follows() {
		return
	}
	s.clearQueue(h)
	switch {
	case h.more.fetching:
		h.more.again = true
	case high:
		s.fetchNext(h)
	case h.update == updateNone:
		h.update = updateWaiting
		s.timers.Stop(&h.more.timer)
		s.updates.push(h.more.acc.Next.URI, h)
	}
}

// runUpdates runs the next batch of updates.
func (s *Server) runUpdates() {
	for _, h := range s.updates.pop() {
		if h.update != updateWaiting || h.over {
			continue // overtaken
		}
		h.update = updateNone
		if h.mode == frame.ModeResponse {
			s.retry(h)
		} else {
			s.fetchNext(h)
		}
	}
}

// first is a channel that got its first subscriber.
type first struct {
	channel string
	at      time.Time
}

// firstSubscriptions remembers to have the holds of new channels ask their
// origin again: until then, publishers that wait for subscriptions may not have
// known of ours.
func (s *Server) firstSubscriptions(names []string) {
	if !s.opt.UpdateOnFirstSubscription {
		return
	}
	for _, name := range names {
		s.firsts = append(s.firsts, first{name, s.now().Add(firstDelay)})
	}
}

func (s *Server) runFirsts(now time.Time) {
	for len(s.firsts) > 0 && !now.Before(s.firsts[0].at) {
		if c := s.index.Get(s.firsts[0].channel); c != nil {
			s.updateChannel(c)
		}
		s.firsts = s.firsts[1:]
	}
}

// updateChannel makes all HTTP holds of a channel ask their origin again.
func (s *Server) updateChannel(c *chann) {
	for _, g := range c.Groups {
		if g.Key.mode == frame.ModeWebSocket {
			continue
		}
		for _, sb := range g.Subs {
			s.requestUpdate(sb.Owner.hold, false)
		}
	}
}

// recoverAll forgets all positions of channels and makes all HTTP holds ask their
// origin again.
func (s *Server) recoverAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index.ForgetAll()
	for _, p := range s.peers {
		for _, h := range p.holds {
			s.requestUpdate(h, false)
		}
	}
}

// startNextTimer starts the timer of a hold's next link.
func (s *Server) startNextTimer(h *hold) {
	if h.over || !h.follows() || h.more.acc.Next.Millis == 0 && len(h.subs) == 0 {
		return
	}
	for i := range h.subs {
		h.subs[i].active = false
	}
	// Below a second it would be a loop that only the update queue bounds.
	d := max(time.Duration(h.more.acc.Next.Millis)*time.Millisecond, time.Second)
	h.more.timer.Owner = h
	s.timers.Set(&h.more.timer, s.now().Add(d))
}

// touchNextTimer starts it anew once each channel has delivered something.
func (s *Server) touchNextTimer(h *hold) {
	if !h.follows() || !h.more.timer.Active() {
		return
	}
	for i := range h.subs {
		if !h.subs[i].active {
			return
		}
	}
	s.startNextTimer(h)
}

// stopFollowing ends what a hold has under way.
func (s *Server) stopFollowing(h *hold) {
	if h.more == nil {
		return
	}
	s.timers.Stop(&h.more.timer)
	delete(s.paced, h.more.paced) // connmgr may not report what came to a hold that was over
	s.clearQueue(h)
	if h.more.asking && h.more.asked != nil {
		s.dropped(h.more.asked, frame.ReasonNotReady, 1)
	}
	h.more.fetching, h.more.asking = false, false
}

// markDirty notes that the record at connmgr is behind.
func (s *Server) markDirty(h *hold) {
	if h.more != nil && !h.more.dirty {
		h.more.dirty = true
		s.dirty = append(s.dirty, h)
	}
}

// writeRecords brings the records at connmgr up to date. It runs once a second:
// connmgr notes the positions that follow from what it delivers. What it cannot
// know, such as that a filter dropped an item, makes an origin send again what
// it had sent since, and no more.
func (s *Server) writeRecords() {
	for _, h := range s.dirty {
		if !h.over && h.more.dirty {
			s.sendUpdate(h, nil, 0)
		}
	}
	s.dirty = s.dirty[:0]
}

// sendUpdate tells connmgr what has changed about a hold, and what to append to
// its stream; pub is the number under which that is reported, if any. It reports
// whether the hold is still there.
func (s *Server) sendUpdate(h *hold, body []byte, pub uint64) bool {
	a := h.more.acc
	h.more.dirty = false
	for i := range a.Channels {
		if sb := h.find(a.Channels[i].Name); sb != nil {
			a.Channels[i].PrevID, a.Channels[i].HasPrevID = sb.lastID, sb.hasLast
		}
	}
	// The groups must be the ones that the record leads to.
	for i := range h.subs {
		if sb := &h.subs[i]; sb.Group().Key.tracked != h.isTracked(sb) {
			name := sb.Channel().Name
			s.index.Unsubscribe(&sb.Sub)
			s.join(h, sb, name)
		}
	}
	u := &frame.Update{
		ID: h.id, Seq: h.sendSeq, Groups: h.groups(), KeepAlive: a.KeepAlive, Record: h.record(a), Body: body, Pub: pub,
	}
	return s.sendTo(h, u)
}
