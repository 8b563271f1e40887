package handler

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/publish"
)

// The control API speaks as much HTTP as its contract needs: one request for a
// connection, unless the client asks for more with "Connection: keep-alive", and
// a body with a length. It is written on the bare connection because
// a publish is small, so that what a general server does around it would be most
// of its cost, and because texts and order of checks are part of the contract.

// patience is how long a connection may take for its request when there is no
// room for another one. Idle connections would keep publishers out otherwise.
const patience = time.Second

// hooksPath is where the webhooks part of the control API begins.
const hooksPath = "/webhooks"

// conns is the open connections of the control API. A deadline on the connection
// itself would cost two timers for each publish.
type conns struct {
	mu   sync.Mutex
	open map[net.Conn]connState
	shut bool
}

type connState struct {
	since time.Time
	asked bool // its request is here
}

// add reports whether conn may be served.
func (c *conns) add(conn net.Conn, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut {
		return false
	}
	if c.open == nil {
		c.open = make(map[net.Conn]connState)
	}
	c.open[conn] = connState{since: now}
	return true
}

// asked notes that a request of conn is here, and gives it its own time: the
// connection may have rested before.
func (c *conns) asked(conn net.Conn, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[conn]; ok {
		c.open[conn] = connState{since: now, asked: true}
	}
}

// rest reports whether conn may stay open for another request, and begins its
// time anew. Half of the room is for connections that are used now.
func (c *conns) rest(conn net.Conn, now time.Time, room int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[conn]; !ok || c.shut || 2*len(c.open) > room {
		return false
	}
	c.open[conn] = connState{since: now}
	return true
}

func (c *conns) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

// expire closes what took longer than the timeout, or than patience if there are
// room connections and the request is not here yet. The goroutine that serves it
// ends by that.
func (c *conns) expire(now time.Time, timeout time.Duration, room int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	full := len(c.open) >= room
	for conn, state := range c.open {
		took := now.Sub(state.since)
		if took >= timeout || full && !state.asked && took >= patience {
			_ = conn.Close()
		}
	}
}

// closeAll closes what is open, and whatever comes later.
func (c *conns) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	for conn := range c.open {
		_ = conn.Close()
	}
}

// serveHTTP serves the control API until ctx ends. Options.HTTPMaxConns workers
// each accept a connection and serve it before they accept the next, so more
// than that wait in the listener, and no publish costs a new goroutine.
func (s *Server) serveHTTP(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		_ = s.Close()
		s.conns.closeAll()
	})
	defer stop()
	for _, l := range []net.Listener{s.listener, s.local} {
		if l == nil {
			continue
		}
		s.log.Info("control API is listening", "addr", l.Addr().String())
		for range s.opt.HTTPMaxConns {
			g.Go(func() error { return s.acceptLoop(ctx, l) })
		}
	}
	return g.Wait()
}

