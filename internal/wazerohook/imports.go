package wazerohook

import (
	"reflect"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// ImportedFrom returns the modules from which a module that wazero compiled imports a memory or a
// table. Its methods don't tell of tables: in a wazero that looks different, these are of memories only.
func ImportedFrom(cm wazero.CompiledModule) (names []string) {
	defer func() {
		if recover() == nil {
			return
		}
		names = nil
		for _, m := range cm.ImportedMemories() {
			if from, _, imported := m.Import(); imported {
				names = append(names, from)
			}
		}
	}()
	imports := reflect.ValueOf(cm).Elem().FieldByName("module").Elem().FieldByName("ImportSection")
	for i := range imports.Len() {
		switch v := imports.Index(i); api.ExternType(v.FieldByName("Type").Uint()) {
		case api.ExternTypeMemory, api.ExternTypeTable:
			name := v.FieldByName("Module")
			if name.Kind() != reflect.String {
				panic("wazero has something else there")
			}
			names = append(names, name.String())
		}
	}
	return names
}
