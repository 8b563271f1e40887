// Package exchange holds the rules that both ends of an exchange share: the
// order of its frames and the credits of its body bytes. It has no sockets and
// no clock.
//
// An exchange is one client request or WebSocket as it crosses processes.
// connmgr owns the client's side for its whole life; the far end has one owner
// at a time, proxy or handler. See package frame for the numbers.
package exchange

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfast/holdfast/pkg/frame"
)

// MaxAhead is how many frames of an exchange may wait for one that they
// overtook. Frames overtake each other only while the far end changes hands.
const MaxAhead = 64

// ErrGap says that frames of an exchange are missing, or that more than
// MaxAhead arrived too early.
var ErrGap = errors.New("exchange: frame missing")

// Inbox puts the frames of one direction in order. The zero value expects Seq 0.
// It is not safe for concurrent use.
type Inbox struct {
	next    uint64
	waiting map[uint64]frame.Frame
}

// NewInbox returns an inbox that expects seq first.
func NewInbox(seq uint64) Inbox { return Inbox{next: seq} }

// Next returns the number that is expected next.
func (in *Inbox) Next() uint64 { return in.next }

// Waiting reports whether frames wait for a missing one.
func (in *Inbox) Waiting() bool { return len(in.waiting) > 0 }

// Push takes a frame with its number and calls deliver for each frame whose
// turn has come. A repeat is dropped. It returns ErrGap if too much is missing.
func (in *Inbox) Push(seq uint64, f frame.Frame, deliver func(frame.Frame)) error {
	switch {
	case seq < in.next:
		return nil
	case seq > in.next:
		if seq-in.next > MaxAhead {
			return ErrGap
		}
		if in.waiting == nil {
			in.waiting = make(map[uint64]frame.Frame)
		}
		in.waiting[seq] = f
		return nil
	}
	in.next++
	deliver(f)
	for len(in.waiting) > 0 {
		f, ok := in.waiting[in.next]
		if !ok {
			break
		}
		delete(in.waiting, in.next)
		in.next++
		deliver(f)
	}
	return nil
}

// Seq returns the sequence number of a frame of an exchange, and its exchange
// number. ok is false for frames that belong to none.
func Seq(f frame.Frame) (id, seq uint64, ok bool) {
	switch f := f.(type) {
	case *frame.Request:
		return f.ID, 0, true
	case *frame.Response:
		return f.ID, f.Seq, true
	case *frame.Body:
		return f.ID, f.Seq, true
	case *frame.Credit:
		return f.ID, f.Seq, true
	case *frame.Cancel:
		return f.ID, f.Seq, true
	case *frame.Hold:
		return f.ID, f.Seq, true
	case *frame.Update:
		return f.ID, f.Seq, true
	case *frame.Finish:
		return f.ID, f.Seq, true
	case *frame.Retry:
		return f.ID, f.Seq, true
	case *frame.Closed:
		return f.ID, f.Seq, true
	case *frame.Message:
		return f.ID, f.Seq, true
	case *frame.Session:
		return f.ID, f.Seq, true
	case *frame.Tune:
		return f.ID, f.Seq, true
	}
	return 0, 0, false
}

// Window counts the body bytes that may still be sent in one direction. The zero
// value is one of no bytes.
type Window struct {
	mu    sync.Mutex
	avail int64
	more  chan struct{} // buffer 1: a credit came, or the window was closed; never closed; nil until somebody waits
	err   error
}

// NewWindow returns a window of frame.InitialWindow bytes.
func NewWindow() *Window { return NewWindowOf(frame.InitialWindow) }

// NewWindowOf returns a window of n bytes.
func NewWindowOf(n int64) *Window { return &Window{avail: n} }

// Take waits until at least one byte may be sent and takes up to max bytes. One
// goroutine at a time may call it.
func (w *Window) Take(ctx context.Context, max int) (int, error) {
	for {
		w.mu.Lock()
		if w.err != nil {
			defer w.mu.Unlock()
			return 0, w.err
		}
		if w.avail > 0 {
			n := int(min(int64(max), w.avail))
			w.avail -= int64(n)
			w.mu.Unlock()
			return n, nil
		}
		if w.more == nil {
			w.more = make(chan struct{}, 1)
		}
		more := w.more
		w.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Return gives back bytes that Take took and that were not sent.
func (w *Window) Return(n int) { w.Add(uint64(n)) }

// Add adds n bytes. A peer that grants more than 1 TiB at once is ignored.
func (w *Window) Add(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < 1<<40 {
		w.avail += int64(n)
	}
	wake(w.more)
}

// Close makes Take return err.
func (w *Window) Close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	wake(w.more)
}

// wake makes ch ready. A nil ch has nobody who waits.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Mailbox hands frames from the bus's goroutine, which must not block, to the
// goroutine of one exchange. Credits bound what it can hold. The zero value is an
// empty mailbox.
type Mailbox struct {
	mu     sync.Mutex
	frames []frame.Frame
	err    error
	ready  chan struct{} // buffer 1: something was put or the box closed; never closed; nil until somebody waits
}

// NewMailbox returns an empty mailbox.
func NewMailbox() *Mailbox { return new(Mailbox) }

// Put adds a frame. After Close it does nothing.
func (m *Mailbox) Put(f frame.Frame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.frames = append(m.frames, f)
	}
	wake(m.ready)
}

// Close lets the reader take what is there, then gives it err.
func (m *Mailbox) Close(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
	wake(m.ready)
}

// Ready returns a channel that yields when Take may have something. A reader
// that selects on it calls Take afterwards and accepts nil.
func (m *Mailbox) Ready() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready == nil {
		m.ready = make(chan struct{}, 1)
		if len(m.frames) > 0 || m.err != nil {
			wake(m.ready)
		}
	}
	return m.ready
}

// Take returns the next frame without waiting: nil, nil if there is none.
func (m *Mailbox) Take() (frame.Frame, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.frames) > 0 {
		f := m.frames[0]
		m.frames[0] = nil
		m.frames = m.frames[1:]
		if len(m.frames) == 0 {
			m.frames = nil
		} else {
			wake(m.ready)
		}
		return f, nil
	}
	if m.err != nil {
		wake(m.ready)
	}
	return nil, m.err
}

// Get waits for the next frame.
func (m *Mailbox) Get(ctx context.Context) (frame.Frame, error) {
	for {
		if f, err := m.Take(); f != nil || err != nil {
			return f, err
		}
		select {
		case <-m.Ready():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
