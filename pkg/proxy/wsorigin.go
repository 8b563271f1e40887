package proxy

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/route"
	"github.com/holdfast/holdfast/pkg/wsconn"
	"github.com/holdfast/holdfast/pkg/wsevents"
)

// closeWait is how long the other side has to answer a close frame.
const closeWait = 10 * time.Second

// passThrough joins the client with a WebSocket origin. A nil error with no
// answer sent does not happen.
func (s *socket) passThrough(t *route.Target) error {
	ws, err := s.dial(t)
	if ws == nil {
		return err
	}
	defer ws.Close() //nolint:errcheck // the connection is over, one way or the other
	up := &upstream{socket: s, ws: ws, done: make(chan struct{})}
	return up.run()
}

// dial makes the handshake with an origin and answers the client with what came
// of it. It returns nil if that was not a connection.
func (s *socket) dial(t *route.Target) (*websocket.Conn, error) {
	host := s.o.host
	if t.URIHost != "" {
		host = t.URIHost
	}
	name, host := splitHost(host, t.TLS)
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	h := setHost(http1.Del(slices.Clone(s.o.header), "Sec-WebSocket-Key", "Sec-WebSocket-Version"), host)
	h = append(h,
		frame.Field{Name: "Upgrade", Value: "websocket"}, frame.Field{Name: "Connection", Value: "Upgrade"},
		frame.Field{Name: "Sec-WebSocket-Version", Value: "13"}, frame.Field{Name: "Sec-WebSocket-Key", Value: key})
	start := s.s.opts.Now()
	resp, err := s.s.do(s.ctx, s.conn.route, target(t, name), &origin.Request{Method: "GET", URI: s.o.path, Header: h})
	s.s.metrics.attempt(t.Name, s.s.opts.Now().Sub(start), err)
	if err != nil {
		return nil, err
	}
	if resp.Head.Code != 101 {
		return nil, s.refused(&response{code: resp.Head.Code, reason: resp.Head.Reason, header: resp.Head.Header, length: resp.Head.BodyLen, body: resp})
	}
	if got, _ := http1.Get(resp.Head.Header, "Sec-WebSocket-Accept"); got != wsconn.AcceptKey(key) {
		_ = resp.Close()
		return nil, errors.New("origin's Sec-WebSocket-Accept is wrong")
	}
	nc, br, err := resp.Hijack()
	if err != nil {
		return nil, err
	}
	ws, err := wsconn.Client(nc, br, 4096)
	if err == nil {
		err = s.accept(resp.Head.Header)
	}
	if err != nil {
		_ = nc.Close()
		if errors.Is(err, errRefused) && s.ctx.Err() == nil {
			err = nil
		}
		return nil, err
	}
	return ws, nil
}

// upstream is a connection to a WebSocket origin. One goroutine reads from it,
// the exchange's own writes to it.
type upstream struct {
	*socket
	ws   *websocket.Conn
	done chan struct{} // closed when the reader has ended

	err      error // why the reader ended; after done
	detached bool
}

func (u *upstream) run() error {
	go func() {
		defer close(u.done)
		u.err = u.read()
	}()
	// A write to an origin that does not read sees nothing of the exchange's end.
	stop := context.AfterFunc(u.ctx, func() { _ = u.ws.Close() })
	defer stop()
	err := u.write()
	_ = u.ws.Close() // ends the reader
	u.end(err)       // and so does this, if it waits for credit
	<-u.done
	return err
}

// read passes on what the origin sends, until it has closed.
func (u *upstream) read() error {
	u.ws.SetPingHandler(func(data string) error { return u.controlFrame(frame.MessagePing, []byte(data)) })
	u.ws.SetPongHandler(func(data string) error { return u.controlFrame(frame.MessagePong, []byte(data)) })
	u.ws.SetCloseHandler(func(int, string) error { return nil }) // the answer is the client's to give
	buf := buffers.Get().(*[frame.MaxBodyPart]byte)
	defer buffers.Put(buf)
	for {
		kind, r, err := u.ws.NextReader()
		if err == nil {
			err = u.relayMessage(uint8(kind), r, buf[:])
		}
		var closed *websocket.CloseError
		switch {
		case err == nil:
			continue
		case errors.As(err, &closed) && closed.Code == websocket.CloseNoStatusReceived:
			return u.closeClient(0, "")
		case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
			return u.closeClient(uint16(closed.Code), closed.Text)
		case errors.Is(err, errDetached):
			u.detached = true
			return nil
		case errors.Is(err, errNotUTF8):
			_ = u.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseInvalidFramePayloadData, ""), time.Now().Add(closeWait))
		}
		return originBroke(err)
	}
}

