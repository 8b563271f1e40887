package handler

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast/holdfast/pkg/bus"
	"github.com/holdfast/holdfast/pkg/publish"
)

// serveSockets opens the ZeroMQ sockets once the handler knows what is
// subscribed, and serves them until ctx ends. Until then publishers keep what
// they want to send.
func (s *Server) serveSockets(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	var loops []func(context.Context) error
	var opened []interface{ Close() error }
	defer func() {
		for _, o := range opened {
			_ = o.Close() // nothing is left to be done about it
		}
	}()
	if s.opt.PushIn != "" {
		pull, err := bus.NewPull(s.socket("publish-pull", s.opt.PushIn))
		if err != nil {
			return fmt.Errorf("publish input %s: %w", s.opt.PushIn, err)
		}
		opened = append(opened, pull)
		loops = append(loops, func(ctx context.Context) error { return s.pullLoop(ctx, pull) })
	}
	if len(s.opt.PushInSub) > 0 {
		o := s.socket("publish-sub", s.opt.PushInSub[0])
		if s.opt.PushInSubConnect {
			o.Bind, o.Connect = nil, s.opt.PushInSub
		}
		sub, err := bus.NewSub(o)
		if err != nil {
			return fmt.Errorf("publish input %v: %w", s.opt.PushInSub, err)
		}
		opened = append(opened, sub)
		s.setTopics(sub)
		loops = append(loops, func(ctx context.Context) error { return s.subLoop(ctx, sub) })
	}
	if s.opt.Command != "" {
		router, err := bus.NewRouter(s.socket("command", s.opt.Command))
		if err != nil {
			return fmt.Errorf("command socket %s: %w", s.opt.Command, err)
		}
		opened = append(opened, router)
		loops = append(loops, func(ctx context.Context) error { return s.commandLoop(ctx, router) })
	}
	if s.opt.Stats != "" {
		pub, err := bus.NewPub(s.socket("stats", s.opt.Stats))
		if err != nil {
			return fmt.Errorf("stats socket %s: %w", s.opt.Stats, err)
		}
		opened = append(opened, pub)
		loops = append(loops, func(ctx context.Context) error { return s.statsLoop(ctx, pub) })
	}
	s.log.Info("ZeroMQ sockets are open", "push_in", s.opt.PushIn, "push_in_sub", s.opt.PushInSub, "command", s.opt.Command, "stats", s.opt.Stats)
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range loops {
		g.Go(func() error { return l(ctx) })
	}
	return g.Wait()
}

func (s *Server) socket(name, bind string) bus.SocketOptions {
	return bus.SocketOptions{
		Name: name, Bind: []string{bind}, FileMode: s.opt.IPCFileMode,
		Logger: s.log, Registerer: s.opt.Registerer,
	}
}

// setTopics subscribes to all channels that there are, and to later ones.
func (s *Server) setTopics(t topics) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics = t
	for name := range s.index.Names() {
		t.Subscribe(name)
	}
}

func (s *Server) pullLoop(ctx context.Context, pull *bus.Pull) error {
	for {
		parts, err := pull.Recv(ctx)
		if err != nil {
			return err
		}
		if len(parts) != 1 {
			s.skip(intakePull, "IN pull: received message with parts != 1, skipping")
			continue
		}
		it, err := publish.ParseMessage(parts[0])
		if err != nil {
			s.skip(intakePull, fmt.Sprintf("IN pull: received message with invalid format (%v), skipping", err))
			continue
		}
		s.publishLater(intakePull, it)
	}
}

func (s *Server) subLoop(ctx context.Context, sub *bus.Sub) error {
	for {
		parts, err := sub.Recv(ctx)
		if err != nil {
			return err
		}
		if len(parts) != 2 {
			s.skip(intakeSub, "IN sub: received message with parts != 2, skipping")
			continue
		}
		it, err := publish.ParseTopic(string(parts[0]), parts[1])
		if err != nil {
			s.skip(intakeSub, fmt.Sprintf("IN sub: received message with invalid format (%v), skipping", err))
			continue
		}
		s.publishLater(intakeSub, it)
	}
}

// skip counts a message that is not right, and logs it unless there are many.
func (s *Server) skip(intake, text string) {
	s.metrics.invalid[intake].Inc()
	s.mu.Lock()
	skipped, ok := s.skipLog.Allow(s.now())
	s.mu.Unlock()
	if ok && skipped > 0 {
		s.log.Warn(text, "not_logged", skipped)
	} else if ok {
		s.log.Warn(text)
	}
}
