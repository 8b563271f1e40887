package connmgr

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/sockjs"
	"github.com/holdfast/holdfast/pkg/wsconn"
)

// A SockJS client that cannot have a WebSocket, or has one with SockJS frames in
// it, gets a WebSocket all the same: one that this process makes to itself, over a
// pair of sockets, and keeps in its stead. To everything else, the origin
// included, it is a WebSocket like any other.

// inner is what a connection of this process to itself knows of the client.
type inner struct {
	kind   uint8 // see frame.Request.SockJS
	scheme string
}

// sockJSSessions are the sessions whose clients poll, by route and session name:
// who knows a name must not get at a session of another route.
type sockJSSessions struct {
	mu     sync.Mutex
	byName map[string]*sockJSSession
}

// sockJSSession is a session of a client that polls.
type sockJSSession struct {
	// Set before opened is closed.
	*sockjs.Session // nil if it came to nothing
	ws              *websocket.Conn

	opened chan struct{} // closed when the origin has answered
}

// sockJS answers a request that the proxy found to be under a SockJS prefix.
func (c *conn) sockJS(r *relay, f *frame.Response) outcome {
	if c.inner != nil || !strings.HasPrefix(r.req.f.URI, f.SockJS) { // cannot be
		return c.answer(r.st, http.StatusBadGateway, "Error while proxying to origin.\n")
	}
	call := sockjs.Parse(r.req.f.Method, r.req.f.URI[len(f.SockJS):], r.req.f.Upgrade)
	body, refused := c.sockJSBody(r)
	if refused != "" {
		c.closeAfter = true
		return c.sockJSAnswer(r, http.StatusBadRequest, refused+"\n")
	}
	switch call.Kind {
	case sockjs.Greeting:
		return c.sockJSAnswer(r, http.StatusNoContent, "")
	case sockjs.Info:
		return c.sockJSAnswer(r, http.StatusOK, sockjs.InfoBody(rand.Uint32()))
	case sockjs.Iframe:
		return c.sockJSPage(r, f.SockJSURL)
	case sockjs.XHR, sockjs.JSONP:
		return c.sockJSPoll(r, f.Route+"\x00"+call.Session, call)
	case sockjs.XHRSend:
		return c.sockJSSend(r, f.Route+"\x00"+call.Session, body)
	case sockjs.JSONPSend:
		data := []byte(call.Data)
		if r.req.f.Method == http.MethodPost {
			data = sockjs.FormData(body)
		}
		return c.sockJSSend(r, f.Route+"\x00"+call.Session, data)
	case sockjs.WebSocket:
		return c.sockJSWebSocket(r)
	case sockjs.BadRequest:
		return c.sockJSAnswer(r, http.StatusBadRequest, "Bad Request\n")
	}
	c.closeAfter = c.closeAfter || r.req.f.Upgrade
	return c.sockJSAnswer(r, http.StatusNotFound, "Not Found\n")
}

// sockJSBody waits for the whole body of a request. refused is what to say if it
// cannot be had.
func (c *conn) sockJSBody(r *relay) (body []byte, refused string) {
	if r.up != nil {
		if r.req.f.BodyLen <= sockjs.MaxRequest {
			// What is too large and does not say so stops at the end of its window.
			limit := time.NewTimer(c.s.opt.BodyTimeout)
			defer limit.Stop()
			select {
			case <-r.up.done:
			case <-limit.C:
			case <-c.s.kill:
			}
		}
		r.up.stop()
	}
	if r.req.lost || r.up != nil && !r.up.complete.Load() {
		return nil, "Request too large."
	}
	return r.req.body, ""
}

// sockJSAnswer sends an answer of SockJS.
func (c *conn) sockJSAnswer(r *relay, code int, text string) outcome {
	return c.sockJSReply(r, answer{code: code, header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}}, body: []byte(text)})
}

