package http1

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func field(name, value string) frame.Field { return frame.Field{Name: name, Value: value} }

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

func TestReadRequestHead(t *testing.T) {
	host := field("Host", "a.example")
	tests := []struct {
		name, in string
		want     RequestHead
	}{
		{"plain", "GET /x?y=%20#z HTTP/1.1\r\nHost: a.example\r\n\r\n", RequestHead{
			Method: "GET", Target: "/x?y=%20#z", Path: "/x?y=%20#z", Host: "a.example", Minor: 1, Header: []frame.Field{host},
		}},
		{"order case and repetition kept", "GET / HTTP/1.1\r\nx-B: 1\r\nHost:a.example\r\nX-a:\r\nx-B:\t 2 3 \t\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1,
			Header: []frame.Field{field("x-B", "1"), host, field("X-a", ""), field("x-B", "2 3")},
		}},
		{"empty lines before", "\r\n\n\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1, Header: []frame.Field{host},
		}},
		{"bare LF", "GET / HTTP/1.1\nHost: a.example\n\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1, Header: []frame.Field{host},
		}},
		{"1.0", "GET / HTTP/1.0\r\n\r\n", RequestHead{Method: "GET", Target: "/", Path: "/", Close: true}},
		{"1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: foo, Keep-Alive\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Header: []frame.Field{field("Connection", "foo, Keep-Alive")},
		}},
		{"1.7 is 1.1", "GET / HTTP/1.7\r\nHost: a.example\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1, Header: []frame.Field{host},
		}},
		{"close", "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive\r\nconnection: x,CLOSE\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1, Close: true,
			Header: []frame.Field{host, field("Connection", "keep-alive"), field("connection", "x,CLOSE")},
		}},
		{"length", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 12\r\n\r\n", RequestHead{
			Method: "POST", Target: "/", Path: "/", Host: "a.example", Minor: 1, BodyLen: 12,
			Header: []frame.Field{host, field("Content-Length", "12")},
		}},
		{"same length twice", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 12\r\nX: y\r\ncontent-length: 12\r\n\r\n", RequestHead{
			Method: "POST", Target: "/", Path: "/", Host: "a.example", Minor: 1, BodyLen: 12,
			Header: []frame.Field{host, field("Content-Length", "12"), field("X", "y")},
		}},
		{"chunked", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n", RequestHead{
			Method: "POST", Target: "/", Path: "/", Host: "a.example", Minor: 1, BodyLen: Chunked, Expect: true,
			Header: []frame.Field{host, field("Transfer-Encoding", "Chunked"), field("Expect", "100-Continue")},
		}},
		{"expect without body", "GET / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1,
			Header: []frame.Field{host, field("Expect", "100-continue")},
		}},
		{"absolute form", "GET HTTP://b.example:81/p?q HTTP/1.1\r\nHost: a.example\r\n\r\n", RequestHead{
			Method: "GET", Target: "HTTP://b.example:81/p?q", Path: "/p?q", Host: "b.example:81", Minor: 1, Header: []frame.Field{host},
		}},
		{"absolute form, empty path", "GET https://[::1]:8443?q=/ HTTP/1.1\r\nHost:\r\n\r\n", RequestHead{
			Method: "GET", Target: "https://[::1]:8443?q=/", Path: "/?q=/", Host: "[::1]:8443", Minor: 1,
			Header: []frame.Field{field("Host", "")},
		}},
		{"absolute form, OPTIONS", "OPTIONS http://b.example HTTP/1.1\r\nHost: a.example\r\n\r\n", RequestHead{
			Method: "OPTIONS", Target: "http://b.example", Path: "*", Host: "b.example", Minor: 1, Header: []frame.Field{host},
		}},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", RequestHead{
			Method: "OPTIONS", Target: "*", Path: "*", Host: "a.example", Minor: 1, Header: []frame.Field{host},
		}},
		{"websocket", "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: h2c, WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\nContent-Length: 0\r\n\r\n", RequestHead{
			Method: "GET", Target: "/", Path: "/", Host: "a.example", Minor: 1, Upgrade: true,
			Header: []frame.Field{
				host, field("Upgrade", "h2c, WebSocket"), field("Connection", "keep-alive, Upgrade"),
				field("Sec-WebSocket-Version", "13"), field("Sec-WebSocket-Key", wsKey), field("Content-Length", "0"),
			},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const rest = "the rest"
			for name, r := range map[string]io.Reader{
				"whole":       strings.NewReader(tt.in + rest),
				"byte a time": iotest.OneByteReader(strings.NewReader(tt.in + rest)),
			} {
				for _, size := range []int{16, 64, 4096} {
					br := bufio.NewReaderSize(r, size)
					got, err := ReadRequestHead(br, Limits{})
					if err != nil {
						t.Fatalf("%s, buffer %d: %v", name, size, err)
					}
					if d := cmp.Diff(&tt.want, got); d != "" {
						t.Errorf("%s, buffer %d (-want +got):\n%s", name, size, d)
					}
					if after, _ := io.ReadAll(br); string(after) != rest {
						t.Errorf("%s, buffer %d: left %q, want %q", name, size, after, rest)
					}
					r = strings.NewReader(tt.in + rest)
				}
			}
		})
	}
}

