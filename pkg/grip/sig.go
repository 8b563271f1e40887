package grip

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// sigLifetime is how long a Grip-Sig is good for.
const sigLifetime = time.Hour

// Key signs or verifies Grip-Sig. The zero value is no key: nothing is signed,
// and nothing verifies.
type Key struct {
	method jwt.SigningMethod
	key    any
}

// IsZero reports whether there is no key.
func (k Key) IsZero() bool { return k.method == nil }

// ParseSigningKey reads a key string: "" for no key, "base64:..." for a secret
// in base64, "file:PATH" for a file that holds a private key in PEM (EC P-256 or
// RSA) or a secret in hexadecimal; any other text is itself the secret. Relative
// paths start from dir.
func ParseSigningKey(s, dir string) (Key, error) {
	return parseKey(s, dir, func(pem []byte) (Key, error) {
		if k, err := jwt.ParseECPrivateKeyFromPEM(pem); err == nil {
			return ecKey(k, k.Curve)
		}
		k, err := jwt.ParseRSAPrivateKeyFromPEM(pem)
		if err != nil {
			return Key{}, errors.New("no EC or RSA private key in PEM")
		}
		return Key{jwt.SigningMethodRS256, k}, nil
	})
}

// ParseVerifyingKey is like [ParseSigningKey], but PEM holds a public key or a
// certificate.
func ParseVerifyingKey(s, dir string) (Key, error) {
	return parseKey(s, dir, func(pem []byte) (Key, error) {
		if k, err := jwt.ParseECPublicKeyFromPEM(pem); err == nil {
			return ecKey(k, k.Curve)
		}
		k, err := jwt.ParseRSAPublicKeyFromPEM(pem)
		if err != nil {
			return Key{}, errors.New("no EC or RSA public key in PEM")
		}
		return Key{jwt.SigningMethodRS256, k}, nil
	})
}

func ecKey(k crypto.PublicKey, curve elliptic.Curve) (Key, error) {
	if curve != elliptic.P256() {
		return Key{}, fmt.Errorf("EC key has curve %s, want P-256", curve.Params().Name)
	}
	return Key{jwt.SigningMethodES256, k}, nil
}

func parseKey(s, dir string, parsePEM func([]byte) (Key, error)) (Key, error) {
	secret := []byte(s)
	if path, ok := strings.CutPrefix(s, "file:"); ok {
		b, err := os.ReadFile(KeyPath(path, dir))
		if err != nil {
			return Key{}, fmt.Errorf("key file: %w", err)
		}
		if bytes.HasPrefix(b, []byte("-----BEGIN")) {
			k, err := parsePEM(b)
			if err != nil {
				return Key{}, fmt.Errorf("key file %s: %w", path, err)
			}
			return k, nil
		}
		secret, err = hex.DecodeString(string(bytes.TrimSpace(b)))
		if err != nil {
			return Key{}, fmt.Errorf("key file %s: neither PEM nor hexadecimal", path)
		}
		if len(secret) == 0 {
			return Key{}, fmt.Errorf("key file %s is empty", path)
		}
	} else if b64, ok := strings.CutPrefix(s, "base64:"); ok {
		if secret = DecodeBase64(b64); len(secret) == 0 {
			return Key{}, errors.New("base64 key is empty")
		}
	}
	if len(secret) == 0 {
		return Key{}, nil
	}
	return Key{jwt.SigningMethodHS256, secret}, nil
}

// KeyPath returns where a key file is: path, from dir if it is relative.
func KeyPath(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

var b64 = base64.RawURLEncoding

// Sign returns a Grip-Sig of iss that expires at exp. The JWT library's own
// encoder is passed by because its header has another order than origins have
// seen so far.
func (k Key) Sign(iss string, exp time.Time) (string, error) {
	if k.IsZero() {
		return "", errors.New("no key")
	}
	header := `{"typ":"JWT","alg":"` + k.method.Alg() + `"}`
	claims, err := json.Marshal(struct {
		Exp int64  `json:"exp"`
		Iss string `json:"iss"`
	}{exp.Unix(), iss})
	if err != nil {
		return "", fmt.Errorf("claims of Grip-Sig: %w", err)
	}
	token := b64.EncodeToString([]byte(header)) + "." + b64.EncodeToString(claims)
	sig, err := k.method.Sign(token, k.key)
	if err != nil {
		return "", fmt.Errorf("sign Grip-Sig: %w", err)
	}
	return token + "." + b64.EncodeToString(sig), nil
}

// Verify reports whether token was signed with this key, by the algorithm that
// goes with it, and has not expired. Other claims are not looked at.
func (k Key) Verify(token string, now time.Time) bool {
	_, ok := k.claims(token, now)
	return ok
}

// VerifyFrom is like [Key.Verify] and asks for the issuer too; "" is any. A token
// that says that it is not valid yet is not.
func (k Key) VerifyFrom(token, iss string, now time.Time) bool {
	claims, ok := k.claims(token, now)
	if !ok {
		return false
	}
	nbf, err := claims.GetNotBefore()
	if err != nil || nbf != nil && nbf.After(now) {
		return false
	}
	got, err := claims.GetIssuer()
	return err == nil && (iss == "" || got == iss)
}

// claims returns what token says if its signature is right and it has not
// expired.
func (k Key) claims(token string, now time.Time) (jwt.MapClaims, bool) {
	if k.IsZero() {
		return nil, false
	}
	claims := jwt.MapClaims{}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{k.method.Alg()}), jwt.WithoutClaimsValidation())
	if _, err := parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return k.key, nil }); err != nil {
		return nil, false
	}
	exp, err := claims.GetExpirationTime()
	return claims, err == nil && exp != nil && exp.Unix() > 0 && exp.Unix() > now.Unix()
}

// Signer makes Grip-Sig for one issuer and key. It signs once a second at most,
// however many requests there are.
type Signer struct {
	iss string
	key Key

	mu    sync.Mutex
	exp   int64
	token string
}

// NewSigner returns a Signer, or nil if there is nothing to sign with. A nil
// Signer makes no signatures.
func NewSigner(iss string, key Key) *Signer {
	if iss == "" || key.IsZero() {
		return nil
	}
	return &Signer{iss: iss, key: key}
}

// Sign returns a Grip-Sig that expires an hour from now, to the second. It
// returns "" if s is nil.
func (s *Signer) Sign(now time.Time) (string, error) {
	if s == nil {
		return "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	exp := now.Add(sigLifetime)
	if s.token != "" && s.exp == exp.Unix() {
		return s.token, nil
	}
	token, err := s.key.Sign(s.iss, exp)
	if err != nil {
		return "", err
	}
	s.token, s.exp = token, exp.Unix()
	return token, nil
}
