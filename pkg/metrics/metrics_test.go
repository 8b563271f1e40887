package metrics

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs a listener for the time of the test and returns a client for it.
func run(t *testing.T, addr net.Addr, serve func(context.Context) error) *http.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, addr.Network(), addr.String())
	}}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &http.Client{Transport: tr}
}

func get(t *testing.T, c *http.Client, path string) (int, string) {
	t.Helper()
	resp, err := c.Get("http://x" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestAdmin(t *testing.T) {
	notReady := errors.New("waiting for records")
	for name, spec := range map[string]string{"tcp": "127.0.0.1:0", "bare port": "0", "unix": "ipc://" + filepath.Join(t.TempDir(), "a")} {
		t.Run(name, func(t *testing.T) {
			ready := notReady
			a, err := NewAdmin(AdminOptions{Spec: spec, Gatherer: NewRegistry("proxy.0", "1.2.3"), Ready: func() error { return ready }})
			if err != nil {
				t.Fatal(err)
			}
			if tcp, ok := a.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
				t.Errorf("listens on %v", tcp)
			}
			c := run(t, a.Addr(), a.Run)
			if code, body := get(t, c, "/healthz"); code != 200 || body != "ok\n" {
				t.Errorf("healthz: got %d %q", code, body)
			}
			if code, body := get(t, c, "/readyz"); code != 503 || body != "waiting for records\n" {
				t.Errorf("readyz: got %d %q", code, body)
			}
			ready = nil
			if code, _ := get(t, c, "/readyz"); code != 200 {
				t.Errorf("readyz: got %d", code)
			}
			if code, body := get(t, c, "/metrics"); code != 200 || !strings.Contains(body, `instance_name="proxy.0",version="1.2.3"} 1`) || !strings.Contains(body, "go_goroutines") {
				t.Errorf("metrics: got %d %q", code, body)
			}
			if code, _ := get(t, c, "/debug/pprof/"); code != 404 {
				t.Errorf("pprof without being asked: got %d", code)
			}
		})
	}
}

func TestPprof(t *testing.T) {
	a, err := NewAdmin(AdminOptions{Spec: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Pprof: true})
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, a.Addr(), a.Run)
	if code, body := get(t, c, "/debug/pprof/goroutine?debug=1"); code != 200 || !strings.Contains(body, "goroutine profile") {
		t.Errorf("got %d %q", code, body)
	}
}

func TestPushpinForm(t *testing.T) {
	r := prometheus.NewRegistry()
	sent := prometheus.NewCounter(prometheus.CounterOpts{Name: "p_message_sent", Help: "Messages sent"})
	conns := prometheus.NewGauge(prometheus.GaugeOpts{Name: "p_connection_connected", Help: "Connections"})
	other := prometheus.NewGauge(prometheus.GaugeOpts{Name: "p_other", Help: "Not Pushpin's"})
	r.MustRegister(sent, conns, other)
	sent.Add(1e7)
	conns.Set(3)
	p, err := NewPushpin("127.0.0.1:0", "p_", r, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, p.Addr(), p.Run)
	want := `# HELP p_connection_connected Connections
# TYPE p_connection_connected gauge
p_connection_connected 3
# HELP p_message_sent Messages sent
# TYPE p_message_sent counter
p_message_sent 10000000
`
	if code, body := get(t, c, "/any/path"); code != 200 || body != want {
		t.Errorf("got %d\n%s\nwant\n%s", code, body, want)
	}
}

func TestListen(t *testing.T) {
	for _, spec := range []string{"", "host", "70000", "127.0.0.1:x", "ipc:///nowhere/at/all"} {
		if ln, err := Listen(spec, ""); err == nil {
			t.Errorf("%q: listens on %v", spec, ln.Addr())
			_ = ln.Close()
		}
	}
}

// The socket of a process that was killed is replaced, that of one that lives is
// not.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	first.SetUnlinkOnClose(false)
	if ln, err := Listen("ipc://"+path, ""); err == nil {
		t.Error("took the socket of a living process")
		_ = ln.Close()
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ln, err := Listen("ipc://"+path, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
}
