package handler

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/channel"
	"github.com/holdfast/holdfast/pkg/frame"
)

// Names of the intakes, as in metrics and logs.
const (
	intakeHTTP    = "http"
	intakePull    = "pull"
	intakeSub     = "sub"
	intakeCommand = "command"
)

// hookSources are the intakes, and what the handler itself has to tell.
var hookSources = []string{intakeHTTP, intakePull, intakeSub, intakeCommand, sourceEvents}

const sourceEvents = "events"

var intakes = []string{intakeHTTP, intakePull, intakeSub, intakeCommand}

// metrics are what the handler counts. The invariant that operators may check:
// matched = delivered + dropped + pending, summed over modes.
type metrics struct {
	// Pushpin's.
	requestReceived     prometheus.Counter
	connectionConnected prometheus.GaugeFunc
	connectionMinute    prometheus.Counter
	messageReceived     prometheus.Counter
	messageSent         prometheus.Counter

	published    map[string]prometheus.Counter         // by intake
	invalid      map[string]prometheus.Counter         // by intake
	hooksStored  map[string]prometheus.Counter         // by intake
	hooksFailed  map[string]prometheus.Counter         // by intake
	sequenced    map[channel.Result]prometheus.Counter // by result
	matched      map[frame.Mode]prometheus.Counter     // by mode
	delivered    map[frame.Mode]prometheus.Counter     // by mode
	dropped      map[frame.Reason]prometheus.Counter   // by reason
	holds        map[frame.Mode]prometheus.Gauge       // by mode
	accepted     map[frame.Mode]prometheus.Counter     // by mode
	refused      prometheus.Counter
	retries      prometheus.Counter
	fetches      *prometheus.CounterVec // by purpose and result
	filterErrors prometheus.Counter
	unauthorized prometheus.Counter
	sendErrors   prometheus.Counter
	unwritten    prometheus.Counter
	controlConns prometheus.Gauge
	reportTime   prometheus.Histogram
}

var modes = []frame.Mode{frame.ModeNone, frame.ModeResponse, frame.ModeStream, frame.ModeWebSocket}

