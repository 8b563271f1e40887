package webhook

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Request is one attempt.
type Request struct {
	Method, URL string
	Header      []frame.Field
	Body        []byte
	MaxBody     int // of the response, in bytes; the rest is not wanted
}

// Response is what came of an attempt. Condition is "" if a response head
// arrived; a body that breaks off does not matter.
type Response struct {
	Status     int
	RetryAfter string // value of the field
	Body       []byte
	Condition  string // such as "policy-violation", "tls-error", "bad-request"
	Text       string
}

// Options are the settings of a Service.
type Options struct {
	// Path is the file. Its directory is made if it is not there.
	Path string
	// Logger may be nil.
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// Send makes one attempt within the time of ctx. Required.
	Send func(ctx context.Context, r *Request) Response
	// CheckURL says what is wrong with the URL of a new endpoint, beside its
	// form. May be nil.
	CheckURL func(url string) error
	// Changed is called after the patterns of endpoints have changed. It must not
	// block. May be nil.
	Changed func()

	// Early acknowledges messages before they are on disk.
	Early bool
	// MaxBytes and MaxPending bound all queues together: bytes of messages, and
	// messages that wait, counted for each endpoint.
	MaxBytes   int64
	MaxPending int
	// MaxKept bounds what all endpoints keep of delivered messages, in bytes; each
	// counts 256 more than it has, at each endpoint. The endpoint that keeps the most
	// gives up its oldest. 0 keeps nothing.
	MaxKept int64
	// MaxEndpoints is how many endpoints there may be.
	MaxEndpoints int
	// MaxExtra is how many attempts may be under way beyond the first of each
	// endpoint.
	MaxExtra int
	// DrainTime is how long a stopping Service lets attempts go on.
	DrainTime time.Duration

	commitFault func() error // for tests: fails a commit
	noSync      bool         // for tests: no fsync
}

// DefaultOptions returns the defaults.
func DefaultOptions() Options {
	return Options{MaxBytes: 1 << 30, MaxPending: 1e6, MaxKept: 256 << 20, MaxEndpoints: 10000, MaxExtra: 1000, DrainTime: 5 * time.Second}
}

func (o *Options) check() error {
	switch {
	case o.Path == "" || o.Send == nil:
		return errors.New("webhook options: Path and Send must be set")
	case o.MaxBytes <= 0 || o.MaxPending <= 0 || o.MaxEndpoints <= 0 || o.MaxExtra < 0 || o.MaxKept < 0:
		return errors.New("webhook options: bounds must be positive")
	}
	return nil
}

const (
	// maxResponse is how much of a response is kept to look at.
	maxResponse = 4 << 10
	// maxExcerpt is how much of that is kept for each attempt.
	maxExcerpt = 512
	// maxAttempts and maxDead are what is kept for each endpoint.
	maxAttempts = 100
	maxDead     = 1000
	// deadAge is for how long a dead letter is kept.
	deadAge = 30 * 24 * time.Hour
	// maxRecent is how many ids are remembered to drop repeats.
	maxRecent = 1 << 18
	// maxWaiting bounds what waits for the committer, in bytes.
	maxWaiting = 64 << 20
	// maxRetryAfter is the longest wait that a receiver may ask for.
	maxRetryAfter = 24 * time.Hour
	// disableAfter is for how long an endpoint may fail before it is disabled.
	disableAfter = 5 * 24 * time.Hour
	// manyFailures in a row make an endpoint slow down.
	manyFailures = 5
	// maxSlowdown is the longest wait between attempts of such an endpoint.
	maxSlowdown = time.Minute
	// policyWait is the shortest wait after the policy refused an address.
	policyWait = time.Hour
	// rotateOverlap is for how long an old secret still signs.
	rotateOverlap = 24 * time.Hour
	// houseEvery is the time between two looks at what has become too old.
	houseEvery = time.Minute
)

// verifyWaits are the waits between challenges.
var verifyWaits = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour}
