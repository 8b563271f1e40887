package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
	"unique"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// stats counts per route, and tells the stats socket what Pushpin's tells. What
// concerns requests that are answered at once, and the traffic with origins, the
// proxies report. Guarded by Server.mu.
type stats struct {
	s          *Server
	pub        *bus.Pub                                 // nil if there is no socket
	send       func(kind string, fields map[string]any) // nil if there is none
	routes     map[unique.Handle[string]]*routeStats
	subs       map[subKey]time.Time                     // announced, when last
	conns      map[string]*proxyConn                    // connections at proxies, while somebody wants to hear of them
	open       map[string]map[unique.Handle[string]]int // connections that each proxy has, by route
	watch      bool                                     // the proxies were asked to tell of connections
	since      time.Time                                // of the reports' interval
	swept      time.Time                                // when conn and sub statistics were last looked over
	sweptConns time.Time                                // when connections were last told of again
	from       string                                   // Pushpin's name for the handler, with its process id
}

type subKey struct {
	mode    frame.Mode
	channel string
}

// proxyConn is a connection that a proxy serves.
type proxyConn struct {
	frame.ConnStat
	proxy string
	told  time.Time
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
	client       frame.Traffic
	server       frame.Traffic
	quiet        bool // the last report said that nothing is going on
}

