package modcache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// gate stops whoever passes until it is opened, and tells that he is there.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
	once    sync.Once
}

func newGate() *gate { return &gate{arrived: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) pass() {
	g.once.Do(func() { close(g.arrived) })
	<-g.open
}

// at returns options with an observer that passes the gate at each event of a kind.
func (g *gate) at(kind modcache.EventKind) *modcache.Options {
	return &modcache.Options{OnEvent: func(e modcache.Event) {
		if e.Kind == kind {
			g.pass()
		}
	}}
}

type compiled struct {
	module wazero.CompiledModule
	err    error
}

// begin compiles in the background.
func begin(ctx context.Context, r *modcache.Runtime, wasm []byte) <-chan compiled {
	done := make(chan compiled, 1)
	go func() {
		m, err := r.CompileModule(ctx, wasm)
		done <- compiled{m, err}
	}()
	return done
}

// awaitWaiters returns when n callers have joined somebody else's compile.
func awaitWaiters(c *modcache.Cache, n uint64) {
	for c.Metrics().Coalesced < n {
		runtime.Gosched()
	}
}

func TestRuntimeFlightIsShared(t *testing.T) {
	g := newGate()
	c := newCache(t, &storetest.Fake{}, g.at(modcache.EventCompileStarted))
	runtimes := []*modcache.Runtime{newRuntime(t, c, nil), newRuntime(t, c, nil), newRuntime(t, c, nil)}
	wasm := wasmtest.Sum(20, 0)
	var all []<-chan compiled
	for i := range 64 {
		all = append(all, begin(bg, runtimes[i%len(runtimes)], wasm))
	}
	awaitWaiters(c, 63) // 61 join their runtime's, 2 runtimes join the Cache's
	close(g.open)
	for i, done := range all {
		got := <-done
		require.NoError(t, got.err)
		require.EqualValues(t, 210, call(t, runtimes[i%len(runtimes)], got.module))
		require.NoError(t, got.module.Close(bg))
	}
	require.EqualValues(t, 1, c.Metrics().Compiles)
	require.EqualValues(t, 1, c.Metrics().Retained)
}

// TestRuntimeFlightFails has 16 callers wait for a module that doesn't validate. All get
// the error that wazero gives, and nothing is kept.
func TestRuntimeFlightFails(t *testing.T) {
	g, s := newGate(), &storetest.Fake{}
	c := newCache(t, s, g.at(modcache.EventCompileStarted))
	r := newRuntime(t, c, nil)
	var m wasmtest.Module
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "f", 0x42, 1) // an i64 for an i32
	plain := wazero.NewRuntime(bg)
	defer plain.Close(bg)
	_, want := plain.CompileModule(bg, m.Bytes())
	require.Error(t, want)

	var all []<-chan compiled
	for range 16 {
		all = append(all, begin(bg, r, m.Bytes()))
	}
	awaitWaiters(c, 15)
	close(g.open)
	for _, done := range all {
		require.EqualError(t, (<-done).err, want.Error())
	}
	require.Zero(t, s.Len())
	require.Zero(t, c.Metrics().Retained)
	require.EqualValues(t, 1, c.Metrics().CompileErrors)

	_, err := r.CompileModule(bg, m.Bytes())
	require.EqualError(t, err, want.Error(), "an error must not be remembered as a success")
}

// TestRuntimeFlightOutlivesWaiters: the caller who started it leaves, reuses the bytes, and
// the other still gets the module.
func TestRuntimeFlightOutlivesWaiters(t *testing.T) {
	for _, kind := range []modcache.EventKind{modcache.EventMiss, modcache.EventCompileStarted, modcache.EventCompileFinished} {
		g := newGate()
		c := newCache(t, &storetest.Fake{}, g.at(kind))
		a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
		mine, theirs := wasmtest.Sum(20, 5), wasmtest.Sum(20, 5)
		ctx, cancel := context.WithCancelCause(bg)
		starter := begin(ctx, a, mine)
		<-g.arrived
		same, other := begin(bg, a, theirs), begin(bg, b, theirs)
		awaitWaiters(c, 2)

		errGone := errors.New("the client hung up")
		cancel(errGone)
		require.ErrorIs(t, (<-starter).err, errGone)
		clear(mine)
		close(g.open)

		for r, done := range map[*modcache.Runtime]<-chan compiled{a: same, b: other} {
			got := <-done
			require.NoError(t, got.err)
			require.EqualValues(t, 215, call(t, r, got.module))
		}
		require.EqualValues(t, 1, c.Metrics().Compiles)
	}
}

