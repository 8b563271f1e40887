package wire

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// WebSocket opcodes, RFC 6455 section 5.2.
const (
	OpContinuation = 0
	OpText         = 1
	OpBinary       = 2
	OpClose        = 8
	OpPing         = 9
	OpPong         = 10
)

const maxFrame = 16 << 20

// AppendFrame appends one final WebSocket frame. A client's frame is masked; the
// mask is fixed, since it protects nobody here and its work is the same.
func AppendFrame(dst []byte, opcode byte, payload []byte, masked bool) []byte {
	dst = append(dst, 0x80|opcode)
	var bit byte
	if masked {
		bit = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, bit|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, bit|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, bit|127), uint64(n))
	}
	if !masked {
		return append(dst, payload...)
	}
	mask := [4]byte{0x5a, 0x17, 0xc3, 0x8e}
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}

// ReadFrame reads one frame from the front of p, unmasking it in place. It
// returns how many bytes it took; 0 if the frame is not complete yet.
func ReadFrame(p []byte) (opcode byte, payload []byte, n int, err error) {
	if len(p) < 2 {
		return 0, nil, 0, nil
	}
	at, size := 2, uint64(p[1]&0x7f)
	switch size {
	case 126:
		if len(p) < 4 {
			return 0, nil, 0, nil
		}
		at, size = 4, uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		if len(p) < 10 {
			return 0, nil, 0, nil
		}
		at, size = 10, binary.BigEndian.Uint64(p[2:])
	}
	if size > maxFrame {
		return 0, nil, 0, errors.New("websocket frame too large")
	}
	var mask []byte
	if p[1]&0x80 != 0 {
		if len(p) < at+4 {
			return 0, nil, 0, nil
		}
		mask = p[at : at+4]
		at += 4
	}
	end := at + int(size)
	if len(p) < end {
		return 0, nil, 0, nil
	}
	payload = p[at:end]
	if mask != nil {
		for i := range payload {
			payload[i] ^= mask[i&3]
		}
	}
	return p[0] & 15, payload, end, nil
}

// AcceptKey is the answer to a Sec-WebSocket-Key.
func AcceptKey(key []byte) string {
	sum := sha1.Sum(append(append([]byte(nil), key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return base64.StdEncoding.EncodeToString(sum[:])
}
