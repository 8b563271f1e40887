//go:build faults

package faults

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// memory returns the proportional set size of a process, in MB: what it takes
// from the machine.
func memory(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nPss:")
	var kb float64
	_, err = fmt.Sscan(rest, &kb)
	return kb / 1024, err
}

// watchMemory notes the most that each program takes until it is told to stop.
func watchMemory(t *testing.T, s *stack.Stack) (stop func() map[string]float64) {
	t.Helper()
	if _, err := memory(os.Getpid()); err != nil {
		need.Missing(t, "the memory of a process cannot be measured here: %v", err)
	}
	most := map[string]float64{}
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, p := range s.Processes() {
				mb, err := memory(p.PID)
				if err != nil {
					t.Errorf("memory of %s: %v", p.Name, err)
				}
				most[p.Name] = max(most[p.Name], math.Round(mb))
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return func() map[string]float64 {
		close(done)
		watcher.Wait()
		return most
	}
}

// flood publishes items over all three intakes, as fast as each takes them.
func flood(t *testing.T, s *stack.Stack, channel string, items int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	push, pub := publishers(t, s)
	message := func(way string, n int) string {
		return fmt.Sprintf(`{"channel":%q,"id":"%s-%d","formats":{"http-stream":{"content":"%s %d %s\n"}}}`, channel, way, n, way, n, body)
	}
	before, err := s.Metrics("handler.0")
	if err != nil {
		t.Fatal(err)
	}
	taken := func(intake string) float64 {
		m, err := s.Metrics("handler.0")
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("holdfast_handler_published_total{intake=%q}", intake)
		return m[key] - before[key]
	}
	var ways sync.WaitGroup
	for w := range 4 {
		ways.Go(func() {
			for n := w; n < items; n += 4 {
				resp, err := posts.Post("http://"+s.Control+"/publish/", "application/json", strings.NewReader(`{"items":[`+message("http", n)+`]}`))
				if err != nil {
					t.Errorf("publishing over HTTP: %v", err)
					return
				}
				answer, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("publishing over HTTP: %s: %s", resp.Status, answer)
					return
				}
			}
		})
	}
	ways.Go(func() {
		for n := range items {
			if err := push.Send(ctx, []byte("J"+message("push", n))); err != nil {
				t.Errorf("publishing over PUSH: %v", err)
				return
			}
		}
	})
	ways.Go(func() {
		// PUB drops what does not fit into its queue.
		for n := 0; n%100 != 0 || taken("sub") < float64(items) && ctx.Err() == nil; n++ {
			if err := pub.Send([]byte(channel), []byte("J"+message("pub", n))); err != nil {
				t.Errorf("publishing over PUB: %v", err)
				return
			}
		}
	})
	ways.Wait()
	if !poll.For(2*time.Minute, func() bool { return taken("pull") >= float64(items) || ctx.Err() != nil }) || ctx.Err() != nil {
		t.Errorf("the flood does not end: %v taken over PUSH, %v over PUB", taken("pull"), taken("sub"))
	}
}

