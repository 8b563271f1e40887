package bus_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/test/poll"
)

func TestSocketHasRoomForSoManyConnections(t *testing.T) {
	o := bound("tcp://127.0.0.1:*")
	o.Limits.MaxConns, o.Limits.Handshake = 2, time.Hour // so that it does not end them
	pull := closing[*bus.Pull](t)(bus.NewPull(o))
	spec := pull.Endpoints()[0]
	a, b := stranger(t, spec), stranger(t, spec)
	// Which of the three is accepted first is not known; one of them is closed.
	closed := make(chan struct{}, 3)
	for _, c := range []net.Conn{a, b, stranger(t, spec)} {
		go func() {
			for {
				if _, err := c.Read(make([]byte, 100)); err != nil {
					closed <- struct{}{}
					return
				}
			}
		}()
	}
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("three connections were taken")
	}
}

func TestSocketStopsReadingWhenNobodyTakes(t *testing.T) {
	reg := prometheus.NewRegistry()
	o := bound("ipc://" + runDir(t) + "/s")
	o.Registerer, o.Limits.RecvMessages = reg, 10
	pull := closing[*bus.Pull](t)(bus.NewPull(o))
	push := closing[*bus.Push](t)(bus.NewPush(connected(pull.Endpoints()[0])))
	body := make([]byte, 64<<10)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	sent := 0
	for ; sent < 1000 && push.Send(ctx, body) == nil; sent++ {
	}
	if sent == 1000 {
		t.Error("64 MB went to a socket that nobody reads")
	}
	if n := metric(t, reg, "holdfast_socket_messages_total"); n > 20 {
		t.Errorf("%v messages were received, 10 may wait", n)
	}
	for range sent { // and none is lost
		recv(t, pull)
	}
}

func TestClosedSocket(t *testing.T) {
	dir := runDir(t)
	pull, err := bus.NewPull(bound("ipc://" + dir + "/pull"))
	must(t, err)
	pub, err := bus.NewPub(bound("ipc://" + dir + "/pub"))
	must(t, err)
	push, err := bus.NewPush(connected("ipc://" + dir + "/nobody"))
	must(t, err)
	waiting := make(chan error, 1)
	go func() {
		_, err := pull.Recv(context.Background())
		waiting <- err
	}()
	for range 2 {
		must(t, pull.Close())
		must(t, pub.Close())
		must(t, push.Close())
	}
	if err := <-waiting; !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Recv = %v, want ErrClosed", err)
	}
	if err := pub.Send([]byte("x")); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Pub.Send = %v, want ErrClosed", err)
	}
	if err := push.Send(t.Context(), []byte("x")); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Push.Send = %v, want ErrClosed", err)
	}
	// The specs are free again.
	closing[*bus.Pull](t)(bus.NewPull(bound("ipc://" + dir + "/pull")))
}

func TestSocketThatCannotBind(t *testing.T) {
	pull := closing[*bus.Pull](t)(bus.NewPull(bound("tcp://127.0.0.1:*")))
	for _, o := range []bus.SocketOptions{
		bound(pull.Endpoints()[0]), bound("nonsense"), connected("tcp://nowhere"),
		{Bind: []string{"tcp://127.0.0.1:0", pull.Endpoints()[0]}},
	} {
		if s, err := bus.NewPull(o); err == nil {
			_ = s.Close()
			t.Errorf("%v: no error", o)
		}
	}
}

func TestMessageOverTheLimitIsRefusedBeforeItIsSent(t *testing.T) {
	pub := closing[*bus.Pub](t)(bus.NewPub(bound("tcp://127.0.0.1:*")))
	if err := pub.Send(make([]byte, 1<<20)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := pub.Send(make([]byte, 1<<20+1)); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("over the limit: %v, want ErrTooLarge", err)
	}
	if err := pub.Send(); err == nil {
		t.Error("a message without parts was taken")
	}
}

// A request that is never answered keeps nobody else waiting, and an answer that
// comes too late does no harm.
func TestRouterServesOthersMeanwhile(t *testing.T) {
	router := closing[*bus.Router](t)(bus.NewRouter(bound("ipc://" + runDir(t) + "/router")))
	ask := func() (d *bus.Dealer, id []byte) {
		d, err := bus.NewDealer(connected(router.Endpoints()[0]))
		must(t, err)
		must(t, d.Send(t.Context(), nil, []byte("ask")))
		asked, err := router.Recv(t.Context())
		must(t, err)
		return d, asked[0]
	}
	first, late := ask()
	d, id := ask()
	second := closing[*bus.Dealer](t)(d, nil)
	must(t, router.Send(id, nil, []byte("answer")))
	wantMessage(t, second, "", "answer")
	must(t, first.Close())
	poll.Until(t, "the asker to be gone", func() bool {
		return errors.Is(router.Send(late, nil, []byte("too late")), bus.ErrNoPeer)
	})
}

// The same topic by a subscriber that went and came back, and one that does not
// read: the socket stays of use to others.
func TestSubThatOverflowsAPublisher(t *testing.T) {
	o := bound("ipc://" + runDir(t) + "/sub")
	o.Limits.SendBytes = 64 << 10
	sub := closing[*bus.Sub](t)(bus.NewSub(o))
	deaf := stranger(t, sub.Endpoints()[0], greeting(), ready("Socket-Type", "PUB"))
	poll.Until(t, "the connection", func() bool { return sub.Conns() == 1 })
	topic := string(make([]byte, 10_000))
	for i := 0; sub.Conns() == 1 && i < 10_000; i++ {
		sub.Subscribe(topic + time.Duration(i).String())
	}
	if n := sub.Conns(); n != 0 {
		t.Fatalf("%d connections, want the one that does not read closed", n)
	}
	wantClosed(t, deaf)
}
