package main

import (
	"fmt"
	"strings"
	"time"
)

// wsOrigin is an origin whose WebSockets the case plays itself.
type wsOrigin struct {
	t     *T
	conns chan *wsConn
}

// switching is the 101 for a request.
func switching(r *Request, header ...string) string {
	return head("101 Switching Protocols", strings.Join(append([]string{
		"Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Accept: " + wsAccept(r.Get("Sec-WebSocket-Key")),
	}, header...), "\n")) + "\r\n"
}

// WSOrigin has the origin accept WebSockets, with these lines in the answer.
func (t *T) WSOrigin(header ...string) *wsOrigin {
	o := &wsOrigin{t: t, conns: make(chan *wsConn, 16)}
	t.Origin(func(x *Exchange) {
		x.over = true
		x.Send(switching(x.Request, header...))
		select {
		case o.conns <- &wsConn{t: t, conn: x.conn, br: x.br, server: true, req: x.Request}:
		case <-t.ctx.Done():
		}
		<-t.ctx.Done() // the connection is the case's until it ends
	})
	return o
}

// Next waits for the next WebSocket of the origin.
func (o *wsOrigin) Next() *wsConn {
	timer := time.NewTimer(time.Until(o.t.deadline()))
	defer timer.Stop()
	select {
	case c := <-o.conns:
		return c
	case <-timer.C:
		o.t.Fatalf("no WebSocket reached the origin")
		return nil
	}
}

// heldOrigin has the origin leave each request to the case.
func (t *T) heldOrigin() <-chan *Exchange {
	held := make(chan *Exchange, 1)
	t.Origin(func(x *Exchange) {
		held <- x
		<-t.ctx.Done()
		x.over = true
	})
	return held
}

// wsPair connects a client to the origin of the case, which answers with the
// extension; "" is none.
func (t *T) wsPair(extension string, header ...string) (client, origin *wsConn) {
	var lines []string
	if extension != "" {
		lines = append(lines, "Sec-WebSocket-Extensions: "+extension)
	}
	o := t.WSOrigin(lines...)
	client = t.WebSocket("/", header...)
	return client, o.Next()
}

// WSEcho has the origin accept WebSockets and send back what it gets: the
// messages whole, a ping as a pong, a Close as it is.
func (t *T) WSEcho(header ...string) {
	t.Origin(func(x *Exchange) {
		x.over = true
		x.Send(switching(x.Request, header...))
		c := &wsConn{t: t, conn: x.conn, br: x.br, server: true, lax: true}
		for {
			m, err := c.message()
			switch {
			case err != nil:
				return // the case sees on its side what came of it
			case m.op == opPong:
				continue
			case m.op == opPing:
				m.op = opPong
			}
			c.Send(m)
			if m.op == opClose {
				return
			}
		}
	})
}

// control sends a control message and does not wait for what comes of it.
func (c *wsConn) control(members string) { c.Send(wsText("c:{" + members + "}")) }

// subscribe has the proxy subscribe the client to a channel.
func (c *wsConn) subscribe(channel string, members ...string) {
	c.control(subscription(channel, members...))
	c.t.Subscribed(channel)
}

// subscription is a control message without its braces.
func subscription(channel string, members ...string) string {
	return strings.Join(append([]string{`"type":"subscribe","channel":` + quote(channel)}, members...), ",")
}

// settle sees to it that the control messages up to here were obeyed: one more
// makes the proxy send something to the client.
func settle(client, origin *wsConn) {
	origin.control(`"type":"send-delayed","content":"settled","timeout":60`)
	origin.control(`"type":"flush-delayed"`)
	client.Expect(wsText("settled"))
}

// wohOrigin is an origin that speaks WebSocket-over-HTTP. The case answers each
// request.
type wohOrigin struct {
	t    *T
	reqs chan *wohRequest
}

// wohRequest is one request with events. It waits for its answer.
type wohRequest struct {
	*Exchange
	done chan struct{}
}

// OverHTTP has the origin pass every request to the case.
func (t *T) OverHTTP() *wohOrigin {
	w := &wohOrigin{t: t, reqs: make(chan *wohRequest, 100)}
	t.Origin(w.handle)
	return w
}

func (w *wohOrigin) handle(x *Exchange) {
	r := &wohRequest{Exchange: x, done: make(chan struct{})}
	select {
	case w.reqs <- r:
	case <-w.t.ctx.Done():
		return
	}
	select {
	case <-r.done:
	case <-w.t.ctx.Done():
		x.over = true
	}
}

// Next waits for the next request.
func (w *wohOrigin) Next() *wohRequest {
	timer := time.NewTimer(time.Until(w.t.deadline()))
	defer timer.Stop()
	select {
	case r := <-w.reqs:
		return r
	case <-timer.C:
		w.t.Fatalf("no further request reached the origin")
		return nil
	}
}

// Expect waits for the next request and compares its events.
func (w *wohOrigin) Expect(events string) *wohRequest {
	r := w.Next()
	w.t.Equal("events", r.Body, events)
	return r
}

// Quiet expects that no request comes for so long. It is for what must not
// happen and can be known in no other way.
func (w *wohOrigin) Quiet(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case r := <-w.reqs:
		w.t.Fatalf("a request with the events %q reached the origin", r.Body)
	case <-timer.C:
	}
}

const eventsType = "Content-Type: application/websocket-events"

// Answer answers with events.
func (r *wohRequest) Answer(events string, header ...string) {
	r.Raw(reply("200 OK", strings.Join(append([]string{eventsType}, header...), "\n"), events))
}

// Raw answers with raw bytes.
func (r *wohRequest) Raw(raw string) {
	r.Send(raw)
	close(r.done)
}

// Cut closes the connection instead of an answer.
func (r *wohRequest) Cut() {
	r.Close()
	close(r.done)
}

// event encodes an event. Only one without content has no size.
func event(kind, content string) string {
	if content == "" {
		return kind + "\r\n"
	}
	return fmt.Sprintf("%s %x\r\n%s\r\n", kind, len(content), content)
}

// closeEvent is a Close event with a code.
func closeEvent(code uint16, reason string) string { return event("CLOSE", wsClose(code, reason).data) }

const openEvent = "OPEN\r\n"

// woh connects a client over HTTP. GRIP is on; more header lines for the first
// answer may follow.
func (t *T) woh(header ...string) (*wsConn, *wohOrigin) {
	w := t.OverHTTP()
	c := t.wsStart("/")
	w.Expect(openEvent).Answer(openEvent, append([]string{"Sec-WebSocket-Extensions: grip"}, header...)...)
	return c.Upgraded(), w
}

// pause gives what was written to another connection time to be read by the
// proxy: nothing tells when it was.
func (t *T) pause() { t.waitUntil(time.Now().Add(250 * time.Millisecond)) }
