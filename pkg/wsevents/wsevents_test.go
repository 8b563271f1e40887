package wsevents

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// crlf lets the tables be read: ↵ stands for CR LF.
func crlf(s string) []byte { return []byte(strings.ReplaceAll(s, "↵", "\r\n")) }

func TestEncode(t *testing.T) {
	cases := []struct {
		name   string
		events []Event
		want   string
	}{
		{"text", []Event{{Text, []byte("hi")}}, "TEXT 2↵hi↵"},
		{"empty text has no size", []Event{{Text, []byte{}}}, "TEXT↵"},
		{"pings", []Event{{Ping, nil}, {Ping, []byte("xx")}}, "PING↵PING 2↵xx↵"},
		{"binary", []Event{{Binary, []byte{0}}}, "BINARY 1↵\x00↵"},
		{"size in lower-case hex", []Event{{Text, []byte(strings.Repeat("a", 27))}}, "TEXT 1b↵" + strings.Repeat("a", 27) + "↵"},
		{"close with status", []Event{CloseEvent(4001, "bye")}, "CLOSE 5↵\x0f\xa1bye↵"},
		{"close without status", []Event{CloseEvent(0, "ignored")}, "CLOSE↵"},
		{"none", nil, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(string(crlf(c.want)), string(Encode(c.events...))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	long := strings.Repeat("x", 28)
	cases := []struct {
		name, body string
		want       []Event
	}{
		{"empty body", "", nil},
		{"open", "OPEN↵", []Event{{Open, nil}}},
		{"open with content", "OPEN 3↵abc↵TEXT 2↵zz↵", []Event{{Open, []byte("abc")}, {Text, []byte("zz")}}},
		{"control frames", "PING 0↵↵PONG 2↵ab↵BINARY 4↵m:zz↵", []Event{{Ping, []byte{}}, {Pong, []byte("ab")}, {Binary, []byte("m:zz")}}},
		{"upper-case size", "TEXT 1C↵" + long + "↵", []Event{{Text, []byte(long)}}},
		{"lower-case size", "TEXT 1c↵" + long + "↵", []Event{{Text, []byte(long)}}},
		{"types are case-sensitive", "text 4↵m:zz↵", nil},
		{"unknown type skipped with its content", "FOO 3↵a↵b↵TEXT 1↵z↵", nil},
		{"final CRLF may be missing", "TEXT 5↵m:abc", []Event{{Text, []byte("m:abc")}}},
		{"no size is an empty message", "TEXT↵", []Event{{Text, nil}}},
	}
	cases[7].body = "FOO 3↵abc↵TEXT 4↵m:zz↵"
	cases[7].want = []Event{{Text, []byte("m:zz")}}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode(crlf(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	cases := map[string]string{
		"size is not hexadecimal":   "TEXT zz↵hello↵",
		"no CRLF":                   "TEXT 5",
		"bare LF":                   "TEXT 4\nm:zz\n",
		"content too short":         "TEXT ff↵m:abc↵",
		"negative size":             "TEXT -9↵m:zz↵",
		"plus sign":                 "TEXT +4↵m:zz↵",
		"prefix":                    "TEXT 0x4↵m:zz↵",
		"size with a blank":         "TEXT  4↵m:zz↵",
		"size of nine digits":       "TEXT 000000004↵m:zz↵",
		"empty size":                "TEXT ↵",
		"no type":                   " 4↵m:zz↵",
		"empty line":                "↵",
		"content not ended by CRLF": "TEXT 2↵abTEXT↵",
		"good event, then bad":      "TEXT 2↵ab↵TEXT zz↵",
	}
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Decode(crlf(body))
			var e *Error
			if !errors.As(err, &e) || got != nil {
				t.Errorf("Decode(%q) = %v, %v; want no events and an *Error", body, got, err)
			}
		})
	}
	many := strings.Repeat("PING↵", MaxEvents+1)
	if got, err := Decode(crlf(many)); err == nil || got != nil {
		t.Error("a body of too many events was accepted")
	}
}

func TestCloseStatus(t *testing.T) {
	code, reason := CloseEvent(4005, "srv").CloseStatus()
	if code != 4005 || reason != "srv" {
		t.Errorf("got %d %q", code, reason)
	}
	if code, _ := (Event{Type: Close, Content: []byte{3}}).CloseStatus(); code != 0 {
		t.Errorf("one byte of content: got code %d, want none", code)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "OPEN↵", "TEXT 2↵hi↵CLOSE 5↵\x0f\xa1bye↵", "PING↵PONG 1↵x", "TEXT -9↵m:zz↵", "FOO 1↵x↵"} {
		f.Add(crlf(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		events, err := Decode(body)
		if err != nil {
			if events != nil {
				t.Fatal("events and an error")
			}
			return
		}
		again, err := Decode(Encode(events...))
		if err != nil {
			t.Fatalf("own output refused: %v", err)
		}
		if len(again) != len(events) {
			t.Fatalf("%d events became %d", len(events), len(again))
		}
		for i := range events {
			if events[i].Type != again[i].Type || string(events[i].Content) != string(again[i].Content) {
				t.Fatalf("event %d: %v became %v", i, events[i], again[i])
			}
		}
	})
}

func TestCheckUTF8(t *testing.T) {
	const text = "aé€😀z"
	for cut := 0; cut <= len(text); cut++ {
		tail, ok := CheckUTF8(nil, []byte(text[:cut]), false)
		if !ok {
			t.Fatalf("the first %d bytes are refused", cut)
		}
		if tail, ok = CheckUTF8(tail, []byte(text[cut:]), true); !ok || len(tail) != 0 {
			t.Fatalf("cut at %d: ok %v, left over %q", cut, ok, tail)
		}
	}
	for _, bad := range []string{"\xff", "a\xc3", "\xed\xa0\x80", "\xf8", "\xc0\x80"} {
		if _, ok := CheckUTF8(nil, []byte(bad), true); ok {
			t.Errorf("%q is accepted", bad)
		}
	}
	if _, ok := CheckUTF8([]byte("\xc3"), []byte("a"), false); ok {
		t.Error("a character that is not continued is accepted")
	}
}
