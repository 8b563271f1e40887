// Package publish turns what publishers send into items: JSON over HTTP, JSON or
// tnetstrings over ZeroMQ. It knows all formats and actions, checks every field,
// and gives the error texts that publishers of Pushpin know.
package publish

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// Error says what is wrong with an item or a message. Its text goes to the
// publisher as it is.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

func errorf(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// MaxID is the largest length of an id in bytes. Each hold with a position keeps
// one in its record.
const MaxID = 4096

// Item is one publication.
type Item struct {
	Channel string
	// ID and PrevID order the items of a channel. An id that is given and empty
	// differs from one that is not given.
	ID, PrevID       string
	HasID, HasPrevID bool
	// What each kind of subscriber gets; nil is nothing.
	Response, Stream, WebSocket *Format
	// Request is what webhooks get; nil leaves it to them to make something of
	// the rest.
	Request *Format
	// Meta are variables for filters.
	Meta map[string]string
	// Size is the declared size for counting blocks, -1 if the content's own
	// size counts.
	Size int64
	// NoSeq skips the ordering.
	NoSeq bool
}

// Memory estimates what the item keeps in memory, in bytes.
func (it *Item) Memory() int {
	n := 512 + len(it.Channel) + len(it.ID) + len(it.PrevID)
	for name, value := range it.Meta {
		n += len(name) + len(value) + 64
	}
	for _, f := range []*Format{it.Response, it.Stream, it.WebSocket, it.Request} {
		if f == nil {
			continue
		}
		n += len(f.Body) + len(f.Reason) + memory(f.Patch.ops)
		for _, h := range f.Header {
			n += len(h.Name) + len(h.Value) + 32
		}
		for _, list := range [][]string{f.Filters, f.Expose} {
			for _, s := range list {
				n += len(s) + 16
			}
		}
	}
	return n
}

// memory estimates what decoded JSON keeps in memory, in bytes.
func memory(v any) int {
	n := 16
	switch v := v.(type) {
	case string:
		n += 16 + len(v)
	case json.Number:
		n += 16 + len(v)
	case []any:
		for _, e := range v {
			n += memory(e)
		}
	case map[string]any:
		for k, e := range v {
			n += 64 + len(k) + memory(e)
		}
	}
	return n
}

// Action is what an item does to a subscriber.
type Action uint8

// Actions.
const (
	Send    Action = 0
	Hint    Action = 1 // ask the origin again
	Close   Action = 2
	Refresh Action = 3 // make a WebSocket-over-HTTP session send a request
)

func (a Action) String() string {
	switch a {
	case Send:
		return "send"
	case Hint:
		return "hint"
	case Close:
		return "close"
	case Refresh:
		return "refresh"
	}
	return "unknown"
}

// Kind is the type of a WebSocket message; the numbers are the opcodes of RFC
// 6455.
type Kind uint8

// Kinds of a WebSocket message.
const (
	Text   Kind = 1
	Binary Kind = 2
	Ping   Kind = 9
	Pong   Kind = 10
)

// Field is one HTTP header field.
type Field struct{ Name, Value string }

// Format is what an item holds for one kind of subscriber. Only Action is set if
// that is not Send, except for the Code and Reason of a WebSocket close.
type Format struct {
	Action Action
	// Filters are the content filters that a subscription must have, if
	// CheckFilters is set.
	Filters      []string
	CheckFilters bool
	Body         []byte
	// Code and Reason are the status of an http-response, or the close code and
	// its text of a ws-message (Code 0: none given).
	Code   int
	Reason string
	Header []Field
	// Expose are the names of the only header fields to keep when the response
	// is put together; nil keeps all.
	Expose []string
	// Patch makes the body out of the one of the held response.
	Patch Patch
	// Kind is the type of a ws-message.
	Kind Kind
	// Method is that of an http-request.
	Method string
}

// Batch is a publish request.
type Batch struct {
	Items []*Item
	// Report asks for an answer that tells how many subscribers each item is for.
	Report bool
}

// ParseBatch reads the body of a publish request: {"items":[item, …]}, perhaps
// with "report":true. One bad item makes the whole batch an error.
func ParseBatch(body []byte) (Batch, error) {
	v, err := parseJSON(body)
	if err != nil {
		return Batch{}, errorf("Body is not valid JSON.")
	}
	switch v := v.(type) {
	case map[string]any:
		return ParseArgs(v, false)
	case []any:
		return Batch{}, errorf("Invalid format.")
	}
	return Batch{}, errorf("Body is not valid JSON.") // a bare value
}

// ParseArgs reads a decoded batch; isTnet says that it was a tnetstring.
func ParseArgs(args map[string]any, isTnet bool) (Batch, error) {
	v, ok := args["items"]
	if !ok {
		return Batch{}, errorf("Invalid format: object does not contain 'items'")
	}
	list, ok := v.([]any)
	if !ok {
		return Batch{}, errorf("Invalid format: object contains 'items' with wrong type")
	}
	b := Batch{Items: make([]*Item, len(list))}
	if v, given := args["report"]; given {
		if b.Report, ok = v.(bool); !ok {
			return Batch{}, errorf("Invalid format: object contains 'report' with wrong type")
		}
	}
	for i, e := range list {
		item, err := parseItem(e, isTnet, "", false)
		if err != nil {
			return Batch{}, errorf("Invalid format: %v", err)
		}
		b.Items[i] = item
	}
	return b, nil
}

// ParseMessage reads one item as it comes over ZeroMQ: "J" and JSON, "T" and a
// tnetstring, or a bare tnetstring.
func ParseMessage(b []byte) (*Item, error) { return parseMessage(b, "", false) }

// ParseTopic reads one item of a SUB socket, whose topic is the channel. Only an
// empty topic leaves it to the item to name one.
func ParseTopic(topic string, b []byte) (*Item, error) { return parseMessage(b, topic, topic != "") }

func parseMessage(b []byte, channel string, hasChannel bool) (*Item, error) {
	if len(b) == 0 {
		return nil, errorf("empty message")
	}
	if b[0] == 'J' {
		v, err := parseJSON(b[1:])
		if err != nil {
			return nil, err
		}
		return parseItem(v, false, channel, hasChannel)
	}
	if b[0] == 'T' {
		b = b[1:]
	}
	v, err := tnet.Decode(b)
	if err != nil {
		return nil, err
	}
	return parseItem(v, true, channel, hasChannel)
}

func parseItem(v any, isTnet bool, channel string, hasChannel bool) (*Item, error) {
	dict, ok := v.(map[string]any)
	if !ok {
		return nil, errorf("publish item object is not an object")
	}
	o := object{name: "publish item object", dict: dict, tnet: isTnet}
	item := &Item{Channel: channel, Size: -1}
	if !hasChannel {
		item.Channel, ok = o.str("channel")
		if o.err == nil && !ok {
			return nil, errorf("%s does not contain 'channel'", o.name)
		}
	}
	item.ID, item.HasID = o.id("id")
	item.PrevID, item.HasPrevID = o.id("prev-id")

	formats := o
	if f, ok := dict["formats"]; ok {
		formats.dict, ok = f.(map[string]any)
		if !ok {
			o.wrongType("formats")
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	known := false
	for _, f := range []struct {
		name  string
		into  **Format
		parse func(*object) *Format
	}{
		{"http-response", &item.Response, parseResponse},
		{"http-stream", &item.Stream, parseStream},
		{"ws-message", &item.WebSocket, parseWebSocket},
		{"http-request", &item.Request, parseRequest},
	} {
		v, ok := formats.dict[f.name]
		if !ok {
			continue
		}
		known = true
		dict, ok := v.(map[string]any)
		if !ok {
			return nil, errorf("'%s' is not an object", f.name)
		}
		fo := object{name: "'" + f.name + "'", dict: dict, tnet: isTnet}
		if *f.into = f.parse(&fo); fo.err != nil {
			return nil, fo.err
		}
	}
	if _, ok := dict["formats"]; !known && (!ok || len(formats.dict) == 0) {
		return nil, errorf("no formats specified")
	}

	item.Meta = o.meta()
	if n, ok := o.integer("size"); ok {
		if item.Size = n; n < 0 {
			o.invalid("size")
		}
	}
	if v, ok := dict["no-seq"]; ok {
		if item.NoSeq, ok = v.(bool); !ok {
			o.wrongType("no-seq")
		}
	}
	if o.err != nil {
		return nil, o.err
	}
	return item, nil
}

func parseResponse(o *object) *Format {
	f := &Format{Action: o.action()}
	if f.Action != Send || o.err != nil {
		return f
	}
	f.Code = 200
	if n, ok := o.integer("code"); ok {
		// Pushpin lets 0 to 199 through. No client can read a status line with less
		// than 100, and after one with less than 200 it waits for the response, and
		// takes that to its next request for it (RFC 9110 section 15.2).
		if n < 200 || n > 999 {
			o.invalid("code")
		}
		f.Code = int(n)
	}
	f.Reason, _ = o.str("reason")
	if strings.ContainsAny(f.Reason, "\r\n\x00") {
		o.invalid("reason")
	}
	o.headers(f)
	o.filters(f)
	if body, ok := o.content("body", "body-bin"); ok {
		f.Body = body
		return f
	}
	v, ok := o.dict["body-patch"]
	if !ok {
		if o.tnet {
			o.fail("%s does not contain 'body' or 'body-patch'", o.name)
		} else {
			o.fail("%s does not contain 'body', 'body-bin', or 'body-patch'", o.name)
		}
		return f
	}
	ops, ok := v.([]any)
	if !ok {
		o.wrongType("body-patch")
	}
	f.Patch = Patch{ops: ops, set: true}
	return f
}

func parseStream(o *object) *Format {
	f := &Format{Action: o.action()}
	if f.Action != Send || o.err != nil {
		return f
	}
	o.filters(f)
	var ok bool
	if f.Body, ok = o.content("content", "content-bin"); !ok {
		if o.tnet {
			o.fail("%s does not contain 'content'", o.name)
		} else {
			o.fail("%s does not contain 'content' or 'content-bin'", o.name)
		}
	}
	return f
}

// parseRequest reads what Pushpin does not have: the request that webhooks make.
func parseRequest(o *object) *Format {
	f := &Format{Method: "POST"}
	if method, ok := o.str("method"); ok {
		if f.Method = method; !slices.Contains(hook.Methods, method) {
			o.invalid("method")
		}
	}
	o.headers(f)
	for _, h := range f.Header {
		if hook.Reserved(h.Name) {
			o.fail("headers contains '%s', which may not be set", h.Name)
		}
	}
	var ok bool
	if f.Body, ok = o.content("content", "content-bin"); !ok {
		o.fail("%s does not contain 'content' or 'content-bin'", o.name)
	}
	if len(f.Body) > hook.MaxBody {
		o.fail("%s contains more than %d bytes", o.name, hook.MaxBody)
	}
	return f
}

// maxControl is how long the content of a WebSocket control frame may be (RFC
// 6455 section 5.5).
const maxControl = 125

func parseWebSocket(o *object) *Format {
	f := &Format{Action: o.action()}
	if o.err != nil {
		return f
	}
	switch f.Action {
	case Close:
		if n, ok := o.integer("code"); ok {
			if !validClose(n) {
				o.invalid("code")
			}
			f.Code = int(n)
		}
		f.Reason, _ = o.str("reason")
		if len(f.Reason) > maxControl-2 || !utf8.ValidString(f.Reason) {
			o.invalid("reason")
		}
		return f
	case Hint, Refresh:
		return f
	}
	kind, hasKind := o.str("type")
	if hasKind && o.err == nil {
		switch kind {
		case "text":
			f.Kind = Text
		case "binary":
			f.Kind = Binary
		case "ping":
			f.Kind = Ping
		case "pong":
			f.Kind = Pong
		default:
			o.fail("%s contains 'type' with unknown value", o.name)
		}
	}
	o.filters(f)
	name := "content-bin"
	data, ok := o.bin("content-bin")
	if ok {
		if !hasKind {
			f.Kind = Binary
		}
	} else {
		name = "content"
		var s string
		if s, ok = o.str("content"); ok {
			data = []byte(s)
		}
		if !hasKind {
			f.Kind = Text
		}
	}
	f.Body = data
	control := f.Kind == Ping || f.Kind == Pong
	switch {
	case !ok && !control:
		o.fail("%s does not contain 'content' or 'content-bin'", o.name)
	case control && len(data) > maxControl, f.Kind == Text && !utf8.Valid(data):
		o.invalid(name) // no client could take it
	}
	return f
}

// validClose reports whether a close frame may carry the code (RFC 6455 section
// 7.4).
func validClose(n int64) bool {
	return n >= 1000 && n < 5000 && n != 1004 && n != 1005 && n != 1006 && n != 1015
}

// object reads the fields of a decoded object and keeps the first error.
type object struct {
	name string // how error texts call it
	dict map[string]any
	tnet bool
	err  error
}

func (o *object) fail(format string, args ...any) {
	if o.err == nil {
		o.err = errorf(format, args...)
	}
}

func (o *object) wrongType(field string) { o.fail("%s contains '%s' with wrong type", o.name, field) }

func (o *object) invalid(field string) { o.fail("%s contains '%s' with invalid value", o.name, field) }

// str returns a string field and whether it is there.
func (o *object) str(field string) (string, bool) {
	v, ok := o.dict[field]
	if !ok {
		return "", false
	}
	s, ok := v.(string)
	if !ok {
		o.wrongType(field)
	}
	return s, ok
}

// id returns the field of an id, which is a string.
func (o *object) id(field string) (string, bool) {
	s, ok := o.str(field)
	if len(s) > MaxID {
		o.invalid(field)
	}
	return s, ok
}

// integer returns a field that may be a number, a number in a string (0 if it is
// none) or a boolean.
func (o *object) integer(field string) (int64, bool) {
	v, ok := o.dict[field]
	if !ok {
		return 0, false
	}
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, true
		}
		f, _ := v.Float64() // beyond the range it is ±Inf
		return round(f), true
	case int64:
		return v, true
	case float64:
		return round(v), true
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		if err != nil {
			n = 0
		}
		return n, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	o.wrongType(field)
	return 0, false
}

func round(f float64) int64 {
	const limit = 1 << 53 // beyond it a float64 is no integer any more
	return int64(max(-limit, min(limit, math.Round(f))))
}

func (o *object) action() Action {
	s, ok := o.str("action")
	if !ok || o.err != nil {
		return Send
	}
	switch s {
	case "send":
		return Send
	case "hint":
		return Hint
	case "close":
		return Close
	case "refresh":
		return Refresh
	}
	// Pushpin gives an empty text here.
	o.fail("%s contains 'action' with unknown value", o.name)
	return Send
}

// bin returns a field of bytes: base64 in JSON, the bytes in a tnetstring.
func (o *object) bin(field string) ([]byte, bool) {
	s, ok := o.str(field)
	if !ok || o.tnet {
		return []byte(s), ok
	}
	return decodeBase64(s), true
}

// content returns the content of an HTTP format. The field in base64 is known in
// JSON only and wins.
func (o *object) content(field, binField string) ([]byte, bool) {
	if !o.tnet {
		if b, ok := o.bin(binField); ok || o.err != nil {
			return b, true
		}
	}
	s, ok := o.str(field)
	return []byte(s), ok || o.err != nil
}

// decodeBase64 takes the standard alphabet, skips what is not in it, and wants
// no padding, as publishers are used to.
func decodeBase64(s string) []byte {
	clean := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
			clean = append(clean, c)
		}
	}
	if len(clean)%4 == 1 { // six bits that make no byte
		clean = clean[:len(clean)-1]
	}
	n, _ := base64.RawStdEncoding.Decode(clean, clean) // nothing is left to be wrong
	return clean[:n:n]
}

