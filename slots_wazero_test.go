package modcache_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
)

var (
	slotWord  = []byte{wasmTypeI64}
	slotWords = []api.ValueType{api.ValueTypeI64}
)

// slotImports are the host functions of slotEnv, in the order that guests import them.
var slotImports = []wasmImport{
	{"env", "open", nil, slotWord},                 // a new object
	{"env", "get", slotWord, slotWord},             // 1 if the handle is good
	{"env", "clone", slotWord, slotWord},           //
	{"env", "drop", slotWord, []byte{wasmTypeI32}}, //
	{"env", "exit", slotWord, nil},                 // closes the module with that code and stops it
	{"env", "block", nil, nil},                     // waits for the context to end
	{"env", "blockAndPanic", nil, nil},
	{"env", "blockUnseen", nil, nil},     // like blockAndPanic, but not made by SlotHost.Func
	{"env", "exitUnseen", nil, nil},      // like exit with 0, but not made by SlotHost.Func
	{"env", "child", slotWord, slotWord}, // an object that depends on another
}

const (
	fnOpen = iota
	fnGet
	fnClone
	fnDrop
	fnExit
	fnBlock
	fnBlockAndPanic
	fnBlockUnseen
	fnExitUnseen
	fnChild
	fnOwn // the first function of the guest itself
)

// slotEnv is a runtime with a host module and a SlotHost.
type slotEnv struct {
	t       *testing.T
	ctx     context.Context
	r       wazero.Runtime
	host    *modcache.SlotHost[*slotCloser]
	blocked chan struct{} // receives when a guest blocks
	mu      sync.Mutex
	opened  []*slotCloser                             // guarded by mu while guests run at once
	during  func(ctx context.Context, mod api.Module) // what open does besides
}

// eachEngine runs f with wazero's compiler and with its interpreter.
func eachSlotEngine(t *testing.T, f func(t *testing.T, e *slotEnv)) {
	for name, config := range map[string]wazero.RuntimeConfig{
		"compiler":    wazero.NewRuntimeConfig(),
		"interpreter": wazero.NewRuntimeConfigInterpreter(),
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			e := &slotEnv{
				t: t, ctx: ctx, blocked: make(chan struct{}, 1),
				r: wazero.NewRuntimeWithConfig(ctx, config.WithCloseOnContextDone(true)),
			}
			defer e.r.Close(ctx)
			e.init()
			f(t, e)
		})
	}
	t.Run("Runtime", func(t *testing.T) {
		e := &slotEnv{
			t: t, ctx: bg, blocked: make(chan struct{}, 1),
			r: newRuntime(t, newCache(t, &storetest.Fake{}, nil), wazero.NewRuntimeConfig().WithCloseOnContextDone(true)),
		}
		e.init()
		f(t, e)
	})
}

