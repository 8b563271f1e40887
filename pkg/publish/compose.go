package publish

import (
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/tnet"
)

// Draft is an item as people write it: one content for every kind of subscriber.
// It is put together as pushpin-publish does it.
type Draft struct {
	Channel    string
	ID, PrevID string // "" is none
	Meta       map[string]string
	NoSeq      bool
	// Action is Send, Hint or Close. Long polls are never closed.
	Action Action
	Code   int
	Header []Field
	// Content goes to everybody; Line is a line end that WebSocket messages do
	// without.
	Content []byte
	Line    string
	// Patch is a JSON Patch as text, instead of Content.
	Patch []byte
	// Report asks the control API how many subscribers the item is for.
	Report bool
}

// item returns the draft as a value of JSON or, with raw, of tnetstrings, which
// have bytes.
func (d *Draft) item(raw bool) (map[string]any, error) {
	formats, err := d.formats(raw)
	if err != nil {
		return nil, err
	}
	item := map[string]any{"channel": d.Channel, "formats": formats}
	if d.ID != "" {
		item["id"] = d.ID
	}
	if d.PrevID != "" {
		item["prev-id"] = d.PrevID
	}
	if len(d.Meta) > 0 {
		meta := make(map[string]any, len(d.Meta))
		for k, v := range d.Meta {
			meta[k] = v
		}
		item["meta"] = meta
	}
	if d.NoSeq {
		item["no-seq"] = true
	}
	return item, nil
}

func (d *Draft) formats(raw bool) (map[string]any, error) {
	switch d.Action {
	case Hint:
		hint := map[string]any{"action": "hint"}
		return map[string]any{"http-response": hint, "http-stream": hint, "ws-message": hint}, nil
	case Close:
		end := map[string]any{"action": "close"}
		return map[string]any{"http-stream": end, "ws-message": end}, nil
	}
	response := map[string]any{"code": int64(d.Code)}
	if len(d.Header) > 0 {
		list := make([]any, len(d.Header))
		for i, f := range d.Header {
			list[i] = []any{f.Name, f.Value}
		}
		response["headers"] = list
	}
	if d.Patch != nil {
		v, err := parseJSON(d.Patch)
		if err != nil {
			return nil, err
		}
		ops, ok := v.([]any)
		if !ok {
			return nil, errorf("patch content must be a JSON array")
		}
		if raw {
			ops, _ = numbers(ops).([]any)
		}
		response["body-patch"] = ops
		return map[string]any{"http-response": response}, nil
	}
	set := func(to map[string]any, key string, content []byte) map[string]any {
		switch {
		case raw:
			to[key] = content
		case utf8.Valid(content):
			to[key] = string(content)
		default:
			to[key+"-bin"] = base64.StdEncoding.EncodeToString(content)
		}
		return to
	}
	line := append(append([]byte(nil), d.Content...), d.Line...)
	message := "content"
	if raw && !utf8.Valid(d.Content) {
		message = "content-bin" // the name says that it is binary, not that it is in base64
	}
	return map[string]any{
		"http-response": set(response, "body", line),
		"http-stream":   set(map[string]any{}, "content", line),
		"ws-message":    set(map[string]any{}, message, d.Content),
	}, nil
}

// numbers turns the numbers of JSON into those of tnetstrings.
func numbers(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // beyond the range it is ±Inf
		return f
	}
	return v
}

// Batch returns the body of a publish request with this one item.
func (d *Draft) Batch() ([]byte, error) {
	item, err := d.item(false)
	if err != nil {
		return nil, err
	}
	batch := map[string]any{"items": []any{item}}
	if d.Report {
		batch["report"] = true
	}
	return appendJSON(nil, batch), nil
}

// Message returns the item for ZeroMQ: a bare tnetstring.
func (d *Draft) Message() ([]byte, error) {
	item, err := d.item(true)
	if err != nil {
		return nil, err
	}
	return tnet.Append(nil, item), nil
}
