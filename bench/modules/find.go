package modules

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Module is a WebAssembly module in a file.
type Module struct {
	Name string
	File string
	Size int64
}

// String returns the module's name and size.
func (m Module) String() string { return fmt.Sprintf("%s, %.1f MB", m.Name, float64(m.Size)/1e6) }

// Open returns the module in a file.
func Open(file string) (Module, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return Module{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return Module{}, err
	}
	return Module{strings.TrimSuffix(filepath.Base(file), ".wasm"), file, info.Size()}, nil
}

// shipped are modules that other people ship inside Go modules, small ones first.
var shipped = []struct{ module, path string }{
	{"github.com/ncruces/go-sqlite3", "embed/sqlite3.wasm"},
	{"github.com/wasilibs/go-re2", "internal/wasm/libcre2.wasm"},
	{"github.com/1password/onepassword-sdk-go", "internal/wasm/core.wasm"},
}

// built are programs that the Go toolchain at hand builds for WASI.
var built = []string{"cmd/gofmt", "cmd/compile"}

// Find returns the modules to measure, and keeps what it builds in tmp. A few is
// the first two of those that nothing has to be built for.
func Find(ctx context.Context, tmp string, few bool) ([]Module, error) {
	var found []Module
	for _, s := range shipped {
		out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", s.module).Output()
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", s.module, err)
		}
		m, err := Open(filepath.Join(strings.TrimSpace(string(out)), s.path))
		if err != nil {
			return nil, fmt.Errorf("%s (is it downloaded? go mod download): %w", s.module, err)
		}
		found = append(found, m)
		if few && len(found) == 2 {
			return found, nil
		}
	}
	for _, pkg := range built {
		m, err := Build(ctx, tmp, pkg)
		if err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	return found, nil
}

// Build builds a package for WASI, in tmp unless it is there already: main packages named guest as
// libraries, which export functions, and others as programs.
func Build(ctx context.Context, tmp, pkg string) (Module, error) {
	file := filepath.Join(tmp, filepath.Base(pkg)+".wasm")
	if _, err := os.Stat(file); err == nil {
		return Open(file)
	}
	args := []string{"build", "-trimpath", "-o", file}
	if filepath.Base(pkg) == "guest" {
		args = append(args, "-buildmode=c-shared")
	}
	build := exec.CommandContext(ctx, "go", append(args, pkg)...)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		return Module{}, fmt.Errorf("build %s for WASI: %w\n%s", pkg, err, out)
	}
	return Open(file)
}
