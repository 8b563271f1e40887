package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

// Tune sets how the Go runtime uses the machine. Zero values leave it as it is,
// but that the heap of a busy process may grow by up to maxGrowth, unless GOGC
// switches the collector off. It is to be called once.
func Tune(threads, gcPercent int, memoryLimit int64) {
	if threads > 0 {
		runtime.GOMAXPROCS(threads)
	}
	if gcPercent <= 0 {
		gcPercent = debug.SetGCPercent(100) // what GOGC says
	}
	debug.SetGCPercent(gcPercent)
	if gcPercent > 0 { // else GOGC is off
		steady(gcPercent)
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

// What counts for giving memory back.
const (
	trimEvery = 500 * time.Millisecond
	trimQuiet = 1 << 20 // bytes; a process that allocates no more between two looks is quiet
	trimWorth = 4 << 20 // bytes; with less allocated since the last time there is nothing to gain
	trimShare = 2       // neither is there with less than this part of what is alive, all of which has to be looked at
)

// trimmer gives memory back to the system when a burst of work is over. The
// runtime collects garbage only when the heap has grown enough, so without it a
// process that took ten thousand connections and then has nothing to do but to
// hold them would keep all the garbage of their requests.
type trimmer struct {
	allocated uint64 // at the last look
	trimmed   uint64 // allocated when memory was given back last
	free      func()
}

// look is called with the number of bytes that were ever allocated, and of those
// that were alive when garbage was collected last.
func (t *trimmer) look(allocated, live uint64) {
	quiet := allocated-t.allocated <= trimQuiet
	t.allocated = allocated
	if quiet && allocated-t.trimmed >= max(trimWorth, live/trimShare) {
		t.trimmed = allocated
		t.free()
	}
}

// trim runs a trimmer until stop is closed.
func trim(stop <-chan struct{}) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	t := trimmer{free: freeMemory}
	for {
		select {
		case <-tick.C:
			metrics.Read(samples)
			t.look(samples[0].Value.Uint64(), samples[1].Value.Uint64())
		case <-stop:
			return
		}
	}
}

// freeMemory collects garbage and returns free pages. Each collection halves the
// stacks that are far too large, so that one alone leaves much; FreeOSMemory makes
// the second.
func freeMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}
