// Package wsevents reads and writes application/websocket-events bodies, the
// form in which WebSocket traffic crosses plain HTTP requests.
//
//	events = *event
//	event  = TYPE CRLF                          ; no content
//	       / TYPE SP size CRLF content CRLF     ; size in hexadecimal
//
// The reader is stricter than Pushpin's: a size is one to eight hexadecimal
// digits, content may not be shorter than announced, and it must be followed by
// CRLF, which may be missing only at the very end of the body.
package wsevents

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// ContentType is the media type of an events body. Responses must carry exactly
// this value, without parameters.
const ContentType = "application/websocket-events"

// MaxEvents bounds how many events one body may hold.
const MaxEvents = 100_000

// Type is an event's type.
type Type string

// Types of events.
const (
	Open       Type = "OPEN"
	Text       Type = "TEXT"
	Binary     Type = "BINARY"
	Ping       Type = "PING"
	Pong       Type = "PONG"
	Close      Type = "CLOSE"
	Disconnect Type = "DISCONNECT"
)

// Event is one event. Content is nil if the event has none.
type Event struct {
	Type    Type
	Content []byte
}

// CloseEvent returns a CLOSE event. Code 0 means no status: the event has no
// content then.
func CloseEvent(code uint16, reason string) Event {
	if code == 0 {
		return Event{Type: Close}
	}
	return Event{Type: Close, Content: append(binary.BigEndian.AppendUint16(nil, code), reason...)}
}

// CloseStatus returns the status of a CLOSE event; code is 0 if it has none.
func (e Event) CloseStatus() (code uint16, reason string) {
	if len(e.Content) < 2 {
		return 0, ""
	}
	return binary.BigEndian.Uint16(e.Content), string(e.Content[2:])
}

// Append appends the encoded form of e to dst. An event with empty content is
// written without a size, as peers expect of empty messages.
func Append(dst []byte, e Event) []byte {
	dst = append(dst, e.Type...)
	if len(e.Content) > 0 {
		dst = append(dst, ' ')
		dst = strconv.AppendUint(dst, uint64(len(e.Content)), 16)
		dst = append(dst, '\r', '\n')
		dst = append(dst, e.Content...)
	}
	return append(dst, '\r', '\n')
}

// Encode returns the body that holds the events.
func Encode(events ...Event) []byte {
	var b []byte
	for _, e := range events {
		b = Append(b, e)
	}
	return b
}

// Error says what is wrong with a body, and where.
type Error struct {
	Offset int // byte position
	Text   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("websocket-events body: byte %d: %s", e.Offset, e.Text)
}

// Decode returns the events of a body, in order; content is part of body. Events
// of unknown type are left out. On error no events are returned.
func Decode(body []byte) ([]Event, error) {
	var events []Event
	for pos := 0; pos < len(body); {
		n := bytes.Index(body[pos:], []byte("\r\n"))
		if n < 0 {
			return nil, &Error{pos, "event line without CRLF"}
		}
		line := body[pos : pos+n]
		name, size, sized := bytes.Cut(line, []byte(" "))
		if len(name) == 0 {
			return nil, &Error{pos, "event without a type"}
		}
		start := pos + n + 2
		e := Event{Type: Type(name)}
		pos = start
		if sized {
			length, err := parseSize(size)
			if err != nil {
				return nil, &Error{start - n - 2, err.Error()}
			}
			if length > len(body)-start {
				return nil, &Error{start, fmt.Sprintf("content of %d bytes, %d left", length, len(body)-start)}
			}
			e.Content = body[start : start+length : start+length]
			pos = start + length
			switch rest := body[pos:]; {
			case len(rest) == 0: // tolerated at the end only
			case bytes.HasPrefix(rest, []byte("\r\n")):
				pos += 2
			default:
				return nil, &Error{pos, "content is not followed by CRLF"}
			}
		}
		switch e.Type {
		case Open, Text, Binary, Ping, Pong, Close, Disconnect:
			events = append(events, e)
		}
		if len(events) > MaxEvents {
			return nil, &Error{pos, fmt.Sprintf("more than %d events", MaxEvents)}
		}
	}
	return events, nil
}

// parseSize accepts what 1*8HEXDIG matches and nothing else: no sign, no blank,
// no prefix.
func parseSize(b []byte) (int, error) {
	if len(b) == 0 || len(b) > 8 {
		return 0, fmt.Errorf("size %.20q is not 1 to 8 hexadecimal digits", b)
	}
	n := 0
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, fmt.Errorf("size %.20q is not 1 to 8 hexadecimal digits", b)
		}
		n = n<<4 | int(c)
	}
	return n, nil
}

// CheckUTF8 checks one part of a text message. tail is what the part before it
// left of a character; it returns what this one leaves, and whether all is UTF-8.
func CheckUTF8(tail, p []byte, end bool) ([]byte, bool) {
	if len(tail) > 0 {
		p = append(bytes.Clone(tail), p...)
	}
	n := len(p)
	if !end { // a character at the end may not be whole
		for back := 1; back <= min(utf8.UTFMax-1, n); back++ {
			if utf8.RuneStart(p[n-back]) {
				if !utf8.FullRune(p[n-back:]) {
					n -= back
				}
				break
			}
		}
	}
	return bytes.Clone(p[n:]), utf8.Valid(p[:n])
}
