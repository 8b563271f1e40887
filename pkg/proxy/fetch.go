package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/route"
)

// Defaults and limits of requests on behalf of holds.
const (
	defaultFetchTime = 60 * time.Second
	defaultFetchBody = 100_000
	maxFetchBody     = frame.MaxFrame / 2
)

// fetch is a request on behalf of holds, such as a next link. Holds that ask for
// the same at the same time share it: a message that went missing makes every
// stream on a channel ask for what it missed.
type fetch struct {
	key    string
	ask    *frame.Fetch
	ctx    context.Context //nolint:containedctx // of the request; ends when nobody waits for it
	cancel context.CancelFunc

	waiting []asker // guarded by Server.mu
}

type asker struct {
	from  bus.Peer
	token uint64
}

// Conditions of Fetched.
const (
	conditionRefused  = "connection refused"
	conditionTimeout  = "connection timed out"
	conditionTLS      = "tls error"
	conditionLost     = "disconnected"
	conditionTooLong  = "request timed out"
	conditionTooLarge = "response too large"
	conditionOverload = "too many requests"
	conditionOther    = "general error"
)

// startFetch starts a request on behalf of a hold, or joins one. It is called by
// the bus's goroutine.
func (s *Server) startFetch(from bus.Peer, ask *frame.Fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := asker{from, ask.Token}
	s.fetchCount++
	key := strconv.FormatUint(s.fetchCount, 10)
	if ask.Method == "GET" && len(ask.Body) == 0 {
		key = shareKey(ask)
		if f := s.fetches[key]; f != nil {
			f.waiting = append(f.waiting, who)
			s.metrics.fetches.WithLabelValues("shared").Inc()
			return
		}
	}
	if s.ctx.Err() != nil || len(s.fetches) >= s.opts.MaxExchanges {
		_ = s.opts.Bus.Send(from.Name, frame.Encode(&frame.Fetched{Token: ask.Token, Condition: conditionOverload}))
		s.metrics.fetches.WithLabelValues(conditionOverload).Inc()
		return
	}
	f := &fetch{key: key, ask: ask, waiting: []asker{who}}
	limit := defaultFetchTime
	if ask.Millis > 0 {
		limit = time.Duration(ask.Millis) * time.Millisecond
	}
	f.ctx, f.cancel = context.WithTimeout(s.ctx, limit)
	s.fetches[key] = f
	s.serving.Add(1)
	go func() {
		defer s.serving.Done()
		defer f.cancel()
		s.finishFetch(f, s.fetch(f))
	}()
}

// shareKey is equal for requests that an origin cannot tell apart.
func shareKey(ask *frame.Fetch) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n%d %d\n", ask.URI, ask.Route, ask.Base, ask.MaxBody, ask.Millis)
	last := make([]string, 0, len(ask.Header))
	for _, f := range ask.Header {
		last = append(last, f.Name+": "+f.Value)
	}
	slices.Sort(last)
	b.WriteString(strings.Join(last, "\n"))
	return b.String()
}

// finishFetch gives the result to all who asked.
func (s *Server) finishFetch(f *fetch, result *frame.Fetched) {
	label := result.Condition
	if label == "" {
		label = resultOK
	}
	s.metrics.fetches.WithLabelValues(label).Inc()
	s.mu.Lock()
	s.retire(f)
	s.mu.Unlock()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if s.answerFetch(f, result) {
			return
		}
		s.metrics.blocked.Inc()
		select {
		case <-s.opts.After(wait):
		case <-s.ctx.Done():
			return
		}
	}
}

// answerFetch sends the result to those who have not got it. It holds the lock
// so that nothing goes to the next boot of a handler, which numbers its requests
// anew. It reports whether nobody is left.
func (s *Server) answerFetch(f *fetch, result *frame.Fetched) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.waiting = slices.DeleteFunc(f.waiting, func(a asker) bool {
		if !slices.Contains(s.opts.Bus.Peers("handler"), a.from) {
			return true
		}
		result.Token = a.token
		b := frame.Encode(result)
		if len(b) > frame.MaxFrame { // the largest head, and such a body
			b = frame.Encode(&frame.Fetched{Token: a.token, Condition: conditionTooLarge})
		}
		return !errors.Is(s.opts.Bus.Send(a.from.Name, b), bus.ErrQueueFull)
	})
	return len(f.waiting) == 0
}

// leaveFetches takes a handler that is gone off all requests. It is called with
// mu held.
func (s *Server) leaveFetches(p bus.Peer) {
	for _, f := range s.fetches {
		f.waiting = slices.DeleteFunc(f.waiting, func(a asker) bool { return a.from == p })
		if len(f.waiting) == 0 {
			f.cancel()
			s.retire(f)
		}
	}
}

// retire sees to it that nobody joins a request any more. It is called with mu
// held.
func (s *Server) retire(f *fetch) {
	if s.fetches[f.key] == f {
		delete(s.fetches, f.key)
	}
}

