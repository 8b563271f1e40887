package proxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/route"
)

// controlTimeout is how long a handler is waited for to take a control message,
// a restart of it included.
const controlTimeout = 8 * time.Second

// askAgain is the time after which a handler is asked once more: one that has
// just come up may not know the connection yet, and says nothing then.
const askAgain = 500 * time.Millisecond

// socket is the WebSocket side of an exchange: what connmgr is told, and what
// GRIP makes of the origin's messages. Its methods are for the one goroutine that
// reads from the origin, unless they say otherwise.
type socket struct {
	*exch
	o      *outgoing
	prefix string
	grip   bool      // messages of the origin are interpreted
	joined bool      // a handler knows of this connection
	asked  uint64    // number of the last Control
	tried  []attempt // targets that could not be reached
}

// errDetached says that the origin's side is to be closed. The client has been
// told why, or stays.
var errDetached = errors.New("proxy: detached")

// serveWebSocket answers a WebSocket handshake, and stays the far end of the
// connection until it ends, or errParked is returned.
func (e *exch) serveWebSocket() error {
	err := e.webSocket()
	if errors.Is(err, errParked) {
		return err // somebody else may run the session by now
	}
	if e.log.code != http.StatusSwitchingProtocols { // else it was logged when it was accepted
		e.log.failed = err != nil
		e.s.logAccess(&e.log)
	}
	return err
}

func (e *exch) webSocket() error {
	s, err := e.prepareSocket()
	if s == nil {
		return err
	}
	if len(e.req.Session) > 0 {
		return s.resume()
	}
	for i := range s.o.rule.Targets {
		if next, err := s.judged(s.try(i)); !next {
			return err
		}
	}
	return s.noTarget()
}

// prepareSocket finds the route. It returns nil if the client has its answer.
func (e *exch) prepareSocket() (*socket, error) {
	o, err := e.prepare()
	e.log.uri = "ws" + strings.TrimPrefix(e.log.uri, "http")
	if o == nil {
		return nil, err
	}
	o.handshake(e.s.opts.SetXForwardedProtocol)
	return &socket{exch: e, o: o}, nil
}

// try serves the client by the target i for as long as that goes well.
func (s *socket) try(i int) error {
	t := &s.o.rule.Targets[i]
	s.o.target, s.log.target = t, t.Name
	switch {
	case t.Kind == route.TargetTest:
		return s.testOrigin()
	case t.Kind == route.TargetZHTTP:
		return errTargetKind
	case t.OverHTTP:
		s.log.target += "[http]"
		return s.overHTTP(i)
	}
	return s.passThrough(t)
}

// judged decides what the end of an attempt means: an error for the exchange, or
// that the next target is to be tried.
func (s *socket) judged(err error) (next bool, end error) {
	if err == nil || errors.Is(err, errParked) || s.log.code != 0 || s.ctx.Err() != nil {
		return false, err
	}
	s.s.targetFailed(s.x.ID, s.o.target, err)
	switch {
	case origin.TryNext(err), errors.Is(err, errTargetKind):
		s.tried = append(s.tried, attempt{s.o.target, err})
		return true, nil
	case errors.Is(err, origin.ErrPolicy):
		return false, s.failDebug(s.o, "Error: Origin host/IP blocked.")
	}
	return false, s.failDebug(s.o, notAnswered(s.o.target, err))
}

func (s *socket) noTarget() error { return s.failDebug(s.o, notReached(s.tried)) }

// handshake turns the request for the origin into a WebSocket handshake. The
// client's own extensions end here: connmgr and the origin's connection have
// theirs. GRIP is offered unless the route does not want it.
func (o *outgoing) handshake(proto ForwardedProtocol) {
	o.header = http1.Del(o.header, "Sec-WebSocket-Extensions")
	if !o.rule.NoGrip {
		o.header = append(o.header, frame.Field{Name: "Sec-WebSocket-Extensions", Value: "grip"})
	}
	if o.tls && proto != ForwardedProtocolOff {
		for i := range o.header {
			if n := o.header[i].Name; n == "X-Forwarded-Proto" || n == "X-Forwarded-Protocol" {
				o.header[i].Value = "wss"
			}
		}
	}
}

