package connmgr

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
)

// The answers to a response hold, as they go to the client.

// timedOut is the answer when the time is over: the response of the hold.
func (h *hold) timedOut() []byte {
	return h.answerBytes(answer{code: int(h.answer.Code), reason: h.answer.Reason, header: h.answer.Header, body: h.answer.Body})
}

// published is the answer that a publication makes: the hold's header without
// what the publication has too, then the publication's. Nothing else is
// inherited.
func (h *hold) published(f *frame.Deliver) []byte {
	header := make([]frame.Field, 0, len(h.answer.Header)+len(f.Header))
	for _, field := range h.answer.Header {
		if !http1.Has(f.Header, field.Name) {
			header = append(header, field)
		}
	}
	for _, field := range f.Header {
		if !strings.HasPrefix(strings.ToLower(field.Name), "grip-") {
			header = append(header, field)
		}
	}
	if len(f.Expose) > 0 {
		header = slices.DeleteFunc(header, func(field frame.Field) bool {
			return !slices.ContainsFunc(f.Expose, func(name string) bool { return strings.EqualFold(name, field.Name) })
		})
	}
	return h.answerBytes(answer{code: codeOr200(f.Code), reason: f.Reason, header: header, body: f.Body})
}

// finished is the answer that the handler gives. Without a status it is that of
// the hold.
func (h *hold) finished(f *frame.Finish) []byte {
	if f.Code == 0 {
		return h.timedOut()
	}
	return h.answerBytes(answer{code: int(f.Code), reason: f.Reason, header: f.Header, body: f.Body})
}

// failed is the answer when none can be had any more.
func (h *hold) failed() []byte {
	return h.answerBytes(answer{
		code: 502, header: []frame.Field{{Name: "Content-Type", Value: "text/plain"}},
		body: []byte("Error while proxying to origin.\n"),
	})
}

func codeOr200(code uint16) int {
	if code == 0 {
		return 200
	}
	return int(code)
}

func (h *hold) answerBytes(a answer) []byte {
	if h.answer.JSONP != "" {
		a = jsonp(h.answer.JSONP, h.answer.JSONPMode, a)
	}
	a.close = h.closes()
	return h.c.appendAnswer(nil, a)
}

// JSON-P mode, as in frame.Hold.
const (
	jsonpBasic = 2 // anything else is extended
)

// jsonp wraps a response in a call of the client's callback.
func jsonp(callback string, mode uint8, a answer) answer {
	kept := http1.Del(append([]frame.Field(nil), a.header...), "Content-Type", "Content-Length")
	out := answer{code: 200, header: append(kept, frame.Field{Name: "Content-Type", Value: "application/javascript"})}
	var b bytes.Buffer
	b.WriteString("/**/" + callback + "(")
	if mode == jsonpBasic {
		body := a.body
		if n := len(body); n > 0 && body[n-1] == '\n' {
			if body = body[:n-1]; n > 1 && body[n-2] == '\r' {
				body = body[:n-2]
			}
		}
		b.Write(body)
	} else {
		headers := make(map[string]string, len(a.header))
		for _, f := range a.header {
			if have, ok := headers[f.Name]; ok {
				headers[f.Name] = have + ", " + f.Value
			} else {
				headers[f.Name] = f.Value
			}
		}
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		// Fields in the order of their names, as clients of Pushpin know them. The
		// encoder has no error for strings and numbers.
		_ = enc.Encode(struct {
			Body    string            `json:"body"`
			Code    int               `json:"code"`
			Headers map[string]string `json:"headers"`
			Reason  string            `json:"reason"`
		}{string(a.body), a.code, headers, reasonOr(a.reason, a.code)})
		b.Truncate(b.Len() - 1) // the encoder's line end
	}
	b.WriteString(");\n")
	out.body = b.Bytes()
	return out
}
