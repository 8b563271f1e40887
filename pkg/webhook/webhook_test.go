package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sw "github.com/standard-webhooks/standard-webhooks/libraries/go"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is the endpoints of a test.
type receiver struct {
	mu     sync.Mutex
	got    []*Request
	answer func(ctx context.Context, r *Request) Response // nil: 200
}

func (v *receiver) send(ctx context.Context, r *Request) Response {
	v.mu.Lock()
	v.got = append(v.got, r)
	answer := v.answer
	v.mu.Unlock()
	if answer == nil {
		return Response{Status: 200}
	}
	return answer(ctx, r)
}

func (v *receiver) set(answer func(ctx context.Context, r *Request) Response) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answer = answer
}

func (v *receiver) requests() []*Request {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.got)
}

func (v *receiver) bodies() []string {
	var all []string
	for _, r := range v.requests() {
		all = append(all, string(r.Body))
	}
	return all
}

func field(r *Request, name string) string {
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// rig is a Service that runs. It may be stopped and started again on its file.
type rig struct {
	*Service
	t        *testing.T
	o        Options
	receiver receiver
	reg      *prometheus.Registry
	stop     func()
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, o: DefaultOptions()}
	r.o.Path = filepath.Join(t.TempDir(), "state", "webhooks.db")
	r.o.Send = r.receiver.send
	for _, f := range change {
		f(&r.o)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	r.reg = prometheus.NewRegistry()
	if r.o.Metrics, err = NewMetrics(r.reg); err != nil {
		r.t.Fatal(err)
	}
	if r.Service, err = Open(r.o); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		r.stop = func() {}
	}
}

func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

func (r *rig) create(e Endpoint) View {
	r.t.Helper()
	if e.URL == "" {
		e.URL = "https://example.com/hook"
	}
	if e.Channels == nil {
		e.Channels = []string{"*"}
	}
	v, err := r.Create(e)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) get(id string) View {
	r.t.Helper()
	v, err := r.Get(id)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

var messageCount atomic.Int64

func message(channel, body string) Message {
	return Message{
		ID: fmt.Sprintf("msg_%d", messageCount.Add(1)), Kind: hook.Message, Channel: channel, At: time.Now(), Method: "POST",
		Header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}}, Body: []byte(body),
	}
}

func (r *rig) enqueue(m ...Message) error {
	r.t.Helper()
	done := make(chan error, 1)
	r.Enqueue(m, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		r.t.Fatal("no answer from Enqueue")
		return nil
	}
}

