package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/exchange"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long tests wait for what has to come.
const patience = poll.Patience

// rig is a proxy with a connmgr and a handler made for tests.
type rig struct {
	t       *testing.T
	net     *bustest.Network
	srv     *Server
	log     *logLines
	reg     *prometheus.Registry
	conn    *fakeConnmgr
	handler *fakeHandler
	stop    context.CancelFunc
	stopped chan error
}

// newRig starts a proxy with the routes given. change may alter its options.
func newRig(t *testing.T, routes string, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, net: bustest.NewNetwork(), log: &logLines{}, reg: prometheus.NewRegistry(), stopped: make(chan error, 1)}
	opts := DefaultOptions()
	opts.Bus = r.net.Node("proxy.0")
	opts.Logger = slog.New(r.log)
	opts.Registerer = r.reg
	opts.RoutesFile = filepath.Join(t.TempDir(), "routes")
	opts.SigKey = "changeme"
	opts.DrainTime = 0
	if err := os.WriteFile(opts.RoutesFile, []byte(routes), 0o600); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&opts)
	}
	srv, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.srv = srv
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.stopped <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := within(t, r.stopped); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	r.conn = newConnmgr(r, "connmgr.0")
	r.handler = newHandler(r, "handler.0")
	return r
}

func within[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// runNode runs an instance until the test is over.
func (r *rig) runNode(n *bustest.Node, recv bus.Receiver) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx, recv); err != nil && !errors.Is(err, bustest.ErrKilled) {
			r.t.Errorf("%s: %v", n.Name(), err)
		}
	}()
	r.t.Cleanup(func() { cancel(); <-done })
}

// waitPeer waits until the proxy knows an instance of that kind, or knows none.
func waitPeer(t *testing.T, b bus.Bus, kind string, n int) {
	t.Helper()
	poll.Until(t, fmt.Sprintf("%d peers of kind %s", n, kind), func() bool { return len(b.Peers(kind)) == n })
}

// fakeConnmgr opens exchanges.
type fakeConnmgr struct {
	r    *rig
	node *bustest.Node
	ups  atomic.Int64 // of proxies

	mu        sync.Mutex
	next      uint64
	exchanges map[uint64]*client
}

func newConnmgr(r *rig, name string) *fakeConnmgr {
	c := &fakeConnmgr{r: r, node: r.net.Node(name), exchanges: map[uint64]*client{}}
	r.runNode(c.node, c)
	waitPeer(r.t, c.node, "proxy", 1)
	waitPeer(r.t, r.srv.opts.Bus, "connmgr", 1)
	return c
}

func (c *fakeConnmgr) PeerUp(bus.Peer)                    { c.ups.Add(1) }
func (c *fakeConnmgr) PeerDown(bus.Peer)                  {}
func (c *fakeConnmgr) Broadcast(bus.Peer, string, []byte) {}
func (c *fakeConnmgr) Receive(_ bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		c.r.t.Error(err)
		return
	}
	id, seq, ok := exchange.Seq(f)
	if !ok {
		c.r.t.Errorf("connmgr got %s", f.Type())
		return
	}
	c.mu.Lock()
	x := c.exchanges[id]
	c.mu.Unlock()
	if x == nil {
		return
	}
	if c, ok := f.(*frame.Cancel); ok && c.Reason == frame.ReasonFinished {
		x.box.Put(f) // it confirms an end, and has no number
		return
	}
	if seq != x.recvSeq {
		c.r.t.Errorf("exchange %d: got seq %d, want %d", id, seq, x.recvSeq)
	}
	x.recvSeq++
	if credit, ok := f.(*frame.Credit); ok {
		x.window.Add(credit.N)
		return
	}
	x.box.Put(f)
}

// client is connmgr's side of an exchange.
type client struct {
	c       *fakeConnmgr
	id      uint64
	box     *exchange.Mailbox
	window  *exchange.Window
	recvSeq uint64 // owned by the bus's goroutine

	mu      sync.Mutex
	sendSeq uint64
}

