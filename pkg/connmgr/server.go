package connmgr

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/loglimit"
)

// began is when this process did, more or less.
var began = time.Now()

// monotonic returns nanoseconds, above 0, that go on evenly when the system's
// clock is set.
func monotonic(now time.Time) int64 { return max(1, int64(now.Sub(began))) }

// Server is one connmgr.
type Server struct {
	// Set once.
	opt     Options
	log     *slog.Logger
	now     func() time.Time // the clock of holds and timers
	limits  http1.Limits
	metrics *metrics
	certs   *certs
	lns     []*listener
	writers []*writer
	groups  groups
	out     *outbox
	repeats repeats
	poller  *poller // nil: there is none on this system

	ctx        context.Context // of everything that serves clients; ends with kill
	cancel     context.CancelFunc
	kill       <-chan struct{} // closed when connections have to end at once
	stopAccept chan struct{}   // closed by closeListeners
	slots      chan struct{}   // one token for each open connection; buffer MaxConns
	turned     chan struct{}   // one token for each connection that is being turned away
	chores     chan struct{}   // buffer 1: there is something for housekeeping; never closed
	sessions   sync.Pool
	wsLibs     wsLibs
	sockJS     sockJSSessions
	conns      sync.WaitGroup // goroutines of connections
	draining   atomic.Bool
	// idleGrace is how long connections without a request stay open at most when
	// the Server drains: what comes on them is answered with Connection: close. One
	// that is new, or was answered just before, has all of that time. Tests change
	// it before that.
	idleGrace time.Duration
	running   atomic.Bool
	closeOnce sync.Once

	badLog, acceptLog, slowLog, busLog loglimit.Limit

	mu         sync.Mutex
	exchanges  map[uint64]*exch
	gaps       map[*exch]struct{} // exchanges in which a frame is missing
	lastID     uint64
	ended      []ended
	endedBytes int              // of records in ended
	left       map[uint64]*left // by exchange
	leftBytes  int              // of what is kept in left
	orphans    time.Time        // when a handler was lost whose holds have no other; zero if there are none
	peers      map[string]*peer // the boots that are up
	proxies    []*peer          // of those, the proxies
	turn       int
	proxyUp    chan struct{} // closed and replaced when a proxy comes up

	connMu sync.Mutex
	table  map[*conn]struct{}
	closed bool
}

// New checks the options and opens the listeners. Nothing is accepted before Run.
func New(opt Options) (*Server, error) {
	if err := opt.validate(); err != nil {
		return nil, fmt.Errorf("options: %w", err)
	}
	s := &Server{
		opt: opt, log: opt.Logger, now: time.Now,
		limits:     http1.Limits{MaxHead: opt.BufferSize, MaxFields: opt.MaxFields},
		metrics:    newMetrics(),
		stopAccept: make(chan struct{}),
		slots:      make(chan struct{}, opt.MaxConns),
		turned:     make(chan struct{}, maxTurned),
		chores:     make(chan struct{}, 1),
		exchanges:  make(map[uint64]*exch),
		gaps:       make(map[*exch]struct{}),
		left:       make(map[uint64]*left),
		peers:      make(map[string]*peer),
		proxyUp:    make(chan struct{}),
		table:      make(map[*conn]struct{}),
		idleGrace:  idleGrace,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.kill = s.ctx.Done()
	s.sockJS.byName = make(map[string]*sockJSSession)
	s.certs = &certs{dir: opt.CertDir, log: s.log}
	s.groups.writers = opt.Writers
	s.repeats = newRepeats(opt.RepeatTime)
	s.out = &outbox{
		bus: opt.Bus, live: make(map[string]*peer), waiting: make(map[*peer][][]byte),
		onWait: func(n int) {
			s.metrics.outboxWaiting.Set(float64(n))
			if n > 0 {
				s.chore()
			}
		},
		onDrop: func(p *peer) {
			s.metrics.outboxDropped.Inc()
			if skipped, ok := s.busLog.Allow(time.Now()); ok {
				s.log.Error("frame dropped: peer does not take what we send", "peer", p.Name, "not_logged", skipped)
			}
		},
	}
	s.sessions.New = func() any {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return &session{br: bufio.NewReaderSize(nil, opt.BufferSize), timer: t}
	}
	for i := range opt.Writers {
		s.writers = append(s.writers, newWriter(s, i))
	}
	if opt.Registerer != nil {
		if err := s.metrics.register(opt.Registerer); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	var err error
	if s.poller, err = newPoller(); err != nil {
		return nil, err
	}
	for _, l := range opt.Listen {
		ln, err := s.listen(s.ctx, l)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %s: %w", l.Addr, err), s.Close())
		}
		s.lns = append(s.lns, ln)
	}
	return s, nil
}

// Addrs returns the addresses of the listeners, in the order of Options.Listen.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.lns))
	for i, l := range s.lns {
		addrs[i] = l.Addr()
	}
	return addrs
}

