package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sw "github.com/standard-webhooks/standard-webhooks/libraries/go"
	bolt "go.etcd.io/bbolt"
)

const day = Duration(24 * time.Hour)

// kept lists what is kept for an endpoint.
func (r *rig) kept(id string) []Kept {
	r.t.Helper()
	r.flush()
	all, err := r.Kept(id, Choice{All: true}, 0, maxList)
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// totals are all that a Service counts, and how many records the file has.
func (r *rig) totals() map[string]int64 {
	r.t.Helper()
	r.flush()
	r.mu.Lock()
	n := map[string]int64{
		"messages": int64(len(r.refs)), "bytes": r.bytes, "pending": int64(r.pending), "kept": r.keptBytes, "keepers": int64(len(r.keepers)),
	}
	for id, ep := range r.endpoints {
		n[id+" depth"], n[id+" bytes"] = int64(ep.depth), ep.bytes
		n[id+" dead"], n[id+" kept"], n[id+" kept bytes"] = int64(ep.dead), int64(len(ep.kept)), ep.keptBytes
	}
	r.mu.Unlock()
	err := r.db.View(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMessages, bucketQueue, bucketDead, bucketKept} {
			n["file "+string(b)] = int64(tx.Bucket(b).Stats().KeyN)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// audit checks that what is counted is what the file has, by reading it anew.
func (r *rig) audit() map[string]int64 {
	r.t.Helper()
	before := r.totals()
	r.restart()
	after := r.totals()
	if diff := cmp.Diff(before, after); diff != "" {
		r.t.Errorf("after a restart: %s", diff)
	}
	if before["messages"] != before["file messages"] {
		r.t.Errorf("messages that nobody needs: %v", before)
	}
	return before
}

func TestResend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		v := r.create(Endpoint{ID: "a", Keep: day, Order: InOrder})
		r.create(Endpoint{ID: "b"}) // keeps nothing
		start := time.Now()
		for _, body := range []string{"1", "2", "3"} {
			r.publish("x", body)
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		kept := r.kept("a")
		if len(kept) != 3 || kept[0].At.UnixMilli() != start.UnixMilli() || kept[0].Delivered.Before(kept[0].At) || kept[0].Attempts != 1 ||
			kept[0].Channel != "x" || kept[0].Number >= kept[1].Number {
			t.Fatalf("kept: %+v", kept)
		}
		if all := r.kept("b"); len(all) != 0 {
			t.Errorf("kept without keep: %+v", all)
		}
		if r.bytes != 0 {
			t.Errorf("%d bytes of what is kept count for the queues", r.bytes)
		}
		if n := r.audit(); n["a kept"] != 3 || n["kept"] == 0 {
			t.Errorf("%v", n)
		}

		// One by its id. It is the same message, signed anew.
		r.receiver.got = nil
		if res, err := r.Resend("a", Choice{IDs: []string{kept[1].Message}}, 0); err != nil || res != (Resent{Messages: 1, Last: kept[1].Number}) {
			t.Fatalf("%+v, %v", res, err)
		}
		r.idle("a")
		got := r.receiver.requests()
		if len(got) != 1 || string(got[0].Body) != "2" || field(got[0], "webhook-id") != kept[1].Message ||
			field(got[0], "webhook-timestamp") != strconv.FormatInt(time.Now().Unix(), 10) {
			t.Fatalf("resent: %+v", got)
		}
		wh, err := sw.NewWebhook(v.Secret)
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		for _, f := range got[0].Header {
			h.Add(f.Name, f.Value)
		}
		if err := wh.Verify(got[0].Body, h); err != nil {
			t.Errorf("signature: %v", err)
		}

		// All since a time, in order; it may be done again.
		for range 2 {
			r.receiver.got = nil
			if res, err := r.Resend("a", Choice{Since: start.Add(30 * time.Minute)}, 0); err != nil || res.Messages != 2 || res.More {
				t.Fatalf("%+v, %v", res, err)
			}
			r.idle("a")
			if diff := cmp.Diff([]string{"2", "3"}, r.receiver.bodies()); diff != "" {
				t.Error(diff)
			}
		}
		if got := testutil.ToFloat64(r.o.Metrics.replayed[fromKept]); got != 5 {
			t.Errorf("%v were counted", got)
		}
		if again := r.kept("a"); len(again) != 3 || again[1].At != kept[1].At || !again[1].Delivered.After(kept[1].Delivered) {
			t.Errorf("kept afterwards: %+v", again)
		}
		if res, err := r.Resend("a", Choice{IDs: []string{"msg_unknown"}}, 0); err != nil || res != (Resent{}) {
			t.Errorf("of what is not kept: %+v, %v", res, err)
		}
		if _, err := r.Resend("none", Choice{All: true}, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("of nobody: %v", err)
		}
		r.audit()
		r.stop()
	})
}

// What is kept is forgotten when its time is over, when the owner wants less, and
// with its endpoint.
func TestKeptIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.create(Endpoint{ID: "a", Keep: Duration(time.Hour)})
		r.create(Endpoint{ID: "b", Keep: day})
		r.publish("x", "1")
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		r.publish("x", "2")
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if n := r.totals(); n["a kept"] != 1 || n["b kept"] != 2 || n["file kept"] != 3 || n["messages"] != 2 {
			t.Errorf("after 70 minutes: %v", n)
		}
		if got := testutil.ToFloat64(r.o.Metrics.forgotten[forgotAge]); got != 1 {
			t.Errorf("%v were counted", got)
		}
		r.audit()

		// Less than was wanted, in parts.
		for range maxSweep + 10 {
			r.Enqueue([]Message{message("x", "")}, func(error) {})
		}
		r.idle("a")
		r.idle("b")
		if n := r.totals(); n["b kept"] != maxSweep+12 {
			t.Errorf("of many: %v", n)
		}
		if _, err := r.Update("b", func(e *Endpoint) error { e.Keep = 0; return nil }); err != nil {
			t.Fatal(err)
		}
		r.wait("nothing to be kept", func() bool { return r.get("b").Kept == KeptView{} })
		if n := r.audit(); n["a kept"] != maxSweep+11 || n["messages"] != maxSweep+11 {
			t.Errorf("without b: %v", n)
		}

		if n, err := r.PurgeKept("a", Choice{Until: time.Now().Add(-time.Minute)}); n != 1 || err != nil {
			t.Errorf("purged %d, %v", n, err)
		}
		if n, err := r.PurgeKept("a", Choice{All: true}); n != maxSweep+10 || err != nil {
			t.Errorf("purged %d, %v", n, err)
		}
		r.publish("x", "3")
		r.idle("a")
		if n := r.audit(); n["a kept"] != 1 {
			t.Errorf("after a purge: %v", n)
		}
		if err := r.Delete("a"); err != nil {
			t.Fatal(err)
		}
		if n := r.audit(); n["messages"] != 0 || n["kept"] != 0 || n["file kept"] != 0 {
			t.Errorf("after all: %v", n)
		}
		r.stop()
	})
}