func (r *rig) publish(channel string, bodies ...string) {
	r.t.Helper()
	for _, b := range bodies {
		if err := r.enqueue(message(channel, b)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// wait polls until ok says yes. In a bubble the time is the fake one.
func (r *rig) wait(what string, ok func() bool) {
	r.t.Helper()
	poll.Until(r.t, what, ok)
}

// flush waits until what was submitted is on disk.
func (r *rig) flush() {
	r.t.Helper()
	if err := r.do(func(*bolt.Tx) error { return nil }); err != nil && !errors.Is(err, ErrStore) {
		r.t.Error(err)
	}
}

// idle waits until nothing waits for an endpoint, and the disk knows.
func (r *rig) idle(id string) {
	r.t.Helper()
	r.wait("an empty queue", func() bool { return r.get(id).Queue.Messages == 0 })
	r.flush()
}

func TestDelivery(t *testing.T) {
	r := newRig(t)
	all := r.create(Endpoint{ID: "all", Headers: map[string]string{"Authorization": "Bearer x", "content-type": "text/special"}})
	r.create(Endpoint{ID: "orders", Channels: []string{"orders-*", "orders"}})
	r.create(Endpoint{ID: "other", Channels: []string{"other"}})
	r.create(Endpoint{ID: "events", Events: []string{hook.ConnectionOpened}})
	if !strings.HasPrefix(all.Secret, "whsec_") {
		t.Errorf("secret %q", all.Secret)
	}
	r.publish("orders-7", "hello")
	r.wait("two requests", func() bool { return len(r.receiver.requests()) == 2 })
	r.idle("all")
	r.idle("orders")
	got := r.receiver.requests()
	if i := slices.IndexFunc(got, func(q *Request) bool { return field(q, "Authorization") != "" }); i < 0 || field(got[i], "Content-Type") != "text/special" {
		t.Errorf("headers of the endpoint: %v", got)
	}
	if field(got[0], "webhook-id") != field(got[1], "webhook-id") {
		t.Error("the id differs between endpoints")
	}
	if v := r.get("all"); v.Secret != "" || v.Status != StatusActive {
		t.Errorf("view: %+v", v)
	}
	a, err := r.Attempts("all", 10)
	if err != nil || len(a) != 1 || a[0].Outcome != outcomeDelivered || a[0].Status != 200 || a[0].Message != field(got[0], "webhook-id") {
		t.Errorf("attempts: %+v, %v", a, err)
	}
	// Nothing is left on disk.
	r.restart()
	if len(r.refs) != 0 || r.pending != 0 || r.bytes != 0 {
		t.Errorf("after a restart: %d messages, %d pending, %d bytes", len(r.refs), r.pending, r.bytes)
	}
	if a, err := r.Attempts("all", 10); err != nil || len(a) != 1 {
		t.Errorf("attempts after a restart: %+v, %v", a, err)
	}
	patterns, events := r.Patterns()
	if diff := cmp.Diff([]string{"*", "orders", "orders-*", "other"}, patterns); diff != "" || !events {
		t.Errorf("patterns: %s, events %v", diff, events)
	}
}

// The reference library accepts what we sign, and after a rotation with either
// key.
func TestSignature(t *testing.T) {
	r := newRig(t)
	v := r.create(Endpoint{ID: "a"})
	verify := func(q *Request, key string) error {
		wh, err := sw.NewWebhook(key)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		for _, f := range q.Header {
			h.Add(f.Name, f.Value)
		}
		return wh.Verify(q.Body, h)
	}
	r.publish("x", `{"a":1}`)
	r.idle("a")
	q := r.receiver.requests()[0]
	if err := verify(q, v.Secret); err != nil {
		t.Errorf("first secret: %v", err)
	}
	rotated, err := r.Rotate("a", "", time.Hour)
	if err != nil || rotated.Secret == v.Secret || rotated.Secret == "" {
		t.Fatalf("rotate: %+v, %v", rotated, err)
	}
	r.publish("x", "")
	r.idle("a")
	q = r.receiver.requests()[1]
	if err := errors.Join(verify(q, v.Secret), verify(q, rotated.Secret)); err != nil {
		t.Errorf("both secrets: %v", err)
	}
	q.Body = []byte("changed")
	if verify(q, rotated.Secret) == nil {
		t.Error("a changed body was accepted")
	}
	if _, err := r.Rotate("a", "", 0); err != nil {
		t.Fatal(err)
	}
	r.publish("x", "y")
	r.idle("a")
	if verify(r.receiver.requests()[2], rotated.Secret) == nil {
		t.Error("an old secret signs without overlap")
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	r := newRig(t)
	r.receiver.set(func(ctx context.Context, _ *Request) Response { <-ctx.Done(); return Response{Condition: "stopping"} })
	r.o.DrainTime = 0
	r.restart()
	v := r.create(Endpoint{ID: "a", Order: InOrder, Metadata: map[string]string{"owner": "x"}})
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint(i))
	}
	r.publish("x", want...)
	r.receiver.set(nil)
	r.stop()
	r.receiver.got = nil
	r.start()
	r.idle("a")
	if diff := cmp.Diff(want, r.receiver.bodies()); diff != "" {
		t.Error(diff)
	}
	if key, err := r.Secret("a"); err != nil || key != v.Secret {
		t.Errorf("secret %q, %v", key, err)
	}
	if got := r.get("a"); got.Metadata["owner"] != "x" {
		t.Errorf("view: %+v", got)
	}
}

func TestRepeats(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a"})
	m := message("x", "once")
	for range 3 {
		if err := r.enqueue(m); err != nil {
			t.Fatal(err)
		}
	}
	r.restart()
	if err := r.enqueue(m); err != nil {
		t.Fatal(err)
	}
	r.idle("a")
	if got := r.receiver.bodies(); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

// Copies of a message that come before the first one is on disk share its fate:
// none is acknowledged before, and it is delivered once.
func TestRepeatsBeforeTheCommit(t *testing.T) {
	var writing atomic.Pointer[chan error]
	began := make(chan struct{})
	r := newRig(t, func(o *Options) {
		o.commitFault = func() error {
			if c := writing.Swap(nil); c != nil {
				began <- struct{}{}
				return <-*c
			}
			return nil
		}
	})
	r.create(Endpoint{ID: "a"})
	answers := make(chan error, 10)
	done := func(err error) { answers <- err }
	// during calls f while a commit is being made, and then has it end with err.
	during := func(err error, begin, f func()) {
		t.Helper()
		c := make(chan error, 1)
		writing.Store(&c)
		begin()
		<-began
		f()
		if n := len(answers); n > 0 {
			t.Errorf("%d answers before the commit", n)
		}
		c <- err
	}
	want := func(n int, want error) {
		t.Helper()
		for range n {
			if err := <-answers; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	}

	// The first copy is being written, and that fails. The write of the second, which
	// has nothing to write, does not.
	errFull := errors.New("no space left on device")
	m := message("x", "once")
	one := func() { r.Enqueue([]Message{m}, done) }
	during(errFull, one, func() { one(); one() })
	want(3, errFull)
	// It was not taken, so it may come again.
	during(nil, one, func() { one(); one() })
	want(3, nil)
	// Both copies wait for the same commit, or come together.
	both := message("x", "both")
	during(nil, func() { r.Enqueue([]Message{message("x", "other")}, done) }, func() {
		r.Enqueue([]Message{both, both}, done)
		r.Enqueue([]Message{both, message("x", "new")}, done)
	})
	want(3, nil)
	r.idle("a")
	got := r.receiver.bodies()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"both", "new", "once", "other"}, got); diff != "" {
		t.Error(diff)
	}
	if len(r.arriving) != 0 {
		t.Errorf("%d still arrive", len(r.arriving))
	}
}

func TestInOrderThroughFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a", Order: InOrder})
		n := 0
		var delivered []string
		r.receiver.set(func(_ context.Context, q *Request) Response {
			if n++; n%3 != 0 {
				return Response{Status: 500}
			}
			delivered = append(delivered, string(q.Body))
			return Response{Status: 204}
		})
		r.publish("x", "1", "2", "3")
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if diff := cmp.Diff([]string{"1", "2", "3"}, delivered); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"1", "1", "1", "2", "2", "2", "3", "3", "3"}, r.receiver.bodies()); diff != "" {
			t.Error(diff)
		}
		r.stop()
	})
}

