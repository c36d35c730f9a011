package modcache_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
)

// memoryStore is what Memory and Local have in common.
type memoryStore interface {
	modcache.Store
	Resize(maxBytes int64)
	EvictionReports() []modcache.EvictionReport
}

// eachMemory runs a test on a Memory and on a Local.
func eachMemory(t *testing.T, f func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore)) {
	t.Run("Memory", func(t *testing.T) {
		f(t, func(o *modcache.MemoryOptions) memoryStore { return modcache.NewMemory(o) })
	})
	t.Run("Local", func(t *testing.T) {
		f(t, func(o *modcache.MemoryOptions) memoryStore { return modcache.NewLocal(o) })
	})
}

// memKey returns a key that differs from others in its last bytes only.
func memKey(n int) (k modcache.Key) {
	binary.BigEndian.PutUint64(k[24:], uint64(n))
	return k
}

// memCollidingKey returns keys that share a hash in the index, for any n.
func memCollidingKey(n int) (k modcache.Key) {
	binary.LittleEndian.PutUint64(k[0:], bits.RotateLeft64(uint64(n), 16))
	binary.LittleEndian.PutUint64(k[8:], uint64(n))
	return k
}

func memArtifact(size int) *modcache.Artifact {
	return modcache.NewArtifact(make([]byte, size), modcache.Info{})
}

func memAdd(t testing.TB, s modcache.Store, k modcache.Key, a *modcache.Artifact) {
	t.Helper()
	require.NoError(t, s.Add(context.Background(), k, a))
}

func memHas(t testing.TB, s modcache.Store, k modcache.Key) bool {
	t.Helper()
	_, ok, err := s.Get(context.Background(), k)
	require.NoError(t, err)
	return ok
}

func TestMemorySharesTheArtifact(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		ctx := context.Background()
		s := make(nil)
		a := modcache.NewArtifact([]byte("code"), modcache.Info{Engine: "e"})
		memAdd(t, s, memKey(1), a)
		memAdd(t, s, memKey(1), memArtifact(9)) // present: a no-op
		for range 2 {
			got, ok, err := s.Get(ctx, memKey(1))
			require.NoError(t, err)
			require.True(t, ok)
			require.Same(t, a, got)
			require.NoError(t, got.Close())
		}
		require.False(t, memHas(t, s, memKey(2)))
		require.NoError(t, s.Delete(ctx, memKey(1)))
		require.NoError(t, s.Delete(ctx, memKey(1)))
		require.False(t, memHas(t, s, memKey(1)))
		require.NoError(t, s.Flush(ctx))
		require.Equal(t, modcache.Metrics{Lookups: 4, Hits: 2, Misses: 2, Adds: 1, Flushes: 1}, s.Metrics())
		require.EqualValues(t, 500_000, s.Metrics().HitRatePPM())
	})
}

func TestMemoryBudgetEdges(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		s := make(&modcache.MemoryOptions{MaxBytes: 100})
		memAdd(t, s, memKey(0), memArtifact(0))
		memAdd(t, s, memKey(1), memArtifact(60))
		memAdd(t, s, memKey(2), memArtifact(40))
		require.True(t, memHas(t, s, memKey(0)) && memHas(t, s, memKey(1)) && memHas(t, s, memKey(2)))

		err := s.Add(context.Background(), memKey(3), memArtifact(101))
		require.ErrorIs(t, err, modcache.ErrTooLarge)
		require.ErrorContains(t, err, "add "+memKey(3).String()+": artifact is too large: 101 bytes, at most 100 fit")
		require.EqualValues(t, 3, s.Metrics().Entries, "what doesn't fit evicts nothing")
		require.EqualValues(t, 1, s.Metrics().RejectedAdds)
		require.NoError(t, s.Add(context.Background(), memKey(2), memArtifact(101)), "present: not looked at")

		memAdd(t, s, memKey(4), memArtifact(100)) // exactly the budget
		require.True(t, memHas(t, s, memKey(4)))
		m := s.Metrics()
		require.EqualValues(t, 100, m.Bytes)
		require.EqualValues(t, 100, m.EvictedBytes)
		memAdd(t, s, memKey(5), memArtifact(0)) // takes no room
		require.True(t, memHas(t, s, memKey(4)) && memHas(t, s, memKey(5)))
	})
}

