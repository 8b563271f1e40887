package connmgr

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

// BenchmarkDeliver is publications from the bus to some thousand streams on the
// loopback interface, until every one is reported as delivered. The clients are
// one loop that reads and forgets, on the same processors.
func BenchmarkDeliver(b *testing.B) {
	const n = 4000
	r := newRig(b)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		b.Fatal(err)
	}
	addr := r.s.Addrs()[0].(*net.TCPAddr)
	fds := make([]int, 0, n)
	for i := range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			b.Fatal(err)
		}
		fds = append(fds, fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
			b.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
			b.Fatal(err)
		}
		f := h.stream("", "g", fmt.Sprint("own", i))
		f.ID = next[*frame.Request](p).ID
		h.send(&f)
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			b.Fatal(err)
		}
	}
	poll.Until(b, "held", func() bool { return r.parked() == n })
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		events := make([]unix.EpollEvent, 512)
		buf := make([]byte, 64<<10)
		for {
			k, err := unix.EpollWait(ep, events, 100)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			for _, ev := range events[:max(k, 0)] {
				_, _ = unix.Read(int(ev.Fd), buf)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	pub := uint64(0)
	for _, burst := range []int{1, 50} {
		b.Run(fmt.Sprintf("burst=%d", burst), func(b *testing.B) {
			h.t = b
			for b.Loop() {
				for range burst {
					pub++
					h.send(publish(pub, "g", string(repeat("x", 100))))
				}
				for left := n * burst; left > 0; {
					for _, o := range next[*frame.Report](h).Outcomes {
						left -= int(o.Delivered)
						for _, d := range o.Dropped {
							b.Fatalf("dropped: %v", d)
						}
					}
				}
			}
			b.ReportMetric(float64(b.N*n*burst)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
	b.Run("own channels", func(b *testing.B) {
		h.t = b
		const burst = 1000
		for b.Loop() {
			for i := range burst {
				pub++
				h.send(publish(pub, fmt.Sprint("own", i), string(repeat("x", 100))))
			}
			for left := burst; left > 0; {
				for _, o := range next[*frame.Report](h).Outcomes {
					left -= int(o.Delivered)
				}
			}
		}
		b.ReportMetric(float64(b.N*burst)/b.Elapsed().Seconds(), "deliveries/s")
	})
	close(stop)
	<-stopped
	for _, fd := range append(fds, ep) {
		_ = unix.Close(fd)
	}
}
