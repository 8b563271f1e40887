package proxy

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/origin"
)

// statsEvery is how often a handler is told what was counted.
const statsEvery = 100 * time.Millisecond

// maxConnStats bounds what a handler is told of single connections at a time.
const maxConnStats = 1 << 16

// stats is what the proxy counts for the statistics that the handler tells. It
// is counted per route that has an id of its own, and together for all others.
type stats struct {
	mu      sync.Mutex
	routes  map[string]*routeStats
	watcher bus.Peer         // who wants to hear of single connections; zero if nobody does
	conns   []frame.ConnStat // without an id if it is not to be told
	batch   uint32           // number of conns
	second  int              // of the minute, when begun minutes were counted last
}

// routeStats is the counts of one route. What is not atomic is guarded by
// stats.mu.
type routeStats struct {
	name               string
	requests, activity uint32
	open, most         uint32
	minutes            uint32
	slots              [60]uint32 // connections by the second of the minute in which they began
	told               bool       // that nothing is going on

	client, server traffic
}

// traffic counts as frame.Traffic does.
type traffic struct {
	headerIn, headerOut, contentIn, contentOut, messagesIn, messagesOut atomic.Uint64
}

func (t *traffic) take() frame.Traffic {
	return frame.Traffic{
		HeaderIn: t.headerIn.Swap(0), HeaderOut: t.headerOut.Swap(0), ContentIn: t.contentIn.Swap(0), ContentOut: t.contentOut.Swap(0),
		MessagesIn: t.messagesIn.Swap(0), MessagesOut: t.messagesOut.Swap(0),
	}
}

// headerSize estimates a header's bytes as Pushpin does: without what separates.
func headerSize(first int, h []frame.Field) uint64 {
	for i := range h {
		first += len(h[i].Name) + len(h[i].Value)
	}
	return uint64(first)
}

// connection is a client's connection in the statistics. id is set once, route,
// peer and tls as soon as the request's route was looked for.
type connection struct {
	id, peer string
	route    *routeStats
	tls      bool
	open     bool // counted; guarded by stats.mu
	slot     uint8
	batch    uint32 // of stats.conns, in which it is at place at
	at       uint32
}

// route returns the counts of a route.
func (st *stats) route(r *rule) *routeStats {
	name := ""
	if r != nil && r.Named {
		name = r.ID
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	rs := st.routes[name]
	if rs == nil {
		if st.routes == nil {
			st.routes = make(map[string]*routeStats)
		}
		rs = &routeStats{name: name}
		st.routes[name] = rs
	}
	return rs
}

// beginStats counts the request of an exchange, whose route is known now.
func (e *exch) beginStats(r *rule, tls bool, peer string) {
	st, c, req := &e.s.stats, &e.conn, e.req
	e.mu.Lock()
	c.route, c.tls, c.peer = e.s.statsOf(r), tls, peer
	e.mu.Unlock()
	c.route.client.headerIn.Add(headerSize(len(req.Method)+len(req.URI), req.Header))
	c.route.client.contentIn.Add(uint64(len(req.Body)))
	again := req.Retry || req.Resend || len(req.Session) > 0
	st.mu.Lock()
	defer st.mu.Unlock()
	c.route.activity++
	if !again {
		c.route.requests++
		c.route.minutes++ // each begun minute counts
	}
	c.slot = uint8(e.s.opts.Now().Second())
	st.count(c)
	st.tell(c, e.upgrade, false)
}

// statsOf returns the counts of a rule, nil for none.
func (s *Server) statsOf(r *rule) *routeStats {
	if r == nil || r.stats == nil {
		return s.stats.route(nil)
	}
	return r.stats
}

// count counts an open connection. Caller holds mu.
func (st *stats) count(c *connection) {
	c.open = true
	c.route.slots[c.slot]++
	c.route.open++
	c.route.most = max(c.route.most, c.route.open)
}

// leaveStats ends the count of a connection. gone is false if a handler has it now.
func (e *exch) leaveStats(gone bool) {
	st, c := &e.s.stats, &e.conn
	st.mu.Lock()
	defer st.mu.Unlock()
	if !c.open {
		return
	}
	c.open = false
	c.route.slots[c.slot]--
	c.route.open--
	if gone {
		st.tell(c, e.upgrade, true)
		return
	}
	// The handler counts it and tells of it from the Accept on. What was said
	// before has left, see sendStats; nothing may come later.
	c.route.most = max(c.route.most-1, c.route.open)
	if c.batch == st.batch && int(c.at) < len(st.conns) && st.conns[c.at].ID == c.id {
		st.conns[c.at].ID = ""
	}
}

// comeBack counts a connection again that no handler took.
func (e *exch) comeBack() {
	st, c := &e.s.stats, &e.conn
	st.mu.Lock()
	defer st.mu.Unlock()
	if !c.open && c.route != nil {
		st.count(c)
	}
}

// tell notes a connection for the handler that watches. Caller holds mu.
func (st *stats) tell(c *connection, ws, gone bool) {
	if st.watcher.Boot == 0 || len(st.conns) >= maxConnStats {
		return
	}
	c.batch, c.at = st.batch, uint32(len(st.conns))
	st.conns = append(st.conns, frame.ConnStat{ID: c.id, Route: c.route.name, Peer: c.peer, WebSocket: ws, TLS: c.tls, Gone: gone})
}

// watched takes what a handler wants to hear of.
func (s *Server) watched(from bus.Peer, f *frame.Watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.stats
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case !f.Conns && st.watcher == from:
		st.watcher, st.conns = bus.Peer{}, nil
	case f.Conns:
		// Whether it is new or says so again: it hears of all that are there.
		st.watcher, st.conns = from, nil
		st.batch++
		for _, e := range s.exchanges {
			if e.conn.open {
				st.tell(&e.conn, e.upgrade, false)
			}
		}
	}
}

