package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/publish"
)

const (
	// sendTimeout limits one publish; tokens made for it are good a little longer.
	sendTimeout = 30 * time.Second
	// maxAnswer is how much of an answer is read.
	maxAnswer = 64 << 10
)

// publishFlags are what pushpin-publish has.
type publishFlags struct {
	id, prevID, sender, code, spec, user, bearer string
	cacert, cert, key, socket                    string
	meta, header                                 []string
	hint, close, patch, noSeq, noEOL, report     bool
}

// publishCommand is "handler publish". Errors read as those of pushpin-publish.
func publishCommand(load func() (*config.Config, error)) *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:   "publish CHANNEL [CONTENT]",
		Short: "Publish a message to a channel, as pushpin-publish does",
		Long: "Publish a message to a channel, as pushpin-publish does. CONTENT goes to everybody on the channel, whatever kind\n" +
			"of connection; @FILE is the content of a file. For HTTP a line end is added to text.",
		Example: "  handler publish news 'hello there'\n" +
			"  handler publish --spec 'https://api.example.com/x?iss=me&key=base64:c2VjcmV0' news @message.txt\n" +
			"  handler publish --spec tcp://localhost:5560 --id 2 --prev-id 1 news second\n" +
			"  handler publish --close news",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), sendTimeout)
			defer cancel()
			if err := f.find(cmd.Flags(), load); err != nil {
				return err
			}
			told, err := f.publish(ctx, args)
			if err != nil {
				return cli.PlainError{Err: fmt.Errorf("Error: %w", err)} //nolint:staticcheck // the text that scripts know
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), told)
			return err
		},
	}
	p := cmd.Flags()
	p.StringVar(&f.id, "id", "", "`ID` of the message")
	p.StringVar(&f.prevID, "prev-id", "", "`ID` of the message before it")
	p.StringVar(&f.sender, "sender", "", "meta variable sender: a `USER` for the filters skip-self and skip-users")
	p.StringArrayVarP(&f.meta, "meta", "M", nil, "meta variable, as `NAME=VALUE`; may be repeated")
	p.StringVar(&f.code, "code", "200", "status `CODE` of HTTP responses")
	p.StringArrayVarP(&f.header, "header", "H", nil, "header of HTTP responses, as `NAME: VALUE`; may be repeated")
	p.BoolVar(&f.hint, "hint", false, "have held requests ask the backend again, instead of sending content")
	p.BoolVar(&f.close, "close", false, "close streams and WebSockets")
	p.BoolVar(&f.patch, "patch", false, "the content is a JSON Patch for held responses")
	p.BoolVar(&f.noSeq, "no-seq", false, "do not put the message in order with others")
	p.BoolVar(&f.noEOL, "no-eol", false, "do not add a line end")
	p.BoolVar(&f.report, "report", false, "ask how many subscribers the message is for; only Holdfast tells that, over HTTP")
	p.StringVar(&f.spec, "spec", "", "control `URL` (http or https, with iss and key if wanted) or ZeroMQ PUSH spec (tcp or ipc); "+
		noSpec)
	f.transportFlags(p)
	return cmd
}

// noSpec says where the control API is if --spec does not.
const noSpec = "without it what the configuration says, if --config, --set or --port-offset is given; " +
	"else the environment variable GRIP_URL, else http://localhost:5561"

// find sets what --spec, --bearer and --user did not, as noSpec says.
func (f *publishFlags) find(given *pflag.FlagSet, load func() (*config.Config, error)) error {
	if f.spec != "" {
		return nil
	}
	if !slices.ContainsFunc([]string{"config", "set", "port-offset"}, given.Changed) {
		f.spec = cmp.Or(os.Getenv("GRIP_URL"), "http://localhost:5561")
		return nil
	}
	c, err := load()
	if err != nil {
		return err
	}
	h := c.Handler
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(reachable(h.PushInHTTPAddr), strconv.Itoa(h.PushInHTTPPort))}
	if h.PushInHTTPTLSCert != "" {
		u.Scheme = "https"
	}
	if h.PushInHTTPPort < 0 {
		local, err := c.ControlSocket()
		if err != nil || local.Addr == "" {
			return cli.UsageError{Err: errors.New("with this configuration there is no control API: set handler.push_in_http_port or push_in_http_local")}
		}
		u.Scheme, u.Host = "http", "localhost"
		f.socket = cmp.Or(f.socket, local.Addr)
	}
	if f.bearer == "" && f.user == "" && f.socket == "" {
		switch isFile := strings.HasPrefix(h.PushInHTTPAuthKey, "file:"); {
		case h.PushInHTTPAuthToken != "":
			f.bearer = h.PushInHTTPAuthToken
		case h.PushInHTTPAuthUser != "":
			f.user = h.PushInHTTPAuthUser
		case h.PushInHTTPAuthKey != "" && !isFile: // a file has a public key, most likely
			u.RawQuery = url.Values{"iss": {cmp.Or(h.PushInHTTPAuthIss, "handler")}, "key": {h.PushInHTTPAuthKey}}.Encode()
		}
	}
	f.spec = u.String()
	return nil
}

