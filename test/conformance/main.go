// Command conformance judges a GRIP proxy from outside: it is client, origin
// and publisher at once, speaks raw bytes on every side, and knows nothing of
// the proxy but its public interfaces.
//
//	go run ./test/conformance -target holdfast    # bin/ and scripts/ of this repository
//	go run ./test/conformance -target pushpin     # the distribution's Pushpin
//	go run ./test/conformance -addr … -control … -push … -sub … -routes-file …
//
// The cases are written from the GRIP protocol, and Pushpin is the oracle for
// them: a case that Pushpin fails is either wrong or says so in its Pushpin
// field, which is checked as well. One line is printed for each failing case.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/test/stack"
)

// profiles are the configurations that some cases need besides the usual one,
// which has the empty name. Each costs a proxy of its own.
var profiles = map[string][]string{
	"": nil,
	// What an operator behind a trusted edge would set.
	"edge": {
		"proxy/accept_x_forwarded_protocol=true", "proxy/set_x_forwarded_protocol=true",
		"proxy/x_forwarded_for=truncate:1,append", "proxy/upstream_key=upkey",
		"proxy/accept_pushpin_route=true", "proxy/cdn_loop=me",
	},
	"strict": {
		"proxy/x_forwarded_for=truncate:0", "proxy/set_x_forwarded_protocol=false", "proxy/debug=true", "proxy/sig_key=",
		"handler/connection_subscription_max=3", "handler/id_cache_ttl=0",
	},
	"compression": {"runner/allow_compression=true"},
}

type settings struct {
	target, run string
	parallel    int
	verbose     bool
	list        bool
	keepLog     string
	external    stack.Stack
}

func main() {
	var o settings
	flag.StringVar(&o.target, "target", "", "what to start: holdfast or pushpin; ws-peer checks the WebSocket cases themselves")
	flag.StringVar(&o.run, "run", "", "run only the cases whose id matches this regular expression")
	flag.IntVar(&o.parallel, "parallel", 16, "cases at once")
	flag.BoolVar(&o.verbose, "v", false, "print passing cases too")
	flag.BoolVar(&o.list, "list", false, "print the cases and end")
	flag.StringVar(&o.keepLog, "log", "", "write what the proxies printed to this file")
	flag.StringVar(&o.external.HTTP, "addr", "", "client address of a proxy that runs already")
	flag.StringVar(&o.external.Control, "control", "", "its control API")
	flag.StringVar(&o.external.Push, "push", "", "its ZeroMQ PULL address")
	flag.StringVar(&o.external.Sub, "sub", "", "its ZeroMQ SUB address")
	flag.StringVar(&o.external.Command, "command", "", "its ZeroMQ command address")
	flag.StringVar(&o.external.Routes, "routes-file", "", "its routes file, which is overwritten")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		stop()
		os.Exit(2)
	}
	if failed > 0 {
		stop()
		os.Exit(1)
	}
}

