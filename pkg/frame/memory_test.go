package frame

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// decodeWithin decodes b and fails if that takes more memory than it may: what
// lists may take, the strings, the frame itself, and what the sizes of the
// allocator and errors add.
func decodeWithin(t *testing.T, b []byte) (Frame, error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := Decode(b)
	runtime.ReadMemStats(&after)
	used, limit := after.TotalAlloc-before.TotalAlloc, uint64(expansion(len(b))*9/8+2*len(b)+64<<10)
	if used > limit {
		t.Errorf("%d bytes were decoded with %d bytes of memory, more than %d", len(b), used, limit)
	}
	if used := after.StackSys - min(before.StackSys, after.StackSys); used > 1<<20 {
		t.Errorf("%d bytes were decoded with %d bytes of stack", len(b), used)
	}
	return f, err
}

// flood writes a frame with lists of as many elements of one byte as can be.
type flood struct {
	*writer
	size   int  // elements in each of the lists that are flooded
	nested bool // flood those in elements of other lists, instead of those that are not
	only   int  // of those that are not, the one to flood
	seen   int
	floods int
}

// absent is the shortest element of any kind, nil: a group without fields, an
// empty string or list.
const absent = 0xc0

func (w *flood) flood(limit int) bool {
	if (w.depth > 0) != w.nested {
		return false
	}
	if w.seen++; !w.nested && w.seen-1 != w.only {
		return false
	}
	w.floods++
	n := min(w.size, limit)
	w.buf.b = append(w.buf.b, 0xdd, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	w.buf.b = append(w.buf.b, bytes.Repeat([]byte{absent}, n)...)
	return true
}

func (w *flood) header(v *[]Field) {
	if !w.flood(2 * MaxHeaders) {
		w.writer.header(v)
		return
	}
	w.n++
}

func (w *flood) begin(n int) int {
	if !w.flood(1 << 30) {
		return w.writer.begin(n)
	}
	w.push(open{w.n + 1, -1})
	return 0
}

// floodOf returns f with the lists that want chooses flooded, nil if it has none.
func floodOf(f Frame, want flood) []byte {
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.buf.b, w.n = []byte{array16, 0, 0}, 0
	t := uint64(f.Type())
	w.uint(&t)
	want.writer = w
	f.fields(&want)
	b := w.buf.b
	w.buf.b = nil
	b[1], b[2] = byte(w.n>>8), byte(w.n)
	if want.floods == 0 {
		return nil
	}
	return b
}

// floods makes frames of about so many bytes that make the most of them: of every
// kind of frame one for each list that it has, and some for lists in lists; and
// two of what is no list that anyone knows.
func floods(size int) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for t := TypeRequest; newFrame(t) != nil; t++ {
			for i := 0; ; i++ {
				b := floodOf(newFrame(t), flood{size: size - 256, only: i})
				if b == nil {
					break
				}
				if !yield(fmt.Sprintf("%s, list %d", t, i), b) {
					return
				}
			}
			for _, outer := range []int{1, 16, 1024} {
				f := newFrame(t)
				lengthen(reflect.ValueOf(f).Elem(), outer, 0)
				b := floodOf(f, flood{size: size / outer / 3, nested: true})
				if b != nil && len(b) <= size && !yield(fmt.Sprintf("%s, in lists of %d", t, outer), b) {
					return
				}
			}
		}
		list := func(head []byte, element byte, last ...byte) []byte {
			return append(append([]byte{array16, 0, 2, byte(TypeReport)}, append(head, bytes.Repeat([]byte{element}, size-256)...)...), last...)
		}
		n := size - 256
		_ = yield("lists in a list that is unknown", list([]byte{0x91, 0x95, 1, 1, 1, 0x90}, 0x91, 1)) &&
			yield("a list without a proper element", list([]byte{0xdd, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, 0xc1))
	}
}

// lengthen sets every list in v to n elements, and those in lists to inner.
func lengthen(v reflect.Value, n, inner int) {
	switch v.Kind() {
	case reflect.Slice:
		if n == 0 || v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		if v.Type().Elem() == reflect.TypeFor[Field]() {
			n = min(n, MaxHeaders)
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			lengthen(v.Index(i), inner, inner)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			lengthen(v.Field(i), n, inner)
		}
	}
}

// What one frame takes when it is decoded is bounded, whoever wrote it: by a
// multiple of its size, and for large ones by MaxExpansion.
func TestMemory(t *testing.T) {
	for _, size := range []int{1 << 10, 64 << 10, MaxExpansion / 24} {
		for name, b := range floods(size) {
			t.Run(fmt.Sprintf("%d/%s", size, name), func(t *testing.T) {
				f, err := decodeWithin(t, b)
				if err != nil && (f != nil || !errors.Is(err, ErrMalformed)) {
					t.Errorf("decode: %v, %v", f, err)
				}
			})
		}
	}
}

// No sender of ours meets the bound: the emptiest elements that it can write are
// taken in any number.
func TestOwnFramesFit(t *testing.T) {
	for _, n := range []struct{ outer, inner int }{{1, 0}, {3, 5}, {1, 300}, {257, 3}, {5000, 0}, {20_000, 1}} {
		for typ := TypeRequest; newFrame(typ) != nil; typ++ {
			f := newFrame(typ)
			lengthen(reflect.ValueOf(f).Elem(), n.outer, n.inner)
			b := Encode(f)
			got, err := decodeWithin(t, b)
			if err != nil {
				t.Errorf("%s with lists of %d in lists of %d, %d bytes: %v", typ, n.inner, n.outer, len(b), err)
			} else if n.outer < 1000 {
				if d := cmp.Diff(f, got); d != "" {
					t.Errorf("%s: (-want +got):\n%s", typ, d)
				}
			}
		}
	}
}

// Elements that a reader does not know are passed over, whatever they are made of.
func TestSkip(t *testing.T) {
	unknown := []byte{1, 0xff, 0xcf, 1, 2, 3, 4, 5, 6, 7, 8, 0xc0, 0xc3, 0xcb, 1, 2, 3, 4, 5, 6, 7, 8, 0xa2, 'a', 'b', 0xc4, 2, 0, 0, 0x90, 0x92, 0x91, 0xa1, 'x', 0xdc, 0, 1, 5}
	b := []byte{array16, 0, 3, byte(TypeReport), 0x91, 0x9e, 7, 1, 9, 0x90}
	b = append(b, unknown...)
	b = append(b, 0x91, 42) // Alive
	f, err := Decode(b)
	if d := cmp.Diff(Frame(&Report{Outcomes: []Outcome{{Pub: 7, Mode: 1, Delivered: 9}}, Alive: []uint64{42}}), f); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for _, alien := range [][]byte{{0x81, 1, 1}, {0xde, 0, 0}, {0xd4, 1, 1}, {0xc1}, {0xa9}, {0xdd, 0xff, 0xff, 0xff, 0xff}} {
		b := append([]byte{array16, 0, 2, byte(TypeReport), 0x91, 0x95, 7, 1, 9, 0x90}, alien...)
		if f, err := Decode(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("an element %x: %v, %v", alien, f, err)
		}
	}
}
