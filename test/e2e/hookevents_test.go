//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/test/poll"
)

// connectionEvent is what a receiver reads of an event of a connection.
type connectionEvent struct {
	Type       string
	Connection string
	Mode       string
	Route      string
	Client     string
	Channel    string
	Channels   []string
	Cause      string
	Millis     *int64 `json:"duration_ms"`
	Bytes      *int64
}

func (e connectionEvent) String() string {
	return strings.TrimSpace(fmt.Sprintln(e.Type, e.Mode, e.Channel, e.Channels, e.Cause))
}

// connectionEvents are the events that came to a path of the receiver.
func (v *hookReceiver) connectionEvents(path string) []connectionEvent {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []connectionEvent
	for _, m := range v.events[path] {
		e := connectionEvent{Type: m.kind}
		if err := json.Unmarshal(m.data, &e); err != nil {
			v.t.Errorf("data %s: %v", m.data, err)
		}
		all = append(all, e)
	}
	return all
}

// awaitEvents waits until so many events have come to a path.
func (v *hookReceiver) awaitEvents(path string, n int) []connectionEvent {
	v.t.Helper()
	var all []connectionEvent
	poll.Works(v.t, fmt.Sprintf("%d events at %s", n, path), func() error {
		if all = v.connectionEvents(path); len(all) < n {
			return fmt.Errorf("%d came: %v", len(all), all)
		}
		return nil
	})
	return all
}

// switching is a backend that holds what asks for /stream or /poll on the
// channels chat-1 and chat-2, and lets the messages of a WebSocket choose the
// channels: what a client says becomes a control message.
func switching(t *testing.T) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != wsevents.ContentType {
			holds(w, r)
			return
		}
		events, ok := readEvents(t, r)
		if !ok {
			return
		}
		var out []byte
		for _, e := range events {
			switch e.Type {
			case wsevents.Open:
				w.Header().Set("Sec-WebSocket-Extensions", "grip")
				out = wsevents.Append(out, e)
			case wsevents.Text:
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: append([]byte("c:"), e.Content...)})
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: []byte("m:done")})
			case wsevents.Close:
				out = wsevents.Append(out, e)
			}
		}
		w.Header().Set("Content-Type", wsevents.ContentType)
		_, _ = w.Write(out)
	})
}

// A route with events tells webhooks of its connections: in their order, to those
// who asked, and on behalf of connections that outlived the handler that knew of
// their beginning.
func TestWebhooksOfConnections(t *testing.T) {
	backend := switching(t)
	s := start(t, []string{"zurl/allow=127.0.0.1"},
		"quiet.test "+backend,
		"one.test,events=closings "+backend,
		"*,id=web,events=* "+backend+",over_http")
	v := newHookReceiver(t)
	v.subscribe(s, "all", `,"channels":["chat-*"],"events":["*"],"order":"in-order"`)
	v.subscribe(s, "closings", `,"channels":["chat-1"],"events":["connection.closed"]`)
	v.subscribe(s, "elsewhere", `,"channels":["other-*"],"events":["*"]`)
	hooksKnown(t, s, v, "chat-warm")

	// A stream, and a handler that dies while it is held.
	c := dial(t, s)
	c.send("GET /stream?channel=chat-1,chat-2 HTTP/1.1\nHost: x\n\n")
	c.until("stream")
	got := v.awaitEvents("/all", 3)
	if g := fmt.Sprint(got); g != "[connection.opened http-stream  [chat-1 chat-2] channel.subscribed http-stream chat-1 [] channel.subscribed http-stream chat-2 []]" &&
		g != "[connection.opened http-stream  [chat-1 chat-2] channel.subscribed http-stream chat-2 [] channel.subscribed http-stream chat-1 []]" {
		t.Errorf("when a stream begins: %s", g)
	}
	first := got[0]
	if first.Route != "web" || first.Client != "127.0.0.1" || first.Connection == "" {
		t.Errorf("connection.opened: %+v", first)
	}
	kill(t, s, "handler")
	publish(t, s, "chat-1", "hello\n")
	c.until("hello")
	_ = c.conn.Close()
	got = v.awaitEvents("/all", 6)[3:]
	closed := got[len(got)-1]
	if closed.String() != "connection.closed http-stream  [] client-gone" || closed.Connection != first.Connection {
		t.Errorf("the last event of a stream is %+v; want the end of %s", closed, first.Connection)
	}
	if closed.Millis == nil || *closed.Millis < 0 || closed.Bytes == nil || *closed.Bytes < int64(len("hello\n")) {
		t.Errorf("connection.closed without length or bytes: %+v", closed)
	}
	for _, e := range got[:len(got)-1] {
		if e.Type != "channel.unsubscribed" || e.Connection != first.Connection {
			t.Errorf("before the end: %+v", e)
		}
	}

	// A WebSocket that changes its channels.
	ws := webSocket(t, s, "/ws")
	say := func(text string) {
		t.Helper()
		if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.ReadMessage(); err != nil || string(b) != "done" {
			t.Fatalf("read %q, %v", b, err)
		}
	}
	say(`{"type":"subscribe","channel":"chat-3"}`)
	say(`{"type":"subscribe","channel":"chat-4"}`)
	say(`{"type":"unsubscribe","channel":"chat-3"}`)
	if err := ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "")); err != nil {
		t.Fatal(err)
	}
	got = v.awaitEvents("/all", 6+5)[6:]
	var said []string
	for _, e := range got {
		said = append(said, e.Type+" "+e.Channel)
		if e.Mode != "ws-message" || e.Connection != got[0].Connection || e.Connection == first.Connection {
			t.Errorf("event of the WebSocket: %+v", e)
		}
	}
	// Its first event is not here: it had no channel yet that a pattern could fit.
	if g := strings.Join(said, ", "); g != "channel.subscribed chat-3, channel.subscribed chat-4, channel.unsubscribed chat-3, channel.unsubscribed chat-4, connection.closed " {
		t.Errorf("of the WebSocket: %s", g)
	}

	// A route that names one endpoint, which gets what it asked for; and one
	// without the option.
	for _, host := range []string{"quiet.test", "one.test"} {
		c := dial(t, s)
		c.send("GET /poll?channel=chat-1 HTTP/1.1\nHost: %s\n\n", host)
		ready(t, s, c, "chat-1")
	}
	got = v.awaitEvents("/closings", 2)
	if got[0].Connection != first.Connection || got[1].String() != "connection.closed http-response  [] finished" || got[1].Route != "" {
		t.Errorf("what is told to one: %+v", got)
	}
	if got := v.connectionEvents("/elsewhere"); len(got) > 0 {
		t.Errorf("told of channels that nobody asked for: %v", got)
	}
	if got := v.connectionEvents("/all"); len(got) != 11 {
		t.Errorf("told of routes without events, or with another endpoint: %v", got[11:])
	}
}
