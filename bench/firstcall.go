package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/bench/internal/report"
	"github.com/modcache/modcache/bench/modules"
	"github.com/modcache/modcache/internal/wasmtest"
)

var firstCall = part{
	name:  "firstcall",
	title: "To the first call",
	about: "From nothing to the answer of a first call in a new process: opening the cache, making a runtime, fingerprint,\n" +
		"verification, and an instance are included. Host functions return nothing, and a program for WASI runs to its end,\n" +
		"which is a line of help. Modules up to half a megabyte are made up: functions of some 100 bytes of arithmetic.",
	run: runFirstCall,
}

// door is a way to a runtime, and to the bytes to compile in it.
type door struct {
	name string
	role report.Role
	open func(ctx context.Context, dir string, wasm []byte) (r wazero.Runtime, image []byte, err error)
}

// templates is a door through which instances come of a template.
const templates = "modcache, Template"

var doors = []door{
	{"no cache", report.Peer, func(ctx context.Context, _ string, wasm []byte) (wazero.Runtime, []byte, error) {
		return wazero.NewRuntimeWithConfig(ctx, config()), wasm, nil
	}},
	{directory, report.Peer, func(ctx context.Context, dir string, wasm []byte) (wazero.Runtime, []byte, error) {
		cc, err := wazeroDir(dir)
		if err != nil {
			return nil, nil, err
		}
		return wazero.NewRuntimeWithConfig(ctx, config().WithCompilationCache(cc)), wasm, nil
	}},
	{"modcache, drop-in", report.Ours, func(ctx context.Context, dir string, wasm []byte) (wazero.Runtime, []byte, error) {
		c, err := modcache.Open(modcacheDir(dir)+"-drop-in", nil)
		if err != nil {
			return nil, nil, err
		}
		return wazero.NewRuntimeWithConfig(ctx, config().WithCompilationCache(c.CompilationCache())), wasm, nil
	}},
	{"modcache, Runtime", report.Ours, throughRuntime},
	{"modcache, Stub", report.Ours, func(ctx context.Context, dir string, wasm []byte) (wazero.Runtime, []byte, error) {
		c, err := modcache.Open(modcacheDir(dir), nil)
		if err != nil {
			return nil, nil, err
		}
		config := config().WithCompilationCache(c.CompilationCache())
		stub, err := c.Stub(ctx, config, modcache.NewModule(wasm))
		return wazero.NewRuntimeWithConfig(ctx, config), stub, err
	}},
	{templates, report.Ours, throughRuntime},
}

func throughRuntime(ctx context.Context, dir string, wasm []byte) (wazero.Runtime, []byte, error) {
	c, err := modcache.Open(modcacheDir(dir), nil)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.NewRuntime(ctx, config())
	return r, wasm, err
}

func firstCallOnce(ctx context.Context, s start) (started, error) {
	wasm, err := os.ReadFile(s.File)
	if err != nil {
		return started{}, err
	}
	d := doors[s.Way]
	begin := time.Now()
	r, image, err := d.open(ctx, s.Dir, wasm)
	if err != nil {
		return started{}, err
	}
	if err := callOnce(ctx, r, image, d.name == templates); err != nil {
		return started{}, err
	}
	return started{time.Since(begin).Seconds() * 1e3, peakMB()}, nil
}

// callOnce compiles a module, makes an instance and calls one of its functions. A trap is an answer, too.
func callOnce(ctx context.Context, r wazero.Runtime, wasm []byte, template bool) error {
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return err
	}
	if err := hosts(ctx, r, compiled); err != nil {
		return err
	}
	config := wazero.NewModuleConfig().WithArgs("guest", "-h").WithStdout(io.Discard).WithStderr(io.Discard)
	var mod api.Module
	// A template's instance was initialised when the template was made, perhaps by an earlier process.
	if template {
		var t *modcache.Template
		if t, err = r.(*modcache.Runtime).NewTemplate(ctx, modcache.NewModule(wasm), templateOptions(compiled, config)); err == nil {
			mod, err = t.Instantiate(ctx, config)
		}
	} else if mod, err = r.InstantiateModule(ctx, compiled, config); err == nil {
		err = initialize(ctx, mod)
	}
	if _, ended := err.(*sys.ExitError); ended {
		return nil // it was a program
	}
	if err != nil {
		return err
	}
	exports := compiled.ExportedFunctions()
	name := firstExport(exports)
	if name == "" {
		return fmt.Errorf("the module exports no function")
	}
	_, _ = mod.ExportedFunction(name).Call(ctx, make([]uint64, len(exports[name].ParamTypes()))...)
	return nil
}