func newMetrics(s *Server, r prometheus.Registerer, prefix string) (*metrics, error) {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		all = append(all, c)
		return c
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string, f func() float64) prometheus.GaugeFunc {
		g := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
		all = append(all, g)
		return g
	}
	locked := func(f func() int) func() float64 {
		return func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(f())
		}
	}
	m := &metrics{
		requestReceived:     counter(prefix+"request_received", "Requests and WebSockets that clients made of the proxies."),
		messageReceived:     counter(prefix+"message_received", "Items received from publishers."),
		messageSent:         counter(prefix+"message_sent", "Deliveries to subscribers."),
		refused:             counter("holdfast_handler_refused_total", "Exchanges that the handler could not take over."),
		retries:             counter("holdfast_handler_retries_total", "Held requests that were sent to their origin again."),
		filterErrors:        counter("holdfast_handler_filter_errors_total", "Messages that a filter failed on."),
		unauthorized:        counter("holdfast_handler_unauthorized_total", "Requests to the control API without the right credentials."),
		sendErrors:          counter("holdfast_handler_send_errors_total", "Frames that the bus did not take."),
		unwritten:           counter("holdfast_handler_unwritten_total", "Publishes that were answered although a connmgr did not take what was sent to it for 5 seconds."),
		connectionConnected: gauge(prefix+"connection_connected", "The most connections in this interval, summed over routes.", locked(s.stats.connections)),
		connectionMinute:    counter(prefix+"connection_minute", "Minutes of connections, each begun one counted."),
	}
	gauge("holdfast_handler_channels", "Channels that are subscribed to, or linger.", locked(func() int { return s.index.Len() }))
	gauge("holdfast_handler_subscriptions", "Subscriptions of all holds.", locked(func() int { return s.subs }))
	gauge("holdfast_handler_waiting_items", "Items that wait for the one before them.", locked(func() int { n, _ := s.index.Early(); return n }))
	gauge("holdfast_handler_pending_deliveries", "Deliveries that connmgr has not reported on.", locked(func() int { return s.ledger.pending }))
	gauge("holdfast_handler_rate_queue", "Deliveries that wait for the rate limit.", locked(func() int { return s.limiter.waiting }))
	gauge("holdfast_handler_updates_waiting", "Holds that wait to ask their origin again.", locked(func() int { return s.updates.waiting }))
	gauge("holdfast_handler_webhook_bytes", "Bytes of webhooks that zurl has not acknowledged.", func() float64 {
		s.hooks.mu.Lock()
		defer s.hooks.mu.Unlock()
		return float64(s.hooks.bytes)
	})
	gauge("holdfast_handler_ready", "1 when publishes are taken.", func() float64 {
		if s.Ready() {
			return 1
		}
		return 0
	})
	m.fetches = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "holdfast_handler_fetches_total", Help: "Requests made for holds, by purpose and result.",
	}, []string{"purpose", "result"})
	m.controlConns = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "holdfast_handler_control_connections", Help: "Open connections to the control API.",
	})
	m.reportTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "holdfast_handler_report_seconds",
		Help:    "Time from handing a publication to connmgr to the report that closes its account.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})
	all = append(all, m.fetches, m.controlConns, m.reportTime)

	m.published = children(counters("holdfast_handler_published_total", "Items taken, by intake.", "intake"), intakes, ident)
	m.invalid = children(counters("holdfast_handler_invalid_total", "Messages and requests refused, by intake.", "intake"), intakes, ident)
	m.hooksStored = children(counters("holdfast_handler_webhooks_stored_total", "Publishes whose webhooks were stored, by intake.", "intake"), hookSources, ident)
	m.hooksFailed = children(counters("holdfast_handler_webhooks_failed_total", "Publishes whose webhooks could not be stored, by intake. Over HTTP they were refused.", "intake"), hookSources, ident)
	m.sequenced = children(counters("holdfast_handler_sequenced_total", "Items by what the ordering did with them.", "result"),
		[]channel.Result{channel.Sent, channel.Duplicate, channel.Waiting, channel.Overflow}, channel.Result.String)
	m.matched = children(counters("holdfast_handler_matched_total", "Pairs of item and subscriber, by mode.", "mode"), modes, frame.Mode.String)
	m.delivered = children(counters("holdfast_handler_delivered_total", "Pairs of item and subscriber that were delivered, by mode.", "mode"), modes, frame.Mode.String)
	m.dropped = children(counters("holdfast_handler_dropped_total", "Pairs of item and subscriber that were not delivered, by reason.", "reason"), frame.Reasons(), frame.Reason.String)
	m.accepted = children(counters("holdfast_handler_accepted_total", "Exchanges taken over, by mode.", "mode"), modes, frame.Mode.String)
	holds := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "holdfast_handler_holds", Help: "Held connections, by mode."}, []string{"mode"})
	all = append(all, holds)
	m.holds = make(map[frame.Mode]prometheus.Gauge)
	for _, mode := range modes {
		m.holds[mode] = holds.WithLabelValues(mode.String())
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range all {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

func ident(s string) string { return s }

// children makes all counters of a vector ahead of time, so that they show as 0
// and need no look-up by text later.
func children[K comparable](v *prometheus.CounterVec, keys []K, name func(K) string) map[K]prometheus.Counter {
	m := make(map[K]prometheus.Counter, len(keys))
	for _, k := range keys {
		m[k] = v.WithLabelValues(name(k))
	}
	return m
}

// droppedFor counts n deliveries that were dropped. A reason from a newer peer
// may have no name here.
func (m *metrics) droppedFor(r frame.Reason, n int) {
	c := m.dropped[r]
	if c == nil {
		c = m.dropped[frame.ReasonInternal]
	}
	c.Add(float64(n))
}

func (m *metrics) deliveredFor(mode frame.Mode, n int) {
	if n == 0 {
		return
	}
	c := m.delivered[mode]
	if c == nil {
		c = m.delivered[frame.ModeNone]
	}
	c.Add(float64(n))
	m.messageSent.Add(float64(n))
}
