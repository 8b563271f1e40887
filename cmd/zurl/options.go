package main

import (
	"fmt"
	"time"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/netpolicy"
	"github.com/holdfast/holdfast/pkg/zurl"
)

var program = cli.Program{
	Kind:    "zurl",
	Short:   "Make outbound HTTP requests for the other processes",
	Runtime: func(c *config.Config) (config.Runtime, string) { return c.Zurl.Runtime, c.Admin.Zurl },
	Grace:   func(c *config.Config) time.Duration { return c.Zurl.DrainTime },
	Check: func(c *config.Config) ([]string, error) {
		_, err := options(c)
		return nil, err
	},
	New: func(e cli.Env) (cli.Server, error) {
		o, err := options(e.Config)
		if err != nil {
			return nil, err
		}
		o.Bus, o.Logger, o.Registerer = e.Bus, e.Logger, e.Registry
		return zurl.New(o)
	},
}

// options translates the configuration.
func options(c *config.Config) (zurl.Options, error) {
	o := zurl.DefaultOptions()
	z := c.Zurl
	policy, err := netpolicy.New(z.DefPolicy, z.Allow, z.Deny)
	if err != nil {
		return o, cli.UsageError{Err: fmt.Errorf("section [zurl]: %w", err)}
	}
	o.Policy = policy
	o.MaxOpen, o.MaxQueued = z.MaxOpenRequests, z.MaxQueued
	o.MaxBody, o.MaxHead = int64(z.MaxBody), int64(z.MaxHead)
	o.Timeout, o.ConnectTimeout, o.DrainTime = z.Timeout, z.ConnectTimeout, z.DrainTime
	return o, nil
}
