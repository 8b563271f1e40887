package handler

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
	"github.com/holdfast/holdfast/pkg/publish"
)

// Webhooks says when the handler may take publishes as far as webhooks are
// concerned.
type Webhooks uint8

// Values of Webhooks.
const (
	// WebhooksAuto takes them, and makes webhooks once a zurl has told of some.
	WebhooksAuto Webhooks = iota
	// WebhooksRequired waits until a zurl has told: there are some.
	WebhooksRequired
	// WebhooksOff makes none.
	WebhooksOff
)

const (
	// maxHookFrame is how many bytes of messages go into one frame.
	maxHookFrame = 4 << 20
	// maxHookBytes bounds what zurl has not acknowledged, and maxHookBatches how
	// many frames that may be.
	maxHookBytes   = 64 << 20
	maxHookBatches = 10000
	// callTimeout is how long a request to the webhooks part of the control API
	// may take.
	callTimeout = 20 * time.Second
)

// Errors of enqueue. Their texts go to publishers.
var (
	errHooksTimeout = errors.New("webhooks could not be stored in time")
	errHooksBusy    = errors.New("too many webhooks wait to be stored")
	errHooksSize    = errors.New("the item is too large for webhooks")
	errHooksStop    = errors.New("the handler is stopping")
)

// hooks brings publications to the webhook queues of zurl. It has a lock of its
// own, so that it can publish what was stored.
type hooks struct {
	s *Server
	// table is what publishes look at; nil while there are no webhooks. Replaced,
	// never changed.
	table atomic.Pointer[[]*hookStore]
	lines lines

	mu      sync.Mutex // guards what follows
	stores  map[string]*hookStore
	parts   map[bus.Peer]*hookStore // whose patterns are still coming
	heard   bool                    // a zurl has told
	stopped bool
	token   uint64
	batches map[uint64]*hookBatch
	bytes   int // of batches
	room    sync.Cond
	calls   map[uint64]chan *frame.HookAnswer
	events  []frame.HookMessage // that wait for the next tick, see hookevents.go
}

// hookStore is one file of webhooks, and the zurl that has it open.
type hookStore struct {
	name string
	peer bus.Peer
	up   bool
	// stalled says that the bus did not take a batch: later ones wait behind it.
	stalled bool
	events  bool
	any     bool
	match   hook.Set[struct{}]
}

// hookBatch is messages that zurl has not acknowledged.
type hookBatch struct {
	token uint64
	store string
	data  []byte // the encoded frame
	sent  bool   // to the zurl that has the store open now
	until time.Time
	done  func(error)
}

func newHooks(s *Server) *hooks {
	h := &hooks{
		s: s, stores: make(map[string]*hookStore), parts: make(map[bus.Peer]*hookStore),
		batches: make(map[uint64]*hookBatch), calls: make(map[uint64]chan *frame.HookAnswer),
	}
	h.room.L = &h.mu
	return h
}

// ready reports whether it is known who wants webhooks.
func (h *hooks) ready() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heard || h.s.opt.Webhooks != WebhooksRequired
}

// tell takes a part of what a zurl tells. It reports whether that was the last
// thing that was to be heard before publishes are taken.
func (h *hooks) tell(from bus.Peer, f *frame.Hooks) (nowReady bool) {
	if h.s.opt.Webhooks == WebhooksOff {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.parts[from]
	if st == nil {
		st = &hookStore{name: f.Store, peer: from, up: true, events: f.Events}
	}
	for _, p := range f.Patterns {
		st.match.Add(p, struct{}{})
		st.any = true
	}
	if f.More {
		h.parts[from] = st
		return false
	}
	delete(h.parts, from)
	if st.name != "" {
		old := h.stores[st.name]
		h.stores[st.name] = st
		if old != nil && old.peer != from {
			h.unsent(st.name)
		}
		h.resend(st)
	}
	h.retable()
	nowReady = !h.heard
	h.heard = true
	return nowReady
}

// retable makes the table anew. Caller holds mu.
func (h *hooks) retable() {
	var table []*hookStore
	for _, st := range h.stores {
		if st.any || st.events {
			table = append(table, st)
		}
	}
	if len(table) == 0 {
		h.table.Store(nil)
		return
	}
	slices.SortFunc(table, func(a, b *hookStore) int { return cmp.Compare(a.name, b.name) })
	h.table.Store(&table)
}

// down is called when a zurl is gone. What it said holds: its messages wait for
// the next one that opens the store.
func (h *hooks) down(p bus.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.parts, p)
	for _, st := range h.stores {
		if st.peer == p {
			st.up = false
			h.unsent(st.name)
		}
	}
}

