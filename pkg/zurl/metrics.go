package zurl

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	open    prometheus.Gauge
	queued  prometheus.Gauge
	results *prometheus.CounterVec // by result: a status class such as 2xx, or a condition
	lost    prometheus.Counter
	seconds prometheus.Histogram

	sessions *prometheus.GaugeVec   // by kind
	ended    *prometheus.CounterVec // by kind and result
	invalid  *prometheus.CounterVec // by socket
	held     prometheus.GaugeFunc
}

func newMetrics(r prometheus.Registerer, held func() float64) (*metrics, error) {
	m := &metrics{
		open:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_zurl_requests_open", Help: "Requests being made."}),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_zurl_requests_queued", Help: "Requests waiting for their turn."}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_zurl_requests_total", Help: "Requests that came to an end, by status class or condition.",
		}, []string{"result"}),
		lost:     prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_zurl_answers_lost_total", Help: "Results that could not be sent to the peer or client that asked."}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_zurl_request_seconds", Help: "How long requests took, waiting included.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 11)}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "holdfast_zurl_sessions_open", Help: "Requests of the public sockets that are open."}, []string{"kind"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_zurl_sessions_total", Help: "Requests of the public sockets that came to an end, by status class, condition or another cause.",
		}, []string{"kind", "result"}),
		invalid: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_zurl_messages_invalid_total", Help: "Messages to the public sockets that could not be used.",
		}, []string{"socket"}),
		held: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_zurl_held_bytes", Help: "Bytes of request and response bodies that are held as a whole for the public sockets."}, held),
	}
	for _, c := range conditions {
		m.results.WithLabelValues(c)
	}
	for _, kind := range []string{kindReq, kindHTTP, kindWebSocket, kindForgotten} {
		m.sessions.WithLabelValues(kind)
	}
	for _, socket := range []string{socketIn, socketInStream, socketInReq} {
		m.invalid.WithLabelValues(socket)
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.open, m.queued, m.results, m.lost, m.seconds, m.sessions, m.ended, m.invalid, m.held} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
