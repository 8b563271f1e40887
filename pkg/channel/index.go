// Package channel knows who is subscribed to what, and puts the items of a
// channel in order.
//
// An [Index] is not safe for concurrent use: its owner has one lock for it and
// for what hangs on its subscriptions. A hold may be on twenty channels and a
// publication may end the hold, so finer locks would have to be taken in twos
// and threes; and each operation here is well below a microsecond.
package channel

import (
	"iter"
	"maps"
	"time"

	"github.com/holdfast/holdfast/pkg/wheel"
)

// Config is what an Index needs to know.
type Config struct {
	// Linger is how long a channel stays subscribed after its last lingering
	// subscription ended.
	Linger time.Duration
	// Wait is how long an item that came too early is kept back.
	Wait time.Duration
	// IDTTL is how long the id of an item is remembered; 0 is not at all.
	IDTTL time.Duration
	// Started and Ended, which may be nil, are called when a channel gets its
	// first subscription and when it has lost the last one for good.
	Started, Ended func(name string)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Index maps channels to groups of subscriptions. K tells the groups of a
// channel apart, O is what subscribes.
type Index[K comparable, O any] struct {
	cfg      Config
	channels map[string]*Channel[K, O]
	linger   *wheel.Wheel[*Channel[K, O]]
	seen     ids
	waiting  []*pending // by age
	bytes    int        // of the items in waiting
}

// Channel is one channel that is subscribed to, or was a short while ago.
type Channel[K comparable, O any] struct {
	Name string
	// Groups are the groups that have members. They may be read until the next
	// call that adds or removes a subscription.
	Groups []*Group[K, O]

	last     string // id of the item sent last
	hasLast  bool
	early    map[string]*pending // by the id that they wait for
	subs     int
	lingerer int // subs that linger
	timer    wheel.Timer[*Channel[K, O]]
	ended    bool
}

// Group is the members of a channel that have the same key.
type Group[K comparable, O any] struct {
	Key K
	// Tag is what the first subscriber's tag function returned.
	Tag  string
	Subs []*Sub[K, O]
}

// Sub is one subscription. The owner embeds it in what it keeps per channel.
type Sub[K comparable, O any] struct {
	Owner  O
	ch     *Channel[K, O]
	group  *Group[K, O]
	pos    int32 // in group.Subs
	linger bool
}

// Channel returns the channel that s is on, nil if it is on none.
func (s *Sub[K, O]) Channel() *Channel[K, O] { return s.ch }

// Group returns the group that s is in, nil if it is in none.
func (s *Sub[K, O]) Group() *Group[K, O] { return s.group }

// lingerTick is the precision of the end of lingering.
const lingerTick = time.Second

// New returns an empty index.
func New[K comparable, O any](cfg Config) *Index[K, O] {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Index[K, O]{
		cfg:      cfg,
		channels: make(map[string]*Channel[K, O]),
		linger:   wheel.New[*Channel[K, O]](lingerTick, 128, cfg.Now()),
		seen:     newIDs(cfg.IDTTL),
	}
}

// Len returns the number of channels, those that linger included.
func (x *Index[K, O]) Len() int { return len(x.channels) }

// Get returns the channel of that name, nil if nobody is subscribed to it.
func (x *Index[K, O]) Get(name string) *Channel[K, O] { return x.channels[name] }

// Subs returns the number of subscriptions of the channel.
func (c *Channel[K, O]) Subs() int { return c.subs }

// Last returns the id of the item that was sent last, if that had one.
func (c *Channel[K, O]) Last() (string, bool) { return c.last, c.hasLast }

// Forget forgets the id of the item that was sent last: the next one is
// delivered whatever it follows.
func (c *Channel[K, O]) Forget() { c.last, c.hasLast = "", false }

// ForgetAll forgets the ids of all items that were sent last.
func (x *Index[K, O]) ForgetAll() {
	for _, c := range x.channels {
		c.Forget()
	}
}

// Subscribe puts s, which must be on no channel, into the group key of the
// channel name. tag is called for the Tag of a group that begins. linger says
// that the channel outlives the subscription by Config.Linger, however many
// others come and go meanwhile. It reports whether the channel was not
// subscribed to before.
func (x *Index[K, O]) Subscribe(s *Sub[K, O], name string, key K, linger bool, tag func() string) (first bool) {
	c := x.channels[name]
	if c == nil {
		first = true
		c = &Channel[K, O]{Name: name}
		c.timer.Owner = c
		x.channels[name] = c
		if x.cfg.Started != nil {
			x.cfg.Started(name)
		}
	}
	g := c.group(key)
	if g == nil {
		g = &Group[K, O]{Key: key, Tag: tag()}
		c.Groups = append(c.Groups, g)
	}
	s.ch, s.group, s.pos, s.linger = c, g, int32(len(g.Subs)), linger
	g.Subs = append(g.Subs, s)
	c.subs++
	if linger {
		c.lingerer++
	}
	return first
}

// group looks a group up. A channel has few: kinds of subscriber times peers.
func (c *Channel[K, O]) group(key K) *Group[K, O] {
	for _, g := range c.Groups {
		if g.Key == key {
			return g
		}
	}
	return nil
}

// Unsubscribe takes s off its channel, if it is on one.
func (x *Index[K, O]) Unsubscribe(s *Sub[K, O]) {
	c, g := s.ch, s.group
	if c == nil {
		return
	}
	lastPos := len(g.Subs) - 1
	moved := g.Subs[lastPos]
	g.Subs[s.pos], moved.pos = moved, s.pos
	g.Subs[lastPos] = nil
	g.Subs = g.Subs[:lastPos]
	if lastPos == 0 {
		for i := range c.Groups {
			if c.Groups[i] == g {
				c.Groups = append(c.Groups[:i:i], c.Groups[i+1:]...) // a copy: the caller may be reading the old list
				break
			}
		}
	}
	s.ch, s.group = nil, nil
	c.subs--
	if s.linger {
		c.lingerer--
	}
	if s.linger && c.lingerer == 0 && x.cfg.Linger > 0 {
		x.linger.Set(&c.timer, x.cfg.Now().Add(x.cfg.Linger))
	}
	if c.subs == 0 && !c.timer.Active() {
		x.end(c)
	}
}

// end removes a channel. What it knew of its items is of no use any more: while
// nobody was subscribed, items may have passed that it did not see.
func (x *Index[K, O]) end(c *Channel[K, O]) {
	delete(x.channels, c.Name)
	c.ended = true
	for _, p := range c.early {
		x.drop(p)
	}
	c.early = nil
	if x.cfg.Ended != nil {
		x.cfg.Ended(c.Name)
	}
}

// Names returns the names of all channels.
func (x *Index[K, O]) Names() iter.Seq[string] { return maps.Keys(x.channels) }
