package proxy

import (
	"net/http"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/sockjs"
)

// sockJS deals with what is under the SockJS prefix of a route. All of it is
// connmgr's to answer, but for WebSockets: those that connmgr makes for the
// sessions, and those of clients that want no frames. They go to a path of their
// own. It reports whether connmgr has been told to answer.
func (e *exch) sockJS(o *outgoing) (handled bool, err error) {
	prefix, r := o.rule.SockJS, e.req
	if prefix == "" || !strings.HasPrefix(o.path, prefix) {
		return false, nil
	}
	path := prefix
	switch {
	case r.SockJS == frame.SockJSPolling:
	case r.SockJS == frame.SockJSFramed,
		r.Upgrade && sockjs.Parse(r.Method, o.path[len(prefix):], true).Kind == sockjs.RawSocket:
		path += "/websocket"
	default:
		return true, e.begin(&frame.Response{ID: e.x.ID, Code: http.StatusOK, SockJS: prefix, SockJSURL: e.s.opts.SockJSURL, Route: o.rule.ID})
	}
	if o.rule.SockJSAsPath != "" {
		path = o.rule.SockJSAsPath
	}
	if i := strings.IndexByte(o.path, '?'); i >= 0 {
		path += o.path[i:]
	}
	o.path = path
	return false, nil
}
