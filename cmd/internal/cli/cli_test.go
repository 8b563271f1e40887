package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a process that does nothing until it is stopped.
type server struct {
	bus     bus.Bus
	started chan struct{}
	err     error
}

func (s *server) Run(ctx context.Context) error {
	close(s.started)
	if s.err != nil {
		return s.err
	}
	return s.bus.Run(ctx, s)
}

func (s *server) Close() error                       { return nil }
func (s *server) Receive(bus.Peer, []byte)           {}
func (s *server) PeerUp(bus.Peer)                    {}
func (s *server) PeerDown(bus.Peer)                  {}
func (s *server) Broadcast(bus.Peer, string, []byte) {}

// program returns a program called proxy, since that is a section.
func program(s *server) Program {
	return Program{
		Kind: "proxy", Short: "Test",
		Flags:   func(f *Flags) { f.Setting("port-offset", "global.port_offset", "") },
		Runtime: func(c *config.Config) (config.Runtime, string) { return config.Runtime{}, c.Admin.Proxy },
		Grace:   func(*config.Config) time.Duration { return time.Minute },
		Check: func(c *config.Config) ([]string, error) {
			if c.Proxy.SigIss == "bad" {
				return []string{"a warning"}, errors.New("bad issuer")
			}
			return []string{"a warning"}, nil
		},
		New: func(e Env) (Server, error) {
			if e.Config.Proxy.SigIss == "refuse" {
				return nil, errors.New("refused")
			}
			s.bus = e.Bus
			return s, nil
		},
	}
}

// conf writes a configuration file, with a run directory of the test's own.
func conf(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "holdfast.conf")
	if err := os.WriteFile(file, []byte("[global]\nrundir="+filepath.Join(dir, "r")+"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestExitCodes(t *testing.T) {
	good := conf(t, "")
	for _, tc := range []struct {
		name   string
		args   []string
		env    []string
		code   int
		stdout string // regular expressions
		stderr string
	}{
		{"version", []string{"version"}, nil, 0, `^holdfast proxy dev\n$`, `^$`},
		{"version flag", []string{"--version"}, nil, 0, `^holdfast proxy dev\n$`, `^$`},
		{"help", []string{"--help"}, nil, 0, `--port-offset`, `^$`},
		{"default configuration", []string{"defaultconfig"}, nil, 0, `(?m)^\[handler\]$`, `^$`},
		{"unknown flag", []string{"--bogus"}, nil, 2, `^$`, `^proxy: unknown flag: --bogus`},
		{"unknown command", []string{"bogus"}, nil, 2, `^$`, `unknown command "bogus"`},
		{"arguments", []string{"version", "x"}, nil, 2, `^$`, `unknown command "x"`},
		{"wrong name", []string{"--name", "handler.0"}, nil, 2, `^$`, `--name "handler.0": want proxy. and a number`},
		{"no such file", []string{"--config", "/nowhere/x.conf"}, nil, 2, `^$`, `/nowhere/x.conf: no such file`},
		{"wrong setting", []string{"--config", good, "--set", "proxy.debug=x"}, nil, 2, `^$`, `proxy: command line: proxy.debug: "x"`},
		{"wrong environment", []string{"--config", good}, []string{"HOLDFAST_PROXY_DEBUG=x"}, 2, `^$`, `HOLDFAST_PROXY_DEBUG`},
		{"two mistakes", []string{"--config", good, "--set", "proxy.debug=x", "--loglevel", "x"}, nil, 2, `^$`, `(?s)^proxy: .*\nproxy: `},
		{"check", []string{"checkconfig", "--config", good}, nil, 0, `^warning: a warning\n.*holdfast.conf: ok\n$`, `^$`},
		{"check says no", []string{"checkconfig", "--config", good, "--set", "proxy.sig_iss=bad"}, nil, 2, `^warning: a warning\n$`, `^proxy: bad issuer\n$`},
		{"check shows notices", []string{"checkconfig", "--config", conf(t, "[proxy]\ndebgu=1\n")}, nil, 0, `unknown: .*:4: proxy.debgu: there is no such setting; did you mean proxy.debug`, `^$`},
		{
			"print",
			[]string{"printconfig", "--config", good, "--verbose", "--port-offset", "7", "--set", "proxy.sig_key=x"},
			[]string{"HOLDFAST_ZURL_TIMEOUT=5"},
			0,
			`(?s)global.port_offset=7\t; command line\n.*runner.log_level=3\t; command line\n.*proxy.sig_key=\(secret\)\t.*zurl.timeout=5\t; environment\n.*zurl.max_body=|zurl.max_body=1M\t; default`, `^$`,
		},
		{"print some", []string{"printconfig", "--config", good, "file", "runner.log_level"}, nil, 0, `^` + good + `\n2\n$`, `^$`},
		{"print unknown", []string{"printconfig", "--config", good, "a.b"}, nil, 2, `^$`, `there is no setting "a.b"`},
		{"--set has the last word", []string{"printconfig", "--config", good, "--set", "runner.log_level=1", "--verbose", "runner.log_level"}, nil, 0, `^1\n$`, `^$`},
		{"cannot start", []string{"--config", good, "--set", "proxy.sig_iss=refuse"}, nil, 1, ``, `^proxy: refused\n$`},
		{"wrong peers", []string{"--config", good, "--set", "bus.peers=handler.0"}, nil, 2, ``, `bus.peers: "handler.0": want NAME INBOX PUB`},
		{"log file", []string{"--config", good, "--logfile", "/nowhere/x.log"}, nil, 1, ``, `log file: open /nowhere/x.log`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Run(program(&server{started: make(chan struct{})}), tc.args, tc.env, &stdout, &stderr)
			if code != tc.code {
				t.Errorf("got exit code %d, want %d", code, tc.code)
			}
			if !regexp.MustCompile(tc.stdout).Match(stdout.Bytes()) {
				t.Errorf("got on stdout %q, want %q", stdout.String(), tc.stdout)
			}
			if !regexp.MustCompile(tc.stderr).Match(stderr.Bytes()) {
				t.Errorf("got on stderr %q, want %q", stderr.String(), tc.stderr)
			}
		})
	}
}

