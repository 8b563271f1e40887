package bus_test

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
)

func TestMain(m *testing.M) {
	if os.Getenv(childName) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
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
