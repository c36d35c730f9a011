// Package watchers is a list of functions that want to know what happens.
package watchers

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/modcache/modcache/internal/contain"
)

// List is empty at first. Its methods may be called from several goroutines at once.
type List[E any] struct {
	mu  sync.Mutex // held to change all
	all atomic.Pointer[[]*func(E)]
}

// Add adds f to the list, until stop is called. A Tell that is under way may still call it.
func (l *List[E]) Add(f func(E)) (stop func()) {
	l.change(func(all []*func(E)) []*func(E) { return append(all, &f) })
	return func() {
		l.change(func(all []*func(E)) []*func(E) {
			return slices.DeleteFunc(all, func(g *func(E)) bool { return g == &f })
		})
	}
}

func (l *List[E]) change(by func([]*func(E)) []*func(E)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := by(slices.Clone(l.snapshot()))
	l.all.Store(&all)
}

func (l *List[E]) snapshot() []*func(E) {
	if all := l.all.Load(); all != nil {
		return *all
	}
	return nil
}

// Tell calls all functions in the list, and survives each.
func (l *List[E]) Tell(e E) {
	for _, f := range l.snapshot() {
		_ = contain.Apart(func() error { (*f)(e); return nil })
	}
}
