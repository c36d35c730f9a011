package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestTemplateCorpus does with the modules among wazero's examples and tests, which are written in C++, C,
// Rust, Zig, Go and AssemblyScript or were found by fuzzing, what TestTemplateSpecification does
// with the specification's. All exports are called, those of the first half also by Init.
func TestTemplateCorpus(t *testing.T) {
	needsCompiler(t)
	root := wazeroDir(t)
	var count templateCount
	skipped := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".wasm" || strings.Contains(name, "spectest") || strings.Contains(name, "infinite") {
			return err
		}
		count.scripts++
		if (testing.Short() || cachetest.RaceEnabled) && count.scripts%5 > 0 {
			return nil
		}
		wasm, err := os.ReadFile(name)
		require.NoError(t, err)
		if !compareTemplate(t, strings.TrimPrefix(name, root), wasm, &count) {
			skipped++
		}
		return nil
	})
	require.NoError(t, err)
	t.Logf("%+v, and %d that can't be instantiated or call on without end", count, skipped)
	require.Greater(t, count.snapshots, 10)
	require.Greater(t, count.memories, 10)
}

// compareTemplate reports false for a module that plain wazero doesn't instantiate, or that runs
// on and on.
func compareTemplate(t *testing.T, name string, wasm []byte, count *templateCount) bool {
	t.Helper()
	config := wazero.NewRuntimeConfig().WithCoreFeatures(wasmtest.AllFeatures).WithCloseOnContextDone(true)
	cached := newRuntime(t, newCache(t, &storetest.Fake{}, nil), config)
	runtimes := []wazero.Runtime{wazero.NewRuntimeWithConfig(bg, config), cached, cached, wazero.NewRuntimeWithConfig(bg, config)}
	for _, r := range runtimes {
		defer r.Close(bg)
		if r.Module(wasi_snapshot_preview1.ModuleName) == nil {
			wasi_snapshot_preview1.MustInstantiate(bg, r)
		}
	}
	plain := runtimes[0]
	compiled, err := plain.CompileModule(bg, wasm)
	if err != nil {
		return false
	}
	for _, r := range runtimes {
		if !instantiateImports(r, compiled) {
			return false
		}
	}
	// None of these modules calls on for long. A deadline that matters all the same is noticed: nothing is compared then.
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	type side struct {
		mod api.Module
		out *bytes.Buffer
	}
	start := func(make func(wazero.ModuleConfig) (api.Module, error)) (side, error) {
		out := &bytes.Buffer{}
		mod, err := make(corpusConfig().WithStdout(out).WithStderr(out))
		return side{mod, out}, err
	}
	first := func(ctx context.Context, mod api.Module) (results []string) {
		names := slices.Sorted(maps.Keys(compiled.ExportedFunctions()))
		for _, name := range names[:(len(names)+1)/2] {
			if !mod.IsClosed() {
				results = append(results, callAny(ctx, mod, name))
			}
		}
		return results
	}
	base, wantErr := start(func(mc wazero.ModuleConfig) (api.Module, error) { return plain.InstantiateModule(ctx, compiled, mc) })
	if ctx.Err() != nil {
		return false
	}
	image, err := cached.NewTemplate(bg, modcache.NewModule(wasm), nil)
	require.NoError(t, err, name)
	defer image.Close(bg)
	ripen(t, image, wasm)
	fromImage, err := start(func(mc wazero.ModuleConfig) (api.Module, error) { return image.Instantiate(ctx, mc) })
	if ctx.Err() != nil {
		return false
	}
	require.Equal(t, cachetest.ErrorText(wantErr), cachetest.ErrorText(err), name)
	if wantErr != nil {
		return false
	}
	sides := []side{base, fromImage}
	count.modules++
	count.images++
	if hasMemory(base.mod) {
		count.memories++
	}
	requireSameState(t, base.mod, fromImage.mod, name)

	wantFirst := first(ctx, base.mod)
	gotFirst := first(ctx, fromImage.mod)
	if ctx.Err() != nil {
		return false
	}
	require.Equal(t, wantFirst, gotFirst, name)
	require.Equal(t, base.out.String(), fromImage.out.String(), name)
	base.out.Reset()
	fromImage.out.Reset()
	require.Equal(t, base.mod.IsClosed(), fromImage.mod.IsClosed(), name)
	if base.mod.IsClosed() {
		return true // what is left then is no instance's state
	}
	snapshot, err := cached.NewTemplate(ctx, modcache.NewModule(wasm), &modcache.TemplateOptions{
		Config: corpusConfig(),
		Init: func(ctx context.Context, mod api.Module) error {
			got := first(ctx, mod)
			if ctx.Err() == nil {
				require.Equal(t, wantFirst, got, name)
			}
			return ctx.Err()
		},
	})
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		require.ErrorContains(t, err, "it can't be captured", name)
	default:
		defer snapshot.Close(bg)
		count.snapshots++
		ripen(t, snapshot, wasm)
		s, err := start(func(mc wazero.ModuleConfig) (api.Module, error) { return snapshot.Instantiate(bg, mc) })
		require.NoError(t, err, name)
		sides = append(sides, s)
		s, err = start(func(mc wazero.ModuleConfig) (api.Module, error) {
			return runtimes[3].InstantiateWithConfig(bg, snapshot.Module().Bytes(), mc)
		})
		require.NoError(t, err, name)
		sides = append(sides, s)
	}
	for _, export := range slices.Sorted(maps.Keys(compiled.ExportedFunctions())) {
		want := callAny(ctx, base.mod, export)
		count.actions++
		for i, s := range sides[1:] {
			got := callAny(ctx, s.mod, export)
			if ctx.Err() != nil {
				return false
			}
			require.Equal(t, want, got, "%s %s %d", name, export, i)
			require.Equal(t, base.out.String(), s.out.String(), name)
			require.Equal(t, base.mod.IsClosed(), s.mod.IsClosed(), name)
			if !base.mod.IsClosed() {
				requireSameState(t, base.mod, s.mod, name)
			}
		}
		if base.mod.IsClosed() {
			break
		}
	}
	return true
}

