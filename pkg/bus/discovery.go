package bus

import (
	"context"
	"io/fs"
	"maps"
	"net"
	"os"
	"strings"
	"time"
)

// add makes a peer and starts its sender. Called by the dispatcher.
func (n *Node) add(name, inbox, pub string, now time.Time) *peer {
	ctx, stop := context.WithCancel(n.senderCtx)
	p := &peer{
		name: name, m: n.m.of(Kind(name)), stop: stop, epochs: &n.epochs,
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		inbox: inbox, own: n.epochs.Add(1), since: now, lastSeen: now,
	}
	n.replacePeers(func(m map[string]*peer) { m[name] = p })
	n.wg.Go(func() { n.sender(ctx, p) })
	n.subscribe(p, pub)
	return p
}

func (n *Node) replacePeers(change func(map[string]*peer)) {
	old := *n.peers.Load()
	m := make(map[string]*peer, len(old)+1)
	for k, v := range old {
		m[k] = v
	}
	change(m)
	n.peers.Store(&m)
}

// forget removes a peer that is down and that nothing speaks of any more.
func (n *Node) forget(p *peer) {
	n.replacePeers(func(m map[string]*peer) { delete(m, p.name) })
	n.subscribe(p, "")
	p.stop()
}

// subscribe makes pub the endpoint from which the peer's broadcasts come.
func (n *Node) subscribe(p *peer, pub string) {
	if p.pub == pub {
		return
	}
	if p.sub != nil {
		_ = p.sub.Close()
		p.sub = nil
	}
	p.pub = pub
	if pub == "" {
		return
	}
	sub, err := NewSub(SocketOptions{
		Name: "bus-sub", Connect: []string{pub}, Logger: n.log, Registerer: n.opt.Registerer,
		Limits: Limits{MaxMessage: n.opt.MaxMessage, RecvMessages: 64},
	})
	if err != nil {
		n.log.Warn("subscribe to peer", "peer", p.name, "err", err)
		return
	}
	sub.Subscribe("")
	p.sub = sub
	n.wg.Go(func() {
		for {
			parts, err := sub.Recv(n.senderCtx)
			if err != nil {
				_ = sub.Close()
				return
			}
			select {
			case n.events <- broadcastEvent{p, parts}:
			case <-n.stopping:
			}
		}
	})
}

// scan finds the sockets of other instances in the run directory.
func (n *Node) scan(now time.Time) {
	if n.opt.Dir == "" {
		return
	}
	fi, err := os.Stat(n.opt.Dir)
	if err == nil && fi.ModTime().Equal(n.scanned) && now.Sub(n.scanned) > scanAgain {
		return
	}
	var entries []fs.DirEntry
	if err == nil {
		n.scanned = fi.ModTime()
		entries, err = os.ReadDir(n.opt.Dir)
	}
	if err != nil {
		if !n.blind {
			n.log.Warn("read run directory", "err", err)
		}
		n.blind = true
		return
	}
	n.blind = false
	found := make(map[string]bool)
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), inSuffix)
		if ok {
			name, ok = strings.CutPrefix(name, n.opt.Prefix)
		}
		if ok && entry.Type() == fs.ModeSocket && validName(name) && name != n.opt.Name && len(found) < maxPeers {
			found[name] = true
		}
	}
	for name := range found {
		p := (*n.peers.Load())[name]
		if p == nil {
			p = n.add(name, n.socketIn(name), n.socketPub(name), now)
		}
		if p.static {
			continue
		}
		p.listed = true
		p.mu.Lock()
		p.inbox = n.socketIn(name)
		lost := !p.connected
		p.mu.Unlock()
		n.subscribe(p, n.socketPub(name))
		if lost {
			p.dialNow()
		}
	}
	for name, p := range *n.peers.Load() {
		if !found[name] {
			p.listed = false
		}
	}
}

// stranger makes a peer of an instance that says hello without being known from
// the run directory or the configuration.
func (n *Node) stranger(e *envelope, now time.Time) *peer {
	if e.Kind != kindHello || e.From == n.opt.Name || !validName(e.From) || len(*n.peers.Load()) >= maxPeers {
		return nil
	}
	return n.add(e.From, "", "", now)
}

// learn takes the endpoints from a hello, unless better ones are known.
func (n *Node) learn(p *peer, e *envelope, remote net.Addr) {
	if p.static || p.listed {
		return
	}
	inbox, pub := reachable(e.Inbox, remote), reachable(e.Pub, remote)
	if _, _, err := parseSpec(inbox); err != nil {
		return
	}
	p.mu.Lock()
	if p.inbox != inbox {
		p.inbox = inbox
		p.dialNow()
	}
	p.mu.Unlock()
	n.subscribe(p, pub)
}

// reachable puts the host from which a peer dialled us in the place of one that
// only says "all interfaces".
func reachable(spec string, remote net.Addr) string {
	network, addr, err := parseSpec(spec)
	if err != nil || network != "tcp" {
		return spec
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return spec
	}
	from, ok := remote.(*net.TCPAddr)
	if ip := net.ParseIP(host); ok && (host == "" || ip != nil && ip.IsUnspecified()) {
		return "tcp://" + net.JoinHostPort(from.IP.String(), port)
	}
	return spec
}

// check gives a peer up, reminds it of us, or forgets it.
func (n *Node) check(p *peer, now time.Time) {
	silent := now.Sub(p.lastSeen)
	if p.heir != nil && now.Sub(p.heirSince) >= n.opt.GiveUp/2 {
		// The host of the old one is gone, or it is a stranger's connection.
		maps.DeleteFunc(n.speakers, func(_ *peerConn, s speaker) bool { return s.p == p })
		n.succeed(p)
	}
	p.mu.Lock()
	var why string
	switch {
	case !p.up:
		if p.connected {
			if now.Sub(p.lastHello) >= n.opt.Heartbeat {
				p.sayHello(now, true)
			}
		}
	case !p.refusedSince.IsZero() && now.Sub(p.refusedSince) >= refusedDown && !n.speaks(p):
		why = "refused"
	case silent >= n.opt.GiveUp:
		why = "silent"
	case p.out.kept() > 0 && now.Sub(p.progress) >= n.opt.GiveUp:
		why = "unacknowledged"
	}
	var id Peer
	if why != "" {
		id = p.goDown()
	}
	if p.out.kept() == 0 {
		p.progress = now
	}
	p.sendAgain(now, 3*n.opt.Heartbeat)
	up := p.up
	p.mu.Unlock()
	switch {
	case why != "":
		n.down(p, id, why)
	case up && silent >= 3*n.opt.Heartbeat && !p.gapCounted:
		p.gapCounted = true
		p.m.gaps.Inc()
	case !up && !p.static && !p.listed && silent >= n.opt.GiveUp:
		n.forget(p)
	}
}
