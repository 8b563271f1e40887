package zurl

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/outbound"
	"github.com/holdfast/holdfast/pkg/zhttp"
)

// Kinds of sessions, in logs and metrics.
const (
	kindReq       = "req"             // one packet each way
	kindHTTP      = "http"            // over the streaming sockets
	kindWebSocket = "websocket"       // likewise
	kindForgotten = "fire-and-forget" // nobody hears of it
)

// Ends of a session that are neither a status nor a condition.
const (
	resultCancelled = "cancelled" // by the client
	resultSequence  = "sequence"  // a packet of the client is missing
	resultExpired   = "expired"   // the client is gone
	resultClosed    = "closed"    // a WebSocket, in order
)

const badRequest = outbound.BadRequest

// maxCredits is more than any client has use for.
const maxCredits = 1 << 40

// session is one request of the public interface.
type session struct {
	// Set once.
	f        *front
	kind     string
	format   zhttp.Format
	from     string
	id       zhttp.ID
	envelope [][]byte // of kindReq
	userData any
	quiet    bool
	multi    bool
	begun    time.Time
	window   int // what may wait in queue
	method   string
	uri      string
	//nolint:containedctx // ends with the session, which outlives the call that made it
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	changed  sync.Cond // credits, queue, ended or over
	over     bool
	outSeq   int64
	inSeq    int64
	credits  int64    // bytes that the client still takes
	queue    []part   // what the client sent and is not yet under way
	queued   int      // bytes in queue, and a little for each part
	ended    bool     // nothing follows in queue: the body is complete, the WebSocket closed
	unwanted bool     // nobody takes from queue any more
	code     int      // of the response
	bytes    int64    // of its body
	onEnd    []func() // called at the end, without mu

	lastIn, lastKeepAlive, lastActive time.Time

	clientClosed, serverClosed bool // of a WebSocket
}

// part is what one packet of the client brought.
type part struct {
	kind   string // a packet type; Data for a body
	data   []byte
	more   bool
	binary bool
	code   int
}

// partOverhead is what a part costs beside its bytes, so that empty ones are
// bounded too.
const partOverhead = 64

func (f *front) newSession(p *zhttp.Request, format zhttp.Format) *session {
	now := f.now()
	s := &session{
		f: f, format: format, from: p.From, userData: p.UserData, quiet: p.Quiet, multi: p.Multi, method: p.Method, uri: p.URI,
		begun: now, lastIn: now, lastKeepAlive: now, lastActive: now, credits: max(p.Credits, 0),
		window: f.s.o.BufferSize + len(p.Body) + maxParts*partOverhead,
	}
	if len(p.IDs) > 0 {
		s.inSeq = p.IDs[0].Seq
	}
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// maxParts is how many packets of a client may wait, beside their bytes.
const maxParts = 4096

// addressed reports whether the client can send more packets.
func (s *session) addressed() bool { return s.kind == kindHTTP || s.kind == kindWebSocket }

// run makes the exchange.
func (s *session) run(p *zhttp.Request) {
	defer s.cancel()
	if s.ctx.Err() != nil {
		return // over before there was room for it
	}
	if p.Timeout >= 0 {
		const most = 1 << 40
		t := time.AfterFunc(time.Duration(min(p.Timeout, most))*time.Millisecond, func() { s.fail(outbound.SessionTimeout) })
		defer t.Stop()
	}
	r := s.request(p)
	ws := s.kind == kindWebSocket
	switch {
	case !ws && isWebSocket(p.URI), (ws || p.More) && s.id.Seq != 0:
		s.fail(badRequest)
	case ws:
		s.runWebSocket(r)
	case s.kind == kindForgotten:
		s.forgotten(r, p)
	default:
		s.runHTTP(r, p)
	}
}

// request is what p asks for, without its body.
func (s *session) request(p *zhttp.Request) *outbound.Request {
	r := &outbound.Request{
		Method: p.Method, URI: p.URI, Header: p.Header, MaxBody: max(p.MaxSize, 0),
		ConnectHost: connectHost(p), TrustConnectHost: p.TrustConnectHost,
		IgnoreTLSErrors: p.IgnoreTLSErrors, IgnorePolicies: p.IgnorePolicies,
	}
	if p.FollowRedirects {
		r.Redirects = maxRedirects
	}
	return r
}

// send sends a packet with the next sequence number, unless the session is over.
func (s *session) send(r *zhttp.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.sendLocked(r)
	}
}

