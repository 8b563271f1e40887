package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// minGrowth is how much a process allocates at least from one garbage collection
// to the next. A proxy has a few megabytes alive and allocates hundreds in a
// second, so that the usual rule, to collect when the heap has doubled, would
// have it collect some fifty times a second, which takes a fifth of its processor
// time. What this costs is at most so much memory for each busy process; see
// docs/adr/0010-garbage-collection.md.
const minGrowth = 32 << 20

// collector sets the percentage by which the heap may grow anew after each
// collection.
type collector struct {
	base    int // percent at least: what the operator wants
	set     int // percent that is set
	samples []metrics.Sample
	apply   func(percent int)
}

// steady makes the collector follow minGrowth, with base as the least percentage.
func steady(base int) {
	c := &collector{base: base, set: base, apply: func(percent int) { debug.SetGCPercent(percent) }, samples: []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/scan/stack:bytes"},
	}}
	c.watch()
}

// watch has adjust called after the next collection, which finds that nobody
// refers to the object.
func (c *collector) watch() {
	runtime.SetFinalizer(new(sentinel), func(*sentinel) {
		metrics.Read(c.samples)
		var counted uint64
		for i := range c.samples {
			counted += c.samples[i].Value.Uint64()
		}
		c.adjust(counted)
		c.watch()
	})
}

type sentinel struct{ _ [16]byte }

// adjust sets the percentage for a process in which so many bytes count for it:
// what is alive, and what a collection looks at besides. Small changes are not
// worth stopping the world for, however short that is.
func (c *collector) adjust(counted uint64) {
	const most = 10_000
	want := int(min(100*minGrowth/max(counted, 1), most)) //nolint:gosec // at most 10,000
	want = max(want, c.base)
	if want < c.set*9/10 || want > c.set*11/10 {
		c.set = want
		c.apply(want)
	}
}
