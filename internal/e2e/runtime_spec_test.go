package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/cachetest"
	"github.com/modcache/modcache/internal/storetest"
	"github.com/modcache/modcache/internal/wasmtest"
)

// specScript is a test of the WebAssembly specification as wabt's wast2json writes it.
type specScript struct {
	Commands []specCommand
}

type specCommand struct {
	Type, Name, Filename, As, Text string
	Line                           int
	ModuleType                     string `json:"module_type"`
	Action                         struct {
		Type, Module, Field string
		Args                []specValue
	}
	Expected []specValue
}

type specValue struct {
	Type     string
	LaneType string `json:"lane_type"`
	Value    any    // a string, or one for each lane
}

// specCount is what a run of the suite did.
type specCount struct{ scripts, modules, stubbed, assertions, refused int }

func (c *specCount) add(d specCount) {
	c.scripts += d.scripts
	c.modules += d.modules
	c.stubbed += d.stubbed
	c.assertions += d.assertions
	c.refused += d.refused
}

func (c specCount) String() string {
	return fmt.Sprintf("%d scripts, %d modules, %d loads through stubs, %d assertions, %d modules refused",
		c.scripts, c.modules, c.stubbed, c.assertions, c.refused)
}

// TestSpecification runs the WebAssembly specification's own tests, as they come with
// wazero: each in plain wazero, and in a runtime that loads all modules
// through stubs from a warm store. What they export and return, how they trap,
// and why they are refused must be the same, and what the scripts say.
//
// The race detector makes it take long, so it sees a sixth of the scripts, unless
// MODCACHE_SPEC is set.
func TestSpecification(t *testing.T) {
	needsCompiler(t)
	dir := filepath.Join(wazeroDir(t), "internal/integration_test/spectest")
	spectest, err := os.ReadFile(filepath.Join(dir, "testdata/spectest.wasm"))
	require.NoError(t, err)
	tailAndTyped := api.CoreFeaturesV2 | wasmtest.TailCall | wasmtest.TypedFunctionReferences
	var total specCount
	for _, suite := range []struct {
		name     string
		features api.CoreFeatures
	}{
		{"v1", api.CoreFeaturesV1},
		{"v2", api.CoreFeaturesV2},
		{"threads", api.CoreFeaturesV2 | wasmtest.Threads},
		{"tail-call", api.CoreFeaturesV2 | wasmtest.TailCall},
		{"extended-const", api.CoreFeaturesV2 | wasmtest.ExtendedConst},
		{"typed-function-references", tailAndTyped},
		{"exception-handling", tailAndTyped | wasmtest.ExceptionHandling},
	} {
		t.Run(suite.name, func(t *testing.T) {
			config := wazero.NewRuntimeConfig().WithCoreFeatures(suite.features)
			scripts, err := filepath.Glob(filepath.Join(dir, suite.name, "testdata/*.json"))
			require.NoError(t, err)
			if len(scripts) == 0 {
				t.Skip("SKIPPED, NOTHING PROVEN: this wazero has no such feature")
			}
			var count specCount
			for i, name := range scripts {
				if cachetest.RaceEnabled && i%6 > 0 && os.Getenv("MODCACHE_SPEC") == "" {
					continue
				}
				count.scripts++
				runSpec(t, config, name, spectest, &count)
			}
			t.Log(count)
			total.add(count)
		})
	}
	t.Log("in all:", total)
}

func runSpec(t *testing.T, config wazero.RuntimeConfig, name string, spectest []byte, count *specCount) {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	var script specScript
	require.NoError(t, json.Unmarshal(b, &script))

	s := &storetest.Fake{}
	cold := newCache(t, s, nil)
	warmUp, err := cold.NewRuntime(bg, config)
	require.NoError(t, err)
	_, _ = warmUp.CompileModule(bg, spectest)
	read := func(file string) []byte {
		wasm, err := os.ReadFile(filepath.Join(filepath.Dir(name), file))
		require.NoError(t, err)
		return wasm
	}
	for _, c := range script.Commands {
		if strings.HasSuffix(c.Filename, ".wasm") {
			_, _ = warmUp.CompileModule(bg, read(c.Filename)) // many are invalid
		}
	}
	require.NoError(t, warmUp.Close(bg))
	require.NoError(t, cold.Close(bg))

	c := newCache(t, s, nil)
	plain, stubbed := newSpecRun(t, wazero.NewRuntimeWithConfig(bg, config), spectest), newSpecRun(t, newRuntime(t, c, config), spectest)
	defer plain.r.Close(bg)
	for i, c := range script.Commands {
		at := fmt.Sprintf("%s:%d %s %s", filepath.Base(name), c.Line, c.Type, c.Action.Field)
		switch c.Type {
		case "module", "assert_uninstantiable", "assert_unlinkable", "assert_invalid", "assert_malformed":
			if !strings.HasSuffix(c.Filename, ".wasm") {
				continue // in text
			}
			wasm, as := read(c.Filename), ""
			if i+1 < len(script.Commands) && script.Commands[i+1].Type == "register" {
				as = script.Commands[i+1].As
			}
			want, wantErr := plain.load(wasm, as, c)
			got, err := stubbed.load(wasm, as, c)
			require.Equal(t, cachetest.ErrorText(wantErr), cachetest.ErrorText(err), at)
			require.Equal(t, want, got, at)
			switch {
			case c.Type == "module":
				require.NoError(t, err, at)
				count.modules++
			case err != nil:
				count.refused++
			}
		case "register":
		default:
			want, wantErr := plain.act(c)
			got, err := stubbed.act(c)
			require.Equal(t, cachetest.ErrorText(wantErr), cachetest.ErrorText(err), at)
			if err == nil {
				requireSame(t, want, got, c.Expected, at)
			}
			if c.Type == "assert_return" || c.Type == "action" {
				require.NoError(t, err, at)
				requireExpected(t, got, c.Expected, at)
			} else {
				require.Error(t, err, at)
			}
			count.assertions++
		}
	}
	m := c.Metrics()
	require.Equal(t, m.CompileErrors, m.Compiles, "%s: a valid module was not loaded", name)
	count.stubbed += int(m.Stubbed)
	require.NoError(t, stubbed.r.Close(bg))
	require.NoError(t, c.Close(bg))
}

