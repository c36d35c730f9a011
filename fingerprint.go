package modcache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/modcache/modcache/internal/wasmbin"
	"github.com/zeebo/blake3"
)

// Fingerprint identifies a module: BLAKE3-256 of its bytes ([Sum]) or of its
// canonical encoding ([Canonical]). The zero value stands for "not known".
type Fingerprint [32]byte

// Sum returns the BLAKE3 hash of the module's bytes as they are.
func Sum(wasm []byte) Fingerprint { return hashed(wasm) }

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
	name string // "" if none was given
}

var errNoModule = errors.New("modcache: the Module is nil; NewModule makes one")

// NewModule takes the fingerprint of wasm and keeps the slice, not a copy: the
// bytes must not change for as long as the Module is in use. It does not check
// that they are a valid module; compiling does.
func NewModule(wasm []byte) *Module {
	return &Module{wasm: wasm, sum: Sum(wasm)}
}

// Named returns the same module under a name for people, such as that of its file. Events, logs, errors
// and listings show it; which code is found doesn't depend on it. What can't be printed is replaced by
// question marks, and no more than 100 bytes are kept. The original stays as it is.
func (m *Module) Named(name string) *Module {
	named := *m
	named.name = shortName(name)
	return &named
}

// Name returns the name that was given to the module, or else the one that its name section has, in the
// form that [Module.Named] describes; "" if there is neither. Several modules may have the same.
func (m *Module) Name() string {
	if m.name == "" {
		return ownName(m.wasm)
	}
	return m.name
}

// ownName returns what a module calls itself.
func ownName(wasm []byte) string { return shortName(wasmbin.ModuleName(wasm)) }

const maxShownName = 100

// shortName returns a name that does no harm in a log or on a terminal: a guest may have chosen it.
func shortName[T string | []byte](name T) string {
	s := strings.ToValidUTF8(string(name[:min(len(name), utf8.UTFMax*maxShownName)]), "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) <= maxShownName {
		return s
	}
	n := maxShownName
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Bytes returns the slice given to NewModule. It must not be modified.
func (m *Module) Bytes() []byte { return m.wasm }

// Fingerprint returns [Sum] of the module's bytes.
func (m *Module) Fingerprint() Fingerprint { return m.sum }

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
	b, err := wasmbin.Canonical(wasm)
	if err != nil {
		return nil, fmt.Errorf("modcache: no canonical encoding: %w", err)
	}
	return b, nil
}

// Canonical returns the BLAKE3 hash of the module's canonical encoding, as
// [Sum] of what [Canonicalize] returns, but without building it in memory. It
// fails for the same modules; take [Sum] for these.
func Canonical(wasm []byte) (Fingerprint, error) {
	h := newHash()
	defer hashers.Put(h)
	if err := wasmbin.WriteCanonical(h, wasm); err != nil {
		return Fingerprint{}, fmt.Errorf("modcache: no canonical encoding: %w", err)
	}
	var f Fingerprint
	h.Sum(f[:0])
	return f, nil
}

// hashers are for BLAKE3. One has 10 kB, for which the stack of each goroutine that had one on it would have to grow.
var hashers = sync.Pool{New: func() any { return blake3.New() }}

// newHash returns one of hashers, to which it goes back.
func newHash() *blake3.Hasher {
	h := hashers.Get().(*blake3.Hasher)
	h.Reset()
	return h
}

// hashed returns the BLAKE3 hash of parts, one after the other.
func hashed(parts ...[]byte) (sum [32]byte) {
	h := newHash()
	defer hashers.Put(h)
	for _, part := range parts {
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}
