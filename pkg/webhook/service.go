package webhook

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast/holdfast/pkg/hook"
)

// Errors of Enqueue: the message was not taken, and will not be delivered.
var (
	// ErrFull says that a queue is at its bound and its owner wants to refuse.
	ErrFull = errors.New("webhook queue is full")
	// ErrStore wraps what the disk said.
	ErrStore = errors.New("webhook store cannot be written")
	// ErrBusy says that more arrives than the disk takes.
	ErrBusy = errors.New("webhook store is busy")
	// ErrStopping says that the process is about to end.
	ErrStopping = errors.New("webhooks are stopping")
)

// recentKey is a hash of a message's id.
type recentKey [16]byte

func recentOf(id string) recentKey {
	sum := sha256.Sum256([]byte(id))
	return recentKey(sum[:])
}

// ref is what is known of a message in the file.
type ref struct {
	n    int32 // queues and dead letters that have it
	kept int32 // endpoints that keep it
	size uint32
}

// Service is the webhooks of one file. Make it with Open.
type Service struct {
	// Set once.
	o       Options
	log     *slog.Logger
	metrics *Metrics
	db      *bolt.DB
	name    string // of the file
	clock   clock
	work    chan struct{} // of the committer; one pending signal is enough
	wake    chan struct{} // of the scheduler; likewise

	nextRecent uint64 // number of the last id; owned by the committer once it runs

	apiMu sync.Mutex // one change of endpoints at a time; taken before mu

	mu          sync.Mutex // guards what follows
	endpoints   map[string]*endpoint
	match       map[string]*hook.Set[*endpoint] // by kind
	lastNum     uint32
	seq         uint64 // of the last message
	refs        map[uint64]ref
	bytes       int64 // of all messages in queues and dead letters
	pending     int   // of all queues
	keepers     keepers
	keptBytes   int64 // of all endpoints
	sweeping    bool  // more is to be forgotten when the last part is
	recent      map[recentKey]bool
	recents     []recentKey          // in the order in which they came
	arriving    map[recentKey]*batch // on their way to the disk
	ops         []op
	opsBytes    int
	outcomes    int // ops that are kept when the disk fails
	room        sync.Cond
	wakes       map[*endpoint]bool // that the scheduler has to look at some time
	nextWake    time.Time          // when it looks
	houses      int                // how often it has kept the house
	extra       int                // attempts beyond the first of each endpoint
	starved     []*endpoint
	attempts    sync.WaitGroup
	attemptCtx  context.Context // of all attempts; ends after DrainTime
	stopping    bool
	closed      bool
	storeFailed bool // for the log
}

// op is something to write.
type op struct {
	apply func(tx *bolt.Tx) error
	then  func(err error) // may be nil; not called with mu held
	bytes int
	// keep says that it is tried again when the disk fails: the outcome of an
	// attempt stays true.
	keep bool
}

// Open opens or makes the file. Nothing is delivered before Run.
func Open(o Options) (*Service, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Service{
		o: o, log: o.Logger, metrics: o.Metrics, clock: clock{time.Now()},
		work: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		endpoints: make(map[string]*endpoint), refs: make(map[uint64]ref), recent: make(map[recentKey]bool), arriving: make(map[recentKey]*batch), wakes: make(map[*endpoint]bool),
		attemptCtx: context.Background(),
	}
	s.room.L = &s.mu
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.metrics == nil {
		s.metrics, _ = NewMetrics(nil) // without a registerer it cannot fail
	}
	var err error
	if s.db, err = openFile(o.Path); err != nil {
		return nil, err
	}
	s.db.NoSync = o.noSync
	if err := s.load(); err != nil {
		_ = s.db.Close()
		return nil, fmt.Errorf("webhook store %s: %w", o.Path, err)
	}
	s.rematch()
	s.metrics.serve(s)
	s.log.Info("webhook store is open", "path", o.Path, "endpoints", len(s.endpoints), "waiting", s.pending)
	return s, nil
}

// Name is the name of the file, the same as long as it exists.
func (s *Service) Name() string { return s.name }

// Close closes the file of a Service that Run was not called for.
func (s *Service) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed, s.stopping = true, true
	s.mu.Unlock()
	if was {
		return nil
	}
	s.metrics.serve(nil)
	return s.db.Close()
}