func (e *slotEnv) init() {
	var err error
	e.host, err = modcache.NewSlotHost[*slotCloser](e.ctx, e.r)
	require.NoError(e.t, err)
	b := e.r.NewHostModuleBuilder("env")
	export := func(name string, f modcache.SlotFunc[*slotCloser], params, results []api.ValueType) {
		b.NewFunctionBuilder().WithGoModuleFunction(e.host.Func(f), params, results).Export(name)
	}
	export("open", func(ctx context.Context, mod api.Module, t *modcache.SlotTable[*slotCloser], stack []uint64) {
		c := &slotCloser{}
		h, err := t.Insert(c)
		if err == nil {
			e.mu.Lock()
			e.opened = append(e.opened, c)
			e.mu.Unlock()
		}
		stack[0] = uint64(h)
		if e.during != nil {
			e.during(ctx, mod)
		}
	}, nil, slotWords)
	export("get", func(_ context.Context, _ api.Module, t *modcache.SlotTable[*slotCloser], stack []uint64) {
		_, ok := t.Get(t.Handle(stack[0]))
		if stack[0] = 0; ok {
			stack[0] = 1
		}
	}, slotWords, slotWords)
	export("child", func(_ context.Context, _ api.Module, t *modcache.SlotTable[*slotCloser], stack []uint64) {
		c := &slotCloser{}
		h, err := t.InsertChild(t.Handle(stack[0]), c)
		if err == nil {
			e.mu.Lock()
			e.opened = append(e.opened, c)
			e.mu.Unlock()
		}
		stack[0] = uint64(h)
	}, slotWords, slotWords)
	export("exit", func(ctx context.Context, mod api.Module, _ *modcache.SlotTable[*slotCloser], stack []uint64) {
		_ = mod.CloseWithExitCode(ctx, uint32(stack[0]))
		panic(sys.NewExitError(uint32(stack[0])))
	}, slotWords, nil)
	wait := func(ctx context.Context, mod api.Module) {
		e.blocked <- struct{}{}
		<-ctx.Done()
		for !mod.IsClosed() { // wazero's own goroutine does that
			runtime.Gosched()
		}
	}
	export("block", func(ctx context.Context, mod api.Module, _ *modcache.SlotTable[*slotCloser], _ []uint64) {
		wait(ctx, mod)
	}, nil, nil)
	export("blockAndPanic", func(ctx context.Context, mod api.Module, _ *modcache.SlotTable[*slotCloser], _ []uint64) {
		wait(ctx, mod)
		panic(ctx.Err())
	}, nil, nil)
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, _ []uint64) {
		wait(ctx, mod)
		panic(ctx.Err())
	}), nil, nil).Export("blockUnseen")
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, _ []uint64) {
		_ = mod.Close(ctx)
		panic(sys.NewExitError(0))
	}), nil, nil).Export("exitUnseen")
	_, err = e.host.ExportFunctions(b, api.ValueTypeI64).Instantiate(e.ctx)
	require.NoError(e.t, err)
}

// compile makes a guest that has the functions f besides one called test, that does body.
func (e *slotEnv) compile(start int, f ...wasmFunc) wazero.CompiledModule {
	compiled, err := e.r.CompileModule(e.ctx, wasmModule(slotImports, f, start))
	require.NoError(e.t, err)
	return compiled
}

func (e *slotEnv) instantiate(ctx context.Context, name string, compiled wazero.CompiledModule) (*modcache.SlotModule[*slotCloser], *modcache.SlotTable[*slotCloser], error) {
	table := modcache.NewSlotTable[*slotCloser](nil)
	mod, err := e.host.Instantiate(ctx, compiled, wazero.NewModuleConfig().WithName(name), table)
	return mod, table, err
}

// ended checks that the table is closed and all objects are.
func (e *slotEnv) ended(table *modcache.SlotTable[*slotCloser]) {
	e.t.Helper()
	_, err := table.Insert(nil)
	require.ErrorIs(e.t, err, modcache.ErrClosed, "the table outlived its instance")
	for _, c := range e.opened {
		require.EqualValues(e.t, 1, c.closed.Load())
	}
}

func (e *slotEnv) alive(table *modcache.SlotTable[*slotCloser]) {
	e.t.Helper()
	require.Equal(e.t, 1, table.Len())
	for _, c := range e.opened {
		require.Zero(e.t, c.closed.Load())
	}
}

var (
	slotOpenOne = slices.Concat(wasmCall(fnOpen), wasmDrop)
	slotOpener  = wasmFunc{name: "open", results: slotWord, body: wasmCall(fnOpen)}
)

