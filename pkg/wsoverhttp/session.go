// Package wsoverhttp is the gateway's half of the WebSocket-over-HTTP protocol:
// it decides which requests one client connection causes, what goes into them,
// and what an answer means. It has no sockets, no clock and no goroutines; the
// owner of a [Session] makes the requests that [Session.Next] asks for, one at a
// time, and feeds back what came of them.
//
// Differences from Pushpin, each of which mends a fault: only complete messages
// cause a request; what precedes DISCONNECT in a body is delivered; a client's
// close is answered with its own code when the origin says nothing; a partly
// accepted request in front of a close is sent again at once.
package wsoverhttp

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/wsevents"
)

// Limits of a session.
const (
	// BufferSize is how many content bytes of client messages a session keeps,
	// those of the request that is under way included. Past it the owner stops
	// reading from the client.
	BufferSize = 200_000
	// MaxResponse is the largest response body, in bytes.
	MaxResponse = 1_000_000
	// MinInterval is the shortest keep-alive interval, in seconds.
	MinInterval = 20
	// MaxRetries is how often a request that did not reach the origin is sent
	// again, and MaxCuts how often one whose connection broke before an answer
	// began. MaxMeta bounds the fields that an origin may store, and MaxMetaBytes
	// their names and values: each request has them, and so has the record.
	MaxRetries   = 5
	MaxCuts      = 3
	MaxMeta      = 256
	MaxMetaBytes = 64 << 10
)

// ErrTooLarge says that the client's message does not fit into the buffer.
var ErrTooLarge = errors.New("wsoverhttp: message is larger than the buffer")

// Error says how an origin broke the protocol. It ends the session.
type Error struct{ Text string }

func (e *Error) Error() string { return "websocket-over-http: " + e.Text }

