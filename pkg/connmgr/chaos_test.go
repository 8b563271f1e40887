package connmgr

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

// Clients of all kinds come and go while proxies and handlers are killed. In the
// end nothing is left of them, and each publication is accounted for.
func TestNothingIsLeft(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBacklog = 10_000; o.PeerWait = patience })
	var handler atomic.Pointer[far]
	var accounted atomic.Int64
	var ended atomic.Int64 // connections
	proxy := func(f *far, got frame.Frame) bool {
		f.mortal = true
		req, ok := got.(*frame.Request)
		if !ok {
			return true
		}
		h := handler.Load()
		switch {
		case h == nil || strings.HasPrefix(req.URI, "/plain"):
			return echo(f, got)
		case strings.HasPrefix(req.URI, "/lost"):
		case strings.HasPrefix(req.URI, "/stream"):
			hold := h.stream("i", "g", req.URI)
			hold.ID = req.ID
			_ = h.node.Send("connmgr.0", frame.Encode(&hold))
		default:
			hold := h.response("r", req.URI)
			hold.ID, hold.Millis = req.ID, 50
			_ = h.node.Send("connmgr.0", frame.Encode(&hold))
			if rand.IntN(4) == 0 && !req.Retry {
				_ = h.node.Send("connmgr.0", frame.Encode(&frame.Retry{ID: req.ID, Seq: 1}))
			}
		}
		return true
	}
	do := func(f *far, got frame.Frame) bool {
		if rep, ok := got.(*frame.Report); ok {
			for _, o := range rep.Outcomes {
				accounted.Add(int64(o.Delivered))
				for _, d := range o.Dropped {
					accounted.Add(int64(d.N))
				}
			}
		}
		return true
	}
	r.far("proxy.0", proxy)
	r.far("proxy.1", proxy)
	handler.Store(r.far("handler.0", do))

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("tcp", r.addr)
				if err != nil {
					t.Error(err)
					return
				}
				br := bufio.NewReader(nc)
				for range 1 + rnd.IntN(4) {
					path := []string{"/plain", "/stream", "/poll", "/lost"}[rnd.IntN(4)]
					if _, err := fmt.Fprintf(nc, "GET %s%d HTTP/1.%d\r\nHost: h\r\nConnection: keep-alive\r\n\r\n", path, i, rnd.IntN(2)); err != nil {
						break
					}
					_ = nc.SetReadDeadline(time.Now().Add(time.Duration(rnd.IntN(60)) * time.Millisecond))
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						break
					}
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if err != nil {
						break
					}
				}
				switch rnd.IntN(3) {
				case 0:
					_ = nc.(*net.TCPConn).SetLinger(0)
				case 1:
					_ = nc.(*net.TCPConn).CloseWrite()
				}
				_ = nc.Close()
				ended.Add(1)
			}
		})
	}
	wg.Go(func() {
		for pub := uint64(1); ; pub++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			h := handler.Load()
			if h == nil {
				continue
			}
			for _, d := range []*frame.Deliver{
				publish(pub, "g", string(repeat("x", rand.IntN(3000)))),
				{Pub: pub, Mode: frame.ModeResponse, Group: "r", Body: []byte("answer")},
				{Pub: pub, Mode: frame.ModeStream, Action: frame.ActionClose, Group: fmt.Sprintf("/stream%d", rand.IntN(30))},
			} {
				_ = h.node.Send("connmgr.0", frame.Encode(d))
			}
		}
	})
	for i := range 8 {
		// Let it run for a while.
		ends, counted := ended.Load()+100, accounted.Load()
		poll.Until(t, "clients to come and go, and outcomes", func() bool { return ended.Load() >= ends && accounted.Load() > counted })
		name := []string{"proxy.0", "handler.0", "proxy.1", "handler.0"}[i%4]
		if name == "handler.0" {
			handler.Store(nil)
		}
		r.net.Kill(name)
		if name == "handler.0" {
			handler.Store(r.far(name, do))
		} else {
			r.far(name, proxy)
		}
	}
	close(stop)
	wg.Wait()
	// Each of these goes by itself, in no order.
	poll.Works(t, "nothing left", func() error {
		r.s.mu.Lock()
		left := map[string]int{"exchanges": len(r.s.exchanges)}
		for _, p := range r.s.proxies {
			left["exchanges of "+p.Name] = int(p.open.Load())
		}
		r.s.mu.Unlock()
		left["connections"] = r.s.open()
		left["slots"] = len(r.s.slots)
		left["groups"] = r.s.groups.len()
		left["streams"] = r.holds(frame.ModeStream)
		left["polls"] = r.holds(frame.ModeResponse)
		left["backlog"] = int(counterValue(r.s.metrics.backlog))
		for what, n := range left {
			if n != 0 {
				return fmt.Errorf("%d %s", n, what)
			}
		}
		return nil
	})
	if n := counterValue(r.s.metrics.panics); n != 0 {
		t.Errorf("%v panics", n)
	}
	if accounted.Load() == 0 {
		t.Error("nothing was published")
	}
}
