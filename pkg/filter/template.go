package filter

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// noArg is the argument of a directive that has none. "%()s" counts as such.
const noArg = ""

// render replaces the directives of a template: "%%" is "%", "%X" the directive
// X, "%(arg)X" the same with an argument, in which "\" quotes the next byte.
// Errors tell the position in the template.
func render(text []byte, directive func(name byte, arg string) (string, error)) ([]byte, error) {
	var r renderer
	out, err := r.write(nil, text, directive)
	if err != nil {
		return nil, err
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return out, nil
}

// renderer renders a template that comes in pieces. The zero value is at its
// start.
type renderer struct {
	state state
	arg   []byte
	pos   int // of the next byte, from the start of the first piece
	open  int // position of the "("
	text  int // bytes that directives became
}

type state uint8

const (
	inText      state = iota
	afterSign         // "%"
	inArg             // "%(…"
	afterEscape       // "%(…\"
	afterArg          // "%(…)"
)

// maxArg bounds an argument that may come in pieces.
const maxArg = 64 << 10

// MaxText bounds what the directives of one template become, all together, in
// bytes. A long variable that is named often would otherwise fill the memory with
// one small message. It is half of the largest frame between processes, so that
// what is around it fits too.
const MaxText = 4 << 20

// ErrTooLong says that directives became more than MaxText.
var ErrTooLong = fmt.Errorf("directives become more than %d bytes", MaxText)

func (r *renderer) write(dst, text []byte, directive func(name byte, arg string) (string, error)) ([]byte, error) {
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch r.state {
		case inText:
			if c == '%' {
				r.state, r.arg = afterSign, r.arg[:0]
			} else {
				dst = append(dst, c)
			}
		case afterSign, afterArg:
			switch {
			case c == '%' && r.state == afterSign:
				dst = append(dst, c)
			case c == '(' && r.state == afterSign:
				r.state, r.open = inArg, r.pos
				r.pos++
				continue
			default:
				s, err := directive(c, string(r.arg))
				if err != nil {
					// The position is that of the directive's letter.
					return nil, fmt.Errorf("%w at position %d", err, r.pos)
				}
				if r.text += len(s); r.text > MaxText {
					return nil, ErrTooLong
				}
				dst = append(dst, s...)
			}
			r.state = inText
		case inArg:
			switch c {
			case '\\':
				r.state = afterEscape
			case ')':
				r.state = afterArg
			default:
				r.arg = append(r.arg, c)
			}
		case afterEscape:
			r.arg = append(r.arg, c)
			r.state = inArg
		}
		if len(r.arg) > maxArg {
			return nil, fmt.Errorf("field starting at position %d is too long", r.open)
		}
		r.pos++
	}
	return dst, nil
}

func (r *renderer) end() error {
	switch r.state {
	case afterSign:
		return fmt.Errorf("Expected directive after '%%' at position %d", r.pos-1) //nolint:staticcheck // the text is GRIP's
	case inArg, afterEscape:
		if r.pos == r.open+1 {
			return fmt.Errorf("Expected character after '(' at position %d", r.open) //nolint:staticcheck // the text is GRIP's
		}
		return fmt.Errorf("Unterminated field starting at position %d", r.open) //nolint:staticcheck // the text is GRIP's
	case afterArg:
		return fmt.Errorf("Expected directive after ')' at position %d", r.pos-1) //nolint:staticcheck // the text is GRIP's
	}
	return nil
}

func unknown(directive byte) error {
	return fmt.Errorf("Unknown directive '%c'", directive) //nolint:staticcheck // the text is GRIP's
}

// variable is the directive s: the variable that the argument names.
func variable(directive byte, arg string, get func(string) (string, bool)) (string, error) {
	if directive != 's' {
		return "", unknown(directive)
	}
	if arg == noArg {
		return "", errors.New("Directive 's' requires argument") //nolint:staticcheck // the text is GRIP's
	}
	v, ok := get(arg)
	if !ok {
		return "", fmt.Errorf("No such variable '%s'", arg) //nolint:staticcheck // the text is GRIP's
	}
	return v, nil
}

// encoder returns how build-id writes an id.
func encoder(s Subscriber) (func(string) string, error) {
	switch enc, ok := s.Meta("id_encoding"); {
	case !ok:
		return func(id string) string { return id }, nil
	case enc == "hex":
		return func(id string) string { return hex.EncodeToString([]byte(id)) }, nil
	default:
		return nil, fmt.Errorf("unsupported encoding: %s", enc)
	}
}

// buildID replaces %I by the id that the subscription's id_format makes of its
// positions.
func buildID(s Subscriber, content []byte) ([]byte, error) {
	format, ok := s.Meta("id_format")
	if !ok {
		return nil, errors.New("no sub meta 'id_format'")
	}
	encode, err := encoder(s)
	if err != nil {
		return nil, err
	}
	id, err := render([]byte(format), func(directive byte, arg string) (string, error) {
		return variable(directive, arg, s.LastID)
	})
	if err != nil {
		return nil, fmt.Errorf("failed to render ID: %w", err)
	}
	return render(content, func(directive byte, arg string) (string, error) {
		return idDirective(directive, arg, func() (string, error) { return encode(string(id)), nil }, encode)
	})
}

func idDirective(directive byte, arg string, id func() (string, error), encode func(string) string) (string, error) {
	switch {
	case directive != 'I':
		return "", unknown(directive)
	case arg == noArg:
		return id()
	}
	return encode(arg), nil
}

// Response applies the filters that work on response bodies, which is build-id
// alone, to a body that comes in pieces. It is for one body.
type Response struct {
	on     bool
	encode func(string) string
	r      renderer
}

// NewResponse returns the filter for the initial body of a subscriber, given the
// filters of all its channels.
func NewResponse(names []string, s Subscriber) (*Response, error) {
	f := &Response{}
	for _, n := range names {
		if n == BuildID && !f.on {
			if _, ok := s.Meta("id_format"); !ok {
				return nil, errors.New("no sub meta 'id_format'")
			}
			var err error
			if f.encode, err = encoder(s); err != nil {
				return nil, err
			}
			f.on = true
		}
	}
	return f, nil
}

// Write returns the piece with its directives replaced. One that is not complete
// waits for the next piece. An id is not known in a response, so only those with
// an argument work.
func (f *Response) Write(piece []byte) ([]byte, error) {
	if !f.on {
		return piece, nil
	}
	return f.r.write(nil, piece, func(directive byte, arg string) (string, error) {
		return idDirective(directive, arg, func() (string, error) {
			return "", errors.New("No ID specified and no default ID in context") //nolint:staticcheck // the text is GRIP's
		}, f.encode)
	})
}

// End says that the body is complete.
func (f *Response) End() error { return f.r.end() }
