package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/filter"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/publish"
)

// Requests that the handler has made for holds: next links, gone links, filters
// over HTTP. They go to a proxy as Fetch frames, because routes, signatures and
// the header for origins are the proxy's.

const (
	nextTimeout   = 60 * time.Second
	filterTimeout = 10 * time.Second
	nextRetries   = 5
	// maxNext is the largest body of a next link's response.
	maxNext = 4 << 20
	// maxAsks is how many filter requests may wait for their turn.
	maxAsks = 10000
	// maxAskBytes bounds what filter requests keep until they are answered, those
	// that wait for their turn and those under way: what filters made of messages,
	// and header fields. The messages themselves are shared by their receivers,
	// and count once; see waiting.
	maxAskBytes = 64 << 20
	// asksPerTick is their rate: 100 a second.
	asksPerTick = 10
)

// tooLarge is the condition of a response beyond Fetch.MaxBody.
const tooLarge = "response too large"

// Purposes of a fetch, as in metrics.
const (
	forNext   = "next"
	forGone   = "gone"
	forFilter = "filter"
)

// fetch is a request under way. Guarded by Server.mu.
type fetch struct {
	purpose string
	proxy   string
	until   time.Time
	h       *hold // nil for a gone link
	uri     string
	ask     *ask // nil if it is not of a filter
	done    func(*frame.Fetched)
}

// startFetch sends a request to a proxy. done gets the answer, or one that says
// in Condition why there is none; it is called with mu held, and not at all if
// the hold is over by then.
func (s *Server) startFetch(purpose string, h *hold, a *frame.Accept, f *frame.Fetch, done func(*frame.Fetched)) *fetch {
	s.lastFetch++
	f.Token = s.lastFetch
	f.Route, f.Base = a.Route, a.Base
	timeout := time.Duration(f.Millis) * time.Millisecond
	ft := &fetch{purpose: purpose, h: h, uri: f.URI, until: s.now().Add(timeout + time.Second), done: done}
	proxies := s.opt.Bus.Peers("proxy")
	if len(proxies) > 0 {
		ft.proxy = proxies[int(f.Token%uint64(len(proxies)))].Name
		if s.send(ft.proxy, f) == nil {
			s.fetches[f.Token] = ft
			return ft
		}
	}
	// Answered from the tick, so that nobody is called back while it calls.
	ft.until = s.now()
	s.fetches[f.Token] = ft
	return ft
}

// fetched takes the answer to a request.
func (s *Server) fetched(f *frame.Fetched) {
	ft := s.fetches[f.Token]
	if ft == nil {
		return
	}
	delete(s.fetches, f.Token)
	if ft.ask != nil {
		s.asked(ft.ask) // before done, which may ask the next filter
	}
	result := "ok"
	if f.Condition != "" {
		result = "failed"
	}
	s.metrics.fetches.WithLabelValues(ft.purpose, result).Inc()
	if ft.h == nil || !ft.h.over {
		ft.done(f)
	}
}

// expireFetches gives up requests that take too long or whose proxy is gone.
func (s *Server) expireFetches(now time.Time, lostProxy string) {
	for token, ft := range s.fetches {
		switch {
		case !now.Before(ft.until):
			s.fetched(&frame.Fetched{Token: token, Condition: "request timed out"})
		case lostProxy != "" && ft.proxy == lostProxy:
			s.fetched(&frame.Fetched{Token: token, Condition: "disconnected"})
		}
	}
}

// lastHeader is the Grip-Last fields for a hold's positions.
func (h *hold) lastHeader() []frame.Field {
	var fields []frame.Field
	for _, l := range h.lastIDs() {
		fields = append(fields, frame.Field{Name: "Grip-Last", Value: grip.FormatLast(l)})
	}
	return fields
}

// fetchNext follows the next link of a stream.
func (s *Server) fetchNext(h *hold) {
	m := h.more
	h.update = updateNone
	s.timers.Stop(&m.timer)
	m.fetching, m.again = true, false
	f := &frame.Fetch{
		Method: "GET", URI: m.acc.Next.URI, Header: h.lastHeader(),
		MaxBody: maxNext, Millis: uint32(nextTimeout / time.Millisecond),
	}
	s.startFetch(forNext, h, m.acc, f, func(r *frame.Fetched) { s.gotNext(h, f.URI, r) })
}

