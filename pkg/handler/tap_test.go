package handler

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// listenTap returns what a tap says next, in turn.
func (r *rig) listenTap(query string) func() TapEvent {
	r.t.Helper()
	srv := httptest.NewServer(r.s.Tap())
	res, err := srv.Client().Get(srv.URL + query)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { res.Body.Close(); srv.Close() })
	if res.StatusCode != http.StatusOK {
		r.t.Fatal(res.Status)
	}
	events := make(chan TapEvent, 100)
	go func() {
		defer close(events)
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			var e TapEvent
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				r.t.Errorf("%s: %v", lines.Text(), err)
				return
			}
			events <- e
		}
	}()
	return func() TapEvent {
		r.t.Helper()
		select {
		case e := <-events:
			return e
		case <-time.After(20 * time.Second):
			r.t.Fatal("no event came")
			return TapEvent{}
		}
	}
}

func TestTap(t *testing.T) {
	r := newRig(t)
	meta := func(a *frame.Accept) { a.Meta = []frame.Field{{Name: "user", Value: "al"}} }
	a, _ := r.hold(frame.ModeStream, ch("news")), r.hold(frame.ModeStream, ch("other"))
	filtered := r.holdWith(frame.ModeStream, meta, frame.Channel{Name: "news", Filters: []string{"skip-self"}})
	poll := r.hold(frame.ModeResponse, ch("news"))
	next := r.listenTap("?channel=n*s&channel=none")

	r.publish(stream("other", "-"),
		`{"channel":"news","id":"2","prev-id":"1","meta":{"sender":"al"},"http-stream":{"content":"12345"},"http-response":{"body":"123"},"ws-message":{"content":""}}`,
		`{"channel":"news","id":"2","http-stream":{"content":"again"}}`,
		`{"channel":"news","id":"4","prev-id":"3","http-stream":{"content":"early"}}`,
		stream("none", "nobody"))
	r.expect(a, "12345")
	r.expect(filtered)
	r.expect(poll, "123")
	e := next()
	if e.Event != TapPublish || e.Channel != "news" || e.ID != "2" || e.PrevID != "1" || e.Matched != 3 || e.N == 0 ||
		e.Formats["http-stream"] != (TapFormat{"send", 5, 2}) || e.Formats["http-response"] != (TapFormat{"send", 3, 1}) ||
		e.Formats["ws-message"] != (TapFormat{"send", 0, 0}) {
		t.Errorf("got %+v", e)
	}
	n, seen := e.N, map[string]TapEvent{}
	for range 4 {
		e := next()
		seen[e.Event+" "+e.Result+e.Channel] = e
	}
	if e := seen["result news"]; e.N != n || e.Matched != 3 || e.Delivered != 2 || len(e.Dropped) != 1 || e.Dropped["filtered"] != 1 {
		t.Errorf("result: got %+v", e)
	}
	if e := seen["held duplicatenews"]; e.ID != "2" {
		t.Errorf("got %+v", seen)
	}
	if e := seen["held waitingnews"]; e.ID != "4" || e.PrevID != "3" {
		t.Errorf("got %+v", seen)
	}
	if e := seen["publish none"]; e.Matched != 0 {
		t.Errorf("got %+v", seen)
	}
}

// A publication whose account stays open has its result when that closes.
func TestTapOfLostConnmgr(t *testing.T) {
	r := newRig(t)
	r.conn.get(func() { r.conn.mute = true })
	r.hold(frame.ModeStream, ch("a"))
	next := r.listenTap("")
	r.publish(stream("a", "1"))
	if e := next(); e.Event != TapPublish {
		t.Fatalf("got %+v", e)
	}
	r.conn.stop()
	r.conn.node = nil
	r.conn.start() // for the end of the test
	if e := next(); e.Event != TapResult || e.Matched != 1 || e.Delivered != 0 || e.Dropped["peer-lost"] != 1 {
		t.Errorf("got %+v", e)
	}
}

