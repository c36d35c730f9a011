package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/modcache/modcache/internal/bytesize"
)

// This file is about what the command line has us read as a whole. Such a name may stand for anything, such as a
// device that never ends.

const (
	// maxText is far more than keys, keyrings, secrets, certificates and tokens have.
	maxText = 1 << 20
	// maxModule is far more than modules have that anybody compiles: the Go compiler has 49 MB.
	maxModule = 1 << 30
)

// readText is os.ReadFile for a file of keys or the like.
func readText(name string) ([]byte, error) { return readUpTo(name, maxText, nil) }

var errNotModule = errors.New("not a WebAssembly module")

// readModule returns the module in a file, until ctx ends: it may be a pipe.
func readModule(ctx context.Context, name string) ([]byte, error) {
	return unlessInterrupted(ctx, func() ([]byte, error) { return readUpTo(name, maxModule, []byte("\x00asm")) })
}

// readUpTo reads a file that has to be a module if there is a magic that it has to begin with, and must not hold more
// bytes than most.
func readUpTo(name string, most int64, magic []byte) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	if _, err := io.CopyN(&b, f, int64(len(magic))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(b.Bytes(), magic) {
		return nil, fmt.Errorf("%s: %w", name, errNotModule)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() <= most {
		b.Grow(int(fi.Size()) + bytes.MinRead)
		if _, err := b.ReadFrom(io.LimitReader(f, most+1-int64(b.Len()))); err != nil {
			return nil, err
		}
	}
	if max(fi.Size(), int64(b.Len())) > most {
		return nil, fmt.Errorf("%s holds more than %s: is it what was meant?", name, bytesize.Format(most))
	}
	return b.Bytes(), nil
}
