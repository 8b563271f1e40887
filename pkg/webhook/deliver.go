package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/hook"
)

// Reasons of dead letters.
const (
	reasonFull      = "the queue was full"
	reasonAge       = "it waited too long"
	reasonExhausted = "no attempt succeeded"
	reasonBad       = "the request cannot be made"
	reasonLost      = "the message cannot be read"
)

// Outcomes of attempts.
const (
	outcomeDelivered = "delivered"
	outcomeRetry     = "retry"
	outcomeDead      = "dead"
	outcomeDisabled  = "disabled"
)

// maxOutcomes is how many outcomes may wait for the disk before no attempt is
// begun.
const maxOutcomes = 10000

// kick begins what may begin at an endpoint, and has the scheduler look again
// when there is a time for that. Caller holds mu.
func (s *Service) kick(ep *endpoint) {
	for !s.stopping && !ep.gone {
		now := time.Now()
		if ep.Status == StatusPending {
			s.kickVerification(ep, now)
			return
		}
		e, ok := s.next(ep, now)
		if !ok {
			return
		}
		if ep.inflight > 0 {
			s.extra++
		}
		ep.inflight++
		s.attempts.Go(func() { s.run(ep, e) })
	}
}

// next takes the entry that may be tried now. Caller holds mu.
func (s *Service) next(ep *endpoint, now time.Time) (entry, bool) {
	limit := ep.Concurrency
	if ep.failures >= manyFailures {
		limit = 1
	}
	if !ep.sends(now) || ep.inflight >= limit {
		return entry{}, false
	}
	for {
		due, ok := ep.due()
		if !ok {
			return entry{}, false
		}
		at := s.clock.at(due)
		if at.Before(ep.notBefore) {
			at = ep.notBefore
		}
		if at.After(now) {
			s.wakeLater(ep, at)
			return entry{}, false
		}
		if ep.inflight > 0 && s.extra >= s.o.MaxExtra {
			if !ep.starved {
				ep.starved = true
				s.starved = append(s.starved, ep)
			}
			return entry{}, false
		}
		if ok, at := ep.allow(now); !ok {
			s.wakeLater(ep, at)
			return entry{}, false
		}
		e := ep.take()
		if s.clock.age(e.at, now) > time.Duration(ep.MaxAge) {
			s.giveUp(ep, e, reasonAge, 0)
			continue
		}
		return e, true
	}
}

