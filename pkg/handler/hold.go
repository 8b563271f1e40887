package handler

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/holdfast/holdfast/pkg/channel"
	"github.com/holdfast/holdfast/pkg/filter"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
)

// peer is one boot of a connmgr. Guarded by Server.mu.
type peer struct {
	name  string
	boot  uint64
	holds map[uint64]*hold
	done  bool // its records are all in
}

// groupKey tells the groups of a channel apart. What the handler does to all
// members at once is one Deliver frame for each group.
type groupKey struct {
	peer *peer
	mode frame.Mode
	// tracked members are looked at one by one: they have filters, a position
	// in the channel, a next link, or header fields that depend on the message.
	tracked bool
	// route is set for routes whose id was given by the operator. They have a
	// rate limit and statistics of their own.
	route unique.Handle[string]
}

// groupName is how connmgr knows a group. It depends on the hold alone, so that
// it is the same after a restart of the handler.
func groupName(mode frame.Mode, tracked bool, route, channel string) string {
	kind := [...]string{frame.ModeNone: "n", frame.ModeResponse: "r", frame.ModeStream: "s", frame.ModeWebSocket: "w"}[mode]
	if tracked {
		kind += "+"
	}
	return kind + route + "\x00" + channel // a route id contains no NUL
}

// sub is one subscription of a hold.
type sub struct {
	channel.Sub[groupKey, *sub]
	hold *hold
	// lastID is the position of the hold in the channel, if hasLast is set.
	lastID  string
	filters []string // those that do something
	joined  uint64   // number of the subscription, counting all
	hasLast bool
	// implicit channels are made by the route and carry no prefix.
	implicit bool
	active   bool // something was delivered since the next link's timer began
}

// hold is one client's connection that connmgr holds. There may be a hundred
// thousand of them, so it has only what a publication may need; the rest is in
// the record at connmgr, or in more for those that need it. Guarded by
// Server.mu.
type hold struct {
	peer    *peer
	id      uint64
	sendSeq uint64 // of the next frame to connmgr
	subs    []sub  // never grows: subscriptions point into it
	// asks says that some subscription has a filter that asks an HTTP service. An
	// item of another channel must not overtake one that waits for the answer.
	asks   bool
	route  unique.Handle[string]
	prefix unique.Handle[string]
	connID string
	addr   string // of the client
	meta   []frame.Field
	// base is what a body-patch is applied to; "" if it could not be. Most
	// long-polls of a site have the same timeout body, and share it here.
	base unique.Handle[string]
	// exposed is the value of Access-Control-Expose-Headers of a held response
	// that gets the cross-origin fields.
	exposed unique.Handle[string]
	more    *more
	life    *life // nil unless webhooks are told of the connection
	mode    frame.Mode
	named   bool // the route's id was given by the operator
	debug   bool
	cors    bool
	tls     bool  // the client's side counts as TLS
	slot    uint8 // see routeStats
	over    bool  // nothing is delivered any more; connmgr has yet to say Closed
	update  updateState
	// replaced holds go on under another number.
	replaced bool
}

// more is what only some holds need: WebSockets, whose subscriptions change, and
// those with a position, a link or filters over HTTP.
type more struct {
	acc *frame.Accept // without Header, Body and Request
	// dirty says that the record at connmgr is behind.
	dirty bool
	follow
}

var none = unique.Make("")

// bare returns the name of a subscription's channel as the origin knows it.
func (h *hold) bare(sb *sub) string {
	name := sb.Channel().Name
	if sb.implicit {
		return name
	}
	return strings.TrimPrefix(name, h.prefix.Value())
}

// lastIDs returns the positions of a hold, for Grip-Last.
func (h *hold) lastIDs() []frame.LastID {
	var all []frame.LastID
	for i := range h.subs {
		if sb := &h.subs[i]; sb.hasLast && sb.Channel() != nil {
			all = append(all, frame.LastID{Channel: h.bare(sb), ID: sb.lastID})
		}
	}
	return all
}

