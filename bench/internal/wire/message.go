// Package wire holds what the measuring programs put on sockets and find there:
// the text of a measured message, and as much of HTTP/1.1 and WebSocket as they
// need. It is written for speed on input from servers that mean well; the
// servers under test have parsers that do not assume that.
package wire

import "time"

// A measured message is one line of a fixed size:
//
//	m SSSSSSSS TTTTTTTTTTTTTTTT xxxx…x\n
//
// S is its number in its channel and T the time it was sent, both in hex, so
// that nothing in it needs escaping in JSON but the line feed.
const (
	seqAt      = 2
	timeAt     = seqAt + 8 + 1
	padAt      = timeAt + 16 + 1
	MinMessage = padAt + 1 // smallest size of a message
)

const digits = "0123456789abcdef"

// AppendMessage appends message seq, sent at the given time, of size bytes
// with the line feed.
func AppendMessage(dst []byte, seq uint32, sent time.Duration, size int) []byte {
	dst = append(dst, 'm', ' ')
	for i := 28; i >= 0; i -= 4 {
		dst = append(dst, digits[seq>>i&15])
	}
	dst = append(dst, ' ')
	for i := 60; i >= 0; i -= 4 {
		dst = append(dst, digits[uint64(sent)>>i&15])
	}
	dst = append(dst, ' ')
	for range max(size-MinMessage, 0) {
		dst = append(dst, 'x')
	}
	return append(dst, '\n')
}

// ParseMessage reads one line without its line feed. It is not ok if the line
// is not a message of size bytes.
func ParseMessage(line []byte, size int) (seq uint32, sent time.Duration, ok bool) {
	if len(line) != size-1 || size < MinMessage || line[0] != 'm' {
		return 0, 0, false
	}
	s, ok1 := hex(line[seqAt : seqAt+8])
	t, ok2 := hex(line[timeAt : timeAt+16])
	return uint32(s), time.Duration(t), ok1 && ok2
}

func hex(b []byte) (uint64, bool) {
	var v uint64
	for _, c := range b {
		d, ok := hexDigit(c)
		if !ok {
			return 0, false
		}
		v = v<<4 | uint64(d)
	}
	return v, len(b) > 0
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