// gotNext takes the response of a next link. Its instruct replaces everything;
// its body is appended.
func (s *Server) gotNext(h *hold, uri string, r *frame.Fetched) {
	m := h.more
	if r.Condition != "" || r.Code < 200 || r.Code > 299 {
		if m.failures++; m.failures > nextRetries {
			s.endStream(h, "Failed to retrieve next link.")
			return
		}
		// It stays fetching; the timer tries again.
		wait := time.Second<<(m.failures-1) + rand.N(time.Second)
		m.timer.Owner = h
		s.timers.Set(&m.timer, s.now().Add(wait))
		return
	}
	m.failures = 0
	in, err := grip.Parse(int(r.Code), r.Reason, r.Header, r.Body, uri)
	if err == nil && in.Hold == frame.ModeResponse {
		s.endStream(h, "Next link returned non-stream hold.")
		return
	}
	if err != nil {
		s.endStream(h, err.Error())
		return
	}
	a := m.acc
	for i := range in.Channels {
		in.Channels[i].Name = a.Prefix + in.Channels[i].Name
	}
	a.Channels = append(slices.DeleteFunc(a.Channels, func(c frame.Channel) bool { return !c.Implicit }), in.Channels...)
	a.Channels = tidyChannels(a.Channels, s.opt.SubscriptionMax)
	a.Mode, a.Meta, a.KeepAlive, a.Next, a.URI, a.HeadSent = in.Hold, in.Meta, in.KeepAlive, in.Next, uri, true
	h.meta = slices.Clone(in.Meta)
	if in.Hold == frame.ModeNone {
		a.Channels = slices.DeleteFunc(a.Channels, func(c frame.Channel) bool { return !c.Implicit })
	}
	firsts := s.subscribe(h, a.Channels)
	filtered := *a
	filtered.Body = in.Body
	body, fault := s.filterInitial(h, &filtered)
	if fault != "" {
		s.endStream(h, fault)
		return
	}
	switch {
	case in.Hold == frame.ModeNone && in.Next.URI == "":
		s.leave(h)
		s.sendTo(h, &frame.Finish{ID: h.id, Seq: h.sendSeq, Body: body})
		return
	case in.Hold == frame.ModeStream && in.Next.URI == "":
		for _, c := range a.Channels {
			if c.HasPrevID {
				s.endStream(h, fmt.Sprintf("channel '%s' specifies prev-id, but no next link found", bareName(a, c)))
				return
			}
		}
	}
	if in.Hold == frame.ModeNone {
		// Fetched when the client has taken what there is, not before.
		wait := m.links.wait(s.now(), in.Next.URI == uri || len(body) == 0)
		next := func() {
			if wait == 0 {
				s.fetchNext(h)
				return
			}
			m.timer.Owner = h // it stays fetching until then
			s.timers.Set(&m.timer, s.now().Add(wait))
		}
		if len(body) > 0 {
			s.lastFetch++
			pub := pacing | s.lastFetch
			s.paced[pub], m.paced = next, pub
			s.sendUpdate(h, body, pub)
		} else if s.sendUpdate(h, nil, 0) {
			next()
		}
		return
	}
	if !s.sendUpdate(h, body, 0) {
		return
	}
	m.fetching = false
	s.firstSubscriptions(firsts)
	s.startNextTimer(h)
	s.drain(h, true)
	if m.again && !h.busy() {
		m.again = false
		s.requestUpdate(h, true)
	}
}

// linkPace keeps a row of links without holds from being followed as fast as the
// origin answers: a link that leads to itself, or around in a circle, would never
// end. Pages of a long answer may follow each other at once, up to a number.
type linkPace struct {
	followed int       // at once, of late
	since    time.Time // when followed was brought up to date
}

const (
	// linkBurst is how many links may be followed at once, and linkEvery the time
	// after which there may be one more.
	linkBurst = 100
	linkEvery = 100 * time.Millisecond
	// idleLink is the time between links that bring nothing, or lead to
	// themselves.
	idleLink = time.Second
)

// wait returns how long to wait before the next link. idle says that this one
// brought nothing new.
func (p *linkPace) wait(now time.Time, idle bool) time.Duration {
	if back := int(now.Sub(p.since) / linkEvery); back > 0 {
		p.followed, p.since = max(p.followed-back, 0), now
	}
	switch {
	case idle:
		return idleLink
	case p.followed >= linkBurst:
		return linkEvery
	}
	p.followed++
	return 0
}

// pacing marks the numbers of next links' bodies: they are no publications.
const pacing = frame.PubOther

// passed takes a report about a next link's body.
func (s *Server) passed(pub uint64) {
	if then, ok := s.paced[pub]; ok { // the hold is not over
		delete(s.paced, pub)
		then()
	}
}

// onTimer is called when the timer of a next link fires.
func (s *Server) onTimer(h *hold) {
	switch {
	case h.over:
	case h.more.fetching: // the last try failed
		s.fetchNext(h)
	default:
		s.requestUpdate(h, false)
	}
}

// goneTry is a gone link that no proxy could follow yet.
type goneTry struct {
	a     *frame.Accept
	tries int
	at    time.Time
}

const (
	goneTries  = 5
	maxGones   = 10000
	goneBefore = time.Second // before the second try; the delay doubles
)

// runGones tries again what is due.
func (s *Server) runGones(now time.Time) {
	waiting := s.gones
	s.gones = nil
	for _, g := range waiting {
		if now.Before(g.at) {
			s.gones = append(s.gones, g)
		} else {
			s.fetchGone(g.a, g.tries)
		}
	}
}

