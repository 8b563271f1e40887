package handler

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/unixsock"
)

// Options are the settings of a handler. Start from [DefaultOptions].
type Options struct {
	// Bus is this process's end of the bus. It must be set; Server.Run runs it.
	Bus bus.Bus
	// Logger may be nil, which means silence.
	Logger *slog.Logger
	// Registerer may be nil; then nothing is exported.
	Registerer prometheus.Registerer
	// MetricsPrefix stands before the names of the metrics that Pushpin has.
	MetricsPrefix string

	// PushIn is the ZeroMQ PULL endpoint that publishers push items to; "" is off.
	PushIn string
	// PushInSub are the ZeroMQ SUB endpoints; empty is off. Without
	// PushInSubConnect the first one is bound.
	PushInSub []string
	// PushInSubConnect connects the SUB socket to every endpoint of PushInSub.
	PushInSubConnect bool
	// HTTPAddr is where the control API listens, "host:port"; "" is off.
	HTTPAddr string
	// HTTPLocal is the path of a unix socket on which the control API listens too;
	// "" is none. Who may connect may use it: HTTPAuth and HTTPTLS are for HTTPAddr.
	HTTPLocal string
	// HTTPLocalAccess says who may connect to HTTPLocal.
	HTTPLocalAccess unixsock.Access
	// HTTPMaxHeader and HTTPMaxBody bound a request to the control API, in bytes.
	HTTPMaxHeader int
	HTTPMaxBody   int
	// HTTPMaxConns is how many connections the control API serves at once, on
	// HTTPAddr and HTTPLocal each; more wait unaccepted.
	HTTPMaxConns int
	// HTTPTimeout is how long a connection to the control API may take for its
	// one request.
	HTTPTimeout time.Duration
	// HTTPAuth protects the control API on HTTPAddr.
	HTTPAuth HTTPAuth
	// HTTPTLS makes HTTPAddr speak TLS.
	HTTPTLS HTTPTLS
	// Command is the ZeroMQ endpoint of the command socket; "" is off.
	Command string
	// Stats is the ZeroMQ PUB endpoint for statistics; "" is off.
	Stats string
	// StatsJSON sends statistics as JSON instead of tnetstrings.
	StatsJSON bool
	// StatsSubscriptionTTL is how long a subscription statistic stays true.
	StatsSubscriptionTTL time.Duration
	// StatsConnectionTTL is how long a connection statistic stays true.
	StatsConnectionTTL time.Duration
	// StatsConnectionSend sends a statistic for each connection.
	StatsConnectionSend bool
	// StatsReportInterval is the time between two reports.
	StatsReportInterval time.Duration
	// IPCFileMode is the mode of ipc sockets that are bound; 0 leaves the umask's.
	IPCFileMode fs.FileMode

	// MessageRate is the number of deliveries a second for the whole process;
	// 0 is unlimited.
	MessageRate int
	// MessageHWM is how many deliveries may wait for MessageRate in each bucket;
	// what exceeds it is dropped. 0 is unlimited.
	MessageHWM int
	// MessageBlockSize makes a delivery weigh one per block of this many bytes;
	// 0 makes each weigh one.
	MessageBlockSize int
	// MessageWait is how long an item that came too early waits for the ones
	// before it.
	MessageWait time.Duration
	// IDCacheTTL is how long an item's id is remembered to drop repeats; 0 is off.
	IDCacheTTL time.Duration
	// SubscriptionMax is how many channels of one instruct are used. Channels
	// that the route adds do not count.
	SubscriptionMax int
	// SubscriptionLinger is how long a channel stays subscribed after its last
	// long-poll ended.
	SubscriptionLinger time.Duration
	// UpdateOnFirstSubscription makes holds ask their origin again a second
	// after their channel got its first subscriber.
	UpdateOnFirstSubscription bool

	// Webhooks says whether webhooks are waited for, or off.
	Webhooks Webhooks
	// WebhookTimeout is how long a publish waits for its webhooks to be stored.
	WebhookTimeout time.Duration

	now func() time.Time // for tests; nil is time.Now
}

// DefaultOptions returns the values of Pushpin's example configuration, except
// that MessageRate is unlimited.
func DefaultOptions() Options {
	return Options{
		PushIn:                    "tcp://127.0.0.1:5560",
		PushInSub:                 []string{"tcp://127.0.0.1:5562"},
		HTTPAddr:                  "127.0.0.1:5561",
		HTTPMaxHeader:             10000,
		HTTPMaxBody:               1000000,
		HTTPMaxConns:              128,
		HTTPTimeout:               30 * time.Second,
		Command:                   "tcp://127.0.0.1:5563",
		StatsSubscriptionTTL:      60 * time.Second,
		StatsConnectionTTL:        120 * time.Second,
		StatsConnectionSend:       true,
		StatsReportInterval:       10 * time.Second,
		MessageHWM:                25000,
		MessageWait:               5 * time.Second,
		IDCacheTTL:                60 * time.Second,
		SubscriptionMax:           20,
		SubscriptionLinger:        60 * time.Second,
		UpdateOnFirstSubscription: true,
		WebhookTimeout:            5 * time.Second,
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
	need(o.HTTPMaxHeader > 0, "HTTPMaxHeader must be positive")
	need(o.HTTPMaxBody > 0, "HTTPMaxBody must be positive")
	need(o.HTTPMaxConns > 0, "HTTPMaxConns must be positive")
	need(o.HTTPTimeout > 0, "HTTPTimeout must be positive")
	need(o.MessageWait >= 0, "MessageWait is negative")
	need(o.IDCacheTTL >= 0, "IDCacheTTL is negative")
	need(o.SubscriptionMax > 0, "SubscriptionMax must be positive")
	need(o.StatsSubscriptionTTL > 0, "StatsSubscriptionTTL must be positive")
	need(o.StatsConnectionTTL > 0, "StatsConnectionTTL must be positive")
	need(o.StatsReportInterval > 0, "StatsReportInterval must be positive")
	need(o.MessageRate >= 0, "MessageRate is negative")
	need(o.Webhooks <= WebhooksOff, "Webhooks is not one of the values")
	need(o.WebhookTimeout > 0 && o.WebhookTimeout <= 30*time.Second, "WebhookTimeout must be within 30 s")
	need(o.SubscriptionLinger >= 0, "SubscriptionLinger is negative")
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("handler options: %w", err)
	}
	return nil
}