// reachable returns a host at which something that listens at host can be reached.
func reachable(host string) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		return "localhost"
	}
	return host
}

// transportFlags are about who asks, and over what.
func (f *publishFlags) transportFlags(p *pflag.FlagSet) {
	p.StringVarP(&f.user, "user", "u", "", "`NAME:PASSWORD` for HTTP Basic")
	p.StringVarP(&f.bearer, "bearer", "B", "", "bearer `TOKEN`")
	p.StringVar(&f.cacert, "cacert", "", "`FILE` with the certificates (PEM) that the server's is checked with, instead of the system's")
	p.StringVar(&f.cert, "cert", "", "`FILE` with the client's certificate (PEM)")
	p.StringVar(&f.key, "key", "", "`FILE` with the key (PEM) of the client's certificate, if that file does not have it")
	p.StringVar(&f.socket, "unix-socket", "", "unix socket of the control API, a `PATH`, instead of the host in the URL")
}

// publish returns what to tell the user.
func (f *publishFlags) publish(ctx context.Context, args []string) (told string, err error) {
	const published = "Published"
	if f.user != "" && f.bearer != "" {
		return "", errors.New("only one authentication method can be specified")
	}
	draft, err := f.draft(args)
	if err != nil {
		return "", err
	}
	scheme, _, ok := strings.Cut(f.spec, "://")
	switch {
	case ok && (scheme == "http" || scheme == "https"):
		answer, err := f.publishHTTP(ctx, draft)
		if err != nil || !f.report {
			return published, err
		}
		return published + reported(answer), nil
	case ok && (scheme == "tcp" || scheme == "ipc") && f.report:
		return "", errors.New("ZeroMQ publishing has no answer, so there is no report; use an HTTP control URL")
	case ok && (scheme == "tcp" || scheme == "ipc"):
		return published, publishZMQ(ctx, f.spec, draft)
	}
	return "", fmt.Errorf("spec %q: want http://, https://, tcp:// or ipc://", f.spec)
}

// reported is the report in an answer, for people.
func reported(answer []byte) string {
	var a struct {
		Items []struct {
			Result          string
			Matched, Queued int
		}
	}
	if err := json.Unmarshal(answer, &a); err != nil || len(a.Items) != 1 {
		return ": the server gives no report"
	}
	if it := a.Items[0]; it.Result != "sent" {
		return ": " + it.Result
	}
	return fmt.Sprintf(": matched %d, queued %d", a.Items[0].Matched, a.Items[0].Queued)
}

// explainDial adds to an error of connecting what to look at.
func explainDial(err error) error {
	var notTLS tls.RecordHeaderError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; is Holdfast running, and is --spec (or GRIP_URL) where its control API listens?", err)
	case errors.As(err, &notTLS):
		return fmt.Errorf("%w; the server does not speak TLS there, try http://", err)
	}
	return err
}

// draft reads the flags and the content.
func (f *publishFlags) draft(args []string) (*publish.Draft, error) {
	d := &publish.Draft{Channel: args[0], ID: f.id, PrevID: f.prevID, NoSeq: f.noSeq, Report: f.report, Meta: make(map[string]string)}
	code, err := strconv.Atoi(f.code)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return nil, errors.New("failed to parse code: invalid digit found in string")
	case err != nil || code < 0 || code > 999:
		return nil, errors.New("code must be an integer between 0 and 999")
	}
	d.Code = code
	if f.sender != "" {
		d.Meta["sender"] = f.sender
	}
	for _, m := range f.meta {
		name, value, ok := strings.Cut(m, "=")
		if !ok {
			return nil, errors.New(`meta must be in the form "name=value"`)
		}
		d.Meta[name] = strings.TrimSpace(value)
	}
	for _, h := range f.header {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, errors.New(`header must be in the form "name: value"`)
		}
		d.Header = append(d.Header, publish.Field{Name: name, Value: strings.TrimSpace(value)})
	}
	switch {
	case f.hint:
		d.Action = publish.Hint
		return d, nil
	case f.close:
		d.Action = publish.Close
		return d, nil
	case len(args) < 2:
		return nil, errors.New("must specify content")
	}
	content := []byte(args[1])
	file, isFile := strings.CutPrefix(args[1], "@")
	if isFile {
		if content, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("can't read file %s: %w", file, err)
		}
	} else if !f.noEOL {
		d.Line = "\n"
	}
	if d.Content = content; f.patch {
		d.Patch = content
	}
	return d, nil
}

