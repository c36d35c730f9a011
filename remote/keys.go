package remote

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/modcache/modcache/internal/frame"
)

// KeyID names a key pair without revealing anything of it. It is in every entry
// that was signed with it.
type KeyID [16]byte

// String returns the id as 32 lowercase hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID is the inverse of [KeyID.String]. Errors don't quote the text: somebody may have
// put a secret there.
func ParseKeyID(s string) (KeyID, error) {
	var id KeyID
	if len(s) != hex.EncodedLen(len(id)) {
		return id, fmt.Errorf("modcache: a key id has 32 hexadecimal digits, not %d characters", len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return KeyID{}, errors.New("modcache: a key id has 32 hexadecimal digits, and nothing else")
	}
	return id, nil
}

// PublicKey verifies what the owner of the private key has signed. The zero
// PublicKey verifies nothing, and is an error where keys are trusted, as is one for which anybody can sign. Keys can be compared with ==.
type PublicKey struct{ key [ed25519.PublicKeySize]byte }

// ID returns the key's id.
func (k PublicKey) ID() KeyID { return KeyID(k.auth().ID()) }

// String returns the key as one line of text, as [ParsePublicKey] reads it:
//
//	modcache-public-v1 <id> <base64 of the 32 bytes of an Ed25519 public key>
func (k PublicKey) String() string { return format(publicPrefix, k.ID(), k.key[:]) }

// Ed25519 returns the key itself, as FSOptions.Signers of package modcache takes it.
func (k PublicKey) Ed25519() ed25519.PublicKey { return slices.Clone(k.key[:]) }

// check returns what is wrong with a key, before it is trusted.
func (k PublicKey) check() error {
	if err := frame.CheckPublic(k.key[:]); err != nil {
		return fmt.Errorf("modcache: public key %v: %w", k.ID(), err)
	}
	return nil
}

func (k PublicKey) auth() frame.Auth { return frame.NewVerifier(slices.Clone(k.key[:])) }

// PrivateKey signs entries. Whoever has it can run code in every process that
// trusts its public key. Make one with [GenerateKey] or [ParsePrivateKey].
type PrivateKey struct {
	// A function, into which package fmt doesn't look even where a PrivateKey is in a
	// field whose methods it can't call.
	key func() ed25519.PrivateKey
}

func newPrivateKey(key ed25519.PrivateKey) *PrivateKey {
	return &PrivateKey{func() ed25519.PrivateKey { return key }}
}

func (k *PrivateKey) zero() bool { return k.key == nil }

// GenerateKey makes a key pair.
func GenerateKey() (*PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("modcache: generate key: %w", err)
	}
	return newPrivateKey(key), nil
}

// Public returns the half that may be known to everybody. That of the zero
// PrivateKey is the zero PublicKey.
func (k *PrivateKey) Public() PublicKey {
	if k.zero() {
		return PublicKey{}
	}
	return PublicKey{[ed25519.PublicKeySize]byte(k.key().Public().(ed25519.PublicKey))}
}

// String returns the id of the key and not the key, so that it doesn't end up
// in logs; see [PrivateKey.Secret].
func (k PrivateKey) String() string { return "modcache private key " + k.Public().ID().String() }

// Format implements [fmt.Formatter] with String, for every verb.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText implements [encoding.TextMarshaler] with String.
func (k PrivateKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Secret returns the key as one line of text, as [ParsePrivateKey] reads it.
// Keep it in a file that nobody else can read:
//
//	modcache-private-v1 <id> <base64 of the 32 bytes of an Ed25519 seed>
func (k *PrivateKey) Secret() string {
	if k.zero() {
		return format(privatePrefix, k.Public().ID(), nil)
	}
	return format(privatePrefix, k.Public().ID(), k.key().Seed())
}

const (
	publicPrefix  = "modcache-public-v1"
	privatePrefix = "modcache-private-v1"
	revokedPrefix = "revoked"
)

func format(prefix string, id KeyID, b []byte) string {
	return prefix + " " + id.String() + " " + base64.StdEncoding.EncodeToString(b)
}

// fields splits a line at white space, without the comment behind a #. What an editor may
// show as two lines is an error, because the second would go unread.
func fields(line string) ([]string, error) {
	separates := func(r rune) bool { return unicode.IsControl(r) && r != '\t' || r == '\u2028' || r == '\u2029' }
	if strings.ContainsFunc(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), separates) {
		return nil, errors.New("modcache: there is a control character in the line of a key, such as a carriage return")
	}
	line, _, _ = strings.Cut(line, "#")
	return strings.Fields(line), nil
}

