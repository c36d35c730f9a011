package wazerocache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/wazerohook"
)

// NewRuntime returns a runtime over an engine of its own, with files in place of those of
// the cache in config.
func NewRuntime(ctx context.Context, config wazero.RuntimeConfig, files wazerohook.FileCache) (wazero.Runtime, error) {
	cc := wazero.NewCompilationCache()
	if _, err := wazerohook.Plug(cc, files); err != nil {
		return nil, err
	}
	return wazerohook.NewRuntime(ctx, config.WithCompilationCache(cc))
}

// unlistened is ctx without the function listeners that a caller may have put in it for compiles of its own: keys of what is
// stored don't say that code calls listeners, and it crashes where there are none.
func unlistened(ctx context.Context) context.Context {
	return experimental.WithFunctionListenerFactory(ctx, nil)
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
	cm, err := r.CompileModule(unlistened(ctx), wasm)
	if err != nil {
		return nil, err
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	return seen.code, cm.Close(ctx)
}

// capture is an empty cache that takes hold of the code of one module.
type capture struct {
	spare int

	mu   sync.Mutex // wazero might offer it later, from another goroutine
	code []byte
}

func (c *capture) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) { return nil, false, nil }

func (c *capture) Add(_ wazerohook.WazeroKey, content io.Reader) error {
	if code, err := ReadAll(content, c.spare); err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.code = code
	}
	return nil
}

func (c *capture) Delete(wazerohook.WazeroKey) error { return nil }

// ReadAll reads r to its end, into a slice with capacity for spare more bytes if r says
// how long it is. What wazero offers lies in a buffer that it lets go of, and is taken as it is.
func ReadAll(r io.Reader, spare int) ([]byte, error) {
	if b, ok := r.(*bytes.Reader); ok {
		var whole taken
		_, _ = b.WriteTo(&whole)
		if free := cap(whole) - len(whole); free >= spare && free <= spare+len(whole)/8 {
			return whole, nil
		}
		return append(make([]byte, 0, len(whole)+spare), whole...), nil
	}
	if sized, ok := r.(interface{ Len() int }); ok {
		n := sized.Len()
		b := make([]byte, n, n+spare)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	return io.ReadAll(r)
}

// taken is what was written to it, which is nobody else's from then on.
type taken []byte

func (t *taken) Write(b []byte) (int, error) {
	*t = b
	return len(b), nil
}

// Load finds out whether wazero loads an entry in the name of image, for which it asks for
// key. Errors wrap [wazerohook.ErrEntry] if the entry is at fault.
func Load(ctx context.Context, config wazero.RuntimeConfig, image []byte, key wazerohook.WazeroKey, entry *wazerohook.Entry) error {
	files := &Announced{}
	r, err := NewRuntime(ctx, config, files)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	done := files.Announce(func() wazerohook.WazeroKey { return key }, Ready(entry))
	defer done()
	cm, err := r.CompileModule(unlistened(ctx), image)
	switch readErr := done(); {
	case err == nil:
		return cm.Close(ctx)
	case readErr != nil:
		return readErr
	case files.Refused() > 0:
		return err
	}
	return fmt.Errorf("%w: %w", wazerohook.ErrEntry, err)
}

// Validate returns the error that wazero has for the module, if any, without
// compiling it.
func Validate(ctx context.Context, config wazero.RuntimeConfig, wasm []byte) error {
	files := &validateOnly{}
	r, err := NewRuntime(ctx, config, files)
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	_, err = r.CompileModule(unlistened(ctx), wasm)
	if files.asked.Load() {
		return nil // whatever wazero makes of errValid
	}
	return err
}

// errValid is how far a module gets that is valid.
var errValid = errors.New("the module is valid")

// validateOnly is a cache that ends every compile before it begins.
type validateOnly struct{ asked atomic.Bool }

func (v *validateOnly) Get(wazerohook.WazeroKey) (io.ReadCloser, bool, error) {
	v.asked.Store(true)
	return nil, false, errValid
}
func (*validateOnly) Add(wazerohook.WazeroKey, io.Reader) error { return nil }
func (*validateOnly) Delete(wazerohook.WazeroKey) error         { return nil }