// open sends a request.
func (c *fakeConnmgr) open(req frame.Request) *client {
	c.mu.Lock()
	c.next++
	x := &client{c: c, id: c.next, box: exchange.NewMailbox(), window: exchange.NewWindow(), sendSeq: 1}
	c.exchanges[x.id] = x
	c.mu.Unlock()
	req.ID = x.id
	if req.Method == "" {
		req.Method = "GET"
	}
	if req.Scheme == "" {
		req.Scheme = "http"
	}
	if req.Peer == "" {
		req.Peer = "127.0.0.1:4711"
	}
	req.Minor = 1
	if req.Host == "" {
		req.Host = "example.com"
	}
	if !http1.Has(req.Header, "Host") {
		req.Header = append([]frame.Field{{Name: "Host", Value: req.Host}}, req.Header...)
	}
	if _, err := x.window.Take(context.Background(), max(1, len(req.Body))); err != nil {
		c.r.t.Error(err)
	}
	if err := c.node.Send("proxy.0", frame.Encode(&req)); err != nil {
		c.r.t.Fatal(err)
	}
	return x
}

func (x *client) send(f frame.Frame) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch f := f.(type) {
	case *frame.Body:
		f.ID, f.Seq = x.id, x.sendSeq
	case *frame.Message:
		f.ID, f.Seq = x.id, x.sendSeq
	case *frame.Tune:
		f.ID, f.Seq = x.id, x.sendSeq
	case *frame.Credit:
		f.ID, f.Seq = x.id, x.sendSeq
	case *frame.Cancel:
		f.ID, f.Seq = x.id, x.sendSeq
	}
	x.sendSeq++
	if err := x.c.node.Send("proxy.0", frame.Encode(f)); err != nil {
		x.c.r.t.Error(err)
	}
}

// sendBody sends n bytes of request body in parts, as credits allow.
func (x *client) sendBody(ctx context.Context, n int, last bool) error {
	part := make([]byte, frame.MaxBodyPart)
	for n > 0 {
		k, err := x.window.Take(ctx, min(n, len(part)))
		if err != nil {
			return err
		}
		n -= k
		x.send(&frame.Body{Data: part[:k], More: n > 0 || !last})
	}
	return nil
}

// get waits for the next frame.
func (x *client) get() frame.Frame {
	x.c.r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f, err := x.box.Get(ctx)
	if err != nil {
		x.c.r.t.Fatalf("exchange %d: nothing came", x.id)
	}
	return f
}

// result is a whole response.
type result struct {
	*frame.Response
	body    string
	trailer []frame.Field
	cut     *frame.Cancel // it was broken off
}

// status returns the status line without version.
func (r *result) status() string {
	if r.Response == nil {
		return "none"
	}
	return fmt.Sprintf("%d %s", r.Code, r.Reason)
}

func (r *result) head() string { return text(r.Header) }

func text(h []frame.Field) string {
	var b strings.Builder
	for _, f := range h {
		b.WriteString(f.Name + ": " + f.Value + "\n")
	}
	return b.String()
}

// finish waits for the end of the response, granting credits.
func (x *client) finish() *result {
	x.c.r.t.Helper()
	r := &result{}
	var body strings.Builder
	defer func() { r.body = body.String() }()
	for {
		switch f := x.get().(type) {
		case *frame.Response:
			r.Response = f
			body.Write(f.Body)
			if !f.More {
				return r
			}
			x.send(&frame.Credit{N: uint64(len(f.Body))})
		case *frame.Body:
			body.Write(f.Data)
			if !f.More {
				r.trailer = f.Trailer
				return r
			}
			x.send(&frame.Credit{N: uint64(len(f.Data))})
		case *frame.Cancel:
			r.cut = f
			return r
		case *frame.Session: // of a WebSocket that is refused in the end
		default:
			x.c.r.t.Fatalf("got %s", f.Type())
		}
	}
}

func (r *rig) get(uri string, header ...string) *result {
	r.t.Helper()
	return r.conn.open(frame.Request{URI: uri, Header: lines(strings.Join(header, "\n"))}).finish()
}

// fakeHandler takes exchanges over.
type fakeHandler struct {
	node    *bustest.Node
	accepts chan *frame.Accept // what it was offered
	fetched chan *frame.Fetched
	checked chan *frame.Checked
	stats   chan *frame.Stats // what is not taken is dropped
	answer  func(*frame.Accept) *frame.Accepted
	control func(from string, c *frame.Control) // nil: no answer
}

