package daemon

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
)

// disk takes so many bytes.
type disk struct {
	bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	n := min(d.room, len(p))
	d.room -= n
	d.Buffer.Write(p[:n])
	if n < len(p) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func TestLogOutput(t *testing.T) {
	d := &disk{room: 10}
	var told bytes.Buffer
	l := NewLogOutput(d, &told)
	for _, step := range []struct {
		line string
		room int // more, before the line
		lost uint64
		disk string
	}{
		{"one\n", 0, 0, "one\n"},
		{"a line\n", 0, 1, "one\na line"},
		{"gone\n", 0, 2, "one\na line"},
		{"back\n", 6, 2, "one\na line\nback\n"},
		{"gone\n", 0, 3, "one\na line\nback\n"},
		{"back\n", 5, 3, "one\na line\nback\nback\n"},
	} {
		d.room += step.room
		n, err := l.Write([]byte(step.line))
		if (err == nil) != (n == len(step.line)) || l.Lost() != step.lost || d.String() != step.disk {
			t.Errorf("%q: %d, %v, %d lost, disk has %q", step.line, n, err, l.Lost(), d.String())
		}
	}
	if got := strings.Count(told.String(), "log lines are lost: no space left on device\n"); got != 2 {
		t.Errorf("told %q", told.String())
	}
}
