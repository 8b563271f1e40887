package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
)

// webhooksFlags is where the control API is, and how it is told.
type webhooksFlags struct {
	publishFlags
	asJSON bool
	out    io.Writer
}

// webhooksCommand is "handler webhooks".
func webhooksCommand(load func() (*config.Config, error)) *cobra.Command {
	f := new(webhooksFlags)
	root := &cobra.Command{
		Use:   "webhooks",
		Short: "List, make and look after webhook endpoints, through the control API",
		Example: "  handler webhooks create https://example.com/hook 'orders-*'\n" +
			"  handler webhooks list\n" +
			"  handler webhooks attempts ep_abc\n" +
			"  handler webhooks replay ep_abc --since 2026-01-31T00:00:00Z\n" +
			"  handler webhooks resend ep_abc --id msg_1",
	}
	p := root.PersistentFlags()
	p.StringVar(&f.spec, "spec", "", "control `URL`, with iss and key if wanted; "+noSpec)
	f.transportFlags(p)
	p.BoolVar(&f.asJSON, "json", false, "show what the API answers")
	add := func(use, short, example string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Example: "  handler webhooks " + example, Args: args}
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), sendTimeout)
			defer cancel()
			f.out = cmd.OutOrStdout()
			if err := f.find(cmd.Flags(), load); err != nil {
				return err
			}
			if err := run(ctx, args); err != nil {
				return cli.PlainError{Err: fmt.Errorf("Error: %w", err)} //nolint:staticcheck // as in "handler publish"
			}
			return nil
		}
		root.AddCommand(cmd)
		return cmd
	}
	one := cobra.ExactArgs(1)
	simple := func(word, short, method, path string) {
		add(word+" ENDPOINT", short, word+" ep_abc", one, func(ctx context.Context, args []string) error {
			return f.show(ctx, method, args[0]+path, nil, nil)
		})
	}
	add("list", "List endpoints", "list", cobra.NoArgs, f.list)
	simple("show", "Show an endpoint", "GET", "")
	simple("pause", "Keep messages of an endpoint waiting", "POST", "/pause")
	simple("resume", "End a pause, or try a disabled endpoint anew", "POST", "/resume")
	simple("test", "Send a test message to an endpoint", "POST", "/test")
	simple("secret", "Show the secret of an endpoint", "GET", "/secret")
	simple("rotate", "Give an endpoint a new secret; the old one signs too for a day", "POST", "/rotate")
	simple("delete", "Delete an endpoint and all that waits for it", "DELETE", "")
	add("attempts ENDPOINT", "Show the last attempts, with status, latency and the beginning of the response", "attempts ep_abc", one, f.attempts)

	var in struct {
		ID          string  `json:"id,omitempty"`
		URL         string  `json:"url"`
		Channels    any     `json:"channels"`
		Events      any     `json:"events,omitempty"`
		Order       string  `json:"order,omitempty"`
		RateLimit   float64 `json:"rate_limit,omitempty"`
		Keep        string  `json:"keep,omitempty"`
		Verify      bool    `json:"verify"`
		Description string  `json:"description,omitempty"`
	}
	var inOrder, noVerify bool
	var events []string
	create := add("create URL CHANNEL...", "Make an endpoint; * in a CHANNEL stands for any text", "create --in-order https://example.com/hook orders 'news-*'",
		cobra.MinimumNArgs(2), func(ctx context.Context, args []string) error {
			in.URL, in.Channels, in.Verify = args[0], args[1:], !noVerify
			if len(events) > 0 {
				in.Events = events
			}
			if inOrder {
				in.Order = "in-order"
			}
			return f.show(ctx, "POST", "", nil, in)
		})
	create.Flags().StringVar(&in.ID, "id", "", "`ID`; one is made up otherwise")
	create.Flags().StringVar(&in.Description, "description", "", "`TEXT` for people")
	create.Flags().StringArrayVar(&events, "event", nil, "`KIND` of event instead of message.published, or *; may be repeated")
	create.Flags().Float64Var(&in.RateLimit, "rate-limit", 0, "requests a second; 0 is no limit")
	create.Flags().StringVar(&in.Keep, "keep", "", "keep delivered messages for a `TIME` such as 6h or 7d, for resend")
	create.Flags().BoolVar(&inOrder, "in-order", false, "deliver one message after the other")
	create.Flags().BoolVar(&noVerify, "no-verify", false, "do not ask the endpoint to answer a challenge first")

	var ids []string
	var since, until string
	var all bool
	choice := func(cmd *cobra.Command) {
		cmd.Flags().StringArrayVar(&ids, "id", nil, "webhook-`ID` of a message; may be repeated")
		cmd.Flags().StringVar(&since, "since", "", "only messages published at that `TIME` (RFC 3339) or later")
		cmd.Flags().StringVar(&until, "until", "", "only messages published before that `TIME`")
	}
	query := func() url.Values {
		q := url.Values{"id": ids}
		if since != "" {
			q.Set("since", since)
		}
		if until != "" {
			q.Set("until", until)
		}
		return q
	}
	choice(add("dead ENDPOINT", "List the messages that were given up", "dead ep_abc", one, func(ctx context.Context, args []string) error {
		return f.dead(ctx, args[0], query())
	}))
	replay := add("replay ENDPOINT", "Queue messages again that were given up", "replay ep_abc --id msg_1", one, func(ctx context.Context, args []string) error {
		return f.show(ctx, "POST", args[0]+"/replay", nil, map[string]any{"ids": ids, "since": since, "until": until, "all": all})
	})
	choice(replay)
	replay.Flags().BoolVar(&all, "all", false, "all of them")

	var after uint64
	kept := add("kept ENDPOINT", "List the messages that were delivered and are kept", "kept ep_abc --since 2026-01-31T00:00:00Z", one,
		func(ctx context.Context, args []string) error {
			q := query()
			if after > 0 {
				q.Set("after", strconv.FormatUint(after, 10))
			}
			return f.kept(ctx, args[0], q)
		})
	resend := add("resend ENDPOINT", "Send messages again that were delivered and are kept", "resend ep_abc --since 2026-01-31T00:00:00Z", one,
		func(ctx context.Context, args []string) error {
			return f.resend(ctx, args[0], after, map[string]any{"ids": ids, "since": since, "until": until, "all": all})
		})
	for _, cmd := range []*cobra.Command{kept, resend} {
		choice(cmd)
		cmd.Flags().Uint64Var(&after, "after", 0, "only messages after that `NUMBER`")
	}
	resend.Flags().BoolVar(&all, "all", false, "all of them")
	return root
}