// control is where to send requests, and what proves who sends them.
type control struct {
	url           *url.URL
	authorization string
}

// control reads the URL. Its parameters iss and key, and user and password, are
// understood as GRIP libraries do.
func (f *publishFlags) control() (*control, error) {
	u, err := url.Parse(f.spec)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("invalid URL")
	}
	c := &control{url: u}
	q := u.Query()
	iss, key := q.Get("iss"), q.Get("key")
	// A blank is what a plus sign of base64 becomes in a query.
	if b, ok := strings.CutPrefix(key, "base64:"); ok {
		key = "base64:" + strings.ReplaceAll(b, " ", "+")
	}
	switch {
	case f.bearer != "":
		c.authorization = "Bearer " + f.bearer
	case f.user != "":
		c.authorization = basic(f.user)
	case iss != "":
		signing, err := grip.ParseSigningKey(key, "")
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		token, err := signing.Sign(iss, time.Now().Add(10*time.Minute))
		if err != nil {
			return nil, err
		}
		c.authorization = "Bearer " + token
	case key != "":
		c.authorization = "Bearer " + key
	case u.User != nil:
		password, _ := u.User.Password()
		c.authorization = basic(u.User.Username() + ":" + password)
	}
	if strings.ContainsAny(c.authorization, "\r\n") {
		return nil, errors.New("credentials contain a line break")
	}
	if c.authorization != "" && u.Scheme == "http" && f.socket == "" && !isLoopback(u.Hostname()) {
		return nil, errors.New("Authentication requires https") //nolint:staticcheck // the text that scripts know
	}
	q.Del("iss")
	q.Del("key")
	u.RawQuery = q.Encode()
	u.User, u.Fragment = nil, ""
	return c, nil
}

func basic(user string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(user)) }

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// publishHTTP posts the item in HTTP/1.0, byte for byte as pushpin-publish.
// It returns the text of the answer.
func (f *publishFlags) publishHTTP(ctx context.Context, draft *publish.Draft) ([]byte, error) {
	c, err := f.control()
	if err != nil {
		return nil, err
	}
	body, err := draft.Batch()
	if err != nil {
		return nil, err
	}
	conn, err := f.dial(ctx, c)
	if err != nil {
		return nil, explainDial(err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	target := strings.TrimSuffix(c.url.EscapedPath(), "/") + "/publish/"
	if c.url.RawQuery != "" {
		target += "?" + c.url.RawQuery
	}
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/json\r\n", target, c.url.Host)
	if c.authorization != "" {
		fmt.Fprintf(&b, "Authorization: %s\r\n", c.authorization)
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, fmt.Errorf("read response: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read response: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		if s := strings.TrimSpace(string(text)); s != "" {
			return nil, errors.New(s)
		}
		return nil, errors.New(res.Status)
	}
	return text, nil
}

func (f *publishFlags) dial(ctx context.Context, c *control) (net.Conn, error) {
	network, addr := "unix", f.socket
	if addr == "" {
		port := cmp.Or(c.url.Port(), map[string]string{"http": "80", "https": "443"}[c.url.Scheme])
		network, addr = "tcp", net.JoinHostPort(c.url.Hostname(), port)
	}
	if c.url.Scheme == "http" {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	conf := &tls.Config{ServerName: c.url.Hostname(), MinVersion: tls.VersionTLS12}
	if f.cacert != "" {
		pem, err := os.ReadFile(f.cacert)
		if err != nil {
			return nil, fmt.Errorf("can't read file %s: %w", f.cacert, err)
		}
		if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("there is no certificate in %s", f.cacert)
		}
	}
	if f.cert != "" {
		cert, err := tls.LoadX509KeyPair(f.cert, cmp.Or(f.key, f.cert))
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	d := tls.Dialer{Config: conf}
	return d.DialContext(ctx, network, addr)
}

// publishZMQ pushes the item. ZeroMQ confirms nothing: success means that the
// message was written to a connection.
func publishZMQ(ctx context.Context, spec string, draft *publish.Draft) error {
	msg, err := draft.Message()
	if err != nil {
		return err
	}
	push, err := bus.NewPush(bus.SocketOptions{Name: "publish", Connect: []string{spec}})
	if err != nil {
		return err
	}
	defer func() { _ = push.Close() }()
	if err = push.Send(ctx, msg); err == nil {
		err = push.Flush(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("nobody took the message at %s within %v", spec, sendTimeout)
	}
	return err
}
