package frame

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Append appends the encoded form of f to dst. Encoding cannot fail: every
// field type has a form.
func Append(dst []byte, f Frame) []byte {
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.buf.b = append(dst, array16, 0, 0)
	start := len(dst)
	w.n = 0
	t := uint64(f.Type())
	w.uint(&t)
	f.fields(w)
	out := w.buf.b
	w.buf.b = nil
	out[start+1], out[start+2] = byte(w.n>>8), byte(w.n)
	return out
}

// Encode returns the encoded form of f in a slice of its own.
func Encode(f Frame) []byte {
	if n := payload(f); n >= largePayload {
		return Append(make([]byte, 0, n+largePayload/4), f)
	}
	p := scratch.Get().(*[]byte)
	*p = Append((*p)[:0], f)
	b := bytes.Clone(*p)
	if cap(*p) <= 4*largePayload {
		scratch.Put(p)
	}
	return b
}

// A frame with a payload of this many bytes is encoded where it stays; others are
// copied there, because their size is not known before.
const largePayload = 4 << 10

var scratch = sync.Pool{New: func() any { p := make([]byte, 0, 512); return &p }}

// payload returns the number of bytes of the field that makes a frame large.
func payload(f Frame) int {
	switch f := f.(type) {
	case *Body:
		return len(f.Data)
	case *Message:
		return len(f.Data)
	case *Request:
		return len(f.Body)
	case *Response:
		return len(f.Body)
	case *Deliver:
		return len(f.Body)
	}
	return 0
}

// TypeOf returns the type of the encoded frame b without decoding the rest.
func TypeOf(b []byte) (Type, error) {
	r := reader{b: b}
	r.start()
	t := r.frameType()
	return t, r.err
}

// Decode returns the frame that b holds. Byte slices of the result are parts of
// b, which must not be changed afterwards; strings are copies. Lists may take
// some times the memory that b has, but not more than MaxExpansion allows.
func Decode(b []byte) (Frame, error) {
	if len(b) > MaxFrame {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(b), MaxFrame)
	}
	r := readers.Get().(*reader)
	defer func() { r.b = nil; readers.Put(r) }()
	*r = reader{b: b, src: r.src, dec: r.dec, spans: r.spans, room: expansion(len(b))}
	r.start()
	t := r.frameType()
	if r.err != nil {
		return nil, r.err
	}
	f := newFrame(t)
	if f == nil {
		return nil, fmt.Errorf("%w: unknown type %d", ErrMalformed, t)
	}
	f.fields(r)
	if r.err != nil {
		return nil, fmt.Errorf("%s: %w", t, r.err)
	}
	return f, nil
}

func newFrame(t Type) Frame {
	switch t {
	case TypeRequest:
		return new(Request)
	case TypeResponse:
		return new(Response)
	case TypeBody:
		return new(Body)
	case TypeCredit:
		return new(Credit)
	case TypeCancel:
		return new(Cancel)
	case TypeAccept:
		return new(Accept)
	case TypeAccepted:
		return new(Accepted)
	case TypeHold:
		return new(Hold)
	case TypeUpdate:
		return new(Update)
	case TypeFinish:
		return new(Finish)
	case TypeRetry:
		return new(Retry)
	case TypeDeliver:
		return new(Deliver)
	case TypeReport:
		return new(Report)
	case TypeClosed:
		return new(Closed)
	case TypeRecords:
		return new(Records)
	case TypeFetch:
		return new(Fetch)
	case TypeFetched:
		return new(Fetched)
	case TypeMessage:
		return new(Message)
	case TypeSession:
		return new(Session)
	case TypeControl:
		return new(Control)
	case TypeTune:
		return new(Tune)
	case TypeStats:
		return new(Stats)
	case TypeWatch:
		return new(Watch)
	case TypeCheck:
		return new(Check)
	case TypeChecked:
		return new(Checked)
	case TypeHooks:
		return new(Hooks)
	case TypeEnqueue:
		return new(Enqueue)
	case TypeEnqueued:
		return new(Enqueued)
	case TypeHookCall:
		return new(HookCall)
	case TypeHookAnswer:
		return new(HookAnswer)
	}
	return nil
}

