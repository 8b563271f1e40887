//go:build unix

package origin

import (
	"errors"
	"syscall"
	"time"
)

// alive reports whether an idle connection is still open and silent. An origin
// that closed it, or that speaks without being asked, has made it readable.
func (c *conn) alive() bool {
	if c.raw == nil {
		return true
	}
	_ = c.nc.SetReadDeadline(time.Time{}) // that of the last exchange may be over
	var readErr error
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, readErr = syscall.Read(int(fd), b[:])
		return true // the descriptor does not block, and nothing is waited for
	})
	return err == nil && errors.Is(readErr, syscall.EAGAIN)
}