// TestSlotHostTableIsTheCallers has A call B call the host: B's table counts. B is called while
// A starts and afterwards.
func TestSlotHostTableIsTheCallers(t *testing.T) {
	for _, how := range []string{"section", "_start", "later"} {
		t.Run(how, func(t *testing.T) {
			eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
				b, tableB, err := e.instantiate(e.ctx, "b", e.compile(wasmNoStart, slotOpener))
				require.NoError(t, err)

				// Two objects by way of B, one of its own in between.
				body := slices.Concat(wasmCall(1), wasmDrop, wasmCall(0), wasmDrop, wasmCall(1), wasmDrop)
				f, start := wasmFunc{name: how, body: body}, wasmNoStart
				if how == "section" {
					f.name, start = "", 2
				}
				compiled, err := e.r.CompileModule(e.ctx, wasmModule([]wasmImport{slotImports[fnOpen], {"b", "open", nil, slotWord}}, []wasmFunc{f}, start))
				require.NoError(t, err)
				a, tableA, err := e.instantiate(e.ctx, "a", compiled)
				require.NoError(t, err)
				if how == "later" {
					_, err = a.ExportedFunction(how).Call(e.ctx)
					require.NoError(t, err)
				}
				require.Equal(t, 1, tableA.Len())
				require.Equal(t, 2, tableB.Len())
				for mod, want := range map[api.Module]*modcache.SlotTable[*slotCloser]{a.Module: tableA, b.Module: tableB} {
					got, ok := e.host.Table(e.ctx, mod)
					require.True(t, ok)
					require.Same(t, want, got)
				}
				require.NoError(t, a.Close(e.ctx))
				require.NoError(t, b.Close(e.ctx))
				e.ended(tableA)
				e.ended(tableB)
			})
		})
	}
}

func TestSlotHostModuleWithoutTable(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		b, err := e.r.InstantiateModule(e.ctx, e.compile(wasmNoStart, slotOpener), wazero.NewModuleConfig().WithName("b"))
		require.NoError(t, err)
		_, err = b.ExportedFunction("open").Call(e.ctx)
		require.ErrorIs(t, err, modcache.ErrSlotNoHandle)
		require.ErrorContains(t, err, `"b"`)
		long, err := e.r.InstantiateModule(e.ctx, e.compile(wasmNoStart, slotOpener), wazero.NewModuleConfig().WithName(strings.Repeat("x", 1<<20)))
		require.NoError(t, err)
		_, err = long.ExportedFunction("open").Call(e.ctx)
		require.Less(t, len(err.Error()), 2<<10)
		_, ok := e.host.Table(e.ctx, b)
		require.False(t, ok)

		// It doesn't get the table of a module that calls it while starting, even if both export
		// the same names.
		for _, f := range []wasmFunc{
			{name: "run", body: slices.Concat(wasmCall(0), wasmDrop)},
			{name: "open", results: slotWord, body: wasmCall(0)},
		} {
			compiled, err := e.r.CompileModule(e.ctx, wasmModule([]wasmImport{{"b", "open", nil, slotWord}},
				[]wasmFunc{f, {body: slices.Concat(wasmCall(1), f.drop())}}, 2))
			require.NoError(t, err)
			_, table, err := e.instantiate(e.ctx, "a", compiled)
			require.ErrorIs(t, err, modcache.ErrSlotNoHandle)
			require.Empty(t, e.opened)
			e.ended(table)
			_, ok = e.host.Table(e.ctx, b)
			require.False(t, ok)
		}
	})
}

// TestSlotHostSecondInstanceOfStartingModule has a host function instantiate the module that called
// it while starting, without a table. It gets none, and the first has its own.
func TestSlotHostSecondInstanceOfStartingModule(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		var compiled wazero.CompiledModule
		depth := 0
		_, err := e.r.NewHostModuleBuilder("nest").NewFunctionBuilder().WithFunc(func(ctx context.Context) {
			if depth++; depth == 1 {
				_, err := e.r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig().WithName("second"))
				require.ErrorIs(t, err, modcache.ErrSlotNoHandle)
				require.Empty(t, e.opened)
			}
		}).Export("it").Instantiate(e.ctx)
		require.NoError(t, err)
		compiled, err = e.r.CompileModule(e.ctx, wasmModule([]wasmImport{{"nest", "it", nil, nil}, slotImports[fnOpen]},
			[]wasmFunc{{body: slices.Concat(wasmCall(0), wasmCall(1), wasmDrop)}}, 2))
		require.NoError(t, err)
		_, table, err := e.instantiate(e.ctx, "first", compiled)
		require.NoError(t, err)
		e.alive(table)
	})
}

