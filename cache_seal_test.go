package modcache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// A bit that flips in the memory of a store after an artifact was used is found before
// wazero gets it, wherever it is.
func TestCacheFindsBitsThatFlipAfterTheFirstUse(t *testing.T) {
	needsCompiler(t)
	for functions, flips := range map[int]int{4: 40, largeModule: 4} {
		wasm := wasmtest.Sum(functions, 0)
		for _, w := range ways {
			t.Run(fmt.Sprint(w.Name, functions), func(t *testing.T) {
				seen := &witness{}
				store := modcache.NewMemory(nil)
				open := func() *modcache.Cache {
					return newCache(t, store, seen.Options(modcache.Options{Retain: -1}))
				}
				want, err := w.Run(open(), wasm)
				require.NoError(t, err)
				key := seen.Keys()[0]
				for i := range flips {
					a, ok, err := store.Get(bg, key)
					require.NoError(t, err)
					require.True(t, ok)
					require.Equal(t, functions == largeModule, a.Size() > 256<<10)
					got, err := w.Run(open(), wasm) // which checks it once
					require.NoError(t, err)
					require.Equal(t, want, got)

					b, err := a.Bytes()
					require.NoError(t, err)
					before := len(seen.Saw(modcache.EventCorrupt))
					at := i * (len(b) - 1) / (flips - 1)
					b[at] ^= 1 << (i % 8)
					got, err = w.Run(open(), wasm)
					require.NoError(t, err)
					require.Equal(t, want, got)
					require.Len(t, seen.Saw(modcache.EventCorrupt), before+1, "byte %d", at)
				}
			})
		}
	}
}

// rereading is the source of an artifact, one byte of which is another one whenever it is read again.
type rereading struct {
	*bytes.Reader
	at   int64
	seen atomic.Bool
}

func (f *rereading) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.Reader.ReadAt(p, off)
	if i := f.at - off; i >= 0 && i < int64(n) && f.seen.Swap(true) {
		p[i] ^= 0x10
	}
	return n, err
}

// What was verified is what is used. Nothing is read a second time for that, but the beginning of what is large, which is compared.
func TestCacheUsesWhatItHasVerified(t *testing.T) {
	needsCompiler(t)
	for functions, step := range map[int]int{4: 1, largeModule: 30_000} {
		wasm := wasmtest.Sum(functions, 0)
		for _, w := range ways {
			t.Run(fmt.Sprint(w.Name, functions), func(t *testing.T) {
				store := &storetest.Fake{}
				want, err := w.Run(newCache(t, store, nil), wasm)
				require.NoError(t, err)
				key := store.Keys()[0]
				a := store.Entry(key)
				b, err := a.Bytes()
				require.NoError(t, err)
				for at := 0; at < len(b)-1; at += step { // the last one is read before, to find that it is there
					store.OnGet = func(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
						return modcache.NewArtifactFrom(&rereading{Reader: bytes.NewReader(b), at: int64(at)}, int64(len(b)), a.Info()), true, nil
					}
					seen := &witness{}
					got, err := w.Run(newCache(t, store, seen.Options(modcache.Options{})), wasm)
					require.NoError(t, err)
					require.Equal(t, want, got)
					if functions != largeModule {
						require.Empty(t, seen.Saw(modcache.EventCorrupt), "byte %d", at)
					}
				}
			})
		}
	}
}

// largeModule is how many functions of [wasmtest.Sum] have code that isn't copied before it is verified.
const largeModule = 3000

// hugeStore has a huge artifact under every key, which can be read.
type hugeStore struct {
	storetest.Fake
	size   int64
	head   []byte // and zeros behind it
	engine string
	most   atomic.Int64 // that somebody asked for at once
}

func (s *hugeStore) ReadAt(p []byte, off int64) (int, error) {
	if n := int64(len(p)); n > s.most.Load() {
		s.most.Store(n)
	}
	if len(p) > 1<<20 {
		return 0, errors.New("too much to try")
	}
	clear(p)
	copy(p, s.head[min(off, int64(len(s.head))):])
	return len(p), nil
}

func (s *hugeStore) Get(context.Context, modcache.Key) (*modcache.Artifact, bool, error) {
	return modcache.NewArtifactFrom(s, s.size, modcache.Info{Engine: s.engine}), true, nil
}