// Without a listener nothing is kept, and a listener that does not read is told
// how much it missed.
func TestTapCosts(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, ch("a"))
	r.publish(stream("a", "1"))
	r.expect(h, "1")
	slow := &tapListener{events: make(chan []byte, 1)}
	tallies := func() int {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return len(r.s.taps.tallies)
	}
	if tallies() != 0 {
		t.Error("items are followed for nobody")
	}
	r.s.mu.Lock()
	r.s.taps.listeners = map[*tapListener]struct{}{slow: {}}
	r.s.mu.Unlock()
	r.publish(stream("a", "2"), stream("a", "3"))
	r.wait("the results are known", func() bool { return tallies() == 0 })
	<-slow.events
	r.publish(stream("b", "4"))
	var e TapEvent
	if err := json.Unmarshal(<-slow.events, &e); err != nil || e.Event != TapMissed || e.Count != 3 {
		t.Errorf("got %+v, %v; want 3 missed", e, err)
	}
	r.s.endTap(slow)
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"", "", true},
		{"*", "", true},
		{"*", "x/y", true},
		{"a*", "a", true},
		{"a*", "b", false},
		{"*b", "ab", true},
		{"*b", "ba", false},
		{"a*c", "abc", true},
		{"a*a", "a", false},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"**", "x", true},
		{"*b*", "abc", true},
		{"*b*", "ac", false},
		{"a*bc", "abcbc", true},
	} {
		if got := matches(c.pattern, c.name); got != c.want {
			t.Errorf("%q, %q: got %v", c.pattern, c.name, got)
		}
	}
}

// A publisher that asks is told how many subscribers each item is for.
func TestPublishReport(t *testing.T) {
	r := newRig(t, sockets(t))
	meta := func(a *frame.Accept) { a.Meta = []frame.Field{{Name: "user", Value: "al"}} }
	r.hold(frame.ModeStream, ch("a"))
	r.holdWith(frame.ModeStream, meta, frame.Channel{Name: "a", Filters: []string{"skip-self"}})
	got := r.post("/publish/", `{"report":true,"items":[
		{"channel":"a","id":"1","meta":{"sender":"al"},"http-stream":{"content":"x"},"http-response":{"body":""}},
		{"channel":"a","id":"1","http-stream":{"content":"x"}},
		{"channel":"a","id":"3","prev-id":"2","http-stream":{"content":"x"}},
		{"channel":"a","no-seq":true,"http-stream":{"action":"hint"}},
		{"channel":"b","http-stream":{"content":"x"}}]}`)
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	want := `{"items":[{"matched":2,"queued":1,"result":"sent"},{"matched":0,"queued":0,"result":"duplicate"},` +
		`{"matched":0,"queued":0,"result":"waiting"},{"matched":2,"queued":2,"result":"sent"},{"matched":0,"queued":0,"result":"sent"}],` +
		`"message":"Published"}` + "\n"
	if body != want || !strings.Contains(got, "Content-Type: application/json\r\n") {
		t.Errorf("got %s", got)
	}
	var answer []byte
	ok := r.s.command(tnet.Append(nil, map[string]any{
		"id": "1", "method": "publish",
		"args": map[string]any{"report": true, "items": []any{map[string]any{"channel": "a", "http-stream": map[string]any{"content": "y"}}}},
	}), func(b []byte) { answer = b })
	v, err := tnet.Decode(answer)
	if err != nil || !ok {
		t.Fatalf("got %q, %v", answer, err)
	}
	report := v.(map[string]any)["value"].(map[string]any)["items"].([]any)
	if m := report[0].(map[string]any); len(report) != 1 || m["matched"] != int64(2) || m["queued"] != int64(2) || m["result"] != "sent" {
		t.Errorf("got %v", v)
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if len(r.s.taps.tallies) != 0 {
		t.Errorf("%d items are still followed", len(r.s.taps.tallies))
	}
}
