//go:build e2e

package clients

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/tnet"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
	"github.com/holdfast/holdfast/test/stack"
)

// zurlProgram is a zurl that runs: ours, or Debian's to compare it with.
type zurlProgram struct {
	name string
	dir  string // where its sockets are
}

// startZurl runs bin/zurl, or the zurl that is installed, with these patterns
// denied.
func startZurl(t *testing.T, name string, deny string) *zurlProgram {
	t.Helper()
	z := &zurlProgram{name: name, dir: t.TempDir()}
	specs := map[string]string{"in_spec": "in", "in_stream_spec": "in-stream", "out_spec": "out", "in_req_spec": "req"}
	var cmd *exec.Cmd
	if name == "holdfast" {
		root, err := stack.FindRoot()
		if err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(z.dir, "holdfast.conf")
		if err := os.WriteFile(conf, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"--config", conf, "--set", "global.rundir=" + z.dir, "--set", "zurl.instance_id=instance", "--set", "zurl.deny=" + deny}
		for key, socket := range specs {
			args = append(args, "--set", "zurl."+key+"=ipc://"+z.dir+"/zurl-"+socket)
		}
		cmd = command(t, filepath.Join(root, "bin/zurl"), args...)
	} else {
		bin, err := exec.LookPath("zurl")
		if err != nil {
			t.Fatal("zurl is not installed: apt-get install zurl")
		}
		var conf strings.Builder
		fmt.Fprintf(&conf, "[General]\ninstance_id=instance\ndefpolicy=allow\ndeny=%s\n", deny)
		for key, socket := range specs {
			fmt.Fprintf(&conf, "%s=ipc://%s/zurl-%s\n", key, z.dir, socket)
		}
		file := filepath.Join(z.dir, "zurl.conf")
		if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd = command(t, bin, "--config="+file)
	}
	out := begin(t, cmd)
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the program
	for _, socket := range specs {
		path := filepath.Join(z.dir, "zurl-"+socket)
		poll.Works(t, name+" to listen", func() error {
			c, err := net.Dial("unix", path)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	}
	return z
}

// zurlOrigin is a server with something for each case.
func zurlOrigin(t *testing.T) string {
	t.Helper()
	up := websocket.Upgrader{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		switch req.URL.Path {
		case "/large":
			_, _ = io.WriteString(w, strings.Repeat("0123456789", 50_000))
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, "was compressed")
			_ = z.Close()
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/redirect":
			http.Redirect(w, req, "/echo", http.StatusFound)
		case "/loop":
			http.Redirect(w, req, "/loop", http.StatusFound)
		case "/scheme":
			w.Header().Set("Location", "gopher://127.0.0.1/")
			w.WriteHeader(http.StatusFound)
		case "/slow":
			<-req.Context().Done()
		case "/garbage":
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "nonsense\r\n\r\n")
				_ = c.Close()
			}
		case "/ws", "/wsclose":
			ws, err := up.Upgrade(w, req, nil)
			if err != nil {
				return
			}
			defer func() { _ = ws.Close() }()
			if req.URL.Path == "/wsclose" {
				_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "bye"), time.Now().Add(10*time.Second))
			}
			for {
				kind, b, err := ws.ReadMessage()
				if err != nil || ws.WriteMessage(kind, b) != nil {
					return
				}
			}
		default:
			var seen []string
			for _, name := range []string{"Connection", "Keep-Alive", "Expect", "X-A", "Authorization", "Content-Length", "User-Agent"} {
				if v := req.Header.Values(name); len(v) > 0 {
					seen = append(seen, name+"="+strings.Join(v, "+"))
				}
			}
			fmt.Fprintf(w, "%s %s %d %q %v", req.Method, req.RequestURI, req.ContentLength, body, seen)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// zurlSockets talks to a zurl and writes down what it says.
type zurlSockets struct {
	t      *testing.T
	push   *bus.Push
	router *bus.Router
	sub    *bus.Sub
	req    *bus.Dealer
	seq    int
	first  [][]byte // packets that were waited for
}

