package wasmbin

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeebo/blake3"
)

// realModules are the files named *.wasm in the directory MODCACHE_MODULES, or
// the largest module of the corpus.
func realModules(t testing.TB) []corpusModule {
	var modules []corpusModule
	if dir := os.Getenv("MODCACHE_MODULES"); dir != "" {
		files, _ := filepath.Glob(filepath.Join(dir, "*.wasm"))
		for _, f := range files {
			wasm, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			modules = append(modules, corpusModule{filepath.Base(f), wasm})
		}
		return modules
	}
	return []corpusModule{slices.MaxFunc(wholeCorpus(t), func(a, b corpusModule) int {
		return cmp.Compare(len(a.wasm), len(b.wasm))
	})}
}

// Canonical and section-level fingerprints beside a plain hash of all bytes, in
// bytes of wasm. "padded" is the module with most of its integers padded.
func BenchmarkFingerprint(b *testing.B) {
	for _, m := range realModules(b) {
		name := filepath.Base(m.name)
		run := func(what string, wasm []byte, f func(wasm []byte)) {
			b.Run(name+"/"+what, func(b *testing.B) {
				b.SetBytes(int64(len(wasm)))
				b.ReportAllocs()
				for b.Loop() {
					f(wasm)
				}
			})
		}
		run("plain", m.wasm, func(wasm []byte) { blake3.Sum256(wasm) })
		run("sections", m.wasm, func(wasm []byte) {
			h := blake3.New()
			WriteSections(h, wasm)
			h.Sum(nil)
		})
		run("canonical", m.wasm, func(wasm []byte) {
			h := blake3.New()
			WriteCanonical(h, wasm, nil)
			h.Sum(nil)
		})
		run("measure", m.wasm, func(wasm []byte) { measure(wasm, nil) })
		run("scan", m.wasm, func(wasm []byte) { Scan(wasm) })
		run("stub", m.wasm, func(wasm []byte) { Stub(wasm, make([]byte, 64)) })
	}
}
