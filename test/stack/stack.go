// Package stack runs a whole GRIP proxy as processes of its own, in a private
// directory and on private ports, for the tests that judge it from outside.
//
// Two kinds of proxy can be started: Holdfast, from the binaries and the
// supervisor of this repository, and Pushpin, from the packages of the
// distribution, which is what Holdfast is compared with.
package stack

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Kind names a proxy that Start knows how to run.
type Kind string

// The two kinds.
const (
	Holdfast Kind = "holdfast"
	Pushpin  Kind = "pushpin"
)

// readyHost is routed to the built-in test handler; a stack is ready once a
// request and a stream hold for it have gone through.
const readyHost = "ready.stack.test"

// Options says what to start.
type Options struct {
	Kind Kind
	// Root is the repository; only Holdfast needs it. Empty: looked for
	// upwards from the working directory.
	Root string
	// Routes are the lines of the routes file.
	Routes []string
	// Set holds configuration that differs from the usual, as
	// "section/key=value". A value replaces the one that is set already.
	Set []string
	// Wait is how long to wait until the stack answers; 30 s if zero.
	Wait time.Duration
	// LogFiles has Holdfast write log files, below "log", as it does by default.
	// Otherwise all goes to Log.
	LogFiles bool
	// Prepare, if not nil, is called with the run directory before anything is
	// started.
	Prepare func(runDir string) error
}

// Stack is a running proxy. The addresses are host:port.
type Stack struct {
	Kind    Kind
	HTTP    string // for clients
	Control string // control API
	Push    string // ZeroMQ PULL: publishers push here
	Sub     string // ZeroMQ SUB: publishers publish here
	Command string // ZeroMQ REP
	Stats   string // ZeroMQ PUB for statistics: path of a unix socket
	Dir     string // private directory
	Routes  string // path of the routes file
	Config  string // path of the configuration file

	procs       []*process
	first       map[string][]int // see bookkeepers; when the stack was ready
	unaccounted string           // why the books are not looked at
}

type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	log  *logBuffer
}

// logBuffer keeps the last part of what a process printed.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const logKept = 1 << 20

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len()+len(p) > 2*logKept {
		b.buf.Next(b.buf.Len() - logKept)
	}
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// FindRoot returns the folder of the go.mod above the working directory.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}

