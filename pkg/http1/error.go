package http1

import "strconv"

// Error says that a peer sent something that is not HTTP/1.x as we accept it.
// The connection cannot be used any further.
type Error struct {
	Status int    // what a server should answer; 502 for a fault of an origin
	Text   string // for people; quotes nothing of the input
}

func (e *Error) Error() string { return "http1: " + e.Text }

// Limits bounds what is read before the caller has seen anything of it. Zero
// values mean the defaults.
type Limits struct {
	MaxHead   int // bytes of start line and header section, or of a trailer section
	MaxFields int // number of fields in either
}

// Defaults of Limits.
const (
	DefaultMaxHead   = 8192
	DefaultMaxFields = 128
)

func (l Limits) withDefaults() Limits {
	if l.MaxHead <= 0 {
		l.MaxHead = DefaultMaxHead
	}
	if l.MaxFields <= 0 {
		l.MaxFields = DefaultMaxFields
	}
	return l
}

func bad(text string) *Error { return &Error{Status: 400, Text: text} }

// badOrigin is a fault of the peer that answers; what the gateway then says to
// its own client is 502.
func badOrigin(text string) *Error { return &Error{Status: 502, Text: text} }

func errHeadTooLarge(limit int) *Error {
	return &Error{Status: 431, Text: "Request header size exceeded limit of " + strconv.Itoa(limit) + " bytes."}
}

func errTooManyFields(limit int) *Error {
	return &Error{Status: 431, Text: "Request header count exceeded limit of " + strconv.Itoa(limit) + " fields."}
}
