package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/config"
)

// tap prints local times. What the tests compare must not depend on where they
// run, and nobody may change the zone while a server of a test runs.
func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// fakeAdmin is an admin listener whose tap says lines and ends.
func fakeAdmin(t *testing.T, lines string) (spec string, query func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "admin")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	queries := make(chan string, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tap", func(w http.ResponseWriter, r *http.Request) {
		queries <- r.URL.RawQuery
		_, _ = io.WriteString(w, lines)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return "ipc://" + path, func() string { return <-queries }
}

func TestTapCommand(t *testing.T) {
	const lines = `{"event":"publish","time":"2026-01-02T03:04:05.006Z","n":7,"channel":"news","id":"2","prev_id":"1","formats":{"ws-message":{"action":"close","size":0,"matched":1},"http-stream":{"action":"send","size":5,"matched":2}},"matched":3}
{"event":"result","time":"2026-01-02T03:04:05.010Z","n":7,"channel":"news","id":"2","matched":3,"delivered":1,"dropped":{"filtered":1,"backlog-full":1},"ms":4}
{"event":"held","time":"2026-01-02T03:04:05.010Z","channel":"news","id":"2","matched":0,"result":"duplicate"}
{"event":"missed","time":"2026-01-02T03:04:05.010Z","matched":0,"count":9}
`
	spec, query := fakeAdmin(t, lines)
	code, out, errs := runHandler("tap", "--set", "admin.handler="+spec, "n*s", "a b")
	want := `03:04:05.006  publish  #7 news id=2 prev-id=1  http-stream (5 bytes) for 2  ws-message (close) for 1
03:04:05.010  result   #7 news id=2  matched 3, delivered 1, backlog-full 1, filtered 1, 4 ms
03:04:05.010  held     news id=2  duplicate
03:04:05.010  missed   9 events
`
	if code != 1 || out != want || errs != "handler: the handler has ended\n" {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
	if q := query(); q != "channel=n%2As&channel=a+b" {
		t.Errorf("asked for %q", q)
	}
	if _, out, _ = runHandler("tap", "--json", "--set", "admin.handler="+spec); out != lines {
		t.Errorf("JSON: got %q", out)
	}
	query()
	code, _, errs = runHandler("tap", "--set", "admin.handler=ipc:///nowhere")
	if code != 1 || !strings.HasPrefix(errs, "handler: no handler answers at ipc:///nowhere; is Holdfast running") {
		t.Errorf("got %d, %q", code, errs)
	}
	code, _, errs = runHandler("tap", "--set", "admin.handler=")
	if code != 2 || !strings.Contains(errs, "set admin.handler") {
		t.Errorf("got %d, %q", code, errs)
	}
}

// The user's interrupt is no failure.
func TestTapEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	spec, _ := fakeAdmin(t, `{"event":"publish","time":"2026-01-02T03:04:05.006Z"}`+"\n")
	c := &config.Config{}
	c.Admin.Handler = spec
	err := tap(ctx, c, nil, io.Discard, func(io.Writer, []byte) error {
		cancel()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPublishReportText(t *testing.T) {
	for answer, want := range map[string]string{
		`{"message":"Published","items":[{"result":"sent","matched":3,"queued":2}]}`:      "Published: matched 3, queued 2\n",
		`{"message":"Published","items":[{"result":"duplicate","matched":0,"queued":0}]}`: "Published: duplicate\n",
		"Published\n": "Published: the server gives no report\n",
	} {
		addr, last := fakeControl(t, 200, answer)
		code, out, errs := runHandler("publish", "--report", "--spec", "http://"+addr, "ch", "x")
		if code != 0 || out != want {
			t.Errorf("%s: got %d, %q, %q", answer, code, out, errs)
		}
		if got := last(); !strings.Contains(got, `"report":true}`) {
			t.Errorf("sent %s", got)
		}
	}
	code, _, errs := runHandler("publish", "--report", "--spec", "tcp://127.0.0.1:1", "ch", "x")
	if code != 1 || !strings.Contains(errs, "no report") {
		t.Errorf("got %d, %q", code, errs)
	}
}
