package grip

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestParseExtension(t *testing.T) {
	cases := []struct {
		lines  string // separated by |
		prefix string
		ok     bool
	}{
		{"", "", false},
		{"grip", "m:", true},
		{"grip;", "m:", true},
		{"foo, grip; message-prefix=x", "x", true},
		{`grip; message-prefix=""`, "", true},
		{"grip; message-prefix", "", true},
		{"grip; message-prefix=;", "", true},
		{"grip; message-prefix=", "", true},
		{"grip; Message-Prefix=q:", "m:", true},
		{"GRIP", "", false},
		{"foo|grip; message-prefix=q:", "q:", true},
		{`grip; message-prefix="a\"b"`, `a"b`, true},
		{`grip; message-prefix="a`, "", false},
		{"grip; a=1, grip; message-prefix=z", "m:", true},
	}
	for _, c := range cases {
		var h []frame.Field
		for _, line := range strings.Split(c.lines, "|") {
			h = append(h, frame.Field{Name: "sec-websocket-extensions", Value: line})
		}
		if prefix, ok := ParseExtension(h); prefix != c.prefix || ok != c.ok {
			t.Errorf("%s: got %q, %v; want %q, %v", c.lines, prefix, ok, c.prefix, c.ok)
		}
	}
}

func TestParseControl(t *testing.T) {
	cases := map[string]*Control{
		"notjson": nil, "[]": nil, "5": nil, "{}": nil, `{"type":"zz"}`: nil, `{"type":5}`: nil, `{"type":null}`: nil,
		`{"type":"subscribe"}`: nil, `{"type":"subscribe","channel":""}`: nil, `{"type":"subscribe","channel":5}`: nil,
		`{"type":"subscribe","channel":"a","filters":"x"}`: nil, `{"type":"subscribe","channel":"a","filters":[5]}`: nil,
		` {"type":"subscribe","channel":"a","foo":1}` + "\n": {Type: "subscribe", Channel: "a"},
		`{"type":"subscribe","channel":"a","filters":null}`:  {Type: "subscribe", Channel: "a"},
		`{"type":"subscribe","channel":"a","filters":["x","y"]}`: {
			Type: "subscribe", Channel: "a", Filters: []string{"x", "y"},
		},
		`{"type":"unsubscribe","channel":"a"}`:                                     {Type: "unsubscribe", Channel: "a"},
		`{"type":"detach"}`:                                                        {Type: "detach"},
		`{"type":"session","id":"s"}`:                                              {Type: "session", ID: "s"},
		`{"type":"session"}`:                                                       {Type: "session"},
		`{"type":"set-meta","name":"user","value":"alice"}`:                        {Type: "set-meta", Name: "user", Value: "alice", HasValue: true},
		`{"type":"set-meta","name":"user","value":""}`:                             {Type: "set-meta", Name: "user", HasValue: true},
		`{"type":"set-meta","name":"user","value":null}`:                           {Type: "set-meta", Name: "user"},
		`{"type":"set-meta","name":"user","value":5}`:                              nil,
		`{"type":"set-meta","value":"x"}`:                                          nil,
		`{"type":"keep-alive","content":"k","timeout":1}`:                          keep("k", 1, 1),
		`{"type":"keep-alive","content":"k","timeout":"1"}`:                        keep("k", 1, 1),
		`{"type":"keep-alive","content":"k","timeout":0}`:                          keep("k", 1, 55),
		`{"type":"keep-alive","content":"k","timeout":"x"}`:                        keep("k", 1, 55),
		`{"type":"keep-alive","content":"k","timeout":-1}`:                         nil,
		`{"type":"keep-alive","content":"k"}`:                                      keep("k", 1, 55),
		`{"type":"keep-alive","content":"","timeout":1.6}`:                         keep("", 1, 2),
		`{"type":"keep-alive","content-bin":"AAE="}`:                               keep("\x00\x01", 1, 55),
		`{"type":"keep-alive","content":"k","mode":"other"}`:                       keep("k", 1, 55),
		`{"type":"keep-alive","content-bin":"AAE=","message-type":"ping"}`:         keep("\x00\x01", 9, 55),
		`{"type":"keep-alive","content":"k","message-type":"zz"}`:                  nil,
		`{"type":"keep-alive"}`:                                                    {Type: "keep-alive", Kind: 1, Seconds: 55},
		`{"type":"keep-alive","content":"k","mode":"interval"}`:                    {Type: "keep-alive", Content: []byte("k"), HasContent: true, Kind: 1, Seconds: 55, Interval: true},
		`{"type":"send-delayed"}`:                                                  {Type: "send-delayed", HasContent: true, Kind: 1, Seconds: 1},
		`{"type":"send-delayed","content":"d","timeout":5}`:                        {Type: "send-delayed", Content: []byte("d"), HasContent: true, Kind: 1, Seconds: 5},
		`{"type":"flush-delayed"}`:                                                 {Type: "flush-delayed"},
		`{"type":"subscribe","channel":"` + strings.Repeat("x", MaxControl) + `"}`: nil,
		`{"type":"detach"} {"type":"detach"}`:                                      nil,
	}
	for in, want := range cases {
		got, err := ParseControl([]byte(in))
		if (err != nil) != (want == nil) {
			t.Errorf("%.80s: error %v", in, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%.80s: %s", in, d)
		}
	}
}

func keep(content string, kind uint8, seconds int) *Control {
	return &Control{Type: "keep-alive", Content: []byte(content), HasContent: true, Kind: kind, Seconds: seconds}
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte(`{"type":"keep-alive","content-bin":"AAE=","timeout":"5","message-type":"ping"}`))
	f.Add([]byte(`{"type":"subscribe","channel":"a","filters":["x"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseControl(b)
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
		if c != nil && (c.Seconds < 0 || c.Type == "") {
			t.Fatalf("got %+v", c)
		}
	})
}
