package handler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/channel"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/loglimit"
	"github.com/holdfast/holdfast/pkg/unixsock"
	"github.com/holdfast/holdfast/pkg/wheel"
)

// Server is the handler process.
type Server struct {
	// Set once.
	opt      Options
	log      *slog.Logger
	logInfo  bool // lines for each publication are wanted
	metrics  *metrics
	now      func() time.Time
	listener net.Listener  // control API; nil if off
	local    net.Listener  // control API on a unix socket; nil if off
	tls      *controlTLS   // of listener; nil for none
	ready    chan struct{} // closed when publishes may be taken
	conns    conns         // of the control API
	hooks    *hooks

	// mu guards what follows. It is held for the time of one item or one frame,
	// never across anything that waits: Bus.Send only queues, and it has to
	// happen under mu so that connmgr sees holds and publications in our order.
	mu        sync.Mutex
	peers     map[string]*peer // connmgrs that are up
	sentTo    *[]string        // collects who gets frames, while items are taken; nil if nobody asks
	index     *channel.Index[groupKey, *sub]
	subs      int    // of all holds
	joined    uint64 // subscriptions ever made
	ledger    ledger
	checks    map[uint64]*check // questions to proxies
	taps      taps
	receipt   receipt // of the item that is being published, if it is wanted
	limiter   limiter
	rateLog   loglimit.Limit
	sendLog   loglimit.Limit
	skipLog   loglimit.Limit
	updates   updateQueue
	firsts    []first
	timers    *wheel.Wheel[*hold] // next links
	dirty     []*hold             // whose record is behind
	cut       []*hold             // of which a frame is missing
	parked    []parked
	fetches   map[uint64]*fetch
	lastFetch uint64
	paced     map[uint64]func() // what happens when a next link's body was written
	asks      []*ask
	askBytes  int // kept for asks, until they are answered; see maxAskBytes
	waiting   waiting
	gones     []goneTry
	ticks     int
	waited    bool // for a first connmgr
	isReady   bool
	topics    topics // of the SUB socket; nil if there is none
	stats     stats
}

// topics is what the SUB socket needs to know. Its methods do not block.
type topics interface {
	Subscribe(topic string)
	Unsubscribe(topic string)
}

// firstPeer is how long a handler that knows no connmgr waits for one before it
// takes publishes.
const firstPeer = time.Second

// tickEvery is the time between two looks at what is due.
const tickEvery = 100 * time.Millisecond

// New returns a handler. It opens the listener of the control API, which answers
// 503 until the handler knows what is subscribed, and nothing else.
func New(o Options) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Server{
		opt:     o,
		log:     o.Logger,
		now:     time.Now,
		ready:   make(chan struct{}),
		peers:   make(map[string]*peer),
		fetches: make(map[uint64]*fetch),
		checks:  make(map[uint64]*check),
		paced:   make(map[uint64]func()),
		limiter: newLimiter(o.MessageRate, o.MessageHWM, o.MessageBlockSize),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.logInfo = s.log.Enabled(context.Background(), slog.LevelInfo)
	if o.now != nil {
		s.now = o.now
	}
	s.index = channel.New[groupKey, *sub](channel.Config{
		Linger: o.SubscriptionLinger, Wait: o.MessageWait, IDTTL: o.IDCacheTTL,
		Started: s.channelStarted, Ended: s.channelEnded, Now: s.now,
	})
	s.timers = wheel.New[*hold](tickEvery, 2048, s.now())
	s.hooks = newHooks(s)
	var err error
	if s.metrics, err = newMetrics(s, o.Registerer, o.MetricsPrefix); err != nil {
		return nil, fmt.Errorf("handler metrics: %w", err)
	}
	s.ledger = newLedger(s.metrics, s.settle)
	s.stats = newStats(s)
	if s.tls, err = newControlTLS(o.HTTPTLS); err != nil {
		return nil, fmt.Errorf("control API: %w", err)
	}
	if o.HTTPAddr != "" {
		// Most connections live for one request, and all for HTTPTimeout without
		// one: keep-alive probes would be four system calls for nothing.
		lc := net.ListenConfig{KeepAlive: -1}
		if s.listener, err = lc.Listen(context.Background(), "tcp", o.HTTPAddr); err != nil {
			return nil, fmt.Errorf("control API: %w", err)
		}
	}
	if o.HTTPLocal != "" {
		if s.local, err = unixsock.Listen(context.Background(), o.HTTPLocal, o.HTTPLocalAccess); err != nil {
			return nil, errors.Join(fmt.Errorf("control API: %w", err), s.Close())
		}
	}
	return s, nil
}