// taken are the sockets by which this process keeps the ports that it was given:
// their names, of the kernel's abstract kind, are gone when it is.
var taken struct {
	sync.Mutex
	names []net.Listener
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on, and that no
// other call gets, in this process or another, while this process lives. It is
// below the range from which the kernel takes ports for outgoing connections,
// so that it is still free when the process that wants it binds it.
func FreePort() (int, error) {
	for range 200 {
		p := 11000 + rand.IntN(20000)
		name, err := net.Listen("unix", fmt.Sprintf("@holdfast-test-port-%d", p))
		if err != nil {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			_ = name.Close()
			continue
		}
		taken.Lock()
		taken.names = append(taken.names, name)
		taken.Unlock()
		return p, ln.Close()
	}
	return 0, errors.New("no free port found")
}

// Start starts a stack and waits until it serves. On an error everything that
// was started has been stopped again.
func Start(ctx context.Context, o Options) (*Stack, error) {
	dir, err := os.MkdirTemp("", "hfstack")
	if err != nil {
		return nil, err
	}
	s := &Stack{Kind: o.Kind, Dir: dir, Routes: filepath.Join(dir, "routes")}
	if err := s.start(ctx, o); err != nil {
		log := s.Log()
		s.Stop()
		return nil, fmt.Errorf("starting %s: %w\n%s", o.Kind, err, lastLines(log, 40))
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context, o Options) error {
	var ports [5]string
	for i := range ports {
		p, err := FreePort()
		if err != nil {
			return err
		}
		ports[i] = fmt.Sprintf("127.0.0.1:%d", p)
	}
	s.HTTP, s.Control, s.Push, s.Sub, s.Command = ports[0], ports[1], ports[2], ports[3], ports[4]
	s.Stats = filepath.Join(s.Dir, "run", "stats")
	for _, d := range []string{"run", "log"} {
		if err := os.Mkdir(filepath.Join(s.Dir, d), 0o700); err != nil {
			return err
		}
	}
	if err := s.WriteRoutes(o.Routes); err != nil {
		return err
	}
	if o.Prepare != nil {
		if err := o.Prepare(filepath.Join(s.Dir, "run")); err != nil {
			return err
		}
	}
	var err error
	switch o.Kind {
	case Pushpin:
		err = s.startPushpin(o)
	case Holdfast:
		err = s.startHoldfast(o)
	default:
		err = fmt.Errorf("unknown kind %q", o.Kind)
	}
	if err != nil {
		return err
	}
	wait := o.Wait
	if wait == 0 {
		wait = 30 * time.Second
	}
	if err := s.Ready(ctx, wait); err != nil {
		return err
	}
	s.first = s.bookkeepers()
	return nil
}

// WriteRoutes replaces the routes file in one step.
func (s *Stack) WriteRoutes(lines []string) error {
	text := readyHost + " test\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(s.Routes+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(s.Routes+".new", s.Routes)
}

// config writes a configuration file in the form that Pushpin documents. The
// sections are in base; set overrides.
func (s *Stack) config(path string, base [][2]string, set []string) error {
	for _, line := range set {
		key, value, ok := strings.Cut(line, "=")
		if !ok || !strings.Contains(key, "/") {
			return fmt.Errorf("setting %q is not section/key=value", line)
		}
		i := slices.IndexFunc(base, func(kv [2]string) bool { return kv[0] == key })
		if i < 0 {
			base = append(base, [2]string{key, value})
		} else {
			base[i][1] = value
		}
	}
	var sections []string
	lines := make(map[string]string)
	for _, kv := range base {
		section, key, _ := strings.Cut(kv[0], "/")
		if lines[section] == "" {
			sections = append(sections, section)
		}
		lines[section] += key + "=" + kv[1] + "\n"
	}
	var b strings.Builder
	for _, section := range sections {
		fmt.Fprintf(&b, "[%s]\n%s", section, lines[section])
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

func (s *Stack) common() [][2]string {
	_, controlPort, _ := net.SplitHostPort(s.Control)
	return [][2]string{
		{"global/rundir", filepath.Join(s.Dir, "run")},
		{"runner/http_port", s.HTTP},
		{"runner/logdir", filepath.Join(s.Dir, "log")},
		{"proxy/routesfile", "routes"},
		{"proxy/sig_iss", "pushpin"},
		{"proxy/sig_key", "changeme"},
		{"proxy/set_x_forwarded_protocol", "proto-only"},
		{"handler/push_in_spec", "tcp://" + s.Push},
		{"handler/push_in_sub_specs", "tcp://" + s.Sub},
		{"handler/push_in_http_addr", "127.0.0.1"},
		{"handler/push_in_http_port", controlPort},
		{"handler/stats_spec", "ipc://" + s.Stats},
		{"handler/command_spec", "tcp://" + s.Command},
		{"handler/message_rate", "100000"},
		{"handler/message_hwm", "1000000"},
		{"handler/id_cache_ttl", "60"},
	}
}

func (s *Stack) startHoldfast(o Options) error {
	root := o.Root
	if root == "" {
		var err error
		if root, err = FindRoot(); err != nil {
			return err
		}
	}
	s.Config = filepath.Join(s.Dir, "holdfast.conf")
	if err := s.config(s.Config, s.common(), o.Set); err != nil {
		return err
	}
	// Copies, because a build during the run would replace the programs.
	for _, name := range []string{"scripts/holdfast", "bin/connmgr", "bin/proxy", "bin/handler", "bin/zurl"} {
		if err := link(filepath.Join(root, name), filepath.Join(s.Dir, name)); err != nil {
			return fmt.Errorf("%w; run make build", err)
		}
	}
	if err := s.unknown(); err != nil {
		return err
	}
	args := []string{"--config=" + s.Config}
	if !o.LogFiles {
		args = append(args, "--merge-output")
	}
	return s.run("holdfast", filepath.Join(s.Dir, "scripts", "holdfast"), args...)
}

// unknown returns an error if there is a setting that Holdfast does not have: with
// one in a wrong section a test would examine the default and not know. What else
// may be wrong shows at the start.
func (s *Stack) unknown() error {
	cmd := exec.Command(filepath.Join(s.Dir, "bin", "handler"), "checkconfig", "--config="+s.Config)
	cmd.Dir = s.Dir
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "unknown: ") {
			return errors.New(strings.TrimSpace(line))
		}
	}
	return nil
}

// link makes a second name for a file, or a copy if that is not possible.
func link(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o700)
}

// Debian's Pushpin expects zurl as a system service, so one of our own is
// started beside it. Its own limits on the rate of deliveries are set out of
// the way: they are not what is examined.
func (s *Stack) startPushpin(o Options) error {
	run := filepath.Join(s.Dir, "run")
	zurl := "ipc://" + filepath.Join(run, "zurl")
	zconf := filepath.Join(s.Dir, "zurl.conf")
	text := fmt.Sprintf("[General]\ninstance_id=\nin_spec=%s-in\nin_stream_spec=%s-in-stream\nout_spec=%s-out\nin_req_spec=%s-req\n"+
		"ipc_file_mode=600\ndefpolicy=allow\nallow=\ndeny=\nmax_open_requests=2000\nbuffer_size=200000\ntimeout=600\nin_hwm=1000\nout_hwm=1000\n",
		zurl, zurl, zurl, zurl)
	if err := os.WriteFile(zconf, []byte(text), 0o600); err != nil {
		return err
	}
	s.Config = filepath.Join(s.Dir, "pushpin.conf")
	base := append(s.common(), [][2]string{
		{"global/include", "{libdir}/internal.conf"},
		{"global/ipc_prefix", "pushpin-"},
		{"runner/services", "condure,pushpin-proxy,pushpin-handler"},
		{"runner/condure_bin", "condure"},
		{"proxy/zurl_out_specs", zurl + "-in"},
		{"proxy/zurl_out_stream_specs", zurl + "-in-stream"},
		{"proxy/zurl_in_specs", zurl + "-out"},
		{"proxy/updates_check", "off"},
	}...)
	if err := s.config(s.Config, base, o.Set); err != nil {
		return err
	}
	if err := s.run("zurl", "zurl", "--config="+zconf); err != nil {
		return err
	}
	return s.run("pushpin", "pushpin", "--config="+s.Config, "--merge-output")
}

// run starts a program in a process group of its own, so that a signal meant
// for the test program does not end it early.
func (s *Stack) run(name, path string, args ...string) error {
	p := &process{name: name, cmd: exec.Command(path, args...), done: make(chan struct{}), log: new(logBuffer)}
	p.cmd.Dir = s.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that survives keeps the output pipe open; do not wait for it.
	p.cmd.WaitDelay = 2 * time.Second
	if err := p.cmd.Start(); err != nil {
		return err
	}
	s.procs = append(s.procs, p)
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in the log and in Exited
	}()
	return nil
}

