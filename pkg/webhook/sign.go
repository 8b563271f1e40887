package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Secrets as Standard Webhooks has them.
const (
	secretPrefix = "whsec_"
	minSecret    = 24
	maxSecret    = 64
)

func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(b)
}

func parseSecret(s string) ([]byte, error) {
	text, ok := strings.CutPrefix(s, secretPrefix)
	b, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(b) < minSecret || len(b) > maxSecret {
		return nil, errors.New("want whsec_ and 24 to 64 bytes in base64")
	}
	return b, nil
}

// sign returns the value of webhook-signature: one signature for each key.
func sign(keys []string, id string, at time.Time, body []byte) string {
	head := id + "." + strconv.FormatInt(at.Unix(), 10) + "."
	var b strings.Builder
	for _, k := range keys {
		key, err := parseSecret(k)
		if err != nil {
			continue // it was checked when it was set
		}
		m := hmac.New(sha256.New, key)
		m.Write([]byte(head))
		m.Write(body)
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("v1,")
		b.WriteString(base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	return b.String()
}

// randomID returns a name that nobody can guess.
func randomID(prefix string) string { return prefix + strings.ToLower(rand.Text()) }