// TestSlotHostInstanceBesideTheStartingOne has a module call, while it is starting, an instance of
// itself that has no table, before it calls for its own.
func TestSlotHostInstanceBesideTheStartingOne(t *testing.T) {
	for _, start := range []int{wasmNoStart, 2} {
		eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
			var beside api.Module
			_, err := e.r.NewHostModuleBuilder("beside").NewFunctionBuilder().WithFunc(func(ctx context.Context) {
				if beside != nil {
					_, err := beside.ExportedFunction("open").Call(ctx)
					require.ErrorIs(t, err, modcache.ErrSlotNoHandle)
					_, ok := e.host.Table(ctx, beside)
					require.False(t, ok)
					require.Empty(t, e.opened)
				}
			}).Export("call").Instantiate(e.ctx)
			require.NoError(t, err)
			compiled, err := e.r.CompileModule(e.ctx, wasmModule([]wasmImport{{"beside", "call", nil, nil}, slotImports[fnOpen]},
				[]wasmFunc{{name: "run", body: wasmCall(0)}, {name: "open", results: slotWord, body: wasmCall(1)}}, start))
			require.NoError(t, err)
			beside, err = e.r.InstantiateModule(e.ctx, compiled, wazero.NewModuleConfig().WithName(""))
			require.NoError(t, err)
			table := modcache.NewSlotTable[*slotCloser](nil)
			mod, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName("starting").WithStartFunctions("run", "open"), table)
			require.NoError(t, err)
			e.alive(table)
			require.NoError(t, mod.Close(e.ctx))
			e.ended(table)
		})
	}
}

// wrapping is a runtime that wraps what it compiles.
type wrapping struct{ wazero.Runtime }

type wrapped struct{ wazero.CompiledModule }

func (w wrapping) InstantiateModule(ctx context.Context, compiled wazero.CompiledModule, config wazero.ModuleConfig) (api.Module, error) {
	if w, ok := compiled.(wrapped); ok {
		compiled = w.CompiledModule
	}
	return w.Runtime.InstantiateModule(ctx, compiled, config)
}

// TestSlotHostWrappedModule never takes another instance for the starting one because it looks alike: a module that was
// wrapped has its table once it has started.
func TestSlotHostWrappedModule(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		e.r = wrapping{e.r}
		host, err := modcache.NewSlotHost[*slotCloser](e.ctx, e.r)
		require.NoError(t, err)
		var beside api.Module
		calls, found := 0, 0
		_, err = e.r.NewHostModuleBuilder("beside").NewFunctionBuilder().WithFunc(func(ctx context.Context, mod api.Module) {
			if calls++; calls == 1 {
				_, err := beside.ExportedFunction("ask").Call(ctx)
				require.NoError(t, err)
			}
			if _, ok := host.Table(ctx, mod); ok {
				found++
			}
		}).Export("call").Instantiate(e.ctx)
		require.NoError(t, err)
		compiled, err := e.r.CompileModule(e.ctx, wasmModule([]wasmImport{{"beside", "call", nil, nil}},
			[]wasmFunc{{name: "ask", body: wasmCall(0)}}, wasmNoStart))
		require.NoError(t, err)
		anonymous := wazero.NewModuleConfig().WithName("")
		beside, err = e.r.InstantiateModule(e.ctx, compiled, anonymous)
		require.NoError(t, err)
		mod, err := host.Instantiate(e.ctx, wrapped{compiled}, anonymous.WithStartFunctions("ask"), nil)
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		require.Zero(t, found)
		_, err = mod.ExportedFunction("ask").Call(e.ctx)
		require.NoError(t, err)
		require.Equal(t, 1, found)
		got, ok := host.Table(e.ctx, mod.Module)
		require.True(t, ok)
		require.Same(t, mod.Table(), got)
	})
}

