package main

import (
	"context"
	"errors"
	"go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/bench/internal/report"
	"github.com/modcache/modcache/bench/modules"
)

// TestMain lets the tests' binary be a child, as the program's is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childFlag {
		os.Exit(childMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// small is a module of a function that returns 42.
var small = []byte("\x00asm\x01\x00\x00\x00" + "\x01\x05\x01\x60\x00\x01\x7f" + "\x03\x02\x01\x00" +
	"\x07\x05\x01\x01f\x00\x00" + "\x0a\x06\x01\x04\x00\x41\x2a\x0b")

func testBench(t *testing.T) *bench {
	file := filepath.Join(t.TempDir(), "small.wasm")
	require.NoError(t, os.WriteFile(file, small, 0o600))
	return &bench{true, true, t.TempDir(), func() ([]modules.Module, error) {
		m, err := modules.Open(file)
		return []modules.Module{m}, err
	}}
}

// TestPartsWithProcesses runs the parts that start processes, on a tiny module.
func TestPartsWithProcesses(t *testing.T) {
	for _, p := range []part{warmStart, firstCall, plugins, instances, herd, repeat, request} {
		t.Run(p.name, func(t *testing.T) {
			result := testBench(t).measure(t.Context(), p)
			require.Empty(t, result.Error)
			require.True(t, result.Charted())
			for _, c := range result.Cases {
				require.NotNil(t, c.Row(c.Reference), "%s has its reference", c.Name)
				require.NotNil(t, c.Best(report.Ours))
				for _, r := range c.Rows {
					require.NotEmpty(t, r.Samples, r.Side)
					for _, v := range r.Samples {
						require.Positive(t, v, r.Side)
					}
				}
			}
		})
	}
}

// TestHerdCounts has one compile of modcache's for a herd.
func TestHerdCounts(t *testing.T) {
	cases, err := herd.run(t.Context(), testBench(t))
	require.NoError(t, err)
	for _, r := range cases[0].Rows {
		if r.Role == report.Ours {
			require.Equal(t, "compiles", r.Figures[0].Name)
			require.EqualValues(t, 1, r.Figures[0].Value, r.Side)
		}
	}
}

// TestFailingPart has parts that fail in every way, none of which stops a run.
func TestFailingPart(t *testing.T) {
	kept := []report.Case{{Name: "kept", Rows: []report.Row{{Side: "a", Samples: []float64{1}}}}, {Name: "half", Rows: []report.Row{{Side: "b"}}}}
	for want, run := range map[string]func(context.Context, *bench) ([]report.Case, error){
		"broken":               func(context.Context, *bench) ([]report.Case, error) { return kept, errors.New("broken") },
		"panic: oops":          func(context.Context, *bench) ([]report.Case, error) { panic("oops") },
		"nothing was measured": func(context.Context, *bench) ([]report.Case, error) { return nil, nil },
		"unsupported value": func(context.Context, *bench) ([]report.Case, error) {
			return []report.Case{{Rows: []report.Row{{Samples: []float64{math.Inf(1)}}}}}, nil
		},
		"in a process of its own": func(ctx context.Context, _ *bench) ([]report.Case, error) {
			_, _, err := child[started](ctx, "start", start{File: "no such file"})
			return nil, err
		},
	} {
		result := testBench(t).measure(t.Context(), part{name: "x", run: run})
		require.Contains(t, result.Error, want)
		if want == "broken" {
			require.Len(t, result.Cases, 1, "what is complete")
		}
	}
}

func TestChoose(t *testing.T) {
	all, err := choose("")
	require.NoError(t, err)
	require.Len(t, all, len(parts))
	some, err := choose("herd,disk")
	require.NoError(t, err)
	require.Equal(t, "disk", some[1].name)
	_, err = choose("herd,dsik")
	require.ErrorContains(t, err, `no part "dsik"`)
}

func TestWriteAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	empty, err := load(dir)
	require.NoError(t, err)
	require.Empty(t, empty.Parts)
	r := report.Report{Parts: []report.Part{{Name: "herd", Title: "Herd", Cases: []report.Case{{Name: "c", Chart: true, Rows: []report.Row{{Side: "s", Samples: []float64{1}}}}}}}}
	require.NoError(t, write(dir, r))
	back, err := load(dir)
	require.NoError(t, err)
	require.Equal(t, r, back)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, []string{"README.md", "herd-dark.svg", "herd.svg", "results.json", "summary.md"}, names)

	require.NoError(t, os.WriteFile(filepath.Join(dir, resultsFile), []byte("{"), 0o600))
	_, err = load(dir)
	require.ErrorContains(t, err, "earlier run")
}

func TestTurn(t *testing.T) {
	require.Equal(t, []int{0, 1, 2}, turn(0, 3))
	require.Equal(t, []int{2, 0, 1}, turn(5, 3))
}

func TestInitTrace(t *testing.T) {
	figures, err := sumInits("init internal/bytealg @0.005 ms, 0 ms clock, 0 bytes, 0 allocs\n" +
		"something else\ninit errors @0.9 ms, 0.25 ms clock, 100 bytes, 3 allocs\ninit a/b.c @1 ms, 0.5 ms clock, 20 bytes, 1 allocs\n")
	require.NoError(t, err)
	require.Equal(t, []report.Figure{{Name: "init, ms", Value: 0.75}, {Name: "init, bytes", Value: 120}, {Name: "init, allocs", Value: 4}}, figures)
	_, err = sumInits("")
	require.Error(t, err)
}

func TestProgramsAreGo(t *testing.T) {
	for _, p := range programs {
		_, err := parser.ParseFile(token.NewFileSet(), "main.go", p.source(), 0)
		require.NoError(t, err, p.source())
		require.NotContains(t, p.source(), "\"_", "blank imports are outside the quotes")
		require.True(t, strings.Count(p.source(), "import") >= len(p.imports))
	}
}
