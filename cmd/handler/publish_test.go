package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/publish"
	"github.com/holdfast/holdfast/pkg/tnet"
	"github.com/holdfast/holdfast/test/poll"
)

func runHandler(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = cli.Run(program, args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

// fakeControl is a control API that keeps what it gets and answers with a status.
func fakeControl(t *testing.T, status int, text string) (addr string, last func() string) {
	t.Helper()
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := httputil.DumpRequest(r, true)
		if err != nil {
			t.Error(err)
		}
		got <- string(b)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://"), func() string {
		t.Helper()
		select {
		case s := <-got:
			return s
		case <-time.After(poll.Patience):
			t.Fatal("no request came")
			return ""
		}
	}
}

// rawRequest returns the bytes that a command sends to a control API.
func rawRequest(t *testing.T, run func(addr string)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		defer close(got)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var all []byte
		buf := make([]byte, 64<<10)
		for !bytes.HasSuffix(all, []byte("}]}")) {
			_ = conn.SetReadDeadline(time.Now().Add(poll.Patience))
			n, err := conn.Read(buf)
			if all = append(all, buf[:n]...); err != nil {
				break
			}
		}
		_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nPublished\n")
		got <- string(all)
	}()
	run(l.Addr().String())
	_ = l.Close()
	return strings.ReplaceAll(<-got, l.Addr().String(), "ADDR")
}

