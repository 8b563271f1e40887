package main

import (
	"strings"
	"testing"
)

// The cases only run against a proxy; what they are made of is tested here.

func TestCasesAreSound(t *testing.T) {
	all := cases()
	if err := check(all); err != nil {
		t.Error(err)
	}
	if len(all) < 100 {
		t.Errorf("only %d cases", len(all))
	}
}

func TestTnetstring(t *testing.T) {
	v := tmap{{"a", "x\x00y"}, {"b", 12}, {"c", []any{true, nil, "z"}}}
	const want = "41:1:a,3:x\x00y,1:b,2:12#1:c,14:4:true!0:~1:z,]}"
	got := tnet(v)
	if got != want {
		t.Fatalf("tnet = %q, want %q", got, want)
	}
	back, rest, err := untnet(got + "rest")
	if err != nil || rest != "rest" {
		t.Fatalf("untnet: %v, rest %q", err, rest)
	}
	m, ok := back.(map[string]any)
	if !ok || m["a"] != "x\x00y" || m["b"] != 12 || len(m["c"].([]any)) != 3 {
		t.Errorf("untnet = %#v", back)
	}
	for _, bad := range []string{"", "5:abc,", "x:a,", "1:a", "1:a?", "-1:,"} {
		if v, _, err := untnet(bad); err == nil {
			t.Errorf("untnet(%q) = %v, want an error", bad, v)
		}
	}
}

func TestReplyHasItsLength(t *testing.T) {
	got := reply("200 OK", "A: 1\n\nB: 2\n", "xyz")
	want := "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nContent-Length: 3\r\n\r\nxyz"
	if got != want {
		t.Errorf("reply = %q, want %q", got, want)
	}
}

func TestClipShowsTheDifference(t *testing.T) {
	a := strings.Repeat("a", 5000)
	b := a[:3000] + "b" + a[3001:]
	if got := clip(b, a); !strings.Contains(got, "b") || len(got) > 500 {
		t.Errorf("clip = %q", got)
	}
}