func (z *zurlProgram) sockets(t *testing.T) *zurlSockets {
	t.Helper()
	o := func(name string) bus.SocketOptions {
		return bus.SocketOptions{Name: "test", Connect: []string{"ipc://" + z.dir + "/zurl-" + name}, Limits: bus.Limits{MaxMessage: 8 << 20}}
	}
	s := &zurlSockets{t: t}
	var errs [4]error
	s.push, errs[0] = bus.NewPush(o("in"))
	s.router, errs[1] = bus.NewRouter(o("in-stream"))
	s.sub, errs[2] = bus.NewSub(o("out"))
	s.req, errs[3] = bus.NewDealer(o("req"))
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _, _, _, _ = s.push.Close(), s.router.Close(), s.sub.Close(), s.req.Close() })
	s.sub.Subscribe("me ")
	// As in examples/zurl: ask until something comes back.
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		s.start(packet{"id": "probe"})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := s.sub.Recv(ctx)
		cancel()
		if err == nil && s.router.Conns() == 1 {
			return s
		}
	}
	t.Fatalf("%s does not answer", z.name)
	return nil
}

type packet = map[string]any

func (s *zurlSockets) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *zurlSockets) start(p packet) {
	s.t.Helper()
	s.seq = 0
	first := packet{"from": "me", "seq": 0}
	for k, v := range p {
		first[k] = v
	}
	if err := s.push.Send(s.ctx(), tnet.Append([]byte("T"), first)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *zurlSockets) more(p packet) {
	s.t.Helper()
	s.seq++
	next := packet{"from": "me", "seq": s.seq}
	for k, v := range p {
		next[k] = v
	}
	if err := s.router.Send([]byte("instance"), nil, tnet.Append([]byte("T"), next)); err != nil {
		s.t.Fatal(err)
	}
}

// begun waits for the first answer, as clients must: what is sent over another
// socket may arrive before what was sent over this one.
func (s *zurlSockets) begun() {
	s.t.Helper()
	parts, err := s.sub.Recv(s.ctx())
	if err != nil {
		s.t.Fatal(err)
	}
	s.first = append(s.first, parts[0])
}

// next returns the next packet.
func (s *zurlSockets) next() []byte {
	s.t.Helper()
	if len(s.first) > 0 {
		b := s.first[0]
		s.first = s.first[1:]
		return b
	}
	parts, err := s.sub.Recv(s.ctx())
	if err != nil {
		s.t.Fatal(err)
	}
	return parts[0]
}

func (s *zurlSockets) ask(raw []byte) []byte {
	s.t.Helper()
	if err := s.req.Send(s.ctx(), nil, raw); err != nil {
		s.t.Fatal(err)
	}
	parts, err := s.req.Recv(s.ctx())
	if err != nil || len(parts) != 2 {
		s.t.Fatalf("got %q, %v", parts, err)
	}
	return parts[1]
}

// describe writes a packet down, without what may differ: times, identities, and
// those header fields.
func describe(t *testing.T, b []byte) (packet, string) {
	t.Helper()
	var v any
	var err error
	if b[0] == 'J' {
		err = json.Unmarshal(b[1:], &v)
	} else {
		v, err = tnet.Decode(b[1:])
	}
	p, ok := v.(packet)
	if err != nil || !ok {
		t.Fatalf("got %q: %v", b, err)
	}
	keys := make([]string, 0, len(p))
	for k := range p {
		if k != "headers" && k != "id" && (k != "body" || p[k] != "") { // zurl leaves some empty bodies out
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	text := string(b[:1])
	for _, k := range keys {
		value := fmt.Sprint(p[k])
		if len(value) > 200 {
			value = fmt.Sprintf("(%d bytes)", len(value))
		}
		text += " " + k + "=" + value
	}
	return p, text
}

// listen writes down the packets of a session up to its end. Credits are given
// for what comes, and bodies joined: how they are cut is nobody's business.
func (s *zurlSockets) listen(id string) string {
	s.t.Helper()
	var lines []string
	body := 0
	for {
		p, text := describe(s.t, bytes.TrimPrefix(s.next(), []byte("me ")))
		kind, _ := p["type"].(string)
		switch data, _ := p["body"].(string); {
		case p["id"] != id, kind == "credit" && len(lines) > 0:
			continue
		case kind == "" && p["more"] == true:
			body += len(data)
			s.more(packet{"id": id, "type": "credit", "credits": len(data)})
			if p["code"] == nil {
				continue
			}
			text = fmt.Sprint("code=", p["code"], " reason=", p["reason"], " and a body in parts")
		case kind == "" && body > 0:
			text = fmt.Sprint(body+len(data), " bytes all together")
		}
		if len(lines) > 0 { // what comes between may differ
			text = strings.ReplaceAll(text, fmt.Sprint(" seq=", p["seq"]), "")
		}
		lines = append(lines, text)
		if kind == "error" || kind == "cancel" || kind == "" && p["more"] == nil {
			return strings.Join(lines, "\n")
		}
	}
}

// TestZurlLikeZurl sends the same packets to our zurl and to Debian's. Where
// ours is to differ, the case says how.
func TestZurlLikeZurl(t *testing.T) {
	const deny = "10.*,*.forbidden.test"
	theirs := startZurl(t, "zurl", deny)
	ours := startZurl(t, "holdfast", deny)
	origin := zurlOrigin(t)
	ws := strings.Replace(origin, "http", "ws", 1)

	closed := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		return "http://" + ln.Addr().String()
	}()
	list := func(pairs ...string) []any {
		var out []any
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, []any{pairs[i], pairs[i+1]})
		}
		return out
	}
	whole := []struct {
		name string
		p    packet
		ours string // if it differs
	}{
		{"get", packet{"id": "1", "method": "GET", "uri": origin + "/echo"}, ""},
		{"no id", packet{"method": "GET", "uri": origin + "/echo"}, ""},
		{"path", packet{"method": "GET", "uri": origin + "/a/../b//c?x=%20&y"}, ""},
		{"fragment", packet{"method": "GET", "uri": origin + "/a#b"}, ""},
		{"post", packet{"method": "POST", "uri": origin + "/echo", "body": "abc"}, ""},
		{"post nothing", packet{"method": "POST", "uri": origin + "/echo"}, ""},
		{"own method", packet{"method": "PURGE", "uri": origin + "/echo"}, ""},
		{"put", packet{"method": "PUT", "uri": origin + "/echo", "body": "\xff\x00"}, ""},
		{"delete with a body", packet{"method": "DELETE", "uri": origin + "/echo", "body": "x"}, ""},
		{"head", packet{"method": "HEAD", "uri": origin + "/echo"}, ""},
		{"head with a body", packet{"method": "HEAD", "uri": origin + "/echo", "body": "x"}, ""},
		{"header", packet{"method": "GET", "uri": origin + "/echo", "headers": list("X-A", "1", "x-a", "2", "Keep-Alive", "1", "Expect", "100-continue", "Host", "other")}, ""},
		{"user in the URI", packet{"method": "GET", "uri": strings.Replace(origin, "//", "//user:pw@", 1) + "/echo"}, ""},
		{"user data", packet{"id": "1", "method": "GET", "uri": origin + "/empty", "user-data": packet{"a": []any{int64(1), "x", true}}}, ""},
		{"multi", packet{"id": "1", "method": "GET", "uri": origin + "/empty", "ext": packet{"multi": true}}, ""},
		{"reason", packet{"method": "GET", "uri": origin + "/teapot"}, ""},
		{"compressed", packet{"method": "GET", "uri": origin + "/gzip"}, ""},
		{"large", packet{"method": "GET", "uri": origin + "/large"}, ""},
		{"max-size is enough", packet{"method": "GET", "uri": origin + "/large", "max-size": 500_000}, ""},
		{"max-size", packet{"method": "GET", "uri": origin + "/large", "max-size": 499_999}, ""},
		{"max-size as text", packet{"method": "GET", "uri": origin + "/large", "max-size": "5"}, ""},
		{"timeout", packet{"method": "GET", "uri": origin + "/slow", "timeout": 100}, ""},
		{"redirect", packet{"method": "GET", "uri": origin + "/redirect", "follow-redirects": true}, ""},
		{"redirect of a post", packet{"method": "POST", "uri": origin + "/redirect", "body": "x", "follow-redirects": true}, ""},
		{"redirect not followed", packet{"method": "POST", "uri": origin + "/redirect", "body": "x"}, ""},
		{"redirect loop", packet{"method": "GET", "uri": origin + "/loop", "follow-redirects": true}, ""},
		{"redirect to another scheme", packet{"method": "GET", "uri": origin + "/scheme", "follow-redirects": true}, ""},
		{"garbage", packet{"method": "GET", "uri": origin + "/garbage"}, ""},
		{"refused", packet{"method": "GET", "uri": closed}, ""},
		{"no such name", packet{"method": "GET", "uri": "http://name.invalid/"}, ""},
		{"no uri", packet{"method": "GET"}, ""},
		{"no method", packet{"uri": origin}, ""},
		{"scheme", packet{"method": "GET", "uri": "ftp://127.0.0.1/"}, ""},
		{"websocket", packet{"uri": ws + "/ws"}, ""},
		{"more", packet{"method": "POST", "uri": origin, "more": true}, ""},
		{"forbidden address", packet{"method": "GET", "uri": "http://10.1.1.1/"}, ""},
		{"forbidden address in another way", packet{"method": "GET", "uri": "http://0xa.1/"}, ""},
		{"forbidden name", packet{"method": "GET", "uri": "http://x.Forbidden.test/"}, ""},
		{"forbidden connect host", packet{"method": "GET", "uri": origin, "connect-host": "10.1.1.1", "connect-port": 80}, ""},
		{"connect host", packet{"method": "GET", "uri": "http://name.invalid/echo", "connect-host": "127.0.0.1", "connect-port": origin[strings.LastIndex(origin, ":")+1:]}, ""},
	}
	a, b := theirs.sockets(t), ours.sockets(t)
	for _, tt := range whole {
		t.Run("req "+tt.name, func(t *testing.T) {
			for _, format := range []string{"T", "J"} {
				raw := tnet.Append([]byte("T"), tt.p)
				if format == "J" {
					js, err := json.Marshal(tt.p)
					if err != nil || strings.Contains(string(js), `\ufffd`) {
						continue // not for JSON
					}
					raw = append([]byte("J"), js...)
				}
				_, want := describe(t, a.ask(raw))
				_, got := describe(t, b.ask(raw))
				if tt.ours != "" {
					if got == want {
						t.Errorf("zurl does the same: %s", got)
					}
					want = format + tt.ours
				}
				if got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		})
	}

	streams := []struct {
		name string
		do   func(s *zurlSockets, id string)
		ours string
	}{
		{"whole", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin + "/echo", "user-data": "u", "ext": packet{"multi": true}})
		}, ""},
		{"stream", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin + "/large", "stream": true, "credits": 1000})
		}, ""},
		{"upload", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "POST", "uri": origin + "/echo", "more": true, "body": "ab"})
			s.begun()
			s.more(packet{"id": id, "body": "cd", "more": true})
			s.more(packet{"id": id, "body": "ef"})
		}, ""},
		{"upload with a length", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "PUT", "uri": origin + "/echo", "more": true, "headers": list("Content-Length", "4")})
			s.begun()
			s.more(packet{"id": id, "body": "cd", "more": true})
			s.more(packet{"id": id, "body": "ef"})
		}, ""},
		{"get whose body does not come", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin + "/echo", "more": true})
			s.begun()
			s.more(packet{"id": id, "body": ""})
		}, ""},
		{"body after its end", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin + "/slow"})
			s.begun()
			s.more(packet{"id": id, "body": "x"})
		}, ""},
		{"no uri", func(s *zurlSockets, id string) { s.start(packet{"id": id, "method": "GET"}) }, ""},
		{"forbidden", func(s *zurlSockets, id string) { s.start(packet{"id": id, "method": "GET", "uri": "http://10.1.1.1/"}) }, ""},
		{"forbidden after a look", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": "http://0xa.1/"})
		}, ""},
		{"refused", func(s *zurlSockets, id string) { s.start(packet{"id": id, "method": "GET", "uri": closed}) }, ""},
		{"more with a later seq", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "seq": 3, "method": "POST", "uri": origin, "more": true})
		}, ""},
		{"gap", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin + "/slow"})
			s.begun()
			s.seq++
			s.more(packet{"id": id, "type": "keep-alive"})
		}, ""},
		{"unknown id", func(s *zurlSockets, id string) { s.more(packet{"id": id, "type": "keep-alive"}) }, ""},
		{"wrong types", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin, "more": "x"})
		}, ""},
		{"timeout", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "method": "GET", "uri": origin + "/slow", "timeout": 100})
		}, ""},
		{"websocket refused", func(s *zurlSockets, id string) { s.start(packet{"id": id, "uri": ws + "/teapot"}) }, "T code=418 condition=rejected from=instance reason=I'm a teapot seq=0 type=error"},
		{"websocket forbidden", func(s *zurlSockets, id string) { s.start(packet{"id": id, "uri": "ws://10.1.1.1/"}) }, ""},
		{"websocket with a later seq", func(s *zurlSockets, id string) { s.start(packet{"id": id, "seq": 3, "uri": ws + "/ws"}) }, ""},
		{"websocket without a server", func(s *zurlSockets, id string) {
			s.start(packet{"id": id, "uri": strings.Replace(closed, "http", "ws", 1)})
		}, ""},
	}
	for i, tt := range streams {
		t.Run("stream "+tt.name, func(t *testing.T) {
			id := fmt.Sprint("s", i)
			tt.do(a, id)
			want := a.listen(id)
			tt.do(b, id)
			got := b.listen(id)
			if tt.ours != "" {
				if got == want {
					t.Errorf("zurl does the same: %s", got)
				}
				want = tt.ours
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestZurlExample runs examples/zurl, a program that uses libzmq, against our
// zurl and Debian's.
func TestZurlExample(t *testing.T) {
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	python, script := need.PyZMQ(t), filepath.Join(root, "examples/zurl/client.py")
	for _, name := range []string{"holdfast", "zurl"} {
		t.Run(name, func(t *testing.T) {
			z := startZurl(t, name, "")
			origin := zurlOrigin(t)
			for _, format := range []string{"tnetstring", "json"} {
				client := func(in string, args ...string) string {
					t.Helper()
					if format == "json" {
						args = append([]string{"--json", z.dir}, args...)
					} else {
						args = append([]string{z.dir}, args...)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					cmd := exec.CommandContext(ctx, python, append([]string{script}, args...)...)
					cmd.Stdin = strings.NewReader(in)
					var errs strings.Builder
					cmd.Stderr = &errs
					out, err := cmd.Output()
					if err != nil {
						t.Fatalf("%v: %v\n%s", args, err, errs.String())
					}
					return string(out)
				}
				if got := client("", "get", origin+"/x"); !strings.HasPrefix(got, "GET /x 0") {
					t.Errorf("%s get: got %s", format, got)
				}
				if got := client("", "stream", origin+"/large"); len(got) != 500_000 {
					t.Errorf("%s stream: got %d bytes", format, len(got))
				}
				if got := client(strings.Repeat("x", 300_000), "post", origin+"/x"); !strings.HasPrefix(got, "POST /x -1 \"xxx") || len(got) < 300_000 {
					t.Errorf("%s post: got %.100s", format, got)
				}
				if got := client("", "websocket", strings.Replace(origin, "http", "ws", 1)+"/ws", "hello", "wörld"); got != "hello\nwörld\nclosed 1000\n" {
					t.Errorf("%s websocket: got %s", format, got)
				}
				arrived := make(chan string, 1)
				hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
					body, _ := io.ReadAll(req.Body)
					arrived <- string(body)
				}))
				client("", "fire", hook.URL, "callback")
				select {
				case got := <-arrived:
					if got != "callback" {
						t.Errorf("%s fire: got %s", format, got)
					}
				case <-time.After(30 * time.Second):
					t.Errorf("%s fire: nothing arrived", format)
				}
				hook.Close()
			}
		})
	}
}
