package proxy

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/filter"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
)

// Limits of exchanges that a response turns into something else.
const (
	maxGripRequest  = 100_000 // of the request's body, which a hold may have to send again
	maxGripResponse = 100_000 // of a body that is needed as a whole
)

// obey deals with a response that GRIP gives a meaning.
func (e *exch) obey(o *outgoing, resp *response) error {
	if err := decode(resp); err != nil {
		return e.failDebug(o, generic)
	}
	// Before fields are hidden, as Connection names more of them.
	resp.header = http1.RemoveHopByHop(resp.header)
	body, err := readAtMost(resp.body, resp.length, maxGripResponse)
	large := len(body) > maxGripResponse
	if err != nil {
		if e.ctx.Err() != nil {
			return err
		}
		return e.failDebug(o, generic)
	}
	size, err := e.body.size(maxGripRequest)
	if err != nil {
		return err
	}
	if size > maxGripRequest {
		return e.fail(o, http.StatusBadRequest, "Request too large to accept GRIP instruct.")
	}
	if large {
		if !grip.MayStream(resp.header) {
			return e.failDebug(o, "GRIP instruct response too large from "+o.target.Name)
		}
		return e.streamThenObey(o, resp, body)
	}
	in, err := grip.Parse(resp.code, resp.reason, resp.header, body, o.uri())
	if err != nil {
		return e.failDebug(o, "Failed to parse accept instructions: "+err.Error())
	}
	in.Header = cleanHeader(in.Header)
	if in.Hold == frame.ModeNone && in.Next.URI == "" {
		return e.relayInstruct(o, in)
	}
	return e.handOver(o, in, false)
}

// cleanHeader removes what does not belong to the content any more, and what an
// instruct in JSON should not have said.
func cleanHeader(h []frame.Field) []frame.Field {
	return http1.Del(http1.RemoveHopByHop(h), "Content-Encoding", "Content-Length")
}

// relayInstruct passes on the response of an instruct that asks for no hold.
func (e *exch) relayInstruct(o *outgoing, in *grip.Instruct) error {
	var names []string
	for _, c := range in.Channels {
		names = append(names, c.Filters...)
	}
	body, err := filterBody(names, in)
	if err != nil {
		// The only filter that there is for responses.
		return e.failDebug(o, "Failed to parse accept instructions: filter error: "+filter.BuildID+": "+err.Error())
	}
	return e.reply(o, in.Code, in.Reason, append(in.Header, frame.Field{Name: "Content-Length", Value: strconv.Itoa(len(body))}), body)
}

func filterBody(names []string, in *grip.Instruct) ([]byte, error) {
	f, err := filter.NewResponse(names, nobody{in.Meta})
	if err != nil {
		return nil, err
	}
	body, err := f.Write(in.Body)
	if err != nil {
		return nil, err
	}
	return body, f.End()
}

// nobody is the receiver of a response that subscribes to nothing.
type nobody struct{ meta []frame.Field }

