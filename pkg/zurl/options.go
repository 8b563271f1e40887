package zurl

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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

	// MaxFetches is how many requests of other processes are made at a time.
	MaxFetches int
	// MaxQueued is how many may wait for their turn. More are answered with the
	// condition too-busy.
	MaxQueued int
	// MaxBody bounds a response body for another process, decoded, in bytes.
	MaxBody int64
	// FetchTimeout bounds a whole request of another process.
	FetchTimeout time.Duration

	// InSpec, InStreamSpec and OutSpec are what the sockets of the streaming
	// interface bind, all of them or none; InReqSpec that of the REQ interface.
	InSpec, InStreamSpec, OutSpec, InReqSpec string
	// InstanceID is what clients of the streaming interface address; "" for a
	// random one.
	InstanceID string
	// IPCFileMode is the mode of these sockets, 0 for that of the umask.
	IPCFileMode fs.FileMode
	// InHWM is how many messages may wait in each of the receiving sockets.
	InHWM int
	// MaxSessions is how many requests of these interfaces are open at a time. At
	// that many no new ones are read.
	MaxSessions int
	// BufferSize is how many bytes a client may send without further credits, and
	// the largest WebSocket frame.
	BufferSize int
	// MaxWhole bounds a response body that goes into one packet, in bytes.
	MaxWhole int64
	// SessionTimeout ends a session in which no bytes move.
	SessionTimeout time.Duration

	// MaxHead bounds a response head, in bytes.
	MaxHead int64
	// ConnectTimeout bounds the way to a server.
	ConnectTimeout time.Duration
	// MaxAge is how long a connection is used for further requests.
	MaxAge time.Duration
	// DrainTime is how long a stopping Server lets open requests go on.
	DrainTime time.Duration

	// Webhooks are off if no Store is set.
	Webhooks Webhooks

	// Policy says where requests may go that are not trusted. nil allows all.
	Policy *netpolicy.Rules
	// NoIPv6 forbids all IPv6 addresses to them.
	NoIPv6 bool
	// RootCAs verify servers; nil means those of the system.
	RootCAs *x509.CertPool
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{
		MaxFetches: 200, MaxQueued: 2000, MaxBody: 1 << 20, FetchTimeout: time.Minute,
		InHWM: 1000, MaxSessions: 2000, BufferSize: 200_000, MaxWhole: 10 << 20, SessionTimeout: 10 * time.Minute,
		MaxHead: 64 << 10, ConnectTimeout: 10 * time.Second, MaxAge: 2 * time.Hour, DrainTime: 5 * time.Second,
	}
}

// maxWhole keeps a packet well below what a socket sends.
const maxWhole = 64 << 20

func (o *Options) check() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(o.Bus != nil, "Bus is not set")
	need(o.MaxFetches > 0, "MaxFetches must be positive")
	need(o.MaxQueued >= 0, "MaxQueued is negative")
	need(o.MaxBody > 0 && o.MaxBody <= maxBody, fmt.Sprintf("MaxBody must be within 1 to %d", maxBody))
	need(o.MaxHead > 0, "MaxHead must be positive")
	need(o.FetchTimeout > 0 && o.ConnectTimeout > 0, "FetchTimeout and ConnectTimeout must be positive")
	need((o.InSpec == "") == (o.InStreamSpec == "") && (o.InSpec == "") == (o.OutSpec == ""),
		"if any of in_spec, in_stream_spec, or out_spec are set then all of them must be set")
	need(o.InHWM > 0 && o.MaxSessions > 0 && o.BufferSize > 0, "InHWM, MaxSessions and BufferSize must be positive")
	need(o.MaxWhole > 0 && o.MaxWhole <= maxWhole, fmt.Sprintf("MaxWhole must be within 1 to %d", maxWhole))
	need(o.SessionTimeout > 0 && o.MaxAge > 0, "SessionTimeout and MaxAge must be positive")
	need(o.DrainTime >= 0, "DrainTime is negative")
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("zurl options: %w", err)
	}
	return nil
}