// tidyChannels applies the rules for the channels of an instruct: of equal names
// the last counts, and of those that the origin named only the first limit.
func tidyChannels(all []frame.Channel, limit int) []frame.Channel {
	kept := make([]frame.Channel, 0, min(len(all), limit+4))
	at := make(map[string]int, len(all))
	for _, c := range all {
		if i, ok := at[c.Name]; ok {
			c.Implicit = c.Implicit || kept[i].Implicit
			kept[i] = c
			continue
		}
		if !c.Implicit {
			if limit == 0 {
				continue
			}
			limit--
		}
		at[c.Name] = len(kept)
		kept = append(kept, c)
	}
	return kept
}

// newHold makes a hold of an Accept, from a proxy or from a record. It keeps no
// memory of the frame that it does not need.
func (s *Server) newHold(p *peer, a *frame.Accept) *hold {
	h := &hold{
		peer: p, id: a.X.ID, sendSeq: a.SendSeq, connID: a.ConnID, addr: a.Peer,
		route: unique.Make(a.Route), prefix: unique.Make(a.Prefix),
		mode: a.Mode, named: a.RouteNamed, debug: a.Debug, cors: a.CORS, tls: a.TLS,
		meta: slices.Clone(a.Meta), base: none, exposed: none,
	}
	if h.mode == frame.ModeNone {
		h.mode = frame.ModeStream // until a next link says otherwise
	}
	if h.mode == frame.ModeResponse {
		if b := bytes.TrimSpace(a.Body); len(b) > 0 && (b[0] == '{' || b[0] == '[') {
			h.base = unique.Make(string(a.Body))
		}
		if h.cors {
			for _, f := range a.Header {
				if strings.EqualFold(f.Name, exposeHeaders) {
					h.exposed = unique.Make(f.Value)
				}
			}
		}
	}
	if a.Events != "" {
		if a.Opened == 0 {
			a.Opened = uint64(s.now().UnixMilli()) //nolint:gosec // not before 1970
		}
		h.life = &life{endpoint: a.Events, opened: time.UnixMilli(int64(a.Opened))} //nolint:gosec // written above, perhaps by another handler
		if len(a.Channels) > 0 {
			h.life.channel = a.Channels[0].Name
		}
	}
	if needsMore(a) {
		kept := *a
		kept.Body, kept.Header, kept.Request = nil, nil, nil
		kept.KeepAlive.Data = bytes.Clone(a.KeepAlive.Data)
		h.more = &more{acc: &kept}
	}
	return h
}

func needsMore(a *frame.Accept) bool {
	if a.Mode == frame.ModeWebSocket || a.Gone != "" || a.Next.URI != "" && a.Mode != frame.ModeResponse {
		return true
	}
	for _, c := range a.Channels {
		if c.HasPrevID || slices.Contains(c.Filters, filter.HTTPCheck) || slices.Contains(c.Filters, filter.HTTPModify) {
			return true
		}
	}
	return false
}

// isTracked reports whether a subscription must be looked at one by one.
func (h *hold) isTracked(sb *sub) bool {
	return sb.hasLast || len(sb.filters) > 0 || h.asks || h.cors && h.mode == frame.ModeResponse || h.follows()
}

// follows reports whether the hold has a next link.
func (h *hold) follows() bool {
	return h.more != nil && h.more.acc.Next.URI != "" && h.mode == frame.ModeStream
}

// groups returns the names by which connmgr is to know the hold.
func (h *hold) groups() []string {
	names := make([]string, 0, len(h.subs))
	for i := range h.subs {
		if g := h.subs[i].Group(); g != nil {
			names = append(names, g.Tag)
		}
	}
	return names
}

