package proxy

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/route"
)

// settle is how long changes of the routes file are gathered.
const settle = time.Second

// routing is a routing table made ready for use. It does not change; a reload
// makes another, and exchanges keep the one they began with.
type routing struct {
	table *route.Table
	rules map[*route.Route]*rule
}

// rule is a route with what was made of its options.
type rule struct {
	*route.Route
	signer *grip.Signer
	debug  bool
	cors   bool // cross-origin header fields and JSON-P
	// sigIss and sigKey are for the handler, which signs for this route too.
	sigIss, sigKey string
	stats          *routeStats
}

// newRouting prepares a table. A nil table has no routes.
func (s *Server) newRouting(t *route.Table) *routing {
	if t == nil {
		t, _ = route.ParseLines(nil, nil)
	}
	g := &routing{table: t, rules: make(map[*route.Route]*rule, t.Len())}
	for _, r := range t.Routes() {
		u := &rule{Route: r, signer: s.signer, debug: s.opts.Debug || r.Debug, cors: s.opts.AutoCrossOrigin || r.AutoCrossOrigin}
		u.sigIss, u.sigKey = s.opts.SigIss, absKey(s.opts.SigKey, s.opts.KeyDir)
		if r.HasSigIss {
			u.sigIss = r.SigIss
		}
		dir := s.opts.KeyDir
		if r.HasSigKey {
			dir = filepath.Dir(s.opts.RoutesFile)
			u.sigKey = absKey(r.SigKey, dir)
		}
		if r.HasSigIss || r.HasSigKey {
			// A key of the route's own that cannot be used must not be replaced
			// by the one that others share: its requests go unsigned.
			key, err := grip.ParseSigningKey(u.sigKey, dir)
			if err != nil {
				s.log.Warn("requests on this route are not signed", "route", r.Pos(), "err", err)
			}
			u.signer = grip.NewSigner(u.sigIss, key)
		}
		for _, what := range r.Unsupported {
			s.log.Warn("route has something that is not supported", "route", r.Pos(), "what", what)
		}
		u.stats = s.stats.route(u)
		g.rules[r] = u
	}
	return g
}

// absKey makes the path in a key string absolute.
func absKey(key, dir string) string {
	const scheme = "file:"
	if len(key) <= len(scheme) || key[:len(scheme)] != scheme {
		return key
	}
	path := grip.KeyPath(key[len(scheme):], dir)
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	return scheme + path
}

// maxRouteWarnings is how many lines of a routes file are complained of one by
// one.
const maxRouteWarnings = 20

// Reload reads the routes file again. If it cannot be read, or there is something
// in it but not one route, the routes stay as they are. Lines that are wrong are
// logged and left out.
func (s *Server) Reload() error {
	s.reload.Lock()
	defer s.reload.Unlock()
	table, warnings, err := s.readRoutes()
	if err != nil {
		s.metrics.reloads.WithLabelValues(resultError).Inc()
		return err
	}
	for _, w := range warnings[:min(len(warnings), maxRouteWarnings)] {
		s.log.Warn(w)
	}
	if more := len(warnings) - maxRouteWarnings; more > 0 {
		s.log.Warn(fmt.Sprintf("%d more lines of the routes file are wrong", more))
	}
	if old := s.routes.Load().table.Len(); table.Len() == 0 && len(warnings) > 0 {
		s.metrics.reloads.WithLabelValues(resultError).Inc()
		name := s.opts.RoutesFile
		if len(s.opts.Routes) > 0 {
			name = "<route>"
		}
		if old > 0 {
			return fmt.Errorf("%s has no line that is a route; the %d routes from before stay in force", name, old)
		}
		return fmt.Errorf("%s has no line that is a route: every request gets 502 until it has", name)
	}
	s.routes.Store(s.newRouting(table))
	s.metrics.reloads.WithLabelValues(resultOK).Inc()
	s.metrics.routes.Set(float64(table.Len()))
	s.log.Info(fmt.Sprintf("routes loaded with %d entries", table.Len()))
	return nil
}

