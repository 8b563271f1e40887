package proxy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/frame"
)

// waitStats gathers what the handler is told until done says that it is enough.
func (r *rig) waitStats(done func(routes map[string]frame.RouteStats, conns []frame.ConnStat) bool) {
	r.t.Helper()
	routes := make(map[string]frame.RouteStats)
	var conns []frame.ConnStat
	deadline := time.After(patience)
	for !done(routes, conns) {
		select {
		case f := <-r.handler.stats:
			for _, s := range f.Routes {
				sum := routes[s.Route]
				sum.Route, sum.Open, sum.Most = s.Route, s.Open, max(sum.Most, s.Most)
				sum.Requests += s.Requests
				sum.Activity += s.Activity
				sum.Minutes += s.Minutes
				sum.Client.Add(s.Client)
				sum.Server.Add(s.Server)
				routes[s.Route] = sum
			}
			conns = append(conns, f.Conns...)
		case <-deadline:
			r.t.Fatalf("it did not come to what it should: %+v, %+v", routes, conns)
		}
	}
}

func TestStats(t *testing.T) {
	release := make(chan struct{})
	o := newOrigin(t, func(q *originRequest) (string, bool) {
		switch q.Target {
		case "/wait":
			<-release
		case "/hold":
			return ok("Grip-Hold: stream\nGrip-Channel: a", "x"), true
		}
		return "HTTP/1.1 200 OK\r\nX-A: 12\r\nContent-Length: 5\r\n\r\nhello", true
	})
	r := newRig(t, "h,id=r1 "+o.addr+"\n* "+o.addr, nil)
	if err := r.handler.node.Send("proxy.0", frame.Encode(&frame.Watch{Conns: true})); err != nil {
		t.Fatal(err)
	}
	x := r.conn.open(frame.Request{Method: "POST", URI: "/a", Host: "h", ConnID: "c1", Body: []byte("12"), BodyLen: 4, More: true})
	x.send(&frame.Body{Data: []byte("34")})
	x.finish()
	r.waitStats(func(routes map[string]frame.RouteStats, conns []frame.ConnStat) bool {
		s := routes["r1"]
		return s.Requests == 1 && s.Open == 0 && s.Server.ContentIn == 5 && s.Client.ContentOut == 5
	})
	// One that is sent again is an activity, but no new request.
	waiting := r.conn.open(frame.Request{URI: "/wait", Host: "h", ConnID: "c2", Scheme: "https", Peer: "192.0.2.1:99", Retry: true, Route: "r1"})
	var s frame.RouteStats
	var conns []frame.ConnStat
	r.waitStats(func(routes map[string]frame.RouteStats, c []frame.ConnStat) bool {
		s = routes["r1"]
		conns = slices.DeleteFunc(slices.Clone(c), func(c frame.ConnStat) bool { return c.ID != "c2" })
		return s.Open == 1 && len(conns) > 0
	})
	// POST /a Host h: 4+2, 4+1; 200 OK X-A 12 Content-Length 5: 3+2, 3+2, 14+1.
	want := frame.RouteStats{
		Route: "r1", Activity: 1, Open: 1, Most: 1,
		Client: frame.Traffic{HeaderIn: 3 + 5 + 5},
	}
	if d := cmp.Diff(want, s, cmpopts.IgnoreFields(frame.RouteStats{}, "Server")); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := cmp.Diff([]frame.ConnStat{{ID: "c2", Route: "r1", Peer: "192.0.2.1", TLS: true}}, conns); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	check := &frame.Check{Token: 9, IDs: []string{"c1", "c2", "none"}}
	if err := r.handler.node.Send("proxy.0", frame.Encode(check)); err != nil {
		t.Fatal(err)
	}
	found := within(t, r.handler.checked)
	if d := cmp.Diff(&frame.Checked{Token: 9, Found: []frame.FoundConn{{ID: "c2", X: frame.XID{Conn: "connmgr.0", Boot: r.conn.node.Boot(), ID: waiting.id}}}}, found); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	check = &frame.Check{Token: 10, IDs: []string{"c2"}, Refresh: true}
	if err := r.handler.node.Send("proxy.0", frame.Encode(check)); err != nil {
		t.Fatal(err)
	}
	if found := within(t, r.handler.checked); found.Token != 10 || len(found.Found) != 0 {
		t.Errorf("a request over HTTP can be refreshed: %+v", found)
	}

	// What the handler takes over is the handler's to tell of.
	r.conn.open(frame.Request{URI: "/hold", Host: "h", ConnID: "c3"})
	within(t, r.handler.accepts)
	close(release)
	waiting.finish()
	r.waitStats(func(routes map[string]frame.RouteStats, c []frame.ConnStat) bool {
		conns = c
		return routes["r1"].Open == 0 && slices.ContainsFunc(c, func(c frame.ConnStat) bool { return c.ID == "c2" && c.Gone })
	})
	for _, c := range conns {
		if c.ID == "c3" && c.Gone {
			t.Errorf("said to be gone: %+v", c)
		}
	}
}

