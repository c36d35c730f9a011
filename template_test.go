package modcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// statefulModule returns a module with state of every kind that can be captured: a memory
// with data, mutable and immutable globals of all types of numbers, passive segments, a table with
// functions, a start function.
//
//	set(i32) writes its argument to each mutable global and to memory at 100, and grows by a page
//	get() adds up the globals of whole numbers and what is at 100; it traps for 99
//	init(at, n) copies from the passive segment; more(at, n) from the active one
//	call(i) calls the table's function i
func statefulModule() []byte {
	var m wasmtest.Module
	i32 := []byte{wasmtest.I32}
	set, get := m.Type(i32, nil), m.Type(nil, i32)
	two, one := m.Type([]byte{wasmtest.I32, wasmtest.I32}, nil), m.Type(i32, i32)
	m.Export("memory", 2, 0)
	m.Section(4, []byte{1, 0x70, 0, 3})
	m.Section(5, []byte{1, 1, 2, 8})
	m.Section(6, []byte{6},
		[]byte{0x7f, 1, 0x41, 5, 0x0b},                                                    // 0: i32
		[]byte{0x7e, 1, 0x42, 6, 0x0b},                                                    // 1: i64
		[]byte{0x7d, 1, 0x43, 0, 0, 0x80, 0x3f, 0x0b},                                     // 2: f32
		[]byte{0x7c, 1, 0x44, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x0b},                         // 3: f64
		append(append([]byte{0x7b, 1, 0xfd, 0x0c}, bytes.Repeat([]byte{7}, 16)...), 0x0b), // 4: v128
		[]byte{0x7f, 0, 0x41, 9, 0x0b})                                                    // 5: immutable
	m.Func(set, "set",
		0x20, 0, 0x24, 0,
		0x20, 0, 0xac, 0x24, 1,
		0x20, 0, 0xb2, 0x24, 2,
		0x20, 0, 0xb7, 0x24, 3,
		0x20, 0, 0xfd, 0x11, 0x24, 4,
		0x41, 0xe4, 0, 0x20, 0, 0x36, 2, 0,
		0x41, 1, 0x40, 0, 0x1a)
	m.Func(get, "get",
		0x41, 0xe4, 0, 0x28, 2, 0, 0x41, 0xe3, 0, 0x46, 0x04, 0x40, 0x00, 0x0b,
		0x41, 0xe4, 0, 0x28, 2, 0, 0x23, 0, 0x6a, 0x23, 1, 0xa7, 0x6a, 0x23, 4, 0xfd, 0x1b, 3, 0x6a, 0x23, 5, 0x6a)
	m.Func(two, "init", 0x20, 0, 0x41, 0, 0x20, 1, 0xfc, 8, 1, 0)
	m.Func(two, "more", 0x20, 0, 0x41, 0, 0x20, 1, 0xfc, 8, 0, 0)
	m.Func(one, "call", 0x20, 0, 0x11, 1, 0)
	start := m.Func(m.Type(nil, nil), "", 0x41, 200, 1, 0x41, 1, 0x3a, 0, 0) // memory[200] = 1
	m.Start(start)
	m.Func(m.Type(i32, i32), "load", 0x20, 0, 0x2d, 0, 0)
	m.Func(two, "store", 0x20, 0, 0x20, 1, 0x3a, 0, 0)
	m.Func(m.Type(i32, i32), "grow", 0x20, 0, 0x40, 0)
	m.Section(9, []byte{1, 0, 0x41, 0, 0x0b, 2, 1, 4})
	m.Section(12, []byte{3})
	m.Section(11, []byte{3, 0, 0x41, 8, 0x0b, 3}, []byte("abc"), []byte{1, 4}, []byte("wxyz"), []byte{0, 0x41, 0xf4, 3, 0x0b, 2}, []byte("zz"))
	return m.Bytes()
}

