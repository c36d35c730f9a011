package wasmbin

import (
	"bytes"
	"context"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"
)

// mutants yields valid modules, half of them in another spelling, with up to
// three bits flipped.
func mutants(t *testing.T, r wazero.Runtime, rounds int) iter.Seq[[]byte] {
	var small [][]byte
	for _, m := range wholeCorpus(t) {
		if _, err := Canonical(m.wasm); err == nil && len(m.wasm) > 20 && len(m.wasm) < 2000 {
			if c, err := compile(r, m.wasm); err == nil {
				small = append(small, m.wasm)
				c.Close(context.Background())
			}
		}
	}
	if thorough() {
		rounds *= 100
	}
	rnd := rand.New(rand.NewPCG(uint64(rounds), 3))
	return func(yield func([]byte) bool) {
		for i := range rounds {
			wasm := bytes.Clone(small[rnd.IntN(len(small))])
			if i%2 == 0 {
				wasm = mangle(wasm, rnd.Uint64())
			}
			for range 1 + rnd.IntN(3) {
				at := len(header) + rnd.IntN(len(wasm)-len(header))
				wasm[at] ^= 1 << rnd.IntN(8)
			}
			if !inflated(wasm) && !yield(wasm) {
				return
			}
		}
	}
}

// wazero accepts or refuses a mutant and its canonical encoding alike.
func TestCanonicalMutants(t *testing.T) {
	r := decoder(t, allFeatures)
	valid, invalid := 0, 0
	for wasm := range mutants(t, r, 10_000) {
		canonical, err := Canonical(wasm)
		if err != nil {
			continue
		}
		c, cerr := compile(r, wasm)
		k, kerr := compile(r, canonical)
		require.Equal(t, cerr == nil, kerr == nil, "%x\n%v\n%v", wasm, cerr, kerr)
		if cerr != nil {
			invalid++
			continue
		}
		valid++
		require.Equal(t, describe(c, false), describe(k, false), "%x", wasm)
		c.Close(context.Background())
		k.Close(context.Background())
	}
	t.Logf("%d valid mutants, %d invalid ones", valid, invalid)
	require.Greater(t, valid, 100)
}

// What wazero refuses for something outside bodies has no stub that it accepts.
func TestStubMutants(t *testing.T) {
	r := decoder(t, allFeatures)
	valid, outside := 0, 0
	for wasm := range mutants(t, r, 10_000) {
		stub, err := Stub(wasm, []byte("tag"))
		c, cerr := compile(r, wasm)
		switch {
		case cerr == nil && err == nil:
			valid++
			s, err := compile(r, stub)
			require.NoError(t, err, "%x", wasm)
			require.Equal(t, describe(c, true), describe(s, true), "%x", wasm)
			s.Close(context.Background())
		case cerr != nil && err == nil && !inBody(cerr):
			outside++
			_, err = compile(r, stub)
			require.Error(t, err, "%x was refused: %v", wasm, cerr)
		}
		if cerr == nil {
			c.Close(context.Background())
		}
	}
	t.Logf("%d valid mutants, %d invalid ones outside their bodies", valid, outside)
	require.Greater(t, valid, 100)
}

// wazero makes the same native code of a valid mutant and of its canonical
// encoding.
func TestArtifactMutants(t *testing.T) {
	maker := newCodeMaker(t, false)
	compared := 0
	for wasm := range mutants(t, decoder(t, allFeatures), 150) {
		canonical, err := Canonical(wasm)
		if err != nil || bytes.Equal(canonical, wasm) {
			continue
		}
		if want := maker.artifact(wasm); want != nil {
			compared++
			require.Equal(t, want, maker.artifact(canonical), "%x", wasm)
		}
	}
	t.Logf("%d mutants", compared)
}
