package wasmbin

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// segment is an active data segment at a constant address.
type segment struct {
	address int32
	content string
}

// withData returns a module with a function, an exported memory of one page and
// data segments.
func withData(segments ...segment) []byte {
	content := uleb(nil, uint64(len(segments)))
	for _, s := range segments {
		content = sleb(append(content, 0, opI32Const), int64(s.address))
		content = uleb(append(content, opEnd), uint64(len(s.content)))
		content = append(content, s.content...)
	}
	section := uleb([]byte{data}, uint64(len(content)))
	return module(
		"\x01\x04\x01\x60\x00\x00", "\x03\x02\x01\x00", "\x05\x03\x01\x00\x01", "\x07\x05\x01\x01m\x02\x00",
		"\x0a\x04\x01\x02\x00\x0b", string(append(section, content...)), "\x00\x03\x01xy",
	)
}

// memoryOf returns the memory of a new instance.
func memoryOf(t testing.TB, r wazero.Runtime, wasm []byte) ([]byte, error) {
	m, err := r.Instantiate(context.Background(), wasm)
	if err != nil {
		return nil, err
	}
	defer m.Close(context.Background())
	b, ok := m.ExportedMemory("m").Read(0, page)
	require.True(t, ok)
	return append([]byte(nil), b...), nil
}

// segmentsIn returns how many data segments a module has.
func segmentsIn(t testing.TB, wasm []byte) uint32 {
	o, err := Scan(wasm)
	require.NoError(t, err)
	for _, s := range o.Sections {
		if s.ID == data {
			r := newReader(wasm, s.Body, s.End)
			n := r.u32()
			require.NoError(t, r.err)
			return n
		}
	}
	return 0
}

// TestStubData instantiates modules and their stubs.
func TestStubData(t *testing.T) {
	r := wazero.NewRuntimeWithConfig(context.Background(), wazero.NewRuntimeConfigInterpreter())
	defer r.Close(context.Background())
	rng := rand.New(rand.NewPCG(1, 2))
	merged, failed := 0, 0
	for range 3000 {
		var segments []segment
		at := rng.Int32N(300)
		for range 1 + rng.IntN(12) {
			content := strings.Repeat(string(rune('a'+rng.IntN(26))), rng.IntN(40)*rng.IntN(2))
			switch rng.IntN(12) {
			case 0: // somewhere else, perhaps over what is there already
				at = rng.Int32N(1200)
			case 1:
				at = page - rng.Int32N(60)
			case 2:
				at -= rng.Int32N(100)
			}
			segments = append(segments, segment{at, content})
			at += int32(len(content)) + rng.Int32N(maxGap+4)
		}
		wasm := withData(segments...)
		stub, err := Stub(wasm, nil)
		require.NoError(t, err)
		require.Equal(t, len(stub), cap(stub))
		want, wantErr := memoryOf(t, r, wasm)
		got, gotErr := memoryOf(t, r, stub)
		if wantErr != nil {
			failed++
			require.EqualError(t, gotErr, wantErr.Error(), "%v", segments)
			continue
		}
		require.NoError(t, gotErr)
		require.Equal(t, want, got, "%v", segments)
		if segmentsIn(t, stub) < segmentsIn(t, wasm) {
			merged++
		}
	}
	require.Greater(t, merged, 500)
	require.Greater(t, failed, 100)
}

func TestStubDataByHand(t *testing.T) {
	forty := strings.Repeat("x", 40)
	for name, c := range map[string]struct {
		segments []segment
		left     uint32
	}{
		"neighbours":                 {[]segment{{10, "ab"}, {12, "cd"}}, 1},
		"a gap":                      {[]segment{{10, forty}, {50 + maxGap, forty}}, 1},
		"a wide gap":                 {[]segment{{10, forty}, {51 + maxGap, forty}}, 2},
		"nothing but a gap":          {[]segment{{10, "ab"}, {12 + maxGap, "cd"}}, 2},
		"behind each other":          {[]segment{{100, "ab"}, {10, "cd"}, {20, "ef"}}, 2},
		"a gap with something in it": {[]segment{{15, "ab"}, {10, "cd"}, {20, "ef"}}, 3},
		"a gap under something":      {[]segment{{5, "abcdefghijklmnopqrstuvwxyz"}, {10, "cd"}, {20, "ef"}}, 3},
		"over something, no gap":     {[]segment{{5, "abcdefghijklmnopqrstuvwxyz"}, {10, "cd"}, {12, "ef"}}, 2},
		"one doesn't fit":            {[]segment{{10, "ab"}, {12, "cd"}, {page - 1, "ef"}}, 3},
		"a negative address":         {[]segment{{10, "ab"}, {12, "cd"}, {-2, "ef"}}, 3},
		"none":                       {nil, 0},
	} {
		stub, err := Stub(withData(c.segments...), nil)
		require.NoError(t, err)
		require.Equal(t, c.left, segmentsIn(t, stub), name)
	}

	// What keeps segments as they are.
	whole := string(withData(segment{10, "ab"}, segment{12, "cd"}))
	const (
		memory = "\x05\x03\x01\x00\x01"
		first  = "\x00\x41\x0a\x0b\x02ab"
	)
	require.Contains(t, whole, memory)
	require.Contains(t, whole, first)
	types, rest, _ := strings.Cut(whole, "\x03\x02\x01\x00")

	// wazero has no data from 2 GiB on, however large the memory is.
	const huge = "\x05\x05\x01\x00\x80\x80\x04"
	for left, s := range map[uint32][2]segment{
		1: {{1<<31 - 2, "a"}, {1<<31 - 1, "bcd"}},
		2: {{1<<31 - 1, "a"}, {-1 << 31, ""}},
	} {
		stub, err := Stub([]byte(strings.Replace(string(withData(s[:]...)), memory, huge, 1)), nil)
		require.NoError(t, err)
		require.Equal(t, left, segmentsIn(t, stub), s)
	}

	for name, wasm := range map[string]string{
		"imported memory":        types + "\x02\x08\x01\x01a\x01b\x02\x00\x01" + "\x03\x02\x01\x00" + strings.Replace(rest, memory, "", 1),
		"data count":             strings.Replace(whole, "\x0a\x04\x01\x02\x00\x0b", "\x0c\x01\x02\x0a\x04\x01\x02\x00\x0b", 1),
		"passive segment":        strings.Replace(strings.Replace(whole, first, "\x01\x02ab", 1), "\x0b\x0f\x02", "\x0b\x0c\x02", 1),
		"address in a global":    strings.Replace(whole, first, "\x00\x23\x0a\x0b\x02ab", 1),
		"memory of unknown kind": strings.Replace(whole, memory, "\x05\x03\x01\x04\x01", 1),
		"two memories":           strings.Replace(whole, memory, "\x05\x05\x02\x00\x01\x00\x01", 1),
	} {
		stub, err := Stub([]byte(wasm), nil)
		require.NoError(t, err, name)
		require.EqualValues(t, 2, segmentsIn(t, stub), name)
	}
}