// observe tells all that can be seen of an instance, and changes it on the way.
func observe(t *testing.T, mod api.Module) (out []string) {
	t.Helper()
	see := func() {
		b, ok := mod.Memory().Read(0, mod.Memory().Size())
		require.True(t, ok)
		out = append(out, fmt.Sprintf("%d bytes %x", len(b), modcache.Sum(b)))
		all := mod.(experimental.InternalModule)
		for i := range all.NumGlobal() {
			out = append(out, fmt.Sprint(all.Global(i).Get()))
		}
	}
	see()
	for _, call := range [][]any{
		{"get"}, {"call", 0}, {"call", 1}, {"call", 2}, {"call", 3}, {"load", 8}, {"load", 200}, {"load", 500}, {"load", 100},
		{"init", 300, 4}, {"init", 300, 5}, {"more", 310, 3}, {"more", 310, 4}, {"load", 301}, {"load", 311},
		{"grow", 1}, {"load", 2*65536 + 5}, {"set", 77}, {"get"}, {"set", 99}, {"get"}, {"grow", 9}, {"load", 1 << 30},
	} {
		var params []uint64
		for _, p := range call[1:] {
			params = append(params, uint64(p.(int)))
		}
		res, err := mod.ExportedFunction(call[0].(string)).Call(bg, params...)
		out = append(out, fmt.Sprint(call, res, errorText(err)))
		see()
	}
	for name := range mod.ExportedFunctionDefinitions() {
		require.NotEmpty(t, name)
	}
	return append(out, fmt.Sprint(len(mod.ExportedFunctionDefinitions())))
}

// templateRuntimes are all kinds that make templates in another way.
func templateRuntimes(t *testing.T, test func(t *testing.T, r *modcache.Runtime, c *modcache.Cache)) {
	needsCompiler(t)
	for name, o := range map[string]*modcache.Options{"default": nil, "off heap": {OffHeapMemory: true}, "full decode": {FullDecode: true}} {
		t.Run(name, func(t *testing.T) {
			c := newCache(t, &storetest.Fake{}, o)
			test(t, newRuntime(t, c, nil), c)
		})
	}
	t.Run("interpreter", func(t *testing.T) {
		c := newCache(t, &storetest.Fake{}, nil)
		test(t, newRuntime(t, c, wazero.NewRuntimeConfigInterpreter()), c)
	})
}

// TestTemplateInstancesAreLikePlainOnes after the same Init, and without.
func TestTemplateInstancesAreLikePlainOnes(t *testing.T) {
	wasm := statefulModule()
	inits := map[string]func(context.Context, api.Module) error{
		"no Init": nil,
		"nothing": func(context.Context, api.Module) error { return nil },
		"set": func(ctx context.Context, mod api.Module) error {
			_, err := mod.ExportedFunction("set").Call(ctx, 123456)
			return errors.Join(err, mod.ExportedFunction("set").CallWithStack(ctx, []uint64{54321}))
		},
		"host writes": func(ctx context.Context, mod api.Module) error {
			mod.Memory().WriteString(70_000, "from the host")
			mod.Memory().Grow(3)
			mod.Memory().WriteString(5*65536-4, "last")
			mod.Memory().WriteString(8, "\x00\x00\x00")
			return nil
		},
		"calls that trap": func(ctx context.Context, mod api.Module) error {
			_, _ = mod.ExportedFunction("set").Call(ctx, 99)
			_, err := mod.ExportedFunction("get").Call(ctx)
			require.Error(t, err)
			return nil
		},
	}
	templateRuntimes(t, func(t *testing.T, r *modcache.Runtime, c *modcache.Cache) {
		for name, init := range inits {
			compiled := compile(t, r, wasm)
			plain, err := r.InstantiateModule(bg, compiled, anonymous())
			require.NoError(t, err)
			if init != nil {
				require.NoError(t, init(bg, plain))
			}
			want := observe(t, plain)
			require.NoError(t, plain.Close(bg))

			tmpl, err := r.NewTemplate(bg, modcache.NewModule(wasm), &modcache.TemplateOptions{Init: init})
			require.NoError(t, err, name)
			for range 5 {
				mod, err := tmpl.Instantiate(bg, nil)
				require.NoError(t, err)
				require.Equal(t, want, observe(t, mod), name)
				require.NoError(t, mod.Close(bg))
			}
			// With an allocator of the caller's.
			mine := experimental.WithMemoryAllocator(bg, experimental.MemoryAllocatorFunc(func(uint64, uint64) experimental.LinearMemory { return &sliceMemory{} }))
			mod, err := tmpl.Instantiate(mine, nil)
			require.NoError(t, err)
			require.Equal(t, want, observe(t, mod), name)

			// As plain wasm, in plain wazero.
			foreign := wazero.NewRuntime(bg)
			mod, err = foreign.InstantiateWithConfig(bg, tmpl.Module().Bytes(), anonymous())
			require.NoError(t, err)
			require.Equal(t, want, observe(t, mod), name)
			require.NoError(t, foreign.Close(bg))
			require.NoError(t, tmpl.Close(bg))
			require.NoError(t, tmpl.Close(bg))
			_, err = tmpl.Instantiate(bg, nil)
			require.ErrorIs(t, err, modcache.ErrClosed)
			require.Nil(t, tmpl.Module())
		}
		require.EqualValues(t, len(inits), c.Metrics().Templates)
		require.EqualValues(t, len(inits)-1, c.Metrics().Snapshots)
	})
}

