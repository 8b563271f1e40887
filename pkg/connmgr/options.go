package connmgr

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
)

// Options is everything that a Server needs to know. Start from
// DefaultOptions and set Bus and Listen.
type Options struct {
	// Bus is this instance's end of the bus. Required.
	Bus bus.Bus
	// Logger takes log records; nil is silent.
	Logger *slog.Logger
	// Registerer takes the metrics; nil keeps them unregistered.
	Registerer prometheus.Registerer

	// Listen names the sockets for clients.
	Listen []Listen
	// CertDir is the directory of certificates for TLS listeners: NAME.crt and
	// NAME.key, where NAME is the server name asked for, "_." and its parent
	// domain, or "default_PORT".
	CertDir string

	// MaxConns is how many client connections may be open. For more, those that
	// wait for a request make room, and connections end after their response
	// instead of staying open for the next request. If that is not enough, the
	// next one waits for FullWait, and those after it are answered with 503.
	MaxConns int
	// FullWait is how long a connection waits for room if MaxConns are open, and how
	// long one must have waited for a request to make room for another.
	FullWait time.Duration
	// BufferSize is the largest request line plus header block, in bytes.
	BufferSize int
	// MaxFields is the largest number of header fields of a request.
	MaxFields int

	// HeaderTimeout limits the time from the first byte of a request to the end
	// of its header block, and a TLS handshake.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may stay open between requests.
	IdleTimeout time.Duration
	// BodyTimeout is how long a request body may make no progress.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may take no byte of a response that is
	// being written.
	WriteTimeout time.Duration
	// ResponseTimeout is how long the far end of an ordinary request may be
	// silent.
	ResponseTimeout time.Duration
	// PeerWait is how long a request waits for a proxy.
	PeerWait time.Duration

	// Compression offers permessage-deflate to WebSocket clients.
	Compression bool
	// MaxBacklog is how many bytes may wait for one held client that does not
	// read. Each message counts 64 bytes more than it has.
	MaxBacklog int
	// Policy says what happens beyond MaxBacklog to holds that do not say
	// themselves.
	Policy frame.Policy
	// MaxQueued is how many bytes of publications may wait for one writer loop.
	MaxQueued int
	// RepeatTime is how long an item is remembered, so that it is not delivered
	// again when the handler was killed before it had answered the publisher. 0: not
	// at all.
	RepeatTime time.Duration
	// Writers is the number of writer loops.
	Writers int

	// DrainTime is how long a stopping Server takes to end what is open.
	DrainTime time.Duration
}

// Listen is one socket for clients.
type Listen struct {
	// Network is "tcp" or "unix".
	Network string
	// Addr is "host:port" or the path of the socket.
	Addr string
	// TLS asks for TLS with the certificates of Options.CertDir.
	TLS bool
	// Mode, User and Group apply to a unix socket, if they are not zero.
	Mode  fs.FileMode
	User  string
	Group string
}

// DefaultOptions returns the defaults of everything that has one.
func DefaultOptions() Options {
	return Options{
		MaxConns:        50000,
		FullWait:        time.Second,
		BufferSize:      8192,
		MaxFields:       128,
		HeaderTimeout:   60 * time.Second,
		IdleTimeout:     180 * time.Second,
		BodyTimeout:     60 * time.Second,
		WriteTimeout:    60 * time.Second,
		ResponseTimeout: 1800 * time.Second,
		PeerWait:        10 * time.Second,
		MaxBacklog:      1 << 20,
		Policy:          frame.PolicyClose,
		MaxQueued:       64 << 20,
		RepeatTime:      60 * time.Second,
		Writers:         runtime.GOMAXPROCS(0),
		DrainTime:       10 * time.Second,
	}
}

// maxWriters bounds the per-group tables, which have an entry for each writer.
const maxWriters = 256

func (o *Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Bus == nil {
		bad("Bus is not set")
	}
	for _, l := range o.Listen {
		switch {
		case l.Network != "tcp" && l.Network != "unix":
			bad("Listen %q: network %q is neither tcp nor unix", l.Addr, l.Network)
		case l.Addr == "":
			bad("Listen: empty address")
		case l.TLS && o.CertDir == "":
			bad("Listen %q: TLS needs CertDir", l.Addr)
		case l.Network == "unix" && strings.ContainsRune(l.Addr, 0):
			bad("Listen %q: NUL in path", l.Addr)
		}
	}
	for _, v := range []struct {
		name     string
		n        int
		min, max int
	}{
		{"MaxConns", o.MaxConns, 1, 1 << 30},
		{"BufferSize", o.BufferSize, 512, 1 << 20},
		{"MaxFields", o.MaxFields, 1, frame.MaxHeaders},
		{"MaxBacklog", o.MaxBacklog, 1, 1 << 30},
		{"MaxQueued", o.MaxQueued, 1, 1 << 40},
		{"Writers", o.Writers, 1, maxWriters},
	} {
		if v.n < v.min || v.n > v.max {
			bad("%s is %d, not within %d to %d", v.name, v.n, v.min, v.max)
		}
	}
	for _, v := range []struct {
		name string
		d    time.Duration
	}{
		{"FullWait", o.FullWait},
		{"HeaderTimeout", o.HeaderTimeout},
		{"IdleTimeout", o.IdleTimeout},
		{"BodyTimeout", o.BodyTimeout},
		{"WriteTimeout", o.WriteTimeout},
		{"ResponseTimeout", o.ResponseTimeout},
		{"PeerWait", o.PeerWait},
	} {
		if v.d <= 0 {
			bad("%s is %v, not above zero", v.name, v.d)
		}
	}
	if o.RepeatTime < 0 {
		bad("RepeatTime is %v, below zero", o.RepeatTime)
	}
	if o.DrainTime < 0 {
		bad("DrainTime is %v, below zero", o.DrainTime)
	}
	if o.Policy > frame.PolicyLatest {
		bad("Policy is %d, unknown", o.Policy)
	}
	return errors.Join(errs...)
}
