package zurl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/outbound"
)

// Server is a zurl process. Make it with New.
type Server struct {
	// Set once.
	o       Options
	log     *slog.Logger
	metrics *metrics
	client  *outbound.Client
	front   *front
	hooks   *hooks
	running atomic.Bool

	mu       sync.Mutex // guards what follows
	boots    map[bus.Peer]*boot
	queue    []*job
	workers  int  // goroutines that take from queue
	stopping bool // no further requests
	idle     sync.Cond
}

// boot is one boot of a peer. Its requests end with it.
type boot struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// job is a request on its way.
type job struct {
	peer    bus.Peer
	ctx     context.Context // of the peer's boot
	fetch   *frame.Fetch
	arrived time.Time
}

// New checks the options. Nothing runs before Run.
func New(o Options) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Logger, boots: make(map[bus.Peer]*boot)}
	s.front = newFront(s)
	var err error
	if s.metrics, err = newMetrics(o.Registerer, func() float64 { return float64(s.front.held.Load()) }); err != nil {
		return nil, fmt.Errorf("zurl metrics: %w", err)
	}
	s.client, err = outbound.New(outbound.Options{
		Registerer: o.Registerer, Policy: o.Policy, RootCAs: o.RootCAs, NoIPv6: o.NoIPv6,
		ConnectTimeout: o.ConnectTimeout, MaxAge: o.MaxAge, MaxOpen: o.MaxFetches + o.MaxSessions, MaxHead: int(o.MaxHead),
		IdleTimeout: 2 * o.SessionTimeout, // sessions have a timer of their own, which comes first
	})
	if err != nil {
		return nil, fmt.Errorf("zurl: %w", err)
	}
	s.idle.L = &s.mu
	if s.hooks, err = newHooks(s); err != nil {
		return nil, fmt.Errorf("zurl: %w", err)
	}
	return s, nil
}

// Run serves until ctx ends, then lets open requests go on for DrainTime.
func (s *Server) Run(ctx context.Context) error {
	if err := s.front.bind(); err != nil {
		return errors.Join(err, s.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	failed, front := make(chan error, 1), make(chan error, 1)
	hooksCtx, stopHooks := context.WithCancel(ctx)
	var hooks sync.WaitGroup
	hooks.Go(func() { s.hooks.run(hooksCtx) })
	defer stopHooks()
	go func() {
		s.running.Store(true)
		failed <- s.o.Bus.Run(busCtx, s)
		s.running.Store(false)
	}()
	go func() { front <- s.front.run(ctx, s.o.DrainTime) }()
	var err, frontErr error
	select {
	case err = <-failed:
		cancel()
		s.drain(0)
		frontErr = <-front
	case frontErr = <-front:
		patience := s.o.DrainTime
		if ctx.Err() == nil { // a socket failed
			patience = 0
		}
		s.drain(patience)
		stopBus()
		err = <-failed
	case <-ctx.Done():
		s.drain(s.o.DrainTime)
		frontErr = <-front
		stopBus()
		err = <-failed
	}
	stopHooks()
	hooks.Wait()
	return errors.Join(err, frontErr, s.client.Close(), s.hooks.close())
}

// Close is for a Server that Run was not called for; it has nothing to do
// otherwise.
func (s *Server) Close() error {
	return errors.Join(s.client.Close(), s.hooks.close())
}

// Ready says why the process is not ready, or nil.
func (s *Server) Ready() error {
	if !s.running.Load() {
		return fmt.Errorf("the bus does not run")
	}
	return nil
}

// drain takes no further requests, waits for the workers, and cancels what is
// left when patience is over.
func (s *Server) drain(patience time.Duration) {
	giveUp := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, b := range s.boots {
			b.cancel()
		}
	})
	defer giveUp.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for s.workers > 0 {
		s.idle.Wait()
	}
	for _, b := range s.boots {
		b.cancel()
	}
}

// PeerUp implements bus.Receiver.
func (s *Server) PeerUp(p bus.Peer) {
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boots[p] = &boot{ctx: ctx, cancel: cancel}
	if p.Kind() == "handler" {
		s.hooks.up(p)
	}
}

// PeerDown implements bus.Receiver. Nobody waits for the peer's requests any
// more.
func (s *Server) PeerDown(p bus.Peer) {
	s.hooks.down(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boots[p]; b != nil {
		b.cancel()
		delete(s.boots, p)
	}
}

// Broadcast implements bus.Receiver.
func (s *Server) Broadcast(bus.Peer, string, []byte) {}

// Receive implements bus.Receiver.
func (s *Server) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		s.log.Warn("frame that cannot be read", "peer", from.Name, "err", err)
		return
	}
	switch f := f.(type) {
	case *frame.Fetch:
		if refuse := s.enqueue(from, f); refuse != "" {
			s.answer(&job{peer: from, fetch: f, arrived: time.Now()}, failure(refuse, ""))
		}
	case *frame.Enqueue:
		s.hooks.enqueue(from, f)
	case *frame.HookCall:
		s.hooks.call(from, f)
	default:
		s.log.Warn("frame that zurl does not take", "peer", from.Name, "type", f.Type())
	}
}

// enqueue gives a request to a worker, or returns the condition that it is
// refused with.
func (s *Server) enqueue(from bus.Peer, fetch *frame.Fetch) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.boots[from]
	if s.stopping || b == nil {
		return outbound.Stopping
	}
	j := &job{peer: from, ctx: b.ctx, fetch: fetch, arrived: time.Now()}
	if s.workers < s.o.MaxFetches {
		s.workers++
		go s.work(j) // drain waits for it
		return ""
	}
	if len(s.queue) >= s.o.MaxQueued {
		return conditionTooBusy
	}
	s.queue = append(s.queue, j)
	s.metrics.queued.Set(float64(len(s.queue)))
	return ""
}

// work makes requests, beginning with j, until none waits.
func (s *Server) work(j *job) {
	for j != nil {
		s.metrics.open.Inc()
		s.answer(j, s.fetch(j.ctx, j.fetch))
		s.metrics.open.Dec()
		j = s.next()
	}
}

// next returns the request that waited longest; nil ends the worker.
func (s *Server) next() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue = nil
		s.workers--
		s.idle.Broadcast()
		return nil
	}
	j := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	s.metrics.queued.Set(float64(len(s.queue)))
	return j
}

func (s *Server) answer(j *job, r *frame.Fetched) {
	r.Token = j.fetch.Token
	took := time.Since(j.arrived)
	s.metrics.seconds.Observe(took.Seconds())
	result := r.Condition
	if result == "" {
		result = fmt.Sprintf("%dxx", r.Code/100)
	}
	s.metrics.results.WithLabelValues(result).Inc()
	level := slog.LevelDebug
	if r.Condition != "" {
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, "fetch", "peer", j.peer.Name, "method", j.fetch.Method, "uri", bare(j.fetch.URI),
		"code", r.Code, "bytes", len(r.Body), "condition", r.Condition, "text", r.Text, "took", took.Round(time.Microsecond))
	if err := s.o.Bus.Send(j.peer.Name, frame.Encode(r)); err != nil {
		// The peer is gone, or has more results waiting than it takes: it will
		// ask again when its own time is over.
		s.metrics.lost.Inc()
		s.log.Warn("result lost", "peer", j.peer.Name, "err", err)
	}
}