// parse splits a line that format made, and returns its 32 bytes. Errors don't
// quote the line: it may hold a secret.
func parse(prefix, line string) (id KeyID, key []byte, err error) {
	f, err := fields(line)
	if err != nil {
		return id, nil, err
	}
	if len(f) != 3 || f[0] != prefix {
		return id, nil, fmt.Errorf("modcache: want %q, an id and base64 in one line, and nothing else but a comment behind a #", prefix)
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

// ParsePublicKey reads a line made by [PublicKey.String]. What follows a #
// is a comment.
func ParsePublicKey(line string) (PublicKey, error) {
	id, b, err := parse(publicPrefix, line)
	if err != nil {
		return PublicKey{}, err
	}
	k := PublicKey{[ed25519.PublicKeySize]byte(b)}
	if err := checkID(id, k.ID()); err != nil {
		return PublicKey{}, err
	}
	if err := k.check(); err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

// ParsePrivateKey reads a line made by [PrivateKey.Secret]. What follows a #
// is a comment.
func ParsePrivateKey(line string) (*PrivateKey, error) {
	id, b, err := parse(privatePrefix, line)
	if err != nil {
		return nil, err
	}
	k := newPrivateKey(ed25519.NewKeyFromSeed(b))
	if err := checkID(id, k.Public().ID()); err != nil {
		return nil, err
	}
	return k, nil
}

// Keyring says whose entries are used. To rotate a key, trust the new one
// everywhere, then sign with it, and drop the old one when its entries have
// aged out. To revoke a key, add its id to Revoked: it is refused from then on,
// whoever still lists it under Keys. What a node fetched before is in its directory, under the directory's own seal, and goes on
// being used: delete the directories, too. A [Store] whose keyring revokes all of its keys has nothing but misses, and says so once, in an
// EventDegraded; but a Signer that is revoked is an error.
type Keyring struct {
	Keys    []PublicKey
	Revoked []KeyID
}

// ParseKeyring reads a file of public keys, one in a line as [PublicKey.String]
// writes it, and of lines "revoked <id>". Blank lines and what follows a # are skipped;
// anything else is an error, which names the line. A file without a key makes a Keyring
// that trusts nobody, and not the zero one.
func ParseKeyring(text []byte) (Keyring, error) {
	r := Keyring{Keys: []PublicKey{}}
	for i, line := range strings.Split(string(text), "\n") {
		if err := r.parse(line); err != nil {
			return Keyring{}, fmt.Errorf("%w (line %d of the keyring)", err, i+1)
		}
	}
	return r, nil
}

func (r *Keyring) parse(line string) error {
	f, err := fields(line)
	switch {
	case err != nil || len(f) == 0:
		return err
	case f[0] == privatePrefix:
		return errors.New("modcache: this is a private key")
	case f[0] != revokedPrefix:
		k, err := ParsePublicKey(line)
		r.Keys = append(r.Keys, k)
		return err
	case len(f) != 2:
		return fmt.Errorf("modcache: want %q and an id in one line, and nothing else but a comment behind a #", revokedPrefix)
	}
	id, err := ParseKeyID(f[1])
	r.Revoked = append(r.Revoked, id)
	return err
}

// trusted returns the keys that aren't revoked.
func (r *Keyring) trusted() (trusted []frame.Auth, err error) {
	for _, k := range r.Keys {
		if err := k.check(); err != nil {
			return nil, err
		}
		if !slices.Contains(r.Revoked, k.ID()) {
			trusted = append(trusted, k.auth())
		}
	}
	return trusted, nil
}

// minSecret is the length of a shared secret below which it could be guessed.
const minSecret = 16

// auth returns what to seal with, if anything, and what to accept, which is nothing where the Keyring revokes all of its keys.
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
		if o.Signer.zero() {
			return nil, nil, errors.New("modcache: Options.Signer is a zero PrivateKey")
		}
		if id := o.Signer.Public().ID(); slices.Contains(o.Keyring.Revoked, id) {
			return nil, nil, fmt.Errorf("modcache: Options.Signer is revoked: %v", id)
		}
		a := frame.NewSigner(o.Signer.key())
		signer = &a
		keys = append(keys, o.Signer.Public())
	}
	ring := Keyring{keys, o.Keyring.Revoked}
	if trusted, err = ring.trusted(); err != nil {
		return nil, nil, err
	}
	if len(trusted) == 0 && len(o.Keyring.Keys) == 0 { // where all are revoked, there is nothing to read
		return nil, nil, errors.New("modcache: a remote store needs a key to verify with: set Options.Keyring, Signer or Secret")
	}
	return signer, trusted, nil
}
