package outbound

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/netpolicy"
	"github.com/holdfast/holdfast/pkg/origin"
)

// Options configures a Client. Zero values mean the defaults.
type Options struct {
	// Registerer takes the metrics of the connections; nil means none are
	// exported.
	Registerer prometheus.Registerer
	// Policy says where requests may go. nil allows everything.
	Policy *netpolicy.Rules
	// NoIPv6 forbids all IPv6 addresses, as the policy does others.
	NoIPv6 bool
	// RootCAs verify servers; nil means those of the system.
	RootCAs *x509.CertPool
	// Resolve looks up a name; nil means the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// ConnectTimeout limits the way to a usable connection: the name, connecting,
	// TLS. Default 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a server may be silent before and within its
	// response. Default 10 min.
	IdleTimeout time.Duration
	// MaxAge is how long a connection is used for further requests. Default 2 h.
	MaxAge time.Duration
	// MaxOpen bounds the connections, in use and idle. Requests over it wait for
	// up to ConnectTimeout. Default 4096.
	MaxOpen int
	// MaxHead bounds the head of a response, in bytes. Default 64 KiB.
	MaxHead int
}

// Client makes requests. All methods may be called from any goroutine.
type Client struct {
	opt  Options
	pool *origin.Pool
}

// New returns a client. Close ends it.
func New(o Options) (*Client, error) {
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 10 * time.Minute
	}
	if o.MaxAge <= 0 {
		o.MaxAge = 2 * time.Hour
	}
	if o.MaxOpen <= 0 {
		o.MaxOpen = 4096
	}
	c := &Client{opt: o}
	var err error
	c.pool, err = origin.New(origin.Options{
		Registerer:     o.Registerer,
		ConnectTimeout: o.ConnectTimeout, ResponseTimeout: o.IdleTimeout, IdleTimeout: o.IdleTimeout, MaxAge: o.MaxAge,
		MaxOpen: o.MaxOpen, MaxOpenPerTarget: o.MaxOpen, MaxIdlePerTarget: max(2, o.MaxOpen/8),
		Limits:  http1.Limits{MaxHead: o.MaxHead, MaxFields: maxFields},
		RootCAs: o.RootCAs, Resolve: o.Resolve, Allowed: c.allowsAddr,
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// maxFields bounds the fields of a response head; other processes take no more.
const maxFields = frame.MaxHeaders

// Close closes idle connections and refuses further requests. Those under way
// end with their contexts.
func (c *Client) Close() error { return c.pool.Close() }

// Request is a request to make. The client changes nothing of it.
type Request struct {
	Method string // not for WebSocket
	URI    string // with a user, it is sent as Authorization unless Header has one
	// Header is sent in its order and letter case, without the fields that concern
	// one connection only, Accept-Encoding and Expect. Host is that of the URI.
	Header []frame.Field
	// Body is the whole body, or its beginning if More is set.
	Body []byte
	// More is the rest of the body, nil if there is none. It is sent with the
	// length that Content-Length announces, or else chunked. It is closed once, as
	// soon as no more of it is wanted, which may be during a Read: that must
	// return then.
	More io.ReadCloser

	// Timeout bounds everything up to the end of the response; 0 for no bound.
	Timeout time.Duration
	// MaxBody bounds the response body, decoded; 0 means 4 MiB for Fetch and no
	// bound for Do.
	MaxBody int64
	// Redirects is how many redirects to follow. A body of more than 1 MB that
	// was not at hand as a whole is not sent again.
	Redirects int
	// ConnectHost, HOST or HOST:PORT, is connected to instead of the URI's host.
	ConnectHost string
	// TrustConnectHost accepts a certificate for ConnectHost too.
	TrustConnectHost bool
	// IgnoreTLSErrors accepts any certificate.
	IgnoreTLSErrors bool
	// IgnorePolicies lets the request go anywhere, with all of its redirects.
	IgnorePolicies bool
}

// Response is what a server answered. Its methods are for one goroutine; to
// interrupt a Read, end the context given to Do.
type Response struct {
	Code   int
	Reason string
	// Header is as it came, less what concerned the connection and, if the body
	// was compressed and is decoded, Content-Encoding and Content-Length.
	Header []frame.Field
	// Body is set by Fetch only.
	Body []byte

	ctx    context.Context //nolint:containedctx // that of the exchange, which the Response continues
	cancel context.CancelFunc
	resp   *origin.Response
	body   io.Reader // resp, or what decodes it
	left   int64     // of MaxBody; negative for no bound
	err    error     // sticky
}

// Fetch makes a request and reads its whole response.
func (c *Client) Fetch(ctx context.Context, r *Request) (*Response, error) {
	whole := *r
	if whole.MaxBody <= 0 {
		whole.MaxBody = 4 << 20
	}
	resp, err := c.Do(ctx, &whole)
	if err != nil {
		return nil, err
	}
	defer resp.Close() //nolint:errcheck // it was read
	if resp.Body, err = io.ReadAll(resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// Do makes a request and returns the response when its head is there. A nil
// error obliges the caller to close the Response.
func (c *Client) Do(ctx context.Context, r *Request) (*Response, error) {
	cancel := context.CancelFunc(func() {})
	if r.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
	}
	resp, err := c.do(ctx, r, "http", frame.Field{Name: "Accept-Encoding", Value: acceptEncoding})
	if err != nil {
		defer cancel() // not before ctx was asked
		return nil, classify(ctx, err)
	}
	resp.cancel = cancel
	if resp.left = r.MaxBody; resp.left <= 0 {
		resp.left = -1
	}
	if r.Method != "HEAD" {
		resp.decode()
	}
	return resp, nil
}

// Check returns the error that the request would end with before anything is
// connected to, if there is one.
func (c *Client) Check(r *Request) error {
	probe := *r
	probe.More = nil
	kind := "http"
	if t, err := parseURI(r.URI); err == nil && t.websocket() {
		kind, probe.Method, probe.Body = "ws", "GET", nil
	}
	_, err := c.prepare(&probe, kind, nil)
	return err
}

// Ready reports whether Read need not wait for the server, as far as is known.
func (r *Response) Ready() bool {
	return r.err != nil || r.resp.Head.BodyLen == 0 || r.resp.Buffered() > 0
}

// Read reads the decoded body. It returns io.EOF at the proper end; every other
// error is an *Error.
func (r *Response) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left >= 0 && int64(len(p)) > r.left+1 {
		p = p[:r.left+1] // one more shows that there is too much
	}
	n, err := r.body.Read(p)
	if r.left >= 0 {
		if r.left -= int64(n); r.left < 0 {
			n, r.left = n-1, 0
			err = fail(MaxSizeExceeded, "the response is larger than allowed")
		}
	}
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = classify(r.ctx, err)
		}
		r.err = err
	}
	return n, err
}

