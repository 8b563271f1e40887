package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/proxy"
	"github.com/holdfast/holdfast/pkg/route"
)

func program() cli.Program {
	var routes []string
	return cli.Program{
		Kind:  "proxy",
		Short: "Choose routes, talk GRIP to origins and relay their answers",
		Flags: func(f *cli.Flags) {
			f.StringArrayVar(&routes, "route", nil, "a route, as a `LINE` of the routes file, which is then not read; may be repeated")
		},
		Commands: func(load func() (*config.Config, error)) []*cobra.Command {
			return []*cobra.Command{routeCommand(load, &routes)}
		},
		Runtime: func(c *config.Config) (config.Runtime, string) { return c.Proxy.Runtime, c.Admin.Proxy },
		Grace:   func(c *config.Config) time.Duration { return c.Proxy.DrainTime },
		Pushpin: func(c *config.Config) (spec, prefix string) {
			return c.Proxy.PrometheusPort, c.Proxy.PrometheusPrefix
		},
		Check: func(c *config.Config) ([]string, error) {
			if _, err := options(c, routes); err != nil {
				return nil, err
			}
			_, warnings, err := readRoutes(c, routes)
			return warnings, err
		},
		New: func(e cli.Env) (cli.Server, error) {
			o, err := options(e.Config, routes)
			if err != nil {
				return nil, err
			}
			o.Bus, o.Logger, o.Registerer = e.Bus, e.Logger, e.Registry
			return proxy.New(o)
		},
	}
}

// options translates the configuration and the flag --route.
func options(c *config.Config, routes []string) (proxy.Options, error) {
	p := c.Proxy
	o := proxy.DefaultOptions()
	var err error
	for _, x := range []struct {
		key   string
		words []string
		to    *proxy.ForwardedFor
	}{{"x_forwarded_for", p.XForwardedFor, &o.XForwardedFor}, {"x_forwarded_for_trusted", p.XForwardedForTrusted, &o.XForwardedForTrusted}} {
		if *x.to, err = proxy.ParseForwardedFor(x.words); err != nil {
			return o, cli.UsageError{Err: fmt.Errorf("proxy.%s: %w", x.key, err)}
		}
	}
	if _, err := grip.ParseSigningKey(p.SigKey, c.Dir); err != nil {
		return o, cli.UsageError{Err: fmt.Errorf("proxy.sig_key: %w", err)}
	}
	if _, err := grip.ParseVerifyingKey(p.UpstreamKey, c.Dir); err != nil {
		return o, cli.UsageError{Err: fmt.Errorf("proxy.upstream_key: %w", err)}
	}
	// A wrong line in the routes file may be corrected while the proxy runs; one
	// on the command line cannot.
	if table, wrong := route.ParseLines(routes, nil); len(wrong) > 0 {
		return o, cli.UsageError{Err: errors.New("--route: " + strings.TrimPrefix(wrong[0], "<route>:1: "))}
	} else if len(routes) > 0 && table.Len() == 0 {
		return o, cli.UsageError{Err: errors.New(`--route: there is no route in it: want CONDITION TARGET, such as "* localhost:8000"`)}
	}
	o.MetricsPrefix = p.PrometheusPrefix
	o.RoutesFile, o.Routes, o.KeyDir = c.Path(p.RoutesFile), routes, c.Dir
	o.Debug, o.AutoCrossOrigin = p.Debug, p.AutoCrossOrigin
	o.AcceptXForwardedProtocol = p.AcceptXForwardedProtocol
	o.SetXForwardedProtocol = proxy.ParseForwardedProtocol(p.SetXForwardedProtocol)
	o.OrigHeadersNeedMark, o.AcceptPushpinRoute, o.CDNLoop = p.OrigHeadersNeedMark, p.AcceptPushpinRoute, p.CDNLoop
	o.SockJSURL = p.SockJSURL
	o.SigIss, o.SigKey, o.UpstreamKey = p.SigIss, p.SigKey, p.UpstreamKey
	o.LogFrom, o.LogUserAgent = p.LogFrom, p.LogUserAgent
	o.MaxExchanges = c.Runner.ClientMaxConn
	if p.MaxOpenRequests > 0 {
		o.MaxExchanges = min(o.MaxExchanges, p.MaxOpenRequests)
	}
	o.Origin.ConnectTimeout, o.Origin.ResponseTimeout, o.Origin.IdleTimeout = p.ConnectTimeout, p.ResponseTimeout, p.IdleTimeout
	o.Origin.Limits.MaxHead = int(p.MaxResponseHead)
	o.HandOverTimeout, o.DrainTime = p.HandOverTimeout, p.DrainTime
	return o, nil
}