func (s *Server) acceptLoop(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.serveConn(conn, l == s.local)
		case ctx.Err() != nil:
			return nil //nolint:nilerr // we closed the listener ourselves
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			// Out of descriptors, most likely: others have to give some back.
			s.log.Error("control API cannot accept", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}

// serveConn serves the request of a connection, or its requests.
func (s *Server) serveConn(conn net.Conn, local bool) {
	defer func() { _ = conn.Close() }() // nobody is left to be told
	raw := conn                         // what conns knows
	if !s.conns.add(raw, time.Now()) {
		return
	}
	defer s.conns.remove(raw)
	s.metrics.controlConns.Inc()
	defer s.metrics.controlConns.Dec()
	if s.tls != nil && !local {
		c := s.handshake(raw)
		if c == nil {
			lingeringClose(raw)
			return
		}
		conn = c
	}
	br, _ := readers.Get().(*bufio.Reader)
	br.Reset(conn)
	defer func() { br.Reset(nil); readers.Put(br) }()

	for s.serveRequest(br, conn, raw, local) {
	}
}

// serveRequest serves one request and reports whether another may follow.
func (s *Server) serveRequest(br *bufio.Reader, conn, raw net.Conn, local bool) bool {
	req := request{version: "HTTP/1.1", local: local}
	res, err := s.readRequest(br, conn, &req)
	if err != nil {
		return false // it went away, or took too long
	}
	s.conns.asked(raw, time.Now())
	var batch publish.Batch
	if res == nil {
		res, batch = s.respond(&req)
	} else {
		s.metrics.invalid[intakeHTTP].Inc()
	}
	if err := s.hooks.take(intakeHTTP, batch.Items); err != nil {
		// All or nothing: clients do not get what the publisher is told to send again.
		isJSON, _ := s.negotiate(&req)
		res, batch = hooksRefused(err, isJSON), publish.Batch{}
	}
	// Published before the answer, because a publisher that has it may send the
	// next item on another connection, and that one must not overtake this one.
	if batch.Report {
		res = s.publishReport(batch.Items)
	}
	s.logControl(&req, res, batch.Items)
	if len(batch.Items) > 0 && !batch.Report {
		s.publishFor(intakeHTTP, batch.Items, nil)
	}
	unread := req.unread || br.Buffered() > 0
	req.kept = !unread && res.code == 200 && req.wantsKeepAlive() && s.conns.rest(raw, time.Now(), s.opt.HTTPMaxConns)
	_, err = conn.Write(res.bytes(&req)) // it was published, whether the client waits for the answer or not
	if unread {
		lingeringClose(conn)
	}
	return err == nil && req.kept
}

// lingeringClose lets the client read our answer before the connection is reset
// because of bytes that we did not read.
func lingeringClose(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.CopyN(io.Discard, conn, 1<<20) // for the effect alone
	}
}

// handshake makes a TLS connection of one to the port. It returns nil if the
// client cannot, which may have been told why. How long it may take is bounded as
// all of the connection is.
func (s *Server) handshake(raw net.Conn) net.Conn {
	conf, err := s.tls.current()
	if err != nil {
		s.log.Error("certificate of the control API cannot be read again, the old one holds", "err", err)
	}
	conn := tls.Server(raw, conf)
	if err = conn.Handshake(); err == nil {
		return conn
	}
	s.metrics.invalid[intakeHTTP].Inc()
	s.mu.Lock()
	skipped, ok := s.skipLog.Allow(s.now())
	s.mu.Unlock()
	if ok {
		s.log.Warn("control API: no TLS connection", "client", raw.RemoteAddr().String(), "err", err, "not_logged", skipped)
	}
	var header tls.RecordHeaderError
	if errors.As(err, &header) && header.RecordHeader[0] >= 'A' && header.RecordHeader[0] <= 'Z' {
		// A method, most likely. HTTP/1.0, since it may be of any version.
		res := badRequest("This port speaks HTTPS.")
		_, _ = raw.Write(res.bytes(&request{version: "HTTP/1.0"}))
	}
	return nil
}

func (s *Server) logControl(req *request, res *response, items []*publish.Item) {
	if !s.logInfo {
		return
	}
	line := fmt.Sprintf("control: %s %s code=%d %d", req.method, req.uri, res.code, len(res.body))
	if items != nil {
		line += " items=" + strconv.Itoa(len(items))
	}
	s.log.Info(line)
}

// request is a request to the control API.
type request struct {
	version, method, uri string
	header               []frame.Field // those of known, under these names
	body                 []byte
	unread               bool // bytes of the request were not read
	local                bool // came over the unix socket
	kept                 bool // the connection stays open after it
}

// known are the header fields that mean something here.
var known = []string{"Content-Length", "Transfer-Encoding", "Expect", "Accept", "Authorization", "Connection"}

func (r *request) add(name, value []byte) {
	for _, k := range known {
		if len(name) == len(k) && strings.EqualFold(string(name), k) {
			r.header = append(r.header, frame.Field{Name: k, Value: string(bytes.TrimSpace(value))})
		}
	}
}

// get returns the first value of a known field, and how many there are.
func (r *request) get(name string) (value string, n int) {
	for _, f := range r.header {
		if f.Name == name {
			if n == 0 {
				value = f.Value
			}
			n++
		}
	}
	return value, n
}

