package wazerohook

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"unsafe"

	"github.com/tetratelabs/wazero"
)

// Engine is the part of wazero that holds machine code: that of one CompilationCache.
// Everything in it is reached under wazero's own lock.
type Engine struct {
	mu     *sync.RWMutex
	self   reflect.Value     // *engine
	code   reflect.Value     // map[ModuleID]*entry, of engine
	sorted *[]unsafe.Pointer // []*compiledModule, of engine, by address
	entry  reflect.Type      // struct{ *compiledModule; refCount int }
	module reflect.Type      // compiledModule
}

// OpenEngine returns the engine that wazero has made for the first runtime over cc.
func OpenEngine(cc wazero.CompilationCache) (*Engine, error) {
	v := reflect.ValueOf(cc)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Type().Elem().PkgPath() != wazeroPath {
		return nil, fmt.Errorf("%w: a CompilationCache of type %T", ErrForeign, cc)
	}
	engines := directField(v.Elem(), "engs")
	if !engines.IsValid() || engines.Kind() != reflect.Array || engines.Type().Elem().Kind() != reflect.Interface {
		return nil, fmt.Errorf("%w: %s has no field engs", ErrShape, v.Type())
	}
	for i := range engines.Len() {
		if e := engines.Index(i); !e.IsNil() {
			return openEngine(e.Elem())
		}
	}
	return nil, fmt.Errorf("%w: a CompilationCache without an engine", ErrShape)
}

// openEngine is OpenEngine for the engine itself. It checks what [Engine] relies on.
func openEngine(self reflect.Value) (*Engine, error) {
	unknown := func(what string) (*Engine, error) {
		return nil, fmt.Errorf("%w: %s has no %s", ErrShape, self.Type(), what)
	}
	if self.Kind() != reflect.Pointer || self.IsNil() || self.Elem().Kind() != reflect.Struct {
		return unknown("fields")
	}
	mu := directField(self.Elem(), "mux")
	if !mu.IsValid() || mu.Type() != reflect.TypeFor[sync.RWMutex]() {
		return unknown("lock")
	}
	code := directField(self.Elem(), "compiledModules")
	if !code.IsValid() || code.Kind() != reflect.Map || code.Type().Key() != reflect.TypeFor[[32]byte]() ||
		code.Type().Elem().Kind() != reflect.Pointer || code.Type().Elem().Elem().Kind() != reflect.Struct {
		return unknown("map of its code")
	}
	entry := code.Type().Elem().Elem()
	module, ok := entry.FieldByName("compiledModule")
	if !ok || len(module.Index) != 1 || entry.NumField() != 2 || module.Type.Kind() != reflect.Pointer || module.Type.Elem().Kind() != reflect.Struct {
		return unknown("map of its code")
	}
	if n, ok := entry.FieldByName("refCount"); !ok || len(n.Index) != 1 || n.Type.Kind() != reflect.Int {
		return unknown("count of the users of code")
	}
	parent, ok := module.Type.Elem().FieldByName("parent")
	if !ok || len(parent.Index) != 1 || parent.Type != self.Type() {
		return unknown("modules that know it")
	}
	executables, ok := module.Type.Elem().FieldByName("executables")
	if !ok || len(executables.Index) != 1 || executables.Type.Kind() != reflect.Pointer || executables.Type.Elem().Kind() != reflect.Struct {
		return unknown("modules with code")
	}
	if b, ok := executables.Type.Elem().FieldByName("executable"); !ok || len(b.Index) != 1 || b.Type != reflect.TypeFor[[]byte]() {
		return unknown("modules with code")
	}
	shared, own := directField(self.Elem(), "sharedFunctions"), reflect.Zero(module.Type.Elem()).FieldByName("sharedFunctions")
	if !shared.IsValid() || !own.IsValid() || shared.Type() != own.Type() || shared.Kind() != reflect.Pointer || shared.Type().Elem().Kind() != reflect.Struct {
		return unknown("trampolines that its modules share")
	}
	if l, ok := shared.Type().Elem().FieldByName("listenerTrampolines"); !ok || len(l.Index) != 1 || l.Type.Kind() != reflect.Map {
		return unknown("trampolines of listeners")
	}
	sorted := directField(self.Elem(), "sortedCompiledModules")
	if !sorted.IsValid() || sorted.Type() != reflect.SliceOf(module.Type) {
		return unknown("list of its code by address")
	}
	return &Engine{
		mu: (*sync.RWMutex)(unsafe.Pointer(mu.UnsafeAddr())), self: reflect.NewAt(self.Type().Elem(), self.UnsafePointer()), code: settable(code),
		sorted: (*[]unsafe.Pointer)(unsafe.Pointer(sorted.UnsafeAddr())), entry: entry, module: module.Type.Elem(),
	}, nil
}

