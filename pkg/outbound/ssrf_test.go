package outbound

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/holdfast/holdfast/pkg/netpolicy"
	"github.com/holdfast/holdfast/test/need"
)

// nameServer answers what a test wants it to, over UDP.
type nameServer struct {
	pc net.PacketConn

	mu      sync.Mutex
	answers map[string][]string // by name, "a.test."; addresses, or a name for a CNAME
	flip    bool                // give the answers in turn instead of together
	turn    map[string]int
}

func newNameServer(t *testing.T, answers map[string][]string) *nameServer {
	t.Helper()
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{pc: pc, answers: answers, turn: make(map[string]int)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.serve()
	}()
	t.Cleanup(func() {
		_ = pc.Close()
		<-done
	})
	return n
}

func (n *nameServer) serve() {
	buf := make([]byte, 1500)
	for {
		size, from, err := n.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		m.Answers = n.answer(m.Questions[0])
		if b, err := m.Pack(); err == nil {
			_, _ = n.pc.WriteTo(b, from)
		}
	}
}

func (n *nameServer) answer(q dnsmessage.Question) (out []dnsmessage.Resource) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.answers[strings.ToLower(q.Name.String())]
	if n.flip && len(list) > 0 && q.Type == dnsmessage.TypeA {
		i := n.turn[q.Name.String()]
		n.turn[q.Name.String()]++
		list = list[i%len(list) : i%len(list)+1]
	}
	for _, s := range list {
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			other := dnsmessage.MustNewName(s)
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: other}})
			for _, s := range n.answers[s] {
				if a := netip.MustParseAddr(s); a.Is4() && q.Type == dnsmessage.TypeA {
					h.Name = other
					out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
				}
			}
		case a.Is4() && q.Type == dnsmessage.TypeA:
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	return out
}

// resolve is Options.Resolve that asks the name server.
func (n *nameServer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", n.pc.LocalAddr().String())
	}}
	return r.LookupNetIP(ctx, "ip", host)
}

func rules(t *testing.T, def string, allow, deny []string) *netpolicy.Rules {
	t.Helper()
	r, err := netpolicy.New(def, allow, deny)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// twins are two servers on the same port: one on the address that is allowed,
// and one that must never hear of us.
type twins struct {
	port      string // ":PORT"
	allowed   string // 127.0.0.2:PORT
	forbidden atomic.Int64
	hits      atomic.Int64
}

// allowedAddr needs no more than a Linux machine: all of 127.0.0.0/8 is there.
const allowedAddr = "127.0.0.2"

func newTwins(t *testing.T, handler http.HandlerFunc) *twins {
	t.Helper()
	w := &twins{}
	listen := func(addr string) net.Listener {
		var lc net.ListenConfig
		ln, err := lc.Listen(context.Background(), "tcp", addr)
		if err != nil {
			return nil
		}
		return ln
	}
	serve := func(ln net.Listener, h http.HandlerFunc) {
		s := &http.Server{Handler: h} //nolint:gosec // for a test
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(ln)
		}()
		t.Cleanup(func() {
			_ = s.Close()
			<-done
		})
	}
	forbid := func(http.ResponseWriter, *http.Request) { w.forbidden.Add(1) }
	for range 100 {
		a := listen(allowedAddr + ":0")
		if a == nil {
			need.Missing(t, "%s is not an address of this machine (macOS wants it as an alias of lo0), so there are no two hosts to tell apart", allowedAddr)
		}
		_, port, _ := net.SplitHostPort(a.Addr().String())
		b := listen("127.0.0.1:" + port)
		if b == nil { // the port is somebody's there
			_ = a.Close()
			continue
		}
		w.port, w.allowed = ":"+port, a.Addr().String()
		serve(a, func(rw http.ResponseWriter, req *http.Request) {
			w.hits.Add(1)
			if handler != nil {
				handler(rw, req)
			}
		})
		serve(b, forbid)
		if c := listen("[::1]:" + port); c != nil {
			serve(c, forbid)
		}
		return w
	}
	t.Fatal("no port that is free on both addresses")
	return nil
}

