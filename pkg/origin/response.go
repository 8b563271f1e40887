package origin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// Response is the origin's answer. Its methods are for one goroutine; to
// interrupt a Read, end the context given to Do.
type Response struct {
	Head *http1.ResponseHead

	pool    *Pool
	conn    *conn           // nil at the end
	ctx     context.Context //nolint:containedctx // that of the exchange, which the Response continues
	stop    func() bool     // ends the watch over ctx; nil if ctx never ends
	upload  upload
	body    http1.BodyReader
	trailer []frame.Field
	err     error // sticky; io.EOF after the proper end
}

// Read reads the body. It returns io.EOF at the proper end, with the last bytes
// if they are known to be; the connection is then free for others already.
func (r *Response) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	r.conn.touch()
	n, err := r.body.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		r.finish()
	default:
		r.err = r.fail(err)
	}
	return n, r.err
}

// Trailer returns the trailer fields, after Read has returned io.EOF.
func (r *Response) Trailer() []frame.Field { return r.trailer }

// Close ends the exchange. A connection whose response was not read to the end
// is closed, unless what is missing is here already and little. Closing again
// does nothing.
func (r *Response) Close() error {
	if r.err != nil {
		return nil //nolint:nilerr // Read has told it
	}
	const maxDrain = 64 << 10
	if !r.Head.Close && r.conn.br.Buffered() > 0 {
		_ = r.conn.nc.SetReadDeadline(time.Unix(1, 0)) // nothing is waited for
		if _, err := io.CopyN(io.Discard, &r.body, maxDrain); errors.Is(err, io.EOF) {
			_ = r.conn.nc.SetReadDeadline(time.Time{})
			r.finish()
			return nil
		}
	}
	r.err = r.fail(net.ErrClosed)
	return nil
}

// Hijack hands the connection to the caller after a response with status 101.
// The reader may hold bytes that came with the response. From here on the
// context of Do has no say any more, and there are no deadlines.
func (r *Response) Hijack() (net.Conn, *bufio.Reader, error) {
	if r.err != nil || r.Head.Code != 101 {
		return nil, nil, errors.New("origin: only an upgraded connection can be taken over")
	}
	if r.stop != nil && !r.stop() {
		r.err = r.fail(net.ErrClosed)
		return nil, nil, r.err
	}
	c := r.conn
	r.conn, r.err = nil, net.ErrClosed
	_ = c.nc.SetDeadline(time.Time{})
	br := c.br
	c.br = nil // it is the caller's, and so does not go back
	return &lent{Conn: c.nc, pool: r.pool, conn: c}, br, nil
}

// finish ends the exchange in order: the response is complete.
func (r *Response) finish() {
	r.err = io.EOF
	r.trailer = r.body.Trailer()
	c := r.conn
	r.conn = nil
	sent := r.upload.settle()
	reuse := (r.stop == nil || r.stop()) && sent && !r.Head.Close && r.Head.Code != 101 && c.br.Buffered() == 0
	r.body = http1.BodyReader{} // lets go of the buffer
	if !reuse {
		_ = c.nc.Close() // so that the upload ends
	}
	r.upload.close()
	if !reuse {
		r.pool.drop(c)
		return
	}
	c.keepFor = keepFor(r.Head.Header, r.pool.opt.KeepAlive)
	r.pool.put(c)
}

// fail ends the exchange with the connection, and returns err with its kind.
func (r *Response) fail(err error) error {
	c := r.conn
	r.conn = nil
	if r.stop != nil {
		r.stop()
	}
	_ = c.nc.Close() // so that the upload ends
	r.upload.close()
	var e *Error
	if bodyErr := r.upload.bodyErr; bodyErr != nil {
		e = newError(r.ctx, ErrBody, c.b.target.Addr, true, bodyErr)
	} else {
		e = newError(r.ctx, exchangeKind(err), c.b.target.Addr, true, cut(err))
	}
	r.body = http1.BodyReader{}
	r.pool.drop(c)
	return e
}

// keepFor returns how long a connection may rest. Origins that say when they
// will close it ("Keep-Alive: timeout=5") are believed, less a second for the
// way there, so that no request meets the closing.
func keepFor(h []frame.Field, most time.Duration) time.Duration {
	for t := range http1.Tokens(h, "Keep-Alive") {
		name, value, _ := strings.Cut(t, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "timeout") {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil && n >= 0 && n < int(most/time.Second) {
			return max(time.Duration(n)*time.Second-time.Second, 0)
		}
	}
	return most
}

// lent is a connection that belongs to a caller. It counts as open until it is
// closed.
type lent struct {
	net.Conn
	pool *Pool
	conn *conn
	once sync.Once
	err  error
}

func (l *lent) Close() error {
	l.once.Do(func() {
		l.err = l.Conn.Close()
		l.pool.drop(l.conn)
	})
	return l.err
}

// Dial returns a new connection to t, made by the rules of the pool and counted
// in its bounds, for protocols other than HTTP.
func (p *Pool) Dial(ctx context.Context, t Target) (net.Conn, error) {
	c, err := p.get(ctx, t, true)
	if err != nil {
		return nil, err
	}
	return &lent{Conn: c.nc, pool: p, conn: c}, nil
}
