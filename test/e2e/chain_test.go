//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/test/stack"
)

// One Holdfast behind another that it trusts: the one at the edge holds the
// clients and has their subscriptions, and the inner one passes on what the
// origin says, and to the origin whose signature it was.
func TestTwoInARow(t *testing.T) {
	edgeKey, err := grip.ParseVerifyingKey("edge-key", "")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ids := map[string]bool{} // Connection-Id
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if !edgeKey.VerifyFrom(r.Header.Get("Grip-Sig"), "edge", time.Now()) {
			t.Errorf("%s %s: Grip-Sig %q is not of the edge", r.Method, r.URL, r.Header.Get("Grip-Sig"))
		}
		if r.Header.Get("Content-Type") != wsevents.ContentType {
			holds(w, r)
			return
		}
		events, ok := readEvents(t, r)
		if !ok {
			return
		}
		mu.Lock()
		ids[r.Header.Get("Connection-Id")] = true
		mu.Unlock()
		w.Header().Set("Content-Type", wsevents.ContentType)
		w.Header().Set("Sec-WebSocket-Extensions", "grip")
		w.Header().Set("Set-Meta-Last", r.Header.Get("Meta-Last")+"x")
		var out []byte
		for _, e := range events {
			switch e.Type {
			case wsevents.Open:
				out = wsevents.Append(out, e)
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: []byte(`c:{"type":"subscribe","channel":"room"}`)})
			case wsevents.Text:
				said := fmt.Sprintf("m:%s after %s", e.Content, r.Header.Get("Meta-Last"))
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: []byte(said)})
			}
		}
		_, _ = w.Write(out)
	})
	inner := start(t, []string{"proxy/sig_iss=inner", "proxy/sig_key=inner-key", "proxy/upstream_key=edge-key"}, "* "+backend+",over_http")
	edge := start(t, []string{"proxy/sig_iss=edge", "proxy/sig_key=edge-key"}, "* "+inner.HTTP+",over_http")

	c := stream(t, edge, "news")
	ready(t, edge, c, "news")
	ws := webSocket(t, edge, "/ws")
	for i := range 3 {
		text := fmt.Sprintf("hello %d", i)
		if err := ws.WriteMessage(1, []byte(text)); err != nil {
			t.Fatal(err)
		}
		want := text + " after " + strings.Repeat("x", i+1)
		if _, b, err := ws.ReadMessage(); err != nil || string(b) != want {
			t.Fatalf("read %q, %v; want %q", b, err, want)
		}
	}
	publishWS(t, edge, "room", "to the room")
	if _, b, err := ws.ReadMessage(); err != nil || string(b) != "to the room" {
		t.Fatalf("read %q, %v", b, err)
	}
	mu.Lock()
	if len(ids) != 1 || ids[""] {
		t.Errorf("one WebSocket had the Connection-Ids %v", ids)
	}
	mu.Unlock()
	for s, want := range map[*stack.Stack]float64{edge: 2, inner: 0} {
		if got := stack.Total(metrics(t, s, "handler.0"), "holdfast_handler_holds"); got != want {
			t.Errorf("%v holds, want %v", got, want)
		}
	}
}
