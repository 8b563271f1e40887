package connmgr

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

// wsRig is a server with a fake proxy and a fake handler for WebSockets.
type wsRig struct {
	*rig
	p, h *far
}

func newWSRig(t *testing.T, change ...func(*Options)) *wsRig {
	t.Helper()
	r := newRig(t, change...)
	return &wsRig{r, r.far("proxy.0", nil), r.far("handler.0", nil)}
}

// wsClient is a client that writes its frames itself.
type wsClient struct {
	*client
	id  uint64 // of the exchange
	seq uint64 // of the proxy's next frame
	p   *far
}

const wsRequest = "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// open makes a handshake. If groups are given, a handler holds the connection;
// with a session record, it can be handed on.
func (r *wsRig) open(session string, groups ...string) *wsClient {
	r.t.Helper()
	return r.openOn(r.dial(), session, groups...)
}

func (r *wsRig) openOn(conn *client, session string, groups ...string) *wsClient {
	r.t.Helper()
	c := &wsClient{client: conn, p: r.p}
	c.client.send(wsRequest + "\r\n")
	req := next[*frame.Request](r.p)
	if !req.Upgrade {
		r.t.Fatalf("not an upgrade: %+v", req)
	}
	c.id = req.ID
	if session != "" {
		c.far(&frame.Session{Record: []byte(session)})
	}
	if len(groups) > 0 {
		r.h.send(&frame.Hold{ID: c.id, Mode: frame.ModeWebSocket, Groups: groups, Record: []byte("rec")})
	}
	c.far(&frame.Response{Code: 101})
	head := c.head()
	if !strings.HasPrefix(head, "HTTP/1.1 101 Switching Protocols\r\n") || !strings.Contains(head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n") {
		r.t.Fatalf("head %q", head)
	}
	if len(groups) > 0 {
		r.settled(c)
	}
	return c
}

// settled waits until the writer has taken the connection up.
func (r *wsRig) settled(c *wsClient) {
	c.far(&frame.Message{Kind: frame.MessagePing, Data: []byte("settled")})
	c.want(0x89, "settled")
}

// far sends frames of the proxy.
func (c *wsClient) far(frames ...frame.Frame) {
	for _, f := range frames {
		switch f := f.(type) {
		case *frame.Session:
			f.ID, f.Seq = c.id, c.seq
		case *frame.Response:
			f.ID, f.Seq = c.id, c.seq
		case *frame.Message:
			f.ID, f.Seq = c.id, c.seq
		case *frame.Tune:
			f.ID, f.Seq = c.id, c.seq
		case *frame.Credit:
			f.ID, f.Seq = c.id, c.seq
		case *frame.Cancel:
			f.ID, f.Seq = c.id, c.seq
		}
		c.seq++
		c.p.send(f)
	}
}

