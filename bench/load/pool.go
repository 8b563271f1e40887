//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/result"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

// kind is what a subscriber speaks.
type kind uint8

const (
	kindStream    kind = iota // one GET whose response does not end
	kindPoll                  // GET after GET, each answered by one message
	kindWebSocket             // one WebSocket
)

// pool opens subscribers and keeps them.
type pool struct {
	loop   *netloop.Loop
	meter  *meter
	kind   kind
	target netip.AddrPort
	host   string
	header string // more header lines
	path   string // {c} stands for the channel
	extra  int    // further channels of each subscriber
	// readyHead says that a subscriber is ready with the head of its response.
	// Otherwise it is ready with the first byte of the body: the origin's initial
	// body, or its first WebSocket message.
	readyHead bool
	channels  int
	// window bounds how many are being opened at a time, 0 means no bound.
	window int
	// retry opens another one for an attempt that failed.
	retry bool
	// narrow says that connections take little when they are not read.
	narrow bool

	subs    []*subscriber
	want    int
	pending int // opened, not ready yet
	ready   int
	failed  int
	dropped int
	why     string // the first was lost
	first   time.Duration
	last    time.Duration // when the latest became ready
	ended   bool          // closing is ours
	err     error
}

// subscriber is one connection of a pool.
type subscriber struct {
	tracker
	pool    *pool
	number  int
	conn    *netloop.Conn
	resp    wire.Response
	ready   bool
	upgrade bool // the WebSocket handshake is over
	in      []byte
	asked   time.Duration // when the current long poll was asked
	answers int
	partial bool // a response has begun that is not complete
}

// grow opens subscribers until there are n.
func (p *pool) grow(n int) {
	p.want = n
	if p.first == 0 {
		p.first = p.loop.Now()
	}
	p.fill()
}

func (p *pool) fill() {
	for p.err == nil && p.ready+p.pending < p.want && (p.window == 0 || p.pending < p.window) {
		if p.failed > 0 && (!p.retry || p.failed > 2*p.want) {
			return
		}
		if err := p.open(); err != nil {
			p.err = err
			return
		}
	}
}

func (p *pool) open() error {
	n := len(p.subs)
	s := &subscriber{pool: p, number: n, tracker: tracker{m: p.meter, channel: n % p.channels}}
	// Several source addresses, so that the ports of one do not bound the run.
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + n%8)}), 0)
	open := netloop.Open
	if p.narrow {
		open = netloop.OpenNarrow
	}
	conn, err := open(p.loop, from, p.target, s)
	if err != nil {
		return fmt.Errorf("subscriber %d: %w", n, err)
	}
	s.conn = conn
	p.subs = append(p.subs, s)
	p.pending++
	s.ask()
	return nil
}

func (s *subscriber) ask() {
	p := s.pool
	extra := p.header
	if p.kind == kindWebSocket {
		extra += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	channels := channelName(s.channel)
	for i := range p.extra {
		channels += fmt.Sprintf(",x%d-%d", s.number, i)
	}
	path := strings.ReplaceAll(p.path, "{c}", channels)
	s.asked = p.loop.Now()
	s.conn.Write(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, p.host, extra))
	if p.kind == kindPoll {
		s.becomeReady() // nothing tells when a long poll is held
	}
}

func (s *subscriber) becomeReady() {
	if s.ready {
		return
	}
	s.ready = true
	p := s.pool
	p.pending--
	p.ready++
	p.last = p.loop.Now()
	p.fill()
}

// Data implements netloop.User.
func (s *subscriber) Data(b []byte) {
	if s.upgrade {
		s.frames(b)
		return
	}
	for len(b) > 0 {
		n, done, err := s.resp.Feed(b, &s.tracker)
		if err != nil {
			s.give(true, err.Error())
			return
		}
		b = b[n:]
		s.partial = !done
		if s.pool.kind == kindWebSocket && s.resp.HeadDone {
			if s.resp.Code != 101 {
				s.give(true, fmt.Sprintf("status %d", s.resp.Code))
				return
			}
			s.upgrade = true
			if s.pool.readyHead {
				s.becomeReady()
			}
			s.frames(b)
			return
		}
		if s.resp.HeadDone && s.resp.Code != 200 {
			s.give(true, fmt.Sprintf("status %d", s.resp.Code))
			return
		}
		if s.resp.HeadDone && (s.pool.readyHead || s.bytes > 0) {
			s.becomeReady()
		}
		if done {
			if s.pool.kind != kindPoll {
				s.give(true, "the stream ended")
				return
			}
			s.answers++
		}
	}
}

func (s *subscriber) frames(b []byte) {
	if len(s.in) > 0 {
		s.in = append(s.in, b...)
		b = s.in
	}
	for {
		op, payload, n, err := wire.ReadFrame(b)
		if err == nil && op == wire.OpClose && n > 0 {
			err = fmt.Errorf("WebSocket close %x", payload)
		}
		if err != nil {
			s.give(true, err.Error())
			return
		}
		if n == 0 {
			break
		}
		switch op {
		case wire.OpText, wire.OpBinary, wire.OpContinuation:
			s.Body(payload)
			s.becomeReady()
		case wire.OpPing:
			s.conn.Write(wire.AppendFrame(nil, wire.OpPong, payload, true))
		}
		b = b[n:]
	}
	if len(b) == 0 {
		s.in = nil
	} else {
		s.in = append([]byte(nil), b...)
	}
}

// Closed implements netloop.User.
func (s *subscriber) Closed(err error) {
	why := "closed by the server"
	if err != nil {
		why = err.Error()
	}
	s.give(false, why)
}

// give counts the loss of a connection. The subscriber stays in the list: what
// it has missed since is lost.
func (s *subscriber) give(close bool, why string) {
	s.partial = false
	if close {
		s.conn.Close(true)
	}
	p := s.pool
	if p.ended {
		return
	}
	if p.why == "" {
		p.why = why
	}
	if s.ready {
		p.dropped++
		return
	}
	p.pending--
	p.failed++
	p.fill()
}

// settled tells that every subscriber is ready or has failed for good.
func (p *pool) settled() bool {
	return p.err != nil || p.ready >= p.want || p.pending == 0
}

func (p *pool) setup() *result.Setup {
	s := &result.Setup{Asked: p.want, Ready: p.ready, Failed: p.failed, Dropped: p.dropped, Why: p.why, Seconds: (p.last - p.first).Seconds()}
	if s.Seconds > 0 {
		s.PerSecond = float64(s.Ready) / s.Seconds
	}
	return s
}

// lost counts what ready subscribers have not got out of what was published.
func (p *pool) lost(seq []uint32) uint64 {
	var n uint64
	for _, s := range p.subs {
		if s.ready {
			n += uint64(seq[s.channel]-s.next) + uint64(len(s.missing))
		}
	}
	return n
}

func (p *pool) close() {
	p.ended = true
	for _, s := range p.subs {
		s.conn.Close(true)
	}
}
