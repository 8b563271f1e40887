package http1

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestAppendHeads(t *testing.T) {
	h := []frame.Field{field("x-A", "1"), field("B", ""), field("bad name", "x"), field("C", "x\r\nD: y"), field("E", "\x00"), field("", "x"), field("x-A", "\xff")}
	tests := []struct{ name, got, want string }{
		{"request", string(AppendRequestHead([]byte("."), "PoST", "/a?b", 1, h)), ".PoST /a?b HTTP/1.1\r\nx-A: 1\r\nB: \r\nx-A: \xff\r\n\r\n"},
		{"request 1.0", string(AppendRequestHead(nil, "GET", "", 0, nil)), "GET / HTTP/1.0\r\n\r\n"},
		{"hostile request", string(AppendRequestHead(nil, "G\r\nE T", "/ HTTP/1.1\r\nX: \x00", 9, nil)), "GET /%20HTTP/1.1%0D%0AX:%20%00 HTTP/1.1\r\n\r\n"},
		{"response", string(AppendResponseHead([]byte("."), 299, "Very fine", 1, h)), ".HTTP/1.1 299 Very fine\r\nx-A: 1\r\nB: \r\nx-A: \xff\r\n\r\n"},
		{"hostile response", string(AppendResponseHead(nil, 0, "a\r\nb: c", 0, nil)), "HTTP/1.0 500 a  b: c\r\n\r\n"},
		{"chunk", string(AppendChunk([]byte("."), make([]byte, 0x1f))), ".1f\r\n" + string(make([]byte, 0x1f)) + "\r\n"},
		{"no chunk", string(AppendChunk([]byte("."), nil)), "."},
		{"chunk sizes", string(AppendChunkSize(AppendChunkSize(AppendChunkSize(nil, 1), 16), 0xabcde)), "1\r\n10\r\nabcde\r\n"},
		{"last chunk", string(AppendLastChunk(nil, nil)), "0\r\n\r\n"},
		{"trailer", string(AppendLastChunk(nil, h[:2])), "0\r\nx-A: 1\r\nB: \r\n\r\n"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, tt.got, tt.want)
		}
	}
}

func TestFields(t *testing.T) {
	h := []frame.Field{field("A", "1"), field("b", `x, "y, \", z" ,,  w`), field("a", "2"), field("B", "v")}
	if v, ok := Get(h, "a"); v != "1" || !ok {
		t.Errorf("Get: got %q, %t", v, ok)
	}
	if _, ok := Get(h, "ab"); ok || Has(h, "c") || !Has(h, "B") {
		t.Error("Has: a field that is there is missing, or one that is not is found")
	}
	if got, want := slices.Collect(Tokens(h, "B")), []string{"x", `"y, \", z"`, "w", "v"}; !slices.Equal(got, want) {
		t.Errorf("Tokens: got %q, want %q", got, want)
	}
	for range Tokens(h, "b") { // the iterator must stop when told
		break
	}
	if !HasToken(h, "b", "W") || HasToken(h, "b", "z") {
		t.Error("HasToken: members are not compared as a whole")
	}
	if Has([]frame.Field{field("\u212aeep", "")}, "keep") || equalFold("@", "`") || equalFold("[", "{") {
		t.Error("names compare by more than ASCII letters")
	}
	got := Del(h, "a", "nope")
	if d := cmp.Diff([]frame.Field{field("b", `x, "y, \", z" ,,  w`), field("B", "v")}, got); d != "" {
		t.Errorf("Del (-want +got):\n%s", d)
	}
}

func TestRemoveHopByHop(t *testing.T) {
	h := []frame.Field{
		field("Host", "a"), field("Connection", "close, X-Own"), field("x-own", "1"), field("KEEP-ALIVE", "5"), field("te", "trailers"),
		field("Transfer-Encoding", "chunked"), field("upgrade", "x"), field("Proxy-Connection", "y"), field("connection", "Z"), field("z", ""),
		field("Content-Length", "1"), field("Trailer", "t"),
	}
	want := []frame.Field{field("Host", "a"), field("Content-Length", "1"), field("Trailer", "t")}
	if d := cmp.Diff(want, RemoveHopByHop(h)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestStatusText(t *testing.T) {
	for code, want := range map[int]string{
		200: "OK", 302: "Found", 413: "Request Entity Too Large", 511: "Network Authentication Required",
		-1: "Undefined Reason", 0: "Undefined Reason", 299: "Undefined Reason", 418: "Undefined Reason", 512: "Undefined Reason",
	} {
		if got := StatusText(code); got != want {
			t.Errorf("StatusText(%d): got %q, want %q", code, got, want)
		}
	}
}
