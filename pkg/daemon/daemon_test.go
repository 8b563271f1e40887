package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTextLog(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, LevelTrace, false, "")
	log.Info("GET http://h/ code=200 5")
	log.With("peer", "proxy.0").WithGroup("g").Warn("text\nforged [INFO]\x1b[0m \xff é", "a", 1, "b", "x y", "c", "", "d", slog.GroupValue(slog.Int("e", 2)), "t", errors.New(`q"`))
	log.Log(context.Background(), LevelTrace, "t")
	log.Error("e")
	log.Debug("d")
	NewLogger(&b, LevelTrace, false, "proxy").With("a", 1).Info("i")
	want := []string{
		`[INFO] TIME GET http://h/ code=200 5`,
		`[WARN] TIME text\nforged [INFO]\x1b[0m \xff é peer=proxy.0 g.a=1 g.b="x y" g.c="" g.d.e=2 g.t="q\""`,
		`[TRACE] TIME t`, `[ERR] TIME e`, `[DEBUG] TIME d`, `[INFO] TIME [proxy] i a=1`, "",
	}
	got := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}`).ReplaceAllString(b.String(), "TIME")
	if got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestLogLevel(t *testing.T) {
	for n, want := range map[int]string{-1: "e", 0: "e", 1: "we", 2: "iwe", 3: "diwe", 4: "tdiwe", 9: "tdiwe"} {
		var b bytes.Buffer
		log := NewLogger(&b, Level(n), false, "")
		for _, l := range []struct {
			level slog.Level
			text  string
		}{{LevelTrace, "t"}, {slog.LevelDebug, "d"}, {slog.LevelInfo, "i"}, {slog.LevelWarn, "w"}, {slog.LevelError, "e"}} {
			log.Log(context.Background(), l.level, l.text)
		}
		got := ""
		for line := range strings.Lines(b.String()) {
			got += line[len(line)-2 : len(line)-1]
		}
		if got != want {
			t.Errorf("level %d: got %s, want %s", n, got, want)
		}
	}
}

func TestJSONLog(t *testing.T) {
	var b bytes.Buffer
	NewLogger(&b, LevelTrace, true, "proxy").Log(context.Background(), LevelTrace, "text", "key", "v")
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line["level"] != "TRACE" || line["msg"] != "text" || line["key"] != "v" || line["process"] != "proxy" || line["time"] == nil {
		t.Errorf("got %v", line)
	}
}

func TestLogFileReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	f, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		t.Helper()
		if _, err := f.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write("a\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("b\n")
	if err := f.Reopen(); err != nil {
		t.Fatal(err)
	}
	write("c\n")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path + ".1": "a\nb\n", path: "c\n"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := OpenLog(t.TempDir()); err == nil {
		t.Error("opened a directory")
	}
}

// tracer is a service that says when it starts and ends.
type tracer struct{ events chan string }

func (tr tracer) service(name string, run func(ctx context.Context) error) Service {
	return Service{Name: name, Run: func(ctx context.Context) error {
		tr.events <- "start " + name
		err := run(ctx)
		tr.events <- "end " + name
		return err
	}}
}

func (tr tracer) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-tr.events:
			if got != w {
				t.Fatalf("got %q, want %q", got, w)
			}
		case <-time.After(poll.Patience):
			t.Fatalf("waited in vain for %q", w)
		}
	}
}

func untilDone(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// The last service stops first, and the one before it only when it has ended.
func TestStopOrder(t *testing.T) {
	tr := tracer{make(chan string)}
	release := make(chan struct{})
	signals := make(chan os.Signal)
	result := make(chan error)
	go func() {
		result <- Run(context.Background(), Options{Grace: time.Minute, Signals: signals},
			tr.service("admin", untilDone),
			tr.service("server", func(ctx context.Context) error { <-ctx.Done(); <-release; return nil }))
	}()
	started := map[string]bool{<-tr.events: true, <-tr.events: true}
	if !started["start admin"] || !started["start server"] {
		t.Fatal(started)
	}
	signals <- syscall.SIGTERM
	close(release)
	tr.expect(t, "end server", "end admin")
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// A service that fails ends the process with its error.
func TestServiceFails(t *testing.T) {
	broken := errors.New("broken")
	err := Run(context.Background(), Options{Grace: time.Minute, Signals: make(chan os.Signal)},
		Service{"admin", untilDone}, Service{"server", func(context.Context) error { return broken }})
	if !errors.Is(err, broken) || err.Error() != "server: broken" {
		t.Errorf("got %v", err)
	}
}

func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Run(ctx, Options{Grace: time.Minute, Signals: make(chan os.Signal)}, Service{"server", untilDone}); err != nil {
		t.Error(err)
	}
}

func TestGrace(t *testing.T) {
	hang := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	err := Run(context.Background(), Options{Grace: 10 * time.Millisecond, Signals: signals},
		Service{"server", func(context.Context) error { <-hang; return nil }})
	close(hang)
	if !errors.Is(err, ErrGrace) || !strings.Contains(err.Error(), "server still runs") {
		t.Errorf("got %v", err)
	}
}

func TestSecondSignal(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	signals := make(chan os.Signal, 2)
	signals <- syscall.SIGTERM
	signals <- syscall.SIGINT
	code := -1
	err := Run(context.Background(), Options{Grace: time.Minute, Signals: signals, Exit: func(c int) { code = c }},
		Service{"server", func(context.Context) error { <-hang; return nil }})
	if err == nil || code != ExitError {
		t.Errorf("got exit code %d, %v", code, err)
	}
}

func TestReload(t *testing.T) {
	signals := make(chan os.Signal)
	reloaded := make(chan struct{})
	result := make(chan error)
	go func() {
		result <- Run(context.Background(), Options{
			Grace: time.Minute, Signals: signals,
			Reload: func() error { reloaded <- struct{}{}; return errors.New("ignored") },
		}, Service{"server", untilDone})
	}()
	for range 2 {
		signals <- syscall.SIGHUP
		<-reloaded
	}
	signals <- syscall.SIGTERM
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestRaiseFiles(t *testing.T) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	got, err := RaiseFiles(lim.Cur)
	if err != nil || got < lim.Cur {
		t.Errorf("got %d, %v, want at least %d", got, err, lim.Cur)
	}
}

// Memory is given back once after each burst of work, when it is over.
func TestTrim(t *testing.T) {
	freed := 0
	tr := trimmer{free: func() { freed++ }}
	const mib = 1 << 20
	for i, step := range []struct{ allocated, live, freed int }{
		{3 * mib, 0, 0},
		{3 * mib, 0, 0}, // little
		{50 * mib, 2 * mib, 0},
		{90 * mib, 2 * mib, 0},      // busy
		{90*mib + 1000, 2 * mib, 1}, // quiet
		{91 * mib, 2 * mib, 1},
		{92 * mib, 2 * mib, 1},
		{93 * mib, 0, 1}, // an idle process allocates a little, too
		{94 * mib, 2 * mib, 1},
		{94*mib + 2000, 2 * mib, 2},
		{100 * mib, 2 * mib, 2}, // in the end that adds up
		{100 * mib, 2 * mib, 3},
		{110 * mib, 30 * mib, 3},
		{110 * mib, 30 * mib, 3}, // where much is alive, it takes longer
		{115 * mib, 30 * mib, 3},
		{115*mib + 1000, 30 * mib, 4},
	} {
		if tr.look(uint64(step.allocated), uint64(step.live)); freed != step.freed {
			t.Fatalf("step %d: freed %d times, want %d", i, freed, step.freed)
		}
	}
}

// The heap may grow by what is allocated in growTime, within bounds, and never by
// less than the operator wants.
func TestCollector(t *testing.T) {
	const mib = 1 << 20
	got := 0
	now, total := time.Unix(0, 0), uint64(0)
	c := &collector{base: 100, set: 100, at: now, apply: func(p int) { got = p }}
	for i, step := range []struct {
		after                     time.Duration
		allocated, alive, percent int
	}{
		{20 * time.Millisecond, 4 * mib, 4 * mib, 500},    // 20 MiB in growTime
		{100 * time.Millisecond, 20 * mib, 4 * mib, 500},  // it goes on like this
		{100 * time.Millisecond, 21 * mib, 4 * mib, 500},  // not worth a change
		{100 * time.Millisecond, 90 * mib, 4 * mib, 800},  // the bound
		{100 * time.Millisecond, 90 * mib, 16 * mib, 200}, // the same bytes
		{100 * time.Millisecond, 90 * mib, 600 * mib, 100},
		{time.Microsecond, 2 * mib, 0, 3200},
		{time.Minute, 4 * mib, 4 * mib, 100}, // quiet
		{0, 0, 4 * mib, 100},
	} {
		now, total = now.Add(step.after), total+uint64(step.allocated)
		if c.adjust(now, total, uint64(step.alive)); got != step.percent {
			t.Fatalf("step %d: %d percent, want %d", i, got, step.percent)
		}
	}
}
