// Slots shows how two guests hold objects of their host by handle: they open them, share
// them and drop them, can't reach each other's, and leave nothing behind when they end.
//
//	go run ./examples/slots
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/examples/guest"
)

//go:embed guest/main.go
var tenant []byte

func main() {
	ctx := context.Background()
	wasm, err := build(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(ctx, os.Stdout, wasm); err != nil {
		log.Fatal(err)
	}
}

// build compiles the guest with the Go toolchain.
func build(ctx context.Context) ([]byte, error) {
	return guest.Build(ctx, tenant, "-buildmode=c-shared", "-ldflags=-s -w")
}

// journal is the object that guests have handles of.
type journal struct {
	name string
	out  io.Writer
}

func (j *journal) Close() error {
	_, err := fmt.Fprintf(j.out, "host: %s is closed\n", j.name)
	return err
}

// tenants knows the table of each tenant, by name.
type tenants map[string]*modcache.SlotTable[*journal]

// export adds the functions that guests import from the module journal.
func (ts tenants) export(b wazero.HostModuleBuilder, host *modcache.SlotHost[*journal], out io.Writer) wazero.HostModuleBuilder {
	const i32, i64 = api.ValueTypeI32, api.ValueTypeI64
	open := func(_ context.Context, mod api.Module, t *modcache.SlotTable[*journal], stack []uint64) {
		h, _ := t.Insert(&journal{read(mod, stack[0], stack[1]), out}) // 0 if the table is full
		stack[0] = uint64(h)
	}
	write := func(_ context.Context, mod api.Module, t *modcache.SlotTable[*journal], stack []uint64) {
		h, line := t.Handle(stack[0]), read(mod, stack[1], stack[2])
		stack[0] = 0
		// Borrowed, the journal stays open even if the guest is closed meanwhile.
		if j, ok := t.Borrow(h); ok {
			defer t.Release(h)
			if line != "" {
				fmt.Fprintf(j.out, "%s: %s: %s\n", mod.Name(), j.name, line)
			}
			stack[0] = 1
		}
	}
	lend := func(_ context.Context, _ api.Module, t *modcache.SlotTable[*journal], stack []uint64) {
		h, _ := t.Share(ts["bob"], t.Handle(stack[0])) // a handle in bob's table
		stack[0] = uint64(h)
	}
	b = b.NewFunctionBuilder().WithGoModuleFunction(host.Func(open), []api.ValueType{i32, i32}, []api.ValueType{i64}).Export("open")
	b = b.NewFunctionBuilder().WithGoModuleFunction(host.Func(write), []api.ValueType{i64, i32, i32}, []api.ValueType{i32}).Export("write")
	b = b.NewFunctionBuilder().WithGoModuleFunction(host.Func(lend), []api.ValueType{i64}, []api.ValueType{i64}).Export("lend")
	return host.ExportFunctions(b, i64)
}

// maxText bounds what the host copies and keeps of a guest's memory.
const maxText = 1 << 10

// read returns a string of the guest's memory, or "" if it points outside or is too long.
func read(mod api.Module, offset, size uint64) string {
	b, _ := mod.Memory().Read(uint32(offset), uint32(size))
	if len(b) > maxText {
		return ""
	}
	return string(b)
}

func run(ctx context.Context, out io.Writer, wasm []byte) error {
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return err
	}
	host, err := modcache.NewSlotHost[*journal](ctx, r)
	if err != nil {
		return err
	}
	ts := tenants{}
	if _, err := ts.export(r.NewHostModuleBuilder("journal"), host, out).Instantiate(ctx); err != nil {
		return err
	}

	// Each tenant has an instance and a table of its own; a quota bounds them together.
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return err
	}
	quota := modcache.NewSlotQuota(1000)
	instances := map[string]*modcache.SlotModule[*journal]{}
	for _, name := range []string{"alice", "bob"} {
		ts[name] = modcache.NewSlotTable(&modcache.SlotOptions[*journal]{Quota: quota})
		config := wazero.NewModuleConfig().WithName(name).WithStartFunctions("_initialize").WithStderr(io.Discard)
		if instances[name], err = host.Instantiate(ctx, compiled, config, ts[name]); err != nil {
			return err
		}
	}
	alice, bob := instances["alice"], instances["bob"]

	kept, err := call(ctx, alice, "keep")
	if err != nil {
		return err
	}
	lent, err := call(ctx, alice, "lent")
	if err != nil {
		return err
	}
	works, err := call(ctx, bob, "use", lent)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "host: bob tried 100000 integers, %d of them worked\n", works)
	stolen, err := call(ctx, bob, "try", kept)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "host: bob writes by alice's handle: %v\n", stolen == 1)

	// Alice crashes, and her instance is closed. The journal stays open for bob.
	if _, err := call(ctx, alice, "crash"); err == nil {
		return errors.New("the guest should have crashed")
	}
	if err := alice.Close(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "host: alice is gone and holds %d journals, bob holds %d\n", alice.Table().Len(), bob.Table().Len())
	return bob.Close(ctx)
}

func call(ctx context.Context, mod api.Module, name string, args ...uint64) (uint64, error) {
	res, err := mod.ExportedFunction(name).Call(ctx, args...)
	if err != nil || len(res) == 0 {
		return 0, err
	}
	if mod.ExportedFunction(name).Definition().ResultTypes()[0] == api.ValueTypeI32 {
		return uint64(uint32(res[0])), nil
	}
	return res[0], nil
}