func (s *Server) readRoutes() (*route.Table, []string, error) {
	if len(s.opts.Routes) > 0 {
		table, warnings := route.ParseLines(s.opts.Routes, checkRoute)
		return table, warnings, nil
	}
	f, err := os.Open(s.opts.RoutesFile)
	if err != nil {
		return nil, nil, fmt.Errorf("unable to open routes file: %s: %w", s.opts.RoutesFile, err)
	}
	defer f.Close() //nolint:errcheck // read only
	return route.Parse(s.opts.RoutesFile, f, checkRoute)
}

// checkRoute refuses a route whose client certificate cannot be read.
func checkRoute(r *route.Route) error {
	for _, t := range r.Targets {
		for _, path := range []string{t.ClientCert, t.ClientKey} {
			if path == "" {
				continue
			}
			if _, err := os.ReadFile(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Explain says which route a request has and why.
func (s *Server) Explain(q route.Request) route.Explanation { return s.routes.Load().table.Explain(q) }

// watch reloads the routes file when it changes, until ctx ends. It watches the
// directory, so that it sees the file being replaced, vanish and come back.
func (s *Server) watch(ctx context.Context) {
	if len(s.opts.Routes) > 0 || s.opts.RoutesFile == "" {
		return
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close() //nolint:errcheck // nothing depends on it any more
		err = w.Add(filepath.Dir(s.opts.RoutesFile))
	}
	if err != nil {
		s.log.Warn("routes file is not watched, reload it by signal", "err", err)
		return
	}
	var (
		loaded  = s.fingerprint()
		settled <-chan time.Time // not nil while changes are gathered
	)
	for {
		select {
		case _, ok := <-w.Events:
			if !ok {
				return
			}
			// The name of the event does not matter: the file may be a link whose
			// target is what changed.
			if settled == nil && s.fingerprint() != loaded {
				s.log.Info("routes file changed, reloading")
				settled = s.opts.After(settle)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			s.log.Warn("watching the routes file", "err", err)
		case <-settled:
			settled = nil
			loaded = s.fingerprint()
			if err := s.Reload(); err != nil {
				s.log.Error(err.Error())
			}
		case <-ctx.Done():
			return
		}
	}
}

// fingerprint tells versions of the routes file apart. The content is part of it
// because clocks of file systems are coarse, the time because touching the file
// asks for a reload.
type fingerprint struct {
	modTime time.Time
	content [sha256.Size]byte
}

// fingerprint returns the zero value if the file cannot be read.
func (s *Server) fingerprint() fingerprint {
	info, err := os.Stat(s.opts.RoutesFile)
	if err != nil {
		return fingerprint{}
	}
	content, err := os.ReadFile(s.opts.RoutesFile)
	if err != nil {
		return fingerprint{}
	}
	return fingerprint{info.ModTime(), sha256.Sum256(content)}
}

// choose finds the rule for a request; nil if there is none.
func (s *Server) choose(r *frame.Request, path string, tls bool) *rule {
	g := s.routes.Load()
	q := route.Request{Host: r.Host, Path: path, TLS: tls, WebSocket: r.Upgrade && r.SockJS != frame.SockJSPolling}
	if r.Host == "" {
		q.Host = "localhost"
	}
	id, byID := r.Route, r.Retry
	if !byID && s.opts.AcceptPushpinRoute {
		id, byID = http1.Get(r.Header, "Pushpin-Route")
	}
	if byID {
		found, shared := g.table.ByID(id)
		// A name that a client may give is one that the file gives; ids that were
		// derived serve retries only. A retry of a route whose id is shared goes
		// the way that the request went at first.
		if !r.Retry && (found == nil || !found.Named) || found != nil && !found.MatchesPath(path) {
			return nil
		}
		if found != nil || !shared {
			return g.rules[found]
		}
	}
	return g.rules[g.table.Match(q)]
}
