package grip

import (
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// MaxControl is the largest control message, in bytes. Pushpin's limit depends
// on how the message was cut into frames; ours does not.
const MaxControl = 64 << 10

// DefaultMessagePrefix marks messages for the client if the origin did not name
// a prefix of its own. ControlPrefix marks control messages.
const (
	DefaultMessagePrefix = "m:"
	ControlPrefix        = "c:"
)

// ParseExtension reads the Sec-WebSocket-Extensions fields of an origin's answer.
// ok reports whether it took up the "grip" extension; prefix is then the message
// prefix, which may be empty. An element whose quotes do not end counts as
// absent.
func ParseExtension(h []frame.Field) (prefix string, ok bool) {
	for _, item := range List(h, "Sec-WebSocket-Extensions") {
		name, rest, _ := strings.Cut(item, ";")
		if strings.TrimSpace(name) != "grip" {
			continue
		}
		params, ok := ParseParams(rest)
		if !ok {
			return "", false
		}
		for _, p := range params {
			if p.Name == "message-prefix" {
				return p.Value, true
			}
		}
		return DefaultMessagePrefix, true
	}
	return "", false
}

// Control types.
const (
	ControlSubscribe    = "subscribe"
	ControlUnsubscribe  = "unsubscribe"
	ControlDetach       = "detach"
	ControlSession      = "session"
	ControlSetMeta      = "set-meta"
	ControlKeepAlive    = "keep-alive"
	ControlSendDelayed  = "send-delayed"
	ControlFlushDelayed = "flush-delayed"
)

// Control is an in-band control message of a WebSocket origin.
type Control struct {
	Type    string
	Channel string   // subscribe, unsubscribe
	Filters []string // subscribe; more than MaxFilters must end the connection
	ID      string   // session; "" clears
	Name    string   // set-meta
	Value   string   // set-meta
	// HasValue is false for a set-meta that removes the name.
	HasValue bool
	// Content is what keep-alive and send-delayed send; HasContent is false for
	// a keep-alive that switches itself off.
	Content    []byte
	HasContent bool
	Kind       uint8 // kind of the message that carries Content: frame.MessageText …
	Seconds    int
	Interval   bool // keep-alive mode "interval" instead of "idle"
}

// ParseControl reads a control message without its "c:". On error the message is
// to be ignored; the origin is not told.
func ParseControl(b []byte) (*Control, error) {
	if len(b) > MaxControl {
		return nil, errorf("control message is too large")
	}
	m, err := decodeJSON(b)
	if err != nil {
		return nil, errorf("control message is not a JSON object")
	}
	c := &Control{}
	if c.Type, err = requiredString(m, "type"); err != nil {
		return nil, err
	}
	switch c.Type {
	case ControlSubscribe:
		if c.Channel, err = requiredString(m, "channel"); err == nil {
			c.Filters, err = stringList(m, "filters")
		}
	case ControlUnsubscribe:
		c.Channel, err = requiredString(m, "channel")
	case ControlDetach, ControlFlushDelayed:
	case ControlSession:
		c.ID, _, err = optionalString(m, "id")
	case ControlSetMeta:
		if c.Name, err = requiredString(m, "name"); err == nil {
			c.Value, c.HasValue, err = optionalString(m, "value")
		}
	case ControlKeepAlive:
		if err = c.parseContent(m, 55); err != nil {
			break
		}
		var mode string
		mode, _, err = optionalString(m, "mode")
		c.Interval = mode == "interval"
	case ControlSendDelayed:
		err = c.parseContent(m, 1)
		c.HasContent = true
	default:
		err = errorf("control message has unknown type '", c.Type, "'")
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// parseContent reads content, content-bin, message-type and timeout. Binary
// content travels in a text message unless message-type says otherwise.
func (c *Control) parseContent(m map[string]any, defaultSeconds int) error {
	text, hasText, err := optionalString(m, "content")
	if err != nil {
		return err
	}
	bin, hasBin, err := optionalString(m, "content-bin")
	if err != nil {
		return err
	}
	switch {
	case hasBin:
		c.Content = DecodeBase64(bin)
	case hasText:
		c.Content = []byte(text)
	}
	c.HasContent = hasText || hasBin
	kind, ok, err := optionalString(m, "message-type")
	if err != nil {
		return err
	}
	if !ok {
		kind = "text"
	}
	switch kind {
	case "text":
		c.Kind = frame.MessageText
	case "binary":
		c.Kind = frame.MessageBinary
	case "ping":
		c.Kind = frame.MessagePing
	case "pong":
		c.Kind = frame.MessagePong
	default:
		return errorf("control message contains 'message-type' with unknown value")
	}
	c.Seconds = defaultSeconds
	if v, ok := m["timeout"]; ok && v != nil {
		n, err := parseTimeout(v, "control message")
		if err != nil {
			return err
		}
		if n > 0 {
			c.Seconds = n
		}
	}
	return nil
}

func requiredString(m map[string]any, key string) (string, error) {
	s, ok := m[key].(string)
	if !ok || s == "" {
		return "", errorf("control message needs '", key, "', a string")
	}
	return s, nil
}

// optionalString takes null for absent.
func optionalString(m map[string]any, key string) (s string, ok bool, err error) {
	v, ok := m[key]
	if !ok || v == nil {
		return "", false, nil
	}
	if s, ok = v.(string); !ok {
		return "", false, errorf("control message contains '", key, "' with wrong type")
	}
	return s, true, nil
}

func stringList(m map[string]any, key string) ([]string, error) {
	v, ok := m[key]
	if !ok || v == nil {
		return nil, nil
	}
	elements, ok := v.([]any)
	if !ok {
		return nil, errorf("control message contains '", key, "' with wrong type")
	}
	list := make([]string, len(elements))
	for i, e := range elements {
		if list[i], ok = e.(string); !ok {
			return nil, errorf("control message contains '", key, "' with wrong type")
		}
	}
	return list, nil
}
