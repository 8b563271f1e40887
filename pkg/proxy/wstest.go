package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/holdfast/holdfast/pkg/frame"
	"github.com/holdfast/holdfast/pkg/grip"
)

// testOrigin is the target "test" for WebSockets: at /ws it subscribes the client
// to the channels that the query names and sends back what it gets.
func (s *socket) testOrigin() error {
	path, query, _ := strings.Cut(testPath(s.o), "?")
	if path != "/ws" {
		return s.refused(testResponse(http.StatusNotFound, "", nil, "no such test resource\n"))
	}
	var h []frame.Field
	if !s.o.rule.NoGrip {
		h = append(h, frame.Field{Name: "Sec-WebSocket-Extensions", Value: "grip"})
	}
	if err := s.accept(h); err != nil {
		if s.ctx.Err() == nil && s.log.code != http.StatusSwitchingProtocols {
			return nil
		}
		return err
	}
	if s.grip {
		for _, channel := range testChannels(query) {
			b, err := json.Marshal(map[string]string{"type": grip.ControlSubscribe, "channel": channel})
			if err != nil {
				return err
			}
			if err := s.control(b); err != nil {
				return err
			}
		}
	}
	return s.echo()
}

func (s *socket) echo() error {
	for {
		f, err := s.body.parts.Get(s.ctx)
		if err != nil {
			return context.Cause(s.ctx)
		}
		m, ok := f.(*frame.Message)
		if !ok {
			return nil // a publication closed the client
		}
		switch m.Kind {
		case frame.MessageClose:
			return s.closeClient(m.Code, string(m.Data))
		case frame.MessagePing, frame.MessagePong:
			err = s.controlFrame(m.Kind, m.Data)
		default:
			err = s.toClient(m.Kind, m.Data, m.More)
		}
		if err == nil {
			err = s.send(&frame.Credit{ID: s.x.ID, N: uint64(m.Cost())})
		}
		if err != nil {
			return err
		}
	}
}
