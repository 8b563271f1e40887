package zurl

import (
	"bytes"
	"context"
	"testing"

	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/netpolicy"
)

// No packet, and no two of them, brings the process down or leaves a session
// behind. Nothing may be called, so nothing is.
func FuzzPackets(f *testing.F) {
	for _, s := range []string{
		`J{"from":"a","id":"1","seq":0,"method":"POST","uri":"http://x/","more":true,"stream":true}`,
		`J{"from":"a","id":"1","seq":1,"body":"x"}`, `J{"from":"a","id":"1","seq":1,"type":"credit","credits":5}`, `J{"from":"a","id":"1","seq":1,"type":"cancel"}`,
		`J{"from":"a","id":"2","seq":0,"uri":"ws://x/","headers":[["A","b"]]}`, `J{"from":"a","id":"2","seq":1,"type":"close","code":1000}`,
		`J{"id":[{"id":"1","seq":1},{"id":"2","seq":1}],"from":"a","type":"keep-alive"}`, `J{"from":"a","id":"1","more":1}`, `J{"method":"GET","uri":"http://x/"}`,
		`T26:6:method,3:GET,3:uri,4:http,}`, `T`, ``,
	} {
		for _, second := range []string{`J{"from":"a","id":"1","seq":1,"body":""}`, s} {
			f.Add([]byte(s), []byte(second))
		}
	}
	dir := f.TempDir()
	o := DefaultOptions()
	o.Bus = bustest.NewNetwork().Node("zurl.0")
	o.InSpec, o.InStreamSpec, o.OutSpec, o.InReqSpec = "ipc://"+dir+"/in", "ipc://"+dir+"/in-stream", "ipc://"+dir+"/out", "ipc://"+dir+"/req"
	var err error
	if o.Policy, err = netpolicy.New("deny", nil, nil); err != nil {
		f.Fatal(err)
	}
	s, err := New(o)
	if err != nil {
		f.Fatal(err)
	}
	front := s.front
	if err := front.bind(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _, _ = front.unbind(), s.Close() })
	f.Fuzz(func(t *testing.T, first, second []byte) {
		ctx := context.Background()
		for _, b := range [][]byte{first, second} {
			// With that key a request goes to whatever address it names; here it
			// becomes one that means nothing.
			b = bytes.ReplaceAll(b, []byte("ignore-policies"), []byte("ignored-policy!"))
			front.fromPull(ctx, [][]byte{b})
			front.fromStream(ctx, [][]byte{nil, b})
			front.fromReq(ctx, [][]byte{[]byte("peer"), nil, b})
		}
		for _, open := range front.all() {
			open.stop()
		}
		front.sessions.Wait()
		if n := len(front.all()); n != 0 || len(front.byID) != 0 || len(front.slots) != 0 || front.held.Load() != 0 {
			t.Fatalf("%d sessions, %d ids, %d slots and %d bytes are left", n, len(front.byID), len(front.slots), front.held.Load())
		}
	})
}
