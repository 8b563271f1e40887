package zurl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/outbound"
	"github.com/holdfast/holdfast/pkg/tnet"
	"github.com/holdfast/holdfast/pkg/zhttp"
	"github.com/holdfast/holdfast/test/poll"
)

// dict is a packet.
type dict = map[string]any

func with(d dict, more dict) dict {
	out := maps.Clone(d)
	maps.Copy(out, more)
	return out
}

// client is a program that uses the sockets.
type client struct {
	t      *testing.T
	server *Server
	format zhttp.Format
	from   string
	push   *bus.Push
	router *bus.Router
	sub    *bus.Sub
	req    *bus.Dealer
	seq    map[string]int
	clock  *clock
}

// clock is the time of sessions.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newFrontRig runs a zurl with sockets and returns a client of it.
func newFrontRig(t *testing.T, format zhttp.Format, change func(*Options)) *client {
	t.Helper()
	c := &client{t: t, format: format, from: "test-" + string(format), seq: make(map[string]int), clock: &clock{now: time.Now()}}
	dir := t.TempDir()
	o := DefaultOptions()
	o.Bus = bustest.NewNetwork().Node("zurl.0")
	o.InSpec, o.InStreamSpec, o.OutSpec, o.InReqSpec = "ipc://"+dir+"/in", "ipc://"+dir+"/in-stream", "ipc://"+dir+"/out", "ipc://"+dir+"/req"
	o.InstanceID = "instance"
	if change != nil {
		change(&o)
	}
	var err error
	if c.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	c.server.front.now = c.clock.time
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	poll.Until(t, "the server to be ready", func() bool { return c.server.Ready() == nil })
	c.connect(o)
	return c
}

func (c *client) connect(o Options) {
	c.t.Helper()
	so := func(spec string) bus.SocketOptions {
		return bus.SocketOptions{Name: "test", Connect: []string{spec}, Limits: bus.Limits{MaxMessage: 80 << 20, RecvBytes: 160 << 20}}
	}
	if o.InSpec != "" {
		c.push = must[*bus.Push](c.t)(bus.NewPush(so(o.InSpec)))
		c.router = must[*bus.Router](c.t)(bus.NewRouter(so(o.InStreamSpec)))
		c.sub = must[*bus.Sub](c.t)(bus.NewSub(so(o.OutSpec)))
		c.sub.Subscribe(c.from + " ")
		c.t.Cleanup(func() { _, _, _ = c.push.Close(), c.router.Close(), c.sub.Close() })
		poll.Until(c.t, "sockets to be connected", func() bool {
			f := c.server.front
			return c.router.Conns() == 1 && f.pub.Wanted([]byte(c.from+" "))
		})
	}
	if o.InReqSpec != "" {
		c.req = must[*bus.Dealer](c.t)(bus.NewDealer(so(o.InReqSpec)))
		c.t.Cleanup(func() { _ = c.req.Close() })
	}
}

func (c *client) encode(d dict) []byte {
	c.t.Helper()
	if c.format == zhttp.Tnet {
		return tnet.Append([]byte("T"), d)
	}
	b, err := json.Marshal(d)
	if err != nil {
		c.t.Fatal(err)
	}
	return append([]byte("J"), b...)
}

// decode reads a packet and brings numbers to int.
func (c *client) decode(b []byte) dict {
	c.t.Helper()
	var v any
	var err error
	switch {
	case len(b) > 0 && b[0] == 'T':
		v, err = tnet.Decode(b[1:])
	case len(b) > 0 && b[0] == 'J':
		err = json.Unmarshal(b[1:], &v)
	default:
		err = io.ErrUnexpectedEOF
	}
	d, ok := v.(dict)
	if err != nil || !ok {
		c.t.Fatalf("got %q: %v", b, err)
	}
	for k, v := range d {
		switch n := v.(type) {
		case int64:
			d[k] = int(n)
		case float64:
			d[k] = int(n)
		}
	}
	d["format"] = string(b[:1])
	return d
}

func (c *client) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), poll.Patience)
	c.t.Cleanup(cancel)
	return ctx
}

