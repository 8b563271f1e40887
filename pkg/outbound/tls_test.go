package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/test/pki"
)

// Certificates are verified, over https and wss, and no pooled connection helps
// around that.
func TestCertificates(t *testing.T) {
	ours, theirs := pki.NewAuthority(t), pki.NewAuthority(t)
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	local := []net.IP{net.IPv4(127, 0, 0, 1)}
	tests := []struct {
		name string
		a    *pki.Authority
		cert x509.Certificate
		ok   bool
	}{
		{"good", ours, x509.Certificate{IPAddresses: local, NotAfter: in(time.Hour)}, true},
		{"signs itself", nil, x509.Certificate{IPAddresses: local, NotAfter: in(time.Hour)}, false},
		{"unknown authority", theirs, x509.Certificate{IPAddresses: local, NotAfter: in(time.Hour)}, false},
		{"forged with the right name", theirs, x509.Certificate{Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: local, DNSNames: []string{"127.0.0.1"}, NotAfter: in(time.Hour)}, false},
		{"expired", ours, x509.Certificate{IPAddresses: local, NotAfter: in(-time.Minute)}, false},
		{"not yet", ours, x509.Certificate{IPAddresses: local, NotBefore: in(time.Minute), NotAfter: in(time.Hour)}, false},
		{"other name", ours, x509.Certificate{DNSNames: []string{"other.test"}, NotAfter: in(time.Hour)}, false},
		{"name in the common name only", ours, x509.Certificate{Subject: pkix.Name{CommonName: "127.0.0.1"}, NotAfter: in(time.Hour)}, false},
		{"for clients", ours, x509.Certificate{IPAddresses: local, NotAfter: in(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{tt.a.Issue(t, &tt.cert)}}
			s.StartTLS()
			t.Cleanup(s.Close)
			c := newClient(t, Options{RootCAs: ours.Pool})
			wss := strings.Replace(s.URL, "https", "wss", 1)
			// Whoever does not care opens connections first.
			for range 2 {
				if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: s.URL, IgnoreTLSErrors: true}); err != nil {
					t.Fatal(err)
				}
				_, err := c.Fetch(long(t), &Request{Method: "GET", URI: s.URL})
				_, wsErr := c.WebSocket(long(t), &Request{URI: wss}, 1000)
				if tt.ok {
					if err != nil {
						t.Error(err)
					}
					wantCondition(t, wsErr, Rejected)
					continue
				}
				wantCondition(t, err, TLSError)
				wantCondition(t, wsErr, TLSError)
				// Ignoring policies is not ignoring certificates.
				_, err = c.Fetch(long(t), &Request{Method: "GET", URI: s.URL, IgnorePolicies: true})
				wantCondition(t, err, TLSError)
			}
			_, err := c.WebSocket(long(t), &Request{URI: wss, IgnoreTLSErrors: true}, 1000)
			wantCondition(t, err, Rejected)
		})
	}
}

// The certificate must be for the host of the URI; for the connect host only if
// that is trusted, which is no way around the policy.
func TestConnectHostCertificate(t *testing.T) {
	ours := pki.NewAuthority(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{ours.Issue(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"right.test"}, NotAfter: time.Now().Add(time.Hour)})}}
	s.StartTLS()
	t.Cleanup(s.Close)
	addr := strings.TrimPrefix(s.URL, "https://")
	c := newClient(t, Options{RootCAs: ours.Pool})
	for _, name := range []string{"right.test", "right.test.", "RIGHT.test"} {
		if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: "https://" + name + "/", ConnectHost: addr}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "https://wrong.test/", ConnectHost: addr})
	wantCondition(t, err, TLSError)
	if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: "https://wrong.test/", ConnectHost: addr, TrustConnectHost: true}); err != nil {
		t.Error(err)
	}
	_, err = c.Fetch(long(t), &Request{Method: "GET", URI: "https://wrong.test/", ConnectHost: addr})
	wantCondition(t, err, TLSError) // the connection of the one before is not taken

	strict := newClient(t, Options{RootCAs: ours.Pool, Policy: rules(t, "allow", nil, []string{"@internal"})})
	_, err = strict.Fetch(long(t), &Request{Method: "GET", URI: "https://right.test/", ConnectHost: addr, TrustConnectHost: true})
	wantCondition(t, err, PolicyViolation)
}