// Run serves until ctx ends, then drains for Options.DrainTime and ends what is
// left. It returns an error if the bus failed.
func (s *Server) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("connmgr: Run called twice")
	}
	// Stop order: listeners, so that nothing new comes; what is open, which needs
	// writers and bus; connections; writers; the bus, which still carries the
	// last reports.
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	busDone := make(chan error, 1)
	go func() { busDone <- s.opt.Bus.Run(busCtx, s) }()

	var accepting, loops sync.WaitGroup
	stopLoops := make(chan struct{})
	for _, w := range s.writers {
		loops.Go(func() { w.run(stopLoops) })
	}
	loops.Go(func() { s.housekeeping(stopLoops) })
	if s.poller != nil {
		loops.Go(func() { s.poller.run(s.ready) })
	}
	for _, l := range s.lns {
		s.log.Info("listening for clients", "addr", l.Addr().String(), "tls", l.tls != nil)
		accepting.Go(func() {
			s.awaitProxy(ctx)
			if err := s.accept(l); err != nil {
				s.log.Error("accept", "addr", l.Addr().String(), "err", err)
			}
		})
	}

	var err error
	busEnded := false
	select {
	case <-ctx.Done():
		s.drain()
	case <-s.kill:
	case err = <-busDone:
		busEnded = true
	}
	_ = s.Close()
	accepting.Wait()
	close(stopLoops)
	loops.Wait()
	s.conns.Wait()
	s.out.flush()
	stopBus()
	if !busEnded {
		err = <-busDone
	}
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	return nil
}

// Ready returns why no request can be served now, nil if they can.
func (s *Server) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pickProxy() == nil {
		return errors.New("no proxy is up")
	}
	return nil
}

// firstProxy is how long connections wait in the kernel for a first proxy: one
// that takes over a port is not to answer 503 because it has just begun.
const firstProxy = time.Second

func (s *Server) awaitProxy(ctx context.Context) {
	s.mu.Lock()
	up, known := s.proxyUp, len(s.proxies) > 0
	s.mu.Unlock()
	if known {
		return
	}
	t := time.NewTimer(firstProxy)
	defer t.Stop()
	select {
	case <-up:
	case <-t.C:
	case <-s.kill:
	case <-ctx.Done():
	}
}

// Close ends everything at once. It is safe to call twice, and from any
// goroutine.
func (s *Server) Close() error {
	var err error
	s.closeOnce.Do(func() {
		s.cancel()
		err = s.closeListeners()
		s.connMu.Lock()
		s.closed = true
		open := make([]*conn, 0, len(s.table))
		for c := range s.table {
			open = append(open, c)
		}
		s.connMu.Unlock()
		for _, w := range s.writers {
			w.stopDirect()
		}
		for _, c := range open {
			c.close()
		}
		if s.poller != nil {
			s.poller.close()
		}
	})
	return err
}

