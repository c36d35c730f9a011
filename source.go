package modcache

import (
	"bytes"
	"sync"
)

// source is the bytes that a flight works on. They belong to the caller who started
// it, who may leave before it ends and do with them as he likes.
type source struct {
	sum Fingerprint

	mu    sync.Mutex
	wasm  []byte // guarded by mu
	owned bool   // wasm is a copy of ours; guarded by mu
}

// read lends the bytes to f, which must be quick and not keep them.
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
