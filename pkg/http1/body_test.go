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

func TestBodyReader(t *testing.T) {
	const rest = "GET /"
	tests := []struct {
		name, in string
		bodyLen  int64
		want     string
		trailer  []frame.Field
	}{
		{"none", rest, 0, "", nil},
		{"length", "hello" + rest, 5, "hello", nil},
		{"chunked", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n" + rest, Chunked, "hello!", nil},
		{"empty chunked", "0\r\n\r\n" + rest, Chunked, "", nil},
		{"hex size", "1F\r\n" + strings.Repeat("a", 31) + "\r\n0000000000000010\r\n" + strings.Repeat("b", 16) + "\r\n00\r\n\r\n" + rest, Chunked, strings.Repeat("a", 31) + strings.Repeat("b", 16), nil},
		{"extensions", "5;a=b;c=\"d; e\" \r\nhello\r\n0;x\r\n\r\n" + rest, Chunked, "hello", nil},
		{"trailer", "5\r\nhello\r\n0\r\nA: b\r\nContent-Length: 4\r\nx-c:\r\nTransfer-Encoding: chunked\r\n\r\n" + rest, Chunked, "hello", []frame.Field{field("A", "b"), field("x-c", "")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{16, 4096} {
				for name, r := range map[string]io.Reader{
					"whole":       strings.NewReader(tt.in),
					"byte a time": iotest.OneByteReader(strings.NewReader(tt.in)),
				} {
					br := bufio.NewReaderSize(r, size)
					b := NewBodyReader(br, tt.bodyLen, Limits{})
					got, err := io.ReadAll(b)
					if err != nil || string(got) != tt.want || !b.Done() {
						t.Fatalf("%s, buffer %d: got %q, %v, done %t, want %q", name, size, got, err, b.Done(), tt.want)
					}
					if d := cmp.Diff(tt.trailer, b.Trailer()); d != "" {
						t.Errorf("trailer (-want +got):\n%s", d)
					}
					if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
						t.Errorf("read after the end: got %d, %v", n, err)
					}
					if after, _ := io.ReadAll(br); string(after) != rest {
						t.Errorf("%s, buffer %d: left %q, want %q", name, size, after, rest)
					}
				}
			}
		})
	}
	b := NewBodyReader(bufio.NewReader(strings.NewReader("all of it")), UntilClose, Limits{})
	if got, err := io.ReadAll(b); err != nil || string(got) != "all of it" || !b.Done() {
		t.Errorf("until close: got %q, %v", got, err)
	}
}

// The end must come with the last bytes if it is known: a proxy then needs one
// message for a short response instead of two.
func TestBodyReaderEndsEarly(t *testing.T) {
	for name, tt := range map[string]struct {
		in      string
		bodyLen int64
	}{
		"length":  {"helloworld", 10},
		"chunked": {"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", Chunked},
	} {
		t.Run(name, func(t *testing.T) {
			p := make([]byte, 10)
			n, err := NewBodyReader(bufio.NewReader(strings.NewReader(tt.in)), tt.bodyLen, Limits{}).Read(p)
			if string(p[:n]) != "helloworld" || !errors.Is(err, io.EOF) {
				t.Errorf("got %q, %v, want it all and EOF", p[:n], err)
			}
		})
	}
}

// A Read that has bytes must not wait for more.
func TestBodyReaderDoesNotWait(t *testing.T) {
	for _, sent := range []string{"5\r\nhello", "5\r\nhello\r", "5\r\nhello\r\n", "5\r\nhello\r\n0", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nA: b"} {
		pr, pw := io.Pipe()
		go func() { _, _ = pw.Write([]byte(sent)) }()
		p := make([]byte, 100)
		n, err := NewBodyReader(bufio.NewReader(pr), Chunked, Limits{}).Read(p)
		if string(p[:n]) != "hello" || err != nil {
			t.Errorf("after %q: got %q, %v, want hello", sent, p[:n], err)
		}
		_ = pw.Close()
	}
}

func TestBodyReaderRefuses(t *testing.T) {
	tests := []struct{ name, in string }{
		{"no size", "\r\n\r\n"},
		{"size not hex", "g\r\n"},
		{"sign", "+5\r\nhello\r\n"},
		{"minus", "-5\r\nhello\r\n"},
		{"0x", "0x5\r\nhello\r\n"},
		{"space before the size", " 5\r\nhello\r\n"},
		{"space after the size", "5 \r\nhello\r\n"},
		{"underscore", "1_0\r\nhello\r\n"},
		{"17 digits", "00000000000000005\r\nhello\r\n"},
		{"size over int64", "ffffffffffffffff\r\nhello\r\n"},
		{"bare LF after the size", "5\nhello\r\n0\r\n\r\n"},
		{"bare CR after the size", "5\rhello\r\n0\r\n\r\n"},
		{"bare LF in an extension", "5;a\nhello\r\n0\r\n\r\n"},
		{"NUL in an extension", "5;a\x00\r\nhello\r\n"},
		{"long extension", "5;" + strings.Repeat("a", 300) + "\r\nhello\r\n"},
		{"many extensions", strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 10)},
		{"no CRLF after the data", "5\r\nhello0\r\n\r\n"},
		{"bare LF after the data", "5\r\nhello\n0\r\n\r\n"},
		{"bare CR after the data", "5\r\nhello\r0\r\n\r\n"},
		{"bare LF at the end", "0\r\n\n"},
		{"bare LF in the trailer", "0\r\nA: b\n\r\n"},
		{"bad trailer", "0\r\nA b\r\n\r\n"},
		{"large trailer", "0\r\nA: " + strings.Repeat("b", 600) + "\r\n\r\n"},
		{"many trailers", "0\r\n" + strings.Repeat("A: b\r\n", 21) + "\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBodyReader(bufio.NewReader(strings.NewReader(tt.in)), Chunked, Limits{MaxHead: 512, MaxFields: 20})
			_, err := io.ReadAll(b)
			var e *Error
			if !errors.As(err, &e) || b.Done() {
				t.Fatalf("got %v, done %t, want an *Error", err, b.Done())
			}
			if _, again := b.Read(make([]byte, 1)); !errors.Is(again, err) {
				t.Errorf("read again: got %v, want %v", again, err)
			}
		})
	}
}

func TestBodyReaderCut(t *testing.T) {
	for name, tt := range map[string]struct {
		in      string
		bodyLen int64
	}{
		"length":  {"hello", 5},
		"chunked": {"5;x\r\nhello\r\n0\r\nA: b\r\n\r\n", Chunked},
	} {
		for n := range len(tt.in) {
			b := NewBodyReader(bufio.NewReader(strings.NewReader(tt.in[:n])), tt.bodyLen, Limits{})
			got, err := io.ReadAll(b)
			if !errors.Is(err, io.ErrUnexpectedEOF) || b.Done() || !strings.HasPrefix("hello", string(got)) {
				t.Errorf("%s cut after %d bytes: got %q, %v, done %t", name, n, got, err, b.Done())
			}
		}
	}
	reset := errors.New("reset")
	b := NewBodyReader(bufio.NewReader(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(reset))), UntilClose, Limits{})
	if got, err := io.ReadAll(b); string(got) != "x" || !errors.Is(err, reset) || b.Done() {
		t.Errorf("until close, reset: got %q, %v, done %t", got, err, b.Done())
	}
}