// TestRuntimeFlightOutlivesBytes: the caller leaves while his module is looked up, and
// reuses the bytes. What is loaded must still be his module, in its own name.
func TestRuntimeFlightOutlivesBytes(t *testing.T) {
	needsCompiler(t)
	mine, theirs := wasmtest.Sum(20, 5), wasmtest.Sum(20, 5)
	cold := &storetest.Fake{}
	require.NoError(t, newCache(t, cold, nil).Warm(bg, nil, modcache.NewModule(mine)))
	g := newGate()
	s := &storetest.Fake{OnGet: func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		g.pass()
		return cold.Get(ctx, key)
	}}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, nil)
	ctx, cancel := context.WithCancel(bg)
	starter := begin(ctx, r, mine)
	<-g.arrived
	other := begin(bg, r, theirs)
	awaitWaiters(c, 1)
	cancel()
	require.ErrorIs(t, (<-starter).err, context.Canceled)
	clear(mine)
	close(g.open)
	got := <-other
	require.NoError(t, got.err)
	require.EqualValues(t, 215, call(t, r, got.module))
	require.EqualValues(t, 1, c.Metrics().Hits)
	require.Zero(t, c.Metrics().StoreErrors)
}

// TestRuntimeFlightAbandonedTooLate to stop it: the code is there now, and is retained
// for the next caller.
func TestRuntimeFlightAbandonedTooLate(t *testing.T) {
	g := newGate()
	var work context.Context
	s := &storetest.Fake{}
	s.OnGet = func(ctx context.Context, key modcache.Key) (*modcache.Artifact, bool, error) {
		work = ctx
		return s.Below().Get(ctx, key)
	}
	s.OnAdd = func(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return s.Below().Add(ctx, key, a)
	}
	c := newCache(t, s, g.at(modcache.EventCompileStarted))
	r := newRuntime(t, c, nil)
	ctx, cancel := context.WithCancel(bg)
	starter := begin(ctx, r, wasmtest.Const(1))
	<-g.arrived
	cancel()
	require.ErrorIs(t, (<-starter).err, context.Canceled)
	<-work.Done()
	close(g.open)
	for c.Metrics().Retained == 0 {
		runtime.Gosched()
	}
	require.Equal(t, 1, s.Len())
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
	require.EqualValues(t, 1, c.Metrics().Compiles)
}

// TestRuntimeFlightAbandoned: whoever comes while an abandoned compile winds down gets a
// module, be it of that compile or of his own.
func TestRuntimeFlightAbandoned(t *testing.T) {
	for _, kind := range []modcache.EventKind{modcache.EventMiss, modcache.EventCompileStarted} {
		g, s := newGate(), &storetest.Fake{}
		c := newCache(t, s, g.at(kind))
		r, other := newRuntime(t, c, nil), newRuntime(t, c, nil)
		ctx, cancel := context.WithCancel(bg)
		wasm := wasmtest.Sum(20, 0)
		starter := begin(ctx, r, wasm)
		<-g.arrived
		cancel()
		require.ErrorIs(t, (<-starter).err, context.Canceled)
		late, elsewhere := begin(bg, r, wasm), begin(bg, other, wasm)
		awaitWaiters(c, 2)
		close(g.open)
		for r, done := range map[*modcache.Runtime]<-chan compiled{r: late, other: elsewhere} {
			got := <-done
			require.NoError(t, got.err)
			require.EqualValues(t, 210, call(t, r, got.module))
			require.NoError(t, got.module.Close(bg))
		}
		require.Equal(t, 1, s.Len())
	}
}

// TestRuntimeFlightAbandonedBeforeCompiling: nobody wants it, nothing is compiled.
func TestRuntimeFlightAbandonedBeforeCompiling(t *testing.T) {
	g := newGate()
	c := newCache(t, &storetest.Fake{}, g.at(modcache.EventMiss))
	r := newRuntime(t, c, nil)
	ctx, cancel := context.WithCancel(bg)
	starter := begin(ctx, r, wasmtest.Const(1))
	<-g.arrived
	cancel()
	require.ErrorIs(t, (<-starter).err, context.Canceled)
	close(g.open)
	require.NoError(t, c.Close(bg)) // waits for the flight
	require.Zero(t, c.Metrics().Compiles)
}

