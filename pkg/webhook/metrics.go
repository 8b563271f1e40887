package webhook

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what a Service counts. They are made apart from it because the
// file is opened only when it is needed.
type Metrics struct {
	enqueued, repeated, refused, lost, disabled prometheus.Counter
	deliveries                                  map[string]prometheus.Counter // by outcome
	dead                                        map[string]prometheus.Counter // by reason
	replayed                                    map[string]prometheus.Counter // by place
	forgotten                                   map[string]prometheus.Counter // by reason
	attempts                                    *prometheus.CounterVec        // by result
	seconds, waited, commit                     prometheus.Histogram
	commitOps, commitErrors                     prometheus.Counter

	service atomic.Pointer[Service]
}

var perEndpoint = []*prometheus.Desc{
	prometheus.NewDesc("holdfast_webhook_queue_depth", "Messages that wait for an endpoint or are under way.", []string{"endpoint"}, nil),
	prometheus.NewDesc("holdfast_webhook_queue_bytes", "Bytes of those messages.", []string{"endpoint"}, nil),
	prometheus.NewDesc("holdfast_webhook_queue_age_seconds", "How long the oldest of them has waited.", []string{"endpoint"}, nil),
	prometheus.NewDesc("holdfast_webhook_dead_letters", "Messages for an endpoint that were given up and are kept.", []string{"endpoint"}, nil),
	prometheus.NewDesc("holdfast_webhook_kept_messages", "Delivered messages that are kept for an endpoint, to be sent again if wanted.", []string{"endpoint"}, nil),
	prometheus.NewDesc("holdfast_webhook_kept_bytes", "What they count for zurl.webhook_keep_bytes: their bytes and 256 for each.", []string{"endpoint"}, nil),
	prometheus.NewDesc("holdfast_webhook_endpoint_up", "1 if the endpoint is active and its last attempt succeeded, or there was none.", []string{"endpoint"}, nil),
}

// NewMetrics registers the metrics. r may be nil.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
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
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		all = append(all, h)
		return h
	}
	m := &Metrics{
		enqueued:     counter("holdfast_webhook_enqueued_total", "Deliveries that were queued: messages times endpoints."),
		repeated:     counter("holdfast_webhook_repeated_total", "Messages that had come before."),
		refused:      counter("holdfast_webhook_refused_total", "Messages that were refused: queue full, disk failed or busy."),
		lost:         counter("holdfast_webhook_lost_total", "Messages that were acknowledged early and could not be written."),
		disabled:     counter("holdfast_webhook_disabled_total", "Endpoints that were disabled because of their answers."),
		commitOps:    counter("holdfast_webhook_commit_operations_total", "What was written to the store; divided by the number of commits: how many share one."),
		commitErrors: counter("holdfast_webhook_commit_errors_total", "Commits that the disk refused."),
		attempts:     counters("holdfast_webhook_attempts_total", "Attempts to deliver, by status class or condition.", "result"),
		seconds:      histogram("holdfast_webhook_attempt_seconds", "How long attempts took.", prometheus.ExponentialBuckets(0.001, 3, 11)),
		waited:       histogram("holdfast_webhook_delivery_seconds", "Time from the publish to the successful attempt.", prometheus.ExponentialBuckets(0.001, 4, 12)),
		commit:       histogram("holdfast_webhook_commit_seconds", "How long commits to the store took.", prometheus.ExponentialBuckets(0.0005, 2, 14)),
		deliveries:   make(map[string]prometheus.Counter),
		dead:         make(map[string]prometheus.Counter),
		replayed:     make(map[string]prometheus.Counter),
		forgotten:    make(map[string]prometheus.Counter),
	}
	deliveries := counters("holdfast_webhook_deliveries_total", "Deliveries that came to an end by an attempt, by outcome.", "outcome")
	for _, o := range []string{outcomeDelivered, outcomeDead} {
		m.deliveries[o] = deliveries.WithLabelValues(o)
	}
	dead := counters("holdfast_webhook_dead_total", "Messages that were given up, by reason.", "reason")
	for _, reason := range []string{reasonFull, reasonAge, reasonExhausted, reasonBad, reasonLost} {
		m.dead[reason] = dead.WithLabelValues(reason)
	}
	replayed := counters("holdfast_webhook_replayed_total", "Messages that were queued again on request: dead letters, and kept ones.", "from")
	for _, place := range []string{fromDead, fromKept} {
		m.replayed[place] = replayed.WithLabelValues(place)
	}
	forgotten := counters("holdfast_webhook_kept_forgotten_total",
		"Messages that are kept no longer: kept long enough (age), no room for more (room), purged, endpoint deleted.", "reason")
	for _, reason := range []string{forgotAge, forgotRoom, forgotPurged, forgotGone} {
		m.forgotten[reason] = forgotten.WithLabelValues(reason)
	}
	for _, class := range []string{"2xx", "3xx", "4xx", "5xx"} {
		m.attempts.WithLabelValues(class)
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range append(all, m) {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *Metrics) attempt(res Response, took time.Duration) {
	result := res.Condition
	if result == "" {
		result = fmt.Sprintf("%dxx", min(res.Status/100, 9))
	}
	m.attempts.WithLabelValues(result).Inc()
	m.seconds.Observe(took.Seconds())
}

// serve says whose endpoints are to be shown.
func (m *Metrics) serve(s *Service) { m.service.Store(s) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range perEndpoint {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(c chan<- prometheus.Metric) {
	s := m.service.Load()
	if s == nil {
		return
	}
	type row struct {
		id     string
		values [7]float64
	}
	var rows []row
	now := time.Now()
	s.mu.Lock()
	for id, ep := range s.endpoints {
		r := row{id: id, values: [7]float64{
			float64(ep.depth), float64(ep.bytes), 0, float64(ep.dead), float64(len(ep.kept)), float64(ep.keptBytes), 0,
		}}
		if at, ok := ep.oldest(); ok {
			r.values[2] = s.clock.age(at, now).Seconds()
		}
		if ep.status(now) == StatusActive && ep.failures == 0 {
			r.values[6] = 1
		}
		rows = append(rows, r)
	}
	s.mu.Unlock()
	for _, r := range rows {
		for i, d := range perEndpoint {
			c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, r.values[i], r.id)
		}
	}
}
