package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

// What a browser sends, and a usual answer.
const (
	benchRequest = "GET /api/items/1234?expand=owner HTTP/1.1\r\n" +
		"Host: www.example.com\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
		"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
		"Accept-Language: en-GB,en;q=0.5\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Connection: keep-alive\r\n" +
		"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
		"Cache-Control: no-cache\r\n\r\n"
	benchResponse = "HTTP/1.1 200 OK\r\n" +
		"Server: nginx/1.22.1\r\n" +
		"Date: Tue, 04 Aug 2026 10:00:00 GMT\r\n" +
		"Content-Type: application/json; charset=utf-8\r\n" +
		"Content-Length: 13\r\n" +
		"Connection: keep-alive\r\n" +
		"ETag: \"5f3c6b2a-d\"\r\n" +
		"Cache-Control: max-age=60\r\n\r\n"
)

// loop gives the same bytes for ever.
type loop struct {
	data string
	off  int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.data[l.off:])
	l.off = (l.off + n) % len(l.data)
	return n, nil
}

// The heads are on the path of every request, so their allocations are a
// promise: the head, its text and the list of fields.
func TestAllocations(t *testing.T) {
	tests := []struct {
		name string
		want float64
		f    func() func()
	}{
		{"request head", 3, func() func() {
			br := bufio.NewReader(&loop{data: benchRequest})
			return func() { mustRead(t, br) }
		}},
		{"response head", 3, func() func() {
			br := bufio.NewReader(&loop{data: benchResponse})
			return func() {
				if _, err := ReadResponseHead(br, Limits{}, "HEAD"); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"write", 0, func() func() {
			h := mustRead(t, bufio.NewReader(strings.NewReader(benchRequest)))
			buf := make([]byte, 0, 4096)
			return func() {
				buf = AppendRequestHead(buf[:0], h.Method, h.Target, 1, h.Header)
				buf = AppendResponseHead(buf[:0], 200, "OK", 1, h.Header)
				buf = AppendLastChunk(AppendChunk(buf[:0], []byte("hello")), nil)
			}
		}},
		{"chunked body", 0, func() func() {
			src := &loop{data: "5\r\nhello\r\n0\r\n\r\n"}
			br := bufio.NewReader(src)
			var b BodyReader
			p := make([]byte, 16)
			return func() {
				b.Reset(br, Chunked, Limits{})
				for !b.Done() {
					if _, err := b.Read(p); err != nil && err != io.EOF {
						t.Fatal(err)
					}
				}
			}
		}},
		{"lookup", 0, func() func() {
			h := mustRead(t, bufio.NewReader(strings.NewReader(benchRequest))).Header
			return func() {
				if !HasToken(h, "accept-encoding", "zstd") || Has(h, "nope") {
					t.Fatal("lookup is wrong")
				}
			}
		}},
	}
	for _, tt := range tests {
		if got := testing.AllocsPerRun(100, tt.f()); got > tt.want {
			t.Errorf("%s: got %v allocations, want %v", tt.name, got, tt.want)
		}
	}
}

func mustRead(tb testing.TB, br *bufio.Reader) *RequestHead {
	h, err := ReadRequestHead(br, Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func BenchmarkReadRequestHead(b *testing.B) {
	br := bufio.NewReader(&loop{data: benchRequest})
	b.SetBytes(int64(len(benchRequest)))
	b.ReportAllocs()
	for b.Loop() {
		mustRead(b, br)
	}
}

func BenchmarkReadRequestHeadNetHTTP(b *testing.B) {
	br := bufio.NewReader(&loop{data: benchRequest})
	b.SetBytes(int64(len(benchRequest)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := http.ReadRequest(br); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadResponseHead(b *testing.B) {
	br := bufio.NewReader(&loop{data: benchResponse})
	b.SetBytes(int64(len(benchResponse)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadResponseHead(br, Limits{}, "HEAD"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadResponseHeadNetHTTP(b *testing.B) {
	br := bufio.NewReader(&loop{data: benchResponse})
	req := &http.Request{Method: "HEAD"}
	b.SetBytes(int64(len(benchResponse)))
	b.ReportAllocs()
	for b.Loop() {
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

func BenchmarkAppendResponseHead(b *testing.B) {
	h := mustRead(b, bufio.NewReader(strings.NewReader(benchRequest))).Header
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendResponseHead(buf[:0], 200, "OK", 1, h)
	}
}

func BenchmarkChunked(b *testing.B) {
	var wire []byte
	for range 16 {
		wire = AppendChunk(wire, bytes.Repeat([]byte("x"), 1000))
	}
	wire = AppendLastChunk(wire, nil)
	br := bufio.NewReaderSize(&loop{data: string(wire)}, 16<<10)
	var body BodyReader
	p := make([]byte, 32<<10)
	b.SetBytes(16 * 1000)
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(br, Chunked, Limits{})
		for !body.Done() {
			if _, err := body.Read(p); err != nil && err != io.EOF {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkRemoveHopByHop(b *testing.B) {
	all := mustRead(b, bufio.NewReader(strings.NewReader(benchRequest))).Header
	h := make([]frame.Field, 0, len(all))
	b.ReportAllocs()
	for b.Loop() {
		h = RemoveHopByHop(append(h[:0], all...))
	}
}
