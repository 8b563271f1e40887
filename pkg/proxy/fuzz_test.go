package proxy

import (
	"net/http"
	"testing"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/route"
)

// FuzzJSONP: whatever a script element asks for, what becomes of it is a request
// that can be sent, for the host that was asked, with a callback that is only a
// name.
func FuzzJSONP(f *testing.F) {
	for _, uri := range []string{
		"/", "/p?callback=a.b%5B0%5D&_method=PUT&_headers=%7B%22A%22%3A%22b%22%7D&_body=x&y=1", "/?callback=alert(1)", "/?callback=%zz",
		"/?callback=a&_headers=%7B%22Host%22%3A%22evil%22%7D", "/?callback=a&_headers=%7B%22A%22%3A%22b%5Cr%5CnC%3A%20d%22%7D", "/?callback=a&_method=A%20B",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		r := &frame.Request{Method: "GET", URI: uri, Host: "h.test", Header: []frame.Field{{Name: "Host", Value: "h.test"}}}
		u := &rule{Route: &route.Route{JSONP: route.JSONP{Callback: "callback", DefaultMethod: "POST"}}, cors: true}
		asked, j, err := startJSONP(r, u)
		if err != nil || j == nil {
			return
		}
		if !isCallback(j.callback) {
			t.Errorf("callback %q", j.callback)
		}
		if !http1.ValidToken(asked.Method) || asked.Method == http.MethodConnect {
			t.Errorf("method %q", asked.Method)
		}
		if host, ok := http1.Get(asked.Header, "Host"); !ok || host != "h.test" {
			t.Errorf("host %q", host)
		}
		for _, field := range asked.Header {
			if !http1.ValidField(field) {
				t.Errorf("field %q", field)
			}
		}
		if asked.BodyLen != int64(len(asked.Body)) {
			t.Errorf("a body of %d bytes, announced are %d", len(asked.Body), asked.BodyLen)
		}
	})
}
