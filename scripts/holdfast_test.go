// Package scripts_test runs the script holdfast with the real programs.
package scripts_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

var kinds = []string{"connmgr", "proxy", "handler", "zurl"}

// root is a copy of what an installation has: bin/, scripts/, deploy/.
var root string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if root, err = os.MkdirTemp("", "hf"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(root)
		for _, args := range [][]string{
			{"go", "build", "-o", filepath.Join(root, "bin") + "/", "../cmd/..."},
			{"cp", "-r", "../deploy", root},
			{"mkdir", filepath.Join(root, "scripts")},
			{"cp", "holdfast", filepath.Join(root, "scripts")},
		} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "%v: %v\n%s", args, err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// output collects what the script prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// place is a directory with a configuration, and ports of its own.
type place struct {
	t             *testing.T
	dir, conf     string
	http, control string // addresses
}

func newPlace(t *testing.T) *place {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") // a socket may have 103 characters, and t.TempDir has most of them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &place{t: t, dir: dir, conf: filepath.Join(dir, "holdfast.conf")}
	var ports [2]int
	for i := range ports {
		if ports[i], err = stack.FreePort(); err != nil {
			t.Fatal(err)
		}
	}
	p.http, p.control = fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	p.write("holdfast.conf", fmt.Sprintf(`[global]
rundir=%[1]s/run
[runner]
http_port=%[2]s
logdir=%[1]s/log
stop_timeout=15
[connmgr]
drain_time=1
[handler]
push_in_http_port=%[3]d
push_in_spec=ipc://{rundir}/push
push_in_sub_specs=
command_spec=
`, dir, p.http, ports[1]))
	p.write("routes", "* test\n")
	return p
}

func (p *place) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) read(name string) string {
	text, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		return ""
	}
	return string(text)
}

// pid returns the process id in a pid file, or 0.
func (p *place) pid(name string) int {
	n, err := strconv.Atoi(strings.TrimSpace(p.read("run/" + name + ".pid")))
	if err != nil {
		return 0
	}
	return n
}

// script is a running supervisor.
type script struct {
	*place
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when it has ended
}

func (p *place) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(root, "scripts", "holdfast"), args...)
	cmd.Dir = p.dir
	return cmd
}

// start runs the script and does not wait for anything.
func (p *place) start(args ...string) *script {
	p.t.Helper()
	s := &script{place: p, out: &output{}, done: make(chan struct{})}
	s.cmd = p.command(append([]string{"--config", p.conf}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	// The processes keep the pipe open when the script is killed.
	s.cmd.WaitDelay = time.Second
	if err := s.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // the tests look at ProcessState
		close(s.done)
	}()
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.t.Logf("output:\n%s", s.out)
		}
		select {
		case <-s.done:
		default:
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
			<-s.done
		}
	})
	return s
}

// attempt is how long one attempt may take of something that is tried again.
const attempt = 15 * time.Second

// up waits until a message has gone all the way.
func (s *script) up() *script {
	s.t.Helper()
	s.eventually("a hold and a publication", func() bool {
		c, err := s.subscribe("up")
		if err != nil {
			return false
		}
		defer c.close()
		return s.publish("up", "hello") == nil && c.expect("hello", attempt) == nil
	})
	return s
}

func (s *script) eventually(what string, ok func() bool) {
	s.t.Helper()
	poll.Until(s.t, what, ok)
}

func (s *script) says(text string) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%q in the output", text), func() bool { return strings.Contains(s.out.String(), text) })
}

