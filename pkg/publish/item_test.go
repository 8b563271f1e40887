package publish

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
)

func readVectors[T any](t testing.TB, file string) []T {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v []T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

type itemVector struct {
	Name  string
	Item  json.RawMessage
	Error string
}

// TestItems runs the vectors through all three intake forms.
func TestItems(t *testing.T) {
	for _, v := range readVectors[itemVector](t, "testdata/items.json") {
		t.Run(v.Name, func(t *testing.T) {
			_, err := ParseBatch([]byte(`{"items":[` + string(v.Item) + `]}`))
			check := func(form string, err error, want string) {
				t.Helper()
				got := ""
				if err != nil {
					got = err.Error()
				}
				if got != want {
					t.Errorf("%s: got error %q, want %q", form, got, want)
				}
				var e *Error
				if err != nil && !errors.As(err, &e) {
					t.Errorf("%s: %T is not an *Error", form, err)
				}
			}
			batch := v.Error
			if batch != "" {
				batch = "Invalid format: " + batch
			}
			check("batch", err, batch)
			_, err = ParseMessage(append([]byte("J"), v.Item...))
			check("J", err, v.Error)
			if strings.Contains(v.Error, "-bin'") || strings.Contains(v.Name, "UTF-8") {
				return // bytes differ between the two encodings
			}
			tree, err := parseJSON(v.Item)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseMessage(append([]byte("T"), tnet.Append(nil, plain(tree))...))
			check("T", err, v.Error)
			_, err = ParseMessage(tnet.Append(nil, plain(tree)))
			check("bare", err, v.Error)
		})
	}
}

// plain turns JSON numbers into what a tnetstring can hold.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case []any:
		c := make([]any, len(v))
		for i := range v {
			c[i] = plain(v[i])
		}
		return c
	case map[string]any:
		c := map[string]any{}
		for k := range v {
			c[k] = plain(v[k])
		}
		return c
	}
	return v
}

func one(t *testing.T, item string) *Item {
	t.Helper()
	b, err := ParseBatch([]byte(`{"items":[` + item + `]}`))
	if err != nil || len(b.Items) != 1 || b.Report {
		t.Fatalf("%s: got %+v, %v", item, b, err)
	}
	return b.Items[0]
}

func TestItemFields(t *testing.T) {
	it := one(t, `{"channel":"c","id":"","prev-id":"p","size":2.5,"no-seq":true,"meta":{"sender":"al"},"x":1,
		"formats":{"http-response":{"code":"404","reason":"Gone Fishing","body-bin":"aGV5 YQ","body":"no",
			"headers":[["X-A","1"],["Grip-Foo","x"],["X-A","2"],["Grip-Expose-Headers","X-B, ,X-C"]],"content-filters":[]},
		"http-stream":{"content-bin":"AAE=","content-filters":["a","b"]},
		"ws-message":{"action":"close","code":4001,"reason":"bye"}}}`)
	want := &Item{
		Channel: "c", HasID: true, PrevID: "p", HasPrevID: true, Size: 3, NoSeq: true, Meta: map[string]string{"sender": "al"},
		Response: &Format{
			Code: 404, Reason: "Gone Fishing", Body: []byte("heya"), CheckFilters: true,
			Header: []Field{{"X-A", "1"}, {"X-A", "2"}}, Expose: []string{"X-B", "X-C"},
		},
		Stream:    &Format{Body: []byte{0, 1}, CheckFilters: true, Filters: []string{"a", "b"}},
		WebSocket: &Format{Action: Close, Code: 4001, Reason: "bye"},
	}
	if !reflect.DeepEqual(it, want) {
		t.Errorf("got  %+v\nwant %+v\n(%+v)", it, want, it.Response)
	}
}

func TestResponseCode(t *testing.T) {
	for in, want := range map[string]int{`"404"`: 404, `199.6`: 200, `" 201 "`: 201, `999`: 999, `2e2`: 200} {
		if got := one(t, `{"channel":"a","http-response":{"code":`+in+`,"body":""}}`).Response.Code; got != want {
			t.Errorf("code %s: got %d, want %d", in, got, want)
		}
	}
	if got := one(t, `{"channel":"a","http-response":{"body":""}}`).Response.Code; got != 200 {
		t.Errorf("no code: got %d, want 200", got)
	}
}

