// Package loglimit keeps what strangers can cause as often as they like from
// filling the log.
package loglimit

import (
	"sync"
	"time"
)

// Limit lets one line a second through and counts the others. The zero value is
// ready. Its methods may be called from any goroutine, with any lock held.
type Limit struct {
	mu      sync.Mutex
	next    time.Time
	skipped int
}

// Allow reports whether to log now, and how many lines were left out before.
func (l *Limit) Allow(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Before(l.next) {
		l.skipped++
		return 0, false
	}
	skipped = l.skipped
	l.next, l.skipped = now.Add(time.Second), 0
	return skipped, true
}
