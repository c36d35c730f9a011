package wazerocache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

var bg = context.Background()

func probe(t *testing.T) *wazerohook.Wazero {
	t.Helper()
	w, err := wazerohook.Probe()
	if errors.Is(err, wazerohook.ErrInterpreter) {
		t.Skip("NOT TESTED:", err)
	}
	require.NoError(t, err)
	return w
}

// TestAnnounced: whatever nobody announced fails, so that a stub is never compiled.
func TestAnnounced(t *testing.T) {
	w := probe(t)
	var x Announced
	r, err := NewRuntime(bg, wazero.NewRuntimeConfig(), &x)
	require.NoError(t, err)
	defer r.Close(bg)
	wasm := wasmtest.Const(7)
	_, err = r.CompileModule(bg, wasm)
	require.ErrorIs(t, err, ErrUnexpected)
	key := w.Key(wasm, false)
	require.ErrorIs(t, x.Add(key, nil), ErrUnexpected)
	require.ErrorIs(t, x.Delete(key), ErrUnexpected)

	// For a compile in full: nothing is there, and what comes is welcome.
	done := x.Announce(func() wazerohook.WazeroKey { return key }, nil)
	_, ok, err := x.Get(key)
	require.NoError(t, err)
	require.False(t, ok)
	require.NoError(t, x.Add(key, nil))
	require.NoError(t, x.Delete(key))
	require.NoError(t, done())
	_, _, err = x.Get(key)
	require.ErrorIs(t, err, ErrUnexpected)

	// For a load: the code is there, and a compile in its place is refused.
	code, err := Compile(bg, wazero.NewRuntimeConfig(), wasm, 0)
	require.NoError(t, err)
	stub, err := wasmbin.Stub(wasm, []byte("a tag"))
	require.NoError(t, err)
	load := func(src io.ReaderAt, reads bool) (readErr, err error) {
		entry, err := wazerohook.ReadEntry(src, int64(len(code)), w.Version, 1)
		require.NoError(t, err)
		key := w.Key(stub, false)
		done := x.Announce(func() wazerohook.WazeroKey { return key }, Ready(entry))
		if reads {
			require.ErrorIs(t, x.Add(key, bytes.NewReader(code[1:])), ErrUnexpected)
			require.ErrorIs(t, x.Add(key, bytes.NewReader(code[:len(code)-1])), ErrUnexpected)
			require.NoError(t, x.Add(key, bytes.NewReader(code)), "it is what was given")
		}
		require.ErrorIs(t, x.Delete(key), ErrUnexpected)
		mod, err := r.InstantiateWithConfig(bg, stub, wazero.NewModuleConfig().WithName(""))
		if err == nil {
			results, callErr := mod.ExportedFunction("f").Call(bg)
			require.NoError(t, callErr)
			require.Equal(t, []uint64{7}, results)
		}
		return done(), err
	}
	src := &breakable{ReaderAt: bytes.NewReader(code)}
	readErr, err := load(&breaksLater{src, int64(len(code))}, false)
	require.Error(t, err)
	require.ErrorIs(t, readErr, io.ErrUnexpectedEOF, "the reason must not be lost in wazero")
	src.broken = false
	readErr, err = load(src, true)
	require.NoError(t, err)
	require.NoError(t, readErr)

	// As a last resort, whatever it asks for is compiled, once nothing else is under way.
	other := x.Announce(func() wazerohook.WazeroKey { return wazerohook.WazeroKey{} }, nil)
	started := make(chan struct{})
	compiled := make(chan error)
	go func() {
		close(started)
		done := x.AnnounceAny()
		defer done()
		_, err := r.CompileModule(bg, wasmtest.Const(8))
		compiled <- err
	}()
	<-started
	refused := x.Refused()
	_, err = r.CompileModule(bg, wasmtest.Const(9))
	require.ErrorIs(t, err, ErrUnexpected)
	require.Equal(t, refused+1, x.Refused())
	require.NoError(t, other())
	require.NoError(t, <-compiled)
}

// breaksLater fails behind the first read of the last byte: the tail is read before the code.
type breaksLater struct {
	*breakable
	size int64
}

func (b *breaksLater) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.breakable.ReadAt(p, off)
	b.broken = off+int64(n) == b.size
	return n, err
}

func TestCompile(t *testing.T) {
	probe(t)
	code, err := Compile(bg, wazero.NewRuntimeConfig(), wasmtest.Const(7), 32)
	require.NoError(t, err)
	require.NotEmpty(t, code)
	require.GreaterOrEqual(t, cap(code), len(code)+32)
	_, err = Compile(bg, wazero.NewRuntimeConfig(), nil, 32)
	require.Error(t, err)
	code, err = Compile(bg, wazero.NewRuntimeConfigInterpreter(), wasmtest.Const(7), 32)
	require.NoError(t, err)
	require.Nil(t, code)
}

func TestReadAll(t *testing.T) {
	for _, r := range []io.Reader{bytes.NewReader([]byte("code")), struct{ io.Reader }{bytes.NewReader([]byte("code"))}} {
		b, err := ReadAll(r, 32)
		require.NoError(t, err)
		require.Equal(t, "code", string(b))
	}
	const size, spare = 800, 32
	for free, copies := range map[int]bool{0: true, spare: false, spare + size/8: false, size: true} {
		buffer := bytes.Repeat([]byte("code"), size/4+free)[: size : size+free]
		b, err := ReadAll(bytes.NewReader(buffer), spare)
		require.NoError(t, err)
		require.Equal(t, buffer, b)
		require.GreaterOrEqual(t, cap(b), size+spare)
		require.Equal(t, copies, &b[0] != &buffer[0], "%d bytes are free", free)
	}
}

