package bus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The session tests run two peers against each other without sockets or clock:
// every order of loss, repetition, overtaking, restart and giving up that the
// node can meet, with a seed that can be run again.

// side is one instance in the simulation.
type side struct {
	name   string
	boot   uint64
	since  uint64
	epochs atomic.Uint64
	p      *peer // what it knows of the other
	boots  *uint64

	conn  *wireSim   // to the other, nil if broken
	wires []*wireSim // all from this side that still hold messages

	up       Peer   // as the receiver was told
	session  string // of the frames received since PeerUp
	received int
	sent     int
}

// wireSim is a connection: messages written and not yet read. After a break some
// are still in the reader's buffers.
type wireSim struct{ msgs [][]byte }

func (s *side) start(t *testing.T, other string, rng *rand.Rand) {
	*s.boots++
	s.boot = *s.boots
	// One boot in eight finds the clock put back.
	if s.since = 2 * s.boot; rng.IntN(8) == 0 {
		s.since = rng.Uint64N(s.since)
	}
	s.epochs.Store(0)
	m, err := newNodeMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.p = &peer{
		name: other, m: m.of("x"), epochs: &s.epochs,
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), own: s.epochs.Add(1),
	}
	s.conn, s.up, s.session, s.received, s.sent = nil, Peer{}, "", 0, 0
}

// mySession names the session as this side sees it.
func (s *side) mySession() string {
	return fmt.Sprintf("%s %d/%d to %d/%d", s.name, s.boot, s.p.own, s.p.boot, s.p.epoch)
}

type sim struct {
	t    *testing.T
	rng  *rand.Rand
	a, b side
	now  time.Time
	enc  *encoder
	dec  *decoder

	lossy bool // messages were lost on connections that went on
	gaps  int  // that were noticed
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0), enc: newEncoder(), dec: newDecoder()}
	boots := new(uint64)
	s.a, s.b = side{name: "a.0", boots: boots}, side{name: "b.0", boots: boots}
	s.a.start(t, "b.0", s.rng)
	s.b.start(t, "a.0", s.rng)
	return s
}

func (s *sim) other(x *side) *side {
	if x == &s.a {
		return &s.b
	}
	return &s.a
}

// connect makes a new connection from x.
func (s *sim) connect(x *side) {
	s.breakConn(x)
	x.conn = new(wireSim)
	x.wires = append(x.wires, x.conn)
	x.p.connection(true)
}

// breakConn ends x's connection: a part of what was written is lost, the rest is
// read sooner or later.
func (s *sim) breakConn(x *side) {
	if x.conn == nil {
		return
	}
	x.conn.msgs = x.conn.msgs[:s.rng.IntN(len(x.conn.msgs)+1)]
	x.conn = nil
	x.p.connection(false)
}

// write lets x's sender write one message, and reports whether there was one.
func (s *sim) write(x *side) bool {
	if x.conn == nil {
		return false
	}
	e := envelope{From: x.name, FromBoot: x.boot, Started: x.since}
	if !x.p.compose(&e, nil) {
		return false
	}
	x.conn.msgs = append(x.conn.msgs, append([]byte(nil), s.enc.encode(&e)...))
	return true
}

// lose takes a message out of x's connection.
func (s *sim) lose(x *side) {
	if x.conn == nil || len(x.conn.msgs) == 0 {
		return
	}
	s.lossy = true
	i := s.rng.IntN(len(x.conn.msgs))
	x.conn.msgs = slices.Delete(x.conn.msgs, i, i+1)
}

// read lets the other side read one message of one of x's connections.
func (s *sim) read(x *side) bool {
	for _, i := range s.rng.Perm(len(x.wires)) {
		w := x.wires[i]
		if len(w.msgs) == 0 {
			if w != x.conn {
				x.wires = append(x.wires[:i:i], x.wires[i+1:]...)
				return true
			}
			continue
		}
		m := w.msgs[0]
		w.msgs = w.msgs[1:]
		e, err := s.dec.decode(m)
		if err != nil {
			s.t.Fatal(err)
		}
		y := s.other(x)
		c := y.p.handle(&e, y.boot, s.now)
		if c.gap {
			if !s.lossy {
				s.t.Fatalf("%s misses frames that were not lost", y.name)
			}
			s.gaps++
			w.msgs = nil
			if w == x.conn {
				s.breakConn(x)
			}
		}
		s.tell(y, c.down, c.up, c.why)
		for _, f := range c.frames {
			s.receive(y, string(f))
		}
		return true
	}
	return false
}

