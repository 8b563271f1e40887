//go:build !linux

package connmgr

// waiting returns how many connections wait to be accepted, as far as the system
// tells.
func (l *listener) waiting() int { return 0 }

// ignoreSYN has the kernel ignore whoever begins to connect, and reports whether it
// does.
func (l *listener) ignoreSYN() bool { return false }