// TestTemplateSharesMachineCode: one compile, one artifact, one load.
func TestTemplateSharesMachineCode(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, nil)
	for range 3 {
		tmpl, err := r.NewTemplate(bg, modcache.NewModule(statefulModule()), &modcache.TemplateOptions{
			Init: func(ctx context.Context, mod api.Module) error {
				_, err := mod.ExportedFunction("set").Call(ctx, 1)
				return err
			}})
		require.NoError(t, err)
		defer tmpl.Close(bg)
	}
	require.EqualValues(t, 1, c.Metrics().Compiles)
	require.EqualValues(t, 1, c.Metrics().Stubbed)
	require.LessOrEqual(t, s.Calls().Add, 2, "the code, and an alias for other spellings")
}

// TestTemplateIsolatesInstances that write all over at once.
func TestTemplateIsolatesInstances(t *testing.T) {
	templateRuntimes(t, func(t *testing.T, r *modcache.Runtime, c *modcache.Cache) {
		tmpl, err := r.NewTemplate(bg, modcache.NewModule(statefulModule()), &modcache.TemplateOptions{
			Init: func(_ context.Context, mod api.Module) error {
				mod.Memory().Write(0, bytes.Repeat([]byte{0xee}, 2*65536))
				return nil
			}})
		require.NoError(t, err)
		defer tmpl.Close(bg)
		var wg sync.WaitGroup
		errs := make(chan string, 64)
		for i := range 64 {
			wg.Go(func() {
				mod, err := tmpl.Instantiate(bg, nil)
				if err != nil {
					errs <- err.Error()
					return
				}
				size := mod.Memory().Size()
				b, _ := mod.Memory().Read(0, size)
				if bytes.Count(b, []byte{0xee}) != 2*65536 {
					errs <- "it began with what is not in the image"
				}
				mine := bytes.Repeat([]byte{byte(i)}, int(size))
				mod.Memory().Write(0, mine)
				_, _ = mod.ExportedFunction("load").Call(bg, 5)
				if i%3 == 0 {
					runtime.GC()
				}
				if b, _ := mod.Memory().Read(0, size); !bytes.Equal(b, mine) {
					errs <- "it sees what another wrote"
				}
				if i%2 == 0 {
					_ = mod.Close(bg)
				}
			})
		}
		wg.Wait()
		close(errs)
		for e := range errs {
			t.Error(e)
		}
		mod, err := tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
		b, _ := mod.Memory().Read(0, mod.Memory().Size())
		require.Equal(t, 2*65536, bytes.Count(b, []byte{0xee}), "the image was changed")
	})
}

