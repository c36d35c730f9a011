package modcache_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/dirfs"
	"github.com/modcache/modcache/internal/wasmtest"
)

// hangingFS is a file system whose open files don't answer any more once it is armed. A read of
// some size then waits for the answer, or one in the middle of a large file, or Close, Lstat or a write does.
type hangingFS struct {
	dirfs.FS
	reads, middles, closes, looks, writes atomic.Bool
	hung, open                            atomic.Int64
	slow                                  atomic.Int64 // how long each read takes, in nanoseconds
	answer                                chan struct{}
}

func (h *hangingFS) OpenFile(name string, flag int, perm os.FileMode) (dirfs.File, error) {
	f, err := h.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	h.open.Add(1)
	return &hangingFile{f, h}, nil
}

func (h *hangingFS) Lstat(name string) (os.FileInfo, error) {
	h.wait(&h.looks)
	return h.FS.Lstat(name)
}

func (h *hangingFS) wait(hangs *atomic.Bool) {
	if hangs.Load() {
		h.hung.Add(1)
		<-h.answer
	}
}

func (f *hangingFile) Write(p []byte) (int, error) {
	f.h.wait(&f.h.writes)
	return f.File.Write(p)
}

type hangingFile struct {
	dirfs.File
	h *hangingFS
}

func (f *hangingFile) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Duration(f.h.slow.Load()))
	if len(p) > 16<<10 { // more than the header, which Get reads
		f.h.wait(&f.h.reads)
		if fi, err := f.Stat(); err == nil && off > fi.Size()/4 && off < fi.Size()/2 {
			f.h.wait(&f.h.middles)
		}
	}
	return f.File.ReadAt(p, off)
}

func (f *hangingFile) Close() error {
	f.h.wait(&f.h.closes)
	f.h.open.Add(-1)
	return f.File.Close()
}

// A read that hangs after Get has returned costs a compile, and a time that is known. What it
// read is nobody's when it comes to an end after all.
func TestCacheWhoseOpenFilesHang(t *testing.T) {
	needsCompiler(t)
	wasm := wasmtest.Sum(3000, 0)
	want, err := cachetest.RunPlain(wasm)
	require.NoError(t, err)
	for _, in := range []string{"read", "close"} {
		for _, w := range ways {
			for name, required := range map[string]bool{"": false, " required": true} {
				t.Run(w.Name+" "+in+name, func(t *testing.T) {
					dir := t.TempDir()
					synctest.Test(t, func(t *testing.T) {
						h := &hangingFS{answer: make(chan struct{})}
						d := openHanging(t, dir, h)
						_, err := w.Run(newCache(t, d, nil), wasm)
						require.NoError(t, err)
						open := h.open.Load()

						seen := &witness{}
						o := seen.Options(modcache.Options{RequireHit: required})
						var reason atomic.Value
						witnessed := o.OnEvent
						o.OnEvent = func(e modcache.Event) {
							if witnessed(e); e.Kind == modcache.EventMiss {
								reason.Store(e.Reason)
							}
						}
						c := newCache(t, d, o)
						armed := &h.reads
						if in == "close" {
							armed = &h.closes
						}
						armed.Store(true)
						ended := make(chan struct{})
						start := time.Now()
						var got uint64
						go func() {
							defer close(ended)
							got, err = w.Run(c, wasm)
						}()
						select {
						case <-ended:
						case <-time.After(time.Hour):
							t.Error("it hangs")
						}
						took := time.Since(start)
						armed.Store(false)
						close(h.answer)
						<-ended
						require.Positive(t, h.hung.Load())
						require.Less(t, took, time.Minute)
						switch {
						case in == "close":
							require.NoError(t, err)
							require.Equal(t, want, got)
							require.Zero(t, c.Metrics().Compiles)
						case required:
							require.ErrorIs(t, err, modcache.ErrMiss)
							require.ErrorIs(t, err, context.DeadlineExceeded)
						default:
							require.NoError(t, err)
							require.Equal(t, want, got)
							require.EqualValues(t, 1, c.Metrics().Compiles)
						}
						if in == "read" {
							require.LessOrEqual(t, c.Metrics().StoreErrors, uint64(4), "what isn't asked after that counts too")
							require.ErrorIs(t, seen.Saw(modcache.EventStoreFailed)[0], context.DeadlineExceeded)
							require.Len(t, seen.Saw(modcache.EventMiss), 1)
							require.Equal(t, modcache.ReasonTimeout, reason.Load())
						}

						synctest.Wait()
						require.Equal(t, open, h.open.Load(), "files that are left open")
						got, err = w.Run(c, wasm)
						require.NoError(t, err)
						require.Equal(t, want, got)
						require.Positive(t, c.Metrics().Hits)
					})
				})
			}
		}
	}
}

// What is around the code may be read before a file system hangs: who waited for the code has nothing to do with it then.
func TestCacheWhoseCodeHangs(t *testing.T) {
	needsCompiler(t)
	dir, m := t.TempDir(), modcache.NewModule(wasmtest.Sum(7000, 0)) // whose entry is read in three pieces
	synctest.Test(t, func(t *testing.T) {
		h := &hangingFS{answer: make(chan struct{})}
		d := openHanging(t, dir, h)
		require.NoError(t, newCache(t, d, nil).Warm(bg, nil, m))
		open := h.open.Load()
		r := newRuntime(t, newCache(t, d, &modcache.Options{RequireHit: true}), nil)
		h.middles.Store(true)
		_, err := r.Compile(bg, m)
		require.ErrorIs(t, err, modcache.ErrMiss)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, h.hung.Load())
		h.middles.Store(false)
		close(h.answer)
		synctest.Wait()
		require.Equal(t, open, h.open.Load(), "files that are left open")
		cm, err := r.Compile(bg, m)
		require.NoError(t, err)
		require.NoError(t, cm.Close(bg))
	})
}

