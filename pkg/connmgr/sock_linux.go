package connmgr

import (
	"errors"

	"golang.org/x/sys/unix"
)

func pollHangup(fd int) hangup {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	for {
		if _, err := unix.Poll(fds[:], 0); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0:
		return hangupGone
	case fds[0].Revents&unix.POLLRDHUP != 0:
		return hangupHalf
	}
	return hangupNone
}
