//go:build linux

package main

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

// hookPath is what the path of a webhook of channel N begins with; N follows.
const hookPath = "/hook/"

// hooks: a webhook for each channel. This program is both publisher and receiver:
// paced publishes, and then a closed loop in which a publisher goes on when its
// publish was answered and the webhook has come.
func (b *bench) hooks() error {
	if !b.receive.IsValid() || b.channels < 2*b.publishers {
		return errors.New("-receive is missing, or there are too few channels for so many publishers")
	}
	// The pool has no connections, only what counts messages.
	p := b.newPool(kindStream)
	p.window = 0
	for n := range b.channels {
		p.subs = append(p.subs, &subscriber{pool: p, number: n, ready: true, tracker: tracker{m: p.meter, channel: n}})
	}
	fd, _, err := netloop.Listen(b.receive)
	if err != nil {
		return err
	}
	defer b.loop.Close(fd, false)
	if err := netloop.Serve(b.loop, fd, func(*netloop.Loop) netloop.Server { return &receiver{pool: p} }); err != nil {
		return err
	}
	if _, err := b.deliver(p, 1, 20*time.Second, func(f func()) { b.closedLoop(p, 1, time.Second, f) }); err != nil { // for warming up
		return err
	}
	length := time.Duration(float64(b.count) / b.rate * float64(time.Second))
	if b.res.Paced, err = b.deliver(p, 1, length+10*time.Second, func(f func()) { b.paced(b.count, f) }); err != nil {
		return err
	}
	b.res.Burst, err = b.deliver(p, 1, b.duration+20*time.Second, func(f func()) { b.closedLoop(p, 1, b.duration, f) })
	return err
}

// receiver is a connection on which webhooks come.
type receiver struct {
	pool *pool
	conn *netloop.Conn
	in   []byte
}

// Start implements netloop.Server.
func (r *receiver) Start(conn *netloop.Conn) { r.conn = conn }

// Closed implements netloop.User.
func (r *receiver) Closed(error) {}

// Data implements netloop.User.
func (r *receiver) Data(p []byte) {
	r.in = append(r.in, p...)
	for {
		req, body, n, err := wire.ReadRequest(r.in)
		if err != nil {
			r.conn.Close(true)
			return
		}
		if n == 0 {
			return
		}
		r.take(string(req.Path), body)
		r.conn.Write([]byte("HTTP/1.1 204 No Content\r\n\r\n"))
		if r.in = r.in[n:]; len(r.in) == 0 {
			r.in = nil
		}
		if req.Close {
			r.conn.Finish()
			return
		}
	}
}

// take finds the message in the body of a webhook: the content of its one format.
func (r *receiver) take(path string, body []byte) {
	n, err := strconv.Atoi(strings.TrimPrefix(path, hookPath))
	if err != nil || n < 0 || n >= len(r.pool.subs) {
		return
	}
	_, rest, ok := bytes.Cut(body, []byte(`"content":"`))
	line, _, end := bytes.Cut(rest, []byte(`\n"`))
	if !ok || !end {
		return
	}
	if seq, sent, ok := wire.ParseMessage(line, r.pool.meter.size); ok {
		r.pool.subs[n].message(seq, sent)
	}
}
