package modcache_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// TestRuntimeHeapOfModulesThatStay: a program that makes up modules and keeps them pays for each what
// wazero takes, and little more. One that forgets them pays less than that.
func TestRuntimeHeapOfModulesThatStay(t *testing.T) {
	needsCompiler(t)
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED, NOTHING PROVEN: the race detector takes memory of its own")
	}
	const modules = 400 // which leaves maps as full as they are on average
	plain := wazero.NewRuntime(bg)
	defer plain.Close(bg)
	wantBytes, wantObjects := heapPerModule(t, plain, modules, true, func(_, _ float64) bool { return true })
	for name, test := range map[string]struct {
		small        int
		forgotten    bool
		bytes, count float64 // at most, beside wazero's own
	}{
		"of one use":                         {small: 1, bytes: 850, count: 8},
		"stored, with the books of the Disk": {small: -1, bytes: 1000, count: 12},
		"of one use, forgotten":              {small: 1, forgotten: true},
		"stored, forgotten":                  {small: -1, forgotten: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := openCache(t, t.TempDir(), &modcache.Options{SmallModules: test.small})
			b, n := heapPerModule(t, newRuntime(t, c, nil), modules, !test.forgotten, func(b, n float64) bool {
				return b < wantBytes+test.bytes && n < wantObjects+test.count
			})
			t.Logf("%.0f B in %.1f objects a module; plain wazero: %.0f B in %.1f", b, n, wantBytes, wantObjects)
		})
	}
}

// heapPerModule returns by how much Go's heap grows with each module that stays compiled, though its
// only instance is closed, once that is little enough. The program may keep their handles.
func heapPerModule(t *testing.T, r wazero.Runtime, modules int, keep bool, enough func(bytes, objects float64) bool) (bytes, objects float64) {
	var kept []wazero.CompiledModule
	use := func(first, n int) {
		for i := range n {
			compiled, err := r.CompileModule(bg, wasmtest.Const(int32(1<<20+first+i)))
			require.NoError(t, err)
			mod, err := r.InstantiateModule(bg, compiled, anonymous())
			require.NoError(t, err)
			require.NoError(t, mod.Close(bg))
			if keep {
				kept = append(kept, compiled)
			}
		}
	}
	use(0, 8)
	var before, after runtime.MemStats
	collected(&before)
	use(8, modules)
	per := func(before, after uint64) float64 { return (float64(after) - float64(before)) / float64(modules) }
	cachetest.GivesBack(t, func() bool {
		collected(&after)
		bytes, objects = per(before.HeapAlloc, after.HeapAlloc), per(before.HeapObjects, after.HeapObjects)
		return enough(bytes, objects)
	})
	runtime.KeepAlive(kept)
	return bytes, objects
}

// collected reads the figures of the heap once all garbage is collected.
func collected(m *runtime.MemStats) {
	for range 4 { // finalizers and cleanups let go of more
		runtime.GC()
	}
	runtime.ReadMemStats(m)
}

// TestRuntimeRetainsNoMoreThanItSays of modules that are made of what is small in a module and large in memory, and of one that
// many runtimes have used.
func TestRuntimeRetainsNoMoreThanItSays(t *testing.T) {
	needsCompiler(t)
	if cachetest.RaceEnabled {
		t.Skip("SKIPPED, NOTHING PROVEN: the race detector takes memory of its own")
	}
	const many = 20_000
	entries := func(each string) []byte { return append(wasmtest.U32(many), strings.Repeat(each, many)...) }
	names := append(wasmtest.U32(uint32(len(entries("\x00\x00")))), entries("\x00\x00")...)
	for name, fill := range map[string]func(m *wasmtest.Module){
		"data": func(m *wasmtest.Module) {
			m.Section(12, wasmtest.U32(many))
			m.Section(11, entries("\x01\x00"))
		},
		"functions with names of locals": func(m *wasmtest.Module) { m.Custom("name", append([]byte{2}, names...)) },
		"names of functions":             func(m *wasmtest.Module) { m.Custom("name", append([]byte{1}, names...)) },
		"locals, decoded in full": func(m *wasmtest.Module) {
			m.Body(0, "", append(append([]byte{1}, wasmtest.U32(many*10)...), wasmtest.I32, 0x0b))
		},
		"elements": func(m *wasmtest.Module) { m.Section(9, []byte{1, 1, 0}, entries("\x00")) },
		"of others": func(m *wasmtest.Module) {
			typ := m.Type(nil, nil)
			for range many {
				m.Func(typ, "")
			}
		},
		"trap, all functions having the name of the module": func(m *wasmtest.Module) {
			typ := m.Type(nil, nil)
			for range 1000 {
				m.Func(typ, "")
			}
			m.Body(typ, "trap", []byte{0, 0, 0x0b})
			name := append(wasmtest.U32(many/10), strings.Repeat("m", many/10)...)
			m.Custom("name", append(append([]byte{0}, wasmtest.U32(uint32(len(name)))...), name...))
		},
		"trap with lines": func(m *wasmtest.Module) {
			m.Body(m.Type(nil, nil), "trap", []byte{0, 0, 0x0b})
			linesOf(m, 2*many)
		},
	} {
		t.Run(name, func(t *testing.T) {
			full, traps := strings.HasSuffix(name, "in full"), strings.HasPrefix(name, "trap")
			c := newCache(t, modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1}), &modcache.Options{FullDecode: full})
			r := newRuntime(t, c, nil)
			use := func(i int) {
				var m wasmtest.Module
				m.Func(m.Type(nil, nil), "", bytes.Repeat([]byte{1}, 17_000+i)...) // more than is small
				fill(&m)
				if name == "of others" {
					r, m = newRuntime(t, c, nil), wasmtest.Module{}
					fill(&m)
				}
				compiled := compile(t, r, m.Bytes())
				if traps {
					mod, err := r.InstantiateModule(bg, compiled, anonymous())
					require.NoError(t, err)
					_, err = mod.ExportedFunction("trap").Call(bg)
					require.ErrorContains(t, err, "unreachable")
					require.Equal(t, name == "trap with lines", strings.Contains(err.Error(), "file.c"))
					require.NoError(t, mod.Close(bg))
				}
				require.NoError(t, compiled.Close(bg))
			}
			use(0)
			var before, after runtime.MemStats
			collected(&before)
			retained := c.Metrics().RetainedBytes
			for i := range 20 {
				use(1 + i)
			}
			retained = c.Metrics().RetainedBytes - retained
			cachetest.GivesBack(t, func() bool {
				collected(&after)
				return float64(after.HeapAlloc)-float64(before.HeapAlloc) < 1.5*float64(retained)
			})
			t.Logf("%d bytes by the metrics, %d more on the heap", retained, after.HeapAlloc-before.HeapAlloc)
			if name != "trap with lines" {
				require.Greater(t, retained, uint64(20*many*8))
			}
		})
	}
}

