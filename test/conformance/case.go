package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/test/stack"
)

// Case is one thing that a proxy has to do. It has a host name, a route and
// an origin of its own, so cases run side by side.
type Case struct {
	ID     string
	Title  string
	Source string // where the rule comes from

	// Routes are the lines for the routes file; the default is
	// "{host} {origin}", or "{host},debug {origin}" with Debug. {host},
	// {origin}, {origin2} and {dead}, a port where nobody listens, are
	// replaced.
	Routes []string
	Debug  bool
	// Profile names the configuration that the case needs.
	Profile string
	// Alone gives the case a proxy of its own, configured further by Set:
	// for what could disturb others.
	Alone bool
	Set   []string
	// Limit bounds the case; 20 s if zero.
	Limit time.Duration
	// Pushpin says how Pushpin 1.36 differs: "wrong: why" where it breaks a
	// rule, "newest: what" where later releases of it changed, "sometimes:
	// what" where it depends on chance. Against Pushpin the case has to fail,
	// so that the mark cannot grow stale; with "sometimes" it has to pass once
	// in four runs, with "chance: what" it may do either. With "fatal: why" the
	// case is not run, as it would take Pushpin down.
	Pushpin string
	// Peer cases are about WebSockets alone: they also run against an
	// ordinary WebSocket server that sends back what it gets.
	Peer bool

	Run func(t *T)

	origins [2]*Origin
	dead    string
}

func (c *Case) host() string { return strings.ToLower(c.ID) + ".test" }

// check finds mistakes in the list of cases itself.
func check(all []*Case) error {
	seen := map[string]bool{}
	kinds := []string{"wrong", "newest", "sometimes", "chance", "fatal"}
	for _, c := range all {
		if seen[c.host()] {
			return fmt.Errorf("case %s: the id is used twice", c.ID)
		}
		seen[c.host()] = true
		if c.ID == "" || c.Title == "" || c.Source == "" || c.Run == nil {
			return fmt.Errorf("case %q lacks an id, title, source or function", c.ID)
		}
		if _, ok := profiles[c.Profile]; !ok {
			return fmt.Errorf("case %s: no profile %q", c.ID, c.Profile)
		}
		if kind, _, _ := strings.Cut(c.Pushpin, ": "); c.Pushpin != "" && !slices.Contains(kinds, kind) {
			return fmt.Errorf("case %s: the mark %q has no kind", c.ID, c.Pushpin)
		}
		if len(c.Set) > 0 && !c.Alone {
			return fmt.Errorf("case %s: Set needs Alone", c.ID)
		}
	}
	return nil
}

func (c *Case) listen() error {
	for i := range c.origins {
		o, err := newOrigin()
		if err != nil {
			return err
		}
		c.origins[i] = o
	}
	p, err := stack.FreePort()
	c.dead = fmt.Sprintf("127.0.0.1:%d", p)
	return err
}

func (c *Case) close() {
	for _, o := range c.origins {
		if o != nil {
			o.close()
		}
	}
}

// drain forgets the requests of an earlier run.
func (c *Case) drain() {
	for _, o := range c.origins {
		for len(o.reqs) > 0 {
			<-o.reqs
		}
	}
}

func (c *Case) expand(s string) string {
	return strings.NewReplacer("{host}", c.host(), "{origin}", c.origins[0].addr(), "{origin2}", c.origins[1].addr(),
		"{dead}", c.dead, "{id}", strings.ToLower(c.ID)).Replace(s)
}

func (c *Case) routeLines() []string {
	lines := c.Routes
	if lines == nil {
		lines = []string{"{host} {origin}"}
		if c.Debug {
			lines = []string{"{host},debug {origin}"}
		}
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = c.expand(l)
	}
	return out
}

// runs makes channel names differ between cases and between runs.
var runs atomic.Int64

// failure is what T.Fatalf panics with.
type failure string

