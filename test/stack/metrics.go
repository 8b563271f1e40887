package stack

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Metrics reads the admin listener of an instance of Holdfast, such as
// "handler.0". The keys are those of the text format, labels included.
func (s *Stack) Metrics(instance string) (map[string]float64, error) {
	found, err := filepath.Glob(filepath.Join(s.Dir, "run", "*"+instance+"-admin"))
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("admin sockets of %s: %q", instance, found)
	}
	hc := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", found[0]) },
		DisableKeepAlives: true,
	}}
	resp, err := hc.Get("http://admin/metrics")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	out := map[string]float64{}
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		if i := strings.LastIndexByte(sc.Text(), ' '); i > 0 {
			if v, err := strconv.ParseFloat(sc.Text()[i+1:], 64); err == nil {
				out[sc.Text()[:i]] = v
			}
		}
	}
	return out, sc.Err()
}

// Total adds up a metric over its labels. The name may end with the first of them,
// as in `name{kind="x"`.
func Total(m map[string]float64, name string) float64 {
	var sum float64
	for k, v := range m {
		if rest, ok := strings.CutPrefix(k, name); ok && (rest == "" || strings.ContainsAny(rest[:1], "{,}")) {
			sum += v
		}
	}
	return sum
}

// Accounts waits until every publication is accounted for: matched = delivered +
// dropped at the handler, and what the handler counts as delivered is what the
// connmgrs delivered. The last holds only if neither has been started anew since
// the beginning, so it is asked for with agree.
func (s *Stack) Accounts(ctx context.Context, agree bool) error {
	how := alone
	if agree {
		how = equal
	}
	return s.await(ctx, func() error { return s.accounts(how) })
}

// await asks until there is no error, or a minute has passed.
func (s *Stack) await(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// agreement is what the books of connmgr have to do with those of the handler.
type agreement int

const (
	alone   agreement = iota // nothing
	covered                  // what the handler counts as delivered, connmgr delivered
	equal                    // and nothing besides
)

func (s *Stack) accounts(how agreement) error {
	h, err := s.Metrics("handler.0")
	if err != nil {
		return err
	}
	matched := Total(h, "holdfast_handler_matched_total")
	delivered, dropped := Total(h, "holdfast_handler_delivered_total"), Total(h, "holdfast_handler_dropped_total")
	if matched != delivered+dropped {
		return fmt.Errorf("handler: %v matched, but %v delivered and %v dropped", matched, delivered, dropped)
	}
	if how == alone {
		return nil
	}
	names, err := s.connmgrs()
	if err != nil {
		return err
	}
	var sum float64
	for _, name := range names {
		m, err := s.Metrics(name)
		if err != nil {
			return err
		}
		sum += Total(m, "holdfast_connmgr_deliveries_total")
	}
	if delivered > sum || how == equal && delivered < sum {
		return fmt.Errorf("handler says %v were delivered, connmgr %v", delivered, sum)
	}
	return nil
}

// connmgrs returns the names of all instances of connmgr.
func (s *Stack) connmgrs() ([]string, error) {
	found, err := filepath.Glob(filepath.Join(s.Dir, "run", "*connmgr.*-admin"))
	for i, path := range found {
		name := filepath.Base(path)
		found[i] = strings.TrimSuffix(name[strings.Index(name, "connmgr."):], "-admin")
	}
	return found, err
}
