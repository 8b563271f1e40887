//go:build faults

package faults

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// A program on Linux asks for the time in a page of code, the vDSO, that the
// kernel maps into each process. setClock writes its own code there, as a
// debugger writes a breakpoint: the page becomes the process's own, so its wall
// clock, and nobody else's, is off by as much as is wanted, while its monotonic
// clock goes on as before. That is how a process sees it when the machine's clock
// is set. The code is for amd64.
//
// A program that the process starts gets a fresh page, and with it the right time.

// answers are the functions of the vDSO that tell the wall clock, and the code
// that takes their place: the system call itself, and then seconds added to what
// it says. The bytes at offset are the number to add.
var answers = []struct {
	name   string
	code   []byte
	offset int
}{
	{"__vdso_clock_gettime", []byte{
		0xb8, 228, 0, 0, 0, // mov eax, 228
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi; the clock: 0 is the wall clock
		0x74, 0x05, // jz add
		0x83, 0xff, 0x05, // cmp edi, 5; a coarse one
		0x75, 0x0d, // jne done
		0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // add: movabs rcx, …
		0x48, 0x01, 0x0e, // add [rsi], rcx
		0xc3, // done: ret
	}, 18},
	{"__vdso_gettimeofday", []byte{
		0xb8, 96, 0, 0, 0, // mov eax, 96
		0x0f, 0x05, // syscall
		0x48, 0x85, 0xff, // test rdi, rdi
		0x74, 0x0d, // jz done
		0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // movabs rcx, …
		0x48, 0x01, 0x0f, // add [rdi], rcx
		0xc3, // done: ret
	}, 14},
}

// setClock makes the wall clock of a process differ from the machine's by some
// seconds. It skips the test where that cannot be done.
func setClock(t *testing.T, pid int, by time.Duration) {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		need.Missing(t, "the clock of a single process can be set on Linux on amd64 only")
	}
	from, size := vdsoOf(t, pid)
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		need.Missing(t, "the memory of a process may not be changed here: %v", err)
	}
	defer func() { _ = mem.Close() }()
	page := make([]byte, size)
	if _, err := mem.ReadAt(page, from); err != nil {
		need.Missing(t, "the memory of a process may not be read here: %v", err)
	}
	file, err := elf.NewFile(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	standStill(t, pid, uint64(from), uint64(from)+uint64(size))
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	for _, a := range answers {
		found := false
		for _, s := range symbols {
			if s.Name != a.name || s.Size < uint64(len(a.code)) {
				continue
			}
			found = true
			code := bytes.Clone(a.code)
			binary.LittleEndian.PutUint64(code[a.offset:], uint64(int64(by/time.Second)))
			if _, err := mem.WriteAt(code, from+int64(s.Value)); err != nil {
				need.Missing(t, "the memory of a process may not be written here: %v", err)
			}
		}
		if !found {
			need.Missing(t, "this kernel's vDSO has no %s with room for %d bytes", a.name, len(a.code))
		}
	}
}

// vdsoOf returns where the vDSO of a process is.
func vdsoOf(t *testing.T, pid int) (from int64, size int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			var to int64
			if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return from, int(to - from)
		}
	}
	need.Missing(t, "there is no vDSO here")
	return 0, 0
}

// standStill stops a process at a moment when none of its threads is in a range
// of its code.
func standStill(t *testing.T, pid int, from, to uint64) {
	t.Helper()
	poll.Until(t, fmt.Sprintf("process %d to stand still", pid), func() bool {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var err error
		poll.For(poll.Patience, func() bool {
			err = outside(pid, from, to)
			return !errors.Is(err, errRuns)
		})
		if err == nil {
			return true
		}
		_ = syscall.Kill(pid, syscall.SIGCONT) // let it get on
		if !errors.Is(err, errRuns) && !errors.Is(err, errInside) {
			need.Missing(t, "where the threads of a process are cannot be seen here, so its clock cannot be set: %v", err)
		}
		return false
	})
}

var errRuns, errInside = errors.New("a thread runs"), errors.New("a thread is in that code")

func outside(pid int, from, to uint64) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("process %d has no threads: %w", pid, err)
	}
	for _, path := range threads {
		line, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return err
		}
		// Its last word is where the thread stands, unless it does not.
		words := strings.Fields(string(line))
		if len(words) < 2 {
			return errRuns
		}
		var at uint64
		if _, err := fmt.Sscanf(words[len(words)-1], "0x%x", &at); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if at >= from && at < to {
			return errInside
		}
	}
	return nil
}

// clocks are the wall clocks of a stack: those of its programs and of the
// supervisor.
type clocks struct {
	t *testing.T
	s *stack.Stack
}

func (c clocks) set(by time.Duration) {
	c.t.Helper()
	setClock(c.t, c.s.PID(), by)
	for _, p := range c.s.Processes() {
		setClock(c.t, p.PID, by)
	}
}

