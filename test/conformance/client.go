package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Client is a raw client connection to the proxy.
type Client struct {
	t    *T
	conn net.Conn
	br   *bufio.Reader
}

// Response is an answer as it came.
type Response struct {
	Line   string // status line
	Header []string
	Body   string // once it has been read
	body   *body
}

// Dial connects to the proxy's client port.
func (t *T) Dial() *Client { return t.dial(t.Proxy.HTTP) }

func (t *T) dial(addr string) *Client {
	c, err := net.DialTimeout("tcp", addr, t.wait)
	if err != nil {
		t.Fatalf("connecting to %s: %v", addr, err)
	}
	t.conns = append(t.conns, c)
	return &Client{t: t, conn: c, br: bufio.NewReader(c)}
}

// request builds a request for the host of the case. The first argument is
// method and target, the others are header lines.
func (t *T) request(start string, header ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s HTTP/1.1\r\nHost: %s\r\n", start, t.host())
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	return b.String() + "\r\n"
}

// Send writes raw bytes.
func (c *Client) Send(raw string) {
	_ = c.conn.SetWriteDeadline(c.t.deadline())
	if _, err := io.WriteString(c.conn, raw); err != nil {
		c.t.Fatalf("writing to the proxy: %v", err)
	}
}

// CloseWrite ends the client's side of the connection only.
func (c *Client) CloseWrite() { _ = c.conn.(*net.TCPConn).CloseWrite() }

// Close leaves.
func (c *Client) Close() { _ = c.conn.Close() }

// Get sends a request on a new connection and reads the whole answer.
func (t *T) Get(start string, header ...string) *Response {
	if !strings.Contains(start, " ") {
		start = "GET " + start
	}
	c := t.Dial()
	c.Send(t.request(start, header...))
	method, _, _ := strings.Cut(start, " ")
	return c.Read(method)
}

// Open sends a GET on a new connection and reads only the head of the answer.
func (t *T) Open(start string, header ...string) (*Client, *Response) {
	if !strings.Contains(start, " ") {
		start = "GET " + start
	}
	c := t.Dial()
	c.Send(t.request(start, header...))
	method, _, _ := strings.Cut(start, " ")
	return c, c.Head(method)
}

// Post sends a request with a sized body on a new connection.
func (t *T) Post(start, content string, header ...string) *Response {
	c := t.Dial()
	c.Send(t.request(start, append(header, fmt.Sprintf("Content-Length: %d", len(content)))...) + content)
	method, _, _ := strings.Cut(start, " ")
	return c.Read(method)
}

// Read reads a whole answer.
func (c *Client) Read(method string) *Response {
	r := c.Head(method)
	c.Rest(r)
	return r
}

// Head reads a status line and header. Interim answers are not expected.
func (c *Client) Head(method string) *Response {
	_ = c.conn.SetReadDeadline(c.t.deadline())
	line, err := readLine(c.br)
	if err != nil {
		c.t.Fatalf("no answer: %v", plain(err))
	}
	r := &Response{Line: line}
	for {
		h, err := readLine(c.br)
		if err != nil {
			c.t.Fatalf("the answer %q ended within its header: %v", line, plain(err))
		}
		if h == "" {
			break
		}
		r.Header = append(r.Header, h)
	}
	code := r.Code()
	switch {
	case method == "HEAD" || code/100 == 1 || code == 204 || code == 304:
		r.body = &body{br: c.br, kind: sized}
	case strings.EqualFold(r.Get("Transfer-Encoding"), "chunked"):
		r.body = &body{br: c.br, kind: chunked}
	case r.Get("Content-Length") != "":
		n, err := strconv.ParseInt(r.Get("Content-Length"), 10, 64)
		if err != nil {
			c.t.Fatalf("the answer has Content-Length %q", r.Get("Content-Length"))
		}
		r.body = &body{br: c.br, kind: sized, left: n}
	default:
		r.body = &body{br: c.br, kind: untilClose}
	}
	return r
}

// Rest reads the body to its proper end.
func (c *Client) Rest(r *Response) string {
	text, err := c.TryRest(r)
	if err != nil {
		c.t.Fatalf("after %q the body ended with %v, having given %q", r.Line, plain(err), clip(text, ""))
	}
	return text
}

// TryRest reads the body until it ends, properly or not.
func (c *Client) TryRest(r *Response) (string, error) {
	_ = c.conn.SetReadDeadline(c.t.deadline())
	var b bytes.Buffer
	_, err := io.Copy(&b, r.body)
	r.Body = b.String()
	return r.Body, err
}

