package connmgr

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/frame"
)

// metrics is everything that the process counts. Children with labels are made
// ahead of time, so that counting is one atomic addition.
type metrics struct {
	conns           prometheus.Gauge
	accepted        prometheus.Counter
	acceptErrors    prometheus.Counter
	handshakeErrors prometheus.Counter
	full            prometheus.Counter
	turnedAway      prometheus.Counter
	requests        prometheus.Counter
	refusedBy       *prometheus.CounterVec
	resent          prometheus.Counter
	retries         prometheus.Counter
	panics          prometheus.Counter
	keepAlives      prometheus.Counter
	slow            prometheus.Counter
	backlog         prometheus.Gauge
	outboxWaiting   prometheus.Gauge
	outboxDropped   prometheus.Counter
	endedDropped    prometheus.Counter
	badFrames       prometheus.Counter
	unknown         prometheus.Counter
	bytesIn         bytesCounter
	bytesOut        bytesCounter
	holdsBy         [4]prometheus.Gauge   // by mode
	deliveredBy     [4]prometheus.Counter // by mode
	droppedBy       []prometheus.Counter  // by reason
	endedBy         []prometheus.Counter  // by reason
	registered      []prometheus.Collector
}

// bytesCounter is a counter that many goroutines add to.
type bytesCounter struct{ n atomic.Uint64 }

func (c *bytesCounter) add(n int) {
	if n > 0 {
		c.n.Add(uint64(n))
	}
}

func newMetrics() *metrics {
	m := &metrics{}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "holdfast", Subsystem: "connmgr", Name: name, Help: help})
		m.registered = append(m.registered, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "holdfast", Subsystem: "connmgr", Name: name, Help: help})
		m.registered = append(m.registered, g)
		return g
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "holdfast", Subsystem: "connmgr", Name: name, Help: help}, []string{label})
		m.registered = append(m.registered, c)
		return c
	}
	bytes := func(name, help string, from *bytesCounter) {
		m.registered = append(m.registered, prometheus.NewCounterFunc(
			prometheus.CounterOpts{Namespace: "holdfast", Subsystem: "connmgr", Name: name, Help: help},
			func() float64 { return float64(from.n.Load()) }))
	}

	m.conns = gauge("connections", "Client connections that are open.")
	m.accepted = counter("connections_total", "Client connections accepted.")
	m.acceptErrors = counter("accept_errors_total", "Failures to accept a connection.")
	m.handshakeErrors = counter("tls_handshake_errors_total", "TLS handshakes that failed.")
	m.full = counter("connections_waited_total", "Connections that had to wait because MaxConns were open.")
	m.turnedAway = counter("connections_turned_away_total", "Connections answered with 503, or closed, because MaxConns were open.")
	m.requests = counter("requests_total", "Requests read from clients.")
	m.refusedBy = counters("requests_refused_total", "Requests answered without asking a proxy, by status.", "status")
	m.resent = counter("requests_resent_total", "Requests sent again because their proxy went away.")
	m.retries = counter("requests_retried_total", "Held requests that asked their origin anew.")
	m.panics = counter("panics_total", "Connections ended by a fault of ours.")
	m.keepAlives = counter("keepalives_total", "Keep-alives sent on held connections.")
	m.slow = counter("slow_clients_total", "Held connections ended because their backlog was full.")
	m.backlog = gauge("backlog_bytes", "Bytes that wait for held clients to read.")
	m.outboxWaiting = gauge("bus_waiting_frames", "Frames that wait because the bus's queue to a peer is full.")
	m.outboxDropped = counter("bus_dropped_frames_total", "Frames dropped because too many waited for the bus.")
	m.endedDropped = counter("ended_dropped_total", "Holds and WebSocket-over-HTTP sessions that ended, and were too many to tell another handler or proxy if theirs is gone.")
	m.badFrames = counter("bus_bad_frames_total", "Frames from the bus that could not be read or did not belong.")
	m.unknown = counter("bus_unknown_exchange_total", "Frames for exchanges that were over.")
	bytes("received_bytes_total", "Bytes read from clients.", &m.bytesIn)
	bytes("sent_bytes_total", "Bytes written to clients.", &m.bytesOut)

	holds := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "holdfast", Subsystem: "connmgr", Name: "holds",
		Help: "Held connections, by mode.",
	}, []string{"mode"})
	m.registered = append(m.registered, holds)
	delivered := counters("deliveries_total", "Publications written to held clients as a whole, by mode.", "mode")
	for mode := range m.holdsBy {
		m.holdsBy[mode] = holds.WithLabelValues(frame.Mode(mode).String())
		m.deliveredBy[mode] = delivered.WithLabelValues(frame.Mode(mode).String())
	}
	dropped := counters("drops_total", "Publications that a held client did not get, by reason.", "reason")
	ended := counters("exchanges_ended_total", "Holds, and exchanges that failed, by the reason for their end.", "reason")
	for _, r := range frame.Reasons() {
		m.droppedBy = append(m.droppedBy, dropped.WithLabelValues(r.String()))
		m.endedBy = append(m.endedBy, ended.WithLabelValues(r.String()))
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range m.registered {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) holds(mode frame.Mode) prometheus.Gauge {
	return m.holdsBy[int(mode)%len(m.holdsBy)]
}

func (m *metrics) delivered(mode frame.Mode, n int) {
	m.deliveredBy[int(mode)%len(m.deliveredBy)].Add(float64(n))
}

// A peer of a newer version may send reasons that we do not know.
func known(r frame.Reason, n int) frame.Reason {
	if int(r) >= n {
		return frame.ReasonInternal
	}
	return r
}

func (m *metrics) dropped(r frame.Reason, n int) {
	m.droppedBy[known(r, len(m.droppedBy))].Add(float64(n))
}

func (m *metrics) ended(r frame.Reason) { m.endedBy[known(r, len(m.endedBy))].Inc() }

func (m *metrics) refused(status int) { m.refusedBy.WithLabelValues(strconv.Itoa(status)).Inc() }