// A file system that answers each read just in time doesn't take its time for each.
func TestCacheWhoseFilesAreSlow(t *testing.T) {
	needsCompiler(t)
	dir, m := t.TempDir(), modcache.NewModule(wasmtest.Sum(3000, 0))
	synctest.Test(t, func(t *testing.T) {
		h := &hangingFS{answer: make(chan struct{})}
		d := openHanging(t, dir, h)
		require.NoError(t, newCache(t, d, nil).Warm(bg, nil, m))
		c := newCache(t, d, nil)
		r := newRuntime(t, c, nil)
		h.slow.Store(int64(4000 * time.Millisecond))
		start := time.Now()
		cm, err := r.Compile(bg, m)
		require.NoError(t, err)
		require.Less(t, time.Since(start), 10*time.Second, "to find it, and to read it")
		require.EqualValues(t, 1, c.Metrics().Compiles)
		require.NoError(t, cm.Close(bg))

		c = newCache(t, d, &modcache.Options{RequireHit: true})
		h.slow.Store(int64(16 * time.Second)) // which comes to more than it waits for each
		cm, err = newRuntime(t, c, nil).Compile(bg, m)
		require.NoError(t, err)
		h.slow.Store(0)
		require.NoError(t, cm.Close(bg))
	})
}

// Warm reads code that is in memory already once more, and doesn't wait for that for ever either.
func TestCacheWarmWhoseReadHangs(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &hangingFS{answer: make(chan struct{})}
		c := newCache(t, openHanging(t, dir, h), nil)
		m := modcache.NewModule(wasmtest.Sum(3000, 0))
		r := newRuntime(t, c, nil)
		defer compile(t, r, m.Bytes()).Close(bg)
		open := h.open.Load()
		h.reads.Store(true)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			require.Error(t, c.Warm(bg, nil, m), "nobody can tell that it is stored")
		}()
		select {
		case <-ended:
		case <-time.After(time.Hour):
			t.Error("it hangs")
		}
		require.Positive(t, h.hung.Load())
		h.reads.Store(false)
		close(h.answer)
		<-ended
		synctest.Wait()
		require.Equal(t, open, h.open.Load(), "files that are left open")
	})
}

// Closing waits for a file system that hangs for as long as is documented, says so, and comes to an end when that answers.
func TestDiskCloseOverAFileSystemThatHangs(t *testing.T) {
	for name, arm := range map[string]func(h *hangingFS) *atomic.Bool{
		"looks": func(h *hangingFS) *atomic.Bool { return &h.looks },
		"trims": func(h *hangingFS) *atomic.Bool { return &h.writes },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			requireTrimmed(t, dir)
			synctest.Test(t, func(t *testing.T) {
				h := &hangingFS{answer: make(chan struct{})}
				hangs := arm(h)
				hangs.Store(name == "trims") // in the background
				d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS { h.FS = tree; return h }, nil)
				require.NoError(t, err)
				synctest.Wait()
				if name == "looks" { // for what to tell others
					require.NoError(t, d.Add(bg, diskKey(1), diskArtifact(1, 100)))
				}
				hangs.Store(true)
				start := time.Now()
				err = d.Close()
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.ErrorContains(t, err, dir)
				require.Equal(t, 5*time.Second, time.Since(start))
				require.NoError(t, d.Close(), "again")
				require.Positive(t, h.hung.Load())
				close(h.answer)
				synctest.Wait()
				require.Zero(t, h.open.Load())
			})
		})
	}
}

// A snapshot that can't be read in time costs what Init takes.
func TestTemplateWhoseSnapshotHangs(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &hangingFS{answer: make(chan struct{})}
		d := openHanging(t, dir, h)
		ran := 0
		o := &modcache.TemplateOptions{ID: "fill", Init: func(_ context.Context, mod api.Module) error {
			ran++
			noise := make([]byte, 128<<10) // too much for a small entry, also when it is compressed
			_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
			noise[len(noise)-1] = 1
			if _, ok := mod.Memory().Grow(2); !ok || !mod.Memory().Write(mod.Memory().Size()-uint32(len(noise)), noise) {
				return errors.New("no room")
			}
			return nil
		}}
		c := newCache(t, d, nil)
		try := func() {
			tmpl, err := newRuntime(t, c, nil).NewTemplate(bg, modcache.NewModule(statefulModule()), o)
			require.NoError(t, err)
			defer tmpl.Close(bg)
			mod, err := tmpl.Instantiate(bg, nil)
			require.NoError(t, err)
			defer mod.Close(bg)
			last, _ := mod.Memory().ReadByte(mod.Memory().Size() - 1)
			require.EqualValues(t, 1, last)
		}
		try()
		open := h.open.Load()
		h.reads.Store(true)
		start := time.Now()
		try()
		require.Less(t, time.Since(start), 2*time.Minute)
		require.Positive(t, h.hung.Load())
		require.Equal(t, 2, ran)
		h.reads.Store(false)
		close(h.answer)
		synctest.Wait()
		require.Equal(t, open, h.open.Load())
		try()
		require.Equal(t, 2, ran)
	})
}

// openHanging opens a Disk on h.
func openHanging(t *testing.T, dir string, h *hangingFS) *modcache.Disk {
	d, err := modcache.OpenDiskOn(dir, func(tree dirfs.FS) dirfs.FS {
		h.FS = tree
		return h
	}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}
