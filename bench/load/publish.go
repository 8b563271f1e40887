//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

// source makes messages and their publish forms.
type source struct {
	loop   *netloop.Loop
	size   int
	format string   // "raw", or the name of a GRIP format
	seq    []uint32 // next number, by channel
	taken  uint64   // publishes that the server has accepted
	failed uint64

	message []byte
	body    []byte
}

// next makes the publish body of the next message of a channel. It is valid
// until the next call.
func (s *source) next(channel int) []byte {
	s.message = wire.AppendMessage(s.message[:0], s.seq[channel], s.loop.Now(), s.size)
	s.seq[channel]++
	if s.format == "raw" {
		return s.message
	}
	field := "content"
	if s.format == "http-response" {
		field = "body"
	}
	b := append(s.body[:0], `{"items":[`...)
	b = s.item(b, channel, field)
	s.body = append(b, `]}`...)
	return s.body
}

// nextItem is next for a ZeroMQ intake, which takes one item without the list.
func (s *source) nextItem(channel int) []byte {
	s.message = wire.AppendMessage(s.message[:0], s.seq[channel], s.loop.Now(), s.size)
	s.seq[channel]++
	s.body = s.item(append(s.body[:0], 'J'), channel, "content")
	return s.body
}

func (s *source) item(b []byte, channel int, field string) []byte {
	b = append(b, `{"channel":"`...)
	b = append(b, channelName(channel)...)
	b = append(b, `","formats":{"`...)
	b = append(b, s.format...)
	b = append(b, `":{"`...)
	b = append(b, field...)
	b = append(b, `":"`...)
	b = append(b, s.message[:len(s.message)-1]...) // nothing in it needs escaping but its end
	return append(b, `\n"}}}`...)
}

func channelName(n int) string { return "c" + strconv.Itoa(n) }

// publisher sends messages. done tells whether the server has taken it; it may
// be nil.
type publisher interface {
	publish(channel int, done func(ok bool))
}

// httpPublisher posts over a few connections, each one publish at a time, and
// asks to keep them. A server that closes after each gets a new connection for each; the time to
// open it counts as part of the publish.
type httpPublisher struct {
	src  *source
	addr netip.AddrPort
	path string // {c} stands for the channel
	idle []*publishConn
	wait []pending
	req  []byte
}

type pending struct {
	channel int
	done    func(bool)
}

type publishConn struct {
	p    *httpPublisher
	conn *netloop.Conn
	resp wire.Response
	done func(bool)
	busy bool
}

func newHTTPPublisher(src *source, addr netip.AddrPort, path string, conns int) *httpPublisher {
	p := &httpPublisher{src: src, addr: addr, path: path}
	for range conns {
		p.idle = append(p.idle, &publishConn{p: p})
	}
	return p
}

func (p *httpPublisher) publish(channel int, done func(bool)) {
	if len(p.idle) == 0 {
		p.wait = append(p.wait, pending{channel, done})
		return
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	c.send(channel, done)
}

func (c *publishConn) send(channel int, done func(bool)) {
	c.done, c.busy = done, true
	body := c.p.src.next(channel)
	p := c.p
	p.req = fmt.Appendf(p.req[:0], "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n",
		strings.ReplaceAll(p.path, "{c}", channelName(channel)), p.addr, len(body))
	p.req = append(p.req, body...)
	if c.conn == nil {
		conn, err := netloop.Open(p.src.loop, netip.AddrPort{}, p.addr, c)
		if err != nil {
			c.finish(false)
			return
		}
		c.conn, c.resp = conn, wire.Response{}
	}
	c.conn.Write(p.req)
}

func (c *publishConn) Data(b []byte) {
	for len(b) > 0 {
		n, done, err := c.resp.Feed(b, discard{})
		if err != nil {
			c.drop()
			c.finish(false)
			return
		}
		b = b[n:]
		if done {
			if c.resp.Close {
				c.drop()
			}
			c.finish(c.resp.Code/100 == 2)
			return
		}
	}
}

func (c *publishConn) Closed(error) {
	// A response without a length ends here.
	ok := c.resp.HeadDone && c.resp.Code/100 == 2
	c.conn = nil
	if c.busy {
		c.finish(ok)
	}
}

func (c *publishConn) drop() {
	c.conn.Close(false)
	c.conn = nil
}

func (c *publishConn) finish(ok bool) {
	c.busy = false
	if ok {
		c.p.src.taken++
	} else {
		c.p.src.failed++
	}
	done := c.done
	c.done = nil
	if len(c.p.wait) > 0 {
		next := c.p.wait[0]
		c.p.wait = c.p.wait[1:]
		c.send(next.channel, next.done)
	} else {
		c.p.idle = append(c.p.idle, c)
	}
	if done != nil {
		done(ok)
	}
}

type discard struct{}

func (discard) Body([]byte) {}

// zmqPublisher is a ZeroMQ PUSH socket with the NULL mechanism (ZMTP 3.0),
// written here so that it lives on the loop. A publish counts as taken when it
// is handed to the socket; there is no answer.
type zmqPublisher struct {
	src   *source
	conn  *netloop.Conn
	in    []byte
	step  int // 0: greeting awaited, 1: READY awaited, 2: open
	early [][]byte
	err   error
}

func newZMQPublisher(src *source, addr netip.AddrPort) (*zmqPublisher, error) {
	p := &zmqPublisher{src: src}
	conn, err := netloop.Open(src.loop, netip.AddrPort{}, addr, p)
	if err != nil {
		return nil, err
	}
	greeting := make([]byte, 64)
	greeting[0], greeting[9], greeting[10] = 0xff, 0x7f, 3
	copy(greeting[12:], "NULL")
	conn.Write(greeting)
	p.conn = conn
	return p, nil
}

func (p *zmqPublisher) publish(channel int, done func(bool)) {
	body := p.src.nextItem(channel)
	frame := make([]byte, 0, len(body)+9)
	if len(body) < 256 {
		frame = append(frame, 0, byte(len(body)))
	} else {
		frame = binary.BigEndian.AppendUint64(append(frame, 2), uint64(len(body)))
	}
	frame = append(frame, body...)
	if p.step < 2 {
		p.early = append(p.early, frame)
	} else {
		p.conn.Write(frame)
	}
	ok := p.err == nil
	if ok {
		p.src.taken++
	} else {
		p.src.failed++
	}
	if done != nil {
		done(ok)
	}
}

func (p *zmqPublisher) Data(b []byte) {
	if p.step == 2 {
		return // a PUSH socket is sent nothing but heartbeats, which we do not ask for
	}
	p.in = append(p.in, b...)
	if p.step == 0 && len(p.in) >= 64 {
		p.in = p.in[64:]
		p.step = 1
		p.conn.Write([]byte("\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"))
	}
	if p.step == 1 && bytes.Contains(p.in, []byte("READY")) {
		p.step, p.in = 2, nil
		for _, f := range p.early {
			p.conn.Write(f)
		}
		p.early = nil
	}
}

func (p *zmqPublisher) Closed(err error) {
	if p.err = err; err == nil {
		p.err = io.ErrUnexpectedEOF
	}
}