// coder visits the fields of a frame in wire order: the writer writes them, the
// reader fills them in. One list of fields serves both, so they cannot differ.
type coder interface {
	uint(v *uint64)
	// num is uint for fields of other types: the writer writes v and returns it,
	// the reader returns what it has read, or v if there is nothing.
	num(v uint64) uint64
	int(v *int64)
	bool(v *bool)
	str(v *string)
	bytes(v *[]byte)
	header(v *[]Field)
	// begin starts a list of n elements, or, to the reader, of as many as it
	// returns. What is visited until end are its elements.
	begin(n int) int
	// take asks for n elements of a list that have size bytes each, and reports
	// whether they may be allocated. Only the reader is asked.
	take(n int, size uintptr) bool
	// beginGroup starts an element of a list that has several fields, which is an
	// array of its own so that it too may grow at the end.
	beginGroup()
	// end ends the list or group that was begun last.
	end()
	// ok reports whether there was no error so far. The writer has none.
	ok() bool
}

// maxNesting is how deep lists and groups are nested in any frame, and one more.
const maxNesting = 6

const array16 = 0xdc

type sliceWriter struct{ b []byte }

func (s *sliceWriter) Write(p []byte) (int, error) { s.b = append(s.b, p...); return len(p), nil }
func (s *sliceWriter) WriteByte(c byte) error      { s.b = append(s.b, c); return nil }

type writer struct {
	buf sliceWriter
	enc *msgpack.Encoder
	n   int // elements written to the array that is open

	open  [maxNesting]open
	depth int
}

var writers = sync.Pool{New: func() any {
	w := new(writer)
	w.enc = msgpack.NewEncoder(&w.buf)
	return w
}}

// The encoder's errors are those of the underlying writer, which has none.

func (w *writer) uint(v *uint64) { w.n++; _ = w.enc.EncodeUint(*v) }

func (w *writer) num(v uint64) uint64 {
	w.n++
	_ = w.enc.EncodeUint(v)
	return v
}
func (w *writer) int(v *int64)    { w.n++; _ = w.enc.EncodeInt(*v) }
func (w *writer) bool(v *bool)    { w.n++; _ = w.enc.EncodeBool(*v) }
func (w *writer) str(v *string)   { w.n++; _ = w.enc.EncodeString(*v) }
func (w *writer) bytes(v *[]byte) { w.n++; _ = w.enc.EncodeBytes(*v) }

func (w *writer) header(v *[]Field) {
	w.n++
	_ = w.enc.EncodeArrayLen(2 * len(*v))
	for i := range *v {
		_ = w.enc.EncodeString((*v)[i].Name)
		_ = w.enc.EncodeString((*v)[i].Value)
	}
}

// open is a list or group of the writer that has not ended.
type open struct {
	n     int // elements of the array around it
	start int // of the group in buf; -1 for a list, whose length is written already
}

func (w *writer) begin(n int) int {
	_ = w.enc.EncodeArrayLen(n)
	w.push(open{w.n + 1, -1})
	return n
}

func (w *writer) beginGroup() {
	w.push(open{w.n + 1, len(w.buf.b)})
	w.buf.b = append(w.buf.b, array16, 0, 0)
}

func (w *writer) push(o open) {
	w.open[w.depth] = o
	w.depth++
	w.n = 0
}

func (w *writer) take(int, uintptr) bool { return false }

func (w *writer) ok() bool { return true }

func (w *writer) end() {
	w.depth--
	o := w.open[w.depth]
	if o.start >= 0 {
		w.buf.b[o.start+1], w.buf.b[o.start+2] = byte(w.n>>8), byte(w.n)
	}
	w.n = o.n
}

type reader struct {
	b    []byte
	src  *bytes.Reader
	dec  *msgpack.Decoder
	left int // elements of the open array not read yet
	room int // bytes that lists may still take
	err  error

	spans []int // of header, kept from frame to frame

	outer [maxNesting]int // left of the arrays around it
	depth int
}

var readers = sync.Pool{New: func() any {
	src := bytes.NewReader(nil)
	return &reader{src: src, dec: msgpack.NewDecoder(src)}
}}

