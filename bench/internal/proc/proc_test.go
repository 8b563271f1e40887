//go:build linux

package proc

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestReadCountsChildren(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	pids, err := Tree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("tree %v lacks the child %d", pids, cmd.Process.Pid)
	}
	child, err := Read(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if child.Bytes <= 0 || all.Bytes <= child.Bytes {
		t.Errorf("memory: child %d, all %d: want 0 < child < all", child.Bytes, all.Bytes)
	}
}

func TestCPUGrows(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		now, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now > before {
			return
		}
	}
	t.Errorf("processor time is still %v after 10 s of work", before)
}

func TestPSS(t *testing.T) {
	got, err := pss([]byte("55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:   321 kB\nPss_Anon: 5 kB\n"))
	if err != nil || got != 321 {
		t.Errorf("got %d, %v, want 321", got, err)
	}
}
