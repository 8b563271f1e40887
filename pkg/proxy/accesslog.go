package proxy

import (
	"context"
	"log/slog"
	"net/url"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/http1"
)

// accessLine gathers what the access log says about an exchange.
type accessLine struct {
	method string // as the client asked for it
	uri    string // full
	header []frame.Field
	last   []frame.LastID // positions that a retry tells; else those of the header
	retry  bool
	rule   *rule  // nil if there was none
	target string // the last one tried
	from   string
	code   int
	sent   int64 // body bytes
	accept bool  // handed to a handler
	failed bool
}

// logAccess writes a line. Its form is Pushpin's:
//
//	METHOD URI[ -> TARGET][ from=ADDR][ ref=URL][ route=ID] OUTCOME[ retry][ ua=AGENT][ #CHANNEL=ID ...]
func (s *Server) logAccess(l *accessLine) {
	handler := s.log.Handler()
	// A route's own level replaces that of the process.
	if l.rule != nil && l.rule.HasLogLevel {
		if l.rule.LogLevel < 2 {
			return
		}
	} else if !handler.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	var b strings.Builder
	b.WriteString(l.method)
	b.WriteByte(' ')
	b.WriteString(l.uri)
	if l.target != "" {
		b.WriteString(" -> ")
		b.WriteString(l.target)
	}
	if s.opts.LogFrom && l.from != "" {
		b.WriteString(" from=" + l.from)
	}
	if ref, _ := http1.Get(l.header, "Referer"); ref != "" {
		b.WriteString(" ref=" + encodeURI(ref))
	}
	if l.rule != nil && l.rule.Named {
		b.WriteString(" route=" + l.rule.ID)
	}
	switch {
	case l.accept:
		b.WriteString(" accept")
	case l.failed:
		b.WriteString(" error")
	default:
		b.WriteString(" code=" + strconv.Itoa(l.code) + " " + strconv.FormatInt(l.sent, 10))
	}
	if l.retry {
		b.WriteString(" retry")
	}
	if s.opts.LogUserAgent {
		if ua, _ := http1.Get(l.header, "User-Agent"); ua != "" {
			b.WriteString(" ua=" + ua)
		}
	}
	last := l.last
	if len(last) == 0 {
		last = grip.ParseLast(l.header)
	}
	for _, id := range last {
		b.WriteString(" #" + id.Channel + "=" + id.ID)
	}
	r := slog.NewRecord(s.opts.Now(), slog.LevelInfo, b.String(), 0)
	_ = handler.Handle(context.Background(), r) // there is nobody to tell
}

// encodeURI makes a client's text safe for a log line.
func encodeURI(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.String()
	}
	return url.QueryEscape(s)
}
