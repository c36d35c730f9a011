package wazerohook

import (
	"reflect"
	"runtime"
	"unsafe"
	"weak"

	"github.com/tetratelabs/wazero/api"
)

// Watch returns a function that reports whether mod is closed, or can't be reached any
// more. It doesn't keep mod in memory. collected is called, on a goroutine of its own, after the
// garbage collector has found that nothing refers to mod; it must not refer to mod itself.
//
// Nothing is written into mod: others have it already, and may close it. An instance
// that is something else than a pointer stays in memory, and is never collected.
func Watch(mod api.Module, collected func()) (closed func() bool) {
	v := reflect.ValueOf(mod)
	if v.Kind() != reflect.Pointer || v.Type().Elem().Size() == 0 {
		return mod.IsClosed
	}
	// Its type can't be named, but its first byte can be pointed to.
	first := (*byte)(v.UnsafePointer())
	runtime.AddCleanup(first, func(collected func()) { collected() }, collected)
	ref, typ := weak.Make(first), v.Type().Elem()
	return func() bool {
		p := ref.Value()
		return p == nil || reflect.NewAt(typ, unsafe.Pointer(p)).Interface().(api.Module).IsClosed()
	}
}

// OnCollect has f called with arg, on a goroutine of its own, after the garbage collector
// has found that nothing refers to mod; neither may refer to mod. Until then, arg is kept. It
// reports false if mod is something that is never collected.
func OnCollect[T any](mod api.Module, f func(T), arg T) bool {
	v := reflect.ValueOf(mod)
	if v.Kind() != reflect.Pointer || v.Type().Elem().Size() == 0 {
		return false
	}
	runtime.AddCleanup((*byte)(v.UnsafePointer()), f, arg)
	return true
}
