package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/route"
	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/pkg/wsoverhttp"
)

// maxRefusal is how much of the body of a refusal is relayed.
const maxRefusal = 100_000

// sessionRecord is what connmgr keeps of a session for the next proxy.
type sessionRecord struct {
	Target  int // of the route
	Grip    bool
	Prefix  string
	Joined  bool
	Session wsoverhttp.Record
}

// overSession is a client's WebSocket as a series of requests. Until the origin
// has accepted it, the goroutine of the exchange waits for what comes. From then
// on the session has a goroutine only while something is to be done: there may be
// very many of them, and nearly all of them wait.
type overSession struct {
	// Owned by whoever runs the session.
	*socket
	target   *route.Target
	index    int
	session  *wsoverhttp.Session
	base     packedHeader  // of every request, but for Grip-Sig and Meta-*
	uri      string        // request target of every request
	host     string        // of the client's request, after rewriting
	signed   bool          // requests carry a Grip-Sig of ours
	asking   bool          // a request is under way
	retrying bool          // or will be, after some time
	failures int           // to send the request under way, in a row
	cuts     int           // how often it was sent, and broke off before an answer
	interval func() bool   // stops the timer of the keep-alive interval; nil if it does not run
	allowed  uint64        // cost of the messages that connmgr may have sent so far
	got      uint64        // cost of those that it has sent
	gone     bool          // nobody is at the client's side any more
	poke     chan struct{} // buffer 1; never closed; nil once the session goes without a goroutine

	mu      sync.Mutex
	news    news
	running bool // somebody runs the session, and will look at news before it stops
	begun   bool // the client has its 101, and connmgr a record
	still   bool // nobody may run it before its exchange has ended
}

// news is what has happened since a session was looked at.
type news struct {
	any      bool // something, be it that frames came or that the context ended
	answer   *asked
	retry    bool // the time until the next attempt is over
	interval bool // the keep-alive interval is over
	refresh  bool
}

// asked is what came of a request.
type asked struct {
	resp *origin.Response
	body []byte
	err  error
}

// errParked says that a session goes on without a goroutine.
var errParked = errors.New("proxy: session waits")

// tell notes news, and sees to it that somebody runs the session. f may be nil.
func (w *overSession) tell(f func(*news)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.news.any = true
	if f != nil {
		f(&w.news)
	}
	switch {
	case w.poke != nil:
		select {
		case w.poke <- struct{}{}:
		default:
		}
	case !w.running && !w.still:
		w.running = true
		go w.unpark() // counted in serving for as long as the exchange is
	}
}

// wake has the session look at what came. It does nothing for an exchange that is
// no session.
func (w *overSession) wake() {
	if w != nil {
		w.tell(nil)
	}
}

// rouse is wake at the end of the exchange.
func (w *overSession) rouse() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.still = false
	w.mu.Unlock()
	w.wake()
}

// markBegun notes that the client has been answered.
func (w *overSession) markBegun() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun = true
}

// rest has the session stand still as soon as it waits, whatever comes, and
// reports that it does. One that is just being opened does not.
func (w *overSession) rest() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.still = w.begun
	return w.still
}

func (w *overSession) resting() bool {
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.still
}

// refresh asks for a request as soon as possible.
func (w *overSession) refresh() {
	if w != nil {
		w.tell(func(n *news) { n.refresh = true })
	}
}

// heard reports whether there is news.
func (w *overSession) heard() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.news.any
}

// learn returns what has happened since it was last called.
func (w *overSession) learn() news {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.news
	w.news = news{}
	return n
}

// wait waits for news if the session has a goroutine to wait in, and otherwise
// reports that it has to stop.
func (w *overSession) wait() bool {
	if w.log.code == 0 && !w.heard() {
		<-w.poke
	}
	if w.log.code == 0 {
		return true
	}
	w.exch.mu.Lock() // in the order of endLocked
	defer w.exch.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.poke = nil
	if w.news.any && !w.still {
		return true
	}
	w.running = false
	w.park()
	return false
}