// firstExport is the exported function with the fewest parameters, and the first of these by name. "" is none.
func firstExport(exports map[string]api.FunctionDefinition) string {
	names := slices.DeleteFunc(slices.Collect(maps.Keys(exports)), func(name string) bool { return name == initializer })
	if len(names) == 0 {
		return ""
	}
	return slices.MinFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(exports[a].ParamTypes()), len(exports[b].ParamTypes())), cmp.Compare(a, b))
	})
}

// hosts makes the host modules that a module imports: WASI, and functions that return zeros.
func hosts(ctx context.Context, r wazero.Runtime, compiled wazero.CompiledModule) error {
	builders := map[string]wazero.HostModuleBuilder{}
	for _, f := range compiled.ImportedFunctions() {
		module, name, _ := f.Import()
		if builders[module] == nil {
			builders[module] = r.NewHostModuleBuilder(module)
		}
		results := len(f.ResultTypes())
		builders[module].NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, stack []uint64) {
			clear(stack[:results])
		}), f.ParamTypes(), f.ResultTypes()).Export(name)
	}
	for module, b := range builders {
		if module == wasi_snapshot_preview1.ModuleName {
			if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
				return err
			}
			continue
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return err
		}
	}
	return nil
}

// made returns modules of about so many bytes, the first of one function that returns a constant.
func (b *bench) made() (found []modules.Module, err error) {
	for _, size := range []int{34, 10e3, 100e3, 500e3} {
		file := filepath.Join(b.tmp, fmt.Sprintf("made-%d.wasm", size))
		if err := os.WriteFile(file, arithmetic(size), 0o600); err != nil {
			return nil, err
		}
		m, err := modules.Open(file)
		if err != nil {
			return nil, err
		}
		m.Name = "made up"
		found = append(found, m)
	}
	return found, nil
}

func arithmetic(size int) []byte {
	const i32Const, i32Mul, i32Xor = 0x41, 0x6c, 0x73
	var m wasmtest.Module
	t := m.Type(nil, []byte{wasmtest.I32})
	m.Func(t, "f", i32Const, 42)
	for n := int32(0); n < int32(size/110); n++ {
		body := append([]byte{i32Const}, wasmtest.S32(n)...)
		for i := range int32(20) {
			body = append(append(append(body, i32Const), wasmtest.S32(n^i)...), byte(i32Mul+(i32Xor-i32Mul)*(i%2)))
		}
		m.Func(t, "", body...)
	}
	return m.Bytes()
}

func runFirstCall(ctx context.Context, b *bench) ([]report.Case, error) {
	found, err := b.made()
	if err != nil {
		return nil, err
	}
	more, err := b.modules()
	if err != nil {
		return nil, err
	}
	if !b.quick && !b.given {
		m, err := modules.Build(ctx, b.tmp, reactor)
		if err != nil {
			return nil, err
		}
		more = append(more, m)
	}
	var cases []report.Case
	for _, m := range append(found, more...) {
		if m.Name == "libcre2" {
			continue // it imports a shared memory
		}
		c, err := b.firstCalls(ctx, m)
		if err != nil {
			return cases, fmt.Errorf("%v: %w", m, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// firstCalls measures one module.
func (b *bench) firstCalls(ctx context.Context, m modules.Module) (report.Case, error) {
	name := m.String()
	if m.Size < 50e3 {
		name = fmt.Sprintf("%s, %d bytes", m.Name, m.Size)
	}
	c := report.Case{Name: name, Unit: "ms", Reference: directory, Chart: true, Headline: true}
	dir, err := b.dir()
	if err != nil {
		return c, err
	}
	defer os.RemoveAll(dir)
	rounds := b.pick(2, 21)
	if m.Size > large {
		rounds = b.pick(2, 9)
	}
	peaks := make([][]float64, len(doors))
	for round := range rounds + 1 {
		for _, i := range turn(round, len(doors)) {
			if doors[i].name == templates && isProgram(m) || i == noCache && m.Size > 1e6 && round > 3 { // it takes seconds
				continue
			}
			s, _, err := child[started](ctx, "firstcall", start{Way: i, File: m.File, Dir: dir})
			if err != nil {
				return c, fmt.Errorf("%s: %w", doors[i].name, err)
			}
			if round == 0 {
				continue // it filled the caches
			}
			c.Add(doors[i].name, doors[i].role, s.Milliseconds).Aside = i == noCache
			peaks[i] = append(peaks[i], s.PeakMB)
		}
	}
	for i, d := range doors {
		if row := c.Row(d.name); row != nil && report.Quantile(peaks[i], 0.5) > 0 {
			row.Figures = []report.Figure{{Name: "peak RSS, MB", Value: report.Quantile(peaks[i], 0.5)}}
		}
	}
	return c, nil
}

// isProgram reports whether an instance of the module runs to its end, so that there is nothing to make a
// template of.
func isProgram(m modules.Module) bool { return m.Name == "gofmt" || m.Name == "compile" }
