package poll

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		asked := 0
		if For(time.Minute, func() bool { asked++; return false }) || time.Since(began) != time.Minute {
			t.Errorf("it gave up after %v", time.Since(began))
		}
		if asked < 1200 || asked > 1500 {
			t.Errorf("it asked %d times", asked)
		}
		began = time.Now()
		if !For(time.Minute, func() bool { return time.Since(began) > time.Second }) || time.Since(began) > 1100*time.Millisecond {
			t.Errorf("it saw after %v what was there after a second", time.Since(began))
		}
		if !For(0, func() bool { return true }) {
			t.Error("without any time it did not ask")
		}
	})
}

// failing is a test that fails without ending this one.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) { f.text = fmt.Sprintf(format, args...) }

func TestUntilAndWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f failing
		Until(&f, "spring", func() bool { return false })
		if f.text != "waited in vain for: spring" {
			t.Errorf("it said %q", f.text)
		}
		Works(&f, "spring", func() error { return errors.New("cold") })
		if f.text != "waited in vain for: spring: cold" {
			t.Errorf("it said %q", f.text)
		}
		f.text = ""
		n := 0
		Until(&f, "three", func() bool { n++; return n == 3 })
		Works(&f, "six", func() error {
			if n++; n < 6 {
				return errors.New("not yet")
			}
			return nil
		})
		if f.text != "" || n != 6 {
			t.Errorf("it said %q after %d", f.text, n)
		}
	})
}