func (r *reader) start() {
	if r.src == nil {
		r.src = bytes.NewReader(nil)
		r.dec = msgpack.NewDecoder(r.src)
	}
	r.src.Reset(r.b)
	r.dec.Reset(r.src)
	r.left = r.arrayLen(math.MaxUint16)
}

func (r *reader) frameType() Type {
	var t uint64
	r.uint(&t)
	if t > math.MaxUint8 {
		r.fail("type %d", t)
	}
	return Type(t)
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: at byte %d: %s", ErrMalformed, r.offset(), fmt.Sprintf(format, args...))
	}
}

func (r *reader) ok() bool { return r.err == nil }

func (r *reader) offset() int { return len(r.b) - r.src.Len() }

// next reports whether the open array has another element, and takes it.
func (r *reader) next() bool {
	if r.err != nil || r.left == 0 {
		return false
	}
	r.left--
	return true
}

// expansion returns what the lists of a frame of n bytes may take. The smallest
// element of a list that is ever sent takes a sixteenth of its size in memory; as
// much again is for the arrays that a list has outgrown.
func expansion(n int) int { return min(4<<10+32*n, MaxExpansion) }

func (r *reader) take(n int, size uintptr) bool {
	if n > r.room/int(size) { //nolint:gosec // the size of a type
		r.fail("lists take too much memory")
		return false
	}
	r.room -= n * int(size) //nolint:gosec // the size of a type
	return true
}

func (r *reader) arrayLen(limit int) int {
	if r.err != nil {
		return 0
	}
	n, err := r.dec.DecodeArrayLen()
	switch {
	case err != nil:
		r.fail("%v", err)
	case n > limit:
		r.fail("list of %d, more than %d", n, limit)
	case n > r.src.Len(): // each element takes at least a byte
		r.fail("list of %d in %d bytes", n, r.src.Len())
	case n > 0:
		return n
	}
	return 0
}

// span reads a string or byte string and returns where it stands in r.b.
func (r *reader) span() (start, end int) {
	if r.err != nil {
		return 0, 0
	}
	n, err := r.dec.DecodeBytesLen()
	if err != nil {
		r.fail("%v", err)
		return 0, 0
	}
	if n <= 0 {
		return 0, 0
	}
	if n > r.src.Len() {
		r.fail("string of %d in %d bytes", n, r.src.Len())
		return 0, 0
	}
	start = r.offset()
	if _, err := r.src.Seek(int64(n), io.SeekCurrent); err != nil {
		r.fail("%v", err)
		return 0, 0
	}
	return start, start + n
}

func (r *reader) uint(v *uint64) { *v = r.num(*v) }

func (r *reader) num(v uint64) uint64 {
	if !r.next() {
		return v
	}
	n, err := r.dec.DecodeUint64()
	if err != nil {
		r.fail("%v", err)
		return v
	}
	return n
}

func (r *reader) int(v *int64) {
	if !r.next() {
		return
	}
	n, err := r.dec.DecodeInt64()
	if err != nil {
		r.fail("%v", err)
		return
	}
	*v = n
}

func (r *reader) bool(v *bool) {
	if !r.next() {
		return
	}
	b, err := r.dec.DecodeBool()
	if err != nil {
		r.fail("%v", err)
		return
	}
	*v = b
}

func (r *reader) str(v *string) {
	if !r.next() {
		return
	}
	a, b := r.span()
	*v = string(r.b[a:b])
}

func (r *reader) bytes(v *[]byte) {
	if !r.next() {
		return
	}
	if a, b := r.span(); b > a {
		*v = r.b[a:b:b]
	}
}

// header makes one string of the whole list and cuts names and values out of
// it: two allocations however many fields there are.
func (r *reader) header(v *[]Field) {
	if !r.next() {
		return
	}
	n := r.arrayLen(2 * MaxHeaders)
	if n%2 != 0 {
		r.fail("header list of odd length %d", n)
	}
	if n == 0 || r.err != nil {
		return
	}
	spans := slices.Grow(r.spans[:0], 2*n)
	first := r.offset()
	for range n {
		a, b := r.span()
		if b == 0 {
			a, b = first, first
		}
		spans = append(spans, a, b)
	}
	r.spans = spans
	if r.err != nil || !r.take(n/2, unsafe.Sizeof(Field{})) {
		return
	}
	all := string(r.b[first:r.offset()])
	fields := make([]Field, n/2)
	for i := range fields {
		s := spans[4*i : 4*i+4]
		fields[i] = Field{Name: all[s[0]-first : s[1]-first], Value: all[s[2]-first : s[3]-first]}
	}
	*v = fields
}