// accept takes the connection up with the origin's answer h: a handler is told
// of it if GRIP or the route has use for one, then the client is answered.
func (s *socket) accept(h []frame.Field) error {
	var granted []frame.Field
	if !s.o.rule.NoGrip {
		prefix, ok := grip.ParseExtension(h)
		s.prefix, s.grip = prefix, ok && !s.o.trusted
		if ok && s.o.trusted {
			granted = gripExtension(h) // for the GRIP proxy that the client is
		}
	}
	if err := s.join(); err != nil {
		return err
	}
	h = http1.Del(http1.RemoveHopByHop(h), "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Content-Length")
	if !s.o.trusted {
		h = grip.Strip(h)
	}
	err := s.begin(&frame.Response{ID: s.x.ID, Code: http.StatusSwitchingProtocols, Header: append(h, granted...)})
	s.s.logAccess(&s.log)
	return err
}

// gripExtension returns the origin's answer to the extension, as it was.
func gripExtension(h []frame.Field) []frame.Field {
	for _, item := range grip.List(h, "Sec-WebSocket-Extensions") {
		if name, _, _ := strings.Cut(item, ";"); strings.TrimSpace(name) == "grip" {
			return []frame.Field{{Name: "Sec-WebSocket-Extensions", Value: item}}
		}
	}
	return nil
}

// join tells a handler of the connection if that may be needed.
func (s *socket) join() error {
	if !s.grip && len(s.o.target.Subs) == 0 {
		return nil
	}
	a := s.exch.accept(s.o, &grip.Instruct{Hold: frame.ModeWebSocket}, false)
	a.SendSeq, a.RecvSeq = 0, 0 // the handler's frames are numbered apart from ours
	if err := s.offer(a); err != nil {
		if s.ctx.Err() == nil {
			s.s.metrics.handOver.WithLabelValues(resultTimeout).Inc()
			err = s.fail(s.o, http.StatusInternalServerError, noService)
		}
		return errors.Join(err, errRefused)
	}
	s.s.metrics.handOver.WithLabelValues(resultOK).Inc()
	s.joined = true
	return nil
}

// errRefused says that the client has its answer, and that it was a refusal.
var errRefused = errors.New("proxy: refused")

// refused relays an answer of the origin that is not 101.
func (s *socket) refused(resp *response) error {
	defer resp.body.Close() //nolint:errcheck // the response is over, one way or the other
	h := http1.Del(resp.header, "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Keep-Alive-Interval", "Content-Bytes-Accepted")
	resp.header = slices.DeleteFunc(h, func(f frame.Field) bool { return setMetaName(f.Name) != "" })
	if !s.o.trusted && !s.o.rule.NoGrip {
		resp.header = grip.Strip(resp.header)
	}
	return s.relay(s.o, resp)
}

// fromOrigin is one message of the origin as far as GRIP has to see it: whether
// it is for the client, for us, or for nobody.
type verdict uint8

const (
	forClient verdict = iota
	forUs
	forNobody
)

// judge looks at the beginning of a message, at least as long as a prefix if the
// message is, and returns what is left of it for its receiver.
func (s *socket) judge(kind uint8, begin []byte) (verdict, []byte) {
	if !s.grip {
		return forClient, begin
	}
	if kind == frame.MessageText && strings.HasPrefix(string(begin[:min(len(begin), 2)]), grip.ControlPrefix) {
		return forUs, begin[len(grip.ControlPrefix):]
	}
	if len(begin) >= len(s.prefix) && string(begin[:len(s.prefix)]) == s.prefix {
		return forClient, begin[len(s.prefix):]
	}
	return forNobody, nil
}

// message passes a whole message of the origin on.
func (s *socket) message(kind uint8, data []byte) error {
	switch v, rest := s.judge(kind, data); v {
	case forUs:
		return s.control(rest)
	case forClient:
		return s.toClient(kind, rest, false)
	}
	return nil
}

