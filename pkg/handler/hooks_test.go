package handler

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/pkg/publish"
)

// fakeZurl tells of webhooks and keeps what is enqueued.
type fakeZurl struct {
	r    *rig
	node *bustest.Node
	stop func()

	mu       sync.Mutex
	hooks    *frame.Hooks // told to handlers; nil tells nothing
	messages []frame.HookMessage
	tokens   []uint64
	mute     bool   // acknowledge nothing
	refuse   string // condition
	calls    []*frame.HookCall
	deaf     bool // to calls
}

func (r *rig) zurl(hooks *frame.Hooks) *fakeZurl {
	z := &fakeZurl{r: r, hooks: hooks}
	z.start()
	r.t.Cleanup(func() { z.stop() })
	return z
}

func (z *fakeZurl) start() {
	z.node = z.r.net.Node("zurl.0")
	z.stop = runNode(z.node, z)
}

func (z *fakeZurl) send(to string, f frame.Frame) { _ = z.node.Send(to, frame.Encode(f)) }

func (z *fakeZurl) PeerUp(p bus.Peer) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if p.Kind() == "handler" && z.hooks != nil {
		z.send(p.Name, z.hooks)
	}
}
func (z *fakeZurl) PeerDown(bus.Peer)                  {}
func (z *fakeZurl) Broadcast(bus.Peer, string, []byte) {}

func (z *fakeZurl) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		z.r.t.Errorf("handler sent %v", err)
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	switch f := f.(type) {
	case *frame.Enqueue:
		z.messages = append(z.messages, f.Messages...)
		z.tokens = append(z.tokens, f.Token)
		if !z.mute {
			z.send(from.Name, &frame.Enqueued{Token: f.Token, Condition: z.refuse, Text: z.refuse})
		}
	case *frame.HookCall:
		if z.calls = append(z.calls, f); z.deaf {
			return
		}
		z.send(from.Name, &frame.HookAnswer{Token: f.Token, Code: 201, Body: []byte("{}\n")})
	default:
		z.r.t.Errorf("zurl got a %T", f)
	}
}

func (z *fakeZurl) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

func (z *fakeZurl) got() []frame.HookMessage {
	z.mu.Lock()
	defer z.mu.Unlock()
	return append([]frame.HookMessage(nil), z.messages...)
}

func (r *rig) hooked() {
	r.t.Helper()
	r.wait("the handler knows of webhooks", func() bool { return r.s.hooks.table.Load() != nil })
}

