package exchange

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

func body(seq uint64) *frame.Body { return &frame.Body{ID: 1, Seq: seq} }

func TestInboxOrdersWhatOvertook(t *testing.T) {
	for round := range 50 {
		perm := rand.New(rand.NewPCG(1, uint64(round))).Perm(MaxAhead)
		in := NewInbox(5)
		var got []uint64
		for _, p := range perm {
			seq := uint64(p) + 5
			for range 2 { // each frame twice: repeats are dropped
				if err := in.Push(seq, body(seq), func(f frame.Frame) {
					got = append(got, f.(*frame.Body).Seq)
				}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(got) != MaxAhead || in.Waiting() {
			t.Fatalf("got %d frames, waiting %v; want %d and none", len(got), in.Waiting(), MaxAhead)
		}
		for i, seq := range got {
			if seq != uint64(i)+5 {
				t.Fatalf("position %d: got seq %d, want %d", i, seq, i+5)
			}
		}
	}
}

func TestInboxGap(t *testing.T) {
	var in Inbox
	if err := in.Push(MaxAhead+1, body(0), func(frame.Frame) { t.Error("delivered") }); !errors.Is(err, ErrGap) {
		t.Errorf("got %v, want ErrGap", err)
	}
	if err := in.Push(1, body(1), func(frame.Frame) { t.Error("delivered") }); err != nil || !in.Waiting() {
		t.Errorf("got %v, waiting %v; want a frame that waits", err, in.Waiting())
	}
}

func TestWindow(t *testing.T) {
	w := NewWindow()
	ctx := context.Background()
	if n, err := w.Take(ctx, 1<<30); n != frame.InitialWindow || err != nil {
		t.Fatalf("Take = %d, %v; want the initial window", n, err)
	}
	done := make(chan int)
	go func() {
		n, _ := w.Take(ctx, 10)
		done <- n
	}()
	w.Add(3)
	if n := <-done; n != 3 {
		t.Errorf("Take after a credit of 3 = %d", n)
	}
	go func() {
		_, err := w.Take(ctx, 10)
		if !errors.Is(err, io.EOF) {
			t.Errorf("Take after Close: %v", err)
		}
		close(done)
	}()
	w.Close(io.EOF)
	<-done
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := NewWindowOf(0).Take(cancelled, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Take with a dead context: %v", err)
	}
}

func TestMailbox(t *testing.T) {
	m := NewMailbox()
	const n = 1000
	go func() {
		for i := range uint64(n) {
			m.Put(body(i))
		}
		m.Close(io.EOF)
		m.Put(body(n)) // after Close: dropped
	}()
	for i := range uint64(n) {
		f, err := m.Get(context.Background())
		if err != nil || f.(*frame.Body).Seq != i {
			t.Fatalf("frame %d: got %v, %v", i, f, err)
		}
	}
	for range 2 {
		if f, err := m.Get(context.Background()); f != nil || !errors.Is(err, io.EOF) {
			t.Fatalf("after the end: %v, %v", f, err)
		}
	}
}
