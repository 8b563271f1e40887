package handler

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a handler on a bus in memory, with a connmgr and a proxy that keep to
// their part of the protocol.
type rig struct {
	t     testing.TB
	net   *bustest.Network
	opt   Options
	s     *Server
	reg   *prometheus.Registry
	stop  func()
	conn  *fakeConn
	proxy *fakeProxy
	clock *clock
}

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newRig(t testing.TB, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, net: bustest.NewNetwork(), clock: &clock{now: time.Unix(1e9, 0)}}
	r.opt = DefaultOptions()
	r.opt.PushIn, r.opt.PushInSub, r.opt.Command, r.opt.HTTPAddr = "", nil, "", "127.0.0.1:0"
	r.opt.UpdateOnFirstSubscription = false
	r.opt.now = r.clock.Now
	for _, f := range change {
		f(&r.opt)
	}
	r.conn = &fakeConn{r: r, name: "connmgr.0", holds: map[uint64]*fakeHold{}}
	r.proxy = &fakeProxy{r: r, name: "proxy.0"}
	r.conn.start()
	r.proxy.start()
	r.start()
	t.Cleanup(func() {
		r.stop()
		r.conn.stop()
		r.proxy.stop()
	})
	return r
}

// start starts a boot of the handler and waits until it is ready.
func (r *rig) start() {
	r.t.Helper()
	r.run()
	r.wait("the handler is ready", r.s.Ready)
}

func (r *rig) run() {
	r.t.Helper()
	o := r.opt
	o.Bus = r.net.Node("handler.0")
	r.reg = prometheus.NewRegistry()
	o.Registerer = r.reg
	s, err := New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.s = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		r.stop = func() {}
	}
}

// wait polls until ok says yes.
func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	poll.Until(r.t, what, ok)
}

// metric returns the sum of a metric over the label values that contain match.
func (r *rig) metric(name, match string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := ""
			for _, l := range m.GetLabel() {
				labels += l.GetValue() + ","
			}
			if strings.Contains(labels, match) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// balanced waits until every matched delivery is accounted for.
func (r *rig) balanced() (delivered, dropped int) {
	r.t.Helper()
	var matched float64
	r.wait("matched = delivered + dropped", func() bool {
		matched = r.metric("holdfast_handler_matched_total", "")
		return matched == r.metric("holdfast_handler_delivered_total", "")+r.metric("holdfast_handler_dropped_total", "") &&
			r.metric("holdfast_handler_pending_deliveries", "") == 0
	})
	return int(r.metric("holdfast_handler_delivered_total", "")), int(r.metric("holdfast_handler_dropped_total", ""))
}

// publish posts items to the control API.
func (r *rig) publish(items ...string) {
	r.t.Helper()
	if got := r.post("/publish/", `{"items":[`+strings.Join(items, ",")+`]}`); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		r.t.Fatalf("publish: %s", got)
	}
}

func (r *rig) post(path, body string) string {
	return r.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
}

// raw sends bytes to the control API and returns all that comes back.
func (r *rig) raw(text string) string {
	r.t.Helper()
	c, err := net.Dial("tcp", r.s.HTTPAddr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(poll.Patience))
	if _, err := io.WriteString(c, text); err != nil {
		r.t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		r.t.Fatalf("%q: %v", text, err)
	}
	return string(b)
}

// fakeConn is a connmgr: it keeps holds, delivers to them and reports.
type fakeConn struct {
	r    *rig
	name string
	node *bustest.Node
	stop func()

	mu     sync.Mutex
	holds  map[uint64]*fakeHold
	lastID uint64
	mute   bool // report nothing
	gaps   bool // frames may be missing
}

type fakeHold struct {
	id       uint64
	seq      uint64 // expected next
	mode     frame.Mode
	groups   []string
	record   []byte
	hold     *frame.Hold
	got      []string // bodies
	deliver  []*frame.Deliver
	placed   []frame.LastID
	finish   *frame.Finish
	retry    *frame.Retry
	update   *frame.Update
	over     bool
	unclosed bool // the client is gone, but Closed is kept back
}

func (c *fakeConn) start() {
	c.node = c.r.net.Node(c.name)
	c.stop = runNode(c.node, c)
}

func runNode(n *bustest.Node, r bus.Receiver) func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Run(ctx, r)
	}()
	return func() { cancel(); <-done }
}

