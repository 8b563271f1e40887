package publish

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxPatched bounds what the operations of a patch may add, in bytes: a few
// copies in a row could otherwise double a document without end.
const maxPatched = 8 << 20

// Patch is a JSON Patch (RFC 6902) for the body of a held response. As for
// Pushpin, the pointer "/" names the whole document.
type Patch struct {
	ops []any
	set bool
}

// IsSet reports whether there is a patch; one without operations is one too.
func (p Patch) IsSet() bool { return p.set }

// Apply returns body with the patch applied: compact JSON with sorted keys, and
// the line end that body had.
func (p Patch) Apply(body []byte) ([]byte, error) {
	doc, err := parseJSON(body)
	if err != nil {
		return nil, errorf("body-patch: held body: %v", err)
	}
	if !isContainer(doc) {
		return nil, errorf("body-patch: held body is neither object nor array")
	}
	t := patcher{root: doc, budget: maxPatched}
	for i, op := range p.ops {
		if err := t.apply(op); err != nil {
			return nil, errorf("body-patch: operation %d: %v", i, err)
		}
	}
	if !isContainer(t.root) {
		return nil, errorf("body-patch: result is neither object nor array")
	}
	out := appendJSON(nil, t.root)
	switch {
	case bytes.HasSuffix(body, []byte("\r\n")):
		return append(out, '\r', '\n'), nil
	case bytes.HasSuffix(body, []byte("\n")):
		return append(out, '\n'), nil
	}
	return out, nil
}

func isContainer(v any) bool {
	switch v.(type) {
	case []any, map[string]any:
		return true
	}
	return false
}

type patcher struct {
	root   any
	budget int
}

func (t *patcher) apply(v any) error {
	op, ok := v.(map[string]any)
	if !ok {
		return errorf("not an object")
	}
	name, ok := op["op"].(string)
	if !ok {
		return errorf("no 'op'")
	}
	text, ok := op["path"].(string)
	if !ok {
		return errorf("no 'path'")
	}
	path, err := parsePointer(text)
	if err != nil {
		return err
	}
	value, hasValue := op["value"]
	var from []string
	switch name {
	case "add", "replace", "test":
		if !hasValue {
			return errorf("no 'value'")
		}
	case "move", "copy":
		text, ok := op["from"].(string)
		if !ok {
			return errorf("no 'from'")
		}
		if from, err = parsePointer(text); err != nil {
			return err
		}
		if name == "move" && len(from) < len(path) && slices.Equal(from, path[:len(from)]) {
			return errorf("cannot move a value into itself")
		}
		if value, err = t.get(from); err != nil {
			return err
		}
	}
	switch name {
	case "add", "copy":
		if value, err = t.clone(value); err != nil {
			return err
		}
		return t.add(path, value)
	case "remove":
		return t.remove(path)
	case "replace":
		if _, err := t.get(path); err != nil {
			return err
		}
		if value, err = t.clone(value); err != nil {
			return err
		}
		return t.replace(path, value)
	case "move":
		if slices.Equal(from, path) {
			return nil
		}
		if err := t.remove(from); err != nil {
			return err
		}
		return t.add(path, value)
	case "test":
		got, err := t.get(path)
		if err != nil {
			return err
		}
		if !equal(got, value) {
			return errorf("test failed")
		}
		return nil
	}
	return errorf("unknown 'op'")
}

// parsePointer splits a JSON pointer (RFC 6901). No token stands for the whole
// document.
func parsePointer(s string) ([]string, error) {
	if s == "" || s == "/" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, errorf("pointer does not begin with '/'")
	}
	tokens := strings.Split(s[1:], "/")
	for i, k := range tokens {
		tokens[i] = strings.ReplaceAll(strings.ReplaceAll(k, "~1", "/"), "~0", "~")
	}
	return tokens, nil
}

// arrayIndex reads a token as the index of an existing element, or of limit.
func arrayIndex(token string, limit int) (int, error) {
	n, err := strconv.Atoi(token)
	if err != nil || n < 0 || n > limit || strconv.Itoa(n) != token {
		return 0, errorf("no such array index")
	}
	return n, nil
}

