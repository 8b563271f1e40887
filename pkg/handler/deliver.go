package handler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/channel"
	"github.com/holdfast/holdfast/pkg/filter"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/publish"
)

type (
	group = channel.Group[groupKey, *sub]
	chann = channel.Channel[groupKey, *sub]
)

const exposeHeaders = "Access-Control-Expose-Headers"

// receipt says what became of an item when it was published.
type receipt struct {
	it      *publish.Item
	result  channel.Result
	matched int // subscribers that it is for
	queued  int // those of them that it is on its way to
}

// fields is the receipt as the publisher gets it.
func (r receipt) fields() map[string]any {
	return map[string]any{"result": r.result.String(), "matched": r.matched, "queued": r.queued}
}

// publish takes items from an intake.
func (s *Server) publish(intake string, items ...*publish.Item) {
	s.take(intake, items, nil, nil)
}

// flushTime bounds publishFor when a connmgr stands still.
const flushTime = 5 * time.Second

// publishFor takes items from an intake that answers its publishers. It returns
// when what was sent to connmgrs is in the hands of the system, so that it is
// delivered although the handler may be killed at once. Items that wait in the
// handler, for the rate limit, for their predecessor or for a filter over HTTP,
// are not waited for. done, if not nil, is called for each item.
func (s *Server) publishFor(intake string, items []*publish.Item, done func(receipt)) {
	var to []string
	s.take(intake, items, done, &to)
	var limit *time.Timer
	for _, name := range to {
		written := s.opt.Bus.Written(name)
		if written == nil {
			continue
		}
		if limit == nil {
			limit = time.NewTimer(flushTime)
			defer limit.Stop()
		}
		select {
		case <-written:
		case <-limit.C:
			s.metrics.unwritten.Inc()
			return
		}
	}
}

// take takes items. done, if not nil, is called for each; to, if not nil, gets the
// names of the connmgrs to which something was sent.
func (s *Server) take(intake string, items []*publish.Item, done func(receipt), to *[]string) {
	s.metrics.published[intake].Add(float64(len(items)))
	s.metrics.messageReceived.Add(float64(len(items)))
	for _, it := range items {
		s.mu.Lock() // for each item, so that a large batch does not hold up the bus
		s.receipt, s.sentTo = receipt{}, to
		if done != nil {
			s.receipt.it = it
		}
		result := s.index.Publish(it, s.fanOut)
		got := s.receipt
		s.receipt, s.sentTo = receipt{}, nil
		if result != channel.Sent {
			s.tellHeld(it, result)
		}
		s.mu.Unlock()
		if done != nil {
			got.result = result
			done(got)
		}
		s.metrics.sequenced[result].Inc()
		if result == channel.Overflow {
			s.log.Debug("item dropped, too many wait for their predecessor", "channel", it.Channel)
		}
	}
}

// formatFor returns what an item holds for a mode.
func formatFor(it *publish.Item, mode frame.Mode) *publish.Format {
	switch mode {
	case frame.ModeResponse:
		return it.Response
	case frame.ModeStream:
		return it.Stream
	case frame.ModeWebSocket:
		return it.WebSocket
	}
	return nil
}

// fanOut hands an item to the subscribers of its channel. Caller holds mu.
func (s *Server) fanOut(it *publish.Item, c *chann) {
	receivers := 0
	if c != nil {
		for _, g := range c.Groups {
			if formatFor(it, g.Key.mode) != nil {
				receivers += len(g.Subs)
			}
		}
	}
	if s.logInfo {
		s.log.Info(fmt.Sprintf("publish channel=%s receivers=%d", it.Channel, receivers))
	}
	s.stats.published(it, c)
	s.beginTally(it, c, receivers)
	defer s.endSpread(it)
	if receivers == 0 {
		return
	}
	// Groups that end meanwhile leave this list alone, see channel.Unsubscribe.
	for _, g := range c.Groups {
		f := formatFor(it, g.Key.mode)
		if f == nil {
			continue
		}
		if isDelivery(f, g.Key.mode) {
			s.ledger.match(s.tallyOf(it), g.Key.mode, len(g.Subs))
		}
		if s.limiter.on() {
			s.enqueue(it, f, g)
		} else {
			s.deliver(it, f, g, nil)
		}
	}
}

// isDelivery reports whether an item is something that a subscriber of that mode
// gets, so that it has to be accounted for.
func isDelivery(f *publish.Format, mode frame.Mode) bool {
	switch f.Action {
	case publish.Send:
		return true
	case publish.Close:
		return mode != frame.ModeResponse
	}
	return false
}

// deliver brings an item to a group. Members that skip names are left out.
func (s *Server) deliver(it *publish.Item, f *publish.Format, g *group, skip map[*sub]bool) {
	plain := !g.Key.tracked && !f.Patch.IsSet() && isDelivery(f, g.Key.mode) && len(skip) == 0 &&
		(!f.CheckFilters || len(f.Filters) == 0)
	if !plain {
		s.deliverEach(it, f, g, skip)
		return
	}
	n := len(g.Subs)
	s.sendDeliver(g.Key, &frame.Deliver{Group: g.Tag}, it, f, f.Body, nil, n)
	if g.Key.mode == frame.ModeResponse || f.Action == publish.Close {
		s.dissolve(g)
	}
}

