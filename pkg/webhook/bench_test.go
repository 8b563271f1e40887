package webhook

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/test/poll"
)

// BenchmarkDeliveries measures deliveries over HTTP from queues on disk: one
// message in each iteration, for 1, 100 and 1,000 endpoints, and for 100 that keep
// what was delivered.
func BenchmarkDeliveries(b *testing.B) {
	for _, c := range []struct {
		endpoints int
		keep      time.Duration
	}{{1, 0}, {100, 0}, {1000, 0}, {100, time.Hour}} {
		n := c.endpoints
		name := fmt.Sprintf("endpoints=%d", n)
		if c.keep > 0 {
			name += ",keep"
		}
		b.Run(name, func(b *testing.B) {
			var delivered atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				delivered.Add(1)
			}))
			b.Cleanup(srv.Close)
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2000}}
			b.Cleanup(client.CloseIdleConnections)
			s := benchService(b, func(ctx context.Context, r *Request) Response {
				req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, strings.NewReader(string(r.Body)))
				if err != nil {
					return Response{Condition: "bad-request"}
				}
				for _, f := range r.Header {
					req.Header.Add(f.Name, f.Value)
				}
				resp, err := client.Do(req)
				if err != nil {
					return Response{Condition: "remote-connection-failed", Text: err.Error()}
				}
				defer func() { _ = resp.Body.Close() }()
				_, _ = io.Copy(io.Discard, resp.Body)
				return Response{Status: resp.StatusCode}
			})
			for i := range n {
				e := Endpoint{ID: fmt.Sprint("e", i), URL: srv.URL, Channels: []string{"*"}, MaxQueue: 1e6, MaxBytes: 1 << 30, Keep: Duration(c.keep)}
				if _, err := s.Create(e); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for range b.N {
				for {
					done := make(chan error, 1)
					s.Enqueue([]Message{benchMessage()}, func(err error) { done <- err })
					if <-done == nil {
						break
					}
				}
			}
			poll.Until(b, "all to be delivered", func() bool { return delivered.Load() >= int64(b.N*n) })
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkEnqueue measures messages that are acknowledged when they are on
// disk, with so many publishers at a time.
func BenchmarkEnqueue(b *testing.B) {
	for _, n := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("publishers=%d", n), func(b *testing.B) {
			s := benchService(b, func(context.Context, *Request) Response { return Response{Status: 200} })
			if _, err := s.Create(Endpoint{ID: "a", URL: "http://x/", Channels: []string{"*"}, Paused: true, MaxQueue: 1e6, MaxBytes: 1 << 30}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			var next atomic.Int64
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						done := make(chan error, 1)
						s.Enqueue([]Message{benchMessage()}, func(err error) { done <- err })
						if err := <-done; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

func benchMessage() Message {
	return Message{ID: randomID("msg_"), Kind: hook.Message, Channel: "c", At: time.Now(), Method: "POST", Body: make([]byte, 200)}
}

func benchService(b *testing.B, send func(context.Context, *Request) Response) *Service {
	b.Helper()
	o := DefaultOptions()
	o.Path, o.Send = filepath.Join(b.TempDir(), "w.db"), send
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return s
}