// TestTemplateRefusesWhatItCannotCapture, and says what that is.
func TestTemplateRefusesWhatItCannotCapture(t *testing.T) {
	injected := errors.New("injected")
	build := func(f func(m *wasmtest.Module)) []byte {
		var m wasmtest.Module
		f(&m)
		if len(m.Bytes()) == 0 {
			panic("empty")
		}
		return m.Bytes()
	}
	body := func(code ...byte) []byte {
		return build(func(m *wasmtest.Module) {
			m.Section(4, []byte{1, 0x70, 0, 3})
			m.Section(5, []byte{1, 1, 2, 8})
			m.Section(12, []byte{1})
			m.Section(11, []byte{1, 1, 1, 7})
			m.Section(9, []byte{1, 1, 0, 1, 0})
			m.Func(m.Type(nil, nil), "f", code...)
		})
	}
	templateRuntimes(t, func(t *testing.T, r *modcache.Runtime, c *modcache.Cache) {
		owner := build(func(m *wasmtest.Module) {
			m.Section(4, []byte{1, 0x70, 0, 3})
			m.Section(5, []byte{1, 0, 1})
			m.Section(6, []byte{1, 0x7f, 1, 0x41, 1, 0x0b})
			m.Export("memory", 2, 0)
			m.Export("table", 1, 0)
			m.Export("global", 3, 0)
		})
		_, err := r.InstantiateWithConfig(bg, owner, wazero.NewModuleConfig().WithName("owner"))
		require.NoError(t, err)
		nothing := func(m *wasmtest.Module) { m.Func(m.Type(nil, nil), "f") }
		importing := func(what string) []byte {
			return build(func(m *wasmtest.Module) {
				m.Section(2, []byte("\x01\x05owner"+what))
				nothing(m)
			})
		}
		for want, wasm := range map[string][]byte{
			"imports a memory":         importing("\x06memory\x02\x00\x01"),
			"imports a table":          importing("\x05table\x01\x70\x00\x01"),
			"imports a mutable global": importing("\x06global\x03\x7f\x01"),
			"holds a reference": build(func(m *wasmtest.Module) {
				m.Section(6, []byte{1, 0x70, 1, 0xd0, 0x70, 0x0b})
				nothing(m)
			}),
			"table.set":  body(0x41, 0, 0xd0, 0x70, 0x26, 0),
			"table.init": body(0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 12, 0, 0),
			"table.copy": body(0x41, 0, 0x41, 0, 0x41, 0, 0xfc, 14, 0, 0),
			"table.grow": body(0xd0, 0x70, 0x41, 1, 0xfc, 15, 0, 0x1a),
			"table.fill": body(0x41, 0, 0xd0, 0x70, 0x41, 0, 0xfc, 17, 0),
			"data.drop":  body(0xfc, 9, 0),
			"elem.drop":  body(0xfc, 13, 0),
		} {
			_, err := r.NewTemplate(bg, modcache.NewModule(wasm), &modcache.TemplateOptions{
				Init: func(context.Context, api.Module) error { panic("not called") }})
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, "modcache: make template")
			// Without Init, there is nothing to capture.
			tmpl, err := r.NewTemplate(bg, modcache.NewModule(wasm), nil)
			require.NoError(t, err, want)
			mod, err := tmpl.Instantiate(bg, nil)
			require.NoError(t, err, want)
			_, err = mod.ExportedFunction("f").Call(bg)
			require.NoError(t, err, want)
			require.NoError(t, tmpl.Close(bg))
		}

		stateful := modcache.NewModule(statefulModule())
		for want, init := range map[string]func(context.Context, api.Module) error{
			"injected":                func(context.Context, api.Module) error { return injected },
			"panic: injected":         func(context.Context, api.Module) error { panic("injected") },
			"ended its goroutine":     func(context.Context, api.Module) error { runtime.Goexit(); return nil },
			"has closed the instance": func(ctx context.Context, mod api.Module) error { return mod.Close(ctx) },
		} {
			_, err := r.NewTemplate(bg, stateful, &modcache.TemplateOptions{Init: init})
			require.ErrorContains(t, err, want)
		}
		// Another module may import what it likes, but from the instance.
		snapshots := 0
		imports := map[string][]byte{"memory": importing("\x06memory\x02\x00\x01"), "table": importing("\x05table\x01\x70\x00\x01")}
		resolver := experimental.WithImportResolver(bg, func(string) api.Module { return nil })
		exporting := modcache.NewModule(build(func(m *wasmtest.Module) {
			m.Section(4, []byte{1, 0x70, 0, 3})
			m.Section(5, []byte{1, 0, 1})
			m.Export("memory", 2, 0)
			m.Export("table", 1, 0)
			nothing(m)
		}))
		for i, test := range []struct {
			ctx        context.Context
			name, what string
			refused    bool
		}{
			{bg, "", "memory", false}, {bg, "neighbour", "table", false}, {resolver, "", "memory", true},
			{bg, "owner", "memory", true}, {bg, "owner", "table", true},
		} {
			if i == 3 {
				require.NoError(t, r.Module("owner").Close(bg))
			}
			tmpl, err := r.NewTemplate(bg, exporting, &modcache.TemplateOptions{Config: anonymous().WithName(test.name), Init: func(context.Context, api.Module) error {
				_, err := r.InstantiateModule(test.ctx, compile(t, r, imports[test.what]), anonymous())
				return err
			}})
			if test.refused {
				require.ErrorContains(t, err, "imports its memory or a table", "%d", i)
				continue
			}
			require.NoError(t, err, "%d", i)
			require.NoError(t, tmpl.Close(bg))
			snapshots++
		}
		_, err = r.NewTemplate(bg, modcache.NewModule(startingModule("wait", nil, 1, 1, 1)), nil)
		require.NoError(t, err)
		waiting, release := make(chan struct{}), make(chan struct{})
		_, err = r.NewHostModuleBuilder("host").NewFunctionBuilder().WithFunc(func() { close(waiting); <-release }).Export("wait").Instantiate(bg)
		require.NoError(t, err)
		_, err = r.NewTemplate(bg, modcache.NewModule(startingModule("wait", []byte{0x10, 0}, 1, 1, 1)), &modcache.TemplateOptions{
			Config: anonymous().WithStartFunctions(),
			Init: func(ctx context.Context, mod api.Module) error {
				go mod.ExportedFunction("_start").Call(ctx)
				<-waiting
				return nil
			}})
		require.ErrorContains(t, err, "a call of one of its functions is under way")
		close(release)
		_, err = r.NewTemplate(bg, stateful, &modcache.TemplateOptions{ID: "x"})
		require.ErrorContains(t, err, "TemplateOptions.ID")
		_, err = r.NewTemplate(bg, modcache.NewModule([]byte("no wasm")), nil)
		require.Error(t, err)
		require.EqualValues(t, snapshots, c.Metrics().Snapshots)
	})
}