func (s *Server) closeListeners() error {
	if !s.draining.CompareAndSwap(false, true) {
		return nil
	}
	close(s.stopAccept)
	var errs []error
	for _, l := range s.lns {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// idleGrace is the usual value of Server.idleGrace.
const idleGrace = 2 * time.Second

// Drain stops accepting and ends what is open, spread over the time d so that
// clients do not all come back at once: idle connections soon, requests when they
// are answered, streams with their last chunk, held responses with their timeout
// response, WebSockets with 1001. It returns when nothing is open any more, or ctx
// ends. Run drains by itself when it has to stop.
func (s *Server) Drain(ctx context.Context, d time.Duration) {
	if d > 0 {
		s.sweep(ctx)
	}
	_ = s.closeListeners()
	s.connMu.Lock()
	idle := min(d, s.idleGrace)
	i := 0
	for c := range s.table {
		i++
		if c.idle.Load() != 0 {
			at := past
			if idle > 0 {
				at = time.Now().Add(idle * time.Duration(i) / time.Duration(len(s.table)))
				if !c.served.Load() {
					at = time.Now().Add(idle)
				}
			}
			_ = c.sock.SetReadDeadline(at)
		}
	}
	s.connMu.Unlock()

	var held []*hold
	s.mu.Lock()
	for _, x := range s.exchanges {
		x.mu.Lock()
		if x.hold != nil {
			held = append(held, x.hold)
		} else if x.ws != nil && x.ws.hold != nil {
			held = append(held, x.ws.hold)
		}
		x.mu.Unlock()
	}
	s.mu.Unlock()
	now := s.now()
	for i, h := range held {
		at := now.Add(d * time.Duration(i) / time.Duration(len(held)))
		h.w.push(job{kind: jobEnd, h: h, reason: frame.ReasonShutdown, at: at})
	}

	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for s.open() > 0 {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// handshakeTime is how long a handshake that has begun may take to end before its
// listener closes.
const handshakeTime = 250 * time.Millisecond

// sweep lets the accept loops take whoever has begun to connect, as they would be
// reset when the listener closes.
func (s *Server) sweep(ctx context.Context) {
	ignoring := false
	for _, l := range s.lns {
		ignoring = l.ignoreSYN() || ignoring
	}
	rest := time.Now()
	if ignoring {
		rest = rest.Add(handshakeTime)
	}
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for end := rest.Add(handshakeTime); ; {
		left := 0
		for _, l := range s.lns {
			left += l.waiting()
		}
		if now := time.Now(); left == 0 && !now.Before(rest) || now.After(end) {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// drainGrace is what slow clients, and a machine that stands still, get on top of the
// drain time.
const drainGrace = 5 * time.Second

func (s *Server) drain() {
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.DrainTime+drainGrace)
	defer cancel()
	s.log.Info("draining", "connections", s.open(), "time", s.opt.DrainTime)
	s.Drain(ctx, s.opt.DrainTime)
	if n := s.open(); n > 0 {
		s.log.Warn("connections cut at the end of the drain time", "connections", n)
	}
}

func (s *Server) open() int {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	return len(s.table)
}

func (s *Server) full() bool { return len(s.slots) == cap(s.slots) }

func (s *Server) remember(c *conn) bool {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	if s.closed {
		return false
	}
	s.table[c] = struct{}{}
	s.metrics.conns.Inc()
	s.metrics.accepted.Inc()
	return true
}

func (s *Server) forget(c *conn) {
	s.connMu.Lock()
	delete(s.table, c)
	s.connMu.Unlock()
	s.metrics.conns.Dec()
	<-s.slots
}

// housekeeping does what is nobody's turn, and sleeps while there is nothing.
func (s *Server) housekeeping(stop <-chan struct{}) {
	const (
		every    = 20 * time.Millisecond
		gapLimit = 10 * time.Second
	)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.out.flush()
			s.endGaps(s.now().Add(-gapLimit))
			s.adopt(s.now())
			if s.choresDone() {
				t.Stop()
			}
		case <-s.chores:
			t.Reset(every)
		case <-stop:
			return
		}
	}
}

// chore wakes housekeeping.
func (s *Server) chore() {
	select {
	case s.chores <- struct{}{}:
	default:
	}
}

func (s *Server) choresDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gaps) == 0 && len(s.ended) == 0 && s.orphans.IsZero() && s.out.waits() == 0
}

// endGaps ends exchanges in which a frame has been missing since before.
func (s *Server) endGaps(before time.Time) {
	var over []*exch
	s.mu.Lock()
	for x := range s.gaps {
		x.mu.Lock()
		switch {
		case !x.inbox.Waiting():
			delete(s.gaps, x)
		case x.gap.Before(before):
			delete(s.gaps, x)
			over = append(over, x)
		}
		x.mu.Unlock()
	}
	s.mu.Unlock()
	for _, x := range over {
		s.endGap(x)
	}
}

// endGap ends an exchange of which a frame is missing.
func (s *Server) endGap(x *exch) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s.log.Warn("exchange ended: a frame is missing", "exchange", x.id)
	if h := x.hold; h != nil {
		h.w.push(job{kind: jobEnd, h: h, reason: frame.ReasonGap})
	}
	x.fail(errGap)
}

var _ bus.Receiver = (*Server)(nil)