// Far more is published than message_rate lets through. What does not fit is
// dropped, counted as rate-limit, and costs no memory; publishers over HTTP get
// their answers; a channel of another route, new holds and requests go on.
func TestFloodPastTheRate(t *testing.T) {
	const dropped = `holdfast_handler_dropped_total{reason="rate-limit"}`
	for name, test := range map[string]struct {
		rate, hwm   int
		items, body int
	}{
		"mark":    {rate: 2000, hwm: 1000, items: 2000, body: 2000},
		"no mark": {rate: 200, hwm: -1, items: 400, body: 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			origin := newBackend(t)
			s := start(t, []string{fmt.Sprint("handler/message_rate=", test.rate), fmt.Sprint("handler/message_hwm=", test.hwm)},
				"*,id=flood "+origin.addr, "quiet.test,id=quiet "+origin.addr)
			one(t, s, "handler")
			stop := watchMemory(t, s)
			var readers sync.WaitGroup
			var all []*held
			for range 5 {
				c := hold(t, s, "flood")
				until(t, c.Reader, "open")
				readers.Go(func() {
					_, _ = io.Copy(io.Discard, c) // until it is closed
				})
				all = append(all, c)
			}
			defer readers.Wait()
			defer func() {
				for _, c := range all {
					_ = c.Close()
				}
			}()
			quiet := holdAt(t, s, "quiet.test", "quiet")
			until(t, quiet.Reader, "open")
			var flooding sync.WaitGroup
			done := make(chan struct{})
			flooding.Go(func() {
				defer close(done)
				for end := time.Now().Add(time.Minute); time.Now().Before(end); { // until something is dropped
					flood(t, s, "flood", test.items, strings.Repeat("x", test.body))
					if m, err := s.Metrics("handler.0"); err != nil || m[dropped] > 0 {
						return
					}
				}
			})
			n := 0
			for over := false; !over; n++ { // while it lasts
				say(t, s, "quiet", n+1)
				until(t, quiet.Reader, fmt.Sprint("message ", n+1))
				c := hold(t, s, "other")
				until(t, c.Reader, "open")
				_ = c.Close()
				r := &reader{delays: new(delays)}
				visit(t.Context(), s, r)
				for _, text := range r.wrong {
					t.Errorf("a request: %s", text)
				}
				select {
				case <-done:
					over = true
				case <-time.After(50 * time.Millisecond): // the machine has other things to do
				}
			}
			flooding.Wait()
			if err := s.Accounts(t.Context(), true); err != nil {
				t.Error(err)
			}
			most := stop()
			m, err := s.Metrics("handler.0")
			if err != nil {
				t.Fatal(err)
			}
			if all := stack.Total(m, "holdfast_handler_dropped_total"); m[dropped] == 0 || m[dropped] != all {
				t.Errorf("%v dropped, %v of them for the rate", all, m[dropped])
			}
			t.Logf("%v published, %v matched, %v dropped; %d rounds of others; most memory in MB: %v", stack.Total(m, "holdfast_handler_published_total"),
				stack.Total(m, "holdfast_handler_matched_total"), m[dropped], n, most)
			for name, mb := range most {
				bound := 100.0
				if name == "handler" && test.hwm < 0 {
					// 64 MiB wait for the rate, 32 MiB in each of two ZeroMQ sockets; garbage
					// may be as much again, and 32 MiB more. All messages are 240 MB.
					bound = 400
				}
				if mb > bound {
					t.Errorf("%s took %.0f MB, more than %.0f", name, mb, bound)
				}
			}
		})
	}
}

// A connmgr that takes nothing fills the handler's queue to it. Publishers get
// answers all the same, what does not fit is dropped and counted as overload,
// within bus.queue_size, and afterwards everything goes on.
func TestFloodOfAStoppedProcess(t *testing.T) {
	origin := newBackend(t)
	s := start(t, []string{"bus/queue_size=4M", "bus/give_up=60"}, "* "+origin.addr)
	connmgr := one(t, s, "connmgr")
	c := hold(t, s, "flood")
	until(t, c.Reader, "open")
	stop := watchMemory(t, s)
	if err := syscall.Kill(connmgr, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("x", 50_000)
	push, err := bus.NewPush(bus.SocketOptions{Name: "push", Connect: []string{"tcp://" + s.Push}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = push.Close() }()
	const items = 2000 // 100 MB
	for n := range items {
		if err := push.Send(t.Context(), []byte("J"+item("flood", n+1, body))); err != nil {
			t.Fatal(err)
		}
	}
	reason := `holdfast_handler_dropped_total{reason="overload"}`
	poll.Works(t, "all are published, and some dropped", func() error {
		m, err := s.Metrics("handler.0")
		if err != nil {
			t.Fatal(err)
		}
		if dropped, published := m[reason], m[`holdfast_handler_published_total{intake="pull"}`]; dropped == 0 || published != items {
			return fmt.Errorf("%v dropped, %v published", dropped, published)
		}
		return nil
	})
	say(t, s, "flood", items+1) // answered
	if err := syscall.Kill(connmgr, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for n := items + 2; ; n++ { // until there is room again
		before, err := s.Metrics("handler.0")
		if err != nil {
			t.Fatal(err)
		}
		say(t, s, "flood", n)
		after, err := s.Metrics("handler.0")
		if err != nil {
			t.Fatal(err)
		}
		if before[reason] == after[reason] {
			until(t, c.Reader, fmt.Sprint("message ", n))
			break
		}
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}
	m, err := s.Metrics("handler.0")
	if err != nil {
		t.Fatal(err)
	}
	most := stop()
	t.Logf("%v matched, %v delivered, %v dropped for overload; most memory in MB: %v", stack.Total(m, "holdfast_handler_matched_total"),
		stack.Total(m, "holdfast_handler_delivered_total"), m[reason], most)
	for name, mb := range most {
		// 32 MiB in the ZeroMQ socket, 4 MiB in the queue to connmgr; garbage may be as
		// much again, and 32 MiB more.
		if mb > 160 {
			t.Errorf("%s took %.0f MB", name, mb)
		}
	}
}