// Close ends the exchange. Closing again does nothing.
func (r *Response) Close() error {
	defer r.cancel()
	return r.resp.Close()
}

// do makes the exchange, redirects included, for a URI of the kind http or ws,
// with further header fields that are not the caller's.
func (c *Client) do(ctx context.Context, r *Request, kind string, more ...frame.Field) (*Response, error) {
	p, err := c.prepare(r, kind, more)
	if err != nil {
		if r.More != nil {
			_ = r.More.Close()
		}
		return nil, err
	}
	for hops := 0; ; hops++ {
		resp, err := c.pool.Do(ctx, p.dial, &p.send)
		if err != nil {
			return nil, err
		}
		location, ok := http1.Get(resp.Head.Header, "Location")
		if !ok || r.Redirects <= 0 || !isRedirect(resp.Head.Code) {
			return &Response{
				Code: resp.Head.Code, Reason: resp.Head.Reason, Header: http1.RemoveHopByHop(slices.Clone(resp.Head.Header)),
				ctx: ctx, cancel: func() {}, resp: resp, body: resp, left: -1,
			}, nil
		}
		_ = resp.Close()
		if hops >= r.Redirects {
			return nil, fail(TooManyRedirects, fmt.Sprintf("more than %d redirects", r.Redirects))
		}
		if err := c.follow(p, location); err != nil {
			return nil, err
		}
	}
}

func isRedirect(code int) bool {
	switch code {
	case 301, 302, 303, 307, 308:
		return true
	}
	return false
}

// prepared is a request on its way.
type prepared struct {
	req    *Request
	target *target
	dial   origin.Target
	send   origin.Request
	replay *replay // nil if the body is at hand as a whole
}

func (c *Client) prepare(r *Request, kind string, more []frame.Field) (*prepared, error) {
	t, err := parseURI(r.URI)
	switch {
	case err != nil:
		return nil, &Error{Condition: BadRequest, Err: err}
	case t.websocket() != (kind == "ws"):
		return nil, fail(BadRequest, "a URI of the scheme "+t.scheme+" is not for this")
	case !http1.ValidToken(r.Method):
		return nil, fail(BadRequest, fmt.Sprintf("method %.40q", r.Method))
	case r.Method == "HEAD" && (len(r.Body) > 0 || r.More != nil):
		return nil, fail(BodyNotAllowed, "HEAD with a body")
	}
	p := &prepared{req: r, target: t}
	h := http1.Del(http1.RemoveHopByHop(slices.Clone(r.Header)), "Host", "Accept-Encoding", "Expect", "Trailer")
	for _, f := range h {
		if !http1.ValidField(f) {
			return nil, fail(BadRequest, fmt.Sprintf("header field %.40q", f.Name))
		}
	}
	p.send = origin.Request{Method: r.Method, First: r.Body, BodyLen: int64(len(r.Body))}
	if r.More != nil {
		p.send.BodyLen = http1.Chunked
		if v, ok := http1.Get(h, "Content-Length"); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < int64(len(r.Body)) {
				return nil, fail(BadRequest, "Content-Length")
			}
			p.send.BodyLen = n
		}
		p.send.Body = r.More
		if r.Redirects > 0 {
			p.replay = &replay{src: r.More}
			p.send.Body = p.replay
		}
	} else {
		h = http1.Del(h, "Content-Length") // it is sent as BodyLen says
		if len(r.Body) == 0 && usuallyHasBody(r.Method) {
			h = append(h, frame.Field{Name: "Content-Length", Value: "0"})
		}
	}
	if t.basic != "" && !http1.Has(h, "Authorization") {
		h = append(h, frame.Field{Name: "Authorization", Value: t.basic})
	}
	p.send.Header = append(append([]frame.Field{{Name: "Host"}}, h...), more...)
	return p, c.aim(p, r.ConnectHost)
}

