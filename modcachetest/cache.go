package modcachetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
)

// cacheBytes bounds the directory of [Cache].
const cacheBytes = 1 << 30

// Cache returns the cache that makes tests with wazero fast: what one run of go
// test compiled, the next one loads, and tests of one run share what is in memory.
//
//	r, err := modcachetest.Cache(t).NewRuntime(ctx, nil)
//
// Machine code is kept in modcache-test in [os.UserCacheDir], as it was when the process began, at most 1 GiB of it,
// for all packages and programs of the user. Tests may run in parallel, several times
// (-count), under the race detector, and beside other packages' tests. The cache
// stays warm when the tested code is edited, but for builds that hide where
// wazero's sources are, as -trimpath and vendoring do: there, each
// edit makes a new engine identity, and the cache starts cold.
//
// All tests of a process get the same Cache, which lives as long as the process:
// don't close it (if a test does, later calls return a new one). Counters
// in its Metrics are those of the whole process. Runtimes made with it are
// the test's to close, as ever.
//
// In a bubble of [testing/synctest], this Cache isn't for use: it outlives the bubble, which the testing package doesn't
// forgive. Make one there with [modcache.New], and close it before the bubble ends.
//
// Elsewhere, Cache never makes a test fail. If the directory can't be used, or can't be opened within 5 seconds, modules are
// compiled once per process and not kept, which is logged to the first test that asks.
//
// Tests that use it: examples/testharness.
func Cache(tb testing.TB) *modcache.Cache {
	tb.Helper()
	store, err := testStore()
	if err != nil && !warned.Swap(true) {
		tb.Logf("modcachetest: go test will compile modules anew each time: %v", err)
	}
	for {
		c := current.Load()
		if c != nil && !isClosed(c) {
			return c
		}
		fresh, _ := modcache.New(store, nil) // could only object to options
		if current.CompareAndSwap(c, fresh) {
			return fresh
		}
		_ = fresh.Close(context.Background())
	}
}

// One cache for a whole process is what this helper is for, so here is state that no
// test owns. Nothing is opened before the first call.
var (
	testStore = sync.OnceValues(func() (modcache.Store, error) { return openTestStore(modcache.OpenDisk) })
	current   atomic.Pointer[modcache.Cache]
	warned    atomic.Bool
)

// cacheDir is looked for before a test sets HOME to a directory that is removed when it ends.
var cacheDir, errCacheDir = os.UserCacheDir()

// patience is how long the file system of the directory may take.
const patience = 5 * time.Second

// openTestStore opens the directory, or returns a store that keeps nothing and the
// reason. The directory is never closed: a test can't know that it is the last, and
// files are complete whenever the process ends.
func openTestStore(open func(string, *modcache.DiskOptions) (*modcache.Disk, error)) (modcache.Store, error) {
	d, err := bounded.Call(context.Background(), bounded.Limit{Wait: patience}, func(context.Context) (*modcache.Disk, error) {
		if errCacheDir != nil {
			return nil, errCacheDir
		}
		return open(filepath.Join(cacheDir, "modcache-test"), &modcache.DiskOptions{MaxBytes: cacheBytes})
	}, func(late *modcache.Disk) {
		if late != nil {
			_ = late.Close()
		}
	})
	if err != nil {
		return modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: -1}), err
	}
	return d, nil
}

// isClosed finds out by attaching to a compilation cache that nobody uses.
func isClosed(c *modcache.Cache) bool {
	return errors.Is(c.Attach(wazero.NewCompilationCache()), modcache.ErrClosed)
}
