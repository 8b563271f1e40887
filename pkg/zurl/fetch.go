package zurl

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/outbound"
)

// conditionTooBusy is ours: Zurl has no such bound.
const conditionTooBusy = "too-busy"

// conditions are those of a Fetched without a response, and of error packets.
var conditions = []string{
	outbound.BadRequest, outbound.PolicyViolation, outbound.ConnectionFailed, outbound.ConnectTimeout, outbound.TLSError, outbound.BodyNotAllowed,
	outbound.TooManyRedirects, outbound.MaxSizeExceeded, outbound.SessionTimeout, outbound.Undefined, outbound.Stopping, conditionTooBusy,
}

// maxBody keeps a result well below the largest frame.
const maxBody = 4 << 20

// maxRedirects is the most that a request may follow.
const maxRedirects = 8

// fetch makes one request.
func (s *Server) fetch(ctx context.Context, f *frame.Fetch) *frame.Fetched {
	timeout := s.o.FetchTimeout
	if d := time.Duration(f.Millis) * time.Millisecond; d > 0 && d < timeout {
		timeout = d
	}
	limit := s.o.MaxBody
	if n := int64(f.MaxBody); n > 0 && n < limit {
		limit = n
	}
	resp, err := s.client.Fetch(ctx, &outbound.Request{
		Method: f.Method, URI: f.URI, Header: f.Header, Body: f.Body,
		Timeout: timeout, MaxBody: limit, Redirects: min(int(f.Redirects), maxRedirects),
		ConnectHost: f.ConnectHost, IgnorePolicies: f.Trusted,
	})
	switch {
	case err != nil:
		return failure(outbound.Condition(err), err.Error())
	case len(resp.Header) > frame.MaxHeaders:
		return failure(outbound.Undefined, fmt.Sprintf("the response has %d header fields", len(resp.Header)))
	}
	return &frame.Fetched{Code: uint16(resp.Code), Reason: resp.Reason, Header: resp.Header, Body: resp.Body} //nolint:gosec // three digits
}

func failure(condition, text string) *frame.Fetched {
	return &frame.Fetched{Condition: condition, Text: text}
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
