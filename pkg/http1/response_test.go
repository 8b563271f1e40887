package http1

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestReadResponseHead(t *testing.T) {
	tests := []struct {
		name, method, in string
		want             ResponseHead
	}{
		{"plain", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: 5, Header: []frame.Field{field("Content-Length", "5")},
		}},
		{"no reason", "GET", "HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n", ResponseHead{
			Code: 299, Minor: 1, Header: []frame.Field{field("Content-Length", "0")},
		}},
		{"no reason, with its space", "GET", "HTTP/1.1 299 \r\nContent-Length: 0\r\n\r\n", ResponseHead{
			Code: 299, Minor: 1, Header: []frame.Field{field("Content-Length", "0")},
		}},
		{"own reason", "GET", "HTTP/1.1 200 Sehr sch\xf6n  so\r\nContent-Length: 0\r\n\r\n", ResponseHead{
			Code: 200, Reason: "Sehr sch\xf6n  so", Minor: 1, Header: []frame.Field{field("Content-Length", "0")},
		}},
		{"empty values and missing spaces", "GET", "HTTP/1.1 200 OK\r\nX-A:\r\nX-B:b\r\nx-c: \r\nContent-Length:1\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: 1,
			Header: []frame.Field{field("X-A", ""), field("X-B", "b"), field("x-c", ""), field("Content-Length", "1")},
		}},
		{"folding and spaces before the colon", "GET", "HTTP/1.1 200 OK\nX-A: a\n  b \n\t\n\tc\nContent-Length : 1\nX-D:\n d\n\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: 1,
			Header: []frame.Field{field("X-A", "a b c"), field("Content-Length", "1"), field("X-D", "d")},
		}},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: Chunked, Header: []frame.Field{field("Transfer-Encoding", "CHUNKED")},
		}},
		{"chunked and length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: Chunked, Close: true, Header: []frame.Field{field("Transfer-Encoding", "chunked")},
		}},
		{"chunked in 1.0", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", BodyLen: Chunked, Close: true,
			Header: []frame.Field{field("Connection", "keep-alive"), field("Transfer-Encoding", "chunked")},
		}},
		{"identity", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: 3,
			Header: []frame.Field{field("Transfer-Encoding", "identity"), field("Content-Length", "3")},
		}},
		{"same length thrice", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\nContent-Length: 3\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: 3, Header: []frame.Field{field("Content-Length", "3")},
		}},
		{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: UntilClose, Close: true,
		}},
		{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", BodyLen: 3, Close: true, Header: []frame.Field{field("Content-Length", "3")},
		}},
		{"close", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: Close\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, BodyLen: 3, Close: true,
			Header: []frame.Field{field("Content-Length", "3"), field("Connection", "Close")},
		}},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, Header: []frame.Field{field("Content-Length", "3")},
		}},
		{"HEAD without length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", ResponseHead{Code: 200, Reason: "OK", Minor: 1}},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", ResponseHead{Code: 204, Reason: "No Content", Minor: 1}},
		{"304 with length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", ResponseHead{
			Code: 304, Reason: "Not Modified", Minor: 1, Header: []frame.Field{field("Content-Length", "3")},
		}},
		{"interim responses", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ResponseHead{
			Code: 200, Reason: "OK", Minor: 1, Header: []frame.Field{field("Content-Length", "0")},
		}},
		{"101", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", ResponseHead{
			Code: 101, Reason: "Switching Protocols", Minor: 1, Header: []frame.Field{field("Upgrade", "websocket")},
		}},
		{"8-bit and control in a value", "GET", "HTTP/1.1 204 x\r\nA: \xff\x01b\r\n\r\n", ResponseHead{
			Code: 204, Reason: "x", Minor: 1, Header: []frame.Field{field("A", "\xff\x01b")},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{16, 4096} {
				const rest = "the rest"
				br := bufio.NewReaderSize(strings.NewReader(tt.in+rest), size)
				got, err := ReadResponseHead(br, Limits{}, tt.method)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(&tt.want, got); d != "" {
					t.Errorf("buffer %d (-want +got):\n%s", size, d)
				}
				if after, _ := io.ReadAll(br); string(after) != rest {
					t.Errorf("buffer %d: left %q, want %q", size, after, rest)
				}
			}
		})
	}
}

func TestReadResponseHeadRefuses(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	tests := []struct{ name, in string }{
		{"not HTTP", "SSH-2.0-OpenSSH\r\n\r\n"},
		{"HTTP/2", "HTTP/2 200\r\n\r\n"},
		{"code not a number", "HTTP/1.1 abc OK\r\n\r\n"},
		{"code of two digits", "HTTP/1.1 20 OK\r\n\r\n"},
		{"code of four digits", "HTTP/1.1 2000 OK\r\n\r\n"},
		{"code under 100", "HTTP/1.1 099 OK\r\n\r\n"},
		{"control in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n"},
		{"differing lengths", ok + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n"},
		{"differing lengths in a list", ok + "Content-Length: 3, 4\r\n\r\n"},
		{"empty length", ok + "Content-Length:\r\n\r\n"},
		{"length not a number", ok + "Content-Length: 3x\r\n\r\n"},
		{"gzip, chunked", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n"},
		{"gzip", ok + "Transfer-Encoding: gzip\r\n\r\n"},
		{"chunked twice", ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"bare CR", ok + "A: b\rc\r\n\r\n"},
		{"NUL", ok + "A: b\x00c\r\n\r\n"},
		{"no colon", ok + "Abc\r\n\r\n"},
		{"space in a name", ok + "A b: c\r\n\r\n"},
		{"folding before the first field", ok + " b\r\n\r\n"},
		{"too large", ok + "A: " + strings.Repeat("a", 600) + "\r\n\r\n"},
		{"too many fields", ok + strings.Repeat("A: b\r\n", 21) + "\r\n"},
		{"endless interim responses", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadResponseHead(bufio.NewReader(strings.NewReader(tt.in)), Limits{MaxHead: 512, MaxFields: 20}, "GET")
			var e *Error
			if got != nil || !errors.As(err, &e) || e.Status != 502 {
				t.Errorf("got %+v, %v, want an error with status 502", got, err)
			}
		})
	}
}

func TestReadResponseHeadCut(t *testing.T) {
	const in = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for n := range len(in) {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, err := ReadResponseHead(bufio.NewReader(strings.NewReader(in[:n])), Limits{}, "GET"); !errors.Is(err, want) {
			t.Errorf("cut after %d bytes: got %v, want %v", n, err, want)
		}
	}
}
