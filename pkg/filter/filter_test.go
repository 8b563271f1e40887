package filter

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

type subscriber struct {
	meta, ids map[string]string
	on        []string
}

func (s subscriber) Meta(name string) (string, bool)   { v, ok := s.meta[name]; return v, ok }
func (s subscriber) LastID(name string) (string, bool) { v, ok := s.ids[name]; return v, ok }
func (s subscriber) Subscribed(name string) bool {
	for _, c := range s.on {
		if c == name {
			return true
		}
	}
	return false
}

func meta(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func TestRun(t *testing.T) {
	al := subscriber{meta: meta("user", "al"), on: []string{"other"}}
	const drop = "(drop)"
	for _, c := range []struct {
		name    string
		filters string
		s       subscriber
		pub     map[string]string
		content string
		want    string // or "(drop)", or "error: …"
	}{
		{"skip-self: same", SkipSelf, al, meta("sender", "al"), "x", drop},
		{"skip-self: other", SkipSelf, al, meta("sender", "bob"), "x", "x"},
		{"skip-self: no sender", SkipSelf, al, nil, "x", "x"},
		{"skip-self: no user", SkipSelf, subscriber{}, meta("sender", "al"), "x", "x"},
		{"skip-self: neither", SkipSelf, subscriber{}, nil, "x", "x"},
		{"skip-users: listed", SkipUsers, al, meta("skip_users", "bob, al ,c"), "x", drop},
		{"skip-users: not listed", SkipUsers, al, meta("skip_users", "bob"), "x", "x"},
		{"skip-users: empty", SkipUsers, subscriber{}, meta("skip_users", ",,"), "x", "x"},
		{"require-sub: subscribed", RequireSub, al, meta("require_sub", "other"), "x", "x"},
		{"require-sub: not subscribed", RequireSub, subscriber{}, meta("require_sub", "other"), "x", drop},
		{"require-sub: not asked", RequireSub, subscriber{}, nil, "x", "x"},
		{"var-subst", VarSubst, al, nil, "hi %(user)s 100%%", "hi al 100%"},
		{"var-subst: empty value", VarSubst, subscriber{meta: meta("e", "")}, nil, "<%(e)s>", "<>"},
		{"var-subst: no variable", VarSubst, al, nil, "%(nope)s", "error: No such variable 'nope' at position 7"},
		{"var-subst: no argument", VarSubst, al, nil, "%s", "error: Directive 's' requires argument at position 1"},
		{"var-subst: unknown", VarSubst, al, nil, "%d", "error: Unknown directive 'd' at position 1"},
		{"var-subst: ends", VarSubst, al, nil, "abc%", "error: Expected directive after '%' at position 3"},
		{"var-subst: digit", VarSubst, al, nil, "abc%5", "error: Unknown directive '5' at position 4"},
		{"var-subst: open", VarSubst, al, nil, "abc%(x", "error: Unterminated field starting at position 4"},
		{"var-subst: just opened", VarSubst, al, nil, "abc%(", "error: Expected character after '(' at position 4"},
		{"var-subst: closed at the end", VarSubst, al, nil, "%(user)", "error: Expected directive after ')' at position 6"},
		{"var-subst: empty argument", VarSubst, al, nil, "%()s", "error: Directive 's' requires argument at position 3"},
		{"quoted name", VarSubst, subscriber{meta: meta("n", "A", `a\b)`, "B")}, nil, `%(n)s-%(a\\b\))s 5%%`, "A-B 5%"},
		{"build-id", BuildID, subscriber{meta: meta("id_format", "A-%%-B")}, nil, "x%Iy%%z", "xA-%-By%z"},
		{"build-id: literal", BuildID, subscriber{meta: meta("id_format", "A")}, nil, "%(lit)I", "lit"},
		{"build-id: hex", BuildID, subscriber{meta: meta("id_format", "zz", "id_encoding", "hex")}, nil, "x%Iy", "x7a7ay"},
		{"build-id: hex literal", BuildID, subscriber{meta: meta("id_format", "zz", "id_encoding", "hex")}, nil, "%(R2)I", "5232"},
		{"build-id: positions", BuildID, subscriber{meta: meta("id_format", "%(a)s:%(b)s"), ids: meta("a", "1", "b", "2")}, nil, "%I", "1:2"},
		{"build-id: no format", BuildID, subscriber{}, nil, "x", "error: no sub meta 'id_format'"},
		{"build-id: no position", BuildID, subscriber{meta: meta("id_format", "%(c)s")}, nil, "x", "error: failed to render ID: No such variable 'c' at position 4"},
		{"build-id: encoding", BuildID, subscriber{meta: meta("id_format", "x", "id_encoding", "rot13")}, nil, "x", "error: unsupported encoding: rot13"},
		{"chain", "var-subst,build-id", subscriber{meta: meta("user", "%I", "id_format", "q")}, nil, "%(user)s", "q"},
		{"unknown", "foo", al, meta("sender", "al"), "x", "x"},
		{"a drop ends the chain", "skip-self,var-subst", al, meta("sender", "al"), "%", drop},
		{"http-check without url", HTTPCheck, al, nil, "x", "error: missing url value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := []byte(c.content)
			r, err := Run(strings.Split(c.filters, ","), 0, c.s, c.pub, in)
			got := string(r.Content)
			switch {
			case err != nil:
				got = "error: " + err.Error()
			case r.Verdict == Drop:
				got = drop
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if string(in) != c.content {
				t.Errorf("the content was changed to %q", in)
			}
		})
	}
}

// A message and the variables of a receiver are small; what they make together
// is bounded.
func TestMuch(t *testing.T) {
	const v = 1 << 10
	s := subscriber{
		meta: meta("v", strings.Repeat("v", v), "id_format", "%(a)s", "id_encoding", "hex"),
		ids:  meta("a", strings.Repeat("i", v/2)),
	}
	for name, directive := range map[string]string{VarSubst: "%(v)s", BuildID: "%I"} {
		// Text that is not made by directives does not count.
		content := strings.Repeat("-", v) + strings.Repeat(directive, MaxText/v)
		res, err := Run([]string{name}, 0, s, nil, []byte(content))
		if err != nil || len(res.Content) != v+MaxText {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(res.Content), err, v+MaxText)
		}
		if _, err := Run([]string{name}, 0, s, nil, []byte(content+directive)); !errors.Is(err, ErrTooLong) {
			t.Errorf("%s: got %v, want %v", name, err, ErrTooLong)
		}
	}
	// The positions in an id are counted too.
	s.meta["id_format"] = strings.Repeat("%(a)s", 2*MaxText/v+1)
	if _, err := Run([]string{BuildID}, 0, s, nil, []byte("none")); !errors.Is(err, ErrTooLong) {
		t.Errorf("id: got %v, want %v", err, ErrTooLong)
	}
	// So are all pieces of a body.
	f, err := NewResponse([]string{BuildID}, s)
	if err != nil {
		t.Fatal(err)
	}
	piece := []byte("%(" + strings.Repeat("x", v/2) + ")I")
	for n := range MaxText/v + 1 {
		_, err := f.Write(piece)
		if last := n == MaxText/v; last != errors.Is(err, ErrTooLong) {
			t.Fatalf("piece %d: %v", n, err)
		}
	}
}

