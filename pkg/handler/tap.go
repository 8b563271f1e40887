package handler

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/channel"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
)

// Events of a tap, see [TapEvent].
const (
	TapPublish = "publish" // an item whose turn came
	TapResult  = "result"  // what it came to; last of all for this item
	TapHeld    = "held"    // an item that was not sent on: Result says why
	TapMissed  = "missed"  // Count events were left out, because the listener is slow or the handler busy
)

// TapEvent is one line of what a tap tells.
type TapEvent struct {
	Event string    `json:"event"`
	Time  time.Time `json:"time"`
	// N is the number of the item at this handler; a publish and its result have
	// the same.
	N       uint64 `json:"n,omitempty"`
	Channel string `json:"channel,omitempty"`
	ID      string `json:"id,omitempty"`
	PrevID  string `json:"prev_id,omitempty"`
	// Formats is, for a publish, what the item has for each kind of subscriber.
	Formats map[string]TapFormat `json:"formats,omitempty"`
	// Matched is how many subscribers the item is for. In a result it is the sum
	// of Delivered and Dropped; it may differ from the publish's, because
	// clients come and go before connmgr sees the item.
	Matched   int            `json:"matched"`
	Delivered int            `json:"delivered,omitempty"`
	Dropped   map[string]int `json:"dropped,omitempty"` // by reason
	Millis    int64          `json:"ms,omitempty"`      // from publish to result
	Result    string         `json:"result,omitempty"`  // of the ordering: duplicate, waiting, overflow
	Count     int            `json:"count,omitempty"`   // of missed events
}

// TapFormat is one format of an item.
type TapFormat struct {
	Action  string `json:"action"`
	Size    int    `json:"size"` // of the body or content, in bytes
	Matched int    `json:"matched"`
}

const (
	// maxTaps is how many may listen at once.
	maxTaps = 16
	// tapQueue is how many events may wait for one listener.
	tapQueue = 4096
	// maxTallies bounds the items that are followed until their result is known.
	maxTallies = 1 << 16
	// tapWrite is how long a listener may take for what waits for it.
	tapWrite = 30 * time.Second
)

// taps are those who listen to what is published, and the items that they wait
// for the results of. While nobody listens nothing is kept. Guarded by Server.mu.
type taps struct {
	listeners map[*tapListener]struct{}
	tallies   map[*publish.Item]*tally
	last      uint64
}

// tapListener is one who listens.
type tapListener struct {
	patterns []string // of channels; empty is all
	after    uint64   // number of the last item before it came
	events   chan []byte
	missed   int
}

// tally is what one item came to so far.
type tally struct {
	n         uint64
	it        *publish.Item
	at        time.Time
	receivers int // subscribers that one of the formats is for, whatever its action
	matched   int // deliveries
	delivered int
	dropped   map[frame.Reason]int
	spread    bool // all groups have been looked at
	told      bool // there is a listener for it
}

func (t *tally) drops() int {
	n := 0
	for _, d := range t.dropped {
		n += d
	}
	return n
}

// wants reports whether a listener wants to hear of a channel.
func (l *tapListener) wants(name string) bool {
	return len(l.patterns) == 0 || slices.ContainsFunc(l.patterns, func(p string) bool { return matches(p, name) })
}

// matches reports whether a name fits a pattern, in which * stands for any
// text. It takes time linear in both but for one way back per star.
func matches(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	name, ok := strings.CutPrefix(name, first)
	if !ok || !star {
		return ok && name == ""
	}
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return strings.HasSuffix(name, parts[len(parts)-1])
}

// tell gives an event to all who want to hear of its channel.
func (tp *taps) tell(e *TapEvent) {
	var line []byte
	for l := range tp.listeners {
		if !l.wants(e.Channel) || e.N != 0 && e.N <= l.after {
			continue
		}
		if line == nil {
			line, _ = json.Marshal(e) // strings and numbers: it cannot fail
			line = append(line, '\n')
		}
		if l.missed > 0 {
			missed, _ := json.Marshal(&TapEvent{Event: TapMissed, Time: e.Time, Count: l.missed})
			select {
			case l.events <- append(missed, '\n'):
				l.missed = 0
			default:
			}
		}
		select {
		case l.events <- line:
		default:
			l.missed++
		}
	}
}

// wanted reports whether somebody wants to hear of a channel.
func (tp *taps) wanted(name string) bool {
	for l := range tp.listeners {
		if l.wants(name) {
			return true
		}
	}
	return false
}

// miss counts an item that cannot be followed.
func (tp *taps) miss(name string) {
	for l := range tp.listeners {
		if l.wants(name) {
			l.missed++
		}
	}
}