// park lets go of what a session that waits can do without. The session's and the
// exchange's mu are held.
func (w *overSession) park() {
	e := w.exch
	e.cancel(nil)
	e.ctx, e.cancel = nil, nil
	e.answer, e.acks = nil, nil
	e.req, e.jsonp = nil, nil
	e.log = accessLine{code: e.log.code}
	w.o.header = nil
}

// unpark runs a session that was parked.
func (w *overSession) unpark() {
	e := w.exch
	e.mu.Lock()
	e.ctx, e.cancel = context.WithCancelCause(w.s.ctx)
	if e.ended != nil {
		e.cancel(e.ended)
	}
	e.mu.Unlock()
	w.s.finish(e, w.s.guarded(e, w.run))
}

// overHTTP serves the client by requests to a target. An error that nothing was
// answered for means that the target could not be reached.
func (s *socket) overHTTP(index int) error {
	w := s.newSession(index, wsoverhttp.New(s.o.rule.Targets[index].OneEvent))
	return w.run()
}

// resume goes on with a session that another proxy had.
func (s *socket) resume() error {
	var r sessionRecord
	if err := json.Unmarshal(s.req.Session, &r); err != nil {
		return &endError{frame.ReasonInternal, "session record: " + err.Error()}
	}
	if r.Target < 0 || r.Target >= len(s.o.rule.Targets) || !s.o.rule.Targets[r.Target].OverHTTP {
		return &endError{frame.ReasonOriginFailed, "the route has lost the session's target"}
	}
	s.o.target = &s.o.rule.Targets[r.Target]
	s.log.target = s.o.target.Name + "[http]"
	s.grip, s.prefix, s.joined = r.Grip, r.Prefix, r.Joined
	if s.joined {
		s.leaveStats(false) // the handler counts it
	}
	w := s.newSession(r.Target, wsoverhttp.Restore(r.Session, s.o.target.OneEvent))
	if r.Session.Opened {
		s.log.code = 101
		w.markBegun()
	}
	return w.run()
}

func (s *socket) newSession(index int, session *wsoverhttp.Session) *overSession {
	w := &overSession{
		socket: s, target: &s.o.rule.Targets[index], index: index, session: session,
		uri: s.o.path, host: s.o.host, signed: s.o.grip(), allowed: frame.InitialWindow,
		poke: make(chan struct{}, 1), running: true,
		news: news{any: true}, // frames may be here already
	}
	if w.target.URIHost != "" {
		w.host = w.target.URIHost
	}
	h := http1.Del(slices.Clone(s.o.header), "Upgrade", "Accept", "Connection-Id", "Content-Length", "Content-Type", "Content-Bytes-Replayed")
	h = slices.DeleteFunc(h, func(f frame.Field) bool { return len(f.Name) > 5 && strings.EqualFold(f.Name[:5], "Meta-") })
	h = append(h, frame.Field{Name: "Accept", Value: wsevents.ContentType}, frame.Field{Name: "Connection-Id", Value: s.req.ConnID},
		frame.Field{Name: "Content-Type", Value: wsevents.ContentType})
	_, host := splitHost(w.host, w.target.TLS)
	h = setHost(h, host)
	for i := range h {
		if w.signed && h[i].Name == "Grip-Sig" {
			h[i].Value = "" // each request has its own
		}
	}
	w.base = packHeader(h)
	s.exch.mu.Lock()
	s.exch.session = w
	s.exch.mu.Unlock()
	return w
}

// packedHeader is header fields in one string, each ended by a line feed, which
// no field contains. A session keeps its header for as long as it lives.
type packedHeader string

func packHeader(h []frame.Field) packedHeader {
	var b strings.Builder
	for _, f := range h {
		b.WriteString(f.Name)
		b.WriteByte(':')
		b.WriteString(f.Value)
		b.WriteByte('\n')
	}
	return packedHeader(strings.Clone(b.String()))
}

