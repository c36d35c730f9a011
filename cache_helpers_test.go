package modcache_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/wazerohook"
)

// A way is one of the two ways into a Cache. It compiles wasm in a runtime of its
// own and returns what the module's export f does.
type way struct {
	name string
	run  func(c *modcache.Cache, wasm []byte) (uint64, error)
}

var ways = []way{{"drop-in", runDropIn}, {"Runtime", runRuntime}}

func runDropIn(c *modcache.Cache, wasm []byte) (uint64, error) {
	config := wazero.NewRuntimeConfig().WithCompilationCache(c.CompilationCache())
	r := wazero.NewRuntimeWithConfig(bg, config)
	defer r.Close(bg)
	return callExport(r, wasm)
}

func runRuntime(c *modcache.Cache, wasm []byte) (uint64, error) {
	r, err := c.NewRuntime(bg, nil)
	if err != nil {
		return 0, err
	}
	defer r.Close(bg)
	return callExport(r, wasm)
}

func runPlain(wasm []byte) (uint64, error) {
	r := wazero.NewRuntime(bg)
	defer r.Close(bg)
	return callExport(r, wasm)
}

func callExport(r wazero.Runtime, wasm []byte) (uint64, error) {
	cm, err := r.CompileModule(bg, wasm)
	if err != nil {
		return 0, err
	}
	mod, err := r.InstantiateModule(bg, cm, wazero.NewModuleConfig())
	if err != nil {
		return 0, err
	}
	res, err := mod.ExportedFunction("f").Call(bg)
	if err != nil {
		return 0, err
	}
	return res[0], nil
}

// needsCompiler skips a test where wazero interprets, and so has nothing to cache.
func needsCompiler(t testing.TB) {
	t.Helper()
	if _, err := wazerohook.Probe(); errors.Is(err, wazerohook.ErrInterpreter) {
		t.Skip("NOT TESTED:", err)
	}
}

// forget makes a Cache keep no machine code in memory, so that every compile asks
// the store.
const forget = -1

// witness sees what a Cache reports.
type witness struct {
	mu       sync.Mutex
	events   []modcache.Event
	warnings int
}

func (w *witness) options(o modcache.Options) *modcache.Options {
	o.OnEvent = func(e modcache.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.events = append(w.events, e)
	}
	o.Logger = slog.New(w)
	o.Retain = forget
	return &o
}

func (w *witness) Enabled(context.Context, slog.Level) bool { return true }
func (w *witness) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *witness) WithGroup(string) slog.Handler            { return w }
func (w *witness) Handle(_ context.Context, r slog.Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Level >= slog.LevelWarn {
		w.warnings++
	}
	return nil
}

// saw returns the errors of the events of a kind, nil for those without one.
func (w *witness) saw(kind modcache.EventKind) (errs []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			errs = append(errs, e.Err)
		}
	}
	return errs
}

func (w *witness) warned() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.warnings
}

// keys returns the keys that were looked up.
func (w *witness) keys() (keys []modcache.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if (e.Kind == modcache.EventMiss || e.Kind == modcache.EventHit) && !slices.Contains(keys, e.Key) {
			keys = append(keys, e.Key)
		}
	}
	return keys
}

// tableStore is the simplest store that is right. The hooks, where set, answer in its
// place.
type tableStore struct {
	mu      sync.Mutex
	entries map[modcache.Key]tableEntry
	calls   struct{ get, add, delete, flush int }

	onGet    func(key modcache.Key, a *modcache.Artifact, ok bool) (*modcache.Artifact, bool, error)
	onAdd    func() error
	onDelete func() error
	onFlush  func() error
	metrics  func() modcache.Metrics
}

type tableEntry struct {
	code []byte
	info modcache.Info
}

func (s *tableStore) Get(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
	s.mu.Lock()
	s.calls.get++
	e, ok := s.entries[key]
	s.mu.Unlock()
	var a *modcache.Artifact
	if ok {
		a = e.artifact()
	}
	if s.onGet != nil {
		return s.onGet(key, a, ok)
	}
	return a, ok, ctx.Err()
}

func (e tableEntry) artifact() *modcache.Artifact {
	return modcache.NewArtifact(slices.Clone(e.code), e.info)
}

func (s *tableStore) Add(_ context.Context, key modcache.Key, a *modcache.Artifact) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.add++
	if s.onAdd != nil {
		return s.onAdd()
	}
	b, err := a.Bytes()
	if err != nil {
		return err
	}
	if _, there := s.entries[key]; !there {
		if s.entries == nil {
			s.entries = make(map[modcache.Key]tableEntry)
		}
		s.entries[key] = tableEntry{slices.Clone(b), a.Info()}
	}
	return nil
}

func (s *tableStore) Delete(_ context.Context, key modcache.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls.delete++
	if s.onDelete != nil {
		return s.onDelete()
	}
	delete(s.entries, key)
	return nil
}

func (s *tableStore) Flush(context.Context) error {
	s.calls.flush++
	if s.onFlush != nil {
		return s.onFlush()
	}
	return nil
}

func (s *tableStore) Metrics() modcache.Metrics {
	if s.metrics != nil {
		return s.metrics()
	}
	return modcache.Metrics{}
}

// heal takes all hooks out.
func (s *tableStore) heal() {
	s.onGet, s.onAdd, s.onDelete, s.onFlush, s.metrics = nil, nil, nil, nil, nil
}

func cacheOver(t testing.TB, s modcache.Store, o *modcache.Options) *modcache.Cache {
	t.Helper()
	c, err := modcache.New(s, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(bg)) })
	return c
}

func openCache(t testing.TB, dir string, o *modcache.Options) *modcache.Cache {
	t.Helper()
	c, err := modcache.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close(bg) })
	return c
}

// requireRuns compiles and runs wasm both ways with f, and requires the result.
func requireRuns(t testing.TB, w way, c *modcache.Cache, wasm []byte, want int) {
	t.Helper()
	got, err := w.run(c, wasm)
	require.NoError(t, err)
	require.EqualValues(t, want, got)
}

var errFault = errors.New("injected")

// wazeroTestdata reads a file of wazero's source.
func wazeroTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(wazeroDir(t), filepath.FromSlash(name)))
	require.NoError(t, err)
	return b
}