// wantsKeepAlive reports whether the client has said that it will use the
// connection again. That of HTTP/1.1 is not taken for granted: Pushpin closes
// after each request, and clients were written for that.
func (r *request) wantsKeepAlive() bool { return http1.HasToken(r.header, "Connection", "keep-alive") }

// response is an answer of the control API.
type response struct {
	code      int
	allow     bool   // Allow: POST
	retry     bool   // Retry-After: 1
	challenge string // WWW-Authenticate
	isJSON    bool
	body      string
}

var statusText = map[int]string{
	200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
	409: "Conflict", 500: "Internal Server Error", 411: "Length Required", 503: "Service Unavailable",
}

func badRequest(text string) *response { return &response{code: 400, body: text + "\n"} }

func (r *response) bytes(req *request) []byte {
	b := make([]byte, 0, 160+len(r.body))
	b = append(b, req.version...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(r.code), 10)
	b = append(b, ' ')
	b = append(b, statusText[r.code]...)
	b = append(b, "\r\n"...)
	if r.allow {
		b = append(b, "Allow: POST\r\n"...)
	}
	if r.retry {
		b = append(b, "Retry-After: 1\r\n"...)
	}
	if r.challenge != "" {
		b = append(b, "WWW-Authenticate: "...)
		b = append(b, r.challenge...)
		b = append(b, "\r\n"...)
	}
	if r.isJSON {
		b = append(b, "Content-Type: application/json\r\n"...)
	} else {
		b = append(b, "Content-Type: text/plain\r\n"...)
	}
	if req.kept {
		b = append(b, "Connection: keep-alive\r\n"...)
	} else {
		b = append(b, "Connection: close\r\n"...)
	}
	if r.code == 204 { // it has neither body nor length (RFC 9110 section 8.6)
		return append(b, "\r\n"...)
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(r.body)), 10)
	b = append(b, "\r\n\r\n"...)
	if req.method == "HEAD" {
		return b
	}
	return append(b, r.body...)
}

