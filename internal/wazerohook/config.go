package wazerohook

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"

	"github.com/tetratelabs/wazero"
)

// Config is what a [wazero.RuntimeConfig] says, as far as it matters here.
type Config struct {
	// Fields holds every scalar setting with its name, in the order of
	// declaration: two configs with equal Fields compile equal code and refuse
	// the same modules.
	Fields string
	// CloseOnContextDone is the one setting that wazero mixes into its keys.
	CloseOnContextDone bool
	// DebugInfo says that wazero reads DWARF sections.
	DebugInfo bool
}

// ReadConfig reads the settings by reflection. A setting of a kind that can't be
// compared, which a future wazero might add, is [ErrShape].
func ReadConfig(rc wazero.RuntimeConfig) (Config, error) {
	v := reflect.ValueOf(rc)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return Config{}, fmt.Errorf("%w: a RuntimeConfig is a %T", ErrShape, rc)
	}
	v = v.Elem()
	fields := make([]byte, 0, 512) // more than they take
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		var bits uint64
		switch k := f.Kind(); {
		case f.CanInt():
			bits = uint64(f.Int())
		case f.CanUint():
			bits = f.Uint()
		case f.CanFloat():
			bits = math.Float64bits(f.Float())
		case k == reflect.Bool:
			bits = uint64(flag(f.Bool()))
		case name == "cache" && k == reflect.Interface:
			continue // the caller replaces it
		case k == reflect.Func && f.IsNil():
			continue
		default:
			return Config{}, fmt.Errorf("%w: RuntimeConfig has a setting %s of type %s", ErrShape, name, f.Type())
		}
		fields = append(fields, name...)
		fields = append(fields, 0)
		fields = binary.LittleEndian.AppendUint64(fields, bits)
	}
	term := directField(v, "ensureTermination")
	if !term.IsValid() || term.Kind() != reflect.Bool {
		return Config{}, fmt.Errorf("%w: RuntimeConfig has no setting ensureTermination", ErrShape)
	}
	dwarf := v.FieldByName("dwarfDisabled")
	return Config{
		Fields: string(fields), CloseOnContextDone: term.Bool(),
		DebugInfo: !dwarf.IsValid() || dwarf.Kind() != reflect.Bool || !dwarf.Bool(),
	}, nil
}

// Compiled returns rc, which nobody else has, as one whose runtimes compile. By itself, wazero asks for each runtime whether
// memory can be made executable by then, and one that interprets can't be told from others. If rc's shape is
// unknown, it is returned as it is.
func Compiled(rc wazero.RuntimeConfig) wazero.RuntimeConfig {
	if kind := engineKind(wazero.NewRuntimeConfigCompiler()); engineKind(rc) != unknownKind && kind != unknownKind {
		settable(reflect.ValueOf(rc).Elem().FieldByName("engineKind")).SetInt(kind)
	}
	return rc
}

// Interpreted reports whether rc asks for wazero's interpreter, which has no use
// for a cache.
func Interpreted(rc wazero.RuntimeConfig) bool {
	return engineKind(rc) == engineKind(wazero.NewRuntimeConfigInterpreter())
}

const unknownKind = -1 << 32

func engineKind(rc wazero.RuntimeConfig) int64 {
	v := reflect.ValueOf(rc)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return unknownKind
	}
	if f := directField(v.Elem(), "engineKind"); f.IsValid() && f.CanInt() {
		return f.Int()
	}
	return unknownKind
}