// subscribe puts a hold on channels instead of those that it is on. It returns
// the names of channels that nobody was subscribed to before.
func (s *Server) subscribe(h *hold, channels []frame.Channel) (first []string) {
	old := h.subs
	h.subs = make([]sub, len(channels))
	h.asks = false
	for i := range channels {
		c, sb := &channels[i], &h.subs[i]
		sb.Owner, sb.hold, sb.joined = sb, h, s.joinedBefore(old, c.Name)
		sb.implicit, sb.lastID, sb.hasLast = c.Implicit, c.PrevID, c.HasPrevID
		for _, f := range c.Filters {
			if filter.Known(f) && len(sb.filters) < filter.MaxPerChannel {
				sb.filters = append(sb.filters, f)
				h.asks = h.asks || f == filter.HTTPCheck || f == filter.HTTPModify
			}
		}
	}
	for i := range channels { // now that it is known whether h asks
		if s.join(h, &h.subs[i], channels[i].Name) {
			first = append(first, channels[i].Name)
		}
	}
	s.subs += len(h.subs)
	if h.life != nil {
		s.tellSubscriptions(h, old)
	}
	s.unsubscribe(old) // afterwards, so that a channel that stays does not end
	return first
}

// joinedBefore returns the number of a subscription to the channel name: that of
// the one among old, which goes on, or else a new one.
func (s *Server) joinedBefore(old []sub, name string) uint64 {
	for i := range old {
		if c := old[i].Channel(); c != nil && c.Name == name {
			return old[i].joined
		}
	}
	s.joined++
	return s.joined
}

// join puts a subscription into the group where it belongs. It reports whether
// nobody was subscribed to the channel before.
func (s *Server) join(h *hold, sb *sub, name string) bool {
	key := groupKey{peer: h.peer, mode: h.mode, tracked: h.isTracked(sb), route: none}
	if h.named {
		key.route = h.route
	}
	first := s.index.Subscribe(&sb.Sub, name, key, h.mode == frame.ModeResponse, func() string {
		return groupName(key.mode, key.tracked, key.route.Value(), name)
	})
	s.stats.subscribed(h.mode, sb.Channel())
	return first
}

func (s *Server) unsubscribe(subs []sub) {
	for i := range subs {
		if c := subs[i].Channel(); c != nil {
			s.index.Unsubscribe(&subs[i].Sub)
			s.stats.unsubscribed(subs[i].hold.mode, c.Name)
		}
	}
	s.subs -= len(subs)
}

// leave takes a hold off its channels: nothing is delivered to it any more.
func (s *Server) leave(h *hold) {
	if h.over {
		return
	}
	h.over = true
	old := h.subs
	h.subs = nil
	if h.life != nil && !h.replaced {
		s.tellSubscriptions(h, old)
	}
	s.unsubscribe(old)
	s.stopFollowing(h)
}

// sendTo sends a frame of a hold to its connmgr. If it cannot be sent, the hold
// is over and the result false: connmgr, if it is still there, will find that the
// frame is missing, end the exchange, and say Closed.
func (s *Server) sendTo(h *hold, f frame.Frame) bool {
	err := s.send(h.peer.name, f)
	h.sendSeq++
	if err == nil {
		return true
	}
	s.leave(h)
	s.cut = append(s.cut, h)
	return false
}

// endCut sends those of which a frame is missing the next one, without which that
// would not be noticed. What is left of them is for Closed, or PeerDown.
func (s *Server) endCut() {
	for len(s.cut) > 0 {
		h := s.cut[0]
		if h.peer.holds[h.id] == h && s.peers[h.peer.name] == h.peer && s.send(h.peer.name, &frame.Finish{ID: h.id, Seq: h.sendSeq}) != nil {
			return // there is still no room
		}
		s.cut[0] = nil
		s.cut = s.cut[1:]
	}
	s.cut = nil
}

// parked is an Accept for a connmgr that has not shown up yet: after a restart
// the proxy may know it earlier than we do.
type parked struct {
	proxy string
	a     *frame.Accept
	until time.Time
}

const (
	maxParked  = 1024
	parkedTime = 5 * time.Second
)