func TestReadRequestHeadRefuses(t *testing.T) {
	const get, host, post = "GET / HTTP/1.1\r\n", "Host: a.example\r\n", "POST / HTTP/1.1\r\nHost: a.example\r\n"
	tests := []struct {
		name, in string
		status   int
	}{
		{"length and chunked", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"zero length and chunked", post + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", 400},
		{"differing lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400},
		{"length list", post + "Content-Length: 3, 3\r\n\r\n", 400},
		{"length with a plus", post + "Content-Length: +3\r\n\r\n", 400},
		{"negative length", post + "Content-Length: -3\r\n\r\n", 400},
		{"hex length", post + "Content-Length: 0x3\r\n\r\n", 400},
		{"empty length", post + "Content-Length:\r\n\r\n", 400},
		{"length over int64", post + "Content-Length: 9223372036854775808\r\n\r\n", 400},
		{"length over uint64", post + "Content-Length: 18446744073709551619\r\n\r\n", 400},
		{"coding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
		{"gzip", post + "Transfer-Encoding: gzip\r\n\r\n", 400},
		{"chunked, gzip", post + "Transfer-Encoding: chunked, gzip\r\n\r\n", 400},
		{"chunked twice", post + "Transfer-Encoding: chunked, chunked\r\n\r\n", 400},
		{"chunked in two fields", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{"chunked and identity fields", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400},
		{"identity", post + "Transfer-Encoding: identity\r\n\r\n", 400},
		{"xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n", 400},
		{"vertical tab before chunked", post + "Transfer-Encoding: \x0bchunked\r\n\r\n", 400},
		{"empty coding", post + "Transfer-Encoding:\r\n\r\n", 400},
		{"quoted chunked", post + "Transfer-Encoding: \"chunked\"\r\n\r\n", 400},
		{"bare CR in a value", get + host + "A: b\rC: d\r\n\r\n", 400},
		{"bare CR in a name", get + host + "A\r: b\r\n\r\n", 400},
		{"two CR", get + host + "A: b\r\r\n\r\n", 400},
		{"CR in the request line", "GET / HTTP/1.1\r\r\n" + host + "\r\n", 400},
		{"NUL in a value", get + host + "A: b\x00c\r\n\r\n", 400},
		{"control in a value", get + host + "A: b\x01c\r\n\r\n", 400},
		{"DEL in a value", get + host + "A: b\x7fc\r\n\r\n", 400},
		{"folding", get + host + "A: b\r\n c\r\n\r\n", 400},
		{"folding with a tab", get + host + "A: b\r\n\tc: d\r\n\r\n", 400},
		{"folding before the first field", get + " A: b\r\n" + host + "\r\n", 400},
		{"line of one space", get + host + " \r\n\r\n", 400},
		{"space before the colon", get + host + "A : b\r\n\r\n", 400},
		{"tab before the colon", get + host + "Content-Length\t: 3\r\n\r\n", 400},
		{"no name", get + host + ": b\r\n\r\n", 400},
		{"no colon", get + host + "Abc\r\n\r\n", 400},
		{"bad name", get + host + "A(b): c\r\n\r\n", 400},
		{"8-bit name", get + host + "\xc3\xa4: c\r\n\r\n", 400},
		{"method not a token", "G@T / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"no version", "GET /\r\n\r\n", 400},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", 400},
		{"space in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", 400},
		{"control in the target", "GET /a\x01 HTTP/1.1\r\n" + host + "\r\n", 400},
		{"trailing space", "GET / HTTP/1.1 \r\n" + host + "\r\n", 400},
		{"lower-case version", "GET / http/1.1\r\n" + host + "\r\n", 400},
		{"long version", "GET / HTTP/1.10\r\n" + host + "\r\n", 400},
		{"version with letters", "GET / HTTP/1.x\r\n" + host + "\r\n", 400},
		{"no host", get + "\r\n", 400},
		{"no host beside an absolute target", "GET http://a.example/ HTTP/1.1\r\n\r\n", 400},
		{"empty host", get + "Host:\r\n\r\n", 400},
		{"two hosts", get + host + host + "\r\n", 400},
		{"two hosts in 1.0", "GET / HTTP/1.0\r\n" + host + host + "\r\n", 400},
		{"host with a path", get + "Host: a/b\r\n\r\n", 400},
		{"host with a user", get + "Host: u@a\r\n\r\n", 400},
		{"host with a space", get + "Host: a b\r\n\r\n", 400},
		{"host with a bad port", get + "Host: a:8x\r\n\r\n", 400},
		{"host with two ports", get + "Host: a:80:90\r\n\r\n", 400},
		{"host with an open bracket", get + "Host: [::1\r\n\r\n", 400},
		{"host that is a port", get + "Host: :80\r\n\r\n", 400},
		{"user in the target", "GET http://u@a.example/ HTTP/1.1\r\n" + host + "\r\n", 400},
		{"no host in the target", "GET http:///x HTTP/1.1\r\n" + host + "\r\n", 400},
		{"other scheme", "GET ftp://a.example/ HTTP/1.1\r\n" + host + "\r\n", 400},
		{"relative target", "GET x HTTP/1.1\r\n" + host + "\r\n", 400},
		{"authority form", "GET a.example:80 HTTP/1.1\r\n" + host + "\r\n", 400},
		{"asterisk for GET", "GET * HTTP/1.1\r\n" + host + "\r\n", 400},
		{"CONNECT", "CONNECT a.example:443 HTTP/1.1\r\n" + host + "\r\n", 501},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"HTTP/0.9", "GET / HTTP/0.9\r\n\r\n", 505},
		{"HTTP/3", "GET / HTTP/3.0\r\n\r\n", 505},
		{"TLS", "\x16\x03\x01\x02\x00\x01", 400},
		{"CR", "\rGET / HTTP/1.1\r\n\r\n", 400},
		{"empty lines without end", strings.Repeat("\r\n", 100), 400},
		{"long target", "GET /" + strings.Repeat("a", 600) + " HTTP/1.1\r\n" + host + "\r\n", 414},
		{"long header", get + host + "A: " + strings.Repeat("a", 600) + "\r\n\r\n", 431},
		{"many fields", get + host + strings.Repeat("A:b\r\n", 20) + "\r\n", 431},
		{"endless line", strings.Repeat("a", 600), 414},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{16, 4096} {
				br := bufio.NewReaderSize(strings.NewReader(tt.in), size)
				head, err := ReadRequestHead(br, Limits{MaxHead: 512, MaxFields: 20})
				var e *Error
				if head != nil || !errors.As(err, &e) || e.Status != tt.status {
					t.Errorf("buffer %d: got %+v, %v, want status %d", size, head, err, tt.status)
				}
			}
		})
	}
}

func TestReadRequestHeadWantsUpgrade(t *testing.T) {
	const (
		conn, upgrade = "Connection: Upgrade\r\n", "Upgrade: websocket\r\n"
		version, key  = "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Key: " + wsKey + "\r\n"
	)
	tests := []struct{ name, method, fields string }{
		{"no connection", "GET", upgrade + version + key},
		{"no key", "GET", conn + upgrade + version},
		{"short key", "GET", conn + upgrade + version + "Sec-WebSocket-Key: Zm9v\r\n"},
		{"two keys", "GET", conn + upgrade + version + key + key},
		{"key not base64", "GET", conn + upgrade + version + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ*==\r\n"},
		{"version 8", "GET", conn + upgrade + "Sec-WebSocket-Version: 8\r\n" + key},
		{"POST", "POST", conn + upgrade + version + key},
		{"body", "GET", conn + upgrade + version + key + "Content-Length: 5\r\n"},
		{"chunked body", "GET", conn + upgrade + version + key + "Transfer-Encoding: chunked\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := tt.method + " / HTTP/1.1\r\nHost: a\r\n" + tt.fields + "\r\n"
			r, err := ReadRequestHead(bufio.NewReader(strings.NewReader(in)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if r.Upgrade || !r.WantsUpgrade {
				t.Errorf("got Upgrade %t, WantsUpgrade %t, want false, true", r.Upgrade, r.WantsUpgrade)
			}
		})
	}
	in := "GET / HTTP/1.0\r\nHost: a\r\n" + conn + upgrade + version + key + "\r\n"
	r, err := ReadRequestHead(bufio.NewReader(strings.NewReader(in)), Limits{})
	if err != nil || r.Upgrade || r.WantsUpgrade {
		t.Errorf("HTTP/1.0: got %+v, %v, want a plain request", r, err)
	}
}

func TestReadRequestHeadCut(t *testing.T) {
	const in = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for n := range len(in) {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		for _, size := range []int{16, 4096} {
			_, err := ReadRequestHead(bufio.NewReaderSize(strings.NewReader(in[:n]), size), Limits{})
			if !errors.Is(err, want) {
				t.Errorf("cut after %d bytes, buffer %d: got %v, want %v", n, size, err, want)
			}
		}
	}
	reset := errors.New("reset")
	br := bufio.NewReader(io.MultiReader(strings.NewReader(in[:9]), iotest.ErrReader(reset)))
	if _, err := ReadRequestHead(br, Limits{}); !errors.Is(err, reset) {
		t.Errorf("got %v, want the connection's own error", err)
	}
}

func TestReadRequestHeadLimits(t *testing.T) {
	const in = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
	for _, size := range []int{16, 20, 4096} {
		if _, err := ReadRequestHead(bufio.NewReaderSize(strings.NewReader(in), size), Limits{MaxHead: len(in)}); err != nil {
			t.Errorf("buffer %d: %d bytes with that limit: %v", size, len(in), err)
		}
		_, err := ReadRequestHead(bufio.NewReaderSize(strings.NewReader(in), size), Limits{MaxHead: len(in) - 1})
		var e *Error
		if !errors.As(err, &e) || e.Status != 431 || e.Text != "Request header size exceeded limit of 34 bytes." {
			t.Errorf("buffer %d: one byte over: got %v", size, err)
		}
	}
}
