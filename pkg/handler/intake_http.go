package handler

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/publish"
)

// The control API speaks as much HTTP as its contract needs: one request for a
// connection, a body with a length. It is written on the bare connection because
// a publish is small, so that what a general server does around it would be most
// of its cost, and because texts and order of checks are part of the contract.

// conns is the open connections of the control API.
type conns struct {
	mu   sync.Mutex
	open map[net.Conn]bool
	shut bool
}

// add reports whether c may be served.
func (c *conns) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut {
		return false
	}
	if c.open == nil {
		c.open = make(map[net.Conn]bool)
	}
	c.open[conn] = true
	return true
}

func (c *conns) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

// closeAll ends what is open and whatever comes later.
func (c *conns) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	for conn := range c.open {
		_ = conn.Close() // its goroutine ends by that
	}
}

// serveHTTP serves the control API until ctx ends. Options.HTTPMaxConns workers
// each accept and serve one connection at a time; more wait in the listener.
func (s *Server) serveHTTP(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = s.listener.Close()
		s.conns.closeAll()
	})
	defer stop()
	s.log.Info("control API is listening", "addr", s.listener.Addr().String())
	// One goroutine accepts and hands over: as many as there may be connections
	// would all sit in Accept.
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, s.opt.HTTPMaxConns)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := s.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if !isTemporary(err) {
				return err
			}
			// Out of descriptors, most likely. Others have to give some back first.
			s.log.Error("control API cannot accept", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			<-room
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			s.serveConn(conn)
		})
	}
}

func isTemporary(err error) bool {
	var ne *net.OpError
	return errors.As(err, &ne) && !errors.Is(err, net.ErrClosed)
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4096) }}

// serveConn serves the one request of a connection.
func (s *Server) serveConn(conn net.Conn) {
	defer conn.Close()
	if !s.conns.add(conn) {
		return
	}
	defer s.conns.remove(conn)
	s.metrics.controlConns.Inc()
	defer s.metrics.controlConns.Dec()
	_ = conn.SetDeadline(time.Now().Add(s.opt.HTTPTimeout)) // a connection that is closed fails later
	br := readers.Get().(*bufio.Reader)
	br.Reset(conn)
	defer func() { br.Reset(nil); readers.Put(br) }()

	req := request{version: "HTTP/1.1"}
	res, err := s.readRequest(br, conn, &req)
	if err != nil {
		return // it went away, or took too long
	}
	var items []*publish.Item
	if res == nil {
		res, items = s.respond(&req)
	} else {
		s.metrics.invalid[intakeHTTP].Inc()
	}
	if _, err := conn.Write(res.bytes(&req)); err != nil && len(items) == 0 {
		return
	}
	s.logControl(&req, res, items)
	if len(items) > 0 {
		// After the answer: a publish says nothing about its deliveries.
		s.publish(intakeHTTP, items...)
	}
	if len(req.left) > 0 || br.Buffered() > 0 {
		lingeringClose(conn)
	}
}

// lingeringClose lets the client read our answer before the connection is reset
// because of bytes that we did not read.
func lingeringClose(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
		_ = tcp.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.CopyN(io.Discard, tcp, 1<<20) // for the effect alone
	}
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
	header               []frame.Field
	body                 []byte
	left                 string // not empty if bytes of the request were not read
}

func (r *request) get(name string) (value string, n int) {
	for _, f := range r.header {
		if strings.EqualFold(f.Name, name) {
			if n == 0 {
				value = f.Value
			}
			n++
		}
	}
	return value, n
}

// response is an answer of the control API.
type response struct {
	code   int
	allow  bool // Allow: POST
	retry  bool // Retry-After: 1
	isJSON bool
	body   string
}

var statusText = map[int]string{
	200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 406: "Not Acceptable",
	411: "Length Required", 503: "Service Unavailable",
}

func badRequest(text string) *response { return &response{code: 400, body: text + "\n"} }

func (r *response) bytes(req *request) []byte {
	b := make([]byte, 0, 160+len(r.body))
	b = fmt.Appendf(b, "%s %d %s\r\n", req.version, r.code, statusText[r.code])
	if r.allow {
		b = append(b, "Allow: POST\r\n"...)
	}
	if r.retry {
		b = append(b, "Retry-After: 1\r\n"...)
	}
	contentType := "text/plain"
	if r.isJSON {
		contentType = "application/json"
	}
	b = fmt.Appendf(b, "Content-Type: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", contentType, len(r.body))
	if req.method == "HEAD" {
		return b
	}
	return append(b, r.body...)
}

