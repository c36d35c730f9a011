package modcache_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/modcache/modcache"
	"github.com/stretchr/testify/require"
)

// memoryModel is a plain map that follows a store by its events. After every
// operation both must agree on every key.
type memoryModel struct {
	t        *testing.T
	store    memoryStore
	key      func(int) modcache.Key
	max      int64
	held     map[modcache.Key]*modcache.Artifact
	pending  []modcache.Event
	reported map[modcache.Reason]uint64
	lookups  uint64
}

const memoryModelKeys = 24

func newMemoryModel(t *testing.T, o modcache.MemoryOptions, key func(int) modcache.Key,
	make_ func(*modcache.MemoryOptions) memoryStore) *memoryModel {
	m := &memoryModel{
		t: t, key: key, max: o.MaxBytes,
		held:     map[modcache.Key]*modcache.Artifact{},
		reported: map[modcache.Reason]uint64{},
	}
	o.OnEvent = func(e modcache.Event) { m.pending = append(m.pending, e) }
	m.store = make_(&o)
	return m
}

// do applies the operation that op and arg choose, to both.
func (m *memoryModel) do(op, arg byte) {
	ctx := context.Background()
	k := m.key(int(arg) % memoryModelKeys)
	switch op % 8 {
	case 0, 1, 2: // add
		a := memArtifact(int(op) / 8 * 4)
		err := m.store.Add(ctx, k, a)
		m.follow()
		switch _, present := m.held[k]; {
		case present, m.max <= 0:
			require.NoError(m.t, err)
		case a.Size() > m.max:
			require.ErrorIs(m.t, err, modcache.ErrTooLarge)
		default:
			require.NoError(m.t, err)
			m.held[k] = a
		}
	case 3:
		require.NoError(m.t, m.store.Delete(ctx, k))
		require.Equal(m.t, m.held[k] != nil, len(m.pending) == 1)
		m.follow()
		require.NotContains(m.t, m.held, k)
	case 4:
		if arg < 16 {
			m.max = int64(arg) * 8
			m.store.Resize(m.max)
			m.follow()
		}
	default:
		a, ok, err := m.store.Get(ctx, k)
		m.lookups++
		require.NoError(m.t, err)
		require.Equal(m.t, m.held[k] != nil, ok)
		require.Same(m.t, m.held[k], a)
	}
	m.check()
}

// follow removes what the events say has left.
func (m *memoryModel) follow() {
	for _, e := range m.pending {
		m.reported[e.Reason]++
		if e.Reason == modcache.ReasonRejected {
			require.Greater(m.t, e.Bytes, m.max)
			continue
		}
		require.Contains(m.t, m.held, e.Key)
		require.Equal(m.t, m.held[e.Key].Size(), e.Bytes)
		delete(m.held, e.Key)
	}
	m.pending = m.pending[:0]
}

func (m *memoryModel) check() {
	var bytes int64
	for _, a := range m.held {
		bytes += a.Size()
	}
	got := m.store.Metrics()
	require.EqualValues(m.t, len(m.held), got.Entries)
	require.EqualValues(m.t, bytes, got.Bytes)
	require.LessOrEqual(m.t, bytes, max(m.max, 0))
	require.Equal(m.t, m.lookups, got.Lookups)
	reported := map[modcache.Reason]uint64{}
	for _, r := range m.store.EvictionReports() {
		reported[r.Reason] = r.Entries
	}
	require.Equal(m.t, m.reported, reported)
}

// checkAll looks up every key.
func (m *memoryModel) checkAll() {
	for i := range memoryModelKeys {
		m.do(7, byte(i))
	}
}

func TestMemoryModel(t *testing.T) {
	eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
		for name, key := range map[string]func(int) modcache.Key{"spread": memKey, "colliding": memCollidingKey} {
			t.Run(name, func(t *testing.T) {
				for seed := range uint64(20) {
					r := rand.New(rand.NewPCG(seed, 1))
					m := newMemoryModel(t, modcache.MemoryOptions{
						MaxBytes: 120, MaxEntries: 1 + r.IntN(memoryModelKeys), DetectWrites: seed%4 == 0,
					}, key, make)
					for range 500 {
						m.do(byte(r.Uint32()), byte(r.Uint32()))
					}
					m.checkAll()
				}
			})
		}
	})
}

func FuzzMemory(f *testing.F) {
	f.Add([]byte{8, 1, 16, 2, 5, 1, 24, 3, 3, 1, 4, 2, 32, 4})
	f.Fuzz(func(t *testing.T, ops []byte) {
		eachMemory(t, func(t *testing.T, make func(*modcache.MemoryOptions) memoryStore) {
			m := newMemoryModel(t, modcache.MemoryOptions{MaxBytes: 100, MaxEntries: 9}, memCollidingKey, make)
			for len(ops) >= 2 {
				m.do(ops[0], ops[1])
				ops = ops[2:]
			}
			m.checkAll()
		})
	})
}