// ask makes a request over the REQ interface.
func (c *client) ask(d dict) dict {
	c.t.Helper()
	return c.askRaw(c.encode(d))
}

func (c *client) askRaw(b []byte) dict {
	c.t.Helper()
	if err := c.req.Send(c.ctx(), nil, b); err != nil {
		c.t.Fatal(err)
	}
	parts, err := c.req.Recv(c.ctx())
	if err != nil || len(parts) != 2 || len(parts[0]) != 0 {
		c.t.Fatalf("got %q, %v", parts, err)
	}
	return c.decode(parts[1])
}

// start sends the first packet of a session.
func (c *client) start(id string, d dict) {
	c.t.Helper()
	c.seq[id] = 0
	c.raw(with(dict{"from": c.from, "id": id, "seq": 0}, d))
}

func (c *client) raw(d dict) {
	c.t.Helper()
	if err := c.push.Send(c.ctx(), c.encode(d)); err != nil {
		c.t.Fatal(err)
	}
}

// more sends a further packet.
func (c *client) more(id string, d dict) {
	c.t.Helper()
	c.seq[id]++
	c.stream(with(dict{"from": c.from, "id": id, "seq": c.seq[id]}, d))
}

func (c *client) stream(d dict) {
	c.t.Helper()
	if err := c.router.Send([]byte("instance"), nil, c.encode(d)); err != nil {
		c.t.Fatal(err)
	}
}

// get returns the next packet.
func (c *client) get() dict {
	c.t.Helper()
	parts, err := c.sub.Recv(c.ctx())
	if err != nil || len(parts) != 1 {
		c.t.Fatalf("got %q, %v", parts, err)
	}
	b, ok := bytes.CutPrefix(parts[0], []byte(c.from+" "))
	if !ok {
		c.t.Fatalf("got %q", parts[0])
	}
	return c.decode(b)
}

// want expects the next packet to have these fields, and those that are given
// as nil to be missing.
func (c *client) want(d dict) dict {
	c.t.Helper()
	got := c.get()
	match(c.t, got, d)
	return got
}

// wantBoth expects two packets of different types, in either order: the server
// may answer before the client has its credits.
func (c *client) wantBoth(a, b dict) {
	c.t.Helper()
	for range 2 {
		got := c.get()
		if got["type"] == a["type"] {
			match(c.t, got, a)
			a = dict{"type": "nothing more"}
		} else {
			match(c.t, got, b)
		}
	}
}

func match(t *testing.T, got, want dict) {
	t.Helper()
	for k, v := range want {
		if fmt.Sprint(got[k]) != fmt.Sprint(v) {
			t.Fatalf("%s: got %v, want %v, in %v", k, got[k], v, got)
		}
	}
}

// body reads data packets to the end and gives credits for them.
func (c *client) body(id string, first dict) string {
	c.t.Helper()
	var b strings.Builder
	for d := first; ; d = c.get() {
		if d["type"] == "keep-alive" || d["type"] == "credit" {
			continue
		}
		if d["type"] != nil {
			c.t.Fatalf("got %v", d)
		}
		part := d["body"].(string)
		b.WriteString(part)
		if d["more"] == nil {
			return b.String()
		}
		if len(part) > 0 {
			c.more(id, dict{"type": "credit", "credits": len(part)})
		}
	}
}

// both runs a test with either format.
func both(t *testing.T, change func(*Options), f func(t *testing.T, c *client)) {
	t.Helper()
	for _, format := range []zhttp.Format{zhttp.Tnet, zhttp.JSON} {
		t.Run(string(format), func(t *testing.T) { f(t, newFrontRig(t, format, change)) })
	}
}

// echo answers with what it was asked.
func echo(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	w.Header()["X-lower"] = []string{"1"}
	fmt.Fprintf(w, "%s %s %d %s", req.Method, req.RequestURI, req.ContentLength, body)
}