// unsent notes that whoever got the batches of a store is gone. Caller holds mu.
func (h *hooks) unsent(store string) {
	for _, b := range h.batches {
		if b.store == store {
			b.sent = false
		}
	}
}

// resend sends what was not sent to the zurl that has the store open, in order.
// Caller holds mu.
func (h *hooks) resend(st *hookStore) {
	var waiting []*hookBatch
	for _, b := range h.batches {
		if b.store == st.name && !b.sent {
			waiting = append(waiting, b)
		}
	}
	slices.SortFunc(waiting, func(a, b *hookBatch) int { return cmp.Compare(a.token, b.token) })
	st.stalled = false
	for _, b := range waiting {
		h.send(st, b)
	}
}

// send sends a batch, unless an earlier one has yet to be sent. Caller holds mu.
func (h *hooks) send(st *hookStore, b *hookBatch) {
	if !st.up || st.stalled {
		return
	}
	b.sent = h.s.opt.Bus.Send(st.peer.Name, slices.Clone(b.data)) == nil // the bus owns what it gets
	st.stalled = !b.sent
}

// wanted returns the stores that want an item.
func (h *hooks) wanted(it *publish.Item) []*hookStore {
	table := h.table.Load()
	if table == nil {
		return nil
	}
	var found []*hookStore
	for _, st := range *table {
		if st.any && st.match.Has(it.Channel) {
			found = append(found, st)
		}
	}
	if found != nil && !hasContent(it) {
		return nil
	}
	return found
}

// enqueue puts the webhooks of items into queues. It returns false, and does
// nothing, if there are none. Otherwise done is called once, from any goroutine,
// with nil when all of them are stored.
func (h *hooks) enqueue(items []*publish.Item, done func(error)) bool {
	if h.table.Load() == nil {
		return false
	}
	var (
		stores   []*hookStore
		messages = make(map[*hookStore][]frame.HookMessage)
		now      = h.s.now()
	)
	for _, it := range items {
		found := h.wanted(it)
		if len(found) == 0 {
			continue
		}
		m := hookMessage(it, now)
		for _, st := range found {
			if messages[st] == nil {
				stores = append(stores, st)
			}
			messages[st] = append(messages[st], m)
		}
	}
	if len(stores) == 0 {
		return false
	}
	h.submit(stores, messages, done)
	return true
}

// submit sends messages, in as few frames as may be.
func (h *hooks) submit(stores []*hookStore, messages map[*hookStore][]frame.HookMessage, done func(error)) {
	type piece struct {
		st       *hookStore
		messages []frame.HookMessage
	}
	var pieces []piece
	for _, st := range stores {
		from, size := 0, 0
		for i := range messages[st] {
			n := hookSize(&messages[st][i])
			if n > frame.MaxFrame-1024 {
				done(errHooksSize)
				return
			}
			if size > 0 && size+n > maxHookFrame {
				pieces = append(pieces, piece{st, messages[st][from:i]})
				from, size = i, 0
			}
			size += n
		}
		pieces = append(pieces, piece{st, messages[st][from:]})
	}
	left := len(pieces)
	var first error
	var once sync.Mutex
	finish := func(err error) {
		once.Lock()
		first = cmp.Or(first, err)
		left--
		last := left == 0
		once.Unlock()
		if last {
			done(first)
		}
	}
	for _, p := range pieces {
		if err := h.add(p.st.name, p.messages, finish); err != nil {
			finish(err)
		}
	}
}

