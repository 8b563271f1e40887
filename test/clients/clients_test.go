//go:build e2e

// Package clients checks Holdfast with clients, publishers and backends that
// people really use: the GRIP library for Node, Pushpin's publishing tool,
// libzmq, curl, and a browser. It needs them installed, and bin/ built; .ci/run
// sees to both:
//
//	go test -tags e2e ./test/clients
//	go test -tags e2e ./test/clients -args -target pushpin   # proves the tests
package clients

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

var target = flag.String("target", "holdfast", "the proxy to check: holdfast or pushpin")

// proxy starts a proxy with these routes for one test.
func proxy(t *testing.T, routes ...string) *stack.Stack {
	t.Helper()
	return proxyWith(t, nil, routes...)
}

// proxyWith starts a proxy with settings of its own.
func proxyWith(t *testing.T, set []string, routes ...string) *stack.Stack {
	t.Helper()
	return stack.For(t, stack.Options{Kind: stack.Kind(*target), Routes: routes, Set: set})
}

// command runs a program in a process group of its own until the test ends.
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// begin starts a program and returns its output.
func begin(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The group: a browser has many processes.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() && errs.Len() > 0 {
			t.Logf("%s printed:\n%s", cmd.Path, errs.String())
		}
	})
	return bufio.NewReader(out)
}

// run runs a program to its end.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), poll.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// line reads a line.
func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := r.ReadString('\n')
		done <- result{text, err}
	}()
	select {
	case got := <-done:
		if got.err != nil {
			t.Fatalf("after %q: %v", got.text, got.err)
		}
		return strings.TrimRight(got.text, "\r\n")
	case <-time.After(poll.Patience):
		t.Fatal("nothing came")
		return ""
	}
}

// want expects lines.
func want(t *testing.T, r *bufio.Reader, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if got := line(t, r); got != l {
			t.Fatalf("got the line %q, want %q", got, l)
		}
	}
}

// wantAmid expects a line, passing over those equal to other.
func wantAmid(t *testing.T, r *bufio.Reader, other, l string) {
	t.Helper()
	for {
		got := line(t, r)
		if got == l {
			return
		}
		if got != other {
			t.Fatalf("got the line %q, want %q", got, l)
		}
	}
}

// testRoute answers with holds on the channels that the query names.
const testRoute = "* test"

// curlStream opens the test handler's stream with curl.
func curlStream(t *testing.T, s *stack.Stack, channel string) *bufio.Reader {
	t.Helper()
	r := begin(t, command(t, "curl", "-sN", "http://"+s.HTTP+"/stream?channel="+channel))
	want(t, r, "[stream opened]")
	return r
}

// eventually repeats a publish until its line arrives: for programs that cannot
// be told to wait for a subscription. A line may thus come more than once.
func eventually(t *testing.T, publish func(), r *bufio.Reader, l string) {
	t.Helper()
	got := make(chan error, 1)
	go func() {
		text, err := r.ReadString('\n')
		if err == nil && strings.TrimRight(text, "\r\n") != l {
			err = fmt.Errorf("got the line %q, want %q", text, l)
		}
		got <- err
	}()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(poll.Patience)
	for {
		publish()
		select {
		case err := <-got:
			if err != nil {
				t.Fatal(err)
			}
			return
		case <-deadline:
			t.Fatalf("%q never came", l)
		case <-tick.C:
		}
	}
}

func TestPushpinPublishHTTP(t *testing.T) {
	s := proxy(t, testRoute)
	r := curlStream(t, s, "a")
	spec := "http://" + s.Control
	eventually(t, func() {
		if got := run(t, "pushpin-publish", "--spec", spec, "a", "hello"); got != "Published\n" {
			t.Fatalf("pushpin-publish printed %q", got)
		}
	}, r, "hello")
	run(t, "pushpin-publish", "--spec", spec, "--id", "2", "--sender", "me", "a", "there")
	wantAmid(t, r, "hello", "there")
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, []byte("from\xffa file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "pushpin-publish", "--spec", spec, "a", "@"+file)
	want(t, r, "from\xffa file")
	run(t, "pushpin-publish", "--spec", spec, "--close", "a")
	if rest, err := r.ReadString('\n'); err != io.EOF {
		t.Fatalf("after the close: %q, %v", rest, err)
	}
	out, err := exec.Command("pushpin-publish", "--spec", spec+"/nowhere", "a", "x").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Not Found") {
		t.Errorf("publishing to a wrong path: %v, %q", err, out)
	}
}

func TestPushpinPublishZeroMQ(t *testing.T) {
	s := proxy(t, testRoute)
	r := curlStream(t, s, "a")
	spec := "tcp://" + s.Push
	eventually(t, func() { run(t, "pushpin-publish", "--spec", spec, "a", "over zmq") }, r, "over zmq")
	run(t, "pushpin-publish", "--spec", spec, "--no-eol", "a", "no end\n")
	wantAmid(t, r, "over zmq", "no end")
}

func TestPushpinPublishLongPoll(t *testing.T) {
	s := proxy(t, testRoute)
	r := begin(t, command(t, "curl", "-si", "http://"+s.HTTP+"/response?channel=a"))
	eventually(t, func() {
		run(t, "pushpin-publish", "--spec", "http://"+s.Control, "--code", "201", "a", "news", "-H", "X-A: b")
	}, r, "HTTP/1.1 201 Created")
	var all strings.Builder
	for {
		l, err := r.ReadString('\n')
		all.WriteString(l)
		if err != nil {
			break
		}
	}
	if !strings.Contains(all.String(), "X-A: b\r\n") || !strings.HasSuffix(all.String(), "\r\n\r\nnews\n") {
		t.Errorf("the answer went on with %q", all.String())
	}
}

