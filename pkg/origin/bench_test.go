//go:build unix

package origin

import (
	"context"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

const benchResponse = "HTTP/1.1 200 OK\r\n" +
	"Server: nginx/1.22.1\r\n" +
	"Date: Tue, 04 Aug 2026 10:00:00 GMT\r\n" +
	"Content-Type: application/json; charset=utf-8\r\n" +
	"Content-Length: 13\r\n" +
	"Cache-Control: max-age=60\r\n\r\n{\"hello\":\"w\"}"

var benchHeader = []frame.Field{
	field("Host", "www.example.com"),
	field("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
	field("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
	field("Accept-Language", "en-GB,en;q=0.5"),
	field("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
}

// benchOrigin is an origin that costs next to nothing, the same for all.
func benchOrigin(b *testing.B) Target {
	return listen(b, func(p *peer) {
		buf := make([]byte, 4096)
		for {
			if _, err := p.Read(buf); err != nil { // a request is one segment here
				return
			}
			p.send(benchResponse)
		}
	})
}

func cpuTime(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// run reports the processor time of the process beside the time that passed.
// The origin's share is in both figures.
func run(b *testing.B, parallel bool, f func(buf []byte)) {
	b.ReportAllocs()
	start := cpuTime(b)
	b.ResetTimer()
	if parallel {
		b.SetParallelism(25)
		b.RunParallel(func(pb *testing.PB) {
			buf := make([]byte, 4096)
			for pb.Next() {
				f(buf)
			}
		})
	} else {
		buf := make([]byte, 4096)
		for range b.N {
			f(buf)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
}

func benchDo(b *testing.B, parallel bool) {
	target := benchOrigin(b)
	p := newPool(b, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	run(b, parallel, func(buf []byte) {
		resp, err := p.Do(ctx, target, &Request{Method: "GET", URI: "/api/items/1234", Header: benchHeader})
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf)
		}
		if err != io.EOF {
			b.Fatal(err)
		}
	})
}

func benchTransport(b *testing.B, parallel bool) {
	target := benchOrigin(b)
	tr := &http.Transport{MaxIdleConnsPerHost: 512, DisableCompression: true}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	run(b, parallel, func(buf []byte) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target.Addr+"/api/items/1234", http.NoBody)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range benchHeader {
			req.Header.Set(f.Name, f.Value)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Body.Read(buf)
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	})
}

// What the other end and the kernel cost: the same bytes over a bare connection.
func BenchmarkFloor(b *testing.B) {
	target := benchOrigin(b)
	c, err := dialer.DialContext(b.Context(), "tcp", target.Addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	req := make([]byte, 330)
	run(b, false, func(buf []byte) {
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkDo(b *testing.B)                { benchDo(b, false) }
func BenchmarkTransport(b *testing.B)         { benchTransport(b, false) }
func BenchmarkDoParallel(b *testing.B)        { benchDo(b, true) }
func BenchmarkTransportParallel(b *testing.B) { benchTransport(b, true) }