// The bound of all is never passed, and who keeps little loses nothing to who
// keeps much.
func TestKeptBound(t *testing.T) {
	const each = 1000 + keptOverhead // about
	r := newRig(t, func(o *Options) { o.MaxKept = 20 * each })
	r.create(Endpoint{ID: "busy", Channels: []string{"busy"}, Keep: day})
	r.create(Endpoint{ID: "quiet", Channels: []string{"quiet"}, Keep: day})
	body := strings.Repeat("x", 900)
	check := func() {
		t.Helper()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.keptBytes > r.o.MaxKept {
			t.Errorf("%d bytes are kept", r.keptBytes)
		}
	}
	r.publish("quiet", "first"+body, "second"+body)
	r.idle("quiet")
	for i := range 50 {
		r.publish("busy", fmt.Sprint(i, body))
		r.idle("busy")
		check()
	}
	busy, quiet := r.kept("busy"), r.kept("quiet")
	if len(quiet) != 2 || len(busy) < 15 || len(busy) > 19 {
		t.Errorf("%d of the busy one are kept, %d of the quiet one", len(busy), len(quiet))
	}
	forgotten := testutil.ToFloat64(r.o.Metrics.forgotten[forgotRoom])
	if int(forgotten) != 50-len(busy) {
		t.Errorf("%v were counted, %d are kept", forgotten, len(busy))
	}
	// The newest are kept.
	if res, err := r.Resend("busy", Choice{All: true}, 0); err != nil || res.Messages != len(busy) {
		t.Errorf("%+v, %v", res, err)
	}
	r.idle("busy")
	if bodies := r.receiver.bodies()[52:]; !slices.ContainsFunc(bodies, func(s string) bool { return strings.HasPrefix(s, "49") }) {
		t.Error("the newest was not kept")
	}
	// One that is larger than all that may be kept is not, and costs the others nothing.
	r.publish("busy", strings.Repeat("x", 30*each))
	r.idle("busy")
	if n := len(r.kept("busy")); n != len(busy) {
		t.Errorf("%d are kept, %d were", n, len(busy))
	}
	// Many small ones make room for a large one.
	r.create(Endpoint{ID: "small", Channels: []string{"small"}, Keep: day})
	if _, err := r.PurgeKept("busy", Choice{All: true}); err != nil {
		t.Fatal(err)
	}
	r.publish("small", make([]string, 60)...)
	r.idle("small")
	r.publish("busy", strings.Repeat("x", 8*each))
	r.idle("busy")
	check()
	if large, small := len(r.kept("busy")), len(r.kept("small")); large != 1 || small >= 60-maxSweepEach {
		t.Errorf("%d large and %d small messages are kept", large, small)
	}
	// A smaller bound holds after the next look.
	r.audit()
	r.o.MaxKept = 5 * each
	r.restart()
	r.keepHouse()
	check()
	r.audit()
}