func (s *sim) tell(y *side, down, up Peer, why string) {
	if why == "protocol" {
		s.t.Fatalf("%s: session ended as a protocol error", y.name)
	}
	if down.Boot != 0 {
		if y.up != down {
			s.t.Fatalf("%s: PeerDown(%v) (%s), up is %v", y.name, down, why, y.up)
		}
		y.up = Peer{}
	}
	if up.Boot != 0 {
		if y.up.Boot != 0 {
			s.t.Fatalf("%s: PeerUp(%v) while up is %v", y.name, up, y.up)
		}
		y.up, y.session, y.received, y.sent = up, "", 0, 0
	}
}

// receive checks that frames arrive in order, none missing, from one session.
func (s *sim) receive(y *side, f string) {
	x := s.other(y)
	var session string
	var n int
	session, n = parseFrame(s.t, f)
	if y.up.Boot == 0 {
		s.t.Fatalf("%s: frame %q while the peer is down", y.name, f)
	}
	if y.session == "" {
		y.session = session
		want := fmt.Sprintf("%s %d/%d to %d/%d", x.name, y.p.boot, y.p.epoch, y.boot, y.p.own)
		if session != want {
			s.t.Fatalf("%s: frame of session %s in session %s", y.name, session, want)
		}
	}
	if session != y.session || n != y.received {
		s.t.Fatalf("%s: got frame %d of %s, want %d of %s", y.name, n, session, y.received, y.session)
	}
	y.received++
}

func parseFrame(t *testing.T, f string) (session string, n int) {
	t.Helper()
	var name string
	var a, b, c, d int
	if _, err := fmt.Sscanf(f, "%s %d/%d to %d/%d #%d", &name, &a, &b, &c, &d, &n); err != nil {
		t.Fatalf("frame %q: %v", f, err)
	}
	return fmt.Sprintf("%s %d/%d to %d/%d", name, a, b, c, d), n
}

func (s *sim) send(x *side) {
	if x.p.send(fmt.Appendf(nil, "%s #%d", x.mySession(), x.sent), 1<<20) == nil {
		x.sent++
	}
}

// settle connects both sides and lets everything arrive.
func (s *sim) settle() {
	for range 1000 {
		moved := false
		for _, x := range []*side{&s.a, &s.b} {
			if x.conn == nil {
				s.connect(x)
			}
			for s.write(x) {
				moved = true
			}
			for s.read(x) {
				if x.conn == nil { // frames were missing
					s.connect(x)
				}
				moved = len(x.wires) > 1 || len(x.conn.msgs) > 0 || moved
				if len(x.wires) == 1 && len(x.conn.msgs) == 0 {
					break
				}
			}
		}
		if !moved {
			if s.a.p.up && s.b.p.up && s.a.p.boot == s.b.boot && s.b.p.boot == s.a.boot {
				return
			}
			// What the node does once in a while.
			s.now = s.now.Add(time.Second)
			for _, x := range []*side{&s.a, &s.b} {
				x.p.mu.Lock()
				var down Peer
				if x.p.up && x.p.boot != s.other(x).boot {
					down = x.p.goDown()
				} else if !x.p.up {
					x.p.sayHello(s.now, true)
				}
				x.p.sendAgain(s.now, time.Second)
				x.p.mu.Unlock()
				s.tell(x, down, Peer{}, "silent")
			}
		}
	}
	s.t.Fatalf("does not come to rest: %s up %v, %s up %v", s.a.mySession(), s.a.p.up, s.b.mySession(), s.b.p.up)
}

func TestSessionsUnderEveryKindOfTrouble(t *testing.T) {
	gaps := 0
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSim(t, seed)
			defer func() { gaps += s.gaps }()
			for range 2000 {
				x := &s.a
				if s.rng.IntN(2) == 0 {
					x = &s.b
				}
				switch n := s.rng.IntN(1000); {
				case n < 300:
					s.send(x)
				case n < 600:
					s.write(x)
				case n < 950:
					s.read(x)
				case n < 970:
					s.connect(x)
				case n < 980:
					s.breakConn(x)
				case n < 985: // gives up
					x.p.mu.Lock()
					var down Peer
					if x.p.up {
						down = x.p.goDown()
					}
					x.p.mu.Unlock()
					s.tell(x, down, Peer{}, "silent")
				case n < 988: // says goodbye
					if x.conn != nil {
						x.p.mu.Lock()
						x.p.byeDue = true
						x.p.mu.Unlock()
						for range 1 + s.rng.IntN(3) {
							s.write(x)
						}
						s.breakConn(x)
						x.start(t, s.other(x).name, s.rng)
					}
				case n < 990: // dies
					s.breakConn(x)
					x.start(t, s.other(x).name, s.rng)
				case n < 996 && seed%2 == 0:
					s.lose(x)
				default:
					s.now = s.now.Add(helloGap)
				}
			}
			s.settle()
			for _, x := range []*side{&s.a, &s.b} {
				for range 10 {
					s.send(x)
				}
			}
			s.settle()
			for _, x := range []*side{&s.a, &s.b} {
				if got, want := s.other(x).received, x.sent; got != want || x.sent < 10 {
					t.Errorf("%s sent %d frames in the last session, %d arrived", x.name, want, got)
				}
				if kept := x.p.out.kept(); kept > 0 {
					// The last frames are acknowledged by the timer.
					y := s.other(x)
					y.p.mu.Lock()
					y.p.ackDue = true
					y.p.mu.Unlock()
					s.settle()
					if kept = x.p.out.kept(); kept > 0 {
						t.Errorf("%s keeps %d frames", x.name, kept)
					}
				}
			}
		})
	}
	if gaps < 20 {
		t.Errorf("only %d gaps were noticed", gaps)
	}
}