// Exited reports whether a process of the stack has ended, and which.
func (s *Stack) Exited() (string, bool) {
	for _, p := range s.procs {
		select {
		case <-p.done:
			return fmt.Sprintf("%s: %s", p.name, p.cmd.ProcessState), true
		default:
		}
	}
	return "", false
}

// PID is the process id of the supervisor.
func (s *Stack) PID() int { return s.procs[len(s.procs)-1].cmd.Process.Pid }

// Ready waits until the stack serves, for at most that long.
func (s *Stack) Ready(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = s.probe(); last == nil {
			return nil
		}
		if what, ok := s.Exited(); ok {
			return fmt.Errorf("a process ended: %s", what)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", last)
		case <-tick.C:
		}
	}
}

func (s *Stack) probe() error {
	if s.Kind == Holdfast { // clients can be served before zurl is there
		for _, kind := range []string{"connmgr", "proxy", "handler", "zurl"} {
			files, err := filepath.Glob(filepath.Join(s.Dir, "run", "*"+kind+"*.ready"))
			if err != nil || len(files) == 0 {
				return fmt.Errorf("%s is not ready: %w", kind, cmp.Or(err, fs.ErrNotExist))
			}
		}
	}
	for _, addr := range []string{s.Control, s.Push, s.Sub, s.Command} {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	for path, want := range map[string]string{"/": "Hello from", "/stream": "[stream opened]"} {
		if err := probeHTTP(s.HTTP, path, want); err != nil {
			return err
		}
	}
	return nil
}

func probeHTTP(addr, path, want string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, readyHost)
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if strings.HasPrefix(line, want) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("GET %s: %w", path, err)
		}
	}
}

// Log is what the processes printed last.
func (s *Stack) Log() string {
	var b strings.Builder
	for _, p := range s.procs {
		fmt.Fprintf(&b, "--- %s\n%s", p.name, p.log)
	}
	return b.String()
}

// Stop ends every process that Start started, politely at first, and removes
// the private directory. It may be called twice.
func (s *Stack) Stop() {
	for _, p := range slices.Backward(s.procs) {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
			continue
		case <-time.After(10 * time.Second):
		}
		for _, pid := range descendants(p.cmd.Process.Pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	s.procs = nil
	_ = os.RemoveAll(s.Dir)
}

// descendants lists the processes below pid: a supervisor gives its children
// process groups of their own, so killing its group would miss them.
func descendants(pid int) []int {
	parents := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, d := range dirs {
		data, err := os.ReadFile(d)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid; the name may hold anything, so cut behind it
		var self, ppid int
		var state string
		i := bytes.LastIndexByte(data, ')')
		if _, err := fmt.Sscan(string(data), &self); err != nil || i < 0 {
			continue
		}
		if _, err := fmt.Sscan(string(data[i+1:]), &state, &ppid); err == nil {
			parents[ppid] = append(parents[ppid], self)
		}
	}
	var all []int
	for next := parents[pid]; len(next) > 0; {
		all = append(all, next...)
		var deeper []int
		for _, p := range next {
			deeper = append(deeper, parents[p]...)
		}
		next = deeper
	}
	return all
}

// Children returns the ids of the processes that the supervisor runs, by the
// name of their program.
func (s *Stack) Children() map[string]int {
	out := map[string]int{}
	for _, pid := range descendants(s.PID()) {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			out[filepath.Base(exe)] = pid
		}
	}
	return out
}

// Process is one of the programs that the supervisor runs.
type Process struct {
	Name string // of its program, such as "proxy"
	PID  int
}

// Processes returns the programs that the supervisor runs.
func (s *Stack) Processes() []Process {
	var out []Process
	for _, pid := range descendants(s.PID()) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		name := filepath.Base(exe)
		if err == nil && slices.Contains([]string{"connmgr", "proxy", "handler", "zurl"}, name) {
			out = append(out, Process{name, pid})
		}
	}
	return out
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
