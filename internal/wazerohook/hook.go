// Package wazerohook is where modcache touches what wazero doesn't export: the
// field that holds a cache's files, the way it names them, and what an entry
// looks like. Nothing is assumed. Every shape is checked by reflection or by
// watching a tiny compile before it is relied on, and a wazero that looks
// different is reported with [ErrShape], never guessed at.
//
// This is the only package of the module that imports unsafe.
package wazerohook

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"unsafe"

	"github.com/tetratelabs/wazero"
)

// ErrShape means that wazero doesn't look as this package expects.
var ErrShape = errors.New("wazero has an unknown shape")

// ErrInUse means that a compilation cache already has an engine, which keeps
// the files it was created with.
var ErrInUse = errors.New("the compilation cache already served a runtime")

// ErrForeign means that a value isn't what one of wazero's own functions
// returned, but somebody's implementation of the same interface, or nil.
var ErrForeign = errors.New("not made by wazero")

// WazeroKey is what wazero calls a module in its cache.
type WazeroKey = [32]byte

// FileCache is the method set that wazero expects of a cache's files. wazero
// fails the compile on any error of Get, Add or the reader, so implementations
// return one only on purpose.
type FileCache interface {
	Get(key WazeroKey) (content io.ReadCloser, ok bool, err error)
	Add(key WazeroKey, content io.Reader) error
	Delete(key WazeroKey) error
}

// Plug puts fc in place of the files of cc, and returns what was there before,
// or nil. It must run before the first runtime is created with cc, because
// wazero's engine captures the field once; afterwards it fails with ErrInUse
// and changes nothing. Nothing else may use cc meanwhile.
func Plug(cc wazero.CompilationCache, fc FileCache) (previous FileCache, err error) {
	v := reflect.ValueOf(cc)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Type().Elem().PkgPath() != wazeroPath {
		return nil, fmt.Errorf("%w: a CompilationCache of type %T", ErrForeign, cc)
	}
	return plug(v.Elem(), fc)
}

// plug is Plug for the struct behind a CompilationCache.
func plug(cache reflect.Value, fc FileCache) (previous FileCache, err error) {
	field, err := fileCacheField(cache, reflect.TypeOf(fc))
	if err != nil {
		return nil, err
	}
	if !field.IsNil() {
		var ok bool
		if previous, ok = field.Interface().(FileCache); !ok {
			return nil, fmt.Errorf("%w: its files are a %s", ErrShape, field.Elem().Type())
		}
	}
	field.Set(reflect.ValueOf(fc))
	return previous, nil
}

// fileCacheField finds the field and makes it settable, having checked that a
// value of type want fits it and that no engine has captured it.
func fileCacheField(cache reflect.Value, want reflect.Type) (reflect.Value, error) {
	var none reflect.Value
	if cache.Kind() != reflect.Struct {
		return none, fmt.Errorf("%w: a CompilationCache is a pointer to a %s", ErrShape, cache.Type())
	}
	field := directField(cache, "fileCache")
	if !field.IsValid() || field.Kind() != reflect.Interface || !want.Implements(field.Type()) {
		return none, fmt.Errorf("%w: %s has no field fileCache that takes our cache", ErrShape, cache.Type())
	}
	engines := directField(cache, "engs")
	if !engines.IsValid() || engines.Kind() != reflect.Array || engines.Type().Elem().Kind() != reflect.Interface {
		return none, fmt.Errorf("%w: %s has no field engs that tells whether it is in use", ErrShape, cache.Type())
	}
	for i := range engines.Len() {
		if !engines.Index(i).IsNil() {
			return none, ErrInUse
		}
	}
	// Reflection refuses to set an unexported field; through its address it is
	// an ordinary variable of the type checked above.
	return reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem(), nil
}

// directField returns the field that the struct v itself has by that name, or the
// zero Value. It doesn't follow embedded pointers, which may be nil.
func directField(v reflect.Value, name string) reflect.Value {
	f, ok := v.Type().FieldByName(name)
	if !ok || len(f.Index) != 1 {
		return reflect.Value{}
	}
	return v.Field(f.Index[0])
}
