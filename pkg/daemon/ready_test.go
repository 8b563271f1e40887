package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestReady(t *testing.T) {
	dir, err := os.MkdirTemp("", "ready") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	addr := &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	systemd, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = systemd.Close() })
	_ = systemd.SetReadDeadline(time.Now().Add(20 * time.Second))
	file := filepath.Join(dir, "ready")
	var asked atomic.Int32
	r := &Ready{File: file, Socket: addr.Name, Check: func() error {
		if asked.Add(1) < 3 {
			if _, err := os.Stat(file); err == nil {
				t.Error("the file is there too early")
			}
			return errors.New("not yet")
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		n, err := systemd.Read(buf)
		if got := string(buf[:n]); err != nil || got != want {
			t.Fatalf("systemd got %q, %v; want %q", got, err, want)
		}
	}
	expect("READY=1")
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	cancel()
	expect("STOPPING=1")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the file is still there")
	}
}

// One that stops before it is ready ends, and one that cannot tell goes on.
func TestReadyNever(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, r := range []*Ready{
		{Check: func() error { return errors.New("never") }},
		{File: "/nowhere/ready", Socket: "/nowhere/socket"},
	} {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}
}
