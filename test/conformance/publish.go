package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Control sends a raw request to the control API and reads the answer.
func (t *T) Control(raw string) *Response {
	c := t.dial(t.Proxy.Control)
	c.Send(raw)
	method, _, _ := strings.Cut(raw, " ")
	if method == "HEAD" {
		method = "GET"
	}
	return c.Read(method)
}

// PostControl posts to the control API.
func (t *T) PostControl(path, content string, header ...string) *Response {
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: control\r\n", path)
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(content), content)
	return t.Control(b.String())
}

// Publish publishes items, each a JSON text, through the control API.
func (t *T) Publish(items ...string) {
	r := t.PostControl("/publish/", `{"items":[`+strings.Join(items, ",")+`]}`)
	if r.Line != "HTTP/1.1 200 OK" || r.Body != "Published\n" {
		t.Fatalf("publishing was answered %q %q", r.Line, r.Body)
	}
}

// item is a JSON item: a channel, its formats, and further members.
func item(channel, formats string, more ...string) string {
	return fmt.Sprintf(`{"channel":%s,"formats":{%s}%s}`, quote(channel), formats, strings.Join(append([]string{""}, more...), ","))
}

// streamItem is an item for streams.
func streamItem(channel, content string, more ...string) string {
	return item(channel, `"http-stream":{"content":`+quote(content)+`}`, more...)
}

// closeItem ends the streams of a channel.
func closeItem(channel string) string { return item(channel, `"http-stream":{"action":"close"}`) }

// responseItem is an item for long-polls.
func responseItem(channel, content string, more ...string) string {
	return item(channel, `"http-response":{"body":`+quote(content)+`}`, more...)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always marshals
	}
	return string(b)
}

// ids are the members id and prev-id of an item; "" leaves one out.
func ids(id, prev string) string {
	var out []string
	if id != "" {
		out = append(out, `"id":`+quote(id))
	}
	if prev != "" {
		out = append(out, `"prev-id":`+quote(prev))
	}
	return strings.Join(out, ",")
}
