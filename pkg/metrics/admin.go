package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewRegistry returns a registry with what every process tells: the Go runtime,
// the process, and which instance and version it is.
func NewRegistry(instance, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "holdfast_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"instance_name": instance, "version": version, "go": goVersion()},
	})
	info.Set(1)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return r
}

func goVersion() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		return bi.GoVersion
	}
	return "unknown"
}

// AdminOptions configures an admin listener.
type AdminOptions struct {
	// Spec is PORT (on the loopback address), ADDR:PORT or ipc://PATH.
	Spec string
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Ready says why the process is not ready, or nil. Without it the process is
	// always ready.
	Ready func() error
	// Pprof serves /debug/pprof/.
	Pprof bool
	// Extra are further handlers, by path.
	Extra map[string]http.Handler
	// Logger is silent if nil.
	Logger *slog.Logger
}

// Admin serves /metrics, /healthz and /readyz, what is in AdminOptions.Extra, and
// /debug/pprof/ if asked to.
type Admin struct {
	ln  net.Listener
	srv *http.Server
}

// NewAdmin opens the listener.
func NewAdmin(o AdminOptions) (*Admin, error) {
	ln, err := Listen(o.Spec, "127.0.0.1")
	if err != nil {
		return nil, fmt.Errorf("admin listener: %w", err)
	}
	return &Admin{ln: ln, srv: newServer(adminHandler(o), o.Logger)}, nil
}

// newServer returns a server with limits fit for a few callers.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    8192,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func adminHandler(o AdminOptions) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 20 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		var err error
		if o.Ready != nil {
			err = o.Ready()
		}
		answer(w, err)
	})
	for path, h := range o.Extra {
		mux.Handle("GET "+path, h)
	}
	if o.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok\n"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		text = err.Error() + "\n"
	}
	_, _ = io.WriteString(w, text) // the caller may have gone
}

// Addr returns where the listener is.
func (a *Admin) Addr() net.Addr { return a.ln.Addr() }

// Run serves until ctx ends.
func (a *Admin) Run(ctx context.Context) error { return serve(ctx, a.srv, a.ln) }

// Close closes a listener that Run was not called for.
func (a *Admin) Close() error { return a.ln.Close() }

// serve runs srv on ln until ctx ends. It does not wait for callers: a profile
// may take minutes.
func serve(ctx context.Context, srv *http.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) || ctx.Err() == nil {
		return err
	}
	return nil
}