// An endpoint that fails for an hour gets everything afterwards, and is not
// stormed meanwhile.
func TestFailsForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a"})
		began := time.Now()
		delivered := make(map[string]int)
		var mu sync.Mutex
		r.receiver.set(func(_ context.Context, q *Request) Response {
			time.Sleep(10 * time.Millisecond)
			if time.Since(began) < time.Hour {
				return Response{Status: 500}
			}
			mu.Lock()
			defer mu.Unlock()
			delivered[string(q.Body)]++
			return Response{Status: 200}
		})
		for i := range 100 {
			r.publish("x", fmt.Sprint(i))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(r.receiver.requests()); n < 30 || n > 150 {
			t.Errorf("%d attempts in the hour", n)
		}
		if v := r.get("a"); v.Failing == nil || v.LastError != "status 500" || v.Queue.Messages != 100 || v.Queue.OldestAge < 3500 {
			t.Errorf("view: %+v", v)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(delivered) != 100 || r.get("a").Queue.Messages != 0 {
			t.Errorf("%d delivered, %d wait", len(delivered), r.get("a").Queue.Messages)
		}
		for body, n := range delivered {
			if n != 1 {
				t.Errorf("%s was delivered %d times", body, n)
			}
		}
		r.stop()
	})
}

func TestExhaustedAndReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a", Retries: []Duration{Duration(time.Second), Duration(10 * time.Second)}})
		r.receiver.set(func(context.Context, *Request) Response {
			return Response{Status: 400, Body: []byte(strings.Repeat("no\xff", 1000))}
		})
		start := time.Now()
		r.publish("x", "1")
		time.Sleep(time.Minute)
		synctest.Wait()
		r.publish("x", "2")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(r.receiver.requests()); n != 6 {
			t.Errorf("%d attempts, want 6", n)
		}
		r.flush()
		dead, err := r.DeadLetters("a", Choice{All: true}, 10)
		if err != nil || len(dead) != 2 || dead[0].Reason != reasonExhausted || dead[0].Status != 400 || dead[0].Attempts != 3 {
			t.Fatalf("dead letters: %+v, %v", dead, err)
		}
		a, _ := r.Attempts("a", 2)
		if len(a) != 2 || a[0].Outcome != outcomeDead || a[0].Try != 3 || len(a[0].Excerpt) > 3*maxExcerpt || !strings.HasPrefix(a[0].Excerpt, "no") {
			t.Errorf("attempts: %+v", a)
		}
		r.restart()
		if got := r.get("a").DeadLetters; got != 2 {
			t.Errorf("%d dead letters after a restart", got)
		}
		// One that dies again is still the one that was published then.
		if n, err := r.Replay("a", Choice{IDs: []string{dead[0].Message}}); n != 1 || err != nil {
			t.Fatalf("replayed %d, %v", n, err)
		}
		r.wait("it dies again", func() bool { return r.get("a").DeadLetters == 2 })
		r.flush()
		again, err := r.DeadLetters("a", Choice{IDs: []string{dead[0].Message}}, 10)
		if err != nil || len(again) != 1 || !again[0].At.Equal(dead[0].At) || !again[0].Died.After(dead[0].Died) || again[0].At.UnixMilli() != start.UnixMilli() {
			t.Errorf("before %+v, after its replay %+v, %v", dead[0], again, err)
		}
		r.receiver.set(nil)
		r.receiver.got = nil
		// By time, then by id.
		if n, err := r.Replay("a", Choice{Since: start.Add(30 * time.Second), Until: start.Add(90 * time.Second)}); n != 1 || err != nil {
			t.Fatalf("replayed %d, %v", n, err)
		}
		r.idle("a")
		if n, err := r.Replay("a", Choice{IDs: []string{dead[0].Message}}); n != 1 || err != nil {
			t.Fatalf("replayed %d, %v", n, err)
		}
		r.idle("a")
		got := r.receiver.requests()
		if diff := cmp.Diff([]string{"2", "1"}, r.receiver.bodies()); diff != "" || field(got[1], "webhook-id") != dead[0].Message {
			t.Errorf("%s, id %s", diff, field(got[1], "webhook-id"))
		}
		if v := r.get("a"); v.DeadLetters != 0 {
			t.Errorf("view: %+v", v)
		}
		r.stop()
	})
}