// once runs the case and returns how it failed, or "".
func (c *Case) once(ctx context.Context, s *stack.Stack, mon *monitor) (result string) {
	limit := c.Limit
	if limit == 0 {
		limit = 20 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := &T{Case: c, Proxy: s, ctx: ctx, mon: mon, run: runs.Add(1), wait: 8 * time.Second}
	defer func() {
		for _, cl := range t.conns {
			_ = cl.Close()
		}
	}()
	defer func() {
		switch v := recover().(type) {
		case nil:
		case failure:
			result = string(v)
		default:
			panic(v)
		}
	}()
	c.Run(t)
	return ""
}

// T is what a running case works with. Its methods end the case when
// something is not as expected.
type T struct {
	*Case
	Proxy *stack.Stack
	ctx   context.Context
	mon   *monitor
	run   int64
	wait  time.Duration // for one thing to happen
	conns []net.Conn
}

// Fatalf ends the case as failed.
func (t *T) Fatalf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	panic(failure(strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(text)))
}

// Equal compares two strings.
func (t *T) Equal(what, got, want string) {
	if got != want {
		t.Fatalf("%s: got %q, want %q", what, clip(got, want), clip(want, got))
	}
}

// clip shortens a long text to where it starts to differ from another.
func clip(s, other string) string {
	const around = 160
	if len(s) <= 4*around {
		return s
	}
	i := 0
	for i < len(s) && i < len(other) && s[i] == other[i] {
		i++
	}
	from, to := max(0, i-around), min(len(s), i+around)
	return fmt.Sprintf("…(%d of %d bytes)%s…", from, len(s), s[from:to])
}

// Contains looks for a part of a text.
func (t *T) Contains(what, got, part string) {
	if !strings.Contains(got, part) {
		t.Fatalf("%s: %q does not contain %q", what, clip(got, ""), part)
	}
}

// Ch makes a channel name that no other case and no other run uses.
func (t *T) Ch(name string) string {
	return fmt.Sprintf("%s-%s-%d", name, strings.ToLower(t.ID), t.run)
}

// Deadline is when the thing that is waited for now must have happened.
func (t *T) deadline() time.Time {
	d := time.Now().Add(t.wait)
	if end, ok := t.ctx.Deadline(); ok && end.Before(d) {
		return end
	}
	return d
}

// Within changes how long the case waits for one thing.
func (t *T) Within(d time.Duration) { t.wait = d }

// Origin sets what the origin of the case does with each request.
func (t *T) Origin(f func(x *Exchange)) { t.origins[0].handle(f) }

// Origin2 does the same for the second origin.
func (t *T) Origin2(f func(x *Exchange)) { t.origins[1].handle(f) }

// Always has the origin answer every request alike.
func (t *T) Always(raw string) { t.Origin(func(x *Exchange) { x.Send(raw) }) }

// Answers has the origin give one answer after the other; the last stays.
func (t *T) Answers(raw ...string) {
	var n atomic.Int64
	t.Origin(func(x *Exchange) { x.Send(raw[min(int(n.Add(1)), len(raw))-1]) })
}

// Request waits for the next request that reaches the origin.
func (t *T) Request() *Request { return t.origins[0].next(t) }

// Request2 does the same for the second origin.
func (t *T) Request2() *Request { return t.origins[1].next(t) }

// Subscribed waits until the proxy has subscribed to the channel on its ZeroMQ
// SUB interface: from then on the hold on it receives what is published.
func (t *T) Subscribed(channels ...string) {
	for _, ch := range channels {
		if !t.mon.wait(ch, t.deadline()) {
			t.Fatalf("no subscription to %q was seen", ch)
		}
	}
}

// OnPushpin reports whether it is Debian's Pushpin that is examined, for texts
// that later releases changed.
func (t *T) OnPushpin() bool { return t.Proxy.Kind == stack.Pushpin }

// reply builds an answer of an origin, with a Content-Length. The header is
// given one line each.
func reply(status, header, body string) string {
	return head(status, header) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
}

// hold builds an answer that is held on a channel. More header lines may
// follow.
func hold(mode, channel, text string, header ...string) string {
	h := append([]string{plainText, "Grip-Hold: " + mode, "Grip-Channel: " + channel}, header...)
	return reply("200 OK", strings.Join(h, "\n"), text)
}

// head is a status line and header lines, without the empty line at the end.
func head(status, header string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\n", status)
	for line := range strings.Lines(header) {
		if line = strings.Trim(line, "\r\n"); line != "" {
			b.WriteString(line + "\r\n")
		}
	}
	return b.String()
}

func mapsKeys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// waitUntil lets time pass: for what a proxy does at a certain time.
func (t *T) waitUntil(at time.Time) {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
		t.Fatalf("out of time")
	}
}
