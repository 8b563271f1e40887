package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// socket is one ZeroMQ connection in the ZMTP 3.0 protocol with the NULL
// mechanism: just enough to publish, to watch subscriptions and to ask the
// command socket, independent of any ZeroMQ library.
type socket struct {
	conn net.Conn
	br   *bufio.Reader
}

// dialSocket connects as a socket of the given type: PUSH, PUB, XPUB, REQ, SUB.
// An absolute path is that of a unix socket.
func dialSocket(ctx context.Context, addr, kind string) (*socket, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, br: bufio.NewReader(conn)}
	_ = conn.SetDeadline(time.Now().Add(8 * time.Second))
	if err := s.handshake(kind); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("ZMTP handshake as %s: %w", kind, err)
	}
	return s, conn.SetDeadline(time.Time{})
}

func (s *socket) handshake(kind string) error {
	greeting := make([]byte, 64)
	greeting[0], greeting[9], greeting[10] = 0xff, 0x7f, 3
	copy(greeting[12:], "NULL")
	if _, err := s.conn.Write(greeting); err != nil {
		return err
	}
	theirs := make([]byte, 64)
	if _, err := io.ReadFull(s.br, theirs); err != nil {
		return err
	}
	if theirs[0] != 0xff || theirs[9]&1 != 1 || theirs[10] < 3 {
		return fmt.Errorf("greeting % x", theirs[:12])
	}
	ready := "\x05READY\x0bSocket-Type" + string(binary.BigEndian.AppendUint32(nil, uint32(len(kind)))) + kind
	if kind == "REQ" {
		ready += "\x08Identity\x00\x00\x00\x00"
	}
	if err := s.frame(4, ready); err != nil {
		return err
	}
	flags, data, err := s.readFrame()
	if err != nil {
		return err
	}
	if flags&4 == 0 || !strings.HasPrefix(data, "\x05READY") {
		return fmt.Errorf("got %q instead of READY", data)
	}
	return nil
}

func (s *socket) frame(flags byte, data string) error {
	var b []byte
	if len(data) > 255 {
		b = binary.BigEndian.AppendUint64([]byte{flags | 2}, uint64(len(data)))
	} else {
		b = []byte{flags, byte(len(data))}
	}
	_, err := s.conn.Write(append(b, data...))
	return err
}

func (s *socket) readFrame() (byte, string, error) {
	flags, err := s.br.ReadByte()
	if err != nil {
		return 0, "", err
	}
	size := make([]byte, 1)
	if flags&2 != 0 {
		size = make([]byte, 8)
	}
	if _, err := io.ReadFull(s.br, size); err != nil {
		return 0, "", err
	}
	n := uint64(size[0])
	if len(size) == 8 {
		n = binary.BigEndian.Uint64(size)
	}
	if n > 16<<20 {
		return 0, "", fmt.Errorf("frame of %d bytes", n)
	}
	data := make([]byte, n)
	_, err = io.ReadFull(s.br, data)
	return flags, string(data), err
}

// send writes one message of one or more parts.
func (s *socket) send(parts ...string) error {
	for i, p := range parts {
		var flags byte
		if i < len(parts)-1 {
			flags = 1
		}
		if err := s.frame(flags, p); err != nil {
			return err
		}
	}
	return nil
}

// receive reads one message, passing over commands.
func (s *socket) receive() ([]string, error) {
	var parts []string
	for {
		flags, data, err := s.readFrame()
		if err != nil {
			return nil, err
		}
		if flags&4 != 0 {
			// A subscription travels as a command from ZMTP 3.1 on.
			if topic, ok := strings.CutPrefix(data, "\x09SUBSCRIBE"); ok {
				return []string{"\x01" + topic}, nil
			}
			if topic, ok := strings.CutPrefix(data, "\x06CANCEL"); ok {
				return []string{"\x00" + topic}, nil
			}
			continue
		}
		parts = append(parts, data)
		if flags&1 == 0 {
			return parts, nil
		}
	}
}

// monitor is a publisher that is connected to the proxy's SUB socket for the
// whole run. It learns every subscription, which is how the cases know that a
// hold is in place; and it publishes.
type monitor struct {
	s    *socket
	mu   sync.Mutex
	subs map[string]int
	gone error
	wake chan struct{} // closed and replaced at each change
	send sync.Mutex
}

func newMonitor(ctx context.Context, addr string) (*monitor, error) {
	s, err := dialSocket(ctx, addr, "XPUB")
	if err != nil {
		return nil, err
	}
	m := &monitor{s: s, subs: map[string]int{}, wake: make(chan struct{})}
	go m.loop()
	return m, nil
}

