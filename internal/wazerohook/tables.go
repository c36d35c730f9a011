package wazerohook

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Tables are what the tables of an instance begin with. wazero makes each reference to a function anew, which
// takes up to three allocations, and is most of what an instance of a large module takes. But two instances of a
// module differ in nothing but an address, so that a copy will do.
//
// A reference is the address of a function instance: of one that the instance's engine keeps, or of one inside
// the context of the instance, if the function is imported.
type Tables struct {
	shape     tableShape
	functions []functionInstance // without the address of their context
	slots     [][]slot           // by table
}

// slot stands for a reference: 0 for none, 1 + the place in Tables.functions, or -1 - the offset in the context.
type slot int32

// functionInstance is wazero's. What it points to is kept by the instance's engine, and so are the
// function instances, which the garbage collector needn't look into.
type functionInstance struct {
	executable, context uintptr
	typeID, index       uint32
}

// tableShape is where wazero has what Tables need: offsets of fields, in bytes.
type tableShape struct {
	instance, engine               reflect.Type
	engineField                    int
	tables, references             uintptr
	contextPtr, context, functions uintptr
}

// shapeOf looks for the fields, and at their types. They are what they were in wazero 1.8 to 1.12.
func shapeOf(instance reflect.Value) (s tableShape, err error) {
	field := func(of reflect.Type, name, typ string) (f reflect.StructField) {
		if of.Kind() != reflect.Struct {
			err = fmt.Errorf("%w: %s is no struct", ErrShape, of)
			return f
		}
		f, ok := of.FieldByName(name)
		if !ok || len(f.Index) != 1 || f.Type.String() != typ {
			err = fmt.Errorf("%w: %s has no field %s of type %s", ErrShape, of, name, typ)
		}
		return f
	}
	if instance.Kind() != reflect.Pointer || instance.IsNil() {
		return s, fmt.Errorf("%w: an instance is a %s", ErrShape, instance.Type())
	}
	s.instance = instance.Type()
	tables, engine := field(s.instance.Elem(), "Tables", "[]*wasm.TableInstance"), field(s.instance.Elem(), "Engine", "wasm.ModuleEngine")
	if err != nil {
		return s, err
	}
	s.tables, s.engineField = tables.Offset, engine.Index[0]
	s.references = field(tables.Type.Elem().Elem(), "References", "[]uintptr").Offset

	own := instance.Elem().Field(s.engineField).Elem()
	if own.Kind() != reflect.Pointer || own.IsNil() {
		return s, fmt.Errorf("%w: an instance without an engine", ErrShape)
	}
	s.engine = own.Type()
	s.contextPtr = field(s.engine.Elem(), "opaquePtr", "*uint8").Offset
	s.context = field(s.engine.Elem(), "opaque", "wazevo.moduleContextOpaque").Offset
	functions := field(s.engine.Elem(), "localFunctionInstances", "[]*wazevo.functionInstance")
	if err != nil {
		return s, err
	}
	s.functions = functions.Offset
	function, like := functions.Type.Elem().Elem(), reflect.TypeFor[functionInstance]()
	for _, f := range []struct {
		name, typ string
		at        uintptr
	}{
		{"executable", "*uint8", unsafe.Offsetof(functionInstance{}.executable)},
		{"moduleContextOpaquePtr", "*uint8", unsafe.Offsetof(functionInstance{}.context)},
		{"typeID", "wasm.FunctionTypeID", unsafe.Offsetof(functionInstance{}.typeID)},
		{"indexInModule", "uint32", unsafe.Offsetof(functionInstance{}.index)},
	} {
		if field(function, f.name, f.typ).Offset != f.at {
			err = fmt.Errorf("%w: %s has its field %s elsewhere", ErrShape, function, f.name)
		}
	}
	if err == nil && function.Size() != like.Size() {
		err = fmt.Errorf("%w: %s has %d bytes", ErrShape, function, function.Size())
	}
	return s, err
}

// open returns the variables of an instance of that shape.
func (s *tableShape) open(mod api.Module) (o openTables, ok bool) {
	v := reflect.ValueOf(mod)
	if v.Type() != s.instance || v.IsNil() {
		return o, false
	}
	engine := v.Elem().Field(s.engineField).Elem()
	if engine.Type() != s.engine || engine.IsNil() {
		return o, false
	}
	at := engine.UnsafePointer()
	o.context = uintptr(*(*unsafe.Pointer)(unsafe.Add(at, s.contextPtr)))
	o.contextLen = uintptr(len(*(*[]byte)(unsafe.Add(at, s.context))))
	o.functions = (*[]unsafe.Pointer)(unsafe.Add(at, s.functions))
	o.tables = *(*[]unsafe.Pointer)(unsafe.Add(v.UnsafePointer(), s.tables))
	o.references = s.references
	return o, true
}

// openTables are the variables of one instance.
type openTables struct {
	context, contextLen uintptr           // where it is
	functions           *[]unsafe.Pointer // to function instances
	tables              []unsafe.Pointer
	references          uintptr
}