func (s *script) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) kill(name string, sig syscall.Signal) {
	s.t.Helper()
	pid := s.pid(name)
	if pid == 0 {
		s.t.Fatalf("%s has no pid file", name)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

// exit waits for the end of the script and checks its exit code.
func (s *script) exit(want int) {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(poll.Patience):
		s.t.Fatal("it still runs")
	}
	if got := s.cmd.ProcessState.ExitCode(); got != want {
		s.t.Errorf("got exit code %d, want %d", got, want)
	}
}

// nothingLeft checks that all processes have gone, and their pid files.
func (s *script) nothingLeft(pids map[string]int) {
	s.t.Helper()
	s.eventually("the end of all processes", func() bool {
		for _, pid := range pids {
			// One that has ended and that nobody has collected yet is a zombie.
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !bytes.Contains(stat, []byte(") Z ")) {
				return false
			}
		}
		return true
	})
	files, err := filepath.Glob(filepath.Join(s.dir, "run", "*.pid"))
	if err != nil || len(files) > 0 {
		s.t.Errorf("pid files left: %q, %v", files, err)
	}
}

func (s *script) pids() map[string]int {
	m := make(map[string]int)
	for _, kind := range kinds {
		m[kind] = s.pid(kind)
	}
	return m
}

// client is a held stream.
type client struct {
	cancel context.CancelFunc
	lines  chan string
}

func (s *script) subscribe(channel string) (*client, error) {
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+"/stream?channel="+channel, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	late := time.AfterFunc(attempt, cancel)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &client{cancel: cancel, lines: make(chan string, 100)}
	go func() {
		defer close(c.lines)
		defer resp.Body.Close()
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			c.lines <- in.Text()
		}
	}()
	if err := c.expect("[stream opened]", attempt); err != nil {
		cancel()
		return nil, err
	}
	late.Stop()
	return c, nil
}

func (c *client) close() { c.cancel() }

func (c *client) expect(want string, limit time.Duration) error {
	select {
	case got, ok := <-c.lines:
		if !ok || got != want {
			return fmt.Errorf("got %q, %v, want %q", got, ok, want)
		}
		return nil
	case <-time.After(limit):
		return fmt.Errorf("no %q", want)
	}
}

func (s *script) publish(channel, text string) error {
	body := fmt.Sprintf(`{"items":[{"channel":%q,"http-stream":{"content":"%s\n"}}]}`, channel, text)
	resp, err := http.Post("http://"+s.control+"/publish/", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("publish: %s: %s", resp.Status, text)
	}
	return nil
}

// Each process is killed in turn. It comes back, and the clients of the others
// notice nothing.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("--merge-output").up()
	s.says("started")
	stay, err := s.subscribe("stay")
	if err != nil {
		t.Fatal(err)
	}
	defer stay.close()
	for i, kind := range []string{"proxy", "handler", "zurl", "connmgr"} {
		before := s.pids()
		// A process counts as started once it has lived for a second.
		s.eventually("a start that counts", func() bool {
			st, err := os.Stat(filepath.Join(s.dir, "run", kind+".pid"))
			return err == nil && time.Since(st.ModTime()) > 1300*time.Millisecond
		})
		s.kill(kind, syscall.SIGKILL)
		s.says(kind + ": Exited unexpectedly (signal KILL)")
		s.eventually("a new "+kind, func() bool { pid := s.pid(kind); return pid != 0 && pid != before[kind] })
		for _, other := range kinds {
			if other != kind && s.pid(other) != before[other] {
				t.Errorf("%s was restarted when %s died", other, kind)
			}
		}
		if kind == "connmgr" {
			s.up()
			continue
		}
		text := fmt.Sprintf("after %d", i)
		s.eventually("a publication", func() bool { return s.publish("stay", text) == nil })
		if err := stay.expect(text, poll.Patience); err != nil {
			t.Fatalf("held stream, %s killed: %v", kind, err)
		}
		s.up() // new requests work too
	}
	pids := s.pids()
	s.signal(syscall.SIGTERM)
	s.exit(0)
	s.nothingLeft(pids)
}

// The delay before a restart doubles.
func TestBackoff(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("-m").up()
	s.eventually("a start that counts", func() bool {
		st, err := os.Stat(filepath.Join(s.dir, "run", "zurl.pid"))
		return err == nil && time.Since(st.ModTime()) > 1300*time.Millisecond
	})
	again := regexp.MustCompile(`zurl: starting again in (\d+) ms`)
	// On a slow machine one may live long enough to count, and it is 200 again.
	kills, row := 0, 0
	s.eventually("200, 400 and 800 ms", func() bool {
		before := s.pid("zurl")
		s.kill("zurl", syscall.SIGKILL)
		kills++
		var delays [][]string
		s.eventually("the delay", func() bool {
			delays = again.FindAllStringSubmatch(s.out.String(), -1)
			return len(delays) == kills
		})
		switch got := delays[kills-1][1]; got {
		case fmt.Sprint(200 << row):
			row++
		case "200":
			row = 1
		default:
			t.Fatalf("%s ms after %d in a row", got, row)
		}
		s.eventually("a new zurl", func() bool { pid := s.pid("zurl"); return pid != 0 && pid != before })
		return row == 3
	})
}