func newHandler(r *rig, name string) *fakeHandler {
	h := &fakeHandler{node: r.net.Node(name), accepts: make(chan *frame.Accept, 100), fetched: make(chan *frame.Fetched, 100), checked: make(chan *frame.Checked, 100), stats: make(chan *frame.Stats, 100)}
	h.answer = func(a *frame.Accept) *frame.Accepted { return &frame.Accepted{X: a.X, OK: true} }
	r.runNode(h.node, h)
	waitPeer(r.t, h.node, "proxy", 1)
	waitPeer(r.t, r.srv.opts.Bus, "handler", 1)
	return h
}

func (h *fakeHandler) PeerUp(bus.Peer)                    {}
func (h *fakeHandler) PeerDown(bus.Peer)                  {}
func (h *fakeHandler) Broadcast(bus.Peer, string, []byte) {}
func (h *fakeHandler) Receive(from bus.Peer, b []byte) {
	f, _ := frame.Decode(b)
	switch f := f.(type) {
	case *frame.Accept:
		h.accepts <- f
		if answer := h.answer(f); answer != nil {
			_ = h.node.Send(from.Name, frame.Encode(answer))
		}
	case *frame.Control:
		if h.control != nil {
			h.control(from.Name, f)
		}
	case *frame.Fetched:
		h.fetched <- f
	case *frame.Checked:
		h.checked <- f
	case *frame.Stats:
		select {
		case h.stats <- f:
		default:
		}
	}
}

// logLines gathers log records.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *logLines) WithGroup(string) slog.Handler                    { return l }
func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	l.lines = append(l.lines, line)
	return nil
}

// wait waits for a line that contains s, and forgets it and those before it.
func (l *logLines) wait(t *testing.T, s string) string {
	t.Helper()
	var found string
	poll.Works(t, "a log line", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, line := range l.lines {
			if strings.Contains(line, s) {
				found, l.lines = line, l.lines[i+1:]
				return nil
			}
		}
		return fmt.Errorf("no %q in:\n%s", s, strings.Join(l.lines, "\n"))
	})
	return found
}

// testOrigin is an origin that answers with text as it is.
type testOrigin struct {
	addr string
	reqs chan *originRequest
}

type originRequest struct {
	*http1.RequestHead
	body    []byte
	trailer []frame.Field
	conn    net.Conn
	n       int // on this connection, from 1
}

// newOrigin starts an origin. answer is called for each request when its body
// was read; it returns what to write and whether to go on with the connection.
func newOrigin(t *testing.T, answer func(*originRequest) (string, bool)) *testOrigin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &testOrigin{addr: ln.Addr().String(), reqs: make(chan *originRequest, 1000)}
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			conns.Go(func() {
				defer c.Close()
				o.serve(c, answer)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return o
}

func (o *testOrigin) serve(c net.Conn, answer func(*originRequest) (string, bool)) {
	br := bufio.NewReader(c)
	for n := 1; ; n++ {
		head, err := http1.ReadRequestHead(br, http1.Limits{MaxHead: 64 << 10, MaxFields: 1000})
		if err != nil {
			return
		}
		req := &originRequest{RequestHead: head, conn: c, n: n}
		body := http1.NewBodyReader(br, head.BodyLen, http1.Limits{})
		if req.body, err = io.ReadAll(body); err != nil {
			return
		}
		req.trailer = body.Trailer()
		o.reqs <- req
		text, more := answer(req)
		if _, err := io.WriteString(c, text); err != nil || !more {
			return
		}
	}
}

// always answers every request with the same.
func always(text string) func(*originRequest) (string, bool) {
	text = strings.ReplaceAll(text, "\n", "\r\n")
	return func(*originRequest) (string, bool) { return text, true }
}

// ok is a response with a body.
func ok(header, body string) string {
	if header != "" {
		header = strings.ReplaceAll(strings.TrimSpace(header), "\n", "\r\n") + "\r\n"
	}
	return fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", header, len(body), body)
}

func answering(response string) func(*originRequest) (string, bool) {
	return func(*originRequest) (string, bool) { return response, true }
}
