package connmgr

import (
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/exchange"
	"github.com/holdfast/holdfast/pkg/frame"
)

// The methods of bus.Receiver. The bus calls them from one goroutine, and
// nothing in them waits.

// PeerUp implements bus.Receiver.
func (s *Server) PeerUp(p bus.Peer) {
	up := &peer{Peer: p}
	s.out.up(up)
	s.mu.Lock()
	s.peers[p.Name] = up
	if p.Kind() == "proxy" {
		s.proxies = append(s.proxies, up)
		close(s.proxyUp)
		s.proxyUp = make(chan struct{})
		for _, x := range s.exchanges {
			x.mu.Lock()
			if x.ws != nil && x.ws.orphan {
				if q := s.pickProxy(); q != nil {
					s.handOn(x, q)
				}
			}
			x.mu.Unlock()
		}
		if q := s.pickProxy(); q != nil {
			s.leftTo(q)
		}
	}
	s.mu.Unlock()
	if p.Kind() == "handler" {
		s.sendRecords(up)
	}
}

// PeerDown implements bus.Receiver.
func (s *Server) PeerDown(p bus.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	down := s.peers[p.Name]
	if down == nil || down.Boot != p.Boot {
		return
	}
	delete(s.peers, p.Name)
	s.out.down(down)
	if p.Kind() == "handler" {
		s.orphans = s.now()
		s.chore()
	}
	for i, q := range s.proxies {
		if q == down {
			s.proxies = append(s.proxies[:i:i], s.proxies[i+1:]...)
		}
	}
	s.leftBehind(down)
	for _, x := range s.exchanges {
		x.mu.Lock()
		if x.ws != nil && x.ws.handler == down {
			x.ws.handler = nil
		}
		if x.far == down && x.ws != nil && x.turn {
			x.far = nil
			s.wsProxyLost(x)
		}
		if x.far == down {
			x.far = nil
			if !x.turn || x.toBox { // a hold as such goes on without its handler
				x.fail(errPeerLost)
			}
		}
		x.mu.Unlock()
	}
}

// Broadcast implements bus.Receiver.
func (s *Server) Broadcast(from bus.Peer, topic string, _ []byte) {
	if topic != leave {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[from.Name]; p != nil && p.Boot == from.Boot {
		p.leaving.Store(true)
	}
}

// Receive implements bus.Receiver.
func (s *Server) Receive(from bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	if err != nil {
		s.badFrame(from, "frame that cannot be read", err.Error())
		return
	}
	s.mu.Lock()
	p := s.peers[from.Name]
	s.mu.Unlock()
	if p == nil {
		return
	}
	if d, ok := f.(*frame.Deliver); ok {
		s.deliver(p, d)
		return
	}
	if c, ok := f.(*frame.Cancel); ok && s.leftKnown(p, c) {
		return
	}
	id, seq, ok := exchange.Seq(f)
	switch f.(type) {
	case *frame.Request, *frame.Closed:
		ok = false
	}
	if !ok {
		s.badFrame(from, "frame that connmgr does not take", f.Type().String())
		return
	}
	s.mu.Lock()
	x := s.exchanges[id]
	s.mu.Unlock()
	if x == nil {
		s.answerUnknown(p, f, id)
		return
	}
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		s.answerUnknown(p, f, id)
		return
	}
	if x.ws != nil && p != x.far {
		if p.Kind() == "handler" {
			err = s.fromHandler(p, x, seq, f)
		}
		x.mu.Unlock()
		if err != nil {
			s.endGap(x)
		}
		return
	}
	if hold, ok := f.(*frame.Hold); ok && x.hold == nil && x.ws == nil && seq >= x.inbox.Next() {
		s.hold(p, x, hold)
	}
	err = x.inbox.Push(seq, f, func(f frame.Frame) { s.inOrder(p, x, f) })
	waiting := x.inbox.Waiting()
	if waiting && x.gap.IsZero() {
		x.gap = s.now()
	} else if !waiting {
		x.gap = time.Time{}
	}
	x.mu.Unlock()
	switch {
	case err != nil:
		s.endGap(x)
	case waiting:
		s.mu.Lock()
		s.gaps[x] = struct{}{}
		s.chore()
		s.mu.Unlock()
	}
}

func (s *Server) badFrame(from bus.Peer, what, detail string) {
	s.metrics.badFrames.Inc()
	if skipped, ok := s.busLog.Allow(time.Now()); ok {
		s.log.Warn(what, "peer", from.Name, "detail", detail, "not_logged", skipped)
	}
}

// answerUnknown tells the sender of f that its exchange is over. Credits and
// cancels need no answer.
func (s *Server) answerUnknown(p *peer, f frame.Frame, id uint64) {
	switch f.(type) {
	case *frame.Credit, *frame.Cancel:
		return
	}
	s.metrics.unknown.Inc()
	if p.Kind() == "handler" {
		s.out.post(p, frame.Encode(&frame.Closed{ID: id, Reason: frame.ReasonUnknown}))
		return
	}
	s.out.post(p, frame.Encode(&frame.Cancel{ID: id, Reason: frame.ReasonUnknown}))
}

