// Package unixsock opens unix sockets to listen on.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"time"
)

// Access says who may connect. What is zero is left as the umask and the process
// make it.
type Access struct {
	Mode  fs.FileMode // connecting takes the right to write
	User  string
	Group string
}

// Listen listens on a socket at path. The file that a process left behind is
// replaced; one that a process listens on, or that is no socket, is an error.
func Listen(ctx context.Context, path string, a Access) (net.Listener, error) {
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := a.apply(path); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func removeStale(ctx context.Context, path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	d := net.Dialer{Timeout: time.Second}
	if nc, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = nc.Close()
		return fmt.Errorf("%s is in use", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (a Access) apply(path string) error {
	if a.Mode != 0 {
		if err := os.Chmod(path, a.Mode); err != nil {
			return err
		}
	}
	uid, gid := -1, -1
	if a.User != "" {
		u, err := user.Lookup(a.User)
		if err != nil {
			return err
		}
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return fmt.Errorf("user %q: %w", a.User, err)
		}
	}
	if a.Group != "" {
		g, err := user.LookupGroup(a.Group)
		if err != nil {
			return err
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("group %q: %w", a.Group, err)
		}
	}
	if uid < 0 && gid < 0 {
		return nil
	}
	return os.Chown(path, uid, gid)
}
