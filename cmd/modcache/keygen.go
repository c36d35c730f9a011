package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/modcache/modcache/remote"
)

var keygenCommand = command{
	name: "keygen", args: "file",
	short: "make a key that signs entries, for servers and bundles",
	long: `
Writes a new private key to a file that only its owner can read, and prints
the public key, which goes into the keyring of those who trust it. An existing
file is never overwritten. With -public, nothing is made: the public key of
the private key in the file is printed.

Whoever has the private key can run code in every process that trusts it.`,
	make: func(fs *flag.FlagSet) action {
		public := fs.Bool("public", false, "print the public key of the private key in the file")
		comment := fs.String("comment", "", "a `note` behind the keys, such as who signs with them")
		return func(_ context.Context, s *streams, files []string) error {
			if len(files) != 1 {
				return usagef("name one file for the private key")
			}
			if strings.ContainsAny(*comment, "\r\n") {
				return usagef("-comment is one line")
			}
			read := newKeyFile
			if *public {
				read = func(file, _ string) (*remote.PrivateKey, error) { return readKeyFile(file) }
			}
			key, err := read(files[0], *comment)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.out, strings.TrimSpace(key.Public().String()+" "+*comment))
			return err
		}
	},
}

func newKeyFile(file, comment string) (*remote.PrivateKey, error) {
	key, err := remote.GenerateKey()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists and stays as it is; name another file, or see -public", file)
	}
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(f, strings.TrimSpace(key.Secret()+" "+comment))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(file))
	}
	return key, nil
}

// readKeyFile reads a private key, and refuses one that others can read too.
func readKeyFile(file string) (*remote.PrivateKey, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if perm := fi.Mode().Perm(); os.PathSeparator == '/' && perm&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (%v); chmod 600 it, and make a new key if somebody may have read it", file, perm)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := remote.ParsePrivateKey(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// readKeyring reads a file of public keys, and refuses one without any.
func readKeyring(file string) (remote.Keyring, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return remote.Keyring{}, err
	}
	ring, err := remote.ParseKeyring(text)
	if err != nil {
		return remote.Keyring{}, fmt.Errorf("%s: %w", file, err)
	}
	if len(ring.Keys) == 0 {
		return remote.Keyring{}, fmt.Errorf("%s holds no public key; modcache keygen prints one", file)
	}
	return ring, nil
}
