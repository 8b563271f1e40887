package bus

import (
	"bytes"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// broadcastMsg is the second part of a message on PUB, after the topic: a
// msgpack array with the version and these fields in this order.
type broadcastMsg struct {
	from    string
	boot    uint64
	seq     uint64 // one more for each message of this PUB, so that gaps are seen
	payload []byte
}

const broadcastFields = 5

func encodeBroadcast(from string, boot, seq uint64, payload []byte) []byte {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	// A bytes.Buffer has no errors, so the encoder has none.
	_ = enc.EncodeArrayLen(broadcastFields)
	_ = enc.EncodeUint(envelopeVersion)
	_ = enc.EncodeString(from)
	_ = enc.EncodeUint(boot)
	_ = enc.EncodeUint(seq)
	_ = enc.EncodeBytesLen(len(payload))
	buf.Write(payload)
	return buf.Bytes()
}

// broadcast reads such a part. The payload is a part of b.
func (d *decoder) broadcast(b []byte) (broadcastMsg, error) {
	d.begin(b)
	defer d.end()
	var v broadcastMsg
	d.head(broadcastFields)
	v.from = d.str(maxName)
	v.boot = d.uint()
	v.seq = d.uint()
	v.payload = d.bytes(len(b))
	if d.err != nil {
		return broadcastMsg{}, fmt.Errorf("%w: %w", errMalformed, d.err)
	}
	return v, nil
}
