package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/route"
)

// outgoing is a request as it goes to origins. Only Host and scheme differ from
// target to target.
type outgoing struct {
	rule    *rule
	trusted bool
	tls     bool   // the client's side counts as TLS
	host    string // host or host:port of the URI
	path    string // request target after rewriting
	header  []frame.Field
	target  *route.Target // the last one tried
	direct  bool          // the target is not of a route, but the host of a link
}

// response is what a target answered.
type response struct {
	code   int
	reason string
	header []frame.Field
	length int64 // as http1.ResponseHead.BodyLen has it
	body   responseBody
}

type responseBody interface {
	io.ReadCloser
	// Trailer returns the trailer fields once Read has returned io.EOF.
	Trailer() []frame.Field
	// Buffered returns how many bytes are here already.
	Buffered() int
}

// uri returns the absolute URI that links are resolved against.
func (o *outgoing) uri() string { return scheme(o.tls) + "://" + o.host + o.path }

// grip reports whether responses are looked at for instructs.
func (o *outgoing) grip() bool { return !o.trusted && !o.rule.NoGrip }

func scheme(tls bool) string {
	if tls {
		return "https"
	}
	return "http"
}

// serveHTTP answers one HTTP request. A nil result means that all frames were
// sent; otherwise the exchange ends for that reason.
func (e *exch) serveHTTP() error {
	err := e.proxy()
	e.log.failed = err != nil
	e.s.logAccess(&e.log)
	return err
}

func (e *exch) proxy() error {
	o, err := e.prepare()
	if o == nil {
		return err
	}
	resp, err := e.ask(o)
	if resp == nil {
		return err
	}
	defer resp.body.Close() //nolint:errcheck // the response is over, one way or the other
	if o.grip() && grip.IsGrip(resp.header) {
		return e.obey(o, resp)
	}
	return e.relay(o, resp)
}

// prepare finds the route and makes the request for the origin. It returns nil
// if the client has its answer already.
func (e *exch) prepare() (*outgoing, error) {
	opts, r := &e.s.opts, e.req
	o := &outgoing{tls: clientTLS(r.Scheme, r.Header, opts.AcceptXForwardedProtocol), host: hostOf(r), path: r.URI}
	e.log = accessLine{method: r.Method, uri: o.uri(), header: r.Header, last: r.Last, retry: r.Retry}
	if http1.Has(r.Header, "Pushpin-Check") {
		return nil, e.respond(nil, http.StatusOK, nil, "Holdfast")
	}
	if o.rule = e.s.choose(r, o.path, o.tls); o.rule == nil {
		e.beginStats(nil, o.tls, peerIP(r.Peer))
		return nil, e.fail(nil, http.StatusBadGateway, "Route not found")
	}
	e.log.rule = o.rule
	if handled, err := e.sockJS(o); handled {
		return nil, err
	}
	var err error
	if r, e.jsonp, err = startJSONP(r, o.rule); err != nil {
		e.beginStats(o.rule, o.tls, peerIP(r.Peer))
		return nil, e.fail(o, http.StatusBadRequest, err.Error())
	}
	if e.jsonp != nil {
		e.req, o.path = r, r.URI
	}
	if sig, ok := http1.Get(r.Header, "Grip-Sig"); ok {
		o.trusted = e.s.trusted.Verify(sig, opts.Now())
	}
	o.rewrite()
	rules := headerRules{
		set: o.rule.Headers, origHeaders: o.rule.OrigHeaders, needMark: opts.OrigHeadersNeedMark,
		trusted: o.trusted, grip: !o.rule.NoGrip, last: r.Last,
		dropRoute: opts.AcceptPushpinRoute, cdnLoop: opts.CDNLoop,
		acceptProtocol: opts.AcceptXForwardedProtocol, setProtocol: opts.SetXForwardedProtocol, tls: o.tls,
		forwardedFor: opts.XForwardedFor, peer: peerIP(r.Peer),
	}
	if o.trusted {
		rules.forwardedFor = opts.XForwardedForTrusted
	}
	e.log.from = logicalAddress(r.Header, rules.forwardedFor, r.Peer)
	e.beginStats(o.rule, o.tls, e.log.from)
	if o.grip() {
		if rules.sig, err = o.rule.signer.Sign(opts.Now()); err != nil {
			return nil, fmt.Errorf("sign request: %w", err)
		}
	}
	o.header = rules.apply(r.Header)
	return o, nil
}

