// Package pkg_test checks the map of the packages: who may import whom.
package pkg_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast/holdfast/"

// packages is the map. Imports point down only; a package that is not here must
// be given a line, with one sentence of what it is for that no other line has.
// Modules from outside are in the next table.
var packages = []struct {
	path, is string
	may      []string
}{
	// Formats: values, parse, write. No sockets, no goroutines, no clock.
	{"pkg/frame", "the messages of the bus", nil},
	{"pkg/tnet", "tnetstrings", nil},
	{"pkg/zhttp", "the packets of Zurl", []string{"pkg/frame", "pkg/tnet"}},
	{"pkg/http1", "HTTP/1 heads and bodies", []string{"pkg/frame"}},
	{"pkg/grip", "GRIP as the protocol document has it", []string{"pkg/frame"}},
	{"pkg/wsevents", "WebSocket-over-HTTP bodies", nil},
	{"pkg/loglimit", "how often strangers may fill the log", nil},
	{"pkg/hook", "what makers and senders of webhooks agree on", nil},
	{"pkg/publish", "published items", []string{"pkg/frame", "pkg/hook", "pkg/tnet"}},
	{"pkg/route", "the routes file", nil},
	{"pkg/netpolicy", "which addresses may be called", nil},

	// Engines: state and timers, no sockets.
	{"pkg/exchange", "order and credits of one exchange", []string{"pkg/frame"}},
	{"pkg/wheel", "timers of many connections", nil},
	{"pkg/channel", "subscriptions and the order of publications", []string{"pkg/publish", "pkg/wheel"}},
	{"pkg/filter", "filters of a subscription", []string{"pkg/publish"}},
	{"pkg/sockjs", "SockJS as written, and the polling of one session", nil},
	{"pkg/wsoverhttp", "one WebSocket client as a row of requests", []string{"pkg/wsevents", "pkg/grip"}},

	// Services: sockets, each with one owner.
	{"pkg/bus", "frames between processes", []string{"pkg/loglimit"}},
	{"pkg/bus/bustest", "the bus in memory, for tests", []string{"pkg/bus", "test/poll"}},
	{"pkg/webhook", "durable delivery to HTTP endpoints", []string{"pkg/frame", "pkg/hook", "pkg/http1"}},
	{"pkg/origin", "requests to origins over kept connections", []string{"pkg/frame", "pkg/http1", "pkg/netpolicy"}},
	{"pkg/outbound", "requests to addresses that others chose", []string{"pkg/frame", "pkg/http1", "pkg/netpolicy", "pkg/origin", "pkg/wsevents"}},

	{"pkg/wsconn", "the WebSocket library on sockets whose handshake is done", []string{"pkg/frame", "pkg/http1"}},

	// What all processes share.
	{"pkg/config", "the configuration file", nil},
	{"pkg/unixsock", "listening on unix sockets", nil},
	{"pkg/metrics", "registry and admin listener", []string{"pkg/unixsock"}},
	{"pkg/daemon", "log, signals, start and stop", nil},

	// Processes. None imports another: they meet in frame.
	{"pkg/connmgr", "clients", []string{"pkg/bus", "pkg/exchange", "pkg/frame", "pkg/grip", "pkg/http1", "pkg/loglimit", "pkg/sockjs", "pkg/unixsock", "pkg/wheel", "pkg/wsconn", "pkg/wsevents"}},
	{"pkg/proxy", "routes and origins", []string{
		"pkg/bus", "pkg/exchange", "pkg/filter", "pkg/frame", "pkg/grip", "pkg/http1", "pkg/loglimit", "pkg/netpolicy", "pkg/origin", "pkg/route",
		"pkg/sockjs", "pkg/wheel", "pkg/wsconn", "pkg/wsevents", "pkg/wsoverhttp",
	}},
	{"pkg/handler", "subscriptions and delivery", []string{
		"pkg/bus", "pkg/channel", "pkg/exchange", "pkg/filter", "pkg/frame", "pkg/grip", "pkg/hook", "pkg/http1", "pkg/loglimit", "pkg/publish", "pkg/tnet",
		"pkg/unixsock", "pkg/wheel",
	}},
	{"pkg/zurl", "requests for others", []string{"pkg/bus", "pkg/frame", "pkg/http1", "pkg/netpolicy", "pkg/outbound", "pkg/webhook", "pkg/zhttp"}},
}

// programs is what each program may import beside cli: its own process and what
// it takes to translate the configuration.
var programs = map[string][]string{
	"cmd/internal/cli": {"pkg/bus", "pkg/config", "pkg/daemon", "pkg/metrics"},
	"cmd/connmgr":      {"cmd/internal/cli", "pkg/config", "pkg/connmgr", "pkg/frame"},
	"cmd/proxy":        {"cmd/internal/cli", "pkg/config", "pkg/grip", "pkg/proxy", "pkg/route"},
	"cmd/handler":      {"cmd/internal/cli", "pkg/bus", "pkg/config", "pkg/grip", "pkg/handler", "pkg/publish", "pkg/route", "pkg/unixsock"},
	"cmd/zurl":         {"cmd/internal/cli", "pkg/config", "pkg/netpolicy", "pkg/webhook", "pkg/zurl"},
}

