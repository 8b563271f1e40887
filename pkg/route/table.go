package route

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxLine is the longest line that is read, in bytes.
const maxLine = 1 << 20

// Table is all routes of a file. It does not change once it is made.
type Table struct {
	routes  []*Route            // in file order
	domains map[string][]*Route // best first
	ids     map[string][]*Route
}

// Check looks at a route that was read well. If it returns an error the line is
// refused like one that was not.
type Check func(*Route) error

// Parse reads a routes file. Lines that are wrong are left out; each gives one
// warning, as FILE:LINE: MESSAGE. It returns an error only if r does.
func Parse(file string, r io.Reader, check Check) (t *Table, warnings []string, err error) {
	b := builder{file: file, check: check, seen: map[condition]bool{}}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, maxLine)
	for n := 1; scan.Scan(); n++ {
		b.add(scan.Text(), n)
	}
	if err := scan.Err(); err != nil {
		return nil, nil, fmt.Errorf("read routes file %s: %w", file, err)
	}
	t = b.table()
	return t, b.warnings, nil
}

// ParseLines reads routes that are given one by one, as on a command line. Each
// counts as line 1 of a file called "<route>".
func ParseLines(lines []string, check Check) (t *Table, warnings []string) {
	b := builder{file: "<route>", check: check, seen: map[condition]bool{}}
	for _, line := range lines {
		b.add(line, 1)
	}
	return b.table(), b.warnings
}

type builder struct {
	file     string
	check    Check
	routes   []*Route
	seen     map[condition]bool
	warnings []string
}

type condition struct {
	domain  string
	proto   Protocol
	tls     TLS
	pathBeg string
}

func (b *builder) add(line string, n int) {
	warn := func(format string, args ...any) {
		b.warnings = append(b.warnings, fmt.Sprintf("%s:%d", b.file, n)+fmt.Sprintf(format, args...))
	}
	sections, err := parseLine(strings.TrimSuffix(line, "\r"))
	if err != nil {
		warn(": %s", err)
		return
	}
	if len(sections) == 0 {
		return
	}
	r, err := newRoute(sections)
	if err == nil {
		r.File, r.Line, r.order = b.file, n, len(b.routes)
		if b.check != nil {
			err = b.check(r)
		}
	}
	if err != nil {
		warn(": %s", err)
		return
	}
	if c := (condition{r.Domain, r.Proto, r.TLS, r.PathBeg}); r.Domain != "" {
		if b.seen[c] {
			warn(" skipping duplicate condition")
			return
		}
		b.seen[c] = true
	}
	b.routes = append(b.routes, r)
}

func (b *builder) table() *Table {
	t := &Table{routes: b.routes, domains: map[string][]*Route{}, ids: map[string][]*Route{}}
	for _, r := range b.routes {
		if r.Domain != "" {
			t.domains[r.Domain] = append(t.domains[r.Domain], r)
		}
		t.ids[r.ID] = append(t.ids[r.ID], r)
	}
	for _, list := range t.domains {
		slices.SortFunc(list, (*Route).compare)
	}
	return t
}

// Routes returns all routes in file order.
func (t *Table) Routes() []*Route { return slices.Clone(t.routes) }

// Len returns how many routes there are.
func (t *Table) Len() int { return len(t.routes) }

// Match returns the best route for q, or nil. If there are routes for exactly
// its host, the ones for any host are not looked at, even if none matches.
func (t *Table) Match(q Request) *Route {
	list, _ := t.candidates(q)
	for _, r := range list {
		if r.mismatch(q) == "" {
			return r
		}
	}
	return nil
}

func (t *Table) candidates(q Request) (list []*Route, domain string) {
	domain = canonicalHost(q.Host)
	if list, ok := t.domains[domain]; ok && domain != "*" {
		return list, domain
	}
	return t.domains["*"], "*"
}

// ByID returns the route of that id. shared says that several have it, in which
// case none is returned.
func (t *Table) ByID(id string) (r *Route, shared bool) {
	switch list := t.ids[id]; len(list) {
	case 0:
		return nil, false
	case 1:
		return list[0], false
	}
	return nil, true
}

// Explanation says which route a request has and why.
type Explanation struct {
	Request Request
	Domain  string // whose routes were looked at: a host, or "*"
	Route   *Route // nil if none matches
	Others  []Rejection
}

// Rejection is a route that a request does not have, and the reason.
type Rejection struct {
	Route  *Route
	Reason string
}

// Explain is Match with reasons, for people. Others are in file order.
func (t *Table) Explain(q Request) Explanation {
	_, domain := t.candidates(q)
	e := Explanation{Request: q, Domain: domain, Route: t.Match(q)}
	for _, r := range t.routes {
		if r == e.Route {
			continue
		}
		reason := r.mismatch(q)
		switch {
		case r.Domain == "":
			reason = "it has no domain and is reached by its id only"
		case r.Domain != domain && r.Domain == "*":
			reason = fmt.Sprintf("there are routes for %s, so routes for any host are not looked at", domain)
		case r.Domain != domain:
			reason = "it is for another host"
		case reason == "":
			reason = e.Route.advantage(r)
		}
		e.Others = append(e.Others, Rejection{r, reason})
	}
	return e
}

// advantage returns why r wins over o.
func (r *Route) advantage(o *Route) string {
	switch {
	case r.Proto != AnyProtocol && o.Proto == AnyProtocol:
		return "it matches, but the chosen one asks for the protocol"
	case len(r.PathBeg) > len(o.PathBeg):
		return "it matches, but the chosen one has a longer path_beg"
	case r.TLS != AnyTLS && o.TLS == AnyTLS:
		return "it matches, but the chosen one asks for TLS or none"
	}
	return "it matches, but the chosen one stands earlier"
}

// String returns the explanation as text of several lines.
func (e Explanation) String() string {
	var b strings.Builder
	if e.Route == nil {
		fmt.Fprintf(&b, "no route (looked at the routes for %s)\n", e.Domain)
	} else {
		fmt.Fprintf(&b, "%s: %s\n", e.Route.Pos(), e.Route)
	}
	for _, o := range e.Others {
		fmt.Fprintf(&b, "not %s: %s: %s\n", o.Route.Pos(), o.Route, o.Reason)
	}
	return b.String()
}
