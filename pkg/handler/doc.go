// Package handler is the process that owns subscriptions: it takes holds over
// from proxies, takes publications from publishers, decides who gets what, and
// tells connmgr to deliver it.
//
//	publishers                                   proxies          connmgrs
//	 HTTP ──► 128 workers ─┐                        │ ▲              │ ▲
//	 PULL ──► 1 loop ──────┤                 Accept │ │ Accepted     │ │ Hold, Deliver,
//	 SUB ───► 1 loop ──────┼─► publish ─┐   Control │ │ Ack  Closed, │ │ Update, Finish,
//	 REP ───► 1 loop ──────┘            │   Fetched │ │ Fetch Report │ │ Retry
//	                                    ▼           ▼ │              ▼ │
//	                               ┌─────────────────────────────────────┐
//	 1 ticker (100 ms) ──────────► │ Server, one lock: holds, channels,  │
//	 1 ticker (rate limit) ──────► │ order, accounts, updates, fetches   │
//	                               └─────────────────────────────────────┘
//	                                  the bus's goroutine calls Receive
//
// # One lock
//
// All state is behind Server.mu. A publication to a channel with one listener
// holds it for a few microseconds, one to ten thousand plain subscribers no
// longer than that, since they are one group and one frame. What is looked at
// one by one (filters, positions) takes well below a microsecond for each
// member. Frames are queued on the bus under the lock, so that connmgr sees
// holds and publications in the order in which the handler counted them; Send
// never waits.
//
// # What is kept for a hold
//
// 400 to 700 bytes (TestHoldMemory): subscriptions, the variables for filters,
// and what names it. What only a few holds need is in hold.more. The record from
// which another boot of the handler rebuilds the hold lies at connmgr, and is
// brought up to date within a second when a position in a channel moves.
//
// # Accounts
//
// Each pair of item and subscriber is counted as matched, and later as delivered
// or dropped with a reason; see ledger. At rest,
//
//	matched = delivered + dropped
//
// # After a restart
//
// Every connmgr that is up sends the records of its holds. Until all of them are
// in, the control API answers 503 with Retry-After, and the ZeroMQ sockets are
// not open, so that no publication that was taken misses a hold.
package handler
