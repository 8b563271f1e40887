package handler

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/publish"
	"github.com/holdfast/holdfast/pkg/tnet"
)

// commandLoop serves the command socket: tnetstring requests from REQ peers, or
// from DEALER and ROUTER peers with an empty part before the request.
func (s *Server) commandLoop(ctx context.Context, router *bus.Router) error {
	for {
		parts, err := router.Recv(ctx)
		if err != nil {
			return err
		}
		// Identities, an empty part, one part of payload.
		body := len(parts) - 1
		if body < 2 || len(parts[body-1]) != 0 {
			s.skip(intakeCommand, "IN command: received message with bad envelope, skipping")
			continue
		}
		if !s.command(parts[body], func(answer []byte) {
			parts[body] = answer
			if err := router.Send(parts...); err != nil {
				s.log.Debug("answer to command not sent", "err", err)
			}
		}) {
			s.skip(intakeCommand, "IN command: received message with invalid format (parse failed), skipping")
		}
	}
}

// command runs one request, and has it answered by reply, which must not block:
// before it returns, or later if others have to be asked. It returns false if the
// request cannot be read, so that there is nobody to answer.
func (s *Server) command(b []byte, reply func(answer []byte)) bool {
	v, err := tnet.Decode(b)
	if err != nil {
		return false
	}
	req, isDict := v.(map[string]any)
	method, isString := req["method"].(string)
	if !isDict || !isString {
		return false
	}
	args, isDict := req["args"].(map[string]any)
	if a, given := req["args"]; given && a != nil && !isDict {
		return false
	}
	answer := func(value any, condition string) {
		r := map[string]any{"success": condition == ""}
		if id, given := req["id"]; given {
			r["id"] = id
		}
		if condition == "" || value != nil {
			r["value"] = value
		}
		if condition != "" {
			r["condition"] = condition
			s.metrics.invalid[intakeCommand].Inc()
		}
		reply(tnet.Append(nil, r))
	}
	switch method {
	case "refresh":
		s.refreshCommand(args, answer)
	case "conncheck":
		s.connCheckCommand(args, answer)
	default:
		answer(s.runCommand(method, args))
	}
	return true
}

func (s *Server) runCommand(method string, args map[string]any) (value any, condition string) {
	switch method {
	case "publish":
		batch, err := publish.ParseArgs(args, true)
		if err != nil {
			return err.Error(), "bad-request"
		}
		if err := s.hooks.take(intakeCommand, batch.Items); err != nil {
			return err.Error(), "service-unavailable"
		}
		// Before the answer, as over HTTP.
		if !batch.Report {
			s.publishFor(intakeCommand, batch.Items, nil)
			return nil, ""
		}
		report := []any{}
		s.publishFor(intakeCommand, batch.Items, func(r receipt) { report = append(report, r.fields()) })
		return map[string]any{"items": report}, ""
	case "recover":
		s.recoverAll()
		return nil, ""
	case "get-zmq-uris":
		uris := map[string]any{}
		if s.opt.Command != "" {
			uris["command"] = s.opt.Command
		}
		if s.opt.PushIn != "" {
			uris["publish-pull"] = s.opt.PushIn
		}
		if len(s.opt.PushInSub) > 0 && !s.opt.PushInSubConnect {
			uris["publish-sub"] = s.opt.PushInSub[0]
		}
		return uris, ""
	}
	return nil, "method-not-found"
}

// refreshCommand makes WebSocket-over-HTTP sessions send a request now.
func (s *Server) refreshCommand(args map[string]any, answer func(value any, condition string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cid, ok := args["cid"].(string); ok {
		s.checkProxies(&frame.Check{IDs: []string{cid}, Refresh: true}, func(found []frame.FoundConn, ok bool) {
			switch {
			case len(found) > 0:
				answer(nil, "")
			case !ok:
				answer(nil, "proxy-request-failed")
			default:
				answer(nil, "item-not-found")
			}
		})
		return
	}
	name, ok := args["channel"].(string)
	if !ok {
		answer(nil, "bad-request")
		return
	}
	if c := s.index.Get(name); c != nil {
		for _, g := range c.Groups {
			if g.Key.mode != frame.ModeWebSocket {
				continue
			}
			for _, sb := range g.Subs {
				h := sb.Owner.hold
				s.refresh(frame.XID{Conn: h.peer.name, Boot: h.peer.boot, ID: h.id})
			}
		}
	}
	answer(nil, "")
}

// connCheckCommand answers which of some connections there are: those that are
// held, and those that a proxy serves.
func (s *Server) connCheckCommand(args map[string]any, answer func(value any, condition string)) {
	list, ok := args["ids"].([]any)
	if !ok {
		answer(nil, "bad-request")
		return
	}
	unknown := make(map[string]bool, len(list))
	for _, e := range list {
		id, ok := e.(string)
		if !ok {
			answer(nil, "bad-request")
			return
		}
		unknown[id] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := []any{}
	for _, p := range s.peers {
		for _, h := range p.holds {
			if unknown[h.connID] && !h.over {
				delete(unknown, h.connID)
				known = append(known, h.connID)
			}
		}
	}
	if len(unknown) == 0 {
		answer(known, "")
		return
	}
	s.checkProxies(&frame.Check{IDs: slices.Sorted(maps.Keys(unknown))}, func(found []frame.FoundConn, ok bool) {
		if !ok {
			answer(nil, "proxy-request-failed")
			return
		}
		for _, f := range found {
			if unknown[f.ID] { // one that is moving is known to two
				delete(unknown, f.ID)
				known = append(known, f.ID)
			}
		}
		answer(known, "")
	})
}

// check is a question to all proxies for connections. Guarded by Server.mu.
type check struct {
	waiting map[string]bool // proxies that have not answered
	found   []frame.FoundConn
	until   time.Time
	done    func(found []frame.FoundConn, ok bool)
}

const (
	// checkTimeout is how long proxies are waited for.
	checkTimeout = 10 * time.Second
	// maxChecks is how many questions may be open.
	maxChecks = 100
)

// checkProxies asks f of all proxies. done is called with mu held,
// with ok false if not all of them answered. Caller holds mu.
func (s *Server) checkProxies(f *frame.Check, done func(found []frame.FoundConn, ok bool)) {
	if len(s.checks) >= maxChecks {
		done(nil, false)
		return
	}
	s.lastFetch++
	f.Token = s.lastFetch
	c := &check{waiting: make(map[string]bool), until: s.now().Add(checkTimeout), done: done}
	for _, p := range s.opt.Bus.Peers("proxy") {
		if s.send(p.Name, f) == nil {
			c.waiting[p.Name] = true
		}
	}
	if len(c.waiting) == 0 {
		done(nil, true) // nobody is there who could serve them
		return
	}
	s.checks[s.lastFetch] = c
}

// checked takes a proxy's answer, or with nil that it is gone, which is an answer
// to all that it was asked.
func (s *Server) checked(proxy string, f *frame.Checked) {
	for token, c := range s.checks {
		if !c.waiting[proxy] || f != nil && f.Token != token {
			continue
		}
		if f != nil {
			c.found = append(c.found, f.Found...)
		}
		if delete(c.waiting, proxy); len(c.waiting) == 0 {
			delete(s.checks, token)
			c.done(c.found, true)
		}
	}
}

// expireChecks gives up questions that were not answered in time.
func (s *Server) expireChecks(now time.Time) {
	for token, c := range s.checks {
		if !now.Before(c.until) {
			delete(s.checks, token)
			c.done(c.found, false)
		}
	}
}