// toClient sends a part of a message as the client takes it.
func (s *socket) toClient(kind uint8, data []byte, more bool) error {
	for {
		n := min(len(data), frame.MaxBodyPart)
		f := &frame.Message{ID: s.x.ID, Kind: kind, Data: data[:n], More: more || n < len(data)}
		if err := s.spend(f.Cost()); err != nil {
			return err
		}
		if err := s.send(f); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

// spend waits until connmgr takes n more bytes of messages.
func (s *socket) spend(n int) error {
	for n > 0 {
		k, err := s.window.Take(s.ctx, n)
		if err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// controlFrame sends a ping or a pong to the client. It may come between the
// parts of a message.
func (s *socket) controlFrame(kind uint8, data []byte) error {
	f := &frame.Message{ID: s.x.ID, Kind: kind, Data: data[:min(len(data), 125)]}
	if err := s.spend(f.Cost()); err != nil {
		return err
	}
	return s.send(f)
}

// closeClient sends the client a close frame; code 0 is no status.
func (s *socket) closeClient(code uint16, reason string) error {
	return s.send(&frame.Message{ID: s.x.ID, Kind: frame.MessageClose, Code: code, Data: []byte(reason)})
}

// control obeys a control message. What is wrong with one is no business of the
// client, and the origin is not told either.
func (s *socket) control(b []byte) error {
	c, err := grip.ParseControl(b)
	if err != nil {
		s.s.log.Debug("control message ignored", "exchange", s.x.ID, "err", err)
		return nil
	}
	switch c.Type {
	case grip.ControlSubscribe:
		return s.ask(&frame.Control{Op: frame.ControlSubscribe, Channel: s.o.rule.Prefix + c.Channel, List: c.Filters})
	case grip.ControlUnsubscribe:
		return s.ask(&frame.Control{Op: frame.ControlUnsubscribe, Channel: s.o.rule.Prefix + c.Channel})
	case grip.ControlSetMeta:
		f := &frame.Control{Op: frame.ControlMeta}
		if c.HasValue {
			f.Fields = []frame.Field{{Name: c.Name, Value: c.Value}}
		} else {
			f.List = []string{c.Name}
		}
		return s.ask(f)
	case grip.ControlKeepAlive:
		t := &frame.Tune{Op: frame.TuneKeepAlive}
		if c.HasContent {
			t.Data, t.Kind, t.Interval, t.Millis = c.Content, c.Kind, c.Interval, millis(c.Seconds)
		}
		return s.tune(t)
	case grip.ControlSendDelayed:
		return s.tune(&frame.Tune{Op: frame.TuneDelay, Data: c.Content, Kind: c.Kind, Millis: millis(c.Seconds)})
	case grip.ControlFlushDelayed:
		return s.tune(&frame.Tune{Op: frame.TuneFlush})
	case grip.ControlDetach:
		return errors.Join(s.tune(&frame.Tune{Op: frame.TuneDetach}), errDetached)
	}
	return nil // session: there is no state service
}

func millis(seconds int) uint32 { return uint32(min(seconds, 1<<21) * 1000) }

func (s *socket) tune(t *frame.Tune) error {
	t.ID = s.x.ID
	return s.send(t)
}

// ask has the handler obey a control message, and waits until it has: what the
// origin says next then finds the subscription in force. If the handler goes
// away meanwhile, the next one is asked, which knows the connection from its
// record.
func (s *socket) ask(c *frame.Control) error {
	s.asked++
	c.X, c.N = s.x, s.asked
	acks := make(chan *frame.Control, 4)
	s.mu.Lock()
	s.acks = acks
	s.mu.Unlock()
	b := frame.Encode(c)
	timeout := time.NewTimer(controlTimeout)
	defer timeout.Stop()
	var to bus.Peer // who was asked
	for {
		s.s.mu.Lock()
		changed := s.s.handlers
		s.s.mu.Unlock()
		var again <-chan time.Time
		if !s.s.isUp(to) {
			to = s.s.pickHandler(s.x.ID)
			if to.Boot != 0 && s.s.opts.Bus.Send(to.Name, slices.Clone(b)) != nil {
				to = bus.Peer{}
				again = s.s.opts.After(10 * time.Millisecond)
			}
		}
		if to.Boot != 0 {
			again = s.s.opts.After(askAgain)
		}
		select {
		case ack := <-acks:
			if ack.N != s.asked {
				continue
			}
			if ack.Text == "" {
				return nil
			}
			reason := ""
			if s.o.rule.debug {
				reason = ack.Text
			}
			return errors.Join(s.closeClient(1011, reason), errDetached)
		case <-changed:
		case <-again: // doing it twice changes nothing
			to = bus.Peer{}
		case <-timeout.C:
			return &endError{frame.ReasonPeerLost, "no handler took a control message"}
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

// controlled takes what a handler says of this connection. It is called by the
// bus's goroutine.
func (e *exch) controlled(c *frame.Control) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch c.Op {
	case frame.ControlAck:
		select {
		case e.acks <- c:
		default:
		}
	case frame.ControlRefresh:
		e.session.refresh()
	}
}

// refresh has a session make a request. It reports whether e is one.
func (e *exch) refresh() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.session.refresh()
	return e.session != nil
}

// setMetaName returns NAME of "Set-Meta-NAME", "" for other fields.
func setMetaName(field string) string {
	const prefix = "Set-Meta-"
	if len(field) <= len(prefix) || !strings.EqualFold(field[:len(prefix)], prefix) {
		return ""
	}
	return field[len(prefix):]
}

func contentLength(n int) frame.Field {
	return frame.Field{Name: "Content-Length", Value: strconv.Itoa(n)}
}
