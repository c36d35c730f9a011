// Package guest builds the WebAssembly modules that the examples run.
package guest

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed hello/main.go
var hello []byte

// Load returns the module in file, or if that is "", a small Go program that says
// hello.
func Load(ctx context.Context, file string) ([]byte, error) {
	if file != "" {
		return os.ReadFile(file)
	}
	return Build(ctx, hello)
}

// Build builds a Go program of one file for WASI, with the Go toolchain at hand.
func Build(ctx context.Context, source []byte, flags ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, content := range map[string][]byte{"main.go": source, "go.mod": []byte("module guest\n\ngo 1.25\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, "guest.wasm")
	args := append([]string{"build", "-trimpath", "-o", file}, flags...)
	build := exec.CommandContext(ctx, "go", append(args, ".")...)
	build.Dir = dir
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the guest: %w\n%s", err, out)
	}
	return os.ReadFile(file)
}
