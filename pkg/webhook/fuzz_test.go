package webhook

import (
	"bytes"
	"crypto/rand"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestMessageRecord(t *testing.T) {
	for _, m := range []*Message{
		{At: time.UnixMilli(0), Body: []byte{}},
		{ID: "msg_1", Kind: "k", Channel: "c", At: time.UnixMilli(-5), Method: "PUT", Header: []frame.Field{{Name: "A", Value: "b"}, {}}, Body: []byte("\x00body")},
	} {
		got, err := parseMessage(appendMessage(nil, m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			t.Error(diff)
		}
	}
}

// What can be read is written again as it was, but for numbers in a longer form
// than they need.
func FuzzParseMessage(f *testing.F) {
	f.Add(appendMessage(nil, &Message{ID: "msg_1", Header: []frame.Field{{Name: "A", Value: "b"}}, Body: []byte("x")}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			if m != nil {
				t.Error("a message and an error")
			}
			return
		}
		again := appendMessage(nil, m)
		m2, err := parseMessage(again)
		if err != nil || !cmp.Equal(m, m2) || len(again) > len(b) {
			t.Errorf("%x became %x, %v", b, again, err)
		}
		if head, _, err := parseHead(b); err != nil || head.ID != m.ID || head.Kind != m.Kind || head.Channel != m.Channel || !head.At.Equal(m.At) {
			t.Errorf("%x has the head %+v, %v", b, head, err)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	f.Add(appendEntry(nil, entry{at: 1, next: 2, size: 3, attempts: 4}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(7, b)
		if err == nil && !bytes.Equal(appendEntry(nil, e), b) {
			t.Errorf("%x became %+v", b, e)
		}
	})
}

// A file that is taken has endpoints that are right.
func FuzzParseFile(f *testing.F) {
	f.Add([]byte(`{"endpoints":[{"id":"a","url":"https://a.example/","channels":["*"],"timeout":"10s","retries":[1,"5m","2d"],"lease":"1h"}]}`))
	f.Add([]byte(`{"endpoints":[{"id":"a","url":"http://[::1]/","channels":["a*b"],"headers":{"A":"b"},"rate_limit":1.5,"on_full":"refuse"}]} `))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseFile(b)
		if err != nil {
			if list != nil {
				t.Error("endpoints and an error")
			}
			return
		}
		for _, e := range list {
			e.setDefaults()
			if err := e.check(); err != nil {
				t.Errorf("%q: %v", e.ID, err)
			}
			if c := clone(e); c.URL != e.URL || len(c.Retries) != len(e.Retries) {
				t.Errorf("%+v became %+v", e, c)
			}
		}
	})
}

// The API answers whatever it is asked, with a status and JSON.
func FuzzServeAPI(f *testing.F) {
	for _, s := range [][2]string{
		{"POST ", `{"url":"https://a.example/","channels":["*"],"verify":false}`},
		{"GET /", ""},
		{"GET /a?x", ""},
		{"PATCH /a", `{"channels":["b"],"headers":null}`},
		{"PUT /a", `{"url":"https://b.example/","channels":["b"]}`},
		{"POST /a/replay", `{"since":"2026-01-01T00:00:00Z"}`},
		{"POST /a/rotate", `{"overlap":"1h"}`},
		{"GET /a/dead", ""},
		{"GET /a/kept", ""},
		{"DELETE /a/kept", ""},
		{"POST /a/resend", `{"ids":["msg_1"],"after":7}`},
		{"PATCH /a", `{"keep":"7d"}`},
		{"DELETE /a/dead", ""},
		{"POST /a/pause", ""},
		{"POST /a/resume", ""},
		{"GET /a/secret", ""},
		{"POST /a/test", ""},
		{"DELETE /a", ""},
	} {
		f.Add(s[0], "limit=5", []byte(s[1]))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, target, query string, body []byte) {
		r := newRig(t, func(o *Options) { o.Path = filepath.Join(dir, rand.Text()); o.noSync = true })
		r.create(Endpoint{ID: "a"})
		method, path, _ := bytes.Cut([]byte(target), []byte(" "))
		a := r.ServeAPI(Call{Method: string(method), Path: string(path), Query: query, Body: body})
		if a.Status < 200 || a.Status > 599 || a.Status == 500 || len(a.Body) > 0 && a.Body[0] != '{' {
			t.Errorf("%s: %d %s", target, a.Status, a.Body)
		}
	})
}
