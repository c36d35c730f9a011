package remote

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/modcache/modcache/internal/frame"
)

// KeyID names a key pair without revealing anything of it. It is in every entry
// that was signed with it.
type KeyID [16]byte

// String returns the id as 32 lowercase hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID is the inverse of [KeyID.String].
func ParseKeyID(s string) (KeyID, error) {
	var id KeyID
	if len(s) != hex.EncodedLen(len(id)) {
		return id, fmt.Errorf("modcache: key id %.60q has %d characters, want 32 hexadecimal digits", s, len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return KeyID{}, fmt.Errorf("modcache: key id %.60q: %w", s, err)
	}
	return id, nil
}

// PublicKey verifies what the owner of the private key has signed. The zero
// PublicKey verifies nothing. Keys can be compared with ==.
type PublicKey struct{ key [ed25519.PublicKeySize]byte }

// ID returns the key's id.
func (k PublicKey) ID() KeyID { return KeyID(k.auth().ID()) }

// String returns the key as one line of text, as [ParsePublicKey] reads it:
//
//	modcache-public-v1 <id> <base64 of the 32 bytes of an Ed25519 public key>
func (k PublicKey) String() string { return format(publicPrefix, k.ID(), k.key[:]) }

func (k PublicKey) auth() frame.Auth { return frame.NewVerifier(slices.Clone(k.key[:])) }

// PrivateKey signs entries. Whoever has it can run code in every process that
// trusts its public key. Make one with [GenerateKey] or [ParsePrivateKey].
type PrivateKey struct{ key ed25519.PrivateKey }

// GenerateKey makes a key pair.
func GenerateKey() (*PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("modcache: generate key: %w", err)
	}
	return &PrivateKey{key}, nil
}

// Public returns the half that may be known to everybody. That of the zero
// PrivateKey is the zero PublicKey.
func (k *PrivateKey) Public() PublicKey {
	if len(k.key) == 0 {
		return PublicKey{}
	}
	return PublicKey{[ed25519.PublicKeySize]byte(k.key.Public().(ed25519.PublicKey))}
}

// String returns the id of the key and not the key, so that it doesn't end up
// in logs; see [PrivateKey.Secret].
func (k *PrivateKey) String() string { return "modcache private key " + k.Public().ID().String() }

// GoString is like String.
func (k *PrivateKey) GoString() string { return k.String() }

// Secret returns the key as one line of text, as [ParsePrivateKey] reads it.
// Keep it in a file that nobody else can read:
//
//	modcache-private-v1 <id> <base64 of the 32 bytes of an Ed25519 seed>
func (k *PrivateKey) Secret() string {
	return format(privatePrefix, k.Public().ID(), k.key[:min(len(k.key), ed25519.SeedSize)])
}

const (
	publicPrefix  = "modcache-public-v1"
	privatePrefix = "modcache-private-v1"
	revokedPrefix = "revoked"
)

func format(prefix string, id KeyID, b []byte) string {
	return prefix + " " + id.String() + " " + base64.StdEncoding.EncodeToString(b)
}

// parse splits a line that format made, and returns its 32 bytes. Errors don't
// quote the line: it may hold a secret.
func parse(prefix, line string) (id KeyID, key []byte, err error) {
	f := strings.Fields(line)
	if len(f) < 3 || f[0] != prefix {
		return id, nil, fmt.Errorf("modcache: want %q, an id and base64 in one line", prefix)
	}
	if id, err = ParseKeyID(f[1]); err != nil {
		return id, nil, err
	}
	key, err = base64.StdEncoding.Strict().DecodeString(f[2])
	if err != nil || len(key) != 32 {
		return id, nil, fmt.Errorf("modcache: key %v is not the base64 of 32 bytes", id)
	}
	return id, key, nil
}

func checkID(want, got KeyID) error {
	if got != want {
		return fmt.Errorf("modcache: key %v says that it is %v: it was damaged", got, want)
	}
	return nil
}