// sockJSReply sends an answer with what SockJS adds to each.
func (c *conn) sockJSReply(r *relay, a answer) outcome {
	if !http1.Has(a.header, "Cache-Control") {
		a.header = append(a.header, frame.Field{Name: "Cache-Control", Value: "no-store, no-cache, must-revalidate, max-age=0"})
	}
	origin, _ := http1.Get(r.req.f.Header, "Origin")
	if origin == "" {
		origin = "*"
	}
	a.header = append(http1.Del(a.header, "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"),
		frame.Field{Name: "Access-Control-Allow-Origin", Value: origin}, frame.Field{Name: "Access-Control-Allow-Credentials", Value: "true"})
	a.close = c.decideEnd()
	r.st.out = c.appendAnswer(r.st.out[:0], a)
	return c.afterAnswer(c.flush(r.st))
}

// sockJSPage sends the page for frames of other origins. It does not change, so
// clients may keep it.
func (c *conn) sockJSPage(r *relay, scriptURL string) outcome {
	page, etag := sockjs.Page(scriptURL)
	a := answer{code: http.StatusOK, header: []frame.Field{
		{Name: "Content-Type", Value: "text/html; charset=UTF-8"},
		{Name: "ETag", Value: etag},
		{Name: "Cache-Control", Value: "public, max-age=31536000"},
	}, body: []byte(page)}
	if tag, _ := http1.Get(r.req.f.Header, "If-None-Match"); tag == etag {
		a.code, a.header, a.body = http.StatusNotModified, a.header[1:], nil
	}
	return c.sockJSReply(r, a)
}

// sockJSFrame sends a frame as the answer to a poll.
func (c *conn) sockJSFrame(r *relay, call sockjs.Call, f string) outcome {
	if call.Kind == sockjs.JSONP {
		return c.sockJSReply(r, answer{
			code: http.StatusOK, header: []frame.Field{{Name: "Content-Type", Value: "application/javascript"}},
			body: []byte(sockjs.Script(call.Callback, f)),
		})
	}
	return c.sockJSAnswer(r, http.StatusOK, f+"\n")
}

// sockJSPoll answers a poll, or opens the session.
func (c *conn) sockJSPoll(r *relay, name string, call sockjs.Call) outcome {
	all := &c.s.sockJS
	all.mu.Lock()
	s := all.byName[name]
	if s == nil {
		s = &sockJSSession{opened: make(chan struct{})}
		all.byName[name] = s
		all.mu.Unlock()
		return c.sockJSOpen(r, name, call, s)
	}
	all.mu.Unlock()
	select {
	case <-s.opened:
	default: // the request that opens it waits for the origin
		return c.sockJSFrame(r, call, sockjs.FrameBusy)
	}
	if s.Session == nil {
		return c.sockJSAnswer(r, http.StatusGone, "Session terminated\n")
	}
	gone, unwatch := c.leaving()
	f, err := s.Poll(gone)
	unwatch()
	switch {
	case errors.Is(err, sockjs.ErrAborted):
		return outcomeClose
	case err != nil:
		return c.sockJSAnswer(r, http.StatusGone, "Session terminated\n")
	}
	return c.sockJSFrame(r, call, f)
}

// leaving returns a channel that is closed when the client leaves, or the process
// has to stop, and a function that ends the watching.
func (c *conn) leaving() (gone <-chan struct{}, unwatch func()) {
	w := c.startWatcher()
	stop := make(chan struct{})
	ch := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case ev := <-w.events:
				if ev != hangupGone { // see writer.probe
					if p := c.probeHead(); p == nil || c.write(p) == nil {
						continue
					}
				}
			case <-c.s.kill:
			case <-stop:
				return
			}
			close(ch)
			return
		}
	}()
	return ch, func() {
		close(stop)
		<-done
		c.stopWatcher(w)
	}
}

// forget takes a session out of the table.
func (all *sockJSSessions) forget(name string, s *sockJSSession) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.byName[name] == s {
		delete(all.byName, name)
	}
}

