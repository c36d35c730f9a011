package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/remote"
)

const minSecretSize = 16

// bundleFlags say how the entries of a bundle are sealed, and whose are taken.
type bundleFlags struct {
	secret  string // file
	sign    string // file; push
	keyring string // file; pull

	revoked []remote.KeyID // in the keyring
}

func (b *bundleFlags) registerPush(fs *flag.FlagSet) {
	fs.StringVar(&b.sign, "sign", "", "`file` with the private key to sign with; see modcache keygen")
	b.registerSecret(fs)
}

func (b *bundleFlags) registerPull(fs *flag.FlagSet) {
	fs.StringVar(&b.keyring, "keyring", "", "`file` of public keys: take only what one of them has signed")
	b.registerSecret(fs)
}

func (b *bundleFlags) registerSecret(fs *flag.FlagSet) {
	fs.StringVar(&b.secret, "bundle-key-file", "", "`file` with a secret of at least 16 bytes that seals the bundle, so that nobody without it can make or change one")
}

// options returns how to write a bundle's entries, and which to take.
func (b *bundleFlags) options() (*frame.Options, error) {
	o := &frame.Options{Compressor: frame.NewCompressor(), Compress: true}
	var err error
	switch {
	case b.secret != "" && b.sign != "":
		return nil, usagef("-sign and -bundle-key-file exclude each other: a bundle is sealed with one key")
	case b.secret != "" && b.keyring != "":
		return nil, usagef("-keyring and -bundle-key-file exclude each other: a bundle is sealed with one key")
	case b.secret != "":
		o.Auth, err = secretSeal(b.secret)
	case b.sign != "":
		o.Auth, err = signingSeal(b.sign)
	case b.keyring != "":
		o.Trusted, err = b.trusted()
	}
	return o, err
}

func secretSeal(file string) (frame.Auth, error) {
	secret, err := readSecret(file)
	if err != nil {
		return frame.Auth{}, err
	}
	if len(secret) < minSecretSize {
		return frame.Auth{}, fmt.Errorf("%s holds %d bytes; a secret needs at least %d random ones", file, len(secret), minSecretSize)
	}
	return frame.NewKeyed(secret), nil
}

func signingSeal(file string) (frame.Auth, error) {
	key, err := readKeyFile(file)
	if err != nil {
		return frame.Auth{}, err
	}
	seed, err := keyBytes(key.Secret())
	if err != nil {
		return frame.Auth{}, err
	}
	return frame.NewSigner(ed25519.NewKeyFromSeed(seed)), nil
}

func (b *bundleFlags) trusted() (trusted []frame.Auth, err error) {
	ring, err := readKeyring(b.keyring)
	if err != nil {
		return nil, err
	}
	b.revoked = ring.Revoked
	for _, k := range ring.Keys {
		if slices.Contains(ring.Revoked, k.ID()) {
			continue
		}
		public, err := keyBytes(k.String())
		if err != nil {
			return nil, err
		}
		trusted = append(trusted, frame.NewVerifier(public))
	}
	if len(trusted) == 0 { // which would mean a digest is enough
		return nil, fmt.Errorf("%s revokes all of its keys; add the public key of whoever signs now", b.keyring)
	}
	return trusted, nil
}

// keyBytes returns the 32 bytes in the line of text that a key is written as.
// docs/remote.md fixes that line.
func keyBytes(line string) ([]byte, error) {
	if f := strings.Fields(line); len(f) == 3 {
		if b, err := base64.StdEncoding.DecodeString(f[2]); err == nil && len(b) == ed25519.SeedSize {
			return b, nil
		}
	}
	return nil, errors.New("this key has another form than this version knows")
}

// sealLen is how much of an entry tells what seals it; see docs/format.md.
const sealLen = 144

// refusal is why an entry isn't taken that is sealed otherwise than asked for, and what
// to do.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == frame.ErrAuth }

// refuse judges an entry by its first bytes. What they say is a claim: nothing of it could be
// verified.
func (b *bundleFlags) refuse(head []byte) refusal {
	kind, id := frame.Kind(head[10]), remote.KeyID(head[128:sealLen])
	sealed := map[frame.Kind]string{frame.Checksum: "not signed", frame.Keyed: "sealed with a secret", frame.Ed25519: "signed with key " + id.String()}[kind]
	switch {
	case b.secret != "":
		return refusal(sealed + ", and not sealed with the secret in " + b.secret)
	case b.keyring == "" && kind == frame.Keyed:
		return refusal(sealed + ": give -bundle-key-file")
	case b.keyring == "":
		return refusal(sealed + ": give a -keyring with its public key")
	case kind != frame.Ed25519:
		return refusal(sealed + ", and -keyring takes signed entries only: push it again with -sign")
	case slices.Contains(b.revoked, id):
		return refusal(sealed + ", which " + b.keyring + " revokes: push it again, signed with a key that is trusted")
	}
	return refusal(sealed + ", which " + b.keyring + " doesn't list: add its public key if you trust its owner to run code here")
}
