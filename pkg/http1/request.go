package http1

import (
	"bufio"
	"errors"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Values of BodyLen that are not a number of bytes.
const (
	// Chunked is the length of a body with chunked transfer coding.
	Chunked int64 = -1
	// UntilClose is the length of a response body that ends with its connection.
	UntilClose int64 = -2
)

// RequestHead is the start line and header section of a request. Its strings
// share one allocation.
type RequestHead struct {
	Method string
	Target string // as on the wire
	Path   string // the target in origin form, "/path?query", or "*"
	Host   string // the authority of an absolute-form target, else the Host field; "" in HTTP/1.0 only
	Minor  uint8  // of the version; 1 for anything above too
	Header []frame.Field
	// BodyLen is 0 for no body, the number of bytes, or Chunked.
	BodyLen int64
	// Close says that the connection ends with this exchange.
	Close bool
	// Expect says that the client waits for "100 Continue" before its body.
	Expect bool
	// Upgrade says that this is a well-formed WebSocket handshake.
	Upgrade bool
	// WantsUpgrade says that the request asks for a WebSocket without being a
	// well-formed handshake; the answer is 400.
	WantsUpgrade bool
}

// ReadRequestHead reads the next request up to the end of its header section.
// It returns io.EOF if the connection was closed before the first byte, an
// *Error if the client is at fault, after which the connection must be closed,
// and otherwise what the connection said.
func ReadRequestHead(br *bufio.Reader, lim Limits) (*RequestHead, error) {
	lim = lim.withDefaults()
	if err := skipEmptyLines(br); err != nil {
		if errors.Is(err, errFirstByte) {
			return nil, bad("not an HTTP request")
		}
		return nil, err
	}
	section, lines, err := readSection(br, lim.MaxHead, false)
	if err != nil {
		if errors.Is(err, errTooLarge) {
			e := errHeadTooLarge(lim.MaxHead)
			if lines == 0 {
				e.Status = 414
			}
			return nil, e
		}
		return nil, err
	}
	fields := lines - 2 // without the start line and the empty line
	if fields > lim.MaxFields {
		return nil, errTooManyFields(lim.MaxFields)
	}
	r := &RequestHead{}
	if err := r.parse(section, fields); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *RequestHead) parse(section string, fields int) *Error {
	line, rest := cutLine(section)
	if err := r.parseLine(line); err != nil {
		return err
	}
	if fields > 0 {
		h, err := parseFields(make([]frame.Field, 0, fields), rest, false)
		if err != nil {
			return err
		}
		r.Header = h
	}

	// One pass over the fields, by the length of the name first: most fields
	// are decided by that alone.
	var (
		host, coding               string
		hosts, lengths, codings    int
		bodyLen                    int64 = unknownLength
		closing, keepAlive         bool
		expect, websocket, upgrade bool
		version, key               string
		versions, keys             int
	)
	for i := range r.Header {
		f := &r.Header[i]
		switch len(f.Name) {
		case 4:
			if equalFold(f.Name, "Host") {
				host = f.Value
				hosts++
			}
		case 6:
			if equalFold(f.Name, "Expect") && equalFold(f.Value, "100-continue") {
				expect = true
			}
		case 7:
			if equalFold(f.Name, "Upgrade") && hasMember(f.Value, "websocket") {
				websocket = true
			}
		case 10:
			if equalFold(f.Name, "Connection") {
				closing = closing || hasMember(f.Value, "close")
				keepAlive = keepAlive || hasMember(f.Value, "keep-alive")
				upgrade = upgrade || hasMember(f.Value, "upgrade")
			}
		case 14:
			if equalFold(f.Name, "Content-Length") {
				n, ok := length(bodyLen, f.Value, false)
				if !ok {
					return bad("invalid Content-Length")
				}
				bodyLen = n
				lengths++
			}
		case 17:
			if equalFold(f.Name, "Transfer-Encoding") {
				coding = f.Value
				codings++
			} else if equalFold(f.Name, "Sec-WebSocket-Key") {
				key = f.Value
				keys++
			}
		case 21:
			if equalFold(f.Name, "Sec-WebSocket-Version") {
				version = f.Value
				versions++
			}
		}
	}

	if codings > 0 {
		if err := requestCoding(coding, codings, r.Minor); err != nil {
			return err
		}
		if lengths > 0 {
			return bad("both Content-Length and Transfer-Encoding")
		}
		r.BodyLen = Chunked
	} else if lengths > 0 {
		r.BodyLen = bodyLen
		if lengths > 1 {
			r.Header = keepOne(r.Header, strconv.FormatInt(bodyLen, 10))
		}
	}

	if err := r.setHost(host, hosts); err != nil {
		return err
	}
	r.Close = closing || r.Minor == 0 && !keepAlive
	r.Expect = expect && r.Minor == 1 && r.BodyLen != 0
	if websocket && r.Minor == 1 { // RFC 9110, section 7.8: Upgrade means nothing in HTTP/1.0
		r.Upgrade = upgrade && r.Method == "GET" && r.BodyLen == 0 &&
			versions == 1 && version == "13" && keys == 1 && validKey(key)
		r.WantsUpgrade = !r.Upgrade
	}
	return nil
}

// parseLine parses "METHOD SP target SP HTTP/1.x".
func (r *RequestHead) parseLine(line string) *Error {
	sp := strings.IndexByte(line, ' ')
	if sp < 0 || !ValidToken(line[:sp]) {
		return bad("invalid method in the request line")
	}
	r.Method = line[:sp]
	line = line[sp+1:]
	sp = strings.IndexByte(line, ' ')
	if sp < 0 {
		return bad("request line without a version")
	}
	if !all(line[:sp], classURI) {
		return bad("invalid character in the request target")
	}
	r.Target = line[:sp]
	version := line[sp+1:]
	if len(version) != 8 || version[:5] != "HTTP/" || version[6] != '.' || version[5]-'0' > 9 || version[7]-'0' > 9 {
		return bad("invalid HTTP version")
	}
	if version[5] != '1' {
		return &Error{Status: 505, Text: "HTTP version not supported"}
	}
	r.Minor = min(version[7]-'0', 1)
	return nil
}

// setHost fills Path and Host from the target and the Host field (RFC 9112,
// sections 3.2 and 3.3).
func (r *RequestHead) setHost(host string, hosts int) *Error {
	switch {
	case hosts > 1:
		return bad("more than one Host field")
	case hosts == 0 && r.Minor == 1:
		return bad("missing Host field")
	case hosts == 1 && host != "" && !validHost(host):
		return bad("invalid Host field")
	case r.Method == "CONNECT":
		return &Error{Status: 501, Text: "CONNECT is not supported"}
	}
	r.Path, r.Host = r.Target, host
	switch {
	case r.Target[0] == '/':
	case r.Target == "*":
		if r.Method != "OPTIONS" {
			return bad(`request target "*" is for OPTIONS only`)
		}
	default:
		rest, ok := cutScheme(r.Target)
		if !ok {
			return bad("invalid request target")
		}
		end := strings.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		r.Host, r.Path = rest[:end], rest[end:]
		if !validHost(r.Host) {
			return bad("invalid host in the request target")
		}
		switch {
		case r.Path == "" && r.Method == "OPTIONS":
			r.Path = "*"
		case r.Path == "" || r.Path[0] != '/':
			r.Path = "/" + r.Path
		}
	}
	if r.Host == "" && r.Minor == 1 {
		return bad("empty Host field")
	}
	return nil
}

func cutScheme(target string) (rest string, ok bool) {
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(target) > len(scheme) && equalFold(target[:len(scheme)], scheme) {
			return target[len(scheme):], true
		}
	}
	return "", false
}

