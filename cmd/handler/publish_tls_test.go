package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tlsControl is a control API over TLS that wants a client certificate. The
// certificate of the test server is used for both sides.
func tlsControl(t *testing.T) (url, certFile string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Published\n") }))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	cert := srv.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile = filepath.Join(t.TempDir(), "both.pem")
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(certFile, both, 0o600); err != nil {
		t.Fatal(err)
	}
	return srv.URL, certFile
}

func TestPublishTLS(t *testing.T) {
	url, file := tlsControl(t)
	for _, c := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"--cacert", file, "--cert", file}, 0, ""},
		{[]string{"--cacert", file, "--cert", file, "--key", file}, 0, ""},
		{[]string{"--cacert", file}, 1, "certificate required"},
		{[]string{"--cert", file}, 1, "unknown authority"},
		{[]string{"--cacert", "/none"}, 1, "can't read file /none"},
		{[]string{"--cacert", "publish_tls_test.go"}, 1, "there is no certificate in publish_tls_test.go"},
		{[]string{"--cert", "publish_tls_test.go"}, 1, "client certificate: tls: failed to find any PEM data"},
	} {
		code, _, errs := runHandler(append(append([]string{"publish", "--spec", url}, c.args...), "ch", "x")...)
		if code != c.code || !strings.Contains(errs, c.errs) || c.errs == "" && errs != "" {
			t.Errorf("%q: got %d, %q; want %d, %q", c.args, code, errs, c.code, c.errs)
		}
	}
}

func TestPublishUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Host + " " + r.URL.Path + " " + r.Header.Get("Authorization")
		_, _ = io.WriteString(w, "Published\n")
	}))
	_ = srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	defer srv.Close()
	code, out, errs := runHandler("publish", "--unix-socket", path, "--spec", "http://control.example/x", "-B", "t", "ch", "x")
	if code != 0 || out != "Published\n" {
		t.Fatalf("got %d, %q, %q", code, out, errs)
	}
	if g := <-got; g != "control.example /x/publish/ Bearer t" {
		t.Errorf("got %q", g)
	}
}

// The tool for webhooks reaches the control API in the same ways.
func TestWebhooksTLSAndUnixSocket(t *testing.T) {
	url, file := tlsControl(t)
	if code, out, errs := runHandler("webhooks", "pause", "ep", "--spec", url, "--cacert", file, "--cert", file); code != 0 || out != "Published\n" {
		t.Errorf("TLS: got %d, %q, %q", code, out, errs)
	}
	if code, _, errs := runHandler("webhooks", "pause", "ep", "--spec", url, "--cacert", file); code != 1 || !strings.Contains(errs, "certificate required") {
		t.Errorf("without a certificate: got %d, %q", code, errs)
	}
	path := filepath.Join(t.TempDir(), "control")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	_ = srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	defer srv.Close()
	if code, out, errs := runHandler("webhooks", "pause", "ep", "--unix-socket", path); code != 0 || out != "/webhooks/ep/pause" {
		t.Errorf("unix socket: got %d, %q, %q", code, out, errs)
	}
	if code, _, errs := runHandler("webhooks", "list", "--spec", "http://127.0.0.1:1"); code != 1 || !strings.HasSuffix(errs, "; is Holdfast running, and is --spec (or GRIP_URL) where its control API listens?\n") {
		t.Errorf("nobody there: got %d, %q", code, errs)
	}
}

// What is usually wrong is said.
func TestPublishHints(t *testing.T) {
	addr, _ := fakeControl(t, 200, "Published\n")
	for spec, want := range map[string]string{
		"http://127.0.0.1:1": "; is Holdfast running, and is --spec (or GRIP_URL) where its control API listens?\n",
		"https://" + addr:    "; the server does not speak TLS there, try http://\n",
	} {
		code, _, errs := runHandler("publish", "--spec", spec, "ch", "x")
		if code != 1 || !strings.HasSuffix(errs, want) {
			t.Errorf("%s: got %d, %q", spec, code, errs)
		}
	}
}
