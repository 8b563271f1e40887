// Package proxy is the process that talks GRIP to origins: it chooses the route
// of a client's request, asks the origin, relays the answer, and hands the
// exchange to a handler if the answer says so.
//
//	connmgr ──Request, Body──►┐                        ┌──► origins (package origin,
//	        ◄─Response, Body──┤  one goroutine for     │    in the same goroutine)
//	handler ◄─────Accept──────┤  each exchange ────────┘
//	        ──────Accepted───►│
//	        ──────Fetch──────►┤  one goroutine for each request on behalf of holds
//	        ◄─────Fetched─────┘
//
// A WebSocket-over-HTTP session has a goroutine until its origin has accepted it,
// and afterwards only while it has something to do, beside one for the request
// that is under way.
//
// The bus calls the Server from one goroutine, which starts the others and hands
// them what arrives; a further one watches the routes file. All end before Run
// returns.
//
// Body bytes are streamed both ways by credits. Only a response that GRIP gives a
// meaning is gathered first, up to 100,000 bytes of it. The proxy keeps nothing
// that outlives an exchange: if it dies, connmgr sends requests again that may
// be, and holds are the handler's and connmgr's.
package proxy