// TestRuntimeFreesWhatItDoesNotRetain, as other runtimes have used others since.
func TestRuntimeFreesWhatItDoesNotRetain(t *testing.T) {
	needsCompiler(t)
	const retain, modules, runtimes = 12 << 20, 5, 15
	c := newCache(t, modcache.NewMemory(&modcache.MemoryOptions{MaxBytes: 1}), &modcache.Options{Retain: retain})
	var before, after runtime.MemStats
	collected(&before)
	var r *modcache.Runtime
	for i := range modules * runtimes {
		if i%modules == 0 {
			r = newRuntime(t, c, nil)
		}
		var m wasmtest.Module
		m.Memory(20)
		m.Func(m.Type(nil, nil), "", bytes.Repeat([]byte{1}, 17_000+i)...)
		m.Data(bytes.Repeat([]byte{byte(1 + i)}, 1<<20))
		require.NoError(t, compile(t, r, m.Bytes()).Close(bg))
	}
	require.LessOrEqual(t, c.Metrics().RetainedBytes, uint64(retain))
	cachetest.GivesBack(t, func() bool {
		collected(&after)
		return int64(after.HeapAlloc)-int64(before.HeapAlloc) < 2*retain
	})
}

// linesOf adds debug info to a module: a single unit, and a table of so many lines.
func linesOf(m *wasmtest.Module, lines int) {
	u32 := func(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
	sized := func(parts ...[]byte) []byte {
		all := bytes.Join(parts, nil)
		return append(u32(len(all)), all...)
	}
	header := []byte{1, 1, 1, 0xff, 4, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 'f', 'i', 'l', 'e', '.', 'c', 0, 0, 0, 0, 0}
	line := bytes.Repeat([]byte{13 + 4 + 2}, lines) // opcodes: each is one byte and one line further
	for name, content := range map[string][]byte{
		".debug_abbrev": {1, 0x11, 0, 0x11, 1, 0x12, 6, 0x10, 0x17, 0, 0, 0}, // a unit with low_pc, high_pc and stmt_list
		".debug_info":   sized([]byte{4, 0}, u32(0), []byte{4, 1}, u32(1), u32(1<<20), u32(0)),
		".debug_line":   sized([]byte{4, 0}, sized(header), line, []byte{0, 1, 1}),
		".debug_str":    {0}, ".debug_ranges": {0},
	} {
		m.Custom(name, content)
	}
}

// TestRuntimeRetainsNoOverlappingDWARF: modules of 50 kB take 75 MB each.
func TestRuntimeRetainsNoOverlappingDWARF(t *testing.T) {
	needsCompiler(t)
	const tables = 100
	var info, abbrevs []byte
	for i := range tables {
		info = append(info, 8, 0, 0, 0, 4, 0)
		info = append(binary.LittleEndian.AppendUint32(info, uint32(len(abbrevs))), 4, 0)
		abbrevs = append(append(abbrevs, wasmtest.U32(uint32(1+i))...), 0x11, 0, 0, 0)
	}
	c := newCache(t, modcache.NewMemory(nil), nil)
	r := newRuntime(t, c, nil)
	require.NoError(t, compile(t, r, chainWasm).Close(bg))
	require.EqualValues(t, 1, c.Metrics().Retained)
	for i, abbrevs := range [][]byte{append(abbrevs, 0), {1, 0x11, 0, 0, 0, 0}} { // overlapping, and a single one
		var m wasmtest.Module
		m.Func(m.Type(nil, nil), "", bytes.Repeat([]byte{1}, 17_000+i)...)
		for name, content := range map[string][]byte{".debug_info": info[:12*(1+(1-i)*(tables-1))], ".debug_abbrev": abbrevs, ".debug_line": {0}, ".debug_str": {0}, ".debug_ranges": {0}} {
			m.Custom(name, content)
		}
		require.NoError(t, compile(t, r, m.Bytes()).Close(bg))
		require.EqualValues(t, 1+i, c.Metrics().Retained, "and it has nothing else dropped")
	}
}