func (c *fakeConn) PeerUp(p bus.Peer) {
	if p.Kind() != "handler" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var f frame.Records
	for _, h := range c.holds {
		if !h.over {
			f.Holds = append(f.Holds, frame.Held{ID: h.id, SendSeq: h.seq, RecvSeq: 9, Record: h.record, Last: h.placed})
		}
	}
	// In two batches, so that the second is what counts.
	half := len(f.Holds) / 2
	c.send(p.Name, &frame.Records{Holds: f.Holds[:half]})
	c.send(p.Name, &frame.Records{Holds: f.Holds[half:], Done: true})
}
func (c *fakeConn) PeerDown(bus.Peer)                  {}
func (c *fakeConn) Broadcast(bus.Peer, string, []byte) {}

func (c *fakeConn) send(to string, f frame.Frame) { _ = c.node.Send(to, frame.Encode(f)) }

func (c *fakeConn) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		c.r.t.Errorf("handler sent %v", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	take := func(id, seq uint64) *fakeHold {
		h := c.holds[id]
		if h == nil || h.over {
			c.send(from.Name, &frame.Closed{ID: id, Reason: frame.ReasonUnknown})
			return nil
		}
		if seq != h.seq {
			if !c.gaps {
				c.r.t.Errorf("%T for %d has seq %d, want %d", f, id, seq, h.seq)
			}
			c.close(from.Name, h, frame.ReasonGap)
			return nil
		}
		h.seq++
		return h
	}
	switch f := f.(type) {
	case *frame.Hold:
		h := take(f.ID, f.Seq)
		if h == nil {
			return
		}
		h.hold, h.mode, h.groups, h.record = f, f.Mode, f.Groups, f.Record
	case *frame.Update:
		if h := take(f.ID, f.Seq); h != nil {
			h.groups, h.record, h.update, h.placed = f.Groups, f.Record, f, nil
			if len(f.Body) > 0 {
				c.deliver(from.Name, &frame.Deliver{Pub: f.Pub, Mode: frame.ModeStream, Only: []uint64{h.id}, Body: f.Body})
			}
		}
	case *frame.Finish:
		if h := take(f.ID, f.Seq); h != nil {
			h.finish = f
			c.close(from.Name, h, frame.ReasonFinished)
		}
	case *frame.Retry:
		if h := take(f.ID, f.Seq); h != nil {
			h.retry = f
			c.close(from.Name, h, frame.ReasonReplaced)
		}
	case *frame.Deliver:
		c.deliver(from.Name, f)
	default:
		c.r.t.Errorf("connmgr got a %T", f)
	}
}

func (c *fakeConn) close(handler string, h *fakeHold, reason frame.Reason) {
	if !h.over {
		h.over = true
		c.send(handler, &frame.Closed{ID: h.id, Seq: 9, Reason: reason})
	}
}

func (c *fakeConn) deliver(from string, f *frame.Deliver) {
	o := frame.Outcome{Pub: f.Pub, Mode: f.Mode}
	give := func(h *fakeHold) {
		if h == nil || h.over || h.unclosed {
			return
		}
		o.Delivered++
		h.got = append(h.got, string(f.Body))
		h.deliver = append(h.deliver, f)
		if f.Channel != "" {
			h.placed = append(h.placed, frame.LastID{Channel: f.Channel, ID: f.ItemID})
		}
		if f.Mode == frame.ModeResponse || f.Action == frame.ActionClose {
			c.close(from, h, frame.ReasonFinished)
		}
	}
	if f.Group != "" {
		for _, h := range c.holds {
			if slices.Contains(h.groups, f.Group) && !slices.Contains(f.Except, h.id) {
				give(h)
			}
		}
	}
	for _, id := range f.Only {
		give(c.holds[id])
	}
	if !c.mute && o.Delivered > 0 {
		c.send(from, &frame.Report{Outcomes: []frame.Outcome{o}})
	}
}

// leave ends a hold from the client's side.
func (c *fakeConn) leave(h *fakeHold) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close("handler.0", h, frame.ReasonClientGone)
}

