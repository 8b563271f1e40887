package bus_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/test/poll"
)

// slowpoke is a receiver that stands still until it is let go.
type slowpoke struct {
	bustest.Recorder
	entered, goOn chan struct{}
	once          bool
}

func (s *slowpoke) Receive(p bus.Peer, b []byte) {
	if !s.once {
		s.once = true
		close(s.entered)
		<-s.goOn
	}
	s.Recorder.Receive(p, b)
}

// What a process has written before it is killed arrives, however late it is
// read, and although its successor has said hello by then.
func TestLastWordsOfAKilledProcess(t *testing.T) {
	dir := runDir(t)
	b := newNode(t, bus.Options{Name: "connmgr.0", Dir: dir})
	r := slowpoke{entered: make(chan struct{}), goOn: make(chan struct{})}
	bustest.Start(t, b, &r)
	a := newNode(t, bus.Options{Name: "handler.0", Dir: dir})
	var ra bustest.Recorder
	bustest.Start(t, a, &ra)
	ra.WaitUp(t, "connmgr.0")
	const n = 150                                                                                      // more than the inbox takes unread; the rest fits in the socket
	frame := func(i int) []byte { return binary.BigEndian.AppendUint64(make([]byte, 100), uint64(i)) } //nolint:gosec // small
	for i := range n {
		if err := a.Send("connmgr.0", frame(i)); err != nil {
			t.Fatal(err)
		}
		if w := a.Written("connmgr.0"); w != nil {
			within(t, "frame to be written", w)
		}
		if i == 0 {
			within(t, "the receiver", r.entered)
		}
	}
	if w := a.Written("connmgr.0"); w != nil {
		t.Error("something is still to be written")
	}
	if err := a.Close(); err != nil { // as if it had been killed
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	c := newNode(t, bus.Options{Name: "handler.0", Dir: dir, Registerer: reg})
	var rc bustest.Recorder
	bustest.Start(t, c, &rc)
	// Its hello is in, or on its way.
	poll.Until(t, "a hello", func() bool { return metric(t, reg, "holdfast_socket_messages_total") > 0 })
	close(r.goOn)
	events := r.Wait(t, "the successor to be up", func(events []bustest.Event) bool {
		last := events[len(events)-1]
		return last.Kind == "up" && last.Peer.Boot == c.Boot()
	})
	for i, e := range events {
		switch {
		case i == 0 && e.Kind == "up", i == n+1 && e.Kind == "down", i == n+2:
		case i > n || e.Kind != "frame" || e.Data[100:] != string(frame(i - 1)[100:]):
			t.Fatalf("event %d is %v", i, e)
		}
	}
}

// Nobody waits for a peer that has gone, or for a node that has ended.
func TestWrittenEnds(t *testing.T) {
	dir := runDir(t)
	a := newNode(t, bus.Options{Name: "handler.0", Dir: dir})
	var ra bustest.Recorder
	stop := bustest.Start(t, a, &ra)
	if a.Written("connmgr.0") != nil {
		t.Error("there is something to wait for without a peer")
	}
	b := newNode(t, bus.Options{Name: "connmgr.0", Dir: dir})
	r := slowpoke{entered: make(chan struct{}), goOn: make(chan struct{})}
	bustest.Start(t, b, &r)
	t.Cleanup(func() { close(r.goOn) })
	ra.WaitUp(t, "connmgr.0")
	for range 200 { // more than fits between the two
		if err := a.Send("connmgr.0", make([]byte, 256<<10)); err != nil {
			t.Fatal(err)
		}
	}
	w := a.Written("connmgr.0")
	if w == nil {
		t.Fatal("50 MB are written although nobody reads")
	}
	stop()
	within(t, "an end of the waiting", w)
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(poll.Patience):
		t.Fatalf("waited in vain for %s", what)
	}
}