func masked(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// frame sends one frame.
func (c *wsClient) frame(first byte, payload string) {
	c.t.Helper()
	c.client.send(masked(first, payload))
}

// next reads one frame.
func (c *wsClient) next() (first byte, payload string) {
	c.t.Helper()
	var b [8]byte
	read := func(p []byte) {
		c.t.Helper()
		if _, err := io.ReadFull(c.br, p); err != nil {
			c.t.Fatalf("no frame: %v", err)
		}
	}
	read(b[:2])
	first = b[0]
	n := uint64(b[1])
	switch n {
	case 126:
		read(b[:2])
		n = uint64(binary.BigEndian.Uint16(b[:2]))
	case 127:
		read(b[:8])
		n = binary.BigEndian.Uint64(b[:8])
	}
	p := make([]byte, n)
	read(p)
	return first, string(p)
}

func (c *wsClient) want(first byte, payload string) {
	c.t.Helper()
	if f, p := c.next(); f != first || p != payload {
		c.t.Fatalf("got frame %#x %.100q, want %#x %.100q", f, p, first, payload)
	}
}

func status(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// message expects a message of the client at the proxy.
func (c *wsClient) message(kind uint8, data string, more bool) {
	c.t.Helper()
	m := next[*frame.Message](c.p)
	if m.Kind != kind || string(m.Data) != data || m.More != more {
		c.t.Fatalf("proxy got kind %d %.100q more=%v, want kind %d %.100q more=%v", m.Kind, m.Data, m.More, kind, data, more)
	}
}

func text(s string) *frame.Message { return &frame.Message{Kind: frame.MessageText, Data: []byte(s)} }

func wsPublish(pub uint64, group, body string) *frame.Deliver {
	return &frame.Deliver{Pub: pub, Group: group, Mode: frame.ModeWebSocket, Action: frame.ActionSend, Kind: frame.MessageText, Body: []byte(body)}
}

func TestWebSocketMessagesBothWays(t *testing.T) {
	r := newWSRig(t)
	c := r.open("")
	c.frame(0x81, "hello")
	c.message(frame.MessageText, "hello", false)
	c.frame(0x82, "\xff\x00")
	c.message(frame.MessageBinary, "\xff\x00", false)
	c.frame(0x81, "")
	c.message(frame.MessageText, "", false)
	// Fragments, with a ping between them and a character cut in two.
	c.frame(0x01, "caf\xc3")
	c.frame(0x89, "ping")
	c.frame(0x00, "\xa9")
	c.frame(0x80, "!")
	c.message(frame.MessagePing, "ping", false)
	c.message(frame.MessageText, "café!", false)
	c.frame(0x8a, "pong")
	c.message(frame.MessagePong, "pong", false)
	// Larger than a part.
	big := strings.Repeat("é", frame.MaxBodyPart/2+100)
	c.frame(0x81, big)
	c.message(frame.MessageText, big[:frame.MaxBodyPart], true)
	c.message(frame.MessageText, big[frame.MaxBodyPart:], false)

	c.far(text("to you"), &frame.Message{Kind: frame.MessageBinary}, &frame.Message{Kind: frame.MessagePong, Data: []byte("p")})
	c.want(0x81, "to you")
	c.want(0x82, "")
	c.want(0x8a, "p")
	// In parts, with a control frame between.
	c.far(&frame.Message{Kind: frame.MessageText, Data: []byte("one "), More: true}, &frame.Message{Kind: frame.MessagePing},
		&frame.Message{Kind: frame.MessageText, Data: []byte("two"), More: true}, text(""))
	c.want(0x01, "one ")
	c.want(0x89, "")
	c.want(0x00, "two")
	c.want(0x80, "")
	// Longer than a frame of ours.
	long := strings.Repeat("x", wsFragment+1)
	c.far(text(long))
	c.want(0x01, long[:wsFragment])
	c.want(0x80, "x")
}

func TestWebSocketHandshakeKeepsTheOriginsFields(t *testing.T) {
	r := newWSRig(t)
	c := r.dial()
	c.send(wsRequest + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
	req := next[*frame.Request](r.p)
	r.p.send(&frame.Response{ID: req.ID, Code: 101, Reason: "Fine", Header: []frame.Field{
		{Name: "sEC-webSocket-PROTOCOL", Value: "chat"}, {Name: "Connection", Value: "x"}, {Name: "Content-Length", Value: "3"}, {Name: "Sec-WebSocket-Accept", Value: "x"},
	}})
	want := "HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
		"sEC-webSocket-PROTOCOL: chat\r\n\r\n"
	got := c.head()
	if ext := "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"; r.s.opt.Compression {
		got = strings.Replace(got, ext, "", 1)
	}
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestWebSocketRefusals(t *testing.T) {
	r := newWSRig(t)
	for _, head := range []string{
		"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
		"POST /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 0\r\n\r\n",
	} {
		c := r.dial()
		c.send(head)
		if got := c.head(); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
			t.Errorf("%q: got %q", head, got)
		}
	}
	// An origin's refusal is an ordinary response.
	c := r.dial()
	c.send(wsRequest + "\r\n")
	req := next[*frame.Request](r.p)
	r.p.send(&frame.Response{ID: req.ID, Code: 403, Reason: "No", BodyLen: 4, Body: []byte("no.\n")})
	if got := c.head(); !strings.HasPrefix(got, "HTTP/1.1 403 No\r\n") {
		t.Errorf("got %q", got)
	}
	c.expect("no.\n")
}

func TestWebSocketClose(t *testing.T) {
	r := newWSRig(t)
	t.Run("client first", func(t *testing.T) {
		c := r.open("", "g")
		c.frame(0x88, status(4001, "bye"))
		m := next[*frame.Message](r.p)
		if m.Kind != frame.MessageClose || m.Code != 4001 || string(m.Data) != "bye" {
			t.Fatalf("proxy got %+v", m)
		}
		c.far(text("last words"), &frame.Message{Kind: frame.MessageClose, Code: 4002, Data: []byte("indeed")})
		c.want(0x81, "last words")
		c.want(0x88, status(4002, "indeed"))
		if err := c.end(); err != nil {
			t.Error(err)
		}
		if f := next[*frame.Closed](r.h); f.Reason != frame.ReasonFinished {
			t.Errorf("handler was told %v", f.Reason)
		}
	})
	t.Run("origin first", func(t *testing.T) {
		c := r.open("")
		c.far(&frame.Message{Kind: frame.MessageClose})
		c.want(0x88, status(1000, ""))
		c.frame(0x88, status(1000, "x"))
		m := next[*frame.Message](r.p)
		if m.Kind != frame.MessageClose || m.Code != 1000 || string(m.Data) != "x" {
			t.Fatalf("proxy got %+v", m)
		}
		if err := c.end(); err != nil {
			t.Error(err)
		}
	})
	t.Run("no status", func(t *testing.T) {
		c := r.open("")
		c.frame(0x88, "")
		if m := next[*frame.Message](r.p); m.Kind != frame.MessageClose || m.Code != 0 {
			t.Fatalf("proxy got %+v", m)
		}
		c.far(&frame.Message{Kind: frame.MessageClose, Code: 1005})
		c.want(0x88, status(1000, ""))
		_ = c.end()
	})
	t.Run("client gone", func(t *testing.T) {
		c := r.open("", "g")
		_ = c.Close()
		if f := next[*frame.Cancel](r.p); f.Reason != frame.ReasonClientGone {
			t.Errorf("proxy was told %v", f.Reason)
		}
		if f := next[*frame.Closed](r.h); f.Reason != frame.ReasonClientGone {
			t.Errorf("handler was told %v", f.Reason)
		}
	})
	t.Run("origin cut", func(t *testing.T) {
		c := r.open("")
		c.far(&frame.Cancel{Reason: frame.ReasonOriginFailed})
		_ = c.end()
	})
}

func TestWebSocketCloseTimeouts(t *testing.T) {
	r := newWSRig(t)
	c := r.open("")
	c.far(&frame.Message{Kind: frame.MessageClose, Code: 1000})
	c.want(0x88, status(1000, ""))
	r.clock.add(wsCloseTime + time.Second)
	_ = c.end() // it never answered

	c = r.open("")
	c.frame(0x88, status(4321, ""))
	next[*frame.Message](r.p)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = c.br.Peek(1)
	}()
	poll.Until(t, "close frame is seen", func() bool {
		r.clock.add(wsCloseAnswer + time.Second)
		select {
		case <-answered:
			return true
		default:
			return false
		}
	})
	c.want(0x88, status(4321, "")) // nobody answered, so we do
	_ = c.end()
}

func TestWebSocketFaultsOfClients(t *testing.T) {
	r := newWSRig(t)
	for name, test := range map[string]struct {
		bytes string
		code  uint16
	}{
		"text that is not UTF-8":    {masked(0x81, "\xff"), 1007},
		"character cut at the end":  {masked(0x81, "a\xc3"), 1007},
		"cut between fragments":     {masked(0x01, "\xc3") + masked(0x80, "a"), 1007},
		"surrogate":                 {masked(0x81, "\xed\xa0\x80"), 1007},
		"not masked":                {"\x81\x01a", 1002},
		"reserved bit":              {masked(0xc1, "a"), 1002},
		"unknown opcode":            {masked(0x83, "a"), 1002},
		"continuation of nothing":   {masked(0x80, "a"), 1002},
		"message inside a message":  {masked(0x01, "a") + masked(0x81, "b"), 1002},
		"ping in parts":             {masked(0x09, "a"), 1002},
		"long ping":                 {masked(0x89, strings.Repeat("a", 126)), 1002},
		"close code that is no one": {masked(0x88, status(1005, "")), 1002},
		"close of one byte":         {masked(0x88, "\x03"), 1002},
		"close reason not UTF-8":    {masked(0x88, status(1000, "\xff")), 1007},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.open("", "g")
			c.client.send(test.bytes)
			first, payload := c.next()
			if first != 0x88 || !strings.HasPrefix(payload, status(test.code, "")) {
				t.Errorf("got %#x %q, want close %d", first, payload, test.code)
			}
			_ = c.end()
			if f := next[*frame.Cancel](r.p); f.Reason != frame.ReasonProtocolError || f.ID != c.id {
				t.Errorf("proxy was told %+v", f)
			}
			if f := next[*frame.Closed](r.h); f.Reason != frame.ReasonProtocolError {
				t.Errorf("handler was told %+v", f)
			}
		})
	}
	t.Run("too big to be kept", func(t *testing.T) {
		c := r.open("session")
		c.frame(0x82, strings.Repeat("x", wsMaxKept))
		if m := next[*frame.Message](r.p); len(m.Data) != wsMaxKept || m.More {
			t.Fatalf("%d bytes", len(m.Data))
		}
		c.far(&frame.Credit{N: 1 << 20})
		c.frame(0x82, strings.Repeat("x", wsMaxKept+1))
		c.want(0x88, status(1009, ""))
	})
}