// Dead letters are replayed as far as there is room, in messages and in bytes.
func TestReplayWithoutRoom(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a", MaxQueue: 10})
	r.receiver.set(func(context.Context, *Request) Response { return Response{Condition: "bad-request"} })
	body := strings.Repeat("x", 2000)
	r.publish("x", body, body, body)
	r.wait("dead letters", func() bool { return r.get("a").DeadLetters == 3 })
	r.flush()
	if _, err := r.SetPaused("a", true); err != nil {
		t.Fatal(err)
	}
	r.publish("x", body)
	size := r.get("a").Queue.Bytes // of each, about
	replay := func(messages int, bytes int64, want int) {
		t.Helper()
		if _, err := r.Update("a", func(e *Endpoint) error { e.MaxQueue, e.MaxBytes = messages, bytes; return nil }); err != nil {
			t.Fatal(err)
		}
		before := r.get("a")
		n, err := r.Replay("a", Choice{All: true})
		after := r.get("a")
		if err != nil || n != want || after.Queue.Messages-before.Queue.Messages != want || before.DeadLetters-after.DeadLetters != want {
			t.Errorf("replayed %d, %v, want %d; before %+v, after %+v", n, err, want, before, after)
		}
	}
	replay(1, 1<<20, 0)
	replay(10, 2*size-size/2, 0)
	replay(10, 3*size-size/2, 1)
	replay(3, 1<<20, 1)
	replay(3, 1<<20, 0)
	replay(10, 1<<20, 1)
}

func TestRetryAfterAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a"})
		answer := func(a Response) {
			r.receiver.set(func(context.Context, *Request) Response { return a })
		}
		answer(Response{Status: 429, RetryAfter: "3600"})
		began := time.Now()
		r.publish("x", "1")
		time.Sleep(time.Second)
		synctest.Wait()
		r.publish("x", "2") // the endpoint asked for patience
		time.Sleep(59 * time.Minute)
		synctest.Wait()
		if n := len(r.receiver.requests()); n != 1 {
			t.Errorf("%d requests before the hour was over", n)
		}
		answer(Response{Status: 410})
		time.Sleep(time.Hour)
		synctest.Wait()
		v := r.get("a")
		if n := len(r.receiver.requests()); n < 2 || v.Status != StatusDisabled || v.Queue.Messages != 2 {
			t.Errorf("%d requests, %+v", n, v)
		}
		if patterns, _ := r.Patterns(); len(patterns) != 0 {
			t.Errorf("patterns of a disabled endpoint: %q", patterns)
		}
		r.publish("x", "3") // nobody wants it
		answer(Response{Status: 200})
		if _, err := r.SetPaused("a", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if v := r.get("a"); v.Status != StatusActive || v.Queue.Messages != 0 {
			t.Errorf("after resume: %+v (%s since the start)", v, time.Since(began))
		}
		r.stop()
	})
}

func TestRetryAfterValues(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "10": 10 * time.Second, "-1": 0, "x": 0, "99999999999": 0,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Wed, 31 Dec 2025 00:01:00 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestDisabledAfterDaysOfFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a", MaxAge: Duration(20 * 24 * time.Hour)})
		r.receiver.set(func(context.Context, *Request) Response { return Response{Condition: "remote-connection-failed"} })
		for range 12 {
			_ = r.enqueue(message("x", "1"))
			time.Sleep(12 * time.Hour)
		}
		if v := r.get("a"); v.Status != StatusDisabled || !strings.Contains(v.Reason, "5d") {
			t.Errorf("view: %+v", v)
		}
		r.stop()
	})
}

func TestSlowEndpointDelaysNobody(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxExtra = 0; o.DrainTime = 0 })
	for i := range 20 {
		r.create(Endpoint{ID: fmt.Sprintf("slow%d", i), URL: "https://slow.example.com/", Channels: []string{"x"}})
	}
	r.create(Endpoint{ID: "fast"})
	r.receiver.set(func(ctx context.Context, q *Request) Response {
		if strings.Contains(q.URL, "slow") {
			<-ctx.Done()
			return Response{Condition: "session-timeout"}
		}
		return Response{Status: 200}
	})
	for i := range 20 {
		r.publish("x", fmt.Sprint(i))
	}
	r.idle("fast")
	if v := r.get("slow3"); v.Queue.Messages != 20 {
		t.Errorf("slow: %+v", v)
	}
}

func TestConcurrencyAndExtra(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.MaxExtra = 4 })
		r.create(Endpoint{ID: "a", Concurrency: 3, Channels: []string{"a"}})
		r.create(Endpoint{ID: "b", Concurrency: 50, Channels: []string{"b"}})
		var mu sync.Mutex
		open, most := map[string]int{}, map[string]int{}
		r.receiver.set(func(_ context.Context, q *Request) Response {
			who := string(q.Body)
			mu.Lock()
			open[who]++
			most[who] = max(most[who], open[who])
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			open[who]--
			mu.Unlock()
			return Response{Status: 200}
		})
		for range 12 {
			r.publish("a", "a")
		}
		for range 12 {
			r.publish("b", "b")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if most["a"] != 3 || most["b"] < 3 || most["b"] > 5 {
			t.Errorf("at a time: %v", most)
		}
		if r.extra != 0 || len(r.starved) != 0 {
			t.Errorf("%d extra, %d starved when all is done", r.extra, len(r.starved))
		}
		r.stop()
	})
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a", RateLimit: 2})
		began := time.Now()
		for i := range 11 {
			r.publish("x", fmt.Sprint(i))
		}
		r.idle("a")
		if took := time.Since(began); took < 4900*time.Millisecond || took > 6*time.Second {
			t.Errorf("11 messages at 2 a second took %s", took)
		}
		r.stop()
	})
}

