package webhook

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Message is what is delivered.
type Message struct {
	// ID is the webhook-id: the same in all attempts and at all endpoints. It has
	// no full stop, see [ValidID].
	ID string
	// Kind is one of [hook.Kinds]; Channel what patterns are compared with.
	Kind, Channel string
	// Endpoint is the only one that is to get it; "" is all that match.
	Endpoint string
	At       time.Time
	Method   string
	Header   []frame.Field
	Body     []byte
}

// ValidID reports whether a message may have the id.
func ValidID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '.' {
			return false
		}
	}
	return true
}

// size is what a message counts for the bounds.
func (m *Message) size() int {
	n := 64 + len(m.ID) + len(m.Kind) + len(m.Channel) + len(m.Method) + len(m.Body)
	for _, h := range m.Header {
		n += len(h.Name) + len(h.Value)
	}
	return n
}

var errRecord = errors.New("record is not readable")

// The form of a message in the file: a version, then each field as its length
// and its bytes. Numbers are varints. There is no need for a general format, and
// the body stays as it is.
const messageVersion = 1

func appendMessage(b []byte, m *Message) []byte {
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = append(b, messageVersion)
	b = binary.AppendVarint(b, m.At.UnixMilli())
	text(m.ID)
	text(m.Kind)
	text(m.Channel)
	text(m.Method)
	b = binary.AppendUvarint(b, uint64(len(m.Header)))
	for _, h := range m.Header {
		text(h.Name)
		text(h.Value)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Body)))
	return append(b, m.Body...)
}

// rest is what is still to be read of a message.
type rest struct {
	b   []byte
	bad bool
}

func (r *rest) number() uint64 {
	n, used := binary.Uvarint(r.b)
	if used <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[used:]
	return n
}

func (r *rest) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// parseHead reads what a message is, but not what is sent, which may be long. The
// result shares nothing with b.
func parseHead(b []byte) (*Message, rest, error) {
	if len(b) == 0 || b[0] != messageVersion {
		return nil, rest{}, errRecord
	}
	at, used := binary.Varint(b[1:])
	if used <= 0 {
		return nil, rest{}, errRecord
	}
	r := rest{b: b[1+used:]}
	m := &Message{At: time.UnixMilli(at), ID: r.text(), Kind: r.text(), Channel: r.text()}
	if r.bad {
		return nil, rest{}, errRecord
	}
	return m, r, nil
}

// parseMessage reads what appendMessage wrote. The result shares nothing with b.
func parseMessage(b []byte) (*Message, error) {
	m, r, err := parseHead(b)
	if err != nil {
		return nil, err
	}
	m.Method = r.text()
	n := r.number()
	if n > uint64(len(r.b)) { // each field has two bytes at least
		return nil, errRecord
	}
	for range n {
		m.Header = append(m.Header, frame.Field{Name: r.text(), Value: r.text()})
		if r.bad {
			return nil, errRecord
		}
	}
	m.Body = []byte(r.text())
	if r.bad || len(r.b) > 0 {
		return nil, errRecord
	}
	return m, nil
}

// entry is one message that waits for one endpoint. There may be a million.
type entry struct {
	seq      uint64 // of the message
	at       int64  // when it was queued, in ms
	next     int64  // not before this, in ms
	size     uint32
	attempts uint32 // so far
}

const entrySize = 24

// appendEntry is the value of a queue key; the key has seq.
func appendEntry(b []byte, e entry) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.at))
	b = binary.BigEndian.AppendUint64(b, uint64(e.next))
	b = binary.BigEndian.AppendUint32(b, e.size)
	return binary.BigEndian.AppendUint32(b, e.attempts)
}

func parseEntry(seq uint64, b []byte) (entry, error) {
	if len(b) != entrySize {
		return entry{}, errRecord
	}
	return entry{
		seq: seq, at: int64(binary.BigEndian.Uint64(b)), next: int64(binary.BigEndian.Uint64(b[8:])),
		size: binary.BigEndian.Uint32(b[16:]), attempts: binary.BigEndian.Uint32(b[20:]),
	}, nil
}

// key is the key of an endpoint's nth record.
func key(num uint32, n uint64) []byte {
	b := make([]byte, 0, 12)
	b = binary.BigEndian.AppendUint32(b, num)
	return binary.BigEndian.AppendUint64(b, n)
}

func parseKey(b []byte) (num uint32, n uint64, ok bool) {
	if len(b) != 12 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), true
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
