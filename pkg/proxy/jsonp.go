package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// jsonp is what a script element asked for: its response is a call of callback.
type jsonp struct {
	callback string
	basic    bool // the argument is the body itself, not an object about the response
}

// mode returns the number that frame.Accept has for it.
func (j *jsonp) mode() uint8 {
	if j.basic {
		return 2
	}
	return 1
}

// paramError is a parameter that JSON-P cannot use.
type paramError string

func (p paramError) Error() string { return "Invalid " + string(p) + " parameter." }

// query is a query string whose parameters can be taken out.
type query []string

func (q *query) take(name string) (raw string, ok bool) {
	*q = slices.DeleteFunc(*q, func(pair string) bool {
		n, v, _ := strings.Cut(pair, "=")
		if n, err := url.PathUnescape(n); err != nil || n != name {
			return false
		}
		if !ok {
			raw, ok = v, true
		}
		return true
	})
	return raw, ok
}

func (q query) has(name string) bool {
	q = slices.Clone(q)
	_, ok := q.take(name)
	return ok
}

// startJSONP turns a request of a script element into the one that it stands
// for. It returns the request unchanged, and nil, if it is none.
func startJSONP(r *frame.Request, u *rule) (*frame.Request, *jsonp, error) {
	if !u.cors || r.Method != http.MethodGet || r.BodyLen != 0 || r.Upgrade {
		return r, nil, nil
	}
	opts := u.JSONP
	path, rawQuery, _ := strings.Cut(r.URI, "?")
	var q query
	if rawQuery != "" {
		q = strings.Split(rawQuery, "&")
	}
	byDefault := opts.DefaultCall != "" && opts.Body != "" && q.has(opts.Body)
	if !q.has(opts.Callback) && !byDefault {
		return r, nil, nil
	}
	j := &jsonp{callback: opts.DefaultCall, basic: opts.Basic}
	asked := *r
	asked.Method = opts.DefaultMethod
	if raw, ok := q.take(opts.Callback); ok {
		if j.callback, ok = unescape(raw); !ok || !isCallback(j.callback) {
			return r, nil, paramError("callback")
		}
	}
	if raw, ok := q.take("_method"); ok {
		if asked.Method, ok = unescape(raw); !ok || !http1.ValidToken(asked.Method) || asked.Method == http.MethodConnect {
			return r, nil, paramError("_method")
		}
	}
	var h []frame.Field
	if raw, ok := q.take("_headers"); ok {
		if h, ok = jsonpHeader(raw); !ok {
			return r, nil, paramError("_headers")
		}
	}
	name, label := "_body", "_body"
	if opts.Body != "" {
		name, label = opts.Body, "body"
	}
	if raw, ok := q.take(name); ok {
		body, ok := unescape(raw)
		if !ok || body == "" {
			return r, nil, paramError(label)
		}
		asked.Body, asked.BodyLen = []byte(body), int64(len(body))
		if opts.Body != "" {
			h = append(http1.Del(h, "Content-Type"), frame.Field{Name: "Content-Type", Value: "application/json"})
		}
	}
	h = append(h, frame.Field{Name: "Host", Value: hostOf(r)}, frame.Field{Name: "Accept", Value: "*/*"})
	for _, f := range r.Header {
		// The response is read to be wrapped, so it must not be encoded.
		if !http1.Has(h, f.Name) && !strings.EqualFold(f.Name, "Accept-Encoding") && !strings.EqualFold(f.Name, "Content-Length") {
			h = append(h, f)
		}
	}
	asked.Header = h
	asked.URI = path
	if len(q) > 0 {
		asked.URI += "?" + strings.Join(q, "&")
	}
	return &asked, j, nil
}

func hostOf(r *frame.Request) string {
	if r.Host == "" {
		return "localhost"
	}
	return r.Host
}

// unescape undoes percent-encoding; "+" stands for itself.
func unescape(s string) (string, bool) {
	s, err := url.PathUnescape(s)
	return s, err == nil
}

// isCallback reports whether s can only name a function. The response is a
// script that runs with the rights of our host.
func isCallback(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("_$.[]", c) < 0 {
			return false
		}
	}
	return s != ""
}

func jsonpHeader(raw string) ([]frame.Field, bool) {
	text, ok := unescape(raw)
	var m map[string]string
	if !ok || json.Unmarshal([]byte(text), &m) != nil || m == nil {
		return nil, false
	}
	var h []frame.Field
	for _, name := range slices.Sorted(maps.Keys(m)) {
		f := frame.Field{Name: name, Value: m[name]}
		if !http1.ValidField(f) {
			return nil, false
		}
		if !strings.EqualFold(name, "Host") && !strings.EqualFold(name, "Accept") && !strings.EqualFold(name, "Content-Length") {
			h = append(h, f)
		}
	}
	return h, true
}

// errNotText says that a body cannot be put into a string.
var errNotText = errors.New("Upstream response could not be JSON-P encoded.") //nolint:staticcheck,revive // it is what the client sees

