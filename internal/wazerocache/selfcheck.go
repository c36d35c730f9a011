package wazerocache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wazerohook"
)

// StubsWork finds out, once per process, whether the wazero in it runs a module
// that was loaded through a stub, and refuses a stub whose code it doesn't get.
func StubsWork() error { return works(&stubs, checkStubs) }

var stubs, sharing wazerohook.Finding[struct{}]

func works(f *wazerohook.Finding[struct{}], check func() error) error {
	_, err := f.Of(func() (struct{}, error) { return struct{}{}, contain.Call(check) })
	return err
}

func checkStubs() error {
	w, err := wazerohook.Probe()
	if err != nil {
		return err
	}
	ctx := context.Background()
	stub, err := wasmbin.Stub(wazerohook.Canary(), []byte("self-check"))
	if err != nil {
		return fmt.Errorf("self-check: %w", err)
	}
	src := &breakable{ReaderAt: bytes.NewReader(w.CanaryEntry)}
	entry, err := wazerohook.ReadEntry(src, int64(len(w.CanaryEntry)), w.Version, 1)
	if err != nil {
		return fmt.Errorf("self-check: %w", err)
	}

	// A wazero that went on to compile a stub, because it doesn't get its code, would
	// keep it in memory, and the last call would trap.
	warm := &Announced{}
	r, err := NewRuntime(ctx, wazero.NewRuntimeConfig(), warm)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	if _, err := runCanary(ctx, r, stub); !errors.Is(err, ErrUnexpected) {
		return fmt.Errorf("self-check: an unannounced stub got %v, not a refusal", err)
	}
	done := warm.Announce(func() wazerohook.WazeroKey { return w.Key(stub, false) }, Ready(entry))
	defer done()
	src.broken = true
	if _, err := runCanary(ctx, r, stub); err == nil {
		return errors.New("self-check: a stub was loaded without its code")
	}
	src.broken = false
	got, err := runCanary(ctx, r, stub)
	if err != nil {
		return fmt.Errorf("self-check, warm: %w", err)
	}
	if got != wazerohook.CanaryResult {
		return fmt.Errorf("self-check: a stub returned %d, not %d", got, wazerohook.CanaryResult)
	}
	return nil
}

// breakable is a source that can be made to fail.
type breakable struct {
	io.ReaderAt
	broken bool
}

func (b *breakable) ReadAt(p []byte, off int64) (int, error) {
	if b.broken {
		return 0, io.ErrUnexpectedEOF
	}
	return b.ReaderAt.ReadAt(p, off)
}

// runCanary compiles and runs the canary's stub.
func runCanary(ctx context.Context, r wazero.Runtime, wasm []byte) (uint64, error) {
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
