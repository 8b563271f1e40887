//go:build linux

package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/holdfast/holdfast/bench/internal/hist"
	"github.com/holdfast/holdfast/bench/internal/netloop"
	"github.com/holdfast/holdfast/bench/internal/proc"
	"github.com/holdfast/holdfast/bench/internal/result"
	"github.com/holdfast/holdfast/bench/internal/wire"
)

// bench is one run.
type bench struct {
	*options
	loop *netloop.Loop
	src  *source
	pub  publisher
	res  *result.Load
}

func run(o *options) (*result.Load, error) {
	l, err := netloop.New()
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, loop: l, res: &result.Load{Scenario: o.scenario}}
	b.src = &source{loop: l, size: max(o.size, wire.MinMessage), format: o.format, seq: make([]uint32, o.channels)}
	if o.zmq.IsValid() {
		if b.pub, err = newZMQPublisher(b.src, o.zmq); err != nil {
			return nil, err
		}
	} else if o.publish.IsValid() {
		b.pub = newHTTPPublisher(b.src, o.publish, o.publishPath, o.publishers)
	}
	scenarios := map[string]struct {
		f         func() error
		publishes bool
	}{
		"fanout": {b.fanout, true}, "hold": {b.holdOnly, false}, "ramp": {b.ramp, true}, "herd": {b.herd, false}, "channels": {b.eachChannel, true},
		"polls": {b.polls, true}, "stuck": {b.stuckClients, true}, "hooks": {b.hooks, true}, "proxy": {b.proxy, false}, "echo": {b.echo, false},
	}
	s, ok := scenarios[o.scenario]
	if !ok {
		return nil, fmt.Errorf("unknown scenario %q", o.scenario)
	}
	if s.publishes && b.pub == nil {
		return nil, fmt.Errorf("scenario %q needs -publish or -zmq", o.scenario)
	}
	if err := s.f(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.scenario, err)
	}
	if z, ok := b.pub.(*zmqPublisher); ok && z.err != nil {
		return nil, fmt.Errorf("publish over ZeroMQ: %w", z.err)
	}
	cpu, err := proc.CPU(os.Getpid())
	b.res.ClientCPU = cpu.Seconds()
	return b.res, err
}

func (b *bench) newPool(k kind) *pool {
	switch {
	case b.ws:
		k = kindWebSocket
	case b.poll:
		k = kindPoll
	}
	return &pool{
		loop: b.loop, meter: newMeter(b.loop, b.src.size), kind: k, target: b.target, extra: b.extra, host: b.host, header: b.header, path: b.path,
		readyHead: b.readyHead, channels: b.channels, window: b.window, retry: b.window > 0,
	}
}

// hold sets up all connections and reads memory on the way.
func (b *bench) hold(p *pool) error {
	var paused time.Duration
	before, err := b.usage()
	if err != nil {
		return err
	}
	for _, n := range append(append([]int{0}, b.memory...), b.n) {
		if n > b.n || n > 0 && n <= p.want {
			continue
		}
		if n > 0 {
			p.grow(n)
			if _, err := b.loop.Wait(b.deadline, p.settled); err != nil {
				return err
			}
			if p.err != nil {
				return p.err
			}
		}
		from := b.loop.Now()
		if err := b.memoryAt(p.ready); err != nil {
			return err
		}
		if n > 0 && n < b.n {
			paused += b.loop.Now() - from
		}
	}
	after, err := b.usage()
	if err != nil {
		return err
	}
	b.res.Setup = p.setup()
	b.res.Setup.CPU = (after.CPU - before.CPU).Seconds()
	b.res.Setup.Seconds -= paused.Seconds()
	b.res.Setup.PerSecond = float64(p.ready) / b.res.Setup.Seconds
	if p.ready == 0 {
		return fmt.Errorf("no connection became ready in %v", b.deadline)
	}
	return nil
}

func (b *bench) memoryAt(connections int) error {
	if err := b.loop.Sleep(b.settle); err != nil {
		return err
	}
	u, err := b.usage()
	if err != nil {
		return err
	}
	if u.Bytes == 0 {
		return nil
	}
	kernel, err := proc.Kernel()
	b.res.Memory = append(b.res.Memory, result.Memory{Connections: connections, Bytes: u.Bytes, Kernel: kernel})
	return err
}