// Run delivers until ctx ends, then lets attempts go on for DrainTime. It closes
// the file.
func (s *Service) Run(ctx context.Context) error {
	attemptCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	var committer, scheduler sync.WaitGroup
	stopCommitter := make(chan struct{})
	committer.Go(func() { s.commitLoop(stopCommitter) })
	s.mu.Lock()
	s.attemptCtx = attemptCtx
	for _, ep := range s.endpoints {
		s.kick(ep)
	}
	s.mu.Unlock()
	scheduler.Go(func() { s.scheduleLoop(ctx) })

	<-ctx.Done()
	s.mu.Lock()
	s.stopping = true
	s.room.Broadcast()
	s.mu.Unlock()
	drain := time.AfterFunc(s.o.DrainTime, giveUp)
	scheduler.Wait()
	s.attempts.Wait()
	drain.Stop()
	close(stopCommitter)
	committer.Wait()
	return s.Close()
}

// submit queues an op. Caller holds mu.
func (s *Service) submit(o op) {
	s.ops = append(s.ops, o)
	s.opsBytes += o.bytes
	if o.keep {
		s.outcomes++
	}
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// do writes something and waits for it.
func (s *Service) do(apply func(tx *bolt.Tx) error) error {
	done := make(chan error, 1)
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return ErrStopping
	}
	s.submit(op{apply: apply, then: func(err error) { done <- err }})
	s.mu.Unlock()
	return <-done
}

// commitPause is how long outcomes wait for a disk that failed.
const commitPause = 250 * time.Millisecond

// commitLoop writes what is submitted: all that came during one commit goes into
// the next.
func (s *Service) commitLoop(stop <-chan struct{}) {
	var kept []op
	for {
		var retry <-chan time.Time
		var timer *time.Timer
		if len(kept) > 0 {
			timer = time.NewTimer(commitPause)
			retry = timer.C
		}
		last := false
		select {
		case <-s.work:
		case <-retry:
		case <-stop:
			last = true
		}
		if timer != nil {
			timer.Stop()
		}
		s.mu.Lock()
		ops := s.ops
		s.ops, s.opsBytes = nil, 0
		s.mu.Unlock()
		kept = s.commit(append(kept, ops...))
		if last {
			return
		}
	}
}

// commit writes ops and returns the ones to try again.
func (s *Service) commit(ops []op) (kept []op) {
	if len(ops) == 0 {
		return nil
	}
	began := time.Now()
	err := s.write(ops)
	s.metrics.commit.Observe(time.Since(began).Seconds())
	s.metrics.commitOps.Add(float64(len(ops)))
	if err != nil {
		s.metrics.commitErrors.Inc()
		err = fmt.Errorf("%w: %w", ErrStore, err)
		for _, o := range ops {
			if o.keep {
				kept = append(kept, o)
			}
		}
		// Outcomes make room, so they may succeed where new messages do not.
		if len(kept) > 0 && len(kept) < len(ops) && s.write(kept) == nil {
			for _, o := range kept {
				o.finish(nil)
			}
			s.written(len(kept))
			kept = nil
		}
		s.note(err)
		for _, o := range ops {
			if !o.keep {
				o.finish(err)
			}
		}
		return kept
	}
	s.note(nil)
	n := 0
	for _, o := range ops {
		if o.keep {
			n++
		}
		o.finish(nil)
	}
	s.written(n)
	return nil
}

func (o op) finish(err error) {
	if o.then != nil {
		o.then(err)
	}
}

// written notes that n outcomes are on disk.
func (s *Service) written(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outcomes -= n; n > 0 {
		s.room.Broadcast()
	}
}

// note logs when the disk begins to fail, and when that is over.
func (s *Service) note(err error) {
	s.mu.Lock()
	was := s.storeFailed
	s.storeFailed = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !was:
		s.log.Error("webhooks are refused", "err", err)
	case err == nil && was:
		s.log.Info("webhooks are taken again")
	}
}

func (s *Service) write(ops []op) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, o := range ops {
			if err := o.apply(tx); err != nil {
				return err
			}
		}
		if s.o.commitFault != nil {
			return s.o.commitFault()
		}
		return nil
	})
}

// rematch makes the match tables anew. Caller holds mu, or is alone.
func (s *Service) rematch() {
	s.match = make(map[string]*hook.Set[*endpoint])
	now := time.Now()
	for _, kind := range hook.Kinds {
		set := new(hook.Set[*endpoint])
		for _, ep := range s.endpoints {
			if ep.Status == StatusActive && ep.status(now) != StatusExpired && ep.wants(kind) {
				for _, p := range ep.Channels {
					set.Add(p, ep)
				}
			}
		}
		s.match[kind] = set
	}
}

