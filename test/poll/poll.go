// Package poll waits for what nothing announces: a test looks again and again
// until it is there. It is the only place where a test sleeps outside a bubble of
// testing/synctest; where there is a channel to wait on, wait on that.
package poll

import (
	"testing"
	"time"
)

// Patience is how long Until and Works wait: long enough for a machine that is
// ten times slower than one would think.
const Patience = time.Minute

// Until waits until ok says yes, and ends the test if it does not within Patience.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !For(Patience, ok) {
		t.Fatalf("waited in vain for: %s", what)
	}
}

// Works waits until try has no error, and ends the test with the last one if it
// still has one after Patience.
func Works(t testing.TB, what string, try func() error) {
	t.Helper()
	var err error
	if !For(Patience, func() bool { err = try(); return err == nil }) {
		t.Fatalf("waited in vain for: %s: %v", what, err)
	}
}

// For asks ok until it says yes or d is over, once at least, and returns what it
// said last. The pauses grow with the time that has passed, so that what comes
// soon is seen soon, and what takes long is not kept busy with answers.
func For(d time.Duration, ok func() bool) bool {
	began := time.Now()
	for !ok() {
		passed := time.Since(began)
		if passed >= d {
			return false
		}
		time.Sleep(min(max(passed/20, time.Millisecond), 50*time.Millisecond, d-passed))
	}
	return true
}