// corpusConfig is that of a host which has no state of its own: that isn't in a snapshot.
func corpusConfig() wazero.ModuleConfig {
	return wazero.NewModuleConfig().WithName("").WithStartFunctions().WithArgs("guest", "argument").
		WithRandSource(sameByte{}).
		WithWalltime(func() (int64, int32) { return 1_800_000_000, 0 }, 1).
		WithNanotime(func() int64 { return 1_000_000 }, 1).
		WithOsyield(func() {}).WithNanosleep(func(int64) {})
}

type sameByte struct{}

func (sameByte) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 7
	}
	return len(p), nil
}

// callAny calls an export with small numbers, and tells what came of it.
func callAny(ctx context.Context, mod api.Module, name string) string {
	f := mod.ExportedFunction(name)
	if f == nil {
		return "no function"
	}
	var params []uint64
	for i, typ := range f.Definition().ParamTypes() {
		params = append(params, uint64(8*(i+1)))
		switch typ {
		case 0x7b: // a vector is two
			params = append(params, 0)
		case api.ValueTypeI32, api.ValueTypeI64, api.ValueTypeF32, api.ValueTypeF64:
		default:
			params[len(params)-1] = 0 // null
		}
	}
	results, err := f.Call(ctx, params...)
	for i, typ := range f.Definition().ResultTypes() {
		if i < len(results) && typ == api.ValueTypeI32 {
			results[i] = uint64(uint32(results[i]))
		}
		if i < len(results) && typ == 0x70 {
			results[i] = min(results[i], 1) // an address
		}
	}
	text, _, _ := strings.Cut(cachetest.ErrorText(err), "\nGo runtime stack trace:") // a panic of the host's
	return fmt.Sprint(results, text)
}

// instantiateImports makes host modules with functions that do nothing. It reports false if more is imported.
func instantiateImports(r wazero.Runtime, compiled wazero.CompiledModule) bool {
	builders := map[string]wazero.HostModuleBuilder{}
	for _, f := range compiled.ImportedFunctions() {
		module, name, _ := f.Import()
		if module == wasi_snapshot_preview1.ModuleName || r.Module(module) != nil {
			continue
		}
		if builders[module] == nil {
			builders[module] = r.NewHostModuleBuilder(module)
		}
		nothing := api.GoModuleFunc(func(context.Context, api.Module, []uint64) {})
		builders[module].NewFunctionBuilder().WithGoModuleFunction(nothing, f.ParamTypes(), f.ResultTypes()).Export(name)
	}
	for _, b := range builders {
		if _, err := b.Instantiate(bg); err != nil {
			return false
		}
	}
	return true
}
