//go:build unix

package origin

import (
	"errors"
	"syscall"
)

// peek is what alive needs of a connection, made once: a closure for each call
// would be an allocation for each request.
type peek struct {
	read func(fd uintptr) bool
	err  error
}

// alive reports whether an idle connection is still open and silent. An origin
// that closed it, or that sent more than it announced, has made it readable. The
// next response must not begin with that.
func (c *conn) alive() bool {
	if c.raw == nil {
		return true
	}
	if c.read == nil {
		c.read = func(fd uintptr) bool {
			var b [1]byte
			_, c.err = syscall.Read(int(fd), b[:])
			return true // the descriptor does not block, and nothing is waited for
		}
	}
	return c.raw.Read(c.read) == nil && errors.Is(c.err, syscall.EAGAIN)
}
