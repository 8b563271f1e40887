package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// maxSocketPath is the longest path of a unix socket that every system takes.
const maxSocketPath = 103

// keepAlive finds out within a minute that the other host has gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 6}

// parseSpec splits a ZeroMQ spec ("ipc:///run/x", "tcp://127.0.0.1:5560",
// "tcp://*:5560") into what package net wants.
func parseSpec(spec string) (network, addr string, err error) {
	scheme, rest, ok := strings.Cut(spec, "://")
	if !ok || rest == "" {
		return "", "", fmt.Errorf("spec %q: want ipc://PATH or tcp://HOST:PORT", spec)
	}
	switch scheme {
	case "ipc":
		if len(rest) > maxSocketPath {
			return "", "", fmt.Errorf("spec %q: the path has %d bytes, a socket's may have %d; choose a shorter run directory",
				spec, len(rest), maxSocketPath)
		}
		return "unix", rest, nil
	case "tcp":
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			return "", "", fmt.Errorf("spec %q: %w", spec, err)
		}
		if host == "*" {
			host = ""
		}
		if port == "*" {
			port = "0"
		}
		return "tcp", net.JoinHostPort(host, port), nil
	}
	return "", "", fmt.Errorf("spec %q: unknown transport %q, want ipc or tcp", spec, scheme)
}

// specOf is the reverse of parseSpec, for the address that a listener got.
func specOf(a net.Addr) string {
	if a.Network() == "unix" {
		return "ipc://" + a.String()
	}
	return "tcp://" + a.String()
}

// listen binds spec. A socket file that a dead process left behind is replaced;
// one that is answered is not.
func listen(spec string, mode fs.FileMode) (net.Listener, error) {
	network, addr, err := parseSpec(spec)
	if err != nil {
		return nil, err
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := lc.Listen(context.Background(), network, addr)
	if network == "unix" && errors.Is(err, syscall.EADDRINUSE) && stale(addr) {
		if err := os.Remove(addr); err != nil {
			return nil, fmt.Errorf("bind %s: remove the socket of a dead process: %w", spec, err)
		}
		l, err = lc.Listen(context.Background(), network, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", spec, err)
	}
	if network == "unix" && mode != 0 {
		if err := os.Chmod(addr, mode); err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("bind %s: %w", spec, err)
		}
	}
	return l, nil
}

// stale reports whether path is a socket at which nobody listens.
func stale(path string) bool {
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func dial(ctx context.Context, spec string, timeout time.Duration) (net.Conn, error) {
	network, addr, err := parseSpec(spec)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: timeout, KeepAliveConfig: keepAlive}
	return d.DialContext(ctx, network, addr)
}
