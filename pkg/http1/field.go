package http1

import (
	"iter"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Character classes of RFC 9110, section 5.6.2 and 5.5.
const (
	classToken byte = 1 << iota // tchar
	classValue                  // HTAB, SP, VCHAR, obs-text
	classHost                   // what may stand in uri-host [":" port]
	classURI                    // what may stand in a request target
)

var class = func() (t [256]byte) {
	for c := 0x20; c < 256; c++ {
		if c == 0x7f {
			continue
		}
		t[c] |= classValue
		if c != ' ' {
			t[c] |= classURI
		}
	}
	t['\t'] |= classValue
	for c := byte('0'); c <= '9'; c++ {
		t[c] |= classToken | classHost
	}
	for c := byte('a'); c <= 'z'; c++ {
		t[c] |= classToken | classHost
		t[c-0x20] |= classToken | classHost
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] |= classToken
	}
	for _, c := range "-._~!$&'()*+,;=%:[]" {
		t[c] |= classHost
	}
	return t
}()

func all(s string, c byte) bool {
	for i := 0; i < len(s); i++ {
		if class[s[i]]&c == 0 {
			return false
		}
	}
	return s != ""
}

// ValidToken reports whether s may be a method or a field name.
func ValidToken(s string) bool { return all(s, classToken) }

// ValidField reports whether f can be written without changing the message
// around it: its name is a token, its value has no CR, LF or NUL.
func ValidField(f frame.Field) bool {
	return ValidToken(f.Name) && strings.IndexByte(f.Value, '\r') < 0 &&
		strings.IndexByte(f.Value, '\n') < 0 && strings.IndexByte(f.Value, 0) < 0
}

// equalFold compares as RFC 9110 does: ASCII letters only. strings.EqualFold
// would take the Kelvin sign for a k.
func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}

// Get returns the value of the first field called name, compared without
// regard to case.
func Get(h []frame.Field, name string) (string, bool) {
	for i := range h {
		if equalFold(h[i].Name, name) {
			return h[i].Value, true
		}
	}
	return "", false
}

// Has reports whether there is a field called name.
func Has(h []frame.Field, name string) bool {
	_, ok := Get(h, name)
	return ok
}

// Del removes all fields with any of the names. It filters in place: h must not
// be used afterwards.
func Del(h []frame.Field, names ...string) []frame.Field {
	return delFunc(h, func(name string) bool {
		for _, n := range names {
			if equalFold(name, n) {
				return true
			}
		}
		return false
	})
}

// delFunc writes nothing until the first field to go, so a header that has none
// of them may be shared by readers.
func delFunc(h []frame.Field, del func(name string) bool) []frame.Field {
	keep := 0
	for i := range h {
		if del(h[i].Name) {
			continue
		}
		if keep != i {
			h[keep] = h[i]
		}
		keep++
	}
	clear(h[keep:])
	return h[:keep]
}

// Tokens yields the members of the comma-separated lists in all fields called
// name, trimmed, without empty ones. A comma inside a quoted string does not
// separate.
func Tokens(h []frame.Field, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h {
			if !equalFold(h[i].Name, name) {
				continue
			}
			for rest := h[i].Value; rest != ""; {
				var member string
				member, rest = cutMember(rest)
				if member != "" && !yield(member) {
					return
				}
			}
		}
	}
}

// HasToken reports whether the comma-separated lists in the fields called name
// have the member token, compared without regard to case.
func HasToken(h []frame.Field, name, token string) bool {
	for t := range Tokens(h, name) {
		if equalFold(t, token) {
			return true
		}
	}
	return false
}

// cutMember splits a list at its first comma that is not quoted.
func cutMember(list string) (member, rest string) {
	quoted := false
	for i := 0; i < len(list); i++ {
		switch list[i] {
		case '"':
			quoted = !quoted
		case '\\':
			if quoted {
				i++
			}
		case ',':
			if !quoted {
				return trimOWS(list[:i]), list[i+1:]
			}
		}
	}
	return trimOWS(list), ""
}

func trimOWS(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for s != "" && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}

// RemoveHopByHop removes the fields that concern one connection only (RFC 9110,
// section 7.6.1): Connection and every field it names, Keep-Alive,
// Proxy-Connection, TE, Transfer-Encoding and Upgrade. It filters in place.
func RemoveHopByHop(h []frame.Field) []frame.Field {
	var named []string
	for t := range Tokens(h, "Connection") {
		if !equalFold(t, "close") && !equalFold(t, "keep-alive") {
			named = append(named, t)
		}
	}
	return delFunc(h, func(name string) bool {
		if hopByHop(name) {
			return true
		}
		for _, n := range named {
			if equalFold(name, n) {
				return true
			}
		}
		return false
	})
}

func hopByHop(name string) bool {
	switch len(name) {
	case 2:
		return equalFold(name, "TE")
	case 7:
		return equalFold(name, "Upgrade")
	case 10:
		return equalFold(name, "Connection") || equalFold(name, "Keep-Alive")
	case 16:
		return equalFold(name, "Proxy-Connection")
	case 17:
		return equalFold(name, "Transfer-Encoding")
	}
	return false
}
