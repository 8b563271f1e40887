package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// fill sets every field of a struct to a value that is not zero, and different
// from its neighbours', so that two fields that change places are seen.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(*n%200 + 1)
	case reflect.Int64:
		v.SetInt(-int64(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(strings.Repeat("s", int(*n%40)+1))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(bytes.Repeat([]byte{byte(*n)}, int(*n%40)+1))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	default:
		panic(v.Kind().String())
	}
}

func allFrames() []Frame {
	var all []Frame
	for t := TypeRequest; newFrame(t) != nil; t++ {
		f := newFrame(t)
		var n uint64
		fill(reflect.ValueOf(f).Elem(), &n)
		all = append(all, f)
	}
	return all
}

func TestEveryFieldSurvives(t *testing.T) {
	for _, f := range allFrames() {
		t.Run(f.Type().String(), func(t *testing.T) {
			b := Encode(f)
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(f, got); d != "" {
				t.Errorf("decode(encode(f)) differs (-want +got):\n%s", d)
			}
			if tt, err := TypeOf(b); err != nil || tt != f.Type() {
				t.Errorf("TypeOf = %v, %v", tt, err)
			}
		})
	}
}

func TestAddTraffic(t *testing.T) {
	var one, sum Traffic
	var n uint64
	fill(reflect.ValueOf(&one).Elem(), &n)
	sum.Add(one)
	sum.Add(one)
	for i, v := range reflect.ValueOf(sum).Fields() {
		if once := reflect.ValueOf(one).FieldByIndex(i.Index).Uint(); v.Uint() != 2*once {
			t.Errorf("%s: %d and %d are %d", i.Name, once, once, v.Uint())
		}
	}
}

// The golden files pin the wire form: a field that moves breaks instances of
// different versions that run side by side during an upgrade.
func TestGolden(t *testing.T) {
	for _, f := range allFrames() {
		name := filepath.Join("testdata", "golden", f.Type().String()+".hex")
		got := hex.EncodeToString(Encode(f)) + "\n"
		if *update {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: wire form changed\n got %s\nwant %s", f.Type(), got, want)
		}
	}
}

func TestZeroValues(t *testing.T) {
	for typ := TypeRequest; newFrame(typ) != nil; typ++ {
		got, err := Decode(Encode(newFrame(typ)))
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if d := cmp.Diff(newFrame(typ), got); d != "" {
			t.Errorf("%s: %s", typ, d)
		}
	}
}

// A newer sender may add fields at the end, an older one may lack some.
func TestOtherVersions(t *testing.T) {
	b := Encode(&Credit{ID: 1, Seq: 2, N: 3})
	longer := append([]byte{}, b...)
	longer[2]++
	longer = append(longer, 0xc3)
	f, err := Decode(longer)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&Credit{ID: 1, Seq: 2, N: 3}, f); d != "" {
		t.Error(d)
	}
	shorter := append([]byte{}, b[:len(b)-1]...)
	shorter[2]--
	f, err = Decode(shorter)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&Credit{ID: 1, Seq: 2}, f); d != "" {
		t.Error(d)
	}
}

func TestLimits(t *testing.T) {
	cases := map[string][]byte{
		"empty":                   {},
		"not an array":            {0x01},
		"unknown type":            {0x91, 0x7f},
		"type too large":          {0x91, 0xcd, 0x01, 0x00},
		"list longer than input":  {0xdd, 0x7f, 0xff, 0xff, 0xff, 0x01},
		"bytes longer than input": {0x94, byte(TypeBody), 1, 2, 0xc6, 0x7f, 0xff, 0xff, 0xff},
		"odd header list":         {0x96, byte(TypeBody), 1, 2, 0xc0, 0xc2, 0x91, 0xa1, 'x'},
		"too long":                make([]byte, MaxFrame+1),
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := Decode(in)
			if !errors.Is(err, ErrMalformed) || f != nil {
				t.Errorf("Decode = %v, %v; want ErrMalformed", f, err)
			}
		})
	}
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Reasons() {
		if r.String() == "" || r.String() == "other" || seen[r.String()] {
			t.Errorf("reason %d: name %q is empty or taken", r, r)
		}
		seen[r.String()] = true
	}
}

