package main

import (
	"compress/flate"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The cases in this file are about RFC 6455 and RFC 7692 alone. The other side
// sends back what it gets: an origin, through the proxy; the built-in test
// target of the proxy; or, to check the cases, an ordinary WebSocket server.
// They are written from the RFCs and numbered as the chapters of the Autobahn
// test suite.

// rfcCase is one exchange of frames.
type rfcCase struct {
	id, title string
	send      []wsFrame
	chop      int       // the bytes are written in pieces of that size
	want      []wsFrame // what comes back
	fails     uint16    // then the connection fails with this code, or badReason
	closes    []wsFrame // or a Close was sent, answered by one of these
	// How Pushpin differs, through to an origin and by its own target.
	mark, testMark string
	// pings says that the case needs pongs: the test target returns a ping as
	// a ping.
	pings bool
}

// play sends the frames and looks at what comes back.
func (r *rfcCase) play(c *wsConn) {
	go r.write(c, r.send)
	if r.fails != 0 {
		c.Fails(r.fails, r.want...)
		return
	}
	if r.closes != nil && c.t.Proxy.Kind == wsPeer {
		// A server may answer a Close before it has sent what it was about to.
		for m := c.next("a Close"); m.op != opClose; m = c.next("a Close") {
		}
		c.Ended()
		return
	}
	c.Expect(r.want...)
	if r.closes != nil {
		c.closedBy(r.closes...)
		return
	}
	c.Send(wsClose(1000, "")) // nothing else may come before the answer
	c.ClosedWith(1000, "")
}

func (r *rfcCase) write(c *wsConn, frames []wsFrame) {
	var b []byte
	for _, f := range frames {
		b = append(b, f.encode(true)...)
	}
	if r.closes != nil {
		c.closing = true
	}
	if r.chop == 0 {
		c.Raw(b)
		return
	}
	for piece := range slices.Chunk(b, r.chop) {
		c.Raw(piece)
	}
}

// expand makes a case for an origin and one for the test target.
func (r *rfcCase) cases() []*Case {
	run := func(path string) func(*T) {
		return func(t *T) {
			t.WSEcho()
			r.play(t.WebSocket(path))
		}
	}
	cs := []*Case{{ID: "ws-rfc-" + r.id, Title: r.title, Source: "RFC 6455", Peer: true, Pushpin: r.mark, Run: run("/")}}
	if !r.pings {
		cs = append(cs, &Case{
			ID: "ws-rfc-" + r.id + "-test", Title: r.title + " (test target)", Source: "RFC 6455",
			Pushpin: r.testMark, Routes: []string{"{host} test"}, Run: run("/ws"),
		})
	}
	return cs
}

// rfc6455Cases are chapters 1 to 7, 9 and 10.
func rfc6455Cases() []*Case {
	var list []*rfcCase
	list = append(list, rfcFraming()...)
	list = append(list, rfcPings()...)
	list = append(list, rfcReserved()...)
	list = append(list, rfcFragments()...)
	list = append(list, rfcUTF8()...)
	list = append(list, rfcClosing()...)
	var cs []*Case
	for _, r := range list {
		cs = append(cs, r.cases()...)
	}
	return append(cs, rfcLimits()...)
}

type frames = []wsFrame

// rfcFraming is chapter 1.
func rfcFraming() (list []*rfcCase) {
	for i, kind := range []func(string) wsFrame{wsText, wsBinary} {
		fill := strings.Repeat
		for j, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
			f := kind(fill([]string{"*", "\xfe"}[i], n))
			list = append(list, &rfcCase{id: fmt.Sprintf("1.%d.%d", i+1, j+1), title: fmt.Sprintf("a message of %d bytes", n), send: frames{f}, want: frames{f}, testMark: stalls(n)})
		}
		f := kind(fill([]string{"*", "\xfe"}[i], 65536))
		list = append(list, &rfcCase{id: fmt.Sprintf("1.%d.8", i+1), title: "a message of 65536 bytes in pieces of 997", send: frames{f}, want: frames{f}, chop: 997, testMark: breaks})
	}
	return list
}

