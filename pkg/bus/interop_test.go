package bus_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
)

// These tests talk to libzmq by way of pyzmq, in both directions.

// script is a Python program that speaks ZeroMQ.
type script struct {
	t     *testing.T
	lines chan string // what it prints; closed at its end
}

// py runs a Python program. `sock(kind)` makes a socket whose receive times out,
// `say(text)` prints a line.
func py(t *testing.T, program string, args ...string) *script {
	t.Helper()
	python := need.PyZMQ(t)
	const prelude = `
import sys, zmq
ctx = zmq.Context()
arg = sys.argv[1:]
def sock(kind):
    s = ctx.socket(kind)
    s.RCVTIMEO = 15000
    s.LINGER = 5000
    return s
def say(x): print(x, flush=True)
`
	// Without that, the end of the interpreter may overtake what it has sent.
	const finish = "\nctx.destroy(linger=60000)\n"
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, python, append([]string{"-c", prelude + program + finish}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, lines: make(chan string, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(s.lines)
		scan := bufio.NewScanner(out)
		for scan.Scan() {
			s.lines <- scan.Text()
		}
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Errorf("python: %v\n%s", err, &stderr)
		}
	})
	t.Cleanup(func() {
		wg.Wait()
		cancel()
	})
	return s
}

// want reads a line for each element.
func (s *script) want(lines ...string) {
	s.t.Helper()
	for _, want := range lines {
		select {
		case got, ok := <-s.lines:
			if !ok || got != want {
				s.t.Fatalf("python said %q (%v), want %q", got, ok, want)
			}
		case <-time.After(2 * time.Minute):
			s.t.Fatalf("python says nothing, want %q", want)
		}
	}
}

type receiver interface {
	Recv(ctx context.Context) ([][]byte, error)
}

func recv(t testing.TB, s receiver) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	parts, err := s.Recv(ctx)
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	var out []string
	for _, p := range parts {
		out = append(out, string(p))
	}
	return out
}

func wantMessage(t testing.TB, s receiver, want ...string) {
	t.Helper()
	if got := recv(t, s); !slices.Equal(got, want) {
		t.Fatalf("got %.200q, want %.200q", got, want)
	}
}

// closing makes the socket end with the test.
func closing[S interface{ Close() error }](t testing.TB) func(S, error) S {
	return func(s S, err error) S {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return s
	}
}

func bound(spec string) bus.SocketOptions { return bus.SocketOptions{Bind: []string{spec}} }

func connected(spec string) bus.SocketOptions { return bus.SocketOptions{Connect: []string{spec}} }

func TestInteropPull(t *testing.T) {
	for _, spec := range []string{"tcp://127.0.0.1:*", "ipc://" + runDir(t) + "/pull"} {
		pull := closing[*bus.Pull](t)(bus.NewPull(bound(spec)))
		p := py(t, `
s = sock(zmq.PUSH); s.connect(arg[0])
for n in (0, 1, 255, 256, 70000, 1 << 20): s.send(b'x' * n)
s.send_multipart([b'a', b'', b'c'])
`, pull.Endpoints()[0])
		for _, n := range []int{0, 1, 255, 256, 70000, 1 << 20} {
			wantMessage(t, pull, strings.Repeat("x", n))
		}
		wantMessage(t, pull, "a", "", "c")
		p.want()
	}
}

// libzmq pings while it has nothing to say. It has time for the answers, so that a
// slow machine does not make it lose a message.
func TestInteropPullWithHeartbeats(t *testing.T) {
	pull := closing[*bus.Pull](t)(bus.NewPull(bound("tcp://127.0.0.1:*")))
	py(t, `
import time
s = sock(zmq.PUSH); s.HEARTBEAT_IVL = 50; s.HEARTBEAT_TIMEOUT = 60000; s.connect(arg[0])
s.send(b'1'); time.sleep(0.5); s.send(b'2')
`, pull.Endpoints()[0])
	wantMessage(t, pull, "1")
	wantMessage(t, pull, "2")
}

