package handler

import "github.com/holdfast/holdfast/pkg/publish"

// maxWaitingBytes bounds the items that wait for holds: in the queues of busy ones,
// and for what a filter over HTTP says.
const maxWaitingBytes = 64 << 20

// waiting counts items that wait. However many holds one waits for, it is in
// memory once.
type waiting struct {
	items map[*publish.Item]*wait
	bytes int
}

type wait struct {
	n    int // holds that it waits for
	size int
}

// keep notes that an item waits for one more hold. It returns false if there is no
// room for it.
func (w *waiting) keep(it *publish.Item) bool {
	e := w.items[it]
	if e == nil {
		e = &wait{size: it.Memory()}
		if w.bytes+e.size > maxWaitingBytes {
			return false
		}
		if w.items == nil {
			w.items = make(map[*publish.Item]*wait)
		}
		w.items[it] = e
		w.bytes += e.size
	}
	e.n++
	return true
}

// release takes back a keep.
func (w *waiting) release(it *publish.Item) {
	e := w.items[it]
	if e.n--; e.n == 0 {
		w.bytes -= e.size
		delete(w.items, it)
	}
}