func TestReq(t *testing.T) {
	origin := serve(t, echo)
	both(t, nil, func(t *testing.T, c *client) {
		got := c.ask(dict{"id": "1", "seq": 0, "method": "POST", "uri": origin.URL + "/a/../b?c", "body": "é", "user-data": dict{"k": []any{"v"}}, "ext": dict{"multi": true}})
		match(t, got, dict{
			"id": "1", "seq": 0, "code": 200, "reason": "OK", "body": "POST /a/../b?c 2 é", "from": nil, "type": nil, "more": nil, "credits": nil,
			"user-data": dict{"k": []any{"v"}}, "format": string(c.format),
		})
		var names []string
		for _, h := range got["headers"].([]any) {
			names = append(names, h.([]any)[0].(string))
		}
		if !slices.Contains(names, "X-lower") {
			t.Errorf("got header fields %v", names)
		}
		match(t, c.ask(dict{"method": "GET", "uri": origin.URL + "/"}), dict{"id": nil, "seq": nil, "code": 200, "body": "GET / 0 "})
		// A packet with from is answered to whoever sent it, wherever that may be.
		match(t, c.ask(dict{"from": "x", "id": "1", "method": "GET", "uri": origin.URL + "/"}), dict{"from": nil, "code": 200})
		match(t, c.ask(dict{"method": "GET", "uri": origin.URL + "/", "max-size": 7}), dict{"type": "error", "condition": "max-size-exceeded"})
	})
}

// The request packets that are at fault are answered, each of them.
func TestReqRefused(t *testing.T) {
	both(t, nil, func(t *testing.T, c *client) {
		for name, d := range map[string]dict{
			"no uri":        {"method": "GET"},
			"no method":     {"uri": "http://127.0.0.1/"},
			"scheme":        {"method": "GET", "uri": "ftp://127.0.0.1/"},
			"websocket":     {"uri": "ws://127.0.0.1/"},
			"more":          {"method": "POST", "uri": "http://127.0.0.1/", "more": true},
			"several ids":   {"method": "GET", "uri": "http://127.0.0.1/", "id": []any{dict{"id": "1"}, dict{"id": "2"}}},
			"wrong types":   {"method": 1},
			"more is none":  {"method": "GET", "uri": "http://127.0.0.1/", "more": 1},
			"header fields": {"method": "GET", "uri": "http://127.0.0.1/", "headers": []any{[]any{"A\r\nB", "c"}}},
		} {
			got := c.ask(d)
			if got["type"] != "error" || got["condition"] != "bad-request" {
				t.Errorf("%s: got %v", name, got)
			}
		}
		match(t, c.ask(dict{"method": "HEAD", "uri": "http://127.0.0.1/", "body": "x"}), dict{"condition": "content-not-allowed"})
		for _, b := range []string{"", "x", "T", "T3:a,", "J{", "J[]", "T0:~", "J{}{}"} {
			match(t, c.askRaw([]byte(b)), dict{"type": "error", "condition": "bad-request"})
		}
		if n := testutil.ToFloat64(c.server.metrics.invalid.WithLabelValues(socketInReq)); n != 11 {
			t.Errorf("%v invalid messages, want 11", n)
		}
	})
}

// Only the stream sockets, or only the REQ socket: a packet with from does not
// find the PUB socket that is not there.
func TestReqAlone(t *testing.T) {
	origin := serve(t, echo)
	c := newFrontRig(t, zhttp.Tnet, func(o *Options) { o.InSpec, o.InStreamSpec, o.OutSpec = "", "", "" })
	match(t, c.ask(dict{"from": "x", "id": "1", "method": "GET", "uri": origin.URL + "/"}), dict{"code": 200})
	match(t, c.ask(dict{"from": "x", "id": "1", "more": 5}), dict{"condition": "bad-request"})
}

func TestStreamWhole(t *testing.T) {
	origin := serve(t, echo)
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{"method": "GET", "uri": origin.URL + "/", "user-data": 7, "ext": dict{"multi": true}})
		c.want(dict{"type": "keep-alive", "id": "1", "seq": 0, "from": "instance", "user-data": 7, "ext": dict{"multi": true}})
		// Without credits: they are for streams.
		c.want(dict{"type": nil, "id": "1", "seq": 1, "from": "instance", "code": 200, "body": "GET / 0 ", "more": nil, "user-data": 7, "ext": nil})
		c.start("1", dict{"uri": origin.URL}) // the id is free again
		c.want(dict{"type": "error", "condition": "bad-request", "seq": 0})
	})
}