// What a frame on the hot path costs in allocations: none to append it, one to
// encode it, and to decode it the frame itself and its strings.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has sync.Pool drop things at random, so the count says nothing; the run without it counts")
	}
	for name, tc := range map[string]struct {
		f      Frame
		decode float64
	}{
		"body":                       {&Body{ID: 7, Seq: 9, Data: make([]byte, 1000), More: true}, 1},
		"large body":                 {&Body{ID: 7, Seq: 9, Data: make([]byte, MaxBodyPart), More: true}, 1},
		"publication":                {&Deliver{Pub: 3, Mode: ModeStream, Action: ActionSend, Group: "group", Body: make([]byte, 100)}, 2},
		"small publication for some": {&Deliver{Pub: 3, Mode: ModeStream, Action: ActionSend, Group: "group", Except: []uint64{1, 2}, Body: make([]byte, 100)}, 3},
		"report":                     {&Report{Outcomes: []Outcome{{Pub: 1, Delivered: 10}, {Pub: 2, Delivered: 9}}}, 2},
		"credit":                     {&Credit{ID: 1, Seq: 2, N: 3}, 1},
		"request": {&Request{
			ID: 1, Method: "GET", URI: "/path", Scheme: "http", Host: "example.com", Peer: "127.0.0.1:1234", ConnID: "id",
			Header: []Field{{"Accept", "*/*"}, {"User-Agent", "something"}},
		}, 9},
	} {
		t.Run(name, func(t *testing.T) {
			buf := make([]byte, 0, 2*MaxBodyPart)
			if n := testing.AllocsPerRun(100, func() { buf = Append(buf[:0], tc.f) }); n > 0 {
				t.Errorf("appending it allocates %v times, want 0", n)
			}
			if n := testing.AllocsPerRun(100, func() { sink = Encode(tc.f) }); n > 1 {
				t.Errorf("encoding it allocates %v times, want 1", n)
			}
			if n := testing.AllocsPerRun(100, func() {
				if _, err := Decode(buf); err != nil {
					t.Fatal(err)
				}
			}); n > tc.decode {
				t.Errorf("decoding it allocates %v times, want at most %v", n, tc.decode)
			}
		})
	}
}

var sink []byte

func FuzzDecode(f *testing.F) {
	for _, fr := range allFrames() {
		f.Add(Encode(fr))
	}
	for _, b := range floods(1 << 10) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := decodeWithin(t, b)
		if err != nil {
			if fr != nil {
				t.Fatalf("a frame and an error: %v", err)
			}
			return
		}
		again, err := Decode(Encode(fr))
		if err != nil {
			t.Fatalf("own output refused: %v", err)
		}
		if d := cmp.Diff(fr, again); d != "" {
			t.Fatal(d)
		}
	})
}

func BenchmarkReport(b *testing.B) {
	fr := new(Report)
	for i := range uint64(20) {
		fr.Outcomes = append(fr.Outcomes, Outcome{Pub: 1000 + i, Delivered: 100, Dropped: []Drop{{ReasonClientGone, 1}}})
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], fr)
		if _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	fr := &Deliver{Pub: 3, Mode: ModeStream, Group: "group", Body: make([]byte, 100)}
	for i := range uint64(1000) {
		fr.Except = append(fr.Except, 100_000+i)
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], fr)
		if _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	fr := &Request{ID: 1, Method: "GET", URI: "/some/path?x=1", Scheme: "http", Host: "example.com", Peer: "127.0.0.1:1234"}
	for range 12 {
		fr.Header = append(fr.Header, Field{"Accept-Language", "en-GB,en;q=0.9"})
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], fr)
		if _, err := Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}