func TestInteropPush(t *testing.T) {
	spec := "ipc://" + runDir(t) + "/push"
	push := closing[*bus.Push](t)(bus.NewPush(connected(spec)))
	p := py(t, `
s = sock(zmq.PULL); s.bind(arg[0])
for i in range(1000): assert s.recv_multipart() == [b'%d' % i, b'y' * i], i
say('all')
`, spec)
	for i := range 1000 {
		if err := push.Send(t.Context(), []byte(strconv.Itoa(i)), bytes.Repeat([]byte("y"), i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := push.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.want("all")
}

func TestInteropSubTellsPublishersItsTopics(t *testing.T) {
	sub := closing[*bus.Sub](t)(bus.NewSub(bound("tcp://127.0.0.1:*")))
	sub.Subscribe("early")
	sub.Subscribe("early") // changes nothing
	p := py(t, `
s = sock(zmq.XPUB); s.connect(arg[0])
def told(): say(repr(s.recv()))
told()
s.send_multipart([b'early', b'item'])
s.send_multipart([b'nobody', b'item'])
s.send_multipart([b'early-bird', b'prefix'])
told()
s.send_multipart([b'late', b'item'])
told()
s.send_multipart([b'early', b'gone'])
s.send_multipart([b'late', b'end'])
`, sub.Endpoints()[0])
	p.want(`b'\x01early'`)
	wantMessage(t, sub, "early", "item")
	wantMessage(t, sub, "early-bird", "prefix")
	sub.Subscribe("late")
	p.want(`b'\x01late'`)
	wantMessage(t, sub, "late", "item")
	sub.Unsubscribe("never")
	sub.Unsubscribe("early")
	p.want(`b'\x00early'`)
	wantMessage(t, sub, "late", "end")

	// One that connects later is told what is wanted by then.
	py(t, `
s = sock(zmq.XPUB); s.connect(arg[0])
say(repr(s.recv()))
`, sub.Endpoints()[0]).want(`b'\x01late'`)
}

func TestInteropSubComesBackToItsPublisher(t *testing.T) {
	spec := "ipc://" + runDir(t) + "/xpub"
	sub := closing[*bus.Sub](t)(bus.NewSub(connected(spec)))
	sub.Subscribe("t")
	for _, item := range []string{"first", "second"} {
		py(t, `
s = sock(zmq.XPUB); s.bind(arg[0])
assert s.recv() == b'\x01t'
s.send_multipart([b't', arg[1].encode()])
`, spec, item)
		wantMessage(t, sub, "t", item)
	}
}

func TestInteropPub(t *testing.T) {
	pub := closing[*bus.Pub](t)(bus.NewPub(bound("ipc://" + runDir(t) + "/stats")))
	p := py(t, `
s = sock(zmq.SUB); s.connect(arg[0])
s.subscribe(b'message ')
say('ready'); say(repr(s.recv_multipart()))
s.unsubscribe(b'message '); s.subscribe(b'end')
while s.recv() != b'end': pass
say('ended')
`, pub.Endpoints()[0])
	p.want("ready")
	poll.Until(t, "the subscriber's message", func() bool {
		// Repeated, since nothing tells when the subscription has arrived.
		for _, m := range []string{"conn x", "message y"} {
			if err := pub.Send([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case got := <-p.lines:
			if got != "[b'message y']" {
				t.Errorf("got %s", got)
			}
			return true
		default:
			return false
		}
	})
	poll.Until(t, "its other subscription", func() bool { return pub.Wanted([]byte("end")) })
	if pub.Wanted([]byte("message y")) {
		t.Error("a subscription that was taken back counts")
	}
	if err := pub.Send([]byte("end")); err != nil {
		t.Fatal(err)
	}
	p.want("ended")
}

func TestInteropRouter(t *testing.T) {
	router := closing[*bus.Router](t)(bus.NewRouter(bound("tcp://127.0.0.1:*")))
	p := py(t, `
s = sock(zmq.DEALER); s.IDENTITY = b'me'; s.connect(arg[0])
s.send_multipart([b'1', b'2']); say(repr(s.recv_multipart()))
`, router.Endpoints()[0])
	wantMessage(t, router, "me", "1", "2")
	if err := router.Send([]byte("me"), []byte("3"), []byte("4")); err != nil {
		t.Fatal(err)
	}
	p.want("[b'3', b'4']")

	p = py(t, `s = sock(zmq.REQ); s.connect(arg[0]); s.send(b'ask'); say(repr(s.recv()))`, router.Endpoints()[0])
	m := recv(t, router)
	if len(m) != 3 || m[1] != "" || m[2] != "ask" {
		t.Fatalf("got %q", m)
	}
	if err := router.Send([]byte(m[0]), nil, []byte("answer")); err != nil {
		t.Fatal(err)
	}
	p.want("b'answer'")
}

func TestInteropDealerIsAddressedByIdentity(t *testing.T) {
	o := bound("ipc://" + runDir(t) + "/in-stream")
	o.Identity = "zurl-1"
	dealer := closing[*bus.Dealer](t)(bus.NewDealer(o))
	p := py(t, `
s = sock(zmq.ROUTER); s.ROUTER_MANDATORY = 1; s.connect(arg[0])
import time
while True:
    try: s.send_multipart([b'zurl-1', b'', b'T']); break
    except zmq.ZMQError: time.sleep(0.01)
say(repr(s.recv_multipart()))
`, dealer.Endpoints()[0])
	wantMessage(t, dealer, "", "T")
	if err := dealer.Send(t.Context(), []byte("back")); err != nil {
		t.Fatal(err)
	}
	p.want("[b'zurl-1', b'back']")
}
