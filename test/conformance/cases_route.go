package main

import (
	"fmt"
	"strings"
)

// target is where a request came to: the origin and the request target there.
func target(t *T, path, host string, header ...string) string {
	t.Origin(func(x *Exchange) { x.Send(reply("200 OK", plainText, "1 "+x.Target()+" "+x.Get("Host"))) })
	t.Origin2(func(x *Exchange) { x.Send(reply("200 OK", plainText, "2 "+x.Target()+" "+x.Get("Host"))) })
	c := t.Dial()
	raw := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n"
	for _, h := range header {
		raw += h + "\r\n"
	}
	c.Send(raw + "\r\n")
	r := c.Read("GET")
	if r.Code() != 200 {
		return fmt.Sprint(r.Code())
	}
	return r.Body
}

// routeCases are about which route a request takes and what that does to it.
func routeCases() []*Case {
	const source = "operations, routes file"
	hit := func(t *T, path, host, want string, header ...string) {
		t.Equal("for "+host+path, target(t, path, host, header...), want)
	}
	return []*Case{
		{
			ID: "route-path", Title: "the longest path_beg wins, whatever the order", Source: source,
			Routes: []string{"{host},path_beg=/a {origin}", "{host},path_beg=/a/b {origin2}"},
			Run: func(t *T) {
				h := t.host()
				hit(t, "/a/b/c", h, "2 /a/b/c "+h)
				hit(t, "/a/c", h, "1 /a/c "+h)
				hit(t, "/ab", h, "1 /ab "+h)
				hit(t, "/x", h, "502")
			},
		},
		{
			ID: "route-path-encoded", Title: "path_beg looks at the path as it is encoded", Source: source,
			Routes: []string{"{host},path_beg=/a%20b {origin}", "{host} {origin2}"},
			Run: func(t *T) {
				h := t.host()
				hit(t, "/a%20b/c", h, "1 /a%20b/c "+h)
				hit(t, "/a%2Fb/c", h, "2 /a%2Fb/c "+h)
			},
		},
		{
			ID: "route-host-case", Title: "the host is compared without case and without port", Source: source,
			Run: func(t *T) {
				t.Equal("in capitals", target(t, "/", "ROUTE-host-CASE.test")[:4], "1 / ")
				hit(t, "/", t.host()+":8000", "1 / "+t.host()+":8000")
			},
		},
		{
			ID: "route-no-fall-through", Title: "a host with rules of which none match does not fall through to *", Source: source,
			Routes: []string{"{host},path_beg=/only {origin}", "*,path_beg=/{id} {origin2}"},
			Run: func(t *T) {
				h := t.host()
				hit(t, "/only", h, "1 /only "+h)
				hit(t, "/"+h[:len(h)-5], h, "502")
				hit(t, "/route-no-fall-through/x", "other."+h, "2 /route-no-fall-through/x other."+h)
			},
		},
		{
			ID: "route-proto", Title: "proto=http is preferred to a rule without, proto=ws does not match", Source: source,
			Routes: []string{"{host},path_beg=/long/er {origin2}", "{host},proto=http,path_beg=/long {origin}", "{host},proto=ws {origin2}"},
			Run: func(t *T) {
				h := t.host()
				hit(t, "/long/er", h, "1 /long/er "+h)
				hit(t, "/other", h, "502")
			},
		},
		{
			ID: "route-ssl", Title: "ssl=yes does not match plain requests", Source: source,
			Routes: []string{"{host},ssl=yes {origin2}", "{host},ssl=no {origin}"},
			Run:    func(t *T) { hit(t, "/", t.host(), "1 / "+t.host()) },
		},
		{
			ID: "route-ssl-forwarded", Title: "ssl=yes matches an accepted X-Forwarded-Proto", Source: source, Profile: "edge",
			Routes: []string{"{host},ssl=yes {origin2}", "{host} {origin}"},
			Run: func(t *T) {
				hit(t, "/", t.host(), "1 / "+t.host())
				hit(t, "/", t.host(), "2 / "+t.host(), "X-Forwarded-Proto: https")
			},
		},
		{
			ID: "route-duplicate", Title: "of two equal conditions the first stays", Source: source,
			Routes: []string{"{host} {origin}", "{host} {origin2}"},
			Run:    func(t *T) { hit(t, "/", t.host(), "1 / "+t.host()) },
		},
		{
			ID: "route-bad-line", Title: "a bad line is skipped, the others count", Source: source,
			Routes: []string{"{host},proto=gopher {origin2}", "{host}", "{host},path_beg= {origin2}", "{host},path_beg=/x nonsense", "{host} {origin}"},
			Run:    func(t *T) { hit(t, "/x", t.host(), "1 /x "+t.host()) },
		},
		{
			ID: "route-comment", Title: "comments, blanks and quotes", Source: source,
			Routes: []string{"   # comment", "", `"{host}",header="X-A: a, \"b\" # c"   {origin}   # rest`},
			Run: func(t *T) {
				t.Get("/")
				t.Equal("X-A", t.Request().Lines("x-a"), `X-A: a, "b" # c`)
			},
		},
		{
			ID: "route-unknown-option", Title: "an unknown option does not spoil the line", Source: source,
			Routes: []string{"{host},whatever=5,flag {origin},some=thing"},
			Run:    func(t *T) { hit(t, "/", t.host(), "1 / "+t.host()) },
		},
		{
			ID: "route-path-rem", Title: "path_rem drops that many bytes", Source: source,
			Routes: []string{"{host},path_beg=/api/,path_rem=4 {origin}"},
			Run:    func(t *T) { hit(t, "/api/x?y=1", t.host(), "1 /x?y=1 "+t.host()) },
		},
		{
			ID: "route-replace-beg", Title: "replace_beg replaces path_beg", Source: source,
			Routes: []string{"{host},path_beg=/old/,replace_beg=/new/er/ {origin}", "{host},path_beg=/cut,replace_beg= {origin}"},
			Run: func(t *T) {
				hit(t, "/old/x?y=%20", t.host(), "1 /new/er/x?y=%20 "+t.host())
				hit(t, "/old/", t.host(), "1 /new/er/ "+t.host())
			},
		},
		{
			ID: "route-as-host", Title: "as_host replaces the host towards the origin", Source: source,
			Routes: []string{"{host},as_host=inner.test:81 {origin}", "{host},path_beg=/p,as_host=plain.test {origin}"},
			Run: func(t *T) {
				hit(t, "/", t.host(), "1 / inner.test:81")
				hit(t, "/p", t.host()+":99", "1 /p plain.test")
			},
		},
		{
			ID: "route-target-host", Title: "host= of a target wins over as_host", Source: source,
			Routes: []string{"{host},as_host=inner.test {origin},host=target.test:82"},
			Run:    func(t *T) { hit(t, "/", t.host(), "1 / target.test:82") },
		},
		{
			ID: "route-header", Title: "header= sets, replaces and removes request headers", Source: source,
			Routes: []string{"{host},header=X-Set:new,header=X-Add:1,header=X-Gone:,header=Grip-Foo:bar {origin}"},
			Run: func(t *T) {
				t.Get("/", "X-Set: old", "x-set: older", "X-Gone: 1", "X-Stay: 1")
				t.Equal("header", strings.Join(sorted(strings.Split(t.Request().Lines("x-set", "x-add", "x-gone", "x-stay", "grip-foo"), "\n")), "\n"), "X-Add: 1\nX-Set: new\nX-Stay: 1")
			},
		},
		{
			ID: "route-prefix", Title: "prefix= is put before the channel names", Source: source, Routes: []string{"{host},prefix=pre- {origin}"},
			Run: func(t *T) {
				ch := t.Ch("c")
				t.Always(hold("stream", ch, "hi\n"))
				c, r := t.Open("/")
				c.Next(r, "hi\n")
				t.Subscribed("pre-" + ch)
				t.Publish(streamItem(ch, "bare\n"), streamItem("pre-"+ch, "prefixed\n"))
				c.Next(r, "prefixed\n")
			},
		},
		{
			ID: "route-id", Title: "Pushpin-Route picks a route by its id", Source: source, Profile: "edge",
			Routes: []string{"{host} {origin}", "id={id}-x,path_beg=/p {origin2}"},
			Run: func(t *T) {
				hit(t, "/p", t.host(), "2 /p "+t.host(), "Pushpin-Route: route-id-x")
				hit(t, "/p", t.host(), "1 /p "+t.host())
				hit(t, "/p", t.host(), "502", "Pushpin-Route: nowhere")
			},
		},
		{
			ID: "route-id-path", Title: "a route picked by its id must match its path_beg", Source: source, Profile: "edge",
			Pushpin: "newest: 1.36 does not look at path_beg",
			Routes:  []string{"{host} {origin}", "id={id}-x,path_beg=/p {origin2}"},
			Run:     func(t *T) { hit(t, "/q", t.host(), "502", "Pushpin-Route: route-id-path-x") },
		},
		{
			ID: "route-id-ignored", Title: "Pushpin-Route is only a header where it is not accepted", Source: source,
			Routes: []string{"{host} {origin}", "id={id}-x {origin2}"},
			Run: func(t *T) {
				hit(t, "/", t.host(), "1 / "+t.host(), "Pushpin-Route: route-id-ignored-x")
				t.Equal("header", t.Request().Lines("pushpin-route"), "Pushpin-Route: route-id-ignored-x")
			},
		},
		{
			ID: "route-test", Title: "the built-in test target", Source: "GRIP section 2.7", Routes: []string{"{host},path_beg=/t/ test", "{host},path_beg=/u test"},
			Run: func(t *T) {
				for _, path := range []string{"/t/", "/u/"} {
					r := t.Get(path)
					// The name is the product's, the rest the protocol's.
					r.Body = strings.Replace(r.Body, "Holdfast", "Pushpin", 1)
					t.Is(r, "HTTP/1.1 200 OK", plainText, "Hello from the Pushpin test handler!\n")
				}
				t.Is(t.Get("/t/nothing"), "HTTP/1.1 404 Not Found", plainText, "no such test resource\n")
				t.Is(t.Post("POST /t/", pattern(100001)), "HTTP/1.1 400 Bad Request", plainText, "request too large\n")
			},
		},
		{
			ID: "route-test-stream", Title: "the stream and long-poll of the test target", Source: "GRIP section 2.7", Routes: []string{"{host} test"},
			Run: func(t *T) {
				a, b, m := t.Ch("a"), t.Ch("b"), t.Ch("m")
				c, r := t.Open("/stream/?channel=" + a + "&channel=" + b)
				t.Equal("status line", r.Line, "HTTP/1.1 200 OK")
				t.Equal("header", r.Own(), plainText)
				c.Next(r, "[stream opened]\n")
				c2 := t.Dial()
				c2.Send(t.request("GET /response?channel=" + b + "&channel=" + m))
				t.Subscribed(a, b, m)
				t.Publish(streamItem(a, "1\n"), streamItem(b, "2\n"))
				c.Next(r, "1\n2\n")
				t.Publish(responseItem(b, "late\n"))
				t.Equal("long-poll", c2.Read("GET").Body, "late\n")
			},
		},
		{
			ID: "route-reload", Title: "a changed routes file is read again", Source: "operations, reload", Alone: true,
			Run: func(t *T) {
				hit(t, "/", t.host(), "1 / "+t.host())
				if err := t.Proxy.WriteRoutes([]string{t.host() + " " + t.origins[1].addr()}); err != nil {
					t.Fatalf("writing the routes: %v", err)
				}
				for target(t, "/", t.host()) != "2 / "+t.host() {
					if t.ctx.Err() != nil {
						t.Fatalf("the second origin never answers")
					}
				}
			},
		},
	}
}
