package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Exit codes of every program.
const (
	ExitOK    = 0
	ExitError = 1 // failed while running
	ExitUsage = 2 // wrong flags or configuration
)

// Service is a part of a process that runs until its context ends.
type Service struct {
	Name string
	// Run blocks. A nil error before ctx has ended means that the service is
	// done, which ends the process as an error would.
	Run func(ctx context.Context) error
}

// Options configures Run.
type Options struct {
	// Logger is silent if nil.
	Logger *slog.Logger
	// Grace limits stopping, from the first signal on.
	Grace time.Duration
	// Reload is called for SIGHUP, one call at a time. May be nil.
	Reload func() error
	// Signals replaces the signals of the process, for tests.
	Signals <-chan os.Signal
	// Exit replaces os.Exit, which a second signal calls.
	Exit func(code int)
}

// ErrGrace is returned by Run if stopping took longer than Options.Grace.
var ErrGrace = errors.New("did not stop in time")

// Run starts the services in order and stops them in the reverse order, each
// only when the one after it has returned: a later service may use an earlier
// one to its end. It stops on SIGTERM and SIGINT, when ctx ends, and when a
// service returns; the first service's error is its result. A second signal
// ends the process at once.
func Run(ctx context.Context, o Options, services ...Service) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Exit == nil {
		o.Exit = os.Exit
	}
	signals := o.Signals
	if signals == nil {
		// Whoever read our output may be gone; that is no reason to end with it.
		signal.Ignore(syscall.SIGPIPE)
		c := make(chan os.Signal, 4) // signals that come while one is being handled
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		defer signal.Stop(c)
		signals = c
	}

	stopTrim := make(chan struct{})
	defer close(stopTrim)
	go trim(stopTrim)

	g := start(ctx, services)
	var (
		expired  <-chan time.Time // after the first signal
		stopping bool
	)
	stop := func() {
		if !stopping {
			stopping = true
			expired = time.After(o.Grace)
			g.stop()
		}
	}
	done := ctx.Done()
	for {
		select {
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				o.Logger.Info("reloading")
				if o.Reload == nil {
					continue
				}
				if err := o.Reload(); err != nil {
					o.Logger.Error("reload", "err", err)
				}
			case stopping:
				o.Logger.Warn("stopping at once", "signal", s)
				o.Exit(ExitError)
				return ErrGrace // only with an Exit that returns
			default:
				o.Logger.Info("stopping...", "signal", s)
				stop()
			}
		case <-done:
			done = nil
			stop()
		case <-g.first:
			if !stopping {
				o.Logger.Debug("stopping, since a part ended")
			}
			stop()
			g.first = nil
		case <-g.done:
			if g.err == nil {
				o.Logger.Info("stopped")
			}
			return g.err
		case <-expired:
			return fmt.Errorf("%w: %s still runs after %v", ErrGrace, g.slow(), o.Grace)
		}
	}
}

// group runs services.
type group struct {
	first chan struct{} // closed when the first service has returned
	done  chan struct{} // closed when all have; err is set before
	stop  context.CancelFunc
	err   error
	slow  func() string // names the service that is being waited for
}

func start(ctx context.Context, services []Service) *group {
	stopped, stop := context.WithCancel(context.Background())
	g := &group{first: make(chan struct{}), done: make(chan struct{}), stop: stop}
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(services)) // each service sends once and never waits
	ended := make([]chan struct{}, len(services))
	cancels := make([]context.CancelFunc, len(services))
	waitingFor := make(chan string, 1)
	waitingFor <- "nothing"
	for i, s := range services {
		// The services' contexts carry the values of ctx but not its end, since
		// they end one by one.
		c, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancels[i], ended[i] = cancel, make(chan struct{})
		go func() {
			defer close(ended[i])
			err := s.Run(c)
			if c.Err() != nil && errors.Is(err, context.Canceled) {
				err = nil // our own stop is not an error
			}
			results <- result{s.Name, err}
		}()
	}
	go func() {
		<-stopped.Done()
		for i := len(services) - 1; i >= 0; i-- {
			<-waitingFor
			waitingFor <- services[i].Name
			cancels[i]()
			<-ended[i]
		}
	}()
	go func() {
		defer close(g.done)
		for n := range services {
			r := <-results
			if n == 0 {
				close(g.first)
			}
			if r.err != nil && g.err == nil {
				g.err = fmt.Errorf("%s: %w", r.name, r.err)
			}
		}
		stop()
	}()
	g.slow = func() string {
		name := <-waitingFor
		waitingFor <- name
		return name
	}
	return g
}
