// Package hist is a latency histogram of fixed size: 64 buckets for each
// doubling, so that a percentile is at most 1.6 percent off.
package hist

import (
	"encoding/json"
	"math/bits"
	"time"
)

const (
	subBits = 6
	sub     = 1 << subBits
	size    = (64 - subBits) * sub
)

// Histogram counts durations. The zero value is empty and ready.
type Histogram struct {
	counts [size]uint64
	total  uint64
	max    time.Duration
}

// Add counts one duration; a negative one counts as zero.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[index(uint64(d))]++
	h.total++
	h.max = max(h.max, d)
}

// Merge adds all that another histogram has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.max = max(h.max, other.max)
}

// Count is the number of durations added.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the longest duration added.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration below which the share q of all lies, 0 if empty.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := min(uint64(q*float64(h.total)), h.total-1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen > rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

// index puts values below 64 into buckets of their own; above, the top bit
// picks the doubling and the next six bits the bucket in it.
func index(v uint64) int {
	if v < sub {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)*sub + int(v>>shift) - sub
}

// upper is the largest value of bucket i.
func upper(i int) uint64 {
	if i < sub {
		return uint64(i)
	}
	shift := i/sub - 1
	return (uint64(i%sub+sub+1) << shift) - 1
}

// Point is one point of a distribution: the share Q of all lies at or below Ms.
type Point struct {
	Q  float64 `json:"q"`
	Ms float64 `json:"ms"`
}

// Summary is what a result file says about a histogram.
type Summary struct {
	Count  uint64  `json:"count"`
	P50    float64 `json:"p50_ms"`
	P90    float64 `json:"p90_ms"`
	P99    float64 `json:"p99_ms"`
	P999   float64 `json:"p999_ms"`
	Max    float64 `json:"max_ms"`
	Points []Point `json:"points,omitempty"`
}

// Summary returns the usual percentiles, and the points of a curve.
func (h *Histogram) Summary() Summary {
	s := Summary{
		Count: h.total, P50: ms(h.Quantile(0.5)), P90: ms(h.Quantile(0.9)), P99: ms(h.Quantile(0.99)),
		P999: ms(h.Quantile(0.999)), Max: ms(h.max),
	}
	if h.total > 0 {
		for _, q := range []float64{0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1} {
			s.Points = append(s.Points, Point{Q: q, Ms: ms(h.Quantile(q))})
		}
	}
	return s
}

// MarshalJSON writes the summary.
func (h *Histogram) MarshalJSON() ([]byte, error) { return json.Marshal(h.Summary()) }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
