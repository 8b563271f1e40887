package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maxHead bounds a start line with its header block.
const maxHead = 64 << 10

// ErrHead says that a head is longer than this package takes, or is none.
var ErrHead = errors.New("bad HTTP head")

// Sink takes the body bytes of a response. They are valid during the call only.
type Sink interface {
	Body(p []byte)
}

// Response reads responses from one connection, piece by piece. The zero value
// waits for a head.
type Response struct {
	Code  int
	Close bool // the server closes the connection after this response
	// HeadDone says that the head of the current response is complete.
	HeadDone bool

	state   uint8
	chunked bool
	left    int // body bytes still to come, or of the current chunk; -1: until close
	head    []byte
}

const (
	inHead uint8 = iota
	inBody
	inSize    // digits of a chunk size
	inSizeEnd // the rest of the line of a chunk size
	inData
	inDataEnd // CR LF after a chunk
	inTrailer // lines up to an empty one
)

// Feed consumes bytes of the connection. It stops after the end of a response:
// done is true then, n tells what it used, and the value is ready for the next.
func (r *Response) Feed(p []byte, sink Sink) (n int, done bool, err error) {
	for n < len(p) {
		switch r.state {
		case inHead:
			used, ok, err := r.feedHead(p[n:])
			n += used
			if err != nil {
				return n, false, err
			}
			if !ok {
				return n, false, nil
			}
			if r.state == inHead { // no body
				return n, true, nil
			}
		case inBody:
			q := p[n:]
			if r.left >= 0 && len(q) > r.left {
				q = q[:r.left]
			}
			sink.Body(q)
			n += len(q)
			if r.left >= 0 {
				if r.left -= len(q); r.left == 0 {
					r.state = inHead
					return n, true, nil
				}
			}
		case inSize:
			d, ok := hexDigit(p[n])
			if !ok {
				r.state = inSizeEnd
				continue
			}
			if r.left > 1<<27 {
				return n, false, errors.New("chunk too large")
			}
			r.left = r.left<<4 | int(d)
			n++
		case inSizeEnd:
			i := bytes.IndexByte(p[n:], '\n')
			if i < 0 {
				return len(p), false, nil
			}
			n += i + 1
			r.state = inData
			if r.left == 0 {
				r.state, r.left = inTrailer, 0
			}
		case inData:
			q := p[n:]
			if len(q) > r.left {
				q = q[:r.left]
			}
			sink.Body(q)
			n += len(q)
			if r.left -= len(q); r.left == 0 {
				r.state = inDataEnd
			}
		case inDataEnd:
			i := bytes.IndexByte(p[n:], '\n')
			if i < 0 {
				return len(p), false, nil
			}
			n += i + 1
			r.state, r.left = inSize, 0
		case inTrailer: // left counts the bytes of the current line
			c := p[n]
			n++
			switch {
			case c == '\n' && r.left == 0:
				r.state = inHead
				return n, true, nil
			case c == '\n':
				r.left = 0
			case c != '\r':
				r.left++
			}
		}
	}
	return n, false, nil
}

// feedHead gathers a head until it is complete, and starts the body.
func (r *Response) feedHead(p []byte) (n int, ok bool, err error) {
	if len(r.head) == 0 {
		r.HeadDone = false
		if end := headEnd(p); end >= 0 {
			return end, true, r.begin(p[:end])
		}
	}
	before := len(r.head)
	if before+len(p) > maxHead {
		return len(p), false, ErrHead
	}
	r.head = append(r.head, p...)
	end := headEnd(r.head)
	if end < 0 {
		return len(p), false, nil
	}
	err = r.begin(r.head[:end])
	r.head = nil
	return end - before, true, err
}