// wakeLater has the scheduler look at an endpoint. Caller holds mu.
func (s *Service) wakeLater(ep *endpoint, at time.Time) {
	ep.wakeAt = at
	s.wakes[ep] = true
	if !at.Before(s.nextWake) {
		return
	}
	s.nextWake = at
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wakeStep is the shortest time between two looks at all endpoints that wait.
const wakeStep = 2 * time.Millisecond

// scheduleLoop wakes endpoints when their time has come.
func (s *Service) scheduleLoop(ctx context.Context) {
	house := time.NewTicker(houseEvery)
	defer house.Stop()
	for {
		timer := time.NewTimer(s.untilWake())
		select {
		case <-timer.C:
			s.wakeDue()
		case <-s.wake: // the next time has come nearer
		case <-house.C:
			s.keepHouse()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

func (s *Service) untilWake() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(wakeStep, time.Until(s.nextWake))
}

// wakeDue kicks the endpoints that are due.
func (s *Service) wakeDue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.nextWake = now.Add(time.Hour)
	for ep := range s.wakes {
		switch {
		case ep.gone:
			delete(s.wakes, ep)
		case ep.wakeAt.After(now):
			s.nextWake = earlier(s.nextWake, ep.wakeAt)
		default:
			delete(s.wakes, ep)
			s.kick(ep) // it may come back, and be looked at again
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// keepHouse gives up what is too old, forgets old dead letters, and notices
// leases and secrets that ended.
func (s *Service) keepHouse() {
	now := time.Now()
	expired := false
	s.mu.Lock()
	s.houses++
	for _, ep := range s.endpoints {
		for _, e := range ep.takeOlder(s.clock.millis(now.Add(-time.Duration(ep.MaxAge)))) {
			s.giveUp(ep, e, reasonAge, 0)
		}
		if ep.dead > 0 && s.houses%60 == 0 {
			s.dropDead(ep, now.Add(-deadAge))
		}
		n := len(ep.Secrets)
		ep.Secrets = slices.DeleteFunc(ep.Secrets, func(k secret) bool { return k.Until != nil && !now.Before(*k.Until) })
		if len(ep.Secrets) != n {
			s.save(ep)
		}
		if over := ep.status(now) == StatusExpired; over != ep.lapsed {
			ep.lapsed, expired = over, true // or back, if the system's clock was put back
		}
	}
	s.sweep()
	s.mu.Unlock()
	if expired {
		s.changed()
	}
}

// save writes what is known of an endpoint. Caller holds mu.
func (s *Service) save(ep *endpoint) {
	b, err := json.Marshal(&ep.stored)
	if err != nil {
		return // plain values: it cannot fail
	}
	id := []byte(ep.ID)
	s.submit(op{keep: true, apply: func(tx *bolt.Tx) error {
		if tx.Bucket(bucketEndpoints).Get(id) == nil { // deleted meanwhile
			return nil
		}
		return put(tx, bucketEndpoints, id, b)
	}})
}

// giveUp makes an entry that was taken from its queue a dead letter. Caller
// holds mu.
func (s *Service) giveUp(ep *endpoint, e entry, reason string, status int) {
	s.metrics.dead[reason].Inc()
	s.count(ep, e, -1)
	ep.dead++
	over := ep.dead > maxDead
	died := time.Now()
	var dropped []uint64
	s.submit(op{keep: true, apply: func(tx *bolt.Tx) error {
		dropped = nil
		d := DeadLetter{At: s.clock.wall(e.at, died), Died: died, Reason: reason, Attempts: e.attempts, Status: status, Size: e.size}
		if m, err := parseMessage(tx.Bucket(bucketMessages).Get(seqKey(e.seq))); err == nil {
			// One that was replayed was queued later than it was published.
			d.Message, d.Kind, d.Channel, d.At = m.ID, m.Kind, m.Channel, m.At
		}
		if err := putJSON(tx, bucketDead, key(ep.Num, e.seq), d); err != nil {
			return err
		}
		if err := del(tx, bucketQueue, key(ep.Num, e.seq)); err != nil {
			return err
		}
		if over {
			eachOf(tx, bucketDead, ep.Num, 0, func(n uint64, _ []byte) bool { dropped = append(dropped, n); return false })
		}
		for _, n := range dropped {
			if err := del(tx, bucketDead, key(ep.Num, n)); err != nil {
				return err
			}
		}
		return nil
	}, then: func(error) { s.deadDropped(ep, dropped) }})
}

// deadDropped is called when dead letters are gone from the disk.
func (s *Service) deadDropped(ep *endpoint, seqs []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var unused []uint64
	for _, seq := range seqs {
		ep.dead--
		if s.release(seq) {
			unused = append(unused, seq)
		}
	}
	s.dropMessages(unused)
}

// dropDead forgets the dead letters that died before a time. Caller holds mu.
func (s *Service) dropDead(ep *endpoint, before time.Time) {
	var dropped []uint64
	s.submit(op{keep: true, apply: func(tx *bolt.Tx) error {
		dropped = nil
		eachOf(tx, bucketDead, ep.Num, 0, func(n uint64, v []byte) bool {
			var d DeadLetter
			if json.Unmarshal(v, &d) != nil || d.Died.Before(before) {
				dropped = append(dropped, n)
			}
			return true
		})
		for _, n := range dropped {
			if err := del(tx, bucketDead, key(ep.Num, n)); err != nil {
				return err
			}
		}
		return nil
	}, then: func(error) { s.deadDropped(ep, dropped) }})
}

// run tries entries of an endpoint until none may be tried now.
func (s *Service) run(ep *endpoint, e entry) {
	for {
		again := s.try(ep, e)
		s.mu.Lock()
		ep.inflight--
		if ep.inflight > 0 {
			s.extra--
		}
		for s.outcomes > maxOutcomes && !s.stopping {
			s.room.Wait()
		}
		s.feed()
		if !again || s.stopping || ep.gone {
			s.mu.Unlock()
			return
		}
		var ok bool
		if e, ok = s.next(ep, time.Now()); !ok {
			s.mu.Unlock()
			return
		}
		if ep.inflight > 0 {
			s.extra++
		}
		ep.inflight++
		s.kick(ep) // there may be room for more
		s.mu.Unlock()
	}
}

// feed gives room for extra attempts to those that wait for it. Caller holds mu.
func (s *Service) feed() {
	for len(s.starved) > 0 && s.extra < s.o.MaxExtra {
		ep := s.starved[0]
		s.starved = s.starved[1:]
		ep.starved = false
		s.kick(ep)
	}
}

// request puts an attempt together.
func (s *Service) request(ep *endpoint, m *Message, now time.Time) *Request {
	r := &Request{Method: m.Method, URL: ep.URL, Body: m.Body, MaxBody: maxResponse}
	if r.Method == "" {
		r.Method = http.MethodPost
	}
	has := func(name string) bool {
		return slices.ContainsFunc(r.Header, func(f frame.Field) bool { return strings.EqualFold(f.Name, name) })
	}
	// The endpoint's own fields win: its owner may have put credentials there.
	r.Header = ep.header()
	for _, f := range m.Header {
		if !has(f.Name) && !hook.Reserved(f.Name) {
			r.Header = append(r.Header, f)
		}
	}
	if !has("Content-Type") && len(m.Body) > 0 {
		r.Header = append(r.Header, frame.Field{Name: "Content-Type", Value: "application/json"})
	}
	r.Header = append(r.Header,
		frame.Field{Name: "User-Agent", Value: "Holdfast"},
		frame.Field{Name: "webhook-id", Value: m.ID},
		frame.Field{Name: "webhook-timestamp", Value: strconv.FormatInt(now.Unix(), 10)},
		frame.Field{Name: "webhook-signature", Value: sign(ep.keys(now), m.ID, now, m.Body)},
	)
	return r
}

// try makes one attempt. It reports whether the endpoint may go on.
func (s *Service) try(ep *endpoint, e entry) bool {
	m, err := s.readMessage(e.seq)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !ep.gone {
			s.log.Error("webhook message is lost", "endpoint", ep.ID, "err", err)
			s.giveUp(ep, e, reasonLost, 0)
		}
		return true
	}
	began := time.Now()
	s.mu.Lock()
	r := s.request(ep, m, began)
	timeout := time.Duration(ep.Timeout)
	parent := s.attemptCtx
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(parent, timeout)
	res := s.o.Send(ctx, r)
	cancel()
	now := time.Now()

	s.mu.Lock()
	defer s.mu.Unlock()
	if ep.gone || parent.Err() != nil && res.Condition != "" {
		ep.push(e) // we do not know what came of it, and are about to end
		return false
	}
	e.attempts++
	a := &Attempt{
		Message: m.ID, Kind: m.Kind, Channel: m.Channel, Try: e.attempts, At: began, Millis: now.Sub(began).Milliseconds(),
		Status: res.Status, Condition: res.Condition, Text: cut(res.Text, maxExcerpt), Excerpt: excerpt(res.Body),
	}
	s.metrics.attempt(res, now.Sub(began))
	s.judge(ep, e, a, res, now)
	return true
}

func cut(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }

func excerpt(b []byte) string {
	return string(bytes.ToValidUTF8(b[:min(len(b), maxExcerpt)], []byte("\uFFFD")))
}

// judge decides what becomes of a message after an attempt. Caller holds mu.
func (s *Service) judge(ep *endpoint, e entry, a *Attempt, res Response, now time.Time) {
	save := false
	if res.Condition == "" && res.Status >= 200 && res.Status <= 299 {
		if ep.Failing != nil {
			ep.Failing, save = nil, true
		}
		ep.failures, ep.lastError = 0, ""
		a.Outcome = outcomeDelivered
		s.metrics.deliveries[outcomeDelivered].Inc()
		s.metrics.waited.Observe(s.clock.age(e.at, now).Seconds())
		s.settled(ep, e, a, save, now)
		return
	}

	ep.failures++
	ep.lastError = res.Condition
	if res.Condition == "" {
		ep.lastError = fmt.Sprintf("status %d", res.Status)
	}
	if ep.Failing == nil {
		ep.Failing, save = &now, true
	}
	if res.Status == http.StatusGone {
		s.disable(ep, "it answered 410 Gone")
		a.Outcome = outcomeDisabled
		s.later(ep, e, a, now)
		return
	}
	if now.Sub(*ep.Failing) >= disableAfter {
		s.disable(ep, fmt.Sprintf("nothing has been delivered for %s", Duration(disableAfter)))
	}
	if res.Condition == "bad-request" || int(e.attempts) > len(ep.Retries) {
		reason := reasonExhausted
		if res.Condition == "bad-request" {
			reason = reasonBad
		}
		a.Outcome = outcomeDead
		s.metrics.deliveries[outcomeDead].Inc()
		s.recordAttempt(ep, a)
		s.giveUp(ep, e, reason, res.Status)
	} else {
		wait := jitter(time.Duration(ep.Retries[e.attempts-1]))
		if res.Condition == "policy-violation" {
			wait = max(wait, policyWait)
		}
		asked := min(retryAfter(res.RetryAfter, now), maxRetryAfter)
		wait = max(wait, asked)
		switch res.Status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			ep.notBefore = later(ep.notBefore, now.Add(asked))
		}
		a.Outcome = outcomeRetry
		s.later(ep, e, a, now.Add(wait))
	}
	if over := ep.failures - manyFailures; over >= 0 {
		ep.notBefore = later(ep.notBefore, now.Add(jitter(min(time.Second<<min(over, 10), maxSlowdown))))
	}
	if save {
		s.save(ep)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// jitter changes a wait by up to a tenth, so that what failed together is not
// tried together again.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// retryAfter reads the field (RFC 9110 section 10.2.3); 0 is none.
func retryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// later puts an entry back that is to be tried again. Caller holds mu.
func (s *Service) later(ep *endpoint, e entry, a *Attempt, at time.Time) {
	e.next = s.clock.millis(at)
	a.Next = &at
	ep.push(e)
	k, v := key(ep.Num, e.seq), appendEntry(nil, s.clock.save(e, time.Now()))
	record := s.attemptRecord(ep, a)
	s.submit(op{keep: true, apply: func(tx *bolt.Tx) error {
		if err := record(tx); err != nil {
			return err
		}
		if tx.Bucket(bucketQueue).Get(k) == nil { // its endpoint was deleted
			return nil
		}
		return put(tx, bucketQueue, k, v)
	}})
}

// settled removes an entry that was delivered from the queue. Caller holds mu.
func (s *Service) settled(ep *endpoint, e entry, a *Attempt, save bool, now time.Time) {
	s.count(ep, e, -1)
	kept, keep := s.keep(ep, e, now)
	unused := s.release(e.seq)
	record := s.attemptRecord(ep, a)
	s.submit(op{keep: true, apply: func(tx *bolt.Tx) error {
		if err := record(tx); err != nil {
			return err
		}
		if keep {
			if err := put(tx, bucketKept, key(ep.Num, e.seq), appendEntry(nil, s.clock.save(kept, now))); err != nil {
				return err
			}
		}
		if unused {
			if err := del(tx, bucketMessages, seqKey(e.seq)); err != nil {
				return err
			}
		}
		return del(tx, bucketQueue, key(ep.Num, e.seq))
	}})
	if keep {
		s.forget(s.overdue([]*endpoint{ep}, maxSweepEach, now), nil)
		if s.keptBytes > s.o.MaxKept { // a large one takes the room of many small ones
			s.sweep()
		}
	}
	if save {
		s.save(ep)
	}
}

// attemptRecord numbers an attempt and returns what writes it. Caller holds mu.
func (s *Service) attemptRecord(ep *endpoint, a *Attempt) func(tx *bolt.Tx) error {
	ep.tries++
	a.Number = ep.tries
	num := ep.Num
	id := []byte(ep.ID)
	return func(tx *bolt.Tx) error {
		if tx.Bucket(bucketEndpoints).Get(id) == nil {
			return nil
		}
		if a.Number > maxAttempts {
			if err := del(tx, bucketAttempts, key(num, a.Number-maxAttempts)); err != nil {
				return err
			}
		}
		return putJSON(tx, bucketAttempts, key(num, a.Number), a)
	}
}

func (s *Service) recordAttempt(ep *endpoint, a *Attempt) {
	s.submit(op{keep: true, apply: s.attemptRecord(ep, a)})
}

// disable ends an endpoint until its owner resumes it. Caller holds mu.
func (s *Service) disable(ep *endpoint, reason string) {
	if ep.Status == StatusDisabled {
		return
	}
	ep.Status, ep.Reason = StatusDisabled, reason
	s.log.Warn("webhook endpoint is disabled", "endpoint", ep.ID, "reason", reason)
	s.metrics.disabled.Inc()
	s.save(ep)
	s.attempts.Go(s.changed) // it takes mu
}

// kickVerification sends the challenge if it is time. Caller holds mu.
func (s *Service) kickVerification(ep *endpoint, now time.Time) {
	switch {
	case ep.verifying:
	case ep.verifyAt.After(now):
		s.wakeLater(ep, ep.verifyAt)
	default:
		ep.verifying = true
		s.attempts.Go(func() { s.verify(ep) })
	}
}

// verify asks an endpoint to repeat a random text: who subscribes somebody
// else's address does not get far.
func (s *Service) verify(ep *endpoint) {
	challenge := randomID("")
	now := time.Now()
	m := &Message{ID: randomID("msg_"), Kind: hook.Verification, At: now}
	m.Body = Payload(m.Kind, now, map[string]string{"endpoint": ep.ID, "challenge": challenge})
	s.mu.Lock()
	r := s.request(ep, m, now)
	timeout, parent := time.Duration(ep.Timeout), s.attemptCtx
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(parent, timeout)
	res := s.o.Send(ctx, r)
	cancel()
	end := time.Now()
	ok := res.Condition == "" && res.Status >= 200 && res.Status <= 299 && answersChallenge(res.Body, challenge)

	s.mu.Lock()
	ep.verifying = false
	if ep.gone || ep.Status != StatusPending || !ok && parent.Err() != nil {
		s.mu.Unlock()
		return
	}
	a := &Attempt{
		Message: m.ID, Kind: m.Kind, Try: uint32(ep.verifyTries) + 1, At: now, Millis: end.Sub(now).Milliseconds(), Status: res.Status,
		Condition: res.Condition, Text: cut(res.Text, maxExcerpt), Excerpt: excerpt(res.Body), Outcome: outcomeDelivered,
	}
	s.metrics.attempt(res, end.Sub(now))
	switch {
	case ok:
		ep.Status, ep.Reason = StatusActive, ""
		s.save(ep)
		s.log.Info("webhook endpoint is verified", "endpoint", ep.ID)
	case ep.verifyTries >= len(verifyWaits):
		a.Outcome = outcomeDisabled
		s.disable(ep, "it did not answer the challenge")
	default:
		ep.lastError = "the challenge was not answered"
		ep.verifyAt = end.Add(jitter(verifyWaits[ep.verifyTries]))
		ep.verifyTries++
		a.Outcome, a.Next = outcomeRetry, &ep.verifyAt
		s.wakeLater(ep, ep.verifyAt)
	}
	s.recordAttempt(ep, a)
	s.kick(ep)
	s.mu.Unlock()
	if ok {
		s.changed()
	}
}

// answersChallenge accepts the text itself, or {"challenge": text}.
func answersChallenge(body []byte, challenge string) bool {
	body = bytes.TrimSpace(body)
	var v struct{ Challenge string }
	return string(body) == challenge || json.Unmarshal(body, &v) == nil && v.Challenge == challenge
}

// Payload is the JSON form of an event.
func Payload(kind string, at time.Time, data any) []byte {
	b, err := json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      any       `json:"data"`
	}{kind, at.UTC(), data})
	if err != nil {
		return []byte(`{}`) // what we make ourselves can be written
	}
	return b
}
