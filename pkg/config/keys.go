package config

import "time"

// Config is the whole configuration. Every process reads all of it, checks all
// of it, and uses its own part.
//
// Tags: key is the name in the file; default is written as in the file; unit is
// what a bare number means; min, max and oneof limit it; offset marks values
// whose port global.port_offset moves; own marks keys that Pushpin does not
// have; doc explains.
type Config struct {
	Global  Global  `section:"global" doc:"What all processes share."`
	Runner  Runner  `section:"runner" doc:"Read by the supervisor script and by connmgr, which owns the client ports."`
	ConnMgr ConnMgr `section:"connmgr" own:"yes" doc:"The process that holds the clients."`
	Proxy   Proxy   `section:"proxy" doc:"The process that talks to origins."`
	Handler Handler `section:"handler" doc:"The process that takes publications and knows who is subscribed."`
	Zurl    Zurl    `section:"zurl" own:"yes" doc:"The process that makes outbound HTTP requests, for the others and for programs with libzmq. The settings of a zurl.conf work here."`
	Bus     Bus     `section:"bus" own:"yes" doc:"How the processes find and reach each other."`
	Admin   Admin   `section:"admin" own:"yes" doc:"Metrics, health and profiles. Each process has a listener of its own: PORT (on the loopback address), ADDR:PORT, ipc://PATH (a unix socket), or empty for none. {name} stands for the instance, such as proxy.0."`

	// File is the main file; "" if there was none and the defaults hold.
	File string `key:"-"`
	// Dir is the directory that relative paths of the file start from.
	Dir string `key:"-"`
	// Notices are what the operator should know.
	Notices []Notice `key:"-"`

	origin map[string]string // where each key that was set got its value
}

// Global is section [global].
type Global struct {
	Include    string `key:"include" doc:"One more file with settings, for keys that this file does not have. A relative path starts from the directory of this file. The bare name internal.conf means {libdir}/internal.conf, which Holdfast does not need: it may be missing."`
	LibDir     string `key:"libdir" doc:"What {libdir} stands for. Default: /usr/lib/pushpin for a file named pushpin.conf, else /usr/lib/holdfast."`
	RunDir     string `key:"rundir" default:"run" doc:"Directory of sockets and pid files, relative to the working directory. Created if missing."`
	IPCPrefix  string `key:"ipc_prefix" default:"pushpin-" doc:"Begins the name of every socket file in rundir."`
	PortOffset int    `key:"port_offset" default:"0" min:"-65535" max:"65535" doc:"Added to the ports of the publishing interfaces (not to client ports and not to prometheus_port)."`

	StatsConnectionTTL  time.Duration `key:"stats_connection_ttl" default:"120" unit:"s" min:"1s" doc:"How long a conn statistic is good for before it is sent again."`
	StatsConnectionSend bool          `key:"stats_connection_send" default:"true" doc:"Whether to send a conn statistic for each connection. They are only made while somebody is subscribed to them."`
}

// Runner is section [runner].
type Runner struct {
	Services         []string      `key:"services" default:"connmgr,proxy,handler,zurl" doc:"Which processes the supervisor starts. The names of earlier Pushpin versions (condure, pushpin-proxy, pushpin-handler) work. zurl is started with handler, which needs it, in any case."`
	HTTPPort         []string      `key:"http_port" default:"7999" doc:"Client ports for HTTP and WebSocket: [ADDR:]PORT. IPv6 addresses in brackets. Without an address, all addresses."`
	HTTPSPorts       []string      `key:"https_ports" doc:"Client ports with TLS: [ADDR:]PORT. Certificates are looked for in runner/certs next to the configuration file: NAME.crt and NAME.key for the host NAME, _.example.com for *.example.com, default_PORT for all others."`
	LocalPorts       []string      `key:"local_ports" doc:"Unix sockets for clients: PATH, with ?mode=OCTAL&user=NAME&group=NAME if wanted."`
	LogDir           string        `key:"logdir" default:"log" doc:"Where the supervisor puts one log file per process, unless it merges the output."`
	StopTimeout      time.Duration `key:"stop_timeout" own:"yes" default:"20" unit:"s" min:"100ms" max:"1h" doc:"How long the supervisor waits for the processes to end before it kills them. Longer than drain_time of connmgr, or clients are cut off."`
	Instances        []string      `key:"instances" own:"yes" doc:"How many processes of a kind the supervisor starts, as KIND:NUMBER, such as connmgr:3,proxy:2. One of each that is not named. There is one handler."`
	RestartDelay     time.Duration `key:"restart_delay" own:"yes" default:"10" unit:"s" min:"200ms" max:"1h" doc:"The longest time before a process that died is started again. The first time it is 0.2 s; it doubles while the process does not live five times as long."`
	LogLevel         LogLevels     `key:"log_level" default:"2" doc:"How much to log: 0 error, 1 warn, 2 info, 3 debug, 4 trace, as a number or by name. NAME:LEVEL sets it for one of runner, connmgr, proxy, handler, zurl: 2,proxy:3."`
	LogFormat        string        `key:"log_format" own:"yes" default:"text" oneof:"text,json" doc:"text is Pushpin's format, with key=value at the end; json is one object a line."`
	ClientBufferSize Bytes         `key:"client_buffer_size" default:"8192" min:"1024" max:"1M" doc:"A client's request line and headers must fit in this."`
	ClientMaxConn    int           `key:"client_maxconn" default:"50000" min:"1" max:"10000000" doc:"How many client connections one connmgr has at most. For more, idle ones are closed; if there are none, new ones are answered with 503."`
	AllowCompression bool          `key:"allow_compression" default:"false" doc:"Offer WebSocket clients permessage-deflate, without context takeover."`
}

