package main

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/connmgr"
)

// strangers returns the client ports at which somebody listens who is no connmgr
// of this run directory. Client ports are shared among connmgrs, so that one can
// take over from another; with a stranger, half of the clients would end up where
// nobody publishes to them, and nothing else would say so.
func strangers(ctx context.Context, c *config.Config, name string, listen []connmgr.Listen) []string {
	prefix := filepath.Join(c.Global.RunDir, c.Global.IPCPrefix)
	if c.Global.IPCPrefix == "" {
		prefix += string(filepath.Separator)
	}
	inboxes, err := filepath.Glob(prefix + "connmgr.*.in")
	if err == nil && slices.ContainsFunc(inboxes, func(path string) bool {
		return path != prefix+name+".in" && answers(ctx, "unix", path)
	}) {
		return nil
	}
	var taken []string
	for _, l := range listen {
		// Not by listening there: that would be in the way of one that starts now.
		if l.Network == "tcp" && answers(ctx, l.Network, l.Addr) {
			taken = append(taken, l.Addr)
		}
	}
	return taken
}

// answers reports whether somebody listens at an address.
func answers(ctx context.Context, network, addr string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
