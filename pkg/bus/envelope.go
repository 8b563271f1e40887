package bus

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// envelopeVersion is the version of the link protocol. Fields may be added at
// the end without a new one.
const envelopeVersion = 1

// Limits of an envelope, checked before anything is allocated.
const (
	maxName        = 64
	maxEndpoint    = 256
	maxBatchFrames = 8192      // frames in one message
	batchBytes     = 256 << 10 // bytes of frames in one message, unless one frame alone has more
	envelopeRoom   = 1 << 10   // what an envelope may take beside its frames' bytes and heads
	frameHead      = 5         // the longest msgpack head of a frame
)

// kind says what an envelope is for.
type kind uint8

const (
	// kindHello is sent when a connection is made, and about once a second until
	// both sides know each other's boot and epoch. It tells where we can be
	// reached.
	kindHello kind = 1
	// kindData carries frames.
	kindData kind = 2
	// kindAck only acknowledges.
	kindAck kind = 3
	// kindBye is the last message of an instance that stops in order.
	kindBye kind = 4
)

// envelope is one message of a link: a msgpack array with the fields in this
// order.
type envelope struct {
	Kind kind   // element 1; element 0 is the version
	From string // name of the sender
	// A session of a link is named by boot and epoch of both ends. An instance
	// counts its epochs up; it takes a new one whenever it has given up a peer.
	FromBoot, FromEpoch uint64
	ToBoot, ToEpoch     uint64   // what the sender knows of the receiver; 0 if nothing
	Seq                 uint64   // number of Frames[0] in the session
	Ack                 uint64   // number of the frame expected next: all before it are acknowledged
	Frames              [][]byte // parts of the message when decoded
	Up                  bool     // hello: the sender regards this session as up
	Inbox, Pub          string   // hello: the sender's endpoints
	Started             uint64   // when the sender's boot began, to tell which of two is over
}

const envelopeFields = 14

// errMalformed is wrapped by every error of decodeEnvelope.
var errMalformed = errors.New("malformed envelope")

// encoder writes envelopes, one after the other, into the same buffer.
type encoder struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

func newEncoder() *encoder {
	e := new(encoder)
	e.enc = msgpack.NewEncoder(&e.buf)
	return e
}

// encode returns the encoded form, which is valid until the next call.
func (e *encoder) encode(v *envelope) []byte {
	e.buf.Reset()
	// A bytes.Buffer has no errors, so the encoder has none.
	_ = e.enc.EncodeArrayLen(envelopeFields)
	_ = e.enc.EncodeUint(envelopeVersion)
	_ = e.enc.EncodeUint(uint64(v.Kind))
	_ = e.enc.EncodeString(v.From)
	for _, n := range [...]uint64{v.FromBoot, v.FromEpoch, v.ToBoot, v.ToEpoch, v.Seq, v.Ack} {
		_ = e.enc.EncodeUint(n)
	}
	_ = e.enc.EncodeArrayLen(len(v.Frames))
	for _, f := range v.Frames {
		_ = e.enc.EncodeBytesLen(len(f))
		e.buf.Write(f)
	}
	_ = e.enc.EncodeBool(v.Up)
	_ = e.enc.EncodeString(v.Inbox)
	_ = e.enc.EncodeString(v.Pub)
	_ = e.enc.EncodeUint(v.Started)
	return e.buf.Bytes()
}

// shrink lets go of a buffer that one large frame made large.
func (e *encoder) shrink() {
	if e.buf.Cap() > 2*batchBytes {
		e.buf = bytes.Buffer{}
	}
}

// decoder reads envelopes. Its msgpack decoder is used again for each.
type decoder struct {
	src bytes.Reader
	dec *msgpack.Decoder
	b   []byte
	err error
}

func newDecoder() *decoder {
	d := new(decoder)
	d.dec = msgpack.NewDecoder(&d.src)
	return d
}

// decode reads the envelope in b. Its frames are parts of b.
func (d *decoder) decode(b []byte) (envelope, error) {
	d.begin(b)
	defer d.end()
	var v envelope
	d.head(envelopeFields)
	if k := d.uint(); d.err == nil && (k < uint64(kindHello) || k > uint64(kindBye)) {
		d.fail(fmt.Errorf("unknown kind %d", k))
	} else {
		v.Kind = kind(k) //nolint:gosec // checked
	}
	v.From = d.str(maxName)
	for _, p := range [...]*uint64{&v.FromBoot, &v.FromEpoch, &v.ToBoot, &v.ToEpoch, &v.Seq, &v.Ack} {
		*p = d.uint()
	}
	n := d.arrayLen()
	if d.err == nil && (n > maxBatchFrames || n > d.src.Len()) {
		d.fail(fmt.Errorf("%d frames announced", n))
	}
	if d.err == nil && n > 0 {
		v.Frames = make([][]byte, n)
		for i := range v.Frames {
			v.Frames[i] = d.bytes(len(b))
		}
	}
	up, err := d.dec.DecodeBool()
	d.fail(err)
	v.Up = up
	v.Inbox, v.Pub = d.str(maxEndpoint), d.str(maxEndpoint)
	v.Started = d.uint()
	if d.err == nil && (v.FromBoot == 0 || v.FromEpoch == 0) {
		d.fail(errors.New("no boot"))
	}
	if d.err != nil {
		return envelope{}, fmt.Errorf("%w: %w", errMalformed, d.err)
	}
	return v, nil
}

func (d *decoder) begin(b []byte) {
	d.b, d.err = b, nil
	d.src.Reset(b)
	d.dec.Reset(&d.src)
}

func (d *decoder) end() {
	d.b = nil
	d.src.Reset(nil)
}

// head reads the array's head and the version. There may be more fields than we
// know.
func (d *decoder) head(fields int) {
	if n := d.arrayLen(); d.err == nil && n < fields {
		d.fail(fmt.Errorf("%d fields, want %d", n, fields))
	}
	if ver := d.uint(); d.err == nil && ver != envelopeVersion {
		d.fail(fmt.Errorf("version %d, want %d", ver, envelopeVersion))
	}
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) uint() uint64 {
	if d.err != nil {
		return 0
	}
	n, err := d.dec.DecodeUint64()
	d.fail(err)
	return n
}

func (d *decoder) arrayLen() int {
	if d.err != nil {
		return 0
	}
	n, err := d.dec.DecodeArrayLen()
	d.fail(err)
	return n
}

func (d *decoder) str(limit int) string { return string(d.bytes(limit)) }

// bytes returns the next string or bin as a part of the input.
func (d *decoder) bytes(limit int) []byte {
	if d.err != nil {
		return nil
	}
	n, err := d.dec.DecodeBytesLen()
	if err != nil {
		d.fail(err)
		return nil
	}
	if n < 0 || n > limit || n > d.src.Len() {
		d.fail(fmt.Errorf("%d bytes announced, %d allowed, %d there", n, limit, d.src.Len()))
		return nil
	}
	at := len(d.b) - d.src.Len()
	// bytes.Reader cannot fail to seek within its length.
	_, _ = d.src.Seek(int64(n), 1)
	return d.b[at : at+n : at+n]
}

// validName reports whether s can be the name of an instance: kind, dot, number.
func validName(s string) bool {
	dot := -1
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
		case c == '.' && dot < 0:
			dot = i
		default:
			return false
		}
	}
	return len(s) <= maxName && dot > 0 && dot < len(s)-1
}
