package modcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/modcache/modcache/internal/bundle"
	"github.com/modcache/modcache/internal/contain"
)

// OpenBundle opens the bundle that fills the size bytes of r: a file of entries that
// modcache bundle or modcache push has written.
//
//	//go:embed plugins.bundle
//	var plugins string
//
//	store, err := modcache.OpenBundle(strings.NewReader(plugins), int64(len(plugins)), nil)
//
// It reads the index at the end of the bundle, and each Get its own entry. A string keeps the
// bundle in the binary's read-only data; as a []byte, it would be in what can be written to.
// In a bundle of a version that had no index, it reads what stands before each entry.
//
// A bundle that isn't one, or whose index is damaged, is an error. One may hold entries for any
// number of modules, platforms and builds of wazero.
//
// A whole program: examples/embedded.
func OpenBundle(r io.ReaderAt, size int64, o *FSOptions) (*FSStore, error) {
	v, err := o.validate("bundle")
	if err != nil {
		return nil, err
	}
	if r == nil || size < 0 {
		return nil, errors.New("modcache: OpenBundle needs a reader, and the number of its bytes")
	}
	b := &bundled{r: contain.ReaderAt{Src: r}}
	s := newFSStore(v, b)
	if b.spans, err = bundle.ReadIndex(b.r, size); err != nil {
		return nil, s.errorOf("open", Key{}, err)
	}
	for _, span := range b.spans {
		b.bytes += span.Len
	}
	return s, nil
}

// bundled has the entries of a bundle.
type bundled struct {
	r     contain.ReaderAt
	spans []bundle.Span // by key
	bytes int64
}

func (b *bundled) open(key Key) (fsFile, error) {
	i, ok := slices.BinarySearchFunc(b.spans, key, func(s bundle.Span, key Key) int { return bytes.Compare(s.Key[:], key[:]) })
	if !ok {
		return fsFile{}, fs.ErrNotExist
	}
	s := b.spans[i]
	return fsFile{ReaderAt: io.NewSectionReader(b.r, s.Off, s.Len), size: s.Len}, nil
}

func (b *bundled) keys(context.Context) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for _, s := range b.spans {
			if !yield(s.Key, nil) {
				return
			}
		}
	}
}

func (b *bundled) totals() (int, int64) { return len(b.spans), b.bytes }
