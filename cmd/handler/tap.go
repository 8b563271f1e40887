package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/handler"
)

// tapCommand is "handler tap". It asks the admin listener of the handler that
// runs with the same configuration.
func tapCommand(load func() (*config.Config, error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tap [CHANNEL]...",
		Short: "Show live what is published and what comes of it",
		Long: "Show live what is published and what comes of it. A CHANNEL may contain stars, each of which stands for any\n" +
			"text; without one all channels are shown. For each item there is a line when its turn comes, with the\n" +
			"subscribers that it is for, and one when it is known what became of it for each of them: matched is always\n" +
			"delivered and dropped together. Nothing of the contents is shown. It ends with the handler, or by an interrupt.",
		Example: "  handler tap\n  handler tap 'news*' alerts\n  handler tap --json | jq 'select(.dropped)'",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := load()
			if err != nil {
				return err
			}
			print := printEvent
			if asJSON {
				print = func(w io.Writer, line []byte) error {
					_, err := w.Write(line)
					return err
				}
			}
			return tap(cmd.Context(), c, args, cmd.OutOrStdout(), print)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "show each event as a line of JSON")
	return cmd
}

// tap prints what the handler tells until it ends.
func tap(ctx context.Context, c *config.Config, channels []string, w io.Writer, print func(io.Writer, []byte) error) error {
	spec := c.Admin.Handler
	if spec == "" {
		return cli.UsageError{Err: errors.New("the handler has no admin listener, which tells this: set admin.handler")}
	}
	network, addr := "tcp", spec
	if path, ok := strings.CutPrefix(spec, "ipc://"); ok {
		network, addr = "unix", path
	} else if !strings.Contains(spec, ":") {
		addr = net.JoinHostPort("127.0.0.1", spec)
	}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://handler/tap?"+url.Values{"channel": channels}.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("no handler answers at %s; is Holdfast running, with this configuration? (%w)", spec, err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer)) // what there is of it
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	lines := bufio.NewReader(res.Body)
	for {
		line, err := lines.ReadBytes('\n')
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil // the user has seen enough
		default:
			return errors.New("the handler has ended")
		}
		if err := print(w, line); err != nil {
			return err
		}
	}
}

// printEvent prints an event for people.
func printEvent(w io.Writer, line []byte) error {
	var e handler.TapEvent
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("the handler said what is not understood, is it of another version? %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-7s  ", e.Time.Local().Format("15:04:05.000"), e.Event)
	if e.Event == handler.TapMissed {
		fmt.Fprintf(&b, "%d events\n", e.Count)
		_, err := io.WriteString(w, b.String())
		return err
	}
	if e.N != 0 {
		fmt.Fprintf(&b, "#%d ", e.N)
	}
	b.WriteString(e.Channel)
	if e.ID != "" {
		fmt.Fprintf(&b, " id=%s", e.ID)
	}
	if e.PrevID != "" {
		fmt.Fprintf(&b, " prev-id=%s", e.PrevID)
	}
	switch e.Event {
	case handler.TapPublish:
		for _, name := range slices.Sorted(maps.Keys(e.Formats)) {
			f := e.Formats[name]
			what := fmt.Sprintf("%d bytes", f.Size)
			if f.Action != "send" {
				what = f.Action
			}
			fmt.Fprintf(&b, "  %s (%s) for %d", name, what, f.Matched)
		}
	case handler.TapResult:
		fmt.Fprintf(&b, "  matched %d, delivered %d", e.Matched, e.Delivered)
		for _, reason := range slices.Sorted(maps.Keys(e.Dropped)) {
			fmt.Fprintf(&b, ", %s %d", reason, e.Dropped[reason])
		}
		fmt.Fprintf(&b, ", %d ms", e.Millis)
	case handler.TapHeld:
		fmt.Fprintf(&b, "  %s", e.Result)
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
