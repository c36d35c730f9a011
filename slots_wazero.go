package modcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/contain"
	"github.com/modcache/modcache/internal/wazerohook"
)

// SlotHost ties slot tables to the module instances of one wazero runtime: it
// instantiates modules with a table, finds the table of the module that calls a host
// function, and closes the table when the instance ends, in whatever way that happens.
//
// It holds nothing that needs closing: closing the runtime ends it and all its tables. Until then a host takes
// some 8 kB, so make one for a runtime, not one for each request. All
// methods may be called from several goroutines at once.
type SlotHost[T any] struct {
	runtime wazero.Runtime
	bound   sync.Map                       // api.Module → *slotBinding[T]
	newest  atomic.Pointer[slotBinding[T]] // one of them, asked first: many hosts run one instance at a time
}

// NewSlotHost returns a host for the instances of r, which must be open: wazero panics on
// host modules of a closed runtime.
//
// A whole program: examples/slots.
func NewSlotHost[T any](ctx context.Context, r wazero.Runtime) (*SlotHost[T], error) {
	h := &SlotHost[T]{runtime: r}
	// wazero notifies nobody of an instance whose context ended if it trapped before it could
	// notice, and its runtime forgets it. If nobody closes the table of such an instance
	// earlier, this module without functions does: it is notified of the runtime's end.
	sentinel, err := r.NewHostModuleBuilder("modcache-slots").Compile(ctx)
	if err != nil {
		return nil, &SlotError{Op: "make a slot host", Err: err}
	}
	ctx = experimental.WithCloseNotifier(ctx, experimental.CloseNotifyFunc(func(context.Context, uint32) {
		h.bound.Range(func(_, b any) bool {
			b.(*slotBinding[T]).end()
			return true
		})
	}))
	if _, err = r.InstantiateModule(ctx, sentinel, wazero.NewModuleConfig().WithName("")); err != nil {
		return nil, &SlotError{Op: "make a slot host", Err: err}
	}
	return h, nil
}

// SlotModule is a module instance that has a slot table. Its field Module is wazero's own
// module, which other functions of wazero expect.
type SlotModule[T any] struct {
	api.Module
	binding *slotBinding[T]
}

// Table returns the table of the instance. It is closed if the instance has ended.
func (m *SlotModule[T]) Table() *SlotTable[T] { return m.binding.table }

// Close closes the instance and ends its hold on the table.
func (m *SlotModule[T]) Close(ctx context.Context) error { return m.CloseWithExitCode(ctx, 0) }

// CloseWithExitCode closes the instance and ends its hold on the table.
func (m *SlotModule[T]) CloseWithExitCode(ctx context.Context, code uint32) error {
	defer m.binding.end()
	return m.Module.CloseWithExitCode(ctx, code)
}

// ExportedFunction returns a function of the instance, or nil. When a call of it fails, the
// table is closed if the instance is, even if wazero notified nobody of that: it doesn't
// when the context is cancelled and the guest traps before it could notice.
func (m *SlotModule[T]) ExportedFunction(name string) api.Function {
	f := m.Module.ExportedFunction(name)
	if f == nil {
		return nil
	}
	return slotFunction{f, m.binding.endIfClosed}
}

type slotFunction struct {
	api.Function
	failed func()
}

func (f slotFunction) Call(ctx context.Context, params ...uint64) ([]uint64, error) {
	res, err := f.Function.Call(ctx, params...)
	if err != nil {
		f.failed()
	}
	return res, err
}

func (f slotFunction) CallWithStack(ctx context.Context, stack []uint64) error {
	err := f.Function.CallWithStack(ctx, stack)
	if err != nil {
		f.failed()
	}
	return err
}

// Instantiate instantiates a module and gives it the table t, which its start functions
// have already. If t is nil, it is a new one with the default options. The table is closed
// when the instance ends: when it or the runtime is closed, when it exits, when its
// context is cancelled (if the runtime is configured WithCloseOnContextDone), and when it
// can't be instantiated. Several instances may have one table, as threads do; it is closed
// when the last of them ends.
//
// Host functions that the instance called may still run when its table is closed, as
// they may when wazero closes the instance itself. They Borrow what must not be released
// meanwhile. After a cancelled context, wazero ends the instance when the host function
// that it called has returned. wazero holds a lock while a runtime is closed: OnRelease
// must not call the runtime.
//
// If compiled isn't wazero's or a [Runtime]'s own, but somebody's wrapper, start functions don't have
// the table: nothing tells then whose they are. Host functions that they call get a context that is derived from ctx.
//
// As in wazero, an instance whose start function exits with code 0 is
// returned closed, without an error. Instantiate fails with ErrClosed if t is closed.
func (h *SlotHost[T]) Instantiate(ctx context.Context, compiled wazero.CompiledModule, config wazero.ModuleConfig, t *SlotTable[T]) (*SlotModule[T], error) {
	return h.instantiate(ctx, t, func(ctx context.Context, mark func(wazero.CompiledModule) wazero.CompiledModule) (api.Module, error) {
		return h.runtime.InstantiateModule(ctx, mark(compiled), config)
	})
}