// accept takes an exchange over, or refuses it. Caller holds mu.
func (s *Server) accept(proxy string, a *frame.Accept) {
	p := s.peers[a.X.Conn]
	if p == nil || p.boot != a.X.Boot {
		if len(s.parked) < maxParked {
			s.parked = append(s.parked, parked{proxy, a, s.now().Add(parkedTime)})
		} else {
			s.refuse(proxy, a, "service-unavailable", "too many exchanges wait for their connmgr")
		}
		return
	}
	if _, known := p.holds[a.X.ID]; known { // asked again because our answer was lost
		s.answer(proxy, &frame.Accepted{X: a.X, OK: true})
		return
	}
	if a.Mode > frame.ModeWebSocket || a.Mode == frame.ModeNone && a.Next.URI == "" {
		s.refuse(proxy, a, "bad-request", "neither hold nor next link")
		return
	}
	s.metrics.accepted[a.Mode].Inc()
	if !s.hold(proxy, p, a) {
		s.refuse(proxy, a, "service-unavailable", "connmgr cannot be told")
		return
	}
	s.answer(proxy, &frame.Accepted{X: a.X, OK: true})
}

func (s *Server) refuse(proxy string, a *frame.Accept, code, text string) {
	s.metrics.refused.Inc()
	s.answer(proxy, &frame.Accepted{X: a.X, Code: code, Text: text})
}

func (s *Server) answer(proxy string, f *frame.Accepted) {
	_ = s.send(proxy, f) // counted; the proxy asks again, or is gone
}

// unpark deals with the Accepts that wait for p, and refuses those that waited
// too long.
func (s *Server) unpark(now time.Time) {
	waiting := s.parked
	s.parked = nil
	for _, w := range waiting {
		p := s.peers[w.a.X.Conn]
		switch {
		case p != nil && p.boot == w.a.X.Boot:
			s.accept(w.proxy, w.a)
		case now.Before(w.until):
			s.parked = append(s.parked, w)
		default:
			s.refuse(w.proxy, w.a, "service-unavailable", "connmgr is not known")
		}
	}
}

// hold makes a hold, tells connmgr about it and checks its positions. All of it
// happens under one lock, and Hold goes to connmgr before any publication that
// counts the new member. It returns false if connmgr could not be told: the
// exchange is the proxy's still.
func (s *Server) hold(proxy string, p *peer, a *frame.Accept) bool {
	conflict := s.conflict(a)
	a.Channels = tidyChannels(a.Channels, s.opt.SubscriptionMax)
	if a.Mode == frame.ModeNone { // it subscribes when a next link says so
		a.Channels = slices.DeleteFunc(a.Channels, func(c frame.Channel) bool { return !c.Implicit })
	}
	a.Header = grip.Expose(grip.Strip(a.Header), a.Expose)
	if a.CORS {
		a.Header = grip.AddCORS(a.Header, a.Request)
	}
	a.Request, a.Last = nil, nil // done with; not for the record
	h := s.newHold(p, a)
	p.holds[h.id] = h
	s.metrics.holds[h.mode].Inc()

	var fault string // ends a stream that has begun
	body := a.Body
	if !a.HeadSent && h.mode == frame.ModeStream {
		body, fault = s.filterInitial(h, a)
	}
	if fault == "" && h.mode == frame.ModeStream && !h.follows() {
		for _, c := range a.Channels {
			if c.HasPrevID {
				fault = fmt.Sprintf("channel '%s' specifies prev-id, but no next link found", bareName(a, c))
				break
			}
		}
	}
	s.stats.opened(h, proxy)
	record := h.record(a)
	if h.life != nil && !a.Retry {
		s.tellOpened(h, a.Channels)
	}
	first := s.subscribe(h, a.Channels)
	f := &frame.Hold{
		ID: h.id, Seq: h.sendSeq, Mode: h.mode, Millis: a.Millis, KeepAlive: a.KeepAlive, Groups: h.groups(),
		HeadSent: a.HeadSent, Code: a.Code, Reason: a.Reason, Header: a.Header, Body: body, Record: record,
		Policy: a.Policy, JSONP: a.JSONP, JSONPMode: a.JSONPMode, Tell: a.Gone != "",
	}
	s.stats.began(h, f)
	if !s.sendTo(h, f) {
		s.closed(h, frame.ReasonOverload, 0)
		return false
	}
	s.logSubscribe(a)
	switch {
	case fault != "":
		s.endStream(h, fault)
	case conflict && h.mode == frame.ModeResponse:
		s.retry(h)
	case a.Mode == frame.ModeNone:
		s.fetchNext(h)
	case a.Mode == frame.ModeWebSocket:
	default:
		s.firstSubscriptions(first)
		s.startNextTimer(h)
		if conflict {
			s.requestUpdate(h, false)
		}
	}
	return true
}

