package route

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseLine(t *testing.T) {
	type props = []prop
	for _, tt := range []struct {
		in   string
		want []section
		err  string
	}{
		{in: ""},
		{in: "   # a b"},
		{in: "a b", want: []section{{"a", nil}, {"b", nil}}},
		{in: " a  b #c", want: []section{{"a", nil}, {"b", nil}}},
		{in: "a b#c d", want: []section{{"a", nil}, {"b", nil}}},
		{in: "a\tb c", want: []section{{"a\tb", nil}, {"c", nil}}},
		{in: "a,x,y=1,x=z b,ssl", want: []section{{"a", props{{"x", ""}, {"y", "1"}, {"x", "z"}}}, {"b", props{{"ssl", ""}}}}},
		{in: "id=x,debug t", want: []section{{"", props{{"id", "x"}, {"debug", ""}}}, {"t", nil}}},
		{in: ",id=x t", want: []section{{"", props{{"id", "x"}}}, {"t", nil}}},
		{in: `*,header="X-A: a, b" t`, want: []section{{"*", props{{"header", "X-A: a, b"}}}, {"t", nil}}},
		{in: `*,"header=X-A: a, b" t`, want: []section{{"*", props{{"header", "X-A: a, b"}}}, {"t", nil}}},
		{in: `a"b # "c,k="\\ \"" t`, want: []section{{"ab # c", props{{"k", `\ "`}}}, {"t", nil}}},
		{in: `a\b t`, want: []section{{`a\b`, nil}, {"t", nil}}},
		{in: `"" t`, want: []section{{"", nil}, {"t", nil}}},
		{in: "a=b=c", want: []section{{"", props{{"a", "b=c"}}}}},
		{in: `a "b\`, err: "unterminated escape sequence"},
		{in: `a "b\n"`, err: "unexpected escape character: n"},
		{in: `a "b`, err: "unterminated quoted section"},
		{in: "a, b", err: "expecting prop"},
		{in: "a,,x b", err: "expecting prop"},
		{in: "a,", err: "expecting prop"},
		{in: "a,=x b", err: "empty prop name"},
		{in: "=x b", err: "empty prop name"},
		{in: `a,"" b`, err: "empty prop name"},
	} {
		got, err := parseLine(tt.in)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q: got error %v, want %q", tt.in, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
		}
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(section{}, prop{}), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%q: -want +got:\n%s", tt.in, d)
		}
	}
}

func one(t *testing.T, line string) *Route {
	t.Helper()
	table, warnings := ParseLines([]string{line}, nil)
	if len(warnings) > 0 || table.Len() != 1 {
		t.Fatalf("%q: %d routes, warnings %q", line, table.Len(), warnings)
	}
	return table.Routes()[0]
}

