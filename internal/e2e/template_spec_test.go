package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/modcache/modcache/internal/wasmtest"
	"github.com/modcache/modcache/internal/wazerohook"
)

// templateCount is what the comparisons of templates did.
type templateCount struct{ scripts, modules, memories, snapshots, images, actions int }

// TestTemplateSpecification runs the specification's own tests with three instances of each module: of
// plain wazero; of a template; and, in plain wazero again, of Template.Module. Of two modules, one is a
// template as it is, and the other one after an Init that does the first half of what the script does
// with the module; then it is the other way round, with MODCACHE_THOROUGH. After each command, memory, globals and exports are
// the same, and so are results and the texts of traps.
//
// It sees a sixth of the scripts with -short, and under the race detector, unless MODCACHE_SPEC is set.
func TestTemplateSpecification(t *testing.T) {
	needsCompiler(t)
	dir := filepath.Join(wazeroDir(t), "internal/integration_test/spectest")
	spectest, err := os.ReadFile(filepath.Join(dir, "testdata/spectest.wasm"))
	require.NoError(t, err)
	sample := (testing.Short() || cachetest.RaceEnabled) && os.Getenv("MODCACHE_SPEC") == ""
	var count templateCount
	for suite, features := range map[string]api.CoreFeatures{
		"v2":                 api.CoreFeaturesV2, // which has all of v1
		"threads":            api.CoreFeaturesV2 | wasmtest.Threads,
		"tail-call":          api.CoreFeaturesV2 | wasmtest.TailCall,
		"extended-const":     api.CoreFeaturesV2 | wasmtest.ExtendedConst,
		"exception-handling": api.CoreFeaturesV2 | wasmtest.TailCall | wasmtest.TypedFunctionReferences | wasmtest.ExceptionHandling,
	} {
		scripts, err := filepath.Glob(filepath.Join(dir, suite, "testdata/*.json"))
		require.NoError(t, err)
		for i, name := range scripts {
			if !sample || i%6 == 0 {
				count.scripts++
				for odd := range 2 {
					if !thorough && odd != i%2 {
						continue
					}
					runTemplateSpec(t, wazero.NewRuntimeConfig().WithCoreFeatures(features), name, spectest, odd, &count)
				}
			}
		}
	}
	t.Logf("%+v", count)
	require.Greater(t, count.memories, 20)
	require.Greater(t, count.snapshots, 20)
	require.Greater(t, count.images, 20)
}

func runTemplateSpec(t *testing.T, config wazero.RuntimeConfig, name string, spectest []byte, odd int, count *templateCount) {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	var script specScript
	require.NoError(t, json.Unmarshal(b, &script))

	r := newRuntime(t, newCache(t, &storetest.Fake{}, nil), config)
	plain, templates, modules := newSpecRun(t, wazero.NewRuntimeWithConfig(bg, config), spectest), newSpecRun(t, r, spectest), newSpecRun(t, wazero.NewRuntimeWithConfig(bg, config), spectest)
	defer plain.r.Close(bg)
	defer modules.r.Close(bg)
	done := 0 // commands that Init has carried out
	for i, c := range script.Commands {
		at := fmt.Sprintf("%s:%d %s %s", filepath.Base(name), c.Line, c.Type, c.Action.Field)
		switch c.Type {
		case "module", "assert_uninstantiable", "assert_unlinkable":
			if !strings.HasSuffix(c.Filename, ".wasm") {
				continue
			}
			wasm, err := os.ReadFile(filepath.Join(filepath.Dir(name), c.Filename))
			require.NoError(t, err)
			as := ""
			if i+1 < len(script.Commands) && script.Commands[i+1].Type == "register" {
				as = script.Commands[i+1].As
			}
			_, wantErr := plain.load(wasm, as, c)
			var first []specCommand
			if c.Type == "module" {
				first = firstHalf(script.Commands[i+1:])
				count.modules++
			}
			tmpl, captured, err := specTemplate(r, wasm, first, (count.modules+odd)%2 == 0)
			if err == nil {
				ripen(t, tmpl, wasm)
				var mod api.Module
				if mod, err = tmpl.Instantiate(bg, wazero.NewModuleConfig().WithName(as)); err == nil {
					templates.loaded(mod, c)
				}
				_, moduleErr := modules.load(tmpl.Module().Bytes(), as, c)
				require.Equal(t, cachetest.ErrorText(wantErr), cachetest.ErrorText(moduleErr), at)
				require.NoError(t, tmpl.Close(bg))
			}
			require.Equal(t, cachetest.ErrorText(wantErr), cachetest.ErrorText(err), at)
			switch {
			case wantErr != nil || c.Type != "module":
				continue
			case captured:
				count.snapshots++
				done = i + 1 + len(first)
			default:
				count.images++
			}
			if hasMemory(plain.last) {
				count.memories++
			}
			if captured {
				for _, c := range first {
					_, _ = plain.act(c)
				}
			}
		case "register":
		default:
			if i < done || c.Action.Type == "" {
				continue
			}
			count.actions++
			want, wantErr := plain.act(c)
			for _, run := range []*specRun{templates, modules} {
				got, err := run.act(c)
				require.Equal(t, cachetest.ErrorText(wantErr), cachetest.ErrorText(err), at)
				if err == nil {
					requireSame(t, want, got, c.Expected, at)
				}
			}
		}
		requireSameState(t, plain.of(c), templates.of(c), at)
		requireSameState(t, plain.of(c), modules.of(c), at)
	}
	require.NoError(t, r.Close(bg))
}

