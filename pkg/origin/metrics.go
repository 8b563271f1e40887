package origin

import "github.com/prometheus/client_golang/prometheus"

// collector exports the Stats of a pool. It reads them when it is asked, so that
// requests pay for no metric.
type collector struct {
	pool  *Pool
	descs []*prometheus.Desc
}

var metrics = []struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*Stats) float64
}{
	{"connections_open", "Connections to origins, idle ones included.", prometheus.GaugeValue, func(s *Stats) float64 { return float64(s.Open) }},
	{"connections_idle", "Connections to origins that wait for a request.", prometheus.GaugeValue, func(s *Stats) float64 { return float64(s.Idle) }},
	{"requests_waiting", "Requests that wait for a connection.", prometheus.GaugeValue, func(s *Stats) float64 { return float64(s.Waiting) }},
	{"connections_dialled_total", "Connections made to origins.", prometheus.CounterValue, func(s *Stats) float64 { return float64(s.Dialled) }},
	{"connect_errors_total", "Connections to origins that could not be made.", prometheus.CounterValue, func(s *Stats) float64 { return float64(s.DialErrors) }},
	{"connections_reused_total", "Requests that got a used connection.", prometheus.CounterValue, func(s *Stats) float64 { return float64(s.Reused) }},
	{"requests_retried_total", "Requests sent again because the reused connection was closed.", prometheus.CounterValue, func(s *Stats) float64 { return float64(s.Retried) }},
}

func newCollector(p *Pool) *collector {
	c := &collector{pool: p}
	for _, m := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc("holdfast_origin_"+m.name, m.help, nil, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.pool.Stats()
	for i, m := range metrics {
		ch <- prometheus.MustNewConstMetric(c.descs[i], m.kind, m.value(&s))
	}
}
