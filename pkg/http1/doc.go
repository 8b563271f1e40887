// Package http1 reads and writes HTTP/1.x messages for both ends of a gateway:
// requests from clients, which must be framed beyond doubt, and responses from
// origins, which are relayed as long as their framing is.
//
// Unlike net/http it keeps what GRIP clients and origins can see: the case,
// order and repetition of header fields and the reason phrase. It owns no
// connection, starts no goroutine and keeps no buffer; it works on the
// bufio.Reader of whoever owns the connection, and that buffer may be smaller
// than the heads read through it.
//
// # Framing
//
// What decides where a message ends (RFC 9112, section 6) has one meaning here
// or none:
//
//	                                  request          response
//	Transfer-Encoding: chunked        chunked          chunked
//	  and Content-Length              400              chunked, length removed, not reused
//	  in HTTP/1.0                     400              chunked, not reused
//	  other coding before chunked     501              error
//	  anything else                   400              error ("identity" is ignored)
//	Content-Length, the same again    kept once        kept once
//	Content-Length, differing         400              error
//	Content-Length, not 1*DIGIT       400              error
//	neither                           no body          until the connection closes
//	bare CR, NUL in a field           400              error
//	line folding                      400              joined with a space
//	space before the colon            400              removed
//	bare LF as line end, in a head    accepted         accepted
//	bare LF in a chunk or trailer     400              error
//
// A bare LF ends a line of a head because clients typed by hand and Pushpin's
// users rely on it; it cannot hide a field from anybody behind us, since heads
// are always written anew with CRLF.
package http1
