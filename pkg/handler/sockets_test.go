package handler

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
)

// sockets gives a rig ZeroMQ sockets of its own.
func sockets(t *testing.T) func(*Options) {
	dir := t.TempDir()
	return func(o *Options) {
		o.PushIn = "ipc://" + dir + "/pull"
		o.PushInSub = []string{"ipc://" + dir + "/sub"}
		o.Command = "ipc://" + dir + "/command"
		o.Stats = "ipc://" + dir + "/stats"
	}
}

func pushTo(t *testing.T, spec string) func(parts ...[]byte) {
	t.Helper()
	p, err := bus.NewPush(bus.SocketOptions{Name: "test", Connect: []string{spec}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return func(parts ...[]byte) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), poll.Patience)
		defer cancel()
		if err := p.Send(ctx, parts...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPull(t *testing.T) {
	r := newRig(t, sockets(t))
	h := r.hold(frame.ModeStream, ch("a"))
	push := pushTo(t, r.opt.PushIn)
	item := tnet.Append(nil, map[string]any{"channel": "a", "formats": map[string]any{"http-stream": map[string]any{"content": "\xff2"}}})
	push([]byte("J" + stream("a", "1")))
	push([]byte("T5:abc")) // kills Pushpin
	push([]byte("T"), item)
	push([]byte("J{"))
	push(append([]byte("T"), item...))
	push([]byte{})
	push(item)
	r.expect(h, "1", "\xff2", "\xff2")
	if n := r.metric("holdfast_handler_invalid_total", "pull"); n != 4 {
		t.Errorf("%v invalid messages, want 4", n)
	}
	if n := r.metric("holdfast_handler_published_total", "pull"); n != 3 {
		t.Errorf("%v items, want 3", n)
	}
}

// Nothing is taken before the handler knows all holds.
func TestPullWaitsForRecords(t *testing.T) {
	r := newRig(t, sockets(t))
	h := r.hold(frame.ModeStream, ch("a"))
	r.stop()
	r.net.Pause("connmgr.0")
	r.run()
	push := pushTo(t, r.opt.PushIn)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		push([]byte("J" + stream("a", "1")))
	}()
	r.wait("connmgr is known", func() bool {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.peers) == 1
	})
	select {
	case <-sent:
		t.Fatal("taken before the records were there")
	default:
	}
	r.net.Resume("connmgr.0")
	r.expect(h, "1")
	<-sent
}

