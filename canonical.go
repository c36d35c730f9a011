package modcache

import (
	"fmt"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/zeebo/blake3"
)

// Canonicalize returns the canonical encoding of a module: without custom
// sections, without sections that have no entries, with each integer in as few
// bytes as possible and with neighbouring declarations of locals of one type
// merged. Builds of one program that differ in nothing else have the same
// canonical encoding, and wazero makes the same native code of all of them and
// of the encoding itself, which is a valid module if the original is one.
//
// The result is a new slice. Canonicalizing it again returns the same bytes.
//
// It is an error if the module is malformed, uses instructions or sections that
// aren't known here, or is spelled in a way that wazero reads otherwise than the
// specification has it. Bodies are not type-checked: an invalid module may have
// a canonical encoding, which is then invalid as well.
//
// The encoding has no names and no DWARF. Stack traces want the original, and
// source lines want native code made of the original: DWARF refers to positions
// in the module.
func Canonicalize(wasm []byte) ([]byte, error) {
	b, err := wasmbin.Canonical(wasm, nil)
	if err != nil {
		return nil, fmt.Errorf("modcache: no canonical encoding: %w", err)
	}
	return b, nil
}

// Canonical returns the BLAKE3 hash of the module's canonical encoding, as
// [Sum] of what [Canonicalize] returns, but without building it in memory. It
// fails for the same modules; take [Sum] for these.
func Canonical(wasm []byte) (Fingerprint, error) {
	h := blake3.New()
	if err := wasmbin.WriteCanonical(h, wasm, nil); err != nil {
		return Fingerprint{}, fmt.Errorf("modcache: no canonical encoding: %w", err)
	}
	var f Fingerprint
	h.Sum(f[:0])
	return f, nil
}