// What goes over the wire is what pushpin-publish sends; where that is
// installed, it is asked.
func TestPublishBytes(t *testing.T) {
	dir := t.TempDir()
	text, bin := filepath.Join(dir, "text"), filepath.Join(dir, "bin")
	for name, content := range map[string]string{text: "abc\n", bin: "\xff\xfeA"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const hint = `{"items":[{"channel":"ch","formats":{"http-response":{"action":"hint"},"http-stream":{"action":"hint"},"ws-message":{"action":"hint"}}}]}`
	const end = `{"items":[{"channel":"ch","formats":{"http-stream":{"action":"close"},"ws-message":{"action":"close"}}}]}`
	pushpin, _ := exec.LookPath("pushpin-publish")
	for _, c := range []struct {
		args []string
		body string
	}{
		{[]string{"ch", "hi"}, `{"items":[{"channel":"ch","formats":{"http-response":{"body":"hi\n","code":200},"http-stream":{"content":"hi\n"},"ws-message":{"content":"hi"}}}]}`},
		{
			[]string{"--id=a", "--prev-id=b", "--sender=me", "--no-seq", "--code=201", "ch", "hi", "-H", "X-A: 1", "-H", "x-a:2", "-M", "k= v "},
			`{"items":[{"channel":"ch","formats":{"http-response":{"body":"hi\n","code":201,"headers":[["X-A","1"],["x-a","2"]]},"http-stream":{"content":"hi\n"},"ws-message":{"content":"hi"}},"id":"a","meta":{"k":"v","sender":"me"},"no-seq":true,"prev-id":"b"}]}`,
		},
		{[]string{"--hint", "ch"}, hint},
		{[]string{"--hint", "--close", "ch", "hi"}, hint},
		{[]string{"--patch", "--hint", "ch", "[]"}, hint},
		{[]string{"--close", "ch"}, end},
		{[]string{"--patch", "--close", "ch", "{"}, end},
		{
			[]string{"--patch", "ch", `[{"op":"add","path":"/a","value":"é<&>"}]`},
			`{"items":[{"channel":"ch","formats":{"http-response":{"body-patch":[{"op":"add","path":"/a","value":"é<&>"}],"code":200}}}]}`,
		},
		{[]string{"ch", "@" + bin}, `{"items":[{"channel":"ch","formats":{"http-response":{"body-bin":"//5B","code":200},"http-stream":{"content-bin":"//5B"},"ws-message":{"content-bin":"//5B"}}}]}`},
		{[]string{"ch", "@" + text}, `{"items":[{"channel":"ch","formats":{"http-response":{"body":"abc\n","code":200},"http-stream":{"content":"abc\n"},"ws-message":{"content":"abc\n"}}}]}`},
		{[]string{"--no-eol", "ch", "é<&>\"\u2028"}, "{\"items\":[{\"channel\":\"ch\",\"formats\":{\"http-response\":{\"body\":\"é<&>\\\"\u2028\",\"code\":200},\"http-stream\":{\"content\":\"é<&>\\\"\u2028\"},\"ws-message\":{\"content\":\"é<&>\\\"\u2028\"}}}]}"},
		{[]string{"ch", ""}, `{"items":[{"channel":"ch","formats":{"http-response":{"body":"\n","code":200},"http-stream":{"content":"\n"},"ws-message":{"content":""}}}]}`},
		{[]string{"--id=", "ch", ""}, `{"items":[{"channel":"ch","formats":{"http-response":{"body":"\n","code":200},"http-stream":{"content":"\n"},"ws-message":{"content":""}}}]}`},
	} {
		got := rawRequest(t, func(addr string) {
			code, out, errs := runHandler(append([]string{"publish", "--spec", "http://" + addr}, c.args...)...)
			if code != 0 || out != "Published\n" || errs != "" {
				t.Errorf("%q: got %d, %q, %q", c.args, code, out, errs)
			}
		})
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if body != c.body {
			t.Errorf("%q: got\n%s\nwant\n%s", c.args, body, c.body)
		}
		if !strings.HasPrefix(head, "POST /publish/ HTTP/1.0\r\nHost: ADDR\r\nContent-Type: application/json\r\nContent-Length: ") {
			t.Errorf("%q: got head %q", c.args, head)
		}
		if _, err := publish.ParseBatch([]byte(body)); err != nil {
			t.Errorf("%q: the intake says %v", c.args, err)
		}
		if pushpin == "" {
			continue
		}
		theirs := rawRequest(t, func(addr string) {
			if out, err := exec.Command(pushpin, append([]string{"--spec=http://" + addr}, c.args...)...).CombinedOutput(); err != nil {
				t.Errorf("%q: pushpin-publish: %v, %q", c.args, err, out)
			}
		})
		if got != theirs {
			t.Errorf("%q: got\n%q\npushpin-publish sends\n%q", c.args, got, theirs)
		}
	}
}

func TestPublishErrors(t *testing.T) {
	t.Setenv("GRIP_URL", "")
	addr, _ := fakeControl(t, 404, "Not Found\n")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"ch"}, 1, "Error: must specify content\n"},
		{[]string{"--patch", "ch", "{}"}, 1, "Error: patch content must be a JSON array\n"},
		{[]string{"--patch", "ch", "zz"}, 1, "Error: invalid JSON at byte 0\n"},
		{[]string{"--code=1000", "ch", "x"}, 1, "Error: code must be an integer between 0 and 999\n"},
		{[]string{"--code=-1", "ch", "x"}, 1, "Error: code must be an integer between 0 and 999\n"},
		{[]string{"--code=x", "ch", "x"}, 1, "Error: failed to parse code: invalid digit found in string\n"},
		{[]string{"-H", "bad", "ch", "x"}, 1, "Error: header must be in the form \"name: value\"\n"},
		{[]string{"-M", "bad", "ch", "x"}, 1, "Error: meta must be in the form \"name=value\"\n"},
		{[]string{"ch", "@/none"}, 1, "Error: can't read file /none: open /none: no such file or directory\n"},
		{[]string{"-u", "a:b", "-B", "c", "ch", "x"}, 1, "Error: only one authentication method can be specified\n"},
		{[]string{"--spec", "http://example.com", "-u", "a:b", "ch", "x"}, 1, "Error: Authentication requires https\n"},
		{[]string{"--spec", "http://", "ch", "x"}, 1, "Error: invalid URL\n"},
		{[]string{"--spec", "x", "ch", "x"}, 1, "Error: spec \"x\": want http://, https://, tcp:// or ipc://\n"},
		{[]string{"--spec", "tcp://x", "ch", "x"}, 1, "Error: spec \"tcp://x\": address x: missing port in address\n"},
		{[]string{"--spec", "http://" + addr, "ch", "x"}, 1, "Error: Not Found\n"},
		{[]string{}, 2, "handler: accepts between 1 and 2 arg(s), received 0 (handler publish --help shows how)\n"},
		{[]string{"--bogus", "ch"}, 2, "handler: unknown flag: --bogus (--help shows the flags)\n"},
	} {
		code, out, errs := runHandler(append([]string{"publish"}, c.args...)...)
		if code != c.code || out != "" || errs != c.want {
			t.Errorf("%q: got %d, %q, %q, want %d and %q", c.args, code, out, errs, c.code, c.want)
		}
	}
}