func (r *reader) begin(int) int {
	n := -1
	if r.next() {
		n = r.arrayLen(math.MaxInt)
	}
	r.enter(n)
	return max(n, 0)
}

func (r *reader) beginGroup() {
	n := -1
	if r.next() {
		n = r.arrayLen(math.MaxUint16)
	}
	r.enter(n)
}

// enter begins an array of n elements; of one that is missing, with n = -1,
// nothing is read.
func (r *reader) enter(n int) {
	r.outer[r.depth] = r.left
	r.depth++
	r.left = max(n, 0)
}

// end passes over what a later version has added.
func (r *reader) end() {
	r.skip(r.left)
	r.depth--
	r.left = r.outer[r.depth]
}

// skip passes over n elements and what is in them. It does not call itself for
// lists in lists, of which there may be as many as a frame has bytes.
func (r *reader) skip(n int) {
	for ; n > 0 && r.err == nil; n-- {
		code, err := r.dec.PeekCode()
		switch {
		case err != nil:
			r.fail("%v", err)
		case msgpcode.IsFixedArray(code) || code == msgpcode.Array16 || code == msgpcode.Array32:
			n += r.arrayLen(math.MaxInt)
		case msgpcode.IsString(code) || msgpcode.IsBin(code):
			r.span()
		case msgpcode.IsFixedMap(code) || code == msgpcode.Map16 || code == msgpcode.Map32 || msgpcode.IsExt(code):
			r.fail("a map or an extension, which no frame has")
		default:
			if err := r.dec.Skip(); err != nil {
				r.fail("%v", err)
			}
		}
	}
}

// Helpers for the narrower field types.

func u8[T ~uint8](c coder, v *T) { *v = T(min(c.num(uint64(*v)), math.MaxUint8)) }

func u16(c coder, v *uint16) { *v = uint16(min(c.num(uint64(*v)), math.MaxUint16)) }

func u32(c coder, v *uint32) { *v = uint32(min(c.num(uint64(*v)), math.MaxUint32)) }

func list[T any](c coder, v *[]T, item func(e *T)) {
	n := c.begin(len(*v))
	for i := 0; i < n && c.ok(); i++ {
		if i == len(*v) { // the reader's, which is empty at first
			if i == cap(*v) && !grow(c, v, n) {
				break
			}
			*v = (*v)[:i+1]
		}
		item(&(*v)[i])
	}
	c.end()
}

// grow makes room for more elements of a list that claims to have n. That there
// are so many is but a claim until they were read, so the room doubles; all of it
// together, what was outgrown included, is less than that of 2n elements.
func grow[T any](c coder, v *[]T, n int) bool {
	var e T
	if room := max(2*cap(*v), firstElements); n > 2*room {
		n = room
	}
	if !c.take(n, unsafe.Sizeof(e)) {
		return false
	}
	more := make([]T, len(*v), n)
	copy(more, *v)
	*v = more
	return true
}

// firstElements is for about how many elements of a list there is room before the
// first of them was read.
const firstElements = 256

func strs(c coder, v *[]string)  { list(c, v, func(e *string) { c.str(e) }) }
func uints(c coder, v *[]uint64) { list(c, v, func(e *uint64) { c.uint(e) }) }

func lastIDs(c coder, v *[]LastID) {
	list(c, v, func(e *LastID) { c.beginGroup(); c.str(&e.Channel); c.str(&e.ID); c.end() })
}

func xid(c coder, v *XID) {
	c.str(&v.Conn)
	c.uint(&v.Boot)
	c.uint(&v.ID)
}

func keepAlive(c coder, v *KeepAlive) {
	c.beginGroup()
	c.bytes(&v.Data)
	u32(c, &v.Millis)
	c.bool(&v.Interval)
	u8(c, &v.Kind)
	c.end()
}

// The fields of each frame, in wire order. New fields go to the end.