// Runtime is in the section of each process.
type Runtime struct {
	Threads     int   `key:"threads" own:"yes" default:"0" min:"0" max:"1024" doc:"Processors to use at a time. 0: as many as there are."`
	GCPercent   int   `key:"gc_percent" own:"yes" default:"0" min:"0" max:"10000" doc:"How much the heap may grow before garbage is collected, in percent of what is alive. A busy process may take up to 32 MiB more. More costs memory and saves processor time. 0: what the environment variable GOGC says, else 100."`
	MemoryLimit Bytes `key:"memory_limit" own:"yes" default:"0" min:"0" doc:"Collect garbage harder when the process comes near this size. 0: no limit."`
}

// ConnMgr is section [connmgr].
type ConnMgr struct {
	MaxFields       int           `key:"max_fields" default:"128" min:"8" max:"1024" doc:"Header fields that a request may have."`
	HeaderTimeout   time.Duration `key:"header_timeout" default:"60" unit:"s" min:"10ms" doc:"How long a client may take for its request line and headers, and for a TLS handshake."`
	IdleTimeout     time.Duration `key:"idle_timeout" default:"180" unit:"s" min:"10ms" doc:"How long a client may stay connected between requests."`
	BodyTimeout     time.Duration `key:"body_timeout" default:"60" unit:"s" min:"10ms" doc:"How long a request body may make no progress."`
	WriteTimeout    time.Duration `key:"write_timeout" default:"60" unit:"s" min:"10ms" doc:"How long a client may take no byte of a response."`
	ResponseTimeout time.Duration `key:"response_timeout" default:"1800" unit:"s" min:"10ms" doc:"How long proxy or handler may be silent about an ordinary request."`
	PeerWait        time.Duration `key:"peer_wait" default:"10" unit:"s" min:"10ms" doc:"How long a request waits for a proxy when there is none, or when the one that had it died and it can be sent again."`
	MaxBacklog      Bytes         `key:"max_backlog" default:"1M" min:"1" max:"1G" doc:"What may wait for one client that holds a connection and does not read. Each message counts 64 bytes more than it has."`
	BacklogPolicy   string        `key:"backlog_policy" default:"close" oneof:"close,drop-oldest,latest" doc:"What happens at max_backlog: close ends the connection, drop-oldest drops what waited longest, latest keeps only the newest message."`
	MaxQueued       Bytes         `key:"max_queued" default:"64M" min:"1" max:"1G" doc:"What may wait for one of the loops that write to held clients."`
	Writers         int           `key:"writers" default:"0" min:"0" max:"256" doc:"Loops that write to held clients. 0: one for each processor."`
	DrainTime       time.Duration `key:"drain_time" default:"10" unit:"s" min:"0s" doc:"How long a connmgr that is stopped takes to end what is open."`
	Runtime
}

