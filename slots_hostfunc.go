package modcache

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// SlotFunc is a host function that works on the slot table of the module that called it. Parameters
// and results are in stack, as for wazero's api.GoModuleFunc; SlotTable.Handle reads
// a handle from it.
type SlotFunc[T any] func(ctx context.Context, mod api.Module, t *SlotTable[T], stack []uint64)

// Func makes f a host function for wazero's HostFunctionBuilder.WithGoModuleFunction.
// A call by a module without a table, or one that has ended, traps with an error that wraps
// ErrNoHandle. Calls use no reflection and allocate nothing.
func (h *SlotHost[T]) Func(f SlotFunc[T]) api.GoModuleFunction {
	return api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
		b := h.newest.Load()
		if b == nil || b.module != mod {
			if b = h.find(ctx, mod); b == nil {
				panic(fmt.Errorf("modcache: module %q has no slot table: it was not instantiated with SlotHost.Instantiate, or has ended: %w", mod.Name(), ErrNoHandle))
			}
		}
		f(ctx, mod, b.table, stack)
	})
}

// What the host function drop answers.
const (
	SlotDropped  = 0 // the handle is gone
	SlotNoHandle = 1 // it was none
	SlotInUse    = 2 // it is borrowed or has children, and stays
)

// ExportFunctions adds two functions to a host module for its guests to call. A handle has the
// type that is given: api.ValueTypeI64, or api.ValueTypeI32 for narrow tables.
//
//	clone(handle) handle   a second handle of the same object; 0 if there is no such handle or the table is full
//	drop(handle) i32       removes a handle: SlotDropped, SlotNoHandle or SlotInUse
func (h *SlotHost[T]) ExportFunctions(b wazero.HostModuleBuilder, handle api.ValueType) wazero.HostModuleBuilder {
	one := []api.ValueType{handle}
	b = b.NewFunctionBuilder().
		WithGoModuleFunction(h.Func(cloneSlot[T]), one, one).
		WithParameterNames("handle").
		Export("clone")
	return b.NewFunctionBuilder().
		WithGoModuleFunction(h.Func(dropSlot[T]), one, []api.ValueType{api.ValueTypeI32}).
		WithParameterNames("handle").
		Export("drop")
}

func cloneSlot[T any](_ context.Context, _ api.Module, t *SlotTable[T], stack []uint64) {
	h, _ := t.Share(t, t.Handle(stack[0])) // 0 if it fails
	stack[0] = uint64(h)
}

func dropSlot[T any](_ context.Context, _ api.Module, t *SlotTable[T], stack []uint64) {
	switch err := t.Remove(t.Handle(stack[0])); {
	case err == nil:
		stack[0] = SlotDropped
	case errors.Is(err, ErrInUse):
		stack[0] = SlotInUse
	default:
		stack[0] = SlotNoHandle
	}
}