// fields returns the fields, with room for some more.
func (p packedHeader) fields() []frame.Field {
	h := make([]frame.Field, 0, strings.Count(string(p), "\n")+8)
	for line := range strings.Lines(string(p)) {
		name, value, _ := strings.Cut(line[:len(line)-1], ":")
		h = append(h, frame.Field{Name: name, Value: value})
	}
	return h
}

// run brings the session as far as it gets without waiting. It goes on without
// the client for as long as the origin has to be told something.
func (w *overSession) run() error {
	err := w.grant()
	for {
		if err == nil {
			err = w.askIfDue()
		}
		if err != nil {
			cause := w.cause()
			switch {
			case w.log.code == 0 && !w.gone && cause == nil:
				return err // another target may do better, or the client is told
			case errors.Is(cause, errTakenOver), errors.Is(cause, errShutdown):
				return nil
			case cause != nil || !errors.Is(err, errConnmgrLost):
				w.part(err)
				err = nil
				continue
			case !w.wait():
				return errParked
			}
			continue // with err, and the cause of it
		}
		if !w.asking && !w.retrying && (w.session.Ended() || w.gone) {
			return nil
		}
		if !w.wait() {
			return errParked
		}
		n := w.learn()
		err = w.fromClient()
		if err == nil && n.answer != nil {
			w.asking = false
			err = w.answered(*n.answer)
		}
		if n.retry {
			w.retrying = false
			w.start(w.session.Again(w.cuts > 0))
		}
		if n.interval {
			w.interval = nil
			w.session.Alarm()
		}
		if n.refresh {
			w.session.Refresh()
		}
		if cause := w.cause(); cause != nil && (!w.gone || w.s.ctx.Err() != nil) {
			if errors.Is(cause, errShutdown) || errors.Is(cause, errTakenOver) || w.gone {
				// Nobody is told: connmgr gives the session to another proxy as
				// soon as it sees that we are gone.
				return nil
			}
			err = cause
		}
	}
}

// cause returns why the exchange has ended; nil if it has not.
func (w *overSession) cause() error {
	w.exch.mu.Lock()
	defer w.exch.mu.Unlock()
	return w.ended
}

// part lets go of the client because of err. What the origin has to know of it
// is left to the loop.
func (w *overSession) part(err error) {
	switch {
	case w.cause() != nil: // the client has gone
		w.session.ClientGone()
	case errors.Is(err, errDetached): // it was told, or stays without us
		w.session.Shut()
	default:
		w.abort(err)
		w.session.ClientGone()
	}
	w.gone = true
}

// askIfDue makes the request that is due, or sees to it that one will be.
func (w *overSession) askIfDue() error {
	if w.asking || w.retrying {
		return nil
	}
	if r := w.session.Next(false); r != nil {
		if w.interval != nil {
			w.interval()
			w.interval = nil
		}
		if err := w.remember(); err != nil {
			w.session.Unsent()
			return err
		}
		w.start(r)
		return nil
	}
	if n := w.session.Interval(); n > 0 && w.interval == nil && !w.session.Ended() {
		w.interval = w.s.opts.AfterFunc(time.Duration(n)*time.Second, func() { w.tell(func(n *news) { n.interval = true }) })
	}
	return nil
}

// remember gives connmgr what the next proxy would have to know, before the
// request that makes it true is sent.
func (w *overSession) remember() error {
	if w.gone {
		return nil
	}
	taken, _ := w.session.Taken()
	record, err := json.Marshal(sessionRecord{w.index, w.grip, w.prefix, w.joined, w.session.Record()})
	if err != nil {
		return fmt.Errorf("session record: %w", err)
	}
	return w.send(&frame.Session{ID: w.x.ID, Record: record, Acked: taken})
}

