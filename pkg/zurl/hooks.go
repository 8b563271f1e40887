package zurl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/http1"
	"github.com/holdfast/holdfast/pkg/outbound"
	"github.com/holdfast/holdfast/pkg/webhook"
)

// Webhooks are the settings of webhooks.
type Webhooks struct {
	// Store is the file that endpoints and queues are in; "" is no webhooks. It is
	// made when it is first needed. One process at a time may have it open; others
	// with the same Store stand by.
	Store string
	// File declares endpoints, see [webhook.ParseFile]; it need not exist, and is
	// read again when it changes. "" is none.
	File string
	// Early acknowledges messages before they are on disk.
	Early bool
	// MaxBytes bounds all queues together.
	MaxBytes int64
	// KeepBytes bounds what is kept of delivered messages, see
	// [webhook.Options.MaxKept].
	KeepBytes int64
}

const (
	// hooksEvery is how often hooks look at the file, at the store if they do not
	// have it, and at handlers that they could not tell.
	hooksEvery = time.Second
	// maxCalls is how many requests to the control API are dealt with at a time.
	maxCalls = 32
	// maxHookPatterns is how many patterns go into one frame.
	maxHookPatterns = 2000
)

// hooks is the webhooks of a zurl.
type hooks struct {
	// Set once.
	s       *Server
	o       Webhooks
	metrics *webhook.Metrics
	client  *outbound.Client
	calls   chan struct{} // has a token for each call under way
	wake    chan struct{} // of run; one pending signal is enough
	wait    sync.WaitGroup

	openMu sync.Mutex // one tries to open the store at a time; taken before mu
	tellMu sync.Mutex // versions go out in order; taken before mu

	mu       sync.Mutex // guards what follows
	service  *webhook.Service
	ctx      context.Context // of the service; nil before run and after it
	done     chan struct{}   // closed when the service has ended
	declared []webhook.Endpoint
	fileSeen fileState
	logged   string // the last error of opening, so that it is logged once
	version  uint64
	told     map[bus.Peer]uint64 // handlers that are up, with the version that they know
}

// fileState tells whether a file has changed.
type fileState struct {
	there bool
	size  int64
	mod   time.Time
}

func newHooks(s *Server) (*hooks, error) {
	h := &hooks{
		s: s, o: s.o.Webhooks, calls: make(chan struct{}, maxCalls), wake: make(chan struct{}, 1),
		told: make(map[bus.Peer]uint64), version: 1,
	}
	var err error
	if h.metrics, err = webhook.NewMetrics(s.o.Registerer); err != nil {
		return nil, fmt.Errorf("webhook metrics: %w", err)
	}
	d := webhook.DefaultOptions()
	h.client, err = outbound.New(outbound.Options{
		Policy: s.o.Policy, NoIPv6: s.o.NoIPv6, RootCAs: s.o.RootCAs,
		ConnectTimeout: s.o.ConnectTimeout, MaxHead: int(s.o.MaxHead), MaxOpen: d.MaxEndpoints + d.MaxExtra,
	})
	return h, err
}

// run keeps the webhooks going until ctx ends.
func (h *hooks) run(ctx context.Context) {
	if h.o.Store == "" {
		return
	}
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	t := time.NewTicker(hooksEvery)
	defer t.Stop()
	for {
		h.look()
		select {
		case <-t.C:
		case <-h.wake:
		case <-ctx.Done():
			h.end()
			return
		}
	}
}

// end waits for what run has started.
func (h *hooks) end() {
	h.mu.Lock()
	h.ctx = nil
	done := h.done
	h.mu.Unlock()
	h.wait.Wait()
	if done != nil {
		<-done
	}
}

func (h *hooks) close() error { return h.client.Close() }

// look does what run does from time to time.
func (h *hooks) look() {
	changed := h.readFile()
	h.mu.Lock()
	open, list := h.service, h.declared
	h.mu.Unlock()
	if open == nil && (len(list) > 0 || exists(h.o.Store)) {
		var err error
		if open, err = h.open(); err == nil {
			changed = true
		}
	}
	if open != nil && changed {
		if err := open.Declare(list); err != nil {
			h.s.log.Error("webhooks that are declared", "file", h.o.File, "err", err)
		}
	}
	h.tell()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || !errors.Is(err, os.ErrNotExist)
}

