package bus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/go-zeromq/zmq4/security/null"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/test/poll"
)

// What was measured of go-zeromq/zmq4 v0.17.0 and why this package has sockets
// of its own (docs/adr/0002-socket-patterns.md). Each test shows the fact, in
// "zmq4", and what we make of it, in "bus". When an update of zmq4 makes a fact
// untrue, its test fails, and something here may become simpler.

// zsock makes a zmq4 socket that is closed with the test.
func zsock(t *testing.T, s zmq4.Socket) zmq4.Socket {
	t.Helper()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func zctx(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// greeting opens ZMTP 3.0 with the NULL mechanism.
func greeting() []byte {
	b := make([]byte, 64)
	b[0], b[9], b[10] = 0xff, 0x7f, 3
	copy(b[12:], "NULL")
	return b
}

// ready is the READY command with one property.
func ready(name, value string) []byte {
	body := append([]byte{5}, "READY"...)
	body = append(append(body, byte(len(name))), name...)
	body = append(binary.BigEndian.AppendUint32(body, uint32(len(value))), value...)
	return append([]byte{0x04, byte(len(body))}, body...)
}

// stranger connects to a socket of ours and sends what it likes.
func stranger(t *testing.T, spec string, bytes ...[]byte) net.Conn {
	t.Helper()
	network, addr := "tcp", strings.TrimPrefix(spec, "tcp://")
	if rest, ok := strings.CutPrefix(spec, "ipc://"); ok {
		network, addr = "unix", rest
	}
	c, err := net.Dial(network, addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	for _, b := range bytes {
		// It may be cut off while it still talks.
		_, _ = c.Write(b)
	}
	return c
}

// wantClosed waits until the other end closes the connection.
func wantClosed(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(poll.Patience)))
	_, err := io.Copy(io.Discard, c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Fatal("the connection was not closed")
	}
}

func TestFactPushCopiesToAllPeers(t *testing.T) {
	const n = 100
	t.Run("zmq4", func(t *testing.T) {
		ctx := zctx(t)
		push := zsock(t, zmq4.NewPush(ctx))
		for range 2 {
			pull := zsock(t, zmq4.NewPull(ctx))
			must(t, pull.Listen("ipc://"+runDir(t)+"/s"))
			must(t, push.Dial("ipc://"+pull.Addr().String()))
			defer func() {
				for range n { // each got all
					if _, err := pull.Recv(); err != nil {
						t.Fatal(err)
					}
				}
			}()
		}
		for range n {
			must(t, push.Send(zmq4.NewMsgString("x")))
		}
	})
	t.Run("bus", func(t *testing.T) {
		var specs []string
		got := make(chan string, 3*n)
		for range 2 {
			pull := closing[*bus.Pull](t)(bus.NewPull(bound("ipc://" + runDir(t) + "/s")))
			specs = append(specs, pull.Endpoints()...)
			go func() {
				for {
					parts, err := pull.Recv(context.Background())
					if err != nil {
						return // closed with the test
					}
					got <- string(parts[0])
				}
			}()
		}
		push := closing[*bus.Push](t)(bus.NewPush(bus.SocketOptions{Connect: specs}))
		poll.Until(t, "two connections", func() bool { return push.Conns() == 2 })
		for i := range n {
			must(t, push.Send(t.Context(), fmt.Append(nil, i)))
		}
		seen := make(map[string]bool)
		for range n {
			seen[<-got] = true
		}
		if len(seen) != n {
			t.Errorf("%d of %d messages arrived at first, the rest were copies", len(seen), n)
		}
	})
}

func TestFactSilentPeerBlocksAccept(t *testing.T) {
	t.Run("zmq4", func(t *testing.T) {
		ctx := zctx(t)
		pull := zsock(t, zmq4.NewPull(ctx, zmq4.WithLogger(log.New(io.Discard, "", 0))))
		must(t, pull.Listen("tcp://127.0.0.1:0"))
		spec := "tcp://" + pull.Addr().String()
		silent := stranger(t, spec)
		push := zsock(t, zmq4.NewPush(ctx))
		dialled := make(chan error, 1)
		go func() { dialled <- push.Dial(spec) }()
		select {
		case err := <-dialled:
			t.Errorf("zmq4 served the second peer: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		_ = silent.Close()
		<-dialled
	})
	t.Run("bus", func(t *testing.T) {
		reg := prometheus.NewRegistry()
		o := bound("tcp://127.0.0.1:*")
		o.Limits.Handshake, o.Registerer = time.Second, reg
		pull := closing[*bus.Pull](t)(bus.NewPull(o))
		silent := stranger(t, pull.Endpoints()[0])
		push := closing[*bus.Push](t)(bus.NewPush(connected(pull.Endpoints()[0])))
		must(t, push.Send(t.Context(), []byte("x")))
		wantMessage(t, pull, "x")
		wantClosed(t, silent)
		poll.Until(t, "the count", func() bool { // the other one may have been too slow at first
			return metric(t, reg, "holdfast_socket_connections_refused_total") >= 1
		})
	})
}

// allocated returns how many bytes f makes the process allocate.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// header announces a frame of n bytes.
func header(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{0x02}, n) }

func TestFactAnnouncedSizeIsAllocated(t *testing.T) {
	t.Run("zmq4", func(t *testing.T) {
		const announced = 256 << 20 // with 1 << 40 the process dies: out of memory
		in, out := net.Pipe()
		go func() {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			for _, b := range [][]byte{greeting(), ready("Socket-Type", "PUSH"), header(announced)} {
				_, _ = out.Write(b)
			}
			_ = out.Close()
		}()
		c, err := zmq4.Open(in, null.Security(), zmq4.Pull, nil, true, nil)
		must(t, err)
		if n := allocated(func() { _, _ = c.RecvMsg() }); n < announced {
			t.Errorf("zmq4 allocated %d bytes", n)
		}
		_ = c.Close()
	})
	t.Run("bus", func(t *testing.T) {
		pull := closing[*bus.Pull](t)(bus.NewPull(bound("tcp://127.0.0.1:*")))
		for _, size := range []uint64{1<<20 + 1, 1 << 30, 1 << 40, 1 << 63, 1<<64 - 1} {
			n := allocated(func() {
				wantClosed(t, stranger(t, pull.Endpoints()[0], greeting(), ready("Socket-Type", "PUSH"), header(size)))
			})
			if n > 1<<20 {
				t.Errorf("%d bytes announced, %d allocated", size, n)
			}
		}
		// The same in many parts, each of them allowed.
		part := append([]byte{0x03}, binary.BigEndian.AppendUint64(nil, 512<<10)...)
		part = append(part, make([]byte, 512<<10)...)
		wantClosed(t, stranger(t, pull.Endpoints()[0], greeting(), ready("Socket-Type", "PUSH"), part, part, part))
		wantClosed(t, stranger(t, pull.Endpoints()[0], greeting(), ready("Socket-Type", "PUSH"),
			bytes.Repeat([]byte{0x01, 0}, 100_000))) // parts without bytes
		// Others are served as if nothing were.
		push := closing[*bus.Push](t)(bus.NewPush(connected(pull.Endpoints()[0])))
		must(t, push.Send(t.Context(), []byte("x")))
		wantMessage(t, pull, "x")
	})
	t.Run("bus inbox", func(t *testing.T) {
		dir := runDir(t)
		n := newNode(t, bus.Options{Name: "proxy.0", Dir: dir})
		bustest.Start(t, n, new(bustest.Recorder))
		inbox, _ := n.Endpoints()
		got := allocated(func() {
			wantClosed(t, stranger(t, inbox, greeting(), ready("Socket-Type", "PUSH"), header(1<<40)))
		})
		if got > 1<<20 {
			t.Errorf("%d bytes allocated", got)
		}
	})
}

// Not in the table of the first measurements: the worst of all, since it ends the
// process, from a goroutine in which nobody can recover.
func TestFactGarbageInHandshakePanics(t *testing.T) {
	garbage := map[string][]byte{
		"property name longer than the command": {0x04, 8, 5, 'R', 'E', 'A', 'D', 'Y', 2, 'x'},
		"property cut off in its length":        {0x04, 9, 5, 'R', 'E', 'A', 'D', 'Y', 1, 'x', 0},
		"unknown socket type":                   ready("Socket-Type", "FRIEND"),
		"no socket type":                        ready("Identity", "x"),
	}
	for name, cmd := range garbage {
		t.Run("zmq4 "+name, func(t *testing.T) {
			in, out := net.Pipe()
			defer func() { _ = in.Close() }()
			go func() {
				go func() { _, _ = io.Copy(io.Discard, out) }()
				_, _ = out.Write(greeting())
				_, _ = out.Write(cmd)
				_ = out.Close()
			}()
			defer func() {
				if recover() == nil {
					t.Error("zmq4 did not panic")
				}
			}()
			_, _ = zmq4.Open(in, null.Security(), zmq4.Pull, nil, true, nil)
		})
	}
	t.Run("bus", func(t *testing.T) {
		pull := closing[*bus.Pull](t)(bus.NewPull(bound("tcp://127.0.0.1:*")))
		for _, cmd := range garbage {
			wantClosed(t, stranger(t, pull.Endpoints()[0], greeting(), cmd))
		}
		for _, junk := range []string{
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + strings.Repeat(" ", 64), string(make([]byte, 100)),
			string(greeting()) + "\x00\x01x",                            // message before READY
			string(greeting()) + "\xf0\x01x",                            // reserved flags
			string(greeting()) + string(header(1<<30)),                  // not a command
			string(greeting()) + "\x06\x00\x00\x00\x00\x40\x00\x00\x00", // a command of 1 GiB
			string(greeting()) + string(ready("Socket-Type", "SUB")),    // does not go with PULL
		} {
			wantClosed(t, stranger(t, pull.Endpoints()[0], []byte(junk)))
		}
		push := closing[*bus.Push](t)(bus.NewPush(connected(pull.Endpoints()[0])))
		must(t, push.Send(t.Context(), []byte("x")))
		wantMessage(t, pull, "x")
	})
}

func TestFactPubDropsInSilence(t *testing.T) {
	t.Run("zmq4", func(t *testing.T) {
		// Without OptionHWM its queue has no bound at all; with it, what is over
		// the mark is gone, and Send returns nil.
		ctx := zctx(t)
		pub, sub := zsock(t, zmq4.NewPub(ctx)), zsock(t, zmq4.NewSub(ctx))
		must(t, pub.SetOption(zmq4.OptionHWM, 1000))
		must(t, pub.Listen("ipc://"+runDir(t)+"/s"))
		must(t, sub.Dial("ipc://"+pub.Addr().String()))
		must(t, sub.SetOption(zmq4.OptionSubscribe, ""))
		topics := pub.(zmq4.Topics)
		poll.Until(t, "the subscription", func() bool { return len(topics.Topics()) > 0 })
		const n = 30_000
		body := bytes.Repeat([]byte("x"), 1000)
		for range n { // more than the kernel's buffers hold, and nobody reads
			must(t, pub.Send(zmq4.NewMsg(body)))
		}
		got := make(chan int)
		go func() {
			i := 0
			for ; ; i++ {
				if m, err := sub.Recv(); err != nil || string(m.Frames[0]) == "end" {
					break
				}
			}
			got <- i
		}()
		for {
			must(t, pub.Send(zmq4.NewMsgString("end")))
			select {
			case i := <-got:
				if i == n {
					t.Error("zmq4 lost nothing")
				}
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	t.Run("bus", func(t *testing.T) {
		reg := prometheus.NewRegistry()
		o := bound("ipc://" + runDir(t) + "/s")
		o.Registerer, o.Limits.SendBytes = reg, 1<<20
		pub := closing[*bus.Pub](t)(bus.NewPub(o))
		sub := closing[*bus.Sub](t)(bus.NewSub(connected(pub.Endpoints()[0])))
		sub.Subscribe("")
		poll.Until(t, "the subscription", func() bool {
			must(t, pub.Send([]byte("first")))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			_, err := sub.Recv(ctx)
			return err == nil
		})
		const n = 30_000
		body := bytes.Repeat([]byte("x"), 1000)
		for range n {
			must(t, pub.Send(body))
		}
		got := 0
		poll.Until(t, "as many as were not counted as dropped", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			for {
				m, err := sub.Recv(ctx)
				if err != nil {
					break
				}
				if len(m[0]) == len(body) {
					got++
				}
			}
			return got+int(metric(t, reg, "holdfast_socket_messages_dropped_total")) == n
		})
		if got == n {
			t.Error("nothing was dropped: the test proves nothing")
		}
	})
}

// A gap in the broadcasts of a node is seen and counted.
func TestLostBroadcastsAreCounted(t *testing.T) {
	dir := runDir(t)
	reg := prometheus.NewRegistry()
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir})
	b := newNode(t, bus.Options{Name: "handler.0", Dir: dir, Registerer: reg})
	g := blocker{open: make(chan struct{})}
	var ra bustest.Recorder
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &g)
	g.WaitUp(t, "proxy.0")
	ra.WaitUp(t, "handler.0")
	poll.Until(t, "the first broadcast", func() bool {
		a.Publish("t", nil)
		return g.seen()
	})
	body := make([]byte, 64<<10)
	for range 3000 { // 190 MB; the receiver is stuck in the first
		a.Publish("t", body)
	}
	close(g.open)
	poll.Until(t, "the count of the lost", func() bool {
		a.Publish("t", nil)
		return metric(t, reg, "holdfast_bus_broadcasts_lost_total") > 0
	})
}

type blocker struct {
	bustest.Recorder
	open chan struct{}
	mu   sync.Mutex
	n    int
}

func (g *blocker) seen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n > 0
}

func (g *blocker) Broadcast(bus.Peer, string, []byte) {
	g.mu.Lock()
	g.n++
	g.mu.Unlock()
	<-g.open
}

func TestFactSendAfterLastPeerIsLost(t *testing.T) {
	t.Run("zmq4", func(t *testing.T) {
		ctx := zctx(t)
		pull, push := zsock(t, zmq4.NewPull(ctx)), zsock(t, zmq4.NewPush(ctx))
		must(t, pull.Listen("tcp://127.0.0.1:0"))
		must(t, push.Dial("tcp://"+pull.Addr().String()))
		must(t, push.SendMulti(zmq4.NewMsgString("1")))
		if _, err := pull.Recv(); err != nil {
			t.Fatal(err)
		}
		must(t, pull.Close())
		if err := push.SendMulti(zmq4.NewMsgString("2")); err != nil {
			t.Errorf("zmq4 noticed: %v", err)
		}
		// The next one fails, so it is not that the connection still stood.
		poll.Until(t, "an error", func() bool { return push.SendMulti(zmq4.NewMsgString("3")) != nil })
	})
	// "bus" is TestBrokenConnectionsLoseAndRepeatNothing.
}

func TestFactRecvEndsWithOnePeer(t *testing.T) {
	t.Run("zmq4", func(t *testing.T) {
		ctx := zctx(t)
		pull, push := zsock(t, zmq4.NewPull(ctx)), zsock(t, zmq4.NewPush(ctx))
		must(t, pull.Listen("ipc://"+runDir(t)+"/s"))
		must(t, push.Dial("ipc://"+pull.Addr().String()))
		must(t, push.Close())
		if _, err := pull.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF", err)
		}
	})
	t.Run("bus", func(t *testing.T) {
		pull := closing[*bus.Pull](t)(bus.NewPull(bound("ipc://" + runDir(t) + "/s")))
		for _, m := range []string{"1", "2"} {
			push, err := bus.NewPush(connected(pull.Endpoints()[0]))
			must(t, err)
			must(t, push.Send(t.Context(), []byte(m)))
			must(t, push.Flush(t.Context()))
			must(t, push.Close())
			poll.Until(t, "the peer's end", func() bool { return pull.Conns() == 0 })
			wantMessage(t, pull, m)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := pull.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with no peer left, Recv = %v, want to wait", err)
		}
	})
}

