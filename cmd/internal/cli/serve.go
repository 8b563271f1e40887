package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/daemon"
	"github.com/holdfast/holdfast/pkg/metrics"
)

// serve runs the process. The admin listener is first and ends last, so that it
// tells about starting and stopping; the server runs the bus itself, since only
// it knows when the last frame is sent.
func serve(ctx context.Context, p Program, cfg *config.Config, c *common) (err error) {
	runtime, adminSpec := p.Runtime(cfg)
	daemon.Tune(runtime.Threads, runtime.GCPercent, int64(runtime.MemoryLimit))

	var out io.Writer = os.Stdout
	reopen := func() error { return nil }
	if c.logfile != "" {
		f, err := daemon.OpenLog(c.logfile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		out, reopen = f, f.Reopen
	}
	output := daemon.NewLogOutput(out, os.Stderr)
	log := daemon.NewLogger(output, daemon.Level(cfg.Runner.LogLevel.For(p.Kind)), cfg.Runner.LogFormat == "json", c.logName)
	report(log, p, cfg)

	if p.Files != nil {
		want := p.Files(cfg)
		have, err := daemon.RaiseFiles(want)
		switch {
		case err != nil:
			log.Warn("limit of open files", "err", err)
		case have < want:
			log.Warn("fewer open files are allowed than runner.client_maxconn needs; raise the limit (ulimit -n, LimitNOFILE)", "have", have, "want", want)
		}
	}
	if err := os.MkdirAll(cfg.Global.RunDir, 0o700); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	registry := metrics.NewRegistry(c.name, version)
	registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "holdfast_log_lines_lost_total", Help: "Log lines that could not be written.",
	}, func() float64 { return float64(output.Lost()) }))
	peers, err := busPeers(cfg)
	if err != nil {
		return err
	}
	node, err := bus.New(bus.Options{
		Name: c.name, Dir: cfg.Global.RunDir, Prefix: cfg.Global.IPCPrefix,
		ListenInbox: cfg.Bus.Inbox, ListenPub: cfg.Bus.Pub, Peers: peers,
		QueueBytes: int(cfg.Bus.QueueSize), Heartbeat: cfg.Bus.Heartbeat, GiveUp: cfg.Bus.GiveUp,
		Logger: log, Registerer: registry,
	})
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }()
	server, err := p.New(Env{Config: cfg, Bus: node, Logger: log, Registry: registry})
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()

	var services []daemon.Service
	if adminSpec != "" {
		o := metrics.AdminOptions{Spec: adminSpec, Gatherer: registry, Pprof: cfg.Admin.Pprof, Logger: log}
		if r, ok := server.(interface{ Ready() error }); ok {
			o.Ready = r.Ready
		}
		if a, ok := server.(interface {
			Admin() map[string]http.Handler
		}); ok {
			o.Extra = a.Admin()
		}
		admin, err := metrics.NewAdmin(o)
		if err != nil {
			return err
		}
		defer func() { _ = admin.Close() }()
		services = append(services, daemon.Service{Name: "admin", Run: admin.Run})
	}
	if p.Pushpin != nil {
		if spec, prefix := p.Pushpin(cfg); spec != "" {
			l, err := metrics.NewPushpin(spec, prefix, registry, log)
			if err != nil {
				return err
			}
			defer func() { _ = l.Close() }()
			services = append(services, daemon.Service{Name: "prometheus", Run: l.Run})
		}
	}
	ready := &daemon.Ready{File: c.readyFile, Socket: os.Getenv("NOTIFY_SOCKET"), Logger: log}
	if r, ok := server.(interface{ Ready() error }); ok {
		ready.Check = r.Ready
	}
	services = append(services, daemon.Service{Name: p.Kind, Run: server.Run}, daemon.Service{Name: "ready", Run: ready.Run})
	log.Info("started", "name", c.name, "version", version, "pid", os.Getpid())
	return daemon.Run(ctx, daemon.Options{
		Logger: log,
		Grace:  p.Grace(cfg) + 5*time.Second, // the server keeps its own time; this is for one that does not
		Reload: func() error {
			if err := reopen(); err != nil {
				return err
			}
			if r, ok := server.(interface{ Reload() error }); ok {
				return r.Reload()
			}
			return nil
		},
	}, services...)
}

// busPeers reads bus.peers.
func busPeers(cfg *config.Config) ([]bus.PeerSpec, error) {
	var peers []bus.PeerSpec
	for _, item := range cfg.Bus.Peers {
		words := strings.Fields(item)
		if len(words) != 3 {
			return nil, UsageError{fmt.Errorf("bus.peers: %q: want NAME INBOX PUB", item)}
		}
		peers = append(peers, bus.PeerSpec{Name: words[0], Inbox: words[1], Pub: words[2]})
	}
	return peers, nil
}

// report logs what the operator should know about the configuration. Each notice
// is logged by one process: the one whose section it is about, or connmgr.
func report(log *slog.Logger, p Program, cfg *config.Config) {
	file := cfg.File
	if file == "" {
		file = "none, the defaults hold"
	}
	log.Info("using config: " + file)
	ours := func(n config.Notice) bool {
		switch n.Section {
		case "proxy", "handler", "zurl":
			return n.Section == p.Kind
		}
		return p.Kind == "connmgr"
	}
	for _, n := range cfg.Notices {
		if !ours(n) {
			continue
		}
		switch n.Kind {
		case config.NotActedOn: // below
		case config.Renamed, config.Repeated:
			log.Info("configuration: " + n.String())
		default:
			log.Warn("configuration: " + n.String())
		}
	}
	for _, u := range cfg.Unused(ours) {
		log.Info("configuration: without effect: " + u.Brief())
	}
}