// A streamed response moves by the client's credits, the head included.
// Nobody finds a session gone before its last packet is on its way: what its client
// sent before that would be answered with "cancel", ahead of it.
func TestLastPacketFirst(t *testing.T) {
	f := newFrontRig(t, zhttp.JSON, nil).server.front
	s := f.newSession(&zhttp.Request{From: "somebody", IDs: []zhttp.ID{{ID: "1"}}}, zhttp.JSON)
	s.kind, s.id = kindHTTP, zhttp.ID{ID: "1"}
	if !f.register(s) {
		t.Fatal("not registered")
	}
	defer s.end(nil, resultCancelled)
	sent := false
	f.forget(s, func() {
		if sent = true; f.mu.TryLock() {
			f.mu.Unlock()
			t.Error("others can look for the session")
		}
	})
	if !sent || f.find("somebody", "1") != nil {
		t.Error("the session is not over")
	}
}

func TestStreamDown(t *testing.T) {
	large := strings.Repeat("0123456789", 30_000)
	origin := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, large) })
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{"method": "GET", "uri": origin.URL, "stream": true})
		c.want(dict{"type": "keep-alive", "seq": 0})
		c.more("1", dict{"type": "keep-alive"})
		c.more("1", dict{"type": "credit", "credits": 5})
		first := c.want(dict{"type": nil, "seq": 1, "code": 200, "more": true})
		if first["body"] == "" {
			first = c.want(dict{"seq": 2, "code": nil, "more": true})
		}
		if first["body"] != "01234" {
			t.Fatalf("for 5 credits: got %v", first["body"])
		}
		c.more("1", dict{"type": "credit", "credits": 100_000})
		if got := "01234" + c.body("1", dict{"body": "", "more": true}); got != large {
			t.Errorf("got %d bytes, want %d", len(got), len(large))
		}
	})
}

// The head of a response that goes on for long comes at once.
func TestStreamSlow(t *testing.T) {
	next := make(chan string)
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).Flush()
		for s := range next {
			fmt.Fprint(w, s)
			_ = http.NewResponseController(w).Flush()
			if s == "end" {
				return
			}
		}
	})
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{"method": "GET", "uri": origin.URL, "stream": true, "credits": 1000})
		c.want(dict{"type": "keep-alive"})
		c.want(dict{"code": 200, "body": "", "more": true})
		for _, s := range []string{"a", "b"} {
			next <- s
			c.want(dict{"body": s, "more": true})
		}
		next <- "end"
		if c.want(dict{"body": "end"})["more"] != nil { // the end was not there yet
			c.want(dict{"body": "", "more": nil})
		}
	})
}

func TestStreamUp(t *testing.T) {
	origin := serve(t, echo)
	both(t, nil, func(t *testing.T, c *client) {
		c.start("1", dict{"method": "POST", "uri": origin.URL + "/", "body": "ab", "more": true})
		c.want(dict{"type": "credit", "credits": 200_000, "seq": 0})
		c.want(dict{"type": "credit", "credits": 2, "seq": 1})
		c.more("1", dict{"body": "cde", "more": true})
		c.want(dict{"type": "credit", "credits": 3, "seq": 2})
		c.more("1", dict{"type": "credit", "credits": 5})
		c.more("1", dict{"body": "f"})
		c.want(dict{"code": 200, "body": "POST / -1 abcdef", "seq": 3})

		// A length that is known is kept.
		c.start("2", dict{"method": "PUT", "uri": origin.URL + "/", "headers": []any{[]any{"Content-Length", "3"}}, "more": true})
		c.want(dict{"type": "credit", "credits": 200_000})
		c.more("2", dict{"body": "abc"})
		c.want(dict{"code": 200, "body": "PUT / 3 abc"})

		// GET with more is a request without a body if none comes.
		c.start("3", dict{"method": "GET", "uri": origin.URL + "/", "more": true})
		c.want(dict{"type": "credit"})
		c.more("3", dict{"body": ""})
		c.want(dict{"code": 200, "body": "GET / 0 "})
	})
}

