package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// LevelTrace is below slog.LevelDebug.
const LevelTrace = slog.LevelDebug - 4

// Level returns the slog level of a configured one: 0 error, 1 warn, 2 info,
// 3 debug, 4 and above trace.
func Level(n int) slog.Level {
	switch {
	case n <= 0:
		return slog.LevelError
	case n == 1:
		return slog.LevelWarn
	case n == 2:
		return slog.LevelInfo
	case n == 3:
		return slog.LevelDebug
	}
	return LevelTrace
}

// NewLogger returns a logger that writes lines to w in Pushpin's format, or as
// JSON. process, if not empty, is in each line, for logs that several processes
// write to.
func NewLogger(w io.Writer, level slog.Level, json bool, process string) *slog.Logger {
	if !json {
		if process != "" {
			process = "[" + process + "] "
		}
		return slog.New(&textHandler{level: level, process: process, out: &lockedWriter{w: w}})
	}
	log := slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.LevelKey {
				if l, ok := a.Value.Any().(slog.Level); ok {
					return slog.String(a.Key, levelName(l))
				}
			}
			return a
		},
	}))
	if process != "" {
		log = log.With("process", process)
	}
	return log
}

func levelName(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERR"
	case l >= slog.LevelWarn:
		return "WARN"
	case l >= slog.LevelInfo:
		return "INFO"
	case l >= slog.LevelDebug:
		return "DEBUG"
	}
	return "TRACE"
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// textHandler writes
//
//	[INFO] 2026-01-31 10:00:00.000 text key=value
//	[INFO] 2026-01-31 10:00:00.000 [process] text key=value
//
// in local time: what tools that read Pushpin's logs expect.
type textHandler struct {
	level   slog.Level
	process string // "[process] " or ""
	out     *lockedWriter
	attrs   []byte // " key=value" of WithAttrs
	group   string // "a.b." of WithGroup
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	b, _ := buffers.Get().(*bytes.Buffer)
	defer func() {
		const keep = 16 << 10 // one huge line must not stay in memory
		if b.Cap() <= keep {
			b.Reset()
			buffers.Put(b)
		}
	}()
	b.WriteByte('[')
	b.WriteString(levelName(r.Level))
	b.WriteString("] ")
	t := r.Time
	if t.IsZero() {
		t = time.Now()
	}
	b.Write(t.AppendFormat(b.AvailableBuffer(), "2006-01-02 15:04:05.000"))
	b.WriteByte(' ')
	b.WriteString(h.process)
	writeSafe(b, r.Message)
	b.Write(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(b, h.group, a)
		return true
	})
	b.WriteByte('\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(b.Bytes())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b bytes.Buffer
	b.Write(h.attrs)
	for _, a := range attrs {
		writeAttr(&b, h.group, a)
	}
	c := *h
	c.attrs = b.Bytes()
	return &c
}

func (h *textHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.group += name + "."
	return &c
}

func writeAttr(b *bytes.Buffer, group string, a slog.Attr) {
	v := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return
	}
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, member := range v.Group() {
			writeAttr(b, group, member)
		}
		return
	}
	b.WriteByte(' ')
	writeSafe(b, group+a.Key)
	b.WriteByte('=')
	text := v.String()
	if v.Kind() == slog.KindTime {
		text = v.Time().Format(time.RFC3339Nano)
	}
	if needsQuotes(text) {
		b.Write(strconv.AppendQuote(b.AvailableBuffer(), text))
		return
	}
	b.WriteString(text)
}

func needsQuotes(s string) bool {
	if s == "" {
		return true
	}
	for _, r := range s {
		if r == ' ' || r == '"' || r == '=' || r == utf8.RuneError || !unicode.IsPrint(r) {
			return true
		}
	}
	return false
}

// writeSafe keeps what came from outside from looking like another line.
func writeSafe(b *bytes.Buffer, s string) {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteString(s[i : i+size])
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += size
	}
}

// LogFile is a log file that can be opened again after it was renamed, as log
// rotation does.
type LogFile struct {
	path string

	mu sync.Mutex // guards f
	f  *os.File
}

// OpenLog opens path for appending.
func OpenLog(path string) (*LogFile, error) {
	l := &LogFile{path: path}
	if err := l.Reopen(); err != nil {
		return nil, err
	}
	return l, nil
}

// Reopen opens the path again. If that cannot be done, the old file stays.
func (l *LogFile) Reopen() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	l.mu.Lock()
	old := l.f
	l.f = f
	l.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

// Close closes the file. Nothing may be written after it.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
