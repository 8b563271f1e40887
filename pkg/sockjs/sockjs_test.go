package sockjs

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		request string
		want    Call
	}{
		{"GET /info", Call{Kind: Info}},
		{"GET /info?t=1", Call{Kind: Info}},
		{"POST /info", Call{}},
		{"OPTIONS /info", Call{Kind: Greeting}},
		{"OPTIONS /0/i/xhr", Call{Kind: Greeting}},
		{"GET /iframe.html", Call{Kind: Iframe}},
		{"GET /iframe-1.0.0.html?t=2", Call{Kind: Iframe}},
		{"GET /iframe/x.html", Call{}},
		{"GET /iframe.htm", Call{}},
		{"POST /0/i1/xhr?a=b", Call{Kind: XHR, Session: "i1"}},
		{"GET /0/i1/xhr", Call{}},
		{"POST /0//xhr", Call{}},
		{"POST /0/i1/xhr/", Call{}},
		{"POST /0/i1/xhr_send", Call{Kind: XHRSend, Session: "i1"}},
		{"GET /0/i1/xhr_send", Call{}},
		{"POST /0/i1/xhr_streaming", Call{}},
		{"GET /0/i1/eventsource", Call{}},
		{"GET /0/i1/htmlfile?c=cb", Call{}},
		{"GET /0/j/jsonp?c=cb", Call{Kind: JSONP, Session: "j", Callback: "cb"}},
		{"POST /0/j/jsonp?callback=a.b%5B0%5D", Call{Kind: JSONP, Session: "j", Callback: "a.b[0]"}},
		{"GET /0/j/jsonp", Call{Kind: BadRequest, Session: "j"}},
		{"GET /0/j/jsonp?c=alert(1)", Call{Kind: BadRequest, Session: "j", Callback: "alert(1)"}},
		{"GET /0/j/jsonp_send?d=%5B%22q%22%5D", Call{Kind: JSONPSend, Session: "j", Data: `["q"]`}},
		{"POST /0/j/jsonp_send?d=1", Call{Kind: JSONPSend, Session: "j"}},
		{"UPGRADE /websocket", Call{Kind: RawSocket}},
		{"UPGRADE /0/k/websocket", Call{Kind: WebSocket}},
		{"UPGRADE /a/b/c?z=1", Call{Kind: WebSocket}},
		{"UPGRADE /a/b", Call{}},
		{"UPGRADE ", Call{}},
		{"GET ", Call{}},
		{"GET foo", Call{}},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		if got := Parse(method, path, method == "UPGRADE"); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.request, got, c.want)
		}
	}
}

func TestWithoutCallback(t *testing.T) {
	for in, want := range map[string]string{
		"/s": "/s", "/s?c=cb": "/s", "/s?a=b&callback=x&d=e": "/s?a=b&d=e", "/s?cc=1": "/s?cc=1", "/s?": "/s",
	} {
		if got := WithoutCallback(in); got != want && (in != "/s?" || got != "/s?") {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestFrames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{FrameMessages([]string{"p1", "p2"}), `a["p1","p2"]`},
		{FrameMessages([]string{"<&>\n\"\u2028\xff"}), `a["<&>\n\"\u2028\ufffd"]`},
		{FrameClose(4321, "rr"), `c[4321,"rr"]`},
		{FrameClose(0, ""), `c[0,"Connection closed"]`},
		{FrameBusy, `c[2010,"Another connection still open"]`},
		{Script("cb", "o"), "/**/cb(\"o\");\n"},
		{Script("cb", `a["x"]`), `/**/cb("a[\"x\"]");` + "\n"},
		{InfoBody(7), `{"cookie_needed":false,"entropy":7,"origins":["*:*"],"websocket":true}` + "\n"},
	} {
		if c.got != c.want {
			t.Errorf("got %s, want %s", c.got, c.want)
		}
	}
	page, tag := Page(`http://x/"><script>`)
	if _, other := Page("http://y"); tag == other || len(tag) != 34 || !strings.Contains(page, `src="http://x/&#34;&gt;&lt;script&gt;"`) {
		t.Errorf("page %s\n%s", tag, page)
	}
}

func TestParseMessages(t *testing.T) {
	long := strings.Repeat("x", MaxMessage)
	for in, want := range map[string]error{
		`["x","y"]`: nil, `[]`: nil, ` [ "\u00e9" ] `: nil, `["` + long + `"]`: nil,
		`["` + long + `x"]`: ErrTooLarge, "nope": ErrPayload, "[5]": ErrPayload, `"x"`: ErrPayload, "": ErrPayload,
		"null": ErrPayload, "[null]": ErrPayload, `["x"`: ErrPayload, `["x"]y`: ErrPayload,
	} {
		if _, err := ParseMessages([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%.20s: got %v, want %v", in, err, want)
		}
	}
	got, _ := ParseMessages([]byte(`["x","y"]`))
	if len(got) != 2 || got[0] != "x" || got[1] != "y" {
		t.Errorf("got %q", got)
	}
	if got := string(FormData([]byte("a=b&d=%5B%22q%22%5D"))); got != `["q"]` {
		t.Errorf("form: %s", got)
	}
	if FormData([]byte("d=\xff")) != nil || FormData([]byte("%zz")) != nil {
		t.Error("a form that is none has data")
	}
}

// events counts what a session asks for.
type events struct{ dropped, freed chan struct{} }

func newEvents() events { return events{make(chan struct{}, 1), make(chan struct{}, 1)} }

func (e events) session() *Session {
	return NewSession(func() { e.dropped <- struct{}{} }, func() { e.freed <- struct{}{} })
}

func (e events) is(t *testing.T, dropped, freed bool) {
	t.Helper()
	synctest.Wait()
	if got := len(e.dropped) == 1; got != dropped {
		t.Errorf("dropped: %v", got)
	}
	if got := len(e.freed) == 1; got != freed {
		t.Errorf("freed: %v", got)
	}
}

func polls(t *testing.T, s *Session, want string) {
	t.Helper()
	if got, err := s.Poll(nil); err != nil || got != want {
		t.Errorf("got %s %v, want %s", got, err, want)
	}
}

func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		s := e.session()
		s.Deliver("p1")
		s.Deliver("p2")
		polls(t, s, `a["p1","p2"]`)
		start := time.Now()
		polls(t, s, "h")
		if d := time.Since(start); d != PollTime {
			t.Errorf("heartbeat after %v", d)
		}
		go func() {
			time.Sleep(3 * time.Second)
			if f, err := s.Poll(nil); err != nil || f != FrameBusy {
				t.Errorf("second poll: %s %v", f, err)
			}
			s.Deliver("late")
		}()
		polls(t, s, `a["late"]`)
		e.is(t, false, false)
		time.Sleep(LeaveTime + time.Millisecond) // and no poll
		e.is(t, true, true)
		if _, err := s.Poll(nil); !errors.Is(err, ErrTerminated) {
			t.Errorf("poll of an expired session: %v", err)
		}
	})
}

func TestSessionCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		s := e.session()
		s.Deliver("last")
		s.Close(4321, "rr")
		s.Close(1000, "again")
		s.Deliver("too late")
		polls(t, s, `a["last"]`)
		polls(t, s, `c[4321,"rr"]`)
		time.Sleep(LeaveTime - time.Millisecond)
		polls(t, s, `c[4321,"rr"]`)
		if err := s.BeginSend(); !errors.Is(err, ErrTerminated) {
			t.Errorf("send after close: %v", err)
		}
		s.Cut()
		e.is(t, false, false)
		time.Sleep(LeaveTime + time.Millisecond)
		e.is(t, true, true)
	})
}

func TestSessionCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		s := e.session()
		go func() {
			time.Sleep(time.Second)
			s.Cut()
		}()
		if _, err := s.Poll(nil); !errors.Is(err, ErrTerminated) {
			t.Errorf("got %v", err)
		}
		e.is(t, true, true)
	})
}

func TestSessionAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		s := e.session()
		gone := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(gone) })
		if _, err := s.Poll(gone); !errors.Is(err, ErrAborted) {
			t.Errorf("got %v", err)
		}
		e.is(t, true, false)
		polls(t, s, `c[3000,"Client already closed connection"]`)
		time.Sleep(LeaveTime + time.Millisecond)
		e.is(t, true, true)
	})
}

func TestSessionLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEvents().session()
		if !s.Deliver(strings.Repeat("x", MaxQueued)) || s.Deliver("y") {
			t.Error("the limit of the queue is not the limit")
		}
		if err := s.BeginSend(); err != nil {
			t.Error(err)
		}
		if err := s.BeginSend(); !errors.Is(err, ErrSending) {
			t.Errorf("second send: %v", err)
		}
		s.EndSend()
		if err := s.BeginSend(); err != nil {
			t.Error(err)
		}
		s.Cut()
	})
}

func FuzzParse(f *testing.F) {
	f.Add("GET", "/0/j/jsonp?c=cb&d=%5B%5D", false, []byte(`["a"]`))
	f.Add("POST", "/0/i/xhr_send", false, []byte("d=%5B%22q%22%5D"))
	f.Fuzz(func(t *testing.T, method, path string, upgrade bool, body []byte) {
		c := Parse(method, path, upgrade)
		if c.Kind == JSONP && (!validCallback(c.Callback) || c.Session == "") {
			t.Errorf("%+v", c)
		}
		messages, err := ParseMessages(body)
		if err != nil && messages != nil {
			t.Error("messages and an error")
		}
		if frame := FrameMessages(messages); !utf8.ValidString(frame) || strings.Contains(frame, "\n") {
			t.Errorf("frame %q", frame)
		}
		if again, err := ParseMessages([]byte(FrameMessages(messages)[1:])); err == nil && len(again) != len(messages) {
			t.Errorf("%d messages became %d", len(messages), len(again))
		}
		_ = FormData(body)
		_ = WithoutCallback(path)
	})
}
