package proxy

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
)

// With debug on, the answer says in words what is wrong with a target.
func TestDebugExplains(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	plain := httptest.NewServer(hello)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(hello)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	addr := func(s *httptest.Server) string { return s.Listener.Addr().String() }

	// answering is an origin that answers a connection with bytes and ends it.
	answering := func(answer string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, answer)
				_ = c.Close()
			}
		}()
		t.Cleanup(func() { _ = ln.Close(); <-done })
		return ln.Addr().String()
	}
	alert, junk, nothing := answering("\x15\x03\x01\x00\x02\x02\x46"), answering("SSH-2.0-x\r\n\r\n"), answering("")
	r := newRig(t, strings.Join([]string{
		"untls,debug " + addr(plain) + ",ssl",
		"unknown,debug " + addr(secure) + ",ssl,host=example.com",
		"alert,debug " + alert,
		"junk,debug " + junk,
		"nothing,debug " + nothing,
		"ssh,debug " + junk + ",ssl",
		"quiet " + alert,
	}, "\n"), nil)
	for host, want := range map[string]string{
		"untls":   addr(plain) + ": it does not speak TLS there: remove ssl from the target",
		"unknown": addr(secure) + ": its certificate was issued by an authority that is not known here",
		"alert":   alert + ": it speaks TLS, and was spoken to in plain HTTP: add ssl to the target",
		"junk":    junk + ": what it sent is not HTTP",
		"nothing": nothing + ": it ended the connection before it answered; if it wants TLS there, add ssl",
		"ssh":     junk + ": it does not speak TLS there",
	} {
		for _, upgrade := range []bool{false, true} {
			got := r.conn.open(frame.Request{URI: "/", Host: host, Upgrade: upgrade, Header: lines("Sec-WebSocket-Key: x")}).finish()
			first, _, _ := strings.Cut(got.body, "\n")
			if got.status() != "502 Bad Gateway" || !strings.Contains(got.body, "\n\n"+want) ||
				first != generic && !strings.HasPrefix(first, "Unable to connect to any targets. Tried: ") {
				t.Errorf("%s: got %s %q, want %q", host, got.status(), got.body, want)
			}
		}
	}
	if got := r.conn.open(frame.Request{URI: "/", Host: "quiet"}).finish(); got.body != generic+"\n" {
		t.Errorf("without debug: got %q", got.body)
	}
}

// Without debug the client is told nothing, but the log says why, once a second.
func TestTargetFailedIsLogged(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	name := plain.Listener.Addr().String()
	var seconds atomic.Int64
	r := newRig(t, "* "+name+",ssl\nhttp "+name+",ssl,over_http", func(o *Options) {
		o.Now = func() time.Time { return time.Unix(1_600_000_000+seconds.Load(), 0) }
	})
	ask := func(host string, upgrade bool) {
		t.Helper()
		if got := r.conn.open(frame.Request{URI: "/", Host: host, Upgrade: upgrade, Header: lines("Sec-WebSocket-Key: x")}).finish(); got.body != generic+"\n" {
			t.Fatalf("%s, upgrade %v: got %q", host, upgrade, got.body)
		}
	}
	const why = "why=it does not speak TLS there: remove ssl from the target, or use its TLS port"
	ask("a", false)
	r.log.wait(t, "WARN target failed target="+name+" "+why+" not_logged=0")
	ask("a", true)
	ask("a", false)
	for i, host := range []string{"a", "http"} {
		seconds.Add(1)
		ask(host, true)
		r.log.wait(t, "WARN target failed target="+name+" "+why+" not_logged="+[]string{"2", "0"}[i])
	}
}

func TestExplainHostname(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	c, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{ServerName: "other.test", RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12})
	if err == nil {
		_ = c.Close()
		t.Fatal("the certificate fits")
	}
	if got := explain(nil, err); !strings.HasPrefix(got, "its certificate is for example.com, ") || !strings.Contains(got, "not for other.test: set host=") {
		t.Errorf("got %q", got)
	}
	if got := explain(nil, &net.DNSError{Name: "x.invalid", IsNotFound: true}); got != "there is no host x.invalid" {
		t.Errorf("got %q", got)
	}
}