// deliver runs publish and reports what came of it. Publish must call its
// argument when the last publish was answered.
func (b *bench) deliver(p *pool, listeners float64, wait time.Duration, publish func(finished func())) (*result.Delivery, error) {
	p.meter.reset()
	lost := p.lost(b.src.seq)
	taken, failed := b.src.taken, b.src.failed
	before, err := b.usage()
	if err != nil {
		return nil, err
	}
	from := b.loop.Now()
	var until time.Duration
	publish(func() { until = b.loop.Now() })
	ok, err := b.loop.Wait(wait, func() bool { return until > 0 })
	if err != nil {
		return nil, err
	}
	if !ok {
		until = b.loop.Now()
	}
	d := &result.Delivery{Published: b.src.taken - taken, Refused: b.src.failed - failed}
	d.Expected = uint64(math.Round(float64(d.Published) * listeners))
	if _, err := b.loop.Wait(wait, func() bool { return p.meter.delivered >= d.Expected }); err != nil {
		return nil, err
	}
	after, err := b.usage()
	if err != nil {
		return nil, err
	}
	m := p.meter
	d.Delivered, d.Duplicates, d.Reordered, d.Lost = m.delivered, m.duplicates, m.reordered, p.lost(b.src.seq)-lost
	d.Latency = m.latency.Summary()
	d.CPU = (after.CPU - before.CPU).Seconds()
	if m.delivered > 0 {
		d.Seconds = (m.last - from).Seconds()
		d.PerSecond = float64(m.delivered) / d.Seconds
		d.CPUPerDelivery = d.CPU * 1e6 / float64(m.delivered)
	}
	d.PublishesPerSecond = float64(d.Published) / (until - from).Seconds()
	return d, nil
}

// fanout: every message goes to every connection. Set-up, memory, a paced part
// and a burst.
func (b *bench) fanout() error {
	p := b.newPool(kindStream)
	defer p.close()
	if err := b.hold(p); err != nil {
		return err
	}
	listeners := float64(p.ready) / float64(b.channels)
	// Two messages for warming up.
	if _, err := b.deliver(p, listeners, 20*time.Second, func(f func()) { b.paced(2, f) }); err != nil {
		return err
	}
	var err error
	length := time.Duration(float64(b.count) / b.rate * float64(time.Second))
	if b.res.Paced, err = b.deliver(p, listeners, length+10*time.Second, func(f func()) { b.paced(b.count, f) }); err != nil {
		return err
	}
	if b.burst > 0 {
		b.res.Burst, err = b.deliver(p, listeners, 30*time.Second, func(f func()) { b.backToBack(b.burst, f) })
	}
	b.res.Setup.Dropped, b.res.Setup.Why = p.dropped, p.why
	return err
}

// holdOnly reads memory while connections are held.
func (b *bench) holdOnly() error {
	p := b.newPool(kindStream)
	defer p.close()
	err := b.hold(p)
	if err == nil && b.res.Setup.Ready < b.n {
		err = fmt.Errorf("%d of %d connections are ready", b.res.Setup.Ready, b.n)
	}
	return err
}

// What ramp begins with, and where it gives up.
const (
	rampStep  = 2 * time.Second
	rampLimit = time.Second // a message that is this late is the end, or a publish
	rampMost  = 200_000     // publishes a second
)

// ramp publishes at a rate that grows by half every two seconds, until something
// is lost, refused, or a second late.
func (b *bench) ramp() error {
	p := b.newPool(kindStream)
	defer p.close()
	if err := b.hold(p); err != nil {
		return err
	}
	listeners := float64(p.ready) / float64(b.channels)
	for b.rate < rampMost {
		n := int(b.rate * rampStep.Seconds())
		d, err := b.deliver(p, listeners, rampStep+rampLimit, func(f func()) { b.paced(n, f) })
		if err != nil {
			return err
		}
		step := result.Step{Rate: b.rate, Delivery: *d}
		switch late := time.Duration(d.Latency.Max * float64(time.Millisecond)); {
		case d.Refused > 0:
			step.End = "refused"
		case d.Published < uint64(n):
			step.End = "behind"
		case d.Lost > 0 || d.Delivered < d.Expected:
			step.End = "lost"
		case late >= rampLimit:
			step.End = "late"
		}
		b.res.Ramp = append(b.res.Ramp, step)
		if step.End != "" {
			break
		}
		b.rate *= 1.5
	}
	return nil
}

// paced publishes n messages at the rate asked for, over the channels in turn.
func (b *bench) paced(n int, finished func()) {
	step := time.Duration(float64(time.Second) / b.rate)
	answered := 0
	for i := range n {
		b.loop.After(time.Duration(i)*step, func() {
			b.pub.publish(i%b.channels, func(bool) {
				if answered++; answered == n {
					finished()
				}
			})
		})
	}
}

// backToBack publishes n messages, each as soon as the one before it is taken.
func (b *bench) backToBack(n int, finished func()) {
	sent, answered := 0, 0
	var next func(bool)
	publish := func() {
		sent++
		b.pub.publish((sent-1)%b.channels, next)
	}
	next = func(bool) {
		if answered++; answered == n {
			finished()
		} else if sent < n {
			b.loop.Soon(publish)
		}
	}
	for range min(b.publishers, n) {
		publish()
	}
}

// herd: all connections at once, and nothing else.
func (b *bench) herd() error {
	p := b.newPool(kindStream)
	p.window, p.retry = 0, false
	defer p.close()
	before, err := b.usage()
	if err != nil {
		return err
	}
	p.grow(b.n)
	if _, err := b.loop.Wait(b.deadline, p.settled); err != nil {
		return err
	}
	after, err := b.usage()
	if err != nil {
		return err
	}
	b.res.Setup = p.setup()
	b.res.Setup.CPU = (after.CPU - before.CPU).Seconds()
	return p.err
}

