package handler

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/pkg/publish"
)

// hasContent reports whether there is something in an item for webhooks: hints
// and closes are about connections, and patches about a response that receivers
// do not have.
func hasContent(it *publish.Item) bool {
	return it.Request != nil || sends(it.Response) || sends(it.Stream) || sends(it.WebSocket)
}

func sends(f *publish.Format) bool {
	return f != nil && f.Action == publish.Send && !f.Patch.IsSet()
}

// hookMessage is what webhooks get of an item: its http-request, or the JSON
// form of the rest.
func hookMessage(it *publish.Item, now time.Time) frame.HookMessage {
	m := frame.HookMessage{ID: hookID(it), Kind: hook.Message, Channel: it.Channel, Millis: uint64(now.UnixMilli()), Method: "POST"} //nolint:gosec // not before 1970
	if r := it.Request; r != nil {
		m.Method, m.Body = r.Method, r.Body
		for _, h := range r.Header {
			m.Header = append(m.Header, frame.Field(h))
		}
		return m
	}
	formats := make(map[string]any)
	if f := it.Response; sends(f) {
		v := content("body", f.Body)
		v["code"] = f.Code
		if f.Reason != "" {
			v["reason"] = f.Reason
		}
		if len(f.Header) > 0 {
			pairs := make([][2]string, len(f.Header))
			for i, h := range f.Header {
				pairs[i] = [2]string{h.Name, h.Value}
			}
			v["headers"] = pairs
		}
		formats["http-response"] = v
	}
	if f := it.Stream; sends(f) {
		formats["http-stream"] = content("content", f.Body)
	}
	if f := it.WebSocket; sends(f) {
		v := content("content", f.Body)
		switch f.Kind {
		case publish.Binary:
			v["type"] = "binary"
		case publish.Ping:
			v["type"] = "ping"
		case publish.Pong:
			v["type"] = "pong"
		default:
			v["type"] = "text"
		}
		formats["ws-message"] = v
	}
	data := map[string]any{"channel": it.Channel, "formats": formats}
	if it.HasID {
		data["id"] = it.ID
	}
	if it.HasPrevID {
		data["prev-id"] = it.PrevID
	}
	if len(it.Meta) > 0 {
		data["meta"] = it.Meta
	}
	m.Body = hookBody(hook.Message, now, data)
	return m
}

// content is as items have it: text, or base64 under a name of its own.
func content(name string, b []byte) map[string]any {
	if utf8.Valid(b) {
		return map[string]any{name: string(b)}
	}
	return map[string]any{name + "-bin": base64.StdEncoding.EncodeToString(b)}
}

// hookBody is the JSON form of an event, as Standard Webhooks has it.
func hookBody(kind string, at time.Time, data any) []byte {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(struct { // plain values: it cannot fail
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{kind, at.UTC(), data})
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

// hookID is the webhook-id of an item. One with an id of its own that is
// published again, because its publisher got no answer, is recognised: the id
// follows from what is published.
func hookID(it *publish.Item) string {
	if !it.HasID {
		return randomID()
	}
	h := sha256.New()
	add := func(b string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write([]byte(b))
	}
	add(it.Channel)
	add(it.ID)
	add(it.PrevID)
	for _, f := range []*publish.Format{it.Request, it.Response, it.Stream, it.WebSocket} {
		if f == nil {
			add("")
			continue
		}
		add(f.Method)
		add(string(f.Body))
		for _, field := range f.Header {
			add(field.Name)
			add(field.Value)
		}
	}
	return "msg_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}

// hookSize is what a message takes in a frame, or a little more.
func hookSize(m *frame.HookMessage) int {
	n := 128 + len(m.ID) + len(m.Channel) + len(m.Body)
	for _, h := range m.Header {
		n += len(h.Name) + len(h.Value) + 10
	}
	return n
}
