package bus

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vmihailenco/msgpack/v5"
)

var envelopes = []envelope{
	{Kind: kindHello, From: "proxy.0", FromBoot: 1, FromEpoch: 1, Inbox: "ipc:///run/proxy.0.in", Pub: "ipc:///run/proxy.0.pub", Started: 5},
	{
		Kind: kindData, From: "handler.12", FromBoot: math.MaxUint64, FromEpoch: 3, ToBoot: 77, ToEpoch: 200,
		Seq: 1 << 40, Ack: 70000, Frames: [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("x"), 300)},
	},
	{Kind: kindAck, From: "zurl.0", FromBoot: 9, FromEpoch: 1, ToBoot: 8, ToEpoch: 1, Ack: 3, Up: true},
	{Kind: kindBye, From: "connmgr.0", FromBoot: 2, FromEpoch: 1},
}

func TestEnvelopeRoundTrip(t *testing.T) {
	enc, dec := newEncoder(), newDecoder()
	for _, want := range envelopes {
		got, err := dec.decode(enc.encode(&want))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("kind %d: %s", want.Kind, d)
		}
	}
}

// A later version of this protocol may add fields at the end.
func TestEnvelopeOfTheFuture(t *testing.T) {
	b := bytes.Clone(newEncoder().encode(&envelopes[1]))
	if b[0] != 0x90|envelopeFields {
		t.Fatalf("first byte %#x", b[0])
	}
	b[0] = 0x90 | (envelopeFields + 1)
	b = append(b, 0xa1, 'x')
	got, err := newDecoder().decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(envelopes[1], got, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func TestBadEnvelopes(t *testing.T) {
	edit := func(f func(*envelope)) []byte {
		e := envelopes[0]
		f(&e)
		return bytes.Clone(newEncoder().encode(&e))
	}
	array := func(v ...any) []byte {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	whole := edit(func(*envelope) {})
	for name, b := range map[string][]byte{
		"empty":         {},
		"cut off":       whole[:len(whole)-1],
		"not an array":  []byte("GET / HTTP/1.1"),
		"too short":     array(1, 2, "proxy.0"),
		"other version": append([]byte{whole[0], 99}, whole[2:]...),
		"kind 0":        edit(func(e *envelope) { e.Kind = 0 }),
		"kind 5":        edit(func(e *envelope) { e.Kind = 5 }),
		"long name":     edit(func(e *envelope) { e.From = strings.Repeat("x", maxName+1) }),
		"long endpoint": edit(func(e *envelope) { e.Inbox = strings.Repeat("x", maxEndpoint+1) }),
		"no boot":       edit(func(e *envelope) { e.FromBoot = 0 }),
		"no epoch":      edit(func(e *envelope) { e.FromEpoch = 0 }),
		"many frames":   edit(func(e *envelope) { e.Frames = make([][]byte, maxBatchFrames+1) }),
	} {
		if e, err := newDecoder().decode(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: got %v, %v; want a malformed envelope", name, e, err)
		}
	}
}

// An announced length must not make the decoder allocate.
func TestEnvelopeAllocatesOnlyWhatIsThere(t *testing.T) {
	e := envelopes[0]
	e.Frames = make([][]byte, 1)
	b := bytes.Clone(newEncoder().encode(&e))
	at := bytes.IndexByte(b, 0x91) // the array of frames
	for _, claim := range [][]byte{
		{0xdd, 0x7f, 0xff, 0xff, 0xff},       // 2^31 frames
		{0x91, 0xc6, 0x7f, 0xff, 0xff, 0xff}, // one of 2 GiB
	} {
		lie := append(append(bytes.Clone(b[:at]), claim...), b[at+1:]...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := newDecoder().decode(lie)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, errMalformed) {
			t.Errorf("got %v, want a malformed envelope", err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
			t.Errorf("%d bytes allocated", n)
		}
	}
}

// Whatever decodes is within the limits, takes its frames from the input, and is
// the same after another round.
func FuzzEnvelope(f *testing.F) {
	for _, e := range envelopes {
		f.Add(bytes.Clone(newEncoder().encode(&e)))
	}
	f.Add([]byte{0x9e, 1, 2, 0xa0})
	f.Fuzz(func(t *testing.T, b []byte) {
		dec := newDecoder()
		e, err := dec.decode(b)
		if err != nil {
			if !errors.Is(err, errMalformed) || e.From != "" || e.Frames != nil {
				t.Fatalf("got %v with error %v", e, err)
			}
			return
		}
		n := 0
		for _, fr := range e.Frames {
			n += len(fr)
		}
		if n > len(b) || len(e.From) > maxName || len(e.Inbox) > maxEndpoint || len(e.Frames) > maxBatchFrames {
			t.Fatalf("over the limits: %v", e)
		}
		again, err := dec.decode(newEncoder().encode(&e))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(e, again, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzBroadcast(f *testing.F) {
	f.Add(encodeBroadcast("proxy.0", 1, 2, []byte("payload")))
	f.Add([]byte{0x95, 1, 0xa0, 1, 1, 0xc6})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := newDecoder().broadcast(b)
		if err != nil {
			return
		}
		again, err := newDecoder().broadcast(encodeBroadcast(v.from, v.boot, v.seq, v.payload))
		if err != nil || again.from != v.from || again.boot != v.boot || again.seq != v.seq || !bytes.Equal(again.payload, v.payload) {
			t.Fatalf("got %v, %v; want %v", again, err, v)
		}
	})
}

func TestOutbox(t *testing.T) {
	var o outbox
	push := func(n int) {
		for range n {
			o.push([]byte("frame"))
		}
	}
	batch := func(wantSeq uint64, wantLen, wantAgain int) {
		t.Helper()
		frames, seq, again := o.batch(nil)
		if seq != wantSeq || len(frames) != wantLen || again != wantAgain {
			t.Errorf("batch: %d frames from %d, %d again; want %d from %d, %d again", len(frames), seq, again, wantLen, wantSeq, wantAgain)
		}
	}
	ack := func(n uint64, wantMoved bool) {
		t.Helper()
		if moved, err := o.ack(n); err != nil || moved != wantMoved {
			t.Errorf("ack(%d) = %v, %v; want %v", n, moved, err, wantMoved)
		}
	}
	push(3)
	batch(0, 3, 0)
	ack(2, true)
	ack(2, false)
	ack(1, false)
	push(2)
	o.rewind()
	batch(2, 3, 1)
	o.rewind()
	ack(4, true) // of what went over the old connection
	batch(4, 1, 1)
	if _, err := o.ack(6); !errors.Is(err, errAckAhead) {
		t.Errorf("ack of a frame never sent: %v", err)
	}
	ack(5, true)
	if o.kept() != 0 || o.bytes != 0 || o.pending() {
		t.Errorf("after all: %d kept, %d bytes", o.kept(), o.bytes)
	}
	// A frame larger than a message may be goes alone.
	o.push([]byte("small"))
	o.push(make([]byte, batchBytes+1))
	o.push([]byte("small"))
	batch(5, 1, 0)
	batch(6, 1, 0)
	batch(7, 1, 0)
	push(maxBatchFrames + 1)
	batch(8, maxBatchFrames, 0)
	batch(8+maxBatchFrames, 1, 0)
}

// The room that acknowledged frames took is used again.
func TestOutboxDoesNotGrow(t *testing.T) {
	var o outbox
	for i := range uint64(100_000) {
		o.push([]byte("x"))
		if _, _, again := o.batch(nil); again != 0 {
			t.Fatal("sent again")
		}
		if i >= 10 {
			if _, err := o.ack(i - 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	if cap(o.frames) > 100 {
		t.Errorf("room for %d frames, %d kept", cap(o.frames), o.kept())
	}
}

func TestSpecs(t *testing.T) {
	for spec, want := range map[string]string{
		"tcp://127.0.0.1:5560": "tcp 127.0.0.1:5560",
		"tcp://*:5560":         "tcp :5560",
		"tcp://*:*":            "tcp :0",
		"tcp://[::1]:1":        "tcp [::1]:1",
		"ipc:///run/x":         "unix /run/x",
		"ipc://rel/x":          "unix rel/x",
	} {
		network, addr, err := parseSpec(spec)
		if got := network + " " + addr; err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", spec, got, err, want)
		}
	}
	for _, spec := range []string{"", "127.0.0.1:80", "tcp://", "tcp://x", "inproc://x", "ipc://" + strings.Repeat("x", 104)} {
		if _, _, err := parseSpec(spec); err == nil {
			t.Errorf("%q is taken", spec)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"proxy.0": true, "connmgr.12": true, "x_y.z": true,
		"": false, "proxy": false, ".0": false, "proxy.": false, "a.b.c": false, "a/b.0": false, "Proxy.0": false,
		strings.Repeat("x", 70) + ".0": false,
	} {
		if got := validName(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func TestListenReplacesOnlyTheDead(t *testing.T) {
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "s")
	l, err := listen("ipc://"+path, 0o620)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o620 {
		t.Errorf("mode %v, %v; want 0620", fi.Mode(), err)
	}
	if other, err := listen("ipc://"+path, 0); err == nil {
		_ = other.Close()
		t.Error("a living socket was replaced")
	}
	// A process that dies leaves its file.
	l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
	_ = l.Close()
	l, err = listen("ipc://"+path, 0)
	if err != nil {
		t.Fatalf("a dead socket was not replaced: %v", err)
	}
	_ = l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listen("ipc://"+path, 0); err == nil {
		_ = l.Close()
		t.Error("a file that is no socket was replaced")
	}
}
