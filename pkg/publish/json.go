package publish

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep JSON arrays and objects may be nested.
const maxDepth = 64

// parseJSON reads one JSON text (RFC 8259) into string, json.Number, bool, nil,
// []any and map[string]any. Unlike encoding/json it refuses invalid UTF-8 and
// deep nesting; like it, the last of equal keys wins, and half a surrogate pair
// becomes U+FFFD. The result shares no memory with b.
func parseJSON(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, &Error{"JSON is not valid UTF-8"}
	}
	r := jsonReader{b: b}
	v := r.value(0)
	r.space()
	if !r.bad && r.i < len(b) {
		r.fail()
	}
	if r.bad {
		return nil, &Error{fmt.Sprintf("invalid JSON at byte %d", r.at)}
	}
	return v, nil
}

type jsonReader struct {
	b   []byte
	i   int
	bad bool
	at  int // where the first fault is
}

// fail notes the fault and moves to the end, so that all loops stop.
func (r *jsonReader) fail() {
	if !r.bad {
		r.bad, r.at = true, r.i
	}
	r.i = len(r.b)
}

// peek returns the byte at hand, 0 at the end (which no rule accepts).
func (r *jsonReader) peek() byte {
	if r.i < len(r.b) {
		return r.b[r.i]
	}
	return 0
}

func (r *jsonReader) space() {
	for r.i < len(r.b) && (r.b[r.i] == ' ' || r.b[r.i] == '\t' || r.b[r.i] == '\n' || r.b[r.i] == '\r') {
		r.i++
	}
}

// take consumes c if it is at hand.
func (r *jsonReader) take(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.i++
	return true
}

func (r *jsonReader) value(depth int) any {
	r.space()
	switch c := r.peek(); {
	case c == '"':
		return r.str()
	case c == '-' || c >= '0' && c <= '9':
		return r.number()
	case c == 't':
		return r.word("true", true)
	case c == 'f':
		return r.word("false", false)
	case c == 'n':
		return r.word("null", nil)
	case depth < maxDepth && c == '[':
		return r.array(depth)
	case depth < maxDepth && c == '{':
		return r.object(depth)
	}
	r.fail()
	return nil
}

func (r *jsonReader) word(text string, v any) any {
	if len(r.b)-r.i < len(text) || string(r.b[r.i:r.i+len(text)]) != text {
		r.fail()
		return nil
	}
	r.i += len(text)
	return v
}

func (r *jsonReader) array(depth int) any {
	r.i++
	list := []any{}
	if r.space(); r.take(']') {
		return list
	}
	for !r.bad {
		list = append(list, r.value(depth+1))
		if r.space(); r.take(']') {
			break
		}
		if !r.take(',') {
			r.fail()
		}
	}
	return list
}

func (r *jsonReader) object(depth int) any {
	r.i++
	dict := map[string]any{}
	if r.space(); r.take('}') {
		return dict
	}
	for !r.bad {
		if r.space(); r.peek() != '"' {
			r.fail()
			break
		}
		key := r.str()
		if r.space(); !r.take(':') {
			r.fail()
			break
		}
		dict[key] = r.value(depth + 1)
		if r.space(); r.take('}') {
			break
		}
		if !r.take(',') {
			r.fail()
		}
	}
	return dict
}

func (r *jsonReader) digits() {
	if c := r.peek(); c < '0' || c > '9' {
		r.fail()
	}
	for r.i < len(r.b) && r.b[r.i] >= '0' && r.b[r.i] <= '9' {
		r.i++
	}
}

func (r *jsonReader) number() any {
	start := r.i
	r.take('-')
	if !r.take('0') {
		r.digits()
	}
	if r.take('.') {
		r.digits()
	}
	if r.take('e') || r.take('E') {
		if !r.take('+') {
			r.take('-')
		}
		r.digits()
	}
	return json.Number(r.b[start:r.i])
}

func (r *jsonReader) str() string {
	r.i++
	start := r.i
	for r.i < len(r.b) && r.b[r.i] != '"' && r.b[r.i] != '\\' && r.b[r.i] >= ' ' {
		r.i++
	}
	if r.peek() == '"' { // nothing to replace: the usual case
		r.i++
		return string(r.b[start : r.i-1])
	}
	out := slices.Clone(r.b[start:r.i])
	for {
		c := r.peek()
		if c < ' ' {
			r.fail()
			return ""
		}
		r.i++
		switch c {
		case '"':
			return string(out)
		case '\\':
			out = r.escape(out)
		default:
			out = append(out, c)
		}
	}
}

func (r *jsonReader) escape(out []byte) []byte {
	c := r.peek()
	r.i++
	switch c {
	case '"', '\\', '/':
		return append(out, c)
	case 'b':
		return append(out, '\b')
	case 'f':
		return append(out, '\f')
	case 'n':
		return append(out, '\n')
	case 'r':
		return append(out, '\r')
	case 't':
		return append(out, '\t')
	case 'u':
		u := r.hex4()
		if utf16.IsSurrogate(u) {
			mark := r.i
			if r.take('\\') && r.take('u') {
				if full := utf16.DecodeRune(u, r.hex4()); full != utf8.RuneError {
					return utf8.AppendRune(out, full)
				}
			}
			if !r.bad {
				r.i = mark // not a pair: what follows stands for itself
			}
			u = utf8.RuneError
		}
		return utf8.AppendRune(out, u)
	}
	r.i--
	r.fail()
	return out
}

func (r *jsonReader) hex4() rune {
	if len(r.b)-r.i < 4 {
		r.fail()
		return 0
	}
	n, err := strconv.ParseUint(string(r.b[r.i:r.i+4]), 16, 32)
	if err != nil {
		r.fail()
		return 0
	}
	r.i += 4
	return rune(n)
}

// appendJSON appends v as compact JSON: keys sorted, only what must be escaped
// is escaped, numbers from JSON as they were.
func appendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendJSONString(dst, v)
	case json.Number:
		return append(dst, v...)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case float64:
		format := byte('f')
		if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
			format = 'e'
		}
		return strconv.AppendFloat(dst, v, format, -1, 64)
	case bool:
		return strconv.AppendBool(dst, v)
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, e)
		}
		return append(dst, ']')
	case map[string]any:
		dst = append(dst, '{')
		for i, k := range sortedKeys(v) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(dst, k)
			dst = append(dst, ':')
			dst = appendJSON(dst, v[k])
		}
		return append(dst, '}')
	}
	return append(dst, "null"...)
}

func appendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, c := range s { // invalid UTF-8, possible in tnetstrings, becomes U+FFFD
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', byte(c))
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			if c < ' ' {
				dst = fmt.Appendf(dst, `\u%04x`, c)
			} else {
				dst = utf8.AppendRune(dst, c)
			}
		}
	}
	return append(dst, '"')
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
