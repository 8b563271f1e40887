//go:build faults

// Package faults kills the programs, stops them for a while, takes disk and
// descriptors away from them, and then compares what was published with what
// each client has. It needs bin/:
//
//	make test-faults
//
// -faults.time says how long TestKills kills, -faults.seed repeats a run.
package faults

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

var (
	killTime = flag.Duration("faults.time", 2*time.Minute, "how long TestKills kills")
	seedFlag = flag.Uint64("faults.seed", 0, "seed of TestKills; 0 takes a new one")
)

func start(t *testing.T, set []string, routes ...string) *stack.Stack {
	t.Helper()
	return stack.For(t, stack.Options{Kind: stack.Holdfast, Routes: routes, Set: set})
}

// intake is a way to publish. send returns when the publisher may forget the
// message.
type intake struct {
	channel string
	send    func(ctx context.Context, n int, text string) error
	sure    bool // what send took arrives, whatever is killed
}

// TestKills kills any process but connmgr about once a second under a mixed load.
//
// Webhooks for what HTTP answered with "Published" arrive at least once.
//
// What HTTP answered with "Published" arrives, once and in order, at every client
// that was there. A message over ZeroMQ may be lost with the handler that it was
// on its way to, as those sockets have no answers: then every kill of the handler
// accounts for at most one gap at each client, and there are no repeats. Clients
// that use positions (prev-id) get even those, from the origin.
func TestKills(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d (repeat with -faults.seed)", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))

	origin := newBackend(t)
	s := start(t, []string{
		// Patience for a machine that is slow: nothing is to be given up here.
		"proxy/hand_over_timeout=60", "connmgr/peer_wait=60", "handler/message_wait=2000",
		"runner/restart_delay=0.3", "zurl/allow=127.0.0.1",
	}, "* "+origin.addr+",over_http")

	hooks := newHooks(t, s, "http-0", "push-0")
	push, pub := publishers(t, s)

	var intakes []*intake
	for i := range 2 {
		http, zpush, zpub := fmt.Sprint("http-", i), fmt.Sprint("push-", i), fmt.Sprint("pub-", i)
		intakes = append(intakes,
			&intake{channel: http, sure: true, send: func(ctx context.Context, n int, text string) error {
				return poster(ctx, s, http, n, text)
			}},
			&intake{channel: zpush, send: func(ctx context.Context, n int, text string) error {
				return push.Send(ctx, []byte("J"+item(zpush, n, text)))
			}},
			&intake{channel: zpub, send: func(_ context.Context, n int, text string) error {
				return pub.Send([]byte(zpub), []byte("J"+item(zpub, n, text)))
			}})
	}

	// Clients.
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	var all []*reader
	var took delays
	var twice, requests, visits atomic.Int64
	var ready sync.WaitGroup
	add := func(name string, in *intake, strict bool, run func(*reader)) {
		r := &reader{name: name + " " + in.channel, channel: in.channel, strict: strict, delays: &took}
		all = append(all, r)
		clients.Go(func() {
			run(r)
			r.mu.Lock()
			r.done = true
			r.mu.Unlock()
		})
	}
	for _, in := range intakes {
		for range 5 {
			ready.Add(1)
			add("stream", in, in.sure, func(r *reader) {
				r.stream(ctx, s, "/stream?channel="+r.channel, ready.Done)
			})
		}
		for range 3 {
			ready.Add(1)
			add("socket", in, in.sure, func(r *reader) {
				twice.Add(int64(r.socket(ctx, s, ready.Done)))
			})
		}
		for range 2 {
			add("follower", in, true, func(r *reader) {
				r.stream(ctx, s, "/follow?after=0&channel="+r.channel, nil)
			})
			add("poller", in, true, func(r *reader) { r.poll(ctx, s) })
		}
	}
	ready.Wait()
	wrong := &reader{name: "requests", delays: &took}
	clients.Go(func() { // requests without a hold
		for ctx.Err() == nil {
			visit(ctx, s, wrong)
			requests.Add(1)
		}
	})
	for i := range 2 { // streams that come and go
		in := intakes[0]
		clients.Go(func() {
			for ctx.Err() == nil {
				r := &reader{name: fmt.Sprint("visitor ", i), channel: in.channel, strict: true, delays: &took}
				short, end := context.WithCancel(ctx)
				clients.Go(func() {
					from := 0
					poll.For(*killTime, func() bool { from = r.position(); return from > 0 || short.Err() != nil })
					poll.For(*killTime, func() bool { return r.position() >= from+5 || short.Err() != nil })
					end()
				})
				r.stream(short, s, "/stream?channel="+r.channel, nil)
				end()
				visits.Add(1)
				for _, text := range r.wrong {
					wrong.fault("%s: %s", r.name, text)
				}
			}
		})
	}

	// Publishers, until told to stop.
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for _, in := range intakes {
		publishers.Go(func() {
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for {
				n, text := origin.add(in.channel)
				if err := in.send(ctx, n, text); err != nil {
					if ctx.Err() == nil {
						t.Errorf("%s: %v", in.channel, err)
					}
					return
				}
				select {
				case <-tick.C:
				case <-stop:
					return
				}
			}
		})
	}

	// The killing.
	kills := map[string]int{}
	names := []string{"handler", "proxy", "zurl"}
	for end := time.Now().Add(*killTime); time.Now().Before(end) && !t.Failed(); {
		<-time.After(500*time.Millisecond + time.Duration(rnd.Int64N(int64(time.Second)))) // the pace
		name := names[rnd.IntN(len(names))]
		pid, ok := s.Children()[name]
		if !ok {
			continue // it has yet to be started again
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			kills[name]++
			t.Logf("%s %s killed", time.Now().Format("15:04:05.000"), name)
		}
		for _, r := range all {
			r.mu.Lock()
			bad := len(r.wrong) > 0
			r.mu.Unlock()
			if bad {
				t.Errorf("%s has a complaint", r.name)
			}
		}
	}

	// From here on nothing is lost, so once everybody has something that was sent
	// from here on, the rest will follow.
	if err := s.Ready(ctx, time.Minute); err != nil {
		t.Error(err)
	}
	position := func(in *intake) int {
		_, n := origin.after(in.channel, 0)
		return n
	}
	reached := func(what string, target map[string]int) {
		deadline := time.Now().Add(2 * time.Minute)
		for _, r := range all {
			if !poll.For(time.Until(deadline), func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return r.last >= target[r.channel] || r.done
			}) {
				r.fault("%s: has %d of %d", what, r.position(), target[r.channel])
			}
		}
	}
	target := map[string]int{}
	for _, in := range intakes {
		target[in.channel] = position(in) + 1
	}
	reached("after the last kill", target)
	close(stop)
	publishers.Wait()
	published := 0
	for _, in := range intakes {
		target[in.channel] = position(in)
		published += position(in)
	}
	reached("at the end", target)
	hooks.check(t, "http-0", target["http-0"])
	t.Logf("webhooks: %d of %d messages over HTTP, %d of %d over PUSH", hooks.count("http-0"), target["http-0"], hooks.count("push-0"), target["push-0"])
	if err := s.Accounts(ctx, false); err != nil { // this boot of the handler
		t.Error(err)
	}
	cancel()
	clients.Wait()

	lost := map[bool]int{}
	for _, r := range append(all, wrong) {
		for _, text := range r.wrong {
			t.Errorf("%s: %s", r.name, text)
		}
		if !r.strict && r.gaps > kills["handler"] {
			t.Errorf("%s: %d gaps with %d kills of the handler", r.name, r.gaps, kills["handler"])
		}
		lost[r.strict] += r.lost
	}
	for _, in := range intakes {
		n, lost, gaps := 0, 0, 0
		for _, r := range all {
			if r.channel == in.channel && !r.strict {
				n, lost, gaps = n+1, lost+r.lost, max(gaps, r.gaps)
			}
		}
		if n > 0 {
			t.Logf("%s: of %d messages each client lost %d in at most %d gaps", in.channel, position(in), lost/n, gaps)
		}
	}
	slices.Sort(took.all)
	at := func(p float64) time.Duration { return took.all[min(len(took.all)-1, int(p*float64(len(took.all))))] }
	t.Logf("kills %v; %d messages published, %d received: p50 %v, p99 %v, p99.9 %v, max %v", kills, published, len(took.all), at(.5), at(.99), at(.999), at(1))
	t.Logf("%d requests, %d visitors; %d messages over ZeroMQ lost, %d echoes twice", requests.Load(), visits.Load(), lost[false], twice.Load())
}

// visit makes one request without a hold.
func visit(ctx context.Context, s *stack.Stack, r *reader) { request(ctx, s, r, http.MethodGet, "") }

func request(ctx context.Context, s *stack.Stack, r *reader, method, body string) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.HTTP+"/plain", strings.NewReader(body))
	if err != nil {
		r.fault("%v", err)
		return
	}
	resp, err := streams.Do(req)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.fault("%s: %v", method, err)
	case resp.StatusCode != 200:
		r.fault("%s: %s", method, resp.Status)
	}
	if err == nil {
		_ = resp.Body.Close()
	}
}
