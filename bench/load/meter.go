//go:build linux

package main

import (
	"bytes"
	"time"

	"github.com/holdfast/holdfast/bench/internal/hist"
	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

// meter counts what all subscribers have seen since it was last reset.
type meter struct {
	loop       *netloop.Loop
	size       int // of a message
	latency    *hist.Histogram
	delivered  uint64
	duplicates uint64
	reordered  uint64
	last       time.Duration     // when a message was last read
	onMessage  func(channel int) // may be nil
}

func newMeter(l *netloop.Loop, size int) *meter {
	return &meter{loop: l, size: size, latency: new(hist.Histogram)}
}

func (m *meter) reset() {
	m.latency, m.delivered, m.duplicates, m.reordered = new(hist.Histogram), 0, 0, 0
}

// tracker reads the messages of one connection and checks their numbers. It is
// the wire.Sink of the connection's response.
type tracker struct {
	m       *meter
	channel int
	next    uint32              // the number expected
	missing map[uint32]struct{} // numbers below next that have not come; nil as long as all have
	rest    []byte              // the beginning of a line that has not ended
	bytes   uint64
}

// Body implements wire.Sink: it cuts the bytes into lines.
func (t *tracker) Body(p []byte) {
	t.bytes += uint64(len(p))
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte("\n"))
		if !ok {
			t.rest = append(t.rest, p...)
			return
		}
		p = rest
		if len(t.rest) > 0 {
			line = append(t.rest, line...)
			t.rest = nil
		}
		if seq, sent, ok := wire.ParseMessage(line, t.m.size); ok {
			t.message(seq, sent)
		}
	}
}

func (t *tracker) message(seq uint32, sent time.Duration) {
	now := t.m.loop.Now()
	switch {
	case seq == t.next:
		t.next++
	case seq > t.next:
		if t.missing == nil {
			t.missing = map[uint32]struct{}{}
		}
		for ; t.next < seq; t.next++ {
			t.missing[t.next] = struct{}{}
		}
		t.next++
	default:
		if _, ok := t.missing[seq]; !ok {
			t.m.duplicates++
			return
		}
		delete(t.missing, seq)
		t.m.reordered++
	}
	t.m.delivered++
	t.m.last = now
	t.m.latency.Add(now - sent)
	if t.m.onMessage != nil {
		t.m.onMessage(t.channel)
	}
}
