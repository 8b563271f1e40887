package proxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/route"
)

// lines reads a header written as lines.
func lines(s string) []frame.Field {
	var h []frame.Field
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			h = append(h, frame.Field{Name: name, Value: strings.TrimSpace(value)})
		}
	}
	return h
}

func TestHeaderRules(t *testing.T) {
	const feature = "Grip-Feature: " + grip.Features
	for _, tt := range []struct {
		name     string
		rules    headerRules
		in, want string
	}{
		{
			"R1: Grip fields of clients",
			headerRules{grip: true, sig: "tok"},
			"A: 1\nGrip-Sig: abc\ngrip-foo: 1\nGrip-Last: a; last-id=1", "A: 1\nGrip-Sig: tok\n" + feature,
		},
		{"R2: no_grip", headerRules{sig: ""}, "Grip-Sig: abc\nGrip-Foo: 1\nA: 1", "A: 1"},
		{
			"R4: trusted",
			headerRules{grip: true, trusted: true, last: []frame.LastID{{Channel: "c"}}},
			"Grip-Sig: abc\nGrip-Feature: zz\nAccept-Encoding: gzip", "Grip-Sig: abc\nGrip-Feature: zz\nAccept-Encoding: gzip",
		},
		{"unsigned", headerRules{grip: true}, "A: 1", "A: 1\n" + feature},
		{
			"retry",
			headerRules{grip: true, last: []frame.LastID{{Channel: "a", ID: "1"}, {Channel: "b", ID: "2;3"}}},
			"", feature + "\nGrip-Last: a; last-id=1\nGrip-Last: b; last-id=\"2;3\"",
		},
		{"R6: forwarded for, merged", headerRules{}, "X-Forwarded-For: 1.1.1.1\nA: 1\nx-forwarded-for: 5.5.5.5, 9.9.9.9", "A: 1\nX-Forwarded-For: 1.1.1.1, 5.5.5.5, 9.9.9.9"},
		{
			"R7: truncate and append",
			headerRules{forwardedFor: ForwardedFor{Truncate: true, Keep: 1, Append: true}, peer: "127.0.0.1"},
			"X-Forwarded-For: 1.1.1.1, 2.2.2.2", "X-Forwarded-For: 2.2.2.2, 127.0.0.1",
		},
		{"R8: truncate all", headerRules{forwardedFor: ForwardedFor{Truncate: true}}, "X-Forwarded-For: 1.1.1.1", ""},
		{"append without header", headerRules{forwardedFor: ForwardedFor{Append: true}, peer: "::1"}, "", "X-Forwarded-For: ::1"},
		{"append without peer", headerRules{forwardedFor: ForwardedFor{Append: true}}, "", ""},
		{"R9: forwarded proto of a plain client", headerRules{setProtocol: ForwardedProtocolProtoOnly}, "X-Forwarded-Proto: https", ""},
		{
			"R10: accepted and set",
			headerRules{acceptProtocol: true, setProtocol: ForwardedProtocolBoth, tls: true},
			"X-Forwarded-Proto: https", "X-Forwarded-Proto: https\nX-Forwarded-Protocol: https",
		},
		{"forwarded proto, TLS", headerRules{setProtocol: ForwardedProtocolProtoOnly, tls: true}, "X-Forwarded-Protocol: x", "X-Forwarded-Proto: https"},
		{"forwarded proto, off", headerRules{tls: true}, "X-Forwarded-Proto: x", "X-Forwarded-Proto: x"},
		{
			"R11: connection",
			headerRules{grip: true},
			"Accept-Encoding: gzip\nConnection: X-Mine\nX-Mine: 1\nExpect: 100-continue\nTE: x\nVia: 1.1 a\nKeep-Alive: 5\nProxy-Connection: a\nUpgrade: h2c\nTransfer-Encoding: chunked\nContent-Encoding: br",
			"TE: x\nVia: 1.1 a\nContent-Encoding: br\n" + feature,
		},
		{"codings on no_grip", headerRules{}, "Accept-Encoding: gzip\nContent-Encoding: br", "Accept-Encoding: gzip\nContent-Encoding: br"},
		{"TE named", headerRules{}, "TE: trailers\nConnection: TE", ""},
		{"R12: CDN-Loop", headerRules{cdnLoop: "me"}, "CDN-Loop: foo\nA: 1\ncdn-loop: bar; x=\"a,b\"", "A: 1\nCDN-Loop: foo, bar; x=\"a,b\", me"},
		{"CDN-Loop, none", headerRules{}, "CDN-Loop: foo", "CDN-Loop: foo"},
		{
			"R13: orig_headers",
			headerRules{origHeaders: true, needMark: []string{"cookie"}},
			"X-Q: 1\neb9bf0f5-Y: 2\nCookie: c\nConnection: close", "X-Q: 1\nCookie: c\neb9bf0f5-X-Q: 1\neb9bf0f5-Y: 2\neb9bf0f5-Connection: close",
		},
		{"orig_headers, trusted", headerRules{origHeaders: true, trusted: true}, "eb9bf0f5-Y: 2\nX-Q: 1", "eb9bf0f5-Y: 2\nX-Q: 1"},
		{"R14: marks on other routes", headerRules{}, "EB9BF0F5-Y: 2\nA: 1", "A: 1"},
		{
			"route sets",
			headerRules{grip: true, set: []route.Header{{Name: "A", Value: "2"}, {Name: "B"}, {Name: "Grip-Foo", Value: "x"}, {Name: "C", Value: "3"}}},
			"a: 1\nB: 1\nD: 1\nA: 1", "D: 1\nA: 2\nC: 3\n" + feature,
		},
		{"Pushpin-Route", headerRules{dropRoute: true}, "Pushpin-Route: x\nA: 1", "A: 1"},
		{"Pushpin-Route, not accepted", headerRules{}, "Pushpin-Route: x", "Pushpin-Route: x"},
		{"order, case and repetition", headerRules{}, "b: 1\nA: 2\nB: 3\nHost: h\nCookie: x\nContent-Length: 5", "b: 1\nA: 2\nB: 3\nHost: h\nCookie: x\nContent-Length: 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := lines(tt.in)
			got := tt.rules.apply(in)
			if d := cmp.Diff(lines(tt.want), got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			if d := cmp.Diff(lines(tt.in), in, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("the client's header was changed:\n%s", d)
			}
		})
	}
}

