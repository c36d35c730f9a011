package wazerohook

import (
	"context"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// Allocator returns the memory allocator that ctx carries for the instances made under
// it, or nil. known is false if this wazero has another way to pass one.
func Allocator(ctx context.Context) (a experimental.MemoryAllocator, known bool) {
	key := instanceKeys().allocator
	if key == nil {
		return nil, false
	}
	a, _ = ctx.Value(key).(experimental.MemoryAllocator)
	return a, true
}

// ResolvesImports reports whether ctx may carry a resolver, so that instances made under it import
// from others than their imports name.
func ResolvesImports(ctx context.Context) bool {
	key := instanceKeys().resolver
	return key == nil || ctx.Value(key) != nil
}

// instanceKeys are the keys of what a context carries for instances, found by watching what an
// instantiation asks for. Those that aren't known are nil.
var instanceKeys = sync.OnceValue(func() (keys struct{ allocator, resolver any }) {
	defer func() { _ = recover() }()
	ctx := &probeContext{Context: context.Background()}
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	if _, err := r.InstantiateWithConfig(ctx, canary[:8], wazero.NewModuleConfig()); err != nil {
		return keys
	}
	a := experimental.MemoryAllocatorFunc(nil)
	keys.allocator = ctx.keyOf(experimental.WithMemoryAllocator(context.Background(), a), a)
	none := experimental.ImportResolver(func(string) api.Module { return nil })
	keys.resolver = ctx.keyOf(experimental.WithImportResolver(context.Background(), none), none)
	return keys
})
