package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bundle"
	"github.com/modcache/modcache/internal/frame"
)

var bundleCommand = command{
	name: "bundle", args: "module-directory-or-bundle...",
	short: "compile modules into one file, which a program can embed",
	long: `
Compiles modules and writes their machine code to one file, which programs
open with modcache.OpenBundle, embedded or beside them:

    //go:generate go tool modcache bundle -o plugins.bundle -program . plugins
    //go:embed plugins.bundle

What modcache warm -h says of wazero, platform and settings holds here too.
-program takes the directory of a package as well, which need not build yet.

The same modules, with the same wazero, on the same kind of machine, make the
same bytes: neither times nor durations are in them.

For several platforms, run it on each, and merge: of bundles among the
arguments, all entries are taken over. -append takes over what the file of -o
holds already. Entries of modules that have changed stay in it then: now and
then, begin anew. A program that is built for each platform can also embed one
file for each, by the names of its Go files.

With -compress, a bundle is about a quarter as large, and loads two to three
times slower: of sqlite3, 2.1 MB instead of 7.8, and 25 ms instead of 10.`,
	make: func(fs *flag.FlagSet) action {
		b := &bundler{}
		b.engineFlags.register(fs)
		b.configFlags.register(fs)
		b.seal.register(fs)
		fs.StringVar(&b.seal.sign, "sign", "", "the private key to sign with, in a file such as `signing.key`; see modcache keygen")
		fs.StringVar(&b.file, "o", "", "the file to write, such as `plugins.bundle`, which appears when it is complete; - is standard output")
		fs.BoolVar(&b.extend, "append", false, "keep what the file of -o holds")
		fs.BoolVar(&b.compress, "compress", false, "compress the entries")
		fs.BoolVar(&b.dropIn, "drop-in", false, "for programs that use Cache.CompilationCache or Attach, not NewRuntime")
		fs.IntVar(&b.jobs, "jobs", 0, "how many modules to compile at once, such as `4`; 0 = one per CPU")
		return b.run
	},
}

type bundler struct {
	warmer
	seal   bundleFlags
	file   string
	extend bool
	push   pusher
}