// A URL with credentials works as it does in the libraries.
func TestPublishCredentials(t *testing.T) {
	addr, last := fakeControl(t, 200, "Published\n")
	send := func(args ...string) (target, authorization string) {
		t.Helper()
		if code, _, errs := runHandler(append(append([]string{"publish"}, args...), "ch", "x")...); code != 0 {
			t.Fatalf("%q: %s", args, errs)
		}
		for line := range strings.Lines(last()) {
			line = strings.TrimRight(line, "\r\n")
			if target == "" {
				target = strings.Fields(line)[1]
			}
			if v, ok := strings.CutPrefix(line, "Authorization: "); ok {
				authorization = v
			}
		}
		return target, authorization
	}
	for _, c := range []struct {
		args                  []string
		target, authorization string
	}{
		{[]string{"--spec", "http://" + addr + "/base/?x=y"}, "/base/publish/?x=y", ""},
		{[]string{"--spec", "http://" + addr, "-u", "me:pass"}, "/publish/", "Basic bWU6cGFzcw=="},
		{[]string{"--spec", "http://me:pass@" + addr}, "/publish/", "Basic bWU6cGFzcw=="},
		{[]string{"--spec", "http://" + addr, "-B", "abc"}, "/publish/", "Bearer abc"},
		{[]string{"--spec", "http://" + addr + "?key=abc"}, "/publish/", "Bearer abc"},
	} {
		if target, a := send(c.args...); target != c.target || a != c.authorization {
			t.Errorf("%q: got %q, %q, want %q, %q", c.args, target, a, c.target, c.authorization)
		}
	}
	_, a := send("--spec", "http://"+addr+"?iss=realm&key=base64:c2VjcmV0")
	key, err := grip.ParseVerifyingKey("secret", "")
	if err != nil {
		t.Fatal(err)
	}
	if jwt, ok := strings.CutPrefix(a, "Bearer "); !ok || !key.VerifyFrom(jwt, "realm", time.Now()) {
		t.Errorf("got %q, want a token of realm", a)
	}
	t.Setenv("GRIP_URL", "http://"+addr+"/env")
	if target, _ := send(); target != "/env/publish/" {
		t.Errorf("with GRIP_URL the request went to %q", target)
	}
}

