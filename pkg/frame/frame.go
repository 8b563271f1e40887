package frame

// Frame is one message of the bus.
type Frame interface {
	// Type returns element 0 of the encoded form.
	Type() Type
	fields(c coder)
}

// Field is one HTTP header field. Name and value are kept as they were sent:
// case, order and repetition are significant to somebody.
type Field struct {
	Name, Value string
}

// XID names an exchange for peers that are not its connmgr.
type XID struct {
	Conn string // instance name of the connmgr, such as "connmgr.0"
	Boot uint64 // boot id of that connmgr
	ID   uint64 // number of the exchange
}

// LastID is a channel's position, as in Grip-Last.
type LastID struct {
	Channel, ID string
}

// Request opens an exchange (connmgr → proxy). Seq is always 0.
type Request struct {
	ID      uint64
	Method  string
	URI     string // request target as sent by the client, in origin form ("/path?query") or "*"
	Scheme  string // "http" or "https", what the client's own connection uses
	Host    string // Host header, or the authority of an absolute-form target; "" if the client sent none (HTTP/1.0)
	Minor   uint8  // HTTP/1.Minor
	Header  []Field
	BodyLen int64  // bytes to come, 0 for none, -1 for unknown (chunked)
	Body    []byte // first part of the body
	More    bool   // Body frames follow
	Peer    string // client address as "ip:port"; "" for a unix socket
	ConnID  string // public connection id, the same for every attempt
	Upgrade bool   // a valid WebSocket handshake
	Retry   bool   // a held request that asks its origin anew
	Route   string // route id to use, for a retry
	Last    []LastID
	Resend  bool   // an earlier attempt was lost with its proxy
	Session []byte // record of a WebSocket-over-HTTP session to go on with
	Expect  bool   // the client waits for "100 Continue"
	// SockJS says that this is the WebSocket of a SockJS session, see SockJSPolling
	// …; URI is then that of the client's request to open the session.
	SockJS uint8
}

// Values of Request.SockJS.
const (
	SockJSPolling uint8 = 1 // the client polls
	SockJSFramed  uint8 = 2 // the client has a WebSocket with SockJS frames
)

// Response begins the answer (proxy → connmgr).
type Response struct {
	ID, Seq uint64
	Code    uint16
	Reason  string
	Header  []Field // without hop-by-hop fields; Content-Length only if BodyLen says so too
	BodyLen int64   // bytes to come, 0 for none, -1 for unknown
	Body    []byte
	More    bool
	Close   bool // end the client's connection after this response
	// SockJS, if not empty, is the beginning of the request's path under which
	// there is SockJS: connmgr is to answer the request accordingly, and nothing
	// else in this frame but the fields below counts.
	SockJS    string
	SockJSURL string // of the script for frames of other origins
	Route     string // id of the route, which keeps sessions of routes apart
}

// Body carries body bytes in either direction. More is false on the last one.
type Body struct {
	ID, Seq uint64
	Data    []byte
	More    bool
	Trailer []Field
}

// Credit allows N more body bytes.
type Credit struct {
	ID, Seq uint64
	N       uint64
}

// Cancel ends an exchange at once, in either direction. Text is for the log.
type Cancel struct {
	ID, Seq uint64
	Reason  Reason
	Text    string
}

// Mode is how a hold takes publications.
type Mode uint8

// Modes of a hold. The mode is also the format of publications that it takes.
const (
	ModeNone      Mode = 0
	ModeResponse  Mode = 1 // long poll: http-response
	ModeStream    Mode = 2 // http-stream
	ModeWebSocket Mode = 3 // ws-message
)

func (m Mode) String() string {
	switch m {
	case ModeResponse:
		return "http-response"
	case ModeStream:
		return "http-stream"
	case ModeWebSocket:
		return "ws-message"
	}
	return "none"
}

// KeepAlive is what connmgr sends on a held connection that is quiet.
type KeepAlive struct {
	Data     []byte
	Millis   uint32 // 0: no keep-alives
	Interval bool   // true: publications do not reset the timer ("interval" instead of "idle")
	Kind     uint8  // WebSocket: message kind of Data, see MessageText …; 0 otherwise
}

// Channel is one subscription of a hold.
type Channel struct {
	Name      string // as the publisher names it, with the route's prefix
	PrevID    string
	HasPrevID bool
	Implicit  bool // made by the route, not by the origin
	Filters   []string
}

// Link is a Grip-Link.
type Link struct {
	URI    string
	Millis uint32
}