// sockJSOpen opens a session by the request of c.
func (c *conn) sockJSOpen(r *relay, name string, call sockjs.Call, s *sockJSSession) outcome {
	gone, unwatch := c.leaving()
	uri := r.req.f.URI
	if call.Kind == sockjs.JSONP {
		uri = sockjs.WithoutCallback(uri)
	}
	d := c.dialInner(&r.req.f, uri, frame.SockJSPolling, gone)
	unwatch()
	if d.ws == nil {
		c.s.sockJS.forget(name, s)
		close(s.opened)
		if d.refusal == nil {
			return outcomeClose
		}
		return c.sockJSReply(r, *d.refusal)
	}
	s.ws = d.ws
	s.Session = sockjs.NewSession(func() { _ = s.ws.Close() }, func() { c.s.sockJS.forget(name, s) })
	close(s.opened) // before the client can know, and poll
	c.s.conns.Go(s.read)
	return c.sockJSFrame(r, call, sockjs.FrameOpen)
}

// read takes what the origin says, until it or the client ends.
func (s *sockJSSession) read() {
	defer s.ws.Close() //nolint:errcheck // it is over
	for {
		_, data, err := s.ws.ReadMessage()
		var closed *websocket.CloseError
		switch {
		case err == nil && s.Deliver(string(data)):
			continue
		case errors.As(err, &closed) && closed.Code == websocket.CloseNoStatusReceived:
			s.Close(0, "")
		case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
			s.Close(closed.Code, closed.Text)
		default:
			s.Cut()
		}
		return
	}
}

// sockJSSend passes on what a client has sent to its session.
func (c *conn) sockJSSend(r *relay, name string, data []byte) outcome {
	c.s.sockJS.mu.Lock()
	s := c.s.sockJS.byName[name]
	c.s.sockJS.mu.Unlock()
	if s != nil {
		select {
		case <-s.opened:
		default:
			s = nil
		}
	}
	if s == nil || s.Session == nil {
		return c.sockJSAnswer(r, http.StatusNotFound, "Not Found\n")
	}
	messages, err := sockjs.ParseMessages(data)
	if err != nil {
		return c.sockJSAnswer(r, http.StatusBadRequest, err.Error()+"\n")
	}
	switch err := s.BeginSend(); {
	case errors.Is(err, sockjs.ErrSending):
		return c.sockJSAnswer(r, http.StatusBadRequest, "Already sending\n")
	case err != nil:
		return c.sockJSAnswer(r, http.StatusNotFound, "Not Found\n")
	}
	defer s.EndSend()
	for _, m := range messages {
		if s.ws.WriteMessage(websocket.TextMessage, []byte(m)) != nil {
			return c.sockJSAnswer(r, http.StatusGone, "Session terminated\n")
		}
	}
	return c.sockJSAnswer(r, http.StatusOK, "ok")
}

// dialed is what came of a WebSocket to this process itself: a connection, with
// the head of the answer, or an answer for the client, or neither if nobody is
// there to get one.
type dialed struct {
	ws      *websocket.Conn
	head    *http1.ResponseHead
	refusal *answer
}

// dialInner opens a WebSocket to this process itself, as the client of r would. It
// waits for the origin to answer, or for gone.
func (c *conn) dialInner(r *frame.Request, uri string, kind uint8, gone <-chan struct{}) dialed {
	near, far, err := socketPair()
	if err != nil {
		c.s.log.Error("socket pair for SockJS", "err", err)
		return dialed{refusal: unavailable()}
	}
	select {
	case c.s.slots <- struct{}{}:
	default:
		_, _ = near.Close(), far.Close()
		c.s.metrics.full.Inc()
		return dialed{refusal: unavailable()}
	}
	if !c.s.admitInner(far, c.peer, &inner{kind, c.scheme()}) {
		_ = near.Close()
		return dialed{refusal: unavailable()}
	}
	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-gone:
			_ = near.Close()
		case <-ended:
		}
	}()
	d, err := handshakeInner(near, r, uri)
	close(ended)
	<-stopped
	if d.ws == nil {
		_ = near.Close()
	}
	if err != nil && d.refusal == nil {
		select {
		case <-gone:
		default:
			d.refusal = unavailable()
		}
	}
	return d
}

func unavailable() *answer {
	return &answer{code: http.StatusServiceUnavailable, header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}}, body: []byte("Session could not be opened.\n")}
}

