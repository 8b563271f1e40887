package bus_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/go-zeromq/zmq4"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
)

// counter counts frames, answers them if it has a bus, and tells when there are
// as many as wanted.
type counter struct {
	bus.Receiver
	answer bus.Bus
	n      atomic.Int64
	want   int64
	done   chan struct{}
}

func (c *counter) Receive(from bus.Peer, b []byte) {
	if c.answer != nil {
		_ = c.answer.Send(from.Name, b)
	}
	if c.n.Add(1) == c.want {
		close(c.done)
	}
}

func benchPair(b *testing.B, ra, rb *counter) (x, y *bus.Node) {
	dir := runDir(b)
	x = newNode(b, bus.Options{Name: "proxy.0", Dir: dir})
	y = newNode(b, bus.Options{Name: "handler.0", Dir: dir})
	var ua, ub bustest.Recorder
	ra.Receiver, rb.Receiver = &ua, &ub
	bustest.Start(b, x, ra)
	bustest.Start(b, y, rb)
	ua.WaitUp(b, "handler.0")
	ub.WaitUp(b, "proxy.0")
	return x, y
}

// BenchmarkFrames sends frames of 100 bytes one way and waits until the last has
// arrived.
func BenchmarkFrames(b *testing.B) {
	rb := counter{want: int64(b.N), done: make(chan struct{})}
	x, _ := benchPair(b, new(counter), &rb)
	body := bytes.Repeat([]byte("x"), 100)
	b.SetBytes(100)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		for {
			err := x.Send("handler.0", body)
			if err == nil {
				break
			}
			if !errors.Is(err, bus.ErrQueueFull) {
				b.Fatal(err)
			}
			runtime.Gosched()
		}
	}
	<-rb.done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

// BenchmarkRoundTrip sends one frame at a time and waits for its echo.
func BenchmarkRoundTrip(b *testing.B) {
	echo := make(chan struct{}, 1)
	ra, rb := ping{echo: echo}, counter{want: -1}
	dir := runDir(b)
	x := newNode(b, bus.Options{Name: "proxy.0", Dir: dir})
	y := newNode(b, bus.Options{Name: "handler.0", Dir: dir})
	var ub bustest.Recorder
	rb.Receiver, rb.answer = &ub, y
	bustest.Start(b, x, &ra)
	bustest.Start(b, y, &rb)
	ra.WaitUp(b, "handler.0")
	ub.WaitUp(b, "proxy.0")
	body := bytes.Repeat([]byte("x"), 100)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := x.Send("handler.0", body); err != nil {
			b.Fatal(err)
		}
		<-echo
	}
}

type ping struct {
	bustest.Recorder
	echo chan struct{}
}

func (p *ping) Receive(bus.Peer, []byte) { p.echo <- struct{}{} }

// BenchmarkRoundTripZMQ4 is the same over zmq4's own sockets and transport, for
// comparison: no numbers, no acknowledgements, no limits.
func BenchmarkRoundTripZMQ4(b *testing.B) {
	dir := runDir(b)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pull, push := zmq4.NewPull(ctx), zmq4.NewPush(ctx)
	pullEcho, pushEcho := zmq4.NewPull(ctx), zmq4.NewPush(ctx)
	for spec, s := range map[string][2]zmq4.Socket{"a": {pull, pushEcho}, "b": {pullEcho, push}} {
		if err := s[0].Listen("ipc://" + dir + "/" + spec); err != nil {
			b.Fatal(err)
		}
		if err := s[1].Dial("ipc://" + dir + "/" + spec); err != nil {
			b.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := pullEcho.Recv()
			if err != nil {
				return
			}
			_ = pushEcho.Send(m)
		}
	}()
	body := bytes.Repeat([]byte("x"), 100)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := push.Send(zmq4.NewMsg(body)); err != nil {
			b.Fatal(err)
		}
		if _, err := pull.Recv(); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	for _, s := range []zmq4.Socket{push, pushEcho, pull, pullEcho} {
		_ = s.Close()
	}
	<-done
}

// BenchmarkFramesZMQ4 is the same as BenchmarkFrames over zmq4's own sockets.
func BenchmarkFramesZMQ4(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	pull, push := zmq4.NewPull(ctx), zmq4.NewPush(ctx)
	spec := "ipc://" + runDir(b) + "/s"
	if err := pull.Listen(spec); err != nil {
		b.Fatal(err)
	}
	if err := push.Dial(spec); err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	body := bytes.Repeat([]byte("x"), 100)
	b.SetBytes(100)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := pull.Recv(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range b.N {
		if err := push.Send(zmq4.NewMsg(body)); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	_ = push.Close()
	_ = pull.Close()
}
