package connmgr

import (
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

const (
	// maxEnded is how many ended holds are kept for the next handler.
	maxEnded = 10000
	// endedTime is how long a handler may take for a Closed, as far as we care: if
	// it dies within that time, the next one is told too.
	endedTime = time.Second
	// orphanTime is how long holds wait for their handler to come back before
	// another one gets them.
	orphanTime = 5 * time.Second
)

// ended is a hold that is over and that a handler wanted to hear of
// (frame.Hold.Tell).
type ended struct {
	held frame.Held
	src  *peer // who was told; nil: nobody
	at   time.Time
}

// rememberEnded keeps the record of a hold that is over until it is certain that a
// handler knows. far is who was told.
func (s *Server) rememberEnded(h *hold, far *peer, reason frame.Reason) {
	if !h.tell {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ended) >= maxEnded {
		s.metrics.endedDropped.Inc()
		return
	}
	s.ended = append(s.ended, ended{frame.Held{ID: h.x.id, Record: h.record, Last: h.placed, Ended: reason}, far, s.now()})
	s.chore()
}

// forgetEnded drops what its handler has surely seen. Called with s.mu held.
func (s *Server) forgetEnded(now time.Time) {
	kept := s.ended[:0]
	for _, e := range s.ended {
		if e.src != nil && s.peers[e.src.Name] == e.src && now.Sub(e.at) > endedTime {
			continue
		}
		kept = append(kept, e)
	}
	clear(s.ended[len(kept):])
	s.ended = kept
}

// sendEnded tells a new handler what ended without one.
func (s *Server) sendEnded(p *peer) {
	var batch frame.Records
	s.mu.Lock()
	kept := s.ended[:0]
	for _, e := range s.ended {
		if e.src != nil && s.peers[e.src.Name] == e.src {
			kept = append(kept, e) // that one lives
			continue
		}
		batch.Holds = append(batch.Holds, e.held)
	}
	clear(s.ended[len(kept):])
	s.ended = kept
	s.mu.Unlock()
	const step = 100
	for all := batch.Holds; len(all) > 0; all = all[min(step, len(all)):] {
		batch.Holds = all[:min(step, len(all))]
		s.out.post(p, frame.Encode(&batch))
	}
}

// adopt gives holds whose handler does not come back to another one.
func (s *Server) adopt(now time.Time) {
	s.mu.Lock()
	s.forgetEnded(now)
	var to *peer
	if !s.orphans.IsZero() && now.Sub(s.orphans) >= orphanTime {
		for _, p := range s.peers {
			if p.Kind() == "handler" && (to == nil || p.Name < to.Name) {
				to = p
			}
		}
	}
	s.mu.Unlock()
	if to != nil {
		s.log.Info("holds go to another handler", "peer", to.Name)
		s.sendRecords(to)
	}
}
