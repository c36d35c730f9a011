package wasmbin

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// The tables know the opcodes that wazero knows, and no others. wazero's own
// list is in its source.
func TestOpcodesAreWazeros(t *testing.T) {
	dir, err := wasmtest.WazeroDir()
	if err != nil {
		t.Skipf("NOT TESTED: no source of wazero: %v", err)
	}
	source, err := os.ReadFile(filepath.Join(dir, "internal", "wasm", "instruction.go"))
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	got := map[string]map[int]bool{"Opcode": {}, "OpcodeMisc": {}, "OpcodeVec": {}, "OpcodeAtomic": {}}
	line := regexp.MustCompile(`(?m)^\s+(Opcode\w+)\s+(?:(Opcode\w*)\s+)?=\s+(0x[0-9a-f]+)`)
	for _, m := range line.FindAllStringSubmatch(string(source), -1) {
		if strings.HasPrefix(m[1], "OpcodeLegacy") {
			continue // known as what it refuses
		}
		kind := m[2]
		if kind == "" || kind == "OpcodeTailCall" {
			kind = "Opcode"
		}
		v, err := strconv.ParseInt(m[3], 0, 0)
		require.NoError(t, err)
		require.Contains(t, got, kind)
		got[kind][int(v)] = true
	}
	require.Greater(t, len(got["Opcode"]), 180)
	const throwRef = 0x0a
	if !got["Opcode"][throwRef] {
		t.Skip("NOT TESTED: this wazero knows less than the newest, which the tables follow")
	}
	require.Len(t, opcodes, 256)
	require.Len(t, vectorOpcodes, 256)
	for kind, table := range map[string]string{
		"Opcode": opcodes, "OpcodeMisc": miscOpcodes, "OpcodeVec": vectorOpcodes, "OpcodeAtomic": atomicOpcodes,
	} {
		for op := range 256 {
			known := op < len(table) && table[op] != unknown
			require.Equal(t, got[kind][op], known, "%s %#x", kind, op)
		}
	}
}
