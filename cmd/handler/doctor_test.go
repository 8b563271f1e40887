package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// freeAddr returns an address that nobody listens at.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestDoctor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().String()
	go func() { // an origin that speaks plain HTTP, and only that
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	for _, c := range []struct {
		name   string
		routes string
		set    []string
		code   int
		want   string
	}{
		{"all is well", "* " + taken, nil, 0, `ok    routes: .* has 1\nok    target ` + taken + `: answers\nok    signature: requests are signed by me\n`},
		{"test target", "* test", nil, 0, `ok    routes: .* has 1\nok    signature`},
		{"no routes file", "", nil, 1, `FAIL  routes: open .*: make it`},
		{"empty routes file", "# none\n", nil, 1, `FAIL  routes: .* has no route`},
		{"bad route", "* localhost:80,nonsense=\"\n* test", nil, 1, `FAIL  routes: .*:1`},
		{"target down", "* " + freeAddr(t), nil, 1, `FAIL  target .*connection refused: start the backend, or change .*routes:1\n`},
		{"target without TLS", "* " + taken + ",ssl", nil, 1, `FAIL  target .*: it does not speak TLS: take ,ssl off`},
		{"port taken", "* test", []string{"runner.http_port=" + taken}, 1, `FAIL  client port: ` + taken + ` is taken by another program`},
		{"publishing port taken", "* test", []string{"handler.push_in_spec=tcp://" + taken}, 1, `FAIL  publishing: ` + taken + ` is taken by another program .*change handler.push_in_spec`},
		{"unsigned", "* test", []string{"proxy.sig_key="}, 0, `warn  signature: requests are not signed`},
		{"well-known key", "* test", []string{"proxy.sig_key=changeme"}, 1, `FAIL  signature: .*changeme`},
		{"unreadable key", "* test", []string{"proxy.sig_key=file:none"}, 1, `FAIL  signature: proxy.sig_key: key file`},
		{"open to all", "* test", []string{"handler.push_in_http_addr=0.0.0.0"}, 0, `warn  control API: other hosts can reach it`},
		{"ZeroMQ open to all", "* test", []string{"handler.push_in_spec=tcp://*:" + strings.TrimPrefix(freeAddr(t), "127.0.0.1:")}, 0, `warn  publishing: other hosts can reach tcp://\*:\d+, and it takes everybody: set handler.push_in_spec`},
		{"no certificate", "* test", []string{"runner.https_ports=" + freeAddr(t)}, 1, `FAIL  certificate for 127.0.0.1:\d+: there is none: put it into .*runner/certs/default_\d+.crt and .key`},
		{"too few files", "* test", []string{"runner.client_maxconn=10000000"}, 0, `warn  open files: .*raise|ok    open files`},
		{"bad setting", "* test", []string{"proxy.debug=x"}, 1, `FAIL  configuration: command line: proxy.debug`},
		{"run directory is a file", "* test", []string{"global.rundir=/etc/hostname"}, 1, `FAIL  run directory: /etc/hostname is not a directory`},
		{"run directory cannot be made", "* test", []string{"global.rundir=/etc/hostname/run"}, 1, `FAIL  run directory: .*/etc/hostname/run.*: change global.rundir`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.routes != "" {
				if err := os.WriteFile(filepath.Join(dir, "routes"), []byte(c.routes), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(dir, "holdfast.conf")
			text := "[global]\nrundir=" + filepath.Join(dir, "run") + "\n[runner]\nhttp_port=" + freeAddr(t) + "\n[proxy]\nsig_iss=me\nsig_key=k\n" +
				"[handler]\npush_in_spec=tcp://" + freeAddr(t) + "\npush_in_sub_specs=\ncommand_spec=\npush_in_http_port=0\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"doctor", "--config", file}
			for _, s := range c.set {
				args = append(args, "--set", s)
			}
			code, out, errs := runHandler(args...)
			if code != c.code || !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("got %d, want %d, and\n%swant %s", code, c.code, out, c.want)
			}
			if (code == 0) != (errs == "") || code != 0 && !strings.HasSuffix(errs, " to be repaired\n") {
				t.Errorf("got on stderr %q", errs)
			}
		})
	}
}

// A handler that runs has its ports, and must answer at them.
func TestDoctorWhileRunning(t *testing.T) {
	dir := t.TempDir()
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	defer control.Close()
	_, port, err := net.SplitHostPort(control.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	bus, err := net.Listen("unix", filepath.Join(dir, "pushpin-handler.0.in"))
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	if err := os.WriteFile(filepath.Join(dir, "routes"), []byte("* test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "holdfast.conf")
	idle := freeAddr(t)
	text := "[global]\nrundir=" + dir + "\n[runner]\nhttp_port=" + freeAddr(t) + "\n[handler]\npush_in_spec=tcp://" + idle +
		"\npush_in_sub_specs=\ncommand_spec=\npush_in_http_port=" + port + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, out, _ := runHandler("doctor", "--config", file)
	for _, want := range []string{
		"ok    control API: 127.0.0.1:" + port + " is served by handler\n", "ok    control API: answers 200 OK\n",
		"FAIL  publishing: handler runs, but does not listen at " + idle + ": restart it",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%swant %q", out, want)
		}
	}
}