// drop removes the result of f from the stack.
func (f wasmFunc) drop() []byte {
	if len(f.results) > 0 {
		return wasmDrop
	}
	return nil
}

// TestSlotHostNotifiers nests: the caller has a notifier of its own, and a host function that a
// start function calls instantiates another module under the context that it got.
func TestSlotHostNotifiers(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		type note struct{ code uint32 }
		var notes []note
		ctx := experimental.WithCloseNotifier(e.ctx, experimental.CloseNotifyFunc(func(_ context.Context, code uint32) {
			notes = append(notes, note{code})
		}))
		var plain api.Module
		var inner *modcache.SlotModule[*slotCloser]
		innerTable := modcache.NewSlotTable[*slotCloser](nil)
		starter := e.compile(fnOwn, wasmFunc{body: slotOpenOne})
		e.during = func(ctx context.Context, mod api.Module) {
			e.during = nil
			var err error
			plain, err = e.r.InstantiateModule(ctx, e.compile(wasmNoStart, slotOpener), wazero.NewModuleConfig().WithName("plain"))
			require.NoError(t, err)
			inner, err = e.host.Instantiate(ctx, starter, wazero.NewModuleConfig().WithName("inner"), innerTable)
			require.NoError(t, err)
		}
		outer, table, err := e.instantiate(ctx, "outer", starter)
		require.NoError(t, err)
		e.alive(table)
		e.alive(innerTable)
		require.Empty(t, notes)

		require.NoError(t, plain.Close(e.ctx))
		require.Len(t, notes, 1)
		e.alive(table)
		require.NoError(t, inner.CloseWithExitCode(e.ctx, 5))
		require.Equal(t, note{5}, notes[1])
		require.Zero(t, innerTable.Len())
		require.Equal(t, 1, table.Len())
		require.NoError(t, outer.CloseWithExitCode(e.ctx, 9))
		require.Equal(t, []note{{0}, {5}, {9}}, notes)
		e.ended(table)
	})
}

func TestSlotHostTableOfSeveralInstances(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		compiled := e.compile(wasmNoStart, slotOpener)
		table := modcache.NewSlotTable[*slotCloser](nil)
		var mods []api.Module
		for range 3 {
			mod, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName(""), table)
			require.NoError(t, err)
			mods = append(mods, mod)
		}
		_, err := mods[0].ExportedFunction("open").Call(e.ctx)
		require.NoError(t, err)
		bad := e.compile(fnOwn, wasmFunc{body: wasmUnreachable})
		_, err = e.host.Instantiate(e.ctx, bad, wazero.NewModuleConfig().WithName(""), table)
		require.Error(t, err)
		for range 100 { // the last instance ends while another one begins
			shared := modcache.NewSlotTable[*slotCloser](nil)
			last, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName(""), shared)
			require.NoError(t, err)
			done := make(chan error)
			go func() { done <- last.Close(e.ctx) }()
			next, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName(""), shared)
			require.NoError(t, <-done)
			if err != nil {
				require.ErrorIs(t, err, modcache.ErrClosed)
				continue
			}
			_, err = shared.Insert(nil)
			require.NoError(t, err, "the table is closed under its instance")
			require.NoError(t, next.Module.Close(e.ctx))
		}
		for _, mod := range mods {
			e.alive(table)
			require.NoError(t, mod.Close(e.ctx))
			require.NoError(t, mod.Close(e.ctx), "once is enough")
		}
		e.ended(table)
	})
}

