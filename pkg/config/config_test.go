package config

import (
	"errors"
	"flag"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/test/need"
)

var update = flag.Bool("update", false, "write docs/configuration.md and deploy/holdfast.conf anew")

// load reads text as a file named holdfast.conf.
func load(t *testing.T, text string, src Source) (*Config, error) {
	t.Helper()
	src.File = filepath.Join(t.TempDir(), "holdfast.conf")
	if err := os.WriteFile(src.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(src)
}

func mustLoad(t *testing.T, text string, src Source) *Config {
	t.Helper()
	c, err := load(t, text, src)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func setting(t *testing.T, c *Config, name string) Setting {
	t.Helper()
	for _, s := range c.Settings() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no setting %s", name)
	return Setting{}
}

func notices(c *Config) string {
	var lines []string
	for _, n := range c.Notices {
		lines = append(lines, n.Kind.String()+": "+n.String())
	}
	return strings.Join(lines, "\n")
}

func TestDefaults(t *testing.T) {
	c, err := Load(Source{Lookup: []string{"testdata/none"}, Name: "proxy.1"})
	if err != nil {
		t.Fatal(err)
	}
	if c.File != "" || len(c.Notices) > 0 {
		t.Errorf("got file %q, notices %q, want none", c.File, notices(c))
	}
	for name, want := range map[string]string{
		"runner.http_port":          "7999",
		"runner.services":           "connmgr,proxy,handler,zurl",
		"handler.message_rate":      "-1",
		"handler.message_wait":      "5000",
		"handler.stats_spec":        "ipc://run/pushpin-stats",
		"handler.ipc_file_mode":     "",
		"admin.proxy":               "ipc://run/pushpin-proxy.1-admin",
		"runner.client_buffer_size": "8K",
		"runner.log_level":          "2",
		"zurl.max_body":             "1M",
	} {
		if got := setting(t, c, name); got.Value != want || got.Origin != "" {
			t.Errorf("%s: got %q from %q, want %q", name, got.Value, got.Origin, want)
		}
	}
}

// Every key has a name, a meaning, and a default that is right, and the same
// variable of the environment cannot mean two keys.
func TestSchema(t *testing.T) {
	seen := make(map[string]string)
	for _, s := range schema() {
		if s.doc == "" {
			t.Errorf("[%s] has no doc", s.name)
		}
		for _, f := range s.fields {
			if f.key == "" || f.tag.Get("doc") == "" {
				t.Errorf("[%s] field %v: no key or no doc", s.name, f.index)
			}
			if other, ok := seen[f.env()]; ok {
				t.Errorf("%s sets %s and %s", f.env(), other, f.name())
			}
			seen[f.env()] = f.name()
			if _, ok := whyNotActedOn(f.name()); ok {
				t.Errorf("%s is both a key and without effect", f.name())
			}
			if f.typ == reflect.TypeFor[time.Duration]() && f.tag.Get("unit") == "" {
				t.Errorf("%s has no unit", f.name())
			}
		}
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("more.conf", "[proxy]\nsig_iss=include\nlog_from=true\n[global]\ninclude=nowhere\n[handler]\nmessage_rate=1\n[zurl]\ntimeout=1")
	file := write("main.conf", "[global]\ninclude=more.conf\n[proxy]\nsig_iss=main\n[handler]\nmessage_rate=2\n[zurl]\ntimeout=2")
	c, err := Load(Source{
		File: file,
		Env:  []string{"HOLDFAST_HANDLER_MESSAGE_RATE=3", "HOLDFAST_ZURL_TIMEOUT=3", "PATH=/bin", "HOLDFAST_CONFIG=/nowhere"},
		Set:  []string{"zurl.timeout=4", "zurl.timeout=5s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	more := filepath.Join(dir, "more.conf")
	for _, want := range []Setting{
		{Name: "proxy.log_from", Value: "true", Origin: more + ":3"},
		{Name: "proxy.sig_iss", Value: "main", Origin: file + ":4"},
		{Name: "handler.message_rate", Value: "3", Origin: "environment"},
		{Name: "zurl.timeout", Value: "5", Origin: "command line"},
	} {
		if got := setting(t, c, want.Name); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if len(c.Notices) != 0 {
		t.Errorf("got notices %s", notices(c))
	}
}

func TestLookup(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a.conf"), filepath.Join(dir, "b.conf")
	if err := os.WriteFile(second, []byte("[proxy]\nsig_iss=b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := Source{Lookup: []string{first, dir, second}}
	c, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	if c.File != second || c.Proxy.SigIss != "b" {
		t.Errorf("got file %q, want %q", c.File, second)
	}
	src.Env = []string{"HOLDFAST_CONFIG=" + first}
	if _, err = Load(src); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), first) {
		t.Errorf("got %v, want an error that names %s", err, first)
	}
}

func TestFormat(t *testing.T) {
	c := mustLoad(t, "\ufeff; comment\r\n [ Proxy ] ; section\r\n"+
		"  sig_iss = a b \r\n"+ // blanks
		"sig_key=\"x,y;z \\\"q\\\"\" ; comment\r\n"+
		"upstream_key=a,b\r\n"+ // Pushpin reads this as empty
		"x_forwarded_for= truncate:1 ,, append ,\r\n"+
		"orig_headers_need_mark=\"A, B\" , C\r\n"+
		"cdn_loop=\r\n"+
		"debug=\r\n"+
		"routesfile=http://h/#a\r\n"+
		"[handler]\nmessage_wait=1.5s\nid_cache_ttl=5m\nipc_file_mode=770\npush_in_http_max_body_size=2M\nmessage_rate=",
		Source{})
	if c.Proxy.SigIss != "a b" || c.Proxy.SigKey != `x,y;z "q"` || c.Proxy.UpstreamKey != "a,b" || c.Proxy.RoutesFile != "http://h/#a" {
		t.Errorf("got %+v", c.Proxy)
	}
	if diff := cmp.Diff([]string{"truncate:1", "append"}, c.Proxy.XForwardedFor); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"A, B", "C"}, c.Proxy.OrigHeadersNeedMark); diff != "" {
		t.Error(diff)
	}
	if c.Handler.MessageWait != 1500*time.Millisecond || c.Handler.IDCacheTTL != 5*time.Minute ||
		c.Handler.IPCFileMode != (Mode{Perm: 0o770, Set: true}) || c.Handler.PushInHTTPMaxBodySize != 2<<20 || c.Handler.MessageRate != -1 {
		t.Errorf("got %+v", c.Handler)
	}
	if len(c.Notices) != 0 {
		t.Errorf("got notices %s", notices(c))
	}
}

func TestVariablesAndOffset(t *testing.T) {
	c := mustLoad(t, `
[global]
libdir=/l
rundir={libdir}/r-{ipc_prefix}
ipc_prefix=p7-
port_offset=70
[runner]
http_port=8000
local_ports={rundir}/a,{rundir}/b
[handler]
prometheus_port=9000
push_in_spec=tcp://[::1]:5560
push_in_sub_specs=tcp://*:5562,tcp://*:*,ipc://{rundir}/{ipc_prefix}s
push_in_http_port=5561
stats_spec=tcp://127.0.0.1:5564
`, Source{})
	got := map[string]any{
		"rundir": c.Global.RunDir, "local": c.Runner.LocalPorts, "http": c.Runner.HTTPPort, "prom": c.Handler.PrometheusPort,
		"push": c.Handler.PushInSpec, "sub": c.Handler.PushInSubSpecs, "api": c.Handler.PushInHTTPPort, "stats": c.Handler.StatsSpec,
	}
	want := map[string]any{
		"rundir": "/l/r-p7-", "local": []string{"/l/r-p7-/a", "/l/r-p7-/b"}, "http": []string{"8000"}, "prom": "9000",
		"push": "tcp://[::1]:5630", "sub": []string{"tcp://*:5632", "tcp://*:*", "ipc:///l/r-p7-/p7-s"}, "api": 5631, "stats": "tcp://127.0.0.1:5634",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNotices(t *testing.T) {
	c := mustLoad(t, `[runner]
services=connmgr,mongrel2,m2adapter,handler,gateway
rundir=/old
[proxy]
debgu=true
workers=4
sig_key=a;b
sig_iss=a\b
sig_key=changeme
[handler]
push_in_sub_spec=tcp://*:9
[colors]
sky=blue
`, Source{Env: []string{"HOLDFAST_PROXY_DEBUGG=1", "HOLDFAST_X=1"}})
	got := strings.ReplaceAll(notices(c), c.Dir+"/", "")
	want := `unknown: holdfast.conf:5: proxy.debgu: there is no such setting; did you mean proxy.debug?
unknown: holdfast.conf:13: colors.sky: there is no such setting
unknown: environment: HOLDFAST_PROXY_DEBUGG: there is no such setting; did you mean proxy.debug?
unknown: environment: HOLDFAST_X: there is no such setting
unknown: holdfast.conf:2: runner.services: "gateway" is not a process: want connmgr, proxy, handler, zurl
no effect: holdfast.conf:6: proxy.workers: one proxy uses all processors; proxy.threads limits them
no effect: holdfast.conf:2: runner.services: mongrel2 is not part of Holdfast; connmgr serves the client ports
no effect: holdfast.conf:2: runner.services: m2adapter is not part of Holdfast; connmgr serves the client ports
renamed: holdfast.conf:3: runner.rundir: is now called global.rundir
renamed: holdfast.conf:11: handler.push_in_sub_spec: is now called handler.push_in_sub_specs
reads otherwise: holdfast.conf:7: proxy.sig_key: the semicolon is read as part of the value; Pushpin would cut the value there. Put the value in quotes if that is what you mean, or a blank before the semicolon if it begins a comment
reads otherwise: holdfast.conf:8: proxy.sig_iss: the backslash is read as it stands; Pushpin would take it for an escape. Put the value in quotes and write \\ to have the same in both
repeated: holdfast.conf:9: proxy.sig_key: is set again; line 7 no longer counts
unsafe: holdfast.conf:9: proxy.sig_key: is the key of Pushpin's example file, which everybody knows`
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"connmgr", "handler", "zurl"}, c.Runner.Services); diff != "" {
		t.Error(diff)
	}
	if c.Global.RunDir != "/old" || c.Proxy.SigIss != `a\b` || c.Handler.PushInSubSpecs[0] != "tcp://*:9" || len(c.Handler.PushInSubSpecs) != 1 {
		t.Errorf("got %+v, %+v, %+v", c.Global, c.Proxy, c.Handler)
	}
}

func TestOldListNameAdds(t *testing.T) {
	c := mustLoad(t, "[handler]\npush_in_sub_spec=b\npush_in_sub_specs=a\n", Source{})
	if diff := cmp.Diff([]string{"a", "b"}, c.Handler.PushInSubSpecs); diff != "" {
		t.Error(diff)
	}
}

// A configuration of Debian's Pushpin loads with nothing but notices.
func TestPushpinConf(t *testing.T) {
	abs, err := filepath.Abs("testdata/debian")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Load(Source{File: "testdata/debian/pushpin.conf", Set: []string{"global.libdir=" + abs}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Notices {
		if n.Kind != NotActedOn && n.Kind != Unsafe {
			t.Errorf("got notice %v: %v", n.Kind, n)
		}
	}
	if len(c.Notices) < 30 {
		t.Errorf("got %d notices, want one for each key without effect:\n%s", len(c.Notices), notices(c))
	}
	if diff := cmp.Diff([]string{"connmgr", "proxy", "handler", "zurl"}, c.Runner.Services); diff != "" {
		t.Error(diff)
	}
	if c.Handler.MessageRate != 2500 || c.Handler.StatsSpec != "ipc:///var/run/pushpin/pushpin-stats" || c.Path(c.Proxy.RoutesFile) != "testdata/debian/routes" {
		t.Errorf("got %+v, %+v", c.Handler, c.Proxy)
	}
}

// The file that the Debian package installs, where it is installed.
func TestInstalledPushpinConf(t *testing.T) {
	const file = "/etc/pushpin/pushpin.conf"
	if _, err := os.Stat(file); err != nil {
		need.Missing(t, "the package pushpin is not installed, so its file is read only as it is in testdata: %v", err)
	}
	c, err := Load(Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Notices {
		if n.Kind != NotActedOn && n.Kind != Unsafe {
			t.Errorf("got notice %v: %v", n.Kind, n)
		}
	}
}

// internal.conf need not exist: it names sockets that we do not have.
func TestInternalConfMayBeMissing(t *testing.T) {
	for _, include := range []string{"internal.conf", "{libdir}/internal.conf", "/nowhere/internal.conf"} {
		mustLoad(t, "[global]\ninclude="+include+"\nlibdir=/nowhere\n", Source{})
	}
}

// Each file in testdata/bad says on its first lines what must be wrong with it.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.conf")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, m := range regexp.MustCompile(`(?m)^# want: (.*)$`).FindAllStringSubmatch(string(text), -1) {
				want = append(want, "testdata/bad/"+m[1])
			}
			c, err := Load(Source{File: file})
			if err == nil {
				t.Fatalf("loaded, want %q", want)
			}
			if c != nil {
				t.Error("got a configuration beside the error")
			}
			if diff := cmp.Diff(strings.Join(want, "\n"), err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHugeFile(t *testing.T) {
	largest := strings.Repeat("#\n", maxFileBytes/2)
	if _, err := load(t, largest, Source{}); err != nil {
		t.Errorf("the largest file: %v", err)
	}
	// What is read of a longer one is enough to refuse it, and no more.
	file := filepath.Join(t.TempDir(), "a.conf")
	if err := os.WriteFile(file, []byte(largest+"#"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := file + ": is larger than 1048576 bytes, so it is not a configuration file"
	for size := int64(maxFileBytes + 1); size <= 8<<20; size *= 2 {
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Source{File: file}); err == nil || err.Error() != want {
			t.Errorf("%d bytes: got %v, want %q", size, err, want)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for _, tc := range []struct{ name, set, env, want string }{
		{"no value", "proxy.debug", "", `command line: "proxy.debug": want section.key=value`},
		{"unknown", "proxy.debugg=1", "", "command line: proxy.debugg: there is no such setting; did you mean proxy.debug?"},
		{"no effect", "runner.m2sh_bin=x", "", "command line: runner.m2sh_bin: has no effect: Mongrel2 and m2adapter are not part of Holdfast; connmgr serves the client ports"},
		{"wrong", "proxy.debug=x", "", `command line: proxy.debug: "x" is neither true nor false`},
		{"quotes", `proxy.sig_key="x`, "", "command line: proxy.sig_key: ends inside quotes"},
		{"environment", "", "HOLDFAST_PROXY_DEBUG=x", `environment: HOLDFAST_PROXY_DEBUG: "x" is neither true nor false`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			src := Source{}
			if tc.set != "" {
				src.Set = []string{tc.set}
			}
			if tc.env != "" {
				src.Env = []string{tc.env}
			}
			_, err := load(t, "", src)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestListeners(t *testing.T) {
	c := mustLoad(t, "[runner]\nhttp_port=80,127.0.0.1:81,[::1]:82\nhttps_ports=443,[::]:444\nlocal_ports=/s,/t?mode=660&user=u&group=g\n", Source{})
	got, err := c.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	want := []Listener{
		{Network: "tcp", Addr: "0.0.0.0:80"},
		{Network: "tcp", Addr: "127.0.0.1:81"},
		{Network: "tcp", Addr: "[::1]:82"},
		{Network: "tcp", Addr: "0.0.0.0:443", TLS: true},
		{Network: "tcp", Addr: "[::]:444", TLS: true},
		{Network: "unix", Addr: "/s"},
		{Network: "unix", Addr: "/t", Mode: Mode{Perm: 0o660, Set: true}, User: "u", Group: "g"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseListen(t *testing.T) {
	for in, want := range map[string]Listener{
		"8000": {Network: "tcp", Addr: "0.0.0.0:8000"},
		"[::]:8000,stream,tls,default-cert=default_8000": {Network: "tcp", Addr: "[::]:8000", TLS: true},
		"/s,local,stream,mode=600,user=u":                {Network: "unix", Addr: "/s", Mode: Mode{Perm: 0o600, Set: true}, User: "u"},
	} {
		got, err := ParseListen(in)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"8000,req":            `listen "8000,req": listeners of the kind req are not part of Holdfast`,
		"8000,default-cert=a": `listen "8000,default-cert=a": the default certificate of this port is default_8000`,
		"8000,fast":           `listen "8000,fast": unknown word "fast"`,
		",local":              `listen ",local": a local listener is a path, without TLS`,
		"/s,local,mode=9":     `listen "/s,local,mode=9": "9" is not a file mode: want an octal number up to 777`,
		"::1:80":              `listen: "::1:80": "::1" is not an IP address (IPv6 in brackets)`,
		":80":                 `listen: ":80" has no address before the colon`,
	} {
		if _, err := ParseListen(in); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
	}
}

func TestLogLevels(t *testing.T) {
	c := mustLoad(t, "[runner]\nlog_level=warn, pushpin-proxy:trace, zurl:9\n", Source{})
	l := c.Runner.LogLevel
	if l.For("handler") != LogWarn || l.For("proxy") != LogTrace || l.For("zurl") != LogTrace {
		t.Errorf("got %v", l)
	}
	if got := l.String(); got != "1,proxy:4,zurl:4" {
		t.Errorf("got %s", got)
	}
	if _, err := ParseLogLevels([]string{"1", "2"}); err == nil {
		t.Error("took two levels for everything")
	}
}

// docs/configuration.md and deploy/holdfast.conf say what the struct tags say.
// make docs writes them anew.
func TestGenerated(t *testing.T) {
	for file, want := range map[string]string{"../../docs/configuration.md": Reference(), "../../deploy/holdfast.conf": Example()} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is out of date: run make docs", file)
		}
	}
}

// The example changes nothing, neither as it is nor with every line in effect.
func TestExample(t *testing.T) {
	plain := mustLoad(t, "", Source{})
	live := regexp.MustCompile(`(?m)^#([a-z0-9_]+=)`).ReplaceAllString(Example(), "$1")
	for name, text := range map[string]string{"as it is": Example(), "in effect": live} {
		c := mustLoad(t, text, Source{})
		if len(c.Notices) > 0 {
			t.Errorf("%s: got notices %s", name, notices(c))
		}
		want, got := plain.Settings(), c.Settings()
		for i := range got {
			if got[i].Value != want[i].Value {
				t.Errorf("%s: %s: got %q, want %q", name, got[i].Name, got[i].Value, want[i].Value)
			}
			if name == "in effect" && got[i].Origin == "" {
				t.Errorf("%s is missing in the example", got[i].Name)
			}
		}
	}
}

// What a value means does not depend on where it is written, quoting is enough to
// write any value, and no input does harm.
func FuzzParseValue(f *testing.F) {
	for _, s := range []string{"", "a", `"a,b" , c`, `a;b ; c`, `"\\\""`, `"`, `"\`, "a\\b", `,,`, `""`, ` "x" y`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, _, err := parseValue(s); err != nil && (v.text != "" || v.items != nil) {
			t.Errorf("%q: got %+v beside %v", s, v, err)
		}
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
		v, hints, err := parseValue(quoted)
		if err != nil || len(hints) > 0 || v.text != s || len(v.items) != 1 || v.items[0] != s {
			t.Errorf("%q in quotes: got %+v, %q, %v", s, v, hints, err)
		}
	})
}

func FuzzParseListen(f *testing.F) {
	for _, in := range []string{"7999", "127.0.0.1:443,tls", "[::1]:1,stream", "run/x,local,mode=0660,user=a,group=b", "443,tls,default-cert=default_443"} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		l, err := ParseListen(in)
		if err != nil {
			return
		}
		switch l.Network {
		case "tcp":
			if _, _, err := net.SplitHostPort(l.Addr); err != nil {
				t.Fatal(err)
			}
		case "unix":
			if l.Addr == "" || l.TLS {
				t.Fatalf("got %+v", l)
			}
		default:
			t.Fatalf("got %+v", l)
		}
	})
}

func FuzzParseINI(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.conf", "testdata/debian/*.conf"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, notices, err := parseINI("f", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || entries != nil || notices != nil {
				t.Errorf("got %v, %v, %v", entries, notices, err)
			}
			return
		}
		for _, e := range entries {
			if e.section == "" || e.key == "" || e.value.line < 1 {
				t.Errorf("got %+v", e)
			}
		}
	})
}

// Keys without effect are gathered by reason.
func TestUnused(t *testing.T) {
	c, err := Load(Source{File: "testdata/debian/pushpin.conf"})
	if err != nil {
		t.Fatal(err)
	}
	all := c.Unused(nil)
	seen := make(map[string]bool)
	for _, u := range all {
		if seen[u.Reason] || len(u.Keys) == 0 {
			t.Errorf("%+v", u)
		}
		seen[u.Reason] = true
	}
	if len(all) < 2 || len(all) > 8 {
		t.Errorf("%d reasons: %v", len(all), all)
	}
	if got := c.Unused(func(n Notice) bool { return n.Key == "condure_bin" }); len(got) != 1 || got[0].String() != "runner.condure_bin: the supervisor starts the programs that it was installed with" {
		t.Errorf("got %v", got)
	}
}

func TestUnusedBrief(t *testing.T) {
	u := Unused{Keys: []string{"a", "b", "c", "d"}, Reason: "why"}
	if got := u.Brief(); got != "a b c d: why" {
		t.Errorf("got %q", got)
	}
	u.Keys = append(u.Keys, "e")
	if got := u.Brief(); got != "a b c and 2 more: why" || len(u.Keys) != 5 || u.Keys[3] != "d" {
		t.Errorf("got %q, %v", got, u.Keys)
	}
}
