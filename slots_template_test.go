package modcache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// slotGuest returns a module with a memory that keeps a handle in a global.
//
//	open() opens an object, keeps its handle, and counts in memory how often
//	kept() returns the handle; good(h) is 1 if it is good
//
// start opens one as the module is instantiated.
func slotGuest(start bool) []byte {
	var m wasmtest.Module
	i64 := []byte{wasmtest.I64}
	open := m.Import("env", "open", m.Type(nil, i64))
	get := m.Import("env", "get", m.Type(i64, i64))
	m.Memory(2)
	m.Data([]byte("slots"))
	m.Section(6, []byte{1, 0x7e, 1, 0x42, 0, 0x0b}) // a mutable i64
	f := m.Func(m.Type(nil, nil), "open", 0x10, byte(open), 0x24, 0,
		0x41, 8, 0x41, 8, 0x2d, 0, 0, 0x41, 1, 0x6a, 0x3a, 0, 0)
	m.Func(m.Type(nil, i64), "kept", 0x23, 0)
	m.Func(m.Type(i64, i64), "good", 0x20, 0, 0x10, byte(get))
	m.Func(m.Type(nil, []byte{wasmtest.I32}), "opened", 0x41, 8, 0x2d, 0, 0)
	if start {
		m.Start(f)
	}
	return m.Bytes()
}

// eachSlotTemplate runs f where templates are made in each way, with the functions of slotEnv.
func eachSlotTemplate(t *testing.T, f func(t *testing.T, e *slotEnv, r *modcache.Runtime)) {
	needsCompiler(t)
	for name, o := range map[string]*modcache.Options{"default": nil, "full decode": {FullDecode: true}, "interpreter": nil} {
		t.Run(name, func(t *testing.T) {
			config := wazero.NewRuntimeConfig()
			if name == "interpreter" {
				config = wazero.NewRuntimeConfigInterpreter()
			}
			r := newRuntime(t, newCache(t, &storetest.Fake{}, o), config)
			e := &slotEnv{t: t, ctx: bg, blocked: make(chan struct{}, 1), r: r}
			e.init()
			f(t, e, r)
		})
	}
}

// TestSlotHostInstancesOfATemplate have a table each: 64 at once, made by a guest that opens an
// object as it starts, or that Init has had open one.
func TestSlotHostInstancesOfATemplate(t *testing.T) {
	for name, o := range map[string]*modcache.TemplateOptions{
		"started": nil,
		"Init": {Init: func(ctx context.Context, mod api.Module) error {
			_, err := mod.ExportedFunction("open").Call(ctx)
			return err
		}},
		"Init of an instance that starts itself": {
			Config: anonymous().WithStartFunctions("open"),
			Init:   func(context.Context, api.Module) error { return nil },
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachSlotTemplate(t, func(t *testing.T, e *slotEnv, r *modcache.Runtime) {
				prepared := modcache.NewSlotTable[*slotCloser](nil)
				tmpl, err := e.host.NewTemplate(bg, modcache.NewModule(slotGuest(o == nil)), o, prepared)
				require.NoError(t, err)
				defer tmpl.Close(bg)
				e.ended(prepared)
				atStart := 0
				if o == nil {
					atStart = 1
				} else {
					require.Len(t, e.opened, 1, "Init's object")
				}

				const n = 64
				mods := make([]*modcache.SlotModule[*slotCloser], n)
				errs := make(chan error, n)
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() {
						errs <- func() (err error) {
							mods[i], err = e.host.InstantiateTemplate(bg, tmpl, nil, nil)
							if err != nil {
								return err
							}
							mod := mods[i]
							if got, ok := e.host.Table(bg, mod.Module); !ok || got != mod.Table() || got.Len() != atStart {
								return fmt.Errorf("its table is %p with %d objects, %t", got, got.Len(), ok)
							}
							if old := invoke(mod, "kept"); atStart == 0 && (old == "[0]" || invoke(mod, "opened") != "[1]") {
								return fmt.Errorf("it didn't begin as Init left it: %s, %s", old, invoke(mod, "opened"))
							}
							if good := goodHandle(mod, mod); good != atStart {
								return fmt.Errorf("the handle of its beginning is %d", good)
							}
							_, err = mod.ExportedFunction("open").Call(bg)
							return err
						}()
					})
				}
				wg.Wait()
				for range n {
					require.NoError(t, <-errs)
				}
				for i, mod := range mods {
					require.Equal(t, atStart+1, mod.Table().Len())
					require.Equal(t, 1, goodHandle(mod, mod))
					require.Zero(t, goodHandle(mods[(i+1)%n], mod), "another's handle")
				}
				for i, mod := range mods {
					if i%2 == 0 {
						require.NoError(t, mod.Close(bg))
						require.Zero(t, mod.Table().Len())
					} else {
						require.Equal(t, atStart+1, mod.Table().Len())
					}
				}
				require.NoError(t, r.Close(bg))
				for _, mod := range mods {
					e.ended(mod.Table())
				}
			})
		})
	}
}

