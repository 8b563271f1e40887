package wsoverhttp

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/wsevents"
)

func crlf(s string) string { return strings.ReplaceAll(s, "↵", "\r\n") }

// answer builds an accepted answer; header pairs follow the body.
func answer(body string, header ...string) Answer {
	return Answer{
		Code: 200, ContentType: []string{wsevents.ContentType}, Body: []byte(crlf(body)),
		Header: func(name string) (string, bool) {
			for i := 0; i < len(header); i += 2 {
				if header[i] == name {
					return header[i+1], true
				}
			}
			return "", false
		},
	}
}

// driver runs a session and fails the test where it strays.
type driver struct {
	t *testing.T
	*Session
}

func opened(t *testing.T, oneEvent bool) driver {
	t.Helper()
	d := driver{t, New(oneEvent)}
	d.request("OPEN↵", 0)
	if o := d.answer(answer("OPEN↵")); !o.Accepted {
		t.Fatal("not opened")
	}
	return d
}

func (d driver) request(body string, replayed int) {
	d.t.Helper()
	r := d.Next(false)
	if r == nil {
		d.t.Fatalf("no request; want %q", body)
	}
	if diff := cmp.Diff(crlf(body), string(r.Body)); diff != "" || r.Replayed != replayed {
		d.t.Fatalf("request body (-want +got):\n%s\nreplayed %d, want %d", diff, r.Replayed, replayed)
	}
}

func (d driver) idle() {
	d.t.Helper()
	if r := d.Next(false); r != nil {
		d.t.Fatalf("unexpected request %q", r.Body)
	}
}

func (d driver) answer(a Answer) Outcome {
	d.t.Helper()
	o, err := d.Answer(a)
	if err != nil {
		d.t.Fatal(err)
	}
	return o
}

func (d driver) breaks(a Answer) {
	d.t.Helper()
	_, err := d.Answer(a)
	var e *Error
	if !errors.As(err, &e) || !d.Ended() {
		d.t.Fatalf("Answer: error %v, ended %v; want an *Error and the end", err, d.Ended())
	}
}

func (d driver) text(s string) {
	d.t.Helper()
	if err := d.Message(wsevents.Text, []byte(s), false); err != nil {
		d.t.Fatal(err)
	}
}

func TestMessagesAreBatched(t *testing.T) {
	d := opened(t, false)
	d.idle()
	d.text("first")
	d.request("TEXT 5↵first↵", 0)
	d.text("m0")
	d.text("m1")
	_ = d.Message(wsevents.Ping, nil, false)
	_ = d.Message(wsevents.Binary, []byte("zz"), false)
	_ = d.Message(wsevents.Text, []byte("par"), true)
	d.idle() // one request at a time
	d.answer(answer(""))
	d.request("TEXT 2↵m0↵TEXT 2↵m1↵PING↵BINARY 2↵zz↵", 0)
	d.answer(answer(""))
	d.idle()
	_ = d.Message(wsevents.Text, []byte("tial"), false)
	d.request("TEXT 7↵partial↵", 0)
}

func TestControlFrameBetweenParts(t *testing.T) {
	d := opened(t, false)
	_ = d.Message(wsevents.Text, []byte("a"), true)
	_ = d.Message(wsevents.Ping, []byte("p"), false)
	d.request("PING 1↵p↵", 0)
	_ = d.Message(wsevents.Text, []byte("b"), false)
	d.answer(answer(""))
	d.request("TEXT 2↵ab↵", 0)
}