// internalNames are names of the test's name server that lead inside.
var internalNames = map[string][]string{
	"loop.test.": {"127.0.0.1"}, "meta.test.": {"169.254.169.254"}, "private.test.": {"10.1.2.3", "192.168.1.1", "172.20.0.1"},
	"six.test.": {"::1"}, "mapped.test.": {"::ffff:127.0.0.1"}, "nat.test.": {"64:ff9b::7f00:1"}, "sixtofour.test.": {"2002:7f00:1::"},
	"ula.test.": {"fd00::1"}, "both.test.": {"127.0.0.1", "::1"}, "alias.test.": {"loop.test."}, "zero.test.": {"0.0.0.0"},
	"cgn.test.": {"100.64.0.1"}, "multi.test.": {"224.0.0.1"}, "xn--bcher-kva.test.": {"127.0.0.1"}, "127.0.0.1.nip.test.": {"127.0.0.1"},
	"public.test.": {"127.0.0.1"},
}

// internal are hosts that lead inside, as an attacker writes them.
var internal = []string{
	// Loopback, and other spellings of it.
	"127.0.0.1", "127.0.0.53", "127.255.255.254", "127.1", "127.0.1", "2130706433", "0x7f000001", "0X7F000001", "0x7f.0x0.0x0.0x1", "0x7f.1",
	"0177.0.0.1", "0177.1", "017700000001", "00000177.0.0.01", "127.0.0.1.", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.０.０.１", "127.0x1", "0x7f.0.01",
	// Unspecified: Linux connects to itself.
	"0.0.0.0", "0", "0x0", "00", "0.0", "0.1.2.3",
	// Private.
	"10.0.0.1", "10.255.255.255", "0xa.1", "167772161", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.257", "3232235521", "0300.0250.1",
	// Metadata services of clouds, link-local.
	"169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518", "169.254.170.2", "169.254.0.1",
	"100.100.100.200", "192.0.0.192", "[fd00:ec2::254]", "[fd20:ce::254]",
	// Shared, protocol, documentation, benchmark, multicast, reserved.
	"100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
	"224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
	// IPv6, and IPv4 within it.
	"[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:10.0.0.1]",
	"[::ffff:a9fe:a9fe]", "[0:0:0:0:0:ffff:192.168.0.1]", "[::127.0.0.1]", "[::7f00:1]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]",
	"[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2002:a9fe:a9fe::]", "[2001:0:53aa:64c::1]",
	"[fe80::1]", "[fe80::1%25lo]", "[fe80::1%eth0]", "[::1%25lo]", "[::ffff:127.0.0.1%25lo]", "[fec0::1]", "[fc00::1]", "[fdff::1]", "[ff02::1]", "[ff05::1:3]",
	"[2001:db8::1]", "[2001:10::1]", "[3fff::1]", "[100::1]", "[5f00::1]", "[4000::1]",
	// Names.
	"localhost", "LocalHost", "ｌｏｃａｌｈｏｓｔ", "localhoſt", "loop.test", "loop.test.", "LOOP.test", "meta.test", "private.test", "six.test",
	"mapped.test", "nat.test", "sixtofour.test", "ula.test", "both.test", "alias.test", "zero.test", "cgn.test", "multi.test", "bücher.test",
	"127.0.0.1.nip.test", "public.test",
	// Users that look like hosts.
	"public.test@127.0.0.1", "8.8.8.8:80@127.0.0.1", "public.test%40@127.0.0.1", "127.0.0.1@loop.test",
}

