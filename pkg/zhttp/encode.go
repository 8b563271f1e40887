package zhttp

import (
	"bytes"
	"encoding/json"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// Response is a packet to a client.
type Response struct {
	From      string // the instance; "" on the REQ interface
	ID        ID     // left out if its id is ""
	Type      string
	Condition string // of an error
	Head      *Head  // of the first data packet, and of the error rejected
	Body      []byte // written with data, close and the error rejected
	More      bool
	Code      int   // of close, if it is positive
	Credits   int64 // left out if 0
	Binary    bool
	UserData  any
	Multi     bool
}

// Head is the beginning of a response.
type Head struct {
	Code   int
	Reason string
	Header []frame.Field
}

// Append appends the packet to dst.
func (r *Response) Append(dst []byte, f Format) []byte {
	d := make(map[string]any, 12)
	text := func(key, value string) {
		if value != "" {
			d[key] = value
		}
	}
	text("from", r.From)
	if text("id", r.ID.ID); r.ID.ID != "" && r.ID.Seq != Absent {
		d["seq"] = r.ID.Seq
	}
	text("type", r.Type)
	text("condition", r.Condition)
	if r.Head != nil {
		d["code"], d["reason"] = r.Head.Code, r.Head.Reason
		list := make([]any, len(r.Head.Header))
		for i, h := range r.Head.Header {
			list[i] = []string{h.Name, h.Value}
		}
		d["headers"] = list
	}
	if r.Type == Data || r.Type == Error && r.Head != nil || len(r.Body) > 0 {
		d["body"] = string(r.Body)
	}
	if r.More {
		d["more"] = true
	}
	if r.Code > 0 {
		d["code"] = r.Code
	}
	if r.Credits != 0 {
		d["credits"] = r.Credits
	}
	if r.Binary {
		d["content-type"] = "binary"
	}
	if r.UserData != nil {
		d["user-data"] = r.UserData
	}
	if r.Multi {
		d["ext"] = map[string]any{"multi": true}
	}
	dst = append(dst, byte(f))
	if f != JSON {
		return tnet.Append(dst, d)
	}
	buf := bytes.NewBuffer(dst)
	e := json.NewEncoder(buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(d) // there is nothing in it that JSON does not have
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}
