package loaded

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// fake is a compiled module that counts how often it is closed.
type fake struct {
	wazero.CompiledModule
	closed int
}

func (f *fake) Close(context.Context) error {
	f.closed++
	return nil
}

var errDecode = errors.New("injected")

// fixture is a runtime whose decoder does what a test wants.
type fixture struct {
	*Owner
	decoded []*fake
	natives []any // that it was given to decode
	decode  func() (wazero.CompiledModule, error)
}

func open(e *Engine) *fixture {
	return &fixture{Owner: e.NewOwner()}
}

// compiled has the runtime make wazero's module of m.
func (f *fixture) compiled(m *Module) (wazero.CompiledModule, error) {
	return m.Compiled(f)
}

// Decode implements [Decoder].
func (f *fixture) Decode(_ []byte, native any) (wazero.CompiledModule, error) {
	f.natives = append(f.natives, native)
	if f.decode != nil {
		return f.decode()
	}
	cm := &fake{}
	f.decoded = append(f.decoded, cm)
	return cm, nil
}

// load brings code into the engine, by f, and returns its module there.
func (f *fixture) load(t *testing.T, key Key) (m *Module, own *fake) {
	t.Helper()
	return f.loadAs(t, key, Loaded{Image: []byte("image"), Native: "native", CodeLen: 100, WasmSize: 7})
}

func (f *fixture) loadAs(t *testing.T, key Key, l Loaded) (m *Module, own *fake) {
	t.Helper()
	own = &fake{}
	m, load, started, err := f.Load(t.Context(), key, func(context.Context) (*Code, error) {
		return f.NewCode(key, l, own), nil
	})
	require.NoError(t, err)
	require.Nil(t, m)
	require.True(t, started)
	c, err := load.Wait(t.Context())
	require.NoError(t, err)
	m, err = f.Take(c)
	require.NoError(t, err)
	return m, own
}

func closed(f *fixture) error { return f.Close(func() error { return nil }) }

func TestRegistryRetainsCodeBeyondItsRuntimes(t *testing.T) {
	r := New(1 << 20)
	r.Garbage = new(Garbage)
	e := r.NewEngine()
	a, b := open(e), open(e)
	m, own := a.load(t, Key{1})
	cm, err := a.compiled(m)
	require.NoError(t, err)
	require.Same(t, own, cm, "whoever loads the code has a module of it")

	theirs := b.Find(Key{1})
	cm, err = b.compiled(theirs)
	require.NoError(t, err)
	require.Same(t, b.decoded[0], cm)
	require.Nil(t, b.Find(Key{2}))
	require.False(t, e.Claim(7), "there is code for a module of that size")

	code := m.use.code
	require.Equal(t, 2, code.uses())
	require.NoError(t, closed(a))
	require.Equal(t, 1, own.closed)
	require.ErrorIs(t, m.Hold(), ErrClosed)
	m.Release() // of no use any more, and harmless
	theirs.Release()
	require.NoError(t, closed(b))
	require.Equal(t, 1, b.decoded[0].closed)
	require.Zero(t, code.uses(), "a program that makes a runtime per request would keep them all")
	require.Zero(t, code.users)
	require.Equal(t, 1, r.Retained())
	require.Zero(t, r.Garbage.Bytes())

	r.Close()
	require.Zero(t, r.Retained())
	require.Positive(t, r.Garbage.Bytes())
	require.True(t, e.Claim(7))
}

// TestRegistryWhoseRuntimeClosesBehindALoad, before those who waited for it have their
// modules.
func TestRegistryWhoseRuntimeClosesBehindALoad(t *testing.T) {
	r := New(0)
	a := open(r.NewEngine())
	own := &fake{}
	_, load, _, err := a.Load(t.Context(), Key{1}, func(context.Context) (*Code, error) {
		return a.NewCode(Key{1}, Loaded{Native: "native", CodeLen: 100, WasmSize: 7}, own), nil
	})
	require.NoError(t, err)
	<-load.Done()
	require.NoError(t, closed(a))
	require.Equal(t, 1, own.closed)
	require.False(t, a.e.Claim(7), "somebody waits for it")
	c, err := load.Wait(t.Context())
	require.NoError(t, err)
	_, err = a.Take(c)
	require.ErrorIs(t, err, ErrClosed)
	require.True(t, a.e.Claim(7), "nobody has it any more")
	_, _, _, err = a.Load(t.Context(), Key{2}, nil)
	require.ErrorIs(t, err, ErrClosed)
	r.Close()
	_, _, _, err = open(r.NewEngine()).Load(t.Context(), Key{2}, nil)
	require.ErrorIs(t, err, ErrRegistryClosed)
	r.Wait()
}

func TestRegistryWhoseRuntimeClosesAmidDecoding(t *testing.T) {
	r := New(0)
	e := r.NewEngine()
	a, b := open(e), open(e)
	held, own := a.load(t, Key{1})
	late := &fake{}
	b.decode = func() (wazero.CompiledModule, error) {
		require.NoError(t, closed(b))
		held.Release()
		require.False(t, e.Claim(7), "wazero is to find the code in memory")
		return late, nil
	}
	m := b.Find(Key{1})
	for range 2 {
		_, err := b.compiled(m)
		require.ErrorIs(t, err, ErrClosed)
	}
	require.Equal(t, 1, late.closed)
	require.Equal(t, 1, own.closed)

	b = open(e)
	held, own = a.load(t, Key{1})
	m = b.Find(Key{1})
	require.NoError(t, closed(b))
	_, err := b.compiled(m)
	require.ErrorIs(t, err, ErrClosed)
	held.Release()
	require.Equal(t, 1, own.closed)
}

