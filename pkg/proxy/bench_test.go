package proxy

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

// benchOrigin answers whatever ends with an empty line.
func benchOrigin(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				answer := []byte(ok("Content-Type: text/plain\nServer: bench", "hello, world"))
				for {
					line, err := br.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) > 2 {
						continue
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// answered tells when the response to a request has come.
type answered struct {
	mu   sync.Mutex
	done map[uint64]chan struct{}
}

func (*answered) PeerUp(bus.Peer)                    {}
func (*answered) PeerDown(bus.Peer)                  {}
func (*answered) Broadcast(bus.Peer, string, []byte) {}
func (a *answered) Receive(_ bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if r, ok := f.(*frame.Response); err == nil && ok && !r.More {
		a.mu.Lock()
		done := a.done[r.ID]
		delete(a.done, r.ID)
		a.mu.Unlock()
		close(done)
	}
}

// BenchmarkRelay is one small request and response through the proxy, with the
// bus in memory and the origin in the same process.
func BenchmarkRelay(b *testing.B) {
	net := bustest.NewNetwork()
	opts := DefaultOptions()
	opts.Bus, opts.Registerer, opts.Logger = net.Node("proxy.0"), prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	opts.SigKey = "changeme"
	opts.RoutesFile = filepath.Join(b.TempDir(), "routes")
	if err := os.WriteFile(opts.RoutesFile, []byte("* "+benchOrigin(b)), 0o600); err != nil {
		b.Fatal(err)
	}
	srv, err := New(opts)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Run(ctx) })
	conn := net.Node("connmgr.0")
	a := &answered{done: map[uint64]chan struct{}{}}
	running.Go(func() { _ = conn.Run(ctx, a) })
	defer running.Wait()
	defer cancel()
	poll.Until(b, "the two to know each other", func() bool { return len(conn.Peers("proxy")) > 0 && len(opts.Bus.Peers("connmgr")) > 0 })
	header := lines("Host: example.com\nUser-Agent: bench\nAccept: */*\nAccept-Encoding: gzip\nCookie: a=b; c=d")
	var mu sync.Mutex
	var id uint64
	b.ReportAllocs()
	b.ResetTimer()
	b.SetParallelism(25)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			id++
			n := id
			mu.Unlock()
			done := make(chan struct{})
			a.mu.Lock()
			a.done[n] = done
			a.mu.Unlock()
			req := frame.Encode(&frame.Request{ID: n, Method: "GET", URI: "/path?query", Scheme: "http", Host: "example.com", Minor: 1, Header: header, Peer: "127.0.0.1:4711"})
			if err := conn.Send("proxy.0", req); err != nil {
				b.Error(err)
				return
			}
			<-done
		}
	})
}