// Type implements Frame.
func (*Request) Type() Type { return TypeRequest }

func (f *Request) fields(c coder) {
	c.uint(&f.ID)
	c.str(&f.Method)
	c.str(&f.URI)
	c.str(&f.Scheme)
	c.str(&f.Host)
	u8(c, &f.Minor)
	c.header(&f.Header)
	c.int(&f.BodyLen)
	c.bytes(&f.Body)
	c.bool(&f.More)
	c.str(&f.Peer)
	c.str(&f.ConnID)
	c.bool(&f.Upgrade)
	c.bool(&f.Retry)
	c.str(&f.Route)
	lastIDs(c, &f.Last)
	c.bool(&f.Resend)
	c.bytes(&f.Session)
	c.bool(&f.Expect)
	u8(c, &f.SockJS)
}

// Type implements Frame.
func (*Response) Type() Type { return TypeResponse }

func (f *Response) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u16(c, &f.Code)
	c.str(&f.Reason)
	c.header(&f.Header)
	c.int(&f.BodyLen)
	c.bytes(&f.Body)
	c.bool(&f.More)
	c.bool(&f.Close)
	c.str(&f.SockJS)
	c.str(&f.SockJSURL)
	c.str(&f.Route)
}

// Type implements Frame.
func (*Body) Type() Type { return TypeBody }

func (f *Body) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	c.bytes(&f.Data)
	c.bool(&f.More)
	c.header(&f.Trailer)
}

// Type implements Frame.
func (*Credit) Type() Type { return TypeCredit }

func (f *Credit) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	c.uint(&f.N)
}

// Type implements Frame.
func (*Cancel) Type() Type { return TypeCancel }

func (f *Cancel) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u8(c, &f.Reason)
	c.str(&f.Text)
}

// Type implements Frame.
func (*Accept) Type() Type { return TypeAccept }

func (f *Accept) fields(c coder) {
	xid(c, &f.X)
	c.uint(&f.SendSeq)
	c.uint(&f.RecvSeq)
	c.str(&f.ConnID)
	u8(c, &f.Mode)
	u32(c, &f.Millis)
	keepAlive(c, &f.KeepAlive)
	list(c, &f.Channels, func(e *Channel) {
		c.beginGroup()
		c.str(&e.Name)
		c.str(&e.PrevID)
		c.bool(&e.HasPrevID)
		c.bool(&e.Implicit)
		strs(c, &e.Filters)
		c.end()
	})
	c.header(&f.Meta)
	c.str(&f.Next.URI)
	u32(c, &f.Next.Millis)
	c.str(&f.Gone)
	c.bool(&f.HeadSent)
	u16(c, &f.Code)
	c.str(&f.Reason)
	c.header(&f.Header)
	c.bytes(&f.Body)
	strs(c, &f.Expose)
	c.str(&f.Method)
	c.str(&f.URI)
	c.str(&f.Peer)
	c.str(&f.Route)
	c.bool(&f.RouteNamed)
	c.str(&f.Prefix)
	c.str(&f.SigIss)
	c.str(&f.SigKey)
	c.bool(&f.Debug)
	c.bool(&f.CORS)
	c.str(&f.JSONP)
	u8(c, &f.JSONPMode)
	c.bool(&f.Retry)
	u8(c, &f.Minor)
	c.header(&f.Request)
	u8(c, &f.Policy)
	c.header(&f.UserMeta)
	c.str(&f.Base)
	lastIDs(c, &f.Last)
	c.bool(&f.TLS)
	c.str(&f.Events)
	c.uint(&f.Opened)
}

// Type implements Frame.
func (*Accepted) Type() Type { return TypeAccepted }

func (f *Accepted) fields(c coder) {
	xid(c, &f.X)
	c.bool(&f.OK)
	c.str(&f.Code)
	c.str(&f.Text)
}

// Type implements Frame.
func (*Hold) Type() Type { return TypeHold }

func (f *Hold) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u8(c, &f.Mode)
	u32(c, &f.Millis)
	keepAlive(c, &f.KeepAlive)
	strs(c, &f.Groups)
	c.bool(&f.HeadSent)
	u16(c, &f.Code)
	c.str(&f.Reason)
	c.header(&f.Header)
	c.bytes(&f.Body)
	c.bool(&f.More)
	c.bytes(&f.Record)
	u8(c, &f.Policy)
	c.str(&f.JSONP)
	u8(c, &f.JSONPMode)
	c.bool(&f.Tell)
}