// readFile reads the declared endpoints if the file has changed. A file that is
// wrong changes nothing.
func (h *hooks) readFile() (changed bool) {
	if h.o.File == "" {
		return false
	}
	var now fileState
	if st, err := os.Stat(h.o.File); err == nil {
		now = fileState{there: true, size: st.Size(), mod: st.ModTime()}
	} else if !errors.Is(err, os.ErrNotExist) {
		h.logOnce("webhooks file", err)
		return false
	}
	h.mu.Lock()
	same := now == h.fileSeen
	h.fileSeen = now
	h.mu.Unlock()
	if same {
		return false
	}
	var list []webhook.Endpoint
	if now.there {
		b, err := os.ReadFile(h.o.File)
		if err == nil {
			list, err = webhook.ParseFile(b)
		}
		if err != nil {
			h.s.log.Error("webhooks file is not used", "file", h.o.File, "err", err)
			return false
		}
	}
	h.s.log.Info("webhooks file is read", "file", h.o.File, "endpoints", len(list))
	h.mu.Lock()
	h.declared = list
	h.mu.Unlock()
	return true
}

func (h *hooks) logOnce(what string, err error) {
	h.mu.Lock()
	text := what + ": " + err.Error()
	again := h.logged == text
	h.logged = text
	h.mu.Unlock()
	if !again {
		h.s.log.Error(what, "err", err)
	}
}

var errHooksOff = errors.New("webhooks are off: zurl.webhook_store is empty")

// open returns the service, and opens the store if need be.
func (h *hooks) open() (*webhook.Service, error) {
	if h.o.Store == "" {
		return nil, errHooksOff
	}
	h.openMu.Lock()
	defer h.openMu.Unlock()
	h.mu.Lock()
	service, ctx := h.service, h.ctx
	h.mu.Unlock()
	switch {
	case service != nil:
		return service, nil
	case ctx == nil:
		return nil, webhook.ErrStopping
	}
	o := webhook.DefaultOptions()
	o.Path, o.Logger, o.Metrics, o.Send, o.CheckURL = h.o.Store, h.s.log, h.metrics, h.send, h.checkURL
	o.Early, o.DrainTime = h.o.Early, h.s.o.DrainTime
	if h.o.MaxBytes > 0 {
		o.MaxBytes = h.o.MaxBytes
	}
	o.MaxKept = h.o.KeepBytes
	o.Changed = func() {
		h.mu.Lock()
		h.version++
		h.mu.Unlock()
		h.signal()
	}
	service, err := webhook.Open(o)
	if err != nil {
		h.logOnce("webhooks do not work", err)
		return nil, fmt.Errorf("%w: %w", webhook.ErrStore, err)
	}
	done := make(chan struct{})
	h.mu.Lock()
	h.service, h.done, h.logged = service, done, ""
	h.version++
	h.mu.Unlock()
	go func() { // run waits for it
		defer close(done)
		if err := service.Run(ctx); err != nil {
			h.s.log.Error("webhooks", "err", err)
		}
	}()
	h.signal()
	return service, nil
}

func (h *hooks) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// send makes one attempt. The status counts, whatever becomes of the body.
func (h *hooks) send(ctx context.Context, r *webhook.Request) webhook.Response {
	resp, err := h.client.Do(ctx, &outbound.Request{Method: r.Method, URI: r.URL, Header: r.Header, Body: r.Body, MaxBody: int64(r.MaxBody)})
	if err != nil {
		return webhook.Response{Condition: outbound.Condition(err), Text: err.Error()}
	}
	defer resp.Close() //nolint:errcheck // it has said what it had to say
	res := webhook.Response{Status: resp.Code}
	res.RetryAfter, _ = http1.Get(resp.Header, "Retry-After")
	res.Body, _ = io.ReadAll(resp) // what there is of it; the rest is not wanted
	return res
}

// checkURL says at once what an attempt would find out.
func (h *hooks) checkURL(uri string) error {
	err := h.client.Check(&outbound.Request{Method: "POST", URI: uri})
	if e := new(outbound.Error); errors.As(err, &e) && e.Condition == outbound.PolicyViolation {
		return fmt.Errorf("%w; zurl.allow can name it", err)
	}
	return err
}

// up is called when a handler comes up.
func (h *hooks) up(p bus.Peer) {
	h.mu.Lock()
	h.told[p] = 0
	h.mu.Unlock()
	h.signal()
}

