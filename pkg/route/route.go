package route

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Protocol is what a route's condition asks of the client's protocol.
type Protocol string

// Values of Protocol.
const (
	AnyProtocol Protocol = ""
	HTTP        Protocol = "http"
	WebSocket   Protocol = "ws"
)

// TLS is what a route's condition asks of the client's connection.
type TLS string

// Values of TLS.
const (
	AnyTLS  TLS = ""
	WithTLS TLS = "yes"
	NoTLS   TLS = "no"
)

// JSONP is how a route deals with JSON-P, if that is on.
type JSONP struct {
	Basic         bool   // else extended
	Callback      string // name of the callback parameter
	Body          string // name of the body parameter; "" for none
	DefaultCall   string // callback if only the body parameter is there
	DefaultMethod string
}

// Header is one header field that a route sets; an empty value only removes.
type Header struct{ Name, Value string }

// Route is one line of the routes file.
type Route struct {
	File string
	Line int

	// Condition. Domain is in lower case, "*" for any, "" for none: such a route
	// is reached by its id only.
	Domain  string
	Proto   Protocol
	TLS     TLS
	PathBeg string

	ID    string // derived from the condition if not given
	Named bool   // the id was given

	SigIss, SigKey       string
	HasSigIss, HasSigKey bool
	Prefix               string // of channel names
	OrigHeaders          bool
	AsHost               string // host or host:port
	PathRem              int
	ReplaceBeg           string
	HasReplaceBeg        bool
	Debug                bool
	AutoCrossOrigin      bool
	JSONP                JSONP
	Session              bool
	SockJS, SockJSAsPath string
	Headers              []Header
	NoGrip               bool
	Events               string // webhook endpoint that is told of connections, "*" for all that want to know
	LogLevel             int
	HasLogLevel          bool
	Targets              []Target
	// Unsupported lists what was read but has no effect, for the log.
	Unsupported []string

	sections []section
	order    int // among the routes of its table
}

// TargetKind is what a target is.
type TargetKind uint8

// Values of TargetKind.
const (
	TargetHTTP  TargetKind = iota // an origin at Host and Port
	TargetTest                    // the built-in test origin
	TargetZHTTP                   // zhttp/SPEC, zhttpreq/SPEC: parsed, but cannot be used
)

// Target is one place that requests of a route may go to.
type Target struct {
	Kind TargetKind
	Name string // as written: "localhost:80", "[::1]:80", "test"
	Host string // without brackets
	Port int

	TLS              bool
	Insecure         bool   // accept any certificate
	TrustConnectHost bool   // accept a certificate for Host as well as for the URI's host
	URIHost          string // host or host:port for URI and Host header; "" to leave them
	Untrusted        bool   // the policy against private addresses applies
	OverHTTP         bool   // WebSocket-over-HTTP
	OneEvent         bool   // with OverHTTP: one event in each request
	Subs             []string
	ClientCert       string // PEM files
	ClientKey        string
}

// String returns the route as a line of the routes file.
func (r *Route) String() string { return formatLine(r.sections) }

// Pos returns where the route stands, as FILE:LINE.
func (r *Route) Pos() string { return r.File + ":" + strconv.Itoa(r.Line) }

func newRoute(sections []section) (*Route, error) {
	if len(sections) < 2 {
		return nil, errors.New("must specify condition and at least one target")
	}
	r := &Route{sections: sections, Domain: canonicalHost(sections[0].value), JSONP: JSONP{Callback: "callback"}}
	for _, p := range sections[0].props {
		if err := r.set(p); err != nil {
			return nil, err
		}
	}
	if r.JSONP.DefaultMethod == "" {
		r.JSONP.DefaultMethod = "GET"
		if r.JSONP.Basic {
			r.JSONP.DefaultMethod = "POST"
		}
	}
	r.Named = r.ID != ""
	if !r.Named {
		r.ID = r.derivedID()
	}
	for _, sec := range sections[1:] {
		t, unsupported, err := newTarget(sec)
		if err != nil {
			return nil, err
		}
		r.Targets = append(r.Targets, t)
		r.Unsupported = append(r.Unsupported, unsupported...)
	}
	return r, nil
}

func (r *Route) set(p prop) error {
	switch p.name {
	case "proto":
		if p.value != "http" && p.value != "ws" {
			return errors.New("proto must be set to 'http' or 'ws'")
		}
		r.Proto = Protocol(p.value)
	case "ssl":
		if p.value != "yes" && p.value != "no" {
			return errors.New("ssl must be set to 'yes' or 'no'")
		}
		r.TLS = TLS(p.value)
	case "path_beg":
		if p.value == "" {
			return errors.New("path_beg cannot be empty")
		}
		r.PathBeg = p.value
	case "id":
		r.ID = p.value
	case "sig_iss":
		r.SigIss, r.HasSigIss = p.value, true
	case "sig_key":
		r.SigKey, r.HasSigKey = p.value, true
	case "prefix":
		r.Prefix = p.value
	case "orig_headers":
		r.OrigHeaders = true
	case "as_host":
		r.AsHost = p.value
	case "path_rem":
		r.PathRem = max(0, number(p.value))
	case "replace_beg":
		r.ReplaceBeg, r.HasReplaceBeg = p.value, true
	case "debug":
		r.Debug = true
	case "aco":
		r.AutoCrossOrigin = true
	case "jsonp_mode":
		if p.value != "basic" && p.value != "extended" {
			return errors.New("jsonp_mode must be set to 'basic' or 'extended'")
		}
		r.JSONP.Basic = p.value == "basic"
	case "jsonp_cb":
		r.JSONP.Callback = p.value
	case "jsonp_body":
		r.JSONP.Body = p.value
	case "jsonp_defcb":
		r.JSONP.DefaultCall = p.value
	case "jsonp_defmethod":
		r.JSONP.DefaultMethod = p.value
	case "session":
		r.Session = true
		r.unsupported("session")
	case "sockjs":
		r.SockJS = p.value
	case "sockjs_as_path":
		r.SockJSAsPath = p.value
	case "header":
		name, value, ok := strings.Cut(p.value, ":")
		value = strings.Trim(value, " ")
		if !ok || !isToken(name) || strings.ContainsAny(value, "\r\n\x00") {
			return errors.New("header must use format 'name:value'")
		}
		r.Headers = append(r.Headers, Header{name, value})
	case "no_grip":
		r.NoGrip = true
	case "events":
		if p.value == "" {
			return errors.New("events must be set to a webhook endpoint or '*'")
		}
		r.Events = p.value
	case "log_level":
		r.LogLevel, r.HasLogLevel = number(p.value), true
	default:
		r.unsupported("unknown option " + strconv.Quote(p.name))
	}
	return nil
}

