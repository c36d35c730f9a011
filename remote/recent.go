package remote

import (
	"sync"
	"time"

	"github.com/modcache/modcache"
)

// recent remembers keys for a while.
type recent struct {
	ttl time.Duration // 0 = not at all

	mu   sync.Mutex
	keys map[modcache.Key]time.Time // when they are forgotten
}

const (
	maxRecent   = 4096
	rememberBad = time.Hour
)

func (r *recent) add(key modcache.Key) {
	if r.ttl <= 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		r.keys = make(map[modcache.Key]time.Time)
	}
	if len(r.keys) >= maxRecent {
		for k, t := range r.keys {
			if now.After(t) || len(r.keys) >= maxRecent {
				delete(r.keys, k)
			}
		}
	}
	r.keys[key] = now.Add(r.ttl)
}

func (r *recent) has(key modcache.Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.keys[key]
	if ok && !time.Now().Before(t) {
		delete(r.keys, key)
		return false
	}
	return ok
}

func (r *recent) drop(key modcache.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, key)
}
