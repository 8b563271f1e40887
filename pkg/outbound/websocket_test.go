package outbound

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// loose is a connection that reads from one buffer and writes to another.
type loose struct {
	net.Conn
	w bytes.Buffer
}

func (l *loose) Write(p []byte) (int, error)      { return l.w.Write(p) }
func (l *loose) SetWriteDeadline(time.Time) error { return nil }
func (l *loose) Close() error                     { return nil }

// unmask makes a client's frame one of a server.
func unmask(t *testing.T, b []byte) []byte {
	t.Helper()
	at := 2
	switch b[1] & 0x7f {
	case 126:
		at = 4
	case 127:
		at = 10
	}
	if b[1]&0x80 == 0 || len(b) < at+4 {
		t.Fatalf("not masked: %x", b)
	}
	out := append([]byte(nil), b[:at]...)
	out[1] &= 0x7f
	for i, c := range b[at+4:] {
		out = append(out, c^b[at+i&3])
	}
	return out
}

// What is read is within the limits and the rules, and written it is read again.
func FuzzReadFrame(f *testing.F) {
	for _, s := range []string{"\x81\x02hi", "\x01\x01a\x89\x00\x80\x01b", "\x82\x7e\x00\x03abc", "\x88\x02\x03\xe8", "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01x", "\xc1\x00", "\x81\x81\x00\x00\x00\x00x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		w := &WebSocket{br: bufio.NewReaderSize(bytes.NewReader(b), 16), maxFrame: limit}
		message := false
		for {
			got, err := w.ReadFrame()
			if err != nil {
				return
			}
			if len(got.Data) > limit || got.Opcode >= Close && (len(got.Data) > 125 || !got.Fin) {
				t.Fatalf("got %+v", got)
			}
			if got.Opcode < Close {
				if (got.Opcode == Continuation) != message {
					t.Fatalf("got %+v, within a message: %t", got, message)
				}
				message = !got.Fin
			}
			out := &loose{}
			if err := (&WebSocket{nc: out}).WriteFrame(got); err != nil {
				t.Fatal(err)
			}
			again := &WebSocket{br: bufio.NewReader(bytes.NewReader(unmask(t, out.w.Bytes()))), maxFrame: limit}
			back, err := again.readFrame()
			if err != nil || back.Opcode != got.Opcode || back.Fin != got.Fin || !bytes.Equal(back.Data, got.Data) {
				t.Fatalf("got %+v, %v; want %+v", back, err, got)
			}
			if _, err := again.br.ReadByte(); err != io.EOF {
				t.Fatal("more was written than a frame")
			}
		}
	})
}

func TestWriteFrame(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		out := &loose{}
		data := bytes.Repeat([]byte{0xa5}, n)
		if err := (&WebSocket{nc: out}).WriteFrame(Frame{Opcode: Binary, Fin: true, Data: data}); err != nil {
			t.Fatal(err)
		}
		w := &WebSocket{br: bufio.NewReader(bytes.NewReader(unmask(t, out.w.Bytes()))), maxFrame: n}
		if got, err := w.ReadFrame(); err != nil || !bytes.Equal(got.Data, data) {
			t.Errorf("%d bytes: got %d, %v", n, len(got.Data), err)
		}
	}
	for _, f := range []Frame{{Opcode: Ping}, {Opcode: Close, Fin: true, Data: make([]byte, 126)}} {
		wantCondition(t, (&WebSocket{nc: &loose{}}).WriteFrame(f), BadRequest)
	}
}

// Redirects of a WebSocket may be relative, and leave nothing in the result.
// The connect host is for the first host only.
func TestWebSocketRedirect(t *testing.T) {
	up := websocket.Upgrader{}
	ws := func(w http.ResponseWriter, req *http.Request) {
		if to := req.URL.Query().Get("to"); to != "" {
			w.Header()["Location"] = []string{to}
			w.Header().Set("X-Redirect", "1")
			w.WriteHeader(http.StatusFound)
			return
		}
		c, err := up.Upgrade(w, req, http.Header{"X-Path": {req.URL.Path}, "X-Secret": {req.Header.Get("Authorization")}})
		if err == nil {
			_ = c.Close()
		}
	}
	first, second := serve(t, ws), serve(t, ws)
	c := newClient(t, Options{})
	for to, want := range map[string]string{
		"end":                   "/a/end secret",
		"/end":                  "/end secret",
		second.URL + "/x":       "/x ",
		"//" + second.URL[7:]:   "/ ",
		"ws" + second.URL[4:]:   "/ ",
		"http://origin.test/it": "/it secret", // still where connect-host stands for
	} {
		w, err := c.WebSocket(long(t), &Request{
			URI: "ws://origin.test/a/b?to=" + to, ConnectHost: strings.TrimPrefix(first.URL, "http://"), Redirects: 2,
			Header: []frame.Field{{Name: "Authorization", Value: "secret"}},
		}, 1000)
		if err != nil {
			t.Errorf("to %s: %v", to, err)
			continue
		}
		path, _ := http1.Get(w.Header, "X-Path")
		secret, _ := http1.Get(w.Header, "X-Secret")
		if got := path + " " + secret; got != want || http1.Has(w.Header, "X-Redirect") || http1.Has(w.Header, "Location") {
			t.Errorf("to %s: got %s, want %s, in %v", to, got, want, w.Header)
		}
		_ = w.Close()
	}
	// A connect host without a port has that of the URI.
	port := first.URL[strings.LastIndex(first.URL, ":"):]
	for _, host := range []string{"127.0.0.1", "127.0.0.1" + port, "localhost"} {
		got, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://origin.test" + port + "/?to=/", ConnectHost: host})
		if err != nil || got.Code != http.StatusFound {
			t.Errorf("connect host %s: got %v, %v", host, got, err)
		}
	}
	_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://origin.test/", ConnectHost: "a b"})
	wantCondition(t, err, BadRequest)
}
