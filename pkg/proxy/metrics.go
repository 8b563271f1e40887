package proxy

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/origin"
)

// metrics is every metric of the process but those of package origin.
type metrics struct {
	received  prometheus.Counter       // requests and WebSockets
	open      prometheus.Gauge         // exchanges
	responses *prometheus.CounterVec   // by class
	ended     *prometheus.CounterVec   // exchanges that broke off, by reason
	attempts  *prometheus.CounterVec   // at origins, by target and result
	latency   *prometheus.HistogramVec // until the head of the response, by target
	handOver  *prometheus.CounterVec   // by result
	fetches   *prometheus.CounterVec   // requests on behalf of holds, by result
	routes    prometheus.Gauge
	reloads   *prometheus.CounterVec // by result
	blocked   prometheus.Counter     // sends that had to wait for the bus
	malformed prometheus.Counter
	panics    prometheus.Counter
}

// Results of hand-overs, attempts and reloads, for labels.
const (
	resultOK       = "ok"
	resultError    = "error"
	resultConnect  = "connect"
	resultTimeout  = "timeout"
	resultTLS      = "tls"
	resultPolicy   = "policy"
	resultCanceled = "canceled"
	resultRefused  = "refused"
)

func newMetrics(r prometheus.Registerer, pushpinPrefix string) (*metrics, error) {
	const ns, sub = "holdfast", "proxy"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	m := &metrics{
		received:  prometheus.NewCounter(prometheus.CounterOpts{Name: pushpinPrefix + "request_received", Help: "Number of requests received"}),
		open:      gauge("exchanges_open", "Exchanges that this proxy is the far end of."),
		responses: counters("responses_total", "Responses begun, by status class.", "class"),
		ended:     counters("exchanges_ended_total", "Exchanges that ended other than by a whole response or a hand-over, by reason.", "reason"),
		attempts:  counters("origin_attempts_total", "Requests sent to origins, by target (\"link\": the host of a link) and result.", "target", "result"),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: ns, Subsystem: sub, Name: "origin_response_seconds", Help: "Time until the head of an origin's response, by target.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"target"}),
		handOver:  counters("hand_overs_total", "Exchanges offered to handlers, by result.", "result"),
		fetches:   counters("fetches_total", "Requests made on behalf of holds, by result.", "result"),
		routes:    gauge("routes", "Routes in force."),
		reloads:   counters("routes_reloads_total", "Times the routes file was read, by result.", "result"),
		blocked:   counter("bus_waits_total", "Frames that had to wait because the queue to their peer was full."),
		malformed: counter("malformed_frames_total", "Frames that could not be read."),
		panics:    counter("panics_total", "Exchanges that ended because of a fault in this program."),
	}
	// What is counted for the first time has to have been 0, or no alert sees it.
	for _, class := range []string{"1xx", "2xx", "3xx", "4xx", "5xx"} {
		m.responses.WithLabelValues(class)
	}
	for _, result := range []string{resultOK, resultError} {
		m.reloads.WithLabelValues(result)
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.received, m.open, m.responses, m.ended, m.attempts, m.latency, m.handOver, m.fetches, m.routes, m.reloads, m.blocked, m.malformed, m.panics,
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) response(code int) {
	m.responses.WithLabelValues(strconv.Itoa(code/100) + "xx").Inc()
}

func (m *metrics) end(reason frame.Reason) { m.ended.WithLabelValues(reason.String()).Inc() }

// attempt counts a request to a target.
func (m *metrics) attempt(target string, took time.Duration, err error) {
	result := resultError
	switch {
	case err == nil:
		result = resultOK
		m.latency.WithLabelValues(target).Observe(took.Seconds())
	case errors.Is(err, origin.ErrConnect):
		result = resultConnect
	case errors.Is(err, origin.ErrTimeout):
		result = resultTimeout
	case errors.Is(err, origin.ErrTLS):
		result = resultTLS
	case errors.Is(err, origin.ErrPolicy):
		result = resultPolicy
	case errors.Is(err, context.Canceled):
		result = resultCanceled
	}
	m.attempts.WithLabelValues(target, result).Inc()
}