// readRequest reads the request, or returns what to answer to one that is not
// right. An error means that there is nobody to answer.
func (s *Server) readRequest(br *bufio.Reader, w io.Writer, req *request) (*response, error) {
	req.unread = true
	lines := lineReader{br: br, left: s.opt.HTTPMaxHeader}
	malformed := badRequest("Failed to parse request header.")
	first, res, err := lines.next()
	if res != nil || err != nil {
		return res, err
	}
	method, rest, ok1 := strings.Cut(string(first), " ")
	uri, version, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || !http1.ValidToken(method) || uri == "" || hasControl(uri) || version != "HTTP/1.0" && version != "HTTP/1.1" {
		return malformed, nil
	}
	req.method, req.uri, req.version = method, uri, version
	for {
		line, res, err := lines.next()
		if res != nil || err != nil {
			return res, err
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		// A space before the colon, or a line that goes on with the field before it,
		// is no token: a proxy in front may read either in another way than we do.
		if !ok || !http1.ValidToken(string(name)) || hasControl(string(value)) {
			return malformed, nil
		}
		req.add(name, value)
	}
	if res := s.authorize(req); res != nil {
		return res, nil
	}

	length, n := req.get("Content-Length")
	_, chunked := req.get("Transfer-Encoding")
	bare := strings.HasPrefix(req.uri, hooksPath) // curl -X POST sends no length
	switch req.method {
	case "HEAD", "GET", "DELETE", "OPTIONS":
		bare = true
	}
	if bare && n == 0 && chunked == 0 {
		req.unread = false
		return nil, nil
	}
	if n == 0 || chunked > 0 {
		return &response{code: 411, body: "Request requires Content-Length.\n"}, nil
	}
	for _, f := range req.header {
		if f.Name == "Content-Length" && f.Value != length {
			return badRequest("Bad Content-Length."), nil
		}
	}
	want, err := strconv.ParseUint(length, 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && want > uint64(s.opt.HTTPMaxBody):
		return badRequest("Request body too large."), nil
	case err != nil:
		return badRequest("Bad Content-Length."), nil //nolint:nilerr // it is answered
	}
	if v, _ := req.get("Expect"); v == "100-continue" {
		if _, err := io.WriteString(w, req.version+" 100 Continue\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	// The memory grows with what arrives, not with what was announced.
	const step = 32 << 10
	for got := 0; got < int(want); {
		n := min(int(want)-got, max(step, got))
		req.body = slices.Grow(req.body, n)[:got+n]
		if _, err := io.ReadFull(br, req.body[got:]); err != nil {
			return nil, err
		}
		got += n
	}
	req.unread = false
	if br.Buffered() > 0 {
		return badRequest("Request body exceeded Content-Length."), nil
	}
	return nil, nil
}

// hasControl reports whether s has a control character other than tab.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// lineReader reads the lines of a request head.
type lineReader struct {
	br   *bufio.Reader
	left int // bytes that the head may still have
}

// next returns a line without its end; it is valid until the next call.
func (l *lineReader) next() ([]byte, *response, error) {
	var long []byte
	for {
		part, err := l.br.ReadSlice('\n')
		if l.left -= len(part); l.left <= 0 {
			return nil, badRequest("Request header too large."), nil
		}
		if long != nil || err != nil {
			long = append(long, part...)
			part = long
		}
		switch {
		case err == nil:
			return bytes.TrimSuffix(part[:len(part)-1], []byte("\r")), nil, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, nil, err
		}
	}
}

// respond says what to answer to a request, and what it publishes.
func (s *Server) respond(req *request) (*response, publish.Batch) {
	isJSON, ok := s.negotiate(req)
	if !ok {
		return &response{code: 406, body: "Not Acceptable. Supported formats are text/plain and application/json.\n"}, publish.Batch{}
	}
	// A query is ignored: client libraries leave what they do not know of a
	// configured URL in there.
	path, query, _ := strings.Cut(req.uri, "?")
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	if rest, ok := strings.CutPrefix(path, hooksPath); ok && (rest == "" || rest[0] == '/') {
		return s.hookResponse(req, rest, query), publish.Batch{}
	}
	switch path {
	case "/":
		return &response{code: 200, body: "Pushpin API\n"}, publish.Batch{}
	case "/publish", "/recover":
	default:
		return &response{code: 404, body: "Not Found\n"}, publish.Batch{}
	}
	if req.method != "POST" {
		return &response{code: 405, allow: true, body: "Method not allowed: " + req.method + ".\n"}, publish.Batch{}
	}
	if !s.Ready() {
		return &response{code: 503, retry: true, body: "Starting, not all connections are known yet.\n"}, publish.Batch{}
	}
	if path == "/recover" {
		s.recoverAll()
		return message("Updated", isJSON), publish.Batch{}
	}
	batch, err := publish.ParseBatch(req.body)
	if err != nil {
		s.metrics.invalid[intakeHTTP].Inc()
		return badRequest(err.Error()), publish.Batch{}
	}
	return message("Published", isJSON), batch
}

// publishReport publishes items and returns an answer that tells what each came
// to so far.
func (s *Server) publishReport(items []*publish.Item) *response {
	report := make([]map[string]any, 0, len(items))
	s.publishFor(intakeHTTP, items, func(r receipt) { report = append(report, r.fields()) })
	body, _ := json.Marshal(map[string]any{"message": "Published", "items": report}) // strings and numbers: it cannot fail
	return &response{code: 200, isJSON: true, body: string(body) + "\n"}
}

func message(text string, isJSON bool) *response {
	if isJSON {
		return &response{code: 200, isJSON: true, body: `{"message":"` + text + `"}` + "\n"}
	}
	return &response{code: 200, body: text + "\n"}
}

// negotiate reads Accept: the last type that we have decides.
func (s *Server) negotiate(req *request) (isJSON, ok bool) {
	if _, n := req.get("Accept"); n == 0 {
		return false, true
	}
	for _, e := range grip.List(req.header, "Accept") {
		mediaType, _, _ := strings.Cut(e, ";")
		switch strings.TrimSpace(mediaType) {
		case "text/plain", "text/*", "*/*", "*":
			isJSON, ok = false, true
		case "application/json", "application/*":
			isJSON, ok = true, true
		}
	}
	return isJSON, ok
}