func TestWebSocketPublications(t *testing.T) {
	r := newWSRig(t)
	a, b := r.open("", "g"), r.open("", "g", "other")
	r.h.send(wsPublish(1, "g", "news"))
	a.want(0x81, "news")
	b.want(0x81, "news")
	if n, _ := r.h.outcome(1, 2); n != 2 {
		t.Errorf("%d delivered", n)
	}
	// One of them alone, a binary one, and a ping.
	r.h.send(&frame.Deliver{Pub: 2, Only: []uint64{b.id}, Mode: frame.ModeWebSocket, Action: frame.ActionSend, Kind: frame.MessageBinary, Body: []byte{1}})
	b.want(0x82, "\x01")
	r.h.send(&frame.Deliver{Pub: 3, Group: "g", Except: []uint64{a.id}, Mode: frame.ModeWebSocket, Action: frame.ActionSend, Kind: frame.MessagePing})
	b.want(0x89, "")
	// Groups change.
	r.h.send(&frame.Update{ID: a.id, Seq: 1, Groups: []string{"new"}, Record: []byte("rec2")})
	r.h.send(wsPublish(4, "g", "for b"), wsPublish(5, "new", "for a"))
	a.want(0x81, "for a")
	b.want(0x81, "for b")
	// A close.
	r.h.send(&frame.Deliver{Pub: 6, Group: "g", Mode: frame.ModeWebSocket, Action: frame.ActionClose, Code: 4000, Reason: "over"})
	b.want(0x88, status(4000, "over"))
	if f := next[*frame.Tune](r.p); f.ID != b.id || f.Op != frame.TuneShut {
		t.Errorf("proxy got %+v", f)
	}
	b.frame(0x88, status(4000, ""))
	_ = b.end()
	if n, _ := r.h.outcome(6, 1); n != 1 {
		t.Errorf("%d closed", n)
	}
	r.h.send(wsPublish(7, "g", "nobody"), wsPublish(8, "new", "still there"))
	a.want(0x81, "still there")
}

