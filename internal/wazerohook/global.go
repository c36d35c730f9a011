package wazerohook

import (
	"reflect"

	"github.com/tetratelabs/wazero/api"
)

// GlobalValue returns both halves of a global's value. ok is false if the upper can't be had.
func GlobalValue(g api.Global) (low, high uint64, ok bool) {
	low = g.Get()
	v := reflect.ValueOf(g)
	if v.Kind() != reflect.Struct {
		return low, 0, false
	}
	p := v.FieldByName("g")
	if !p.IsValid() || p.Kind() != reflect.Pointer || p.IsNil() {
		return low, 0, false
	}
	value := reflect.NewAt(p.Type().Elem(), p.UnsafePointer()).MethodByName("Value")
	if !value.IsValid() {
		return low, 0, false
	}
	f, ok := value.Interface().(func() (uint64, uint64))
	if !ok {
		return low, 0, false
	}
	again, high := f()
	return low, high, again == low
}
