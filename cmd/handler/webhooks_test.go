package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/cmd/internal/cli"
)

func TestWebhooksCommand(t *testing.T) {
	var asked string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = fmt.Sprintf("%s %s %s%s", r.Method, r.URL, r.Header.Get("Authorization"), body)
		switch {
		case r.URL.Path == "/webhooks/":
			fmt.Fprint(w, `{"endpoints":[{"id":"ep_1","status":"disabled","reason":"gone","url":"https://a.example","channels":["x","y*"],"queue":{"messages":3,"oldest_seconds":12.4},"dead_letters":2}]}`)
		case strings.HasSuffix(r.URL.Path, "/attempts"):
			fmt.Fprint(w, `{"attempts":[{"at":"2026-01-01T00:00:00.123Z","message":"msg_1","try":2,"status":500,"latency_ms":7,"outcome":"retry","response":"no\n"}]}`)
		case strings.HasSuffix(r.URL.Path, "/dead"):
			fmt.Fprint(w, `{"dead_letters":[{"message":"msg_2","channel":"x","at":"2026-01-01T00:00:00Z","reason":"too old","attempts":1}]}`)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasPrefix(r.URL.Path, "/webhooks/none"):
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":"no such endpoint"}`)
		default:
			fmt.Fprint(w, `{"a":1}`)
		}
	}))
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		args  string
		asked string
		shows string
		code  int
	}{
		{"list", "GET /webhooks/?limit=1000 ", "ep_1      disabled (gone)  3        12s     2     https://a.example  x y*", 0},
		{"show ep_1", "GET /webhooks/ep_1 ", "{\n  \"a\": 1\n}", 0},
		{"attempts ep_1", "GET /webhooks/ep_1/attempts ", `2026-01-01T00:00:00  msg_1    2    500     7ms      retry    "no\n"`, 0},
		{"dead ep_1 --since 2026-01-01T00:00:00Z", "GET /webhooks/ep_1/dead?since=2026-01-01T00%3A00%3A00Z ", "msg_2", 0},
		{"delete ep_1", "DELETE /webhooks/ep_1 ", "done\n", 0},
		{"pause ep_1 -B token", "POST /webhooks/ep_1/pause Bearer token", "", 0},
		{"replay ep_1 --id m1 --id m2", `POST /webhooks/ep_1/replay {"all":false,"ids":["m1","m2"],"since":"","until":""}`, "", 0},
		{"create --in-order --no-verify --event * https://b.example a b*", `POST /webhooks/ {"url":"https://b.example","channels":["a","b*"],"events":["*"],"order":"in-order","verify":false}`, "", 0},
		{"show none", "GET /webhooks/none ", "", 1},
	} {
		var stdout, stderr bytes.Buffer
		code := cli.Run(program, append([]string{"webhooks", "--spec", srv.URL}, strings.Fields(c.args)...), nil, &stdout, &stderr)
		if code != c.code || asked != c.asked || !strings.Contains(stdout.String(), c.shows) {
			t.Errorf("%s: got %d, asked %s\nshowed %s%s\nwant %s\n%s", c.args, code, asked, stdout.String(), stderr.String(), c.asked, c.shows)
		}
		if code == 1 && stderr.String() != "Error: no such endpoint\n" {
			t.Errorf("%s: %s", c.args, stderr.String())
		}
	}
}
