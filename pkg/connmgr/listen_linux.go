package connmgr

import (
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// waiting returns how many connections wait to be accepted.
func (l *listener) waiting() int {
	n := 0
	l.control(func(fd int) { // a listener that is closed has none
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Unacked) // of a listener, the length of its queue
		}
	})
	return n
}

// migrates is where the kernel says whether it gives what waits at a listener
// that closes to another one.
const migrates = "/proc/sys/net/ipv4/tcp_migrate_req"

// ignoreSYN has the kernel ignore whoever begins to connect, and reports whether it
// does. Clients repeat a SYN that is not answered after a second, and by then
// another listener of the same port answers it. Who has begun already is not
// concerned.
func (l *listener) ignoreSYN() bool {
	if on, err := os.ReadFile(migrates); err == nil && on[0] == '1' {
		return false // nobody is lost, so nobody has to come again
	}
	const flags, syn, ack = 13, 0x02, 0x10 // of a TCP header, which is what the filter sees
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},              // dropped
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32}, // whole
	}
	done := false
	if l.Addr().Network() == "tcp" {
		l.control(func(fd int) {
			done = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}) == nil
		})
	}
	return done
}

func (l *listener) control(f func(fd int)) {
	sc, ok := l.Listener.(syscall.Conn)
	if !ok {
		return
	}
	if rc, err := sc.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { f(int(fd)) })
	}
}
