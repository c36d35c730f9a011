package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/exampletest"
	"github.com/modcache/modcache/modcachetest"
)

// TestStore is all that a store of yours needs to be trusted. The options say what it
// promises, beyond the contract.
func TestStore(t *testing.T) {
	open := func(testing.TB) modcache.Store { return &store{bucket: new(inMemory)} }
	other := func(_ testing.TB, s modcache.Store) modcache.Store {
		return &store{bucket: s.(*store).bucket}
	}
	modcachetest.TestStore(t, open, &modcachetest.Options{
		Share: other, // many processes may use one bucket
		Damage: func(_ testing.TB, s modcache.Store, key modcache.Key) {
			b := s.(*store).bucket.(*inMemory)
			b.mu.Lock()
			defer b.mu.Unlock()
			v := b.values[key.String()]
			v[len(v)/2] ^= 1
		},
	})
}

func TestRun(t *testing.T) {
	exampletest.NeedCompiler(t)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, new(inMemory), exampletest.Module(100, 9)))
	require.Equal(t, "first: 1 compiles, 0 hits, 0 problems\nsecond: 0 compiles, 1 hits, 0 problems\n", out.String())
}

// Aliases give way to code, and to aliases that lead elsewhere.
func TestAliasesGiveWay(t *testing.T) {
	s := &store{bucket: new(inMemory)}
	for _, step := range []struct {
		module, stays byte
		size          int64
	}{{1, 1, 0}, {2, 2, 0}, {3, 3, 100}, {2, 3, 0}, {4, 3, 100}} {
		add := modcache.NewArtifact([]byte{step.module}, modcache.Info{Engine: "e", Module: modcache.Fingerprint{step.module}, WasmSize: step.size})
		require.NoError(t, s.Add(t.Context(), modcache.Key{}, add))
		there, ok, err := s.Get(t.Context(), modcache.Key{})
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, step.stays, there.Info().Module[0])
	}
}

// outage is a bucket that can't be reached.
type outage struct{}

var errOutage = errors.New("connection refused")

func (outage) Get(context.Context, string) ([]byte, bool, error) { return nil, false, errOutage }
func (outage) Put(context.Context, string, []byte) error         { return errOutage }
func (outage) Delete(context.Context, string) error              { return errOutage }

// A bucket that fails costs time and nothing else.
func TestOutage(t *testing.T) {
	exampletest.NeedCompiler(t)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, outage{}, exampletest.Module(100, 9)))
	require.Equal(t, "first: 1 compiles, 0 hits, 2 problems\nsecond: 1 compiles, 0 hits, 2 problems\n", out.String())
}

// FuzzDecode: no value, however damaged, is taken for an artifact of another key, or
// crashes.
func FuzzDecode(f *testing.F) {
	key := modcache.Key{1, 2, 3}
	good, err := encode(key, modcache.NewArtifact([]byte("machine code"), modcache.Info{Engine: "e"}))
	require.NoError(f, err)
	f.Add(good)
	f.Add(good[:10])
	f.Fuzz(func(t *testing.T, value []byte) {
		if a, err := decode(key, value); err == nil {
			again, err := encode(key, a)
			require.NoError(t, err)
			require.Equal(t, a.Size(), int64(len("machine code")))
			require.Equal(t, good, again)
		}
		_, err := decode(modcache.Key{}, value)
		require.Error(t, err)
	})
}