func TestRouteOptions(t *testing.T) {
	const line = `Example.COM:80,proto=http,ssl=yes,path_beg=/a,id=i,sig_iss=is,sig_key=k,prefix=p-,orig_headers,as_host=h:81,path_rem=2,` +
		`replace_beg=/z,debug,aco,jsonp_mode=basic,jsonp_cb=cb,jsonp_body=b,jsonp_defcb=d,jsonp_defmethod=PUT,session,sockjs=/s,sockjs_as_path=/t,` +
		`header=A:1,"header=B:  x, y",header=C:,no_grip,log_level=1,wat=2 o1:81,ssl,insecure,trust_connect_host,host=u:8,untrusted,over_http,one_event,sub=s1,sub=s2,` +
		`client_cert=c.pem,client_key=k.pem,ipc_file_mode=777,huh [::1]:82 test zhttp/tcp://127.0.0.1:10000 zhttpreq/ipc://x`
	got := one(t, line)
	want := &Route{
		File: "<route>", Line: 1, Domain: "example.com", Proto: HTTP, TLS: WithTLS, PathBeg: "/a", ID: "i", Named: true, SigIss: "is", SigKey: "k",
		HasSigIss: true, HasSigKey: true, Prefix: "p-", OrigHeaders: true, AsHost: "h:81", PathRem: 2, ReplaceBeg: "/z", HasReplaceBeg: true, Debug: true,
		AutoCrossOrigin: true, JSONP: JSONP{Basic: true, Callback: "cb", Body: "b", DefaultCall: "d", DefaultMethod: "PUT"}, Session: true, SockJS: "/s",
		SockJSAsPath: "/t", Headers: []Header{{"A", "1"}, {"B", "x, y"}, {"C", ""}}, NoGrip: true, LogLevel: 1, HasLogLevel: true,
		Targets: []Target{
			{
				Name: "o1:81", Host: "o1", Port: 81, TLS: true, Insecure: true, TrustConnectHost: true, URIHost: "u:8", Untrusted: true, OverHTTP: true,
				OneEvent: true, Subs: []string{"s1", "s2"}, ClientCert: "c.pem", ClientKey: "k.pem",
			},
			{Name: "[::1]:82", Host: "::1", Port: 82},
			{Name: "test", Kind: TargetTest},
			{Name: "zhttp/tcp://127.0.0.1:10000", Kind: TargetZHTTP},
			{Name: "zhttpreq/ipc://x", Kind: TargetZHTTP},
		},
		Unsupported: []string{
			"session", `unknown option "wat"`, "ipc_file_mode", `unknown option "huh" of target o1:81`,
			"target zhttp/tcp://127.0.0.1:10000", "target zhttpreq/ipc://x",
		},
	}
	if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Route{})); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	again := one(t, got.String())
	if !reflect.DeepEqual(got, again) {
		t.Errorf("printed as %s, which reads differently", got)
	}
}

func TestRouteDefaults(t *testing.T) {
	r := one(t, "* t:1")
	if r.ID != "*,*,*,*" || r.Named || r.JSONP != (JSONP{Callback: "callback", DefaultMethod: "GET"}) {
		t.Errorf("got %+v", r)
	}
	for line, id := range map[string]string{
		"h,proto=ws,ssl=yes,path_beg=/x t:1": "h,ws,ssl,/x",
		"h,ssl=no t:1":                       "h,*,no-ssl,*",
		"h,id= t:1":                          "h,*,*,*",
	} {
		if r := one(t, line); r.ID != id || r.Named {
			t.Errorf("%q: id %q, named %v, want %q derived", line, r.ID, r.Named, id)
		}
	}
	if r := one(t, "*,path_rem=x,log_level=y,id=1,id=2,jsonp_mode=basic t:1"); r.PathRem != 0 || r.LogLevel != 0 || !r.HasLogLevel || r.ID != "2" || r.JSONP.DefaultMethod != "POST" {
		t.Errorf("got %+v", r)
	}
}

