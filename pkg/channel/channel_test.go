package channel

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/publish"
)

type (
	index = Index[string, int]
	sub   = Sub[string, int]
)

// bench is an index with a clock of its own that notes what is delivered.
type bench struct {
	*index
	t      testing.TB
	now    time.Time
	out    []string
	events []string
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, now: time.Unix(1000, 0)}
	b.index = New[string, int](Config{
		Linger: time.Minute, Wait: 5 * time.Second, IDTTL: time.Minute,
		Now:     func() time.Time { return b.now },
		Started: func(name string) { b.events = append(b.events, "+"+name) },
		Ended:   func(name string) { b.events = append(b.events, "-"+name) },
	})
	return b
}

func (b *bench) join(name string, linger bool) *sub {
	s := new(sub)
	b.Subscribe(s, name, "g", linger, func() string { return "tag" })
	return s
}

func (b *bench) deliver(it *publish.Item, _ *Channel[string, int]) {
	b.out = append(b.out, string(it.Stream.Body))
}

// items publishes a list such as "a(1) b(2←1) c(∅) d(3∅)": content, id, the id
// before it; "!" behind it sets NoSeq.
func (b *bench) items(list string) {
	for word := range strings.FieldsSeq(list) {
		content, rest, _ := strings.Cut(word, "(")
		ids, flag, _ := strings.Cut(rest, ")")
		id, prev, hasPrev := strings.Cut(ids, "←")
		it := &publish.Item{Channel: "ch", Stream: &publish.Format{Body: []byte(content)}, NoSeq: flag == "!"}
		it.ID, it.HasID = strings.TrimSuffix(id, "∅"), id != "∅"
		it.PrevID, it.HasPrevID = prev, hasPrev
		if it.ID == `""` {
			it.ID = ""
		}
		b.Publish(it, b.deliver)
	}
}

// pass lets time go by, with a tick every second.
func (b *bench) pass(d time.Duration) {
	for end := b.now.Add(d); b.now.Before(end); {
		b.now = b.now.Add(time.Second)
		b.Tick(b.deliver)
	}
}

func (b *bench) want(out string) {
	b.t.Helper()
	if got := strings.Join(b.out, " "); got != out {
		b.t.Errorf("got %q, want %q", got, out)
	}
}

func TestSequence(t *testing.T) {
	for _, c := range []struct{ name, items, want string }{
		{"repeat", "a(1) b(1) c(2)", "a c"},
		{"repeat of an empty id", `a("") b("") c(∅)`, "a c"},
		{"out of order", "a(1) c(3←2) b(2←1) d(4←3)", "a b c d"},
		{"first item of a channel", "b(2←1) c(3←2)", "b c"},
		{"no-seq passes", "a(1) c(3←2)!", "a c"},
		{"an item without id ends the order", "a(1) x(∅) c(3←2)", "a x c"},
		{"no prev-id", "a(1) c(3∅)", "a c"},
		{"second item that waits for the same one", "a(1) c(3←2) c2(3b←2) b(2←1)", "a b c"},
		{"no-seq leaves the order alone", "a(1) x(9←8)! b(2←1) c(3←9)", "a x b"},
		{"longer chain", "a(1) e(5←4) d(4←3) c(3←2) b(2←1)", "a b c d e"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.join("ch", false)
			b.items(c.items)
			b.want(c.want)
		})
	}
}

func TestWaitIsBounded(t *testing.T) {
	b := newBench(t)
	b.join("ch", false)
	b.items("a(1) c(3←2) d(4←3) g(7←6)")
	b.want("a")
	b.pass(4 * time.Second)
	b.want("a")
	b.pass(2 * time.Second)
	b.want("a c d g") // the oldest first, each with its chain
	if n, bytes := b.Early(); n != 0 || bytes != 0 {
		t.Errorf("%d items of %d bytes still wait", n, bytes)
	}
	b.items("h(8←7)")
	b.want("a c d g h")
}

func TestNewSubscriberStartsAnew(t *testing.T) {
	b := newBench(t)
	s := b.join("ch", false)
	b.items("a(1) z(9←8)")
	b.Unsubscribe(s)
	if n, bytes := b.Early(); n != 0 || bytes != 0 || b.Len() != 0 {
		t.Errorf("after the end: %d items, %d bytes, %d channels", n, bytes, b.Len())
	}
	b.join("ch", false)
	b.items("c(3←2)")
	b.want("a c")
	if want := []string{"+ch", "-ch", "+ch"}; !slices.Equal(b.events, want) {
		t.Errorf("events %v, want %v", b.events, want)
	}
}

func TestRepeatWithoutSubscriber(t *testing.T) {
	b := newBench(t)
	b.items("a(1)")
	b.join("ch", false)
	b.items("a(1)")
	b.want("a") // the first one, to nobody
	b.now = b.now.Add(time.Minute)
	b.items("a(1)")
	b.want("a a")
}

func TestOverflowMayBeSentAgain(t *testing.T) {
	b := newBench(t)
	b.join("ch", false)
	b.items("a(1)")
	for i := range MaxEarly + 1 {
		b.items(fmt.Sprintf("x(w%d←v%d)", i, i))
	}
	if n, _ := b.Early(); n != MaxEarly {
		t.Errorf("%d items wait, want %d", n, MaxEarly)
	}
	b.out = nil
	b.items(fmt.Sprintf("x(w%d←1)", MaxEarly))
	b.want("x")
}