func (b *bundler) run(ctx context.Context, s *streams, operands []string) error {
	said := s
	switch {
	case b.file == "":
		return usagef("name the file to write with -o")
	case isURL(b.file):
		return errOutputURL
	case b.file == "-" && b.extend:
		return usagef("-append keeps what a file holds: name it with -o")
	case b.file == "-" && s.outIsTerminal:
		return usagef("a bundle is nothing to read on a terminal; name a file with -o, or redirect the output")
	case b.file == "-":
		apart := *s
		apart.out = s.err
		said = &apart
	}
	switch {
	case len(operands) == 0:
		return usagef("name modules, directories of modules, or bundles")
	}
	var err error
	if b.push.frame, err = b.seal.options(); err != nil {
		return err
	}
	b.push.frame.Compress = b.compress
	b.compress, b.workers = false, 1 // of what is compiled; bytes may depend on the number of workers

	var bundles, sources []string
	for _, name := range operands {
		is, err := isBundle(name)
		if err != nil {
			return err
		}
		if is {
			bundles = append(bundles, name)
		} else {
			sources = append(sources, name)
		}
	}
	if b.extend {
		if fi, err := os.Stat(b.file); err == nil && fi.Mode().IsRegular() {
			bundles = append(bundles, b.file)
		} else if err == nil {
			return usagef("-append keeps what a file holds, and %s isn't a regular one", b.file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(sources) > 0 {
		if err := s.interruption.begin(ctx); err != nil {
			return err
		}
		dir, err := os.MkdirTemp("", "modcache-bundle-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		err = b.compile(ctx, said, dir, sources)
		if b.disk != nil { // before the directory is removed
			defer b.disk.Close()
		}
		if err != nil {
			return err
		}
	}
	for _, name := range bundles {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := b.merge(ctx, name, f); err != nil {
			return err
		}
	}
	return output(ctx, s, b.file, func(w io.Writer) error {
		err := b.push.push(ctx, w, s)
		var left foundError
		if errors.As(err, &left) { // a bundle with less than was asked for is none
			err = errors.New(string(left))
		}
		return err
	})
}

// compile compiles modules into a directory.
func (b *bundler) compile(ctx context.Context, s *streams, dir string, sources []string) error {
	files, err := b.prepare(ctx, sources)
	if err != nil {
		return err
	}
	disk, err := modcache.OpenDisk(dir, &modcache.DiskOptions{MaxBytes: -1, MaxAge: -1, MinFree: -1, OnEvent: b.push.trouble.observe})
	if err != nil {
		return err
	}
	b.disk = &keeper{Disk: disk}
	// Of several spellings of a module, it is always the first that is compiled.
	first, others := firstSpellings(ctx, files)
	done := append(b.all(ctx, s, first), b.all(ctx, s, others)...)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.outcome(s, done); err != nil {
		return err
	}
	for e, err := range b.disk.Walk(ctx) {
		if err != nil {
			return err
		}
		e.Info.CompileTime, e.Info.Created = 0, time.Time{}
		b.push.entries = append(b.push.entries, outgoing{e.Key, e.Info, b.disk})
	}
	return nil
}

// firstSpellings tells the first file of each module from those that say the same in other ways.
func firstSpellings(ctx context.Context, files []string) (first, others []string) {
	seen := make(map[modcache.Fingerprint]bool)
	for _, file := range files {
		wasm, err := readModule(ctx, file)
		if err == nil {
			if sum, err := modcache.Canonical(wasm); err == nil && seen[sum] {
				others = append(others, file)
				continue
			} else if err == nil {
				seen[sum] = true
			}
		}
		first = append(first, file) // whatever is wrong with it shows when it is compiled
	}
	return first, others
}

// merge takes over the entries of another bundle that there aren't yet.
func (b *bundler) merge(ctx context.Context, name string, f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	o := &modcache.FSOptions{Name: name, OnEvent: b.push.trouble.observe}
	if o.Key, err = readSecret(b.seal.secret); err != nil {
		return err
	}
	if b.seal.sign != "" {
		key, err := readKeyFile(b.seal.sign)
		if err != nil {
			return err
		}
		o.Signers = []ed25519.PublicKey{key.Public().Ed25519()}
	}
	store, err := modcache.OpenBundle(f, fi.Size(), o)
	if err != nil {
		return err
	}
	var added []modcache.DiskEntry
	for e, err := range store.Walk(ctx) {
		switch {
		case err != nil:
			return err
		case e.Err != nil:
			return fmt.Errorf("%s, %s  %s; it has to be sealed or signed as the new one", name, e.Key, troubleText(e.Err))
		}
		added = append(added, e)
	}
	coded := codes(added)
	for _, e := range added {
		i := slices.IndexFunc(b.push.entries, func(p outgoing) bool { return p.key == e.Key })
		if i < 0 {
			b.push.entries = append(b.push.entries, outgoing{e.Key, e.Info, store})
			continue
		}
		if isAlias(e.Info) && !coded[codeOf(e.Info)] {
			continue
		}
		if there := b.push.entries[i].info; frame.GivesWay(there.Module, there.WasmSize, e.Info.Module, e.Info.WasmSize) {
			b.push.entries[i] = outgoing{e.Key, e.Info, store}
		}
	}
	return nil
}

// isBundle tells a bundle from what else a name may stand for.
func isBundle(name string) (bool, error) {
	fi, err := os.Stat(name)
	if err != nil || !fi.Mode().IsRegular() {
		return false, err
	}
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	start := make([]byte, len(bundle.Start)+1)
	_, err = io.ReadFull(f, start)
	return err == nil && bytes.Equal(start, []byte(bundle.Start+"\x00")), nil
}
