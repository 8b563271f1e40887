//go:build e2e

package clients

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// chatBackend starts examples/chat with the packages that are installed here.
func chatBackend(t *testing.T, s *stack.Stack, port int) *exec.Cmd {
	t.Helper()
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"server.mjs", "index.html"} {
		text, err := os.ReadFile(filepath.Join(root, "examples/chat", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "test/clients/node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "node", filepath.Join(dir, "server.mjs"), "--listen", fmt.Sprint(port), "--control", "http://"+s.Control)
	cmd.Env = append(os.Environ(), "GRIP_KEY=changeme")
	if got := line(t, begin(t, cmd)); got != fmt.Sprint(port) {
		t.Fatalf("the backend says %q", got)
	}
	return cmd
}

// chatter is a client made with the ws library.
type chatter struct {
	t    *testing.T
	in   io.Writer
	next func() string
}

func chat(t *testing.T, url string) *chatter {
	t.Helper()
	return startChatter(t, "chat.mjs", url)
}

func startChatter(t *testing.T, args ...string) *chatter {
	t.Helper()
	cmd := command(t, "node", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := begin(t, cmd)
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return &chatter{t, in, func() string {
		t.Helper()
		select {
		case got := <-lines:
			return got
		case <-time.After(40 * time.Second): // the last repetition of a request comes after half a minute
			t.Fatal("a client got nothing")
			return ""
		}
	}}
}

func (c *chatter) say(text string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chatter) hears(want string) {
	c.t.Helper()
	if got := c.next(); got != want {
		c.t.Fatalf("a client got %q, want %q", got, want)
	}
}

func TestExampleChat(t *testing.T) {
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s := proxy(t, fmt.Sprintf("* 127.0.0.1:%d,over_http", port))
	backend := chatBackend(t, s, port)
	ada := chat(t, "ws://"+s.HTTP+"/ws")
	ada.hears("open ")
	ada.say("Ada")
	ada.hears(`{"welcome":"Ada"}`)
	ada.say("anybody there?")
	ada.hears(`{"from":"Ada","text":"anybody there?"}`)

	const messages = `[...document.querySelectorAll('#messages li')].map((li) => li.textContent).join('|')`
	b := browse(t, "http://"+s.HTTP+"/#Zo%C3%AB")
	b.shows(`document.getElementById('state').textContent`, "connected")
	b.shows(`document.getElementById('name').textContent`, "Zoë")
	b.eval(`document.getElementById('text').value = 'hi Ada'; document.querySelector('button').click(); ''`)
	ada.hears(`{"from":"Zoë","text":"hi Ada"}`)
	b.shows(messages, "Zoë: hi Ada")

	// The backend is gone for a moment. What is said meanwhile is not lost. It has
	// nothing under way then: a request that it takes with it is made once more, and
	// a client whose request is cut off twice is let go.
	if *target == string(stack.Holdfast) { // others do not tell
		poll.Until(t, "the backend has answered", func() bool {
			m, err := s.Metrics("proxy.0")
			if err != nil {
				t.Fatal(err)
			}
			open, idle := m["holdfast_origin_connections_open"], m["holdfast_origin_connections_idle"]
			return open > 0 && open == idle
		})
	}
	if err := syscall.Kill(backend.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = backend.Wait()
	ada.say("still there?")
	b.eval(`document.getElementById('text').value = 'me too'; document.querySelector('button').click(); ''`)
	chatBackend(t, s, port)
	due := map[string]bool{`{"from":"Ada","text":"still there?"}`: true, `{"from":"Zoë","text":"me too"}`: true}
	for len(due) > 0 {
		got := ada.next()
		if !due[got] {
			t.Fatalf("Ada got %s, but not yet %v", got, due)
		}
		delete(due, got)
	}
	b.shows(`String(`+messages+`.split('|').length)`, "3")
	b.shows(`document.getElementById('state').textContent`, "connected")
	ada.say("close")
	ada.hears("close 1000")
}
