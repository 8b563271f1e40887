package grip

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/frame"
)

// parseJSON reads an application/grip-instruct body into in, over what the
// header said.
func (in *Instruct) parseJSON(body []byte) error {
	in.Header, in.Body = nil, nil
	root, err := decodeJSON(body)
	if err != nil {
		return err
	}
	if v, ok := root["hold"]; ok {
		hold, ok := v.(map[string]any)
		if !ok {
			return errorf("instruct contains 'hold' with wrong type")
		}
		if err := in.parseJSONHold(hold); err != nil {
			return err
		}
	}
	if v, ok := root["response"]; ok {
		response, ok := v.(map[string]any)
		if !ok {
			return errorf("instruct contains 'response' with wrong type")
		}
		return in.parseJSONResponse(response)
	}
	return nil
}

func decodeJSON(body []byte) (map[string]any, error) {
	notJSON := errorf("failed to parse application/grip-instruct content as JSON")
	if !utf8.Valid(body) {
		return nil, notJSON
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var root any
	if d.Decode(&root) != nil {
		return nil, notJSON
	}
	// d.More would take a stray closing bracket for the end.
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, notJSON
	}
	switch root := root.(type) {
	case map[string]any:
		return root, nil
	case []any:
		return nil, errorf("instruct must be an object")
	}
	return nil, notJSON
}

func (in *Instruct) parseJSONHold(hold map[string]any) error {
	in.Hold = frame.ModeResponse
	if v, ok := hold["mode"]; ok {
		mode, ok := v.(string)
		if !ok {
			return errorf("hold contains 'mode' with wrong type")
		}
		if in.Hold, ok = holdMode(mode); !ok {
			return errorf("hold 'mode' must be set to either 'response' or 'stream'")
		}
	}
	v, ok := hold["channels"]
	if !ok {
		return errorf("hold does not contain 'channels'")
	}
	channels, ok := v.([]any)
	if !ok {
		return errorf("hold contains 'channels' with wrong type")
	}
	for _, v := range channels {
		c, err := parseJSONChannel(v)
		if err != nil {
			return err
		}
		if err := in.addChannel(c); err != nil {
			return err
		}
	}
	if v, ok := hold["timeout"]; ok {
		timeout, err := parseTimeout(v, "hold")
		if err != nil {
			return err
		}
		in.Millis = millis(timeout, minTimeout)
	}
	if v, ok := hold["keep-alive"]; ok {
		if err := in.parseJSONKeepAlive(v); err != nil {
			return err
		}
	}
	if v, ok := hold["meta"]; ok {
		meta, ok := v.(map[string]any)
		if !ok {
			return errorf("hold contains 'meta' with wrong type")
		}
		for _, k := range slices.Sorted(maps.Keys(meta)) {
			s, ok := meta[k].(string)
			if !ok {
				return errorf("'meta' contains '", k, "' with wrong type")
			}
			in.setMeta(k, s, true)
		}
	}
	return nil
}

func parseJSONChannel(v any) (frame.Channel, error) {
	var c frame.Channel
	m, ok := v.(map[string]any)
	if !ok {
		return c, errorf("channel is not an object")
	}
	name, ok, err := stringOf(m, "channel", "name")
	if err != nil {
		return c, err
	}
	if !ok {
		return c, errorf("channel does not contain 'name'")
	}
	c.Name = name
	if c.PrevID, c.HasPrevID, err = stringOf(m, "channel", "prev-id"); err != nil {
		return c, err
	}
	if v, ok := m["filters"]; ok {
		list, ok := v.([]any)
		if !ok {
			return c, errorf("channel contains 'filters' with wrong type")
		}
		for _, v := range list {
			s, ok := v.(string)
			if !ok {
				return c, errorf("filters contains value with wrong type")
			}
			c.Filters = append(c.Filters, s)
		}
	}
	return c, nil
}