// call asks the API.
func (f *webhooksFlags) call(ctx context.Context, method, path string, q url.Values, in any) ([]byte, error) {
	if f.user != "" && f.bearer != "" {
		return nil, errors.New("only one authentication method can be specified")
	}
	c, err := f.control()
	if err != nil {
		return nil, err
	}
	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	u := *c.url
	u.Path = strings.TrimSuffix(u.Path, "/") + "/webhooks/" + path
	query := u.Query()
	for k, v := range q {
		query[k] = v
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.authorization != "" {
		req.Header.Set("Authorization", c.authorization)
	}
	// The URL's scheme says whether dial speaks TLS.
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return f.dial(ctx, c) }
	tr := &http.Transport{DialContext: dial, DialTLSContext: dial, DisableKeepAlives: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return nil, explainDial(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		var v struct{ Error string }
		if json.Unmarshal(b, &v) == nil && v.Error != "" {
			return nil, errors.New(v.Error)
		}
		return nil, fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(b))
	}
	return b, nil
}

// show prints an answer as JSON that people can read.
func (f *webhooksFlags) show(ctx context.Context, method, path string, q url.Values, in any) error {
	b, err := f.call(ctx, method, path, q, in)
	if err != nil {
		return err
	}
	if len(b) == 0 {
		_, err = fmt.Fprintln(f.out, "done")
		return err
	}
	var text bytes.Buffer
	if json.Indent(&text, b, "", "  ") != nil {
		text.Reset()
		text.Write(b)
	}
	_, err = f.out.Write(text.Bytes())
	return err
}

