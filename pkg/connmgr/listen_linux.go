package connmgr

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// waiting returns how many connections wait to be accepted.
func (l *listener) waiting() int {
	sc, ok := l.Listener.(syscall.Conn)
	if !ok {
		return 0
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = rc.Control(func(fd uintptr) { // a listener that is closed has none
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Unacked) // of a listener, the length of its queue
		}
	})
	return n
}