// HTTPAddr returns where the control API listens, nil if it is off.
func (s *Server) HTTPAddr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Ready reports whether publishes are taken.
func (s *Server) Ready() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// Close releases what New opened, for a Server that is not run.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.listener, s.local} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends or something fails that the handler cannot do
// without. The intakes stop first, then the bus: what was taken is handed on.
func (s *Server) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()

	var busLoop, loops sync.WaitGroup
	busLoop.Go(func() {
		if err := s.opt.Bus.Run(busCtx, s); err != nil && busCtx.Err() == nil {
			stop(fmt.Errorf("bus: %w", err))
		}
	})
	loop := func(name string, f func(context.Context) error) {
		loops.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	loop("timers", s.tickLoop)
	if s.limiter.on() {
		loop("rate limit", s.rateLoop)
	}
	if s.listener != nil || s.local != nil {
		loop("control API", s.serveHTTP)
	}
	loop("sockets", s.serveSockets)

	<-ctx.Done()
	s.hooks.stop()
	loops.Wait()
	stopBus()
	busLoop.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("handler: %w", err)
	}
	return nil
}

// tickLoop does what is due, from time to time.
func (s *Server) tickLoop(ctx context.Context) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	started := time.NewTimer(firstPeer)
	defer started.Stop()
	for {
		select {
		case <-t.C:
			s.tick()
		case <-started.C:
			s.mu.Lock()
			s.waited = true
			s.checkReady()
			s.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) tick() {
	s.conns.expire(time.Now(), s.opt.HTTPTimeout, s.opt.HTTPMaxConns)
	s.hooks.tick(s.now())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.ticks++
	s.checkReady() // someone who was expected may not come
	s.runUpdates()
	s.runFirsts(now)
	s.runAsks()
	s.timers.Advance(now, func(t *wheel.Timer[*hold]) { s.onTimer(t.Owner) })
	if len(s.parked) > 0 {
		s.unpark(now)
	}
	s.expireFetches(now, "")
	s.runGones(now)
	s.endCut()
	s.stats.tick(now)
	if s.ticks%int(time.Second/tickEvery) == 0 {
		s.index.Tick(s.fanOut)
		s.ledger.expire(now)
		s.stats.second(now)
		s.expireChecks(now)
		s.writeRecords()
	}
}

func (s *Server) rateLoop(ctx context.Context) error {
	t := time.NewTicker(s.limiter.interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.mu.Lock()
			s.runJobs()
			s.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

// checkReady opens the intakes when every connmgr has sent its records, those
// included that are there and have not said hello. That there is none counts only
// after a while.
func (s *Server) checkReady() {
	if s.isReady || len(s.peers) == 0 && !s.waited || !s.hooks.ready() || len(s.opt.Bus.Expected("connmgr")) > 0 {
		return
	}
	for _, p := range s.peers {
		if !p.done {
			return
		}
	}
	s.isReady = true
	close(s.ready)
	s.log.Info("taking publishes", "holds", s.holdCount(), "channels", s.index.Len())
}

// send queues a frame for a peer. Failures are counted and logged here.
func (s *Server) send(to string, f frame.Frame) error {
	b := frame.Encode(f)
	var err error
	if len(b) > frame.MaxFrame {
		err = errTooLarge // the other end would not read it, and so not account for it
	} else {
		err = s.opt.Bus.Send(to, b)
	}
	if err != nil {
		s.metrics.sendErrors.Inc()
		if skipped, ok := s.sendLog.Allow(s.now()); ok {
			s.log.Warn("frame not sent", "peer", to, "frame", f.Type().String(), "err", err, "not_logged", skipped)
		}
	}
	return err
}

var errTooLarge = fmt.Errorf("larger than %d bytes", frame.MaxFrame)

// sendReason is what a failed send means for deliveries.
func sendReason(err error) frame.Reason {
	if errors.Is(err, bus.ErrNoPeer) {
		return frame.ReasonPeerLost
	}
	return frame.ReasonOverload
}

// PeerUp implements bus.Receiver.
func (s *Server) PeerUp(p bus.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.Kind() == "proxy" {
		s.stats.proxyGone(p.Name) // the boot before it
		if s.stats.watch {
			s.stats.askProxy(p.Name)
		}
	}
	if p.Kind() != "connmgr" {
		return
	}
	s.dropPeer(p.Name)
	s.peers[p.Name] = &peer{name: p.Name, boot: p.Boot, holds: make(map[uint64]*hold)}
	s.log.Info("connmgr is up", "peer", p.Name)
	s.unpark(s.now())
}

// PeerDown implements bus.Receiver.
func (s *Server) PeerDown(p bus.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch p.Kind() {
	case "connmgr":
		if known := s.peers[p.Name]; known != nil && known.boot == p.Boot {
			s.dropPeer(p.Name)
			s.checkReady()
		}
	case "proxy":
		s.expireFetches(s.now(), p.Name)
		s.stats.proxyGone(p.Name)
		s.checked(p.Name, nil)
	case "zurl":
		s.hooks.down(p)
	}
}

// dropPeer ends all holds of a connmgr that is gone. Its clients have lost their
// connections; their origins may want to know.
func (s *Server) dropPeer(name string) {
	p := s.peers[name]
	if p == nil {
		return
	}
	s.log.Warn("connmgr is down", "peer", name, "holds", len(p.holds))
	delete(s.peers, name)
	for _, h := range p.holds {
		s.closed(h, frame.ReasonPeerLost, 0)
	}
	s.ledger.lost(p)
}

// Broadcast implements bus.Receiver.
func (s *Server) Broadcast(bus.Peer, string, []byte) {}

// Receive implements bus.Receiver.
func (s *Server) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		s.log.Error("frame is not readable", "peer", from.Name, "err", err)
		return
	}
	if from.Kind() == "zurl" {
		s.fromZurl(from, f)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if from.Kind() == "connmgr" {
		s.fromConnmgr(from, f)
		return
	}
	switch f := f.(type) {
	case *frame.Accept:
		s.accept(from.Name, f)
	case *frame.Control:
		s.control(from.Name, f)
	case *frame.Fetched:
		s.fetched(f)
	case *frame.Stats:
		s.stats.reported(from.Name, f)
	case *frame.Checked:
		s.checked(from.Name, f)
	}
}

// fromZurl is called without mu: what was stored is published from here.
func (s *Server) fromZurl(from bus.Peer, f frame.Frame) {
	switch f := f.(type) {
	case *frame.Hooks:
		if s.hooks.tell(from, f) {
			s.mu.Lock()
			s.checkReady()
			s.mu.Unlock()
		}
	case *frame.Enqueued:
		s.hooks.acknowledged(f)
	case *frame.HookAnswer:
		s.hooks.answered(f)
	}
}

func (s *Server) fromConnmgr(from bus.Peer, f frame.Frame) {
	p := s.peers[from.Name]
	if p == nil || p.boot != from.Boot {
		return
	}
	switch f := f.(type) {
	case *frame.Report:
		s.report(p, f)
	case *frame.Closed:
		if h := p.holds[f.ID]; h != nil {
			s.closed(h, f.Reason, f.Sent)
		}
	case *frame.Records:
		for i := range f.Holds {
			s.rebuild(p, &f.Holds[i])
		}
		if f.Done {
			p.done = true
			s.checkReady()
		}
	}
}

func (s *Server) report(p *peer, r *frame.Report) {
	kept := r.Outcomes[:0]
	for _, o := range r.Outcomes {
		if o.Pub&pacing != 0 {
			s.passed(o.Pub)
		} else {
			kept = append(kept, o)
		}
	}
	r.Outcomes = kept
	for _, id := range r.Alive {
		if h := p.holds[id]; h != nil {
			s.stats.alive(h)
		}
	}
	s.ledger.report(p, r, s.now())
}

func (s *Server) channelStarted(name string) {
	if s.topics != nil {
		s.topics.Subscribe(name)
	}
}

func (s *Server) channelEnded(name string) {
	if s.topics != nil {
		s.topics.Unsubscribe(name)
	}
	s.stats.ended(name)
}