// dissolve takes the members of a group off their channels: each has been sent
// the last thing that it can get.
func (s *Server) dissolve(g *group) {
	for i := len(g.Subs) - 1; i >= 0; i-- {
		s.leave(g.Subs[i].Owner.hold)
	}
}

// sendDeliver completes a Deliver frame for n members and sends it.
func (s *Server) sendDeliver(key groupKey, d *frame.Deliver, it *publish.Item, f *publish.Format, body []byte, header []frame.Field, n int) {
	if n == 0 {
		return
	}
	d.Mode, d.Body, d.Header, d.ItemID = key.mode, body, header, it.ID
	d.Code, d.Reason, d.Kind = uint16(f.Code), f.Reason, uint8(f.Kind)
	if f.Action == publish.Close {
		d.Action = frame.ActionClose
	}
	if header == nil {
		d.Header = s.header(f)
	}
	d.Expose = f.Expose
	if it.HasID && (key.tracked || d.Group == "") {
		d.Channel = it.Channel
	}
	d.Pub = s.ledger.begin(key.peer, key.mode, n, s.now(), s.tallyOf(it))
	if err := s.send(key.peer.name, d); err != nil {
		s.ledger.cancel(d.Pub, sendReason(err))
		return
	}
	if s.sentTo != nil && !slices.Contains(*s.sentTo, key.peer.name) {
		*s.sentTo = append(*s.sentTo, key.peer.name)
	}
	s.stats.sent(d, key, it, f, n)
}

func (s *Server) header(f *publish.Format) []frame.Field {
	if len(f.Header) == 0 {
		return nil
	}
	h := make([]frame.Field, len(f.Header))
	for i := range h {
		h[i] = frame.Field(f.Header[i])
	}
	return h
}

// parcel is what several tracked members get alike.
type parcel struct {
	body    []byte
	exposed string
	ids     []uint64
}

// round brings one item to the members of a group that are looked at one by one,
// and sends what it made of that in few frames.
type round struct {
	s       *Server
	it      *publish.Item
	f       *publish.Format
	same    parcel             // the body as it was published
	view    view               // of the member at hand; here so that it is made once
	changed map[string]*parcel // by body and exposed names
	size    int                // bytes in changed
	patched map[string][]byte  // by base
}

// maxRound bounds what a round keeps before it sends it, in bytes: filters may make
// something else for each of many members.
const maxRound = 8 << 20

func (s *Server) deliverEach(it *publish.Item, f *publish.Format, g *group, skip map[*sub]bool) {
	r := round{s: s, it: it, f: f}
	// From the end: members that leave meanwhile are replaced by ones that were
	// seen already.
	var except []uint64 // members that do not get the body as it was published
	for i := len(g.Subs) - 1; i >= 0; i-- {
		sb := g.Subs[i].Owner
		id, n := sb.hold.id, len(r.same.ids)
		if !skip[sb] {
			r.member(sb)
		}
		if len(r.same.ids) == n {
			except = append(except, id)
		}
		if r.size > maxRound {
			r.flushChanged(g.Key)
		}
	}
	if len(except) < len(r.same.ids) {
		s.sendDeliver(g.Key, &frame.Deliver{Group: g.Tag, Except: except}, it, f, f.Body, nil, len(r.same.ids))
		r.same.ids = nil
	}
	r.flush(g.Key)
}

// member decides what the item is for one member, in the order that GRIP gives:
// position, content filters, filters, action.
func (r *round) member(sb *sub) {
	s, h := r.s, sb.hold
	if h.busy() {
		s.queue(h, r.it, r.f)
		return
	}
	if !r.inOrder(sb) {
		return
	}
	if r.f.CheckFilters {
		if err := filter.CheckContent(sb.filters, r.f.Filters); err != nil {
			r.drop(h, frame.ReasonFiltered)
			if h.debug {
				s.fail(h, err.Error())
			}
			return
		}
	}
	if len(sb.filters) == 0 {
		r.pass(sb, r.f.Body, false)
		return
	}
	r.view = view{h, sb, r.it}
	res, err := filter.Run(sb.filters, 0, &r.view, r.it.Meta, r.f.Body)
	r.filtered(sb, res, err)
}

// inOrder checks a member's position, and has it ask its origin if something is
// missing.
func (r *round) inOrder(sb *sub) bool {
	if !sb.hasLast || sb.lastID == r.it.PrevID {
		return true
	}
	r.drop(sb.hold, frame.ReasonNotReady)
	sb.Channel().Forget()
	r.s.requestUpdate(sb.hold, false)
	return false
}

