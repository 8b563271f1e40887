// Package outbound makes HTTP requests and WebSocket connections to addresses
// that somebody else chose: a filter, the owner of a webhook, whoever talks to
// zurl's sockets. It takes care of everything that can be wrong with them.
//
//	c, err := outbound.New(outbound.Options{Policy: rules})
//	resp, err := c.Fetch(ctx, &outbound.Request{
//		Method: "POST", URI: "https://hooks.example/x", Header: h, Body: b,
//		Timeout: 15 * time.Second, MaxBody: 64 << 10,
//	})
//
// [Client.Fetch] reads the whole response, up to MaxBody decoded bytes.
// [Client.Do] gives it as a stream, and takes the body of the request as one.
// [Client.WebSocket] makes a WebSocket connection. Every error is an [*Error]
// with one of the conditions below.
//
// # The policy
//
// A request is refused (PolicyViolation) if the policy forbids its host or
// ConnectHost as written, or all addresses that it has. The name is looked up
// once and what is connected to is what was judged, so another answer of its
// name server a moment later changes nothing. Each redirect is judged as a
// request of its own. Connections are kept by what was checked when they were
// made: one that was opened with IgnorePolicies or IgnoreTLSErrors is never used
// by a request without. Proxies that the environment names are not used.
//
// # Redirects
//
// They are followed if Redirects is set, keep method and body as curl does when
// told to, lead to http and https only, and lose Authorization, Cookie and other
// credentials when they leave the scheme, host or port. ConnectHost holds for the
// first host only.
package outbound
