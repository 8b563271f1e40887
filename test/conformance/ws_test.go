package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/holdfast/holdfast/test/stack"
)

// reading is a wsConn that reads these bytes.
func reading(t *testing.T, b []byte, server bool) *wsConn {
	t.Helper()
	a, z := net.Pipe()
	t.Cleanup(func() { _ = a.Close() })
	go func() {
		_, _ = z.Write(b)
		_ = z.Close()
	}()
	return &wsConn{t: &T{Case: &Case{}, Proxy: &stack.Stack{}, ctx: t.Context(), wait: 5 * time.Second}, conn: a, br: bufio.NewReader(a), server: server}
}

func TestWSFramesAreRead(t *testing.T) {
	var b []byte
	want := []wsFrame{wsText(""), wsBinary(pattern(125)), wsText(pattern(126)), wsText(pattern(70000)), wsPing("p"), wsPong(""), wsClose(4001, "bye")}
	for _, f := range want {
		b = append(b, f.encode(true)...)
	}
	b = append(b, wsText("a").more().encode(true)...)
	b = append(b, wsPing("").encode(true)...)
	b = append(b, wsCont("b").encode(true)...)
	c := reading(t, b, true)
	c.Expect(want...)
	c.Expect(wsPing(""), wsText("ab"))
	if _, err := c.message(); !ended(err) {
		t.Errorf("after the last frame: %v", err)
	}
}

func TestWSFaultsAreFound(t *testing.T) {
	long := append([]byte{0x81, 126, 0, 5}, "hello"...)
	for name, b := range map[string][]byte{
		"masked":             wsText("a").encode(true),
		"RSV":                wsFrame{op: opText, rsv: 4}.encode(false),
		"opcode":             wsFrame{op: 3}.encode(false),
		"continuation":       wsCont("a").encode(false),
		"start in a message": append(wsText("a").more().encode(false), wsText("b").encode(false)...),
		"large ping":         wsPing(strings.Repeat("x", 126)).encode(false),
		"ping in pieces":     wsPing("x").more().encode(false),
		"code":               wsClose(1005, "").encode(false),
		"reason":             wsClose(1000, "\xff").encode(false),
		"Close of one byte":  wsCloseRaw("a").encode(false),
		"length":             long,
		"cut":                wsText("hello").encode(false)[:4],
	} {
		if m, err := reading(t, b, false).message(); err == nil || ended(err) && name != "cut" {
			t.Errorf("%s: got %s, %v, want a fault", name, m, err)
		}
	}
}

func TestWSCompression(t *testing.T) {
	for _, keep := range []bool{true, false} {
		for _, level := range []int{flate.BestSpeed, flate.HuffmanOnly} {
			d, i := &deflater{keep: keep, level: level}, &inflater{keep: keep}
			for _, s := range []string{"", "Hello", "Hello", prose(70000), prose(70000), "Hello"} {
				if got, err := i.text(d.text(s)); err != nil || got != s {
					t.Fatalf("keep %v, level %d: %d bytes come back as %d, %v", keep, level, len(s), len(got), err)
				}
			}
		}
	}
	if got, err := new(inflater).text("\xf2\x48\xcd\xc9\xc9\x07\x00"); err != nil || got != "Hello" {
		t.Errorf("the example of RFC 7692: %q, %v", got, err)
	}
	for n := range 300 {
		if s := prose(n); len(s) != n || !utf8.ValidString(s) {
			t.Fatalf("prose(%d) has %d bytes, valid: %v", n, len(s), utf8.ValidString(s))
		}
	}
}

func TestWSAcceptIsThatOfTheRFC(t *testing.T) {
	if got := wsAccept(wsKey); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Error(got)
	}
}

func TestEventsAreEncoded(t *testing.T) {
	got := event("TEXT", "") + event("TEXT", pattern(27)) + closeEvent(4001, "bye")
	want := "TEXT\r\nTEXT 1b\r\n" + pattern(27) + "\r\nCLOSE 5\r\n\x0f\xa1bye\r\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a faulty proxy would do to a case has to fail it.
func TestWSFailsWantsTheCode(t *testing.T) {
	for _, v := range []struct {
		code uint16
		sent []byte
		good bool
	}{
		{1002, wsClose(1002, "why").encode(false), true},
		{1002, append(wsText("a").encode(false), wsClose(1002, "").encode(false)...), true},
		{1002, wsClose(1000, "").encode(false), false},
		{1002, append(wsText("b").encode(false), wsClose(1002, "").encode(false)...), false},
		{1002, nil, false},
		{badReason, wsClose(1007, "").encode(false), true},
		{badReason, wsClose(1002, "").encode(false), true},
		{badReason, wsClose(1000, "").encode(false), false},
	} {
		if got := passes(func() { reading(t, v.sent, false).Fails(v.code, wsText("a")) }); got != v.good {
			t.Errorf("Fails(%d) of %q: %v, want %v", v.code, bytes.TrimSpace(v.sent), got, v.good)
		}
	}
}

func passes(f func()) (ok bool) {
	defer func() {
		switch v := recover().(type) {
		case nil, failure:
		default:
			panic(v)
		}
	}()
	f()
	return true
}