// Type implements Frame.
func (*Update) Type() Type { return TypeUpdate }

func (f *Update) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	strs(c, &f.Groups)
	keepAlive(c, &f.KeepAlive)
	c.bytes(&f.Record)
	c.bytes(&f.Body)
	c.uint(&f.Pub)
}

// Type implements Frame.
func (*Finish) Type() Type { return TypeFinish }

func (f *Finish) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u16(c, &f.Code)
	c.str(&f.Reason)
	c.header(&f.Header)
	c.bytes(&f.Body)
	c.bool(&f.Abort)
}

// Type implements Frame.
func (*Retry) Type() Type { return TypeRetry }

func (f *Retry) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	c.str(&f.Route)
	lastIDs(c, &f.Last)
}

// Type implements Frame.
func (*Deliver) Type() Type { return TypeDeliver }

func (f *Deliver) fields(c coder) {
	c.uint(&f.Pub)
	u8(c, &f.Mode)
	u8(c, &f.Action)
	c.str(&f.Group)
	uints(c, &f.Only)
	uints(c, &f.Except)
	u16(c, &f.Code)
	c.str(&f.Reason)
	c.header(&f.Header)
	c.bytes(&f.Body)
	u8(c, &f.Kind)
	c.str(&f.ItemID)
	strs(c, &f.Expose)
	c.str(&f.Channel)
}

// Type implements Frame.
func (*Report) Type() Type { return TypeReport }

func (f *Report) fields(c coder) {
	list(c, &f.Outcomes, func(e *Outcome) {
		c.beginGroup()
		c.uint(&e.Pub)
		u8(c, &e.Mode)
		u32(c, &e.Delivered)
		list(c, &e.Dropped, func(d *Drop) {
			c.beginGroup()
			u8(c, &d.Reason)
			u32(c, &d.N)
			c.end()
		})
		c.end()
	})
	uints(c, &f.Alive)
}

// Type implements Frame.
func (*Closed) Type() Type { return TypeClosed }

func (f *Closed) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u8(c, &f.Reason)
	c.uint(&f.Sent)
}

// Type implements Frame.
func (*Records) Type() Type { return TypeRecords }

func (f *Records) fields(c coder) {
	list(c, &f.Holds, func(e *Held) {
		c.beginGroup()
		c.uint(&e.ID)
		c.uint(&e.SendSeq)
		c.uint(&e.RecvSeq)
		c.bytes(&e.Record)
		lastIDs(c, &e.Last)
		u8(c, &e.Ended)
		c.end()
	})
	c.bool(&f.Done)
}

// Type implements Frame.
func (*Fetch) Type() Type { return TypeFetch }

func (f *Fetch) fields(c coder) {
	c.uint(&f.Token)
	c.str(&f.Method)
	c.str(&f.URI)
	c.header(&f.Header)
	c.bytes(&f.Body)
	u32(c, &f.MaxBody)
	u32(c, &f.Millis)
	c.bool(&f.Trusted)
	u8(c, &f.Redirects)
	c.str(&f.ConnectHost)
	c.str(&f.Route)
	c.str(&f.Base)
}

// Type implements Frame.
func (*Fetched) Type() Type { return TypeFetched }

func (f *Fetched) fields(c coder) {
	c.uint(&f.Token)
	u16(c, &f.Code)
	c.str(&f.Reason)
	c.header(&f.Header)
	c.bytes(&f.Body)
	c.str(&f.Condition)
	c.str(&f.Text)
}

// Type implements Frame.
func (*Message) Type() Type { return TypeMessage }

func (f *Message) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u8(c, &f.Kind)
	c.bytes(&f.Data)
	c.bool(&f.More)
	u16(c, &f.Code)
}

// Type implements Frame.
func (*Session) Type() Type { return TypeSession }

func (f *Session) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	c.bytes(&f.Record)
	c.uint(&f.Acked)
}

// Type implements Frame.
func (*Control) Type() Type { return TypeControl }

