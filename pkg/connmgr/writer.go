package connmgr

import (
	"runtime"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/wheel"
)

// The timer wheel of a writer loop.
const (
	wheelTick  = 25 * time.Millisecond
	wheelSlots = 4096 // one turn is 102 s, longer than nearly all timers
)

// A run is publications to one group that are written to each member at once.
const (
	maxRun      = 256
	maxRunBytes = 64 << 10
)

// maxScratch is the largest scratch buffer that is kept between rounds.
const maxScratch = 1 << 20

// writer is one of the loops that write to held connections. It owns the holds
// assigned to it: their groups, backlogs, timers and sockets. Everybody else
// hands it jobs, which it takes in the order in which they came; since the
// bus's goroutine hands over both holds and publications, a publication reaches
// every hold that came before it.
type writer struct {
	s     *Server
	i     int // which of Server.writers
	wheel *wheel.Wheel[*hold]
	tally tally
	try   *tryWriter
	now   time.Time // when the current round began

	// direct is held while the writer writes to descriptors without the net
	// package knowing of it, which Server.Close must not close meanwhile.
	direct sync.Mutex
	shut   bool // nothing may be written any more; guarded by direct

	scratch []byte // for what is written at once; its content does not outlive a write
	ends    []int  // of the publications in scratch

	wake chan struct{} // buffer 1: a job was pushed; never closed

	mu     sync.Mutex
	jobs   []job
	queued int // bytes of deliveries in jobs
}

type jobKind uint8

const (
	jobDeliver  jobKind = iota // d for the group g, or for only
	jobHold                    // h was made; it joins groups
	jobPark                    // h's socket is the writer's from now on; n bytes were sent
	jobFail                    // h's connection broke before it was parked
	jobGone                    // the client of h is gone
	jobHalf                    // the client of h will send nothing more
	jobWritable                // the socket of h has room again
	jobFrame                   // f came for h
	jobEnd                     // end h for reason, at the time at or now
	jobRecords                 // send the records of holds to peer
	jobUpgrade                 // h's socket is the writer's from now on; n is 1 if it compresses
	jobWSRaw                   // the WebSocket library wants raw sent to the client of h
	jobWSClosed                // the client of h sent a close frame with code n
	jobWSFault                 // the client of h broke the protocol; it is sent close code n
	jobWSClose                 // close the client's side of h with code n
	jobDropped                 // d was dropped for n members, for reason
)

type job struct {
	kind   jobKind
	reason frame.Reason
	n      int
	h      *hold
	g      *group
	groups []*group
	d      *delivery
	f      frame.Frame
	only   []*hold
	at     time.Time
	rec    *recordsJob
	raw    []byte
}

// recordsJob asks for the records of some holds of this writer.
type recordsJob struct {
	to    *peer
	holds []recordWanted
	last  func() // called when the records were handed to the bus
}

type recordWanted struct {
	h       *hold
	sendSeq uint64
}

func newWriter(s *Server, i int) *writer {
	now := s.now()
	return &writer{
		s: s, i: i, now: now,
		wheel: wheel.New[*hold](wheelTick, wheelSlots, now),
		tally: tally{s: s, bySrc: make(map[*peer]*frame.Report), index: make(map[tallyKey]int)},
		try:   newTryWriter(),
		wake:  make(chan struct{}, 1),
	}
}

