package config

import (
	"fmt"
	"slices"
	"strings"
)

// Error is a fault in what the user wrote: where it is, which key, and what
// would be right.
type Error struct {
	File string // path; "environment" or "command line" for the others; "" if not known
	Line int    // 0 if there is none
	Key  string // "section.key" as far as known
	Text string
}

func (e *Error) Error() string { return place(e.File, e.Line, e.Key) + e.Text }

func place(file string, line int, key string) string {
	var b strings.Builder
	if file != "" {
		b.WriteString(file)
		if line > 0 {
			fmt.Fprintf(&b, ":%d", line)
		}
		b.WriteString(": ")
	}
	if key != "" {
		b.WriteString(key + ": ")
	}
	return b.String()
}

// NoticeKind says what a notice is about.
type NoticeKind int

// Kinds of notices.
const (
	// Unknown: no such key or section, in Pushpin or here.
	Unknown NoticeKind = iota
	// NotActedOn: a key of Pushpin that has no effect here, with the reason.
	NotActedOn
	// Renamed: the key works and has another name now.
	Renamed
	// Ambiguous: the line works and Pushpin would read it otherwise.
	Ambiguous
	// Repeated: the same key again; the last one counts.
	Repeated
	// Unsafe: the value works and should not be used in earnest.
	Unsafe
)

func (k NoticeKind) String() string {
	return [...]string{"unknown", "no effect", "renamed", "reads otherwise", "repeated", "unsafe"}[k]
}

// Notice is something that does not stop a process but that its operator should
// know.
type Notice struct {
	Kind         NoticeKind
	File         string
	Line         int
	Section, Key string
	Source       string // the key as the user wrote it
	Text         string
}

func (n Notice) String() string { return place(n.File, n.Line, n.Source) + n.Text }

// Unused is keys of Pushpin that were set and have no effect, for one reason.
type Unused struct {
	Keys   []string // as the user wrote them
	Reason string
}

func (u Unused) String() string { return strings.Join(u.Keys, " ") + ": " + u.Reason }

// Brief is like String, but names a few of the keys at most.
func (u Unused) Brief() string {
	const few = 3
	if more := len(u.Keys) - few; more > 1 {
		u.Keys = append(slices.Clone(u.Keys[:few]), fmt.Sprintf("and %d more", more))
	}
	return u.String()
}

// Unused gathers the notices of kind NotActedOn that wanted, if not nil, lets
// through: Pushpin's own files have dozens of such keys for a handful of reasons.
func (c *Config) Unused(wanted func(Notice) bool) []Unused {
	var all []Unused
	for _, n := range c.Notices {
		if n.Kind != NotActedOn || wanted != nil && !wanted(n) {
			continue
		}
		i := slices.IndexFunc(all, func(u Unused) bool { return u.Reason == n.Text })
		if i < 0 {
			i = len(all)
			all = append(all, Unused{Reason: n.Text})
		}
		all[i].Keys = append(all[i].Keys, n.Source)
	}
	return all
}