// table prints rows, or the answer itself with --json.
func table[T any](ctx context.Context, f *webhooksFlags, path string, q url.Values, into *T, head string, rows func(w io.Writer)) error {
	b, err := f.call(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	if f.asJSON {
		_, err = f.out.Write(b)
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	w := tabwriter.NewWriter(f.out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, head) // Flush tells
	rows(w)
	return w.Flush()
}

func (f *webhooksFlags) list(ctx context.Context, _ []string) error {
	var v struct {
		Endpoints []struct {
			ID, Status, Reason, URL string
			Channels                []string
			Queue                   struct {
				Messages int
				Oldest   float64 `json:"oldest_seconds"`
			}
			Dead int `json:"dead_letters"`
			Kept struct{ Messages int }
		}
	}
	return table(ctx, f, "", url.Values{"limit": {"1000"}}, &v, "ENDPOINT\tSTATUS\tWAITING\tOLDEST\tDEAD\tKEPT\tURL\tCHANNELS", func(w io.Writer) {
		for _, e := range v.Endpoints {
			status := e.Status
			if e.Reason != "" {
				status += " (" + e.Reason + ")"
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%.0fs\t%d\t%d\t%s\t%s\n", e.ID, status, e.Queue.Messages, e.Queue.Oldest, e.Dead, e.Kept.Messages, e.URL, strings.Join(e.Channels, " "))
		}
	})
}

func (f *webhooksFlags) attempts(ctx context.Context, args []string) error {
	var v struct {
		Attempts []struct {
			At, Message, Outcome, Condition, Response string
			Try, Status                               int
			Millis                                    int64 `json:"latency_ms"`
		}
	}
	return table(ctx, f, args[0]+"/attempts", nil, &v, "AT\tMESSAGE\tTRY\tRESULT\tLATENCY\tOUTCOME\tRESPONSE", func(w io.Writer) {
		for _, a := range v.Attempts {
			result := cmp.Or(a.Condition, fmt.Sprint(a.Status))
			at, _, _ := strings.Cut(a.At, ".")
			_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%dms\t%s\t%.60q\n", at, a.Message, a.Try, result, a.Millis, a.Outcome, a.Response)
		}
	})
}

func (f *webhooksFlags) dead(ctx context.Context, id string, q url.Values) error {
	var v struct {
		Dead []struct {
			Message, Channel, At, Reason string
			Attempts, Status             int
		} `json:"dead_letters"`
	}
	return table(ctx, f, id+"/dead", q, &v, "PUBLISHED\tMESSAGE\tCHANNEL\tATTEMPTS\tSTATUS\tREASON", func(w io.Writer) {
		for _, d := range v.Dead {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%.40q\t%d\t%d\t%s\n", d.At, d.Message, d.Channel, d.Attempts, d.Status, d.Reason)
		}
	})
}

func (f *webhooksFlags) kept(ctx context.Context, id string, q url.Values) error {
	var v struct {
		Kept []struct {
			Number               uint64
			Message, Channel, At string
			Delivered            string `json:"delivered_at"`
			Attempts, Size       int
		}
	}
	return table(ctx, f, id+"/kept", q, &v, "NUMBER\tPUBLISHED\tDELIVERED\tMESSAGE\tCHANNEL\tATTEMPTS\tBYTES", func(w io.Writer) {
		for _, k := range v.Kept {
			_, _ = fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%.40q\t%d\t%d\n", k.Number, k.At, k.Delivered, k.Message, k.Channel, k.Attempts, k.Size)
		}
	})
}

// resend asks as long as there is more, and room for it.
func (f *webhooksFlags) resend(ctx context.Context, id string, after uint64, in map[string]any) error {
	for sent := 0; ; {
		if after > 0 {
			in["after"] = after
		}
		b, err := f.call(ctx, http.MethodPost, id+"/resend", nil, in)
		if err != nil {
			return err
		}
		var v struct {
			Resent int
			Last   uint64
			More   bool
		}
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		sent += v.Resent
		after = max(after, v.Last)
		if f.asJSON {
			if _, err := f.out.Write(b); err != nil {
				return err
			}
		}
		switch {
		case !v.More && f.asJSON:
			return nil
		case !v.More:
			_, err = fmt.Fprintf(f.out, "%d messages are sent again\n", sent)
			return err
		case v.Last == 0: // not one more
			return fmt.Errorf("the queue is full after %d messages; go on with --after %d when it is not", sent, after)
		}
	}
}
