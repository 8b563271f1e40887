package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast/holdfast/pkg/hook"
)

// Errors of the methods that change endpoints.
var (
	ErrNotFound = errors.New("no such endpoint")
	ErrConflict = errors.New("conflict")
	// ErrInvalid wraps what is wrong with a description.
	ErrInvalid = errors.New("invalid")
)

func (s *Service) find(id string) (*endpoint, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ep := s.endpoints[id]
	if ep == nil {
		return nil, fmt.Errorf("%w: %.64q", ErrNotFound, id)
	}
	return ep, nil
}

// List returns up to limit endpoints whose ids come after a text.
func (s *Service) List(after string, limit int) []View {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.endpoints {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	now := time.Now()
	views := make([]View, 0, min(len(ids), limit))
	for _, id := range ids[:min(len(ids), limit)] {
		views = append(views, s.endpoints[id].view(s.clock, now))
	}
	return views
}

// Get returns an endpoint.
func (s *Service) Get(id string) (View, error) {
	ep, err := s.find(id)
	if err != nil {
		return View{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return ep.view(s.clock, time.Now()), nil
}

// Create adds an endpoint. The view has its secret.
func (s *Service) Create(e Endpoint) (View, error) {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	return s.create(e, false)
}

func (s *Service) create(e Endpoint, declared bool) (View, error) {
	now := time.Now()
	if e.ID == "" {
		e.ID = randomID("ep_")
	}
	e.setDefaults()
	if err := s.checkEndpoint(&e); err != nil {
		return View{}, err
	}
	s.mu.Lock()
	exists, n := s.endpoints[e.ID] != nil, len(s.endpoints)
	s.mu.Unlock()
	switch {
	case exists:
		return View{}, fmt.Errorf("%w: endpoint %s exists", ErrConflict, e.ID)
	case n >= s.o.MaxEndpoints:
		return View{}, fmt.Errorf("%w: there are %d endpoints already", ErrConflict, n)
	}
	key := e.Secret
	if key == "" {
		key = newSecret()
	}
	e.Secret = ""
	setLease(&e, now)
	ep := &endpoint{stored: stored{Endpoint: e, Created: now, Updated: now, Secrets: []secret{{Key: key}}, Declared: declared, Status: StatusActive}}
	if e.Verify {
		ep.Status = StatusPending
	}
	s.lastNum++ // apiMu guards it
	ep.Num = s.lastNum
	st := ep.stored
	if err := s.do(func(tx *bolt.Tx) error { return putJSON(tx, bucketEndpoints, []byte(e.ID), &st) }); err != nil {
		return View{}, err
	}
	s.mu.Lock()
	s.endpoints[e.ID] = ep
	s.kick(ep)
	v := ep.view(s.clock, now)
	s.mu.Unlock()
	v.Secret = key
	s.log.Info("webhook endpoint is created", "endpoint", e.ID, "channels", len(e.Channels))
	s.changed()
	return v, nil
}

func setLease(e *Endpoint, now time.Time) {
	if e.Lease > 0 {
		at := now.Add(time.Duration(e.Lease)).UTC()
		e.ExpiresAt, e.Lease = &at, 0
	}
}

func (s *Service) checkEndpoint(e *Endpoint) error {
	err := e.check()
	if err == nil && s.o.CheckURL != nil {
		if err = s.o.CheckURL(e.URL); err != nil {
			err = fmt.Errorf("url: %w", err)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// Update replaces what the owner says about an endpoint by what change makes of
// it.
func (s *Service) Update(id string, change func(*Endpoint) error) (View, error) {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	ep, err := s.find(id)
	if err != nil {
		return View{}, err
	}
	if ep.Declared { // apiMu guards it
		return View{}, fmt.Errorf("%w: endpoint %s is declared in the configuration", ErrConflict, id)
	}
	return s.update(ep, change)
}

func (s *Service) update(ep *endpoint, change func(*Endpoint) error) (View, error) {
	now := time.Now()
	s.mu.Lock()
	e := clone(ep.Endpoint)
	s.mu.Unlock()
	if err := change(&e); err != nil {
		return View{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if e.ID != ep.ID {
		return View{}, fmt.Errorf("%w: the id cannot be changed", ErrInvalid)
	}
	e.setDefaults()
	if err := s.checkEndpoint(&e); err != nil {
		return View{}, err
	}
	setLease(&e, now)
	key := e.Secret
	e.Secret = ""
	return s.change(ep, func() {
		moved := e.URL != ep.URL
		reorder := e.Order != ep.Order
		ep.Endpoint, ep.Updated = e, now
		if key != "" && key != ep.Secrets[0].Key {
			ep.rotate(key, now, rotateOverlap)
		}
		if reorder {
			ep.reorder()
		}
		if moved {
			ep.failures, ep.notBefore, ep.lastError = 0, time.Time{}, ""
		}
		if e.Verify && moved {
			ep.Status, ep.Reason, ep.verifyTries, ep.verifyAt = StatusPending, "", 0, now
		} else if !e.Verify && ep.Status == StatusPending {
			ep.Status = StatusActive
		}
	})
}

func clone(e Endpoint) Endpoint {
	b, _ := json.Marshal(e) // plain values
	var c Endpoint
	_ = json.Unmarshal(b, &c)
	return c
}

// change changes an endpoint in memory and on disk, and waits for the disk.
// Caller holds apiMu.
func (s *Service) change(ep *endpoint, f func()) (View, error) {
	s.mu.Lock()
	if ep.gone || s.stopping {
		s.mu.Unlock()
		return View{}, ErrStopping
	}
	before := ep.stored
	before.Secrets = slices.Clone(ep.Secrets)
	f()
	st := ep.stored
	st.Secrets = slices.Clone(ep.Secrets)
	s.mu.Unlock()
	if err := s.do(func(tx *bolt.Tx) error { return putJSON(tx, bucketEndpoints, []byte(st.ID), &st) }); err != nil {
		s.mu.Lock()
		reorder := before.Order != ep.Order
		ep.stored = before
		if reorder {
			ep.reorder()
		}
		s.mu.Unlock()
		return View{}, err
	}
	s.mu.Lock()
	s.kick(ep)
	s.sweep() // it may want to keep less
	v := ep.view(s.clock, time.Now())
	s.mu.Unlock()
	s.changed()
	return v, nil
}

// Delete removes an endpoint with all that waits for it.
func (s *Service) Delete(id string) error {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	ep, err := s.find(id)
	if err != nil {
		return err
	}
	if ep.Declared {
		return fmt.Errorf("%w: endpoint %s is declared in the configuration", ErrConflict, id)
	}
	s.mu.Lock()
	ep.gone = true
	delete(s.endpoints, id)
	s.rematch()
	s.mu.Unlock()
	var seqs []uint64
	err = s.do(func(tx *bolt.Tx) error {
		seqs = nil
		for _, bucket := range [][]byte{bucketQueue, bucketDead, bucketKept, bucketAttempts} {
			found, err := deleteOf(tx, bucket, ep.Num)
			if err != nil {
				return err
			}
			if slices.Equal(bucket, bucketQueue) || slices.Equal(bucket, bucketDead) {
				seqs = append(seqs, found...)
			}
		}
		return del(tx, bucketEndpoints, []byte(id))
	})
	s.mu.Lock()
	if err != nil {
		ep.gone = false
		s.endpoints[id] = ep
		s.kick(ep)
	} else {
		var unused []uint64
		for _, seq := range seqs {
			if s.release(seq) {
				unused = append(unused, seq)
			}
		}
		for _, e := range ep.kept {
			s.countKept(ep, e, -1)
			if s.unused(e.seq) {
				unused = append(unused, e.seq)
			}
		}
		s.metrics.forgotten[forgotGone].Add(float64(len(ep.kept)))
		ep.kept = nil
		s.dropMessages(unused)
		s.pending -= ep.depth
	}
	s.mu.Unlock()
	s.changed()
	return err
}

// SetPaused pauses or resumes an endpoint; a disabled one begins anew.
func (s *Service) SetPaused(id string, paused bool) (View, error) {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	ep, err := s.find(id)
	if err != nil {
		return View{}, err
	}
	return s.change(ep, func() {
		ep.Paused = paused
		if !paused && ep.Status == StatusDisabled && ep.Reason != reasonUndeclared {
			ep.Status, ep.Reason, ep.Failing = StatusActive, "", nil
			ep.failures, ep.notBefore, ep.lastError = 0, time.Time{}, ""
			if ep.Verify && ep.verifyTries > 0 {
				ep.Status, ep.verifyTries, ep.verifyAt = StatusPending, 0, time.Now()
			}
		}
	})
}

// Rotate gives an endpoint a new secret, or the one that is given; the old one
// signs too for the time of overlap.
func (s *Service) Rotate(id, key string, overlap time.Duration) (View, error) {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	ep, err := s.find(id)
	if err != nil {
		return View{}, err
	}
	if ep.Declared {
		return View{}, fmt.Errorf("%w: endpoint %s is declared in the configuration", ErrConflict, id)
	}
	if key == "" {
		key = newSecret()
	}
	if _, err := parseSecret(key); err != nil {
		return View{}, fmt.Errorf("%w: secret: %w", ErrInvalid, err)
	}
	v, err := s.change(ep, func() { ep.rotate(key, time.Now(), overlap) })
	if err == nil {
		v.Secret = key
	}
	return v, err
}

// maxSecrets is how many secrets sign at a time.
const maxSecrets = 5

func (ep *endpoint) rotate(key string, now time.Time, overlap time.Duration) {
	until := now.Add(overlap).UTC()
	old := slices.Clone(ep.Secrets)
	for i := range old {
		if old[i].Until == nil {
			old[i].Until = &until
		}
	}
	old = slices.DeleteFunc(old, func(k secret) bool { return k.Key == key || !now.Before(*k.Until) })
	ep.Secrets = append([]secret{{Key: key}}, old[:min(len(old), maxSecrets-1)]...)
}

// Secret returns the newest secret of an endpoint.
func (s *Service) Secret(id string) (string, error) {
	ep, err := s.find(id)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return ep.Secrets[0].Key, nil
}

// Test queues a message of kind [hook.Test] and returns its id.
func (s *Service) Test(id string) (string, error) {
	if _, err := s.find(id); err != nil {
		return "", err
	}
	m := Message{ID: randomID("msg_"), Kind: hook.Test, Endpoint: id, At: time.Now()}
	m.Body = Payload(hook.Test, m.At, map[string]string{"endpoint": id, "text": "This is a test."})
	v, err := s.Get(id)
	if err != nil {
		return "", err
	}
	if v.Status != StatusActive && v.Status != StatusPaused {
		return "", fmt.Errorf("%w: endpoint %s is %s", ErrConflict, id, v.Status)
	}
	done := make(chan error, 1)
	s.Enqueue([]Message{m}, func(err error) { done <- err })
	return m.ID, <-done
}

// Attempts returns the last attempts of an endpoint, the newest first.
func (s *Service) Attempts(id string, limit int) ([]Attempt, error) {
	ep, err := s.find(id)
	if err != nil {
		return nil, err
	}
	all := []Attempt{}
	err = s.db.View(func(tx *bolt.Tx) error {
		eachOf(tx, bucketAttempts, ep.Num, 0, func(_ uint64, v []byte) bool {
			var a Attempt
			if json.Unmarshal(v, &a) == nil {
				all = append(all, a)
			}
			return true
		})
		return nil
	})
	slices.Reverse(all)
	return all[:min(len(all), limit)], err
}

// Choice says which dead letters or kept messages are meant: those with one of the
// ids, or those that were published within a time. The zero value is none.
type Choice struct {
	IDs          []string
	Since, Until time.Time
	All          bool
}

// matcher returns what says whether a message is meant.
func (c *Choice) matcher() func(id string, at time.Time) bool {
	ids := make(map[string]bool, len(c.IDs))
	for _, id := range c.IDs {
		ids[id] = true
	}
	return func(id string, at time.Time) bool {
		if len(ids) > 0 {
			return ids[id]
		}
		if c.Since.IsZero() && c.Until.IsZero() {
			return c.All
		}
		return !at.Before(c.Since) && (c.Until.IsZero() || at.Before(c.Until))
	}
}

// DeadLetters returns dead letters of an endpoint, the oldest first.
func (s *Service) DeadLetters(id string, c Choice, limit int) ([]DeadLetter, error) {
	ep, err := s.find(id)
	if err != nil {
		return nil, err
	}
	all := []DeadLetter{}
	chosen := c.matcher()
	err = s.db.View(func(tx *bolt.Tx) error {
		eachOf(tx, bucketDead, ep.Num, 0, func(_ uint64, v []byte) bool {
			var d DeadLetter
			if json.Unmarshal(v, &d) == nil && chosen(d.Message, d.At) {
				all = append(all, d)
			}
			return len(all) < limit
		})
		return nil
	})
	return all, err
}

// Replay puts dead letters back into the queue, as far as there is room, and
// returns how many. Purge forgets them instead.
func (s *Service) Replay(id string, c Choice) (int, error) { return s.moveDead(id, c, true) }

// Purge forgets dead letters and returns how many.
func (s *Service) Purge(id string, c Choice) (int, error) { return s.moveDead(id, c, false) }

func (s *Service) moveDead(id string, c Choice, replay bool) (int, error) {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	ep, err := s.find(id)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	room := min(ep.MaxQueue-ep.depth, s.o.MaxPending-s.pending)
	roomBytes := ep.MaxBytes - ep.bytes
	s.mu.Unlock()
	now := time.Now()
	chosen := c.matcher()
	var moved []entry
	err = s.do(func(tx *bolt.Tx) error {
		moved = nil
		left := roomBytes
		eachOf(tx, bucketDead, ep.Num, 0, func(seq uint64, v []byte) bool {
			var d DeadLetter
			if json.Unmarshal(v, &d) != nil || !chosen(d.Message, d.At) {
				return true
			}
			if left -= int64(d.Size); replay && (len(moved) >= room || left < 0) {
				return false
			}
			moved = append(moved, entry{seq: seq, at: s.clock.millis(now), size: d.Size})
			return true
		})
		for _, e := range moved {
			k := key(ep.Num, e.seq)
			if err := del(tx, bucketDead, k); err != nil {
				return err
			}
			if replay {
				if err := put(tx, bucketQueue, k, appendEntry(nil, s.clock.save(e, now))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if !replay {
		var seqs []uint64
		for _, e := range moved {
			seqs = append(seqs, e.seq)
		}
		s.deadDropped(ep, seqs)
		return len(moved), nil
	}
	s.metrics.replayed[fromDead].Add(float64(len(moved)))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range moved {
		ep.dead--
		s.count(ep, e, 1)
		ep.push(e)
	}
	s.kick(ep)
	return len(moved), nil
}

const reasonUndeclared = "it is not in the configuration any more"

// Declare makes the endpoints that the configuration declares the ones that
// there are, beside those that were created. One that is not declared any more
// takes nothing new; what waits for it is kept until it is deleted, because a
// line that was lost must not lose messages.
func (s *Service) Declare(list []Endpoint) error {
	s.apiMu.Lock()
	defer s.apiMu.Unlock()
	var errs []error
	declared := make(map[string]bool)
	for _, e := range list {
		declared[e.ID] = true
		ep, err := s.find(e.ID)
		if err != nil {
			_, err = s.create(e, true)
		} else {
			err = s.redeclare(ep, e)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %q: %w", e.ID, err))
		}
	}
	s.mu.Lock()
	var orphans []*endpoint
	for id, ep := range s.endpoints {
		if ep.Declared && !declared[id] {
			orphans = append(orphans, ep)
		}
	}
	s.mu.Unlock()
	for _, ep := range orphans {
		_, err := s.change(ep, func() { ep.Declared, ep.Status, ep.Reason = false, StatusDisabled, reasonUndeclared })
		if err != nil {
			errs = append(errs, fmt.Errorf("endpoint %q: %w", ep.ID, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) redeclare(ep *endpoint, e Endpoint) error {
	s.mu.Lock()
	was := clone(ep.Endpoint)
	key := ep.Secrets[0].Key
	declared, undeclared := ep.Declared, ep.Reason == reasonUndeclared
	s.mu.Unlock()
	if !declared && !undeclared {
		return fmt.Errorf("%w: it was created through the control API", ErrConflict)
	}
	e.setDefaults()
	want := clone(e)
	// The pause is what the operator said last, wherever.
	want.Secret, want.Paused, want.ExpiresAt, want.Lease = "", was.Paused, was.ExpiresAt, 0
	a, _ := json.Marshal(was)
	b, _ := json.Marshal(want)
	if declared && string(a) == string(b) && (e.Secret == "" || e.Secret == key) {
		return nil
	}
	_, err := s.update(ep, func(to *Endpoint) error {
		paused := to.Paused
		*to = e
		to.Paused = paused
		return nil
	})
	if err != nil || declared {
		return err
	}
	_, err = s.change(ep, func() { ep.Declared, ep.Status, ep.Reason = true, StatusActive, "" })
	return err
}

// ParseFile reads a file of declared endpoints: {"endpoints": [ … ]}.
func ParseFile(b []byte) ([]Endpoint, error) {
	var file struct {
		Endpoints []Endpoint `json:"endpoints"`
	}
	if err := decode(b, &file); err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for i := range file.Endpoints {
		e := file.Endpoints[i]
		if e.ID == "" {
			return nil, fmt.Errorf("endpoint %d has no id", i+1)
		}
		if seen[e.ID] {
			return nil, fmt.Errorf("endpoint %q is declared twice", e.ID)
		}
		seen[e.ID] = true
		e.setDefaults()
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("endpoint %q: %s", e.ID, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return file.Endpoints, nil
}