// A process runs until TERM, logs to its file, and opens that anew on HUP.
func TestServe(t *testing.T) {
	file := conf(t, "[proxy]\ndebgu=1\nupdates_check=off\norganization_name=x\n")
	logfile := filepath.Join(filepath.Dir(file), "x.log")
	s := &server{started: make(chan struct{})}
	code := make(chan int)
	var stderr bytes.Buffer
	go func() {
		code <- Run(program(s), []string{"--config", file, "--logfile", logfile, "--log-name", "p", "--set", "admin.pprof=true"}, nil, &bytes.Buffer{}, &stderr)
	}()
	<-s.started
	contains := func(want string) {
		t.Helper()
		poll.Works(t, "the log to say it", func() error {
			text, err := os.ReadFile(logfile)
			if err == nil && !strings.Contains(string(text), want) {
				err = fmt.Errorf("no %q in %s", want, text)
			}
			return err
		})
	}
	signal := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
	}
	contains("[p] using config: " + file)
	contains("debgu: there is no such setting")
	contains("without effect: proxy.updates_check proxy.organization_name: Holdfast does not look for updates")
	contains("started name=proxy.0")
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), "r", "pushpin-proxy.0-admin")); err != nil {
		t.Errorf("admin listener: %v", err)
	}
	if err := os.Rename(logfile, logfile+".1"); err != nil {
		t.Fatal(err)
	}
	signal(syscall.SIGHUP)
	poll.Works(t, "the new log file", func() error { _, err := os.Stat(logfile); return err })
	signal(syscall.SIGTERM)
	if got := <-code; got != 0 {
		t.Errorf("got exit code %d, %s", got, stderr.String())
	}
	contains("[p] stopped")
}

func TestServerFails(t *testing.T) {
	s := &server{started: make(chan struct{}), err: errors.New("broken")}
	var stderr bytes.Buffer
	code := Run(program(s), []string{"--config", conf(t, ""), "--loglevel", "0"}, nil, &bytes.Buffer{}, &stderr)
	if code != 1 || stderr.String() != "proxy: proxy: broken\n" {
		t.Errorf("got exit code %d, %q", code, stderr.String())
	}
}
