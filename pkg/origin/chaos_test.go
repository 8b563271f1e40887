package origin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/test/poll"
)

// Requests of all kinds against an origin that misbehaves in all ways, with
// callers that lose interest: no answer may reach another request, and nothing
// may be left behind.
func TestChaos(t *testing.T) {
	target := listen(t, func(p *peer) {
		rnd := rand.New(rand.NewPCG(uint64(p.n), 1)) //nolint:gosec // repeatable
		for {
			head, err := http1.ReadRequestHead(p.br, http1.Limits{})
			if err != nil {
				return
			}
			id, _ := http1.Get(head.Header, "Id")
			body := http1.NewBodyReader(p.br, head.BodyLen, http1.Limits{})
			early := rnd.IntN(8) == 0
			if !early {
				if _, err := io.Copy(io.Discard, body); err != nil {
					return
				}
			}
			var out []byte
			switch rnd.IntN(4) {
			case 0:
				out = []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				out = http1.AppendLastChunk(http1.AppendChunk(out, []byte(id)), nil)
			case 1:
				out = []byte("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + id)
			case 2:
				out = []byte("HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n" + id)
			case 3:
				out = []byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" + id)
			}
			switch rnd.IntN(12) {
			case 0: // cut
				out = out[:rnd.IntN(len(out))]
				_, _ = p.Write(out)
				return
			case 1: // a closing nobody announced
				_, _ = p.Write(out)
				return
			case 2: // something that nobody asked for
				out = append(out, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n????????"...)
			}
			_, _ = p.Write(out)
			if early {
				if _, err := io.Copy(io.Discard, body); err != nil {
					return
				}
			}
		}
	})
	p := newPool(t, Options{MaxOpen: 8, MaxIdlePerTarget: 4, MaxDialing: 3, KeepAlive: 20 * time.Millisecond})
	var wg sync.WaitGroup
	var mu sync.Mutex
	complete := 0
	for worker := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(uint64(worker), 2)) //nolint:gosec // repeatable
			for range 60 {
				ok := chaosRequest(t, p, target, rnd)
				mu.Lock()
				if ok {
					complete++
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if complete < 16*60/4 {
		t.Errorf("only %d of %d requests were answered", complete, 16*60)
	}
	poll.Until(t, "no connection is in use", func() bool { s := p.Stats(); return s.Open == s.Idle && s.Waiting == 0 })
}

// chaosRequest makes one request and reports whether it was answered.
func chaosRequest(t *testing.T, p *Pool, target Target, rnd *rand.Rand) bool {
	id := strings.Repeat(string(rune('a'+rnd.IntN(26))), 4) + strings.Repeat(string(rune('a'+rnd.IntN(26))), 4)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rnd.IntN(6) == 0 {
		time.AfterFunc(time.Duration(rnd.IntN(2000))*time.Microsecond, cancel)
	}
	r := &Request{Method: "GET", Header: []frame.Field{field("Host", "h")}}
	r.Header = append(r.Header, field("Id", id))
	data := make([]byte, rnd.IntN(100<<10))
	switch rnd.IntN(6) {
	case 0:
		r.Method, r.BodyLen, r.First = "POST", int64(len(data)), data
	case 1:
		r.Method, r.BodyLen, r.Body = "POST", int64(len(data)), io.NopCloser(bytes.NewReader(data))
	case 2:
		r.Method, r.BodyLen, r.Body = "PUT", http1.Chunked, io.NopCloser(bytes.NewReader(data))
	}
	resp, err := p.Do(ctx, target, r)
	if err != nil {
		return false
	}
	if rnd.IntN(8) == 0 {
		_ = resp.Close()
		return true
	}
	body, err := io.ReadAll(resp)
	if !strings.HasPrefix(id, string(body)) || err == nil && string(body) != id {
		t.Errorf("got the answer %q to the request %q", body, id)
	}
	var e *Error
	if err != nil && !errors.As(err, &e) {
		t.Errorf("got an error of another type: %v", err)
	}
	return err == nil
}