func TestMemoryOff(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		resized := make(nil)
		memAdd(t, resized, memKey(7), memArtifact(0))
		resized.Resize(0)
		for name, s := range map[string]memoryStore{
			"bytes":   make(&modcache.MemoryOptions{MaxBytes: -1}),
			"entries": make(&modcache.MemoryOptions{MaxEntries: -1}),
			"resized": resized,
		} {
			t.Run(name, func(t *testing.T) {
				memAdd(t, s, memKey(1), memArtifact(10))
				memAdd(t, s, memKey(2), memArtifact(0))
				memAdd(t, s, memKey(3), modcache.NewArtifactFrom(strings.NewReader("code"), 4, modcache.Info{}))
				for i := range 9 {
					require.False(t, memHas(t, s, memKey(i)))
				}
				m := s.Metrics()
				require.Zero(t, m.Entries)
				require.Zero(t, m.Bytes)
				require.EqualValues(t, 3, m.RejectedAdds)
			})
		}
		resized.Resize(10)
		memAdd(t, resized, memKey(1), memArtifact(10))
		require.True(t, memHas(t, resized, memKey(1)))
	})
}

func TestMemoryResize(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		s := make(&modcache.MemoryOptions{MaxBytes: 100})
		for i := range 10 {
			memAdd(t, s, memKey(i), memArtifact(10))
		}
		s.Resize(35)
		require.EqualValues(t, 30, s.Metrics().Bytes)
		require.EqualValues(t, 7, s.Metrics().Evictions)
		r := s.EvictionReports()
		require.Len(t, r, 1)
		require.Equal(t, modcache.ReasonResized, r[0].Reason)
		require.EqualValues(t, 70, r[0].Bytes)
		require.ErrorIs(t, s.Add(context.Background(), memKey(99), memArtifact(36)), modcache.ErrTooLarge)
		s.Resize(1000)
		for i := range 50 {
			memAdd(t, s, memKey(i), memArtifact(10))
		}
		require.EqualValues(t, 500, s.Metrics().Bytes)
	})
}

func TestMemoryRefusesInfoBeyondItsLimits(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		s := make(nil)
		info := modcache.Info{Engine: strings.Repeat("e", 255)}
		memAdd(t, s, memKey(1), modcache.NewArtifact(nil, info))
		info.Engine += "e"
		for _, a := range []*modcache.Artifact{modcache.NewArtifact(nil, info), modcache.NewArtifactFrom(strings.NewReader("code"), 4, info)} {
			err := s.Add(context.Background(), memKey(2), a)
			var e *modcache.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, memKey(2), e.Key)
			require.ErrorContains(t, err, "engine identity of 256 bytes, at most 255 fit")
		}
		require.EqualValues(t, 1, s.Metrics().Entries)
		require.EqualValues(t, 2, s.Metrics().RejectedAdds)
	})
}

// memFile is a file that fails when it is told to.
type memFile struct {
	*strings.Reader
	err error
}

func (r *memFile) ReadAt(p []byte, off int64) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.Reader.ReadAt(p, off)
}

func TestMemoryLoadsFiles(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		ctx := context.Background()
		info := modcache.Info{Engine: "e", WasmSize: 3, CompileTime: time.Second}
		s := make(&modcache.MemoryOptions{MaxBytes: 100, Name: "L1"})
		file := modcache.NewArtifactFrom(strings.NewReader("code"), 4, info)
		memAdd(t, s, memKey(1), file)
		require.NoError(t, file.Close())
		got, ok, _ := s.Get(ctx, memKey(1))
		require.True(t, ok && got.InMemory())
		require.Equal(t, info, got.Info())
		b, err := got.Bytes()
		require.NoError(t, err)
		require.Equal(t, "code", string(b))

		broken := &memFile{strings.NewReader("code"), fmt.Errorf("block 0: %w", modcache.ErrCorrupt)}
		err = s.Add(ctx, memKey(2), modcache.NewArtifactFrom(broken, 4, info))
		require.ErrorIs(t, err, modcache.ErrCorrupt)
		require.EqualError(t, err, "modcache: L1: add "+memKey(2).String()+": block 0: corrupt entry")
		broken.err = errors.New("disk on fire")
		require.ErrorIs(t, s.Add(ctx, memKey(2), modcache.NewArtifactFrom(broken, 4, info)), broken.err)
		require.Error(t, s.Add(ctx, memKey(2), modcache.NewArtifactFrom(strings.NewReader("cod"), 4, info)), "short")
		require.NoError(t, s.Add(ctx, memKey(1), modcache.NewArtifactFrom(broken, 4, info)), "present: not read")
		err = s.Add(ctx, memKey(2), modcache.NewArtifactFrom(broken, 101, info))
		require.ErrorIs(t, err, modcache.ErrTooLarge, "too large: not read")

		gone, cancel := context.WithCancel(ctx)
		cancel()
		err = s.Add(gone, memKey(2), modcache.NewArtifactFrom(strings.NewReader("code"), 4, info))
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, s.Add(gone, memKey(3), memArtifact(1)), "nothing to wait for")
		require.Equal(t, modcache.Metrics{Lookups: 1, Hits: 1, Adds: 2, RejectedAdds: 5, Corrupt: 1, Errors: 3, Entries: 2, Bytes: 5}, s.Metrics())
	})
}

