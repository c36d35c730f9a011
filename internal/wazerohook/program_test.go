package wazerohook

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadProgram(t *testing.T) {
	sum := func() (string, error) { return "0123", nil }
	fork := &debug.Module{Path: "example.com/wazero", Version: "v0.1.0", Sum: "h1:fork="}
	for _, c := range []struct {
		name                       string
		info                       *debug.BuildInfo
		identity, format, required string
	}{
		{"module", program(wazeroDep("v1.12.0", "h1:abc=", nil)), wazeroPath + "@v1.12.0 h1:abc=", "v1.12.0", "v1.12.0"},
		{"fork", program(wazeroDep("v1.12.0", "", fork)), "example.com/wazero@v0.1.0 h1:fork=", "v1.12.0", "v1.12.0"},
		{"directory", program(wazeroDep("v1.12.0", "", &debug.Module{Path: "../wazero"})), "executable 0123", "v1.12.0", "v1.12.0"},
		{"workspace", program(wazeroDep("(devel)", "", nil)), "executable 0123", "dev", "(devel)"},
		{"wazero's own command", &debug.BuildInfo{Main: debug.Module{Path: wazeroPath, Version: "v1.11.0", Sum: "h1:x="}}, wazeroPath + "@v1.11.0 h1:x=", "v1.11.0", "v1.11.0"},
	} {
		p, err := ProgramOf(c.info, sum)
		require.NoError(t, err, c.name)
		require.Equal(t, Program{Identity: c.identity, Format: c.format, Required: c.required}, p, c.name)
	}
	_, err := ProgramOf(program(), sum)
	require.ErrorIs(t, err, ErrNoWazero)
}

// TestReadProgramIsRight compares what is predicted of a program with what it finds itself.
func TestReadProgramIsRight(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	if _, err := Probe(); err != nil {
		t.Skip(err)
	}
	bin := filepath.Join(t.TempDir(), "program.exe")
	out, err := exec.Command("go", "build", "-o", bin, "./testdata/program").CombinedOutput()
	require.NoError(t, err, string(out))

	p, err := ReadProgram(bin)
	require.NoError(t, err)
	require.NotEmpty(t, p.GOOS)
	out, err = exec.Command(bin).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, p.Identity+"|"+p.Format, string(out))

	_, err = ReadProgram("program.go")
	require.ErrorContains(t, err, "not an executable that Go built")
	_, err = ReadProgram(bin + ".none")
	require.ErrorIs(t, err, os.ErrNotExist)
}