// instantiate has make make an instance, of what mark returns.
func (h *SlotHost[T]) instantiate(ctx context.Context, t *SlotTable[T], make func(ctx context.Context, mark func(wazero.CompiledModule) wazero.CompiledModule) (api.Module, error)) (*SlotModule[T], error) {
	if t == nil {
		t = NewSlotTable[T](nil)
	}
	if !t.attach() {
		return nil, &SlotError{Op: "instantiate a module with a slot table", Err: ErrClosed}
	}
	b := &slotBinding[T]{host: h, table: t}
	ok := false
	defer func() { // also if wazero panics
		if !ok {
			b.end()
		}
	}()
	mod, err := make(newSlotContext(ctx, b), func(compiled wazero.CompiledModule) (marked wazero.CompiledModule) {
		marked, b.isInstance = markInstance(compiled)
		return marked
	})
	if err != nil {
		return nil, err
	}
	if !b.bind(mod) {
		_ = mod.Close(ctx)
		return nil, fmt.Errorf("modcache: while module %.100q was starting, module %.100q, which has no slot table, called for its own", mod.Name(), (*b.mod.Load()).Name())
	}
	if ok = !mod.IsClosed(); ok {
		h.newest.Store(b)
		b.forgetIfEnded()
	}
	return &SlotModule[T]{mod, b}, nil
}

// Table returns the table of the instance mod, which is the module that wazero passes to a host
// function, together with the context of that call. ok is false if mod has no table
// or has ended.
func (h *SlotHost[T]) Table(ctx context.Context, mod api.Module) (t *SlotTable[T], ok bool) {
	if b := h.lookup(ctx, mod); b != nil {
		return b.table, true
	}
	return nil, false
}

// lookup returns the binding of mod, or nil if it has no table.
func (h *SlotHost[T]) lookup(ctx context.Context, mod api.Module) *slotBinding[T] {
	if b := h.newest.Load(); b != nil && *b.mod.Load() == mod {
		return b
	}
	return h.find(ctx, mod)
}

// find looks for an instance that isn't the newest. It returns nil if mod has no table.
func (h *SlotHost[T]) find(ctx context.Context, mod api.Module) *slotBinding[T] {
	if b, ok := h.bound.Load(mod); ok {
		return b.(*slotBinding[T])
	}
	// An instance that is starting is not in bound yet. The context says which instances are
	// starting, but not that mod is one of them: it may be a module that one of them calls.
	for b, _ := ctx.Value(slotContextKey[T]{h}).(*slotBinding[T]); b != nil; b = b.outer {
		if b.mod.Load() == nil && b.isInstance(mod) && b.bind(mod) {
			return b
		}
	}
	return nil
}

// slotBinding is the tie between one instance and its table.
type slotBinding[T any] struct {
	host       *SlotHost[T]
	table      *SlotTable[T]
	isInstance func(api.Module) bool      // tells the instance from all others
	outer      *slotBinding[T]            // of the instance in whose start this one was made
	mod        atomic.Pointer[api.Module] // nil until the instance is known
	ended      atomic.Bool
}

// bind makes mod known as the instance of b. It fails if another one is.
func (b *slotBinding[T]) bind(mod api.Module) bool {
	if !b.mod.CompareAndSwap(nil, &mod) {
		return *b.mod.Load() == mod
	}
	b.host.bound.Store(mod, b)
	b.forgetIfEnded()
	return true
}

// end closes the table, unless other instances have it too.
func (b *slotBinding[T]) end() {
	if b.ended.CompareAndSwap(false, true) {
		b.forgetIfEnded()
		b.table.leave()
	}
}

// endIfClosed ends b if its instance is known and closed.
func (b *slotBinding[T]) endIfClosed() {
	if mod := b.mod.Load(); mod != nil && (*mod).IsClosed() {
		b.end()
	}
}

// forgetIfEnded is called after b was made known and after it ended, so that the later of both
// takes it out.
func (b *slotBinding[T]) forgetIfEnded() {
	if mod := b.mod.Load(); mod != nil && b.ended.Load() {
		b.host.newest.CompareAndSwap(b, nil)
		b.host.bound.CompareAndDelete(*mod, b)
	}
}

// CloseNotify implements experimental.CloseNotifier. Modules that are instantiated under the
// context of this one's start inherit the notifier: only the end of its own counts. As long
// as that isn't known, Instantiate looks after it.
func (b *slotBinding[T]) CloseNotify(context.Context, uint32) { b.endIfClosed() }