func (s *session) sendLocked(r *zhttp.Response) {
	err := s.write(r)
	if errors.Is(err, bus.ErrTooLarge) { // JSON can be six times as large as what it says
		err = s.write(&zhttp.Response{Type: zhttp.Error, Condition: outbound.MaxSizeExceeded})
	}
	if err != nil {
		s.f.s.metrics.lost.Inc() // the client is gone, or does not read; for PUB the socket counts
	}
}

func (s *session) write(r *zhttp.Response) error {
	if s.kind == kindForgotten {
		return nil
	}
	r.UserData = s.userData
	r.ID = s.id
	r.ID.Seq = s.outSeq
	s.outSeq++
	if s.kind == kindReq {
		return s.f.req.Send(append(append([][]byte(nil), s.envelope...), r.Append(nil, s.format))...)
	}
	r.From = s.f.id
	return s.f.pub.Send(r.Append([]byte(s.from+" "), s.format))
}

// end ends the session with a last packet, nil for none. Only the first end
// counts.
func (s *session) end(last *zhttp.Response, result string) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	s.f.forget(s, func() {
		if last != nil {
			s.sendLocked(last)
		}
	})
	s.queue, s.queued = nil, 0
	s.changed.Broadcast()
	then := s.onEnd
	s.onEnd = nil
	s.mu.Unlock()

	s.cancel()
	for _, f := range then {
		f()
	}
	s.f.s.metrics.ended.WithLabelValues(s.kind, result).Inc()
	level := slog.LevelInfo
	if s.quiet {
		level = slog.LevelDebug
	}
	s.f.s.log.Log(context.Background(), level, "session", "kind", s.kind, "id", s.id.ID, "method", s.method, "uri", bare(s.uri),
		"code", s.code, "bytes", s.bytes, "result", result, "took", s.f.now().Sub(s.begun).Round(time.Microsecond))
}

// atEnd has f called at the end of the session, or now if that has been.
func (s *session) atEnd(f func()) {
	s.mu.Lock()
	over := s.over
	if !over {
		s.onEnd = append(s.onEnd, f)
	}
	s.mu.Unlock()
	if over {
		f()
	}
}

// fail ends the session with an error.
func (s *session) fail(condition string) {
	s.end(&zhttp.Response{Type: zhttp.Error, Condition: condition}, condition)
}

// failWith ends the session with the error of an exchange.
func (s *session) failWith(err error) {
	last := &zhttp.Response{Type: zhttp.Error, Condition: outbound.Condition(err)}
	var e *outbound.Error
	if errors.As(err, &e) && e.Response != nil {
		r := e.Response
		last.Head, last.Body = &zhttp.Head{Code: r.Code, Reason: r.Reason, Header: r.Header}, r.Body
	}
	s.f.s.log.Debug("session fails", "id", s.id.ID, "err", err)
	s.end(last, last.Condition)
}

// stop ends the session because the process does.
func (s *session) stop() {
	if s.addressed() {
		s.end(&zhttp.Response{Type: zhttp.Cancel}, outbound.Stopping)
		return
	}
	s.fail(outbound.Stopping)
}

