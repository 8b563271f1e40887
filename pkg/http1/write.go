package http1

import (
	"strconv"

	"github.com/holdfast/holdfast/pkg/frame"
)

// AppendRequestHead appends a request line and header section to dst. Fields for
// which ValidField is false are left out, so that no input can end a line early;
// for the same reason bytes that cannot stand in a request target are
// percent-encoded, and those that cannot stand in a method are dropped.
func AppendRequestHead(dst []byte, method, target string, minor uint8, h []frame.Field) []byte {
	if ValidToken(method) {
		dst = append(dst, method...)
	} else {
		for i := 0; i < len(method); i++ {
			if class[method[i]]&classToken != 0 {
				dst = append(dst, method[i])
			}
		}
	}
	dst = append(dst, ' ')
	switch {
	case target == "":
		dst = append(dst, '/')
	case all(target, classURI):
		dst = append(dst, target...)
	default:
		for i := 0; i < len(target); i++ {
			if c := target[i]; class[c]&classURI != 0 {
				dst = append(dst, c)
			} else {
				dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
			}
		}
	}
	dst = append(dst, " HTTP/1."...)
	dst = append(dst, '0'+min(minor, 1), '\r', '\n')
	return appendFields(dst, h)
}

// AppendResponseHead appends a status line and header section to dst. Fields for
// which ValidField is false are left out, control characters in the reason
// become spaces, and a code that does not have three digits becomes 500.
func AppendResponseHead(dst []byte, code int, reason string, minor uint8, h []frame.Field) []byte {
	if code < 100 || code > 999 {
		code = 500
	}
	dst = append(dst, "HTTP/1."...)
	dst = append(dst, '0'+min(minor, 1), ' ')
	dst = strconv.AppendInt(dst, int64(code), 10)
	dst = append(dst, ' ')
	for i := 0; i < len(reason); i++ {
		c := reason[i]
		if class[c]&classValue == 0 {
			c = ' '
		}
		dst = append(dst, c)
	}
	dst = append(dst, '\r', '\n')
	return appendFields(dst, h)
}

func appendFields(dst []byte, h []frame.Field) []byte {
	for i := range h {
		f := &h[i]
		if !ValidField(*f) {
			continue
		}
		dst = append(dst, f.Name...)
		dst = append(dst, ':', ' ')
		dst = append(dst, f.Value...)
		dst = append(dst, '\r', '\n')
	}
	return append(dst, '\r', '\n')
}

const (
	lowerHex = "0123456789abcdef"
	upperHex = "0123456789ABCDEF"
)

// AppendChunk appends data as one chunk. Empty data appends nothing, since an
// empty chunk would end the body.
func AppendChunk(dst, data []byte) []byte {
	if len(data) == 0 {
		return dst
	}
	dst = AppendChunkSize(dst, len(data))
	dst = append(dst, data...)
	return append(dst, '\r', '\n')
}

// AppendChunkSize appends the line before the n bytes of a chunk, n > 0, for
// those who write the data and the CRLF after it without copying them.
func AppendChunkSize(dst []byte, n int) []byte {
	shift := 0
	for n>>shift > 15 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, lowerHex[n>>shift&15])
	}
	return append(dst, '\r', '\n')
}

// AppendLastChunk appends the end of a chunked body with its trailer fields.
func AppendLastChunk(dst []byte, trailer []frame.Field) []byte {
	return appendFields(append(dst, '0', '\r', '\n'), trailer)
}
