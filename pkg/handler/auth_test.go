package handler

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/holdfast/holdfast/pkg/grip"
)

// token is a JWT as client libraries make them: iss and exp, and nothing else.
func token(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publicKey(t *testing.T, key crypto.PublicKey) grip.Key {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := grip.ParseVerifyingKey("file:"+file, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestHTTPAuth(t *testing.T) {
	now := time.Unix(1e9, 0)
	secret, err := grip.ParseVerifyingKey("secret", "")
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecPublic, rsPublic := publicKey(t, ec.Public()), publicKey(t, rs.Public())
	good := jwt.MapClaims{"iss": "realm", "exp": now.Unix() + 600}
	hs := func(c jwt.MapClaims) string { return "Bearer " + token(t, jwt.SigningMethodHS256, []byte("secret"), c) }
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pass"))
	byKey := HTTPAuth{Key: secret, Iss: "realm"}
	all := HTTPAuth{Key: secret, Iss: "realm", Token: "abc", User: "me:pass"}
	for _, c := range []struct {
		name  string
		auth  HTTPAuth
		value string
		want  bool
	}{
		{"nothing", byKey, "", false},
		{"HS256", byKey, hs(good), true},
		{"scheme in lower case", byKey, "bearer" + strings.TrimPrefix(hs(good), "Bearer"), true},
		{"any issuer", HTTPAuth{Key: secret}, hs(good), true},
		{"other issuer", byKey, hs(jwt.MapClaims{"iss": "other", "exp": now.Unix() + 600}), false},
		{"no issuer", byKey, hs(jwt.MapClaims{"exp": now.Unix() + 600}), false},
		{"never expires", byKey, hs(jwt.MapClaims{"iss": "realm"}), false},
		{"expired", byKey, hs(jwt.MapClaims{"iss": "realm", "exp": now.Unix() - 1}), false},
		{"not yet", byKey, hs(jwt.MapClaims{"iss": "realm", "exp": now.Unix() + 600, "nbf": now.Unix() + 60}), false},
		{"other key", byKey, "Bearer " + token(t, jwt.SigningMethodHS256, []byte("guess"), good), false},
		{"other algorithm", byKey, "Bearer " + token(t, jwt.SigningMethodHS512, []byte("secret"), good), false},
		{"no algorithm", byKey, "Bearer " + token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good), false},
		{"RS256", HTTPAuth{Key: rsPublic, Iss: "realm"}, "Bearer " + token(t, jwt.SigningMethodRS256, rs, good), true},
		{"ES256", HTTPAuth{Key: ecPublic, Iss: "realm"}, "Bearer " + token(t, jwt.SigningMethodES256, ec, good), true},
		{"RS256 for an EC key", HTTPAuth{Key: ecPublic, Iss: "realm"}, "Bearer " + token(t, jwt.SigningMethodRS256, rs, good), false},
		{"static", all, "Bearer abc", true},
		{"static, longer", all, "Bearer abcd", false},
		{"static, empty", all, "Bearer ", false},
		{"empty token where none is set", byKey, "Bearer ", false},
		{"the key is no token", byKey, "Bearer secret", false},
		{"basic", all, basic, true},
		{"basic, wrong", all, "Basic " + base64.StdEncoding.EncodeToString([]byte("me:word")), false},
		{"basic, no base64", all, "Basic ???", false},
		{"basic where none is set", byKey, "Basic ", false},
		{"one kind as the other", all, "Basic abc", false},
	} {
		if got := c.auth.allows(c.value, now); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestControlAPIAuth(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPAuth = HTTPAuth{Token: "abc"} })
	ask := func(head string) string {
		t.Helper()
		conn, err := net.Dial("tcp", r.s.listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		body := `{"items":[]}`
		if _, err := io.WriteString(conn, "POST /publish/ HTTP/1.1\r\nContent-Length: 12\r\n"+head+"\r\n"+body); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	const refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"control\"\r\nContent-Type: text/plain\r\n" +
		"Connection: close\r\nContent-Length: 13\r\n\r\nUnauthorized\n"
	for _, head := range []string{"", "Authorization: \r\n", "Authorization: Bearer abd\r\n", "Authorization: Bearer abc\r\nAuthorization: Bearer abc\r\n"} {
		if got := ask(head); got != refusal {
			t.Errorf("%q: got %q, want %q", head, got, refusal)
		}
	}
	if got := ask("authorization: Bearer abc\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") {
		t.Errorf("got %q", got)
	}
	if n := testutil.ToFloat64(r.s.metrics.unauthorized); n != 4 {
		t.Errorf("counted %v refusals, want 4", n)
	}
}
