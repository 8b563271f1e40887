package bus_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/test/poll"
)

// relay stands between a node and the sockets of another and breaks connections
// in the middle of what they carry.
type relay struct {
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	target string // host and port
	conns  map[net.Conn]bool
	shut   bool // closes what is open and takes no new connections
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{l: l, conns: make(map[net.Conn]bool)}
	r.wg.Go(r.accept)
	t.Cleanup(func() {
		_ = l.Close()
		r.setShut(true)
		r.wg.Wait()
	})
	return r
}

func (r *relay) spec() string { return "tcp://" + r.l.Addr().String() }

// lead makes the relay lead to spec.
func (r *relay) lead(spec string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = strings.TrimPrefix(spec, "tcp://")
}

func (r *relay) setShut(on bool) {
	r.mu.Lock()
	r.shut = on
	r.mu.Unlock()
	if on {
		r.cut()
	}
}

// cut breaks all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
}

func (r *relay) add(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shut {
		_ = c.Close()
		return false
	}
	r.conns[c] = true
	return true
}

func (r *relay) accept() {
	for {
		in, err := r.l.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		target := r.target
		r.mu.Unlock()
		out, err := net.Dial("tcp", target)
		if err != nil {
			_ = in.Close()
			continue
		}
		if !r.add(in) || !r.add(out) {
			_ = in.Close()
			_ = out.Close()
			continue
		}
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			r.wg.Go(func() {
				_, _ = io.Copy(pair[1], pair[0])
				_ = in.Close()
				_ = out.Close()
				r.mu.Lock()
				delete(r.conns, pair[0])
				r.mu.Unlock()
			})
		}
	}
}

// tcpPair makes two nodes without a run directory, each seeing the other's inbox
// through a relay.
func tcpPair(t *testing.T, o bus.Options) (a, b *bus.Node, toA, toB *relay, reg *prometheus.Registry) {
	t.Helper()
	reg = prometheus.NewRegistry()
	toA, toB = newRelay(t), newRelay(t)
	pubA, pubB := newRelay(t), newRelay(t)
	o.ListenInbox, o.ListenPub = "tcp://127.0.0.1:0", "tcp://127.0.0.1:0"
	o.Name, o.Peers = "handler.0", []bus.PeerSpec{{Name: "proxy.0", Inbox: toA.spec(), Pub: pubA.spec()}}
	b = newNode(t, o)
	o.Name, o.Peers = "proxy.0", []bus.PeerSpec{{Name: "handler.0", Inbox: toB.spec(), Pub: pubB.spec()}}
	o.Registerer = reg
	a = newNode(t, o)
	for n, relays := range map[*bus.Node][2]*relay{a: {toA, pubA}, b: {toB, pubB}} {
		inbox, pub := n.Endpoints()
		relays[0].lead(inbox)
		relays[1].lead(pub)
	}
	return a, b, toA, toB, reg
}

func TestBrokenConnectionsLoseAndRepeatNothing(t *testing.T) {
	t.Parallel()
	const atLeast = 100_000
	a, b, toA, toB, reg := tcpPair(t, bus.Options{})
	var ra bustest.Recorder
	rb := echo{bus: b}
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	ra.WaitUp(t, "handler.0")

	stop := make(chan struct{})
	var cutter sync.WaitGroup
	cutter.Go(func() {
		rng := rand.New(rand.NewPCG(1, 2))
		for arrived := -1; ; {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+rng.IntN(30)) * time.Millisecond):
			}
			// The new connections have to bring something first, which may take longer.
			n := ra.Frames("handler.0")
			if n == arrived {
				continue
			}
			arrived = n
			if rng.IntN(2) == 0 {
				toA.cut()
			} else {
				toB.cut()
			}
		}
	})
	resent := func() bool { return metric(t, reg, "holdfast_bus_frames_resent_total") > 0 }
	frames := 0
	for ; frames < atLeast || frames%1000 != 0 || !resent(); frames++ {
		poll.Until(t, "room in the queue", func() bool { return a.Send("handler.0", fmt.Appendf(nil, "%d", frames)) == nil })
	}
	got := ra.WaitFrames(t, "handler.0", frames)
	close(stop)
	cutter.Wait()
	if len(got) != frames {
		t.Errorf("%d frames came back, want %d", len(got), frames)
	}
	for i, f := range got {
		if f != strconv.Itoa(i) {
			t.Fatalf("frame %d is %s", i, f)
		}
	}
	if n := downs(ra.Events()); n != 0 {
		t.Errorf("%d PeerDown, want none", n)
	}
}

// metric returns the sum of all series of a name.
func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// One direction of a link works and the other does not: without an
// acknowledgement for GiveUp the peer is down although its heartbeats arrive.
func TestDeafPeerIsGivenUp(t *testing.T) {
	t.Parallel()
	a, b, _, toB, _ := tcpPair(t, bus.Options{GiveUp: time.Second, Heartbeat: 100 * time.Millisecond})
	var ra, rb bustest.Recorder
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	p := ra.WaitUp(t, "handler.0")
	rb.WaitUp(t, "proxy.0")
	toB.setShut(true)
	if err := a.Send("handler.0", []byte("lost")); err != nil && !errors.Is(err, bus.ErrNoPeer) { // that is soon
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var talker sync.WaitGroup
	talker.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				_ = b.Send("proxy.0", []byte("I am alive"))
			}
		}
	})
	ra.WaitDown(t, p)
	close(stop)
	talker.Wait()
	toB.setShut(false)
	ra.WaitUp(t, "handler.0")
	rb.WaitUp(t, "proxy.0")
	poll.Works(t, "a frame to the one that hears again", func() error { return a.Send("handler.0", []byte("after")) })
	if got := rb.WaitFrames(t, "proxy.0", 1); got[0] != "after" {
		t.Errorf("got %q, want only what was sent after the second PeerUp", got[0])
	}
}

// One side is told where the other is; the other learns it from the hello, host
// included if the first is bound to all interfaces.
func TestPeerThatDialsIsLearned(t *testing.T) {
	t.Parallel()
	b := newNode(t, bus.Options{Name: "handler.0", ListenInbox: "tcp://127.0.0.1:0", ListenPub: "tcp://127.0.0.1:0"})
	inbox, pub := b.Endpoints()
	a := newNode(t, bus.Options{
		Name: "proxy.0", ListenInbox: "tcp://0.0.0.0:0", ListenPub: "tcp://0.0.0.0:0",
		Peers: []bus.PeerSpec{{Name: "handler.0", Inbox: inbox, Pub: pub}},
	})
	var ra, rb bustest.Recorder
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	rb.WaitUp(t, "proxy.0")
	if err := b.Send("proxy.0", []byte("found you")); err != nil {
		t.Fatal(err)
	}
	ra.WaitFrames(t, "handler.0", 1)
	poll.Until(t, "a broadcast of the learned peer", func() bool {
		a.Publish("t", []byte("x"))
		return slices.ContainsFunc(rb.Events(), func(e bustest.Event) bool { return e.Kind == "broadcast" })
	})
}
