package modcache

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache/internal/wazerohook"
)

// nonceSection is a custom section that makes a module unlike any other in the engine.
const nonceSection = "modcache.nonce"

// compileListening compiles a module with the listeners that its context asks
// for. An engine would serve the listeners of the first compile to all later ones
// of the same bytes, whosever they are, so these bytes are like nobody else's.
func (r *Runtime) compileListening(ctx context.Context, factory experimental.FunctionListenerFactory, m *Module) (wazero.CompiledModule, error) {
	if err := r.c.checkOpen(); err != nil {
		return nil, fmt.Errorf("modcache: compile module %v: %w", m.sum, err)
	}
	if r.c.opts.RequireHit {
		return nil, fmt.Errorf("%w: module %v is to be compiled with listeners, which is never cached", ErrMiss, m.sum)
	}
	free, err := r.c.compileSlot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	wasm := withNonce(m.wasm)
	listeners := &wazerohook.ListenerKey{FunctionListenerFactory: factory}
	// Which functions have a listener is known by the time that wazero asks.
	done := r.e.expect.announce(func() wazerohook.WazeroKey {
		return listeners.Key(r.c.wazero, wasm, r.e.term)
	}, nil)
	defer done()
	ctx = experimental.WithFunctionListenerFactory(r.c.withWorkers(ctx), listeners)
	cm, err := r.compileInner(ctx, wasm)
	if err != nil {
		return nil, r.closedError(m.sum, err)
	}
	compiled := &module{r: r, cm: cm, size: footprint(codeGrowth*int64(len(wasm)), nil)}
	r.c.mu.Lock()
	closed := r.closed
	if !closed {
		compiled.hold(1)
		r.private[compiled] = struct{}{}
	}
	r.c.mu.Unlock()
	if closed {
		_ = cm.Close(ctx)
		return nil, r.closedError(m.sum, errLeaderClosed)
	}
	return &handle{CompiledModule: listened{cm}, m: compiled}, nil
}

// withNonce puts a custom section behind the header, the one place where it can't
// make a module valid that isn't.
func withNonce(wasm []byte) []byte {
	const header = 8
	if len(wasm) < header {
		return wasm
	}
	body := append([]byte{byte(len(nonceSection))}, nonceSection...)
	body = append(body, rand.Text()...)
	section := append([]byte{0, byte(len(body))}, body...)
	return slices.Concat(wasm[:header], section, wasm[header:])
}

// listened hides the nonce.
type listened struct{ wazero.CompiledModule }

func (l listened) CustomSections() []api.CustomSection {
	return slices.DeleteFunc(l.CompiledModule.CustomSections(), func(s api.CustomSection) bool {
		return s.Name() == nonceSection
	})
}
