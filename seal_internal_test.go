package modcache

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSealedCopyOfMoreThanIsBelieved: what is large and sound is used, and what isn't, is refused for the bit that is wrong.
func TestSealedCopyOfMoreThanIsBelieved(t *testing.T) {
	b := seal(Key{1}, "engine", bytes.Repeat([]byte{1, 2, 3}, 5*sealPiece))
	behind := func() *Artifact {
		return NewArtifactFrom(bytes.NewReader(b), int64(len(b)), Info{Engine: "engine"})
	}
	for _, believed := range []int64{0, sealPiece, maxCode} {
		a, err := sealedCopy(Key{1}, behind(), believed)
		require.NoError(t, err)
		got, err := a.Bytes()
		require.NoError(t, err)
		require.Equal(t, b, got)
		for _, at := range []int{0, sealPiece, len(b) - sealSize, len(b) - 1} {
			b[at] ^= 1
			_, err = sealedCopy(Key{1}, behind(), believed)
			require.ErrorIs(t, err, ErrCorrupt)
			b[at] ^= 1
		}
	}
}

// TestCacheStoresNothingThatItWouldRefuse: it would be written anew at each start.
func TestCacheStoresNothingThatItWouldRefuse(t *testing.T) {
	s := NewMemory(&MemoryOptions{MaxBytes: 1 << 40})
	var told []Event
	c, err := New(s, &Options{EngineID: "engine", OnEvent: func(e Event) { told = append(told, e) }})
	require.NoError(t, err)
	if c.unsupported != nil {
		t.Skip("NOT TESTED: what is stored:", c.unsupported)
	}
	const wasm = 100
	for more, want := range map[int]uint64{0: 1, 1: 0} {
		told = nil
		_, added, _ := c.put(Key{byte(more)}, make([]byte, int(mostCode(wasm))-sealSize+more), Info{WasmSize: wasm})
		<-added
		_, there := s.peek(Key{byte(more)})
		require.Equal(t, want == 1, there)
		require.Len(t, told, 1)
		if want == 0 {
			require.Equal(t, EventStoreFailed, told[0].Kind)
			require.ErrorIs(t, told[0].Err, ErrTooLarge)
		}
	}
	require.NoError(t, c.Close(t.Context()))
}