// conflict reports whether the origin's view of a channel differs from ours: then
// a message fell between the origin's answer and now, and it is to be asked
// again. Ours stands, so that all who are behind ask, and not just the first. An
// origin that was told of its position and insists is believed.
func (s *Server) conflict(a *frame.Accept) bool {
	if a.Mode == frame.ModeNone {
		return false
	}
	found := false
	for _, c := range a.Channels {
		ch := s.index.Get(c.Name)
		if ch == nil || !c.HasPrevID {
			continue
		}
		last, ok := ch.Last()
		switch {
		case !ok || last == c.PrevID:
		case a.Mode == frame.ModeResponse && slices.Contains(a.Last, frame.LastID{Channel: bareName(a, c), ID: c.PrevID}):
			ch.Forget()
		default:
			found = true
		}
	}
	return found
}

func bareName(a *frame.Accept, c frame.Channel) string {
	if c.Implicit {
		return c.Name
	}
	return strings.TrimPrefix(c.Name, a.Prefix)
}

// filterInitial passes the initial body of a stream through its filters.
func (s *Server) filterInitial(h *hold, a *frame.Accept) (body []byte, fault string) {
	var names []string
	for _, c := range a.Channels {
		names = append(names, c.Filters...)
	}
	if !slices.Contains(names, filter.BuildID) {
		return a.Body, ""
	}
	f, err := filter.NewResponse(names, h)
	if err == nil {
		body, err = f.Write(a.Body)
	}
	if err == nil {
		err = f.End()
	}
	if err != nil {
		s.metrics.filterErrors.Inc()
		return nil, fmt.Sprintf("filter error: %s: %v", filter.BuildID, err)
	}
	return body, ""
}

// record is what connmgr keeps of a hold for the next handler: what newHold and
// subscribe need, not what connmgr itself has of the response.
func (h *hold) record(a *frame.Accept) []byte {
	r := *a
	r.Header, r.Body, r.Reason, r.Request = nil, nil, "", nil
	if base := h.base.Value(); base != "" {
		r.Body = []byte(base)
	}
	if exposed := h.exposed.Value(); exposed != "" {
		r.Header = []frame.Field{{Name: exposeHeaders, Value: exposed}}
	}
	return frame.Encode(&r)
}

// rebuild makes a hold from its record, after a restart of the handler.
func (s *Server) rebuild(p *peer, held *frame.Held) {
	if known := p.holds[held.ID]; known != nil { // it was accepted by this boot
		if held.Ended != frame.ReasonNone {
			s.closed(known, held.Ended, 0)
		}
		return
	}
	f, err := frame.Decode(held.Record)
	a, ok := f.(*frame.Accept)
	if err != nil || !ok {
		s.log.Error("hold record is not readable", "peer", p.name, "exchange", held.ID, "err", err)
		if held.Ended == frame.ReasonNone {
			// Nobody knows what it is subscribed to, so its client had better begin
			// anew. Not even how to end it is known: the gap leaves that to connmgr.
			_ = s.send(p.name, &frame.Finish{ID: held.ID, Seq: held.SendSeq + 1}) // counted
		}
		return
	}
	if held.Ended != frame.ReasonNone {
		if a.Gone != "" && held.Ended != frame.ReasonReplaced {
			s.fetchGone(a, 0)
		}
		return
	}
	a.X = frame.XID{Conn: p.name, Boot: p.boot, ID: held.ID}
	a.SendSeq = held.SendSeq
	for _, l := range held.Last {
		for i := range a.Channels {
			if c := &a.Channels[i]; c.Name == l.Channel && c.HasPrevID {
				c.PrevID = l.ID
			}
		}
	}
	h := s.newHold(p, a)
	p.holds[h.id] = h
	s.metrics.holds[h.mode].Inc()
	s.stats.opened(h, "")
	life := h.life
	h.life = nil // these subscriptions were told of by an earlier handler
	s.subscribe(h, a.Channels)
	h.life = life
	if a.Mode == frame.ModeNone {
		s.fetchNext(h)
		return
	}
	s.startNextTimer(h)
}

