package wasmbin

import (
	"cmp"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// realModules are those in the directory MODCACHE_MODULES, or else the largest
// module of the corpus.
func realModules(t testing.TB) []corpusModule {
	corpus := wholeCorpus(t)
	var modules []corpusModule
	for _, m := range corpus {
		if !strings.Contains(m.name, "/") {
			modules = append(modules, m)
		}
	}
	if len(modules) > 0 {
		return modules
	}
	return []corpusModule{slices.MaxFunc(corpus, func(a, b corpusModule) int {
		return cmp.Compare(len(a.wasm), len(b.wasm))
	})}
}

// Canonical fingerprints beside a plain hash of all bytes, in
// bytes of wasm.
func BenchmarkFingerprint(b *testing.B) {
	for _, m := range realModules(b) {
		name := path.Base(m.name)
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
		run("canonical", m.wasm, func(wasm []byte) {
			h := blake3.New()
			WriteCanonical(h, wasm)
			h.Sum(nil)
		})
		run("canonical/relocatable", relocatable(m.wasm), func(wasm []byte) {
			h := blake3.New()
			WriteCanonical(h, wasm)
			h.Sum(nil)
		})
		run("stub", m.wasm, func(wasm []byte) { Stub(wasm, make([]byte, 64)) })
	}
}
