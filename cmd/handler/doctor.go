package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast/holdfast/cmd/internal/cli"
	"github.com/holdfast/holdfast/pkg/config"
	"github.com/holdfast/holdfast/pkg/grip"
	"github.com/holdfast/holdfast/pkg/route"
)

// doctorTimeout limits each attempt to reach something.
const doctorTimeout = 2 * time.Second

// doctorCommand is "handler doctor". It belongs to no process more than to the
// others; it is here next to publish, the other tool for operators.
func doctorCommand(load func() (*config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps Holdfast from working, and say what to do",
		Long: "Look for what keeps Holdfast from working, and say what to do. It checks the configuration, the run directory,\n" +
			"the ports, the routes and their targets, the signature key and the limit of open files, whether Holdfast runs or\n" +
			"not. The exit code is 1 if something is wrong; warnings do not count.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{ctx: cmd.Context(), out: cmd.OutOrStdout()}
			c, err := load()
			if err != nil {
				for line := range strings.Lines(err.Error()) {
					d.fail("configuration", strings.TrimSuffix(line, "\n"))
				}
			} else {
				d.examine(c)
			}
			if d.failed > 0 {
				return cli.PlainError{Err: fmt.Errorf("%d to be repaired", d.failed)}
			}
			return d.err
		},
	}
}

// doctor writes what it finds.
type doctor struct {
	ctx    context.Context //nolint:containedctx // it lives as long as one command
	out    io.Writer
	failed int
	err    error // of out
}

func (d *doctor) say(verdict, what, text string) {
	if _, err := fmt.Fprintf(d.out, "%-5s %s: %s\n", verdict, what, text); err != nil {
		d.err = err
	}
}

func (d *doctor) ok(what, text string)   { d.say("ok", what, text) }
func (d *doctor) warn(what, text string) { d.say("warn", what, text) }
func (d *doctor) fail(what, text string) {
	d.failed++
	d.say("FAIL", what, text)
}

func (d *doctor) examine(c *config.Config) {
	file := c.File
	if file == "" {
		file = "there is no file; the defaults hold"
	}
	d.ok("configuration", file)
	for _, n := range c.Notices {
		if n.Kind != config.NotActedOn {
			d.warn("configuration", n.String())
		}
	}
	for _, u := range c.Unused(nil) {
		d.say("note", "configuration", "without effect: "+u.Brief())
	}
	d.runDir(c)
	d.listeners(c)
	d.publishing(c)
	d.routes(c)
	d.signature(c)
	d.files(c)
}

// runDir looks at the directory of the sockets.
func (d *doctor) runDir(c *config.Config) {
	dir := c.Global.RunDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := filepath.Dir(filepath.Clean(dir))
		for parent != "/" && parent != "." && errors.Is(syscall.Access(parent, 0), fs.ErrNotExist) {
			parent = filepath.Dir(parent)
		}
		if err := syscall.Access(parent, 2); err != nil {
			d.fail("run directory", fmt.Sprintf("%s does not exist and cannot be made in %s (%v): make it, or change global.rundir", dir, parent, err))
			return
		}
		d.ok("run directory", dir+" will be made")
		return
	case err != nil:
		d.fail("run directory", err.Error()+": change global.rundir")
		return
	case !info.IsDir():
		d.fail("run directory", dir+" is not a directory: move it away, or change global.rundir")
		return
	case syscall.Access(dir, 7) != nil:
		d.fail("run directory", dir+" cannot be written to: give it to the user that Holdfast runs as (chown)")
		return
	}
	if info.Mode().Perm()&0o022 != 0 {
		d.warn("run directory", fmt.Sprintf("others may write to %s, and so take over the bus: chmod go-w %s", dir, dir))
		return
	}
	d.ok("run directory", dir)
}

// alive reports whether an instance of kind answers at its bus socket.
func (d *doctor) alive(c *config.Config, kind string) bool {
	sockets, err := filepath.Glob(filepath.Join(c.Global.RunDir, c.Global.IPCPrefix+kind+".*.in"))
	return err == nil && slices.ContainsFunc(sockets, func(path string) bool { return d.reach("unix", path) == nil })
}

