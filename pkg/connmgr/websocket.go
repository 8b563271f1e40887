package connmgr

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/exchange"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/wheel"
	"github.com/holdfast/holdfast/pkg/wsconn"
	"github.com/holdfast/holdfast/pkg/wsevents"
)

// Limits of WebSockets.
const (
	// wsMaxKept is the largest client message towards an origin that is reached by
	// HTTP requests: such a message is kept until the origin has taken it.
	wsMaxKept = 200_000
	// wsUnsent is how many bytes of a client may wait for credit of the far end
	// before no more is read from it.
	wsUnsent = 64 << 10
	// wsMaxParts is how many messages of a client may be kept, however small they
	// are.
	wsMaxParts = 4096
	// wsFragment is the largest frame that is sent to clients. Larger messages are
	// sent in several.
	wsFragment = 64 << 10
	// wsCloseTime is how long a client may take to answer a close frame, and
	// wsCloseAnswer how long the far end may take to answer the client's.
	wsCloseTime   = 10 * time.Second
	wsCloseAnswer = 60 * time.Second
)

// Close codes (RFC 6455, section 7.4.1).
const (
	wsGoingAway     = 1001
	wsProtocolError = 1002
	wsBadData       = 1007
	wsTooBig        = 1009
	wsServerFault   = 1011
	wsRestart       = 1012
)

// wsExch is what an exchange has beyond an ordinary one if it is a WebSocket. Its
// far end has two owners: the proxy passes messages, a handler owns the
// subscriptions, and each numbers its own frames. What is not said to be set once
// is guarded by exch.mu.
type wsExch struct {
	handler *peer // who frames about the hold go to; nil if it is gone or there is none
	sendSeq uint64
	inbox   exchange.Inbox
	hold    *hold // made by Hold, or by the upgrade; nil before

	// Messages of the client. Parts up to sent have gone to the proxy. If the
	// session can be handed on, parts stay until the origin has taken them.
	parts   []wsPart
	sent    int
	base    uint64        // messages before parts[0], of those that this proxy was sent
	unsent  int           // bytes of parts that were not sent
	credit  int64         // bytes that may be sent; the last part may exceed it
	room    chan struct{} // buffer 1: the reader may go on; never closed; nil until it had to wait
	joined  bool          // a handler has it
	session []byte        // record for the next proxy; nil if there can be none
	open    []byte        // the encoded Request, if there is a session; of the upgrade
	in      *wsReader     // set by the upgrade
	orphan  bool          // waits for a proxy
	over    bool          // nothing of the client is wanted any more
}

// wsPart is a message of the client or a part of one; parts of a message that can
// be handed on are whole messages.
type wsPart struct {
	kind uint8
	more bool
	code uint16
	data []byte
}

func (p *wsPart) cost() int { return (&frame.Message{Data: p.data}).Cost() }

// wsHold is what a hold has beyond an ordinary one if it is a WebSocket. It
// belongs to the writer.
type wsHold struct {
	deflate   bool   // messages to the client are compressed
	inside    bool   // a message of the origin is sent in part
	later     []item // publications that wait for its end
	laterSize int    // bytes of later
	gotClose  bool   // the client has sent a close frame
	sentClose bool
	detached  bool
	code      uint16 // the client's close code

	delayed    *frame.Tune // what TuneDelay left
	delayTimer wheel.Timer[*hold]
	closeTimer wheel.Timer[*hold]
}

// newWSExch prepares x for a WebSocket handshake.
func newWSExch() *wsExch { return &wsExch{credit: frame.InitialWindow} }

// sendHandler numbers a frame for the handler and sends it. x.mu is not held.
func (s *Server) sendHandler(x *exch, f frame.Frame, seq *uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	*seq = x.ws.sendSeq
	x.ws.sendSeq++
	if x.ws.handler != nil {
		s.out.post(x.ws.handler, frame.Encode(f))
	}
}

