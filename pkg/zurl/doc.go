// Package zurl is the process that makes HTTP requests to addresses that others
// chose: filters, callbacks, webhooks. It is a process of its own so that what
// happens to such a request, a slow server, an unpleasant response, a forbidden
// address, happens here.
//
//	peers ═ Fetch ═▶ bus ─▶ queue (MaxQueued) ─▶ up to MaxFetches workers ─▶ servers
//	peers ◀ Fetched ══════════════════════════════════════════════════════════┘
//
//	programs ═ packets ═▶ ZeroMQ ─▶ a session each, up to MaxSessions ─▶ servers
//	programs ◀ packets ══════════════════════════════════════════════════┘
//
// Every Fetch is answered by exactly one Fetched, unless the peer's boot goes
// down first, in which case the request is given up. The packets are those of
// Zurl, see docs/zurl.md; the type front has their sockets, the type session a
// request.
//
// How a request is made, where it may go, and what is done about servers that
// mean harm, is the business of package outbound.
package zurl
