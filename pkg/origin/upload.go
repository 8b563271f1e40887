package origin

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/http1"
)

// upload sends the part of a request's body that Do did not, from a goroutine of
// its own, if there is any. The Response owns it.
type upload struct {
	body      io.Closer // the request's, which may be nil
	closeBody sync.Once

	done   chan struct{} // closed by run at its end; nil if it was not started
	ending atomic.Bool   // all of the body is in the last write

	// Written by run before done is closed, by Do if there is no run.
	failed  bool  // the body was not sent as a whole
	bodyErr error // why it could not be read
}

func (u *upload) start(c *conn, r *Request, rest []byte) {
	u.done = make(chan struct{})
	go func() {
		defer close(u.done)
		u.run(c, r, rest)
	}()
}

// close ends the upload. The connection must be closed before, unless the upload
// has settled.
func (u *upload) close() {
	u.endBody()
	if u.done != nil {
		<-u.done
	}
}

func (u *upload) endBody() {
	if u.body != nil {
		u.closeBody.Do(func() { _ = u.body.Close() })
	}
}

// settle reports whether the whole request was sent. An origin can be quicker
// to answer than our goroutine to see that its last write is over, which must
// not cost the connection.
func (u *upload) settle() bool {
	if u.done == nil {
		return !u.failed
	}
	if u.ending.Load() {
		t := time.NewTimer(100 * time.Millisecond)
		defer t.Stop()
		select {
		case <-u.done:
		case <-t.C:
		}
	}
	select {
	case <-u.done:
		return !u.failed
	default:
		return false
	}
}

const (
	uploadBuffer = 32 << 10
	chunkRoom    = 10 // before the data: the size line of a chunk, "7fff\r\n", and more
	chunkTail    = 64 // after it: CRLF, the last chunk and a short trailer
)

var uploadBuffers = sync.Pool{New: func() any { return new([uploadBuffer]byte) }}

// run sends rest and then the body's remainder.
func (u *upload) run(c *conn, r *Request, rest []byte) {
	defer u.endBody()
	u.failed = true
	left := r.BodyLen - int64(len(r.First)) // of Body; meaningless if chunked
	chunked := r.BodyLen == http1.Chunked
	last := r.Body == nil || left == 0

	if len(rest) > 0 {
		out := rest
		if chunked {
			out = http1.AppendChunk(nil, rest)
		}
		if last && chunked {
			out = http1.AppendLastChunk(out, r.trailer())
		}
		if !u.write(c, out, last) {
			return
		}
	}

	buf, _ := uploadBuffers.Get().(*[uploadBuffer]byte)
	defer uploadBuffers.Put(buf)
	for !last {
		data := buf[chunkRoom : uploadBuffer-chunkTail]
		if !chunked && int64(len(data)) > left {
			data = data[:left]
		}
		n, err := r.Body.Read(data)
		left -= int64(n)
		switch {
		case chunked:
			last = errors.Is(err, io.EOF)
		case left == 0:
			last = true
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		if err != nil && !last {
			u.bodyErr = err
			_ = c.nc.Close() // whoever waits for the response must know
			return
		}
		out := buf[chunkRoom : chunkRoom+n]
		if chunked {
			out = u.frame(buf, n)
			if last {
				out = http1.AppendLastChunk(out, r.trailer())
			}
		}
		if len(out) > 0 && !u.write(c, out, last) {
			return
		}
	}
	u.failed = false
}

// frame makes n bytes at chunkRoom in buf a chunk, without moving them.
func (u *upload) frame(buf *[uploadBuffer]byte, n int) []byte {
	if n == 0 {
		return buf[:0]
	}
	var size [chunkRoom]byte
	line := http1.AppendChunkSize(size[:0], n)
	start := chunkRoom - len(line)
	copy(buf[start:], line)
	end := chunkRoom + n
	buf[end], buf[end+1] = '\r', '\n'
	return buf[start : end+2]
}

func (u *upload) write(c *conn, data []byte, last bool) bool {
	c.touch()
	u.ending.Store(last)
	_, err := c.nc.Write(data)
	return err == nil
}