// closed is called when connmgr says that a hold is over, or has never heard of
// it. It is called once for each hold.
func (s *Server) closed(h *hold, reason frame.Reason, sent uint64) {
	h.replaced = reason == frame.ReasonReplaced
	s.leave(h)
	if h.life != nil && !h.replaced {
		s.tellClosed(h, reason, sent)
	}
	if h.peer.holds[h.id] == h {
		delete(h.peer.holds, h.id)
		s.metrics.holds[h.mode].Dec()
		s.stats.closed(h, h.replaced)
	}
	// A retry is not the end for the client; the new hold has the link again.
	if reason != frame.ReasonReplaced && h.more != nil && h.more.acc.Gone != "" {
		s.fetchGone(h.more.acc, 0)
	}
}

// retry sends a held request to its origin again.
func (s *Server) retry(h *hold) {
	if h.over {
		return
	}
	s.metrics.retries.Inc()
	last := h.lastIDs()
	h.replaced = true // it goes on under another number
	s.leave(h)
	s.sendTo(h, &frame.Retry{ID: h.id, Seq: h.sendSeq, Route: h.route.Value(), Last: last})
}

// endStream ends a stream because of a fault, which only a debug route shows.
func (s *Server) endStream(h *hold, fault string) {
	s.leave(h)
	f := &frame.Finish{ID: h.id, Seq: h.sendSeq}
	if h.debug {
		f.Body = []byte("\n\n" + fault + "\n")
	}
	s.sendTo(h, f)
}

// failResponse answers a held response because of a fault.
func (s *Server) failResponse(h *hold, fault string) {
	s.leave(h)
	text := "Error while proxying to origin.\n"
	if h.debug {
		text = fault + "\n"
	}
	s.sendTo(h, &frame.Finish{
		ID: h.id, Seq: h.sendSeq, Code: 502, Reason: "Bad Gateway",
		Header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}}, Body: []byte(text),
	})
}

// closeWebSocket ends a WebSocket because of a fault, which only a debug route
// shows.
func (s *Server) closeWebSocket(h *hold, fault string) {
	s.leave(h)
	f := &frame.Finish{ID: h.id, Seq: h.sendSeq, Code: 1011}
	if h.debug {
		f.Reason = fault[:min(len(fault), maxCloseReason)]
	}
	s.sendTo(h, f)
}

// maxCloseReason is how long the text of a close frame may be (RFC 6455 section
// 5.5).
const maxCloseReason = 123

// fail ends a hold because of a fault.
func (s *Server) fail(h *hold, fault string) {
	switch h.mode {
	case frame.ModeResponse:
		s.failResponse(h, fault)
	case frame.ModeWebSocket:
		s.closeWebSocket(h, fault)
	default:
		s.endStream(h, fault)
	}
}

func (s *Server) logSubscribe(a *frame.Accept) {
	if !s.logInfo {
		return
	}
	for _, c := range a.Channels {
		text := "subscribe " + a.URI + " channel=" + c.Name
		if a.Retry {
			text += " retry"
		}
		s.log.Info(text)
	}
}

func (s *Server) holdCount() int {
	n := 0
	for _, p := range s.peers {
		n += len(p.holds)
	}
	return n
}

// Meta, Subscribed and LastID implement filter.Subscriber.

// Meta implements filter.Subscriber.
func (h *hold) Meta(name string) (string, bool) {
	for i := range h.meta {
		if h.meta[i].Name == name {
			return h.meta[i].Value, true
		}
	}
	return "", false
}

// Subscribed implements filter.Subscriber.
func (h *hold) Subscribed(name string) bool {
	for i := range h.subs {
		if h.bare(&h.subs[i]) == name {
			return true
		}
	}
	return false
}

// LastID implements filter.Subscriber.
func (h *hold) LastID(name string) (string, bool) {
	for i := range h.subs {
		if sb := &h.subs[i]; sb.hasLast && h.bare(sb) == name {
			return sb.lastID, true
		}
	}
	return "", false
}
