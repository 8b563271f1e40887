package grip

import (
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// Limits and defaults of instructs. Times are in seconds.
const (
	MaxFilters              = 5 // per channel
	defaultTimeout          = 55
	minTimeout              = 5
	defaultKeepAliveTimeout = 55
	minKeepAliveTimeout     = 1
	defaultNextTimeout      = 120
)

// Features is the value of Grip-Feature: what origins may rely on.
const Features = "status, link:next, link:gone, filter:skip-self, filter:skip-users, filter:require-sub, " +
	"filter:build-id, filter:var-subst, filter:http-check, filter:http-modify"

// Instruct is what a response tells a GRIP proxy to do.
type Instruct struct {
	Hold      frame.Mode // ModeNone, ModeResponse or ModeStream
	Millis    uint32     // for how long a response is held
	KeepAlive frame.KeepAlive
	Channels  []frame.Channel // as named by the origin
	Meta      []frame.Field   // distinct names
	Next      frame.Link      // URI is absolute; "" if none
	Gone      string          // absolute; "" if none
	Expose    []string        // header fields that the client may see; empty for all

	// The response to send at once, or when the time is over. Reason "" stands
	// for the usual one of the code. Header has no Grip-* fields and has been
	// reduced to Expose, but fields of the connection are still there.
	Code   int
	Reason string
	Header []frame.Field
	Body   []byte
}

// Parse reads the instruct of a response. Links are resolved against base, an
// absolute URI. h is not changed; body becomes part of the result.
func Parse(code int, reason string, h []frame.Field, body []byte, base string) (*Instruct, error) {
	in := &Instruct{Code: code, Reason: reason, Body: body}
	if err := in.parse(code, h, body, base); err != nil {
		return nil, err
	}
	if len(in.Header) > frame.MaxGiven {
		return nil, errorf("too many headers")
	}
	if len(in.Meta) > frame.MaxGiven {
		return nil, errorf("too many meta variables")
	}
	return in, nil
}

func (in *Instruct) parse(code int, h []frame.Field, body []byte, base string) error {
	if err := in.parseHeader(h, base); err != nil {
		return err
	}
	// The media type is trimmed here although IsJSON does not trim it, as in
	// Pushpin: with "application/grip-instruct ;" it takes another Grip-* field
	// to make the response GRIP at all.
	contentType, _ := get(h, "Content-Type")
	mediaType, _, _ := strings.Cut(contentType, ";")
	if strings.TrimSpace(mediaType) == "application/grip-instruct" {
		if code != 200 {
			return errorf("response code for application/grip-instruct content must be 200")
		}
		if err := in.parseJSON(body); err != nil {
			return err
		}
		in.Header = Strip(in.Header)
		return nil
	}
	in.Header = Expose(Strip(slices.Clone(h)), in.Expose)
	return nil
}

// MayStream reports whether a GRIP response with this header may have a body of
// any size. If not, its body is needed whole, and there is a limit to that.
func MayStream(h []frame.Field) bool {
	if IsJSON(h) {
		return false
	}
	for _, s := range List(h, "Grip-Channel") {
		if _, params, ok := ParseElement(s); ok && slices.Contains(filters(params), "build-id") {
			return false
		}
	}
	if hold, ok := get(h, "Grip-Hold"); ok {
		return hold == "stream"
	}
	for _, s := range List(h, "Grip-Link") {
		if _, params, ok := ParseElement(s); ok {
			if rel, _ := params.Get("rel"); rel.Value == "next" {
				return true
			}
		}
	}
	return false
}

// Status returns what Grip-Status makes of a response's code and reason.
func Status(h []frame.Field, code int, reason string) (int, string, error) {
	v, _ := get(h, "Grip-Status")
	if v == "" {
		return code, reason, nil
	}
	number, reason, _ := strings.Cut(v, " ")
	n, ok := parseInt(number)
	if !ok || !validCode(n) {
		return 0, "", errorf("Grip-Status contains invalid status code")
	}
	return n, strings.TrimSpace(reason), nil
}

// validCode is stricter than GRIP, which has 0 to 999: a status line with fewer
// than three digits is not HTTP, and 1xx does not end a request.
func validCode(n int) bool { return n >= 200 && n <= 999 }

func (in *Instruct) parseHeader(h []frame.Field, base string) error {
	if hold, ok := get(h, "Grip-Hold"); ok {
		if in.Hold, ok = holdMode(hold); !ok {
			return errorf("Grip-Hold must be set to either 'response' or 'stream'")
		}
	}
	if err := in.parseChannels(h); err != nil {
		return err
	}
	timeout := defaultTimeout
	if v, ok := get(h, "Grip-Timeout"); ok {
		if timeout, ok = parseInt(v); !ok {
			return errorf("failed to parse Grip-Timeout")
		}
		if timeout < 0 {
			return errorf("Grip-Timeout has invalid value")
		}
	}
	in.Millis = millis(timeout, minTimeout)
	if err := in.parseKeepAlive(h); err != nil {
		return err
	}
	if err := in.parseMeta(h); err != nil {
		return err
	}
	var err error
	if in.Code, in.Reason, err = Status(h, in.Code, in.Reason); err != nil {
		return err
	}
	in.Expose = List(h, "Grip-Expose-Headers")
	return in.parseLinks(h, base)
}

func holdMode(s string) (frame.Mode, bool) {
	switch s {
	case "response":
		return frame.ModeResponse, true
	case "stream":
		return frame.ModeStream, true
	}
	return frame.ModeNone, false
}

// millis converts seconds, which are not negative, to what the frames have.
func millis(seconds, lowest int) uint32 {
	const highest = (1<<32 - 1) / 1000
	return uint32(min(max(seconds, lowest), highest)) * 1000
}

func (in *Instruct) parseChannels(h []frame.Field) error {
	for _, s := range List(h, "Grip-Channel") {
		name, params, ok := ParseElement(s)
		if !ok {
			continue
		}
		prev, _ := params.Get("prev-id")
		c := frame.Channel{Name: name, PrevID: prev.Value, HasPrevID: prev.HasValue, Filters: filters(params)}
		if err := in.addChannel(c); err != nil {
			return err
		}
	}
	return nil
}

func filters(params Params) []string {
	var all []string
	for _, p := range params {
		if p.Name == "filter" {
			all = append(all, p.Value)
		}
	}
	return all
}

// addChannel appends a channel. Of channels with the same name the last counts.
func (in *Instruct) addChannel(c frame.Channel) error {
	if len(c.Filters) > MaxFilters {
		return errorf("too many filters for channel '", c.Name, "'")
	}
	for i := range in.Channels {
		if in.Channels[i].Name == c.Name {
			in.Channels[i] = c
			return nil
		}
	}
	in.Channels = append(in.Channels, c)
	return nil
}

func (in *Instruct) parseKeepAlive(h []frame.Field) error {
	v, _ := get(h, "Grip-Keep-Alive")
	if v == "" {
		return nil
	}
	text, params, ok := ParseElement(v)
	if !ok {
		return nil
	}
	if text == "" {
		return errorf("Grip-Keep-Alive cannot be empty")
	}
	switch mode, _ := params.Get("mode"); mode.Value {
	case "", "idle":
	case "interval":
		in.KeepAlive.Interval = true
	default:
		return errorf("no such Grip-Keep-Alive mode '", mode.Value, "'")
	}
	timeout := defaultKeepAliveTimeout
	if p, ok := params.Get("timeout"); ok {
		if timeout, ok = parseInt(p.Value); !ok {
			return errorf("failed to parse Grip-Keep-Alive timeout value")
		}
		if timeout < 0 {
			return errorf("Grip-Keep-Alive timeout has invalid value")
		}
	}
	in.KeepAlive.Millis = millis(timeout, minKeepAliveTimeout)
	switch format, _ := params.Get("format"); format.Value {
	case "", "raw":
		in.KeepAlive.Data = []byte(text)
	case "cstring":
		if in.KeepAlive.Data, ok = parseCString(text); !ok {
			return errorf("failed to parse Grip-Keep-Alive cstring format")
		}
	case "base64":
		in.KeepAlive.Data = DecodeBase64(text)
	default:
		return errorf("no such Grip-Keep-Alive format '", format.Value, "'")
	}
	return nil
}

func (in *Instruct) parseMeta(h []frame.Field) error {
	for _, s := range List(h, "Grip-Set-Meta") {
		params, ok := ParseParams(s)
		if !ok {
			continue
		}
		if len(params) == 0 || params[0].Name == "" {
			return errorf("Grip-Set-Meta cannot be empty")
		}
		// A name without a value is as good as none: whatever reads meta treats
		// both alike.
		in.setMeta(params[0].Name, params[0].Value, params[0].HasValue)
	}
	return nil
}

func (in *Instruct) setMeta(name, value string, has bool) {
	i := slices.IndexFunc(in.Meta, func(f frame.Field) bool { return f.Name == name })
	switch {
	case i >= 0 && has:
		in.Meta[i].Value = value
	case i >= 0:
		in.Meta = slices.Delete(in.Meta, i, i+1)
	case has:
		in.Meta = append(in.Meta, frame.Field{Name: name, Value: value})
	}
}

func (in *Instruct) parseLinks(h []frame.Field, base string) error {
	for _, s := range List(h, "Grip-Link") {
		ref, params, ok := ParseElement(s)
		if !ok || len(params) == 0 {
			continue
		}
		if len(ref) < 3 || ref[0] != '<' || ref[len(ref)-1] != '>' {
			return errorf("failed to parse Grip-Link value")
		}
		uri, ok := resolve(base, ref[1:len(ref)-1])
		if !ok {
			return errorf("Grip-Link contains invalid link")
		}
		switch rel, _ := params.Get("rel"); rel.Value {
		case "next":
			timeout := defaultNextTimeout
			if p, ok := params.Get("timeout"); ok {
				if timeout, ok = parseInt(p.Value); !ok {
					return errorf("failed to parse Grip-Link timeout value")
				}
				if timeout < 0 {
					return errorf("Grip-Link timeout has invalid value")
				}
			}
			in.Next = frame.Link{URI: uri, Millis: millis(timeout, 0)}
		case "gone":
			in.Gone = uri
		}
	}
	return nil
}

// resolve returns ref as an absolute URI without fragment.
func resolve(base, ref string) (string, bool) {
	u, err := url.Parse(ref)
	if err != nil {
		return "", false
	}
	if !u.IsAbs() {
		b, err := url.Parse(base)
		if err != nil || !b.IsAbs() {
			return "", false
		}
		u = b.ResolveReference(u)
	}
	if u.Host == "" {
		return "", false
	}
	u.Fragment, u.RawFragment = "", ""
	return u.String(), true
}
