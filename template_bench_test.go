package modcache_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// dataModule returns a module with so much memory, a quarter of which its data fills, and a table of so many functions.
func dataModule(mib, functions int) []byte {
	var m wasmtest.Module
	m.Memory(uint32(mib) * 16)
	m.Data(bytes.Repeat([]byte("data"), mib<<16))
	t := m.Type(nil, []byte{wasmtest.I32})
	elements := slices.Concat([]byte{1, 0, 0x41, 0, 0x0b}, wasmtest.U32(uint32(functions)))
	for i := range functions {
		m.Func(t, "", 0x41, byte(i%64))
		elements = append(elements, wasmtest.U32(uint32(i))...)
	}
	m.Func(t, "f", 0x41, 8, 0x2d, 0, 0)
	m.Section(4, []byte{1, 0x70, 0}, wasmtest.U32(uint32(functions)))
	m.Section(9, elements)
	return m.Bytes()
}

// templateSides are the two that the benchmarks compare. wazero's own source of random numbers is seeded for
// each instance, which takes 10 µs: hosts give guests a better one.
func templateSides(b *testing.B, wasm []byte) map[string]func() (api.Module, error) {
	needsCompiler(b)
	plain := wazero.NewRuntime(bg)
	b.Cleanup(func() { _ = plain.Close(bg) })
	compiled := compile(b, plain, wasm)
	tmpl, err := newRuntime(b, newCache(b, &storetest.Fake{}, nil), nil).NewTemplate(bg, modcache.NewModule(wasm), nil)
	require.NoError(b, err)
	b.Cleanup(func() { _ = tmpl.Close(bg) })
	config := anonymous().WithRandSource(rand.Reader)
	return map[string]func() (api.Module, error){
		"wazero":   func() (api.Module, error) { return plain.InstantiateModule(bg, compiled, config) },
		"template": func() (api.Module, error) { return tmpl.Instantiate(bg, config) },
	}
}

// BenchmarkTemplateInstantiate makes and closes instances, of a template and of plain wazero in
// turns, and tells the medians and their ratio.
func BenchmarkTemplateInstantiate(b *testing.B) {
	for _, size := range []struct{ mib, functions int }{{1, 0}, {4, 0}, {16, 0}, {64, 0}, {4, 2000}, {16, 8000}} {
		b.Run(fmt.Sprintf("%d MiB, table of %d", size.mib, size.functions), func(b *testing.B) {
			sides := templateSides(b, dataModule(size.mib, size.functions))
			took := map[string][]float64{}
			for b.Loop() {
				for name, instantiate := range sides {
					start := time.Now()
					mod, err := instantiate()
					if err == nil {
						err = mod.Close(context.Background())
					}
					took[name] = append(took[name], float64(time.Since(start)))
					require.NoError(b, err)
				}
			}
			median := func(name string) float64 { slices.Sort(took[name]); return took[name][len(took[name])/2] }
			b.ReportMetric(median("wazero")/1000, "µs/wazero")
			b.ReportMetric(median("template")/1000, "µs/template")
			b.ReportMetric(median("template")/median("wazero"), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkTemplateIdle has 50 instances that were called once stay open, and tells what each adds to the
// process's memory.
func BenchmarkTemplateIdle(b *testing.B) {
	for _, mib := range []int{1, 16} {
		sides := templateSides(b, dataModule(mib, 100))
		for _, name := range []string{"wazero", "template"} {
			b.Run(fmt.Sprintf("%d MiB, %s", mib, name), func(b *testing.B) {
				const n = 50
				for b.Loop() {
					var open []api.Module
					before := 0
					for i := range n + 1 {
						mod, err := sides[name]()
						require.NoError(b, err)
						callF(b, mod)
						if open = append(open, mod); i == 0 { // the first one isn't a further one
							before = residentKiB(b)
						}
					}
					b.ReportMetric(float64(residentKiB(b)-before)/n, "KiB/instance")
					for _, mod := range open {
						require.NoError(b, mod.Close(bg))
					}
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// residentKiB returns what memory the process has for itself: pages of an image that instances only
// read are in memory once.
func residentKiB(b *testing.B) int {
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("SKIPPED: only Linux tells that, in /proc")
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(b, err)
	return kib
}