// What a process wrote last is shown when it dies, from its log file and from its
// standard error.
func TestLastWords(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start().up()
	s.eventually("a start that counts", func() bool {
		st, err := os.Stat(filepath.Join(s.dir, "run", "proxy.pid"))
		return err == nil && time.Since(st.ModTime()) > 1300*time.Millisecond
	})
	s.kill("proxy", syscall.SIGABRT)
	s.says("proxy: Exited unexpectedly (exit code 2)")
	s.says("proxy: | SIGABRT: abort")
	s.says("-> test accept")
}

// Each line of a log in JSON is JSON, also those of the trace of a crash.
func TestJSONLog(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("-m", "--set", "runner.log_format=json").up()
	s.eventually("a start that counts", func() bool {
		st, err := os.Stat(filepath.Join(s.dir, "run", "proxy.pid"))
		return err == nil && time.Since(st.ModTime()) > 1300*time.Millisecond
	})
	s.kill("proxy", syscall.SIGABRT)
	s.says("proxy: | SIGABRT: abort")
	s.says("proxy: starting again")
	for line := range strings.Lines(s.out.String()) {
		if strings.HasSuffix(line, "\n") && !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %q", line)
		}
	}
}

func TestSecondStart(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	first := p.start("-m").up()
	second := p.start("-m")
	second.exit(1)
	if want := fmt.Sprintf("holdfast: already running in %s/run as process %d\n", p.dir, first.cmd.Process.Pid); second.out.String() != want {
		t.Errorf("got %q, want %q", second.out, want)
	}
	if p.pid("holdfast") != first.cmd.Process.Pid {
		t.Error("the second start took the pid file")
	}
	first.up()
}

