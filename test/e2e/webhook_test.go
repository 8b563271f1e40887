//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sw "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// hookReceiver is a receiver that verifies with the reference library.
type hookReceiver struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	secrets map[string]string   // by path
	got     map[string][]string // data.id of what came, by path, in the order in which it came first
	events  map[string][]event  // the same whole, of what is no publication
	seen    map[string]int      // how often a path and webhook-id came
	repeats int
	bad     int
}

// event is a webhook that is no publication.
type event struct {
	kind string
	data json.RawMessage
}

func newHookReceiver(t *testing.T) *hookReceiver {
	t.Helper()
	v := &hookReceiver{t: t, secrets: map[string]string{}, got: map[string][]string{}, events: map[string][]event{}, seen: map[string]int{}}
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	v.url = srv.URL
	return v
}

func (v *hookReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	v.mu.Lock()
	defer v.mu.Unlock()
	var m struct {
		Type string
		Data json.RawMessage
	}
	wh, whErr := sw.NewWebhook(v.secrets[r.URL.Path])
	if err != nil || whErr != nil || wh.Verify(body, r.Header) != nil || json.Unmarshal(body, &m) != nil {
		v.bad++
		http.Error(w, "not verified", http.StatusUnauthorized)
		return
	}
	key := r.URL.Path + " " + r.Header.Get("webhook-id")
	if v.seen[key]++; v.seen[key] > 1 {
		v.repeats++
		return
	}
	if m.Type != "message.published" {
		v.events[r.URL.Path] = append(v.events[r.URL.Path], event{m.Type, m.Data})
		return
	}
	var item struct{ ID string }
	if err := json.Unmarshal(m.Data, &item); err != nil {
		v.t.Errorf("data %s: %v", m.Data, err)
	}
	v.got[r.URL.Path] = append(v.got[r.URL.Path], item.ID)
}

// api asks the control API until it answers.
func api(t *testing.T, s *stack.Stack, method, path, body string) (int, map[string]any) {
	t.Helper()
	var code int
	var v map[string]any
	poll.Works(t, method+" "+path, func() error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Control+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if code = resp.StatusCode; code == http.StatusServiceUnavailable {
			return fmt.Errorf("%s: %s", resp.Status, text)
		}
		_ = json.Unmarshal(bytes.TrimSpace(text), &v)
		return nil
	})
	return code, v
}

func (v *hookReceiver) subscribe(s *stack.Stack, path, options string) {
	v.t.Helper()
	code, got := api(v.t, s, "POST", "/webhooks/", fmt.Sprintf(`{"id":%q,"url":%q,"verify":false%s}`, path, v.url+"/"+path, options))
	secret, _ := got["secret"].(string)
	if code != http.StatusCreated || secret == "" {
		v.t.Fatalf("subscribe: %d %v", code, got)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets["/"+path] = secret
}

// publishHook publishes until it is taken. Retries are recognised by the id.
func publishHook(t *testing.T, s *stack.Stack, channel, id string) {
	t.Helper()
	code, got := api(t, s, "POST", "/publish/", fmt.Sprintf(`{"items":[{"channel":%q,"id":%q,"formats":{"http-stream":{"content":%q}}}]}`, channel, id, id))
	if code != http.StatusOK {
		t.Fatalf("publish: %d %v", code, got)
	}
}

// hooksKnown waits until publishes to a channel reach a queue.
func hooksKnown(t *testing.T, s *stack.Stack, v *hookReceiver, channel string) {
	t.Helper()
	i := 0
	poll.Until(t, "a webhook", func() bool {
		publishHook(t, s, channel, fmt.Sprintf("warm-%d", i))
		i++
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.got) > 0
	})
}

