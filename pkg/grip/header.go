package grip

import (
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Error says what is wrong with an instruct. Its text is the one that debug mode
// shows to clients, so it is part of the interface.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

func errorf(parts ...string) error { return &Error{strings.Join(parts, "")} }

// get returns the value of the first field of that name.
func get(h []frame.Field, name string) (string, bool) {
	for i := range h {
		if strings.EqualFold(h[i].Name, name) {
			return h[i].Value, true
		}
	}
	return "", false
}

// List returns the elements of all fields of that name, in order.
func List(h []frame.Field, name string) []string {
	var all []string
	for i := range h {
		if strings.EqualFold(h[i].Name, name) {
			all = appendSplit(all, h[i].Value)
		}
	}
	return all
}

// appendSplit splits the value of one list field at its commas, but not at those
// between double quotes, where a backslash escapes the next character. A quote
// that does not end makes the rest one element. "a,,b" has three elements, "a,"
// one, "" none.
func appendSplit(all []string, value string) []string {
	value = strings.TrimSpace(value)
	start, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			all = append(all, strings.TrimSpace(value[start:i]))
			start = i + 1
		}
	}
	if start < len(value) {
		all = append(all, strings.TrimSpace(value[start:]))
	}
	return all
}

// Param is one parameter of a list element. HasValue is false for a name
// without "="; with it the value may still be empty.
type Param struct {
	Name, Value string
	HasValue    bool
}

// Params are the parameters of a list element, in order.
type Params []Param

// Get returns the first parameter of that name, without regard to case.
func (p Params) Get(name string) (Param, bool) {
	for _, q := range p {
		if strings.EqualFold(q.Name, name) {
			return q, true
		}
	}
	return Param{}, false
}

// ParseElement splits a list element into what stands before the first ";",
// where quotes mean nothing, and the parameters behind it. It returns false if a
// quoted value does not end.
func ParseElement(s string) (first string, p Params, ok bool) {
	first, rest, _ := strings.Cut(s, ";")
	p, ok = ParseParams(rest)
	return strings.TrimSpace(first), p, ok
}

// ParseParams reads a list element that is parameters from its start. It returns
// false if a quoted value does not end.
func ParseParams(s string) (Params, bool) {
	var all Params
	for strings.TrimSpace(s) != "" {
		end := strings.IndexAny(s, "=;")
		if end < 0 {
			return append(all, Param{Name: strings.TrimSpace(s)}), true
		}
		p := Param{Name: strings.TrimSpace(s[:end])}
		separator := s[end]
		s = s[end+1:]
		if separator == '=' {
			p.HasValue = true
			if strings.HasPrefix(s, `"`) {
				var ok bool
				if p.Value, s, ok = unquote(s[1:]); !ok {
					return nil, false
				}
				_, s, _ = strings.Cut(s, ";")
			} else {
				p.Value, s, _ = strings.Cut(s, ";")
				p.Value = strings.TrimSpace(p.Value)
			}
		}
		all = append(all, p)
	}
	return all, true
}

// unquote reads a quoted string whose opening quote is gone.
func unquote(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// parseInt reads a decimal number of 32 bits with optional sign.
func parseInt(s string) (int, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 32)
	return int(n), err == nil
}

// parseCString reads \\, \r, \n and \xHH. Other escapes vanish. It returns false
// for an escape that is not whole, and if nothing is left.
func parseCString(s string) ([]byte, bool) {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		if i++; i == len(s) {
			return nil, false
		}
		switch s[i] {
		case '\\':
			b = append(b, '\\')
		case 'r':
			b = append(b, '\r')
		case 'n':
			b = append(b, '\n')
		case 'x':
			if i+3 > len(s) {
				return nil, false
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return nil, false
			}
			b = append(b, byte(n))
			i += 2
		}
	}
	return b, len(b) > 0
}

// DecodeBase64 reads standard base64. Characters that do not belong to it are
// skipped and padding is not required, so it always succeeds.
func DecodeBase64(s string) []byte {
	b := make([]byte, 0, len(s)*3/4)
	var acc, bits uint
	for i := 0; i < len(s); i++ {
		var v byte
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z':
			v = c - 'A'
		case 'a' <= c && c <= 'z':
			v = c - 'a' + 26
		case '0' <= c && c <= '9':
			v = c - '0' + 52
		case c == '+':
			v = 62
		case c == '/':
			v = 63
		default:
			continue
		}
		acc = acc<<6 | uint(v)
		if bits += 6; bits >= 8 {
			bits -= 8
			b = append(b, byte(acc>>bits))
			acc &= 1<<bits - 1
		}
	}
	return b
}

// FormatLast returns a value of Grip-Last. The id is quoted where it would be
// misread otherwise; a channel name has no quoted form.
func FormatLast(l frame.LastID) string {
	id := l.ID
	if strings.ContainsAny(id, `;,"\`) || strings.TrimSpace(id) != id {
		id = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(id) + `"`
	}
	return l.Channel + "; last-id=" + id
}

// ParseLast returns the Grip-Last values of h. Elements without last-id are left
// out.
func ParseLast(h []frame.Field) []frame.LastID {
	var all []frame.LastID
	for _, s := range List(h, "Grip-Last") {
		channel, params, ok := ParseElement(s)
		if !ok {
			continue
		}
		if id, ok := params.Get("last-id"); ok {
			all = append(all, frame.LastID{Channel: channel, ID: id.Value})
		}
	}
	return all
}

// IsGrip reports whether a response with this header is one that GRIP gives a
// meaning: any Grip-* field does it, and so does the media type
// application/grip-instruct.
func IsGrip(h []frame.Field) bool {
	if IsJSON(h) {
		return true
	}
	for i := range h {
		if isGripName(h[i].Name) {
			return true
		}
	}
	return false
}

// IsJSON reports whether a response with this header carries its instruct as
// JSON. Nothing is trimmed before the ";" of the media type.
func IsJSON(h []frame.Field) bool {
	v, _ := get(h, "Content-Type")
	mediaType, _, _ := strings.Cut(v, ";")
	return mediaType == "application/grip-instruct"
}

func isGripName(name string) bool {
	return len(name) >= 5 && strings.EqualFold(name[:5], "Grip-")
}

// Strip removes all Grip-* fields, in place.
func Strip(h []frame.Field) []frame.Field {
	kept := h[:0]
	for _, f := range h {
		if !isGripName(f.Name) {
			kept = append(kept, f)
		}
	}
	return kept
}

// Expose removes, in place, the fields whose names are not listed. An empty list
// keeps all.
func Expose(h []frame.Field, names []string) []frame.Field {
	if len(names) == 0 {
		return h
	}
	kept := h[:0]
	for _, f := range h {
		for _, n := range names {
			if strings.EqualFold(f.Name, n) {
				kept = append(kept, f)
				break
			}
		}
	}
	return kept
}
