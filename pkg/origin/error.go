package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/holdfast/holdfast/pkg/http1"
)

// Kinds of errors. Every error of this package, but those of the caller's own
// context, wraps exactly one of them.
var (
	ErrConnect  = errors.New("cannot connect")                 // name not found, connection refused, too many connections
	ErrTimeout  = errors.New("timed out")                      // connecting, or waiting for the origin
	ErrTLS      = errors.New("TLS handshake failed")           // the certificate is refused, or no TLS is spoken
	ErrPolicy   = errors.New("address not allowed")            // the target is not trusted, and its addresses are not public
	ErrProtocol = errors.New("invalid response")               // what the origin sends is not HTTP/1.x
	ErrCut      = errors.New("connection lost")                // before the response, or within it
	ErrBody     = errors.New("request body could not be read") // the caller's reader failed, or had too few bytes
	ErrClosed   = errors.New("pool is closed")
)

// ErrSpeaksTLS is the cause of an ErrProtocol: what came back over a plain
// connection is a record of TLS.
var ErrSpeaksTLS = errors.New("it speaks TLS")

// Error is the type of all errors of this package. errors.Is finds its kind and
// its cause.
type Error struct {
	Kind error  // one of the kinds, or the error of the caller's context
	Addr string // of the target
	Sent bool   // the origin may have seen the request, or a part of it
	Err  error  // the cause; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("origin %s: %v", e.Addr, e.Kind)
	}
	return fmt.Sprintf("origin %s: %v: %v", e.Addr, e.Kind, e.Err)
}

func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// TryNext reports whether err, an error of Do, leaves the request as it was, so
// that it may go to another target: the target could not be connected to.
func TryNext(err error) bool {
	var e *Error
	return errors.As(err, &e) && !e.Sent &&
		(errors.Is(e.Kind, ErrConnect) || errors.Is(e.Kind, ErrTimeout) || errors.Is(e.Kind, ErrTLS))
}

// newError wraps the cause err. The caller's context is asked first: a
// connection that was closed because of it fails with anything.
func newError(ctx context.Context, kind error, addr string, sent bool, err error) *Error {
	e := &Error{Kind: kind, Addr: addr, Sent: sent, Err: err}
	switch ctxErr := ctx.Err(); {
	case errors.Is(ctxErr, context.DeadlineExceeded):
		e.Kind = ErrTimeout
		e.Err = ctxErr
	case ctxErr != nil:
		e.Kind, e.Err = ctxErr, nil
	}
	return e
}

// exchangeKind tells what an error of reading or writing means.
func exchangeKind(err error) error {
	var proto *http1.Error
	var timeout net.Error
	switch {
	case errors.As(err, &proto), errors.Is(err, ErrSpeaksTLS):
		return ErrProtocol
	case errors.As(err, &timeout) && timeout.Timeout():
		return ErrTimeout
	}
	return ErrCut
}

// cut makes the cause of a lost connection readable: "EOF" would sound as if
// all were well.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