// Whatever is killed, what was acknowledged arrives, in order where that was
// asked for.
func TestWebhooksSurviveKills(t *testing.T) {
	s := start(t, []string{"zurl/allow=127.0.0.1"}, "* test")
	v := newHookReceiver(t)
	v.subscribe(s, "ordered", `,"channels":["jobs"],"order":"in-order","retries":["1s","1s","1s","1s","1s","1s"]`)
	v.subscribe(s, "parallel", `,"channels":["jobs*"],"concurrency":8,"retries":["1s","1s","1s","1s","1s","1s"]`)
	hooksKnown(t, s, v, "jobs")

	const n = 2500 // for two endpoints
	killed := make(chan struct{})
	reached := make(chan int, n)
	go func() {
		defer close(killed)
		for i := range reached {
			switch i {
			case n / 5, 3 * n / 5:
				kill(t, s, "zurl")
			case 2 * n / 5, 4 * n / 5:
				kill(t, s, "handler")
			}
		}
	}()
	for i := range n {
		publishHook(t, s, "jobs", fmt.Sprint(i))
		reached <- i
	}
	close(reached)
	<-killed
	complete := func(path string) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		real := 0
		for _, id := range v.got[path] {
			if !strings.HasPrefix(id, "warm") {
				real++
			}
		}
		return real >= n
	}
	all := poll.For(2*time.Minute, func() bool { return complete("/ordered") && complete("/parallel") })
	v.mu.Lock()
	defer v.mu.Unlock()
	if !all {
		t.Fatalf("of %d: %d ordered, %d parallel; %d not verified", n, len(v.got["/ordered"]), len(v.got["/parallel"]), v.bad)
	}
	if v.bad > 0 {
		t.Errorf("%d requests were not verified", v.bad)
	}
	ordered := slices.DeleteFunc(v.got["/ordered"], func(id string) bool { return strings.HasPrefix(id, "warm") })
	for i, id := range ordered {
		if id != fmt.Sprint(i) {
			t.Fatalf("position %d has %s", i, id)
		}
	}
	t.Logf("%d deliveries, %d of them repeated", len(v.seen)+v.repeats, v.repeats)
}

// What was delivered to an endpoint that keeps it is sent again on request, with
// the ids that it had, though zurl is killed before and after the request.
func TestWebhooksAreResent(t *testing.T) {
	s := start(t, []string{"zurl/allow=127.0.0.1"}, "* test")
	v := newHookReceiver(t)
	v.subscribe(s, "again", `,"channels":["jobs"],"keep":"1h","retries":["1s","1s","1s","1s","1s","1s"]`)
	hooksKnown(t, s, v, "jobs")
	const n = 30
	for i := range n {
		publishHook(t, s, "jobs", fmt.Sprint(i))
	}
	came := func(times int) func() bool {
		return func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			known := 0
			for _, c := range v.seen {
				if c >= times {
					known++
				}
			}
			return known >= n && known == len(v.seen)
		}
	}
	poll.Until(t, "all to be delivered", came(1))
	kill(t, s, "zurl")
	poll.Works(t, "handler webhooks resend", func() error {
		text, err := exec.Command(filepath.Join(s.Dir, "bin", "handler"), "webhooks", "resend", "again", "--all", "--spec", "http://"+s.Control).CombinedOutput()
		if err != nil || strings.HasPrefix(string(text), "0 ") {
			return fmt.Errorf("%s, %v", text, err)
		}
		t.Logf("%s", text)
		return nil
	})
	kill(t, s, "zurl")
	poll.Until(t, "all to be delivered again", came(2))
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad > 0 {
		t.Errorf("%d requests were not verified", v.bad)
	}
}

// When the disk is full, a publish with webhooks is refused, and everything else
// goes on; when there is room again, so do webhooks.
func TestWebhooksDiskFull(t *testing.T) {
	s := start(t, []string{"zurl/allow=127.0.0.1"}, "* test")
	v := newHookReceiver(t)
	v.subscribe(s, "a", `,"channels":["jobs"]`)
	hooksKnown(t, s, v, "jobs")
	c := dial(t, s)
	c.send("GET /stream HTTP/1.1\nHost: x\n\n")
	c.until("[stream opened]")

	// No file of zurl may grow: what a full disk does.
	pid := s.Children()["zurl"]
	var old unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: unix.RLIM_INFINITY}, &old); err != nil {
		t.Fatalf("setting the limit of another process: %v", err)
	}
	body := fmt.Sprintf(`{"items":[{"channel":"jobs","formats":{"http-stream":{"content":%q}}}]}`, strings.Repeat("x", 500_000))
	resp, err := http.Post("http://"+s.Control+"/publish/", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(text), "store") {
		t.Errorf("on a full disk: %s %s", resp.Status, text)
	}
	publish(t, s, "test", "still here\n")
	c.until("still here")

	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &old, nil); err != nil {
		t.Fatal(err)
	}
	publishHook(t, s, "jobs", "after")
	poll.Until(t, "a webhook now that there is room again", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return slices.Contains(v.got["/a"], "after")
	})
}