// fromHandler takes a frame of a handler for a WebSocket. x.mu is held.
func (s *Server) fromHandler(p *peer, x *exch, seq uint64, f frame.Frame) error {
	ws := x.ws
	if f, ok := f.(*frame.Hold); ok && !ws.joined && f.Mode == frame.ModeWebSocket {
		// The proxy's answer to the handshake may have been faster.
		ws.handler, ws.joined = p, true
		if ws.hold == nil {
			ws.hold = s.newWSHold(x)
			ws.hold.w.push(job{kind: jobHold, h: ws.hold})
		}
		gs := s.acquire(f.Groups, ws.hold.w)
		f.Groups = nil // the keys are those of the groups from now on
		ws.hold.w.push(job{kind: jobFrame, h: ws.hold, f: f, groups: gs})
	}
	if p != ws.handler {
		return nil // of a handler that let go, or never had it
	}
	return ws.inbox.Push(seq, f, func(f frame.Frame) {
		j := job{kind: jobFrame, h: ws.hold, f: f}
		switch f := f.(type) {
		case *frame.Hold:
			return // done when it came
		case *frame.Update:
			j.groups = s.acquire(f.Groups, ws.hold.w)
		case *frame.Cancel:
			ws.handler, ws.joined = nil, false
			return
		}
		ws.hold.w.push(j)
	})
}

func (s *Server) newWSHold(x *exch) *hold {
	w := s.writers[x.id%uint64(len(s.writers))]
	h := &hold{fd: -1, x: x, c: x.c, w: w, mode: frame.ModeWebSocket, policy: s.opt.Policy, ws: new(wsHold)}
	h.timer.Owner, h.ws.delayTimer.Owner, h.ws.closeTimer.Owner = h, h, h
	return h
}