func (o *object) filters(f *Format) {
	v, ok := o.dict["content-filters"]
	if !ok {
		return
	}
	list, ok := v.([]any)
	if !ok {
		o.wrongType("content-filters")
	}
	f.CheckFilters = true
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			o.fail("content-filters contains element with wrong type")
		}
		f.Filters = append(f.Filters, s)
	}
}

func (o *object) meta() map[string]string {
	v, ok := o.dict["meta"]
	if !ok || o.err != nil {
		return nil
	}
	dict, ok := v.(map[string]any)
	if !ok {
		o.wrongType("meta")
		return nil
	}
	meta := make(map[string]string, len(dict))
	for _, k := range sortedKeys(dict) {
		s, ok := dict[k].(string)
		if !ok {
			o.fail("'meta' contains '%s' with wrong type", k)
			return nil
		}
		meta[k] = s
	}
	return meta
}

// headers reads the header fields: an object, or a list of pairs. Grip fields
// never reach a client; what Grip-Expose-Headers names goes to Expose.
func (o *object) headers(f *Format) {
	v, ok := o.dict["headers"]
	if !ok || o.err != nil {
		return
	}
	add := func(name, value string) {
		switch {
		case !validField(name, value):
			o.fail("headers contains '%s' with invalid value", name)
		case len(name) >= 5 && strings.EqualFold(name[:5], "grip-"):
			if strings.EqualFold(name, "Grip-Expose-Headers") {
				for e := range strings.SplitSeq(value, ",") {
					if e = strings.TrimSpace(e); e != "" {
						f.Expose = append(f.Expose, e)
					}
				}
			}
		default:
			f.Header = append(f.Header, Field{name, value})
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(v) {
			s, ok := v[k].(string)
			if !ok {
				o.fail("headers contains '%s' with wrong type", k)
				return
			}
			add(k, s)
		}
	case []any:
		for _, e := range v {
			pair, ok := e.([]any)
			if !ok {
				o.fail("headers contains element with wrong type")
				return
			}
			if len(pair) != 2 {
				o.fail("headers contains list with wrong number of elements")
				return
			}
			name, ok := pair[0].(string)
			if !ok {
				o.fail("header contains name element with wrong type")
				return
			}
			value, ok := pair[1].(string)
			if !ok {
				o.fail("header contains value element with wrong type")
				return
			}
			add(name, value)
		}
	default:
		o.wrongType("headers")
	}
	if len(f.Header) > frame.MaxGiven || len(f.Expose) > frame.MaxGiven {
		o.fail("%s contains too many headers", o.name)
	}
}

// validField reports whether the field can be written as a line of its own (RFC
// 9110 section 5).
func validField(name, value string) bool {
	if name == "" || strings.ContainsAny(value, "\r\n\x00") {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
}