// dated is an origin that reads in each Grip-Sig what time the proxy thinks it is.
type dated struct {
	*backend
	ahead atomic.Int64 // of our clock, in seconds
}

func newDated(t *testing.T) *dated {
	d := &dated{backend: &backend{t: t, log: map[string][]string{}}}
	d.srv = httptest.NewServer(d)
	t.Cleanup(d.stop)
	d.addr = d.srv.Listener.Addr().String()
	return d
}

// ServeHTTP implements http.Handler.
//
//	/timed?channel=  a long poll of three seconds
func (d *dated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if parts := strings.Split(r.Header.Get("Grip-Sig"), "."); len(parts) == 3 {
		var claims struct{ Exp int64 }
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil && json.Unmarshal(text, &claims) == nil {
			d.ahead.Store(claims.Exp - time.Now().Add(time.Hour).Unix()) // they are good for an hour
		}
	}
	if r.URL.Path == "/timed" {
		w.Header().Set("Grip-Hold", "response")
		w.Header().Set("Grip-Channel", r.URL.Query().Get("channel"))
		w.Header().Set("Grip-Timeout", "3")
		fmt.Fprintln(w, "over")
		return
	}
	d.backend.ServeHTTP(w, r)
}

// await waits until a new request carries a time that is so far from ours.
func (d *dated) await(t *testing.T, s *stack.Stack, by time.Duration) {
	t.Helper()
	poll.Works(t, "the proxy's time to be right", func() error {
		r := &reader{delays: new(delays)}
		visit(t.Context(), s, r)
		off := time.Duration(d.ahead.Load())*time.Second - by
		if len(r.wrong) > 0 || off.Abs() >= time.Minute {
			return fmt.Errorf("it is %v off: %v", off, r.wrong)
		}
		return nil
	})
}

// unwilling receives webhooks, or refuses them for a while. It sees whether they
// are dated as they should be.
type unwilling struct {
	*hookReceiver
	refuse atomic.Bool
	shift  atomic.Int64 // of the sender's clock

	mu      sync.Mutex
	refused map[string]bool
	undated int
}

// ServeHTTP implements http.Handler.
func (u *unwilling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if u.refuse.Load() {
		u.mu.Lock()
		u.refused[r.Header.Get("webhook-id")] = true
		u.mu.Unlock()
		http.Error(w, "not now", http.StatusInternalServerError)
		return
	}
	var at int64
	_, err := fmt.Sscan(r.Header.Get("webhook-timestamp"), &at)
	if off := time.Until(time.Unix(at, 0)) - time.Duration(u.shift.Load()); err != nil || off.Abs() > time.Minute {
		u.mu.Lock()
		u.undated++
		u.mu.Unlock()
	}
	u.hookReceiver.ServeHTTP(w, r)
}

// awaitRefused waits until so many messages have been refused at least once.
func (u *unwilling) awaitRefused(t *testing.T, n int) {
	t.Helper()
	poll.Works(t, fmt.Sprintf("%d webhooks to be tried", n), func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if got := len(u.refused); got < n {
			return fmt.Errorf("%d were", got)
		}
		return nil
	})
}