// More than the window is refused, and so is a body after its end; credits
// without a type are not a body.
func TestStreamUpFaults(t *testing.T) {
	started, release := make(chan struct{}, 9), make(chan struct{})
	origin := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		started <- struct{}{}
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	both(t, func(o *Options) { o.BufferSize = 10_000 }, func(t *testing.T, c *client) {
		c.start("1", dict{"method": "POST", "uri": origin.URL, "more": true})
		c.want(dict{"type": "credit", "credits": 10_000})
		// What the server does not read stays with us, once the sockets between are full.
		part := strings.Repeat("x", 1000_000)
		c.more("1", dict{"body": part, "more": true})
		for got := c.get(); got["type"] != "error"; got = c.get() {
			match(t, got, dict{"type": "credit"})
		}
		c.start("2", dict{"method": "POST", "uri": origin.URL, "body": "x"})
		c.want(dict{"type": "keep-alive"})
		<-started
		c.more("2", dict{"credits": 5})
		c.more("2", dict{"body": "y"})
		c.want(dict{"type": "error", "condition": "bad-request"})
	})
	close(release)
}

func TestSequence(t *testing.T) {
	origin := serve(t, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	both(t, nil, func(t *testing.T, c *client) {
		begin := func(id string, d dict) {
			c.start(id, with(dict{"method": "GET", "uri": origin.URL, "stream": true}, d))
			c.want(dict{"type": "keep-alive", "id": id})
		}
		begin("gap", nil)
		c.stream(dict{"from": c.from, "id": "gap", "seq": 2, "type": "keep-alive"})
		c.want(dict{"type": "cancel", "id": "gap", "seq": 1, "from": "instance"})
		begin("none", nil)
		c.stream(dict{"from": c.from, "id": "none", "type": "keep-alive"})
		c.want(dict{"type": "cancel", "id": "none"})
		// Nobody has such a session: the answer is without from and seq, and a tnetstring.
		c.stream(dict{"from": c.from, "id": "unknown", "seq": 1, "type": "keep-alive"})
		c.want(dict{"type": "cancel", "id": "unknown", "seq": nil, "from": nil, "format": "T"})
		c.stream(dict{"from": c.from, "id": "unknown", "seq": 1, "type": "cancel"})
		c.stream(dict{"from": c.from, "id": "unknown", "seq": 1, "type": "error", "condition": "x"})
		// A packet whose fields have the wrong types.
		c.raw(dict{"from": c.from, "id": "types", "seq": 0, "more": 1})
		c.want(dict{"type": "error", "condition": "bad-request", "id": "types", "format": "T"})
		c.raw(dict{"from": c.from, "id": []any{dict{"id": "a", "seq": 0}, dict{"id": "b", "seq": 0}}, "method": "GET", "uri": origin.URL})
		c.want(dict{"type": "error", "condition": "bad-request", "id": "a"})
		c.want(dict{"type": "error", "condition": "bad-request", "id": "b"})
		c.start("late", dict{"seq": 5, "method": "GET", "uri": origin.URL, "more": true})
		c.want(dict{"type": "error", "condition": "bad-request", "id": "late"})
		// Somebody else's session cannot be ended, and an id may be used by two.
		begin("mine", nil)
		c.stream(dict{"from": "other", "id": "mine", "seq": 1, "type": "cancel"})
		c.raw(dict{"from": c.from, "id": "mine", "seq": 0, "method": "GET", "uri": origin.URL}) // a duplicate changes nothing
		begin("after", nil)                                                                     // now it was read: it came by another socket than what follows
		c.stream(dict{"from": c.from, "id": "after", "seq": 1, "type": "cancel"})
		c.stream(dict{"from": c.from, "id": []any{dict{"id": "mine", "seq": 1}, dict{"id": "unknown", "seq": 1}}, "type": "keep-alive"})
		c.want(dict{"type": "cancel", "id": "unknown"})
		c.stream(dict{"id": "mine", "seq": 2, "type": "cancel"})
		begin("error", nil)
		c.stream(dict{"from": c.from, "id": "error", "seq": 1, "type": "error", "condition": "x"})
		poll.Until(t, "the end of all sessions", func() bool { return len(c.server.front.all()) == 0 })
	})
}

// What is not a packet is counted and does no harm.
func TestGarbage(t *testing.T) {
	origin := serve(t, echo)
	c := newFrontRig(t, zhttp.Tnet, nil)
	for _, parts := range [][][]byte{{[]byte("")}, {[]byte("T")}, {[]byte("Jnull")}, {[]byte("X")}, {[]byte("T1:"), []byte("x")}, {[]byte("T2:{}}")}} {
		if err := c.push.Send(c.ctx(), parts...); err != nil {
			t.Fatal(err)
		}
		if err := c.router.Send(append([][]byte{[]byte("instance")}, parts...)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.req.Send(c.ctx(), []byte("no delimiter")); err != nil {
		t.Fatal(err)
	}
	c.start("1", dict{"method": "GET", "uri": origin.URL + "/"})
	c.want(dict{"type": "keep-alive"})
	c.want(dict{"code": 200})
	match(t, c.ask(dict{"method": "GET", "uri": origin.URL}), dict{"code": 200})
	poll.Until(t, "all to be counted", func() bool {
		n := func(socket string) float64 {
			return testutil.ToFloat64(c.server.metrics.invalid.WithLabelValues(socket))
		}
		return n(socketIn) == 6 && n(socketInStream) == 6 && n(socketInReq) == 1
	})
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// pass lets time go by.
func (c *client) pass(d time.Duration) {
	c.clock.add(d)
	c.server.front.tick(c.clock.time())
}

// A client hears every 30 s that its session lives, and is given up when it is
// silent for 60 s, which is said and counted. What nobody can refresh, nobody
// has to.
func TestTimers(t *testing.T) {
	started := make(chan string, 9)
	release := make(chan struct{})
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		started <- req.URL.Path
		select {
		case <-req.Context().Done():
		case <-release:
			fmt.Fprint(w, "done")
		}
	})
	c := newFrontRig(t, zhttp.Tnet, nil)
	wait := func(path string) {
		t.Helper()
		select {
		case got := <-started:
			if got != path {
				t.Fatalf("got %s, want %s", got, path)
			}
		case <-time.After(poll.Patience):
			t.Fatal("no request")
		}
	}
	c.raw(dict{"method": "POST", "uri": origin.URL + "/hook", "body": "x"})
	wait("/hook")
	c.raw(dict{"from": c.from, "method": "POST", "uri": origin.URL + "/noid"})
	wait("/noid")
	c.start("1", dict{"method": "GET", "uri": origin.URL + "/one"})
	c.want(dict{"type": "keep-alive", "seq": 0})
	wait("/one")
	c.start("2", dict{"method": "GET", "uri": origin.URL + "/two"})
	c.want(dict{"type": "keep-alive", "seq": 0})
	wait("/two")

	c.pass(29 * time.Second)
	c.more("1", dict{"type": "keep-alive"})
	c.stream(dict{"from": c.from, "id": "unknown", "seq": 0}) // and so the first was handled
	c.want(dict{"type": "cancel", "id": "unknown"})
	c.pass(time.Second)
	got := []any{c.want(dict{"type": "keep-alive", "seq": 1})["id"], c.want(dict{"type": "keep-alive", "seq": 1})["id"]}
	if fmt.Sprint(got) != "[1 2]" && fmt.Sprint(got) != "[2 1]" {
		t.Errorf("got keep-alives for %v", got)
	}
	c.pass(29500 * time.Millisecond)
	c.pass(500 * time.Millisecond)
	got = []any{c.get(), c.get()}
	for _, d := range got {
		switch d := d.(dict); d["id"] {
		case "1":
			match(t, d, dict{"type": "keep-alive", "seq": 2})
		case "2":
			match(t, d, dict{"type": "cancel", "seq": 2})
		}
	}
	poll.Until(t, "the count of one that expired", func() bool { // after what is said of it
		return testutil.ToFloat64(c.server.metrics.ended.WithLabelValues(kindHTTP, resultExpired)) == 1
	})
	c.pass(5 * time.Minute) // ends the other
	c.want(dict{"type": "cancel", "id": "1"})
	close(release)
	poll.Until(t, "the end of what was fired and forgotten", func() bool {
		return testutil.ToFloat64(c.server.metrics.ended.WithLabelValues(kindForgotten, "2xx")) == 2
	})
}

func TestSessionTimeouts(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/begin" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		<-req.Context().Done()
	})
	both(t, func(o *Options) { o.SessionTimeout = 50 * time.Second }, func(t *testing.T, c *client) {
		for _, path := range []string{"/", "/begin"} {
			match(t, c.ask(dict{"method": "GET", "uri": origin.URL + path, "timeout": 50}), dict{"type": "error", "condition": "session-timeout"})
			c.start("1", dict{"method": "GET", "uri": origin.URL + path, "timeout": 50, "stream": true, "credits": 5})
			got := c.get() // the time may be over before there is a word
			for got["type"] == "keep-alive" || got["code"] != nil {
				got = c.get()
			}
			match(t, got, dict{"type": "error", "condition": "session-timeout"})
		}
		c.start("1", dict{"method": "GET", "uri": origin.URL + "/"})
		c.want(dict{"type": "keep-alive"})
		c.pass(50 * time.Second)
		c.want(dict{"type": "error", "condition": "session-timeout", "id": "1"})
	})
}

