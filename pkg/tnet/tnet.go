// Package tnet reads and writes tnetstrings: LEN ":" DATA TYPE, where LEN counts
// the bytes of DATA in decimal and TYPE is one of
//
//	,  byte string      string
//	#  integer          int64
//	^  float            float64
//	!  "true", "false"  bool
//	~  null, empty      nil
//	]  list             []any
//	}  dictionary       map[string]any, its keys are byte strings
//
// The right column is the Go type that Decode yields and Append takes.
package tnet

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// MaxDepth is how deep lists and dictionaries may be nested.
const MaxDepth = 64

// Error says what is wrong with the input, and where.
type Error struct {
	Offset int
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("tnetstring: %s at byte %d", e.Text, e.Offset) }

// Decode returns the value that b holds from its first to its last byte. The
// result shares no memory with b. Of equal keys in a dictionary the last wins.
func Decode(b []byte) (any, error) {
	d := decoder{b: b}
	v, next := d.value(0, len(b), 0)
	if d.err == nil && next != len(b) {
		d.fail(next, "extra data")
	}
	if d.err != nil {
		return nil, d.err
	}
	return v, nil
}

type decoder struct {
	b   []byte
	err *Error
}

func (d *decoder) fail(at int, text string) {
	if d.err == nil {
		d.err = &Error{at, text}
	}
}

// value reads the value at b[at:end] and returns it and the offset behind it.
func (d *decoder) value(at, end, depth int) (any, int) {
	from, to, kind := d.span(at, end)
	if d.err != nil {
		return nil, end
	}
	data := d.b[from:to]
	switch kind {
	case ',':
		return string(data), to + 1
	case '#':
		n, err := strconv.ParseInt(string(data), 10, 64)
		if err != nil {
			d.fail(from, "bad integer")
		}
		return n, to + 1
	case '^':
		f, err := strconv.ParseFloat(string(data), 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			d.fail(from, "bad float")
		}
		return f, to + 1
	case '!':
		if s := string(data); s != "true" && s != "false" {
			d.fail(from, "bad boolean")
		}
		return string(data) == "true", to + 1
	case '~':
		if from != to {
			d.fail(from, "null with data")
		}
		return nil, to + 1
	}
	if depth == MaxDepth {
		d.fail(at, "nested too deeply")
		return nil, end
	}
	if kind == ']' {
		list := []any{}
		for from < to && d.err == nil {
			var v any
			v, from = d.value(from, to, depth+1)
			list = append(list, v)
		}
		return list, to + 1
	}
	dict := map[string]any{}
	for from < to && d.err == nil {
		kFrom, kTo, kind := d.span(from, to)
		if d.err == nil && kind != ',' {
			d.fail(from, "key is not a string")
		}
		if d.err == nil && kTo+1 == to {
			d.fail(to, "key without a value")
		}
		if d.err != nil {
			break
		}
		dict[string(d.b[kFrom:kTo])], from = d.value(kTo+1, to, depth+1)
	}
	return dict, to + 1
}

// span reads LEN and TYPE of the value at b[at:end] and returns where its data
// stands.
func (d *decoder) span(at, end int) (from, to int, kind byte) {
	n, i := 0, at
	for ; i < end && d.b[i] >= '0' && d.b[i] <= '9'; i++ {
		if n = n*10 + int(d.b[i]-'0'); n > end-at {
			d.fail(at, "length is more than there is")
			return 0, 0, 0
		}
		if i > at && d.b[at] == '0' {
			d.fail(at, "length begins with 0")
			return 0, 0, 0
		}
	}
	if i == at || i == end || d.b[i] != ':' {
		d.fail(i, "no length")
		return 0, 0, 0
	}
	from = i + 1
	if n >= end-from { // the type needs a byte too
		d.fail(at, "length is more than there is")
		return 0, 0, 0
	}
	to = from + n
	switch kind = d.b[to]; kind {
	case ',', '#', '^', '!', '~', ']', '}':
		return from, to, kind
	}
	d.fail(to, "unknown type")
	return 0, 0, 0
}

// Append appends the tnetstring of v to dst. Beside the types that Decode
// yields it takes []byte, int, uint64 (up to the largest int64), []string and
// map[string]string; anything else is written as null. Dictionaries are written
// in the order of their keys.
func Append(dst []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendSpan(dst, v, ',')
	case []byte:
		return appendSpan(dst, v, ',')
	case int:
		return appendInt(dst, int64(v))
	case int64:
		return appendInt(dst, v)
	case uint64:
		return appendInt(dst, int64(min(v, math.MaxInt64)))
	case float64:
		return appendSpan(dst, strconv.FormatFloat(v, 'f', -1, 64), '^')
	case bool:
		return appendSpan(dst, strconv.FormatBool(v), '!')
	case []any:
		return appendList(dst, len(v), func(dst []byte, i int) []byte { return Append(dst, v[i]) })
	case []string:
		return appendList(dst, len(v), func(dst []byte, i int) []byte { return Append(dst, v[i]) })
	case map[string]any:
		return appendDict(dst, v)
	case map[string]string:
		return appendDict(dst, v)
	}
	return append(dst, "0:~"...)
}

func appendSpan[S string | []byte](dst []byte, data S, kind byte) []byte {
	dst = strconv.AppendInt(dst, int64(len(data)), 10)
	dst = append(dst, ':')
	dst = append(dst, data...)
	return append(dst, kind)
}

func appendInt(dst []byte, n int64) []byte {
	var buf [20]byte
	return appendSpan(dst, strconv.AppendInt(buf[:0], n, 10), '#')
}

func appendList(dst []byte, n int, item func([]byte, int) []byte) []byte {
	var data []byte
	for i := range n {
		data = item(data, i)
	}
	return appendSpan(dst, data, ']')
}

func appendDict[V any](dst []byte, m map[string]V) []byte {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var data []byte
	for _, k := range keys {
		data = appendSpan(data, k, ',')
		data = Append(data, m[k])
	}
	return appendSpan(dst, data, '}')
}
