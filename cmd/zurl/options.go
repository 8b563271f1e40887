package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/netpolicy"
	"github.com/holdfast/holdfast/pkg/webhook"
	"github.com/holdfast/holdfast/pkg/zurl"
)

var program = cli.Program{
	Kind:    "zurl",
	Short:   "Make outbound HTTP requests for the other processes",
	Runtime: func(c *config.Config) (config.Runtime, string) { return c.Zurl.Runtime, c.Admin.Zurl },
	Grace:   func(c *config.Config) time.Duration { return c.Zurl.DrainTime },
	Check: func(c *config.Config) ([]string, error) {
		o, err := options(c)
		if err != nil || o.Webhooks.File == "" {
			return nil, err
		}
		b, err := os.ReadFile(o.Webhooks.File)
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, nil
		case err == nil:
			_, err = webhook.ParseFile(b)
		}
		if err != nil {
			return nil, cli.UsageError{Err: fmt.Errorf("%s: %w", o.Webhooks.File, err)}
		}
		return nil, nil
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
	if (z.InSpec == "") != (z.InStreamSpec == "") || (z.InSpec == "") != (z.OutSpec == "") {
		return o, cli.UsageError{Err: errors.New("section [zurl]: if any of in_spec, in_stream_spec, or out_spec are set then all of them must be set")}
	}
	o.InSpec, o.InStreamSpec, o.OutSpec, o.InReqSpec = z.InSpec, z.InStreamSpec, z.OutSpec, z.InReqSpec
	o.InstanceID, o.IPCFileMode, o.InHWM = z.InstanceID, z.IPCFileMode.Perm, z.InHWM
	if o.MaxSessions = z.MaxOpenRequests; o.MaxSessions <= 0 {
		o.MaxSessions = 1_000_000
	}
	o.BufferSize, o.MaxWhole = int(z.BufferSize), int64(z.MaxWhole)
	o.SessionTimeout, o.MaxAge, o.NoIPv6 = z.Timeout, z.MaxAge, !z.AllowIPv6
	o.MaxFetches, o.MaxQueued, o.MaxBody, o.FetchTimeout = z.MaxFetches, z.MaxQueued, int64(z.MaxBody), z.FetchTimeout
	o.MaxHead, o.ConnectTimeout, o.DrainTime = int64(z.MaxHead), z.ConnectTimeout, z.DrainTime
	o.Webhooks = zurl.Webhooks{Store: z.WebhookStore, Early: z.WebhookAck == "queued", MaxBytes: int64(z.WebhookMaxBytes), KeepBytes: int64(z.WebhookKeepBytes)}
	if z.WebhookFile != "" {
		o.Webhooks.File = c.Path(z.WebhookFile)
	}
	return o, nil
}