// Accept hands an exchange over (proxy → handler). Its encoded form without
// Body is also the record that connmgr keeps of the hold and sends to a new
// handler.
type Accept struct {
	X          XID
	SendSeq    uint64 // Seq of the next frame to connmgr
	RecvSeq    uint64 // Seq of the next frame from connmgr
	ConnID     string
	Mode       Mode // ModeNone: no hold but a next link
	Millis     uint32
	KeepAlive  KeepAlive
	Channels   []Channel
	Meta       []Field
	Next       Link // URI "" if none
	Gone       string
	HeadSent   bool // head and initial body are on their way already
	Code       uint16
	Reason     string
	Header     []Field
	Body       []byte
	Expose     []string
	Method     string
	URI        string // effective URI after the route's rewriting, absolute
	Peer       string // logical client address
	Route      string // route id
	RouteNamed bool   // the id was given in the routes file, not derived
	Prefix     string // channel prefix of the route
	SigIss     string
	SigKey     string // key string as configured; "" for the global one
	Debug      bool
	CORS       bool
	JSONP      string // callback, "" if none
	JSONPMode  uint8  // 1 extended, 2 basic
	Retry      bool
	Minor      uint8
	Request    []Field  // request header, for the automatic cross-origin fields
	Policy     uint8    // what happens at a full backlog, see connmgr
	UserMeta   []Field  // reserved for lifecycle events
	Base       string   // scheme and authority of URI, as it was before any next link was followed
	Last       []LastID // positions that the origin was told when it was asked, for a retry
	TLS        bool     // the client's side counts as TLS
	Events     string   // webhook endpoint that is told of the connection, "*" for all that want to know
	Opened     uint64   // when the hold began, in ms of Unix time; only with Events
}

// Policy is what connmgr does with a held connection whose client reads too
// slowly for its backlog. It travels as Accept.Policy and Hold.Policy.
type Policy uint8

// Policies for a full backlog. Bytes that the socket took in part are always
// finished first.
const (
	PolicyDefault    Policy = 0 // what connmgr is configured to do
	PolicyClose      Policy = 1 // end the hold
	PolicyDropOldest Policy = 2 // drop the publications that waited longest
	PolicyLatest     Policy = 3 // keep only the newest publication
)

// Accepted answers Accept.
type Accepted struct {
	X    XID
	OK   bool
	Code string // condition if not OK
	Text string
}

// Hold tells connmgr to hold a client's connection. For ModeResponse the
// response is the one to send when the time is over; for ModeStream it is sent
// at once (unless HeadSent) and the connection stays open.
type Hold struct {
	ID, Seq   uint64
	Mode      Mode
	Millis    uint32 // ModeResponse: hold for this long
	KeepAlive KeepAlive
	Groups    []string
	HeadSent  bool
	Code      uint16
	Reason    string
	Header    []Field
	Body      []byte
	More      bool // ModeStream: Body frames of the initial body follow
	Record    []byte
	Policy    uint8
	JSONP     string
	JSONPMode uint8
	Tell      bool // a handler wants to hear of its end, the next one if there is none then
}

// Update replaces a hold's groups, keep-alive and record.
//
// Body is appended to a stream; in the same frame, because a handler that is
// killed between the two would leave a record that is ahead of its client, or
// behind. If Pub is not 0, it is reported as if a Deliver had brought it.
type Update struct {
	ID, Seq   uint64
	Groups    []string
	KeepAlive KeepAlive
	Record    []byte
	Body      []byte
	Pub       uint64
}

// Finish ends a hold. ModeResponse: the response is sent. ModeStream: Body is
// appended and the response ended; with Abort it is cut so that the client can
// tell. ModeWebSocket: Code is the close code and Reason its text.
type Finish struct {
	ID, Seq uint64
	Code    uint16
	Reason  string
	Header  []Field
	Body    []byte
	Abort   bool
}

// Retry takes a hold back into an ordinary exchange: connmgr sends its request
// again, as a new exchange with Last and Route, and reports the old number as
// closed with ReasonReplaced.
type Retry struct {
	ID, Seq uint64
	Route   string
	Last    []LastID
}

// Action is what a publication does.
type Action uint8

// Actions of a publication.
const (
	ActionSend    Action = 0
	ActionHint    Action = 1
	ActionClose   Action = 2
	ActionRefresh Action = 3
)

// Kinds of a WebSocket message.
const (
	MessageText   uint8 = 1
	MessageBinary uint8 = 2
	MessageClose  uint8 = 8
	MessagePing   uint8 = 9
	MessagePong   uint8 = 10
)

// PubOther marks numbers of Deliver.Pub and Update.Pub of what is no publication
// but is reported nevertheless.
const PubOther uint64 = 1 << 63

