package loaded

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// TestRegistrySharesLightCode when another runtime asks, or the one that has it closes: not before.
func TestRegistrySharesLightCode(t *testing.T) {
	r := New(1 << 20)
	e := r.NewEngine()
	var shared []wazero.CompiledModule
	e.Share = func(cm wazero.CompiledModule) any { shared = append(shared, cm); return len(shared) }
	light := Loaded{CodeLen: 100, WasmSize: 7}
	a, b := open(e), open(e)
	m, own := a.loadAs(t, Key{1}, light)
	m.Release()
	require.Empty(t, shared)
	theirs := b.Find(Key{1})
	for range 2 {
		_, err := b.compiled(theirs)
		require.NoError(t, err)
	}
	require.Equal(t, []any{1}, b.natives)
	require.Same(t, own, shared[0])
	require.NoError(t, closed(a))
	theirs.Release()
	require.NoError(t, closed(b))
	require.Len(t, shared, 1, "that is enough for all")

	a, b = open(e), open(e)
	m, own = a.loadAs(t, Key{2}, light)
	m.Release()
	require.NoError(t, closed(a))
	require.Len(t, shared, 2)
	require.Same(t, own, shared[1])
	_, err := b.compiled(b.Find(Key{2}))
	require.NoError(t, err)
	require.Equal(t, []any{2}, b.natives)

	// What is for one use goes with its runtime.
	a = open(e)
	_, own = a.loadAs(t, Key{3}, Loaded{CodeLen: 100, WasmSize: 7, Once: true})
	theirs = b.Find(Key{3})
	require.NoError(t, closed(a))
	require.Equal(t, 1, own.closed)
	_, err = b.compiled(theirs)
	require.NoError(t, err)
	require.Equal(t, []any{2, nil}, b.natives)
	theirs.Release()
	require.Nil(t, b.Find(Key{3}))
}

// TestRegistryDropsLightCodeThatIsForgotten with its runtime, or by those who held it: nobody can get at
// it, or nobody comes back.
func TestRegistryDropsLightCodeThatIsForgotten(t *testing.T) {
	for _, kind := range []struct {
		name   string
		forget func(t *testing.T, e *Engine, l Loaded) (keep any)
	}{
		{"runtime", func(t *testing.T, e *Engine, l Loaded) any {
			m, _ := open(e).loadAs(t, Key{1}, l)
			m.Release()
			return nil
		}},
		{"runtime and hold", func(t *testing.T, e *Engine, l Loaded) any {
			open(e).loadAs(t, Key{1}, l)
			return nil
		}},
		{"handle", func(t *testing.T, e *Engine, l Loaded) any {
			a := open(e)
			m, _ := a.loadAs(t, Key{1}, l)
			EndWith(&struct{ m *Module }{m}, m)
			return a
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			for native, left := range map[any]int{nil: 0, "native": 1} {
				r := New(1 << 20)
				e := r.NewEngine()
				keep := kind.forget(t, e, Loaded{Native: native, CodeLen: 100, WasmSize: 7})
				state := func() (code, unused, owners int) {
					r.mu.Lock()
					defer r.mu.Unlock()
					return len(e.code), r.unused.Len(), e.owners
				}
				owners := 0
				if keep != nil {
					owners = 1
				}
				for i := 0; ; i++ {
					code, unused, o := state()
					if code == left && unused == left && o == owners {
						break
					}
					require.Less(t, i, 1000, "%d pieces of code stay, %d of them unused, and %d runtimes", code, unused, o)
					runtime.GC()
				}
				require.Equal(t, left, e.sizes[7])
				runtime.KeepAlive(keep)
			}
		})
	}
}