// filtered goes on with what the filters said.
func (r *round) filtered(sb *sub, res filter.Result, err error) {
	h := sb.hold
	switch {
	case err != nil:
		r.s.metrics.filterErrors.Inc()
		reason := frame.ReasonFiltered
		if errors.Is(err, filter.ErrTooLong) || errors.Is(err, errAsks) {
			reason = frame.ReasonOverload
		}
		r.drop(h, reason)
		if h.debug {
			r.s.fail(h, "filter error: "+err.Error())
		}
	case res.Verdict == filter.Drop:
		r.advance(sb)
		r.drop(h, frame.ReasonFiltered)
	case res.Verdict == filter.Ask:
		r.s.askFilter(h, sb, r.it, r.f, res)
	default:
		r.pass(sb, res.Content, !sameBytes(res.Content, r.f.Body))
	}
}

// pass does the item's action.
func (r *round) pass(sb *sub, body []byte, filtered bool) {
	s, h := r.s, sb.hold
	r.advance(sb)
	sb.active = true
	switch {
	case r.f.Action == publish.Hint:
		if h.mode != frame.ModeWebSocket {
			s.requestUpdate(h, true)
		}
		return
	case r.f.Action == publish.Refresh && h.mode == frame.ModeWebSocket:
		s.refresh(frame.XID{Conn: h.peer.name, Boot: h.peer.boot, ID: h.id})
		return
	case !isDelivery(r.f, h.mode):
		return
	}
	if r.f.Patch.IsSet() {
		var err error
		if body, err = r.patch(h); err != nil {
			r.drop(h, frame.ReasonFiltered)
			s.fail(h, err.Error())
			return
		}
		filtered = true
	}
	p := &r.same
	if exposed := r.exposed(h); filtered || exposed != "" {
		p = r.parcel(body, exposed)
	}
	p.ids = append(p.ids, h.id)
	if h.mode == frame.ModeResponse || r.f.Action == publish.Close {
		s.leave(h)
	} else {
		s.touchNextTimer(h)
	}
}

// sameBytes reports whether a and b are the same piece of memory, as they are
// when no filter touched the content.
func sameBytes(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// exposed returns what Access-Control-Expose-Headers of a held response with
// cross-origin fields becomes when the item's fields are merged into it.
func (r *round) exposed(h *hold) string {
	if !h.cors || h.mode != frame.ModeResponse {
		return ""
	}
	return mergeExposed(h.exposed.Value(), r.s.header(r.f))
}

func (r *round) parcel(body []byte, exposed string) *parcel {
	key := exposed + "\n" + string(body)
	p := r.changed[key]
	if p == nil {
		p = &parcel{body: body, exposed: exposed}
		if r.changed == nil {
			r.changed = make(map[string]*parcel)
		}
		r.changed[key] = p
		r.size += len(key)
	}
	return p
}

// patch applies the item's body-patch to the body of a hold's response; holds
// with equal bodies share the work.
func (r *round) patch(h *hold) ([]byte, error) {
	base := h.base.Value()
	if b, ok := r.patched[base]; ok {
		return b, nil
	}
	b, err := r.f.Patch.Apply([]byte(base))
	if err != nil {
		return nil, err
	}
	if r.patched == nil {
		r.patched = make(map[string][]byte)
	}
	r.patched[base] = b
	return b, nil
}

// advance moves a member's position. An item without id ends the tracking.
func (r *round) advance(sb *sub) {
	if !sb.hasLast {
		return
	}
	sb.lastID, sb.hasLast = r.it.ID, r.it.HasID
	r.s.markDirty(sb.hold)
}

// drop accounts for a member that does not get the item.
func (r *round) drop(h *hold, reason frame.Reason) {
	if isDelivery(r.f, h.mode) {
		r.s.dropped(r.it, reason, 1)
	}
}

// flush sends what was decided.
func (r *round) flush(key groupKey) {
	r.send(key, &r.same, r.f.Body)
	r.flushChanged(key)
}

func (r *round) flushChanged(key groupKey) {
	for _, c := range r.changed {
		r.send(key, c, c.body)
	}
	r.changed, r.size = nil, 0
}

func (r *round) send(key groupKey, c *parcel, body []byte) {
	var header []frame.Field
	if c.exposed != "" {
		header = append(r.s.header(r.f), frame.Field{Name: exposeHeaders, Value: c.exposed})
	}
	r.s.sendDeliver(key, &frame.Deliver{Only: c.ids}, r.it, r.f, body, header, len(c.ids))
}

// mergeExposed adds the names of header fields to a list of them.
func mergeExposed(list string, h []frame.Field) string {
	var only []frame.Field
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			only = append(only, frame.Field{Name: name})
		}
	}
	for _, f := range grip.AddCORS(append(only, h...), nil) {
		if strings.EqualFold(f.Name, exposeHeaders) {
			return f.Value
		}
	}
	return ""
}

// view is what filters see of a subscriber while an item is delivered: its
// position in the item's channel is the item's own.
type view struct {
	*hold
	sb *sub
	it *publish.Item
}

// LastID implements filter.Subscriber.
func (v *view) LastID(name string) (string, bool) {
	if v.sb.hasLast && v.it.HasID && v.hold.bare(v.sb) == name {
		return v.it.ID, true
	}
	return v.hold.LastID(name)
}