// What publishers may send that no frame, record or client takes.
func TestLimits(t *testing.T) {
	response := func(fields string) string { return `{"channel":"a","http-response":{"body":"",` + fields + `}}` }
	headers := func(n int) string { return `"headers":[["A","b"]` + strings.Repeat(`,["A","b"]`, n-1) + `]` }
	expose := func(n int) string {
		return `"headers":{"Grip-Expose-Headers":"a` + strings.Repeat(",a", n-1) + `"}`
	}
	id := func(field string, n int) string {
		return `{"channel":"a","` + field + `":"` + strings.Repeat("x", n) + `","http-stream":{"content":""}}`
	}
	for in, want := range map[string]string{
		response(`"code":200`):                "",
		response(`"code":199`):                "Invalid format: 'http-response' contains 'code' with invalid value",
		response(`"code":101`):                "Invalid format: 'http-response' contains 'code' with invalid value",
		response(headers(frame.MaxGiven)):     "",
		response(headers(frame.MaxGiven + 1)): "Invalid format: 'http-response' contains too many headers",
		response(expose(frame.MaxGiven)):      "",
		response(expose(frame.MaxGiven + 1)):  "Invalid format: 'http-response' contains too many headers",
		id("id", MaxID):                       "",
		id("id", MaxID+1):                     "Invalid format: publish item object contains 'id' with invalid value",
		id("prev-id", MaxID+1):                "Invalid format: publish item object contains 'prev-id' with invalid value",
	} {
		_, err := ParseBatch([]byte(`{"items":[` + in + `]}`))
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%.100s: got %s, want %q", in, got, want)
		}
	}
}

// Whatever a publisher makes large counts.
func TestMemory(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for _, in := range []string{
		`{"channel":"` + long + `","http-stream":{"content":""}}`,
		`{"channel":"a","id":"` + long + `","http-stream":{"content":""}}`,
		`{"channel":"a","prev-id":"` + long + `","http-stream":{"content":""}}`,
		`{"channel":"a","meta":{"a":"` + long + `"},"http-stream":{"content":""}}`,
		`{"channel":"a","meta":{"` + long + `":""},"http-stream":{"content":""}}`,
		`{"channel":"a","http-stream":{"content":"` + long + `"}}`,
		`{"channel":"a","http-stream":{"content":"","content-filters":["` + long + `"]}}`,
		`{"channel":"a","http-response":{"body":"","reason":"` + long + `"}}`,
		`{"channel":"a","http-response":{"body":"","headers":{"A":"` + long + `"}}}`,
		`{"channel":"a","http-response":{"body":"","headers":{"Grip-Expose-Headers":"` + long + `"}}}`,
		`{"channel":"a","http-response":{"body-patch":[{"op":"add","path":"/a","value":{"` + long + `":[1]}}]}}`,
		`{"channel":"a","http-response":{"body-patch":[{"op":"add","path":"/a","value":1` + strings.Repeat("0", len(long)) + `}]}}`,
		`{"channel":"a","http-request":{"content":"` + long + `"}}`,
	} {
		if got := one(t, in).Memory(); got < len(long) || got > 2*len(long) {
			t.Errorf("%.80s: got %d, want about %d", in, got, len(long))
		}
	}
}

