package outbound

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// target is a URI taken apart. Nothing else in the package looks at the text of
// a URI, so there is one meaning to it: the host that is judged is the one that
// is connected to and named in Host.
type target struct {
	scheme string // http, https, ws or wss
	host   string // lower case, without brackets; an address in its usual form
	port   uint16
	path   string // with the query, as it was written
	basic  string // value of Authorization for the user in the URI; "" for none
}

func (t *target) tls() bool { return t.scheme == "https" || t.scheme == "wss" }

func (t *target) websocket() bool { return t.scheme == "ws" || t.scheme == "wss" }

// addr is host and port, for connecting.
func (t *target) addr() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// hostField is the value of Host: with the port only if it is not the usual one,
// without a zone, which is for this machine only.
func (t *target) hostField() string {
	host, _, _ := strings.Cut(t.host, "%")
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if t.port == defaultPort(t.tls()) {
		return host
	}
	return host + ":" + strconv.Itoa(int(t.port))
}

// sameOrigin reports whether credentials for t may be shown to o.
func (t *target) sameOrigin(o *target) bool {
	return t.scheme == o.scheme && t.host == o.host && t.port == o.port
}

func (t *target) String() string { return t.scheme + "://" + t.addr() + t.path }

func defaultPort(tls bool) uint16 {
	if tls {
		return 443
	}
	return 80
}

// parseURI takes a URI with an authority apart. It is strict about the
// authority, where another reading than that of the name's owner is dangerous,
// and leaves the rest as it is.
func parseURI(uri string) (*target, error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	t := &target{scheme: strings.ToLower(scheme)}
	switch t.scheme {
	case "http", "https", "ws", "wss":
	default:
		ok = false
	}
	if !ok {
		return nil, fmt.Errorf("want a URI http://HOST…, https://HOST…, ws://HOST… or wss://HOST…, not %.100q", uri)
	}
	rest, _, _ = strings.Cut(rest, "#")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	if t.path = rest[end:]; !strings.HasPrefix(t.path, "/") {
		t.path = "/" + t.path
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, err := url.PathUnescape(authority[:i])
		if err != nil || strings.ContainsAny(authority[:i], `\[]@`) {
			return nil, errors.New("user in the URI")
		}
		if !strings.Contains(user, ":") {
			user += ":"
		}
		t.basic = "Basic " + base64.StdEncoding.EncodeToString([]byte(user))
		authority = authority[i+1:]
	}
	var err error
	if t.host, t.port, err = parseHostPort(authority, defaultPort(t.tls())); err != nil {
		return nil, err
	}
	return t, nil
}

// parseHostPort reads HOST or HOST:PORT.
func parseHostPort(s string, port uint16) (string, uint16, error) {
	host, rest := s, ""
	if strings.HasPrefix(s, "[") {
		i := strings.IndexByte(s, ']')
		if i < 0 {
			return "", 0, fmt.Errorf("host %.100q", s)
		}
		host, rest = s[:i+1], s[i+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, rest = s[:i], s[i:]
	}
	host, err := parseHost(host)
	if err != nil {
		return "", 0, err
	}
	if rest == "" || rest == ":" {
		return host, port, nil
	}
	n, err := strconv.ParseUint(rest[1:], 10, 16)
	if err != nil || rest[0] != ':' || n == 0 {
		return "", 0, fmt.Errorf("port in %.100q", s)
	}
	return host, uint16(n), nil
}

// parseHost brings a host into the form that is judged and looked up. A name
// that browsers and C libraries take for an IPv4 address becomes that address
// here and not somewhere on the way, where it could be another.
func parseHost(s string) (string, error) {
	bad := fmt.Errorf("host %.100q", s)
	if strings.HasPrefix(s, "[") {
		inner := strings.Replace(s[1:len(s)-1], "%25", "%", 1)
		a, err := netip.ParseAddr(inner)
		if err != nil || !a.Is6() || strings.ContainsAny(a.Zone(), "%/?#@:[]\\ \t\r\n\x00") {
			return "", bad
		}
		return a.String(), nil
	}
	host := strings.ToLower(s)
	if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) >= 0 {
		var err error
		if host, err = idna.Lookup.ToASCII(s); err != nil {
			return "", bad
		}
	}
	if host == "" || host[0] == '.' || len(host) > 254 {
		return "", bad
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.' && host[i-1] != '.':
		default:
			return "", bad
		}
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	if last := labels[len(labels)-1]; !isNumber(last) {
		return host, nil
	}
	addr, ok := parseIPv4(labels)
	if !ok {
		return "", bad
	}
	return addr.String(), nil
}

// isNumber reports whether a name that ends with the label s is meant to be an
// IPv4 address (WHATWG URL, "ends in a number").
func isNumber(s string) bool {
	if digits(s, 10) {
		return true
	}
	_, ok := parseNumber(s)
	return ok
}

func digits(s string, base int) bool {
	for _, c := range s {
		if v := strings.IndexRune("0123456789abcdef", c); v < 0 || v >= base {
			return false
		}
	}
	return s != ""
}

// parseNumber reads a part of an IPv4 address: decimal, octal with a 0 before,
// hexadecimal with 0x before.
func parseNumber(s string) (uint64, bool) {
	base := 10
	if rest, ok := strings.CutPrefix(s, "0x"); ok {
		if rest == "" {
			return 0, true
		}
		s, base = rest, 16
	} else if len(s) > 1 && s[0] == '0' {
		s, base = s[1:], 8
	}
	if !digits(s, base) {
		return 0, false
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil
}

// parseIPv4 reads one to four numbers, the last of which fills the bytes that
// are left, as inet_aton does.
func parseIPv4(parts []string) (netip.Addr, bool) {
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, p := range parts {
		n, ok := parseNumber(p)
		limit, shift := uint64(1)<<8, 24-8*i
		if i == len(parts)-1 {
			limit, shift = uint64(1)<<(32-8*i), 0
		}
		if !ok || n >= limit {
			return netip.Addr{}, false
		}
		v |= n << shift
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true //nolint:gosec // four bytes, by the limits
}

// redirect returns where a Location leads to from t.
func (t *target) redirect(location string) (*target, error) {
	to := location
	scheme, _, hasScheme := strings.Cut(location, ":")
	switch {
	case strings.HasPrefix(location, "//"):
		to = t.scheme + ":" + location
	case !hasScheme || scheme == "" || strings.ContainsAny(scheme, "/?#"):
		base, err := url.Parse(t.String())
		if err != nil {
			return nil, err
		}
		u, err := base.Parse(location)
		if err != nil {
			return nil, err
		}
		to = u.String()
	}
	next, err := parseURI(to)
	if err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	if t.websocket() != next.websocket() {
		if !t.websocket() {
			return nil, fmt.Errorf("redirect to the scheme %s", next.scheme)
		}
		next.scheme = strings.Replace(next.scheme, "http", "ws", 1)
	}
	next.basic = "" // what a response names is nobody's credential
	return next, nil
}
