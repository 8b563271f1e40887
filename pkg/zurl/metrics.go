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
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		open:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_zurl_requests_open", Help: "Requests being made."}),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_zurl_requests_queued", Help: "Requests waiting for their turn."}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "holdfast_zurl_requests_total", Help: "Requests that came to an end, by status class or condition.",
		}, []string{"result"}),
		lost:    prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_zurl_answers_lost_total", Help: "Results that could not be sent to the peer that asked."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "holdfast_zurl_request_seconds", Help: "How long requests took, waiting included.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 11)}),
	}
	for _, c := range conditions {
		m.results.WithLabelValues(c)
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.open, m.queued, m.results, m.lost, m.seconds} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
