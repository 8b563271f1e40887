package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/route"
)

// readRoutes reads the routes as the proxy would.
func readRoutes(c *config.Config, lines []string) (*route.Table, []string, error) {
	if len(lines) > 0 {
		t, warnings := route.ParseLines(lines, nil)
		return t, warnings, nil
	}
	name := c.Path(c.Proxy.RoutesFile)
	f, err := os.Open(name)
	if err != nil {
		// The proxy starts without the file and waits for it to appear.
		return nil, []string{fmt.Sprintf("unable to open routes file: %v; --config chooses the configuration, proxy.routesfile there the file", err)}, nil
	}
	defer func() { _ = f.Close() }() // only read
	return route.Parse(name, f, nil)
}

// routeCommand is "proxy route explain".
func routeCommand(load func() (*config.Config, error), lines *[]string) *cobra.Command {
	explain := &cobra.Command{
		Use:   "explain URL",
		Short: "Tell which route a request gets, and why not the others",
		Long:  "Tell which route a request for URL gets, and why not the others. The scheme is http, https, ws or wss.",
		Example: "  proxy route explain http://example.com/path\n" +
			"  proxy route explain --route '* test' ws://localhost:7999/ws",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := url.Parse(args[0])
			if err != nil || u.Host == "" {
				return cli.UsageError{Err: fmt.Errorf("%q is not a URL such as http://example.com/path", args[0])}
			}
			q := route.Request{Host: u.Host, Path: u.EscapedPath()}
			if q.Path == "" {
				q.Path = "/"
			}
			switch strings.ToLower(u.Scheme) {
			case "http":
			case "https":
				q.TLS = true
			case "ws":
				q.WebSocket = true
			case "wss":
				q.TLS, q.WebSocket = true, true
			default:
				return cli.UsageError{Err: fmt.Errorf("scheme %q: want http, https, ws or wss", u.Scheme)}
			}
			c, err := load()
			if err != nil {
				return err
			}
			t, warnings, err := readRoutes(c, *lines)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), w); err != nil {
					return err
				}
			}
			if t == nil {
				return errors.New("no routes file")
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), t.Explain(q))
			return err
		},
	}
	parent := &cobra.Command{Use: "route", Short: "Look at the routes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	parent.AddCommand(explain)
	return parent
}
