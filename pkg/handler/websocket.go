package handler

import (
	"slices"

	"github.com/holdfast/holdfast/pkg/filter"
	"github.com/holdfast/holdfast/pkg/frame"
)

// control changes the subscriptions of a WebSocket as its origin asked, and
// answers once connmgr has been told.
func (s *Server) control(proxy string, c *frame.Control) {
	var h *hold
	if p := s.peers[c.X.Conn]; p != nil && p.boot == c.X.Boot {
		h = p.holds[c.X.ID]
	}
	if h == nil || h.over || h.mode != frame.ModeWebSocket {
		return // it is over; the proxy hears of that from connmgr
	}
	fault := ""
	switch c.Op {
	case frame.ControlSubscribe:
		fault = s.wsSubscribe(h, c)
	case frame.ControlUnsubscribe:
		a := h.more.acc
		n := len(a.Channels)
		a.Channels = slices.DeleteFunc(a.Channels, func(ch frame.Channel) bool { return !ch.Implicit && ch.Name == c.Channel })
		if len(a.Channels) != n {
			s.subscribe(h, a.Channels)
			s.sendUpdate(h, nil, 0)
		}
	case frame.ControlMeta:
		fault = s.wsMeta(h, c)
	default:
		return
	}
	_ = s.send(proxy, &frame.Control{X: c.X, Op: frame.ControlAck, N: c.N, Text: fault}) // counted
}

func (s *Server) wsSubscribe(h *hold, c *frame.Control) (fault string) {
	a := h.more.acc
	if len(c.List) > filter.MaxPerChannel {
		return "too many filters for channel '" + bareName(a, frame.Channel{Name: c.Channel}) + "'"
	}
	added := frame.Channel{Name: c.Channel, Filters: c.List}
	i := slices.IndexFunc(a.Channels, func(ch frame.Channel) bool { return ch.Name == c.Channel })
	switch {
	case i >= 0:
		added.Implicit = a.Channels[i].Implicit
		a.Channels[i] = added
	case len(a.Channels) >= s.opt.SubscriptionMax:
		s.log.Debug("too many subscriptions, one is ignored", "channel", c.Channel, "connection", a.ConnID)
		return ""
	default:
		a.Channels = append(a.Channels, added)
	}
	s.subscribe(h, a.Channels)
	if s.logInfo {
		s.log.Info("subscribe " + a.URI + " channel=" + c.Channel)
	}
	s.sendUpdate(h, nil, 0)
	return ""
}

// maxMeta bounds the variables of a WebSocket, in bytes: every change sends all of
// them to connmgr, which keeps them in the record. An instruct can have as many.
const maxMeta = 100_000

func (s *Server) wsMeta(h *hold, c *frame.Control) (fault string) {
	a := h.more.acc
	meta := slices.DeleteFunc(slices.Clone(a.Meta), func(f frame.Field) bool {
		return slices.Contains(c.List, f.Name) || slices.ContainsFunc(c.Fields, func(n frame.Field) bool { return n.Name == f.Name })
	})
	meta = append(meta, c.Fields...)
	size := 0
	for _, f := range meta {
		size += len(f.Name) + len(f.Value)
	}
	if len(meta) > frame.MaxGiven || size > maxMeta {
		return "too many meta variables"
	}
	a.Meta, h.meta = meta, meta
	s.sendUpdate(h, nil, 0)
	return ""
}

// refresh makes a WebSocket-over-HTTP session send a request now. Which proxy has
// the session is for the proxies to know.
func (s *Server) refresh(x frame.XID) {
	for _, p := range s.opt.Bus.Peers("proxy") {
		_ = s.send(p.Name, &frame.Control{X: x, Op: frame.ControlRefresh}) // counted
	}
}