func (o *openTables) table(i int) []uintptr {
	return *(*[]uintptr)(unsafe.Add(o.tables[i], o.references))
}

// ReadTables returns what the tables of an instance hold, in which nothing has run yet, and which imports none.
// It fails if that isn't the instance's own, if there is room for more than so many references, or if wazero's are of an
// unknown shape.
func ReadTables(mod api.Module, most int) (*Tables, error) {
	t := &Tables{}
	var err error
	if t.shape, err = shapeOf(reflect.ValueOf(mod)); err != nil {
		return nil, err
	}
	o, ok := t.shape.open(mod)
	if !ok {
		return nil, fmt.Errorf("%w: an instance that is another", ErrShape)
	}
	for i := range o.tables {
		if most -= len(o.table(i)); most < 0 {
			return nil, errors.New("tables that are too large")
		}
	}
	known := make(map[uintptr]slot, 1+len(*o.functions))
	known[0] = 0
	for _, p := range *o.functions {
		f := *(*functionInstance)(p)
		if f.context != o.context {
			return nil, fmt.Errorf("%w: a function of another instance", ErrShape)
		}
		f.context = 0
		t.functions = append(t.functions, f)
		known[uintptr(p)] = slot(len(t.functions))
	}
	for i := range o.tables {
		references := o.table(i)
		slots := make([]slot, len(references))
		for j, ref := range references {
			if s, ok := known[ref]; ok {
				slots[j] = s
			} else if at := ref - o.context; at < o.contextLen {
				slots[j] = -1 - slot(at)
			} else {
				return nil, errors.New("a table refers to a function of another instance")
			}
		}
		t.slots = append(t.slots, slots)
	}
	return t, nil
}

// Equal reports whether two instances had the same tables.
func (t *Tables) Equal(other *Tables) bool {
	return t.shape == other.shape && slices.Equal(t.functions, other.functions) && slices.EqualFunc(t.slots, other.slots, slices.Equal)
}

// Write has the tables of another instance of the same module hold that, before anybody can have looked at them. It
// reports false, and writes nothing, if the instance isn't like the one that was read.
func (t *Tables) Write(mod api.Module) bool {
	o, ok := t.shape.open(mod)
	if !ok || len(o.tables) != len(t.slots) {
		return false
	}
	for i, slots := range t.slots {
		if len(o.table(i)) != len(slots) {
			return false
		}
	}
	functions := append([]functionInstance(nil), t.functions...)
	for i := range functions {
		functions[i].context = o.context
	}
	first := uintptr(unsafe.Pointer(unsafe.SliceData(functions)))
	for i, slots := range t.slots {
		references := o.table(i)
		for j, s := range slots {
			switch {
			case s > 0:
				references[j] = first + uintptr(s-1)*unsafe.Sizeof(functionInstance{})
			case s < 0:
				references[j] = o.context + uintptr(-1-s)
			default: // an initial value of the table may stand there
				references[j] = 0
			}
		}
	}
	if len(functions) > 0 { // They last as long as the engine: a pointer to the first one keeps all.
		*o.functions = append(*o.functions, unsafe.Pointer(&functions[0]))
	}
	return true
}

// WithoutElements returns a copy of a compiled module, whose instances begin with empty tables, and how many references they
// have less. The copy need not be closed, and must not be instantiated after cm was closed. Nobody may use cm meanwhile.
// ok is false if the module isn't wazero's own, or looks different.
func WithoutElements(cm wazero.CompiledModule) (copied wazero.CompiledModule, less int, ok bool) {
	module := moduleOf(cm)
	if !isStruct(module) {
		return nil, 0, false
	}
	segments := directField(module.Elem(), "ElementSection")
	if !segments.IsValid() || segments.Kind() != reflect.Slice || segments.Type().Elem().Kind() != reflect.Struct {
		return nil, 0, false
	}
	const active = 0
	segments = settable(segments)
	empty := reflect.MakeSlice(segments.Type(), segments.Len(), segments.Len())
	reflect.Copy(empty, segments)
	for i := range empty.Len() {
		init, mode := directField(empty.Index(i), "Init"), directField(empty.Index(i), "Mode")
		if !init.IsValid() || init.Kind() != reflect.Slice || !mode.IsValid() || !mode.CanUint() {
			return nil, 0, false
		}
		if mode.Uint() == active {
			less += init.Len()
			init.SetZero() // with which wazero has nothing to do
		}
	}
	compiled := structOf(cm)
	twin, inside := reflect.New(compiled.Type()), reflect.New(module.Type().Elem())
	inside.Elem().Set(settable(module.Elem()))
	directField(inside.Elem(), "ElementSection").Set(empty)
	twin.Elem().Set(compiled)
	settable(directField(twin.Elem(), "module")).Set(inside)
	return twin.Interface().(wazero.CompiledModule), less, true
}
