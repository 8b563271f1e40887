package outbound

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// long is a context that no test outlives.
func long(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), poll.Patience)
	t.Cleanup(cancel)
	return ctx
}

func wantCondition(t *testing.T, err error, want string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Condition != want || !strings.HasPrefix(e.Error(), want) {
		t.Errorf("got %v, want the condition %s", err, want)
	}
}

func compress(t *testing.T, coding string, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&buf)
	switch coding {
	case "zlib":
		w = zlib.NewWriter(&buf)
	case "flate":
		w, _ = flate.NewWriter(&buf, 9)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestDecode(t *testing.T) {
	plain := bytes.Repeat([]byte("x"), 100_000)
	tests := []struct {
		name, coding string
		body         []byte
		want         []byte // nil for an error
		keeps        bool   // Content-Encoding
	}{
		{"gzip", "GZIP", compress(t, "gzip", plain), plain, false},
		{"x-gzip", "x-gzip", compress(t, "gzip", plain), plain, false},
		{"deflate", "deflate", compress(t, "zlib", plain), plain, false},
		{"deflate without zlib", "deflate", compress(t, "flate", plain), plain, false},
		{"unknown", "br", []byte("abc"), []byte("abc"), true},
		{"two", "gzip, gzip", []byte("abc"), []byte("abc"), true},
		{"cut", "gzip", compress(t, "gzip", plain)[:40], nil, false},
		{"not gzip", "gzip", []byte("abc"), nil, false},
		{"nothing", "gzip", nil, []byte{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
				if got := req.Header.Get("Accept-Encoding"); got != acceptEncoding {
					t.Errorf("Accept-Encoding: %s", got)
				}
				w.Header().Set("Content-Encoding", tt.coding)
				_, _ = w.Write(tt.body)
			})
			c := newClient(t, Options{})
			got, err := c.Fetch(long(t), &Request{Method: "GET", URI: origin.URL, Header: []frame.Field{{Name: "accept-encoding", Value: "zstd"}}})
			if tt.want == nil {
				wantCondition(t, err, Undefined)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Body, tt.want) {
				t.Errorf("got %d bytes, want %d", len(got.Body), len(tt.want))
			}
			if http1.Has(got.Header, "Content-Encoding") != tt.keeps || !tt.keeps && http1.Has(got.Header, "Content-Length") {
				t.Errorf("got header %v", got.Header)
			}
		})
	}
}

// A body that is small on the wire and large when decoded stops at the limit.
func TestMaxBody(t *testing.T) {
	const size = 5 << 20 // above what is allowed by default
	bomb := compress(t, "gzip", make([]byte, size))
	origin := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb)
	})
	c := newClient(t, Options{})
	_, err := c.Fetch(long(t), &Request{Method: "GET", URI: origin.URL, MaxBody: 1000})
	wantCondition(t, err, MaxSizeExceeded)
	_, err = c.Fetch(long(t), &Request{Method: "GET", URI: origin.URL})
	wantCondition(t, err, MaxSizeExceeded)
	got, err := c.Fetch(long(t), &Request{Method: "GET", URI: origin.URL, MaxBody: size})
	if err != nil || len(got.Body) != size {
		t.Errorf("exactly the limit: got %v", err)
	}
	resp, err := c.Do(long(t), &Request{Method: "GET", URI: origin.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	if n, err := io.Copy(io.Discard, resp); n != size || err != nil {
		t.Errorf("without a limit: got %d, %v", n, err)
	}
}

// stream is a request body that arrives in parts.
func stream(parts ...string) io.ReadCloser {
	var r []io.Reader
	for _, p := range parts {
		r = append(r, strings.NewReader(p))
	}
	return io.NopCloser(io.MultiReader(r...))
}

func TestStreamedBody(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if req.URL.Path == "/again" {
			w.Header().Set("Location", "/")
			w.WriteHeader(http.StatusFound)
			return
		}
		fmt.Fprintf(w, "%s %d %.10s %d", req.Method, req.ContentLength, body, len(body))
	})
	c := newClient(t, Options{})
	large := strings.Repeat("x", maxReplay)
	length := func(n string) []frame.Field { return []frame.Field{{Name: "content-length", Value: n}} }
	tests := []struct {
		name      string
		req       Request
		want      string
		condition string
	}{
		{"chunked", Request{Body: []byte("a"), More: stream("b", "c")}, "POST -1 abc 3", ""},
		{"length", Request{Body: []byte("a"), More: stream("b", "c"), Header: length("3")}, "POST 3 abc 3", ""},
		{"too short", Request{Body: []byte("a"), More: stream("b"), Header: length("3")}, "", BadRequest},
		{"length is none", Request{Body: []byte("a"), More: stream("b"), Header: length("x")}, "", BadRequest},
		{"redirect", Request{URI: "/again", Body: []byte("a"), More: stream("b"), Redirects: 1}, "POST 2 ab 2", ""},
		{"large redirect", Request{URI: "/again", More: stream(large), Redirects: 1}, "POST 1000000 xxxxxxxxxx 1000000", ""},
		{"too large redirect", Request{URI: "/again", More: stream(large, "x"), Redirects: 1}, "", Undefined},
		{"too many", Request{URI: "/again", Body: []byte("a")}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Method, tt.req.URI = "POST", origin.URL+tt.req.URI
			got, err := c.Fetch(long(t), &tt.req)
			if tt.condition != "" {
				wantCondition(t, err, tt.condition)
				return
			}
			if err != nil || string(got.Body) != tt.want {
				t.Errorf("got %v, %+v, want %s", err, got, tt.want)
			}
		})
	}
}

// What is secret stays with the scheme, host and port that it was for.
func TestRedirectCredentials(t *testing.T) {
	show := func(w http.ResponseWriter, req *http.Request) {
		if to := req.URL.Query().Get("to"); to != "" {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
		fmt.Fprint(w, req.Header.Get("Authorization"), req.Header.Get("Cookie"), req.Header.Get("Proxy-Authorization"), req.Header.Get("Grip-Sig"), req.Header.Get("X-Other"))
	}
	origin, other := serve(t, show), serve(t, show)
	c := newClient(t, Options{})
	header := []frame.Field{
		{Name: "authorization", Value: "a"},
		{Name: "Cookie", Value: "c"},
		{Name: "Proxy-Authorization", Value: "p"},
		{Name: "Grip-Sig", Value: "g"},
		{Name: "X-Other", Value: "o"},
	}
	for to, want := range map[string]string{
		"/here":   "acpgo",
		other.URL: "o",
		strings.Replace(origin.URL, "127.0.0.1", "localhost", 1): "o",
		strings.Replace(other.URL, "//", "//user:pw@", 1):        "o", // it is not ours to use
		other.URL + "/?to=" + origin.URL:                         "o", // not even back home
	} {
		got, err := c.Fetch(long(t), &Request{Method: "GET", URI: origin.URL + "/?to=" + to, Header: header, Redirects: 3})
		if err != nil || string(got.Body) != want {
			t.Errorf("to %s: got %v, %v; want %s", to, got, err, want)
		}
	}
	got, err := c.Fetch(long(t), &Request{Method: "GET", URI: strings.Replace(origin.URL, "//", "//user:p%40w@", 1)})
	if err != nil || string(got.Body) != "Basic dXNlcjpwQHc=" {
		t.Errorf("user in the URI: got %v, %v", got, err)
	}
}
