package origin

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func field(name, value string) frame.Field { return frame.Field{Name: name, Value: value} }

// peer is the origin's end of one connection.
type peer struct {
	net.Conn
	br *bufio.Reader
	n  int // of the connection, from 0
}

// request reads one request and its body; ok is false if the connection ended.
func (p *peer) request() (head *http1.RequestHead, body string, ok bool) {
	head, err := http1.ReadRequestHead(p.br, http1.Limits{MaxHead: 1 << 20})
	if err != nil {
		return nil, "", false
	}
	data, err := io.ReadAll(http1.NewBodyReader(p.br, head.BodyLen, http1.Limits{}))
	return head, string(data), err == nil
}

func (p *peer) send(s string) { _, _ = io.WriteString(p, s) }

// listen runs serve for each connection to the returned target, and ends with
// the test.
func listen(t testing.TB, serve func(*peer)) Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, serve)
	return Target{Addr: ln.Addr().String()}
}

func serveOn(t testing.TB, ln net.Listener, serve func(*peer)) {
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				serve(&peer{Conn: c, br: bufio.NewReader(c), n: n})
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

const okResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// answer serves every request with the same bytes.
func answer(s string) func(*peer) {
	return func(p *peer) {
		for {
			if _, _, ok := p.request(); !ok {
				return
			}
			p.send(s)
		}
	}
}

func newPool(t testing.TB, opt Options) *Pool {
	t.Helper()
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Close()
		poll.Until(t, "all connections are closed", func() bool { return p.Stats().Open == 0 })
	})
	return p
}

func get(t testing.TB, p *Pool, target Target) string {
	t.Helper()
	body, err := tryGet(p, target)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func tryGet(p *Pool, target Target) (string, error) {
	resp, err := p.Do(context.Background(), target, &Request{Method: "GET", URI: "/"})
	if err != nil {
		return "", err
	}
	defer resp.Close()
	body, err := io.ReadAll(resp)
	return string(body), err
}

func TestDoSendsAsGiven(t *testing.T) {
	var got bytes.Buffer
	host := "" // the address, known after listen
	tests := []struct {
		name string
		req  Request
		want string
	}{
		{
			"get",
			Request{Method: "GET", URI: "/a?b", Header: []frame.Field{field("x-B", "1"), field("hOsT", "h"), field("x-B", "2")}},
			"GET /a?b HTTP/1.1\r\nx-B: 1\r\nhOsT: h\r\nx-B: 2\r\n\r\n",
		},
		{"host added", Request{Method: "GET"}, "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		{
			"length kept in its place",
			Request{Method: "PUT", URI: "/", Header: []frame.Field{field("content-length", "3"), field("Host", "h")}, BodyLen: 3, First: []byte("abc")},
			"PUT / HTTP/1.1\r\ncontent-length: 3\r\nHost: h\r\n\r\nabc",
		},
		{
			"length corrected",
			Request{Method: "PUT", URI: "/", Header: []frame.Field{field("Content-Length", "9"), field("Host", "h")}, BodyLen: 3, First: []byte("abc")},
			"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
		},
		{
			"length for chunked",
			Request{Method: "PUT", URI: "/", Header: []frame.Field{field("Transfer-Encoding", "chunked"), field("Host", "h")}, BodyLen: 3, First: []byte("abc")},
			"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
		},
		{
			"no body of a POST",
			Request{Method: "POST", URI: "/", Header: []frame.Field{field("Host", "h")}},
			"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"chunked",
			Request{
				Method: "POST", URI: "/", Header: []frame.Field{field("Content-Length", "3"), field("Host", "h")}, BodyLen: http1.Chunked, First: []byte("abc"),
				Trailer: func() []frame.Field { return []frame.Field{field("T", "u")} },
			},
			"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
		},
		{
			"empty chunked",
			Request{Method: "POST", URI: "/", Header: []frame.Field{field("Host", "h")}, BodyLen: http1.Chunked},
			"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		},
		{
			"streamed",
			Request{Method: "POST", URI: "/", Header: []frame.Field{field("Host", "h")}, BodyLen: 6, First: []byte("abc"), Body: io.NopCloser(strings.NewReader("def"))},
			"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabcdef",
		},
		{
			"streamed chunked",
			Request{
				Method: "POST", URI: "/", Header: []frame.Field{field("Host", "h")}, BodyLen: http1.Chunked, First: []byte("abc"), Body: io.NopCloser(strings.NewReader("defg")),
				Trailer: func() []frame.Field { return []frame.Field{field("T", strings.Repeat("u", 99))} },
			},
			"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nT: " + strings.Repeat("u", 99) + "\r\n\r\n",
		},
	}
	target := listen(t, func(p *peer) {
		p.br = bufio.NewReader(io.TeeReader(p, &got))
		answer(okResponse)(p)
	})
	host = target.Addr
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, Options{})
			got.Reset()
			before := append([]frame.Field(nil), tt.req.Header...)
			resp, err := p.Do(context.Background(), target, &tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp); string(body) != "ok" || err != nil {
				t.Fatalf("got %q, %v", body, err)
			}
			if want := strings.ReplaceAll(tt.want, "HOST", host); got.String() != want {
				t.Errorf("sent %q, want %q", got.String(), want)
			}
			if d := cmp.Diff(before, tt.req.Header); d != "" {
				t.Errorf("the caller's header changed (-want +got):\n%s", d)
			}
			if s := p.Stats(); s.Idle != 1 {
				t.Errorf("connection not kept: %+v", s)
			}
		})
	}
}

