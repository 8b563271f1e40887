//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/holdfast/holdfast/bench/internal/hist"
	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/result"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

// requests is a closed loop: every connection has one request under way.
type requests struct {
	bench    *bench
	request  []byte
	latency  *hist.Histogram
	done     uint64
	failed   uint64
	bytes    uint64
	counting bool
	stopped  bool
}

// requester is one connection of the loop. It is opened again when it breaks.
type requester struct {
	r       *requests
	conn    *netloop.Conn
	resp    wire.Response
	ws      bool
	upgrade bool
	in      []byte
	sent    time.Duration
}

// proxy: plain requests that the server passes on to an origin.
func (b *bench) proxy() error {
	return b.loopRequests(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", b.path, b.host), false)
}

// echo: WebSocket messages that an origin sends back, one under way at a time on
// each connection.
func (b *bench) echo() error {
	return b.loopRequests(wire.AppendFrame(nil, wire.OpText, wire.AppendMessage(nil, 0, 0, b.src.size), true), true)
}

func (b *bench) loopRequests(request []byte, ws bool) error {
	r := &requests{bench: b, request: request, latency: new(hist.Histogram)}
	all := make([]*requester, b.n)
	for i := range all {
		all[i] = &requester{r: r, ws: ws}
		all[i].begin()
	}
	if err := b.loop.Sleep(time.Second); err != nil { // warming up
		return err
	}
	before, err := b.usage()
	if err != nil {
		return err
	}
	r.failed, r.counting = 0, true
	from := b.loop.Now()
	if err := b.loop.Sleep(b.duration); err != nil {
		return err
	}
	length := b.loop.Now() - from
	r.counting = false
	after, err := b.usage()
	if err != nil {
		return err
	}
	r.stopped = true
	for _, q := range all {
		if q.conn != nil {
			q.conn.Close(true)
		}
	}
	q := &result.Requests{
		Connections: b.n, Done: r.done, Failed: r.failed, Seconds: length.Seconds(),
		PerSecond: float64(r.done) / length.Seconds(), MBPerSecond: float64(r.bytes) / 1e6 / length.Seconds(),
		CPU: (after.CPU - before.CPU).Seconds(), Latency: r.latency.Summary(),
	}
	if r.done > 0 {
		q.CPUPerRequest = q.CPU * 1e6 / float64(r.done)
	}
	b.res.Requests = q
	return nil
}

func (q *requester) begin() {
	b := q.r.bench
	conn, err := netloop.Open(b.loop, netip.AddrPort{}, b.target, q)
	if err != nil {
		q.again()
		return
	}
	q.conn, q.resp, q.upgrade, q.in = conn, wire.Response{}, false, nil
	if q.ws {
		conn.Write(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", b.path, b.host))
		return
	}
	q.send()
}

// again counts a failure and opens another connection a little later, so that a
// server that refuses is not hammered.
func (q *requester) again() {
	q.conn = nil
	if q.r.stopped {
		return
	}
	q.r.failed++
	q.r.bench.loop.After(50*time.Millisecond, func() {
		if !q.r.stopped {
			q.begin()
		}
	})
}

func (q *requester) send() {
	q.sent = q.r.bench.loop.Now()
	q.conn.Write(q.r.request)
}

func (q *requester) answered() {
	if q.r.counting {
		q.r.done++
		q.r.latency.Add(q.r.bench.loop.Now() - q.sent)
	}
	q.send()
}

// Body implements wire.Sink.
func (q *requester) Body(p []byte) {
	if q.r.counting {
		q.r.bytes += uint64(len(p))
	}
}

// Data implements netloop.User.
func (q *requester) Data(p []byte) {
	for len(p) > 0 && !q.upgrade {
		n, done, err := q.resp.Feed(p, q)
		want := 200
		if q.ws {
			want = 101
		}
		if err != nil || q.resp.HeadDone && q.resp.Code != want {
			q.conn.Close(true)
			q.again()
			return
		}
		p = p[n:]
		if !done {
			continue
		}
		if q.ws {
			q.upgrade = true
			q.send()
			break
		}
		if q.resp.Close {
			// Keep-alive refused: a new connection, without counting a failure.
			q.conn.Close(false)
			if q.r.counting {
				q.r.done++
				q.r.latency.Add(q.r.bench.loop.Now() - q.sent)
			}
			q.begin()
			return
		}
		q.answered()
	}
	if q.upgrade {
		q.frames(p)
	}
}

func (q *requester) frames(p []byte) {
	q.in = append(q.in, p...)
	for {
		op, payload, n, err := wire.ReadFrame(q.in)
		if err != nil || n > 0 && op == wire.OpClose {
			q.conn.Close(true)
			q.again()
			return
		}
		if n == 0 {
			return
		}
		q.in = q.in[n:]
		if op == wire.OpText && len(payload) == q.r.bench.src.size {
			q.Body(payload)
			q.answered()
		}
	}
}

// Closed implements netloop.User.
func (q *requester) Closed(error) { q.again() }
