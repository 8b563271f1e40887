package handler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unique"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// listen collects what the stats socket says.
func listen(t *testing.T, spec string) func() []map[string]any {
	t.Helper()
	sub, err := bus.NewSub(bus.SocketOptions{Name: "test", Connect: []string{spec}})
	if err != nil {
		t.Fatal(err)
	}
	sub.Subscribe("")
	from := fmt.Sprintf("handler_%d", os.Getpid())
	var mu sync.Mutex
	var all []map[string]any
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			parts, err := sub.Recv(ctx)
			if err != nil {
				return
			}
			kind, rest, _ := bytes.Cut(parts[0], []byte(" "))
			var m map[string]any
			if rest[0] == 'J' {
				err = json.Unmarshal(rest[1:], &m)
			} else {
				var v any
				v, err = tnet.Decode(rest[1:])
				m, _ = v.(map[string]any)
			}
			if err != nil || len(parts) != 1 || m["from"] != from {
				t.Errorf("got %q, %v", parts, err)
				continue
			}
			m["kind"] = string(kind)
			mu.Lock()
			all = append(all, m)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-done; sub.Close() })
	return func() []map[string]any {
		mu.Lock()
		defer mu.Unlock()
		return append([]map[string]any(nil), all...)
	}
}

func TestStats(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		t.Run(fmt.Sprint("json ", asJSON), func(t *testing.T) {
			r := newRig(t, sockets(t), func(o *Options) { o.StatsJSON, o.MessageBlockSize = asJSON, 10 })
			said := listen(t, r.opt.Stats)
			// find returns what was said of a kind, with these fields.
			find := func(kind string, fields ...any) (found map[string]any) {
				for _, m := range said() {
					ok := m["kind"] == kind
					for i := 0; i < len(fields); i += 2 {
						ok = ok && fmt.Sprint(m[fields[i].(string)]) == fmt.Sprint(fields[i+1])
					}
					if ok {
						found = m
					}
				}
				return found
			}
			wait := func(kind string, fields ...any) {
				t.Helper()
				r.wait(fmt.Sprint(kind, fields), func() bool { return find(kind, fields...) != nil })
			}
			r.wait("the listener is subscribed", func() bool {
				h := r.hold(frame.ModeStream, ch("warm"))
				defer r.conn.leave(h)
				return find("sub", "channel", "warm") != nil
			})
			r.wait("the proxy is to tell of connections", func() bool {
				r.proxy.mu.Lock()
				defer r.proxy.mu.Unlock()
				return r.proxy.watch
			})
			tell := func(f *frame.Stats) { _ = r.proxy.node.Send("handler.0", frame.Encode(f)) }
			tell(&frame.Stats{
				Routes: []frame.RouteStats{
					{Route: "r1", Requests: 1, Activity: 2, Open: 3, Most: 4, Minutes: 1, Client: frame.Traffic{HeaderIn: 10, MessagesOut: 3}},
					{Requests: 1, Server: frame.Traffic{ContentIn: 7}},
				},
				Conns: []frame.ConnStat{{ID: "p1", Route: "r1", Peer: "192.0.2.9", WebSocket: true, TLS: true}, {ID: "p2", Peer: "192.0.2.8"}},
			})
			wait("conn", "id", "p1", "type", "ws", "peer-address", "192.0.2.9", "route", "r1", "ttl", 120, "ssl", true)
			wait("conn", "id", "p2", "type", "http", "peer-address", "192.0.2.8", "ssl", nil)
			tell(&frame.Stats{Conns: []frame.ConnStat{{ID: "p2", Gone: true}}})
			wait("conn", "id", "p2", "unavailable", true)
			wait("activity", "route", "r1", "count", 2)
			wait("counts", "requests-received", 2)
			h := r.holdWith(frame.ModeStream, func(a *frame.Accept) { a.Peer, a.RouteNamed, a.TLS = "192.0.2.1", true, true }, ch("a"))
			r.hold(frame.ModeStream, ch("a"))
			poll := r.hold(frame.ModeResponse, ch("a"))
			wait("conn", "id", fmt.Sprint("0-0-", h.id), "type", "http", "peer-address", "192.0.2.1", "route", "r1", "ttl", 120, "ssl", true)
			wait("sub", "channel", "a", "mode", "stream", "subscribers", 1, "ttl", 60)
			r.conn.send("handler.0", &frame.Report{Alive: []uint64{h.id, h.id, h.id, 99999}})
			wait("activity", "route", "r1", "count", 3)
			wait("sub", "channel", "a", "mode", "response", "subscribers", 1)
			r.publish(`{"channel":"a","id":"7","formats":{"http-stream":{"content":"twelve bytes"},"http-response":{"body":""}}}`)
			wait("message", "channel", "a", "count", 2, "transport", "http-stream", "item-id", "7", "blocks", 4)
			wait("message", "channel", "a", "count", 1, "transport", "http-response", "item-id", "7", "blocks", 1)
			r.expect(poll, "")
			wait("conn", "id", fmt.Sprint("0-0-", poll.id), "unavailable", true)
			r.clock.advance(10 * time.Second)
			// Of the proxy's three connections one became a hold.
			wait("report", "route", "r1", "sent", 1, "connections", 4, "blocks-sent", 2, "client-header-bytes-received", 10,
				"client-messages-sent", 3, "client-content-bytes-sent", 12, "client-header-bytes-sent", 5)
			wait("report", "received", 1, "sent", 2, "http-response-sent", 1, "server-content-bytes-received", 7)
			r.s.mu.Lock()
			if rs := r.s.stats.route(unique.Make("r1")); rs.conns != 3 {
				t.Errorf("%d connections, want 3", rs.conns)
			}
			r.s.mu.Unlock()
			r.conn.leave(h)
			if find("sub", "channel", "a", "mode", "response", "unavailable", true) != nil {
				t.Error("the channel lingers for long-polls, but was said to be gone")
			}
			r.clock.advance(61 * time.Second)
			wait("sub", "channel", "a", "mode", "stream", "subscribers", 1)
			before := len(said())
			r.wait("connections are told of again", func() bool {
				n := 0
				for _, m := range said()[before:] {
					if m["kind"] == "conn" && m["id"] == "p1" {
						n++
					}
				}
				r.clock.advance(10 * time.Second)
				return n > 0
			})
			r.proxy.stop()
			wait("conn", "id", "p1", "unavailable", true)
			r.proxy.start()
			for _, h := range r.conn.holds {
				r.conn.leave(h)
			}
			wait("sub", "channel", "a", "mode", "stream", "unavailable", true)
			wait("sub", "channel", "a", "mode", "response", "unavailable", true)
			if n := r.metric("connection_minute", ""); n < 1 {
				t.Errorf("%v minutes, want at least the proxy's", n)
			}
			if n := r.metric("request_received", ""); n != 2 {
				t.Errorf("%v requests, want the proxy's 2", n)
			}
		})
	}
}