// fetch makes the request.
func (s *Server) fetch(f *fetch) *frame.Fetched {
	log := accessLine{method: f.ask.Method, uri: f.ask.URI, header: f.ask.Header}
	defer s.logAccess(&log)
	resp, err := s.fetchHead(f, &log)
	if err != nil {
		log.failed = true
		return &frame.Fetched{Condition: condition(f.ctx, err), Text: err.Error()}
	}
	defer resp.body.Close() //nolint:errcheck // it was read to its end, or is not wanted
	limit := int64(min(f.ask.MaxBody, maxFetchBody))
	if limit == 0 {
		limit = defaultFetchBody
	}
	var body []byte
	if err = decode(resp); err == nil {
		body, err = readAtMost(resp.body, resp.length, limit)
	}
	log.code, log.sent = resp.code, int64(len(body))
	switch {
	case err != nil:
		log.failed = true
		return &frame.Fetched{Condition: condition(f.ctx, err), Text: err.Error()}
	case int64(len(body)) > limit:
		return &frame.Fetched{Condition: conditionTooLarge}
	}
	return &frame.Fetched{Code: uint16(resp.code), Reason: resp.reason, Header: cleanHeader(resp.header), Body: body}
}

func (s *Server) fetchHead(f *fetch, log *accessLine) (*response, error) {
	u, err := url.Parse(f.ask.URI)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("invalid URI %q", f.ask.URI)
	}
	o := &outgoing{tls: u.Scheme == "https" || u.Scheme == "wss", host: u.Host, path: u.RequestURI()}
	internal, err := s.fetchRoute(o, f.ask, u)
	if err != nil {
		return nil, err
	}
	rules := headerRules{
		internal: true, grip: true, cdnLoop: s.opts.CDNLoop, setProtocol: s.opts.SetXForwardedProtocol, tls: o.tls,
		acceptProtocol: s.opts.AcceptXForwardedProtocol, forwardedFor: s.opts.XForwardedFor,
	}
	if rules.sig, err = o.rule.signer.Sign(s.opts.Now()); err != nil {
		return nil, err
	}
	targets := o.rule.Targets
	if internal {
		rules.set = o.rule.Headers
		o.rewrite()
		log.rule = o.rule
	} else {
		o.direct = true
		targets = []route.Target{directTarget(u, o.tls, targets)}
	}
	o.header = rules.apply(f.ask.Header)
	err = errTargetKind
	for i := range targets {
		t := &targets[i]
		o.target, log.target = t, t.Name
		var resp *response
		switch t.Kind {
		case route.TargetTest:
			return answerTest(o, int64(len(f.ask.Body))), nil
		case route.TargetZHTTP:
			continue
		case route.TargetHTTP:
			resp, err = s.ask(f.ctx, o, &origin.Request{Method: f.ask.Method, First: f.ask.Body, BodyLen: int64(len(f.ask.Body))})
		}
		if err == nil || !origin.TryNext(err) {
			return resp, err
		}
	}
	return nil, err
}

// fetchRoute finds the rule for a request on behalf of a hold. A link to where
// the client's own request went takes the same route, or the one that a client
// would get for it. Other links are external: they go to their own host, and the
// hold's route is there to sign them.
func (s *Server) fetchRoute(o *outgoing, ask *frame.Fetch, u *url.URL) (internal bool, err error) {
	g := s.routes.Load()
	own, shared := g.table.ByID(ask.Route)
	best := own
	same := sameHost(ask.Base, u)
	if shared || same && own != nil && !own.MatchesPath(o.path) {
		best = g.table.Match(route.Request{Host: u.Host, Path: o.path, TLS: o.tls})
	}
	if best == nil {
		best, same = own, false
	}
	if best == nil {
		return false, errors.New("the route is gone")
	}
	o.rule = g.rules[best]
	return same, nil
}

// directTarget is the host of a link that leads elsewhere. It is trusted no more
// than what named it.
func directTarget(u *url.URL, tls bool, named []route.Target) route.Target {
	t := route.Target{Host: u.Hostname(), Port: 80, TLS: tls}
	if tls {
		t.Port = 443
	}
	if n, err := strconv.Atoi(u.Port()); err == nil {
		t.Port = n
	}
	t.Name = net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	t.Untrusted = slices.ContainsFunc(named, func(n route.Target) bool { return n.Untrusted })
	return t
}

// sameHost reports whether u has the scheme, host and port of base.
func sameHost(base string, u *url.URL) bool {
	b, err := url.Parse(base)
	if err != nil {
		return false
	}
	return hostKey(b) == hostKey(u)
}

func hostKey(u *url.URL) string {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	switch scheme {
	case "ws":
		scheme = "http"
	case "wss":
		scheme = "https"
	}
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// condition says in the words of filters why there is no response.
func condition(ctx context.Context, err error) string {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return conditionTooLong
	case errors.Is(err, syscall.ECONNREFUSED):
		return conditionRefused
	case errors.Is(err, origin.ErrTimeout):
		return conditionTimeout
	case errors.Is(err, origin.ErrTLS):
		return conditionTLS
	case errors.Is(err, origin.ErrCut), errors.Is(err, io.ErrUnexpectedEOF):
		return conditionLost
	}
	return conditionOther
}
