package wazerohook

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/tetratelabs/wazero"
)

// fullCanary is the canary with what else may leave a trace in an entry: catch clauses in
// its function, and debug info in as far as wazero wants any to write a source map.
//
//	(tag (type 1))
//	(func (export "f") (result i32)
//	  (block (try_table (catch 0 0) (catch_all 0))) i32.const 42)
var fullCanary = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x08\x02\x60\x00\x01\x7f\x60\x00\x00" + "\x03\x02\x01\x00" + "\x0d\x03\x01\x00\x01" + "\x07\x05\x01\x01f\x00\x00" +
	"\x0a\x12\x01\x10\x00\x02\x40\x1f\x40\x02\x00\x00\x00\x02\x00\x0b\x0b\x41\x2a\x0b" + debugInfo)

// plainCanary is fullCanary for those who don't know exceptions.
var plainCanary = append(Canary(), debugInfo...)

// debugInfo is the section of a compilation unit of nothing.
const debugInfo = "\x00\x17\x0b.debug_info" + "\x07\x00\x00\x00\x04\x00\x00\x00\x00\x00\x04"

// Prove checks with a compile what is to be relied on for runtimes with the settings in
// rc, as read to conf. An error, which is [ErrShape] or [ErrInterpreter], means that only what
// wazero asks for by itself can be served. layout, if not nil, says that some entries
// can't be checked.
func (w *Wazero) Prove(rc wazero.RuntimeConfig, conf Config) (layout, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: compiling a probe panicked: %v", ErrShape, r)
		}
	}()
	seen := &probeCache{}
	ctx := &probeContext{Context: context.Background()}
	wasm := fullCanary
	if err = seen.compile(ctx, rc, wasm); err != nil {
		wasm = plainCanary // exceptions are off, or unknown
		err = seen.compile(ctx, rc, wasm)
	}
	key, entry, gets := seen.last()
	switch {
	case err != nil:
		return nil, err
	case gets == 0:
		return nil, ErrInterpreter
	case key != w.Key(wasm, conf.CloseOnContextDone):
		return nil, fmt.Errorf("%w: its key for a module is another with these settings", ErrShape)
	}
	if unknown := w.unknownValue(ctx); unknown != nil {
		return nil, fmt.Errorf("%w: with these settings, compiling depends on a %T in the context", ErrShape, unknown)
	}
	_, layout = ReadEntry(bytes.NewReader(entry), int64(len(entry)), w.Version, 1)
	return layout, nil
}

// unknownValue returns a key of wazero's that ctx was asked for and that
// nothing is known of, or nil.
func (w *Wazero) unknownValue(ctx *probeContext) any {
	for _, key := range ctx.keys() {
		known := key == w.listenerKey || key == w.workersKey
		if t := reflect.TypeOf(key); !known && strings.HasPrefix(t.PkgPath(), wazeroPath) {
			return key
		}
	}
	return nil
}