func TestFactSubDoesNotComeBack(t *testing.T) {
	t.Run("zmq4", func(t *testing.T) {
		ctx := zctx(t)
		spec := "ipc://" + runDir(t) + "/s"
		pub, sub := zmq4.NewPub(ctx), zsock(t, zmq4.NewSub(ctx))
		must(t, pub.Listen(spec))
		must(t, sub.Dial(spec))
		must(t, sub.SetOption(zmq4.OptionSubscribe, ""))
		_ = pub.Close()
		again := zsock(t, zmq4.NewPub(ctx))
		must(t, again.Listen(spec))
		topics := again.(zmq4.Topics)
		if poll.For(300*time.Millisecond, func() bool { return len(topics.Topics()) != 0 }) {
			t.Fatalf("zmq4 came back, with the topics %q", topics.Topics())
		}
	})
	t.Run("bus", func(t *testing.T) {
		spec := "ipc://" + runDir(t) + "/s"
		sub := closing[*bus.Sub](t)(bus.NewSub(connected(spec)))
		sub.Subscribe("")
		for _, m := range []string{"1", "2"} {
			pub, err := bus.NewPub(bound(spec))
			must(t, err)
			poll.Until(t, "the message", func() bool {
				must(t, pub.Send([]byte(m)))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				defer cancel()
				got, err := sub.Recv(ctx)
				return err == nil && string(got[0]) == m
			})
			must(t, pub.Close())
		}
	})
}

