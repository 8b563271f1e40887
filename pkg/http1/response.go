package http1

import (
	"bufio"
	"errors"
	"io"
	"strconv"

	"github.com/holdfast/holdfast/pkg/frame"
)

// ResponseHead is the status line and header section of a response. Its strings
// share one allocation.
type ResponseHead struct {
	Code   int
	Reason string // as sent, possibly ""
	Minor  uint8
	Header []frame.Field
	// BodyLen is 0 for no body, the number of bytes, Chunked or UntilClose.
	BodyLen int64
	// Close says that the connection cannot serve another request.
	Close bool
}

// maxInterim bounds the 1xx responses before a final one.
const maxInterim = 32

// ReadResponseHead reads the response to a request with the given method up to
// the end of its header section. Interim responses (1xx) are skipped, except
// 101; after one that announces a body, which it cannot have, the connection is
// not to be used again. It returns io.EOF if the connection was closed before the first byte of
// anything, io.ErrUnexpectedEOF if it was cut later, an *Error with status 502 if
// the origin is at fault, and otherwise what the connection said.
func ReadResponseHead(br *bufio.Reader, lim Limits, method string) (*ResponseHead, error) {
	lim = lim.withDefaults()
	closing := false
	for interim := range maxInterim {
		section, lines, err := readSection(br, lim.MaxHead, false)
		switch {
		case errors.Is(err, errTooLarge):
			return nil, badOrigin("response head larger than " + strconv.Itoa(lim.MaxHead) + " bytes")
		case interim > 0 && errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		fields := lines - 2
		if fields > lim.MaxFields {
			return nil, badOrigin("response with more than " + strconv.Itoa(lim.MaxFields) + " header fields")
		}
		r := &ResponseHead{}
		if err := r.parse(section, fields, method); err != nil {
			err.Status = 502
			return nil, err
		}
		closing = closing || r.Close
		if r.Code >= 200 || r.Code == 101 {
			r.Close = closing
			return r, nil
		}
	}
	return nil, badOrigin("too many interim responses")
}

func (r *ResponseHead) parse(section string, fields int, method string) *Error {
	line, rest := cutLine(section)
	if err := r.parseLine(line); err != nil {
		return err
	}
	if fields > 0 {
		h, err := parseFields(make([]frame.Field, 0, fields), rest, true)
		if err != nil {
			return err
		}
		r.Header = h
	}

	var (
		lengths, codings        int
		bodyLen                 int64 = unknownLength
		closing, keepAlive      bool
		chunked, list, otherEnc bool
	)
	for i := range r.Header {
		f := &r.Header[i]
		switch len(f.Name) {
		case 10:
			if equalFold(f.Name, "Connection") {
				closing = closing || hasMember(f.Value, "close")
				keepAlive = keepAlive || hasMember(f.Value, "keep-alive")
			}
		case 14:
			if equalFold(f.Name, "Content-Length") {
				n, ok := length(bodyLen, f.Value, true)
				if !ok {
					return badOrigin("invalid Content-Length")
				}
				list = list || len(f.Value) > 1 && hasComma(f.Value)
				bodyLen = n
				lengths++
			}
		case 17:
			if equalFold(f.Name, "Transfer-Encoding") {
				switch {
				case equalFold(f.Value, "chunked") && !chunked:
					chunked = true
					codings++
				case equalFold(f.Value, "identity"):
				default:
					otherEnc = true
				}
			}
		}
	}
	if otherEnc {
		return badOrigin("unsupported Transfer-Encoding")
	}
	r.Close = closing || r.Minor == 0 && !keepAlive

	switch {
	case codings > 0:
		r.BodyLen = Chunked
		// Two framings, or one that the version does not have: an origin that
		// confused is not trusted with a second request.
		if lengths > 0 || r.Minor == 0 {
			r.Close = true
		}
		if lengths > 0 {
			r.Header = Del(r.Header, "Content-Length")
		}
	case lengths > 0:
		r.BodyLen = bodyLen
		if lengths > 1 || list {
			r.Header = keepOne(r.Header, strconv.FormatInt(bodyLen, 10))
		}
	default:
		r.BodyLen = UntilClose
	}
	if (r.Code == 204 || r.Code < 200) && r.BodyLen != 0 && r.BodyLen != UntilClose {
		r.Close = true // what it announces may come, and must not begin the next response
	}
	switch {
	case method == "HEAD" || r.Code < 200 || r.Code == 204 || r.Code == 304:
		r.BodyLen = 0
	case r.BodyLen == UntilClose:
		r.Close = true
	}
	return nil
}

func hasComma(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == ',' {
			return true
		}
	}
	return false
}

// parseLine parses "HTTP/1.x SP code [SP reason]". The reason may be missing,
// also with its space.
func (r *ResponseHead) parseLine(line string) *Error {
	if len(line) < 12 || line[:7] != "HTTP/1." || line[7]-'0' > 9 || line[8] != ' ' {
		return badOrigin("invalid status line")
	}
	r.Minor = min(line[7]-'0', 1)
	for _, c := range []byte(line[9:12]) {
		if c-'0' > 9 {
			return badOrigin("invalid status code")
		}
		r.Code = r.Code*10 + int(c-'0')
	}
	if r.Code < 100 || len(line) > 12 && line[12] != ' ' {
		return badOrigin("invalid status code")
	}
	if len(line) > 13 {
		r.Reason = trimOWS(line[13:])
		if r.Reason != "" && !all(r.Reason, classValue) {
			return badOrigin("control character in the reason phrase")
		}
	}
	return nil
}
