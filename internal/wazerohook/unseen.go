package wazerohook

import (
	"reflect"

	"github.com/tetratelabs/wazero"
)

// Unseen reports whether nobody but the caller of InstantiateModule gets hold of an instance before it is returned: it has no
// name, and nothing in it is started. It is false where that can't be seen.
func Unseen(cm wazero.CompiledModule, config wazero.ModuleConfig) bool {
	c, m := reflect.ValueOf(config), reflect.ValueOf(cm)
	for _, v := range []reflect.Value{c, m} {
		if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
			return false
		}
	}
	module := directField(m.Elem(), "module")
	if !module.IsValid() || module.Kind() != reflect.Pointer || module.IsNil() || module.Elem().Kind() != reflect.Struct {
		return false
	}
	start, exports := directField(module.Elem(), "StartSection"), directField(module.Elem(), "Exports")
	name, named, starts := directField(c.Elem(), "name"), directField(c.Elem(), "nameSet"), directField(c.Elem(), "startFunctions")
	if name.Kind() != reflect.String || named.Kind() != reflect.Bool || !starts.IsValid() || starts.Type() != reflect.TypeFor[[]string]() ||
		start.Kind() != reflect.Pointer || exports.Kind() != reflect.Map || exports.Type().Key().Kind() != reflect.String {
		return false
	}
	if name.String() != "" || !named.Bool() && cm.Name() != "" || !start.IsNil() {
		return false
	}
	for i := range starts.Len() {
		if exports.MapIndex(starts.Index(i)).IsValid() {
			return false
		}
	}
	return true
}
