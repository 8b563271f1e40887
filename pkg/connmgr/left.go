package connmgr

import (
	"github.com/holdfast/holdfast/pkg/frame"
)

const (
	// maxLeft is how many sessions are kept that are over and that no proxy has
	// confirmed, and maxLeftBytes how many bytes of them. As a rule a confirmation
	// takes milliseconds.
	maxLeft      = 10000
	maxLeftBytes = 64 << 20
)

// left is a WebSocket-over-HTTP session that is over while its origin may not know:
// there is no proxy to tell it, or the one that was told has not confirmed yet. If
// that one goes down, or is out of reach, another is told, or itself once more.
type left struct {
	far     *peer // who was told; nil: nobody
	open    []byte
	session []byte
	parts   []wsPart    // of the client that the origin has not taken, if last has them count
	last    frame.Frame // Tune or Cancel
}

func (l *left) size() int {
	n := len(l.open) + len(l.session)
	for i := range l.parts {
		n += l.parts[i].cost()
	}
	return n
}

// forgetLeft drops a session that is over. s.mu is held.
func (s *Server) forgetLeft(id uint64) {
	s.leftBytes -= s.left[id].size()
	delete(s.left, id)
}

// wsLeave tells the proxy that it is over for the origin, unless it knows. last is
// a Cancel, or a Tune that says that the origin is to hear the rest first.
func (s *Server) wsLeave(x *exch, last frame.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	ws := x.ws
	if ws.over {
		return
	}
	if x.far != nil {
		setEnd(last, x.id, x.sendSeq)
		x.sendSeq++
		s.out.post(x.far, frame.Encode(last))
	}
	if ws.session != nil && ws.open != nil {
		l := &left{far: x.far, open: ws.open, session: ws.session, last: last}
		if _, ok := last.(*frame.Tune); ok {
			l.parts = ws.parts
		}
		if len(s.left) < maxLeft && s.leftBytes+l.size() <= maxLeftBytes {
			s.left[x.id] = l
			s.leftBytes += l.size()
		} else {
			s.metrics.endedDropped.Inc()
		}
	}
	x.far, ws.over, ws.orphan = nil, true, false // nothing that the proxy could say would be for anybody
	ws.parts, ws.sent, ws.unsent = nil, 0, 0
	ws.wake()
}

func setEnd(f frame.Frame, id, seq uint64) {
	switch f := f.(type) {
	case *frame.Cancel:
		f.ID, f.Seq = id, seq
	case *frame.Tune:
		f.ID, f.Seq = id, seq
	}
}

// leftTo tells p of the sessions that are over and that nobody else was told of.
// s.mu is held.
func (s *Server) leftTo(p *peer) {
	for id, l := range s.left {
		if l.far != nil {
			continue
		}
		req := s.again(id, l.open, l.session)
		if req == nil {
			s.forgetLeft(id)
			continue
		}
		l.far = p
		s.out.post(p, frame.Encode(req))
		seq := uint64(1)
		for i := range l.parts {
			m := &l.parts[i]
			s.out.post(p, frame.Encode(&frame.Message{ID: id, Seq: seq, Kind: m.kind, Data: m.data, More: m.more, Code: m.code}))
			seq++
		}
		setEnd(l.last, id, seq)
		s.out.post(p, frame.Encode(l.last))
	}
}

// leftBehind notes that p is gone, and whoever p was told of has to be told to
// another. s.mu is held.
func (s *Server) leftBehind(p *peer) {
	for _, l := range s.left {
		if l.far == p {
			l.far = nil
		}
	}
	if q := s.pickProxy(); q != nil {
		s.leftTo(q)
	}
}

// leftKnown takes what p says of a session that is over. It returns false if f is
// of another exchange.
func (s *Server) leftKnown(p *peer, f *frame.Cancel) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.left[f.ID]
	switch {
	case l == nil:
		return false
	case l.far != p:
	case f.Reason == frame.ReasonRefused: // it is about to stop
		p.leaving.Store(true)
		l.far = nil
		if q := s.pickProxy(); q != nil {
			s.leftTo(q)
		}
	default:
		s.forgetLeft(f.ID)
	}
	return true
}
