package proxy

import (
	"context"
	"io"
	"sync"

	"github.com/holdfast/holdfast/pkg/exchange"
	"github.com/holdfast/holdfast/pkg/frame"
)

// clientBody is what of a request's body comes after the request's own frame. It
// is read once: a target that cannot be connected to has read nothing of it.
type clientBody struct {
	e     *exch
	parts exchange.Mailbox // frames from connmgr

	mu       sync.Mutex // held by a reader while it waits
	part     []byte     // what is left of the last one
	n        int64      // bytes so far, with those of the request's own frame
	whole    bool       // there are no more
	trailer  []frame.Field
	uncredit uint64 // bytes taken that connmgr was not granted anew
}

func (b *clientBody) init(e *exch) {
	b.e = e
	b.n, b.whole = int64(len(e.req.Body)), !e.req.More
}

// reader returns the body for a target. Closing it ends a Read that waits; what
// has not been read is still there.
func (b *clientBody) reader() io.ReadCloser {
	r := &bodyReader{b: b}
	r.ctx, r.stop = context.WithCancel(b.e.ctx)
	return r
}

type bodyReader struct {
	b    *clientBody
	ctx  context.Context //nolint:containedctx // ends with Close
	stop context.CancelFunc
}

// Read implements io.Reader.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.part) == 0 {
		if err := b.next(r.ctx); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.part)
	b.part = b.part[n:]
	return n, nil
}

// Close implements io.Closer.
func (r *bodyReader) Close() error {
	r.stop()
	return nil
}

// next waits for the next part. It is called with b.mu held.
func (b *clientBody) next(ctx context.Context) error {
	if b.whole {
		return io.EOF
	}
	f, err := b.parts.Get(ctx)
	if err != nil {
		return context.Cause(ctx)
	}
	part, ok := f.(*frame.Body)
	if !ok {
		return &endError{frame.ReasonInternal, "unexpected " + f.Type().String() + " frame"}
	}
	b.part = part.Data
	b.n += int64(len(part.Data))
	b.e.conn.route.client.contentIn.Add(uint64(len(part.Data)))
	if !part.More {
		b.whole, b.trailer = true, part.Trailer
		return nil
	}
	// A quarter of the window at a time keeps credits rare and the client going.
	if b.uncredit += uint64(len(part.Data)); b.uncredit < frame.InitialWindow/4 {
		return nil
	}
	f = &frame.Credit{ID: b.e.x.ID, N: b.uncredit}
	b.uncredit = 0
	return b.e.send(f)
}

// size waits for the whole body, but for no more than limit bytes of it, and
// returns its size. What it reads is gone.
func (b *clientBody) size(limit int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.n <= limit && !b.whole {
		if err := b.next(b.e.ctx); err != nil {
			return b.n, err
		}
	}
	return b.n, nil
}

// Trailer returns the trailer fields, once the body was read to its end.
func (b *clientBody) Trailer() []frame.Field {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trailer
}
