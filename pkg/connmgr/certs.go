package connmgr

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// certs finds certificates in a directory: NAME.crt (certificate and chain) and
// NAME.key, both PEM. They are read when they are first asked for, and again
// when one of the two files has another modification time, so certificates
// are renewed without a restart. Files that vanish or do not fit together leave
// the old certificate in use.
type certs struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	known map[string]*knownCert // only names for which there was a certificate
}

type knownCert struct {
	cert     *tls.Certificate
	crt, key time.Time // modification times of what was read, or tried last
}

var errNoCertificate = errors.New("no certificate for this server name")

// config returns the configuration of a listener on port. It asks for what
// Mozilla calls the intermediate profile, which is what crypto/tls offers from
// TLS 1.2 on.
func (c *certs) config(port string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.find(hello.ServerName, port)
		},
	}
}

// find returns the certificate for a server name: its own, that of its parent's
// wildcard, or the default of the port.
func (c *certs) find(server, port string) (*tls.Certificate, error) {
	server = strings.ToLower(server)
	names := make([]string, 0, 3)
	if validServerName(server) {
		names = append(names, server)
		if _, parent, ok := strings.Cut(server, "."); ok {
			names = append(names, "_."+parent)
		}
	}
	names = append(names, "default_"+port)
	for _, name := range names {
		cert, err := c.load(name)
		if err != nil {
			c.log.Warn("certificate cannot be used", "name", name, "err", err)
		}
		if cert != nil {
			return cert, nil
		}
	}
	return nil, errNoCertificate
}

// any reports whether there is a certificate of that name, or at least one that
// is for a name that clients may ask for. What is wrong with the first is logged.
func (c *certs) any(name string) bool {
	cert, err := c.load(name)
	if err != nil {
		c.log.Warn("certificate cannot be used", "name", name, "err", err)
	}
	if cert != nil {
		return true
	}
	files, err := filepath.Glob(filepath.Join(c.dir, "*.crt"))
	return err == nil && slices.ContainsFunc(files, func(f string) bool { return !strings.HasPrefix(filepath.Base(f), "default_") })
}

// validServerName keeps names that clients make up from reaching other files.
func validServerName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0
		if !ok {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// load returns the certificate called name, nil if there is none. An error may
// come with the certificate that was read before.
func (c *certs) load(name string) (*tls.Certificate, error) {
	crt, key := filepath.Join(c.dir, name+".crt"), filepath.Join(c.dir, name+".key")
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[name]
	ci, err := os.Stat(crt)
	var ki os.FileInfo
	if err == nil {
		ki, err = os.Stat(key)
	}
	switch {
	case errors.Is(err, os.ErrNotExist) && k == nil:
		return nil, nil
	case err != nil && k != nil:
		return k.cert, nil
	case err != nil:
		return nil, err
	case k != nil && k.crt.Equal(ci.ModTime()) && k.key.Equal(ki.ModTime()):
		return k.cert, nil
	}
	cert, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		err = fmt.Errorf("read certificate: %w", err)
		if k == nil {
			return nil, err
		}
		k.crt, k.key = ci.ModTime(), ki.ModTime() // do not try this pair again
		return k.cert, err
	}
	if c.known == nil {
		c.known = make(map[string]*knownCert)
	}
	c.known[name] = &knownCert{cert: &cert, crt: ci.ModTime(), key: ki.ModTime()}
	return &cert, nil
}