// ParsePublicKey reads a line made by [PublicKey.String]. What follows the key
// is a comment.
func ParsePublicKey(line string) (PublicKey, error) {
	id, b, err := parse(publicPrefix, line)
	if err != nil {
		return PublicKey{}, err
	}
	k := PublicKey{[ed25519.PublicKeySize]byte(b)}
	return k, checkID(id, k.ID())
}

// ParsePrivateKey reads a line made by [PrivateKey.Secret]. What follows the key
// is a comment.
func ParsePrivateKey(line string) (*PrivateKey, error) {
	id, seed, err := parse(privatePrefix, line)
	if err != nil {
		return nil, err
	}
	k := &PrivateKey{ed25519.NewKeyFromSeed(seed)}
	if err := checkID(id, k.Public().ID()); err != nil {
		return nil, err
	}
	return k, nil
}

// Keyring says whose entries are used. To rotate a key, trust the new one
// everywhere, then sign with it, and drop the old one when its entries have
// aged out. To revoke a key, add its id to Revoked: it is refused from then on,
// whoever still lists it under Keys.
type Keyring struct {
	Keys    []PublicKey
	Revoked []KeyID
}

// ParseKeyring reads a file of public keys, one in a line as [PublicKey.String]
// writes it, and of lines "revoked <id>". Blank lines and what follows a # are skipped.
func ParseKeyring(text []byte) (Keyring, error) {
	var r Keyring
	sc := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(line)
		var err error
		switch {
		case len(f) == 0:
			continue
		case f[0] == revokedPrefix && len(f) >= 2:
			var id KeyID
			id, err = ParseKeyID(f[1])
			r.Revoked = append(r.Revoked, id)
		case f[0] == privatePrefix:
			err = errors.New("modcache: this is a private key")
		default:
			var k PublicKey
			k, err = ParsePublicKey(line)
			r.Keys = append(r.Keys, k)
		}
		if err != nil {
			return Keyring{}, fmt.Errorf("%w (line %d of the keyring)", err, n)
		}
	}
	if err := sc.Err(); err != nil {
		return Keyring{}, fmt.Errorf("modcache: keyring: %w", err)
	}
	return r, nil
}

// minSecret is the length of a shared secret below which it could be guessed.
const minSecret = 16

// auth returns what to seal with, if anything, and what to accept.
func (o *Options) auth() (signer *frame.Auth, trusted []frame.Auth, err error) {
	if len(o.Secret) > 0 {
		if o.Signer != nil || len(o.Keyring.Keys) > 0 {
			return nil, nil, errors.New("modcache: Options.Secret excludes Signer and Keyring: whoever knows a secret can also write")
		}
		if len(o.Secret) < minSecret {
			return nil, nil, fmt.Errorf("modcache: Options.Secret has %d bytes, want %d or more random ones", len(o.Secret), minSecret)
		}
		a := frame.NewKeyed(o.Secret)
		return &a, []frame.Auth{a}, nil
	}
	keys := slices.Clone(o.Keyring.Keys)
	if o.Signer != nil {
		if len(o.Signer.key) == 0 {
			return nil, nil, errors.New("modcache: Options.Signer is a zero PrivateKey")
		}
		if id := o.Signer.Public().ID(); slices.Contains(o.Keyring.Revoked, id) {
			return nil, nil, fmt.Errorf("modcache: Options.Signer is revoked: %v", id)
		}
		a := frame.NewSigner(o.Signer.key)
		signer = &a
		keys = append(keys, o.Signer.Public())
	}
	for _, k := range keys {
		if k == (PublicKey{}) {
			return nil, nil, errors.New("modcache: Options.Keyring holds a zero PublicKey")
		}
		if !slices.Contains(o.Keyring.Revoked, k.ID()) {
			trusted = append(trusted, k.auth())
		}
	}
	if len(trusted) == 0 {
		return nil, nil, errors.New("modcache: a remote store needs a key to verify with: set Options.Keyring, Signer or Secret")
	}
	return signer, trusted, nil
}
