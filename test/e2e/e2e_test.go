//go:build e2e

// Package e2e starts the four programs with their supervisor and hurts them:
// what clients and publishers see when a process dies, a client does not read,
// or everything is told to stop. It needs bin/:
//
//	make build && go test -tags e2e ./test/e2e
package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// start starts Holdfast with these routes for one test.
func start(t *testing.T, set []string, routes ...string) *stack.Stack {
	t.Helper()
	return stack.For(t, stack.Options{Kind: stack.Holdfast, Routes: routes, Set: set})
}

// A test that sets what there is not would examine the default and not know.
func TestSettingsOfTheStackExist(t *testing.T) {
	for _, set := range []string{"proxy/message_rate=1", "nowhere/debug=true"} {
		s, err := stack.Start(t.Context(), stack.Options{Kind: stack.Holdfast, Set: []string{set}})
		if err == nil {
			s.Stop()
		}
		name, _, _ := strings.Cut(strings.ReplaceAll(set, "/", "."), "=")
		if err == nil || !strings.Contains(err.Error(), name+": there is no such setting") {
			t.Errorf("with %s: %v", set, err)
		}
	}
}

// origin is a backend for the route "* {address}".
func origin(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.Listener.Addr().String()
}

// holds answers /stream and /poll with holds on the channel of the query.
func holds(w http.ResponseWriter, r *http.Request) {
	mode := map[string]string{"/stream": "stream", "/poll": "response"}[r.URL.Path]
	if mode == "" {
		fmt.Fprintf(w, "plain\n")
		return
	}
	w.Header().Set("Grip-Hold", mode)
	w.Header().Set("Grip-Channel", r.URL.Query().Get("channel"))
	w.Header().Set("Grip-Timeout", "5")
	fmt.Fprintf(w, "%s\n", mode)
}

// client is a raw connection.
type client struct {
	t    *testing.T
	conn net.Conn
	*bufio.Reader
}

func dial(t *testing.T, s *stack.Stack) *client {
	t.Helper()
	conn, err := net.Dial("tcp", s.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, strings.ReplaceAll(format, "\n", "\r\n"), args...); err != nil {
		c.t.Fatal(err)
	}
}

// until reads lines up to one that is equal to want, and fails at one that is
// equal to bad.
func (c *client) until(want string, bad ...string) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		l, err := c.ReadString('\n')
		l = strings.TrimRight(l, "\r\n")
		if l == want {
			return
		}
		if err != nil || slices.Contains(bad, l) {
			c.t.Fatalf("read %q, %v; want %q", l, err, want)
		}
	}
}

// stream opens a stream and waits for its first line.
func stream(t *testing.T, s *stack.Stack, channel string) *client {
	t.Helper()
	c := dial(t, s)
	c.send("GET /stream?channel=%s HTTP/1.1\nHost: x\n\n", channel)
	c.until("stream")
	return c
}

// publish posts until it is taken, and returns how long that took.
func publish(t *testing.T, s *stack.Stack, channel, content string) time.Duration {
	t.Helper()
	began := time.Now()
	body := fmt.Sprintf(`{"items":[{"channel":%q,"formats":{"http-stream":{"content":%q},"http-response":{"body":%q}}}]}`, channel, content, content)
	poll.Works(t, "a publish to be taken", func() error {
		resp, err := http.Post("http://"+s.Control+"/publish/", "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			return nil
		case http.StatusServiceUnavailable:
			if resp.Header.Get("Retry-After") == "" {
				t.Fatal("503 without Retry-After")
			}
		default:
			t.Fatalf("publishing: %s: %s", resp.Status, text)
		}
		return errors.New(resp.Status)
	})
	return time.Since(began)
}

