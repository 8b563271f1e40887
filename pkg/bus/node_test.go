package bus_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) {
	if os.Getenv(childName) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m,
		// zmq4's own sockets, in the tests of facts, do not end their goroutines:
		// PUB never, PULL if something is left to be received.
		goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"),
		goleak.IgnoreTopFunction("github.com/go-zeromq/zmq4.(*qreader).listen"))
}

// runDir is a run directory whose path is short enough for a socket.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newNode(t testing.TB, o bus.Options) *bus.Node {
	t.Helper()
	n, err := bus.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close %s: %v", o.Name, err)
		}
	})
	return n
}

// nodes is a cluster of real nodes in one run directory.
type nodes struct {
	t     *testing.T
	dir   string
	queue int
	live  map[string]*bus.Node
}

func (c *nodes) Node(name string) bus.Bus {
	c.Kill(name)
	n := newNode(c.t, bus.Options{Name: name, Dir: c.dir, QueueBytes: c.queue, GiveUp: 5 * time.Second})
	c.live[name] = n
	return n
}

func (c *nodes) Kill(name string) {
	if n := c.live[name]; n != nil {
		if err := n.Close(); err != nil {
			c.t.Errorf("close %s: %v", name, err)
		}
	}
}

func TestConformance(t *testing.T) {
	bustest.Conformance(t, func(t *testing.T, queueBytes int) bustest.Cluster {
		return &nodes{t: t, dir: runDir(t), queue: queueBytes, live: make(map[string]*bus.Node)}
	})
}

func TestOptionsThatCannotWork(t *testing.T) {
	dir := runDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		o    bus.Options
		want string
	}{
		"no name":       {bus.Options{Dir: dir}, `name ""`},
		"no number":     {bus.Options{Name: "proxy", Dir: dir}, `name "proxy"`},
		"no directory":  {bus.Options{Name: "proxy.0"}, "without a run directory"},
		"no pub":        {bus.Options{Name: "proxy.0", ListenInbox: "tcp://127.0.0.1:0"}, "without a run directory"},
		"a file":        {bus.Options{Name: "proxy.0", Dir: file}, "run directory"},
		"bad spec":      {bus.Options{Name: "proxy.0", Dir: dir, ListenInbox: "udp://x"}, "unknown transport"},
		"bad peer name": {bus.Options{Name: "proxy.0", Dir: dir, Peers: []bus.PeerSpec{{Name: "x"}}}, `peer name "x"`},
		"bad peer spec": {bus.Options{Name: "proxy.0", Dir: dir, Peers: []bus.PeerSpec{{Name: "x.0"}}}, "peer x.0"},
		"long path":     {bus.Options{Name: "proxy.0", Dir: dir, Prefix: strings.Repeat("x", 100)}, "shorter run directory"},
	} {
		n, err := bus.New(test.o)
		if err == nil {
			_ = n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, test.want)
		}
	}
	// None of them has kept the name or a socket.
	newNode(t, bus.Options{Name: "proxy.0", Dir: dir})
}

func TestOnlyInstancesOfThePrefixArePeers(t *testing.T) {
	dir := runDir(t)
	for _, name := range []string{"x-file.0.in", "x-handler.0.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var r bustest.Recorder
	bustest.Start(t, newNode(t, bus.Options{Name: "proxy.0", Dir: dir, Prefix: "x-"}), &r)
	for _, o := range []bus.Options{
		{Name: "other.0", Dir: dir, Prefix: "y-"},
		{Name: "other.1", Dir: dir},
		{Name: "handler.0", Dir: dir, Prefix: "x-", FileMode: 0o660},
	} {
		bustest.Start(t, newNode(t, o), new(bustest.Recorder))
	}
	r.WaitUp(t, "handler.0")
	for _, e := range r.Events() {
		if e.Peer.Name != "handler.0" {
			t.Errorf("got %v", e)
		}
	}
	fi, err := os.Stat(filepath.Join(dir, "x-handler.0.in"))
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("mode of the socket is %v, %v; want 0660", fi.Mode(), err)
	}
}

