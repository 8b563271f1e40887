package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
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

// startTime returns the time at which a boot begins, in nanoseconds. It is by the
// wall clock, but later than those of all boots before that had the lock: peers
// would take a boot for one that is over if the clock had been put back between
// the two.
func startTime(lock *os.File, now time.Time) uint64 {
	since := uint64(now.UnixNano())
	var b [8]byte
	if n, _ := lock.ReadAt(b[:], 0); n == len(b) {
		since = max(since, binary.LittleEndian.Uint64(b[:])+1)
	}
	binary.LittleEndian.PutUint64(b[:], since)
	_, _ = lock.WriteAt(b[:], 0) // with a full disk the wall clock has to do
	return since
}
