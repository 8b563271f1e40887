package outbound

import (
	"context"
	"errors"

	"github.com/holdfast/holdfast/pkg/origin"
)

// Conditions of an [Error]. The names are those of Zurl's interface.
const (
	BadRequest       = "bad-request"              // the request cannot be made as it is
	PolicyViolation  = "policy-violation"         // the policy forbids the host or its addresses
	ConnectionFailed = "remote-connection-failed" // name not found, connection refused
	ConnectTimeout   = "connection-timeout"       // no connection in time
	TLSError         = "tls-error"                // certificate refused, or no TLS spoken
	BodyNotAllowed   = "content-not-allowed"      // HEAD with a body
	TooManyRedirects = "too-many-redirects"       // more than Request.Redirects
	MaxSizeExceeded  = "max-size-exceeded"        // more than Request.MaxBody
	SessionTimeout   = "session-timeout"          // Request.Timeout, or the server was silent for too long
	Stopping         = "stopping"                 // the caller's context was cancelled
	Rejected         = "rejected"                 // of a WebSocket: the answer was not 101
	FrameTooLarge    = "frame-too-large"          // of a WebSocket
	Undefined        = "undefined-condition"      // the connection broke, or what came is not HTTP
)

// Error is the type of all errors of this package.
type Error struct {
	Condition string // one of the constants
	Err       error  // for the log: names hosts, may quote what a server said
	// Response is what a WebSocket was rejected with.
	Response *Response
}

func (e *Error) Error() string { return e.Condition + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Condition returns the condition of an error of this package, and Undefined for
// any other.
func Condition(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Condition
	}
	return Undefined
}

func fail(condition, text string) *Error {
	return &Error{Condition: condition, Err: errors.New(text)}
}

// classify gives an error of an exchange its condition. The context is that of
// the caller: it is asked first, since a connection that is closed because of it
// fails with anything.
func classify(ctx context.Context, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	condition := Undefined
	var e *origin.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		condition = SessionTimeout
	case ctx.Err() != nil:
		condition = Stopping
	case errors.Is(err, origin.ErrPolicy):
		condition = PolicyViolation
	case errors.Is(err, origin.ErrTLS):
		condition = TLSError
	case errors.Is(err, origin.ErrTimeout):
		condition = SessionTimeout
		if errors.As(err, &e) && !e.Sent {
			condition = ConnectTimeout
		}
	case errors.Is(err, origin.ErrConnect):
		condition = ConnectionFailed
	case errors.Is(err, origin.ErrBody):
		condition = BadRequest
	case errors.Is(err, origin.ErrClosed):
		condition = Stopping
	}
	return &Error{Condition: condition, Err: err}
}
