package connmgr

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Openings that the hostile requests share.
const (
	post = "POST /p HTTP/1.1\r\nHost: a.test\r\n"
	get  = "GET /g HTTP/1.1\r\nHost: a.test\r\n"
	// following comes after each of them. Who gets the end of a request wrong swallows it,
	// or answers a part of the body as if it were a request.
	following = "GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n"
)

// hostile are requests over whose meaning servers disagree, with our answer: a
// status after which the connection is closed, or yes. docs/security.md has
// them beside the answers of other servers.
var hostile = []struct{ name, raw, answer string }{
	{"CL and TE: chunked", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: chunked and CL, TE first", post + "Transfer-Encoding: chunked\r\nContent-Length: 14\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"CL twice, the same", post + "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", "yes"},
	{"CL twice, differing", post + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", "400"},
	{"CL: 4, 4", post + "Content-Length: 4, 4\r\n\r\nabcd", "400"},
	{"CL: +4", post + "Content-Length: +4\r\n\r\nabcd", "400"},
	{"CL: -1", post + "Content-Length: -1\r\n\r\n", "400"},
	{"CL: 0x4", post + "Content-Length: 0x4\r\n\r\nabcd", "400"},
	{"CL: 4 with a letter", post + "Content-Length: 4a\r\n\r\nabcd", "400"},
	{"CL empty", post + "Content-Length:\r\n\r\n", "400"},
	{"CL: 004", post + "Content-Length: 004\r\n\r\nabcd", "yes"},
	{"CL: 2^64+4", post + "Content-Length: 18446744073709551620\r\n\r\nabcd", "400"},
	{"CL: 1 2", post + "Content-Length: 1 2\r\n\r\na", "400"},
	{"body of a GET", get + "Content-Length: 4\r\n\r\nabcd", "yes"},
	{"TE: chunked", post + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "yes"},
	{"TE: Chunked (case)", post + "Transfer-Encoding: CHUNKED\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "yes"},
	{"TE: xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "501"},
	{"TE: chunked, gzip", post + "Transfer-Encoding: chunked, gzip\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: chunked, chunked", post + "Transfer-Encoding: chunked, chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: identity", post + "Transfer-Encoding: identity\r\n\r\n", "400"},
	{"TE: identity and CL", post + "Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd", "400"},
	{"TE: \"chunked\"", post + "Transfer-Encoding: \"chunked\"\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: chunked;q=1", post + "Transfer-Encoding: chunked;q=1\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE: , chunked", post + "Transfer-Encoding: , chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE with VT before chunked", post + "Transfer-Encoding: \x0bchunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE empty", post + "Transfer-Encoding:\r\n\r\n", "400"},
	{"TE folded", post + "Transfer-Encoding:\r\n chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"TE in HTTP/1.0", "POST /p HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"space before the colon of TE", post + "Transfer-Encoding : chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"tab before the colon of CL", post + "Content-Length\t: 4\r\n\r\nabcd", "400"},
	{"underscore: Transfer_Encoding", post + "Transfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\nabcd", "yes"},
	{"space before the first field", "GET /g HTTP/1.1\r\n X: y\r\nHost: a.test\r\n\r\n", "400"},
	{"space before a field name", get + " Content-Length: 4\r\n\r\n", "400"},
	{"folded line", get + "X-A: b\r\n c\r\n\r\n", "400"},
	{"field without a colon", get + "X-A\r\n\r\n", "400"},
	{"empty field name", get + ": x\r\n\r\n", "400"},
	{"NUL in a value", get + "X-A: b\x00c\r\n\r\n", "400"},
	{"NUL in a name", get + "X\x00A: b\r\n\r\n", "400"},
	{"NUL in the target", "GET /\x00a HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"DEL in a value", get + "X-A: b\x7fc\r\n\r\n", "400"},
	{"0x01 in a value", get + "X-A: b\x01c\r\n\r\n", "400"},
	{"bare CR in a value", get + "X-A: b\rX-B: c\r\n\r\n", "400"},
	{"bare CR as line end", "GET /g HTTP/1.1\rHost: a.test\r\r", "400"},
	{"bare LF as line end", "GET /g HTTP/1.1\nHost: a.test\n\n", "yes"},
	{"bare LF, one line", get + "X-A: b\nX-B: c\r\n\r\n", "yes"},
	{"LF CR LF", "GET /g HTTP/1.1\r\nHost: a.test\n\r\n", "yes"},
	{"CR CR LF", "GET /g HTTP/1.1\r\r\nHost: a.test\r\n\r\n", "400"},
	{"empty lines before the request", "\r\n\r\nGET /g HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"chunk extension", post + "Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nabcd\r\n0\r\n\r\n", "yes"},
	{"chunk extension of 4 KB", post + "Transfer-Encoding: chunked\r\n\r\n4;" + strings.Repeat("a", 4096) + "\r\nabcd\r\n0\r\n\r\n", "400"},
	{"bare LF in a chunk extension", post + "Transfer-Encoding: chunked\r\n\r\n4;a\nb\r\nabcd\r\n0\r\n\r\n", "400"},
	{"bare LF after the chunk size", post + "Transfer-Encoding: chunked\r\n\r\n4\nabcd\r\n0\r\n\r\n", "400"},
	{"bare LF after chunk data", post + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\n0\r\n\r\n", "400"},
	{"bare CR after the chunk size", post + "Transfer-Encoding: chunked\r\n\r\n4\rXabcd\r\n0\r\n\r\n", "400"},
	{"space after the chunk size", post + "Transfer-Encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n", "400"},
	{"space before the chunk size", post + "Transfer-Encoding: chunked\r\n\r\n 4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"chunk size 0x4", post + "Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"chunk size -4", post + "Transfer-Encoding: chunked\r\n\r\n-4\r\nabcd\r\n0\r\n\r\n", "400"},
	{"chunk size 2^64+4", post + "Transfer-Encoding: chunked\r\n\r\n10000000000000004\r\nabcd\r\n0\r\n\r\n", "400"},
	{"chunk size ffffffffffffffff", post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabcd\r\n0\r\n\r\n", "400"},
	{"chunk size with 20 zeros", post + "Transfer-Encoding: chunked\r\n\r\n000000000000000000004\r\nabcd\r\n0\r\n\r\n", "400"},
	{"chunk longer than its size", post + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcdef\r\n0\r\n\r\n", "400"},
	{"CL in the trailer", post + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n", "yes"},
	{"missing Host", "GET /g HTTP/1.1\r\n\r\n", "400"},
	{"two Hosts", get + "Host: b.test\r\n\r\n", "400"},
	{"Host: a.test/x", "GET /g HTTP/1.1\r\nHost: a.test/x\r\n\r\n", "400"},
	{"Host: a@b", "GET /g HTTP/1.1\r\nHost: a@b\r\n\r\n", "400"},
	{"Host: a b", "GET /g HTTP/1.1\r\nHost: a b\r\n\r\n", "400"},
	{"Host with port 999999", "GET /g HTTP/1.1\r\nHost: a.test:999999\r\n\r\n", "400"},
	{"absolute-form, other Host", "GET http://b.test/g HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"absolute-form ftp", "GET ftp://b.test/g HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"authority-form with GET", "GET b.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"CONNECT", "CONNECT b.test:80 HTTP/1.1\r\nHost: b.test:80\r\n\r\n", "501"},
	{"GET *", "GET * HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"target without slash", "GET g HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"two spaces in the request line", "GET  /g HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"tab in the request line", "GET\t/g HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"space in the target", "GET /g h HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"fragment in the target", "GET /g#h HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"UTF-8 in the target", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"lower case method", "get /g HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"method with a bracket", "G(T /g HTTP/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"HTTP/0.9", "GET /g\r\n", "400"},
	{"HTTP/1.2", "GET /g HTTP/1.2\r\nHost: a.test\r\n\r\n", "yes"},
	{"HTTP/2.0", "GET /g HTTP/2.0\r\nHost: a.test\r\n\r\n", "505"},
	{"HTTP/01.1", "GET /g HTTP/01.1\r\nHost: a.test\r\n\r\n", "400"},
	{"http/1.1 in lower case", "GET /g http/1.1\r\nHost: a.test\r\n\r\n", "400"},
	{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"},
	{"TLS client hello", "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "400"},
	{"field of 20 KB", get + "X-A: " + strings.Repeat("a", 20000) + "\r\n\r\n", "431"},
	{"target of 20 KB", "GET /" + strings.Repeat("a", 20000) + " HTTP/1.1\r\nHost: a.test\r\n\r\n", "414"},
	{"200 fields", get + strings.Repeat("X: a\r\n", 200) + "\r\n", "431"},
	{"Upgrade: h2c", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "yes"},
	{"Connection: close, Content-Length", post + "Connection: Content-Length\r\nContent-Length: 4\r\n\r\nabcd", "yes"},
	{"Connection: Host", get + "Connection: close, Host\r\n\r\n", "yes, closes"},
	{"/../../etc/passwd", "GET /../../etc/passwd HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
	{"/%2e%2e/%00", "GET /%2e%2e/%00 HTTP/1.1\r\nHost: a.test\r\n\r\n", "yes"},
}

// TestHostileRequests sends each of them with another request right behind, and
// looks at what the client gets and what a proxy is told.
func TestHostileRequests(t *testing.T) {
	doc, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	var (
		mu     sync.Mutex
		seen   []string
		bodies = make(map[uint64]*frame.Request)
	)
	answer := func(f *far, req *frame.Request) bool {
		mu.Lock()
		seen = append(seen, req.Method+" "+req.URI+" "+string(req.Body))
		mu.Unlock()
		return echo(f, req)
	}
	r.far("proxy.0", func(f *far, got frame.Frame) bool {
		switch got := got.(type) {
		case *frame.Request:
			if got.More {
				bodies[got.ID] = got
				return true
			}
			return answer(f, got)
		case *frame.Body:
			req := bodies[got.ID]
			req.Body = append(req.Body, got.Data...)
			return got.More || answer(f, req)
		}
		return true
	})
	for _, tc := range hostile {
		t.Run(tc.name, func(t *testing.T) {
			if !strings.Contains(string(doc), fmt.Sprintf("\n| %s | %s | ", tc.name, tc.answer)) {
				t.Errorf("docs/security.md has no such row with our answer, %s", tc.answer)
			}
			mu.Lock()
			seen = nil
			mu.Unlock()
			c := r.dial()
			c.t = t
			c.send(tc.raw + following)
			var answers []string
			br := bufio.NewReader(c)
			for len(answers) < 2 {
				res, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
				if err != nil {
					break // closed; or out of patience, which makes too few answers
				}
				if _, err := br.Discard(int(res.ContentLength)); err != nil {
					t.Fatal(err)
				}
				answers = append(answers, res.Status[:3])
				if res.Close {
					if b, err := br.ReadByte(); err == nil {
						t.Errorf("%q after the end", b)
					}
					break
				}
			}
			want := []string{tc.answer}
			served := 0
			switch tc.answer {
			case "yes":
				want, served = []string{"200", "200"}, 2
			case "yes, closes":
				want, served = []string{"200"}, 1
			}
			if !slices.Equal(answers, want) {
				t.Errorf("answers %v, want %v", answers, want)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(seen) != served || served == 2 && seen[1] != "GET /next " {
				t.Fatalf("the proxy saw %q", seen)
			}
			if served > 0 && strings.HasSuffix(seen[0], " abcd") != strings.Contains(tc.raw, "abcd") {
				t.Errorf("the proxy saw %q", seen[0])
			}
		})
	}
}