// upgrade answers the handshake and makes the connection a WebSocket. The
// session goes back; a goroutine of its own reads from the client.
func (r *relay) upgrade(f *frame.Response) outcome {
	c, x := r.c, r.x
	deflate := c.s.opt.Compression && offersDeflate(r.req.f.Header)
	if n := r.st.br.Buffered(); n > 0 {
		b, _ := r.st.br.Peek(n)
		c.pending = append(bytes.Clone(b), c.pending...)
	}
	if err := c.write(c.unprobed(wsHandshake(r.req.f.Header, f.Header, f.Reason, deflate))); err != nil {
		return r.clientGone()
	}
	c.s.mu.Lock() // for wsProxyLost
	x.mu.Lock()
	h := x.ws.hold
	if h == nil {
		h = c.s.newWSHold(x)
		x.ws.hold = h
		h.w.push(job{kind: jobHold, h: h})
	}
	x.hold, x.turn = h, true
	c.sock.hold(c.tls != nil)
	h.w.push(job{kind: jobUpgrade, h: h, n: boolInt(deflate)})
	for { // what the origin said already
		f, _ := x.box.Take()
		if f == nil {
			break
		}
		c.s.toWriter(x, f)
	}
	x.box, x.window = nil, nil
	in := &wsReader{c: c, x: x, h: h, deflate: deflate, whole: x.ws.session != nil, wait: c.s.poller == nil}
	x.ws.in = in
	if in.whole { // it may be handed on
		req := r.req.f
		req.ID = x.id
		x.ws.open = bytes.Clone(frame.Encode(&req))
	}
	if x.far == nil && !x.ws.over { // it went away while its answer was on the way
		c.s.wsProxyLost(x)
	}
	x.mu.Unlock()
	c.s.mu.Unlock()
	c.inExch, c.req = nil, nil
	_ = c.sock.SetReadDeadline(time.Time{})
	c.mu.Lock()
	c.after, c.unwatched = afterUndecided, false
	c.mu.Unlock()
	c.s.putSession(r.st)
	c.s.conns.Go(in.run)
	return outcomeHeld
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// toWriter brings a frame of the proxy to the writer. x.mu is held.
func (s *Server) toWriter(x *exch, f frame.Frame) {
	over := false
	switch f := f.(type) {
	case *frame.Cancel:
		over = true
	case *frame.Tune:
		over = f.Op == frame.TuneDetach
	}
	if over { // it wants to hear nothing more
		x.far, x.ws.over = nil, true
		x.ws.wake()
	}
	x.ws.hold.w.push(job{kind: jobFrame, h: x.ws.hold, f: f})
}

func (ws *wsExch) wake() {
	select {
	case ws.room <- struct{}{}:
	default:
	}
}

// wsCredit lets more of the client's messages go to the proxy. x.mu is held.
func (s *Server) wsCredit(x *exch, n uint64) {
	if n < math.MaxInt32 {
		x.ws.credit += int64(n)
	}
	s.pump(x)
}

// wsSession keeps the record of a session, and lets go of the messages that the
// origin has taken. x.mu is held.
func (s *Server) wsSession(x *exch, f *frame.Session) {
	ws := x.ws
	ws.session = bytes.Clone(f.Record)
	for ws.base < f.Acked && ws.sent > 0 {
		ws.parts[0] = wsPart{}
		ws.parts = ws.parts[1:]
		ws.sent--
		ws.base++
	}
	if !ws.full() {
		ws.wake()
	}
}

// put adds what the client sent. x.mu is held.
func (s *Server) wsPut(x *exch, p wsPart) {
	ws := x.ws
	if ws.over {
		return
	}
	ws.parts = append(ws.parts, p)
	ws.unsent += p.cost()
	s.pump(x)
}

// pump sends what credit allows. x.mu is held.
func (s *Server) pump(x *exch) {
	ws := x.ws
	for x.far != nil && ws.sent < len(ws.parts) {
		p := &ws.parts[ws.sent]
		if ws.credit <= 0 && p.kind != frame.MessageClose {
			break
		}
		f := &frame.Message{ID: x.id, Seq: x.sendSeq, Kind: p.kind, Data: p.data, More: p.more, Code: p.code}
		x.sendSeq++
		s.out.post(x.far, frame.Encode(f))
		ws.credit -= int64(p.cost())
		ws.unsent -= p.cost()
		if ws.session == nil {
			*p = wsPart{}
			ws.parts = ws.parts[1:]
		} else {
			ws.sent++
		}
	}
	if len(ws.parts) == 0 {
		ws.parts = nil
	}
	if !ws.full() {
		ws.wake()
	}
}

// full reports whether nothing more is to be read from the client for now. x.mu
// is held.
func (ws *wsExch) full() bool {
	return !ws.over && (ws.unsent >= wsUnsent || len(ws.parts) >= wsMaxParts)
}

// handOn gives a session whose proxy is gone to another one: the record, and
// what the client said since. x.mu is held.
func (s *Server) handOn(x *exch, p *peer) {
	ws := x.ws
	ws.orphan = false
	x.far, x.proxy = p, p
	p.open.Add(1)
	x.sendSeq, x.inbox, x.gap = 1, exchange.NewInbox(0), time.Time{}
	for i := range ws.sent {
		ws.unsent += ws.parts[i].cost()
	}
	ws.sent, ws.base, ws.credit = 0, 0, frame.InitialWindow // the next proxy counts anew
	if req := s.again(x.id, ws.open, ws.session); req != nil {
		s.out.post(p, frame.Encode(req))
		s.pump(x)
	}
}

// again returns the request of a session for another proxy.
func (s *Server) again(id uint64, open, session []byte) *frame.Request {
	f, err := frame.Decode(open)
	req, ok := f.(*frame.Request)
	if err != nil || !ok { // cannot be: it is our own
		s.log.Error("request of a WebSocket is not readable", "exchange", id, "err", err)
		return nil
	}
	req.Session, req.Resend = session, true
	s.metrics.resent.Inc()
	return req
}

// wsProxyLost deals with a WebSocket whose proxy is gone. s.mu and x.mu are held.
func (s *Server) wsProxyLost(x *exch) {
	x.uncount()
	switch {
	case x.ws.over: // it was done with it
	case x.ws.session != nil:
		x.ws.orphan = true
		if p := s.pickProxy(); p != nil {
			s.handOn(x, p)
		}
	default:
		x.ws.over = true
		x.ws.wake()
		x.ws.hold.w.push(job{kind: jobWSClose, h: x.ws.hold, n: wsRestart})
	}
}

// wsReader reads what a client sends on a WebSocket. While nothing comes it has
// no goroutine, and no connection of the WebSocket library: the poller watches
// the socket, and starts run.
type wsReader struct {
	c       *conn
	x       *exch
	h       *hold
	deflate bool
	whole   bool // messages are kept as a whole
	wait    bool // there is no poller: run waits for what comes
	// spoke is set when the library has sent a close frame of its own, because
	// the client broke the protocol.
	spoke bool
}

// run reads until nothing more is there, or the client or the hold is over.
func (in *wsReader) run() {
	defer func() {
		if p := recover(); p != nil {
			in.c.s.metrics.panics.Inc()
			in.c.s.log.Error("panic on a WebSocket", "client", in.c.peer, "panic", p, "stack", string(debug.Stack()))
			in.leave(job{kind: jobGone, h: in.h})
		}
	}()
	for {
		err := in.lend()
		if !errors.Is(err, errWSIdle) {
			in.ended(err)
			return
		}
		if in.rest() {
			return
		}
	}
}

// ended tells the writer why reading has.
func (in *wsReader) ended(err error) {
	var closed *websocket.CloseError
	j := job{kind: jobGone, h: in.h}
	switch {
	case errors.As(err, &closed) && closed.Code == websocket.CloseNoStatusReceived:
		j = job{kind: jobWSClosed, h: in.h}
		in.put(wsPart{kind: frame.MessageClose})
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		j = job{kind: jobWSClosed, h: in.h, n: closed.Code}
		in.put(wsPart{kind: frame.MessageClose, code: uint16(closed.Code), data: []byte(closed.Text)})
	case errors.Is(err, errWSFrame):
		j = job{kind: jobWSFault, h: in.h, n: wsProtocolError}
	case errors.Is(err, errNotUTF8):
		j = job{kind: jobWSFault, h: in.h, n: wsBadData}
	case errors.Is(err, websocket.ErrReadLimit):
		j = job{kind: jobWSFault, h: in.h, n: wsTooBig}
	case in.spoke:
		j = job{kind: jobWSFault, h: in.h}
	}
	in.leave(j)
}

// rest leaves the socket to the poller. It returns false if that is not
// possible, or the hold is over: then whoever runs in has to find out itself.
func (in *wsReader) rest() bool {
	c := in.c
	c.mu.Lock() // so that release and readable find it done, or not begun
	defer c.mu.Unlock()
	switch {
	case c.after != afterUndecided:
	case c.s.poller.watch(c.sock, in.x.id, interestInput, c.polled):
		c.polled, c.unwatched = true, true
		return true
	default:
		in.wait = true
	}
	return false
}

// readable starts the reader again, unless the socket was released meanwhile.
func (in *wsReader) readable() {
	in.c.mu.Lock()
	defer in.c.mu.Unlock()
	if in.c.after == afterUndecided && in.c.unwatched {
		in.c.unwatched = false
		in.c.s.conns.Go(in.run)
	}
}

// leave tells the writer why reading has ended, unless the hold was over first.
func (in *wsReader) leave(j job) {
	c := in.c
	c.mu.Lock()
	after := c.after
	c.unwatched = after == afterUndecided
	c.mu.Unlock()
	switch after {
	case afterUndecided:
		in.h.w.push(j)
	case afterNothing:
	default:
		c.linger()
	}
}

func (in *wsReader) put(p wsPart) {
	in.x.mu.Lock()
	defer in.x.mu.Unlock()
	in.c.s.wsPut(in.x, p)
}

func (in *wsReader) control(kind uint8, data string) error {
	in.put(wsPart{kind: kind, data: []byte(data)})
	return in.takeTime()
}

var errNotUTF8 = errors.New("text message is not UTF-8")

// read takes messages from the library until nothing more is there, which is
// errWSIdle.
func (in *wsReader) read(lib *wsLib) error {
	for {
		if err := lib.more(); err != nil {
			return err
		}
		kind, r, err := lib.ws.NextReader()
		if err != nil {
			return err
		}
		if in.whole {
			err = in.readWhole(uint8(kind), r)
		} else {
			err = in.readParts(uint8(kind), r)
		}
		if err != nil {
			return err
		}
	}
}

// readWhole takes a message as a whole, as it must be kept.
func (in *wsReader) readWhole(kind uint8, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, wsMaxKept+1))
	switch {
	case err != nil:
		return err
	case len(data) > wsMaxKept:
		return websocket.ErrReadLimit
	case kind == frame.MessageText && !utf8.Valid(data):
		return errNotUTF8
	}
	in.put(wsPart{kind: kind, data: data})
	return in.takeTime()
}

