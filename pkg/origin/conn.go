package origin

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// conn is one connection to an origin. Whoever took it from the pool owns it.
type conn struct {
	nc  net.Conn
	b   *bucket
	raw syscall.RawConn // below TLS; nil if there is none
	peek

	br     *bufio.Reader // nil while idle
	reused bool

	// Read while idle, by the pool.
	idleSince time.Time
	keepFor   time.Duration
	tooOld    time.Time // zero for never

	// Both sides of an exchange push the deadline on.
	limit   atomic.Int64 // time.Duration without progress that is too long
	touched atomic.Int64 // when the deadline was set last, as monotonic says
}

// touchEvery is how exact the deadline is kept: setting it for each read of a
// stream would cost more than reading.
const touchEvery = int64(time.Second)

// began is when this process did, more or less.
var began = time.Now()

// monotonic returns nanoseconds that go on evenly when the system's clock is set.
func monotonic(now time.Time) int64 { return int64(now.Sub(began)) }

// touch says that the exchange goes on.
func (c *conn) touch() {
	now := time.Now()
	limit := c.limit.Load()
	if monotonic(now)-c.touched.Load() > min(touchEvery, limit/4) {
		c.push(now, time.Duration(limit))
	}
}

// setLimit begins a phase of the exchange that may stand still for limit.
func (c *conn) setLimit(limit time.Duration) {
	c.limit.Store(int64(limit))
	c.push(time.Now(), limit)
}

func (c *conn) push(now time.Time, limit time.Duration) {
	c.touched.Store(monotonic(now))
	_ = c.nc.SetDeadline(now.Add(limit)) // fails on a closed connection only, and so will what follows
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// acquire gives c the buffer that it needs for an exchange.
func (c *conn) acquire() {
	c.br, _ = readers.Get().(*bufio.Reader)
	c.br.Reset(c.nc)
}

// release takes the buffer away.
func (c *conn) release() {
	if c.br != nil {
		c.br.Reset(nil)
		readers.Put(c.br)
		c.br = nil
	}
}

func (c *conn) expired(now time.Time) bool {
	return now.Sub(c.idleSince) >= c.keepFor || !c.tooOld.IsZero() && !now.Before(c.tooOld)
}

// usable reports whether an idle connection may carry another request.
func (c *conn) usable() bool {
	now := time.Now()
	if c.expired(now) {
		return false
	}
	if monotonic(now)-c.touched.Load() > c.limit.Load() { // the deadline of its last exchange is over
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	return c.alive() && (c.b.tls == nil || c.silentTLS())
}

// silentTLS reports whether TLS holds no bytes that it has taken from the socket
// already, where alive cannot see them.
func (c *conn) silentTLS() bool {
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // nothing is waited for
	n, err := c.nc.Read(make([]byte, 1))
	_ = c.nc.SetReadDeadline(time.Time{})
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// dial makes a connection for which take was called. The context bounds all of
// it.
func (p *Pool) dial(ctx context.Context, b *bucket) (*conn, error) {
	nc, err := p.connect(ctx, b)
	p.mu.Lock()
	b.dialing--
	if err != nil {
		p.leave(b)
	} else {
		p.grant()
	}
	p.mu.Unlock()
	if err != nil {
		p.dialErrors.Add(1)
		return nil, err
	}
	p.dialled.Add(1)
	c := &conn{nc: nc, b: b, keepFor: p.opt.KeepAlive}
	if p.opt.MaxAge > 0 {
		c.tooOld = time.Now().Add(p.opt.MaxAge)
	}
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if s, ok := nc.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	return c, nil
}

var dialer = net.Dialer{KeepAlive: 30 * time.Second}

func (p *Pool) connect(ctx context.Context, b *bucket) (net.Conn, error) {
	var nc net.Conn
	var err error
	if b.target.Untrusted {
		nc, err = p.connectUntrusted(ctx, b.target.Addr)
	} else {
		nc, err = dialer.DialContext(ctx, "tcp", b.target.Addr)
	}
	if err != nil {
		return nil, connectError(ctx, b, err)
	}
	if b.tls == nil {
		return nc, nil
	}
	t := tls.Client(nc, b.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		if ctx.Err() == nil {
			err = &Error{Kind: ErrTLS, Addr: b.target.Addr, Err: err}
		}
		return nil, connectError(ctx, b, err)
	}
	return t, nil
}

// maxAddrs is the number of addresses of one name that are tried.
const maxAddrs = 16

// connectUntrusted connects to an address of addr that is allowed. The name is
// looked up once, and what is connected to is what was judged: another answer a
// moment later changes nothing.
func (p *Pool) connectUntrusted(ctx context.Context, addr string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	addrs := []netip.Addr{{}}
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = p.opt.Resolve(ctx, host); err != nil {
			return nil, err
		}
	}
	allowed := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		if ap := netip.AddrPortFrom(a.Unmap(), uint16(port)); p.opt.Allowed(ap) { //nolint:gosec // LookupPort returns ports only
			allowed = append(allowed, ap)
		}
	}
	if len(allowed) == 0 {
		return nil, &Error{Kind: ErrPolicy, Addr: addr}
	}
	var errs error
	for i, ap := range allowed {
		nc, err := dialShare(ctx, ap, len(allowed)-i)
		if err == nil {
			return nc, nil
		}
		errs = errors.Join(errs, err)
	}
	return nil, errs
}

// dialShare connects to one of n addresses, in its share of the time left.
func dialShare(ctx context.Context, ap netip.AddrPort, n int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && n > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
		defer cancel()
	}
	return dialer.DialContext(ctx, "tcp", ap.String())
}

// connectError gives err, which came up before anything was sent, its kind.
func connectError(ctx context.Context, b *bucket, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	kind := ErrConnect
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		kind = ErrTimeout
	}
	return newError(ctx, kind, b.target.Addr, false, err)
}