func TestDoBodies(t *testing.T) {
	tests := []struct {
		name, method, sent, body string
		reuse                    bool
	}{
		{"length", "GET", okResponse, "ok", true},
		{"empty", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nT: u\r\n\r\n", "ok", true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", true},
		{"interim", "GET", "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + okResponse, "ok", true},
		{"interim of length 0", "GET", "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + okResponse, "ok", true},
		{"many interims", "GET", strings.Repeat("HTTP/1.1 199 Wait\r\nA: b\r\n\r\n", 31) + okResponse, "ok", true},
		{"body of an interim", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 40\r\n\r\n" + okResponse, "ok", false},
		{"chunked interim", "GET", "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n" + okResponse, "ok", false},
		{"interim that closes", "GET", "HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\n" + okResponse, "ok", false},
		{"two lengths in an interim", "GET", "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\nHTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\n" + okResponse, "ok", false},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		{"more than announced", "GET", okResponse + "?", "ok", false},
		{"body of a 204", "GET", "HTTP/1.1 204 No Content\r\n\r\nhello", "", false},
		{"two framings", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", false},
		{"Keep-Alive: timeout=0", "GET", "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok", "ok", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var conns atomic.Int32
			target := listen(t, func(p *peer) {
				conns.Add(1)
				answer(tt.sent)(p)
			})
			p := newPool(t, Options{})
			for range 2 {
				resp, err := p.Do(context.Background(), target, &Request{Method: tt.method, URI: "/"})
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp)
				if string(body) != tt.body || err != nil {
					t.Fatalf("got %q, %v, want %q", body, err, tt.body)
				}
				if strings.Contains(tt.sent, "T: u") && !http1.Has(resp.Trailer(), "T") {
					t.Error("trailer is missing")
				}
			}
			want := int32(2)
			if tt.reuse {
				want = 1
			}
			if n := conns.Load(); n != want {
				t.Errorf("%d connections for two requests, want %d", n, want)
			}
		})
	}

	t.Run("until close", func(t *testing.T) {
		target := listen(t, func(p *peer) {
			p.request()
			p.send("HTTP/1.1 200 OK\r\n\r\nall of it")
		})
		p := newPool(t, Options{})
		if got := get(t, p, target); got != "all of it" {
			t.Errorf("got %q", got)
		}
	})
}

func TestDoHugeHead(t *testing.T) {
	value := strings.Repeat("v", 40<<10)
	target := listen(t, answer("HTTP/1.1 200 OK\r\nX: "+value+"\r\nContent-Length: 2\r\n\r\nok"))
	p := newPool(t, Options{})
	resp, err := p.Do(context.Background(), target, &Request{Method: "GET", Header: []frame.Field{field("Y", value)}})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := http1.Get(resp.Head.Header, "X"); got != value {
		t.Errorf("got a value of %d bytes, want %d", len(got), len(value))
	}
	_ = resp.Close()
	p = newPool(t, Options{Limits: http1.Limits{MaxHead: 32 << 10}})
	if _, err = tryGet(p, target); !errors.Is(err, ErrProtocol) {
		t.Errorf("head over the limit: got %v, want ErrProtocol", err)
	}
}

func TestDoFailures(t *testing.T) {
	tests := []struct {
		name, sent string
		inBody     bool
		want       error
	}{
		{"closed at once", "", false, ErrCut},
		{"cut in the head", "HTTP/1.1 200 OK\r\nContent-", false, ErrCut},
		{"cut after interim", "HTTP/1.1 100 Continue\r\n\r\n", false, ErrCut},
		{"not HTTP", "220 mail ready\r\n\r\n", false, ErrProtocol},
		{"endless interim", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000), false, ErrProtocol},
		{"one interim too many", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 32) + okResponse, false, ErrProtocol},
		{"interim with another body than its length", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello" + okResponse, false, ErrProtocol},
		{"interim with two lengths", "HTTP/1.1 100 Continue\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" + okResponse, false, ErrProtocol},
		{"unasked upgrade after an interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", false, ErrProtocol},
		{"unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n", false, ErrProtocol},
		{"cut in a length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", true, ErrCut},
		{"cut in a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nok", true, ErrCut},
		{"cut between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", true, ErrCut},
		{"cut before the trailer's end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n", true, ErrCut},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nx\r\n", true, ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int32
			target := listen(t, func(p *peer) {
				if _, _, ok := p.request(); ok {
					requests.Add(1)
					p.send(tt.sent)
				}
			})
			p := newPool(t, Options{})
			resp, err := p.Do(context.Background(), target, &Request{Method: "GET"})
			if (err == nil) != tt.inBody {
				t.Fatalf("Do: got %v", err)
			}
			if err == nil {
				var body []byte
				if body, err = io.ReadAll(resp); string(body) != "ok" {
					t.Errorf("got %q before the failure, want ok", body)
				}
				if _, again := resp.Read(make([]byte, 1)); again != err {
					t.Errorf("read again: got %v, want %v", again, err)
				}
			}
			if !errors.Is(err, tt.want) || TryNext(err) {
				t.Errorf("got %v, TryNext %t, want %v, false", err, TryNext(err), tt.want)
			}
			if n := requests.Load(); n != 1 {
				t.Errorf("sent %d times on new connections, want once", n)
			}
			if s := p.Stats(); s.Open != 0 {
				t.Errorf("connection still there: %+v", s)
			}
		})
	}

	t.Run("reset in a body that ends with the connection", func(t *testing.T) {
		target := listen(t, func(p *peer) {
			p.request()
			p.send("HTTP/1.1 200 OK\r\n\r\nok")
			p.request() // until the client has the part
			_ = p.Conn.(*net.TCPConn).SetLinger(0)
		})
		p := newPool(t, Options{})
		resp, err := p.Do(context.Background(), target, &Request{Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 2)
		if _, err := io.ReadFull(resp, part); err != nil {
			t.Fatal(err)
		}
		_, _ = resp.conn.nc.Write([]byte("!\r\n\r\n"))
		if _, err = resp.Read(part); !errors.Is(err, ErrCut) {
			t.Errorf("got %v, want ErrCut", err)
		}
	})
}