// specRun is one runtime in which a script runs.
type specRun struct {
	r      wazero.Runtime
	byName map[string]api.Module
	last   api.Module
}

func newSpecRun(t *testing.T, r wazero.Runtime, spectest []byte) *specRun {
	t.Helper()
	_, err := r.InstantiateWithConfig(bg, spectest, wazero.NewModuleConfig())
	require.NoError(t, err)
	return &specRun{r: r, byName: make(map[string]api.Module)}
}

// load instantiates a module and describes it.
func (s *specRun) load(wasm []byte, as string, c specCommand) (string, error) {
	compiled, err := s.r.CompileModule(bg, wasm)
	if err != nil {
		return "", err
	}
	mod, err := s.r.InstantiateModule(bg, compiled, wazero.NewModuleConfig().WithName(as))
	if err == nil && c.Type == "module" {
		s.last = mod
		if c.Name != "" {
			s.byName[c.Name] = mod
		}
	}
	return cachetest.Describe(compiled), err
}

// act does what a command says.
func (s *specRun) act(c specCommand) ([]uint64, error) {
	mod := s.last
	if c.Action.Module != "" {
		mod = s.byName[c.Action.Module]
	}
	switch c.Action.Type {
	case "invoke":
		return mod.ExportedFunction(c.Action.Field).Call(bg, packed(c.Action.Args)...)
	case "get":
		return []uint64{mod.ExportedGlobal(c.Action.Field).Get()}, nil
	}
	return nil, errors.New("unknown action " + c.Action.Type)
}

// specLane is a number, or the kind of not-a-number that will do.
type specLane struct {
	width int // in bits
	float bool
	bits  uint64
	nan   string // "nan:canonical" or "nan:arithmetic"
}

func (v specValue) lanes() []specLane {
	typ, texts := v.Type, []any{v.Value}
	if v.Type == "v128" {
		typ = v.LaneType
		texts, _ = v.Value.([]any)
	}
	width := map[string]int{"i8": 8, "i16": 16, "i32": 32, "f32": 32}[typ]
	if width == 0 {
		width = 64
	}
	var lanes []specLane
	for _, text := range texts {
		lane := specLane{width: width, float: typ[0] == 'f' && typ != "funcref"}
		s, _ := text.(string)
		switch {
		case strings.HasPrefix(s, "nan"):
			lane.nan = s
		case strings.HasPrefix(s, "-"):
			n, _ := strconv.ParseInt(s, 10, 64)
			lane.bits = uint64(n) & (math.MaxUint64 >> (64 - width))
		default:
			lane.bits, _ = strconv.ParseUint(s, 10, 64)
			if v.Type == "externref" && s != "" && s != "null" {
				lane.bits++ // wazero's null is 0
			}
		}
		lanes = append(lanes, lane)
	}
	return lanes
}

// packed returns values as wazero takes them: a vector is two numbers.
func packed(values []specValue) (out []uint64) {
	for _, v := range values {
		word, shift := uint64(0), 0
		for _, lane := range v.lanes() {
			word |= lane.bits << shift
			if shift += lane.width; shift == 64 || v.Type != "v128" {
				out = append(out, word)
				word, shift = 0, 0
			}
		}
	}
	return out
}

func (v specValue) isReference() bool { return strings.HasSuffix(v.Type, "ref") }

// requireSame compares the results of two runtimes bit for bit, but for
// references, which are addresses.
func requireSame(t *testing.T, want, got []uint64, types []specValue, at string) {
	t.Helper()
	require.Len(t, got, len(want), at)
	i := 0
	for _, v := range types {
		switch {
		case v.Type == "v128":
			i++
			require.Equal(t, want[i-1:i+1], got[i-1:i+1], at)
		case v.isReference() && v.Type != "externref":
			require.Equal(t, want[i] == 0, got[i] == 0, at)
		default:
			require.Equal(t, want[i], got[i], at)
		}
		i++
	}
}

// requireExpected compares results with what the script wants.
func requireExpected(t *testing.T, got []uint64, types []specValue, at string) {
	t.Helper()
	bit := 0
	for _, v := range types {
		if v.isReference() && v.Value == nil {
			bit += 64 // any
			continue
		}
		for _, lane := range v.lanes() {
			bits := got[bit/64] >> (bit % 64) & (math.MaxUint64 >> (64 - lane.width))
			if bit += lane.width; v.Type != "v128" {
				bit = (bit + 63) / 64 * 64
			}
			if lane.nan == "" {
				require.Equal(t, lane.bits, bits, at)
				continue
			}
			exponent, quiet, sign := uint64(0x7f800000), uint64(1<<22), uint64(1<<31)
			if lane.width == 64 {
				exponent, quiet, sign = 0x7ff0000000000000, 1<<51, 1<<63
			}
			require.Equal(t, exponent|quiet, bits&(exponent|quiet), at)
			if lane.nan == "nan:canonical" {
				require.Equal(t, exponent|quiet, bits&^sign, at)
			}
		}
	}
}