// settable returns the variable v without what reflection holds against unexported fields.
func settable(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

// Code is the machine code of a module, and what wazero knows of it, apart from the engine
// that loaded it. wazero unmaps the code when neither a Code nor an engine has it any more.
type Code struct {
	id     [32]byte
	module reflect.Value // compiledModule, which is of no engine
}

// ID is the module's name in an engine.
func (c *Code) ID() [32]byte { return c.id }

// As returns the code as that of another module, which has the same functions, globals,
// memories, tables and segments, and whatever else beside them.
func (c *Code) As(id [32]byte) *Code { return &Code{id: id, module: c.module} }

var errNoCode = errors.New("the engine has no such code")

// Code returns the code that the engine has under id.
func (e *Engine) Code(id [32]byte) (*Code, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	entry := e.code.MapIndex(reflect.ValueOf(id))
	if !entry.IsValid() {
		return nil, errNoCode
	}
	module := settable(entry.Elem().FieldByName("compiledModule"))
	c := &Code{id: id, module: reflect.New(e.module).Elem()}
	c.module.Set(module.Elem())
	settable(c.module.FieldByName("parent")).SetZero()
	settable(c.module.FieldByName("sharedFunctions")).SetZero()
	return c, nil
}

// isStruct reports whether v is a pointer to a struct, and not nil.
func isStruct(v reflect.Value) bool {
	return v.IsValid() && v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct && !v.IsNil()
}

// structOf returns the struct of a compiled module of wazero's own, or the zero Value.
func structOf(cm wazero.CompiledModule) reflect.Value {
	v := reflect.ValueOf(cm)
	if !isStruct(v) || v.Type().Elem().PkgPath() != wazeroPath {
		return reflect.Value{}
	}
	return v.Elem()
}

// moduleOf returns the module that wazero has decoded for a compiled one, or the zero Value.
func moduleOf(cm wazero.CompiledModule) reflect.Value {
	v := structOf(cm)
	if !v.IsValid() {
		return v
	}
	return directField(v, "module")
}

// ID returns the name that wazero's engine has for a compiled module.
func ID(cm wazero.CompiledModule) (id [32]byte, ok bool) {
	module := moduleOf(cm)
	if !isStruct(module) {
		return id, false
	}
	f := directField(module.Elem(), "ID")
	if !f.IsValid() || f.Type() != reflect.TypeFor[[32]byte]() {
		return id, false
	}
	return *(*[32]byte)(unsafe.Pointer(f.UnsafeAddr())), true
}

// Enter has the engine find the code in memory when it compiles the module, as if it had
// compiled it before, whoever closes a module of it meanwhile. leave gives that up, once; the engine keeps
// the code for those who have compiled it by then. It does nothing if the engine is closed. The code must
// be of an engine like this one.
func (e *Engine) Enter(c *Code) (leave func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.code.IsNil() {
		return func() {}
	}
	entry := e.code.MapIndex(reflect.ValueOf(c.id))
	if !entry.IsValid() {
		entry = e.add(c)
	}
	count(entry, 1)
	return func() { e.leave(c, entry) }
}

// leave ends an Enter, as wazero does when a module is closed.
func (e *Engine) leave(c *Code, entry reflect.Value) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := reflect.ValueOf(c.id)
	if now := e.code.MapIndex(id); !now.IsValid() || now.Pointer() != entry.Pointer() || count(entry, -1) > 0 {
		return // or it was cleared
	}
	e.remove(id, entry)
}

// Forget has the engine forget the code that it has under id, whoever uses it.
func (e *Engine) Forget(id [32]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if entry := e.code.MapIndex(reflect.ValueOf(id)); entry.IsValid() {
		e.remove(reflect.ValueOf(id), entry)
	}
}

// remove removes an entry. The lock is held.
func (e *Engine) remove(id, entry reflect.Value) {
	e.code.SetMapIndex(id, reflect.Value{})
	if at, ok := e.find(settable(entry.Elem().FieldByName("compiledModule")).UnsafePointer()); ok {
		*e.sorted = slices.Delete(*e.sorted, at, at+1)
	}
}

// count adds n to the users of an entry, and returns how many there are.
func count(entry reflect.Value, n int64) int64 {
	users := settable(entry.Elem().FieldByName("refCount"))
	users.SetInt(users.Int() + n)
	return users.Int()
}

// add makes an entry for the code, which nobody uses. The lock is held.
func (e *Engine) add(c *Code) reflect.Value {
	module := reflect.New(e.module)
	module.Elem().Set(c.module)
	settable(module.Elem().FieldByName("parent")).Set(e.self)
	settable(module.Elem().FieldByName("sharedFunctions")).Set(settable(e.self.Elem().FieldByName("sharedFunctions")))
	entry := reflect.New(e.entry)
	settable(entry.Elem().FieldByName("compiledModule")).Set(module)
	e.code.SetMapIndex(reflect.ValueOf(c.id), entry)
	if at, _ := e.find(module.UnsafePointer()); at >= 0 {
		*e.sorted = slices.Insert(*e.sorted, at, module.UnsafePointer())
	}
	return entry
}

// find returns where a compiledModule is in the list by address, or belongs; -1 if it has no code.
func (e *Engine) find(module unsafe.Pointer) (at int, ok bool) {
	start := e.start(module)
	if start == 0 {
		return -1, false
	}
	return slices.BinarySearchFunc(*e.sorted, start, func(m unsafe.Pointer, start uintptr) int {
		return cmp.Compare(e.start(m), start)
	})
}

// Clear has the engine forget all code, as if everybody had closed their modules. Instances go on
// with what they have. It reports whether the engine is as good as new: trampolines that
// were made for listeners stay in it.
func (e *Engine) Clear() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.code.Set(reflect.MakeMap(e.code.Type()))
	*e.sorted = nil
	shared := e.self.Elem().FieldByName("sharedFunctions")
	return !shared.IsNil() && shared.Elem().FieldByName("listenerTrampolines").Len() == 0
}

// ClearTail has the engine let go of code that it has deleted: wazero only shortens its list, and what is behind the new end
// stays in memory.
func (e *Engine) ClearTail() {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := *e.sorted
	clear(list[len(list):cap(list)])
}

// start returns the address of a compiledModule's code, or 0 if it has none.
func (e *Engine) start(module unsafe.Pointer) uintptr {
	executables := reflect.NewAt(e.module, module).Elem().FieldByName("executables")
	return executables.Elem().FieldByName("executable").Pointer()
}
