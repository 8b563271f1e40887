package daemon

import (
	"fmt"
	"io"
	"sync"
)

// LogOutput is where a process writes its log. A line that cannot be written, say
// because the disk is full, is counted and the process goes on; what went wrong is
// told elsewhere when it begins.
type LogOutput struct {
	to, errors io.Writer

	mu     sync.Mutex // guards what follows
	lost   uint64
	failed bool // the last line
	torn   bool // there is a part of a line without its end
}

// NewLogOutput returns an output to a writer, that tells about errors on another
// one, such as the standard error.
func NewLogOutput(to, errors io.Writer) *LogOutput { return &LogOutput{to: to, errors: errors} }

// Write implements io.Writer. Each call has whole lines.
func (l *LogOutput) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		if _, err := l.to.Write([]byte("\n")); err != nil {
			l.lost++
			return 0, err
		}
		l.torn = false
	}
	n, err := l.to.Write(p)
	if err != nil {
		l.lost++
		l.torn = n > 0
		if !l.failed {
			_, _ = fmt.Fprintf(l.errors, "log lines are lost: %v\n", err) // who would be told if that fails, too?
		}
	}
	l.failed = err != nil
	return n, err
}

// Lost is how many lines could not be written.
func (l *LogOutput) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
