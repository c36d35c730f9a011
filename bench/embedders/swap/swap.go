// Package swap makes the runtimes of libraries. They don't know it: the benchmark builds
// copies of them in which it stands in for wazero's constructors.
package swap

import (
	"context"

	"github.com/tetratelabs/wazero"
)

// Make makes each runtime.
var Make = wazero.NewRuntimeWithConfig

// NewRuntime stands in for wazero.NewRuntime.
func NewRuntime(ctx context.Context) wazero.Runtime {
	return Make(ctx, wazero.NewRuntimeConfig())
}

// NewRuntimeWithConfig stands in for wazero.NewRuntimeWithConfig.
func NewRuntimeWithConfig(ctx context.Context, config wazero.RuntimeConfig) wazero.Runtime {
	return Make(ctx, config)
}