func TestAsk(t *testing.T) {
	s := subscriber{meta: meta("url", "/check", "user", "al")}
	names := []string{SkipSelf, HTTPModify, VarSubst}
	asked, err := Run(names, 0, s, nil, []byte("%(user)s"))
	if err != nil || asked.Verdict != Ask || asked.Request.URL != "/check" || string(asked.Request.Body) != "%(user)s" {
		t.Fatalf("got %+v, %v", asked, err)
	}
	check, err := Run([]string{HTTPCheck}, 0, s, nil, []byte("keep"))
	if err != nil || check.Request.Body != nil {
		t.Fatalf("http-check: got %+v, %v; want no body", check, err)
	}
	for _, c := range []struct {
		name, filter string
		a            Answer
		want         string
	}{
		{"check keeps", HTTPCheck, Answer{Code: 200, Body: []byte("new")}, "keep"},
		{"check drops", HTTPCheck, Answer{Code: 200, Drop: true}, "(drop)"},
		{"check fails", HTTPCheck, Answer{Code: 400}, "error: unexpected network request status: code=400"},
		{"no connection", HTTPCheck, Answer{Condition: "connection refused"}, "error: network request failed: connection refused"},
		{"204 keeps", HTTPModify, Answer{Code: 204, Body: []byte("new")}, "al"},
		{"200 replaces", HTTPModify, Answer{Code: 200, Body: []byte("Z %(user)s")}, "Z al"},
		{"200 empties", HTTPModify, Answer{Code: 200}, ""},
		{"too long", HTTPModify, Answer{Code: 200, Body: make([]byte, MaxAnswer+1)}, "error: network response exceeded 100000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, from := names, asked
			if c.filter == HTTPCheck {
				list, from = []string{HTTPCheck}, check
			}
			r, err := Resume(list, from, c.a, s, nil)
			got := string(r.Content)
			switch {
			case err != nil:
				got = "error: " + err.Error()
			case r.Verdict == Drop:
				got = "(drop)"
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCheckContent(t *testing.T) {
	for _, c := range []struct{ names, wanted, err string }{
		{"skip-self", "", ""},
		{"", "", ""},
		{"skip-self", "skip-self", "content filter mismatch: subscription= message=skip-self"},
		{"var-subst", "x,y", "content filter mismatch: subscription=var-subst message=x,y"},
		{"var-subst,skip-users", "var-subst", ""},
		{"var-subst,skip-users", "", "content filter mismatch: subscription=var-subst message="},
		{"var-subst,build-id", "build-id,var-subst", "content filter mismatch: subscription=var-subst,build-id message=build-id,var-subst"},
	} {
		split := func(s string) []string {
			return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
		}
		got := ""
		if err := CheckContent(split(c.names), split(c.wanted)); err != nil {
			got = err.Error()
		}
		if got != c.err {
			t.Errorf("%q and %q: got %q, want %q", c.names, c.wanted, got, c.err)
		}
	}
}

func TestResponse(t *testing.T) {
	s := subscriber{meta: meta("id_format", "f", "id_encoding", "hex")}
	f, err := NewResponse([]string{SkipSelf, BuildID, BuildID}, s)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, piece := range []string{"a %", "(", "R2", ")", "I.%", "%"} {
		b, err := f.Write([]byte(piece))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	if err := f.End(); err != nil || string(out) != "a 5232.%" {
		t.Errorf("got %q, %v", out, err)
	}

	f, _ = NewResponse([]string{BuildID}, s)
	if _, err := f.Write([]byte("init %I")); err == nil || err.Error() != "No ID specified and no default ID in context at position 6" {
		t.Errorf("bare directive: %v", err)
	}
	f, _ = NewResponse([]string{BuildID}, s)
	if _, err := f.Write([]byte("x%")); err != nil {
		t.Fatal(err)
	}
	if err := f.End(); err == nil {
		t.Error("half a directive at the end was accepted")
	}
	f, _ = NewResponse([]string{VarSubst}, s)
	if b, err := f.Write([]byte("50%")); err != nil || string(b) != "50%" || f.End() != nil {
		t.Errorf("without build-id: got %q, %v", b, err)
	}
	if _, err := NewResponse([]string{BuildID}, subscriber{}); err == nil {
		t.Error("build-id without id_format was accepted")
	}
}

// FuzzRender: pieces give the same result as the whole, and text without "%"
// stays as it is.
func FuzzRender(f *testing.F) {
	f.Add([]byte("a %(R2)I.%%"), 3)
	f.Add([]byte(`%(a\)b)I`), 4)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		s := subscriber{meta: meta("id_format", "f")}
		run := func(pieces ...[]byte) (out []byte, err error) {
			r, err := NewResponse([]string{BuildID}, s)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range pieces {
				b, err := r.Write(p)
				if err != nil {
					return nil, err
				}
				out = append(out, b...)
			}
			return out, r.End()
		}
		whole, err1 := run(text)
		if cut < 0 || cut > len(text) {
			cut = len(text) / 2
		}
		parts, err2 := run(text[:cut], text[cut:])
		if (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
			t.Fatalf("%q cut at %d: %v, in one piece %v", text, cut, err2, err1)
		}
		if err1 == nil && !bytes.Equal(whole, parts) {
			t.Fatalf("%q cut at %d: %q, in one piece %q", text, cut, parts, whole)
		}
		if err1 == nil && !bytes.Contains(text, []byte("%")) && !bytes.Equal(whole, text) {
			t.Fatalf("%q became %q", text, whole)
		}
	})
}
