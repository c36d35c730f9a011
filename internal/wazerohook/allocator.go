package wazerohook

import (
	"context"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
)

// Allocator returns the memory allocator that ctx carries for the instances made under
// it, or nil. known is false if this wazero has another way to pass one.
func Allocator(ctx context.Context) (a experimental.MemoryAllocator, known bool) {
	key := allocatorKey()
	if key == nil {
		return nil, false
	}
	a, _ = ctx.Value(key).(experimental.MemoryAllocator)
	return a, true
}

// allocatorKey is the key of the allocator in a context, found by watching what an
// instantiation asks for.
var allocatorKey = sync.OnceValue(func() (key any) {
	defer func() {
		if recover() != nil {
			key = nil
		}
	}()
	ctx := &probeContext{Context: context.Background()}
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	if _, err := r.InstantiateWithConfig(ctx, canary[:8], wazero.NewModuleConfig()); err != nil {
		return nil
	}
	a := experimental.MemoryAllocatorFunc(nil)
	return ctx.keyOf(experimental.WithMemoryAllocator(context.Background(), a), a)
})
