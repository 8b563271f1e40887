//go:build faults

package faults

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

var holdsFlag = flag.Int("faults.holds", 2000, "how many clients TestHerd has")

// held is a stream of one's own.
type held struct {
	net.Conn
	*bufio.Reader
}

func (h *held) Read(p []byte) (int, error) { return h.Reader.Read(p) }

func hold(t *testing.T, s *stack.Stack, channel string) *held {
	t.Helper()
	return holdAt(t, s, "x", channel)
}

func holdAt(t *testing.T, s *stack.Stack, host, channel string) *held {
	t.Helper()
	c, err := net.Dial("tcp", s.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(3 * time.Minute))
	fmt.Fprintf(c, "GET /stream?channel=%s HTTP/1.1\r\nHost: %s\r\n\r\n", channel, host)
	return &held{c, bufio.NewReader(c)}
}

// say publishes one message to a channel, for as long as that takes.
func say(t *testing.T, s *stack.Stack, channel string, n int) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := poster(ctx, s, channel, n, fmt.Sprintf("message %d\n", n)); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

func one(t *testing.T, s *stack.Stack, name string) int {
	t.Helper()
	for _, p := range s.Processes() {
		if p.Name == name {
			return p.PID
		}
	}
	t.Fatalf("%s does not run", name)
	return 0
}

// knowing returns the other programs to which an instance of a kind is up.
func knowing(t *testing.T, s *stack.Stack, kind string) []string {
	t.Helper()
	var names []string
	for _, p := range s.Processes() {
		if p.Name == kind {
			continue
		}
		m, err := s.Metrics(p.Name + ".0")
		if err != nil {
			t.Fatal(err)
		}
		if m[fmt.Sprintf("holdfast_bus_peers_up{kind=%q}", kind)] > 0 {
			names = append(names, p.Name)
		}
	}
	return names
}

// A process that stands still for so long that all others give it up is taken
// back. Nobody is disconnected, and publishing works again afterwards.
func TestStopped(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{"bus/give_up=5"}, "* "+origin.addr)
	c := hold(t, s, "a")
	until(t, c.Reader, "open")
	n := 1
	say(t, s, "a", n)
	until(t, c.Reader, "message 1")
	for _, name := range []string{"handler", "proxy", "connmgr"} {
		pid := one(t, s, name)
		if len(knowing(t, s, name)) == 0 {
			t.Fatalf("nobody knows %s", name)
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, name+" to be given up", func() bool { return len(knowing(t, s, name)) == 0 })
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		// What is published before all have found each other again may be dropped,
		// and counted; so until one arrives.
		arrived := make(chan struct{})
		go func() {
			defer close(arrived)
			if err := find(c.Reader, "message"); err != nil {
				t.Errorf("after %s: %v", name, err)
			}
		}()
		for done := false; !done; {
			n++
			say(t, s, "a", n)
			select {
			case <-arrived:
				done = true
			case <-time.After(200 * time.Millisecond):
			}
		}
		r := &reader{delays: new(delays)}
		visit(t.Context(), s, r)
		for _, text := range r.wrong {
			t.Errorf("after %s: %s", name, text)
		}
	}
}