// Next reads as much of the body as the text is long, and compares.
func (c *Client) Next(r *Response, want string) {
	_ = c.conn.SetReadDeadline(c.t.deadline())
	buf := make([]byte, len(want))
	n, err := io.ReadFull(r.body, buf)
	if err != nil || string(buf) != want {
		c.t.Fatalf("from the stream: got %q (%v), want %q", clip(string(buf[:n]), want), plain(err), clip(want, string(buf[:n])))
	}
}

// End expects the end of the body, with nothing before it.
func (c *Client) End(r *Response) {
	if rest := c.Rest(r); rest != "" {
		c.t.Fatalf("from the stream: got %q, want its end", clip(rest, ""))
	}
}

// Closed expects that the proxy closes the connection and sends nothing more.
func (c *Client) Closed() {
	_ = c.conn.SetReadDeadline(c.t.deadline())
	rest, err := io.ReadAll(c.br)
	var ne net.Error
	if len(rest) > 0 || errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatalf("want the connection closed: got %q, %v", clip(string(rest), ""), plain(err))
	}
}

// Code is the status code, 0 if there is none.
func (r *Response) Code() int {
	f := strings.SplitN(r.Line, " ", 3)
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.Atoi(f[1])
	if err != nil {
		return 0
	}
	return n
}

// Get is the value of the first header line of that name.
func (r *Response) Get(name string) string {
	if all := values(r.Header, name); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Has reports whether there is such a header.
func (r *Response) Has(name string) bool { return len(values(r.Header, name)) > 0 }

// Own is the header without what a server adds on its own, one line each.
func (r *Response) Own() string {
	var out []string
	for _, h := range r.Header {
		name, _, _ := strings.Cut(h, ":")
		switch strings.ToLower(name) {
		case "connection", "keep-alive", "date", "server", "transfer-encoding", "content-length":
			continue
		}
		if strings.HasSuffix(h, ":") { // the blank after it does not matter
			h += " "
		}
		out = append(out, h)
	}
	return strings.Join(out, "\n")
}

// Is compares status line, own header and body.
func (t *T) Is(r *Response, line, own, content string) {
	t.Equal("status line", r.Line, line)
	t.Equal("header", r.Own(), own)
	t.Equal("body", r.Body, content)
}

// Error compares an error that the proxy itself made.
func (t *T) Error(r *Response, line, text string) {
	t.Is(r, line, "Content-Type: text/plain", text)
	t.Equal("Content-Length", r.Get("Content-Length"), strconv.Itoa(len(text)))
}

type bodyKind int

const (
	sized bodyKind = iota
	chunked
	untilClose
)

// body reads one message body. Of a chunked one it keeps the sizes of the
// chunks and the trailer.
type body struct {
	br      *bufio.Reader
	kind    bodyKind
	left    int64
	inChunk bool
	done    bool
	chunks  []int64
	trailer []string
}

func (b *body) Read(p []byte) (int, error) {
	if b.done {
		return 0, io.EOF
	}
	switch b.kind {
	case untilClose:
		return b.br.Read(p)
	case sized:
		if b.left == 0 {
			return 0, io.EOF
		}
	case chunked:
		if b.left == 0 {
			if err := b.nextChunk(); err != nil {
				return 0, err
			}
		}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.br.Read(p)
	b.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *body) nextChunk() error {
	if b.inChunk {
		if line, err := readLine(b.br); err != nil || line != "" {
			return fmt.Errorf("chunk not ended by a line end: %q, %w", line, err)
		}
		b.inChunk = false
	}
	line, err := readLine(b.br)
	if err != nil {
		return cut(err)
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(size), 16, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("bad chunk size %q", line)
	}
	if n > 0 {
		b.chunks, b.left, b.inChunk = append(b.chunks, n), n, true
		return nil
	}
	for {
		line, err := readLine(b.br)
		if err != nil {
			return cut(err)
		}
		if line == "" {
			b.done = true
			return io.EOF
		}
		b.trailer = append(b.trailer, line)
	}
}

func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLine reads up to a line end, which must be CR LF.
func readLine(br *bufio.Reader) (string, error) {
	line, err := br.ReadString('\n')
	if err != nil {
		if line != "" {
			return "", cut(err)
		}
		return "", err
	}
	if !strings.HasSuffix(line, "\r\n") {
		return "", fmt.Errorf("a line without CR: %q", line)
	}
	return line[:len(line)-2], nil
}

// plain leaves out the addresses that an error carries.
func plain(err error) string {
	var ne net.Error
	switch {
	case err == nil:
		return "no error"
	case errors.As(err, &ne) && ne.Timeout():
		return "a timeout"
	case errors.Is(err, io.EOF):
		return "the connection closed"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "a cut"
	}
	return err.Error()
}

// since is how long ago something was, for time windows.
func since(at time.Time) time.Duration { return time.Since(at).Round(time.Millisecond) }
