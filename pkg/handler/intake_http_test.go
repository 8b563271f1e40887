package handler

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/test/poll"
)

func TestControlAPI(t *testing.T) {
	r := newRig(t)
	const (
		ok   = "200 OK"
		bad  = "400 Bad Request"
		text = "Published\n"
		js   = `{"message":"Published"}` + "\n"
		none = "Not Acceptable. Supported formats are text/plain and application/json.\n"
	)
	post := func(path, body string, header ...string) string {
		h := strings.Join(append(header, ""), "\r\n")
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", path, len(body), h, body)
	}
	for _, c := range []struct{ name, request, status, header, body string }{
		{"root", "GET / HTTP/1.1\r\n\r\n", ok, "", "Pushpin API\n"},
		{"root by POST", post("/", "hi"), ok, "", "Pushpin API\n"},
		{"HEAD", "HEAD / HTTP/1.1\r\n\r\n", ok, "", ""},
		{"no length", "POST / HTTP/1.1\r\n\r\n", "411 Length Required", "", "Request requires Content-Length.\n"},
		{"chunked", "POST /publish HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", "411 Length Required", "", "Request requires Content-Length.\n"},
		{"chunked GET", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411 Length Required", "", "Request requires Content-Length.\n"},
		{"empty list", post("/publish/", `{"items":[]}`), ok, "", text},
		{"without slash", post("/publish", `{"items":[]}`), ok, "", text},
		{"query", post("/publish/?x=y", `{"items":[]}`), ok, "", text},
		{"empty Authorization", post("/publish/", `{"items":[]}`, "Authorization: "), ok, "", text},
		{"the last type wins: json", post("/publish/", `{"items":[]}`, "Accept: text/plain, application/json;q=0.1"), ok, "json", js},
		{"the last type wins: text", post("/publish/", `{"items":[]}`, "Accept: application/json, text/plain"), ok, "", text},
		{"application/*", post("/publish/", `{"items":[]}`, "accept: application/*"), ok, "json", js},
		{"no type", post("/publish/", `{"items":[]}`, "Accept: text/html"), "406 Not Acceptable", "", none},
		{"one of two", post("/publish/", `{"items":[]}`, "Accept: text/html, */*;q=0.1"), ok, "", text},
		{"before the path", post("/nope", "", "Accept: text/html"), "406 Not Acceptable", "", none},
		{"GET publish", "GET /publish HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "allow", "Method not allowed: GET.\n"},
		{"DELETE recover", "DELETE /recover/ HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "allow", "Method not allowed: DELETE.\n"},
		{"two slashes", post("/publish//", `{"items":[]}`, "Accept: application/json"), "404 Not Found", "", "Not Found\n"},
		{"unknown", post("/foo", ""), "404 Not Found", "", "Not Found\n"},
		{"absolute form", post("http://x/publish", ""), "404 Not Found", "", "Not Found\n"},
		{"not JSON", post("/publish", "{"), bad, "", "Body is not valid JSON.\n"},
		{"empty", post("/publish", ""), bad, "", "Body is not valid JSON.\n"},
		{"list", post("/publish", "[]"), bad, "", "Invalid format.\n"},
		{"no items", post("/publish", "{}"), bad, "", "Invalid format: object does not contain 'items'\n"},
		{"bad item", post("/publish", `{"items":[{"channel":"a"}]}`), bad, "", "Invalid format: no formats specified\n"},
		{"recover", post("/recover", ""), ok, "", "Updated\n"},
		{"recover, json", post("/recover/", "x", "Accept: application/json"), ok, "json", `{"message":"Updated"}` + "\n"},
		{"body too large", "POST /publish HTTP/1.1\r\nContent-Length: 1000001\r\n\r\n", bad, "", "Request body too large.\n"},
		{"length beyond all numbers", "POST /publish HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", bad, "", "Request body too large.\n"},
		{"length no number", "POST /publish HTTP/1.1\r\nContent-Length: abc\r\n\r\n", bad, "", "Bad Content-Length.\n"},
		{"length negative", "POST /publish HTTP/1.1\r\nContent-Length: -1\r\n\r\n", bad, "", "Bad Content-Length.\n"},
		{"two lengths", "POST /publish HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", bad, "", "Bad Content-Length.\n"},
		{"longer than announced", "POST /publish HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}x", bad, "", "Request body exceeded Content-Length.\n"},
		{"header too large", "GET / HTTP/1.1\r\nX-A: " + strings.Repeat("a", 10000) + "\r\n\r\n", bad, "", "Request header too large.\n"},
		{"long header", "GET / HTTP/1.1\r\nX-A: " + strings.Repeat("a", 9000) + "\r\n\r\n", ok, "", "Pushpin API\n"},
		{"no request line", "GET\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"unknown version", "GET / HTTP/3.0\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"no field name", "GET / HTTP/1.1\r\nfoo\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"space before the colon", "POST /publish HTTP/1.1\r\nContent-Length : 12\r\n\r\n{\"items\":[]}", bad, "", "Failed to parse request header.\n"},
		{"folded field", "POST /publish HTTP/1.1\r\nContent-Length: 12\r\n X: y\r\n\r\n{\"items\":[]}", bad, "", "Failed to parse request header.\n"},
		{"field name that is no token", "GET / HTTP/1.1\r\nX(y): z\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"CR in a value", "GET / HTTP/1.1\r\nX: y\rContent-Length: 5\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"NUL in a value", "GET / HTTP/1.1\r\nX: y\x00\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"method that is no token", "G(T / HTTP/1.1\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"control character in the target", "GET /\x01 HTTP/1.1\r\n\r\n", bad, "", "Failed to parse request header.\n"},
		{"tab and more in values", "GET / HTTP/1.1\r\nX:\ty \xe9\r\n\r\n", ok, "", "Pushpin API\n"},
		{"LF only", "POST /publish HTTP/1.1\nContent-Length: 12\n\n{\"items\":[]}", ok, "", text},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := ""
			if c.header == "allow" {
				header = "Allow: POST\r\n"
			}
			contentType, length := "text/plain", len(c.body)
			if c.header == "json" {
				contentType = "application/json"
			}
			if strings.HasPrefix(c.request, "HEAD") {
				length = len("Pushpin API\n")
			}
			want := fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Type: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", c.status, header, contentType, length, c.body)
			if got := r.raw(c.request); got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
	if got := r.raw("POST /publish/ HTTP/1.0\r\nContent-Length: 12\r\n\r\n{\"items\":[]}"); !strings.HasPrefix(got, "HTTP/1.0 200 OK\r\n") {
		t.Errorf("HTTP/1.0: got %q", got)
	}
}

func TestBadBatchPublishesNothing(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, ch("a"))
	if got := r.post("/publish", `{"items":[`+stream("a", "x")+`,{"channel":"a"}]}`); !strings.Contains(got, "no formats specified") {
		t.Errorf("got %q", got)
	}
	r.flush()
	r.expect(h)
}

func TestExpectContinue(t *testing.T) {
	r := newRig(t)
	c, err := net.Dial("tcp", r.s.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(poll.Patience))
	const interim = "HTTP/1.1 100 Continue\r\n\r\n"
	b := make([]byte, len(interim))
	if _, err := io.WriteString(c, "POST /publish HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 12\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != interim {
		t.Fatalf("got %q, %v", b, err)
	}
	if _, err := io.WriteString(c, `{"items":[]}`); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(rest), "\r\n\r\nPublished\n") {
		t.Errorf("got %q, %v", rest, err)
	}
}

// Connections that say nothing are ended, and do not keep others out for ever.
func TestSilentConnections(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPMaxConns, o.HTTPTimeout = 2, time.Second }) // which the publisher must keep to
	for range 4 {
		c, err := net.Dial("tcp", r.s.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := r.raw("GET / HTTP/1.1\r\n\r\n"); !strings.HasSuffix(got, "Pushpin API\n") {
		t.Errorf("got %q", got)
	}
}

// Idle connections make room for a publisher long before their time is over, and
// only they: a request that is being worked on is not cut off.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPMaxConns, o.HTTPTimeout = 2, time.Hour })
	for range 6 {
		c, err := net.Dial("tcp", r.s.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got := r.raw("GET / HTTP/1.1\r\n\r\n"); !strings.HasSuffix(got, "Pushpin API\n") {
		t.Errorf("got %q", got)
	}
	var c conns
	idle, _ := net.Pipe()
	busy, _ := net.Pipe()
	now := time.Now()
	c.add(idle, now)
	c.add(busy, now)
	c.asked(busy, now)
	now = now.Add(patience)
	for _, tt := range []struct {
		room int
		idle error
	}{{3, os.ErrDeadlineExceeded}, {2, io.ErrClosedPipe}} {
		c.expire(now, time.Hour, tt.room)
		_ = idle.SetReadDeadline(time.Unix(1, 0))
		if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, tt.idle) {
			t.Errorf("room for %d: the idle connection says %v", tt.room, err)
		}
		if err := busy.SetReadDeadline(time.Time{}); err != nil {
			t.Errorf("room for %d: the busy connection was closed", tt.room)
		}
	}
}

// A publisher that asks for it keeps its connection, until it makes a mistake or
// the room is needed.
func TestKeepAlive(t *testing.T) {
	r := newRig(t, func(o *Options) { o.HTTPMaxConns = 4 })
	h := r.hold(frame.ModeStream, ch("a"))
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", r.s.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(poll.Patience))
		return c, bufio.NewReader(c)
	}
	ask := func(c net.Conn, br *bufio.Reader, connection, body string) (status int, kept bool) {
		t.Helper()
		if _, err := fmt.Fprintf(c, "POST /publish/ HTTP/1.1\r\nConnection: %s\r\nContent-Length: %d\r\n\r\n%s", connection, len(body), body); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if kept = !res.Close; !kept {
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after its last answer the connection says %v", err)
			}
		}
		return res.StatusCode, kept
	}
	const item = `{"items":[{"channel":"a","formats":{"http-stream":{"content":"x"}}}]}`
	c, br := dial()
	for range 3 {
		if status, kept := ask(c, br, "Keep-Alive", item); status != 200 || !kept {
			t.Fatalf("status %d, kept %v", status, kept)
		}
	}
	r.expect(h, "x", "x", "x")
	if _, kept := ask(c, br, "close", item); kept {
		t.Error("kept although the client did not want it")
	}
	c, br = dial()
	if status, kept := ask(c, br, "keep-alive", `{"items":7}`); status != 400 || kept {
		t.Errorf("after a mistake: status %d, kept %v", status, kept)
	}
	var open [2]net.Conn
	for i := range open {
		open[i], br = dial()
		if _, kept := ask(open[i], br, "keep-alive", item); !kept {
			t.Fatal("not kept")
		}
	}
	c, br = dial()
	if _, kept := ask(c, br, "keep-alive", item); kept {
		t.Error("kept although half of the room is taken")
	}
}

// Stopping does not wait for a connection that says nothing.
func TestStopWithOpenConnection(t *testing.T) {
	r := newRig(t)
	c, err := net.Dial("tcp", r.s.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.wait("the connection is served", func() bool { return r.metric("holdfast_handler_control_connections", "") == 1 })
	r.stop()
	_ = c.SetReadDeadline(time.Now().Add(poll.Patience))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

// A publisher that sends one item after the other, each on a connection of its
// own, has them delivered in that order: whoever got an answer was published.
func TestPublishesKeepTheirOrder(t *testing.T) {
	r := newRig(t)
	h := r.hold(frame.ModeStream, ch("a"))
	var want []string
	for i := range 200 {
		want = append(want, fmt.Sprint(i))
		r.publish(stream("a", fmt.Sprint(i)))
	}
	r.expect(h, want...)
}
