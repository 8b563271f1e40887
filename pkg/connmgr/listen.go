package connmgr

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast/holdfast/pkg/unixsock"
)

// listener is one open socket for clients.
type listener struct {
	net.Listener
	tls *tls.Config // nil for a plain one
}

// listen opens the socket that l asks for. TCP ports are shared
// (SO_REUSEPORT), so that a second instance can take over the port of one that
// stops.
func (s *Server) listen(ctx context.Context, l Listen) (*listener, error) {
	var ln net.Listener
	var err error
	if l.Network == "unix" {
		ln, err = unixsock.Listen(ctx, l.Addr, unixsock.Access{Mode: l.Mode, User: l.User, Group: l.Group})
	} else {
		lc := net.ListenConfig{
			Control:         reusePort,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 5},
		}
		lc.SetMultipathTCP(false) // which takes no filter (listener.ignoreSYN)
		ln, err = lc.Listen(ctx, l.Network, l.Addr)
	}
	if err != nil {
		return nil, err
	}
	out := &listener{Listener: ln}
	if l.TLS {
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			port = "unix"
		}
		out.tls = s.certs.config(port)
		if !s.certs.any("default_" + port) {
			s.log.Warn("no client can use this HTTPS port before there is a certificate",
				"addr", l.Addr, "want", filepath.Join(s.certs.dir, "default_"+port+".crt")+" and .key")
		}
	}
	return out, nil
}

func reusePort(_, _ string, rc syscall.RawConn) error {
	var opErr error
	if err := rc.Control(func(fd uintptr) {
		opErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); err != nil {
		return err
	}
	return opErr
}

// accept takes connections until the listener is closed. When MaxConns are open,
// idle ones make room; if there are none, whoever comes waits for a short time and
// is then turned away.
func (s *Server) accept(l *listener) error {
	var pause time.Duration
	patient := true
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of descriptors, or the client has left already: both pass.
			s.metrics.acceptErrors.Inc()
			if skipped, ok := s.acceptLog.Allow(time.Now()); ok {
				s.log.Warn("accept", "err", err, "not_logged", skipped)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-s.stopAccept:
				return nil
			}
			continue
		}
		pause = 0
		select {
		case s.slots <- struct{}{}:
			patient = true
		default:
			if patient = s.awaitSlot(patient); !patient {
				s.turnAway(l, nc)
				continue
			}
		}
		s.admit(l, nc)
	}
}

// awaitSlot waits for room for one more connection, and reports whether it has
// taken it. Who is not patient, because the one before was turned away, waits only
// if there is hope.
func (s *Server) awaitSlot(patient bool) bool {
	s.metrics.full.Inc()
	if skipped, ok := s.acceptLog.Allow(time.Now()); ok {
		s.log.Warn("as many clients as allowed are connected, more are turned away", "limit", s.opt.MaxConns, "not_logged", skipped)
	}
	if !s.makeRoom(time.Now()) && !patient {
		return false
	}
	t := time.NewTimer(s.opt.FullWait)
	defer t.Stop()
	select {
	case s.slots <- struct{}{}:
		return true
	case <-t.C:
	case <-s.stopAccept:
	}
	return false
}

// roomTries is how many connections are looked at to find an idle one.
const roomTries = 256

// makeRoom closes a connection that waits for a request, and reports whether it
// found one. Without it, clients that connect and say nothing would keep others
// out for IdleTimeout.
func (s *Server) makeRoom(now time.Time) bool {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	tries := 0
	for c := range s.table { // which begins anywhere
		since := c.idle.Load()
		if since != 0 && monotonic(now)-since >= int64(s.opt.FullWait) && c.idle.CompareAndSwap(since, monotonic(now)) {
			_ = c.sock.SetReadDeadline(past)
			return true
		}
		if tries++; tries == roomTries {
			break
		}
	}
	return false
}

// maxTurned is how many connections may be on their way out with an answer. The
// others are closed without one.
const maxTurned = 256

var fullAnswer = []byte("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n" +
	"Connection: close\r\n\r\nToo many connections\n")

// turnAway answers a connection for which there is no room, whatever it asks. A
// TLS handshake would cost more than the answer is worth.
func (s *Server) turnAway(l *listener, nc net.Conn) {
	s.metrics.turnedAway.Inc()
	if l.tls != nil {
		_ = nc.Close()
		return
	}
	select {
	case s.turned <- struct{}{}:
	default:
		_ = nc.Close()
		return
	}
	s.conns.Go(func() {
		stop := context.AfterFunc(s.ctx, func() { _ = nc.Close() })
		defer func() {
			stop()
			_ = nc.Close()
			<-s.turned
		}()
		if nc.SetDeadline(time.Now().Add(lingerTime)) != nil {
			return
		}
		if _, err := nc.Write(fullAnswer); err != nil {
			return
		}
		// As linger does.
		if cw, ok := nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
			_, _ = io.CopyN(io.Discard, nc, lingerBytes)
		}
	})
}

// admit starts serving a connection, for which a slot was taken.
func (s *Server) admit(l *listener, nc net.Conn) {
	sk, err := newSock(nc, s.opt.WriteTimeout)
	if err != nil {
		_ = nc.Close()
		<-s.slots
		return
	}
	c := &conn{s: s, sock: sk}
	if _, ok := nc.(*net.TCPConn); ok {
		c.peer = nc.RemoteAddr().String()
	}
	if l.tls != nil {
		c.tls = tls.Server(sk, l.tls)
	}
	if !s.remember(c) {
		_ = nc.Close()
		<-s.slots
		return
	}
	s.conns.Go(c.start)
}

// admitInner starts serving a connection that this process has made to itself for
// a client, for which a slot was taken. It returns false if it cannot.
func (s *Server) admitInner(nc net.Conn, peer string, in *inner) bool {
	sk, err := newSock(nc, s.opt.WriteTimeout)
	if err == nil {
		c := &conn{s: s, sock: sk, peer: peer, inner: in}
		if s.remember(c) {
			s.conns.Go(c.start)
			return true
		}
	}
	_ = nc.Close()
	<-s.slots
	return false
}

// handshake does the TLS handshake.
func (c *conn) handshake() bool {
	if c.sock.SetReadDeadline(time.Now().Add(c.s.opt.HeaderTimeout)) != nil {
		return false
	}
	err := c.tls.Handshake()
	if err == nil {
		return true
	}
	c.s.metrics.handshakeErrors.Inc()
	if skipped, ok := c.s.badLog.Allow(time.Now()); ok {
		c.s.log.Debug("TLS handshake", "client", c.peer, "err", err, "not_logged", skipped)
	}
	var re tls.RecordHeaderError
	if errors.As(err, &re) && re.Conn != nil && looksLikeHTTP(re.RecordHeader) {
		_, _ = c.sock.Write([]byte("HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" +
			"This port speaks HTTPS.\n"))
		c.tls = nil
		c.linger()
	}
	return false
}

func looksLikeHTTP(h [5]byte) bool {
	switch string(h[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}