func TestSetHost(t *testing.T) {
	for in, want := range map[string]string{
		"A: 1\nhost: x\nB: 2\nHost: y\nC: 3": "A: 1\nhost: h\nB: 2\nC: 3",
		"A: 1":                               "Host: h\nA: 1",
	} {
		if d := cmp.Diff(lines(want), setHost(lines(in), "h")); d != "" {
			t.Errorf("%q: -want +got:\n%s", in, d)
		}
	}
}

func TestSplitHost(t *testing.T) {
	for _, tt := range []struct {
		in         string
		tls        bool
		name, host string
	}{
		{"h", false, "h", "h"},
		{"h:80", false, "h", "h"},
		{"h:443", false, "h", "h:443"},
		{"h:443", true, "h", "h"},
		{"h:80", true, "h", "h:80"},
		{"h:7999", true, "h", "h:7999"},
		{"h:", false, "h", "h"},
		{"[::1]", false, "::1", "[::1]"},
		{"[::1]:80", false, "::1", "[::1]"},
		{"[::1]:81", false, "::1", "[::1]:81"},
	} {
		if name, host := splitHost(tt.in, tt.tls); name != tt.name || host != tt.host {
			t.Errorf("splitHost(%q, %v) = %q, %q, want %q, %q", tt.in, tt.tls, name, host, tt.name, tt.host)
		}
	}
}

func TestRewrite(t *testing.T) {
	for _, tt := range []struct{ route, in, host, path string }{
		{"* t:1", "/a/b?q", "h", "/a/b?q"},
		{"*,as_host=x:81 t:1", "/a", "x:81", "/a"},
		{"*,path_rem=2 t:1", "/a/b?/q", "h", "/b?/q"},
		{"*,path_rem=9 t:1", "/a?q", "h", "/?q"},
		{"*,path_beg=/a,replace_beg=/z t:1", "/a/b", "h", "/z/b"},
		{"*,path_beg=/a/,replace_beg= t:1", "/a/b?q", "h", "/b?q"},
		{"*,path_beg=/a/,replace_beg=/z/,path_rem=1 t:1", "/a/b", "h", "/z/b"},
	} {
		table, warnings := route.ParseLines([]string{tt.route}, nil)
		if len(warnings) > 0 {
			t.Fatal(warnings)
		}
		o := &outgoing{rule: &rule{Route: table.Routes()[0]}, host: "h", path: tt.in}
		o.rewrite()
		if o.host != tt.host || o.path != tt.path {
			t.Errorf("%s: %s became %s%s, want %s%s", tt.route, tt.in, o.host, o.path, tt.host, tt.path)
		}
	}
}

func TestLogicalAddress(t *testing.T) {
	for _, tt := range []struct {
		in   string
		rule ForwardedFor
		want string
	}{
		{"", ForwardedFor{}, "9.9.9.9"},
		{"X-Forwarded-For: 1.1.1.1", ForwardedFor{}, "9.9.9.9"}, // anybody could say so
		{"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3", ForwardedFor{Truncate: true, Keep: 2}, "2.2.2.2"},
		{"X-Forwarded-For: 1.1.1.1", ForwardedFor{Truncate: true, Keep: 2}, "1.1.1.1"},
		{"X-Forwarded-For: nonsense", ForwardedFor{Truncate: true, Keep: 2}, "9.9.9.9"},
		{"X-Forwarded-For: 1.1.1.1", ForwardedFor{Truncate: true}, "9.9.9.9"},
	} {
		if got := logicalAddress(lines(tt.in), tt.rule, "9.9.9.9:5"); got != tt.want {
			t.Errorf("%q, %+v: got %s, want %s", tt.in, tt.rule, got, tt.want)
		}
	}
}

func TestParseForwardedFor(t *testing.T) {
	for _, tt := range []struct {
		in   []string
		want ForwardedFor
		bad  bool
	}{
		{nil, ForwardedFor{}, false},
		{[]string{""}, ForwardedFor{}, false},
		{[]string{"append", " truncate:3"}, ForwardedFor{Truncate: true, Keep: 3, Append: true}, false},
		{[]string{"truncate:x"}, ForwardedFor{}, true},
		{[]string{"truncate:-1"}, ForwardedFor{}, true},
		{[]string{"add"}, ForwardedFor{}, true},
	} {
		got, err := ParseForwardedFor(tt.in)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q: got %+v, %v", tt.in, got, err)
		}
	}
}