// announcing returns the head of an entry of wazero's that says that its code has so many bytes.
func announcing(entry []byte, code uint64) []byte {
	const magic = 6
	functions := magic + 1 + int(entry[magic]) // behind a version with its length
	length := functions + 4 + 8*int(binary.LittleEndian.Uint32(entry[functions:]))
	return binary.LittleEndian.AppendUint64(slices.Clone(entry[:length]), code)
}

// Nothing is allocated for what a store claims and no module can need, nor for what is plausible, but not sealed.
func TestCacheRefusesAnArtifactOf60GiB(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(4, 0)
	for _, size := range []int64{60 << 30, 65 << 20, math.MinInt64} {
		for _, layered := range []bool{false, true} {
			for _, w := range ways {
				t.Run(fmt.Sprint(w.Name, size, layered), func(t *testing.T) {
					sound := &storetest.Fake{}
					_, err := w.Run(newCache(t, sound, nil), wasm)
					require.NoError(t, err)
					head, err := sound.Entry(sound.Keys()[0]).Bytes()
					require.NoError(t, err)
					seen, store := &witness{}, &hugeStore{size: size, head: announcing(head, 64<<20)}
					var s modcache.Store = store
					if layered {
						l := modcache.NewLayered(&modcache.LayeredOptions{QueueBytes: -1},
							modcache.Layer{Store: &storetest.Fake{}}, modcache.Layer{Store: store, Write: modcache.WriteNever})
						defer l.Close()
						s = l
					}
					c := newCache(t, s, seen.Options(modcache.Options{}))
					store.engine = c.EngineID()
					_, err = w.Run(c, wasm)
					require.NoError(t, err)
					require.NotEmpty(t, seen.Saw(modcache.EventCorrupt))
					require.NoError(t, c.Flush(bg))
					if w.Name == "Runtime" && !layered { // who copies it into the first layer reads it, a little at a time
						require.Zero(t, store.most.Load(), "a Runtime knows that no module of that size needs it")
					}
					require.LessOrEqual(t, store.most.Load(), int64(1<<20))
				})
			}
		}
	}
}

// The drop-in counts the compiles that it can see.
func TestCacheDropInCountsCompiles(t *testing.T) {
	needsCompiler(t)
	store := modcache.NewMemory(nil)
	for _, want := range []uint64{1, 0} {
		c := newCache(t, store, nil)
		_, err := ways[0].Run(c, wasmtest.Sum(4, 0))
		require.NoError(t, err)
		require.Equal(t, want, c.Metrics().Compiles)
	}
}

// TestCacheOverLayeredKeepsNoLies has a store mix up two entries below a Disk: what it
// returns must not get into the Disk, which would vouch for it from then on.
func TestCacheOverLayeredKeepsNoLies(t *testing.T) {
	needsCompiler(t)
	modules := [][]byte{wasmtest.Sum(2000, 1), wasmtest.Sum(2000, 2)} // of one size
	for _, w := range ways {
		t.Run(w.Name, func(t *testing.T) {
			lying := &storetest.Fake{}
			want := make([]uint64, len(modules))
			for i, wasm := range modules {
				var err error
				want[i], err = w.Run(newCache(t, lying, &modcache.Options{Retain: -1, ExactKeys: true}), wasm)
				require.NoError(t, err)
			}
			require.NotEqual(t, want[0], want[1])
			keys := lying.Keys()
			require.Len(t, keys, 2)
			a, b := lying.Entry(keys[0]), lying.Entry(keys[1])
			lying.Set(keys[0], b)
			lying.Set(keys[1], a)

			dir := t.TempDir()
			run := func(s modcache.Store, o modcache.Options) {
				o.Retain, o.ExactKeys = -1, true
				c := newCache(t, s, &o)
				for range 2 {
					for i, wasm := range modules {
						got, err := w.Run(c, wasm)
						require.NoError(t, err)
						require.Equal(t, want[i], got)
					}
				}
			}
			d, err := modcache.OpenDisk(dir, nil)
			require.NoError(t, err)
			l := modcache.NewLayered(nil, modcache.Layer{Store: d}, modcache.Layer{Store: lying})
			run(l, modcache.Options{ReadOnly: true})
			require.NoError(t, l.Flush(bg)) // which waits for promotions
			run(d, modcache.Options{})
			require.NoError(t, l.Close())
			require.NoError(t, d.Close())
		})
	}
}
