package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const statsSource = "operations, statistics"

// statistics is what the stats socket says, in order.
type statistics struct {
	t *T
	s *socket
}

// Statistics subscribes to all statistics, and waits until it hears of connections
// on a route, which requests for /warm-up of this case are to take.
func (t *T) Statistics(route string) *statistics {
	s, err := dialSocket(t.ctx, t.Proxy.Stats, "SUB")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.conns = append(t.conns, s.conn)
	if err := s.send("\x01"); err != nil {
		t.Fatalf("subscribing: %v", err)
	}
	st := &statistics{t, s}
	// Nobody says when the subscription is in force. Whatever comes shows it.
	ctx, stop := context.WithCancel(t.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.Proxy.HTTP+"/warm-up", nil)
			if err == nil {
				req.Host = t.host()
				if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
					_ = res.Body.Close()
				}
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	st.wait("conn", has("route", route))
	stop()
	<-done
	return st
}

// wait returns the next statistic of a kind that ok, if not nil, is content with.
func (st *statistics) wait(kind string, ok func(map[string]any) bool) map[string]any {
	for {
		_ = st.s.conn.SetReadDeadline(st.t.deadline())
		parts, err := st.s.receive()
		if err != nil {
			st.t.Fatalf("no statistic %s came: %v", kind, plain(err))
		}
		got, payload, _ := strings.Cut(strings.Join(parts, ""), " ")
		text, isTnet := strings.CutPrefix(payload, "T")
		v, rest, err := untnet(text)
		m, isDict := v.(map[string]any)
		if len(parts) != 1 || !isTnet || err != nil || rest != "" || !isDict {
			st.t.Fatalf("got the statistic %q", parts)
		}
		if from, _ := m["from"].(string); !strings.Contains(from, "handler_") {
			st.t.Fatalf("%s is from %q", got, from)
		}
		if got == kind && (ok == nil || ok(m)) {
			return m
		}
	}
}

func keys(m map[string]any) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }

func has(field string, value any) func(map[string]any) bool {
	return func(m map[string]any) bool { return m[field] == value }
}

// statsCases are about the stats socket. Each has a proxy of its own, since the
// statistics of others would be among what it reads.
func statsCases() []*Case {
	named := []string{"{host},id={id} {origin}", "{host},path_beg=/warm-up,id=warm-up {origin}"}
	short := []string{"handler/stats_report_interval=1"}
	return []*Case{
		{
			ID: "stats-request", Title: "statistics of a request that is answered at once", Source: statsSource, Alone: true, Set: short, Routes: named,
			Run: func(t *T) {
				t.Within(15 * time.Second)
				t.Always(reply("200 OK", plainText, "12345"))
				st := t.Statistics("warm-up")
				t.Get("/")
				conn := st.wait("conn", func(m map[string]any) bool { return m["unavailable"] == nil && m["route"] == "stats-request" })
				t.Equal("fields of conn", keys(conn), "from id peer-address route ttl type")
				t.Equal("type", fmt.Sprint(conn["type"]), "http")
				t.Equal("ttl", fmt.Sprint(conn["ttl"]), "120")
				st.wait("conn", func(m map[string]any) bool { return m["unavailable"] == true && m["id"] == conn["id"] })
				counts := st.wait("counts", nil)
				t.Equal("fields of counts", keys(counts), "from requests-received")
				report := st.wait("report", func(m map[string]any) bool {
					n, _ := m["client-content-bytes-sent"].(int)
					return m["route"] == "stats-request" && n > 0
				})
				t.Equal("fields of report", keys(report), "client-content-bytes-received client-content-bytes-sent client-header-bytes-received "+
					"client-header-bytes-sent client-messages-received client-messages-sent connections duration from http-response-sent minutes "+
					"received route sent server-content-bytes-received server-content-bytes-sent server-header-bytes-received "+
					"server-header-bytes-sent server-messages-received server-messages-sent")
			},
		},
		{
			ID: "stats-conncheck", Title: "conncheck knows a request that waits for its origin", Source: "operations, command socket", Alone: true,
			Routes: named,
			Run: func(t *T) {
				t.Within(15 * time.Second)
				release := make(chan struct{})
				answer := sync.OnceFunc(func() { close(release) })
				defer answer()
				t.Origin(func(x *Exchange) {
					if strings.HasPrefix(x.Line, "GET /slow ") {
						<-release
					}
					x.Send(reply("200 OK", plainText, "hi"))
				})
				st := t.Statistics("warm-up")
				c := t.Dial()
				c.Send(t.request("GET /slow"))
				id := st.wait("conn", has("route", "stats-conncheck"))["id"]
				known := t.Command("conncheck", tmap{{"ids", []any{id, "nobody:0"}}})
				t.Equal("value", fmt.Sprint(known["value"]), fmt.Sprint([]any{id}))
				answer()
				t.Equal("body", c.Read("GET").Body, "hi")
				st.wait("conn", func(m map[string]any) bool { return m["unavailable"] == true && m["id"] == id })
			},
		},
		{
			ID: "stats-stream", Title: "statistics of a stream and a publish", Source: statsSource, Alone: true, Set: short, Routes: named,
			Run: func(t *T) {
				t.Within(15 * time.Second)
				ch := t.Ch("c")
				t.Always(reply("200 OK", plainText, "hi"))
				st := t.Statistics("warm-up")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.stream("/", ch)
				sub := st.wait("sub", has("channel", ch))
				t.Equal("fields of sub", keys(sub), "channel from mode subscribers ttl")
				t.Equal("mode", fmt.Sprint(sub["mode"]), "stream")
				t.Equal("subscribers", fmt.Sprint(sub["subscribers"]), "1")
				t.Equal("ttl", fmt.Sprint(sub["ttl"]), "60")
				t.Publish(streamItem(ch, "x", `"id":"7"`))
				c.Next(r, "x")
				message := st.wait("message", has("channel", ch))
				t.Equal("fields of message", keys(message), "channel count from item-id transport")
				t.Equal("count", fmt.Sprint(message["count"]), "1")
				t.Equal("item-id", fmt.Sprint(message["item-id"]), "7")
				t.Equal("transport", fmt.Sprint(message["transport"]), "http-stream")
				report := st.wait("report", has("sent", 1))
				t.Equal("http-response-sent", fmt.Sprint(report["http-response-sent"]), "0")
				c.Close()
				gone := st.wait("sub", func(m map[string]any) bool { return m["channel"] == ch && m["unavailable"] != nil })
				t.Equal("fields of sub", keys(gone), "channel from mode unavailable")
			},
		},
	}
}