func TestMemoryReportsReasons(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		clock := time.Unix(1000, 0)
		var events []modcache.Event
		var s memoryStore
		s = make(&modcache.MemoryOptions{
			MaxBytes: 100, MaxEntries: 3,
			Now: func() time.Time { return clock },
			OnEvent: func(e modcache.Event) {
				events = append(events, e)
				s.Metrics() // observers may use the store
				panic("a careless observer")
			},
		})
		tick := func() { clock = clock.Add(time.Second) }
		memAdd(t, s, memKey(1), memArtifact(10))
		tick()
		memAdd(t, s, memKey(2), memArtifact(20))
		memAdd(t, s, memKey(3), memArtifact(30))
		tick()
		memAdd(t, s, memKey(4), memArtifact(30)) // a fourth one: entry limit, drops 1
		memAdd(t, s, memKey(5), memArtifact(50)) // a fourth one, and 130 bytes: both, drops 2; then bytes, drops 3
		tick()
		require.Error(t, s.Add(context.Background(), memKey(6), memArtifact(101)))
		require.NoError(t, s.Delete(context.Background(), memKey(4)))
		s.Resize(49)

		layer := strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", s), "*modcache."))
		evicted := func(r modcache.Reason, k int, size int64, age time.Duration) modcache.Event {
			return modcache.Event{Kind: modcache.EventEvicted, Reason: r, Key: memKey(k), Layer: layer, Bytes: size, Duration: age}
		}
		require.Equal(t, []modcache.Event{
			evicted(modcache.ReasonEntryLimit, 1, 10, 2*time.Second),
			evicted(modcache.ReasonBoth, 2, 20, time.Second),
			evicted(modcache.ReasonByteLimit, 3, 30, time.Second),
			evicted(modcache.ReasonRejected, 6, 101, 0),
			evicted(modcache.ReasonDeleted, 4, 30, time.Second),
			evicted(modcache.ReasonResized, 5, 50, time.Second),
		}, events)
		reports := map[modcache.Reason]modcache.EvictionReport{}
		for _, r := range s.EvictionReports() {
			reports[r.Reason] = r
		}
		require.Len(t, reports, len(events))
		for _, e := range events {
			at := reports[e.Reason].First
			require.Equal(t, modcache.EvictionReport{
				Reason: e.Reason, Entries: 1, Bytes: uint64(e.Bytes), First: at, Last: at,
				MinAge: e.Duration, MaxAge: e.Duration, MeanAge: e.Duration,
			}, reports[e.Reason])
		}
		require.True(t, reports[modcache.ReasonEntryLimit].First.Equal(time.Unix(1002, 0)))
		b, err := json.Marshal(reports[modcache.ReasonByteLimit])
		require.NoError(t, err)
		require.Contains(t, string(b), `"reason":"byte limit","entries":1,"bytes":30,`)
		require.Contains(t, string(b), `"mean_age_ns":1000000000`)
		require.EqualValues(t, 4, s.Metrics().Evictions)
		require.EqualValues(t, 110, s.Metrics().EvictedBytes)
	})
}

func TestMemoryReportAges(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		clock := time.Unix(0, 0)
		s := make(&modcache.MemoryOptions{Now: func() time.Time { return clock }})
		century := 100 * 365 * 24 * time.Hour // the sum of these ages overflows a Duration
		for i := range 11 {
			clock = time.Unix(0, 0)
			memAdd(t, s, memKey(i), memArtifact(i))
			clock = clock.Add(century + time.Duration(i))
			require.NoError(t, s.Delete(context.Background(), memKey(i)))
		}
		clock = time.Unix(0, 0)
		r := s.EvictionReports()
		require.Len(t, r, 1)
		require.True(t, r[0].First.Equal(clock.Add(century)) && r[0].Last.Equal(clock.Add(century+10)))
		require.Equal(t, []time.Duration{century, century + 10, century + 5}, []time.Duration{r[0].MinAge, r[0].MaxAge, r[0].MeanAge})
		require.EqualValues(t, 55, r[0].Bytes)

		memAdd(t, s, memKey(9), memArtifact(0))
		clock = clock.Add(-time.Hour) // a clock that goes back makes no negative age
		require.NoError(t, s.Delete(context.Background(), memKey(9)))
		require.Zero(t, s.EvictionReports()[0].MinAge)
	})
}

