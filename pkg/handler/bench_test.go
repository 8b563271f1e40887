package handler

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
)

// counter is a connmgr that only counts publications and reports them.
type counter struct {
	node  *bustest.Node
	n     atomic.Int64
	held  atomic.Int64 // holds that it was told of
	bytes atomic.Int64 // of their frames
	quiet atomic.Bool  // report nothing, and decode nothing
}

func (c *counter) PeerDown(bus.Peer)                  {}
func (c *counter) Broadcast(bus.Peer, string, []byte) {}
func (c *counter) PeerUp(p bus.Peer) {
	if p.Kind() == "handler" {
		_ = c.node.Send(p.Name, frame.Encode(&frame.Records{Done: true}))
	}
}

func (c *counter) Receive(from bus.Peer, b []byte) {
	if typ, _ := frame.TypeOf(b); typ == frame.TypeDeliver && c.quiet.Load() {
		c.bytes.Add(int64(len(b)))
		c.n.Add(1)
		return
	}
	f, err := frame.Decode(b)
	if err != nil {
		panic(err)
	}
	switch d := f.(type) {
	case *frame.Hold:
		c.held.Add(1)
	case *frame.Deliver:
		c.n.Add(1)
		_ = c.node.Send(from.Name, frame.Encode(&frame.Report{Outcomes: []frame.Outcome{{Pub: d.Pub, Mode: d.Mode, Delivered: 1}}}))
	}
}

// crowd makes n stream holds at a connmgr that only counts, each on a channel of
// its own, or all on the same if shared.
func crowd(t testing.TB, r *rig, n int, change func(i int, a *frame.Accept)) *counter {
	c := &counter{node: r.net.Node("connmgr.9")}
	t.Cleanup(runNode(c.node, c))
	r.wait("connmgr is known", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.peers["connmgr.9"] != nil
	})
	for i := range n {
		a := &frame.Accept{
			X: frame.XID{Conn: "connmgr.9", Boot: c.node.Boot(), ID: uint64(i)}, Mode: frame.ModeStream, Code: 200, Reason: "OK",
			Channels: []frame.Channel{{Name: fmt.Sprint("channel-", i)}}, URI: "http://example.com/stream/" + fmt.Sprint(i),
			Method: "GET", Minor: 1, ConnID: fmt.Sprint("0-0-", i), Route: "route-1", Peer: "10.0.0.1",
			Header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Date", Value: "Thu, 01 Jan 1970 00:00:00 GMT"}},
		}
		if change != nil {
			change(i, a)
		}
		r.s.Receive(bus.Peer{Name: "proxy.0", Boot: r.proxy.node.Boot()}, frame.Encode(a))
	}
	return c
}

// BenchmarkHold takes a hold over and sees it end, with the statistics on that
// nobody listens to.
func BenchmarkHold(b *testing.B) {
	r := newRig(b, func(o *Options) { o.Stats = "ipc://" + b.TempDir() + "/stats" })
	r.wait("statistics are told", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.stats.send != nil
	})
	c := crowd(b, r, 0, nil)
	a := &frame.Accept{
		X: frame.XID{Conn: "connmgr.9", Boot: c.node.Boot()}, Mode: frame.ModeStream, Code: 200, Reason: "OK",
		Channels: []frame.Channel{{Name: "channel"}}, URI: "http://example.com/stream", Method: "GET", Minor: 1, ConnID: "0-0-1", Peer: "10.0.0.1",
	}
	from, proxy := bus.Peer{Name: "connmgr.9", Boot: c.node.Boot()}, bus.Peer{Name: "proxy.0", Boot: r.proxy.node.Boot()}
	b.ReportAllocs()
	for b.Loop() {
		a.X.ID++
		r.s.Receive(proxy, frame.Encode(a))
		r.s.Receive(from, frame.Encode(&frame.Closed{ID: a.X.ID, Reason: frame.ReasonClientGone}))
	}
}

