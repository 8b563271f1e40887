package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// buffers are for reading bodies.
var buffers = sync.Pool{New: func() any { return new([frame.MaxBodyPart]byte) }}

// relay passes a response on as it is.
func (e *exch) relay(o *outgoing, resp *response) error {
	if e.jsonp != nil {
		return e.relayWrapped(o, resp)
	}
	head := &frame.Response{
		ID: e.x.ID, Code: uint16(resp.code), Reason: resp.reason,
		Header: e.crossOrigin(o, http1.RemoveHopByHop(resp.header)), BodyLen: max(resp.length, -1),
	}
	if bodiless(e.req.Method, resp.code) {
		// What Content-Length says is of the response to a GET.
		head.BodyLen = announced(head.Header)
		return e.begin(head)
	}
	if head.BodyLen == 0 {
		return e.begin(head)
	}
	buf := buffers.Get().(*[frame.MaxBodyPart]byte)
	defer buffers.Put(buf)
	return e.stream(resp.body, head, buf[:])
}

// relayWrapped passes a response on as a script.
func (e *exch) relayWrapped(o *outgoing, resp *response) error {
	h := http1.RemoveHopByHop(resp.header)
	body := e.jsonp.wrap(resp.code, orStatusText(resp.reason, resp.code), h, resp.body)
	switch err := body.fill(); {
	case errors.Is(err, errNotText):
		return e.fail(o, http.StatusInternalServerError, err.Error())
	case err != nil && e.ctx.Err() == nil:
		return e.failDebug(o, generic)
	case err != nil:
		return err
	}
	buf := buffers.Get().(*[frame.MaxBodyPart]byte)
	defer buffers.Put(buf)
	return e.stream(body, &frame.Response{ID: e.x.ID, Code: http.StatusOK, Header: wrappedHeader(h), BodyLen: -1}, buf[:])
}

// announced returns the length that a header announces, -1 if it does not.
func announced(h []frame.Field) int64 {
	v, _ := http1.Get(h, "Content-Length")
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return n
	}
	return -1
}

// stream sends a response whose body is still to be read. What of the body is
// here already goes with the head.
func (e *exch) stream(body responseBody, head *frame.Response, buf []byte) error {
	head.More = true
	if body.Buffered() == 0 {
		if err := e.begin(head); err != nil {
			return err
		}
		return e.copyBody(body, buf)
	}
	n, err := body.Read(buf)
	end := errors.Is(err, io.EOF)
	if err != nil && !end {
		return originBroke(err)
	}
	// The window is full as long as nothing was sent, and larger than a part.
	if _, err := e.window.Take(e.ctx, max(n, 1)); err != nil {
		return err
	}
	head.Body = buf[:n]
	if end && len(body.Trailer()) == 0 {
		head.More = false
		return e.begin(head)
	}
	if err := e.begin(head); err != nil {
		return err
	}
	if end {
		return e.send(&frame.Body{ID: e.x.ID, Trailer: body.Trailer()})
	}
	return e.copyBody(body, buf)
}

// copyBody sends what is left of a body, and its end.
func (e *exch) copyBody(body responseBody, buf []byte) error {
	for {
		n, err := body.Read(buf)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return originBroke(err)
		}
		switch {
		case !end:
			err = e.sendBody(buf[:n], true, nil)
		case n > 0:
			err = e.sendBody(buf[:n], false, body.Trailer())
		default:
			err = e.send(&frame.Body{ID: e.x.ID, Trailer: body.Trailer()})
		}
		if err != nil || end {
			return err
		}
	}
}

// sendBody sends body bytes as the client takes them. more and trailer are those
// of the last part.
func (e *exch) sendBody(data []byte, more bool, trailer []frame.Field) error {
	for len(data) > 0 {
		n, err := e.window.Take(e.ctx, min(len(data), frame.MaxBodyPart))
		if err != nil {
			return err
		}
		f := &frame.Body{ID: e.x.ID, Data: data[:n], More: true}
		if data = data[n:]; len(data) == 0 {
			f.More, f.Trailer = more, trailer
		}
		if err := e.send(f); err != nil {
			return err
		}
		e.log.sent += int64(n)
	}
	return nil
}

func originBroke(err error) error {
	return &endError{frame.ReasonOriginFailed, "origin broke off its response: " + err.Error()}
}
