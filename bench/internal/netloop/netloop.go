//go:build linux

// Package netloop is one epoll loop on one goroutine. The measuring programs use
// it instead of package net, because on a small machine client and server share
// the cores: what the client costs is taken from the server that is measured.
//
// A Loop and everything registered with it belong to the goroutine that calls
// Run. Nothing in this package is safe for use from another one.
package netloop

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Interest in a socket, and what Ready reports about it.
const (
	In     = unix.EPOLLIN
	Out    = unix.EPOLLOUT
	Hangup = unix.EPOLLHUP | unix.EPOLLERR | unix.EPOLLRDHUP
)

// Handler is told that its socket can make progress. Registration is level
// triggered: a handler need not read everything, it is called again. It must
// bear being called when there is nothing to do, and after its own Close.
type Handler interface {
	Ready(events uint32)
}

// Loop waits for sockets and timers.
type Loop struct {
	epfd     int
	start    time.Time
	handlers []Handler // by file descriptor
	events   [1024]unix.EpollEvent
	timers   []timer // the first is due first
	soon     []func()
	buf      [64 << 10]byte // what every Conn reads into
}

type timer struct {
	at time.Duration
	f  func()
}

// New opens a loop.
func New() (*Loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &Loop{epfd: fd, start: time.Now()}, nil
}

// Now is the monotonic time since the loop was made.
func (l *Loop) Now() time.Duration { return time.Since(l.start) }

// Add registers a socket.
func (l *Loop) Add(fd int, events uint32, h Handler) error {
	for fd >= len(l.handlers) {
		l.handlers = append(l.handlers, make([]Handler, len(l.handlers)+64)...)
	}
	l.handlers[fd] = h
	return l.ctl(unix.EPOLL_CTL_ADD, fd, events)
}

// Modify changes what a registered socket waits for.
func (l *Loop) Modify(fd int, events uint32) error {
	return l.ctl(unix.EPOLL_CTL_MOD, fd, events)
}

// Remove takes a socket off the loop, without closing it.
func (l *Loop) Remove(fd int) error {
	l.handlers[fd] = nil
	return l.ctl(unix.EPOLL_CTL_DEL, fd, 0)
}

func (l *Loop) ctl(op, fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, op, fd, &ev); err != nil {
		return fmt.Errorf("epoll ctl: %w", err)
	}
	return nil
}

// Close forgets a socket and closes it. With abort it is reset instead, which
// leaves no TIME_WAIT behind: a run of ten thousand connections would otherwise
// eat the ports of the next.
func (l *Loop) Close(fd int, abort bool) {
	if fd < len(l.handlers) {
		l.handlers[fd] = nil
	}
	if abort {
		// A failure leaves an ordinary close, which is good enough.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_ = unix.Close(fd)
}

// After calls f from Run once d has passed.
func (l *Loop) After(d time.Duration, f func()) {
	t := timer{at: l.Now() + d, f: f}
	i, _ := slices.BinarySearchFunc(l.timers, t.at, func(other timer, at time.Duration) int {
		if other.at <= at {
			return -1
		}
		return 1
	})
	l.timers = slices.Insert(l.timers, i, t)
}

// Soon calls f from Run, after the current batch of events.
func (l *Loop) Soon(f func()) { l.soon = append(l.soon, f) }

// Run serves sockets and timers until done says so. It asks after every batch
// of events.
func (l *Loop) Run(done func() bool) error {
	for !done() {
		n, err := unix.EpollWait(l.epfd, l.events[:], l.wait())
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll wait: %w", err)
		}
		for i := range max(n, 0) {
			ev := &l.events[i]
			if h := l.handlers[ev.Fd]; h != nil {
				h.Ready(ev.Events)
			}
		}
		l.fire()
		for len(l.soon) > 0 {
			now := l.soon
			l.soon = nil
			for _, f := range now {
				f()
			}
		}
	}
	return nil
}

// Wait runs the loop until done says so or d has passed, and tells whether done.
func (l *Loop) Wait(d time.Duration, done func() bool) (bool, error) {
	late := false
	l.After(d, func() { late = true })
	err := l.Run(func() bool { return late || done() })
	return !late || done(), err
}

// Sleep serves sockets for d.
func (l *Loop) Sleep(d time.Duration) error {
	_, err := l.Wait(d, func() bool { return false })
	return err
}

// wait is the number of milliseconds until the next timer, rounded up.
func (l *Loop) wait() int {
	if len(l.soon) > 0 {
		return 0
	}
	if len(l.timers) == 0 {
		return 1000
	}
	left := l.timers[0].at - l.Now()
	return int(min(max(left+time.Millisecond-1, 0)/time.Millisecond, 1000))
}

func (l *Loop) fire() {
	now := l.Now()
	for len(l.timers) > 0 && l.timers[0].at <= now {
		// Remove before the call: f may add timers.
		f := l.timers[0].f
		l.timers = slices.Delete(l.timers, 0, 1)
		f()
	}
}

// Dial begins a TCP connection from the given source address (port 0: any).
// It is established, or has failed, once the socket is writable.
func Dial(from, to netip.AddrPort) (int, error) { return dialWith(from, to, false) }

// dialWith is Dial. A narrow connection has a small receive buffer, and segments of
// the size that they have outside of a machine, so that the far end's send
// buffer stays below 100 KB as well; on the loopback interface it would be 2.6 MB.
func dialWith(from, to netip.AddrPort, narrow bool) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if narrow {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400)
		}
	}
	if err == nil {
		err = dial(fd, from, to)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("dial %s: %w", to, err)
	}
	return fd, nil
}

func dial(fd int, from, to netip.AddrPort) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if from.IsValid() {
		// Lets the kernel pick the port at connect, when it knows the peer:
		// otherwise all connections of one address would share one port range.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, sockaddr(from)); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		return err
	}
	return nil
}

// Listen opens a listening socket and returns the address it got.
func Listen(at netip.AddrPort) (int, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, at, fmt.Errorf("socket: %w", err)
	}
	got, err := listen(fd, at)
	if err != nil {
		_ = unix.Close(fd)
		return -1, at, fmt.Errorf("listen %s: %w", at, err)
	}
	return fd, got, nil
}

func listen(fd int, at netip.AddrPort) (netip.AddrPort, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return at, err
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return at, err
	}
	if err := unix.Listen(fd, 65535); err != nil { // the kernel lowers it to somaxconn
		return at, err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return at, err
	}
	in, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return at, fmt.Errorf("unexpected address type %T", sa)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)), nil
}

// Accept takes one waiting connection; it returns -1 if there is none.
func Accept(fd int) (int, error) {
	c, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch err {
	case nil:
	case unix.EAGAIN, unix.EINTR, unix.ECONNABORTED:
		return -1, nil
	default:
		return -1, fmt.Errorf("accept: %w", err)
	}
	if err := unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		_ = unix.Close(c)
		return -1, fmt.Errorf("accept: %w", err)
	}
	return c, nil
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}
