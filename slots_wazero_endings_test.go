package modcache_test

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
)

func TestSlotHostTableEndsWithItsStart(t *testing.T) {
	trap := slices.Concat(slotOpenOne, wasmUnreachable)
	exit := func(code byte) []byte { return slices.Concat(slotOpenOne, wasmI64(code), wasmCall(fnExit)) }
	for name, body := range map[string][]byte{
		"trap":      trap,
		"exit 0":    exit(0),
		"unseen":    wasmCall(fnExitUnseen),
		"exit 3":    exit(3),
		"deadline":  slices.Concat(slotOpenOne, wasmForever),
		"block":     slices.Concat(slotOpenOne, wasmCall(fnBlock)),
		"panic":     slices.Concat(slotOpenOne, wasmCall(fnBlockAndPanic)),
		"block far": slices.Concat(slotOpenOne, wasmCall(fnBlockUnseen)),
	} {
		for _, how := range []string{"section", "_start"} {
			t.Run(name+" in "+how, func(t *testing.T) {
				eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
					f, start := wasmFunc{name: "_start", body: body}, wasmNoStart
					if how == "section" {
						f.name, start = "", fnOwn
					}
					ctx, cancel := context.WithTimeout(e.ctx, 5*time.Millisecond)
					if name == "trap" || name == "exit 0" || name == "exit 3" || name == "unseen" {
						ctx, cancel = context.WithCancel(e.ctx)
					}
					defer cancel()
					mod, table, err := e.instantiate(ctx, "guest", e.compile(start, f))
					if (name == "exit 0" || name == "unseen") && how == "_start" {
						require.NoError(t, err)
						require.True(t, mod.IsClosed())
					} else {
						require.Error(t, err)
						require.Nil(t, mod)
					}
					e.ended(table)
				})
			})
		}
	}
}

// TestSlotHostReleaseMayExit has an OnRelease end its goroutine while wazero closes all instances.
func TestSlotHostReleaseMayExit(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		compiled := e.compile(wasmNoStart, slotOpener)
		var released atomic.Int64
		for range 5 {
			table := modcache.NewSlotTable(&modcache.SlotOptions[*slotCloser]{OnRelease: func(*slotCloser) {
				released.Add(1)
				runtime.Goexit()
			}})
			_, err := table.Insert(&slotCloser{})
			require.NoError(t, err)
			_, err = e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName(""), table)
			require.NoError(t, err)
		}
		closed := false
		var closing sync.WaitGroup
		closing.Go(func() {
			_ = e.r.Close(e.ctx)
			closed = true
		})
		closing.Wait()
		require.True(t, closed)
		require.EqualValues(t, 5, released.Load())
	})
}

func TestSlotHostTableEndsWithAFailedInstantiation(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		compiled := e.compile(wasmNoStart, slotOpener)
		_, first, err := e.instantiate(e.ctx, "guest", compiled)
		require.NoError(t, err)
		_, table, err := e.instantiate(e.ctx, "guest", compiled)
		require.Error(t, err, "the name is taken")
		e.ended(table)
		_, err = first.Insert(&slotCloser{})
		require.NoError(t, err)

		unlinkable, err := e.r.CompileModule(e.ctx, wasmModule([]wasmImport{{"nowhere", "f", nil, nil}}, nil, wasmNoStart))
		require.NoError(t, err)
		_, table, err = e.instantiate(e.ctx, "other", unlinkable)
		require.Error(t, err)
		e.ended(table)

		_, err = e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName(""), table)
		require.ErrorIs(t, err, modcache.ErrClosed)

		require.NoError(t, e.r.Close(e.ctx))
		e.ended(first)
		_, table, err = e.instantiate(e.ctx, "late", compiled)
		require.Error(t, err)
		e.ended(table)
	})
}

func TestSlotHostTableEndsWithItsInstance(t *testing.T) {
	type instance = modcache.SlotModule[*slotCloser]
	for name, end := range map[string]func(e *slotEnv, m *instance){
		"Close":             func(e *slotEnv, m *instance) { require.NoError(e.t, m.Close(e.ctx)) },
		"CloseWithExitCode": func(e *slotEnv, m *instance) { require.NoError(e.t, m.CloseWithExitCode(e.ctx, 3)) },
		"wazero's Close":    func(e *slotEnv, m *instance) { require.NoError(e.t, m.Module.Close(e.ctx)) },
		"Runtime.Close":     func(e *slotEnv, m *instance) { require.NoError(e.t, e.r.Close(e.ctx)) },
		"exit 0":            func(e *slotEnv, m *instance) { _, _ = m.ExportedFunction("exit").Call(e.ctx, 0) },
		"exit 7":            func(e *slotEnv, m *instance) { _, _ = m.ExportedFunction("exit").Call(e.ctx, 7) },
		"cancelled before": func(e *slotEnv, m *instance) {
			ctx, cancel := context.WithCancel(e.ctx)
			cancel()
			_, err := m.ExportedFunction("open").Call(ctx)
			require.Error(e.t, err)
		},
		"cancelled in a loop": func(e *slotEnv, m *instance) {
			ctx, cancel := context.WithTimeout(e.ctx, 5*time.Millisecond)
			defer cancel()
			_, err := m.ExportedFunction("loop").Call(ctx)
			require.Error(e.t, err)
		},
		"cancelled in a host function":                   func(e *slotEnv, m *instance) { e.cancelIn(m, "block") },
		"cancelled in a host function that panics":       func(e *slotEnv, m *instance) { e.cancelIn(m, "blockAndPanic") },
		"cancelled in a host function, trapped at once":  func(e *slotEnv, m *instance) { e.cancelIn(m, "blockThenTrap") },
		"cancelled in a foreign host function":           func(e *slotEnv, m *instance) { e.cancelIn(m, "blockUnseen") },
		"cancelled in a foreign host function, Close":    func(e *slotEnv, m *instance) { e.cancelIn(m.Module, "blockUnseen"); _ = m.Close(e.ctx) },
		"cancelled in a foreign host function, Runtime.": func(e *slotEnv, m *instance) { e.cancelIn(m.Module, "blockUnseen"); _ = e.r.Close(e.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
				mod, table, err := e.instantiate(e.ctx, "guest", e.compile(wasmNoStart, slotOpener,
					wasmPassOn("exit", fnExit, slotWord, nil),
					wasmPassOn("block", fnBlock, nil, nil),
					wasmPassOn("blockAndPanic", fnBlockAndPanic, nil, nil),
					wasmPassOn("blockUnseen", fnBlockUnseen, nil, nil),
					wasmFunc{name: "blockThenTrap", body: slices.Concat(wasmCall(fnBlock), wasmUnreachable)},
					wasmFunc{name: "loop", body: wasmForever},
				))
				require.NoError(t, err)
				require.Same(t, table, mod.Table())
				_, err = mod.ExportedFunction("open").Call(e.ctx)
				require.NoError(t, err)
				e.alive(table)
				end(e, mod)
				e.ended(table)
			})
		})
	}
}

// cancelIn calls a function that blocks and cancels its context then.
func (e *slotEnv) cancelIn(m api.Module, name string) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	go func() {
		<-e.blocked
		cancel()
	}()
	_, err := m.ExportedFunction(name).Call(ctx)
	require.Error(e.t, err)
}