func TestHeaderMapIsSorted(t *testing.T) {
	got := one(t, `{"channel":"a","http-response":{"headers":{"b":"1","A":"2","c":""},"body":""}}`).Response.Header
	if want := []Field{{"A", "2"}, {"b", "1"}, {"c", ""}}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWebSocketMessages(t *testing.T) {
	for in, want := range map[string]Format{
		`{"content":"hello"}`:                  {Kind: Text, Body: []byte("hello")},
		`{"type":"binary","content":"hello"}`:  {Kind: Binary, Body: []byte("hello")},
		`{"content-bin":"AAEC"}`:               {Kind: Binary, Body: []byte{0, 1, 2}},
		`{"content-bin":"AAE=","content":"x"}`: {Kind: Binary, Body: []byte{0, 1}},
		`{"type":"text","content-bin":"aGk="}`: {Kind: Text, Body: []byte("hi")},
		`{"type":"ping"}`:                      {Kind: Ping},
		`{"type":"pong","content":"p"}`:        {Kind: Pong, Body: []byte("p")},
		`{"action":"close"}`:                   {Action: Close},
		`{"action":"close","code":1001}`:       {Action: Close, Code: 1001},
		`{"action":"refresh","content":5}`:     {Action: Refresh},
	} {
		got := one(t, `{"channel":"a","ws-message":`+in+`}`).WebSocket
		if got.Kind != want.Kind || got.Action != want.Action || got.Code != want.Code || string(got.Body) != string(want.Body) {
			t.Errorf("%s: got %+v, want %+v", in, *got, want)
		}
	}
	long := strings.Repeat("x", 126)
	if _, err := ParseMessage([]byte(`J{"channel":"a","ws-message":{"type":"ping","content":"` + long + `"}}`)); err == nil {
		t.Error("a ping of 126 bytes was accepted")
	}
}

func TestBatchTexts(t *testing.T) {
	for body, want := range map[string]string{
		"{":                      "Body is not valid JSON.",
		"":                       "Body is not valid JSON.",
		"5":                      "Body is not valid JSON.",
		"null":                   "Body is not valid JSON.",
		`{"items":[]} x`:         "Body is not valid JSON.",
		"{\"items\":[\"\xff\"]}": "Body is not valid JSON.",
		"[]":                     "Invalid format.",
		"{}":                     "Invalid format: object does not contain 'items'",
		`{"items":{}}`:           "Invalid format: object contains 'items' with wrong type",
		`{"items":[{"channel":"a","http-stream":{"content":"x"}},{"channel":"a"}]}`: "Invalid format: no formats specified",
		`{"items":[],"report":1}`: "Invalid format: object contains 'report' with wrong type",
	} {
		b, err := ParseBatch([]byte(body))
		if b.Items != nil || err == nil || err.Error() != want {
			t.Errorf("%q: got %v, %v; want %q", body, b, err, want)
		}
	}
	if b, err := ParseBatch([]byte(`{"items":[]}`)); len(b.Items) != 0 || err != nil {
		t.Errorf("empty batch: %v, %v", b, err)
	}
	if b, err := ParseBatch([]byte(`{"items":[],"report":true}`)); !b.Report || err != nil {
		t.Errorf("with report: %v, %v", b, err)
	}
}

func TestTnetstringItems(t *testing.T) {
	item := func(format string, fields map[string]any) []byte {
		return tnet.Append(nil, map[string]any{"channel": "a", "formats": map[string]any{format: fields}})
	}
	it, err := ParseMessage(item("http-stream", map[string]any{"content": "\x00\xff"}))
	if err != nil || string(it.Stream.Body) != "\x00\xff" {
		t.Errorf("bytes: %+v, %v", it, err)
	}
	it, err = ParseMessage(item("ws-message", map[string]any{"content-bin": "\x00\xff"}))
	if err != nil || string(it.WebSocket.Body) != "\x00\xff" || it.WebSocket.Kind != Binary {
		t.Errorf("ws bytes: %+v, %v", it, err)
	}
	for want, b := range map[string][]byte{
		"'http-stream' does not contain 'content'":                item("http-stream", map[string]any{"content-bin": "x"}),
		"'http-response' does not contain 'body' or 'body-patch'": item("http-response", map[string]any{"body-bin": "x"}),
		"empty message": nil,
		"tnetstring: length is more than there is at byte 0": []byte("T5:abc"),
	} {
		if _, err := ParseMessage(b); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %q", b, err, want)
		}
	}
}

func TestTopicIsTheChannel(t *testing.T) {
	for _, c := range []struct{ topic, item, channel string }{
		{"t", `J{"channel":5,"http-stream":{"content":"x"}}`, "t"},
		{"t", `J{"http-stream":{"content":"x"}}`, "t"},
		{"", `J{"channel":"c","http-stream":{"content":"x"}}`, "c"},
	} {
		it, err := ParseTopic(c.topic, []byte(c.item))
		if err != nil || it.Channel != c.channel {
			t.Errorf("topic %q, %s: got %+v, %v; want channel %q", c.topic, c.item, it, err, c.channel)
		}
	}
}

type patchVector struct {
	Name, Base string
	Patch      json.RawMessage
	Want       *string
}

func TestPatch(t *testing.T) {
	for _, v := range readVectors[patchVector](t, "testdata/patches.json") {
		t.Run(v.Name, func(t *testing.T) {
			p := one(t, `{"channel":"a","http-response":{"body-patch":`+string(v.Patch)+`}}`).Response.Patch
			if !p.IsSet() {
				t.Fatal("no patch")
			}
			for range 2 { // the patch itself must not change
				got, err := p.Apply([]byte(v.Base))
				switch {
				case v.Want == nil && (err == nil || got != nil):
					t.Errorf("got %q, want an error", got)
				case v.Want != nil && (err != nil || string(got) != *v.Want):
					t.Errorf("got %q, %v; want %q", got, err, *v.Want)
				}
			}
		})
	}
}