func (m *monitor) loop() {
	for {
		parts, err := m.s.receive()
		m.mu.Lock()
		if err != nil {
			m.gone = err
		} else if len(parts) == 1 && len(parts[0]) > 0 {
			if topic := parts[0][1:]; parts[0][0] == 1 {
				m.subs[topic]++
			} else {
				m.subs[topic]--
			}
		}
		close(m.wake)
		m.wake = make(chan struct{})
		m.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// wait returns whether the topic is subscribed to before the deadline.
func (m *monitor) wait(topic string, deadline time.Time) bool {
	return m.until(deadline, func() bool { return m.subs[topic] > 0 })
}

// waitGone returns whether the topic is no longer subscribed to.
func (m *monitor) waitGone(topic string, deadline time.Time) bool {
	return m.until(deadline, func() bool { return m.subs[topic] <= 0 })
}

func (m *monitor) until(deadline time.Time, ok func() bool) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		m.mu.Lock()
		good, gone, wake := ok(), m.gone, m.wake
		m.mu.Unlock()
		if good {
			return true
		}
		if gone != nil {
			return false
		}
		select {
		case <-wake:
		case <-timer.C:
			return false
		}
	}
}

func (m *monitor) publish(topic, item string) error {
	m.send.Lock()
	defer m.send.Unlock()
	return m.s.send(topic, item)
}

func (m *monitor) close() { _ = m.s.conn.Close() }

// pair and tmap are a tnetstring dictionary with an order.
type (
	pair struct {
		key   string
		value any
	}
	tmap []pair
)

// tnet encodes a value as a tnetstring.
func tnet(v any) string {
	frame := func(data, kind string) string { return strconv.Itoa(len(data)) + ":" + data + kind }
	var b strings.Builder
	switch v := v.(type) {
	case nil:
		return "0:~"
	case string:
		return frame(v, ",")
	case int:
		return frame(strconv.Itoa(v), "#")
	case bool:
		return frame(strconv.FormatBool(v), "!")
	case []any:
		for _, e := range v {
			b.WriteString(tnet(e))
		}
		return frame(b.String(), "]")
	case tmap:
		for _, p := range v {
			b.WriteString(tnet(p.key) + tnet(p.value))
		}
		return frame(b.String(), "}")
	}
	panic(fmt.Sprintf("tnet: type %T", v))
}

// untnet decodes one tnetstring and returns the rest.
func untnet(s string) (any, string, error) {
	size, rest, ok := strings.Cut(s, ":")
	n, err := strconv.Atoi(size)
	if !ok || err != nil || n < 0 || n+1 > len(rest) {
		return nil, "", fmt.Errorf("not a tnetstring: %q", s)
	}
	data, kind, rest := rest[:n], rest[n], rest[n+1:]
	switch kind {
	case ',':
		return data, rest, nil
	case '#':
		i, err := strconv.Atoi(data)
		return i, rest, err
	case '!':
		return data == "true", rest, nil
	case '~':
		return nil, rest, nil
	case ']':
		list := []any{}
		for data != "" {
			var v any
			if v, data, err = untnet(data); err != nil {
				return nil, "", err
			}
			list = append(list, v)
		}
		return list, rest, nil
	case '}':
		m := map[string]any{}
		for data != "" {
			var k, v any
			if k, data, err = untnet(data); err != nil {
				return nil, "", err
			}
			if v, data, err = untnet(data); err != nil {
				return nil, "", err
			}
			key, ok := k.(string)
			if !ok {
				return nil, "", errors.New("dictionary key that is not a string")
			}
			m[key] = v
		}
		return m, rest, nil
	}
	return nil, "", fmt.Errorf("tnetstring of unknown type %q", kind)
}

// Push sends messages of one part each to the PULL interface.
func (t *T) Push(messages ...string) {
	s, err := dialSocket(t.ctx, t.Proxy.Push, "PUSH")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.conns = append(t.conns, s.conn)
	for _, m := range messages {
		if err := s.send(m); err != nil {
			t.Fatalf("pushing: %v", err)
		}
	}
}

// PublishSub sends an item through the SUB interface.
func (t *T) PublishSub(topic, item string) {
	if err := t.mon.publish(topic, item); err != nil {
		t.Fatalf("publishing to the SUB interface: %v", err)
	}
}

// Command asks the command socket and returns the answer.
func (t *T) Command(method string, args any) map[string]any {
	req := tmap{{"id", "7"}, {"method", method}}
	if args != nil {
		req = append(req, pair{"args", args})
	}
	s, err := dialSocket(t.ctx, t.Proxy.Command, "REQ")
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.conns = append(t.conns, s.conn)
	if err := s.send("", tnet(req)); err != nil {
		t.Fatalf("sending a command: %v", err)
	}
	_ = s.conn.SetReadDeadline(t.deadline())
	parts, err := s.receive()
	if err != nil {
		t.Fatalf("no answer to the command: %v", plain(err))
	}
	if len(parts) != 2 || parts[0] != "" {
		t.Fatalf("the answer to the command has the parts %q", parts)
	}
	v, rest, err := untnet(parts[1])
	m, ok := v.(map[string]any)
	if err != nil || rest != "" || !ok {
		t.Fatalf("the answer to the command is %q", parts[1])
	}
	if m["id"] != "7" {
		t.Fatalf("the answer to the command has the id %v", m["id"])
	}
	return m
}