// stalls is the mark of what is too large for Pushpin's test target.
func stalls(n int) string {
	if n < 65535 {
		return ""
	}
	return "wrong: large messages are not sent back"
}

// breaks is the mark of a message that Pushpin may not get through.
const breaks = "chance: large messages can break the connection"

// rfcPings is chapter 2.
func rfcPings() []*rfcCase {
	const lost = "wrong: the content of pings and pongs is lost"
	var pings, pongs frames
	for i := range 10 {
		pings, pongs = append(pings, wsPing(fmt.Sprint("payload-", i))), append(pongs, wsPong(fmt.Sprint("payload-", i)))
	}
	const odd = "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
	long := strings.Repeat("\xfe", 125)
	list := []*rfcCase{
		{id: "2.1", title: "a ping without content", send: frames{wsPing("")}, want: frames{wsPong("")}},
		{id: "2.2", title: "a ping with text", send: frames{wsPing("Hello, world!")}, want: frames{wsPong("Hello, world!")}, mark: lost},
		{id: "2.3", title: "a ping with bytes that are no text", send: frames{wsPing(odd)}, want: frames{wsPong(odd)}, mark: lost},
		{id: "2.4", title: "a ping of 125 bytes", send: frames{wsPing(long)}, want: frames{wsPong(long)}, mark: lost},
		{id: "2.5", title: "a ping of 126 bytes", send: frames{wsPing(long + "\xfe")}, fails: 1002},
		{id: "2.6", title: "a ping of 125 bytes, byte by byte", send: frames{wsPing(long)}, want: frames{wsPong(long)}, chop: 1, mark: lost},
		{id: "2.7", title: "a pong that nobody asked for, empty", send: frames{wsPong("")}},
		{id: "2.8", title: "a pong that nobody asked for", send: frames{wsPong("unsolicited pong payload")}},
		{id: "2.9", title: "such a pong and a ping", send: frames{wsPong("unsolicited pong payload"), wsPing("ping payload")}, want: frames{wsPong("ping payload")}, mark: lost},
		{id: "2.10", title: "10 pings", send: pings, want: pongs, mark: lost},
		{id: "2.11", title: "10 pings, byte by byte", send: pings, want: pongs, chop: 1, mark: lost},
	}
	for _, r := range list {
		r.pings = r.fails == 0
	}
	return list
}

// rfcReserved are chapters 3 and 4: bits and opcodes that mean nothing.
func rfcReserved() []*rfcCase {
	rsv := func(n byte, f wsFrame) wsFrame {
		f.rsv = n
		return f
	}
	const taken = "wrong: RSV2 and RSV3 are not looked at"
	hello := wsText("Hello, world!")
	list := []*rfcCase{
		{id: "3.1", title: "RSV 1", send: frames{rsv(1, hello)}, fails: 1002},
		{id: "3.2", title: "RSV 2 after a good message", send: frames{hello, rsv(2, hello), wsPing("")}, want: frames{hello}, fails: 1002},
		{id: "3.3", title: "RSV 3 after a good message", send: frames{hello, rsv(3, hello), wsPing("")}, want: frames{hello}, fails: 1002},
		{id: "3.4", title: "RSV 4 after a good message, byte by byte", send: frames{hello, rsv(4, hello), wsPing("")}, want: frames{hello}, chop: 1, fails: 1002},
		{id: "3.5", title: "RSV 5 on a binary message", send: frames{rsv(5, wsBinary("\x00\xff"))}, fails: 1002},
		{id: "3.6", title: "RSV 6 on a ping", send: frames{rsv(6, wsPing("x"))}, fails: 1002},
		{id: "3.7", title: "RSV 7 on a Close", send: frames{rsv(7, wsClose(1000, ""))}, fails: 1002},
	}
	for _, r := range list[:3] {
		r.mark, r.testMark = taken, taken
	}
	for i, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		f := wsFrame{op: op}
		send := frames{f}
		var want frames
		switch i % 5 {
		case 1:
			send[0].data = "reserved opcode payload"
		case 2:
			send, want = frames{hello, f, wsPing("")}, frames{hello}
		case 3, 4:
			f.data = "reserved opcode payload"
			send, want = frames{hello, f, wsPing("")}, frames{hello}
		}
		chop := 0
		if i%5 == 4 {
			chop = 1
		}
		list = append(list, &rfcCase{id: fmt.Sprintf("4.%d.%d", 1+i/5, 1+i%5), title: fmt.Sprintf("opcode %d", op), send: send, want: want, chop: chop, fails: 1002})
	}
	return list
}