// The system's clock is set under load, an hour and a day forward and back.
// Nobody is disconnected, nothing that was published is lost, long polls end when
// their time is over and not before, webhooks that wait are tried again, and a
// process that dies is replaced, though its successor's clock and the
// supervisor's are an hour behind.
func TestClockJumps(t *testing.T) {
	origin := newDated(t)
	s := start(t, []string{
		"bus/give_up=3600", "proxy/hand_over_timeout=60", "connmgr/peer_wait=60", "runner/restart_delay=0.3", "zurl/allow=127.0.0.1",
	}, "* "+origin.addr+",over_http")
	one(t, s, "handler")
	all := clocks{t, s}
	all.set(0) // skips what cannot work
	hooks := &unwilling{hookReceiver: &hookReceiver{ids: map[string]map[string]string{}}, refused: map[string]bool{}}
	hooks.declare(t, s, hooks, "hooked")

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var readers []*reader
	var ready sync.WaitGroup
	add := func(name, channel string, run func(*reader)) {
		r := &reader{name: name + " " + channel, channel: channel, strict: true, delays: new(delays)}
		readers = append(readers, r)
		running.Go(func() { run(r) })
	}
	channels := []string{"c-0", "c-1"}
	for _, channel := range channels {
		ready.Add(3)
		for range 2 {
			add("stream", channel, func(r *reader) { r.stream(ctx, s, "/stream?channel="+channel, ready.Done) })
		}
		add("socket", channel, func(r *reader) { r.socket(ctx, s, ready.Done) })
		add("follower", channel, func(r *reader) { r.stream(ctx, s, "/follow?after=0&channel="+channel, nil) })
		add("poller", channel, func(r *reader) { r.poll(ctx, s) })
	}
	ready.Wait()
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for _, channel := range channels {
		publishers.Go(func() {
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for {
				n, text := origin.add(channel)
				if err := poster(ctx, s, channel, n, text); err != nil {
					if ctx.Err() == nil {
						t.Errorf("%s: %v", channel, err)
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
	reached := func(what string, target int) {
		t.Helper()
		for _, r := range readers {
			if !poll.For(poll.Patience, func() bool { return r.position() >= target }) {
				t.Fatalf("%s: %s has %d of %d", what, r.name, r.position(), target)
			}
		}
	}
	last := func() (n int) {
		for _, channel := range channels {
			_, m := origin.after(channel, 0)
			n = max(n, m)
		}
		return n
	}

	hooked := 0
	for _, by := range []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, 0} {
		var timed sync.WaitGroup
		for range 5 {
			timed.Go(func() { timedPoll(t, s) })
		}
		hooks.refuse.Store(true)
		for range 3 {
			hooked++
			say(t, s, "hooked", hooked)
		}
		hooks.awaitRefused(t, hooked)
		all.set(by)
		hooks.shift.Store(int64(by))
		hooks.refuse.Store(false)
		origin.await(t, s, by)
		hooks.check(t, "hooked", hooked)
		reached(fmt.Sprintf("with the clock off by %v", by), last()+20)
		timed.Wait()
	}
	if err := s.Accounts(t.Context(), true); err != nil {
		t.Error(err)
	}

	// Who comes after the one that dies is an hour behind it.
	all.set(time.Hour)
	hooks.shift.Store(int64(time.Hour))
	origin.await(t, s, time.Hour)
	hooks.refuse.Store(true)
	for range 3 {
		hooked++
		say(t, s, "hooked", hooked)
	}
	hooks.awaitRefused(t, hooked)
	for _, name := range []string{"handler", "proxy", "zurl"} {
		before := strings.Count(s.Log(), name+": starting again in")
		if err := syscall.Kill(one(t, s, name), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		poll.Until(t, "the supervisor to say that "+name+" died", func() bool {
			return strings.Count(s.Log(), name+": starting again in") > before
		})
		setClock(t, s.PID(), 0)
		reached(name+" was killed", last()+20)
		setClock(t, s.PID(), time.Hour)
	}
	hooks.shift.Store(0)
	hooks.refuse.Store(false)
	hooks.check(t, "hooked", hooked)
	origin.await(t, s, 0)

	close(stop)
	publishers.Wait()
	for _, r := range readers {
		_, n := origin.after(r.channel, 0)
		if !poll.For(poll.Patience, func() bool { return r.position() >= n }) {
			t.Errorf("%s: has %d of %d", r.name, r.position(), n)
		}
	}
	if err := s.Accounts(ctx, false); err != nil {
		t.Error(err)
	}
	cancel()
	running.Wait()
	for _, r := range readers {
		for _, text := range r.wrong {
			t.Errorf("%s: %s", r.name, text)
		}
	}
	if hooks.undated > 0 {
		t.Errorf("%d webhooks had another time than their sender's clock", hooks.undated)
	}
	t.Logf("%d messages on each of %d channels, %d readers, %d webhooks", last(), len(channels), len(readers), hooked)
}

// timedPoll holds a long poll of three seconds to its end.
func timedPoll(t *testing.T, s *stack.Stack) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := newGet(ctx, "http://"+s.HTTP+"/timed?channel=quiet")
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := streams.Do(req)
	if err != nil {
		t.Errorf("a long poll of 3 s: %v after %v", err, time.Since(began))
		return
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if took := time.Since(began); err != nil || string(body) != "over\n" || took < 2900*time.Millisecond {
		t.Errorf("a long poll of 3 s: %q, %v after %v", body, err, took)
	}
}

// What is dated is judged by the clock as it is: tokens of publishers expire when
// it is set forward, and count again when it is set back; requests to the origin
// are signed for an hour from now.
func TestClockAndTokens(t *testing.T) {
	origin := newDated(t)
	const key = "clock-key"
	s := start(t, []string{"handler/push_in_http_auth_key=" + key}, "* "+origin.addr)
	one(t, s, "handler")
	all := clocks{t, s}
	all.set(0) // skips what cannot work
	signer, err := grip.ParseSigningKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign("publisher", time.Now().Add(30*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		by   time.Duration
		want int
	}{{0, 200}, {time.Hour, 401}, {0, 200}, {24 * time.Hour, 401}, {-24 * time.Hour, 200}} {
		all.set(step.by)
		origin.await(t, s, step.by)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Control+"/publish/", strings.NewReader(`{"items":[`+item("a", i+1, "x")+`]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := posts.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != step.want {
			t.Errorf("a token that is good for half an hour, with the clock off by %v: %s: %s, want %d", step.by, resp.Status, answer, step.want)
		}
	}
}
