package frame

import (
	"crypto/ed25519"
	"crypto/subtle"
	"fmt"

	"github.com/zeebo/blake3"
)

// Kind says how a header is sealed.
type Kind uint8

// Kinds of authentication.
const (
	Digest  Kind = iota // BLAKE3: finds damage, not tampering
	Keyed               // keyed BLAKE3: whoever can verify can also write
	Ed25519             // signature: verifying needs the public key only
)

func (k Kind) tagSize() int {
	if k == Ed25519 {
		return ed25519.SignatureSize
	}
	return digestSize
}

// KeyID tells keys apart without revealing them.
type KeyID [16]byte

// Auth seals headers and verifies seals. The zero Auth is [Digest].
type Auth struct {
	kind   Kind
	id     KeyID
	secret [32]byte           // Keyed
	public ed25519.PublicKey  // Ed25519
	signer ed25519.PrivateKey // Ed25519; nil: verifies only
}

// Contexts of key derivation. The domain separates the header from whatever
// else a secret is used for.
const (
	macContext     = "modcache 2026-11-20 frame header MAC key"
	keyIDContext   = "modcache 2026-11-20 frame key id"
	signingContext = "modcache frame header v1\x00"
)

// NewKeyed returns the Auth of a shared secret of any length.
func NewKeyed(secret []byte) Auth {
	a := Auth{kind: Keyed}
	blake3.DeriveKey(macContext, secret, a.secret[:])
	blake3.DeriveKey(keyIDContext, a.secret[:], a.id[:])
	return a
}

// NewSigner returns the Auth that signs with key and verifies with its public half.
func NewSigner(key ed25519.PrivateKey) Auth {
	a := NewVerifier(key.Public().(ed25519.PublicKey))
	a.signer = key
	return a
}

// NewVerifier returns the Auth that accepts what the owner of key has signed.
// It can't write frames.
func NewVerifier(key ed25519.PublicKey) Auth {
	a := Auth{kind: Ed25519, public: key}
	blake3.DeriveKey(keyIDContext, key, a.id[:])
	return a
}

// ID returns the id of the key, which is in every frame that it seals.
func (a Auth) ID() KeyID { return a.id }

// seal appends the tag of header to it.
func (a *Auth) seal(header []byte) ([]byte, error) {
	switch a.kind {
	case Ed25519:
		if a.signer == nil {
			return nil, fmt.Errorf("no private key to sign with")
		}
		return append(header, ed25519.Sign(a.signer, a.message(header))...), nil
	default:
		tag := a.tag(header)
		return append(header, tag[:]...), nil
	}
}

// verify checks the tag at the end of header, whose kind and key id were parsed
// but not trusted.
func (a *Auth) verify(header []byte, kind Kind, id KeyID) error {
	if kind != a.kind || id != a.id {
		return foreign(kind, id)
	}
	body, tag := header[:len(header)-kind.tagSize()], header[len(header)-kind.tagSize():]
	switch a.kind {
	case Ed25519:
		if !ed25519.Verify(a.public, a.message(body), tag) {
			return fmt.Errorf("%w: wrong signature", ErrAuth)
		}
	case Keyed:
		if want := a.tag(body); subtle.ConstantTimeCompare(tag, want[:]) != 1 {
			return fmt.Errorf("%w: wrong tag", ErrAuth)
		}
	default:
		if want := a.tag(body); string(tag) != string(want[:]) {
			return fmt.Errorf("%w: wrong header digest", ErrCorrupt)
		}
	}
	return nil
}

func foreign(kind Kind, id KeyID) error {
	return fmt.Errorf("%w: %w (kind %d, id %x)", ErrAuth, ErrForeign, kind, id)
}

func (a *Auth) tag(header []byte) (tag [digestSize]byte) {
	if a.kind == Digest {
		return digestOf(header)
	}
	h, err := blake3.NewKeyed(a.secret[:])
	if err != nil {
		panic(err) // the secret has the one length that is allowed
	}
	_, _ = h.Write(header)
	h.Sum(tag[:0])
	return tag
}

func (a *Auth) message(header []byte) []byte {
	sum := digestOf(header)
	return append([]byte(signingContext), sum[:]...)
}