func TestWebSocketPublicationsStayOutOfMessages(t *testing.T) {
	r := newWSRig(t, func(o *Options) { o.MaxBacklog = 200 })
	c := r.open("", "g")
	part := func(s string) *frame.Message {
		return &frame.Message{Kind: frame.MessageText, Data: []byte(s), More: true}
	}
	c.far(part("a"))
	c.want(0x01, "a")
	r.h.send(wsPublish(1, "g", "p1"), wsPublish(2, "g", "p2"))
	r.s.waiting(t, 8)
	c.far(part("b"), text("c"))
	c.want(0x00, "b")
	c.want(0x80, "c")
	c.want(0x81, "p1")
	c.want(0x81, "p2")
	if n, _ := r.h.outcome(2, 1); n != 1 {
		t.Errorf("%d delivered", n)
	}
	// A close in the middle: what waits is dropped, and said to be.
	c.far(part("a"))
	c.want(0x01, "a")
	r.h.send(wsPublish(3, "g", "p3"))
	r.s.waiting(t, 4)
	c.far(&frame.Message{Kind: frame.MessageClose, Code: 1000})
	c.want(0x88, status(1000, ""))
	c.frame(0x88, status(1000, ""))
	_ = c.end()
	if n, dropped := r.h.outcome(3, 1); n != 0 || dropped[frame.ReasonFinished] != 1 {
		t.Errorf("%d delivered, dropped %v", n, dropped)
	}
	// Too many wait.
	c = r.open("", "g")
	c.far(part("a"))
	c.want(0x01, "a")
	r.h.send(wsPublish(4, "g", strings.Repeat("x", 90)), wsPublish(5, "g", strings.Repeat("x", 90)))
	for _, pub := range []uint64{4, 5} {
		if n, dropped := r.h.outcome(pub, 1); n != 0 || dropped[frame.ReasonBacklogFull] != 1 {
			t.Errorf("publication %d: %d delivered, dropped %v", pub, n, dropped)
		}
	}
	_ = c.end()
}

// waiting waits until so many bytes wait for clients.
func (s *Server) waiting(t *testing.T, bytes float64) {
	t.Helper()
	poll.Until(t, "publications wait", func() bool { return counterValue(s.metrics.backlog) == bytes })
}

func TestWebSocketBacklogPolicies(t *testing.T) {
	for name, policy := range map[string]frame.Policy{"close": frame.PolicyClose, "drop oldest": frame.PolicyDropOldest, "latest": frame.PolicyLatest} {
		t.Run(name, func(t *testing.T) {
			r := newWSRig(t, func(o *Options) { o.MaxBacklog, o.Policy = 64<<10, policy })
			c := r.open("", "g")
			const n = 400
			body := strings.Repeat("x", 32<<10)
			for i := range uint64(n) {
				r.h.send(wsPublish(i, "g", body))
			}
			r.h.send(wsPublish(n, "g", "last"))
			if policy == frame.PolicyClose {
				if f := next[*frame.Closed](r.h); f.Reason != frame.ReasonBacklogFull {
					t.Errorf("ended for %v", f.Reason)
				}
				return
			}
			// More than the system takes for a client that does not read.
			poll.Until(t, "something is dropped", func() bool {
				return counterValue(r.s.metrics.droppedBy[frame.ReasonBacklogFull]) > 0
			})
			got := 0
			for {
				first, p := c.next()
				if first != 0x81 {
					t.Fatalf("frame %#x", first)
				}
				if p == "last" {
					break
				}
				if p != body {
					t.Fatal("a message is damaged")
				}
				got++
			}
			delivered, dropped := 0, 0
			for i := range uint64(n + 1) {
				d, lost := r.h.outcome(i, 1)
				delivered += d
				dropped += lost[frame.ReasonBacklogFull]
			}
			if delivered != got+1 || delivered+dropped != n+1 || dropped == 0 {
				t.Errorf("client has %d, delivered %d, dropped %d, of %d", got+1, delivered, dropped, n+1)
			}
		})
	}
}