func newStats(s *Server) stats {
	return stats{
		s: s, routes: make(map[unique.Handle[string]]*routeStats), subs: make(map[subKey]time.Time), since: s.now(), swept: s.now(),
		conns: make(map[string]*proxyConn), open: make(map[string]map[unique.Handle[string]]int), from: fmt.Sprintf("handler_%d", os.Getpid()),
	}
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

// opened counts a hold. proxy is who handed it over and counted it until then; ""
// if it was there before this handler.
func (st *stats) opened(h *hold, proxy string) {
	route := h.statsRoute()
	rs := st.route(route)
	if n := st.open[proxy][route]; n > 0 {
		st.open[proxy][route] = n - 1
		rs.conns--
	}
	rs.conns++
	rs.most = max(rs.most, rs.conns)
	h.slot = uint8(st.s.now().Second()) // its first minute was counted by the proxy
	rs.slots[h.slot]++
	delete(st.conns, h.connID)
	if st.sendsConns() {
		st.conn(h)
	}
}

// sendsConns reports whether connections are told of one by one.
func (st *stats) sendsConns() bool { return st.s.opt.StatsConnectionSend && st.wanted(connTopic) }

// wanted reports whether somebody listens to statistics of a kind. Those of which
// there may be very many are not made for nobody.
func (st *stats) wanted(topic []byte) bool { return st.send != nil && st.pub.Wanted(topic) }

// reported takes what a proxy counted.
func (st *stats) reported(proxy string, f *frame.Stats) {
	for i := range f.Routes {
		r := &f.Routes[i]
		route := none
		if r.Route != "" {
			route = unique.Make(r.Route)
		}
		rs := st.route(route)
		if st.open[proxy] == nil {
			st.open[proxy] = make(map[unique.Handle[string]]int)
		}
		before := st.open[proxy][route]
		others := rs.conns - before
		if st.open[proxy][route] = int(r.Open); r.Open == 0 {
			delete(st.open[proxy], route)
		}
		rs.conns = others + int(r.Open)
		rs.most = max(rs.most, others+int(r.Most), rs.conns)
		rs.activity += int(r.Activity)
		st.route(none).requests += int(r.Requests)
		st.s.metrics.requestReceived.Add(float64(r.Requests))
		st.minutes(rs, int(r.Minutes))
		rs.client.Add(r.Client)
		rs.server.Add(r.Server)
	}
	for i := range f.Conns {
		st.reportedConn(proxy, &f.Conns[i])
	}
}

// maxProxyConns bounds the connections at proxies that are told of again and
// again.
const maxProxyConns = 1 << 20

func (st *stats) reportedConn(proxy string, c *frame.ConnStat) {
	if !st.sendsConns() {
		return
	}
	if c.Gone {
		delete(st.conns, c.ID)
		st.connGone(c.ID)
		return
	}
	if len(st.conns) < maxProxyConns {
		st.conns[c.ID] = &proxyConn{*c, proxy, st.s.now()}
	}
	st.sendConn(c)
}

// proxyGone ends the count of what a proxy served.
func (st *stats) proxyGone(proxy string) {
	for route, n := range st.open[proxy] {
		st.route(route).conns -= n
	}
	delete(st.open, proxy)
	for id, c := range st.conns {
		if c.proxy == proxy {
			delete(st.conns, id)
			if st.sendsConns() {
				st.connGone(id)
			}
		}
	}
}

// lookForWatchers asks the proxies to tell of connections, or not to any more,
// according to whether somebody listens.
func (st *stats) lookForWatchers() {
	watch := st.sendsConns()
	if watch == st.watch {
		return
	}
	st.watch = watch
	if !watch {
		clear(st.conns)
	}
	for _, p := range st.s.opt.Bus.Peers("proxy") {
		st.askProxy(p.Name)
	}
}

// askProxy tells a proxy whether to tell of connections.
func (st *stats) askProxy(name string) { _ = st.s.send(name, &frame.Watch{Conns: st.watch}) } // counted

// Topics of statistics of which there may be very many.
var (
	messageTopic = []byte("message ")
	subTopic     = []byte("sub ")
	connTopic    = []byte("conn ")
)

func (st *stats) minutes(rs *routeStats, n int) {
	rs.minutes += n
	st.s.metrics.connectionMinute.Add(float64(n))
}

// closed counts the end of a hold. silent is set if its connection goes on.
func (st *stats) closed(h *hold, silent bool) {
	rs := st.route(h.statsRoute())
	rs.conns--
	rs.slots[h.slot]--
	if st.sendsConns() && !silent {
		st.connGone(h.connID)
	}
}

func (st *stats) connGone(id string) {
	st.send("conn", map[string]any{"id": id, "unavailable": true})
}

// conn tells of a hold's connection.
func (st *stats) conn(h *hold) {
	c := frame.ConnStat{ID: h.connID, Peer: h.addr, WebSocket: h.mode == frame.ModeWebSocket, TLS: h.tls}
	if route := h.statsRoute(); route != none {
		c.Route = route.Value()
	}
	st.sendConn(&c)
}

func (st *stats) sendConn(c *frame.ConnStat) {
	m := map[string]any{"id": c.ID, "type": "http", "ttl": int(st.s.opt.StatsConnectionTTL / time.Second)}
	if c.WebSocket {
		m["type"] = "ws"
	}
	if c.Peer != "" {
		m["peer-address"] = c.Peer
	}
	if c.TLS {
		m["ssl"] = true
	}
	if c.Route != "" {
		m["route"] = c.Route
	}
	st.send("conn", m)
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
	_, known := st.subs[key]
	if delete(st.subs, key); known && st.wanted(subTopic) {
		st.send("sub", map[string]any{"mode": modeName(key.mode), "channel": key.channel, "unavailable": true})
	}
}

func (st *stats) sub(key subKey, c *chann) {
	st.subs[key] = st.s.now()
	if st.wanted(subTopic) {
		st.send("sub", map[string]any{
			"mode": modeName(key.mode), "channel": key.channel, "subscribers": subscribers(c, key.mode),
			"ttl": int(st.s.opt.StatsSubscriptionTTL / time.Second),
		})
	}
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
	largest := 0
	defer func() { rs.blocksIn += largest }()
	for _, mode := range modes {
		f := formatFor(it, mode)
		if f == nil {
			continue
		}
		if blocks {
			largest = max(largest, st.s.limiter.blocks(it, f))
		}
		if c == nil || !st.wanted(messageTopic) {
			continue
		}
		n := subscribers(c, mode)
		if n == 0 {
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

// sent counts deliveries that are on their way to connmgr.
func (st *stats) sent(d *frame.Deliver, key groupKey, it *publish.Item, f *publish.Format, n int) {
	rs := st.route(key.route)
	rs.sent += n
	rs.client.ContentOut += uint64(n * len(d.Body))
	switch key.mode {
	case frame.ModeResponse:
		rs.responseSent += n
		rs.client.HeaderOut += uint64(n) * headSize(d.Reason, d.Header)
	case frame.ModeWebSocket:
		rs.client.MessagesOut += uint64(n)
	}
	if st.s.limiter.blockSize > 0 {
		rs.blocksSent += n * st.s.limiter.blocks(it, f)
	}
}

// alive counts a keep-alive of a hold.
func (st *stats) alive(h *hold) { st.route(h.statsRoute()).activity++ }

// began counts the head and the first bytes of a stream.
func (st *stats) began(h *hold, f *frame.Hold) {
	if h.mode == frame.ModeStream && !f.HeadSent {
		rs := st.route(h.statsRoute())
		rs.client.HeaderOut += headSize(f.Reason, f.Header)
		rs.client.ContentOut += uint64(len(f.Body))
	}
}

// headSize estimates the bytes of a response's head as Pushpin does.
func headSize(reason string, h []frame.Field) uint64 {
	n := 3 + len(reason)
	for i := range h {
		n += len(h[i].Name) + len(h[i].Value)
	}
	return uint64(n)
}

// tick runs ten times a second.
func (st *stats) tick(now time.Time) {
	st.lookForWatchers()
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
	if every := min(st.s.opt.StatsConnectionTTL, st.s.opt.StatsSubscriptionTTL) / 4; now.Sub(st.swept) >= every {
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
	if now.Sub(st.sweptConns) < st.s.opt.StatsConnectionTTL/2 || !st.sendsConns() {
		return
	}
	st.sweptConns = now
	for _, p := range st.s.peers {
		for _, h := range p.holds {
			if !h.over {
				st.conn(h)
			}
		}
	}
	for _, c := range st.conns {
		st.sendConn(&c.ConnStat)
	}
}

// report sends the counts of the interval that ends.
func (st *stats) report(now time.Time) {
	duration := int(now.Sub(st.since) / time.Millisecond)
	st.since = now
	for route, rs := range st.routes {
		quiet := *rs == (routeStats{quiet: rs.quiet})
		if quiet && rs.quiet {
			delete(st.routes, route)
			continue
		}
		if st.send != nil {
			st.send("report", withRoute(route, rs.report(duration)))
		}
		*rs = routeStats{conns: rs.conns, most: rs.conns, slots: rs.slots, quiet: quiet}
	}
}

// report is what the report of an interval says of a route.
func (rs *routeStats) report(duration int) map[string]any {
	m := map[string]any{
		"connections": rs.most, "minutes": rs.minutes, "received": rs.received, "sent": rs.sent,
		"http-response-sent": rs.responseSent, "duration": duration,
	}
	if rs.blocksIn > 0 {
		m["blocks-received"] = rs.blocksIn
	}
	if rs.blocksSent > 0 {
		m["blocks-sent"] = rs.blocksSent
	}
	for side, t := range map[string]*frame.Traffic{"client": &rs.client, "server": &rs.server} {
		m[side+"-header-bytes-received"], m[side+"-header-bytes-sent"] = t.HeaderIn, t.HeaderOut
		m[side+"-content-bytes-received"], m[side+"-content-bytes-sent"] = t.ContentIn, t.ContentOut
		m[side+"-messages-received"], m[side+"-messages-sent"] = t.MessagesIn, t.MessagesOut
	}
	return m
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
	fields["from"] = st.from
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
	s.stats.lookForWatchers()
}