// badURIs must not be understood at all: whoever else reads them may see another
// host. PORT stands for a port with its colon.
var badURIs = []string{
	"http://public.test\\@127.0.0.1PORT/", "http://127.0.0.1PORT\\@public.test/", "http://127.0.0.1PORT\\.public.test/", "http:\\\\127.0.0.1PORT/",
	"http:127.0.0.1PORT/", "http:/127.0.0.1PORT/", "http:///127.0.0.1PORT/", "//127.0.0.1PORT/", "127.0.0.1PORT", "http://127.0.0.1\tPORT/", "http://127.\n0.0.1PORT/",
	" http://127.0.0.1PORT/", "http://127.0.0.1 PORT/", "http://127.0.0.1%00PORT/", "http://127%2e0.0.1PORT/", "http://%31%32%37.0.0.1PORT/", "http://[::1]@PORT/",
	"http://public.test@[::1PORT/", "http://a@b@127.0.0.1PORT/", "http://127.0.0.1PORTPORT/", "http://[127.0.0.1]PORT/", "http://::1PORT/", "http://127.0.0.256PORT/",
	"http://127.0.0.0xPORT1g/", "http://1.2.3.4.5PORT/", "http://127.0.0.1.0xPORT/", "ftp://127.0.0.1PORT/", "gopher://127.0.0.1PORT/_x", "file:///etc/passwdPORT", "dict://127.0.0.1PORT/", "data:text/plain,PORT",
	"jar:http://127.0.0.1PORT!/", "unix:///var/run/docker.sockPORT", "http+unix://%2fvar%2frunPORT/", "http://\u202e127.0.0.1PORT/",
}

func forbiddenClient(t *testing.T, names *nameServer) *Client {
	t.Helper()
	return newClient(t, Options{Policy: rules(t, "allow", []string{allowedAddr}, []string{"@internal"}), Resolve: names.resolve})
}

