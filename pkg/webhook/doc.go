// Package webhook delivers messages to HTTP endpoints, at least once: it keeps
// who has subscribed, a queue for each endpoint, what came of each attempt, and
// the messages that were given up, all in one file that survives kill -9.
//
//	Enqueue ──▶ committer ──▶ file (one fsync for all that waited) ──▶ done, queues in memory
//	                ▲                                                         │
//	                └──── outcomes ◀── attempts (goroutines) ◀── scheduler ◀──┘
//
// The goroutines of a [Service], all started and awaited by Run:
//
//	committer   1             the only one that writes to the file
//	scheduler   1             wakes endpoints when their time has come; keeps the house
//	attempts    up to one for each endpoint, and Options.MaxExtra more
//
// Each endpoint may always have one attempt under way, so a slow one delays
// nobody else. A message is on disk before it is delivered, and is gone from the
// disk only after its endpoint took it. Requests carry the header fields of
// Standard Webhooks 1.0.
package webhook