// readParts passes a message on as it comes.
func (in *wsReader) readParts(kind uint8, r io.Reader) error {
	var tail []byte // the beginning of a character whose rest is still to come
	buf := bodyParts.Get().(*[frame.MaxBodyPart]byte)
	defer bodyParts.Put(buf)
	for end := false; !end; {
		n, err := io.ReadFull(r, buf[:])
		end = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return err
		}
		if kind == frame.MessageText {
			var ok bool
			if tail, ok = wsevents.CheckUTF8(tail, buf[:n], end); !ok {
				return errNotUTF8
			}
		}
		in.put(wsPart{kind: kind, more: !end, data: bytes.Clone(buf[:n])})
		if err := in.takeTime(); err != nil {
			return err
		}
	}
	return nil
}

// takeTime blocks while the far end does not take what the client sends, so that
// the client is not read from either.
func (in *wsReader) takeTime() error {
	for {
		in.x.mu.Lock()
		ws := in.x.ws
		full := ws.full()
		if full && ws.room == nil {
			ws.room = make(chan struct{}, 1)
		}
		room := ws.room
		in.x.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-room:
		case <-in.c.s.kill:
			return net.ErrClosed
		}
	}
}

// wsHandshake returns the answer to a handshake.
func wsHandshake(request, header []frame.Field, reason string, deflate bool) []byte {
	key, _ := http1.Get(request, "Sec-WebSocket-Key")
	h := make([]frame.Field, 0, len(header)+4)
	h = append(h, frame.Field{Name: "Upgrade", Value: "websocket"}, frame.Field{Name: "Connection", Value: "Upgrade"},
		frame.Field{Name: "Sec-WebSocket-Accept", Value: wsconn.AcceptKey(key)})
	if deflate {
		h = append(h, frame.Field{Name: "Sec-WebSocket-Extensions", Value: "permessage-deflate; server_no_context_takeover; client_no_context_takeover"})
	}
	for _, f := range header {
		switch strings.ToLower(f.Name) {
		case "upgrade", "connection", "sec-websocket-accept", "content-length", "transfer-encoding":
		default:
			h = append(h, f)
		}
	}
	return http1.AppendResponseHead(nil, http.StatusSwitchingProtocols, reasonOr(reason, http.StatusSwitchingProtocols), 1, h)
}

