//go:build e2e

package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// example builds and starts one of the examples behind a proxy.
func example(t *testing.T, name string, args ...string) *stack.Stack {
	t.Helper()
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	s := proxy(t, "* "+addr)
	bin := filepath.Join(t.TempDir(), name)
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	run(t, "go", "build", "-C", root, "-o", bin, "./examples/"+name)
	begin(t, command(t, bin, append(args, "-listen", addr, "-control", "http://"+s.Control)...))
	dialable(t, addr)
	return s
}

func post(t *testing.T, s *stack.Stack, path, body string) string {
	t.Helper()
	resp, err := http.Post("http://"+s.HTTP+path, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode/100 != 2 {
		t.Fatalf("POST %s: %s: %s", path, resp.Status, text)
	}
	return string(text)
}

func TestExampleCounter(t *testing.T) {
	s := example(t, "counter", "-wait", "5s")
	if got := get(t, s, "/value/"); got != `{"value":0}`+"\n" {
		t.Errorf("at first: %q", got)
	}
	// Clients that wait get every next value, however the timing falls.
	const clients, rounds = 20, 5
	type answer struct {
		client int
		text   string
	}
	answers := make(chan answer, clients)
	for round := range rounds {
		for i := range clients {
			go func() {
				resp, err := http.Get(fmt.Sprintf("http://%s/value/?last=%d", s.HTTP, round))
				if err != nil {
					answers <- answer{i, err.Error()}
					return
				}
				defer func() { _ = resp.Body.Close() }()
				text, err := io.ReadAll(resp.Body)
				if err != nil {
					text = []byte(err.Error())
				}
				answers <- answer{i, string(text)}
			}()
		}
		want := fmt.Sprintf(`{"value":%d}`+"\n", round+1)
		if got := post(t, s, "/value/", ""); got != want {
			t.Fatalf("POST answered %q, want %q", got, want)
		}
		for range clients {
			select {
			case a := <-answers:
				if a.text != want {
					t.Errorf("round %d: client %d got %q, want %q", round, a.client, a.text, want)
				}
			case <-time.After(poll.Patience):
				t.Fatalf("round %d: a client got no answer", round)
			}
		}
	}
	if got := get(t, s, fmt.Sprintf("/value/?last=%d", rounds)); got != "{}\n" {
		t.Errorf("when the time is over: %q", got)
	}
}

func TestExampleSSEWithCurl(t *testing.T) {
	s := example(t, "sse")
	post(t, s, "/messages", "before")
	r := begin(t, command(t, "curl", "-sN", "http://"+s.HTTP+"/events"))
	readEvent := func(want string) string {
		t.Helper()
		id, ok := strings.CutPrefix(line(t, r), "id: ")
		if got := line(t, r); !ok || got != `data: "`+want+`"` || line(t, r) != "" {
			t.Fatalf("got %q, want the message %q", got, want)
		}
		return id
	}
	id := readEvent("before")
	for i := range 10 {
		post(t, s, "/messages", fmt.Sprintf("message %d", i))
	}
	for i := range 10 {
		readEvent(fmt.Sprintf("message %d", i))
	}
	// What a browser does when it comes back.
	r = begin(t, command(t, "curl", "-sN", "-H", "Last-Event-ID: "+id, "http://"+s.HTTP+"/events"))
	for i := range 10 {
		readEvent(fmt.Sprintf("message %d", i))
	}
	post(t, s, "/messages", "after")
	readEvent("after")
}

// browser is a page in a headless Chromium.
type browser struct {
	t    *testing.T
	conn *websocket.Conn
	next int
}

// browse opens a page in a browser of its own.
func browse(t *testing.T, url string) *browser {
	t.Helper()
	dir := t.TempDir()
	cmd := command(t, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--remote-debugging-port=0", "--user-data-dir="+dir, url)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.Stderr = io.Discard // it complains about a desktop that is not there
	begin(t, cmd)
	var addr string
	poll.Until(t, "the browser to start", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "DevToolsActivePort"))
		port, _, ok := strings.Cut(string(text), "\n")
		addr = "127.0.0.1:" + port
		return err == nil && ok
	})
	var page string
	poll.Works(t, "the browser's page", func() error {
		resp, err := http.Get("http://" + addr + "/json")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		var pages []struct {
			Type string
			URL  string
			WS   string `json:"webSocketDebuggerUrl"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&pages); err != nil {
			return err
		}
		for _, p := range pages {
			if p.Type == "page" && strings.HasPrefix(p.URL, "http") {
				page = p.WS
				return nil
			}
		}
		return fmt.Errorf("it has %v", pages)
	})
	conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), page, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &browser{t: t, conn: conn}
}

// eval evaluates an expression whose value is a text.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	b.next++
	_ = b.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	_ = b.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	err := b.conn.WriteJSON(map[string]any{"id": b.next, "method": "Runtime.evaluate", "params": map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}})
	for err == nil {
		var reply struct {
			ID     int
			Result struct{ Result struct{ Value any } }
		}
		var data []byte
		if _, data, err = b.conn.ReadMessage(); err != nil {
			break
		}
		if err = json.NewDecoder(bytes.NewReader(data)).Decode(&reply); err == nil && reply.ID == b.next {
			return fmt.Sprint(reply.Result.Result.Value)
		}
	}
	b.t.Fatalf("asking the browser: %v", err)
	return ""
}

// shows waits until an expression has a value.
func (b *browser) shows(expression, want string) {
	b.t.Helper()
	poll.Works(b.t, fmt.Sprintf("in the browser %s to be %q", expression, want), func() error {
		if got := b.eval(expression); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

func TestExampleSSEInBrowser(t *testing.T) {
	s := example(t, "sse")
	const messages = `[...document.querySelectorAll('#messages li')].map((li) => li.textContent).join('|')`
	b := browse(t, "http://"+s.HTTP+"/#hello%20world")
	b.shows(`document.getElementById('state').textContent`, "connected")
	b.shows(messages, "hello world") // it said so itself
	post(t, s, "/messages", "to the browser\nin two lines")
	b.shows(messages, "hello world|to the browser\nin two lines")
	// Its form works too.
	b.eval(`document.getElementById('text').value = 'typed'; document.querySelector('button').click(); ''`)
	b.shows(messages, "hello world|to the browser\nin two lines|typed")
	// When the stream ends, the browser comes back and has missed nothing. The
	// close has to follow the last message, or it would be taken for a gap.
	r := begin(t, command(t, "curl", "-sN", "http://"+s.HTTP+"/events"))
	var last string
	for range 3 {
		last, _ = strings.CutPrefix(line(t, r), "id: ")
		line(t, r)
		line(t, r)
	}
	run(t, "pushpin-publish", "--spec", "http://"+s.Control, "--prev-id", last, "--close", "room")
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Fatalf("after the close: %q, %v", rest, err)
	}
	post(t, s, "/messages", "meanwhile")
	b.shows(messages, "hello world|to the browser\nin two lines|typed|meanwhile")
}
