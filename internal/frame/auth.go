package frame

import (
	"bytes"
	"crypto/ed25519"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"
)

// Kind says how a header is sealed.
type Kind uint8

// Kinds of authentication.
const (
	Checksum Kind = iota // XXH3: finds damage, not tampering
	Keyed                // keyed BLAKE3: whoever can verify can also write
	Ed25519              // signature: verifying needs the public key only
)

func (k Kind) tagSize() int {
	if k == Ed25519 {
		return ed25519.SignatureSize
	}
	return k.digestSize()
}

func (k Kind) digestSize() int {
	if k == Checksum {
		return checksumSize
	}
	return digestSize
}

// appendDigest appends the digest of b. Where nothing keeps others from making
// digests of their own, a cryptographic one protects against no more than a
// checksum does, and takes ten times as long.
func (k Kind) appendDigest(dst, b []byte) []byte {
	if k == Checksum {
		sum := xxh3.Hash128(b).Bytes()
		return append(dst, sum[:]...)
	}
	sum := blake3.Sum256(b)
	return append(dst, sum[:]...)
}

// KeyID tells keys apart without revealing them.
type KeyID [16]byte

// Auth seals headers and verifies seals. The zero Auth is [Checksum]. What must stay secret is in
// functions, into which package fmt doesn't look: it would print the fields of whatever holds an Auth.
type Auth struct {
	kind   Kind
	id     KeyID
	secret func() [32]byte           // Keyed
	public ed25519.PublicKey         // Ed25519
	signer func() ed25519.PrivateKey // Ed25519; nil: verifies only
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
	var derived [32]byte
	blake3.DeriveKey(macContext, secret, derived[:])
	blake3.DeriveKey(keyIDContext, derived[:], a.id[:])
	a.secret = func() [32]byte { return derived }
	return a
}

// NewSigner returns the Auth that signs with key and verifies with its public half.
func NewSigner(key ed25519.PrivateKey) Auth {
	a := NewVerifier(key.Public().(ed25519.PublicKey))
	a.signer = func() ed25519.PrivateKey { return key }
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

// ForeignError is ErrForeign: what a frame was sealed with, and what is trusted.
type ForeignError struct {
	kind    Kind
	id      KeyID
	trusted []Auth
}

func (e *ForeignError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: it is %s; trusted is only what is ", ErrForeign, sealed(e.kind, e.id))
	const most = 8
	for i, a := range e.trusted {
		if i > 0 {
			b.WriteString(", or ")
		}
		if i == most {
			b.WriteString("by others")
			break
		}
		b.WriteString(sealed(a.kind, a.id))
	}
	return b.String()
}

// Unwrap returns ErrForeign.
func (e *ForeignError) Unwrap() error { return ErrForeign }

func sealed(k Kind, id KeyID) string {
	switch k {
	case Ed25519:
		return fmt.Sprintf("signed by key %x", id)
	case Keyed:
		return fmt.Sprintf("sealed with secret %x", id)
	}
	return "not sealed with a key"
}

// seal appends the tag of header to it.
func (a *Auth) seal(header []byte) ([]byte, error) {
	if a.kind != Ed25519 {
		return a.appendTag(header, header), nil
	}
	if a.signer == nil {
		return nil, errors.New("no private key to sign with")
	}
	return append(header, ed25519.Sign(a.signer(), a.message(header))...), nil
}

// verify checks the tag at the end of header.
func (a *Auth) verify(header []byte) error {
	end := len(header) - a.kind.tagSize()
	body, tag := header[:end], header[end:]
	if a.kind == Ed25519 {
		return a.accept(tag, a.kind.appendDigest(nil, body))
	}
	return a.accept(tag, a.appendTag(nil, body))
}

// verifyIn is verify for a header at the start of src, of which it holds little in memory.
func (a *Auth) verifyIn(src io.ReaderAt, headerLen int64) error {
	var h interface {
		io.Writer
		Sum([]byte) []byte
	} = blake3.New()
	switch a.kind {
	case Checksum:
		h = sum128{xxh3.New()}
	case Keyed:
		h = a.newMAC()
	}
	buf := make([]byte, prefixSize)
	for off, end := int64(0), headerLen-int64(a.kind.tagSize()); off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if err := readFull(src, buf, off); err != nil {
			return err
		}
		_, _ = h.Write(buf)
	}
	tag := make([]byte, a.kind.tagSize())
	if err := readFull(src, tag, headerLen-int64(len(tag))); err != nil {
		return err
	}
	return a.accept(tag, h.Sum(nil))
}

// sum128 has the Sum that a checksum is.
type sum128 struct{ *xxh3.Hasher }

func (s sum128) Sum(b []byte) []byte {
	sum := s.Sum128().Bytes()
	return append(b, sum[:]...)
}

// accept checks the tag of a header that has this sum.
func (a *Auth) accept(tag, sum []byte) error {
	switch a.kind {
	case Ed25519:
		if weak(a.public) || !ed25519.Verify(a.public, append([]byte(signingContext), sum...), tag) {
			return fmt.Errorf("%w: wrong signature", ErrAuth)
		}
	case Keyed:
		if subtle.ConstantTimeCompare(tag, sum) != 1 {
			return fmt.Errorf("%w: wrong tag", ErrAuth)
		}
	default:
		if !bytes.Equal(tag, sum) {
			return fmt.Errorf("%w: wrong checksum of the header", ErrCorrupt)
		}
	}
	return nil
}

// appendTag appends the tag of a header that isn't signed.
func (a *Auth) appendTag(dst, header []byte) []byte {
	if a.kind == Checksum {
		return a.kind.appendDigest(dst, header)
	}
	h := a.newMAC()
	_, _ = h.Write(header)
	return h.Sum(dst)
}

func (a *Auth) newMAC() *blake3.Hasher {
	secret := a.secret()
	h, err := blake3.NewKeyed(secret[:])
	if err != nil {
		panic(err) // the secret has the one length that is allowed
	}
	return h
}

func (a *Auth) message(header []byte) []byte {
	return a.kind.appendDigest([]byte(signingContext), header)
}
