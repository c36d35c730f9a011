package frame

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWeakKeys forges a signature for each: of small order itself is what the signature begins with, and the rest of it is zero.
func TestWeakKeys(t *testing.T) {
	for _, y := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			key := ed25519.PublicKey(y)
			key[31] |= sign
			require.Error(t, CheckPublic(key), "%x", key)
			require.True(t, forgeable(key) || sign != 0, "%x", key) // x = 0 has no sign
		}
	}
	for range 3 {
		key, _, err := ed25519.GenerateKey(nil)
		require.NoError(t, err)
		require.NoError(t, CheckPublic(key))
		require.False(t, forgeable(key))
	}
	require.ErrorContains(t, CheckPublic(nil), "0 bytes")
	require.ErrorContains(t, CheckPublic(make([]byte, 32)), "never set")
	require.ErrorContains(t, CheckPublic([]byte(number(1, 0))), "anybody")
}

func forgeable(key ed25519.PublicKey) bool {
	for _, r := range smallOrder {
		sig := append([]byte(r), make([]byte, 32)...)
		for i := range uint64(100) {
			text := sha512.Sum512(binary.LittleEndian.AppendUint64(nil, i))
			if ed25519.Verify(key, text[:], sig) {
				return true
			}
		}
	}
	return false
}

// TestWeakKeysVerifyNothing, whoever was given them.
func TestWeakKeysVerifyNothing(t *testing.T) {
	key := make(ed25519.PublicKey, ed25519.PublicKeySize)
	a := NewVerifier(key)
	for i := range 100 {
		sum := []byte{byte(i)}
		tag := append([]byte(number(1, 0)), make([]byte, 32)...)
		if ed25519.Verify(key, append([]byte(signingContext), sum...), tag) {
			require.Error(t, a.accept(tag, sum))
			return
		}
	}
	t.Fatal("no forgery")
}
