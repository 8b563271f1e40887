package zhttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// Format is the first byte of a packet.
type Format byte

// The formats.
const (
	Tnet Format = 'T'
	JSON Format = 'J'
)

// Packet types. Data is written as no type at all.
const (
	Data      = ""
	Error     = "error"
	Credit    = "credit"
	KeepAlive = "keep-alive"
	Cancel    = "cancel"
	Close     = "close"
	Ping      = "ping"
	Pong      = "pong"

	handoffStart   = "handoff-start"
	handoffProceed = "handoff-proceed"
)

// Limits of what a packet may have.
const (
	MaxIDs    = 1024 // sessions that one packet is for
	MaxID     = 1024 // bytes of from, and of an id
	MaxFields = frame.MaxHeaders
	MaxUser   = 64 << 10 // bytes of user-data, as a tnetstring
)

// Absent is the value of an integer that a packet does not have.
const Absent = -1

// ID names one session in a packet. Seq is Absent if the packet has none.
type ID struct {
	ID  string
	Seq int64
}

// Request is a packet from a client.
type Request struct {
	From        string
	IDs         []ID
	Type        string // one of the packet types, or a hand-off, which nobody acts on
	Credits     int64  // Absent if there are none
	More        bool
	Stream      bool
	MaxSize     int64 // bytes; Absent for no limit
	Timeout     int64 // milliseconds; Absent for no limit
	Method      string
	URI         string
	Header      []frame.Field
	Body        []byte
	HasBody     bool // there is a body, if an empty one
	Binary      bool // content-type is binary
	Code        int  // Absent if there is none
	UserData    any  // nil if there is none
	ConnectHost string
	ConnectPort int // Absent if there is none

	IgnorePolicies, TrustConnectHost, IgnoreTLSErrors, FollowRedirects bool
	// Multi says that the client takes packets for several sessions, Quiet that it
	// wants no log lines.
	Multi, Quiet bool
}

// ParseError says why a packet is not one. Text is for the log.
type ParseError struct{ Text string }

func (e *ParseError) Error() string { return e.Text }

// ParseRequest reads a packet. With an error the request is not nil if the
// sender and the sessions could be read, so that they can be told; Format is
// what the answer should have in any case.
func ParseRequest(b []byte) (*Request, Format, error) {
	if len(b) == 0 {
		return nil, Tnet, &ParseError{"empty"}
	}
	var v any
	format := Format(b[0])
	switch format {
	case Tnet:
		var err error
		if v, err = tnet.Decode(b[1:]); err != nil {
			return nil, Tnet, &ParseError{"tnetstring parse failed"}
		}
	case JSON:
		var err error
		if v, err = decodeJSON(b[1:]); err != nil {
			return nil, JSON, &ParseError{"json parse failed"}
		}
	default:
		return nil, Tnet, &ParseError{"unsupported type"}
	}
	dict, ok := v.(map[string]any)
	if !ok {
		return nil, format, &ParseError{"parse failed: not a dictionary"}
	}
	d := decoder{dict: dict}
	r := d.request()
	if d.err == nil {
		return r, format, nil
	}
	if r.From == "" || len(r.IDs) == 0 {
		r = nil
	}
	return r, format, &ParseError{"parse failed: " + d.err.Error()}
}

// decodeJSON yields what a tnetstring would.
func decodeJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("extra data")
	}
	return numbers(v, 0)
}

