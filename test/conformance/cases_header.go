package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// token makes a JWT with HS256.
func token(claims, key string) string {
	enc := base64.RawURLEncoding.EncodeToString
	text := enc([]byte(`{"typ":"JWT","alg":"HS256"}`)) + "." + enc([]byte(claims))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + enc(mac.Sum(nil))
}

// checkToken verifies a Grip-Sig as an origin would.
func checkToken(t *T, sig, iss, key string) {
	parts := strings.Split(sig, ".")
	if len(parts) != 3 {
		t.Fatalf("Grip-Sig %q is not a token", sig)
	}
	var texts [2][]byte
	for i := range texts {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatalf("Grip-Sig %q: %v", sig, err)
		}
		texts[i] = b
	}
	t.Equal("Grip-Sig", sig, signed(parts[0]+"."+parts[1], key))
	var head struct{ Typ, Alg string }
	var claims map[string]any
	if json.Unmarshal(texts[0], &head) != nil || json.Unmarshal(texts[1], &claims) != nil {
		t.Fatalf("Grip-Sig holds %q and %q", texts[0], texts[1])
	}
	t.Equal("typ", head.Typ, "JWT")
	t.Equal("alg", head.Alg, "HS256")
	t.Equal("iss", fmt.Sprint(claims["iss"]), iss)
	exp, _ := claims["exp"].(float64)
	if left := time.Until(time.Unix(int64(exp), 0)); left < 3590*time.Second || left > 3601*time.Second {
		t.Fatalf("Grip-Sig ends in %v, want an hour", left)
	}
	if len(claims) != 2 {
		t.Fatalf("Grip-Sig has the claims %v, want iss and exp", claims)
	}
}