func TestBoundsAndPolicies(t *testing.T) {
	for policy, want := range map[string]struct {
		err    error
		bodies []string
		dead   int
	}{
		FullRefuse:     {ErrFull, []string{"0", "1", "2"}, 0},
		FullDropOldest: {nil, []string{"2", "3", "4"}, 2},
		FullDropNewest: {nil, []string{"0", "1", "2"}, 2},
	} {
		t.Run(policy, func(t *testing.T) {
			r := newRig(t)
			r.create(Endpoint{ID: "a", Order: InOrder, MaxQueue: 3, OnFull: policy})
			r.create(Endpoint{ID: "other"})
			if _, err := r.SetPaused("a", true); err != nil {
				t.Fatal(err)
			}
			taken := 0
			for i := range 5 {
				err := r.enqueue(message("x", fmt.Sprint(i)))
				if i < 3 && err != nil || i >= 3 && !errors.Is(err, want.err) {
					t.Errorf("message %d: %v", i, err)
				}
				if err == nil {
					taken++
				}
			}
			r.idle("other") // got what was taken, and nothing that was refused
			if n := len(r.receiver.requests()); n != taken {
				t.Errorf("the other endpoint got %d of %d", n, taken)
			}
			v := r.get("a")
			if v.Queue.Messages != 3 || v.Status != StatusPaused {
				t.Errorf("view: %+v", v)
			}
			r.wait("dead letters", func() bool { return r.get("a").DeadLetters == want.dead })
			r.restart()
			if v := r.get("a"); v.DeadLetters != want.dead || v.Queue.Messages != 3 {
				t.Errorf("after a restart: %+v", v)
			}
			r.receiver.mu.Lock()
			r.receiver.got = nil
			r.receiver.mu.Unlock()
			if _, err := r.SetPaused("a", false); err != nil {
				t.Fatal(err)
			}
			r.idle("a")
			if diff := cmp.Diff(want.bodies, r.receiver.bodies()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGlobalBounds(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxPending = 2; o.MaxBytes = 10000 })
	r.create(Endpoint{ID: "a", Paused: true})
	if err := r.enqueue(message("x", strings.Repeat("x", 10000))); !errors.Is(err, ErrFull) {
		t.Errorf("too many bytes: %v", err)
	}
	r.publish("x", "1", "2")
	if err := r.enqueue(message("x", "3")); !errors.Is(err, ErrFull) {
		t.Errorf("too many messages: %v", err)
	}
	if got := testutil.ToFloat64(r.o.Metrics.refused); got != 2 {
		t.Errorf("%v refused", got)
	}
}

func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a", MaxAge: Duration(time.Hour), Paused: true})
		r.publish("x", "1")
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		r.publish("x", "2")
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		r.flush()
		dead, _ := r.DeadLetters("a", Choice{All: true}, 10)
		if v := r.get("a"); v.Queue.Messages != 1 || len(dead) != 1 || dead[0].Reason != reasonAge {
			t.Errorf("view: %+v, dead %+v", v, dead)
		}
		time.Sleep(deadAge + time.Hour)
		synctest.Wait()
		if v := r.get("a"); v.Queue.Messages != 0 || v.DeadLetters != 0 {
			t.Errorf("a month later: %+v", v)
		}
		if len(r.refs) != 0 {
			t.Errorf("%d messages are left", len(r.refs))
		}
		r.stop()
	})
}

