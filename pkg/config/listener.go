package config

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Listener is one place where clients connect.
type Listener struct {
	Network string // "tcp" or "unix"
	Addr    string // HOST:PORT or a path
	TLS     bool
	// Mode, User and Group are for unix sockets; empty leaves them alone.
	Mode        Mode
	User, Group string
}

// Listeners returns the client listeners of [runner]. Load has checked them.
func (c *Config) Listeners() ([]Listener, error) {
	var all []Listener
	for _, item := range c.Runner.HTTPPort {
		l, err := parsePort(item)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	for _, item := range c.Runner.HTTPSPorts {
		l, err := parsePort(item)
		if err != nil {
			return nil, err
		}
		l.TLS = true
		all = append(all, l)
	}
	for _, item := range c.Runner.LocalPorts {
		l, err := parseLocal(item)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// ControlSocket returns the unix socket of the control API, its address empty if
// there is none. Load has checked it.
func (c *Config) ControlSocket() (Listener, error) {
	if c.Handler.PushInHTTPLocal == "" {
		return Listener{}, nil
	}
	return parseLocal(c.Handler.PushInHTTPLocal)
}

// ParseListen reads connmgr's flag --listen: [ADDR:]PORT[,tls] or
// PATH,local[,mode=OCTAL][,user=NAME][,group=NAME]. Pushpin's words stream, for the
// only kind of listener there is here, and default-cert=default_PORT, the only
// choice there is, are accepted.
func ParseListen(s string) (Listener, error) {
	parts := strings.Split(s, ",")
	var l Listener
	local := false
	for _, p := range parts[1:] {
		key, text, _ := strings.Cut(p, "=")
		switch key {
		case "stream":
		case "req":
			return l, fmt.Errorf("listen %s: listeners of the kind req are not part of Holdfast", quote(s))
		case "tls":
			l.TLS = true
		case "default-cert":
			if _, port, _ := cutLast(":"+parts[0], ":"); text != "default_"+port {
				return l, fmt.Errorf("listen %s: the default certificate of this port is default_%s", quote(s), port)
			}
		case "local":
			local = true
		case "mode":
			m, err := parseMode(text)
			if err != nil {
				return l, fmt.Errorf("listen %s: %w", quote(s), err)
			}
			l.Mode = m
		case "user":
			l.User = text
		case "group":
			l.Group = text
		default:
			return l, fmt.Errorf("listen %s: unknown word %s", quote(s), quote(p))
		}
	}
	if local {
		l.Network, l.Addr = "unix", parts[0]
		if l.Addr == "" || l.TLS {
			return l, fmt.Errorf("listen %s: a local listener is a path, without TLS", quote(s))
		}
		return l, nil
	}
	p, err := parsePort(parts[0])
	if err != nil {
		return l, fmt.Errorf("listen: %w", err)
	}
	l.Network, l.Addr = p.Network, p.Addr
	return l, nil
}

// parsePort reads [ADDR:]PORT.
func parsePort(s string) (Listener, error) {
	host, port, ok := cutLast(s, ":")
	if !ok {
		host, port = "", s
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || (n == 0 && port != "0") {
		return Listener{}, fmt.Errorf("%s is not a port: want [ADDR:]PORT with a port up to 65535", quote(s))
	}
	if host == "" {
		if ok {
			return Listener{}, fmt.Errorf("%s has no address before the colon", quote(s))
		}
		return Listener{Network: "tcp", Addr: "0.0.0.0:" + port}, nil
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil || strings.ContainsAny(addr.Addr().Zone(), "[]") {
		return Listener{}, fmt.Errorf("%s: %s is not an IP address (IPv6 in brackets)", quote(s), quote(host))
	}
	return Listener{Network: "tcp", Addr: addr.String()}, nil
}

// parseLocal reads PATH[?mode=OCTAL&user=NAME&group=NAME].
func parseLocal(s string) (Listener, error) {
	path, query, _ := strings.Cut(s, "?")
	l := Listener{Network: "unix", Addr: path}
	if path == "" || strings.ContainsRune(path, os.PathListSeparator) {
		return l, fmt.Errorf("%s is not a socket path", quote(s))
	}
	for _, p := range strings.Split(query, "&") {
		key, text, _ := strings.Cut(p, "=")
		switch key {
		case "":
		case "mode":
			m, err := parseMode(text)
			if err != nil {
				return l, err
			}
			l.Mode = m
		case "user":
			l.User = text
		case "group":
			l.Group = text
		default:
			return l, fmt.Errorf("%s: unknown option %s: want mode, user or group", quote(s), quote(key))
		}
	}
	return l, nil
}

// cutLast cuts around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