// ready publishes until a stream shows it, so that its hold is known to be in
// place. The line is "ready", perhaps several times.
func ready(t *testing.T, s *stack.Stack, c *client, channel string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.until("ready")
	}()
	for {
		publish(t, s, channel, "ready\n")
		select {
		case <-done:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// kill kills a program and returns once another process runs it.
func kill(t *testing.T, s *stack.Stack, name string) {
	t.Helper()
	old, ok := s.Children()[name]
	if !ok {
		t.Fatalf("%s does not run: %v", name, s.Children())
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, name+" to be started again", func() bool {
		pid, ok := s.Children()[name]
		return ok && pid != old
	})
}

// metrics reads the admin listener of a process.
func metrics(t *testing.T, s *stack.Stack, name string) map[string]float64 {
	t.Helper()
	m, err := s.Metrics(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// settled waits until every delivery is accounted for, and returns the counters.
func settled(t *testing.T, s *stack.Stack) map[string]float64 {
	t.Helper()
	if err := s.Accounts(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return metrics(t, s, "handler.0")
}

func TestHandlerKilled(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	var streams []*client
	for range 200 {
		streams = append(streams, stream(t, s, "a"))
	}
	for _, c := range streams {
		ready(t, s, c, "a")
	}
	for round := range 3 {
		before, after := fmt.Sprintf("before %d", round), fmt.Sprintf("after %d", round)
		publish(t, s, "a", before+"\n")
		for _, c := range streams {
			c.until(before, fmt.Sprintf("after %d", round-1))
		}
		waits := dial(t, s)
		waits.send("GET /poll?channel=b HTTP/1.1\nHost: x\n\n")
		probe := stream(t, s, "b")
		ready(t, s, probe, "b")
		// The poll may have been answered by one of those; ask again if so.
		kill(t, s, "handler")
		t.Logf("publishing was not possible for %v", publish(t, s, "a", after+"\n"))
		for _, c := range streams {
			c.until(after, before)
		}
		publish(t, s, "b", "answer\n")
		probe.until("answer")
	}
	m := settled(t, s)
	if n := m[`holdfast_handler_holds{mode="http-stream"}`]; n < 203 {
		t.Errorf("the handler knows of %v streams", n)
	}
}

// A long-poll ends in time although there is no handler to end it.
func TestHandlerKilledWhileLongPollTimesOut(t *testing.T) {
	s := start(t, []string{"handler/update_on_first_subscription=false"}, "* "+origin(t, holds))
	c := dial(t, s)
	c.send("GET /poll?channel=a HTTP/1.1\nHost: x\n\n")
	began := time.Now()
	poll.Until(t, "the long-poll to be held", func() bool {
		return metrics(t, s, "handler.0")[`holdfast_handler_holds{mode="http-response"}`] == 1
	})
	if err := syscall.Kill(s.Children()["handler"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.until("response")
	if d := time.Since(began); d < 4500*time.Millisecond {
		t.Errorf("it ended after %v", d)
	}
}

func TestProxyKilled(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan string, 10)
	var slow atomic.Int32
	s := start(t, nil, "* "+origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- r.Method
			if slow.Add(1) <= 2 {
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
		}
		holds(w, r)
	}))
	held := stream(t, s, "a")
	ready(t, s, held, "a")
	get, post := dial(t, s), dial(t, s)
	get.send("GET /slow HTTP/1.1\nHost: x\n\n")
	<-arrived
	post.send("POST /slow HTTP/1.1\nHost: x\nContent-Length: 0\n\n")
	<-arrived
	kill(t, s, "proxy")
	get.until("HTTP/1.1 200 OK", "HTTP/1.1 502 Bad Gateway") // sent again
	get.until("plain")
	post.until("HTTP/1.1 502 Bad Gateway", "HTTP/1.1 200 OK") // not sent again
	close(release)
	if m := <-arrived; m != http.MethodGet {
		t.Errorf("the origin got a second %s", m)
	}
	select {
	case m := <-arrived:
		t.Errorf("the origin got one more %s", m)
	default:
	}
	publish(t, s, "a", "still here\n")
	held.until("still here")
	get.send("GET /next HTTP/1.1\nHost: x\n\n")
	get.until("plain")
}

func TestZurlKilled(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	held := stream(t, s, "a")
	ready(t, s, held, "a")
	kill(t, s, "zurl")
	publish(t, s, "a", "still here\n")
	held.until("still here")
}

// Nobody can keep the sockets of a connmgr that is killed, but everything must
// work again afterwards.
func TestConnmgrKilled(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	held := stream(t, s, "a")
	ready(t, s, held, "a")
	kill(t, s, "connmgr")
	if _, err := io.Copy(io.Discard, held); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the stream ended with %v", err)
	}
	poll.Works(t, "a request to be answered", func() error {
		resp, err := http.Get("http://" + s.HTTP + "/plain")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	held = stream(t, s, "a")
	ready(t, s, held, "a")
}

// Every process dies in turn, and then a stream still works.
func TestAllKilledInTurn(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	held := stream(t, s, "a")
	ready(t, s, held, "a")
	for i, name := range []string{"handler", "proxy", "zurl", "proxy", "handler"} {
		kill(t, s, name)
		text := fmt.Sprintf("after %d, %s", i, name)
		publish(t, s, "a", text+"\n")
		held.until(text)
	}
}

func TestSlowReaderIsCutOffAndNobodyElse(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	slow := stream(t, s, "a")
	ready(t, s, slow, "a")
	var fast []*client
	for range 5 {
		c := stream(t, s, "a")
		ready(t, s, c, "a")
		fast = append(fast, c)
	}
	// 40 MB are more than any socket buffer and backlog.
	line := strings.Repeat("x", 20_000)
	const rounds, each = 100, 20
	for i := range rounds {
		for range each {
			publish(t, s, "a", line+"\n")
		}
		mark := fmt.Sprintf("round %d", i)
		publish(t, s, "a", mark+"\n")
		for _, c := range fast {
			for n := 0; n < each; {
				_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
				l, err := c.ReadString('\n')
				if err != nil {
					t.Fatalf("in round %d: %v", i, err)
				}
				if strings.TrimRight(l, "\r\n") == line {
					n++
				}
			}
			c.until(mark)
		}
	}
	// What was sent before the cut can still be read, then it ends.
	_ = slow.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := io.Copy(io.Discard, slow)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("the slow client read %d bytes and then %v", n, err)
	}
	m := settled(t, s)
	if stack.Total(m, "holdfast_handler_dropped_total") == 0 {
		t.Errorf("no drop is counted")
	}
	t.Logf("dropped: %v", nonZero(m, "holdfast_handler_dropped_total"))
}

func nonZero(m map[string]float64, prefix string) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(k, prefix) && m[k] != 0 {
			out = append(out, fmt.Sprintf("%s %v", k, m[k]))
		}
	}
	return out
}

func TestStopEndsEverythingInOrder(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	s := start(t, nil, "* "+origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(began)
			<-release
		}
		holds(w, r)
	}))
	held := stream(t, s, "a")
	ready(t, s, held, "a")
	slow := dial(t, s)
	slow.send("GET /slow HTTP/1.1\nHost: x\n\n")
	<-began
	if err := s.Settled(t.Context()); err != nil {
		t.Error(err)
	}
	s.Unaccounted("there is nobody to ask once everything has stopped; it was done before")
	if err := syscall.Kill(s.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the port to be closed", func() bool {
		c, err := net.Dial("tcp", s.HTTP)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	slow.until("HTTP/1.1 200 OK") // a response in flight is finished
	slow.until("plain")
	_ = held.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.Copy(io.Discard, held); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
	var what string
	poll.Until(t, "the supervisor to end", func() (ok bool) { what, ok = s.Exited(); return ok })
	if !strings.HasSuffix(what, "exit status 0") {
		t.Errorf("the supervisor ended: %s", what)
	}
	if strings.Contains(s.Log(), "[ERR]") {
		t.Error("an error was logged")
	}
}

