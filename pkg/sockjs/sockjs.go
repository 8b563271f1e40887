// Package sockjs is SockJS as Pushpin speaks it: what a request under a SockJS
// prefix is for, the frames, and the state of a session whose client polls. It
// has no sockets.
//
// There are four ways for a client to talk: a WebSocket as it is, a WebSocket with
// SockJS frames, polling with XMLHttpRequest, and polling with JSON-P. The
// streaming transports of other SockJS servers are answered with 404, as Pushpin
// does, and clients then poll.
package sockjs

import (
	"bytes"
	"crypto/md5" //nolint:gosec // tells versions of a page apart, no more
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits, in bytes.
const (
	// MaxRequest is the largest body of a request.
	MaxRequest = 100_000
	// MaxMessage is the largest message of a client.
	MaxMessage = 200_000
	// MaxFrame is the largest WebSocket message with SockJS frames in it.
	MaxFrame = 400_000
	// MaxQueued is how much a session keeps for a client that does not poll.
	MaxQueued = 200_000
)

// Kind is what a request is for.
type Kind uint8

// Kinds of requests.
const (
	NotFound   Kind = iota
	Greeting        // OPTIONS, to anything
	Info            // what the server can do
	Iframe          // the page that clients put into a frame of another origin
	XHR             // opens a session, or polls
	XHRSend         // carries messages of the client
	JSONP           // as XHR, by a script element
	JSONPSend       // as XHRSend, by a form
	WebSocket       // a WebSocket with SockJS frames
	RawSocket       // a WebSocket as it is
	BadRequest      // a poll by JSON-P that names no callback
)

// Call is a request as far as SockJS is concerned.
type Call struct {
	Kind     Kind
	Session  string // of XHR, XHRSend, JSONP and JSONPSend
	Callback string // of JSONP
	Data     string // of JSONPSend with GET
}

// Parse tells what a request is for. path is what follows the prefix in its
// target, with the query; upgrade says that it is a WebSocket handshake.
func Parse(method, path string, upgrade bool) Call {
	path, query, _ := strings.Cut(path, "?")
	if upgrade {
		switch {
		case path == "/websocket":
			return Call{Kind: RawSocket}
		case len(segments(path)) == 3:
			return Call{Kind: WebSocket}
		}
		return Call{}
	}
	if method == "OPTIONS" {
		return Call{Kind: Greeting}
	}
	get, post := method == "GET", method == "POST"
	switch {
	case path == "/info" && get:
		return Call{Kind: Info}
	case strings.HasPrefix(path, "/iframe") && strings.HasSuffix(path, ".html") && strings.Count(path, "/") == 1 && get:
		return Call{Kind: Iframe}
	}
	p := segments(path)
	if len(p) != 3 || p[1] == "" {
		return Call{}
	}
	c := Call{Session: p[1]}
	switch {
	case p[2] == "xhr" && post:
		c.Kind = XHR
	case p[2] == "xhr_send" && post:
		c.Kind = XHRSend
	case p[2] == "jsonp" && (get || post):
		c.Kind = JSONP
		q, _ := url.ParseQuery(query) // what can be read counts
		if c.Callback = q.Get("c"); c.Callback == "" {
			c.Callback = q.Get("callback")
		}
		if !validCallback(c.Callback) {
			c.Kind = BadRequest
		}
	case p[2] == "jsonp_send" && (get || post):
		c.Kind = JSONPSend
		if get {
			q, _ := url.ParseQuery(query)
			c.Data = q.Get("d")
		}
	default:
		return Call{}
	}
	return c
}

func segments(path string) []string {
	if !strings.HasPrefix(path, "/") {
		return nil
	}
	return strings.Split(path[1:], "/")
}

// validCallback reports whether a name can be that of a function, and nothing
// else: it is sent back as a script.
func validCallback(s string) bool {
	if s == "" || len(s) > 200 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("_$.[]", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// WithoutCallback returns a request target without the parameters that name the
// callback, which are no business of the origin.
func WithoutCallback(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(part, "="); name != "c" && name != "callback" {
			kept = append(kept, part)
		}
	}
	if len(kept) == 0 {
		return path
	}
	return path + "?" + strings.Join(kept, "&")
}

// Frames without content.
const (
	FrameOpen      = "o"
	FrameHeartbeat = "h"
)

// FrameMessages returns the frame that carries messages to the client. What is
// not UTF-8 is made so.
func FrameMessages(messages []string) string {
	return "a" + string(encode(messages))
}

// FrameClose returns the frame that tells the client why its session is over.
// Without a status, which is code 0, or without a reason it says what Pushpin
// says.
func FrameClose(code int, reason string) string {
	if reason == "" {
		reason = "Connection closed"
	}
	return "c[" + strconv.Itoa(code) + "," + string(encode(reason)) + "]"
}

// Frames that we close sessions with.
var (
	// FrameBusy answers a poll while another is open.
	FrameBusy = FrameClose(2010, "Another connection still open")
	frameGone = FrameClose(3000, "Client already closed connection")
)

// Script returns a frame as a call of callback.
func Script(callback, frame string) string {
	return "/**/" + callback + "(" + string(encode(frame)) + ");\n"
}

func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // strings can be encoded
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Errors of ParseMessages. Their texts are for the client.
var (
	ErrPayload  = errors.New("Payload expected")  //nolint:staticcheck // as Pushpin says it
	ErrTooLarge = errors.New("Message too large") //nolint:staticcheck // as Pushpin says it
)

// ParseMessages returns the messages in what a client has sent.
func ParseMessages(b []byte) ([]string, error) {
	var all []*string
	if err := json.Unmarshal(b, &all); err != nil || all == nil {
		return nil, ErrPayload
	}
	out := make([]string, len(all))
	for i, s := range all {
		switch {
		case s == nil: // null
			return nil, ErrPayload
		case len(*s) > MaxMessage:
			return nil, ErrTooLarge
		}
		out[i] = *s
	}
	return out, nil
}

// FormData returns the field d of a form in a request's body.
func FormData(body []byte) []byte {
	if !utf8.Valid(body) {
		return nil
	}
	q, err := url.ParseQuery(string(body))
	if err != nil {
		return nil
	}
	return []byte(q.Get("d"))
}

// InfoBody returns the answer to Info.
func InfoBody(entropy uint32) string {
	return fmt.Sprintf(`{"cookie_needed":false,"entropy":%d,"origins":["*:*"],"websocket":true}`+"\n", entropy)
}

// Page returns the page for frames of other origins, which loads the script at
// scriptURL, and its entity tag.
func Page(scriptURL string) (body, etag string) {
	body = `<!DOCTYPE html>
<html>
<head>
<meta charset="UTF-8">
<title>SockJS</title>
<script src="` + html.EscapeString(scriptURL) + `"></script>
<script>
document.domain = document.domain;
SockJS.bootstrap_iframe();
</script>
</head>
<body></body>
</html>
`
	sum := md5.Sum([]byte(body)) //nolint:gosec // see above
	return body, `"` + hex.EncodeToString(sum[:]) + `"`
}
