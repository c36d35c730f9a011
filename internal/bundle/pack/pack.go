// Package pack writes bundles; see package bundle.
package pack

import (
	"archive/tar"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/modcache/modcache/internal/bundle"
	"github.com/modcache/modcache/internal/layout"
)

// Writer writes a bundle. The same entries make the same bytes.
type Writer struct {
	t       *tar.Writer
	written counter
	spans   []bundle.Span
}

// counter counts what it passes on.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// NewWriter begins a bundle.
func NewWriter(w io.Writer) (*Writer, error) {
	b := &Writer{written: counter{w: w}}
	b.t = tar.NewWriter(&b.written)
	return b, b.add(bundle.Start, time.Time{}, []byte(bundle.StartText))
}

// Add appends an entry, whose key is greater than that of the one before.
func (b *Writer) Add(key [32]byte, created time.Time, entry []byte) error {
	if err := b.add(hex.EncodeToString(key[:])+layout.Suffix, created, entry); err != nil {
		return err
	}
	b.spans = append(b.spans, bundle.Span{Key: key, Off: b.written.n - int64(len(entry)), Len: int64(len(entry))})
	return nil
}

// Entries returns how many there are.
func (b *Writer) Entries() int { return len(b.spans) }

// Close ends the bundle.
func (b *Writer) Close() error {
	if err := bundle.Check(b.spans, b.written.n); err != nil {
		return fmt.Errorf("entries were added out of order, or twice: %w", err)
	}
	if err := b.add(bundle.End, time.Time{}, []byte(bundle.EndText(len(b.spans)))); err != nil {
		return err
	}
	if err := b.add(bundle.Index, time.Time{}, bundle.AppendIndex(nil, b.spans)); err != nil {
		return err
	}
	return b.t.Close()
}

func (b *Writer) add(name string, created time.Time, content []byte) error {
	err := b.t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: layout.FilePerm, Size: int64(len(content)), ModTime: created.Truncate(time.Second),
	})
	if err == nil {
		_, err = b.t.Write(content)
	}
	return err
}
