package zurl

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/netpolicy"
)

// Conditions of a Fetched without a response. The names are zurl's; too-busy and
// stopping are ours.
const (
	conditionBadRequest       = "bad-request"
	conditionPolicy           = "policy-violation"
	conditionConnectionFailed = "remote-connection-failed"
	conditionConnectTimeout   = "connection-timeout"
	conditionTLS              = "tls-error"
	conditionHeadBody         = "content-not-allowed"
	conditionRedirects        = "too-many-redirects"
	conditionTooLarge         = "max-size-exceeded"
	conditionTimeout          = "session-timeout"
	conditionUndefined        = "undefined-condition"
	conditionTooBusy          = "too-busy"
	conditionStopping         = "stopping"
)

var conditions = []string{
	conditionBadRequest, conditionPolicy, conditionConnectionFailed, conditionConnectTimeout, conditionTLS, conditionHeadBody,
	conditionRedirects, conditionTooLarge, conditionTimeout, conditionUndefined, conditionTooBusy, conditionStopping,
}

// maxBody keeps a result well below the largest frame.
const maxBody = 4 << 20

var (
	errPolicy    = errors.New("the policy forbids this address")
	errRedirects = errors.New("too many redirects")
)

// clients make the requests: one for trusted requests, one for the others.
type clients struct{ trusted, other *http.Transport }

func newClients(o *Options) clients {
	transport := func(p *netpolicy.Rules) *http.Transport {
		d := &net.Dialer{Timeout: o.ConnectTimeout}
		if p != nil {
			// The check is on the address that is dialled, after the name was
			// resolved, so a name that changes its mind cannot pass it.
			d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
				ap, err := netip.ParseAddrPort(address)
				if err != nil || !p.AllowsAddr(ap.Addr(), ap.Port()) {
					return fmt.Errorf("%s: %w", address, errPolicy)
				}
				return nil
			}
		}
		return &http.Transport{
			// No Proxy: what the environment says is not for these requests.
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if to, ok := ctx.Value(connectKey{}).(connectTo); ok && to.instead == addr {
					addr = to.addr
				}
				return d.DialContext(ctx, network, addr)
			},
			TLSClientConfig:        o.TLS,
			TLSHandshakeTimeout:    o.ConnectTimeout,
			MaxIdleConns:           o.MaxOpen,
			MaxIdleConnsPerHost:    max(2, o.MaxOpen/10),
			IdleConnTimeout:        55 * time.Second,
			MaxResponseHeaderBytes: o.MaxHead,
		}
	}
	return clients{trusted: transport(nil), other: transport(o.Policy)}
}

func (c clients) close() {
	c.trusted.CloseIdleConnections()
	c.other.CloseIdleConnections()
}

// connectTo is the context value for Fetch.ConnectHost.
type connectTo struct{ instead, addr string }

type connectKey struct{}

