// Package origin makes HTTP/1.1 requests to origins over connections that it
// keeps and reuses.
//
// It differs from net/http's Transport in what a GRIP gateway needs: header
// fields and reason phrases go through as they are, an error says whether the
// next target may be tried, and a target that is not trusted is connected to by
// public address only. And it is cheaper, because a request without a long body
// takes place in the goroutine that asks for it:
//
//	caller ── Do ──► get a connection ─► write head and body ─► read head ──► Response
//	                                      │
//	                                      └ one goroutine, only while a body
//	                                        that was not at hand as a whole is
//	                                        sent; ends with the Response
//
// An idle connection has no goroutine and no buffers. Whether the origin has
// closed it, or said something that nobody asked for, is looked at when it is
// taken for a request.
//
// # Sending a request twice
//
// A request that fails on a reused connection before a response came is sent
// once more on a new connection, if that cannot do it twice: its method is
// idempotent, or nothing of it was sent at all (RFC 9110, section 9.2.2, forbids
// the rest to a gateway). A body that is not at hand as a whole cannot be sent
// again; such a request always gets a new connection.
package origin