// down is called when it is gone.
func (h *hooks) down(p bus.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.told, p)
}

// tell sends every handler what it does not know yet. While there is a store and
// it is not open, nothing is said: somebody else has it, or it will be. run calls
// it, and whoever answers a request to the API; tellMu keeps versions in order.
func (h *hooks) tell() {
	h.tellMu.Lock()
	defer h.tellMu.Unlock()
	h.mu.Lock()
	service, version := h.service, h.version
	var peers []bus.Peer
	for p, told := range h.told {
		if told != version {
			peers = append(peers, p)
		}
	}
	h.mu.Unlock()
	if len(peers) == 0 || service == nil && exists(h.o.Store) {
		return
	}
	f := frame.Hooks{Version: version}
	var patterns []string
	if service != nil {
		f.Store = service.Name()
		patterns, f.Events = service.Patterns()
	}
	for _, p := range peers {
		err := error(nil)
		for rest := patterns; err == nil; {
			part := f
			part.Patterns = rest[:min(len(rest), maxHookPatterns)]
			rest = rest[len(part.Patterns):]
			part.More = len(rest) > 0
			err = h.s.o.Bus.Send(p.Name, frame.Encode(&part))
			if !part.More {
				break
			}
		}
		if err != nil {
			continue // it is told again
		}
		h.mu.Lock()
		if _, up := h.told[p]; up {
			h.told[p] = version
		}
		h.mu.Unlock()
	}
}

// enqueue takes messages from a handler.
func (h *hooks) enqueue(from bus.Peer, f *frame.Enqueue) {
	h.mu.Lock()
	service := h.service
	h.mu.Unlock()
	answer := func(err error) {
		a := &frame.Enqueued{Token: f.Token}
		if err != nil {
			a.Condition, a.Text = hookCondition(err), err.Error()
		}
		if err := h.s.o.Bus.Send(from.Name, frame.Encode(a)); err != nil {
			h.s.metrics.lost.Inc() // the handler asks again, or its publisher does
		}
	}
	if service == nil || service.Name() != f.Store {
		answer(errNotReady)
		return
	}
	messages := make([]webhook.Message, len(f.Messages))
	for i := range f.Messages {
		m := &f.Messages[i]
		if !webhook.ValidID(m.ID) {
			answer(fmt.Errorf("%w: message id %.40q", webhook.ErrInvalid, m.ID))
			return
		}
		messages[i] = webhook.Message{
			ID: m.ID, Kind: m.Kind, Channel: m.Channel, Endpoint: m.Endpoint, At: time.UnixMilli(int64(m.Millis)),
			Method: m.Method, Header: m.Header, Body: m.Body,
		}
	}
	service.Enqueue(messages, answer)
}

var errNotReady = errors.New("the store is not open")

func hookCondition(err error) string {
	switch {
	case errors.Is(err, errNotReady), errors.Is(err, webhook.ErrStopping):
		return frame.HooksNotReady
	case errors.Is(err, webhook.ErrFull):
		return frame.HooksFull
	case errors.Is(err, webhook.ErrStore):
		return frame.HooksStore
	}
	return frame.HooksBusy
}

// call deals with a request to the control API. It may wait for the disk, so it
// has a goroutine of its own.
func (h *hooks) call(from bus.Peer, f *frame.HookCall) {
	answer := func(a webhook.Answer) {
		b := frame.Encode(&frame.HookAnswer{Token: f.Token, Code: uint16(a.Status), Body: a.Body}) //nolint:gosec // a status
		if err := h.s.o.Bus.Send(from.Name, b); err != nil {
			h.s.metrics.lost.Inc()
		}
	}
	select {
	case h.calls <- struct{}{}:
	default:
		answer(webhook.Failure(webhook.ErrBusy))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil {
		<-h.calls
		err := webhook.ErrStopping
		if h.o.Store == "" {
			err = errHooksOff
		}
		answer(webhook.Failure(err))
		return
	}
	h.wait.Go(func() { // run waits for it
		defer func() { <-h.calls }()
		service, err := h.open()
		if err != nil {
			answer(webhook.Failure(err))
			return
		}
		a := service.ServeAPI(webhook.Call{Method: f.Method, Path: f.Path, Query: f.Query, Body: f.Body})
		// Before the answer: who reads that an endpoint is active may publish at once.
		h.tell()
		answer(a)
	})
}