// Patterns returns the patterns of channels whose messages have somewhere to go,
// and whether some endpoint wants other events.
func (s *Service) Patterns() (patterns []string, events bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, ep := range s.endpoints {
		if !ep.takes(now) {
			continue
		}
		if ep.wants(hook.Message) {
			patterns = append(patterns, ep.Channels...)
		}
		for _, kind := range hook.Kinds {
			events = events || kind != hook.Message && ep.wants(kind)
		}
	}
	slices.Sort(patterns)
	return slices.Compact(patterns), events
}

// changed is called without mu after endpoints have changed.
func (s *Service) changed() {
	s.mu.Lock()
	s.rematch()
	s.mu.Unlock()
	if s.o.Changed != nil {
		s.o.Changed()
	}
}

// Enqueue takes messages, all or none. done is called once, with nil when they
// are on disk (or, with Options.Early, when they are taken), from any goroutine;
// it must not block. A message that came before, and a message that nobody
// wants, are taken without further ado.
func (s *Service) Enqueue(messages []Message, done func(error)) {
	if err := s.enqueue(messages, done); err != nil {
		s.metrics.refused.Add(float64(len(messages)))
		done(err)
	}
}

// delivery is a message for one endpoint, on its way to the disk.
type delivery struct {
	ep *endpoint
	e  entry
	// dead says that the message becomes a dead letter at once.
	dead bool
}

// batch is messages that are written together.
type batch struct {
	ids []recentKey
	err error // what came of it; owned by the committer
}

// repeatBytes is what a batch that another one has to wait for counts for
// maxWaiting.
const repeatBytes = 64

func (s *Service) enqueue(messages []Message, done func(error)) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return ErrStopping
	}
	var (
		all   []delivery
		bytes int
		b     = new(batch)
		own   = make(map[recentKey]bool)
		first []*batch // that bring messages which came again
		datas = make(map[uint64][]byte)
		added = make(map[*endpoint]int)
	)
	for i := range messages {
		m := &messages[i]
		targets := s.targets(m, now)
		if len(targets) == 0 {
			continue
		}
		id := recentOf(m.ID)
		earlier := s.arriving[id]
		if s.recent[id] || own[id] || earlier != nil {
			s.metrics.repeated.Inc()
			if earlier != nil && !slices.Contains(first, earlier) {
				first = append(first, earlier)
			}
			continue
		}
		size := m.size()
		s.seq++
		e := entry{seq: s.seq, at: s.clock.millis(now), size: uint32(size)}
		for _, ep := range targets {
			full := ep.depth+added[ep] >= ep.MaxQueue || ep.bytes+int64(size) > ep.MaxBytes
			if full && ep.OnFull == FullRefuse {
				return fmt.Errorf("%w: endpoint %s", ErrFull, ep.ID)
			}
			added[ep]++
			all = append(all, delivery{ep: ep, e: e, dead: full && ep.OnFull == FullDropNewest})
		}
		datas[e.seq] = appendMessage(nil, m)
		bytes += len(datas[e.seq])
		own[id] = true
		b.ids = append(b.ids, id)
	}
	waiting := bytes + repeatBytes*len(first)
	switch {
	case len(all)+len(first) == 0:
		done(nil)
		return nil
	case s.pending+len(all) > s.o.MaxPending || s.bytes+int64(bytes) > s.o.MaxBytes:
		return fmt.Errorf("%w: all queues together", ErrFull)
	case s.opsBytes > 0 && s.opsBytes+waiting > maxWaiting:
		return ErrBusy
	}
	for _, id := range b.ids {
		s.arriving[id] = b
	}
	for seq, data := range datas {
		s.refs[seq] = ref{size: uint32(len(data))}
	}
	for _, d := range all {
		s.retain(d.e.seq)
		s.count(d.ep, d.e, 1)
	}
	s.submit(op{bytes: waiting, apply: func(tx *bolt.Tx) error {
		for seq, data := range datas {
			if err := put(tx, bucketMessages, seqKey(seq), data); err != nil {
				return err
			}
		}
		for _, d := range all {
			if !d.dead {
				if err := put(tx, bucketQueue, key(d.ep.Num, d.e.seq), appendEntry(nil, s.clock.save(d.e, now))); err != nil {
					return err
				}
			}
		}
		for _, id := range b.ids {
			s.nextRecent++
			n := s.nextRecent
			if err := put(tx, bucketRecent, seqKey(n), id[:]); err != nil {
				return err
			}
			if n > maxRecent {
				if err := del(tx, bucketRecent, seqKey(n-maxRecent)); err != nil {
					return err
				}
			}
		}
		return nil
	}, then: func(err error) {
		b.err = err
		s.enqueued(all, b.ids, err)
		if s.o.Early {
			if err != nil {
				s.metrics.lost.Add(float64(len(b.ids)))
			}
			return
		}
		// They were written before or together with this one.
		for _, earlier := range first {
			err = cmp.Or(err, earlier.err)
		}
		done(err)
	}})
	if s.o.Early {
		done(nil)
	}
	return nil
}

