package outbound

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
)

// rawServe runs f for each connection after it has read a request.
func rawServe(t *testing.T, f func(nc net.Conn)) string {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_ = nc.SetDeadline(time.Now().Add(poll.Patience))
			if req, err := http.ReadRequest(bufio.NewReader(nc)); err == nil {
				_ = req.Body.Close()
				f(nc)
			}
			_ = nc.Close()
		}
	}()
	return ln.Addr().String()
}

// endless writes s until the other side has had enough.
func endless(s string) func(net.Conn) {
	return func(nc net.Conn) {
		b := []byte(strings.Repeat(s, 1+4096/len(s)))
		for {
			if _, err := nc.Write(b); err != nil {
				return
			}
		}
	}
}

func say(s string, then ...func(net.Conn)) func(net.Conn) {
	return func(nc net.Conn) {
		_, _ = io.WriteString(nc, s)
		for _, f := range then {
			f(nc)
		}
	}
}

// hang waits for the other side to go.
func hang(nc net.Conn) { _, _ = io.Copy(io.Discard, nc) }

// trickle writes a byte at a time, for ever.
func trickle(nc net.Conn) {
	for {
		if _, err := io.WriteString(nc, "x"); err != nil {
			return
		}
		runtime.Gosched()
	}
}

func reset(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
}

