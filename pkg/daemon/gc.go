package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A process that allocates much lets its heap grow by what it allocates in
// growTime, at most maxGrowth, before it collects. A proxy has a few megabytes alive
// and allocates hundreds in a second, so that the usual rule, to collect when the
// heap has doubled, would have it collect some fifty times a second, which takes
// a fifth of its processor time. docs/adr/0009-garbage-collection.md has figures.
const (
	growTime  = 100 * time.Millisecond
	maxGrowth = 32 << 20
)

// collector sets the percentage by which the heap may grow anew after each
// collection.
type collector struct {
	base    int // percent at least: what the operator wants
	set     int // percent that is set
	at      time.Time
	total   uint64 // allocated until then
	samples []metrics.Sample
	apply   func(percent int)
}

// steady keeps collections apart, with base as the least percentage.
func steady(base int) {
	c := &collector{base: base, set: base, at: time.Now(), apply: func(percent int) { debug.SetGCPercent(percent) }, samples: []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/scan/stack:bytes"},
	}}
	c.watch()
}

// watch has adjust called after the next collection, which finds that nobody
// refers to the object.
func (c *collector) watch() {
	runtime.SetFinalizer(new(sentinel), func(*sentinel) {
		metrics.Read(c.samples)
		var counted uint64
		for i := range c.samples[1:] {
			counted += c.samples[1+i].Value.Uint64()
		}
		c.adjust(time.Now(), c.samples[0].Value.Uint64(), counted)
		c.watch()
	})
}

type sentinel struct{ _ [16]byte }

// adjust sets the percentage for a process that has allocated total bytes since
// it began and in which so many count for the percentage: what is alive, and what
// a collection looks at besides. Small changes are not worth stopping the world
// for, however short that is.
func (c *collector) adjust(now time.Time, total, counted uint64) {
	took := max(now.Sub(c.at), time.Microsecond)
	growth := min(float64(total-c.total)*float64(growTime)/float64(took), maxGrowth)
	c.at, c.total = now, total
	want := max(c.base, int(100*growth/float64(max(counted, 1<<20))))
	if want < c.set*9/10 || want > c.set*11/10 {
		c.set = want
		c.apply(want)
	}
}
