// Package zurl is the process that makes HTTP requests to addresses that others
// chose: filters, callbacks, webhooks. It is a process of its own so that what
// happens to such a request, a slow server, an unpleasant response, a forbidden
// address, happens here.
//
//	peers ═ Fetch ═▶ bus ─▶ queue (MaxQueued) ─▶ up to MaxOpen workers ─▶ servers
//	peers ◀ Fetched ═══════════════════════════════┘
//
// Every Fetch is answered by exactly one Fetched, unless the peer's boot goes
// down first, in which case the request is given up. Requests that are trusted
// and ones that are not use connections of their own: a connection that was
// opened without regard to the policy is never used by a request that is subject
// to it.
package zurl
