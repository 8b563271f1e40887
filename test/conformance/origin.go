package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Origin is the backend of one case: a TCP server that shows requests as they
// came, and answers with raw bytes, so that it can be as wrong as it likes.
type Origin struct {
	ln    net.Listener
	reqs  chan *Request
	mu    sync.Mutex
	f     func(*Exchange)
	eager bool
	conns map[net.Conn]bool
	count int
	wg    sync.WaitGroup
}

// Request is one request that reached an origin.
type Request struct {
	Line   string // request line
	Header []string
	Body   string
	Conn   int // which connection of the origin it came over, from 1
	Err    error
}

// Exchange is a request with the connection that waits for its answer.
type Exchange struct {
	*Request
	conn net.Conn
	br   *bufio.Reader
	over bool
}

func newOrigin() (*Origin, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return serveOrigin(ln), nil
}

func serveOrigin(ln net.Listener) *Origin {
	o := &Origin{ln: ln, reqs: make(chan *Request, 1000), conns: map[net.Conn]bool{}}
	o.wg.Add(1)
	go o.accept()
	return o
}

func (o *Origin) addr() string { return o.ln.Addr().String() }

func (o *Origin) handle(f func(*Exchange)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.f = f
}

// handleHead is handle for a function that reads the body itself, if at all.
func (o *Origin) handleHead(f func(*Exchange)) {
	o.handle(f)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.eager = true
}

func (o *Origin) close() {
	_ = o.ln.Close()
	o.mu.Lock()
	for c := range o.conns {
		_ = c.Close()
	}
	o.mu.Unlock()
	o.wg.Wait()
}

// closeIdle closes the connections that are open now.
func (o *Origin) closeIdle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.conns {
		_ = c.Close()
	}
}

func (o *Origin) accept() {
	defer o.wg.Done()
	for {
		c, err := o.ln.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.conns[c] = true
		o.count++
		n := o.count
		o.mu.Unlock()
		o.wg.Add(1)
		go o.serve(c, n)
	}
}

func (o *Origin) serve(c net.Conn, n int) {
	defer o.wg.Done()
	defer func() {
		_ = c.Close()
		o.mu.Lock()
		delete(o.conns, c)
		o.mu.Unlock()
	}()
	br := bufio.NewReader(c)
	for {
		o.mu.Lock()
		eager := o.eager
		o.mu.Unlock()
		r, err := readRequest(br, c, eager)
		if err != nil {
			return
		}
		r.Conn = n
		select {
		case o.reqs <- r:
		default: // nobody looks at that many
		}
		o.mu.Lock()
		f := o.f
		o.mu.Unlock()
		x := &Exchange{Request: r, conn: c, br: br}
		if f == nil {
			x.Send(reply("200 OK", "Content-Type: text/plain", "origin\n"))
		} else {
			f(x)
		}
		if x.over || r.Err != nil {
			return
		}
	}
}

// next waits for a request.
func (o *Origin) next(t *T) *Request {
	timer := time.NewTimer(time.Until(t.deadline()))
	defer timer.Stop()
	select {
	case r := <-o.reqs:
		return r
	case <-timer.C:
		t.Fatalf("no request reached the origin")
		return nil
	}
}

// readRequest reads a request; of an eager origin only its head.
func readRequest(br *bufio.Reader, c net.Conn, eager bool) (*Request, error) {
	line, err := readLine(br)
	if err != nil {
		return nil, err
	}
	r := &Request{Line: line}
	for {
		h, err := readLine(br)
		if err != nil {
			return nil, err
		}
		if h == "" {
			break
		}
		r.Header = append(r.Header, h)
	}
	if eager {
		return r, nil
	}
	if strings.EqualFold(r.Get("Expect"), "100-continue") {
		fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	var b strings.Builder
	switch {
	case strings.EqualFold(r.Get("Transfer-Encoding"), "chunked"):
		_, r.Err = io.Copy(&b, &body{br: br, kind: chunked})
	case r.Get("Content-Length") != "":
		n, err := strconv.ParseInt(r.Get("Content-Length"), 10, 64)
		if err != nil {
			return nil, err
		}
		_, r.Err = io.Copy(&b, &body{br: br, kind: sized, left: n})
	}
	r.Body = b.String()
	return r, nil
}

// Get is the value of the first header line of that name.
func (r *Request) Get(name string) string {
	if all := values(r.Header, name); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Values are the values of all header lines of that name.
func (r *Request) Values(name string) []string { return values(r.Header, name) }

// Lines joins the header lines of that name as they came, for one comparison.
func (r *Request) Lines(names ...string) string {
	var out []string
	for _, h := range r.Header {
		for _, n := range names {
			if name, _, _ := strings.Cut(h, ":"); strings.EqualFold(name, n) {
				out = append(out, h)
			}
		}
	}
	return strings.Join(out, "\n")
}

// Target is the request target.
func (r *Request) Target() string {
	f := strings.Fields(r.Line)
	if len(f) < 2 {
		return ""
	}
	return f[1]
}

func values(header []string, name string) []string {
	var out []string
	for _, h := range header {
		if n, v, ok := strings.Cut(h, ":"); ok && strings.EqualFold(n, name) {
			out = append(out, strings.TrimSpace(v))
		}
	}
	return out
}

// Send writes raw bytes to the proxy.
func (x *Exchange) Send(raw string) {
	_ = x.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(x.conn, raw); err != nil {
		x.over = true // the proxy has gone; the case sees it on its side
	}
}

// Close ends the connection after what was sent.
func (x *Exchange) Close() {
	x.over = true
	_ = x.conn.Close()
}

// Reset ends the connection with a TCP reset.
func (x *Exchange) Reset() {
	x.over = true
	if c, ok := x.conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = x.conn.Close()
}

// Gone waits until the proxy has closed the connection.
func (x *Exchange) Gone() bool {
	_ = x.conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	_, err := x.br.ReadByte()
	x.over = true
	var ne net.Error
	return err != nil && (!errors.As(err, &ne) || !ne.Timeout())
}
