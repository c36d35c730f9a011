package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMeasure builds the program with copies of all libraries, and measures one of them once on
// all sides.
func TestMeasure(t *testing.T) {
	tmp := t.TempDir()
	b := bench{tmp, filepath.Join(tmp, "embedders.exe")}
	require.NoError(t, build(t.Context(), tmp, b.program))
	e, err := find(embedders, "extism, 10 small plugins", func(e embedder) string { return e.name })
	require.NoError(t, err)
	rounds, err := b.measure(t.Context(), e, sides, 1)
	require.NoError(t, err)
	require.Len(t, rounds, len(sides))
	for i, side := range rounds {
		require.Len(t, side, 1)
		for _, v := range []float64{side[0].Open, side[0].Compile, side[0].Instantiate, side[0].Call(), side[0].Total} {
			require.Positive(t, v, sides[i].name)
		}
	}
	var out strings.Builder
	table(&out, e.name, sides, rounds)
	t.Logf("%s", out.String())
	require.Equal(t, len(sides), strings.Count(out.String(), "\n"))
}

// Each embedder reaches package swap, and returns what it should.
func TestEmbedders(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short tests: all embedders but one, for time")
	}
	tmp := t.TempDir()
	b := bench{tmp, filepath.Join(tmp, "embedders.exe")}
	require.NoError(t, build(t.Context(), tmp, b.program))
	for _, e := range embedders {
		t.Run(e.name, func(t *testing.T) {
			_, err := b.measure(t.Context(), e, sides[1:], 1)
			require.NoError(t, err)
		})
	}
}

func TestSwapRuntimes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.go")
	for from, want := range map[string]string{
		"package x\n\nimport wz \"" + wazeroPath + "\"\n\nvar a, b = wz.NewRuntime(c), wz.NewRuntimeWithConfig\n": "package x; import modcacheswap \"" + swapPath +
			"\"\n\nimport wz \"" + wazeroPath + "\"\n\nvar a, b = modcacheswap.NewRuntime(c), modcacheswap.NewRuntimeWithConfig\n" +
			"\nvar _ wz.Runtime // in case that nothing else needs the import\n",
		"package x\n\nimport \"" + wazeroPath + "\"\n\nvar a = wazero.NewRuntimeConfig()\n": "",
		"package x\n\nimport wazero \"other\"\n\nvar a = wazero.NewRuntime()\n":             "",
	} {
		require.NoError(t, os.WriteFile(file, []byte(from), 0o600))
		got, err := swapRuntimes(file)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// A ratio is the median of the rounds' ratios: a round in which everything is slow counts as any other.
func TestTableComparesPairs(t *testing.T) {
	var out strings.Builder
	two := []side{{name: directory}, {name: "ours"}}
	table(&out, "x", two, [][]started{
		{{Total: 10}, {Total: 1000}, {Total: 10}},
		{{Total: 5, PeakMB: 7}, {Total: 500}, {Total: 9}},
	})
	require.Equal(t, "| x | directory | 0.00 | 0.00 | 0.00 | 10.0 | 10.0 | 1.00 | 0.00 |\n"+
		"|  | ours | 0.00 | 0.00 | 0.00 | 9.00 | 9.00 | 0.50 | 0.00 |\n", out.String())
}
