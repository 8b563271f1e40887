//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// readEvents reads the events of a request. ok is false if it broke off, as when
// the proxy is killed.
func readEvents(t *testing.T, r *http.Request) (events []wsevents.Event, ok bool) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, false
	}
	if events, err = wsevents.Decode(body); err != nil {
		t.Errorf("request %q: %v", body, err)
	}
	return events, true
}

// eventsOrigin is a backend without a state of its own: it subscribes whoever
// connects to the channel of the query, and answers each message with the same.
func eventsOrigin(t *testing.T, replayed *atomic.Int64) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		events, ok := readEvents(t, r)
		if !ok {
			return
		}
		if r.Header.Get("Content-Bytes-Replayed") != "" {
			replayed.Add(1)
		}
		var out []byte
		for _, e := range events {
			switch e.Type {
			case wsevents.Open:
				w.Header().Set("Sec-WebSocket-Extensions", "grip")
				sub := fmt.Sprintf(`c:{"type":"subscribe","channel":%q}`, r.URL.Query().Get("channel"))
				out = wsevents.Append(out, e)
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: []byte(sub)})
			case wsevents.Text:
				out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: append([]byte("m:"), e.Content...)})
			case wsevents.Close:
				out = wsevents.Append(out, e)
			}
		}
		w.Header().Set("Content-Type", wsevents.ContentType)
		_, _ = w.Write(out)
	})
}

func webSocket(t *testing.T, s *stack.Stack, path string) *websocket.Conn {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+s.HTTP+path, nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, resp)
	}
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(60 * time.Second))
	return ws
}

func publishWS(t *testing.T, s *stack.Stack, channel, content string) {
	t.Helper()
	body := fmt.Sprintf(`{"items":[{"channel":%q,"formats":{"ws-message":{"content":%q}}}]}`, channel, content)
	poll.Works(t, "a publish to be taken", func() error { // until the handler is back
		resp, err := http.Post("http://"+s.Control+"/publish/", "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// A client stays connected and loses nothing while the proxy, then the handler,
// is killed in the middle of traffic in both directions.
func TestWebSocketOverHTTPOutlivesProxyAndHandler(t *testing.T) {
	var replayed atomic.Int64
	s := start(t, nil, "* "+eventsOrigin(t, &replayed)+",over_http")
	const clients = 5
	var sockets [clients]*websocket.Conn
	for i := range sockets {
		sockets[i] = webSocket(t, s, "/ws?channel=room")
	}
	type got struct {
		first map[string][]int // numbers in the order of their first coming
		twice int
		err   error
	}
	results := make(chan got, clients)
	var subscribed [clients]chan struct{}
	var echoed, received [clients]atomic.Int64 // how many came, echoes and publications
	for i, ws := range sockets {
		subscribed[i] = make(chan struct{}, 1)
		go func() {
			g := got{first: map[string][]int{}}
			seen := map[string]bool{}
			for {
				_, b, err := ws.ReadMessage()
				if err != nil {
					g.err = err
					break
				}
				if string(b) == "hello" {
					select {
					case subscribed[i] <- struct{}{}:
					default:
					}
					continue
				}
				if seen[string(b)] {
					g.twice++
					continue
				}
				seen[string(b)] = true
				var kind string
				var n int
				if _, err := fmt.Sscanf(string(b), "%s %d", &kind, &n); err != nil {
					g.err = fmt.Errorf("message %q", b)
					break
				}
				g.first[kind] = append(g.first[kind], n)
				switch kind {
				case "echo":
					echoed[i].Add(1)
				case "pub":
					received[i].Add(1)
				}
				if kind == "end" {
					break
				}
			}
			results <- g
		}()
	}
	// A client is connected before the handler has heard of its subscription.
	for _, ok := range subscribed {
		for done := false; !done; {
			publishWS(t, s, "room", "hello")
			select {
			case <-ok:
				done = true
			case <-time.After(20 * time.Millisecond): // not yet: say it again
			}
		}
	}
	stop := make(chan struct{})
	type count struct{ echo int } // how many were sent
	sent := make(chan count, clients)
	for _, ws := range sockets {
		go func() {
			n := 0
			for ; ; n++ {
				if err := ws.WriteMessage(websocket.TextMessage, []byte(fmt.Sprintf("echo %d", n))); err != nil {
					t.Error(err)
					break
				}
				select {
				case <-stop:
					sent <- count{echo: n + 1}
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
			sent <- count{echo: n}
		}()
	}
	published := make(chan int, 1)
	go func() {
		n := 0
		for {
			publishWS(t, s, "room", fmt.Sprintf("pub %d", n))
			n++
			select {
			case <-stop:
				published <- n
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	// traffic waits until every client has got something more, both ways.
	traffic := func() {
		t.Helper()
		var echo, pub [clients]int64
		for i := range clients {
			echo[i], pub[i] = echoed[i].Load()+20, received[i].Load()+20
		}
		poll.Until(t, "traffic", func() bool {
			for i := range clients {
				if echoed[i].Load() < echo[i] || received[i].Load() < pub[i] {
					return len(results) > 0 // a client has failed
				}
			}
			return true
		})
	}
	traffic()
	for _, name := range []string{"proxy", "handler", "proxy"} {
		kill(t, s, name)
		traffic()
	}
	close(stop)
	pubs := <-published
	var last [clients]count
	for i := range last {
		last[i] = <-sent
	}
	slices.SortFunc(last[:], func(a, b count) int { return a.echo - b.echo })
	for _, ws := range sockets {
		if err := ws.WriteMessage(websocket.TextMessage, []byte("end 0")); err != nil {
			t.Error(err)
		}
	}
	var echoes []int
	for range clients {
		g := <-results
		if g.err != nil {
			t.Errorf("a client: %v", g.err)
		}
		for kind, numbers := range g.first {
			for i, n := range numbers {
				if n != i {
					t.Errorf("%s %d came where %d was due", kind, n, i)
					break
				}
			}
		}
		if n := len(g.first["pub"]); n != pubs {
			t.Errorf("a client has %d of %d publications", n, pubs)
		}
		echoes = append(echoes, len(g.first["echo"]))
		if g.twice > 100 { // what was on its way when a proxy died
			t.Errorf("%d things came twice", g.twice)
		}
		t.Logf("%d echoes, %d publications, %d things came twice", len(g.first["echo"]), len(g.first["pub"]), g.twice)
	}
	slices.Sort(echoes)
	for i := range last {
		if last[i].echo != echoes[i] {
			t.Errorf("clients sent %v messages and have %v echoes", last, echoes)
			break
		}
	}
	t.Logf("%d requests said that they repeated something", replayed.Load())
}

func TestWebSocketPassThroughEndsWithItsProxy(t *testing.T) {
	up := websocket.Upgrader{}
	s := start(t, nil, "* "+origin(t, func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.Close() }()
		for {
			kind, b, err := ws.ReadMessage()
			if err != nil || ws.WriteMessage(kind, b) != nil {
				return
			}
		}
	}))
	echo := func(ws *websocket.Conn) {
		t.Helper()
		if err := ws.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.ReadMessage(); err != nil || string(b) != "hello" {
			t.Fatalf("got %q, %v", b, err)
		}
	}
	ws := webSocket(t, s, "/")
	echo(ws)
	kill(t, s, "handler") // is no matter
	echo(ws)
	kill(t, s, "proxy")
	if _, b, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseServiceRestart) {
		t.Errorf("got %q, %v, want close 1012", b, err)
	}
	echo(webSocket(t, s, "/"))
}
