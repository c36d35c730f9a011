package modcache_test

import (
	"bytes"
	"crypto/rand"
	"errors"
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
			inTurns(b, sides, func(api.Module) error { return nil })
		})
	}
}

// inTurns has instances of each side made, used and closed, and tells medians and their ratio.
func inTurns(b *testing.B, sides map[string]func() (api.Module, error), use func(api.Module) error) {
	took := map[string][]float64{}
	for b.Loop() {
		for name, instantiate := range sides {
			start := time.Now()
			mod, err := instantiate()
			if err == nil {
				err = errors.Join(use(mod), mod.Close(bg))
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
}

// BenchmarkTemplateWrites makes instances that write a byte in each 4 KiB of a part of their 64 MiB, and closes them, in turns.
func BenchmarkTemplateWrites(b *testing.B) {
	const mib = 64
	var m wasmtest.Module
	m.Memory(mib * 16)
	m.Data([]byte("data"))
	m.Body(m.Type([]byte{wasmtest.I32}, nil), "touch", []byte{
		1, 1, wasmtest.I32, // a local, for the address
		0x03, 0x40, // loop
		0x20, 1, 0x41, 1, 0x3a, 0, 0, // i32.store8
		0x20, 1, 0x41, 0x80, 0x20, 0x6a, 0x22, 1, // add 4096
		0x20, 0, 0x49, 0x0d, 0, 0x0b, 0x0b, // br_if there is more
	})
	sides := templateSides(b, m.Bytes())
	for _, percent := range []int{0, 10, 25, 50, 100} {
		b.Run(fmt.Sprintf("%d %%", percent), func(b *testing.B) {
			inTurns(b, sides, func(mod api.Module) error {
				if percent == 0 {
					return nil
				}
				_, err := mod.ExportedFunction("touch").Call(bg, mib<<20*uint64(percent)/100)
				return err
			})
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
