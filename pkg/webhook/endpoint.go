package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/pkg/http1"
)

// Duration is a time.Duration that is text in JSON: "1m30s", "10d", or a number
// of seconds.
type Duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var seconds float64
	if json.Unmarshal(b, &seconds) == nil {
		if seconds < 0 || seconds > maxDuration.Seconds() {
			return fmt.Errorf("duration %s: want 0 to %s", b, Duration(maxDuration))
		}
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return errors.New(`want a duration such as "30s", "5m", "2h" or "10d", or a number of seconds`)
	}
	v, err := parseDuration(text)
	*d = Duration(v)
	return err
}

func parseDuration(text string) (time.Duration, error) {
	v, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		v = time.Duration(min(n, 1e5) * 24 * float64(time.Hour))
	}
	if err != nil || v < 0 || v > maxDuration {
		return 0, fmt.Errorf("duration %.20q: want one such as 30s, 5m, 2h or 10d", text)
	}
	return v, nil
}

const maxDuration = 3660 * 24 * time.Hour

// String returns the shortest form.
func (d Duration) String() string {
	if h := time.Duration(d) / time.Hour; h >= 48 && time.Duration(d)%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", h/24)
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// What an endpoint does when its queue is full.
const (
	FullDropOldest = "drop-oldest" // what waited longest becomes a dead letter
	FullDropNewest = "drop-newest" // the new message does
	FullRefuse     = "refuse"      // the publish is refused
)

// Endpoint is what its owner says about an endpoint. Zero values mean the
// default.
type Endpoint struct {
	// ID names the endpoint; one is made if it is empty.
	ID  string `json:"id"`
	URL string `json:"url"`
	// Channels are patterns, see [hook.CheckPattern].
	Channels []string `json:"channels"`
	// Events are kinds of [hook.Kinds], or "*".
	Events      []string          `json:"events"`
	Description string            `json:"description,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	// Headers are sent with each request.
	Headers map[string]string `json:"headers,omitempty"`
	// Secret is whsec_ and base64. It is only read; answers never show it but
	// where it is asked for.
	Secret string `json:"secret,omitempty"`
	// Order is "parallel" or "in-order". In order, a message is tried until it is
	// delivered or given up before the next one is.
	Order string `json:"order"`
	// Concurrency is how many requests may be under way; 1 in order.
	Concurrency int `json:"concurrency"`
	// RateLimit is requests a second; 0 is no limit.
	RateLimit float64 `json:"rate_limit"`
	// Timeout limits an attempt.
	Timeout Duration `json:"timeout"`
	// Retries are the waits after each failed attempt. The message is given up
	// when the last has not helped.
	Retries []Duration `json:"retries"`
	// MaxQueue, MaxBytes and MaxAge bound the queue; OnFull is what happens at
	// the first two. What is over MaxAge is given up.
	MaxQueue int      `json:"max_queue"`
	MaxBytes int64    `json:"max_bytes"`
	MaxAge   Duration `json:"max_age"`
	OnFull   string   `json:"on_full"`
	// Keep is for how long delivered messages can be sent again; 0 is not at all.
	// Options.MaxKept bounds what all endpoints keep.
	Keep Duration `json:"keep,omitempty"`
	// Verify asks the endpoint to answer a challenge before anything else is
	// sent.
	Verify bool `json:"verify"`
	// Lease is for how long the subscription lasts from now; ExpiresAt follows
	// from it. Zero is for ever.
	Lease     Duration   `json:"lease,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Paused    bool       `json:"paused"`
}

// Orders of delivery.
const (
	Parallel = "parallel"
	InOrder  = "in-order"
)

// defaultRetries is the schedule that Standard Webhooks gives as an example.
var defaultRetries = []Duration{
	Duration(5 * time.Second), Duration(5 * time.Minute), Duration(30 * time.Minute), Duration(2 * time.Hour), Duration(5 * time.Hour),
	Duration(10 * time.Hour), Duration(14 * time.Hour), Duration(20 * time.Hour), Duration(24 * time.Hour),
}

func (e *Endpoint) setDefaults() {
	if len(e.Events) == 0 {
		e.Events = []string{hook.Message}
	}
	if e.Order == "" {
		e.Order = Parallel
	}
	if e.Concurrency == 0 {
		e.Concurrency = 4
	}
	if e.Order == InOrder {
		e.Concurrency = 1
	}
	if e.Timeout == 0 {
		e.Timeout = Duration(15 * time.Second)
	}
	if e.Retries == nil {
		e.Retries = defaultRetries
	}
	if e.MaxQueue == 0 {
		e.MaxQueue = 10000
	}
	if e.MaxBytes == 0 {
		e.MaxBytes = 64 << 20
	}
	if e.MaxAge == 0 {
		e.MaxAge = Duration(96 * time.Hour)
	}
	if e.OnFull == "" {
		e.OnFull = FullDropOldest
	}
}

// Limits of an endpoint's description.
const (
	maxPatterns = 100
	maxText     = 1024
	maxPairs    = 50
	maxURL      = 2048
	maxKeep     = Duration(30 * 24 * time.Hour)
)

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// check reports all that is wrong with the endpoint, whose defaults are set.
func (e *Endpoint) check() error {
	var errs []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	need(validID.MatchString(e.ID), "id: want up to 64 letters, digits, _ and -")
	if err := checkURL(e.URL); err != nil {
		errs = append(errs, fmt.Errorf("url: %w", err))
	}
	need(len(e.Channels) > 0, "channels: want at least one pattern; * is every channel")
	need(len(e.Channels) <= maxPatterns, "channels: more than %d patterns", maxPatterns)
	for _, p := range e.Channels {
		if err := hook.CheckPattern(p); err != nil {
			errs = append(errs, fmt.Errorf("channels: %w", err))
		}
	}
	for _, k := range e.Events {
		need(k == "*" || slices.Contains(hook.Kinds, k), "events: %.40q: want * or some of %s", k, strings.Join(hook.Kinds, ", "))
	}
	need(len(e.Description) <= maxText, "description: more than %d bytes", maxText)
	need(len(e.Metadata) <= maxPairs, "metadata: more than %d pairs", maxPairs)
	for k, v := range e.Metadata {
		need(len(k) <= maxText && len(v) <= maxText, "metadata: %.40q: more than %d bytes", k, maxText)
	}
	need(len(e.Headers) <= maxPairs, "headers: more than %d", maxPairs)
	for k, v := range e.Headers {
		need(http1.ValidField(frame.Field{Name: k, Value: v}) && len(k)+len(v) <= 8*maxText, "headers: %.40q cannot be a header field", k)
		need(!hook.Reserved(k), "headers: %s may not be set", k)
	}
	need(e.Order == Parallel || e.Order == InOrder, "order: want %s or %s", Parallel, InOrder)
	need(e.Concurrency >= 1 && e.Concurrency <= 100, "concurrency: want 1 to 100")
	need(e.RateLimit >= 0 && e.RateLimit <= 1e6, "rate_limit: want 0 to 1000000 requests a second")
	need(e.Timeout >= Duration(100*time.Millisecond) && e.Timeout <= Duration(5*time.Minute), "timeout: want 100ms to 5m")
	need(len(e.Retries) <= 50, "retries: more than 50")
	need(e.MaxQueue >= 1 && e.MaxQueue <= 1e6, "max_queue: want 1 to 1000000 messages")
	need(e.MaxBytes >= 1024, "max_bytes: want at least 1024")
	need(e.MaxAge >= Duration(time.Second), "max_age: want at least 1s")
	need(e.OnFull == FullDropOldest || e.OnFull == FullDropNewest || e.OnFull == FullRefuse,
		"on_full: want %s, %s or %s", FullDropOldest, FullDropNewest, FullRefuse)
	need(e.Keep <= maxKeep, "keep: want at most %s", maxKeep)
	if e.Secret != "" {
		if _, err := parseSecret(e.Secret); err != nil {
			errs = append(errs, fmt.Errorf("secret: %w", err))
		}
	}
	return errors.Join(errs...)
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("it cannot be parsed")
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("want http://HOST… or https://HOST…")
	case u.User != nil:
		return errors.New("user and password have no place in it; set the header Authorization")
	case u.Fragment != "":
		return errors.New("a fragment has no place in it")
	case len(s) > maxURL:
		return fmt.Errorf("more than %d bytes", maxURL)
	}
	return nil
}

