//go:build unix

package origin

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/test/pki"
	"github.com/holdfast/holdfast/test/poll"
)

// What an origin sends after a response, such as the body of one that has none, is
// never the beginning of the next response.
func TestLeftoverIsNoResponse(t *testing.T) {
	const smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
	for _, tc := range []struct {
		name, method, head string
		distrusted         bool
	}{
		{"204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 46\r\n\r\n", true},
		{"204 in chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 46\r\n\r\n", false},
		{"304 in chunks", "GET", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 46\r\n\r\n", false},
		{"HEAD in chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false},
		{"longer than announced", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
	} {
		for _, secure := range []bool{false, true} {
			for _, later := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, later %t, TLS %t", tc.name, later, secure), func(t *testing.T) {
					idle, sent := make(chan struct{}), make(chan struct{})
					serve := func(p *peer) {
						if p.n > 0 {
							answer(okResponse)(p)
							return
						}
						if _, _, ok := p.request(); !ok {
							return
						}
						if later {
							p.send(tc.head)
							<-idle
							p.send(smuggled)
						} else {
							p.send(tc.head + smuggled)
						}
						close(sent)
						answer(okResponse)(p)
					}
					var opt Options
					var target Target
					if secure {
						ca := pki.NewAuthority(t)
						opt.RootCAs = ca.Pool
						target = listenTLS(t, &tls.Config{Certificates: []tls.Certificate{issue(t, ca, time.Now().Add(time.Hour), "127.0.0.1")}}, serve)
					} else {
						target = listen(t, serve)
					}
					p := newPool(t, opt)
					resp, err := p.Do(context.Background(), target, &Request{Method: tc.method})
					if err != nil {
						t.Fatal(err)
					}
					if body, err := io.ReadAll(resp); len(body) > 0 || err != nil {
						t.Fatalf("body %q, %v", body, err)
					}
					_ = resp.Close()
					if n := p.Stats().Idle; n > 0 && tc.distrusted {
						t.Error("the connection is kept")
					}
					close(idle)
					<-sent
					poll.Until(t, "it is there, or the connection is gone", p.readable)
					if body := get(t, p, target); body != "ok" {
						t.Errorf("got %q", body)
					}
				})
			}
		}
	}
}

// readable reports whether there is something to read on each idle connection.
func (p *Pool) readable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := true
	for _, b := range p.buckets {
		for _, c := range b.idle {
			_ = c.raw.Control(func(fd uintptr) {
				n, _, _ := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
				all = all && n > 0
			})
		}
	}
	return all
}