// BenchmarkPublishHTTP publishes to 5,000 channels with one listener each, over
// the control API, one connection for each publish, and waits for the frames.
func BenchmarkPublishHTTP(b *testing.B) {
	const channels, publishers = 5000, 8
	r := newRig(b, func(o *Options) { o.now = time.Now })
	c := crowd(b, r, channels, nil)
	addr := r.s.HTTPAddr().String()
	requests := make([][]byte, channels)
	for i := range requests {
		body := fmt.Sprintf(`{"items":[{"channel":"channel-%d","formats":{"http-stream":{"content":"%s\n"}}}]}`, i, strings.Repeat("x", 100))
		requests[i] = fmt.Appendf(nil, "POST /publish/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			buf := make([]byte, 512)
			for {
				i := int(next.Add(1)) - 1
				if i >= b.N {
					return
				}
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := conn.Write(requests[i%channels]); err != nil {
					b.Error(err)
				}
				if _, err := io.ReadFull(conn, buf[:15]); err != nil || string(buf[9:12]) != "200" {
					b.Errorf("%q, %v", buf[:15], err)
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
	r.wait("all are delivered", func() bool { return c.n.Load() >= int64(b.N) })
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
}

// BenchmarkPublish is the same without the sockets: from the bytes of a batch to
// the frame on the bus.
func BenchmarkPublish(b *testing.B) {
	const channels = 5000
	r := newRig(b, func(o *Options) { o.now = time.Now })
	crowd(b, r, channels, nil)
	requests := make([]*request, channels)
	for i := range requests {
		requests[i] = &request{method: "POST", uri: "/publish/", version: "HTTP/1.1", body: fmt.Appendf(nil,
			`{"items":[{"channel":"channel-%d","formats":{"http-stream":{"content":"%s\n"}}}]}`, i, strings.Repeat("x", 100))}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_, batch := r.s.respond(requests[i%channels])
		r.s.publish(intakeHTTP, batch.Items...)
		i++
	}
}

// A publication is one frame for each connmgr, little larger than the message, and
// costs the same for one subscriber and for many.
func TestPublishCost(t *testing.T) {
	const runs = 200
	message := []byte(strings.Repeat("x", 100))
	var allocs []float64
	for _, n := range []int{1, 2000} {
		r := newRig(t, func(o *Options) { o.now = time.Now })
		c := crowd(t, r, n, func(_ int, a *frame.Accept) { a.Channels[0].Name = "all" })
		r.wait("all are held, and the others have read that", func() bool {
			r.proxy.mu.Lock()
			defer r.proxy.mu.Unlock()
			return c.held.Load() == int64(n) && len(r.proxy.accepted) == n
		})
		c.quiet.Store(true)
		allocs = append(allocs, testing.AllocsPerRun(runs, func() {
			r.s.publish(intakePull, &publish.Item{Channel: "all", Stream: &publish.Format{Body: message}})
		}))
		const published = runs + 1 // AllocsPerRun warms up
		r.wait("all frames are there", func() bool { return c.n.Load() >= published })
		if got := c.n.Load(); got != published {
			t.Errorf("%d subscribers: %d frames for %d publications", n, got, published)
		}
		if each := c.bytes.Load() / published; each > int64(len(message))+64 {
			t.Errorf("%d subscribers: a frame of %d bytes for a message of %d", n, each, len(message))
		}
	}
	t.Logf("%v allocations", allocs)
	// The far end's share, which comes when it comes, is in it.
	if allocs[0] > 10 || allocs[1] > allocs[0]+5 {
		t.Errorf("%v allocations for one subscriber, %v for 2,000", allocs[0], allocs[1])
	}
}

// TestHoldMemory says what a hold costs, and keeps it from growing unseen.
func TestHoldMemory(t *testing.T) {
	const n = 20000
	for _, c := range []struct {
		name   string
		limit  int
		change func(i int, a *frame.Accept)
	}{
		{"stream, own channel", 1024, nil},
		{"stream, one channel", 512, func(_ int, a *frame.Accept) { a.Channels[0].Name = "all" }},
		{"poll, one channel, body", 512, func(_ int, a *frame.Accept) {
			a.Channels[0].Name, a.Mode, a.Body = "all", frame.ModeResponse, []byte(`{"items":[]}`)
		}},
		{"stream with prev-id and next link", 2560, func(_ int, a *frame.Accept) {
			a.Channels[0].HasPrevID, a.Channels[0].PrevID = true, "12345"
			a.Next = frame.Link{URI: a.URI + "?next", Millis: 30000}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			heap := func() uint64 {
				var m runtime.MemStats
				for range 2 {
					runtime.GC()
				}
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before := heap()
			crowd(t, r, n, c.change)
			r.wait("the frames have left", func() bool { return len(r.s.peers["connmgr.9"].holds) == n })
			each := int(heap()-before) / n
			t.Logf("%d bytes", each)
			if each > c.limit {
				t.Errorf("a hold costs %d bytes, want at most %d", each, c.limit)
			}
			runtime.KeepAlive(r.s)
		})
	}
}

// BenchmarkFanOut is one item for 10,000 subscribers of a channel, up to the
// frames on the bus.
func BenchmarkFanOut(b *testing.B) {
	for _, c := range []struct {
		name    string
		channel frame.Channel
	}{
		{"plain", frame.Channel{Name: "all"}},
		{"skip-self", frame.Channel{Name: "all", Filters: []string{"skip-self"}}},
		{"var-subst", frame.Channel{Name: "all", Filters: []string{"var-subst"}}},
		{"prev-id", frame.Channel{Name: "all", HasPrevID: true}},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, func(o *Options) { o.now = time.Now })
			crowd(b, r, 10000, func(i int, a *frame.Accept) {
				a.Channels[0] = c.channel
				a.Meta = []frame.Field{{Name: "user", Value: fmt.Sprint("user-", i%100)}}
				if c.channel.HasPrevID {
					a.Next.URI = "http://example.com/next"
				}
			})
			b.ReportAllocs()
			last := ""
			for i := 0; b.Loop(); i++ {
				it := &publish.Item{
					Channel: "all", ID: fmt.Sprint(i), HasID: c.channel.HasPrevID, PrevID: last,
					Meta: map[string]string{"sender": "user-1"}, Stream: &publish.Format{Body: []byte("hello %(user)s")},
				}
				last = it.ID
				r.s.publish(intakePull, it)
			}
		})
	}
}
