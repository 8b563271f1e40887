package hist

import (
	"testing"
	"time"
)

func TestBucketsCoverEveryValueOnce(t *testing.T) {
	// upper(i) must be in bucket i, and the next value in the next bucket.
	for i := range size - 1 {
		if got := index(upper(i)); got != i {
			t.Fatalf("index(upper(%d)) = %d, want %d", i, got, i)
		}
		if got := index(upper(i) + 1); got != i+1 {
			t.Fatalf("index(upper(%d)+1) = %d, want %d", i, got, i+1)
		}
	}
}

func TestQuantile(t *testing.T) {
	var h Histogram
	if got := h.Quantile(0.5); got != 0 {
		t.Errorf("empty: got %v, want 0", got)
	}
	for i := 1; i <= 1000; i++ {
		h.Add(time.Duration(i) * time.Millisecond)
	}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0, time.Millisecond}, {0.5, 501 * time.Millisecond}, {0.99, 991 * time.Millisecond}, {1, time.Second}} {
		got := h.Quantile(c.q)
		if got < c.want || float64(got) > float64(c.want)*1.016 {
			t.Errorf("quantile %v: got %v, want %v to +1.6 %%", c.q, got, c.want)
		}
	}
	h.Add(-time.Second)
	if got := h.Quantile(0); got != 0 {
		t.Errorf("a negative duration: got %v, want 0", got)
	}
}
