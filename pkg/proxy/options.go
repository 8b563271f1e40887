package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/origin"
)

// Options configures a Server. Start from [DefaultOptions].
type Options struct {
	// Bus joins the proxy to connmgr and handler. Required.
	Bus bus.Bus
	// Logger is silent if nil.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means none are exported.
	Registerer prometheus.Registerer
	// Origin is how origins are talked to. Its Registerer may be left nil; it is
	// the one above then.
	Origin origin.Options

	// MetricsPrefix stands before the names of the metrics that Pushpin has.
	MetricsPrefix string

	// RoutesFile is the path of the routes file. It is watched for changes.
	RoutesFile string
	// Routes are lines in the form of the routes file. If there are any, the
	// file is not read at all.
	Routes []string
	// KeyDir is the directory that relative "file:" keys of SigKey and
	// UpstreamKey start from: where the configuration file is. Keys in routes
	// are relative to the routes file.
	KeyDir string

	// Debug puts the detailed reason into error responses, on every route.
	Debug bool
	// AutoCrossOrigin turns on cross-origin headers and JSON-P on every route.
	AutoCrossOrigin bool
	// AcceptXForwardedProtocol lets a client say by X-Forwarded-Proto that it
	// came over TLS.
	AcceptXForwardedProtocol bool
	// SetXForwardedProtocol says what origins are told about TLS.
	SetXForwardedProtocol ForwardedProtocol
	// XForwardedFor and XForwardedForTrusted say what happens to the header
	// X-Forwarded-For, for ordinary clients and for ones that UpstreamKey
	// verifies.
	XForwardedFor, XForwardedForTrusted ForwardedFor
	// OrigHeadersNeedMark names headers that are not marked automatically on
	// routes with orig_headers.
	OrigHeadersNeedMark []string
	// AcceptPushpinRoute lets a client choose its route by id, with the header
	// Pushpin-Route.
	AcceptPushpinRoute bool
	// CDNLoop is appended to the header CDN-Loop; "" leaves that header alone.
	CDNLoop string
	// SockJSURL is where the page for frames of other origins loads the SockJS
	// client from.
	SockJSURL string
	// SigIss and SigKey sign requests to origins; a route may override both.
	SigIss, SigKey string
	// UpstreamKey verifies Grip-Sig of clients that are GRIP proxies themselves.
	UpstreamKey string
	// LogFrom and LogUserAgent add to the lines of the access log.
	LogFrom, LogUserAgent bool

	// MaxExchanges is how many exchanges may be open at once. Further requests
	// are answered with 503.
	MaxExchanges int
	// WebSocketOverHTTPTimeout is how long one request of a WebSocket-over-HTTP
	// session may take.
	WebSocketOverHTTPTimeout time.Duration
	// HandOverTimeout is how long a handler is waited for to take a hold.
	HandOverTimeout time.Duration
	// DrainTime is how long open exchanges may go on when the proxy is to stop.
	DrainTime time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// After is the timer that gathers changes of the routes file; nil means
	// time.After.
	After func(time.Duration) <-chan time.Time
	// AfterFunc calls f after some time, in a goroutine of its own, and returns a
	// function that prevents it; nil means time.AfterFunc. WebSocket-over-HTTP
	// sessions wait with it.
	AfterFunc func(d time.Duration, f func()) (stop func() bool)
}

// DefaultOptions returns the defaults. They are those of Pushpin's example
// configuration wherever it has the same setting.
func DefaultOptions() Options {
	return Options{
		SetXForwardedProtocol:    ForwardedProtocolProtoOnly,
		SockJSURL:                "http://cdn.jsdelivr.net/sockjs/0.3.4/sockjs.min.js",
		SigIss:                   "pushpin",
		MaxExchanges:             50000,
		HandOverTimeout:          8 * time.Second,
		WebSocketOverHTTPTimeout: 60 * time.Second,
		DrainTime:                5 * time.Second,
	}
}

// check reports what cannot work, naming the option.
func (o *Options) check() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(o.Bus != nil, "Bus is not set")
	need(o.MaxExchanges > 0, "MaxExchanges must be positive")
	need(o.HandOverTimeout > 0, "HandOverTimeout must be positive")
	need(o.WebSocketOverHTTPTimeout > 0, "WebSocketOverHTTPTimeout must be positive")
	need(o.DrainTime >= 0, "DrainTime is negative")
	return errors.Join(errs...)
}

// ForwardedProtocol is the setting set_x_forwarded_protocol.
type ForwardedProtocol uint8

// Values of ForwardedProtocol.
const (
	ForwardedProtocolOff       ForwardedProtocol = iota
	ForwardedProtocolProtoOnly                   // X-Forwarded-Proto
	ForwardedProtocolBoth                        // and X-Forwarded-Protocol
)

// ParseForwardedProtocol reads the configuration's form: "true", "proto-only";
// anything else is off.
func ParseForwardedProtocol(s string) ForwardedProtocol {
	switch s {
	case "true":
		return ForwardedProtocolBoth
	case "proto-only":
		return ForwardedProtocolProtoOnly
	}
	return ForwardedProtocolOff
}

// ForwardedFor is what happens to X-Forwarded-For. The zero value passes the
// client's values on, merged into one header.
type ForwardedFor struct {
	Truncate bool // keep only the last Keep values
	Keep     int
	Append   bool // add the client's address
}

// ParseForwardedFor reads the configuration's form, such as
// "truncate:1,append". The order of the words does not matter.
func ParseForwardedFor(words []string) (ForwardedFor, error) {
	var f ForwardedFor
	for _, w := range words {
		w = strings.TrimSpace(w)
		switch n, isTruncate := strings.CutPrefix(w, "truncate:"); {
		case w == "":
		case w == "append":
			f.Append = true
		case isTruncate:
			keep, err := strconv.Atoi(n)
			if err != nil || keep < 0 {
				return ForwardedFor{}, fmt.Errorf("x_forwarded_for: truncate wants a number of values to keep, not %q", n)
			}
			f.Truncate, f.Keep = true, keep
		default:
			return ForwardedFor{}, fmt.Errorf("x_forwarded_for: unknown rule %q", w)
		}
	}
	return f, nil
}