// maxRefusal is how much of a refusal is passed on.
const maxRefusal = 100_000

// maxInner is the largest message that a SockJS client can be sent, in bytes: its
// frame has to be put together in memory.
const maxInner = 1 << 20

// handshakeInner makes the handshake on nc. The header is that of the client's
// request but for what concerns its connection.
func handshakeInner(nc net.Conn, r *frame.Request, uri string) (dialed, error) {
	h := http1.RemoveHopByHop(append([]frame.Field(nil), r.Header...))
	h = http1.Del(h, "Content-Length", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Extensions")
	h = append(h, frame.Field{Name: "Upgrade", Value: "websocket"}, frame.Field{Name: "Connection", Value: "Upgrade"},
		frame.Field{Name: "Sec-WebSocket-Version", Value: "13"}, frame.Field{Name: "Sec-WebSocket-Key", Value: "AAAAAAAAAAAAAAAAAAAAAA=="})
	if _, err := nc.Write(http1.AppendRequestHead(nil, http.MethodGet, uri, 1, h)); err != nil {
		return dialed{}, err
	}
	br := bufio.NewReader(nc)
	head, err := http1.ReadResponseHead(br, http1.Limits{MaxHead: 64 << 10}, http.MethodGet)
	if err != nil {
		return dialed{}, err
	}
	if head.Code != http.StatusSwitchingProtocols {
		body, err := io.ReadAll(io.LimitReader(http1.NewBodyReader(br, head.BodyLen, http1.Limits{}), maxRefusal))
		header := http1.Del(http1.RemoveHopByHop(head.Header), "Content-Length")
		return dialed{head: head, refusal: &answer{code: head.Code, reason: head.Reason, header: header, body: body}}, err
	}
	ws, err := wsconn.Client(nc, br, 1024)
	if err != nil {
		return dialed{}, err
	}
	ws.SetReadLimit(maxInner)
	ws.SetPingHandler(func(string) error { return nil }) // neither goes through SockJS
	ws.SetPongHandler(func(string) error { return nil })
	return dialed{ws: ws, head: head}, nil
}

// socketPair returns both ends of a connection.
func socketPair() (near, far net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	open := func(fd int) (net.Conn, error) {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "sockjs")
		defer f.Close() //nolint:errcheck // FileConn has a copy
		return net.FileConn(f)
	}
	near, err = open(fds[0])
	far, err2 := open(fds[1])
	if err = errors.Join(err, err2); err != nil {
		for _, nc := range []net.Conn{near, far} {
			if nc != nil {
				_ = nc.Close()
			}
		}
		return nil, nil, err
	}
	return near, far, nil
}

// heartbeatTime is how long nothing is sent on a WebSocket with SockJS frames
// before a heartbeat is.
const heartbeatTime = sockjs.PollTime

// sockJSWebSocket serves a WebSocket with SockJS frames: it is joined with one
// without.
func (c *conn) sockJSWebSocket(r *relay) outcome {
	gone, unwatch := c.leaving()
	d := c.dialInner(&r.req.f, r.req.f.URI, frame.SockJSFramed, gone)
	unwatch()
	c.closeAfter = true
	if d.ws == nil {
		if d.refusal == nil {
			return outcomeClose
		}
		d.refusal.close = true
		r.st.out = c.appendAnswer(r.st.out[:0], *d.refusal)
		return c.afterAnswer(c.flush(r.st))
	}
	defer d.ws.Close() //nolint:errcheck // it is over
	head := wsHandshake(r.req.f.Header, http1.Del(d.head.Header, "Sec-WebSocket-Extensions"), d.head.Reason, false)
	if c.write(c.unprobed(head)) != nil {
		return outcomeClose
	}
	if n := r.st.br.Buffered(); n > 0 {
		b, _ := r.st.br.Peek(n)
		c.pending = append(append([]byte(nil), b...), c.pending...)
		_, _ = r.st.br.Discard(n)
	}
	_ = c.sock.SetReadDeadline(time.Time{})
	ws, err := wsconn.Server(&clientConn{c}, 1024, false)
	if err != nil { // cannot be: the handshake is our own
		c.s.log.Error("WebSocket library", "client", c.peer, "err", err)
		return outcomeClose
	}
	b := &sockJSBridge{client: ws, inner: d.ws}
	return b.run(c)
}