func TestDiskFull(t *testing.T) {
	var full atomic.Bool
	errFull := errors.New("no space left on device")
	r := newRig(t, func(o *Options) {
		o.commitFault = func() error {
			if full.Load() {
				return errFull
			}
			return nil
		}
	})
	r.create(Endpoint{ID: "a"})
	release := make(chan struct{})
	r.receiver.set(func(context.Context, *Request) Response { <-release; return Response{Status: 200} })
	r.publish("x", "1")
	r.wait("the attempt", func() bool { return len(r.receiver.requests()) == 1 })
	full.Store(true)
	m := message("x", "2")
	if err := r.enqueue(m); !errors.Is(err, ErrStore) || !errors.Is(err, errFull) {
		t.Errorf("publish on a full disk: %v", err)
	}
	if _, err := r.Create(Endpoint{URL: "https://x.example", Channels: []string{"*"}}); !errors.Is(err, ErrStore) {
		t.Errorf("create on a full disk: %v", err)
	}
	close(release) // the outcome is kept until it can be written
	r.idle("a")
	full.Store(false)
	if err := r.enqueue(m); err != nil { // the same message: it was not taken before
		t.Errorf("publish afterwards: %v", err)
	}
	r.idle("a")
	r.restart()
	r.publish("x", "3")
	r.idle("a")
	if diff := cmp.Diff([]string{"1", "2", "3"}, r.receiver.bodies()); diff != "" {
		t.Error(diff)
	}
	if v := r.List("", 10); len(v) != 1 {
		t.Errorf("%d endpoints", len(v))
	}
}

func TestEarly(t *testing.T) {
	var full atomic.Bool
	r := newRig(t, func(o *Options) {
		o.Early = true
		o.commitFault = func() error {
			if full.Load() {
				return errors.New("full")
			}
			return nil
		}
	})
	r.create(Endpoint{ID: "a"})
	full.Store(true)
	r.publish("x", "lost")
	r.wait("the loss is counted", func() bool { return testutil.ToFloat64(r.o.Metrics.lost) == 1 })
	full.Store(false)
	r.publish("x", "kept")
	r.wait("the delivery", func() bool { return len(r.receiver.requests()) == 1 })
	r.idle("a")
	if diff := cmp.Diff([]string{"kept"}, r.receiver.bodies()); diff != "" {
		t.Error(diff)
	}
}

func TestVerification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var good atomic.Bool
		r.receiver.set(func(_ context.Context, q *Request) Response {
			var body struct {
				Type string
				Data struct{ Challenge string }
			}
			_ = json.Unmarshal(q.Body, &body)
			if body.Type != hook.Verification {
				return Response{Status: 200}
			}
			if !good.Load() {
				return Response{Status: 200, Body: []byte(`{"challenge":"` + body.Data.Challenge + `x"}`)}
			}
			return Response{Status: 200, Body: []byte(`{"challenge":"` + body.Data.Challenge + `"}`)}
		})
		if v := r.create(Endpoint{ID: "a", Verify: true}); v.Status != StatusPending {
			t.Errorf("view: %+v", v)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.publish("x", "too early")
		if patterns, _ := r.Patterns(); len(patterns) != 0 {
			t.Errorf("patterns: %q", patterns)
		}
		r.restart() // pending endpoints are asked again
		good.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if v := r.get("a"); v.Status != StatusActive {
			t.Errorf("view: %+v", v)
		}
		synctest.Wait()
		r.receiver.got = nil
		r.publish("x", "1")
		r.idle("a")
		if diff := cmp.Diff([]string{"1"}, r.receiver.bodies()); diff != "" {
			t.Error(diff)
		}
		good.Store(false)
		r.create(Endpoint{ID: "b", Verify: true})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if v := r.get("b"); v.Status != StatusDisabled {
			t.Errorf("view: %+v", v)
		}
		r.stop()
	})
}

func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes atomic.Int64
		r := newRig(t, func(o *Options) { o.Changed = func() { changes.Add(1) } })
		v := r.create(Endpoint{ID: "a", Lease: Duration(time.Hour)})
		if v.ExpiresAt == nil || time.Until(*v.ExpiresAt) != time.Hour {
			t.Errorf("view: %+v", v)
		}
		r.publish("x", "1")
		before := changes.Load()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		r.publish("x", "2")
		time.Sleep(time.Minute)
		synctest.Wait()
		if v := r.get("a"); v.Status != StatusExpired || changes.Load() == before {
			t.Errorf("view: %+v, %d changes", v, changes.Load()-before)
		}
		if _, err := r.Update("a", func(e *Endpoint) error { e.Lease = Duration(time.Hour); return nil }); err != nil {
			t.Fatal(err)
		}
		r.publish("x", "3")
		r.idle("a")
		if diff := cmp.Diff([]string{"1", "3"}, r.receiver.bodies()); diff != "" {
			t.Error(diff)
		}
		r.stop()
	})
}

