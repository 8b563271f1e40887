package bus

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// register adds c to r, or returns what is registered there already under the
// same description: a socket may be closed and opened again.
func register[C prometheus.Collector](r prometheus.Registerer, c C, errs *error) C {
	if r == nil {
		return c
	}
	if err := r.Register(c); err != nil {
		var are prometheus.AlreadyRegisteredError
		if errors.As(err, &are) {
			if old, ok := are.ExistingCollector.(C); ok {
				return old
			}
		}
		*errs = errors.Join(*errs, fmt.Errorf("register metrics: %w", err))
	}
	return c
}

// nodeMetrics counts what goes over the links of a node, by the kind of the
// peer.
type nodeMetrics struct {
	frames, bytes            *prometheus.CounterVec // kind, direction
	resent, repeats, refused *prometheus.CounterVec // kind
	missing                  *prometheus.CounterVec // kind
	heartbeatGaps            *prometheus.CounterVec // kind
	broadcastLost            *prometheus.CounterVec // kind
	downs                    *prometheus.CounterVec // kind, reason
	queueFrames, queueBytes  *prometheus.GaugeVec   // kind
	up                       *prometheus.GaugeVec   // kind
	malformed                prometheus.Counter
}

func newNodeMetrics(r prometheus.Registerer) (*nodeMetrics, error) {
	var err error
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "bus", Name: name, Help: help,
		}, append([]string{"kind"}, labels...)), &err)
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "holdfast", Subsystem: "bus", Name: name, Help: help,
		}, []string{"kind"}), &err)
	}
	m := &nodeMetrics{
		frames:        counter("frames_total", "Directed frames, by kind of peer.", "direction"),
		bytes:         counter("bytes_total", "Bytes of directed frames, by kind of peer.", "direction"),
		resent:        counter("frames_resent_total", "Frames sent again, after a reconnect or because nothing of them was acknowledged."),
		repeats:       counter("frames_repeated_total", "Frames received again and dropped."),
		missing:       counter("gaps_total", "Messages of a peer that came without the frames before them; the connection is closed, and all is sent again."),
		refused:       counter("frames_refused_total", "Frames refused because the queue to the peer was full."),
		heartbeatGaps: counter("heartbeat_gaps_total", "Times that a living peer was silent for three heartbeats."),
		broadcastLost: counter("broadcasts_lost_total", "Broadcasts of peers that did not arrive."),
		downs:         counter("peer_down_total", "Times that a peer went down, by reason.", "reason"),
		queueFrames:   gauge("queue_frames", "Frames queued or not yet acknowledged."),
		queueBytes:    gauge("queue_bytes", "Bytes of frames queued or not yet acknowledged."),
		up:            gauge("peers_up", "Peers that are up."),
		malformed: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "bus", Name: "malformed_total",
			Help: "Messages at the inbox that are not of this protocol.",
		}), &err),
	}
	return m, err
}

// linkMetrics are the series of one kind of peer.
type linkMetrics struct {
	framesIn, framesOut, bytesIn, bytesOut prometheus.Counter
	resent, repeats, refused, gaps, lost   prometheus.Counter
	missing                                prometheus.Counter
	downs                                  *prometheus.CounterVec
	queueFrames, queueBytes, up            prometheus.Gauge
}

func (m *nodeMetrics) of(kind string) *linkMetrics {
	return &linkMetrics{
		framesIn:    m.frames.WithLabelValues(kind, "in"),
		framesOut:   m.frames.WithLabelValues(kind, "out"),
		bytesIn:     m.bytes.WithLabelValues(kind, "in"),
		bytesOut:    m.bytes.WithLabelValues(kind, "out"),
		resent:      m.resent.WithLabelValues(kind),
		repeats:     m.repeats.WithLabelValues(kind),
		missing:     m.missing.WithLabelValues(kind),
		refused:     m.refused.WithLabelValues(kind),
		gaps:        m.heartbeatGaps.WithLabelValues(kind),
		lost:        m.broadcastLost.WithLabelValues(kind),
		downs:       m.downs.MustCurryWith(prometheus.Labels{"kind": kind}),
		queueFrames: m.queueFrames.WithLabelValues(kind),
		queueBytes:  m.queueBytes.WithLabelValues(kind),
		up:          m.up.WithLabelValues(kind),
	}
}

// socketMetrics counts what goes over one public socket.
type socketMetrics struct {
	messages, bytes *prometheus.CounterVec // direction
	dropped         *prometheus.CounterVec // reason
	conns           prometheus.Gauge
	refused         *prometheus.CounterVec // reason
}

// Reasons why a message to a peer of a public socket was dropped, and why a
// connection was closed by us.
const (
	dropQueueFull = "queue-full" // the peer does not take its messages as fast
	dropBroken    = "broken"     // the connection broke before it was sent
	dropNoPeer    = "no-peer"    // there is nobody of that identity

	refuseTooMany   = "too-many"  // MaxConns
	refuseHandshake = "handshake" // silent, or does not speak ZeroMQ
	refuseProtocol  = "protocol"  // later broke the protocol or a limit
	refuseHog       = "hog"       // does not take its answers, and others need the room
)

func newSocketMetrics(r prometheus.Registerer, name string) (*socketMetrics, error) {
	var err error
	labels := prometheus.Labels{"socket": name}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "socket", Name: name, Help: help, ConstLabels: labels,
		}, []string{label}), &err)
	}
	m := &socketMetrics{
		messages: counter("messages_total", "Messages received and sent.", "direction"),
		bytes:    counter("bytes_total", "Bytes of messages received and sent.", "direction"),
		dropped:  counter("messages_dropped_total", "Messages dropped, by reason.", "reason"),
		refused:  counter("connections_refused_total", "Connections closed by us, by reason.", "reason"),
		conns: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "holdfast", Subsystem: "socket", Name: "connections", Help: "Open connections.", ConstLabels: labels,
		}), &err),
	}
	return m, err
}
