package outbound

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	tests := []struct {
		uri, addr, host, path string // addr is "" if the URI is refused
	}{
		{"http://a.example", "a.example:80", "a.example", "/"},
		{"HTTPS://A.Example?q", "a.example:443", "a.example", "/?q"},
		{"http://a.example:8080/x//../y?z=%20#f", "a.example:8080", "a.example:8080", "/x//../y?z=%20"},
		{"http://a.example:/", "a.example:80", "a.example", "/"},
		{"https://a.example:80/", "a.example:80", "a.example:80", "/"},
		{"ws://a_b.example./x", "a_b.example.:80", "a_b.example.", "/x"},
		{"wss://[2001:DB8::1]/", "[2001:db8::1]:443", "[2001:db8::1]", "/"},
		{"http://[fe80::1%25eth0]:81/", "[fe80::1%eth0]:81", "[fe80::1]:81", "/"},
		{"http://[::ffff:7f00:1]/", "[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]", "/"},
		{"http://user:p@ss@a.example/", "", "", ""},
		{"http://user:pass@a.example/", "a.example:80", "a.example", "/"},
		{"http://a.example@127.0.0.1/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://2130706433/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://0x7f000001/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://017700000001/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://127.1/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://0x7f.1/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://0177.0.0.01/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://127.0.0.1./", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://127.65535/", "127.0.255.255:80", "127.0.255.255", "/"},
		{"http://0x/", "0.0.0.0:80", "0.0.0.0", "/"},
		{"http://①②⑦.⓪.⓪.①/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://127。0。0。1/", "127.0.0.1:80", "127.0.0.1", "/"},
		{"http://bücher.example/", "xn--bcher-kva.example:80", "xn--bcher-kva.example", "/"},
		{"http://ＬＯＣＡＬＨＯＳＴ/", "localhost:80", "localhost", "/"},
		{uri: ""},
		{uri: "a.example"},
		{uri: "http:/a.example"},
		{uri: "//a.example/"},
		{uri: "ftp://a.example/"},
		{uri: "file:///etc/passwd"},
		{uri: "http://"},
		{uri: "http:///x"},
		{uri: "http://?x"},
		{uri: "http://.example/"},
		{uri: "http://a..example/"},
		{uri: "http://a.example\\@127.0.0.1/"},
		{uri: "http://a.example\\.b/"},
		{uri: "http://a b/"},
		{uri: "http://a.example\r\nX: y/"},
		{uri: "http://a%2eexample/"},
		{uri: "http://127.0.0.1%00.example/"},
		{uri: "http://a.example:0/"},
		{uri: "http://a.example:65536/"},
		{uri: "http://a.example:8x/"},
		{uri: "http://a.example:80:81/"},
		{uri: "http://::1/"},
		{uri: "http://[::1/"},
		{uri: "http://[::1]x/"},
		{uri: "http://[127.0.0.1]/"},
		{uri: "http://[fe80::1%25a/b]/"},
		{uri: "http://256.1.1.1/"},
		{uri: "http://1.1.1.1.1/"},
		{uri: "http://127.0.0.08/"},
		{uri: "http://4294967296/"},
		{uri: "http://" + strings.Repeat("a", 255) + "/"},
	}
	for _, tt := range tests {
		got, err := parseURI(tt.uri)
		if tt.addr == "" {
			if err == nil {
				t.Errorf("%q: got %v, want an error", tt.uri, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tt.uri, err)
		} else if got.addr() != tt.addr || got.hostField() != tt.host || got.path != tt.path {
			t.Errorf("%q: got %s, Host %s, path %s; want %s, %s, %s", tt.uri, got.addr(), got.hostField(), got.path, tt.addr, tt.host, tt.path)
		}
	}
}

func TestRedirectTo(t *testing.T) {
	tests := []struct{ from, location, to string }{
		{"http://a.example/x/y?z", "w", "http://a.example:80/x/w"},
		{"http://a.example/x/y?z", "../w", "http://a.example:80/w"},
		{"http://a.example/x/y?z", "?w", "http://a.example:80/x/y?w"},
		{"http://a.example/x/y?z", "/w#f", "http://a.example:80/w"},
		{"http://a.example/x/y?z", "", "http://a.example:80/x/y?z"},
		{"https://a.example:8443/", "//b.example/", "https://b.example:443/"},
		{"https://a.example/", "http://b.example", "http://b.example:80/"},
		{"ws://a.example/", "https://b.example", "wss://b.example:443/"},
		{"wss://a.example/", "/x", "wss://a.example:443/x"},
		{"http://a.example/", "ws://b.example", ""},
		{"http://a.example/", "ftp://b.example", ""},
		{"http://a.example/", "http:b.example", ""},
		{"http://a.example/", "javascript:alert(1)", ""},
		{"http://a.example/", "http://[::1", ""},
		{"http://a.example/", "/\x7f", ""},
	}
	for _, tt := range tests {
		from, err := parseURI(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := from.redirect(tt.location)
		if tt.to == "" {
			if err == nil {
				t.Errorf("%s from %s: got %v, want an error", tt.location, tt.from, got)
			}
			continue
		}
		if err != nil || got.String() != tt.to {
			t.Errorf("%s from %s: got %v, %v; want %s", tt.location, tt.from, got, err, tt.to)
		}
	}
}

// What is judged is what is connected to: the host of an accepted URI is an
// address in its usual form, or a name that no part of the system takes for one.
func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"http://a.example/", "https://u:p@a.example:1/?x#y", "ws://[::1%25lo]:80", "http://0x7f.1", "http://①.example", "http://[::ffff:1.2.3.4]/", "http://1.2.3.4./",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseURI(s)
		if err != nil {
			return
		}
		again, err := parseURI(u.String())
		if err != nil || again.addr() != u.addr() || again.path != u.path {
			t.Fatalf("%q: got %s, and from that %v, %v", s, u, again, err)
		}
		if strings.ContainsAny(u.host, " /?#@\\[]\r\n\x00") || u.host == "" {
			t.Fatalf("%q: host %q", s, u.host)
		}
		if a, err := netip.ParseAddr(u.host); err == nil && a.String() != u.host {
			t.Fatalf("%q: address %q", s, u.host)
		}
	})
}
