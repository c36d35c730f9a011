package modcache

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// impatient is a store that answers when a compile has begun beside its lookup.
type impatient struct {
	Store
	hedged func() bool
}

func (*impatient) Patience(time.Duration) time.Duration { return 1 }

func (s *impatient) Get(ctx context.Context, key Key) (*Artifact, bool, error) {
	for !s.hedged() {
		runtime.Gosched()
	}
	return s.Store.Get(ctx, key)
}

// TestHedgeOwnsItsBytes: the caller may change the bytes as soon as one of the two ways
// has led to code, and the other may not have begun to read them.
func TestHedgeOwnsItsBytes(t *testing.T) {
	ctx := context.Background()
	wasm := wasmtest.Const(7)
	r := internalRuntime(t, &Options{MaxCompiles: 1, ExactKeys: true})
	c, m := r.c, NewModule(wasm)
	c.store = NewMemory(nil)
	require.NoError(t, c.Warm(ctx, nil, m))
	c.store = &impatient{c.store, func() bool { return c.counters.hedged.Load() > 0 }}

	c.compiles <- struct{}{} // the compile isn't to begin
	src := &source{sum: m.sum, wasm: m.wasm}
	h, err := r.e.load(ctx, func() {}, r, r.Key(m), src)
	require.NoError(t, err)
	<-c.compiles
	require.NoError(t, h.anchor.Close(ctx))
	require.True(t, src.owned)
}