// relayMessage passes on one message, part by part. What GRIP makes of it is
// decided by its beginning and holds for all of it.
func (u *upstream) relayMessage(kind uint8, r io.Reader, buf []byte) error {
	var tail []byte // see wsevents.CheckUTF8
	read := func() (n int, end bool, err error) {
		n, err = io.ReadFull(r, buf)
		u.conn.route.server.contentIn.Add(uint64(n))
		end = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !end {
			return n, end, err
		}
		if kind == frame.MessageText {
			ok := false
			if tail, ok = wsevents.CheckUTF8(tail, buf[:n], end); !ok {
				return n, end, errNotUTF8
			}
		}
		return n, end, nil
	}
	u.conn.route.server.messagesIn.Add(1)
	n, end, err := read()
	if err != nil {
		return err
	}
	v, part := u.judge(kind, buf[:n])
	if v == forUs {
		whole := slices.Clone(part)
		if !end {
			rest, err := io.ReadAll(io.LimitReader(r, maxControlMessage))
			if err != nil {
				return err
			}
			whole = append(whole, rest...)
		}
		if err := u.control(whole); err != nil {
			return err
		}
		v = forNobody
	}
	if v == forNobody {
		if !end {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		return nil
	}
	for {
		if err := u.toClient(kind, part, !end); err != nil || end {
			return err
		}
		if n, end, err = read(); err != nil {
			return err
		}
		part = buf[:n]
	}
}

var errNotUTF8 = errors.New("text message is not UTF-8")

// maxControlMessage is more than a control message may have, so that one that is
// too large is seen to be.
const maxControlMessage = 128 << 10

// write passes on what the client sends, until both sides have closed.
func (u *upstream) write() error {
	var w io.WriteCloser
	var uncredited uint64
	closed := false // the client has
	var wait <-chan time.Time
	done := u.done
	for {
		f, err := u.body.parts.Take()
		if f == nil {
			select {
			case <-u.body.parts.Ready():
				continue
			case <-done:
				switch {
				case u.detached:
					_ = u.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(closeWait))
					return nil
				case u.err != nil:
					return u.err
				case closed:
					return nil
				}
				done, wait = nil, u.s.opts.After(closeWait) // the client has to answer
				continue
			case <-wait:
				return nil
			case <-u.ctx.Done():
				return context.Cause(u.ctx)
			}
		}
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *frame.Tune: // a publication closed the client
			_ = u.ws.WriteControl(websocket.CloseMessage, nil, time.Now().Add(closeWait))
			return nil
		case *frame.Message:
			_ = u.ws.SetWriteDeadline(time.Time{})
			if f.Kind == frame.MessageClose {
				if closed {
					continue
				}
				closed = true
				_ = u.ws.WriteControl(websocket.CloseMessage, closePayload(f.Code, f.Data), time.Now().Add(closeWait))
				if done == nil { // the origin closed first
					return nil
				}
				// The origin may still send, and is to answer.
				_ = u.ws.SetReadDeadline(time.Now().Add(closeWait))
				continue
			}
			if closed {
				continue
			}
			if err := u.toOrigin(&w, f); err != nil {
				if done == nil {
					continue // it has closed; only the client's answer matters
				}
				return originBroke(err)
			}
			if uncredited += uint64(f.Cost()); uncredited >= frame.InitialWindow/4 {
				if err := u.send(&frame.Credit{ID: u.x.ID, N: uncredited}); err != nil {
					return err
				}
				uncredited = 0
			}
		}
	}
}

// toOrigin writes a part of a message, or a control frame.
func (u *upstream) toOrigin(w *io.WriteCloser, f *frame.Message) error {
	out := &u.conn.route.server
	out.contentOut.Add(uint64(len(f.Data)))
	if !f.More {
		out.messagesOut.Add(1)
	}
	if f.Kind == frame.MessagePing || f.Kind == frame.MessagePong {
		return u.ws.WriteControl(int(f.Kind), f.Data, time.Now().Add(closeWait))
	}
	if *w == nil {
		if !f.More { // the whole message at once
			return u.ws.WriteMessage(int(f.Kind), f.Data)
		}
		var err error
		if *w, err = u.ws.NextWriter(int(f.Kind)); err != nil {
			return err
		}
	}
	if _, err := (*w).Write(f.Data); err != nil {
		return err
	}
	if f.More {
		return nil
	}
	err := (*w).Close()
	*w = nil
	return err
}

// closePayload returns the content of a close frame. What must not be sent
// (RFC 6455, section 7.4.1) becomes no status.
func closePayload(code uint16, reason []byte) []byte {
	if code < 1000 || code == websocket.CloseNoStatusReceived || code == websocket.CloseAbnormalClosure || code == websocket.CloseTLSHandshake {
		return nil
	}
	reason = reason[:min(len(reason), 123)]
	for !utf8.Valid(reason) {
		reason = reason[:len(reason)-1]
	}
	return websocket.FormatCloseMessage(int(code), string(reason))
}