// Proxy is section [proxy].
type Proxy struct {
	RoutesFile               string        `key:"routesfile" default:"routes" doc:"The routes file; a relative path starts from the directory of this file. It is watched, and read again when it changes."`
	Debug                    bool          `key:"debug" default:"false" doc:"Whether error responses tell clients the reason."`
	AutoCrossOrigin          bool          `key:"auto_cross_origin" default:"false" doc:"Whether to add cross-origin headers and JSON-P on every route."`
	AcceptXForwardedProtocol bool          `key:"accept_x_forwarded_protocol" default:"false" doc:"Whether to believe X-Forwarded-Proto of clients. Only behind a proxy that sets it."`
	SetXForwardedProtocol    string        `key:"set_x_forwarded_protocol" default:"proto-only" oneof:"true,proto-only,false," doc:"Whether to tell origins about TLS: proto-only sends X-Forwarded-Proto, true also X-Forwarded-Protocol."`
	XForwardedFor            []string      `key:"x_forwarded_for" doc:"What to do with X-Forwarded-For: truncate:N keeps the last N values, append adds the client's address. Empty passes it on as it is."`
	XForwardedForTrusted     []string      `key:"x_forwarded_for_trusted" doc:"The same for requests that are signed with upstream_key."`
	OrigHeadersNeedMark      []string      `key:"orig_headers_need_mark" doc:"On routes with orig_headers: headers that count as the client's own only if they are marked already."`
	AcceptPushpinRoute       bool          `key:"accept_pushpin_route" default:"false" doc:"Whether clients may choose their route by id, with Pushpin-Route."`
	CDNLoop                  string        `key:"cdn_loop" doc:"Added to the CDN-Loop header of requests to origins."`
	SockJSURL                string        `key:"sockjs_url" default:"http://cdn.jsdelivr.net/sockjs/0.3.4/sockjs.min.js" doc:"The SockJS client that the page for frames of other origins loads."`
	LogFrom                  bool          `key:"log_from" default:"false" doc:"Whether the access log has the client's address."`
	LogUserAgent             bool          `key:"log_user_agent" default:"false" doc:"Whether the access log has the client's user agent."`
	SigIss                   string        `key:"sig_iss" default:"pushpin" doc:"Issuer in the Grip-Sig of requests to origins."`
	SigKey                   string        `key:"sig_key" secret:"yes" doc:"Key of the Grip-Sig: text, base64:DATA, or file:PATH with a hex or PEM key. Empty: requests are not signed."`
	UpstreamKey              string        `key:"upstream_key" secret:"yes" doc:"Key that makes the Grip-Sig of an incoming request trusted."`
	MaxOpenRequests          int           `key:"max_open_requests" default:"-1" min:"-1" doc:"How many requests one proxy works on at a time; -1 means client_maxconn."`
	PrometheusPort           string        `key:"prometheus_port" doc:"Pushpin's metrics, as far as the proxy has them, on PORT (all addresses), ADDR:PORT or ipc://PATH. Empty: none. The admin listener has more."`
	PrometheusPrefix         string        `key:"prometheus_prefix" doc:"Begins the names of Pushpin's metrics."`
	ConnectTimeout           time.Duration `key:"connect_timeout" own:"yes" default:"10" unit:"s" min:"10ms" doc:"Limit for each attempt to reach a target. The next target is tried after that."`
	ResponseTimeout          time.Duration `key:"response_timeout" own:"yes" default:"1800" unit:"s" min:"10ms" doc:"How long an origin may take to begin its response."`
	HandOverTimeout          time.Duration `key:"hand_over_timeout" own:"yes" default:"8" unit:"s" min:"10ms" doc:"How long a handler is waited for to take a hold."`
	DrainTime                time.Duration `key:"drain_time" own:"yes" default:"5" unit:"s" min:"0s" doc:"How long a proxy that is stopped lets open exchanges go on."`
	IdleTimeout              time.Duration `key:"idle_timeout" own:"yes" default:"1800" unit:"s" min:"10ms" doc:"How long a body may stand still."`
	MaxResponseHead          Bytes         `key:"max_response_head" own:"yes" default:"64K" min:"1024" max:"4M" doc:"Largest status line and headers that an origin may send."`
	Runtime
}

