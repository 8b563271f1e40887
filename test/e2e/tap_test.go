//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// What "handler tap" tells adds up, and agrees with the report that the
// publisher asked for.
func TestTap(t *testing.T) {
	s := start(t, nil, "* "+origin(t, holds))
	a, b := stream(t, s, "news"), stream(t, s, "news")
	ready(t, s, a, "news")
	ready(t, s, b, "news")

	program := filepath.Join(s.Dir, "bin", "handler")
	tap := exec.Command(program, "tap", "--config", s.Config, "--json", "tap*", "news")
	out, err := tap.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tap.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = tap.Process.Kill(); <-done; _ = tap.Wait() })
	type event struct {
		Event, Channel, ID          string
		Matched, Delivered, Dropped any
	}
	events := make(chan event, 1000)
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("%s: %v", lines.Text(), err)
			}
			events <- e
		}
	}()
	// It listens once it tells of something.
	for listening := false; !listening; {
		publish(t, s, "tap-begins", "x")
		select {
		case <-events:
			listening = true
		case <-time.After(50 * time.Millisecond):
		}
	}
	text, err := exec.Command(program, "publish", "--spec", "http://"+s.Control, "--report", "--id", "7", "news", "hello").CombinedOutput()
	if string(text) != "Published: matched 2, queued 2\n" || err != nil {
		t.Errorf("publish --report: %s, %v", text, err)
	}
	for _, c := range []*client{a, b} {
		c.until("hello")
	}
	for deadline := time.After(20 * time.Second); ; {
		select {
		case e := <-events:
			if e.Event != "result" || e.ID != "7" {
				continue
			}
			if e.Matched != 2.0 || e.Delivered != 2.0 || e.Dropped != nil {
				t.Errorf("got %+v", e)
			}
			return
		case <-deadline:
			t.Fatal("no result came")
		}
	}
}
