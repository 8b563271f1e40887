package bustest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/test/poll"
)

// Cluster is an implementation of the bus under test: it makes instances that
// find each other.
type Cluster interface {
	// Node makes the first or next boot of an instance; it is not yet running.
	Node(name string) bus.Bus
	// Kill ends an instance with no goodbye. Its Run returns.
	Kill(name string)
}

// Conformance checks the contract of bus.Bus and bus.Receiver. newCluster makes
// an empty cluster whose queues between two instances are bounded at queueBytes.
func Conformance(t *testing.T, newCluster func(t *testing.T, queueBytes int) Cluster) {
	const queueBytes = 256 << 10
	for _, test := range []struct {
		name string
		run  func(t *testing.T, c Cluster)
	}{
		{"frames arrive once and in order, both ways", testOrder},
		{"a frame that was kept does not change", testKept},
		{"nobody of that name", testNoPeer},
		{"send from within PeerUp", testSendInPeerUp},
		{"callbacks never overlap", testSerial},
		{"kill and restart", testKill},
		{"orderly stop", testStop},
		{"peers are listed by kind, sorted", testPeers},
		{"who is there and has not said hello is expected", testExpected},
		{"publish reaches everybody", testPublish},
		{"a full queue refuses, and what it took arrives", testQueueFull},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newCluster(t, queueBytes)) })
	}
}

