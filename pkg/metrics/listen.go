package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Listen opens a listener for PORT, ADDR:PORT or ipc://PATH. A bare port is
// bound on the address host, "" for all. The file of a unix socket is replaced
// if nobody answers on it.
func Listen(spec, host string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(spec, "ipc://"); ok {
		return listenUnix(path)
	}
	addr := spec
	if _, err := strconv.ParseUint(spec, 10, 16); err == nil {
		addr = net.JoinHostPort(host, spec)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("%q is not PORT, ADDR:PORT or ipc://PATH", spec)
	}
	return net.Listen("tcp", addr)
}

func listenUnix(path string) (net.Listener, error) {
	ln, err := net.Listen("unix", path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	if c, dialErr := net.Dial("unix", path); dialErr == nil {
		_ = c.Close()
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}
