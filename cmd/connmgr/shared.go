package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/connmgr"
)

// strangers returns the client ports at which somebody listens who is no connmgr
// of this run directory. Client ports are shared among connmgrs, so that one can
// take over from another; with a stranger, half of the clients would end up where
// nobody publishes to them, and nothing else would say so.
func strangers(ctx context.Context, c *config.Config, name string, listen []connmgr.Listen) []string {
	var taken []string
	for _, l := range listen {
		if l.Network != "tcp" {
			continue
		}
		ln, err := new(net.ListenConfig).Listen(ctx, l.Network, l.Addr) // without sharing
		switch {
		case err == nil:
			_ = ln.Close() // nobody was there; the next one to listen is us
		case errors.Is(err, syscall.EADDRINUSE):
			taken = append(taken, l.Addr)
		}
	}
	prefix := filepath.Join(c.Global.RunDir, c.Global.IPCPrefix)
	if c.Global.IPCPrefix == "" {
		prefix += string(filepath.Separator)
	}
	inboxes, err := filepath.Glob(prefix + "connmgr.*.in")
	if len(taken) == 0 || err == nil && slices.ContainsFunc(inboxes, func(path string) bool {
		return path != prefix+name+".in" && answers(ctx, path)
	}) {
		return nil
	}
	return taken
}

// answers reports whether somebody listens at a unix socket.
func answers(ctx context.Context, path string) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