// Start runs b until stop is called or the test ends. stop waits for Run.
func Start(t testing.TB, b bus.Bus, r bus.Receiver) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A node that is killed by its test says so; nothing else may fail.
		if err := b.Run(ctx, r); err != nil && !errors.Is(err, ErrKilled) && !errors.Is(err, bus.ErrClosed) {
			t.Errorf("%s: Run: %v", b.Name(), err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func startPair(t *testing.T, c Cluster, ra, rb bus.Receiver) (a, b bus.Bus) {
	a, b = c.Node("proxy.0"), c.Node("handler.0")
	Start(t, a, ra)
	Start(t, b, rb)
	return a, b
}

func testOrder(t *testing.T, c Cluster) {
	const each, senders = 500, 4
	var ra, rb Recorder
	a, b := startPair(t, c, &ra, &rb)
	if p := ra.WaitUp(t, b.Name()); p.Boot != b.Boot() || p.Boot == 0 {
		t.Errorf("PeerUp with boot %x, want %x", p.Boot, b.Boot())
	}
	rb.WaitUp(t, a.Name())

	var wg sync.WaitGroup
	for _, dir := range []struct {
		from bus.Bus
		to   string
	}{{a, b.Name()}, {b, a.Name()}} {
		for s := range senders {
			wg.Go(func() {
				for i := range each {
					body := fmt.Sprintf("%d:%d:%s", s, i, strings.Repeat("x", i%97))
					if err := dir.from.Send(dir.to, []byte(body)); err != nil {
						t.Errorf("send: %v", err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	check := func(r *Recorder, from string) {
		next := make([]int, senders)
		for _, got := range r.WaitFrames(t, from, each*senders) {
			var s, i int
			if _, err := fmt.Sscanf(got, "%d:%d:", &s, &i); err != nil {
				t.Fatalf("frame %q: %v", got, err)
			}
			if want := fmt.Sprintf("%d:%d:%s", s, next[s], strings.Repeat("x", next[s]%97)); got != want {
				t.Fatalf("from %s got %q, want %q", from, got, want)
			}
			next[s]++
		}
	}
	check(&ra, b.Name())
	check(&rb, a.Name())
	for _, e := range rb.Events() {
		if e.Kind != "frame" {
			if want := (Event{Kind: "up", Peer: bus.Peer{Name: a.Name(), Boot: a.Boot()}}); e != want {
				t.Errorf("got event %v, want only %v", e, want)
			}
		}
	}
}

type keeper struct {
	Recorder
	mu     sync.Mutex
	frames [][]byte
	full   chan struct{}
	want   int
}

func (k *keeper) Receive(_ bus.Peer, b []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.frames = append(k.frames, b); len(k.frames) == k.want {
		close(k.full)
	}
}

func testKept(t *testing.T, c Cluster) {
	k := keeper{full: make(chan struct{}), want: 1000}
	a, b := startPair(t, c, new(Recorder), &k)
	k.WaitUp(t, a.Name())
	body := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 1+i%50) }
	for i := range k.want {
		sendRetry(t, a, b.Name(), body(i))
	}
	wait(t, "all frames", k.full)
	for i, got := range k.frames {
		if !bytes.Equal(got, body(i)) {
			t.Fatalf("frame %d: got %x, want %x", i, got, body(i))
		}
	}
}

// sendRetry sends, waiting as long as the peer is not up or its queue is full.
func sendRetry(t testing.TB, b bus.Bus, to string, body []byte) {
	t.Helper()
	poll.Until(t, "send to "+to, func() bool { return b.Send(to, body) == nil })
}

func wait(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for: %s", what)
	}
}

func testNoPeer(t *testing.T, c Cluster) {
	var ra, rb Recorder
	a, b := startPair(t, c, &ra, &rb)
	ra.WaitUp(t, b.Name())
	for _, name := range []string{"handler.1", "", a.Name()} {
		if err := a.Send(name, []byte("x")); !errors.Is(err, bus.ErrNoPeer) {
			t.Errorf("Send(%q) = %v, want ErrNoPeer", name, err)
		}
	}
}

type greeter struct {
	Recorder
	bus bus.Bus
	err chan error
}

func (g *greeter) PeerUp(p bus.Peer) {
	g.Recorder.PeerUp(p)
	g.err <- g.bus.Send(p.Name, []byte("welcome"))
}

func testSendInPeerUp(t *testing.T, c Cluster) {
	a, b := c.Node("proxy.0"), c.Node("handler.0")
	var ra Recorder
	rb := greeter{bus: b, err: make(chan error, 1)}
	Start(t, a, &ra)
	Start(t, b, &rb)
	ra.WaitFrames(t, b.Name(), 1)
	if err := <-rb.err; err != nil {
		t.Errorf("send from within PeerUp: %v", err)
	}
	want := []Event{
		{Kind: "up", Peer: bus.Peer{Name: b.Name(), Boot: b.Boot()}},
		{Kind: "frame", Peer: bus.Peer{Name: b.Name(), Boot: b.Boot()}, Data: "welcome"},
	}
	if got := ra.Events(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

type serial struct {
	Recorder
	t      *testing.T
	inside atomic.Int32
}

func (s *serial) Receive(p bus.Peer, b []byte) {
	if s.inside.Add(1) != 1 {
		s.t.Error("two callbacks at once")
	}
	s.Recorder.Receive(p, b)
	s.inside.Add(-1)
}

func testSerial(t *testing.T, c Cluster) {
	hub := serial{t: t}
	b := c.Node("handler.0")
	Start(t, b, &hub)
	names := []string{"proxy.0", "proxy.1", "connmgr.0"}
	var wg sync.WaitGroup
	for _, name := range names {
		n := c.Node(name)
		Start(t, n, new(Recorder))
		hub.WaitUp(t, name)
		wg.Go(func() {
			for range 300 {
				sendRetry(t, n, b.Name(), []byte("x"))
			}
		})
	}
	wg.Wait()
	for _, name := range names {
		hub.WaitFrames(t, name, 300)
	}
}

func testKill(t *testing.T, c Cluster) {
	var ra, rb Recorder
	a, b := startPair(t, c, &ra, &rb)
	first := ra.WaitUp(t, b.Name())
	rb.WaitUp(t, a.Name())
	if a.Ended(first) {
		t.Error("Ended says so of an instance that is up")
	}
	c.Kill(b.Name())
	ra.WaitDown(t, first)
	if !a.Ended(first) {
		t.Error("Ended does not know of the dead")
	}
	if err := a.Send(b.Name(), []byte("x")); !errors.Is(err, bus.ErrNoPeer) {
		t.Errorf("send to the dead: %v, want ErrNoPeer", err)
	}
	if p := a.Peers("handler"); len(p) != 0 {
		t.Errorf("Peers lists the dead: %v", p)
	}

	var rb2 Recorder
	b2 := c.Node(b.Name())
	if b2.Boot() == first.Boot {
		t.Error("the second boot has the number of the first")
	}
	Start(t, b2, &rb2)
	ra.Wait(t, "PeerUp of the second boot", func(events []Event) bool {
		return slices.Contains(events, Event{Kind: "up", Peer: bus.Peer{Name: b.Name(), Boot: b2.Boot()}})
	})
	if !a.Ended(first) || a.Ended(bus.Peer{Name: b.Name(), Boot: b2.Boot()}) {
		t.Error("Ended takes one boot for the other")
	}
	sendRetry(t, a, b.Name(), []byte("to the second"))
	if got := rb2.WaitFrames(t, a.Name(), 1); got[0] != "to the second" {
		t.Errorf("the second boot got %q", got)
	}
	sendRetry(t, b2, a.Name(), []byte("from the second"))
	ra.WaitFrames(t, b.Name(), 1)
}

func testStop(t *testing.T, c Cluster) {
	a, b := c.Node("proxy.0"), c.Node("handler.0")
	var ra, rb Recorder
	Start(t, a, &ra)
	stop := Start(t, b, &rb)
	p := ra.WaitUp(t, b.Name())
	rb.WaitUp(t, a.Name())
	if err := b.Send(a.Name(), []byte("last words")); err != nil {
		t.Fatal(err)
	}
	stop()
	ra.WaitDown(t, p)
	if !a.Ended(p) {
		t.Error("Ended does not know of an instance that has stopped")
	}
	if got := ra.WaitFrames(t, b.Name(), 1); got[0] != "last words" {
		t.Errorf("got %q, want the last words", got)
	}
	if err := b.Send(a.Name(), nil); !errors.Is(err, bus.ErrNoPeer) {
		t.Errorf("send after Run has returned: %v, want ErrNoPeer", err)
	}
	b.Publish("t", nil)
}

func testPeers(t *testing.T, c Cluster) {
	var r Recorder
	b := c.Node("handler.0")
	Start(t, b, &r)
	var want []bus.Peer
	for _, name := range []string{"proxy.1", "proxy.0", "connmgr.0"} {
		n := c.Node(name)
		Start(t, n, new(Recorder))
		r.WaitUp(t, name)
		if n := (bus.Peer{Name: name, Boot: n.Boot()}); n.Kind() == "proxy" {
			want = append([]bus.Peer{n}, want...)
		}
	}
	if got := b.Peers("proxy"); !slices.Equal(got, want) {
		t.Errorf("Peers(proxy) = %v, want %v", got, want)
	}
	if got := b.Peers("handler"); len(got) != 0 {
		t.Errorf("Peers(handler) = %v, want none", got)
	}
}

func testExpected(t *testing.T, c Cluster) {
	names := []string{"connmgr.0", "connmgr.1", "connmgr.2"}
	nodes := map[string]bus.Bus{}
	for _, name := range append([]string{"proxy.0"}, names...) {
		nodes[name] = c.Node(name)
	}
	var r Recorder
	b := c.Node("handler.0")
	Start(t, b, &r)
	expect := func(want ...string) {
		t.Helper()
		poll.Until(t, fmt.Sprint("expected are ", want), func() bool { return slices.Equal(b.Expected("connmgr"), want) })
	}
	expect(names...)
	Start(t, nodes["connmgr.1"], new(Recorder))
	expect("connmgr.0", "connmgr.2")
	r.WaitUp(t, "connmgr.1")
	c.Kill("connmgr.0")
	expect("connmgr.2")
	Start(t, nodes["connmgr.2"], new(Recorder))
	expect()
}

func testPublish(t *testing.T, c Cluster) {
	var ra, rb, rc Recorder
	a, b, d := c.Node("proxy.0"), c.Node("handler.0"), c.Node("connmgr.0")
	Start(t, a, &ra)
	Start(t, b, &rb)
	Start(t, d, &rc)
	rb.WaitUp(t, a.Name())
	rc.WaitUp(t, a.Name())
	want := Event{Kind: "broadcast", Peer: bus.Peer{Name: a.Name(), Boot: a.Boot()}, Topic: "routes", Data: "v2"}
	// What is published may be lost, so it is repeated.
	poll.Until(t, "the broadcast at both", func() bool {
		a.Publish("routes", []byte("v2"))
		return slices.Contains(rb.Events(), want) && slices.Contains(rc.Events(), want)
	})
	if slices.ContainsFunc(ra.Events(), func(e Event) bool { return e.Kind == "broadcast" }) {
		t.Error("an instance got its own broadcast")
	}
}

type gate struct {
	Recorder
	open chan struct{}
}

func (g *gate) Receive(p bus.Peer, b []byte) {
	<-g.open
	g.Recorder.Receive(p, b)
}

func testQueueFull(t *testing.T, c Cluster) {
	g := gate{open: make(chan struct{})}
	var ra Recorder
	a, b := startPair(t, c, &ra, &g)
	ra.WaitUp(t, b.Name())
	const limit = 1 << 20 // frames; far more than any queue may take
	sent := 0
	body := bytes.Repeat([]byte("x"), 1000)
	for ; sent < limit; sent++ {
		err := a.Send(b.Name(), body)
		if errors.Is(err, bus.ErrQueueFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if sent == limit || sent == 0 {
		t.Fatalf("%d frames were taken", sent)
	}
	close(g.open)
	sendRetry(t, a, b.Name(), []byte("end"))
	got := g.WaitFrames(t, a.Name(), sent+1)
	if len(got) != sent+1 || got[sent] != "end" {
		t.Errorf("got %d frames, the last %q; want %d and end", len(got), got[len(got)-1], sent+1)
	}
}