// At MaxSessions nothing more is begun, and nothing is refused.
func TestMaxSessions(t *testing.T) {
	started, release := make(chan string, 9), make(chan struct{})
	origin := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		started <- req.URL.Path
		<-release
	})
	c := newFrontRig(t, zhttp.Tnet, func(o *Options) { o.MaxSessions = 2 })
	for i := range 6 {
		c.start(fmt.Sprint(i), dict{"method": "GET", "uri": fmt.Sprint(origin.URL, "/", i)})
	}
	<-started
	<-started
	select {
	case path := <-started:
		t.Fatalf("%s was begun as the third", path)
	default:
	}
	close(release)
	done := 0
	for done < 6 {
		if got := c.get(); got["code"] == 200 {
			done++
		}
	}
}

// All bodies that have to be held are bounded together.
func TestMaxHeld(t *testing.T) {
	old := maxHeld
	maxHeld = 100_000
	defer func() { maxHeld = old }()
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if req.Method == "GET" {
			_, _ = w.Write(make([]byte, 200_000))
		}
	})
	c := newFrontRig(t, zhttp.Tnet, func(o *Options) { o.MaxWhole = 300_000 })
	match(t, c.ask(dict{"method": "GET", "uri": origin.URL}), dict{"condition": "too-busy"})
	match(t, c.ask(dict{"method": "POST", "uri": origin.URL, "body": strings.Repeat("x", 200_000)}), dict{"condition": "too-busy"})
	match(t, c.ask(dict{"method": "POST", "uri": origin.URL, "body": "x"}), dict{"code": 200})
	c.start("1", dict{"method": "GET", "uri": origin.URL, "stream": true, "credits": 300_000})
	if got := c.body("1", c.get()); len(got) != 200_000 {
		t.Errorf("got %d streamed bytes", len(got))
	}
	// They are given back when the client has its answer.
	poll.Until(t, "no byte to be counted", func() bool { return c.server.front.held.Load() == 0 })
}

