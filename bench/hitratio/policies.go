package main

import (
	"container/list"

	"github.com/modcache/modcache"
)

// The policies in this file are plain models, written to be compared with and
// not to be used: one goroutine, lists, and exact counts where the real thing
// estimates, which is in their favour.

type resident struct {
	*module
	hits  int
	where *list.List
}

// base is what the list policies share.
type base struct {
	max, used int64
	at        map[modcache.Key]*list.Element
}

func newBase(max int64) base        { return base{max: max, at: map[modcache.Key]*list.Element{}} }
func (b *base) close()              {}
func get(e *list.Element) *resident { return e.Value.(*resident) }

func (b *base) push(l *list.List, r *resident) {
	r.where = l
	b.at[r.key] = l.PushFront(r)
}

// held returns the bytes of what is there, and what is booked for it.
func (b *base) held() (sum, booked int64) {
	for _, e := range b.at {
		sum += get(e).size()
	}
	return sum, b.used
}

// evict removes e from the cache.
func (b *base) evict(e *list.Element) *resident {
	r := get(e)
	r.where.Remove(e)
	delete(b.at, r.key)
	b.used -= r.size()
	return r
}

type lru struct {
	base
	l *list.List
}

func newLRU(max int64) cache { return &lru{newBase(max), list.New()} }

func (c *lru) request(m *module) bool {
	if e := c.at[m.key]; e != nil {
		c.l.MoveToFront(e)
		return true
	}
	if m.size() > c.max {
		return false
	}
	for c.used+m.size() > c.max {
		c.evict(c.l.Back())
	}
	c.push(c.l, &resident{module: m})
	c.used += m.size()
	return false
}

type sieve struct {
	base
	l    *list.List
	hand *list.Element
}

func newSieve(max int64) cache { return &sieve{base: newBase(max), l: list.New()} }

func (c *sieve) request(m *module) bool {
	if e := c.at[m.key]; e != nil {
		get(e).hits = 1
		return true
	}
	if m.size() > c.max {
		return false
	}
	for c.used+m.size() > c.max {
		e := c.hand
		for e == nil || get(e).hits > 0 {
			if e == nil {
				e = c.l.Back()
				continue
			}
			get(e).hits = 0
			e = e.Prev()
		}
		c.hand = e.Prev()
		c.evict(e)
	}
	c.push(c.l, &resident{module: m})
	c.used += m.size()
	return false
}

// sharded splits a budget over caches of the same kind.
type sharded []cache

func newSharded(budget int64, n int, make_ func(int64) cache) cache {
	var s sharded
	for range n {
		s = append(s, make_(budget/int64(n)))
	}
	return s
}

func (s sharded) request(m *module) bool { return s[int(m.key[0])%len(s)].request(m) }
func (s sharded) close()                 {}

// s3fifo keeps a tenth of the bytes for newcomers, and ghosts for as many bytes
// as the budget.
type s3fifo struct {
	base
	small, main *list.List
	smallBytes  int64
	ghosts      lru
}

func newS3FIFO(max int64) cache {
	return &s3fifo{base: newBase(max), small: list.New(), main: list.New(), ghosts: lru{newBase(max), list.New()}}
}

func (c *s3fifo) request(m *module) bool {
	if e := c.at[m.key]; e != nil {
		get(e).hits = min(get(e).hits+1, 3)
		return true
	}
	if m.size() > c.max {
		return false
	}
	for c.used+m.size() > c.max {
		if c.smallBytes > c.max/10 || c.main.Len() == 0 {
			c.evictSmall()
		} else {
			c.evictMain()
		}
	}
	c.used += m.size()
	if g := c.ghosts.at[m.key]; g != nil {
		c.ghosts.evict(g)
		c.push(c.main, &resident{module: m})
	} else {
		c.push(c.small, &resident{module: m})
		c.smallBytes += m.size()
	}
	return false
}

func (c *s3fifo) evictSmall() {
	e := c.small.Back()
	r := get(e)
	c.smallBytes -= r.size()
	if r.hits > 0 {
		r.hits = 0
		c.small.Remove(e)
		c.push(c.main, r)
		return
	}
	c.evict(e)
	c.ghosts.request(r.module)
}