func TestWarnings(t *testing.T) {
	const file = `# comment
* o:1
*
h,ssl=maybe o:1
h,proto=x o:1
h,path_beg= o:1
h,jsonp_mode=x o:1
h,header=x o:1
h,header=:x o:1
h,"header=a b:x" o:1
h o
h o:0
h o:65536
h o:x
h http://o:1
h ::1:80
h o:1 bad
h, o:1
* o:2
,id=a o:1
id=a o:2
h,refuse-me o:1
`
	table, warnings, err := Parse("routes", strings.NewReader(file), func(r *Route) error {
		if len(r.Unsupported) > 0 {
			return errors.New("refused")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"routes:3: must specify condition and at least one target",
		"routes:4: ssl must be set to 'yes' or 'no'",
		"routes:5: proto must be set to 'http' or 'ws'",
		"routes:6: path_beg cannot be empty",
		"routes:7: jsonp_mode must be set to 'basic' or 'extended'",
		"routes:8: header must use format 'name:value'",
		"routes:9: header must use format 'name:value'",
		"routes:10: header must use format 'name:value'",
		`routes:11: target bad format: want HOST:PORT or test, not "o"`,
		`routes:12: target invalid port: want 1 to 65535, not "0"`,
		`routes:13: target invalid port: want 1 to 65535, not "65536"`,
		`routes:14: target invalid port: want 1 to 65535, not "x"`,
		`routes:15: target bad format: want HOST:PORT or test, not "http://o:1"`,
		`routes:16: target bad format: want HOST:PORT or test, not "::1:80"`,
		`routes:17: target bad format: want HOST:PORT or test, not "bad"`,
		"routes:18: expecting prop",
		"routes:19 skipping duplicate condition",
		"routes:22: refused",
	}
	if d := cmp.Diff(want, warnings); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if table.Len() != 3 {
		t.Errorf("%d routes, want 3", table.Len())
	}
	if r, shared := table.ByID("a"); r != nil || !shared {
		t.Errorf("shared id: got %v, %v", r, shared)
	}
	if r, shared := table.ByID("*,*,*,*"); r == nil || shared {
		t.Errorf("derived id: got %v, %v", r, shared)
	}
	if r, shared := table.ByID("x"); r != nil || shared {
		t.Errorf("unknown id: got %v, %v", r, shared)
	}
	if _, _, err := Parse("routes", strings.NewReader(strings.Repeat("x", 2*maxLine)), nil); err == nil {
		t.Error("no error for a line that never ends")
	}
}

func TestMatch(t *testing.T) {
	const file = `
* any:1
*,path_beg=/a any-a:1
*,path_beg=/a,ssl=yes any-a-ssl:1
*,path_beg=/abc any-abc:1
*,proto=ws any-ws:1
h,path_beg=/a h-a:1
h,proto=ws,path_beg=/a h-ws:1
H2.example.com h2:1
::1 v6:1
tls,ssl=yes tls:1
tls,ssl=no notls:1
,id=only only:1
`
	table, warnings, err := Parse("routes", strings.NewReader(file), nil)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	for _, tt := range []struct {
		q    Request
		want string
	}{
		{Request{Host: "x", Path: "/"}, "any"},
		{Request{Host: "", Path: "/"}, "any"},
		{Request{Host: "*", Path: "/"}, "any"},
		{Request{Host: "x", Path: "/ab"}, "any-a"},
		{Request{Host: "x", Path: "/abcd"}, "any-abc"},
		{Request{Host: "x", Path: "/abcd", TLS: true}, "any-abc"},
		{Request{Host: "x", Path: "/ab", TLS: true}, "any-a-ssl"},
		{Request{Host: "x", Path: "/?/abc"}, "any"},
		{Request{Host: "x", Path: "/abc", WebSocket: true}, "any-ws"},
		{Request{Host: "h:80", Path: "/a"}, "h-a"},
		{Request{Host: "H", Path: "/a", WebSocket: true}, "h-ws"},
		{Request{Host: "h", Path: "/b"}, ""},
		{Request{Host: "h2.EXAMPLE.com.", Path: "/"}, "h2"},
		{Request{Host: "[::1]:8080", Path: "/"}, "v6"},
		{Request{Host: "tls", Path: "/", TLS: true}, "tls"},
		{Request{Host: "tls", Path: "/"}, "notls"},
	} {
		got := ""
		if r := table.Match(tt.q); r != nil {
			got = r.Targets[0].Host
		}
		if got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.q, got, tt.want)
		}
	}
}

