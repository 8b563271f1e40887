package zurl

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/netpolicy"
)

// Options configures a Server. Start from [DefaultOptions].
type Options struct {
	// Bus joins zurl to the others. Required; Server.Run runs it.
	Bus bus.Bus
	// Logger is silent if nil.
	Logger *slog.Logger
	// Registerer takes the metrics; nil means none are exported.
	Registerer prometheus.Registerer

	// MaxOpen is how many requests are made at a time.
	MaxOpen int
	// MaxQueued is how many may wait for their turn. More are answered with the
	// condition too-busy.
	MaxQueued int
	// MaxBody bounds a response body, decoded, and MaxHead a response head, in
	// bytes.
	MaxBody, MaxHead int64
	// Timeout bounds a whole request, ConnectTimeout the way to the server.
	Timeout, ConnectTimeout time.Duration
	// DrainTime is how long a stopping Server lets open requests go on.
	DrainTime time.Duration

	// Policy says where requests may go that are not trusted. nil allows all.
	Policy *netpolicy.Rules
	// RootCAs verify servers; nil means those of the system.
	RootCAs *x509.CertPool
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{
		MaxOpen: 200, MaxQueued: 2000,
		MaxBody: 1 << 20, MaxHead: 64 << 10,
		Timeout: time.Minute, ConnectTimeout: 10 * time.Second, DrainTime: 5 * time.Second,
	}
}

func (o *Options) check() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(o.Bus != nil, "Bus is not set")
	need(o.MaxOpen > 0, "MaxOpen must be positive")
	need(o.MaxQueued >= 0, "MaxQueued is negative")
	need(o.MaxBody > 0 && o.MaxBody <= maxBody, fmt.Sprintf("MaxBody must be within 1 to %d", maxBody))
	need(o.MaxHead > 0, "MaxHead must be positive")
	need(o.Timeout > 0 && o.ConnectTimeout > 0, "Timeout and ConnectTimeout must be positive")
	need(o.DrainTime >= 0, "DrainTime is negative")
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("zurl options: %w", err)
	}
	return nil
}
