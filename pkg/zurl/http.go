package zurl

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast/holdfast/pkg/outbound"
	"github.com/holdfast/holdfast/pkg/zhttp"
)

// connectHost is where p wants to be connected to, in the form of outbound.
func connectHost(p *zhttp.Request) string {
	if p.ConnectHost == "" || p.ConnectPort <= 0 {
		return p.ConnectHost
	}
	host := strings.TrimSuffix(strings.TrimPrefix(p.ConnectHost, "["), "]")
	return net.JoinHostPort(host, strconv.Itoa(p.ConnectPort))
}

var errOver = errors.New("the session is over")

// reserve takes n bytes of what all sessions may hold.
func (s *session) reserve(n int) bool {
	if s.f.held.Add(int64(n)) > maxHeld {
		s.f.held.Add(int64(-n))
		return false
	}
	return true
}

func (s *session) release(n int) { s.f.held.Add(int64(-n)) }

// withBody calls f with the body of p in r. Bodies that are at hand are counted
// while they are.
func (s *session) withBody(r *outbound.Request, p *zhttp.Request, f func()) {
	if !s.reserve(len(p.Body)) {
		s.fail(conditionTooBusy)
		return
	}
	defer s.release(len(p.Body))
	r.Body = p.Body
	f()
}

// forgotten makes a request whose response nobody will see.
func (s *session) forgotten(r *outbound.Request, p *zhttp.Request) {
	if p.More {
		s.fail(badRequest) // there is no way to send the rest
		return
	}
	s.withBody(r, p, func() {
		resp, err := s.f.s.client.Do(s.ctx, r)
		if err != nil {
			s.failWith(err)
			return
		}
		defer resp.Close() //nolint:errcheck // nobody is interested
		// A short body is read so that the connection can be used again.
		n, err := io.CopyN(io.Discard, resp, 64<<10)
		s.mu.Lock()
		s.code, s.bytes = resp.Code, n
		s.mu.Unlock()
		if err != nil && !errors.Is(err, io.EOF) {
			s.failWith(err)
			return
		}
		s.end(nil, class(resp.Code))
	})
}

// class is the result of an exchange that came to a response.
func class(code int) string { return fmt.Sprintf("%dxx", code/100) }

// runHTTP makes a request for a client that waits for its response.
func (s *session) runHTTP(r *outbound.Request, p *zhttp.Request) {
	if s.kind == kindReq && p.More {
		s.fail(badRequest)
		return
	}
	// What can be said at once is said before anything else.
	if err := s.f.s.client.Check(r); err != nil {
		s.failWith(err)
		return
	}
	if s.kind == kindHTTP {
		first := &zhttp.Response{Type: zhttp.KeepAlive, Multi: s.multi}
		if p.More {
			first.Type, first.Credits = zhttp.Credit, int64(s.f.s.o.BufferSize)
		}
		s.send(first)
	}
	s.withBody(r, p, func() {
		if p.More {
			s.stream(r, p)
		}
		resp, err := s.f.s.client.Do(s.ctx, r)
		if err != nil {
			s.failWith(err)
			return
		}
		defer resp.Close() //nolint:errcheck // it was read, or is of no interest any more
		if p.Stream && s.kind == kindHTTP {
			s.relay(resp)
		} else {
			s.whole(resp)
		}
	})
}

// stream makes the rest of the body, which the client is still sending, part of
// r. Methods that usually have no body wait for its first byte: without any it
// is a request without a body.
func (s *session) stream(r *outbound.Request, p *zhttp.Request) {
	up := &upload{s: s}
	r.Body, r.More = nil, up
	if len(p.Body) > 0 {
		up.rest = p.Body
		return
	}
	switch p.Method {
	case "GET", "HEAD", "OPTIONS", "DELETE":
		if !up.fill() {
			r.More = nil
		}
	}
}

// upload is the body of a request that its client sends in parts.
type upload struct {
	s    *session
	rest []byte // of the part that was taken last
}

// fill waits until there is something in rest.
func (u *upload) fill() bool {
	for len(u.rest) == 0 {
		p, ok := u.s.next()
		if !ok {
			return false
		}
		u.rest = p.data
	}
	return true
}

// Read gives the client credits for what it takes.
func (u *upload) Read(p []byte) (int, error) {
	ok := u.fill()
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if !ok {
		if u.s.over || u.s.unwanted {
			return 0, errOver
		}
		return 0, io.EOF
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	u.s.lastActive = u.s.f.now()
	if !u.s.ended {
		u.s.grant(n)
	}
	return n, nil
}

// Close drops what the client still sends.
func (u *upload) Close() error {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.s.unwanted = true
	u.s.queue, u.s.queued = nil, 0
	u.s.changed.Broadcast()
	return nil
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// relay sends the response as the client's credits allow.
func (s *session) relay(resp *outbound.Response) {
	buf, _ := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	head := &zhttp.Head{Code: resp.Code, Reason: resp.Reason, Header: resp.Header}
	for {
		room := s.await(1)
		if room == 0 {
			return // over
		}
		if head != nil && !resp.Ready() {
			// The body may be a long time in coming.
			s.deliver(&zhttp.Response{Head: head, More: true})
			head = nil
		}
		n, err := resp.Read(buf[:min(int64(len(buf)), room)])
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			s.failWith(err)
			return
		}
		last := &zhttp.Response{Head: head, Body: buf[:n], More: !end}
		if end {
			s.finish(last)
			return
		}
		s.deliver(last)
		head = nil
	}
}

// finish ends a session with the end of its response.
func (s *session) finish(last *zhttp.Response) {
	s.mu.Lock()
	s.count(last)
	code := s.code
	s.mu.Unlock()
	s.end(last, class(code))
}

// whole sends the response as one packet.
func (s *session) whole(resp *outbound.Response) {
	buf, _ := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	var body []byte
	defer func() { s.release(len(body)) }()
	for {
		n, err := resp.Read(buf[:])
		switch {
		case int64(len(body)+n) > s.f.s.o.MaxWhole:
			s.fail(outbound.MaxSizeExceeded)
			return
		case !s.reserve(n):
			s.fail(conditionTooBusy)
			return
		}
		body = append(body, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.failWith(err)
			return
		}
		s.active()
	}
	s.finish(&zhttp.Response{Head: &zhttp.Head{Code: resp.Code, Reason: resp.Reason, Header: resp.Header}, Body: body})
}
