//go:build linux

// Command floor is the least that a server can do: it holds HTTP streams on one
// epoll loop and answers a publish with one raw write to each socket and nothing
// else. No channels, no backlog accounting, no second process. What it reaches on
// a machine bounds what any server can reach there.
//
// GET anything holds a stream; POST /pub sends its body to all of them.
package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
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
	s := &server{}
	if err := netloop.Serve(l, fd, func(*netloop.Loop) netloop.Server { return &client{s: s} }); err != nil {
		return err
	}
	fmt.Println(addr)
	return l.Run(func() bool { return false })
}

type server struct {
	held  []*client
	chunk []byte
}

const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nready\n\r\n"

func (s *server) hold(c *client) {
	if !c.held {
		c.held = true
		s.held = append(s.held, c)
		c.conn.Write([]byte(head))
	}
}

func (s *server) publish(body []byte) {
	s.chunk = strconv.AppendUint(s.chunk[:0], uint64(len(body)), 16)
	s.chunk = append(s.chunk, "\r\n"...)
	s.chunk = append(s.chunk, body...)
	s.chunk = append(s.chunk, "\r\n"...)
	keep := s.held[:0]
	for _, c := range s.held {
		if c.held {
			c.conn.Write(s.chunk)
			keep = append(keep, c)
		}
	}
	s.held = keep
}

type client struct {
	s    *server
	conn *netloop.Conn
	in   []byte
	held bool // until the client leaves
}

func (c *client) Start(conn *netloop.Conn) { c.conn = conn }
func (c *client) Closed(error)             { c.held = false }

func (c *client) Data(p []byte) {
	if len(c.in) > 0 {
		c.in = append(c.in, p...)
		p = c.in
	}
	for {
		req, body, n, err := wire.ReadRequest(p)
		if err != nil {
			c.conn.Close(false)
			c.held = false
			return
		}
		if n == 0 {
			break
		}
		if string(req.Method) == "POST" {
			c.s.publish(body)
			c.conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"))
		} else {
			c.s.hold(c)
		}
		p = p[n:]
	}
	if len(p) == 0 {
		c.in = nil
		return
	}
	c.in = append([]byte(nil), p...)
}
