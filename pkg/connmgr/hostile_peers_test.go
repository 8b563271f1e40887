//go:build peers

package connmgr

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/test/poll"
)

// TestHostilePeers sends the hostile requests to nginx and HAProxy, which have to be
// installed, and compares their answers with the table in docs/security.md:
//
//	make hostile-peers
func TestHostilePeers(t *testing.T) {
	doc, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(string(doc)) {
		if cells := strings.Split(line, "|"); len(cells) == 7 {
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows[cells[1]] = cells[2:5]
		}
	}
	to := tolerantOrigin(t)
	for i, peer := range []struct{ name, config, args string }{
		{"nginx", "daemon off;\nmaster_process off;\npid %[1]s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n" +
			"client_body_temp_path %[1]s/a;\nproxy_temp_path %[1]s/b;\nfastcgi_temp_path %[1]s/c;\nuwsgi_temp_path %[1]s/d;\nscgi_temp_path %[1]s/e;\n" +
			"server {\nlisten %[2]s;\nlocation / {\nproxy_http_version 1.1;\nproxy_pass http://%[3]s;\n}\n}\n}\n", "-p %[1]s -c %[4]s"},
		{"haproxy", "defaults\nmode http\ntimeout client 30s\ntimeout server 30s\ntimeout connect 5s\nfrontend f\nbind %[2]s\ndefault_backend b\n" +
			"backend b\nserver s %[3]s\n", "-f %[4]s"},
	} {
		t.Run(peer.name, func(t *testing.T) {
			addr := runPeer(t, peer.name, peer.config, peer.args, to)
			for _, tc := range hostile {
				row := rows[tc.name]
				if len(row) != 3 {
					t.Errorf("no row for %q", tc.name)
					continue
				}
				if got := judge(t, addr, tc.raw); got != row[i+1] {
					t.Errorf("| %s | answers %q, the table has %q", tc.name, got, row[i+1])
				}
			}
		})
	}
}

// tolerantOrigin answers what it is asked with what it has understood, and refuses
// nothing: what is refused, the server before it has refused.
func tolerantOrigin(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				br := bufio.NewReader(nc)
				for {
					first, err := br.ReadString('\n')
					length := int64(0)
					for line := first; err == nil && strings.TrimRight(line, "\r\n") != ""; line, err = br.ReadString('\n') {
						name, value, _ := strings.Cut(line, ":")
						switch strings.ToLower(name) {
						case "content-length":
							length, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
						case "transfer-encoding":
							length = http1.Chunked
						}
					}
					if err != nil {
						return
					}
					body, err := io.ReadAll(http1.NewBodyReader(br, length, http1.Limits{}))
					if err != nil {
						return
					}
					method, rest, _ := strings.Cut(first, " ")
					target, _, _ := strings.Cut(rest, " ")
					text := method + " " + target + " " + string(body)
					if method == "HEAD" {
						text = ""
					}
					fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// runPeer starts a server in front of an origin and returns its address.
func runPeer(t *testing.T, name, config, args, origin string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, dir, addr, origin), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, strings.Fields(fmt.Sprintf(strings.ReplaceAll(args, "%[4]s", "%[2]s"), dir, file))...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	poll.Until(t, name, func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			_ = nc.Close()
		}
		return err == nil
	})
	return addr
}

// judge says in the words of the table what a server makes of a request.
func judge(t *testing.T, addr, raw string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, _ = io.WriteString(nc, raw+following)
	br := bufio.NewReader(nc)
	var answers []string
	for len(answers) < 2 {
		// Some wait for more: that is an answer too.
		_ = nc.SetReadDeadline(time.Now().Add(3 * time.Second))
		first, err := br.Peek(1)
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Timeout() && len(answers) == 0:
			return "waits"
		case err != nil && len(answers) == 0:
			return "closes"
		case err != nil:
			if errors.As(err, &ne) && ne.Timeout() {
				return "waits"
			}
			return "yes, closes"
		case first[0] == 0:
			return "speaks HTTP/2"
		case first[0] != 'H':
			return "yes" // HTTP/0.9: a body and nothing else
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return err.Error()
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			return resp.Status[:3]
		}
		answers = append(answers, string(body))
	}
	if !strings.HasSuffix(strings.TrimSpace(answers[1]), "/next") {
		return "takes /next for " + answers[1]
	}
	return "yes"
}