// fetchGone tells the origin that the client is gone. A proxy that dies is no
// reason to give up; whatever an origin answers is for the log.
func (s *Server) fetchGone(a *frame.Accept, tries int) {
	s.startFetch(forGone, nil, a, &frame.Fetch{
		Method: "POST", URI: a.Gone, Millis: uint32(filterTimeout / time.Millisecond),
	}, func(r *frame.Fetched) {
		if r.Condition != "" && tries < goneTries && len(s.gones) < maxGones {
			s.gones = append(s.gones, goneTry{a, tries + 1, s.now().Add(goneBefore << tries)})
			return
		}
		if r.Condition != "" || r.Code < 200 || r.Code > 299 {
			s.log.Info("gone link failed", "uri", a.Gone, "code", r.Code, "condition", r.Condition)
		}
	})
}

// ask is a question of a filter over HTTP that waits for its turn.
type ask struct {
	h    *hold
	it   *publish.Item // of Server.waiting
	size int           // of Server.askBytes
	run  func() *fetch // makes the request
}

// errAsks says that a filter could not ask because too much waits already.
var errAsks = errors.New("network request failed: general error")

// askFilter asks what a filter over HTTP says. Until the answer is there, items
// for the hold queue up, so that they stay in order.
func (s *Server) askFilter(h *hold, sb *sub, it *publish.Item, f *publish.Format, res filter.Result) {
	r := &round{s: s, it: it, f: f}
	name := sb.Channel().Name
	if len(s.asks) >= maxAsks {
		r.filtered(sb, filter.Result{}, errAsks)
		return
	}
	uri, err := resolve(h.more.acc.URI, res.Request.URL)
	if err != nil {
		r.filtered(sb, filter.Result{}, err)
		return
	}
	req := &frame.Fetch{
		Method: "POST", URI: uri, Body: res.Request.Body,
		MaxBody: filter.MaxAnswer, Millis: uint32(filterTimeout / time.Millisecond),
		Header: append([]frame.Field{
			{Name: "Sub-Meta", Value: metaJSON(func(yield func(string, string)) {
				for _, m := range h.meta {
					yield(m.Name, m.Value)
				}
			})},
			{Name: "Pub-Meta", Value: metaJSON(func(yield func(string, string)) {
				for k, v := range it.Meta {
					yield(k, v)
				}
			})},
		}, h.lastHeader()...),
	}
	size := len(uri)
	if !sameBytes(res.Content, f.Body) {
		size += cap(res.Content) // the request's body, if it has one, is the same memory
	}
	for _, field := range req.Header {
		size += len(field.Value)
	}
	if s.askBytes+size > maxAskBytes || !s.waiting.keep(it) {
		r.filtered(sb, filter.Result{}, errAsks)
		return
	}
	s.askBytes += size
	if h.more.asking, h.more.asked = true, nil; isDelivery(f, h.mode) {
		h.more.asked = it
	}
	s.asks = append(s.asks, &ask{h, it, size, func() *fetch {
		return s.startFetch(forFilter, h, h.more.acc, req, func(got *frame.Fetched) {
			h.more.asking = false
			sb := h.find(name)
			if sb == nil { // a next link took the channel away meanwhile
				r.drop(h, frame.ReasonNotReady)
			} else {
				answer := filter.Answer{Code: int(got.Code), Body: got.Body, Condition: got.Condition, TooLarge: got.Condition == tooLarge}
				for _, field := range got.Header {
					if strings.EqualFold(field.Name, "Action") && field.Value == "drop" {
						answer.Drop = true
					}
				}
				key := sb.Group().Key // the item may end the hold
				res, err := filter.Resume(sb.filters, res, answer, &view{h, sb, it}, it.Meta)
				r.filtered(sb, res, err)
				r.flush(key)
			}
			if !h.over {
				s.drain(h, false)
			}
		})
	}})
}

// asked gives back what a question kept.
func (s *Server) asked(a *ask) {
	s.askBytes -= a.size
	s.waiting.release(a.it)
}

// runAsks sends the filter requests whose turn has come.
func (s *Server) runAsks() {
	n := min(len(s.asks), asksPerTick)
	for _, a := range s.asks[:n] {
		if a.h.over {
			s.asked(a)
		} else {
			a.run().ask = a
		}
	}
	s.asks = slices.Delete(s.asks, 0, n)
}

// resolve resolves the URL of a filter against the URI of a hold.
func resolve(base, ref string) (string, error) {
	b, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("invalid url value")
	}
	u, err := b.Parse(ref)
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("invalid url value")
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return "", fmt.Errorf("invalid url value")
	}
	return u.String(), nil
}

// metaJSON writes variables as a JSON object with sorted keys.
func metaJSON(each func(yield func(name, value string))) string {
	m := map[string]string{}
	each(func(name, value string) { m[name] = value })
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(m) // strings and a builder: it cannot fail
	return strings.TrimSpace(b.String())
}
