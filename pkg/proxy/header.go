package proxy

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/route"
)

// markPrefix marks copies of the client's own header fields on routes with
// orig_headers, so that a second proxy behind this one can tell them from fields
// that were set on the way.
const markPrefix = "eb9bf0f5-"

// headerRules is what the header of a request to an origin depends on beside the
// client's own header.
type headerRules struct {
	set         []route.Header // of the route
	origHeaders bool
	needMark    []string
	trusted     bool
	internal    bool   // made on behalf of a hold: Grip-* fields are ours already
	grip        bool   // the route speaks GRIP
	sig         string // "" for none
	last        []frame.LastID
	dropRoute   bool // Pushpin-Route
	cdnLoop     string

	acceptProtocol bool
	setProtocol    ForwardedProtocol
	tls            bool // the client's side counts as TLS

	forwardedFor ForwardedFor
	peer         string // the client's address without port, "" if unknown
}

// apply returns the header for the origin. The order of the steps is part of the
// protocol: what a route sets is subject to all that follows, and Grip-* fields
// of clients go before ours are added. h is not changed.
func (r *headerRules) apply(h []frame.Field) []frame.Field {
	out := make([]frame.Field, 0, len(h)+8)
	out = append(out, h...)
	for _, set := range r.set {
		out = http1.Del(out, set.Name)
		if set.Value != "" {
			out = append(out, frame.Field{Name: set.Name, Value: set.Value})
		}
	}
	out = r.mark(out)
	out = r.dropConnection(out)
	if r.dropRoute {
		out = http1.Del(out, "Pushpin-Route")
	}
	if r.cdnLoop != "" {
		out = join(out, "CDN-Loop", append(grip.List(out, "CDN-Loop"), r.cdnLoop))
	}
	if !r.trusted {
		if !r.internal {
			out = grip.Strip(out)
		}
		if r.grip {
			if r.sig != "" {
				out = append(out, frame.Field{Name: "Grip-Sig", Value: r.sig})
			}
			out = append(out, frame.Field{Name: "Grip-Feature", Value: grip.Features})
			for _, l := range r.last {
				out = append(out, frame.Field{Name: "Grip-Last", Value: grip.FormatLast(l)})
			}
		}
	}
	if r.acceptProtocol || r.setProtocol != ForwardedProtocolOff {
		out = http1.Del(out, "X-Forwarded-Proto", "X-Forwarded-Protocol")
	}
	if r.tls && r.setProtocol != ForwardedProtocolOff {
		out = append(out, frame.Field{Name: "X-Forwarded-Proto", Value: "https"})
		if r.setProtocol == ForwardedProtocolBoth {
			out = append(out, frame.Field{Name: "X-Forwarded-Protocol", Value: "https"})
		}
	}
	return r.forwardFor(out)
}

// mark adds the marked copies, or removes what pretends to be one.
func (r *headerRules) mark(h []frame.Field) []frame.Field {
	if r.origHeaders && r.trusted {
		return h
	}
	var marked []frame.Field
	kept := h[:0]
	for _, f := range h {
		if len(f.Name) > len(markPrefix) && strings.EqualFold(f.Name[:len(markPrefix)], markPrefix) {
			marked = append(marked, f)
			continue
		}
		kept = append(kept, f)
		if r.origHeaders && !slices.ContainsFunc(r.needMark, func(n string) bool { return strings.EqualFold(n, f.Name) }) {
			marked = append(marked, frame.Field{Name: markPrefix + f.Name, Value: f.Value})
		}
	}
	if r.origHeaders {
		kept = append(kept, marked...)
	}
	return kept
}

// dropConnection removes what concerns the client's connection. TE stays, as it
// does in Pushpin, unless Connection names it. Where responses are read for
// instructs, origins must not encode them.
func (r *headerRules) dropConnection(h []frame.Field) []frame.Field {
	named := slices.Collect(http1.Tokens(h, "Connection"))
	kept := h[:0]
	for _, f := range h {
		if dropFromRequest(f.Name, r.grip && !r.trusted) {
			continue
		}
		if slices.ContainsFunc(named, func(n string) bool { return strings.EqualFold(n, f.Name) }) {
			continue
		}
		kept = append(kept, f)
	}
	return kept
}

func dropFromRequest(name string, grip bool) bool {
	switch len(name) {
	case 6:
		return strings.EqualFold(name, "Expect")
	case 7:
		return strings.EqualFold(name, "Upgrade")
	case 10:
		return strings.EqualFold(name, "Connection") || strings.EqualFold(name, "Keep-Alive")
	case 15:
		return grip && strings.EqualFold(name, "Accept-Encoding")
	case 16:
		return strings.EqualFold(name, "Proxy-Connection")
	case 17:
		return strings.EqualFold(name, "Transfer-Encoding")
	}
	return false
}

func (r *headerRules) forwardFor(h []frame.Field) []frame.Field {
	if !http1.Has(h, "X-Forwarded-For") && !r.forwardedFor.Append {
		return h
	}
	values := grip.List(h, "X-Forwarded-For")
	if f := r.forwardedFor; f.Truncate && len(values) > f.Keep {
		values = values[len(values)-f.Keep:]
	}
	if r.forwardedFor.Append && r.peer != "" {
		values = append(values, r.peer)
	}
	return join(h, "X-Forwarded-For", values)
}

// join replaces all fields of a name by one with all values, at the end.
func join(h []frame.Field, name string, values []string) []frame.Field {
	h = http1.Del(h, name)
	if len(values) == 0 {
		return h
	}
	return append(h, frame.Field{Name: name, Value: strings.Join(values, ", ")})
}

// setHost makes Host say host. A field that is there keeps its place and the
// case of its name.
func setHost(h []frame.Field, host string) []frame.Field {
	for i := range h {
		if strings.EqualFold(h[i].Name, "Host") {
			h[i].Value = host
			rest := http1.Del(h[i+1:], "Host")
			return h[:i+1+len(rest)]
		}
	}
	return slices.Insert(h, 0, frame.Field{Name: "Host", Value: host})
}

// clientTLS reports whether a request counts as one over TLS.
func clientTLS(scheme string, h []frame.Field, accept bool) bool {
	if scheme == "https" {
		return true
	}
	if !accept {
		return false
	}
	v, _ := http1.Get(h, "X-Forwarded-Proto")
	if v == "" {
		v, _ = http1.Get(h, "X-Forwarded-Protocol")
	}
	return v == "https" || v == "wss"
}

// peerIP returns the address in an "ip:port", without port.
func peerIP(peer string) string {
	host, _, err := net.SplitHostPort(peer)
	if err != nil {
		return ""
	}
	return host
}

// logicalAddress returns the address that a request is counted under. If the
// rule keeps some values of X-Forwarded-For, that many proxies before this one
// are known to add theirs, and the first value kept is the client's. Otherwise
// anybody could have written the header. (Pushpin believes its first value.)
func logicalAddress(h []frame.Field, rule ForwardedFor, peer string) string {
	if rule.Truncate && rule.Keep > 0 {
		if values := grip.List(h, "X-Forwarded-For"); len(values) > 0 {
			if addr, err := netip.ParseAddr(values[max(0, len(values)-rule.Keep)]); err == nil {
				return addr.String()
			}
		}
	}
	return peerIP(peer)
}
