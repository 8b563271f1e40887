package connmgr

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/exchange"
	"github.com/holdfast/holdfast/pkg/frame"
)

// peer is one boot of another instance. There is one value for each boot, so
// pointers to it compare as boots do.
type peer struct {
	bus.Peer
	open atomic.Int64 // ordinary exchanges that it is the far end of
	// leaving says that it is about to stop: it finishes what it has and takes
	// nothing more.
	leaving atomic.Bool
}

// exch is one exchange: one attempt at a client's request.
//
// Lock order: Server.mu, then exch.mu, then those of mailboxes and writer
// queues, which are leaves.
type exch struct {
	id uint64
	c  *conn

	mu      sync.Mutex
	far     *peer // who frames for the far end go to; nil if it is gone or has let go
	proxy   *peer // whose open exchanges x counts among; nil once it is held
	sendSeq uint64
	inbox   exchange.Inbox
	gap     time.Time // when a gap was first seen; zero if there is none
	closed  bool

	// For relay; nil once the connection is parked. The connection's goroutine
	// may read them without mu.
	box    *exchange.Mailbox
	window *exchange.Window // of the request body; nil if all of it was sent with the request

	ws *wsExch // nil if it is no WebSocket

	// Set from the moment a Hold was received, by the bus's goroutine. It may
	// have overtaken frames that the proxy sent before; they go to box until
	// turn says that it is the hold's turn.
	hold *hold
	turn bool
	// toBox says that body frames still belong to the initial body of the hold
	// and go to the connection's goroutine.
	toBox bool
}

// Errors that a mailbox ends with.
var (
	errPeerLost = errors.New("the far end went away")
	errGap      = errors.New("a frame of the exchange is missing")
	errSlow     = errors.New("the client reads too slowly")
)

// send numbers a frame of the exchange and sends it to the far end, which it
// returns. The number is written into the frame by way of seq.
func (s *Server) send(x *exch, f frame.Frame, seq *uint64) *peer {
	x.mu.Lock()
	defer x.mu.Unlock()
	*seq = x.sendSeq
	x.sendSeq++
	if x.far != nil {
		s.out.post(x.far, frame.Encode(f))
	}
	return x.far
}

func (s *Server) sendCancel(x *exch, reason frame.Reason, text string) {
	f := &frame.Cancel{ID: x.id, Reason: reason, Text: text}
	s.send(x, f, &f.Seq)
}

// openExch enters a new exchange of c into the table and returns it with the
// proxy that is its far end. If there is none, it returns a channel that is
// closed when one comes up.
func (s *Server) openExch(c *conn, body bool) (*exch, *peer, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pickProxy()
	if p == nil {
		return nil, nil, s.proxyUp
	}
	s.lastID++
	x := &exch{id: s.lastID, c: c, far: p, proxy: p, sendSeq: 1, box: exchange.NewMailbox()}
	if body {
		x.window = exchange.NewWindow()
	}
	p.open.Add(1)
	s.exchanges[x.id] = x
	return x, p, nil
}

// leave is the topic on which a proxy publishes that it is about to stop.
const leave = "leaving"

// pickProxy returns the proxy with the fewest open exchanges, taking turns among
// equals, nil if there is none that takes any.
func (s *Server) pickProxy() *peer {
	var best *peer
	s.turn++
	n := len(s.proxies)
	for i := range n {
		p := s.proxies[(i+s.turn)%n]
		if !p.leaving.Load() && (best == nil || p.open.Load() < best.open.Load()) {
			best = p
		}
	}
	return best
}

// closeExch takes x out of the table, if it is not held, or no hold has come in
// the meantime, which is returned then. Frames for it are answered as unknown
// from then on.
func (s *Server) closeExch(x *exch) *hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.hold != nil {
		return x.hold
	}
	s.closeLocked(x)
	if x.ws != nil && x.ws.hold != nil { // a handler knows of a WebSocket that never was
		x.ws.hold.w.push(job{kind: jobFail, h: x.ws.hold, reason: frame.ReasonFinished})
	}
	return nil
}

// closeHeld takes a held exchange out of the table.
func (s *Server) closeHeld(x *exch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	s.closeLocked(x)
}

func (s *Server) closeLocked(x *exch) {
	if x.closed {
		return
	}
	x.closed = true
	delete(s.exchanges, x.id)
	delete(s.gaps, x)
	x.uncount()
}

func (x *exch) uncount() {
	if x.proxy != nil {
		x.proxy.open.Add(-1)
		x.proxy = nil
	}
}

// put hands a frame to the connection's goroutine, if that still wants any. x.mu
// is held, as it is for fail.
func (x *exch) put(f frame.Frame) {
	if x.box != nil {
		x.box.Put(f)
	}
}

// fail ends the relaying of x.
func (x *exch) fail(err error) {
	if x.box != nil {
		x.box.Close(err)
	}
}

// unbox lets go of what only relay needs.
func (x *exch) unbox() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.box, x.window = nil, nil
}

// letGo notes that the far end has given the exchange up and wants to hear
// nothing more of it. It returns which that was.
func (x *exch) letGo() *peer {
	x.mu.Lock()
	defer x.mu.Unlock()
	far := x.far
	x.far = nil
	return far
}

// newConnID returns a random UUID in its usual form. The generator is seeded by
// the system and cannot be predicted from its output.
func newConnID() string {
	var b [16]byte
	for i := 0; i < 16; i += 8 {
		v := rand.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	hex.Encode(out[9:13], b[4:6])
	hex.Encode(out[14:18], b[6:8])
	hex.Encode(out[19:23], b[8:10])
	hex.Encode(out[24:36], b[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return string(out[:])
}
