package connmgr

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/need"
	"github.com/holdfast/holdfast/test/poll"
)

// rekeyer is the client's end of a TLS connection that can ask for new keys, which
// that of crypto/tls does not. It makes the records that it sends itself; those
// that it gets are read by crypto/tls, which notices if one is missing or out of
// order.
type rekeyer struct {
	*tls.Conn
	t      testing.TB
	raw    net.Conn
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	n      uint64 // records sent with these keys
}

func dialRekeyer(t testing.TB, addr string) *rekeyer {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	var keys bytes.Buffer
	r := &rekeyer{t: t, raw: raw, Conn: tls.Client(raw, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &keys, MinVersion: tls.VersionTLS13})} //nolint:gosec // a test certificate
	if err := r.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := r.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		need.Missing(t, "without hardware for AES crypto/tls chooses %s, and this test can make records of AES only; answers to KeyUpdate are not tested", tls.CipherSuiteName(suite))
	}
	for line := range strings.Lines(keys.String()) {
		if f := strings.Fields(line); f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			if r.secret, err = hex.DecodeString(f[2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.useSecret()
	return r
}

// expand is HKDF-Expand-Label of RFC 8446, section 7.1, with an empty context.
func (r *rekeyer) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(append(info, byte(len(label))), label...), 0)
	key, err := hkdf.Expand(sha256.New, r.secret, string(info), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return key
}

func (r *rekeyer) useSecret() {
	block, err := aes.NewCipher(r.expand("key", 16))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		r.t.Fatal(err)
	}
	r.iv, r.n = r.expand("iv", 12), 0
}

// record makes a record (RFC 8446, section 5.2).
func (r *rekeyer) record(kind byte, p []byte) []byte {
	nonce := bytes.Clone(r.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(r.n >> (56 - 8*i))
	}
	r.n++
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(p)+1+r.aead.Overhead()))
	return r.aead.Seal(head, nonce, append(bytes.Clone(p), kind), head)
}

// Write implements net.Conn, for small p.
func (r *rekeyer) Write(p []byte) (int, error) {
	if _, err := r.raw.Write(r.record(23, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// rekey changes the keys and asks the server to do so, too.
func (r *rekeyer) rekey() error {
	_, err := r.raw.Write(r.record(22, []byte{24, 0, 0, 1, 1}))
	r.secret = r.expand("traffic upd", sha256.Size)
	r.useSecret()
	return err
}

func newTLSWSRig(t *testing.T, change ...func(*Options)) *wsRig {
	t.Helper()
	r, _ := tlsRig(t, change...)
	return &wsRig{r, r.far("proxy.0", nil), r.far("handler.0", nil)}
}

// A client that reads nothing and asks for new TLS keys is answered in the order
// of the records, and neither what it sends nor other clients wait for that.
func TestTLSKeyUpdateUnread(t *testing.T) {
	r := newTLSWSRig(t, func(o *Options) { o.Writers, o.MaxBacklog = 1, 64<<20 })
	hostile := dialRekeyer(t, r.addr)
	c := r.openOn(r.client(hostile), "", "g")
	body := string(repeat("0123456789", 4000))
	const pubs = 400
	publishTo := func(group string, pub int, body string) {
		r.h.send(&frame.Deliver{Pub: uint64(pub), Mode: frame.ModeWebSocket, Group: group, Kind: frame.MessageText, Body: []byte(body)})
	}
	for n := range pubs {
		publishTo("g", n+1, fmt.Sprintf("%06d", n)+body)
	}
	poll.Until(t, "a backlog", func() bool { return counterValue(r.s.metrics.backlog) > 1<<20 })
	for range 10 {
		if err := hostile.rekey(); err != nil {
			t.Fatal(err)
		}
	}
	c.frame(0x81, "hi")
	if m := next[*frame.Message](r.p); string(m.Data) != "hi" {
		t.Errorf("the origin got %q", m.Data)
	}
	publishTo("g", pubs+1, "last")

	other := r.openOn(r.client(dialRekeyer(t, r.addr)), "", "h")
	publishTo("h", pubs+2, "others")
	other.want(0x81, "others")

	for n := range pubs {
		c.want(0x81, fmt.Sprintf("%06d", n)+body)
	}
	c.want(0x81, "last")
	for n := range pubs + 2 {
		if d, dropped := r.h.outcome(uint64(n+1), 1); d != 1 {
			t.Fatalf("publication %d: delivered %d, dropped %v", n+1, d, dropped)
		}
	}
}

// What a client makes us keep for it is bounded.
func TestTLSKeyUpdateFlood(t *testing.T) {
	r := newTLSWSRig(t)
	hostile := dialRekeyer(t, r.addr)
	c := r.openOn(r.client(hostile), "", "g")
	long := masked(0x82, string(repeat("x", 60_000)))
	c.client.send(long[:8])
	for i := 8; i < 4000; i++ {
		if i%10 == 0 { // crypto/tls wants something useful now and then
			_, _ = hostile.Write([]byte{long[i/10]})
		}
		if hostile.rekey() != nil {
			break
		}
	}
	if closed := next[*frame.Closed](r.h); closed.Reason != frame.ReasonClientGone {
		t.Errorf("closed: %+v", closed)
	}
}

// A client whose records are wrong is told so.
func TestTLSAlertWhileHeld(t *testing.T) {
	r := newTLSWSRig(t)
	hostile := dialRekeyer(t, r.addr)
	c := r.openOn(r.client(hostile), "", "g")
	hostile.n += 7
	if err := hostile.rekey(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.br.ReadByte(); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("read: %v", err)
	}
	next[*frame.Closed](r.h)
}