// Deliver carries one publication to the members of a group (handler →
// connmgr). With Only it goes to those holds and Group is "".
type Deliver struct {
	Pub    uint64 // number of the publication at this handler, for Report
	Mode   Mode
	Action Action // ActionSend or ActionClose
	Group  string
	Only   []uint64
	Except []uint64
	Code   uint16 // http-response status; ws-message close code
	Reason string
	Header []Field
	Body   []byte
	Kind   uint8 // ws-message
	ItemID string
	Expose []string // ModeResponse: keep only these fields of the merged header; empty keeps all
	// Channel is set if members may have a position in it, which is ItemID from
	// now on. connmgr adds it to the record, see Held.
	Channel string
}

// Outcome is what one publication came to at one connmgr. Delivered counts
// members to whose socket all bytes were written.
type Outcome struct {
	Pub       uint64
	Mode      Mode
	Delivered uint32
	Dropped   []Drop
}

// Drop counts members that did not get a publication.
type Drop struct {
	Reason Reason
	N      uint32
}

// Report carries outcomes in batches (connmgr → handler).
type Report struct {
	Outcomes []Outcome
	Alive    []uint64 // holds that were sent a keep-alive; some more than once
}

// Closed says that a hold is over (connmgr → handler). It is also the answer to
// a frame for an exchange that connmgr does not know.
type Closed struct {
	ID, Seq uint64
	Reason  Reason
	Sent    uint64 // bytes sent to the client since the hold began
}

// Held is one hold record in Records.
type Held struct {
	ID      uint64
	SendSeq uint64 // next Seq that connmgr expects
	RecvSeq uint64 // next Seq that connmgr will use
	Record  []byte
	Last    []LastID // positions that are newer than the record's
	Ended   Reason   // not ReasonNone: the hold is over, perhaps without a handler knowing
}

// Records carries hold records to a new handler (connmgr → handler), in
// batches. Done is set on the last one, which may be empty.
type Records struct {
	Holds []Held
	Done  bool
}

// Fetch asks zurl, or with Route a proxy, for a request. Token comes back in Fetched.
type Fetch struct {
	Token       uint64
	Method      string
	URI         string
	Header      []Field
	Body        []byte
	MaxBody     uint32 // largest response body wanted, 0 for the default
	Millis      uint32 // limit for the whole request, 0 for the default
	Trusted     bool   // the address policy does not apply
	Redirects   uint8  // how many to follow
	ConnectHost string // connect here instead of to the URI's host
	// Route is set in a Fetch that goes to a proxy, on behalf of a hold: the
	// request takes that route if its path still fits it. The proxy adds what
	// origins expect of it, such as Grip-Sig, and gives the response back as it
	// is, instructs included.
	Route string
	// Base is Accept.Base of the hold. A URI elsewhere does not take Route: the
	// request goes to the URI's own host, with the signature of Route.
	Base string
}

// Fetched is the result of a Fetch. Condition is "" when a response arrived.
type Fetched struct {
	Token     uint64
	Code      uint16
	Reason    string
	Header    []Field
	Body      []byte
	Condition string // such as "remote-connection-failed"; see docs/protocol.md
	Text      string
}

// Message is one WebSocket message, or a part of one, in either direction.
// After a Message of kind close nothing follows in that direction.
type Message struct {
	ID, Seq uint64
	Kind    uint8
	Data    []byte
	More    bool // further parts of this message follow
	Code    uint16
}

// Cost is what the message takes of the receiver's credit. Empty messages have
// one too, or credit would not bound them.
func (f *Message) Cost() int { return len(f.Data) + 16 }

// Session replaces the record of a WebSocket-over-HTTP session (proxy →
// connmgr). Acked is how many client messages the origin has taken for good;
// connmgr drops its copies of those.
type Session struct {
	ID, Seq uint64
	Record  []byte
	Acked   uint64
}

// Operations of Control.
const (
	ControlSubscribe   uint8 = 1 // proxy → handler: Channel, List (filters)
	ControlUnsubscribe uint8 = 2 // proxy → handler: Channel
	ControlMeta        uint8 = 3 // proxy → handler: Fields, set; List, names to remove
	ControlAck         uint8 = 4 // handler → proxy: N as asked; Text is an error that ends the connection
	ControlRefresh     uint8 = 5 // handler → proxy: make a WebSocket-over-HTTP request now
)

// Control carries GRIP control of a WebSocket between proxy and handler. The
// handler answers 1 to 3 with ControlAck once connmgr has been told, so that what
// the proxy sends to connmgr afterwards finds the subscription in force.
type Control struct {
	X       XID
	Op      uint8
	Channel string
	Text    string
	Data    []byte
	Fields  []Field
	List    []string
	N       uint64
	Kind    uint8
}