// A resend goes as far as there is room, and on from there.
func TestResendWithoutRoom(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a", Keep: day, Order: InOrder})
	body := strings.Repeat("x", 2000)
	r.publish("x", body, body, body, body)
	r.idle("a")
	kept := r.kept("a")
	if _, err := r.SetPaused("a", true); err != nil {
		t.Fatal(err)
	}
	size := int64(kept[0].Size)
	resend := func(messages int, bytes int64, after uint64, want Resent) {
		t.Helper()
		if _, err := r.Update("a", func(e *Endpoint) error { e.MaxQueue, e.MaxBytes = messages, bytes; return nil }); err != nil {
			t.Fatal(err)
		}
		before := r.get("a")
		res, err := r.Resend("a", Choice{All: true}, after)
		after2 := r.get("a")
		if err != nil || res != want || after2.Queue.Messages-before.Queue.Messages != want.Messages || before.Kept.Messages-after2.Kept.Messages != want.Messages {
			t.Errorf("%+v, %v, want %+v; before %+v, after %+v", res, err, want, before, after2)
		}
	}
	resend(10, size-1, 0, Resent{More: true})
	resend(2, 1<<20, 0, Resent{Messages: 2, Last: kept[1].Number, More: true})
	resend(2, 1<<20, kept[1].Number, Resent{More: true})
	resend(10, 3*size, 0, Resent{Messages: 1, Last: kept[2].Number, More: true})
	resend(10, 1<<20, kept[3].Number, Resent{})
	resend(10, 1<<20, kept[2].Number, Resent{Messages: 1, Last: kept[3].Number})
	resend(10, 1<<20, 0, Resent{})
	r.audit()
}

