package main

import (
	"sync/atomic"

	"github.com/modcache/modcache"
)

// trouble is the first error that a store has reported since it was last cleared: a miss doesn't say why.
// Stores report from several goroutines at once.
type trouble struct{ first atomic.Pointer[error] }

// observe has to see the events of the store.
func (t *trouble) observe(e modcache.Event) {
	if e.Err != nil {
		t.first.CompareAndSwap(nil, &e.Err)
	}
}

func (t *trouble) clear() { t.first.Store(nil) }

func (t *trouble) err() error {
	if err := t.first.Load(); err != nil {
		return *err
	}
	return nil
}
