package daemon

import (
	"runtime"
	"runtime/debug"
	"syscall"
)

// Tune sets how the Go runtime uses the machine. Zero values leave it as it is.
func Tune(threads, gcPercent int, memoryLimit int64) {
	if threads > 0 {
		runtime.GOMAXPROCS(threads)
	}
	if gcPercent > 0 {
		debug.SetGCPercent(gcPercent)
	}
	if memoryLimit > 0 {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// RaiseFiles asks for at least want open files and returns how many the process
// may have. The hard limit is raised too if the process is allowed to.
func RaiseFiles(want uint64) (uint64, error) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return 0, err
	}
	if lim.Cur >= want {
		return lim.Cur, nil
	}
	raised := syscall.Rlimit{Cur: want, Max: max(want, lim.Max)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
		return want, nil
	}
	raised = syscall.Rlimit{Cur: lim.Max, Max: lim.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return lim.Cur, err
	}
	return lim.Max, nil
}
