package hook

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"*", "", true},
		{"*", "anything", true},
		{"a*", "a", true},
		{"a*", "abc", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"*a", "ab", false},
		{"a*b", "ab", true},
		{"a*b", "a", false},
		{"ab*ba", "aba", false},
		{"ab*ba", "abba", true},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "acb", false},
		{"**", "x", true},
		{"a**b", "ab", true},
		{"x*aa", "xaaa", true},
		{"*ab*ab", "ab", false},
		{"*ab*ab", "abab", true},
		{"a.b", "aXb", false},
		{"é*", "éa", true},
	} {
		if got := Match(c.pattern, c.name); got != c.want {
			t.Errorf("Match(%q, %q): got %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
}

func TestSet(t *testing.T) {
	var s Set[string]
	if s.Has("a") || s.Find("a") != nil {
		t.Error("an empty set matches")
	}
	for _, p := range []string{"a", "a", "ab", "a*", "ab*", "*", "*b", "long-prefix*"} {
		s.Add(p, p)
	}
	for name, want := range map[string][]string{
		"a":            {"a", "*", "a*"},
		"ab":           {"ab", "*", "a*", "ab*", "*b"},
		"":             {"*"},
		"long-prefix1": {"*", "long-prefix*"},
	} {
		if got := s.Find(name); !slices.Equal(got, want) {
			t.Errorf("Find(%q): got %q, want %q", name, got, want)
		}
		if !s.Has(name) {
			t.Errorf("Has(%q) is false", name)
		}
	}
	var few Set[int]
	few.Add("news-*", 1)
	if few.Has("new") || few.Has("other") || !few.Has("news-") {
		t.Error("Has is wrong about news-*")
	}
}

func TestCheckPattern(t *testing.T) {
	for p, ok := range map[string]bool{
		"": false, "a": true, "*": true, strings.Repeat("x", MaxPattern): true, strings.Repeat("x", MaxPattern+1): false,
		"a\x00": false, strings.Repeat("*", 8): true, strings.Repeat("*", 9): false,
	} {
		if err := CheckPattern(p); (err == nil) != ok {
			t.Errorf("%.20q: %v", p, err)
		}
	}
}

func TestReserved(t *testing.T) {
	for name, want := range map[string]bool{
		"Host": true, "WEBHOOK-ID": true, "Webhook-Anything": true, "Content-Length": true, "X-HTTP-Method-Override": true, "X-Forwarded-For": true,
		"Content-Type": false, "Authorization": false, "X-Custom": false, "Webhooks": false,
	} {
		if got := Reserved(name); got != want {
			t.Errorf("Reserved(%q): got %v", name, got)
		}
	}
}

// runes has a rune for each byte: patterns are about bytes, expressions want UTF-8.
func runes(s string) string {
	r := make([]rune, len(s))
	for i := range len(s) {
		r[i] = rune(s[i])
	}
	return string(r)
}

// A pattern means the same as the regular expression that one would write.
func FuzzMatch(f *testing.F) {
	f.Add("a*b*", "axbx")
	f.Add("*aa*a", "aaa")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if CheckPattern(pattern) != nil {
			return
		}
		parts := strings.Split(runes(pattern), "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re, err := regexp.Compile(`(?s)\A` + strings.Join(parts, `.*`) + `\z`)
		if err != nil {
			t.Fatal(err)
		}
		want := re.MatchString(runes(name))
		var s Set[int]
		s.Add(pattern, 1)
		if got := Match(pattern, name); got != want || s.Has(name) != want {
			t.Errorf("%q, %q: Match says %v, Set %v, want %v", pattern, name, got, s.Has(name), want)
		}
	})
}
