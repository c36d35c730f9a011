package main

import (
	"context"
	"crypto/rand"
	"path/filepath"

	"github.com/samyfodil/wazy"
	"github.com/samyfodil/wazy/api"
	"github.com/samyfodil/wazy/experimental"
	"github.com/samyfodil/wazy/imports/wasi_snapshot_preview1"
)

// wazy is a fork of wazero with a directory cache of its own. Its types are its own, too, so that what
// other files do with wazero's is here a second time.

func wazyConfig() wazy.RuntimeConfig {
	return wazy.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads | api.CoreFeatureExceptionHandling)
}

// compileInWazy compiles a module with wazy's directory cache.
func compileInWazy(ctx context.Context, dir string, wasm []byte) error {
	cc, err := wazy.NewCompilationCacheWithDir(filepath.Join(dir, "wazy"))
	if err != nil {
		return err
	}
	_, err = wazy.NewRuntimeWithConfig(ctx, wazyConfig().WithCompilationCache(cc)).CompileModule(ctx, wasm)
	return err
}

func openWazy(ctx context.Context, wasm []byte) (func(context.Context) (instance, error), error) {
	r := wazy.NewRuntimeWithConfig(ctx, wazyConfig())
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	builders := map[string]wazy.HostModuleBuilder{}
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
			_, err = wasi_snapshot_preview1.Instantiate(ctx, r)
		} else {
			_, err = b.Instantiate(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
	config := wazy.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(rand.Reader)
	return func(ctx context.Context) (instance, error) {
		mod, err := r.InstantiateModule(ctx, compiled, config)
		if err != nil {
			return nil, err
		}
		if f := mod.ExportedFunction(initializer); f != nil {
			_, err = f.Call(ctx)
		}
		return mod, err
	}, nil
}