// A burst of clients is all answered, and nothing is unaccounted for.
func TestBurst(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	const n = 1000
	var clients []*client
	for range n {
		c := dial(t, s)
		c.send("GET /stream?channel=a HTTP/1.1\nHost: x\n\n")
		clients = append(clients, c)
	}
	for _, c := range clients {
		c.until("stream")
	}
	poll.Until(t, "all streams to be held", func() bool {
		return metrics(t, s, "handler.0")[`holdfast_handler_holds{mode="http-stream"}`] >= n
	})
	for i := range 50 {
		publish(t, s, "a", fmt.Sprintf("message %d\n", i))
	}
	for _, c := range clients {
		for i := range 50 {
			c.until(fmt.Sprintf("message %d", i), fmt.Sprintf("message %d", i+1))
		}
	}
	m := settled(t, s)
	if got := m[`holdfast_handler_delivered_total{mode="http-stream"}`]; got < 50*n || stack.Total(m, "holdfast_handler_dropped_total") != 0 {
		t.Errorf("delivered %v of %d, dropped: %v", got, 50*n, nonZero(m, "holdfast_handler_dropped_total"))
	}
}

// The configuration file of Debian's pushpin package works as it is, except for
// what the package leaves to its own system user.
func TestPushpinConfiguration(t *testing.T) {
	const path = "/etc/pushpin/pushpin.conf"
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the package pushpin is needed: %v", err)
	}
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	const id = 612 // the publishing ports are 10 times that higher
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(root, "scripts", "holdfast"), "--config="+path, "--port="+addr, "--id="+strconv.Itoa(id), "--route=* test",
		"--merge-output", "--set", "global.rundir="+dir, "--set", "runner.logdir="+dir)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			text, _ := os.ReadFile(out.Name())
			t.Logf("it printed:\n%s", text)
		}
	})
	s := &stack.Stack{Kind: stack.Holdfast, HTTP: addr, Control: fmt.Sprintf("127.0.0.1:%d", 5561+10*id)}
	poll.Works(t, "an answer", func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it ended: %v", err)
		default:
		}
		resp, err := http.Get("http://" + addr + "/")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	})
	c := dial(t, s)
	c.send("GET /stream?channel=a HTTP/1.1\nHost: x\n\n")
	c.until("[stream opened]")
	ready(t, s, c, "a")
}
