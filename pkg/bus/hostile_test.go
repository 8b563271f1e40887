package bus_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/test/poll"
)

// largeFrame is the head of a message of n bytes.
func largeFrame(n int) []byte { return binary.BigEndian.AppendUint64([]byte{2}, uint64(n)) }

// Peers that announce large messages and then take their time share the room for
// them: what is received at the same time is bounded however many they are. Small
// messages pass all the while.
func TestLargeMessagesShareTheirRoom(t *testing.T) {
	const size, peers = 8 << 20, 8
	o := bound("ipc://" + runDir(t) + "/s")
	o.Limits = bus.Limits{MaxMessage: size, RecvBytes: size, Stall: time.Hour} // nobody is closed for being slow
	pull := closing[*bus.Pull](t)(bus.NewPull(o))
	spec := pull.Endpoints()[0]
	push := closing[*bus.Push](t)(bus.NewPush(connected(spec)))
	body := make([]byte, size/2)
	half := make(chan net.Conn, peers)
	for range peers {
		c := stranger(t, spec, greeting(), ready("Socket-Type", "PUSH"))
		go func() {
			_, _ = c.Write(largeFrame(size)) // if not, the next one fails
			if _, err := c.Write(body); err == nil {
				half <- c
			}
		}()
	}
	for i := range peers {
		var c net.Conn
		select {
		case c = <-half:
		case <-time.After(time.Minute):
			t.Fatalf("nobody may send its message after %d", i)
		}
		must(t, push.Send(t.Context(), []byte("small")))
		if got := recv(t, pull); got[0] != "small" {
			t.Fatalf("got %d bytes, want the small message", len(got[0]))
		}
		if n := len(half); n > 0 {
			t.Fatalf("%d more of %d bytes are being received, and there is room for one", n, size)
		}
		go func() { _, _ = c.Write(body) }()
		if got := recv(t, pull); len(got[0]) != size {
			t.Fatalf("got %d bytes, want %d", len(got[0]), size)
		}
	}
}

// A large message for which there is no room in time ends its connection, and so
// does one in parts whose peers wait for each other.
func TestLargeMessageWithoutRoom(t *testing.T) {
	const size = 1 << 20
	o := bound("ipc://" + runDir(t) + "/s")
	o.Limits = bus.Limits{MaxMessage: size, RecvBytes: size, Stall: 100 * time.Millisecond}
	pull := closing[*bus.Pull](t)(bus.NewPull(o))
	part := append([]byte{3}, largeFrame(size * 3 / 5)[1:]...) // more parts follow
	for range 3 {
		wantClosed(t, stranger(t, pull.Endpoints()[0], greeting(), ready("Socket-Type", "PUSH"), part, make([]byte, size*3/5), part))
	}
	// None of them has taken its room along.
	push := closing[*bus.Push](t)(bus.NewPush(connected(pull.Endpoints()[0])))
	poll.Until(t, "a message that arrives in time", func() bool {
		must(t, push.Send(t.Context(), make([]byte, size)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got, err := pull.Recv(ctx)
		return err == nil && len(got[0]) == size
	})
}

// Peers that ask and do not read the answers fill the memory for answers up to a
// bound; then the one with the most is let go. Others get theirs.
func TestPeersThatDoNotTakeTheirAnswers(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := bound("ipc://" + runDir(t) + "/s")
	o.Limits.SendBytes, o.Registerer = 1<<20, reg
	router := closing[*bus.Router](t)(bus.NewRouter(o))
	const answer = 200 << 10
	go func() {
		for {
			q, err := router.Recv(t.Context())
			if err != nil {
				return
			}
			_ = router.Send(q[0], nil, make([]byte, answer)) // some have gone
		}
	}()
	asker := closing[*bus.Dealer](t)(bus.NewDealer(connected(router.Endpoints()[0])))
	request := []byte{1, 0, 0, 1, 'q'} // an empty part, and one more
	for range 12 {
		// Each would have 1 MiB kept for it.
		stranger(t, router.Endpoints()[0], greeting(), ready("Socket-Type", "DEALER"), bytes.Repeat(request, 20))
		must(t, asker.Send(t.Context(), nil, []byte("q")))
		if got := recv(t, asker); len(got) != 2 || len(got[1]) != answer {
			t.Fatalf("got %d parts", len(got))
		}
	}
	poll.Until(t, "some are let go", func() bool {
		return metric(t, reg, "holdfast_socket_connections_refused_total") >= 6
	})
}

// What a subscriber makes a publisher remember is bounded.
func TestSubscriberWithTooManyTopics(t *testing.T) {
	pub := closing[*bus.Pub](t)(bus.NewPub(bound("ipc://" + runDir(t) + "/s")))
	var all []byte
	for i := range 2000 {
		topic := fmt.Sprintf("\x01%040d", i)
		all = append(append(all, 0, byte(len(topic))), topic...)
	}
	wantClosed(t, stranger(t, pub.Endpoints()[0], greeting(), ready("Socket-Type", "SUB"), all))
	few := stranger(t, pub.Endpoints()[0], greeting(), ready("Socket-Type", "SUB"), all[:400*43])
	poll.Until(t, "its topic", func() bool { return pub.Wanted(fmt.Appendf(nil, "%040d", 399)) })
	_ = few.Close()
}