// add sends one frame and keeps it until it is acknowledged.
func (h *hooks) add(store string, messages []frame.HookMessage, done func(error)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped:
		return errHooksStop
	case h.bytes >= maxHookBytes || len(h.batches) >= maxHookBatches:
		return errHooksBusy
	}
	h.token++
	b := &hookBatch{token: h.token, store: store, until: h.s.now().Add(h.s.opt.WebhookTimeout), done: done}
	b.data = frame.Encode(&frame.Enqueue{Token: b.token, Store: store, Messages: messages})
	h.batches[b.token] = b
	h.bytes += len(b.data)
	if st := h.stores[store]; st != nil {
		h.send(st, b)
	}
	return nil
}

// acknowledged takes zurl's answer.
func (h *hooks) acknowledged(f *frame.Enqueued) {
	h.mu.Lock()
	b := h.batches[f.Token]
	if b == nil || f.Condition == frame.HooksNotReady {
		if b != nil { // it is sent again when the store is open
			b.sent = false
		}
		h.mu.Unlock()
		return
	}
	h.remove(b)
	h.mu.Unlock()
	var err error
	if f.Condition != "" {
		err = errors.New(f.Text)
	}
	b.done(err)
}

// remove forgets a batch. Caller holds mu.
func (h *hooks) remove(b *hookBatch) {
	delete(h.batches, b.token)
	h.bytes -= len(b.data)
	h.room.Broadcast()
}

// tick gives up what took too long, and sends what the bus did not take.
func (h *hooks) tick(now time.Time) {
	h.sendEvents()
	h.mu.Lock()
	var late []*hookBatch
	for _, b := range h.batches {
		if !now.Before(b.until) {
			h.remove(b)
			late = append(late, b)
		}
	}
	for _, st := range h.stores {
		if st.stalled && st.up {
			h.resend(st)
		}
	}
	h.mu.Unlock()
	for _, b := range late {
		b.done(errHooksTimeout)
	}
}

// stop fails what is under way.
func (h *hooks) stop() {
	h.sendEvents()
	h.mu.Lock()
	h.stopped = true
	var all []*hookBatch
	for _, b := range h.batches {
		h.remove(b)
		all = append(all, b)
	}
	for token, c := range h.calls {
		delete(h.calls, token)
		c <- unavailable(errHooksStop.Error()) // it has room for one
	}
	h.room.Broadcast()
	h.mu.Unlock()
	for _, b := range all {
		b.done(errHooksStop)
	}
}

// take stores the webhooks of items and waits for that.
func (h *hooks) take(intake string, items []*publish.Item) error {
	if h.table.Load() == nil {
		return nil
	}
	done := make(chan error, 1)
	if !h.enqueue(items, func(err error) { done <- err }) {
		return nil
	}
	err := <-done
	h.count(intake, err)
	return err
}

func (h *hooks) count(intake string, err error) {
	if err == nil {
		h.s.metrics.hooksStored[intake].Inc()
		return
	}
	h.s.metrics.hooksFailed[intake].Inc()
	h.s.mu.Lock()
	skipped, ok := h.s.skipLog.Allow(h.s.now())
	h.s.mu.Unlock()
	if ok {
		h.s.log.Warn("webhooks were not stored", "intake", intake, "err", err, "not_logged", skipped)
	}
}

// waitRoom waits until less is under way than the bounds allow, so that an
// intake that cannot refuse leaves what comes with its publishers.
func (h *hooks) waitRoom() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.stopped && (h.bytes >= maxHookBytes/2 || len(h.batches) >= maxHookBatches/2 || h.lines.n.Load() >= maxHookBatches) {
		h.room.Wait()
	}
}

// lines are the items of intakes that answer nobody, while they wait for their
// webhooks to be stored, or behind one of their channel that does: clients get the
// items of a channel in the order in which they came.
type lines struct {
	n  atomic.Int64 // of items
	mu sync.Mutex   // guards what follows; taken before Server.mu
	by map[string][]*lineItem
}

type lineItem struct {
	it     *publish.Item
	intake string
	ready  bool // its webhooks are stored, or there are none
}