func TestEarlyBytesAreBounded(t *testing.T) {
	b := newBench(t)
	for i := range 8 {
		name := fmt.Sprint(i)
		b.join(name, false)
		b.Publish(&publish.Item{Channel: name, ID: "1", HasID: true}, func(*publish.Item, *Channel[string, int]) {})
		for j := range 20 {
			b.Publish(&publish.Item{
				Channel: name, ID: "x", PrevID: fmt.Sprint("p", j), HasPrevID: true,
				Stream: &publish.Format{Body: make([]byte, 1<<20)},
			}, b.deliver)
		}
	}
	if n, bytes := b.Early(); bytes > MaxEarlyBytes || n < 50 {
		t.Errorf("%d items of %d bytes wait, bound %d", n, bytes, MaxEarlyBytes)
	}
}

func TestLinger(t *testing.T) {
	b := newBench(t)
	poll := b.join("ch", true)
	b.items("a(1)")
	b.Unsubscribe(poll)
	b.pass(50 * time.Second)
	if c := b.Get("ch"); c == nil {
		t.Fatal("the channel ended while it lingers")
	} else if last, ok := c.Last(); !ok || last != "1" {
		t.Errorf("last id %q, %v; want 1", last, ok)
	}
	// A stream that comes and goes does not cut the lingering short.
	b.Unsubscribe(b.join("ch", false))
	if b.Get("ch") == nil {
		t.Fatal("a stream that left ended the lingering")
	}
	// Another poll starts it anew.
	b.Unsubscribe(b.join("ch", true))
	b.pass(50 * time.Second)
	if b.Get("ch") == nil {
		t.Fatal("a poll that left did not start the lingering anew")
	}
	b.pass(12 * time.Second)
	if b.Get("ch") != nil {
		t.Error("the channel lingers for ever")
	}
	if want := []string{"+ch", "-ch"}; !slices.Equal(b.events, want) {
		t.Errorf("events %v, want %v", b.events, want)
	}
}

func TestStreamOutlivesLinger(t *testing.T) {
	b := newBench(t)
	poll, stream := b.join("ch", true), b.join("ch", false)
	b.Unsubscribe(poll)
	b.pass(2 * time.Minute)
	if b.Get("ch") == nil {
		t.Fatal("the channel ended under a subscriber")
	}
	b.Unsubscribe(stream)
	if b.Get("ch") != nil {
		t.Error("the channel goes on without a subscriber")
	}
}

// A delivery may end the channel that it is for.
func TestDeliverEndsTheChannel(t *testing.T) {
	b := newBench(t)
	s := b.join("ch", false)
	b.items("a(1) c(3←2)")
	n := 0
	b.Publish(&publish.Item{Channel: "ch", ID: "2", HasID: true}, func(*publish.Item, *Channel[string, int]) {
		n++
		b.Unsubscribe(s)
	})
	if n != 1 || b.Len() != 0 {
		t.Errorf("delivered %d, %d channels; want 1 and none", n, b.Len())
	}
	b.pass(10 * time.Second)
	b.want("a")
}

// TestIndexModel compares the index with a plain list after random changes.
func TestIndexModel(t *testing.T) {
	type entry struct {
		*sub
		name, key string
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	x := New[string, int](Config{})
	var all []entry
	for range 20000 {
		if rnd.IntN(2) == 0 || len(all) == 0 {
			e := entry{new(sub), fmt.Sprint("c", rnd.IntN(20)), fmt.Sprint("k", rnd.IntN(3))}
			e.Owner = rnd.Int()
			was := x.Get(e.name) != nil
			if first := x.Subscribe(e.sub, e.name, e.key, false, func() string { return e.key + "/" + e.name }); first == was {
				t.Fatalf("first = %v for a channel that was there: %v", first, was)
			}
			all = append(all, e)
		} else {
			i := rnd.IntN(len(all))
			x.Unsubscribe(all[i].sub)
			x.Unsubscribe(all[i].sub) // a second time does nothing
			all = slices.Delete(all, i, i+1)
		}
	}
	got := map[string]int{}
	for i := range 20 {
		c := x.Get(fmt.Sprint("c", i))
		if c == nil {
			continue
		}
		n := 0
		for _, g := range c.Groups {
			if g.Tag != g.Key+"/"+c.Name {
				t.Errorf("group %s of %s has tag %q", g.Key, c.Name, g.Tag)
			}
			for _, s := range g.Subs {
				if s.Channel() != c || s.Group() != g {
					t.Fatal("a member does not know where it is")
				}
			}
			got[c.Name+g.Key] = len(g.Subs)
			n += len(g.Subs)
		}
		if n != c.Subs() {
			t.Errorf("%s: %d members, Subs says %d", c.Name, n, c.Subs())
		}
	}
	want := map[string]int{}
	for _, e := range all {
		want[e.name+e.key]++
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestIDsAreBounded(t *testing.T) {
	s := newIDs(time.Hour)
	now := time.Unix(0, 0)
	for i := range MaxIDs + 10 {
		if !s.add("c", fmt.Sprint(i), now) {
			t.Fatalf("id %d taken for a repeat", i)
		}
	}
	if len(s.until) != MaxIDs || len(s.order) != MaxIDs {
		t.Errorf("%d and %d ids are remembered, bound %d", len(s.until), len(s.order), MaxIDs)
	}
	if !s.add("c", "0", now) || s.add("c", fmt.Sprint(MaxIDs), now) {
		t.Error("the oldest should be forgotten, the newest not")
	}
}

func BenchmarkPublish(b *testing.B) {
	x := New[string, int](Config{Wait: time.Second, IDTTL: time.Minute})
	const channels = 5000
	items := make([]*publish.Item, channels)
	for i := range items {
		items[i] = &publish.Item{Channel: fmt.Sprint("channel-", i), HasID: true}
		x.Subscribe(new(sub), items[i].Channel, "g", false, func() string { return "" })
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		it := items[i%channels]
		it.ID = fmt.Sprint(i)
		x.Publish(it, func(*publish.Item, *Channel[string, int]) {})
		i++
	}
}