// fetch makes one request.
func (s *Server) fetch(ctx context.Context, f *frame.Fetch) *frame.Fetched {
	timeout := s.o.Timeout
	if d := time.Duration(f.Millis) * time.Millisecond; d > 0 && d < timeout {
		timeout = d
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := newRequest(ctx, f)
	if err != nil {
		return failure(conditionBadRequest, err.Error())
	}
	if f.Method == http.MethodHead && len(f.Body) > 0 {
		return failure(conditionHeadBody, "HEAD with a body")
	}
	allowed := func(hostPort string) bool {
		host, port, err := net.SplitHostPort(hostPort)
		n, portErr := strconv.ParseUint(port, 10, 16)
		return f.Trusted || (err == nil && portErr == nil && s.o.Policy.AllowsHost(host, uint16(n)))
	}
	target := hostPort(req.URL.Host, req.URL.Scheme)
	if !allowed(target) {
		return failure(conditionPolicy, target+": "+errPolicy.Error())
	}
	transport := s.clients.other
	if f.Trusted {
		transport = s.clients.trusted
	}
	if f.ConnectHost != "" {
		to := connectTo{instead: target, addr: hostPort(f.ConnectHost, req.URL.Scheme)}
		if !allowed(to.addr) {
			return failure(conditionPolicy, to.addr+": "+errPolicy.Error())
		}
		req = req.WithContext(context.WithValue(ctx, connectKey{}, to))
		// Connections are pooled by the URI's host; this one must be neither
		// taken from there nor left there.
		transport = transport.Clone()
		transport.DisableKeepAlives = true
	}
	client := http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		switch {
		case f.Redirects == 0:
			return http.ErrUseLastResponse
		case len(via) > min(int(f.Redirects), maxRedirects):
			return errRedirects
		case next.URL.Scheme != "http" && next.URL.Scheme != "https":
			return fmt.Errorf("redirect to the scheme %q", next.URL.Scheme)
		case !allowed(hostPort(next.URL.Host, next.URL.Scheme)):
			return fmt.Errorf("redirect to %s: %w", next.URL.Host, errPolicy)
		}
		if next.URL.Host != via[0].URL.Host {
			// net/http drops Authorization and Cookie itself.
			for _, secret := range []string{"Grip-Sig", "Proxy-Authorization"} {
				next.Header.Del(secret)
			}
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return failure(condition(err), err.Error())
	}
	defer func() { _ = resp.Body.Close() }()
	limit := s.o.MaxBody
	if n := int64(f.MaxBody); n > 0 && n < limit {
		limit = n
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return failure(condition(err), err.Error())
	}
	if int64(len(body)) > limit {
		return failure(conditionTooLarge, fmt.Sprintf("the response has more than %d bytes", limit))
	}
	r := &frame.Fetched{Code: uint16(resp.StatusCode), Body: body}
	_, r.Reason, _ = strings.Cut(resp.Status, " ")
	for name, values := range resp.Header {
		for _, v := range values {
			r.Header = append(r.Header, frame.Field{Name: name, Value: v})
		}
	}
	if len(r.Header) > frame.MaxHeaders {
		return failure(conditionUndefined, fmt.Sprintf("the response has %d header fields", len(r.Header)))
	}
	slices.SortStableFunc(r.Header, func(a, b frame.Field) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// newRequest checks what came over the bus: much of it was written by origins.
func newRequest(ctx context.Context, f *frame.Fetch) (*http.Request, error) {
	if !http1.ValidToken(f.Method) {
		return nil, fmt.Errorf("method %.40q", f.Method)
	}
	if u, err := url.Parse(f.URI); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, fmt.Errorf("want a URI http://HOST… or https://HOST…, not %.100q", f.URI)
	}
	req, err := http.NewRequestWithContext(ctx, f.Method, f.URI, bytes.NewReader(f.Body))
	if err != nil {
		return nil, err
	}
	if len(f.Body) == 0 {
		req.Body, req.GetBody = http.NoBody, nil
	}
	header := http1.RemoveHopByHop(slices.Clone(f.Header))
	for _, h := range http1.Del(header, "Host", "Content-Length", "Accept-Encoding", "Expect", "Trailer") {
		if !http1.ValidField(h) {
			return nil, fmt.Errorf("header field %.40q", h.Name)
		}
		req.Header.Add(h.Name, h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // net/http would add one
	}
	return req, nil
}

// hostPort adds the scheme's port if there is none.
func hostPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "80"
	if scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

func failure(condition, text string) *frame.Fetched {
	return &frame.Fetched{Condition: condition, Text: text}
}

// condition gives an error of net/http its name.
func condition(err error) string {
	var (
		op      *net.OpError
		dns     *net.DNSError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.Is(err, errPolicy):
		return conditionPolicy
	case errors.Is(err, errRedirects):
		return conditionRedirects
	case errors.Is(err, context.Canceled):
		return conditionStopping
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		return conditionConnectTimeout // it is a DeadlineExceeded too
	case errors.Is(err, context.DeadlineExceeded):
		return conditionTimeout
	case errors.As(err, &verify), errors.As(err, &record), errors.As(err, &alert), errors.As(err, &invalid):
		return conditionTLS
	case errors.As(err, &op) && op.Op == "remote error": // a TLS alert
		return conditionTLS
	case errors.As(err, &op) && op.Op == "dial", errors.As(err, &dns):
		return conditionConnectionFailed
	case strings.Contains(err.Error(), "TLS handshake timeout"): // net/http has no types for these two
		return conditionConnectTimeout
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return conditionTLS
	}
	return conditionUndefined
}

// bare is a URI without what may be secret, for the log.
func bare(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
