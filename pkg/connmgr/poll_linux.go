package connmgr

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller watches sockets of which nobody knows when something will come, without
// a goroutine for each. It is an epoll instance that is itself watched by the
// scheduler of Go.
type poller struct {
	file *os.File
	rc   syscall.RawConn
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err = unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll")}
	if p.rc, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return p, nil
}

// interest is what a poller looks for on a socket. That the client is gone is
// always part of it.
type interest uint32

const (
	interestInput interest = unix.EPOLLIN | unix.EPOLLRDHUP // it can be read from, be it its end
	interestEnd   interest = unix.EPOLLRDHUP                // the client has shut its sending side down
	interestGone  interest = 0
)

// watch has ready called with id, once, as soon as what is looked for is there.
// again says that s was watched before. It returns false if the kernel does not
// want that. A socket that is closed is forgotten.
func (p *poller) watch(s *sock, id uint64, what interest, again bool) bool {
	ev := unix.EpollEvent{Events: uint32(what) | unix.EPOLLONESHOT, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	op := unix.EPOLL_CTL_ADD
	if again {
		op = unix.EPOLL_CTL_MOD
	}
	watched := false
	_ = p.rc.Control(func(ep uintptr) { // fails on what is closed only
		_ = s.rc.Control(func(fd uintptr) {
			watched = unix.EpollCtl(int(ep), op, int(fd), &ev) == nil
		})
	})
	return watched
}

// run calls ready until the poller is closed. gone says that the client is, and
// not only that it has something to say.
func (p *poller) run(ready func(id uint64, gone bool)) {
	events := make([]unix.EpollEvent, 256)
	for {
		n := 0
		var fault error
		err := p.rc.Read(func(ep uintptr) bool {
			n, fault = unix.EpollWait(int(ep), events, 0)
			return n > 0 || fault != nil
		})
		if err != nil || fault != nil && !errors.Is(fault, unix.EINTR) {
			return
		}
		for _, ev := range events[:max(n, 0)] {
			ready(uint64(uint32(ev.Fd))|uint64(uint32(ev.Pad))<<32, ev.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0)
		}
	}
}

func (p *poller) close() { _ = p.file.Close() }