// wrappedHeader returns the header of a wrapped response.
func wrappedHeader(h []frame.Field) []frame.Field {
	out := []frame.Field{{Name: "Content-Type", Value: "application/javascript"}}
	for _, f := range h {
		if strings.EqualFold(f.Name, "Cache-Control") {
			out = append(out, f)
		}
	}
	return out
}

// wrap returns a body that calls back with a response.
func (j *jsonp) wrap(code int, reason string, h []frame.Field, body responseBody) *wrappedBody {
	w := &wrappedBody{src: body, basic: j.basic}
	w.out.WriteString("/**/" + j.callback + "(")
	if j.basic {
		return w
	}
	first := map[string]string{}
	for _, f := range h {
		if _, ok := first[f.Name]; !ok {
			first[f.Name] = f.Value
		}
	}
	w.out.WriteString(`{"code": ` + strconv.Itoa(code) + `, "reason": `)
	w.quote(reason)
	w.out.WriteString(`, "headers": {`)
	for i, name := range slices.Sorted(maps.Keys(first)) {
		if i > 0 {
			w.out.WriteByte(',')
		}
		w.quote(name)
		w.out.WriteByte(':')
		w.quote(first[name])
	}
	w.out.WriteString(`}, "body": "`)
	return w
}

// wrapWhole wraps a body that is at hand.
func (j *jsonp) wrapWhole(code int, reason string, h []frame.Field, body []byte) ([]byte, error) {
	return io.ReadAll(j.wrap(code, reason, h, memoryBody{bytes.NewReader(body)}))
}

// wrappedBody wraps a body as it is read.
type wrappedBody struct {
	src   responseBody
	basic bool
	out   bytes.Buffer
	held  []byte // the end of what was read: part of a character, or a line end
	err   error  // sticky; io.EOF when everything is in out
}

// fill reads the first part, so that a body which cannot be wrapped at all is
// seen before the head is sent.
func (w *wrappedBody) fill() error {
	buf := buffers.Get().(*[frame.MaxBodyPart]byte)
	defer buffers.Put(buf)
	n, err := w.src.Read(buf[:])
	w.add(buf[:n])
	if errors.Is(err, io.EOF) && w.err == nil {
		w.end()
		err = io.EOF
	}
	if w.err == nil {
		w.err = err
	}
	if errors.Is(w.err, io.EOF) {
		return nil
	}
	return w.err
}

func (w *wrappedBody) add(p []byte) {
	p = append(w.held, p...)
	var keep int
	if w.basic {
		keep = lineEnd(p)
		w.out.Write(p[:len(p)-keep])
	} else {
		if keep = cutCharacter(p); !utf8.Valid(p[:len(p)-keep]) {
			w.err = errNotText
			return
		}
		w.escape(p[:len(p)-keep])
	}
	w.held = slices.Clone(p[len(p)-keep:])
}

func (w *wrappedBody) end() {
	switch {
	case !w.basic && len(w.held) > 0:
		w.err = errNotText
		return
	case !w.basic:
		w.out.WriteString(`"}`)
	case string(w.held) == "\r": // no line end after all
		w.out.WriteByte('\r')
	}
	w.out.WriteString(");\n")
	w.err = io.EOF
}

// lineEnd returns the length of what may be the last line end of a body.
func lineEnd(p []byte) int {
	switch {
	case bytes.HasSuffix(p, []byte("\r\n")):
		return 2
	case bytes.HasSuffix(p, []byte("\n")), bytes.HasSuffix(p, []byte("\r")):
		return 1
	}
	return 0
}

// cutCharacter returns the length of an incomplete character at the end.
func cutCharacter(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if tail := p[len(p)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

func (w *wrappedBody) quote(s string) {
	w.out.WriteByte('"')
	w.escape([]byte(strings.ToValidUTF8(s, "\uFFFD")))
	w.out.WriteByte('"')
}

// escape writes the inside of a JSON string.
func (w *wrappedBody) escape(p []byte) {
	const hex = "0123456789abcdef"
	for _, c := range p {
		switch c {
		case '"', '\\':
			w.out.WriteByte('\\')
			w.out.WriteByte(c)
		case '\b':
			w.out.WriteString(`\b`)
		case '\f':
			w.out.WriteString(`\f`)
		case '\n':
			w.out.WriteString(`\n`)
		case '\r':
			w.out.WriteString(`\r`)
		case '\t':
			w.out.WriteString(`\t`)
		default:
			if c < ' ' {
				w.out.WriteString(`\u00`)
				w.out.WriteByte(hex[c>>4])
				w.out.WriteByte(hex[c&15])
				continue
			}
			w.out.WriteByte(c)
		}
	}
}

// Read implements io.Reader.
func (w *wrappedBody) Read(p []byte) (int, error) {
	for w.out.Len() == 0 {
		if w.err != nil {
			return 0, w.err
		}
		_ = w.fill() // it is in w.err
	}
	n, _ := w.out.Read(p)
	return n, nil
}

// Close implements io.Closer.
func (w *wrappedBody) Close() error { return w.src.Close() }

// Trailer implements responseBody; a script has no use for trailers.
func (w *wrappedBody) Trailer() []frame.Field { return nil }

// Buffered implements responseBody.
func (w *wrappedBody) Buffered() int { return w.out.Len() }
