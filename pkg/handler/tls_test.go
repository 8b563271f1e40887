package handler

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/unixsock"
	"github.com/holdfast/holdfast/test/pki"
	"github.com/holdfast/holdfast/test/poll"
)

// authority is a certificate authority, and a folder with what it issued.
type authority struct {
	*pki.Authority
	t   *testing.T
	dir string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pki.NewAuthority(t), t, t.TempDir()}
	pki.Write(t, a.Cert, a.file("ca.crt"), a.file("ca.key"))
	return a
}

// make writes NAME.crt and NAME.key.
func (a *authority) make(template *x509.Certificate, name string) *x509.Certificate {
	a.t.Helper()
	cert := a.Issue(a.t, template)
	pki.Write(a.t, cert, a.file(name+".crt"), a.file(name+".key"))
	return cert.Leaf
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) server(name string) *x509.Certificate {
	return a.make(&x509.Certificate{DNSNames: []string{"control"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, name)
}

// dial connects to the control API as a client with this certificate, and
// returns what GET / gives and whose certificate the server has.
func (a *authority) dial(addr, name string) (answer string, serial *big.Int, err error) {
	a.t.Helper()
	conf := &tls.Config{RootCAs: a.Pool, ServerName: "control", MinVersion: tls.VersionTLS12}
	if name != "" {
		cert, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		a.t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(poll.Patience))
	c := tls.Client(raw, conf)
	if err := c.Handshake(); err != nil {
		return "", nil, err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		return "", nil, err
	}
	b, err := io.ReadAll(c)
	return string(b), c.ConnectionState().PeerCertificates[0].SerialNumber, err
}

func TestControlTLS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	first := a.server("server")
	client := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	a.make(client, "publisher")
	stranger.make(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, "publisher")
	for _, f := range []string{"publisher.crt", "publisher.key"} { // for dial
		b, err := os.ReadFile(stranger.file(f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(a.file("strange-"+f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, func(o *Options) {
		o.HTTPTLS = HTTPTLS{Cert: a.file("server.crt"), Key: a.file("server.key"), ClientCA: a.file("ca.crt")}
	})
	addr := r.s.HTTPAddr().String()
	got, serial, err := a.dial(addr, "publisher")
	if !strings.HasSuffix(got, "\r\n\r\nPushpin API\n") || err != nil || serial.Cmp(first.SerialNumber) != 0 {
		t.Errorf("got %q, %v, %v", got, serial, err)
	}
	for _, name := range []string{"", "strange-publisher"} {
		if got, _, err := a.dial(addr, name); err == nil || got != "" {
			t.Errorf("client %q: got %q, %v; want an error", name, got, err)
		}
	}
	// Who speaks no TLS is told so.
	if got := r.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 400 Bad Request\r\n") ||
		!strings.HasSuffix(got, "\r\n\r\nThis port speaks HTTPS.\n") {
		t.Errorf("plain HTTP: got %q", got)
	}

	// A renewed certificate is used; a pair that does not fit leaves the old one.
	stamp := time.Now()
	touch := func() {
		stamp = stamp.Add(time.Second)
		if err := os.Chtimes(a.file("server.crt"), stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	second := a.server("server")
	touch()
	if _, serial, err = a.dial(addr, "publisher"); err != nil || serial.Cmp(second.SerialNumber) != 0 {
		t.Errorf("after renewal: got %v, %v", serial, err)
	}
	if err := os.WriteFile(a.file("server.key"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	touch()
	if _, serial, err = a.dial(addr, "publisher"); err != nil || serial.Cmp(second.SerialNumber) != 0 {
		t.Errorf("in the middle of a renewal: got %v, %v", serial, err)
	}
}

func TestControlTLSFiles(t *testing.T) {
	a := newAuthority(t)
	a.server("server")
	crt, key := a.file("server.crt"), a.file("server.key")
	for _, c := range []struct {
		files HTTPTLS
		want  string
	}{
		{HTTPTLS{}, ""},
		{HTTPTLS{Cert: crt, Key: key}, ""},
		{HTTPTLS{Cert: crt, Key: key, ClientCA: a.file("ca.crt")}, ""},
		{HTTPTLS{Cert: crt}, "takes a certificate and its key"},
		{HTTPTLS{ClientCA: crt}, "takes a certificate and its key"},
		{HTTPTLS{Cert: crt, Key: a.file("none")}, "no such file"},
		{HTTPTLS{Cert: crt, Key: a.file("ca.key")}, "certificate: tls: private key does not match"},
		{HTTPTLS{Cert: crt, Key: key, ClientCA: key}, "there is no certificate in"},
	} {
		err := c.files.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: got %v, want %q", c.files, err, c.want)
		}
	}
}

// The unix socket asks for no credentials; its permissions say who may use it.
func TestControlSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	r := newRig(t, func(o *Options) {
		o.HTTPLocal, o.HTTPLocalAccess, o.HTTPAuth.Token = path, unixsock.Access{Mode: 0o600}, "secret"
	})
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", fi, err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(poll.Patience))
	body := `{"items":[]}`
	if _, err := io.WriteString(c, "POST /publish/ HTTP/1.1\r\nContent-Length: 12\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(b, []byte("HTTP/1.1 200 OK\r\n")) {
		t.Errorf("got %q, %v", b, err)
	}
	if got := r.post("/publish/", body); !strings.HasPrefix(got, "HTTP/1.1 401 ") {
		t.Errorf("over the port: got %q", got)
	}
	r.stop()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}
