package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/connmgr"
	"github.com/holdfast/holdfast/pkg/frame"
)

// ownFiles is how many files a connmgr has open beside client connections, with
// room to spare.
const ownFiles = 1024

func program() cli.Program {
	var listen []string
	return cli.Program{
		Kind:  "connmgr",
		Short: "Terminate client connections and hold them",
		Flags: func(f *cli.Flags) {
			f.StringArrayVar(&listen, "listen", nil,
				"client `PORT`, in place of the configured ones: [ADDR:]PORT[,tls] or PATH,local[,mode=OCTAL][,user=NAME][,group=NAME]; may be repeated")
			f.Setting("client-maxconn", "runner.client_maxconn", "`NUMBER` of client connections at most")
			f.Setting("buffer-size", "runner.client_buffer_size", "`BYTES` that a request line and its headers may have")
		},
		Runtime: func(c *config.Config) (config.Runtime, string) { return c.ConnMgr.Runtime, c.Admin.ConnMgr },
		Grace:   func(c *config.Config) time.Duration { return c.ConnMgr.DrainTime },
		Files:   func(c *config.Config) uint64 { return uint64(c.Runner.ClientMaxConn) + ownFiles },
		Check: func(c *config.Config) ([]string, error) {
			_, err := options(c, listen)
			return nil, err
		},
		New: func(e cli.Env) (cli.Server, error) {
			o, err := options(e.Config, listen)
			if err != nil {
				return nil, err
			}
			o.Bus, o.Logger, o.Registerer = e.Bus, e.Logger, e.Registry
			for _, addr := range strangers(context.Background(), e.Config, e.Bus.Name(), o.Listen) {
				e.Logger.Warn("another program listens at this client port too, and gets a part of the clients; stop it, or change the port", "addr", addr)
			}
			return connmgr.New(o)
		},
	}
}

var policies = map[string]frame.Policy{
	"close": frame.PolicyClose, "drop-oldest": frame.PolicyDropOldest, "latest": frame.PolicyLatest,
}

// options translates the configuration and the flag --listen.
func options(c *config.Config, listen []string) (connmgr.Options, error) {
	o := connmgr.DefaultOptions()
	listeners, err := c.Listeners()
	if len(listen) > 0 {
		listeners, err = nil, nil
		for _, item := range listen {
			var l config.Listener
			if l, err = config.ParseListen(item); err != nil {
				break
			}
			listeners = append(listeners, l)
		}
	}
	if err != nil {
		return o, cli.UsageError{Err: err}
	}
	for _, l := range listeners {
		o.Listen = append(o.Listen, connmgr.Listen{Network: l.Network, Addr: l.Addr, TLS: l.TLS, Mode: l.Mode.Perm, User: l.User, Group: l.Group})
	}
	o.CertDir = c.Path(filepath.Join("runner", "certs"))
	o.MaxConns, o.BufferSize, o.MaxFields = c.Runner.ClientMaxConn, int(c.Runner.ClientBufferSize), c.ConnMgr.MaxFields
	o.Compression = c.Runner.AllowCompression
	m := c.ConnMgr
	o.HeaderTimeout, o.IdleTimeout, o.BodyTimeout = m.HeaderTimeout, m.IdleTimeout, m.BodyTimeout
	o.WriteTimeout, o.ResponseTimeout, o.PeerWait = m.WriteTimeout, m.ResponseTimeout, m.PeerWait
	o.MaxBacklog, o.Policy, o.MaxQueued = int(m.MaxBacklog), policies[m.BacklogPolicy], int(m.MaxQueued)
	o.RepeatTime = c.Handler.IDCacheTTL
	if m.Writers > 0 {
		o.Writers = m.Writers
	}
	o.DrainTime = m.DrainTime
	return o, nil
}