// start sends a request in a goroutine of its own, whose result is news.
func (w *overSession) start(r *wsoverhttp.Request) {
	w.asking = true
	req, err := w.request(r)
	t := w.target
	name, _ := splitHost(w.host, t.TLS)
	rs := w.conn.route
	w.s.serving.Go(func() {
		a := &asked{err: err}
		if err == nil {
			// A client that leaves does not take the request with it: the origin may
			// be about to accept it.
			ctx, cancel := context.WithTimeout(w.s.ctx, w.s.opts.WebSocketOverHTTPTimeout)
			defer cancel()
			begin := w.s.opts.Now()
			a.resp, a.err = w.s.do(ctx, rs, target(t, name), req)
			w.s.metrics.attempt(t.Name, w.s.opts.Now().Sub(begin), a.err)
		}
		if a.err == nil {
			a.body, a.err = io.ReadAll(io.LimitReader(a.resp, wsoverhttp.MaxResponse+1))
			rs.server.contentIn.Add(uint64(len(a.body)))
			_ = a.resp.Close()
		}
		w.tell(func(n *news) { n.answer = a })
	})
}

// retryAfter has the request under way sent again after d.
func (w *overSession) retryAfter(d time.Duration) {
	w.retrying = true
	w.s.opts.AfterFunc(d, func() { w.tell(func(n *news) { n.retry = true }) })
}

// request makes the HTTP request. The signature is made anew for each.
func (w *overSession) request(r *wsoverhttp.Request) (*origin.Request, error) {
	h := w.base.fields()
	if w.signed {
		sig, err := w.o.rule.signer.Sign(w.s.opts.Now())
		if err != nil {
			return nil, fmt.Errorf("sign request: %w", err)
		}
		for i := range h {
			if sig != "" && h[i].Name == "Grip-Sig" {
				h[i].Value = sig
			}
		}
	}
	h = append(h, contentLength(len(r.Body)))
	if r.Replayed > 0 {
		h = append(h, frame.Field{Name: "Content-Bytes-Replayed", Value: strconv.Itoa(r.Replayed)})
	}
	for _, m := range r.Meta {
		h = append(h, frame.Field{Name: "Meta-" + m.Name, Value: m.Value})
	}
	return &origin.Request{Method: "POST", URI: w.uri, Header: h, BodyLen: int64(len(r.Body)), First: r.Body}, nil
}

// failed deals with a request that brought no answer, and reports whether it
// will be sent again.
func (w *overSession) failed(a asked) bool {
	err := a.err
	if err == nil {
		w.failures, w.cuts = 0, 0
		return false
	}
	if w.s.ctx.Err() != nil || !w.session.Opened() {
		w.session.Lost(false)
		return false
	}
	w.s.targetFailed(w.x.ID, w.target, err)
	if origin.TryNext(err) {
		if w.failures == wsoverhttp.MaxRetries {
			w.session.Lost(false)
			return false
		}
		w.failures++
		w.session.Lost(true)
		w.retryAfter(pause(w.failures))
		return true
	}
	// An origin that has begun to answer has seen the events.
	if a.resp != nil || !errors.Is(err, origin.ErrCut) || w.cuts == wsoverhttp.MaxCuts {
		w.session.Lost(false)
		return false
	}
	w.cuts++
	w.session.Lost(true)
	if w.cuts == 1 { // most likely a kept connection that was closed in the moment in which it was used
		w.retryAfter(0)
	} else { // it restarts, or fails at this request
		w.retryAfter(pause(w.cuts - 1))
	}
	return true
}

// pause returns the time before the n-th attempt to do something again: a second,
// two, four, and up to a second more.
func pause(n int) time.Duration {
	return time.Second<<(n-1) + rand.N(time.Second) //nolint:gosec // spreads load, keeps no secret
}

func answerOf(a asked) wsoverhttp.Answer {
	h := a.resp.Head.Header
	out := wsoverhttp.Answer{Code: a.resp.Head.Code, Body: a.body, Header: func(name string) (string, bool) { return http1.Get(h, name) }}
	for _, f := range h {
		if strings.EqualFold(f.Name, "Content-Type") {
			out.ContentType = append(out.ContentType, f.Value)
		} else if name := setMetaName(f.Name); name != "" {
			out.SetMeta = append(out.SetMeta, wsoverhttp.Meta{Name: name, Value: f.Value})
		}
	}
	return out
}