func FuzzPatch(f *testing.F) {
	for _, v := range readVectors[patchVector](f, "testdata/patches.json") {
		f.Add([]byte(v.Base), []byte(v.Patch))
	}
	f.Fuzz(func(t *testing.T, base, patch []byte) {
		v, err := parseJSON(patch)
		ops, ok := v.([]any)
		if err != nil || !ok {
			return
		}
		p := Patch{ops: ops, set: true}
		out, err := p.Apply(base)
		if err != nil {
			if out != nil {
				t.Fatalf("%q with error %v", out, err)
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("made %q", out)
		}
		if again, err := p.Apply(base); err != nil || !bytes.Equal(out, again) {
			t.Fatalf("made %q, and then %q, %v", out, again, err)
		}
	})
}

// A patch that doubles the document again and again must fail, not fill memory.
func TestPatchIsBounded(t *testing.T) {
	op := `{"op":"copy","from":"/a","path":"/a/-"},`
	patch := strings.TrimSuffix(strings.Repeat(op, 60), ",")
	p := one(t, `{"channel":"a","http-response":{"body-patch":[`+patch+`]}}`).Response.Patch
	if _, err := p.Apply([]byte(`{"a":["` + strings.Repeat("x", 1000) + `"]}`)); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("got %v, want an error about the size", err)
	}
}

func TestDepth(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	if _, err := parseJSON(nested(maxDepth)); err != nil {
		t.Errorf("depth %d: %v", maxDepth, err)
	}
	if _, err := parseJSON(nested(maxDepth + 1)); err == nil {
		t.Errorf("depth %d was accepted", maxDepth+1)
	}
}

// FuzzJSON: we accept what encoding/json accepts, apart from invalid UTF-8 and
// deep nesting, and read the same values; what we write reads back the same.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+3,true,null,"\ud83d\ude00\ud800\n\u00e9"]}`, `[1,]`, `01`, `"\x"`, `"\ud800\u0041"`, ` 1 `, `{"a":1,"a":2}`, "\"\x01\"", `-`, `1.`, `tru`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseJSON(b)
		if err != nil {
			if got != nil {
				t.Fatalf("value with error %v", err)
			}
			var want any
			if json.Unmarshal(b, &want) == nil && json.Valid(b) && utf8Valid(b) && depth(b) <= maxDepth {
				t.Fatalf("%q refused: %v", b, err)
			}
			return
		}
		dec := json.NewDecoder(strings.NewReader(string(b)))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("%q accepted, encoding/json says %v", b, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", b, got, want)
		}
		again, err := parseJSON(appendJSON(nil, got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%q: written and read again: %#v, %v", b, again, err)
		}
	})
}

func utf8Valid(b []byte) bool { return strings.ToValidUTF8(string(b), "") == string(b) }

// depth is an upper bound of the nesting: brackets in strings count too.
func depth(b []byte) int {
	n, most := 0, 0
	for _, c := range b {
		if c == '[' || c == '{' {
			n++
			most = max(most, n)
		}
	}
	return most
}

// FuzzMessage: an item or an error, and an item that is accepted holds only what
// the rest of the system may rely on.
func FuzzMessage(f *testing.F) {
	for _, v := range readVectors[itemVector](f, "testdata/items.json") {
		f.Add(append([]byte("J"), v.Item...))
		if tree, err := parseJSON(v.Item); err == nil {
			f.Add(tnet.Append([]byte("T"), plain(tree)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := ParseMessage(b)
		if err != nil {
			if it != nil {
				t.Fatalf("item with error %v", err)
			}
			return
		}
		if r := it.Response; r != nil && r.Action == Send {
			if r.Code < 200 || len(r.Header) > frame.MaxGiven || r.Code > 999 {
				t.Fatalf("code %d", r.Code)
			}
			for _, h := range r.Header {
				if !validField(h.Name, h.Value) || strings.HasPrefix(strings.ToLower(h.Name), "grip-") {
					t.Fatalf("field %q", h)
				}
			}
			if r.Patch.IsSet() {
				if out, err := r.Patch.Apply([]byte(`{"a":[1,{"b":2}],"c":"d"}`)); err == nil && !json.Valid(out) {
					t.Fatalf("patch made %q", out)
				}
			}
		}
		if w := it.WebSocket; w != nil && w.Action == Send && w.Kind == 0 {
			t.Fatal("message without a type")
		}
	})
}

func BenchmarkParseBatch(b *testing.B) {
	body := []byte(`{"items":[{"channel":"chan-1234","id":"17","formats":{"http-stream":{"content":"` + strings.Repeat("x", 100) + `\n"}}}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseBatch(body); err != nil {
			b.Fatal(err)
		}
	}
}