// get reads a hold under the lock.
func (c *fakeConn) get(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// fakeProxy hands exchanges over and answers fetches.
type fakeProxy struct {
	r    *rig
	name string
	node *bustest.Node
	stop func()

	mu       sync.Mutex
	accepted map[uint64]*frame.Accepted
	controls []*frame.Control
	fetches  []*frame.Fetch
	watch    bool // the handler wants to hear of connections
	serves   []frame.FoundConn
	// refreshed are the connections that Checks asked to refresh.
	refreshed []string
	mute      bool                              // no answer to Check
	answer    func(*frame.Fetch) *frame.Fetched // nil leaves a fetch unanswered
}

func (p *fakeProxy) start() {
	p.accepted = map[uint64]*frame.Accepted{}
	p.node = p.r.net.Node(p.name)
	p.stop = runNode(p.node, p)
}

func (p *fakeProxy) PeerUp(bus.Peer)                    {}
func (p *fakeProxy) PeerDown(bus.Peer)                  {}
func (p *fakeProxy) Broadcast(bus.Peer, string, []byte) {}

func (p *fakeProxy) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		p.r.t.Errorf("handler sent %v", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch f := f.(type) {
	case *frame.Accepted:
		p.accepted[f.X.ID] = f
	case *frame.Control:
		p.controls = append(p.controls, f)
	case *frame.Watch:
		p.watch = f.Conns
	case *frame.Check:
		if f.Refresh {
			p.refreshed = append(p.refreshed, f.IDs...)
		}
		a := &frame.Checked{Token: f.Token}
		for _, c := range p.serves {
			if slices.Contains(f.IDs, c.ID) {
				a.Found = append(a.Found, c)
			}
		}
		if !p.mute {
			_ = p.node.Send(from.Name, frame.Encode(a))
		}
	case *frame.Fetch:
		p.fetches = append(p.fetches, f)
		if p.answer != nil {
			if a := p.answer(f); a != nil {
				a.Token = f.Token
				_ = p.node.Send(from.Name, frame.Encode(a))
			}
		}
	default:
		p.r.t.Errorf("proxy got a %T", f)
	}
}

// offer makes an exchange at the fake connmgr and an Accept for it.
func (r *rig) offer(mode frame.Mode, channels ...frame.Channel) (*fakeHold, *frame.Accept) {
	c := r.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	h := &fakeHold{id: c.lastID, seq: 3}
	c.holds[h.id] = h
	return h, &frame.Accept{
		X: frame.XID{Conn: c.name, Boot: c.node.Boot(), ID: h.id}, SendSeq: 3, RecvSeq: 9, Mode: mode, Code: 200, Reason: "OK",
		Channels: channels, URI: "http://example.com/path", Route: "r1", ConnID: fmt.Sprint("0-0-", h.id), Method: "GET", Minor: 1,
	}
}

// hand sends the Accept and waits for the answer.
func (r *rig) hand(a *frame.Accept) *frame.Accepted {
	r.t.Helper()
	r.wait("the proxy knows the handler", func() bool { return r.proxy.node.Send("handler.0", frame.Encode(a)) == nil })
	var got *frame.Accepted
	r.wait("the handler answers Accept", func() bool {
		r.proxy.mu.Lock()
		defer r.proxy.mu.Unlock()
		got = r.proxy.accepted[a.X.ID]
		return got != nil
	})
	return got
}

// hold makes a hold and waits until it stands.
func (r *rig) hold(mode frame.Mode, channels ...frame.Channel) *fakeHold {
	r.t.Helper()
	return r.holdWith(mode, nil, channels...)
}

func (r *rig) holdWith(mode frame.Mode, change func(*frame.Accept), channels ...frame.Channel) *fakeHold {
	r.t.Helper()
	h, a := r.offer(mode, channels...)
	if change != nil {
		change(a)
	}
	if got := r.hand(a); !got.OK {
		r.t.Fatalf("not accepted: %+v", got)
	}
	r.wait("connmgr gets the Hold", func() (ok bool) {
		r.conn.get(func() { ok = h.hold != nil })
		return ok
	})
	return h
}

func ch(name string) frame.Channel { return frame.Channel{Name: name} }

// expect waits until a hold got exactly these bodies.
func (r *rig) expect(h *fakeHold, want ...string) {
	r.t.Helper()
	var got []string
	poll.For(poll.Patience, func() bool {
		r.conn.get(func() { got = slices.Clone(h.got) })
		return slices.Equal(got, want) || len(got) > len(want)
	})
	if !slices.Equal(got, want) {
		r.t.Fatalf("got %q, want %q", got, want)
	}
}

// flush waits until all that was published before has been dealt with: an item
// for a hold of its own goes the same way.
func (r *rig) flush() {
	r.t.Helper()
	h := r.hold(frame.ModeStream, ch("flush"))
	r.publish(`{"channel":"flush","http-stream":{"content":"."}}`)
	r.expect(h, ".")
	r.conn.leave(h)
	r.wait("the handler forgets the hold", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.index.Get("flush") == nil
	})
}

func stream(channel, content string) string {
	return fmt.Sprintf(`{"channel":%q,"http-stream":{"content":%q}}`, channel, content)
}
