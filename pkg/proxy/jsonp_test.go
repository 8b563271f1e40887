package proxy

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast/holdfast/pkg/frame"
)

func TestJSONPRequest(t *testing.T) {
	o := newOrigin(t, answering("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: 10\r\n\r\n{\"a\":1,\"b\""))
	r := newRig(t, "*,aco "+o.addr+"\nbasic,aco,jsonp_mode=basic,jsonp_body=bparam,jsonp_defcb=jpcb,path_beg=/ "+o.addr+"\noff "+o.addr, nil)
	q := url.QueryEscape
	for _, tt := range []struct {
		name, host, uri, header string
		method, target, want    string // at the origin
		body                    string
	}{
		{"C6", "basic", "/?bparam=%7B%7D", "", "POST", "/", "Content-Type: application/json\nHost: basic\nAccept: */*\n", "{}"},
		{
			"C8", "h", "/p?x=1&callback=cb&_method=POST&_headers=" + q(`{"X-J":"1","Host":"e","Accept":"a"}`) + "&_body=he%20llo%2B+&y=%20", "Accept: text/html\nX-C: 1\nAccept-Encoding: gzip\nX-J: 2",
			"POST", "/p?x=1&y=%20", "X-J: 1\nHost: h\nAccept: */*\nX-C: 1\n", "he llo++",
		},
		{"nothing else", "h", "/?callback=a.b%5B0%5D", "", "GET", "/", "Host: h\nAccept: */*\n", ""},
		{"no callback", "h", "/?x=1", "Accept: a", "GET", "/?x=1", "Host: h\nAccept: a\n", ""},
		{"route without aco", "off", "/?callback=cb", "", "GET", "/?callback=cb", "Host: off\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.conn.open(frame.Request{URI: tt.uri, Host: tt.host, Header: lines(tt.header)}).finish()
			req := within(t, o.reqs)
			h, _, _ := strings.Cut(text(req.Header), "Grip-Sig")
			if req.Method != tt.method || req.Target != tt.target || string(req.body) != tt.body {
				t.Errorf("got %s %s %q", req.Method, req.Target, req.body)
			}
			if d := cmp.Diff(tt.want, h); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
	for _, tt := range []struct{ uri, param string }{
		{"/?callback=", "callback"},
		{"/?callback=a(b)", "callback"},
		{"/?callback=%zz", "callback"},
		{"/?callback=a&_method=", "_method"},
		{"/?callback=a&_method=a%20b", "_method"},
		{"/?callback=a&_method=CONNECT", "_method"},
		{"/?callback=a&_headers=5", "_headers"},
		{"/?callback=a&_headers=null", "_headers"},
		{"/?callback=a&_headers=" + q(`{"A":"b\r\nC: d"}`), "_headers"},
		{"/?callback=a&_body=", "_body"},
	} {
		if got := r.get(tt.uri); got.status() != "400 Bad Request" || got.body != "Invalid "+tt.param+" parameter.\n" {
			t.Errorf("%s: got %s %q", tt.uri, got.status(), got.body)
		}
	}
	if got := r.conn.open(frame.Request{URI: "/?callback=a&bparam=", Host: "basic"}).finish(); got.body != "Invalid body parameter.\n" {
		t.Errorf("got %s %q", got.status(), got.body)
	}
}

func TestJSONPResponse(t *testing.T) {
	const c4 = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: 7\r\n\r\nhi \"q\"\n"
	c4body := "/**/cb({\"code\": 200, \"reason\": \"OK\", \"headers\": {\"Cache-Control\":\"no-store\",\"Content-Length\":\"7\",\"Content-Type\":\"text/plain\"}, \"body\": \"hi \\\"q\\\"\\n\"});\n"
	for _, tt := range []struct{ name, options, response, head, body string }{
		{"C4", "", c4, "Content-Type: application/javascript\nCache-Control: no-store\n", c4body},
		{"C6", ",jsonp_mode=basic", ok("X-A: 1", "{\"a\":1}\r\n"), "Content-Type: application/javascript\n", "/**/cb({\"a\":1});\n"},
		{"basic, no line end", ",jsonp_mode=basic", ok("", "1\r"), "Content-Type: application/javascript\n", "/**/cb(1\r);\n"},
		{"GRIP without hold", "", ok("Grip-Status: 404", "x"), "Content-Type: application/javascript\nContent-Length: 73\n", "/**/cb({\"code\": 404, \"reason\": \"Not Found\", \"headers\": {\"Content-Length\":\"1\"}, \"body\": \"x\"});\n"},
		{"not text", "", ok("", "\xff"), "Content-Type: application/javascript\nContent-Length: 194\n", "/**/cb({\"code\": 500, \"reason\": \"Internal Server Error\", \"headers\": {\"Content-Length\":\"47\",\"Content-Type\":\"text/plain\"}, \"body\": \"Upstream response could not be JSON-P encoded.\\n\"});\n"},
		{"origin fails", "", "", "Content-Type: application/javascript\nContent-Length: 168\n", "/**/cb({\"code\": 502, \"reason\": \"Bad Gateway\", \"headers\": {\"Content-Length\":\"32\",\"Content-Type\":\"text/plain\"}, \"body\": \"Error while proxying to origin.\\n\"});\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, func(*originRequest) (string, bool) { return tt.response, false })
			r := newRig(t, "*,aco"+tt.options+" "+o.addr, nil)
			head := tt.head
			if strings.Contains(head, "Content-Length") {
				head = fmt.Sprintf("Content-Type: application/javascript\nContent-Length: %d\n", len(tt.body))
			}
			if got := r.get("/?callback=cb"); got.status() != "200 OK" || got.head() != head || got.body != tt.body {
				t.Errorf("got %s %q %q", got.status(), got.head(), got.body)
			}
		})
	}
}

// Characters and line ends that are spread over reads must come out whole.
func TestJSONPPieces(t *testing.T) {
	body := strings.Repeat("aäß€𝄞\n\r\x01\\\"", 9000) + "end\r\n"
	o := newOrigin(t, func(q *originRequest) (string, bool) {
		fmt.Fprintf(q.conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for rest := body; rest != ""; {
			n := min(len(rest), 777)
			if _, err := fmt.Fprintf(q.conn, "%x\r\n%s\r\n", n, rest[:n]); err != nil {
				return "", false
			}
			rest = rest[n:]
		}
		return "0\r\n\r\n", true
	})
	r := newRig(t, "*,aco "+o.addr+"\nbasic,aco,jsonp_mode=basic "+o.addr, nil)
	got := r.get("/?callback=cb")
	arg, ok1 := strings.CutPrefix(got.body, "/**/cb(")
	arg, ok2 := strings.CutSuffix(arg, ");\n")
	var m struct{ Body string }
	if err := json.Unmarshal([]byte(arg), &m); err != nil || !ok1 || !ok2 || m.Body != body {
		t.Errorf("extended: %v, %d bytes, want %d", err, len(m.Body), len(body))
	}
	got = r.conn.open(frame.Request{URI: "/?callback=cb", Host: "basic"}).finish()
	if got.body != "/**/cb("+strings.TrimSuffix(body, "\r\n")+");\n" {
		t.Errorf("basic: %d bytes", len(got.body))
	}
}

func TestJSONPHold(t *testing.T) {
	o := newOrigin(t, func(q *originRequest) (string, bool) {
		return ok("Grip-Hold: "+strings.Trim(q.Path, "/")+"\nGrip-Channel: a", "x"), true
	})
	r := newRig(t, "*,aco "+o.addr, nil)
	r.conn.open(frame.Request{URI: "/response?callback=cb"})
	if a := within(t, r.handler.accepts); a.JSONP != "cb" || a.JSONPMode != 1 || a.CORS {
		t.Errorf("got %+v", a)
	}
	r.conn.open(frame.Request{URI: "/stream?callback=cb"})
	if a := within(t, r.handler.accepts); a.JSONP != "" || !a.CORS {
		t.Errorf("got %+v", a)
	}
}

func TestCrossOrigin(t *testing.T) {
	const cors = "Access-Control-Allow-Methods: OPTIONS, HEAD, GET, POST, PUT, DELETE\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Origin: http://o\nAccess-Control-Max-Age: 3600\n"
	o := newOrigin(t, answering(ok("", "x")))
	r := newRig(t, "*,aco "+o.addr+"\nbad,aco "+unusedAddr(t)+"\noff "+o.addr, nil)
	for host, want := range map[string]string{
		"h":   "Content-Length: 1\n" + cors,
		"bad": "Content-Type: text/plain\nContent-Length: 32\n" + cors,
		"off": "Content-Length: 1\n",
	} {
		got := r.conn.open(frame.Request{URI: "/", Host: host, Header: lines("Origin: http://o")}).finish()
		if d := cmp.Diff(want, got.head()); d != "" {
			t.Errorf("%s: -want +got:\n%s", host, d)
		}
	}
}