// What is read late, from a connection that broke long ago, must not end or begin
// a session. The simulation would not notice: it comes to rest all the same.
func TestLateHellos(t *testing.T) {
	const self, old, young = 7, 80, 90
	now := time.Unix(1e9, 0)
	fresh := func() (*peer, uint64) {
		s := side{name: "a.0", boots: new(uint64)}
		s.start(t, "b.0", rand.New(rand.NewPCG(1, 1)))
		return s.p, s.p.own
	}
	hello := func(boot, epoch, toEpoch, started uint64) *envelope {
		return &envelope{
			Kind: kindHello, From: "b.0", FromBoot: boot, FromEpoch: epoch, ToBoot: self, ToEpoch: toEpoch, Started: started,
		}
	}
	up := func(t *testing.T) (*peer, uint64) {
		t.Helper()
		p, own := fresh()
		if c := p.handle(hello(young, 5, own, 2), self, now); c.up.Boot != young {
			t.Fatalf("not up after a hello that names our epoch: %v", c)
		}
		return p, own
	}
	t.Run("of the boot before", func(t *testing.T) {
		p, own := up(t)
		if c := p.handle(hello(old, 9, own, 1), self, now); c.down.Boot != 0 || c.up.Boot != 0 || !p.up || p.boot != young {
			t.Errorf("got %v", c)
		}
	})
	t.Run("of the session before", func(t *testing.T) {
		p, own := up(t)
		if c := p.handle(hello(young, 4, own, 2), self, now); c.down.Boot != 0 || c.up.Boot != 0 || !p.up || p.epoch != 5 {
			t.Errorf("got %v", c)
		}
	})
	t.Run("of the boot before, with an epoch that we told it", func(t *testing.T) {
		p, own := fresh()
		p.handle(hello(young, 5, 0, 2), self, now)
		if c := p.handle(hello(old, 9, own, 1), self, now); c.up.Boot != 0 || p.own == own {
			t.Errorf("up with a boot that is over: %v", c)
		}
	})
	t.Run("goodbye", func(t *testing.T) {
		p, own := up(t)
		e := hello(young, 5, own, 2)
		e.Kind = kindBye
		if c := p.handle(e, self, now); c.down.Boot != young || c.why != "stopped" {
			t.Errorf("got %v", c)
		}
		if c := p.handle(hello(young, 5, own, 2), self, now); c.up.Boot != 0 {
			t.Errorf("up after goodbye: %v", c)
		}
	})
}

func TestRepeatsAreDroppedAndCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := newNodeMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{name: "b.0", m: m.of("b"), boot: 1, epoch: 1, own: 1, epochs: new(atomic.Uint64)}
	data := func(seq uint64, frames ...string) (got []string) {
		e := envelope{Kind: kindData, From: "b.0", FromBoot: 1, FromEpoch: 1, ToBoot: 7, ToEpoch: 1, Seq: seq}
		for _, f := range frames {
			e.Frames = append(e.Frames, []byte(f))
		}
		c := p.handle(&e, 7, time.Unix(1e9, 0))
		for _, f := range c.frames {
			got = append(got, string(f))
		}
		return got
	}
	for _, step := range []struct {
		seq       uint64
		send, got string
		repeats   float64
	}{
		{0, "a b c", "a b c", 0},
		{0, "a b c", "", 3},
		{1, "b c d", "d", 5},
		{4, "e", "e", 5},
	} {
		if got := strings.Join(data(step.seq, strings.Fields(step.send)...), " "); got != step.got {
			t.Errorf("%q from %d: got %q, want %q", step.send, step.seq, got, step.got)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if n := f.GetMetric()[0].GetCounter().GetValue(); f.GetName() == "holdfast_bus_frames_repeated_total" && n != step.repeats {
				t.Errorf("%v repeats counted, want %v", n, step.repeats)
			}
		}
	}
	// Frames that are missing are not passed over: they have to come first.
	if got := data(9, "x"); got != nil || p.expect != 5 {
		t.Errorf("behind a gap: got %q, then expects %d", got, p.expect)
	}
	if got := data(5, "f"); len(got) != 1 || !p.up {
		t.Errorf("after a gap: got %q, up %v", got, p.up)
	}
}
