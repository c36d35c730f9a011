package wasmbin

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/modcache/modcache/internal/wasmtest"
)

// specCommand is one command of a script that wast2json has written.
type specCommand struct {
	Type, Name, Filename, As string
	Line                     int
	ModuleType               string `json:"module_type"`
	Action                   struct {
		Type, Field, Module string
		Args                []specValue
	}
	Expected []specValue
}

type specValue struct {
	Type  string
	Lane  string `json:"lane_type"`
	Value any
}

// bits returns a value as wazero passes it. It reports false for what isn't one
// value: some NaN, any reference.
func (v specValue) bits() (words []uint64, exact bool) {
	switch value := v.Value.(type) {
	case string:
		switch {
		case value == "null":
			return []uint64{0}, true
		case v.Type == "i32" || v.Type == "f32":
			n, ok := parseBits(value, 32)
			return []uint64{n}, ok
		}
		n, ok := parseBits(value, 64)
		if v.Type == "externref" {
			n++ // zero would be null
		}
		return []uint64{n}, ok
	case []any: // lanes of a vector
		words = make([]uint64, 2)
		width := 128 / len(value)
		for i, lane := range value {
			n, ok := parseBits(lane.(string), width)
			if !ok {
				return words, false
			}
			words[i*width/64] |= n << (i * width % 64)
		}
		return words, true
	}
	return []uint64{0}, v.Type == "funcref" && v.Value != nil
}

// parseBits reads a number, which may be negative, as so many bits.
func parseBits(s string, width int) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, width)
	if signed, signedErr := strconv.ParseInt(s, 10, width); signedErr == nil {
		n, err = uint64(signed)<<(64-width)>>(64-width), nil
	}
	return n, err == nil
}

// specScript runs a script and writes down what came of each command.
type specScript struct {
	t        *testing.T
	dir      string
	r        wazero.Runtime
	spell    func([]byte) []byte
	modules  map[string]api.Module
	last     api.Module
	outcomes []string
	checked  int // results that were compared with those the script expects
}

func (s *specScript) instantiate(file, name string) error {
	wasm, err := os.ReadFile(filepath.Join(s.dir, file))
	require.NoError(s.t, err)
	m, err := s.r.InstantiateWithConfig(context.Background(), s.spell(wasm), wazero.NewModuleConfig().WithName(name))
	if err == nil {
		s.last = m
	}
	return err
}

func (s *specScript) run(commands []specCommand) {
	for i, c := range commands {
		var outcome string
		switch {
		case c.Type == "module":
			name := ""
			if i+1 < len(commands) && commands[i+1].Type == "register" {
				name = commands[i+1].As
			}
			err := s.instantiate(c.Filename, name)
			if c.Name != "" {
				s.modules[c.Name] = s.last
			}
			outcome = cause(err)
		case c.Action.Type != "":
			outcome = s.action(c)
		case c.Filename != "" && c.ModuleType != "text":
			last := s.last
			outcome = fmt.Sprint("accepted: ", s.instantiate(c.Filename, "") == nil)
			s.last = last
		}
		s.outcomes = append(s.outcomes, fmt.Sprintf("line %d: %s: %s", c.Line, c.Type, outcome))
	}
}

func (s *specScript) action(c specCommand) string {
	m := s.last
	if c.Action.Module != "" {
		m = s.modules[c.Action.Module]
	}
	if m == nil {
		return "no module"
	}
	var results []uint64
	var err error
	if c.Action.Type == "get" {
		results = []uint64{m.ExportedGlobal(c.Action.Field).Get()}
	} else {
		var args []uint64
		for _, a := range c.Action.Args {
			words, _ := a.bits()
			args = append(args, words...)
		}
		results, err = m.ExportedFunction(c.Action.Field).Call(context.Background(), args...)
	}
	if c.Type == "assert_return" {
		require.NoError(s.t, err, "line %d", c.Line)
		at := 0
		for _, want := range c.Expected {
			words, exact := want.bits()
			if exact && !strings.HasSuffix(want.Type, "ref") {
				s.checked++
				got := slices.Clone(results[at : at+len(words)])
				if want.Type == "i32" || want.Type == "f32" {
					got[0] = uint64(uint32(got[0])) // the rest is left undefined
				}
				require.Equal(s.t, words, got, "line %d", c.Line)
			}
			at += len(words)
		}
		// References are addresses.
		if len(c.Expected) > 0 && strings.HasSuffix(c.Expected[0].Type, "ref") {
			return fmt.Sprint(len(results), " references")
		}
	} else if c.Type != "action" {
		require.Error(s.t, err, "line %d", c.Line)
	}
	return fmt.Sprint(results, cause(err))
}

// cause is an error without the stack trace, which has names.
func cause(err error) string {
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// The assertions of the specification's test suites hold for canonical
// encodings, and everything else comes out as it does for the modules as given.
func TestSpecification(t *testing.T) {
	dir, err := wasmtest.WazeroDir()
	if err != nil || !compilerSupported() {
		t.Skipf("NOT TESTED: no source of wazero, or no compiler: %v", err)
	}
	dir = filepath.Join(dir, "internal", "integration_test", "spectest")
	const all = api.CoreFeaturesV2 | wasmtest.TailCall
	for suite, features := range map[string]api.CoreFeatures{
		"v1":                        api.CoreFeaturesV1,
		"v2":                        api.CoreFeaturesV2,
		"threads":                   all | wasmtest.Threads,
		"tail-call":                 all,
		"extended-const":            all | wasmtest.ExtendedConst,
		"exception-handling":        all | wasmtest.ExceptionHandling | wasmtest.TypedFunctionReferences,
		"typed-function-references": all | wasmtest.TypedFunctionReferences,
	} {
		t.Run(suite, func(t *testing.T) {
			scripts, err := filepath.Glob(filepath.Join(dir, suite, "testdata", "*.json"))
			require.NoError(t, err)
			if len(scripts) == 0 {
				t.Skip("NOT TESTED: no scripts")
			}
			checked, outcomes := 0, 0
			for i, script := range scripts {
				if !thorough() && i%15 != 0 {
					continue
				}
				run := func(spell func([]byte) []byte) *specScript {
					return runScript(t, dir, script, features, spell)
				}
				want := run(func(wasm []byte) []byte { return wasm })
				got := run(func(wasm []byte) []byte {
					if canonical, err := Canonical(wasm); err == nil {
						return canonical
					}
					return wasm
				})
				require.Equal(t, want.outcomes, got.outcomes, script)
				checked += got.checked
				outcomes += len(got.outcomes)
			}
			t.Logf("%d outcomes compared, %d results as asserted", outcomes, checked)
		})
	}
}

func runScript(t *testing.T, dir, script string, features api.CoreFeatures, spell func([]byte) []byte) *specScript {
	ctx := context.Background()
	b, err := os.ReadFile(script)
	require.NoError(t, err)
	var file struct{ Commands []specCommand }
	require.NoError(t, json.Unmarshal(b, &file))
	s := &specScript{t: t, spell: spell, modules: map[string]api.Module{}}
	s.r = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithCoreFeatures(features))
	defer s.r.Close(ctx)
	s.dir = filepath.Join(dir, "testdata")
	require.NoError(t, s.instantiate("spectest.wasm", "spectest"))
	s.dir, s.last = filepath.Dir(script), nil
	s.run(file.Commands)
	return s
}
