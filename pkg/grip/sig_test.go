package grip

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSigVectors(t *testing.T) {
	type vector struct {
		ID, Key, Iss, Token string
		Exp, Now            int64
		Valid               bool
	}
	for _, v := range readVectors[vector](t, "sig.json") {
		t.Run(v.ID, func(t *testing.T) {
			key, err := ParseVerifyingKey(v.Key, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := key.Verify(v.Token, time.Unix(v.Now, 0)); got != v.Valid {
				t.Errorf("Verify: got %v, want %v", got, v.Valid)
			}
			if v.Iss == "" {
				return
			}
			got, err := NewSigner(v.Iss, key).Sign(time.Unix(v.Exp-3600, 0))
			if err != nil || got != v.Token {
				t.Errorf("Sign: got %q, %v, want %q", got, err, v.Token)
			}
		})
	}
}

func writeKey(t *testing.T, dir, name, blockType string, der []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1700000000, 0)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := func(name string, key any) {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		writeKey(t, dir, name, "PRIVATE KEY", der, err)
	}
	public := func(name string, key any) {
		der, err := x509.MarshalPKIXPublicKey(key)
		writeKey(t, dir, name, "PUBLIC KEY", der, err)
	}
	private("ec.pem", ec)
	private("p384.pem", p384)
	private("rsa.pem", rs)
	public("ec.pub", &ec.PublicKey)
	public("rsa.pub", &rs.PublicKey)
	der, err := x509.MarshalECPrivateKey(ec)
	writeKey(t, dir, "ec-sec1.pem", "EC PRIVATE KEY", der, err)
	writeKey(t, dir, "rsa-pkcs1.pem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rs), nil)
	for name, text := range map[string]string{"hex": " 6b6579\n", "bad": "xyz", "empty": "\n", "broken.pem": "-----BEGIN nothing"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	for _, tt := range []struct{ name, sign, verify, alg string }{
		{"EC", "file:ec.pem", "file:ec.pub", "ES256"},
		{"EC, SEC 1", "file:ec-sec1.pem", "file:" + filepath.Join(dir, "ec.pub"), "ES256"},
		{"RSA", "file:rsa.pem", "file:rsa.pub", "RS256"},
		{"RSA, PKCS 1", "file:rsa-pkcs1.pem", "file:rsa.pub", "RS256"},
		{"hexadecimal file", "file:hex", "key", "HS256"},
		{"base64", "base64:a2V5", "key", "HS256"},
		{"base64, careless", "base64:a2 V5=", "key", "HS256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sign, err := ParseSigningKey(tt.sign, dir)
			if err != nil {
				t.Fatal(err)
			}
			verify, err := ParseVerifyingKey(tt.verify, dir)
			if err != nil {
				t.Fatal(err)
			}
			token, err := NewSigner("i", sign).Sign(now)
			if err != nil {
				t.Fatal(err)
			}
			header, _, _ := strings.Cut(token, ".")
			if got, want := string(mustDecode(t, header)), `{"typ":"JWT","alg":"`+tt.alg+`"}`; got != want {
				t.Errorf("header: got %s, want %s", got, want)
			}
			if !verify.Verify(token, now) {
				t.Error("not verified")
			}
			if verify.Verify(token, now.Add(time.Hour)) {
				t.Error("verified at the second of its expiry")
			}
			if bad := token[:len(token)-8] + "AAAAAAAA"; verify.Verify(bad, now) {
				t.Error("verified with a wrong signature")
			}
			if other, _ := ParseVerifyingKey("other", ""); other.Verify(token, now) {
				t.Error("verified with another key")
			}
		})
	}
	for _, s := range []string{"file:none", "file:bad", "file:empty", "file:broken.pem", "file:p384.pem", "file:ec.pub", "base64:", "base64:=="} {
		if k, err := ParseSigningKey(s, dir); err == nil || !k.IsZero() {
			t.Errorf("ParseSigningKey(%q) = %v, %v, want an error", s, k, err)
		}
	}
	if k, err := ParseSigningKey("", dir); err != nil || !k.IsZero() {
		t.Errorf(`ParseSigningKey("") = %v, %v, want no key and no error`, k, err)
	}
	if (Key{}).Verify("", now) {
		t.Error("no key verified something")
	}
}

// A public key must never serve as the secret of HS256.
func TestVerifyAlgorithmConfusion(t *testing.T) {
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	der, err := x509.MarshalPKIXPublicKey(&rs.PublicKey)
	writeKey(t, dir, "pub", "PUBLIC KEY", der, err)
	pub, err := os.ReadFile(filepath.Join(dir, "pub"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := ParseSigningKey(string(pub), "")
	if err != nil {
		t.Fatal(err)
	}
	token, err := secret.Sign("x", time.Unix(4102444800, 0))
	if err != nil {
		t.Fatal(err)
	}
	verify, err := ParseVerifyingKey("file:pub", dir)
	if err != nil {
		t.Fatal(err)
	}
	if verify.Verify(token, time.Unix(1700000000, 0)) {
		t.Error("HS256 token verified with an RSA key")
	}
}

func TestSignerSignsOncePerSecond(t *testing.T) {
	key, _ := ParseSigningKey("k", "")
	s := NewSigner("i", key)
	now := time.Unix(1700000000, 0)
	first, _ := s.Sign(now)
	if again, _ := s.Sign(now.Add(900 * time.Millisecond)); again != first {
		t.Error("signed twice within a second")
	}
	if later, _ := s.Sign(now.Add(time.Second)); later == first {
		t.Error("token of an earlier second")
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Sign(now.Add(time.Second)) }); n > 0 {
		t.Errorf("%v allocations for a known token", n)
	}
	var none *Signer
	if token, err := none.Sign(now); token != "" || err != nil {
		t.Errorf("nil Signer: %q, %v", token, err)
	}
	if NewSigner("", key) != nil || NewSigner("i", Key{}) != nil {
		t.Error("a signer without issuer or key")
	}
}

func mustDecode(t *testing.T, s string) []byte {
	t.Helper()
	b, err := b64.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzVerify(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDAwMDM2MDAsImlzcyI6InB1c2hwaW4ifQ.kLqQZD5BP5GyM4rxs4s7hNTebsh6irVi0yu8Uk7hRKo")
	key, _ := ParseVerifyingKey("a secret nobody can guess", "")
	f.Fuzz(func(t *testing.T, token string) {
		if key.Verify(token, time.Unix(1700000000, 0)) {
			t.Errorf("verified %q", token)
		}
	})
}
