package modcache

import (
	"bytes"
	"fmt"
	"sync"
)

// source is the bytes that a flight works on. They belong to the caller who started
// it, who may leave before it ends and do with them as he likes.
type source struct {
	sum Fingerprint

	mu    sync.Mutex
	wasm  []byte // guarded by mu
	owned bool   // wasm is a copy of ours; guarded by mu
	draft *draft // made ahead, or nil; guarded by mu

	check sync.Once
	err   error // set by check
}

// size returns the length of the module.
func (s *source) size() (n int) {
	s.read(func(wasm []byte) { n = len(wasm) })
	return n
}

// read lends the bytes to f, which must not keep them. Nobody else gets at them
// meanwhile.
func (s *source) read(f func(wasm []byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.wasm)
}

// own returns bytes that nobody changes, having copied them if need be. The
// caller's own are not used from here on.
func (s *source) own() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.owned {
		s.wasm, s.owned = bytes.Clone(s.wasm), true
	}
	return s.wasm
}

// sound is own, or [errModified] if the copy isn't what was fingerprinted.
func (s *source) sound() ([]byte, error) {
	wasm := s.own()
	s.check.Do(func() {
		if Sum(wasm) != s.sum {
			s.err = fmt.Errorf("%w: module %v", errModified, s.sum)
		}
	})
	return wasm, s.err
}
