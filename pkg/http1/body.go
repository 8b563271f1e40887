package http1

import (
	"bufio"
	"errors"
	"io"

	"github.com/holdfast/holdfast/pkg/frame"
)

// BodyReader reads one message body, and not a byte more, from the connection's
// buffered reader. It is not safe for concurrent use. The zero value reads an
// empty body.
type BodyReader struct {
	br  *bufio.Reader
	lim Limits

	remaining int64 // bytes left of the body or, if chunked, of the current chunk
	state     bodyState
	err       error // sticky

	digits  int   // hex digits of the chunk size seen
	ext     int   // bytes of this chunk's extensions
	extRoom int64 // bytes that extensions may still take in the whole body
	trailer []frame.Field
}

type bodyState uint8

const (
	bodyDone    bodyState = iota
	bodyLength            // remaining bytes follow
	bodyClose             // everything follows
	bodySize              // in the size of a chunk
	bodyExt               // in the extensions of a chunk
	bodySizeLF            // after the CR of the size line
	bodyData              // remaining bytes of a chunk follow
	bodyDataCR            // after the data of a chunk
	bodyDataLF            // after the CR behind the data
	bodyTrailer           // after the last chunk
)

// maxChunkExt is the size of the extensions of one chunk. They are ignored, as
// nobody uses them for other than attacks.
const maxChunkExt = 256

// NewBodyReader returns a reader for a body of bodyLen bytes, or Chunked, or
// UntilClose. The limits are for the trailer section.
func NewBodyReader(br *bufio.Reader, bodyLen int64, lim Limits) *BodyReader {
	b := new(BodyReader)
	b.Reset(br, bodyLen, lim)
	return b
}

// Reset makes b read another body. It lets an owner embed the reader.
func (b *BodyReader) Reset(br *bufio.Reader, bodyLen int64, lim Limits) {
	lim = lim.withDefaults()
	*b = BodyReader{br: br, lim: lim, extRoom: int64(lim.MaxHead)}
	switch {
	case bodyLen == Chunked:
		b.state = bodySize
	case bodyLen == UntilClose:
		b.state = bodyClose
	case bodyLen > 0:
		b.state, b.remaining = bodyLength, bodyLen
	}
}

// Done reports whether the body was read to its proper end.
func (b *BodyReader) Done() bool { return b.state == bodyDone && b.err == nil }

// Trailer returns the trailer fields of a chunked body once Read has returned
// io.EOF. Fields that would change the message's framing or routing are not
// among them.
func (b *BodyReader) Trailer() []frame.Field { return b.trailer }

// Read reads body bytes. It waits for the connection only if it has nothing to
// return yet. It returns io.EOF at the proper end of the body, together with the
// last bytes if the end is already known by then; io.ErrUnexpectedEOF if the
// connection ended before; an *Error if the chunked coding is broken; otherwise
// what the connection said.
func (b *BodyReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.state == bodyDone {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.read(p)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		b.err = err
		if n > 0 {
			return n, nil // the error comes with the next call
		}
		return 0, err
	}
	if b.state == bodyDone {
		return n, io.EOF
	}
	return n, nil
}

func (b *BodyReader) read(p []byte) (n int, err error) {
	switch b.state {
	case bodyLength:
		n, err = b.readData(p)
		if b.remaining == 0 {
			b.state = bodyDone
		}
		return n, err
	case bodyClose:
		n, err = b.br.Read(p)
		if errors.Is(err, io.EOF) {
			b.state = bodyDone
			err = nil
		}
		return n, err
	}
	// Chunked: go on for as long as that needs no waiting, so that the caller
	// gets many small chunks at once, and the end with the last of them.
	for b.state != bodyDone && (n == 0 || b.ready()) {
		if b.state != bodyData {
			if err = b.step(); err != nil {
				return n, err
			}
			continue
		}
		if n == len(p) {
			break
		}
		m, err := b.readData(p[n:])
		n += m
		if b.remaining == 0 {
			b.state = bodyDataCR
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// ready reports whether the next step finds what it needs in the buffer.
func (b *BodyReader) ready() bool {
	if b.state != bodyTrailer {
		return b.br.Buffered() > 0
	}
	if b.br.Buffered() < 2 {
		return false
	}
	crlf, _ := b.br.Peek(2)
	return crlf[0] == '\r' && crlf[1] == '\n'
}

func (b *BodyReader) readData(p []byte) (int, error) {
	if int64(len(p)) > b.remaining {
		p = p[:b.remaining]
	}
	n, err := b.br.Read(p)
	b.remaining -= int64(n)
	if b.remaining == 0 {
		err = nil
	}
	return n, err
}

// step takes one byte of the chunked coding, or the trailer section.
func (b *BodyReader) step() error {
	if b.state == bodyTrailer {
		return b.readTrailer()
	}
	c, err := b.br.ReadByte()
	if err != nil {
		return err
	}
	switch b.state {
	case bodySize:
		if d, ok := unhex(c); ok {
			if b.digits++; b.digits > 16 || b.remaining >= 1<<58 {
				return bad("chunk size too large")
			}
			b.remaining = b.remaining<<4 | int64(d)
			return nil
		}
		switch {
		case b.digits == 0:
			return bad("invalid chunk size")
		case c == ';':
			b.state, b.ext = bodyExt, 0
		case c == '\r':
			b.state = bodySizeLF
		default:
			return bad("invalid chunk size")
		}
	case bodyExt:
		switch {
		case c == '\r':
			b.state = bodySizeLF
		case class[c]&classValue == 0:
			return bad("invalid character in a chunk extension")
		default:
			b.ext++
			b.extRoom--
			if b.ext > maxChunkExt || b.extRoom < 0 {
				return bad("chunk extensions too large")
			}
		}
	case bodySizeLF:
		if c != '\n' {
			return bad("invalid line end after a chunk size")
		}
		b.state, b.digits = bodyData, 0
		if b.remaining == 0 {
			b.state = bodyTrailer
		}
	case bodyDataCR:
		if c != '\r' {
			return bad("chunk longer than its size")
		}
		b.state = bodyDataLF
	case bodyDataLF:
		if c != '\n' {
			return bad("invalid line end after a chunk")
		}
		b.state = bodySize
	}
	return nil
}

func (b *BodyReader) readTrailer() error {
	if crlf, err := b.br.Peek(2); err == nil && crlf[0] == '\r' && crlf[1] == '\n' {
		discard(b.br, 2)
		b.state = bodyDone
		return nil
	}
	section, lines, err := readSection(b.br, b.lim.MaxHead, true)
	switch {
	case errors.Is(err, errTooLarge):
		return errHeadTooLarge(b.lim.MaxHead)
	case errors.Is(err, errLineEnd):
		return bad("invalid line end in the trailer section")
	case err != nil:
		return err
	}
	if fields := lines - 1; fields > b.lim.MaxFields {
		return errTooManyFields(b.lim.MaxFields)
	} else if fields > 0 {
		h, err := parseFields(make([]frame.Field, 0, fields), section, false)
		if err != nil {
			return err
		}
		// RFC 9110, section 6.5.1. Whoever merges trailers into headers must not
		// be misled.
		b.trailer = delFunc(h, func(name string) bool {
			return hopByHop(name) || equalFold(name, "Content-Length") || equalFold(name, "Host") || equalFold(name, "Trailer")
		})
		if len(b.trailer) == 0 {
			b.trailer = nil // as if none had been sent
		}
	}
	b.state = bodyDone
	return nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
