package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/modcache/modcache"
)

// bucket is what you have: Redis, bbolt, an object store, a table of a database. Its
// methods may be called from several goroutines at once.
type bucket interface {
	Get(ctx context.Context, name string) (value []byte, ok bool, err error)
	Put(ctx context.Context, name string, value []byte) error
	Delete(ctx context.Context, name string) error
}

// store is a modcache.Store over a bucket.
type store struct {
	bucket                                      bucket
	hits, misses, adds, rejected, corrupt, errs atomic.Uint64
}

var _ modcache.Store = (*store)(nil)

func (s *store) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	value, ok, err := s.bucket.Get(ctx, key.String())
	if err != nil {
		s.misses.Add(1)
		s.errs.Add(1)
		return nil, false, fmt.Errorf("get %v: %w", key, err)
	}
	if !ok {
		s.misses.Add(1)
		return nil, false, nil
	}
	a, err := decode(key, value)
	if err != nil {
		// Damage is a miss, and goes away. If it can't be deleted, it is found again.
		s.misses.Add(1)
		s.corrupt.Add(1)
		_ = s.bucket.Delete(ctx, key.String())
		return nil, false, nil
	}
	s.hits.Add(1)
	return a, true, nil
}

func (s *store) Add(ctx context.Context, key modcache.Key, added *modcache.Artifact) error {
	// A sound entry stays. It costs a read, which is little beside the compile that led
	// here; a bucket that puts only what is absent would save it, but has to replace
	// what is damaged, and aliases. Of two Adds at once, the later may win: both are sound.
	present, ok, err := s.bucket.Get(ctx, key.String())
	if err == nil && ok {
		if a, err := decode(key, present); err == nil && !givesWay(a.Info(), added.Info()) {
			return nil
		}
	}
	value, err := encode(key, added)
	if err == nil {
		err = s.bucket.Put(ctx, key.String(), value)
	}
	if err != nil {
		s.rejected.Add(1)
		s.errs.Add(1)
		return fmt.Errorf("add %v: %w", key, err)
	}
	s.adds.Add(1)
	return nil
}

// givesWay is true for an alias, if code is added, or an alias that leads elsewhere.
func givesWay(present, added modcache.Info) bool {
	alias := present.Module != (modcache.Fingerprint{}) && present.WasmSize == 0
	return alias && (added.WasmSize > 0 || added.Module != present.Module)
}

func (s *store) Delete(ctx context.Context, key modcache.Key) error {
	return s.bucket.Delete(ctx, key.String())
}

// Flush has nothing to do: this bucket keeps things no longer than the process lives.
// One that buffers writes would be flushed here.
func (s *store) Flush(ctx context.Context) error { return ctx.Err() }

func (s *store) Metrics() modcache.Metrics {
	m := modcache.Metrics{
		Hits: s.hits.Load(), Misses: s.misses.Load(), Adds: s.adds.Load(),
		RejectedAdds: s.rejected.Load(), Corrupt: s.corrupt.Load(), Errors: s.errs.Load(),
	}
	m.Lookups = m.Hits + m.Misses
	return m
}

// A value is a checksum of all that follows and of the key, the length of the
// Info, the Info in JSON, and the code. The checksum finds damage and mix-ups. It
// doesn't keep out somebody who may write to the bucket: for that, use a MAC
// (crypto/hmac) with a secret that only your programs have.
const header = sha256.Size + 4

func encode(key modcache.Key, a *modcache.Artifact) ([]byte, error) {
	info, err := json.Marshal(a.Info())
	if err != nil {
		return nil, err
	}
	value := make([]byte, header, header+int64(len(info))+a.Size())
	binary.LittleEndian.PutUint32(value[sha256.Size:], uint32(len(info)))
	b := bytes.NewBuffer(append(value, info...))
	if _, err := a.WriteTo(b); err != nil {
		return nil, err
	}
	value = b.Bytes()
	sum := checksum(key, value)
	copy(value, sum[:])
	return value, nil
}

func decode(key modcache.Key, value []byte) (*modcache.Artifact, error) {
	if len(value) < header || checksum(key, value) != [sha256.Size]byte(value) {
		return nil, modcache.ErrCorrupt
	}
	n := binary.LittleEndian.Uint32(value[sha256.Size:])
	rest := value[header:]
	if uint64(n) > uint64(len(rest)) {
		return nil, modcache.ErrCorrupt
	}
	var info modcache.Info
	if err := json.Unmarshal(rest[:n], &info); err != nil {
		return nil, modcache.ErrCorrupt
	}
	return modcache.NewArtifact(rest[n:], info), nil
}

func checksum(key modcache.Key, value []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(key[:])
	h.Write(value[sha256.Size:])
	return [sha256.Size]byte(h.Sum(nil))
}