// run returns how many cases failed.
func run(ctx context.Context, o settings) (int, error) {
	re, err := regexp.Compile(o.run)
	if err != nil {
		return 0, err
	}
	all := cases()
	if err := check(all); err != nil {
		return 0, err
	}
	all = slices.DeleteFunc(all, func(c *Case) bool { return !re.MatchString(c.ID) })
	if o.list {
		for _, c := range all {
			fmt.Printf("%-24s %s [%s] %s\n", c.ID, c.Title, c.Source, c.Pushpin)
		}
		return 0, nil
	}
	kind := stack.Kind(o.target)
	external := o.external.HTTP != ""
	if kind == wsPeer {
		all = slices.DeleteFunc(all, func(c *Case) bool { return !c.Peer })
	}
	if kind == stack.Pushpin {
		all = slices.DeleteFunc(all, func(c *Case) bool { return strings.HasPrefix(c.Pushpin, "fatal: ") })
	}
	if !external && kind != wsPeer && kind != stack.Holdfast && kind != stack.Pushpin {
		return 0, fmt.Errorf("say -target holdfast, -target pushpin, -target ws-peer, or -addr and its companions")
	}

	for _, c := range all {
		if err := c.listen(); err != nil {
			return 0, err
		}
		defer c.close()
	}
	began := time.Now()
	r := &runner{kind: kind, parallel: o.parallel, verbose: o.verbose}
	switch {
	case external:
		err = r.runExternal(ctx, all, &o.external)
	case kind == wsPeer:
		err = r.runPeer(ctx, all)
	default:
		err = r.runStacks(ctx, all)
	}
	if o.keepLog != "" {
		if err := os.WriteFile(o.keepLog, []byte(r.logs.String()), 0o600); err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, err
	}
	fmt.Printf("%d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
	if r.known > 0 {
		fmt.Printf(", %d different as marked", r.known)
	}
	fmt.Printf(" in %s\n", time.Since(began).Round(time.Second))
	return r.failed, nil
}

type runner struct {
	kind     stack.Kind
	parallel int
	verbose  bool

	mu                             sync.Mutex
	passed, failed, skipped, known int
	logs                           strings.Builder
}

// runStacks starts one proxy for each profile in use, and one for each case
// that wants to be alone, and runs the cases against them.
func (r *runner) runStacks(ctx context.Context, all []*Case) error {
	byProfile := map[string][]*Case{}
	var alone []*Case
	for _, c := range all {
		if c.Alone {
			alone = append(alone, c)
		} else {
			byProfile[c.Profile] = append(byProfile[c.Profile], c)
		}
	}
	for _, name := range slices.Sorted(mapsKeys(byProfile)) {
		if err := r.runStack(ctx, byProfile[name], profiles[name]); err != nil {
			return err
		}
	}
	for _, c := range alone {
		if err := r.runStack(ctx, []*Case{c}, append(slices.Clone(profiles[c.Profile]), c.Set...)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) runStack(ctx context.Context, cs []*Case, set []string) error {
	var lines []string
	for _, c := range cs {
		lines = append(lines, c.routeLines()...)
	}
	s, err := stack.Start(ctx, stack.Options{Kind: r.kind, Routes: lines, Set: set})
	if err != nil {
		return err
	}
	defer func() {
		r.logs.WriteString(s.Log())
		s.Stop()
	}()
	return r.runCases(ctx, cs, s)
}

func (r *runner) runExternal(ctx context.Context, all []*Case, s *stack.Stack) error {
	var cs []*Case
	for _, c := range all {
		if c.Alone || c.Profile != "" {
			r.skipped++
			continue
		}
		cs = append(cs, c)
	}
	var lines []string
	for _, c := range cs {
		lines = append(lines, c.routeLines()...)
	}
	if err := s.WriteRoutes(lines); err != nil {
		return err
	}
	if err := s.Ready(ctx, 30*time.Second); err != nil {
		return err
	}
	return r.runCases(ctx, cs, s)
}

func (r *runner) runCases(ctx context.Context, cs []*Case, s *stack.Stack) error {
	mon, err := newMonitor(ctx, s.Sub)
	if err != nil {
		return fmt.Errorf("watching subscriptions: %w", err)
	}
	defer mon.close()
	return r.runWith(ctx, cs, s, mon)
}

func (r *runner) runWith(ctx context.Context, cs []*Case, s *stack.Stack, mon *monitor) error {
	slots := make(chan struct{}, r.parallel)
	var wg sync.WaitGroup
	for _, c := range cs {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			r.runCase(ctx, c, s, mon)
		}()
	}
	wg.Wait()
	if what, ok := s.Exited(); ok {
		fmt.Printf("note: a process of the proxy ended during the run: %s\n", what)
	}
	return ctx.Err()
}

func (r *runner) runCase(ctx context.Context, c *Case, s *stack.Stack, mon *monitor) {
	began := time.Now()
	failure := c.once(ctx, s, mon)
	if r.kind == stack.Pushpin && strings.HasPrefix(c.Pushpin, "sometimes: ") {
		for range 3 {
			if failure == "" {
				break
			}
			c.drain()
			failure = c.once(ctx, s, mon)
		}
	}
	took := time.Since(began).Round(10 * time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	marked := r.kind == stack.Pushpin && c.Pushpin != "" && !strings.HasPrefix(c.Pushpin, "sometimes: ")
	switch {
	case marked && failure == "" && strings.HasPrefix(c.Pushpin, "chance: "):
		r.passed++
	case marked && failure == "":
		r.failed++
		fmt.Printf("FAIL   %s %s: the mark %q is stale, Pushpin passes\n", c.ID, c.Title, c.Pushpin)
	case marked:
		r.known++
		if r.verbose {
			fmt.Printf("known  %s (%s): %s\n", c.ID, c.Pushpin, failure)
		}
	case failure != "":
		r.failed++
		fmt.Printf("FAIL   %s %s [%s]: %s\n", c.ID, c.Title, c.Source, failure)
	default:
		r.passed++
		if r.verbose {
			fmt.Printf("pass   %s %s (%s)\n", c.ID, c.Title, took)
		}
	}
}
