package zurl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/zhttp"
)

// Timers of sessions. They are part of the interface, see docs/zurl.md.
const (
	clientSilent   = time.Minute      // a client that says nothing for so long is gone
	keepAliveEvery = 30 * time.Second // how often it hears from us
	closeWait      = 10 * time.Second // how long the other side of a WebSocket may take to close
	tickEvery      = time.Second      // how exact all of them are
)

// maxHeld bounds the bytes of bodies that have to be held as a whole, of all
// sessions together. It is a variable for tests.
var maxHeld int64 = 256 << 20

// Names of the public sockets, in logs and metrics.
const (
	socketIn       = "zurl-in"
	socketInStream = "zurl-in-stream"
	socketOut      = "zurl-out"
	socketInReq    = "zurl-in-req"
)

// front is the public interface: the sockets, and a session for each request
// under way.
//
//	PULL   in_spec        ─▶ pullLoop   ─▶ session.run ─▶ server
//	DEALER in_stream_spec ─▶ streamLoop ─▶ session.handle
//	PUB    out_spec       ◀─ session.send
//	ROUTER in_req_spec    ◀▶ reqLoop, session.send
//	                         tickLoop   ─▶ session.tick
//
// A session has one goroutine for its exchange, and a WebSocket one more for
// writing. Everything else happens in the loops, none of which waits for a
// session: pullLoop and reqLoop only wait for one to end when there are
// MaxSessions.
type front struct {
	// Set once.
	s    *Server
	id   string
	now  func() time.Time // time.Now, but for tests
	held atomic.Int64     // of maxHeld

	pull   *bus.Pull   // these are nil if they are not configured
	stream *bus.Dealer //
	pub    *bus.Pub    //
	req    *bus.Router //

	slots    chan struct{}  // one in it for each session; its size is MaxSessions
	sessions sync.WaitGroup // goroutines of sessions

	mu   sync.Mutex // taken after that of a session, if both
	open map[*session]struct{}
	byID map[string][]*session // those that a client can talk to; by id alone, then look at from
}

func newFront(s *Server) *front {
	id := s.o.InstanceID
	if id == "" {
		id = "{" + uuid() + "}" // as Zurl does
	}
	return &front{
		s: s, id: id, now: time.Now, slots: make(chan struct{}, s.o.MaxSessions),
		open: make(map[*session]struct{}), byID: make(map[string][]*session),
	}
}

// uuid returns a random one (RFC 9562, version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// bind opens the sockets. After an error none is left open.
func (f *front) bind() error {
	o := &f.s.o
	var err error
	if o.InSpec != "" {
		// Where answers go first, so that there is somewhere for them.
		if f.pub, err = bus.NewPub(f.socket(socketOut, o.OutSpec)); err != nil {
			return fmt.Errorf("bind out_spec %s: %w", o.OutSpec, errors.Join(err, f.unbind()))
		}
		if f.stream, err = bus.NewDealer(f.socket(socketInStream, o.InStreamSpec)); err != nil {
			return fmt.Errorf("bind in_stream_spec %s: %w", o.InStreamSpec, errors.Join(err, f.unbind()))
		}
		if f.pull, err = bus.NewPull(f.socket(socketIn, o.InSpec)); err != nil {
			return fmt.Errorf("bind in_spec %s: %w", o.InSpec, errors.Join(err, f.unbind()))
		}
	}
	if o.InReqSpec != "" {
		if f.req, err = bus.NewRouter(f.socket(socketInReq, o.InReqSpec)); err != nil {
			return fmt.Errorf("bind in_req_spec %s: %w", o.InReqSpec, errors.Join(err, f.unbind()))
		}
	}
	return nil
}

func (f *front) socket(name, spec string) bus.SocketOptions {
	o := &f.s.o
	largest := int(o.MaxWhole) + 1<<20 // a body, and all that is around it
	return bus.SocketOptions{
		Name: name, Bind: []string{spec}, Identity: f.id, FileMode: o.IPCFileMode,
		Limits: bus.Limits{MaxMessage: largest, RecvMessages: o.InHWM, RecvBytes: max(2*largest, 32<<20), SendBytes: max(4*largest, 64<<20)},
		Logger: f.s.log, Registerer: o.Registerer,
	}
}

