//go:build linux

// Command origin is a backend that costs little, so that a proxy in front of it
// is what is measured. It serves, on one epoll loop:
//
//	GET  /stream?channel=C    a GRIP stream hold on C, initial body "ready\n"
//	GET  /poll?channel=C      a GRIP response hold on C
//	GET  /small               16 bytes
//	GET  /big                 1 MB
//	POST /ws?channel=C        WebSocket over HTTP: opens, subscribes to C, and
//	                          sends every text message back
//	GET  /echo (Upgrade)      a WebSocket that sends every message back
package main

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

const bigSize = 1000000

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "origin:", err)
		os.Exit(1)
	}
}

func run(listen string) error {
	at, err := netip.ParseAddrPort(listen)
	if err != nil {
		return err
	}
	l, err := netloop.New()
	if err != nil {
		return err
	}
	fd, addr, err := netloop.Listen(at)
	if err != nil {
		return err
	}
	if err := netloop.Serve(l, fd, func(*netloop.Loop) netloop.Server { return &client{} }); err != nil {
		return err
	}
	fmt.Println(addr)
	return l.Run(func() bool { return false })
}

var (
	small = response("200 OK", "", []byte("0123456789abcde\n"))
	big   = response("200 OK", "", bytes.Repeat([]byte("0123456789abcde\n"), bigSize/16))
	none  = response("404 Not Found", "", []byte("not found\n"))
)

func response(status, header string, body []byte) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Type: text/plain\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body)
}

type client struct {
	conn *netloop.Conn
	in   []byte
	ws   bool // the connection has become a WebSocket
}

func (c *client) Start(conn *netloop.Conn) { c.conn = conn }
func (c *client) Closed(error)             {}

func (c *client) Data(p []byte) {
	if len(c.in) > 0 {
		c.in = append(c.in, p...)
		p = c.in
	}
	for len(p) > 0 {
		n, err := c.serve(p)
		if err != nil {
			c.conn.Close(false)
			return
		}
		if n == 0 {
			break
		}
		p = p[n:]
	}
	if len(p) == 0 {
		c.in = nil
		return
	}
	c.in = append([]byte(nil), p...)
}

// serve answers one request or frame and returns its length, 0 if it is not
// complete.
func (c *client) serve(p []byte) (int, error) {
	if c.ws {
		op, payload, n, err := wire.ReadFrame(p)
		if n > 0 && (op == wire.OpText || op == wire.OpBinary || op == wire.OpClose) {
			c.conn.Write(wire.AppendFrame(nil, op, payload, false))
		}
		return n, err
	}
	req, body, n, err := wire.ReadRequest(p)
	if err != nil || n == 0 {
		return n, err
	}
	channel := string(wire.Param(req.Query, "channel"))
	switch path := string(req.Path); {
	case path == "/small":
		c.conn.Write(small)
	case path == "/big":
		c.conn.Write(big)
	case path == "/stream":
		c.conn.Write(response("200 OK", "Grip-Hold: stream\r\nGrip-Channel: "+channel+"\r\n", []byte("ready\n")))
	case path == "/poll":
		c.conn.Write(response("200 OK", "Grip-Hold: response\r\nGrip-Channel: "+channel+"\r\n", []byte("timeout\n")))
	case path == "/echo" && req.Upgrade:
		c.ws = true
		c.conn.Write(fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", wire.AcceptKey(req.Key)))
	case path == "/ws" && string(req.Method) == "POST":
		c.conn.Write(events(channel, body))
	default:
		c.conn.Write(none)
	}
	if req.Close {
		c.conn.Finish()
	}
	return n, nil
}

// events answers a WebSocket-over-HTTP request.
func events(channel string, in []byte) []byte {
	var out []byte
	header := ""
	for len(in) > 0 {
		line, rest, ok := bytes.Cut(in, []byte("\r\n"))
		if !ok {
			break
		}
		kind, size, _ := bytes.Cut(line, []byte(" "))
		var content []byte
		if len(size) > 0 {
			n, err := strconv.ParseUint(string(size), 16, 31)
			if err != nil || len(rest) < int(n)+2 {
				break
			}
			content, rest = rest[:n], rest[n+2:]
		}
		switch string(kind) {
		case "OPEN":
			header = "Sec-WebSocket-Extensions: grip\r\n"
			out = append(out, "OPEN\r\n"...)
			if channel != "" {
				out = event(out, "TEXT", []byte(`c:{"type":"subscribe","channel":"`+channel+`"}`))
				out = event(out, "TEXT", []byte("m:ready\n"))
			}
		case "TEXT", "BINARY":
			out = event(out, string(kind), append([]byte("m:"), content...))
		case "CLOSE":
			out = event(out, "CLOSE", content)
		}
		in = rest
	}
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/websocket-events\r\n%sContent-Length: %d\r\n\r\n%s", header, len(out), out)
}

func event(out []byte, kind string, content []byte) []byte {
	out = fmt.Appendf(out, "%s %x\r\n", kind, len(content))
	out = append(out, content...)
	return append(out, "\r\n"...)
}
