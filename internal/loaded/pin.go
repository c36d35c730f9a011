package loaded

import "weak"

// pins are the holds of one runtime's instances. An instance doesn't tell when it
// closes, so they are looked at, a few with each use of the books.
type pins struct {
	all  []*pin
	next int // where looking goes on
}

// pin is the hold of one instance.
type pin struct {
	o       *Owner
	at      int // in pins.all
	closed  func() bool
	release func()
}

// step is how many pins are looked at with each use of the books. An instance
// takes several of those, so that looking keeps up with any number of instances.
const step = 4

// Pin has an instance keep a hold, which release ends. watch is called at once, and returns
// what reports that the instance has closed; it calls collected if the garbage collector
// finds that before anybody asks. Without either, the hold ends with the runtime.
func (o *Owner) Pin(release func(), watch func(collected func()) (closed func() bool)) {
	p := &pin{o: o, release: release}
	// An instance reaches its runtime, and so must not be reached from what waits for its end.
	ref := weak.Make(p)
	p.closed = watch(func() {
		if p := ref.Value(); p != nil {
			p.end()
		}
	})
	o.lock()
	defer o.e.r.mu.Unlock()
	if o.closed {
		return // Close ends the hold
	}
	p.at = len(o.pins.all)
	o.pins.all = append(o.pins.all, p)
	if len(o.pins.all) == 1 {
		o.e.r.pinned[o.ledger] = struct{}{}
	}
}

// end releases the hold now.
func (p *pin) end() {
	r := p.o.e.r
	r.mu.Lock()
	pinned := p.at < len(p.o.pins.all) && p.o.pins.all[p.at] == p
	if pinned {
		p.o.unpin(p)
	}
	r.mu.Unlock()
	if pinned {
		p.release()
	}
}

// unpin takes p out of the books. The lock is held.
func (o *Owner) unpin(p *pin) {
	all := o.pins.all
	last := len(all) - 1
	all[p.at] = all[last]
	all[p.at].at = p.at
	all[last] = nil
	o.pins.all = all[:last]
	if last == 0 {
		delete(o.e.r.pinned, o.ledger)
	}
}

// ended takes those whose instances are closed out of the next n pins. The lock is held.
func (o *Owner) ended(n int) (ended []*pin) {
	p := &o.pins
	for range min(n, len(p.all)) {
		if p.next >= len(p.all) {
			p.next = 0
		}
		if pin := p.all[p.next]; pin.closed() {
			o.unpin(pin) // another takes its place
			ended = append(ended, pin)
		} else {
			p.next++
		}
	}
	return ended
}

// lock takes the lock, once the holds of instances that were found closed are released.
func (o *Owner) lock() {
	for {
		o.e.r.mu.Lock()
		ended := o.ended(step)
		if len(ended) == 0 {
			return
		}
		o.e.r.mu.Unlock()
		for _, p := range ended {
			p.release()
		}
	}
}

// Sweep releases holds of instances that are closed: a few, as each use of the books does.
func (m *Module) Sweep() {
	m.o.lock()
	m.o.e.r.mu.Unlock()
}

// releaseClosed releases the holds of all instances that are closed.
func (r *Registry) releaseClosed() {
	r.mu.Lock()
	var ended []*pin
	for l := range r.pinned {
		if o := l.owner.Value(); o != nil {
			ended = append(ended, o.ended(len(o.pins.all))...)
		}
	}
	r.mu.Unlock()
	for _, p := range ended {
		p.release()
	}
}