// unwatched is called when a handler has gone.
func (st *stats) unwatched(p bus.Peer) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.watcher == p {
		st.watcher, st.conns = bus.Peer{}, nil
	}
}

// statsLoop tells handlers what was counted, until ctx ends.
func (s *Server) statsLoop(ctx context.Context) {
	t := time.NewTicker(statsEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.sendStats()
		case <-ctx.Done():
			return
		}
	}
}

// sendStats sends what was counted to the first handler, so that it is counted
// once, and connections to the one that watches. While there is none, counts
// stay for later.
func (s *Server) sendStats() {
	handlers := s.opts.Bus.Peers("handler")
	if len(handlers) == 0 {
		return
	}
	first := handlers[0]
	for _, p := range handlers {
		if p.Name < first.Name {
			first = p
		}
	}
	st := &s.stats
	st.mu.Lock()
	defer st.mu.Unlock() // so that an Accept for a connection comes after what is said of it here
	if routes := st.take(s.opts.Now()); len(routes) > 0 {
		_ = s.opts.Bus.Send(first.Name, frame.Encode(&frame.Stats{Routes: routes})) // what is lost is a statistic
	}
	st.batch++
	if st.conns = slices.DeleteFunc(st.conns, func(c frame.ConnStat) bool { return c.ID == "" }); len(st.conns) > 0 {
		_ = s.opts.Bus.Send(st.watcher.Name, frame.Encode(&frame.Stats{Conns: st.conns})) // it expires
		st.conns = nil
	}
}

// take returns what was counted, and begins anew. Caller holds mu.
func (st *stats) take(now time.Time) (routes []frame.RouteStats) {
	begun := st.second != now.Second()
	st.second = now.Second()
	for _, rs := range st.routes {
		if begun {
			rs.minutes += rs.slots[st.second]
		}
		r := frame.RouteStats{
			Route: rs.name, Requests: rs.requests, Activity: rs.activity, Open: rs.open, Most: rs.most, Minutes: rs.minutes,
			Client: rs.client.take(), Server: rs.server.take(),
		}
		quiet := r == frame.RouteStats{Route: rs.name}
		if quiet && rs.told {
			continue
		}
		rs.told = quiet
		rs.requests, rs.activity, rs.minutes, rs.most = 0, 0, 0, rs.open
		routes = append(routes, r)
	}
	return routes
}

// check answers which of the connections are served here. Those that are to be
// refreshed have been told by then.
func (s *Server) check(from bus.Peer, f *frame.Check) {
	ids := make(map[string]bool, len(f.IDs))
	for _, id := range f.IDs {
		ids[id] = true
	}
	answer := &frame.Checked{Token: f.Token}
	s.mu.Lock()
	for x, e := range s.exchanges {
		if ids[e.conn.id] && (!f.Refresh || e.refresh()) {
			answer.Found = append(answer.Found, frame.FoundConn{ID: e.conn.id, X: x})
		}
	}
	s.mu.Unlock()
	_ = s.opts.Bus.Send(from.Name, frame.Encode(answer)) // it gives up after a while
}

// fromClient counts a part of a message of the client. The exchange's mu is held.
func (c *connection) fromClient(f frame.Frame) {
	m, ok := f.(*frame.Message)
	if !ok || c.route == nil {
		return
	}
	c.route.client.contentIn.Add(uint64(len(m.Data)))
	if !m.More {
		c.route.client.messagesIn.Add(1)
	}
}

// toClient counts what goes to the client. The exchange's mu is held.
func (c *connection) toClient(f frame.Frame) {
	if c.route == nil {
		return
	}
	t := &c.route.client
	switch f := f.(type) {
	case *frame.Response:
		t.headerOut.Add(headerSize(3+len(f.Reason), f.Header))
		t.contentOut.Add(uint64(len(f.Body)))
	case *frame.Body:
		t.contentOut.Add(uint64(len(f.Data)))
	case *frame.Message:
		t.contentOut.Add(uint64(len(f.Data)))
		if !f.More {
			t.messagesOut.Add(1)
		}
	}
}

// do makes a request of an origin and counts what goes there and back.
func (s *Server) do(ctx context.Context, rs *routeStats, t origin.Target, req *origin.Request) (*origin.Response, error) {
	if req.Body != nil {
		req.Body = &countedReader{req.Body, &rs.server.contentOut}
	}
	resp, err := s.origins.Do(ctx, t, req)
	if err != nil {
		return nil, err
	}
	rs.server.headerOut.Add(headerSize(len(req.Method)+len(req.URI), req.Header))
	rs.server.contentOut.Add(uint64(len(req.First)))
	rs.server.headerIn.Add(headerSize(3+len(resp.Head.Reason), resp.Head.Header))
	return resp, nil
}

// countedReader counts what is read.
type countedReader struct {
	io.ReadCloser
	n *atomic.Uint64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n.Add(uint64(n))
	return n, err
}

// countedBody counts what is read of a response.
type countedBody struct {
	responseBody
	n *atomic.Uint64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.responseBody.Read(p)
	b.n.Add(uint64(n))
	return n, err
}