// tick looks after the timers.
func (s *session) tick(now time.Time) {
	s.mu.Lock()
	silent := s.addressed() && now.Sub(s.lastIn) >= clientSilent
	idle := now.Sub(s.lastActive) >= s.f.s.o.SessionTimeout
	if s.addressed() && !silent && !idle && !s.over && now.Sub(s.lastKeepAlive) >= keepAliveEvery {
		s.lastKeepAlive = now
		s.sendLocked(&zhttp.Response{Type: zhttp.KeepAlive})
	}
	s.mu.Unlock()
	switch {
	case silent:
		s.end(&zhttp.Response{Type: zhttp.Cancel}, resultExpired)
	case idle:
		s.fail(outbound.SessionTimeout)
	}
}

// active says that bytes have moved.
func (s *session) active() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastActive = s.f.now()
}

// handle takes a packet of the client. It returns false if the session is over.
func (s *session) handle(seq int64, p *zhttp.Request) bool {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return false
	}
	verdict := s.judge(seq, p)
	s.changed.Broadcast()
	s.mu.Unlock()
	switch verdict {
	case "":
	case resultCancelled:
		s.end(nil, resultCancelled)
	case resultSequence:
		s.end(&zhttp.Response{Type: zhttp.Cancel}, resultSequence)
	default:
		s.fail(verdict)
	}
	return true
}

// judge is called with mu held. It returns how the session has to end, "" if it
// goes on.
func (s *session) judge(seq int64, p *zhttp.Request) string {
	switch {
	case p.Type == zhttp.Cancel, p.Type == zhttp.Error:
		return resultCancelled
	case seq == zhttp.Absent || seq != s.inSeq+1:
		return resultSequence
	}
	s.inSeq = seq
	s.lastIn = s.f.now()
	if p.Credits > 0 {
		s.credits = min(s.credits+min(p.Credits, maxCredits), maxCredits)
	}
	switch p.Type {
	case zhttp.Data:
	case zhttp.Close, zhttp.Ping, zhttp.Pong:
		if s.kind != kindWebSocket {
			return ""
		}
	default:
		return ""
	}
	if s.ended {
		if p.Type == zhttp.Data && !p.HasBody && !p.More && p.Credits >= 0 {
			return "" // credits by somebody who forgot the type
		}
		return badRequest
	}
	s.lastActive = s.f.now()
	if s.unwanted {
		s.ended = s.ended || !p.More
		return ""
	}
	if s.queued+len(p.Body)+partOverhead > s.window {
		return badRequest // more than the credits that it has
	}
	s.queued += len(p.Body) + partOverhead
	s.queue = append(s.queue, part{kind: p.Type, data: p.Body, more: p.More, binary: p.Binary, code: p.Code})
	s.ended = p.Type == zhttp.Close || s.kind == kindHTTP && !p.More
	return ""
}

// next waits for a part that the client sent. ok is false if there is none any
// more.
func (s *session) next() (p part, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		if s.over || s.ended || s.unwanted {
			return part{}, false
		}
		s.changed.Wait()
	}
	p = s.queue[0]
	s.queue[0] = part{}
	s.queue = s.queue[1:]
	s.queued -= len(p.data) + partOverhead
	return p, true
}

// await waits until the client takes n bytes, n > 0, and returns how many it
// takes; 0 if the session is over.
func (s *session) await(n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.credits < n {
		if s.over {
			return 0
		}
		s.changed.Wait()
	}
	if s.over {
		return 0
	}
	return s.credits
}

// deliver sends data to the client, for its credits.
func (s *session) deliver(r *zhttp.Response) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(r)
	if !s.over {
		s.credits -= int64(len(r.Body))
		s.sendLocked(r)
	}
}

// count notes what goes to the client. It is called with mu held.
func (s *session) count(r *zhttp.Response) {
	s.lastActive = s.f.now()
	s.bytes += int64(len(r.Body))
	if r.Head != nil {
		s.code = r.Head.Code
	}
}

// grant gives the client credits for what is under way. It is called with mu
// held.
func (s *session) grant(n int) {
	if n > 0 && !s.over {
		s.sendLocked(&zhttp.Response{Type: zhttp.Credit, Credits: int64(n)})
	}
}
