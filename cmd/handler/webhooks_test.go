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
			fmt.Fprint(w, `{"endpoints":[{"id":"ep_1","status":"disabled","reason":"gone","url":"https://a.example","channels":["x","y*"],"queue":{"messages":3,"oldest_seconds":12.4},"dead_letters":2,"kept":{"messages":9}}]}`)
		case strings.HasSuffix(r.URL.Path, "/attempts"):
			fmt.Fprint(w, `{"attempts":[{"at":"2026-01-01T00:00:00.123Z","message":"msg_1","try":2,"status":500,"latency_ms":7,"outcome":"retry","response":"no\n"}]}`)
		case strings.HasSuffix(r.URL.Path, "/dead"):
			fmt.Fprint(w, `{"dead_letters":[{"message":"msg_2","channel":"x","at":"2026-01-01T00:00:00Z","reason":"too old","attempts":1}]}`)
		case strings.HasSuffix(r.URL.Path, "/kept"):
			fmt.Fprint(w, `{"kept":[{"number":7,"message":"msg_3","channel":"x","at":"2026-01-01T00:00:00Z","delivered_at":"2026-01-01T00:00:01Z","attempts":1,"size":80}]}`)
		case strings.HasPrefix(r.URL.Path, "/webhooks/full"):
			more := !strings.Contains(string(body), `"after":7,`)
			fmt.Fprintf(w, `{"resent":%d,"last":%d,"more":true}`, map[bool]int{true: 3}[more], map[bool]int{true: 7}[more])
		case strings.HasSuffix(r.URL.Path, "/resend"):
			more := !strings.Contains(string(body), `"after":7,`)
			fmt.Fprintf(w, `{"resent":3,"last":%d,"more":%v}`, map[bool]int{true: 7, false: 9}[more], more)
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
		code  int // 2 stands for 1 with another text
	}{
		{"list", "GET /webhooks/?limit=1000 ", "ep_1      disabled (gone)  3        12s     2     9     https://a.example  x y*", 0},
		{"show ep_1", "GET /webhooks/ep_1 ", "{\n  \"a\": 1\n}", 0},
		{"attempts ep_1", "GET /webhooks/ep_1/attempts ", `2026-01-01T00:00:00  msg_1    2    500     7ms      retry    "no\n"`, 0},
		{"dead ep_1 --since 2026-01-01T00:00:00Z", "GET /webhooks/ep_1/dead?since=2026-01-01T00%3A00%3A00Z ", "msg_2", 0},
		{"delete ep_1", "DELETE /webhooks/ep_1 ", "done\n", 0},
		{"pause ep_1 -B token", "POST /webhooks/ep_1/pause Bearer token", "", 0},
		{"replay ep_1 --id m1 --id m2", `POST /webhooks/ep_1/replay {"all":false,"ids":["m1","m2"],"since":"","until":""}`, "", 0},
		{"kept ep_1 --after 5 --id m1", "GET /webhooks/ep_1/kept?after=5&id=m1 ", `7       2026-01-01T00:00:00Z  2026-01-01T00:00:01Z  msg_3    "x"      1         80`, 0},
		{"resend ep_1 --all", `POST /webhooks/ep_1/resend {"after":7,"all":true,"ids":null,"since":"","until":""}`, "6 messages are sent again\n", 0},
		{"resend ep_1 --all --json", `POST /webhooks/ep_1/resend {"after":7,"all":true,"ids":null,"since":"","until":""}`, `{"resent":3,"last":7,"more":true}`, 0},
		{"resend full --id m1", `POST /webhooks/full/resend {"after":7,"all":false,"ids":["m1"],"since":"","until":""}`, "", 2},
		{"create --keep 7d --no-verify https://b.example a", `POST /webhooks/ {"url":"https://b.example","channels":["a"],"keep":"7d","verify":false}`, "", 0},
		{"create --in-order --no-verify --event * https://b.example a b*", `POST /webhooks/ {"url":"https://b.example","channels":["a","b*"],"events":["*"],"order":"in-order","verify":false}`, "", 0},
		{"show none", "GET /webhooks/none ", "", 1},
	} {
		var stdout, stderr bytes.Buffer
		code := cli.Run(program, append([]string{"webhooks", "--spec", srv.URL}, strings.Fields(c.args)...), nil, &stdout, &stderr)
		if code != min(c.code, 1) || asked != c.asked || !strings.Contains(stdout.String(), c.shows) {
			t.Errorf("%s: got %d, asked %s\nshowed %s%s\nwant %s\n%s", c.args, code, asked, stdout.String(), stderr.String(), c.asked, c.shows)
		}
		want := []string{"", "Error: no such endpoint\n", "Error: the queue is full after 3 messages; go on with --after 7 when it is not\n"}[c.code]
		if stderr.String() != want {
			t.Errorf("%s: %s", c.args, stderr.String())
		}
	}
}