// Pid files of a run that was killed do not stand in the way, not even if their
// numbers belong to somebody else now.
func TestStalePidFiles(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if err := os.Mkdir(filepath.Join(p.dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("tail", "-f", p.conf) // .../holdfast.conf
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	p.write("run/holdfast.pid", fmt.Sprintln(other.Process.Pid))
	elsewhere := newPlace(t).start("-m").up() // another instance
	p.write("run/connmgr.pid", fmt.Sprintln(elsewhere.pid("connmgr")))
	p.write("run/proxy.pid", fmt.Sprintln(gone.Process.Pid))
	p.write("run/handler.pid", "nonsense\n")
	s := p.start("-m").up()
	s.signal(syscall.SIGTERM)
	s.exit(0)
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that is not ours was ended: %v", err)
	}
	if strings.Contains(s.out.String(), "still runs as process") {
		t.Errorf("went on with the connmgr of another instance:\n%s", s.out)
	}
	elsewhere.up()
}

// A supervisor that is killed leaves its processes, and the next one goes on with
// them: clients stay connected.
func TestAdopt(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	first := p.start("-m").up()
	stay, err := first.subscribe("stay")
	if err != nil {
		t.Fatal(err)
	}
	defer stay.close()
	pids := first.pids()
	first.signal(syscall.SIGKILL)
	<-first.done
	second := p.start("-m")
	second.says(fmt.Sprintf("connmgr still runs as process %d", pids["connmgr"]))
	second.says("started")
	if err := second.publish("stay", "still here"); err != nil {
		t.Fatal(err)
	}
	if err := stay.expect("still here", poll.Patience); err != nil {
		t.Error(err)
	}
	// It has lived before, so its end is no failed start, however early.
	second.kill("zurl", syscall.SIGKILL)
	second.says("zurl: Exited unexpectedly")
	second.eventually("a new zurl", func() bool { pid := second.pid("zurl"); return pid != 0 && pid != pids["zurl"] })
	pids["zurl"] = second.pid("zurl")
	second.signal(syscall.SIGTERM)
	second.exit(0)
	second.nothingLeft(pids)
}

// A process that does not end is killed when the time is over; that is no
// failure.
func TestStopTimeout(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("-m", "--set", "runner.stop_timeout=1").up()
	pids := s.pids()
	s.kill("handler", syscall.SIGSTOP)
	s.signal(syscall.SIGTERM)
	s.exit(0)
	s.says("handler taking too long, forcing quit")
	s.nothingLeft(pids)
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("-m").up()
	pids := s.pids()
	s.kill("connmgr", syscall.SIGSTOP)
	s.signal(syscall.SIGINT)
	s.says("stopping...")
	s.signal(syscall.SIGINT)
	s.exit(1)
	s.nothingLeft(pids)
}

// ^C in the terminal goes to the script's process group, and no process is in it.
func TestProcessGroups(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("-m").up()
	own, err := syscall.Getpgid(s.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for kind, pid := range s.pids() {
		if group, err := syscall.Getpgid(pid); err != nil || group == own {
			t.Errorf("%s is in process group %d, the script's, %v", kind, group, err)
		}
	}
}

// A start that cannot succeed ends, and says why.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	ln, err := net.Listen("tcp", p.control)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := p.start()
	s.exit(1)
	s.says("handler: Exited unexpectedly (exit code 1)")
	s.says("address already in use")
}

func TestLogFiles(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	own := filepath.Join(p.dir, "own.log")
	s := p.start("--logfile", own, "--loglevel=debug").up()
	for _, kind := range kinds {
		s.eventually("log of "+kind, func() bool { return strings.Contains(s.read("log/"+kind+".log"), "started name="+kind+".0") })
	}
	line := regexp.MustCompile(`(?m)^\[INFO\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} starting proxy$`)
	if !line.MatchString(p.read("own.log")) || s.out.String() != "" {
		t.Errorf("got %q and %q", p.read("own.log"), s.out)
	}
	files := []string{"own.log", "log/connmgr.log", "log/proxy.log", "log/handler.log", "log/zurl.log"}
	for _, name := range files {
		if err := os.Rename(filepath.Join(p.dir, name), filepath.Join(p.dir, name+".1")); err != nil {
			t.Fatal(err)
		}
	}
	s.signal(syscall.SIGHUP)
	s.eventually("new log files", func() bool {
		for _, name := range files {
			if _, err := os.Stat(filepath.Join(p.dir, name)); err != nil {
				return false
			}
		}
		return true
	})
	s.signal(syscall.SIGTERM)
	s.exit(0)
	for _, name := range files {
		if !strings.Contains(p.read(name), "stopped") {
			t.Errorf("%s: got %q", name, p.read(name))
		}
	}
}

// HUP reads the routes anew.
func TestReload(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.start("-m").up()
	p.write("routes", "* test\nother test\n")
	s.signal(syscall.SIGHUP)
	s.says("[proxy] routes loaded with 2 entries")
}

func TestMergedOutput(t *testing.T) {
	t.Parallel()
	s := newPlace(t).start("--merge-output").up()
	line := regexp.MustCompile(`(?m)^\[INFO\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \[handler\] publish channel=up receivers=1`)
	s.eventually("log of a publication", func() bool { return line.MatchString(s.out.String()) })
	if s.read("log/proxy.log") != "" {
		t.Error("wrote a log file too")
	}
}

// --id shifts publishing ports and prefixes files; two instances share a run
// directory.
func TestID(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	first := p.start("-m").up()
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	_, control, _ := net.SplitHostPort(p.control)
	n, err := strconv.Atoi(control)
	if err != nil {
		t.Fatal(err)
	}
	q := *p
	q.http, q.control = fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("127.0.0.1:%d", n+70)
	second := q.start("-m", "--id", "7", "--port", q.http, "--set", "handler.push_in_spec=ipc://{rundir}/{ipc_prefix}push").up()
	if p.pid("p7-connmgr") == 0 || p.pid("p7-holdfast") != second.cmd.Process.Pid || p.pid("connmgr") == p.pid("p7-connmgr") {
		t.Error("pid files are not apart")
	}
	first.up()
}

// Without any file at all the built-in test route answers.
func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	bare := t.TempDir()
	for _, args := range [][]string{{"cp", "-r", filepath.Join(root, "bin"), bare}, {"cp", filepath.Join(root, "scripts", "holdfast"), bare}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	p.conf = "/dev/null"
	_, control, _ := net.SplitHostPort(p.control)
	if err := os.Remove(filepath.Join(p.dir, "holdfast.conf")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(p.dir, "routes")); err != nil {
		t.Fatal(err)
	}
	s := &script{place: p, out: &output{}, done: make(chan struct{})}
	s.cmd = exec.Command(filepath.Join(bare, "holdfast"), "-m", "--port="+p.http, "--route", "* test", "--set", "handler.push_in_http_port="+control,
		"--set", "handler.push_in_spec=", "--set=handler.push_in_sub_specs=", "-set", "handler.command_spec=")
	s.cmd.Dir = p.dir
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	s.up()
	s.signal(syscall.SIGTERM)
	s.exit(0)
}

func TestUsage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.write("bad.conf", "[proxy]\ndebug=maybe\n")
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string // regular expression
	}{
		{"help", []string{"--help"}, 0, `^usage: holdfast`},
		{"help, short", []string{"-h"}, 0, `^usage: holdfast`},
		{"version", []string{"--version"}, 0, `^holdfast \S+\n$`},
		{"unknown", []string{"--bogus"}, 2, `^error: Unknown option 'bogus'\.\n\nusage`},
		{"unknown, one dash", []string{"-bogus=1"}, 2, `^error: Unknown option 'bogus'\.\n\nusage`},
		{"unknown command", []string{"stop"}, 2, `^error: Unexpected argument 'stop'\.\n\nusage`},
		{"route", []string{"--config", p.conf, "--route", "* test", "--route", "* nowhere"}, 2, `^proxy: --route: target bad format: want HOST:PORT or test, not "nowhere"\n$`},
		{"no value", []string{"--port"}, 2, `^error: Missing value after '--port'\.\n`},
		{"unwanted value", []string{"--verbose=1"}, 2, `^error: Unexpected value after '--verbose'\.\n`},
		{"id", []string{"--id", "x"}, 2, `^error: id must be greater than or equal to 0\n`},
		{"port", []string{"--config", p.conf, "--port", "x"}, 2, `runner.http_port: "x" is not a port`},
		{"level", []string{"--config", p.conf, "--loglevel", "loud"}, 2, `"loud" is not a log level`},
		{"setting", []string{"--config", p.conf, "--set", "a.b=c"}, 2, `a.b: there is no such setting`},
		{"no file", []string{"--config", "/nowhere"}, 2, `/nowhere: no such file`},
		{"mistake in the file", []string{"--config=" + filepath.Join(p.dir, "bad.conf")}, 2, `bad.conf:2: proxy.debug: "maybe" is neither true nor false`},
		{"mistake that one process sees", []string{"--config", p.conf, "--set", "zurl.deny=1/2"}, 2, `zurl: section \[zurl\]: deny`},
		{"log file", []string{"--config", p.conf, "--logfile", "/nowhere/x"}, 1, `cannot write /nowhere/x`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := p.command(tc.args...)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != tc.code || !regexp.MustCompile(tc.want).Match(out) {
				t.Errorf("got %v, %q, want exit code %d and %q", err, out, tc.code, tc.want)
			}
		})
	}
}