// The bound of all queues holds for a resend too.
func TestResendGlobalBound(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxBytes = 5000 })
	r.create(Endpoint{ID: "a", Keep: day})
	body := strings.Repeat("x", 2000)
	for range 4 {
		r.publish("x", body)
		r.idle("a")
	}
	if _, err := r.SetPaused("a", true); err != nil {
		t.Fatal(err)
	}
	if res, err := r.Resend("a", Choice{All: true}, 0); err != nil || res.Messages != 2 || !res.More {
		t.Errorf("%+v, %v", res, err)
	}
	if err := r.enqueue(message("x", body)); !errors.Is(err, ErrFull) {
		t.Errorf("a publish when queues are full: %v", err)
	}
	r.audit()
}

// A message that is resent in vain is a dead letter, as others are; replayed and
// delivered, it is kept again.
func TestResentDies(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a", Keep: day, Retries: []Duration{}})
	r.publish("x", "1")
	r.idle("a")
	kept := r.kept("a")
	r.receiver.set(func(context.Context, *Request) Response { return Response{Status: 500} })
	if res, err := r.Resend("a", Choice{All: true}, 0); err != nil || res.Messages != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	r.wait("a dead letter", func() bool { return r.get("a").DeadLetters == 1 })
	if n := r.audit(); n["a kept"] != 0 || n["file dead"] != 1 {
		t.Errorf("%v", n)
	}
	r.receiver.set(nil)
	if n, err := r.Replay("a", Choice{IDs: []string{kept[0].Message}}); n != 1 || err != nil {
		t.Fatalf("replayed %d, %v", n, err)
	}
	r.idle("a")
	if again := r.kept("a"); len(again) != 1 || again[0].Message != kept[0].Message {
		t.Errorf("kept: %+v", again)
	}
	if got := testutil.ToFloat64(r.o.Metrics.replayed[fromDead]); got != 1 {
		t.Errorf("%v were counted", got)
	}
	r.audit()
}

func TestResendOnAFullDisk(t *testing.T) {
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
	r.create(Endpoint{ID: "a", Keep: day})
	r.publish("x", "1", "2")
	r.idle("a")
	before := r.totals()
	full.Store(true)
	if res, err := r.Resend("a", Choice{All: true}, 0); !errors.Is(err, errFull) || res.Messages != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if n, err := r.PurgeKept("a", Choice{IDs: []string{"none"}}); n != 0 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	full.Store(false)
	if diff := cmp.Diff(before, r.totals()); diff != "" {
		t.Error(diff)
	}
	if res, err := r.Resend("a", Choice{All: true}, 0); err != nil || res.Messages != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	r.idle("a")
	r.audit()
}

// Whenever the process is killed, each message is in the queue or kept, and
// nowhere twice. What a kill leaves is a copy of the file as of some commit.
func TestKeptSurvivesKills(t *testing.T) {
	r := newRig(t)
	r.create(Endpoint{ID: "a", Keep: day, Order: InOrder})
	r.create(Endpoint{ID: "b", Keep: day, Concurrency: 8})
	var acknowledged atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 200 {
			if err := r.enqueue(message("x", fmt.Sprint(i))); err != nil {
				t.Error(err)
				return
			}
			acknowledged.Add(1)
		}
	})
	wg.Go(func() {
		for range 50 {
			for _, id := range []string{"a", "b"} {
				if _, err := r.Resend(id, Choice{All: true}, 0); err != nil {
					t.Error(err)
				}
			}
		}
	})
	dir := t.TempDir()
	copies := 0
	look := func() {
		n := acknowledged.Load()
		copies++
		path := filepath.Join(dir, fmt.Sprint(copies))
		if err := r.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(path, 0o600) }); err != nil {
			t.Fatal(err)
		}
		o := r.o
		o.Path, o.Metrics = path, nil
		s, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		defer s.Close()
		for id, ep := range s.endpoints {
			places := make(map[uint64]int)
			for _, e := range slices.Concat(ep.fifo, ep.retry, ep.kept) {
				places[e.seq]++
				if _, err := s.readMessage(e.seq); err != nil {
					t.Errorf("copy %d, %s: message %d: %v", copies, id, e.seq, err)
				}
			}
			if len(places) < int(n) {
				t.Errorf("copy %d, %s: %d messages, %d were acknowledged", copies, id, len(places), n)
			}
			for seq, times := range places {
				if times != 1 {
					t.Errorf("copy %d, %s: message %d is there %d times", copies, id, seq, times)
				}
			}
		}
	}
	for i := range 20 {
		r.wait("progress", func() bool { return acknowledged.Load() >= int64(i*10) || t.Failed() })
		look()
	}
	wg.Wait()
	r.idle("a")
	r.idle("b")
	look()
	if n := r.audit(); n["a kept"] != 200 || n["b kept"] != 200 {
		t.Errorf("%v", n)
	}
}

