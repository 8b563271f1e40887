//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// system is something that can be measured.
type system struct {
	name  string
	title string
	// colour in drawings. They can be told apart without seeing red and green.
	colour string
	grip   bool // holds by GRIP, with an origin behind it
	proxy  bool // passes plain requests on
	ws     bool
	needs  []string // programs and files without which it cannot run
	start  func(ctx context.Context, g *group, o *options, m measurement, origin netip.AddrPort) (*instance, error)
}

// instance is a running system as its clients see it.
type instance struct {
	target      netip.AddrPort
	publish     netip.AddrPort
	publishPath string
	zmq         netip.AddrPort // invalid: it has none
	receive     netip.AddrPort // where webhooks are sent, if any are
	// raw says that a publish is the message alone; otherwise it is a GRIP item.
	raw bool
	// What subscribers send, and by what they know that they are held.
	header    string
	readyHead bool
}

func systems() []system {
	return []system{
		{name: "holdfast", title: "Holdfast", colour: "#0072b2", grip: true, proxy: true, ws: true, start: startHoldfast},
		{name: "pushpin", needs: []string{"pushpin", "condure", "zurl", pushpinSockets}, title: "Pushpin", colour: "#d55e00", grip: true, proxy: true, ws: true, start: startPushpin},
		{name: "nchan", needs: []string{nginx, nchanModule}, title: "nchan", colour: "#009e73", proxy: true, ws: true, start: startNchan},
		{name: "floor", title: "floor", colour: "#8a8a8a", proxy: true, start: startFloor},
	}
}

// Where Debian puts what is not in everybody's PATH.
const (
	nginx          = "/usr/sbin/nginx"
	nchanModule    = "/usr/lib/nginx/modules/ngx_nchan_module.so"
	pushpinSockets = "/usr/lib/pushpin/internal.conf"
)

// missing returns what a system lacks to run, "" if nothing.
func (s system) missing() string {
	for _, n := range s.needs {
		if _, err := exec.LookPath(n); err == nil {
			continue
		}
		if _, err := os.Stat(n); !filepath.IsAbs(n) || err != nil {
			return n
		}
	}
	return ""
}

// routes sends WebSockets under /ws to the origin as HTTP, all else as it is.
func routes(origin netip.AddrPort) string {
	return fmt.Sprintf("*,path_beg=/ws %[1]s,over_http\n* %[1]s\n", origin)
}

