package connmgr

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/need"
)

// Who connects when a listener is about to close is not reset, but gets to another
// listener of the same port.
func TestTurnedClients(t *testing.T) {
	if on, err := os.ReadFile(migrates); err == nil && on[0] == '1' {
		need.Missing(t, "net.ipv4.tcp_migrate_req is set: the kernel does it by itself")
	}
	r := newRig(t)
	if !r.s.lns[0].ignoreSYN() {
		t.Fatal("connections go on coming")
	}
	lc := net.ListenConfig{Control: reusePort}
	other, err := lc.Listen(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer func() { _ = other.Close() }()
	all.Go(func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("here"))
			_ = c.Close()
		}
	})
	const clients = 40 // half of which connect to the one that closes
	var asked, done sync.WaitGroup
	asked.Add(clients)
	for range clients {
		done.Go(func() {
			d := net.Dialer{Timeout: patience, ControlContext: func(context.Context, string, string, syscall.RawConn) error {
				asked.Done()
				return nil
			}}
			c, err := d.DialContext(t.Context(), "tcp", r.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(c); string(got) != "here" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	asked.Wait()
	if err := r.s.closeListeners(); err != nil {
		t.Error(err)
	}
	done.Wait()
}
