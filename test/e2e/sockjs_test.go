//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast/holdfast/test/poll"
)

// A SockJS client that polls keeps its session, and its open poll, while the
// proxy and then the handler are killed.
func TestSockJSOutlivesProxyAndHandler(t *testing.T) {
	var replayed atomic.Int64
	s := start(t, nil, "*,sockjs=/s "+eventsOrigin(t, &replayed)+",over_http")
	post := func(path, body string) (int, string) {
		resp, err := http.Post("http://"+s.HTTP+path, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp.StatusCode, string(b)
	}
	type answer struct {
		code int
		body string
	}
	// open makes a poll that is not answered yet: of two, one is told of the other.
	open := func() chan answer {
		t.Helper()
		both := make(chan answer, 2)
		poll.Until(t, "a poll to be open", func() bool {
			for range 2 {
				go func() {
					code, body := post("/s/0/session/xhr", "")
					both <- answer{code, body}
				}()
			}
			if first := <-both; strings.HasPrefix(first.body, "c[2010,") {
				return true
			}
			<-both // there is no proxy yet
			return false
		})
		return both
	}
	wants := func(ch chan answer, want string) {
		t.Helper()
		if got := <-ch; got.code != http.StatusOK || got.body != want {
			t.Fatalf("a poll was answered %d %q, want %q", got.code, got.body, want)
		}
	}
	if code, body := post("/s/0/session/xhr?channel=room", ""); code != 200 || body != "o\n" {
		t.Fatalf("open: %d %q", code, body)
	}
	for _, victim := range []string{"proxy", "handler"} {
		waiting := open()
		kill(t, s, victim)
		publishWS(t, s, "room", victim)
		wants(waiting, `a["`+victim+`"]`+"\n")
		waiting = open()
		poll.Until(t, "a proxy that takes what is sent", func() bool {
			code, _ := post("/s/0/session/xhr_send", `["after `+victim+`"]`)
			return code == http.StatusOK
		})
		wants(waiting, `a["after `+victim+`"]`+"\n")
	}
}
