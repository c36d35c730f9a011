package wazerohook

import (
	"reflect"
	"sync"
	"unsafe"

	"github.com/tetratelabs/wazero"
)

// ForgetLines has wazero forget the lines that it has read of a compiled module's debug info: all those of each unit that a stack
// trace led to, and the module keeps them. Each takes more than a hundred times its bytes, and units may share them. It
// doesn't wait for a stack trace that is made meanwhile. ok is false if this wazero may keep them where
// they aren't known to be.
func ForgetLines(cm wazero.CompiledModule) (ok bool) { return forgetLines(moduleOf(cm)) }

// ForgetLines is [ForgetLines] for the module that the code was loaded with.
func (c *Code) ForgetLines() (ok bool) { return forgetLines(directField(c.module, "module")) }

// forgetLines is [ForgetLines] for what a *wasm.Module should be.
func forgetLines(module reflect.Value) (ok bool) {
	if !isStruct(module) {
		return false
	}
	lines := directField(module.Elem(), "DWARFLines")
	if !lines.IsValid() || lines.Kind() != reflect.Pointer || lines.Type().Elem().Kind() != reflect.Struct {
		return false
	}
	if lines.IsNil() {
		return true
	}
	mux, byUnit := directField(lines.Elem(), "mux"), directField(lines.Elem(), "linesPerEntry")
	if !mux.IsValid() || mux.Type() != reflect.TypeFor[sync.Mutex]() || byUnit.Kind() != reflect.Map {
		return false
	}
	if mu := (*sync.Mutex)(unsafe.Pointer(mux.UnsafeAddr())); mu.TryLock() {
		defer mu.Unlock()
		if byUnit.Len() > 0 {
			settable(byUnit).Set(reflect.MakeMap(byUnit.Type()))
		}
	}
	return true
}
