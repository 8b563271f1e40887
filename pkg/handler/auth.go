package handler

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"time"

	"github.com/holdfast/holdfast/pkg/grip"
)

// HTTPAuth says who may use the control API. The zero value lets everybody; with
// several kinds of credentials, any one of them will do.
type HTTPAuth struct {
	// Key verifies Bearer tokens that are JWTs. They must expire.
	Key grip.Key
	// Iss is the issuer that such a token must name; "" is any.
	Iss string
	// Token is a Bearer token that is compared as it is; "" is none.
	Token string
	// User is NAME:PASSWORD for HTTP Basic; "" is none.
	User string
}

func (a *HTTPAuth) off() bool { return a.Key.IsZero() && a.Token == "" && a.User == "" }

// allows judges the value of an Authorization field. Client libraries send an
// empty one if they have no credentials.
func (a *HTTPAuth) allows(value string, now time.Time) bool {
	scheme, cred, _ := strings.Cut(value, " ")
	cred = strings.TrimSpace(cred)
	switch strings.ToLower(scheme) {
	case "bearer":
		return a.Token != "" && same(cred, a.Token) || a.Key.VerifyFrom(cred, a.Iss, now)
	case "basic":
		user, err := base64.StdEncoding.DecodeString(cred)
		return err == nil && a.User != "" && same(string(user), a.User)
	}
	return false
}

// same takes as long for a near miss as for a far one, whatever the lengths.
func same(got, want string) bool {
	g, w := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(g[:], w[:]) == 1
}

// challenge is the WWW-Authenticate of a refusal.
func (a *HTTPAuth) challenge() string {
	if a.Key.IsZero() && a.Token == "" {
		return `Basic realm="control"`
	}
	return `Bearer realm="control"`
}

// authorize returns the refusal of a request without the right credentials, or
// nil. It is asked before the body is read. The unix socket has its permissions
// instead. Two Authorization fields are none.
func (s *Server) authorize(req *request) *response {
	if req.local || s.opt.HTTPAuth.off() {
		return nil
	}
	value, n := req.get("Authorization")
	if n > 1 {
		value = ""
	}
	if s.opt.HTTPAuth.allows(value, s.now()) {
		return nil
	}
	s.metrics.unauthorized.Inc()
	return &response{code: 401, challenge: s.opt.HTTPAuth.challenge(), body: "Unauthorized\n"}
}