func (f *Control) fields(c coder) {
	xid(c, &f.X)
	u8(c, &f.Op)
	c.str(&f.Channel)
	c.str(&f.Text)
	c.bytes(&f.Data)
	c.header(&f.Fields)
	strs(c, &f.List)
	c.uint(&f.N)
	u8(c, &f.Kind)
}

// Type implements Frame.
func (*Tune) Type() Type { return TypeTune }

func (f *Tune) fields(c coder) {
	c.uint(&f.ID)
	c.uint(&f.Seq)
	u8(c, &f.Op)
	c.bytes(&f.Data)
	u8(c, &f.Kind)
	u32(c, &f.Millis)
	c.bool(&f.Interval)
}

// Type implements Frame.
func (*Stats) Type() Type { return TypeStats }

func (f *Stats) fields(c coder) {
	list(c, &f.Routes, func(e *RouteStats) {
		c.beginGroup()
		c.str(&e.Route)
		u32(c, &e.Requests)
		u32(c, &e.Activity)
		u32(c, &e.Open)
		u32(c, &e.Most)
		u32(c, &e.Minutes)
		traffic(c, &e.Client)
		traffic(c, &e.Server)
		c.end()
	})
	list(c, &f.Conns, func(e *ConnStat) {
		c.beginGroup()
		c.str(&e.ID)
		c.str(&e.Route)
		c.str(&e.Peer)
		c.bool(&e.WebSocket)
		c.bool(&e.TLS)
		c.bool(&e.Gone)
		c.end()
	})
}

func traffic(c coder, t *Traffic) {
	c.uint(&t.HeaderIn)
	c.uint(&t.HeaderOut)
	c.uint(&t.ContentIn)
	c.uint(&t.ContentOut)
	c.uint(&t.MessagesIn)
	c.uint(&t.MessagesOut)
}

// Type implements Frame.
func (*Watch) Type() Type { return TypeWatch }

func (f *Watch) fields(c coder) { c.bool(&f.Conns) }

// Type implements Frame.
func (*Check) Type() Type { return TypeCheck }

func (f *Check) fields(c coder) {
	c.uint(&f.Token)
	strs(c, &f.IDs)
	c.bool(&f.Refresh)
}

// Type implements Frame.
func (*Checked) Type() Type { return TypeChecked }

func (f *Checked) fields(c coder) {
	c.uint(&f.Token)
	list(c, &f.Found, func(e *FoundConn) {
		c.beginGroup()
		c.str(&e.ID)
		xid(c, &e.X)
		c.end()
	})
}

// Type implements Frame.
func (*Hooks) Type() Type { return TypeHooks }

func (f *Hooks) fields(c coder) {
	c.str(&f.Store)
	c.uint(&f.Version)
	strs(c, &f.Patterns)
	c.bool(&f.Events)
	c.bool(&f.More)
}

// Type implements Frame.
func (*Enqueue) Type() Type { return TypeEnqueue }

func (f *Enqueue) fields(c coder) {
	c.uint(&f.Token)
	c.str(&f.Store)
	list(c, &f.Messages, func(e *HookMessage) {
		c.beginGroup()
		c.str(&e.ID)
		c.str(&e.Kind)
		c.str(&e.Channel)
		c.str(&e.Endpoint)
		c.uint(&e.Millis)
		c.str(&e.Method)
		c.header(&e.Header)
		c.bytes(&e.Body)
		c.end()
	})
}

// Type implements Frame.
func (*Enqueued) Type() Type { return TypeEnqueued }

func (f *Enqueued) fields(c coder) {
	c.uint(&f.Token)
	c.str(&f.Condition)
	c.str(&f.Text)
}

// Type implements Frame.
func (*HookCall) Type() Type { return TypeHookCall }

func (f *HookCall) fields(c coder) {
	c.uint(&f.Token)
	c.str(&f.Method)
	c.str(&f.Path)
	c.str(&f.Query)
	c.bytes(&f.Body)
}

// Type implements Frame.
func (*HookAnswer) Type() Type { return TypeHookAnswer }

func (f *HookAnswer) fields(c coder) {
	c.uint(&f.Token)
	u16(c, &f.Code)
	c.bytes(&f.Body)
}
