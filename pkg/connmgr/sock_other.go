//go:build unix && !linux

package connmgr

import (
	"errors"

	"golang.org/x/sys/unix"
)

// pollHangup cannot tell a half-closed connection from a closed one here, so a
// client that shuts its sending side down counts as gone.
func pollHangup(fd int) hangup {
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == nil && n == 0:
		return hangupGone
	case err == nil, errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return hangupNone
	}
	return hangupGone
}

// writeNow makes one write(2) call, which must not be able to block.
func writeNow(fd int32, p []byte) (int, error) {
	for {
		n, err := unix.Write(int(fd), p)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, err
		}
	}
}
