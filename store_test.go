package modcache_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/modcachetest"
)

// TestStores runs the conformance suite on every store of this package, alone
// and in layers.
func TestStores(t *testing.T) {
	const budget = 16 << 20
	memory := func(testing.TB) modcache.Store {
		return modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: budget})
	}
	local := func(testing.TB) modcache.Store {
		return modcache.NewLocal(&modcache.MemoryOptions{MaxBytes: budget})
	}
	layered := func(tb testing.TB, o *modcache.LayeredOptions, layers ...modcache.Layer) modcache.Store {
		l := modcache.NewLayered(o, layers...)
		tb.Cleanup(func() { l.Close() })
		return l
	}

	t.Run("Memory", func(t *testing.T) {
		modcachetest.TestStore(t, memory, &modcachetest.Options{Budget: budget})
	})
	t.Run("Local", func(t *testing.T) {
		modcachetest.TestStore(t, local, &modcachetest.Options{Budget: budget, SingleGoroutine: true})
	})
	t.Run("Disk", func(t *testing.T) {
		modcachetest.TestStore(t, openTestDisk, diskClauses(nil))
	})
	t.Run("Disk compressed", func(t *testing.T) {
		o := &modcache.DiskOptions{Compress: true, Key: []byte("a secret of sixteen bytes or more")}
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store { return openDiskAt(tb, tempCacheDir(tb), o) }, diskClauses(o))
	})
	t.Run("Layered of one", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: memory(tb)})
		}, &modcachetest.Options{Budget: budget})
	})
	t.Run("Layered of Memory and Disk", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: memory(tb)}, modcache.Layer{Store: openTestDisk(tb)})
		}, &modcachetest.Options{Observe: func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
			o := &modcache.LayeredOptions{OnEvent: observer}
			return layered(tb, o, modcache.Layer{Store: memory(tb)}, modcache.Layer{Store: openTestDisk(tb)})
		}})
	})
	t.Run("Layered of Local, Memory and Disk", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: local(tb)}, modcache.Layer{Store: memory(tb)}, modcache.Layer{Store: openTestDisk(tb)})
		}, &modcachetest.Options{SingleGoroutine: true})
	})
	t.Run("Layered with a deferred layer", func(t *testing.T) {
		modcachetest.TestStore(t, func(tb testing.TB) modcache.Store {
			return layered(tb, nil, modcache.Layer{Store: openTestDisk(tb), Write: modcache.WriteBehind})
		}, &modcachetest.Options{Deferred: true})
	})
}

func tempCacheDir(tb testing.TB) string { return filepath.Join(tb.TempDir(), "cache") }

func openTestDisk(tb testing.TB) modcache.Store { return openDiskAt(tb, tempCacheDir(tb), nil) }

func openDiskAt(tb testing.TB, dir string, o *modcache.DiskOptions) *modcache.Disk {
	d, err := modcache.OpenDisk(dir, o)
	require.NoError(tb, err)
	tb.Cleanup(func() { d.Close() })
	return d
}

// diskClauses are what a Disk promises beyond other stores.
func diskClauses(o *modcache.DiskOptions) *modcachetest.Options {
	dirOf := func(s modcache.Store) string { return s.(*modcache.Disk).Dir() }
	return &modcachetest.Options{
		ExclusiveLocks: true,
		Reopen: func(tb testing.TB, s modcache.Store) modcache.Store {
			require.NoError(tb, s.(*modcache.Disk).Close())
			return openDiskAt(tb, dirOf(s), o)
		},
		Share: func(tb testing.TB, s modcache.Store) modcache.Store { return openDiskAt(tb, dirOf(s), o) },
		ReadOnly: func(tb testing.TB, s modcache.Store) modcache.Store {
			ro := modcache.DiskOptions{}
			if o != nil {
				ro = *o
			}
			ro.ReadOnly = true
			return openDiskAt(tb, dirOf(s), &ro)
		},
		Damage: func(tb testing.TB, s modcache.Store, key modcache.Key) {
			name := filepath.Join(dirOf(s), key.String()[:1], key.String()+".v1")
			b, err := os.ReadFile(name)
			require.NoError(tb, err)
			b[len(b)/2] ^= 1
			require.NoError(tb, os.WriteFile(name, b, 0o600))
		},
		Observe: func(tb testing.TB, observer func(modcache.Event)) modcache.Store {
			observed := modcache.DiskOptions{}
			if o != nil {
				observed = *o
			}
			observed.OnEvent = observer
			return openDiskAt(tb, tempCacheDir(tb), &observed)
		},
	}
}