// The files in deploy/ are read as they are. (pkg/config compares holdfast.conf
// with what it should be.)
func TestDeploy(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	out, err := exec.Command(filepath.Join(root, "bin", "proxy"), "checkconfig", "--config", filepath.Join(root, "deploy", "holdfast.conf")).CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 1 {
		t.Errorf("deploy/holdfast.conf and deploy/routes: %v, %s", err, out)
	}
	unit, err := os.ReadFile("../deploy/holdfast.service")
	if err != nil {
		t.Fatal(err)
	}
	docker, err := os.ReadFile("../deploy/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	// What they start must be what the script understands.
	for name, line := range map[string]string{
		"holdfast.service": regexp.MustCompile(`(?m)^ExecStart=\S+ (.*)$`).FindStringSubmatch(string(unit))[1],
		"Dockerfile": strings.NewReplacer(`"`, "", ",", "").Replace(
			regexp.MustCompile(`(?m)^ENTRYPOINT \["\S+ (.*)\]$`).FindStringSubmatch(string(docker))[1]),
	} {
		args := strings.Fields(strings.ReplaceAll(line, "/etc/holdfast/holdfast.conf", p.conf))
		cmd := p.command(append(args, "--loglevel", "loud")...)
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), `"loud" is not a log level`) {
			t.Errorf("%s: %q: got %s", name, line, out)
		}
	}
	env := regexp.MustCompile(`HOLDFAST_[A-Z_]+=\S+`).FindAllString(string(docker), -1)
	cmd := exec.Command(filepath.Join(root, "bin", "handler"), "checkconfig", "--config", p.conf)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "unknown") {
		t.Errorf("environment of the Dockerfile: %v, %s", err, out)
	}
}

