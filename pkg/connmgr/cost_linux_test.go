package connmgr

import (
	"bytes"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
)

// What one held connection costs in this process, stack of its goroutine and
// hold record included. Clients are bare descriptors, which cost nothing here.
func TestMemoryPerHold(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector adds memory of its own, so the figure says nothing; the run without it measures")
	}
	const n = 2000
	for _, tc := range []struct {
		mode frame.Mode
		max  int
	}{{frame.ModeStream, 2048}, {frame.ModeResponse, 3072}} {
		t.Run(tc.mode.String(), func(t *testing.T) {
			r := newRig(t)
			p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
			addr := r.s.Addrs()[0].(*net.TCPAddr)
			fds := make([]int, 0, 2*n)
			t.Cleanup(func() {
				for _, fd := range fds {
					_ = unix.Close(fd)
				}
			})
			hold := func(n int) {
				for range n {
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
					if err != nil {
						t.Fatal(err)
					}
					fds = append(fds, fd)
					sa := &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
					if err := unix.Connect(fd, sa); err != nil {
						t.Fatal(err)
					}
					if _, err := unix.Write(fd, []byte("GET /stream?x=y HTTP/1.1\r\nHost: example.org\r\nUser-Agent: something or other\r\nAccept: */*\r\nX-Other: value\r\n\r\n")); err != nil {
						t.Fatal(err)
					}
					f := h.stream("hello", "group key of a channel")
					if tc.mode == frame.ModeResponse {
						f = h.response("group key of a channel")
					}
					f.KeepAlive = frame.KeepAlive{Data: []byte("\n"), Millis: 55000}
					f.Record = repeat("r", 400)
					f.ID = next[*frame.Request](p).ID
					h.send(&f)
				}
			}
			inUse := func() uint64 {
				p.stash, h.stash = nil, nil
				runtime.GC()
				runtime.GC() // empties the pools
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc + m.StackInuse
			}
			hold(100)
			poll.Until(t, "held", func() bool { return r.parked() == 100 })
			before := inUse()
			hold(n)
			poll.Until(t, "held", func() bool { return r.parked() == 100+n })
			each := int(inUse()-before) / n
			t.Logf("%d bytes for each held connection", each)
			if each > tc.max {
				t.Errorf("%d bytes for each held connection, want at most %d", each, tc.max)
			}
		})
	}
}

// parked counts the holds whose connection's own goroutine has ended.
func (r *rig) parked() int {
	n := 0
	for _, w := range r.s.writers {
		count := make(chan int)
		w.push(job{kind: jobRecords, rec: &recordsJob{to: &peer{}, last: func() {
			c := 0
			r.s.mu.Lock()
			for _, x := range r.s.exchanges {
				if x.hold != nil && x.hold.w == w && x.hold.parked {
					c++
				}
			}
			r.s.mu.Unlock()
			count <- c
		}}})
		n += <-count
	}
	return n
}

// A delivery is one system call, and so are many that are written together.
func TestWritesPerDelivery(t *testing.T) {
	const n, rounds = 50, 20
	w, g := members(t, n)
	d := newDelivery(&peer{}, publish(1, "g", "hello"))
	for _, tc := range []struct {
		name string
		run  []job
	}{
		{"one", []job{{kind: jobDeliver, d: d, g: g}}},
		{"run of four", slices.Repeat([]job{{kind: jobDeliver, d: d, g: g}}, 4)},
	} {
		before := writeCalls(t)
		for range rounds {
			w.fanOut(g, tc.run)
		}
		// The runtime wakes its own poller with a write now and then.
		if got := writeCalls(t) - before; got < n*rounds || got > n*rounds*11/10 {
			t.Errorf("%s: %d write calls for %d members, %d times", tc.name, got, n, rounds)
		}
	}
}

// writeCalls returns how many write calls this process has made.
func writeCalls(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		need.Missing(t, "this kernel does not count the system calls of a process (CONFIG_TASK_IO_ACCOUNTING): %v", err)
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("syscw: ")); ok {
			n, err := strconv.Atoi(string(bytes.TrimSpace(rest)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no syscw in /proc/self/io")
	return 0
}
