package webhook

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestClockGoesOnEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clock{time.Now()}
		queued := c.millis(time.Now())
		due := c.at(queued + 5000)
		time.Sleep(4 * time.Second)
		if got := c.age(queued, time.Now()); got != 4*time.Second {
			t.Errorf("age %v", got)
		}
		if !due.After(time.Now()) {
			t.Error("due after 4 of 5 s")
		}
		time.Sleep(time.Second)
		if due.After(time.Now()) {
			t.Error("not due after 5 s")
		}
		if got, want := c.wall(queued, time.Now()), time.Now().Add(-5*time.Second).UnixMilli(); got.UnixMilli() != want {
			t.Errorf("wall %v, want %v", got.UnixMilli(), want)
		}
		if got := c.save(entry{at: queued}, time.Now()); got.next != 0 {
			t.Errorf("an entry that was not tried is saved as %+v", got)
		}
	})
}

// What a predecessor wrote with its clock ahead, behind or right.
func TestTimesOfAnotherClock(t *testing.T) {
	now := time.Now()
	c := clock{now}
	ms := func(d time.Duration) int64 { return now.Add(d).UnixMilli() }
	day := 24 * time.Hour
	ep := &endpoint{stored: stored{Endpoint: Endpoint{Retries: []Duration{Duration(time.Minute)}}}}
	patient := &endpoint{stored: stored{Endpoint: Endpoint{Retries: []Duration{Duration(10 * day)}}}}
	for name, test := range map[string]struct {
		ep       *endpoint
		in, want entry
	}{
		"right":                    {ep, entry{at: ms(-time.Hour), next: ms(time.Minute)}, entry{at: ms(-time.Hour), next: ms(time.Minute)}},
		"not tried":                {ep, entry{at: ms(-time.Hour)}, entry{at: ms(-time.Hour)}},
		"not tried, an hour ahead": {ep, entry{at: ms(time.Hour)}, entry{at: ms(0)}},
		"an hour ahead":            {ep, entry{at: ms(time.Hour), next: ms(time.Hour + time.Minute)}, entry{at: ms(0), next: ms(time.Minute)}},
		"a year ahead when tried":  {ep, entry{at: ms(-time.Hour), next: ms(365 * day)}, entry{at: ms(-time.Hour), next: ms(maxRetryAfter)}},
		"meant to wait for days":   {patient, entry{at: ms(-time.Hour), next: ms(9 * day)}, entry{at: ms(-time.Hour), next: ms(9 * day)}},
		"behind":                   {ep, entry{at: ms(-day), next: ms(-day + time.Minute)}, entry{at: ms(-day), next: ms(-day + time.Minute)}},
	} {
		if diff := cmp.Diff(test.want, c.restore(test.in, test.ep), cmp.AllowUnexported(entry{})); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}
