package modcache

import (
	"context"

	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache/internal/contain"
)

// Prepare is [Cache.Warm] for one module, in the background: it returns at once, and the channel gets the
// result, then is closed. If it has no error, a [Runtime] of the given configuration loads the module from here on
// and compiles nothing, for as long as the store or Options.Retain keeps the code. It is for programs that
// answer in another way meanwhile, such as with wazero's interpreter; see examples/tiered.
//
// Preparations share a compile with all who want the same module, and wait for their turn
// (Options.MaxCompiles). One ends early, with an error, when ctx ends or the Cache is closed; its compile then ends
// as [Runtime] says, and Close waits for it. So ctx isn't that of a request. Nobody has to receive the result.
func (c *Cache) Prepare(ctx context.Context, config wazero.RuntimeConfig, m *Module) <-chan WarmResult {
	result := make(chan WarmResult, 1)
	prepare := func() {
		defer close(result)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(c.ctx, func() { cancel(errCacheClosed) })()
		err := contain.Call(func() error { // nobody can catch it here
			for w := range c.WarmEach(ctx, config, m) {
				result <- w
			}
			return nil
		})
		if err != nil && len(result) == 0 {
			result <- WarmResult{Module: m, Err: &Error{Op: "prepare", Err: err}}
		}
	}
	c.owning.Lock()
	closed := c.Closed()
	if !closed {
		c.background.Go(prepare)
	}
	c.owning.Unlock()
	if closed {
		prepare() // which says so
	}
	return result
}
