package handler

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// HTTPTLS says that the port of the control API speaks TLS. The zero value says
// that it does not. The files, all PEM, are read again when one of them has
// changed, so that certificates are renewed without a restart.
type HTTPTLS struct {
	// Cert is the file of the certificate and its chain, Key of its private key.
	Cert, Key string
	// ClientCA is the file of the authorities one of which must have issued the
	// client's certificate; "" asks for none.
	ClientCA string
}

// Check says what is wrong with the files.
func (f HTTPTLS) Check() error {
	_, err := newControlTLS(f)
	return err
}

// controlTLS is an HTTPTLS at work.
type controlTLS struct {
	files HTTPTLS

	mu    sync.Mutex
	times []time.Time // of what was read
	conf  *tls.Config
}

// newControlTLS reads the files. It returns nil if there are none.
func newControlTLS(files HTTPTLS) (*controlTLS, error) {
	switch {
	case files == HTTPTLS{}:
		return nil, nil
	case files.Cert == "" || files.Key == "":
		return nil, errors.New("TLS takes a certificate and its key")
	}
	c := &controlTLS{files: files}
	times, err := c.modified()
	if err == nil {
		c.conf, err = c.load()
	}
	if err != nil {
		return nil, err
	}
	c.times = times
	return c, nil
}

func (c *controlTLS) modified() ([]time.Time, error) {
	var times []time.Time
	for _, name := range []string{c.files.Cert, c.files.Key, c.files.ClientCA} {
		if name == "" {
			continue
		}
		fi, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		times = append(times, fi.ModTime())
	}
	return times, nil
}

func (c *controlTLS) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	if c.files.ClientCA == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(c.files.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client authorities: %w", err)
	}
	conf.ClientCAs, conf.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client authorities: there is no certificate in %s", c.files.ClientCA)
	}
	return conf, nil
}

// current returns the configuration of the files as they are now. If they cannot
// be read, as in the middle of a renewal, what was read before holds.
func (c *controlTLS) current() (conf *tls.Config, err error) {
	times, statErr := c.modified()
	c.mu.Lock()
	defer c.mu.Unlock()
	if statErr != nil {
		return c.conf, statErr
	}
	same := len(times) == len(c.times)
	for i := range times {
		same = same && times[i].Equal(c.times[i])
	}
	if same {
		return c.conf, nil
	}
	c.times = times // do not try these again
	fresh, err := c.load()
	if err == nil {
		c.conf = fresh
	}
	return c.conf, err
}