func TestHooksOfPublish(t *testing.T) {
	r := newRig(t)
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a*", "b"}})
	r.hooked()
	r.publish(
		`{"channel":"abc","id":"1","prev-id":"0","meta":{"m":"v"},"formats":{"http-stream":{"content":"<x>"},"ws-message":{"content-bin":"/w=="},"http-response":{"code":201,"headers":{"A":"b"},"body":"y"}}}`,
		`{"channel":"b","formats":{"http-request":{"method":"PUT","headers":[["X-A","1"]],"content":"raw"}}}`,
		`{"channel":"c","formats":{"http-stream":{"content":"nobody"}}}`,
		`{"channel":"b","formats":{"http-stream":{"action":"hint"}}}`,
	)
	got := z.got()
	if len(got) != 2 {
		t.Fatalf("got %+v", got)
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	if err := json.Unmarshal(got[0].Body, &body); err != nil {
		t.Fatal(err)
	}
	data, _ := json.Marshal(body.Data)
	want := `{"channel":"abc","formats":{"http-response":{"body":"y","code":201,"headers":[["A","b"]]},"http-stream":{"content":"\u003cx\u003e"},"ws-message":{"content-bin":"/w==","type":"binary"}},"id":"1","meta":{"m":"v"},"prev-id":"0"}`
	if string(data) != want || body.Type != hook.Message || !body.Timestamp.Equal(r.clock.Now()) || got[0].Method != "POST" {
		t.Errorf("got %s\n%s\nwant %s", got[0].Body, data, want)
	}
	if m := got[1]; m.Method != "PUT" || string(m.Body) != "raw" || len(m.Header) != 1 || m.Channel != "b" || !strings.HasPrefix(m.ID, "msg_") {
		t.Errorf("http-request: %+v", m)
	}
	if n := r.metric("holdfast_handler_webhooks_stored_total", "http"); n != 1 {
		t.Errorf("%v publishes stored", n)
	}
}

func TestHookIDs(t *testing.T) {
	item := func(text string) *publish.Item {
		it, err := publish.ParseMessage([]byte("J" + text))
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	id := func(text string) string { return hookID(item(text)) }
	a := id(`{"channel":"a","id":"1","http-stream":{"content":"x"}}`)
	if a != id(`{"channel":"a","id":"1","http-stream":{"content":"x"}}`) {
		t.Error("an item that is published again has another id")
	}
	for _, other := range []string{
		`{"channel":"a","id":"1","http-stream":{"content":"y"}}`, `{"channel":"b","id":"1","http-stream":{"content":"x"}}`,
		`{"channel":"a","id":"2","http-stream":{"content":"x"}}`, `{"channel":"a","id":"1","ws-message":{"content":"x"}}`,
	} {
		if a == id(other) {
			t.Errorf("%s has the same id", other)
		}
	}
	none := `{"channel":"a","http-stream":{"content":"x"}}`
	if again := id(none); again == id(none) {
		t.Error("items without id have the same webhook-id")
	}
}

// A publish is refused as a whole when its webhooks are not stored.
func TestHooksRefused(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, frame.Channel{Name: "a"})
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a"}})
	r.hooked()
	z.set(func() { z.refuse = frame.HooksStore })
	const item = `{"items":[{"channel":"a","formats":{"http-stream":{"content":"x"}}}]}`
	got := r.post("/publish/", item)
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "\r\nRetry-After: 1\r\n") || !strings.Contains(got, "Not published: store-failed") {
		t.Errorf("got %s", got)
	}
	z.set(func() { z.refuse = "" })
	r.post("/publish/", item)
	r.wait("the stream got it", func() (ok bool) {
		r.conn.get(func() { ok = len(h.got) > 0 })
		return ok
	})
	r.conn.get(func() {
		if len(h.got) != 1 {
			t.Errorf("the stream got %q", h.got)
		}
	})
	// Other channels go on meanwhile.
	z.set(func() { z.refuse = frame.HooksFull })
	r.publish(`{"channel":"other","formats":{"http-stream":{"content":"x"}}}`)
}

func TestHooksTimeout(t *testing.T) {
	r := newRig(t)
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a"}})
	r.hooked()
	z.set(func() { z.mute = true })
	answer := make(chan string, 1)
	go func() {
		answer <- r.post("/publish/", `{"items":[{"channel":"a","formats":{"http-stream":{"content":"x"}}}]}`)
	}()
	r.wait("it was sent", func() bool { return len(z.got()) == 1 })
	r.clock.advance(r.opt.WebhookTimeout + time.Second)
	if got := <-answer; !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("got %s", got)
	}
	if n := r.metric("holdfast_handler_webhook_bytes", ""); n != 0 {
		t.Errorf("%v bytes are kept", n)
	}
}

// What zurl has not acknowledged is sent again, in order, to the zurl that opens
// the store next.
func TestHooksSurviveZurl(t *testing.T) {
	r := newRig(t)
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a"}})
	r.hooked()
	z.set(func() { z.mute = true })
	const n = 10
	answers := make(chan string, n)
	for i := range n {
		go func() {
			answers <- r.post("/publish/", fmt.Sprintf(`{"items":[{"channel":"a","id":"%d","formats":{"http-stream":{"content":"x"}}}]}`, i))
		}()
		r.wait("it was sent", func() bool { return len(z.got()) == i+1 })
	}
	first := z.got()
	z.stop()
	z.set(func() { z.mute, z.messages, z.tokens = false, nil, nil })
	z.start()
	for range n {
		if got := <-answers; !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("got %s", got)
		}
	}
	second := z.got()
	for i := range first {
		if len(second) != n || first[i].ID != second[i].ID {
			t.Fatalf("sent again: %+v", second)
		}
	}
}