func TestWebSocketTunes(t *testing.T) {
	r := newWSRig(t)
	c := r.open("", "g")
	c.far(&frame.Tune{Op: frame.TuneKeepAlive, Data: []byte("alive"), Kind: frame.MessageText, Millis: 20_000})
	r.settled(c)
	r.clock.add(21 * time.Second)
	c.want(0x81, "alive")
	r.h.alive(c.id)
	c.far(&frame.Tune{Op: frame.TuneKeepAlive, Kind: frame.MessagePing, Millis: 20_000, Interval: true})
	r.settled(c)
	r.clock.add(21 * time.Second)
	c.want(0x89, "")
	c.far(&frame.Tune{Op: frame.TuneKeepAlive})
	// A second delayed message sends the first.
	c.far(&frame.Tune{Op: frame.TuneDelay, Data: []byte("d1"), Kind: frame.MessageText, Millis: 5000},
		&frame.Tune{Op: frame.TuneDelay, Data: []byte("d2"), Kind: frame.MessageText, Millis: 5000})
	c.want(0x81, "d1")
	r.settled(c)
	r.clock.add(6 * time.Second)
	c.want(0x81, "d2")
	c.far(&frame.Tune{Op: frame.TuneDelay, Data: []byte("d3"), Kind: frame.MessageBinary, Millis: 5000}, &frame.Tune{Op: frame.TuneFlush})
	c.want(0x82, "d3")
	c.far(&frame.Tune{Op: frame.TuneFlush}, text("flushed nothing"))
	c.want(0x81, "flushed nothing")
	// Detached: the client stays, and is answered by us.
	c.far(&frame.Tune{Op: frame.TuneDelay, Data: []byte("d4"), Kind: frame.MessageText, Millis: 5000}, &frame.Tune{Op: frame.TuneDetach})
	poll.Until(t, "the proxy has let go", func() bool {
		x := r.s.exchange(c.id)
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.far == nil
	})
	c.frame(0x81, "for nobody")
	r.h.send(wsPublish(1, "g", "still here"))
	c.want(0x81, "still here")
	r.clock.add(6 * time.Second)
	c.want(0x81, "d4")
	r.p.stop()
	r.h.send(wsPublish(2, "g", "and here"))
	c.want(0x81, "and here")
	c.frame(0x88, status(4000, ""))
	c.want(0x88, status(1000, ""))
	_ = c.end()
	if len(r.p.frames) > 0 {
		if m, ok := (<-r.p.frames).(*frame.Message); ok {
			t.Errorf("proxy got %+v after detach", m)
		}
	}
}

func TestWebSocketClientIsBounded(t *testing.T) {
	for name, unit := range map[string]string{"large": masked(0x82, strings.Repeat("x", 16<<10)), "empty": masked(0x82, ""), "ping": masked(0x89, "")} {
		for _, session := range []string{"", "session"} {
			t.Run(name+session, func(t *testing.T) {
				r := newWSRig(t)
				c := r.open(session)
				r.p.stop() // with a session nobody takes messages now; without one it is closed
				if session == "" {
					c.want(0x88, status(wsRestart, ""))
					return
				}
				x := r.s.exchange(c.id)
				chunk := strings.Repeat(unit, max(1, 32<<10/len(unit)))
				_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
				var err error
				for sent := 0; err == nil && sent < 64<<20; sent += len(chunk) {
					_, err = io.WriteString(c.Conn, chunk)
				}
				if err == nil {
					t.Error("64 MiB were read from the client")
				}
				x.mu.Lock()
				defer x.mu.Unlock()
				if n := len(x.ws.parts); n > wsMaxParts || x.ws.unsent > wsUnsent+wsMaxKept {
					t.Errorf("%d parts with %d bytes are kept", n, x.ws.unsent)
				}
			})
		}
	}
}

func (s *Server) exchange(id uint64) *exch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exchanges[id]
}

func TestWebSocketWithoutSessionEndsWithItsProxy(t *testing.T) {
	r := newWSRig(t)
	c := r.open("", "g")
	r.p.stop()
	c.want(0x88, status(1012, ""))
	c.frame(0x88, status(1012, ""))
	_ = c.end()
	next[*frame.Closed](r.h)
}

func TestWebSocketSessionIsHandedOn(t *testing.T) {
	r := newWSRig(t)
	c := r.open("first", "g")
	for _, s := range []string{"m1", "m2", "m3"} {
		c.frame(0x81, s)
		c.message(frame.MessageText, s, false)
	}
	c.far(&frame.Session{Record: []byte("second"), Acked: 1})
	r.settled(c)
	r.p.stop()
	r.orphaned(c)
	c.frame(0x81, "m4") // while nobody is there
	r.h.send(wsPublish(1, "g", "meanwhile"))
	c.want(0x81, "meanwhile")
	c.p = r.far("proxy.0", nil)
	req := next[*frame.Request](c.p)
	if req.ID != c.id || string(req.Session) != "second" || !req.Resend || !req.Upgrade {
		t.Errorf("handed on: %+v", req)
	}
	c.message(frame.MessageText, "m2", false)
	c.message(frame.MessageText, "m3", false)
	c.message(frame.MessageText, "m4", false)
	c.seq = 0
	c.far(&frame.Session{Record: []byte("third"), Acked: 3}, text("I am back"))
	c.want(0x81, "I am back")
	// And once more, to one that is there already.
	other := r.far("proxy.1", nil)
	c.p.stop()
	c.p = other
	if req := next[*frame.Request](c.p); string(req.Session) != "third" {
		t.Errorf("handed on: %+v", req)
	}
	c.frame(0x81, "m5")
	c.message(frame.MessageText, "m5", false)
}

func TestWebSocketRecordsForANewHandler(t *testing.T) {
	r := newWSRig(t)
	c := r.open("", "g")
	r.open("") // no handler knows of it
	r.h.send(&frame.Update{ID: c.id, Seq: 1, Groups: []string{"g", "h"}, Record: []byte("newer")})
	r.h.send(wsPublish(1, "h", "one"))
	c.want(0x81, "one")
	r.h.stop()
	h := r.far("handler.0", nil)
	recs := next[*frame.Records](h)
	if len(recs.Holds) != 1 || recs.Holds[0].ID != c.id || string(recs.Holds[0].Record) != "newer" || recs.Holds[0].SendSeq != 2 {
		t.Fatalf("records %+v", recs)
	}
	h.send(&frame.Update{ID: c.id, Seq: 2, Groups: []string{"i"}, Record: []byte("rec")}, wsPublish(1, "i", "two"), wsPublish(2, "h", "no"))
	c.want(0x81, "two")
	c.far(text("three"))
	c.want(0x81, "three")
	_ = c.Close()
	if f := next[*frame.Closed](h); f.Seq != recs.Holds[0].RecvSeq {
		t.Errorf("closed has number %d, want %d", f.Seq, recs.Holds[0].RecvSeq)
	}
}

