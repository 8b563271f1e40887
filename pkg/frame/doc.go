// Package frame holds every message that the four processes send each other
// over the bus: its type, its fields, its msgpack form and its limits.
//
// A frame is one msgpack array. Element 0 is the frame type, the fields follow
// in the order in which the struct declares them. A field that a sender leaves
// out at the end reads as its zero value, and elements that a reader does not
// know are ignored, so fields may be added at the end without a new version.
// Anything else needs a new frame type. docs/protocol.md shows the
// conversations.
//
// # Addresses
//
// One exchange is one client request or WebSocket. connmgr numbers its
// exchanges; the number is unique for one boot of that connmgr, and the bus says
// which boot of which instance a frame came from, so frames between connmgr and
// its peers carry the number alone. Frames between proxy and handler carry an
// [XID], which names all three.
//
// A request that is sent again (because a proxy died, or because a hold asks its
// origin anew) gets a new number, so a frame of an earlier attempt can never be
// taken for one of the later attempt.
//
// # Sequence numbers
//
// Every frame of an exchange carries Seq: 0 for the first frame in that
// direction, one more for each. The far end may change hands from proxy to
// handler; the numbers go on (Accept carries them). connmgr holds back a frame
// that overtook another, and ends the exchange on a gap that does not close.
//
// # Credits
//
// Body bytes move by credits. Each side may send [InitialWindow] body bytes
// before the first Credit; a Credit adds to that.
package frame

import "errors"

// Limits. A frame over a limit is refused by the decoder before anything of the
// announced size is allocated.
const (
	// InitialWindow is the number of body bytes that may be sent in either
	// direction of an exchange before a Credit has come back.
	InitialWindow = 128 << 10
	// MaxBodyPart is the largest body part that senders put into one frame.
	MaxBodyPart = 32 << 10
	// MaxHeaders is the largest number of header fields in one frame.
	MaxHeaders = 1024
	// MaxGiven is how many of them an origin or a publisher may give: those that
	// are added on the way have room.
	MaxGiven = MaxHeaders - 32
	// MaxFrame is the largest encoded frame, in bytes.
	MaxFrame = 8 << 20
	// MaxExpansion is what the lists of one frame may take in memory while it is
	// decoded, in bytes; those of a small frame 4 KiB and 32 times its size. A
	// frame whose lists need more is malformed. Strings and byte slices do not
	// count: they have a place in the frame, and take about as much as there.
	MaxExpansion = 8 * MaxFrame
)

// Version is the version of the frame set. It travels in the bus envelope; an
// instance does not talk to one whose version is lower than MinVersion.
const (
	Version    = 1
	MinVersion = 1
)

// ErrMalformed is wrapped by every error of Decode: the bytes are not a frame.
var ErrMalformed = errors.New("malformed frame")

// Type is element 0 of a frame.
type Type uint8

// Frame types. The comment says who sends it to whom.
const (
	TypeRequest    Type = 1  // connmgr → proxy: a client's request begins
	TypeResponse   Type = 2  // proxy → connmgr: the response begins
	TypeBody       Type = 3  // both ways: body bytes, trailers, end
	TypeCredit     Type = 4  // both ways: body bytes were consumed
	TypeCancel     Type = 5  // both ways: this exchange is over, with a reason
	TypeAccept     Type = 6  // proxy → handler: take this exchange over
	TypeAccepted   Type = 7  // handler → proxy: answer to Accept
	TypeHold       Type = 8  // handler → connmgr: hold the client's connection
	TypeUpdate     Type = 9  // handler → connmgr: a hold's groups or record changed
	TypeFinish     Type = 10 // handler → connmgr: end a hold
	TypeRetry      Type = 11 // handler → connmgr: ask the origin anew for a hold
	TypeDeliver    Type = 12 // handler → connmgr: one publication for a group
	TypeReport     Type = 13 // connmgr → handler: what publications came to
	TypeClosed     Type = 14 // connmgr → handler: a hold is over
	TypeRecords    Type = 15 // connmgr → handler: hold records for a new handler
	TypeFetch      Type = 16 // any → zurl: make this request
	TypeFetched    Type = 17 // zurl → any: its result
	TypeMessage    Type = 18 // both ways: one WebSocket message or control frame
	TypeSession    Type = 19 // proxy → connmgr: the record of a WebSocket-over-HTTP session
	TypeControl    Type = 20 // proxy → handler, handler → proxy: WebSocket control
	TypeTune       Type = 21 // proxy → connmgr, connmgr → proxy: what to do with a WebSocket besides messages
	TypeStats      Type = 22 // proxy → handler: what it counts, for statistics
	TypeWatch      Type = 23 // handler → proxy: whether Stats is to tell of single connections
	TypeCheck      Type = 24 // handler → proxy: which of these connections do you serve?
	TypeChecked    Type = 25 // proxy → handler: answer to Check
	TypeHooks      Type = 26 // zurl → handler: whose messages webhooks want
	TypeEnqueue    Type = 27 // handler → zurl: put these messages into webhook queues
	TypeEnqueued   Type = 28 // zurl → handler: they are on disk, or not
	TypeHookCall   Type = 29 // handler → zurl: a request to the webhooks part of the control API
	TypeHookAnswer Type = 30 // zurl → handler: its answer
)