// rewrite applies what the route says about host and path.
func (o *outgoing) rewrite() {
	r := o.rule
	if r.AsHost != "" {
		o.host = r.AsHost
	}
	path, query := o.path, ""
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path, query = path[:i], path[i:]
	}
	switch {
	case r.HasReplaceBeg:
		path = r.ReplaceBeg + path[min(len(r.PathBeg), len(path)):]
	case r.PathRem > 0:
		path = path[min(r.PathRem, len(path)):]
	default:
		return
	}
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	o.path = path + query
}

// ask tries the targets in order. It returns nil if none answered, in which case
// the client has been told, or the exchange is over.
func (e *exch) ask(o *outgoing) (*response, error) {
	var tried []attempt
	for i := range o.rule.Targets {
		t := &o.rule.Targets[i]
		o.target, e.log.target = t, t.Name
		if t.OverHTTP && !o.trusted {
			if ct, _ := http1.Get(e.req.Header, "Content-Type"); mediaType(ct) == "application/websocket-events" {
				return nil, e.fail(o, http.StatusForbidden, "Client not allowed to send WebSocket events directly.")
			}
		}
		resp, err := e.attempt(o)
		if err == nil {
			return resp, nil
		}
		if e.ctx.Err() != nil {
			return nil, err
		}
		e.s.targetFailed(e.x.ID, t, err)
		switch {
		case origin.TryNext(err), errors.Is(err, errTargetKind):
			tried = append(tried, attempt{t, err})
			continue
		case errors.Is(err, origin.ErrPolicy):
			return nil, e.failDebug(o, "Error: Origin host/IP blocked.")
		}
		return nil, e.failDebug(o, notAnswered(t, err))
	}
	return nil, e.failDebug(o, notReached(tried))
}

// errTargetKind stands for an attempt at a target that cannot be used.
var errTargetKind = errors.New("ZHTTP targets are not supported")

// generic is what clients see of errors at origins unless debug is on.
const generic = "Error while proxying to origin."

func mediaType(contentType string) string {
	m, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(m))
}

func (e *exch) attempt(o *outgoing) (*response, error) {
	switch o.target.Kind {
	case route.TargetTest:
		n, err := e.body.size(maxTestRequest)
		if err != nil {
			return nil, err
		}
		return answerTest(o, n), nil
	case route.TargetZHTTP:
		return nil, errTargetKind
	}
	req := &origin.Request{Method: e.req.Method, BodyLen: e.req.BodyLen, First: e.req.Body}
	if e.req.More {
		req.Body, req.Trailer = e.body.reader(), e.body.Trailer
	}
	return e.s.ask(e.ctx, o, req)
}

// ask makes a request of the target that o names.
func (s *Server) ask(ctx context.Context, o *outgoing, req *origin.Request) (*response, error) {
	t := o.target
	host := o.host
	if t.URIHost != "" {
		host = t.URIHost
	}
	name, host := splitHost(host, t.TLS)
	req.URI, req.Header = o.path, setHost(slices.Clone(o.header), host)
	start := s.opts.Now()
	rs := s.statsOf(o.rule)
	resp, err := s.do(ctx, rs, target(t, name), req)
	label := t.Name
	if o.direct {
		label = "link" // origins name these, so there is no end to them
	}
	s.metrics.attempt(label, s.opts.Now().Sub(start), err)
	if err != nil {
		return nil, err
	}
	return &response{code: resp.Head.Code, reason: resp.Head.Reason, header: resp.Head.Header, length: resp.Head.BodyLen, body: &countedBody{resp, &rs.server.contentIn}}, nil
}