func TestWebSocketCompression(t *testing.T) {
	r := newWSRig(t, func(o *Options) { o.Compression = true })
	d := websocket.Dialer{EnableCompression: true}
	type result struct {
		ws   *websocket.Conn
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		ws, resp, err := d.Dial("ws://"+r.addr+"/ws", nil)
		done <- result{ws, resp, err}
	}()
	req := next[*frame.Request](r.p)
	c := &wsClient{client: &client{t: t}, id: req.ID, p: r.p}
	r.h.send(&frame.Hold{ID: c.id, Mode: frame.ModeWebSocket, Groups: []string{"g"}})
	c.far(&frame.Response{Code: 101})
	res := <-done
	if res.err != nil {
		t.Fatal(res.err)
	}
	defer res.ws.Close()
	if ext := res.resp.Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(ext, "permessage-deflate") {
		t.Fatalf("extensions %q", ext)
	}
	big := strings.Repeat("compressible ", 20_000)
	if err := res.ws.WriteMessage(websocket.TextMessage, []byte(big)); err != nil {
		t.Fatal(err)
	}
	got := ""
	for {
		m := next[*frame.Message](r.p)
		got += string(m.Data)
		c.far(&frame.Credit{N: uint64(m.Cost())})
		if !m.More {
			break
		}
	}
	if got != big {
		t.Error("message of the client is damaged")
	}
	plain := r.open("", "g") // one that does not compress, in the same group
	for i, s := range []string{big, "", "x"} {
		r.h.send(wsPublish(uint64(i), "g", s))
		c.far(text(s))
		for range 2 {
			_ = res.ws.SetReadDeadline(time.Now().Add(patience))
			if _, b, err := res.ws.ReadMessage(); err != nil || string(b) != s {
				t.Fatalf("got %d bytes, %v, want %d", len(b), err, len(s))
			}
		}
	}
	whole := ""
	for len(whole) < len(big) {
		_, p := plain.next()
		whole += p
	}
	plain.want(0x81, "")
	plain.want(0x81, "x")
	_ = res.ws.Close()
	if f := next[*frame.Closed](r.h); f.Sent == 0 || f.Sent > 20_000 {
		t.Errorf("%d bytes were sent", f.Sent)
	}
}

func TestOffersDeflate(t *testing.T) {
	for offer, want := range map[string]bool{
		"":                   false,
		"permessage-deflate": true,
		"permessage-deflate; client_max_window_bits":                                 true,
		"permessage-deflate; client_max_window_bits=10":                              true,
		`permessage-deflate; client_max_window_bits="10"`:                            true,
		"permessage-deflate; client_max_window_bits=":                                false,
		"permessage-deflate; client_max_window_bits=7":                               false,
		"permessage-deflate; client_max_window_bits=16":                              false,
		"permessage-deflate; server_max_window_bits=15":                              true,
		"permessage-deflate; server_max_window_bits=10":                              false,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":          true,
		"permessage-deflate; server_max_window_bits":                                 false,
		"permessage-deflate; server_no_context_takeover; client_no_context_takeover": true,
		"permessage-deflate; server_no_context_takeover=1":                           false,
		"permessage-deflate; server_no_context_takeover; server_no_context_takeover": false,
		"permessage-deflate; unknown":                                                false,
		"x-webkit-deflate-frame, permessage-deflate":                                 true,
		"permessage-deflate-x":                                                       false,
	} {
		if got := offersDeflate([]frame.Field{{Name: "sec-websocket-extensions", Value: offer}}); got != want {
			t.Errorf("%q: %v", offer, got)
		}
	}
}

func TestCloseFrame(t *testing.T) {
	for _, test := range []struct {
		code   uint16
		reason string
		want   string
	}{
		{1000, "ok", status(1000, "ok")},
		{0, "lost", status(1000, "")},
		{1005, "", status(1000, "")},
		{1006, "", status(1000, "")},
		{1015, "", status(1000, "")},
		{2999, "", status(1000, "")},
		{3000, "", status(3000, "")},
		{4999, "", status(4999, "")},
		{5000, "", status(1000, "")},
		{1000, strings.Repeat("x", 200), status(1000, strings.Repeat("x", 123))},
		{1000, strings.Repeat("é", 100), status(1000, strings.Repeat("é", 61))},
	} {
		got := wsCloseFrame(test.code, []byte(test.reason))
		if want := slices.Concat([]byte{0x88, byte(len(test.want))}, []byte(test.want)); string(got) != string(want) {
			t.Errorf("%d %q: %q, want %q", test.code, test.reason, got, want)
		}
	}
}

func TestWebSocketsEndWithTheServer(t *testing.T) {
	r := newWSRig(t)
	c := r.open("session", "g")
	d := r.open("")
	r.stop()
	c.want(0x88, status(1001, ""))
	d.want(0x88, status(1001, ""))
}