// eachChannel: a closed loop over many channels with few listeners each. A
// publisher goes on to its next channel when its publish was answered and all
// listeners have read it, so that the rate is one that the server keeps up with,
// not one at which it only takes in.
func (b *bench) eachChannel() error {
	if b.channels < 2*b.publishers {
		return fmt.Errorf("%d publishers need more than %d channels", b.publishers, b.channels)
	}
	p := b.newPool(kindStream)
	defer p.close()
	if err := b.hold(p); err != nil {
		return err
	}
	if p.ready < b.n {
		return fmt.Errorf("%d of %d connections are ready", p.ready, b.n)
	}
	listeners := b.n / b.channels
	if _, err := b.deliver(p, float64(listeners), 10*time.Second, func(f func()) { b.closedLoop(p, listeners, time.Second, f) }); err != nil {
		return err
	}
	var err error
	b.res.Burst, err = b.deliver(p, float64(listeners), b.duration+10*time.Second, func(f func()) { b.closedLoop(p, listeners, b.duration, f) })
	b.res.Setup.Dropped, b.res.Setup.Why = p.dropped, p.why
	return err
}

// underWay is a publish of the closed loop.
type underWay struct {
	begun    time.Duration
	answered bool
	left     int // listeners that have not read it
}

// patience is how long a publish may be under way before it is given up, and
// another takes its place.
const patience = 2 * time.Second

func (b *bench) closedLoop(p *pool, listeners int, length time.Duration, finished func()) {
	end := b.loop.Now() + length
	open := map[int]*underWay{} // by channel
	channel, over := 0, false
	var publish func()
	check := func(ch int) {
		if w := open[ch]; w != nil && w.answered && w.left <= 0 {
			delete(open, ch)
			b.loop.Soon(publish)
		}
	}
	publish = func() {
		if b.loop.Now() >= end {
			if len(open) == 0 && !over {
				over = true
				p.meter.onMessage = nil
				finished()
			}
			return
		}
		for channel = (channel + 1) % b.channels; open[channel] != nil; {
			channel = (channel + 1) % b.channels
		}
		ch := channel
		open[ch] = &underWay{begun: b.loop.Now(), left: listeners}
		b.pub.publish(ch, func(ok bool) {
			if w := open[ch]; w != nil {
				if w.answered = true; !ok {
					w.left = 0
				}
				check(ch)
			}
		})
	}
	p.meter.onMessage = func(ch int) {
		if w := open[ch]; w != nil {
			w.left--
			check(ch)
		}
	}
	var sweep func()
	sweep = func() {
		for ch, w := range open {
			if b.loop.Now()-w.begun > patience {
				delete(open, ch)
				b.loop.Soon(publish)
			}
		}
		if !over {
			b.loop.After(patience/4, sweep)
		}
	}
	sweep()
	for range b.publishers {
		publish()
	}
}

// polls: long polls that are all answered by one publish, and asked again.
func (b *bench) polls() error {
	p := b.newPool(kindPoll)
	defer p.close()
	// Nothing tells when a long poll is held, so the window is a number a quarter
	// second here.
	for n := 0; n < b.n && b.window > 0; n += b.window {
		p.grow(n)
		if err := b.loop.Sleep(time.Second / 4); err != nil {
			return err
		}
	}
	if err := b.hold(p); err != nil {
		return err
	}
	total := &result.Delivery{}
	latency := new(hist.Histogram)
	before, err := b.usage()
	if err != nil {
		return err
	}
	for range b.count {
		d, err := b.deliver(p, float64(p.ready)/float64(b.channels), 10*time.Second, func(f func()) { b.backToBack(b.channels, f) })
		if err != nil {
			return err
		}
		latency.Merge(p.meter.latency)
		total.Published += d.Published
		total.Refused += d.Refused
		total.Expected += d.Expected
		total.Delivered += d.Delivered
		total.Lost += d.Lost
		total.Duplicates += d.Duplicates
		total.Seconds += d.Seconds
		// The last bytes of a message may come before the end of its response.
		whole := func() bool {
			return !slices.ContainsFunc(p.subs, func(s *subscriber) bool { return s.partial })
		}
		if _, err := b.loop.Wait(10*time.Second, whole); err != nil {
			return err
		}
		for _, s := range p.subs {
			// One that missed the message is still held.
			if s.answers > 0 {
				s.answers = 0
				s.ask()
			}
		}
		if err := b.loop.Sleep(b.settle); err != nil {
			return err
		}
	}
	// The whole cycle, asking included.
	after, err := b.usage()
	if err != nil {
		return err
	}
	total.CPU = (after.CPU - before.CPU).Seconds()
	total.Latency = latency.Summary()
	total.PerSecond = float64(total.Delivered) / total.Seconds
	total.CPUPerDelivery = total.CPU * 1e6 / float64(total.Delivered)
	b.res.Burst = total
	b.res.Setup.Dropped, b.res.Setup.Why = p.dropped, p.why
	return nil
}