func (r *Response) begin(head []byte) error {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return fmt.Errorf("%w: %.40q", ErrHead, line)
	}
	code, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return fmt.Errorf("%w: %.40q", ErrHead, line)
	}
	r.HeadDone, r.Code, r.Close, r.chunked, r.left = true, code, line[7] == '0', false, -1
	fields(rest, func(name, value []byte) {
		switch {
		case is(name, "content-length"):
			if n, err := strconv.Atoi(string(value)); err == nil {
				r.left = n
			}
		case is(name, "transfer-encoding"):
			r.chunked = is(value, "chunked")
		case is(name, "connection"):
			if is(value, "close") {
				r.Close = true
			} else if is(value, "keep-alive") {
				r.Close = false
			}
		}
	})
	switch {
	case r.chunked:
		r.state, r.left = inSize, 0
	case r.left == 0 || code < 200 || code == 204 || code == 304:
		r.state = inHead
	default:
		r.state = inBody
		r.Close = r.Close || r.left < 0
	}
	return nil
}

// Request is the head of a request. Its slices point into the bytes it was
// read from.
type Request struct {
	Method, Path, Query []byte
	BodyLen             int
	Close               bool
	Upgrade             bool   // asks for WebSocket
	Key                 []byte // Sec-WebSocket-Key
}

// ReadRequest reads one request with its body from the front of p, and returns
// how many bytes it took; 0 if it is not complete yet.
func ReadRequest(p []byte) (req Request, body []byte, n int, err error) {
	end := headEnd(p)
	if end < 0 {
		if len(p) > maxHead {
			return req, nil, 0, ErrHead
		}
		return req, nil, 0, nil
	}
	line, rest, _ := bytes.Cut(p[:end], []byte("\r\n"))
	method, rest1, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest1, []byte(" "))
	if !ok1 || !ok2 {
		return req, nil, 0, fmt.Errorf("%w: %.40q", ErrHead, line)
	}
	req.Method = method
	req.Path, req.Query, _ = bytes.Cut(target, []byte("?"))
	req.Close = is(version, "http/1.0")
	chunked := false
	fields(rest, func(name, value []byte) {
		switch {
		case is(name, "content-length"):
			req.BodyLen, err = strconv.Atoi(string(value))
		case is(name, "transfer-encoding"):
			chunked = is(value, "chunked")
		case is(name, "connection"):
			if is(value, "close") {
				req.Close = true
			} else if is(value, "keep-alive") {
				req.Close = false
			}
		case is(name, "upgrade"):
			req.Upgrade = is(value, "websocket")
		case is(name, "sec-websocket-key"):
			req.Key = value
		}
	})
	if err != nil || req.BodyLen < 0 {
		return req, nil, 0, ErrHead
	}
	if chunked {
		body, n := readChunks(p[end:])
		if n == 0 {
			return req, nil, 0, nil
		}
		return req, body, end + n, nil
	}
	if len(p) < end+req.BodyLen {
		return req, nil, 0, nil
	}
	return req, p[end : end+req.BodyLen], end + req.BodyLen, nil
}

// readChunks joins the chunks of a body; n is 0 if it is not complete.
func readChunks(p []byte) (body []byte, n int) {
	var r Response
	r.state = inSize
	var s gather
	n, done, err := r.Feed(p, &s)
	if err != nil || !done {
		return nil, 0
	}
	return s, n
}

type gather []byte

func (g *gather) Body(p []byte) { *g = append(*g, p...) }

// Param finds a parameter in a query, undecoded.
func Param(query []byte, name string) []byte {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		k, v, _ := bytes.Cut(pair, []byte("="))
		if string(k) == name {
			return v
		}
	}
	return nil
}

func headEnd(p []byte) int {
	if i := bytes.Index(p, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return -1
}

func fields(block []byte, f func(name, value []byte)) {
	for len(block) > 0 {
		var line []byte
		line, block, _ = bytes.Cut(block, []byte("\r\n"))
		if name, value, ok := bytes.Cut(line, []byte(":")); ok {
			f(name, bytes.TrimSpace(value))
		}
	}
}

// is compares without regard to case; want is in lower case.
func is(b []byte, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}
