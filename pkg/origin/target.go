package origin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
)

// Target says where to connect to, and how. It is the key of the pool: a
// connection serves requests of an equal Target only, so that none made without
// checks is ever used by a request that wants them.
type Target struct {
	Addr string // host:port
	TLS  bool
	// ServerName is the name that the certificate must be for, and that is asked
	// for; "" means the host of Addr.
	ServerName string
	// Insecure accepts any certificate.
	Insecure bool
	// TrustConnectHost accepts a certificate for the host of Addr too.
	TrustConnectHost bool
	// ClientCert and ClientKey are PEM files, read at each handshake; "" for none.
	ClientCert, ClientKey string
	// Untrusted refuses addresses that Options.Allowed does not allow.
	Untrusted bool
}

func (t *Target) tlsConfig(roots *x509.CertPool) *tls.Config {
	host, _, err := net.SplitHostPort(t.Addr)
	if err != nil {
		host = t.Addr
	}
	name := t.ServerName
	if name == "" {
		name = host
	}
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            roots,
		ServerName:         name,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	switch {
	case t.Insecure:
		cfg.InsecureSkipVerify = true // what the target's "insecure" asks for
	case t.TrustConnectHost && host != name:
		// The usual verification takes one name only. It is replaced by the same
		// one for either name.
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			return verifyEither(cs, roots, name, host)
		}
	}
	if t.ClientCert != "" {
		certFile, keyFile := t.ClientCert, t.ClientKey
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &cert, err
		}
	}
	return cfg
}

func verifyEither(cs tls.ConnectionState, roots *x509.CertPool, names ...string) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("no certificate")
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, cert := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	var errs error
	for _, name := range names {
		opts.DNSName = name
		_, err := cs.PeerCertificates[0].Verify(opts)
		if err == nil {
			return nil
		}
		errs = errors.Join(errs, err)
	}
	return errs
}