// rfcFragments is chapter 5.
func rfcFragments() (list []*rfcCase) {
	const (
		dropped = "wrong: a control frame within a message drops the connection"
		ping    = "ping payload"
	)
	whole := wsText("fragment1fragment2")
	first, second := wsText("fragment1").more(), wsCont("fragment2")
	// in gives the same frames at once, frame by frame and byte by byte.
	in := func(no int, title string, r rfcCase) {
		for i, chop := range []int{0, len(r.send[0].encode(true)), 1} {
			c := r
			c.id, c.chop = fmt.Sprintf("5.%d", no+i), chop
			c.title = title + []string{"", ", in pieces", ", byte by byte"}[i]
			list = append(list, &c)
		}
	}
	in(3, "a message in two frames", rfcCase{send: frames{first, second}, want: frames{whole}})
	in(6, "a ping within a message", rfcCase{send: frames{first, wsPing(ping), second}, want: frames{wsPong(ping), whole}, pings: true, mark: dropped})
	in(9, "a continuation of nothing, then a message", rfcCase{send: frames{wsCont("non-continuation payload"), wsText("Hello, world!")}, fails: 1002})
	in(12, "a continuation of nothing that goes on, then a message", rfcCase{send: frames{wsCont("non-continuation payload").more(), wsText("Hello, world!")}, fails: 1002})
	var noise, again frames
	for range 2 {
		noise = append(noise, wsCont("fragment1").more(), wsText("fragment2").more(), wsCont("fragment3"))
		again = append(again, wsCont("fragment1"), wsText("fragment2").more(), wsCont("fragment3"))
	}
	five := frames{wsText("fragment1").more(), wsCont("fragment2").more(), wsPing("pongme 1!"), wsCont("fragment3").more(), wsCont("fragment4").more(), wsPing("pongme 2!"), wsCont("fragment5")}
	back := frames{wsPong("pongme 1!"), wsPong("pongme 2!"), wsText("fragment1fragment2fragment3fragment4fragment5")}
	return append([]*rfcCase{
		{id: "5.1", title: "a ping in two frames", send: frames{wsPing("fragment1").more(), wsCont("fragment2")}, fails: 1002},
		{id: "5.2", title: "a pong in two frames", send: frames{wsPong("fragment1").more(), wsCont("fragment2")}, fails: 1002},
		{id: "5.15", title: "a message in two frames, then a continuation", send: frames{first, second, wsCont("fragment3").more(), wsText("fragment4")}, want: frames{whole}, fails: 1002},
		{id: "5.16", title: "continuations of nothing that go on", send: noise, fails: 1002},
		{id: "5.17", title: "continuations of nothing", send: again, fails: 1002},
		{id: "5.18", title: "two frames with the opcode of text", send: frames{first, wsText("fragment2")}, fails: 1002},
		{id: "5.19", title: "pings within a message of five frames, in pieces", send: five, want: back, chop: 20, pings: true, mark: dropped},
		{id: "5.20", title: "pings within a message of five frames", send: five, want: back, pings: true, mark: dropped},
	}, list...)
}

