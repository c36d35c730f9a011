package modcache

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// TestTemplateForgetsTurns: a Cache keeps nothing of the IDs of snapshots that nobody is making.
func TestTemplateForgetsTurns(t *testing.T) {
	ctx := t.Context()
	c, err := New(NewMemory(nil), nil)
	require.NoError(t, err)
	defer c.Close(ctx)
	if c.unsupported != nil {
		t.Skip("NOT TESTED: turns of snapshots:", c.unsupported)
	}
	r, err := c.NewRuntime(ctx, nil)
	require.NoError(t, err)
	defer r.Close(ctx)
	failed := errors.New("injected")
	for id, want := range map[string]error{"a": nil, "b": failed} {
		tmpl, err := r.NewTemplate(ctx, NewModule(wasmtest.Const(1)), &TemplateOptions{ID: id, Init: func(context.Context, api.Module) error { return want }})
		require.ErrorIs(t, err, want)
		if tmpl != nil {
			require.NoError(t, tmpl.Close(ctx))
		}
	}
	c.snapshotting.Range(func(key, _ any) bool {
		t.Error("a turn is left:", key)
		return true
	})
}
