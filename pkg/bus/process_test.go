package bus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/test/poll"
)

// The environment of a test binary that is to be an instance of its own.
const (
	childName   = "HOLDFAST_BUS_TEST_NAME"
	childDir    = "HOLDFAST_BUS_TEST_DIR"
	childGiveUp = "HOLDFAST_BUS_TEST_GIVE_UP_MS"
)

// child is an instance that sends every frame back, until it is killed.
func child() {
	ms, err := strconv.Atoi(os.Getenv(childGiveUp))
	if err != nil {
		panic(err)
	}
	n, err := bus.New(bus.Options{
		Name: os.Getenv(childName), Dir: os.Getenv(childDir),
		GiveUp: time.Duration(ms) * time.Millisecond, Heartbeat: 100 * time.Millisecond,
	})
	if err != nil {
		panic(err)
	}
	if err := n.Run(context.Background(), &echo{bus: n}); err != nil {
		panic(err)
	}
}

type echo struct {
	bustest.Recorder
	bus bus.Bus
}

func (e *echo) Receive(from bus.Peer, b []byte) { _ = e.bus.Send(from.Name, b) }

// spawn starts an instance in a process of its own.
func spawn(t *testing.T, name, dir string, giveUp time.Duration) *os.Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe) //nolint:noctx // killed below
	cmd.Env = append(os.Environ(), childName+"="+name, childDir+"="+dir, fmt.Sprintf("%s=%d", childGiveUp, giveUp.Milliseconds()))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process
}

func signal(t *testing.T, p *os.Process, s os.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func downs(events []bustest.Event) int {
	n := 0
	for _, e := range events {
		if e.Kind == "down" {
			n++
		}
	}
	return n
}

func TestPauseOfFiveSecondsLosesNothing(t *testing.T) {
	t.Parallel()
	const frames = 20_000
	dir := runDir(t)
	proc := spawn(t, "handler.0", dir, 10*time.Second)
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir})
	var r bustest.Recorder
	bustest.Start(t, a, &r)
	r.WaitUp(t, "handler.0")

	signal(t, proc, syscall.SIGSTOP)
	resume := time.AfterFunc(5*time.Second, func() { _ = proc.Signal(syscall.SIGCONT) })
	defer resume.Stop()
	for i := range frames {
		// More than the kernel's buffers hold, so that writing blocks.
		if err := a.Send("handler.0", fmt.Appendf(nil, "%06d%01000d", i, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for i, f := range r.WaitFrames(t, "handler.0", frames) {
		if n, err := strconv.Atoi(f[:6]); err != nil || n != i {
			t.Fatalf("frame %d is %q", i, f[:6])
		}
	}
	if n := downs(r.Events()); n != 0 {
		t.Errorf("%d PeerDown, want none", n)
	}
}

func TestKilledProcessIsDownSoon(t *testing.T) {
	t.Parallel()
	dir := runDir(t)
	proc := spawn(t, "handler.0", dir, time.Minute)
	// It is not the silence that tells.
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir, GiveUp: time.Hour})
	var r bustest.Recorder
	bustest.Start(t, a, &r)
	first := r.WaitUp(t, "handler.0")

	signal(t, proc, syscall.SIGKILL)
	r.WaitDown(t, first)

	// The socket files of the dead one are still there.
	spawn(t, "handler.0", dir, time.Minute)
	r.Wait(t, "PeerUp of the next boot", func(events []bustest.Event) bool {
		last := events[len(events)-1]
		return last.Kind == "up" && last.Peer.Boot != first.Boot
	})
	if err := a.Send("handler.0", []byte("hello again")); err != nil {
		t.Fatal(err)
	}
	if got := r.WaitFrames(t, "handler.0", 1); got[0] != "hello again" {
		t.Errorf("got %q", got[0])
	}
}

func TestSilentPeerIsGivenUpAndComesBack(t *testing.T) {
	t.Parallel()
	dir := runDir(t)
	const giveUp = 800 * time.Millisecond
	proc := spawn(t, "handler.0", dir, giveUp)
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir, GiveUp: giveUp, Heartbeat: 100 * time.Millisecond})
	var r bustest.Recorder
	bustest.Start(t, a, &r)
	p := r.WaitUp(t, "handler.0")

	// On a slow machine it may be given up before, or once more: its being up is
	// no promise.
	signal(t, proc, syscall.SIGSTOP)
	for range 100 {
		if err := a.Send("handler.0", []byte("of the first session")); err != nil && !errors.Is(err, bus.ErrNoPeer) {
			t.Fatal(err)
		}
	}
	down := len(r.Wait(t, "PeerDown", func(events []bustest.Event) bool {
		return events[len(events)-1] == bustest.Event{Kind: "down", Peer: p}
	}))
	if err := a.Send("handler.0", []byte("x")); err == nil {
		t.Error("sent to a peer that is down")
	}
	if a.Ended(p) {
		t.Error("a process that stands still is taken for one that has ended")
	}
	signal(t, proc, syscall.SIGCONT)
	poll.Until(t, "the same boot to answer again", func() bool {
		err := a.Send("handler.0", []byte("of the second session"))
		events := r.Events()[down:]
		return err == nil && slices.ContainsFunc(events, func(e bustest.Event) bool { return e.Kind == "frame" && e.Peer == p })
	})
	for _, e := range r.Events()[down:] {
		if e.Kind == "frame" && e.Data != "of the second session" {
			t.Errorf("after PeerDown got %v", e)
		}
	}
	// Killed while it is given up: that is seen, too.
	signal(t, proc, syscall.SIGSTOP)
	r.Wait(t, "it is given up again", func(events []bustest.Event) bool {
		return events[len(events)-1] == bustest.Event{Kind: "down", Peer: p}
	})
	signal(t, proc, syscall.SIGKILL)
	poll.Until(t, "it is known to have ended", func() bool { return a.Ended(p) })
}

func TestOneProcessPerName(t *testing.T) {
	t.Parallel()
	dir := runDir(t)
	spawn(t, "proxy.0", dir, time.Minute)
	a := newNode(t, bus.Options{Name: "handler.0", Dir: dir})
	var r bustest.Recorder
	bustest.Start(t, a, &r)
	r.WaitUp(t, "proxy.0") // so it is running
	_, err := bus.New(bus.Options{Name: "proxy.0", Dir: dir})
	if want := "instance proxy.0 is already running in " + dir; err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

// An instance that was itself paused for longer than GiveUp must not take that
// for the silence of the others.
func TestOwnPauseIsNoReasonToGiveUpOthers(t *testing.T) {
	t.Parallel()
	dir := runDir(t)
	const giveUp = 4 * time.Second // and the other one is never silent for that long
	proc := spawn(t, "handler.0", dir, giveUp)
	a := newNode(t, bus.Options{Name: "proxy.0", Dir: dir, GiveUp: time.Minute, Heartbeat: 100 * time.Millisecond})
	var r bustest.Recorder
	bustest.Start(t, a, &r)
	r.WaitUp(t, "handler.0")
	for i := range 2 {
		signal(t, proc, syscall.SIGSTOP)
		<-time.After(giveUp * 3 / 2) // what is tested is the passing of this time
		signal(t, proc, syscall.SIGCONT)
		if err := a.Send("handler.0", []byte("x")); err != nil {
			t.Fatal(err)
		}
		r.WaitFrames(t, "handler.0", i+1)
	}
	if n := downs(r.Events()); n != 0 {
		t.Errorf("%d PeerDown, want none", n)
	}
}