// clientConn is a client's connection as the WebSocket library wants it.
type clientConn struct{ *conn }

// Write implements net.Conn.
func (c *clientConn) Write(p []byte) (int, error) {
	if err := c.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements net.Conn.
func (c *clientConn) Close() error { c.close(); return nil }

// LocalAddr implements net.Conn.
func (c *clientConn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *clientConn) RemoteAddr() net.Addr { return c.sock.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *clientConn) SetDeadline(t time.Time) error { return c.sock.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *clientConn) SetReadDeadline(t time.Time) error { return c.sock.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. The socket has deadlines of its own.
func (*clientConn) SetWriteDeadline(time.Time) error { return nil }

// sockJSBridge joins a client that speaks SockJS frames with a WebSocket.
type sockJSBridge struct {
	client, inner *websocket.Conn

	mu        sync.Mutex // held while something is written to client
	heartbeat *time.Timer
	over      bool // the heartbeat must not begin anew
}

// run brings messages both ways until one side is gone.
func (b *sockJSBridge) run(c *conn) outcome {
	b.client.SetReadLimit(sockjs.MaxFrame)
	b.client.SetPingHandler(func(string) error { return nil }) // as the inner side does
	b.client.SetPongHandler(func(string) error { return nil })
	b.client.SetCloseHandler(func(int, string) error { return nil }) // the origin answers
	b.heartbeat = time.AfterFunc(heartbeatTime, func() { _ = b.toClient(sockjs.FrameHeartbeat) })
	var reading sync.WaitGroup
	reading.Go(func() {
		if b.fromInner() {
			_ = c.sock.SetReadDeadline(time.Now().Add(wsCloseTime)) // for the client's answer
		} else {
			c.close() // ends what follows
		}
	})
	closing := b.toClient(sockjs.FrameOpen) == nil && b.fromClient()
	if !closing { // else the origin answers, in the time that it has
		_ = b.inner.Close()
	}
	reading.Wait()
	b.end()
	return outcomeLinger
}

// end ends the heartbeat, also if it is just being sent.
func (b *sockJSBridge) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	b.heartbeat.Stop()
}

func (b *sockJSBridge) toClient(f string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return net.ErrClosed
	}
	b.heartbeat.Reset(heartbeatTime)
	return b.client.WriteMessage(websocket.TextMessage, []byte(f))
}

// fromInner brings the client what the origin says. It reports whether the last of
// that was a close, which the inner side has answered by itself.
func (b *sockJSBridge) fromInner() bool {
	for {
		_, data, err := b.inner.ReadMessage()
		if err == nil {
			err = b.toClient(sockjs.FrameMessages([]string{string(data)}))
		}
		var closed *websocket.CloseError
		switch {
		case err == nil:
			continue
		case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
			code, reason := closed.Code, closed.Text
			if code == websocket.CloseNoStatusReceived {
				code, reason = websocket.CloseNormalClosure, ""
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.client.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(wsCloseTime)) == nil
		}
		return false
	}
}

// fromClient brings the origin what the client says, until the client has gone, or
// has said what it must not, or has closed, which it reports.
func (b *sockJSBridge) fromClient() bool {
	for {
		_, data, err := b.client.ReadMessage()
		var closed *websocket.CloseError
		if errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
			var payload []byte
			if closed.Code != websocket.CloseNoStatusReceived {
				payload = websocket.FormatCloseMessage(closed.Code, closed.Text)
			}
			_ = b.inner.WriteControl(websocket.CloseMessage, payload, time.Now().Add(wsCloseTime))
			return true
		}
		if err != nil {
			return false
		}
		messages, err := sockjs.ParseMessages(data)
		if err != nil {
			return false
		}
		for _, m := range messages {
			if b.inner.WriteMessage(websocket.TextMessage, []byte(m)) != nil {
				return false
			}
		}
	}
}
