package proxy

import (
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
)

// A connmgr that is out of reach may be dead, and then the origins of its
// WebSocket-over-HTTP sessions must hear that the clients are gone. Or only the
// link is: then the clients are still there, connmgr gives their sessions to
// another proxy or to us again, and the origins must hear nothing. Until it is
// known which, the sessions stand still.

const (
	// awayTime is how long a connmgr that is out of reach is taken for alive while
	// nothing is known of it.
	awayTime = 5 * time.Minute
	// awayLook is how often that is looked at.
	awayLook = time.Second
)

// errTakenOver says that connmgr has a session served by another exchange, if the
// client is still there.
var errTakenOver = &endError{frame.ReasonPeerLost, "connmgr was out of reach, and gave the session to another"}

// lose ends what p's exchanges were for. ended says that the process is known to
// have ended. It is called by the bus's goroutine before that name can be sent to
// again, so nothing of these exchanges reaches the next boot.
func (s *Server) lose(p bus.Peer, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	away := 0
	for x, e := range s.exchanges {
		if x.Conn == p.Name && x.Boot == p.Boot && e.lose(ended) {
			away++
		}
	}
	if away == 0 {
		return
	}
	s.away[p] = s.opts.Now()
	s.log.Warn("connmgr is out of reach, its sessions stand still", "peer", p.Name, "boot", p.Boot, "sessions", away)
	if len(s.away) == 1 {
		s.opts.AfterFunc(awayLook, s.lookAway)
	}
}

// found deals with the sessions of boots that had p's name and were out of reach:
// those of the same boot are served by others now, or will be.
func (s *Server) found(p bus.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.away {
		switch {
		case q == p:
			s.settle(q, errTakenOver)
		case q.Name == p.Name:
			s.settle(q, errConnmgrLost)
		}
	}
}

// lookAway gives up those that are known to have ended meanwhile, or that nothing
// was heard of for too long.
func (s *Server) lookAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	for p, since := range s.away {
		if s.opts.Bus.Ended(p) {
			s.settle(p, errConnmgrLost)
		} else if s.opts.Now().Sub(since) >= awayTime {
			s.log.Warn("connmgr stays out of reach, its sessions are given up", "peer", p.Name, "boot", p.Boot)
			s.settle(p, errConnmgrLost)
		}
	}
	if len(s.away) > 0 {
		s.opts.AfterFunc(awayLook, s.lookAway)
	}
}

// settle ends what stands still since p is out of reach. s.mu is held.
func (s *Server) settle(p bus.Peer, cause error) {
	delete(s.away, p)
	for x, e := range s.exchanges {
		if x.Conn == p.Name && x.Boot == p.Boot {
			e.settle(cause)
		}
	}
}