func TestInternalAddresses(t *testing.T) {
	w := newTwins(t, nil)
	c := forbiddenClient(t, newNameServer(t, internalNames))
	if n := len(internal) + len(badURIs); n < 60 {
		t.Errorf("only %d tricks", n)
	}
	check := func(what string, err error, want ...string) {
		t.Helper()
		if got := Condition(err); err == nil || !slices.Contains(want, got) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	ctx := long(t)
	for _, host := range internal {
		_, err := c.Fetch(ctx, &Request{Method: "GET", URI: "http://" + host + w.port + "/"})
		check(host, err, PolicyViolation)
		_, err = c.Fetch(ctx, &Request{Method: "GET", URI: "https://" + host + w.port + "/", IgnoreTLSErrors: true})
		check("https "+host, err, PolicyViolation)
		_, err = c.WebSocket(ctx, &Request{URI: "ws://" + host + w.port + "/"}, 1000)
		check("ws "+host, err, PolicyViolation)
		_, err = c.WebSocket(ctx, &Request{URI: "wss://" + host + w.port + "/", TrustConnectHost: true}, 1000)
		check("wss "+host, err, PolicyViolation)
		if !strings.Contains(host, "@") {
			_, err = c.Fetch(ctx, &Request{Method: "GET", URI: "http://" + w.allowed + "/", ConnectHost: host + w.port})
			check("connect host "+host, err, PolicyViolation)
		}
	}
	for _, format := range badURIs {
		uri := strings.ReplaceAll(format, "PORT", w.port)
		_, err := c.Fetch(ctx, &Request{Method: "GET", URI: uri})
		check(uri, err, BadRequest)
	}
	if n := w.forbidden.Load() + w.hits.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
	if s := c.pool.Stats(); s.Dialled != 0 {
		t.Errorf("%d connections were made", s.Dialled)
	}
}

// Wherever a redirect leads, it is judged as a request of its own.
func TestInternalRedirects(t *testing.T) {
	location := make(chan string, 1)
	code := 302 // ordered by location
	w := newTwins(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Location"] = []string{<-location}
		rw.WriteHeader(code)
	})
	c := forbiddenClient(t, newNameServer(t, internalNames))
	ctx := long(t)
	var targets []string
	for i, host := range internal {
		targets = append(targets, "http://"+host+w.port+"/")
		if i%5 == 0 {
			targets = append(targets, "//"+host+w.port+"/", "https://"+host+w.port+"/")
		}
	}
	for i, to := range targets {
		code = []int{301, 302, 303, 307, 308}[i%5]
		location <- to
		if _, err := c.Fetch(ctx, &Request{Method: "POST", URI: "http://" + w.allowed + "/", Redirects: 8}); Condition(err) != PolicyViolation {
			t.Errorf("to %s: got %v", to, err)
		}
		location <- strings.Replace(to, "http", "ws", 1)
		if _, err := c.WebSocket(ctx, &Request{URI: "ws://" + w.allowed + "/", Redirects: 8}, 1000); Condition(err) != PolicyViolation {
			t.Errorf("WebSocket to %s: got %v", to, err)
		}
	}
	for _, format := range badURIs {
		to := strings.ReplaceAll(format, "PORT", w.port)
		if strings.ContainsAny(to, "\n") || !strings.Contains(to, ":") || strings.HasPrefix(to, "//") || to[0] == ' ' || to[0] >= '0' && to[0] <= '9' {
			continue // not a Location, or one that is relative
		}
		location <- to
		if resp, err := c.Fetch(ctx, &Request{Method: "GET", URI: "http://" + w.allowed + "/", Redirects: 8}); err == nil {
			t.Errorf("to %s: got %+v", to, resp)
		}
	}
	if n := w.forbidden.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// A name server that gives another answer with every question: what was judged
// is what is connected to.
func TestRebinding(t *testing.T) {
	w := newTwins(t, nil)
	names := newNameServer(t, map[string][]string{"flip.test.": {allowedAddr, "127.0.0.1"}})
	names.mu.Lock()
	names.flip = true
	names.mu.Unlock()
	c := forbiddenClient(t, names)
	ctx := long(t)
	through, refused := 0, 0
	count := func(err error, ok bool) {
		t.Helper()
		switch {
		case ok:
			through++
		case Condition(err) == PolicyViolation:
			refused++
		default:
			t.Errorf("got %v", err)
		}
	}
	for i := range 20 {
		_, err := c.Fetch(ctx, &Request{Method: "GET", URI: "http://flip.test" + w.port + "/"})
		count(err, err == nil)
		if i%2 == 0 {
			// The kept connection leads where it was allowed to; without it the name is
			// looked up again.
			_ = c.pool.Close()
			c = forbiddenClient(t, names)
		}
		_, err = c.WebSocket(ctx, &Request{URI: "ws://flip.test" + w.port + "/"}, 1000)
		count(err, Condition(err) == Rejected)
		_, err = c.WebSocket(ctx, &Request{URI: "wss://flip.test" + w.port + "/"}, 1000)
		count(err, Condition(err) == TLSError)
	}
	if through == 0 || refused == 0 {
		t.Errorf("%d got through, %d were refused: the name server did not change its mind", through, refused)
	}
	if n := w.forbidden.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}

// Of several addresses the allowed ones are used.
func TestMixedAddresses(t *testing.T) {
	w := newTwins(t, nil)
	c := forbiddenClient(t, newNameServer(t, map[string][]string{"mix.test.": {"127.0.0.1", "10.0.0.1", allowedAddr, "::1"}}))
	for range 5 {
		if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://mix.test" + w.port + "/"}); err != nil {
			t.Error(err)
		}
	}
	if w.hits.Load() != 5 || w.forbidden.Load() != 0 {
		t.Errorf("the allowed server got %d, the other %d", w.hits.Load(), w.forbidden.Load())
	}
}

