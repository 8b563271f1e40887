// Package hook is what those who make webhooks and those who send them agree on:
// the kinds of events, the patterns that choose channels, and the header fields
// that nobody but the sender may set.
package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kinds of events: the "type" of the JSON form.
const (
	Message             = "message.published"    // an item was published to a channel
	ConnectionOpened    = "connection.opened"    // a client's connection is held
	ConnectionClosed    = "connection.closed"    // it is not any more
	ChannelSubscribed   = "channel.subscribed"   // a held connection joined a channel
	ChannelUnsubscribed = "channel.unsubscribed" // it left it

	// What only the sender makes.
	Test         = "endpoint.test"
	Verification = "endpoint.verification"
)

// Kinds are the kinds that an endpoint may ask for.
var Kinds = []string{Message, ConnectionOpened, ConnectionClosed, ChannelSubscribed, ChannelUnsubscribed}

// MaxBody is the largest body of a webhook, in bytes.
const MaxBody = 4 << 20

// Methods are the methods that a webhook may use. Receivers that act on GET or
// DELETE were not written for webhooks.
var Methods = []string{"POST", "PUT", "PATCH"}

// reserved are the names of header fields that frame the request, speak for a
// hop, or are the signature. The ones that make some frameworks take a POST for
// another method are among them.
var reserved = []string{
	"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect",
	"http2-settings", "via", "forwarded", "user-agent", "accept-encoding", "date", "max-forwards", "grip-sig",
	"x-http-method", "x-http-method-override", "x-method-override",
}

var reservedPrefixes = []string{"webhook-", "proxy-", "sec-", "x-forwarded-"}

// Reserved reports whether neither endpoints nor publishers may set the header
// field.
func Reserved(name string) bool {
	name = strings.ToLower(name)
	return slices.Contains(reserved, name) ||
		slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// MaxPattern is the longest pattern, in bytes.
const MaxPattern = 512

// CheckPattern reports what is wrong with a pattern of channel names: text in
// which each * stands for any characters, or none.
func CheckPattern(p string) error {
	switch {
	case p == "":
		return errors.New("empty pattern")
	case len(p) > MaxPattern:
		return fmt.Errorf("a pattern of %d bytes, more than %d", len(p), MaxPattern)
	case strings.Contains(p, "\x00"):
		return errors.New("a pattern with a NUL")
	case strings.Count(p, "*") > 8:
		return fmt.Errorf("pattern %.40q has more than 8 asterisks", p)
	}
	return nil
}

// Match reports whether a name fits a pattern.
func Match(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, head)
	if !ok {
		return false
	}
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], after
	}
}

// Set finds whose patterns fit a name. Names in full and names with one * at
// the end cost a look-up each, however many there are; other patterns are tried
// in turn. The zero value is empty.
type Set[T comparable] struct {
	exact    map[string][]T
	prefixes map[string][]T
	lengths  []int // of prefixes, each once, sorted
	others   []other[T]
}

type other[T comparable] struct {
	pattern string
	v       T
}

// Add adds a pattern of v.
func (s *Set[T]) Add(pattern string, v T) {
	switch i := strings.IndexByte(pattern, '*'); i {
	case -1:
		if s.exact == nil {
			s.exact = make(map[string][]T)
		}
		s.exact[pattern] = append(s.exact[pattern], v)
	case len(pattern) - 1:
		if s.prefixes == nil {
			s.prefixes = make(map[string][]T)
		}
		s.prefixes[pattern[:i]] = append(s.prefixes[pattern[:i]], v)
		if at, found := slices.BinarySearch(s.lengths, i); !found {
			s.lengths = slices.Insert(s.lengths, at, i)
		}
	default:
		s.others = append(s.others, other[T]{pattern, v})
	}
}

// Has reports whether some pattern fits.
func (s *Set[T]) Has(name string) bool {
	found := false
	s.each(name, func(T) bool { found = true; return false })
	return found
}

// Find returns all whose patterns fit, each once.
func (s *Set[T]) Find(name string) []T {
	var all []T
	seen := make(map[T]bool)
	s.each(name, func(v T) bool {
		if !seen[v] {
			seen[v] = true
			all = append(all, v)
		}
		return true
	})
	return all
}

func (s *Set[T]) each(name string, yield func(T) bool) {
	for _, v := range s.exact[name] {
		if !yield(v) {
			return
		}
	}
	for _, n := range s.lengths {
		if n > len(name) {
			break
		}
		for _, v := range s.prefixes[name[:n]] {
			if !yield(v) {
				return
			}
		}
	}
	for _, o := range s.others {
		if Match(o.pattern, name) && !yield(o.v) {
			return
		}
	}
}
