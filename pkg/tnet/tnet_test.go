package tnet

import (
	"errors"
	"reflect"
	"testing"
)

var good = []struct {
	text string
	want any
}{
	{"5:hello,", "hello"},
	{"0:,", ""},
	{"3:\x00\xff\n,", "\x00\xff\n"},
	{"2:42#", int64(42)},
	{"2:-7#", int64(-7)},
	{"3:1.5^", 1.5},
	{"4:true!", true},
	{"5:false!", false},
	{"0:~", nil},
	{"0:]", []any{}},
	{"0:}", map[string]any{}},
	{"8:1:a,1:1#]", []any{"a", int64(1)}},
	{"15:1:a,1:1#1:a,0:~}", map[string]any{"a": nil}},
}

func TestDecode(t *testing.T) {
	for _, c := range good {
		got, err := Decode([]byte(c.text))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %#v, %v; want %#v", c.text, got, err, c.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := "0:~"
	for range MaxDepth + 1 {
		deep = string(appendSpan(nil, deep, ']'))
	}
	for name, text := range map[string]string{
		"nothing":                  "",
		"no colon":                 "5",
		"no length":                ":a,",
		"sign":                     "-1:a,",
		"last byte missing":        "5:hello",
		"T5:abc of a broken agent": "5:abc",
		"huge length":              "99999999999999999999:a,",
		"length begins with 0":     "01:a,",
		"unknown type":             "1:a?",
		"extra":                    "1:a,x",
		"bad integer":              "1:a#",
		"empty integer":            "0:#",
		"integer over 64 bits":     "20:99999999999999999999#",
		"bad float":                "1:a^",
		"infinite float":           "3:inf^",
		"bad boolean":              "4:True!",
		"null with data":           "1:a~",
		"key is a number":          "8:1:1#1:a,}",
		"key without a value":      "4:1:a,}",
		"list cut":                 "3:1:a]",
		"item longer than list":    "3:5:a,]",
		"too deep":                 deep,
	} {
		t.Run(name, func(t *testing.T) {
			v, err := Decode([]byte(text))
			var e *Error
			if v != nil || !errors.As(err, &e) {
				t.Fatalf("%q: got %#v, %v; want nil and an *Error", text, v, err)
			}
			if e.Offset < 0 || e.Offset > len(text) {
				t.Errorf("offset %d is outside the input", e.Offset)
			}
		})
	}
}

func TestAppend(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{
		{map[string]any{"b": 1, "a": []byte("x")}, "16:1:a,1:x,1:b,1:1#}"},
		{map[string]string{"k": "v"}, "8:1:k,1:v,}"},
		{[]string{"a", "b"}, "8:1:a,1:b,]"},
		{uint64(1 << 63), "19:9223372036854775807#"},
		{0.5, "3:0.5^"},
		{false, "5:false!"},
		{struct{}{}, "0:~"},
	} {
		if got := string(Append(nil, c.v)); got != c.want {
			t.Errorf("%#v: got %q, want %q", c.v, got, c.want)
		}
	}
}

// FuzzDecode: what was decoded and written again decodes to the same value.
func FuzzDecode(f *testing.F) {
	for _, c := range good {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if err != nil {
			if v != nil {
				t.Fatalf("value %#v with error %v", v, err)
			}
			return
		}
		again, err := Decode(Append(nil, v))
		if err != nil || !reflect.DeepEqual(v, again) {
			t.Fatalf("%q: got %#v, %v after writing; want %#v", b, again, err, v)
		}
	})
}
