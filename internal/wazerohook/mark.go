package wazerohook

import (
	"reflect"
	"runtime"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Mark returns a copy of a compiled module, to be instantiated once, and what tells its instance from
// others of the same module, also while it is starting. The copy need not be closed. ok
// is false if the module isn't wazero's own, or looks different.
func Mark(cm wazero.CompiledModule) (marked wazero.CompiledModule, isInstance func(api.Module) bool, ok bool) {
	v := structOf(cm)
	if !v.IsValid() {
		return nil, nil, false
	}
	twin := reflect.New(v.Type())
	twin.Elem().Set(v)
	ids := directField(twin.Elem(), "typeIDs")
	if !ids.IsValid() || ids.Kind() != reflect.Slice || ids.Type().Elem().Size() == 0 {
		return nil, nil, false
	}
	ids = settable(ids)
	// An instance has the very slice, which is never written. It isn't so small that it shares a block with others.
	own := reflect.MakeSlice(ids.Type(), ids.Len(), max(ids.Len()+1, 16))
	reflect.Copy(own, ids)
	ids.Set(own)
	return twin.Interface().(wazero.CompiledModule), func(mod api.Module) bool {
		v := reflect.ValueOf(mod)
		if !isStruct(v) {
			return false
		}
		f := directField(v.Elem(), "TypeIDs")
		return f.IsValid() && f.Type() == own.Type() && f.Pointer() == own.Pointer()
	}, true
}

// OnCollectOf is [OnCollect] for the instance of a marked module, also for one that wazero never returns.
func OnCollectOf[T any](marked wazero.CompiledModule, f func(T), arg T) {
	own := directField(reflect.ValueOf(marked).Elem(), "typeIDs")
	runtime.AddCleanup((*byte)(own.UnsafePointer()), f, arg)
}
