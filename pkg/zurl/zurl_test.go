package zurl

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/bus/bustest"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/netpolicy"
	"github.com/holdfast/holdfast/pkg/outbound"
	"github.com/holdfast/holdfast/test/poll"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deny(t *testing.T, patterns ...string) *netpolicy.Rules {
	t.Helper()
	r, err := netpolicy.New("allow", nil, patterns)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// rig is a zurl and a peer that asks it.
type rig struct {
	t      *testing.T
	net    *bustest.Network
	server *Server
	asker  *bustest.Node
	mu     sync.Mutex
	wait   map[uint64]chan *frame.Fetched
	token  uint64
	up     chan struct{} // closed when zurl is up
	stop   func()        // stops zurl in good order
}

func (r *rig) PeerUp(bus.Peer)                    { close(r.up) }
func (r *rig) PeerDown(bus.Peer)                  {}
func (r *rig) Broadcast(bus.Peer, string, []byte) {}
func (r *rig) Receive(_ bus.Peer, b []byte) {
	f, err := frame.Decode(b)
	fetched, ok := f.(*frame.Fetched)
	if err != nil || !ok {
		r.t.Errorf("got %v, %v", f, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wait[fetched.Token] <- fetched
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	network := bustest.NewNetwork()
	r := &rig{t: t, net: network, wait: make(map[uint64]chan *frame.Fetched), up: make(chan struct{})}
	o := DefaultOptions()
	o.Bus = network.Node("zurl.0")
	o.FetchTimeout = poll.Patience
	if change != nil {
		change(&o)
	}
	var err error
	if r.server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	r.asker = network.Node("handler.0")
	bustest.Start(t, r.asker, r)
	select {
	case <-r.up:
	case <-time.After(poll.Patience):
		t.Fatal("zurl does not come up")
	}
	return r
}

// ask sends a request and returns where its result arrives.
func (r *rig) ask(f frame.Fetch) <-chan *frame.Fetched {
	r.t.Helper()
	r.mu.Lock()
	r.token++
	f.Token = r.token
	c := make(chan *frame.Fetched, 1)
	r.wait[f.Token] = c
	r.mu.Unlock()
	if err := r.asker.Send("zurl.0", frame.Encode(&f)); err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) get(c <-chan *frame.Fetched) *frame.Fetched {
	r.t.Helper()
	select {
	case f := <-c:
		return f
	case <-time.After(poll.Patience):
		r.t.Fatal("no result")
		return nil
	}
}

func (r *rig) do(f frame.Fetch) *frame.Fetched { r.t.Helper(); return r.get(r.ask(f)) }

func (r *rig) expect(f frame.Fetch, condition string) {
	r.t.Helper()
	if got := r.do(f); got.Condition != condition {
		r.t.Errorf("%s %s: got condition %q (%s), code %d; want %q", f.Method, f.URI, got.Condition, got.Text, got.Code, condition)
	}
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func TestFetch(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		w.Header()["X-Two"] = []string{"a", "b"}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s %q %v %s", req.Method, req.URL, req.Host, body, req.Header["User-Agent"], req.Header["X-A"])
		for _, name := range []string{"Connection", "Keep-Alive", "Expect", "X-Hop"} {
			if req.Header.Get(name) != "" {
				fmt.Fprintf(w, " %s came through", name)
			}
		}
	})
	r := newRig(t, nil)
	got := r.do(frame.Fetch{
		Method: "PATCH", URI: origin.URL + "/a//b/../c?q=%20", Body: []byte("body"),
		Header: []frame.Field{
			{Name: "x-a", Value: "1"},
			{Name: "X-A", Value: "2"},
			{Name: "Host", Value: "other"},
			{Name: "Connection", Value: "X-Hop"},
			{Name: "X-Hop", Value: "1"},
			{Name: "Keep-Alive", Value: "1"},
			{Name: "Expect", Value: "100-continue"},
			{Name: "Content-Length", Value: "99"},
		},
	})
	want := fmt.Sprintf(`PATCH /a//b/../c?q=%%20 %s "body" [] [1 2]`, strings.TrimPrefix(origin.URL, "http://"))
	if got.Condition != "" || got.Code != 418 || got.Reason != "I'm a teapot" || string(got.Body) != want {
		t.Errorf("got  %+v\n%s\nwant %s", got, got.Body, want)
	}
	var two []string
	for _, h := range got.Header {
		if h.Name == "X-Two" {
			two = append(two, h.Value)
		}
	}
	if strings.Join(two, ",") != "a,b" {
		t.Errorf("got header %v", got.Header)
	}
}

// What the origin compressed arrives as it was before, and the limit is on that.
func TestCompressed(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(bytes.Repeat([]byte("x"), 100000))
		_ = z.Close()
	})
	r := newRig(t, nil)
	got := r.do(frame.Fetch{Method: "GET", URI: origin.URL})
	if len(got.Body) != 100000 || http1.Has(got.Header, "Content-Encoding") {
		t.Errorf("got %d bytes, %v", len(got.Body), got.Header)
	}
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL, MaxBody: 99999}, outbound.MaxSizeExceeded)
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, nil)
	for _, f := range []frame.Fetch{
		{Method: "GET"},
		{Method: "", URI: "http://localhost/"},
		{Method: "G T", URI: "http://localhost/"},
		{Method: "GET", URI: "ftp://localhost/"},
		{Method: "GET", URI: "http://"},
		{Method: "GET", URI: "http://local host/"},
		{Method: "GET", URI: "http://localhost/", Header: []frame.Field{{Name: "A", Value: "b\r\nC: d"}}},
		{Method: "GET", URI: "http://localhost/", Header: []frame.Field{{Name: "A b", Value: "c"}}},
	} {
		r.expect(f, outbound.BadRequest)
	}
	r.expect(frame.Fetch{Method: "HEAD", URI: "http://localhost/", Body: []byte("x")}, outbound.BodyNotAllowed)
}

func TestConnectionFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := "http://" + ln.Addr().String()
	_ = ln.Close()
	reset := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, "nonsense\r\n\r\n")
			_ = c.Close()
		}
	})
	r := newRig(t, nil)
	r.expect(frame.Fetch{Method: "GET", URI: refused}, outbound.ConnectionFailed)
	r.expect(frame.Fetch{Method: "GET", URI: "http://name.invalid/"}, outbound.ConnectionFailed)
	r.expect(frame.Fetch{Method: "GET", URI: reset.URL}, outbound.Undefined)
}

func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/body" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}
		<-release
	})
	defer close(release)
	r := newRig(t, nil)
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL, Millis: 50}, outbound.SessionTimeout)
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL + "/body", Millis: 50}, outbound.SessionTimeout)
}

func TestRedirects(t *testing.T) {
	other := serve(t, func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "sig=%s auth=%s a=%s", req.Header.Get("Grip-Sig"), req.Header.Get("Authorization"), req.Header.Get("A"))
	})
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/loop":
			http.Redirect(w, req, "/loop", http.StatusFound)
		case "/once":
			http.Redirect(w, req, "/end", http.StatusTemporaryRedirect)
		case "/away":
			http.Redirect(w, req, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
		case "/ftp":
			http.Redirect(w, req, "ftp://127.0.0.1/", http.StatusFound)
		case "/end":
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(w, "%s %s", req.Method, body)
		}
	})
	r := newRig(t, nil)
	if got := r.do(frame.Fetch{Method: "GET", URI: origin.URL + "/once"}); got.Code != 307 || got.Condition != "" {
		t.Errorf("redirect that was not asked for: got %+v", got)
	}
	if got := r.do(frame.Fetch{Method: "POST", URI: origin.URL + "/once", Body: []byte("x"), Redirects: 1}); string(got.Body) != "POST x" {
		t.Errorf("got %+v", got)
	}
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL + "/loop", Redirects: 255}, outbound.TooManyRedirects)
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL + "/ftp", Redirects: 1}, outbound.Undefined)
	header := []frame.Field{{Name: "Grip-Sig", Value: "secret"}, {Name: "Authorization", Value: "secret"}, {Name: "A", Value: "1"}}
	if got := r.do(frame.Fetch{Method: "GET", URI: origin.URL + "/away", Redirects: 1, Header: header}); string(got.Body) != "sig= auth= a=1" {
		t.Errorf("to another host: got %+v %s", got, got.Body)
	}
}

// The policy is asked about names and addresses, also behind a redirect and for
// the connect host, and a trusted request's connection does not help an
// untrusted one past it.
func TestPolicy(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if to := req.URL.Query().Get("to"); to != "" {
			http.Redirect(w, req, to, http.StatusFound)
		}
	})
	port := origin.URL[strings.LastIndex(origin.URL, ":"):]
	r := newRig(t, func(o *Options) { o.Policy = deny(t, "forbidden.test", "@internal") })
	r.expect(frame.Fetch{Method: "GET", URI: "http://forbidden.test/"}, outbound.PolicyViolation)
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL, Trusted: true}, "")
	for _, uri := range []string{origin.URL, "http://2130706433" + port, "http://[::ffff:127.0.0.1]" + port} {
		// Some resolvers do not take the number for an address; that is a refusal too.
		if got := r.do(frame.Fetch{Method: "GET", URI: uri}); got.Condition != outbound.PolicyViolation && got.Condition != outbound.ConnectionFailed {
			t.Errorf("%s: got %+v", uri, got)
		}
	}
	r.expect(frame.Fetch{Method: "GET", URI: "http://name.invalid/", ConnectHost: "127.0.0.1" + port}, outbound.PolicyViolation)

	r = newRig(t, func(o *Options) { o.Policy = deny(t, "forbidden.test") })
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL + "?to=http://forbidden.test/", Redirects: 1}, outbound.PolicyViolation)
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL, ConnectHost: "forbidden.test"}, outbound.PolicyViolation)
}