func TestShellcheck(t *testing.T) {
	t.Parallel()
	need.Program(t, "shellcheck", "shellcheck")
	if out, err := exec.Command("shellcheck", "holdfast", "fuzz").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Each reason that operators meet is explained.
func TestReasonsAreExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range frame.Reasons() {
		if !strings.Contains(string(text), "| `"+r.String()+"` |") {
			t.Errorf("docs/operations.md does not explain the reason %s", r)
		}
	}
}

// block returns the code block in the readme after a marker.
func block(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)<!-- test: " + regexp.QuoteMeta(name) + " -->\n```[a-z]+\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatalf("README.md has no block %q", name)
	}
	return string(m[1])
}

// What the readme says works, literally but for the ports.
func TestReadme(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var ports [2]string
	for i := range ports {
		n, err := stack.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = strconv.Itoa(n)
	}
	here := strings.NewReplacer("localhost:7999", p.http, "localhost:5561", p.control, "localhost:5560", "127.0.0.1:"+ports[0], "8000", ports[1])
	run := func(program, name string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(program, "-c", here.Replace(block(t, name)))
		cmd.Stderr = os.Stderr
		return cmd
	}
	// lines starts a command and returns what it prints.
	lines := func(cmd *exec.Cmd) *client {
		t.Helper()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c := &client{lines: make(chan string, 100)}
		read := make(chan struct{})
		go func() {
			defer close(read)
			for in := bufio.NewScanner(out); in.Scan(); {
				c.lines <- in.Text()
			}
		}()
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-read
			_ = cmd.Wait()
		})
		return c
	}
	s := p.start("-m", "--set", "handler.push_in_spec=tcp://127.0.0.1:"+ports[0]).up()
	stream := lines(run("bash", "stream"))
	if err := stream.expect("[stream opened]", poll.Patience); err != nil {
		t.Fatal(err)
	}
	if out, err := run("bash", "publish").Output(); err != nil || string(out) != "Published\n" {
		t.Fatalf("publish: got %q, %v", out, err)
	}
	if err := stream.expect("hello", poll.Patience); err != nil {
		t.Fatal(err)
	}
	python := need.PyZMQ(t)
	if out, err := run(python, "publish.py").Output(); err != nil {
		t.Fatalf("publish.py: %s, %v", out, err)
	}
	if err := stream.expect("hello over ZeroMQ", poll.Patience); err != nil {
		t.Fatal(err)
	}
	backend := run(python, "backend.py")
	backend.Stderr = nil // its access log
	lines(backend)
	s.eventually("the backend", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+ports[1])
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	p.write("routes", "* localhost:"+ports[1]+"\n")
	s.signal(syscall.SIGHUP)
	s.says("reloading")
	var news *client
	s.eventually("the backend's answer", func() bool {
		news = lines(exec.Command("curl", "-sSN", "http://"+p.http+"/anything"))
		return news.expect("welcome", attempt) == nil
	})
	if err := s.publish("news", "something new"); err != nil {
		t.Fatal(err)
	}
	if err := news.expect("something new", poll.Patience); err != nil {
		t.Error(err)
	}
}
