package wasmbin

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero/api"
)

// Valid modules stay valid and look the same, invalid ones stay invalid, the
// canonical encoding of a canonical encoding is itself.
func TestCanonicalCorpus(t *testing.T) {
	for _, features := range []api.CoreFeatures{allFeatures, api.CoreFeaturesV2, api.CoreFeaturesV1} {
		r := decoder(t, features)
		var valid, invalid, unknown int
		for _, m := range sampledCorpus(t, 1) {
			c, cerr := compile(r, m.wasm)
			canonical, err := Canonical(m.wasm, nil)
			if err != nil {
				if cerr == nil {
					unknown++
					t.Logf("%s: %v", m.name, err)
				}
				continue
			}
			require.Equal(t, len(canonical), cap(canonical), m.name)
			again, err := Canonical(canonical, nil)
			require.NoError(t, err, m.name)
			require.Equal(t, canonical, again, m.name)
			var streamed bytes.Buffer
			require.NoError(t, WriteCanonical(&streamed, m.wasm, nil))
			require.Equal(t, canonical, streamed.Bytes(), m.name)

			k, kerr := compile(r, canonical)
			if cerr != nil {
				invalid++
				require.Error(t, kerr, "%s was refused: %v", m.name, cerr)
				continue
			}
			valid++
			require.NoError(t, kerr, m.name)
			require.Equal(t, describe(c, false), describe(k, false), m.name)
			c.Close(context.Background())
			k.Close(context.Background())
		}
		t.Logf("%v: %d valid modules, %d invalid ones; %d valid ones are not canonicalisable", features, valid, invalid, unknown)
		require.Less(t, unknown, 20)
	}
}

func stripped(t testing.TB, wasm []byte) []byte {
	var b bytes.Buffer
	require.NoError(t, WriteSections(&b, wasm))
	return b.Bytes()
}
