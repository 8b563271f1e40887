package stack

import (
	"context"
	"fmt"
	"slices"
	"testing"
)

// For starts a stack for one test. When the test ends, and has not failed, the
// books are balanced (see Settled) before the stack is stopped; when it has
// failed, what the programs printed is shown.
func For(t testing.TB, o Options) *Stack {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer s.Stop()
		if !t.Failed() {
			if err := s.Settled(context.Background()); err != nil {
				t.Errorf("accounts at the end of the test: %v", err)
			}
		}
		if t.Failed() {
			t.Logf("the programs printed:\n%s", s.Log())
		}
	})
	return s
}

// Unaccounted says that the books of this stack cannot be balanced at the end of
// its test, and why.
func (s *Stack) Unaccounted(why string) { s.unaccounted = why }

// Settled waits, up to a minute, until every publication that this boot of the
// handler knows of is accounted for (see Accounts). The connmgrs are asked too,
// as far as the test left it possible:
//
//   - If all of them are the processes that were started at first, the handler
//     counts no delivery that they do not.
//   - If, moreover, the handler is that process too and no link between them ever
//     went down, both sides agree. A link that goes down takes reports with it:
//     the handler books those deliveries as dropped.
//
// Pushpin has no such books.
func (s *Stack) Settled(ctx context.Context) error {
	if s.Kind != Holdfast || s.unaccounted != "" {
		return nil
	}
	return s.await(ctx, func() error {
		now := s.bookkeepers()
		lost, err := s.linksLost()
		if err != nil {
			return err
		}
		how := alone
		if slices.Equal(now["connmgr"], s.first["connmgr"]) {
			how = covered
			if slices.Equal(now["handler"], s.first["handler"]) && !lost {
				how = equal
			}
		}
		return s.accounts(how)
	})
}

// bookkeepers returns the processes that count deliveries, by program.
func (s *Stack) bookkeepers() map[string][]int {
	all := map[string][]int{}
	for _, p := range s.Processes() {
		if p.Name == "handler" || p.Name == "connmgr" {
			all[p.Name] = append(all[p.Name], p.PID)
		}
	}
	for _, pids := range all {
		slices.Sort(pids)
	}
	return all
}

// linksLost reports whether the handler has ever given up a connmgr, or the other
// way round.
func (s *Stack) linksLost() (bool, error) {
	names, err := s.connmgrs()
	if err != nil {
		return false, err
	}
	for _, name := range append(names, "handler.0") {
		m, err := s.Metrics(name)
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, err)
		}
		other := "connmgr"
		if name != "handler.0" {
			other = "handler"
		}
		if Total(m, `holdfast_bus_peer_down_total{kind="`+other+`"`) > 0 {
			return true, nil
		}
	}
	return false, nil
}
