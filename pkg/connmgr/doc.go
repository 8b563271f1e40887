// Package connmgr is the process that owns the connections of clients. It
// terminates HTTP/1.x, brings each request to a proxy and the answer back, holds
// connections for a handler, and writes publications to them.
//
// # Goroutines
//
//	listener (each)        accept
//	connection (each)      serve: reads requests, relays, blocks on its client only.
//	                       None while it is held; a WebSocket has one while something
//	                       of its client is read
//	  upload               while a request body is read that did not arrive with its head
//	  watcher              while an exchange takes longer than 100 ms
//	writer (GOMAXPROCS)    owns held connections: groups, backlogs, timers, writes
//	  waitRoom             for each held client whose socket is full
//	bus (one)              Receive, PeerUp, PeerDown: looks up, hands over, never waits
//	housekeeping (one)     what the bus did not take, gaps
//	poller (one)           tells writers of clients that leave, and starts a goroutine
//	                       for each WebSocket that can be read from. Where there is
//	                       none, held connections have a goroutine (conn.watch)
//
// A held connection belongs to one writer from the moment its Hold frame was
// received. The bus's goroutine hands holds and publications to writers in the
// order in which they came, so a publication reaches every hold before it.
//
// # Fan-out
//
// A publication is encoded once and handed to each writer that has members of
// its group. The writer makes one non-blocking write for each member, and one for
// several publications if they have piled up. What a socket does not take waits
// in the backlog of that connection, which is bounded; see frame.Policy for what
// happens then. Nothing is allocated for a member that keeps up.
//
// Every publication is accounted for, to each member: delivered when its last
// byte was written to the socket, or dropped, with a reason. There may be several
// outcomes for one publication (one from each writer, and later ones for what
// waited in a backlog); they are to be added up.
//
// # What handlers can rely on
//
// Groups count from the moment a Hold arrives, even if it overtook frames of the
// proxy. The answers to a response hold, the timeout response included, are
// wrapped here if Hold.JSONP is set. The window for body frames is
// frame.InitialWindow from the Hold on; connmgr sends credits for what the client
// has taken. A Finish without a status sends the hold's own response. Where
// half-closing counts as leaving, and why, is at writer.probe.
//
// # Clients that leave
//
// A client that shuts down its sending side only (half-close) has not left: it
// gets its answer. Since a closed socket looks the same until something is sent
// to it, the first bytes of whatever will be the answer are sent at once, and a
// reset tells. See writer.probe. On systems other than Linux a half-close counts as
// leaving.
//
// # When the other side is not there
//
// Requests that no proxy has taken wait for one, up to Options.PeerWait. One whose
// proxy went away before it answered is sent to another, likewise, if that is safe
// (GET, HEAD, OPTIONS). Holds, their timers and keep-alives do not depend on the
// handler; a new boot gets the records of all holds and is their far end from then
// on.
package connmgr
