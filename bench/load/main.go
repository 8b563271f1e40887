//go:build linux

// Command load is the client side of the measurements: subscribers, publishers
// and request loops on one epoll loop, so that it takes as little as it can from
// the server that shares its cores. It prints its result as JSON.
//
//	load -scenario fanout -target 127.0.0.1:7999 -path '/stream?channel={c}' \
//	     -publish 127.0.0.1:5561 -publish-path /publish/ -format http-stream \
//	     -n 10000 -pids 4711,4712
//
// The scenarios are in scenario.go.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast/holdfast/bench/internal/proc"
)

// options are the flags.
type options struct {
	scenario    string
	target      netip.AddrPort
	host        string
	header      string
	path        string
	readyHead   bool
	n           int
	channels    int
	window      int
	publish     netip.AddrPort
	publishPath string
	format      string
	zmq         netip.AddrPort
	publishers  int
	rate        float64
	count       int
	burst       int
	size        int
	duration    time.Duration
	deadline    time.Duration
	settle      time.Duration
	memory      []int
	pids        []int
	ws          bool
	poll        bool
	extra       int
	stuck       int
	rounds      int
	receive     netip.AddrPort
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(2)
	}
	// Live data is small and garbage is rare: a collection would only show up as
	// latency that is not the server's.
	debug.SetGCPercent(1000)
	res, err := run(o)
	if err == nil {
		enc := json.NewEncoder(os.Stdout)
		err = enc.Encode(res)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.StringVar(&o.scenario, "scenario", "fanout", "fanout, hold, herd, channels, polls, ramp, stuck, hooks, proxy or echo")
	f.TextVar(&o.target, "target", netip.AddrPort{}, "address of the server")
	f.StringVar(&o.host, "host", "bench.test", "Host header")
	f.StringVar(&o.header, "header", "", "a header field that subscribers send as well, such as 'TE: chunked'")
	f.StringVar(&o.path, "path", "/stream?channel={c}", "path to ask for; {c} is the channel")
	f.BoolVar(&o.readyHead, "ready-head", false, "a subscriber is ready with the response head, not with the first byte of the body")
	f.IntVar(&o.n, "n", 1000, "connections")
	f.IntVar(&o.channels, "channels", 1, "channels, over which connections are spread evenly")
	f.IntVar(&o.window, "window", 100, "connections being set up at a time, 0: all at once")
	f.TextVar(&o.publish, "publish", netip.AddrPort{}, "address of the HTTP intake")
	f.StringVar(&o.publishPath, "publish-path", "/publish/", "path of the HTTP intake; {c} is the channel")
	f.StringVar(&o.format, "format", "http-stream", "http-stream, http-response, ws-message, or raw (the message alone)")
	f.TextVar(&o.zmq, "zmq", netip.AddrPort{}, "address of the ZeroMQ PULL intake; used instead of HTTP if given")
	f.IntVar(&o.publishers, "publishers", 1, "publishing connections, or deliveries outstanding over ZeroMQ")
	f.Float64Var(&o.rate, "rate", 2, "paced publishes a second")
	f.IntVar(&o.count, "count", 20, "paced publishes")
	f.IntVar(&o.burst, "burst", 50, "publishes back to back")
	f.IntVar(&o.size, "size", 100, "bytes of a message")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "length of a closed loop")
	f.DurationVar(&o.deadline, "deadline", 60*time.Second, "longest time for setting up")
	f.DurationVar(&o.settle, "settle", 2*time.Second, "rest before memory is read")
	memory := f.String("memory", "", "connection counts at which memory is read as well, comma separated")
	pids := f.String("pids", "", "server processes, comma separated; their descendants are included")
	f.BoolVar(&o.ws, "ws", false, "subscribers are WebSockets")
	f.BoolVar(&o.poll, "poll", false, "subscribers are long polls (hold)")
	f.IntVar(&o.extra, "extra", 0, "channels of its own that each subscriber has as well, to which nothing is published")
	f.IntVar(&o.stuck, "stuck", 100, "those of the connections that stop reading (stuck)")
	f.IntVar(&o.rounds, "rounds", 5, "how often they do (stuck)")
	f.TextVar(&o.receive, "receive", netip.AddrPort{}, "address at which webhooks are received (hooks)")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var err error
	if o.memory, err = ints(*memory); err != nil {
		return nil, fmt.Errorf("-memory: %w", err)
	}
	if o.pids, err = ints(*pids); err != nil {
		return nil, fmt.Errorf("-pids: %w", err)
	}
	if o.header != "" {
		o.header += "\r\n"
	}
	switch {
	case !o.target.IsValid():
		return nil, fmt.Errorf("-target is missing")
	case o.n < 1 || o.channels < 1 || o.publishers < 1 || o.rate <= 0:
		return nil, fmt.Errorf("-n, -channels, -publishers and -rate must be positive")
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return o, nil
}

func ints(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var all []int
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// usage is what the server has used; nothing if its processes are not known.
func (o *options) usage() (proc.Usage, error) {
	if len(o.pids) == 0 {
		return proc.Usage{}, nil
	}
	return proc.Read(o.pids...)
}
