// Package testharness is a package of yours that runs WebAssembly and has tests. Its
// tests compile each module once per machine instead of once per go test: see
// calculator_test.go.
package testharness

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Calculator asks a guest for a number.
type Calculator struct {
	module api.Module
	f      api.Function
}

// New starts the guest. That it takes a Runtime, and doesn't make one, is all that a
// package has to do to be tested with a cache.
func New(ctx context.Context, r wazero.Runtime, wasm []byte) (*Calculator, error) {
	module, err := r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return nil, fmt.Errorf("calculator: %w", err)
	}
	f := module.ExportedFunction("f")
	if f == nil || len(f.Definition().ParamTypes()) != 0 || len(f.Definition().ResultTypes()) != 1 {
		return nil, errors.Join(errors.New("calculator: the guest exports no function f with one result"), module.Close(ctx))
	}
	return &Calculator{module, f}, nil
}

// Number returns what the guest calculates.
func (c *Calculator) Number(ctx context.Context) (int32, error) {
	res, err := c.f.Call(ctx)
	if err != nil {
		return 0, fmt.Errorf("calculator: %w", err)
	}
	return api.DecodeI32(res[0]), nil
}

// Close ends the guest.
func (c *Calculator) Close(ctx context.Context) error { return c.module.Close(ctx) }