func (d *doctor) reach(network, addr string) error {
	dialer := net.Dialer{Timeout: doctorTimeout}
	conn, err := dialer.DialContext(d.ctx, network, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// port looks whether an address can be listened at, or is taken by kind.
func (d *doctor) port(c *config.Config, what, key, network, addr, kind string) {
	if network == "unix" {
		if err := d.reach(network, addr); err == nil && !d.alive(c, kind) {
			d.fail(what, fmt.Sprintf("%s is taken by another program: stop that, or change %s", addr, key))
			return
		}
		d.ok(what, addr)
		return
	}
	var lc net.ListenConfig
	l, err := lc.Listen(d.ctx, network, addr)
	switch {
	case err == nil:
		_ = l.Close()
		if d.alive(c, kind) {
			d.fail(what, fmt.Sprintf("%s runs, but does not listen at %s: restart it, since this configuration is newer than it", kind, addr))
			return
		}
		d.ok(what, addr+" is free")
	case errors.Is(err, syscall.EADDRINUSE) && d.alive(c, kind):
		d.ok(what, addr+" is served by "+kind)
	case errors.Is(err, syscall.EADDRINUSE):
		d.fail(what, fmt.Sprintf("%s is taken by another program (ss -ltnp shows which): stop that, or change %s", addr, key))
	case errors.Is(err, syscall.EACCES):
		d.fail(what, fmt.Sprintf("%s is not allowed for this user: choose a port from 1024 up in %s, or give the program CAP_NET_BIND_SERVICE", addr, key))
	default:
		d.fail(what, fmt.Sprintf("%v: change %s", err, key))
	}
}

func (d *doctor) listeners(c *config.Config) {
	all, err := c.Listeners()
	if err != nil {
		d.fail("client port", err.Error())
		return
	}
	if len(all) == 0 {
		d.warn("client port", "there is none: set runner.http_port")
	}
	for _, l := range all {
		key := "runner.http_port"
		switch {
		case l.Network == "unix":
			key = "runner.local_ports"
		case l.TLS:
			key = "runner.https_ports"
		}
		d.port(c, "client port", key, l.Network, l.Addr, "connmgr")
		if l.TLS && l.Network == "tcp" {
			d.certificate(c, l.Addr)
		}
	}
}

// certificate looks for what an HTTPS port shows to clients.
func (d *doctor) certificate(c *config.Config, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return // Listeners has judged it
	}
	dir := c.Path(filepath.Join("runner", "certs"))
	name := filepath.Join(dir, "default_"+port)
	what := "certificate for " + addr
	switch _, err := tls.LoadX509KeyPair(name+".crt", name+".key"); {
	case err == nil:
		d.ok(what, name+".crt")
	case !errors.Is(err, fs.ErrNotExist):
		d.fail(what, fmt.Sprintf("%s.crt and .key: %v", name, err))
	default:
		if files, err := filepath.Glob(filepath.Join(dir, "*.crt")); err == nil && slices.ContainsFunc(files, func(f string) bool { return !strings.HasPrefix(filepath.Base(f), "default_") }) {
			d.warn(what, fmt.Sprintf("only clients that ask for one of the names in %s are served; %s.crt and .key would be for all others", dir, name))
			return
		}
		d.fail(what, fmt.Sprintf("there is none: put it into %s.crt and .key (PEM)", name))
	}
}

// publishing looks at the interfaces of publishers.
func (d *doctor) publishing(c *config.Config) {
	h := c.Handler
	specs := map[string]string{"handler.push_in_spec": h.PushInSpec, "handler.command_spec": h.CommandSpec}
	if !h.PushInSubConnect && len(h.PushInSubSpecs) > 0 {
		specs["handler.push_in_sub_specs"] = h.PushInSubSpecs[0]
	}
	for _, key := range []string{"handler.push_in_spec", "handler.push_in_sub_specs", "handler.command_spec"} {
		network, addr := "tcp", strings.Replace(strings.TrimPrefix(specs[key], "tcp://"), "*:", ":", 1)
		if path, ok := strings.CutPrefix(addr, "ipc://"); ok {
			network, addr = "unix", path
		}
		if addr == "" {
			continue
		}
		d.port(c, "publishing", key, network, addr, "handler")
		if host, _, err := net.SplitHostPort(addr); network == "tcp" && err == nil && !loopback(host) {
			d.warn("publishing", fmt.Sprintf("other hosts can reach %s, and it takes everybody: set %s to tcp://127.0.0.1:PORT, or see to a firewall", specs[key], key))
		}
	}
	if local, err := c.ControlSocket(); err == nil && local.Addr != "" {
		d.port(c, "control API", "handler.push_in_http_local", local.Network, local.Addr, "handler")
	}
	if h.PushInHTTPPort < 0 {
		return
	}
	addr := net.JoinHostPort(h.PushInHTTPAddr, strconv.Itoa(h.PushInHTTPPort))
	d.port(c, "control API", "handler.push_in_http_port", "tcp", addr, "handler")
	if !loopback(h.PushInHTTPAddr) &&
		h.PushInHTTPTLSClientCA == "" && h.PushInHTTPAuthKey == "" && h.PushInHTTPAuthToken == "" && h.PushInHTTPAuthUser == "" {
		d.warn("control API", "other hosts can reach it, and it takes everybody: set handler.push_in_http_auth_key, or push_in_http_addr=127.0.0.1")
	}
	if d.alive(c, "handler") && h.PushInHTTPTLSCert == "" { // over TLS it may want a certificate that is not ours to use
		d.control(addr)
	}
}

// loopback reports whether only this host can reach what listens at a host.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// control asks a control API that should be ours.
func (d *doctor) control(addr string) {
	if host, port, err := net.SplitHostPort(addr); err == nil {
		addr = net.JoinHostPort(reachable(host), port)
	}
	ctx, cancel := context.WithTimeout(d.ctx, doctorTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		d.fail("control API", err.Error())
		return
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		d.fail("control API", fmt.Sprintf("handler runs, but does not answer: %v; see its log", err))
		return
	}
	defer func() { _ = res.Body.Close() }()
	switch res.StatusCode {
	case http.StatusOK, http.StatusUnauthorized:
		d.ok("control API", "answers "+res.Status)
	default:
		d.fail("control API", "answers "+res.Status+": see the log of handler")
	}
}

func (d *doctor) routes(c *config.Config) {
	name := c.Path(c.Proxy.RoutesFile)
	f, err := os.Open(name)
	if err != nil {
		d.fail("routes", fmt.Sprintf("%v: make it, with a line such as \"* localhost:8000\", or change proxy.routesfile", err))
		return
	}
	defer func() { _ = f.Close() }() // only read
	table, warnings, err := route.Parse(name, f, nil)
	if err != nil {
		d.fail("routes", err.Error())
		return
	}
	for _, w := range warnings {
		d.fail("routes", w)
	}
	if table.Len() == 0 {
		d.fail("routes", name+" has no route: add a line such as \"* localhost:8000\"")
		return
	}
	d.ok("routes", fmt.Sprintf("%s has %d", name, table.Len()))
	seen := make(map[string]bool)
	for _, r := range table.Routes() {
		for _, text := range r.Unsupported {
			d.warn("routes", r.Pos()+": "+text)
		}
		for _, t := range r.Targets {
			if t.Kind != route.TargetHTTP || seen[fmt.Sprint(t.Name, t.TLS, t.Insecure)] {
				continue
			}
			seen[fmt.Sprint(t.Name, t.TLS, t.Insecure)] = true
			d.target(r, t)
		}
	}
}

// target connects to an origin.
func (d *doctor) target(r *route.Route, t route.Target) {
	what := "target " + t.Name
	addr := net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	dialer := net.Dialer{Timeout: doctorTimeout}
	conn, err := dialer.DialContext(d.ctx, "tcp", addr)
	if err != nil {
		d.fail(what, fmt.Sprintf("%v: start the backend, or change %s", err, r.Pos()))
		return
	}
	defer func() { _ = conn.Close() }()
	if !t.TLS {
		d.ok(what, "answers")
		return
	}
	name := t.URIHost
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if name == "" {
		name = t.Host
	}
	_ = conn.SetDeadline(time.Now().Add(doctorTimeout))
	// With a route for any host the name in the certificate cannot be known here.
	tc := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: t.Insecure || t.URIHost == "", MinVersion: tls.VersionTLS12}) //nolint:gosec // nothing is sent
	err = tc.HandshakeContext(d.ctx)
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &plain):
		d.fail(what, fmt.Sprintf("it does not speak TLS: take ,ssl off the target at %s, or use the port for HTTPS", r.Pos()))
	case err != nil:
		d.fail(what, fmt.Sprintf("TLS: %v; see %s", err, r.Pos()))
	default:
		d.ok(what, "answers, with TLS")
	}
}

// signature looks whether backends can tell that a request is from us.
func (d *doctor) signature(c *config.Config) {
	switch key := c.Proxy.SigKey; key {
	case "":
		d.warn("signature", "requests are not signed, so the backend cannot tell them from others: set proxy.sig_key to a secret that the backend knows")
	case "changeme":
		d.fail("signature", "proxy.sig_key is the well-known \"changeme\": set it to a secret of your own")
	default:
		if _, err := grip.ParseSigningKey(key, c.Dir); err != nil {
			d.fail("signature", fmt.Sprintf("proxy.sig_key: %v", err))
			return
		}
		d.ok("signature", "requests are signed by "+c.Proxy.SigIss)
	}
}

// files looks at the limit of open files.
func (d *doctor) files(c *config.Config) {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		d.warn("open files", err.Error())
		return
	}
	want := uint64(c.Runner.ClientMaxConn) + 1024
	if lim.Max < want {
		d.warn("open files", fmt.Sprintf("%d are allowed, %d are needed for runner.client_maxconn=%d: raise ulimit -Hn or LimitNOFILE, or lower client_maxconn",
			lim.Max, want, c.Runner.ClientMaxConn))
		return
	}
	d.ok("open files", fmt.Sprintf("%d are allowed", lim.Max))
}