func numbers(v any, depth int) (any, error) {
	var err error
	if depth > tnet.MaxDepth {
		return nil, errors.New("nested too deeply")
	}
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n, nil
		}
		return v.Float64()
	case []any:
		for i := range v {
			if v[i], err = numbers(v[i], depth+1); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = numbers(v[k], depth+1); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// decoder takes the fields out of a dictionary. The first fault stays.
type decoder struct {
	dict map[string]any
	err  error
}

func (d *decoder) fault(key, want string) {
	if d.err == nil {
		d.err = fmt.Errorf("%s is not %s", key, want)
	}
}

func (d *decoder) request() *Request {
	r := &Request{}
	r.From = d.name("from") // first, and then the ids, for the answer to a fault
	r.IDs = d.ids()
	switch r.Type = d.text("type"); r.Type {
	case Data, Error, Credit, KeepAlive, Cancel, Close, Ping, Pong, handoffStart, handoffProceed:
	default:
		d.fault("type", "a known one")
	}
	d.text("condition") // nobody acts on it
	r.Credits = d.count("credits")
	r.More, r.Stream = d.flag("more"), d.flag("stream")
	r.MaxSize, r.Timeout = d.count("max-size"), d.count("timeout")
	r.Method, r.URI = d.text("method"), d.text("uri")
	r.Header = d.header()
	if v, ok := d.dict["body"]; ok && v != nil {
		r.Body, r.HasBody = []byte(d.text("body")), true
	}
	r.Binary = d.text("content-type") == "binary"
	r.Code = d.small("code")
	r.UserData = d.dict["user-data"]
	if len(tnet.Append(nil, r.UserData)) > MaxUser {
		d.fault("user-data", "small enough")
	}
	r.ConnectHost, r.ConnectPort = d.text("connect-host"), d.small("connect-port")
	r.IgnorePolicies, r.TrustConnectHost = d.flag("ignore-policies"), d.flag("trust-connect-host")
	r.IgnoreTLSErrors, r.FollowRedirects = d.flag("ignore-tls-errors"), d.flag("follow-redirects")
	if v, ok := d.dict["ext"]; ok {
		ext, isDict := v.(map[string]any)
		if !isDict {
			d.fault("ext", "a dictionary")
		}
		inner := decoder{dict: ext}
		r.Multi, r.Quiet = inner.flag("multi"), inner.flag("quiet")
		if d.err == nil {
			d.err = inner.err
		}
	}
	return r
}

func (d *decoder) text(key string) string {
	v, ok := d.dict[key]
	s, isText := v.(string)
	if ok && !isText && v != nil {
		d.fault(key, "a string")
	}
	return s
}

// name is text that is kept while a session lasts.
func (d *decoder) name(key string) string {
	s := d.text(key)
	if len(s) > MaxID {
		d.fault(key, "short enough")
		return ""
	}
	return s
}

func (d *decoder) flag(key string) bool {
	v, ok := d.dict[key]
	b, isBool := v.(bool)
	if ok && !isBool {
		d.fault(key, "true or false")
	}
	return b
}

// integer takes what can be converted without loss.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case float64:
		return int64(v), v == math.Trunc(v) && math.Abs(v) < 1<<53
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// count is a number that is not negative. Absent if there is none; Zurl's own
// clients say so with -1 too.
func (d *decoder) count(key string) int64 {
	v, ok := d.dict[key]
	if !ok {
		return Absent
	}
	n, ok := integer(v)
	if !ok || n < Absent {
		d.fault(key, "a number")
		return Absent
	}
	return n
}

// small is a count for which 65535 is enough.
func (d *decoder) small(key string) int {
	n := d.count(key)
	if n > math.MaxUint16 {
		d.fault(key, "that small")
		return Absent
	}
	return int(n)
}

func (d *decoder) ids() []ID {
	switch v := d.dict["id"].(type) {
	case nil:
		return nil
	case string:
		if id := d.name("id"); id != "" {
			return []ID{{id, d.count("seq")}}
		}
		return nil
	case []any:
		if len(v) > MaxIDs {
			d.fault("id", "short enough")
			return nil
		}
		out := make([]ID, 0, len(v))
		for _, e := range v {
			dict, ok := e.(map[string]any)
			inner := decoder{dict: dict}
			id := ID{inner.name("id"), inner.count("seq")}
			if !ok || inner.err != nil || id.ID == "" {
				d.fault("id", "a list of dictionaries with id and seq")
				return nil
			}
			out = append(out, id)
		}
		return out
	}
	d.fault("id", "a string or a list")
	return nil
}

func (d *decoder) header() []frame.Field {
	v, ok := d.dict["headers"]
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok || len(list) > MaxFields {
		d.fault("headers", "a list, or it is too long")
		return nil
	}
	h := make([]frame.Field, 0, len(list))
	for _, e := range list {
		pair, _ := e.([]any)
		if len(pair) != 2 {
			d.fault("headers", "a list of pairs")
			return nil
		}
		name, ok := pair[0].(string)
		value, ok2 := pair[1].(string)
		if !ok || !ok2 {
			d.fault("headers", "a list of pairs of strings")
			return nil
		}
		h = append(h, frame.Field{Name: name, Value: value})
	}
	return h
}
