package main

import (
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/connmgr"
)

// A port that others listen at is told of, unless it is another connmgr of this
// run directory that does.
func TestStrangers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	listen := []connmgr.Listen{{Network: "tcp", Addr: "127.0.0.1:0"}, {Network: "tcp", Addr: addr}, {Network: "unix", Addr: "/none"}}
	for _, prefix := range []string{"p-", ""} {
		dir := t.TempDir()
		c := &config.Config{Global: config.Global{RunDir: dir, IPCPrefix: prefix}}
		inbox := func(name string) net.Listener {
			in, err := net.Listen("unix", filepath.Join(dir, prefix+name+".in"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = in.Close() })
			return in
		}
		inbox("connmgr.1") // our own
		inbox("proxy.0")
		if got := strangers(t.Context(), c, "connmgr.1", listen); !slices.Equal(got, []string{addr}) {
			t.Errorf("a stranger: got %v", got)
		}
		other := inbox("connmgr.0")
		if got := strangers(t.Context(), c, "connmgr.1", listen); got != nil {
			t.Errorf("a connmgr that is to be replaced: got %v", got)
		}
		other.(*net.UnixListener).SetUnlinkOnClose(false)
		_ = other.Close() // it died
		if got := strangers(t.Context(), c, "connmgr.1", listen); len(got) != 1 {
			t.Errorf("a connmgr that is gone: got %v", got)
		}
	}
}