// answered takes the result of a request.
func (w *overSession) answered(a asked) error {
	if w.failed(a) {
		return nil
	}
	pending := w.log.code == 0
	var o wsoverhttp.Outcome
	err := a.err
	if err == nil {
		o, err = w.session.Answer(answerOf(a))
	}
	switch {
	case w.gone:
		return nil
	case err != nil && pending:
		return err
	case err != nil:
		return originBroke(err)
	case o.Rejected:
		body := a.body[:min(len(a.body), maxRefusal)]
		h := http1.Del(a.resp.Head.Header, "Content-Length")
		resp := &response{code: a.resp.Head.Code, reason: a.resp.Head.Reason, header: append(h, contentLength(len(body))), length: int64(len(body)), body: memoryBody{bytes.NewReader(body)}}
		return w.refused(resp)
	}
	if o.Accepted {
		h := http1.Del(a.resp.Head.Header, "Content-Type", "Keep-Alive-Interval", "Content-Bytes-Accepted")
		h = slices.DeleteFunc(h, func(f frame.Field) bool { return setMetaName(f.Name) != "" })
		if err := w.accept(h); err != nil {
			if errors.Is(err, errRefused) && w.exch.ctx.Err() == nil {
				return errDetached
			}
			return err
		}
		w.markBegun()
	}
	if err := w.deliver(o); err != nil {
		return err
	}
	if err := w.grant(); err != nil {
		return err
	}
	if w.session.Ended() {
		return nil
	}
	return w.remember()
}

// deliver passes on what the origin said.
func (w *overSession) deliver(o wsoverhttp.Outcome) error {
	for _, e := range o.Events {
		if (e.Type == wsevents.Ping || e.Type == wsevents.Pong) && len(e.Content) > 125 {
			return originBroke(fmt.Errorf("%s of %d bytes", e.Type, len(e.Content)))
		}
		var err error
		switch e.Type {
		case wsevents.Text:
			err = w.message(frame.MessageText, e.Content)
		case wsevents.Binary:
			err = w.message(frame.MessageBinary, e.Content)
		case wsevents.Ping:
			err = w.controlFrame(frame.MessagePing, e.Content)
		case wsevents.Pong:
			err = w.controlFrame(frame.MessagePong, e.Content)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case o.Closed:
		return w.closeClient(o.Code, o.Reason)
	case o.Cut:
		return originBroke(errors.New("DISCONNECT"))
	}
	return nil
}

// fromClient takes all frames that connmgr has sent.
func (w *overSession) fromClient() error {
	for {
		f, err := w.body.parts.Take()
		if f == nil || err != nil {
			return err
		}
		switch f := f.(type) {
		case *frame.Tune: // a publication closed the client
			w.session.Shut()
		case *frame.Message:
			if err := w.clientMessage(f); err != nil {
				return err
			}
		}
	}
}

func (w *overSession) clientMessage(f *frame.Message) error {
	w.got += uint64(f.Cost())
	kind := wsevents.Text
	switch f.Kind {
	case frame.MessageBinary:
		kind = wsevents.Binary
	case frame.MessagePing:
		kind = wsevents.Ping
	case frame.MessagePong:
		kind = wsevents.Pong
	case frame.MessageClose:
		w.session.ClientClosed(f.Code, string(f.Data))
		return nil
	}
	if err := w.session.Message(kind, f.Data, f.More); err != nil {
		if errors.Is(err, wsoverhttp.ErrTooLarge) {
			w.session.ClientGone()
			return errors.Join(w.closeClient(1009, "message too large"), errDetached)
		}
		return err
	}
	return w.grant()
}

// grant lets connmgr send as much as the session has room for.
func (w *overSession) grant() error {
	if w.gone {
		return nil
	}
	want := w.got + uint64(w.session.Room())
	if want < w.allowed+16<<10 && (want <= w.allowed || w.session.Room() > 64<<10) {
		return nil // not worth a frame yet
	}
	n := want - w.allowed
	w.allowed = want
	return w.send(&frame.Credit{ID: w.x.ID, N: n})
}
