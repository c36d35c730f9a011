package wazerohook

import (
	"context"
	"reflect"

	"github.com/tetratelabs/wazero/api"
)

// OnClose has wazero call release once when mod is closed, in whichever way, and
// reports whether it can: it can't if wazero has another shape, if something
// else closes with mod already, or if mod is closed by now.
//
// It sets a field that wazero exports on an unexported type, so it must run
// before mod is handed to anybody who could close it concurrently.
func OnClose(mod api.Module, release func()) bool {
	v := reflect.ValueOf(mod)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return false
	}
	f := directField(v.Elem(), "CodeCloser")
	if !f.IsValid() || !f.CanSet() || f.Type() != reflect.TypeFor[api.Closer]() || !f.IsNil() || mod.IsClosed() {
		return false
	}
	f.Set(reflect.ValueOf(api.Closer(closerFunc(release))))
	return true
}

type closerFunc func()

func (f closerFunc) Close(context.Context) error { f(); return nil }
