package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"time"
	"unique"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// connectionTTL is for how long a conn statistic is good.
const connectionTTL = 120 * time.Second

// stats counts per route, and tells the stats socket what Pushpin's tells. What
// it counts about clients it sees when a hold is handed over: requests that are
// answered at once never come here. Guarded by Server.mu.
type stats struct {
	s      *Server
	pub    *bus.Pub                                 // nil if there is no socket
	send   func(kind string, fields map[string]any) // nil if there is none
	routes map[unique.Handle[string]]*routeStats
	subs   map[subKey]time.Time // announced, when last
	since  time.Time            // of the reports' interval
	swept  time.Time            // when conn and sub statistics were last looked over
	pid    int
}

type subKey struct {
	mode    frame.Mode
	channel string
}

// routeStats is the counts of one route, or of all routes without an id.
type routeStats struct {
	conns, most  int
	slots        [60]int // holds by the second of the minute in which they began
	minutes      int
	received     int
	blocksIn     int
	sent         int
	blocksSent   int
	responseSent int
	activity     int
	requests     int
}

func newStats(s *Server) stats {
	return stats{s: s, routes: make(map[unique.Handle[string]]*routeStats), subs: make(map[subKey]time.Time), since: s.now(), swept: s.now(), pid: os.Getpid()}
}

func (st *stats) route(r unique.Handle[string]) *routeStats {
	rs := st.routes[r]
	if rs == nil {
		rs = new(routeStats)
		st.routes[r] = rs
	}
	return rs
}

// statsRoute returns whose counts a hold goes to.
func (h *hold) statsRoute() unique.Handle[string] {
	if h.named {
		return h.route
	}
	return none
}

// opened counts a hold. isNew is false for one that was there before, in another
// boot of the handler or as the request that is now sent again.
func (st *stats) opened(h *hold, isNew bool) {
	rs := st.route(h.statsRoute())
	rs.conns++
	rs.most = max(rs.most, rs.conns)
	h.slot = uint8(st.s.now().Second())
	rs.slots[h.slot]++
	st.minutes(rs, 1) // each started minute counts
	rs.activity++
	if isNew {
		st.route(none).requests++
	}
	if st.send != nil {
		st.conn(h)
	}
}

func (st *stats) minutes(rs *routeStats, n int) {
	rs.minutes += n
	st.s.metrics.connectionMinute.Add(float64(n))
}

// closed counts the end of a hold. silent is set if its connection goes on.
func (st *stats) closed(h *hold, silent bool) {
	rs := st.route(h.statsRoute())
	rs.conns--
	rs.slots[h.slot]--
	if st.send != nil && !silent {
		st.send("conn", map[string]any{"id": h.connID, "unavailable": true})
	}
}

func (st *stats) conn(h *hold) {
	kind := "http"
	if h.mode == frame.ModeWebSocket {
		kind = "ws"
	}
	st.send("conn", withRoute(h.statsRoute(), map[string]any{
		"id": h.connID, "type": kind, "peer-address": h.addr, "ttl": int(connectionTTL / time.Second),
	}))
}

func withRoute(route unique.Handle[string], fields map[string]any) map[string]any {
	if route != none {
		fields["route"] = route.Value()
	}
	return fields
}

// subscribed announces the first subscriber of a channel in a mode.
func (st *stats) subscribed(mode frame.Mode, c *chann) {
	if st.send == nil {
		return
	}
	key := subKey{mode, c.Name}
	if _, known := st.subs[key]; !known {
		st.sub(key, c)
	}
}

// unsubscribed is called when a hold has left a channel.
func (st *stats) unsubscribed(mode frame.Mode, name string) {
	if st.send == nil {
		return
	}
	if c := st.s.index.Get(name); c != nil && (mode == frame.ModeResponse || subscribers(c, mode) > 0) {
		return // others are there, or it lingers
	}
	st.subGone(subKey{mode, name})
}

func (st *stats) subGone(key subKey) {
	if _, known := st.subs[key]; known {
		delete(st.subs, key)
		st.send("sub", map[string]any{"mode": modeName(key.mode), "channel": key.channel, "unavailable": true})
	}
}

func (st *stats) sub(key subKey, c *chann) {
	st.subs[key] = st.s.now()
	st.send("sub", map[string]any{
		"mode": modeName(key.mode), "channel": key.channel, "subscribers": subscribers(c, key.mode),
		"ttl": int(st.s.opt.StatsSubscriptionTTL / time.Second),
	})
}

// ended is called when a channel is subscribed to no more, lingering included.
func (st *stats) ended(name string) {
	if st.send != nil {
		for _, mode := range modes {
			st.subGone(subKey{mode, name})
		}
	}
}

func subscribers(c *chann, mode frame.Mode) int {
	n := 0
	for _, g := range c.Groups {
		if g.Key.mode == mode {
			n += len(g.Subs)
		}
	}
	return n
}