// offersDeflate reports whether a client offers permessage-deflate in a form that
// we speak (RFC 7692): without context takeover, with windows as large as they
// get.
func offersDeflate(h []frame.Field) bool {
	for offer := range http1.Tokens(h, "Sec-WebSocket-Extensions") {
		name, params, _ := strings.Cut(offer, ";")
		if strings.TrimSpace(name) == "permessage-deflate" && deflateParams(params) {
			return true
		}
	}
	return false
}

func deflateParams(params string) bool {
	seen := map[string]bool{}
	for _, p := range strings.Split(params, ";") {
		name, value, has := strings.Cut(strings.TrimSpace(p), "=")
		name, value = strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`)
		if name == "" && !has {
			continue
		}
		if seen[name] {
			return false
		}
		seen[name] = true
		switch name {
		case "client_no_context_takeover", "server_no_context_takeover":
			if has {
				return false
			}
		case "client_max_window_bits":
			if has && value == "" {
				return false
			}
			switch value {
			case "", "8", "9", "10", "11", "12", "13", "14", "15":
			default:
				return false
			}
		case "server_max_window_bits":
			if value != "15" {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// appendWSFrame appends one frame to the client; it is not masked (RFC 6455,
// section 5.1).
func appendWSFrame(dst []byte, first byte, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, first, byte(n))
	case n <= math.MaxUint16:
		dst = append(dst, first, 126, byte(n>>8), byte(n))
	default:
		dst = append(dst, first, 127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	return append(dst, payload...)
}

const (
	wsFin  = 0x80
	wsRSV1 = 0x40 // of a compressed message's first frame
)

// wsEncode returns a message, or a part of one, as frames. first says that it
// begins the message, last that it ends it.
func wsEncode(kind uint8, data []byte, first, last bool) []byte {
	out := make([]byte, 0, len(data)+10*(1+len(data)/wsFragment))
	b := kind
	if !first {
		b = 0 // continuation
	}
	for {
		n := min(len(data), wsFragment)
		if n == len(data) && last {
			b |= wsFin
		}
		out = appendWSFrame(out, b, data[:n])
		if data = data[n:]; len(data) == 0 {
			return out
		}
		b = 0
	}
}

// wsDeflated returns a whole message in compressed form.
func wsDeflated(kind uint8, data []byte) []byte {
	p := deflate(data)
	if len(p) <= wsFragment {
		return appendWSFrame(make([]byte, 0, len(p)+10), kind|wsFin|wsRSV1, p)
	}
	out := make([]byte, 0, len(p)+10*(1+len(p)/wsFragment))
	for b := kind | wsRSV1; ; b = 0 {
		n := min(len(p), wsFragment)
		if n == len(p) {
			b |= wsFin
		}
		out = appendWSFrame(out, b, p[:n])
		if p = p[n:]; len(p) == 0 {
			return out
		}
	}
}

// wsCloseFrame returns a close frame. Codes that must not be sent (RFC 6455,
// section 7.4.1) and 0 become 1000, as clients of Pushpin know it, without a
// reason. A reason that is too long is cut at a character.
func wsCloseFrame(code uint16, reason []byte) []byte {
	switch {
	case code < 1000, code == 1004, code == 1005, code == 1006, code > 1014 && code < 3000, code > 4999:
		code, reason = 1000, nil
	}
	reason = reason[:min(len(reason), 123)]
	for len(reason) > 0 && !utf8.Valid(reason) {
		reason = reason[:len(reason)-1]
	}
	return appendWSFrame(nil, frame.MessageClose|wsFin, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}
