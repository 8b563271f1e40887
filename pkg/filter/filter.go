// Package filter runs the message filters that a subscription names. It does no
// I/O: a filter that asks an HTTP service yields a [Request], and goes on when it
// is given the answer.
package filter

import (
	"fmt"
	"strings"
)

// Names of the filters that there are. Others may be named and do nothing.
const (
	SkipSelf   = "skip-self"
	SkipUsers  = "skip-users"
	RequireSub = "require-sub"
	BuildID    = "build-id"
	VarSubst   = "var-subst"
	HTTPCheck  = "http-check"
	HTTPModify = "http-modify"
)

// MaxPerChannel is how many filters one subscription may name.
const MaxPerChannel = 5

// Known reports whether a filter does anything.
func Known(name string) bool {
	switch name {
	case SkipSelf, SkipUsers, RequireSub, BuildID, VarSubst, HTTPCheck, HTTPModify:
		return true
	}
	return false
}

// ChangesContent reports whether a filter may change what is sent. The names of
// those are what a publisher's content-filters must agree with.
func ChangesContent(name string) bool {
	return name == BuildID || name == VarSubst || name == HTTPModify
}

// Subscriber is what filters ask about the receiver of a message.
type Subscriber interface {
	// Meta returns a variable of the subscription, as set by Grip-Set-Meta.
	Meta(name string) (string, bool)
	// Subscribed reports whether the receiver is on the channel, named without
	// the prefix of its route.
	Subscribed(channel string) bool
	// LastID returns the position of the receiver in a channel, the message at
	// hand included; false if it has none.
	LastID(channel string) (string, bool)
}

// Verdict is what a filter decides.
type Verdict uint8

// Verdicts.
const (
	Pass Verdict = iota
	Drop
	Ask // Result.Request has to be made first
)

// Result is the outcome of a chain of filters.
type Result struct {
	Verdict Verdict
	// Content is what to send, if Verdict is Pass.
	Content []byte
	// Request says what to ask, and Next which filter of the chain asks, if
	// Verdict is Ask.
	Request Request
	Next    int
}

// Request is what http-check and http-modify ask. The handler adds the fields
// Sub-Meta, Pub-Meta and Grip-Last, and resolves URL against the one of the
// receiver's own request.
type Request struct {
	URL  string // as given by the subscription, not empty
	Body []byte
}

// MaxAnswer is the largest answer to a Request, in bytes.
const MaxAnswer = 100000

// Answer is the answer to a Request. Condition says why there is none.
type Answer struct {
	Code      int
	Drop      bool // the field "Action: drop" was there
	Body      []byte
	TooLarge  bool // Body is not there because it is longer than MaxAnswer
	Condition string
}

// Run passes a message through the filters, from the one at index from. A Drop
// or an error ends the chain. content is not changed.
func Run(names []string, from int, s Subscriber, pubMeta map[string]string, content []byte) (Result, error) {
	for i := from; i < len(names); i++ {
		var err error
		switch names[i] {
		case SkipSelf:
			user, _ := s.Meta("user")
			if user != "" && user == pubMeta["sender"] {
				return Result{Verdict: Drop}, nil
			}
		case SkipUsers:
			user, _ := s.Meta("user")
			if user != "" && listed(pubMeta["skip_users"], user) {
				return Result{Verdict: Drop}, nil
			}
		case RequireSub:
			if c := pubMeta["require_sub"]; c != "" && !s.Subscribed(c) {
				return Result{Verdict: Drop}, nil
			}
		case BuildID:
			content, err = buildID(s, content)
		case VarSubst:
			content, err = render(content, func(directive byte, arg string) (string, error) {
				return variable(directive, arg, s.Meta)
			})
		case HTTPCheck, HTTPModify:
			url, _ := s.Meta("url")
			if url == "" {
				return Result{}, fmt.Errorf("missing url value")
			}
			r := Request{URL: url}
			if names[i] == HTTPModify {
				r.Body = content
			}
			return Result{Verdict: Ask, Request: r, Next: i, Content: content}, nil
		}
		if err != nil {
			return Result{}, err
		}
	}
	return Result{Content: content}, nil
}

// Resume goes on with a chain after the answer to the Request of asked, which is
// what Run or Resume returned.
func Resume(names []string, asked Result, a Answer, s Subscriber, pubMeta map[string]string) (Result, error) {
	switch {
	case a.TooLarge || len(a.Body) > MaxAnswer:
		return Result{}, fmt.Errorf("network response exceeded %d bytes", MaxAnswer)
	case a.Condition != "":
		return Result{}, fmt.Errorf("network request failed: %s", a.Condition)
	case a.Code != 200 && a.Code != 204:
		return Result{}, fmt.Errorf("unexpected network request status: code=%d", a.Code)
	case a.Drop:
		return Result{Verdict: Drop}, nil
	}
	content := asked.Content
	if names[asked.Next] == HTTPModify && a.Code == 200 {
		content = a.Body
	}
	return Run(names, asked.Next+1, s, pubMeta, content)
}

func listed(list, name string) bool {
	for e := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(e) == name {
			return true
		}
	}
	return false
}

// CheckContent compares the content-filters of a message with the filters of a
// subscription: those that change content must be the same, in the same order.
func CheckContent(names, wanted []string) error {
	i := 0
	same := true
	for _, n := range names {
		if ChangesContent(n) {
			same = same && i < len(wanted) && wanted[i] == n
			i++
		}
	}
	if same && i == len(wanted) {
		return nil
	}
	var have []string
	for _, n := range names {
		if ChangesContent(n) {
			have = append(have, n)
		}
	}
	return fmt.Errorf("content filter mismatch: subscription=%s message=%s", strings.Join(have, ","), strings.Join(wanted, ","))
}