// goodHandle asks an instance whether the handle that another one keeps is good.
func goodHandle(mod, other api.Module) int {
	h, err := other.ExportedFunction("kept").Call(bg)
	if err != nil {
		return -1
	}
	good, err := mod.ExportedFunction("good").Call(bg, h...)
	if err != nil {
		return -1
	}
	return int(good[0])
}

// TestSlotHostTemplateErrors: its table is closed all the same.
func TestSlotHostTemplateErrors(t *testing.T) {
	eachSlotTemplate(t, func(t *testing.T, e *slotEnv, r *modcache.Runtime) {
		newTable := func() *modcache.SlotTable[*slotCloser] { return modcache.NewSlotTable[*slotCloser](nil) }
		m := modcache.NewModule(slotGuest(true))

		table := newTable()
		_, err := e.host.NewTemplate(bg, m, &modcache.TemplateOptions{Init: func(context.Context, api.Module) error { panic("injected") }}, table)
		require.ErrorContains(t, err, "injected")
		e.ended(table)
		_, err = e.host.NewTemplate(bg, m, nil, table)
		require.ErrorIs(t, err, modcache.ErrClosed)

		// An instance without a table can't open anything.
		_, err = r.NewTemplate(bg, m, &modcache.TemplateOptions{Init: func(context.Context, api.Module) error { return nil }})
		require.ErrorIs(t, err, modcache.ErrSlotNoHandle)

		tmpl, err := e.host.NewTemplate(bg, m, nil, nil)
		require.NoError(t, err)
		mod, err := e.host.InstantiateTemplate(bg, tmpl, anonymous().WithStartFunctions("open", "none", "kept"), nil)
		require.NoError(t, err)
		require.Equal(t, 2, mod.Table().Len())
		require.NoError(t, mod.Close(bg))
		table = newTable()
		_, err = e.host.InstantiateTemplate(bg, tmpl, anonymous().WithStartFunctions("open", "good"), table)
		require.Error(t, err, "it takes a parameter")
		e.ended(table)
		require.NoError(t, tmpl.Close(bg))
		table = newTable()
		_, err = e.host.InstantiateTemplate(bg, tmpl, nil, table)
		require.ErrorIs(t, err, modcache.ErrClosed)
		e.ended(table)

		other := newRuntime(t, newCache(t, &storetest.Fake{}, nil), nil)
		foreign, err := other.NewTemplate(bg, modcache.NewModule(wasmtest.Const(1)), nil)
		require.NoError(t, err)
		table = newTable()
		_, err = e.host.InstantiateTemplate(bg, foreign, nil, table)
		require.ErrorContains(t, err, "another Runtime")
		e.ended(table)

		plain := wazero.NewRuntime(bg)
		defer plain.Close(bg)
		host, err := modcache.NewSlotHost[*slotCloser](bg, plain)
		require.NoError(t, err)
		table = newTable()
		_, err = host.NewTemplate(bg, m, nil, table)
		require.ErrorContains(t, err, "not made by a Cache")
		e.ended(table)
	})
}
