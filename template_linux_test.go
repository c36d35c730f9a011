package modcache_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"
	"golang.org/x/sys/unix"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
)

// TestTemplateWithoutAFileForItsImage, as a strict sandbox or too many open files have it: instances have copies of the
// image, and nothing else is lost.
func TestTemplateWithoutAFileForItsImage(t *testing.T) {
	needsCompiler(t)
	var seen witness
	c := newCache(t, &storetest.Fake{}, seen.Options(modcache.Options{}))
	r := newRuntime(t, c, nil)
	m := modcache.NewModule(statefulModule())
	compile(t, r, m.Bytes())
	t.Setenv("TMPDIR", t.TempDir())
	o := &modcache.TemplateOptions{Init: func(ctx context.Context, mod api.Module) error {
		mod.Memory().WriteString(100_000, "from Init")
		return nil
	}}
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: files.Max}))
	_, noFile := os.Open(os.DevNull)
	tmpl, err := r.NewTemplate(bg, m, o)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
	require.ErrorIs(t, noFile, unix.EMFILE)
	require.NoError(t, err)
	require.Len(t, seen.Saw(modcache.EventDegraded), 1)
	require.EqualValues(t, 1, c.Metrics().Compiles, "the code is shared all the same")

	plain, err := r.NewTemplate(bg, m, o)
	require.NoError(t, err)
	want, err := plain.Instantiate(bg, nil)
	require.NoError(t, err)
	seenThen := observe(t, want)
	for range 2 {
		mod, err := tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
		require.Equal(t, seenThen, observe(t, mod))
		require.NoError(t, mod.Close(bg))
	}
	require.EqualValues(t, 3, c.Metrics().OffHeap)
	require.NoError(t, plain.Close(bg))
	require.NoError(t, tmpl.Close(bg))
}

// TestTemplateTakesNoWritableMemory where Linux limits it, touched or not: its instances are on Go's heap.
func TestTemplateTakesNoWritableMemory(t *testing.T) {
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED: the race detector needs writable memory itself")
	}
	if !cachetest.Apart(t) {
		return
	}
	const size = 16 << 20
	limit := writableBytes(t) + 768<<20
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: uint64(limit), Max: uint64(limit)}))
	c := newCache(t, &storetest.Fake{}, &modcache.Options{OffHeapMemory: true})
	r := newRuntime(t, c, nil)
	before := residentNow(t)
	for i := range 12 {
		tmpl, err := r.NewTemplate(bg, modcache.NewModule(dataModule(16, 0)), nil)
		require.NoError(t, err)
		defer tmpl.Close(bg)
		var open []api.Module
		for range 8 {
			mod, err := tmpl.Instantiate(bg, nil)
			require.NoError(t, err)
			require.True(t, mod.Memory().WriteByte(size-1, 1))
			open = append(open, mod)
		}
		if i == 0 {
			require.Less(t, residentNow(t)-before, 6*size, "zeros are not written")
		}
		for _, mod := range open {
			require.NoError(t, mod.Close(bg))
		}
	}
	require.Positive(t, c.Metrics().OffHeapFailed)
}

// writableBytes returns what the process has mapped that Linux counts for RLIMIT_DATA.
func writableBytes(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	var pages [6]int64
	_, err = fmt.Sscan(string(b), &pages[0], &pages[1], &pages[2], &pages[3], &pages[4], &pages[5])
	require.NoError(t, err)
	return pages[5] * int64(os.Getpagesize())
}