func (t *patcher) get(path []string) (any, error) {
	v := t.root
	for _, token := range path {
		switch at := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = at[token]; !ok {
				return nil, errorf("no such member")
			}
		case []any:
			i, err := arrayIndex(token, len(at)-1)
			if err != nil {
				return nil, err
			}
			v = at[i]
		default:
			return nil, errorf("path leads through a plain value")
		}
	}
	return v, nil
}

// edit replaces the container that holds the last token of path with what f
// makes of it: arrays change place when they grow.
func (t *patcher) edit(path []string, f func(parent any, last string) (any, error)) error {
	parentPath, last := path[:len(path)-1], path[len(path)-1]
	parent, err := t.get(parentPath)
	if err != nil {
		return err
	}
	changed, err := f(parent, last)
	if err != nil {
		return err
	}
	if _, isArray := parent.([]any); !isArray {
		return nil // objects change in place
	}
	return t.replace(parentPath, changed)
}

// replace sets a location that exists.
func (t *patcher) replace(path []string, value any) error {
	if len(path) == 0 {
		t.root = value
		return nil
	}
	parent, err := t.get(path[:len(path)-1])
	if err != nil {
		return err
	}
	last := path[len(path)-1]
	switch at := parent.(type) {
	case map[string]any:
		at[last] = value
	case []any:
		i, err := arrayIndex(last, len(at)-1)
		if err != nil {
			return err
		}
		at[i] = value
	}
	return nil
}

func (t *patcher) add(path []string, value any) error {
	if len(path) == 0 {
		t.root = value
		return nil
	}
	return t.edit(path, func(parent any, last string) (any, error) {
		switch at := parent.(type) {
		case map[string]any:
			at[last] = value
			return at, nil
		case []any:
			i := len(at)
			if last != "-" {
				var err error
				if i, err = arrayIndex(last, len(at)); err != nil {
					return nil, err
				}
			}
			return slices.Insert(at, i, value), nil
		}
		return nil, errorf("path leads through a plain value")
	})
}

func (t *patcher) remove(path []string) error {
	if len(path) == 0 {
		return errorf("the whole document cannot be removed")
	}
	return t.edit(path, func(parent any, last string) (any, error) {
		switch at := parent.(type) {
		case map[string]any:
			if _, ok := at[last]; !ok {
				return nil, errorf("no such member")
			}
			delete(at, last)
			return at, nil
		case []any:
			i, err := arrayIndex(last, len(at)-1)
			if err != nil {
				return nil, err
			}
			return slices.Delete(at, i, i+1), nil
		}
		return nil, errorf("path leads through a plain value")
	})
}

// clone copies a value, so that later operations on the copy leave the original
// alone: the patch itself is applied to more than one body.
func (t *patcher) clone(v any) (any, error) {
	const overhead = 16 // of any value
	if t.budget -= overhead; t.budget < 0 {
		return nil, errorf("result is too large")
	}
	var err error
	switch v := v.(type) {
	case string:
		t.budget -= len(v)
	case []any:
		c := slices.Clone(v)
		for i := range c {
			if c[i], err = t.clone(c[i]); err != nil {
				return nil, err
			}
		}
		return c, nil
	case map[string]any:
		c := maps.Clone(v)
		for k := range c {
			t.budget -= len(k)
			if c[k], err = t.clone(c[k]); err != nil {
				return nil, err
			}
		}
		return c, nil
	}
	return v, nil
}

// equal is the equality of the test operation: numbers by value.
func equal(a, b any) bool {
	switch a := a.(type) {
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equal)
	case json.Number, int64, float64:
		return isNumber(b) && sameNumber(a, b)
	}
	return reflect.DeepEqual(a, b)
}

func isNumber(v any) bool {
	switch v.(type) {
	case json.Number, int64, float64:
		return true
	}
	return false
}

func sameNumber(a, b any) bool {
	sa, sb := string(appendJSON(nil, a)), string(appendJSON(nil, b))
	ia, errA := strconv.ParseInt(sa, 10, 64)
	ib, errB := strconv.ParseInt(sb, 10, 64)
	if errA == nil && errB == nil {
		return ia == ib
	}
	fa, errA := strconv.ParseFloat(sa, 64)
	fb, errB := strconv.ParseFloat(sb, 64)
	return sa == sb || errA == nil && errB == nil && fa == fb
}
