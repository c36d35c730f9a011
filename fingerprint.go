package modcache

import (
	"encoding/hex"

	"github.com/zeebo/blake3"
)

// Fingerprint identifies a module: BLAKE3-256 of its bytes ([Sum]) or of its
// canonical encoding ([Canonical]). The zero value stands for "not known".
type Fingerprint [32]byte

// Sum returns the BLAKE3 hash of the module's bytes as they are.
func Sum(wasm []byte) Fingerprint { return blake3.Sum256(wasm) }

// String returns the fingerprint as 64 lowercase hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// ParseFingerprint is the inverse of [Fingerprint.String]. It accepts upper
// case too.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	err := parseHex32((*[32]byte)(&f), "fingerprint", s)
	return f, err
}

// MarshalText implements [encoding.TextMarshaler].
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (f *Fingerprint) UnmarshalText(text []byte) (err error) {
	*f, err = ParseFingerprint(string(text))
	return err
}

// Module is a WebAssembly binary together with its fingerprint, which is taken
// once: compile it as often as you like without hashing it again.
type Module struct {
	wasm []byte
	sum  Fingerprint
}

// NewModule takes the fingerprint of wasm and keeps the slice, not a copy: the
// bytes must not change for as long as the Module is in use. It does not check
// that they are a valid module; compiling does.
func NewModule(wasm []byte) *Module {
	return &Module{wasm: wasm, sum: Sum(wasm)}
}

// Bytes returns the slice given to NewModule. It must not be modified.
func (m *Module) Bytes() []byte { return m.wasm }

// Fingerprint returns [Sum] of the module's bytes.
func (m *Module) Fingerprint() Fingerprint { return m.sum }
