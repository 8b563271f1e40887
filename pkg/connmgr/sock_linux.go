package connmgr

import (
	"errors"
	"unsafe"

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

// writeNow makes one write(2) call, which must not be able to block. The
// scheduler is not told of it: that, and the lock and the bookkeeping around a
// net.Conn, would cost a tenth of a fan-out.
func writeNow(fd int32, p []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, e
		}
	}
}