// Handler is section [handler].
type Handler struct {
	IPCFileMode               Mode          `key:"ipc_file_mode" doc:"Permissions of the public socket files (statistics, publishing and commands over ipc), octal. Empty: as the umask says."`
	PushInSpec                string        `key:"push_in_spec" default:"tcp://127.0.0.1:5560" offset:"yes" doc:"Where to take publications over ZeroMQ PUSH/PULL. Empty: nowhere."`
	PushInSubSpecs            []string      `key:"push_in_sub_specs" default:"tcp://127.0.0.1:5562" offset:"yes" doc:"Where to take publications over ZeroMQ PUB/SUB."`
	PushInSubConnect          bool          `key:"push_in_sub_connect" default:"false" doc:"Whether the SUB socket connects to all of push_in_sub_specs instead of binding the first."`
	PushInHTTPAddr            string        `key:"push_in_http_addr" default:"127.0.0.1" doc:"Address of the control API. Empty: all addresses."`
	PushInHTTPPort            int           `key:"push_in_http_port" default:"5561" min:"-1" max:"65535" offset:"yes" doc:"Port of the control API. -1: none."`
	PushInHTTPMaxHeadersSize  Bytes         `key:"push_in_http_max_headers_size" default:"10000" min:"256" max:"1M" doc:"Largest headers of a request to the control API."`
	PushInHTTPMaxBodySize     Bytes         `key:"push_in_http_max_body_size" default:"1000000" min:"1" max:"256M" doc:"Largest body of a request to the control API."`
	PushInHTTPMaxConns        int           `key:"push_in_http_max_connections" own:"yes" default:"128" min:"1" max:"100000" doc:"Connections that the control API serves at a time; more wait."`
	PushInHTTPTimeout         time.Duration `key:"push_in_http_timeout" own:"yes" default:"30" unit:"s" min:"10ms" doc:"How long a connection to the control API may take for a request, and how long it may rest before the next one."`
	PushInHTTPAuthIss         string        `key:"push_in_http_auth_iss" own:"yes" doc:"Issuer that tokens for the control API must name. Empty: any."`
	PushInHTTPAuthKey         string        `key:"push_in_http_auth_key" own:"yes" secret:"yes" doc:"Key of such tokens (Authorization: Bearer and a JWT that expires): text, base64:DATA, or file:PATH with a hex key or a public key in PEM (EC P-256 or RSA). With no key, token or user set, the control API takes everybody."`
	PushInHTTPAuthToken       string        `key:"push_in_http_auth_token" own:"yes" secret:"yes" doc:"Token that the control API takes as it is (Authorization: Bearer)."`
	PushInHTTPAuthUser        string        `key:"push_in_http_auth_user" own:"yes" secret:"yes" doc:"NAME:PASSWORD that the control API takes (Authorization: Basic)."`
	PushInHTTPTLSCert         string        `key:"push_in_http_tls_cert" own:"yes" doc:"File with a certificate and its chain (PEM), relative to the configuration file. With it the port of the control API speaks HTTPS only."`
	PushInHTTPTLSKey          string        `key:"push_in_http_tls_key" own:"yes" doc:"File with the key of that certificate (PEM)."`
	PushInHTTPTLSClientCA     string        `key:"push_in_http_tls_client_ca" own:"yes" doc:"File with certificates of authorities (PEM): clients of the control API need a certificate that one of them issued, besides what push_in_http_auth_* ask for. Empty: none is needed."`
	PushInHTTPLocal           string        `key:"push_in_http_local" own:"yes" doc:"Unix socket on which the control API listens too, as PATH[?mode=OCTAL&user=NAME&group=NAME]. Who may write to it may publish: push_in_http_auth_* and push_in_http_tls_* are for the port. Empty: none."`
	StatsSpec                 string        `key:"stats_spec" default:"ipc://{rundir}/{ipc_prefix}stats" offset:"yes" doc:"Where to send statistics over ZeroMQ PUB. Empty: nowhere."`
	CommandSpec               string        `key:"command_spec" default:"tcp://127.0.0.1:5563" offset:"yes" doc:"Where to take commands over ZeroMQ REQ/REP. Empty: nowhere."`
	MessageRate               int           `key:"message_rate" default:"-1" min:"-1" doc:"Deliveries a second at most; -1: as fast as it goes. (Pushpin's example file says 2500.)"`
	MessageHWM                int           `key:"message_hwm" default:"25000" min:"-1" doc:"Deliveries that may wait for message_rate, for each route; more are dropped. -1: no limit."`
	MessageBlockSize          int           `key:"message_block_size" default:"-1" min:"-1" doc:"Size of a block, to count deliveries in blocks too. -1: do not."`
	MessageWait               time.Duration `key:"message_wait" default:"5000" unit:"ms" min:"0s" doc:"How long a publication waits for the one that its prev-id names."`
	IDCacheTTL                time.Duration `key:"id_cache_ttl" default:"60" unit:"s" min:"0s" doc:"How long a publication's id is remembered, so that a repeat is dropped. 0: not at all."`
	UpdateOnFirstSubscription bool          `key:"update_on_first_subscription" default:"true" doc:"Whether held requests of a channel ask their origin again shortly after its first subscription."`
	ConnectionSubscriptionMax int           `key:"connection_subscription_max" default:"20" min:"1" doc:"Channels per connection."`
	SubscriptionLinger        time.Duration `key:"subscription_linger" default:"60" unit:"s" min:"0s" doc:"How long a channel's subscription outlives its last long poll."`
	Webhooks                  string        `key:"webhooks" own:"yes" default:"auto" oneof:"auto,required,off" doc:"Whether publications go to webhooks. auto: yes, and after a start publishes wait until zurl has said who wants them, if there is a webhook store or file on this host. required: they wait in any case; for a zurl on another host. off: no."`
	WebhookTimeout            time.Duration `key:"webhook_timeout" own:"yes" default:"5" unit:"s" min:"10ms" max:"30s" doc:"How long a publish waits for its webhooks to be on disk. After that it is refused."`
	StatsSubscriptionTTL      time.Duration `key:"stats_subscription_ttl" default:"60" unit:"s" min:"1s" doc:"How long a sub statistic is good for before it is sent again."`
	StatsReportInterval       time.Duration `key:"stats_report_interval" default:"10" unit:"s" min:"1s" doc:"How often to send the report statistic."`
	StatsFormat               string        `key:"stats_format" default:"tnetstring" oneof:"tnetstring,json" doc:"Encoding of statistics."`
	PrometheusPort            string        `key:"prometheus_port" doc:"Pushpin's metrics, on PORT (all addresses), ADDR:PORT or ipc://PATH. Empty: none. The admin listener has more."`
	PrometheusPrefix          string        `key:"prometheus_prefix" doc:"Begins the names of Pushpin's metrics."`
	Runtime
}