func (n nobody) Meta(name string) (string, bool) {
	for _, f := range n.meta {
		if f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}
func (nobody) Subscribed(string) bool       { return false }
func (nobody) LastID(string) (string, bool) { return "", false }

// streamThenObey sends a body that is too large to be kept, and hands the
// exchange over at its end. Errors in the instruct are seen by then only, as in
// Pushpin: before, nobody needed to know it.
func (e *exch) streamThenObey(o *outgoing, resp *response, first []byte) error {
	code, reason, err := grip.Status(resp.header, resp.code, resp.reason)
	if err != nil {
		return e.fail(o, http.StatusInternalServerError, noService)
	}
	in, parseErr := grip.Parse(resp.code, resp.reason, resp.header, nil, o.uri())
	e.jsonp = nil // a stream cannot be one call
	h := grip.Expose(grip.Strip(slices.Clone(resp.header)), grip.List(resp.header, "Grip-Expose-Headers"))
	head := &frame.Response{ID: e.x.ID, Code: uint16(code), Reason: reason, Header: e.crossOrigin(o, cleanHeader(h)), BodyLen: -1, More: true}
	if err := e.begin(head); err != nil {
		return err
	}
	if err := e.sendBody(first, true, nil); err != nil {
		return err
	}
	buf := buffers.Get().(*[frame.MaxBodyPart]byte)
	defer buffers.Put(buf)
	for end := false; !end; {
		n, err := resp.body.Read(buf[:])
		if end = errors.Is(err, io.EOF); err != nil && !end {
			return originBroke(err)
		}
		if err := e.sendBody(buf[:n], true, nil); err != nil {
			return err
		}
	}
	if parseErr != nil {
		f := &frame.Body{ID: e.x.ID}
		if o.rule.debug {
			f.Data = []byte("\n\nFailed to parse accept instructions: " + parseErr.Error() + "\n")
		}
		return e.send(f)
	}
	return e.handOver(o, in, true)
}

// noService is what clients see if no handler takes their exchange.
const noService = "Accept service unavailable."

// handOver gives the exchange to a handler.
func (e *exch) handOver(o *outgoing, in *grip.Instruct, headSent bool) error {
	err := e.offer(e.accept(o, in, headSent))
	switch {
	case err == nil:
		e.log.accept = true
		e.s.metrics.handOver.WithLabelValues(resultOK).Inc()
		return nil
	case e.ctx.Err() != nil:
		e.s.metrics.handOver.WithLabelValues(resultCanceled).Inc()
		return err
	}
	result := resultRefused
	if errors.Is(err, errNoHandler) {
		result = resultTimeout
	}
	e.s.metrics.handOver.WithLabelValues(result).Inc()
	e.s.log.Warn("exchange not handed over", "exchange", e.x.ID, "peer", e.x.Conn, "err", err)
	if headSent {
		return &endError{frame.ReasonPeerLost, err.Error()}
	}
	return e.fail(o, http.StatusInternalServerError, noService)
}

// accept says all that a handler has to know.
func (e *exch) accept(o *outgoing, in *grip.Instruct, headSent bool) *frame.Accept {
	e.mu.Lock()
	sendSeq, recvSeq := e.sendSeq, e.inbox.Next()
	e.mu.Unlock()
	r := o.rule
	a := &frame.Accept{
		X: e.x, SendSeq: sendSeq, RecvSeq: recvSeq, ConnID: e.req.ConnID,
		Mode: in.Hold, Millis: in.Millis, KeepAlive: in.KeepAlive, Meta: in.Meta, Next: in.Next, Gone: in.Gone, HeadSent: headSent,
		Code: uint16(in.Code), Reason: in.Reason, Header: in.Header, Body: in.Body, Expose: in.Expose,
		Method: e.req.Method, URI: o.uri(), Peer: e.log.from, Route: r.ID, RouteNamed: r.Named, Prefix: r.Prefix, Events: r.Events,
		SigIss: r.sigIss, SigKey: r.sigKey, Debug: r.debug, CORS: r.cors, Retry: e.req.Retry, Minor: e.req.Minor, Last: e.req.Last,
		TLS: o.tls,
	}
	if a.Next.URI != "" || a.Gone != "" || len(a.Meta) > 0 { // filters may have a link in Meta
		a.Base = scheme(o.tls) + "://" + o.host
	}
	if a.Reason == "" {
		a.Reason = http1.StatusText(in.Code)
	}
	for _, c := range in.Channels {
		c.Name = r.Prefix + c.Name
		a.Channels = append(a.Channels, c)
	}
	for _, name := range o.target.Subs {
		a.Channels = append(a.Channels, frame.Channel{Name: name, Implicit: true})
	}
	// A stream cannot be one call, so scripts get the cross-origin fields.
	if e.jsonp != nil && in.Hold == frame.ModeResponse {
		a.JSONP, a.JSONPMode, a.CORS = e.jsonp.callback, e.jsonp.mode(), false
	}
	if a.CORS {
		for _, f := range e.req.Header {
			if strings.EqualFold(f.Name, "Origin") || len(f.Name) > 15 && strings.EqualFold(f.Name[:15], "Access-Control-") {
				a.Request = append(a.Request, f)
			}
		}
	}
	return a
}

var errNoHandler = errors.New("no handler answered")

// offer sends an Accept to a handler until one takes it. A handler that has it
// already, because its answer got lost with a boot of ours or its own, says so
// and does nothing else.
func (e *exch) offer(a *frame.Accept) (err error) {
	// It counts as the handler's from now on, so that it is not counted twice.
	e.leaveStats(false)
	defer func() {
		if err != nil {
			e.comeBack()
		}
	}()
	timeout := time.NewTimer(e.s.opts.HandOverTimeout)
	defer timeout.Stop()
	answers := make(chan handlerAnswer, 1)
	e.mu.Lock()
	e.answer = answers
	e.mu.Unlock()
	var to bus.Peer // who has it; zero if nobody
	wait := time.Millisecond
	for {
		e.s.mu.Lock()
		changed := e.s.handlers
		e.s.mu.Unlock()
		var again <-chan time.Time
		if !e.s.isUp(to) {
			to = e.s.pickHandler(e.x.ID)
			b := frame.Encode(a)
			if len(b) > frame.MaxFrame {
				return errTooLarge
			}
			if to.Boot != 0 && e.s.opts.Bus.Send(to.Name, b) != nil {
				to = bus.Peer{}
				wait = min(2*wait, 100*time.Millisecond)
				again = e.s.opts.After(wait)
			}
		}
		select {
		case answer := <-answers:
			if answer.OK {
				return nil
			}
			if answer.from == to {
				return fmt.Errorf("handler %s refused: %s %s", to.Name, answer.Code, answer.Text)
			}
		case <-changed:
		case <-again:
		case <-timeout.C:
			return errNoHandler
		case <-e.ctx.Done():
			return e.ctx.Err()
		}
	}
}

// pickHandler returns one of the handlers, always the same one for an exchange
// as long as none comes or goes, and the zero Peer if there is none.
func (s *Server) pickHandler(id uint64) bus.Peer {
	peers := s.opts.Bus.Peers("handler")
	if len(peers) == 0 {
		return bus.Peer{}
	}
	return peers[id%uint64(len(peers))]
}

func (s *Server) isUp(p bus.Peer) bool {
	if p.Boot == 0 {
		return false
	}
	return slices.Contains(s.opts.Bus.Peers("handler"), p)
}

// readAtMost reads a body of the announced length, if any, to its end, but not
// much more than limit bytes of it.
func readAtMost(r io.Reader, announced, limit int64) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(max(0, min(announced, limit))) + bytes.MinRead)
	_, err := io.Copy(&b, io.LimitReader(r, limit+1))
	return b.Bytes(), err
}

// decode undoes a content coding that the origin was not asked for. Bytes will
// be added to the body, so it must be what it says.
func decode(resp *response) error {
	coding, _ := http1.Get(resp.header, "Content-Encoding")
	if !strings.EqualFold(coding, "gzip") {
		return nil
	}
	z := &gunzip{responseBody: resp.body}
	var magic [2]byte
	n, err := io.ReadFull(resp.body, magic[:])
	z.src = io.MultiReader(bytes.NewReader(magic[:n]), resp.body)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if n == 2 && magic == [2]byte{0x1f, 0x8b} {
		if z.src, err = gzip.NewReader(z.src); err != nil {
			return err
		}
	}
	resp.body = z
	return nil
}

// gunzip is a body behind a reader.
type gunzip struct {
	responseBody
	src io.Reader
}

func (g *gunzip) Read(p []byte) (int, error) { return g.src.Read(p) }
