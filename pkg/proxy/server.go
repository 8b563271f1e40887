package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/loglimit"
	"github.com/holdfast/holdfast/pkg/origin"
)

// Server is the proxy process.
type Server struct {
	// Set once.
	opts    Options
	log     *slog.Logger
	metrics *metrics
	stats   stats
	signer  *grip.Signer // for routes without a key of their own
	trusted grip.Key     // verifies clients that are GRIP proxies
	origins *origin.Pool
	ctx     context.Context
	cancel  context.CancelCauseFunc

	routes   atomic.Pointer[routing]
	reload   sync.Mutex     // held while the routes file is read
	serving  sync.WaitGroup // exchanges, and requests of sessions
	changed  chan struct{}  // buffer 1: the number of exchanges fell to zero; never closed
	draining atomic.Bool

	targetLog loglimit.Limit

	mu        sync.Mutex
	exchanges map[frame.XID]*exch
	handlers  chan struct{}          // closed and replaced when handlers come or go
	away      map[bus.Peer]time.Time // connmgrs out of reach that may live, and since when
	fetches   map[string]*fetch
	// fetchCount numbers requests that cannot be shared.
	fetchCount uint64
}

// errShutdown is why exchanges end that are still open when the proxy stops.
var errShutdown = &endError{frame.ReasonShutdown, "proxy is stopping"}

// New returns a proxy with its routes loaded. It starts nothing.
func New(opts Options) (*Server, error) {
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.After == nil {
		opts.After = time.After
	}
	if opts.AfterFunc == nil {
		opts.AfterFunc = func(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }
	}
	s := &Server{
		opts:      opts,
		log:       opts.Logger,
		changed:   make(chan struct{}, 1),
		exchanges: make(map[frame.XID]*exch),
		handlers:  make(chan struct{}),
		away:      make(map[bus.Peer]time.Time),
		fetches:   make(map[string]*fetch),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	key, err := grip.ParseSigningKey(opts.SigKey, opts.KeyDir)
	if err != nil {
		return nil, fmt.Errorf("proxy: sig_key: %w", err)
	}
	s.signer = grip.NewSigner(opts.SigIss, key)
	if s.trusted, err = grip.ParseVerifyingKey(opts.UpstreamKey, opts.KeyDir); err != nil {
		return nil, fmt.Errorf("proxy: upstream_key: %w", err)
	}
	if s.metrics, err = newMetrics(opts.Registerer, opts.MetricsPrefix); err != nil {
		return nil, fmt.Errorf("proxy: metrics: %w", err)
	}
	if opts.Origin.Registerer == nil {
		opts.Origin.Registerer = opts.Registerer
	}
	if s.origins, err = origin.New(opts.Origin); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.routes.Store(s.newRouting(nil))
	if err := s.Reload(); err != nil {
		s.log.Error(err.Error())
	}
	return s, nil
}

// Run serves exchanges until ctx ends. Then it lets open ones go on for
// Options.DrainTime at most and ends the rest with a reason.
func (s *Server) Run(ctx context.Context) error {
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	var loops sync.WaitGroup
	busDone := make(chan error, 1)
	loops.Go(func() { busDone <- s.opts.Bus.Run(busCtx, s) })
	watchCtx, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	loops.Go(func() { s.watch(watchCtx) })
	loops.Go(func() { s.statsLoop(watchCtx) })

	var err error
	select {
	case err = <-busDone:
	case <-ctx.Done():
		s.drain()
	}
	s.endAll() // exchanges still tell their connmgr why they end
	s.sendStats()
	stopWatch()
	stopBus()
	loops.Wait()
	if err != nil {
		return fmt.Errorf("proxy: bus: %w", err)
	}
	return nil
}

// drain waits until no exchange is open.
func (s *Server) drain() {
	timeout := time.NewTimer(s.opts.DrainTime)
	defer timeout.Stop()
	s.draining.Store(true)
	s.opts.Bus.Publish("leaving", nil) // so that nothing more is sent here; what is, is refused
	for {
		s.mu.Lock()
		open := len(s.exchanges)
		s.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-s.changed:
		case <-timeout.C:
			s.log.Info("exchanges still open, ending them", "open", open)
			return
		}
	}
}

// Close ends all exchanges. Run calls what it needs of it; Close is for a Server
// that is not run.
func (s *Server) Close() error {
	s.endAll()
	return nil
}

func (s *Server) endAll() {
	s.mu.Lock() // no exchange opens after this
	s.cancel(errShutdown)
	for _, e := range s.exchanges {
		e.end(errShutdown)
	}
	s.mu.Unlock()
	s.serving.Wait()
	_ = s.origins.Close() // never fails
}

// Receive implements bus.Receiver.
func (s *Server) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		s.metrics.malformed.Inc()
		s.log.Warn("frame cannot be read", "peer", from.Name, "err", err)
		return
	}
	switch f := f.(type) {
	case *frame.Request:
		s.open(from, f)
	case *frame.Body:
		s.forward(from, f.ID, f.Seq, f)
	case *frame.Credit:
		s.forward(from, f.ID, f.Seq, f)
	case *frame.Cancel:
		s.forward(from, f.ID, f.Seq, f)
	case *frame.Message:
		s.forward(from, f.ID, f.Seq, f)
	case *frame.Fetch:
		s.startFetch(from, f)
	case *frame.Tune:
		s.forward(from, f.ID, f.Seq, f)
	case *frame.Watch:
		s.watched(from, f)
	case *frame.Check:
		s.check(from, f)
	case *frame.Control:
		if e := s.find(f.X); e != nil && e.upgrade {
			e.controlled(f)
		}
	case *frame.Accepted:
		if e := s.find(f.X); e != nil {
			e.accepted(from, f)
		}
	default:
		s.metrics.malformed.Inc()
		s.log.Warn("unexpected frame", "peer", from.Name, "type", f.Type().String())
	}
}