// TestRuntimeFlightOutlivesItsRuntime closes the runtime that a load is done in, at each
// step of the load. The other runtime must not notice.
func TestRuntimeFlightOutlivesItsRuntime(t *testing.T) {
	wasm := wasmtest.Sum(20, 0)
	for _, kind := range []modcache.EventKind{modcache.EventMiss, modcache.EventCompileStarted, modcache.EventCompileFinished, modcache.EventStored} {
		g := newGate()
		c := newCache(t, &storetest.Fake{}, g.at(kind))
		a, b := newRuntime(t, c, nil), newRuntime(t, c, nil)
		first := begin(bg, a, wasm)
		<-g.arrived
		second := begin(bg, b, wasm)
		awaitWaiters(c, 1)
		require.NoError(t, a.Close(bg))
		close(g.open)

		require.ErrorIs(t, (<-first).err, modcache.ErrClosed)
		got := <-second
		require.NoError(t, got.err)
		require.EqualValues(t, 210, call(t, b, got.module))
		require.Zero(t, c.Metrics().StoreErrors)
		require.EqualValues(t, 1, c.Metrics().Compiles, "the code was compiled, and thrown away with the runtime")
	}
}

func TestRuntimeFlightEndsWithTheCache(t *testing.T) {
	g := newGate()
	c := newCache(t, &storetest.Fake{}, g.at(modcache.EventCompileStarted))
	r := newRuntime(t, c, nil)
	old := compileThrough(t, g, r, wasmtest.Const(1))

	g2 := newGate()
	c2 := newCache(t, &storetest.Fake{}, g2.at(modcache.EventCompileStarted))
	r2 := newRuntime(t, c2, nil)
	one, two := begin(bg, r2, wasmtest.Const(2)), begin(bg, r2, wasmtest.Const(2))
	<-g2.arrived
	awaitWaiters(c2, 1)
	closed := make(chan error)
	go func() { closed <- c2.Close(bg) }()
	for c2.Attach(wazero.NewCompilationCache()) == nil { // until Close has begun
		runtime.Gosched()
	}
	require.ErrorIs(t, (<-one).err, modcache.ErrClosed)
	require.ErrorIs(t, (<-two).err, modcache.ErrClosed)
	close(g2.open)
	require.NoError(t, <-closed)
	_, err := r2.CompileModule(bg, wasmtest.Const(3))
	require.ErrorIs(t, err, modcache.ErrClosed)
	_, err = c2.NewRuntime(bg, nil)
	require.ErrorIs(t, err, modcache.ErrClosed)

	// What is there stays usable.
	require.NoError(t, c.Close(bg))
	require.EqualValues(t, 1, call(t, r, old))
	require.NoError(t, old.Close(bg))
	require.NoError(t, r.Close(bg))
	require.NoError(t, c.Close(bg))
}

func compileThrough(t *testing.T, g *gate, r *modcache.Runtime, wasm []byte) wazero.CompiledModule {
	t.Helper()
	done := begin(bg, r, wasm)
	<-g.arrived
	close(g.open)
	got := <-done
	require.NoError(t, got.err)
	return got.module
}

// TestRuntimeFlightWhoseGoroutineEnds: an observer of a test calls FailNow, which ends
// nobody's goroutine but its own.
func TestRuntimeFlightWhoseGoroutineEnds(t *testing.T) {
	c := newCache(t, &storetest.Fake{}, &modcache.Options{OnEvent: func(modcache.Event) { runtime.Goexit() }})
	r := newRuntime(t, c, nil)
	require.EqualValues(t, 1, call(t, r, compile(t, r, wasmtest.Const(1))))
}