// inOrder brings a frame whose turn has come to whoever has to see it. x.mu is
// held.
func (s *Server) inOrder(p *peer, x *exch, f frame.Frame) {
	switch f := f.(type) {
	case *frame.Credit:
		if x.ws != nil {
			s.wsCredit(x, f.N)
			return
		}
		if x.window != nil {
			x.window.Add(f.N)
		}
		return
	case *frame.Session:
		if x.ws != nil {
			s.wsSession(x, f)
		}
		return
	case *frame.Hold:
		if x.turn {
			s.badFrame(p.Peer, "second hold of an exchange", "")
			return
		}
		x.turn = true
		x.toBox = f.More && f.Mode != frame.ModeResponse
		x.put(f)
		return
	case *frame.Body:
		if x.toBox {
			x.toBox = f.More
			x.put(f)
			return
		}
	}
	if !x.turn {
		x.put(f)
		return
	}
	if x.ws != nil {
		s.toWriter(x, f)
		return
	}
	h := x.hold
	j := job{kind: jobFrame, h: h, f: f}
	if u, ok := f.(*frame.Update); ok {
		j.groups = s.acquire(u.Groups, h.w)
		if len(u.Body) > 0 {
			j.d = newDelivery(p, &frame.Deliver{Pub: u.Pub, Mode: frame.ModeStream, Body: u.Body})
		}
	}
	h.w.push(j)
	if x.toBox { // its goroutine waits for the rest of the body
		switch f.(type) {
		case *frame.Cancel, *frame.Finish:
			x.put(f)
		}
	}
}

// hold makes x a held exchange with p as its far end. Its groups count from here
// on, even if its turn has not come: the handler sends publications as soon as
// it has sent the hold. x.mu is held.
func (s *Server) hold(p *peer, x *exch, f *frame.Hold) {
	w := s.writers[x.id%uint64(len(s.writers))]
	h := newHold(x, w, f, s.opt.Policy)
	x.uncount()
	x.far = p
	x.hold = h
	gs := s.acquire(f.Groups, w)
	f.Groups = nil // the keys are those of the groups from now on
	w.push(job{kind: jobHold, h: h, groups: gs})
}

func (s *Server) acquire(keys []string, w *writer) []*group {
	gs := make([]*group, len(keys))
	for i, key := range keys {
		gs[i] = s.groups.acquire(key, w.i)
	}
	return gs
}

// deliver hands a publication to the writers that have members for it.
func (s *Server) deliver(p *peer, f *frame.Deliver) {
	d := newDelivery(p, f)
	refused := func(w *writer, n int) {
		w.push(job{kind: jobDropped, d: d, reason: frame.ReasonOverload, n: n})
	}
	if f.Group != "" {
		repeated := s.repeats.repeated(p, f, 0, s.now())
		s.groups.each(f.Group, func(g *group, i int, members int32) {
			w := s.writers[i]
			if repeated {
				w.push(job{kind: jobDropped, d: d, reason: frame.ReasonRepeat, n: int(members)})
				return
			}
			if !w.push(job{kind: jobDeliver, d: d, g: g}) {
				refused(w, int(members))
			}
		})
		return
	}
	only := make([][]*hold, len(s.writers))
	missing, again := 0, 0
	for _, id := range f.Only {
		if s.repeats.repeated(p, f, id, s.now()) {
			again++
			continue
		}
		s.mu.Lock()
		x := s.exchanges[id]
		s.mu.Unlock()
		var h *hold
		if x != nil {
			x.mu.Lock()
			if h = x.hold; h == nil && x.ws != nil {
				h = x.ws.hold
			}
			x.mu.Unlock()
		}
		if h == nil {
			missing++
			continue
		}
		only[h.w.i] = append(only[h.w.i], h)
	}
	for i, list := range only {
		if len(list) == 0 {
			continue
		}
		if w := s.writers[i]; !w.push(job{kind: jobDeliver, d: d, only: list}) {
			refused(w, len(list))
		}
	}
	if missing > 0 {
		s.writers[0].push(job{kind: jobDropped, d: d, reason: frame.ReasonUnknown, n: missing})
	}
	if again > 0 {
		s.writers[0].push(job{kind: jobDropped, d: d, reason: frame.ReasonRepeat, n: again})
	}
}

// sendRecords sends the records of all holds that have no living handler, or had
// an earlier boot of this one, to p, which is their far end from now on.
func (s *Server) sendRecords(p *peer) {
	s.sendEnded(p)
	wanted := make([][]recordWanted, len(s.writers))
	s.mu.Lock()
	s.orphans = time.Time{}
	for _, x := range s.exchanges {
		x.mu.Lock()
		if ws := x.ws; ws != nil {
			if ws.joined && ws.handler == nil {
				ws.handler = p
				ws.inbox = exchange.NewInbox(ws.inbox.Next())
				wanted[ws.hold.w.i] = append(wanted[ws.hold.w.i], recordWanted{h: ws.hold, sendSeq: ws.inbox.Next()})
			}
		} else if h := x.hold; h != nil && x.far == nil {
			x.far = p
			x.inbox = exchange.NewInbox(x.inbox.Next())
			x.gap = time.Time{}
			wanted[h.w.i] = append(wanted[h.w.i], recordWanted{h: h, sendSeq: x.inbox.Next()})
		}
		x.mu.Unlock()
	}
	s.mu.Unlock()
	var left atomic.Int32
	left.Store(int32(len(s.writers)))
	for i, w := range s.writers {
		w.push(job{kind: jobRecords, rec: &recordsJob{to: p, holds: wanted[i], last: func() {
			if left.Add(-1) == 0 {
				s.out.post(p, frame.Encode(&frame.Records{Done: true}))
			}
		}}})
	}
}
