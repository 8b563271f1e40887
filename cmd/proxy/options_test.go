package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/proxy"
)

// Each default is written twice, for the file and for the package. Those of the
// origin are zero in the package and stand for the same.
func TestDefaults(t *testing.T) {
	c, err := config.Load(config.Source{Lookup: []string{"none"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := options(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := proxy.DefaultOptions()
	want.RoutesFile, want.KeyDir = "routes", "."
	ignore := cmp.Options{
		cmpopts.IgnoreUnexported(proxy.Options{}), cmpopts.IgnoreTypes(origin.Options{}), cmpopts.EquateEmpty(),
	}
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Error(diff)
	}
}

func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	file := filepath.Join(t.TempDir(), "x.conf")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "routes"), []byte("a.example 10.0.0.1:80\nbroken\n* test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code = cli.Run(program(), append(args, "--config", file), nil, &out, &errs)
	return code, out.String(), errs.String()
}

// What is wrong on the command line ends the program, as nobody can mend it later.
func TestWrongRoute(t *testing.T) {
	for line, want := range map[string]string{
		"":          "proxy: --route: there is no route in it: want CONDITION TARGET, such as \"* localhost:8000\"\n",
		"# nothing": "proxy: --route: there is no route in it: want CONDITION TARGET, such as \"* localhost:8000\"\n",
		"* nowhere": "proxy: --route: target bad format: want HOST:PORT or test, not \"nowhere\"\n",
	} {
		for _, args := range [][]string{{"checkconfig", "--route", line}, {"--route", line, "--set", "global.rundir=" + t.TempDir()}} {
			if code, _, errs := run(t, args...); code != 2 || errs != want {
				t.Errorf("%q: got %d, %q, want %q", args, code, errs, want)
			}
		}
	}
}

func TestRouteExplain(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"by host", []string{"http://a.example/x"}, ":1: a.example 10.0.0.1:80\n"},
		{"any host", []string{"wss://b.example"}, ":3: * test\n"},
		{"given", []string{"http://a.example/", "--route", "* 1.2.3.4:5"}, "<route>:1: * 1.2.3.4:5\n"},
	} {
		code, out, errs := run(t, append([]string{"route", "explain"}, tc.args...)...)
		if code != 0 || !strings.Contains(out, tc.want) {
			t.Errorf("%s: got %d %s%s, want %q", tc.name, code, out, errs, tc.want)
		}
	}
	for _, url := range []string{"example", "ftp://a.example/", "http://"} {
		if code, _, errs := run(t, "route", "explain", url); code != 2 || errs == "" {
			t.Errorf("%s: got %d %s", url, code, errs)
		}
	}
}

func TestCheck(t *testing.T) {
	code, out, _ := run(t, "checkconfig")
	if code != 0 || !strings.Contains(out, "routes:2: must specify condition and at least one target") {
		t.Errorf("got %d %s", code, out)
	}
	for setting, key := range map[string]string{
		"proxy.x_forwarded_for=truncate:x": "proxy.x_forwarded_for",
		"proxy.sig_key=base64:%%":          "proxy.sig_key: ",
		"proxy.upstream_key=file:/none":    "proxy.upstream_key: ",
	} {
		if code, _, errs := run(t, "checkconfig", "--set", setting); code != 2 || !strings.Contains(errs, key) {
			t.Errorf("%s: got %d %s", setting, code, errs)
		}
	}
}