func TestHostileServers(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	tests := []struct {
		name      string
		server    func(net.Conn)
		condition string // "" if there is a response
	}{
		{"says nothing", hang, SessionTimeout},
		{"hangs in the status line", say("HTTP/1.1 2", hang), SessionTimeout},
		{"hangs in the head", say(ok+"A: b\r\n", hang), SessionTimeout},
		{"hangs in the body", say(ok+"Content-Length: 9\r\n\r\nx", hang), SessionTimeout},
		{"hangs in a chunk", say(ok+"Transfer-Encoding: chunked\r\n\r\n5\r\nx", hang), SessionTimeout},
		{"hangs before the last chunk", say(ok+"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", hang), SessionTimeout},
		{"hangs after 100", say("HTTP/1.1 100 Continue\r\n\r\n", hang), SessionTimeout},
		{"closes at once", func(net.Conn) {}, Undefined},
		{"resets at once", reset, Undefined},
		{"resets in the body", say(ok+"Content-Length: 9\r\n\r\nx", reset), Undefined},
		{"closes in the head", say(ok + "A: b\r\n"), Undefined},
		{"body too short", say(ok + "Content-Length: 9\r\n\r\nx"), Undefined},
		{"chunks without an end", say(ok + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"), Undefined},
		{"trickles a head", trickle, Undefined},
		{"trickles a body", say(ok+"\r\n", trickle), MaxSizeExceeded},
		{"endless body", say(ok+"\r\n", endless("x")), MaxSizeExceeded},
		{"huge length", say(ok+"Content-Length: 1099511627776\r\n\r\n", endless("x")), MaxSizeExceeded},
		{"huge chunk", say(ok+"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", endless("x")), MaxSizeExceeded},
		{"length beyond all", say(ok+"Content-Length: 9223372036854775807\r\n\r\n", endless("x")), Undefined},
		{"chunk beyond all", say(ok+"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n", endless("x")), Undefined},
		{"endless status line", endless("H"), Undefined},
		{"endless reason", say("HTTP/1.1 200 ", endless("x")), Undefined},
		{"endless header field", say(ok+"A: ", endless("x")), Undefined},
		{"endless header name", say(ok, endless("x")), Undefined},
		{"endless header fields", say(ok, endless("A: b\r\n")), Undefined},
		{"endless 1xx", endless("HTTP/1.1 100 Continue\r\n\r\n"), Undefined},
		{"endless 103 with fields", endless("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), Undefined},
		{"endless trailer", say(ok+"Transfer-Encoding: chunked\r\n\r\n0\r\n", endless("A: b\r\n")), Undefined},
		{"endless chunk extension", say(ok+"Transfer-Encoding: chunked\r\n\r\n1;", endless("x")), Undefined},
		{"chunk size is none", say(ok+"Transfer-Encoding: chunked\r\n\r\nx\r\n", hang), Undefined},
		{"chunk size is negative", say(ok+"Transfer-Encoding: chunked\r\n\r\n-1\r\n", hang), Undefined},
		{"chunk size overflows", say(ok+"Transfer-Encoding: chunked\r\n\r\n1ffffffffffffffff\r\n", hang), Undefined},
		{"chunk too long", say(ok+"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", hang), Undefined},
		{"two lengths", say(ok+"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy", hang), Undefined},
		{"length is none", say(ok+"Content-Length: x\r\n\r\n", hang), Undefined},
		{"not HTTP", say("SSH-2.0-OpenSSH\r\n\r\n", hang), Undefined},
		{"HTTP/2", say("HTTP/2 200\r\n\r\n", hang), Undefined},
		{"HTTP/0.9", say("<html>hello</html>\n"), Undefined},
		{"status is none", say("HTTP/1.1 xx OK\r\n\r\n"), Undefined},
		{"no status", say("HTTP/1.1\r\n\r\n"), Undefined},
		{"switches protocols", say("HTTP/1.1 101 OK\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", hang), Undefined},
		{"NUL in a field", say(ok + "A: \x00\r\n\r\n"), Undefined},
		{"gzip that is none", say(ok+"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc", hang), Undefined},

		// Legal, though Zurl refuses them.
		{"no reason", say("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", hang), ""},
		{"no blank after the colon", say(ok+"Content-Length:0\r\n\r\n", hang), ""},
		{"31 interim responses", say(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 31)+ok+"Content-Length: 0\r\n\r\n", hang), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := rawServe(t, tt.server)
			c := newClient(t, Options{})
			r := &Request{Method: "GET", URI: "http://" + addr + "/", MaxBody: 1000, Timeout: poll.Patience}
			if tt.condition == SessionTimeout {
				r.Timeout = 50 * time.Millisecond
			}
			_, err := c.Fetch(long(t), r)
			switch {
			case tt.condition == "" && err != nil:
				t.Errorf("got %v", err)
			case tt.condition != "":
				wantCondition(t, err, tt.condition)
			}
			if s := c.pool.Stats(); err != nil && (s.Open != 0 || s.Idle != 0) {
				t.Errorf("connections are left: %+v", s)
			}
		})
	}
}

// A server that is silent within a body, and one that reads nothing of ours, end
// with the client's own limit if the request has none.
func TestIdleServer(t *testing.T) {
	c := newClient(t, Options{IdleTimeout: 50 * time.Millisecond})
	silent := rawServe(t, say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", hang))
	_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://" + silent + "/"})
	wantCondition(t, err, SessionTimeout)

	release := make(chan struct{})
	deaf := rawServe(t, func(net.Conn) { <-release })
	_, err = c.Fetch(long(t), &Request{Method: "POST", URI: "http://" + deaf + "/", Body: make([]byte, 32<<20)})
	wantCondition(t, err, SessionTimeout)
	close(release)
}

// The name server is late, the connection is not accepted: both count as the way
// to the server.
func TestConnectTimeout(t *testing.T) {
	names := newNameServer(t, nil)
	_ = names.pc.Close() // now it is silent
	c := newClient(t, Options{ConnectTimeout: 50 * time.Millisecond, Resolve: names.resolve})
	_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://slow.test/"})
	if got := Condition(err); got != ConnectTimeout && got != ConnectionFailed { // the latter if it is seen to be closed
		t.Errorf("got %v", err)
	}
}

// Endless responses cost no more than their limits.
func TestMemory(t *testing.T) {
	addr := rawServe(t, say("HTTP/1.1 200 OK\r\n\r\n", endless("x")))
	c := newClient(t, Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const times = 50
	for i := range times {
		_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://" + addr + "/" + strconv.Itoa(i), MaxBody: 10_000})
		wantCondition(t, err, MaxSizeExceeded)
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / times; n > 500_000 {
		t.Errorf("%d bytes were allocated for each", n)
	}
}