func (c *s3fifo) evictMain() {
	e := c.main.Back()
	if get(e).hits > 0 {
		get(e).hits--
		c.main.MoveToFront(e)
		return
	}
	c.evict(e)
}

// tinyLFU is W-TinyLFU that weighs frequency by compile time per byte: a window
// of 1 %, then a segmented LRU with four fifths protected. Counts are exact, and
// halved each time there were ten requests for each module held.
type tinyLFU struct {
	base
	window, probation, protected *list.List
	windowBytes, protectedBytes  int64
	count                        map[modcache.Key]float64
	requests                     int
}

func newTinyLFU(max int64) cache {
	return &tinyLFU{
		base: newBase(max), window: list.New(), probation: list.New(), protected: list.New(),
		count: map[modcache.Key]float64{},
	}
}

func (c *tinyLFU) worth(m *module) float64 { return c.count[m.key] * m.cost() / float64(m.size()) }

func (c *tinyLFU) request(m *module) bool {
	c.count[m.key] = min(c.count[m.key]+1, 15)
	if c.requests++; c.requests > 10*max(len(c.at), 100) {
		c.requests = 0
		for k, n := range c.count {
			if c.count[k] = n / 2; n < 1 {
				delete(c.count, k)
			}
		}
	}
	if e := c.at[m.key]; e != nil {
		r := get(e)
		switch r.where {
		case c.probation:
			c.probation.Remove(e)
			c.push(c.protected, r)
			c.protectedBytes += r.size()
			for c.protectedBytes > c.max*99/100*8/10 {
				e := c.protected.Back()
				r := get(e)
				c.protected.Remove(e)
				c.push(c.probation, r)
				c.protectedBytes -= r.size()
			}
		default:
			r.where.MoveToFront(e)
		}
		return true
	}
	if m.size() > c.max {
		return false
	}
	c.push(c.window, &resident{module: m})
	c.used += m.size()
	c.windowBytes += m.size()
	for c.windowBytes > c.max/100 {
		c.admit()
	}
	return false
}

// admit moves the last of the window to the main part, if it is worth more than
// what must go for it.
func (c *tinyLFU) admit() {
	e := c.window.Back()
	candidate := get(e)
	c.windowBytes -= candidate.size()
	for c.used-c.windowBytes > c.max*99/100 {
		victim := c.probation.Back()
		if victim == nil {
			victim = c.protected.Back()
		}
		if victim == nil || c.worth(candidate.module) <= c.worth(get(victim).module) {
			c.evict(e)
			return
		}
		if get(victim).where == c.protected {
			c.protectedBytes -= get(victim).size()
		}
		c.evict(victim)
	}
	c.window.Remove(e)
	c.push(c.probation, candidate)
}

// gdsf is GreedyDual-Size-Frequency: the lowest of clock + hits × cost ÷ size
// goes, and sets the clock.
type gdsf struct {
	base
	l     *list.List
	clock float64
	value map[modcache.Key]float64
}

func newGDSF(max int64) cache {
	return &gdsf{base: newBase(max), l: list.New(), value: map[modcache.Key]float64{}}
}

func (c *gdsf) touch(r *resident) {
	r.hits++
	c.value[r.key] = c.clock + float64(r.hits)*r.cost()/float64(r.size())
}

func (c *gdsf) request(m *module) bool {
	if e := c.at[m.key]; e != nil {
		c.touch(get(e))
		return true
	}
	if m.size() > c.max {
		return false
	}
	for c.used+m.size() > c.max {
		victim := c.l.Back()
		for e := victim.Prev(); e != nil; e = e.Prev() {
			if c.value[get(e).key] < c.value[get(victim).key] {
				victim = e
			}
		}
		c.clock = c.value[get(victim).key]
		delete(c.value, get(victim).key)
		c.evict(victim)
	}
	r := &resident{module: m}
	c.push(c.l, r)
	c.touch(r)
	c.used += m.size()
	return false
}
