package metrics

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/unixsock"
)

// Listen opens a listener for PORT, ADDR:PORT or ipc://PATH. A bare port is
// bound on the address host, "" for all. The file of a unix socket is replaced
// if nobody answers on it.
func Listen(spec, host string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(spec, "ipc://"); ok {
		return unixsock.Listen(context.Background(), path, unixsock.Access{})
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