func writeFiles(dir string, files map[string]string) error {
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func startHoldfast(ctx context.Context, g *group, o *options, m measurement, origin netip.AddrPort) (*instance, error) {
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	more := ""
	if o.pprof {
		more = "[admin]\npprof=true\n"
	}
	if m.webhooks > 0 {
		more += "[zurl]\nallow=127.0.0.1\n"
	}
	err = writeFiles(g.dir, map[string]string{
		"routes":   routes(origin),
		"webhooks": webhooks(m.webhooks, local(ports[5])),
		"holdfast.conf": fmt.Sprintf(`[global]
rundir=%[1]s/run
[runner]
http_port=127.0.0.1:%[2]d
logdir=%[1]s
log_level=1
client_maxconn=50000
[proxy]
routesfile=%[1]s/routes
[handler]
push_in_spec=tcp://127.0.0.1:%[3]d
push_in_http_addr=127.0.0.1
push_in_http_port=%[4]d
push_in_sub_specs=tcp://127.0.0.1:%[5]d
command_spec=tcp://127.0.0.1:%[6]d
%[7]s`, g.dir, ports[0], ports[1], ports[2], ports[3], ports[4], more),
	})
	if err != nil {
		return nil, err
	}
	args := []string{o.holdfast, "--config", filepath.Join(g.dir, "holdfast.conf")}
	if m.connmgrs > 1 {
		args = append(args, "--set", fmt.Sprintf("runner.instances=connmgr:%d", m.connmgrs))
	}
	for _, setting := range strings.Fields(o.set) {
		args = append(args, "--set", setting)
	}
	if err := g.start("holdfast", args...); err != nil {
		return nil, err
	}
	in := &instance{target: local(ports[0]), publish: local(ports[2]), publishPath: "/publish/", zmq: local(ports[1])}
	if m.webhooks > 0 {
		in.receive = local(ports[5])
	}
	return in, g.waitGrip(ctx, in, "holdfast")
}

// webhooks is a file of endpoints, one for each of n channels, as the load client
// expects them.
func webhooks(n int, to netip.AddrPort) string {
	type endpoint struct {
		ID       string   `json:"id"`
		URL      string   `json:"url"`
		Channels []string `json:"channels"`
	}
	all := make([]endpoint, n)
	for i := range all {
		all[i] = endpoint{fmt.Sprint("e", i), fmt.Sprintf("http://%s/hook/%d", to, i), []string{fmt.Sprint("c", i)}}
	}
	b, err := json.Marshal(map[string]any{"endpoints": all})
	if err != nil {
		panic(err) // strings can be marshalled
	}
	return string(b)
}

// waitGrip waits until a GRIP proxy passes requests on and takes publishes.
func (g *group) waitGrip(ctx context.Context, in *instance, name string) error {
	err := waitFor(ctx, "http://"+in.target.String()+"/small")
	if err == nil {
		err = waitListen(ctx, in.publish, in.zmq)
	}
	if err != nil {
		return fmt.Errorf("%w%s", err, g.tail(name))
	}
	return nil
}

// startPushpin starts Debian's Pushpin with its runner, and zurl beside it, which
// Debian runs as a service of its own. By default it limits itself to 2,500
// deliveries a second. With a high limit it collects messages for 25 ms and
// hands out a batch, which suits a fan-out to thousands; without a limit it does
// not, which suits many small publishes. It gets what is better for the row.
func startPushpin(ctx context.Context, g *group, _ *options, m measurement, origin netip.AddrPort) (*instance, error) {
	rate, hwm := 1000000, 10000000
	if m.manyChannels {
		rate, hwm = -1, -1
	}
	ports, err := freePorts(5)
	if err != nil {
		return nil, err
	}
	base, err := os.ReadFile(pushpinSockets)
	if err != nil {
		return nil, err
	}
	var internal strings.Builder
	for line := range strings.Lines(string(base)) {
		if !strings.HasPrefix(line, "zurl_") {
			internal.WriteString(line)
		}
	}
	if err := os.MkdirAll(filepath.Join(g.dir, "run"), 0o700); err != nil {
		return nil, err
	}
	err = writeFiles(g.dir, map[string]string{
		"routes":        routes(origin),
		"internal.conf": internal.String(),
		"zurl.conf": fmt.Sprintf(`[General]
in_spec=ipc://%[1]s/run/zurl-in
in_stream_spec=ipc://%[1]s/run/zurl-in-stream
out_spec=ipc://%[1]s/run/zurl-out
defpolicy=allow
max_open_requests=10000
buffer_size=200000
timeout=600
in_hwm=100000
out_hwm=100000
`, g.dir),
		"pushpin.conf": fmt.Sprintf(`[global]
include=%[1]s/internal.conf
rundir=%[1]s/run
ipc_prefix=pushpin-
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:%[2]d
logdir=%[1]s
log_level=1
client_buffer_size=8192
client_maxconn=50000
condure_bin=condure
[proxy]
routesfile=%[1]s/routes
zurl_out_specs=ipc://%[1]s/run/zurl-in
zurl_out_stream_specs=ipc://%[1]s/run/zurl-in-stream
zurl_in_specs=ipc://%[1]s/run/zurl-out
updates_check=off
[handler]
push_in_spec=tcp://127.0.0.1:%[3]d
push_in_http_addr=127.0.0.1
push_in_http_port=%[4]d
push_in_sub_specs=tcp://127.0.0.1:%[5]d
command_spec=tcp://127.0.0.1:%[6]d
stats_spec=ipc://{rundir}/{ipc_prefix}stats
message_rate=%[7]d
message_hwm=%[8]d
message_wait=5000
id_cache_ttl=60
connection_subscription_max=20
subscription_linger=60
`, g.dir, ports[0], ports[1], ports[2], ports[3], ports[4], rate, hwm),
	})
	if err != nil {
		return nil, err
	}
	if err := g.start("zurl", "zurl", "--config="+filepath.Join(g.dir, "zurl.conf")); err != nil {
		return nil, err
	}
	if err := g.start("pushpin", "pushpin", "--config="+filepath.Join(g.dir, "pushpin.conf")); err != nil {
		return nil, err
	}
	in := &instance{target: local(ports[0]), publish: local(ports[2]), publishPath: "/publish/", zmq: local(ports[1])}
	return in, g.waitGrip(ctx, in, "pushpin")
}

// startNchan starts nginx with the nchan module: subscribers and publisher in
// nginx itself, and plain locations for proxying.
func startNchan(ctx context.Context, g *group, o *options, _ measurement, origin netip.AddrPort) (*instance, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // the directory is private
	}
	err = writeFiles(g.dir, map[string]string{"nginx.conf": fmt.Sprintf(`load_module %[1]s;
%[2]s
daemon off;
worker_processes %[3]d;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log nginx-error.log warn;
events { worker_connections 16384; }
http {
  access_log off;
  client_body_temp_path tmp-body; proxy_temp_path tmp-proxy; fastcgi_temp_path tmp-fastcgi;
  uwsgi_temp_path tmp-uwsgi; scgi_temp_path tmp-scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  nchan_shared_memory_size 256M;
  upstream origin { server %[4]s; keepalive 128; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%[5]d backlog=4096;
    location /stream { nchan_subscriber http-chunked; nchan_channel_id $arg_channel; nchan_subscriber_first_message newest; }
    location /poll { nchan_subscriber longpoll; nchan_channel_id $arg_channel; nchan_subscriber_first_message newest; }
    location /ws { nchan_subscriber websocket; nchan_channel_id $arg_channel; nchan_subscriber_first_message newest; }
    location /pub { nchan_publisher; nchan_channel_id $arg_channel; nchan_store_messages off; }
    location / { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering on; proxy_max_temp_file_size 0; }
    location /echo { proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }
  }
}
`, nchanModule, user, o.workers, origin, ports[0])})
	if err != nil {
		return nil, err
	}
	if err := g.start("nginx", nginx, "-p", g.dir, "-c", filepath.Join(g.dir, "nginx.conf")); err != nil {
		return nil, err
	}
	at := local(ports[0])
	in := &instance{
		target: at, publish: at, publishPath: "/pub?channel={c}", raw: true, header: "TE: chunked", readyHead: true,
	}
	if err := waitFor(ctx, "http://"+at.String()+"/small"); err != nil {
		return nil, fmt.Errorf("%w%s", err, g.tail("nginx"))
	}
	return in, nil
}

// startFloor starts the floor program. Its row of plain proxying is the origin
// asked directly.
func startFloor(_ context.Context, g *group, o *options, _ measurement, _ netip.AddrPort) (*instance, error) {
	at, err := g.startAddr("floor", filepath.Join(o.bin, "floor"))
	if err != nil {
		return nil, err
	}
	return &instance{target: at, publish: at, publishPath: "/pub", raw: true}, nil
}