// pausedContext pauses wazero where it asks for an import resolver, being about to import.
type pausedContext struct {
	context.Context
	pause func()
}

func (c pausedContext) Value(key any) any {
	if strings.Contains(fmt.Sprintf("%T", key), "ImportResolver") && bytes.Contains(debug.Stack(), []byte("resolveImports")) {
		c.pause()
	}
	return c.Context.Value(key)
}

// TestTemplateNoticesLateImporters: those whose instantiation began before the instance that Init runs in was made.
func TestTemplateNoticesLateImporters(t *testing.T) {
	templateRuntimes(t, func(t *testing.T, r *modcache.Runtime, c *modcache.Cache) {
		importer := compile(t, r, []byte("\x00asm\x01\x00\x00\x00\x02\x0f\x01\x03mem\x06memory\x02\x00\x01"))
		begun, exists, imported := make(chan bool), make(chan bool), make(chan error)
		go func() {
			_, err := r.InstantiateModule(pausedContext{bg, func() { close(begun); <-exists }}, importer, anonymous())
			imported <- err
		}()
		<-begun
		_, err := r.NewTemplate(bg, modcache.NewModule(statefulModule()), &modcache.TemplateOptions{
			Config: wazero.NewModuleConfig().WithName("mem"),
			Init: func(context.Context, api.Module) error {
				close(exists)
				return <-imported
			}})
		require.ErrorContains(t, err, "imports its memory")
	})
}