// Which of several matching routes wins must not depend on the order of the
// others.
func TestMatchDoesNotDependOnOrder(t *testing.T) {
	lines := []string{"*,ssl=yes a:1", "*,path_beg=/p b:1", "*,path_beg=/p/q c:1", "*,path_beg=/p,ssl=yes d:1", "*,proto=http e:1"}
	q := Request{Host: "x", Path: "/p/q/r", TLS: true}
	var permute func(k int)
	permute = func(k int) {
		if k == len(lines) {
			table, _ := ParseLines(lines, nil)
			if got := table.Match(q).Targets[0].Host; got != "e" {
				t.Errorf("%q: got %s, want e", lines, got)
			}
			q := q
			q.WebSocket = true
			if got := table.Match(q).Targets[0].Host; got != "c" {
				t.Errorf("%q, WebSocket: got %s, want c", lines, got)
			}
		}
		for i := k; i < len(lines); i++ {
			lines[k], lines[i] = lines[i], lines[k]
			permute(k + 1)
			lines[k], lines[i] = lines[i], lines[k]
		}
	}
	permute(0)
}

func TestExplain(t *testing.T) {
	table, _, err := Parse("routes", strings.NewReader(`* any:1
h h:1
h,path_beg=/a a:1
h,path_beg=/a,ssl=yes tls:1
h,path_beg=/b b:1
h,proto=ws ws:1
g g:1
,id=x x:1
h,path_beg=/a,id=y,ssl=no y:1
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = `routes:9: h,path_beg=/a,id=y,ssl=no y:1
not routes:1: * any:1: there are routes for h, so routes for any host are not looked at
not routes:2: h h:1: it matches, but the chosen one has a longer path_beg
not routes:3: h,path_beg=/a a:1: it matches, but the chosen one asks for TLS or none
not routes:4: h,path_beg=/a,ssl=yes tls:1: ssl=yes, but the client came without TLS
not routes:5: h,path_beg=/b b:1: the path does not begin with its path_beg
not routes:6: h,proto=ws ws:1: proto=ws, but the request is plain HTTP
not routes:7: g g:1: it is for another host
not routes:8: ,id=x x:1: it has no domain and is reached by its id only
`
	if got := table.Explain(Request{Host: "h", Path: "/a/b"}).String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	e := table.Explain(Request{Host: "g", Path: "/a/b", WebSocket: true})
	if e.Route == nil || e.Route.Line != 7 {
		t.Errorf("got %s", e)
	}
	empty, _ := ParseLines([]string{"h,path_beg=/x a:1"}, nil)
	if got := empty.Explain(Request{Host: "h", Path: "/"}).String(); !strings.HasPrefix(got, "no route (looked at the routes for h)\n") {
		t.Errorf("got %s", got)
	}
}

// FuzzLine checks that reading never panics and that a line which was read is
// the same when it is printed and read again.
func FuzzLine(f *testing.F) {
	f.Add(`*,header="X-A: a, b",id=x localhost:8000,ssl # c`)
	f.Add(`,id="\\\"" test`)
	f.Add(`a"b,c`)
	f.Add("h,path_rem=-1,debug [::1]:80,sub=\"\"")
	f.Fuzz(func(t *testing.T, line string) {
		sections, err := parseLine(line)
		if err != nil {
			return
		}
		printed := formatLine(sections)
		again, err := parseLine(printed)
		if err != nil || !reflect.DeepEqual(sections, again) {
			t.Fatalf("%q printed as %q, read as %#v (%v)", line, printed, again, err)
		}
		if twice := formatLine(again); twice != printed {
			t.Fatalf("printed as %q, then as %q", printed, twice)
		}
		table, _, err := Parse("f", strings.NewReader(line), nil)
		if err != nil {
			return
		}
		for _, r := range table.Routes() {
			if len(r.Targets) == 0 || r.ID == "" {
				t.Fatalf("route without target or id: %+v", r)
			}
			if _, shared := table.ByID(r.ID); shared && table.Len() == 1 {
				t.Fatal("id of one route shared")
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	table, _ := ParseLines([]string{"*,path_beg=/a a:1", "*,path_beg=/b b:1", "* c:1", "h d:1"}, nil)
	b.ReportAllocs()
	for b.Loop() {
		table.Match(Request{Host: "example.com:7999", Path: "/b/c"})
	}
}
