//go:build linux || darwin

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// undo ends the faults that last.
func (w *chaosWorld) undo() {
	for _, f := range w.restore {
		f()
	}
	w.restore = nil
}

// fault does something to somebody. What lasts, lasts until the next time.
func (w *chaosWorld) fault() {
	w.undo()
	faults := []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"kill", w.kill},
		{"stop", w.stop},
		{"damage", w.damage},
		{"delete", w.delete},
		{"permissions", w.permissions},
		{"replace", w.replace},
	}
	f := faults[w.rng.IntN(len(faults))]
	w.count[f.name]++
	f.do()
}

func (w *chaosWorld) kill() {
	p := w.fleet[w.rng.IntN(len(w.fleet))]
	p.killed = true
	w.killed++
	_ = p.cmd.Process.Kill()
}

// stop has a process sleep, with whatever it holds.
func (w *chaosWorld) stop() {
	p := w.fleet[1+w.rng.IntN(len(w.fleet)-1)]
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	w.restore = append(w.restore, func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) })
}

// files returns what is in the directory, and the directories in it.
func (w *chaosWorld) files() (files, dirs []string) {
	_ = filepath.WalkDir(w.dir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || name == w.dir:
		case d.IsDir():
			dirs = append(dirs, name)
		default:
			files = append(files, name)
		}
		return nil
	})
	return files, dirs
}

func (w *chaosWorld) pick(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[w.rng.IntN(len(names))]
}

// damage changes a file in place, while somebody may be reading it.
func (w *chaosWorld) damage() {
	files, _ := w.files()
	f, err := os.OpenFile(w.pick(files), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return
	}
	at := w.rng.Int64N(fi.Size())
	switch w.rng.IntN(4) {
	case 0:
		b := make([]byte, 1)
		_, _ = f.ReadAt(b, at)
		b[0] ^= 1 << w.rng.IntN(8)
		_, _ = f.WriteAt(b, at)
	case 1:
		_, _ = f.WriteAt(make([]byte, min(512, fi.Size()-at)), at)
	case 2:
		_ = f.Truncate(at)
	case 3:
		n, _ := f.WriteAt(make([]byte, 1000), fi.Size())
		w.grown += int64(n)
	}
}

// delete removes a file, a directory with what is in it, or everything.
func (w *chaosWorld) delete() {
	files, dirs := w.files()
	switch w.rng.IntN(8) {
	case 0:
		for _, name := range dirs {
			_ = os.RemoveAll(name)
		}
	case 1, 2:
		if name := w.pick(dirs); name != "" {
			_ = os.RemoveAll(name)
		}
	default:
		_ = os.Remove(w.pick(files))
	}
}

// permissions takes them away for a while. They don't bind root.
func (w *chaosWorld) permissions() {
	files, dirs := w.files()
	name, mode := w.pick(files), fs.FileMode(0o600)
	if w.rng.IntN(2) == 0 {
		name, mode = w.pick(dirs), 0o700
	}
	if name == "" || os.Chmod(name, 0) != nil {
		return
	}
	w.restore = append(w.restore, func() { _ = os.Chmod(name, mode) })
}

// replace puts something else where a file was: another file, a directory, a link.
func (w *chaosWorld) replace() {
	files, _ := w.files()
	name, other := w.pick(files), w.pick(files)
	if name == "" || os.Remove(name) != nil {
		return
	}
	switch w.rng.IntN(3) {
	case 0:
		if b, err := os.ReadFile(other); err == nil && os.WriteFile(name, b, 0o600) == nil {
			w.grown += int64(len(b))
		}
	case 1:
		if os.Mkdir(name, 0o700) == nil {
			w.restore = append(w.restore, func() { _ = os.RemoveAll(name) })
		}
	case 2:
		if os.Symlink(other, name) == nil {
			w.restore = append(w.restore, func() { _ = os.Remove(name) })
		}
	}
}

// sizes returns the size of all files together, and of the largest.
func sizes(files []string) (bytes, largest int64) {
	for _, name := range files {
		if fi, err := os.Lstat(name); err == nil {
			bytes += fi.Size()
			largest = max(largest, fi.Size())
		}
	}
	return bytes, largest
}

// requireBounds checks the size of the entries while the processes go on. Each may
// exceed the bound by a sixteenth before it notices, or by the entry that each of
// its two goroutines is adding.
func (w *chaosWorld) requireBounds() {
	bytes, largest := sizes(entriesBelow(w.t, w.dir))
	blind := max(chaosBudget/16, 2*largest)
	require.LessOrEqual(w.t, bytes, chaosBudget+blind*int64(len(w.fleet))+w.grown)
}

// requireHealed checks what is left when all processes are gone.
func (w *chaosWorld) requireHealed() {
	t := w.t
	const later = 2 * time.Hour // the dead are dead for sure
	l := chaosLife{Clock: later}
	o := l.disk()
	d, err := modcache.OpenDisk(w.dir, &o)
	require.NoError(t, err)
	_, err = d.Verify(bg) // clears damage away that nobody has met
	require.NoError(t, err)
	r, err := d.Verify(bg)
	require.NoError(t, err)
	require.Empty(t, r.Corrupt)
	require.Empty(t, r.Failed)
	_, err = d.Trim(bg)
	require.NoError(t, err)
	all, err := filepath.Glob(filepath.Join(w.dir, "?", "*"))
	require.NoError(t, err)
	bytes, _ := sizes(all)
	require.LessOrEqual(t, bytes, int64(chaosBudget))
	for _, sub := range []string{"tmp", "lock"} {
		left, _ := os.ReadDir(filepath.Join(w.dir, sub))
		assert.Empty(t, left, sub)
	}
	left, _ := os.ReadDir(filepath.Join(w.dir, "quarantine"))
	assert.LessOrEqual(t, len(left), 8)
	require.NoError(t, d.Close())

	// Of what is cached, some may not be found in time by a machine that does something else for seconds.
	const rounds = 4
	for i := range rounds {
		if missed := w.requireRuns(o); missed == 0 {
			break
		} else if i > 0 {
			t.Logf("round %d missed %d", i, missed)
			require.Less(t, i, rounds-1)
		}
	}
}

// requireRuns runs a module in all ways, and returns how many found no code for it.
func (w *chaosWorld) requireRuns(o modcache.DiskOptions) (missed uint64) {
	t := w.t
	var mu sync.Mutex
	var events []modcache.Event
	c := openCache(t, w.dir, &modcache.Options{Retain: forget, Disk: o, OnEvent: func(e modcache.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}})
	wasm, want := chaosModule(3)
	for _, way := range ways {
		got, err := way.Run(c, wasm)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	m := c.Metrics()
	require.NoError(t, c.Close(bg))
	require.Zero(t, m.Corrupt+m.StoreErrors, m)
	if m.Hits < uint64(len(ways)) {
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%+v\n%+v\n%+v", m, c.Status(), events)
	}
	return uint64(len(ways)) - m.Hits
}