// FuzzControlRequest: whatever comes, the answer is a response of ours, and no
// more is read than the limits allow.
func FuzzControlRequest(f *testing.F) {
	f.Add("POST /publish/ HTTP/1.1\r\nContent-Length: 12\r\n\r\n{\"items\":[]}")
	f.Add("GET / HTTP/1.0\n\n")
	f.Add("POST /recover HTTP/1.1\r\nContent-Length: 1\r\nAccept: application/json\r\nExpect: 100-continue\r\n\r\n{")
	s, err := New(Options{
		Bus: deadBus{}, HTTPMaxHeader: 200, HTTPMaxBody: 100, HTTPMaxConns: 1, HTTPTimeout: time.Second, SubscriptionMax: 1,
		StatsReportInterval: time.Second, StatsSubscriptionTTL: time.Second, StatsConnectionTTL: time.Second, WebhookTimeout: time.Second,
	})
	if err != nil {
		f.Fatal(err)
	}
	close(s.ready)
	f.Fuzz(func(t *testing.T, in string) {
		req := request{version: "HTTP/1.1"}
		var interim strings.Builder
		res, err := s.readRequest(bufio.NewReader(strings.NewReader(in)), &interim, &req)
		if err != nil {
			return
		}
		if len(req.body) > 100 {
			t.Fatalf("%d bytes of body were read", len(req.body))
		}
		if res == nil {
			var items int
			r, batch := s.respond(&req)
			res, items = r, len(batch.Items)
			if items > 0 && res.code != 200 {
				t.Fatalf("%d items with status %d", items, res.code)
			}
		}
		out := string(res.bytes(&req))
		if !strings.HasPrefix(out, req.version+" ") || statusText[res.code] == "" || strings.Count(out, "\r\n\r\n") < 1 {
			t.Fatalf("answer %q", out)
		}
	})
}