// beginTally begins to follow an item if somebody wants that. c may be nil.
func (s *Server) beginTally(it *publish.Item, c *chann, receivers int) {
	tp := &s.taps
	told := len(tp.listeners) > 0 && tp.wanted(it.Channel)
	if told && len(tp.tallies) >= maxTallies {
		tp.miss(it.Channel)
		told = false
	}
	if !told && s.receipt.it != it {
		return
	}
	t := &tally{it: it, at: s.now(), receivers: receivers, told: told}
	if tp.tallies == nil {
		tp.tallies = make(map[*publish.Item]*tally)
	}
	tp.tallies[it] = t
	if !told {
		return
	}
	tp.last++
	t.n = tp.last
	e := &TapEvent{Event: TapPublish, Time: t.at, N: t.n, Channel: it.Channel, ID: it.ID, PrevID: it.PrevID, Formats: make(map[string]TapFormat)}
	for _, mode := range modes {
		f := formatFor(it, mode)
		if f == nil {
			continue
		}
		n := 0
		if c != nil {
			n = subscribers(c, mode)
		}
		e.Formats[mode.String()] = TapFormat{Action: f.Action.String(), Size: len(f.Body), Matched: n}
		e.Matched += n
	}
	tp.tell(e)
}

// tallyOf returns the tally of an item that is followed, else nil.
func (s *Server) tallyOf(it *publish.Item) *tally { return s.taps.tallies[it] }

// endSpread notes that an item has been handed to all its groups.
func (s *Server) endSpread(it *publish.Item) {
	if t := s.tallyOf(it); t != nil {
		t.spread = true
		if s.receipt.it == it {
			s.receipt.matched = t.receivers
			s.receipt.queued = t.receivers - t.drops()
		}
		s.settle(t)
	}
}

// settle tells the result of an item once it is complete.
func (s *Server) settle(t *tally) {
	if t == nil || !t.spread || t.told && t.matched > t.delivered+t.drops() {
		return
	}
	delete(s.taps.tallies, t.it)
	if !t.told || t.matched == 0 {
		t.it = nil // accounts may refer to the tally for a while
		return
	}
	now := s.now()
	e := &TapEvent{
		Event: TapResult, Time: now, N: t.n, Channel: t.it.Channel, ID: t.it.ID,
		Matched: t.matched, Delivered: t.delivered, Millis: now.Sub(t.at).Milliseconds(),
	}
	for reason, n := range t.dropped {
		if e.Dropped == nil {
			e.Dropped = make(map[string]int)
		}
		e.Dropped[reason.String()] += n
	}
	s.taps.tell(e)
}

// match counts pairs of an item and the subscribers that it is for.
func (t *tally) match(n int) {
	if t != nil {
		t.matched += n
	}
}

func (t *tally) deliver(n int) {
	if t != nil {
		t.delivered += n
	}
}

func (t *tally) drop(reason frame.Reason, n int) {
	if t == nil || n == 0 {
		return
	}
	if t.dropped == nil {
		t.dropped = make(map[frame.Reason]int)
	}
	t.dropped[reason] += n
}

// dropped counts deliveries of an item that come to nothing.
func (s *Server) dropped(it *publish.Item, reason frame.Reason, n int) {
	s.metrics.droppedFor(reason, n)
	if t := s.tallyOf(it); t != nil {
		t.drop(reason, n)
		s.settle(t)
	}
}

// tellHeld tells of an item that the ordering kept back.
func (s *Server) tellHeld(it *publish.Item, result channel.Result) {
	if len(s.taps.listeners) == 0 {
		return
	}
	s.taps.tell(&TapEvent{
		Event: TapHeld, Time: s.now(), Channel: it.Channel, ID: it.ID, PrevID: it.PrevID, Result: result.String(),
	})
}

// Tap is a handler of HTTP requests that tells live what is published and what
// comes of it, as one TapEvent in JSON a line, until the client leaves. The
// parameter channel, which may be there several times, names the channels; a
// star in it stands for any text.
func (s *Server) Tap() http.Handler { return http.HandlerFunc(s.serveTap) }

func (s *Server) serveTap(w http.ResponseWriter, r *http.Request) {
	l := &tapListener{patterns: r.URL.Query()["channel"], events: make(chan []byte, tapQueue)}
	s.mu.Lock()
	full := len(s.taps.listeners) >= maxTaps
	if !full {
		if s.taps.listeners == nil {
			s.taps.listeners = make(map[*tapListener]struct{})
		}
		l.after = s.taps.last
		s.taps.listeners[l] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		http.Error(w, fmt.Sprintf("%d listen already", maxTaps), http.StatusServiceUnavailable)
		return
	}
	defer s.endTap(l)
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the listener's limit is for the request
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return
	}
	for {
		var line []byte
		select {
		case line = <-l.events:
		case <-r.Context().Done():
			return
		}
		_ = rc.SetWriteDeadline(time.Now().Add(tapWrite))
		if _, err := w.Write(line); err != nil {
			return
		}
		if len(l.events) == 0 && rc.Flush() != nil {
			return
		}
	}
}

// endTap forgets a listener, and with the last one all items that are followed.
func (s *Server) endTap(l *tapListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taps.listeners, l)
	if len(s.taps.listeners) == 0 {
		s.taps.tallies = nil
	}
}