// Zurl is section [zurl].
type Zurl struct {
	InSpec           string        `key:"in_spec" offset:"yes" doc:"Where to take requests over ZeroMQ PUSH/PULL, see docs/zurl.md. This, in_stream_spec and out_spec are set together or not at all. Whoever can connect can make requests, to forbidden addresses too (ignore-policies): ipc, or a private network."`
	InStreamSpec     string        `key:"in_stream_spec" offset:"yes" doc:"Where clients of in_spec go on with their requests, over ROUTER/DEALER."`
	OutSpec          string        `key:"out_spec" offset:"yes" doc:"Where to send the answers, over PUB/SUB."`
	InReqSpec        string        `key:"in_req_spec" offset:"yes" doc:"Where to take requests over ZeroMQ REQ/ROUTER and answer them, see docs/zurl.md. Empty: nowhere."`
	InstanceID       string        `key:"instance_id" doc:"The name by which clients of in_stream_spec address this instance. Empty: a random one."`
	IPCFileMode      Mode          `key:"ipc_file_mode" doc:"Permissions of these sockets where they are ipc, octal. Empty: as the umask says."`
	InHWM            int           `key:"in_hwm" default:"1000" min:"1" max:"1000000" doc:"Messages that may wait in each of the receiving sockets."`
	MaxOpenRequests  int           `key:"max_open_requests" default:"2000" min:"-1" max:"1000000" doc:"Requests of these sockets that are open at a time; further ones are not read yet. -1: 1000000."`
	BufferSize       Bytes         `key:"buffer_size" default:"200000" min:"1024" max:"16M" doc:"What a client of in_spec may send without further credits, and the largest WebSocket frame."`
	MaxWhole         Bytes         `key:"max_whole" default:"10M" min:"1024" max:"64M" doc:"Largest response body that goes into one packet, unless the request says less."`
	Timeout          time.Duration `key:"timeout" default:"600" unit:"s" min:"10ms" doc:"A request of these sockets ends when no byte has moved for so long."`
	MaxAge           time.Duration `key:"connection_max_time" default:"7200" unit:"s" min:"1s" doc:"How long a connection to a server is used for further requests."`
	AllowIPv6        bool          `key:"allow_ipv6" default:"true" doc:"Whether IPv6 addresses may be called at all. (false in Zurl, unless it is set.)"`
	MaxFetches       int           `key:"max_fetches" default:"200" min:"1" max:"100000" doc:"Requests of the other processes that are made at a time."`
	MaxQueued        int           `key:"max_queued" default:"2000" min:"0" max:"1000000" doc:"Requests of the other processes that may wait for their turn; more are answered with the condition too-busy."`
	MaxBody          Bytes         `key:"max_body" default:"1M" min:"1" max:"4M" doc:"Largest response body that is read for another process, unless the request says less."`
	FetchTimeout     time.Duration `key:"fetch_timeout" default:"60" unit:"s" min:"10ms" max:"1h" doc:"Limit for a whole request of another process, unless it says less."`
	MaxHead          Bytes         `key:"max_head" default:"64K" min:"1024" max:"1M" doc:"Largest response headers."`
	ConnectTimeout   time.Duration `key:"connect_timeout" default:"10" unit:"s" min:"10ms" doc:"Limit for reaching the server, TLS included."`
	DefPolicy        string        `key:"defpolicy" default:"allow" oneof:"allow,deny" doc:"allow: every address may be called that deny does not name, or that allow does. deny: only addresses that allow names and deny does not."`
	Allow            []string      `key:"allow" doc:"What may be called: names, addresses, patterns with one *, networks such as 10.1.0.0/16, or @internal for all private, local and reserved addresses; each with :PORT or :FIRST-LAST if wanted."`
	Deny             []string      `key:"deny" default:"@internal" doc:"What may not be called, in the same form. Requests that a trusted route leads to are exempt."`
	DrainTime        time.Duration `key:"drain_time" default:"5" unit:"s" min:"0s" doc:"How long a zurl that is stopped lets open requests go on."`
	WebhookStore     string        `key:"webhook_store" default:"state/webhooks.db" doc:"The file that webhook endpoints and queues are in, relative to the working directory. It is made, with its directory, when the first endpoint is. Empty: no webhooks."`
	WebhookFile      string        `key:"webhook_file" default:"webhooks" doc:"The file that declares webhook endpoints, in JSON; a relative path starts from the directory of this file. It need not exist, and is read again when it changes."`
	WebhookAck       string        `key:"webhook_ack" default:"disk" oneof:"disk,queued" doc:"When a publish is acknowledged: disk, when its webhooks are on disk; queued, when they are in memory, which is faster and loses what was not written yet if zurl is killed."`
	WebhookMaxBytes  Bytes         `key:"webhook_max_bytes" default:"1G" min:"1M" max:"1024G" doc:"What all webhook queues may hold together. Publishes that need more are refused."`
	WebhookKeepBytes Bytes         `key:"webhook_keep_bytes" default:"256M" min:"0" max:"1024G" doc:"What all webhook endpoints may keep of delivered messages together, to send them again. A message counts its bytes and 256 more, at each endpoint. At the bound the endpoint that keeps the most gives up its oldest. 0: nothing is kept."`
	Runtime
}

