package wire

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestMessage(t *testing.T) {
	for _, size := range []int{MinMessage, 100, 1000} {
		m := AppendMessage(nil, 0xdeadbeef, 12345678901234, size)
		if len(m) != size || m[size-1] != '\n' {
			t.Fatalf("message of %d bytes: %q", size, m)
		}
		seq, sent, ok := ParseMessage(m[:size-1], size)
		if !ok || seq != 0xdeadbeef || sent != 12345678901234*time.Nanosecond {
			t.Errorf("size %d: got %x %d %v", size, seq, sent, ok)
		}
		if _, _, ok := ParseMessage(m[:size-2], size); ok {
			t.Errorf("size %d: a cut message was taken", size)
		}
	}
	if _, _, ok := ParseMessage(bytes.Repeat([]byte("m"), 99), 100); ok {
		t.Error("a line without numbers was taken")
	}
}

func TestResponseInPieces(t *testing.T) {
	for _, c := range []struct {
		name, in, body string
		code, count    int
		close          bool
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, 1, false},
		{"empty", "HTTP/1.1 204 No Content\r\nA: b\r\n\r\n", "", 204, 1, false},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n, again...\r\n0\r\nT: v\r\n\r\n", "hello, again...", 200, 1, false},
		{"two", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 500 No\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nb", "ab", 500, 2, true},
		{"until close", "HTTP/1.0 200 OK\r\n\r\nhello", "hello", 200, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for piece := 1; piece <= len(c.in); piece++ {
				var r Response
				var body gather
				count := 0
				for rest := []byte(c.in); len(rest) > 0; {
					p := rest[:min(piece, len(rest))]
					n, done, err := r.Feed(p, &body)
					if err != nil {
						t.Fatalf("pieces of %d: %v", piece, err)
					}
					if done {
						count++
					} else if n != len(p) {
						t.Fatalf("pieces of %d: took %d of %d without an end", piece, n, len(p))
					}
					rest = rest[n:]
				}
				if string(body) != c.body || r.Code != c.code || count != c.count || r.Close != c.close {
					t.Errorf("pieces of %d: got %q, code %d, %d ends, close %v; want %q, %d, %d, %v", piece, body, r.Code, count, r.Close, c.body, c.code, c.count, c.close)
				}
			}
		})
	}
}

func TestResponseRefuses(t *testing.T) {
	for _, in := range []string{"SSH-2.0-OpenSSH_9.2 something\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", strings.Repeat("x", maxHead+1)} {
		var r Response
		if _, _, err := r.Feed([]byte(in), new(gather)); err == nil {
			t.Errorf("%.30q was taken", in)
		}
	}
}

func TestReadRequest(t *testing.T) {
	in := "POST /a?channel=c1&x=2 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.1\r\n\r\n"
	for cut := range strings.Index(in, "GET") {
		if _, _, n, err := ReadRequest([]byte(in[:cut])); n != 0 || err != nil {
			t.Fatalf("%d bytes: took %d, %v", cut, n, err)
		}
	}
	req, body, n, err := ReadRequest([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if string(req.Method) != "POST" || string(req.Path) != "/a" || string(Param(req.Query, "channel")) != "c1" || string(body) != "body" || in[n:] != "GET / HTTP/1.1\r\n\r\n" {
		t.Errorf("got %q %q %q, body %q, rest %q", req.Method, req.Path, req.Query, body, in[n:])
	}
	req, body, n, err = ReadRequest([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	if err != nil || string(body) != "abc" || n == 0 || req.Close {
		t.Errorf("chunked: got %q, %d, %v", body, n, err)
	}
}

func TestFrames(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 65535, 65536} {
		for _, masked := range []bool{false, true} {
			payload := bytes.Repeat([]byte("k"), size)
			f := AppendFrame(nil, OpText, payload, masked)
			if _, _, n, err := ReadFrame(f[:len(f)-1]); n != 0 || err != nil {
				t.Fatalf("a cut frame of %d: took %d, %v", size, n, err)
			}
			op, got, n, err := ReadFrame(append(f, "next"...))
			if err != nil || op != OpText || n != len(f) || !bytes.Equal(got, payload) {
				t.Errorf("size %d, masked %v: opcode %d, %d bytes, took %d of %d, %v", size, masked, op, len(got), n, len(f), err)
			}
		}
	}
}

func TestAcceptKey(t *testing.T) {
	// The example of RFC 6455 section 1.3.
	if got := AcceptKey([]byte("dGhlIHNhbXBsZSBub25jZQ==")); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("got %q", got)
	}
}