// FuzzCommand: a command is answered with a tnetstring, or not at all.
func FuzzCommand(f *testing.F) {
	for _, m := range []string{"publish", "recover", "refresh", "conncheck", "get-zmq-uris", "sing"} {
		f.Add(tnet.Append(nil, map[string]any{"method": m, "id": "1", "args": map[string]any{"items": []any{}, "ids": []any{"x"}, "cid": "x", "channel": "x"}}))
	}
	s, err := New(Options{
		Bus: deadBus{}, HTTPMaxHeader: 200, HTTPMaxBody: 100, HTTPMaxConns: 1, HTTPTimeout: time.Second, SubscriptionMax: 1,
		StatsReportInterval: time.Second, StatsSubscriptionTTL: time.Second, StatsConnectionTTL: time.Second, WebhookTimeout: time.Second,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out []byte
		ok := s.command(in, func(answer []byte) { out = answer })
		if !ok {
			if out != nil {
				t.Fatal("an answer to what cannot be read")
			}
			return
		}
		v, err := tnet.Decode(out)
		m, isDict := v.(map[string]any)
		success, isBool := m["success"].(bool)
		_, failed := m["condition"]
		if err != nil || !isDict || !isBool || success == failed {
			t.Fatalf("answer %q", out)
		}
	})
}

// deadBus is a bus without peers.
type deadBus struct{}

func (deadBus) Name() string                            { return "handler.0" }
func (deadBus) Boot() uint64                            { return 1 }
func (deadBus) Send(string, []byte) error               { return bus.ErrNoPeer }
func (deadBus) Publish(string, []byte)                  {}
func (deadBus) Written(string) <-chan struct{}          { return nil }
func (deadBus) Peers(string) []bus.Peer                 { return nil }
func (deadBus) Expected(string) []string                { return nil }
func (deadBus) Ended(bus.Peer) bool                     { return false }
func (deadBus) Run(context.Context, bus.Receiver) error { return nil }

// Statistics of single connections, subscriptions and messages are not made while
// nobody listens.
func TestStatsForNobody(t *testing.T) {
	r := newRig(t, sockets(t))
	var made []string // guarded by Server.mu
	r.wait("the socket is there", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		if r.s.stats.send == nil {
			return false
		}
		r.s.stats.send = func(kind string, _ map[string]any) {
			if kind == "conn" || kind == "sub" || kind == "message" {
				made = append(made, kind)
			}
		}
		return true
	})
	h := r.hold(frame.ModeStream, ch("a"))
	r.publish(stream("a", "x"))
	r.expect(h, "x")
	r.s.mu.Lock()
	r.clock.advance(time.Hour)
	r.s.stats.sweep(r.clock.Now())
	r.s.mu.Unlock()
	r.conn.leave(h)
	r.wait("the hold is forgotten", func() bool { return r.metric("holdfast_handler_holds", "") == 0 })
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if made != nil {
		t.Errorf("made %q", made)
	}
}
