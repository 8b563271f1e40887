// Package netpolicy decides which hosts and addresses may be called on behalf
// of others.
//
// There are two kinds of decision. [Public] knows the addresses that belong to
// nobody's business from outside. [Rules] is what an operator configures, in the
// form and with the meaning of Zurl's allow and deny lists.
//
// Whoever connects has to ask about the address it connects to, after resolving
// the name and once per address: a decision about the name alone is undone by
// the next answer of its name server.
package netpolicy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Rules is a default with lists of exceptions. A nil *Rules allows everything.
// It does not change and may be used by many goroutines.
type Rules struct {
	deny          bool // the default
	allow, denied []pattern
}

// New builds rules from their configured form. defaultPolicy is "allow" or
// "deny", "" meaning "allow". A pattern is one of
//
//	10.0.0.0/8          a network, for addresses
//	*.local, 127.*      text with a "*" for any text, for names and addresses
//	host.example, ::1   a name or an address
//	@internal           every address that is not Public
//
// and may end in a port or a range of ports, as in "*:25", "10.0.0.0/8:1-1023" or
// "[::1]:80". Letter case and a dot at the end of a name do not matter.
func New(defaultPolicy string, allow, deny []string) (*Rules, error) {
	r := &Rules{}
	switch defaultPolicy {
	case "", "allow":
	case "deny":
		r.deny = true
	default:
		return nil, errors.New(`default policy must be "allow" or "deny"`)
	}
	var err error
	if r.allow, err = parseAll(allow); err != nil {
		return nil, fmt.Errorf("allow: %w", err)
	}
	if r.denied, err = parseAll(deny); err != nil {
		return nil, fmt.Errorf("deny: %w", err)
	}
	return r, nil
}

// AllowsHost reports whether a request to host, a name or an address as it
// stands in a URI, may be tried at all. AllowsAddr still decides about each
// address of it.
func (r *Rules) AllowsHost(host string, port uint16) bool {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return r.AllowsAddr(addr, port)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return r.allows(subject{text: host, port: port})
}

// AllowsAddr reports whether a connection to addr may be made. An IPv6 address
// that stands for an IPv4 address has to be allowed as either.
func (r *Rules) AllowsAddr(addr netip.Addr, port uint16) bool {
	addr = addr.Unmap().WithZone("")
	if !r.allows(subject{text: addr.String(), addr: addr, port: port}) {
		return false
	}
	if inner := embedded(addr); inner != addr {
		return r.allows(subject{text: inner.String(), addr: inner, port: port})
	}
	return true
}

func (r *Rules) allows(s subject) bool {
	switch {
	case r == nil:
		return true
	case r.deny:
		return matchAny(r.allow, s) && !matchAny(r.denied, s)
	default:
		return !matchAny(r.denied, s) || matchAny(r.allow, s)
	}
}

// subject is what is asked about; addr is not valid if it is a name.
type subject struct {
	text string
	addr netip.Addr
	port uint16
}

type pattern struct {
	net            netip.Prefix // if valid, nothing below but the ports counts
	internal       bool         // likewise
	prefix, suffix string       // around the "*"
	exact          bool         // prefix is all there may be
	minPort        uint16
	maxPort        uint16
}

func matchAny(list []pattern, s subject) bool {
	for i := range list {
		if list[i].match(s) {
			return true
		}
	}
	return false
}

func (p *pattern) match(s subject) bool {
	if s.port < p.minPort || s.port > p.maxPort {
		return false
	}
	switch {
	case p.net.IsValid():
		return s.addr.IsValid() && p.net.Contains(s.addr)
	case p.internal:
		return s.addr.IsValid() && !Public(s.addr)
	case p.exact:
		return s.text == p.prefix
	}
	return len(s.text) >= len(p.prefix)+len(p.suffix) &&
		strings.HasPrefix(s.text, p.prefix) && strings.HasSuffix(s.text, p.suffix)
}

func parseAll(list []string) ([]pattern, error) {
	var out []pattern
	for _, s := range list {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := parse(s)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", s, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func parse(s string) (p pattern, err error) {
	p.maxPort = 65535
	host, ports := cutPorts(strings.ToLower(s))
	if ports != "" {
		low, high, isRange := strings.Cut(ports, "-")
		if !isRange {
			high = low
		}
		if p.minPort, err = parsePort(low); err != nil {
			return p, err
		}
		if p.maxPort, err = parsePort(high); err != nil {
			return p, err
		}
		if p.minPort > p.maxPort {
			return p, errors.New("range of ports ends before it begins")
		}
	}
	switch {
	case host == "@internal":
		p.internal = true
	case strings.Contains(host, "/"):
		if p.net, err = netip.ParsePrefix(host); err != nil {
			return p, errors.New("not a network")
		}
		p.net = p.net.Masked()
	case strings.Count(host, "*") > 1:
		return p, errors.New(`more than one "*"`)
	case strings.Contains(host, "*"):
		p.prefix, p.suffix, _ = strings.Cut(host, "*")
	default:
		p.exact = true
		p.prefix = strings.TrimSuffix(host, ".")
		if addr, err := netip.ParseAddr(host); err == nil {
			p.prefix = addr.Unmap().String()
		}
	}
	return p, nil
}

// cutPorts splits off what follows "]:", or a number that follows the only
// colon. More colons are an IPv6 address, and "fd00:*" is the start of one.
func cutPorts(s string) (host, ports string) {
	if strings.HasPrefix(s, "[") {
		if host, ports, ok := strings.Cut(s[1:], "]:"); ok {
			return host, ports
		}
		return strings.TrimSuffix(s[1:], "]"), ""
	}
	host, ports, ok := strings.Cut(s, ":")
	if ok && ports != "" && ports[0] >= '0' && ports[0] <= '9' && !strings.Contains(ports, ":") {
		return host, ports
	}
	return s, ""
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return uint16(n), nil
}