// rfcUTF8 is chapter 6. What is right follows from unicode/utf8 alone.
func rfcUTF8() (list []*rfcCase) {
	const taken = "wrong: text is not looked at"
	one := func(id, title string, send ...wsFrame) *rfcCase {
		var b strings.Builder
		for _, f := range send {
			b.WriteString(f.data)
		}
		r := &rfcCase{id: id, title: title, send: send, want: frames{wsText(b.String())}}
		if !utf8.ValidString(b.String()) {
			r.want, r.fails, r.mark, r.testMark = nil, 1007, taken, taken
		}
		return r
	}
	// octets makes a frame of each byte.
	octets := func(s string) (out frames) {
		out = append(out, wsText(s[:1]).more())
		for i := 1; i < len(s); i++ {
			out = append(out, wsCont(s[i:i+1]).more())
		}
		return append(out, wsCont(""))
	}
	const (
		hello = "Hello-µ@ßöäüàá-UTF-8!!"
		kosme = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
		// a surrogate in the middle
		broken = kosme + "\xed\xa0\x80" + "edited"
	)
	list = []*rfcCase{
		one("6.1.1", "empty text", wsText("")),
		one("6.1.2", "empty text in three frames", wsText("").more(), wsCont("").more(), wsCont("")),
		one("6.1.3", "text between two empty frames", wsText("").more(), wsCont("middle frame payload").more(), wsCont("")),
		one("6.2.1", "text", wsText(hello)),
		one("6.2.2", "text in two frames, cut between two characters", wsText(hello[:12]).more(), wsCont(hello[12:])),
		one("6.2.3", "text in frames of a byte", octets(hello)...),
		one("6.2.4", "other text in frames of a byte", octets(kosme)...),
		one("6.3.1", "broken text", wsText(broken)),
		one("6.3.2", "broken text in frames of a byte", octets(broken)...),
		one("6.4.1", "text, then broken text, then text", wsText(kosme).more(), wsCont("\xf4\x90\x80\x80").more(), wsCont("edited")),
		one("6.4.2", "the same, broken within a character", wsText(kosme+"\xf4").more(), wsCont("\x90").more(), wsCont("\x80\x80edited")),
		one("6.4.3", "the same at once", wsText(kosme+"\xf4\x90\x80\x80edited")),
		func() *rfcCase {
			r := one("6.4.4", "the same, byte by byte", wsText(kosme+"\xf4\x90\x80\x80edited"))
			r.chop = 1
			return r
		}(),
	}
	for _, g := range []struct {
		chapter int
		title   string
		texts   []string
	}{
		{5, "valid", []string{"\xc2\xa9", kosme, "\xe4\xbd\xa0\xe5\xa5\xbd", "\xf0\x9f\x98\x80", "\xed\x9f\xbf\xee\x80\x80"}},
		{6, "a part of a word", prefixes(kosme)},
		{7, "the first character of a length", []string{"\x00", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80"}},
		{8, "the first character of 5 and 6 bytes", []string{"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80"}},
		{9, "the last character of a length", []string{"\x7f", "\xdf\xbf", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf"}},
		{10, "the last character of 4, 5 and 6 bytes", []string{"\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf"}},
		{11, "at a boundary", []string{"\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd", "\xf4\x8f\xbf\xbf", "\xf4\x90\x80\x80"}},
		{12, "a continuation byte alone", []string{"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", byteRange(0x80, 0xbe, "")}},
		{13, "a first byte alone", []string{byteRange(0xc0, 0xdf, " "), byteRange(0xe0, 0xef, " "), byteRange(0xf0, 0xf7, " "), byteRange(0xf8, 0xfb, " "), byteRange(0xfc, 0xfd, " ")}},
		{14, "the last byte is missing", []string{"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf"}},
		{15, "many of these", []string{"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf\xfd\xbf\xbf\xbf\xbf"}},
		{16, "a byte that is never used", []string{"\xfe", "\xff", "\xfe\xfe\xff\xff"}},
		{17, "a slash that is too long", []string{"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf"}},
		{18, "the largest that is too long", []string{"\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf"}},
		{19, "a NUL that is too long", []string{"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80"}},
		{20, "a surrogate", []string{"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf"}},
		{21, "two surrogates", []string{
			"\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf",
			"\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf",
		}},
		{22, "a non-character", nonCharacters()},
		{23, "at the replacement character", []string{"\ufff9", "\ufffa", "\ufffb", "\ufffc", "\ufffd", "\ufffe", "\uffff"}},
	} {
		for i, s := range g.texts {
			list = append(list, one(fmt.Sprintf("6.%d.%d", g.chapter, i+1), fmt.Sprintf("%s: % x", g.title, clip(s, "")), wsText(s)))
		}
	}
	return list
}

func prefixes(s string) (out []string) {
	for i := range len(s) {
		out = append(out, s[:i+1])
	}
	return out
}

// byteRange is each byte from one to another, with something in between.
func byteRange(from, to int, sep string) string {
	var b strings.Builder
	for c := from; c <= to; c++ {
		b.WriteString(string([]byte{byte(c)}) + sep)
	}
	return b.String()
}

// nonCharacters are the last two of each plane. They may be used.
func nonCharacters() (out []string) {
	for plane := range 17 {
		out = append(out, string(rune(plane<<16|0xfffe)), string(rune(plane<<16|0xffff)))
	}
	return out
}

// rfcClosing is chapter 7.
func rfcClosing() []*rfcCase {
	const taken = "wrong: close codes are not looked at"
	const lost = "chance: what comes right before a Close can be lost"
	normal, hello := wsClose(1000, ""), wsText("Hello World!")
	list := []*rfcCase{
		{id: "7.1.1", title: "a message and a Close", send: frames{hello, normal}, want: frames{hello}, closes: frames{normal}, mark: lost, testMark: lost},
		{id: "7.1.2", title: "two Closes", send: frames{normal, normal}, closes: frames{normal}},
		{id: "7.1.3", title: "a ping after the Close", send: frames{normal, wsPing("")}, closes: frames{normal}},
		{id: "7.1.4", title: "a message after the Close", send: frames{normal, hello}, closes: frames{normal}},
		{id: "7.1.5", title: "a Close within a message, then the rest of it", send: frames{wsText("fragment1").more(), normal, wsCont("fragment2")}, closes: frames{normal}, mark: "wrong: the connection is dropped", testMark: "wrong: the connection is dropped"},
		{
			id: "7.1.6", title: "a message of 256 KB, one more, a Close and a ping", send: frames{wsText(strings.Repeat("BAsd7&jh23", 26214)), hello, normal, wsPing("")},
			want: frames{wsText(strings.Repeat("BAsd7&jh23", 26214)), hello}, closes: frames{normal}, mark: breaks, testMark: breaks,
		},
		{id: "7.3.1", title: "a Close without content", send: frames{wsCloseRaw("")}, closes: frames{wsCloseRaw(""), normal}},
		{id: "7.3.2", title: "a Close of one byte", send: frames{wsCloseRaw("a")}, fails: 1002, mark: taken, testMark: taken},
		{id: "7.3.3", title: "a Close with a code", send: frames{normal}, closes: frames{normal}},
		{id: "7.3.4", title: "a Close with a code and a reason", send: frames{wsClose(1000, "Hello World!")}, closes: frames{wsClose(1000, "Hello World!")}},
		{id: "7.3.5", title: "a Close with a reason of 123 bytes", send: frames{wsClose(1000, strings.Repeat("*", 123))}, closes: frames{wsClose(1000, strings.Repeat("*", 123))}},
		{id: "7.3.6", title: "a Close with a reason of 124 bytes", send: frames{wsClose(1000, strings.Repeat("*", 124))}, fails: 1002},
		{id: "7.5.1", title: "a Close with a reason that is not UTF-8", send: frames{wsClose(1000, "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited")}, fails: badReason},
	}
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		f := wsClose(code, "")
		list = append(list, &rfcCase{id: fmt.Sprintf("7.7.%d", i+1), title: fmt.Sprintf("a Close with the code %d", code), send: frames{f}, closes: frames{f}})
	}
	for i, code := range []uint16{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		list = append(list, &rfcCase{id: fmt.Sprintf("7.9.%d", i+1), title: fmt.Sprintf("a Close with the code %d", code), send: frames{wsClose(code, "")}, fails: 1002, mark: taken, testMark: taken})
	}
	for i, code := range []uint16{5000, 65535} {
		list = append(list, &rfcCase{id: fmt.Sprintf("7.13.%d", i+1), title: fmt.Sprintf("a Close with the code %d", code), send: frames{wsClose(code, "")}, fails: 1002, mark: taken, testMark: taken})
	}
	return list
}

// rfcLimits is chapter 9 up to 4 MB, and chapter 10.
func rfcLimits() (cs []*Case) {
	add := func(id, title, mark string, run func(t *T, c *wsConn)) {
		cs = append(cs, &Case{
			ID: "ws-rfc-" + id, Title: title, Source: "RFC 6455", Peer: true, Pushpin: mark, Limit: 60 * time.Second,
			Run: func(t *T) {
				if !t.OnPushpin() {
					t.Within(30 * time.Second)
				}
				t.WSEcho()
				c := t.WebSocket("/")
				run(t, c)
				c.Send(wsClose(1000, ""))
				c.ClosedWith(1000, "")
			},
		})
	}
	const kb, mb = 1 << 10, 1 << 20
	kinds := []func(string) wsFrame{wsText, wsBinary}
	for i, kind := range kinds {
		for j, n := range []int{64 * kb, 256 * kb, mb, 4 * mb} {
			add(fmt.Sprintf("9.%d.%d", i+1, j+1), fmt.Sprintf("a message of %d KB", n/kb), breaks, func(_ *T, c *wsConn) {
				f := kind(strings.Repeat("*", n))
				go c.Send(f)
				c.Expect(f)
			})
		}
		for j, n := range []int{64, 256, kb, 4 * kb, 16 * kb, 64 * kb, 256 * kb, mb} {
			total := 4 * mb
			if n < kb {
				total = mb
			}
			add(fmt.Sprintf("9.%d.%d", i+3, j+1), fmt.Sprintf("a message of %d MB in frames of %d bytes", total/mb, n), breaks, func(_ *T, c *wsConn) {
				whole := strings.Repeat("*", total)
				go func() {
					var out []wsFrame
					for piece := range slices.Chunk([]byte(whole), n) {
						out = append(out, wsCont(string(piece)).more())
					}
					out[0].op, out[len(out)-1].open = kind("").op, false
					for part := range slices.Chunk(out, 64) {
						c.Send(part...)
					}
				}()
				c.Expect(kind(whole))
			})
		}
		for j, n := range []int{64, 128, 256, 512, kb, 2 * kb} {
			add(fmt.Sprintf("9.%d.%d", i+5, j+1), fmt.Sprintf("a message of 1 MB in pieces of %d bytes", n), breaks, func(_ *T, c *wsConn) {
				f := kind(strings.Repeat("*", mb))
				go func() {
					for piece := range slices.Chunk(f.encode(true), n) {
						c.Raw(piece)
					}
				}()
				c.Expect(f)
			})
		}
		for j, n := range []int{0, 16, 64, 256, kb, 4 * kb} {
			add(fmt.Sprintf("9.%d.%d", i+7, j+1), fmt.Sprintf("500 round trips of %d bytes", n), "chance: a message can stall", func(_ *T, c *wsConn) {
				f := kind(strings.Repeat("*", n))
				for range 500 {
					c.Send(f)
					c.Expect(f)
				}
			})
		}
	}
	add("10.1.1", "a message of 64 KB that comes in frames of 1300 bytes", "", func(_ *T, c *wsConn) {
		whole := strings.Repeat("*", 65536)
		for n := 0; n < len(whole); n += 1300 {
			f := wsCont(whole[n:min(n+1300, len(whole))])
			if n == 0 {
				f.op = opText
			}
			f.open = n+1300 < len(whole)
			c.Send(f)
		}
		c.Expect(wsText(whole))
	})
	return cs
}

// compressedCase connects with permessage-deflate.
func compressedCase(id, title, offer string, run func(t *T, c *wsConn, d *deflater)) *Case {
	return &Case{
		ID: "ws-rfc-" + id, Title: title, Source: "RFC 7692", Peer: true, Pushpin: "newest: 1.36 cannot compress", Profile: "compression", Limit: 40 * time.Second,
		Run: func(t *T) {
			t.WSEcho()
			c := t.WebSocket("/", "Sec-WebSocket-Extensions: "+offer)
			got := strings.Join(values(c.head.Header, "Sec-WebSocket-Extensions"), ", ")
			d := c.agree(offer, got)
			run(t, c, d)
		},
	}
}

// agree checks the answer to offers of permessage-deflate and gets ready for
// what was agreed upon.
func (c *wsConn) agree(offer, answer string) *deflater {
	name, params, _ := strings.Cut(answer, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		c.t.Fatalf("permessage-deflate was not agreed upon: the extensions are %q", answer)
	}
	d := &deflater{keep: true, level: flate.BestSpeed}
	c.unpack = &inflater{keep: true}
	seen := map[string]bool{}
	for p := range strings.SplitSeq(params, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if seen[key] {
			c.t.Fatalf("the extensions are %q", answer)
		}
		seen[key] = true
		switch key {
		case "":
		case "client_no_context_takeover":
			d.keep = false
		case "server_no_context_takeover":
			c.unpack.keep = false
		case "client_max_window_bits":
			// Without a match there is no window that could be too small.
			d.level = flate.HuffmanOnly
			if !strings.Contains(offer, key) {
				c.t.Fatalf("%s was not offered, the extensions are %q", key, answer)
			}
		case "server_max_window_bits":
			if value == "" {
				c.t.Fatalf("the extensions are %q", answer)
			}
		default:
			c.t.Fatalf("the extensions are %q", answer)
		}
	}
	if strings.Contains(offer, "server_no_context_takeover") && !strings.Contains(offer, ",") && !seen["server_no_context_takeover"] {
		c.t.Fatalf("server_no_context_takeover was asked for, the extensions are %q", answer)
	}
	return d
}

// compressed is a message as it is sent, in frames of at most n bytes if n is
// not 0.
func (d *deflater) compressed(m wsFrame, n int) (out []wsFrame) {
	data := d.text(m.data)
	if n == 0 || len(data) <= n {
		return frames{{op: m.op, rsv: 4, data: data}}
	}
	for piece := range slices.Chunk([]byte(data), n) {
		out = append(out, wsCont(string(piece)).more())
	}
	out[0].op, out[0].rsv, out[len(out)-1].open = m.op, 4, false
	return out
}

// prose is text of that length which compresses as text does.
func prose(n int) string {
	const words = "the proxy holds a connection and writes to it what is published on its channels; änderung über größe "
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		at := (i * 37) % (len(words) - 40)
		for !utf8.RuneStart(words[at]) {
			at++
		}
		end := at + 30
		for !utf8.RuneStart(words[end]) {
			end++
		}
		fmt.Fprintf(&b, "%d %s. ", i*i, words[at:end])
	}
	s := b.String()[:n]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + strings.Repeat(".", n-len(s))
}

// rfc7692Cases are chapters 12 and 13, and what Autobahn leaves out: frames
// that are wrong.
func rfc7692Cases() []*Case {
	const plainOffer = "permessage-deflate"
	ends := func(c *wsConn) {
		c.Send(wsClose(1000, ""))
		c.ClosedWith(1000, "")
	}
	// volley sends messages and gets them back.
	volley := func(c *wsConn, d *deflater, kind byte, n, count, frame int) {
		for i := range count {
			m := wsFrame{op: kind, data: prose(n + i)[i:]}
			if kind == opBinary && i%2 == 1 {
				m.data = pattern(n)
			}
			go c.Send(d.compressed(m, frame)...)
			c.Expect(m)
		}
		ends(c)
	}
	var cs []*Case
	sizes := []int{16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072}
	for i, v := range []struct {
		what  string
		kind  byte
		frame int
	}{{"text", opText, 0}, {"binary", opBinary, 0}, {"text in frames of 256 bytes", opText, 256}} {
		for j, n := range sizes {
			cs = append(cs, compressedCase(fmt.Sprintf("12.%d.%d", i+1, j+1), fmt.Sprintf("%s messages of %d bytes, compressed", v.what, n), plainOffer,
				func(_ *T, c *wsConn, d *deflater) { volley(c, d, v.kind, n, 10, v.frame) }))
		}
	}
	for i, offer := range []string{
		"permessage-deflate; client_no_context_takeover",
		"permessage-deflate; server_no_context_takeover",
		"permessage-deflate; client_no_context_takeover; server_no_context_takeover",
		"permessage-deflate; client_max_window_bits",
		"permessage-deflate; client_max_window_bits=9",
		"permessage-deflate; server_max_window_bits=15, permessage-deflate",
		"x-webkit-deflate-frame, permessage-deflate; foo, permessage-deflate",
	} {
		for j, n := range []int{64, 4096, 65536} {
			cs = append(cs, compressedCase(fmt.Sprintf("13.%d.%d", i+1, j+1), fmt.Sprintf("messages of %d bytes with %s", n, offer), offer,
				func(_ *T, c *wsConn, d *deflater) { volley(c, d, opText, n, 6, 0) }))
		}
	}
	bad := func(id, title string, code uint16, send func(d *deflater) []wsFrame) *Case {
		return compressedCase("12.9."+id, title, plainOffer, func(_ *T, c *wsConn, d *deflater) {
			c.Send(send(d)...)
			c.Fails(code)
		})
	}
	good := func(id, title string, want wsFrame, send func(d *deflater) []wsFrame) *Case {
		return compressedCase("12.8."+id, title, plainOffer, func(_ *T, c *wsConn, d *deflater) {
			c.Send(send(d)...)
			c.Expect(want)
			ends(c)
		})
	}
	hello := wsText("Hello")
	return append(cs,
		good("1", "the example of RFC 7692 section 7.2.3.1", hello, func(*deflater) []wsFrame {
			return frames{{op: opText, rsv: 4, data: "\xf2\x48\xcd\xc9\xc9\x07\x00"}}
		}),
		good("2", "the same in two frames", hello, func(*deflater) []wsFrame {
			return frames{{op: opText, rsv: 4, data: "\xf2\x48\xcd", open: true}, wsCont("\xc9\xc9\x07\x00")}
		}),
		good("3", "a block without compression (section 7.2.3.3)", hello, func(*deflater) []wsFrame {
			return frames{{op: opText, rsv: 4, data: "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"}}
		}),
		good("4", "a block with BFINAL (section 7.2.3.4)", hello, func(*deflater) []wsFrame {
			return frames{{op: opText, rsv: 4, data: "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"}}
		}),
		good("5", "two blocks (section 7.2.3.5)", hello, func(*deflater) []wsFrame {
			return frames{{op: opText, rsv: 4, data: "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"}}
		}),
		good("6", "an empty message", wsText(""), func(*deflater) []wsFrame { return frames{{op: opText, rsv: 4, data: "\x00"}} }),
		good("7", "a message that is not compressed", hello, func(*deflater) []wsFrame { return frames{hello} }),
		bad("1", "RSV1 on a continuation", 1002, func(*deflater) []wsFrame {
			return frames{{op: opText, rsv: 4, data: "\xf2\x48\xcd", open: true}, {op: opCont, rsv: 4, data: "\xc9\xc9\x07\x00"}}
		}),
		bad("2", "RSV1 on a ping", 1002, func(*deflater) []wsFrame { return frames{{op: opPing, rsv: 4}} }),
		bad("3", "compressed text that is not UTF-8", 1007, func(d *deflater) []wsFrame { return d.compressed(wsText("a\xff"), 0) }),
	)
}