// A handler that has to wait for zurl takes no publishes until it has heard.
func TestHooksRequired(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.opt.Webhooks = WebhooksRequired
	r.run()
	r.wait("the handler runs", func() bool { return strings.HasPrefix(r.raw("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 200") })
	r.wait("the records are in", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.peers) == 1 && r.s.peers["connmgr.0"].done
	})
	if got := r.post("/publish/", `{"items":[]}`); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("got %s", got)
	}
	r.zurl(&frame.Hooks{Version: 1})
	r.wait("the handler is ready", r.s.Ready)
}

func TestHooksInParts(t *testing.T) {
	r := newRig(t)
	z := r.zurl(nil)
	r.wait("zurl knows the handler", func() bool { return len(z.node.Peers("handler")) == 1 })
	z.send("handler.0", &frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a"}, More: true})
	z.send("handler.0", &frame.Hooks{Store: "s", Version: 1, Patterns: []string{"b"}})
	r.hooked()
	r.publish(`{"channel":"a","formats":{"http-stream":{"content":"x"}}}`, `{"channel":"b","formats":{"http-stream":{"content":"x"}}}`)
	if n := len(z.got()); n != 2 {
		t.Errorf("%d messages", n)
	}
	z.send("handler.0", &frame.Hooks{Store: "s", Version: 2})
	r.wait("there are none", func() bool { return r.s.hooks.table.Load() == nil })
}

func TestHooksLargeBatch(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPMaxBody = 64 << 20 })
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"*"}})
	r.hooked()
	var items []string
	for range 5 {
		items = append(items, fmt.Sprintf(`{"channel":"a","formats":{"http-stream":{"content":"%s"}}}`, strings.Repeat("x", 2<<20)))
	}
	r.publish(items...)
	if n := len(z.got()); n != 5 || len(z.tokens) < 2 {
		t.Errorf("%d messages in %d frames", n, len(z.tokens))
	}
	got := r.post("/publish/", fmt.Sprintf(`{"items":[{"channel":"a","formats":{"http-stream":{"content":"%s"}}}]}`, strings.Repeat("x", frame.MaxFrame)))
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "too large") {
		t.Errorf("got %.200s", got)
	}
}

func TestHooksAPI(t *testing.T) {
	r := newRig(t)
	if got := r.raw("GET /webhooks/ HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 503 ") {
		t.Errorf("without zurl: %s", got)
	}
	z := r.zurl(&frame.Hooks{Version: 1})
	r.wait("zurl is known", func() bool { return len(r.s.opt.Bus.Peers("zurl")) == 1 })
	got := r.raw("POST /webhooks/ep_1/pause/?a=b HTTP/1.1\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 201 Created\r\n") || !strings.Contains(got, "application/json") || !strings.HasSuffix(got, "\r\n\r\n{}\n") {
		t.Errorf("got %s", got)
	}
	z.set(func() {
		if c := z.calls[0]; c.Method != "POST" || c.Path != "/ep_1/pause" || c.Query != "a=b" {
			t.Errorf("call: %+v", c)
		}
	})
	if got := r.raw("GET /webhooksx HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
		t.Errorf("another path: %s", got)
	}
}

// An intake that cannot refuse delivers to clients, and counts.
func TestHooksOfZeroMQ(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, frame.Channel{Name: "a"})
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a"}})
	r.hooked()
	z.set(func() { z.refuse = frame.HooksFull })
	for i := range 3 {
		it, err := publish.ParseMessage(fmt.Appendf(nil, `J{"channel":"a","http-stream":{"content":"%d"}}`, i))
		if err != nil {
			t.Fatal(err)
		}
		r.s.publishLater(intakePull, it)
	}
	r.wait("the stream got all", func() (ok bool) {
		r.conn.get(func() { ok = strings.Join(h.got, ",") == "0,1,2" })
		return ok
	})
	if n := r.metric("holdfast_handler_webhooks_failed_total", "pull"); n != 3 {
		t.Errorf("%v failures counted", n)
	}
}

