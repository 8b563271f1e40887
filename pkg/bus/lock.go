package bus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockInstance takes the name of an instance in a run directory until the file
// is closed, by us or by the end of the process. The file stays: removing it
// would let a third process lock a new file of the same name.
func lockInstance(dir, file, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's directory
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("instance %s is already running in %s", name, dir)
		}
		return nil, fmt.Errorf("bus: lock %s: %w", f.Name(), err)
	}
	return f, nil
}