// TestRuntimeFlightPanics: each caller gets wazero's panic, where it can be caught, and the
// next compile works.
func TestRuntimeFlightPanics(t *testing.T) {
	// try_table whose clauses are cut off, which the validator runs past.
	config := wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 | wasmtest.ExceptionHandling)
	var m wasmtest.Module
	m.Body(m.Type(nil, nil), "f", []byte{0, 0x1f, 0, 0x0b})
	wasm := m.Bytes()
	if !panics(func() {
		plain := wazero.NewRuntimeWithConfig(bg, config)
		defer plain.Close(bg)
		_, _ = plain.CompileModule(bg, wasm)
	}) {
		t.Skip("this wazero doesn't panic any more")
	}
	g := newGate()
	o := g.at(modcache.EventCompileStarted)
	o.MaxCompiles = 1
	c := newCache(t, &storetest.Fake{}, o)
	a, b := newRuntime(t, c, config), newRuntime(t, c, config)
	values := make(chan any)
	for i := range 8 {
		go func() {
			defer func() { values <- recover() }()
			_, _ = []*modcache.Runtime{a, b}[i%2].CompileModule(bg, wasm)
		}()
	}
	awaitWaiters(c, 7)
	close(g.open)
	for range 8 {
		v := <-values
		require.NotNil(t, v)
		require.Implements(t, (*error)(nil), v)
		require.Contains(t, fmt.Sprint(v), "wazero/internal/wasm", "the stack of the panic is lost")
		var re runtime.Error
		require.ErrorAs(t, v.(error), &re)
	}
	require.EqualValues(t, 1, c.Metrics().CompileErrors)
	require.EqualValues(t, 1, call(t, a, compile(t, a, wasmtest.Const(1))))

	// Warm has goroutines of its own, where nobody could catch it.
	err := c.Warm(bg, config, modcache.NewModule(wasm), modcache.NewModule(wasmtest.Const(2)))
	require.ErrorContains(t, err, "panic: ")
	require.NotContains(t, err.Error(), modcache.NewModule(wasmtest.Const(2)).Fingerprint().String())
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// TestRuntimeWithAnEndedContext: wazero serves what it has under a context that has ended, so
// do we; but nothing is compiled for nobody.
func TestRuntimeWithAnEndedContext(t *testing.T) {
	wasm := wasmtest.Sum(20, 0)
	ended, cancel := context.WithCancel(bg)
	cancel()

	g := newGate()
	c := newCache(t, &storetest.Fake{}, g.at(modcache.EventCompileStarted))
	r := newRuntime(t, c, nil)
	_, err := r.CompileModule(ended, wasm)
	require.ErrorIs(t, err, context.Canceled)
	close(g.open)

	warm := warmCache(t, nil, nil, wasm)
	r = newRuntime(t, warm, nil)
	for range 2 { // from the store, from memory
		compiled, err := r.CompileModule(ended, wasm)
		require.NoError(t, err)
		require.EqualValues(t, 210, call(t, r, compiled))
	}
	require.Zero(t, warm.Metrics().Compiles)

	lost := &storetest.Fake{}
	r = newRuntime(t, newCache(t, lost, nil), nil)
	key := r.Key(modcache.NewModule(wasm))
	require.NoError(t, compile(t, r, wasm).Close(bg))
	require.NoError(t, lost.Delete(bg, key))
	_, err = r.CompileModule(ended, wasm)
	require.NoError(t, err, "it is in memory")

	need := newCache(t, &storetest.Fake{}, &modcache.Options{RequireHit: true})
	_, err = newRuntime(t, need, nil).CompileModule(ended, wasm)
	require.ErrorIs(t, err, modcache.ErrMiss)
}

// TestRuntimeLookupThatHangs: a store that answers when its context ends, and not before,
// holds up nobody whose own context does.
func TestRuntimeLookupThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan struct{}, 1)
		s := &storetest.Fake{OnGet: func(ctx context.Context, _ modcache.Key) (*modcache.Artifact, bool, error) {
			<-ctx.Done()
			got <- struct{}{}
			return nil, false, ctx.Err()
		}}
		c, err := modcache.New(s, nil)
		require.NoError(t, err)
		defer c.Close(bg)
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		defer r.Close(bg)
		if r.Key(modcache.NewModule(nil)) == (modcache.Key{}) {
			t.Skip("wazero has no compiler for this platform")
		}

		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		_, err = r.CompileModule(ctx, wasmtest.Const(1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		<-got // the lookup was told that nobody waits

		_, err = r.CompileModule(ctx, wasmtest.Const(2)) // it has ended already
		require.ErrorIs(t, err, context.DeadlineExceeded)
		<-got
		require.Zero(t, c.Metrics().Compiles)
	})
}