func fault(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Meta is one field that the origin stored with Set-Meta-NAME.
type Meta struct{ Name, Value string }

// message is one message of the client, or a control frame.
type message struct {
	kind     wsevents.Type
	data     []byte
	complete bool
	offered  int  // leading bytes of data that an earlier request offered
	seen     bool // was part of an earlier request as a whole
}

// Session is the state of one connection. It is not safe for concurrent use.
type Session struct {
	oneEvent bool

	opened   bool
	queue    []message
	bytes    int // content bytes in queue
	taken    uint64
	skip     int // bytes of the first message that were accepted already
	restored restored
	meta     []Meta
	interval int // seconds; 0: off

	refresh bool // a request is due whatever else
	alarm   bool // the keep-alive interval is over
	again   bool // the rest of a partly accepted request is due

	closing     bool // the client, or the gateway in its stead, has closed
	closeEvent  wsevents.Event
	closeSent   bool
	originClose bool // the origin has sent CLOSE
	abandoned   bool // the client is gone without a close
	ended       bool

	out *Request // under way
}

// New returns a session whose first request opens it.
func New(oneEvent bool) *Session { return &Session{oneEvent: oneEvent} }

// Request is one request to the origin.
type Request struct {
	Body     []byte
	Replayed int // value of Content-Bytes-Replayed; 0: leave it out
	Meta     []Meta
	Final    bool // a DISCONNECT: the answer does not matter

	open       bool
	messages   int  // from the head of the queue
	offered    int  // content bytes of those
	complete   bool // nothing that could have been offered was left out
	close      bool
	closeBytes int
}

// Message adds a part of a client message or control frame. It returns
// ErrTooLarge if the buffer is full and holds nothing that could be sent.
func (s *Session) Message(kind wsevents.Type, data []byte, more bool) error {
	if s.closing || s.abandoned || s.ended {
		return nil
	}
	control := kind == wsevents.Ping || kind == wsevents.Pong
	var last *message
	if n := len(s.queue); n > 0 && !s.queue[n-1].complete {
		last = &s.queue[n-1]
	}
	switch {
	case control && last != nil: // a control frame between the parts goes in front of the message
		s.queue = append(s.queue, *last)
		s.queue[len(s.queue)-2] = message{kind: kind, data: clone(data), complete: true}
	case last != nil && !control:
		last.data = append(last.data, data...)
		last.complete = !more
	default:
		s.queue = append(s.queue, message{kind: kind, data: clone(data), complete: !more})
	}
	s.bytes += len(data)
	if s.bytes > BufferSize && !s.hasComplete() {
		return ErrTooLarge
	}
	s.restored.apply(s)
	return nil
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

func (s *Session) hasComplete() bool { return len(s.queue) > 0 && s.queue[0].complete }

// Room returns how many more content bytes the session wants from the client.
func (s *Session) Room() int { return max(0, BufferSize-s.bytes) }

// Taken returns how many client messages the origin has taken for good, and how
// many bytes of the one after them. A session that is restored elsewhere is
// given the messages from there on.
func (s *Session) Taken() (messages uint64, skip int) { return s.taken, s.skip }

// ClientClosed says that the client sent a close frame; code 0 is no status.
func (s *Session) ClientClosed(code uint16, reason string) {
	if s.closing || s.abandoned {
		return
	}
	s.closing = true
	s.closeEvent = wsevents.CloseEvent(code, reason)
	s.dropUnfinished()
}

// Shut closes the origin's side for a reason of the gateway's: a published
// close, or detach.
func (s *Session) Shut() { s.ClientClosed(0, "") }

// ClientGone says that the client's connection ended without a close.
func (s *Session) ClientGone() {
	if s.ended || s.originClose && s.closeSent {
		s.ended = true
		return
	}
	s.abandoned = true
	s.queue, s.bytes = nil, 0
}

func (s *Session) dropUnfinished() {
	if n := len(s.queue); n > 0 && !s.queue[n-1].complete {
		s.bytes -= len(s.queue[n-1].data)
		s.queue = s.queue[:n-1]
	}
}

// Refresh asks for a request as soon as possible.
func (s *Session) Refresh() {
	if s.opened && !s.abandoned {
		s.refresh = true
	}
}

// Interval returns the keep-alive interval in seconds, 0 if it is off. When no
// request is due, the owner waits this long and calls Alarm.
func (s *Session) Interval() int { return s.interval }

// Alarm says that the keep-alive interval is over.
func (s *Session) Alarm() { s.alarm = true }

// Opened reports whether the origin has accepted the connection.
func (s *Session) Opened() bool { return s.opened }

// Ended reports whether no further request will be asked for.
func (s *Session) Ended() bool { return s.ended }

// Meta returns the stored fields.
func (s *Session) Meta() []Meta { return s.meta }

// Next returns the request that is due, or nil. While one is under way, that is
// until Answer or Lost, it returns nil. With paused, client messages cause no
// request: the client does not take what the origin sends.
func (s *Session) Next(paused bool) *Request {
	if s.out != nil || s.ended {
		return nil
	}
	if !s.opened {
		if s.abandoned {
			s.ended = true
			return nil
		}
		if s.interval > 0 && !s.alarm {
			return nil // pending: OPEN is repeated when the interval is over
		}
		s.alarm = false
		s.out = &Request{Body: wsevents.Encode(wsevents.Event{Type: wsevents.Open}), Meta: s.meta, open: true, complete: true}
		return s.out
	}
	if s.abandoned {
		s.out = &Request{Body: wsevents.Encode(wsevents.Event{Type: wsevents.Disconnect}), Meta: s.meta, Final: true}
		return s.out
	}
	if !s.refresh && !s.alarm && (paused || !s.due()) {
		return nil
	}
	s.refresh, s.alarm, s.again = false, false, false
	s.out = s.build()
	return s.out
}

// due reports whether the client's side gives cause for a request.
func (s *Session) due() bool {
	if s.again {
		return true
	}
	for i := range s.queue {
		if m := &s.queue[i]; m.complete && !m.seen {
			return true
		}
	}
	return s.closing && !s.closeSent
}

func (s *Session) build() *Request {
	r := &Request{Meta: s.meta, complete: true}
	for i := range s.queue {
		m := &s.queue[i]
		if !m.complete {
			break
		}
		if s.oneEvent && r.messages == 1 || r.offered >= BufferSize {
			r.complete = false
			break
		}
		r.Body = wsevents.Append(r.Body, wsevents.Event{Type: m.kind, Content: m.data})
		r.Replayed += m.offered
		r.offered += len(m.data)
		r.messages++
	}
	// The close follows the last message, or stands alone if only one event may.
	if s.closing && !s.originAnswered() && r.complete && (!s.oneEvent || r.messages == 0) {
		r.close = true
		r.closeBytes = len(s.closeEvent.Content)
		r.Body = wsevents.Append(r.Body, s.closeEvent)
	}
	for i := range r.messages {
		s.queue[i].offered = len(s.queue[i].data)
		s.queue[i].seen = true
	}
	return r
}

// originAnswered reports that a close of ours needs no repeating.
func (s *Session) originAnswered() bool { return s.originClose && s.closeSent }

// Answer is what came back for a request.
type Answer struct {
	Code        int
	ContentType []string // values of all Content-Type fields
	Header      func(name string) (string, bool)
	SetMeta     []Meta // Set-Meta-NAME fields in order, without the prefix
	Body        []byte
}

// Outcome is what an answer means for the client.
type Outcome struct {
	Accepted bool             // the connection was opened by this answer
	Rejected bool             // relay the answer to the client as it is
	Events   []wsevents.Event // TEXT, BINARY, PING and PONG, in order
	// Closed: the client is to be sent this close status, code 0 for none.
	Closed bool
	Code   uint16
	Reason string
	// Cut: the client's connection ends without a close frame.
	Cut bool
}

// Answer takes the response to the request under way. An error ends the session:
// before it was opened the client gets 502, afterwards its connection is cut.
func (s *Session) Answer(a Answer) (Outcome, error) {
	r := s.out
	s.out = nil
	if r == nil {
		return Outcome{}, fault("answer without a request")
	}
	if r.Final {
		s.ended = true
		return Outcome{}, nil
	}
	o, err := s.answer(r, a)
	if err != nil || o.Rejected || o.Cut {
		s.ended = true
		s.queue, s.bytes = nil, 0
	}
	return o, err
}

func (s *Session) answer(r *Request, a Answer) (Outcome, error) {
	var o Outcome
	if a.Code != 200 || len(a.ContentType) == 0 || a.ContentType[0] != wsevents.ContentType {
		if r.open {
			o.Rejected = true
			return o, nil
		}
		return o, fault("status %d and content type %.100q, want 200 and %s", a.Code, a.ContentType, wsevents.ContentType)
	}
	if len(a.Body) > MaxResponse {
		return o, fault("response of %d bytes, more than %d", len(a.Body), MaxResponse)
	}
	if v, ok := a.Header("Keep-Alive-Interval"); ok {
		s.interval = parseInterval(v)
	}
	if err := s.accept(r, a); err != nil {
		return o, err
	}
	for _, m := range a.SetMeta {
		if err := s.setMeta(m); err != nil {
			return o, err
		}
	}
	events, err := wsevents.Decode(a.Body)
	if err != nil {
		return o, fault("%v", err)
	}
	if r.open {
		if len(events) == 0 {
			if s.interval == 0 {
				return o, fault("empty answer to OPEN")
			}
			return o, nil // still pending
		}
		if events[0].Type != wsevents.Open {
			return o, fault("%s instead of OPEN", events[0].Type)
		}
		s.opened, o.Accepted = true, true
		events = events[1:]
	}
	return o, s.take(r, events, &o)
}

// take sorts the events of an answer.
func (s *Session) take(r *Request, events []wsevents.Event, o *Outcome) error {
	for i, e := range events {
		switch e.Type {
		case wsevents.Text, wsevents.Binary, wsevents.Pong, wsevents.Ping:
			continue
		case wsevents.Close:
			o.Events = events[:i]
			code, reason := e.CloseStatus()
			if !utf8.ValidString(reason) {
				return fault("close reason is not UTF-8")
			}
			again := s.originClose
			s.originClose = true
			if s.closing && s.closeSent {
				s.ended = true
			}
			if !again {
				o.Closed, o.Code, o.Reason = true, code, reason
			}
			return nil
		default: // DISCONNECT, or OPEN where it has no business
			o.Events = events[:i]
			o.Cut = true
			return nil
		}
	}
	o.Events = events
	if !r.close || !s.closeSent {
		return nil
	}
	switch {
	case s.originClose:
		s.ended = true
	case s.interval == 0: // the origin has nothing to say: the client hears its own close
		s.ended = true
		o.Closed = true
		o.Code, o.Reason = s.closeEvent.CloseStatus()
	}
	return nil
}

// accept takes what the origin took from the head of the queue.
func (s *Session) accept(r *Request, a Answer) error {
	total := r.offered + r.closeBytes
	n := total
	if v, ok := a.Header("Content-Bytes-Accepted"); ok {
		if k, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && k >= 0 {
			n = k
		}
	}
	if n > total {
		return fault("Content-Bytes-Accepted is %d of %d offered", n, total)
	}
	if r.close && n >= r.offered && n < total {
		return fault("Content-Bytes-Accepted is %d: it leaves the close behind", n)
	}
	if s.abandoned {
		return nil // the queue was given up
	}
	progress := false
	left := n
	for range r.messages {
		m := &s.queue[0]
		if left < len(m.data) {
			if left > 0 {
				m.data = m.data[left:]
				m.offered -= left
				s.bytes -= left
				s.skip += left
				progress = true
			}
			break
		}
		left -= len(m.data)
		s.bytes -= len(m.data)
		s.queue = s.queue[1:]
		s.taken++
		s.skip = 0
		progress = true
	}
	if len(s.queue) == 0 {
		s.queue = nil
	}
	if r.close {
		if n >= r.offered {
			s.closeSent = true
			return nil
		}
		if !progress {
			return fault("nothing was accepted, not even the close")
		}
		s.again = true
	}
	// What was left out could never go: the next request would be the same.
	if !progress && !r.complete {
		return fault("nothing was accepted and there is more to send")
	}
	if s.oneEvent && progress && s.hasComplete() {
		s.again = true
	}
	return nil
}

func parseInterval(v string) int {
	n, err := strconv.Atoi(strings.TrimSpace(v))
	if err != nil || n <= 0 {
		return 0
	}
	return min(max(n, MinInterval), 1<<30)
}

func (s *Session) setMeta(m Meta) error {
	kept := make([]Meta, 0, len(s.meta)+1) // requests hold the old slice
	for _, old := range s.meta {
		if !strings.EqualFold(old.Name, m.Name) {
			kept = append(kept, old)
		}
	}
	if m.Value != "" {
		kept = append(kept, m)
	}
	if len(kept) > MaxMeta {
		return fault("more than %d meta fields", MaxMeta)
	}
	size := 0
	for _, m := range kept {
		size += len(m.Name) + len(m.Value)
	}
	if size > MaxMetaBytes {
		return fault("more than %d bytes of meta fields", MaxMetaBytes)
	}
	s.meta = kept
	return nil
}

// Unsent takes back the request that Next returned, which is not made because the
// session ends.
func (s *Session) Unsent() { s.out = nil }

// Lost says that the request under way brought no answer. If retry is true it is
// due again, unchanged; the owner waits before it calls Again. Otherwise the
// session is over: it may or may not have reached the origin.
func (s *Session) Lost(retry bool) {
	if s.out != nil && !retry {
		s.out = nil
		s.ended = true
		s.queue, s.bytes = nil, 0
	}
}

// Again returns the request under way, to be sent once more. seen says that the
// origin may have seen it, which the request then tells.
func (s *Session) Again(seen bool) *Request {
	if seen && s.out != nil {
		s.out.Replayed = s.out.offered
	}
	return s.out
}

// Record is what a session must remember across a restart of its owner, besides
// the client's messages that the origin has not taken: those are fed to the
// restored session again, whole, from the one after Taken.
//
// A record is to be stored before the request that Next returned is sent. The
// restored session sends that request again, and says how much of it the origin
// may have seen already (Content-Bytes-Replayed), so that an origin that keeps
// count sees nothing twice.
type Record struct {
	Opened      bool   `json:"o,omitempty"`
	Meta        []Meta `json:"m,omitempty"`
	Interval    int    `json:"i,omitempty"`
	OriginClose bool   `json:"c,omitempty"`
	Skip        int    `json:"s,omitempty"` // bytes of the first message to come that were accepted
	Offered     int    `json:"r,omitempty"` // bytes after those that were offered
	Sent        bool   `json:"q,omitempty"` // a request was under way
}

// Record returns the record of the session as it is.
func (s *Session) Record() Record {
	r := Record{Opened: s.opened, Meta: s.meta, Interval: s.interval, OriginClose: s.originClose, Skip: s.skip, Sent: s.out != nil}
	for i := range s.queue {
		r.Offered += s.queue[i].offered
	}
	return r
}

// Restore returns a session that goes on from a record.
func Restore(r Record, oneEvent bool) *Session {
	return &Session{
		oneEvent: oneEvent, opened: r.Opened, meta: r.Meta, interval: min(max(r.Interval, 0), 1<<30), originClose: r.OriginClose,
		skip: max(r.Skip, 0), restored: restored{skip: max(r.Skip, 0), offered: max(r.Offered, 0)}, refresh: r.Opened && r.Sent && r.Offered == 0,
	}
}

// restored is what remains to be applied to messages that are fed again.
type restored struct{ skip, offered int }

func (r *restored) apply(s *Session) {
	if r.skip == 0 && r.offered == 0 {
		return
	}
	m := &s.queue[len(s.queue)-1]
	if !m.complete {
		return
	}
	n := min(r.skip, len(m.data))
	m.data = m.data[n:]
	s.bytes -= n
	r.skip = 0
	m.offered = min(r.offered, len(m.data))
	r.offered -= m.offered
}