func (in *Instruct) parseJSONKeepAlive(v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errorf("hold contains 'keep-alive' with wrong type")
	}
	k := frame.KeepAlive{Millis: defaultKeepAliveTimeout * 1000}
	data, ok, err := stringOf(m, "keep-alive", "content-bin")
	if err != nil {
		return err
	}
	if ok {
		k.Data = DecodeBase64(data)
	} else {
		if data, _, err = stringOf(m, "keep-alive", "content"); err != nil {
			return err
		}
		k.Data = []byte(data)
	}
	if v, ok := m["timeout"]; ok {
		timeout, err := parseTimeout(v, "keep-alive")
		if err != nil {
			return err
		}
		k.Millis = millis(timeout, minKeepAliveTimeout)
	}
	// Pushpin has no mode here. Ours is optional, and the default is that of the
	// header form.
	mode, _, err := stringOf(m, "keep-alive", "mode")
	if err != nil {
		return err
	}
	switch mode {
	case "", "idle":
	case "interval":
		k.Interval = true
	default:
		return errorf("no such keep-alive mode '", mode, "'")
	}
	in.KeepAlive = k
	return nil
}

func (in *Instruct) parseJSONResponse(m map[string]any) error {
	if v, ok := m["code"]; ok {
		n, ok := intLike(v)
		if !ok {
			return errorf("response contains 'code' with wrong type")
		}
		if !validCode(n) {
			return errorf("response contains 'code' with invalid value")
		}
		in.Code, in.Reason = n, ""
	}
	reason, _, err := stringOf(m, "response", "reason")
	if err != nil {
		return err
	}
	if strings.ContainsAny(reason, "\r\n\x00") {
		return errorf("response contains 'reason' with invalid value")
	}
	if reason != "" {
		in.Reason = reason
	}
	if v, ok := m["headers"]; ok {
		if in.Header, err = parseJSONHeaders(v); err != nil {
			return err
		}
	}
	body, ok, err := stringOf(m, "response", "body-bin")
	if err != nil {
		return err
	}
	if ok {
		in.Body = DecodeBase64(body)
		return nil
	}
	body, _, err = stringOf(m, "response", "body")
	in.Body = []byte(body)
	return err
}

func parseJSONHeaders(v any) ([]frame.Field, error) {
	var h []frame.Field
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			s, ok := v[k].(string)
			if !ok {
				return nil, errorf("headers contains '", k, "' with wrong type")
			}
			h = append(h, frame.Field{Name: k, Value: s})
		}
	case []any:
		for _, v := range v {
			pair, ok := v.([]any)
			if !ok {
				return nil, errorf("headers contains element with wrong type")
			}
			if len(pair) != 2 {
				return nil, errorf("headers contains list with wrong number of elements")
			}
			name, ok := pair[0].(string)
			if !ok {
				return nil, errorf("header contains name element with wrong type")
			}
			value, ok := pair[1].(string)
			if !ok {
				return nil, errorf("header contains value element with wrong type")
			}
			h = append(h, frame.Field{Name: name, Value: value})
		}
	default:
		return nil, errorf("response contains 'headers' with wrong type")
	}
	for i := range h {
		h[i].Value = strings.Trim(h[i].Value, " \t")
		// A line break would let an origin's data write header fields of its own.
		if !validName(h[i].Name) || strings.ContainsAny(h[i].Value, "\r\n\x00") {
			return nil, errorf("headers contains '", h[i].Name, "' with invalid name or value")
		}
	}
	return h, nil
}

// validName reports whether s is a token as HTTP has it.
func validName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// stringOf returns a member of an object that must be a string if it is there.
func stringOf(m map[string]any, where, key string) (s string, ok bool, err error) {
	v, ok := m[key]
	if !ok {
		return "", false, nil
	}
	if s, ok = v.(string); !ok {
		return "", false, errorf(where, " contains '", key, "' with wrong type")
	}
	return s, true, nil
}

func parseTimeout(v any, where string) (int, error) {
	n, ok := intLike(v)
	if !ok {
		return 0, errorf(where, " contains 'timeout' with wrong type")
	}
	if n < 0 {
		return 0, errorf(where, " contains 'timeout' with invalid value")
	}
	return n, nil
}

// intLike converts what GRIP takes for an integer in JSON: numbers, rounded;
// strings, 0 if they hold no number; booleans.
func intLike(v any) (int, bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		if err != nil {
			f = math.Copysign(math.MaxInt32, f)
		}
		return int(max(math.MinInt32, min(math.MaxInt32, math.Round(f)))), true
	case string:
		n, ok := parseInt(v)
		if !ok {
			return 0, true
		}
		return n, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}