// Three connmgrs and two proxies: what dies is made up for by the others.
func TestInstances(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{"runner/instances=connmgr:3,proxy:2", "runner/restart_delay=0.3"}, "* "+origin.addr)
	one(t, s, "handler")
	if n := len(s.Processes()); n != 7 {
		t.Fatalf("processes: %v", s.Processes())
	}
	var all []*held
	for range 60 {
		c := hold(t, s, "a")
		until(t, c.Reader, "open")
		all = append(all, c)
	}
	say(t, s, "a", 1)
	for _, c := range all {
		until(t, c.Reader, "message 1")
	}
	// One of two proxies.
	for range 3 {
		if err := syscall.Kill(one(t, s, "proxy"), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r := &reader{delays: new(delays)}
		for range 20 {
			visit(t.Context(), s, r)
		}
		for _, text := range r.wrong {
			t.Errorf("with one proxy: %s", text)
		}
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
	// One of three connmgrs: its clients are lost, the others get everything.
	if err := syscall.Kill(one(t, s, "connmgr"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	say(t, s, "a", 2)
	say(t, s, "a", 3)
	lost := 0
	for _, c := range all {
		for n := 2; n <= 3; {
			line, err := c.ReadString('\n')
			if err != nil {
				lost++
				break
			}
			if strings.HasPrefix(line, "message") {
				if !strings.HasPrefix(line, fmt.Sprint("message ", n)) {
					t.Errorf("got %q, want message %d", line, n)
				}
				n++
			}
		}
	}
	if lost == 0 || lost > 45 {
		t.Errorf("%d of %d clients were lost with one of three connmgrs", lost, len(all))
	}
	if err := s.Accounts(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// Out of descriptors, connmgr keeps what it has and takes others when it can.
func TestFilesExhausted(t *testing.T) {
	origin := newBackend(t)
	s := start(t, nil, "* "+origin.addr)
	first := hold(t, s, "a")
	until(t, first.Reader, "open")
	m, err := s.Metrics("connmgr.0")
	if err != nil {
		t.Fatal(err)
	}
	pid := one(t, s, "connmgr")
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(m["process_open_fds"]) + 20, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	var more []*held
	for range 50 {
		more = append(more, hold(t, s, "a"))
	}
	until(t, more[0].Reader, "open") // there is room for some
	say(t, s, "a", 1)
	until(t, first.Reader, "message 1")
	for _, c := range more[:40] {
		_ = c.Close()
	}
	for _, c := range more[40:] {
		until(t, c.Reader, "open") // they were waiting
	}
	say(t, s, "a", 2)
	for _, c := range append(more[40:], first) {
		until(t, c.Reader, "message 2")
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
}

// An origin that comes and goes: errors while it is away, service when it is
// there, and holds that notice nothing.
func TestOriginFlapping(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{"proxy/connect_timeout=1"}, "* "+origin.addr)
	c := hold(t, s, "a")
	until(t, c.Reader, "open")
	for round := range 3 {
		origin.stop()
		for range 5 {
			resp, err := http.Get("http://" + s.HTTP + "/plain")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusBadGateway {
				t.Errorf("without an origin: %s", resp.Status)
			}
		}
		say(t, s, "a", round+1)
		until(t, c.Reader, fmt.Sprint("message ", round+1))
		origin.again()
		r := &reader{delays: new(delays)}
		for range 5 {
			visit(t.Context(), s, r)
		}
		for _, text := range r.wrong {
			t.Errorf("with an origin: %s", text)
		}
	}
}

// All clients come at once, to an origin that takes a second for each, then the
// handler is killed: every one is held, nothing is lost, and memory stays within
// bounds.
func TestHerd(t *testing.T) {
	n := *holdsFlag
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if uint64(n)*2+1000 > limit.Cur { // ours, and the origin's side of it
		t.Fatalf("%d open files are allowed", limit.Cur)
	}
	slow := &backend{t: t, log: map[string][]string{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Second): // that is how slow it is
		case <-r.Context().Done():
		}
		slow.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	s := start(t, []string{"runner/restart_delay=0.3"}, "* "+srv.Listener.Addr().String())
	began := time.Now()
	var all []*held
	for range n {
		all = append(all, hold(t, s, "a"))
	}
	for _, c := range all {
		until(t, c.Reader, "open")
	}
	t.Logf("%d held after %v", n, time.Since(began).Round(time.Millisecond))
	say(t, s, "a", 1)
	for _, c := range all {
		until(t, c.Reader, "message 1")
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
	for round := range 3 {
		pid := one(t, s, "handler")
		began := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		say(t, s, "a", round+2)
		accepted := time.Since(began)
		var last atomic.Int64
		for _, c := range all {
			until(t, c.Reader, fmt.Sprint("message ", round+2))
			last.Store(int64(time.Since(began)))
		}
		t.Logf("the handler of %d holds was killed: a publish was accepted after %v, everybody had it after %v", n,
			accepted.Round(time.Millisecond), time.Duration(last.Load()).Round(time.Millisecond))
	}
	for _, p := range s.Processes() {
		m, err := s.Metrics(p.Name + ".0")
		if err != nil {
			t.Fatal(err)
		}
		rss := m["process_resident_memory_bytes"] / (1 << 20)
		t.Logf("%s has %.0f MB", p.Name, rss)
		if bound := 100 + float64(n)*0.05; rss > bound { // 50 kB for each at the worst of times
			t.Errorf("%s has %.0f MB, more than %.0f", p.Name, rss, bound)
		}
	}
	if err := s.Accounts(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// A hundred clients that do not read cost the others nothing: those get
// everything, in order.
func TestStuckClients(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{"connmgr/max_backlog=200000"}, "* "+origin.addr)
	const stuck, others, items = 100, 200, 100
	var all []*held
	for i := range stuck + others {
		c := hold(t, s, "a")
		if i < stuck {
			if err := c.Conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
				t.Fatal(err)
			}
		}
		until(t, c.Reader, "open")
		all = append(all, c)
	}
	filler := strings.Repeat("x", 50_000)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var readers sync.WaitGroup
	for _, c := range all[stuck:] {
		readers.Go(func() {
			for n := 1; n <= items; n++ {
				line, err := c.ReadString('\n')
				for err == nil && !strings.HasPrefix(line, "message") {
					line, err = c.ReadString('\n')
				}
				if err != nil || !strings.HasPrefix(line, fmt.Sprintf("message %d ", n)) {
					t.Errorf("got %.20q, %v; want message %d", line, err, n)
					return
				}
			}
		})
	}
	for n := 1; n <= items; n++ {
		if err := poster(ctx, s, "a", n, fmt.Sprintf("message %d %s\n", n, filler)); err != nil {
			t.Fatal(err)
		}
	}
	readers.Wait()
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
	m, err := s.Metrics("handler.0")
	if err != nil {
		t.Fatal(err)
	}
	if got := m[`holdfast_handler_dropped_total{reason="backlog-full"}`]; got == 0 {
		t.Errorf("no drop because of a full backlog: %v", stack.Total(m, "holdfast_handler_dropped_total"))
	}
}