// wants reports whether the endpoint asked for events of that kind.
func (e *Endpoint) wants(kind string) bool {
	return slices.Contains(e.Events, kind) || slices.Contains(e.Events, "*")
}

// Status of an endpoint.
const (
	StatusActive   = "active"
	StatusPending  = "pending"  // it has yet to answer the challenge
	StatusPaused   = "paused"   // messages wait
	StatusDisabled = "disabled" // nothing is queued or sent, see Reason
	StatusExpired  = "expired"  // the lease is over; what is queued is still sent
)

// secret is a key that signs; all but the first end some time.
type secret struct {
	Key   string     `json:"key"`
	Until *time.Time `json:"until,omitempty"`
}

// stored is what the file has of an endpoint.
type stored struct {
	Endpoint
	Num      uint32     `json:"num"` // begins the keys of its deliveries
	Created  time.Time  `json:"created_at"`
	Updated  time.Time  `json:"updated_at"`
	Secrets  []secret   `json:"secrets"`
	Declared bool       `json:"declared"`
	Status   string     `json:"status"` // active, pending or disabled
	Reason   string     `json:"reason,omitempty"`
	Failing  *time.Time `json:"failing_since,omitempty"`
}

// View is an endpoint as the API shows it.
type View struct {
	Endpoint
	Status      string     `json:"status"`
	Reason      string     `json:"reason,omitempty"`
	Declared    bool       `json:"declared"` // in the configuration
	Created     time.Time  `json:"created_at"`
	Updated     time.Time  `json:"updated_at"`
	Failing     *time.Time `json:"failing_since,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
	Queue       QueueView  `json:"queue"`
	DeadLetters int        `json:"dead_letters"`
	Kept        KeptView   `json:"kept"`
}

// QueueView is how much waits for an endpoint.
type QueueView struct {
	Messages  int     `json:"messages"`
	Bytes     int64   `json:"bytes"`
	OldestAge float64 `json:"oldest_seconds"`
}

// KeptView is what is kept of an endpoint's delivered messages. A message counts
// 256 bytes more than it has.
type KeptView struct {
	Messages int   `json:"messages"`
	Bytes    int64 `json:"bytes"`
}
