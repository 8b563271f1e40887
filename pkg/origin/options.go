package origin

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/netpolicy"
)

// Options configures a Pool. Zero values mean the defaults.
type Options struct {
	// Registerer takes the metrics; nil means none are exported.
	Registerer prometheus.Registerer

	// ConnectTimeout limits the way to a usable connection: waiting for a free
	// one, resolving the name, connecting, TLS. Default 10 s.
	ConnectTimeout time.Duration
	// ResponseTimeout is how long an origin may take to begin its response,
	// counted from the last part of the request that it took. Default 30 min.
	ResponseTimeout time.Duration
	// IdleTimeout is how long a response may stand still. Default 30 min.
	IdleTimeout time.Duration
	// KeepAlive is how long an unused connection is kept, unless the origin's
	// Keep-Alive field names a shorter time. Default 55 s.
	KeepAlive time.Duration
	// MaxAge is how long after it was made a connection may be used for a further
	// request. Default 0: for ever.
	MaxAge time.Duration

	// MaxOpen and MaxOpenPerTarget bound the connections in use and idle.
	// Requests over a bound wait for up to ConnectTimeout; an idle connection to
	// another target is closed in favour of one that is wanted. Defaults 16384
	// and 8192.
	MaxOpen, MaxOpenPerTarget int
	// MaxIdlePerTarget bounds the connections kept unused; the oldest is closed.
	// Default 512.
	MaxIdlePerTarget int
	// MaxDialing bounds the connections being made to one target at the same
	// time, so that a burst of requests does not overrun its accept queue: those
	// that wait take whatever becomes free first. Default 256.
	MaxDialing int

	// Limits bounds response heads and trailers. Default 64 KiB and 1024 fields.
	Limits http1.Limits

	// RootCAs verify origins; nil means those of the system.
	RootCAs *x509.CertPool
	// Resolve looks up the addresses of a name; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Allowed decides to which addresses of Untrusted targets may be connected;
	// nil means public ones, see netpolicy.
	Allowed func(netip.AddrPort) bool
}

func (o Options) withDefaults() Options {
	o.ConnectTimeout = orDefault(o.ConnectTimeout, 10*time.Second)
	o.ResponseTimeout = orDefault(o.ResponseTimeout, 30*time.Minute)
	o.IdleTimeout = orDefault(o.IdleTimeout, 30*time.Minute)
	o.KeepAlive = orDefault(o.KeepAlive, 55*time.Second)
	o.MaxOpen = orDefault(o.MaxOpen, 16384)
	o.MaxOpenPerTarget = orDefault(o.MaxOpenPerTarget, 8192)
	o.MaxIdlePerTarget = orDefault(o.MaxIdlePerTarget, 512)
	o.MaxDialing = orDefault(o.MaxDialing, 256)
	o.Limits.MaxHead = orDefault(o.Limits.MaxHead, 64<<10)
	o.Limits.MaxFields = orDefault(o.Limits.MaxFields, frame.MaxHeaders)
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.Allowed == nil {
		o.Allowed = func(ap netip.AddrPort) bool { return netpolicy.Public(ap.Addr()) }
	}
	return o
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