func TestFrameTooLarge(t *testing.T) {
	dir := runDir(t)
	var ra, rb bustest.Recorder
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir, MaxMessage: 1 << 20})
	b := newNode(t, bus.Options{Name: "handler.0", Dir: dir, MaxMessage: 1 << 20})
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	ra.WaitUp(t, "handler.0")
	if err := a.Send("handler.0", make([]byte, 1<<20)); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	// The largest that is allowed does arrive.
	if err := a.Send("handler.0", make([]byte, 1<<20-1<<10)); err != nil {
		t.Fatal(err)
	}
	if got := rb.WaitFrames(t, "proxy.0", 1); len(got[0]) != 1<<20-1<<10 {
		t.Errorf("%d bytes arrived", len(got[0]))
	}
}

// What is not of this protocol closes its connection, and nothing else.
func TestStrangersAtTheInbox(t *testing.T) {
	dir := runDir(t)
	reg := prometheus.NewRegistry()
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir, Registerer: reg})
	b := newNode(t, bus.Options{Name: "handler.0", Dir: dir})
	var ra, rb bustest.Recorder
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	rb.WaitUp(t, "proxy.0")
	inbox, _ := a.Endpoints()
	for _, junk := range []string{"\x00\x03abc", "\x01\x01a\x00\x01b", "\x00\x00", "\x00\x01\xdd"} {
		wantClosed(t, stranger(t, inbox, greeting(), ready("Socket-Type", "PUSH"), []byte(junk)))
	}
	if n := metric(t, reg, "holdfast_bus_malformed_total"); n != 4 {
		t.Errorf("%v counted as malformed, want 4", n)
	}
	if err := b.Send("proxy.0", []byte("x")); err != nil {
		t.Fatal(err)
	}
	ra.WaitFrames(t, "handler.0", 1)
}

func TestMetrics(t *testing.T) {
	dir := runDir(t)
	reg := prometheus.NewRegistry()
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir, Registerer: reg})
	b := newNode(t, bus.Options{Name: "handler.0", Dir: dir})
	var ra bustest.Recorder
	rb := echo{bus: b}
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	ra.WaitUp(t, "handler.0")
	for range 10 {
		if err := a.Send("handler.0", []byte("12345")); err != nil {
			t.Fatal(err)
		}
	}
	ra.WaitFrames(t, "handler.0", 10)
	for name, want := range map[string]float64{
		"holdfast_bus_frames_total": 20, "holdfast_bus_bytes_total": 100, "holdfast_bus_peers_up": 1,
		"holdfast_bus_queue_frames": 0, "holdfast_bus_frames_repeated_total": 0,
	} {
		poll.Until(t, name, func() bool { return metric(t, reg, name) == want })
	}
}

// hoarder keeps one frame in a hundred.
type hoarder struct {
	bustest.Recorder
	n    int
	kept [][]byte
	want int
	done chan struct{}
}

func (h *hoarder) Receive(_ bus.Peer, b []byte) {
	if h.n++; h.n%100 == 0 {
		h.kept = append(h.kept, b)
	}
	if h.n == h.want {
		close(h.done)
	}
}

// A receiver that keeps a small frame must not keep with it the message in which
// it came: held connections keep frames for hours.
func TestKeptFrameDoesNotKeepItsMessage(t *testing.T) {
	dir := runDir(t)
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir})
	h := hoarder{want: 300_000, done: make(chan struct{})}
	bustest.Start(t, a, new(bustest.Recorder))
	bustest.Start(t, newNode(t, bus.Options{Name: "handler.0", Dir: dir}), &h)
	body := make([]byte, 100)
	before := heap()
	for range h.want {
		poll.Until(t, "room in the queue", func() bool { return a.Send("handler.0", body) == nil })
	}
	select {
	case <-h.done:
	case <-time.After(poll.Patience):
		t.Fatal("frames are missing")
	}
	// 3,000 frames of 100 bytes are kept; the messages had 30 MB together.
	poll.Until(t, "the messages to be freed", func() bool { return heap() < before+10<<20 })
	runtime.KeepAlive(h.kept)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