// PeerUp implements bus.Receiver.
func (s *Server) PeerUp(p bus.Peer) {
	switch p.Kind() {
	case "handler":
		s.handlersChanged()
	case "connmgr":
		s.found(p)
	}
}

// PeerDown implements bus.Receiver. Nobody waits any more for the responses of
// exchanges whose connmgr is gone.
func (s *Server) PeerDown(p bus.Peer) {
	switch p.Kind() {
	case "handler":
		s.handlersChanged()
		s.stats.unwatched(p)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.leaveFetches(p)
	case "connmgr":
		s.lose(p, s.opts.Bus.Ended(p))
	}
}

// Broadcast implements bus.Receiver. The proxy needs nothing of what is
// broadcast.
func (s *Server) Broadcast(bus.Peer, string, []byte) {}

func (s *Server) handlersChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.handlers)
	s.handlers = make(chan struct{})
}

func (s *Server) find(x frame.XID) *exch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchanges[x]
}

// open starts the goroutine of a new exchange.
func (s *Server) open(from bus.Peer, r *frame.Request) {
	s.metrics.received.Inc()
	x := frame.XID{Conn: from.Name, Boot: from.Boot, ID: r.ID}
	e := newExch(s, x, r)
	s.mu.Lock()
	full := len(s.exchanges) >= s.opts.MaxExchanges
	stopping := s.draining.Load() || s.ctx.Err() != nil
	if !full && !stopping {
		s.exchanges[x] = e
		s.metrics.open.Inc()
		s.serving.Add(1)
		s.mu.Unlock()
		go s.serve(e)
		return
	}
	s.mu.Unlock()
	defer e.close() // its context would hang on the Server's to the end
	if stopping {
		s.metrics.end(frame.ReasonRefused)
		_ = e.trySend(&frame.Cancel{ID: r.ID, Reason: frame.ReasonRefused, Text: "proxy is stopping"})
		return
	}
	const text = "Too many requests.\n"
	s.metrics.end(frame.ReasonOverload)
	s.metrics.response(503)
	// One try only: this is the bus's goroutine, which must not wait.
	body := []byte(text)
	if r.Method == "HEAD" {
		body = nil
	}
	_ = e.trySend(&frame.Response{
		ID: r.ID, Code: 503, Reason: "Service Unavailable",
		Header:  []frame.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Retry-After", Value: "1"}},
		BodyLen: int64(len(text)), Body: body,
	})
}

// serve is the goroutine of an exchange.
func (s *Server) serve(e *exch) {
	if e.upgrade {
		s.finish(e, s.guarded(e, e.serveWebSocket))
	} else {
		s.finish(e, s.guarded(e, e.serveHTTP))
	}
}

// guarded calls f, and makes an error of a panic.
func (s *Server) guarded(e *exch, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.metrics.panics.Inc()
			s.log.Error("exchange ended by a fault", "exchange", e.x.ID, "peer", e.x.Conn, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &endError{frame.ReasonInternal, "fault in proxy"}
		}
	}()
	return f()
}

// finish ends an exchange that has been served with err, unless it goes on
// without a goroutine.
func (s *Server) finish(e *exch, err error) {
	if errors.Is(err, errParked) {
		return
	}
	if err != nil {
		e.abort(err)
	}
	e.confirm()
	e.close()
	e.leaveStats(true)
	s.mu.Lock()
	if s.exchanges[e.x] == e { // else connmgr gave it to us again, after a time without a link
		delete(s.exchanges, e.x)
	}
	last := len(s.exchanges) == 0
	s.mu.Unlock()
	s.metrics.open.Dec()
	if last && s.draining.Load() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	s.serving.Done()
}

// forward hands a frame to its exchange. Frames for exchanges that are over come
// late, and nobody needs them.
func (s *Server) forward(from bus.Peer, id, seq uint64, f frame.Frame) {
	x := frame.XID{Conn: from.Name, Boot: from.Boot, ID: id}
	if e := s.find(x); e != nil {
		e.receive(seq, f)
		return
	}
	switch f.(type) {
	case *frame.Cancel, *frame.Tune:
		s.confirm(x)
	}
}

// confirm tells connmgr that nothing is left to be done about an exchange that it
// has ended. What is lost of that costs an origin a needless DISCONNECT at most.
func (s *Server) confirm(x frame.XID) {
	if s.ctx.Err() != nil {
		return // there may be, for the next proxy
	}
	_ = s.opts.Bus.Send(x.Conn, frame.Encode(&frame.Cancel{ID: x.ID, Reason: frame.ReasonFinished}))
}

// endError is why an exchange ends other than by a response.
type endError struct {
	reason frame.Reason
	text   string
}

func (e *endError) Error() string { return e.text }

// reasonOf returns the reason to give for an error.
func reasonOf(err error) frame.Reason {
	var end *endError
	if errors.As(err, &end) {
		return end.reason
	}
	return frame.ReasonInternal
}