func TestConnectHost(t *testing.T) {
	origin := serve(t, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.Host) })
	r := newRig(t, nil)
	got := r.do(frame.Fetch{Method: "GET", URI: "http://name.invalid/", ConnectHost: strings.TrimPrefix(origin.URL, "http://")})
	if string(got.Body) != "name.invalid" {
		t.Errorf("got %+v", got)
	}
	r.expect(frame.Fetch{Method: "GET", URI: "http://name.invalid/"}, outbound.ConnectionFailed)
}

func TestTLS(t *testing.T) {
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	origin.Config.ErrorLog = log.New(io.Discard, "", 0)
	origin.StartTLS()
	t.Cleanup(origin.Close)
	plain := serve(t, func(http.ResponseWriter, *http.Request) {})

	r := newRig(t, nil)
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL}, outbound.TLSError)
	r.expect(frame.Fetch{Method: "GET", URI: strings.Replace(plain.URL, "http:", "https:", 1)}, outbound.TLSError)

	roots := x509.NewCertPool()
	roots.AddCert(origin.Certificate())
	r = newRig(t, func(o *Options) { o.RootCAs = roots })
	r.expect(frame.Fetch{Method: "GET", URI: origin.URL}, "")
	wrongName := strings.Replace(origin.URL, "127.0.0.1", "localhost", 1)
	r.expect(frame.Fetch{Method: "GET", URI: wrongName}, outbound.TLSError)
}

// Requests beyond MaxOpen wait, in order; beyond MaxQueued they are refused.
func TestBounds(t *testing.T) {
	started := make(chan string)
	release := make(chan struct{})
	origin := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		started <- req.URL.Path
		<-release
	})
	registry := prometheus.NewRegistry()
	r := newRig(t, func(o *Options) { o.MaxFetches, o.MaxQueued, o.Registerer = 1, 2, registry })
	ask := func(path string) <-chan *frame.Fetched {
		return r.ask(frame.Fetch{Method: "GET", URI: origin.URL + path})
	}
	first := ask("/1")
	if got := <-started; got != "/1" {
		t.Fatal(got)
	}
	second, third := ask("/2"), ask("/3")
	if got := r.get(ask("/4")); got.Condition != conditionTooBusy {
		t.Errorf("got %+v, want %s", got, conditionTooBusy)
	}
	if n := testutil.ToFloat64(r.server.metrics.queued); n != 2 {
		t.Errorf("%v are queued, want 2", n)
	}
	for i, c := range []<-chan *frame.Fetched{first, second, third} {
		release <- struct{}{}
		if got := r.get(c); got.Code != 200 {
			t.Errorf("request %d: got %+v", i+1, got)
		}
		if i < 2 {
			if got, want := <-started, fmt.Sprintf("/%d", i+2); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	if n := testutil.ToFloat64(r.server.metrics.results.WithLabelValues("2xx")); n != 3 {
		t.Errorf("counted %v responses, want 3", n)
	}
}

// A request ends when the boot that asked is gone.
func TestPeerDown(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	origin := serve(t, func(_ http.ResponseWriter, req *http.Request) {
		close(started)
		<-req.Context().Done()
		close(ended)
	})
	r := newRig(t, nil)
	r.ask(frame.Fetch{Method: "GET", URI: origin.URL})
	<-started
	r.net.Kill("handler.0")
	select {
	case <-ended:
	case <-time.After(poll.Patience):
		t.Error("the request goes on")
	}
}

// A stop lets open requests finish, and ends them when the time is over.
func TestStop(t *testing.T) {
	for name, patience := range map[string]time.Duration{"finish": time.Minute, "give up": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			started, release := make(chan struct{}), make(chan struct{})
			origin := serve(t, func(_ http.ResponseWriter, req *http.Request) {
				close(started)
				select {
				case <-release:
				case <-req.Context().Done():
				}
			})
			r := newRig(t, func(o *Options) { o.DrainTime = patience })
			c := r.ask(frame.Fetch{Method: "GET", URI: origin.URL})
			<-started
			want := outbound.Stopping
			if name == "finish" {
				want = ""
				go func() {
					poll.Until(t, "refusal of further requests", func() bool {
						return r.server.enqueue(bus.Peer{Name: "x", Boot: 1}, &frame.Fetch{}) == outbound.Stopping
					})
					close(release)
				}()
			}
			go r.stop()
			if got := r.get(c); got.Condition != want {
				t.Errorf("got %+v, want condition %q", got, want)
			}
			r.stop()
		})
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("took empty options")
	}
	o := DefaultOptions()
	o.Bus = bustest.NewNetwork().Node("zurl.0")
	o.Registerer = prometheus.NewRegistry()
	if _, err := New(o); err != nil {
		t.Error(err)
	}
	var dup prometheus.AlreadyRegisteredError
	if _, err := New(o); !errors.As(err, &dup) {
		t.Errorf("two servers in one registry: got %v", err)
	}
}