// TestCaptureKeepsTheCode, though wazero compiles more, and ends.
func TestCaptureKeepsTheCode(t *testing.T) {
	probe(t)
	seen := &capture{spare: 32}
	r, err := NewRuntime(bg, wazero.NewRuntimeConfig(), seen)
	require.NoError(t, err)
	cm, err := r.CompileModule(bg, wasmtest.Const(7))
	require.NoError(t, err)
	first := seen.code
	was := bytes.Clone(first[:cap(first)])
	require.NoError(t, cm.Close(bg))
	_, err = r.CompileModule(bg, wasmtest.Const(8))
	require.NoError(t, err)
	require.NotEqual(t, first, seen.code)
	require.NoError(t, r.Close(bg))
	require.Equal(t, was, first[:cap(first)])
}

// TestValidate agrees with wazero on what is valid, without compiling.
func TestValidate(t *testing.T) {
	probe(t)
	var ill wasmtest.Module
	ill.Func(ill.Type(nil, []byte{wasmtest.I32}), "f", 0x42, 1)
	r := wazero.NewRuntime(bg)
	defer r.Close(bg)
	for _, wasm := range [][]byte{wasmtest.Const(7), ill.Bytes(), nil} {
		_, want := r.CompileModule(bg, wasm)
		require.Equal(t, want, Validate(bg, wazero.NewRuntimeConfig(), wasm))
	}
}

func TestNonce(t *testing.T) {
	wasm := append(wasmtest.Const(7), wasmtest.CustomSection("note", []byte("kept"))...)
	one, two := WithNonce(wasm), WithNonce(wasm)
	require.NotEqual(t, one, two)
	require.Equal(t, []byte("short"), WithNonce([]byte("short")))
	r := wazero.NewRuntimeWithConfig(bg, wazero.NewRuntimeConfig().WithCustomSections(true))
	defer r.Close(bg)
	cm, err := r.CompileModule(bg, one)
	require.NoError(t, err)
	require.Len(t, cm.CustomSections(), 2)
	sections := HideNonce(cm).CustomSections()
	require.Len(t, sections, 1)
	require.Equal(t, "note", sections[0].Name())
}

func TestStubsWork(t *testing.T) {
	probe(t)
	require.NoError(t, StubsWork())
	require.NoError(t, SharingWorks())
}

// onValue is a context whose values wazero can't ask for without a call of f: between the decoding of a module and
// the look for its code.
type onValue struct {
	context.Context
	f func()
}

func (c onValue) Value(key any) any {
	c.f()
	return c.Context.Value(key)
}

// runs compiles the canary with code, and calls it.
func runs(t *testing.T, ctx context.Context, e *Engine, r wazero.Runtime, code *wazerohook.Code) wazero.CompiledModule {
	t.Helper()
	cm, err := e.Compile(ctx, r, wazerohook.Canary(), code)
	require.NoError(t, err)
	mod, err := r.InstantiateModule(bg, Inner(cm), wazero.NewModuleConfig().WithName(""))
	require.NoError(t, err)
	require.NoError(t, mod.Close(bg))
	return cm
}

// TestEngineKeepsCodeForACompile, though a module of the same code is closed while that runs.
func TestEngineKeepsCodeForACompile(t *testing.T) {
	probe(t)
	engines := &Engines{Config: wazero.NewRuntimeConfig()}
	code, err := canaryCode(bg, engines)
	require.NoError(t, err)
	r, e, err := engines.Open(bg)
	require.NoError(t, err)
	defer r.Close(bg)
	evicted := runs(t, bg, e, r, code)
	closes := sync.OnceFunc(func() { require.NoError(t, evicted.Close(bg)) })
	cm := runs(t, onValue{bg, closes}, e, r, code)
	require.NoError(t, cm.Close(bg))
	require.Nil(t, e.Code(wazerohook.ModuleID(wazerohook.Canary(), false)), "nobody has it any more")
}

// TestEngineIsClosedTwice, the second time when it is another runtime's.
func TestEngineIsClosedTwice(t *testing.T) {
	probe(t)
	engines := &Engines{Config: wazero.NewRuntimeConfig()}
	code, err := canaryCode(bg, engines)
	require.NoError(t, err)
	for range 100 { // a sync.Pool may lose what it is given
		r, first, err := engines.Open(bg)
		require.NoError(t, err)
		require.NoError(t, r.Close(bg))
		first.Close()
		other, second, err := engines.Open(bg)
		require.NoError(t, err)
		first.using.RLock() // as while a module of the first is closed
		cm, err := second.Compile(bg, other, wazerohook.Canary(), code)
		require.NoError(t, err)
		first.Close()
		first.using.RUnlock()
		_, err = other.InstantiateModule(bg, Inner(cm), wazero.NewModuleConfig().WithName(""))
		require.NoError(t, err)
		require.NoError(t, other.Close(bg))
		if second.engine == first.engine {
			return
		}
	}
	t.Error("no engine was used twice")
}