// Operations of Tune.
const (
	TuneKeepAlive uint8 = 1 // proxy → connmgr: Data every Millis, 0: off
	TuneDelay     uint8 = 2 // proxy → connmgr: send Data after Millis; one that waits already goes at once
	TuneFlush     uint8 = 3 // proxy → connmgr: send at once what TuneDelay left waiting
	TuneDetach    uint8 = 4 // proxy → connmgr: the far end is gone for good, the client stays
	TuneShut      uint8 = 5 // connmgr → proxy: a publication closed the client; close the origin's side without status
)

// Tune says what to do with a WebSocket besides passing messages.
type Tune struct {
	ID, Seq  uint64
	Op       uint8
	Data     []byte
	Kind     uint8 // kind of the message that carries Data
	Millis   uint32
	Interval bool
}

// Stats carries what a proxy counted since it sent the last one, for the
// statistics that a handler tells. It goes to one handler.
type Stats struct {
	Routes []RouteStats // those with anything to tell
	Conns  []ConnStat   // only while Watch asks for them
}

// RouteStats is what a proxy counted on one route. Connections that were handed
// to a handler are not its own any more.
type RouteStats struct {
	Route    string // id if the routes file gives one; "" stands for all others
	Requests uint32 // that came from clients, WebSockets included, those sent again not
	Activity uint32 // the same and those sent again
	Open     uint32 // connections now
	Most     uint32 // connections at a time
	Minutes  uint32 // of connections, begun ones counted
	Client   Traffic
	Server   Traffic // to and from origins
}

// Traffic counts bytes and WebSocket messages. The bytes of headers are those of
// names, values and first line, without what is between them.
type Traffic struct {
	HeaderIn, HeaderOut     uint64
	ContentIn, ContentOut   uint64
	MessagesIn, MessagesOut uint64
}

// Add adds what another one counts.
func (t *Traffic) Add(o Traffic) {
	t.HeaderIn += o.HeaderIn
	t.HeaderOut += o.HeaderOut
	t.ContentIn += o.ContentIn
	t.ContentOut += o.ContentOut
	t.MessagesIn += o.MessagesIn
	t.MessagesOut += o.MessagesOut
}

// ConnStat is a connection that a proxy began to serve, or does not any more.
type ConnStat struct {
	ID        string // public connection id
	Route     string // as in RouteStats
	Peer      string // logical client address
	WebSocket bool
	TLS       bool
	Gone      bool
}

// Watch says whether Stats is to tell of single connections. Without one, or
// when its handler goes, it is not.
type Watch struct {
	Conns bool
}

// Check asks a proxy for the connections that it serves, by public id. Token
// comes back in Checked.
type Check struct {
	Token uint64
	IDs   []string
	// Refresh asks for WebSocket-over-HTTP sessions alone, each of which makes a
	// request now.
	Refresh bool
}

// FoundConn is a connection, and the exchange that it is at present.
type FoundConn struct {
	ID string
	X  XID
}

// Checked answers Check.
type Checked struct {
	Token uint64
	Found []FoundConn
}

// Hooks says which channels have webhooks (zurl → handler): at every start of
// either, and whenever it changes. The parts of one version follow each other.
type Hooks struct {
	Store    string // names the file, whichever zurl has it open; "" if there is none
	Version  uint64
	Patterns []string // of channels whose messages are wanted
	Events   bool     // some endpoint wants events of connections
	More     bool     // further parts follow
}

// HookMessage is one message for webhooks. ID is the webhook-id: a message that
// comes again with the same one is not queued again.
type HookMessage struct {
	ID       string
	Kind     string
	Channel  string
	Endpoint string // the only one that gets it; "": all that match
	Millis   uint64 // when it was made, in Unix time
	Method   string
	Header   []Field
	Body     []byte
}

// Enqueue puts messages into webhook queues, all or none. The handler keeps it
// until Enqueued, and sends it again when the store shows up again.
type Enqueue struct {
	Token    uint64
	Store    string
	Messages []HookMessage
}

// Conditions of Enqueued.
const (
	HooksNotReady = "not-ready"    // the store is not open: wait for Hooks
	HooksFull     = "queue-full"   // an endpoint's queue is full, and it wants to refuse
	HooksStore    = "store-failed" // the disk did not take it
	HooksBusy     = "too-busy"
)

// Enqueued answers Enqueue. Condition is "" when the messages are on disk.
type Enqueued struct {
	Token     uint64
	Condition string
	Text      string
}

// HookCall is a request to the webhooks part of the control API. Path begins
// behind /webhooks.
type HookCall struct {
	Token  uint64
	Method string
	Path   string
	Query  string
	Body   []byte
}

// HookAnswer answers HookCall. Body is JSON.
type HookAnswer struct {
	Token uint64
	Code  uint16
	Body  []byte
}
