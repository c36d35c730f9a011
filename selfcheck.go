package modcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// stubsWork finds out, once per process, whether the wazero in it runs a module
// that was loaded through a stub, and refuses a stub that nobody announced.
var stubsWork = sync.OnceValue(func() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("self-check panicked: %v", r)
		}
	}()
	w, err := wazerohook.Probe()
	if err != nil {
		return err
	}
	ctx, config, canary := context.Background(), wazero.NewRuntimeConfig(), wazerohook.Canary()

	cold := &capture{}
	if _, err := compileWith(ctx, config, cold, canary); err != nil {
		return fmt.Errorf("self-check, cold: %w", err)
	}
	entry, err := wazerohook.ReadEntry(bytes.NewReader(cold.code), int64(len(cold.code)), w.Format, 1)
	if err != nil {
		return fmt.Errorf("self-check: %w", err)
	}
	stub, err := wasmbin.Stub(canary, []byte("self-check"))
	if err != nil {
		return fmt.Errorf("self-check: %w", err)
	}

	warm := &expectations{}
	if _, err := compileWith(ctx, config, warm, stub); !errors.Is(err, errUnexpected) {
		return fmt.Errorf("self-check: an unannounced stub got %v, not a refusal", err)
	}
	done := warm.announce(func() wazerohook.WazeroKey { return w.Key(stub, false) }, entry)
	defer done()
	got, err := compileWith(ctx, config, warm, stub)
	if err != nil {
		return fmt.Errorf("self-check, warm: %w", err)
	}
	if got != wazerohook.CanaryResult {
		return fmt.Errorf("self-check: a stub returned %d, not %d", got, wazerohook.CanaryResult)
	}
	return nil
})

// compileWith compiles and runs the canary, or its stub, on a cache of its own.
func compileWith(ctx context.Context, config wazero.RuntimeConfig, files wazerohook.FileCache, wasm []byte) (uint64, error) {
	cc := wazero.NewCompilationCache()
	if _, err := wazerohook.Plug(cc, files); err != nil {
		return 0, err
	}
	r := wazero.NewRuntimeWithConfig(ctx, config.WithCompilationCache(cc))
	defer r.Close(ctx)
	mod, err := r.Instantiate(ctx, wasm)
	if err != nil {
		return 0, err
	}
	results, err := mod.ExportedFunction("f").Call(ctx)
	if err != nil {
		return 0, err
	}
	return results[0], nil
}