func TestOpening(t *testing.T) {
	cases := []struct {
		name   string
		answer Answer
		check  func(t *testing.T, o Outcome, err error)
	}{
		{"events after OPEN", answer("OPEN↵TEXT 2↵hi↵"), func(t *testing.T, o Outcome, err error) {
			if err != nil || !o.Accepted || len(o.Events) != 1 {
				t.Errorf("got %+v, %v", o, err)
			}
		}},
		{"OPEN and CLOSE", answer("OPEN↵CLOSE 2↵\x0f\xa3↵"), func(t *testing.T, o Outcome, err error) {
			if err != nil || !o.Accepted || !o.Closed || o.Code != 4003 {
				t.Errorf("got %+v, %v", o, err)
			}
		}},
		{"OPEN and DISCONNECT", answer("OPEN↵DISCONNECT↵"), func(t *testing.T, o Outcome, err error) {
			if err != nil || !o.Accepted || !o.Cut {
				t.Errorf("got %+v, %v", o, err)
			}
		}},
		{"empty", answer(""), wantError},
		{"other first event", answer("TEXT 3↵m:x↵OPEN↵"), wantError},
		{"undecodable", answer("OPEN"), wantError},
		{"accepted more than offered", answer("OPEN↵", "Content-Bytes-Accepted", "1"), wantError},
		{"status 201", Answer{Code: 201, ContentType: []string{wsevents.ContentType}}, wantRejected},
		{"parameters", Answer{Code: 200, ContentType: []string{wsevents.ContentType + "; charset=utf-8"}}, wantRejected},
		{"no content type", Answer{Code: 200}, wantRejected},
		{"403", Answer{Code: 403, ContentType: []string{"text/plain"}}, wantRejected},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := New(false)
			s.Next(false)
			o, err := s.Answer(c.answer)
			c.check(t, o, err)
		})
	}
}

func wantError(t *testing.T, o Outcome, err error) {
	if err == nil || o.Accepted {
		t.Errorf("got %+v, %v; want an error", o, err)
	}
}

func wantRejected(t *testing.T, o Outcome, err error) {
	if err != nil || !o.Rejected {
		t.Errorf("got %+v, %v; want a rejection", o, err)
	}
}

func TestOpenIsRepeatedWhilePending(t *testing.T) {
	d := driver{t, New(false)}
	for range 2 {
		d.request("OPEN↵", 0)
		d.answer(answer("", "Keep-Alive-Interval", "20"))
		d.idle()
		d.Alarm()
	}
	d.request("OPEN↵", 0)
	if o := d.answer(answer("OPEN↵")); !o.Accepted {
		t.Error("not accepted")
	}
}

func TestInterval(t *testing.T) {
	for v, want := range map[string]int{"5": 20, "20": 20, "120": 120, "0": 0, "-1": 0, "abc": 0} {
		d := opened(t, false)
		d.Refresh()
		d.request("", 0)
		d.answer(answer("", "Keep-Alive-Interval", v))
		if d.Interval() != want {
			t.Errorf("Keep-Alive-Interval %s: got %d, want %d", v, d.Interval(), want)
		}
		d.Refresh()
		d.request("", 0)
		d.answer(answer("")) // absent: unchanged
		if d.Interval() != want {
			t.Errorf("after an answer without the header: got %d, want %d", d.Interval(), want)
		}
	}
}

func TestMeta(t *testing.T) {
	d := opened(t, false)
	step := func(set []Meta, want []Meta) {
		t.Helper()
		d.Refresh()
		d.request("", 0)
		a := answer("")
		a.SetMeta = set
		d.answer(a)
		if diff := cmp.Diff(want, d.Meta()); diff != "" {
			t.Error(diff)
		}
	}
	step([]Meta{{"A", "1"}, {"b", "2"}}, []Meta{{"A", "1"}, {"b", "2"}})
	step([]Meta{{"a", "3"}}, []Meta{{"b", "2"}, {"a", "3"}})
	step([]Meta{{"B", ""}}, []Meta{{"a", "3"}})
	d.text("x")
	if r := d.Next(false); len(r.Meta) != 1 || r.Meta[0].Value != "3" {
		t.Errorf("request meta: %v", r.Meta)
	}
}