func TestMaxWhole(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte{0}, 2_000_000))
	})
	c := newFrontRig(t, zhttp.JSON, func(o *Options) { o.MaxWhole = 2_000_000 })
	// In JSON that is six times as large, too large for the socket.
	match(t, c.ask(dict{"method": "GET", "uri": origin.URL}), dict{"condition": "max-size-exceeded"})
	c = newFrontRig(t, zhttp.Tnet, func(o *Options) { o.MaxWhole = 1_999_999 })
	match(t, c.ask(dict{"method": "GET", "uri": origin.URL}), dict{"condition": "max-size-exceeded"})
	c = newFrontRig(t, zhttp.Tnet, func(o *Options) { o.MaxWhole = 2_000_000 })
	match(t, c.ask(dict{"method": "GET", "uri": origin.URL}), dict{"code": 200})
}

// A stop tells the clients of what goes on.
func TestStopSessions(t *testing.T) {
	started := make(chan struct{}, 9)
	origin := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		started <- struct{}{}
		<-req.Context().Done()
	})
	c := newFrontRig(t, zhttp.Tnet, func(o *Options) { o.DrainTime = time.Millisecond })
	c.start("1", dict{"method": "GET", "uri": origin.URL})
	c.want(dict{"type": "keep-alive"})
	if err := c.req.Send(c.ctx(), nil, c.encode(dict{"method": "GET", "uri": origin.URL})); err != nil {
		t.Fatal(err)
	}
	<-started
	<-started
	for _, s := range c.server.front.all() {
		s.stop()
	}
	c.want(dict{"type": "cancel", "id": "1", "from": "instance"})
	parts, err := c.req.Recv(c.ctx())
	if err != nil {
		t.Fatal(err)
	}
	match(t, c.decode(parts[1]), dict{"type": "error", "condition": outbound.Stopping})
}