// validHost checks uri-host [":" port] roughly: the characters, and that a port
// is a number. User information is refused with the "@".
func validHost(s string) bool {
	if !all(s, classHost) {
		return false
	}
	port := ""
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && s[end+1] != ':' {
			return false
		}
		if end+1 < len(s) {
			port = s[end+2:]
		}
	} else {
		if strings.ContainsAny(s, "[]") {
			return false
		}
		var name string
		if name, port, _ = strings.Cut(s, ":"); name == "" {
			return false
		}
	}
	if len(port) > 5 {
		return false
	}
	for i := 0; i < len(port); i++ {
		if port[i]-'0' > 9 {
			return false
		}
	}
	return true
}

// requestCoding returns nil if the only transfer coding is chunked.
func requestCoding(value string, fields int, minor uint8) *Error {
	if minor == 0 {
		return bad("Transfer-Encoding in HTTP/1.0")
	}
	if fields == 1 && equalFold(value, "chunked") {
		return nil
	}
	if fields == 1 {
		i := strings.LastIndexByte(value, ',')
		if i > 0 && equalFold(trimOWS(value[i+1:]), "chunked") && !hasMember(value[:i], "chunked") {
			return &Error{Status: 501, Text: "unsupported Transfer-Encoding"}
		}
	}
	return bad("invalid Transfer-Encoding")
}

func hasMember(list, token string) bool {
	for list != "" {
		var member string
		member, list = cutMember(list)
		if equalFold(member, token) {
			return true
		}
	}
	return false
}

// validKey reports whether s is 16 bytes in base64 (RFC 6455, section 4.1).
func validKey(s string) bool {
	if len(s) != 24 || s[22:] != "==" {
		return false
	}
	for i := range 22 {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/') {
			return false
		}
	}
	return true
}
