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

// parseMessage reads what appendMessage wrote. The result shares nothing with b.
func parseMessage(b []byte) (*Message, error) {
	if len(b) == 0 || b[0] != messageVersion {
		return nil, errRecord
	}
	b = b[1:]
	bad := false
	number := func() uint64 {
		n, used := binary.Uvarint(b)
		if used <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[used:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(b)) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	at, used := binary.Varint(b)
	if used <= 0 {
		return nil, errRecord
	}
	b = b[used:]
	m := &Message{At: time.UnixMilli(at), ID: text(), Kind: text(), Channel: text(), Method: text()}
	n := number()
	if n > uint64(len(b)) { // each field has two bytes at least
		return nil, errRecord
	}
	for range n {
		m.Header = append(m.Header, frame.Field{Name: text(), Value: text()})
		if bad {
			return nil, errRecord
		}
	}
	m.Body = []byte(text())
	if bad || len(b) > 0 {
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