// push hands over a job. A publication is refused if too much waits already;
// the number of other jobs is bounded by the number of connections.
func (w *writer) push(j job) bool {
	w.mu.Lock()
	if j.kind == jobDeliver {
		size := j.d.size()
		if w.queued+size > w.s.opt.MaxQueued {
			w.mu.Unlock()
			return false
		}
		w.queued += size
	}
	w.jobs = append(w.jobs, j)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

// take returns what was pushed, and leaves an empty slice in its place.
func (w *writer) take(empty []job) []job {
	w.mu.Lock()
	defer w.mu.Unlock()
	jobs := w.jobs
	w.jobs = empty
	w.queued = 0
	return jobs
}

// run is the loop. It ends when stop is closed, after what was pushed before.
func (w *writer) run(stop <-chan struct{}) {
	tick := time.NewTimer(wheelTick)
	defer tick.Stop()
	var jobs []job
	for stopping := false; !stopping; {
		select {
		case <-w.wake:
		case <-tick.C:
		case <-stop:
			stopping = true
		}
		w.now = w.s.now()
		jobs = w.take(jobs[:0])
		w.do(jobs)
		clear(jobs)
		w.wheel.Advance(w.now, w.fire)
		if stopping || w.tally.due(w.now) {
			w.tally.flush()
		}
		if cap(w.scratch) > maxScratch {
			w.scratch = nil
		}
		tick.Reset(w.sleep())
	}
}

// maxSleep is how long a loop without anything to do sleeps.
const maxSleep = time.Second

// sleep returns when the loop has to run again if no job comes before.
func (w *writer) sleep() time.Duration {
	d := w.wheel.Next(w.now, maxSleep)
	if w.tally.n > 0 {
		d = min(d, w.tally.since.Add(reportEvery).Sub(w.now))
	}
	return max(d, time.Millisecond)
}

func (w *writer) do(jobs []job) {
	for i := 0; i < len(jobs); i++ {
		j := &jobs[i]
		if j.kind == jobDeliver {
			if n := runLength(jobs[i:]); n > 1 {
				w.fanOut(j.g, jobs[i:i+n])
				i += n - 1
			} else {
				w.deliver(j)
			}
			w.now = w.s.now()
			if w.tally.due(w.now) {
				w.tally.flush()
			}
			continue
		}
		w.handle(j)
	}
}

// runLength returns how many of the jobs at the start of the list can be
// written to each member together.
func runLength(jobs []job) int {
	n, size := 0, 0
	for n < len(jobs) && n < maxRun {
		j := &jobs[n]
		if j.kind != jobDeliver || j.g == nil || j.g != jobs[0].g || !j.d.plain() {
			break
		}
		if size += len(j.d.f.Body); n > 0 && size > maxRunBytes {
			break
		}
		n++
	}
	return n
}

func (w *writer) handle(j *job) {
	h := j.h
	if h != nil && h.over {
		if j.kind == jobHold { // cannot be: it is the first job of a hold
			w.join(h, j.groups)
			w.leave(h)
		}
		if j.kind == jobFrame {
			for _, g := range j.groups {
				w.s.groups.release(g, w.i)
			}
		}
		return
	}
	switch j.kind {
	case jobHold:
		w.begin(h, j.groups)
	case jobPark:
		w.park(h, j.n)
	case jobUpgrade:
		w.upgraded(h, j.n == 1)
	case jobWSRaw:
		h.ws.sentClose = true
		w.leave(h) // RFC 6455, section 5.5.1: nothing follows
		w.append(h, item{data: j.raw}, 0)
		w.settle(h)
	case jobWSClosed:
		w.wsClosed(h, uint16(j.n))
	case jobWSFault:
		w.wsFault(h, uint16(j.n))
	case jobWSClose:
		w.wsClose(h, uint16(j.n), nil)
	case jobFail:
		w.finish(h, j.reason)
	case jobGone:
		w.cut(h, frame.ReasonClientGone)
	case jobHalf:
		w.probe(h)
	case jobWritable:
		h.stuck = false
		w.settle(h)
	case jobFrame:
		w.frame(h, j)
	case jobEnd:
		switch {
		case !j.at.After(w.now):
			w.endFor(h, j.reason)
		case h.ending || h.retry != nil: // and has its own time for that
		case h.mode == frame.ModeResponse:
			h.endAt = j.at
			w.wheel.SetSooner(&h.timer, j.at) // it may have its timeout before
		default:
			h.endAt = j.at
			w.wheel.Set(&h.timer, j.at)
		}
	case jobRecords:
		w.records(j.rec)
	case jobDropped:
		w.tally.dropped(j.d, j.reason, j.n, w.now)
	}
}

// deliver handles one publication.
func (w *writer) deliver(j *job) {
	d := j.d
	if j.g == nil {
		for _, h := range j.only {
			w.deliverTo(h, d)
		}
		return
	}
	if d.plain() {
		one := [1]job{*j}
		w.fanOut(j.g, one[:])
		return
	}
	// From the end, see leave.
	for i := len(j.g.members[w.i]) - 1; i >= 0; i-- {
		h := j.g.members[w.i][i].h
		if _, except := d.except[h.x.id]; !except {
			w.deliverTo(h, d)
		}
	}
}

// yieldEvery is after how many direct writes, of which the scheduler does not
// know, others get a turn: about every millisecond.
const yieldEvery = 128

// fanOut writes a run of publications to every member of g, each with one
// system call. This is the hot path: nothing in it allocates for a member whose
// socket takes the bytes.
func (w *writer) fanOut(g *group, run []job) {
	if len(g.members[w.i]) == 0 {
		return
	}
	for i := range run {
		if run[i].d.f.Channel != "" {
			for _, m := range g.members[w.i] {
				m.h.passed(run[i].d)
			}
		}
	}
	w.direct.Lock()
	defer w.direct.Unlock()
	var encoded [framings][]byte  // the bytes of the run
	whole, sent, calls := 0, 0, 0 // members that took everything at once; bytes; writes
	for i := len(g.members[w.i]) - 1; i >= 0; i-- {
		h := g.members[w.i][i].h
		if h.fd < 0 || !h.ready() || w.shut {
			w.giveRun(h, run)
			continue
		}
		f := h.framing()
		if encoded[f] == nil {
			encoded[f] = runBytes(run, f)
		}
		p := encoded[f]
		h.lastSend = w.now
		if len(p) == 0 {
			whole++
			continue
		}
		if calls++; calls%yieldEvery == 0 {
			runtime.Gosched()
		}
		n, err := writeNow(h.fd, p)
		h.sent += uint64(n)
		sent += n
		switch {
		case err != nil:
			w.dropRun(run, frame.ReasonWriteFailed)
			w.cut(h, frame.ReasonClientGone)
		case n == len(p):
			whole++
		default:
			w.keepRest(h, run, n)
		}
	}
	w.s.metrics.bytesOut.add(sent)
	for i := range run {
		w.tally.delivered(run[i].d, whole, w.now)
	}
}

// stopDirect returns when the writer makes no more writes of which the net
// package does not know.
func (w *writer) stopDirect() {
	w.direct.Lock()
	defer w.direct.Unlock()
	w.shut = true
}

func runBytes(run []job, f framing) []byte {
	if len(run) == 1 {
		return run[0].d.bytes(f)
	}
	size := 0
	for i := range run {
		size += len(run[i].d.bytes(f))
	}
	out := make([]byte, 0, size)
	for i := range run {
		out = append(out, run[i].d.bytes(f)...)
	}
	return out
}

func (w *writer) dropRun(run []job, reason frame.Reason) {
	for i := range run {
		w.tally.dropped(run[i].d, reason, 1, w.now)
	}
}

// keepRest puts the publications of a run of which the socket took n bytes in
// all into h's backlog, but for those that went out whole.
func (w *writer) keepRest(h *hold, run []job, n int) {
	for i := range run {
		d := run[i].d
		p := d.bytes(h.framing())
		if n >= len(p) {
			n -= len(p)
			w.tally.delivered(d, 1, w.now)
			continue
		}
		if h.over { // the backlog was full
			w.tally.dropped(d, frame.ReasonBacklogFull, 1, w.now)
			continue
		}
		w.enqueue(h, item{data: p, d: d}, n)
		n = 0
	}
	if !h.over {
		w.waitRoom(h)
	}
}

// giveRun brings a run to a member that cannot be written to directly: it has a
// backlog, is not parked yet, or speaks TLS.
func (w *writer) giveRun(h *hold, run []job) {
	if h.ready() && h.c.tls != nil {
		w.sealRun(h, run)
		return
	}
	for i := range run {
		if h.over {
			w.tally.dropped(run[i].d, frame.ReasonBacklogFull, 1, w.now)
			continue
		}
		w.give(h, run[i].d)
	}
}

// give brings one publication to a member of a stream group.
func (w *writer) give(h *hold, d *delivery) {
	if h.ws != nil {
		w.wsDeliver(h, d)
		return
	}
	h.lastSend = w.now
	w.enqueue(h, item{data: d.bytes(h.framing()), d: d}, 0)
	if !h.over {
		w.settle(h)
	}
}

// deliverTo brings one publication, or the action that it is, to one hold.
func (w *writer) deliverTo(h *hold, d *delivery) {
	h.passed(d)
	switch {
	case h.over || h.ending || h.retry != nil || h.mode != d.f.Mode:
		w.tally.dropped(d, frame.ReasonNotReady, 1, w.now)
	case h.ws != nil && (h.ws.sentClose || h.ws.gotClose):
		w.tally.dropped(d, frame.ReasonNotReady, 1, w.now)
	case h.ws != nil:
		w.wsDeliver(h, d)
	case d.f.Mode == frame.ModeStream && d.f.Action == frame.ActionSend:
		w.give(h, d)
	case d.f.Mode == frame.ModeStream && d.f.Action == frame.ActionClose:
		w.end(h, frame.ReasonFinished, d, h.lastChunk)
	case d.f.Mode == frame.ModeResponse && d.f.Action == frame.ActionSend:
		w.end(h, frame.ReasonFinished, d, func() []byte { return h.published(d.f) })
	default:
		w.tally.dropped(d, frame.ReasonNotReady, 1, w.now)
	}
}

// fire is called by the wheel.
func (w *writer) fire(t *wheel.Timer[*hold]) {
	h := t.Owner
	if h.ws != nil {
		w.wsFire(h, t)
		return
	}
	switch {
	case h.over:
	case h.ending: // it ends, but the client does not take the end
		w.cut(h, frame.ReasonWriteFailed)
	case !h.endAt.IsZero() && !h.endAt.After(w.now):
		w.endFor(h, frame.ReasonShutdown)
	case h.mode == frame.ModeResponse:
		w.endFor(h, frame.ReasonTimeout)
	default:
		w.keepAlive(h)
	}
}

// records sends the records of holds to a handler that came up.
func (w *writer) records(j *recordsJob) {
	batch := recordBatch{s: w.s, to: j.to}
	for _, want := range j.holds {
		if want.h.over {
			continue
		}
		x := want.h.x
		x.mu.Lock()
		recv := x.sendSeq
		if x.ws != nil {
			recv = x.ws.sendSeq
		}
		x.mu.Unlock()
		batch.add(frame.Held{ID: x.id, SendSeq: want.sendSeq, RecvSeq: recv, Record: want.h.record, Last: want.h.placed})
	}
	batch.flush()
	j.last()
}

// sealRun is the way of a run to a TLS connection without a backlog: all records
// are made first, then written with one system call.
func (w *writer) sealRun(h *hold, run []job) {
	h.lastSend = w.now
	w.scratch, w.ends = w.scratch[:0], w.ends[:0]
	for i := range run {
		if err := h.c.seal(&w.scratch, run[i].d.bytes(h.framing())); err != nil {
			w.dropRun(run, frame.ReasonWriteFailed)
			w.cut(h, frame.ReasonClientGone)
			return
		}
		w.ends = append(w.ends, len(w.scratch))
	}
	n, err := w.try.write(h.c.sock.rc, w.scratch, false)
	h.sent += uint64(n)
	w.s.metrics.bytesOut.add(n)
	if err != nil {
		w.dropRun(run, frame.ReasonWriteFailed)
		w.cut(h, frame.ReasonClientGone)
		return
	}
	start := 0
	for i, end := range w.ends {
		switch {
		case n >= end:
			w.tally.delivered(run[i].d, 1, w.now)
		case h.over: // the backlog was full
			w.tally.dropped(run[i].d, frame.ReasonBacklogFull, 1, w.now)
		default:
			rest := append([]byte(nil), w.scratch[max(start, n):end]...)
			w.enqueue(h, item{data: rest, d: run[i].d, sealed: true}, 0)
		}
		start = end
	}
	if !h.over && n < len(w.scratch) {
		w.waitRoom(h)
	}
}

// lastChunk returns what ends the body of a stream.
func (h *hold) lastChunk() []byte {
	if h.chunked && !h.noBody {
		return http1.AppendLastChunk(nil, nil)
	}
	return nil
}