func TestLibzmqPush(t *testing.T) {
	python := need.PyZMQ(t)
	s := proxy(t, testRoute)
	r := curlStream(t, s, "a")
	eventually(t, func() { run(t, python, "zmq_publish.py", "push", s.Push, "a", "one\n") }, r, "one")
	run(t, python, "zmq_publish.py", "push", s.Push, "a", "two\n", "three\n")
	wantAmid(t, r, "one", "two")
	want(t, r, "three")
}

// The publisher waits for the subscription, so its first message arrives.
func TestLibzmqPubWaitsForSubscription(t *testing.T) {
	python := need.PyZMQ(t)
	s := proxy(t, testRoute)
	cmd := command(t, python, "zmq_publish.py", "pub", s.Sub, "a", "first\n", "second\n")
	out := begin(t, cmd)
	want(t, out, "waiting")
	r := curlStream(t, s, "a")
	want(t, r, "first", "second")
}

func TestCurlLongPollAndStream(t *testing.T) {
	s := proxy(t, testRoute)
	if got := run(t, "curl", "-s", "http://"+s.HTTP+"/"); !strings.HasSuffix(got, " test handler!\n") {
		t.Errorf("curl got %q", got)
	}
	// HTTP/1.0 and a POST, as curl makes them.
	for _, flags := range [][]string{{"-0"}, {"-d", "x=y"}, {"-H", "Connection: close"}} {
		r := begin(t, command(t, "curl", append(flags, "-sN", "http://"+s.HTTP+"/stream?channel=b")...))
		want(t, r, "[stream opened]")
		eventually(t, func() { run(t, "pushpin-publish", "--spec", "http://"+s.Control, "b", "data") }, r, "data")
	}
}

// origin starts the backend of this folder and returns its address.
func origin(t *testing.T) (proxyStack *stack.Stack) {
	t.Helper()
	// The backend needs the proxy's control address, the proxy needs the
	// backend's: the route is written once both are known.
	s := proxy(t)
	r := begin(t, command(t, "node", "origin.mjs", "http://"+s.Control+"/"))
	port := line(t, r)
	if err := s.WriteRoutes([]string{"* 127.0.0.1:" + port + ",over_http"}); err != nil {
		t.Fatal(err)
	}
	poll.Until(t, "the new route to be used", func() bool {
		resp, err := http.Get("http://" + s.HTTP + "/no-such-page")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusNotFound
	})
	return s
}

// get fetches a page in full.
func get(t *testing.T, s *stack.Stack, path string) string {
	t.Helper()
	client := &http.Client{Timeout: poll.Patience}
	resp, err := client.Get("http://" + s.HTTP + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s: %s", path, resp.Status, body)
	}
	return string(body)
}

func TestFanoutioGripLibrary(t *testing.T) {
	s := origin(t)
	publish := func(kind, channel, text string) func() {
		return func() {
			got := get(t, s, "/publish-"+kind+"?channel="+channel+"&text="+url.QueryEscape(text))
			if got != "published\n" {
				t.Fatalf("publishing: %q", got)
			}
		}
	}
	t.Run("stream", func(t *testing.T) {
		r := begin(t, command(t, "curl", "-sN", "http://"+s.HTTP+"/stream?channel=s"))
		want(t, r, "hello", "ping") // the first keep-alive
		publish("stream", "s", "what's new\n")()
		wantAmid(t, r, "ping", "what's new")
		publish("binary", "s", "")()
		wantAmid(t, r, "ping", "\x00\x01\xff")
	})
	t.Run("long-poll", func(t *testing.T) {
		r := begin(t, command(t, "curl", "-s", "http://"+s.HTTP+"/poll?channel=p"))
		eventually(t, publish("response", "p", "answer\n"), r, "answer")
	})
	t.Run("next link", func(t *testing.T) {
		r := begin(t, command(t, "curl", "-sN", "http://"+s.HTTP+"/chain?channel=n"))
		want(t, r, "first", "hello", "ping")
		publish("stream", "n", "linked\n")()
		wantAmid(t, r, "ping", "linked")
	})
	t.Run("WebSocket", func(t *testing.T) {
		c, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+s.HTTP+"/ws?channel=w", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetReadDeadline(time.Now().Add(poll.Patience))
		read := func(want string) {
			t.Helper()
			_, data, err := c.ReadMessage()
			if err != nil || string(data) != want {
				t.Fatalf("read %q, %v; want %q", data, err, want)
			}
		}
		for _, text := range []string{"one", "two"} {
			if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Fatal(err)
			}
			read("echo: " + text)
		}
		publish("ws", "w", "to all")()
		read("to all")
		if err := c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "")); err != nil {
			t.Fatal(err)
		}
		// The library closes with the code 0, which must not be sent. Pushpin
		// does send it.
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000, 1005) && *target != "pushpin" {
			t.Errorf("after the close: %v", err)
		}
	})
}

// dialable waits until something listens at an address.
func dialable(t *testing.T, addr string) {
	t.Helper()
	poll.Works(t, "something to listen", func() error {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}
