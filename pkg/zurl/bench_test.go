package zurl

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// BenchmarkReq makes requests over the REQ socket, 50 at a time, against a
// server in the same process.
func BenchmarkReq(b *testing.B) {
	origin := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer origin.Close()
	o := DefaultOptions()
	o.Bus = bustest.NewNetwork().Node("zurl.0")
	o.InReqSpec = "ipc://" + b.TempDir() + "/req"
	s, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	d, err := bus.NewDealer(bus.SocketOptions{Name: "bench", Connect: []string{o.InReqSpec}})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	packet := tnet.Append([]byte("T"), dict{"method": "POST", "uri": origin.URL, "body": "{}", "headers": []any{[]any{"Content-Type", "application/json"}}})
	b.ReportAllocs()
	sent := 0
	for got := range b.N {
		for ; sent < b.N && sent < got+50; sent++ {
			if err := d.Send(ctx, nil, packet); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := d.Recv(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