// modules says where a module from outside may be imported, and why there alone.
// A name that ends in /... covers everything below.
var modules = []struct {
	module string
	in     []string
	why    string
}{
	{"github.com/go-zeromq/zmq4", []string{"pkg/bus"}, "what it does not do must be hidden in one place"},
	{"github.com/vmihailenco/msgpack", []string{"pkg/frame", "pkg/bus"}, "msgpack is the form of the bus and of nothing else"},
	{"github.com/gorilla/websocket", []string{"pkg/connmgr", "pkg/origin", "pkg/proxy", "pkg/wsconn"}, "only where a real WebSocket is held"},
	{"github.com/spf13", []string{"cmd/..."}, "libraries have no command line"},
	{"github.com/golang-jwt/jwt", []string{"pkg/grip", "pkg/handler"}, "tokens are part of GRIP, and of who may publish"},
	{"github.com/evanphx/json-patch", []string{"pkg/publish"}, "patches are part of published items"},
	{"github.com/fsnotify/fsnotify", []string{"pkg/proxy", "pkg/bus"}, "the routes file and the run directory are watched"},
	{"github.com/prometheus", []string{"pkg/metrics", "pkg/bus", "pkg/origin", "pkg/outbound", "pkg/connmgr", "pkg/proxy", "pkg/handler", "pkg/webhook", "pkg/zurl", "cmd/internal/cli"}, "formats and engines count nothing"},
	{"go.etcd.io/bbolt", []string{"pkg/webhook"}, "only webhooks have a file of their own"},
	{"golang.org/x", []string{"..."}, "next to the standard library"},
}

type goPackage struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func list(t *testing.T, patterns ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports"}, patterns...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImports(t *testing.T) {
	allowed := make(map[string][]string)
	for _, p := range packages {
		if p.is == "" {
			t.Errorf("%s: say what it is for", p.path)
		}
		allowed[p.path] = p.may
	}
	for name, may := range programs {
		allowed[name] = may
	}
	there := list(t, "./pkg/...", "./cmd/...")
	for name := range allowed {
		if !slices.ContainsFunc(there, func(p goPackage) bool { return p.ImportPath == module+name }) {
			t.Errorf("%s is on the map in pkg/imports_test.go and does not exist", name)
		}
	}
	for _, p := range there {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, known := allowed[name]
		if !known && name != "pkg" {
			t.Errorf("%s is not on the map in pkg/imports_test.go", name)
			continue
		}
		for _, imported := range p.Imports {
			inner, ours := strings.CutPrefix(imported, module)
			switch {
			case ours && !slices.Contains(may, inner):
				t.Errorf("%s imports %s, which it may not: see the map in pkg/imports_test.go", name, inner)
			case !ours && strings.Contains(strings.SplitN(imported, "/", 2)[0], "."):
				checkModule(t, name, imported)
			}
		}
		// Tests may use anything but another process: what they need of it is in
		// frame.
		if slices.Contains([]string{"pkg/connmgr", "pkg/proxy", "pkg/handler", "pkg/zurl"}, name) {
			for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
				inner, ours := strings.CutPrefix(imported, module)
				if ours && inner != name && slices.Contains([]string{"pkg/connmgr", "pkg/proxy", "pkg/handler", "pkg/zurl"}, inner) {
					t.Errorf("a test of %s imports %s: processes meet in pkg/frame only", name, inner)
				}
			}
		}
	}
}

func checkModule(t *testing.T, name, imported string) {
	t.Helper()
	for _, m := range modules {
		if imported != m.module && !strings.HasPrefix(imported, m.module+"/") {
			continue
		}
		for _, in := range m.in {
			prefix, all := strings.CutSuffix(in, "...")
			if name == in || all && strings.HasPrefix(name, prefix) {
				return
			}
		}
		t.Errorf("%s imports %s, which belongs in %s: %s", name, imported, strings.Join(m.in, ", "), m.why)
		return
	}
	t.Errorf("%s imports %s, a module that is not on the list in pkg/imports_test.go", name, imported)
}

// Package names are words of the domain.
func TestNames(t *testing.T) {
	for _, p := range packages {
		switch path.Base(p.path) {
		case "util", "utils", "common", "helpers", "types", "misc":
			t.Errorf("%s says nothing about what is in it", p.path)
		}
	}
}

// Whoever looks for a package finds it in the overview.
func TestArchitectureNamesPackages(t *testing.T) {
	text, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("\n## Packages\n"))
	for _, p := range packages {
		if name := "`" + path.Base(p.path) + "`"; p.path != "pkg/bus/bustest" && !bytes.Contains(text, []byte(name)) {
			t.Errorf("docs/architecture.md has no place for %s", p.path)
		}
	}
}