func TestCommands(t *testing.T) {
	r := newRig(t, sockets(t))
	h := r.hold(frame.ModeStream, ch("a"))
	poll := r.hold(frame.ModeResponse, ch("p"))
	d, err := bus.NewDealer(bus.SocketOptions{Name: "test", Connect: []string{r.opt.Command}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := func(method string, args any) map[string]any {
		t.Helper()
		req := map[string]any{"id": "7", "method": method}
		if args != nil {
			req["args"] = args
		}
		if err := d.Send(ctx, nil, tnet.Append(nil, req)); err != nil {
			t.Fatal(err)
		}
		parts, err := d.Recv(ctx)
		if err != nil || len(parts) != 2 || len(parts[0]) != 0 {
			t.Fatalf("%s: got %q, %v", method, parts, err)
		}
		v, err := tnet.Decode(parts[1])
		m, ok := v.(map[string]any)
		if err != nil || !ok || m["id"] != "7" {
			t.Fatalf("%s: got %q, %v", method, parts[1], err)
		}
		return m
	}
	expect := func(got map[string]any, success bool, value any, condition any) {
		t.Helper()
		if got["success"] != success || string(tnet.Append(nil, got["value"])) != string(tnet.Append(nil, value)) || got["condition"] != condition {
			t.Errorf("got %v, want success=%v value=%v condition=%v", got, success, value, condition)
		}
	}
	dict := func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	}
	item := dict("channel", "a", "http-stream", dict("content", "x"))
	expect(command("publish", dict("items", []any{item})), true, nil, nil)
	r.expect(h, "x")
	expect(command("publish", dict("items", []any{dict("channel", "a")})), false, "Invalid format: no formats specified", "bad-request")
	expect(command("publish", nil), false, "Invalid format: object does not contain 'items'", "bad-request")
	expect(command("sing", nil), false, nil, "method-not-found")
	expect(command("conncheck", dict("ids", []any{"0-0-1"})), true, []any{"0-0-1"}, nil)
	expect(command("conncheck", dict("ids", []any{"0-0-1", "nobody"})), true, []any{"0-0-1"}, nil)
	r.proxy.mu.Lock()
	x := frame.XID{Conn: "connmgr.0", Boot: 1, ID: 77}
	r.proxy.serves = []frame.FoundConn{{ID: "busy", X: x}}
	r.proxy.mu.Unlock()
	expect(command("conncheck", dict("ids", []any{"busy", "nobody", "0-0-1"})), true, []any{"0-0-1", "busy"}, nil)
	expect(command("conncheck", dict("ids", "x")), false, nil, "bad-request")
	expect(command("refresh", nil), false, nil, "bad-request")
	expect(command("refresh", dict("cid", "nobody")), false, nil, "item-not-found")
	expect(command("refresh", dict("cid", "0-0-1")), false, nil, "item-not-found") // a long-poll
	expect(command("refresh", dict("cid", "busy")), true, nil, nil)
	r.proxy.mu.Lock()
	if got := r.proxy.refreshed; !slices.Equal(got, []string{"nobody", "0-0-1", "busy"}) {
		t.Errorf("the proxy was told to refresh %q", got)
	}
	r.proxy.mu.Unlock()
	expect(command("refresh", dict("channel", "nobody")), true, nil, nil)
	expect(command("get-zmq-uris", nil), true, dict("command", r.opt.Command, "publish-pull", r.opt.PushIn, "publish-sub", r.opt.PushInSub[0]), nil)
	expect(command("recover", nil), true, nil, nil)
	r.wait("the poll is retried", func() (ok bool) {
		r.conn.get(func() { ok = poll.retry != nil })
		return ok
	})
	// What cannot be read gets no answer, and does no harm.
	for _, bad := range [][][]byte{{nil, []byte("T5:abc")}, {[]byte("x")}, {nil, []byte("1:a,")}, {nil, []byte("13:6:method,0:~}")}, {}} {
		if len(bad) > 0 {
			if err := d.Send(ctx, bad...); err != nil {
				t.Fatal(err)
			}
		}
	}
	expect(command("sing", nil), false, nil, "method-not-found")
}

// A proxy that does not answer makes a check fail, one that goes away does not.
func TestCheckFails(t *testing.T) {
	r := newRig(t)
	r.proxy.mu.Lock()
	r.proxy.mute = true
	r.proxy.mu.Unlock()
	r.wait("the handler knows the proxy", func() bool { return len(r.s.opt.Bus.Peers("proxy")) == 1 })
	ask := func() <-chan string {
		answers := make(chan string, 1)
		ok := r.s.command(tnet.Append(nil, map[string]any{"method": "conncheck", "args": map[string]any{"ids": []any{"x"}}}), func(b []byte) {
			answers <- string(b)
		})
		if !ok {
			t.Fatal("not understood")
		}
		return answers
	}
	a := ask()
	r.clock.advance(11 * time.Second)
	if got := <-a; !strings.Contains(got, "20:proxy-request-failed,") {
		t.Errorf("got %s", got)
	}
	a = ask()
	r.proxy.stop()
	if got := <-a; !strings.Contains(got, "7:success,4:true!") {
		t.Errorf("got %s", got)
	}
	r.proxy.start() // for the end of the test
}

// TestPython publishes with libzmq by all three sockets.
func TestPython(t *testing.T) {
	python := need.PyZMQ(t)
	r := newRig(t, sockets(t))
	cmd := exec.Command(python, "-c", `
import sys, zmq
pull, sub, command = sys.argv[1:]
ctx = zmq.Context()
def sock(kind, spec):
    s = ctx.socket(kind)
    s.RCVTIMEO = 15000
    s.LINGER = 5000
    s.connect(spec)
    return s
xpub = sock(zmq.XPUB, sub)
print('ready', flush=True)
def item(channel, content):
    return ('J{"channel":"%s","http-stream":{"content":"%s"}}' % (channel, content)).encode()
assert xpub.recv() == b'\x01test', 'subscription'
xpub.send_multipart([b'test', item('other', 'by sub')])
xpub.send_multipart([b'test-2', item('test', 'not this')])
push = sock(zmq.PUSH, pull)
push.send(item('test', 'by pull'))
sys.stdin.readline()
req = sock(zmq.REQ, command)
req.send(b'49:6:method,7:publish,4:args,20:5:items,8:7:nothing,]}}')
`+"", r.opt.PushIn, r.opt.PushInSub[0], r.opt.Command)
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("got %q, %v: %s", line, err, stderr.String())
	}
	h := r.hold(frame.ModeStream, ch("test"))
	r.wait("both items arrive", func() (ok bool) {
		r.conn.get(func() { ok = len(h.got) == 2 })
		return ok
	})
	r.conn.get(func() {
		got := strings.Join(h.got, ",")
		if got != "by sub,by pull" && got != "by pull,by sub" {
			t.Errorf("got %s", got)
		}
	})
	if _, err := io.WriteString(stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
}

// The SUB socket is subscribed to the channels that have subscribers, and to no
// others.
func TestSubTopics(t *testing.T) {
	r := newRig(t, sockets(t))
	xpub, err := bus.NewPub(bus.SocketOptions{Name: "test", Connect: r.opt.PushInSub})
	if err != nil {
		t.Fatal(err)
	}
	defer xpub.Close()
	got := 0
	h := r.hold(frame.ModeStream, ch("t"))
	r.wait("the subscription reaches the publisher", func() bool {
		_ = xpub.Send([]byte("t"), []byte("J"+stream("x", "1")))
		r.conn.get(func() { got = len(h.got) })
		return got > 0
	})
	r.conn.leave(h)
	r.wait("the channel ends", func() bool { return r.metric("holdfast_handler_channels", "") == 0 })
	// PUB sends in order: once an item for a later subscription is there, those
	// for the ended one would be.
	h2 := r.hold(frame.ModeStream, ch("u"))
	r.wait("the next subscription reaches the publisher", func() bool {
		before := r.metric("holdfast_handler_published_total", "sub")
		_ = xpub.Send([]byte("u"), []byte("J"+stream("x", "1")))
		r.conn.get(func() { got = len(h2.got) })
		return got > 0 && before > 0
	})
	before := r.metric("holdfast_handler_published_total", "sub")
	for range 10 {
		_ = xpub.Send([]byte("t"), []byte("J"+stream("x", "1")))
	}
	var want int
	r.conn.get(func() { want = len(h2.got) })
	_ = xpub.Send([]byte("u"), []byte("J"+stream("x", "last")))
	r.wait("the last item arrives", func() bool {
		r.conn.get(func() { got = len(h2.got) })
		return got > want
	})
	if after := r.metric("holdfast_handler_published_total", "sub"); after > before+float64(got) {
		t.Errorf("%v items arrived meanwhile, the topic was given up", after-before)
	}
}
