package wazerohook

import (
	"reflect"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// ImportedFrom returns the modules from which a module that wazero compiled imports a memory or a
// table, which its methods don't tell of tables. known is false if that can't be read.
func ImportedFrom(cm wazero.CompiledModule) (names []string, known bool) {
	defer func() {
		if recover() != nil {
			names, known = nil, false
		}
	}()
	imports := reflect.ValueOf(cm).Elem().FieldByName("module").Elem().FieldByName("ImportSection")
	for i := range imports.Len() {
		switch v := imports.Index(i); api.ExternType(v.FieldByName("Type").Uint()) {
		case api.ExternTypeMemory, api.ExternTypeTable:
			if name := v.FieldByName("Module"); name.Kind() == reflect.String {
				names = append(names, name.String())
			} else {
				return nil, false
			}
		}
	}
	return names, true
}
