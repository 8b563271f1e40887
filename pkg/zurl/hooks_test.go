package zurl

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/netpolicy"
	"github.com/holdfast/holdfast/pkg/webhook"
	"github.com/holdfast/holdfast/test/poll"
)

// Receivers that behave badly: an attempt ends within its time, with what is
// known by then, and reads no more than it wants.
func TestAttemptsAtBadReceivers(t *testing.T) {
	var hits int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // until then the server does not notice who leaves
		flush := func() { w.(http.Flusher).Flush() }
		switch r.URL.Path {
		case "/hang":
			<-r.Context().Done()
		case "/trickle":
			w.WriteHeader(http.StatusOK)
			drip := time.NewTicker(10 * time.Millisecond)
			defer drip.Stop()
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("."))
				flush()
				<-drip.C
			}
		case "/huge":
			for range 1 << 14 {
				if _, err := w.Write(make([]byte, 16<<10)); err != nil {
					return
				}
			}
		case "/reset":
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
		case "/away":
			hits++
			http.Redirect(w, r, "/landed", http.StatusFound)
		case "/landed":
			hits += 100
		case "/later":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	o := DefaultOptions()
	o.Bus = bustest.NewNetwork().Node("zurl.0")
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	try := func(path string, timeout time.Duration) webhook.Response {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		return s.hooks.send(ctx, &webhook.Request{Method: "POST", URL: srv.URL + path, Body: []byte("x"), MaxBody: 4096})
	}
	const short, long = 300 * time.Millisecond, poll.Patience
	if r := try("/hang", short); r.Condition == "" {
		t.Errorf("hang: %+v", r)
	}
	enough := short // for the head and something of the body, which never ends
	poll.Until(t, "a trickle", func() bool {
		enough *= 2
		r := try("/trickle", enough)
		return r.Status == 200 && r.Condition == "" && strings.HasPrefix(string(r.Body), ".")
	})
	if r := try("/huge", long); r.Status != 200 || len(r.Body) > 4096 {
		t.Errorf("huge: %d, %d bytes", r.Status, len(r.Body))
	}
	if r := try("/reset", long); r.Condition == "" {
		t.Errorf("reset: %+v", r)
	}
	if r := try("/away", long); r.Status != 302 || hits != 1 {
		t.Errorf("redirect: %+v, %d hits", r, hits)
	}
	if r := try("/later", long); r.Status != 429 || r.RetryAfter != "7" {
		t.Errorf("Retry-After: %+v", r)
	}
}

// The address policy holds for webhooks, when they are made and when they are
// sent.
func TestWebhooksKeepToThePolicy(t *testing.T) {
	rules, err := netpolicy.New("allow", nil, []string{"@internal"})
	if err != nil {
		t.Fatal(err)
	}
	o := DefaultOptions()
	o.Bus, o.Policy = bustest.NewNetwork().Node("zurl.0"), rules
	o.Webhooks.Store = filepath.Join(t.TempDir(), "x.db")
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for _, url := range []string{"http://127.0.0.1:1/", "http://169.254.169.254/latest", "http://[::1]/", "http://10.1.2.3/"} {
		if s.hooks.checkURL(url) == nil {
			t.Errorf("%s may be subscribed", url)
		}
		if r := s.hooks.send(t.Context(), &webhook.Request{Method: "POST", URL: url}); r.Condition != "policy-violation" {
			t.Errorf("%s: %+v", url, r)
		}
	}
}

// asking is a handler that asks for something of the webhooks API.
type asking struct {
	up     chan struct{}
	answer chan frame.Frame
}

func (a *asking) PeerUp(bus.Peer)                    { close(a.up) }
func (a *asking) PeerDown(bus.Peer)                  {}
func (a *asking) Broadcast(bus.Peer, string, []byte) {}
func (a *asking) Receive(_ bus.Peer, b []byte) {
	if f, err := frame.Decode(b); err == nil && f.Type() == frame.TypeHookAnswer {
		a.answer <- f
	}
}

// Without webhooks the API says what to set, not that something is broken.
func TestAPIWithoutWebhooks(t *testing.T) {
	network := bustest.NewNetwork()
	o := DefaultOptions()
	o.Bus = network.Node("zurl.0")
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	a := &asking{make(chan struct{}), make(chan frame.Frame, 1)}
	node := network.Node("handler.0")
	bustest.Start(t, node, a)
	<-a.up
	if err := node.Send("zurl.0", frame.Encode(&frame.HookCall{Token: 1, Method: "GET"})); err != nil {
		t.Fatal(err)
	}
	got := (<-a.answer).(*frame.HookAnswer)
	if got.Code != 503 || string(got.Body) != `{"error":"webhooks are off: zurl.webhook_store is empty"}`+"\n" {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
}