func TestFactRouterWaitsForTheSlowest(t *testing.T) {
	// A DEALER that reads nothing, in as few bytes as can be.
	stuck := func(t *testing.T, spec, id string) {
		t.Helper()
		cmd := append([]byte{5}, "READY"...)
		for _, p := range [][2]string{{"Socket-Type", "DEALER"}, {"Identity", id}} {
			cmd = append(append(cmd, byte(len(p[0]))), p[0]...)
			cmd = append(binary.BigEndian.AppendUint32(cmd, uint32(len(p[1]))), p[1]...)
		}
		stranger(t, spec, greeting(), append([]byte{0x04, byte(len(cmd))}, cmd...), []byte("\x00\x02hi"))
	}
	body := make([]byte, 1<<20)
	t.Run("zmq4", func(t *testing.T) {
		ctx := zctx(t)
		router, good := zsock(t, zmq4.NewRouter(ctx)), zsock(t, zmq4.NewDealer(ctx, zmq4.WithID(zmq4.SocketIdentity("good"))))
		must(t, router.Listen("tcp://127.0.0.1:0"))
		spec := "tcp://" + router.Addr().String()
		stuck(t, spec, "stuck")
		must(t, good.Dial(spec))
		must(t, good.Send(zmq4.NewMsgString("hi")))
		for range 2 {
			if _, err := router.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 64 {
				if router.Send(zmq4.NewMsgFrom([]byte("stuck"), body)) != nil {
					return
				}
			}
			_ = router.Send(zmq4.NewMsgFrom([]byte("good"), []byte("x")))
		}()
		select {
		case <-done:
			t.Error("zmq4 sent past the peer that does not read")
		case <-time.After(500 * time.Millisecond):
		}
		_ = router.Close()
		<-done
	})
	t.Run("bus", func(t *testing.T) {
		router := closing[*bus.Router](t)(bus.NewRouter(bound("tcp://127.0.0.1:*")))
		spec := router.Endpoints()[0]
		stuck(t, spec, "stuck")
		o := connected(spec)
		o.Identity = "good"
		good := closing[*bus.Dealer](t)(bus.NewDealer(o))
		must(t, good.Send(t.Context(), []byte("hi")))
		recv(t, router)
		recv(t, router)
		var err error
		for i := 0; i < 64 && err == nil; i++ {
			err = router.Send([]byte("stuck"), body)
		}
		if !errors.Is(err, bus.ErrQueueFull) {
			t.Errorf("to the one that does not read: %v, want ErrQueueFull", err)
		}
		must(t, router.Send([]byte("good"), []byte("x")))
		wantMessage(t, good, "x")
		if err := router.Send([]byte("nobody"), []byte("x")); !errors.Is(err, bus.ErrNoPeer) {
			t.Errorf("to nobody: %v, want ErrNoPeer", err)
		}
	})
}
