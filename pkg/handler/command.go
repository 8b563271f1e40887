package handler

import (
	"context"

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
		answer, items, ok := s.command(parts[body])
		if !ok {
			s.skip(intakeCommand, "IN command: received message with invalid format (parse failed), skipping")
			continue
		}
		if len(items) > 0 {
			s.publishFor(intakeCommand, items, nil) // before the answer, as over HTTP
		}
		parts[body] = answer
		if err := router.Send(parts...); err != nil {
			s.log.Debug("answer to command not sent", "err", err)
		}
	}
}

// command runs one request. ok is false if it cannot be read, so that there is
// nobody to answer.
func (s *Server) command(b []byte) (answer []byte, items []*publish.Item, ok bool) {
	v, err := tnet.Decode(b)
	if err != nil {
		return nil, nil, false
	}
	req, isDict := v.(map[string]any)
	method, isString := req["method"].(string)
	if !isDict || !isString {
		return nil, nil, false
	}
	args, isDict := req["args"].(map[string]any)
	if a, given := req["args"]; given && a != nil && !isDict {
		return nil, nil, false
	}
	r := map[string]any{}
	if id, given := req["id"]; given {
		r["id"] = id
	}
	value, condition, items := s.runCommand(method, args)
	r["success"] = condition == ""
	if condition == "" || value != nil {
		r["value"] = value
	}
	if condition != "" {
		r["condition"] = condition
		s.metrics.invalid[intakeCommand].Inc()
	}
	return tnet.Append(nil, r), items, true
}

func (s *Server) runCommand(method string, args map[string]any) (value any, condition string, items []*publish.Item) {
	switch method {
	case "publish":
		batch, err := publish.ParseArgs(args, true)
		if err != nil {
			return err.Error(), "bad-request", nil
		}
		if !batch.Report {
			return nil, "", batch.Items
		}
		report := []any{}
		s.publishFor(intakeCommand, batch.Items, func(r receipt) { report = append(report, r.fields()) })
		return map[string]any{"items": report}, "", nil
	case "recover":
		s.recoverAll()
		return nil, "", nil
	case "refresh":
		return nil, s.refreshCommand(args), nil
	case "conncheck":
		list, ok := args["ids"].([]any)
		if !ok {
			return nil, "bad-request", nil
		}
		ids := make(map[string]bool, len(list))
		for _, e := range list {
			id, ok := e.(string)
			if !ok {
				return nil, "bad-request", nil
			}
			ids[id] = true
		}
		return s.knownConnections(ids), "", nil
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
		return uris, "", nil
	}
	return nil, "method-not-found", nil
}

// refreshCommand makes WebSocket-over-HTTP sessions send a request now.
func (s *Server) refreshCommand(args map[string]any) (condition string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cid, ok := args["cid"].(string); ok {
		h := s.findConnection(cid)
		if h == nil {
			return "item-not-found"
		}
		if h.mode == frame.ModeWebSocket {
			s.refresh(h)
		}
		return ""
	}
	name, ok := args["channel"].(string)
	if !ok {
		return "bad-request"
	}
	if c := s.index.Get(name); c != nil {
		for _, g := range c.Groups {
			if g.Key.mode != frame.ModeWebSocket {
				continue
			}
			for _, sb := range g.Subs {
				s.refresh(sb.Owner.hold)
			}
		}
	}
	return ""
}

// findConnection returns the hold with that public connection id. It looks at
// all of them: the command is rare, and an index would cost every hold memory.
func (s *Server) findConnection(id string) *hold {
	for _, p := range s.peers {
		for _, h := range p.holds {
			if h.connID == id && !h.over {
				return h
			}
		}
	}
	return nil
}

// knownConnections returns those of ids that are held connections.
func (s *Server) knownConnections(ids map[string]bool) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := []any{}
	for _, p := range s.peers {
		for _, h := range p.holds {
			if ids[h.connID] && !h.over {
				known = append(known, h.connID)
			}
		}
	}
	return known
}
