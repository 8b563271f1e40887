package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast/holdfast/pkg/origin"
	"github.com/holdfast/holdfast/pkg/route"
)

// attempt is a target that was tried in vain.
type attempt struct {
	target *route.Target
	err    error
}

// notReached is the text of debug mode for targets that could not be reached:
// Pushpin's line, then a line for each target that says why.
func notReached(tried []attempt) string {
	names := make([]string, len(tried))
	var why []string
	for i, a := range tried {
		names[i] = a.target.Name
		if line := a.target.Name + ": " + explain(a.target, a.err); !slices.Contains(why, line) {
			why = append(why, line)
		}
	}
	return "Unable to connect to any targets. Tried: " + strings.Join(names, ", ") + "\n\n" + strings.Join(why, "\n")
}

// explain says in words for operators what went wrong with a target, and what to
// look at.
func explain(t *route.Target, err error) string {
	var (
		dns       *net.DNSError
		hostname  x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		notTLS    tls.RecordHeaderError
		timeout   net.Error
	)
	switch {
	case errors.Is(err, errTargetKind):
		return "targets of this kind are not supported"
	case errors.Is(err, origin.ErrPolicy):
		return "its address is not a public one, which is not allowed for a target with the option untrusted"
	case errors.Is(err, origin.ErrSpeaksTLS):
		return "it speaks TLS, and was spoken to in plain HTTP: add ssl to the target"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: nothing listens there, or a firewall is in the way"
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("there is no host %s", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s could not be looked up: %v", dns.Name, dns)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to that host"
	case errors.As(err, &hostname):
		return fmt.Sprintf("its certificate is for %s, not for %s: set host= to one of those, or insecure", strings.Join(certNames(hostname.Certificate), ", "), hostname.Host)
	case errors.As(err, &authority):
		return "its certificate was issued by an authority that is not known here: add that to the system's, or set insecure"
	case errors.As(err, &invalid):
		return fmt.Sprintf("its certificate is not valid: %v", invalid)
	case errors.As(err, &notTLS):
		return "it does not speak TLS there: remove ssl from the target, or use its TLS port"
	case errors.Is(err, origin.ErrTLS) && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return "it ended the connection when TLS began: does it speak TLS there, and with the client certificate if one is set?"
	case errors.Is(err, origin.ErrTLS):
		return fmt.Sprintf("TLS failed: %v", cause(err))
	case errors.Is(err, origin.ErrTimeout), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.Is(err, origin.ErrProtocol):
		return fmt.Sprintf("what it sent is not HTTP: %v", cause(err))
	case errors.Is(err, origin.ErrCut) && !t.TLS:
		return "it ended the connection before it answered; if it wants TLS there, add ssl to the target"
	case errors.Is(err, origin.ErrCut):
		return "it ended the connection before it answered"
	}
	return cause(err).Error()
}

// targetFailed logs why a target did not answer a client. At the usual level it
// is one line a second at most, since clients decide how many requests there are.
func (s *Server) targetFailed(exchange uint64, t *route.Target, err error) {
	s.log.Debug("target failed", "exchange", exchange, "target", t.Name, "err", err)
	if notLogged, ok := s.targetLog.Allow(s.opts.Now()); ok {
		s.log.Warn("target failed", "target", t.Name, "why", explain(t, err), "not_logged", notLogged)
	}
}

// cause is the innermost part of an error of package origin that has a text.
func cause(err error) error {
	var e *origin.Error
	if errors.As(err, &e) && e.Err != nil {
		return e.Err
	}
	return err
}

// certNames returns whom a certificate is for.
func certNames(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = []string{"no host at all"}
	}
	return names[:min(len(names), 5)]
}

// notAnswered is the text of debug mode for an origin that was reached and did
// not answer as it should.
func notAnswered(t *route.Target, err error) string {
	return generic + "\n\n" + t.Name + ": " + explain(t, err)
}