// markInstance returns the module to instantiate, and what tells its instance from all others.
func markInstance(compiled wazero.CompiledModule) (wazero.CompiledModule, func(api.Module) bool) {
	if h, ok := compiled.(*compiledHandle); ok {
		if marked, is, ok := wazerohook.Mark(h.inner()); ok {
			return markedHandle{h, marked}, is
		}
	} else if marked, is, ok := wazerohook.Mark(compiled); ok {
		return marked, is
	}
	// Somebody's wrapper, which a wrapper of the runtime takes. Nothing tells its instance from another one that only
	// looks like it, until it is returned.
	return compiled, func(api.Module) bool { return false }
}

// attach counts one more instance of the table; it fails if the table is closed, or about to be.
func (t *SlotTable[T]) attach() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.instances < 0 {
		return false
	}
	t.instances++
	return true
}

// detach counts one instance less. If that was the last one, there can't be another any more,
// and the table is to be closed.
func (t *SlotTable[T]) detach() (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.instances--; t.instances == 0 {
		t.instances = -1
		return true
	}
	return false
}

// leave ends one hold on the table, and with the last the table.
func (t *SlotTable[T]) leave() {
	if t.detach() {
		// On a goroutine of its own: an OnRelease that ended wazero's would keep it from closing
		// other instances.
		_ = contain.Apart(t.Close) // its faults are counted in Metrics
	}
}

type slotContextKey[T any] struct{ host *SlotHost[T] }

// slotContext carries a binding to wazero, and to host functions that start functions
// call. wazero asks it for one notifier; if the caller has set another, that is a notifier
// which calls both.
type slotContext[T any] struct {
	context.Context // the caller's
	notifying       context.Context
	binding         *slotBinding[T]
}

func newSlotContext[T any](ctx context.Context, b *slotBinding[T]) context.Context {
	b.outer, _ = ctx.Value(slotContextKey[T]{b.host}).(*slotBinding[T])
	return slotContext[T]{ctx, experimental.WithCloseNotifier(ctx, b), b}
}

func (c slotContext[T]) Value(key any) any {
	if key == any(slotContextKey[T]{c.binding.host}) {
		return c.binding
	}
	v := c.notifying.Value(key)
	if b, ok := v.(*slotBinding[T]); ok && b == c.binding {
		if outer, ok := c.Context.Value(key).(experimental.CloseNotifier); ok {
			return slotNotifiers{outer, b}
		}
	}
	return v
}

type slotNotifiers [2]experimental.CloseNotifier

func (n slotNotifiers) CloseNotify(ctx context.Context, code uint32) {
	defer n[1].CloseNotify(ctx, code) // also if the first panics
	n[0].CloseNotify(ctx, code)
}

// SlotFunc is a host function that works on the slot table of the module that called it. Parameters
// and results are in stack, as for wazero's api.GoModuleFunc; SlotTable.Handle reads
// a handle from it.
type SlotFunc[T any] func(ctx context.Context, mod api.Module, t *SlotTable[T], stack []uint64)

// Func makes f a host function for wazero's HostFunctionBuilder.WithGoModuleFunction.
// If the calling module has no table, or has ended, the call traps with an error that wraps
// ErrSlotNoHandle. Calls use no reflection and allocate nothing.
func (h *SlotHost[T]) Func(f SlotFunc[T]) api.GoModuleFunction {
	return api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
		b := h.lookup(ctx, mod)
		if b == nil {
			panic(fmt.Errorf("modcache: module %.100q has no slot table: it was not instantiated with SlotHost.Instantiate, or has ended: %w", mod.Name(), ErrSlotNoHandle))
		}
		f(ctx, mod, b.table, stack)
	})
}

// What the host function drop returns: the handle is gone; it was none; or it is borrowed or has children, and
// stays. They have no type, so that they compare with a result of any integer type.
const SlotDropped, SlotNoHandle, SlotInUse = 0, 1, 2

// ExportFunctions adds two functions to a host module for its guests to call. handleType is the
// type of a handle: api.ValueTypeI64, or api.ValueTypeI32 for narrow tables.
//
//	clone(handle) handle   a second handle of the same object; 0 if there is no such handle or the table is full
//	drop(handle) i32       removes a handle: SlotDropped, SlotNoHandle or SlotInUse
func (h *SlotHost[T]) ExportFunctions(b wazero.HostModuleBuilder, handleType api.ValueType) wazero.HostModuleBuilder {
	one := []api.ValueType{handleType}
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
	result := uint64(SlotNoHandle)
	switch err := t.Remove(t.Handle(stack[0])); {
	case err == nil:
		result = SlotDropped
	case errors.Is(err, ErrSlotInUse):
		result = SlotInUse
	}
	stack[0] = result
}
