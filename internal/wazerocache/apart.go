package wazerocache

import (
	"context"
	"errors"
	"io"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/wazerohook"
)

// NewRuntime returns a runtime over an engine of its own, with files in place of those of
// the cache in config.
func NewRuntime(ctx context.Context, config wazero.RuntimeConfig, files wazerohook.FileCache) (wazero.Runtime, error) {
	cc := wazero.NewCompilationCache()
	if _, err := wazerohook.Plug(cc, files); err != nil {
		return nil, err
	}
	return wazero.NewRuntimeWithConfig(ctx, config.WithCompilationCache(cc)), nil
}

// Compile returns the code that wazero compiles wasm to, with capacity for spare more
// bytes, or nil if wazero doesn't offer any, as its interpreter doesn't.
func Compile(ctx context.Context, config wazero.RuntimeConfig, wasm []byte, spare int) ([]byte, error) {
	seen := &capture{spare: spare}
	r, err := NewRuntime(ctx, config, seen)
	if err != nil {
		return nil, err
	}
	defer r.Close(ctx)
	cm, err := r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, err
	}
	return seen.code, cm.Close(ctx)
}

// capture is an empty cache that takes hold of the code of one module.
type capture struct {
	spare int
	code  []byte
}

func (c *capture) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) { return nil, false, nil }

func (c *capture) Add(_ wazerohook.WazeroKey, content io.Reader) error {
	if code, err := ReadAll(content, c.spare); err == nil {
		c.code = code
	}
	return nil
}

func (c *capture) Delete(wazerohook.WazeroKey) error { return nil }

// ReadAll reads r to its end, into a slice with capacity for spare more bytes if r says
// how long it is.
func ReadAll(r io.Reader, spare int) ([]byte, error) {
	if sized, ok := r.(interface{ Len() int }); ok {
		n := sized.Len()
		b := make([]byte, n, n+spare)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	return io.ReadAll(r)
}

// Validate returns the error that wazero has for the module, if any, without
// compiling it.
func Validate(ctx context.Context, config wazero.RuntimeConfig, wasm []byte) error {
	r, err := NewRuntime(ctx, config, validateOnly{})
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	if _, err := r.CompileModule(ctx, wasm); !errors.Is(err, errValid) {
		return err
	}
	return nil
}

// errValid is how far a module gets that is valid.
var errValid = errors.New("the module is valid")

// validateOnly is a cache that ends every compile before it begins.
type validateOnly struct{}

func (validateOnly) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	return nil, false, errValid
}
func (validateOnly) Add(wazerohook.WazeroKey, io.Reader) error { return nil }
func (validateOnly) Delete(wazerohook.WazeroKey) error         { return nil }
