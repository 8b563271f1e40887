package proxy

import "net/http"

// serveWebSocket answers a WebSocket handshake.
func (e *exch) serveWebSocket() error {
	o, err := e.prepare()
	if o != nil {
		err = e.fail(o, http.StatusNotImplemented, "WebSockets are not supported on this route.")
	}
	e.log.failed = err != nil
	e.s.logAccess(&e.log)
	return err
}
