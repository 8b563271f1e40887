package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/holdfast/holdfast/pkg/frame"
)

var (
	errTooLarge  = errors.New("section over its limit")
	errLineEnd   = errors.New("line not ended by CRLF")
	errFirstByte = errors.New("not a message")
)

// readSection consumes one section that an empty line ends, and returns it with
// that line and the number of its lines. If it lies in the buffer of br as a
// whole, which is nearly always so, it is copied once, into the string. With
// strict set every line must end with CRLF.
//
// Errors: io.EOF before the first byte, io.ErrUnexpectedEOF after it, errTooLarge
// with the number of lines within the limit, errLineEnd, or what the connection said.
func readSection(br *bufio.Reader, maxBytes int, strict bool) (section string, lines int, err error) {
	var (
		spill   []byte // bytes that had to leave the buffer before the end was seen
		scanned int    // bytes of the buffer known to hold no end
		lineLen int    // bytes of the current line, as far as it was seen
		last    byte   // the last of them
	)
	for {
		if len(spill)+scanned >= maxBytes {
			return "", lines, errTooLarge
		}
		buf, err := br.Peek(scanned + 1)
		if errors.Is(err, bufio.ErrBufferFull) {
			spill = append(spill, buf...)
			discard(br, len(buf))
			scanned = 0
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) && len(spill)+len(buf) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", lines, err
		}
		buf, _ = br.Peek(br.Buffered())
		for {
			i := bytes.IndexByte(buf[scanned:], '\n')
			if i < 0 {
				if n := len(buf) - scanned; n > 0 {
					lineLen += n
					last = buf[len(buf)-1]
				}
				scanned = len(buf)
				break
			}
			lineLen += i
			if i > 0 {
				last = buf[scanned+i-1]
			}
			scanned += i + 1
			if len(spill)+scanned > maxBytes {
				return "", lines, errTooLarge
			}
			lines++
			if strict && (lineLen == 0 || last != '\r') {
				return "", lines, errLineEnd
			}
			if lineLen == 0 || lineLen == 1 && last == '\r' {
				if spill == nil {
					section = string(buf[:scanned])
				} else {
					section = string(append(spill, buf[:scanned]...))
				}
				discard(br, scanned)
				return section, lines, nil
			}
			lineLen = 0
		}
	}
}

// discard drops n bytes that are known to be in the buffer, which cannot fail.
func discard(br *bufio.Reader, n int) { _, _ = br.Discard(n) }

// skipEmptyLines drops empty lines before a request line (RFC 9112, section
// 2.2: some clients send one after a body), and looks at the first byte, so that
// a TLS or binary client is refused at once and not when its deadline is over.
func skipEmptyLines(br *bufio.Reader) error {
	const maxEmptyLines = 8
	for range maxEmptyLines {
		b, err := br.Peek(1)
		if err != nil {
			return err
		}
		switch {
		case class[b[0]]&classToken != 0:
			return nil
		case b[0] == '\n':
			discard(br, 1)
		case b[0] == '\r':
			if b, err = br.Peek(2); err != nil {
				return err
			}
			if b[1] != '\n' {
				return errFirstByte
			}
			discard(br, 2)
		default:
			return errFirstByte
		}
	}
	return errFirstByte
}

// cutLine returns the first line without its line end, and what follows.
func cutLine(s string) (line, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] == '\n' {
			line, rest = s[:i], s[i+1:]
			if i > 0 && s[i-1] == '\r' {
				line = s[:i-1]
			}
			return line, rest
		}
	}
	return s, ""
}

// parseFields parses the lines of s up to its empty line into h. The tolerant
// form is for responses, see the package comment.
func parseFields(h []frame.Field, s string, tolerant bool) ([]frame.Field, *Error) {
	for {
		if s == "" || s[0] == '\n' || s[0] == '\r' && len(s) > 1 && s[1] == '\n' {
			return h, nil
		}

		i := 0
		for i < len(s) && class[s[i]]&classToken != 0 {
			i++
		}
		name := s[:i]
		if tolerant {
			for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
				i++
			}
		}
		if name == "" || i == len(s) || s[i] != ':' {
			return nil, badName(s, i)
		}

		value, rest, err := cutValue(s[i+1:], tolerant)
		if err != nil {
			return nil, err
		}
		s = rest
		if s != "" && (s[0] == ' ' || s[0] == '\t') {
			if !tolerant {
				return nil, bad("header line folding is not allowed")
			}
			if value, s, err = unfold(value, s); err != nil {
				return nil, err
			}
		}
		h = append(h, frame.Field{Name: name, Value: value})
	}
}

// badName says what is wrong with the line s, whose byte i is not the colon that
// was due there.
func badName(s string, i int) *Error {
	switch {
	case s[0] == ':':
		return bad("header field without a name")
	case s[0] == ' ' || s[0] == '\t':
		return bad("header line folding is not allowed")
	case i < len(s) && (s[i] == ' ' || s[i] == '\t'):
		return bad("space in or after a header field name")
	case i < len(s) && (s[i] == '\n' || s[i] == '\r'):
		return bad("header line without a colon")
	}
	return bad("invalid character in a header field name")
}

// cutValue returns the trimmed value at the start of s and the lines after it.
func cutValue(s string, tolerant bool) (value, rest string, err *Error) {
	i := 0
	for i < len(s) && class[s[i]]&classValue != 0 {
		i++
	}
	// Other controls than these three are invalid but harmless, since they mean
	// nothing to anybody's framing: RFC 9110, section 5.5, lets a recipient keep
	// them.
	for tolerant && i < len(s) && s[i] != '\r' && s[i] != '\n' && s[i] != 0 {
		i++
	}
	end := i
	if i < len(s) && s[i] == '\r' {
		i++
	}
	if i == len(s) || s[i] != '\n' {
		return "", "", bad("control character in a header field")
	}
	return trimOWS(s[:end]), s[i+1:], nil
}

// unfold joins the continuation lines at the start of s to value, each with a
// single space (RFC 9112, section 5.2).
func unfold(value, s string) (joined, rest string, err *Error) {
	b := []byte(value)
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		var more string
		if more, s, err = cutValue(s, true); err != nil {
			return "", "", err
		}
		if more != "" {
			if len(b) > 0 {
				b = append(b, ' ')
			}
			b = append(b, more...)
		}
	}
	return string(b), s, nil
}

// length merges a Content-Length value into the length known so far, which is
// unknownLength at first. ok is false if it is not a number or another one.
func length(known int64, value string, tolerant bool) (n int64, ok bool) {
	for rest := value; ; {
		var member string
		if tolerant {
			member, rest = cutMember(rest)
		} else {
			member, rest = rest, ""
		}
		n, ok = parseLength(member)
		if !ok || known != unknownLength && n != known {
			return 0, false
		}
		known = n
		if rest == "" {
			return n, true
		}
	}
}

const unknownLength = -3

func parseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 18 { // 18 digits always fit
		return 0, false
	}
	for i := 0; i < len(s); i++ {
		c := s[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = n*10 + int64(c)
	}
	return n, true
}

// keepOne leaves one Content-Length field, in the place of the first, saying n.
func keepOne(h []frame.Field, n string) []frame.Field {
	seen := false
	for i := range h {
		if !seen && equalFold(h[i].Name, "Content-Length") {
			seen = true
			h[i].Value = n
		}
	}
	first := true
	return delFunc(h, func(name string) bool {
		if !equalFold(name, "Content-Length") {
			return false
		}
		del := !first
		first = false
		return del
	})
}