// readRequest reads the request, or returns what to answer to one that is not
// right. An error means that there is nobody to answer.
func (s *Server) readRequest(br *bufio.Reader, w io.Writer, req *request) (*response, error) {
	req.left = "header"
	size := 0
	line := func() (string, *response, error) {
		var long []byte
		for {
			part, err := br.ReadSlice('\n')
			if size += len(part); size >= s.opt.HTTPMaxHeader {
				return "", badRequest("Request header too large."), nil
			}
			if err == nil {
				part = bytes.TrimSuffix(part[:len(part)-1], []byte("\r"))
				if long == nil {
					return string(part), nil, nil
				}
				return string(bytes.TrimSuffix(append(long, part...), []byte("\r"))), nil, nil
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return "", nil, err
			}
			long = append(long, part...)
		}
	}
	malformed := badRequest("Failed to parse request header.")
	first, res, err := line()
	if res != nil || err != nil {
		return res, err
	}
	parts := strings.Split(first, " ")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
		return malformed, nil
	}
	if parts[2] != "HTTP/1.0" && parts[2] != "HTTP/1.1" {
		return malformed, nil
	}
	req.method, req.uri, req.version = parts[0], parts[1], parts[2]
	for {
		text, res, err := line()
		if res != nil || err != nil {
			return res, err
		}
		if text == "" {
			break
		}
		name, value, ok := strings.Cut(text, ":")
		if !ok || name == "" {
			return malformed, nil
		}
		req.header = append(req.header, frame.Field{Name: name, Value: strings.TrimSpace(value)})
	}

	length, n := req.get("Content-Length")
	_, chunked := req.get("Transfer-Encoding")
	switch req.method {
	case "HEAD", "GET", "DELETE", "OPTIONS":
		if n == 0 && chunked == 0 {
			req.left = ""
			return nil, nil
		}
	}
	if n == 0 || chunked > 0 {
		return &response{code: 411, body: "Request requires Content-Length.\n"}, nil
	}
	for _, f := range req.header {
		if strings.EqualFold(f.Name, "Content-Length") && f.Value != length {
			return badRequest("Bad Content-Length."), nil
		}
	}
	want, err := strconv.ParseUint(length, 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && want > uint64(s.opt.HTTPMaxBody):
		return badRequest("Request body too large."), nil
	case err != nil:
		return badRequest("Bad Content-Length."), nil
	}
	if v, _ := req.get("Expect"); v == "100-continue" {
		if _, err := io.WriteString(w, req.version+" 100 Continue\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	// It grows with what arrives, not with what was announced.
	var body bytes.Buffer
	if _, err := io.CopyN(&body, br, int64(want)); err != nil {
		return nil, err
	}
	req.body, req.left = body.Bytes(), ""
	if br.Buffered() > 0 {
		return badRequest("Request body exceeded Content-Length."), nil
	}
	return nil, nil
}

// respond says what to answer to a request, and what it publishes.
func (s *Server) respond(req *request) (*response, []*publish.Item) {
	isJSON, ok := s.negotiate(req)
	if !ok {
		return &response{code: 406, body: "Not Acceptable. Supported formats are text/plain and application/json.\n"}, nil
	}
	// A query is ignored: client libraries leave what they do not know of a
	// configured URL in there.
	path, _, _ := strings.Cut(req.uri, "?")
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	switch path {
	case "/":
		return &response{code: 200, body: "Pushpin API\n"}, nil
	case "/publish", "/recover":
	default:
		return &response{code: 404, body: "Not Found\n"}, nil
	}
	if req.method != "POST" {
		return &response{code: 405, allow: true, body: "Method not allowed: " + req.method + ".\n"}, nil
	}
	if !s.Ready() {
		return &response{code: 503, retry: true, body: "Starting, not all connections are known yet.\n"}, nil
	}
	if path == "/recover" {
		s.recover()
		return message("Updated", isJSON), nil
	}
	items, err := publish.ParseBatch(req.body)
	if err != nil {
		s.metrics.invalid[intakeHTTP].Inc()
		return badRequest(err.Error()), nil
	}
	return message("Published", isJSON), items
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
