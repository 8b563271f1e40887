package zurl

import (
	"encoding/binary"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/outbound"
	"github.com/holdfast/holdfast/pkg/zhttp"
)

func isWebSocket(uri string) bool {
	scheme, _, _ := strings.Cut(uri, ":")
	return strings.EqualFold(scheme, "ws") || strings.EqualFold(scheme, "wss")
}

// runWebSocket joins the client with a WebSocket server, frame by frame.
func (s *session) runWebSocket(r *outbound.Request) {
	if err := s.f.s.client.Check(r); err != nil {
		s.failWith(err)
		return
	}
	ws, err := s.f.s.client.WebSocket(s.ctx, r, s.f.s.o.BufferSize)
	if err != nil {
		s.failWith(err)
		return
	}
	s.atEnd(func() { _ = ws.Close() }) // ends the reader and the writer
	s.deliver(&zhttp.Response{
		Head:    &zhttp.Head{Code: ws.Code, Reason: ws.Reason, Header: ws.Header},
		Credits: int64(s.f.s.o.BufferSize), Multi: s.multi,
	})
	var writer sync.WaitGroup
	writer.Go(func() { s.toServer(ws) })
	s.fromServer(ws)
	writer.Wait()
}

// toServer writes what the client sends, up to its close frame.
func (s *session) toServer(ws *outbound.WebSocket) {
	inside := false // of a fragmented message
	for {
		p, ok := s.next()
		if !ok {
			return
		}
		f := outbound.Frame{Fin: true, Data: p.data}
		switch p.kind {
		case zhttp.Ping:
			f.Opcode = outbound.Ping
		case zhttp.Pong:
			f.Opcode = outbound.Pong
		case zhttp.Close:
			f.Opcode, f.Data = outbound.Close, closePayload(p.code, p.data)
		default:
			f.Fin = !p.more
			switch {
			case inside:
				f.Opcode = outbound.Continuation
			case p.binary:
				f.Opcode = outbound.Binary
			default:
				f.Opcode = outbound.Text
			}
			inside = p.more
		}
		if f.Opcode >= outbound.Close && len(f.Data) > 125 {
			s.fail(badRequest)
			return
		}
		if err := ws.WriteFrame(f); err != nil {
			s.lostServer(err)
			return
		}
		if p.kind == zhttp.Close {
			s.closed(&s.clientClosed, nil)
			return
		}
		s.mu.Lock()
		s.lastActive = s.f.now()
		s.grant(len(p.data))
		s.mu.Unlock()
	}
}

// fromServer sends the client what the server sends, up to its close frame.
func (s *session) fromServer(ws *outbound.WebSocket) {
	binaryMessage := false
	for {
		f, err := ws.ReadFrame()
		if err != nil {
			s.lostServer(err)
			return
		}
		r := &zhttp.Response{Body: f.Data}
		switch f.Opcode {
		case outbound.Close:
			r.Type, r.Body = zhttp.Close, nil
			if len(f.Data) >= 2 {
				r.Code, r.Body = int(binary.BigEndian.Uint16(f.Data)), f.Data[2:]
			}
			s.closed(&s.serverClosed, r)
			return
		case outbound.Ping:
			r.Type = zhttp.Ping
		case outbound.Pong:
			r.Type = zhttp.Pong
		default:
			if f.Opcode != outbound.Continuation {
				binaryMessage = f.Opcode == outbound.Binary
			}
			r.Binary, r.More = binaryMessage, !f.Fin
			if n := int64(len(f.Data)); n > 0 && s.await(n) == 0 {
				return // over
			}
		}
		if r.Type == zhttp.Data {
			s.deliver(r)
			continue
		}
		s.active()
		s.send(r) // pings and pongs cost no credits
	}
}

// closed notes that one side has closed, and tells the client if it was the
// server. When both have, the session is over; the second has closeWait for it.
func (s *session) closed(side *bool, r *zhttp.Response) {
	s.mu.Lock()
	*side = true
	both := s.clientClosed && s.serverClosed
	if r != nil && !both && !s.over {
		s.sendLocked(r)
	}
	s.mu.Unlock()
	if both {
		s.end(r, resultClosed)
		return
	}
	t := time.AfterFunc(closeWait, func() { s.fail(outbound.SessionTimeout) })
	s.atEnd(func() { t.Stop() })
}

// lostServer ends the session when the connection breaks. A server that was
// told to close may do so without a frame of its own.
func (s *session) lostServer(err error) {
	s.mu.Lock()
	asked, told := s.clientClosed, s.serverClosed
	s.mu.Unlock()
	switch {
	case asked:
		s.end(&zhttp.Response{Type: zhttp.Close}, resultClosed)
	case told:
		s.end(nil, resultClosed) // the client's answer cannot be delivered, and need not be
	default:
		s.failWith(err)
	}
}

// closePayload returns the content of a close frame. What must not be sent
// (RFC 6455, section 7.4.1) becomes no status.
func closePayload(code int, reason []byte) []byte {
	switch {
	case code < 1000, code > 4999, code == 1004, code == 1005, code == 1006, code == 1015:
		return nil
	}
	reason = reason[:min(len(reason), 123)]
	for len(reason) > 0 && !utf8.Valid(reason) {
		reason = reason[:len(reason)-1]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...) //nolint:gosec // up to 4999
}