// What waits for nothing itself does not overtake what came before it on its
// channel, and what zurl does not acknowledge in time comes in order too.
func TestHooksOfZeroMQInOrder(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, ch("a"))
	other := r.hold(frame.ModeStream, ch("b"))
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Patterns: []string{"a"}})
	r.hooked()
	z.set(func() { z.mute = true })
	later := func(item string) {
		it, err := publish.ParseMessage([]byte("J" + item))
		if err != nil {
			t.Fatal(err)
		}
		r.s.publishLater(intakePull, it)
	}
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		later(stream("a", want[i]))
	}
	later(`{"channel":"a","http-stream":{"action":"close"}}`)
	later(stream("b", "at once"))
	r.expect(other, "at once")
	r.wait("zurl got them", func() bool { return len(z.got()) == 20 })
	r.expect(h)
	z.set(func() { z.send("handler.0", &frame.Enqueued{Token: z.tokens[0]}) })
	r.expect(h, "0")
	r.clock.advance(r.opt.WebhookTimeout + time.Second)
	r.expect(h, append(want, "")...)
	r.wait("no item waits", func() bool {
		l := &r.s.hooks.lines
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.n.Load() == 0 && len(l.by) == 0
	})
}

// A handler that stops does not wait for an answer of zurl.
func TestHooksAPIOff(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Webhooks = WebhooksOff })
	got := r.raw("GET /webhooks/ HTTP/1.1\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "handler.webhooks is off") {
		t.Errorf("got %s", got)
	}
}

func TestHooksAPIWhileStopping(t *testing.T) {
	r := newRig(t)
	z := r.zurl(&frame.Hooks{Version: 1})
	z.set(func() { z.deaf = true })
	r.wait("zurl is known", func() bool { return len(r.s.opt.Bus.Peers("zurl")) == 1 })
	answer := make(chan *frame.HookAnswer, 1)
	go func() { answer <- r.s.hooks.call(&frame.HookCall{Method: "GET"}) }()
	r.wait("zurl is asked", func() bool {
		z.mu.Lock()
		defer z.mu.Unlock()
		return len(z.calls) == 1
	})
	r.s.hooks.stop()
	for _, a := range []*frame.HookAnswer{<-answer, r.s.hooks.call(&frame.HookCall{Method: "GET"})} {
		if a.Code != 503 || !strings.Contains(string(a.Body), errHooksStop.Error()) {
			t.Errorf("got %d %s", a.Code, a.Body)
		}
	}
}

// A route with events tells of its connections; others do not.
func TestHookEvents(t *testing.T) {
	r := newRig(t)
	z := r.zurl(&frame.Hooks{Store: "s", Version: 1, Events: true})
	r.hooked()
	r.hold(frame.ModeStream, frame.Channel{Name: "silent"})
	h := r.holdWith(frame.ModeStream, func(a *frame.Accept) { a.Events = "ep" }, frame.Channel{Name: "a"})
	r.wait("two events", func() bool { return len(z.got()) == 2 })
	r.clock.advance(90 * time.Second)
	// A handler that takes over goes on from the record.
	r.stop()
	r.start()
	r.hooked()
	r.conn.leave(h)
	var got []string
	r.wait("four events", func() bool {
		got = nil
		for _, m := range z.got() {
			var body struct {
				Type string
				Data struct {
					Connection, Channel, Cause string
					Millis                     int64 `json:"duration_ms"`
				}
			}
			if err := json.Unmarshal(m.Body, &body); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(body.Type, " ", m.Endpoint, " ", m.Channel, " ", body.Data.Channel, " ", body.Data.Cause, " ", body.Data.Millis))
		}
		return len(got) >= 4
	})
	want := "connection.opened ep a   0|channel.subscribed ep a a  0|channel.unsubscribed ep a a  0|connection.closed ep a  client-gone 90000"
	if g := strings.Join(got, "|"); g != want {
		t.Errorf("got %s\nwant %s", g, want)
	}
}
