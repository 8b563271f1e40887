//go:build faults

package faults

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/wsevents"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// desk is an origin of WebSockets over HTTP that notes what it is told, and can be
// made to keep everybody waiting for an answer.
type desk struct {
	t *testing.T

	mu       sync.Mutex
	shut     chan struct{}           // answers wait until it is closed; nil: they do not
	waited   map[string]int          // requests that had to wait, by client
	got      map[string]*progression // by client
	requests int
	replays  int  // requests that said so
	closing  bool // clients may leave
}

// progression is a series of numbers that comes at least once: it may begin again
// somewhere, but leaves nothing out.
type progression struct {
	last  int // the highest
	again int // how many came that had come before
	wrong string
}

func (p *progression) take(n int) {
	switch {
	case n == p.last+1:
		p.last = n
	case n <= p.last:
		p.again++
	case p.wrong == "":
		p.wrong = fmt.Sprintf("%d came after %d", n, p.last)
	}
}

// ServeHTTP implements http.Handler. Messages are "NAME NUMBER", and answered with
// the same; clients are subscribed to the channel "all".
func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the proxy was killed
	}
	events, err := wsevents.Decode(body)
	if err != nil {
		d.t.Errorf("the origin got %q: %v", body, err)
	}
	var out []byte
	var name string
	d.mu.Lock()
	d.requests++
	if r.Header.Get("Content-Bytes-Replayed") != "" {
		d.replays++
	}
	for _, e := range events {
		switch e.Type {
		case wsevents.Open:
			w.Header().Set("Sec-WebSocket-Extensions", "grip")
			out = wsevents.Append(out, e)
			out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: []byte(`c:{"type":"subscribe","channel":"all"}`)})
		case wsevents.Text:
			var n int
			if _, err := fmt.Sscan(string(e.Content), &name, &n); err != nil {
				d.t.Errorf("the origin got %q: %v", e.Content, err)
			}
			if d.got[name] == nil {
				d.got[name] = new(progression)
			}
			d.got[name].take(n)
			out = wsevents.Append(out, wsevents.Event{Type: wsevents.Text, Content: append([]byte("m:"), e.Content...)})
		case wsevents.Disconnect:
			if !d.closing {
				d.t.Error("a client was reported to be gone")
			}
		case wsevents.Close:
			out = wsevents.Append(out, e)
		}
	}
	shut := d.shut
	if name == "" {
		shut = nil
	}
	if shut != nil {
		d.waited[name]++
	}
	d.mu.Unlock()
	if shut != nil {
		select {
		case <-shut:
		case <-r.Context().Done(): // the proxy was killed
			return
		}
	}
	w.Header().Set("Content-Type", wsevents.ContentType)
	_, _ = w.Write(out)
}

// hold makes everybody wait, and returns what ends that.
func (d *desk) hold() (release func()) {
	shut := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = shut
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.shut = nil
		close(shut)
	})
}

// visitor is a client that talks all the time.
type visitor struct {
	name string
	sent atomic.Int64

	mu       sync.Mutex
	echo     progression
	pubs     []int
	wrong    string
	finished bool
}

