package grip

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/holdfast/holdfast/pkg/frame"
)

type vector struct {
	ID     string      `json:"id"`
	Status []any       `json:"status"`
	Header [][2]string `json:"header"`
	Body   string      `json:"body"`
	URI    string      `json:"uri"`
	Grip   *bool       `json:"grip"`
	Error  string      `json:"error"`
	Want   map[string]any
}

func readVectors[T any](t testing.TB, name string) []T {
	t.Helper()
	b, err := os.ReadFile("testdata/vectors/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var v []T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

func fields(pairs [][2]string) []frame.Field {
	var h []frame.Field
	for _, p := range pairs {
		h = append(h, frame.Field{Name: p[0], Value: p[1]})
	}
	return h
}

// picture returns an instruct in the form that the vectors have.
func picture(in *Instruct) map[string]any {
	pairs := func(h []frame.Field) []any {
		all := []any{}
		for _, f := range h {
			all = append(all, []any{f.Name, f.Value})
		}
		return all
	}
	m := map[string]any{
		"hold": in.Hold.String(), "timeout": float64(in.Millis) / 1000, "meta": pairs(in.Meta), "gone": in.Gone,
		"code": float64(in.Code), "reason": in.Reason, "header": pairs(in.Header), "body": string(in.Body),
		"keep-alive": nil, "next": nil,
	}
	channels := []any{}
	for _, c := range in.Channels {
		var prev any
		if c.HasPrevID {
			prev = c.PrevID
		}
		filters := []any{}
		for _, f := range c.Filters {
			filters = append(filters, f)
		}
		channels = append(channels, []any{c.Name, prev, filters})
	}
	m["channels"] = channels
	if k := in.KeepAlive; k.Millis != 0 {
		mode := "idle"
		if k.Interval {
			mode = "interval"
		}
		m["keep-alive"] = []any{string(k.Data), float64(k.Millis) / 1000, mode}
	}
	if in.Next.URI != "" {
		m["next"] = []any{in.Next.URI, float64(in.Next.Millis) / 1000}
	}
	return m
}

func TestVectors(t *testing.T) {
	for _, file := range []string{"header.json", "instruct.json", "json.json"} {
		for _, v := range readVectors[vector](t, file) {
			t.Run(v.ID, func(t *testing.T) {
				h := fields(v.Header)
				if v.Grip != nil && IsGrip(h) != *v.Grip {
					t.Errorf("IsGrip(%v) = %v", h, !*v.Grip)
				}
				if v.URI == "" {
					v.URI = "http://h/a/b"
				}
				in, err := Parse(int(v.Status[0].(float64)), v.Status[1].(string), h, []byte(v.Body), v.URI)
				if v.Error != "" {
					if err == nil || err.Error() != v.Error {
						t.Fatalf("got error %v, want %q", err, v.Error)
					}
					return
				}
				if v.Grip != nil && !*v.Grip {
					return // never parsed
				}
				if err != nil {
					t.Fatalf("got error %q, want none", err)
				}
				got := picture(in)
				for k := range got {
					if _, ok := v.Want[k]; !ok {
						delete(got, k)
					}
				}
				if d := cmp.Diff(v.Want, got); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
				if d := cmp.Diff(fields(v.Header), h); d != "" {
					t.Errorf("Parse changed its argument:\n%s", d)
				}
			})
		}
	}
}

func TestAppendSplit(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "  ": nil, "a": {"a"}, "a,,b": {"a", "", "b"}, "a,": {"a"}, ",": {""}, " a , b ": {"a", "b"},
		`a;x="1,2",b`: {`a;x="1,2"`, "b"}, `"a\",b",c`: {`"a\",b"`, "c"}, `a,"b,c`: {"a", `"b,c`}, `"\`: {`"\`},
	} {
		if d := cmp.Diff(want, appendSplit(nil, in), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("appendSplit(%q): -want +got:\n%s", in, d)
		}
	}
}

func TestMayStream(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header [][2]string
		want   bool
	}{
		{"stream", [][2]string{{"Grip-Hold", "stream"}}, true},
		{"response", [][2]string{{"Grip-Hold", "response"}, {"Grip-Link", "</n>; rel=next"}}, false},
		{"next", [][2]string{{"Grip-Link", "</g>; rel=gone, </n>; rel=next"}}, true},
		{"gone", [][2]string{{"Grip-Link", "</g>; rel=gone"}}, false},
		{"neither", [][2]string{{"Grip-Channel", "a"}}, false},
		{"build-id", [][2]string{{"Grip-Hold", "stream"}, {"Grip-Channel", "a, b; filter=build-id"}}, false},
		{"JSON", [][2]string{{"Grip-Hold", "stream"}, {"Content-Type", "application/grip-instruct"}}, false},
	} {
		if got := MayStream(fields(tt.header)); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestLast(t *testing.T) {
	for _, tt := range []struct {
		last frame.LastID
		want string
	}{
		{frame.LastID{Channel: "a", ID: "1"}, "a; last-id=1"},
		{frame.LastID{Channel: "a"}, "a; last-id="},
		{frame.LastID{Channel: "a b", ID: `x;y,"z\`}, `a b; last-id="x;y,\"z\\"`},
		{frame.LastID{Channel: "a", ID: " x"}, `a; last-id=" x"`},
	} {
		got := FormatLast(tt.last)
		if got != tt.want {
			t.Errorf("FormatLast(%v) = %q, want %q", tt.last, got, tt.want)
		}
		back := ParseLast([]frame.Field{{Name: "grip-last", Value: got}})
		if d := cmp.Diff([]frame.LastID{tt.last}, back); d != "" {
			t.Errorf("%q read back: -want +got:\n%s", got, d)
		}
	}
}

func TestCORS(t *testing.T) {
	const methods = "OPTIONS, HEAD, GET, POST, PUT, DELETE"
	for _, tt := range []struct {
		name                    string
		request, response, want [][2]string
	}{
		{
			"C1",
			[][2]string{{"Origin", "http://o"}},
			[][2]string{{"X-A", "1"}, {"x-a", "2"}, {"Etag", "e"}, {"Cache-Control", "c"}},
			[][2]string{{"Access-Control-Allow-Methods", methods}, {"Access-Control-Expose-Headers", "X-A, Etag"}, {"Access-Control-Allow-Credentials", "true"}, {"Access-Control-Allow-Origin", "http://o"}, {"Access-Control-Max-Age", "3600"}},
		},
		{
			"C2",
			[][2]string{{"Access-Control-Request-Method", "PATCH"}, {"Access-Control-Request-Headers", "X-Q, , X-Z"}},
			nil,
			[][2]string{{"Access-Control-Allow-Methods", "PATCH"}, {"Access-Control-Allow-Headers", "X-Q, X-Z"}, {"Access-Control-Allow-Credentials", "true"}, {"Access-Control-Allow-Origin", "*"}, {"Access-Control-Max-Age", "3600"}},
		},
		{
			"C3", nil,
			[][2]string{{"Access-Control-Allow-Origin", "z"}},
			[][2]string{{"Access-Control-Allow-Methods", methods}, {"Access-Control-Allow-Credentials", "true"}, {"Access-Control-Max-Age", "3600"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := append(fields(tt.response), fields(tt.want)...)
			got := AddCORS(fields(tt.response), fields(tt.request))
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			if d := cmp.Diff(want, AddCORS(got, fields(tt.request))); d != "" {
				t.Errorf("second time: -want +got:\n%s", d)
			}
		})
	}
}

func TestParseBounds(t *testing.T) {
	var meta, headers strings.Builder
	for i := range frame.MaxHeaders {
		fmt.Fprintf(&meta, "a%d=1,", i)
		fmt.Fprintf(&headers, `["A","%d"],`, i)
	}
	_, err := Parse(200, "OK", []frame.Field{{Name: "Grip-Set-Meta", Value: meta.String()}}, nil, "")
	if err == nil || err.Error() != "too many meta variables" {
		t.Errorf("meta: got %v", err)
	}
	body := `{"response":{"headers":[` + strings.TrimSuffix(headers.String(), ",") + `]}}`
	_, err = Parse(200, "OK", []frame.Field{{Name: "Content-Type", Value: "application/grip-instruct"}}, []byte(body), "")
	if err == nil || err.Error() != "too many headers" {
		t.Errorf("headers: got %v", err)
	}
}

// FuzzParse checks what the rest of the system relies on whatever an origin
// sends.
func FuzzParse(f *testing.F) {
	for _, file := range []string{"header.json", "instruct.json", "json.json"} {
		for _, v := range readVectors[vector](f, file) {
			var lines []string
			for _, p := range v.Header {
				lines = append(lines, p[0]+": "+p[1])
			}
			f.Add(strings.Join(lines, "\n"), []byte(v.Body))
		}
	}
	f.Fuzz(func(t *testing.T, lines string, body []byte) {
		var h []frame.Field
		for line := range strings.SplitSeq(lines, "\n") {
			name, value, _ := strings.Cut(line, ":")
			h = append(h, frame.Field{Name: name, Value: strings.TrimSpace(value)})
		}
		before := slices.Clone(h)
		in, err := Parse(http.StatusOK, "OK", h, body, "http://h/a/b")
		if !slices.Equal(before, h) {
			t.Fatal("argument changed")
		}
		if err != nil {
			if in != nil || err.Error() == "" {
				t.Fatalf("error %q with result %v", err, in)
			}
			return
		}
		if in.Code < 200 || in.Code > 999 || strings.ContainsAny(in.Reason, "\r\n") {
			t.Errorf("status %d %q", in.Code, in.Reason)
		}
		for _, f := range in.Header {
			if isGripName(f.Name) {
				t.Errorf("field %q left", f.Name)
			}
		}
		if in.Millis < 5000 || in.KeepAlive.Millis != 0 && in.KeepAlive.Millis < 1000 {
			t.Errorf("times %d, %d", in.Millis, in.KeepAlive.Millis)
		}
		names := map[string]bool{}
		for _, c := range in.Channels {
			if names[c.Name] || len(c.Filters) > MaxFilters {
				t.Errorf("channel %v", c)
			}
			names[c.Name] = true
		}
	})
}

// FuzzLast checks that an id always survives the way to the origin.
func FuzzLast(f *testing.F) {
	f.Add("1")
	f.Add(`a;b,"c\`)
	f.Fuzz(func(t *testing.T, id string) {
		back := ParseLast([]frame.Field{{Name: "Grip-Last", Value: FormatLast(frame.LastID{Channel: "c", ID: id})}})
		if len(back) != 1 || back[0].Channel != "c" || back[0].ID != id {
			t.Errorf("%q came back as %q", id, back)
		}
	})
}