// TestTemplateKeepsSnapshotsInTheStore: for other runtimes, other processes, one at a time.
func TestTemplateKeepsSnapshotsInTheStore(t *testing.T) {
	needsCompiler(t)
	s := &storetest.Fake{}
	wasm := modcache.NewModule(statefulModule())
	var ran atomic.Int64
	o := &modcache.TemplateOptions{ID: "set 7", Init: func(ctx context.Context, mod api.Module) error {
		ran.Add(1)
		_, err := mod.ExportedFunction("set").Call(ctx, 7)
		return err
	}}
	var want []string
	try := func(c *modcache.Cache, o *modcache.TemplateOptions) {
		t.Helper()
		tmpl, err := newRuntime(t, c, nil).NewTemplate(bg, wasm, o)
		require.NoError(t, err)
		defer tmpl.Close(bg)
		mod, err := tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
		got := observe(t, mod)
		if want == nil {
			want = got
		}
		require.Equal(t, want, got)
	}
	c := newCache(t, s, nil)
	r := newRuntime(t, c, nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			tmpl, err := r.NewTemplate(bg, wasm, o)
			if err == nil {
				err = tmpl.Close(bg)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	try(c, o)
	require.EqualValues(t, 1, ran.Load())
	require.EqualValues(t, 1, c.Metrics().Snapshots)
	require.EqualValues(t, 8, c.Metrics().SnapshotsFound)
	entries := s.Len()

	c = newCache(t, s, nil) // as the next process
	try(c, o)
	require.EqualValues(t, 1, ran.Load())
	require.Zero(t, c.Metrics().Compiles)
	require.EqualValues(t, 1, c.Metrics().SnapshotsFound)

	other := *o
	other.ID = "another"
	try(c, &other)
	require.EqualValues(t, 2, ran.Load())
	require.Equal(t, entries+1, s.Len())
	_, err := newRuntime(t, c, nil).NewTemplate(bg, wasm, &modcache.TemplateOptions{ID: "fails", Init: func(context.Context, api.Module) error { return errors.New("injected") }})
	require.ErrorContains(t, err, "injected")
	require.Equal(t, entries+1, s.Len(), "a snapshot of what failed was kept")
}

// TestTemplateSurvivesDamagedSnapshots of every kind: Init runs again.
func TestTemplateSurvivesDamagedSnapshots(t *testing.T) {
	needsCompiler(t)
	dir := t.TempDir()
	wasm := modcache.NewModule(statefulModule())
	ran := 0
	o := &modcache.TemplateOptions{ID: "damage", Init: func(ctx context.Context, mod api.Module) error {
		ran++
		_, err := mod.ExportedFunction("set").Call(ctx, 7)
		return err
	}}
	known := map[string]bool{}
	try := func() {
		t.Helper()
		c, err := modcache.Open(dir, nil)
		require.NoError(t, err)
		r, err := c.NewRuntime(bg, nil)
		require.NoError(t, err)
		tmpl, err := r.NewTemplate(bg, wasm, o)
		require.NoError(t, err)
		mod, err := tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
		require.Equal(t, "[7]", invoke(mod, "load", 100))
		require.NoError(t, r.Close(bg))
		require.NoError(t, c.Close(bg))
	}
	c := openCache(t, dir, nil)
	compile(t, newRuntime(t, c, nil), wasm.Bytes())
	require.NoError(t, c.Flush(bg))
	for _, e := range cachetest.Entries(t, dir) {
		known[e] = true
	}
	try()
	require.Equal(t, 1, ran)
	try()
	require.Equal(t, 1, ran)
	for i := range 12 {
		damaged := 0
		for _, e := range cachetest.Entries(t, dir) {
			if known[e] {
				continue
			}
			damaged++
			b, err := os.ReadFile(e)
			require.NoError(t, err)
			if i%3 == 0 {
				b = b[:len(b)*i/12]
			} else {
				b[len(b)*i/12] ^= 0x10
			}
			require.NoError(t, os.WriteFile(e, b, 0o600))
		}
		require.Equal(t, 1, damaged)
		try()
		require.Equal(t, 2+i, ran, "round %d", i)
	}
}

// TestTemplateEvents says of each template how it came about.
func TestTemplateEvents(t *testing.T) {
	needsCompiler(t)
	injected := errors.New("injected")
	var mu sync.Mutex
	var seen []modcache.Event
	c := newCache(t, &storetest.Fake{}, &modcache.Options{OnEvent: func(e modcache.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch e.Kind {
		case modcache.EventSnapshotTaken, modcache.EventSnapshotFound, modcache.EventTemplateMade:
			seen = append(seen, e)
		}
	}})
	r := newRuntime(t, c, nil)
	m := modcache.NewModule(statefulModule())
	for _, step := range []struct {
		o     *modcache.TemplateOptions
		err   error
		kinds []modcache.EventKind
		bytes int64
	}{
		{nil, nil, []modcache.EventKind{modcache.EventTemplateMade}, 0},
		{&modcache.TemplateOptions{ID: "x", Init: func(_ context.Context, mod api.Module) error {
			mod.Memory().WriteByte(999, 1)
			return nil
		}}, nil, []modcache.EventKind{modcache.EventSnapshotTaken, modcache.EventTemplateMade}, 1000},
		{&modcache.TemplateOptions{ID: "x", Init: func(context.Context, api.Module) error { panic("again") }},
			nil, []modcache.EventKind{modcache.EventSnapshotFound, modcache.EventTemplateMade}, 1000},
		{&modcache.TemplateOptions{Init: func(context.Context, api.Module) error { return injected }},
			injected, []modcache.EventKind{modcache.EventSnapshotTaken, modcache.EventTemplateMade}, 0},
	} {
		seen = nil
		tmpl, err := r.NewTemplate(bg, m, step.o)
		require.ErrorIs(t, err, step.err)
		if err == nil {
			require.NoError(t, tmpl.Close(bg))
		}
		require.Len(t, seen, len(step.kinds))
		for i, e := range seen {
			require.Equal(t, step.kinds[i], e.Kind)
			require.NotEqual(t, "unknown", e.Kind.String())
			require.Equal(t, r.Key(m), e.Key)
			require.ErrorIs(t, e.Err, step.err)
			require.Equal(t, e.Kind != modcache.EventSnapshotFound, e.Duration > 0)
			if e.Kind != modcache.EventTemplateMade {
				require.Equal(t, step.bytes, e.Bytes)
			}
		}
	}
}

// TestTemplateGivesMappingsBack after many instances, closed and forgotten.
func TestTemplateGivesMappingsBack(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: mappings are counted in /proc")
	}
	needsCompiler(t)
	c := newCache(t, &storetest.Fake{}, nil)
	r := newRuntime(t, c, nil)
	tmpl, err := r.NewTemplate(bg, modcache.NewModule(memoryModule(1, 1, 9).Bytes()), nil)
	require.NoError(t, err)
	before := mappings(t)
	for i := range 10_000 {
		mod, err := tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
		require.True(t, mod.Memory().WriteByte(9, 1))
		if i%10 > 0 {
			require.NoError(t, mod.Close(bg))
		} else if i%1000 == 0 {
			require.Less(t, mappings(t), 40_000)
		}
	}
	require.EqualValues(t, 10_000, c.Metrics().OffHeap)
	require.NoError(t, tmpl.Close(bg))
	require.NoError(t, r.Close(bg)) // which knows those that nobody closed
	requireMappings(t, before)
}

// TestTemplateThatIsForgotten gives its image back, and instances that nobody closed their memory, while the
// Runtime lives on.
func TestTemplateThatIsForgotten(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: files and mappings are counted in /proc")
	}
	needsCompiler(t)
	r := newRuntime(t, newCache(t, &storetest.Fake{}, nil), nil)
	images := func() (n int) {
		files, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		for _, f := range files {
			if name, _ := os.Readlink("/proc/self/fd/" + f.Name()); strings.Contains(name, "modcache image") {
				n++
			}
		}
		return n
	}
	m := modcache.NewModule(statefulModule())
	runtime.GC()
	imagesBefore, mappingsBefore := images(), mappings(t)
	var last api.Module
	for range 200 {
		tmpl, err := r.NewTemplate(bg, m, nil)
		require.NoError(t, err)
		last, err = tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
		_, err = tmpl.Instantiate(bg, nil)
		require.NoError(t, err)
	}
	cachetest.GivesBack(t, func() bool { return images() <= imagesBefore }, "files of images stay open")
	require.Equal(t, "[97]", invoke(last, "load", 8), "an instance outlives its template")
	require.NoError(t, r.Close(bg)) // which knows instances that nobody closed, as wazero's does
	runtime.KeepAlive(last)
	last = nil
	requireMappings(t, mappingsBefore)
}