func target(t *route.Target, serverName string) origin.Target {
	return origin.Target{
		Addr: net.JoinHostPort(t.Host, strconv.Itoa(t.Port)), TLS: t.TLS, ServerName: serverName, Insecure: t.Insecure,
		TrustConnectHost: t.TrustConnectHost, ClientCert: t.ClientCert, ClientKey: t.ClientKey, Untrusted: t.Untrusted,
	}
}

// splitHost returns the host name without port, and what Host has to say: the
// port unless it is the usual one of the scheme.
func splitHost(s string, tls bool) (name, host string) {
	name, port, err := net.SplitHostPort(s)
	if err != nil {
		return strings.Trim(s, "[]"), s
	}
	if port == "80" && !tls || port == "443" && tls || port == "" {
		s = strings.TrimSuffix(s, ":"+port)
	}
	return name, s
}

// fail answers with an error in both modes.
func (e *exch) fail(o *outgoing, code int, text string) error {
	return e.respond(o, code, nil, text)
}

// failDebug answers 502 with text in debug mode, and with the generic one
// otherwise.
func (e *exch) failDebug(o *outgoing, text string) error {
	if !o.rule.debug {
		text = generic
	}
	return e.fail(o, http.StatusBadGateway, text)
}

// respond answers with a response of our own; text gets a line end.
func (e *exch) respond(o *outgoing, code int, h []frame.Field, text string) error {
	body := []byte(text + "\n")
	h = append(h, frame.Field{Name: "Content-Type", Value: "text/plain"}, frame.Field{Name: "Content-Length", Value: strconv.Itoa(len(body))})
	return e.reply(o, code, "", h, body)
}

// reply sends a whole response. Its header has Content-Length if that is to be
// sent.
func (e *exch) reply(o *outgoing, code int, reason string, h []frame.Field, body []byte) error {
	if e.jsonp != nil {
		var err error
		if body, err = e.jsonp.wrapWhole(code, orStatusText(reason, code), h, body); err != nil {
			return e.fail(o, http.StatusInternalServerError, err.Error())
		}
		h = append(wrappedHeader(h), frame.Field{Name: "Content-Length", Value: strconv.Itoa(len(body))})
		code, reason = http.StatusOK, ""
	}
	f := &frame.Response{ID: e.x.ID, Code: uint16(code), Reason: reason, Header: e.crossOrigin(o, h), BodyLen: int64(len(body)), Body: body}
	if bodiless(e.req.Method, code) {
		f.Body = nil
	}
	return e.begin(f)
}

// begin sends the head of the response.
func (e *exch) begin(f *frame.Response) error {
	f.Close = f.Close || e.upgrade && f.Code != http.StatusSwitchingProtocols
	if len(f.Header) > frame.MaxHeaders {
		return &endError{frame.ReasonOriginFailed, "response has too many header fields"}
	}
	f.Reason = orStatusText(f.Reason, int(f.Code))
	e.log.code, e.log.sent = int(f.Code), int64(len(f.Body))
	e.s.metrics.response(int(f.Code))
	return e.send(f)
}

func orStatusText(reason string, code int) string {
	if reason == "" {
		return http1.StatusText(code)
	}
	return reason
}

// crossOrigin adds the cross-origin fields if the route, or without one the
// whole proxy, has them.
func (e *exch) crossOrigin(o *outgoing, h []frame.Field) []frame.Field {
	on := e.s.opts.AutoCrossOrigin
	if o != nil && o.rule != nil {
		on = o.rule.cors
	}
	if !on || e.jsonp != nil {
		return h
	}
	return grip.AddCORS(h, e.req.Header)
}

// bodiless reports whether a response has no body whatever its header says.
func bodiless(method string, code int) bool {
	return method == http.MethodHead || code < 200 || code == http.StatusNoContent || code == http.StatusNotModified
}