// A proxy that takes a session over counts what the origin has taken from the
// messages that it was given.
func TestWebSocketAcksAfterHandingOn(t *testing.T) {
	r := newWSRig(t)
	c := r.open("first")
	for range 3 {
		c.frame(0x81, "m")
		c.message(frame.MessageText, "m", false)
	}
	c.far(&frame.Session{Record: []byte("second"), Acked: 3})
	r.settled(c)
	r.p.stop()
	c.p, c.seq = r.far("proxy.0", nil), 0
	next[*frame.Request](c.p)
	c.frame(0x81, "m4")
	c.message(frame.MessageText, "m4", false)
	c.far(&frame.Session{Record: []byte("third"), Acked: 1})
	r.settled(c)
	x := r.s.exchange(c.id)
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.ws.parts); n != 0 {
		t.Errorf("%d messages are kept that the origin has taken", n)
	}
}

// An origin that took its time to answer the handshake used to leave the
// connection with a read deadline in the past, which the watcher of slow
// exchanges had set, and so the client was cut at once.
func TestWebSocketAfterASlowHandshake(t *testing.T) {
	r := newWSRig(t)
	c := &wsClient{client: r.dial(), p: r.p}
	c.client.send(wsRequest + "\r\n")
	c.id = next[*frame.Request](r.p).ID
	<-time.After(2 * watchAfter) // what is tested is the passing of this time
	c.far(&frame.Response{Code: 101})
	c.head()
	c.frame(0x81, "hello")
	if m := next[*frame.Message](r.p); string(m.Data) != "hello" {
		t.Errorf("got %q", m.Data)
	}
	r.settled(c)
}

func TestScanner(t *testing.T) {
	good := masked(0xc1, "compressed") + masked(0x89, "") + masked(0x01, strings.Repeat("x", 70000)) + masked(0x80, strings.Repeat("y", 200)) + masked(0x88, "")
	for name, bad := range map[string]string{
		"": "", "RSV1 on a continuation": masked(0xc0, "a"), "RSV1 on a ping": masked(0xc9, "a"), "close of one byte": masked(0x88, "a"),
	} {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			var s wsScanner
			stream, passed := []byte(good+bad), 0
			for len(stream) > 0 && !s.fault {
				piece := stream[:min(size, len(stream))]
				stream = stream[len(piece):]
				for len(piece) > 0 && !s.fault {
					n := s.pass(piece)
					passed += n
					piece = piece[n:]
				}
			}
			if s.fault != (bad != "") || passed < len(good) || s.fault && passed >= len(good)+6 {
				t.Errorf("%q in pieces of %d: fault %v after %d of %d good bytes", name, size, s.fault, passed, len(good))
			}
		}
	}
}

// A WebSocket of which nothing comes costs no stack, and is read from as soon as
// something does, however that is cut.
func TestQuietWebSocket(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (*wsRig, func() *client){
		"plain": func(t *testing.T) (*wsRig, func() *client) {
			r := newWSRig(t)
			return r, r.dial
		},
		"no poller": func(t *testing.T) (*wsRig, func() *client) {
			r := newWSRig(t)
			if r.s.poller != nil {
				r.s.poller.close() // now it takes no sockets
			}
			return r, r.dial
		},
		"TLS": func(t *testing.T) (*wsRig, func() *client) {
			r, dial := tlsRig(t)
			return &wsRig{r, r.far("proxy.0", nil), r.far("handler.0", nil)}, dial
		},
	} {
		t.Run(name, func(t *testing.T) {
			const n = 40
			r, dial := open(t)
			before := runtime.NumGoroutine()
			clients := make([]*wsClient, n)
			for i := range clients {
				c := &wsClient{client: dial(), p: r.p}
				c.client.send(wsRequest + "\r\n")
				c.id = next[*frame.Request](r.p).ID
				c.far(&frame.Response{Code: 101})
				c.head()
				clients[i] = c
			}
			rests := func() bool { return runtime.NumGoroutine() < before+n/2 }
			polls := r.s.poller != nil && name != "no poller"
			if polls {
				poll.Until(t, "goroutines end", rests)
			}
			for i, c := range clients {
				switch i % 4 {
				case 0:
					c.frame(0x81, "whole")
				case 1: // a ping in front, and one behind
					c.client.send(masked(0x89, "p") + masked(0x81, "whole") + masked(0x8a, "q"))
					if m := next[*frame.Message](r.p); m.ID != c.id || m.Kind != frame.MessagePing {
						t.Fatalf("got %+v, want a ping", m)
					}
				case 2: // in pieces, with a ping between them
					m := masked(0x81, "whole")
					c.client.send(masked(0x89, "p"))
					if m := next[*frame.Message](r.p); m.ID != c.id || m.Kind != frame.MessagePing {
						t.Fatalf("got %+v, want a ping", m)
					}
					c.client.send(m[:1])
					c.client.send(m[1:7])
					c.client.send(m[7:])
				case 3: // in frames
					c.client.send(masked(0x01, "who"))
					c.client.send(masked(0x80, "le"))
				}
				var got []byte
				for m := next[*frame.Message](r.p); ; m = next[*frame.Message](r.p) {
					if m.ID != c.id || m.Kind != frame.MessageText {
						t.Fatalf("client %d: got %+v", i, m)
					}
					if got = append(got, m.Data...); !m.More {
						break
					}
				}
				if string(got) != "whole" {
					t.Fatalf("client %d: got %q", i, got)
				}
				if i%4 == 1 {
					if m := next[*frame.Message](r.p); m.Kind != frame.MessagePong {
						t.Fatalf("got %+v, want a pong", m)
					}
				}
			}
			if polls {
				poll.Until(t, "goroutines end again", rests)
			}
			for _, c := range clients {
				_ = c.Conn.Close()
				for next[*frame.Cancel](r.p).ID != c.id {
				}
			}
		})
	}
}

