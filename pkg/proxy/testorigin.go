package proxy

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
)

// maxTestRequest is the largest request body that the test origin takes.
const maxTestRequest = 100_000

// answerTest is the target "test". It lets a first run show something without
// any backend.
func answerTest(o *outgoing, bodySize int64) *response {
	if bodySize > maxTestRequest {
		return testResponse(http.StatusBadRequest, "", nil, "request too large\n")
	}
	path, query, _ := strings.Cut(testPath(o), "?")
	switch path {
	case "/":
		return testResponse(http.StatusOK, "", nil, "Hello from the Holdfast test handler!\n")
	case "/response":
		return testResponse(http.StatusOK, "response", testChannels(query), "nothing for now\n")
	case "/stream":
		return testResponse(http.StatusOK, "stream", testChannels(query), "[stream opened]\n")
	}
	return testResponse(http.StatusNotFound, "", nil, "no such test resource\n")
}

// testPath returns the path and query that the test origin looks at: without
// the route's path_beg and without a slash at the path's end.
func testPath(o *outgoing) string {
	path, query, hasQuery := strings.Cut(o.path, "?")
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(o.rule.PathBeg, "/")); ok {
		path = rest
	}
	path = "/" + strings.TrimPrefix(path, "/")
	if path != "/" {
		path = strings.TrimSuffix(path, "/")
	}
	if hasQuery {
		path += "?" + query
	}
	return path
}

// testChannels returns the channels that a query names.
func testChannels(query string) []string {
	values, _ := url.ParseQuery(query) // what can be read of it
	var channels []string
	for _, c := range values["channel"] {
		if !slices.Contains(channels, c) && !strings.ContainsAny(c, "\r\n\x00") {
			channels = append(channels, c)
		}
	}
	if channels == nil {
		channels = []string{"test"}
	}
	return channels
}

func testResponse(code int, hold string, channels []string, body string) *response {
	h := []frame.Field{{Name: "Content-Type", Value: "text/plain"}, {Name: "Content-Length", Value: strconv.Itoa(len(body))}}
	if hold != "" {
		h = append(h, frame.Field{Name: "Grip-Hold", Value: hold}, frame.Field{Name: "Grip-Channel", Value: strings.Join(channels, ", ")})
	}
	return &response{code: code, header: h, length: int64(len(body)), body: memoryBody{bytes.NewReader([]byte(body))}}
}

// memoryBody is a response body that is at hand.
type memoryBody struct{ *bytes.Reader }

func (memoryBody) Close() error           { return nil }
func (memoryBody) Trailer() []frame.Field { return nil }
func (b memoryBody) Buffered() int        { return b.Len() }

var _ io.ReadCloser = memoryBody{}
