package wasmbin

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// allFeatures is everything that the newest wazero can be told to accept.
const allFeatures = wasmtest.AllFeatures

// thorough makes the corpus tests take every module instead of a sample: set
// MODCACHE_THOROUGH.
func thorough() bool { return os.Getenv("MODCACHE_THOROUGH") != "" }

type corpusModule struct {
	name string
	wasm []byte
}

var loadCorpus = sync.OnceValues(func() (corpus []corpusModule, err error) {
	dir, err := wasmtest.WazeroDir()
	if err != nil {
		return nil, err
	}
	// Modules that are too large to come with wazero.
	if real := os.Getenv("MODCACHE_MODULES"); real != "" {
		files, _ := filepath.Glob(filepath.Join(real, "*.wasm"))
		for _, f := range files {
			wasm, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			corpus = append(corpus, corpusModule{filepath.Base(f), wasm})
		}
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".wasm" {
			return err
		}
		wasm, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		corpus = append(corpus, corpusModule{filepath.ToSlash(name), wasm})
		return err
	})
	return corpus, err
})

// wholeCorpus returns the modules that wazero's source comes with: its own tests
// and examples, the specification's test suites and what fuzzing had found. The
// *.wasm files in the directory MODCACHE_MODULES come first.
func wholeCorpus(t testing.TB) []corpusModule {
	corpus, err := loadCorpus()
	if err != nil || len(corpus) < 7000 {
		t.Skipf("NOT TESTED: no modules in wazero's source (%d found): %v", len(corpus), err)
	}
	return corpus
}

// sampledCorpus is every module that isn't from the specification's suites, and
// one in n of these, or all when the tests are to be thorough.
func sampledCorpus(t testing.TB, n int) []corpusModule {
	corpus := wholeCorpus(t)
	if thorough() {
		return corpus
	}
	var sample []corpusModule
	for i, m := range corpus {
		if i%n == 0 || !strings.Contains(m.name, "/spectest/") {
			sample = append(sample, m)
		}
	}
	return sample
}

// decoder is a wazero runtime that decodes and validates as any other does, but
// spends no time on native code.
func decoder(t testing.TB, features api.CoreFeatures) wazero.Runtime {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(features).WithCustomSections(true))
	t.Cleanup(func() { r.Close(ctx) })
	return r
}

// compile returns what CompileModule does, and a panic as an error.
func compile(r wazero.Runtime, wasm []byte) (c wazero.CompiledModule, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.CompileModule(context.Background(), wasm)
}

// describe writes down what can be seen of a module without running it, with or
// without what custom sections say.
func describe(c wazero.CompiledModule, names bool) string {
	var b strings.Builder
	if names {
		fmt.Fprintln(&b, c.Name())
	}
	funcs := func(defs []api.FunctionDefinition) {
		for _, d := range defs {
			module, name, imported := d.Import()
			fmt.Fprintln(&b, d.Index(), d.ExportNames(), module, name, imported, d.ParamTypes(), d.ResultTypes())
			if names {
				fmt.Fprintln(&b, d.DebugName(), d.ParamNames(), d.ResultNames())
			}
		}
	}
	funcs(c.ImportedFunctions())
	for _, name := range sortedKeys(c.ExportedFunctions()) {
		funcs([]api.FunctionDefinition{c.ExportedFunctions()[name]})
	}
	mems := func(d api.MemoryDefinition) {
		module, name, imported := d.Import()
		hi, encoded := d.Max()
		fmt.Fprintln(&b, d.Index(), d.ExportNames(), module, name, imported, d.Min(), hi, encoded)
	}
	for _, d := range c.ImportedMemories() {
		mems(d)
	}
	for _, name := range sortedKeys(c.ExportedMemories()) {
		mems(c.ExportedMemories()[name])
	}
	if names {
		for _, s := range c.CustomSections() {
			fmt.Fprintf(&b, "%s %x\n", s.Name(), s.Data())
		}
	}
	return b.String()
}
