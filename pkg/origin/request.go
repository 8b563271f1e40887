package origin

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// Request is one request. Do reads it and changes nothing of it.
type Request struct {
	Method string
	URI    string // request target, "/path?query"
	// Header is sent as it is, in its order, with three exceptions: the fields
	// that frame the body are made to say what BodyLen says, Host is added if it
	// is missing, and what ValidField refuses is left out. Hop-by-hop fields are
	// the caller's to remove, and to add.
	Header []frame.Field
	// BodyLen is the length of the whole body, 0 for none, or http1.Chunked.
	BodyLen int64
	// First is the body as far as it is at hand. It must not be changed before
	// the Response is closed.
	First []byte
	// Body is what follows First, nil if nothing does. It is closed once, as soon
	// as no more of it is wanted, which may be during a Read: that must return
	// then.
	Body io.ReadCloser
	// Trailer returns the trailer fields of a chunked body. It is called after
	// Body has returned io.EOF; nil means none.
	Trailer func() []frame.Field
}

// inlineBody is how much of First is sent by the goroutine that calls Do. More
// may not fit into the socket's buffers, and then somebody has to read the
// response meanwhile: an origin may answer without reading all of a body.
const inlineBody = 16 << 10

func (r *Request) idempotent() bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// check finds requests that cannot be sent.
func (r *Request) check() error {
	switch first := int64(len(r.First)); {
	case r.BodyLen < http1.Chunked:
		return errors.New("invalid length")
	case r.BodyLen == http1.Chunked:
	case first > r.BodyLen || r.Body == nil && first < r.BodyLen:
		return io.ErrUnexpectedEOF
	}
	return nil
}

// appendHead appends the head and the part of the body that is sent with it. It
// returns the rest of First.
func (r *Request) appendHead(dst []byte, host string) (head, rest []byte) {
	h := r.Header
	length, hasLength := http1.Get(h, "Content-Length")
	addLength := false
	switch {
	case r.BodyLen == http1.Chunked:
		h = without(h, "Content-Length", "Transfer-Encoding")
	case hasLength && length != strconv.FormatInt(r.BodyLen, 10):
		h = without(h, "Content-Length", "Transfer-Encoding")
		addLength = true
	default:
		h = without(h, "Transfer-Encoding")
		// RFC 9110, section 8.6: without a body only for methods that expect one.
		addLength = !hasLength && (r.BodyLen > 0 || r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH")
	}
	dst = http1.AppendRequestHead(dst, r.Method, r.URI, 1, h)
	dst = dst[:len(dst)-2] // the empty line, until all fields are in
	if !http1.Has(h, "Host") {
		dst = append(dst, "Host: "...)
		dst = append(dst, host...)
		dst = append(dst, "\r\n"...)
	}
	if addLength {
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, r.BodyLen, 10)
		dst = append(dst, "\r\n"...)
	}
	if r.BodyLen == http1.Chunked {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	dst = append(dst, "\r\n"...)

	n := min(len(r.First), inlineBody)
	rest = r.First[n:]
	if r.BodyLen != http1.Chunked {
		return append(dst, r.First[:n]...), rest
	}
	dst = http1.AppendChunk(dst, r.First[:n])
	if len(rest) == 0 && r.Body == nil {
		dst = http1.AppendLastChunk(dst, r.trailer())
	}
	return dst, rest
}

func (r *Request) closeBody() {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

func (r *Request) trailer() []frame.Field {
	if r.Trailer == nil {
		return nil
	}
	return r.Trailer()
}

// without returns h if it has none of the names, which is usual, and a copy
// without them otherwise.
func without(h []frame.Field, names ...string) []frame.Field {
	for _, n := range names {
		if http1.Has(h, n) {
			return http1.Del(append([]frame.Field(nil), h...), names...)
		}
	}
	return h
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// Do sends r to t and returns the response as soon as its head is there, which
// may be before all of the body was sent; what is left of it is then sent while
// the response is read, and no longer. The context governs the whole exchange
// until the Response is at its end or closed.
//
// A nil error obliges the caller to read the Response to its end or to close it.
// After an error nothing is left to be done.
func (p *Pool) Do(ctx context.Context, t Target, r *Request) (*Response, error) {
	if err := r.check(); err != nil {
		r.closeBody()
		return nil, &Error{Kind: ErrBody, Addr: t.Addr, Err: err}
	}
	fresh := r.Body != nil
	for {
		c, err := p.get(ctx, t, fresh)
		if err != nil {
			r.closeBody()
			return nil, err
		}
		resp, again, err := p.try(ctx, c, r)
		if !again || ctx.Err() != nil {
			return resp, err
		}
		p.retried.Add(1)
		fresh = true
	}
}

// try makes the exchange up to the response head on c, which it takes over with
// the body of r. After an error it says whether the request may be made again on
// another connection.
func (p *Pool) try(ctx context.Context, c *conn, r *Request) (resp *Response, again bool, err error) {
	resp = &Response{pool: p, conn: c, ctx: ctx}
	resp.upload.body = r.Body
	if ctx.Done() != nil {
		resp.stop = context.AfterFunc(ctx, func() { _ = c.nc.Close() })
	}
	c.acquire()
	c.setLimit(p.opt.ResponseTimeout)

	buf, _ := buffers.Get().(*[]byte)
	head, rest := r.appendHead((*buf)[:0], c.b.target.Addr)
	n, writeErr := c.nc.Write(head)
	resp.upload.failed = writeErr != nil
	*buf = head[:0]
	buffers.Put(buf)
	if writeErr == nil && (len(rest) > 0 || r.Body != nil) {
		resp.upload.start(c, r, rest)
	}

	// An origin that refuses a body may have answered before it closed the
	// connection under our hands, so a failure to write does not end it.
	first, _ := c.br.Peek(1)                                    // what is wrong with the connection, the next call says
	alert := c.b.tls == nil && len(first) > 0 && first[0] == 21 // RFC 8446 section 5.1; no HTTP begins so
	resp.Head, err = http1.ReadResponseHead(c.br, p.opt.Limits, r.Method)
	if err == nil && resp.Head.Code == 101 && !http1.Has(r.Header, "Upgrade") {
		err = &http1.Error{Status: 502, Text: "upgraded without being asked"}
	}
	if err != nil && alert {
		return nil, false, resp.fail(ErrSpeaksTLS)
	}
	if err != nil {
		again = c.reused && r.Body == nil && errors.Is(exchangeKind(err), ErrCut) && (r.idempotent() || writeErr != nil && n == 0)
		if writeErr != nil && errors.Is(exchangeKind(err), ErrCut) {
			err = writeErr
		}
		return nil, again, resp.fail(err)
	}
	c.setLimit(p.opt.IdleTimeout)
	resp.body.Reset(c.br, resp.Head.BodyLen, p.opt.Limits)
	if resp.Head.BodyLen == 0 && resp.Head.Code != 101 {
		resp.finish()
	}
	return resp, false, nil
}
