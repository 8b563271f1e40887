package connmgr

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/pki"
	"github.com/holdfast/holdfast/test/poll"
)

// writeCert makes a certificate whose common name is cn, modified at the time at.
func writeCert(t *testing.T, dir, name, cn string, at time.Time) {
	t.Helper()
	var none *pki.Authority
	cert := none.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: cn}})
	path := filepath.Join(dir, name)
	pki.Write(t, cert, path+".crt", path+".key")
	for _, suffix := range []string{".crt", ".key"} {
		if err := os.Chtimes(path+suffix, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCerts(t *testing.T) {
	dir := t.TempDir()
	then := time.Now().Add(-time.Hour)
	c := &certs{dir: dir, log: slog.New(slog.DiscardHandler)}
	find := func(server string) string {
		t.Helper()
		cert, err := c.find(server, "443")
		if err != nil {
			return err.Error()
		}
		return cert.Leaf.Subject.CommonName
	}
	expect := func(server, want string) {
		t.Helper()
		if got := find(server); got != want {
			t.Errorf("%q: got %q, want %q", server, got, want)
		}
	}
	expect("a.example.org", errNoCertificate.Error())
	anyOne := func(want bool) {
		t.Helper()
		if c.any("default_443") != want {
			t.Errorf("any: want %v", want)
		}
	}
	anyOne(false)
	writeCert(t, dir, "default_444", "of another port", then)
	anyOne(false)
	writeCert(t, dir, "a.example.org", "own", then)
	anyOne(true)
	writeCert(t, dir, "_.example.org", "wildcard", then)
	expect("A.Example.org", "own")
	expect("b.example.org", "wildcard")
	expect("c.b.example.org", errNoCertificate.Error())
	expect("", errNoCertificate.Error())
	writeCert(t, dir, "default_443", "default", then)
	expect("c.b.example.org", "default")
	expect("", "default")
	expect("../"+filepath.Base(dir)+"/a.example.org", "default")
	if _, err := c.find("", "8443"); err == nil {
		t.Error("the default of another port was used")
	}

	writeCert(t, dir, "a.example.org", "renewed", then.Add(time.Minute))
	expect("a.example.org", "renewed")
	if err := os.WriteFile(filepath.Join(dir, "a.example.org.crt"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("a.example.org", "renewed")
	if err := os.Remove(filepath.Join(dir, "a.example.org.key")); err != nil {
		t.Fatal(err)
	}
	expect("a.example.org", "renewed")
}

func tlsRig(t *testing.T, change ...func(*Options)) (*rig, func() *client) {
	dir := t.TempDir()
	r := newRig(t, append(change, func(o *Options) {
		o.CertDir = dir
		o.Listen[0].TLS = true
	})...)
	_, port, _ := net.SplitHostPort(r.addr)
	writeCert(t, dir, "default_"+port, "default", time.Now())
	return r, func() *client {
		t.Helper()
		nc, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}) //nolint:gosec // a test certificate
		if err != nil {
			t.Fatal(err)
		}
		return r.client(nc)
	}
}

func TestTLS(t *testing.T) {
	r, dial := tlsRig(t)
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)

	c := dial()
	c.get("/a")
	req := next[*frame.Request](p)
	if req.Scheme != "https" {
		t.Errorf("scheme %q", req.Scheme)
	}
	p.send(&frame.Response{ID: req.ID, Code: 200, Reason: "OK", Body: []byte("hi")})
	c.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

	// A stream on the same connection, a burst, the end, and the connection goes on.
	id := r.hold(p, h, c, h.stream("i", "g"))
	c.expect(streamHead + chunk("i"))
	want := ""
	for n := range 500 {
		h.send(publish(uint64(n+1), "g", fmt.Sprint(n)))
		want += chunk(fmt.Sprint(n))
	}
	c.expect(want)
	h.send(&frame.Finish{ID: id, Seq: 1})
	c.expect("0\r\n\r\n")
	if n, dropped := h.outcome(500, 1); n != 1 {
		t.Errorf("delivered %d, dropped %v", n, dropped)
	}
	next[*frame.Closed](h)
	r.hold(p, h, c, h.response("g"))
	h.send(&frame.Deliver{Pub: 1000, Mode: frame.ModeResponse, Group: "g", Body: []byte("x")})
	c.head()
	c.expect("x")
	next[*frame.Closed](h)

	// A client that leaves.
	id = r.hold(p, h, c, h.stream("", "g"))
	c.expect(streamHead)
	_ = c.Close()
	if closed := next[*frame.Closed](h); closed.ID != id || closed.Reason != frame.ReasonClientGone {
		t.Errorf("closed: %+v", closed)
	}

	plain := r.dial()
	plain.get("/")
	plain.expect("HTTP/1.0 400 Bad Request\r\n")
}

// A TLS client that does not read for a while gets everything in the end: what
// waits is encrypted in its turn.
func TestTLSBacklog(t *testing.T) {
	r, dial := tlsRig(t, func(o *Options) { o.MaxBacklog = 64 << 20 })
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := dial()
	r.hold(p, h, c, h.stream("", "g"))
	c.expect(streamHead)
	const pubs = 400
	body := repeat("0123456789", 4000)
	for n := range pubs {
		h.send(publish(uint64(n+1), "g", string(body)))
	}
	poll.Until(t, "a backlog", func() bool { return counterValue(r.s.metrics.backlog) > 1<<20 })
	for range pubs {
		c.expect(chunk(string(body)))
	}
	for n := range pubs {
		if d, dropped := h.outcome(uint64(n+1), 1); d != 1 {
			t.Fatalf("publication %d: delivered %d, dropped %v", n, d, dropped)
		}
	}
	poll.Until(t, "no backlog", func() bool { return counterValue(r.s.metrics.backlog) == 0 })
}

func TestTLSDropOldest(t *testing.T) {
	r, dial := tlsRig(t, func(o *Options) { o.MaxBacklog, o.Policy = 100_000, frame.PolicyDropOldest })
	p, h := r.far("proxy.0", nil), r.far("handler.0", nil)
	c := dial()
	r.hold(p, h, c, h.stream("", "g"))
	c.expect(streamHead)
	const pubs = 400
	for n := range pubs {
		h.send(publish(uint64(n+1), "g", fmt.Sprintf("%06d", n)+string(repeat("x", 40_000))))
	}
	delivered := 0
	previous := -1
	for previous != pubs-1 {
		line, err := c.br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var size, n int
		fmt.Sscanf(line, "%x", &size)
		var data bytes.Buffer
		if _, err := io.CopyN(&data, c.br, int64(size+2)); err != nil {
			t.Fatal(err)
		}
		fmt.Sscanf(data.String()[:6], "%d", &n)
		if n <= previous || !strings.HasSuffix(data.String(), "xx\r\n") {
			t.Fatalf("%d after %d", n, previous)
		}
		previous = n
		delivered++
	}
	if delivered == pubs {
		t.Error("nothing was dropped")
	}
}
