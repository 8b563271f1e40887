package origin

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/pki"
)

// issue makes a certificate for servers and clients.
func issue(t *testing.T, a *pki.Authority, notAfter time.Time, names ...string) tls.Certificate {
	t.Helper()
	c := pki.For(names...)
	c.NotAfter = notAfter
	return a.Issue(t, c)
}

func listenTLS(t *testing.T, cfg *tls.Config, serve func(*peer)) Target {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, ln, serve)
	return Target{Addr: ln.Addr().String(), TLS: true}
}

func TestTLS(t *testing.T) {
	ca, other := pki.NewAuthority(t), pki.NewAuthority(t)
	later := time.Now().Add(time.Hour)
	tests := []struct {
		name   string
		cert   tls.Certificate
		target Target
		ok     bool
	}{
		{"connect host", issue(t, ca, later, "127.0.0.1"), Target{}, true},
		{"named", issue(t, ca, later, "o.example"), Target{ServerName: "o.example"}, true},
		{"wrong name", issue(t, ca, later, "o.example"), Target{ServerName: "p.example"}, false},
		{"connect host is not the name", issue(t, ca, later, "127.0.0.1"), Target{ServerName: "o.example"}, false},
		{"connect host is trusted", issue(t, ca, later, "127.0.0.1"), Target{ServerName: "o.example", TrustConnectHost: true}, true},
		{"the name is trusted too", issue(t, ca, later, "o.example"), Target{ServerName: "o.example", TrustConnectHost: true}, true},
		{"neither, trusted", issue(t, ca, later, "q.example"), Target{ServerName: "o.example", TrustConnectHost: true}, false},
		{"expired", issue(t, ca, time.Now().Add(-time.Minute), "127.0.0.1"), Target{}, false},
		{"expired, connect host trusted", issue(t, ca, time.Now().Add(-time.Minute), "127.0.0.1"), Target{ServerName: "o.example", TrustConnectHost: true}, false},
		{"unknown authority", issue(t, other, later, "127.0.0.1"), Target{}, false},
		{"unknown authority, connect host trusted", issue(t, other, later, "127.0.0.1"), Target{ServerName: "o.example", TrustConnectHost: true}, false},
		{"anything goes", issue(t, other, time.Now().Add(-time.Minute), "q.example"), Target{Insecure: true}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.target.TLS = true
			tt.target.Addr = listenTLS(t, &tls.Config{Certificates: []tls.Certificate{tt.cert}}, answer(okResponse)).Addr
			p := newPool(t, Options{RootCAs: ca.Pool})
			for range 2 { // the second may resume the session, which must not skip checks
				body, err := tryGet(p, tt.target)
				switch {
				case tt.ok && (body != "ok" || err != nil):
					t.Errorf("got %q, %v", body, err)
				case !tt.ok && (!errors.Is(err, ErrTLS) || !TryNext(err)):
					t.Errorf("got %v, want ErrTLS", err)
				}
			}
			if s := p.Stats(); tt.ok && s.Dialled != 1 {
				t.Errorf("got %+v, want one connection", s)
			}
			// A connection made with fewer checks must not serve a stricter target.
			strict := Target{Addr: tt.target.Addr, TLS: true, ServerName: "strict.example"}
			if _, err := tryGet(p, strict); !errors.Is(err, ErrTLS) {
				t.Errorf("strict target: got %v, want ErrTLS", err)
			}
		})
	}
	t.Run("not TLS", func(t *testing.T) {
		target := listen(t, func(p *peer) { p.send("HTTP/1.1 400 Bad Request\r\n\r\n") })
		target.TLS = true
		if _, err := tryGet(newPool(t, Options{}), target); !errors.Is(err, ErrTLS) {
			t.Errorf("got %v, want ErrTLS", err)
		}
	})
	// What follows a response in the same segment is held by the TLS layer, and
	// must not become the next response.
	t.Run("more than announced", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := &tls.Config{Certificates: []tls.Certificate{issue(t, ca, later, "127.0.0.1")}}
		serveOn(t, ln, func(p *peer) {
			raw := &gather{Conn: p.Conn}
			p.Conn = tls.Server(raw, cfg)
			p.br.Reset(p.Conn)
			for {
				if _, _, ok := p.request(); !ok {
					return
				}
				raw.hold = true
				p.send(okResponse)
				p.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				raw.hold = false
				_, _ = raw.Write(nil)
			}
		})
		target := Target{Addr: ln.Addr().String(), TLS: true}
		p := newPool(t, Options{RootCAs: ca.Pool})
		for range 10 {
			if got := get(t, p, target); got != "ok" {
				t.Fatalf("got %q", got)
			}
		}
	})
	t.Run("idle connection found closed", func(t *testing.T) {
		closed := make(chan struct{}, 2)
		target := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{issue(t, ca, later, "127.0.0.1")}}, func(p *peer) {
			p.request()
			p.send(okResponse)
			_ = p.Close()
			closed <- struct{}{}
		})
		p := newPool(t, Options{RootCAs: ca.Pool})
		get(t, p, target)
		<-closed
		resp, err := p.Do(t.Context(), target, &Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Close()
	})
}

// gather holds writes back and then makes them one.
type gather struct {
	net.Conn
	hold bool
	held []byte
}

func (g *gather) Write(b []byte) (int, error) {
	g.held = append(g.held, b...)
	if g.hold {
		return len(b), nil
	}
	_, err := g.Conn.Write(g.held)
	g.held = g.held[:0]
	return len(b), err
}

func TestTLSClientCertificate(t *testing.T) {
	ca := pki.NewAuthority(t)
	later := time.Now().Add(time.Hour)
	target := listenTLS(t, &tls.Config{
		Certificates: []tls.Certificate{issue(t, ca, later, "127.0.0.1")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool,
		MaxVersion: tls.VersionTLS12, // so that the refusal comes within the handshake
	}, answer(okResponse))

	cert := issue(t, ca, later, "client")
	dir := t.TempDir()
	target.ClientCert, target.ClientKey = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	p := newPool(t, Options{RootCAs: ca.Pool})
	if _, err := tryGet(p, target); !errors.Is(err, ErrTLS) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no files: got %v, want ErrTLS that names the file", err)
	}
	pki.Write(t, cert, target.ClientCert, target.ClientKey)
	if got := get(t, p, target); got != "ok" {
		t.Errorf("got %q", got)
	}
	if _, err := tryGet(p, Target{Addr: target.Addr, TLS: true}); !errors.Is(err, ErrTLS) {
		t.Errorf("no certificate: got %v, want ErrTLS", err)
	}
}
