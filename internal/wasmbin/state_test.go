package wasmbin

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// checkState reads a module that may be invalid, and writes its state in each way. Nothing may panic; and
// what is written of a module that wazero accepts, it accepts again, with the same functions. It
// reports whether the module was valid, and had a state.
func checkState(t *testing.T, r wazero.Runtime, wasm []byte) bool {
	t.Helper()
	_ = CheckCounts(wasm, nil)
	linkage, linkageErr := ScanLinkage(wasm)
	_, _ = ScanEffects(wasm)
	s, err := ReadState(wasm)
	if err == nil {
		require.NoError(t, linkageErr, "%x", wasm)
		require.Equal(t, linkage, s.Linkage)
	}
	c, cerr := compile(r, wasm)
	if cerr == nil {
		defer c.Close(context.Background())
	}
	if err != nil || s.Memory.Min > 16<<20 {
		return false // initial data may take as much
	}
	_, initialErr := s.Initial()
	snap := &Snapshot{MemorySize: s.Memory.Min}
	for _, g := range s.Globals {
		if g.Mutable {
			snap.Globals = append(snap.Globals, Value{Low: 1<<63 + 5, High: 7})
		}
	}
	if s.Memory.Min > 0 {
		snap.Memory = make([]byte, 1000)
		snap.Memory[3], snap.Memory[999] = 1, 2
	}
	again, err := s.Unmarshal(snap.Marshal())
	if cerr == nil || err == nil {
		require.NoError(t, err)
		require.Equal(t, snap.Globals, again.Globals)
		require.Equal(t, TrimZeros(snap.Memory), TrimZeros(again.Memory))
	}
	for _, write := range []func() ([]byte, error){
		func() ([]byte, error) { return s.Bare(nil) },
		func() ([]byte, error) { return s.Bare(snap) },
		func() ([]byte, error) { return s.Module(snap) },
	} {
		b, err := write()
		// Active segments that can't be written are refused by Initial.
		if cerr != nil || initialErr != nil || err != nil {
			continue
		}
		w, err := compile(r, b)
		require.NoError(t, err, "%x\n%x", wasm, b)
		require.Equal(t, exportsOnly(c), exportsOnly(w), "%x\n%x", wasm, b)
		require.NoError(t, w.Close(context.Background()))
	}
	return cerr == nil && initialErr == nil
}

func exportsOnly(c wazero.CompiledModule) []string { return sortedKeys(c.ExportedFunctions()) }

// TestStateOfRealModules and of mutants of them.
func TestStateOfRealModules(t *testing.T) {
	r := decoder(t, allFeatures)
	valid := 0
	for _, m := range sampledCorpus(t, 10) {
		if len(m.wasm) < 1<<20 && checkState(t, r, m.wasm) {
			valid++
		}
	}
	require.Greater(t, valid, 100)
	t.Logf("%d modules with a state", valid)
	valid = 0
	for wasm := range mutants(t, r, 5_000) {
		if checkState(t, r, wasm) {
			valid++
		}
	}
	require.Greater(t, valid, 100)
	t.Logf("%d mutants with a state", valid)
}

func FuzzState(f *testing.F) {
	for i, m := range wholeCorpus(f) {
		if i%40 == 0 && len(m.wasm) < 1000 {
			f.Add(m.wasm)
		}
	}
	r := decoder(f, allFeatures)
	f.Fuzz(func(t *testing.T, wasm []byte) {
		if !inflated(wasm) {
			checkState(t, r, wasm)
		}
	})
}

// snapshotState is that of a module with four pages, ten at most, and two mutable globals.
var snapshotState = &State{
	Linkage: Linkage{Memory: MemoryType{Defined: true, Min: 4 * page, Max: 10 * page}},
	Globals: []Global{{Mutable: true, Type: I32}, {Type: I64}, {Mutable: true, Type: V128}},
}

func someSnapshot() *Snapshot {
	s := &Snapshot{MemorySize: 5 * page, Globals: []Value{{Low: 1}, {Low: 2, High: 3}}, Memory: make([]byte, 4*page+77)}
	copy(s.Memory[100:], "some text")
	copy(s.Memory[3*page:], "and more")
	s.Memory[len(s.Memory)-1] = 9
	return s
}

// TestSnapshotBytes come back as they were, and nothing else is taken for a snapshot: no part of
// one, none of another module, none with spans that overlap or are out of bounds.
func TestSnapshotBytes(t *testing.T) {
	want := someSnapshot()
	b := want.Marshal()
	require.Less(t, len(b), 1000, "zeros take no room")
	got, err := snapshotState.Unmarshal(b)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for n := range b {
		_, err := snapshotState.Unmarshal(b[:n])
		require.ErrorIs(t, err, ErrSnapshot, "%d bytes", n)
	}
	_, err = snapshotState.Unmarshal(append(slices.Clone(b), 0))
	require.ErrorIs(t, err, ErrSnapshot)
	for _, other := range []*State{
		{}, {Linkage: snapshotState.Linkage}, {Globals: snapshotState.Globals},
		{Linkage: Linkage{Memory: MemoryType{Defined: true, Min: 6 * page, Max: 10 * page}}, Globals: snapshotState.Globals},
		{Linkage: Linkage{Memory: MemoryType{Defined: true, Min: page, Max: 4 * page}}, Globals: snapshotState.Globals},
	} {
		_, err := other.Unmarshal(b)
		require.ErrorIs(t, err, ErrSnapshot)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		damaged := slices.Clone(b)
		for range 1 + rnd.IntN(4) {
			damaged[rnd.IntN(len(damaged))] = byte(rnd.Uint32())
		}
		checkSnapshot(t, damaged)
	}
}

// checkSnapshot reads what may be no snapshot. What is taken for one fits the module.
func checkSnapshot(t *testing.T, b []byte) {
	t.Helper()
	s, err := snapshotState.Unmarshal(b)
	if err != nil {
		require.ErrorIs(t, err, ErrSnapshot)
		return
	}
	require.Len(t, s.Globals, 2)
	require.LessOrEqual(t, s.MemorySize, snapshotState.Memory.Max)
	require.GreaterOrEqual(t, s.MemorySize, snapshotState.Memory.Min)
	require.LessOrEqual(t, uint64(len(s.Memory)), s.MemorySize)
	again, err := snapshotState.Unmarshal(s.Marshal())
	require.NoError(t, err)
	require.True(t, bytes.Equal(TrimZeros(s.Memory), TrimZeros(again.Memory)))
}

func FuzzSnapshot(f *testing.F) {
	f.Add(someSnapshot().Marshal())
	f.Add((&Snapshot{MemorySize: 4 * page, Globals: make([]Value, 2)}).Marshal())
	f.Fuzz(checkSnapshot)
}

// TestScanEffectsStaysInside reads bodies that announce more than their section has.
func TestScanEffectsStaysInside(t *testing.T) {
	for _, size := range []string{"\x20", "\x03", "\xff\xff\xff\xff\x07", "\xff\xff\xff\xff\x0f"} {
		bodies := "\x02" + size + "\x00\x0b"
		_, err := ScanEffects([]byte("\x00asm\x01\x00\x00\x00\x0a" + string(rune(len(bodies))) + bodies))
		require.ErrorContains(t, err, "bytes left")
	}
	f, err := ScanEffects([]byte("\x00asm\x01\x00\x00\x00\x0a\x07\x01\x05\x00\xfc\x09\x00\x0b"))
	require.NoError(t, err)
	require.Equal(t, Effects{Drops: "data.drop"}, f)
}
