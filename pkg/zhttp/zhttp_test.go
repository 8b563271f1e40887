package zhttp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// both is the same packet in either format.
func both(t testing.TB, js string) [][]byte {
	t.Helper()
	v, err := decodeJSON([]byte(js))
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{tnet.Append([]byte("T"), v), []byte("J" + js)}
}

func TestParseRequest(t *testing.T) {
	empty := Request{Credits: Absent, MaxSize: Absent, Timeout: Absent, Code: Absent, ConnectPort: Absent}
	with := func(change func(*Request)) Request {
		r := empty
		change(&r)
		return r
	}
	tests := []struct {
		js   string
		want Request
	}{
		{`{}`, empty},
		{
			`{"from":"a","id":"1","seq":0,"method":"POST","uri":"http://x/","headers":[["A","b"],["a","c"]],"body":"é","more":true,"stream":true,
			  "credits":5,"max-size":7,"timeout":"1500","connect-host":"h","connect-port":81.0,"ignore-policies":true,"trust-connect-host":true,
			  "ignore-tls-errors":true,"follow-redirects":true,"user-data":{"n":[1,null,1.5,false]},"ext":{"multi":true,"quiet":true,"x":1},"unknown":1,
			  "content-type":"binary","peer-address":"1.2.3.4","passthrough":{}}`,
			Request{
				From: "a", IDs: []ID{{"1", 0}}, Method: "POST", URI: "http://x/", Header: []frame.Field{{Name: "A", Value: "b"}, {Name: "a", Value: "c"}},
				Body: []byte("é"), HasBody: true, More: true, Stream: true, Credits: 5, MaxSize: 7, Timeout: 1500, ConnectHost: "h", ConnectPort: 81,
				IgnorePolicies: true, TrustConnectHost: true, IgnoreTLSErrors: true, FollowRedirects: true, Binary: true, Code: Absent,
				UserData: map[string]any{"n": []any{int64(1), nil, 1.5, false}}, Multi: true, Quiet: true,
			},
		},
		{`{"id":[{"id":"1","seq":4},{"id":"2"}],"type":"keep-alive"}`, with(func(r *Request) { r.IDs, r.Type = []ID{{"1", 4}, {"2", Absent}}, KeepAlive })},
		{`{"type":"close","code":1000,"body":""}`, with(func(r *Request) { r.Type, r.Code, r.Body, r.HasBody = Close, 1000, []byte{}, true })},
		{`{"type":"error","condition":"x"}`, with(func(r *Request) { r.Type = Error })},
		{`{"id":null,"body":null,"credits":-1}`, empty},
	}
	for _, tt := range tests {
		for _, b := range both(t, tt.js) {
			got, format, err := ParseRequest(b)
			if err != nil || format != Format(b[0]) {
				t.Errorf("%s: %v, format %c", b, err, format)
				continue
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("%s: %s", b, diff)
			}
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxID+1)
	for _, js := range []string{
		`1`,
		`[]`,
		`{"from":1}`,
		`{"from":"` + long + `"}`,
		`{"id":1}`,
		`{"id":"` + long + `"}`,
		`{"id":[1]}`,
		`{"id":[{"seq":1}]}`,
		`{"id":[{"id":"a","seq":"x"}]}`,
		`{"id":[` + strings.Repeat(`{"id":"a"},`, MaxIDs) + `{"id":"a"}]}`,
		`{"id":"a","seq":-2}`,
		`{"id":"a","seq":1.5}`,
		`{"id":"a","seq":true}`,
		`{"type":"x"}`,
		`{"type":1}`,
		`{"type":"error","condition":1}`,
		`{"credits":"many"}`,
		`{"credits":1e30}`,
		`{"more":1}`,
		`{"more":"true"}`,
		`{"stream":null}`,
		`{"method":1}`,
		`{"uri":[]}`,
		`{"headers":{}}`,
		`{"headers":[["a"]]}`,
		`{"headers":[["a","b","c"]]}`,
		`{"headers":[["a",1]]}`,
		`{"headers":["ab"]}`,
		`{"headers":[` + strings.Repeat(`["a","b"],`, MaxFields) + `["a","b"]]}`,
		`{"body":1}`,
		`{"connect-port":65536}`,
		`{"ext":1}`,
		`{"ext":{"multi":1}}`,
		`{"user-data":"` + strings.Repeat("x", MaxUser) + `"}`,
	} {
		for _, b := range both(t, js) {
			if r, _, err := ParseRequest(b); err == nil || r != nil {
				t.Errorf("%.100s: got %v, %v", b, r, err)
			}
		}
	}
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for in, want := range map[string]string{
		"": "empty", "X{}": "unsupported type", "T": "tnetstring parse failed", "T5:abc": "tnetstring parse failed", "J": "json parse failed",
		"J{": "json parse failed", "J{}{}": "json parse failed", "J{} x": "json parse failed", "J[1e999]": "json parse failed", "J" + deep: "json parse failed",
	} {
		if _, _, err := ParseRequest([]byte(in)); err == nil || err.Error() != want {
			t.Errorf("%.20q: got %v, want %s", in, err, want)
		}
	}
}

// Who sent a packet that cannot be read is told, if it says who it is.
func TestParseErrorNamesSender(t *testing.T) {
	for _, b := range both(t, `{"from":"a","id":"1","seq":3,"more":1}`) {
		r, _, err := ParseRequest(b)
		if err == nil || r == nil || r.From != "a" || len(r.IDs) != 1 || r.IDs[0].ID != "1" {
			t.Errorf("got %+v, %v", r, err)
		}
	}
}

func TestResponse(t *testing.T) {
	tests := []struct {
		r    Response
		want string
	}{
		{Response{}, `{"body":""}`},
		{
			Response{
				From: "z", ID: ID{"1", 0}, Head: &Head{200, "OK", []frame.Field{{Name: "A", Value: "<b>"}}}, Body: []byte("x"), More: true,
				UserData: map[string]any{"k": int64(1)}, Multi: true,
			},
			`{"body":"x","code":200,"ext":{"multi":true},"from":"z","headers":[["A","<b>"]],"id":"1","more":true,"reason":"OK","seq":0,"user-data":{"k":1}}`,
		},
		{Response{ID: ID{"1", Absent}, Type: Cancel}, `{"id":"1","type":"cancel"}`},
		{Response{Type: Error, Condition: "x"}, `{"condition":"x","type":"error"}`},
		{Response{Type: Error, Condition: "rejected", Head: &Head{Code: 404}}, `{"body":"","code":404,"condition":"rejected","headers":[],"reason":"","type":"error"}`},
		{Response{Type: Credit, Credits: 5}, `{"credits":5,"type":"credit"}`},
		{Response{Type: Close, Code: 1000, Body: []byte("bye")}, `{"body":"bye","code":1000,"type":"close"}`},
		{Response{Body: []byte("x"), Binary: true}, `{"body":"x","content-type":"binary"}`},
	}
	for _, tt := range tests {
		if got := string(tt.r.Append(nil, JSON)); got != "J"+tt.want {
			t.Errorf("got  %s\nwant J%s", got, tt.want)
		}
		want, err := decodeJSON([]byte(tt.want))
		if err != nil {
			t.Fatal(err)
		}
		got := tt.r.Append([]byte("to "), Tnet)
		v, err := tnet.Decode(got[len("to T"):])
		if err != nil || string(got[:4]) != "to T" {
			t.Fatalf("%q: %v", got, err)
		}
		if diff := cmp.Diff(want, v); diff != "" {
			t.Error(diff)
		}
	}
	// Bytes that are not UTF-8 need a tnetstring.
	raw := Response{Body: []byte{0xff, 0}}
	if got := string(raw.Append(nil, Tnet)); got != "T12:4:body,2:\xff\x00,}" {
		t.Errorf("got %q", got)
	}
	if !json.Valid(raw.Append(nil, JSON)[1:]) {
		t.Error("not JSON")
	}
}

// A packet is refused, or keeps to the limits; and both formats mean the same.
func FuzzParseRequest(f *testing.F) {
	for _, js := range []string{
		`{}`, `{"from":"a","id":"1","seq":0,"uri":"http://x/","headers":[["A","b"]],"credits":5,"user-data":[1,null]}`,
		`{"id":[{"id":"1","seq":4}],"type":"keep-alive"}`, `{"more":1,"from":"a","id":"1"}`, `{"timeout":"5","ext":{"quiet":true}}`,
	} {
		for _, b := range both(f, js) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, format, err := ParseRequest(b)
		if format != Tnet && format != JSON {
			t.Fatalf("format %q", format)
		}
		if r == nil {
			if err == nil {
				t.Fatal("neither a request nor an error")
			}
			return
		}
		if len(r.From) > MaxID || len(r.IDs) > MaxIDs || len(r.Header) > MaxFields || r.Credits < Absent || r.Code > 65535 || r.ConnectPort > 65535 {
			t.Fatalf("beyond the limits: %+v", r)
		}
		if err != nil && (r.From == "" || len(r.IDs) == 0) {
			t.Fatalf("an error for nobody: %+v", r)
		}
		if format == JSON {
			v, err2 := decodeJSON(b[1:])
			if err2 != nil {
				t.Fatal(err2)
			}
			again, _, err2 := ParseRequest(tnet.Append([]byte("T"), v))
			if (err == nil) != (err2 == nil) {
				t.Fatalf("JSON: %v, tnetstring: %v", err, err2)
			}
			if diff := cmp.Diff(r, again); diff != "" {
				t.Fatal(diff)
			}
		}
		// user-data goes back as it came.
		answer := Response{UserData: r.UserData}
		if v, err := tnet.Decode(answer.Append(nil, Tnet)[1:]); err != nil || fmt.Sprint(v.(map[string]any)["user-data"]) != fmt.Sprint(r.UserData) {
			t.Fatalf("user-data %v came back as %v, %v", r.UserData, v, err)
		}
	})
}