// TestTemplateThatIsNeverMade has a start function end the goroutine, as a panic of wazero's does that nobody catches: the
// template keeps nothing of the module, without the garbage collector's help.
func TestTemplateThatIsNeverMade(t *testing.T) {
	needsCompiler(t)
	w := new(witness)
	o := w.Options(modcache.Options{})
	o.Retain = 0
	c := newCache(t, modcache.NewMemory(nil), o)
	r := newRuntime(t, c, nil)
	_, err := r.NewHostModuleBuilder("env").NewFunctionBuilder().WithFunc(runtime.Goexit).Export("end").Instantiate(bg)
	require.NoError(t, err)
	var m wasmtest.Module
	m.Import("env", "end", m.Type(nil, nil))
	m.Func(m.Type(nil, nil), "_start", 0x10, 0)
	var making sync.WaitGroup
	making.Go(func() {
		_, _ = r.NewTemplate(bg, modcache.NewModule(m.Bytes()), &modcache.TemplateOptions{Init: func(context.Context, api.Module) error { return nil }})
		t.Error("it returned")
	})
	making.Wait()
	require.EqualValues(t, 1, c.Metrics().Retained)
	require.Len(t, w.Saw(modcache.EventTemplateMade), 1)
	require.Error(t, w.Saw(modcache.EventTemplateMade)[0])
}