func signed(text, key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// grip lists the Grip-* headers of a request, without the signature's value.
func grip(r *Request) string {
	var out []string
	for _, h := range r.Header {
		name, _, _ := strings.Cut(h, ":")
		if !strings.HasPrefix(strings.ToLower(name), "grip-") {
			continue
		}
		if strings.EqualFold(name, "Grip-Sig") {
			h = name
		}
		out = append(out, h)
	}
	return strings.Join(out, "\n")
}

// upToken is signed with the key that the profile "edge" trusts.
var upToken = token(`{"iss":"edge","exp":2147483647}`, "upkey")

// untrusted checks that the client's Grip headers were not believed.
func untrusted(t *T, sig string) {
	t.Always(reply("200 OK", "Grip-Foo: bar\nX-A: 1", "x"))
	r := t.Get("/", "Grip-Sig: "+sig, "Grip-Bar: 1")
	t.Equal("header", r.Own(), "X-A: 1")
	q := t.Request()
	checkToken(t, q.Get("Grip-Sig"), "pushpin", "changeme")
	t.Equal("Grip-Bar", q.Lines("Grip-Bar"), "")
}

// headerCases are about what happens to header fields on the way.
func headerCases() []*Case {
	return []*Case{
		{
			ID: "R1", Title: "a client's Grip headers are replaced by our own", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Get("/", "Grip-Sig: abc", "Grip-Foo: 1", "Grip-Last: a; last-id=1", "X-A: 1")
				q := t.Request()
				checkToken(t, q.Get("Grip-Sig"), "pushpin", "changeme")
				features := q.Get("Grip-Feature")
				if !t.OnPushpin() {
					t.Contains("Grip-Feature", features, "link:gone")
				}
				for _, f := range []string{"status", "link:next", "filter:skip-self", "filter:skip-users", "filter:require-sub", "filter:build-id", "filter:var-subst"} {
					t.Contains("Grip-Feature", ", "+features+",", ", "+f+",")
				}
				t.Equal("Grip headers", grip(q), "Grip-Sig\nGrip-Feature: "+features)
				t.Equal("X-A", q.Get("X-A"), "1")
			},
		},
		{
			ID: "R2", Title: "a no_grip route has no Grip headers added and responses not read", Source: "GRIP sections 1.2 and 2.1",
			Routes: []string{"{host},no_grip {origin}"},
			Run: func(t *T) {
				t.Always(reply("200 OK", "Grip-Hold: foo\nX-A: 1", "x"))
				r := t.Get("/", "Grip-Sig: abc", "Grip-Foo: 1")
				t.Is(r, "HTTP/1.1 200 OK", "Grip-Hold: foo\nX-A: 1", "x")
				t.Equal("Grip headers", grip(t.Request()), "")
			},
		},
		{
			ID: "R3", Title: "the token of the vector is one that this suite accepts", Source: "GRIP section 1.3",
			Run: func(t *T) {
				// exp first: the order in which the vector was made
				t.Equal("token", token(`{"exp":1700003600,"iss":"pushpin"}`, "changeme"),
					"eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDAwMDM2MDAsImlzcyI6InB1c2hwaW4ifQ.kLqQZD5BP5GyM4rxs4s7hNTebsh6irVi0yu8Uk7hRKo")
				t.Get("/")
				t.Equal("start of Grip-Sig", t.Request().Get("Grip-Sig")[:37], "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.")
			},
		},
		{
			ID: "R3-route", Title: "sig_iss and sig_key of a route", Source: "GRIP section 1.3", Routes: []string{"{host},sig_iss=other,sig_key=secret {origin}"},
			Run: func(t *T) {
				t.Get("/")
				checkToken(t, t.Request().Get("Grip-Sig"), "other", "secret")
			},
		},
		{
			ID: "R3-base64", Title: "a route's sig_key in base64", Source: "GRIP section 1.3", Routes: []string{"{host},sig_key=base64:c2VjcmV0 {origin}"},
			Pushpin: "wrong: the default key is used instead",
			Run: func(t *T) {
				t.Get("/")
				checkToken(t, t.Request().Get("Grip-Sig"), "pushpin", "secret")
			},
		},
		{
			ID: "R3-unsigned", Title: "without a key nothing is signed", Source: "GRIP section 1.3", Profile: "strict", Pushpin: "newest: 1.36 signs with an empty key",
			Run: func(t *T) {
				t.Get("/", "Grip-Sig: abc")
				q := t.Request()
				t.Equal("Grip headers", grip(q), "Grip-Feature: "+q.Get("Grip-Feature"))
			},
		},
		{
			ID: "R4", Title: "a trusted client: Grip passes both ways unread", Source: "GRIP section 1.4", Profile: "edge",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Grip-Hold: bad\nGrip-Status: 404\nX-A: 1", "x"))
				r := t.Get("/", "Grip-Sig: "+upToken, "Grip-Feature: zz")
				t.Is(r, "HTTP/1.1 200 OK", "Grip-Hold: bad\nGrip-Status: 404\nX-A: 1", "x")
				q := t.Request()
				t.Equal("Grip headers", q.Lines("grip-sig", "grip-feature"), "Grip-Sig: "+upToken+"\nGrip-Feature: zz")
			},
		},
		{
			ID: "R4-2100", Title: "a token may last until the year 2100", Source: "GRIP section 1.4", Profile: "edge",
			Pushpin: "wrong: cannot read an exp of more than 31 bits",
			Run: func(t *T) {
				const until2100 = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlzcyI6ImVkZ2UifQ.ZpPuj2fmLA7kwbqcvROYy32XyVd_SLuEDSyAOGLAna8"
				t.Get("/", "Grip-Sig: "+until2100, "Grip-Bar: 1")
				t.Equal("Grip headers", t.Request().Lines("grip-sig", "grip-bar"), "Grip-Sig: "+until2100+"\nGrip-Bar: 1")
			},
		},
		{
			ID: "R4-instruct", Title: "a trusted client gets an instruct body as it is", Source: "GRIP section 1.4", Profile: "edge",
			Run: func(t *T) {
				t.Always(reply("200 OK", instruct, `{"hold":5}`))
				t.Is(t.Get("/", "Grip-Sig: "+upToken), "HTTP/1.1 200 OK", instruct, `{"hold":5}`)
			},
		},
		{
			ID: "R5-expired", Title: "an expired token is not trusted", Source: "GRIP section 1.4", Profile: "edge",
			Run: func(t *T) { untrusted(t, token(`{"iss":"edge","exp":1700003600}`, "upkey")) },
		},
		{
			ID: "R5-no-exp", Title: "a token without an end is not trusted", Source: "GRIP section 1.4", Profile: "edge",
			Run: func(t *T) { untrusted(t, token(`{"iss":"edge"}`, "upkey")) },
		},
		{
			ID: "R5-key", Title: "a token of another key is not trusted", Source: "GRIP section 1.4", Profile: "edge",
			Run: func(t *T) { untrusted(t, token(`{"iss":"edge","exp":4102444800}`, "other")) },
		},
		{
			ID: "R5-none", Title: "a token with alg none is not trusted", Source: "RFC 8725 section 3.1", Profile: "edge",
			Run: func(t *T) {
				enc := base64.RawURLEncoding.EncodeToString
				untrusted(t, enc([]byte(`{"typ":"JWT","alg":"none"}`))+"."+enc([]byte(`{"iss":"edge","exp":4102444800}`))+".")
			},
		},
		{
			ID: "R6", Title: "X-Forwarded-For: several lines become one", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-For: 1.1.1.1", "X-A: 1", "X-Forwarded-For: 5.5.5.5, 9.9.9.9")
				t.Equal("header", t.Request().Lines("x-forwarded-for"), "X-Forwarded-For: 1.1.1.1, 5.5.5.5, 9.9.9.9")
			},
		},
		{
			ID: "R6-none", Title: "X-Forwarded-For is not added by default", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Get("/")
				t.Equal("header", t.Request().Lines("x-forwarded-for"), "")
			},
		},
		{
			ID: "R7", Title: "X-Forwarded-For: truncate:1,append", Source: "GRIP section 1.2", Profile: "edge",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2")
				t.Equal("header", t.Request().Lines("x-forwarded-for"), "X-Forwarded-For: 2.2.2.2, 127.0.0.1")
				t.Get("/")
				t.Equal("header of the second request", t.Request().Lines("x-forwarded-for"), "X-Forwarded-For: 127.0.0.1")
			},
		},
		{
			ID: "R7-trusted", Title: "X-Forwarded-For of a trusted client passes by the rule for those", Source: "GRIP section 1.2", Profile: "edge",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2", "Grip-Sig: "+upToken)
				t.Equal("header", t.Request().Lines("x-forwarded-for"), "X-Forwarded-For: 1.1.1.1, 2.2.2.2")
			},
		},
		{
			ID: "R8", Title: "X-Forwarded-For: truncate:0", Source: "GRIP section 1.2", Profile: "strict",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2")
				t.Equal("header", t.Request().Lines("x-forwarded-for"), "")
			},
		},
		{
			ID: "R9", Title: "X-Forwarded-Proto of a client is not believed", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-Proto: https", "X-Forwarded-Protocol: https")
				t.Equal("header", t.Request().Lines("x-forwarded-proto", "x-forwarded-protocol"), "")
			},
		},
		{
			ID: "R9-off", Title: "X-Forwarded-Proto passes when neither accepted nor set", Source: "GRIP section 1.2", Profile: "strict",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-Proto: https")
				t.Equal("header", t.Request().Lines("x-forwarded-proto", "x-forwarded-protocol"), "X-Forwarded-Proto: https")
			},
		},
		{
			ID: "R10", Title: "X-Forwarded-Proto accepted, set true", Source: "GRIP section 1.2", Profile: "edge",
			Run: func(t *T) {
				t.Get("/", "X-Forwarded-Proto: https")
				t.Equal("header", t.Request().Lines("x-forwarded-proto", "x-forwarded-protocol"), "X-Forwarded-Proto: https\nX-Forwarded-Protocol: https")
				t.Get("/", "X-Forwarded-Protocol: wss")
				t.Equal("scheme wss", t.Request().Get("X-Forwarded-Proto"), "https")
				t.Get("/", "X-Forwarded-Proto: http")
				t.Equal("scheme http", t.Request().Lines("x-forwarded-proto", "x-forwarded-protocol"), "")
			},
		},
		{
			ID: "R11", Title: "hop-by-hop headers of the client are removed, TE and Via stay", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Post("POST /", "body", "Accept-Encoding: gzip", "Connection: keep-alive", "Keep-Alive: timeout=5", "Expect: 100-continue",
					"TE: x", "Via: 1.1 a")
				q := t.Request()
				t.Equal("kept", q.Lines("te", "via"), "TE: x\nVia: 1.1 a")
				t.Equal("removed", q.Lines("keep-alive", "expect"), "")
			},
		},
		{
			ID: "R11-label", Title: "the encoding of a request body keeps its label", Source: "GRIP section 11, Q1",
			Pushpin: "wrong: removes it without decoding",
			Run: func(t *T) {
				t.Post("POST /", "not really", "Content-Encoding: gzip")
				t.Equal("header", t.Request().Lines("content-encoding"), "Content-Encoding: gzip")
			},
		},
		{
			ID: "R11-encoding", Title: "Accept-Encoding is not sent to the origin", Source: "GRIP section 1.2",
			Pushpin: "newest: the HTTP client of 1.36 adds its own and decodes",
			Run: func(t *T) {
				t.Get("/", "Accept-Encoding: gzip")
				t.Equal("header", t.Request().Lines("accept-encoding"), "")
			},
		},
		{
			ID: "R12", Title: "CDN-Loop is appended to", Source: "GRIP section 1.2", Profile: "edge", Pushpin: "newest: cdn_loop came with 1.37",
			Run: func(t *T) {
				t.Get("/", "CDN-Loop: foo")
				t.Equal("header", t.Request().Lines("cdn-loop"), "CDN-Loop: foo, me")
				t.Get("/")
				t.Equal("header of the second request", t.Request().Lines("cdn-loop"), "CDN-Loop: me")
			},
		},
		{
			ID: "R13", Title: "orig_headers marks the client's headers", Source: "GRIP section 1.2", Routes: []string{"{host},orig_headers {origin}"},
			Run: func(t *T) {
				t.Get("/", "X-Q: 1", "eb9bf0f5-Y: 2")
				t.Equal("header", t.Request().Lines("x-q", "eb9bf0f5-x-q", "eb9bf0f5-y"), "X-Q: 1\neb9bf0f5-X-Q: 1\neb9bf0f5-Y: 2")
			},
		},
		{
			ID: "R14", Title: "marks of a client are removed on other routes", Source: "GRIP section 1.2",
			Run: func(t *T) {
				t.Get("/", "X-Q: 1", "eb9bf0f5-Y: 2")
				t.Equal("header", t.Request().Lines("x-q", "eb9bf0f5-x-q", "eb9bf0f5-y"), "X-Q: 1")
			},
		},
		{
			ID: "R15", Title: "a request body of 100,000 bytes may be held, one more may not", Source: "GRIP section 2.2",
			Run: func(t *T) {
				t.Always(reply("200 OK", plainText+"\nGrip-Foo: 1", "ok\n"))
				t.Is(t.Post("POST /", pattern(100000)), "HTTP/1.1 200 OK", plainText, "ok\n")
				t.Error(t.Post("POST /", pattern(100001)), "HTTP/1.1 400 Bad Request", "Request too large to accept GRIP instruct.\n")
			},
		},
		{
			ID: "header-response-hop", Title: "hop-by-hop headers of the origin are removed", Source: "GRIP section 2.4",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Connection: keep-alive\nKeep-Alive: timeout=5\nX-A: 1", "x"))
				r := t.Get("/")
				t.Equal("header", r.Own(), "X-A: 1")
				t.Equal("Keep-Alive", r.Get("Keep-Alive"), "")
			},
		},
		{
			ID: "header-via", Title: "no Via and no Server are added to an answer", Source: "GRIP section 1.2",
			Run: func(t *T) {
				r := t.Get("/")
				t.Equal("Via", r.Get("Via"), "")
				t.Equal("Server", r.Get("Server"), "")
			},
		},
		{
			ID: "header-debug", Title: "debug in the configuration shows details on every route", Source: "operations, debug mode", Profile: "strict",
			Run: func(t *T) {
				t.Always(reply("200 OK", "Grip-Status: abc", ""))
				t.Error(t.Get("/"), "HTTP/1.1 502 Bad Gateway", instructFailed+"Grip-Status contains invalid status code\n")
			},
		},
		{
			ID: "header-ws-events", Title: "a client may not send WebSocket events to an over_http target", Source: "GRIP section 1.7", Routes: []string{"{host} {origin},over_http"},
			Run: func(t *T) {
				r := t.Post("POST /", "OPEN\r\n", "Content-Type: application/websocket-events")
				t.Error(r, "HTTP/1.1 403 Forbidden", "Client not allowed to send WebSocket events directly.\n")
			},
		},
	}
}

const (
	instruct       = "Content-Type: application/grip-instruct"
	instructFailed = "Failed to parse accept instructions: "
)
