//go:build faults

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// hookReceiver takes webhooks, and knows which messages came and under which id.
type hookReceiver struct {
	mu  sync.Mutex
	ids map[string]map[string]string // by channel and item: webhook-id
	bad []string
}

// newHooks starts a receiver and declares it for some channels. It returns when
// messages arrive.
func newHooks(t *testing.T, s *stack.Stack, channels ...string) *hookReceiver {
	t.Helper()
	h := &hookReceiver{ids: map[string]map[string]string{}}
	h.declare(t, s, h, channels...)
	return h
}

// declare serves a handler that passes requests on to h.
func (h *hookReceiver) declare(t *testing.T, s *stack.Stack, handler http.Handler, channels ...string) {
	t.Helper()
	srv := httptest.NewServer(handler)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	file, err := json.Marshal(map[string]any{"endpoints": []any{map[string]any{
		"id": "all", "url": srv.URL, "channels": append(slices.Clone(channels), "probe"), "timeout": "5s",
		"retries": slices.Repeat([]string{"200ms"}, 50),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir, "webhooks")
	if err := os.WriteFile(path+".new", file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n := 0
	poll.Until(t, "a webhook", func() bool {
		n++
		if err := poster(ctx, s, "probe", n, "probe\n"); err != nil {
			t.Fatalf("no webhook arrives: %v", err)
		}
		return h.count("probe") > 0
	})
}

// ServeHTTP implements http.Handler.
func (h *hookReceiver) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // zurl was killed
	}
	var event struct {
		Data struct{ Channel, ID string }
	}
	id := r.Header.Get("webhook-id")
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := json.Unmarshal(body, &event); err != nil || id == "" {
		h.bad = append(h.bad, fmt.Sprintf("webhook %q: %q, %v", id, body, err))
		return
	}
	channel := h.ids[event.Data.Channel]
	if channel == nil {
		channel = map[string]string{}
		h.ids[event.Data.Channel] = channel
	}
	channel[event.Data.ID] = id
}

func (h *hookReceiver) count(channel string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ids[channel])
}

// check waits until all messages of a channel have come.
func (h *hookReceiver) check(t *testing.T, channel string, n int) {
	t.Helper()
	poll.For(2*time.Minute, func() bool { return h.count(channel) >= n })
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := 1; i <= n; i++ {
		if h.ids[channel][fmt.Sprint(i)] == "" {
			t.Errorf("webhook for %s %d did not come (%d of %d did)", channel, i, len(h.ids[channel]), n)
			break
		}
	}
	for _, text := range h.bad {
		t.Error(text)
	}
}