func TestDelete(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a", Paused: true})
	r.create(Endpoint{ID: "b", Paused: true})
	r.publish("x", "1", "2")
	if err := r.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete("a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if r.pending != 2 {
		t.Errorf("%d wait", r.pending)
	}
	if _, err := r.SetPaused("b", false); err != nil {
		t.Fatal(err)
	}
	r.idle("b")
	if diff := cmp.Diff(2, len(r.receiver.requests())); diff != "" {
		t.Error(diff)
	}
	r.restart()
	if len(r.refs) != 0 || len(r.List("", 10)) != 1 {
		t.Errorf("%d messages, endpoints %+v", len(r.refs), r.List("", 10))
	}
	// The number of a deleted endpoint may come back; its records must not.
	r.create(Endpoint{ID: "c"})
	if a, _ := r.Attempts("c", 10); len(a) != 0 {
		t.Errorf("a new endpoint has attempts: %+v", a)
	}
}

func TestDeclare(t *testing.T) {
	r := newRig(t)
	parse := func(text string) []Endpoint {
		t.Helper()
		list, err := ParseFile([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	const one = `{"endpoints":[{"id":"one","url":"https://a.example/","channels":["a"]}]}`
	if err := r.Declare(parse(one)); err != nil {
		t.Fatal(err)
	}
	key, _ := r.Secret("one")
	if _, err := r.Update("one", func(*Endpoint) error { return nil }); !errors.Is(err, ErrConflict) {
		t.Errorf("update: %v", err)
	}
	if err := r.Delete("one"); !errors.Is(err, ErrConflict) {
		t.Errorf("delete: %v", err)
	}
	if _, err := r.SetPaused("one", true); err != nil {
		t.Fatal(err)
	}
	r.publish("a", "kept")
	if err := r.Declare(parse(strings.Replace(one, `"a"]`, `"a","b"]`, 1))); err != nil {
		t.Fatal(err)
	}
	if v := r.get("one"); !v.Paused || len(v.Channels) != 2 || !v.Declared || v.Queue.Messages != 1 {
		t.Errorf("view: %+v", v)
	}
	if err := r.Declare(nil); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if v := r.get("one"); v.Status != StatusDisabled || v.Queue.Messages != 1 {
		t.Errorf("not declared any more: %+v", v)
	}
	if err := r.Declare(parse(one)); err != nil {
		t.Fatal(err)
	}
	if v := r.get("one"); v.Status != StatusPaused || !v.Declared {
		t.Errorf("declared again: %+v", v)
	}
	if again, _ := r.Secret("one"); again != key {
		t.Error("the secret has changed")
	}
	r.create(Endpoint{ID: "two"})
	if err := r.Declare(append(parse(one), Endpoint{ID: "two", URL: "https://b.example", Channels: []string{"b"}})); !errors.Is(err, ErrConflict) {
		t.Errorf("an endpoint of the API was declared: %v", err)
	}
}

func TestMetricsOfEndpoints(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a", Paused: true})
	r.publish("x", "1")
	want := `# HELP holdfast_webhook_queue_depth Messages that wait for an endpoint or are under way.
# TYPE holdfast_webhook_queue_depth gauge
holdfast_webhook_queue_depth{endpoint="a"} 1
`
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), "holdfast_webhook_queue_depth"); err != nil {
		t.Error(err)
	}
}

func TestStop(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a"})
	began := make(chan struct{})
	release := make(chan struct{})
	r.receiver.set(func(context.Context, *Request) Response { close(began); <-release; return Response{Status: 200} })
	r.publish("x", "1")
	<-began
	done := make(chan struct{})
	stop := r.stop
	go func() { stop(); close(done) }()
	r.wait("it stops", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.stopping
	})
	if err := r.enqueue(message("x", "2")); !errors.Is(err, ErrStopping) {
		t.Errorf("publish while it stops: %v", err)
	}
	close(release) // it was let go on
	<-done
	r.receiver.set(nil)
	r.start()
	if v := r.get("a"); v.Queue.Messages != 0 {
		t.Errorf("view: %+v", v)
	}
}

func TestAnotherProcessHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		if _, err := Open(r.o); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("opened twice: %v", err)
		}
		r.stop()
	})
}
