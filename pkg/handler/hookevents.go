package handler

import (
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
)

// life is what events of a connection need, on routes that ask for them. Guarded
// by Server.mu.
type life struct {
	endpoint string // that is told; "*" is all that want to know
	opened   time.Time
	channel  string // the first one, by which endpoints choose connections
}

// maxHookEvents bounds the events that wait for the next tick.
const maxHookEvents = 20000

// hookEvent is the data of an event.
type hookEvent struct {
	Connection string   `json:"connection"`
	Mode       string   `json:"mode"`
	Route      string   `json:"route,omitempty"`
	Client     string   `json:"client,omitempty"`
	Channel    string   `json:"channel,omitempty"`
	Channels   []string `json:"channels,omitempty"`
	Cause      string   `json:"cause,omitempty"`
	Millis     *int64   `json:"duration_ms,omitempty"`
	Bytes      *uint64  `json:"bytes,omitempty"`
}

func (s *Server) hookEvent(h *hold) hookEvent {
	e := hookEvent{Connection: h.connID, Mode: h.mode.String(), Client: h.addr}
	if h.named {
		e.Route = h.route.Value()
	}
	return e
}

// tellOpened tells that a connection is held. Caller holds mu, also of the next
// two.
func (s *Server) tellOpened(h *hold, channels []frame.Channel) {
	e := s.hookEvent(h)
	for _, c := range channels {
		e.Channels = append(e.Channels, c.Name)
	}
	s.hooks.event(h.life, hook.ConnectionOpened, h.life.channel, s.now(), e)
}

// tellClosed tells that it is not any more.
func (s *Server) tellClosed(h *hold, reason frame.Reason, sent uint64) {
	e := s.hookEvent(h)
	now := s.now()
	lasted := now.Sub(h.life.opened).Milliseconds()
	e.Cause, e.Millis, e.Bytes = reason.String(), &lasted, &sent
	s.hooks.event(h.life, hook.ConnectionClosed, h.life.channel, now, e)
	h.life = nil // once
}

// tellSubscriptions tells what has changed since a hold had the subscriptions
// old, which are still in force.
func (s *Server) tellSubscriptions(h *hold, old []sub) {
	names := func(subs []sub) map[string]bool {
		m := make(map[string]bool, len(subs))
		for i := range subs {
			if c := subs[i].Channel(); c != nil {
				m[c.Name] = true
			}
		}
		return m
	}
	before, now := names(old), names(h.subs)
	tell := func(kind, name string) {
		e := s.hookEvent(h)
		e.Channel = name
		s.hooks.event(h.life, kind, name, s.now(), e)
		if h.life.channel == "" {
			h.life.channel = name
		}
	}
	for name := range now {
		if !before[name] {
			tell(hook.ChannelSubscribed, name)
		}
	}
	for name := range before {
		if !now[name] {
			tell(hook.ChannelUnsubscribed, name)
		}
	}
}

// event keeps an event for the next tick. There is nobody to wait for: what
// cannot be kept or stored is counted.
func (h *hooks) event(l *life, kind, channel string, now time.Time, data hookEvent) {
	table := h.table.Load()
	if table == nil {
		return
	}
	wanted := false
	for _, st := range *table {
		wanted = wanted || st.events
	}
	if !wanted {
		return
	}
	m := frame.HookMessage{
		ID: randomID(), Kind: kind, Channel: channel, Millis: uint64(now.UnixMilli()), Method: "POST", //nolint:gosec // not before 1970
		Body: hookBody(kind, now, data),
	}
	if l.endpoint != "*" {
		m.Endpoint = l.endpoint
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) >= maxHookEvents {
		h.s.metrics.hooksFailed[sourceEvents].Inc()
		return
	}
	h.events = append(h.events, m)
}

// sendEvents sends the events that wait, in their order.
func (h *hooks) sendEvents() {
	h.mu.Lock()
	events := h.events
	h.events = nil
	h.mu.Unlock()
	table := h.table.Load()
	if len(events) == 0 || table == nil {
		return
	}
	messages := make(map[*hookStore][]frame.HookMessage)
	var stores []*hookStore
	for _, st := range *table {
		if st.events {
			stores = append(stores, st)
			messages[st] = events
		}
	}
	if len(stores) == 0 {
		return
	}
	h.submit(stores, messages, func(err error) {
		n := float64(len(events))
		if err == nil {
			h.s.metrics.hooksStored[sourceEvents].Add(n)
			return
		}
		h.s.metrics.hooksFailed[sourceEvents].Add(n)
		h.s.log.Warn("events of connections were not stored", "events", len(events), "err", err)
	})
}