// usuallyHasBody tells methods for which a server may wait for a body if there
// is no length.
func usuallyHasBody(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT":
		return false
	}
	return true
}

// aim points p at its target, if it may go there.
func (c *Client) aim(p *prepared, connectHost string) error {
	t, r := p.target, p.req
	p.send.URI = t.path
	p.send.Header[0].Value = t.hostField()
	p.dial = origin.Target{
		Addr: t.addr(), TLS: t.tls(), ServerName: serverName(t.host),
		Insecure: r.IgnoreTLSErrors, Untrusted: !r.IgnorePolicies,
	}
	if !t.tls() {
		p.dial.ServerName, p.dial.Insecure = "", false
	}
	if !r.IgnorePolicies && !c.allowsHost(t.host, t.port) {
		return forbidden(t.addr())
	}
	if connectHost == "" {
		return nil
	}
	host, port, err := parseHostPort(connectHost, t.port)
	if err != nil {
		return &Error{Condition: BadRequest, Err: fmt.Errorf("connect host: %w", err)}
	}
	there := target{host: host, port: port}
	if !r.IgnorePolicies && !c.allowsHost(host, port) {
		return forbidden(there.addr())
	}
	p.dial.Addr = there.addr()
	p.dial.TrustConnectHost = r.TrustConnectHost && t.tls()
	return nil
}

func forbidden(addr string) error { return fail(PolicyViolation, addr+" is forbidden") }

// serverName is the name for a certificate: without the dot that only DNS knows,
// and without a zone.
func serverName(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.WithZone("").String()
	}
	if host[len(host)-1] == '.' {
		return host[:len(host)-1]
	}
	return host
}

func (c *Client) allowsHost(host string, port uint16) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return c.allowsAddr(netip.AddrPortFrom(a, port))
	}
	return c.opt.Policy.AllowsHost(host, port)
}

func (c *Client) allowsAddr(ap netip.AddrPort) bool {
	if c.opt.NoIPv6 && !ap.Addr().Unmap().Is4() {
		return false
	}
	return c.opt.Policy.AllowsAddr(ap.Addr(), ap.Port())
}

// follow makes p the request that a redirect asks for.
func (c *Client) follow(p *prepared, location string) error {
	next, err := p.target.redirect(location)
	if err != nil {
		return &Error{Condition: Undefined, Err: err}
	}
	if p.replay != nil {
		body, ok := p.replay.whole()
		if !ok {
			return fail(Undefined, "redirect of a request whose body cannot be sent again")
		}
		p.send.First, p.send.Body = append(slices.Clone(p.req.Body), body...), nil
		p.send.BodyLen = int64(len(p.send.First))
		p.replay = nil
	}
	connectHost := p.req.ConnectHost
	if next.host != p.target.host || next.port != p.target.port {
		connectHost = "" // it stood for another
	}
	if !p.target.sameOrigin(next) {
		p.send.Header = http1.Del(p.send.Header, "Authorization", "Proxy-Authorization", "Cookie", "Cookie2", "Grip-Sig")
	}
	p.target = next
	return c.aim(p, connectHost)
}

// maxReplay bounds what is kept of a body for a redirect.
const maxReplay = 1_000_000

// replay keeps a body while it is sent. The reading and what follows a response
// are ordered by the pool: it has ended the upload when it returns.
type replay struct {
	src  io.ReadCloser
	kept []byte
	end  bool
	over bool
}

func (r *replay) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	if r.over = r.over || len(r.kept)+n > maxReplay; r.over {
		r.kept = nil
	} else {
		r.kept = append(r.kept, p[:n]...)
	}
	r.end = r.end || errors.Is(err, io.EOF)
	return n, err
}

func (r *replay) Close() error { return r.src.Close() }

func (r *replay) whole() ([]byte, bool) { return r.kept, r.end && !r.over }
