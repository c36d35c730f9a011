package frame_test

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
)

// TestFrameIsAsItWas has the frames of version 1, which every program on every machine
// must read and write alike.
func TestFrameIsAsItWas(t *testing.T) {
	defer func(name string) { meta.Name = name }(meta.Name)
	meta.Name = ""
	for name, want := range map[string]string{
		"digest":  "9cd712a78da01363b71283c70725f0ac63ad41ea7102b4e36386c3701f3bbf6e",
		"keyed":   "ab2b89f7f3ef9759d9fa4dc57eb19a42de8386ae630df0628604afd833ab9412",
		"ed25519": "c014f7d808306a0cc907369b4b13eb01aedcc96899491cda3b51152efdde8a99",
	} {
		b := encode(t, code(3*chunkSize+100), kinds[name])
		sum := sha256.Sum256(b)
		require.Equal(t, want, hex.EncodeToString(sum[:]), name)
	}
}

// TestFrameChecksum has the canonical form that XXH3's reference has for no bytes.
func TestFrameChecksum(t *testing.T) {
	sum := xxh3.Hash128(nil).Bytes()
	require.Equal(t, "99aa06d3014798d86001c324468d497f", hex.EncodeToString(sum[:]))
}