// publishLater publishes an item of an intake that answers nobody: when its
// webhooks are stored, so that they come in the order of the items. If they
// cannot be stored, clients get it nevertheless; that is counted.
func (s *Server) publishLater(intake string, it *publish.Item) {
	h, l := s.hooks, &s.hooks.lines
	if h.table.Load() == nil && l.n.Load() == 0 {
		s.publish(intake, it)
		return
	}
	h.waitRoom()
	w := &lineItem{it: it, intake: intake}
	l.mu.Lock()
	if l.by == nil {
		l.by = make(map[string][]*lineItem)
	}
	l.by[it.Channel] = append(l.by[it.Channel], w)
	l.n.Add(1)
	l.mu.Unlock()
	if !h.enqueue([]*publish.Item{it}, func(err error) { h.count(intake, err); s.publishLine(w) }) {
		s.publishLine(w)
	}
}

// publishLine publishes an item that is ready, and those that waited behind it,
// unless it has to wait itself.
func (s *Server) publishLine(w *lineItem) {
	h, l := s.hooks, &s.hooks.lines
	l.mu.Lock()
	w.ready = true
	line := l.by[w.it.Channel]
	for len(line) > 0 && line[0].ready {
		s.publish(line[0].intake, line[0].it)
		line[0] = nil
		line = line[1:]
		l.n.Add(-1)
	}
	if l.by[w.it.Channel] = line; len(line) == 0 {
		delete(l.by, w.it.Channel)
	}
	l.mu.Unlock()
	h.mu.Lock()
	h.room.Broadcast()
	h.mu.Unlock()
}

// unavailable is the answer to a request to the webhooks part of the control API
// that nobody deals with.
func unavailable(text string) *frame.HookAnswer {
	b, _ := json.Marshal(map[string]string{"error": text}) // text
	return &frame.HookAnswer{Code: 503, Body: append(b, '\n')}
}

// call relays a request to the webhooks part of the control API.
func (h *hooks) call(f *frame.HookCall) *frame.HookAnswer {
	if h.s.opt.Webhooks == WebhooksOff {
		return unavailable("webhooks are off: handler.webhooks is off")
	}
	to := h.answering()
	if to == "" {
		return unavailable("no zurl is up")
	}
	c := make(chan *frame.HookAnswer, 1)
	h.mu.Lock()
	if h.stopped {
		h.mu.Unlock()
		return unavailable(errHooksStop.Error())
	}
	h.token++
	f.Token = h.token
	h.calls[f.Token] = c
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.calls, f.Token)
		h.mu.Unlock()
	}()
	if err := h.s.opt.Bus.Send(to, frame.Encode(f)); err != nil {
		return unavailable("zurl cannot be reached")
	}
	t := time.NewTimer(callTimeout)
	defer t.Stop()
	select {
	case a := <-c:
		return a
	case <-t.C:
		return unavailable("zurl does not answer")
	}
}

// answering returns the zurl that has a store open, or else any.
func (h *hooks) answering() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	best := ""
	for _, st := range h.stores {
		if st.up && (best == "" || st.peer.Name < best) {
			best = st.peer.Name
		}
	}
	if best != "" {
		return best
	}
	if all := h.s.opt.Bus.Peers("zurl"); len(all) > 0 {
		return all[0].Name
	}
	return ""
}

func (h *hooks) answered(f *frame.HookAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.calls[f.Token]; c != nil {
		delete(h.calls, f.Token)
		c <- f // it has room for one
	}
}

// randomID is the webhook-id of a message that has no id of its own.
func randomID() string { return "msg_" + rand.Text() }

func (s *Server) hookResponse(req *request, path, query string) *response {
	a := s.hooks.call(&frame.HookCall{Method: req.method, Path: path, Query: query, Body: req.body})
	return &response{code: int(a.Code), isJSON: true, body: string(a.Body), retry: a.Code == 503}
}

// hooksRefused is the answer to a publish whose webhooks were not stored: nobody
// got anything of it.
func hooksRefused(err error, isJSON bool) *response {
	text := fmt.Sprintf("Not published: %v.", err)
	if isJSON {
		b, _ := json.Marshal(map[string]string{"message": text}) // text
		return &response{code: 503, retry: true, isJSON: true, body: string(b) + "\n"}
	}
	return &response{code: 503, retry: true, body: text + "\n"}
}
