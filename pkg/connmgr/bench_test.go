package connmgr

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

// BenchmarkRequests is requests over kept connections, with a proxy that answers
// at once on a bus in memory.
func BenchmarkRequests(b *testing.B) {
	r := newRig(b)
	r.far("proxy.0", func(f *far, got frame.Frame) bool {
		if req, ok := got.(*frame.Request); ok {
			f.send(&frame.Response{
				ID: req.ID, Code: 200, Reason: "OK", BodyLen: 5, Body: []byte("hello"),
				Header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Content-Length", Value: "5"}},
			})
		}
		return true
	})
	const conns = 50
	const want = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
	var wg sync.WaitGroup
	turns := make(chan struct{}, 1000)
	for range conns {
		nc, err := net.Dial("tcp", r.addr)
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			defer nc.Close()
			buf := make([]byte, len(want))
			for range turns {
				if _, err := io.WriteString(nc, "GET /plain HTTP/1.1\r\nHost: example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"); err != nil {
					b.Error(err)
					return
				}
				if _, err := io.ReadFull(nc, buf); err != nil || string(buf) != want {
					b.Errorf("%q, %v", buf, err)
					return
				}
			}
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		turns <- struct{}{}
	}
	close(turns)
	wg.Wait()
}
