package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/remote"
)

var keygenCommand = command{
	name: "keygen", args: "file",
	short: "make a key that signs entries, for servers and bundles",
	long: `
Writes a new private key to a file that only its owner can read, and prints
the public key, which goes into the keyring of those who trust it. An existing
file is never overwritten. With -, the private key goes to standard output and
the public one to standard error. With -public, nothing is made: the public
key of the private key in the file, or from standard input, is printed.

Whoever has the private key can run code in every process that trusts it.`,
	make: func(fs *flag.FlagSet) action {
		public := fs.Bool("public", false, "print the public key of the private key in the file")
		comment := fs.String("comment", "", "a note behind the keys, such as who signs with them: `builder-2`")
		return func(ctx context.Context, s *streams, files []string) error {
			if len(files) != 1 {
				return usagef("name one file for the private key")
			}
			if printable(*comment) != *comment {
				return usagef("-comment is one line of what can be printed")
			}
			var key *remote.PrivateKey
			var err error
			out := s.out
			switch file := files[0]; {
			case *public && file == "-":
				var text []byte
				if text, err = io.ReadAll(io.LimitReader(s.in, maxText)); err == nil {
					key, err = parseKey("standard input", text)
				}
			case *public:
				key, err = readKeyFile(file)
			case file == "-":
				if key, err = remote.GenerateKey(); err == nil {
					fmt.Fprintln(s.out, withComment(key.Secret(), *comment))
					out = s.err
				}
			default:
				key, err = newKeyFile(ctx, s, file, *comment)
			}
			if err != nil {
				return err
			}
			fmt.Fprintln(out, withComment(key.Public().String(), *comment))
			return nil
		}
	},
}

func withComment(key, comment string) string {
	if comment == "" {
		return key
	}
	return key + " # " + comment
}

func newKeyFile(ctx context.Context, s *streams, file, comment string) (*remote.PrivateKey, error) {
	key, err := remote.GenerateKey()
	if err != nil {
		return nil, err
	}
	if err := s.interruption.begin(ctx); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists and stays as it is; name another file, or see -public", file)
	}
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(f, withComment(key.Secret(), comment))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(file))
	}
	return key, nil
}

// readKeyFile reads a private key, and refuses one that others can read too.
func readKeyFile(file string) (*remote.PrivateKey, error) {
	b, err := readText(file)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(file, b)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	others := fs.FileMode(0o077)
	if ofRoot(fi) { // who has let a group read it, as Kubernetes does with secrets
		others = 0o037
	}
	if perm := fi.Mode().Perm(); os.PathSeparator == '/' && perm&others != 0 {
		return nil, fmt.Errorf("%s can be read by others (%v); chmod 600 it, or set the mode of the secret that is mounted there, and make a new key if somebody may have read it", file, perm)
	}
	return key, nil
}

func parseKey(file string, text []byte) (*remote.PrivateKey, error) {
	key, err := remote.ParsePrivateKey(strings.TrimSpace(string(text)))
	if ring, notPublic := remote.ParseKeyring(text); notPublic == nil && len(ring.Keys) > 0 {
		return nil, fmt.Errorf("%s holds a public key, as it goes into keyrings: name the file with the private one", file)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s", file, plain(err))
	}
	return key, nil
}

// readKeyring reads a file of public keys, and refuses one without any.
func readKeyring(file string) (remote.Keyring, error) {
	text, err := readText(file)
	if err != nil {
		return remote.Keyring{}, err
	}
	ring, err := remote.ParseKeyring(text)
	if _, notPrivate := remote.ParsePrivateKey(strings.TrimSpace(string(text))); notPrivate == nil {
		return remote.Keyring{}, fmt.Errorf("%s: this is a private key: take its public one, which modcache keygen -public prints", file)
	}
	if err != nil {
		return remote.Keyring{}, fmt.Errorf("%s: %s", file, plain(err))
	}
	if len(ring.Keys) == 0 {
		return remote.Keyring{}, fmt.Errorf("%s holds no public key; modcache keygen prints one", file)
	}
	return ring, nil
}

// bundleFlags say how the entries of a bundle are sealed, and whose are taken.
type bundleFlags struct {
	secret  string // file
	sign    string // file; push
	keyring string // file; pull

	revoked []remote.KeyID // in the keyring
}

func (b *bundleFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&b.secret, "bundle-key-file", "", "a secret of at least 16 bytes, in a file such as `bundle.secret`, that seals the bundle, so that nobody without it can make or change one")
}

// options returns how to write a bundle's entries, and which to take.
func (b *bundleFlags) options() (*frame.Options, error) {
	o := &frame.Options{Compressor: frame.NewCompressor(), Compress: true}
	switch {
	case b.secret != "" && b.sign+b.keyring != "":
		return nil, usagef("-bundle-key-file excludes -sign and -keyring: a bundle is sealed with one key")
	case b.secret != "":
		secret, err := readSecret(b.secret)
		if err != nil {
			return nil, err
		}
		o.Auth = frame.NewKeyed(secret)
	case b.sign != "":
		key, err := readKeyFile(b.sign)
		if err != nil {
			return nil, err
		}
		seed, err := keyBytes(key.Secret())
		if err != nil {
			return nil, err
		}
		o.Auth = frame.NewSigner(ed25519.NewKeyFromSeed(seed))
	case b.keyring != "":
		var err error
		o.Trusted, err = b.trusted()
		return o, err
	}
	return o, nil
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