func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return "unknown"
}

var typeNames = [...]string{
	TypeRequest: "request", TypeResponse: "response", TypeBody: "body", TypeCredit: "credit",
	TypeCancel: "cancel", TypeAccept: "accept", TypeAccepted: "accepted", TypeHold: "hold",
	TypeUpdate: "update", TypeFinish: "finish", TypeRetry: "retry", TypeDeliver: "deliver",
	TypeReport: "report", TypeClosed: "closed", TypeRecords: "records", TypeFetch: "fetch",
	TypeFetched: "fetched", TypeMessage: "message", TypeSession: "session", TypeControl: "control",
	TypeTune: "tune", TypeStats: "stats", TypeWatch: "watch", TypeCheck: "check", TypeChecked: "checked",
	TypeHooks: "hooks", TypeEnqueue: "enqueue", TypeEnqueued: "enqueued", TypeHookCall: "hook-call",
	TypeHookAnswer: "hook-answer",
}

// Reason says why something ended or was dropped. It crosses the bus as a
// number and is the label of metrics and log lines; numbers are never reused.
type Reason uint8

// Reasons.
const (
	ReasonNone          Reason = 0
	ReasonFinished      Reason = 1  // ended as intended
	ReasonClientGone    Reason = 2  // the client closed or reset its connection
	ReasonTimeout       Reason = 3  // a hold's or request's time was over
	ReasonOriginFailed  Reason = 4  // the origin broke off
	ReasonBacklogFull   Reason = 5  // the client reads too slowly
	ReasonGap           Reason = 6  // a frame of the exchange is missing
	ReasonPeerLost      Reason = 7  // the process at the far end went away
	ReasonShutdown      Reason = 8  // the process is stopping
	ReasonProtocolError Reason = 9  // the client broke its protocol
	ReasonUnknown       Reason = 10 // no such exchange
	ReasonReplaced      Reason = 11 // the exchange goes on under another number
	ReasonOverload      Reason = 12 // a bound was reached
	ReasonWriteFailed   Reason = 13 // the socket refused the bytes
	ReasonFiltered      Reason = 14 // a filter dropped the message for this subscriber
	ReasonRate          Reason = 15 // the rate limit dropped the message
	ReasonNotReady      Reason = 16 // the hold was not in a state to take the message
	ReasonInternal      Reason = 17 // a fault of ours
	ReasonRepeat        Reason = 18 // an earlier boot of the handler had sent the message
	ReasonRefused       Reason = 19 // a process that is about to stop did not begin it
)

var reasonNames = [...]string{
	ReasonNone: "none", ReasonFinished: "finished", ReasonClientGone: "client-gone", ReasonTimeout: "timeout",
	ReasonOriginFailed: "origin-failed", ReasonBacklogFull: "backlog-full", ReasonGap: "gap",
	ReasonPeerLost: "peer-lost", ReasonShutdown: "shutdown", ReasonProtocolError: "protocol-error",
	ReasonUnknown: "unknown-exchange", ReasonReplaced: "replaced", ReasonOverload: "overload",
	ReasonWriteFailed: "write-failed", ReasonFiltered: "filtered", ReasonRate: "rate-limit",
	ReasonNotReady: "not-ready", ReasonInternal: "internal", ReasonRepeat: "repeat",
	ReasonRefused: "refused",
}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "other"
}

// Reasons returns every reason, for making metric children ahead of time.
func Reasons() []Reason {
	all := make([]Reason, len(reasonNames))
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
