//go:build unix && !race

package origin

import (
	"context"
	"errors"
	"io"
	"testing"
)

// A request without a long body allocates the Response, three parts of its head,
// and what it takes to watch a context.
func TestAllocations(t *testing.T) {
	answer := []byte(okResponse)
	target := listen(t, func(p *peer) {
		buf := make([]byte, 4096)
		for {
			if _, err := p.Read(buf); err != nil { // a request is one segment here
				return
			}
			_, _ = p.Write(answer)
		}
	})
	p := newPool(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	buf := make([]byte, 100)

	got := testing.AllocsPerRun(500, func() {
		resp, err := p.Do(ctx, target, &Request{Method: "GET", URI: "/", Header: benchHeader})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf)
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
	if want := 8.0; got > want {
		t.Errorf("got %v allocations, want %v", got, want)
	}
}