// Rules by name and port hold for URIs, connect hosts and redirects, however the
// name is written.
func TestNamesAndPorts(t *testing.T) {
	w := newTwins(t, func(rw http.ResponseWriter, req *http.Request) {
		if to := req.URL.Query().Get("to"); to != "" {
			rw.Header()["Location"] = []string{to} // http.Redirect would change it
			rw.WriteHeader(http.StatusFound)
		}
	})
	names := newNameServer(t, map[string][]string{"good.test.": {allowedAddr}, "evil.test.": {allowedAddr}, "a.bad.test.": {allowedAddr}, "xn--bse-sna.test.": {allowedAddr}})
	c := newClient(t, Options{Policy: rules(t, "allow", nil, []string{"evil.test", "*.bad.test", "xn--bse-sna.test", "good.test:81"}), Resolve: names.resolve})
	for _, host := range []string{
		"evil.test" + w.port, "EVIL.test" + w.port, "evil.test." + w.port, "ｅvil.test" + w.port, "a.bad.test" + w.port, "a.BAD.test." + w.port,
		"böse.test" + w.port, "BÖSE.test" + w.port, "u:p@evil.test" + w.port, "good.test:81", "good.test.:81",
	} {
		_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://" + host + "/"})
		wantCondition(t, err, PolicyViolation)
		_, err = c.Fetch(long(t), &Request{Method: "GET", URI: "http://good.test" + w.port + "/?to=http://" + host + "/", Redirects: 2})
		wantCondition(t, err, PolicyViolation)
		_, err = c.WebSocket(long(t), &Request{URI: "ws://" + host + "/"}, 1000)
		wantCondition(t, err, PolicyViolation)
	}
	if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://good.test" + w.port + "/"}); err != nil {
		t.Error(err)
	}

	strict := newClient(t, Options{Policy: rules(t, "deny", []string{"good.test", "127.0.0.0/8"}, []string{"127.0.0.1"}), Resolve: names.resolve})
	if _, err := strict.Fetch(long(t), &Request{Method: "GET", URI: "http://good.test" + w.port + "/"}); err != nil {
		t.Error(err)
	}
	_, err := strict.Fetch(long(t), &Request{Method: "GET", URI: "http://evil.test" + w.port + "/"})
	wantCondition(t, err, PolicyViolation)
	_, err = strict.Fetch(long(t), &Request{Method: "GET", URI: "http://127.0.0.1" + w.port + "/"})
	wantCondition(t, err, PolicyViolation)
}

// A connection that was made without the policy, or without regard to
// certificates, is not used by a request that is subject to them.
func TestPoolKeepsApart(t *testing.T) {
	w := newTwins(t, nil)
	c := forbiddenClient(t, newNameServer(t, internalNames))
	uri := "http://127.0.0.1" + w.port + "/"
	for range 3 {
		if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: uri, IgnorePolicies: true}); err != nil {
			t.Fatal(err)
		}
		_, err := c.Fetch(long(t), &Request{Method: "GET", URI: uri})
		wantCondition(t, err, PolicyViolation)
		_, err = c.Fetch(long(t), &Request{Method: "GET", URI: "http://loop.test" + w.port + "/", ConnectHost: "127.0.0.1" + w.port})
		wantCondition(t, err, PolicyViolation)
	}
	if s := c.pool.Stats(); s.Idle != 1 || s.Reused != 2 {
		t.Errorf("the connection was not there to be misused: %+v", s)
	}
	if n := w.forbidden.Load(); n != 3 {
		t.Errorf("%d requests arrived, want 3", n)
	}
}

// What the environment says about proxies is not for these requests.
func TestNoProxy(t *testing.T) {
	w := newTwins(t, nil)
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1"+w.port)
	}
	c := forbiddenClient(t, newNameServer(t, map[string][]string{"good.test.": {allowedAddr}}))
	if _, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://good.test" + w.port + "/"}); err != nil {
		t.Error(err)
	}
	if w.forbidden.Load() != 0 || w.hits.Load() != 1 {
		t.Error("the request went through a proxy")
	}
}

func TestNoIPv6(t *testing.T) {
	names := newNameServer(t, map[string][]string{"six.test.": {"2606:4700::1"}})
	c := newClient(t, Options{NoIPv6: true, Resolve: names.resolve})
	for _, host := range []string{"[2606:4700::1]", "six.test", "[::1]"} {
		_, err := c.Fetch(long(t), &Request{Method: "GET", URI: "http://" + host + ":9/"})
		wantCondition(t, err, PolicyViolation)
		_, err = c.WebSocket(long(t), &Request{URI: "ws://" + host + ":9/"}, 1000)
		wantCondition(t, err, PolicyViolation)
	}
}
