//go:build faults

package faults

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// again opens a connection anew whenever it has ended in order. Each one gets
// everything from its first message on; what is published between two is not
// looked at.
func (r *reader) again(ctx context.Context, open func(ready func())) (times int) {
	for ; ctx.Err() == nil; times++ {
		r.mu.Lock()
		r.last = 0
		bad := len(r.wrong) > 0
		r.mu.Unlock()
		if bad {
			return times
		}
		open(func() {})
	}
	return times
}

// TestUpgrade replaces every process under load: with two connmgrs and two
// proxies, twice, so that a number that was given up is used again.
func TestUpgrade(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{
		"runner/instances=connmgr:2,proxy:2", "connmgr/drain_time=3", "runner/restart_delay=0.3",
		"proxy/hand_over_timeout=60", "connmgr/peer_wait=60",
	}, "* "+origin.addr+",over_http")

	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	var took delays
	var all []*reader
	var ended, requests atomic.Int64
	add := func(name, channel string, run func(*reader)) {
		r := &reader{name: name + " " + channel, channel: channel, strict: true, polite: true, delays: &took}
		all = append(all, r)
		clients.Go(func() { run(r) })
	}
	for i := range 10 {
		channel := fmt.Sprint("c-", i%2)
		add("stream", channel, func(r *reader) {
			ended.Add(int64(r.again(ctx, func(ready func()) { r.stream(ctx, s, "/stream?channel="+channel, ready) })))
		})
		add("socket", channel, func(r *reader) {
			ended.Add(int64(r.again(ctx, func(ready func()) { r.socket(ctx, s, ready) })))
		})
		add("poller", channel, func(r *reader) { r.poll(ctx, s) })
	}
	for range 3 {
		add("requests", "", func(r *reader) {
			for n := 0; ctx.Err() == nil; n++ {
				if n%2 == 0 {
					visit(ctx, s, r)
				} else {
					post(ctx, s, r)
				}
				requests.Add(1)
			}
		})
	}
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for i := range 2 {
		channel := fmt.Sprint("c-", i)
		publishers.Go(func() {
			for {
				n, text := origin.add(channel)
				if err := poster(ctx, s, channel, n, text); err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				select {
				case <-time.After(10 * time.Millisecond): // the pace
				case <-stop:
					return
				}
			}
		})
	}

	for round := range 2 {
		before := pids(s)
		ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
		out, err := exec.CommandContext(ctx, filepath.Join(s.Dir, "scripts", "holdfast"), "upgrade", "--config="+s.Config).CombinedOutput()
		cancel()
		if err != nil || !strings.HasPrefix(string(out), "holdfast: done: version ") {
			t.Fatalf("upgrade: %v: %s", err, out)
		}
		after := pids(s)
		if len(after) != len(before) || len(after) != 6 {
			t.Errorf("round %d: processes %v, then %v", round, before, after)
		}
		for pid, name := range before {
			if _, same := after[pid]; same {
				t.Errorf("round %d: %s was not replaced", round, name)
			}
		}
	}
	close(stop)
	publishers.Wait()
	// The pollers get everything, whatever happens.
	deadline := time.Now().Add(time.Minute)
	for _, r := range all {
		if !strings.HasPrefix(r.name, "poller") {
			continue
		}
		_, want := origin.after(r.channel, 0)
		if !poll.For(time.Until(deadline), func() bool { return r.position() >= want }) {
			t.Errorf("%s has %d of %d", r.name, r.position(), want)
		}
	}
	cancel()
	clients.Wait()
	for _, r := range all {
		for _, text := range r.wrong {
			t.Errorf("%s: %s", r.name, text)
		}
	}
	if n := ended.Load(); n < 20 {
		t.Errorf("%d connections ended", n)
	}
	t.Logf("%d connections ended in order, %d requests, %d messages received", ended.Load(), requests.Load(), len(took.all))
}

// pids returns the names of all programs by process id.
func pids(s *stack.Stack) map[int]string {
	all := map[int]string{}
	for _, p := range s.Processes() {
		all[p.PID] = p.Name
	}
	return all
}

// post makes a request that must not be made twice.
func post(ctx context.Context, s *stack.Stack, r *reader) {
	request(ctx, s, r, http.MethodPost, "body")
}