func TestDoConnectFailures(t *testing.T) {
	t.Parallel()
	p := newPool(t, Options{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if _, err := tryGet(p, Target{Addr: ln.Addr().String()}); !errors.Is(err, ErrConnect) || !TryNext(err) {
		t.Errorf("refused: got %v, want ErrConnect", err)
	}
	if _, err := tryGet(p, Target{Addr: "no-such-host.invalid:80"}); !TryNext(err) {
		t.Errorf("unknown name: got %v, want one for the next target", err)
	}
	// Accepted by the kernel, but nobody speaks TLS.
	silent := listen(t, func(p *peer) { _, _ = p.br.ReadByte(); _, _ = io.Copy(io.Discard, p) })
	silent.TLS = true
	hasty := newPool(t, Options{ConnectTimeout: 50 * time.Millisecond})
	if _, err := tryGet(hasty, silent); !errors.Is(err, ErrTimeout) || !TryNext(err) {
		t.Errorf("silent: got %v, want ErrTimeout", err)
	}
	for p, errs := range map[*Pool]uint64{p: 2, hasty: 1} {
		if s := p.Stats(); s.Open != 0 || s.DialErrors != errs {
			t.Errorf("got %+v, want nothing open and %d errors", s, errs)
		}
	}

	_ = p.Close()
	if _, err := tryGet(p, silent); !errors.Is(err, ErrClosed) {
		t.Errorf("closed pool: got %v, want ErrClosed", err)
	}
}

func TestDoTimeouts(t *testing.T) {
	t.Parallel()
	slow := listen(t, func(p *peer) {
		head, _, ok := p.request()
		if !ok { // the client has lost its patience already
			return
		}
		if head.Path == "/body" {
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok")
		}
		_, _ = p.br.ReadByte()
	})
	p := newPool(t, Options{ResponseTimeout: 50 * time.Millisecond})
	if _, err := tryGet(p, slow); !errors.Is(err, ErrTimeout) || TryNext(err) {
		t.Errorf("no response: got %v, want ErrTimeout that is not for the next target", err)
	}
	p = newPool(t, Options{IdleTimeout: 50 * time.Millisecond})
	resp, err := p.Do(context.Background(), slow, &Request{Method: "GET", URI: "/body"})
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp); string(body) != "ok" || !errors.Is(err, ErrTimeout) {
		t.Errorf("stalled body: got %q, %v, want ok, ErrTimeout", body, err)
	}

	p = newPool(t, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := p.Do(ctx, slow, &Request{Method: "GET"}); !errors.Is(err, ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: got %v, want ErrTimeout and the context's error", err)
	}

	ctx, cancelNow := context.WithCancel(context.Background())
	resp, err = p.Do(ctx, slow, &Request{Method: "GET", URI: "/body"})
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, cancelNow)
	if _, err := io.ReadAll(resp); !errors.Is(err, context.Canceled) || TryNext(err) {
		t.Errorf("cancelled: got %v, want context.Canceled", err)
	}
	if _, err := p.Do(ctx, slow, &Request{Method: "GET"}); !errors.Is(err, context.Canceled) || TryNext(err) {
		t.Errorf("cancelled before: got %v, want context.Canceled", err)
	}
}

// A stream that is slow but alive must outlive the time limits.
func TestDoSlowStream(t *testing.T) {
	t.Parallel()
	const pieces = 60
	target := listen(t, func(p *peer) {
		p.request()
		p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range pieces {
			<-tick.C
			p.send("1\r\nx\r\n")
		}
		p.send("0\r\n\r\n")
	})
	p := newPool(t, Options{IdleTimeout: 5 * time.Second})
	if got := get(t, p, target); len(got) != pieces {
		t.Errorf("got %q, want %d pieces", got, pieces)
	}
}

// The origin closes the connection while it is idle, or answers the second
// request on it by closing.
func TestDoStaleConnection(t *testing.T) {
	type result struct {
		err      error
		requests []string
	}
	// run makes a request that leaves a connection, then the one in question,
	// which the origin drops when it comes on that connection.
	run := func(t *testing.T, r *Request) result {
		var mu sync.Mutex
		var requests []string
		target := listen(t, func(p *peer) {
			for i := 0; ; i++ {
				head, body, ok := p.request()
				if !ok {
					return
				}
				mu.Lock()
				requests = append(requests, fmt.Sprintf("%s %d %s", head.Method, p.n, body))
				mu.Unlock()
				if p.n == 0 && i == 1 {
					return
				}
				p.send(okResponse)
			}
		})
		p := newPool(t, Options{})
		get(t, p, target)
		resp, err := p.Do(context.Background(), target, r)
		if err == nil {
			_, err = io.ReadAll(resp)
		}
		mu.Lock()
		defer mu.Unlock()
		return result{err, requests}
	}
	t.Run("GET is repeated", func(t *testing.T) {
		got := run(t, &Request{Method: "GET"})
		if d := cmp.Diff([]string{"GET 0 ", "GET 0 ", "GET 1 "}, got.requests); d != "" || got.err != nil {
			t.Errorf("%v (-want +got):\n%s", got.err, d)
		}
	})
	t.Run("PUT is repeated with its body", func(t *testing.T) {
		body := bytes.Repeat([]byte("x"), inlineBody+100)
		got := run(t, &Request{Method: "PUT", BodyLen: int64(len(body)), First: body})
		if d := cmp.Diff([]string{"GET 0 ", "PUT 0 " + string(body), "PUT 1 " + string(body)}, got.requests); d != "" || got.err != nil {
			t.Errorf("%v (-want +got):\n%s", got.err, d)
		}
	})
	t.Run("POST is not", func(t *testing.T) {
		got := run(t, &Request{Method: "POST", BodyLen: 1, First: []byte("x")})
		if d := cmp.Diff([]string{"GET 0 ", "POST 0 x"}, got.requests); d != "" || !errors.Is(got.err, ErrCut) || TryNext(got.err) {
			t.Errorf("got %v, want ErrCut (-want +got):\n%s", got.err, d)
		}
	})
	t.Run("streamed body takes a new connection", func(t *testing.T) {
		got := run(t, &Request{Method: "PUT", BodyLen: 1, Body: io.NopCloser(strings.NewReader("x"))})
		if d := cmp.Diff([]string{"GET 0 ", "PUT 1 x"}, got.requests); d != "" || got.err != nil {
			t.Errorf("%v (-want +got):\n%s", got.err, d)
		}
	})
	t.Run("POST finds a closed one in time", func(t *testing.T) {
		closed := make(chan struct{})
		target := listen(t, func(p *peer) {
			p.request()
			p.send(okResponse)
			if p.n == 0 {
				_ = p.Close()
				close(closed)
			}
		})
		p := newPool(t, Options{})
		get(t, p, target)
		<-closed
		resp, err := p.Do(context.Background(), target, &Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Close()
		if s := p.Stats(); s.Retried != 0 || s.Dialled != 2 {
			t.Errorf("got %+v, want a second connection without a retry", s)
		}
	})
	t.Run("no third attempt", func(t *testing.T) {
		target := listen(t, func(p *peer) {
			if _, _, ok := p.request(); ok && p.n == 0 {
				p.send(okResponse)
				p.request()
			}
		})
		p := newPool(t, Options{})
		get(t, p, target)
		if _, err := tryGet(p, target); !errors.Is(err, ErrCut) {
			t.Errorf("got %v, want ErrCut", err)
		}
		if s := p.Stats(); s.Retried != 1 || s.Dialled != 2 || s.Reused != 1 {
			t.Errorf("got %+v, want one retry", s)
		}
	})
}

// blocking is a body that gives its bytes and then nothing until it is closed.
type blocking struct {
	data   io.Reader
	closed chan struct{}
	closes atomic.Int32
}

func newBlocking(data string) *blocking {
	return &blocking{data: strings.NewReader(data), closed: make(chan struct{})}
}

func (b *blocking) Read(p []byte) (int, error) {
	n, err := b.data.Read(p)
	if errors.Is(err, io.EOF) {
		<-b.closed
		return 0, io.ErrClosedPipe
	}
	return n, err
}

func (b *blocking) Close() error {
	if b.closes.Add(1) == 1 {
		close(b.closed)
	}
	return nil
}

func TestDoEarlyResponse(t *testing.T) {
	t.Run("while the body goes on", func(t *testing.T) {
		target := listen(t, func(p *peer) {
			_, _ = http1.ReadRequestHead(p.br, http1.Limits{})
			p.send("HTTP/1.1 413 Too much\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, p.br)
		})
		p := newPool(t, Options{})
		body := newBlocking("some")
		resp, err := p.Do(context.Background(), target, &Request{Method: "POST", BodyLen: 100, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(resp); string(got) != "no" || err != nil || resp.Head.Reason != "Too much" {
			t.Errorf("got %q, %v", got, err)
		}
		if n := body.closes.Load(); n != 1 {
			t.Errorf("body closed %d times, want once", n)
		}
		if s := p.Stats(); s.Open != 0 {
			t.Errorf("connection kept after half a request: %+v", s)
		}
	})
	// The origin answers and closes without reading: writing fails, the answer
	// must still come through.
	t.Run("and then closes", func(t *testing.T) {
		target := listen(t, func(p *peer) {
			_, _ = http1.ReadRequestHead(p.br, http1.Limits{})
			p.send("HTTP/1.1 413 Too much\r\nContent-Length: 2\r\n\r\nno")
			_ = p.Conn.(*net.TCPConn).CloseWrite()
			_, _ = io.CopyN(io.Discard, p.br, 1<<20)
		})
		p := newPool(t, Options{})
		for _, r := range []*Request{
			{Method: "POST", BodyLen: 64 << 20, Body: io.NopCloser(zeros{})},
			{Method: "POST", BodyLen: 64 << 20, First: make([]byte, 64<<20)},
		} {
			resp, err := p.Do(context.Background(), target, r)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(resp); string(got) != "no" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		}
	})
	t.Run("both ways at once", func(t *testing.T) {
		target := listen(t, func(p *peer) {
			head, err := http1.ReadRequestHead(p.br, http1.Limits{})
			if err != nil {
				return
			}
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			body := http1.NewBodyReader(p.br, head.BodyLen, http1.Limits{})
			buf := make([]byte, 100)
			for {
				n, err := body.Read(buf)
				_, _ = p.Write(http1.AppendChunk(nil, buf[:n]))
				if err != nil {
					_, _ = p.Write(http1.AppendLastChunk(nil, nil))
					break
				}
			}
			answer(okResponse)(p)
		})
		p := newPool(t, Options{})
		pr, pw := io.Pipe()
		resp, err := p.Do(context.Background(), target, &Request{Method: "POST", BodyLen: http1.Chunked, Body: pr})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"one", "two", "three"} { // each is echoed before the next is sent
			if _, err := io.WriteString(pw, s); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(s))
			if _, err := io.ReadFull(resp, got); string(got) != s || err != nil {
				t.Fatalf("got %q, %v, want %q", got, err, s)
			}
		}
		_ = pw.Close()
		if rest, err := io.ReadAll(resp); len(rest) != 0 || err != nil {
			t.Errorf("got %q, %v, want the end", rest, err)
		}
		if s := p.Stats(); s.Idle != 1 {
			t.Errorf("connection not kept: %+v", s)
		}
	})
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestDoLargeUpload(t *testing.T) {
	var got atomic.Int64
	target := listen(t, func(p *peer) {
		for {
			_, body, ok := p.request()
			if !ok {
				return
			}
			got.Store(int64(len(body)))
			p.send(okResponse)
		}
	})
	p := newPool(t, Options{})
	const size = 3<<20 + 17
	for _, r := range []Request{
		{BodyLen: size, First: make([]byte, size)},
		{BodyLen: http1.Chunked, First: make([]byte, size)},
		{BodyLen: size, First: make([]byte, inlineBody), Body: io.NopCloser(zeros{})},
		{BodyLen: http1.Chunked, First: make([]byte, inlineBody+5), Body: io.NopCloser(io.LimitReader(zeros{}, size-inlineBody-5))},
	} {
		r.Method = "POST"
		resp, err := p.Do(context.Background(), target, &r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp); err != nil || got.Load() != size {
			t.Errorf("origin got %d bytes, %v, want %d", got.Load(), err, size)
		}
	}
	if s := p.Stats(); s.Idle != s.Open || s.Idle == 0 {
		t.Errorf("connections not kept: %+v", s)
	}
}

func TestDoBodyFails(t *testing.T) {
	complete := make(chan bool, 1)
	target := listen(t, func(p *peer) {
		_, _, ok := p.request()
		complete <- ok
	})
	broken := errors.New("client gone")
	tests := []struct {
		name string
		req  Request
		want error
	}{
		{"reader fails", Request{BodyLen: 9, Body: io.NopCloser(io.MultiReader(strings.NewReader("ab"), errReader{broken}))}, broken},
		{"reader fails, chunked", Request{BodyLen: http1.Chunked, Body: io.NopCloser(io.MultiReader(strings.NewReader("ab"), errReader{broken}))}, broken},
		{"too short", Request{BodyLen: 9, Body: io.NopCloser(strings.NewReader("ab"))}, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, Options{})
			tt.req.Method = "POST"
			_, err := p.Do(context.Background(), target, &tt.req)
			if !errors.Is(err, ErrBody) || !errors.Is(err, tt.want) || TryNext(err) {
				t.Errorf("got %v, want ErrBody with %v", err, tt.want)
			}
			if <-complete {
				t.Error("the origin takes the request for complete")
			}
		})
	}
	t.Run("not enough at hand", func(t *testing.T) {
		p := newPool(t, Options{})
		if _, err := p.Do(context.Background(), target, &Request{Method: "POST", BodyLen: 9, First: []byte("ab")}); !errors.Is(err, ErrBody) {
			t.Errorf("got %v, want ErrBody", err)
		}
	})
	t.Run("closed when nothing could be sent", func(t *testing.T) {
		p := newPool(t, Options{})
		body := newBlocking("")
		_, err := p.Do(context.Background(), Target{Addr: "127.0.0.1:1"}, &Request{Method: "POST", BodyLen: 9, Body: body})
		if n := body.closes.Load(); err == nil || n != 1 {
			t.Errorf("got %v, body closed %d times, want once", err, n)
		}
	})
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestResponseClose(t *testing.T) {
	for name, tt := range map[string]struct {
		sent string
		kept bool
	}{
		"leftover at hand":         {okResponse, true},
		"chunked leftover at hand": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true},
		"leftover to come":         {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", false},
		"much":                     {"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1000000), false},
	} {
		t.Run(name, func(t *testing.T) {
			target := listen(t, answer(tt.sent))
			p := newPool(t, Options{})
			resp, err := p.Do(context.Background(), target, &Request{Method: "GET"})
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Close()
			_ = resp.Close()
			if s := p.Stats(); (s.Idle == 1) != tt.kept || s.Open != s.Idle {
				t.Errorf("got %+v, want kept %t", s, tt.kept)
			}
			if _, err := resp.Read(make([]byte, 1)); err == nil {
				t.Error("read after Close: no error")
			}
			if tt.kept {
				for _, method := range []string{"POST", "GET"} {
					resp, err := p.Do(context.Background(), target, &Request{Method: method})
					if err != nil {
						t.Fatalf("%s on the kept connection: %v", method, err)
					}
					_ = resp.Close()
				}
				if s := p.Stats(); s.Dialled != 1 {
					t.Errorf("got %+v, want one connection for all", s)
				}
			}
		})
	}
}

func TestHijack(t *testing.T) {
	target := listen(t, func(p *peer) {
		p.request()
		p.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\nhello ")
		<-time.After(60 * time.Millisecond) // longer than the deadlines that must be gone
		_, _ = io.Copy(p, p.br)
	})
	p := newPool(t, Options{IdleTimeout: 20 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	resp, err := p.Do(ctx, target, &Request{Method: "GET", Header: []frame.Field{field("Connection", "upgrade"), field("Upgrade", "echo")}})
	if err != nil {
		t.Fatal(err)
	}
	nc, br, err := resp.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Close()
	if _, err := io.WriteString(nc, "world"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 11)
	if _, err := io.ReadFull(br, got); string(got) != "hello world" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if s := p.Stats(); s.Open != 1 {
		t.Errorf("got %+v, want the connection counted", s)
	}
	_ = nc.Close()
	_ = nc.Close()
	if s := p.Stats(); s.Open != 0 {
		t.Errorf("got %+v after closing", s)
	}

	plain := listen(t, answer(okResponse))
	resp, err = p.Do(context.Background(), plain, &Request{Method: "GET"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := resp.Hijack(); err == nil {
		t.Error("took over a connection that was not upgraded")
	}
	_ = resp.Close()

	nc, err = p.Dial(context.Background(), plain)
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.Open != 2 || s.Idle != 1 {
		t.Errorf("got %+v, want a dialled connection besides the idle one", s)
	}
	_ = nc.Close()
}

func TestUntrusted(t *testing.T) {
	target := listen(t, answer(okResponse))
	_, port, _ := net.SplitHostPort(target.Addr)
	p := newPool(t, Options{})
	get(t, p, target) // leaves a connection that the others must not get
	target.Untrusted = true
	for _, host := range []string{"127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1", "0.0.0.0", "64:ff9b::7f00:1"} {
		target.Addr = net.JoinHostPort(host, port)
		if _, err := tryGet(p, target); !errors.Is(err, ErrPolicy) || TryNext(err) {
			t.Errorf("%s: got %v, want ErrPolicy", target.Addr, err)
		}
	}

	// A name with a forbidden and an allowed address: the latter alone is used,
	// and the name is asked for once.
	addr := netip.MustParseAddr
	var lookups atomic.Int32
	p = newPool(t, Options{
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			if lookups.Add(1) > 1 {
				return []netip.Addr{addr("127.0.0.1")}, nil
			}
			return []netip.Addr{addr("10.0.0.1"), addr("::ffff:127.0.0.2"), addr("127.0.0.1")}, nil
		},
		Allowed: func(ap netip.AddrPort) bool { return ap.Addr() == addr("127.0.0.2") },
	})
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		need.Missing(t, "no second loopback address (macOS wants it as an alias of lo0), so the choice between two is not tested: %v", err)
	}
	serveOn(t, ln, answer(okResponse))
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	target.Addr = "rebind.example:" + port
	if got := get(t, p, target); got != "ok" || lookups.Load() != 1 {
		t.Errorf("got %q after %d look-ups", got, lookups.Load())
	}
}

func TestPoolBounds(t *testing.T) {
	// release lets one request of those that wait for it go.
	release := make(chan struct{})
	var now, most atomic.Int32
	handle := func(p *peer) {
		for {
			if _, _, ok := p.request(); !ok {
				return
			}
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			<-release
			now.Add(-1)
			p.send(okResponse)
		}
	}
	a, b := listen(t, handle), listen(t, handle)
	p := newPool(t, Options{MaxOpen: 3, MaxOpenPerTarget: 2, MaxIdlePerTarget: 1})
	var wg sync.WaitGroup
	const requests = 20
	for i := range requests {
		wg.Add(1)
		go func() {
			defer wg.Done()
			target := a
			if i%2 == 1 {
				target = b
			}
			if body, err := tryGet(p, target); body != "ok" || err != nil {
				t.Errorf("got %q, %v", body, err)
			}
		}()
	}
	poll.Until(t, "the others wait", func() bool { return now.Load() == 3 && p.Stats().Waiting == requests-3 })
	for range requests {
		release <- struct{}{}
	}
	wg.Wait()
	close(release)
	if most.Load() > 3 {
		t.Errorf("%d requests at once, want at most 3", most.Load())
	}
	s := p.Stats()
	if s.Open > 2 || s.Idle != s.Open || s.Waiting != 0 {
		t.Errorf("got %+v, want one idle connection for each target", s)
	}
	// With all places taken by idle connections of others, a new target gets one.
	p = newPool(t, Options{MaxOpen: 1})
	for _, target := range []Target{a, b, a} {
		get(t, p, target)
	}
	if s := p.Stats(); s.Open != 1 || s.Dialled != 3 {
		t.Errorf("got %+v, want one connection open of three dialled", s)
	}
}

func TestPoolWaitEnds(t *testing.T) {
	hold := make(chan struct{})
	target := listen(t, func(p *peer) {
		p.request()
		<-hold
		p.send(okResponse)
	})
	p := newPool(t, Options{MaxOpen: 1, ConnectTimeout: 300 * time.Millisecond})
	first := make(chan error, 1)
	go func() {
		_, err := tryGet(p, target)
		first <- err
	}()
	poll.Until(t, "the place is taken", func() bool { return p.Stats().Dialled == 1 })
	if _, err := tryGet(p, target); !errors.Is(err, ErrTimeout) || !TryNext(err) {
		t.Errorf("got %v, want ErrTimeout", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Do(ctx, target, &Request{Method: "GET"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if s := p.Stats(); s.Waiting != 0 {
		t.Errorf("got %+v, want nobody waiting", s)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// A burst must not dial more at once than it may, and all of it is served.
func TestPoolBurst(t *testing.T) {
	target := listen(t, answer(okResponse))
	p := newPool(t, Options{MaxDialing: 4, MaxIdlePerTarget: 8})
	var wg sync.WaitGroup
	for range 500 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if body, err := tryGet(p, target); body != "ok" || err != nil {
				t.Errorf("got %q, %v", body, err)
			}
		}()
	}
	wg.Wait()
	if s := p.Stats(); s.Idle > 8 || s.Idle != s.Open || s.Reused+s.Dialled != 500+s.Retried {
		t.Errorf("got %+v", s)
	}
}

func TestPoolExpiry(t *testing.T) {
	var ended atomic.Int32
	target := listen(t, func(p *peer) {
		answer(okResponse)(p)
		ended.Add(1)
	})
	p := newPool(t, Options{KeepAlive: 30 * time.Millisecond})
	get(t, p, target)
	poll.Until(t, "the idle connection is closed", func() bool { return ended.Load() == 1 })
	poll.Until(t, "its target is forgotten", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.buckets) == 0
	})
	get(t, p, target)
	poll.Until(t, "the next one too", func() bool { return ended.Load() == 2 })
}

func TestKeepFor(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"timeout=5":          4 * time.Second,
		"max=3, Timeout = 9": 8 * time.Second,
		"timeout=0":          0,
		"timeout=1000":       55 * time.Second,
		"timeout=x":          55 * time.Second,
		"timeout=-1":         55 * time.Second,
		"":                   55 * time.Second,
	} {
		if got := keepFor([]frame.Field{field("keep-alive", value)}, 55*time.Second); got != want {
			t.Errorf("Keep-Alive: %s: got %v, want %v", value, got, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	target := listen(t, answer(okResponse))
	p := newPool(t, Options{Registerer: reg})
	get(t, p, target)
	get(t, p, target)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[strings.TrimPrefix(f.GetName(), "holdfast_origin_")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	want := map[string]float64{
		"connections_open": 1, "connections_idle": 1, "requests_waiting": 0, "connections_dialled_total": 1,
		"connect_errors_total": 0, "connections_reused_total": 1, "requests_retried_total": 0,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := New(Options{Registerer: reg}); err == nil {
		t.Error("registered twice without an error")
	}
}

func TestErrorText(t *testing.T) {
	err := &Error{Kind: ErrConnect, Addr: "a:1", Err: os.ErrPermission}
	if got, want := err.Error(), "origin a:1: cannot connect: permission denied"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := (&Error{Kind: ErrPolicy, Addr: "a:1"}).Error(), "origin a:1: address not allowed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if TryNext(nil) || TryNext(io.EOF) {
		t.Error("TryNext of what is not our error")
	}
}
