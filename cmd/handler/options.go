package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/handler"
	"github.com/holdfast/holdfast/pkg/unixsock"
)

var program = cli.Program{
	Kind:  "handler",
	Short: "Take publications and deliver them to subscribers",
	Flags: func(f *cli.Flags) {
		f.Setting("port-offset", "global.port_offset", "`NUMBER` that is added to the ports of the publishing interfaces")
	},
	Commands: func(load func() (*config.Config, error)) []*cobra.Command {
		return []*cobra.Command{publishCommand(load), webhooksCommand(load), tapCommand(load), doctorCommand(load)}
	},
	Runtime: func(c *config.Config) (config.Runtime, string) { return c.Handler.Runtime, c.Admin.Handler },
	Grace:   func(*config.Config) time.Duration { return 5 * time.Second },
	Pushpin: func(c *config.Config) (spec, prefix string) {
		return c.Handler.PrometheusPort, c.Handler.PrometheusPrefix
	},
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
		s, err := handler.New(o)
		if err != nil {
			return nil, err
		}
		return server{s}, nil
	},
}

// server adds to a handler what the admin listener wants.
type server struct{ *handler.Server }

// Ready says why publishes are not taken, or nil.
func (s server) Ready() error {
	if !s.Server.Ready() {
		return errors.New("not all connections are known yet; publishes are not taken")
	}
	return nil
}

// Admin returns what the admin listener serves besides metrics and health.
func (s server) Admin() map[string]http.Handler {
	return map[string]http.Handler{"/tap": s.Tap()}
}

// options translates the configuration.
func options(c *config.Config) (handler.Options, error) {
	h := c.Handler
	o := handler.DefaultOptions()
	o.MetricsPrefix = h.PrometheusPrefix
	o.PushIn, o.PushInSub, o.PushInSubConnect = h.PushInSpec, h.PushInSubSpecs, h.PushInSubConnect
	o.HTTPAddr = ""
	if h.PushInHTTPPort >= 0 {
		o.HTTPAddr = net.JoinHostPort(h.PushInHTTPAddr, strconv.Itoa(h.PushInHTTPPort))
	}
	o.HTTPMaxHeader, o.HTTPMaxBody = int(h.PushInHTTPMaxHeadersSize), int(h.PushInHTTPMaxBodySize)
	o.HTTPMaxConns, o.HTTPTimeout = h.PushInHTTPMaxConns, h.PushInHTTPTimeout
	o.Command, o.Stats, o.StatsJSON = h.CommandSpec, h.StatsSpec, h.StatsFormat == "json"
	o.StatsConnectionTTL, o.StatsConnectionSend = c.Global.StatsConnectionTTL, c.Global.StatsConnectionSend
	o.StatsSubscriptionTTL, o.StatsReportInterval = h.StatsSubscriptionTTL, h.StatsReportInterval
	o.IPCFileMode = h.IPCFileMode.Perm
	o.MessageRate, o.MessageHWM, o.MessageBlockSize = max(h.MessageRate, 0), max(h.MessageHWM, 0), max(h.MessageBlockSize, 0)
	o.MessageWait, o.IDCacheTTL = h.MessageWait, h.IDCacheTTL
	o.SubscriptionMax, o.SubscriptionLinger = h.ConnectionSubscriptionMax, h.SubscriptionLinger
	o.UpdateOnFirstSubscription = h.UpdateOnFirstSubscription
	o.Webhooks, o.WebhookTimeout = webhooks(c), h.WebhookTimeout
	local, err := c.ControlSocket()
	if err != nil {
		return o, cli.UsageError{Err: fmt.Errorf("handler.push_in_http_local: %w", err)}
	}
	o.HTTPLocal, o.HTTPLocalAccess = local.Addr, unixsock.Access{Mode: local.Mode.Perm, User: local.User, Group: local.Group}
	o.HTTPTLS = handler.HTTPTLS{Cert: c.Path(h.PushInHTTPTLSCert), Key: c.Path(h.PushInHTTPTLSKey), ClientCA: c.Path(h.PushInHTTPTLSClientCA)}
	if err := o.HTTPTLS.Check(); err != nil {
		return o, cli.UsageError{Err: fmt.Errorf("handler.push_in_http_tls_cert, _key, _client_ca: %w", err)}
	}
	o.HTTPAuth = handler.HTTPAuth{Iss: h.PushInHTTPAuthIss, Token: h.PushInHTTPAuthToken, User: h.PushInHTTPAuthUser}
	if o.HTTPAuth.Key, err = grip.ParseVerifyingKey(h.PushInHTTPAuthKey, c.Dir); err != nil {
		return o, cli.UsageError{Err: fmt.Errorf("handler.push_in_http_auth_key: %w", err)}
	}
	if o.HTTPAuth.User != "" && !strings.Contains(o.HTTPAuth.User, ":") {
		return o, cli.UsageError{Err: errors.New("handler.push_in_http_auth_user: want NAME:PASSWORD")}
	}
	if o.HTTPAuth.Iss != "" && o.HTTPAuth.Key.IsZero() {
		return o, cli.UsageError{Err: errors.New("handler.push_in_http_auth_iss: tokens need a key too, see push_in_http_auth_key")}
	}
	return o, nil
}

// webhooks says whether publishes have to wait for what zurl has to say.
func webhooks(c *config.Config) handler.Webhooks {
	switch {
	case c.Handler.Webhooks == "off" || c.Zurl.WebhookStore == "":
		return handler.WebhooksOff
	case c.Handler.Webhooks == "required":
		return handler.WebhooksRequired
	}
	for _, name := range []string{c.Zurl.WebhookStore, c.Path(c.Zurl.WebhookFile)} {
		if _, err := os.Stat(name); err == nil && name != "" {
			return handler.WebhooksRequired
		}
	}
	return handler.WebhooksAuto
}