// read takes what comes until the connection ends.
func (v *visitor) read(ws *websocket.Conn) {
	for {
		_, b, err := ws.ReadMessage()
		v.mu.Lock()
		var name string
		var n int
		switch _, bad := fmt.Sscan(string(b), &name, &n); {
		case err != nil:
			if !v.finished {
				v.wrong = fmt.Sprintf("the connection ended: %v", err)
			}
		case bad != nil:
			v.wrong = fmt.Sprintf("got %q", b)
		case name == "all":
			v.pubs = append(v.pubs, n)
		case name == v.name:
			v.echo.take(n)
		}
		v.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await polls until ok, which names what is missing otherwise.
func await(t *testing.T, what func() (missing string)) {
	t.Helper()
	missing := ""
	if !poll.For(poll.Patience, func() bool { missing = what(); return missing == "" }) {
		t.Fatal(missing)
	}
}

// killNow kills a program as soon as it runs, unless it is the one of before.
func killNow(t *testing.T, s *stack.Stack, name string, before int) (pid int) {
	t.Helper()
	await(t, func() string {
		if pid = s.Children()[name]; pid == 0 || pid == before {
			return name + " is not started again"
		}
		return ""
	})
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestTakeovers kills the proxy while it is taking over the WebSockets of a killed
// one, and proxy and handler together, at chosen moments in the conversation of
// clients with an origin over HTTP. Nobody is disconnected; what the clients say
// comes to the origin in order and at least once, what the origin says comes to
// the clients so; and what is published comes in order and once.
func TestTakeovers(t *testing.T) {
	d := &desk{t: t, waited: map[string]int{}, got: map[string]*progression{}}
	srv := httptest.NewServer(d)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	s := start(t, []string{
		"proxy/hand_over_timeout=60", "connmgr/peer_wait=60", "runner/restart_delay=0.3",
	}, "* "+srv.Listener.Addr().String()+",over_http")
	one(t, s, "proxy") // from now on the supervisor starts again what dies

	const clients = 6
	var all []*visitor
	var wg, writers sync.WaitGroup
	stop := make(chan struct{})
	var sockets []*websocket.Conn
	for i := range clients {
		ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+s.HTTP+"/", nil)
		if err != nil {
			t.Fatalf("%v: %+v", err, resp)
		}
		sockets = append(sockets, ws)
		v := &visitor{name: fmt.Sprint("c", i)}
		all = append(all, v)
		wg.Go(func() { v.read(ws) })
		writers.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-stop:
					return
				}
				n := v.sent.Add(1)
				if err := ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, "%s %d", v.name, n)); err != nil {
					select {
					case <-stop: // and then the socket was closed
					default:
						t.Errorf("%s: %v", v.name, err)
					}
					return
				}
			}
		})
	}
	halt := sync.OnceFunc(func() { close(stop) })
	defer wg.Wait()
	defer writers.Wait()
	defer func() {
		d.mu.Lock()
		d.closing = true
		d.mu.Unlock()
		for _, ws := range sockets {
			_ = ws.Close()
		}
	}()
	defer halt()

	published := 0
	publish := func() {
		t.Helper()
		published++
		ctx := t.Context()
		if err := poster(ctx, s, "all", published, fmt.Sprintf("all %d\n", published)); err != nil {
			t.Fatal(err)
		}
	}
	content := func() {
		t.Helper()
		for _, v := range all {
			v.mu.Lock()
			wrong, echo := v.wrong, v.echo.wrong
			v.mu.Unlock()
			if wrong != "" || echo != "" {
				t.Fatalf("%s: %s %s", v.name, wrong, echo)
			}
		}
	}
	// reached waits until everybody has all publications, and echoes up to that of
	// the last message that was sent so far.
	reached := func(what string) {
		t.Helper()
		var sent [clients]int64
		for i, v := range all {
			sent[i] = max(1, v.sent.Load()) // with the first echo they are subscribed
		}
		await(t, func() string {
			content()
			for i, v := range all {
				v.mu.Lock()
				echo, pubs := v.echo.last, len(v.pubs)
				v.mu.Unlock()
				if int64(echo) < sent[i] || pubs < published {
					return fmt.Sprintf("%s: %s has echoes up to %d of %d, and %d of %d publications", what, v.name, echo, sent[i], pubs, published)
				}
			}
			return ""
		})
	}
	// since is what asked compares with.
	var since map[string]int
	mark := func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		since = maps.Clone(d.waited)
	}
	// asked waits until the origin has got requests of n clients since mark, which
	// it keeps waiting.
	asked := func(n int) {
		t.Helper()
		await(t, func() string {
			content()
			d.mu.Lock()
			defer d.mu.Unlock()
			var who []string
			for name, n := range d.waited {
				if n > since[name] {
					who = append(who, name)
				}
			}
			if len(who) < n {
				return fmt.Sprintf("the origin got requests of %v, want those of %d clients", who, n)
			}
			return ""
		})
		mark()
	}
	reached("at first")
	publish()
	reached("at first")

	for _, step := range []struct {
		name string
		do   func(release func()) // begins with the requests of all clients at the origin, unanswered
	}{
		{"a proxy, and the next as soon as it has asked the origin for one client", func(func()) {
			pid := killNow(t, s, "proxy", 0)
			asked(1)
			killNow(t, s, "proxy", pid)
			asked(clients)
		}},
		{"three proxies, each as soon as it runs", func(func()) {
			pid := killNow(t, s, "proxy", 0)
			pid = killNow(t, s, "proxy", pid)
			killNow(t, s, "proxy", pid)
			publish()
			asked(clients)
		}},
		{"handler and proxy together", func(func()) {
			publish()
			killNow(t, s, "handler", 0)
			killNow(t, s, "proxy", 0)
			publish()
			asked(clients)
			publish()
		}},
		{"a proxy, then handler and proxy while the sessions are taken over", func(func()) {
			pid := killNow(t, s, "proxy", 0)
			asked(1)
			killNow(t, s, "handler", 0)
			killNow(t, s, "proxy", pid)
			publish()
			asked(clients)
		}},
		{"a proxy, with the answers on their way, and the next with the same ones", func(release func()) {
			release()
			pid := killNow(t, s, "proxy", 0)
			release = d.hold()
			defer release()
			asked(1)
			release()
			killNow(t, s, "proxy", pid)
		}},
		{"handler and proxy in the middle of everything, twice", func(release func()) {
			release()
			publish()
			handler, proxy := killNow(t, s, "handler", 0), killNow(t, s, "proxy", 0)
			publish()
			killNow(t, s, "proxy", proxy)
			killNow(t, s, "handler", handler)
			publish()
		}},
	} {
		began := time.Now()
		mark()
		release := d.hold()
		asked(clients)
		step.do(release)
		release()
		reached(step.name)
		t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), step.name)
	}

	halt()
	writers.Wait() // there is no message more
	reached("at the end")
	for _, v := range all {
		v.mu.Lock()
		v.finished = true
		var want []string
		for n := 1; n <= published; n++ {
			want = append(want, fmt.Sprint(n))
		}
		if got := strings.Trim(fmt.Sprint(v.pubs), "[]"); got != strings.Join(want, " ") {
			t.Errorf("%s has publications %s, want each once and in order: %s", v.name, got, strings.Join(want, " "))
		}
		d.mu.Lock()
		if p := d.got[v.name]; p.wrong != "" || int64(p.last) != v.sent.Load() {
			t.Errorf("the origin has %d of %d messages of %s: %s", p.last, v.sent.Load(), v.name, p.wrong)
		}
		d.mu.Unlock()
		t.Logf("%s: %d messages, %d came to the origin again; %d echoes, %d came again", v.name, v.sent.Load(), d.got[v.name].again, v.echo.last, v.echo.again)
		v.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.replays < clients {
		t.Errorf("%d requests said that they repeat something", d.replays)
	}
	t.Logf("%d requests, %d of them said that they repeat something", d.requests, d.replays)
}
