package connmgr

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for one thing.
const patience = poll.Patience

// rig is a server with a bus in memory.
type rig struct {
	t     testing.TB
	net   *bustest.Network
	s     *Server
	addr  string
	stop  context.CancelFunc
	done  chan error
	clock clock
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, net: bustest.NewNetwork(), done: make(chan error, 1)}
	opt := DefaultOptions()
	opt.Bus = r.net.Node("connmgr.0")
	opt.Listen = []Listen{{Network: "tcp", Addr: "127.0.0.1:0"}}
	opt.DrainTime = 0
	if os.Getenv("CONNMGR_LOG") != "" {
		opt.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, f := range change {
		f(&opt)
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	r.s = s
	s.now = r.clock.now
	r.addr = s.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-r.done; err != nil {
			t.Errorf("Run: %v", err)
		}
		cancel()
	})
	return r
}

// far is a fake proxy or handler.
type far struct {
	t      testing.TB
	node   *bustest.Node
	frames chan frame.Frame
	do     func(f *far, got frame.Frame) bool // true: dealt with, not for frames
	up     chan struct{}
	once   sync.Once
	cancel context.CancelFunc
	done   chan struct{}
	mortal bool          // it may be killed while it sends
	stash  []frame.Frame // taken from frames and not returned by next yet
	tally  map[uint64]*frame.Outcome
}

// far starts an instance called name. What do does not deal with can be had
// from next.
func (r *rig) far(name string, do func(f *far, got frame.Frame) bool) *far {
	r.t.Helper()
	f := &far{
		t: r.t, node: r.net.Node(name), frames: make(chan frame.Frame, 1<<16), do: do,
		up: make(chan struct{}), done: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() {
		defer close(f.done)
		_ = f.node.Run(ctx, f)
	}()
	r.t.Cleanup(f.stop)
	<-f.up
	poll.Until(r.t, name+" is known", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		p := r.s.peers[name]
		return p != nil && p.Boot == f.node.Boot()
	})
	return f
}

func (f *far) stop() {
	f.cancel()
	<-f.done
}

func (f *far) PeerUp(bus.Peer)                    { f.once.Do(func() { close(f.up) }) }
func (f *far) PeerDown(bus.Peer)                  {}
func (f *far) Broadcast(bus.Peer, string, []byte) {}
func (f *far) Receive(from bus.Peer, b []byte) {
	got, err := frame.Decode(b)
	if err != nil {
		f.t.Errorf("frame from %s: %v", from.Name, err)
		return
	}
	if f.do != nil && f.do(f, got) {
		return
	}
	f.frames <- got
}

func (f *far) send(frames ...frame.Frame) {
	for _, fr := range frames {
		if err := f.node.Send("connmgr.0", frame.Encode(fr)); err != nil && !(f.mortal && errors.Is(err, bus.ErrNoPeer)) {
			f.t.Errorf("send %s: %v", fr.Type(), err)
		}
	}
}

// next returns the next frame that has the type of want.
func next[T frame.Frame](f *far) T {
	f.t.Helper()
	for i, got := range f.stash {
		if v, ok := got.(T); ok {
			f.stash = slices.Delete(f.stash, i, i+1)
			return v
		}
	}
	timeout := time.After(patience)
	for {
		select {
		case got := <-f.frames:
			if v, ok := got.(T); ok {
				return v
			}
			f.stash = append(f.stash, got)
		case <-timeout:
			var want T
			f.t.Fatalf("%s got no %T", f.node.Name(), want)
		}
	}
}

// echo answers requests with what they were.
func echo(f *far, got frame.Frame) bool {
	req, ok := got.(*frame.Request)
	if !ok {
		return false
	}
	body := []byte(req.Method + " " + req.URI + " " + string(req.Body))
	f.send(&frame.Response{
		ID: req.ID, Code: 200, Reason: "OK", BodyLen: int64(len(body)), Body: body,
		Header: []frame.Field{{Name: "X-Host", Value: req.Host}},
	})
	return true
}

// client is a raw connection.
type client struct {
	t testing.TB
	net.Conn
	br *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.client(nc)
}

func (r *rig) client(nc net.Conn) *client {
	r.t.Cleanup(func() { nc.Close() })
	c := &client{t: r.t, Conn: nc}
	c.br = bufio.NewReaderSize(c, 1<<16)
	return c
}

// Read has patience for what comes next, however long it took to come so far.
func (c *client) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	return c.Conn.Read(b)
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// get sends a plain request.
func (c *client) get(path string) { c.send("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n") }

// expect reads exactly want.
func (c *client) expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c.br, got)
	if string(got[:n]) != want {
		c.t.Fatalf("read %q (%v), want %q", got[:n], err, want)
	}
}

// head reads a response head.
func (c *client) head() string {
	c.t.Helper()
	var b strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			c.t.Fatalf("head: %v after %q", err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// rest reads up to the end of the connection.
func (c *client) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.br)
	if err != nil {
		c.t.Fatalf("read to the end: %v after %q", err, b)
	}
	return string(b)
}

// eof expects the connection to end, properly or not.
func (c *client) end() error {
	b, err := io.ReadAll(c.br)
	if len(b) > 0 {
		c.t.Errorf("read %q, want nothing", b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("connection still open")
	}
	return err
}

// held sends a request on c, holds it as f says and waits for the request.
func (r *rig) hold(p, h *far, c *client, f frame.Hold) uint64 {
	r.t.Helper()
	c.get("/hold")
	req := next[*frame.Request](p)
	f.ID = req.ID
	h.send(&f)
	return req.ID
}

func (f *far) stream(body string, groups ...string) frame.Hold {
	return frame.Hold{Mode: frame.ModeStream, Code: 200, Reason: "OK", Body: []byte(body), Groups: groups, Record: []byte("rec")}
}

// alive waits until the hold was reported to have been sent a keep-alive.
func (f *far) alive(id uint64) {
	f.t.Helper()
	for !slices.Contains(next[*frame.Report](f).Alive, id) {
	}
}

// outcome adds up reports until a publication has n outcomes.
func (f *far) outcome(pub uint64, n int) (delivered int, dropped map[frame.Reason]int) {
	f.t.Helper()
	if f.tally == nil {
		f.tally = make(map[uint64]*frame.Outcome)
	}
	for {
		dropped = make(map[frame.Reason]int)
		got := 0
		if o := f.tally[pub]; o != nil {
			delivered = int(o.Delivered)
			got = delivered
			for _, d := range o.Dropped {
				dropped[d.Reason] += int(d.N)
				got += int(d.N)
			}
		}
		if got >= n {
			return delivered, dropped
		}
		for _, o := range next[*frame.Report](f).Outcomes {
			sum := f.tally[o.Pub]
			if sum == nil {
				sum = new(frame.Outcome)
				f.tally[o.Pub] = sum
			}
			sum.Delivered += o.Delivered
			sum.Dropped = append(sum.Dropped, o.Dropped...)
		}
	}
}

func repeat(s string, n int) []byte { return bytes.Repeat([]byte(s), n) }
