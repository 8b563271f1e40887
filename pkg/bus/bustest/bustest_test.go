package bustest_test

import (
	"errors"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type cluster struct{ *bustest.Network }

func (c cluster) Node(name string) bus.Bus { return c.Network.Node(name) }

func TestConformance(t *testing.T) {
	bustest.Conformance(t, func(_ *testing.T, queueBytes int) bustest.Cluster {
		net := bustest.NewNetwork()
		net.SetQueueBytes(queueBytes)
		return cluster{net}
	})
}

func TestPauseLosesNothing(t *testing.T) {
	net := bustest.NewNetwork()
	a, b := net.Node("proxy.0"), net.Node("handler.0")
	var ra, rb bustest.Recorder
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	ra.WaitUp(t, "handler.0")
	rb.WaitUp(t, "proxy.0")
	net.Pause("handler.0")
	before := len(rb.Events())
	for _, s := range []string{"1", "2"} {
		if err := a.Send("handler.0", []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(rb.Events()); n != before {
		t.Errorf("%d events while paused", n-before)
	}
	net.Resume("handler.0")
	if got := rb.WaitFrames(t, "proxy.0", 2); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("got %q", got)
	}
}

func TestCutAndJoin(t *testing.T) {
	net := bustest.NewNetwork()
	a, b := net.Node("proxy.0"), net.Node("handler.0")
	var ra, rb bustest.Recorder
	bustest.Start(t, a, &ra)
	bustest.Start(t, b, &rb)
	pb, pa := ra.WaitUp(t, "handler.0"), rb.WaitUp(t, "proxy.0")
	net.Cut("proxy.0", "handler.0")
	ra.WaitDown(t, pb)
	rb.WaitDown(t, pa)
	if err := a.Send("handler.0", nil); !errors.Is(err, bus.ErrNoPeer) {
		t.Errorf("send over a cut: %v, want ErrNoPeer", err)
	}
	net.Join("proxy.0", "handler.0")
	if p := ra.WaitUp(t, "handler.0"); p != pb {
		t.Errorf("after the cut got %v up, want %v", p, pb)
	}
	rb.WaitUp(t, "proxy.0")
	if err := a.Send("handler.0", []byte("again")); err != nil {
		t.Fatal(err)
	}
	rb.WaitFrames(t, "proxy.0", 1)
}

func TestRunOfTheKilled(t *testing.T) {
	net := bustest.NewNetwork()
	n := net.Node("proxy.0")
	net.Kill("proxy.0")
	if err := n.Run(t.Context(), new(bustest.Recorder)); !errors.Is(err, bustest.ErrKilled) {
		t.Errorf("Run = %v, want ErrKilled", err)
	}
}
