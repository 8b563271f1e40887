package bus

import (
	"errors"
	"fmt"
)

// queueOverhead is what a queued frame counts beside its bytes, so that empty
// frames cannot fill the memory.
const queueOverhead = 64

// outbox is the sending half of a session: it numbers frames and keeps them
// until the peer has acknowledged them. The zero value is a new session.
type outbox struct {
	frames [][]byte // frames[head:] are kept
	head   int
	next   int    // frames[next:] are to be sent on this connection
	base   uint64 // number of frames[head]
	high   uint64 // frames below were sent at least once
	bytes  int    // of the frames kept, with queueOverhead
}

var errAckAhead = errors.New("acknowledged what was never sent")

// push appends a frame.
func (o *outbox) push(b []byte) {
	if len(o.frames) == cap(o.frames) && o.head > len(o.frames)/2 {
		// Move the rest down rather than grow.
		n := copy(o.frames, o.frames[o.head:])
		clear(o.frames[n:])
		o.frames, o.next, o.head = o.frames[:n], o.next-o.head, 0
	}
	o.frames = append(o.frames, b)
	o.bytes += len(b) + queueOverhead
}

// kept returns the number of frames not yet acknowledged.
func (o *outbox) kept() int { return len(o.frames) - o.head }

// end is the number of the next frame.
func (o *outbox) end() uint64 { return o.base + uint64(o.kept()) } //nolint:gosec // a length

// pending reports whether there are frames to send on this connection.
func (o *outbox) pending() bool { return o.next < len(o.frames) }

// batch appends the frames of the next message to dst, and returns the number of
// the first one and how many of them are sent again.
func (o *outbox) batch(dst [][]byte) (frames [][]byte, seq uint64, again int) {
	seq = o.base + uint64(o.next-o.head) //nolint:gosec // next >= head
	for size := 0; o.pending() && len(dst) < maxBatchFrames; o.next++ {
		f := o.frames[o.next]
		if size += len(f) + frameHead; size > batchBytes && len(dst) > 0 {
			break
		}
		dst = append(dst, f)
	}
	end := seq + uint64(len(dst))
	if seq < o.high {
		again = int(min(end, o.high) - seq) //nolint:gosec // at most len(dst)
	}
	o.high = max(o.high, end)
	return dst, seq, again
}

// ack drops the frames below number n, and reports whether there were any.
func (o *outbox) ack(n uint64) (bool, error) {
	if n > o.high {
		return false, fmt.Errorf("%w: %d of %d", errAckAhead, n, o.high)
	}
	if n <= o.base {
		return false, nil
	}
	for ; o.base < n; o.base++ {
		o.bytes -= len(o.frames[o.head]) + queueOverhead
		o.frames[o.head] = nil
		o.head++
	}
	o.next = max(o.next, o.head)
	if o.head == len(o.frames) {
		o.frames, o.head, o.next = o.frames[:0], 0, 0
		if cap(o.frames) > maxBatchFrames {
			o.frames = nil
		}
	}
	return true, nil
}

// rewind makes everything that is kept pending again, for a new connection.
func (o *outbox) rewind() { o.next = o.head }
