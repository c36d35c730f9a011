package modcache_test

import (
	"errors"
	"testing"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
)

// Short names for what many tests use.
var (
	wazeroDir = cachetest.WazeroDir
	errorText = cachetest.ErrorText

	chainWasm, chainWant = cachetest.Chain, cachetest.ChainWant
	otherWasm, otherWant = cachetest.Other, cachetest.OtherWant

	errNothing = errors.New("must not be called")
)

const chainLen = cachetest.ChainLen

type flawedSource = storetest.Source

// filled returns a store with the code of chainWasm and otherWasm for one way in, and
// the key of chainWasm.
func filled(t testing.TB, w way) (s *tableStore, key modcache.Key, other tableEntry) {
	s = &tableStore{entries: map[modcache.Key]tableEntry{}}
	f, key, otherKey := cachetest.Filled(t, cachetest.Way{Name: w.name, Run: w.run})
	for _, k := range f.Keys() {
		b, _ := f.Entry(k).Bytes()
		s.entries[k] = tableEntry{b, f.Entry(k).Info()}
	}
	return s, key, s.entries[otherKey]
}