func modeName(m frame.Mode) string {
	switch m {
	case frame.ModeResponse:
		return "response"
	case frame.ModeStream:
		return "stream"
	}
	return "ws"
}

// published counts an item that left the sequencer.
func (st *stats) published(it *publish.Item, c *chann) {
	rs := st.route(none)
	rs.received++
	blocks := st.s.limiter.blockSize > 0
	for _, mode := range modes {
		f := formatFor(it, mode)
		if f == nil {
			continue
		}
		if blocks {
			rs.blocksIn += st.s.limiter.blocks(it, f)
		}
		if st.send == nil || c == nil {
			continue
		}
		n := subscribers(c, mode)
		if n == 0 || !st.pub.Wanted(messageTopic) {
			continue
		}
		m := map[string]any{"channel": it.Channel, "count": n, "transport": mode.String()}
		if it.HasID {
			m["item-id"] = it.ID
		}
		if blocks {
			m["blocks"] = n * st.s.limiter.blocks(it, f)
		}
		st.send("message", m)
	}
}

// messageTopic begins the statistic that there is one of for each publication.
var messageTopic = []byte("message ")

// sent counts deliveries that are on their way to connmgr.
func (st *stats) sent(key groupKey, it *publish.Item, f *publish.Format, n int) {
	rs := st.route(key.route)
	rs.sent += n
	if key.mode == frame.ModeResponse {
		rs.responseSent += n
	}
	if st.s.limiter.blockSize > 0 {
		rs.blocksSent += n * st.s.limiter.blocks(it, f)
	}
}

// tick runs ten times a second.
func (st *stats) tick(now time.Time) {
	for route, rs := range st.routes {
		if rs.activity > 0 && st.send != nil {
			st.send("activity", withRoute(route, map[string]any{"count": rs.activity}))
		}
		if rs.requests > 0 && st.send != nil {
			st.send("counts", map[string]any{"requests-received": rs.requests})
		}
		rs.activity, rs.requests = 0, 0
	}
	if now.Sub(st.since) >= st.s.opt.StatsReportInterval {
		st.report(now)
	}
	if every := min(connectionTTL, st.s.opt.StatsSubscriptionTTL) / 4; now.Sub(st.swept) >= every {
		st.swept = now
		st.sweep(now)
	}
}

// second counts the minutes that start in this second.
func (st *stats) second(now time.Time) {
	for _, rs := range st.routes {
		if n := rs.slots[now.Second()]; n > 0 {
			st.minutes(rs, n)
		}
	}
}

// sweep says again what would be out of date before the next sweep but one.
func (st *stats) sweep(now time.Time) {
	if st.send == nil {
		return
	}
	for key, last := range st.subs {
		if c := st.s.index.Get(key.channel); c != nil && now.Sub(last) >= st.s.opt.StatsSubscriptionTTL/2 {
			st.sub(key, c)
		}
	}
	for _, p := range st.s.peers {
		for _, h := range p.holds {
			if !h.over {
				st.conn(h)
			}
		}
	}
}

// report sends the counts of the interval that ends.
func (st *stats) report(now time.Time) {
	duration := int(now.Sub(st.since) / time.Millisecond)
	st.since = now
	for route, rs := range st.routes {
		if st.send != nil {
			m := map[string]any{
				"connections": rs.most, "minutes": rs.minutes, "received": rs.received, "sent": rs.sent,
				"http-response-sent": rs.responseSent, "duration": duration,
			}
			if st.s.limiter.blockSize > 0 {
				m["blocks-received"], m["blocks-sent"] = rs.blocksIn, rs.blocksSent
			}
			st.send("report", withRoute(route, m))
		}
		if *rs == (routeStats{}) {
			delete(st.routes, route)
			continue
		}
		*rs = routeStats{conns: rs.conns, most: rs.conns, slots: rs.slots}
	}
}

// connections is the sum over routes of the most connections in this interval.
func (st *stats) connections() int {
	n := 0
	for _, rs := range st.routes {
		n += rs.most
	}
	return n
}

// encode returns a statistic as it goes over the socket.
func (st *stats) encode(kind string, fields map[string]any) []byte {
	fields["from"] = st.s.opt.Bus.Name()
	fields["handler_PID"] = st.pid
	b := []byte(kind + " ")
	if !st.s.opt.StatsJSON {
		return tnet.Append(append(b, 'T'), fields)
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(fields) // strings, numbers and a buffer: it cannot fail
	return append(append(b, 'J'), bytes.TrimSpace(text.Bytes())...)
}

// statsLoop lets statistics go to the socket until ctx ends.
func (s *Server) statsLoop(ctx context.Context, pub *bus.Pub) error {
	s.setStats(pub, func(kind string, fields map[string]any) {
		_ = pub.Send(s.stats.encode(kind, fields)) // the socket counts what it drops
	})
	<-ctx.Done()
	s.setStats(nil, nil)
	return ctx.Err()
}

func (s *Server) setStats(pub *bus.Pub, send func(string, map[string]any)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.pub, s.stats.send = pub, send
}
