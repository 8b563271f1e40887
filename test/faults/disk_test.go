//go:build faults

package faults

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// works checks that a held client gets a message, that another one can be held,
// and that requests are answered.
func works(t *testing.T, s *stack.Stack, c *held, n int) {
	t.Helper()
	say(t, s, "a", n)
	if err := find(c.Reader, "message"); err != nil {
		t.Fatal(err)
	}
	other := hold(t, s, "b")
	until(t, other.Reader, "open")
	r := &reader{delays: new(delays)}
	visit(t.Context(), s, r)
	for _, text := range r.wrong {
		t.Errorf("a request: %s", text)
	}
}

// No log file can be written. The programs work, count what is lost and say why,
// and write again when there is room.
func TestLogDiskFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		need.Missing(t, "there is nothing that is always full, so full logs are not tested: %v", err)
	}
	origin := newBackend(t)
	programs := []string{"connmgr", "proxy", "handler", "zurl"}
	s := stack.For(t, stack.Options{
		Kind: stack.Holdfast, Routes: []string{"* " + origin.addr}, LogFiles: true,
		Prepare: func(runDir string) error {
			for _, name := range programs {
				if err := os.Symlink("/dev/full", filepath.Join(runDir, "..", "log", name+".log")); err != nil {
					return err
				}
			}
			return nil
		},
	})
	c := hold(t, s, "a")
	until(t, c.Reader, "open")
	works(t, s, c, 1)
	const lost = "holdfast_log_lines_lost_total"
	before := map[string]float64{}
	for _, name := range programs {
		m, err := s.Metrics(name + ".0")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(s.Dir, "run", name+".stderr"))
		if err != nil || m[lost] == 0 || strings.Count(string(text), "log lines are lost: write") != 1 {
			t.Errorf("%s: %v lines were lost; its standard error has %q, %v", name, m[lost], text, err)
		}
		// There is room again, and the log is rotated.
		path := filepath.Join(s.Dir, "log", name+".log")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	one(t, s, "handler") // it is settled: signals are safe
	if err := syscall.Kill(s.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		poll.Until(t, name+" has its log file anew", func() bool {
			_, err := os.Stat(filepath.Join(s.Dir, "log", name+".log"))
			return err == nil
		})
		m, err := s.Metrics(name + ".0")
		if err != nil {
			t.Fatal(err)
		}
		before[name] = m[lost]
	}
	works(t, s, c, 2)
	for _, name := range []string{"handler", "proxy"} { // they log what was done just now
		poll.Until(t, name+" writes its log", func() bool {
			text, err := os.ReadFile(filepath.Join(s.Dir, "log", name+".log"))
			return err == nil && len(text) > 0
		})
		m, err := s.Metrics(name + ".0")
		if err != nil {
			t.Fatal(err)
		}
		if m[lost] != before[name] {
			t.Errorf("%s lost %v more lines", name, m[lost]-before[name])
		}
	}
}

// The run directory has no room any more. Clients and publishers do not notice,
// and a process that dies is replaced.
func TestRunDirectoryFull(t *testing.T) {
	mounted := ""
	t.Cleanup(func() { // after the stack has been stopped
		if mounted != "" {
			if err := unix.Unmount(mounted, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
			_ = os.RemoveAll(filepath.Dir(mounted))
		}
	})
	probe := t.TempDir()
	if err := unix.Mount("tmpfs", probe, "tmpfs", 0, "size=64k"); err != nil {
		need.Missing(t, "a small disk may not be mounted here (root may), so a full run directory is not tested: %v", err)
	}
	if err := unix.Unmount(probe, 0); err != nil {
		t.Fatal(err)
	}
	origin := newBackend(t)
	s := stack.For(t, stack.Options{
		Kind: stack.Holdfast, Routes: []string{"* " + origin.addr}, Set: []string{"runner/restart_delay=0.3"},
		Prepare: func(runDir string) error {
			mounted = runDir
			return unix.Mount("tmpfs", runDir, "tmpfs", 0, "size=1m,mode=700")
		},
	})
	c := hold(t, s, "a")
	until(t, c.Reader, "open")
	works(t, s, c, 1)
	one(t, s, "handler")
	f, err := os.Create(filepath.Join(mounted, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n := 2
	works(t, s, c, n)
	for _, name := range []string{"handler", "proxy", "zurl"} {
		old := one(t, s, name)
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, name+" is replaced", func() bool {
			pid, ok := s.Children()[name]
			return ok && pid != old
		})
		n++
		works(t, s, c, n)
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	works(t, s, c, n+1)
}
