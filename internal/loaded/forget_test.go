package loaded

import (
	"runtime"
	"testing"
	"weak"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// TestOwnerThatIsForgotten ends as if it had been closed, whatever is left of it.
func TestOwnerThatIsForgotten(t *testing.T) {
	r := New(1 << 20)
	e := r.NewEngine()
	stays := open(e)
	m, _ := stays.load(t, Key{1})
	m.Release()

	const n = 50
	for i := range n {
		f := open(e)
		m := f.Find(Key{1})
		// wazero's module leads to all of its runtime's.
		f.decode = func() (wazero.CompiledModule, error) { return &leading{to: f}, nil }
		_, err := f.compiled(m)
		require.NoError(t, err)
		_, ok := f.AddPrivate(&leading{to: f}, 10)
		require.True(t, ok)
		require.NoError(t, m.Hold())
		f.Pin(m.Release, func(func()) func() bool { return func() bool { return f == nil } })
		switch i % 3 {
		case 0:
			m.Release()
		case 1: // a load of its own
			m, _ = f.load(t, Key{2, byte(i)})
			m.Release()
		}
	}
	require.Nil(t, e.code[Key{1}].unused, "they hold it")
	owners := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return e.owners
	}
	for i := 0; owners() > 1; i++ {
		require.Less(t, i, 1000, "%d runtimes stay", owners())
		runtime.GC()
	}
	require.Empty(t, r.pinned)
	require.Equal(t, 1, e.code[Key{1}].uses())
	require.Zero(t, e.code[Key{1}].users)
	for _, c := range e.code {
		require.NotNil(t, c.unused)
	}
	require.Equal(t, len(e.code), r.Retained())

	// What stayed still has the code.
	require.Same(t, m, stays.Find(Key{1}))
	require.NoError(t, closed(stays))
	r.Close()
	require.Zero(t, r.Retained())
	require.Empty(t, e.code)
}

// leading is a compiled module that leads to something.
type leading struct {
	fake
	to any
}

// TestCodeIsDroppedBeforeItsOwnerIsFound to be garbage.
func TestCodeIsDroppedBeforeItsOwnerIsFound(t *testing.T) {
	r := New(1 << 20)
	e := r.NewEngine()
	f := open(e)
	m, own := f.load(t, Key{1})
	m.Release()
	u := m.use
	r.mu.Lock()
	f.owner = weak.Pointer[Owner]{} // as after the collector
	r.mu.Unlock()
	r.Close()
	require.Zero(t, own.closed)
	require.Empty(t, f.uses)
	require.Zero(t, u.code.uses())
	f.forget()
	f.forget()
	require.Zero(t, e.owners)
}

// TestHandleThatIsForgotten counts what its runtime has of the code as one that is closed does.
func TestHandleThatIsForgotten(t *testing.T) {
	r := New(1 << 20)
	e := r.NewEngine()
	first, second := open(e), open(e)
	m, _ := first.loadAs(t, Key{1}, Loaded{Native: "native", CodeLen: 100, Heap: 10 << 10})
	theirs := second.Find(Key{1})
	theirs.use.forget()
	require.EqualValues(t, 10<<10, r.RetainedBytes())
	require.Zero(t, r.Retained(), "the other runtime uses the module")
	require.Same(t, theirs, second.Find(Key{1}))
	require.Zero(t, r.RetainedBytes())
	theirs.Release()
	m.Release()
	require.Equal(t, 1, r.Retained())
	require.NoError(t, closed(first))
	require.NoError(t, closed(second))
}
