package bus

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/go-zeromq/zmq4"
)

// sender keeps a connection to the peer's inbox and writes what is due.
func (n *Node) sender(ctx context.Context, p *peer) {
	delay := backoff{min: 10 * time.Millisecond, max: time.Second}
	for {
		c, err := n.dial(ctx, p)
		if err == nil {
			delay.reset()
			n.writeTo(ctx, p, c)
		} else if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
			p.refused()
		}
		if !delay.sleep(ctx, p.kick) {
			return
		}
		select {
		case <-n.stopping:
			return
		default:
		}
	}
}

func (n *Node) dial(ctx context.Context, p *peer) (*conn, error) {
	p.mu.Lock()
	inbox := p.inbox
	p.mu.Unlock()
	timeout := n.opt.GiveUp / 2
	nc, err := dial(ctx, inbox, timeout)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	return openConn(nc, zmq4.Push, "", false, connLimits{
		maxMessage: maxHandshakeFrame, // a PULL sends nothing
		handshake:  timeout,
		stall:      n.opt.GiveUp,
	})
}

// writeTo writes to one connection until it breaks or goodbye is said.
func (n *Node) writeTo(ctx context.Context, p *peer, c *conn) {
	broken := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(broken)
		for {
			if _, err := c.recv(); err != nil {
				return
			}
		}
	})
	defer reader.Wait()
	defer c.close()
	p.connection(true)
	defer p.connection(false)

	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	inbox, pub := n.Endpoints()
	e := envelope{From: n.opt.Name, FromBoot: n.boot, Started: n.since}
	enc := newEncoder()
	var frames [][]byte
	for {
		if !p.compose(&e, frames[:0]) {
			select {
			case <-p.wake:
			case <-broken:
				return
			}
			continue
		}
		e.Inbox, e.Pub = "", ""
		if e.Kind == kindHello {
			e.Inbox, e.Pub = inbox, pub
		}
		err := c.send(enc.encode(&e))
		if err == nil {
			err = c.flush()
		}
		if err != nil {
			n.log.Debug("write to peer", "peer", p.name, "err", err)
			return
		}
		if e.Kind == kindBye {
			return
		}
		enc.shrink()
		if e.Frames != nil {
			p.wrote(e.FromEpoch, e.Seq+uint64(len(e.Frames)))
			clear(e.Frames)
			frames = e.Frames
		}
	}
}