// Each request and each record has all of the fields.
func TestMetaIsBounded(t *testing.T) {
	d := opened(t, false)
	half := strings.Repeat("v", MaxMetaBytes/2-1)
	for i, m := range []Meta{{"A", half}, {"B", half}, {"B", half}, {"C", "1"}} {
		d.Refresh()
		if d.Next(false) == nil {
			t.Fatal("no request")
		}
		a := answer("")
		a.SetMeta = []Meta{m}
		_, err := d.Answer(a)
		if last := i == 3; last != (err != nil) {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	if !d.Ended() {
		t.Error("the session goes on")
	}
}

func TestKeepBack(t *testing.T) {
	d := opened(t, false)
	d.text("{a}{bcd")
	d.request("TEXT 7↵{a}{bcd↵", 0)
	d.answer(answer("", "Content-Bytes-Accepted", "3"))
	if taken, skip := d.Taken(); taken != 0 || skip != 3 {
		t.Errorf("taken %d, skip %d", taken, skip)
	}
	d.idle() // what was kept does not cause a request
	d.text("e}")
	d.request("TEXT 4↵{bcd↵TEXT 2↵e}↵", 4)
	d.answer(answer(""))
	d.idle()
	if taken, _ := d.Taken(); taken != 2 || d.Room() != BufferSize {
		t.Errorf("taken %d, room %d", taken, d.Room())
	}
	d.Refresh()
	d.request("", 0)
}

func TestKeepBackAcrossMessages(t *testing.T) {
	d := opened(t, false)
	d.text("abc")
	d.text("def")
	d.request("TEXT 3↵abc↵TEXT 3↵def↵", 0)
	d.answer(answer("", "Content-Bytes-Accepted", "4"))
	d.Alarm()
	d.request("TEXT 2↵ef↵", 2)
}

func TestEmptyMessagesGoWithWhatWasAccepted(t *testing.T) {
	d := opened(t, false)
	for _, s := range []string{"abc", "", "xyz"} {
		d.text(s)
	}
	d.request("TEXT 3↵abc↵TEXT↵TEXT 3↵xyz↵", 0)
	d.answer(answer("", "Content-Bytes-Accepted", "3"))
	d.Alarm()
	d.request("TEXT 3↵xyz↵", 3)
}

func TestAcceptedHeader(t *testing.T) {
	for v, ok := range map[string]bool{"7": true, "8": false, "x": true, "-1": true} {
		d := opened(t, false)
		d.text("1234567")
		d.request("TEXT 7↵1234567↵", 0)
		_, err := d.Answer(answer("", "Content-Bytes-Accepted", v))
		if (err == nil) != ok || ok && d.Room() != BufferSize {
			t.Errorf("accepted %s: %v, room %d", v, err, d.Room())
		}
	}
}

func TestCloseByClient(t *testing.T) {
	t.Run("origin echoes", func(t *testing.T) {
		d := opened(t, false)
		d.ClientClosed(4001, "bye")
		d.request("CLOSE 5↵\x0f\xa1bye↵", 0)
		o := d.answer(answer("CLOSE 5↵\x0f\xa1bye↵"))
		if !o.Closed || o.Code != 4001 || o.Reason != "bye" || !d.Ended() {
			t.Errorf("got %+v, ended %v", o, d.Ended())
		}
	})
	t.Run("origin is silent", func(t *testing.T) {
		d := opened(t, false)
		d.ClientClosed(4001, "bye")
		d.request("CLOSE 5↵\x0f\xa1bye↵", 0)
		o := d.answer(answer(""))
		if !o.Closed || o.Code != 4001 || !d.Ended() {
			t.Errorf("got %+v, ended %v", o, d.Ended())
		}
	})
	t.Run("repeated at each interval", func(t *testing.T) {
		d := opened(t, false)
		d.Refresh()
		d.request("", 0)
		d.answer(answer("", "Keep-Alive-Interval", "20"))
		d.ClientClosed(4001, "bye")
		for range 2 {
			d.request("CLOSE 5↵\x0f\xa1bye↵", 0)
			if o := d.answer(answer("")); o.Closed {
				t.Fatal("closed too early")
			}
			d.idle()
			d.Alarm()
		}
		d.request("CLOSE 5↵\x0f\xa1bye↵", 0)
		if o := d.answer(answer("CLOSE 2↵\x0f\xa9↵")); !o.Closed || o.Code != 4009 || !d.Ended() {
			t.Errorf("got %+v", o)
		}
	})
	t.Run("after the messages, in one body", func(t *testing.T) {
		d := opened(t, false)
		d.text("x")
		d.request("TEXT 1↵x↵", 0)
		d.text("a")
		d.text("b")
		_ = d.Message(wsevents.Text, []byte("unfinished"), true)
		d.ClientClosed(1000, "")
		d.answer(answer(""))
		d.request("TEXT 1↵a↵TEXT 1↵b↵CLOSE 2↵\x03\xe8↵", 0)
	})
	t.Run("one event at a time", func(t *testing.T) {
		d := opened(t, true)
		d.text("a")
		d.text("b")
		d.ClientClosed(1000, "")
		for _, body := range []string{"TEXT 1↵a↵", "TEXT 1↵b↵"} {
			d.request(body, 0)
			d.answer(answer(""))
		}
		d.request("CLOSE 2↵\x03\xe8↵", 0)
	})
	for accepted, ok := range map[int]bool{5: true, 4: false, 3: false, 2: true, 0: false} {
		t.Run("accepted "+strconv.Itoa(accepted), func(t *testing.T) {
			d := opened(t, false)
			d.text("abc")
			d.ClientClosed(1000, "")
			d.request("TEXT 3↵abc↵CLOSE 2↵\x03\xe8↵", 0)
			a := answer("", "Content-Bytes-Accepted", strconv.Itoa(accepted))
			if !ok {
				d.breaks(a)
				return
			}
			d.answer(a)
			if accepted == 2 {
				d.request("TEXT 1↵c↵CLOSE 2↵\x03\xe8↵", 1)
			}
		})
	}
}

func TestCloseAfterKeptMessages(t *testing.T) {
	d := opened(t, false)
	d.text("abc")
	d.request("TEXT 3↵abc↵", 0)
	d.answer(answer("", "Content-Bytes-Accepted", "0"))
	d.idle()
	d.ClientClosed(1000, "")
	d.request("TEXT 3↵abc↵CLOSE 2↵\x03\xe8↵", 3)
	if o := d.answer(answer("CLOSE 2↵\x03\xe8↵", "Content-Bytes-Accepted", "5")); !o.Closed || !d.Ended() {
		t.Errorf("got %+v, ended %v", o, d.Ended())
	}
}

func TestCloseByOrigin(t *testing.T) {
	closeIt := func(t *testing.T) driver {
		d := opened(t, false)
		d.text("x")
		d.request("TEXT 1↵x↵", 0)
		o := d.answer(answer("TEXT 6↵m:last↵CLOSE 5↵\x0f\xa5srv↵TEXT 3↵m:z↵"))
		if len(o.Events) != 1 || !o.Closed || o.Code != 4005 || o.Reason != "srv" || d.Ended() {
			t.Fatalf("got %+v, ended %v", o, d.Ended())
		}
		d.idle()
		return d
	}
	t.Run("client answers", func(t *testing.T) {
		d := closeIt(t)
		d.ClientClosed(4006, "cli")
		d.request("CLOSE 5↵\x0f\xa6cli↵", 0)
		if o := d.answer(answer("")); o.Closed || !d.Ended() {
			t.Errorf("got %+v, ended %v", o, d.Ended())
		}
	})
	t.Run("client vanishes", func(t *testing.T) {
		d := closeIt(t)
		d.ClientGone()
		d.request("DISCONNECT↵", 0)
		d.answer(Answer{Code: 500})
		if !d.Ended() {
			t.Error("not ended")
		}
	})
}

func TestDisconnect(t *testing.T) {
	t.Run("queued messages are not sent", func(t *testing.T) {
		d := opened(t, false)
		d.text("x")
		d.request("TEXT 1↵x↵", 0)
		d.text("y")
		d.ClientGone()
		d.idle()
		d.answer(answer(""))
		d.request("DISCONNECT↵", 0)
	})
	t.Run("while opening", func(t *testing.T) {
		d := driver{t, New(false)}
		d.request("OPEN↵", 0)
		d.ClientGone()
		d.answer(answer("OPEN↵"))
		d.request("DISCONNECT↵", 0)
	})
	t.Run("not if the origin refused", func(t *testing.T) {
		d := driver{t, New(false)}
		d.request("OPEN↵", 0)
		d.ClientGone()
		d.answer(Answer{Code: 403})
		d.idle()
	})
	t.Run("by the origin, after messages", func(t *testing.T) {
		d := opened(t, false)
		d.text("x")
		d.request("TEXT 1↵x↵", 0)
		o := d.answer(answer("TEXT 1↵m↵DISCONNECT↵TEXT 1↵n↵"))
		if len(o.Events) != 1 || !o.Cut || !d.Ended() {
			t.Errorf("got %+v, ended %v", o, d.Ended())
		}
	})
	t.Run("OPEN in a later answer", func(t *testing.T) {
		d := opened(t, false)
		d.text("x")
		d.request("TEXT 1↵x↵", 0)
		if o := d.answer(answer("OPEN↵")); !o.Cut {
			t.Errorf("got %+v", o)
		}
	})
}

func TestLaterAnswersThatBreakOff(t *testing.T) {
	big := answer("")
	big.Body = make([]byte, MaxResponse+1)
	for name, a := range map[string]Answer{
		"500":       {Code: 500, ContentType: []string{wsevents.ContentType}},
		"204":       {Code: 204},
		"html":      {Code: 200, ContentType: []string{"text/html"}},
		"bad event": answer("TEXT zz↵"),
		"too large": big,
	} {
		t.Run(name, func(t *testing.T) {
			d := opened(t, false)
			d.text("x")
			d.request("TEXT 1↵x↵", 0)
			d.breaks(a)
			d.idle()
		})
	}
}

func TestOneEventNeedsProgress(t *testing.T) {
	d := opened(t, true)
	d.text("a")
	d.text("b")
	d.request("TEXT 1↵a↵", 0)
	d.breaks(answer("", "Content-Bytes-Accepted", "0"))
}

func TestBuffer(t *testing.T) {
	d := opened(t, false)
	big := strings.Repeat("x", BufferSize)
	d.text(big)
	d.request("TEXT 30d40↵"+big+"↵", 0)
	d = opened(t, false)
	if err := d.Message(wsevents.Text, []byte(big), true); err != nil {
		t.Fatal(err)
	}
	if err := d.Message(wsevents.Text, []byte("y"), true); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
}

func TestPaused(t *testing.T) {
	d := opened(t, false)
	d.text("x")
	if d.Next(true) != nil {
		t.Error("request while the client does not read")
	}
	d.Refresh()
	if d.Next(true) == nil {
		t.Error("a refresh was held back")
	}
}

func TestRefreshes(t *testing.T) {
	d := opened(t, false)
	d.text("x")
	d.request("TEXT 1↵x↵", 0)
	d.Refresh()
	d.Refresh()
	d.answer(answer(""))
	d.request("", 0)
	d.answer(answer(""))
	d.idle()
}

func TestRetry(t *testing.T) {
	d := opened(t, false)
	d.text("x")
	r := d.Next(false)
	d.Lost(true)
	if d.Again(false) != r {
		t.Error("another request after a retry")
	}
	d.idle()
	d.Lost(false)
	if !d.Ended() {
		t.Error("not ended")
	}
}

// A new owner gets the record and, again, every message that was not taken.
func TestRestore(t *testing.T) {
	d := opened(t, false)
	a := answer("", "Content-Bytes-Accepted", "4", "Keep-Alive-Interval", "30")
	a.SetMeta = []Meta{{"User", "al"}}
	d.text("one")
	d.text("two")
	d.request("TEXT 3↵one↵TEXT 3↵two↵", 0)
	d.answer(a)
	d.text("three")
	d.request("TEXT 2↵wo↵TEXT 5↵three↵", 2)
	d.text("four")
	record := d.Record()
	taken, _ := d.Taken()
	if taken != 1 {
		t.Fatalf("taken %d, want 1", taken)
	}

	n := driver{t, Restore(record, false)}
	for _, s := range []string{"two", "three", "four"} {
		n.text(s)
	}
	n.request("TEXT 2↵wo↵TEXT 5↵three↵TEXT 4↵four↵", 7)
	if n.Interval() != 30 || len(n.Meta()) != 1 || !n.Opened() {
		t.Errorf("restored: interval %d, meta %v, opened %v", n.Interval(), n.Meta(), n.Opened())
	}
	n.answer(answer(""))
	n.idle()
}

func TestRestoreRepeatsAnEmptyRequest(t *testing.T) {
	d := opened(t, false)
	d.Refresh()
	d.request("", 0)
	n := driver{t, Restore(d.Record(), false)}
	n.request("", 0)
}

// A record may come from another version.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"o":true,"m":[{"Name":"A","Value":"b"}],"i":30,"c":true,"s":3,"r":9,"q":true}`), []byte("abcdef"), false)
	f.Add([]byte(`{"s":-1,"r":-5,"i":-1}`), []byte("x"), true)
	f.Fuzz(func(t *testing.T, record, data []byte, oneEvent bool) {
		var r Record
		if json.Unmarshal(record, &r) != nil {
			return
		}
		s := Restore(r, oneEvent)
		for range 3 {
			_ = s.Message(wsevents.Text, data, true)
		}
		sent := s.Next(false)
		if sent != nil && (sent.Replayed < 0 || sent.Replayed > 3*len(data)) {
			t.Fatalf("replays %d of %d bytes", sent.Replayed, 3*len(data))
		}
		bytes := 0
		for _, m := range s.queue {
			bytes += len(m.data)
		}
		if bytes != s.bytes || bytes > 3*len(data) {
			t.Fatalf("%d bytes are kept, %d are counted, %d came", bytes, s.bytes, 3*len(data))
		}
	})
}

func FuzzSession(f *testing.F) {
	f.Add([]byte("OPEN\r\n"), []byte("abcdef"), 3, true)
	f.Add([]byte("TEXT 2\r\nhi\r\nCLOSE\r\n"), []byte{0, 200, 7}, 0, false)
	f.Fuzz(func(t *testing.T, body, script []byte, accepted int, oneEvent bool) {
		s := New(oneEvent)
		if len(script) > 200 {
			script = script[:200]
		}
		for _, op := range script {
			switch op % 7 {
			case 0, 1:
				_ = s.Message(wsevents.Text, body, op%2 == 0)
			case 2:
				s.ClientClosed(uint16(op)*20, "r")
			case 3:
				s.Refresh()
			case 4:
				s.Alarm()
			case 5:
				_, _ = s.Answer(answer(string(body), "Content-Bytes-Accepted", strconv.Itoa(accepted)))
			case 6:
				if op > 250 {
					s.ClientGone()
				}
			}
			if r := s.Next(false); r != nil && s.Next(false) != nil {
				t.Fatal("two requests at once")
			}
			bytes := 0
			for _, m := range s.queue {
				bytes += len(m.data)
				if m.offered > len(m.data) {
					t.Fatal("offered more than there is")
				}
			}
			if bytes != s.bytes {
				t.Fatalf("%d bytes in the queue, %d counted", bytes, s.bytes)
			}
		}
	})
}

// A request that was not sent leaves nothing in the way of the last one.
func TestUnsent(t *testing.T) {
	d := opened(t, false)
	d.text("never sent")
	d.request("TEXT a↵never sent↵", 0)
	d.Unsent()
	d.ClientGone()
	d.request("DISCONNECT↵", 0)
}
