package wazerohook

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/contain"
)

// Supported checks what can be checked of this wazero without running it: that files can be
// plugged into its caches, and that it has a compiler for this platform.
func Supported() error {
	learnVersion()
	if !canCompile() {
		if _, err := Probe(); err != nil { // a new wazero may know more platforms, and what else is wrong is told there
			return err
		}
	}
	_, err := Plug(wazero.NewCompilationCache(), &probeCache{})
	return err
}

// canCompile reports whether wazero has a compiler for this platform, and may make its code executable.
func canCompile() bool {
	return slices.Contains(compilers, runtime.GOOS+"/"+runtime.GOARCH) && tryExecutableMemory() == nil
}

// learnVersion has wazero find out its version before there are runtimes. It keeps that in a variable without
// a lock, for which the first ones of a process would race if they were made at the same time. There is no
// directory of that name, and none can be made.
var learnVersion = sync.OnceFunc(func() { _, _ = wazero.NewCompilationCacheWithDir("\x00") })

// compilers are the platforms that wazero has had a compiler for all along.
var compilers = []string{
	"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64", "windows/amd64", "windows/arm64",
	"freebsd/amd64", "freebsd/arm64", "netbsd/amd64", "netbsd/arm64", "dragonfly/amd64",
}

// Version returns what wazero calls itself in the entries of a cache that runtimes were
// created with.
func Version(cc wazero.CompilationCache) (string, error) {
	if version := versionIn(reflect.ValueOf(cc)); version != "" {
		return version, nil
	}
	w, err := Probe()
	if err != nil {
		return "", err
	}
	return w.Version, nil
}

// versionIn reads the field in which wazero's engine keeps its version, or returns
// nothing. The engine is the one that compiles: others may be created meanwhile.
func versionIn(cc reflect.Value) string {
	if cc.Kind() != reflect.Pointer || cc.IsNil() || cc.Elem().Kind() != reflect.Struct {
		return ""
	}
	engines := directField(cc.Elem(), "engs")
	kind := engineKind(wazero.NewRuntimeConfigCompiler())
	if engines.Kind() != reflect.Array || kind < 0 || kind >= int64(engines.Len()) {
		return ""
	}
	engine := engines.Index(int(kind))
	if engine.Kind() == reflect.Interface {
		engine = engine.Elem()
	}
	if engine.Kind() != reflect.Pointer || engine.IsNil() || engine.Elem().Kind() != reflect.Struct {
		return ""
	}
	if version := directField(engine.Elem(), "wazeroVersion"); version.Kind() == reflect.String {
		return version.String()
	}
	return ""
}

// Try has a runtime over cc set out to compile a tiny module, and returns an error that is [ErrShape] if that panics. The
// files of cc should fail Get. The engine stays in cc.
func Try(cc wazero.CompilationCache) error {
	err := contain.Call(func() error {
		ctx := context.Background()
		r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cc))
		defer r.Close(ctx)
		if m, err := r.CompileModule(ctx, canary); err == nil {
			return m.Close(ctx) // it didn't mind the error
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: compiling a probe: %w", ErrShape, err)
	}
	return nil
}

// Look has a runtime over cc set out to compile a tiny module, and watches what it does. The
// files of cc must fail Get with refusal; asked returns the key that it was called with, if it was.
// Nothing is compiled, so that it takes microseconds, and there are things that it doesn't
// find out: see [Prove].
func Look(r wazero.Runtime, cc wazero.CompilationCache, conf Config, asked func() (WazeroKey, bool), refusal error) (w *Wazero, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: compiling a probe panicked: %v", ErrShape, r)
		}
	}()
	ctx := &probeContext{Context: context.Background()}
	_, err = r.CompileModule(ctx, canary)
	key, ok := asked()
	switch {
	case !ok && err == nil:
		return nil, ErrInterpreter
	case !ok:
		return nil, fmt.Errorf("%w: compiling a probe: %v", ErrShape, err)
	case !errors.Is(err, refusal):
		return nil, fmt.Errorf("%w: when its cache failed it said %v", ErrShape, err)
	}
	w = &Wazero{listenerKey: ctx.listenerKey()}
	switch {
	case !w.learnCPU(key, conf.CloseOnContextDone):
		return nil, fmt.Errorf("%w: its key for a module is another", ErrShape)
	case w.listenerKey == nil:
		return nil, fmt.Errorf("%w: it doesn't ask for listeners", ErrShape)
	}
	if unknown := w.unknownValue(ctx); unknown != nil {
		return nil, fmt.Errorf("%w: compiling depends on a %T in the context", ErrShape, unknown)
	}
	w.Version, err = Version(cc)
	return w, err
}