// firstHalf returns half of the commands that call the module which was just instantiated.
func firstHalf(commands []specCommand) []specCommand {
	n := 0
	for n < len(commands) && commands[n].Action.Type == "invoke" && commands[n].Action.Module == "" {
		n++
	}
	return commands[:n/2]
}

// specTemplate returns a template of a module after so many commands, or of the module as it is, which
// it does as well if that can't be captured.
func specTemplate(r *modcache.Runtime, wasm []byte, first []specCommand, capture bool) (tmpl *modcache.Template, captured bool, err error) {
	if !capture {
		tmpl, err = r.NewTemplate(bg, modcache.NewModule(wasm), nil)
		return tmpl, false, err
	}
	tmpl, err = r.NewTemplate(bg, modcache.NewModule(wasm), &modcache.TemplateOptions{Init: func(ctx context.Context, mod api.Module) error {
		for _, c := range first {
			_, _ = mod.ExportedFunction(c.Action.Field).Call(ctx, packed(c.Action.Args)...)
		}
		return nil
	}})
	if err == nil {
		return tmpl, true, nil
	}
	tmpl, err = r.NewTemplate(bg, modcache.NewModule(wasm), nil)
	return tmpl, false, err
}

// ripen makes the instances of a template whose tables wazero fills, and a template looks at. Those of a
// module that writes to what belongs to others are few as well.
func ripen(t *testing.T, tmpl *modcache.Template, wasm []byte) {
	l, err := wasmbin.ScanLinkage(wasm)
	if err != nil || l.ImportsMemory || l.ImportsTable {
		return
	}
	for range 3 {
		mod, err := tmpl.Instantiate(bg, wazero.NewModuleConfig().WithName("").WithStartFunctions())
		if err != nil {
			return
		}
		require.NoError(t, mod.Close(bg))
	}
}

// loaded makes mod the instance that commands are about.
func (s *specRun) loaded(mod api.Module, c specCommand) {
	if c.Type == "module" {
		s.last = mod
		if c.Name != "" {
			s.byName[c.Name] = mod
		}
	}
}

// of returns the instance that a command is about.
func (s *specRun) of(c specCommand) api.Module {
	if c.Action.Module != "" {
		return s.byName[c.Action.Module]
	}
	return s.last
}

func hasMemory(mod api.Module) bool {
	return mod != nil && mod.Memory() != nil && !reflect.ValueOf(mod.Memory()).IsNil()
}

// requireSameState compares all that can be seen of two instances from outside.
func requireSameState(t *testing.T, want, got api.Module, at string) {
	t.Helper()
	if want == nil {
		return
	}
	require.Equal(t, hasMemory(want), hasMemory(got), at)
	if hasMemory(want) {
		size := want.Memory().Size()
		require.Equal(t, size, got.Memory().Size(), at)
		a, _ := want.Memory().Read(0, size)
		b, _ := got.Memory().Read(0, size)
		require.True(t, bytes.Equal(a, b), at)
	}
	wantGlobals, gotGlobals := want.(experimental.InternalModule), got.(experimental.InternalModule)
	require.Equal(t, wantGlobals.NumGlobal(), gotGlobals.NumGlobal(), at)
	for i := range wantGlobals.NumGlobal() {
		a, b := wantGlobals.Global(i), gotGlobals.Global(i)
		require.Equal(t, a.Type(), b.Type(), at)
		low, high, _ := wazerohook.GlobalValue(a)
		gotLow, gotHigh, _ := wazerohook.GlobalValue(b)
		switch a.Type() {
		case api.ValueTypeI32, api.ValueTypeF32:
			low, gotLow = uint64(uint32(low)), uint64(uint32(gotLow))
		case api.ValueTypeI64, api.ValueTypeF64, 0x7b:
		default: // an address, or none
			low, gotLow = min(low, 1), min(gotLow, 1)
		}
		require.Equal(t, [2]uint64{low, high}, [2]uint64{gotLow, gotHigh}, "%s: global %d", at, i)
	}
	require.Equal(t, exportsOf(want), exportsOf(got), at)
}

// exportsOf describes the functions and memories that an instance exports.
func exportsOf(mod api.Module) (out []string) {
	functions, memories := mod.ExportedFunctionDefinitions(), mod.ExportedMemoryDefinitions()
	for _, name := range slices.Sorted(maps.Keys(functions)) {
		f := functions[name]
		out = append(out, fmt.Sprint(name, " ", f.Index(), f.Name(), f.ParamTypes(), f.ResultTypes(), f.ParamNames()))
	}
	for _, m := range memories { // wazero tells one, under any of its names
		most, bounded := m.Max()
		out = append(out, fmt.Sprint(m.Index(), most, bounded, m.ExportNames()))
	}
	return out
}