// Bus is section [bus].
type Bus struct {
	Inbox     string        `key:"inbox" doc:"Where an instance takes frames: ipc://PATH, or tcp://ADDR:PORT to spread processes over hosts. Empty: {rundir}/{ipc_prefix}{name}.in. Only safe in a trusted network."`
	Pub       string        `key:"pub" doc:"Where an instance says that it lives, in the same form. Empty: {rundir}/{ipc_prefix}{name}.pub."`
	Peers     []string      `key:"peers" doc:"Instances that are not in rundir, each as three words: NAME INBOX PUB, such as handler.0 tcp://10.0.0.5:7100 tcp://10.0.0.5:7101."`
	Heartbeat time.Duration `key:"heartbeat" default:"1" unit:"s" min:"50ms" max:"60s" doc:"How often an instance says that it lives."`
	GiveUp    time.Duration `key:"give_up" default:"10" unit:"s" min:"100ms" max:"1h" doc:"How long an instance may be silent before the others go on without it."`
	QueueSize Bytes         `key:"queue_size" default:"64M" min:"1M" max:"4G" doc:"What may wait for one peer."`
}

// Admin is section [admin].
type Admin struct {
	ConnMgr string `key:"connmgr" default:"ipc://{rundir}/{ipc_prefix}{name}-admin" doc:"Admin listener of connmgr."`
	Proxy   string `key:"proxy" default:"ipc://{rundir}/{ipc_prefix}{name}-admin" doc:"Admin listener of proxy."`
	Handler string `key:"handler" default:"ipc://{rundir}/{ipc_prefix}{name}-admin" doc:"Admin listener of handler."`
	Zurl    string `key:"zurl" default:"ipc://{rundir}/{ipc_prefix}{name}-admin" doc:"Admin listener of zurl."`
	Pprof   bool   `key:"pprof" default:"false" doc:"Whether the admin listeners serve /debug/pprof/."`
}