func TestBind(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"in_spec", "in_stream_spec", "out_spec", "in_req_spec"} {
		o := DefaultOptions()
		o.Bus = bustest.NewNetwork().Node("zurl.0")
		specs := map[string]*string{"in_spec": &o.InSpec, "in_stream_spec": &o.InStreamSpec, "out_spec": &o.OutSpec, "in_req_spec": &o.InReqSpec}
		for n, spec := range specs {
			*spec = "ipc://" + dir + "/" + n
		}
		*specs[name] = "ipc://" + dir + "/missing/x"
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "bind "+name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	o := DefaultOptions()
	o.Bus = bustest.NewNetwork().Node("zurl.0")
	o.InSpec = "ipc://" + dir + "/x"
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "all of them") {
		t.Errorf("one of three specs: got %v", err)
	}
}

// The policy holds for whatever comes through the sockets, unless a packet says
// that it does not, and that is for this packet only.
func TestFrontPolicy(t *testing.T) {
	origin := serve(t, echo)
	ws := strings.Replace(origin.URL, "http", "ws", 1)
	port := origin.URL[strings.LastIndex(origin.URL, ":"):]
	both(t, func(o *Options) { o.Policy = deny(t, "@internal") }, func(t *testing.T, c *client) {
		for range 2 {
			match(t, c.ask(dict{"method": "GET", "uri": origin.URL, "ignore-policies": true}), dict{"code": 200})
			for _, host := range []string{"127.0.0.1", "localhost", "0x7f.1", "0.0.0.0", "[::ffff:127.0.0.1]"} {
				match(t, c.ask(dict{"method": "GET", "uri": "http://" + host + port}), dict{"type": "error", "condition": "policy-violation"})
				c.start("1", dict{"uri": "ws://" + host + port})
				c.want(dict{"type": "error", "condition": "policy-violation"})
			}
			match(t, c.ask(dict{"method": "GET", "uri": "http://public.test/", "connect-host": "127.0.0.1", "connect-port": port[1:]}), dict{"condition": "policy-violation"})
			c.start("1", dict{"uri": ws, "ignore-policies": true})
			c.want(dict{"condition": "rejected", "code": 200})
		}
		c.raw(dict{"method": "GET", "uri": origin.URL}) // fire and forget
		poll.Until(t, "its end", func() bool {
			return testutil.ToFloat64(c.server.metrics.ended.WithLabelValues(kindForgotten, "policy-violation")) == 1
		})
	})
}
