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
	method  string // as the client asked for it
	uri     string // full
	rule    *rule  // nil if there was none
	target  string // the last one tried
	from    string
	code    int
	sent    int64 // body bytes
	accept  bool  // handed to a handler
	failed  bool
	written bool
}

// write logs the line, once. Its form is Pushpin's:
//
//	METHOD URI[ -> TARGET][ from=ADDR][ ref=URL][ route=ID] OUTCOME[ retry][ ua=AGENT][ #CHANNEL=ID ...]
func (e *exch) logAccess() {
	l := &e.log
	if l.written {
		return
	}
	l.written = true
	handler := e.s.log.Handler()
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
	if e.s.opts.LogFrom && l.from != "" {
		b.WriteString(" from=" + l.from)
	}
	if ref, _ := http1.Get(e.req.Header, "Referer"); ref != "" {
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
	if e.req.Retry {
		b.WriteString(" retry")
	}
	if e.s.opts.LogUserAgent {
		if ua, _ := http1.Get(e.req.Header, "User-Agent"); ua != "" {
			b.WriteString(" ua=" + ua)
		}
	}
	for _, last := range e.lastIDs() {
		b.WriteString(" #" + last.Channel + "=" + last.ID)
	}
	r := slog.NewRecord(e.s.opts.Now(), slog.LevelInfo, b.String(), 0)
	_ = handler.Handle(context.Background(), r) // there is nobody to tell
}

// lastIDs returns the positions that the origin is told of.
func (e *exch) lastIDs() []frame.LastID {
	if len(e.req.Last) > 0 {
		return e.req.Last
	}
	return grip.ParseLast(e.req.Header)
}

// encodeURI makes a client's text safe for a log line.
func encodeURI(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.String()
	}
	return url.QueryEscape(s)
}