func TestPublishZeroMQ(t *testing.T) {
	pull, err := bus.NewPull(bus.SocketOptions{Name: "test", Bind: []string{"tcp://127.0.0.1:0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer pull.Close()
	spec := pull.Endpoints()[0]
	receive := func() []byte {
		t.Helper()
		parts, err := pull.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Join(parts, []byte("|"))
	}
	pushpin, _ := exec.LookPath("pushpin-publish")
	file := filepath.Join(t.TempDir(), "bin")
	if err := os.WriteFile(file, []byte("\xffA"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"ch", "hi"},
		{"--id=a", "--no-seq", "--code=201", "ch", "hi", "-H", "X-A: 1"},
		{"--patch", "ch", `[{"op":"add","path":"/a","value":[1,1.5,true,null,"x"]}]`},
		{"--hint", "ch"},
		{"--close", "ch"},
		{"ch", "@" + file},
	} {
		if code, _, errs := runHandler(append([]string{"publish", "--spec", spec}, args...)...); code != 0 {
			t.Fatalf("%q: %s", args, errs)
		}
		got := receive()
		if item, err := publish.ParseMessage(got); err != nil || item.Channel != "ch" {
			t.Errorf("%q: the intake says %v of %q", args, err, got)
		}
		// pushpin-publish sends bytes as text, which no client can read: see
		// docs/compatibility.md.
		if pushpin == "" || args[1] == "@"+file {
			continue
		}
		if out, err := exec.Command(pushpin, append([]string{"--spec=" + spec}, args...)...).CombinedOutput(); err != nil {
			t.Errorf("%q: pushpin-publish: %v, %q", args, err, out)
		}
		// Its dictionaries have a random order.
		want, err := tnet.Decode(receive())
		if err != nil {
			t.Fatal(err)
		}
		item, err := tnet.Decode(got)
		if diff := cmp.Diff(want, item); err != nil || diff != "" {
			t.Errorf("%q: not what pushpin-publish sends: %v\n%s", args, err, diff)
		}
	}
}

// With --config, --set or --port-offset the tools go where the configuration says.
func TestToolsReadTheConfiguration(t *testing.T) {
	t.Setenv("GRIP_URL", "http://localhost:1/of-somebody-else")
	addr, last := fakeControl(t, http.StatusOK, "[]")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "x.conf")
	config := func(lines string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("[handler]\npush_in_http_addr=\n"+lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, lines string
		args        []string
		want        string // of the request's Authorization
	}{
		{"file", "push_in_http_port=" + port, nil, ""},
		{"offset", "push_in_http_port=" + strconv.Itoa(n-10), []string{"--port-offset", "10"}, ""},
		{"token", "push_in_http_auth_token=abc", []string{"--set", "handler.push_in_http_port=" + port}, "Bearer abc"},
		{"token of the user's own", "push_in_http_auth_token=abc\npush_in_http_port=" + port, []string{"-B", "def"}, "Bearer def"},
		{"password", "push_in_http_auth_user=a:b\npush_in_http_port=" + port, nil, "Basic YTpi"},
		{"key", "push_in_http_auth_key=secret\npush_in_http_port=" + port, nil, "Bearer ey"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config(tc.lines)
			for cmd, want := range map[string]string{"publish news hello": "POST /publish/ ", "webhooks list --json": "GET /webhooks/"} {
				code, _, errs := runHandler(append(append(strings.Fields(cmd), "--config", file), tc.args...)...)
				if got := last(); code != 0 || !strings.HasPrefix(got, want) || !strings.Contains(got, "\r\nAuthorization: "+tc.want) != (tc.want == "") {
					t.Errorf("%s: got %d, %q and %q", cmd, code, errs, got)
				}
			}
		})
	}

	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Published\n") }), ReadTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	config("push_in_http_port=-1\npush_in_http_local=" + socket)
	if code, out, errs := runHandler("publish", "news", "hello", "--config", file); code != 0 || out != "Published\n" {
		t.Errorf("unix socket: got %d, %q, %q", code, out, errs)
	}
	config("push_in_http_port=-1")
	if code, _, errs := runHandler("publish", "news", "hello", "--config", file); code != 2 || !strings.Contains(errs, "there is no control API") {
		t.Errorf("nothing to ask: got %d, %q", code, errs)
	}
	if code, _, errs := runHandler("publish", "news", "hello", "--config", "/nowhere"); code != 2 || !strings.Contains(errs, "/nowhere") {
		t.Errorf("no file: got %d, %q", code, errs)
	}
}
