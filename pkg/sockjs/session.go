package sockjs

import (
	"errors"
	"sync"
	"time"
)

// Times of a session whose client polls.
const (
	// PollTime is how long a poll is open when there is nothing to say.
	PollTime = 25 * time.Second
	// LeaveTime is how long a client may take to poll again, and how long a session
	// that is closed is remembered.
	LeaveTime = 5 * time.Second
)

// Errors of a session.
var (
	// ErrTerminated says that the origin's side is gone without a word.
	ErrTerminated = errors.New("session terminated")
	// ErrAborted says that a poll ended because its client has left.
	ErrAborted = errors.New("client left")
	// ErrSending says that earlier messages of the client are still on their way.
	ErrSending = errors.New("already sending")
)

// Session is what the origin has said to a client that polls, and when the client
// has last been seen. It is safe for concurrent use.
type Session struct {
	// drop is called once, when the origin's side has to go because the client's
	// has; free once, when the session's name can be used again. Neither is called
	// with mu held.
	drop, free func()

	mu      sync.Mutex
	queue   []string
	bytes   int
	final   string        // the frame that says that it is over; "" as long as it is not
	polling bool          // a poll is open
	sending bool          // messages of the client are on their way
	ended   bool          // nothing can be said any more, not even final
	news    chan struct{} // buffer 1: the poll that is open may have an answer; never closed
	timer   *time.Timer   // since the last poll, or since final was heard
}

// NewSession returns a session that has just been opened. The client has to poll
// within LeaveTime.
func NewSession(drop, free func()) *Session {
	s := &Session{drop: sync.OnceFunc(drop), free: sync.OnceFunc(free), news: make(chan struct{}, 1)}
	s.timer = time.AfterFunc(LeaveTime, s.expire)
	return s
}

// expire is called when the client has not polled in time.
func (s *Session) expire() {
	s.mu.Lock()
	if s.polling {
		s.mu.Unlock()
		return
	}
	s.ended = true
	s.mu.Unlock()
	s.drop()
	s.free()
}

// Poll returns the frame that answers a poll, after some time if need be. It
// returns ErrAborted when gone yields first, which ends the session, and
// ErrTerminated if the origin's side has ended without a close.
func (s *Session) Poll(gone <-chan struct{}) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.polling {
		return FrameBusy, nil
	}
	s.polling = true
	s.timer.Stop()
	timeout := time.NewTimer(PollTime)
	defer timeout.Stop()
	for {
		switch {
		case s.ended:
			return "", ErrTerminated
		case len(s.queue) > 0:
			f := FrameMessages(s.queue)
			s.queue, s.bytes = nil, 0
			s.polled()
			return f, nil
		case s.final != "":
			s.polled()
			return s.final, nil
		}
		s.mu.Unlock()
		over, left := false, false
		select {
		case <-s.news:
		case <-timeout.C:
			over = true
		case <-gone:
			left = true
		}
		s.mu.Lock()
		switch {
		case left:
			if s.final == "" {
				s.final = frameGone
			}
			s.queue, s.bytes = nil, 0
			s.polled()
			s.mu.Unlock()
			s.drop()
			s.mu.Lock()
			return "", ErrAborted
		case over && !s.ended && len(s.queue) == 0 && s.final == "":
			s.polled()
			return FrameHeartbeat, nil
		}
	}
}

// polled notes that a poll is over. s.mu is held.
func (s *Session) polled() {
	s.polling = false
	s.timer.Reset(LeaveTime)
}

func (s *Session) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Deliver adds a message for the client. It returns false if the client leaves
// too much lying: the session is over then.
func (s *Session) Deliver(message string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.final != "" {
		return true
	}
	if s.bytes+len(message) > MaxQueued {
		return false
	}
	s.queue = append(s.queue, message)
	s.bytes += len(message)
	s.wake()
	return true
}

// Close notes that the origin's side was closed. Polls are told, and for LeaveTime
// late ones as well.
func (s *Session) Close(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.final == "" {
		s.final = FrameClose(code, reason)
	}
	s.wake()
}

// Cut notes that the origin's side has ended without a close. It does nothing
// after Close, or after the client has left.
func (s *Session) Cut() {
	s.mu.Lock()
	if s.final != "" || s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	s.timer.Stop()
	s.wake()
	s.mu.Unlock()
	s.drop()
	s.free()
}

// BeginSend says that messages of the client are passed on from now until EndSend.
// It returns ErrSending if some are already, and ErrTerminated if nobody is there
// to take them.
func (s *Session) BeginSend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended || s.final != "":
		return ErrTerminated
	case s.sending:
		return ErrSending
	}
	s.sending = true
	return nil
}

// EndSend says that the messages were taken.
func (s *Session) EndSend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending = false
}