// TestRegistryForgetsWhatDoesNotDecode, so that the next caller tries again.
func TestRegistryForgetsWhatDoesNotDecode(t *testing.T) {
	r := New(0)
	e := r.NewEngine()
	a, b := open(e), open(e)
	held, own := a.load(t, Key{1})

	b.decode = func() (wazero.CompiledModule, error) { return nil, errDecode }
	one, two := b.Find(Key{1}), b.Find(Key{1})
	require.Same(t, one, two)
	for _, m := range []*Module{one, two} {
		_, err := b.compiled(m)
		require.ErrorIs(t, err, errDecode)
	}
	b.decode = func() (wazero.CompiledModule, error) { panic("injected") }
	m := b.Find(Key{1})
	require.NotSame(t, one, m)
	for range 2 {
		require.Panics(t, func() { _, _ = b.compiled(m) })
	}
	require.Equal(t, 1, held.use.code.users, "holds of those who failed were lost")

	b.decode = nil
	m = b.Find(Key{1})
	_, err := b.compiled(m)
	require.NoError(t, err)
	held.Release()
	require.Zero(t, own.closed)
	m.Release()
	require.ErrorIs(t, m.Hold(), ErrGone)
	require.Equal(t, 1, own.closed)
	require.Equal(t, 1, b.decoded[0].closed)
	require.Nil(t, b.Find(Key{1}))
}

func TestRegistryClosesWhatARuntimeHasAlone(t *testing.T) {
	r := New(1 << 20)
	a := open(r.NewEngine())
	first, second := &fake{}, &fake{}
	m, ok := a.AddPrivate(first, 10)
	require.True(t, ok)
	require.NoError(t, m.Hold())
	m.Release()
	require.Zero(t, first.closed)
	m.Release()
	require.Equal(t, 1, first.closed)
	require.ErrorIs(t, m.Hold(), ErrGone)

	_, ok = a.AddPrivate(second, 10)
	require.True(t, ok)
	require.NoError(t, closed(a))
	require.Equal(t, 1, second.closed)
	_, ok = a.AddPrivate(first, 10)
	require.False(t, ok)
	require.Zero(t, r.Retained())
}

// uses returns how many runtimes use c.
func (c *Code) uses() int {
	n := len(c.others)
	if c.only != nil {
		n++
	}
	return n
}

// TestRegistryBoundsWhatRuntimesHaveOfTheSameCode, whether or not one of them uses it.
func TestRegistryBoundsWhatRuntimesHaveOfTheSameCode(t *testing.T) {
	const heap, idle = 10 << 10, 20
	for _, used := range []bool{false, true} {
		r := New(5 * heap)
		e := r.NewEngine()
		first := open(e)
		m, own := first.loadAs(t, Key{1}, Loaded{Image: []byte("image"), Native: "native", CodeLen: 100, Heap: heap})
		if !used {
			m.Release()
		}
		alone := r.RetainedBytes()
		var all []*fixture
		for range idle {
			f := open(e)
			all = append(all, f)
			theirs := f.Find(Key{1})
			_, err := f.compiled(theirs)
			require.NoError(t, err)
			require.Equal(t, 0, f.decoded[0].closed, "it is held")
			before := r.RetainedBytes()
			require.NoError(t, theirs.Hold())
			theirs.Release()
			require.Equal(t, before, r.RetainedBytes(), "it still is")
			theirs.Release()
			require.LessOrEqual(t, r.RetainedBytes(), int64(5*heap))
		}
		require.Greater(t, r.RetainedBytes(), alone+2*heap)
		stay := 0
		for _, f := range all {
			stay += 1 - f.decoded[0].closed
		}
		require.InDelta(t, 4, stay, 1)
		require.Zero(t, own.closed)

		// Who comes back has what stayed, and a new one of what didn't. Neither counts while it is held.
		last, gone := all[idle-1], all[0]
		full := r.RetainedBytes()
		m2, m3 := last.Find(Key{1}), gone.Find(Key{1})
		cm, err := last.compiled(m2)
		require.NoError(t, err)
		require.Same(t, last.decoded[0], cm)
		require.Less(t, r.RetainedBytes(), full)
		_, err = gone.compiled(m3)
		require.NoError(t, err)
		require.Len(t, gone.decoded, 2)
		m2.Release()
		m3.Release()
		for _, f := range all {
			require.NoError(t, closed(f))
		}
		require.Equal(t, alone, r.RetainedBytes())
		if used {
			require.Zero(t, alone)
			require.Zero(t, r.Retained())
			m.Release()
		}
		require.Equal(t, 1, r.Retained())
		r.Close()
		require.Zero(t, r.RetainedBytes())
		require.Equal(t, 1, own.closed)
	}
}