// Deliveries, resends, purges and changes at the same time leave nothing behind.
func TestKeptAtTheSameTime(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxKept = 20000; o.noSync = true })
	for i := range 3 {
		r.create(Endpoint{ID: fmt.Sprint("e", i), Keep: day, Concurrency: 3})
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 300 {
			if err := r.enqueue(message("x", strings.Repeat("x", i))); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for i := range 60 {
			id := fmt.Sprint("e", i%2)
			var err error
			switch i % 5 {
			case 0:
				_, err = r.PurgeKept(id, Choice{Until: time.Now().Add(-10 * time.Millisecond)})
			case 1:
				_, err = r.Update(id, func(e *Endpoint) error { e.Keep = day - e.Keep; return nil })
			default:
				_, err = r.Resend(id, Choice{All: true}, 0)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for range 20 {
			_, _ = r.Resend("e2", Choice{All: true}, 0)
		}
		if err := r.Delete("e2"); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	r.idle("e0")
	r.idle("e1")
	r.wait("the sweep", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return !r.sweeping })
	if n := r.audit(); n["kept"] > 20000 || n["pending"] != 0 || n["bytes"] != 0 {
		t.Errorf("%v", n)
	}
}

func TestKeptAPI(t *testing.T) {
	r := newRig(t)
	call := func(method, path, query, body string, status int) string {
		t.Helper()
		a := r.ServeAPI(Call{Method: method, Path: path, Query: query, Body: []byte(body)})
		if a.Status != status {
			t.Errorf("%s %s: %d %s, want %d", method, path, a.Status, a.Body, status)
		}
		return string(a.Body)
	}
	if got := call("POST", "", "", `{"id":"a","url":"https://a.example","channels":["*"],"verify":false,"keep":"7d"}`, 201); !strings.Contains(got, `"keep":"7d"`) {
		t.Errorf("created: %s", got)
	}
	call("PATCH", "a", "", `{"keep":"31d"}`, 400)
	r.publish("x", "1", "2")
	r.idle("a")
	kept := r.kept("a")
	if got := call("GET", "a/kept", fmt.Sprintf("after=%d&limit=5", kept[0].Number), "", 200); strings.Contains(got, kept[0].Message) || !strings.Contains(got, kept[1].Message) {
		t.Errorf("after the first: %s", got)
	}
	if got := call("GET", "a", "", "", 200); !strings.Contains(got, `"kept":{"messages":2,`) {
		t.Errorf("endpoint: %s", got)
	}
	call("GET", "a/kept", "after=x", "", 400)
	call("GET", "a/kept", "since=x", "", 400)
	call("POST", "a/resend", "", `{}`, 400)
	call("POST", "a/resend", "", `{"ids":["x"],"more":1}`, 400)
	call("POST", "a/replay", "", `{"all":true,"after":1}`, 400)
	call("GET", "a/resend", "", "", 405)
	call("POST", "none/resend", "", `{"all":true}`, 404)
	if got := call("POST", "a/resend", "", `{"ids":["`+kept[0].Message+`"]}`, 200); got != fmt.Sprintf("{\"resent\":1,\"last\":%d,\"more\":false}\n", kept[0].Number) {
		t.Errorf("resent: %s", got)
	}
	r.idle("a")
	if got := call("DELETE", "a/kept", "id="+kept[0].Message, "", 200); got != "{\"purged\":1}\n" {
		t.Errorf("purged: %s", got)
	}
}