func TestSlotHostManyInstances(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		compiled := e.compile(wasmNoStart, slotOpener)
		done := make(chan error)
		var opened atomic.Int64
		for range 4 {
			go func() {
				done <- func() error {
					for range 50 {
						table := modcache.NewSlotTable(&modcache.SlotOptions[*slotCloser]{OnRelease: func(*slotCloser) { opened.Add(-1) }})
						mod, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig().WithName(""), table)
						if err != nil {
							return err
						}
						if _, err := table.Insert(&slotCloser{}); err != nil {
							return err
						}
						opened.Add(1)
						if got, ok := e.host.Table(e.ctx, mod.Module); !ok || got != table {
							return errors.New("another's table")
						}
						if err := mod.Module.Close(e.ctx); err != nil {
							return err
						}
						if _, ok := e.host.Table(e.ctx, mod.Module); ok {
							return errors.New("the host remembers a closed instance")
						}
					}
					return nil
				}()
			}()
		}
		for range 4 {
			require.NoError(t, <-done)
		}
		require.Zero(t, opened.Load())
	})
}

// TestSlotHostBorrowOutlivesItsInstance closes the instance while a host function that it called uses an
// object.
func TestSlotHostBorrowOutlivesItsInstance(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		mod, err := e.host.Instantiate(e.ctx, e.compile(wasmNoStart, slotOpener), wazero.NewModuleConfig(), nil)
		require.NoError(t, err)
		e.during = func(ctx context.Context, caller api.Module) {
			table, ok := e.host.Table(ctx, caller)
			require.True(t, ok)
			for h := range table.Range {
				c, ok := table.Borrow(h)
				require.True(t, ok)
				closed := make(chan error)
				go func() { closed <- mod.Close(ctx) }()
				require.NoError(t, <-closed)
				_, ok = table.Get(h)
				require.False(t, ok)
				require.Zero(t, c.closed.Load())
				require.NoError(t, table.Release(h))
				require.EqualValues(t, 1, c.closed.Load())
			}
			_, ok = e.host.Table(ctx, caller)
			require.False(t, ok)
		}
		_, err = mod.ExportedFunction("open").Call(e.ctx)
		var exit *sys.ExitError
		require.ErrorAs(t, err, &exit)
		e.ended(mod.Table())
		require.Nil(t, mod.ExportedFunction("nothing"))
	})
}

func TestSlotHostNarrowFunctions(t *testing.T) {
	eachSlotEngine(t, func(t *testing.T, e *slotEnv) {
		_, err := e.host.ExportFunctions(e.r.NewHostModuleBuilder("narrow"), api.ValueTypeI32).Instantiate(e.ctx)
		require.NoError(t, err)
		i32 := []byte{wasmTypeI32}
		compiled, err := e.r.CompileModule(e.ctx, wasmModule(
			[]wasmImport{{"narrow", "clone", i32, i32}, {"narrow", "drop", i32, i32}},
			[]wasmFunc{wasmPassOn("clone", 0, i32, i32), wasmPassOn("drop", 1, i32, i32)}, wasmNoStart))
		require.NoError(t, err)
		table := modcache.NewSlotTable(&modcache.SlotOptions[*slotCloser]{Narrow: true})
		mod, err := e.host.Instantiate(e.ctx, compiled, wazero.NewModuleConfig(), table)
		require.NoError(t, err)
		c := &slotCloser{}
		h, err := table.Insert(c)
		require.NoError(t, err)

		stack := []uint64{uint64(h) | 0xffff<<32} // an i32's upper half says nothing
		require.NoError(t, mod.ExportedFunction("clone").CallWithStack(e.ctx, stack))
		second := table.Handle(stack[0])
		require.NotEqual(t, h, second)
		for _, h := range []modcache.Handle{h, second} {
			require.Zero(t, c.closed.Load())
			res, err := mod.ExportedFunction("drop").Call(e.ctx, uint64(h))
			require.NoError(t, err)
			require.EqualValues(t, modcache.SlotDropped, uint32(res[0]))
		}
		require.EqualValues(t, 1, c.closed.Load())

		ctx, cancel := context.WithCancel(e.ctx)
		cancel()
		require.Error(t, mod.ExportedFunction("drop").CallWithStack(ctx, stack))
		e.ended(table)
	})
}