func TestStatsOfBytes(t *testing.T) {
	o := newOrigin(t, answering("HTTP/1.1 200 OK\r\nX-A: 12\r\nContent-Length: 5\r\n\r\nhello"))
	r := newRig(t, "* "+o.addr, nil)
	x := r.conn.open(frame.Request{Method: "POST", URI: "/a", Host: "h", Body: []byte("12"), BodyLen: 4, More: true})
	x.send(&frame.Body{Data: []byte("34")})
	x.finish()
	var s frame.RouteStats
	r.waitStats(func(routes map[string]frame.RouteStats, _ []frame.ConnStat) bool {
		s = routes[""]
		return s.Requests == 1 && s.Open == 0 && s.Server.ContentIn == 5 && s.Client.ContentOut == 5 && s.Server.ContentOut == 4
	})
	req := within(t, o.reqs)
	want := frame.RouteStats{
		Requests: 1, Activity: 1, Most: 1, Minutes: 1,
		// POST /a Host h; 200 OK X-A 12 Content-Length 5
		Client: frame.Traffic{HeaderIn: 6 + 5, HeaderOut: 5 + 5 + 15, ContentIn: 4, ContentOut: 5},
		Server: frame.Traffic{HeaderIn: 5 + 5 + 15, HeaderOut: s.Server.HeaderOut, ContentIn: 5, ContentOut: 4},
	}
	if d := cmp.Diff(want, s); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if n := s.Server.HeaderOut; n < 6+5+100 || n > headerSize(len(req.Method)+len(req.Target), req.Header) {
		t.Errorf("%d bytes of header to the origin, which got\n%s", n, text(req.Header))
	}
}

// While nobody watches, single connections are not told of.
func TestWatch(t *testing.T) {
	r := newRig(t, "* test", nil)
	for i, watch := range []bool{false, true, false} {
		if err := r.handler.node.Send("proxy.0", frame.Encode(&frame.Watch{Conns: watch})); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("c", i)
		r.conn.open(frame.Request{URI: "/", ConnID: id}).finish()
		sum := 0
		r.waitStats(func(routes map[string]frame.RouteStats, conns []frame.ConnStat) bool {
			sum = len(conns)
			return routes[""].Requests == 1 && routes[""].Open == 0 && (!watch || sum == 2)
		})
		if !watch && sum != 0 {
			t.Errorf("%d connections were told of", sum)
		}
	}
	// A handler that goes does not watch any more.
	r.srv.watched(r.srv.opts.Bus.Peers("handler")[0], &frame.Watch{Conns: true})
	r.srv.PeerDown(r.srv.opts.Bus.Peers("handler")[0])
	if r.srv.stats.watcher.Boot != 0 {
		t.Error("it is still told")
	}
}