func (f *front) unbind() error {
	var errs []error
	if f.pull != nil {
		errs = append(errs, f.pull.Close())
	}
	if f.stream != nil {
		errs = append(errs, f.stream.Close())
	}
	if f.req != nil {
		errs = append(errs, f.req.Close())
	}
	if f.pub != nil {
		errs = append(errs, f.pub.Close())
	}
	return errors.Join(errs...)
}

// run serves the sockets until ctx ends, then lets sessions go on for patience
// and ends those that are left.
func (f *front) run(ctx context.Context, patience time.Duration) error {
	// Clients whose sessions go on while nothing new begins are still heard.
	lateCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var late errgroup.Group
	late.Go(func() error { f.tickLoop(lateCtx); return nil })
	if f.stream != nil {
		late.Go(func() error { return f.loop(lateCtx, f.stream.Recv, f.fromStream) })
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { <-ctx.Done(); return nil })
	if f.pull != nil {
		g.Go(func() error { return f.loop(ctx, f.pull.Recv, f.fromPull) })
	}
	if f.req != nil {
		g.Go(func() error { return f.loop(ctx, f.req.Recv, f.fromReq) })
	}
	err := g.Wait()
	done := make(chan struct{})
	go func() {
		f.sessions.Wait()
		close(done)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		for _, s := range f.all() {
			s.stop()
		}
		<-done
	}
	cancel()
	return errors.Join(err, late.Wait(), f.unbind())
}

// loop passes on what a socket receives until ctx ends.
func (f *front) loop(ctx context.Context, recv func(context.Context) ([][]byte, error), take func(context.Context, [][]byte)) error {
	for {
		parts, err := recv(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // that is how it ends
		}
		if err != nil {
			return err
		}
		take(ctx, parts)
	}
}

func (f *front) tickLoop(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f.tick(f.now())
		case <-ctx.Done():
			return
		}
	}
}

func (f *front) tick(now time.Time) {
	for _, s := range f.all() {
		s.tick(now)
	}
}

func (f *front) all() []*session {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]*session, 0, len(f.open))
	for s := range f.open {
		out = append(out, s)
	}
	return out
}

// invalid counts a message that is not right.
func (f *front) invalid(socket string, err error) {
	f.s.metrics.invalid.WithLabelValues(socket).Inc()
	f.s.log.Debug("message skipped", "socket", socket, "err", err)
}

var (
	errParts    = errors.New("wrong number of parts")
	errNoID     = errors.New("no id")
	errIDs      = errors.New("more than one id in an initial packet")
	errIDInUse  = errors.New("id already in use")
	errEnvelope = errors.New("no envelope of a request")
)

// fromPull starts a session.
func (f *front) fromPull(ctx context.Context, parts [][]byte) {
	if len(parts) != 1 {
		f.invalid(socketIn, errParts)
		return
	}
	p, format, err := zhttp.ParseRequest(parts[0])
	if err == nil && len(p.IDs) > 1 {
		err = errIDs
	}
	if err != nil {
		f.invalid(socketIn, err)
		f.refuse(p)
		return
	}
	s := f.newSession(p, format)
	switch {
	case p.From == "" || len(p.IDs) == 0:
		s.kind = kindForgotten
	case isWebSocket(p.URI):
		s.kind, s.id = kindWebSocket, p.IDs[0]
	default:
		s.kind, s.id, s.ended = kindHTTP, p.IDs[0], !p.More
	}
	if !f.register(s) {
		// An answer would be taken for one of the session that has the id.
		f.invalid(socketIn, errIDInUse)
		return
	}
	f.start(ctx, s, p)
}

// refuse tells the sender of a packet that cannot be used, if it is known.
func (f *front) refuse(p *zhttp.Request) {
	if p == nil || p.From == "" || p.Type == zhttp.Error || p.Type == zhttp.Cancel {
		return
	}
	for _, id := range p.IDs {
		if f.find(p.From, id.ID) == nil {
			f.publish(p.From, zhttp.Tnet, &zhttp.Response{ID: zhttp.ID{ID: id.ID, Seq: zhttp.Absent}, Type: zhttp.Error, Condition: badRequest})
		}
	}
}

