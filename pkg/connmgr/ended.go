package connmgr

import (
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

const (
	// maxEnded is how many ended holds are kept for the next handler, and
	// maxEndedBytes how many bytes of records; one is kept whatever its size.
	maxEnded      = 10000
	maxEndedBytes = 64 << 20
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
	held := frame.Held{ID: h.x.id, Record: h.record, Last: h.placed, Ended: reason}
	size := recordSize(&held)
	if len(s.ended) >= maxEnded || len(s.ended) > 0 && s.endedBytes+size > maxEndedBytes {
		s.metrics.endedDropped.Inc()
		return
	}
	s.endedBytes += size
	s.ended = append(s.ended, ended{held, far, s.now()})
	s.chore()
}

// forgetEnded drops what its handler has surely seen. Called with s.mu held.
func (s *Server) forgetEnded(now time.Time) {
	kept := s.ended[:0]
	for _, e := range s.ended {
		if e.src != nil && s.peers[e.src.Name] == e.src && now.Sub(e.at) > endedTime {
			s.endedBytes -= recordSize(&e.held)
			continue
		}
		kept = append(kept, e)
	}
	clear(s.ended[len(kept):])
	s.ended = kept
}

// sendEnded tells a new handler what ended without one.
func (s *Server) sendEnded(p *peer) {
	batch := recordBatch{s: s, to: p}
	s.mu.Lock()
	var gone []frame.Held
	kept := s.ended[:0]
	for _, e := range s.ended {
		if e.src != nil && s.peers[e.src.Name] == e.src {
			kept = append(kept, e) // that one lives
			continue
		}
		gone = append(gone, e.held)
		s.endedBytes -= recordSize(&e.held)
	}
	clear(s.ended[len(kept):])
	s.ended = kept
	s.mu.Unlock()
	for _, held := range gone {
		batch.add(held)
	}
	batch.flush()
}

func recordSize(held *frame.Held) int {
	n := 32 + len(held.Record)
	for _, l := range held.Last {
		n += 16 + len(l.Channel) + len(l.ID)
	}
	return n
}

// maxRecordBatch is how many bytes of records travel in one frame, unless one alone
// is larger.
const maxRecordBatch = 256 << 10

// recordBatch sends records to a handler, in as few frames as will do.
type recordBatch struct {
	s    *Server
	to   *peer
	f    frame.Records
	size int
}

func (b *recordBatch) add(held frame.Held) {
	size := recordSize(&held)
	if b.size+size > maxRecordBatch {
		b.flush()
	}
	b.f.Holds = append(b.f.Holds, held)
	b.size += size
}

func (b *recordBatch) flush() {
	if len(b.f.Holds) > 0 {
		b.s.out.post(b.to, frame.Encode(&b.f))
	}
	b.f.Holds, b.size = b.f.Holds[:0], 0
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