func (r *Route) unsupported(what string) { r.Unsupported = append(r.Unsupported, what) }

// number reads an integer; what is none counts as 0.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// isToken reports whether s can be the name of a header field.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// derivedID names a route by its condition. (Pushpin has "ssl" and "no-ssl" the
// wrong way round here.)
func (r *Route) derivedID() string {
	orAny := func(s string) string {
		if s == "" {
			return "*"
		}
		return s
	}
	tls := map[TLS]string{AnyTLS: "*", WithTLS: "ssl", NoTLS: "no-ssl"}[r.TLS]
	return orAny(r.Domain) + "," + orAny(string(r.Proto)) + "," + tls + "," + orAny(r.PathBeg)
}

func newTarget(sec section) (t Target, unsupported []string, err error) {
	t.Name = sec.value
	switch {
	case t.Name == "test":
		t.Kind = TargetTest
	case strings.HasPrefix(t.Name, "zhttp/"), strings.HasPrefix(t.Name, "zhttpreq/"):
		t.Kind = TargetZHTTP
		unsupported = append(unsupported, "target "+t.Name)
	default:
		if t.Host, t.Port, err = splitTarget(t.Name); err != nil {
			return t, nil, err
		}
	}
	for _, p := range sec.props {
		switch p.name {
		case "ssl":
			t.TLS = true
		case "insecure":
			t.Insecure = true
		case "trust_connect_host":
			t.TrustConnectHost = true
		case "host":
			t.URIHost = p.value
		case "untrusted":
			t.Untrusted = true
		case "over_http":
			t.OverHTTP = true
		case "one_event":
			t.OneEvent = true
		case "sub":
			t.Subs = append(t.Subs, p.value)
		case "client_cert":
			t.ClientCert = p.value
		case "client_key":
			t.ClientKey = p.value
		case "ipc_file_mode":
			unsupported = append(unsupported, "ipc_file_mode")
		default:
			unsupported = append(unsupported, "unknown option "+strconv.Quote(p.name)+" of target "+t.Name)
		}
	}
	return t, unsupported, nil
}

func splitTarget(s string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil || host == "" || strings.ContainsAny(host, "/?@[]\\\"<>\t\r\x00") {
		return "", 0, fmt.Errorf("target bad format: want HOST:PORT or test, not %q", s)
	}
	if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("target invalid port: want 1 to 65535, not %q", p)
	}
	return host, port, nil
}

// canonicalHost returns a host name as routes compare it: without port,
// brackets and final dot, in lower case.
func canonicalHost(s string) string {
	if strings.HasPrefix(s, "[") {
		if end := strings.IndexByte(s, ']'); end > 0 {
			return strings.ToLower(s[1:end])
		}
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && strings.IndexByte(s, ':') == i {
		s = s[:i]
	}
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

// compare is negative if r wins over o when both match. It is a total order: a
// protocol asked for, the longer path, TLS asked for, the earlier line.
func (r *Route) compare(o *Route) int {
	specific := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	if c := specific(r.Proto != AnyProtocol, o.Proto != AnyProtocol); c != 0 {
		return c
	}
	if c := len(o.PathBeg) - len(r.PathBeg); c != 0 {
		return c
	}
	if c := specific(r.TLS != AnyTLS, o.TLS != AnyTLS); c != 0 {
		return c
	}
	return r.order - o.order
}

// Request is what routes look at.
type Request struct {
	Host      string // with or without port
	Path      string // as sent, percent-encoded; a query is not looked at
	TLS       bool
	WebSocket bool
}

// mismatch returns why r does not match q, or "". The domain is not looked at.
func (r *Route) mismatch(q Request) string {
	switch {
	case r.Proto == HTTP && q.WebSocket:
		return "proto=http, but the request is a WebSocket"
	case r.Proto == WebSocket && !q.WebSocket:
		return "proto=ws, but the request is plain HTTP"
	case r.TLS == WithTLS && !q.TLS:
		return "ssl=yes, but the client came without TLS"
	case r.TLS == NoTLS && q.TLS:
		return "ssl=no, but the client came over TLS"
	case !r.MatchesPath(q.Path):
		return "the path does not begin with its path_beg"
	}
	return ""
}

// MatchesPath reports whether the path of a request begins as r asks.
func (r *Route) MatchesPath(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	return strings.HasPrefix(path, r.PathBeg)
}