// targets returns who gets a message. Caller holds mu.
func (s *Service) targets(m *Message, now time.Time) []*endpoint {
	var found []*endpoint
	if m.Endpoint != "" {
		if ep := s.endpoints[m.Endpoint]; ep != nil && (m.Kind == hook.Test || ep.wants(m.Kind)) {
			found = []*endpoint{ep}
		}
	} else if set := s.match[m.Kind]; set != nil {
		found = set.Find(m.Channel)
	}
	return slices.DeleteFunc(found, func(ep *endpoint) bool { return !ep.takes(now) })
}

// enqueued is called when messages are on disk, or could not be written.
func (s *Service) enqueued(all []delivery, ids []recentKey, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.arriving, id)
	}
	for _, d := range all {
		switch {
		case err != nil:
			s.count(d.ep, d.e, -1)
			s.release(d.e.seq) // it is not on disk either
		case d.dead && !d.ep.gone:
			s.giveUp(d.ep, d.e, reasonFull, 0)
		default:
			d.ep.push(d.e)
		}
	}
	if err != nil {
		s.metrics.refused.Add(float64(len(ids)))
		return
	}
	s.metrics.enqueued.Add(float64(len(all)))
	for _, id := range ids {
		s.recent[id] = true
		s.recents = append(s.recents, id)
		if len(s.recents) > maxRecent {
			delete(s.recent, s.recents[0])
			s.recents = s.recents[1:]
		}
	}
	kicked := make(map[*endpoint]bool, len(all))
	for _, d := range all {
		if kicked[d.ep] || d.ep.gone {
			continue
		}
		kicked[d.ep] = true
		for d.ep.depth > d.ep.MaxQueue || d.ep.bytes > d.ep.MaxBytes {
			old, ok := d.ep.takeOldest()
			if !ok {
				break // they are under way
			}
			s.giveUp(d.ep, old, reasonFull, 0)
		}
		s.kick(d.ep)
	}
}

// count adds an entry to the totals of its queue, or with -1 removes it. Caller
// holds mu.
func (s *Service) count(ep *endpoint, e entry, n int) {
	ep.depth += n
	ep.bytes += int64(n) * int64(e.size)
	s.pending += n
}

// retain counts one more that needs a message. Caller holds mu.
func (s *Service) retain(seq uint64) {
	r := s.refs[seq]
	if r.n++; r.n == 1 {
		s.bytes += int64(r.size)
	}
	s.refs[seq] = r
}

// release counts one less. It reports whether nobody needs the message any more:
// then it is to be deleted. Caller holds mu.
func (s *Service) release(seq uint64) bool {
	r := s.refs[seq]
	if r.n--; r.n == 0 {
		s.bytes -= int64(r.size)
	}
	if r.n <= 0 && r.kept == 0 {
		delete(s.refs, seq)
		return true
	}
	s.refs[seq] = r
	return false
}

// unused reports whether nobody needs a message, and then has no more to do with
// it. Caller holds mu.
func (s *Service) unused(seq uint64) bool {
	if r := s.refs[seq]; r.n > 0 || r.kept > 0 {
		return false
	}
	delete(s.refs, seq)
	return true
}

// dropMessages deletes messages that nobody needs. Caller holds mu.
func (s *Service) dropMessages(seqs []uint64) {
	if len(seqs) == 0 {
		return
	}
	s.submit(op{keep: true, apply: func(tx *bolt.Tx) error {
		for _, seq := range seqs {
			if err := del(tx, bucketMessages, seqKey(seq)); err != nil {
				return err
			}
		}
		return nil
	}})
}

// readMessage reads a message from the file.
func (s *Service) readMessage(seq uint64) (*Message, error) {
	var m *Message
	err := s.db.View(func(tx *bolt.Tx) error {
		var err error
		m, err = parseMessage(tx.Bucket(bucketMessages).Get(seqKey(seq)))
		return err
	})
	return m, err
}