func TestMemoryDetectsWrites(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		var corrupt []modcache.Event
		s := make(&modcache.MemoryOptions{DetectWrites: true, OnEvent: func(e modcache.Event) {
			if e.Kind == modcache.EventCorrupt {
				corrupt = append(corrupt, e)
			}
		}})
		for i := range 3 {
			memAdd(t, s, memKey(i), memArtifact(10))
			require.True(t, memHas(t, s, memKey(i)))
		}
		a, _, _ := s.Get(context.Background(), memKey(1))
		b, _ := a.Bytes()
		b[3] = 1
		require.False(t, memHas(t, s, memKey(1)))
		require.True(t, memHas(t, s, memKey(0)))
		require.Len(t, corrupt, 1)
		require.Equal(t, memKey(1), corrupt[0].Key)
		require.ErrorIs(t, corrupt[0].Err, modcache.ErrCorrupt)

		a, _, _ = s.Get(context.Background(), memKey(2))
		b, _ = a.Bytes()
		b[0]++
		require.NoError(t, s.Delete(context.Background(), memKey(2)))
		require.Len(t, corrupt, 2, "leaving is checked too")
		require.EqualValues(t, 2, s.Metrics().Corrupt)
		require.EqualValues(t, 10, s.Metrics().Bytes)
	})
}

func TestMemoryAllocs(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		ctx := context.Background()
		s := make(nil)
		a := memArtifact(10)
		memAdd(t, s, memKey(1), a)
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = s.Get(ctx, memKey(1)) }), "hit")
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _, _ = s.Get(ctx, memKey(2)) }), "miss")
		require.Zero(t, testing.AllocsPerRun(100, func() { _ = s.Add(ctx, memKey(1), a) }), "present")
	})
}

// memKeys returns n keys as hashes are.
func memKeys(n int) []modcache.Key {
	r := rand.New(rand.NewPCG(1, 2))
	keys := make([]modcache.Key, n)
	for i := range keys {
		for j := 0; j < len(keys[i]); j += 8 {
			binary.LittleEndian.PutUint64(keys[i][j:], r.Uint64())
		}
	}
	return keys
}

func benchMemoryGet(b *testing.B, s modcache.Store) {
	ctx := context.Background()
	keys := memKeys(1024)
	for _, k := range keys {
		_ = s.Add(ctx, k, modcache.NewArtifact([]byte("native code"), modcache.Info{}))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok, _ := s.Get(ctx, keys[i&1023]); !ok {
			b.Fatal("miss")
		}
		i++
	}
}

func BenchmarkMemoryGet(b *testing.B) { benchMemoryGet(b, modcache.NewMemory(nil)) }
func BenchmarkLocalGet(b *testing.B)  { benchMemoryGet(b, modcache.NewLocal(nil)) }

func BenchmarkMemoryGetParallel(b *testing.B) {
	ctx := context.Background()
	keys := memKeys(1024)
	s := modcache.NewMemory(nil)
	for _, k := range keys {
		_ = s.Add(ctx, k, modcache.NewArtifact([]byte("native code"), modcache.Info{}))
	}
	b.RunParallel(func(pb *testing.PB) {
		i := rand.IntN(1024)
		for pb.Next() {
			if _, ok, _ := s.Get(ctx, keys[i&1023]); !ok {
				b.Fatal("miss")
			}
			i++
		}
	})
}

// BenchmarkMemoryAdd adds to a store that is full, so that each Add evicts.
func BenchmarkMemoryAdd(b *testing.B) {
	ctx := context.Background()
	keys := memKeys(1 << 14)
	a := modcache.NewArtifact(make([]byte, 1000), modcache.Info{})
	s := modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1000 << 10})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_ = s.Add(ctx, keys[i%len(keys)], a)
		i++
	}
}

// memoryOf and localOf return stores with a budget that the conformance suite knows.
func memoryOf(budget int64) func(testing.TB) modcache.Store {
	return func(testing.TB) modcache.Store { return modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: budget}) }
}

func localOf(budget int64) func(testing.TB) modcache.Store {
	return func(testing.TB) modcache.Store { return modcache.NewLocal(&modcache.MemoryOptions{MaxBytes: budget}) }
}

func TestMemoryKeepsTheContract(t *testing.T) {
	modcachetest.TestStore(t, memoryOf(16<<20), &modcachetest.Options{Budget: 16 << 20})
}

func TestLocalKeepsTheContract(t *testing.T) {
	modcachetest.TestStore(t, localOf(16<<20), &modcachetest.Options{Budget: 16 << 20, SingleGoroutine: true})
}
