package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

// pieces gives its bytes out in lengths taken from a seed, so that every cut of
// the input between two reads comes up.
type pieces struct {
	data []byte
	seed uint32
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	p.seed = p.seed*1664525 + 1013904223
	n := copy(b, p.data[:min(len(p.data), 1+int(p.seed>>24)%7)])
	p.data = p.data[n:]
	return n, nil
}

var fuzzLimits = Limits{MaxHead: 1 << 10, MaxFields: 16}

// readers are three ways to get the same bytes.
func readers(in []byte, seed uint32) []*bufio.Reader {
	return []*bufio.Reader{
		bufio.NewReaderSize(bytes.NewReader(in), len(in)+16),
		bufio.NewReaderSize(bytes.NewReader(in), 16),
		bufio.NewReaderSize(&pieces{data: in, seed: seed}, 16+int(seed%64)),
	}
}

// text makes errors of two attempts comparable.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func checkFields(t *testing.T, h []frame.Field) {
	t.Helper()
	if len(h) > fuzzLimits.MaxFields {
		t.Fatalf("%d fields, limit %d", len(h), fuzzLimits.MaxFields)
	}
	size := 0
	for _, f := range h {
		if !ValidField(f) {
			t.Fatalf("accepted the field %q, which cannot be written", f)
		}
		size += len(f.Name) + len(f.Value) + 1
	}
	if size > fuzzLimits.MaxHead {
		t.Fatalf("%d bytes of fields, limit %d", size, fuzzLimits.MaxHead)
	}
}

func FuzzReadRequestHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"\r\nPOST http://b:1/x HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"GET / HTTP/1.1\nHost: a\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: " + wsKey + "\n\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nA:\r\nA: \tb \r\n\r\n",
	} {
		f.Add([]byte(s), uint32(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, seed uint32) {
		var first *RequestHead
		var firstErr error
		for i, br := range readers(in, seed) {
			head, err := ReadRequestHead(br, fuzzLimits)
			if (head == nil) == (err == nil) {
				t.Fatalf("got %v and %v", head, err)
			}
			if i == 0 {
				first, firstErr = head, err
				continue
			}
			if !reflect.DeepEqual(first, head) || text(firstErr) != text(err) {
				t.Fatalf("reader %d: got %+v, %v; the first got %+v, %v", i, head, err, first, firstErr)
			}
		}
		if firstErr != nil {
			return
		}
		checkFields(t, first.Header)
		if first.Upgrade && first.WantsUpgrade || first.BodyLen < Chunked || first.Minor == 1 && first.Host == "" {
			t.Fatalf("impossible head %+v", first)
		}
		if first.Path[0] != '/' && first.Path != "*" {
			t.Fatalf("path %q of target %q", first.Path, first.Target)
		}
		out := AppendRequestHead(nil, first.Method, first.Target, first.Minor, first.Header)
		again, err := ReadRequestHead(bufio.NewReader(bytes.NewReader(out)), Limits{MaxHead: 2 * fuzzLimits.MaxHead})
		if err != nil {
			t.Fatalf("%q does not parse: %v", out, err)
		}
		if d := cmp.Diff(first, again); d != "" {
			t.Fatalf("written and read again (-want +got):\n%s", d)
		}
	})
}

func FuzzReadResponseHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200\r\nA :b\r\n c\r\n\td\r\nE:\r\n\r\n",
		"HTTP/1.1 200 \r\nContent-Length: 3, 3\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n",
	} {
		f.Add([]byte(s), uint32(1), false)
	}
	f.Fuzz(func(t *testing.T, in []byte, seed uint32, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		var first *ResponseHead
		var firstErr error
		for i, br := range readers(in, seed) {
			head, err := ReadResponseHead(br, fuzzLimits, method)
			if (head == nil) == (err == nil) {
				t.Fatalf("got %v and %v", head, err)
			}
			if i == 0 {
				first, firstErr = head, err
				continue
			}
			if !reflect.DeepEqual(first, head) || text(firstErr) != text(err) {
				t.Fatalf("reader %d: got %+v, %v; the first got %+v, %v", i, head, err, first, firstErr)
			}
		}
		if firstErr != nil {
			return
		}
		checkFields(t, first.Header)
		if first.BodyLen == UntilClose && !first.Close || head && first.BodyLen != 0 {
			t.Fatalf("impossible head %+v", first)
		}
		out := AppendResponseHead(nil, first.Code, first.Reason, first.Minor, first.Header)
		again, err := ReadResponseHead(bufio.NewReader(bytes.NewReader(out)), Limits{MaxHead: 2 * fuzzLimits.MaxHead}, method)
		if err != nil {
			t.Fatalf("%q does not parse: %v", out, err)
		}
		// Both framings at once are resolved by removing one, after which there is
		// no reason left to end the connection.
		again.Close = first.Close
		if d := cmp.Diff(first, again); d != "" {
			t.Fatalf("written and read again (-want +got):\n%s", d)
		}
	})
}

func FuzzChunked(f *testing.F) {
	for _, s := range []string{
		"5\r\nhello\r\n0\r\n\r\nrest",
		"5;a=b\r\nhello\r\n0;c\r\nA: b\r\nHost: x\r\n\r\n",
		"00a\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
		"ffffffffffffffff\r\n",
	} {
		f.Add([]byte(s), uint32(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, seed uint32) {
		type result struct {
			Data, Rest string
			Trailer    []frame.Field
			Err        string
		}
		var first result
		for i, br := range readers(in, seed) {
			b := NewBodyReader(br, Chunked, fuzzLimits)
			data, err := io.ReadAll(b)
			if b.Done() != (err == nil) {
				t.Fatalf("done %t with error %v", b.Done(), err)
			}
			got := result{Data: string(data), Trailer: b.Trailer(), Err: text(err)}
			if err == nil {
				rest, _ := io.ReadAll(br)
				got.Rest = string(rest)
			}
			if i == 0 {
				first = got
			} else if !reflect.DeepEqual(first, got) {
				t.Fatalf("reader %d: got %+v, the first got %+v", i, got, first)
			}
		}
		if first.Err != "" {
			return
		}
		checkFields(t, first.Trailer)
		out := AppendChunk(nil, []byte(first.Data))
		out = AppendLastChunk(out, first.Trailer)
		b := NewBodyReader(bufio.NewReader(bytes.NewReader(out)), Chunked, Limits{})
		data, err := io.ReadAll(b)
		if err != nil || string(data) != first.Data {
			t.Fatalf("written and read again: got %q, %v, want %q", data, err, first.Data)
		}
		if d := cmp.Diff(first.Trailer, b.Trailer()); d != "" {
			t.Fatalf("trailer written and read again (-want +got):\n%s", d)
		}
	})
}

// Arbitrary bytes, put into chunks of any size and read through buffers of any
// size, come out as they went in.
func FuzzChunkRoundTrip(f *testing.F) {
	f.Add([]byte("hello"), uint32(3))
	f.Fuzz(func(t *testing.T, data []byte, seed uint32) {
		var wire []byte
		src := pieces{data: data, seed: seed}
		buf := make([]byte, 8)
		for {
			n, err := src.Read(buf)
			if errors.Is(err, io.EOF) {
				break
			}
			wire = AppendChunk(wire, buf[:n])
		}
		wire = AppendLastChunk(wire, nil)
		for i, br := range readers(wire, seed) {
			if got, err := io.ReadAll(NewBodyReader(br, Chunked, Limits{})); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("reader %d: got %q, %v, want %q", i, got, err, data)
			}
		}
	})
}
