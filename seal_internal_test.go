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