// TestWebSocketCompressedDataEndsBeforeItsFrame has a client whose compressed data
// says that it is over while its frame goes on. The rest of that frame must not be
// taken for the beginning of the next one, nor be looked for in what another
// client sends: the connection of the library serves one after the other.
func TestWebSocketCompressedDataEndsBeforeItsFrame(t *testing.T) {
	r := newWSRig(t, func(o *Options) { o.Compression = true })
	open := func() *wsClient {
		c := &wsClient{client: r.dial(), p: r.p}
		c.client.send(wsRequest + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
		c.id = next[*frame.Request](r.p).ID
		c.far(&frame.Response{Code: 101})
		c.head()
		return c
	}
	var data bytes.Buffer
	z, _ := flate.NewWriter(&data, flate.BestSpeed)
	_, _ = z.Write([]byte("early"))
	_ = z.Close() // with the bit that says that nothing follows
	const rest = 100
	for range 4 { // whichever of the library's connections the next client gets
		a := open()
		whole := masked(0xc1, data.String()+strings.Repeat("r", rest))
		a.client.send(whole[:len(whole)-rest])
		a.message(frame.MessageText, "early", false)
		b := open()
		b.frame(0x81, "of another client")
		b.message(frame.MessageText, "of another client", false)
		a.client.send(whole[len(whole)-rest:])
		a.frame(0x81, "after")
		a.message(frame.MessageText, "after", false)
	}
}

// TestWebSocketAfterLongPoll upgrades a connection that was held before: the
// poller has its socket already, and the WebSocket must not cost a goroutine.
func TestWebSocketAfterLongPoll(t *testing.T) {
	r := newWSRig(t)
	if r.s.poller == nil {
		t.Skip("this system has no poller, as only Linux has one: a connection has a goroutine there, before and after")
	}
	c := &wsClient{client: r.dial(), p: r.p}
	id := r.hold(r.p, r.h, c.client, frame.Hold{Mode: frame.ModeResponse, Millis: 60_000, Code: 200, Groups: []string{"g"}})
	poll.Until(t, "held", func() bool { return counterValue(r.s.metrics.holds(frame.ModeResponse)) == 1 })
	r.h.send(&frame.Finish{ID: id, Seq: 1, Code: 200, Body: []byte("over")})
	c.head()
	c.expect("over")
	c.client.send(wsRequest + "\r\n")
	c.id = next[*frame.Request](r.p).ID
	c.far(&frame.Response{Code: 101})
	c.head()
	for _, word := range []string{"one", "two"} {
		poll.Until(t, "the poller watches", func() bool {
			r.s.mu.Lock()
			x := r.s.exchanges[c.id]
			r.s.mu.Unlock()
			x.c.mu.Lock()
			defer x.c.mu.Unlock()
			return x.c.unwatched
		})
		c.frame(0x81, word)
		c.message(frame.MessageText, word, false)
	}
}

// TestWebSocketClientHalfCloses has a client shut its sending side down before the
// origin has answered the handshake: it is probed with the beginning of the answer,
// of which it must not get that twice.
func TestWebSocketClientHalfCloses(t *testing.T) {
	r := newWSRig(t)
	c := r.dial()
	c.send(wsRequest + "\r\n")
	req := next[*frame.Request](r.p)
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.expect("HTTP/1.1 ")
	r.p.send(&frame.Response{ID: req.ID, Code: 101})
	c.expect("101 Switching Protocols\r\n")
}

// TestWebSocketNothingAfterClose has a publication come between the close frame of
// the library and the end of the hold.
func TestWebSocketNothingAfterClose(t *testing.T) {
	r := newWSRig(t)
	c := r.open("", "g")
	r.s.mu.Lock()
	h := r.s.exchanges[c.id].hold
	r.s.mu.Unlock()
	h.w.push(job{kind: jobWSRaw, h: h, raw: wsCloseFrame(wsProtocolError, nil)})
	r.h.send(&frame.Deliver{Pub: 1, Only: []uint64{c.id}, Mode: frame.ModeWebSocket, Action: frame.ActionSend, Kind: frame.MessageText, Body: []byte("x")},
		wsPublish(2, "g", "x"), &frame.Deliver{Pub: 3, Only: []uint64{c.id}, Mode: frame.ModeWebSocket, Action: frame.ActionSend, Kind: frame.MessageText, Body: []byte("x")})
	r.h.outcome(3, 1) // the others have been dealt with
	h.w.push(job{kind: jobWSFault, h: h})
	c.want(0x88, status(wsProtocolError, ""))
	if err := c.end(); err != nil { // reads to the end, of which there must be nothing
		t.Error(err)
	}
}