// fromStream passes on what clients say to their sessions.
func (f *front) fromStream(_ context.Context, parts [][]byte) {
	if len(parts) != 2 || len(parts[0]) != 0 {
		f.invalid(socketInStream, errParts)
		return
	}
	p, _, err := zhttp.ParseRequest(parts[1])
	if err == nil && len(p.IDs) == 0 {
		err = errNoID
	}
	if err != nil {
		f.invalid(socketInStream, err)
		f.refuse(p)
		return
	}
	for _, id := range p.IDs {
		s := f.find(p.From, id.ID)
		if s != nil && s.handle(id.Seq, p) {
			continue
		}
		if p.From != "" && p.Type != zhttp.Error && p.Type != zhttp.Cancel {
			f.publish(p.From, zhttp.Tnet, &zhttp.Response{ID: zhttp.ID{ID: id.ID, Seq: zhttp.Absent}, Type: zhttp.Cancel})
		}
	}
}

// fromReq starts a session that is answered with one packet.
func (f *front) fromReq(ctx context.Context, parts [][]byte) {
	body := len(parts) - 1
	if body < 2 || len(parts[body-1]) != 0 {
		f.invalid(socketInReq, errEnvelope) // nobody can be answered
		return
	}
	p, format, err := zhttp.ParseRequest(parts[body])
	if err == nil && len(p.IDs) > 1 {
		err = errIDs
	}
	if err != nil {
		f.invalid(socketInReq, err)
		p = &zhttp.Request{}
	}
	s := f.newSession(p, format)
	s.kind, s.envelope = kindReq, parts[:body]
	if len(p.IDs) == 1 {
		s.id = p.IDs[0]
	}
	f.register(s)
	if err != nil { // whoever asks has to be told, or waits for ever
		s.end(&zhttp.Response{Type: zhttp.Error, Condition: badRequest}, badRequest)
		return
	}
	f.start(ctx, s, p)
}

// start runs s when there is room for it.
func (f *front) start(ctx context.Context, s *session, p *zhttp.Request) {
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		s.stop()
		return
	}
	f.sessions.Go(func() {
		defer func() { <-f.slots }()
		s.run(p)
	})
}

// register enters s, unless its client has another session with the id.
func (f *front) register(s *session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.addressed() {
		if f.lookup(s.from, s.id.ID) != nil {
			return false
		}
		f.byID[s.id.ID] = append(f.byID[s.id.ID], s)
	}
	f.open[s] = struct{}{}
	f.s.metrics.sessions.WithLabelValues(s.kind).Inc()
	return true
}

// forget takes s out and calls last, which sends its last packet. Both are one
// step for the other sockets: the client may use the id again as soon as it has the
// packet, and what it sent before that must not be answered, as of nobody's
// session, before it.
func (f *front) forget(s *session, last func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer last()
	if _, ok := f.open[s]; !ok {
		return
	}
	delete(f.open, s)
	f.s.metrics.sessions.WithLabelValues(s.kind).Dec()
	list := f.byID[s.id.ID]
	for i := range list {
		if list[i] == s {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			break
		}
	}
	if f.byID[s.id.ID] = list; len(list) == 0 {
		delete(f.byID, s.id.ID)
	}
}

func (f *front) find(from, id string) *session {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lookup(from, id)
}

// lookup returns the session that a packet is for. Zurl's clients may leave out
// from once the session is known; then the id must be nobody else's.
func (f *front) lookup(from, id string) *session {
	list := f.byID[id]
	for _, s := range list {
		if s.from == from {
			return s
		}
	}
	if from == "" && len(list) == 1 {
		return list[0]
	}
	return nil
}

// publish sends a packet to a client.
func (f *front) publish(to string, format zhttp.Format, r *zhttp.Response) {
	_ = f.pub.Send(r.Append([]byte(to+" "), format)) // a session sees to it that it is not too large
}
